"""The decoder, fact by fact, on packets that scapy builds: what each layer gives, what is counted, what settings change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from frames import (
    Frame,
    Row,
    block_of,
    decode_one,
    dot3,
    ether,
    fragments_of,
    inner4,
    inner6,
    links,
    outer,
    outer6,
    packets_of,
    segment,
    skipped,
    stack,
    tunnels,
)
from hypothesis import given
from hypothesis import strategies as st
from scapy.contrib.gtp import GTP_U_Header
from scapy.contrib.mpls import MPLS
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_RR
from scapy.layers.inet6 import (
    MIP6MH_BE,
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    Jumbo,
    PadN,
)
from scapy.layers.ipsec import AH, ESP
from scapy.layers.l2 import ARP, GRE, LLC, SNAP, STP, Dot1Q, Ether, Loopback
from scapy.layers.ppp import PPP, PPPoE
from scapy.layers.sctp import SCTP, SCTPChunkData
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from sensor import decode_bytes, decode_kernel
from sensor.decode import DEFAULT_TUNNELS, SKIPS, Decoder
from sensor.flows import FlowTable
from sensor.schema import FRAME, NOTE_FRAGMENT, NOTE_LATER_FRAGMENT, NOTE_TUNNEL, PACKET, FrameBlock
from sensor.sources import walk

V4 = bytes(10) + b"\xff\xff"
SECOND = 1_000_000
FIRST = "10.0.0.1", "10.0.0.2"

TCP_FIELDS = {
    "protocol": 6,
    "src_port": 1234,
    "dst_port": 80,
    "seq": 0x01020304,
    "ack": 0xF1F2F3F4,
    "window": 4321,
    "tcp_flags": 0x18,
    "header_bytes": 20,
    "payload_bytes": 5,
    "icmp_type": 0,
    "icmp_code": 0,
}
INNER = {
    4: (inner4, TCP_FIELDS | {"src": V4 + bytes([10, 0, 0, 1]), "dst": V4 + bytes([10, 0, 0, 2]), "ip_bytes": 45}),
    6: (inner6, TCP_FIELDS | {"src": b"\xfd" + bytes(14) + b"\1", "dst": b"\xfd" + bytes(14) + b"\2", "ip_bytes": 65}),
}
HEARD = {"src_port": 1234, "dst_port": 80}
OUTER = {"src": V4 + bytes([192, 0, 2, 1]), "dst": V4 + bytes([192, 0, 2, 2])}


def told(data: bytes, link_type: int = 1, wire: int = 0, decoder: Decoder | None = None) -> Row:
    """The row of one frame; fails when there is none."""
    row = decode_one(decoder or Decoder(), Frame(data, link_type, wire))
    assert isinstance(row, dict), row
    return row


def why(data: bytes, link_type: int = 1, wire: int = 0, decoder: Decoder | None = None) -> str:
    """The reason why one frame yields no row; fails when it yields one."""
    reason = decode_one(decoder or Decoder(), Frame(data, link_type, wire))
    assert isinstance(reason, str), reason
    return reason


def part_of(row: Row, wanted: Mapping[str, int | bytes]) -> Row:
    return {name: row[name] for name in wanted}


# Layers


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("name", list(links()))
def test_packet_is_found_behind_link_layer(name: str, version: int) -> None:
    link_type, headers = links()[name]
    build, wanted = INNER[version]
    assert told(stack(headers, build()), link_type) == wanted | {"notes": 0}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("name", list(tunnels()))
def test_packet_is_found_inside_tunnel(name: str, version: int) -> None:
    build, wanted = INNER[version]
    assert told(stack(ether(), tunnels()[name], build())) == wanted | {"notes": NOTE_TUNNEL}


@pytest.mark.parametrize("name", [name for name in tunnels() if name != "mpls"])
def test_closed_tunnel_gives_the_packet_around_it(name: str) -> None:
    closed = {"gre ethernet": "gre", "gre mpls": "gre"}.get(name, name.split(maxsplit=1)[0])
    layers = DEFAULT_TUNNELS - {closed, "6in4"}
    row = told(stack(ether(), tunnels()[name], inner6()), decoder=Decoder(tunnels=layers))
    assert row["notes"] == 0
    assert row["protocol"] == {"ipip": 41, "gre": 47}.get(closed, 17)
    assert (row["dst_port"], row["header_bytes"]) == {"vxlan": (4789, 8), "geneve": (6081, 8), "gtpu": (2152, 8)}.get(
        closed, (0, 0)
    )


@pytest.mark.parametrize(("layer", "name"), [("vlan", "vlan"), ("vlan", "qinq"), ("mpls", "mpls"), ("pppoe", "pppoe")])
def test_closed_link_layer_is_counted(layer: str, name: str) -> None:
    decoder = Decoder(tunnels=DEFAULT_TUNNELS - {layer})
    assert why(stack(links()[name][1], inner4()), decoder=decoder) == "layer_off"


def test_ip_version_6_in_4_has_a_setting_of_its_own() -> None:
    data = stack(ether(), outer(), inner6())
    assert told(data)["src_port"] == 1234
    assert told(data, decoder=Decoder(tunnels={"ipip"}))["protocol"] == 41


def test_tunnels_nest() -> None:
    layers = [headers for name, headers in tunnels().items() if name in {"vxlan", "gre", "gtpu", "ipip"}]
    row = told(stack(ether(), Dot1Q(vlan=3), *layers, inner6()))
    assert part_of(row, HEARD) == HEARD


def test_nesting_without_end_is_counted() -> None:
    assert told(stack(ether(), *[outer()] * 30, inner4()))["src_port"] == 1234
    assert why(stack(ether(), *[outer()] * 31, inner4())) == "too_deep"
    assert why(stack(ether(), *[Dot1Q(vlan=1)] * 40, inner4())) == "too_deep"
    assert why(stack(ether(), *[MPLS(label=3, s=0)] * 40)) == "too_deep"


def test_teredo_stays_udp() -> None:
    row = told(stack(ether(), outer(), UDP(sport=3544, dport=3544), inner6()))
    assert (row["protocol"], row["dst_port"], row["notes"]) == (17, 3544, 0)


@pytest.mark.parametrize(
    ("inside", "protocol"),
    [
        (UDP(sport=7, dport=4789) / VXLAN(vni=1) / ether() / ARP(psrc="10.0.0.1", pdst="10.0.0.2"), 17),
        (UDP(sport=7, dport=4789) / Raw(b"no VXLAN header, but long enough for one and for much else"), 17),
        (UDP(sport=7, dport=2152) / GTP_U_Header(gtp_type=1, teid=0), 17),
        (UDP(sport=7, dport=2152) / GTP_U_Header(teid=9) / Raw(b"\x05neither IPv4 nor IPv6"), 17),
        (UDP(sport=7, dport=6081) / Raw(b"\0\0\x12\x34" + bytes(40)), 17),
        (GRE(proto=0x1234) / Raw(b"unknown"), 47),
        (GRE() / Raw(b"\x45\0\0"), 47),
        (GRE(version=1, proto=0x880B, key_present=1), 47),
    ],
)
def test_tunnel_without_a_packet_inside_counts_as_the_packet_around_it(inside: Packet, protocol: int) -> None:
    row = told(stack(ether(), IP(src="192.0.2.1", dst="192.0.2.2", proto=protocol), inside))
    assert part_of(row, OUTER) == OUTER
    assert (row["protocol"], row["notes"]) == (protocol, 0)


def test_tunnel_that_fails_inside_another_gives_the_one_around_it() -> None:
    arp = UDP(sport=7, dport=4789) / VXLAN(vni=1) / ether() / ARP(psrc="10.0.0.1", pdst="10.0.0.2")
    row = told(stack(ether(), outer(), GRE(), IP(src="10.9.9.1", dst="10.9.9.2"), arp))
    assert (row["src"], row["dst_port"], row["notes"]) == (V4 + bytes([10, 9, 9, 1]), 4789, NOTE_TUNNEL)


def test_inner_header_is_not_read_from_padding() -> None:
    empty = stack(ether(), IP(src="192.0.2.1", dst="192.0.2.2", proto=4))
    assert told(empty + stack(inner4()))["protocol"] == 4


def test_pseudowire_is_guessed_by_a_known_ethertype() -> None:
    assert why(stack(ether(), MPLS(label=3, s=1), Raw(bytes(60)))) == "not_ip"
    assert why(stack(ether(), MPLS(label=3, s=1), Raw(b"\x10" + bytes(60)))) == "not_ip"  # an associated channel (RFC 4385)


@pytest.mark.parametrize("family", [b"\2\0\0\0", b"\0\0\0\2"])
@pytest.mark.parametrize("link_type", [0, 108])
def test_loopback_family_is_read_in_both_byte_orders(family: bytes, link_type: int) -> None:
    assert told(family + stack(inner4()), link_type)["src_port"] == 1234


@pytest.mark.parametrize("family", [24, 28, 30])
def test_loopback_knows_the_ipv6_families(family: int) -> None:
    assert told(family.to_bytes(4, "little") + stack(inner6()), 0)["src_port"] == 1234
    assert told(family.to_bytes(4, "big") + stack(inner6()), 108)["src_port"] == 1234
    assert bytes(Loopback(type=2) / inner4())[4:] == stack(inner4())


@pytest.mark.parametrize(
    ("link_type", "head"), [(50, b"\x0f\0\x08\0"), (104, b"\x8f\0\x08\0"), (9, b"\x21"), (9, b"\xff\x03\x21")]
)
def test_cisco_framing_and_compressed_ppp_protocol_are_read(link_type: int, head: bytes) -> None:
    assert told(head + stack(inner4()), link_type)["src_port"] == 1234


def test_802_3_frame_with_ips_own_access_point_is_read() -> None:
    assert told(stack(dot3(), LLC(dsap=6, ssap=6, ctrl=3), inner4()))["src_port"] == 1234


def test_ip_only_link_types_do_not_take_the_other_version() -> None:
    assert told(stack(inner4()), 228)["src_port"] == 1234
    assert told(stack(inner6()), 229)["src_port"] == 1234
    assert (why(stack(inner6()), 228), why(stack(inner4()), 229)) == ("ip_version", "ip_version")


def test_unknown_link_types_are_counted_by_number() -> None:
    decoder = Decoder()
    packets_of(decoder, [Frame(stack(inner4()), kind) for kind in (105, 65535, 105, 101)])
    assert skipped(decoder) == {"link_type": 3}
    assert decoder.link_types_unknown == {105: 2, 65535: 1}


# IP headers


def test_ipv4_options_are_stepped_over() -> None:
    packet = IP(src="10.0.0.1", dst="10.0.0.2", options=[IPOption_RR(length=39, routers=["1.2.3.4"] * 9)]) / segment()
    row = told(stack(ether(), packet))
    assert (row["src_port"], row["payload_bytes"], row["ip_bytes"]) == (1234, 5, 85)


@pytest.mark.parametrize(
    ("headers", "size"),
    [
        ((IPv6ExtHdrHopByHop(options=[PadN(optdata=bytes(12))]),), 16),
        ((IPv6ExtHdrRouting(addresses=["fd00::9"]),), 24),
        ((IPv6ExtHdrDestOpt(),), 8),
        ((IPv6ExtHdrFragment(offset=0, m=0, id=4),), 8),
        ((AH(nh=6, payloadlen=4, spi=3, icv=bytes(12)),), 24),
        (
            (
                IPv6ExtHdrHopByHop(),
                IPv6ExtHdrDestOpt(),
                IPv6ExtHdrRouting(),
                IPv6ExtHdrFragment(),
                AH(nh=6, payloadlen=4, icv=bytes(12)),
            ),
            56,
        ),
    ],
)
def test_ipv6_extension_headers_are_stepped_over(headers: tuple[Packet, ...], size: int) -> None:
    row = told(stack(ether(), IPv6(src="fd00::1", dst="fd00::2"), *headers, segment()))
    assert row == INNER[6][1] | {"ip_bytes": 65 + size, "notes": 0}


def test_ipv6_messages_in_extension_headers_keep_their_number() -> None:
    assert told(stack(ether(), IPv6(src="fd00::1", dst="fd00::2"), MIP6MH_BE()))["protocol"] == 135
    assert told(stack(ether(), IPv6(src="fd00::1", dst="fd00::2", nh=59)))["protocol"] == 59


def test_more_extension_headers_than_any_packet_has_are_counted() -> None:
    row = told(stack(ether(), IPv6(src="fd00::1", dst="fd00::2"), *[IPv6ExtHdrDestOpt()] * 11, segment()))
    assert row["src_port"] == 1234
    assert why(stack(ether(), IPv6(src="fd00::1", dst="fd00::2"), *[IPv6ExtHdrDestOpt()] * 12, segment())) == "too_deep"


def test_ethernet_padding_never_counts() -> None:
    empty = IP(src="10.0.0.1", dst="10.0.0.2") / TCP(sport=1, dport=2, flags="A")
    for link_type, headers in links().values():
        assert told(stack(headers, empty) + b"\xa5" * 6, link_type)["payload_bytes"] == 0


@pytest.mark.parametrize("name", list(links()) + list(tunnels()))
def test_row_does_not_depend_on_where_the_capture_was_cut(name: str) -> None:
    link_type, headers = links().get(name, (1, None))
    payload = segment(b"x" * 1400)
    data = stack(*((headers,) if name in links() else (ether(), tunnels()[name])), IP(src=FIRST[0], dst=FIRST[1]) / payload)
    ports = data.index(b"\x04\xd2\x00\x50\x01\x02\x03\x04")
    whole = told(data, link_type)
    assert whole["payload_bytes"] == 1400
    for cut in (ports + 16, ports + 19, ports + 20, 160, 600):
        assert told(data[:cut], link_type, len(data)) == whole


def test_segmentation_offload_leaves_the_length_to_the_frame() -> None:
    payload = segment(b"y" * 4000)
    four = stack(ether(), IP(src="10.0.0.1", dst="10.0.0.2", len=0) / payload)
    six = stack(ether(), IPv6(src="fd00::1", dst="fd00::2", plen=0) / payload)
    for data, header in ((four, 20), (six, 40)):
        for cut in (160, len(data)):
            row = told(data[:cut], wire=len(data))
            assert (row["payload_bytes"], row["ip_bytes"]) == (4000, 4020 + header)


def test_segmentation_offload_inside_a_tunnel_ends_with_the_tunnel() -> None:
    inner = IP(src="10.0.0.1", dst="10.0.0.2", len=0) / segment(b"y" * 40)
    assert told(stack(ether(), outer(), GRE(), inner) + bytes(8))["payload_bytes"] == 40


def test_jumbogram_is_as_long_as_its_frame() -> None:
    header = IPv6(src="fd00::1", dst="fd00::2", plen=0) / IPv6ExtHdrHopByHop(options=[Jumbo(jumboplen=70_028)])
    data = stack(ether(), header, segment(b"z" * 70_000))
    assert told(data[:200], wire=len(data))["payload_bytes"] == 70_000


# Transport headers


@pytest.mark.parametrize(
    ("upper", "wanted"),
    [
        (UDP(sport=53, dport=4000) / Raw(b"1234567"), {"protocol": 17, "src_port": 53, "dst_port": 4000, "header_bytes": 8}),
        (TCP(sport=5, dport=6, options=[("MSS", 1460), ("SAckOK", b""), ("NOP", None), ("NOP", None)]) / Raw(b"1234567"),
         {"protocol": 6, "src_port": 5, "dst_port": 6, "header_bytes": 28, "tcp_flags": 2}),
        (TCP(sport=5, dport=6, flags="FSRPAUEC") / Raw(b"1234567"), {"tcp_flags": 255, "header_bytes": 20}),
        (SCTP(sport=7, dport=8) / SCTPChunkData(data=b"xyz"),
         {"protocol": 132, "src_port": 7, "dst_port": 8, "header_bytes": 12}),
        (ICMP(type=3, code=1) / Raw(b"1234567"), {"protocol": 1, "icmp_type": 3, "icmp_code": 1, "header_bytes": 8}),
        (ESP(spi=1, seq=2, data=b"x" * 9), {"protocol": 50, "header_bytes": 0}),
    ],
)  # fmt: skip
def test_transport_header_gives_its_fields_and_leaves_the_others_zero(upper: Packet, wanted: dict[str, int]) -> None:
    decoder = Decoder()
    told(stack(ether(), inner6()), decoder=decoder)  # the buffer is used again: what this leaves must not show through
    row = told(stack(ether(), IP(src="10.0.0.1", dst="10.0.0.2") / upper), decoder=decoder)
    zero = dict.fromkeys(("src_port", "dst_port", "seq", "ack", "window", "tcp_flags", "icmp_type", "icmp_code", "notes"), 0)
    if "tcp_flags" in wanted:
        wanted = {"protocol": 6, "src_port": 5, "dst_port": 6, "window": 8192} | wanted
    assert part_of(row, zero | wanted) == zero | wanted
    assert row["payload_bytes"] == len(bytes(upper)) - wanted["header_bytes"]


def test_icmp6_gives_type_and_code() -> None:
    row = told(stack(ether(), IPv6(src="fd00::1", dst="fd00::2") / ICMPv6EchoRequest(data=b"1234")))
    wanted = {"protocol": 58, "icmp_type": 128, "icmp_code": 0, "header_bytes": 8, "payload_bytes": 4, "src_port": 0}
    assert part_of(row, wanted) == wanted


@given(st.integers(0, 255), st.binary(max_size=30))
def test_any_other_protocol_goes_by_its_number(protocol: int, payload: bytes) -> None:
    if protocol in (1, 4, 6, 17, 41, 47, 58, 132, 137):
        return
    row = told(stack(ether(), IP(src="10.0.0.1", dst="10.0.0.2", proto=protocol), Raw(payload)))
    wanted = {"protocol": protocol, "src_port": 0, "dst_port": 0, "header_bytes": 0, "payload_bytes": len(payload)}
    assert part_of(row, wanted) == wanted


# What yields no row


def corrupt(packet: Packet, at: int, value: int) -> bytes:
    data = bytearray(bytes(packet))
    data[at] = value
    return bytes(data)


TCP_FRAME = stack(ether(), inner4())
SKIPPED = {
    "link_type": [(b"anything", 127)],
    "cut_link": [(b"", 1), (TCP_FRAME[:13], 1), (stack(links()["vlan"][1], inner4())[:17], 1), (b"\0" * 15, 113),
                 (b"\0" * 19, 276), (b"\2\0\0", 0), (b"\xff\x03\0", 9), (stack(links()["mpls"][1]), 1),
                 (stack(dot3(), LLC(dsap=0xAA, ssap=0xAA, ctrl=3), SNAP())[:20], 1),
                 (stack(links()["pppoe"][1])[:19], 1)],
    "arp": [(stack(ether(), ARP(psrc="10.0.0.1", pdst="10.0.0.2")), 1)],
    "not_ip": [(stack(ether(0x88CC), Raw(bytes(50))), 1), (stack(dot3(), LLC(), STP()), 1),
               (stack(ether(), PPPoE(), PPP(proto=0xC021), Raw(b"LCP")), 1), (b"\x07\0\0\0" + bytes(30), 0),
               (stack(dot3(), LLC(dsap=0xAA, ssap=0xAA, ctrl=3), SNAP(OUI=0xC, code=0x2000), Raw(b"CDP")), 1),
               (stack(ether(), PPPoE(code=9), Raw(bytes(30))), 1)],
    "cut_ip": [(TCP_FRAME[:33], 1), (b"", 101), (stack(inner6())[:39], 229),
               (stack(IPv6(src="fd00::1", dst="fd00::2"), IPv6ExtHdrDestOpt(), segment())[:47], 101)],
    "ip_version": [(corrupt(ether() / inner4(), 14, 0x55), 1), (b"\x00" * 40, 101)],
    "ip_header": [(corrupt(ether() / inner4(), 14, 0x44), 1), (corrupt(ether() / inner4(), 17, 19), 1),
                  (corrupt(IPv6(src="fd00::1", dst="fd00::2") / IPv6ExtHdrDestOpt() / segment(), 41, 200), 101),
                  (stack(IPv6(src="fd00::1", dst="fd00::2", plen=7), IPv6ExtHdrDestOpt(), segment()), 101)],
    "cut_transport": [(TCP_FRAME[:49], 1), (stack(ether(), outer(), UDP())[:37], 1), (stack(ether(), outer(), ICMP())[:35], 1)],
    "bad_transport": [(corrupt(ether() / inner4(), 46, 0x40), 1), (corrupt(ether() / inner4(), 46, 0x70), 1),
                      (corrupt(ether() / inner4(), 17, 39), 1), (stack(ether(), outer(17), Raw(b"1234567")), 1)],
}  # fmt: skip


@pytest.mark.parametrize(
    ("reason", "data", "link_type"),
    [pytest.param(name, *case, id=f"{name} {n}") for name, cases in SKIPPED.items() for n, case in enumerate(cases)],
)
def test_frame_without_row_is_counted_by_reason(reason: str, data: bytes, link_type: int) -> None:
    assert why(data, link_type) == reason


def test_frame_outside_its_buffer_is_counted_and_not_read() -> None:
    rows = np.zeros(4, FRAME)
    rows["offset"], rows["captured_bytes"], rows["link_type"] = [-1, 50, 0, 2**63 - 1], [40, 60, 101, 10], 1
    decoder = Decoder()
    decoder.decode(FrameBlock(np.zeros(100, np.uint8), rows))
    assert skipped(decoder) == {"outside_block": 4}


@pytest.mark.parametrize(("link_type", "headers"), links().values(), ids=links())
def test_every_cut_and_every_padding_gives_a_row_or_a_reason(link_type: int, headers: Packet | None) -> None:
    data = stack(headers, inner6())
    decoder = Decoder()
    frames = [Frame(data[:cut], link_type) for cut in range(len(data))] + [Frame(data + bytes(n), link_type) for n in range(70)]
    rows = packets_of(decoder, frames)
    assert len(rows) + decoder.skipped.sum() == len(frames)
    assert len(rows) >= 70


# Fragments


def fragments4(payload: int = 2000, size: int = 800) -> list[bytes]:
    packet = IP(src=FIRST[0], dst=FIRST[1], id=77) / UDP(sport=4000, dport=53) / Raw(b"f" * payload)
    return [stack(ether(), piece) for piece in fragments_of(packet, size)]


def fragments6(payload: int = 2000) -> list[bytes]:
    packet = IPv6(src="fd00::1", dst="fd00::2") / IPv6ExtHdrFragment(id=99) / UDP(sport=4000, dport=53) / Raw(b"f" * payload)
    return [stack(ether(), piece) for piece in fragments_of(packet, 900)]


@pytest.mark.parametrize("build", [fragments4, fragments6])
def test_later_fragments_follow_their_first_one(build: type) -> None:
    pieces = build()
    assert len(pieces) >= 3
    rows = packets_of(Decoder(), [Frame(piece) for piece in pieces])
    assert rows["src_port"].tolist() == [4000] * len(pieces)
    assert rows["dst_port"].tolist() == [53] * len(pieces)
    assert rows["protocol"].tolist() == [17] * len(pieces)
    assert rows["header_bytes"].tolist() == [8] + [0] * (len(pieces) - 1)
    assert rows["payload_bytes"].sum() == 2000
    assert rows["notes"].tolist() == [NOTE_FRAGMENT] + [NOTE_FRAGMENT | NOTE_LATER_FRAGMENT] * (len(pieces) - 1)


@pytest.mark.parametrize("build", [fragments4, fragments6])
def test_later_fragments_without_first_are_counted(build: type) -> None:
    pieces = build()
    decoder = Decoder()
    rows = packets_of(decoder, [Frame(piece) for piece in pieces[1:] + pieces[:1]])
    assert len(rows) == 1
    assert skipped(decoder) == {"fragment_without_first": len(pieces) - 1}


def test_fragments_of_others_do_not_take_the_ports() -> None:
    decoder = Decoder()
    first, later, *_ = fragments4()
    told(first, decoder=decoder)
    for at, value in ((19, 78), (23, 6), (29, 9), (33, 9)):  # identification, protocol, an address each way
        assert why(corrupt(Raw(later), at, value), decoder=decoder) == "fragment_without_first"
    assert told(later, decoder=decoder)["dst_port"] == 53


def test_first_fragment_is_forgotten_after_thirty_seconds_of_packet_time() -> None:
    first, later, *_ = fragments4()
    decoder = Decoder()
    rows = packets_of(
        decoder, [Frame(first, ts_us=SECOND), Frame(later, ts_us=31 * SECOND), Frame(later, ts_us=31 * SECOND + 1)]
    )
    assert len(rows) == 2
    assert skipped(decoder) == {"fragment_without_first": 1}


def test_fragment_whose_first_has_no_whole_transport_header_is_counted() -> None:
    decoder = Decoder()
    tiny = [
        Ether(stack(ether(), piece)) for piece in fragments_of(IP(src=FIRST[0], dst=FIRST[1], id=5) / segment(b"x" * 80), 8)
    ]
    packets_of(decoder, [Frame(bytes(piece)) for piece in tiny])
    assert skipped(decoder) == {"bad_transport": 1, "fragment_without_first": len(tiny) - 1}


def test_first_fragment_without_ports_takes_back_what_an_earlier_one_of_its_name_told() -> None:
    decoder = Decoder()
    first, later, *_ = fragments4()
    told(first, decoder=decoder)
    short = bytearray(first)
    short[16:18] = (27).to_bytes(2, "big")  # leaves seven bytes for UDP
    assert why(bytes(short), decoder=decoder) == "bad_transport"
    assert why(later, decoder=decoder) == "fragment_without_first"


def test_reserved_bits_of_an_ipv6_fragment_header_say_nothing() -> None:
    frame = stack(ether(), IPv6(src="fd00::1", dst="fd00::2"), IPv6ExtHdrFragment(res1=255, res2=3), segment())
    assert (told(frame)["src_port"], told(frame)["notes"]) == (1234, 0)


def test_fragments_of_icmp_carry_its_type() -> None:
    packet = IP(src=FIRST[0], dst=FIRST[1], id=5) / ICMP(type=8, code=3) / Raw(b"p" * 3000)
    rows = packets_of(Decoder(), [Frame(stack(ether(), piece)) for piece in fragments_of(packet, 1400)])
    assert len(rows) == 3
    assert set(rows["icmp_type"].tolist()) == {8}
    assert set(rows["icmp_code"].tolist()) == {3}
    assert rows["payload_bytes"].sum() == 3000


def test_packet_inside_a_fragmented_tunnel_is_counted_once_and_whole() -> None:
    packet = IP(src="192.0.2.1", dst="192.0.2.2", id=8) / GRE() / IP(src=FIRST[0], dst=FIRST[1]) / segment(b"t" * 1400)
    pieces = [Frame(stack(ether(), piece)) for piece in fragments_of(packet, 1000)]
    decoder = Decoder()
    rows = packets_of(decoder, pieces)
    assert rows["payload_bytes"].tolist() == [1400]
    assert rows["notes"].tolist() == [NOTE_TUNNEL]
    assert skipped(decoder) == {"fragment_of_tunnel": len(pieces) - 1}
    rows = packets_of(Decoder(tunnels=()), pieces)
    assert rows["protocol"].tolist() == [47] * len(pieces)
    assert rows["payload_bytes"].sum() == 4 + 40 + 1400


def test_fragments_inside_a_tunnel_follow_their_first_one() -> None:
    packet = IP(src=FIRST[0], dst=FIRST[1], id=5) / segment(b"x" * 2000)
    rows = packets_of(Decoder(), [Frame(stack(ether(), tunnels()["vxlan"], piece)) for piece in fragments_of(packet, 1000)])
    assert len(rows) == 3
    assert rows["dst_port"].tolist() == [80] * 3
    assert rows["notes"].tolist() == [NOTE_FRAGMENT | NOTE_TUNNEL] + [NOTE_FRAGMENT | NOTE_LATER_FRAGMENT | NOTE_TUNNEL] * 2


def test_fragment_table_holds_what_it_promises_and_forgets_the_oldest() -> None:
    pieces = fragments4(payload=100, size=48)

    def piece(number: int, first: bool) -> Frame:
        data = bytearray(pieces[0 if first else 1])
        data[18:20] = number.to_bytes(2, "big")
        return Frame(bytes(data), ts_us=number)

    decoder = Decoder(fragments=256)
    numbers = range(1, 1001)
    packets_of(decoder, [piece(number, first=True) for number in numbers])
    found = [isinstance(decode_one(decoder, piece(number, first=False)), dict) for number in numbers]
    assert sum(found) == 256
    assert sum(found[-128:]) > 110  # the latest half of a full table lies there but for crowded buckets
    assert sum(found[:500]) == 0


def test_fragment_that_comes_again_takes_its_old_place() -> None:
    decoder = Decoder(fragments=4)
    first, later, *_ = fragments4()
    packets_of(decoder, [Frame(first, ts_us=n) for n in range(100)])
    assert np.count_nonzero(decoder._table["state"]) == 1
    assert told(later, decoder=decoder)["dst_port"] == 53


# Lengths that are false


@pytest.mark.parametrize("rule", ["ip", "captured"])
@pytest.mark.parametrize("size", [0, 300_000])
@pytest.mark.parametrize("version", [4, 6, 46])
def test_length_of_zero_ends_at_the_wire_or_at_the_most_that_a_frame_can_have(
    version: int, size: int, rule: Literal["ip", "captured"]
) -> None:
    layers = {4: [offloaded4()], 6: [offloaded6()], 46: [offloaded4(proto=41), offloaded6()]}[version]
    whole = stack(*layers, UDP(sport=1, dport=2, len=0), Raw(bytes(size)))
    for wire in (1_000, 262_143, 262_144, 262_145, 2**32 - 16, 2**32 - 1):
        wire = max(wire, len(whole))  # noqa: PLW2901  # as a source tells it
        row = told(whole, 101, wire, Decoder(payload=rule))
        headers = len(whole) - size
        seen = min(wire if rule == "ip" else len(whole), 262_144)
        assert row["payload_bytes"] == seen - headers < 1 << 18
        assert row["ip_bytes"] == min(wire, 262_144) - sum(map(len, layers[:-1]))


def offloaded4(proto: int = 17) -> IP:
    """An IPv4 header whose length segmentation offload left at zero."""
    return IP(src=FIRST[0], dst=FIRST[1], len=0, proto=proto)


def offloaded6() -> IPv6:
    return IPv6(src="fd00::1", dst="fd00::2", plen=0, nh=17)


def test_the_most_that_a_frame_can_have_is_what_sources_hand_over() -> None:
    assert decode_kernel.FRAME_BYTES == walk.FRAME_LIMIT


def test_false_wire_lengths_give_no_gigabytes_and_squares_that_fit() -> None:
    data = stack(ether(), offloaded4(), UDP(sport=1, dport=2), Raw(b"x" * 20))
    table = FlowTable(flows=4)
    table.feed(packets_of(Decoder(), [Frame(data, wire=0xFFFF_FFF0, ts_us=n) for n in range(3)]))
    (flow,) = table.drain()
    payload = 262_144 - 14 - 20 - 8
    assert flow["fwd"]["payload"]["sum"] == 3 * payload
    assert flow["fwd"]["payload"]["square"] == 3 * payload**2


# CICFlowMeter's payload rule


def test_captured_payload_ends_with_the_capture_and_counts_padding_behind_a_tag() -> None:
    decoder = Decoder(payload="captured")
    plain, tagged = stack(ether(), inner4()), stack(ether(), Dot1Q(vlan=7), inner4())
    assert told(plain + bytes(6), decoder=decoder)["payload_bytes"] == 5
    assert told(tagged + bytes(6), decoder=decoder)["payload_bytes"] == 11
    assert told(plain[:-2], wire=len(plain), decoder=decoder)["payload_bytes"] == 3
    assert told(plain[:50], wire=len(plain), decoder=decoder)["header_bytes"] == 16


def test_captured_rule_gives_later_fragments_and_icmp_nothing() -> None:
    decoder = Decoder(payload="captured")
    rows = packets_of(decoder, [Frame(piece) for piece in fragments4()])
    assert rows["protocol"].tolist() == [17] + [0] * (len(rows) - 1)
    assert rows["payload_bytes"].tolist()[1:] == [0] * (len(rows) - 1)
    row = told(stack(ether(), outer(), ICMP(type=8), Raw(b"ping")), decoder=decoder)
    assert (row["header_bytes"], row["payload_bytes"], row["icmp_type"]) == (0, 0, 8)


# The decoder


def test_blocks_may_be_of_any_size_and_any_kind_of_array(tmp_path: Path) -> None:
    frames = [Frame(TCP_FRAME, ts_us=n) for n in range(5000)]
    data, rows = block_of(frames)
    (tmp_path / "bytes").write_bytes(data.tobytes())
    decoder = Decoder()
    for buffer in (data, data.copy(), np.memmap(tmp_path / "bytes", np.uint8, "r")):
        for size in (1, 4096, 5000):
            packets = decoder.decode(FrameBlock(buffer, rows[:size]))
            assert packets["ts_us"].tolist() == list(range(size))
            assert packets.dtype == PACKET
    assert len(decoder.decode(FrameBlock(data[:0], rows[:0]))) == 0
    signatures = getattr(decode_kernel.decode_frames, "signatures", [()])  # absent where kernels are not compiled
    assert len(signatures) == 1


def test_rows_do_not_depend_on_how_frames_are_cut_into_blocks() -> None:
    frames = [Frame(piece) for piece in [*fragments4(), stack(ether(), inner4()), stack(ether(), ARP()), *fragments6()]]
    together, apart = Decoder(), Decoder()
    rows = packets_of(together, frames)
    one_by_one = np.concatenate([packets_of(apart, [frame]) for frame in frames])
    assert rows.tobytes() == one_by_one.tobytes()
    assert together.skipped.tolist() == apart.skipped.tolist()


def test_wrong_settings_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"'teredo'.*vxlan"):
        Decoder(tunnels={"gre", "teredo"})
    with pytest.raises(ValueError, match="'wire'"):
        Decoder(payload="wire")  # type: ignore[arg-type]  # that is the mistake


def test_every_reason_has_a_code_and_the_codes_are_in_order() -> None:
    codes = [
        decode_bytes.OUTSIDE_BLOCK, decode_bytes.LINK_TYPE, decode_bytes.CUT_LINK, decode_bytes.ARP_SKIP,
        decode_bytes.NOT_IP, decode_bytes.LAYER_OFF, decode_bytes.CUT_IP, decode_bytes.IP_VERSION,
        decode_bytes.IP_HEADER, decode_bytes.CUT_TRANSPORT, decode_bytes.BAD_TRANSPORT, decode_bytes.TOO_DEEP,
        decode_bytes.FRAGMENT_WITHOUT_FIRST, decode_bytes.FRAGMENT_OF_TUNNEL,
    ]  # fmt: skip
    assert [~code for code in codes] == list(range(len(SKIPS)))


def test_outer_ipv6_keeps_its_addresses_when_the_tunnel_is_closed() -> None:
    row = told(stack(ether(), outer6(), GRE(), inner4()), decoder=Decoder(tunnels=()))
    assert (row["src"], row["protocol"]) == (bytes.fromhex("20010db8" + "00" * 11 + "01"), 47)
