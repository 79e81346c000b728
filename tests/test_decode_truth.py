"""The compiled decoder against two others: plain Python (naive_decode) and dpkt; and its memory safety, with bounds checked.

The kernel's functions are loaded a second time without compiling them. numpy then raises at every read outside the buffer,
which holds the captured bytes of one frame and nothing else; a negative index raises too, because it is made unsigned.
"""

from __future__ import annotations

import functools
import importlib.util
import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Literal

import dpkt
import pytest
from frames import (
    FIELDS,
    Frame,
    Row,
    block_of,
    captures,
    decode_one,
    ether,
    fragments_of,
    frames_of,
    inner4,
    inner6,
    links,
    segment,
    stack,
    tunnels,
)
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from naive_decode import LAYERS, NaiveDecoder
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, IPv6ExtHdrRouting
from scapy.layers.sctp import SCTP
from scapy.packet import Raw

from sensor import decode, decode_bytes, decode_ip, decode_kernel, decode_layers, kernels
from sensor.decode import SKIPS, Decoder
from sensor.schema import NOTE_FRAGMENT, NOTE_LATER_FRAGMENT

SEED = 20180524  # any: the choice of files must be the same on every run
LINK_TYPES = (0, 1, 9, 12, 14, 50, 101, 104, 108, 113, 228, 229, 276)


@functools.cache
def plain_kernel() -> ModuleType:
    """`sensor.decode_kernel` and what it calls, loaded anew with decorators that compile nothing."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("loop", "part"):
            patch.setattr(kernels, name, lambda function: function)
        for compiled in (decode_bytes, decode_layers, decode_ip, decode_kernel):  # each is imported by the next
            spec = importlib.util.spec_from_file_location(compiled.__name__, compiled.__file__)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            patch.setitem(sys.modules, compiled.__name__, module)
            spec.loader.exec_module(module)
    return module


def test_the_plain_kernel_is_plain_to_its_last_part() -> None:
    plain = plain_kernel()
    for piece in (plain.transport, plain.u16, plain.layer, plain.ipv6):
        assert isinstance(piece, FunctionType)
    for piece in (plain.link_header, plain.layer, plain.tunnel, plain.ipv4, plain.ipv6, plain.finish):
        assert all(not hasattr(read, "signatures") for read in piece.__globals__.values())


def decode_plainly(decoder: Decoder, frame: Frame) -> Row | str:
    """`decode_one` by the kernel that was not compiled: raises at a read outside the frame."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode, "kernel", plain_kernel())
        return decode_one(decoder, frame)


class Three:
    """The same settings for the compiled kernel, the plain one, and the truth."""

    def __init__(self, layers: frozenset[str] = LAYERS, captured: bool = False) -> None:
        rule: Literal["ip", "captured"] = "captured" if captured else "ip"
        self.compiled = Decoder(tunnels=layers, payload=rule)
        self.plain = Decoder(tunnels=layers, payload=rule)
        self.truth = NaiveDecoder(layers, captured)

    def agree(self, frame: Frame) -> None:
        packet = self.truth.decode(frame.data, frame.wire or len(frame.data), frame.link_type, frame.ts_us)
        wanted: Row | str
        wanted = packet if isinstance(packet, str) else {name: getattr(packet, name) for name in (*FIELDS, "src", "dst")}
        assert isinstance(packet, str) or packet.payload_bytes < 1 << 18  # schema.SIZES relies on it
        assert decode_plainly(self.plain, frame) == wanted, frame.data.hex()
        assert decode_one(self.compiled, frame) == wanted, frame.data.hex()


@functools.cache
def seeds() -> tuple[Frame, ...]:
    """Frames to be mutated: every link layer and tunnel, extension headers, fragments."""
    frames = [Frame(stack(head, inner()), kind) for kind, head in links().values() for inner in (inner4, inner6)]
    frames += [Frame(stack(ether(), head, inner())) for head in tunnels().values() for inner in (inner4, inner6)]
    chain = IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt(), IPv6ExtHdrRouting(addresses=["fd00::9"]), IPv6ExtHdrFragment(m=1, id=3)
    frames.append(Frame(stack(ether(), IPv6(src="fd00::1", dst="fd00::2"), *chain, segment())))
    for upper in (UDP(sport=1, dport=2), ICMP(), SCTP(sport=1, dport=2)):
        packet = IP(src="10.0.0.1", dst="10.0.0.2", id=4) / upper / Raw(b"p" * 60)
        frames += [Frame(stack(ether(), piece)) for piece in (packet, *fragments_of(packet, 24))]
    six = IPv6(src="fd00::1", dst="fd00::2") / IPv6ExtHdrFragment(id=5) / UDP(sport=1, dport=2) / Raw(b"p" * 2000)
    frames += [Frame(stack(ether(), piece)) for piece in fragments_of(six, 900)]
    return tuple(frames)


