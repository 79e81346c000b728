"""Headers that are not IP's, compiled: link layers, tags, labels and tunnels, each a function that gives the next (kind, at).

They differ in one thing only: where the next header begins and what it is. Kinds are ethertypes, with two made-up ones above
0xffff for what has no ethertype; a kind below zero is the reason why the frame yields no row. Every read is checked against
`cap`, the end of the captured bytes, at the edge of its header. `sensor.decode_kernel` calls `link_header` first, then
`layer` until IP is found, and `tunnel` behind each IP header.

Sources: RFC 2784, 2890, 2637 (GRE), 7348 (VXLAN), 8926 (GENEVE), 3GPP TS 29.281 (GTP-U), 3032 and 4385 (MPLS), 2516 (PPPoE),
1661, 1662 (PPP), 1042 (SNAP); link types: www.tcpdump.org/linktypes.html.
"""

from __future__ import annotations

from sensor.decode_bytes import (
    ARP,
    ARP_SKIP,
    BY_NIBBLE,
    CUT_IP,
    CUT_LINK,
    ETHERNET,
    EXTENSIONS,
    IP_VERSION,
    IPV4,
    IPV6,
    LAYER_OFF,
    LINK_TYPE,
    MPLS,
    MPLS_MULTICAST,
    NOT_IP,
    ON_6IN4,
    ON_GENEVE,
    ON_GRE,
    ON_GTPU,
    ON_IPIP,
    ON_MPLS,
    ON_PPPOE,
    ON_VLAN,
    ON_VXLAN,
    PLAIN,
    PPP,
    RARP,
    Bytes,
    u8,
    u16,
    u32,
)
from sensor.kernels import part
from sensor.schema import GRE, UDP

VLAN, QINQ, QINQ_OLD, PPPOE, ERSPAN_2, ERSPAN_3 = 0x8100, 0x88A8, 0x9100, 0x8864, 0x88BE, 0x22EB
SMALLEST_ETHERTYPE = 0x600  # below: an 802.3 length, and LLC follows


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
