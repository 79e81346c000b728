"""Kernel of the fixed rules: which flow is an attempt that came to nothing, whom it counts for, and which one alerts.

Two tables (`detect_rules_table`): one of hosts that attempts go to, and one of hosts that they come from: there a row for each
service that a source asked for, one for each host whose ports it asked for, and one for the source as a whole, which has the
quiet time of both. Full tables take no newcomers from what is told of already: the attempts that a crowded host gets count for
no source then, and those that a sweeping host makes bring no new rows. `detect_rules` calls `walk`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sensor.detect_rules_table import (
    LIVE,
    OVER,
    Table,
    count,
    enter,
    find,
    host_hash,
    keep,
    key_of,
    mark_of,
    port_mark,
    touch,
)
from sensor.kernels import loop, part
from sensor.schema import ICMP, ICMPV6, TCP, UDP

FAR_US = (1 << 62) - 1
"""Packet times are held within it, so that the difference of two broken ones still fits 64 bits."""
CROWD = 4096
"""Attempts of a minute from which those that a host gets count for no source while the table of sources is full."""
SENT_ONLY = 2
"""Packets of an attempt with payload: what has more is a connection of which one direction is not seen."""

S0, REJ, RSTOS0 = 0, 3, 8
"""Places in schema.CONN_STATES of what came to nothing: unanswered, refused, unanswered and given up. Not SH, which the late
FIN of a connection that is over looks like."""
NOTHING, BY_TCP, BY_UDP, BY_ICMP = range(4)
"""How somebody was tried."""
ECHO, ECHO_6 = 8, 128
"""ICMP types that ask for an answer."""
FLOOD, HOSTS, PORTS, SOURCE = range(4)
"""What a row counts: attempts to a host; hosts that a source tried on a service; ports that it tried of a host; and the
source as a whole, which counts nothing."""
SERVICES = 1024
"""Ports below it are services: what they send by UDP to higher ports are late answers."""
PLAIN = np.uint64(0x6E657473_65710001)
"""Seed of a flood's sources, which are only told of: the same flood gives the same alert."""

RAISED = np.dtype(
    [
        ("row", "<i8"),
        ("rule", "<i8"),
        ("by", "<i8"),
        ("seen", "<i8"),  # attempts, hosts or ports of the minute
        ("others", "<i8"),  # about so many sources, of a flood
        ("within_us", "<i8"),  # of the minute, as far as it has come
        ("count", "<i8"),
        ("first_us", "<i8"),
    ]
)
"""One alert as the kernel found it, by its row in the batch."""


@part
def _tried_by(flow: np.void) -> int:
    """How a flow tried somebody for nothing, NOTHING if it did not. A group of hosts answers to nobody: it is not tried."""
    hi, lo, protocol = flow["dst_hi"], flow["dst_lo"], flow["protocol"]
    if hi >> np.uint64(56) == np.uint64(0xFF):  # multicast (RFC 4291, 2.7)
        return NOTHING
    if hi == np.uint64(0) and (lo >> np.uint64(28) == np.uint64(0xFFFFE) or lo == np.uint64(0xFFFFFFFFFFFF)):
        return NOTHING  # multicast (RFC 5771) and broadcast
    if flow["continued"] != 0:
        return NOTHING
    if protocol == TCP:
        state = flow["conn_state"]
        if state not in (S0, REJ, RSTOS0):
            return NOTHING
        return BY_TCP if flow["fwd"]["payload"]["sum"] <= 0 or flow["fwd"]["packets"] <= SENT_ONLY else NOTHING
    if protocol == UDP:
        return BY_UDP if flow["conn_state"] == S0 else NOTHING
    asked = (protocol == ICMP and flow["icmp_type"] == ECHO) or (protocol == ICMPV6 and flow["icmp_type"] == ECHO_6)
    return BY_ICMP if asked and flow["bwd"]["packets"] <= 0 else NOTHING


@part
def _loud(counted: np.void, owner: np.void, now_us: int, first_us: int, quiet_us: int, counts: NDArray[np.int64]) -> bool:
    """Add an attempt of a minute over the rule to what is pending with the owner of the quiet time; tells whether to alert."""
    gained, since_us = np.int64(1), np.int64(first_us)
    if counted["over"] == 0:
        counted["over"] = 1
        gained, since_us = counted["attempts"], counted["first_us"]
    owner["since_us"] = since_us if owner["pending"] == 0 else min(owner["since_us"], since_us)
    owner["pending"] += gained
    counts[OVER] += gained
    # either way round: a clock that was set back does not silence a host for as long as it jumped
    if owner["alerted"] != 0 and abs(now_us - owner["alerted_us"]) < quiet_us:
        return False
    owner["alerted"] = 1
    owner["alerted_us"] = now_us
    return True


