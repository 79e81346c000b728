"""The compiled loops of the flow table: PACKET rows in, the table updated in place, ended FLOW rows out.

Strategy. Rows live in one array laid out at start. An open-addressed index (linear probing, deletion by shifting back, so
no tombstones) maps the hash of a flow's key to its row; the hash is the same for both directions. Each live row waits in
one of three queues, doubly linked through two small arrays: unanswered SYNs (by their start), closed connections and all
others (by their last packet). Within a queue all rows have the same time-out, so only the heads are ever looked at, and one
number, the earliest moment at which any head can be due, is all that a packet has to be compared with.

The rules of when a flow ends or is cut are those of the repaired CICFlowMeter (GintsEngelen/CICFlowMeter, 2024), with the
time-outs added that its table lacks. TCP endpoint states follow Zeek's TCP analyzer, so that conn_state comes out alike.
`sensor.flows` owns the arrays and calls `feed`, `expire` and `drain`; nothing else does.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.kernels import njit, prefetch
from sensor.schema import (
    ACK,
    CWR,
    ECE,
    END_ACTIVE,
    END_ATTEMPT,
    END_CLOSED,
    END_FULL,
    END_ICMP,
    END_IDLE,
    END_INPUT,
    END_REUSED,
    FIN,
    FLOW,
    ICMP,
    ICMPV6,
    PSH,
    RST,
    SYN,
    TCP,
    UDP,
    URG,
)

# Positions in Table.state, the numbers that change.
LIVE, CLOCK_US, DUE_US, CONNECTIONS, PACKETS, STEPS_BACK, SEED = range(7)
STATES = 7

# Positions in Table.limits, the numbers that do not.
IDLE_US, CLOSED_US, ATTEMPT_US, ACTIVE_US, EXPIRY, STEP_BACK_US = range(6)

OPEN, CLOSED, ATTEMPT = range(3)
"""The queues; position in Table.limits is the time-out of the same place."""

BLOCK = 4096
"""Packets fed at a time, at most."""
FAR, NEAR = 16, 8
"""How many packets ahead the index and the rows are asked for; from 4 to 32 the speed hardly differs."""
HOT_BYTES = FLOW.fields["active"][1]
LINE_BYTES = 64

NEVER = np.int64(2**63 - 1)
ACTIVITY_US = 5_000_000  # CICFlowMeter's activity time-out: a longer silence is idle time
SUBFLOW_US = 1_000_000  # a gap over one second parts subflows and bulks
BULK_PACKETS = 4  # a run of as many payload packets is a bulk

# Progress towards the close of a connection (CICFlowMeter's states).
NONE, FIRST_FIN, BOTH_FINS, READY = range(4)

# Zeek's TCP endpoint states.
INACTIVE, SYN_SENT, SYN_ACK_SENT, PARTIAL, ESTABLISHED, SHUT, RESET = range(7)

S0, S1, SF, REJ, S2, S3, RSTO, RSTR, RSTOS0, RSTRH, SH, SHR, OTH = range(13)

M1 = np.uint64(0x9E3779B97F4A7C15)  # odd 64-bit constants of splitmix64 (Steele, Lea, Flood 2014)
M2 = np.uint64(0xBF58476D1CE4E5B9)
M3 = np.uint64(0x94D049BB133111EB)
U1, U16, U27, U29, U31, U32, U33 = np.uint64(1), np.uint64(16), np.uint64(27), np.uint64(29), np.uint64(31), np.uint64(32), np.uint64(33)
LOW32 = np.uint64(0xFFFF_FFFF)
LOW31 = np.uint64(0x7FFF_FFFF)


class Table(NamedTuple):
    """The arrays of one flow table; `sensor.flows.FlowTable` lays them out."""

    rows: NDArray[np.void]
    """(n,) FLOW."""
    index: NDArray[np.int64]
    """(2^k,) -1 where empty, else 31 bits of hash above 32 bits of row number."""
    before: NDArray[np.int32]
    after: NDArray[np.int32]
    """(n + 3,) links of the queues; the last three are the queues' own ends."""
    free: NDArray[np.int32]
    """(n,) numbers of the rows that are free; the first n - LIVE count."""
    seen: NDArray[np.uint32]
    """(2^j,) fingerprints of TCP segments: what a retransmission is compared with."""
    state: NDArray[np.int64]
    """(STATES,)"""
    limits: NDArray[np.int64]
    """(6,)"""
    ended: NDArray[np.int64]
    """(10,) flows ended, by END_*."""
    tags: NDArray[np.int64]
    """(BLOCK,) hashes of the keys of the packets being fed."""
    segments: NDArray[np.uint64]
    """(BLOCK,) hashes of their segments."""
    blank: NDArray[np.void]
    """(1,) FLOW of zeros, copied over a row that begins."""


