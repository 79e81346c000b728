"""The compiled walk over the headers of a frame: bytes in, one PACKET row or the reason why there is none out.

The walk speaks ethertypes. Link layers, tags, labels and tunnels differ in one thing only: where the next header begins
and what it is; so each is a function that takes (kind, at) and gives the next (kind, at), with two made-up kinds above
0xffff for what has no ethertype. An IP header gives a protocol instead; a tunnel turns that into a kind again; anything
else ends the walk in one row. A kind below zero is the reason why there will be none.

Three rules make rows independent of how much was captured. Lengths come from IP headers, never from the captured bytes
(an IP length of zero, as segmentation offload leaves behind, means up to the end of the frame on the wire, or to
FRAME_BYTES where a false wire length lies beyond). A tunnel whose inside yields no packet does not hide the one around it:
the walk is repeated with that tunnel closed. Fragments without a transport header get the ports of the first one from a
bounded table, or are counted.

Every read is checked against `cap`, the end of the captured bytes, at the edge of its header; indices are unsigned, so that
a wrong one cannot wrap around. The file is longer than others of the house because kernels that call one another share a
file: the cache of compiled code knows of no other. `sensor.decode.Decoder` owns the arrays and calls `decode_frames`.

Sources: RFC 791, 8200, 4302 (IP), 2784, 2890, 2637 (GRE), 7348 (VXLAN), 8926 (GENEVE), 3GPP TS 29.281 (GTP-U), 3032 and
4385 (MPLS), 2516 (PPPoE), 1661, 1662 (PPP), 1042 (SNAP); link types: www.tcpdump.org/linktypes.html.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sensor.kernels import loop, part
from sensor.schema import GRE, ICMP, ICMPV6, NOTE_FRAGMENT, NOTE_LATER_FRAGMENT, NOTE_TUNNEL, SCTP, TCP, UDP, V4_MAPPED

SKIPS = (
    "outside_block",  # the FRAME row points outside its buffer: a fault of the source
    "link_type",  # see Decoder.link_types_unknown
    "cut_link",  # the capture ends inside a link-layer header, tag or label
    "arp",
    "not_ip",  # another ethertype, LLC or PPP protocol
    "layer_off",  # VLAN, MPLS or PPPoE while the setting does not look through it
    "cut_ip",  # the capture ends inside an IP or extension header
    "ip_version",
    "ip_header",  # its length fields contradict each other
    "cut_transport",  # the capture ends before the ports and, in TCP, the window
    "bad_transport",  # the transport header does not fit into what the IP header leaves, or TCP's offset is under 20
    "too_deep",  # more headers than HEADERS
    "fragment_without_first",
    "fragment_of_tunnel",  # its first fragment was looked through: the packet inside has counted these bytes already
)
"""Why a frame yields no row; the index is the position in `Decoder.skipped`."""

# The same, as the kernels return them: ~index, below zero, so that no kind or protocol can be mistaken for one.
OUTSIDE_BLOCK, LINK_TYPE, CUT_LINK, ARP_SKIP, NOT_IP, LAYER_OFF, CUT_IP = -1, -2, -3, -4, -5, -6, -7
IP_VERSION, IP_HEADER, CUT_TRANSPORT, BAD_TRANSPORT, TOO_DEEP = -8, -9, -10, -11, -12
FRAGMENT_WITHOUT_FIRST, FRAGMENT_OF_TUNNEL = -13, -14
DONE = -100  # the row is written

HEADERS = 32  # looked through per frame, so that made-up nesting costs no more than a microsecond; real traffic has under 12
EXTENSIONS = 12  # IPv6 extension headers per packet; RFC 8200 has five kinds and lets one of them come twice
FRAME_BYTES = 1 << 18  # of a frame, as `sources` hand over at most: the sums of squares in schema.SIZES rely on it
FRAGMENT_US = 30_000_000  # how long a first fragment is remembered; RFC 791 and Linux wait 15 to 30 s for the rest
WAYS = 4  # slots that a fragment's hash allows; the one not heard of for the longest time is replaced

# Kinds: ethertypes, and numbers above them for what has none.
IPV4, ARP, RARP, IPV6, ETHERNET, PPP, MPLS, MPLS_MULTICAST = 0x0800, 0x0806, 0x8035, 0x86DD, 0x6558, 0x880B, 0x8847, 0x8848
VLAN, QINQ, QINQ_OLD, PPPOE, ERSPAN_2, ERSPAN_3 = 0x8100, 0x88A8, 0x9100, 0x8864, 0x88BE, 0x22EB
SMALLEST_ETHERTYPE = 0x600  # below: an 802.3 length, and LLC follows
BY_NIBBLE = 0x1_0000  # IPv4 or IPv6, as its first four bits say
PLAIN = 0x1_0001  # no tunnel: the transport header is the last one looked at

# Bits of `on`: the layers that are looked through, and CICFlowMeter's payload rule.
ON_VLAN, ON_MPLS, ON_PPPOE, ON_GRE, ON_IPIP, ON_6IN4, ON_VXLAN, ON_GENEVE, ON_GTPU, CAPTURED = (1 << bit for bit in range(10))

FRAGMENT = np.dtype(
    [
        ("src_hi", "<u8"),
        ("src_lo", "<u8"),
        ("dst_hi", "<u8"),
        ("dst_lo", "<u8"),
        ("seen_us", "<i8"),
        ("identification", "<u4"),
        ("src_port", "<u2"),
        ("dst_port", "<u2"),
        ("key", "u1"),  # the IPv4 protocol, or 44: in IPv6 fragments need not agree on the next header (RFC 8200, 4.5)
        ("protocol", "u1"),
        ("icmp_type", "u1"),
        ("icmp_code", "u1"),
        ("state", "u1"),  # HELD_*
        ("reserved", "u1", (3,)),
    ]
)
HELD_NOTHING, HELD_PORTS, HELD_TUNNEL = 0, 1, 2  # what the first fragment had: no transport header, ports, a tunnel
NO_SLOT = -1

LOW_32 = np.uint64(0xFFFF_FFFF)
SHIFT_16, SHIFT_32 = np.uint64(16), np.uint64(32)
MAPPED = np.uint64(V4_MAPPED)
HASH = np.uint64(0x9E37_79B1)  # 2**32 / golden ratio, prime (Knuth)

Bytes = NDArray[np.uint8]
Rows = NDArray[np.void]


@part
def signed(number: int) -> int:
    """An integer of any width as int64, in which the kernels compute: with uint64, numba would give floats."""
    return np.int64(number)  # type: ignore[return-value]  # for the checker the kernels' numbers are int


@part
def u8(data: Bytes, at: int) -> int:
    """Byte at `at`. Unsigned index: a negative one does not wrap around; in plain Python it is an IndexError."""
    return signed(data[np.uint64(at)])


@part
def u16(data: Bytes, at: int) -> int:
    """Big-endian 16 bits."""
    return u8(data, at) << 8 | u8(data, at + 1)


@part
def u32(data: Bytes, at: int) -> int:
    """Big-endian 32 bits."""
    return u8(data, at) << 24 | u8(data, at + 1) << 16 | u8(data, at + 2) << 8 | u8(data, at + 3)


@part
def u64(data: Bytes, at: int) -> np.uint64:
    """Big-endian 64 bits."""
    return np.uint64(u32(data, at)) << SHIFT_32 | np.uint64(u32(data, at + 4))


@part
def link_header(data: Bytes, at: int, cap: int, link_type: int) -> tuple[int, int]:
    """(kind, at) of what the file's link type puts first."""
    if link_type == 1:
        return ETHERNET, at
    if link_type in (12, 14, 101):
        return BY_NIBBLE, at
    if link_type == 113:  # Linux cooked capture
        return (u16(data, at + 14), at + 16) if at + 16 <= cap else (CUT_LINK, at)
    if link_type == 276:  # its second version
        return (u16(data, at), at + 20) if at + 20 <= cap else (CUT_LINK, at)
    if link_type == 228:
        return IPV4, at
    if link_type == 229:
        return IPV6, at
    if link_type in (0, 108):
        return address_family(data, at, cap)
    if link_type in (9, 50, 104):
        if at + 4 <= cap and u8(data, at) & 0x7F == 0x0F and u8(data, at + 1) == 0:  # Cisco's framing has ethertypes
            return u16(data, at + 2), at + 4
        return PPP, at
    return LINK_TYPE, at


