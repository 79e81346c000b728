"""Whole captures: every row and every column that the repaired CICFlowMeter wrote; and tables of small traces.

With expiry off and payload by captured bytes, which are that tool's rules, the flow table must give the same flows. What it
leaves out (IPv6) is looked at too: nothing else may be there in addition.
"""

from __future__ import annotations

import csv
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from cic_columns import NAMED, Columns, columns_of
from conftest import DATA
from naive_accumulate import Tree, read, told
from naive_flows import NaiveTable, packets_of
from numpy.typing import NDArray

from sensor.addresses import text
from sensor.decode import Decoder
from sensor.flows import FlowTable
from sensor.schema import FLOW
from sensor.sources.pcap import CaptureSource

CAPTURES = (
    "1kxun", "4in4tunnel", "WebattackXSS-cicids2017", "ajp", "anyconnect-vpn", "anydesk", "bittorrent", "dns_fragmented",
    "dnscrypt-v1-and-resolver-pings", "ftp", "http-manipulated", "http_ipv6", "ip-frag", "jre-dos", "many-protocols",
    "nintendo", "ps_vue", "tor", "ustc-Facetime", "viber", "webex", "whatsappfiles",
)  # fmt: skip


class Name(NamedTuple):
    """What tells a row of a capture from all others."""

    src: str
    dst: str
    src_port: int
    dst_port: int
    protocol: int
    start_us: int


OUTER = ("69.67.35.146", "41.202.46.110", 62367, 17000, 17)
INNER = ("10.10.100.25", "10.10.101.2", 62367, 17000, 17)
TUNNELLED = (1537044271794779, 1537058551803081, 1537082929816392, 1537138237839574, 1537165843864842)

OTHERWISE: dict[str, tuple[tuple[Name, Name | None, str], ...]] = {
    "4in4tunnel": tuple(
        (Name(*OUTER, start_us), Name(*INNER, start_us), "IP in IP: that tool mixes the outer addresses with the inner ports")
        for start_us in TUNNELLED
    ),
    "many-protocols": (
        (
            Name("8.6.0.1", "8.0.6.4", 0, 0, 0, 1420290286940402),
            None,
            "ARP, which that tool reads as IPv4 from the frame's first byte",
        ),
    ),
}
"""Rows of that tool which netseq does not make: the row, the one it makes instead, and why."""


def flows_of(capture: Path, decoder: Decoder, table: FlowTable) -> NDArray[np.void]:
    """All flows of a capture."""
    parts = [np.zeros(0, FLOW)]
    parts += [table.feed(decoder.decode(block)).copy() for block in CaptureSource([capture])]
    while len(part := table.drain()):
        parts.append(part.copy())
    return np.concatenate(parts)


def name_of(row: np.void) -> Name:
    protocol = int(row["protocol"])
    return Name(
        text(int(row["src_hi"]), int(row["src_lo"])),
        text(int(row["dst_hi"]), int(row["dst_lo"])),
        int(row["src_port"]),
        int(row["dst_port"]),
        protocol if protocol in NAMED else 0,
        int(row["first_us"]),
    )


