"""Alerts on their way to Splunk: kept on disk first, then sent in batches until the collector has said that it took them.

Two threads with the spool between them. The outlet's own writes each alert to disk, which is quick, so that neither an outage
of the collector nor a restart of the sensor loses one; the sender reads from the other end, and takes nothing away before it
was taken. While it is not, the sender waits longer and longer, and says once why. What the collector condemns is cut into
halves until the one alert is found that it will never take: that one is counted, told and given up, and the others go on. An
alert can come twice (its answer was lost on the way) and none is lost unless the spool is full. `service_outlets` makes it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from sensor.config import Hec
from sensor.schema import Alert
from sensor.service_outlet import Opened, Outlet, Tell
from sensor.sinks.hec import Answer, Collector, event
from sensor.sinks.lines import SinkFailed
from sensor.sinks.spool import Spool

FOLDER = "hec"
"""Name of the spool in the state folder."""
BATCH_ALERTS, BATCH_BYTES = 200, 512 << 10
"""Half a second of a flood of alerts, and half of the least that a collector accepts (1 MB in old versions)."""
FIRST_WAIT_S, LAST_WAIT_S = 1.0, 60.0
"""After a failure; twice as long after each further one. A minute is soon enough for a receiver that comes back after hours."""
LONGEST_WAIT_S = 300.0
"""However long a collector asks to be left alone."""
END_S = 0.5
"""What the end of a sensor spares to send the last alerts; what was not sent by then is sent after the next start."""


def collector_of(settings: Hec) -> Collector:
    """The collector that the settings name. Raises SinkFailed when they cannot be used."""
    return Collector(settings.url, token_file=settings.token_file, ca_file=settings.ca_file, timeout_s=settings.timeout_s)


class HecOutlet(Outlet):
    """The collector of the settings, with its spool in `state_dir`; `sensor` is the name of this sensor."""

    def __init__(self, settings: Hec, *, state_dir: Path, sensor: str, waiting: int, tell: Tell) -> None:
        super().__init__("hec", self._open_spool, waiting=waiting, tell=tell)
        self._settings = settings
        self._folder = state_dir / FOLDER
        self._sensor = sensor
        self._sender: Sender | None = None

    @property
    def waiting(self) -> int:
        """Alerts in memory and on disk that the collector does not have."""
        return super().waiting + (self._sender.spool.waiting if self._sender else 0)

    def work(self, now_s: float) -> None:
        """Bring what waits in memory to the disk, and keep the sender going."""
        super().work(now_s)
        if self._sender is not None:
            if self._sender.error is not None:
                raise self._sender.error
            self._sender.begin()

    def close(self) -> None:
        """Bring what waits in memory to the disk, and send what can be sent at once."""
        super().close()
        if self._sender is not None:
            self._sender.end(END_S)

    def counters(self) -> dict[str, int]:
        """What was counted so far: written is what the collector took."""
        taken, refused = (self._sender.taken, self._sender.refused) if self._sender else (0, 0)
        return super().counters() | {"alerts_written.hec": taken, "alerts_refused.hec": refused}

    def _open_spool(self) -> Opened:
        if self._sender is None:
            settings = self._settings
            collector = collector_of(settings)
            collector.read_token()
            spool = Spool(self._folder, most_bytes=settings.spool_mib << 20)
            self._sender = Sender(collector, spool, timeout_s=settings.timeout_s, tell=self._tell)
        sink = SpoolSink(self._sender.spool, self._sensor, self._settings.index, self._sender.wake)
        return Opened(sink, settle=self._sender.spool.sync)


class SpoolSink:
    """Writes alerts into a spool as events, and wakes who sends them."""

    def __init__(self, spool: Spool, sensor: str, index: str, wake: Callable[[], None]) -> None:
        self._spool = spool
        self._sensor = sensor
        self._index = index
        self._wake = wake

    def write(self, alerts: Iterable[Alert]) -> None:
        """Keep alerts on disk. Raises SinkFailed when spool or disk is full."""
        for alert in alerts:
            self._spool.append(event(alert, self._sensor, self._index))
            self._wake()

    def close(self) -> None:
        """Let the spool be; its lines stay on disk."""
        self._spool.close()


class Held(Exception):  # noqa: N818  # it says what became of the alerts
    """The collector did not take a batch, and may later."""

    def __init__(self, said: str, wait_s: float = 0.0) -> None:
        super().__init__(said)
        self.wait_s = wait_s


class Sender:
    """Sends what is in the spool, in a thread of its own."""

    def __init__(self, collector: Collector, spool: Spool, *, timeout_s: float, tell: Tell) -> None:
        self.spool = spool
        self.taken = self.refused = 0
        self.error: BaseException | None = None
        self._collector = collector
        self._timeout_s = timeout_s
        self._tell = tell
        self._told = ""
        self._failures = 0
        self._wake, self._ending = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="hec", daemon=True)

    def begin(self) -> None:
        """Begin to send, unless that was done before."""
        if self._thread.ident is None:
            self._thread.start()

    def wake(self) -> None:
        """Say that there is something to send, from any thread."""
        self._wake.set()

    def end(self, timeout_s: float) -> None:
        """Send what is taken at once, and end."""
        self._ending.set()
        self._wake.set()
        with contextlib.suppress(RuntimeError):  # it was never begun
            self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            while not self._ending.is_set():
                if self._work():
                    self._collector.hang_up()
                    self._wake.wait()
                    self._wake.clear()
            if not self._failures:
                self._work()
            self._collector.hang_up()
        except BaseException as error:  # the outlet raises it again, and so ends the sensor
            self.error = error

    def _work(self) -> bool:
        """Send all there is, and tell whether that was done; wait after a failure."""
        try:
            while lines := self.spool.head(BATCH_ALERTS, BATCH_BYTES):
                self._deliver(lines)
                self._went_well()
        except SinkFailed as failed:
            self._hold(str(failed), 0.0)
        except Held as held:
            self._hold(f"{self._collector.url}: {held}", held.wait_s)
        else:
            return True
        return False

    def _deliver(self, lines: list[bytes]) -> None:
        """Send lines until each was taken or refused for good. Raises SinkFailed or Held, and what was taken stays taken."""
        parts = [lines]
        while parts:
            part = parts.pop()
            answer = self._post(part)
            splits = answer.meaning in ("bad", "large") and len(part) > 1
            if answer.meaning in ("later", "large") and not splits:  # one alert is never large: the limit is wrong
                raise Held(answer.said, answer.wait_s)
            if splits:
                half = len(part) // 2
                parts += [part[half:], part[:half]]
                continue
            self.spool.done(part)
            if answer.meaning == "taken":
                self.taken += len(part)
            else:
                self.refused += 1
                self._tell("alert_refused", f"{self._collector.url}: {answer.said}: an alert is given up")

    def _post(self, lines: list[bytes]) -> Answer:
        """Send a batch. A collector that sends its answer drop by drop has no more time than one that sends none."""
        self._collector.connect()
        late = threading.Timer(self._timeout_s, self._collector.give_up)
        late.daemon = True
        late.start()
        try:
            return self._collector.post(lines)
        finally:
            late.cancel()

    def _went_well(self) -> None:
        if self._failures:
            self._tell("alerts_written_again", "hec: alerts are taken again")
        self._failures, self._told = 0, ""

    def _hold(self, why: str, asked_s: float) -> None:
        """Say why, if that is news, and wait."""
        self._collector.hang_up()
        if why != self._told:
            self._tell("alerts_wait", f"{why}; alerts wait on disk")
            self._told = why
        wait_s = min(FIRST_WAIT_S * 2**self._failures, LAST_WAIT_S)
        self._failures = min(self._failures + 1, 30)
        self._ending.wait(max(wait_s, min(asked_s, LONGEST_WAIT_S)))
