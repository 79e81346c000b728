"""Which rows of a batch belong together, found on the device in shapes that do not depend on the answer.

A batch is padded to a fixed number of rows; the padding belongs to a spare slot, one past the last, that nobody owns. Sorted
by slot, the first and last row of every row's slot are two binary searches. All that the device's forms of `rounds`, `hours`
and `windows` need follows from them by arithmetic, so that none has to ask the host how many slots there are: a CUDA graph can
hold it all.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Groups(NamedTuple):
    """A batch of B rows sorted by slot, those of one slot in the batch's order. All (B,), in sorted order."""

    order: Tensor
    """Rows of the batch."""
    slots: Tensor
    place: Tensor
    """0 to B - 1."""
    start: Tensor
    """Place of the first row of the same slot."""
    stop: Tensor
    """One past the place of its last row."""

    @property
    def begins(self) -> Tensor:
        """Which rows are the first of their slot."""
        return self.place == self.start

    def last_to(self, spare: int) -> Tensor:
        """Where to write what a slot holds after the batch: its last row to the slot, all other rows to the spare one."""
        return torch.where(self.place + 1 == self.stop, self.slots, spare)

    def unsorted(self, rows: Tensor) -> Tensor:
        """(B, ...) rows in the batch's order again."""
        return torch.empty_like(rows).index_copy_(0, self.order, rows)


def group(slots: Tensor) -> Groups:
    """Sort a batch of (B,) rows by slot."""
    ordered, order = torch.sort(slots, stable=True)
    start, stop = torch.searchsorted(ordered, ordered), torch.searchsorted(ordered, ordered, right=True)
    return Groups(order, ordered.to(torch.int64), torch.arange(len(slots), device=slots.device), start, stop)


def first_alike(rising: Tensor) -> Tensor:
    """(B,) place of the first equal number for each of (B,) numbers that never fall."""
    return torch.searchsorted(rising, rising)
