"""The flow table in plain Python, slow and obvious: what the compiled one is compared with.

Written from the rules and not from the kernels. A flow here is the list of its packets; `naive_accumulate` computes every
number from that list when the flow has ended. Retransmissions are told by a set that forgets nothing. There is no hash, and
no queue but three dictionaries in the order in which flows were last touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.schema import ACK, FIN, ICMP, ICMPV6, PACKET, RST, SYN, TCP, UDP

LOW64 = (1 << 64) - 1
STEP_BACK_US = 60_000_000


class Packet(NamedTuple):
    """One packet; addresses are 128-bit numbers."""

    ts_us: int
    src: int
    dst: int
    src_port: int = 0
    dst_port: int = 0
    protocol: int = TCP
    flags: int = 0
    payload: int = 0
    seq: int = 0
    ack: int = 0
    window: int = 0
    header: int = 20
    ip_bytes: int = 40
    icmp_type: int = 0
    icmp_code: int = 0


def rows_of(packets: Sequence[Packet]) -> NDArray[np.void]:
    """The same packets as PACKET rows."""
    rows = np.zeros(len(packets), PACKET)
    for row, packet in zip(rows, packets, strict=True):
        for side in ("src", "dst"):
            address = getattr(packet, side)
            row[f"{side}_hi"], row[f"{side}_lo"] = address >> 64, address & LOW64
        row["tcp_flags"], row["payload_bytes"], row["header_bytes"] = packet.flags, packet.payload, packet.header
        for name in ("ts_us", "src_port", "dst_port", "protocol", "seq", "ack", "window", "ip_bytes", "icmp_type", "icmp_code"):
            row[name] = getattr(packet, name)
    return rows


def packets_of(rows: NDArray[np.void]) -> Iterator[Packet]:
    """The packets of PACKET rows."""
    for row in rows:
        yield Packet(
            ts_us=int(row["ts_us"]),
            src=int(row["src_hi"]) << 64 | int(row["src_lo"]),
            dst=int(row["dst_hi"]) << 64 | int(row["dst_lo"]),
            flags=int(row["tcp_flags"]),
            payload=int(row["payload_bytes"]),
            header=int(row["header_bytes"]),
            **{
                name: int(row[name])
                for name in ("src_port", "dst_port", "protocol", "seq", "ack", "window", "ip_bytes", "icmp_type", "icmp_code")
            },
        )


End = tuple[int, int]
"""Address and port."""
Segment = tuple[End, int, int, int, int]
"""Sender, seq, ack, payload, window: what a retransmission repeats."""


@dataclass
class Flow:
    """A live flow, or one row of a connection that the active time-out has cut."""

    source: End
    destination: End
    protocol: int
    connection: int
    began_us: int
    """When the connection began, maybe rows ago."""
    continued: bool
    seen: set[Segment]
    """All segments of the connection so far."""
    packets: list[tuple[bool, Packet]] = field(default_factory=list)
    """Each with True when the source sent it."""
    repeated: list[bool] = field(default_factory=list)
    """For each packet: was its segment seen before?"""
    both_fins: bool = False
    ready: bool = False
    end: str = "live"
    first_fin: bool = False
    """The first FIN is the end of it, and a RST is not."""
    self_forward: bool = False
    """All that a host sends to itself is forward."""

    @property
    def first(self) -> Packet:
        return self.packets[0][1]

    @property
    def last(self) -> Packet:
        return self.packets[-1][1]

    def sent_by_source(self, packet: Packet) -> bool:
        """Forward is what the source's address sent; the port counts only for a host that talks to itself."""
        if self.source[0] == self.destination[0]:
            return self.self_forward or self.source == (packet.src, packet.src_port)
        return self.source[0] == packet.src

    def add(self, packet: Packet, forward: bool) -> None:
        """Take the packet in, and see how far the connection has come towards its close."""
        segment = ((packet.src, packet.src_port), packet.seq, packet.ack, packet.payload, packet.window)
        self.repeated.append(packet.protocol == TCP and segment in self.seen)
        self.seen.add(segment)
        self.packets.append((forward, packet))
        if self.protocol != TCP or len(self.packets) == 1:
            return  # what the first packet of a row says of a close is counted, and not acted on
        if self.first_fin:
            self.ready = self.ready or packet.flags & FIN != 0
        elif packet.flags & FIN:
            self.both_fins = self.both_fins or {way for way, other in self.packets if other.flags & FIN} == {True, False}
        elif packet.flags & RST or (packet.flags & ACK and self.both_fins):
            self.ready = True

    @property
    def unanswered(self) -> bool:
        """An attempt: a SYN, and nothing but the source's own packets since, none of which gives up."""
        return (
            self.protocol == TCP
            and not self.continued
            and self.packets[0][0]
            and self.first.flags & SYN != 0
            and all(forward and not packet.flags & (FIN | RST) for forward, packet in self.packets)
        )


def opener(packet: Packet, connection: int, *, first_fin: bool = False, self_forward: bool = False) -> Flow:
    """A new flow: the packet's sender is its source, unless the packet is an answer to a SYN that was not seen."""
    ends = (packet.src, packet.src_port), (packet.dst, packet.dst_port)
    turned = packet.flags & (SYN | ACK) == SYN | ACK
    source, destination = ends[::-1] if turned else ends
    flow = Flow(source, destination, packet.protocol, connection, packet.ts_us, continued=False, seen=set())
    flow.first_fin, flow.self_forward = first_fin, self_forward
    flow.add(packet, not turned)
    return flow


Key = tuple[frozenset[End], int]

