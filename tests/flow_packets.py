"""Packets of one made-up connection, told in a word each, and the flows that a table makes of them."""

from __future__ import annotations

import numpy as np
from naive_flows import Packet, rows_of
from numpy.typing import NDArray

from sensor.flows import FlowTable
from sensor.schema import ACK, ENDS, FIN, FLOW, SYN, TCP, UDP, V4_MAPPED

START_US = 1_700_000_000_000_000
HOST, PEER = V4_MAPPED | 0x0A00_0001, V4_MAPPED | 0xC633_6401
BYSTANDER = V4_MAPPED | 99
AFTER_US = 1
"""The shortest time beyond a limit."""


def sent(at_s: float, flags: int = ACK, *, plus_us: int = 0, **more: int) -> Packet:
    """A packet of the host to the peer, by default a bare TCP segment to port 80."""
    told = {"protocol": TCP, "src": HOST, "dst": PEER, "src_port": 40_000, "dst_port": 80, **more}
    return Packet(START_US + round(at_s * 1e6) + plus_us, flags=flags, **told)


def answered(at_s: float, flags: int = ACK, *, plus_us: int = 0, **more: int) -> Packet:
    """A packet of the peer to the host, of the same flow."""
    told = {"protocol": TCP, "src": PEER, "dst": HOST, "src_port": 80, "dst_port": 40_000, **more}
    return Packet(START_US + round(at_s * 1e6) + plus_us, flags=flags, **told)


def spoke(at_s: float, *, plus_us: int = 0, **more: int) -> Packet:
    """A datagram of the host to the peer."""
    told = {"protocol": UDP, "src_port": 5000, "dst_port": 53, "header": 8, **more}
    return sent(at_s, 0, plus_us=plus_us, **told)


def bystander(at_s: float, *, plus_us: int = 0) -> Packet:
    """A packet between others: all that it does is to let time pass."""
    return spoke(at_s, plus_us=plus_us, src=BYSTANDER, dst=V4_MAPPED | 98)


HANDSHAKE = (sent(0.0, SYN), answered(0.1, SYN | ACK), sent(0.2))
CLOSE = (sent(1.0, FIN | ACK), answered(1.1, FIN | ACK), sent(1.2))


def feed(table: FlowTable, *packets: Packet) -> NDArray[np.void]:
    """Flows that end while the packets are fed: a copy."""
    ended: NDArray[np.void] = table.feed(rows_of(packets)).copy()
    return ended


def drained(table: FlowTable) -> NDArray[np.void]:
    """All that is left."""
    parts = [np.zeros(0, FLOW)]
    while len(part := table.drain()):
        parts.append(part.copy())
    return np.concatenate(parts)


def flows_of(*packets: Packet, table: FlowTable | None = None) -> NDArray[np.void]:
    """All flows of the packets but the bystander's."""
    table = table or FlowTable()
    rows = np.concatenate([feed(table, *packets), drained(table)])
    others: NDArray[np.void] = rows[rows["src_lo"] != BYSTANDER]
    return others


def ends(rows: NDArray[np.void]) -> list[str]:
    return [ENDS[end] for end in rows["end"]]


def packets(rows: NDArray[np.void]) -> list[tuple[int, int]]:
    """Packets of (source, destination) of each flow."""
    return [(int(row["fwd"]["packets"]), int(row["bwd"]["packets"])) for row in rows]
