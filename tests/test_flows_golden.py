"""Small traces: the tables of their flows, written by the naive flow table, beside them. Whole captures against CICFlowMeter
are `test_statistics_golden`'s.
"""

from __future__ import annotations

import csv
from collections import Counter

import pytest
from conftest import DATA
from naive_accumulate import Tree, read, told
from naive_flows import NaiveTable, packets_of
from statistics_tables import flows_of

from sensor.addresses import text
from sensor.decode import Decoder
from sensor.flows import FlowTable
from sensor.sources.pcap import CaptureSource

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