@part
def address_family(data: Bytes, at: int, cap: int) -> tuple[int, int]:
    """BSD loopback: AF_INET or one of the AF_INET6 numbers, in the byte order of the machine that captured."""
    if at + 4 > cap:
        return CUT_LINK, at
    family = u32(data, at)
    if family & 0xFF_FFFF == 0:
        family >>= 24
    if family == 2:
        return IPV4, at + 4
    return (IPV6, at + 4) if family in (10, 23, 24, 28, 30) else (NOT_IP, at)


@part
def layer(data: Bytes, at: int, cap: int, kind: int, on: int) -> tuple[int, int]:
    """Look through one header that is not IP: (kind, at) of what it carries."""
    if kind == ETHERNET:
        return (u16(data, at + 12), at + 14) if at + 14 <= cap else (CUT_LINK, at)
    if kind in (VLAN, QINQ, QINQ_OLD):
        if not on & ON_VLAN:
            return LAYER_OFF, at
        return (u16(data, at + 2), at + 4) if at + 4 <= cap else (CUT_LINK, at)
    if kind == BY_NIBBLE:
        if at >= cap:
            return CUT_IP, at
        version = u8(data, at) >> 4
        return (IPV4, at) if version == 4 else (IPV6, at) if version == 6 else (IP_VERSION, at)
    if kind < SMALLEST_ETHERTYPE:
        return logical_link(data, at, cap)
    if kind in (MPLS, MPLS_MULTICAST):
        return label(data, at, cap) if on & ON_MPLS else (LAYER_OFF, at)
    if kind == PPPOE:
        if not on & ON_PPPOE:
            return LAYER_OFF, at
        if at + 6 > cap:
            return CUT_LINK, at
        return (PPP, at + 6) if u16(data, at) == 0x1100 else (NOT_IP, at)  # version 1, type 1, session data
    if kind == PPP:
        return point_to_point(data, at, cap)
    return (ARP_SKIP if kind in (ARP, RARP) else NOT_IP), at


