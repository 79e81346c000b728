"""`make bench-live`: what the sensor does on a wire, and in a flood, each figure against its target. Root, for namespaces.

A real netseq-sensor with the shipped models on the CPU listens on one end of a veth pair in a network namespace of its own;
tcpreplay sends on the other end, on the same machine, so that its cores run the sender too. Writes RESULTS-live.md. What is
missing is named, and nothing is installed but NFStream, into the environment where the other benchmark keeps it (`peers`).
"""

from __future__ import annotations

import argparse
import functools
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import live_runs
from benchmarks.live_page import SHARE, Page, curve_text, latency_figure, page, rate_rows
from benchmarks.live_runs import Heard, Run
from benchmarks.live_sensor import quantile_s
from benchmarks.live_wire import Wire, missing, wire
from benchmarks.machine import Machine
from benchmarks.measure import CommandError, Spread
from benchmarks.peers import find_nfstream
from benchmarks.store import folder
from benchmarks.synthetic import Shape, write
from benchmarks.table import FIGURE_HEADER, Figure, aligned, figure_rows, spread

PARTS = ("start", "rate", "latency", "memory", "flood")
PAGE = Path(__file__).parent / "RESULTS-live.md"
TRAFFIC = Shape(packets=500_000, full_segment_bytes=1_400, seed=9)
"""The frames have 60 to 1,494 bytes, tags included: an MTU of 1,500 takes them all."""
ORDINARY = Shape(packets=200_000, full_segment_bytes=1_400, seed=9)
"""Before the flood."""
UNIQUE = ("--topspeed", "--unique-ip", "--loop=0")
"""Each round of the capture comes from other hosts, so that flows and conversations are new ones all the time."""
RATE_GOAL, START_GOAL_S, GROWTH_GOAL, ALERT_GOAL_S = 500_000, 5.0, 0.05, 10.0
MEMORY_GOAL_BYTES = 1 << 30
"""For the sensor in a flood. Its tables take 0.4 GB with the default settings, python with torch and the kernels the rest."""
RECORD_BYTES = 16
"""Of a capture file, before each frame."""
HOUR_PACKETS = 36_000_000
"""An hour at 10,000 packets a second."""
FLOOD_ADDRESSES, FLOOD_RATE = 20_000_000, 500_000


class Extent(NamedTuple):
    """How much is measured."""

    runs: int
    starts: int
    seconds: int
    packets: int
    """For memory."""
    addresses: int


