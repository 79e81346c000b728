"""Statistics of flows: one table that says what every column is, and makes it from FLOW rows.

COLUMNS is the whole truth: a column's name, unit, meaning, formula, where it can be had, what CICFlowMeter's rules change and
what the original CICFlowMeter did, and the function that computes it for a batch. docs/statistics.md is written from it. A
new column is a row in `statistics_whole` or `statistics_sides` and its spelling in `spellings`. The names are those of the
repaired CICFlowMeter (GintsEngelen/CICFlowMeter, commit 4dd5319), whose formulas the rules "cicflowmeter" follow to the
letter; the rules "netseq" give what the names promise. `statistics` is what models read; `Reading` with `column` is for
writers of tables.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sensor.spellings import SPELLINGS, STATISTICS
from sensor.statistics_column import Column, Texts
from sensor.statistics_reading import Numbers, Reading, Rules, columns_of
from sensor.statistics_sides import SIDES
from sensor.statistics_whole import WHOLE

__all__ = ["BY_NAME", "COLUMNS", "Column", "Reading", "Rules", "column", "statistics"]

BATCH = 2048
"""Rows computed at a time, so that they and the arrays made of them stay in cache."""

BY_NAME: dict[str, Column] = {column.name: column for column in (*WHOLE, *SIDES)}

COLUMNS: tuple[Column, ...] = tuple(BY_NAME[spelling.name] for spelling in SPELLINGS)
"""Every column, in the order of the repaired CICFlowMeter's table; netseq's own stand before the label."""


def column(reading: Reading, name: str) -> Numbers | Texts:
    """(n,) values of a column: int64, float64, or bytes for a text; NaN where a log's row cannot tell. Raises KeyError."""
    known = BY_NAME[name]
    values = known.values(reading)
    if "conn.log" in known.roads or not reading.any_from_log:
        return values
    return np.where(reading.from_log, np.nan, values)


def statistics(flows: NDArray[np.void], names: Sequence[str] = STATISTICS, rules: Rules = "netseq") -> NDArray[np.float32]:
    """(n, len(names)) columns of (n,) FLOW rows as models read them. Raises KeyError for an unknown name.

    Values are rounded to float32 last; they are finite under the rules "netseq", except NaN for what a log cannot tell. In
    memory the array lies column by column, as it is made.
    """
    out: NDArray[np.float32] = columns_of(len(names), len(flows), np.dtype(np.float32))
    for first in range(0, len(flows), BATCH):
        batch = slice(first, first + BATCH)
        reading = Reading(flows[batch], rules)
        for place, name in enumerate(names):
            out[place, batch] = column(reading, name)
    return out.T
