"""What a command costs: CPU seconds of it and its children, wall seconds, peak memory; and medians of several runs.

The kernel's accounting (wait4) is asked, not the tool itself. Every tool is pinned to the same cores. What it needs before
the first packet (imports, options, output files) is measured on a capture of a few packets and told apart, for all tools
alike.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

LAUNCH = Path(__file__).with_name("launch.py")


class CommandError(Exception):
    """A measured command ended with an error; the text ends with its last line."""


class Cost(msgspec.Struct):
    """What `launch` reports of one run."""

    cpu_s: float
    wall_s: float
    peak_bytes: int
    status: int


class Usage(NamedTuple):
    """What one run of a command cost, and what it printed."""

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
    """Run `command` on `cores` and wait for it. Raises CommandError when its exit status is not 0.

    CPU seconds are user and system time of the process and of all children that it waited for; the peak is that of the
    largest process among them.
    """
    with tempfile.TemporaryDirectory() as place:
        report = Path(place) / "cost.json"
        launch = [sys.executable, "-S", "-E", LAUNCH, report, ",".join(map(str, cores)), *command]
        done = subprocess.run(list(map(str, launch)), stdin=subprocess.DEVNULL, capture_output=True, cwd=folder, check=False)
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        if done.returncode:
            raise CommandError(f"{command[0]} could not be started: {last}")
        cost = msgspec.json.decode(report.read_bytes(), type=Cost)
    if cost.status:
        raise CommandError(f"{command[0]} ended with status {cost.status}: {last}")
    return Usage(cost.cpu_s, cost.wall_s, cost.peak_bytes, done.stdout.decode(errors="replace"))


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
