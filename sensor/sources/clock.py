"""The times in tables of flows: text to seconds since the epoch, and the afternoons of clocks that do not tell them.

Called by `flowcsv`. No table names its time zone, but netseq's own; others are taken for UTC.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

_SLASHED = re.compile(r"(\d{1,2})/(\d{1,2})/(\d{4}) (\d{1,2}):(\d{2})(?::(\d{2}))?(?: ([AP])M)?")
"""Day first, as all versions write it that use slashes."""
_NUMBER = re.compile(r"\d{1,11}(?:\.\d*)?")

HOUR_US = 3_600_000_000
HALF_DAY_US, DAY_US = 12 * HOUR_US, 24 * HOUR_US

WORKING_DAYS_US = ((1_499_040_000_000_000, 1_499_472_000_000_000), (1_518_566_400_000_000, 1_520_035_200_000_000))
"""CICIDS2017, 3 to 7 July 2017, and CSE-CIC-IDS2018, 14 February to 2 March 2018, were captured in working hours."""
MORNING_US = 8 * HOUR_US
"""So an hour before this one is of the afternoon there, as the attacks' published hours confirm."""

ASTRAY = 0.01
"""Share of a file's times that may be damaged (CSE-CIC-IDS2018 has some of 1970) without deciding for the others."""

TIMES_KEPT = 100_000
"""Distinct times remembered; then the memory starts afresh."""


class Clock(dict[str, float]):
    """Times as text to seconds since the epoch, each read once; ValueError for what is no time.

    `numbers`: whether a bare number is read as seconds since the epoch.
    """

    def __init__(self, numbers: bool = False) -> None:
        super().__init__()
        self.numbers = numbers

    def __missing__(self, text: str) -> float:
        """Read a new time."""
        if len(self) >= TIMES_KEPT:
            self.clear()
        bare = text.strip()
        self[text] = read = float(bare) if self.numbers and _NUMBER.fullmatch(bare) else clock_s(bare)
        return read


def clock_s(text: str) -> float:
    """Seconds since the epoch; a time without a zone is taken for UTC."""
    time = _SLASHED.fullmatch(text)
    if time is None:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    day, month, year, hour, minute, second = (int(part or 0) for part in time.groups()[:6])
    if time[7]:
        hour = hour % 12 + (12 if time[7] == "P" else 0)
    return datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp()


def is_bare(text: str) -> bool:
    """Whether a time is of the form whose clock has twelve hours and no AM or PM."""
    time = _SLASHED.fullmatch(text.strip())
    return time is not None and time[7] is None


def of_working_days(stamps: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of (n,) times lie on days of which it is known that nothing was captured before 8."""
    return np.asarray(np.logical_or.reduce([(stamps >= begin) & (stamps < end) for begin, end in WORKING_DAYS_US]), np.bool_)


def afternoons(stamps: NDArray[np.int64]) -> NDArray[np.int64]:
    """What to add to (n,) times of a file whose clock is bare, in us: twelve hours or nothing.

    Nothing if the hours show that the clock has twenty-four. On the days of the two published data sets the hour tells; on
    others rows come nearly in order, so a time that jumps back by hours within a day is of the afternoon.
    """
    hours = stamps % DAY_US
    if ((hours >= 13 * HOUR_US) | (hours < HOUR_US)).sum() > ASTRAY * len(stamps):
        return np.zeros(len(stamps), np.int64)
    known = of_working_days(stamps)
    if (~known).sum() <= ASTRAY * len(stamps):
        return np.where(known & (hours < MORNING_US), HALF_DAY_US, 0)
    mornings = stamps - np.where(hours >= HALF_DAY_US, HALF_DAY_US, 0)  # on such a clock 12 is the hour 0
    shifted, shift, high = [], 0, 0
    for stamp in mornings.tolist():
        if stamp // DAY_US != high // DAY_US:
            shift = 0
        if stamp + shift < high - HALF_DAY_US // 2 and stamp // DAY_US == high // DAY_US:
            shift = HALF_DAY_US
        shifted.append(stamp + shift)
        high = max(high, stamp + shift)
    return np.array(shifted, np.int64) - stamps
