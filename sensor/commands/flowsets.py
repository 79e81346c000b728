"""Reading labelled flows for the multi-flow model: files of any format to rows of statistics with classes and sequences.

Each file or folder named is a data set of its own: its sequences are not mixed with another's. Captures go through the flow
table, conn.logs give the columns that a log can tell, and tables of flows their own figures. A class comes of a label file,
where one of its lines matches, else of the file's own labels. What is kept of a flow is its row of statistics: 2.8 million
rows of CICIDS2017 with 80 columns are 0.9 GB, as flows they would be twice as much.

Nothing is dropped in silence: what had no label, a label that no class knows, columns without a value, lines and frames
that could not be read are counted, and `Read.notes` tells them. `netseq-train multiflow` and `netseq-evaluate` call `read`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.flowset import UNJUDGED, FlowSet, class_counts
from sensor.commands.classes import Classes
from sensor.commands.datasets import Source, batches_of, damaged_places, fingerprint, lost_of, only_kind, open_kind
from sensor.commands.flow_labels import Judge
from sensor.commands.label_files import LabelFiles
from sensor.commands.misuse import Misuse
from sensor.commands.terminal import printable
from sensor.conversations import Conversations, as_one_host
from sensor.decode import Decoder
from sensor.labels import Labels
from sensor.schema import FlowBatch
from sensor.sources.flow_rows import header_of
from sensor.sources.flowcsv import FlowCsvSource
from sensor.sources.lines import head_of
from sensor.sources.zeek import ConnLogSource
from sensor.spellings import STATISTICS
from sensor.statistics import statistics

CONVERSATIONS = 1 << 18
"""Sequences that a data set is read with; beyond that the ones silent the longest start anew, as in a sensor."""

DAY_US = 86_400_000_000

TOLD = 10
"""Labels, columns or places that a note names; the rest is counted."""

By: TypeAlias = Literal["pair", "host"]
"""Whose flows are a sequence: those of two hosts with each other, or all that a host began."""


class DataRead(NamedTuple):
    """One FILE or folder; its rows follow those of the one before."""

    path: str
    kind: str
    """One of datasets.KINDS."""
    rows: int
    name: str
    """What the manifest calls it."""
    sha256: str
    damaged: int
    """Places that could not be read."""
    damages: tuple[str, ...]
    """The first of them, a line each."""
    lost: dict[str, int]
    """What else gave no flow, in words for a person."""
    mended: dict[str, int]
    """Cells of a table put right, by reason."""
    otherwise: tuple[str, ...]
    """Columns that follow other rules than netseq's in this table."""


class Read(NamedTuple):
    """Labelled flows, and all that there is to tell of how they were read."""

    flows: FlowSet
    columns: tuple[str, ...]
    data: tuple[DataRead, ...]
    counts: dict[str, int]
    """Rows of each class."""
    unknown: dict[str, int]
    """Labels that no class knows, with their rows."""
    unjudged: dict[str, int]
    """Rows that nobody judged, by what they are."""
    empty: tuple[str, ...]
    """Columns without a value in any row."""
    evicted: int
    """Sequences that lost their place because there were too many of them."""
    as_published: bool
    labels: LabelFiles

    @property
    def damaged(self) -> int:
        """Places that could not be read, in all files."""
        return sum(one.damaged for one in self.data)

    def notes(self) -> list[str]:
        """What a person must know of the data before a model or a measure is believed; one line each, printable."""
        lines = [f"label {text} is of no class: {rows:,} flows are context only" for text, rows in _most(self.unknown)]
        lines += [f"{rows:,} {which} are context only" for which, rows in _most(self.unjudged)]
        told_below = {name for one in self.data for name in one.otherwise}
        empty = [name for name in self.empty if self.as_published or name not in told_below]
        if empty:
            lines.append(f"{_columns(empty, 'no value')} in any flow: {_named(empty)}")
        if self.evicted:
            lines.append(f"{self.evicted:,} sequences began anew: there are more than {CONVERSATIONS:,} of them")
        for one in self.data:
            lines += [f"{one.path}: {line}" for line in _told(one, as_published=self.as_published)]
            lines += one.damages
            if one.damaged > len(one.damages):
                lines.append(f"{one.path}: {one.damaged - len(one.damages):,} more places could not be read")
        lines += self.labels.report()
        return [printable(line) for line in lines]