@njit
def mix(x: np.uint64) -> np.uint64:
    """Spread the bits of `x` (finaliser of splitmix64)."""
    x = (x ^ (x >> U31)) * M2
    x = (x ^ (x >> U27)) * M3
    return x ^ (x >> U29)


@njit
def key_tag(row: np.void, seed: np.uint64) -> np.int64:
    """31 bits of hash of a packet's or flow's key, the same for both directions. The seed keeps a sender from aiming at one bucket."""
    a = (row["src_hi"] * M3 ^ row["src_lo"]) + (np.uint64(row["src_port"]) << U32)
    b = (row["dst_hi"] * M3 ^ row["dst_lo"]) + (np.uint64(row["dst_port"]) << U32)
    return np.int64(mix(mix(a ^ seed) + mix(b ^ seed) + np.uint64(row["protocol"])) & LOW31)


@njit
def same_key(row: np.void, p: np.void) -> bool:
    """Does packet `p` belong to the flow `row`, in either direction?"""
    if row["protocol"] != p["protocol"]:
        return False
    if (
        row["src_lo"] == p["src_lo"]
        and row["dst_lo"] == p["dst_lo"]
        and row["src_port"] == p["src_port"]
        and row["dst_port"] == p["dst_port"]
        and row["src_hi"] == p["src_hi"]
        and row["dst_hi"] == p["dst_hi"]
    ):
        return True
    return bool(
        row["src_lo"] == p["dst_lo"]
        and row["dst_lo"] == p["src_lo"]
        and row["src_port"] == p["dst_port"]
        and row["dst_port"] == p["src_port"]
        and row["src_hi"] == p["dst_hi"]
        and row["dst_hi"] == p["src_hi"]
    )


@njit
def find(index: NDArray[np.int64], rows: NDArray[np.void], p: np.void, tag: np.int64) -> np.int64:
    """Place in the index of the packet's flow, or -1 - (the empty place where it would go)."""
    mask = np.int64(len(index) - 1)
    place = tag & mask
    while True:
        entry = index[place]
        if entry < 0:
            return np.int64(-1 - place)
        if entry >> 32 == tag and same_key(rows[entry & 0xFFFF_FFFF], p):
            return np.int64(place)
        place = (place + 1) & mask


@njit
def forget(t: Table, place: np.int64) -> None:
    """Empty a place of the index and move later entries of the same run back, so that no look-up meets a hole."""
    mask = np.int64(len(t.index) - 1)
    hole = place
    here = (place + 1) & mask
    while t.index[here] >= 0:
        home = (t.index[here] >> 32) & mask
        if (here - home) & mask >= (here - hole) & mask:
            t.index[hole] = t.index[here]
            hole = here
        here = (here + 1) & mask
    t.index[hole] = -1


@njit
def unlink(before: NDArray[np.int32], after: NDArray[np.int32], r: np.int64) -> None:
    """Take row `r` out of its queue."""
    b, a = before[r], after[r]
    after[b] = a
    before[a] = b


@njit
def append(before: NDArray[np.int32], after: NDArray[np.int32], r: np.int64, end: np.int64) -> None:
    """Put row `r` at the end of the queue whose own link is `end`."""
    last = before[end]
    after[last] = r
    before[r] = last
    after[r] = end
    before[end] = r


