"""The flows of the benchmark's office: who talks to whom, in how many packets, and what each packet looks like.

Everything is an array over all flows or all packets of a chunk; a packet's sequence numbers are running sums over the
packets before it in its flow. `synthetic` calls this chunk by chunk.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.frames import FIRST, FIRST_FRAGMENT_BYTES, LATER, PLANNED, WHOLE
from sensor.schema import ACK, FIN, ICMP, PSH, RST, SYN, TCP, UDP

WEB, STREAM, FRAGMENTED, DNS, PING, SCAN = range(6)
"""Kinds of flow: TCP; UDP datagrams both ways; the same in two fragments each; two datagrams; echoes; a SYN to a port."""
SHARES = (0.595, 0.08, 0.005, 0.20, 0.02, 0.10)
"""Of all flows. TCP flows are the longest: they take what is left of the packets."""
SHORTEST_WEB = 7
"""Packets: three of the handshake, one of data, three of the close."""
CLIENTS, SERVERS, RESOLVERS = 500, 700, 2
SERVICES = np.array([443, 443, 443, 443, 443, 443, 80, 80, 22, 25, 993, 445, 3389, 8080, 5432, 1883], np.uint16)
EPHEMERAL = 28_000
"""Source ports of a pair before they come round again, from 32,768 upwards as in Linux."""
LONGEST_PAUSE_US = 20_000_000

PLANNED_FLOW = np.dtype(
    [
        ("start_us", "<i8"),
        ("src", "<u4"),
        ("dst", "<u4"),
        ("src_port", "<u2"),
        ("dst_port", "<u2"),
        ("packets", "<u4"),
        ("vlan", "<u2"),
        ("outer_vlan", "<u2"),
        ("version", "u1"),
        ("kind", "u1"),
    ]
)
"""One flow to be written; src begins it."""


class Places(NamedTuple):
    """Where each packet stands: (packets,) each."""

    owner: NDArray[np.int64]
    """Row of its flow."""
    turn: NDArray[np.int64]
    """Packets of its flow before it."""
    last: NDArray[np.int64]
    """Packets of its flow after it."""
    begin: NDArray[np.int64]
    """Row of its flow's first packet."""


