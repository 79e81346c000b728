"""The rules of belonging: which side sent a packet, whether it may join its flow, and which queue the flow then waits in.

They are those of the repaired CICFlowMeter (GintsEngelen/CICFlowMeter, 2024), with the queues added that its table lacks.
`flow_kernel` asks them for every packet.
"""

from __future__ import annotations

import numpy as np

from sensor.flow_states import BOTH_FINS, READY, SYN_SENT
from sensor.kernels import part
from sensor.schema import (
    END_ACTIVE,
    END_CLOSED,
    END_ICMP,
    END_REUSED,
    ICMP,
    ICMPV6,
    RULE_FIRST_FIN,
    RULE_SELF_FORWARD,
    SYN,
    TCP,
    UDP,
)

OPEN, CLOSED, ATTEMPT = range(3)
"""The queues; the time-out of a queue stands in Table.limits at the queue's own number."""


@part
def from_source(row: np.void, p: np.void) -> bool:
    """Forward means: sent by the flow's source address; a host that talks to itself is told apart by the port.

    CICFlowMeter never compares ports, so that there all packets of such a flow are forward (RULE_SELF_FORWARD).
    """
    if row["src_lo"] != p["src_lo"] or row["src_hi"] != p["src_hi"]:
        return False
    if row["src_port"] == p["src_port"] or row["src_lo"] != row["dst_lo"] or row["src_hi"] != row["dst_hi"]:
        return True
    return bool(row["rules"] & RULE_SELF_FORWARD)


@part
def cut(row: np.void, p: np.void, active_us: np.int64) -> np.int64:
    """Why this packet cannot join the flow (END_*), or 0."""
    if row["closing"] == READY:
        if p["tcp_flags"] & SYN:
            return np.int64(END_REUSED)
        if row["rules"] & RULE_FIRST_FIN:
            return np.int64(END_CLOSED)
    if p["ts_us"] - row["first_us"] > active_us:
        return np.int64(END_ACTIVE)
    if (
        (row["protocol"] == ICMP or row["protocol"] == ICMPV6)
        and p["icmp_code"] != row["icmp_code"]
        and p["icmp_type"] != row["icmp_type"]
    ):
        return np.int64(END_ICMP)
    return np.int64(0)


@part
def goes_on(row: np.void, p: np.void, why: np.int64, active_us: np.int64) -> bool:
    """After a cut by time: is the packet still of the same connection, so that the row continues it?"""
    if why != END_ACTIVE:
        return False
    return bool(row["protocol"] == TCP or (row["protocol"] == UDP and p["ts_us"] - row["last_us"] <= active_us))


@part
def lane_of(row: np.void) -> np.int64:
    """Which queue the flow waits in."""
    if row["closing"] >= BOTH_FINS:
        return np.int64(CLOSED)
    if row["src_state"] == SYN_SENT and row["bwd"]["packets"] == 0 and row["continued"] == 0:  # which only TCP has
        return np.int64(ATTEMPT)
    return np.int64(OPEN)
