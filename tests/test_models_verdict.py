from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_examples import PARTS

from models import calibrate, verdict
from models.verdict import Weights, columns

EVIDENCE = len(columns(len(PARTS)))
numbers = st.floats(0, 16, allow_nan=False)


def made_up(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Conversation-hours in which attacks have more of some evidence, less of some, and the rest is noise."""
    random = np.random.default_rng(seed)
    attack = random.random(count) < 0.3
    largest = random.gamma(2.0, 1.0, (count, EVIDENCE))
    largest[attack, 0] += 3
    largest[attack, 1] *= 0.2
    return largest, largest * random.uniform(0.3, 1.0, largest.shape), attack


@functools.cache
def fitted() -> Weights:
    return verdict.fit(*made_up(300), steps=200)


@given(st.lists(numbers, min_size=2 * EVIDENCE, max_size=2 * EVIDENCE), st.integers(0, 2 * EVIDENCE - 1), numbers)
def test_more_surprise_never_lowers_a_verdict(evidence: list[float], place: int, more: float) -> None:
    weights = fitted()
    row = np.array(evidence)
    higher = row.copy()
    higher[place] += more
    both = np.stack([row, higher])
    low, high = weights.verdict(both[:, :EVIDENCE], both[:, EVIDENCE:])
    assert high >= low


def test_fit_weighs_what_attacks_have_more_of_and_nothing_that_they_have_less_of() -> None:
    largest, mean, attack = made_up(2000)
    weights = verdict.fit(largest, mean, attack)
    assert weights.largest[0] + weights.mean[0] > 0.5
    assert weights.largest[1] == weights.mean[1] == 0
    verdicts = weights.verdict(largest, mean)
    assert np.median(verdicts[attack]) > np.quantile(verdicts[~attack], 0.9)


def test_fit_is_the_optimum_of_the_penalised_logistic_loss() -> None:
    largest, mean, attack = made_up(500)
    weights = verdict.fit(largest, mean, attack, ridge=0.1)
    features = np.concatenate([largest, mean], axis=1)
    scale = features.std(axis=0)
    found = np.append(np.concatenate([weights.largest, weights.mean]) * scale, weights.bias)
    share = np.where(attack, 0.5 / attack.sum(), 0.5 / (~attack).sum())

    def loss(at: np.ndarray) -> float:
        odds = features / scale @ at[:-1] + at[-1]
        return float((share * (np.logaddexp(0, odds) - attack * odds)).sum() + 0.05 * (at[:-1] ** 2).sum())

    best = loss(found)
    random = np.random.default_rng(1)
    for _ in range(200):
        step = random.normal(0, 0.02, len(found))
        near = found + step
        near[:-1] = np.maximum(near[:-1], 0)
        assert loss(near) >= best - 1e-9


def test_a_column_that_is_not_allowed_weighs_nothing() -> None:
    largest, mean, attack = made_up(500)
    allowed = np.ones(EVIDENCE, np.bool_)
    allowed[0] = False
    weights = verdict.fit(largest, mean, attack, allowed=allowed)
    assert weights.largest[0] == weights.mean[0] == 0


def test_weights_survive_the_manifest_and_strange_ones_are_refused() -> None:
    largest, mean, attack = made_up(500)
    weights = verdict.fit(largest, mean, attack)
    back = verdict.from_json(weights.to_json(PARTS), PARTS)
    assert np.allclose(back.largest, weights.largest, atol=1e-6)
    assert np.allclose(back.mean, weights.mean, atol=1e-6)
    for wrong, said in (
        ({"bias": 0.0, "largest": {"lstm colour": 1.0}}, "lstm colour"),
        ({"bias": 0.0, "mean": {"lstm sent": -1.0}}, "negative"),
        ({"largest": {}}, "bias"),
    ):
        with pytest.raises(ValueError, match=said):
            verdict.from_json(wrong, PARTS)


def benign(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).gumbel(-4, 1.5, count)


@given(st.integers(10, 3000), st.integers(0, 50), st.lists(st.floats(-50, 80), min_size=2, max_size=50))
def test_p_values_never_rise_with_the_verdict_and_are_never_zero(count: int, seed: int, verdicts: list[float]) -> None:
    made = calibrate.calibrate(np.round(benign(count, seed), 1), 1.0)  # rounded: ties
    p = made.p_value(np.sort(np.array(verdicts)))
    assert (np.diff(p) <= 0).all()
    assert (p > 0).all()
    assert (p <= 1).all()


def test_p_value_below_the_tail_is_one_more_than_those_at_least_as_high() -> None:
    sample = benign(400)
    made = calibrate.calibrate(sample, 1.0)
    for at in np.round(np.quantile(sample, [0.0, 0.2, 0.5, 0.8, 0.9]), 5):
        expected = (1 + (np.round(sample, 5) >= at).sum()) / 401
        assert float(made.p_value(np.array([at]))[0]) == pytest.approx(expected)


def test_pareto_says_how_rare_verdicts_beyond_the_sample_are() -> None:
    made = calibrate.calibrate(benign(20_000), 1.0)
    truth = 1 - np.exp(-np.exp(-(np.array([8.0, 10.0, 12.0]) + 4) / 1.5))
    p = made.p_value(np.array([8.0, 10.0, 12.0]))
    assert (np.abs(np.log(p / truth)) < np.log(6)).all()  # 3e-4, 9e-5 and 2e-5, from 20 excesses
    assert p[2] < 1 / 20_001


def test_what_may_be_told_ends_an_order_of_magnitude_beyond_the_sample() -> None:
    stored = calibrate.calibrate(benign(1088), 1.0).to_json()
    read = calibrate.from_json(stored)
    assert read.least_p == pytest.approx(1 / 10_890)
    assert read.p_value(np.array([1e3]))[0] < read.least_p  # which a rank may be
    assert calibrate.calibrate(benign(20_000), 1.0).least_p == pytest.approx(1 / 200_010)


def test_held_back_hours_of_the_same_kind_alert_at_the_rate_asked_for() -> None:
    made = calibrate.calibrate(benign(5000, seed=1), 1.0)
    p = made.p_value(benign(50_000, seed=2))
    for share in (0.1, 0.01, 0.002):
        assert (p <= share).mean() == pytest.approx(share, rel=0.5)


def test_calibration_survives_the_manifest_also_when_it_was_thinned() -> None:
    made = calibrate.calibrate(benign(30_000), 12.0)
    assert len(made.verdicts) <= calibrate.KEPT
    assert made.per_day == pytest.approx(2500)
    back = calibrate.from_json(made.to_json())
    at = np.linspace(-12, 30, 500)
    assert np.allclose(back.p_value(at), made.p_value(at), rtol=1e-3)


def test_too_few_hours_and_broken_tails_are_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match="only 9 benign"):
        calibrate.calibrate(benign(9), 1.0)
    stored = calibrate.calibrate(benign(100), 1.0).to_json()
    for change, said in (
        ({"verdicts": [2.0, 1.0], "at_least": [1, 2]}, "must rise"),
        ({"scale": 0.0}, "above 0"),
        ({"shape": "x"}, "incomplete"),
    ):
        with pytest.raises(ValueError, match=said):
            calibrate.from_json(stored | change)
    with pytest.raises(ValueError, match="incomplete"):
        calibrate.from_json({"scale": 1.0})


def test_a_shed_flow_s_missing_verdict_is_the_least_rare() -> None:
    assert calibrate.calibrate(benign(100), 1.0).p_value(np.array([np.nan]))[0] == 1.0


def test_the_plain_verdict_rises_with_every_voice_it_hears() -> None:
    plain = verdict.plain(len(PARTS))
    assert isinstance(plain, Weights)
    assert plain.largest.min() >= 0
    assert plain.mean.max() > 0
