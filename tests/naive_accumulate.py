"""What the packets of an ended flow come to, by FLOW's names: every accumulator computed afresh from the list of packets.

Sums are Python's unbounded integers, silences come from the list of times. The rules are CICFlowMeter's. `read` gives a
row of the compiled table in the same form, so that the two can be compared with ==.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from naive_flows import LOW64, Flow, Packet

from sensor.schema import ACK, CWR, ECE, ENDS, FIN, FLOW, PSH, RST, SYN, TCP, URG

FLAGS = {"fin": FIN, "syn": SYN, "rst": RST, "psh": PSH, "ack": ACK, "urg": URG, "ece": ECE, "cwr": CWR}

Values = dict[str, int]


def moments(samples: Sequence[int]) -> Values:
    """n, extremes, sum and sum of squares in two halves."""
    square = sum(sample * sample for sample in samples)
    return {
        "n": len(samples),
        "low": min(samples, default=0),
        "high": max(samples, default=0),
        "sum": sum(samples),
        "square_lo": square & LOW64,
        "square_hi": square >> 64,
    }


def gaps(times: Sequence[int]) -> Values:
    """GAPS of consecutive times."""
    told = moments([later - earlier for earlier, later in itertools.pairwise(times)])
    return {name: told[name] for name in ("low", "high", "square_lo", "square_hi")}


def silences(times: Sequence[int]) -> tuple[list[int], list[int]]:
    """Active and idle times in us: five seconds of silence part two active periods; those of one packet count nothing."""
    active: list[int] = []
    idle: list[int] = []
    start = times[0]
    for earlier, later in itertools.pairwise(times):
        if later - earlier > 5_000_000:
            if earlier > start:
                active.append(earlier - start)
            idle.append(later - earlier)
            start = later
    return active, idle


@dataclass
class Bulk:
    """The run of payload packets of one side."""

    start_us: int = 0
    last_us: int = 0
    run: list[tuple[int, int]] = field(default_factory=list)
    """(us since the packet before, payload) of the present run."""
    bulks: list[list[tuple[int, int]]] = field(default_factory=list)

    def add(self, ts_us: int, payload: int, other: Bulk) -> None:
        if other.last_us > self.start_us or self.start_us == 0 or ts_us - self.last_us > 1_000_000:
            self.start_us, self.run = ts_us, [(0, payload)]
        else:
            self.run.append((ts_us - self.last_us, payload))
            if len(self.run) == 4:
                self.bulks.append(self.run)
        self.last_us = ts_us

    def told(self) -> Values:
        members = [member for bulk in self.bulks for member in bulk]
        return {
            "bulk_count": len(self.bulks),
            "bulk_packets": len(members),
            "bulk_bytes": sum(payload for _, payload in members),
            "bulk_us": sum(gap for gap, _ in members),
        }


def bulks_of(packets: Sequence[tuple[bool, Packet]]) -> dict[bool, Bulk]:
    """Runs of both sides. CICFlowMeter also breaks a run at a packet without payload; it differs only where time runs back."""
    found = {True: Bulk(), False: Bulk()}
    for forward, packet in packets:
        if packet.payload > 0:
            found[forward].add(packet.ts_us, packet.payload, found[not forward])
    return found


Tree: TypeAlias = "dict[str, int | Tree]"


def side_of(flow: Flow, forward: bool, bulk: Bulk) -> Tree:
    """The SIDE of what one end sent."""
    sent = [packet for way, packet in flow.packets if way == forward]
    repeated = [again for (way, _), again in zip(flow.packets, flow.repeated, strict=True) if way == forward]
    sizes = moments([packet.payload for packet in sent])
    times = [packet.ts_us for packet in sent]
    windows = [packet.window for packet in sent if packet.window and packet.protocol == TCP]
    return {
        "packets": len(sent),
        "ip_bytes": sum(packet.ip_bytes for packet in sent),
        "header_bytes": sum(packet.header for packet in sent),
        "first_us": times[0] if sent else 0,
        "last_us": times[-1] if sent else 0,
        "payload": {"low": sizes["low"], "high": sizes["high"], "sum": sizes["sum"], "square": sizes["square_lo"]},
        "gap": {**gaps(times)},
        **{name: sum(packet.flags & bit != 0 for packet in sent) for name, bit in FLAGS.items()},
        "data_packets": sum(packet.payload > 0 for packet in sent),
        "retransmissions": sum(repeated),
        "smallest_header_bytes": min((packet.header for packet in sent), default=0),
        "first_window": sent[0].window if sent else 0,
        "first_nonzero_window": windows[0] if windows else 0,
        **bulk.told(),
    }


def told(flow: Flow) -> Tree:
    """All results of a flow, by FLOW's names."""
    times = [packet.ts_us for _, packet in flow.packets]
    active, idle = silences(times)
    bulks = bulks_of(flow.packets)
    return {
        "src_hi": flow.source[0] >> 64,
        "src_lo": flow.source[0] & LOW64,
        "dst_hi": flow.destination[0] >> 64,
        "dst_lo": flow.destination[0] & LOW64,
        "src_port": flow.source[1],
        "dst_port": flow.destination[1],
        "protocol": flow.protocol,
        "icmp_type": flow.packets[0][1].icmp_type,
        "icmp_code": flow.packets[0][1].icmp_code,
        "end": ENDS.index(flow.end),
        "continued": int(flow.continued),
        "first_is_bwd": int(not flow.packets[0][0]),
        "first_us": times[0],
        "last_us": times[-1],
        "gap": {**gaps(times)},
        "connection_us": times[0] - flow.began_us,
        "connection": flow.connection,
        "long_gaps": sum(later - earlier > 1_000_000 for earlier, later in itertools.pairwise(times)),
        "fwd": side_of(flow, True, bulks[True]),
        "bwd": side_of(flow, False, bulks[False]),
        "active": {**moments(active)},
        "idle": {**moments(idle)},
    }


INNER = {"src_state", "dst_state", "conn_state", "closing", "lane", "rules", "spare", "active_start_us", "highest_seq"} | {
    "highest_ack", "bulk_start_us", "fwd_bulk_last_us", "bwd_bulk_last_us", "bulk_run_bytes", "bulk_run_packets",
}  # fmt: skip
"""Fields of FLOW that are a live flow's state and no result; and conn_state, whose truth is Zeek."""


def read(row: np.void) -> Tree:
    """A FLOW row's results as `told` gives them."""
    names = [name for name in row.dtype.names or () if name not in INNER]
    return {name: read(row[name]) if row.dtype[name].names else int(row[name]) for name in names}


def results() -> set[str]:
    """Names of all results in FLOW, for a test that none is forgotten."""
    return set(read(np.zeros(1, FLOW)[0]))
