"""Addresses and times as text, many at once: what a file of flows has several of in each row.

`addresses.text` and Python's datetime write one at a time and take a microsecond each, which is all the time that a whole
row may take. These loops write the same letters into rows of bytes. Called by `statistics` for its text columns and by
the commands that write flows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sensor.kernels import loop, part
from sensor.schema import V4_MAPPED

ADDRESS_WIDTH = 39
"""Letters of the longest address: eight groups of four digits and the colons between them."""

STAMP_WIDTH = 30
"""Letters of the longest time of day: the years that 64 bits of microseconds reach have six digits and a sign."""

KEY_WIDTH = 17
"""Letters of a flow's key without its addresses: two ports, a protocol, and four dashes."""

FRACTION, ISO, TWELVE_HOURS = range(3)
"""Forms of a time: a fraction only where there is one, ISO 8601, day first with AM and PM."""

ZERO, COLON, DOT, DASH, BLANK, SLASH = (ord(letter) for letter in "0:.- /")
LETTER_A, LETTER_M, LETTER_P, LETTER_T, LETTER_Z = (ord(letter) for letter in "AMPTZ")
HEX_LETTER = ord("a") - 10

IPV4_HALF = V4_MAPPED >> 32

SECOND_US = 1_000_000
DAY_S = 86_400


def addresses_text(hi: NDArray[np.uint64], lo: NDArray[np.uint64]) -> NDArray[np.bytes_]:
    """Write the addresses with these halves as inet_ntop does (RFC 5952), IPv4 in dots; (n,) of at most 39 bytes."""
    out = np.zeros((len(lo), ADDRESS_WIDTH), np.uint8)
    _write_addresses(np.ascontiguousarray(hi).view(np.int64), np.ascontiguousarray(lo).view(np.int64), out)
    return out.view(f"S{ADDRESS_WIDTH}")[:, 0]


def stamps_text(ts_us: NDArray[np.int64]) -> NDArray[np.bytes_]:
    """Write microseconds since the epoch as "2017-07-07 15:59:50.315195", UTC; (n,) of at most 30 bytes.

    As CICFlowMeter's current form has it: no fraction where it is zero, three digits where it is whole milliseconds.
    """
    return _stamps(ts_us, FRACTION)


def iso_text(ts_us: NDArray[np.int64]) -> NDArray[np.bytes_]:
    """Write microseconds since the epoch as "2017-07-07T15:59:50.315195Z", ISO 8601."""
    return _stamps(ts_us, ISO)


def twelve_hours_text(ts_us: NDArray[np.int64]) -> NDArray[np.bytes_]:
    """Write microseconds since the epoch as "07/07/2017 03:59:50 PM", UTC, what is below the second cut off."""
    return _stamps(ts_us, TWELVE_HOURS)


def flow_ids_text(
    src: NDArray[np.bytes_],
    dst: NDArray[np.bytes_],
    src_port: NDArray[np.int64],
    dst_port: NDArray[np.int64],
    protocol: NDArray[np.int64],
) -> NDArray[np.bytes_]:
    """Write CICFlowMeter's key of each flow, "10.0.0.1-10.0.0.2-4000-53-17", from addresses as text; (n,) bytes."""
    width = src.dtype.itemsize + dst.dtype.itemsize + KEY_WIDTH
    out = np.zeros((len(src), width), np.uint8)
    ends = [np.ascontiguousarray(text).view(np.uint8).reshape(len(src), text.dtype.itemsize) for text in (src, dst)]
    _write_flow_ids(ends[0], ends[1], np.stack([src_port, dst_port, protocol], axis=1).astype(np.int64), out)
    return out.view(f"S{width}")[:, 0]


def _stamps(ts_us: NDArray[np.int64], form: int) -> NDArray[np.bytes_]:
    out = np.zeros((len(ts_us), STAMP_WIDTH), np.uint8)
    _write_stamps(np.ascontiguousarray(ts_us, np.int64), form, out)
    return out.view(f"S{STAMP_WIDTH}")[:, 0]


@part
def write_number(value: int, least: int, out: NDArray[np.uint8], at: int) -> int:
    """Write a number that is not negative, with at least `least` digits; returns the place behind it."""
    digits, rest = 1, value // 10
    while rest:
        digits, rest = digits + 1, rest // 10
    end = at + max(digits, least)
    place = end
    while place > at:
        place -= 1
        out[place] = ZERO + value % 10
        value //= 10
    return end


@part
def _hex_group(group: int, out: NDArray[np.uint8], at: int) -> int:
    """Write 16 bits as hexadecimal digits without zeros in front."""
    shift = 12
    while shift and not group >> shift:
        shift -= 4
    while shift >= 0:
        digit = group >> shift & 15
        out[at] = (ZERO if digit < 10 else HEX_LETTER) + digit
        at += 1
        shift -= 4
    return at


@part
def _dotted(address: int, out: NDArray[np.uint8], at: int) -> int:
    """Write 32 bits as four numbers with dots between them."""
    at = write_number(address >> 24, 1, out, at)
    for shift in (16, 8, 0):
        out[at] = DOT
        at = write_number(address >> shift & 255, 1, out, at + 1)
    return at


@part
def _group(hi: int, lo: int, place: int) -> int:
    """One of the eight groups of an address; `hi` and `lo` may be negative, for the last bit of 64 is the sign here."""
    half = hi if place < 4 else lo
    return half >> (48 - place % 4 * 16) & 0xFFFF


