"""The text forms of a Zeek log: lines of TSV or JSON to columns.

Only what conn.log needs of them. TSV takes its conventions (separator, mark of an unset field, names) from the header, which
may come again in the middle of a file when logs were concatenated; JSON may be flat ("id.orig_h") or nested ({"id": {...}}),
with unset fields left out or null. `zeek` makes connections of the columns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from sensor.sources.columns import Columns
from sensor.sources.lines import Damages

NEEDED = ("ts", "id.orig_h", "id.orig_p", "id.resp_h", "id.resp_p", "proto")
"""Without these a log is no conn.log."""
USED = (
    *NEEDED, "uid", "duration", "orig_bytes", "resp_bytes", "conn_state", "orig_pkts", "orig_ip_bytes", "resp_pkts",
    "resp_ip_bytes", "ip_proto", "label", "detailedlabel", "detailed-label",
)  # fmt: skip
"""Columns that are read, of the many that scripts may add ("detailed-label" is IoT-23's spelling)."""

Blocks = Iterable[tuple[int, bytes]]
"""Whole lines with the number of the first one."""
Tables = Iterator[tuple[Columns, NDArray[np.int64]]]
"""Columns with each row's line number."""

_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|\\)")


def unescape(cell: bytes) -> bytes:
    r"""Undo Zeek's escapes: \xHH and \\ (separators, non-printable bytes, broken UTF-8; Zeek's LogAscii writer)."""
    if b"\\" not in cell:
        return cell
    return _ESCAPE.sub(lambda escape: bytes([int(escape[1], 16)]) if escape[1] else b"\\", cell)


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

    def refusal(self) -> str | None:
        """Why lines under this header are no connections, or None."""
        if not self.fields:
            return "its header has no #fields line"
        if self.path not in (None, "conn"):
            return f"it is a {self.path}.log"
        lacking = [name for name in NEEDED if name not in self.fields]
        return f"it has no column {', '.join(lacking)}" if lacking else None


def read_tsv(blocks: Blocks, path: str, damages: Damages) -> Tables:
    """Columns of each run of lines between headers."""
    header = Header()
    for first, block in blocks:
        rows = block.split(b"\n")
        start = 0
        if block.startswith(b"#") or b"\n#" in block:
            for place, row in enumerate(rows):
                if row.startswith(b"#"):
                    yield from _run(header, rows[start:place], first + start, path, damages)
                    header.take(row)
                    start = place + 1
        yield from _run(header, rows[start:], first + start, path, damages)


def _run(header: Header, lines: Sequence[bytes], first: int, path: str, damages: Damages) -> Tables:
    """Split lines that share a header; lines of another width are damage, empty ones are nothing."""
    refusal = header.refusal()
    width = len(header.fields)
    rows = [line.split(header.separator) for line in lines]
    if header.inner > 1:
        rows = [[*row[:-1], *row[-1].split(maxsplit=header.inner - 1)] for row in rows]
    numbers = list(range(first, first + len(rows)))
    if refusal or any(len(row) != width for row in rows):
        good: list[int] = []
        for place, row in enumerate(rows):
            if not lines[place]:
                continue
            if refusal:
                damages.add("header", path, numbers[place], f"not a connection: {refusal}")
            elif len(row) != width:
                damages.add("columns", path, numbers[place], f"{len(row)} columns where the header names {width}")
            else:
                good.append(place)
        rows, numbers = [rows[place] for place in good], [numbers[place] for place in good]
    if rows:
        used = [place for place, name in enumerate(header.fields) if name in USED]
        cells = dict(
            zip([header.fields[place] for place in used], zip(*map(itemgetter(*used), rows), strict=True), strict=True)
        )
        yield Columns(cells, len(rows), header.unset), np.array(numbers, np.int64)


class _Id(msgspec.Struct):
    """The nested form of a connection's key."""

    orig_h: str | None = None
    orig_p: int | None = None
    resp_h: str | None = None
    resp_p: int | None = None


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
            self.id_orig_h, self.id_orig_p = self.id.orig_h, self.id.orig_p
            self.id_resp_h, self.id_resp_p = self.id.resp_h, self.id.resp_p
        path = self.path or self.stream or "conn"
        if path != "conn":
            return f"a record of {path}.log"
        if None in (self.ts, self.id_orig_h, self.id_orig_p, self.id_resp_h, self.id_resp_p, self.proto):
            return f"no {', '.join(name for name in NEEDED if getattr(self, _ATTRIBUTES[name]) is None)}"
        return None


_ATTRIBUTES = {name: name.replace(".", "_").replace("-", "_") for name in USED}
_decode = msgspec.json.Decoder(_Line).decode


def read_json(blocks: Blocks, path: str, damages: Damages) -> Tables:
    """Columns of each block of JSON lines."""
    for first, block in blocks:
        rows: list[_Line] = []
        numbers: list[int] = []
        for number, line in enumerate(block.split(b"\n"), first):
            if not line.strip():
                continue
            try:
                row = _decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as broken:
                damages.add("json", path, number, f"not a connection in JSON: {broken}")
                continue
            lacking = row.lacking()
            if lacking:
                damages.add("columns", path, number, f"not a connection: {lacking}")
                continue
            rows.append(row)
            numbers.append(number)
        if rows:
            # Any: a cell is what JSON holds there; Columns converts it
            cells: dict[str, list[Any]] = {name: [getattr(row, place) for row in rows] for name, place in _ATTRIBUTES.items()}
            yield Columns(cells, len(rows), None), np.array(numbers, np.int64)