@njit
def enqueue(t: Table, r: np.int64, lane: np.int64) -> None:
    """Put row `r` into a queue and see that the queue's head is not missed."""
    append(t.before, t.after, r, np.int64(len(t.rows) + lane))
    row = t.rows[r]
    row["lane"] = lane
    since_us = row["first_us"] if lane == ATTEMPT else row["last_us"]
    t.state[DUE_US] = min(t.state[DUE_US], since_us + t.limits[lane])


@njit
def head_due_us(t: Table, lane: np.int64) -> np.int64:
    """When the head of a queue is due; NEVER when the queue is empty."""
    head = t.after[len(t.rows) + lane]
    if head >= len(t.rows):
        return NEVER
    if lane == ATTEMPT:
        return np.int64(t.rows[head]["first_us"] + t.limits[lane])
    return np.int64(t.rows[head]["last_us"] + t.limits[lane])


@njit
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


@njit
def fold(m: np.void, x: np.int64) -> None:
    """Fold one sample into MOMENTS."""
    m["low"] = x if m["n"] == 0 else min(x, m["low"])
    m["high"] = x if m["n"] == 0 else max(x, m["high"])
    m["n"] += 1
    m["sum"] += x
    add_square(m, x)


@njit
def fold_gap(m: np.void, gap_us: np.int64, first: bool) -> None:
    """Fold one gap into GAPS; `first` says that there was none before."""
    m["low"] = gap_us if first else min(gap_us, m["low"])
    m["high"] = gap_us if first else max(gap_us, m["high"])
    add_square(m, gap_us)


@njit
def fold_size(m: np.void, payload: np.int64, first: bool) -> None:
    """Fold one packet's payload bytes into SIZES."""
    m["low"] = payload if first else min(payload, np.int64(m["low"]))
    m["high"] = payload if first else max(payload, np.int64(m["high"]))
    m["sum"] += payload
    m["square"] += np.uint64(payload * payload)


@njit
def add_bulk(side: np.void, other_last_us: np.int64, ts_us: np.int64, payload: np.int64) -> None:
    """Advance the run of payload packets of one side: four or more without a second's gap or an answer are a bulk."""
    start_us = side["bulk_start_us"]
    if start_us == 0 or other_last_us > start_us or ts_us - side["bulk_last_us"] > SUBFLOW_US:
        side["bulk_start_us"] = ts_us
        side["bulk_run_packets"] = 1
        side["bulk_run_bytes"] = payload
    else:
        side["bulk_run_packets"] += 1
        side["bulk_run_bytes"] += payload
        if side["bulk_run_packets"] == BULK_PACKETS:
            side["bulk_count"] += 1
            side["bulk_packets"] += BULK_PACKETS
            side["bulk_bytes"] += side["bulk_run_bytes"]
            side["bulk_us"] += ts_us - start_us
        elif side["bulk_run_packets"] > BULK_PACKETS:
            side["bulk_packets"] += 1
            side["bulk_bytes"] += payload
            side["bulk_us"] += ts_us - side["bulk_last_us"]
    side["bulk_last_us"] = ts_us


@njit
def segment_hash(tag: np.int64, p: np.void) -> np.uint64:
    """Hash of what two equal TCP segments of one connection share: (side, seq, ack, payload, window)."""
    a = (np.uint64(p["seq"]) << U32) | np.uint64(p["ack"])
    b = (np.uint64(p["payload_bytes"]) << U32) | (np.uint64(p["window"]) << U16) | np.uint64(p["src_port"])
    return mix(a + mix(b + p["src_lo"] * M1 + np.uint64(tag) * M2))