@part
def logical_link(data: Bytes, at: int, cap: int) -> tuple[int, int]:
    """802.2: SNAP with an ethertype (RFC 1042 and 802.1H), or IP's own service access point (RFC 948)."""
    if at + 3 > cap:
        return CUT_LINK, at
    access_points = u16(data, at)
    if access_points == 0x0606:
        return IPV4, at + 3
    if access_points != 0xAAAA:
        return NOT_IP, at
    if at + 8 > cap:
        return CUT_LINK, at
    vendor = u32(data, at + 2) & 0xFF_FFFF
    kind = u16(data, at + 6)
    return (kind, at + 8) if vendor in (0, 0xF8) and kind >= SMALLEST_ETHERTYPE else (NOT_IP, at)


@part
def label(data: Bytes, at: int, cap: int) -> tuple[int, int]:
    """One MPLS label. What the last one carries is nowhere written: guessed by the first nibble, as routers do (RFC 4928).

    A nibble of 0 is a pseudowire's control word (RFC 4385) if an Ethernet header with a known ethertype stands behind it.
    """
    if at + 4 > cap:
        return CUT_LINK, at
    bottom = u8(data, at + 2) & 1
    at += 4
    if not bottom:
        return MPLS, at
    if at >= cap:
        return CUT_LINK, at
    nibble = u8(data, at) >> 4
    if nibble in (4, 6):
        return BY_NIBBLE, at
    if nibble == 0 and ethernet_seems_to_begin(data, at + 4, cap):
        return ETHERNET, at + 4
    return (ETHERNET, at) if ethernet_seems_to_begin(data, at, cap) else (NOT_IP, at)


