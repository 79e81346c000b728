"""Decoding and flows on one core, without statistics and with all of them, beside the peers: packets per CPU second.

All tools take turns on the same file; only those that would take minutes over it get a shorter one of the same kind. What a
tool costs on a capture of a few packets is its start-up and is taken off, for each of them alike; the column beside it leaves
it in. A ratio is taken within a turn, and its median is what counts.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import msgspec

from benchmarks.measure import CommandError, Spread, Usage, alternate, available_cores, run
from benchmarks.peers import Peer
from benchmarks.run_flows import STEPS, FlowRun
from benchmarks.table import Comparison, Figure, Tool, spread
from sensor import __version__

ROOT = Path(__file__).parents[1]
FLOWS = Peer("netseq, decode and flows", (sys.executable, "-m", "benchmarks.run_flows"), __version__)
STATISTICS = Peer("netseq, decode, flows and statistics", (*FLOWS.command, "--statistics"), __version__)


class Promise(NamedTuple):
    """What one of netseq's own rows is held to."""

    what: str
    rate: float
    """Packets per CPU second."""
    ratios: Mapping[str, float]
    """How much faster than each peer, by the first word of its name."""


PROMISES = {
    FLOWS: Promise("decode and flows", 4.5e6, {"libpcap": 1, "argus": 4, "NFStream": 45}),
    STATISTICS: Promise("decode, flows and all statistics", 3.5e6, {"NFStream": 35, "CICFlowMeter": 90}),
}
ELSEWHERE = {"CICFlowMeter": (0.03e6, 0.04e6)}
"""Packets per CPU second that a peer made on a trial machine before netseq was begun; quoted where it cannot be measured."""


class Input(NamedTuple):
    """A capture, and how many packets are in it."""

    title: str
    path: Path
    packets: int


def compare(
    subject: Input, few: Path, tools: Sequence[Peer], runs: int, short: Mapping[str, Input] | None = None
) -> tuple[Comparison, dict[str, list[Usage]]]:
    """Run all present `tools` in turn, on `subject` or on what `short` has for their name; returns the table and the runs."""
    inputs = {tool.name: (short or {}).get(tool.name, subject) for tool in tools if not tool.absent}
    present = [tool for tool in tools if not tool.absent]
    start_s = {tool.name: median(usage.cpu_s for usage in _alone(tool, few, min(runs, 3))) for tool in present}
    usages = alternate({tool.name: functools.partial(once, tool, inputs[tool.name].path) for tool in present}, runs)
    rates = {
        name: [inputs[name].packets / net(each.cpu_s, start_s[name], name) for each in mine] for name, mine in usages.items()
    }
    rows = [_missing(tool) if tool.absent else _row(tool, inputs[tool.name], usages[tool.name], rates) for tool in tools]
    return Comparison(subject.title, tuple(rows)), usages


def once(tool: Peer, capture: Path) -> Usage:
    """Run one tool on one capture: netseq on one core, a peer on all, so that it may start what helpers it wants."""
    cores = available_cores()
    return run([*tool.command, capture, *tool.after], cores[-1:] if tool in PROMISES else cores, ROOT)


def _alone(tool: Peer, capture: Path, runs: int) -> list[Usage]:
    return alternate({tool.name: functools.partial(once, tool, capture)}, runs)[tool.name]


def net(spent_s: float, start_s: float, name: str) -> float:
    """Take start-up off. Raises CommandError where it makes no sense: kernels were compiled anew between two runs."""
    if spent_s <= start_s:
        raise CommandError(f"{name} took {start_s:.2f} s to start and {spent_s:.2f} s in all: run it again")
    return spent_s - start_s


def _row(tool: Peer, subject: Input, mine: list[Usage], rates: dict[str, list[float]]) -> Tool:
    return Tool(
        name=tool.name,
        version=tool.version,
        rate=Spread.of(rates[tool.name]),
        rate_with_start=Spread.of([subject.packets / each.cpu_s for each in mine]),
        ratios=() if tool in PROMISES else tuple(_ratio(rates.get(own.name), rates[tool.name]) for own in PROMISES),
        peak_bytes=max(each.peak_bytes for each in mine),
        note=_shares(mine) if tool in PROMISES else f"on {subject.packets:,} packets" if tool.packets else "",
    )


def _ratio(ours: list[float] | None, theirs: list[float]) -> Spread | None:
    return Spread.of([a / b for a, b in zip(ours, theirs, strict=True)]) if ours else None


def _missing(tool: Peer) -> Tool:
    return Tool(tool.name, tool.version, note=tool.absent)


def _shares(mine: list[Usage]) -> str:
    """Tell which step takes which share of the CPU seconds."""
    told = [msgspec.json.decode(each.output, type=FlowRun) for each in mine]
    steps = {name: median(getattr(each, f"{name}_s") for each in told) for name in STEPS}
    return ", ".join(f"{name} {seconds / sum(steps.values()):.0%}" for name, seconds in steps.items() if seconds)


def figures(compared: Comparison) -> list[Figure]:
    """Return the promises on netseq's rows: the rate itself, the share of each step, and how much faster than each peer."""
    found = []
    rows = {tool.name: tool for tool in compared.tools}
    for place, (own, promise) in enumerate(PROMISES.items()):
        ours = rows.get(own.name)
        if ours is None or ours.rate is None:
            continue
        what = f"{promise.what}, one core, {compared.capture.partition(':')[0].lower()} traffic"
        measured = f"{spread(ours.rate, 1e6)} million packets/s; {ours.note}"
        found.append(Figure(what, measured, f"{promise.rate / 1e6:.1f} million", ours.rate.median >= promise.rate))
        for tool in compared.tools:
            peer = tool.name.split()[0]
            if peer in promise.ratios:
                found.append(_faster(f"{what}, over {tool.name}", ours.rate, tool, place, promise.ratios[peer]))
    return found


def _faster(what: str, ours: Spread, tool: Tool, place: int, target: float) -> Figure:
    """Hold one ratio to its promise, or tell why it was not measured and what is known from elsewhere."""
    ratio = tool.ratios[place] if tool.ratios else None
    if ratio is not None:
        return Figure(what, f"{spread(ratio, 1, 1)} times", f"{target:.0f} times", ratio.median >= target)
    elsewhere = ELSEWHERE.get(tool.name.split()[0])
    if elsewhere is None:
        return Figure(what, tool.note, f"{target:.0f} times")
    low, high = elsewhere
    told = (
        f"not measured in this run ({tool.note}); beside the {low / 1e6:.2f} to {high / 1e6:.2f} million packets per CPU second"
        f" that it made on a trial machine: {ours.median / high:.0f} to {ours.median / low:.0f} times"
    )
    return Figure(what, told, f"{target:.0f} times")


def check_counters(told: FlowRun, packets: int, columns: int = 0) -> str:
    """Return what does not add up in netseq's own count, or nothing; `columns` statistics of every flow were asked for."""
    if told.packets != packets:
        return f"{told.packets:,} packets read of {packets:,}"
    if told.packets != told.packets_in_flows + told.packets_skipped:
        return f"{told.packets:,} packets read, but {told.packets_in_flows:,} in flows and {told.packets_skipped:,} skipped"
    if told.numbers != told.flows * columns:
        return f"{told.numbers:,} statistics of {told.flows:,} flows with {columns} columns each"
    return ""
