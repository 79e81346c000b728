"""How good scores are: measures over rows and over conversation-hours, with the ties that scores of small integers have.

Everything is plain numpy on two arrays, scores and which rows are attacks; scikit-learn is the oracle of the tests only.
`benchmarks/word_models.py` prints the tables of docs/models.md with it; training fits and calibrates on the
conversation-hours defined here.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


class HoursOf(NamedTuple):
    """Which conversation-hour each of N rows belongs to."""

    number: NDArray[np.int64]
    """(N,) from 0 to H - 1."""
    last: NDArray[np.int64]
    """(H,) the last row of each."""


def conversation_hours(slots: NDArray[np.integer], restart: NDArray[np.bool_], hour: NDArray[np.integer]) -> HoursOf:
    """Number the conversation-hours of (N,) rows in their order: as `hours` accumulates them, from restart to restart."""
    order = np.argsort(slots, kind="stable")
    turns = restart[order].copy()
    turns[:1] = True
    turns[1:] |= (slots[order][1:] != slots[order][:-1]) | (hour[order][1:] != hour[order][:-1])
    number = np.empty(len(slots), np.int64)
    number[order] = np.cumsum(turns) - 1
    last = np.zeros(int(turns.sum()), np.int64)
    np.maximum.at(last, number, np.arange(len(slots)))
    return HoursOf(number, last)


def highest(scores: Floats, hours: HoursOf) -> NDArray[np.float64]:
    """The highest score of each conversation-hour: (N,) -> (H,). NaN counts as lowest."""
    found = np.full(len(hours.last), -np.inf)
    np.maximum.at(found, hours.number, np.nan_to_num(scores.astype(np.float64), nan=-np.inf))
    return found


def auc(attack: Floats, benign: Floats) -> float:
    """Area under the ROC curve: how often an attack scores above a benign row, ties counting half. NaN without one of both."""
    if not len(attack) or not len(benign):
        return float("nan")
    ranked = np.sort(benign)
    below, upto = np.searchsorted(ranked, attack, side="left"), np.searchsorted(ranked, attack, side="right")
    return float((below + upto).mean() / 2 / len(benign))


def average_precision(attack: Floats, benign: Floats) -> float:
    """Area under the precision-recall curve as the sum of precision times step in recall; tied scores are one step."""
    if not len(attack):
        return float("nan")
    steps = np.unique(attack)[::-1]
    hits = len(attack) - np.searchsorted(np.sort(attack), steps, side="left")
    wrong = len(benign) - np.searchsorted(np.sort(benign), steps, side="left")
    return float((np.diff(hits, prepend=0) * hits / (hits + wrong)).sum() / len(attack))


def recall_at(attack: Floats, benign: Floats, false_share: float) -> float:
    """Share of attacks strictly above the score that at most a share `false_share` of benign rows exceeds."""
    if not len(attack) or not len(benign):
        return float("nan")
    threshold = np.sort(benign)[::-1][min(int(false_share * len(benign)), len(benign) - 1)]
    return float((attack > threshold).mean())