@part
def ethernet_seems_to_begin(data: Bytes, at: int, cap: int) -> bool:
    """An ethertype that this module knows stands in the right place."""
    return at + 14 <= cap and u16(data, at + 12) in (IPV4, IPV6, ARP, VLAN, QINQ, QINQ_OLD, MPLS, PPPOE)


@part
def point_to_point(data: Bytes, at: int, cap: int) -> tuple[int, int]:
    """PPP, with or without HDLC's address and control bytes, the protocol in two bytes or compressed to one."""
    if at + 2 <= cap and u16(data, at) == 0xFF03:
        at += 2
    if at >= cap or (u8(data, at) & 1 == 0 and at + 2 > cap):
        return CUT_LINK, at
    protocol = u8(data, at)
    if protocol & 1 == 0:
        protocol = u16(data, at)
        at += 1
    at += 1
    if protocol == 0x21:
        return IPV4, at
    if protocol == 0x57:
        return IPV6, at
    return (MPLS, at) if protocol in (0x281, 0x283) else (NOT_IP, at)


@part
def tunnel(data: Bytes, at: int, cap: int, protocol: int, on: int) -> tuple[int, int]:
    """(kind, at) of what the header at `at` carries if it is a tunnel's that is looked through, else PLAIN."""
    if protocol == UDP:
        if at + 16 <= cap:  # UDP and the shortest tunnel header
            port = u16(data, at + 2)
            if port == 4789 and on & ON_VXLAN and u8(data, at + 8) & 0x08 and u8(data, at + 15) == 0:
                return ETHERNET, at + 16
            if port == 6081 and on & ON_GENEVE and u8(data, at + 8) >> 6 == 0:
                return u16(data, at + 10), at + 16 + (u8(data, at + 8) & 0x3F) * 4
            if port == 2152 and on & ON_GTPU and u16(data, at + 8) & 0xF0FF == 0x30FF:  # version 1, GTP, user data
                return user_plane(data, at + 8, cap)
    elif protocol == 4 and on & ON_IPIP:
        return IPV4, at
    elif protocol == 41 and on & ON_6IN4:
        return IPV6, at
    elif protocol == GRE and on & ON_GRE:
        return generic_routing(data, at, cap)
    elif protocol == 137 and on & ON_MPLS:
        return MPLS, at
    return PLAIN, at


@part
def generic_routing(data: Bytes, at: int, cap: int) -> tuple[int, int]:
    """GRE version 0 with checksum, key and sequence number, or PPTP's version 1. Source routes (RFC 1701) stay closed."""
    if at + 4 > cap:
        return PLAIN, at
    flags, kind = u16(data, at), u16(data, at + 2)
    version = flags & 7
    if version > 1 or flags & 0x4000 or (version == 1 and kind != PPP):
        return PLAIN, at
    if version == 1 and not flags & 0x1000:
        return PLAIN, at  # an acknowledgement alone
    at += 4 + 4 * ((flags >> 15 & 1) + (flags >> 13 & 1) + (flags >> 12 & 1))
    if version == 1:
        return PPP, at + 4 * (flags >> 7 & 1)
    if kind == ERSPAN_2:  # type I came without sequence number and header
        return ETHERNET, at + (8 if flags & 0x1000 else 0)
    if kind == ERSPAN_3:
        if at + 12 > cap:
            return PLAIN, at
        return ETHERNET, at + (20 if u8(data, at + 11) & 1 else 12)
    return kind, at


@part
def user_plane(data: Bytes, at: int, cap: int) -> tuple[int, int]:
    """GTP-U: eight bytes, four more if any of E, S, PN is set, then extension headers (TS 29.281, 5.2)."""
    flags = u8(data, at)
    at += 8
    if flags & 7 == 0:
        return BY_NIBBLE, at
    if at + 4 > cap:
        return PLAIN, at
    more = u8(data, at + 3) if flags & 4 else 0
    at += 4
    for _ in range(EXTENSIONS):
        if more == 0:
            return BY_NIBBLE, at
        if at >= cap or u8(data, at) == 0 or at + 4 * u8(data, at) > cap:
            break
        at += 4 * u8(data, at)
        more = u8(data, at - 1)
    return PLAIN, at


