"""What one packet adds to its flow: the accumulators of every statistic, in integers, so that nothing is ever rounded.

Means and variances are made from the sums when a flow has ended; here are only additions, which are exact and cheap. The
rules (what counts as a bulk, as idle, as retransmitted) are CICFlowMeter's; each function here tells its own. `flow_kernel`
calls `add_gap` and `add_packet` for each packet, and `remember` before, for TCP.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sensor.flow_states import ESTABLISHED, advance_endpoints
from sensor.kernels import part
from sensor.schema import ACK, CWR, ECE, FIN, PSH, RST, RULE_SELF_FORWARD, SYN, TCP, URG

ACTIVITY_US = 5_000_000
"""CICFlowMeter's activity time-out: a longer silence is idle time."""
SUBFLOW_US = 1_000_000
"""A gap over one second parts subflows and bulks."""
BULK_PACKETS = 4
"""A run of as many payload packets is a bulk."""
SEEN_WORDS = 16
"""Words of a line of the cache, by which segments are remembered."""

M1 = np.uint64(0x9E3779B97F4A7C15)
M2 = np.uint64(0xBF58476D1CE4E5B9)
M3 = np.uint64(0x94D049BB133111EB)
"""Odd 64-bit constants of splitmix64 (Steele, Lea, Flood 2014)."""
U1, U16, U27, U29 = np.uint64(1), np.uint64(16), np.uint64(27), np.uint64(29)
U31, U32, U33 = np.uint64(31), np.uint64(32), np.uint64(33)
LOW32 = np.uint64(0xFFFF_FFFF)


@part
def mix(x: np.uint64) -> np.uint64:
    """Spread the bits of `x` (finaliser of splitmix64)."""
    x = (x ^ (x >> U31)) * M2
    x = (x ^ (x >> U27)) * M3
    return x ^ (x >> U29)


@part
def add_square(m: np.void, x: np.int64) -> None:
    """Add x * x to the 128-bit sum of squares of `m` (MOMENTS or GAPS)."""
    a = np.uint64(abs(x))
    low, high = a & LOW32, a >> U32
    square = low * low
    total = m["square_lo"] + square
    if total < square:
        m["square_hi"] += U1
    if high:  # above 71 minutes in microseconds: the square needs more than 64 bits
        middle = low * high
        shifted = middle << U33
        total += shifted
        if total < shifted:
            m["square_hi"] += U1
        m["square_hi"] += (middle >> U31) + high * high
    m["square_lo"] = total


@part
def fold(m: np.void, x: np.int64) -> None:
    """Fold one sample into MOMENTS."""
    m["low"] = x if m["n"] == 0 else min(x, m["low"])
    m["high"] = x if m["n"] == 0 else max(x, m["high"])
    m["n"] += 1
    m["sum"] += x
    add_square(m, x)


@part
def fold_gap(m: np.void, gap_us: np.int64, first: bool) -> None:
    """Fold one gap into GAPS; `first` says that there was none before."""
    m["low"] = gap_us if first else min(gap_us, m["low"])
    m["high"] = gap_us if first else max(gap_us, m["high"])
    add_square(m, gap_us)


@part
def fold_size(m: np.void, payload: np.int64, first: bool) -> None:
    """Fold one packet's payload bytes into SIZES."""
    m["low"] = payload if first else min(payload, np.int64(m["low"]))
    m["high"] = payload if first else max(payload, np.int64(m["high"]))
    m["sum"] += payload
    m["square"] += np.uint64(payload * payload)


@part
def add_bulk(side: np.void, own_last_us: np.int64, other_last_us: np.int64, ts_us: np.int64, payload: np.int64) -> None:
    """Advance the run of payload packets of one side: four or more without a second's gap or an answer are a bulk."""
    start_us = side["bulk_start_us"]
    if start_us == 0 or other_last_us > start_us or ts_us - own_last_us > SUBFLOW_US:
        side["bulk_start_us"] = ts_us
        side["bulk_run_packets"] = 1
        side["bulk_run_bytes"] = payload
        return
    side["bulk_run_bytes"] += payload
    if side["bulk_run_packets"] < BULK_PACKETS:
        side["bulk_run_packets"] += 1
        if side["bulk_run_packets"] == BULK_PACKETS:
            side["bulk_count"] += 1
            side["bulk_packets"] += BULK_PACKETS
            side["bulk_bytes"] += side["bulk_run_bytes"]
            side["bulk_us"] += ts_us - start_us
    else:
        side["bulk_packets"] += 1
        side["bulk_bytes"] += payload
        side["bulk_us"] += ts_us - own_last_us


@part
def segment_hash(tag: np.int64, p: np.void) -> np.uint64:
    """Hash of what two equal TCP segments of one connection share: (side, seq, ack, payload, window)."""
    a = (np.uint64(p["seq"]) << U32) | np.uint64(p["ack"])
    b = (np.uint64(p["payload_bytes"]) << U32) | (np.uint64(p["window"]) << U16) | np.uint64(p["src_port"])
    return mix(a + mix(b + (p["src_lo"] ^ p["src_hi"]) * M1 + np.uint64(tag) * M2))