@part
def _longest_zeros(hi: int, lo: int) -> tuple[int, int]:
    """Where the first of the longest runs of zero groups begins, and its length; 0 where no run has two (RFC 5952, 4.2)."""
    best, length, run = 0, 0, 0
    for place in range(8):
        run = run + 1 if _group(hi, lo, place) == 0 else 0
        if run > length:
            best, length = place + 1 - run, run
    return best, length if length > 1 else 0


@loop
def _write_addresses(hi: NDArray[np.int64], lo: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
    """Write each address into its row of `out`, which is all zero."""
    for number in range(len(lo)):
        row = out[number]
        high, low = hi[number], lo[number]
        if high == 0 and low >> 32 == IPV4_HALF:
            _dotted(low & 0xFFFF_FFFF, row, 0)
            continue
        best, length = _longest_zeros(high, low)
        at = place = 0
        while place < 8:
            if length and place == best:
                row[at] = COLON
                at += 1
                place += length
                if place == 8:
                    row[at] = COLON
                continue
            if place:
                row[at] = COLON
                at += 1
            if place == 6 and best == 0 and length == 6:  # an IPv4-compatible one, which inet_ntop still writes with dots
                at = _dotted(low & 0xFFFF_FFFF, row, at)
                break
            at = _hex_group(_group(high, low, place), row, at)
            place += 1


@part
def _date(days: int) -> tuple[int, int, int]:
    """Year, month and day of a number of days since 1970 (Howard Hinnant, chrono-compatible date algorithms)."""
    days += 719_468  # from the first of March of the year 0, so that the leap day ends a year
    era = days // 146_097
    day_of_era = days - era * 146_097
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * shifted + 2) // 5 + 1
    month = shifted + 3 if shifted < 10 else shifted - 9
    return year_of_era + era * 400 + (1 if month <= 2 else 0), month, day


@part
def _clock(second: int, hour: int, out: NDArray[np.uint8], at: int) -> int:
    """Write the time of day with `hour` for its hour."""
    at = write_number(hour, 2, out, at)
    out[at] = COLON
    at = write_number(second // 60 % 60, 2, out, at + 1)
    out[at] = COLON
    return write_number(second % 60, 2, out, at + 1)


@part
def _year(year: int, out: NDArray[np.uint8], at: int) -> int:
    """Write a year with at least four digits."""
    if year < 0:
        out[at] = DASH
        at += 1
    return write_number(abs(year), 4, out, at)


@part
def _day_first(year: int, month: int, day: int, second: int, out: NDArray[np.uint8]) -> None:
    """Write "07/07/2017 03:59:50 PM"."""
    at = write_number(day, 2, out, 0)
    out[at] = SLASH
    at = write_number(month, 2, out, at + 1)
    out[at] = SLASH
    at = _year(year, out, at + 1)
    out[at] = BLANK
    hour = second // 3600
    at = _clock(second, (hour + 11) % 12 + 1, out, at + 1)
    out[at] = BLANK
    out[at + 1] = LETTER_P if hour >= 12 else LETTER_A
    out[at + 2] = LETTER_M


@part
def _year_first(year: int, month: int, day: int, second: int, out: NDArray[np.uint8], between: int) -> int:
    """Write "2017-07-07 15:59:50" with `between` in the middle."""
    at = _year(year, out, 0)
    out[at] = DASH
    at = write_number(month, 2, out, at + 1)
    out[at] = DASH
    at = write_number(day, 2, out, at + 1)
    out[at] = between
    return _clock(second, second // 3600, out, at + 1)


@loop
def _write_stamps(ts_us: NDArray[np.int64], form: int, out: NDArray[np.uint8]) -> None:
    """Write each time into its row of `out`, which is all zero, in one of the forms."""
    for number in range(len(ts_us)):
        row = out[number]
        seconds = ts_us[number] // SECOND_US
        fraction = ts_us[number] - seconds * SECOND_US
        days = seconds // DAY_S
        year, month, day = _date(days)
        second = seconds - days * DAY_S
        if form == TWELVE_HOURS:
            _day_first(year, month, day, second, row)
            continue
        at = _year_first(year, month, day, second, row, LETTER_T if form == ISO else BLANK)
        if form == FRACTION and fraction == 0:
            continue
        row[at] = DOT
        if form == FRACTION and fraction % 1000 == 0:
            write_number(fraction // 1000, 3, row, at + 1)
            continue
        at = write_number(fraction, 6, row, at + 1)
        if form == ISO:
            row[at] = LETTER_Z


@part
def _copy(text: NDArray[np.uint8], out: NDArray[np.uint8], at: int) -> int:
    """Copy a text without the zeros that fill its place."""
    for letter in text:
        if letter == 0:
            break
        out[at] = letter
        at += 1
    return at


@loop
def _write_flow_ids(src: NDArray[np.uint8], dst: NDArray[np.uint8], numbers: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
    """Write each key into its row of `out`, which is all zero; `numbers` are ports and protocol."""
    for number in range(len(out)):
        row = out[number]
        at = _copy(src[number], row, 0)
        row[at] = DASH
        at = _copy(dst[number], row, at + 1)
        for place in range(3):
            row[at] = DASH
            at = write_number(numbers[number, place], 1, row, at + 1)
