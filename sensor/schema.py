"""The records that every part of netseq speaks: FRAME, PACKET and FLOW rows, batches of them, and the ALERT.

A source hands over FRAME rows that point into a buffer of raw bytes; `decode` turns them into PACKET rows; `flows` folds
PACKET rows into FLOW rows; Zeek's conn.log enters as FLOW rows too. All three are numpy record types, so that the
compiled kernels and the vectorised Python between them share the same memory. Nothing here computes anything but names.

Addresses are two unsigned 64-bit halves in host order (`hi`, `lo`); IPv4 is the mapped form ::ffff:a.b.c.d, so that one
comparison serves both families. Times are integer microseconds since the epoch. Counters are signed 64-bit: in compiled
code a signed and an unsigned 64-bit integer meet in a float, which would lose digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

V4_MAPPED = 0xFFFF_0000_0000
"""Low half of an IPv4-mapped address before the 32 address bits are added (RFC 4291, 2.5.5.2)."""

FRAME = np.dtype(
    [
        ("ts_us", "<i8"),
        ("offset", "<i8"),  # first byte of the frame in the block's buffer
        ("captured_bytes", "<u4"),  # bytes that lie in the buffer
        ("wire_bytes", "<u4"),  # bytes that were on the wire
        ("link_type", "<u2"),  # LINKTYPE_* as in pcap and pcapng files
        ("source", "<u2"),  # number of the file or interface, for messages
        ("reserved", "<u4"),
    ]
)
"""One raw frame, 32 bytes. Written by sources, read by decode."""

PACKET = np.dtype(
    [
        ("ts_us", "<i8"),
        ("src_hi", "<u8"),
        ("src_lo", "<u8"),
        ("dst_hi", "<u8"),
        ("dst_lo", "<u8"),
        ("payload_bytes", "<u4"),  # after the transport header, by the IP header's length
        ("ip_bytes", "<u4"),  # IP header and all that follows, by the IP header's length
        ("seq", "<u4"),
        ("ack", "<u4"),
        ("src_port", "<u2"),
        ("dst_port", "<u2"),
        ("window", "<u2"),  # raw TCP window, not scaled
        ("header_bytes", "<u2"),  # transport header with options
        ("protocol", "u1"),  # IP protocol number; IPv6: of the last header
        ("tcp_flags", "u1"),  # FIN 1 SYN 2 RST 4 PSH 8 ACK 16 URG 32 ECE 64 CWR 128
        ("icmp_type", "u1"),
        ("icmp_code", "u1"),
        ("notes", "u1"),  # NOTE_* bits
        ("reserved", "u1", (3,)),
    ]
)
"""One decoded packet, 72 bytes."""

FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = 1, 2, 4, 8, 16, 32, 64, 128
"""TCP flag bits (RFC 9293, 3.1)."""

NOTE_FRAGMENT = 1
"""The packet is a fragment (the first one or a later one)."""
NOTE_TUNNEL = 2
"""The row is what was found inside a tunnel."""
NOTE_LATER_FRAGMENT = 4
"""A fragment without transport header: its ports came from the first fragment, all its bytes are payload."""

ICMP, IGMP, TCP, UDP, GRE, ESP, ICMPV6, SCTP = 1, 2, 6, 17, 47, 50, 58, 132
"""IP protocol numbers that netseq names (IANA)."""
NO_PROTOCOL = 255
"""Of a flow whose source does not tell its protocol: "unknown_transport" in a conn.log older than Zeek 7.1, 0 in a table. IANA
keeps the number unassigned."""

MOMENTS = np.dtype(
    [
        ("n", "<i8"),
        ("low", "<i8"),
        ("high", "<i8"),
        ("sum", "<i8"),
        ("square_lo", "<u8"),  # sum of squares, 128 bits in two halves: exact for any sample
        ("square_hi", "<u8"),
    ]
)
"""Integer samples folded exactly: count, extremes, sum and sum of squares. Mean and variance follow without rounding."""

GAPS = np.dtype([("low", "<i8"), ("high", "<i8"), ("square_lo", "<u8"), ("square_hi", "<u8")])
"""Times in us between consecutive packets, folded exactly: one fewer than packets, and they sum to last - first."""

SIZES = np.dtype([("low", "<u4"), ("high", "<u4"), ("sum", "<i8"), ("square", "<u8")])
"""Payload bytes of packets, folded exactly: a packet has less than 2^18 of them, so 2^28 packets fit the sum of squares."""

SIDE = np.dtype(
    [
        ("packets", "<i8"),
        ("ip_bytes", "<i8"),
        ("header_bytes", "<i8"),
        ("first_us", "<i8"),
        ("last_us", "<i8"),
        ("payload", SIZES),
        ("gap", GAPS),  # between consecutive packets of this side; a new cache line
        ("ack", "<u4"),
        ("psh", "<u4"),
        ("data_packets", "<u4"),  # packets with payload
        ("retransmissions", "<u4"),  # (seq, ack, payload, window) already seen in this connection
        ("highest_seq", "<u4"),  # of the segment that went farthest, to tell new segments from repeated ones
        ("highest_ack", "<u4"),
        ("smallest_header_bytes", "<u2"),
        ("first_window", "<u2"),  # of the side's first packet
        ("first_nonzero_window", "<u2"),
        ("bulk_run_packets", "<u2"),  # packets of the run of payload packets, up to BULK_PACKETS + 1
        ("bulk_start_us", "<i8"),  # the run of payload packets, and all runs so far; a new cache line
        ("bulk_run_bytes", "<i8"),
        ("bulk_bytes", "<i8"),
        ("bulk_us", "<i8"),
        ("bulk_packets", "<u4"),
        ("bulk_count", "<u4"),
        ("fin", "<u4"),
        ("syn", "<u4"),
        ("rst", "<u4"),
        ("urg", "<u4"),
        ("cwr", "<u4"),
        ("ece", "<u4"),
    ]
)
"""What one sender of a flow did: three cache lines, the third for payload and rare flags. Memory is what takes time."""

FLOW = np.dtype(
    [
        ("src_hi", "<u8"),  # src began the flow: the words' and alerts' source
        ("src_lo", "<u8"),
        ("dst_hi", "<u8"),
        ("dst_lo", "<u8"),
        ("src_port", "<u2"),
        ("dst_port", "<u2"),
        ("protocol", "u1"),
        ("icmp_type", "u1"),  # of the first packet
        ("icmp_code", "u1"),
        ("end", "u1"),  # END_*
        ("conn_state", "u1"),  # index into CONN_STATES, filled when the flow ends
        ("src_state", "u1"),  # TCP endpoint states while the flow lives
        ("dst_state", "u1"),
        ("closing", "u1"),  # progress of FIN/FIN/ACK or RST
        ("continued", "u1"),  # 1: this row continues a connection that the active timeout cut
        ("first_is_bwd", "u1"),
        ("lane", "u1"),  # which queue the live row waits in
        ("rules", "u1"),  # RULE_* bits of its flow table
        ("first_us", "<i8"),
        ("last_us", "<i8"),
        ("gap", GAPS),  # between consecutive packets, either side; a new cache line
        ("active_start_us", "<i8"),  # start of the activity that last_us ends so far
        ("fwd_bulk_last_us", "<i8"),  # latest payload packet of each side
        ("bwd_bulk_last_us", "<i8"),
        ("connection", "<u4"),  # number of the connection; continuations keep it
        ("long_gaps", "<u4"),  # gaps over 1 s, for the subflow columns
        ("fwd", SIDE),  # a new cache line
        ("bwd", SIDE),  # a new cache line
        ("active", MOMENTS),  # us; two cache lines that only silence, cuts and the end touch
        ("idle", MOMENTS),  # us
        ("connection_us", "<i8"),  # duration of the connection before this row, gaps included
        ("spare", "<i8", (3,)),
    ]
)
"""One bidirectional flow with the accumulators of all its statistics: 640 bytes, ten cache lines.

