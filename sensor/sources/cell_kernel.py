"""Cells of a log as numbers, many at once: loops over the places of a column's cells in a block of bytes.

Reading a cell by way of a Python object takes 100 to 300 ns, and a connection has sixteen of them. Each loop here reads the
one spelling that Zeek writes and marks every other cell as odd: those are left to Python, cell by cell, so what a cell
means is decided in one place, and there slowly. Called by `zeek_cells`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sensor.kernels import loop, part
from sensor.schema import V4_MAPPED

Bytes = NDArray[np.uint8]
Places = NDArray[np.int32]
"""(rows,) where each cell begins, or behind its last byte; a beginning below 0 is a missing cell."""

GOOD, MISSING, ODD = 0, 1, 2
"""What a loop says of each cell."""

DIGITS = 18
"""So many are below 2^62 in any case."""
EXACT_S = 4_000_000_000
"""Up to here the float nearest to a decimal of whole microseconds rounds to the same microsecond: reading the digits as an
integer gives what reading a float gives."""
FINE_S = 1_000_000
"""Up to here a float tells hundredths of microseconds, which decide how further digits round."""
DOUBT = 10
"""Thousandths of a microsecond either side of one half: there Python's rounding decides."""
WHOLE_S, LAST_WHOLE_S = 100_000_000, 100_000_000_000
"""Whole numbers from the one to below the other are seconds in JSON; others are milliseconds (see `zeek`)."""

ZERO, NINE, DOT, QUOTE, DASH, COLON, LETTER_T, LETTER_Z = (ord(letter) for letter in '09."-:TZ')
SECOND_US = 1_000_000
DAY_S = 86_400
ISO_BYTES = 29
"""Of "2011-03-18T19:06:07.096535Z" with its quotes."""
LAST_YEAR = 2090
"""Before EXACT_S."""


@part
def signed(number: int) -> int:
    """An integer of any width as int64, in which the kernels compute: with uint64, numba would give floats."""
    return np.int64(number)  # type: ignore[return-value]  # for the checker the kernels' numbers are int


@part
def digit(data: Bytes, at: int) -> int:
    """The digit at a place, or -1."""
    sign = signed(data[at])
    return sign - ZERO if ZERO <= sign <= NINE else -1


@part
def number(data: Bytes, begin: int, end: int) -> int:
    """The whole number in these bytes, or -1 where they are not one to DIGITS digits."""
    if end - begin < 1 or end - begin > DIGITS:
        return -1
    value = 0
    for at in range(begin, end):
        figure = digit(data, at)
        if figure < 0:
            return -1
        value = value * 10 + figure
    return value


@loop
def integers(data: Bytes, begins: Places, ends: Places, default: int, out: NDArray[np.int64], told: Bytes) -> None:
    """Whole numbers without a sign; a missing one is `default`."""
    for row in range(len(begins)):
        told[row] = GOOD
        if begins[row] < 0:
            told[row] = MISSING
            out[row] = default
            continue
        value = number(data, signed(begins[row]), signed(ends[row]))
        if value < 0:
            told[row] = ODD
            value = default
        out[row] = value


@part
def fraction(data: Bytes, begin: int, end: int) -> int:
    """Thousandths of microseconds in the digits behind the point, of which the first nine count; -1 if there are others."""
    value = 0
    for at in range(begin, end):
        figure = digit(data, at)
        if figure < 0:
            return -1
        if at < begin + 9:
            value = value * 10 + figure
    for _ in range(9 - (end - begin)):
        value *= 10
    return value


@part
def decimal_us(data: Bytes, begin: int, end: int) -> int:
    """Seconds with or without a fraction as microseconds, to the nearest; -1 for anything else, and where that is in doubt."""
    point = begin
    while point < end and signed(data[point]) != DOT:
        point += 1
    seconds = number(data, begin, point)
    if seconds < 0 or seconds >= EXACT_S or point == end - 1:
        return -1
    if point == end:
        return seconds * SECOND_US
    below = fraction(data, point + 1, end)
    if below < 0:
        return -1
    whole = below // 1000
    rest = below - whole * 1000
    if end - point > 7:
        if seconds >= FINE_S or abs(rest - 500) <= DOUBT:
            return -1
        if rest > 500:
            whole += 1
    return seconds * SECOND_US + whole


@part
def days_of(year: int, month: int, day: int) -> int:
    """Days from 1970 to a date (Howard Hinnant, chrono-compatible date algorithms); the year is 1970 or later."""
    if month <= 2:
        year -= 1
    era = year // 400
    year_of_era = year - era * 400
    shifted = month - 3 if month > 2 else month + 9
    day_of_year = (153 * shifted + 2) // 5 + day - 1
    return era * 146_097 + year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year - 719_468


@part
def month_days(year: int, month: int) -> int:
    """Days of a month."""
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month == 4 or month == 6 or month == 9 or month == 11 else 31  # noqa: PLR1714  # no sets in a kernel


