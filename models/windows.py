"""Which flows lie in whose window: the last n flows of a sequence, for every flow of a batch, without a loop over flows.

A sequence is whatever owns a slot: a conversation, or a source host. `lay_out` turns a batch of rows with their slots into
windows of row numbers; training calls it once for a whole data set. `Windows` keeps the last n - 1 rows of every slot on the
device between batches: a batch takes one gather of the slots that it touches, and one scatter of what they hold
afterwards. Cutting the same flows into other batches changes nothing. `SortedWindows` does the same for batches of fixed size,
all of it on the device.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.groups import Groups, first_alike

Ints = NDArray[np.int64]


class Layout(NamedTuple):
    """A batch of B rows of G slots in a buffer of G * (n - 1) + B rows: what each slot held before, then its new rows."""

    rows: Ints
    """(B,) the batch's rows, those of one slot together and in order."""
    places: Ints
    """(B,) where each of `rows` lies in the buffer."""
    slots: Ints
    """(G,) the slots."""
    held: Ints
    """(G, n - 1) where in the buffer what each slot held before is laid, oldest first."""
    windows: Ints
    """(B, n) for each row of the batch, in the batch's order, its window's places in the buffer; -1 where there is no flow."""
    left: Ints
    """(G, n - 1) the places whose rows each slot holds afterwards, oldest first."""
    counts: NDArray[np.int16]
    """(G,) how many of these belong to the sequence that goes on; they are the last ones."""


def lay_out(slots: NDArray[np.integer], restart: NDArray[np.bool_], count: NDArray[np.int16], flows: int) -> Layout:
    """Lay out a batch of (B,) rows with their slots; `restart` (B,) where a sequence begins afresh.

    `count` (S,) says for every slot how many of the rows that it holds count; `flows` is n, at least 2.
    """
    before = flows - 1
    order = np.argsort(slots, kind="stable").astype(np.int64)
    ordered = slots[order].astype(np.int64)
    begins = np.ones(len(ordered), np.bool_)
    begins[1:] = ordered[1:] != ordered[:-1]
    starts = np.flatnonzero(begins)
    group = np.cumsum(begins) - 1
    places = np.arange(len(ordered), dtype=np.int64) + (group + 1) * before
    touched = ordered[starts]
    bases = starts + np.arange(len(starts), dtype=np.int64) * before
    first = bases + before - count[touched]  # the earliest place of each slot that still counts
    again = np.where(restart[order], places, -1)
    since = np.maximum(np.maximum.accumulate(again), first[group]) if len(again) else again
    reach = places[:, None] + np.arange(-before, 1)[None]
    windows = np.empty((len(ordered), flows), np.int64)
    windows[order] = np.where(reach >= since[:, None], reach, -1)
    ends = starts + np.diff(np.append(starts, len(ordered))) - 1
    left = places[ends][:, None] + np.arange(1 - before, 1)[None]
    kept = np.minimum(places[ends] - since[ends] + 1, before).astype(np.int16)
    held = bases[:, None] + np.arange(before)[None]
    return Layout(order, places, touched, held, windows, left, kept)


def sequences(slots: NDArray[np.integer], restart: NDArray[np.bool_], flows: int) -> Ints:
    """(N, n) windows of a whole data set's (N,) rows, as row numbers: the current flow last, -1 where there is none."""
    none_held = np.zeros(int(slots.max(initial=0)) + 1, np.int16)
    layout = lay_out(slots, restart, none_held, flows)
    row_at = np.full(len(layout.slots) * (flows - 1) + len(slots), -1, np.int64)
    row_at[layout.places] = layout.rows
    return np.where(layout.windows >= 0, row_at[layout.windows], -1)


