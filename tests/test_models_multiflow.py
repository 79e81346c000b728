"""The multi-flow model: its windows against a plain loop, its scoring form against torch's own LSTM, its scale."""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from models.multiflow import MultiFlow, Shape, lay
from models.scale import LIMIT, Scale, fit, scaled
from models.windows import Windows, sequences

SHAPE = Shape(columns=6, classes=3, flows=4, units=16, attention=8)


def model_of(rows: NDArray[np.float32]) -> MultiFlow:
    torch.manual_seed(3)
    return MultiFlow(SHAPE, fit(rows)).eval()


def some_rows(n: int, seed: int = 1) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    rows = np.exp(rng.normal(3, 3, (n, SHAPE.columns))).astype(np.float32)
    rows[rng.random(rows.shape) < 0.1] = np.nan
    return rows


def plain(slots: list[int], restart: list[bool], flows: int) -> list[list[int]]:
    """Windows by a loop: the current row last, -1 in front."""
    past: dict[int, list[int]] = defaultdict(list)
    found = []
    for row, (slot, again) in enumerate(zip(slots, restart, strict=True)):
        if again:
            past[slot] = []
        past[slot].append(row)
        last = past[slot][-flows:]
        found.append([-1] * (flows - len(last)) + last)
    return found


batches = st.lists(st.tuples(st.integers(0, 4), st.sampled_from((False, False, False, True))), max_size=60)


@given(batches, st.integers(2, 6))
def test_windows_are_those_of_a_plain_loop(turns: list[tuple[int, bool]], flows: int) -> None:
    slots, restart = [slot for slot, _ in turns], [again for _, again in turns]
    found = sequences(np.array(slots, np.int32), np.array(restart, np.bool_), flows)
    assert found.tolist() == plain(slots, restart, flows)


@settings(deadline=None)
@given(batches, st.lists(st.integers(0, 60), max_size=6), st.integers(2, 6))
def test_cutting_the_flows_into_batches_changes_no_window(turns: list[tuple[int, bool]], cuts: list[int], flows: int) -> None:
    slots = np.array([slot for slot, _ in turns], np.int32)
    restart = np.array([again for _, again in turns], np.bool_)
    rows = torch.arange(len(slots), dtype=torch.float32)[:, None]
    resident = Windows(5, flows, 1, torch.device("cpu"))
    found: list[list[int]] = []
    bounds = sorted({0, len(slots), *(cut for cut in cuts if cut < len(slots))})
    for start, stop in itertools.pairwise(bounds):
        buffer, windows = resident.push(rows[start:stop], slots[start:stop], restart[start:stop])
        seen = torch.where(windows >= 0, buffer[windows.clamp(min=0), 0], -1.0)
        found += seen.to(torch.int64).tolist()
    assert found == plain(slots.tolist(), restart.tolist(), flows)


def test_windows_go_on_from_a_saved_state() -> None:
    first, second = Windows(2, 3, 1, torch.device("cpu")), Windows(2, 3, 1, torch.device("cpu"))
    first.push(torch.tensor([[1.0], [2.0]]), np.zeros(2, np.int32), np.array([True, False]))
    second.restore(first.state())
    buffer, windows = second.push(torch.tensor([[3.0]]), np.zeros(1, np.int32), np.array([False]))
    assert buffer[windows[0], 0].tolist() == [1.0, 2.0, 3.0]
    with pytest.raises(RuntimeError):
        Windows(3, 3, 1, torch.device("cpu")).restore(first.state())


def test_a_window_of_one_flow_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        Windows(2, 1, 1, torch.device("cpu"))


def both(rows: Tensor, windows: Tensor, model: MultiFlow) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits and attention of torch's LSTM, and of the form that scores."""
    there = windows >= 0
    padded = torch.where(there[..., None], rows[windows.clamp(min=0)], torch.nan)
    with torch.inference_mode():
        trained = model(padded, there.sum(dim=1))
        scoring = lay(model)
        judged = scoring.judge(scoring.read(rows), windows)
    return trained.logits, trained.attention, judged.logits, judged.attention


