"""Reading training data: each file or folder named becomes the flows of one data set, whatever its format.

Conn.logs, CICFlowMeter's CSVs and captures are told apart by their first bytes. Training needs all flows of a data set at
once (the vocabulary comes first), so they are held in memory, cut down to the fields that words are made of: some
hundred bytes a flow. `sensor.commands.train` calls this, and so does the benchmark that fills docs/models.md.
"""

from __future__ import annotations

import codecs
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sensor.commands.misuse import Misuse
from sensor.decode import SKIPS, Decoder
from sensor.flows import FlowTable
from sensor.schema import FLOW, FlowBatch
from sensor.sources.faults import Broken
from sensor.sources.flowcsv import LEAST, NEEDED, FlowCsvSource, NotAFlowTable
from sensor.sources.listing import FOREIGN, PACKED
from sensor.sources.pcap import CaptureSource, NotACapture
from sensor.sources.unpack import Origin, unpacked
from sensor.sources.zeek import ConnLogSource, NotAConnLog
from sensor.sources.zeek_text import NEEDED as LOG_NEEDED
from sensor.spellings import named

Source: TypeAlias = CaptureSource | ConnLogSource | FlowCsvSource

LEFT_OUT = ("Background", "Unknown")
"""Details of rows that a labelled log calls neither benign nor attack."""
KINDS = ("conn.log", "flow-csv", "captures")
PARQUET = b"PAR1"
NAMED_KEYS = 5
"""Columns of flows at the beginning of a line of JSON, at the least, that make it no conn.log but netseq's own flows."""
HEAD_BYTES = 512
"""Unpacked, to see what a file looks like: a folder of captures is not read through for it."""


class DataSet(NamedTuple):
    """The flows of one FILE, in the order in which they ended."""

    path: str
    kind: str
    """One of KINDS."""
    flows: NDArray[np.void]
    """(N,) FLOW rows."""
    labels: NDArray[np.str_]
    """(N,) label of each row, of an attack the finest that its file tells; "" for benign or without a label."""
    unsure: NDArray[np.bool_]
    """(N,) rows that the data set calls neither benign nor attack."""
    damaged: int
    """Places where the input could not be read."""
    lost: dict[str, int]
    """What else gave no flow, in words for a person: files of another kind, frames, rows."""
    judged: bool = True
    """Whether the files have labels at all; captures have none."""

    @property
    def attack(self) -> NDArray[np.bool_]:
        """(N,) rows with an attack's label."""
        return np.asarray((self.labels != "") & ~self.unsure)

    def benign(self) -> NDArray[np.void]:
        """The flows to learn from: neither attacks nor unsure."""
        return np.asarray(self.flows[(self.labels == "") & ~self.unsure])


def _head(path: str) -> bytes:
    """The first bytes of a file, unpacked; none of one that cannot be read, or of a pipe, which can be read but once."""
    if not os.path.isfile(path):
        return b""
    try:
        with open(path, "rb", buffering=0) as raw:
            begun, size = bytearray(HEAD_BYTES), 0
            inflow, _ = unpacked(Origin(raw))
            while size < HEAD_BYTES and (more := inflow.readinto(memoryview(begun)[size:])):  # four bytes may come first
                size += more
    except (OSError, Broken):
        return b""
    return bytes(begun[:size]).removeprefix(codecs.BOM_UTF8).lstrip()


def kind_of(path: str) -> str:
    """Which of KINDS a file looks like by its first bytes; pipes and what cannot be read are left to the reader of captures."""
    head = _head(path)
    if head[:1] in {b"#", b"{"}:
        return "conn.log"
    first = head.partition(b"\n")[0]  # later lines may hold labels in any script
    return "flow-csv" if b"," in first and first.isascii() and b"\0" not in first else "captures"


def held(path: str, kinds: Sequence[str] = KINDS, *, statistics: bool = False) -> dict[str, str]:
    """Which of `kinds` a file or folder truly holds, each with the first such file; `statistics` as in `open_kind`.

    What a file in a folder looks like is not enough: a README may begin as a log does, or hold a comma. So its reader is asked.
    """
    if not os.path.isdir(path):
        return {kind_of(path): path}
    found: dict[str, str] = {}
    for inside in sorted(Path(path).rglob("*")):
        if len(found) == len(kinds) or not inside.is_file():
            continue
        kind = kind_of(str(inside))
        if kind in kinds and kind not in found and is_one(str(inside), kind, statistics=statistics):
            found[kind] = str(inside)
    return found


def only_kind(path: str, kinds: Sequence[str] = KINDS, *, statistics: bool = False) -> str:
    """The one kind that a file or folder holds; "captures", whose reader says what is wrong, for none. Raises Misuse."""
    if "flow-csv" in kinds and (form := unread_form(path)):
        raise Misuse(f"{path}: it is {form}, which is not read: write flows with netseq-flows --format csv --header netseq")
    found = held(path, kinds, statistics=statistics)
    if not found and "flow-csv" in kinds:
        raise Misuse(nothing_in(path, statistics=statistics))
    if len(found) > 1:
        (one, first), (other, second) = list(found.items())[:2]
        raise Misuse(f"{path}: holds both {one} ({first}) and {other} ({second}): name them one at a time")
    return next(iter(found), "captures")


