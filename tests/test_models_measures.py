from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from models.evaluate import conversation_hours, means
from models.measures import RATES, area, average_precision, found_at, ranking, walk

rows = st.lists(st.tuples(st.integers(0, 6), st.booleans(), st.integers(0, 4)), min_size=1, max_size=30)


def both_kinds(number: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    attack = random.random(number) < 0.3
    return random.normal(attack * 1.0), attack


@given(rows)
def test_weights_count_rows_as_often_as_scikit_learn_s_do(given: list[tuple[int, bool, int]]) -> None:
    scores, attack, weight = (np.array(column) for column in zip(*given, strict=True))
    if not (weight[attack].sum() and weight[~attack].sum()):
        return
    steps = walk(scores, attack, weight[None].astype(float))
    assert area(steps)[0] == pytest.approx(roc_auc_score(attack, scores, sample_weight=weight))
    assert average_precision(steps)[0] == pytest.approx(average_precision_score(attack, scores, sample_weight=weight))


@given(rows, st.sampled_from([0.0, 0.01, 0.2, 1.0]))
def test_a_row_of_weight_two_is_a_row_told_twice(given: list[tuple[int, bool, int]], rate: float) -> None:
    scores, attack, weight = (np.array(column) for column in zip(*given, strict=True))
    weighed = found_at(walk(scores, attack, weight[None].astype(float)), rate)
    told = found_at(walk(np.repeat(scores, weight), np.repeat(attack, weight)), rate)
    assert weighed[0] == pytest.approx(told[0], nan_ok=True)


def test_intervals_repeat_with_the_seed_and_hold_the_value() -> None:
    scores, attack = both_kinds()
    one, again, other = (ranking(scores, attack, np.arange(len(scores)), resamples=100, seed=seed) for seed in (1, 1, 2))
    assert one == again
    assert one != other
    assert one.area.low < one.area.value < one.area.high
    assert one.prevalence == pytest.approx(attack.mean())
    assert len(one.found) == len(RATES)


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    truth = 0.760  # of a standard normal below another one that is shifted by 1
    held = [ranking(*both_kinds(200, seed), np.arange(200), resamples=100).area for seed in range(60)]
    assert np.mean([low <= truth <= high for _, low, high in held]) > 0.85


def test_rows_of_one_group_are_no_witnesses_of_their_own() -> None:
    scores, attack = both_kinds(60)
    alone = ranking(scores, attack, np.arange(60), resamples=200).area
    repeated = ranking(np.repeat(scores, 20), np.repeat(attack, 20), np.repeat(np.arange(60), 20), resamples=200).area
    assert repeated.high - repeated.low == pytest.approx(alone.high - alone.low, rel=0.3)


def test_without_attacks_or_rows_nothing_is_said() -> None:
    nothing = ranking(np.zeros(3), np.zeros(3, np.bool_), np.arange(3))
    assert np.isnan(nothing.area.value)
    assert np.isnan(nothing.found[0].value)
    assert np.isnan(ranking(np.zeros(0), np.zeros(0, np.bool_), np.zeros(0, np.int64)).precision.value)


def test_means_of_conversation_hours_leave_out_what_is_not_known() -> None:
    slots, restart = np.array([0, 0, 0, 0, 1], np.int32), np.array([True, False, False, False, True])
    hours = conversation_hours(slots, restart, np.zeros(5, np.int64))
    scores = np.array([1.0, 4.0, np.nan, 2.0, np.nan])
    assert means(scores, hours).tolist() == pytest.approx([7 / 3, -np.inf])
    assert means(scores, hours, top=2).tolist() == [3.0, -np.inf]
