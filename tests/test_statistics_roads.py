"""Columns of rows that a conn.log told: those that it cannot tell are not a number, the others are what the packets say."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import DATA
from numpy.typing import NDArray
from statistics_tables import computed, different, flows_of

from sensor.decode import Decoder
from sensor.flows import FlowTable
from sensor.schema import END_LOG
from sensor.sources.zeek import ConnLogSource
from sensor.spellings import STATISTICS
from sensor.statistics import BY_NAME, Reading, Rules, column, statistics

LOGS = sorted(path.parent.name for path in (DATA / "zeek").glob("[a-z]*/tsv"))
AGREEING = (
    "icmp_5-pings.pcap", "icmp_icmp-destunreach-udp.pcap", "icmp_icmp6-neighbor-advert.pcap", "icmp_icmp6-ping.pcap",
    "nmap-vsn.trace", "tcp_syn-synack.pcap", "udp-broadcast.pcap", "wikipedia.trace",
)  # fmt: skip
"""Traces in which Zeek ends every connection with the packet that netseq ends it with, and counts the same payload."""
KEY = ("Src IP", "Dst IP", "Src Port", "Dst Port", "Protocol")

FROM_LOG = tuple(name for name in STATISTICS if "conn.log" in BY_NAME[name].roads)
UNKNOWN = tuple(name for name in STATISTICS if name not in FROM_LOG)


def logged(trace: str) -> NDArray[np.void]:
    return np.concatenate([batch.flows for batch in ConnLogSource([DATA / "zeek" / trace / "tsv"])])


def captured(trace: str) -> NDArray[np.void]:
    return flows_of(DATA / "zeek" / trace / "trace.pcap.gz", Decoder(), FlowTable(seed=1))


@pytest.mark.parametrize("rules", ["netseq", "cicflowmeter"])
@pytest.mark.parametrize("trace", LOGS)
def test_exactly_the_columns_that_a_log_cannot_tell_are_not_a_number(trace: str, rules: Rules) -> None:
    flows = logged(trace)
    assert len(flows)
    assert UNKNOWN
    reading = Reading(flows, rules)
    for name in STATISTICS:
        assert np.isnan(column(reading, name)).all() if name in UNKNOWN else np.isfinite(column(reading, name)).all(), name
    unknown = [name in UNKNOWN for name in STATISTICS]
    assert (np.isnan(statistics(flows, rules=rules)) == unknown).all()


def test_a_batch_of_both_kinds_keeps_what_packets_tell() -> None:
    packets, log = captured("wikipedia.trace"), logged("wikipedia.trace")
    mixed = np.concatenate([packets[:7], log, packets[7:]])
    together = statistics(mixed)
    assert together[mixed["end"] != END_LOG].tobytes() == statistics(packets).tobytes()
    assert together[mixed["end"] == END_LOG].tobytes() == statistics(log).tobytes()


@pytest.mark.parametrize("trace", AGREEING)
def test_what_a_log_tells_is_what_the_packets_tell(trace: str) -> None:
    names = (*FROM_LOG, "Src IP", "Dst IP", "Flow ID", "Timestamp", "Connection State")
    rows, others = (
        {tuple(row[name] for name in KEY): row for row in computed(flows, names, "netseq")}
        for flows in (captured(trace), logged(trace))
    )
    assert rows
    assert set(rows) == set(others)
    assert {key: different(rows[key], others[key], names, 1e-9) for key in rows} == {key: [] for key in rows}


def test_texts_of_a_log_are_told() -> None:
    reading = Reading(logged("wikipedia.trace"))
    assert set(column(reading, "End").tolist()) == {b"log"}
    assert set(column(reading, "Connection State").tolist()) >= {b"SF", b"S1"}
