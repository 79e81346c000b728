"""How well scores rank attacks above benign rows, and how sure that is: areas, hits at a false-alarm rate, intervals.

Everything follows from one walk down the scores: how many attacks (`hits`) and how many benign rows (`wrong`) score at
least as high as each distinct value. Tied scores are one step, because scores of small integers tie a lot. The walk is
taken for many weightings of the rows at once, so that a bootstrap is the same code as the measure: the first weighting is
the data as they are, the others are resamples. What is resampled are groups of rows (conversations), for the flows of one
conversation are no independent witnesses; groups with attacks and groups without are drawn apart, so that no resample
lacks one kind.

Plain numpy on arrays; scikit-learn is the oracle of the tests only. `evaluate` and `netseq-evaluate` call it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Masks = NDArray[np.bool_]

CELLS = 1 << 22
"""Weights held at once: 32 MB in each of some arrays. Longer bootstraps are walked piece by piece."""
RATES = (1e-2, 1e-3, 1e-4)
"""False-alarm rates at which hits are told."""
CERTAINTY = 0.95


class Steps(NamedTuple):
    """R walks down the U distinct scores of some rows."""

    scores: Floats
    """(U,) the distinct scores, highest first."""
    hits: Floats
    """(R, U) attacks that score at least as high."""
    wrong: Floats
    """(R, U) benign rows that do."""


class Interval(NamedTuple):
    """A measure with its 95 % interval; NaN where nothing can be said."""

    value: float
    low: float
    high: float


class Ranking(NamedTuple):
    """How scores rank attacks against the rest."""

    attacks: int
    rest: int
    area: Interval
    """Area under the ROC curve."""
    precision: Interval
    """Area under the precision-recall curve; chance gives `prevalence`."""
    found: tuple[Interval, ...]
    """Share of attacks found at each of RATES."""

    @property
    def prevalence(self) -> float:
        """Share of attacks among all rows: the precision of chance."""
        return self.attacks / max(1, self.attacks + self.rest)


def walk(scores: NDArray[np.floating], attack: Masks, weights: Floats | None = None) -> Steps:
    """Walk down (N,) scores, NaN lowest; `weights` (R, N) says how often each row counts in each of R walks (once)."""
    known = np.nan_to_num(scores.astype(np.float64), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    order = np.argsort(-known, kind="stable")
    falling, hostile = known[order], attack[order]
    ends = np.append(np.flatnonzero(falling[1:] != falling[:-1]), len(falling) - 1) if len(falling) else np.empty(0, np.int64)
    if weights is None:
        counted, all_of = hostile[None].astype(np.float64), np.ones((1, len(falling)))
    else:
        all_of = weights[:, order]
        counted = all_of * hostile
    hits = np.cumsum(counted, axis=1)[:, ends]
    return Steps(falling[ends], hits, np.cumsum(all_of, axis=1)[:, ends] - hits)


def area(steps: Steps) -> Floats:
    """(R,) area under the ROC curve: how often an attack scores above a benign row, ties counting half."""
    if not len(steps.scores):
        return np.full(len(steps.hits), np.nan)
    middle = steps.hits - np.diff(steps.hits, prepend=0.0, axis=1) / 2
    wrong = np.diff(steps.wrong, prepend=0.0, axis=1)
    return _ratio((middle * wrong).sum(axis=1), steps.hits[:, -1] * steps.wrong[:, -1])


def average_precision(steps: Steps) -> Floats:
    """(R,) area under the precision-recall curve as the sum of precision times step in recall. NaN without attacks."""
    if not len(steps.scores):
        return np.full(len(steps.hits), np.nan)
    precision = steps.hits / np.maximum(steps.hits + steps.wrong, 1e-300)
    return _ratio((np.diff(steps.hits, prepend=0.0, axis=1) * precision).sum(axis=1), steps.hits[:, -1])


def found_at(steps: Steps, false_share: float) -> Floats:
    """(R,) share of attacks found by the lowest threshold at which at most a share `false_share` of benign rows alarms."""
    if not len(steps.scores):
        return np.full(len(steps.hits), np.nan)
    benign = steps.wrong[:, -1:]
    allowed = (steps.wrong <= np.floor(false_share * benign + 1e-9)).sum(axis=1)  # wrong only rises along a walk
    reached = np.take_along_axis(np.pad(steps.hits, ((0, 0), (1, 0))), allowed[:, None], axis=1)[:, 0]
    return np.where(benign[:, 0] > 0, _ratio(reached, steps.hits[:, -1]), np.nan)


def ranking(
    scores: NDArray[np.floating], attack: Masks, groups: NDArray[np.integer], *, resamples: int = 300, seed: int = 1
) -> Ranking:
    """Measure how (N,) scores rank attacks above the rest; `groups` (N,) are resampled `resamples` times with `seed`."""
    order = np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind="stable")  # each walk sorts again, which is quick then
    scores, attack, groups = scores[order], attack[order], groups[order]
    pieces = [
        (area(steps), average_precision(steps), *(found_at(steps, rate) for rate in RATES))
        for steps in (walk(scores, attack, weights) for weights in _weightings(attack, groups, resamples, seed))
    ]
    measured = [interval(np.concatenate(column)) for column in zip(*pieces, strict=True)]
    return Ranking(int(attack.sum()), int((~attack).sum()), measured[0], measured[1], tuple(measured[2:]))


def interval(measured: Floats) -> Interval:
    """Of (1 + R,) measures, the first with the interval that the others span."""
    resampled = measured[1:][np.isfinite(measured[1:])]
    if not len(resampled) or not np.isfinite(measured[0]):
        return Interval(float(measured[0]), float("nan"), float("nan"))
    low, high = np.quantile(resampled, [(1 - CERTAINTY) / 2, (1 + CERTAINTY) / 2])
    return Interval(float(measured[0]), float(low), float(high))


def draws(kind: NDArray[np.integer], resamples: int, seed: int, cells: int) -> Iterator[Floats]:
    """How often each of (G,) groups is drawn in `resamples` bootstraps, (r, G) at a time.

    Groups of one `kind` (G,) stand in for each other. `cells` is how many numbers the caller makes of one resample: so many
    resamples are drawn at once as CELLS allows.
    """
    random = np.random.default_rng(seed)
    kinds = [np.flatnonzero(kind == one) for one in np.unique(kind)]
    at_once = max(1, CELLS // max(1, cells))
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        drawn = np.zeros((rows, len(kind)))
        for same in kinds:
            picks = random.integers(0, len(same), (rows, len(same))) + np.arange(rows)[:, None] * len(same)
            drawn[:, same] = np.bincount(picks.ravel(), minlength=rows * len(same)).reshape(rows, -1)
        yield drawn


def _weightings(attack: Masks, groups: NDArray[np.integer], resamples: int, seed: int) -> Iterator[Floats]:
    """Weights of the N rows, (r, N) at a time: first all 1, then each resample of the groups."""
    _, group = np.unique(groups, return_inverse=True)
    hostile = np.bincount(group, attack) > 0
    yield np.ones((1, len(attack)))
    for drawn in draws(hostile.astype(np.int64), resamples, seed, len(attack)):
        yield drawn[:, group]


def _ratio(above: Floats, below: Floats) -> Floats:
    """NaN where there is nothing to divide by."""
    return np.asarray(np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0))
