"""The text forms of a Zeek log: lines of TSV or JSON to columns.

Only what conn.log needs of them, as places of cells in a block of bytes: `zeek_kernel` finds them, `zeek_cells` reads them,
and no object is made of a connection. A line of JSON that the kernel's scanner does not understand goes through msgspec, and
comes back as the text of its cells behind the block.

TSV takes its conventions (separator, mark of an unset field, names) from the header, which may come again in the middle of a
file when logs were concatenated; JSON may be flat ("id.orig_h") or nested ({"id": {...}}), with unset fields left out or
null. `zeek_conns` makes connections of the columns.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray

from sensor.sources.columns import Columns, unescape
from sensor.sources.lines import Damages
from sensor.sources.zeek_cells import Cells
from sensor.sources.zeek_kernel import (
    IGNORED,
    KEY_RECORD,
    PATH,
    PORT_RECORD,
    WANTS_NUMBER,
    WANTS_TEXT,
    WANTS_TIME,
    WANTS_WHOLE,
    scan_json,
    split_tsv,
)

NEEDED = ("ts", "id.orig_h", "id.orig_p", "id.resp_h", "id.resp_p", "proto")
"""Without these a log is no conn.log."""
OURS = "conn_state"
"""No other log of Zeek's has this column."""
USED = (
    *NEEDED, "uid", "duration", "orig_bytes", "resp_bytes", "conn_state", "orig_pkts", "orig_ip_bytes", "resp_pkts",
    "resp_ip_bytes", "ip_proto", "label", "detailedlabel", "detailed-label",
)  # fmt: skip
"""Columns that are read, of the many that scripts may add ("detailed-label" is IoT-23's spelling)."""

UNUSED = ("service", "local_orig", "local_resp", "missed_bytes", "history", "tunnel_parents", "_write_ts", "_system_name")
"""What else Zeek and Corelight write of a connection: known by name, a key is passed over faster."""
_SLOTS = {name: slot for slot, name in enumerate(USED)}
_TEXTS = ("uid", "id.orig_h", "id.resp_h", "proto", "conn_state", "label", "detailedlabel", "detailed-label")
_WANTS = tuple(
    WANTS_TEXT if name in _TEXTS else {"ts": WANTS_TIME, "duration": WANTS_NUMBER}.get(name, WANTS_WHOLE) for name in USED
)
STAND_IN = b"\x1f"
"""For a separator of several signs: not printable, so Zeek writes it as an escape wherever it is no separator."""
MOST_KEYS = 64
"""Keys of a JSON line that the scanner reads; a longer line is msgspec's."""

Blocks = Iterable[tuple[int, bytes]]
"""Whole lines with the number of the first one."""
Tables = Iterator[tuple[Columns, NDArray[np.int64]]]
"""Columns with each row's line number."""


def text_of(cell: bytes | str | None) -> str:
    """A cell as text: escapes undone, bytes that are no UTF-8 shown as \\xHH, a missing one empty."""
    if cell is None:
        return ""
    return unescape(cell).decode("utf-8", "backslashreplace") if isinstance(cell, bytes) else cell


class Header:
    """The conventions of a TSV log, as its header lines set them one after the other."""

    def __init__(self) -> None:
        self.separator = b"\t"
        self.unset = b"-"
        self.path: str | None = None
        self.fields: list[str] = []
        self.inner = 1
        """Names in the last column: IoT-23's logs have label columns separated by blanks in the column before."""

    def take(self, line: bytes) -> None:
        """Read one line that begins with #."""
        if line.startswith(b"#separator"):
            self.separator = unescape(line.partition(b" ")[2]) or b"\t"
            return
        name, *values = line.split(self.separator)
        if name == b"#unset_field":
            self.unset = unescape(self.separator.join(values))
        elif name == b"#path":
            self.path = text_of(self.separator.join(values))
        elif name == b"#fields" and values:
            last = values[-1].split()
            self.inner = len(last)
            self.fields = [text_of(value) for value in (*values[:-1], *last)]

    def refusal(self, *, named: bool = True) -> str | None:
        """Why lines under this header are no connections, or None.

        A site may write some connections to a log of another name, beside conn.log or in its place (Zeek's filters). Whoever
        names such a log means it; found in a folder it might be half of the connections a second time.
        """
        if not self.fields:
            return "its header has no #fields line"
        if self.path not in (None, "conn"):
            if OURS not in self.fields:
                return f"it is a {self.path}.log"
            if not named:
                return f"it is a {self.path}.log, which may repeat what a conn.log has: name the file to read it"
        lacking = [name for name in NEEDED if name not in self.fields]
        return f"it has no column {', '.join(lacking)}" if lacking else None


