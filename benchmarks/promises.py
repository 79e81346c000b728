"""What netseq promises beside the flow rate: the whole path to alerts, the LSTM's words, start-up, and memory.

The command itself is measured wherever a user would run it; only what it does not print (words a second, the counters)
is asked of small programs of this package.
"""

from __future__ import annotations

import functools
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks.comparison import ROOT, check_counters, net
from benchmarks.measure import Spread, Usage, alternate, available_cores, run
from benchmarks.run_flows import FlowRun
from benchmarks.run_multiflow import CORES, FlowsRun
from benchmarks.run_table import TableMemory
from benchmarks.run_words import BATCHES
from benchmarks.synthetic import Contents
from benchmarks.table import Figure, spread
from sensor import metrics
from sensor.schema import FLOW

WHOLE_RATE = 1.5e6
"""Packets per second of wall time."""
WHOLE_CORES = 2
WORDS_RATE = 100_000
FLOOD_FACTOR = 10
"""Times that a batch of one pair's flood may take longer than one of ordinary traffic."""
FLOWS_RATE, BFLOAT16_FACTOR, SAME_CLASS, TRAINING_RATE = 8_000, 2, 0.999, 3_000
"""Of the multi-flow model."""
START_S = 3.0
PEAK_BYTES = 1.2e9
REPLAY = Path(sys.executable).with_name("netseq-replay")


def replay(capture: Path) -> Usage:
    """Run `netseq-replay` on two cores, model on the CPU, alerts into a file that is thrown away."""
    with tempfile.TemporaryDirectory() as output:
        command: list[str | Path] = [REPLAY, "--quiet", "--set", "model.device=cpu", "--output", output, capture]
        return run(command, available_cores()[:WHOLE_CORES])


def start_up(usages: Sequence[Usage]) -> Figure:
    """Return the wall seconds of the command on a capture of a few packets, everything cached."""
    walls, cpus = Spread.of([usage.wall_s for usage in usages]), Spread.of([usage.cpu_s for usage in usages])
    measured = f"{spread(walls)} s; {cpus.median:.2f} CPU s"
    return Figure("start-up of netseq-replay", measured, f"at most {START_S:.0f} s", walls.median <= START_S)


def whole_path(capture: Path, contents: Contents, few: Path, runs: int) -> list[Figure]:
    """Return packets per second from the capture to written alerts with start-up taken off, and start-up."""
    usages = alternate({"few": functools.partial(replay, few), "many": functools.partial(replay, capture)}, runs)
    start_s = Spread.of([usage.wall_s for usage in usages["few"]]).median
    start_cpu_s = Spread.of([usage.cpu_s for usage in usages["few"]]).median
    rate = Spread.of([contents.packets / net(usage.wall_s, start_s, REPLAY.name) for usage in usages["many"]])
    per_cpu = Spread.of([contents.packets / net(usage.cpu_s, start_cpu_s, REPLAY.name) for usage in usages["many"]])
    with_start = Spread.of([contents.packets / usage.wall_s for usage in usages["many"]])
    what = f"capture to written alerts, two cores, {contents.packets // contents.flows} packets a flow"
    measured = (
        f"{spread(rate, 1e6)} million packets/s; {per_cpu.median / 1e6:.2f} per CPU second,"
        f" {with_start.median / 1e6:.2f} with start-up"
    )
    return [Figure(what, measured, f"{WHOLE_RATE / 1e6:.1f} million", rate.median >= WHOLE_RATE), start_up(usages["few"])]


def words(capture: Path, runs: int) -> list[Figure]:
    """Return the words per CPU second of the shipped model, for each batch size."""
    command: list[str | Path] = [sys.executable, "-m", "benchmarks.run_words", capture]
    usages = alternate({"words": lambda: run(command, available_cores()[-1:], ROOT)}, runs)["words"]
    told = [msgspec.json.decode(usage.output, type=dict[int, float]) for usage in usages]
    figures = []
    for batch in BATCHES:
        rate = Spread.of([rates[batch] for rates in told])
        what = f"word LSTM with its verdicts, one core, {batch:,} flows a batch"
        figures.append(Figure(what, f"{spread(rate, 1, 0)} words/s", f"{WORDS_RATE:,}", rate.median >= WORDS_RATE))
    return [*figures, flood_of_one_pair(capture, runs)]


