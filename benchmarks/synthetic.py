"""The benchmark's own traffic: captures that anyone can write again, byte for byte, from a shape and a seed.

`Shape` is an office and its servers: TCP with handshakes, data both ways and closes; DNS; UDP streams, some in fragments;
pings; port scans. `Flood` is the worst case for a flow table: millions of flows of one or two packets, half of them a
SYN flood. Flows are planned in chunks with a random generator of their own, packets that outlast their chunk are carried
over, so memory stays bounded and the file comes out in time order. `write` keeps the file under its parameters' hash and
hands back what is in it, so that whoever reads it can be held to the counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.frames import PCAP_HEADER, PLANNED, pack
from benchmarks.store import folder, forget_other_editions, place
from benchmarks.traffic import Hosts, plan_flows, plan_packets
from sensor.schema import ACK, RST, SYN, TCP, UDP

CHUNK_FLOWS = 16_384
PACK_PACKETS = 8_192
START_US = 1_700_000_000_000_000


class Shape(NamedTuple):
    """A capture of ordinary traffic."""

    packets: int = 2_000_000
    packets_per_flow: int = 16
    packets_per_s: int = 10_000
    full_segment_bytes: int = 980
    """Payload of the longest TCP segments; the default keeps 2 million packets under 1 GB."""
    ipv6_share: float = 0.15
    vlan_share: float = 0.10
    pairs: int = 3_000
    seed: int = 2


class Flood(NamedTuple):
    """A capture of as many flows as `flows` says, no two alike: SYNs without answer, SYNs answered by RST, lone datagrams."""

    flows: int = 5_000_000
    flows_per_s: int = 50_000
    seed: int = 5


class Contents(msgspec.Struct):
    """What a written capture holds."""

    packets: int = 0
    flows: int = 0
    bytes: int = 0
    ipv6_packets: int = 0
    tagged_packets: int = 0
    fragments: int = 0
    tcp_packets: int = 0
    udp_packets: int = 0
    first_us: int = 0
    last_us: int = 0

    def add(self, plan: NDArray[np.void], file_bytes: int) -> None:
        """Count the packets of a packed plan."""
        self.packets += len(plan)
        self.bytes += file_bytes
        self.ipv6_packets += int((plan["version"] == 6).sum())
        self.tagged_packets += int((plan["vlan"] > 0).sum())
        self.fragments += int((plan["fragment"] > 0).sum())
        self.tcp_packets += int((plan["protocol"] == TCP).sum())
        self.udp_packets += int((plan["protocol"] == UDP).sum())
        self.first_us = self.first_us or int(plan["ts_us"][0])
        self.last_us = int(plan["ts_us"][-1])


def write(shape: Shape | Flood, where: Path | None = None) -> tuple[Path, Contents]:
    """Write the capture of `shape` unless it is there already. Returns its path and what it holds."""
    kind = type(shape).__name__.lower()
    path = place(where or folder(), kind, shape, ("synthetic.py", "traffic.py", "frames.py"))
    told = path.with_suffix(".json")
    if path.exists() and told.exists():
        return path, msgspec.json.decode(told.read_bytes(), type=Contents)
    forget_other_editions(path)
    contents = Contents()
    unfinished = path.with_suffix(".part")
    with unfinished.open("wb") as file:
        file.write(PCAP_HEADER)
        contents.bytes = len(PCAP_HEADER)
        for plan in in_time_order(chunks(shape, contents)):
            for begin in range(0, len(plan), PACK_PACKETS):
                part = plan[begin : begin + PACK_PACKETS]
                packed = pack(part)
                file.write(packed.data)
                contents.add(part, len(packed))
    unfinished.rename(path)
    told.write_bytes(msgspec.json.encode(contents))
    return path, contents


class Chunk(NamedTuple):
    """Packets of some flows, in any order, and a time before which no later chunk has a packet."""

    plan: NDArray[np.void]
    until_us: int


def in_time_order(planned: Iterator[Chunk]) -> Iterator[NDArray[np.void]]:
    """Yield rows sorted by time over all chunks; what outlasts its chunk waits for the next one."""
    waiting = np.empty(0, PLANNED)
    for chunk in planned:
        rows = np.concatenate([waiting, chunk.plan])
        rows = rows[np.argsort(rows["ts_us"], kind="stable")]
        cut = int(np.searchsorted(rows["ts_us"], chunk.until_us))
        waiting = rows[cut:]
        if cut:
            yield rows[:cut]
    if len(waiting):
        yield waiting


def chunks(shape: Shape | Flood, contents: Contents) -> Iterator[Chunk]:
    """Plan the packets of `shape`, chunk by chunk, and count its flows in `contents`."""
    return _office(shape, contents) if isinstance(shape, Shape) else _flood(shape, contents)


def _office(shape: Shape, contents: Contents) -> Iterator[Chunk]:
    hosts = Hosts(shape.pairs, shape.seed)
    clock_us = START_US
    for number, begin in enumerate(range(0, shape.packets, CHUNK_FLOWS * shape.packets_per_flow)):
        packets = min(CHUNK_FLOWS * shape.packets_per_flow, shape.packets - begin)
        random = np.random.default_rng([shape.seed, number])
        until_us = clock_us + packets * 1_000_000 // shape.packets_per_s
        flows = plan_flows(random, hosts, packets, shape.packets_per_flow)
        flows["start_us"] = np.sort(random.integers(clock_us, until_us, len(flows)))
        flows["version"] = np.where(random.random(len(flows)) < shape.ipv6_share, 6, 4)
        tagged = random.random(len(flows)) < shape.vlan_share
        flows["vlan"] = np.where(tagged, 10 + flows["src"] % 8, 0)
        flows["outer_vlan"] = np.where(tagged & (flows["src"] % 8 == 0), 100, 0)
        contents.flows += len(flows)
        yield Chunk(plan_packets(random, flows, shape.full_segment_bytes), until_us)
        clock_us = until_us


def _flood(shape: Flood, contents: Contents) -> Iterator[Chunk]:
    clock_us = START_US
    for number, begin in enumerate(range(0, shape.flows, 4 * CHUNK_FLOWS)):
        count = min(4 * CHUNK_FLOWS, shape.flows - begin)
        random = np.random.default_rng([shape.seed, number])
        until_us = clock_us + count * 1_000_000 // shape.flows_per_s
        index = np.arange(begin, begin + count, dtype=np.uint64)
        first = np.zeros(count, PLANNED)
        first["ts_us"] = np.sort(random.integers(clock_us, until_us, count))
        first["src"] = 0x0A00_0000 + (index * 0x9E37_79B1) % (1 << 24)  # an odd factor: 2^24 different addresses in 10/8
        first["src_port"] = 1024 + index % 60_000
        first["version"] = 4
        kind = random.choice(4, count, p=[0.5, 0.2, 0.2, 0.1])  # SYN, SYN and RST, datagram, datagram and answer
        datagram = kind >= 2
        first["dst"] = np.where(datagram, 0xC612_0000 + index % 1000, 0xC613_0001)  # 198.18/15 (RFC 2544); one victim
        first["dst_port"] = np.where(datagram, 9_000 + index % 7, 80)
        first["protocol"] = np.where(datagram, UDP, TCP)
        first["tcp_flags"] = np.where(datagram, 0, SYN)
        first["payload_bytes"] = first["datagram_bytes"] = np.where(datagram, 32, 0)
        first["window"], first["seq"] = 64_240, random.integers(0, 1 << 32, count)
        contents.flows += count
        yield Chunk(np.concatenate([first, _answers(first[kind % 2 == 1])]), until_us)
        clock_us = until_us


def _answers(asked: NDArray[np.void]) -> NDArray[np.void]:
    answers = asked.copy()
    answers["ts_us"] += 200
    for name in ("src", "src_port"):
        other = name.replace("src", "dst")
        answers[name], answers[other] = asked[other], asked[name]
    answers["tcp_flags"] = np.where(asked["protocol"] == TCP, RST | ACK, 0)
    answers["seq"], answers["ack"], answers["reply"] = 0, asked["seq"] + 1, 1
    return answers
