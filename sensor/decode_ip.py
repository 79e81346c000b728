"""IP headers, compiled: addresses and lengths into the row, extension headers, and the memory of first fragments.

A fragment without a transport header gets the ports of the first one from a bounded table, or is counted. `ipv4` and `ipv6`
give the protocol of what follows, where it begins and where it ends by the IP header; a protocol below zero is DONE or the
reason why the frame yields no row. `sensor.decode_kernel` calls them, and fills in with `remember` what a first fragment
turned out to carry; `sensor.decode.Decoder` owns the table.

Sources: RFC 791, 8200, 4302, 6946.
"""

from __future__ import annotations

import numpy as np

from sensor.decode_bytes import (
    CAPTURED,
    CUT_IP,
    DONE,
    EXTENSIONS,
    FRAGMENT_OF_TUNNEL,
    FRAGMENT_WITHOUT_FIRST,
    IP_HEADER,
    IP_VERSION,
    SHIFT_32,
    TOO_DEEP,
    Bytes,
    Rows,
    signed,
    u8,
    u16,
    u32,
    u64,
)
from sensor.kernels import part
from sensor.schema import NOTE_FRAGMENT, NOTE_LATER_FRAGMENT, V4_MAPPED

FRAGMENT_US = 30_000_000  # how long a first fragment is remembered; RFC 791 and Linux wait 15 to 30 s for the rest
WAYS = 4  # slots that a fragment's hash allows; the one not heard of for the longest time is replaced

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
SHIFT_16 = np.uint64(16)
MAPPED = np.uint64(V4_MAPPED)
HASH = np.uint64(0x9E37_79B1)  # 2**32 / golden ratio, prime (Knuth)


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
def remember(held: np.void, row: np.void) -> None:
    """What later fragments will need of the first one."""
    held["src_port"] = row["src_port"]
    held["dst_port"] = row["dst_port"]
    held["protocol"] = row["protocol"]
    held["icmp_type"] = row["icmp_type"]
    held["icmp_code"] = row["icmp_code"]
    held["state"] = HELD_PORTS


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
