"""Decoding and flows on one core, beside the peers on the same file: packets per CPU second.

All tools take turns. What a tool costs on a capture of a few packets is its start-up and is taken off, for each of them
alike; the column beside it leaves it in. A ratio is taken within a turn, and its median is what counts.
"""

from __future__ import annotations

import functools
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from benchmarks.measure import CommandError, Spread, Usage, alternate, available_cores, run
from benchmarks.peers import Peer
from benchmarks.run_flows import FlowRun
from benchmarks.table import Comparison, Figure, Tool, spread
from sensor import __version__

ROOT = Path(__file__).parents[1]
NETSEQ = Peer("netseq, decode and flows", (sys.executable, "-m", "benchmarks.run_flows"), __version__)

TARGET_RATE = 4.5e6
"""Packets per CPU second."""
TARGET_RATIOS = {"libpcap": 1.0, "argus": 4.0, "NFStream": 45.0}
"""How much faster than each peer, by the first word of its name."""


class Input(NamedTuple):
    """A capture that all tools read, and how many packets are in it."""

    title: str
    path: Path
    packets: int


def compare(subject: Input, few: Path, tools: Sequence[Peer], runs: int) -> tuple[Comparison, dict[str, list[Usage]]]:
    """Run all present `tools` on `subject` in turn; returns the table and each tool's runs."""
    present = [tool for tool in tools if not tool.absent]
    start_s = {tool.name: statistics.median(usage.cpu_s for usage in _alone(tool, few, min(runs, 3))) for tool in present}
    usages = alternate({tool.name: functools.partial(once, tool, subject.path) for tool in present}, runs)
    rates = {name: [subject.packets / net(each.cpu_s, start_s[name], name) for each in mine] for name, mine in usages.items()}
    rows = [_row(tool, subject, usages[tool.name], rates) if not tool.absent else _missing(tool) for tool in tools]
    return Comparison(subject.title, tuple(rows)), usages


def once(tool: Peer, capture: Path) -> Usage:
    """Run one tool on one capture: netseq on one core, a peer on all, so that it may start what helpers it wants."""
    cores = available_cores()
    return run([*tool.command, capture], cores[-1:] if tool is NETSEQ else cores, ROOT)


def _alone(tool: Peer, capture: Path, runs: int) -> list[Usage]:
    return alternate({tool.name: functools.partial(once, tool, capture)}, runs)[tool.name]


def net(spent_s: float, start_s: float, name: str) -> float:
    """Take start-up off. Raises CommandError where it makes no sense: kernels were compiled anew between two runs."""
    if spent_s <= start_s:
        raise CommandError(f"{name} took {start_s:.2f} s to start and {spent_s:.2f} s in all: run it again")
    return spent_s - start_s


def _row(tool: Peer, subject: Input, mine: list[Usage], rates: dict[str, list[float]]) -> Tool:
    ours = rates.get(NETSEQ.name)
    compared = (
        None if ours is None or tool is NETSEQ else Spread.of([a / b for a, b in zip(ours, rates[tool.name], strict=True)])
    )
    return Tool(
        name=tool.name,
        version=tool.version,
        rate=Spread.of(rates[tool.name]),
        rate_with_start=Spread.of([subject.packets / each.cpu_s for each in mine]),
        ratio=compared,
        peak_bytes=max(each.peak_bytes for each in mine),
        note=_shares(mine) if tool is NETSEQ else "",
    )


def _missing(tool: Peer) -> Tool:
    return Tool(tool.name, tool.version, note=tool.absent)


def _shares(mine: list[Usage]) -> str:
    """Tell which step takes which share of the CPU seconds."""
    told = [msgspec.json.decode(each.output, type=FlowRun) for each in mine]
    steps = {name: statistics.median(getattr(each, f"{name}_s") for each in told) for name in ("source", "decode", "flows")}
    return ", ".join(f"{name} {seconds / sum(steps.values()):.0%}" for name, seconds in steps.items())


def figures(compared: Comparison) -> list[Figure]:
    """Return the promises on decoding and flows: the rate itself, and how much faster than each peer."""
    ours = next((tool for tool in compared.tools if tool.name == NETSEQ.name), None)
    if ours is None or ours.rate is None:
        return []
    what = f"decode and flows, one core, {compared.capture.partition(':')[0].lower()} traffic"
    measured = f"{spread(ours.rate, 1e6)} million packets/s"
    found = [Figure(what, measured, f"{TARGET_RATE / 1e6:.1f} million", ours.rate.median >= TARGET_RATE)]
    for tool in compared.tools:
        target = TARGET_RATIOS.get(tool.name.split()[0])
        if target is None:
            continue
        if tool.ratio is None:
            found.append(Figure(f"{what}, over {tool.name}", tool.note, f"{target:.0f} times"))
        else:
            told = f"{spread(tool.ratio, 1, 1)} times"
            found.append(Figure(f"{what}, over {tool.name}", told, f"{target:.0f} times", tool.ratio.median >= target))
    return found


def check_counters(told: FlowRun, packets: int) -> str:
    """Return what does not add up in netseq's own count, or nothing."""
    if told.packets != packets:
        return f"{told.packets:,} packets read of {packets:,}"
    if told.packets != told.packets_in_flows + told.packets_skipped:
        return f"{told.packets:,} packets read, but {told.packets_in_flows:,} in flows and {told.packets_skipped:,} skipped"
    return ""