def read(
    paths: Sequence[str],
    classes: Classes,
    columns: Sequence[str],
    *,
    labels: Labels | None = None,
    sequence: By = "pair",
    as_published: bool = False,
    tell: Callable[[float], None] | None = None,
) -> Read:
    """Read files or folders into one set; `columns` are names of `spellings.STATISTICS`.

    A folder's own label file comes after `labels`. Columns of a table that follow other rules than netseq's are unknown unless
    `as_published`. `tell` hears the share read so far. Raises Misuse where no flow has a class or no column a value, and
    LabelsError, NotAConnLog, NotAFlowTable, NotACapture.
    """
    files = LabelFiles([labels] if labels is not None else [], paths)
    gather, judge, data = _Gather(columns, sequence), Judge(classes), list[DataRead]()
    for place, path in enumerate(paths):

        def told(share: float, place: int = place) -> None:
            if tell is not None:
                tell((place + share) / len(paths))

        judge.begin(files.of(path))
        data.append(_read_one(path, gather, judge, as_published=as_published, tell=told))
    flows = gather.flows(judge)
    unknown, unjudged = judge.unknown(), judge.unjudged()
    named = printable(", ".join(paths))
    if not len(flows.rows):
        raise Misuse(f"{named}: no flows in there")
    if (flows.label == UNJUDGED).all():
        seen = [f"{rows:,} flows labelled {text}" for text, rows in _most(unknown)]
        seen += [f"{rows:,} {which}" for which, rows in _most(unjudged)]
        raise Misuse(printable(f"{named}: no flow is of a class ({', '.join(seen)}): give a label file, or other classes"))
    if len(gather.empty) == len(columns):
        raise Misuse(f"{named}: none of the {len(columns)} columns asked for has a value in any flow")
    counted = class_counts(flows.label, len(classes.names)).tolist()
    counts = dict(zip(classes.names, counted, strict=True))
    return Read(
        flows, tuple(columns), tuple(data), counts, unknown, unjudged, gather.empty, gather.evicted, as_published, files
    )


def _read_one(path: str, gather: _Gather, judge: Judge, *, as_published: bool, tell: Callable[[float], None]) -> DataRead:
    """Read one file or folder behind the ones before."""
    kind = only_kind(path, statistics=True)
    whole = open_kind(path, kind, statistics=True)
    parts, first = list(_parts(whole)), len(gather)
    lost = Counter[str]()
    mended = Counter[str]()
    damages: list[str] = []
    otherwise: set[str] = set()
    bytes_before, bytes_total = 0, sum(source.bytes_total or 0 for source, _ in parts)
    for source, labelled in parts:
        decoder = Decoder()
        gather.begin()
        for batch in batches_of(source, decoder):
            gather.take(batch, judge.labels_of(batch, labelled=labelled))
            tell((bytes_before + source.bytes_done) / max(bytes_total, 1))
        bytes_before += source.bytes_total or 0
        lost.update(lost_of(source, decoder))
        damages += [f"{place[0]}: damaged at {place[1]}: {place[2]}" for place in source.damages[:TOLD]]
        if isinstance(source, FlowCsvSource):
            mended.update(source.mended)
            otherwise |= source.otherwise
    if len(parts) > 1:
        lost.update(lost_of(whole, Decoder()))
    gather.end(frozenset() if as_published else frozenset(otherwise))
    return DataRead(
        path,
        kind,
        len(gather) - first,
        *fingerprint(path),
        sum(damaged_places(source) for source, _ in parts),
        tuple(damages[:TOLD]),
        dict(lost),
        dict(mended),
        tuple(name for name in gather.columns if name in otherwise),
    )


def _parts(whole: Source) -> Iterator[tuple[Source, bool]]:
    """What of a source is read together, and whether its files have labels of their own.

    A table without hosts is one sequence, its file's order, that must not go on in the next file. Files with and without
    labels, side by side, are told apart here, because a batch of both cannot tell what is benign and what was never judged.
    """
    if not isinstance(whole, FlowCsvSource | ConnLogSource):
        yield whole, False
        return
    alone: list[tuple[Path, bool]] = []
    together: dict[bool, list[Path]] = {}
    for path in whole.files:
        labelled, hosts = _told_by(path, table=isinstance(whole, FlowCsvSource))
        if hosts:
            together.setdefault(labelled, []).append(path)
        else:
            alone.append((path, labelled))
    parts = [(paths, labelled) for labelled, paths in together.items()] + [([path], labelled) for path, labelled in alone]
    if len(parts) == 1:
        yield whole, parts[0][1]
        return
    for paths, labelled in parts:
        yield FlowCsvSource(paths, statistics=True) if isinstance(whole, FlowCsvSource) else ConnLogSource(paths), labelled


def _told_by(path: Path, *, table: bool) -> tuple[bool, bool]:
    """Whether a file has labels, and whether it has hosts."""
    head = head_of(path)
    if table:
        places = header_of(head).places
        return "Label" in places, "Src IP" in places and "Dst IP" in places
    if head.lstrip()[:1] == b"{":
        return any(name in head for name in (b'"label"', b'"detailedlabel"', b'"detailed-label"')), True
    return any(line.startswith(b"#fields") and b"label" in line for line in head.split(b"\n")), True