LANES = ("open", "closed", "attempt")


class NaiveTable:
    """Packets in by `feed`; ended flows gather in `ended`, in the order in which they end."""

    def __init__(
        self,
        *,
        flows: int = 1 << 20,
        idle_s: float = 120.0,
        closed_s: float = 5.0,
        attempt_s: float = 5.0,
        active_s: float = 120.0,
        expiry: bool = True,
        first_fin: bool = False,
        self_forward: bool = False,
    ) -> None:
        self.limit = flows
        self.wait_us = dict(zip(LANES, (round(s * 1e6) for s in (idle_s, closed_s, attempt_s)), strict=True))
        self.active_us = round(active_s * 1e6)
        self.expiry = expiry
        self.first_fin = first_fin
        self.self_forward = self_forward
        self.lanes: dict[str, dict[Key, Flow]] = {lane: {} for lane in LANES}
        """Live flows; each lane in the order in which its flows were last touched, attempts by their start."""
        self.clock_us: int | None = None
        self.steps_back = 0
        self.connections = 0
        self.ended: list[Flow] = []

    @property
    def live(self) -> int:
        return sum(len(lane) for lane in self.lanes.values())

    def feed(self, packets: Iterable[Packet]) -> None:
        for packet in packets:
            self._advance(packet.ts_us)
            if self.expiry:
                self.expire(self._clock() - 1)
            self._take(packet)

    def expire(self, now_us: int) -> None:
        """End what is due, the longest due first."""
        while (due := min(self._heads(), default=None)) is not None and due[0] <= now_us:
            self._finish(due[2], {"open": "idle"}.get(LANES[due[1]], LANES[due[1]]))

    def drain(self) -> None:
        """End all that lives, the idlest first."""
        while self.live:
            self._finish(self._idlest(), "input")

    def _clock(self) -> int:
        assert self.clock_us is not None
        return self.clock_us

    def _advance(self, ts_us: int) -> None:
        """The clock is the latest packet's, and follows one that is more than a minute behind."""
        if self.clock_us is None or ts_us > self.clock_us:
            self.clock_us = ts_us
        elif self.clock_us - ts_us > STEP_BACK_US:
            self.clock_us = ts_us
            self.steps_back += 1

    def _heads(self) -> Iterator[tuple[int, int, Key]]:
        """When the flow that waits longest in each lane is due; one from before the clock was set back is due at once."""
        for number, name in enumerate(LANES):
            for key, flow in self.lanes[name].items():
                since_us = flow.first.ts_us if name == "attempt" else flow.last.ts_us
                stale = since_us - self._clock() > STEP_BACK_US
                yield (self._clock() - 1 if stale else since_us + self.wait_us[name]), number, key
                break

    def _idlest(self) -> Key:
        heads = [(next(iter(self.lanes[name].items())), number) for number, name in enumerate(LANES) if self.lanes[name]]
        return min(heads, key=lambda head: (head[0][1].last.ts_us, head[1]))[0][0]

    def _find(self, key: Key) -> Flow | None:
        return next((lane[key] for lane in self.lanes.values() if key in lane), None)

    def _take(self, packet: Packet) -> None:
        key = frozenset({(packet.src, packet.src_port), (packet.dst, packet.dst_port)}), packet.protocol
        flow = self._find(key)
        if flow is None:
            if self.live == self.limit:
                self._finish(self._idlest(), "full")
            self._seat(key, self._open(packet))
        elif why := self._misfit(flow, packet):
            self._finish(key, why)
            self._seat(key, self._successor(flow, packet, why))
        else:
            flow.add(packet, flow.sent_by_source(packet))
            self._seat(key, flow)

    def _misfit(self, flow: Flow, packet: Packet) -> str:
        """Why the packet cannot join the flow that has its key, or nothing."""
        if flow.ready and packet.flags & SYN:
            return "reused"
        if flow.ready and self.first_fin:
            return "closed"
        if packet.ts_us - flow.first.ts_us > self.active_us:
            return "active"
        icmp = flow.protocol in (ICMP, ICMPV6)
        if icmp and packet.icmp_type != flow.first.icmp_type and packet.icmp_code != flow.first.icmp_code:
            return "icmp"
        return ""

    def _successor(self, flow: Flow, packet: Packet, why: str) -> Flow:
        """What the packet that did not fit begins: the connection's next row, or another flow."""
        talking = flow.protocol == UDP and packet.ts_us - flow.last.ts_us <= self.active_us
        if why != "active" or not (flow.protocol == TCP or talking):
            return self._open(packet)
        row = Flow(flow.source, flow.destination, flow.protocol, flow.connection, flow.began_us, True, flow.seen)
        row.first_fin, row.self_forward = self.first_fin, self.self_forward
        row.add(packet, row.sent_by_source(packet))
        return row

    def _open(self, packet: Packet) -> Flow:
        self.connections += 1
        return opener(packet, self.connections, first_fin=self.first_fin, self_forward=self.self_forward)

    def _seat(self, key: Key, flow: Flow) -> None:
        """Put a flow that was just touched at the end of its lane; an attempt keeps its place."""
        lane = "closed" if flow.both_fins or flow.ready else "attempt" if flow.unanswered else "open"
        if lane == "attempt" and key in self.lanes[lane]:
            return
        for other in self.lanes.values():
            other.pop(key, None)
        self.lanes[lane][key] = flow

    def _finish(self, key: Key, why: str) -> None:
        for lane in self.lanes.values():
            if key in lane:
                flow = lane.pop(key)
                flow.end = why
                self.ended.append(flow)
                return
        raise KeyError(key)
