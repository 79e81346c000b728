"""Addresses as text, and the Community ID of a flow.

Inside netseq an address is two 64-bit halves (see `schema`); people, logs and other tools want text. The text is that of
the C library's inet_ntop, which Zeek prints too, so that an alert's address can be pasted into a search of conn.log. The
Community ID (version 1, seed 0; https://github.com/corelight/community-id-spec) is the one name that Zeek, Suricata,
Arkime and Wireshark give the same flow. One call per alert or log line: nothing here is on the path of a packet.
"""

from __future__ import annotations

import base64
import hashlib
import socket
import struct

from sensor.schema import ICMP, ICMPV6, SCTP, TCP, UDP, V4_MAPPED

IPV4_HALF = V4_MAPPED >> 32
"""What the upper 32 bits of the low half are when the address is an IPv4 one."""

ICMP_ANSWERS = {8: 0, 0: 8, 13: 14, 14: 13, 15: 16, 16: 15, 10: 9, 9: 10, 17: 18, 18: 17}
"""ICMP types that ask and the types that answer them, as Zeek pairs them and the Community ID's specification demands."""

ICMPV6_ANSWERS = {
    128: 129, 129: 128, 130: 131, 131: 130, 133: 134, 134: 133, 135: 136, 136: 135, 139: 140, 140: 139, 144: 145, 145: 144,
}  # fmt: skip
"""The same for ICMPv6."""

WITH_PORTS = frozenset((TCP, UDP, SCTP))
"""Protocols whose ports go into the Community ID."""


def packed(hi: int, lo: int) -> bytes:
    """Give the address in network order: 4 bytes for IPv4 (the mapped form), else 16."""
    if hi == 0 and lo >> 32 == IPV4_HALF:
        return struct.pack("!I", lo & 0xFFFF_FFFF)
    return struct.pack("!QQ", hi, lo)


def text(hi: int, lo: int) -> str:
    """Write the address as inet_ntop does: dotted for IPv4, RFC 5952 for IPv6."""
    address = packed(hi, lo)
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)


def halves(address: str) -> tuple[int, int]:
    """Read an IPv4 or IPv6 address into its (hi, lo) halves. Raises ValueError for anything else."""
    try:
        if ":" not in address:
            return 0, V4_MAPPED | struct.unpack("!I", socket.inet_pton(socket.AF_INET, address))[0]
        hi, lo = struct.unpack("!QQ", socket.inet_pton(socket.AF_INET6, address))
    except (OSError, ValueError):  # ValueError: a NUL, or what is no UTF-8
        raise ValueError(f"not an IP address: {address!r}") from None
    return hi, lo


def icmp_ports(protocol: int, icmp_type: int, icmp_code: int) -> tuple[int, int]:
    """Say what stands in an ICMP flow's two port fields, as in conn.log: the type, then the answering type or the code."""
    answers = ICMP_ANSWERS if protocol == ICMP else ICMPV6_ANSWERS
    return icmp_type, answers.get(icmp_type, icmp_code)


def community_id(protocol: int, src: tuple[int, int], dst: tuple[int, int], src_port: int, dst_port: int) -> str:
    """Give the flow's Community ID, version 1 with seed 0; `src` and `dst` are (hi, lo).

    For ICMP and ICMPv6 the ports are type and code, or what conn.log has in their place (see `icmp_ports`); protocols
    other than these, TCP, UDP and SCTP have no ports. The smaller (address, port) comes first, unless it is an ICMP type
    that nothing answers: such a flow has one direction only.
    """
    here, there = packed(*src), packed(*dst)
    one_way = False
    ports = protocol in WITH_PORTS
    if protocol in (ICMP, ICMPV6):
        one_way = src_port not in (ICMP_ANSWERS if protocol == ICMP else ICMPV6_ANSWERS)
        src_port, dst_port = icmp_ports(protocol, src_port, dst_port)
        ports = True
    if not one_way and (there, dst_port * ports) < (here, src_port * ports):
        here, there, src_port, dst_port = there, here, dst_port, src_port
    hashed = struct.pack("!H", 0) + here + there + struct.pack("!BB", protocol, 0)
    if ports:
        hashed += struct.pack("!HH", src_port, dst_port)
    digest = hashlib.sha1(hashed, usedforsecurity=False).digest()
    return "1:" + base64.b64encode(digest).decode()
