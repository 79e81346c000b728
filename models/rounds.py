"""The order in which a batch is stepped: all first flows of every conversation together, then all second ones, and so on.

A batch holds several flows of one conversation, and an LSTM must read them one after the other; flows of different
conversations need not wait for each other. Sorted by rank within the conversation, and the conversations by how many
flows they bring, round r is the first so many rows of round r - 1: the states live in one block for the whole batch and
every round works on its top, without gathering anything. `resident` walks the rounds; the plan is plain numpy.

A flood of one pair would mean as many rounds as it has flows. Beyond `rounds` flows of one conversation the plan takes an
even sample of them, in order and with the last one, and leaves the rest out.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


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
