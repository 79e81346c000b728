"""Live capture on a wire between two network namespaces: every frame that was sent is heard or counted, as it was sent."""

from __future__ import annotations

import gzip
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from captures_read import frames_of
from conftest import DATA
from namespaces import PATIENCE_S, Wire, run, wait_until, wire
from ring_traffic import TCP, UDP, Heard, Tag, dropped, flow_of, frame, listening, mixture, write

from sensor.assembly import Assembly
from sensor.config import Settings
from sensor.schema import FrameBlock
from sensor.sources.pcap import CaptureSource
from sensor.sources.ring import InterfaceFailed, RingSource, check
from sensor.sources.ring_socket import Interface

pytestmark = pytest.mark.root

SMALL_MIB = 8


@pytest.fixture(scope="module")
def line() -> Iterator[Wire]:
    with wire() as laid:
        yield laid


@pytest.mark.parametrize("options", [("--topspeed",), ("--topspeed", "-K"), ("--multiplier=1",)])
def test_every_frame_is_heard_with_the_bytes_of_the_file(line: Wire, tmp_path: Path, options: tuple[str, ...]) -> None:
    capture = write(tmp_path / "sent.pcap", mixture(), apart_us=1000)
    with listening(line.receiver, line.far) as heard:
        begin_us = time.time_ns() // 1000
        sent = line.send(capture, *options)
        heard.wait_for(sent)
        end_us = time.time_ns() // 1000
    want = frames_of(CaptureSource([capture]))
    assert dropped(heard.source) == 0
    assert heard.bytes == [one.data for one in want]
    assert [one.wire_bytes for one in heard.frames] == [one.wire_bytes for one in want]
    assert heard.source.wire_bytes == sum(one.wire_bytes for one in want)
    stamps = [one.ts_us for one in heard.frames]
    assert begin_us <= stamps[0] <= stamps[-1] <= end_us
    assert stamps == sorted(stamps)
    if options == ("--multiplier=1",):
        assert stamps[-1] - stamps[0] >= 0.9 * (want[-1].ts_us - want[0].ts_us)


@pytest.mark.slow
def test_what_is_heard_is_what_tcpdump_writes_and_gives_the_same_flows(line: Wire, tmp_path: Path) -> None:
    if not shutil.which("tcpdump"):
        pytest.skip("needs tcpdump")
    sent, written = tmp_path / "sent.pcap", tmp_path / "written.pcap"
    sent.write_bytes(gzip.decompress((DATA / "demo.pcap.gz").read_bytes()))
    tagged = write(tmp_path / "tagged.pcap", mixture(100))
    command = ["ip", "netns", "exec", line.receiver.name, "tcpdump", "-i", line.far, "-Z", "root", "-U", "-B", "65536"]
    assembly, flows = Assembly(Settings()), []
    source = line.receiver.call(lambda: RingSource([line.far]))
    with subprocess.Popen([*command, "-w", str(written)], stderr=subprocess.PIPE, text=True) as tcpdump, ExitStack() as stack:
        assert tcpdump.stderr is not None
        stack.callback(tcpdump.kill)
        assert "listening" in tcpdump.stderr.readline()
        count = line.send(sent) + line.send(tagged)
        got = []
        for block in source:
            got += [block.data[row[1] : row[1] + row[2]].tobytes() for row in block.frames.tolist()]
            flows += [batch.flows.copy() for batch in assembly.feed(block)]
            if source.frames == count:
                break
        wait_until(lambda: len(CaptureSource([written]).files) > 0 and counted(written) == count, "tcpdump's file")
        tcpdump.send_signal(signal.SIGINT)
        assert f"{count} packets captured" in tcpdump.communicate(timeout=PATIENCE_S)[1]
    source.close()
    flows += [batch.flows.copy() for batch in assembly.drain()]
    replayed = Assembly(Settings())
    again = [batch.flows.copy() for block in CaptureSource([written]) for batch in replayed.feed(block)]
    again += [batch.flows.copy() for batch in replayed.drain()]
    assert got == [one.data for one in frames_of(CaptureSource([written]))]
    assert summary(flows) == summary(again)
    assert sum(summary(flows).values()) > 300


