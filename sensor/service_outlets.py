"""Where the sensor's alerts go, and what becomes of them while it cannot go there.

A thread of its own writes, so that a stalled disk holds up neither scoring nor capture. Every outlet keeps its alerts in a
bounded queue until they are written: a full disk, a folder that is gone or a receiver that is away is told once, tried again
every second, and loses nothing until the queue is full; what comes then is counted as lost. A file is synced at most once a
second, so that a crash of the machine loses at most that second; a crash of the sensor loses nothing that was written.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Protocol

from sensor.config import Settings
from sensor.schema import Alert
from sensor.sinks.jsonl import JsonLines
from sensor.sinks.lines import SinkFailed
from sensor.sinks.notice import NoticeLog

RETRY_S = 1.0
"""Seconds between two tries to write what could not be written, and between two syncs."""
LAST_BYTES = 1 << 20
"""How far from its end a file is searched for its last whole line: far more than a line has."""

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
    """A sink that is open, and its stream when that is a file."""

    sink: Sink
    stream: io.FileIO | None = None

    def close(self) -> None:
        """Finish the file; what its disk does not take any more is no loss of alerts."""
        with contextlib.suppress(SinkFailed):
            self.sink.close()
        if self.stream is not None:
            with contextlib.suppress(OSError):  # of a network's file system, for one
                self.stream.close()


class Outlet:
    """One place where alerts go: `name` for counters and messages, `open_sink` to begin with and after `reopen`.

    `open_sink` may raise SinkFailed: alerts wait then. At most `waiting` of them do.
    """

    def __init__(self, name: str, open_sink: Callable[[], Opened], *, waiting: int, tell: Tell) -> None:
        self.name = name
        self.written = self.lost = 0
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
        """Open the sink now. Raises SinkFailed."""
        self._opened = self._open_sink()

    def reopen(self) -> None:
        """Close the file, which was renamed, and begin the one of that name anew."""
        if self._opened is not None:
            self._sync()
            self._opened.close()
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
        if self._waiting and (due or not self._failing):
            self._attempt()
            self._acted_s = now_s if self._failing else self._acted_s
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
            self._opened.close()
            self._opened = None

    def counters(self) -> dict[str, int]:
        """What was counted so far, by the names of `sensor.metrics`."""
        return {
            f"alerts_written.{self.name}": self.written,
            f"alerts_waiting.{self.name}": self.waiting,
            f"alerts_lost.{self.name}": self.lost,
        }

    def _attempt(self) -> None:
        """Write until nothing waits or one alert cannot be written."""
        try:
            if self._opened is None:
                self._opened = self._open_sink()
            while self._waiting:
                self._opened.sink.write([self._waiting[0]])
                self._waiting.popleft()
                self.written += 1
                self._unsynced = True
        except SinkFailed as failed:
            if not self._failing:
                self._tell("alerts_wait", f"{failed}; alerts wait, {self._capacity:,} at most")
            self._failing = True
        else:
            if self._failing:
                self._tell("alerts_written_again", f"{self.name}: alerts are written again")
            self._failing = False

    def _sync(self) -> None:
        if self._opened is not None and self._opened.stream is not None:
            with contextlib.suppress(OSError):  # a device without sync; the write itself did not fail
                os.fsync(self._opened.stream.fileno())
        self._unsynced = False


class Outlets:
    """All outlets, and the thread that writes to them."""

    def __init__(self, outlets: Sequence[Outlet]) -> None:
        self.outlets = tuple(outlets)
        self.error: BaseException | None = None
        self._wake = threading.Event()
        self._reopen = self._ending = False
        self._thread = threading.Thread(target=self._run, name="outlets", daemon=True)

    def start(self) -> None:
        """Open every outlet, then begin to write. Raises SinkFailed."""
        for outlet in self.outlets:
            outlet.open()
        self._thread.start()

    def hand(self, alerts: Sequence[Alert]) -> None:
        """Take alerts from any thread; never waits for a disk."""
        for outlet in self.outlets:
            outlet.take(alerts)
        self._wake.set()

    def reopen(self) -> None:
        """Begin the files anew, because they were renamed."""
        self._reopen = True
        self._wake.set()

    def close(self, timeout_s: float) -> bool:
        """Write what is left and end; False when that took too long, and what waits is lost."""
        self._ending = True
        self._wake.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def counters(self) -> dict[str, int]:
        """What was counted so far, by the names of `sensor.metrics`."""
        return {name: value for outlet in self.outlets for name, value in outlet.counters().items()}

    def _run(self) -> None:
        try:
            while not self._ending:
                self._wake.wait(RETRY_S)
                self._wake.clear()
                if self._reopen:
                    self._reopen = False
                    for outlet in self.outlets:
                        outlet.reopen()
                for outlet in self.outlets:
                    outlet.work(time.monotonic())
            for outlet in self.outlets:
                outlet.close()
        except BaseException as error:  # the control loop tells of it, and ends the sensor
            self.error = error


def from_settings(settings: Settings, *, sensor: str, tell: Tell) -> Outlets:
    """The outlets that the settings name; `sensor` is the name of this sensor in its alerts."""
    output = settings.output

    def jsonl() -> Opened:
        stream = open_appending(Path(output.alerts)) if output.alerts != "-" else io.FileIO(1, "w", closefd=False)
        return Opened(JsonLines(stream, sensor=sensor, name=output.alerts), stream)

    def notice() -> Opened:
        stream = open_appending(Path(output.notice))
        log = NoticeLog(
            stream,
            output.notice_form,
            sensor=sensor,
            quiet_s=settings.detect.quiet_s,
            clock=datetime.now,
            name=output.notice,
        )
        return Opened(log, stream)

    named = (("jsonl", output.alerts, jsonl), ("notice", output.notice, notice))
    return Outlets([Outlet(name, opened, waiting=output.waiting, tell=tell) for name, path, opened in named if path])


def open_appending(path: Path) -> io.FileIO:
    """Open a file to write behind what it holds; half a last line, which a crash left, is cut off. Raises SinkFailed.

    A device or a pipe is written to as it is.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = io.FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640), "r+")
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            return stream
        end = stream.seek(0, os.SEEK_END)
        begin = stream.seek(max(end - LAST_BYTES, 0))
        whole = stream.readall().rfind(b"\n") + 1
        if begin + whole < end and (whole or not begin):
            stream.truncate(begin + whole)
        stream.seek(0, os.SEEK_END)
    except OSError as error:
        raise SinkFailed(f"cannot write alerts to {path}: {error.strerror}") from error
    return stream
