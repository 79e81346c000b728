"""The columns of a flow as a whole: who, when, both directions together. `statistics` puts them in their order."""

from __future__ import annotations

import numpy as np

from sensor.address_text import flow_ids_text, stamps_text
from sensor.schema import CONN_STATES, ENDS, ICMP, ICMPV6, TCP, UDP
from sensor.statistics_column import BOTH, PACKETS, Column, Texts, Values, both, field, four
from sensor.statistics_reading import Numbers, Reading, ratio

_FROM_PACKETS = "the original counts the flow's first packet twice"
_LOST = "the last period is lost: 0 for a flow without a gap over 5 s"


def _icmp(name: str) -> Values:
    def values(r: Reading) -> Numbers:
        protocol = r.field("protocol")
        return np.where((protocol == ICMP) | (protocol == ICMPV6), r.field(name), -1)

    return values


def _connection_us(r: Reading) -> Numbers:
    protocol, whole = r.field("protocol"), r.duration_us + r.field("connection_us")
    return np.where((protocol == TCP) | (protocol == UDP), whole, 0) if r.faithful else whole


def _flow_id(r: Reading) -> Texts:
    return flow_ids_text(r.src_text, r.dst_text, r.field("src_port"), r.field("dst_port"), r.protocol)


_STATES, _ENDS = np.array(CONN_STATES, np.bytes_), np.array(ENDS, np.bytes_)
_GAPS = "times between consecutive packets of either direction"
_FLAGS = {
    "FIN": "end of the sender's data", "SYN": "opening", "RST": "reset", "PSH": "push", "ACK": "acknowledgement",
    "URG": "urgent data", "CWR": "congestion window reduced", "ECE": "congestion echo",
}  # fmt: skip

