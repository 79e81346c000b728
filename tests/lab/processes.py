"""The processes of a run: started with a log each, watched, and ended in the reverse order of their start, by force if needed.

Every process leads a session of its own, so that a Ctrl-C at the terminal reaches the laboratory alone, which then ends them
in order, and so that what a process started is ended with it. What slips out of its session (daemons) ends with the world.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from .site import LabError

KIND_END_S = 5.0
"""How long all processes together may take to end after SIGTERM: PostgreSQL's fast shutdown takes one or two."""

LAST_LINES = 5
"""Of its log, told when a process ended too early."""

TAIL_BYTES = 4096
"""Read from a log's end, for its last lines."""


@dataclass(slots=True)
class Process:
    """A process with its log."""

    name: str
    argv: Sequence[str]
    log: Path
    popen: subprocess.Popen[bytes] = field(repr=False)
    expected: bool = False
    """Whether it may end by itself."""

    @property
    def pid(self) -> int:
        """Its number, which is that of its process group too."""
        return self.popen.pid

    def poll(self) -> int | None:
        """Its exit status, or nothing while it runs."""
        return self.popen.poll()

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for its end; subprocess.TimeoutExpired when it takes longer."""
        return self.popen.wait(timeout_s)

    def send(self, number: signal.Signals) -> None:
        """Signal it and what it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def end(self, within_s: float = KIND_END_S) -> int:
        """End it and what it started, by force after `within_s`; its exit status."""
        end([self], within_s)
        return self.wait()

    def last_lines(self, count: int = LAST_LINES) -> list[str]:
        """What its log says at the end."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
                return file.read().decode(errors="replace").splitlines()[-count:]
        except FileNotFoundError:
            return []


class Processes:
    """All processes of a run, for the time of a with block."""

    def __init__(self) -> None:
        self.started: list[Process] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def start(
        self,
        argv: Sequence[str],
        log: Path,
        *,
        name: str = "",
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        expected: bool = False,
    ) -> Process:
        """Start a program; LabError when it is not installed.

        Its output is added to `log`, `env` to its environment; its folder is the log's unless told. `expected`: it may end
        by itself before the run does.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            try:
                popen = subprocess.Popen(
                    list(argv),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=cwd or log.parent,
                    env={**os.environ, **(env or {})},
                    start_new_session=True,
                )
            except FileNotFoundError as error:
                raise LabError(f"{argv[0]} is not installed, or {cwd or log.parent} is no folder") from error
        process = Process(name or argv[0], tuple(argv), log, popen, expected)
        self.started.append(process)
        return process

    def early(self) -> list[Process]:
        """Those that ended although they should not have."""
        return [process for process in self.started if not process.expected and process.poll() is not None]

    def check(self) -> None:
        """LabError with the last lines of its log when one ended too early."""
        for process in self.early():
            said = " | ".join(process.last_lines()) or "it said nothing"
            raise LabError(f"{process.name} ended too early (status {process.poll()}): {said}; its log is {process.log}")

    def end(self, within_s: float = KIND_END_S) -> None:
        """End all, the last one first."""
        end(list(reversed(self.started)), within_s)
        self.started.clear()


def end(processes: Sequence[Process], within_s: float = KIND_END_S) -> None:
    """Ask each in turn to end, wait `within_s` for all of them, and kill what is left of their groups."""
    for process in processes:
        process.expected = True
        if process.poll() is None:
            process.send(signal.SIGTERM)
            process.send(signal.SIGCONT)  # a stopped process does not hear
    until = time.monotonic() + within_s
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, until - time.monotonic()))
    for process in processes:
        process.send(signal.SIGKILL)
        process.wait()