@part
def ipv4(data: Bytes, at: int, cap: int, end: int, row: np.void, table: Rows, on: int) -> tuple[int, int, int, int]:
    """Fill `row` from an IPv4 header: (protocol, at of its header, end by the IP header, slot of a first fragment)."""
    if at + 20 > cap:
        return CUT_IP, at, end, NO_SLOT
    first = u8(data, at)
    header = (first & 15) * 4
    total = u16(data, at + 2)
    if total == 0:
        total = end - at
    if first >> 4 != 4 or header < 20 or total < header:
        return (IP_VERSION if first >> 4 != 4 else IP_HEADER), at, end, NO_SLOT
    row["src_hi"] = 0
    row["src_lo"] = MAPPED | np.uint64(u32(data, at + 12))
    row["dst_hi"] = 0
    row["dst_lo"] = MAPPED | np.uint64(u32(data, at + 16))
    row["ip_bytes"] = total
    protocol = u8(data, at + 9)
    fragment = u16(data, at + 6) & 0x3FFF
    if fragment == 0:
        return protocol, at + header, at + total, NO_SLOT
    identification = u16(data, at + 4)
    if fragment & 0x1FFF:
        return later_fragment(row, total - header, identification, protocol, table, on), at, end, NO_SLOT
    return protocol, at + header, at + total, hold(row, identification, protocol, table)


@part
def ipv6(data: Bytes, at: int, cap: int, end: int, row: np.void, table: Rows, on: int) -> tuple[int, int, int, int]:
    """The same from an IPv6 header and the extension headers behind it."""
    if at + 40 > cap:
        return CUT_IP, at, end, NO_SLOT
    if u8(data, at) >> 4 != 6:
        return IP_VERSION, at, end, NO_SLOT
    length, protocol = u16(data, at + 4), u8(data, at + 6)
    stop = at + 40 + length
    if length == 0 and protocol != 59:  # a jumbogram, or segmentation offload
        stop = end
    row["src_hi"] = u64(data, at + 8)
    row["src_lo"] = u64(data, at + 16)
    row["dst_hi"] = u64(data, at + 24)
    row["dst_lo"] = u64(data, at + 32)
    row["ip_bytes"] = stop - at
    return extensions(data, at + 40, cap, stop, protocol, row, table, on)


@part
def extensions(
    data: Bytes, at: int, cap: int, stop: int, protocol: int, row: np.void, table: Rows, on: int
) -> tuple[int, int, int, int]:
    """Follow the chain of IPv6 extension headers to the first header that is none."""
    slot = NO_SLOT
    for _ in range(EXTENSIONS):
        if protocol not in (0, 43, 44, 51, 60, 135, 139, 140):
            return protocol, at, stop, slot
        if at + 8 > min(stop, cap):
            return (IP_HEADER if at + 8 > stop else CUT_IP), at, stop, slot
        following = u8(data, at)
        size = (u8(data, at + 1) + 1) * 8
        if protocol == 44:
            size = 8
            fragment = u16(data, at + 2)
            if fragment & 0xFFF8:
                return later_fragment(row, stop - at - 8, u32(data, at + 4), 44, table, on), at, stop, slot
            if fragment & 1:  # else it is alone ("atomic", RFC 6946)
                slot = hold(row, u32(data, at + 4), 44, table)
        elif protocol == 51:
            size = (u8(data, at + 1) + 2) * 4
        elif protocol >= 135 and following == 59:  # mobility, HIP and shim6 messages are their own payload
            return protocol, at, stop, slot
        at += size
        protocol = following
        if at > stop:
            return IP_HEADER, at, stop, slot
    return TOO_DEEP, at, stop, slot


