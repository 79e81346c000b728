"""The order in which a batch is stepped: all first flows of every conversation together, then all second ones, and so on.

A batch holds several flows of one conversation, and an LSTM must read them one after the other; flows of different
conversations need not wait for each other. Sorted by rank within the conversation, and the conversations by how many
flows they bring, round r is the first so many rows of round r - 1: the states live in one block for the whole batch and
every round works on its top, without gathering anything. `resident_host` walks the rounds.

`plan` is plain numpy and takes as many rounds as the batch needs. `Rounds` is its form for a device, where shapes are fixed: of
B rows, at most B // (r + 1) conversations can have an r-th flow, counted from 0, so that 64 rounds are 4.7 B steps at most.

A flood of one pair would mean as many rounds as it has flows. Beyond `rounds` flows of one conversation the plan takes an
even sample of them, in order and with the last one, and leaves the rest out.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.groups import Groups


class Plan(NamedTuple):
    """How to step a batch of B rows of G conversations; K rows are stepped, B - K are shed."""

    rows: NDArray[np.int64]
    """(K,) rows of the batch in the order of the steps."""
    slots: NDArray[np.int64]
    """(G,) slot of each conversation; round r steps the first `widths[r]` of them."""
    widths: list[int]
    """Conversations in each round, never rising."""
    restart: NDArray[np.bool_]
    """(K,) rows before which the state is zeroed."""
    restarts: list[bool]
    """Whether a round has any such row."""
    shed: NDArray[np.int64]
    """(B - K,) rows left out."""


def plan(slots: NDArray[np.int32], restart: NDArray[np.bool_], rounds: int) -> Plan:
    """Order a batch of (B,) rows: `slots` of their conversations, `restart` where one begins afresh. At most `rounds` each."""
    order = np.argsort(slots, kind="stable")
    ordered = slots[order]
    begins = np.ones(len(ordered), np.bool_)
    begins[1:] = ordered[1:] != ordered[:-1]
    starts = np.flatnonzero(begins)
    counts = np.diff(np.append(starts, len(ordered)))
    fresh = restart[order]
    shed = order[:0]
    if len(counts) and counts.max() > rounds:
        kept, fresh = _sample(starts, counts, fresh, rounds)
        shed = order[~kept]
        order = order[kept]
        counts = np.minimum(counts, rounds)
    by_count = np.argsort(-counts, kind="stable")
    conversation = np.repeat(np.arange(len(counts)), counts)
    rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    place = np.empty(len(counts), np.int64)
    place[by_count] = np.arange(len(counts))
    deepest = int(counts.max(initial=0))
    widths = [int(width) for width in np.searchsorted(-counts[by_count], -np.arange(1, deepest + 1), side="right")]
    first = np.cumsum([0, *widths])[:-1]
    target = first[rank] + place[conversation]
    rows, again = np.empty(len(order), np.int64), np.empty(len(order), np.bool_)
    rows[target], again[target] = order, fresh
    restarts = [bool(again[start : start + width].any()) for start, width in zip(first, widths, strict=True)]
    return Plan(rows, slots[order[np.cumsum(counts) - counts]][by_count].astype(np.int64), widths, again, restarts, shed)


def _sample(
    starts: NDArray[np.intp], counts: NDArray[np.intp], fresh: NDArray[np.bool_], rounds: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which sorted rows to keep, and where the kept ones restart: a restart among those left out moves to the next kept."""
    sizes = np.repeat(counts, counts)
    rank = np.arange(len(fresh)) - np.repeat(starts, counts)
    kept = (sizes <= rounds) | ((rank + 1) * rounds // sizes > rank * rounds // sizes)
    seen = np.cumsum(fresh)
    at = np.flatnonzero(kept)
    before = np.empty(len(at), seen.dtype)
    before[1:] = seen[at[:-1]]
    before[:1] = 0
    leads = np.empty(len(at), np.bool_)  # first kept row of its conversation: restarts count from the conversation's start
    group = np.repeat(np.arange(len(counts)), counts)[at]
    leads[1:] = group[1:] != group[:-1]
    leads[:1] = True
    before[leads] = (seen - fresh)[starts]
    return kept, seen[at] > before


class Steps(NamedTuple):
    """How to step B sorted rows in T = sum of widths steps; a step that no row needs steps any row, and nobody reads it."""

    heads: Tensor
    """(B,) sorted place of the first row of the conversation in each column; columns beyond the last hold any place."""
    rows: Tensor
    """(T,) sorted place of the row that is stepped."""
    keep: Tensor
    """(T, 1) 0.0 where the state is zeroed before, 1.0 elsewhere."""
    at: Tensor
    """(B,) the step of each sorted row; that of the next row stepped where it is shed."""
    kept: Tensor
    """(B,) whether the row is stepped."""


class Rounds:
    """The steps of any batch of `rows` rows, at most `rounds` for each conversation, on `device`."""

    def __init__(self, rows: int, rounds: int, device: torch.device) -> None:
        self.most = min(rounds, rows)
        widths = [rows // (number + 1) for number in range(self.most)]
        firsts = np.cumsum([0, *widths])
        self.cuts = [slice(int(first), int(stop)) for first, stop in itertools.pairwise(firsts)]
        """The steps of each round; its columns are the first ones."""
        self._first = torch.from_numpy(firsts[:-1]).to(device)
        self._round = torch.from_numpy(np.repeat(np.arange(self.most), widths)).to(device)
        self._column = torch.from_numpy(np.concatenate([np.arange(width) for width in widths])).to(device)

    def lay(self, groups: Groups, restart: Tensor) -> Steps:
        """Lay out a batch with its sorted restarts (B,): the rows that `plan` takes, each after the same restarts."""
        size = groups.stop - groups.start
        take = size.clamp(max=self.most)
        rank = groups.place - groups.start
        before = rank * take // size  # rows of the conversation that are stepped before this one
        kept = (rank + 1) * take // size > before
        heads = torch.sort(torch.where(rank == 0, take, 0), descending=True, stable=True).indices
        column = torch.empty_like(heads).index_copy_(0, heads, groups.place)
        at = self._first.index_select(0, before) + column.index_select(0, groups.start)
        head = heads.index_select(0, self._column)
        size, take = size.index_select(0, head), take.index_select(0, head)

        def since(number: Tensor) -> Tensor:
            """The place after the conversation's first so many rows that are stepped."""
            return (head + (number * size + take - 1) // take).clamp(max=len(heads))

        seen = torch.nn.functional.pad(torch.cumsum(restart, 0), (1, 0))
        stop = since(self._round + 1)
        again = seen.index_select(0, stop) > seen.index_select(0, since(self._round))
        return Steps(heads, stop - 1, (~again).to(torch.float32)[:, None], at, kept)