From conn.log only some fields can be filled.
"""

RULE_FIRST_FIN = 1
"""A TCP flow is over at its first FIN, and a RST ends nothing."""
RULE_SELF_FORWARD = 2
"""All packets of a host to itself are forward."""

CONN_STATES = (
    "S0", "S1", "SF", "REJ", "S2", "S3", "RSTO", "RSTR", "RSTOS0", "RSTRH", "SH", "SHR", "OTH",
)  # fmt: skip
"""Zeek's conn_state alphabet; `FLOW.conn_state` is an index into it."""

END_LIVE, END_IDLE, END_CLOSED, END_ATTEMPT, END_ACTIVE, END_REUSED, END_ICMP, END_FULL, END_INPUT, END_LOG = range(10)
ENDS = ("live", "idle", "closed", "attempt", "active", "reused", "icmp", "full", "input", "log")
"""Why a flow ended: silent for idle_s; closed_s after its close; attempt_s after an unanswered SYN; cut at active_s; a SYN
on a closed connection; another ICMP type and code; the table was full; the input ended; it came from a log, complete."""


class FrameBlock(NamedTuple):
    """Raw frames in one read-only buffer. A source yields these; they stay valid until the next one is asked for."""

    data: NDArray[np.uint8]
    """(bytes,) read-only: a mapped file, or a buffer of the source's own."""
    frames: NDArray[np.void]
    """(n,) FRAME rows; every [offset, offset + captured_bytes) lies inside `data` (the source guarantees it)."""