@st.composite
def mutated(draw: st.DrawFn, frames: Sequence[Frame]) -> Frame:
    """A frame with some bytes changed, often in its headers, its end cut off or grown, its length on the wire another."""
    frame = draw(st.sampled_from(frames))
    data = bytearray(frame.data)
    interesting = st.sampled_from([0, 1, 4, 5, 6, 0x0F, 0x11, 0x20, 0x29, 0x2C, 0x2F, 0x33, 0x45, 0x60, 0x64, 0x81, 0xFF])
    for at, value in draw(st.lists(st.tuples(st.integers(0, 130), st.one_of(interesting, st.integers(0, 255))), max_size=4)):
        if at < len(data):
            data[at] = value
    kept = draw(st.one_of(st.just(len(data)), st.integers(0, len(data))))
    grown = draw(st.one_of(st.just(b""), st.binary(max_size=40)))
    wire = draw(st.one_of(st.just(len(data)), st.just(0), st.integers(0, 70_000), st.integers(0, 2**32 - 1)))
    link_type = draw(st.one_of(st.just(frame.link_type), st.sampled_from(LINK_TYPES)))
    return Frame(bytes(data[:kept]) + grown, link_type, wire, draw(st.integers(0, 40)) * 1_000_000)


LAYER_SETS = st.one_of(st.just(LAYERS), st.frozensets(st.sampled_from(sorted(LAYERS))))
MANY = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@MANY
@given(st.data(), LAYER_SETS, st.booleans())
def test_mutated_frames_decode_as_the_plain_truth_says(data: st.DataObject, layers: frozenset[str], captured: bool) -> None:
    three = Three(layers, captured)
    for frame in data.draw(st.lists(mutated(seeds()), min_size=1, max_size=6)):
        three.agree(frame)


@MANY
@given(st.lists(st.binary(max_size=120), max_size=4), st.sampled_from((*LINK_TYPES, 127)), st.integers(0, 2**32 - 1))
@example([bytes.fromhex("02" * 12 + "0800" + "4500001400000000" + "0004" + "00" * 10)], 1, 0)
def test_made_up_bytes_decode_as_the_plain_truth_says(frames: list[bytes], link_type: int, wire: int) -> None:
    three = Three()
    for data in frames:
        three.agree(Frame(data, link_type, wire))


@pytest.mark.parametrize("part", range(4))
def test_frames_cut_at_every_byte_decode_as_the_plain_truth_says(part: int) -> None:
    three = Three()
    for frame in seeds()[part::4]:
        for cut in range(min(len(frame.data), 160)):
            three.agree(frame._replace(data=frame.data[:cut], wire=len(frame.data)))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from(list(tunnels())), max_size=14), st.sampled_from(list(links())), st.binary(max_size=3), LAYER_SETS
)
def test_stacks_of_tunnels_decode_as_the_plain_truth_says(
    names: list[str], link: str, cut: bytes, layers: frozenset[str]
) -> None:
    link_type, head = links()[link]
    whole = stack(head, *[tunnels()[name] for name in names], inner4())
    three = Three(layers)
    for end in (len(whole), *[size * len(whole) // 256 for size in cut]):
        three.agree(Frame(whole[:end], link_type, len(whole)))


def chosen(paths: list[Path], count: int) -> list[Path]:
    """The same some files on every run."""
    return random.Random(SEED).sample(paths, min(count, len(paths)))  # a choice of test files


def real_frames(paths: list[Path], each: int) -> Iterator[Frame]:
    for path in paths:
        for number, frame in enumerate(frames_of(path)):
            if number == each:
                break
            yield frame


def test_frames_of_real_captures_decode_as_the_plain_truth_says(shared_data: Path) -> None:
    three = Three()
    count = 0
    for frame in real_frames(chosen(captures(shared_data / "captures"), 200), 25):
        three.agree(frame)
        count += 1
    assert count > 2000


@MANY
@given(st.data())
def test_mutated_frames_of_real_captures_decode_as_the_plain_truth_says(shared_data: Path, data: st.DataObject) -> None:
    three = Three()
    for frame in data.draw(st.lists(mutated(real_seeds(shared_data)), min_size=1, max_size=4)):
        three.agree(frame)


@functools.cache
def real_seeds(folder: Path) -> tuple[Frame, ...]:
    return tuple(real_frames(chosen(captures(folder / "captures"), 150), 4))


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["malformed", "suricata_verify"])
def test_no_capture_makes_the_kernel_read_outside_a_frame(shared_data: Path, folder: str) -> None:
    paths = captures(shared_data / "captures" / folder)
    frames = {frame._replace(ts_us=0) for path in paths for frame in frames_of(path)}
    assert len(frames) > {"malformed": 5_000, "suricata_verify": 140_000}[folder]
    decoder = Decoder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode, "kernel", plain_kernel())
        rows = sum(len(decoder.decode(block_of([frame]))) for frame in frames)
    assert rows + decoder.skipped.sum() == len(frames)
    assert decoder.skipped[SKIPS.index("outside_block")] == 0