@part
def slot_of(row: np.void, identification: int, key: int, table: Rows) -> tuple[int, bool]:
    """(slot that holds this key, True), or (slot to be replaced for it, False)."""
    mixed = row["src_hi"] ^ row["src_lo"] ^ row["dst_hi"] ^ row["dst_lo"]
    mixed = ((mixed ^ mixed >> SHIFT_32) & LOW_32 ^ np.uint64(identification ^ key << 16)) * HASH >> SHIFT_16
    begin = signed(mixed & LOW_32) & (len(table) - WAYS)  # a power of two less WAYS: the low bits stay clear
    stalest = begin
    for slot in range(begin, begin + WAYS):
        held = table[slot]
        if (
            held["identification"] == identification
            and held["key"] == key
            and held["src_lo"] == row["src_lo"]
            and held["dst_lo"] == row["dst_lo"]
            and held["src_hi"] == row["src_hi"]
            and held["dst_hi"] == row["dst_hi"]
        ):
            return slot, True
        if held["seen_us"] < table[stalest]["seen_us"]:
            stalest = slot
    return stalest, False


@part
def hold(row: np.void, identification: int, key: int, table: Rows) -> int:
    """Take a slot for a first fragment; what it carries is filled in when the walk knows. Returns the slot."""
    slot, _ = slot_of(row, identification, key, table)
    held = table[slot]
    held["src_hi"] = row["src_hi"]
    held["src_lo"] = row["src_lo"]
    held["dst_hi"] = row["dst_hi"]
    held["dst_lo"] = row["dst_lo"]
    held["seen_us"] = row["ts_us"]
    held["identification"] = identification
    held["key"] = key
    held["state"] = HELD_NOTHING
    return slot


@part
def later_fragment(row: np.void, payload: int, identification: int, key: int, table: Rows, on: int) -> int:
    """Finish the row of a fragment without transport header with the ports of its first one."""
    note = NOTE_FRAGMENT | NOTE_LATER_FRAGMENT
    if on & CAPTURED:  # CICFlowMeter: no transport, no protocol, no payload
        finish(row, 0, 0, 0, 0, 0, note)
        return DONE
    slot, found = slot_of(row, identification, key, table)
    held = table[slot]
    if not found or held["state"] == HELD_NOTHING or abs(row["ts_us"] - held["seen_us"]) > FRAGMENT_US:
        return FRAGMENT_WITHOUT_FIRST
    if held["state"] == HELD_TUNNEL:
        return FRAGMENT_OF_TUNNEL
    finish(row, signed(held["protocol"]), signed(held["src_port"]), signed(held["dst_port"]), 0, payload, note)
    row["icmp_type"] = held["icmp_type"]
    row["icmp_code"] = held["icmp_code"]
    return DONE


@part
def finish(row: np.void, protocol: int, src_port: int, dst_port: int, header: int, payload: int, notes: int) -> None:
    """Write every field behind the addresses: the buffer is reused, so none may keep what an earlier packet left."""
    row["payload_bytes"] = payload
    row["seq"] = 0
    row["ack"] = 0
    row["src_port"] = src_port
    row["dst_port"] = dst_port
    row["window"] = 0
    row["header_bytes"] = header
    row["protocol"] = protocol
    row["tcp_flags"] = 0
    row["icmp_type"] = 0
    row["icmp_code"] = 0
    row["notes"] = notes


@part
def transport(data: Bytes, at: int, cap: int, end: int, limit: int, row: np.void, protocol: int, on: int) -> int:
    """Finish `row` from the header at `at`: DONE, or the reason why not. `limit` is CICFlowMeter's end of the payload."""
    ports = protocol in (TCP, UDP, SCTP)
    icmp = protocol in (ICMP, ICMPV6)
    header = 20 if protocol == TCP else 12 if protocol == SCTP else 8 if protocol == UDP or icmp else 0
    needed = 16 if protocol == TCP else 4 if ports else 2 if icmp else 0  # up to TCP's window; ports; type and code
    if at + header > end:
        return BAD_TRANSPORT
    if needed > 0 and at + needed > cap:
        return CUT_TRANSPORT
    if protocol == TCP:
        header = (u8(data, at + 12) >> 4) * 4
        if header < 20 or at + header > end:
            return BAD_TRANSPORT
    payload = end - at - header
    if on & CAPTURED:
        header = min(header, cap - at) if ports else 0
        payload = max(limit - at - header, 0) if ports else 0
    finish(row, protocol, u16(data, at) if ports else 0, u16(data, at + 2) if ports else 0, header, payload, 0)
    if protocol == TCP:
        row["seq"] = u32(data, at + 4)
        row["ack"] = u32(data, at + 8)
        row["tcp_flags"] = u8(data, at + 13)
        row["window"] = u16(data, at + 14)
    elif icmp:
        row["icmp_type"] = u8(data, at)
        row["icmp_code"] = u8(data, at + 1)
    return DONE


