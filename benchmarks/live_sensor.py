"""A real netseq-sensor for the benchmark: started on a wire, asked for its metrics, watched by the kernel's accounts, ended.

It runs with what is shipped, on the CPU, and does not learn first: the sensor of an installation after its first day.
`live` and its figures use this.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.live_wire import FAR, Wire, wait_until
from benchmarks.measure import CommandError

PORT = 9477
"""In a namespace of its own every port is free."""
START_S, END_S = 180.0, 20.0
"""How long a start may take that compiles kernels, and an end."""
SETTINGS = ("model.device=cpu", "learn.days=0", f"capture.interfaces={FAR}")
READ, DROPPED, IN_FLOWS, SKIPPED = (f"netseq_packets_{what}_total" for what in ("read", "dropped", "in_flows", "skipped"))
TICKS = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Metrics(dict[str, float]):
    """What /metrics said, by name and labels as they stand there."""

    def total(self, name: str) -> float:
        """The sum of a metric over its labels."""
        return sum(value for key, value in self.items() if key.partition("{")[0] == name)

    def by_label(self, name: str) -> dict[str, float]:
        """The values of a metric that are not zero, by the value of its label."""
        found = {key.partition("{")[2]: value for key, value in self.items() if key.partition("{")[0] == name}
        return {label.rpartition('="')[2].removesuffix('"}'): value for label, value in found.items() if value}


def parse(text: str) -> Metrics:
    """Read the text that Prometheus reads."""
    lines = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
    return Metrics({name: float(value) for name, _, value in lines})


def since(before: Mapping[str, float], after: Mapping[str, float]) -> Metrics:
    """What was counted between two readings."""
    return Metrics({name: value - before.get(name, 0.0) for name, value in after.items()})


def quantile_s(metrics: Metrics, share: float, name: str = "netseq_scoring_seconds") -> float:
    """The bound of a histogram, in seconds, under which at least a share of the observations lies.

    Raises CommandError when nothing was observed.
    """
    key = f'{name}_bucket{{le="'
    buckets = sorted((float(each[len(key) : -2]), count) for each, count in metrics.items() if each.startswith(key))
    if not buckets or not buckets[-1][1]:
        raise CommandError(f"nothing was observed in {name}")
    return next(bound for bound, count in buckets if count >= share * buckets[-1][1])


class Usage(NamedTuple):
    """What the kernel says of a process."""

    cpu_s: float
    resident_bytes: int


class Sensor:
    """A netseq-sensor on the far end of a wire, its files in `folder`; `changes` are settings. Made by `running`."""

    def __init__(self, wire: Wire, folder: Path, changes: tuple[str, ...]) -> None:
        self.alerts_file, self._log_file = folder / "alerts.jsonl", folder / "log"
        self._wire = wire
        notify = folder / "notify"
        notify.unlink(missing_ok=True)
        self._manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._manager.bind(str(notify))
        own = (f"service.state_dir={folder}/state", f"output.alerts={self.alerts_file}", f"service.metrics=127.0.0.1:{PORT}")
        sets = [word for change in (*SETTINGS, *own, *changes) for word in ("--set", change)]
        begun_s = time.monotonic()
        with self._log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [*wire.listening, sys.executable, "-m", "sensor.commands.sensor", *sets],
                env={**os.environ, "NOTIFY_SOCKET": str(notify)},
                stdin=subprocess.DEVNULL,
                stderr=log,
            )
        try:
            self._wait_ready()
        except BaseException:
            self.close()
            raise
        self.start_s = time.monotonic() - begun_s
        """From the start of the command to READY."""

    @property
    def pid(self) -> int:
        """Its process id: `ip netns exec` becomes what it is told to run."""
        return self._process.pid

    def metrics(self) -> Metrics:
        """Ask for all metrics."""

        def asked() -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/metrics", timeout=30) as answer:
                return str(answer.read().decode())

        return parse(self._wire.inside(asked))

    def settled(self) -> int:
        """Packets that came into flows, were skipped, or were dropped by the kernel so far."""
        now = self.metrics()
        return sum(int(now.total(name)) for name in (IN_FLOWS, SKIPPED, DROPPED))

    def usage(self) -> Usage:
        """CPU of all its threads and memory so far."""
        return Usage(_cpu_s(Path(f"/proc/{self.pid}/stat")), resident_bytes(self.pid))

    def end(self) -> None:
        """Ask for the end and wait for it. Raises CommandError when it went wrong."""
        self._process.send_signal(signal.SIGTERM)
        status = self._process.wait(END_S)
        if status:
            raise CommandError(f"netseq-sensor ended with status {status}: {self._last_words()}")

    def close(self) -> None:
        """End it now, if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(END_S)
        self._manager.close()

    def _wait_ready(self) -> None:
        self._manager.settimeout(START_S)
        self._manager.setblocking(False)
        told: list[str] = []

        def ready() -> bool:
            if self._process.poll() is not None:
                raise CommandError(f"netseq-sensor ended at once: {self._last_words()}")
            try:
                told.extend(self._manager.recv(4096).decode().splitlines())
            except BlockingIOError:
                return False
            return "READY=1" in told

        wait_until(ready, "netseq-sensor is ready", START_S)

    def _last_words(self) -> str:
        return self._log_file.read_text(errors="replace").strip().rpartition("\n")[2]


def resident_bytes(pid: int | str = "self") -> int:
    """Memory that a process has now."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES


def _cpu_s(stat: Path) -> float:
    """User and system seconds in a file of /proc (proc(5): fields 14 and 15, counted behind the name in brackets)."""
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


@contextmanager
def running(wire: Wire, folder: Path, *changes: str) -> Iterator[Sensor]:
    """A sensor that is ready, for the time of the block."""
    folder.mkdir(parents=True, exist_ok=True)
    sensor = Sensor(wire, folder, changes)
    try:
        yield sensor
    finally:
        sensor.close()