@njit
def remember(seen: NDArray[np.uint32], row: np.void, p: np.void, segment: np.uint64, forward: bool) -> None:
    """Count a segment as retransmitted if an equal one was already in the connection; remember it.

    The memory is one bounded table for all connections, where a newcomer takes an older segment's place; a retransmission
    of what was overwritten is not counted. Most segments go beyond all that the side has sent so far: those are new for
    certain, so the table is only written to, which does not wait for memory as reading would.
    """
    side = row["fwd"] if forward else row["bwd"]
    place = np.int64(segment >> U32) & np.int64(len(seen) - 1)
    tag = np.uint32(segment & LOW32) ^ np.uint32(row["connection"])
    ahead = np.int32(np.uint32(p["seq"]) - np.uint32(side["highest_seq"]))
    ahead_ack = np.int32(np.uint32(p["ack"]) - np.uint32(side["highest_ack"]))
    beyond = ahead > 0 or (ahead == 0 and ahead_ack > 0)
    first = side["packets"] == 0
    surely_new = row["continued"] == 0 if first else beyond
    if not surely_new and seen[place] == tag:
        side["retransmissions"] += 1
    if beyond or first:
        side["highest_seq"] = p["seq"]
        side["highest_ack"] = p["ack"]
    seen[place] = tag


@njit
def add_rare_flags(side: np.void, flags: np.int64) -> None:
    """Count the TCP flags other than ACK and PSH, which most segments do not carry."""
    side["fin"] += flags & FIN
    side["syn"] += (flags & SYN) >> 1
    side["rst"] += (flags & RST) >> 2
    side["urg"] += (flags & URG) >> 5
    side["ece"] += (flags & ECE) >> 6
    side["cwr"] += (flags & CWR) >> 7


@njit
def greet(own: np.int64, peer: np.int64, flags: np.int64) -> tuple[np.int64, np.int64]:
    """States of (sender, peer) after a segment without regard to its FIN or RST: who has said hello, and was it answered?"""
    if own == INACTIVE:
        if flags & SYN:
            if peer == SYN_SENT or (peer == SYN_ACK_SENT and flags & ACK == 0):
                return np.int64(ESTABLISHED), np.int64(ESTABLISHED)
            return np.int64(SYN_ACK_SENT) if flags & ACK else np.int64(SYN_SENT), peer
        if flags & (FIN | RST) == 0 and peer != SYN_SENT:  # data cannot answer a SYN, but may be met in mid-stream
            return np.int64(PARTIAL), peer
    elif peer == SYN_ACK_SENT and flags & ACK and (own == SYN_SENT or own == PARTIAL):
        return np.int64(ESTABLISHED), np.int64(ESTABLISHED)
    return own, peer


@njit
def advance_endpoints(row: np.void, flags: np.int64, forward: bool) -> None:
    """Move both endpoints' states for one TCP segment, as Zeek's TCP analyzer does (TCP.cc, UpdateInactiveState and so on)."""
    own, peer = np.int64(row["src_state"]), np.int64(row["dst_state"])
    if not forward:
        own, peer = peer, own
    if own != SHUT and own != RESET:
        own, peer = greet(own, peer, flags)
        if flags & RST:
            own = np.int64(RESET)
        elif flags & FIN:
            own = np.int64(SHUT)
    elif own == SHUT and flags & RST and peer != SHUT:
        own = np.int64(RESET)
    if forward:
        row["src_state"], row["dst_state"] = own, peer
    else:
        row["src_state"], row["dst_state"] = peer, own


@njit
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


@njit
def add_packet(row: np.void, p: np.void, forward: bool) -> None:
    """Fold one packet into the flow's accumulators."""
    ts_us, payload = p["ts_us"], np.int64(p["payload_bytes"])
    if forward:
        side, other = row["fwd"], row["bwd"]
    else:
        side, other = row["bwd"], row["fwd"]
    if p["protocol"] == TCP:
        add_segment(row, side, p, forward)
    first = side["packets"] == 0
    if first:
        side["first_us"] = ts_us
        side["smallest_header_bytes"] = p["header_bytes"]
        side["first_window"] = p["window"]
    else:
        fold_gap(side["gap"], ts_us - side["last_us"], side["packets"] == 1)
        if p["header_bytes"] < side["smallest_header_bytes"]:
            side["smallest_header_bytes"] = p["header_bytes"]
    side["packets"] += 1
    side["last_us"] = ts_us
    side["ip_bytes"] += np.int64(p["ip_bytes"])
    side["header_bytes"] += np.int64(p["header_bytes"])
    fold_size(side["payload"], payload, first)
    if payload > 0:
        side["data_packets"] += 1
        add_bulk(side, other["bulk_last_us"], ts_us, payload)
    row["last_us"] = ts_us


