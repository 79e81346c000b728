"""Two halves on two cores: a thread reads and makes flows while the caller scores those that are ready.

The kernels that decode and assemble release the GIL, and so do the models, so that both really run at once. Between them
stands a short queue: a reader that gets too far ahead waits, so memory stays bounded and nothing is lost. The order is the
order of the input, and so are the alerts: the same as those of `Engine.feed` called in one thread.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator

from sensor.engine import Assembly
from sensor.schema import FlowBatch, FrameBlock

AHEAD = 4
"""Batches that may wait: with the default of 2,048 flows, 5 MB."""

WAIT_S = 0.1
"""How often the caller is called back while nothing is ready, so that it can show that time passes."""

LEAVE_S = 2.0
"""How long `close` waits for the thread: a block takes it milliseconds, but a pipe may never give another byte."""


class Ahead:
    """Runs `source` through `assembly` in a thread. Iterate for the batches; what went wrong there is raised here.

    `waiting` is called now and then while no batch is ready. `stop` ends the input early: what was read still comes.
    """

    def __init__(
        self,
        source: Iterable[FrameBlock | FlowBatch],
        assembly: Assembly,
        waiting: Callable[[], None] = lambda: None,
    ) -> None:
        self._source = source
        self._assembly = assembly
        self._waiting = waiting
        self._ready: queue.Queue[FlowBatch | None] = queue.Queue(AHEAD)
        self._stopped = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="assembly", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the input after the block that is being read."""
        self._stopped.set()

    def close(self) -> None:
        """End the input and let go of what was read, so that no kernel runs when the process ends."""
        self.stop()
        until = time.monotonic() + LEAVE_S
        while self._thread.is_alive() and time.monotonic() < until:
            with contextlib.suppress(queue.Empty):
                self._ready.get(timeout=WAIT_S / 10)

    def __iter__(self) -> Iterator[FlowBatch]:
        """Yield batches until the input has ended. A second iteration goes on where the first was left."""
        while (batch := self._next()) is not None:
            yield batch
        self._ready.put(None)  # whoever iterates again ends at once
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _next(self) -> FlowBatch | None:
        while True:
            try:
                return self._ready.get(timeout=WAIT_S)
            except queue.Empty:
                self._waiting()

    def _run(self) -> None:
        try:
            for block in self._source:
                for batch in self._assembly.feed(block):
                    self._ready.put(batch)
                if self._stopped.is_set():
                    break
            for batch in self._assembly.drain():
                self._ready.put(batch)
        except BaseException as error:  # carried over to the caller, who raises it
            self._error = error
        self._ready.put(None)
