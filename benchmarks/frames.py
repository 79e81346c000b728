"""Turn planned packets into the bytes of a pcap file, thousands at a time.

A plan is one PLANNED row per packet: who to whom, what flags, how many bytes. Packets that share a header layout (tags,
IP version, transport, fragment) are filled in together as one big-endian record array and scattered to their places, so
that a gigabyte takes seconds; a packet library that builds one packet at a time would take an hour. IPv4 header checksums
are right; transport checksums stay zero, as a capture on a sending host with checksum offload shows them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.schema import ICMP, ICMPV6, TCP, UDP

PLANNED = np.dtype(
    [
        ("ts_us", "<i8"),
        ("src", "<u4"),  # host number: the IPv4 address, and the low half of the IPv6 one
        ("dst", "<u4"),
        ("seq", "<u4"),
        ("ack", "<u4"),
        ("src_port", "<u2"),  # ICMP: the identifier
        ("dst_port", "<u2"),  # ICMP: the sequence number
        ("payload_bytes", "<u2"),  # in this frame, after the transport header (a later fragment has none)
        ("datagram_bytes", "<u2"),  # UDP payload of all fragments together; other packets: payload_bytes
        ("window", "<u2"),
        ("ip_id", "<u2"),
        ("vlan", "<u2"),  # 0: no tag
        ("outer_vlan", "<u2"),  # 0: no second tag
        ("protocol", "u1"),  # IPv4's number; IPv6 frames say ICMPv6 for ICMP
        ("tcp_flags", "u1"),
        ("version", "u1"),  # 4 or 6
        ("fragment", "u1"),  # WHOLE, FIRST or LATER
        ("reply", "u1"),  # 1: the responder sent it
    ]
)
"""One packet to be written."""

WHOLE, FIRST, LATER = range(3)
FIRST_FRAGMENT_BYTES = 1448
"""What a first fragment carries, UDP header included: a multiple of 8 that fits a 1,500-byte link over IPv4 and IPv6."""

PCAP_HEADER = np.array([(0xA1B2C3D4, 2, 4, 0, 0, 262_144, 1)], dtype="<u4, <u2, <u2, <i4, <u4, <u4, <u4").tobytes()
"""Classic pcap, microseconds, Ethernet (draft-ietf-opsawg-pcap)."""

RECORD = [("seconds", "<u4"), ("microseconds", "<u4"), ("captured", "<u4"), ("wire", "<u4")]
MACS = [("mac_dst", ">u8"), ("mac_src", ">u4")]  # twelve bytes in two numbers: 6 + 2, and 4
TAGS: list[list[tuple[str, str]]] = [
    [],
    [("tpid", ">u2"), ("tci", ">u2")],
    [("outer_tpid", ">u2"), ("outer_tci", ">u2"), ("tpid", ">u2"), ("tci", ">u2")],
]
IPV4_HEADER = [
    ("ip_first", ">u2"), ("ip_total", ">u2"), ("ip_id", ">u2"), ("ip_fragment", ">u2"),
    ("ip_ttl", "u1"), ("ip_protocol", "u1"), ("ip_checksum", ">u2"), ("src", ">u4"), ("dst", ">u4"),
]  # fmt: skip
IPV6_HEADER = [
    ("ip_first", ">u4"), ("ip_payload", ">u2"), ("ip_next", "u1"), ("ip_hops", "u1"),
    ("src_hi", ">u8"), ("src", ">u8"), ("dst_hi", ">u8"), ("dst", ">u8"),
]  # fmt: skip
FRAGMENT_HEADER = [("fragment_next", "u1"), ("fragment_zero", "u1"), ("fragment_offset", ">u2"), ("fragment_id", ">u4")]
TRANSPORTS = {
    TCP: [
        ("src_port", ">u2"), ("dst_port", ">u2"), ("seq", ">u4"), ("ack", ">u4"), ("offset", "u1"), ("flags", "u1"),
        ("window", ">u2"), ("checksum", ">u2"), ("urgent", ">u2"),
        ("option", ">u4"), ("option_time", ">u4"), ("option_echo", ">u4"),
    ],
    UDP: [("src_port", ">u2"), ("dst_port", ">u2"), ("length", ">u2"), ("checksum", ">u2")],
    ICMP: [("type", "u1"), ("code", "u1"), ("checksum", ">u2"), ("src_port", ">u2"), ("dst_port", ">u2")],
}  # fmt: skip
TIMESTAMP_OPTION = 0x0101080A
"""Two no-operations, then a timestamp option (RFC 7323): the 32-byte TCP header that most of today's segments have."""
IPV6_PREFIX = 0x2001_0DB8_0000_0001
"""The documentation prefix (RFC 3849)."""


class Layout(NamedTuple):
    """What decides the shape of a frame's headers."""

    tags: int
    version: int
    protocol: int
    fragment: int

    def dtype(self) -> np.dtype[np.void]:
        """Record header and all headers of one frame, packed."""
        network = IPV4_HEADER if self.version == 4 else IPV6_HEADER
        if self.version == 6 and self.fragment != WHOLE:
            network = network + FRAGMENT_HEADER
        transport = [] if self.fragment == LATER else TRANSPORTS[self.protocol]
        return np.dtype(RECORD + MACS + TAGS[self.tags] + [("ethertype", ">u2")] + network + transport)