@njit
def add_gap(row: np.void, ts_us: np.int64) -> None:
    """Book the silence before a later packet: gap, subflow, active and idle time (CICFlowMeter's updateActiveIdleTime)."""
    gap_us = ts_us - row["last_us"]
    fold_gap(row["gap"], gap_us, row["fwd"]["packets"] + row["bwd"]["packets"] == 1)
    if gap_us > SUBFLOW_US:
        row["long_gaps"] += 1
    if ts_us - row["active_end_us"] > ACTIVITY_US:
        if row["active_end_us"] > row["active_start_us"]:
            fold(row["active"], row["active_end_us"] - row["active_start_us"])
        fold(row["idle"], ts_us - row["active_end_us"])
        row["active_start_us"] = ts_us
    row["active_end_us"] = ts_us


@njit
def tcp_conn_state(row: np.void) -> np.int64:
    """Zeek's conn_state of a TCP flow (base/protocols/conn/main.zeek, conn_state)."""
    src, dst = row["src_state"], row["dst_state"]
    src_quiet = src == INACTIVE or src == PARTIAL
    dst_quiet = dst == INACTIVE or dst == PARTIAL
    if dst == RESET:
        no_data = row["fwd"]["payload"]["sum"] == 0 and row["bwd"]["payload"]["sum"] == 0
        if src == SYN_SENT or src == SYN_ACK_SENT or (src == RESET and no_data):
            return np.int64(REJ)
        return np.int64(RSTRH) if src_quiet else np.int64(RSTR)
    if src == RESET:
        if not dst_quiet:
            return np.int64(RSTO)
        syn_before = row["fwd"]["syn"] > 0 and row["fwd"]["packets"] > 1
        return np.int64(RSTOS0) if syn_before else np.int64(OTH)
    if src == SHUT:
        if dst == SHUT:
            return np.int64(SF)
        return np.int64(SH) if dst_quiet else np.int64(S2)
    if dst == SHUT:
        return np.int64(SHR) if src_quiet else np.int64(S3)
    if src == SYN_SENT and dst == INACTIVE:
        return np.int64(S0)
    return np.int64(S1) if src == ESTABLISHED and dst == ESTABLISHED else np.int64(OTH)


@njit
def conn_state(row: np.void) -> np.int64:
    """Zeek's conn_state of a flow of any protocol."""
    if row["protocol"] == TCP:
        return tcp_conn_state(row)
    if row["protocol"] != UDP:
        return np.int64(OTH)
    if row["fwd"]["packets"] == 0:
        return np.int64(SHR)
    return np.int64(SF) if row["bwd"]["packets"] > 0 else np.int64(S0)


@njit
def emit(t: Table, r: np.int64, end: np.int64, out: NDArray[np.void], n: np.int64) -> np.int64:
    """Write row `r` as the n-th ended flow; returns n + 1. The row itself stays as it is."""
    t.rows[r]["end"] = end
    t.rows[r]["conn_state"] = conn_state(t.rows[r])
    out[n] = t.rows[r]
    t.ended[end] += 1
    return np.int64(n + 1)


@njit
def remove(t: Table, r: np.int64) -> None:
    """Take a row out of queue and index and free it."""
    unlink(t.before, t.after, r)
    row = t.rows[r]
    tag = key_tag(row, np.uint64(t.state[SEED]))
    mask = np.int64(len(t.index) - 1)
    place = tag & mask
    while t.index[place] & 0xFFFF_FFFF != r or t.index[place] < 0:
        place = (place + 1) & mask
    forget(t, place)
    t.state[LIVE] -= 1
    t.free[len(t.rows) - t.state[LIVE] - 1] = r


