"""The evidence of every conversation's hour so far: largest value, sum and number, resident on the device.

A batch brings rows of many conversations, several of one, and hours may turn in its midst. Every row must see the
evidence of its own conversation and hour up to and including itself, as if rows came one at a time. The rows are sorted
by conversation, cut into runs of one conversation and hour, and accumulated run by run without a loop: a cumulative sum
from which the run's start is subtracted, and a cumulative maximum over values lifted by more than their ceiling from run
to run. `Hours` finds the runs on the host; `SortedHours` does the same on batches that a device sorted (`groups`). The word
model's two roads feed them, and `weighing` weighs the result.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.groups import Groups, first_alike
from models.verdict import CEILING

LIFT = 2 * CEILING
"""Distance between runs in the cumulative maximum. With 53 bits and 10^5 runs, 10^-9 nats are still told apart."""


class Runs(NamedTuple):
    """A batch of B rows sorted by conversation and cut into R runs of one conversation and hour each."""

    order: NDArray[np.int64]
    """(B,) rows in sorted order."""
    run: NDArray[np.int64]
    """(B,) number of each sorted row's run."""
    first: NDArray[np.int64]
    """(R,) sorted place of each run's first row."""
    goes_on: NDArray[np.bool_]
    """(R,) the run continues what the slot holds from earlier batches."""
    last: NDArray[np.int64]
    """(G,) sorted place of each conversation's last row ..."""
    slots: NDArray[np.int64]
    """(G,) ... and its slot."""
    hours: NDArray[np.int64]
    """(G,) ... and its hour."""


class SoFar(NamedTuple):
    """Evidence of the conversation's hour up to each row of a batch, in the batch's order."""

    largest: Tensor
    """(B, E) float64."""
    mean: Tensor
    """(B, E) float64."""