def unread_form(path: str) -> str:
    """The form of a file that tells flows in a way in which netseq writes them and does not read them, in words; or ""."""
    head = _head(path)
    if head.startswith(PARQUET):
        return "Parquet"
    keys = [key.decode("utf-8", "replace") for key in re.findall(rb'"([^"\\]*)":', head)] if head[:1] == b"{" else []
    return "flows in JSON lines" if sum(named(key) is not None for key in keys) >= NAMED_KEYS else ""


def nothing_in(folder: str, *, statistics: bool) -> str:
    """The line for a folder that holds none of KINDS: why its largest file, which is likely what was meant, is not read."""
    inside = [file for file in sorted(Path(folder).rglob("*")) if file.is_file()]
    if not inside:
        return f"{folder}: a folder without flows: it is empty"
    largest = str(max(inside, key=lambda file: file.stat().st_size))
    told = f"{folder}: a folder without flows: none of its {len(inside)} files can be read"
    try:
        open_kind(largest, only_kind(largest, statistics=statistics), statistics=statistics)
    except (Misuse, NotAConnLog, NotAFlowTable, NotACapture) as refusal:
        told += f": {refusal}"
    return told


def open_kind(path: str, kind: str, *, statistics: bool = False) -> Source:
    """The source that reads one of KINDS; tables of flows for words, or for `statistics`, which need no hosts and times.

    Raises NotAConnLog, NotAFlowTable or NotACapture.
    """
    if kind == "conn.log":
        return ConnLogSource([path])
    if kind == "flow-csv":
        return FlowCsvSource([path], statistics=statistics)
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        raise NotACapture(f"{path}: a pipe can be read but once, and its fingerprint is wanted too: name a file")
    try:
        return CaptureSource([path])
    except NotACapture as refusal:
        raise NotACapture(f"{refusal}{_or_else(path, statistics=statistics)}") from None


def _or_else(path: str, *, statistics: bool) -> str:
    """What a file that is no capture would need to be a log or a table; "" where that is not what is wrong with it."""
    head = _head(path)
    if not head or head.startswith((*PACKED, *FOREIGN)):
        return ""
    columns = f"at least {LEAST} columns of docs/statistics.md" if statistics else f"the columns {', '.join(NEEDED)}"
    return f"; a conn.log needs {', '.join(LOG_NEEDED)}; a table of flows (CSV) needs a first line that names {columns}"


def is_one(path: str, kind: str, *, statistics: bool) -> bool:
    """Tell whether the reader of one of KINDS takes a file."""
    try:
        open_kind(path, kind, statistics=statistics)
    except (NotAConnLog, NotAFlowTable, NotACapture):
        return False
    return True


def read(path: str, tell: Callable[[float], None] | None = None) -> DataSet:
    """Read one file or folder. Raises Misuse, NotAConnLog, NotAFlowTable, NotACapture; `tell` hears the share read so far."""
    kind = only_kind(path)
    source = open_kind(path, kind)
    pieces: list[NDArray[np.void]] = []
    labels: list[str] = []
    details: list[str] = []
    judged = False
    decoder = Decoder()
    for batch in batches_of(source, decoder):
        pieces.append(batch.flows.copy())
        labels.extend(batch.labels or [""] * len(batch.flows))
        details.extend(batch.details or [""] * len(batch.flows))
        judged = judged or batch.labels is not None
        if tell is not None and source.bytes_total:
            tell(source.bytes_done / source.bytes_total)
    flows = np.concatenate(pieces) if pieces else np.empty(0, FLOW)
    texts, finer = np.array(labels, dtype=np.str_), np.array(details, dtype=np.str_)
    unsure = np.isin(finer, LEFT_OUT) | np.isin(texts, LEFT_OUT)
    texts = np.where((texts != "") & (finer != ""), finer, texts)  # a benign row stays benign, whatever its detail
    return DataSet(path, kind, flows, texts, unsure, damaged_places(source), lost_of(source, decoder), judged)


def damaged_places(source: Source) -> int:
    """All places that could not be read; of a log, `damages` keeps the first only."""
    return len(source.damages) if isinstance(source, CaptureSource) else sum(source.damage_counts.values())


def lost_of(source: Source, decoder: Decoder) -> dict[str, int]:
    """What gave no flow, in words for a person."""
    lost = {"files that are of another kind, or were met before": len(source.skipped_files)}
    if isinstance(source, CaptureSource):
        skipped = zip(SKIPS, decoder.skipped.tolist(), strict=True)
        lost |= {f"frames that gave no packet: {name.replace('_', ' ')}": number for name, number in skipped}
    if isinstance(source, FlowCsvSource):
        lost |= {"rows of ARP": source.arp_rows, "rows joined to the flow that they go on with": source.joined}
    return {what: number for what, number in lost.items() if number}


def batches_of(source: Source, decoder: Decoder) -> Iterator[FlowBatch]:
    """Flows of any source, in the order in which they ended."""
    if not isinstance(source, CaptureSource):
        yield from source
        return
    table = FlowTable()
    for block in source:
        yield FlowBatch(table.feed(decoder.decode(block)).copy())
    while len(flows := table.drain()):
        yield FlowBatch(flows)


def fingerprint(path: str) -> tuple[str, str]:
    """Name and SHA-256 of a file for the manifest; of a folder, the SHA-256 of its files' names and hashes, sorted."""
    root = Path(path)
    name = "/".join(root.resolve().parts[-2:])
    if not root.is_dir():
        return name, _digest(root)
    listing = hashlib.sha256()
    for found in sorted(found for found in root.rglob("*") if found.is_file()):
        listing.update(f"{_digest(found)}  {found.relative_to(root)}\n".encode())
    return name, listing.hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