WHOLE: tuple[Column, ...] = (
    Column(
        "Flow ID", "", "Source, destination, their ports and the protocol, joined by -", "src-dst-src_port-dst_port-protocol",
        BOTH, _flow_id, "also where that tool keeps the other order for a later flow of the same key",
    ),
    Column(
        "Src IP", "", "Who sent the flow's first packet; of a SYN+ACK, who it was sent to", "src", BOTH, lambda r: r.src_text,
        "IPv4 alone",
    ),
    Column("Src Port", "", "Port of the source; 0 where the protocol has none", "src_port", BOTH, field("src_port")),
    Column("Dst IP", "", "The other host", "dst", BOTH, lambda r: r.dst_text, "IPv4 alone"),
    Column("Dst Port", "", "Port of the destination", "dst_port", BOTH, field("dst_port")),
    Column(
        "Protocol", "", "IP protocol number; 0 where a log does not tell it", "protocol", BOTH, lambda r: r.protocol,
        "0 for all but ICMP, IGMP, TCP, UDP and SCTP", "0 for all but TCP and UDP",
    ),
    Column(
        "Timestamp", "UTC", "When the first packet came", "first_us", BOTH, lambda r: stamps_text(r.flows["first_us"]),
        original="local time, a clock of 12 hours, whole seconds",
    ),
    Column(
        "Flow Duration", "us", "First packet to last, in the order in which they came; 0 where the clock ran backwards",
        "max(last_us - first_us, 0)", BOTH, lambda r: r.duration_us, "negative where the clock ran backwards",
    ),
    Column(
        "Flow Bytes/s", "bytes/s", "Payload of both directions a second; 0 for a flow without duration",
        "(fwd.payload.sum + bwd.payload.sum) / duration", BOTH, lambda r: r.rate(r.payload.total),
        "-1 for a flow without duration", "Infinity for a flow without duration, NaN where it has no payload either",
    ),
    Column(
        "Flow Packets/s", "packets/s", "Packets of both directions a second; 0 for a flow without duration",
        "(fwd.packets + bwd.packets) / duration", BOTH, lambda r: r.rate(r.packets), "-1 for a flow without duration",
        "Infinity for a flow without duration",
    ),
    *four(
        "Flow IAT", "us", _GAPS,
        (
            "(last_us - first_us) / (packets - 1)", "sqrt((n * gap.square - sum^2) / (n * (n - 1))), n = packets - 1",
            "gap.high", "gap.low",
        ),
        lambda r: r.gaps, road=True,
    ),
    Column(
        "Packet Length Min", "bytes", "Least payload of a packet", "min(fwd.payload.low, bwd.payload.low)", PACKETS,
        lambda r: r.payload.low,
    ),
    Column(
        "Packet Length Max", "bytes", "Greatest payload of a packet", "max(fwd.payload.high, bwd.payload.high)", PACKETS,
        lambda r: r.payload.high,
    ),
    Column(
        "Packet Length Mean", "bytes", "Mean of all payloads", "(fwd.payload.sum + bwd.payload.sum) / packets", BOTH,
        lambda r: r.payload.mean, original=_FROM_PACKETS,
    ),
    Column(
        "Packet Length Std", "bytes", "Sample standard deviation of all payloads",
        "sqrt((n * (fwd.payload.square + bwd.payload.square) - sum^2) / (n * (n - 1))), n = packets", PACKETS,
        lambda r: r.payload.deviation, original=_FROM_PACKETS,
    ),
    Column(
        "Packet Length Variance", "bytes^2", "Sample variance of all payloads", "Packet Length Std^2", PACKETS,
        lambda r: r.payload.variance, original=_FROM_PACKETS,
    ),
    *(
        Column(
            f"{flag} Flag Count", "packets", f"Packets of both directions with {flag} ({what})",
            f"fwd.{flag.lower()} + bwd.{flag.lower()}", PACKETS, both(flag.lower()),
        )
        for flag, what in _FLAGS.items()
    ),
    Column(
        "Down/Up Ratio", "", "Backward packets for each forward one; 0 if there is none", "bwd.packets / fwd.packets", BOTH,
        lambda r: ratio(r.bwd.packets, r.fwd.packets), original="a whole number",
    ),
    Column(
        "Average Packet Size", "bytes", "The same as Packet Length Mean", "(fwd.payload.sum + bwd.payload.sum) / packets", BOTH,
        lambda r: r.payload.mean, original="the sum counts the flow's first packet twice",
    ),
    Column(
        "ICMP Code", "", "Code of an ICMP or ICMPv6 flow's first packet, -1 for others", "icmp_code", BOTH, _icmp("icmp_code"),
        original="no such column",
    ),
    Column(
        "ICMP Type", "", "Type of an ICMP or ICMPv6 flow's first packet, -1 for others", "icmp_type", BOTH, _icmp("icmp_type"),
        original="no such column",
    ),
    Column(
        "Total TCP Retrans. Count", "packets", "Sum of both directions' retransmissions",
        "fwd.retransmissions + bwd.retransmissions", PACKETS, both("retransmissions"), original="no such column",
    ),
    Column(
        "Total Connection Flow Time", "us", "Duration of the connection so far, over all its rows, with the gaps between them",
        "connection_us + duration", BOTH, _connection_us, "0 for all but TCP and UDP", "no such column",
    ),
    Column("Continued", "", "1: the row goes on with a connection cut after 120 s", "continued", BOTH, field("continued")),
    Column("Connection State", "", "Zeek's conn_state", "conn_state", BOTH, lambda r: _STATES[r.flows["conn_state"]]),
    Column("End", "", "Why the row ended", "end", BOTH, lambda r: _ENDS[r.flows["end"]]),
    Column(
        "Label", "", "The label that the source has; NeedManualLabel where a CICFlowMeter table has none", "", BOTH,
        lambda r: np.zeros(len(r.flows), "S1"),
    ),
    *four(
        "Active", "us", "the periods without a gap over 5 s, the last one too; of one packet none",
        (
            "(active.sum + last) / (active.n + 1), last = last_us - active_start_us if positive",
            "sqrt of the sample variance of the same periods", "max(active.high, last)", "min(active.low, last)",
        ),
        lambda r: r.active, difference=_LOST,
    ),
    *four(
        "Idle", "us", "the gaps over 5 s",
        ("idle.sum / idle.n", "sqrt((n * idle.square - sum^2) / (n * (n - 1))), n = idle.n", "idle.high", "idle.low"),
        lambda r: r.idle,
    ),
)  # fmt: skip