def test_scoring_gives_what_was_trained_for_windows_of_every_length() -> None:
    rows = some_rows(40)
    rng = np.random.default_rng(5)
    windows = torch.from_numpy(sequences(rng.integers(0, 12, 40), np.zeros(40, np.bool_), SHAPE.flows))
    assert set((windows >= 0).sum(dim=1).tolist()) == {1, 2, 3, 4}
    logits, attention, scored, attended = both(torch.from_numpy(rows), windows, model_of(rows))
    torch.testing.assert_close(scored, logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(attended, attention, atol=1e-5, rtol=1e-5)


def test_attention_sums_to_one_over_the_flows_that_are_there() -> None:
    rows = some_rows(8)
    windows = torch.tensor([[-1, -1, 0, 1], [2, 3, 4, 5], [-1, -1, -1, 6]])
    _, attention, _, attended = both(torch.from_numpy(rows), windows, model_of(rows))
    for weights in (attention, attended):
        torch.testing.assert_close(weights.sum(dim=1), torch.ones(3))
        assert (weights[windows < 0] == 0).all()
        assert (weights[windows >= 0] > 0).all()


def test_what_is_unknown_differs_from_what_is_the_median() -> None:
    rows = np.tile(some_rows(1, seed=2), (2, 1))
    rows[0, 2], rows[1, 2] = np.nan, 0.0
    model = model_of(some_rows(200))
    model.get_buffer("centre")[2] = 0.0  # so that 0 is the median, and the values given to the LSTM are the same
    logits, _, _, _ = both(torch.from_numpy(rows), torch.tensor([[-1, -1, -1, 0], [-1, -1, -1, 1]]), model)
    assert (logits[0] - logits[1]).abs().max() > 1e-4


def test_flows_that_are_not_in_the_window_change_nothing() -> None:
    rows = some_rows(6)
    other = rows.copy()
    other[:2] *= 1000
    windows, model = torch.tensor([[-1, -1, 4, 5]]), model_of(rows)
    for one, two in zip(
        both(torch.from_numpy(rows), windows, model), both(torch.from_numpy(other), windows, model), strict=True
    ):
        assert torch.equal(one, two)


def test_the_scale_is_median_and_quartiles_of_the_signed_logarithm() -> None:
    rows = np.array([[-np.expm1(1), 5], [0, 5], [np.expm1(1), 5], [np.expm1(2), 5], [np.nan, 5]], np.float32)
    scale = fit(rows)
    np.testing.assert_allclose(scale.centre, [0.5, np.log(6)], rtol=1e-6)
    np.testing.assert_allclose(scale.spread, [(1.25 - -0.25) / 1.349, 1.0], rtol=1e-6)


def test_columns_that_were_never_known_and_broken_numbers_stay_finite() -> None:
    rows = np.full((4, 2), np.nan, np.float32)
    rows[:, 1] = (np.inf, -np.inf, 1e38, 0)
    scale = fit(rows)
    assert np.isfinite(scale.centre).all()
    assert (scale.spread > 0).all()
    values, known = scaled(torch.from_numpy(rows), *scale.to(torch.device("cpu")))
    assert torch.isfinite(values).all()
    assert values.abs().max() <= LIMIT
    assert known.tolist() == [[0, 0], [0, 0], [0, 1], [0, 1]]


def test_a_column_that_is_mostly_one_value_is_measured_by_its_deviation() -> None:
    rows = np.zeros((100, 1), np.float32)
    rows[:5] = np.expm1(2)
    assert fit(rows).spread[0] == pytest.approx(np.sqrt(0.05 * 0.95) * 2, rel=1e-4)


def test_bfloat16_gives_nearly_the_same_attention() -> None:
    rows = some_rows(40)
    windows = torch.from_numpy(sequences(np.arange(40) % 7, np.zeros(40, np.bool_), SHAPE.flows))
    model = model_of(rows)
    with torch.inference_mode():
        exact, rounded = lay(model), lay(model, dtype=torch.bfloat16)
        given = torch.from_numpy(rows)
        one, two = exact.judge(exact.read(given), windows), rounded.judge(rounded.read(given), windows)
    torch.testing.assert_close(one.logits, two.logits, atol=0.05, rtol=0.05)
    torch.testing.assert_close(one.attention, two.attention, atol=0.05, rtol=0.05)


def test_the_scale_refuses_no_shape_that_the_model_has() -> None:
    scale = Scale(np.zeros(SHAPE.columns, np.float32), np.ones(SHAPE.columns, np.float32))
    judged = MultiFlow(SHAPE, scale)(torch.zeros(2, SHAPE.flows, SHAPE.columns), torch.tensor([1, 4]))
    assert judged.logits.shape == (2, SHAPE.classes)
    assert judged.attention.shape == (2, SHAPE.flows)