@part
def walk(
    data: Bytes, start: int, cap: int, end: int, link_type: int, row: np.void, table: Rows, on: int, open_tunnels: int
) -> tuple[int, int]:
    """Look through the headers of one frame: (DONE or a reason, number of tunnels entered; never over `open_tunnels`)."""
    kind, at = link_header(data, start, cap, link_type)
    captured_end = cap
    tunnels = 0
    for _ in range(HEADERS):
        ip = at
        if kind == IPV4:
            protocol, at, end, slot = ipv4(data, at, cap, end, row, table, on)
        elif kind == IPV6:
            protocol, at, end, slot = ipv6(data, at, cap, end, row, table, on)
        elif kind < 0:
            return kind, tunnels
        else:
            kind, at = layer(data, at, cap, kind, on)
            continue
        if protocol < 0:
            return protocol, tunnels
        cap = min(cap, end)  # padding is not looked at
        kind, inside = tunnel(data, at, cap, protocol, on) if tunnels < open_tunnels else (PLAIN, at)
        if kind != PLAIN:
            tunnels += 1
            at = inside
            if slot != NO_SLOT:
                table[slot]["state"] = HELD_TUNNEL
            continue
        limit = cap if link_type == 1 and ip == start + 14 else captured_end
        result = transport(data, at, cap, end, limit, row, protocol, on)
        if slot != NO_SLOT and result == DONE:
            row["notes"] = NOTE_FRAGMENT
            remember(table[slot], row)
        return result, tunnels
    return TOO_DEEP, tunnels


@part
def remember(held: np.void, row: np.void) -> None:
    """What later fragments will need of the first one."""
    held["src_port"] = row["src_port"]
    held["dst_port"] = row["dst_port"]
    held["protocol"] = row["protocol"]
    held["icmp_type"] = row["icmp_type"]
    held["icmp_code"] = row["icmp_code"]
    held["state"] = HELD_PORTS


@part
def decode_frame(data: Bytes, frame: np.void, row: np.void, table: Rows, on: int) -> int:
    """DONE with `row` written, or the reason why not."""
    start, captured, wire = signed(frame["offset"]), signed(frame["captured_bytes"]), signed(frame["wire_bytes"])
    if start < 0 or start > len(data) - captured:
        return OUTSIDE_BLOCK
    cap, end = start + min(captured, FRAME_BYTES), start + min(max(captured, wire), FRAME_BYTES)
    row["ts_us"] = frame["ts_us"]
    open_tunnels = HEADERS
    while True:
        result, tunnels = walk(data, start, cap, end, signed(frame["link_type"]), row, table, on, open_tunnels)
        if result == DONE and tunnels > 0:
            row["notes"] = row["notes"] | NOTE_TUNNEL
        if result == DONE or result <= TOO_DEEP or tunnels == 0:
            return result
        open_tunnels = tunnels - 1


@loop
def decode_frames(
    data: Bytes,
    frames: Rows,
    packets: Rows,
    table: Rows,
    skipped: NDArray[np.int64],
    link_types: NDArray[np.int64],
    on: int,
) -> int:
    """Write one row of `packets` for each frame that has one, count the others; returns the number of rows."""
    rows = 0
    for i in range(len(frames)):
        result = decode_frame(data, frames[i], packets[rows], table, on)
        if result == DONE:
            rows += 1
            continue
        skipped[~result] += 1
        if result == LINK_TYPE:
            link_types[frames[i]["link_type"]] += 1
    return rows