class _Gather:
    """Rows of statistics, labels and sequences, batch by batch."""

    def __init__(self, columns: Sequence[str], sequence: By) -> None:
        self.columns = tuple(columns)
        self._places = [STATISTICS.index(name) for name in columns]
        self._sequence = sequence
        self._rows: list[NDArray[np.float32]] = []
        self._labels: list[NDArray[np.int32]] = []
        self._slots: list[NDArray[np.int32]] = []
        self._restart: list[NDArray[np.bool_]] = []
        self._day: list[NDArray[np.int64]] = []
        self._hour: list[NDArray[np.int64]] = []
        self._known = np.zeros(len(columns), np.bool_)
        self._known_here = np.zeros(len(columns), np.bool_)
        self._first_here = 0
        self._base = self._next = 0
        self._count = 0
        self.evicted = 0
        """Sequences that lost their place because there were too many."""
        self._conversations = Conversations(conversations=1)

    def __len__(self) -> int:
        return self._count

    def begin(self) -> None:
        """Begin sequences apart from all before."""
        self._base = self._next
        self._conversations = Conversations(conversations=CONVERSATIONS)

    def take(self, batch: FlowBatch, labels: NDArray[np.int32]) -> None:
        """Take the flows of a batch with the numbers of their labels."""
        flows = batch.flows
        if batch.statistics is None:
            rows = statistics(flows, self.columns)
        else:
            with np.errstate(over="ignore"):  # beyond float32: unknown, as what is infinite in the file
                rows = batch.statistics[:, self._places].astype(np.float32)
            rows[np.isinf(rows)] = np.nan
        if self._sequence == "host":
            flows = as_one_host(flows)
        before = self._conversations.evicted
        turns = self._conversations.turn(flows)
        self.evicted += self._conversations.evicted - before
        self._next = max(self._next, self._base + int(turns.slots.max(initial=-1)) + 1)
        self._known_here |= ~np.isnan(rows).all(axis=0)
        self._count += len(rows)
        self._rows.append(rows)
        self._labels.append(labels)
        self._slots.append(turns.slots + np.int32(self._base))
        self._restart.append(turns.restart)
        self._day.append(np.where(flows["first_us"] == 0, 0, flows["last_us"] // DAY_US))
        self._hour.append(turns.hour)

    def end(self, otherwise: frozenset[str]) -> None:
        """End a data set, in which the columns `otherwise` are unknown."""
        places = [place for place, name in enumerate(self.columns) if name in otherwise]
        for rows in self._rows[self._first_here :]:
            rows[:, places] = np.nan
        self._known_here[places] = False
        self._known |= self._known_here
        self._known_here[:] = False
        self._first_here = len(self._rows)

    @property
    def empty(self) -> tuple[str, ...]:
        """Columns without a value in any row."""
        return tuple(name for name, known in zip(self.columns, self._known, strict=True) if not known)

    def flows(self, judge: Judge) -> FlowSet:
        """All rows as one set."""
        return FlowSet(
            np.concatenate([np.empty((0, len(self.columns)), np.float32), *self._rows]),
            judge.classes_of(np.concatenate([np.empty(0, np.int32), *self._labels])),
            np.concatenate([np.empty(0, np.int32), *self._slots]),
            np.concatenate([np.empty(0, np.bool_), *self._restart]),
            np.concatenate([np.empty(0, np.int64), *self._day]),
            np.concatenate([np.empty(0, np.int64), *self._hour]),
        )


def _told(one: DataRead, *, as_published: bool) -> Iterator[str]:
    """What a data set's notes say, without its name."""
    if one.otherwise and as_published:
        yield f"{_columns(one.otherwise, 'other rules')} than netseq's, taken as published: {_named(one.otherwise)}"
    elif one.otherwise:
        yield f"{_columns(one.otherwise, 'other rules')} than netseq's, left unknown: {_named(one.otherwise)}"
    yield from (f"put right: {cells:,} {what}" for what, cells in _most(one.mended))
    yield from (f"left out: {rows:,} {what}" for what, rows in _most(one.lost))


def _columns(names: Sequence[str], what: str) -> str:
    return f"{len(names)} column{'s have' if len(names) > 1 else ' has'} {what}"


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - TOLD} more" if len(names) > TOLD else ""
    return ", ".join(names[:TOLD]) + more


def _most(counts: dict[str, int]) -> list[tuple[str, int]]:
    """The largest counts, the rest as one."""
    ordered = Counter(counts).most_common()
    rest = ordered[TOLD:]
    return ordered[:TOLD] + ([(f"of {len(rest)} other kinds", sum(rows for _, rows in rest))] if rest else [])