def read_tsv(blocks: Blocks, path: str, damages: Damages, header: Header | None = None) -> Tables:
    """Columns of each run of lines between headers. A `header` that was met before holds until another comes."""
    header = header or Header()
    for first, whole in blocks:
        block = whole if first > 1 else whole.removeprefix(BOM_UTF8)
        number, start, marked = first, 0, b"#" in block
        while start < len(block):
            if block.startswith(b"#", start):
                end = block.find(b"\n", start)
                end = len(block) if end < 0 else end
                header.take(block[start:end])
            else:
                end = block.find(b"\n#", start) if marked else -1
                end = len(block) if end < 0 else end
                yield from _run(header, block[start:end], number, path, damages)
            number += block.count(b"\n", start, end) + 1
            start = end + 1


def _run(header: Header, text: bytes, first: int, path: str, damages: Damages) -> Tables:
    """Split lines that share a header; lines of another width are damage, empty ones are nothing."""
    lines = text.count(b"\n") + 1
    if refusal := header.refusal():
        for place, line in enumerate(text.split(b"\n"), first):
            if line:
                damages.add("header", path, place, f"not a connection: {refusal}")
        return
    separator = header.separator
    if len(separator) > 1:
        text, separator = text.replace(separator, STAND_IN), STAND_IN
    most = min(lines, len(text) // len(header.fields) + 1) + 1  # a row has a sign for each column; one more is tried
    begins, ends = np.full((len(USED), most), -1, np.int32), np.empty((len(USED), most), np.int32)
    numbers, faults = np.empty(most, np.int64), np.empty((lines, 2), np.int64)
    slots = np.array([_SLOTS.get(name, -1) for name in header.fields], np.int64)
    unset = np.frombuffer(header.unset, np.uint8)
    data = np.frombuffer(text, np.uint8)
    rows, wrong = split_tsv(data, 0, len(data), separator[0], unset, slots, header.inner, begins, ends, numbers, faults)
    for line, columns in faults[:wrong].tolist():
        damages.add("columns", path, first + line, f"{columns} columns where the header names {len(slots)}")
    if rows:
        present = set(header.fields) & set(USED)
        yield Cells(text, begins[:, :rows], ends[:, :rows], USED, _WANTS, present, header.unset), numbers[:rows] + first


class _Port(msgspec.Struct):
    """A port as Zeek's to_json() has it, with its protocol."""

    port: int | None = None


def _number_of(port: int | _Port | None) -> int | None:
    return port.port if isinstance(port, _Port) else port


class _Id(msgspec.Struct):
    """The nested form of a connection's key."""

    orig_h: str | None = None
    orig_p: int | _Port | None = None
    resp_h: str | None = None
    resp_p: int | _Port | None = None


_RENAMED = {name.replace(".", "_").replace("-", "_"): name for name in USED if not name.isidentifier()}


class _Line(msgspec.Struct, rename=_RENAMED):
    """One JSON line; every field may be missing or null."""

    path: str | None = msgspec.field(default=None, name="_path")  # set by Corelight and by Log::default_ext_func
    stream: str | None = msgspec.field(default=None, name="_stream")
    id: _Id | None = None
    ts: float | int | str | None = None
    uid: str | None = None
    id_orig_h: str | None = None
    id_orig_p: int | None = None
    id_resp_h: str | None = None
    id_resp_p: int | None = None
    proto: str | None = None
    duration: float | None = None
    orig_bytes: int | None = None
    resp_bytes: int | None = None
    conn_state: str | None = None
    orig_pkts: int | None = None
    orig_ip_bytes: int | None = None
    resp_pkts: int | None = None
    resp_ip_bytes: int | None = None
    ip_proto: int | None = None
    label: str | None = None
    detailedlabel: str | None = None
    detailed_label: str | None = None

    def lacking(self) -> str | None:
        """Unnest the key; say why this is no connection, or None."""
        if self.id is not None:
            self.id_orig_h, self.id_orig_p = self.id.orig_h, _number_of(self.id.orig_p)
            self.id_resp_h, self.id_resp_p = self.id.resp_h, _number_of(self.id.resp_p)
        path = self.path or self.stream or "conn"
        if path != "conn":
            return f"a record of {path}.log"
        if None in (self.ts, self.id_orig_h, self.id_orig_p, self.id_resp_h, self.id_resp_p, self.proto):
            return f"no {', '.join(name for name in NEEDED if getattr(self, _ATTRIBUTES[name]) is None)}"
        return None


_ATTRIBUTES = {name: name.replace(".", "_").replace("-", "_") for name in USED}
_decode = msgspec.json.Decoder(_Line).decode


class _Keys:
    """The keys that the scanner knows, as arrays: columns first, then what Zeek writes besides, then the nested key's parts."""

    def __init__(self) -> None:
        flat = sorted(USED, key=lambda name: not name.startswith("id."))
        known = [(0, name, _SLOTS[name]) for name in flat]
        known += [(0, name, IGNORED) for name in UNUSED]
        known += [(0, "_path", PATH), (0, "_stream", PATH), (0, "id", KEY_RECORD)]
        known += [(1, name.removeprefix("id."), _SLOTS[name]) for name in NEEDED if name.startswith("id.")]
        known += [(2, "port", PORT_RECORD), (2, "proto", IGNORED)]
        self.depths = np.array([depth for depth, _, _ in known], np.int64)
        self.meanings = np.array([meaning for _, _, meaning in known], np.int64)
        names = np.array([name for _, name, _ in known], np.bytes_)
        self.sizes = np.array([len(name) for _, name, _ in known], np.int64)
        self.names = names.view(np.uint8).reshape(len(known), -1)
        self.wants = np.array(_WANTS, np.int64)


_KEYS = _Keys()


def read_json(blocks: Blocks, path: str, damages: Damages) -> Tables:
    """Columns of each block of JSON lines."""
    guesses = np.full(MOST_KEYS, -1, np.int64)
    for first, whole in blocks:
        block = whole if first > 1 else whole.removeprefix(BOM_UTF8)
        lines = block.count(b"\n") + 1
        begins, ends = np.empty((len(USED), lines), np.int32), np.empty((len(USED), lines), np.int32)
        numbers, odd = np.empty(lines, np.int64), np.empty((lines, 3), np.int64)
        rows, odds = scan_json(
            np.frombuffer(block, np.uint8), _KEYS.names, _KEYS.sizes, _KEYS.depths, _KEYS.meanings, _KEYS.wants, len(NEEDED),
            guesses, begins, ends, numbers, odd,
        )  # fmt: skip
        begins, ends, numbers = begins[:, :rows], ends[:, :rows], numbers[:rows] + first
        aside = _Aside(len(block))
        lost = []
        for row, begin, end in odd[:odds].tolist():
            line = _decoded(block[begin:end], path, int(numbers[row]), damages)
            if line is None:
                lost.append(row)
            else:
                begins[:, row], ends[:, row] = aside.places(line)
        if lost:
            begins, ends, numbers = np.delete(begins, lost, axis=1), np.delete(ends, lost, axis=1), np.delete(numbers, lost)
        if len(numbers):
            yield Cells(block + aside.text if aside.text else block, begins, ends, USED, _WANTS, USED, None), numbers


def _decoded(line: bytes, path: str, number: int, damages: Damages) -> _Line | None:
    """A line that the scanner did not understand, or None when it is damage."""
    try:
        row = _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as broken:
        damages.add("json", path, number, f"not a connection in JSON: {broken}")
        return None
    lacking = row.lacking()
    if lacking:
        damages.add("columns", path, number, f"not a connection: {lacking}")
    return None if lacking else row


class _Aside:
    """Cells that do not lie in a block as they are meant (escapes, other spellings of numbers): they are written behind it."""

    def __init__(self, begin: int) -> None:
        self.text = bytearray()
        self._begin = begin

    def places(self, line: _Line) -> tuple[list[int], list[int]]:
        """Where each column of a line begins and ends."""
        begins, ends = [], []
        for slot, name in enumerate(USED):
            value = getattr(line, _ATTRIBUTES[name])
            begins.append(-1 if value is None else self._begin + len(self.text))
            if value is not None:
                self.text += value.encode() if _WANTS[slot] == WANTS_TEXT else msgspec.json.encode(value)
            ends.append(self._begin + len(self.text))
        return begins, ends
