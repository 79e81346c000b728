"""A capture worker: from a live source to the queue of flows that wait to be scored.

Each worker is a thread with a source and a flow table of its own; the kernel sees to it that both directions of a flow come
to the same one. Live, nobody knows when the next packet comes, so packet time goes on by the monotonic clock while none
does, from the latest packet's time: a clock that is set anew ends no flow and revives none. What has ended is handed over
after a second at most. The control loop starts workers, hands them changes, and stops them.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np

from sensor.assembly import Assembly
from sensor.config import Settings
from sensor.metrics import split
from sensor.schema import FlowBatch, FrameBlock
from sensor.service_queue import FlowQueue

LIVE_S = 1.0
"""How long a flow that has ended may wait for others to be scored with."""
LATE_US = 500_000
"""How far packet time stays behind the clock while no packet comes: a ring hands packets over some time after they came."""


class LiveSource(Protocol):
    """What a worker asks of its source."""

    frames: int
    wire_bytes: int

    def __iter__(self) -> Iterator[FrameBlock] | Iterator[FlowBatch]:
        """Yield blocks of frames, or flows that are finished, and an empty one now and then while none come."""
        ...

    def stop(self) -> None:
        """End the iteration soon; what was captured is still yielded."""
        ...

    def close(self) -> None:
        """Give back what the source holds."""
        ...

    def counters(self) -> dict[str, int]:
        """What was counted so far, by the names of `sensor.metrics`."""
        ...


class Worker:
    """Runs `source` through `assembly` into `flows`, in a thread named after `number`.

    `patient` says that the source can wait, as files can: then nothing is shed.
    """

    def __init__(self, number: int, source: LiveSource, assembly: Assembly, flows: FlowQueue, *, patient: bool) -> None:
        self.assembly = assembly
        self.error: BaseException | None = None
        self.beat_s = time.monotonic()
        """When the worker last came round: a worker that hangs does not."""
        self._source = source
        self._flows = flows
        self._hand = flows.put if patient else flows.offer
        self._lock = threading.Lock()
        """Of the source and what was counted before it."""
        self._changes: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._next: LiveSource | None = None
        self._before: dict[str, int] = {}
        """What sources counted that were exchanged for others."""
        self._after_us: int | None = None
        """Stamp of the last frame of the source before: the new one heard it too, if it began before the old one ended."""
        self._latest_us = int(np.iinfo(np.int64).min)
        self._stopping = False
        self._handed_s = self._packet_s = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=f"capture-{number}", daemon=True)

    def start(self) -> None:
        """Begin to capture."""
        self._thread.start()

    def stop(self) -> None:
        """End the capture: what the source holds still becomes flows, and all flows are ended."""
        self._stopping = True
        self._source.stop()

    def join(self, timeout_s: float) -> bool:
        """Wait for the end; tells whether it came."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def change_source(self, source: LiveSource) -> None:
        """Go on with another source; flows live on."""
        self._next = source
        self._source.stop()

    def adjust(self, settings: Settings) -> None:
        """Take over what can change while flows live."""
        self._changes.put(lambda: self.assembly.adjust(settings))

    def counters(self) -> dict[str, int]:
        """What was counted so far, by the names of `sensor.metrics`; from the stop on without the source's gauges."""
        with self._lock:
            counted = _added(self._before, _counted(self._source))
        return (_lasting(counted) if self._stopping else counted) | self.assembly.counters()

    def _run(self) -> None:
        try:
            while True:
                for block in self._source:
                    self._feed(block)
                if self._stopping or self._next is None:
                    break
                self._exchange()
            for batch in self.assembly.drain():
                self._flows.put(batch)
        except BaseException as error:  # the control loop tells of it, and ends the sensor
            self.error = error
        finally:
            self._source.close()

    def _feed(self, block: FrameBlock | FlowBatch) -> None:
        """Make flows of a block; end what is due. Flows that come finished are handed over at once."""
        self.beat_s = now_s = time.monotonic()
        while not self._changes.empty():
            self._changes.get()()
        finished = isinstance(block, FlowBatch)
        if isinstance(block, FlowBatch):
            came = len(block.flows)
            self._latest_us = max(self._latest_us, int(block.flows["last_us"].max(initial=self._latest_us)))
        else:
            block = self._not_heard_before(block)
            came = len(block.frames)
        if came:
            self._packet_s = now_s
            for batch in self.assembly.feed(block):
                self._give(batch, now_s)
        if now_s - self._handed_s >= LIVE_S or (came and finished):
            for batch in self.assembly.expire(self.now_us(now_s)):
                self._give(batch, now_s)
            self._handed_s = now_s

    @property
    def packet_us(self) -> int:
        """The latest packet time; 0 before the first packet."""
        return max(self._latest_us, 0)

    def now_us(self, now_s: float) -> int:
        """Packet time: that of the latest packet, and what has passed since by the monotonic clock `now_s`."""
        return self.assembly.table.clock_us + max(round((now_s - self._packet_s) * 1e6) - LATE_US, 0)

    def _give(self, batch: FlowBatch, now_s: float) -> None:
        self._hand(batch)
        self._handed_s = now_s

    def _exchange(self) -> None:
        """Put the new source in the place of the one that ended, and keep what the old one counted."""
        with self._lock:
            old, new = self._source, self._next
            if new is None:
                return
            self._before, self._source, self._next = _lasting(_added(self._before, _counted(old))), new, None
            self._after_us = self._latest_us
        old.close()
        if self._stopping:  # the request came while the old source was the one to stop
            new.stop()

    def _not_heard_before(self, block: FrameBlock) -> FrameBlock:
        """Leave out what the source before has handed over already: both heard it, with the same stamp."""
        if self._after_us is not None and len(block.frames):
            heard = int(np.searchsorted(block.frames["ts_us"], self._after_us, side="right"))
            block = FrameBlock(block.data, block.frames[heard:])
            self._after_us = self._after_us if not len(block.frames) else None
        if len(block.frames):
            self._latest_us = max(self._latest_us, int(block.frames["ts_us"][-1]))
        return block


def _counted(source: LiveSource) -> dict[str, int]:
    """What a source has counted."""
    return {"bytes_read": source.wire_bytes, **source.counters()}


def _added(before: dict[str, int], counted: dict[str, int]) -> dict[str, int]:
    """What was counted in all."""
    return {name: before.get(name, 0) + counted.get(name, 0) for name in before | counted}


def _lasting(counted: dict[str, int]) -> dict[str, int]:
    """What of it stays true when its source is closed: a gauge tells of a source that is open."""
    return {name: number for name, number in counted.items() if not split(name)[0].gauge}