@njit
def begin(t: Table, r: np.int64, p: np.void, segment: np.uint64, turned: bool) -> None:
    """Make row `r` a new flow of packet `p`, whose sender is the source unless the packet is an answer (`turned`)."""
    t.rows[r] = t.blank[0]
    row = t.rows[r]
    if turned:
        row["src_hi"], row["src_lo"], row["src_port"] = p["dst_hi"], p["dst_lo"], p["dst_port"]
        row["dst_hi"], row["dst_lo"], row["dst_port"] = p["src_hi"], p["src_lo"], p["src_port"]
    else:
        row["src_hi"], row["src_lo"], row["src_port"] = p["src_hi"], p["src_lo"], p["src_port"]
        row["dst_hi"], row["dst_lo"], row["dst_port"] = p["dst_hi"], p["dst_lo"], p["dst_port"]
    row["protocol"] = p["protocol"]
    row["icmp_type"], row["icmp_code"] = p["icmp_type"], p["icmp_code"]
    row["first_is_bwd"] = turned
    t.state[CONNECTIONS] += 1
    row["connection"] = t.state[CONNECTIONS]
    start(row, p)
    if p["protocol"] == TCP:
        remember(t.seen, row, p, segment, not turned)
    add_packet(row, p, not turned)


@njit
def start(row: np.void, p: np.void) -> None:
    """Set the clocks of a flow to its first packet."""
    row["first_us"] = row["last_us"] = row["active_start_us"] = row["active_end_us"] = p["ts_us"]


@njit
def resume(t: Table, r: np.int64, p: np.void, segment: np.uint64) -> None:
    """Make row `r`, just cut by the active time-out, a continuation: ends, connection and endpoint states stay."""
    row, blank = t.rows[r], t.blank[0]
    row["connection_us"] += p["ts_us"] - row["first_us"]
    row["continued"] = 1
    row["closing"] = NONE
    row["first_is_bwd"] = not from_source(row, p)
    row["long_gaps"] = 0
    copy_counts(row, blank)
    start(row, p)
    forward = from_source(row, p)
    if p["protocol"] == TCP:
        remember(t.seen, row, p, segment, forward)
    add_packet(row, p, forward)


@njit
def copy_counts(row: np.void, blank: np.void) -> None:
    """Set every accumulator of `row` to that of `blank`."""
    row["gap"] = blank["gap"]
    row["active"] = blank["active"]
    row["idle"] = blank["idle"]
    row["fwd"] = blank["fwd"]
    row["bwd"] = blank["bwd"]


@njit
def from_source(row: np.void, p: np.void) -> bool:
    """Forward means: sent by the flow's source address; a host that talks to itself is told apart by the port.

    CICFlowMeter never compares ports, so that there all packets of such a flow are forward.
    """
    if row["src_lo"] != p["src_lo"] or row["src_hi"] != p["src_hi"]:
        return False
    return bool(row["src_port"] == p["src_port"] or row["src_lo"] != row["dst_lo"] or row["src_hi"] != row["dst_hi"])


@njit
def close_progress(row: np.void, flags: np.int64) -> None:
    """Follow FIN, FIN, ACK or RST to READY: then the next SYN is a new connection."""
    if flags & FIN:
        if row["closing"] == NONE:
            row["closing"] = FIRST_FIN
        if row["closing"] == FIRST_FIN and row["fwd"]["fin"] > 0 and row["bwd"]["fin"] > 0:
            row["closing"] = BOTH_FINS
    elif flags & RST:
        row["closing"] = READY
    elif flags & ACK and row["closing"] == BOTH_FINS:
        row["closing"] = READY


@njit
def lane_of(row: np.void) -> np.int64:
    """Which queue the flow waits in."""
    if row["closing"] >= BOTH_FINS:
        return np.int64(CLOSED)
    if row["protocol"] == TCP and row["src_state"] == SYN_SENT and row["bwd"]["packets"] == 0:
        return np.int64(ATTEMPT)
    return np.int64(OPEN)


