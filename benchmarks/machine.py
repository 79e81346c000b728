"""The machine that figures come from: a figure without it says nothing."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import NamedTuple

PACKAGES = ("numpy", "numba", "torch")


class Machine(NamedTuple):
    """What a reader needs to compare figures with his own."""

    processor: str
    cores: int
    memory_bytes: int
    kernel: str
    versions: str
    date: str
    runs: int
    load: float
    """Processes that wanted a core in the minute before: near 0 on an idle machine."""

    @classmethod
    def here(cls, runs: int) -> Machine:
        """Describe this machine, for figures that are medians of `runs`."""
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
        return cls(
            processor=_processor(),
            cores=len(os.sched_getaffinity(0)),
            memory_bytes=pages,
            kernel=f"{platform.system()} {platform.release()}",
            versions=f"Python {platform.python_version()}, {versions}",
            date=datetime.datetime.now(datetime.UTC).date().isoformat(),
            runs=runs,
            load=os.getloadavg()[0],
        )

    def lines(self) -> list[str]:
        """Return the facts, one a line."""
        return [
            f"{self.processor}, {self.cores} cores, {self.memory_bytes / 2**30:.0f} GiB, load {self.load:.1f} when it began",
            f"{self.kernel}; {self.versions}",
            f"{self.date}; medians of {self.runs} runs, lowest and highest in brackets",
        ]

    def short(self) -> str:
        """Return the machine in half a line."""
        return f"{self.processor}, {self.cores} cores, {self.kernel}, {self.date}"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        fields = dict(
            line.split(":", 1) for line in cpuinfo.read_text(encoding="utf-8").split("\n\n")[0].splitlines() if ":" in line
        )
        told = {name.strip(): value.strip() for name, value in fields.items()}
        if "model name" in told:
            numbers = "/".join(told.get(name, "?") for name in ("cpu family", "model"))
            return f"{told['model name']} (family/model {numbers}, {float(told.get('cpu MHz', '0')) / 1000:.1f} GHz)"
    return platform.processor() or platform.machine()
