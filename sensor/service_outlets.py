"""Where the sensor's alerts go.

Each outlet has a thread of its own, so that a stalled disk or a slow receiver holds up neither scoring nor capture, nor the
other outlets. What becomes of alerts while an outlet cannot take them, `service_outlet` says; how they wait on disk for Splunk,
`service_hec`.
"""

from __future__ import annotations

import io
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

from sensor.config import Settings
from sensor.schema import Alert
from sensor.service_hec import HecOutlet, collector_of
from sensor.service_outlet import RETRY_S, Opened, Outlet, Sink, Tell
from sensor.sinks.hec import is_handed_over_later
from sensor.sinks.jsonl import JsonLines
from sensor.sinks.lines import SinkFailed, refusal
from sensor.sinks.notice import NoticeLog
from sensor.sinks.syslog import Syslog
from sensor.sinks.zeek import CurveKeys, ZeekAlerts
from sensor.sinks.zeek_input import InputTable
from sensor.sources.zeek_source import ZeekRefused, read_curve

LAST_BYTES = 1 << 20
"""How far from its end a file is searched for its last whole line: far more than a line has."""


class Writer(threading.Thread):
    """The thread of one outlet."""

    def __init__(self, outlet: Outlet) -> None:
        super().__init__(name=f"outlet-{outlet.name}", daemon=True)
        self.error: BaseException | None = None
        self._outlet = outlet
        self._wake = threading.Event()
        self._reopen = self._ending = False

    def ask(self, *, reopen: bool = False, end: bool = False) -> None:
        """Let it look what there is to do, from any thread."""
        if reopen:  # never written back unasked: several threads come here, and one must not undo what another asked
            self._reopen = True
        if end:
            self._ending = True
        self._wake.set()

    def run(self) -> None:
        """Write until asked to end."""
        try:
            while not self._ending:
                self._wake.wait(RETRY_S)
                self._wake.clear()
                if self._reopen:
                    self._reopen = False
                    self._outlet.reopen()
                self._outlet.work(time.monotonic())
            self._outlet.close()
        except BaseException as error:  # the control loop tells of it, and ends the sensor
            self.error = error


class Outlets:
    """All outlets, and the threads that write to them."""

    def __init__(self, outlets: Sequence[Outlet]) -> None:
        self.outlets = tuple(outlets)
        self._writers = tuple(Writer(outlet) for outlet in outlets)

    @property
    def error(self) -> BaseException | None:
        """What ended a thread that should write."""
        return next((writer.error for writer in self._writers if writer.error is not None), None)

    def start(self) -> None:
        """Open every outlet, then begin to write. Raises SinkFailed, but not for a full disk: alerts wait then."""
        for outlet in self.outlets:
            outlet.open()
        for writer in self._writers:
            writer.start()

    def hand(self, alerts: Sequence[Alert]) -> None:
        """Take alerts from any thread; never waits for a disk."""
        for outlet, writer in zip(self.outlets, self._writers, strict=True):
            outlet.take(alerts)
            writer.ask()

    def reopen(self) -> None:
        """Begin the files anew, because they were renamed."""
        for writer in self._writers:
            writer.ask(reopen=True)

    def close(self, timeout_s: float) -> bool:
        """Write what is left and end; False when that took too long, and what waits is lost."""
        until_s = time.monotonic() + timeout_s
        for writer in self._writers:
            writer.ask(end=True)
        for writer in self._writers:
            writer.join(max(until_s - time.monotonic(), 0))
        return not any(writer.is_alive() for writer in self._writers)

    def counters(self) -> dict[str, int]:
        """What was counted so far, by the names of `sensor.metrics`."""
        return {name: value for outlet in self.outlets for name, value in outlet.counters().items()}


def from_settings(settings: Settings, *, sensor: str, tell: Tell) -> Outlets:
    """The outlets that the settings name; `sensor` is the name of this sensor in its alerts."""
    output = settings.output

    def jsonl() -> Opened:
        stream = open_appending(Path(output.alerts)) if output.alerts != "-" else io.FileIO(1, "w", closefd=False)
        return Opened(JsonLines(stream, sensor=sensor, form=output.format, name=output.alerts), stream)

    def notice() -> Opened:
        form, quiet_s, name = output.notice_form, settings.detect.quiet_s, output.notice
        return begun(Path(name), lambda to: NoticeLog(to, form, sensor=sensor, quiet_s=quiet_s, clock=datetime.now, name=name))

    def syslog() -> Opened:
        sink = syslog_of(settings, sensor)
        return Opened(sink, settle=sink.settle)

    def into_zeek() -> Opened:
        sink = zeek_of(settings, sensor)
        return Opened(sink, settle=sink.attend)

    def zeek_table() -> Opened:
        path, clock_us = Path(settings.zeek.input_file), lambda: time.time_ns() // 1000
        return begun(path, lambda to: InputTable(to, sensor=sensor, clock_us=clock_us, path=path, open_anew=open_appending))

    named = (
        ("jsonl", output.alerts, jsonl),
        ("notice", output.notice, notice),
        ("syslog", settings.syslog.address, syslog),
        ("zeek", settings.zeek.alerts, into_zeek),
        ("zeek_input", settings.zeek.input_file, zeek_table),
    )
    outlets = [Outlet(name, opened, waiting=output.waiting, tell=tell) for name, place, opened in named if place]
    if settings.hec.url:
        state_dir = Path(settings.service.state_dir)
        outlets.append(HecOutlet(settings.hec, state_dir=state_dir, sensor=sensor, waiting=output.waiting, tell=tell))
    return Outlets(outlets)


def syslog_of(settings: Settings, sensor: str) -> Syslog:
    """The receiver of syslog that the settings name. Raises SinkFailed when it is no address."""
    to = settings.syslog
    return Syslog(to.address, to.transport, facility=to.facility, form=settings.output.format, sensor=sensor)


def zeek_of(settings: Settings, sensor: str) -> ZeekAlerts:
    """The running Zeek that the settings name. Raises SinkFailed for an address or keys that cannot be meant."""
    zeek = settings.zeek
    try:
        curve = read_curve(zeek.curve_server_key, zeek.curve_public_key, zeek.curve_secret_key)
    except ZeekRefused as refused:
        raise SinkFailed(str(refused)) from refused
    return ZeekAlerts(
        zeek.alerts_connect,
        sensor=sensor,
        process=os.getpid(),
        serialiser=lambda: zeek.serialiser,
        curve=CurveKeys(*curve) if curve else None,
    )


def receivers(settings: Settings) -> Iterator[str]:
    """Say where alerts will be sent, without speaking to anyone. Raises SinkFailed for settings that cannot work."""
    if settings.hec.url:
        collector = collector_of(settings.hec)
        later = is_handed_over_later(settings.hec.token_file)
        if not later:
            collector.read_token()
        yield f"alerts to {settings.hec.url}" + (f"; its token, {settings.hec.token_file}, comes from systemd" if later else "")
    if settings.syslog.address:
        syslog_of(settings, "")
        yield f"alerts to syslog at {settings.syslog.address} over {settings.syslog.transport}"


def begun(path: Path, make: Callable[[io.FileIO], Sink]) -> Opened:
    """Open a file with a sink that may have to write a header. Raises SinkFailed, and leaves nothing open then."""
    stream = open_appending(path)
    try:
        return Opened(make(stream), stream)
    except SinkFailed:
        stream.close()
        raise


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
        raise refusal(f"cannot write alerts to {path}: {error.strerror}", error) from error
    return stream