@part
def remember(seen: NDArray[np.uint32], row: np.void, p: np.void, segment: np.uint64, forward: bool) -> None:
    """Count a segment as retransmitted if an equal one was already in the connection; remember it if not.

    The memory is one bounded table for all connections, of cache lines: a word that tells which segment of the line is the
    oldest, and 15 segments. A newcomer takes the oldest one's place; a retransmission of what was overwritten is not counted.
    If a segment had one place alone, the first newcomer there would overwrite it, a hundredth of all within 10,000.
    Most segments go beyond all that the side has sent so far: those are new for certain, and not looked for. Under
    RULE_SELF_FORWARD a host that talks to itself may have both ends' numbers on either side: there, no number is beyond all.
    """
    side = row["fwd"] if forward else row["bwd"]
    line = np.int64(segment >> U32) & np.int64(len(seen) - SEEN_WORDS)
    tag = np.uint32(segment & LOW32) ^ np.uint32(row["connection"])
    ahead = np.int32(np.uint32(p["seq"]) - np.uint32(side["highest_seq"]))
    ahead_ack = np.int32(np.uint32(p["ack"]) - np.uint32(side["highest_ack"]))
    beyond = ahead > 0 or (ahead == 0 and ahead_ack > 0)
    first = side["packets"] == 0 and row["continued"] == 0
    if (beyond or first) and row["rules"] & RULE_SELF_FORWARD == 0:
        side["highest_seq"] = p["seq"]
        side["highest_ack"] = p["ack"]
    else:
        for place in range(line + 1, line + SEEN_WORDS):
            if seen[place] == tag:
                side["retransmissions"] += 1
                return
    oldest = np.int64(seen[line])
    seen[line + 1 + oldest] = tag
    seen[line] = oldest + 1 if oldest + 2 < SEEN_WORDS else 0


@part
def add_rare_flags(side: np.void, flags: np.int64) -> None:
    """Count the TCP flags other than ACK and PSH, which most segments do not carry."""
    side["fin"] += flags & FIN
    side["syn"] += (flags & SYN) >> 1
    side["rst"] += (flags & RST) >> 2
    side["urg"] += (flags & URG) >> 5
    side["ece"] += (flags & ECE) >> 6
    side["cwr"] += (flags & CWR) >> 7


@part
def add_segment(row: np.void, side: np.void, p: np.void, forward: bool) -> None:
    """What only TCP has: flags, endpoint states, windows and retransmissions. Comes before the packet is counted."""
    flags = np.int64(p["tcp_flags"])
    if flags & ACK:
        side["ack"] += 1
    if flags & PSH:
        side["psh"] += 1
    if flags & ~(ACK | PSH):
        add_rare_flags(side, flags)
    if flags & (SYN | FIN | RST) or row["src_state"] != ESTABLISHED or row["dst_state"] != ESTABLISHED:
        advance_endpoints(row, flags, forward)
    if side["first_nonzero_window"] == 0:
        side["first_nonzero_window"] = p["window"]


@part
def add_packet(row: np.void, p: np.void, forward: bool) -> None:
    """Fold one packet into the flow's accumulators."""
    ts_us, payload = p["ts_us"], np.int64(p["payload_bytes"])
    side = row["fwd"] if forward else row["bwd"]
    if p["protocol"] == TCP:
        add_segment(row, side, p, forward)
    first = side["packets"] == 0
    if first:
        side["first_us"] = ts_us
        side["smallest_header_bytes"] = p["header_bytes"]
        side["first_window"] = p["window"]
    else:
        fold_gap(side["gap"], ts_us - side["last_us"], side["packets"] == 1)
        side["smallest_header_bytes"] = min(side["smallest_header_bytes"], p["header_bytes"])
    side["packets"] += 1
    side["last_us"] = ts_us
    side["ip_bytes"] += np.int64(p["ip_bytes"])
    side["header_bytes"] += np.int64(p["header_bytes"])
    fold_size(side["payload"], payload, first)
    if payload > 0:
        side["data_packets"] += 1
        if forward:
            add_bulk(side, row["fwd_bulk_last_us"], row["bwd_bulk_last_us"], ts_us, payload)
            row["fwd_bulk_last_us"] = ts_us
        else:
            add_bulk(side, row["bwd_bulk_last_us"], row["fwd_bulk_last_us"], ts_us, payload)
            row["bwd_bulk_last_us"] = ts_us
    row["last_us"] = ts_us


@part
def add_gap(row: np.void, ts_us: np.int64) -> None:
    """Book the silence before a later packet: gap, subflow, active and idle time (CICFlowMeter's updateActiveIdleTime)."""
    gap_us = ts_us - row["last_us"]
    fold_gap(row["gap"], gap_us, row["fwd"]["packets"] + row["bwd"]["packets"] == 1)
    if gap_us > SUBFLOW_US:
        row["long_gaps"] += 1
    if gap_us > ACTIVITY_US:
        if row["last_us"] > row["active_start_us"]:
            fold(row["active"], row["last_us"] - row["active_start_us"])
        fold(row["idle"], gap_us)
        row["active_start_us"] = ts_us
