"""`make bench`: write the captures, measure netseq and its peers in turn, and put the tables where they belong."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from benchmarks import comparison, peers, promises, table, written, zeek
from benchmarks.machine import Machine
from benchmarks.measure import CommandError
from benchmarks.recorded import Absent, find_collection, write_recorded
from benchmarks.run_flows import FlowRun
from benchmarks.store import folder, read_from_disk
from benchmarks.synthetic import Contents, Flood, Shape, write
from sensor.spellings import STATISTICS

PARTS = ("flows", "statistics", "peers", "recorded", "whole", "written", "words", "multiflow", "zeek", "memory")
HERE = Path(__file__).parent
T = TypeVar("T")
FEW = Shape(packets=1_000)
"""Enough to touch every kernel once, too few to take time: start-up."""
WORDS = Shape(packets=200_000, packets_per_flow=20)
MANY_FLOWS = Shape(packets_per_flow=6)
"""As few as this mix of kinds allows, so that writing is what is measured and not making the flows."""
WHOLE = Shape(packets=4_000_000, packets_per_flow=20)
"""Long beside the command's start-up, which is taken off and varies by some tenths of a second."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what was asked for; returns the exit status."""
    arguments = parser().parse_args(argv)
    chosen = arguments.only or list(PARTS)
    machine = Machine.here(arguments.runs)
    print("\n".join(machine.lines()), file=sys.stderr)
    results = measure(chosen, arguments.runs, quick=arguments.quick)
    print(table.terminal(results))
    if arguments.no_write:
        return 0
    if set(chosen) != set(PARTS) or arguments.quick:
        print("a part of the figures, or small captures: README.md and benchmarks/RESULTS.md stay as they are", file=sys.stderr)
        return 0
    (HERE / "RESULTS.md").write_text(table.report(results, machine, HOW), encoding="utf-8")
    if not table.put_between_markers(HERE.parent / "README.md", table.summary(results, machine)):
        print(f"README.md has no {table.BEGIN} and {table.END}: its table was not written", file=sys.stderr)
    return 0


HOW = """\
`make bench` writes this page. Every tool is a process of its own, run once to warm the page cache and then in turn with the
others; CPU seconds are user and system time of the process and its children, as the kernel counts them. Start-up, measured
on a capture of 1,000 packets, is taken off for every tool alike; the column beside it leaves it in. A ratio is taken
within a turn. NFStream runs with statistical_analysis=True, n_dissections=0 and one meter, argus with its defaults into
/dev/null; the libpcap loop only counts packets. The CICFlowMeters write their tables, and get a shorter capture of the same
kind: they would take minutes over the long one, and the Python port even longer a packet, as it walks over all its flows
every 1,000 packets. Commands that end in alerts or tables are told per second of wall time, start-up taken off; netseq-flows
writes all columns into a file that is then thrown away."""


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    build = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure netseq beside its peers.")
    build.add_argument("--only", type=parts, metavar="PART[,PART]", help=f"of {', '.join(PARTS)}")
    build.add_argument("--runs", type=int, default=5, help="measured runs of each tool (default: %(default)s)")
    build.add_argument("--quick", action="store_true", help="captures of a quarter of the packets: to try the benchmark itself")
    build.add_argument("--no-write", action="store_true", help="print only; README.md and RESULTS.md stay as they are")
    return build


