"""Connections that another program has already put together: from its log's columns to FLOW rows in the order of ending.

A log knows a dozen figures of a connection, a FLOW row has a hundred: sorting and merging is done on rows of the dozen
(CONN), and FLOW rows are made a block at a time when they are handed over.

netseq's order is the order in which flows end, in training as in replay. Zeek writes almost in that order (a connection is
logged some seconds to minutes after its last packet, by timeout); logs that were sorted or labelled later are in the order of
beginning. So every file is sorted by the time of its connections' last packet, and files that overlap are merged. Tables
without times keep their own order, one file after the other.

FinishedSource is what the readers of such files share; `zeek` and `flowcsv` say what is in a file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.schema import END_LOG, FLOW, FlowBatch
from sensor.sources.columns import AddressBook
from sensor.sources.lines import Damages, LineDamage, Paths, list_files, total_bytes
from sensor.spellings import BENIGN, UNLABELLED, UNSURE

CONN = np.dtype(
    [
        ("src_hi", "<u8"),
        ("src_lo", "<u8"),
        ("dst_hi", "<u8"),
        ("dst_lo", "<u8"),
        ("first_us", "<i8"),
        ("last_us", "<i8"),
        ("sent_bytes", "<i8"),  # payload
        ("received_bytes", "<i8"),
        ("sent_packets", "<i8"),
        ("received_packets", "<i8"),
        ("sent_ip_bytes", "<i8"),
        ("received_ip_bytes", "<i8"),
        ("label", "<i4"),  # place in the source's table of labels, -1: the log has none
        ("src_port", "<u2"),
        ("dst_port", "<u2"),
        ("protocol", "u1"),
        ("icmp_type", "u1"),
        ("icmp_code", "u1"),
        ("conn_state", "u1"),
        ("continued", "u1"),
    ]
)
"""What a log tells of a connection, 109 bytes."""

_SAME = ("src_hi", "src_lo", "dst_hi", "dst_lo", "first_us", "last_us", "src_port", "dst_port")
_SAME_SMALL = ("protocol", "icmp_type", "icmp_code", "conn_state", "continued")


class Finished(NamedTuple):
    """The connections of one file, in the order of their last packet."""

    conns: NDArray[np.void]
    """(n,) CONN rows."""
    uids: NDArray[np.bytes_] | None = None
    """(n,) Zeek's uids."""
    statistics: NDArray[np.float64] | None = None
    """(n, len(spellings.STATISTICS)) as a table tells them."""
    timed: bool = True
    """Whether the file tells times; if not, its order is all there is."""
    lacks: NDArray[np.uint8] | None = None
    """(n,) LACKS_* bits; None where nothing is lacking."""

    def take(self, rows: slice | NDArray[np.int64]) -> Finished:
        """Some of the connections."""
        uids = None if self.uids is None else self.uids[rows]
        statistics = None if self.statistics is None else self.statistics[rows]
        return Finished(self.conns[rows], uids, statistics, self.timed, None if self.lacks is None else self.lacks[rows])


class Labels:
    """The distinct labels met so far. A label is its text and its detail; benign ones have the text ""."""

    def __init__(self) -> None:
        self.known: list[tuple[str, str]] = []
        self._places: dict[tuple[str, str], int] = {}

    def place(self, text: str, detail: str) -> int:
        """Number of a label as its data set spells it. A row that nobody judged keeps the reason as its detail."""
        text, detail = text.strip(), detail.strip()
        if detail in ("-", "(empty)"):
            detail = ""
        if text.lower() in UNSURE:
            detail = detail or text
        if text.lower() in (*BENIGN, *UNSURE):
            text = ""
        place = self._places.setdefault((text, detail), len(self.known))
        if place == len(self.known):
            self.known.append((text, detail))
        return place


def in_order(finished: Finished) -> Finished:
    """The same connections in the order of their last packet; those that end together stay in the file's order."""
    last_us = finished.conns["last_us"]
    if not finished.timed or (last_us[1:] >= last_us[:-1]).all():
        return finished
    return finished.take(np.argsort(last_us, kind="stable"))


