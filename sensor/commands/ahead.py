"""Two halves on two cores: a thread reads and makes flows while the caller scores those that are ready.

The kernels that decode and assemble release the GIL, and so do the models, so that both really run at once. Between them
stands a short queue: a reader that gets too far ahead waits, so memory stays bounded and nothing is lost. The order is the
order of the input, and so are the alerts: the same as those of `Engine.feed` called in one thread.

A pipe may fall silent. When the input is to end while the thread waits for bytes that do not come, the caller takes the
assembly over and ends the flows itself. And a live pipe's flows must not wait until a batch is whole: with `live`, what is
due is handed over after a second. Batches are then cut by the clock, so files are never read that way.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator

from sensor.assembly import Assembly
from sensor.schema import FlowBatch, FrameBlock

AHEAD = 4
"""Batches that may wait: with the default of 2,048 flows, 5 MB."""

WAIT_S = 0.1
"""How often the caller is called back while nothing is ready, so that it can show that time passes."""

TAKE_OVER_S = 1.0
"""How long after `stop` a silent source is waited for."""

LIVE_S = 1.0
"""How long a live flow that has ended may wait for others to be scored with, as long as packets come."""

LEAVE_S = 2.0
"""How long `close` waits for the thread: a block takes it milliseconds, but a pipe may never give another byte."""


class Ahead:
    """Runs `source` through `assembly` in a thread. Iterate for the batches; what went wrong there is raised here.

    `waiting` is called now and then while no batch is ready. `stop` ends the input early: what was read still comes.
    `live` says that packets come as they are seen on the wire, and nobody knows when the next one does.
    """

    def __init__(
        self,
        source: Iterable[FrameBlock | FlowBatch],
        assembly: Assembly,
        waiting: Callable[[], None] = lambda: None,
        *,
        live: bool = False,
    ) -> None:
        self._source = source
        self._assembly = assembly
        self._waiting = waiting
        self._ready: queue.Queue[FlowBatch | None] = queue.Queue(AHEAD)
        self._live = live
        self._handed_s = time.monotonic()
        self._stopped_s: float | None = None  # no Event, whose lock a signal handler could meet taken
        self._working = threading.Lock()
        self._taken_over = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="assembly", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the input after the block that is being read. May be called in a signal handler."""
        self._stopped_s = self._stopped_s or time.monotonic()

    def close(self) -> None:
        """End the input and let go of what was read, so that no kernel runs when the process ends."""
        self.stop()
        if self._taken_over:  # the thread waits for bytes, and would not touch the assembly if they came
            return
        until = time.monotonic() + LEAVE_S
        while self._thread.is_alive() and time.monotonic() < until:
            with contextlib.suppress(queue.Empty):
                self._ready.get(timeout=WAIT_S / 10)

    def __iter__(self) -> Iterator[FlowBatch]:
        """Yield batches until the input has ended."""
        while (batch := self._next()) is not None:
            yield batch
        if self._taken_over:
            yield from self._assembly.drain()
        else:
            self._thread.join()
        if self._error is not None:
            raise self._error

    def _next(self) -> FlowBatch | None:
        """The next batch; None when none will come."""
        while not self._taken_over:
            try:
                return self._ready.get(timeout=WAIT_S)
            except queue.Empty:
                self._waiting()
                self._take_over()
        return None

    def _take_over(self) -> None:
        """Stop the thread from doing more, if the input was to end a while ago and the thread is waiting for it."""
        late = self._stopped_s is not None and time.monotonic() - self._stopped_s > TAKE_OVER_S
        if late and self._working.acquire(blocking=False):
            self._taken_over = self._ready.empty()  # else it has just handed something over, and is on its way
            self._working.release()

    def _run(self) -> None:
        try:
            for block in self._source:
                with self._working:
                    if self._taken_over:
                        return
                    self._hand_over(block)
                if self._stopped_s is not None:
                    break
            with self._working:
                if self._taken_over:
                    return
                for batch in self._assembly.drain():
                    self._ready.put(batch)
                self._ready.put(None)
        except BaseException as error:  # carried over to the caller, who raises it
            self._error = error
            self._ready.put(None)

    def _hand_over(self, block: FrameBlock | FlowBatch) -> None:
        for batch in self._assembly.feed(block):
            self._put(batch)
        if self._live and time.monotonic() - self._handed_s > LIVE_S:
            for batch in self._assembly.expire(self._assembly.table.clock_us):
                self._put(batch)

    def _put(self, batch: FlowBatch) -> None:
        self._ready.put(batch)
        self._handed_s = time.monotonic()
