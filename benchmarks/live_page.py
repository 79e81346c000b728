"""The page of the live benchmark: figures, every run by itself, the curve of memory, what the flood came to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.live_runs import Heard, Run
from benchmarks.machine import Machine
from benchmarks.peers import Peer
from benchmarks.run_live_flood import Told
from benchmarks.table import FIGURE_HEADER, Figure, figure_rows, markdown

SHARE = 0.5
"""Of the rate that was reached, for the latency of scoring."""
RUN_HEADER = (
    *("run", "sent", "packets a second", "read", "dropped by the kernel", "flows ended", "shed"),
    "CPU of it, sender, all else",
)
COLUMNS = 12
"""Points of the curve of memory that are written down."""
HOW = """\
`make bench-live` writes this page. A real netseq-sensor, with what is shipped and the defaults but for `model.device=cpu` and
`learn.days=0`, listens on one end of a veth pair in network namespaces that are made for it; tcpreplay (`--topspeed
--preload-pcap --unique-ip`) sends on the other, on the same cores. Every run is held to its counters: packets sent = packets
read + packets dropped by the kernel, packets read = packets in flows + packets skipped, to the packet; all are read from
/metrics. NFStream listens in the sensor's place, in turn with it, with statistical_analysis=True, n_dissections=0, n_meters=1
and its own buffer. CPU is in seconds, of all cores, while it was sent; "all else" is whatever the machine did besides.
The flood goes through the sensor's capture worker, queue, models and record, in one process, from a made-up wire at the pace of
packet time, after ordinary traffic; flows ended = flows scored + flows shed there, to the flow."""


@dataclass
class Page:
    """What was measured so far."""

    figures: list[Figure] = field(default_factory=list)
    rates: list[tuple[str, ...]] = field(default_factory=list)
    traffic: str = ""
    peer: Peer | None = None
    reached: float = 0.0
    """Packets a second, median."""
    curve: str = ""
    flood: Told | None = None
    broken: bool = False
    """A part could not be measured, or its counters did not add up."""


def rate_rows(runs: Sequence[Run], heard: Sequence[Heard]) -> list[tuple[str, ...]]:
    """A row for each run, in the order in which they were made."""
    rows: list[tuple[str, ...]] = []
    for number, run in enumerate(runs):
        shed = run.metrics.by_label("netseq_flows_shed_total")
        rows.append(
            (
                "netseq",
                f"{run.sent.packets:,}",
                f"{run.sent.rate:,.0f}",
                f"{run.read:,}",
                f"{run.dropped:,}",
                f"{run.metrics.total('netseq_flows_ended_total'):,.0f}",
                "; ".join(f"{count:,.0f} {reason}" for reason, count in shed.items()) or "0",
                f"{run.cpu_s:.1f}, {run.sent.cpu_s:.1f}, {run.others_s:.1f}",
            )
        )
        if number < len(heard):
            other = heard[number]
            numbers = (f"{count:,.0f}" for count in (other.sent.packets, other.sent.rate, other.counted, other.dropped))
            rows.append(("NFStream", *numbers, "", "", ""))
    return rows


def latency_figure(run: Run, half_s: float, most_s: float) -> Figure:
    """How long flows waited."""
    what = f"from a batch of flows in the queue to its verdict, at {run.sent.rate:,.0f} packets a second"
    return Figure(what, f"half within {half_s * 1000:g} ms, 99 % within {most_s * 1000:g} ms")


def curve_text(run: Run) -> str:
    """The memory of a run as a table of some points."""
    curve = run.resident_bytes
    last = len(curve) - 1
    points = sorted({round(number * last / (COLUMNS - 1)) for number in range(COLUMNS)})
    packets = [run.sent.packets * point / max(last, 1) / 1e6 for point in points]
    header = ("million packets", *(f"{count:.0f}" for count in packets))
    return markdown(header, [("MB", *(f"{curve[point] / 1e6:,.0f}" for point in points))])


def page(results: Page, machine: Machine) -> str:
    """Write benchmarks/RESULTS-live.md."""
    facts = [*machine.lines(), f"traffic: {results.traffic}, 60 to 1,494 bytes, over and over from other hosts each time"]
    if results.peer is not None:
        facts.append(f"NFStream {results.peer.version}" if not results.peer.absent else f"NFStream: {results.peer.absent}")
    parts = [
        f"# What was measured live\n\n{HOW}\n\n" + "".join(f"- {line}\n" for line in facts),
        "## Figures\n\n" + markdown(FIGURE_HEADER, figure_rows(tuple(results.figures))),
        "## Each run at top speed\n\n" + markdown(RUN_HEADER, results.rates),
        "## Memory of the sensor\n\nLooked at each second; every round of the capture comes from other hosts.\n\n"
        + results.curve,
    ]
    if results.flood is not None:
        parts.append("## The flood\n\n" + flood_text(results.flood))
    return "\n".join(parts)


def flood_text(told: Told) -> str:
    """What was counted in the flood."""
    counted = told.counters
    ended = {key.partition(".")[2]: count for key, count in counted.items() if key.startswith("flows_ended.")}
    rows = [
        ("packets read, ordinary ones included", f"{counted['packets_read']:,}"),
        ("packets in flows", f"{counted['packets_in_flows']:,}"),
        *((f"flows ended: {end}", f"{count:,}") for end, count in ended.items()),
        ("flows scored", f"{counted['words_scored']:,}"),
        *((f"flows shed: {reason}", f"{count:,}") for reason, count in told.shed.items()),
        ("seconds until all was scored", f"{told.seconds:.1f}"),
        ("memory each fifth second, MB", ", ".join(f"{size / 1e6:,.0f}" for size in told.resident_bytes[::5])),
    ]
    return markdown(("", "counted"), rows)
