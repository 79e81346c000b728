from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from models.evaluate import auc, average_precision, conversation_hours, highest, recall_at

scores = st.lists(st.integers(0, 8), min_size=1, max_size=40)


@given(scores, scores)
def test_areas_are_scikit_learn_s_also_with_ties(attack: list[int], benign: list[int]) -> None:
    truth, joined = [1] * len(attack) + [0] * len(benign), np.array(attack + benign, float)
    hits, misses = joined[: len(attack)], joined[len(attack) :]
    assert auc(hits, misses) == pytest.approx(roc_auc_score(truth, joined))
    assert average_precision(hits, misses) == pytest.approx(average_precision_score(truth, joined))


@given(scores, scores, st.sampled_from([0.0, 0.001, 0.1, 0.5]))
def test_recall_never_allows_more_false_alarms_than_asked(attack: list[int], benign: list[int], share: float) -> None:
    hits, misses = np.array(attack, float), np.array(benign, float)
    recall = recall_at(hits, misses, share)
    allowed = [t for t in np.unique(np.concatenate([hits, misses, [-1.0]])) if (misses > t).mean() <= share]
    assert recall == pytest.approx(max((hits > t).mean() for t in allowed))


def test_a_conversation_hour_ends_with_the_hour_and_with_a_restart() -> None:
    slots = np.array([0, 1, 0, 0, 1, 0], np.int32)
    hour = np.array([5, 5, 5, 6, 5, 6])
    restart = np.array([True, True, False, False, True, False])
    hours = conversation_hours(slots, restart, hour)
    assert len(hours.last) == 4
    assert [set(np.flatnonzero(hours.number == number).tolist()) for number in hours.number[[0, 3, 1, 4]]] == [
        {0, 2},
        {3, 5},
        {1},
        {4},
    ]
    assert sorted(hours.last.tolist()) == [1, 2, 4, 5]
    best = highest(np.array([1.0, np.nan, 3.0, 2.0, 7.0, 0.0]), hours)
    assert best[hours.number].tolist() == [3.0, -np.inf, 3.0, 2.0, 7.0, 2.0]