def counted(path: Path) -> int:
    return sum(len(block.frames) for block in CaptureSource([path]))


def summary(batches: list[np.ndarray]) -> Counter[tuple[object, ...]]:
    """Flows by hosts, ports, end, and the packets and bytes of each side."""
    names = ["src_lo", "dst_lo", "src_port", "dst_port", "protocol", "conn_state", "end"]
    return Counter(
        (
            *(row[name].item() for name in names),
            *(row[side][what].item() for side in ("fwd", "bwd") for what in ("packets", "ip_bytes")),
        )
        for batch in batches
        for row in batch
    )


def test_a_reader_that_is_too_slow_loses_only_what_the_kernel_counts(line: Wire, tmp_path: Path) -> None:
    capture = write(tmp_path / "sent.pcap", [frame(n, size=1000) for n in range(10_000)])
    source = line.receiver.call(lambda: RingSource([line.far], ring_mib=4))
    sent = line.send(capture)
    source.stop()
    heard = Heard(line.receiver, source)
    heard.finish()
    assert len(heard.frames) + dropped(source) == sent == 10_000
    assert 3000 < len(heard.frames) < 5000
    assert [flow_of(data) for data in heard.bytes] == list(range(len(heard.frames)))
    assert source.counters()[f"ring_freezes.{line.far}"] > 0
    source.close()
    assert len(heard.frames) + dropped(source) == sent


@pytest.mark.slow
def test_a_reader_that_is_held_up_for_seconds_loses_nothing_of_light_traffic(line: Wire, tmp_path: Path) -> None:
    capture = write(tmp_path / "sent.pcap", [frame(n) for n in range(300)])
    source = line.receiver.call(lambda: RingSource([line.far]))
    sent = line.send(capture, "--pps=100")
    source.stop()
    heard = Heard(line.receiver, source)
    heard.finish()
    source.close()
    assert (len(heard.frames), dropped(source)) == (sent, 0)


def test_a_ring_that_was_full_goes_on_when_it_is_read(line: Wire, tmp_path: Path) -> None:
    flood = write(tmp_path / "flood.pcap", [frame(n, size=1000) for n in range(10_000)])
    fits = write(tmp_path / "fits.pcap", [frame(n, size=1000) for n in range(1000)])
    source = line.receiver.call(lambda: RingSource([line.far], ring_mib=4))
    sent = line.send(flood)
    heard = Heard(line.receiver, source)
    heard.wait_for(sent)
    lost = dropped(source)
    assert lost > 0
    for _ in range(5):  # more than the ring, in pieces that fit in it however slow the reader is
        sent += line.send(fits)
        heard.wait_for(sent)
    heard.finish()
    source.close()
    assert (len(heard.frames), dropped(source)) == (sent - lost, lost)


def test_stop_hands_over_what_the_ring_holds_and_ends(line: Wire, tmp_path: Path) -> None:
    capture = write(tmp_path / "sent.pcap", [frame(n) for n in range(500)])
    source = line.receiver.call(lambda: RingSource([line.far], block_ms=200))
    sent = line.send(capture)
    source.stop()
    assert line.send(capture) == sent
    blocks = list(line.receiver.call(lambda: [len(block.frames) for block in source]))
    assert sent <= sum(blocks) <= 2 * sent  # it turns deaf when it is read next
    assert list(source) == []
    source.close()
    source.close()
    source.stop()


def test_a_stopped_source_turns_deaf_under_load(line: Wire, tmp_path: Path) -> None:
    capture = write(tmp_path / "sent.pcap", [frame(n) for n in range(1000)])
    with listening(line.receiver, line.far) as heard:
        sending = line.sender.begin(lambda: line.send(capture, "--pps=5000", "--loop=10"))
        heard.wait_for(500)
        heard.finish()
        assert len(heard.frames) < 10_000
        sending.result(PATIENCE_S)