# dpkt, the second opinion


def second_opinion(data: bytes, link_type: int) -> Row | None:
    """What dpkt says of the outermost IP packet; None where it decodes no transport header."""
    if link_type not in {1, 101, 113, 228, 229}:
        return None
    try:
        packet = dpkt.ethernet.Ethernet(data) if link_type == 1 else dpkt.sll.SLL(data) if link_type == 113 else None
        ip = packet.data if packet is not None else dpkt.ip6.IP6(data) if data[0] >> 4 == 6 else dpkt.ip.IP(data)
    except (dpkt.UnpackError, IndexError):
        return None
    if isinstance(ip, dpkt.ip.IP):
        length = ip.len - ip.hl * 4
        addresses = {"src": bytes(10) + b"\xff\xff" + ip.src, "dst": bytes(10) + b"\xff\xff" + ip.dst}
    elif isinstance(ip, dpkt.ip6.IP6):
        length = ip.plen - sum(len(header) for header in ip.all_extension_headers)
        addresses = {"src": ip.src, "dst": ip.dst}
    else:
        return None
    upper = ip.data
    if isinstance(upper, dpkt.tcp.TCP):
        told = {"src_port": upper.sport, "dst_port": upper.dport, "seq": upper.seq, "ack": upper.ack, "window": upper.win}
        told |= {"protocol": 6, "tcp_flags": upper.flags & 255, "header_bytes": upper.off * 4}
    elif isinstance(upper, dpkt.udp.UDP):
        told = {"src_port": upper.sport, "dst_port": upper.dport, "protocol": 17, "header_bytes": 8}
    elif isinstance(upper, dpkt.icmp.ICMP | dpkt.icmp6.ICMP6):
        protocol = 1 if isinstance(upper, dpkt.icmp.ICMP) else 58
        told = {"icmp_type": upper.type, "icmp_code": upper.code, "protocol": protocol, "header_bytes": 8}
    else:
        return None
    return addresses | told | {"payload_bytes": length - told["header_bytes"]}


def test_dpkt_agrees_on_real_captures(shared_data: Path) -> None:
    decoder = Decoder(tunnels={"vlan", "mpls", "pppoe"})
    refused: Counter[str] = Counter()
    compared = 0
    for frame in real_frames(chosen(captures(shared_data / "captures"), 400), 400):
        wanted = second_opinion(frame.data, frame.link_type)
        # a length of zero is no offload for dpkt, and the payload of a later IPv6 fragment is a header
        if wanted is None or wanted["payload_bytes"] == -40:
            continue
        row = decode_one(decoder, frame)
        if isinstance(row, str):
            refused[row] += 1
        elif row["notes"] != NOTE_FRAGMENT | NOTE_LATER_FRAGMENT:
            assert {name: row[name] for name in wanted} == wanted, frame.data.hex()
            compared += 1
    assert compared > 15_000
    assert set(refused) <= {"ip_version", "bad_transport"}  # dpkt does not look at the version or compare TCP's offset
    assert refused.total() < compared / 1000
