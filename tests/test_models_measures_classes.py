from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

from models.measures_classes import classified, confusion
from models.multiflow_baselines import BASELINES, RANKING, Settings, prepared, rank, thinned

CLASSES = 4
pairs = st.lists(st.tuples(st.integers(0, CLASSES - 1), st.integers(0, CLASSES - 1)), min_size=1, max_size=40)


@settings(max_examples=50)
@given(pairs)
def test_the_measures_are_scikit_learn_s(rows: list[tuple[int, int]]) -> None:
    truth, told = (np.array(column) for column in zip(*rows, strict=True))
    found = classified(truth, told, CLASSES, np.arange(len(truth)), resamples=0)
    assert found.accuracy.value == pytest.approx(accuracy_score(truth, told))
    assert (found.confusion == confusion_matrix(truth, told, labels=range(CLASSES))).all()
    there = np.unique(truth)
    sides = precision_recall_fscore_support(truth, told, labels=there, zero_division=0)
    for ours, theirs in zip((found.precision, found.recall, found.f1), sides, strict=False):
        assert [ours[number].value for number in there] == pytest.approx(theirs)
        assert all(np.isnan(ours[number].value) for number in set(range(CLASSES)) - set(there))
    means = precision_recall_fscore_support(truth, told, labels=there, zero_division=0, average="macro")
    assert (found.macro_precision.value, found.macro_recall.value, found.macro_f1.value) == pytest.approx(means[:3])


def test_intervals_come_from_whole_groups_and_repeat_with_the_seed() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, CLASSES, 300)
    told = np.where(random.random(300) < 0.7, truth, random.integers(0, CLASSES, 300))
    alone = classified(truth, told, CLASSES, np.arange(300), resamples=200)
    assert alone == classified(truth, told, CLASSES, np.arange(300), resamples=200)._replace(confusion=alone.confusion)
    assert alone.accuracy.low < alone.accuracy.value < alone.accuracy.high
    again, groups = np.repeat(truth, 9), np.repeat(np.arange(300), 9)
    repeated = classified(again, np.repeat(told, 9), CLASSES, groups, resamples=200)
    wide, same = alone.macro_f1.high - alone.macro_f1.low, repeated.macro_f1.high - repeated.macro_f1.low
    assert same == pytest.approx(wide, rel=0.3)


def test_a_class_of_one_sequence_is_in_every_resample() -> None:
    truth, told = np.array([0] * 50 + [1]), np.array([0] * 50 + [1])
    found = classified(truth, told, 2, np.arange(51), resamples=100)
    assert found.recall[1] == (1, 1, 1)


def test_no_rows_are_measured_as_nothing() -> None:
    none = np.empty(0, np.int64)
    nothing = classified(none, none, CLASSES, none)
    assert np.isnan(nothing.accuracy.value)
    assert confusion(np.array([0, 1]), np.array([1, 1]), 2).tolist() == [[0, 1], [0, 1]]


def clouds(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Three classes that lie apart in two columns; the third column is unknown half of the time, the fourth always."""
    random = np.random.default_rng(seed)
    label = random.integers(0, 3, number)
    rows = np.full((number, 4), np.nan, np.float32)
    rows[:, :2] = np.exp(random.normal(0, 0.3, (number, 2)) + np.array([[0, 0], [3, 0], [0, 3]])[label])
    rows[::2, 2] = 1.0
    return rows, label


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_learns_what_is_easy_and_repeats_itself(name: str) -> None:
    (rows, label), (others, truth) = clouds(400, 0), clouds(200, 1)
    training, test = prepared(rows, others)
    assert np.isfinite(training).all()
    torch.set_num_threads(1)
    small = Settings(units=16, flows=3, epochs=60)
    told = BASELINES[name](training, label, test, small)
    assert (told == truth).mean() > 0.8
    assert (told == BASELINES[name](training, label, test, small)).all()


@pytest.mark.parametrize("name", RANKING)
def test_certainty_of_an_attack_is_what_the_benign_class_leaves_over(name: str) -> None:
    torch.set_num_threads(1)
    (rows, label), (test, truth) = clouds(300, 0), clouds(90, 1)
    training, tested = prepared(rows, test)
    certain = rank(name, training, label, tested, Settings())
    assert certain.shape == (len(test),)
    assert ((certain >= 0) & (certain <= 1)).all()
    assert certain[truth == 0].max() < 0.5 < certain[truth > 0].min()
    np.testing.assert_array_equal(certain, rank(name, training, label, tested, Settings()))
    assert rank(name, training, label, tested[:0], Settings()).shape == (0,)


def test_the_unknown_is_marked_only_where_that_varies() -> None:
    rows, _ = clouds(100, 0)
    training, test = prepared(rows, rows[:10])
    assert training.shape[1] == test.shape[1] == 5


def test_thinning_leaves_no_class_out() -> None:
    label = np.array([0] * 990 + [1] * 9 + [2])
    kept = thinned(label, np.arange(1000), 100, seed=1)
    assert len(kept) == pytest.approx(100, abs=3)
    assert set(label[kept]) == {0, 1, 2}
    assert (np.diff(kept) > 0).all()
    assert thinned(label, np.arange(50), 100, seed=1).tolist() == list(range(50))