@part
def _write(told: np.void, place: int, rule: int, by: int, seen: int, counted: np.void, owner: np.void) -> None:
    """Write down an alert, and that it told of what was pending."""
    told["row"], told["rule"], told["by"], told["seen"] = place, rule, by, seen
    told["others"] = np.int64(counted["targets"]) << counted["halvings"] if counted["seat"] >= 0 else counted["targets"]
    told["within_us"] = counted["latest_us"] - counted["begun_us"]
    told["count"], told["first_us"] = owner["pending"], owner["since_us"]
    owner["pending"] = 0


@part
def _source(sources: Table, src: np.uint64, now_us: int) -> int:
    """Slot of the source as a whole, which is kept from its first alert on."""
    key = key_of(src, np.uint64(0), SOURCE)
    slot = find(sources, key)
    if slot < 0:
        slot = enter(sources, key, now_us)
    if sources.rows[slot]["seat"] < 0:
        keep(sources, slot, now_us)
    else:
        touch(sources, slot)
    return slot


@part
def _told_of(sources: Table, src: np.uint64, now_us: int, quiet_us: int) -> bool:
    """Whether a source alerted in its quiet time. Asked only where the table is full: it decides nothing else."""
    if sources.counts[LIVE] < len(sources.rows):
        return False
    slot = find(sources, key_of(src, np.uint64(0), SOURCE))
    return slot >= 0 and sources.rows[slot]["alerted"] != 0 and abs(now_us - sources.rows[slot]["alerted_us"]) < quiet_us


@loop
def walk(
    flows: NDArray[np.void],
    victims: Table,
    sources: Table,
    seeds: NDArray[np.uint64],
    most_attempts: int,
    most_targets: int,
    quiet_us: int,
    raised: NDArray[np.void],
) -> int:
    """Count a batch in row order and write what alerts into `raised`, three rows for each flow; returns their number.

    More than `most_attempts` and `most_targets` of a minute alert, and none within `quiet_us` of another of the same host.
    """
    found = 0
    for i in range(len(flows)):
        flow = flows[i]
        by = _tried_by(flow)
        if by == NOTHING:
            continue
        now_us = min(max(flow["last_us"], -FAR_US), FAR_US)
        first_us = min(max(flow["first_us"], -FAR_US), FAR_US)
        src = host_hash(seeds[0], flow["src_hi"], flow["src_lo"])
        dst = host_hash(seeds[1], flow["dst_hi"], flow["dst_lo"])
        port = 0 if by == BY_ICMP else int(flow["dst_port"])
        victim = key_of(dst, np.uint64(0), 4 * by + FLOOD)
        slot = find(victims, victim)
        crowded = slot >= 0 and victims.rows[slot]["attempts"] >= CROWD and sources.counts[LIVE] == len(sources.rows)
        admit = not crowded and not _told_of(sources, src, now_us, quiet_us)
        for rule in (HOSTS, PORTS):
            # many a name server, and programs that share files, ask many hosts by UDP that never answer
            if crowded or (rule == HOSTS and by == BY_UDP) or (rule == PORTS and by == BY_ICMP):
                continue
            if rule == PORTS and by == BY_UDP and flow["src_port"] < SERVICES <= port:
                continue
            more = np.uint64(port) if rule == HOSTS else dst
            mark = mark_of(dst) if rule == HOSTS else port_mark(port)
            slot = count(sources, key_of(src, more, 4 * by + rule), mark, now_us, first_us, admit)
            if slot >= 0 and (sources.rows[slot]["over"] != 0 or sources.rows[slot]["targets"] > most_targets):
                counted, owner = sources.rows[slot], sources.rows[_source(sources, src, now_us)]
                if _loud(counted, owner, now_us, first_us, quiet_us, sources.counts):
                    _write(raised[found], i, rule, by, counted["targets"], counted, owner)
                    found += 1
        mark = mark_of(host_hash(PLAIN, flow["src_hi"], flow["src_lo"]))
        slot = count(victims, victim, mark, now_us, first_us, admit)
        if slot >= 0 and victims.rows[slot]["attempts"] > most_attempts:
            row = victims.rows[slot]
            if _loud(row, row, now_us, first_us, quiet_us, victims.counts):
                _write(raised[found], i, FLOOD, by, row["attempts"], row, row)
                found += 1
    return found
