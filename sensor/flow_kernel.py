"""The compiled loops of the flow table: PACKET rows in, the table updated in place, ended FLOW rows out.

Strategy. Rows live in one array laid out at start. An open-addressed index (linear probing, deletion by shifting back, so
no tombstones) maps the hash of a flow's key to its row; the hash is the same for both directions. Each live row waits in
one of three queues, doubly linked through two small arrays: unanswered SYNs (by their start), closed connections and all
others (by their last packet). Within a queue all rows have the same time-out, so only the heads are ever looked at, and one
number, the earliest moment at which any head can be due, is all that a packet has to be compared with.

Memory is what takes time: a row is ten cache lines, and a busy table is larger than the cache. So a block's keys are hashed
first, and the lines that a packet will touch are asked for some packets ahead; that alone doubled the speed.

The rules of when a flow ends or is cut are those of the repaired CICFlowMeter (GintsEngelen/CICFlowMeter, 2024), with the
time-outs added that its table lacks. `sensor.flows` owns the arrays and calls `feed`, `expire` and `drain`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.flow_accumulate import add_gap, add_packet, remember, segment_hash
from sensor.flow_index import LINE_BYTES, append, find, forget, key_tag, look_ahead, unlink
from sensor.flow_rules import ATTEMPT, CLOSED, cut, from_source, goes_on, lane_of
from sensor.flow_states import NONE, close_progress, conn_state
from sensor.kernels import loop, part, prefetch
from sensor.schema import (
    ACK,
    END_ATTEMPT,
    END_CLOSED,
    END_FULL,
    END_IDLE,
    END_INPUT,
    FLOW,
    SYN,
    TCP,
)

LIVE, CLOCK_US, DUE_US, CONNECTIONS, PACKETS, STEPS_BACK, SEED = range(7)
"""Places in Table.state, the numbers that change."""
STATES = 7

IDLE_US, CLOSED_US, ATTEMPT_US, ACTIVE_US, EXPIRY, STEP_BACK_US = range(6)
"""Places in Table.limits, the numbers that do not."""

BLOCK = 4096
"""Packets fed at a time, at most."""
FAR, NEAR = 16, 8
"""How many packets ahead the index and the rows are asked for; from 4 to 32 the speed hardly differs."""
ROW_BYTES = np.int64(FLOW.itemsize)

NEVER = np.int64(2**63 - 1)


class Table(NamedTuple):
    """The arrays of one flow table; `sensor.flows.FlowTable` lays them out."""

    rows: NDArray[np.void]
    """(n,) FLOW."""
    places: NDArray[np.int64]
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


@part
def enqueue(t: Table, r: np.int64, lane: np.int64) -> None:
    """Put row `r` into a queue and see that the queue's head is not missed."""
    append(t.before, t.after, r, np.int64(len(t.rows) + lane))
    row = t.rows[r]
    row["lane"] = lane
    since_us = row["first_us"] if lane == ATTEMPT else row["last_us"]
    t.state[DUE_US] = min(t.state[DUE_US], since_us + t.limits[lane])


@part
def head_due_us(t: Table, lane: np.int64) -> np.int64:
    """When the head of a queue is due; NEVER when the queue is empty.

    A head that lies ahead of the clock is from before the clock was set back: due at once, or it would hold up its queue.
    """
    head = t.after[len(t.rows) + lane]
    if head >= len(t.rows):
        return NEVER
    since_us = t.rows[head]["first_us"] if lane == ATTEMPT else t.rows[head]["last_us"]
    if since_us - t.state[CLOCK_US] > t.limits[STEP_BACK_US]:
        return np.int64(t.state[CLOCK_US] - 1)
    return np.int64(since_us + t.limits[lane])


@part
def emit(t: Table, r: np.int64, end: np.int64, out: NDArray[np.void], n: np.int64) -> np.int64:
    """Write row `r` as the n-th ended flow; returns n + 1. The row itself stays as it is."""
    t.rows[r]["end"] = end
    t.rows[r]["conn_state"] = conn_state(t.rows[r])
    out[n] = t.rows[r]
    t.ended[end] += 1
    return np.int64(n + 1)


@part
def remove(t: Table, r: np.int64) -> None:
    """Take a row out of queue and index and free it."""
    unlink(t.before, t.after, r)
    row = t.rows[r]
    tag = key_tag(row, np.uint64(t.state[SEED]))
    mask = np.int64(len(t.places) - 1)
    place = tag & mask
    while t.places[place] & 0xFFFF_FFFF != r or t.places[place] < 0:
        place = (place + 1) & mask
    forget(t.places, place)
    t.state[LIVE] -= 1
    t.free[len(t.rows) - t.state[LIVE] - 1] = r


@part
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


@part
def start(row: np.void, p: np.void) -> None:
    """Set the clocks of a flow to its first packet."""
    row["first_us"] = row["last_us"] = row["active_start_us"] = p["ts_us"]


@part
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


@part
def copy_counts(row: np.void, blank: np.void) -> None:
    """Set every accumulator of `row` to that of `blank`; how far each side has sent stays, or repeats would look new."""
    row["gap"] = blank["gap"]
    row["active"] = blank["active"]
    row["idle"] = blank["idle"]
    seq, ack = row["fwd"]["highest_seq"], row["fwd"]["highest_ack"]
    row["fwd"] = blank["fwd"]
    row["fwd"]["highest_seq"], row["fwd"]["highest_ack"] = seq, ack
    seq, ack = row["bwd"]["highest_seq"], row["bwd"]["highest_ack"]
    row["bwd"] = blank["bwd"]
    row["bwd"]["highest_seq"], row["bwd"]["highest_ack"] = seq, ack
    row["fwd_bulk_last_us"] = row["bwd_bulk_last_us"] = 0