@njit
def cut(row: np.void, p: np.void, active_us: np.int64) -> np.int64:
    """Why this packet cannot join the flow (END_*), or 0."""
    if row["closing"] == READY and p["tcp_flags"] & SYN:
        return np.int64(END_REUSED)
    if p["ts_us"] - row["first_us"] > active_us:
        return np.int64(END_ACTIVE)
    if (
        (row["protocol"] == ICMP or row["protocol"] == ICMPV6)
        and p["icmp_code"] != row["icmp_code"]
        and p["icmp_type"] != row["icmp_type"]
    ):
        return np.int64(END_ICMP)
    return np.int64(0)


@njit
def goes_on(row: np.void, p: np.void, why: np.int64, active_us: np.int64) -> bool:
    """After a cut by time: is the packet still of the same connection, so that the row continues it?"""
    if why != END_ACTIVE:
        return False
    return bool(row["protocol"] == TCP or (row["protocol"] == UDP and p["ts_us"] - row["last_us"] <= active_us))


@njit
def renew(
    t: Table, r: np.int64, p: np.void, segment: np.uint64, why: np.int64, out: NDArray[np.void], n: np.int64) -> np.int64:
    """End the flow of row `r` because packet `p` cannot join it, and let the row go on with that packet; returns the new n."""
    row = t.rows[r]
    n = emit(t, r, why, out, n)
    if goes_on(row, p, why, t.limits[ACTIVE_US]):
        resume(t, r, p, segment)
    else:
        begin(t, r, p, segment, bool(p["tcp_flags"] & (SYN | ACK) == SYN | ACK))
    unlink(t.before, t.after, r)
    enqueue(t, r, lane_of(row))
    return n


@njit
def idlest(t: Table) -> np.int64:
    """The row that has been silent longest: one of the queues' heads."""
    best, best_us = np.int64(-1), NEVER
    for lane in range(3):
        head = np.int64(t.after[len(t.rows) + lane])
        if head < len(t.rows) and t.rows[head]["last_us"] < best_us:
            best, best_us = head, t.rows[head]["last_us"]
    return best


@njit
def admit(
    t: Table, p: np.void, segment: np.uint64, tag: np.int64, place: np.int64, out: NDArray[np.void], n: np.int64) -> np.int64:
    """Begin a flow for a packet that belongs to none, making room if the table is full; returns the new n."""
    if t.state[LIVE] == len(t.rows):
        victim = idlest(t)
        n = emit(t, victim, END_FULL, out, n)
        remove(t, victim)
        place = -1 - find(t.index, t.rows, p, tag)
    r = np.int64(t.free[len(t.rows) - t.state[LIVE] - 1])
    t.state[LIVE] += 1
    t.index[place] = (tag << 32) | r
    begin(t, r, p, segment, bool(p["tcp_flags"] & (SYN | ACK) == SYN | ACK))
    enqueue(t, r, lane_of(t.rows[r]))
    return n


@njit
def expire(t: Table, now_us: np.int64, out: NDArray[np.void], n: np.int64) -> np.int64:
    """End the flows that are due at `now_us`, the longest due first, while `out` has room; returns the new n."""
    while n < len(out):
        lane, due = np.int64(0), NEVER
        for k in range(3):
            k_due = head_due_us(t, k)
            if k_due < due:
                lane, due = np.int64(k), k_due
        t.state[DUE_US] = due
        if due > now_us:
            break
        head = np.int64(t.after[len(t.rows) + lane])
        why = END_CLOSED if lane == CLOSED else END_ATTEMPT if lane == ATTEMPT else END_IDLE
        n = emit(t, head, np.int64(why), out, n)
        remove(t, head)
    return n


@njit
def advance_clock(t: Table, ts_us: np.int64) -> None:
    """The table's clock is the latest packet's; a step back beyond what disorder explains sets it back and is counted."""
    clock = t.state[CLOCK_US]
    if ts_us >= clock:
        t.state[CLOCK_US] = ts_us
    elif clock - ts_us > t.limits[STEP_BACK_US]:
        t.state[CLOCK_US] = ts_us
        t.state[STEPS_BACK] += 1