def test_silence_gives_empty_blocks(line: Wire) -> None:
    source = line.receiver.call(lambda: RingSource([line.far], wait_s=0.01, ring_mib=SMALL_MIB))
    blocks: list[FrameBlock] = []
    begin = time.monotonic()
    for block in source:
        blocks.append(block)
        if len(blocks) == 5:
            break
    assert 0.05 <= time.monotonic() - begin < PATIENCE_S
    assert all(len(block.frames) == 0 for block in blocks)
    source.close()


TAGS = [[], [Tag(0x8100, 5)], [Tag(0x8100, 6)], [Tag(0x88A8, 7), Tag(0x8100, 5)]]


class Kind(NamedTuple):
    n: int
    tcp: bool
    v6: bool
    tags: list[Tag]


FILTERS: dict[str, Callable[[Kind], bool]] = {
    "": lambda kind: True,
    "tcp": lambda kind: kind.tcp and len(kind.tags) < 2,  # as with tcpdump, live: the kernel took one tag out
    "udp port 53": lambda kind: not kind.tcp and kind.n % 3 > 0 and len(kind.tags) < 2,
    "ip6": lambda kind: kind.v6 and len(kind.tags) < 2,
    "vlan 5 and tcp": lambda kind: kind.tcp and kind.tags == TAGS[1],
    "vlan and vlan 5": lambda kind: kind.tags == TAGS[3],
    "not vlan": lambda kind: not kind.tags,
    "vlan 5 and tcp port 443": lambda kind: kind.tcp and kind.tags == TAGS[1] and kind.n % 3 == 0,
    "greater 1000": lambda kind: kind.n % 2 == 0,
    "inbound": lambda kind: True,
}


@pytest.mark.parametrize("expression", FILTERS)
def test_a_filter_lets_through_what_it_says(line: Wire, tmp_path: Path, expression: str) -> None:
    sorts = [(tcp, v6, tags) for tcp in (True, False) for v6 in (False, True) for tags in TAGS]
    kinds = [Kind(n, *sort) for n, sort in enumerate(sorts * 6)]
    frames = [
        frame(
            kind.n,
            protocol=TCP if kind.tcp else UDP,
            v6=kind.v6,
            tags=kind.tags,
            port=53 if kind.n % 3 else 443,
            size=100 if kind.n % 2 else 1200,
        )
        for kind in kinds
    ]
    wanted = [data for kind, data in zip(kinds, frames, strict=True) if FILTERS[expression](kind)]
    capture = write(tmp_path / "sent.pcap", frames)
    source = line.receiver.call(lambda: RingSource([line.far], filter=expression, ring_mib=SMALL_MIB))
    line.send(capture)
    source.stop()
    heard = Heard(line.receiver, source)
    heard.finish()
    source.close()
    assert heard.bytes == wanted
    assert dropped(source) == 0


def test_a_filter_that_does_not_compile_is_told_with_the_expression(line: Wire) -> None:
    listens: list[Callable[[], object]] = [
        lambda: RingSource([line.far], filter="tcp prot 80"),
        lambda: check([line.far], "tcp prot 80"),
    ]
    for listen in listens:
        with pytest.raises(InterfaceFailed, match=r"far0: the filter 'tcp prot 80' does not compile: .*syntax error") as told:
            line.receiver.call(listen)
        assert "\n" not in str(told.value)


def test_an_interface_that_does_not_exist_is_told_with_those_that_do(line: Wire) -> None:
    listens: list[Callable[[], object]] = [lambda: RingSource(["eht0"]), lambda: check(["eht0"])]
    for listen in listens:
        with pytest.raises(InterfaceFailed, match="there is no interface 'eht0': there are lo, far0"):
            line.receiver.call(listen)
    for name in ("", "a name that is far too long", "nul\0"):
        with pytest.raises(InterfaceFailed, match="there is no interface"):
            check([name])
    for names in ((), ("lo", "lo")):
        with pytest.raises(InterfaceFailed, match="name each interface once"):
            RingSource(names)


def test_a_link_layer_that_is_not_understood_is_told() -> None:
    with pytest.raises(InterfaceFailed, match=r"can0: its link layer \(ARPHRD 280\) is not understood"):
        _ = Interface("can0", 3, True, 280).link_type