class Windows:
    """The last n - 1 rows of F statistics of every slot, on `device`: S * (n - 1) * F floats, laid out once."""

    def __init__(self, slots: int, flows: int, columns: int, device: torch.device) -> None:
        if flows < 2:
            raise ValueError(f"a window of {flows} flows has no flow before the current one: give at least 2")
        self.flows = flows
        self._held = torch.full((slots, flows - 1, columns), torch.nan, device=device)
        self._count = np.zeros(slots, np.int16)

    def push(self, rows: Tensor, slots: NDArray[np.integer], restart: NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
        """Take a batch of (B, F) rows; gives the buffer (R, F) and the windows (B, n) of its rows, -1 where there is none."""
        layout = lay_out(slots, restart, self._count, self.flows)
        self._count[layout.slots] = layout.counts
        device, before = rows.device, self.flows - 1

        def there(places: Ints) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(places)).to(device, non_blocking=True)

        buffer = rows.new_empty(len(layout.slots) * before + len(rows), rows.shape[1])
        touched = there(layout.slots)
        buffer.index_copy_(0, there(layout.held.ravel()), self._held.index_select(0, touched).flatten(0, 1))
        buffer.index_copy_(0, there(layout.places), rows.index_select(0, there(layout.rows)))
        self._held.index_copy_(0, touched, buffer.index_select(0, there(layout.left.ravel())).view(-1, before, rows.shape[1]))
        return buffer, there(layout.windows)

    def state(self) -> dict[str, Tensor]:
        """All that must be kept to go on later."""
        return {"windows": self._held, "windows_count": torch.from_numpy(self._count)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state()` of the same sizes; RuntimeError when they differ."""
        self._held.copy_(state["windows"])
        torch.from_numpy(self._count).copy_(state["windows_count"])


class SortedWindows:
    """`Windows` for batches of fixed size that are sorted on the device: no shape depends on what is in them.

    The slot past the last is spare: it belongs to the rows that pad a batch, and whatever belongs nowhere is written there.
    """

    def __init__(self, slots: int, flows: int, columns: int, device: torch.device) -> None:
        self._slots, self._before = slots, flows - 1
        self._held = torch.full((slots + 1, flows - 1, columns), torch.nan, device=device)
        self._count = torch.zeros(slots + 1, dtype=torch.int16, device=device)

    def push(self, groups: Groups, rows: Tensor, restart: Tensor) -> tuple[Tensor, Tensor]:
        """Take (B, F) rows in sorted order; gives the buffer (B * n, F) and their windows (B, n), -1 where there is no flow.

        The buffer holds what B slots held, those beyond the slots of the batch any slot's, and then the rows.
        """
        before, count = self._before, len(rows)
        group = torch.cumsum(groups.begins, 0) - 1
        leads = torch.searchsorted(group, groups.place).clamp(max=count - 1)
        held = self._held.index_select(0, groups.slots.index_select(0, leads))
        buffer = torch.cat([held.flatten(0, 1), rows])
        fresh = torch.cumsum(restart, 0)
        again = torch.where(fresh > 0, first_alike(fresh), -1)  # where a sequence last began afresh, of whatever slot
        rank = groups.place - groups.start
        begun = torch.where(
            again >= groups.start, again - groups.start, -self._count.index_select(0, groups.slots).to(torch.int64)
        )
        reach = rank[:, None] + torch.arange(-before, 1, device=rows.device)  # counted from the slot's first row of the batch
        places = torch.where(
            reach >= 0, groups.start[:, None] + reach + count * before, group[:, None] * before + before + reach
        )
        windows = torch.where(reach >= begun[:, None], places, -1)
        to = groups.last_to(self._slots)
        left = buffer.index_select(0, places[:, 1:].flatten()).view(count, before, -1)
        self._held.index_copy_(0, to, left)
        self._count.index_copy_(0, to, (rank - begun + 1).clamp(max=before).to(torch.int16))
        return buffer, windows

    def state(self) -> dict[str, Tensor]:
        """What `Windows.state` gives."""
        return {"windows": self._held[: self._slots], "windows_count": self._count[: self._slots]}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state()` of the same sizes, of either kind; RuntimeError when they differ."""
        for name, kept in self.state().items():
            kept.copy_(state[name])
