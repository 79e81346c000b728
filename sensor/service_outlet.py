"""One place where alerts go, and what becomes of them while it cannot take them.

An outlet keeps its alerts in a bounded queue until its sink has written them: a full disk, a folder that is gone or a receiver
that is away is told once, tried again every second, and loses nothing until the queue is full; what comes then is counted as
lost. A file is synced at most once a second, so that a crash of the machine loses at most that second; a crash of the sensor
loses nothing that was written. `service_outlets` has a thread for each.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from sensor.schema import Alert
from sensor.sinks.lines import NeverTaken, NoRoom, SinkFailed

RETRY_S = 1.0
"""Seconds between two tries to write what could not be written, and between two syncs."""

Tell = Callable[[str, str], None]
"""Takes the name of an event and a line about it."""


class Sink(Protocol):
    """What an outlet asks of a sink."""

    def write(self, alerts: Iterable[Alert]) -> None:
        """Write alerts; SinkFailed when they could not be written."""
        ...

    def close(self) -> None:
        """Finish what was written."""
        ...


class Opened(NamedTuple):
    """A sink that is open, its stream when that is a file, and what it wants to do each second (which may raise SinkFailed)."""

    sink: Sink
    stream: io.FileIO | None = None
    settle: Callable[[], None] | None = None

    def close(self) -> int:
        """Finish; gives the number of alerts that are lost by it. A file's end that its disk does not take costs none."""
        lost = 0
        try:
            self.sink.close()
        except SinkFailed as failed:
            lost = failed.lost
        if self.stream is not None:
            with contextlib.suppress(OSError):  # of a network's file system, for one
                self.stream.close()
        return lost


class Outlet:
    """One place where alerts go: `name` for counters and messages, `open_sink` to begin with and after `reopen`.

    `open_sink` may raise SinkFailed: alerts wait then. At most `waiting` of them do.
    """

    def __init__(self, name: str, open_sink: Callable[[], Opened], *, waiting: int, tell: Tell) -> None:
        self.name = name
        self.written = self.lost = self.refused = 0
        self._open_sink = open_sink
        self._capacity = waiting
        self._tell = tell
        self._waiting: deque[Alert] = deque()
        self._lock = threading.Lock()  # of what comes; the writer only takes away, and waits for nobody
        self._closed = False
        self._opened: Opened | None = None
        self._failing = False
        self._unsynced = False
        self._acted_s = -RETRY_S

    @property
    def waiting(self) -> int:
        """Alerts that wait to be written."""
        return len(self._waiting)

    def open(self) -> None:
        """Open the sink now; where its disk is full, alerts wait. Raises SinkFailed for what room would not mend."""
        try:
            self._opened = self._open_sink()
        except NoRoom as full:
            self._wait(full)

    def reopen(self) -> None:
        """Close the file, which was renamed, and begin the one of that name anew; what is no file goes on."""
        if self._opened is not None and self._opened.stream is not None:
            self._sync()
            self.lost += self._opened.close()
            self._opened = None
        self._attempt()

    def take(self, alerts: Sequence[Alert]) -> None:
        """Add alerts to those that wait, from any thread; what is too much is counted as lost, the newest."""
        with self._lock:
            room = 0 if self._closed else self._capacity - len(self._waiting)
            self._waiting.extend(alerts[:room])
            self.lost += max(len(alerts) - room, 0)

    def work(self, now_s: float) -> None:
        """Write what waits, unless that just failed, and sync when it is time."""
        due = now_s - self._acted_s >= RETRY_S
        settles = due and self._opened is not None and self._opened.settle is not None
        if settles or (due and self._failing) or (self._waiting and not self._failing):
            self._attempt(settles=settles)
            self._acted_s = now_s if self._failing or settles else self._acted_s
        if due and self._unsynced:
            self._sync()
            self._acted_s = now_s

    def close(self) -> None:
        """Write what waits, or count it as lost."""
        self._attempt()
        with self._lock:
            self._closed = True
            self.lost += len(self._waiting)
            self._waiting.clear()
        if self._opened is not None:
            self._sync()
            self.lost += self._opened.close()
            self._opened = None

    def counters(self) -> dict[str, int]:
        """What was counted so far, by the names of `sensor.metrics`."""
        return {
            f"alerts_written.{self.name}": self.written,
            f"alerts_waiting.{self.name}": self.waiting,
            f"alerts_lost.{self.name}": self.lost,
            f"alerts_refused.{self.name}": self.refused,
        }

    def _attempt(self, *, settles: bool = False) -> None:
        """Write until nothing waits or one alert cannot be written."""
        try:
            if self._opened is None:
                self._opened = self._open_sink()
            if settles and self._opened.settle is not None:
                self._opened.settle()
            while self._waiting:
                self._write(self._opened.sink, self._waiting[0])
                self._waiting.popleft()
                self._unsynced = True
        except SinkFailed as failed:
            self._wait(failed)
        else:
            if self._failing:
                self._tell("alerts_written_again", f"{self.name}: alerts are written again")
            self._failing = False

    def _wait(self, failed: SinkFailed) -> None:
        """Tell once why alerts wait."""
        if not self._failing:
            self._tell("alerts_wait", f"{failed}; alerts wait, {self._capacity:,} at most")
        self._failing = True

    def _write(self, sink: Sink, alert: Alert) -> None:
        try:
            sink.write([alert])
            self.written += 1
        except NeverTaken as refused:
            self.refused += 1
            self._tell("alert_refused", str(refused))

    def _sync(self) -> None:
        if self._opened is not None and self._opened.stream is not None:
            with contextlib.suppress(OSError):  # a device without sync; the write itself did not fail
                os.fsync(self._opened.stream.fileno())
        self._unsynced = False