def test_a_ring_larger_than_the_memory_is_refused_in_one_line(line: Wire) -> None:
    with pytest.raises(InterfaceFailed, match=r"far0: the kernel gives no ring of 16777216 MiB"):
        line.receiver.call(lambda: RingSource([line.far], ring_mib=1 << 24))


def test_check_tells_what_is_there_and_whether_it_is_up(line: Wire) -> None:
    found = line.receiver.call(lambda: check(["lo", line.far], "tcp"))
    assert [(interface.name, interface.up, interface.link_type) for interface in found] == [
        ("lo", False, 1),
        (line.far, True, 1),
    ]


def test_without_the_right_to_capture_the_missing_capability_is_named() -> None:
    program = "from sensor.sources.ring import *\ntry:\n check(['lo'], '')\nexcept InterfaceFailed as e:\n print(e)"
    said = run("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--", sys.executable, "-c", program)
    assert "capturing needs the capability CAP_NET_RAW" in said
    assert len(said.splitlines()) == 1


def test_cap_net_raw_is_all_that_capturing_needs(line: Wire) -> None:
    program = """
from sensor.sources.ring import fanned_out
sources = fanned_out(["far0"], 2, filter="vlan 5 and tcp", ring_mib=8)
print([source.listening for source in sources], sources[0].counters()["interfaces_up"])
"""
    limited = ("setpriv", "--bounding-set=-all,+net_raw", "--inh-caps=-all", "--", sys.executable, "-c", program)
    assert line.receiver.run(*limited) == "[['far0'], ['far0']] 1\n"


def test_loopback_hears_each_packet_once(line: Wire) -> None:
    space = line.sender
    space.run("ip", "link", "set", "lo", "up")
    with listening(space, "lo", ring_mib=SMALL_MIB) as heard:

        def send() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as to:
                for n in range(50):
                    to.sendto(b"%03d" % n, ("127.0.0.1", 9))

        space.call(send)
        wait_until(lambda: any(data.endswith(b"049") for data in heard.bytes), "the last datagram")
    datagrams = [data[42:] for data in heard.bytes if data[23] == UDP]
    assert datagrams == [b"%03d" % n for n in range(50)]
    assert all(one.link_type == 1 for one in heard.frames)


THROUGH_TUN = """
import fcntl, pathlib, socket, struct, time
with open("/dev/net/tun", "r+b", buffering=0) as tun, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as to:
    fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", b"tun0", 0x1001))  # TUNSETIFF, IFF_TUN without a header
    until = time.monotonic() + 30
    while pathlib.Path("/sys/class/net/tun0/operstate").read_text() == "down\\n" and time.monotonic() < until:
        time.sleep(0.01)  # what is sent before the kernel has seen the other end is lost
    for n in range(5):
        to.sendto(b"x%d" % n, ("10.9.9.2", 9))
"""


def test_a_tunnels_packets_begin_with_the_ip_header(line: Wire) -> None:
    try:
        line.sender.run("ip", "tuntap", "add", "tun0", "mode", "tun")
    except AssertionError as error:
        pytest.skip(f"no tun here: {error}")
    line.sender.run("ip", "address", "add", "10.9.9.1/24", "dev", "tun0")
    line.sender.run("ip", "link", "set", "tun0", "up")
    with listening(line.sender, "tun0", ring_mib=SMALL_MIB, filter="udp dst port 9") as heard:
        line.sender.run(sys.executable, "-c", THROUGH_TUN)
        heard.wait_for(5)
    assert [data[28:] for data in heard.bytes] == [b"x%d" % n for n in range(5)]
    assert {one.link_type for one in heard.frames} == {101}


def test_promiscuous_mode_ends_with_the_source(line: Wire) -> None:
    def promiscuity() -> bool:
        return "promiscuity 1" in line.receiver.run("ip", "-d", "link", "show", line.far)

    for wanted in (False, True):
        with listening(line.receiver, line.far, promiscuous=wanted, ring_mib=SMALL_MIB):
            assert promiscuity() == wanted
        assert not promiscuity()
