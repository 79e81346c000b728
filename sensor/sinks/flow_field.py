"""What a table of flows has in a column, for every sink that writes one: its heading, and what kind of value stands below.

The commands choose the columns and compute them; a sink gives them their outward form.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.row_text import MISSING, Values


class Field(NamedTuple):
    """One column of a table."""

    header: str
    kind: Literal["integer", "real", "text", "time"]
    """Integers come as int64, or as float64 with NaN for what is missing; a time as int64 microseconds since the epoch,
    `row_text.MISSING` for none; a text as bytes in UTF-8, empty for none."""


Stamps = Callable[[NDArray[np.int64]], NDArray[np.bytes_]]
"""Writes microseconds since the epoch as text."""


def stamped(values: Values, stamps: Stamps) -> NDArray[np.bytes_]:
    """Times as text, empty for none."""
    times = values.astype(np.int64)
    return np.where(times == MISSING, b"", stamps(times))


def once(fields: Sequence[Field]) -> list[int]:
    """Places of the fields whose heading did not come before: objects and Parquet have no two of one name."""
    first: dict[str, int] = {}
    for place, field in enumerate(fields):
        first.setdefault(field.header.strip(), place)
    return list(first.values())
