"""Variances against Python's unbounded integers, where doubles lose all they have: regular senders, sums of 128 bits."""

from __future__ import annotations

import math
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from flow_packets import START_US, drained
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sensor.flows import FlowTable
from sensor.schema import FLOW, PACKET, UDP, V4_MAPPED
from sensor.spellings import STATISTICS
from sensor.statistics import Reading, Rules, column
from sensor.statistics_kernel import high_half, variance

LOW64 = (1 << 64) - 1
RELATIVE = 1e-15
"""Some roundings of a double, the last ones; none before."""

HOUR_US = 3_600_000_000

uint64 = st.integers(0, LOW64) | st.sampled_from((0, 1, LOW64, LOW64 - 1, 1 << 32, (1 << 32) - 1, 1 << 63))


def ours(n: int, total: int, square: int) -> float:
    return float(variance(np.int64(n), np.int64(total), np.uint64(square & LOW64), np.uint64(square >> 64)))


def exact(n: int, total: int, square: int) -> Fraction:
    return Fraction(n * square - total * total, n * (n - 1))


def naive(n: int, total: int, square: int) -> float:
    """The same formula in doubles."""
    return (float(square) - float(total) * float(total) / n) / (n - 1)


@st.composite
def sums(draw: st.DrawFn) -> tuple[int, int, int]:
    """Count, sum and sum of squares that some integers can have: the squares are at least those of equal samples."""
    n = draw(st.integers(2, 100) | st.integers(2, 1 << 40))
    total = draw(st.integers(-(1 << 63) + 1, (1 << 63) - 1))
    least = -(-total * total // n)
    square = least + draw(st.integers(0, 3) | st.integers(0, (1 << 128) - 1))
    return n, total, min(square, max(least, (1 << 128) - 1))


@settings(deadline=None)
@given(uint64, uint64)
def test_the_upper_half_of_a_product_is_that_of_python(a: int, b: int) -> None:
    assert int(high_half(np.uint64(a), np.uint64(b))) == a * b >> 64


@settings(max_examples=500, deadline=None)
@given(sums())
def test_variance_is_the_exact_one_rounded_for_sums_of_128_bits(drawn: tuple[int, int, int]) -> None:
    assert math.isclose(ours(*drawn), exact(*drawn), rel_tol=RELATIVE, abs_tol=0.0)


@pytest.mark.parametrize("n", [3, 1001, (1 << 32) + 1, (1 << 40) - 1])
def test_a_carry_out_of_the_middle_digit_is_taken_along(n: int) -> None:
    square = (-pow(n, -1, 1 << 64) % (1 << 64)) << 64 | LOW64
    assert (n * (square >> 64) & LOW64) == LOW64
    assert math.isclose(ours(n, 1 << 60, square), exact(n, 1 << 60, square), rel_tol=RELATIVE)


@settings(deadline=None)
@given(st.integers(2, 1 << 40), st.integers(1 << 34, (1 << 63) - 1), st.data())
def test_a_borrow_through_an_equal_middle_digit_is_taken_along(n: int, total: int, data: st.DataObject) -> None:
    """The products differ above the middle digit, and in the lowest the other way round."""
    upper = data.draw(st.integers(1, n - 1)) << 128 | total * total >> 64 << 64
    low = -upper % n
    assume(low < total * total & LOW64)
    square = (upper + low) // n
    assert math.isclose(ours(n, total, square), exact(n, total, square), rel_tol=RELATIVE)


@settings(deadline=None)
@given(st.lists(st.integers(-(1 << 40), 1 << 40), min_size=2, max_size=30))
def test_variance_of_samples_is_the_exact_one_rounded(samples: list[int]) -> None:
    found = ours(len(samples), sum(samples), sum(sample * sample for sample in samples))
    mean = Fraction(sum(samples), len(samples))
    assert math.isclose(found, sum((sample - mean) ** 2 for sample in samples) / (len(samples) - 1), rel_tol=RELATIVE)


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_samples_have_no_variance(n: int) -> None:
    assert ours(n, 7 * n, 49 * n) == 0.0


@pytest.mark.parametrize("n", [2, 3, 1000, 10**6, 10**9])
def test_equal_samples_have_no_variance_at_all(n: int) -> None:
    sample = HOUR_US if n < 10**6 else 10**6 + 1
    assert ours(n, n * sample, n * sample * sample) == 0.0


@pytest.mark.parametrize(("early", "due", "late"), [(1, 0, 1), (1_000_000, 1_000_000, 1_000_000), (1, 2_000_000, 1)])
def test_jitter_of_a_microsecond_in_an_hour_is_told_where_doubles_tell_nothing(early: int, due: int, late: int) -> None:
    n = early + due + late
    total = n * HOUR_US + late - early
    square = early * (HOUR_US - 1) ** 2 + due * HOUR_US**2 + late * (HOUR_US + 1) ** 2
    jitter = Fraction(early + late, n - 1) - Fraction((late - early) ** 2, n * (n - 1))
    assert exact(n, total, square) == jitter
    assert math.isclose(ours(n, total, square), jitter, rel_tol=RELATIVE)
    assert abs(naive(n, total, square) - jitter) > jitter / 2


def test_a_beacon_is_as_regular_in_its_column_as_on_the_wire() -> None:
    rows = np.zeros(200_001, PACKET)
    jitter = np.random.default_rng(7).integers(-1, 2, len(rows))
    rows["ts_us"] = START_US + np.arange(len(rows)) * HOUR_US + jitter
    rows["src_lo"], rows["dst_lo"], rows["protocol"] = V4_MAPPED | 1, V4_MAPPED | 2, UDP
    table = FlowTable(expiry=False, active_s=1e12, seed=1)
    flows = np.concatenate([table.feed(rows).copy(), drained(table)])
    gaps = [int(gap) for gap in np.diff(rows["ts_us"])]
    expected = math.sqrt(exact(len(gaps), sum(gaps), sum(gap * gap for gap in gaps)))
    for name in ("Flow IAT Std", "Fwd IAT Std", "Idle Std"):
        assert math.isclose(float(column(Reading(flows), name)[0]), expected, rel_tol=RELATIVE)


def made_up(n: int) -> NDArray[np.void]:
    """FLOW rows whose sums are those of some samples each, gaps of an hour among them."""
    rng, flows = np.random.default_rng(3), np.zeros(n, FLOW)
    for row in flows:
        row["protocol"], row["first_is_bwd"], row["long_gaps"] = rng.choice((1, 6, 17, 47)), rng.integers(2), rng.integers(3)
        for side in ("fwd", "bwd"):
            sizes = rng.integers(0, 2**18, rng.integers(1, 6))
            row[side]["packets"], row[side]["payload"]["sum"] = len(sizes), sizes.sum()
            row[side]["payload"]["square"] = (sizes * sizes).sum()
            fill(row[side], rng.integers(-5, HOUR_US, len(sizes) - 1))
        fill(row, rng.integers(-5, HOUR_US, row["fwd"]["packets"] + row["bwd"]["packets"] - 1))
        for name in ("active", "idle"):
            lengths = [int(length) for length in rng.integers(1, HOUR_US, rng.integers(0, 5))]
            row[name]["n"], row[name]["sum"] = len(lengths), sum(lengths)
            halves(row[name], lengths)
        row["active_start_us"] = row["last_us"] - rng.integers(-9, HOUR_US)
    return flows


def fill(row: np.void, gaps: NDArray[np.int64]) -> None:
    row["first_us"], row["last_us"] = START_US, START_US + gaps.sum()
    halves(row["gap"], [int(gap) for gap in gaps])


def halves(row: np.void, samples: list[int]) -> None:
    square = sum(sample * sample for sample in samples)
    row["square_lo"], row["square_hi"] = square & LOW64, square >> 64


def test_payload_squares_of_both_sides_may_carry_beyond_64_bits() -> None:
    flows = np.zeros(1, FLOW)
    n, size = 2**28, 2**18 - 1
    for side in ("fwd", "bwd"):
        flows[side]["packets"], flows[side]["payload"]["sum"] = n, size
        flows[side]["payload"]["square"] = LOW64 - 5
    reading = Reading(flows)
    assert math.isclose(reading.spread("payload")[0], exact(2 * n, 2 * size, 2 * (LOW64 - 5)), rel_tol=RELATIVE)
    assert math.isclose(reading.spread("fwd_payload")[0], exact(n, size, LOW64 - 5), rel_tol=RELATIVE)


@pytest.mark.parametrize("rules", ["netseq", "cicflowmeter"])
def test_kernels_in_plain_python_give_the_same_bytes(rules: Rules, tmp_path: Path) -> None:
    flows = made_up(400)
    np.save(tmp_path / "flows.npy", flows)
    program = Path(__file__).with_name("statistics_uncompiled.py")
    command = [sys.executable, str(program), str(tmp_path / "flows.npy"), str(tmp_path / "columns.npy"), rules]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=program.parents[1])
    assert run.returncode == 0, run.stderr
    reading = Reading(flows, rules)
    expected = np.stack([column(reading, name).astype(np.float64) for name in STATISTICS])
    assert np.isfinite(expected).all()
    assert np.load(tmp_path / "columns.npy").tobytes() == expected.tobytes()
