"""The scoring thread: flows from the queue to alerts, and whatever must happen between two batches.

One thread owns the judge, for the state of all conversations lies in it. What others want of it (a copy of the state, another
judge after a reload) they hand over as a call, which runs between two batches. Its heartbeat is what the watchdog
is fed from: it comes round twice a second although no flow comes.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sensor.engine import Judge
from sensor.flows import copied
from sensor.schema import FLOW, Alert, FlowBatch
from sensor.service_metrics import Histogram
from sensor.service_queue import FlowQueue

ROUND_S = 0.5
"""How long the thread waits for a batch before it comes round."""
ALERTED_MOST = 4096
"""Alerted conversations that the queue is told of; of more, the latest."""


class Records(Protocol):
    """What the thread asks of the site's record."""

    def record(self, batch: FlowBatch, alerts: Sequence[Alert]) -> None:
        """Keep a batch and what alerted in it."""
        ...


class Scoring:
    """Takes batches from `flows`, judges them, and hands what may be told to `hand`.

    `chosen` says which of a batch's alerts are told; the record has all of them. `latency` takes the seconds from a batch's
    arrival in the queue to its judgement.
    """

    def __init__(
        self,
        judge: Judge,
        flows: FlowQueue,
        record: Records,
        *,
        chosen: Callable[[list[Alert]], list[Alert]],
        hand: Callable[[list[Alert]], None],
        quiet_s: float,
    ) -> None:
        self.judge = judge
        self.latency = Histogram()
        self.error: BaseException | None = None
        self.beat_s = time.monotonic()
        self.quiet_s = quiet_s
        self._flows = flows
        self._record = record
        self._chosen = chosen
        self._hand = hand
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._alerted: NDArray[np.void] = np.empty(0, FLOW)
        self._thread = threading.Thread(target=self._run, name="scoring", daemon=True)

    def start(self) -> None:
        """Begin to score."""
        self._thread.start()

    def counters(self) -> dict[str, int]:
        """What the judge has counted so far, by the names of `sensor.metrics`."""
        return self.judge.counters()

    def between_batches(self, call: Callable[[], None]) -> None:
        """Run `call` in the scoring thread, before the next batch."""
        self._calls.put(call)

    def join(self, timeout_s: float) -> bool:
        """Wait until the queue is closed and empty; tells whether that came."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while True:
                self.beat_s = time.monotonic()
                self._run_calls()
                closed = self._flows.closed  # looked at first: what came before the closing is still taken
                waiting = self._flows.take(ROUND_S)
                if waiting is not None:
                    self._score(waiting.batch)
                    self.latency.observe(time.monotonic() - waiting.since_s)
                elif closed:
                    break
            self._run_calls()
        except BaseException as error:  # the control loop tells of it, and ends the sensor
            self.error = error

    def _run_calls(self) -> None:
        while not self._calls.empty():
            self._calls.get()()

    def _score(self, batch: FlowBatch) -> None:
        alerts = self.judge.judge(batch)
        self._record.record(batch, alerts)
        if alerts:
            self._tell_queue(batch)
            self._hand(self._chosen(alerts))

    def _tell_queue(self, batch: FlowBatch) -> None:
        """Let the queue know which conversations are in their quiet time, for it sheds these first."""
        self._alerted = np.concatenate([self._alerted, copied(batch.flows[self.judge.rows])])[-ALERTED_MOST:]
        since_us = int(self._alerted["last_us"].max()) - round(self.quiet_s * 1e6)
        self._alerted = self._alerted[self._alerted["last_us"] >= since_us]
        self._flows.know_alerted(self._alerted)
