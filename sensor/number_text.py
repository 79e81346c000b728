"""Numbers as text for compiled loops: whole numbers, seconds, and reals with the fewest digits that read back the same.

A file of flows has ninety numbers a row, half of them reals, and formatting them one by one in Python would take longer
than all that comes before. The letters are those of Python's repr, which msgspec, JSON and CSV readers understand. The digits
of a real are found as in Schubfach (Raffaello Giulietti, "The Schubfach way to render doubles", 2020), the algorithm of
Java's Double.toString since JDK 19. Called by `row_text`.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from sensor.kernels import part

NUMBER_WIDTH = 25
"""Letters of the longest number: -1.7976931348623157e+308 has 24, the least 64-bit number as seconds 21."""

LEAST_POWER, GREATEST_POWER = -292, 324
"""Powers of ten that a real's digits may have to be multiplied with."""

MANY_DIGITS = 16
"""From so many digits before the point on, Python's repr writes an exponent."""
FEW_ZEROS = -4
"""With so many zeros behind the point, too."""

ZERO, DOT, DASH, PLUS, LETTER_E = (ord(letter) for letter in "0.-+e")

WHOLE_LIMIT = 9_007_199_254_740_992.0
"""2^53: below it every whole real is an int64, and has no shorter text than its digits."""

U0, U1, U2, U4, U10, U32, U40 = (np.uint64(number) for number in (0, 1, 2, 4, 10, 32, 40))
TEN_2, TEN_4, TEN_6, TEN_8, TEN_16 = (np.uint64(10**power) for power in (2, 4, 6, 8, 16))
PAIRS = np.frombuffer("".join(f"{pair:02}" for pair in range(100)).encode(), np.uint8)
"""The digits of 00 to 99."""
LOW_HALF = np.uint64(0xFFFF_FFFF)
FRACTION_BITS = 52
FRACTION = np.uint64((1 << FRACTION_BITS) - 1)
HIDDEN = np.uint64(1 << FRACTION_BITS)
EXPONENT_SHIFT = np.uint64(FRACTION_BITS)
EXPONENT_MASK = np.uint64(0x7FF)
SIGN_SHIFT = np.uint64(63)
BIAS = 1075  # of the exponent, when the fraction is read as a whole number