def stamp_us(stamp: str) -> int:
    """Microseconds of "2017-07-06 12:00:00[.fraction]"."""
    whole, _, fraction = stamp.partition(".")
    moment = datetime.strptime(whole, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    return int(moment.timestamp()) * 1_000_000 + int(fraction.ljust(6, "0"))


def rows_written(table: Path) -> Iterator[tuple[Name, Columns]]:
    """The rows of a CSV that CICFlowMeter wrote."""
    with table.open(newline="") as lines:
        for row in csv.DictReader(lines):
            name = Name(
                row.pop("Src IP"),
                row.pop("Dst IP"),
                int(row.pop("Src Port")),
                int(row.pop("Dst Port")),
                int(row.pop("Protocol")),
                stamp_us(row.pop("Timestamp")),
            )
            assert row.pop("Label") == "NeedManualLabel"
            assert set(row.pop("Flow ID").split("-")) == {name.src, name.dst, *(str(n) for n in name[2:5])}
            yield name, {column: float(value) for column, value in row.items()}


def by_name(rows: Iterator[tuple[Name, Columns]]) -> dict[Name, list[Columns]]:
    """Rows under their name; those that share one in the order of their length."""
    found: dict[Name, list[Columns]] = defaultdict(list)
    for name, columns in rows:
        found[name].append(columns)
    for same in found.values():
        same.sort(key=lambda columns: (columns["Flow Duration"], columns["Total Fwd Packet"]))
    return found


def differences(name: Name, ours: Columns, theirs: Columns) -> Iterator[str]:
    """Columns that differ by more than the rounding of that tool's running means."""
    assert set(ours) == set(theirs)
    for column, value in theirs.items():
        if not math.isclose(ours[column], value, rel_tol=1e-9, abs_tol=1e-6):
            yield f"{name}: {column} is {ours[column]}, CICFlowMeter says {value}"


@pytest.mark.parametrize("capture", CAPTURES)
def test_flows_and_columns_are_those_of_the_repaired_cicflowmeter(
    capture: str, shared_data: Path, record_property: Callable[[str, object], None]
) -> None:
    folder = shared_data / "golden" / "cicflowmeter" / capture
    theirs = by_name(rows_written(folder / "fixed.csv"))
    decoder, table = Decoder(payload="captured", tunnels=("vlan", "ipip")), FlowTable(expiry=False, seed=1)
    rows = flows_of(folder / "capture.pcap.gz", decoder, table)
    ours = by_name((name_of(row), columns_of(row)) for row in rows)
    for written, instead, _ in OTHERWISE.get(capture, ()):
        assert len(theirs.pop(written)) == 1
        assert written not in ours
        assert instead is None or len(ours.pop(instead)) == 1
    extra = {name for name in ours if ":" in name.src}
    assert set(ours) - extra == set(theirs)
    assert {name: len(same) for name, same in theirs.items()} == {name: len(ours[name]) for name in theirs}
    wrong = [
        text
        for name, same in theirs.items()
        for mine, other in zip(ours[name], same, strict=True)
        for text in differences(name, mine, other)
    ]
    assert not wrong, wrong[:5]
    matched = sum(map(len, theirs.values()))
    record_property("told", f"{capture}: {matched} rows as CICFlowMeter's, {len(extra)} of IPv6 in addition")


def test_every_golden_capture_is_compared(shared_data: Path) -> None:
    folders = {folder.name for folder in (shared_data / "golden" / "cicflowmeter").iterdir() if folder.is_dir()}
    assert folders == set(CAPTURES)


COLUMNS = ("continued", "end", "first_us", "last_us", "long_gaps", "connection_us")
SIDES = (
    "packets", "payload", "ip_bytes", "header_bytes", "fin", "syn", "rst", "psh", "ack", "urg", "retransmissions",
    "data_packets", "bulk_count", "bulk_bytes", "first_window",
)  # fmt: skip
TRACES = ("wikipedia.trace", "ftp_ipv6.trace", "icmp_5-pings.pcap")


def line_of(row: Tree) -> tuple[str, ...]:
    """A flow as a line of the tables beside the tests."""

    def number(name: str) -> int:
        value = row[name]
        assert isinstance(value, int)
        return value

    ends = [f"{text(number(f'{end}_hi'), number(f'{end}_lo'))} {number(f'{end}_port')}" for end in ("src", "dst")]
    cells = [*ends, str(number("protocol")), *(str(number(name)) for name in COLUMNS)]
    for side in (row["fwd"], row["bwd"]):
        assert isinstance(side, dict)
        for name in SIDES:
            value = side[name]
            cells.append(str(value["sum"] if isinstance(value, dict) else value))
    return tuple(cells)


HEADER = ("src", "dst", "protocol", *COLUMNS, *(f"{side} {name}" for side in ("fwd", "bwd") for name in SIDES))


@pytest.mark.parametrize("trace", TRACES)
def test_flows_of_zeeks_traces_are_those_of_the_table_beside_them(trace: str) -> None:
    """The tables were written by the naive flow table; `write_tables` writes them again."""
    folder = DATA / "zeek" / trace
    with (folder / "flows.csv").open(newline="") as lines:
        header, *expected = (tuple(line) for line in csv.reader(lines))
    assert header == HEADER
    rows = flows_of(folder / "trace.pcap.gz", Decoder(), FlowTable(seed=1))
    assert Counter(line_of(read(row)) for row in rows) == Counter(expected)


def write_tables() -> None:
    """Write flows.csv beside each trace, by the naive table."""
    for trace in TRACES:
        folder, decoder, table = DATA / "zeek" / trace, Decoder(), NaiveTable()
        for block in CaptureSource([folder / "trace.pcap.gz"]):
            table.feed(packets_of(decoder.decode(block)))
        table.drain()
        with (folder / "flows.csv").open("w", newline="") as lines:
            csv.writer(lines, lineterminator="\n").writerows([HEADER, *(line_of(told(flow)) for flow in table.ended)])


if __name__ == "__main__":
    write_tables()
