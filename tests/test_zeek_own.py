"""netseq's own traffic with Zeek: found among flows, and kept out of a capture by the kernel's own compiler of filters."""

from __future__ import annotations

import socket
import struct

import numpy as np
import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from sensor.addresses import halves
from sensor.schema import FLOW, FlowBatch
from sensor.sinks.zeek_own import Endpoint, capture_filter, endpoints, foreign, is_own
from sensor.sources import bpf

ENDS = (Endpoint("127.0.0.1", 5556), Endpoint("2001:db8::5", 27761), Endpoint("10.0.0.2", 15571))
ETHERNET = 1


def flow(src: str, src_port: int, dest: str, dest_port: int, protocol: int = 6) -> tuple[object, ...]:
    row = np.zeros(1, FLOW)
    row["src_hi"], row["src_lo"] = halves(src)
    row["dst_hi"], row["dst_lo"] = halves(dest)
    row["src_port"], row["dst_port"], row["protocol"] = src_port, dest_port, protocol
    return row[0]  # type: ignore[no-any-return]  # numpy's row


CASES = [
    (("127.0.0.1", 40000, "127.0.0.1", 5556, 6), True),
    (("127.0.0.1", 5556, "127.0.0.1", 40000, 6), True),  # begun in the middle: the sides are the other way round
    (("127.0.0.1", 40000, "127.0.0.1", 5555, 6), False),
    (("127.0.0.1", 40000, "127.0.0.1", 5556, 17), False),
    (("10.0.0.1", 40000, "10.0.0.2", 5556, 6), False),
    (("2001:db8::9", 40000, "2001:db8::5", 27761, 6), True),
    (("2001:db8::9", 40000, "2001:db8::6", 27761, 6), False),
    (("10.0.0.1", 40000, "10.0.0.2", 15571, 6), True),
    (("10.0.0.1", 15571, "10.0.0.3", 80, 6), False),  # somebody who would like to be overlooked
]


def frame(src: str, src_port: int, dest: str, dest_port: int, protocol: int) -> bytes:
    network = IPv6(src=src, dst=dest) if ":" in src else IP(src=src, dst=dest)
    layer: type[Packet] = TCP if protocol == 6 else UDP
    return bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / network / layer(sport=src_port, dport=dest_port))


def passes(program: bytes, data: bytes) -> bool:
    """Run a filter of the kernel's (classic BPF) on a frame, by the manual's rules for what libpcap makes of ours."""
    code = list(struct.iter_unpack("=HBBI", program))
    accumulator = index = place = 0
    while True:
        opcode, true, false, k = code[place]
        place += 1
        kind, size = opcode & 0x07, {0x00: 4, 0x08: 2, 0x10: 1}[opcode & 0x18]
        if kind == 0x00:  # ld: absolute (0x20) or behind x (0x40)
            begin = k + (index if opcode & 0xE0 == 0x40 else 0)
            if begin + size > len(data):
                return False
            accumulator = int.from_bytes(data[begin : begin + size], "big")
        elif opcode == 0xB1:  # ldxb 4*([k]&0xf)
            index = 4 * (data[k] & 0xF)
        elif kind == 0x05:  # jumps: always, equal, greater, not below, any bit
            if opcode & 0xF0 == 0x00:
                place += k
                continue
            holds = {0x10: accumulator == k, 0x20: accumulator > k, 0x30: accumulator >= k, 0x40: bool(accumulator & k)}
            place += true if holds[opcode & 0xF0] else false
        else:
            assert kind == 0x06, f"an instruction that is not run here: {opcode:#x}"
            return int(k) > 0


@pytest.mark.parametrize(("ends", "own"), CASES)
def test_own_connections_are_found_by_either_side(ends: tuple[str, int, str, int, int], *, own: bool) -> None:
    flows = np.array([flow("192.0.2.1", 1, "192.0.2.2", 2), flow(*ends)], FLOW)
    assert is_own(flows, ENDS).tolist() == [False, own]


@pytest.mark.parametrize(("ends", "own"), CASES)
def test_the_capture_filter_says_the_same(ends: tuple[str, int, str, int, int], *, own: bool) -> None:
    program = bpf.compiled(capture_filter(ENDS), ETHERNET, None)
    assert passes(program, frame(*ends)) != own


def test_the_capture_filter_lets_everything_else_through() -> None:
    program = bpf.compiled(capture_filter(ENDS), ETHERNET, None)
    assert passes(program, bytes(Ether() / IP(src="127.0.0.1", dst="127.0.0.1") / ICMP()))
    assert capture_filter(()) == ""


def test_addresses_of_zeromq_give_hosts_and_ports() -> None:
    given = ["tcp://127.0.0.1:5556", "tcp://[2001:db8::5]:27761", "ipc:///tmp/x"]
    assert endpoints([*given, given[0]]) == ENDS[:2]


@pytest.mark.parametrize("everywhere", ["*", "0.0.0.0", "[::]"])  # noqa: S104  # nothing is bound
def test_a_socket_that_listens_everywhere_has_the_machines_addresses(everywhere: str) -> None:
    hosts = {end.host for end in endpoints([f"tcp://{everywhere}:15570"])}
    assert "127.0.0.1" in hosts
    for host in hosts:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        scope = (0, 0) if ":" in host else ()
        if not host.startswith("fe80"):  # which is bound with an interface only
            with socket.socket(family, socket.SOCK_DGRAM) as bound:
                bound.bind((host, 0, *scope))  # no address but the machine's own can be bound


def test_a_batch_keeps_its_foreign_flows_with_all_that_belongs_to_them() -> None:
    flows = np.array([flow("192.0.2.1", 1, "192.0.2.2", 2), flow(*CASES[0][0]), flow("192.0.2.3", 3, "192.0.2.4", 4)], FLOW)
    statistics = np.arange(6.0).reshape(3, 2)
    batch = FlowBatch(flows, ["a", "b", None], ["x", "y", "z"], ["1", "2", "3"], statistics)
    kept, left_out = foreign(batch, ENDS)
    assert left_out == 1
    assert kept.flows["src_port"].tolist() == [1, 3]
    assert (kept.uids, kept.labels, kept.details) == (["a", None], ["x", "z"], ["1", "3"])
    assert kept.statistics is not None
    assert kept.statistics.tolist() == [[0.0, 1.0], [4.0, 5.0]]
    assert foreign(kept, ENDS) == (kept, 0)
    assert foreign(FlowBatch(flows), ENDS)[0].uids is None


def test_a_name_gives_all_its_addresses() -> None:
    assert Endpoint("127.0.0.1", 5556) in endpoints(["tcp://localhost:5556"])


@pytest.mark.parametrize("address", ["tcp://127.0.0.1", "tcp://:5556", "tcp://127.0.0.1:0", "tcp://127.0.0.1:99999"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"not a ZeroMQ address: .*such as tcp://127\.0\.0\.1:5556"):
        endpoints([address])


def test_a_name_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no address is known for 'zeek\.invalid'"):
        endpoints(["tcp://zeek.invalid:5556"])