@njit
def hash_block(t: Table, packets: NDArray[np.void], at: np.int64) -> None:
    """Hash the keys and segments of packets[at:], so that `look_ahead` knows where they will be looked up."""
    seed = np.uint64(t.state[SEED])
    tags, segments = t.tags, t.segments
    for i in range(at, len(packets)):
        p = packets[i]
        tags[i] = key_tag(p, seed)
        segments[i] = segment_hash(tags[i], p)


@njit
def look_ahead(
    index: NDArray[np.int64], rows: NDArray[np.void], seen: NDArray[np.uint32], tag: np.int64, segment: np.uint64
) -> None:
    """Ask memory for what a packet some places ahead will probably touch: its row's lines and its segment's place."""
    entry = index[tag & np.int64(len(index) - 1)]
    if entry >= 0:
        for offset in range(0, HOT_BYTES, LINE_BYTES):
            prefetch(rows, entry & 0xFFFF_FFFF, offset)
    prefetch(seen, np.int64(segment >> U32) & np.int64(len(seen) - 1), 0)


@njit
def add_to(row: np.void, p: np.void, seen: NDArray[np.uint32], segment: np.uint64) -> None:
    """Add a packet to a live flow that it may join."""
    forward = from_source(row, p)
    add_gap(row, p["ts_us"])
    if p["protocol"] == TCP:
        remember(seen, row, p, segment, forward)
        add_packet(row, p, forward)
        close_progress(row, np.int64(p["tcp_flags"]))
    else:
        add_packet(row, p, forward)


@njit
def feed(t: Table, packets: NDArray[np.void], at: np.int64, out: NDArray[np.void]) -> tuple[np.int64, np.int64]:
    """Fold packets[at:] into the table until they or the room in `out` end.

    Returns (next packet to feed, rows written to `out`). A packet ends at most two flows besides those that are due.
    At most len(t.tags) packets. The arrays are taken out of the tuple because passing it costs a reference count each.
    """
    n = np.int64(0)
    rows, index, seen, before, after, state = t.rows, t.index, t.seen, t.before, t.after, t.state
    tags, segments = t.tags, t.segments
    active_us, expiry = t.limits[ACTIVE_US], t.limits[EXPIRY]
    hash_block(t, packets, at)
    for i in range(at, len(packets)):
        p = packets[i]
        if i + FAR < len(packets):
            prefetch(index, tags[i + FAR] & np.int64(len(index) - 1), 0)
            look_ahead(index, rows, seen, tags[i + NEAR], segments[i + NEAR])
        if p["ts_us"] > state[CLOCK_US]:
            state[CLOCK_US] = p["ts_us"]
        else:
            advance_clock(t, p["ts_us"])
        if expiry and state[CLOCK_US] > state[DUE_US]:
            n = expire(t, state[CLOCK_US] - 1, out, n)
        if n + 2 > len(out):
            state[PACKETS] += i - at
            return np.int64(i), n
        place = find(index, rows, p, tags[i])
        if place < 0:
            n = admit(t, p, segments[i], tags[i], np.int64(-1 - place), out, n)
            continue
        r = np.int64(index[place] & 0xFFFF_FFFF)
        row = rows[r]
        why = cut(row, p, active_us)
        if why:
            n = renew(t, r, p, segments[i], why, out, n)
            continue
        add_to(row, p, seen, segments[i])
        lane = lane_of(row)
        if lane != row["lane"]:
            unlink(before, after, r)
            enqueue(t, r, lane)
        elif lane != ATTEMPT and after[r] < len(rows):  # attempts wait from their start on
            unlink(before, after, r)
            append(before, after, r, np.int64(len(rows) + lane))
    state[PACKETS] += len(packets) - at
    return np.int64(len(packets)), n


@njit
def drain(t: Table, out: NDArray[np.void]) -> np.int64:
    """End live flows because the input ended, the idlest first, while `out` has room; returns the rows written."""
    n = np.int64(0)
    while n < len(out) and t.state[LIVE] > 0:
        r = idlest(t)
        n = emit(t, r, END_INPUT, out, n)
        remove(t, r)
    return n
