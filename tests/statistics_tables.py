"""Tables of flows side by side: those that a CICFlowMeter wrote, and netseq's columns of a capture, as rows of one form."""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sensor.decode import Decoder
from sensor.flows import FlowTable
from sensor.schema import FLOW
from sensor.sources.pcap import CaptureSource
from sensor.spellings import IDENTITY, named
from sensor.statistics import Reading, Rules, column

Row = dict[str, float | str]
"""A flow's columns: texts where IDENTITY says so, numbers elsewhere."""


def flows_of(capture: Path, decoder: Decoder, table: FlowTable) -> NDArray[np.void]:
    """All flows of a capture."""
    parts = [np.zeros(0, FLOW)]
    parts += [table.feed(decoder.decode(block)).copy() for block in CaptureSource([capture])]
    while len(part := table.drain()):
        parts.append(part.copy())
    return np.concatenate(parts)


def computed(flows: NDArray[np.void], names: Sequence[str], rules: Rules) -> list[Row]:
    """What netseq says of flows."""
    reading = Reading(flows, rules)
    columns = {name: column(reading, name) for name in names}
    assert all((values.dtype.kind == "S") == (name in IDENTITY) for name, values in columns.items())
    lists: dict[str, list[float | str]] = {
        name: [text.decode() for text in values.tolist()] if name in IDENTITY else values.tolist()
        for name, values in columns.items()
    }
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def header_of(table: Path) -> list[str]:
    """The header of a CSV, as it is written."""
    return next(_lines(table))


def written(table: Path) -> list[Row]:
    """The rows of a CSV, under the columns' names inside netseq."""
    header, *rows = _lines(table)
    names = [named(text) for text in header]
    assert None not in names
    return [
        {name: text if name in IDENTITY else float(text) for name, text in zip(names, row, strict=True) if name} for row in rows
    ]


def _lines(table: Path) -> Iterator[list[str]]:
    if table.suffix == ".gz":
        with gzip.open(table, "rt", encoding="utf-8", newline="") as lines:
            yield from csv.reader(lines)
    else:
        with table.open(encoding="utf-8", newline="") as lines:
            yield from csv.reader(lines)


def different(ours: Row, theirs: Row, names: Iterable[str], relative: float) -> list[str]:
    """Columns in which two rows differ: texts at all, numbers by more than `relative` of them. NaN is like nothing."""

    def same(one: float | str, other: float | str) -> bool:
        if isinstance(one, str) or isinstance(other, str):
            return one == other
        return math.isclose(one, other, rel_tol=relative, abs_tol=0.0)

    return [f"{name}: {ours[name]} here, {theirs[name]} there" for name in names if not same(ours[name], theirs[name])]