class Hosts:
    """The office's hosts and the pairs that talk, with a source port for each new flow of a pair."""

    def __init__(self, pairs: int, seed: int) -> None:
        random = np.random.default_rng([seed, 1 << 20])
        self.client = np.concatenate([random.integers(0, CLIENTS, pairs), np.arange(CLIENTS * RESOLVERS) % CLIENTS])
        self.server = np.concatenate([random.integers(0, SERVERS, pairs), SERVERS + np.arange(CLIENTS * RESOLVERS) // CLIENTS])
        self.popularity = 1 / (np.arange(pairs) + 10.0) ** 0.8
        self.popularity /= self.popularity.sum()
        self.flows = np.zeros(len(self.client), np.int64)
        self.pings = self.probes = 0

    def pairs_for(self, random: np.random.Generator, kinds: NDArray[np.int64]) -> NDArray[np.int64]:
        """Draw the pair of each flow: the popular ones more often, resolvers for DNS."""
        pairs = random.choice(len(self.popularity), len(kinds), p=self.popularity)
        asked = len(self.popularity) + random.integers(0, CLIENTS * RESOLVERS, len(kinds))
        return np.where(kinds == DNS, asked, pairs)

    def source_ports(self, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return a source port per flow, each pair counting upwards from a place of its own."""
        order = np.argsort(pairs, kind="stable")
        sorted_pairs = pairs[order]
        begins = np.flatnonzero(np.concatenate([[True], sorted_pairs[1:] != sorted_pairs[:-1]]))
        turn = np.arange(len(pairs)) - np.repeat(begins, np.diff(np.append(begins, len(pairs))))
        ports = np.empty(len(pairs), np.int64)
        ports[order] = 32_768 + (sorted_pairs * 977 + self.flows[sorted_pairs] + turn) % EPHEMERAL
        self.flows += np.bincount(pairs, minlength=len(self.flows))
        return ports


def draw_kinds(random: np.random.Generator, packets: int, packets_per_flow: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return kind and number of packets of each of `packets` / `packets_per_flow` flows; the numbers sum to `packets`.

    Raises ValueError where so few packets cannot be shared out: a few hundred always can.
    """
    flows = packets // packets_per_flow
    kinds = random.choice(len(SHARES), flows, p=SHARES).astype(np.int64)
    kinds[0] = WEB
    some = random.geometric(1 / packets_per_flow, flows)
    counts = np.select(
        [kinds == STREAM, kinds == FRAGMENTED, kinds == DNS, kinds == PING, kinds == SCAN],
        [2 + some, 2 + some // 4 * 2, 2, 2 + some // 6 * 2, random.integers(1, 3, flows)],
    )
    web = np.flatnonzero(kinds == WEB)
    left = packets - int(counts.sum()) - SHORTEST_WEB * len(web)
    if left < 0:
        raise ValueError(f"{packets} packets are too few for flows of {packets_per_flow} packets")
    weight = random.pareto(1.7, len(web)) + 0.05  # a heavy tail: a few flows carry most of the bytes
    counts[web] = SHORTEST_WEB + np.floor(weight / weight.sum() * left).astype(np.int64)
    counts[web[: packets - int(counts.sum())]] += 1
    return kinds, counts


def plan_flows(random: np.random.Generator, hosts: Hosts, packets: int, packets_per_flow: int) -> NDArray[np.void]:
    """Return PLANNED_FLOW rows whose packets sum to `packets`; start, version and tags are the caller's to fill."""
    kind, counts = draw_kinds(random, packets, packets_per_flow)
    flows = np.zeros(len(kind), PLANNED_FLOW)
    flows["kind"], flows["packets"] = kind, counts
    pairs = hosts.pairs_for(random, kind)
    flows["src"] = 0x0A01_0000 + hosts.client[pairs]  # 10.1/16
    flows["dst"] = 0xC612_0000 + hosts.server[pairs]  # 198.18/15: for benchmarks (RFC 2544)
    flows["src_port"] = hosts.source_ports(pairs)
    service = SERVICES[hosts.server[pairs] % len(SERVICES)]
    flows["dst_port"] = np.select([kind == DNS, kind == WEB], [np.uint16(53), service], np.uint16(443))
    _aim_pings(flows, hosts)
    _aim_scans(flows, hosts)
    return flows


def _aim_pings(flows: NDArray[np.void], hosts: Hosts) -> None:
    """Let one monitor ping host after host, each of them once: echoes have no port to tell two flows apart."""
    ping = np.flatnonzero(flows["kind"] == PING)
    flows["src"][ping] = 0x0A01_FFFE
    flows["dst"][ping] = 0x0A02_0000 + hosts.pings + np.arange(len(ping))
    flows["src_port"][ping], flows["dst_port"][ping] = 77, 0
    hosts.pings += len(ping)


def _aim_scans(flows: NDArray[np.void], hosts: Hosts) -> None:
    """Let four scanners try the ports of host after host, a thousand ports each."""
    scan = np.flatnonzero(flows["kind"] == SCAN)
    probe = hosts.probes + np.arange(len(scan))
    flows["src"][scan] = 0xCB00_7100 + probe % 4  # 203.0.113/24: documentation (RFC 5737)
    flows["dst"][scan] = 0x0A01_0000 + probe // 1000
    flows["src_port"][scan], flows["dst_port"][scan] = 40_000 + probe % 4, 1 + probe % 1000
    hosts.probes += len(scan)


def plan_packets(random: np.random.Generator, flows: NDArray[np.void], full_segment_bytes: int) -> NDArray[np.void]:
    """Return the PLANNED rows of all packets of `flows`, flow after flow."""
    places = _places(flows["packets"].astype(np.int64))
    plan = np.zeros(len(places.owner), PLANNED)
    kind = flows["kind"][places.owner]
    for name in ("vlan", "outer_vlan", "version"):
        plan[name] = flows[name][places.owner]
    plan["protocol"] = np.select([kind == PING, (kind == WEB) | (kind == SCAN)], [ICMP, TCP], UDP)
    _script_datagrams(random, plan, kind, places.turn)
    _script_web(random, plan, np.flatnonzero(kind == WEB), places, full_segment_bytes)
    _script_scans(plan, np.flatnonzero(kind == SCAN), places)
    _address(plan, flows, places)
    _number(random, plan, len(flows), places)
    plan["ts_us"] = flows["start_us"][places.owner] + _elapsed(random, plan, places)
    return plan


def _places(counts: NDArray[np.int64]) -> Places:
    owner = np.repeat(np.arange(len(counts)), counts)
    begin = (np.cumsum(counts) - counts)[owner]
    turn = np.arange(len(owner)) - begin
    return Places(owner, turn, counts[owner] - 1 - turn, begin)


def _script_datagrams(
    random: np.random.Generator, plan: NDArray[np.void], kind: NDArray[np.uint8], turn: NDArray[np.int64]
) -> None:
    """UDP and ICMP: who sends, how many bytes, which fragment."""
    many = len(plan)
    plan["reply"] = np.where(kind == STREAM, random.random(many) < 0.6, turn & 1)
    plan["reply"] &= turn > 0
    plan["payload_bytes"] = np.select(
        [kind == STREAM, kind == DNS, kind == PING],
        [random.integers(60, 1_240, many), 36 + 80 * turn, 56],
    )
    plan["datagram_bytes"] = plan["payload_bytes"]
    pieces = np.flatnonzero(kind == FRAGMENTED)
    later = turn[pieces] & 1
    rest = 200 + turn[pieces] // 2 * 131 % 900  # the same for both frames of a datagram
    plan["reply"][pieces] = turn[pieces] // 2 & 1
    plan["fragment"][pieces] = np.where(later, LATER, FIRST)
    plan["payload_bytes"][pieces] = np.where(later, rest, FIRST_FRAGMENT_BYTES - 8)
    plan["datagram_bytes"][pieces] = FIRST_FRAGMENT_BYTES - 8 + rest


def _script_web(
    random: np.random.Generator, plan: NDArray[np.void], rows: NDArray[np.int64], places: Places, full_segment_bytes: int
) -> None:
    """TCP: SYN, SYN-ACK, ACK; then requests, segments and bare ACKs; then the close, or a RST, or nothing."""
    owner, turn, last = places.owner[rows], places.turn[rows], places.last[rows]
    ending, draw = owner % 20, random.random(len(rows))
    request = (turn == 3) | (draw < 0.10)
    segment = ~request & (draw < 0.72)
    reply = segment ^ (owner % 10 == 3)  # one flow in ten uploads
    full = random.random(len(rows)) < 0.7
    size = np.where(full, full_segment_bytes, random.integers(40, full_segment_bytes, len(rows)))
    payload = np.select([request, segment], [random.integers(60, 600, len(rows)), size], 0)
    flags = np.where((payload > 0) & (request | ~full), PSH | ACK, ACK)
    closing = (last < 3) & (ending < 17)  # 17 of 20 close with FINs, two with a RST, one is cut off by the end
    reset = (last == 0) & (ending >= 17) & (ending < 19)
    bare = (turn < 3) | closing | reset
    plan["payload_bytes"][rows] = plan["datagram_bytes"][rows] = np.where(bare, 0, payload)
    plan["reply"][rows] = np.select([turn < 3, closing, reset], [turn == 1, last == 1, False], reply)
    plan["tcp_flags"][rows] = np.select(
        [turn == 0, turn == 1, closing & (last > 0), reset], [SYN, SYN | ACK, FIN | ACK, RST | ACK], np.where(bare, ACK, flags)
    )


def _script_scans(plan: NDArray[np.void], rows: NDArray[np.int64], places: Places) -> None:
    """A SYN; where there is a second packet, most ports are closed and one in sixteen is open."""
    turn = places.turn[rows]
    answer = np.where(places.owner[rows] % 16 == 0, SYN | ACK, RST | ACK)
    plan["tcp_flags"][rows] = np.where(turn == 0, SYN, answer)
    plan["reply"][rows] = turn


def _address(plan: NDArray[np.void], flows: NDArray[np.void], places: Places) -> None:
    reply = plan["reply"] == 1
    for near, far in (("src", "dst"), ("src_port", "dst_port")):
        own, other = flows[near][places.owner], flows[far][places.owner]
        plan[near], plan[far] = np.where(reply, other, own), np.where(reply, own, other)
    ping = plan["protocol"] == ICMP
    plan["src_port"][ping], plan["dst_port"][ping] = 77, places.turn[ping] // 2


def _number(random: np.random.Generator, plan: NDArray[np.void], flows: int, places: Places) -> None:
    """Sequence, acknowledgement, window and IP identification."""
    spent = plan["payload_bytes"].astype(np.int64) + ((plan["tcp_flags"] & (SYN | FIN)) > 0)  # SYN and FIN count one byte
    told = []
    for side in (0, 1):
        sent = np.where(plan["reply"] == side, spent, 0)
        before = np.cumsum(sent) - sent
        told.append(random.integers(0, 1 << 32, flows)[places.owner] + before - before[places.begin])
    plan["seq"] = np.where(plan["reply"] == 1, told[1], told[0]) & 0xFFFF_FFFF
    acknowledged = np.where(plan["reply"] == 1, told[0], told[1]) & 0xFFFF_FFFF
    plan["ack"] = np.where(plan["tcp_flags"] & ACK, acknowledged, 0)
    plan["window"] = random.integers(200, 65_536, flows)[places.owner] - random.integers(0, 200, len(plan))
    plan["ip_id"] = random.integers(0, 65_536, len(plan))
    later = np.flatnonzero(plan["fragment"] == LATER)
    plan["ip_id"][later] = plan["ip_id"][later - 1]


def _elapsed(random: np.random.Generator, plan: NDArray[np.void], places: Places) -> NDArray[np.int64]:
    """Microseconds since the flow's first packet: bursts of one sender, a round trip where the sender changes, pauses."""
    many = len(plan)
    changed = np.concatenate([[False], plan["reply"][1:] != plan["reply"][:-1]])
    gaps = random.exponential(60.0, many) + np.where(changed, random.exponential(15_000.0, many), 0.0)
    paused = (random.random(many) < np.minimum(0.04, 4 / (places.turn + places.last + 1))) & (plan["fragment"] == WHOLE)
    gaps[paused] += np.minimum(random.lognormal(13.3, 1.6, int(paused.sum())), LONGEST_PAUSE_US)
    since: NDArray[np.int64] = np.cumsum(gaps.astype(np.int64) + 1)
    return since - since[places.begin]
