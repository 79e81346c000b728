"""Compiled loops under the statistics: rows into columns, variances without rounding, and division.

The variance of n samples is (n * sum of squares - square of the sum) / (n * (n - 1)). Gaps of a regular sender are a million
times longer than they differ, so the two products agree in their first twelve digits or more, and doubles would lose what is
asked for. FLOW rows keep both sums exactly; here the products are made in 192 bits and only their difference becomes a
double. `statistics_reading` calls them for every batch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sensor.kernels import loop, part

SPREADS = ("gap", "fwd_gap", "bwd_gap", "payload", "fwd_payload", "bwd_payload", "active", "idle")
"""What the variances are of, in the order of the rows that `unfold` fills."""

U0, U1, U32 = np.uint64(0), np.uint64(1), np.uint64(32)
LOW32 = np.uint64(0xFFFF_FFFF)
TWO64 = 2.0**64
STRIPE = 16
"""Rows turned at a time: what is written of each column fills whole cache lines."""


@part
def high_half(a: np.uint64, b: np.uint64) -> np.uint64:
    """The upper 64 of the 128 bits of a * b (Knuth 4.3.1, with two digits of 32 bits)."""
    a_low, a_high, b_low, b_high = a & LOW32, a >> U32, b & LOW32, b >> U32
    cross = a_high * b_low + ((a_low * b_low) >> U32)
    middle = a_low * b_high + (cross & LOW32)
    return a_high * b_high + (cross >> U32) + (middle >> U32)


@part
def variance(n: np.int64, total: np.int64, square_low: np.uint64, square_high: np.uint64) -> np.float64:
    """Sample variance of n integers by their sum and the 128 bits of their sum of squares; 0 for fewer than two."""
    if n < 2:
        return np.float64(0.0)
    count, size = np.uint64(n), np.uint64(abs(total))
    low = count * square_low
    carry = high_half(count, square_low)
    middle = count * square_high + carry
    high = high_half(count, square_high) + (U1 if middle < carry else U0)
    sum_low = size * size
    sum_middle = high_half(size, size)
    borrow = U1 if low < sum_low else U0
    left = middle - sum_middle
    borrow_high = U1 if middle < sum_middle or left < borrow else U0
    difference = np.float64(low - sum_low) + np.float64(left - borrow) * TWO64 + np.float64(high - borrow_high) * TWO64 * TWO64
    return np.float64(difference / (np.float64(n) * np.float64(n - 1)))


@part
def spread(row: np.void, last_active: bool, out: NDArray[np.float64], i: np.int64) -> None:
    """Write the variances of one FLOW row into column `i` of `out`."""
    fwd, bwd, active, idle = row["fwd"], row["bwd"], row["active"], row["idle"]
    ahead, back = fwd["packets"], bwd["packets"]
    out[0, i] = variance(ahead + back - 1, row["last_us"] - row["first_us"], row["gap"]["square_lo"], row["gap"]["square_hi"])
    out[1, i] = variance(ahead - 1, fwd["last_us"] - fwd["first_us"], fwd["gap"]["square_lo"], fwd["gap"]["square_hi"])
    out[2, i] = variance(back - 1, bwd["last_us"] - bwd["first_us"], bwd["gap"]["square_lo"], bwd["gap"]["square_hi"])
    square = fwd["payload"]["square"] + bwd["payload"]["square"]
    over = U1 if square < fwd["payload"]["square"] else U0
    out[3, i] = variance(ahead + back, fwd["payload"]["sum"] + bwd["payload"]["sum"], square, over)
    out[4, i] = variance(ahead, fwd["payload"]["sum"], fwd["payload"]["square"], U0)
    out[5, i] = variance(back, bwd["payload"]["sum"], bwd["payload"]["square"], U0)
    n, total, low, high = active["n"], active["sum"], active["square_lo"], active["square_hi"]
    last_us = row["last_us"] - row["active_start_us"]
    if last_active and last_us > 0:
        n += 1
        total += last_us
        size = np.uint64(last_us)
        before = low
        low += size * size
        high += high_half(size, size) + (U1 if low < before else U0)
    out[6, i] = variance(n, total, low, high)
    out[7, i] = variance(idle["n"], idle["sum"], idle["square_lo"], idle["square_hi"])


@loop
def unfold(
    flows: NDArray[np.void],
    words: NDArray[np.int64],
    last_active: bool,
    columns: NDArray[np.int64],
    variances: NDArray[np.float64],
) -> None:
    """Turn (n,) FLOW rows, whose memory `words` (n, k) shows as 64-bit words, into `columns` (k, n), and fill `variances`.

    `variances` is (len(SPREADS), n). `last_active` says that the activity which the end of the flow cut short counts as an
    active period. One walk over the rows for both: they come from memory farther away than the arithmetic takes.
    """
    n, k = words.shape
    for first in range(0, n, STRIPE):
        last = min(first + STRIPE, n)
        for column in range(k):
            for i in range(first, last):
                columns[column, i] = words[i, column]
        for i in range(first, last):
            spread(flows[i], last_active, variances, np.int64(i))


@loop
def divide(part: NDArray[np.generic], whole: NDArray[np.generic], out: NDArray[np.float64]) -> None:
    """Fill `out` (n,) with part / whole, and 0 where whole is 0."""
    for i in range(len(out)):
        out[i] = np.float64(part[i]) / np.float64(whole[i]) if whole[i] != 0 else 0.0
