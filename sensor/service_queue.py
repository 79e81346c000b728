"""The queue between capture and scoring: bounded, and what does not fit is shed by a stated rule.

Capture never waits for scoring. When flows come faster than they are scored, this is what goes first:

- from half full on, flows of conversations that alerted in their quiet time: they would raise nothing new;
- from three quarters on, floods: of the flows to one host and port, or from one host, that are more than an eighth of a
  batch, some are kept (evenly spread, so that what the flood is can still be seen) and the rest shed;
- when it is full, whole batches, the newest.

Everything shed is counted by its reason. A source that can wait, a folder of captures, waits instead (`put`), and what is not
scored of it at the end is kept (`service_unscored`). A conversation that lost flows goes on with those that remain, as it does
after packets that the kernel dropped.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.schema import FlowBatch

ALERTED_FROM, FLOODS_FROM = 0.5, 0.75
"""Shares of the queue from which flows of alerted conversations, and of floods, are shed."""
FLOOD_SHARE = 1 / 8
"""Share of a batch from which the flows to one place, or from one host, are a flood."""
FLOOD_KEPT = 32
"""Flows of a flood that are kept of a batch."""
FLOOD_LEAST = 64
"""Flows that a batch must have before shares of it mean anything."""
REASONS = ("alerted", "flood", "full", "ending")
"""Why a flow was shed; "ending": the sensor was stopped, and there was no time left to score it."""

Keys = NDArray[np.uint64]


class Waiting(NamedTuple):
    """A batch in the queue."""

    batch: FlowBatch
    since_s: float
    """Monotonic time at which it came."""


class FlowQueue:
    """Holds at most `flows` flows. One or more threads offer batches, one takes them."""

    def __init__(self, flows: int) -> None:
        self.capacity = flows
        self.shed = dict.fromkeys(REASONS, 0)
        self.came = self.gone = 0
        """Flows that were added, and those that were taken to be scored; they come out in the order in which they came."""
        self._batches: deque[Waiting] = deque()
        self._waiting = 0
        self._changed = threading.Condition()
        self._closed = self._roomy = False
        # Secret, so that nobody can make flows that pass for those of an alerted conversation.
        self._factors = np.array([secrets.randbits(64) | 1 for _ in range(3)], np.uint64)
        self._alerted: Keys = np.empty(0, np.uint64)

    @property
    def waiting(self) -> int:
        """Flows that wait now."""
        return self._waiting

    @property
    def closed(self) -> bool:
        """No more batches will come."""
        return self._closed

    def offer(self, batch: FlowBatch) -> None:
        """Add a batch, or as much of it as the rule leaves. Never waits."""
        kept = self._thinned(batch, self._waiting / self.capacity)
        if len(kept.flows):
            with self._changed:
                if self._waiting + len(kept.flows) > self.capacity:
                    self.shed["full"] += len(kept.flows)
                else:
                    self._add(kept)

    def put(self, batch: FlowBatch) -> None:
        """Add a batch when there is room for it; a batch that is larger than the queue waits until that is empty.

        After the end of the queue a batch is shed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._has_room(len(batch.flows)))
            if self._closed:
                self.shed["ending"] += len(batch.flows)
            else:
                self._add(batch)

    def take(self, timeout_s: float) -> Waiting | None:
        """The batch that waits longest; None when none came for `timeout_s`, or none will come."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._batches or self._closed, timeout_s) or not self._batches:
                return None
            taken = self._batches.popleft()
            self._waiting -= len(taken.batch.flows)
            self.gone += len(taken.batch.flows)
            self._changed.notify_all()
            return taken

    def resume(self, batches: Sequence[FlowBatch]) -> None:
        """Add batches that waited before a restart, however many there are."""
        with self._changed:
            for batch in batches:
                self._add(batch)

    def make_room(self) -> None:
        """Let nobody wait for room any more: those who put are at their end, and hand over the last they have."""
        with self._changed:
            self._roomy = True
            self._changed.notify_all()

    def close(self) -> None:
        """Tell the one who takes that nothing more will come."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def give_up(self) -> None:
        """Count what waits as shed, because there is no time left to score it, and take no more."""
        left = self.leave()
        with self._changed:
            self.shed["ending"] += sum(len(batch.flows) for batch in left)

    def leave(self) -> list[FlowBatch]:
        """Give what waits to the caller, because there is no time left to score it, and take no more."""
        with self._changed:
            left = [waiting.batch for waiting in self._batches]
            self._batches.clear()
            self._waiting = 0
            self._closed = True
            self._changed.notify_all()
        return left

    def know_alerted(self, flows: NDArray[np.void]) -> None:
        """Replace the conversations whose flows are shed first by those of (n,) FLOW rows."""
        self._alerted = np.unique(self._pairs(flows))

    def _add(self, batch: FlowBatch) -> None:
        self._batches.append(Waiting(batch, time.monotonic()))
        self._waiting += len(batch.flows)
        self.came += len(batch.flows)
        self._changed.notify_all()

    def _has_room(self, flows: int) -> bool:
        return self._roomy or not self._waiting or self._waiting + flows <= self.capacity

    def _thinned(self, batch: FlowBatch, full: float) -> FlowBatch:
        """What the rule leaves of a batch when a share `full` of the queue is taken."""
        if full < ALERTED_FROM:
            return batch
        alerted = np.isin(self._pairs(batch.flows), self._alerted)
        flood = self._flooding(batch.flows) & ~alerted if full >= FLOODS_FROM else np.zeros_like(alerted)
        with self._changed:  # several workers offer
            self.shed["alerted"] += int(alerted.sum())
            self.shed["flood"] += int(flood.sum())
        kept = np.flatnonzero(~(alerted | flood))
        if len(kept) == len(batch.flows):
            return batch
        uids = None if batch.uids is None else [batch.uids[row] for row in kept.tolist()]
        return FlowBatch(_chosen(batch.flows, kept), uids)

    def _flooding(self, flows: NDArray[np.void]) -> NDArray[np.bool_]:
        """(n,) the flows of a flood that are too many."""
        if len(flows) < FLOOD_LEAST:
            return np.zeros(len(flows), np.bool_)
        port = flows["dst_port"].astype(np.uint64) << np.uint64(8) | flows["protocol"]
        to = self._mixed(flows["dst_hi"], flows["dst_lo"]) + port * self._factors[2]
        origin = self._mixed(flows["src_hi"], flows["src_lo"])
        return _too_many(to) | _too_many(origin)

    def _pairs(self, flows: NDArray[np.void]) -> Keys:
        """(n,) a number for the pair of hosts of each flow, the same for both directions."""
        ends = self._mixed(flows["src_hi"], flows["src_lo"]), self._mixed(flows["dst_hi"], flows["dst_lo"])
        return ends[0] + ends[1]

    def _mixed(self, high: Keys, low: Keys) -> Keys:
        """(n,) a number for each address."""
        mixed: Keys = high * self._factors[0] + low * self._factors[1]
        mixed ^= mixed >> np.uint64(29)
        mixed *= self._factors[2]
        return mixed


def _chosen(flows: NDArray[np.void], kept: NDArray[np.int64]) -> NDArray[np.void]:
    """(k,) copies of some rows: as plain bytes, since numpy copies rows of nested fields one field at a time."""
    whole = np.ascontiguousarray(flows).view(np.dtype((np.void, flows.dtype.itemsize)))
    chosen: NDArray[np.void] = whole[kept].view(flows.dtype)
    return chosen


def _too_many(keys: Keys) -> NDArray[np.bool_]:
    """(n,) of each key that has more than its share of the rows, all but some rows, evenly spread."""
    _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    many = counts > max(FLOOD_SHARE * len(keys), FLOOD_KEPT)
    surplus = np.zeros(len(keys), np.bool_)
    for key in np.flatnonzero(many):  # at most eight
        rows = np.flatnonzero(inverse == key)
        surplus[rows] = True
        surplus[rows[np.linspace(0, len(rows) - 1, FLOOD_KEPT).astype(np.int64)]] = False
    return surplus
