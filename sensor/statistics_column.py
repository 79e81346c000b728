"""What a column of a flow table is, and the functions that several of them are made of.

`statistics_whole` and `statistics_sides` write the table's rows with these; `statistics` puts the rows together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sensor.statistics_reading import Numbers, Reading, Samples

Texts: TypeAlias = NDArray[np.bytes_]
Values: TypeAlias = Callable[[Reading], "Numbers | Texts"]

PACKETS, BOTH = ("packets",), ("packets", "conn.log")
"""From which sources a column can be had. Tables of flows have the columns that their headers name."""


class Column(NamedTuple):
    """One column of a flow table."""

    name: str
    unit: str
    """"us", "bytes", "packets", ...; "" for what has none."""
    meaning: str
    formula: str
    """From the fields of FLOW (sensor/schema.py)."""
    roads: tuple[str, ...]
    """Sources that it can be had from."""
    values: Values
    """(n,) values of a batch: int64 or float64, or bytes for a text."""
    difference: str = ""
    """What the rules "cicflowmeter" do otherwise; "" when they agree."""
    original: str = ""
    """What the original CICFlowMeter (version 4) does otherwise than the repaired one."""


def field(name: str) -> Values:
    """A field of FLOW as it is."""
    return lambda reading: reading.field(name)


def both(name: str) -> Values:
    """A field of SIDE, summed over both."""
    return lambda reading: reading.fwd.field(name) + reading.bwd.field(name)


def four(
    name: str,
    unit: str,
    what: str,
    formulas: tuple[str, str, str, str],
    samples: Callable[[Reading], Samples],
    *,
    road: bool = False,
    difference: str = "",
) -> tuple[Column, ...]:
    """Mean, deviation, maximum and minimum of some samples, with a formula for each; `road` says that a log tells the mean."""
    mean, deviation, high, low = formulas
    mean_of = BOTH if road else PACKETS
    return (
        Column(f"{name} Mean", unit, f"Mean of {what}", mean, mean_of, lambda r: samples(r).mean, difference),
        Column(
            f"{name} Std", unit, f"Sample deviation of {what}", deviation, PACKETS, lambda r: samples(r).deviation, difference
        ),
        Column(f"{name} Max", unit, f"Greatest of {what}", high, PACKETS, lambda r: samples(r).high, difference),
        Column(f"{name} Min", unit, f"Least of {what}", low, PACKETS, lambda r: samples(r).low, difference),
    )
