"""The n-gram with back-off: each part of a word given the same part of the conversation's last words. A baseline.

Radford et al. 2018 found plain frequencies hard to beat; a 5-gram is the strongest of that kind, and an LSTM that does not
beat it has learned no more than short phrases. Counts of each order are discounted by `DISCOUNT`, and what that frees goes to
the next shorter context (absolute discounting: Ney, Essen and Kneser 1994); a context that was never seen backs off
wholly. At the bottom stand the plain frequencies, smoothed as in `frequency`. Every context's probabilities sum to 1.

A context is numbered order by order: the number of its last k - 1 values together with the value before them. So nothing
overflows, however long contexts and however large alphabets are. Lookups are binary searches over whole columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.frequency import HALF

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

ORDER = 5
DISCOUNT = 0.5
"""Sightings taken from each that was counted: near the best for most texts, and no parameter to fit."""


class Order(NamedTuple):
    """What was seen after contexts of one length."""

    contexts: Ints
    """(C,) rising keys of the contexts: a context's number is its place here."""
    pairs: Ints
    """(M,) rising keys of context and value, as far as they were seen together ..."""
    seen: Ints
    """(M,) ... and how often."""
    total: Ints
    """(C,) sightings of each context."""
    kinds: Ints
    """(C,) different values seen after it."""


class Backoff:
    """An n-gram of each part of words."""

    def __init__(
        self, words: NDArray[np.integer], restart: NDArray[np.bool_], sizes: Sequence[int], order: int = ORDER
    ) -> None:
        """Count (N, P) words sorted by conversation; `restart` (N,) marks the first word of each."""
        self.sizes = tuple(sizes)
        self.order = order
        self._plain: list[Floats] = []
        self._orders: list[list[Order]] = []
        for place, size in enumerate(self.sizes):
            values = words[:, place].astype(np.int64)
            counts = np.bincount(values, minlength=size) + HALF
            self._plain.append(counts / counts.sum())
            self._orders.append(_count(values, restart, size, order))

    def nats(self, words: NDArray[np.integer], restart: NDArray[np.bool_]) -> Floats:
        """(N, P) nats of words sorted by conversation."""
        columns = [self._part(words[:, place].astype(np.int64), restart, place) for place in range(len(self.sizes))]
        return -np.log(np.stack(columns, axis=1))

    def _part(self, values: Ints, restart: NDArray[np.bool_], place: int) -> Floats:
        """(N,) probabilities of one part's values."""
        size = self.sizes[place]
        probability: Floats = self._plain[place][values]
        number = np.zeros(len(values), np.int64)
        for order, before in zip(self._orders[place], _before(values, restart, size, self.order), strict=True):
            number = _find(order.contexts, np.where(number >= 0, number * (size + 1) + before, -1))
            pair = _find(order.pairs, np.where(number >= 0, number * size + values, -1))
            seen = np.where(pair >= 0, order.seen[pair], 0)
            freed = DISCOUNT * order.kinds[number] * probability
            longer = (np.maximum(seen - DISCOUNT, 0.0) + freed) / order.total[number]
            probability = np.where(number >= 0, longer, probability)
        return probability


def _before(values: Ints, restart: NDArray[np.bool_], size: int, order: int) -> Iterator[Ints]:
    """The value 1, 2, ... order - 1 words earlier; `size` stands for "no word before"."""
    begun = np.maximum.accumulate(np.where(restart, np.arange(len(values)), 0))
    for back in range(1, order):
        earlier = np.arange(len(values)) - back
        yield np.where(earlier >= begun, values[np.maximum(earlier, 0)], size)


def _count(values: Ints, restart: NDArray[np.bool_], size: int, order: int) -> list[Order]:
    """Count one part's values after contexts of 1, 2, ... order - 1 words."""
    counted = []
    number = np.zeros(len(values), np.int64)
    for before in _before(values, restart, size, order):
        contexts, number = np.unique(number * (size + 1) + before, return_inverse=True)
        pairs, seen = np.unique(number * size + values, return_counts=True)
        after = pairs // size
        total, kinds = np.bincount(after, seen).astype(np.int64), np.bincount(after)
        counted.append(Order(contexts, pairs, seen, total, kinds))
    return counted


def _find(rising: Ints, keys: Ints) -> Ints:
    """Place of each key in `rising`, -1 where it is not there."""
    if not len(rising):
        return np.full(len(keys), -1, np.int64)
    place = np.minimum(np.searchsorted(rising, keys), len(rising) - 1)
    return np.where(rising[place] == keys, place, -1)
