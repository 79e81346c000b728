"""Conversation-hours, what scores come to in them, and the measures of `measures` for two plain arrays of scores.

Training fits and calibrates on the conversation-hours defined here; `netseq-evaluate` measures on them, and
`benchmarks/word_models.py` prints the tables of docs/models.md.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models import measures

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


def means(scores: Floats, hours: HoursOf, top: int | None = None) -> NDArray[np.float64]:
    """Mean score of each conversation-hour, or of its `top` highest ones: (N,) -> (H,). NaN is left out; -inf where all are."""
    known = np.isfinite(scores)
    number, value = hours.number[known], scores[known].astype(np.float64)
    if top is not None:
        order = np.lexsort((-value, number))
        number, value = number[order], value[order]
        first = np.searchsorted(number, number)
        kept = np.arange(len(number)) - first < top
        number, value = number[kept], value[kept]
    count = np.bincount(number, minlength=len(hours.last))
    total = np.bincount(number, value, minlength=len(hours.last))
    return np.where(count > 0, total / np.maximum(count, 1), -np.inf)


def auc(attack: Floats, benign: Floats) -> float:
    """Area under the ROC curve: how often an attack scores above a benign row, ties counting half. NaN without one of both."""
    return float(measures.area(_walk(attack, benign))[0])


def average_precision(attack: Floats, benign: Floats) -> float:
    """Area under the precision-recall curve as the sum of precision times step in recall; tied scores are one step."""
    return float(measures.average_precision(_walk(attack, benign))[0])


def recall_at(attack: Floats, benign: Floats, false_share: float) -> float:
    """Share of attacks strictly above the score that at most a share `false_share` of benign rows exceeds."""
    return float(measures.found_at(_walk(attack, benign), false_share)[0])


def _walk(attack: Floats, benign: Floats) -> measures.Steps:
    return measures.walk(np.concatenate([attack, benign]), np.arange(len(attack) + len(benign)) < len(attack))