@cache
def powers_of_ten() -> NDArray[np.uint64]:
    """(617, 2) upper and lower half of the first 128 bits of 10^k, rounded up, for k from LEAST_POWER to GREATEST_POWER."""
    rows = []
    for k in range(LEAST_POWER, GREATEST_POWER + 1):
        shift = 127 - (k * 1_741_647 >> 19)  # 127 - floor(log2(10^k))
        over, under = 10 ** max(k, 0), 10 ** max(-k, 0)
        bits = -(-(over << max(shift, 0)) // (under << max(-shift, 0)))
        rows.append((bits >> 64, bits & 0xFFFF_FFFF_FFFF_FFFF))
    return np.array(rows, np.uint64)


@part
def digits_of(value: np.uint64) -> int:
    """How many decimal digits a number has."""
    digits = 1
    if value >= TEN_16:
        value, digits = value // TEN_16, 17
    if value >= TEN_8:
        value, digits = value // TEN_8, digits + 8
    if value >= TEN_4:
        value, digits = value // TEN_4, digits + 4
    if value >= TEN_2:
        value, digits = value // TEN_2, digits + 2
    return digits + 1 if value >= U10 else digits


@part
def _write_eight(value: np.uint64, out: NDArray[np.uint8], at: int) -> None:
    """Write a number below 10^8 with all eight digits: four steps that do not wait for one another."""
    for pair in range(4):
        two = np.int64(value // (TEN_6, TEN_4, TEN_2, U1)[pair] % TEN_2)
        out[at + 2 * pair] = PAIRS[2 * two]
        out[at + 2 * pair + 1] = PAIRS[2 * two + 1]


@part
def write_digits(value: np.uint64, out: NDArray[np.uint8], at: int) -> int:
    """Write a number's decimal digits; returns the place behind them."""
    place = end = at + digits_of(value)
    while place >= at + 8:
        rest = value // TEN_8
        place -= 8
        _write_eight(value - rest * TEN_8, out, place)
        value = rest
    while place > at:
        rest = value // U10
        place -= 1
        out[place] = ZERO + np.int64(value - rest * U10)
        value = rest
    return end


@part
def write_whole(value: int, out: NDArray[np.uint8], at: int) -> int:
    """Write a signed number."""
    if value < 0:
        out[at] = DASH
        return write_digits(U0 - np.uint64(value), out, at + 1)
    return write_digits(np.uint64(value), out, at)


@part
def write_seconds(time_us: int, short: bool, out: NDArray[np.uint8], at: int) -> int:
    """Write microseconds as seconds with six decimals, or only those up to the last that is not zero but one."""
    if time_us < 0:
        out[at] = DASH
        at += 1
    size = U0 - np.uint64(time_us) if time_us < 0 else np.uint64(time_us)
    seconds = size // np.uint64(1_000_000)
    rest = np.int64(size - seconds * np.uint64(1_000_000))
    at = write_digits(seconds, out, at)
    out[at] = DOT
    for place in range(6, 0, -1):
        out[at + place] = ZERO + rest % 10
        rest //= 10
    at += 7
    while short and out[at - 1] == ZERO and out[at - 2] != DOT:
        at -= 1
    return at


@part
def _high_product(one: np.uint64, other: np.uint64) -> np.uint64:
    """The upper 64 bits of a product of two 64-bit numbers."""
    one_hi, one_lo, other_hi, other_lo = one >> U32, one & LOW_HALF, other >> U32, other & LOW_HALF
    middle = one_hi * other_lo + (one_lo * other_lo >> U32)
    crossed = one_lo * other_hi + (middle & LOW_HALF)
    return one_hi * other_hi + (middle >> U32) + (crossed >> U32)


@part
def _scaled(power_hi: np.uint64, power_lo: np.uint64, number: np.uint64) -> np.uint64:
    """`number` times a power of ten, rounded to odd: the last bit tells that something was cut off."""
    low = _high_product(power_lo, number)
    middle = power_hi * number
    high = _high_product(power_hi, number)
    total = middle + low
    if total < low:
        high += U1
    return high | (U1 if total > U1 else U0)


@part
def _shortest(fraction: np.uint64, exponent: int, powers: NDArray[np.uint64]) -> tuple[np.uint64, int]:
    """Digits and power of ten of a positive real, given as its bits; the nearest of the shortest that read back the same."""
    number = HIDDEN | fraction if exponent else fraction
    binary = max(exponent, 1) - BIAS
    even = number & U1 == U0
    closer = fraction == U0 and exponent > 1  # the gap below a power of two is half as wide
    k = (binary * 1_262_611 - (524_031 if closer else 0)) >> 22
    shift = np.uint64(binary + (-k * 1_741_647 >> 19) + 1)
    power_hi, power_lo = powers[-k - LEAST_POWER, 0], powers[-k - LEAST_POWER, 1]
    here = number * U4
    lower = _scaled(power_hi, power_lo, (here - U2 + (U1 if closer else U0)) << shift) + (U0 if even else U1)
    middle = _scaled(power_hi, power_lo, here << shift)
    upper = _scaled(power_hi, power_lo, (here + U2) << shift) - (U0 if even else U1)
    digits = middle // U4
    if digits >= U10:
        fewer = digits // U10
        below, above = lower <= U40 * fewer, U40 * fewer + U40 <= upper
        if below != above:
            return fewer + (U1 if above else U0), k + 1
    below, above = lower <= U4 * digits, U4 * digits + U4 <= upper
    if below != above:
        return digits + (U1 if above else U0), k
    half = U4 * digits + U2
    up = middle > half or (middle == half and digits & U1 == U1)
    return digits + (U1 if up else U0), k


@part
def _write_exponent(point: int, out: NDArray[np.uint8], at: int) -> int:
    """Write "e-07": a sign and at least two digits."""
    out[at] = LETTER_E
    out[at + 1] = DASH if point < 0 else PLUS
    at += 2
    if abs(point) < 10:
        out[at] = ZERO
        at += 1
    return write_digits(np.uint64(abs(point)), out, at)


@part
def _write_scientific(digits: np.uint64, count: int, point: int, out: NDArray[np.uint8], at: int) -> int:
    """Write "1.5e-07" for digits with the point before the place `point`."""
    end = write_digits(digits, out, at + 1)
    out[at] = out[at + 1]
    if count == 1:
        return _write_exponent(point - 1, out, at + 1)
    out[at + 1] = DOT
    return _write_exponent(point - 1, out, end)


@part
def _write_zeros(number: int, out: NDArray[np.uint8], at: int) -> int:
    for place in range(number):
        out[at + place] = ZERO
    return at + number


@part
def _write_decimal(digits: np.uint64, k: int, out: NDArray[np.uint8], at: int) -> int:
    """Write `digits` times 10^k as Python's repr does."""
    while digits // U10 * U10 == digits:
        digits, k = digits // U10, k + 1
    count = digits_of(digits)
    point = count + k
    if point > MANY_DIGITS or point <= FEW_ZEROS:
        return _write_scientific(digits, count, point, out, at)
    if point <= 0:
        out[at] = ZERO
        out[at + 1] = DOT
        return write_digits(digits, out, _write_zeros(-point, out, at + 2))
    if k >= 0:
        at = _write_zeros(k, out, write_digits(digits, out, at))
        out[at] = DOT
        out[at + 1] = ZERO
        return at + 2
    end = write_digits(digits, out, at)
    for place in range(end, at + point, -1):
        out[place] = out[place - 1]
    out[at + point] = DOT
    return end + 1


@part
def write_real(value: float, bits: np.uint64, powers: NDArray[np.uint64], out: NDArray[np.uint8], at: int) -> int:
    """Write a finite real, whose `bits` are given too, for compiled code has no other way to them."""
    if bits >> SIGN_SHIFT:
        out[at] = DASH
        at += 1
    size = abs(value)
    if size < WHOLE_LIMIT and size == np.floor(size):
        at = write_digits(np.uint64(size), out, at)
        out[at] = DOT
        out[at + 1] = ZERO
        return at + 2
    exponent: int = np.int64(bits >> EXPONENT_SHIFT & EXPONENT_MASK)  # type: ignore[assignment]  # one kind to the compiler
    digits, k = _shortest(bits & FRACTION, exponent, powers)
    return _write_decimal(digits, k, out, at)