def merged(files: Iterable[Finished]) -> Iterator[Finished]:
    """Merge files that follow one another in time, overlaps included: a row waits while the next file may hold an earlier one.

    Memory is that of the files that overlap. Files must come in the order of their first ending; a file without times is
    handed over when its turn comes.
    """
    waiting: Finished | None = None
    for finished in files:
        if not len(finished.conns):
            continue
        if not finished.timed:
            if waiting is not None:
                yield waiting
            yield finished
            waiting = None
            continue
        if waiting is None:
            waiting = finished
            continue
        ready = int(np.searchsorted(waiting.conns["last_us"], finished.conns["last_us"][0], side="right"))
        if ready:
            yield waiting.take(slice(None, ready))
        rest = waiting.take(slice(ready, None))
        waiting = in_order(_joined(rest, finished)) if len(rest.conns) else finished
    if waiting is not None:
        yield waiting


def _joined(first: Finished, second: Finished) -> Finished:
    uids = statistics = None
    if first.uids is not None or second.uids is not None:
        empty = [np.zeros(len(one.conns), "S1") if one.uids is None else one.uids for one in (first, second)]
        uids = np.concatenate(empty)
    if first.statistics is not None and second.statistics is not None:
        statistics = np.concatenate([first.statistics, second.statistics])
    lacks = None
    if first.lacks is not None or second.lacks is not None:
        both = (first, second)
        lacks = np.concatenate([np.zeros(len(one.conns), np.uint8) if one.lacks is None else one.lacks for one in both])
    return Finished(np.concatenate([first.conns, second.conns]), uids, statistics, lacks=lacks)


def batches(finished: Finished, labels: Labels, block_flows: int) -> Iterator[FlowBatch]:
    """Hand connections over as batches of at most `block_flows` FLOW rows, each batch in memory of its own."""
    for start in range(0, len(finished.conns), block_flows):
        conns = finished.conns[start : start + block_flows]
        uids = None
        if finished.uids is not None:
            uids = [uid.decode("utf-8", "backslashreplace") for uid in finished.uids[start : start + block_flows].tolist()]
        places = conns["label"].tolist()
        texts = details = None
        if max(places) >= 0:
            known = [*labels.known, ("", UNLABELLED)]  # place -1 is the last one: a file without labels among others
            texts, details = [known[place][0] for place in places], [known[place][1] for place in places]
        told = None if finished.statistics is None else finished.statistics[start : start + block_flows].copy()
        lacks = None if finished.lacks is None else finished.lacks[start : start + block_flows].copy()
        yield FlowBatch(flows_of(conns), uids, texts, details, told, lacks)


def flows_of(conns: NDArray[np.void]) -> NDArray[np.void]:
    """(n,) FLOW rows of (n,) CONN rows. What a log does not tell stays zero: counts of samples say so (`payload.n` is 0)."""
    flows = np.zeros(len(conns), FLOW)
    for name in (*_SAME, *_SAME_SMALL):
        flows[name] = conns[name]
    flows["end"] = END_LOG
    for side, prefix in (("fwd", "sent"), ("bwd", "received")):
        flows[side]["payload"]["sum"] = conns[f"{prefix}_bytes"]
        flows[side]["packets"] = conns[f"{prefix}_packets"]
        flows[side]["ip_bytes"] = conns[f"{prefix}_ip_bytes"]
    return flows


class FinishedSource(ABC):
    """Finished connections from files of one kind: the files in order, their flows in the order in which they ended.

    `paths` are files and folders. Iterating yields FlowBatch of up to `block_flows` rows. `refusal` is raised here for a named
    file that is none of the kind, or when nothing is left to read; `what` is the kind in words. Iterate once.
    """

    def __init__(self, paths: Paths, block_flows: int, refusal: type[Exception], what: str) -> None:
        self._block_flows = block_flows
        self._damages = Damages()
        self._labels = Labels()
        self._addresses = AddressBook()
        self.files, self.skipped_files = list_files(paths, self._begins, refusal, what)
        """What is read, in this order; and what in the folders is not, with the reason."""
        self.bytes_total = total_bytes(self.files)
        self.bytes_done = 0

    @property
    def damages(self) -> list[LineDamage]:
        """The first lines that could not be read; filled while iterating."""
        return self._damages.first

    @property
    def damage_counts(self) -> dict[str, int]:
        """All lines that could not be read, by kind."""
        return dict(self._damages.counts)

    def __iter__(self) -> Iterator[FlowBatch]:
        for finished in merged(map(self._file, self.files)):
            yield from batches(finished, self._labels, self._block_flows)

    @abstractmethod
    def _begins(self, path: Path) -> float:
        """Seconds by which files are put in order, inf where none can be told; raises the refusal."""

    @abstractmethod
    def _file(self, path: Path) -> Finished:
        """One file whole, in order."""