FULL = Extent(3, 5, 30, HOUR_PACKETS, FLOOD_ADDRESSES)
QUICK = Extent(1, 2, 8, 15_000_000, 2_000_000)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what was asked for; 2 where something is missing, 1 where a counter does not add up."""
    arguments = parser().parse_args(argv)
    lacking = missing()
    if lacking:
        print("\n".join(f"benchmarks.live: {line}" for line in lacking), file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _interrupted)  # as Ctrl-C: what was made is taken away
    extent, chosen = QUICK if arguments.quick else FULL, arguments.only or list(PARTS)
    if arguments.runs:
        extent = extent._replace(runs=arguments.runs)
    machine = Machine.here(extent.runs)
    print("\n".join(machine.lines()), file=sys.stderr)
    results = Page()
    try:
        with wire() as laid:
            measure(laid, chosen, extent, results)
    except KeyboardInterrupt:
        print("interrupted: nothing was written, and nothing is left behind", file=sys.stderr)
        return 130
    print(aligned(FIGURE_HEADER, figure_rows(tuple(results.figures))))
    if arguments.no_write or arguments.quick or set(chosen) != set(PARTS):
        print(f"{PAGE.name} stays as it is", file=sys.stderr)
    else:
        PAGE.write_text(page(results, machine), encoding="utf-8")
    return 1 if results.broken else 0


def _interrupted(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    build = argparse.ArgumentParser(prog="python -m benchmarks.live", description="Measure the sensor on a wire. Needs root.")
    build.add_argument("--only", type=_parts, metavar="PART[,PART]", help=f"of {', '.join(PARTS)}")
    build.add_argument("--runs", type=int, help=f"measured runs of each rate (default: {FULL.runs})")
    build.add_argument("--quick", action="store_true", help="short runs: to try the benchmark itself; writes nothing")
    build.add_argument("--no-write", action="store_true", help=f"print only; {PAGE.name} stays as it is")
    return build


def _parts(text: str) -> list[str]:
    named = text.split(",")
    unknown = [name for name in named if name not in PARTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown part {unknown[0]!r}: choose from {', '.join(PARTS)}")
    return named


def measure(laid: Wire, chosen: Sequence[str], extent: Extent, results: Page) -> None:
    """Measure the chosen parts one after the other; a part that fails is a row that says why."""
    capture, contents = write(TRAFFIC)
    mean_bytes = contents.bytes / contents.packets - RECORD_BYTES
    results.traffic = f"{contents.packets:,} packets in {contents.flows:,} flows, {mean_bytes:,.0f} bytes each on average"
    with live_runs.sensor(laid):
        pass  # compiles what the cache has not, once
    parts: dict[str, Callable[[Wire, Path, Extent, Page], None]] = {
        "start": start,
        "rate": rate,
        "latency": latency,
        "memory": memory,
        "flood": flood,
    }
    for name in PARTS:
        if name in chosen:
            print(f"measuring {name}", file=sys.stderr)
            try:
                functools.partial(parts[name], laid, capture, extent, results)()
            except CommandError as reason:
                results.broken = True
                results.figures.append(Figure(name, str(reason), met=False))


def start(laid: Wire, _capture: Path, extent: Extent, results: Page) -> None:
    """From the command to READY, kernels compiled before."""
    took_s = []
    for _ in range(extent.starts):
        with live_runs.sensor(laid) as listening:
            took_s.append(listening.start_s)
    took = Spread.of(took_s)
    what = f"start to READY, kernels compiled before, {extent.starts} starts"
    results.figures.append(Figure(what, f"{spread(took)} s", f"<= {START_GOAL_S:.0f} s", took.median <= START_GOAL_S))


def rate(laid: Wire, capture: Path, extent: Extent, results: Page) -> None:
    """As fast as tcpreplay sends: the sensor and NFStream in turn."""
    options = (*UNIQUE, f"--duration={extent.seconds}")
    peer = find_nfstream(folder())
    runs: list[Run] = []
    heard: list[Heard] = []
    for _ in range(extent.runs):
        with live_runs.sensor(laid) as listening:
            runs.append(live_runs.send(laid, listening, capture, *options))
        if not peer.absent:
            heard.append(live_runs.nfstream(laid, peer, capture, *options))
    results.rates += rate_rows(runs, heard)
    results.peer = peer
    reached, drops = Spread.of([run.sent.rate for run in runs]), sum(run.dropped for run in runs)
    results.reached = reached.median
    good = sum(run.sent.rate >= RATE_GOAL and not run.dropped for run in runs)
    results.figures.append(
        Figure(
            f"packets a second that were sent and read, {extent.seconds} s, {extent.runs} runs",
            f"{spread(reached, 1, 0)}; {drops:,} dropped by the kernel in all",
            f">= {RATE_GOAL:,}, none dropped",
            good > extent.runs / 2,
        )
    )
    if heard:
        share = Spread.of([each.counted / each.sent.packets for each in heard])
        ratio = Spread.of([run.rate / each.rate for run, each in zip(runs, heard, strict=True)])
        results.figures += [
            Figure("NFStream on the same wire: share of the packets sent that it counted", spread(share, 1, 3)),
            Figure("packets a second that netseq read, over those that NFStream counted", spread(ratio, 1, 1)),
        ]


def latency(laid: Wire, capture: Path, extent: Extent, results: Page) -> None:
    """How long flows wait to be judged at half of the rate that was reached."""
    packets_per_s = int(SHARE * (results.reached or RATE_GOAL))
    options = (f"--pps={packets_per_s}", "--unique-ip", "--loop=0", f"--duration={extent.seconds}")
    with live_runs.sensor(laid) as listening:
        run = live_runs.send(laid, listening, capture, *options)
    bounds_s = [quantile_s(run.metrics, share) for share in (0.5, 0.99)]
    results.figures.append(latency_figure(run, *bounds_s))


def memory(laid: Wire, capture: Path, extent: Extent, results: Page) -> None:
    """What the sensor's memory does over an hour's worth of packets, all of them from hosts that were not there before."""
    rounds = extent.packets // TRAFFIC.packets
    with live_runs.sensor(laid) as listening:
        run = live_runs.send(laid, listening, capture, "--topspeed", "--unique-ip", f"--loop={rounds}")
    grown = live_runs.growth(run.resident_bytes)
    results.curve = curve_text(run)
    packets = f"{run.sent.packets / 1e6:.0f} million packets ({run.sent.packets / HOUR_PACKETS:.2g} h at 10,000 a second)"
    results.figures.append(
        Figure(
            f"growth of memory in the second half of {packets}",
            f"{grown:+.1%}, to {max(run.resident_bytes) / 1e6:,.0f} MB",
            f"<= {GROWTH_GOAL:.0%}",
            grown <= GROWTH_GOAL,
        )
    )


def flood(_laid: Wire, _capture: Path, extent: Extent, results: Page) -> None:
    """Attempts from millions of addresses at one host."""
    told = live_runs.flood(write(ORDINARY)[0], extent.addresses, FLOOD_RATE)
    results.flood = told
    what = f"SYN flood from {told.addresses / 1e6:.0f} million addresses at {told.packets_per_s:,} a second"
    results.figures += [
        Figure(
            f"{what}: peak memory",
            f"{told.peak_bytes / 1e6:,.0f} MB",
            f"<= {MEMORY_GOAL_BYTES / 1e6:,.0f} MB",
            told.peak_bytes <= MEMORY_GOAL_BYTES,
        ),
        Figure(
            "the same: packet time from its first packet until the alert was handed over",
            "no alert" if told.handed_s is None else f"{told.handed_s:.2f} s",
            f"<= {ALERT_GOAL_S:.0f} s",
            told.handed_s is not None and told.handed_s <= ALERT_GOAL_S,
        ),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
