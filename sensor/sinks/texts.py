"""Texts and tables that the forms of an alert have in common: times, foreign bytes, and fields whose names have dots."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from sensor.schema import Alert
from sensor.sinks.lines import raw

NOT_A_TIME = np.iinfo(np.int64).min
"""The one 64-bit number that numpy's datetime64 does not take for a time."""

Table = Iterable[tuple[str, Callable[[Alert, str], object]]]
"""Dotted names, and what stands there for an alert and the name of this sensor; None leaves the field out."""

JUDGED: tuple[tuple[str, Callable[[Alert, str], object]], ...] = (
    ("netseq.score", lambda alert, _: alert.score),
    ("netseq.measure", lambda alert, _: alert.measure),
    ("netseq.verdict", lambda alert, _: alert.verdict),
    ("netseq.p_value", lambda alert, _: alert.p_value),
    ("netseq.per_day", lambda alert, _: alert.per_day),
    ("netseq.count", lambda alert, _: alert.count),
)
"""How an alert was judged: no other schema has words for it."""


def iso_utc(ts_us: int) -> str:
    """Write microseconds since the epoch in ISO 8601, UTC: 2011-03-18T19:06:07.096535Z. Any 64-bit time has a text."""
    return f"{np.datetime64(max(ts_us, NOT_A_TIME + 1), 'us')}Z"


def printable(foreign: str) -> str:
    r"""Write bytes of a log that were no UTF-8 (surrogates in Python's str) as \xHH, as Zeek's own JSON does."""
    return raw(foreign).decode("utf-8", "backslashreplace")


def nested(table: Table, alert: Alert, sensor: str) -> dict[str, object]:
    """Fill a table in for an alert: a name such as `event.kind` becomes an object in an object."""
    found: dict[str, object] = {}
    for name, value_of in table:
        value = value_of(alert, sensor)
        if value is None:
            continue
        *outer, last = name.split(".")
        place = found
        for part in outer:
            inner = place.setdefault(part, {})
            assert isinstance(inner, dict), f"{name}: {part} is a value and an object"
            place = inner
        place[last] = value
    return found
