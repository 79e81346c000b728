"""The frequency model: how common each part of a word is, without any memory of the conversation.

It is a voice in production, not only the baseline that the LSTM must beat: the LSTM gets used to whatever a conversation
repeats, counts do not. It says two things of every part: how rare the value is at all (`alone`), and how rare it is for
the word's first part, the service (`given`): no bytes received is common among broadcasts and odd for a web server.

Everything is a table of nats, stacked into one column, so that a batch is judged with one gather on the device. Counts
are smoothed: half a sighting for every value (Krichevsky and Trofimov 1981), and what is known given a service leans on
what is known without it by as much as `LEAN` sightings would weigh. `Bigram`, each part given the same part of the word
before, is a baseline for `evaluate` only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.integer]
Floats = NDArray[np.float64]

HALF = 0.5
"""Sightings that every value is given beforehand."""
LEAN = 20.0
"""Sightings that the table without a condition weighs in a table with one. From 5 to 50 made no difference in trials."""


@dataclasses.dataclass(frozen=True)
class Counts:
    """What training saw: all that the frequency model is. Counts may be weighted, so they are floats."""

    sizes: tuple[int, ...]
    joint: tuple[Floats, ...]
    """P times (sizes[0], sizes[k]): sightings of each first part with each value of part k; for k = 0 a diagonal."""

    @classmethod
    def of(cls, words: Ints, sizes: Sequence[int], weight: float = 1.0) -> Counts:
        """Count (N, P) words, each as `weight` sightings."""
        joint = []
        for place, size in enumerate(sizes):
            cells = words[:, 0].astype(np.int64) * size + words[:, place]
            joint.append(weight * np.bincount(cells, minlength=sizes[0] * size).reshape(sizes[0], size).astype(np.float64))
        return cls(tuple(sizes), tuple(joint))

    def plus(self, other: Counts) -> Counts:
        """Both together: further training adds a site's own sightings to what was shipped."""
        return Counts(self.sizes, tuple(mine + its for mine, its in zip(self.joint, other.joint, strict=True)))

    def alone(self, place: int) -> Floats:
        """(sizes[place],) probabilities of a part's values."""
        seen: Floats = self.joint[place].sum(axis=0) + HALF
        return np.asarray(seen / seen.sum())

    def given(self, place: int) -> Floats:
        """(sizes[0], sizes[place]) probabilities of a part's values, row by row of the first part's values."""
        seen: Floats = self.joint[place] + LEAN * self.alone(place)
        return np.asarray(seen / seen.sum(axis=1, keepdims=True))


@dataclasses.dataclass(frozen=True)
class Frequency:
    """The counts as one column of nats on the device."""

    sizes: tuple[int, ...]
    table: Tensor
    """(all cells,) nats: first the P tables of `alone`, then the P - 1 tables of `given` for parts 1 to P - 1."""
    starts: Tensor
    """(2P - 1,) first cell of each table."""
    strides: Tensor
    """(2P - 1,) cells from one value of the first part to the next: 0 for `alone`."""
    columns: Tensor
    """(2P - 1,) which part each table judges."""
    spread: Tensor
    """(sizes[0],) what the first part's nats carry for the many things that one value may stand for: see words.Folded."""

    def nats(self, words: Tensor) -> Tensor:
        """(B, P) integers -> (B, 2P - 1) nats: P columns alone, P - 1 columns given the first part."""
        wide = words.to(torch.int64)
        cells = self.starts + wide[:, :1] * self.strides + wide[:, self.columns]
        return self.table.index_select(0, cells.view(-1)).view(cells.shape)

    def distribution(self, place: int, first: Tensor) -> Tensor:
        """(K, sizes[place]) probabilities of a part's values, given the words' first parts (K,); part 0 without."""
        size = self.sizes[place]
        if place == 0:
            return torch.exp(self.spread - self.table[:size]).expand(len(first), size)
        start = int(self.starts[len(self.sizes) - 1 + place])
        rows = self.table[start : start + self.sizes[0] * size].view(self.sizes[0], size)
        return torch.exp(-rows[first.to(torch.int64)])


def build(counts: Counts, spread: Tensor, device: torch.device | None = None) -> Frequency:
    """Lay counts out for scoring on `device` (the processor if None); `spread` as in Frequency."""
    parts = len(counts.sizes)
    pieces = [counts.alone(place) for place in range(parts)] + [counts.given(place).ravel() for place in range(1, parts)]
    pieces[0] = pieces[0] * np.exp(-spread.cpu().numpy())
    lengths = [len(piece) for piece in pieces]
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    strides = [0] * parts + list(counts.sizes[1:])
    columns = [*range(parts), *range(1, parts)]
    return Frequency(
        sizes=counts.sizes,
        table=torch.from_numpy(-np.log(np.concatenate(pieces))).to(device=device, dtype=torch.float32),
        starts=torch.from_numpy(starts).to(device=device),
        strides=torch.tensor(strides, device=device),
        columns=torch.tensor(columns, device=device),
        spread=spread.to(device=device, dtype=torch.float32),
    )


class Bigram:
    """Baseline: each part given the same part of the conversation's word before, leaning on the part's plain frequency."""

    def __init__(self, words: Ints, restart: NDArray[np.bool_], sizes: Sequence[int]) -> None:
        """Count (N, P) words sorted by conversation; `restart` (N,) marks the first word of each."""
        self.sizes = tuple(sizes)
        self._tables = []
        counts = Counts.of(words, sizes)
        for place, size in enumerate(sizes):
            cells = self._before(words, restart, place) * size + words[:, place]
            seen = np.bincount(cells, minlength=(size + 1) * size).reshape(size + 1, size) + LEAN * counts.alone(place)
            self._tables.append(-np.log(seen / seen.sum(axis=1, keepdims=True)))

    def nats(self, words: Ints, restart: NDArray[np.bool_]) -> Floats:
        """(N, P) nats of words sorted by conversation."""
        columns = [table[self._before(words, restart, place), words[:, place]] for place, table in enumerate(self._tables)]
        return np.stack(columns, axis=1)

    def _before(self, words: Ints, restart: NDArray[np.bool_], place: int) -> NDArray[np.int64]:
        """The part's value in the word before; one past the last value stands for "no word before"."""
        before = np.empty(len(words), np.int64)
        before[1:] = words[:-1, place]
        before[:1] = self.sizes[place]
        before[restart] = self.sizes[place]
        return before
