"""Numbers out of a frame's bytes, and the names of what a walk over its headers can come to: kinds, and reasons for no row.

Every compiled file of the decoder stands on this one. Indices are unsigned, so that a wrong one cannot wrap around; what is
read is int64, in which the kernels compute.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sensor.kernels import part

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

# Kinds: ethertypes, and numbers above them for what has none.
IPV4, ARP, RARP, IPV6, ETHERNET, PPP, MPLS, MPLS_MULTICAST = 0x0800, 0x0806, 0x8035, 0x86DD, 0x6558, 0x880B, 0x8847, 0x8848
BY_NIBBLE = 0x1_0000  # IPv4 or IPv6, as its first four bits say
PLAIN = 0x1_0001  # no tunnel: the transport header is the last one looked at

# Bits of `on`: the layers that are looked through, and CICFlowMeter's payload rule.
ON_VLAN, ON_MPLS, ON_PPPOE, ON_GRE, ON_IPIP, ON_6IN4, ON_VXLAN, ON_GENEVE, ON_GTPU, CAPTURED = (1 << bit for bit in range(10))

EXTENSIONS = 12  # extension headers per packet, in IPv6 (RFC 8200 has five kinds, one of which may come twice) and in GTP-U
SHIFT_32 = np.uint64(32)

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