@part
def renew(t: Table, r: np.int64, p: np.void, segment: np.uint64, why: np.int64, out: NDArray[np.void], n: np.int64) -> np.int64:
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


@part
def idlest(t: Table) -> np.int64:
    """The row that has been silent longest: one of the queues' heads."""
    best, best_us = np.int64(-1), NEVER
    for lane in range(3):
        head = np.int64(t.after[len(t.rows) + lane])
        if head < len(t.rows) and t.rows[head]["last_us"] < best_us:
            best, best_us = head, t.rows[head]["last_us"]
    return best


@part
def admit(
    t: Table, p: np.void, segment: np.uint64, tag: np.int64, place: np.int64, out: NDArray[np.void], n: np.int64
) -> np.int64:
    """Begin a flow for a packet that belongs to none, making room if the table is full; returns the new n."""
    if t.state[LIVE] == len(t.rows):
        victim = idlest(t)
        n = emit(t, victim, np.int64(END_FULL), out, n)
        remove(t, victim)
        place = -1 - find(t.places, t.rows, p, tag)
    r = np.int64(t.free[len(t.rows) - t.state[LIVE] - 1])
    t.state[LIVE] += 1
    t.places[place] = (tag << 32) | r
    begin(t, r, p, segment, bool(p["tcp_flags"] & (SYN | ACK) == SYN | ACK))
    enqueue(t, r, lane_of(t.rows[r]))
    return n


@part
def end_due(t: Table, now_us: np.int64, out: NDArray[np.void], n: np.int64) -> np.int64:
    """End the flows that are due at `now_us`, the longest due first, while `out` has room; returns the new n."""
    while n < len(out):
        lane, due = np.int64(0), NEVER
        for k in range(3):
            k_due = head_due_us(t, np.int64(k))
            if k_due < due:
                lane, due = np.int64(k), k_due
        t.state[DUE_US] = due
        if due > now_us:
            break
        head = np.int64(t.after[len(t.rows) + lane])
        why = END_CLOSED if lane == CLOSED else END_ATTEMPT if lane == ATTEMPT else END_IDLE
        n = emit(t, head, np.int64(why), out, n)
        remove(t, head)
        expect(t, lane)
    return n


@part
def expect(t: Table, lane: np.int64) -> None:
    """Ask memory for the row that will be due next in a queue: nobody has touched it for as long as the time-out."""
    head = t.after[len(t.rows) + lane]
    if head < len(t.rows):
        for offset in range(0, ROW_BYTES, LINE_BYTES):
            prefetch(t.rows, np.int64(head), np.int64(offset))


@part
def advance_clock(t: Table, ts_us: np.int64) -> None:
    """The table's clock is the latest packet's; a step back beyond what disorder explains sets it back and is counted."""
    clock = t.state[CLOCK_US]
    if ts_us >= clock:
        t.state[CLOCK_US] = ts_us
    elif clock - ts_us > t.limits[STEP_BACK_US]:
        t.state[CLOCK_US] = ts_us
        t.state[STEPS_BACK] += 1
        t.state[DUE_US] = -NEVER


@part
def hash_block(t: Table, packets: NDArray[np.void], at: np.int64) -> None:
    """Hash the keys and segments of packets[at:], so that `look_ahead` knows where they will be looked up."""
    seed = np.uint64(t.state[SEED])
    tags, segments = t.tags, t.segments
    for i in range(at, len(packets)):
        p = packets[i]
        tags[i] = key_tag(p, seed)
        segments[i] = segment_hash(tags[i], p)


@part
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


@loop
def feed(t: Table, packets: NDArray[np.void], at: np.int64, out: NDArray[np.void]) -> tuple[np.int64, np.int64]:
    """Fold packets[at:] into the table until they or the room in `out` end.

    Returns (next packet to feed, rows written to `out`). A packet ends at most two flows besides those that are due.
    At most len(t.tags) packets. The arrays are taken out of the tuple because passing it costs a reference count each.
    """
    n = np.int64(0)
    rows, index, seen, before, after, state = t.rows, t.places, t.seen, t.before, t.after, t.state
    tags, segments = t.tags, t.segments
    active_us, expiry = t.limits[ACTIVE_US], t.limits[EXPIRY]
    hash_block(t, packets, at)
    for i in range(at, len(packets)):
        p = packets[i]
        if i + FAR < len(packets):
            prefetch(index, tags[i + FAR] & np.int64(len(index) - 1), np.int64(0))
            look_ahead(index, rows, seen, tags[i + NEAR], segments[i + NEAR])
        if p["ts_us"] > state[CLOCK_US]:
            state[CLOCK_US] = p["ts_us"]
        else:
            advance_clock(t, p["ts_us"])
        if expiry and state[CLOCK_US] > state[DUE_US]:
            n = end_due(t, state[CLOCK_US] - 1, out, n)
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


@loop
def drain(t: Table, out: NDArray[np.void]) -> np.int64:
    """End live flows because the input ended, the idlest first, while `out` has room; returns the rows written."""
    n = np.int64(0)
    while n < len(out) and t.state[LIVE] > 0:
        r = idlest(t)
        n = emit(t, r, np.int64(END_INPUT), out, n)
        remove(t, r)
    return n


@loop
def expire(t: Table, now_us: np.int64, out: NDArray[np.void]) -> np.int64:
    """End what is due at `now_us` although no packet came, while `out` has room; returns the rows written."""
    return end_due(t, now_us, out, np.int64(0))