LACKS_TIME, LACKS_SRC, LACKS_DST, LACKS_SRC_PORT, LACKS_DST_PORT, LACKS_PROTOCOL = (1 << bit for bit in range(6))
"""What a table of flows does not tell of a row; the FLOW row then has 0 there, or NO_PROTOCOL."""


class FlowBatch(NamedTuple):
    """Ended flows in the order in which they ended."""

    flows: NDArray[np.void]
    """(n,) FLOW rows."""
    uids: Sequence[str | None] | None = None
    """Zeek's uid of each row, when the flows came from Zeek."""
    labels: list[str] | None = None
    """The label of each row, when the source is a labelled data set ("" is benign)."""
    details: list[str] | None = None
    """The data set's finer label of each row; a row that is "" for want of a label has the reason here ("Background")."""
    statistics: NDArray[np.float64] | None = None
    """(n, len(spellings.STATISTICS)) as the source itself tells them, NaN where it does not; None: they follow from `flows`."""
    lacks: NDArray[np.uint8] | None = None
    """(n,) LACKS_* bits of each row; None: the source tells all that they name."""


class Reason(msgspec.Struct, frozen=True):
    """One surprising part of a word: what was seen, what the model expected instead, and what the surprise cost."""

    part: str
    seen: str
    seen_probability: float
    expected: str
    expected_probability: float
    nats: float
    """-ln(seen_probability)."""
    voice: str
    """Which voice weighed most in the verdict for this part, "lstm" or "frequency": both probabilities are its own."""


class StatisticReason(msgspec.Struct, frozen=True):
    """One statistic that stands far from normal, in the flow of the last ones that weighed most in the class."""

    part: str
    """Name of the statistic."""
    unit: str
    seen: float
    usual: float
    """The median of the model's training data."""
    spreads: float
    """How far apart the two are, in usual spreads on the logarithm's scale; below the median negative."""
    flow: int
    """How many flows before the alerting one: 0 is itself."""
    attention: float
    """That flow's share of the attention over the last flows."""
    voice: str = "multiflow"


class RuleReason(msgspec.Struct, frozen=True):
    """What a fixed rule counted within a minute, and what it lets pass."""

    part: str
    """What was counted: "attempts", "hosts" or "ports"."""
    seen: int
    """As many there were when the alert was raised."""
    most: int
    """As many are no alert: the setting."""
    sources: int
    """Hosts that they came from; of many, about so many."""
    within_s: float
    """Packet time from the end of the first of them to that of the last."""
    voice: str = "rule"


AnyReason: TypeAlias = Reason | StatisticReason | RuleReason


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """One alert, as the detector decides it. Sinks map it to their own field names; docs/alerts.md has the schema."""

    ts_us: int
    """Packet time at which the alert was raised: the end of the flow that raised it."""
    signature: str
    """What was found, "NetSeq::Sequence_Anomaly"."""
    category: str = "anomaly"
    """What kind of thing that is: of a fixed rule's alert "denial of service" or "reconnaissance"."""
    severity: str
    """Splunk's CIM words: "low", "medium", "high", "critical"."""
    src: str
    src_port: int
    dest: str
    dest_port: int
    transport: str
    """"tcp", "udp", "icmp", "icmp6", "sctp", or the protocol's number."""
    community_id: str
    uid: str | None
    score: float
    """Of a sequence anomaly, nats of surprise of the word under the LSTM, or under the frequency voice where the LSTM had shed
    the flow; of a class, its probability; of a fixed rule, what it counted. Never NaN."""
    measure: str = "nats"
    """What `score` is: "nats" or "probability"; "attempts", "hosts" or "ports" of a fixed rule."""
    verdict: float
    """What was weighed: the log-odds of the verdict over all voices for this conversation-hour. 0 of a fixed rule."""
    p_value: float
    """Share of benign conversation-hours whose verdict is at least this high; of a fixed rule, of benign minutes with such an
    alert."""
    per_day: float
    """False alarms a day to be expected at this p-value at the rate of conversations seen."""
    count: int
    """Flows of this conversation that this alert stands for: itself and the ones suppressed since the one before."""
    first_seen_us: int
    """First flow of the conversation that this alert stands for."""
    last_seen_us: int
    model: str
    """Name and version of the model, from its manifest."""
    reasons: tuple[AnyReason, ...]
    msg: str
    """The alert in words."""