@part
def iso_us(data: Bytes, begin: int, end: int) -> int:
    """A quoted ISO 8601 time as LogAscii writes it, as microseconds; -1 for every other form."""
    if end - begin != ISO_BYTES or signed(data[end - 2]) != LETTER_Z or signed(data[begin + 11]) != LETTER_T:
        return -1
    if signed(data[begin + 5]) != DASH or signed(data[begin + 8]) != DASH or signed(data[begin + 20]) != DOT:
        return -1
    if signed(data[begin + 14]) != COLON or signed(data[begin + 17]) != COLON:
        return -1
    year, month, day = (
        number(data, begin + 1, begin + 5),
        number(data, begin + 6, begin + 8),
        number(data, begin + 9, begin + 11),
    )
    hour, minute = number(data, begin + 12, begin + 14), number(data, begin + 15, begin + 17)
    second, below = number(data, begin + 18, begin + 20), number(data, begin + 21, begin + 27)
    if year < 1970 or year >= LAST_YEAR or month < 1 or month > 12 or day < 1 or day > month_days(year, month):
        return -1
    if hour < 0 or hour > 23 or minute < 0 or minute > 59 or second < 0 or second > 59 or below < 0:
        return -1
    return (days_of(year, month, day) * DAY_S + hour * 3600 + minute * 60 + second) * SECOND_US + below


@part
def json_time_us(data: Bytes, begin: int, end: int) -> int:
    """One of JSON's three forms of time as microseconds; -1 for what is none of them as Zeek writes it."""
    if signed(data[begin]) == QUOTE:
        return iso_us(data, begin, end)
    value = number(data, begin, end)
    if value < 0:
        return decimal_us(data, begin, end)
    if WHOLE_S <= value < LAST_WHOLE_S:
        return value * SECOND_US if value < EXACT_S else -1
    return value * 1000 if value < EXACT_S * 1000 else -1


@loop
def times(data: Bytes, begins: Places, ends: Places, in_json: bool, out: NDArray[np.int64], told: Bytes) -> None:
    """Times as microseconds: decimal seconds, or with `in_json` any of JSON's forms. A missing one is 0."""
    for row in range(len(begins)):
        told[row] = GOOD
        out[row] = 0
        begin, end = signed(begins[row]), signed(ends[row])
        if begin < 0:
            told[row] = MISSING
            continue
        value = json_time_us(data, begin, end) if in_json and end > begin else decimal_us(data, begin, end)
        if value < 0:
            told[row] = ODD
        else:
            out[row] = value


@part
def dotted(data: Bytes, begin: int, end: int) -> int:
    """The 32 bits of an IPv4 address in four decimal numbers without zeros in front (as inet_pton reads it), or -1."""
    value, numbers, figures, current = 0, 0, 0, 0
    for at in range(begin, end):
        figure = digit(data, at)
        if figure >= 0:
            if figures and current == 0:
                return -1
            current = current * 10 + figure
            figures += 1
            if current > 255:
                return -1
        elif signed(data[at]) == DOT and figures and numbers < 3:
            value = value << 8 | current
            numbers, figures, current = numbers + 1, 0, 0
        else:
            return -1
    return value << 8 | current if numbers == 3 and figures else -1


@loop
def addresses(data: Bytes, begins: Places, ends: Places, out: NDArray[np.uint64], told: Bytes) -> None:
    """Halves of IPv4 addresses in their mapped form; what is none is odd."""
    for row in range(len(begins)):
        told[row] = ODD
        if begins[row] < 0:
            continue
        value = dotted(data, signed(begins[row]), signed(ends[row]))
        if value >= 0:
            out[row, 0] = np.uint64(0)
            out[row, 1] = np.uint64(V4_MAPPED | value)
            told[row] = GOOD


@loop
def codes(
    data: Bytes, begins: Places, ends: Places, names: Bytes, sizes: NDArray[np.int64], values: NDArray[np.int64],
    out: NDArray[np.int64],
) -> None:  # fmt: skip
    """The number of each cell that is one of `names` (a row each, `sizes` letters); `out` keeps what it has for the others."""
    for row in range(len(begins)):
        begin = signed(begins[row])
        if begin < 0:
            continue
        size = signed(ends[row]) - begin
        for place in range(len(sizes)):
            if sizes[place] != size:
                continue
            same = True
            for letter in range(size):
                if names[place, letter] != data[begin + letter]:
                    same = False
                    break
            if same:
                out[row] = values[place]
                break


@loop
def copies(data: Bytes, begins: Places, ends: Places, out: Bytes, told: Bytes) -> None:
    """Copy each cell into its row of `out`, which is all zero; one that does not fit is odd."""
    for row in range(len(begins)):
        told[row] = GOOD
        begin = signed(begins[row])
        if begin < 0:
            told[row] = MISSING
            continue
        size = signed(ends[row]) - begin
        if size > out.shape[1]:
            told[row] = ODD
            continue
        for letter in range(size):
            out[row, letter] = data[begin + letter]