def parts(text: str) -> list[str]:
    """Split a list of parts. Raises ArgumentTypeError for an unknown one."""
    named = text.split(",")
    unknown = [name for name in named if name not in PARTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown part {unknown[0]!r}: choose from {', '.join(PARTS)}")
    return named


def measure(chosen: Sequence[str], runs: int, *, quick: bool) -> table.Results:
    """Measure the chosen parts, one after the other; a part that fails is a row that says why."""
    share = 4 if quick else 1
    figures: list[table.Figure] = []
    comparisons: list[table.Comparison] = []
    if {"flows", "statistics", "peers"} & set(chosen):
        compared = attempt("decode and flows", figures, lambda: on_synthetic(chosen, runs, share))
        comparisons += [compared] if compared else []
    if "recorded" in chosen:
        compared = attempt("recorded captures", figures, lambda: on_recorded(chosen, runs, share))
        comparisons += [compared] if compared else []
    figures += [figure for compared in comparisons for figure in comparison.figures(compared)]
    for name, measured in (
        ("whole", whole),
        ("written", to_tables),
        ("words", words),
        ("multiflow", multiflow),
        ("zeek", from_zeek),
        ("memory", memory),
    ):
        if name in chosen:
            figures += attempt(name, figures, functools.partial(measured, runs, share)) or []
    return table.Results(tuple(figures), tuple(comparisons))


def attempt(what: str, figures: list[table.Figure], measured: Callable[[], T]) -> T | None:
    """Return what was measured, or None and a row with the reason."""
    print(f"measuring {what}", file=sys.stderr)
    try:
        return measured()
    except (CommandError, Absent) as reason:
        figures.append(table.Figure(what, str(reason)))
        return None


def capture(shape: Shape | Flood) -> tuple[Path, Contents]:
    """Return the capture of `shape`, telling when it has to be written."""
    print(f"capture: {shape}", file=sys.stderr)
    return write(shape)


def tools(chosen: Sequence[str]) -> list[peers.Peer]:
    """Return netseq's rows, the peers, or all: all where none is named."""
    rows = {"flows": comparison.FLOWS, "statistics": comparison.STATISTICS}
    every = not {*rows, "peers"} & set(chosen)
    own = [row for name, row in rows.items() if every or name in chosen]
    return own + (peers.find_peers(folder(), capture(FEW)[0]) if every or "peers" in chosen else [])


def on_synthetic(chosen: Sequence[str], runs: int, share: int) -> table.Comparison:
    """Compare on the capture that the benchmark writes itself."""
    path, contents = capture(Shape(packets=Shape().packets // share))
    title = (
        f"Synthetic: {contents.packets / 1e6:,.1f} million packets, {contents.packets // contents.flows} a flow,"
        f" {contents.bytes / contents.packets:,.0f} bytes a packet"
    )
    found = tools(chosen)
    short = {tool.name: shorter(tool.packets // share) for tool in found if tool.packets and not tool.absent}
    return compare(comparison.Input(title, read_from_disk(path), contents.packets), found, runs, short)


def shorter(packets: int) -> comparison.Input:
    """Return the synthetic capture of so many packets."""
    path, contents = capture(Shape(packets=packets))
    return comparison.Input("", path, contents.packets)


def on_recorded(chosen: Sequence[str], runs: int, share: int) -> table.Comparison:
    """Compare on recorded traffic. Raises Absent without it."""
    path, recorded = write_recorded(find_collection(), folder(), 2_000_000 // share)
    title = (
        f"Recorded: {recorded.files} captures of ndpi_4.2, {recorded.rounds} times over,"
        f" {recorded.packets / 1e6:,.1f} million packets cut to 160 bytes"
    )
    found = [tool for tool in tools(chosen) if not tool.packets]
    return compare(comparison.Input(title, read_from_disk(path), recorded.packets), found, runs, {})


def compare(
    subject: comparison.Input, found: Sequence[peers.Peer], runs: int, short: Mapping[str, comparison.Input]
) -> table.Comparison:
    """Compare the tools, and hold netseq to its own count. Raises CommandError when it does not add up."""
    compared, usages = comparison.compare(subject, capture(FEW)[0], found, runs, short)
    for own, columns in ((comparison.FLOWS, 0), (comparison.STATISTICS, len(STATISTICS))):
        for usage in usages.get(own.name, []):
            told = msgspec.json.decode(usage.output, type=FlowRun)
            wrong = comparison.check_counters(told, subject.packets, columns)
            if wrong:
                raise CommandError(f"netseq's counters do not add up: {wrong}")
    return compared


def whole(runs: int, share: int) -> list[table.Figure]:
    """Measure the path from capture to alerts, and start-up."""
    path, contents = capture(WHOLE if share == 1 else WHOLE._replace(packets=1_000_000))
    return promises.whole_path(read_from_disk(path), contents, capture(FEW)[0], runs)


def to_tables(runs: int, share: int) -> list[table.Figure]:
    """Measure the command that writes flows, on many flows and on many packets; shorter captures would drown in start-up."""
    inputs = []
    for shape in (MANY_FLOWS, Shape()):
        path, contents = capture(shape)
        inputs.append(written.Capture(read_from_disk(path), contents.packets, contents.flows))
    return written.figures(inputs, capture(FEW)[0], runs if share == 1 else 1)


def words(runs: int, share: int) -> list[table.Figure]:
    """Measure the word LSTM; it is timed for a second however few the flows are."""
    return promises.words(capture(WORDS)[0], runs if share == 1 else 1)


def multiflow(runs: int, share: int) -> list[table.Figure]:
    """Measure the multi-flow model, once: it is timed over some seconds however few the flows are."""
    return promises.multiflow(capture(WORDS)[0])


def from_zeek(runs: int, share: int) -> list[table.Figure]:
    """Measure the reading of Zeek's connections, with runs of its own."""
    return zeek.figures(quick=share > 1)


def memory(runs: int, share: int) -> list[table.Figure]:
    """Measure memory, of the flow table and in a flood, once: the peak of one run is as good as that of five."""
    flood = Flood(flows=Flood().flows // share)
    shorter = flood._replace(flows=flood.flows // 5)  # at full size still more than the table holds, so that it has to end some
    return [*promises.table_memory(), *promises.memory(*capture(flood), *capture(shorter))]


if __name__ == "__main__":
    raise SystemExit(main())
