"""The benchmark's captures hold what they say, by dpkt's reading."""

from __future__ import annotations

import socket
import struct
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

import dpkt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import synthetic
from benchmarks.frames import PLANNED
from benchmarks.recorded import Absent, find_collection, write_recorded
from benchmarks.synthetic import Chunk, Contents, Flood, Shape, in_time_order

SMALL = Shape(packets=24_000, packets_per_flow=16, seed=3)


class Seen(NamedTuple):
    """What dpkt reads in a capture."""

    stamps: list[float]
    ips: list[dpkt.ip.IP | dpkt.ip6.IP6]
    tags: list[int]
    file_bytes: int


def read(path: Path) -> Seen:
    stamps, ips, tags, size = [], [], [], 24
    with path.open("rb") as file:
        for stamp, frame in dpkt.pcap.Reader(file):
            ethernet = dpkt.ethernet.Ethernet(frame)
            stamps.append(stamp)
            ips.append(ethernet.data)
            tags.append(len(getattr(ethernet, "vlan_tags", [])))
            size += 16 + len(frame)
    return Seen(stamps, ips, tags, size)


def is_later_fragment(ip: dpkt.ip.IP | dpkt.ip6.IP6) -> bool:
    if isinstance(ip, dpkt.ip.IP):
        return bool(ip.offset)
    fragments = [header for header in ip.all_extension_headers if isinstance(header, dpkt.ip6.IP6FragmentHeader)]
    return any(header.frag_off > 0 for header in fragments)


def key(ip: dpkt.ip.IP | dpkt.ip6.IP6) -> tuple[object, ...]:
    """Unordered five-tuple; echoes by their addresses."""
    protocol = ip.p
    ports = struct.unpack("!HH", bytes(ip.data)[:4]) if protocol in (6, 17) else (0, 0)
    return (protocol, *sorted([(ip.src, ports[0]), (ip.dst, ports[1])]))


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> tuple[Seen, Contents]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "CHUNK_FLOWS", 400)  # four chunks, so that packets wait from one to the next
        patch.setattr(synthetic, "PACK_PACKETS", 700)
        path, contents = synthetic.write(SMALL, tmp_path_factory.mktemp("office"))
    return read(path), contents


def test_capture_has_the_packets_and_bytes_it_promises_in_time_order(office: tuple[Seen, Contents]) -> None:
    seen, contents = office
    assert len(seen.ips) == contents.packets == SMALL.packets
    assert contents.bytes == seen.file_bytes
    assert seen.stamps == sorted(seen.stamps)


def test_capture_has_one_five_tuple_per_flow(office: tuple[Seen, Contents]) -> None:
    seen, contents = office
    keys = Counter(key(ip) for ip in seen.ips if not is_later_fragment(ip))
    assert len(keys) == contents.flows == SMALL.packets // SMALL.packets_per_flow


def test_capture_has_the_shares_of_its_shape(office: tuple[Seen, Contents]) -> None:
    seen, contents = office
    six = sum(isinstance(ip, dpkt.ip6.IP6) for ip in seen.ips)
    assert six == contents.ipv6_packets
    assert six / len(seen.ips) == pytest.approx(SMALL.ipv6_share, abs=0.06)  # flows are drawn, and a few are long
    assert sum(count > 0 for count in seen.tags) == contents.tagged_packets
    assert contents.tagged_packets / len(seen.ips) == pytest.approx(SMALL.vlan_share, abs=0.06)
    assert max(seen.tags) == 2
    assert 0 < sum(is_later_fragment(ip) for ip in seen.ips) == contents.fragments / 2


def test_ipv4_headers_have_the_right_length_and_checksum(office: tuple[Seen, Contents]) -> None:
    for ip in office[0].ips:
        if isinstance(ip, dpkt.ip.IP):
            header = bytes(ip.pack_hdr())
            assert dpkt.in_cksum(header) == 0
            assert ip.len == len(header) + len(bytes(ip.data))
        else:
            assert ip.plen == len(bytes(ip)) - 40


def test_tcp_sequence_numbers_count_what_was_sent(office: tuple[Seen, Contents]) -> None:
    following: dict[tuple[object, ...], int] = {}
    checked = 0
    for ip in office[0].ips:
        if ip.p != 6:
            continue
        tcp = ip.data
        sender = (ip.src, tcp.sport, ip.dst, tcp.dport)
        if sender in following:
            assert tcp.seq == following[sender]
            checked += 1
        spent = len(tcp.data) + bool(tcp.flags & (dpkt.tcp.TH_SYN | dpkt.tcp.TH_FIN))
        following[sender] = (tcp.seq + spent) % (1 << 32)
        if tcp.flags & dpkt.tcp.TH_ACK:
            assert tcp.ack == following.get((ip.dst, tcp.dport, ip.src, tcp.sport), tcp.ack)
    assert checked > SMALL.packets / 2