def multiflow(capture: Path) -> list[Figure]:
    """Return flows per CPU second of a multi-flow model in both types of numbers, and windows a second in training."""
    command: list[str | Path] = [sys.executable, "-m", "benchmarks.run_multiflow", capture]
    told = msgspec.json.decode(run(command, available_cores()[:CORES], ROOT).output, type=FlowsRun)
    what = f"multi-flow model, one core, {told.columns} columns, 256 units, 10 flows"
    figures = [Figure(f"{what}, float32", f"{told.float32:,.0f} flows/s", f"{FLOWS_RATE:,}", told.float32 >= FLOWS_RATE)]
    if told.bfloat16 is None or told.same_class is None:
        figures.append(Figure(f"{what}, bfloat16", "this processor has no such arithmetic"))
    else:
        factor = told.bfloat16 / told.float32
        measured = f"{told.bfloat16:,.0f} flows/s, {factor:.1f} times float32; the same class for {told.same_class:.2%}"
        kept = factor >= BFLOAT16_FACTOR and told.same_class >= SAME_CLASS
        figures.append(Figure(f"{what}, bfloat16", measured, f"{BFLOAT16_FACTOR} times, {SAME_CLASS:.1%} alike", kept))
    rate = Figure(
        "its training, two cores", f"{told.training:,.0f} windows/s", f"{TRAINING_RATE:,}", told.training >= TRAINING_RATE
    )
    return [*figures, rate]


def flood_of_one_pair(capture: Path, runs: int) -> Figure:
    """Return how many times as long a flood of one pair takes as ordinary traffic, both judged in turns in one process."""
    command: list[str | Path] = [sys.executable, "-m", "benchmarks.run_flood", capture]
    usages = alternate({"flood": lambda: run(command, available_cores()[-1:], ROOT)}, runs)["flood"]
    return slower([msgspec.json.decode(usage.output, type=dict[str, float]) for usage in usages])


def slower(told: Sequence[dict[str, float]]) -> Figure:
    """Hold the CPU seconds of several runs of `run_flood` to the promise."""
    factor = Spread.of([spent_s["flood"] / spent_s["ordinary"] for spent_s in told])
    what = "flood of one pair beside ordinary traffic, flows to alerts"
    return Figure(what, f"{spread(factor)} times the CPU time", f"at most {FLOOD_FACTOR}", factor.median <= FLOOD_FACTOR)


def table_memory() -> list[Figure]:
    """Return the bytes of one flow's accumulators, and of the flow table at its default limit."""
    command: list[str | Path] = [sys.executable, "-m", "benchmarks.run_table"]
    usages = alternate({"table": lambda: run(command, available_cores()[-1:], ROOT)}, 1)["table"]  # the first may compile
    told = msgspec.json.decode(usages[0].output, type=TableMemory)
    arrays = ", ".join(f"{name} {size / 1e6:,.1f}" for name, size in told.bytes.items())
    measured = f"{sum(told.bytes.values()) / 1e6:,.0f} MB ({arrays}); the process grew from {told.before_bytes / 1e6:,.0f}"
    return [
        Figure("accumulators of one flow, key and times included", row_parts()),
        Figure(f"flow table of {told.flows:,} flows, full", f"{measured} to {told.full_bytes / 1e6:,.0f} MB resident"),
    ]


def row_parts() -> str:
    """Return the bytes of a FLOW row, and how its parts share them."""
    size = {name: FLOW[name].itemsize for name in ("fwd", "bwd", "active", "idle", "spare")}
    whole = FLOW.itemsize - sum(size.values())
    return (
        f"{FLOW.itemsize} bytes: {size['fwd']} for each side, {size['active'] + size['idle']} for active and idle times,"
        f" {whole} for key, state and the whole flow, {size['spare']} spare"
    )


def memory(flood: Path, contents: Contents, shorter: Path, its: Contents) -> list[Figure]:
    """Return the peak memory of the command in a flood of flows, and whether its counters add up in a shorter one."""
    usage = replay(flood)
    what = f"peak memory with {contents.flows / 1e6:,.1f} million different flows"
    measured = f"{usage.peak_bytes / 1e6:,.0f} MB; {contents.flows / usage.cpu_s:,.0f} flows per CPU second"
    counted = run([sys.executable, "-m", "benchmarks.run_engine", shorter], available_cores()[:WHOLE_CORES], ROOT)
    wrong = discrepancy(msgspec.json.decode(counted.output, type=dict[str, int]), its.packets)
    return [
        Figure(what, measured, f"under {PEAK_BYTES / 1e6:,.0f} MB", usage.peak_bytes < PEAK_BYTES),
        Figure(
            f"its counters with {its.flows / 1e6:,.1f} million flows: packets in = in flows + skipped",
            wrong or "exact",
            "exact",
            not wrong,
        ),
    ]


def discrepancy(counters: dict[str, int], packets: int) -> str:
    """Return what does not add up in an engine's counters after a capture of `packets`, or nothing."""
    read, in_flows = counters.get("packets_read", 0), counters.get("packets_in_flows", 0)
    return check_counters(FlowRun(read, in_flows, metrics.total(counters, "packets_skipped")), packets)
