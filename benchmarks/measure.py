"""What a command costs: CPU seconds of it and its children, wall seconds, peak memory; and medians of several runs.

The kernel's accounting (wait4) is asked, not the tool itself. Every tool is pinned to the same cores. What it needs before
the first packet (imports, options, output files) is measured on a capture of a few packets and told apart, for all tools
alike.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple


class CommandFailed(Exception):
    """A measured command ended with an error; the text is its last lines."""


class Usage(NamedTuple):
    """What one run of a command cost."""

    cpu_s: float
    wall_s: float
    peak_bytes: int
    output: str


class Spread(NamedTuple):
    """Median of several runs, with the lowest and the highest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise `values`, of which there is at least one."""
        return cls(statistics.median(values), min(values), max(values))


def available_cores() -> list[int]:
    """Return the cores that this process may use."""
    return sorted(os.sched_getaffinity(0))


def run(command: Sequence[str | Path], cores: Collection[int], folder: Path | None = None) -> Usage:
    """Run `command` on `cores` and wait for it. Raises CommandFailed when its exit status is not 0.

    CPU seconds are user and system time of the process and of all children that it waited for.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        before_s = time.perf_counter()
        child = subprocess.Popen(
            ["taskset", "--cpu-list", ",".join(map(str, cores)), *map(str, command)],
            stdin=subprocess.DEVNULL, stdout=output, stderr=errors, cwd=folder,
        )  # fmt: skip
        _, status, usage = os.wait4(child.pid, 0)
        wall_s = time.perf_counter() - before_s
        child.returncode = os.waitstatus_to_exitcode(status)  # it is reaped: Popen must not wait for it again
        output.seek(0)
        errors.seek(0)
        if child.returncode:
            last = errors.read().decode(errors="replace").strip().splitlines()[-3:]
            raise CommandFailed(f"{command[0]} ended with status {child.returncode}: {' | '.join(last)}")
        text = output.read().decode(errors="replace")
    return Usage(usage.ru_utime + usage.ru_stime, wall_s, usage.ru_maxrss * 1024, text)


def alternate(commands: dict[str, Callable[[], Usage]], runs: int) -> dict[str, list[Usage]]:
    """Run each of `commands` once unmeasured, to warm the page cache, then all in turn `runs` times.

    Turns, not blocks: a machine that is busy for a minute then slows all of them alike, and ratios are taken turn by turn.
    """
    for command in commands.values():
        command()
    usages: dict[str, list[Usage]] = {name: [] for name in commands}
    for _ in range(runs):
        for name, command in commands.items():
            usages[name].append(command())
    return usages