def test_some_host_scans_many_ports_and_most_tcp_flows_close(office: tuple[Seen, Contents]) -> None:
    ports = defaultdict(set)
    flags: dict[tuple[object, ...], int] = defaultdict(int)
    for ip in office[0].ips:
        if ip.p == 6:
            flags[key(ip)] |= ip.data.flags
            if ip.data.flags == dpkt.tcp.TH_SYN:
                ports[ip.src, ip.dst].add(ip.data.dport)
    assert max(map(len, ports.values())) > 30
    long = [seen for seen in flags.values() if seen & dpkt.tcp.TH_PUSH]
    assert sum(bool(seen & dpkt.tcp.TH_FIN) for seen in long) / len(long) == pytest.approx(0.85, abs=0.05)


def test_fragments_reassemble_to_the_length_in_the_udp_header(office: tuple[Seen, Contents]) -> None:
    pieces: dict[tuple[bytes, bytes, int], list[dpkt.ip.IP]] = defaultdict(list)
    for ip in office[0].ips:
        if isinstance(ip, dpkt.ip.IP) and (ip.mf or ip.offset):
            pieces[ip.src, ip.dst, ip.id].append(ip)
    assert pieces
    for first, later in pieces.values():
        assert first.mf
        assert later.offset * 8 == len(bytes(first.data))
        assert first.data.ulen == len(bytes(first.data)) + len(bytes(later.data))


def test_flood_has_as_many_distinct_flows_as_asked_for(tmp_path: Path) -> None:
    path, contents = synthetic.write(Flood(flows=9_000), tmp_path)
    seen = read(path)
    assert len({key(ip) for ip in seen.ips}) == contents.flows == 9_000
    assert len(seen.ips) == contents.packets
    assert {socket.inet_ntoa(ip.dst) for ip in seen.ips if ip.p == 6 and ip.data.flags == dpkt.tcp.TH_SYN} == {"198.19.0.1"}


def test_same_seed_writes_the_same_bytes_and_a_written_capture_is_used_again(tmp_path: Path) -> None:
    shape = Shape(packets=2_000)
    one, contents = synthetic.write(shape, tmp_path)
    two, _ = synthetic.write(shape, tmp_path / "again")
    other, _ = synthetic.write(shape._replace(seed=9), tmp_path)
    assert one.read_bytes() == two.read_bytes() != other.read_bytes()
    written = one.stat().st_mtime_ns
    assert synthetic.write(shape, tmp_path) == (one, contents)
    assert one.stat().st_mtime_ns == written


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 300), max_size=12), max_size=6))
def test_chunks_come_out_in_time_order_and_whole(offsets: list[list[int]]) -> None:
    planned = []
    for number, chunk in enumerate(offsets):
        rows = np.zeros(len(chunk), PLANNED)
        rows["ts_us"] = np.array(chunk, np.int64) + 100 * number
        planned.append(Chunk(rows, 100 * (number + 1)))
    out = [int(stamp) for rows in in_time_order(iter(planned)) for stamp in rows["ts_us"]]
    assert out == sorted(int(stamp) for chunk in planned for stamp in chunk.plan["ts_us"])


def test_captures_of_a_changed_writer_are_deleted(tmp_path: Path) -> None:
    old = tmp_path / "shape-00000000-11111111.pcap"
    old.write_bytes(b"")
    kept, _ = synthetic.write(Shape(packets=500), tmp_path)
    again, _ = synthetic.write(Shape(packets=600), tmp_path)
    assert not old.exists()
    assert kept.exists()
    assert again.exists()


def test_recorded_captures_come_one_after_the_other_and_again_in_each_round(tmp_path: Path) -> None:
    collection = tmp_path / "collection"
    large, contents = synthetic.write(Shape(packets=1_200, seed=1), collection)
    second, more = synthetic.write(Shape(packets=1_500, seed=2), collection)
    synthetic.write(Shape(packets=500, seed=3), collection)  # too few packets to be taken
    files = sorted([large, second])
    path, written = write_recorded(collection, tmp_path, enough_packets=5_000)
    assert (written.files, written.packets, written.rounds) == (2, 2 * (contents.packets + more.packets), 2)
    seen, parts = read(path), [read(file) for file in files]
    assert seen.file_bytes == written.bytes == path.stat().st_size
    assert [bytes(ip) for ip in seen.ips] == [bytes(ip) for part in parts * 2 for ip in part.ips]
    gaps = np.diff(seen.stamps)
    assert gaps.min() >= 0
    assert sorted(gaps[gaps > 100]) == pytest.approx([200])  # one silence, longer than every time-out


def test_collection_that_is_absent_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETSEQ_DATA", str(tmp_path))
    with pytest.raises(Absent, match="set NETSEQ_DATA"):
        find_collection()
    with pytest.raises(Absent, match="no capture of 1000 packets"):
        write_recorded(tmp_path, tmp_path / "out")
