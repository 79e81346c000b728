"""How well classes are told apart: accuracy, precision, recall and F1 of each class and their means, with intervals.

All of it follows from the confusion matrix, so a bootstrap needs only the matrix of each group of rows: resampled groups add
up. Means are over the classes that occur in the truth: of a class that is not there, nothing was measured. Rows of one
sequence are no independent witnesses, so whole sequences are resampled, each among those whose rarest class is the same.
Arrays in, numbers out; scikit-learn is the oracle of the tests only. `netseq-evaluate multiflow` calls this.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.measures import Interval, draws, interval

Ints = NDArray[np.integer]
Floats = NDArray[np.float64]


class Classified(NamedTuple):
    """How a classifier did on rows of C classes."""

    confusion: NDArray[np.int64]
    """(C, C) rows of each class, by the class that they were given."""
    accuracy: Interval
    precision: tuple[Interval, ...]
    """(C,) of each class; NaN for a class that is not there, 0 for one that was never given."""
    recall: tuple[Interval, ...]
    f1: tuple[Interval, ...]
    macro_precision: Interval
    macro_recall: Interval
    macro_f1: Interval


def confusion(truth: Ints, given: Ints, classes: int) -> NDArray[np.int64]:
    """(classes, classes) rows of each true class by the class that they were given."""
    return np.bincount(truth * classes + given, minlength=classes * classes).reshape(classes, classes).astype(np.int64)


def classified(truth: Ints, given: Ints, classes: int, groups: Ints, *, resamples: int = 300, seed: int = 1) -> Classified:
    """Measure the classes `given` (N,) to rows against the `truth` (N,); `groups` (N,) are resampled."""
    whole = confusion(truth, given, classes)
    _, group = np.unique(groups, return_inverse=True)
    count, cells = int(group.max(initial=-1)) + 1, classes * classes
    matrices = np.bincount(group * cells + truth * classes + given, minlength=count * cells).reshape(count, cells)
    there = matrices.reshape(count, classes, classes).sum(axis=2) > 0
    rare = np.argsort(whole.sum(axis=1), kind="stable")
    kind = rare[np.argmax(there[:, rare], axis=1)] if count else np.empty(0, np.int64)
    found = [_measures(whole[None].astype(np.float64), whole)]
    found += [
        _measures((drawn @ matrices.astype(np.float64)).reshape(-1, classes, classes), whole)
        for drawn in draws(kind, resamples, seed, count + cells)
    ]
    columns = np.concatenate(found)
    told = [interval(columns[:, place]) for place in range(columns.shape[1])]
    parts = [tuple(told[4 + part * classes : 4 + (part + 1) * classes]) for part in range(3)]
    return Classified(whole, told[0], parts[0], parts[1], parts[2], *told[1:4])


def _measures(matrix: Floats, whole: NDArray[np.int64]) -> Floats:
    """(R, 4 + 3 C) measures of R matrices: accuracy, the three means, precision, recall and F1 of each class."""
    there = whole.sum(axis=1) > 0
    right, true, given = np.diagonal(matrix, axis1=1, axis2=2), matrix.sum(axis=2), matrix.sum(axis=1)
    precision = np.where(there, right / np.maximum(given, 1), np.nan)
    recall = np.where(there, right / np.maximum(true, 1), np.nan)
    f1 = np.where(there, 2 * right / np.maximum(true + given, 1), np.nan)
    total = matrix.sum(axis=(1, 2))
    accuracy = np.where(total > 0, right.sum(axis=1) / np.maximum(total, 1), np.nan)[:, None]
    means = [one[:, there].mean(axis=1, keepdims=True) if there.any() else accuracy * np.nan for one in (precision, recall, f1)]
    return np.concatenate([accuracy, *means, precision, recall, f1], axis=1)