class Hours:
    """Accumulators for `slots` conversations and `columns` of evidence.

    `partial` (columns,) marks the columns that a shed row lacks: they have a count of their own.
    """

    def __init__(self, slots: int, partial: NDArray[np.bool_], device: torch.device) -> None:
        columns = len(partial)
        self._hour = np.full(slots, -1, np.int64)
        self._largest = torch.zeros(slots, columns, dtype=torch.float64, device=device)
        self._sum = torch.zeros(slots, columns, dtype=torch.float64, device=device)
        self._count = torch.zeros(slots, 2, dtype=torch.float64, device=device)
        self._partial = torch.from_numpy(partial.astype(np.int64)).to(device)
        self._device = device

    def runs(self, slots: NDArray[np.int32], restart: NDArray[np.bool_], hour: NDArray[np.int64]) -> Runs:
        """Cut a batch of (B,) rows into runs; remembers each conversation's last hour."""
        order = np.argsort(slots, kind="stable")
        sorted_slots, sorted_hours = slots[order], hour[order]
        heads = np.ones(len(order), np.bool_)
        heads[1:] = sorted_slots[1:] != sorted_slots[:-1]
        turns = heads | restart[order]
        turns[1:] |= sorted_hours[1:] != sorted_hours[:-1]
        first = np.flatnonzero(turns)
        goes_on = heads[first] & ~restart[order][first] & (self._hour[sorted_slots[first]] == sorted_hours[first])
        last = np.append(np.flatnonzero(heads)[1:], len(order)) - 1 if len(order) else first
        self._hour[sorted_slots[last]] = sorted_hours[last]
        slots_wide = sorted_slots[last].astype(np.int64)
        return Runs(order, np.cumsum(turns) - 1, first, goes_on, last, slots_wide, sorted_hours[last])

    def add(self, runs: Runs, evidence: Tensor, heard: Tensor) -> SoFar:
        """Accumulate (B, E) evidence in the batch's order; `heard` (B,) is False where the partial columns are missing."""
        order = self._there(runs.order)
        run, first = self._there(runs.run), self._there(runs.first)
        goes_on = self._there(runs.goes_on)
        counts = torch.stack([torch.ones_like(heard), heard], dim=1).to(torch.float64).index_select(0, order)
        present = counts.index_select(1, self._partial)
        values = evidence.to(torch.float64).index_select(0, order).mul_(present)
        slots = self._there(runs.slots)
        # the runs that go on start from what the slot holds; a conversation's first run is the only one that can
        own = torch.zeros(len(runs.first), dtype=torch.int64, device=self._device)
        own[goes_on] = self._there(self._slot_of(runs))
        held = goes_on[:, None].to(torch.float64)
        sums = _since(values, run, first, self._sum.index_select(0, own) * held)
        totals = _since(counts, run, first, self._count.index_select(0, own) * held)
        begun = torch.maximum(values.index_select(0, first), self._largest.index_select(0, own) * held)
        values.index_copy_(0, first, begun)
        lift = (run * LIFT)[:, None]
        largest = torch.cummax(values + lift, dim=0).values - lift
        last = self._there(runs.last)
        for kept, now in ((self._sum, sums), (self._count, totals), (self._largest, largest)):
            kept.index_copy_(0, slots, now.index_select(0, last))
        mean = sums / totals.index_select(1, self._partial).clamp(min=1.0)
        return SoFar(*(torch.empty_like(sorted_).index_copy_(0, order, sorted_) for sorted_ in (largest, mean)))

    def _slot_of(self, runs: Runs) -> NDArray[np.int64]:
        """Slots of the runs that go on, in the order of the runs."""
        starts = np.flatnonzero(runs.goes_on)
        return runs.slots[np.searchsorted(runs.last, runs.first[starts])]

    def _there(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self._device)

    def state(self) -> dict[str, Tensor]:
        """All that must be kept to go on later."""
        return {"hour": torch.from_numpy(self._hour), "largest": self._largest, "sum": self._sum, "count": self._count}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from `state()` of an accumulator of the same size; RuntimeError when the sizes differ."""
        self._hour[:] = state["hour"].cpu().numpy()
        self._largest.copy_(state["largest"])
        self._sum.copy_(state["sum"])
        self._count.copy_(state["count"])


def _since(values: Tensor, run: Tensor, first: Tensor, held: Tensor) -> Tensor:
    """Cumulative sums (B, E) that start afresh with each run, from what is `held` (R, E)."""
    total = torch.cumsum(values, dim=0)
    base = total.index_select(0, first) - values.index_select(0, first) - held
    return total - base.index_select(0, run)


class SortedHours:
    """`Hours` for batches of fixed size that are sorted on the device: no shape depends on what is in them.

    The slot past the last is spare: it belongs to the rows that pad a batch, and whatever belongs nowhere is written there.
    """

    def __init__(self, slots: int, partial: NDArray[np.bool_], device: torch.device) -> None:
        columns = len(partial)
        self._slots = slots
        self._hour = torch.full((slots + 1,), -1, dtype=torch.int64, device=device)
        self._largest, self._sum = (torch.zeros(slots + 1, columns, dtype=torch.float64, device=device) for _ in range(2))
        self._count = torch.zeros(slots + 1, 2, dtype=torch.float64, device=device)
        self._partial = torch.from_numpy(partial).to(device)[:, None]

    def add(self, groups: Groups, restart: Tensor, hour: Tensor, evidence: Tensor, heard: Tensor) -> SoFar:
        """Accumulate (B, E) evidence, all in sorted order; `heard` as for `Hours`. The result is in sorted order too.

        Evidence lies by column in here: a device sums up along rows that lie together, but crawls along columns.
        """
        turns = groups.begins | restart | (hour != hour.roll(1))
        run = torch.cumsum(turns, 0)
        first = first_alike(run)
        held_on = (groups.start == first) & (self._hour.index_select(0, groups.slots) == hour)
        goes_on = held_on & ~restart.index_select(0, first)
        present = torch.where(self._partial, heard, True)
        values = evidence.to(torch.float64).T * present
        counts = torch.stack([torch.ones_like(heard), heard]).to(torch.float64)
        held = [kept.index_select(0, groups.slots).T * goes_on for kept in (self._sum, self._count, self._largest)]
        both = torch.cat([values, counts])
        total = torch.cumsum(both, dim=1)
        since = total - (total - both).index_select(1, first) + torch.cat(held[:2])
        sums, counted = since[: len(values)], since[len(values) :]
        lift = run * LIFT
        largest = torch.maximum(torch.cummax(values + lift, dim=1).values - lift, held[2])
        to = groups.last_to(self._slots)
        self._hour.index_copy_(0, to, hour)
        for kept, now in ((self._sum, sums), (self._count, counted), (self._largest, largest)):
            kept.index_copy_(0, to, now.T)
        mean = sums / torch.where(self._partial, counted[1], counted[0]).clamp(min=1.0)
        return SoFar(largest.T, mean.T)

    def state(self) -> dict[str, Tensor]:
        """What `Hours.state` gives."""
        kept = {"hour": self._hour, "largest": self._largest, "sum": self._sum, "count": self._count}
        return {name: tensor[: self._slots] for name, tensor in kept.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from `state()` of an accumulator of the same size, of either kind; RuntimeError when the sizes differ."""
        for name, kept in self.state().items():
            kept.copy_(state[name])
