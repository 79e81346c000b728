"""A real netseq-sensor for tests: started, spoken to as systemd and an operator would, and ended by its process id."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from sensor.commands import replay

Within: TypeAlias = Callable[[Callable[[], str]], str]

START_S, END_S = 120.0, 15.0
"""How long a start may take on a loaded machine that compiles kernels, and an end."""
SMALL = (
    "model.device=cpu",
    "conversations.table=4096",
    "flows.table=16384",
    "learn.days=0",
    "output.dvc=here",
)


EXACT = (
    "signature",
    "src",
    "src_port",
    "dest",
    "dest_port",
    "transport",
    "ts",
    "first_seen",
    "last_seen",
    "count",
    "community_id",
)
"""Fields of an alert that do not depend on where batches are cut, by a digit or at all."""


def exact(alerts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: alert[name] for name in EXACT} for alert in alerts]


def replayed(capture: Path, folder: Path) -> list[dict[str, Any]]:
    """The alerts of a replay of a capture with the settings of the sensors here."""
    sets = [word for change in SMALL for word in ("--set", change)]
    assert replay.main([str(capture), "--quiet", "--output", str(folder), *sets]) == 0
    return [json.loads(line) for line in (folder / "alerts.jsonl").read_text().splitlines()]


def until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for a condition, with a limit."""
    end_s = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end_s, "it did not come to be in time"
        time.sleep(0.02)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "sensor.commands.sensor", *arguments]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


class Sensor:
    """One running sensor in `folder`; `changes` are settings.

    In a network namespace, `prefix` is the command that enters it and `within` calls a function there.
    """

    def __init__(
        self,
        folder: Path,
        changes: Sequence[str],
        *,
        prefix: Sequence[str] = (),
        within: Within = lambda function: function(),
        config: Path | None = None,
    ) -> None:
        self.folder = folder
        self._within = within
        self.alerts_file = folder / "alerts.jsonl"
        self.port = free_port()
        self.told: list[str] = []
        """What the service manager was told, word by word."""
        folder.mkdir(parents=True, exist_ok=True)
        place = folder / "notify"
        place.unlink(missing_ok=True)
        self._manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._manager.bind(str(place))
        self._manager.setblocking(False)
        own = (
            f"service.state_dir={folder}/state",
            f"service.metrics=127.0.0.1:{self.port}",
            f"output.alerts={self.alerts_file}",
        )
        sets = [word for change in (*SMALL, *own, *changes) for word in ("--set", change)]
        files = ["--config", str(config)] if config else []
        self._log = open(folder / "log", "ab")  # noqa: SIM115  # closed by `close`
        self.process = subprocess.Popen(
            [*prefix, *command(*files, *sets)],
            env={**os.environ, "NOTIFY_SOCKET": str(place), "WATCHDOG_USEC": "30000000"},
            stderr=self._log,
            stdin=subprocess.DEVNULL,
        )

    def heard(self) -> list[str]:
        """All words to the service manager so far."""
        while True:
            try:
                self.told += self._manager.recv(4096).decode().splitlines()
            except BlockingIOError:
                return self.told

    def wait_ready(self, times: int = 1) -> None:
        """Wait until it said so often that it is ready."""

        def ready() -> bool:
            assert self.process.poll() is None, self.log_text()
            return self.heard().count("READY=1") >= times

        until(ready, START_S)

    def log_text(self) -> str:
        return (self.folder / "log").read_text()

    def events(self, name: str) -> list[dict[str, Any]]:
        """Log lines of one event."""
        lines = [json.loads(line) for line in self.log_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def get(self, path: str) -> str:

        def asked() -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
                return str(answer.read().decode())

        return self._within(asked)

    def status(self) -> dict[str, Any]:
        return dict(json.loads(self.get("/status")))

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = [line for line in self.get("/metrics").splitlines() if line.split("{")[0].split(" ")[0] == name]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    def alerts(self) -> list[dict[str, Any]]:
        text = self.alerts_file.read_text() if self.alerts_file.exists() else ""
        return [json.loads(line) for line in text.splitlines()]

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask for the end, and give the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(END_S)
        self.heard()
        return status

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(END_S)
        self._manager.close()
        self._log.close()


@contextmanager
def running(
    folder: Path,
    *changes: str,
    prefix: Sequence[str] = (),
    within: Within = lambda function: function(),
    config: Path | None = None,
) -> Iterator[Sensor]:
    """A sensor that is ready, and is gone afterwards."""
    sensor = Sensor(folder, changes, prefix=prefix, within=within, config=config)
    try:
        sensor.wait_ready()
        yield sensor
    finally:
        sensor.close()
