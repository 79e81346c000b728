"""The columns of the table that netseq-flows writes: which they are, what they are called, and their values for a batch.

`statistics` says what a column is worth for flows that netseq has made. A table of flows read from a file keeps the values that
stand there, and its labels; what a file does not tell stays missing. Called by `sensor.commands.flows`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sensor.row_text import MISSING, Values
from sensor.schema import END_LOG, FLOW, FlowBatch
from sensor.sinks.flow_field import Field
from sensor.spellings import HEADERS, IDENTITY, SPELLINGS, STATISTICS, UNSURE
from sensor.statistics import COLUMNS, Reading, Rules, column

UNLABELLED = b"NeedManualLabel"
"""What CICFlowMeter writes where nobody has judged a flow."""
NO_LABEL = "no label"
"""The detail of a row whose label is empty."""
BENIGN = "BENIGN"
"""CICIDS2017's word for a row that is no attack."""


class FlowColumns:
    """Some columns under some layout's names. `known` says that the values are a file's own, whose types nobody vouches for."""

    def __init__(self, layout: str, chosen: Sequence[str], rules: Rules, *, known: bool = False) -> None:
        """Take the columns of a layout, or those whose names are `chosen`."""
        self._rules = rules
        self._unlabelled = b"" if layout == "netseq" else UNLABELLED
        headers = {name: header for header, name in reversed(HEADERS[layout])}
        columns = [(headers.get(name, name), name) for name in chosen] if chosen else HEADERS[layout]
        self._columns = [name for _, name in columns]
        blank = Reading(np.zeros(1, FLOW), rules)
        self.fields = [Field(header, _kind(name, blank, known=known)) for header, name in columns]

    def values(self, batch: FlowBatch) -> list[Values]:
        """One array for each field."""
        reading = Reading(batch.flows, self._rules)
        made: dict[str, Values] = {}
        for name in self._columns:
            if name not in made:
                made[name] = self._values(reading, batch, name)
        return [made[name] for name in self._columns]

    def _values(self, reading: Reading, batch: FlowBatch, name: str) -> Values:
        if name == "Label":
            return self._labels(batch)
        if name == "Timestamp":
            told = np.ascontiguousarray(batch.flows["first_us"], np.int64)
            timed = batch.statistics is None or told.any()  # a table without times has 0 in all rows
            return told if timed else np.full(len(told), MISSING)
        if name in IDENTITY:
            return _known(np.asarray(column(reading, name), np.bytes_), batch, name)
        if batch.statistics is not None:
            return np.ascontiguousarray(batch.statistics[:, STATISTICS.index(name)], np.float64)
        return column(reading, name)

    def _labels(self, batch: FlowBatch) -> NDArray[np.bytes_]:
        """The source's own labels; of a source without any, CICFlowMeter's word for that, which netseq's layout leaves out."""
        if batch.labels is None:
            return np.full(len(batch.flows), self._unlabelled)
        details = batch.details or [""] * len(batch.labels)
        pairs = list(zip(batch.labels, details, strict=True))
        texts = {pair: self._label(*pair) for pair in set(pairs)}
        return np.array([texts[pair] for pair in pairs], np.bytes_)

    def _label(self, label: str, detail: str) -> bytes:
        """A label in one word: the attack's; for a row that nobody judged, why; else CICIDS2017's word for benign."""
        if not label and detail.lower() == NO_LABEL:
            return self._unlabelled
        return _plain(label or (detail if detail.lower() in UNSURE else BENIGN))


def _kind(name: str, blank: Reading, *, known: bool) -> Literal["integer", "real", "text", "time"]:
    """What kind of value a column has, told by the value of a row of zeros; a file's own numbers may be any."""
    if name == "Timestamp":
        return "time"
    if name in IDENTITY:
        return "text"
    return "integer" if not known and column(blank, name).dtype.kind == "i" else "real"


def _known(texts: NDArray[np.bytes_], batch: FlowBatch, name: str) -> NDArray[np.bytes_]:
    """The same texts, but empty where a table of flows has no hosts."""
    if batch.statistics is None or name not in ("Flow ID", "Src IP", "Dst IP"):
        return texts
    flows = batch.flows
    hosts = flows["src_hi"] | flows["src_lo"] | flows["dst_hi"] | flows["dst_lo"]
    return np.where((hosts == 0) & (flows["end"] == END_LOG), b"", texts)


def _plain(text: str) -> bytes:
    """A text from a file in UTF-8, on one line."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shown.encode("utf-8", "backslashreplace")


def listing() -> str:
    """Every column with its unit and meaning, a line each, for people."""
    netseq = {spelling.name: spelling.netseq for spelling in SPELLINGS}
    rows = [(one.name, netseq[one.name], one.unit, one.meaning) for one in COLUMNS]
    widths = [max(len(row[place]) for row in rows) for place in range(3)]
    lines = ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]) for row in rows]
    return "\n".join(lines) + "\n"