def pack(plan: NDArray[np.void]) -> NDArray[np.uint8]:
    """Return the bytes of the pcap records of (n,) PLANNED rows, in row order."""
    codes = _layout_codes(plan)
    layouts = [_layout(int(code)) for code in np.unique(codes)]
    rows = [np.flatnonzero(codes == code) for code in np.unique(codes)]
    sizes = np.empty(len(plan), np.int64)
    for layout, chosen in zip(layouts, rows, strict=True):
        sizes[chosen] = layout.dtype().itemsize + plan["payload_bytes"][chosen]
    ends = np.cumsum(sizes)
    out = np.resize(_PAYLOAD, int(ends[-1]))
    for layout, chosen in zip(layouts, rows, strict=True):
        headers = _headers(layout, plan[chosen], sizes[chosen])
        columns = headers.view(np.uint8).reshape(len(headers), layout.dtype().itemsize)
        places = (ends - sizes)[chosen]
        for column in range(columns.shape[1]):
            out[places + column] = columns[:, column]
    return out


_PAYLOAD = np.random.default_rng(20).integers(0, 256, 65_521, np.uint8)


def _layout_codes(plan: NDArray[np.void]) -> NDArray[np.int64]:
    tags = (plan["vlan"] > 0).astype(np.int64) + (plan["outer_vlan"] > 0)
    codes: NDArray[np.int64] = ((tags * 8 + plan["version"]) * 256 + plan["protocol"]) * 4 + plan["fragment"]
    return codes


def _layout(code: int) -> Layout:
    return Layout(code >> 13, code >> 10 & 7, code >> 2 & 255, code & 3)


def _headers(layout: Layout, plan: NDArray[np.void], sizes: NDArray[np.int64]) -> NDArray[np.void]:
    headers = np.zeros(len(plan), layout.dtype())
    headers["seconds"], headers["microseconds"] = np.divmod(plan["ts_us"], 1_000_000)
    headers["captured"] = headers["wire"] = sizes - 16
    headers["mac_dst"] = 0x0200_0000_0000_0200 + ((plan["dst"].astype(np.uint64) % 251) << 16)
    headers["mac_src"] = plan["src"] % 251
    if layout.tags == 2:
        headers["outer_tpid"], headers["outer_tci"] = 0x88A8, plan["outer_vlan"]
    if layout.tags:
        headers["tpid"], headers["tci"] = 0x8100, plan["vlan"]
    headers["src"], headers["dst"] = plan["src"], plan["dst"]
    network = sizes - 16 - 14 - 4 * layout.tags
    if layout.version == 4:
        _fill_ipv4(headers, plan, layout, network)
    else:
        _fill_ipv6(headers, plan, layout, network)
    if layout.fragment != LATER:
        _FILLERS[layout.protocol](headers, plan)
    return headers


def _fill_ipv4(headers: NDArray[np.void], plan: NDArray[np.void], layout: Layout, network: NDArray[np.int64]) -> None:
    headers["ethertype"], headers["ip_first"], headers["ip_total"] = 0x0800, 0x4500, network
    headers["ip_id"], headers["ip_ttl"], headers["ip_protocol"] = plan["ip_id"], 61, layout.protocol
    headers["ip_fragment"] = (0x4000, 0x2000, FIRST_FRAGMENT_BYTES // 8)[layout.fragment]  # DF; MF; the offset
    total = np.zeros(len(plan), np.int64)
    for name in ("ip_first", "ip_total", "ip_id", "ip_fragment"):
        total += headers[name]
    total += (headers["ip_ttl"].astype(np.int64) << 8) + headers["ip_protocol"]
    for name in ("src", "dst"):
        total += (headers[name] >> 16).astype(np.int64) + (headers[name] & 0xFFFF)
    total = (total & 0xFFFF) + (total >> 16)
    headers["ip_checksum"] = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF


def _fill_ipv6(headers: NDArray[np.void], plan: NDArray[np.void], layout: Layout, network: NDArray[np.int64]) -> None:
    headers["ethertype"], headers["ip_first"], headers["ip_payload"] = 0x86DD, 0x6000_0000, network - 40
    headers["ip_hops"], headers["src_hi"], headers["dst_hi"] = 61, IPV6_PREFIX, IPV6_PREFIX
    upper = ICMPV6 if layout.protocol == ICMP else layout.protocol
    headers["ip_next"] = upper
    if layout.fragment != WHOLE:
        headers["ip_next"], headers["fragment_next"] = 44, upper  # 44: fragment header (RFC 8200, 4.5)
        headers["fragment_id"] = plan["ip_id"]
        headers["fragment_offset"] = 1 if layout.fragment == FIRST else FIRST_FRAGMENT_BYTES  # 1: more follow


def _fill_tcp(headers: NDArray[np.void], plan: NDArray[np.void]) -> None:
    for name in ("src_port", "dst_port", "seq", "ack", "window"):
        headers[name] = plan[name]
    headers["offset"], headers["flags"] = 8 << 4, plan["tcp_flags"]  # eight words: 32 bytes
    headers["option"], headers["option_time"] = TIMESTAMP_OPTION, plan["ts_us"] // 1000 & 0xFFFF_FFFF


def _fill_udp(headers: NDArray[np.void], plan: NDArray[np.void]) -> None:
    headers["src_port"], headers["dst_port"] = plan["src_port"], plan["dst_port"]
    headers["length"] = plan["datagram_bytes"] + 8


def _fill_icmp(headers: NDArray[np.void], plan: NDArray[np.void]) -> None:
    headers["src_port"], headers["dst_port"] = plan["src_port"], plan["dst_port"]
    echo = np.where(plan["version"] == 6, 128, 8)  # echo request; the reply is 0 in IPv4 and 129 in IPv6
    answer = np.where(plan["version"] == 6, 129, 0)
    headers["type"] = np.where(plan["reply"] == 1, answer, echo)


_FILLERS = {TCP: _fill_tcp, UDP: _fill_udp, ICMP: _fill_icmp}
