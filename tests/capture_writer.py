"""A plain writer of capture files for the tests: written from the format drafts, sharing nothing with the readers."""

from __future__ import annotations

import struct
from typing import NamedTuple

SECTION, INTERFACE, OLD_PACKET, SIMPLE, ENHANCED = 0x0A0D0D0A, 1, 2, 3, 6


class Frame(NamedTuple):
    ts_us: int
    data: bytes
    wire_bytes: int
    link_type: int = 1


def order_of(big: bool) -> str:
    return ">" if big else "<"


def pcap_header(
    *, big: bool = False, magic: int = 0xA1B2C3D4, version: tuple[int, int] = (2, 4), snap: int = 262_144, network: int = 1
) -> bytes:
    return struct.pack(order_of(big) + "IHHiIII", magic, *version, 0, 0, snap, network)


def pcap_record(
    seconds: int,
    fraction: int,
    data: bytes,
    wire_bytes: int | None = None,
    *,
    big: bool = False,
    extra: bytes = b"",
    swap: bool = False,
) -> bytes:
    wire_bytes = len(data) if wire_bytes is None else wire_bytes
    lengths = (wire_bytes, len(data)) if swap else (len(data), wire_bytes)
    return struct.pack(order_of(big) + "IIII", seconds, fraction, *lengths) + extra + data


def simple_pcap(frames: list[Frame], *, big: bool = False) -> bytes:
    records = [pcap_record(*divmod(frame.ts_us, 1_000_000), frame.data, frame.wire_bytes, big=big) for frame in frames]
    return pcap_header(big=big, network=frames[0].link_type if frames else 1) + b"".join(records)


def block(kind: int, body: bytes, *, big: bool = False) -> bytes:
    body += bytes(-len(body) % 4)
    length = struct.pack(order_of(big) + "I", len(body) + 12)
    return struct.pack(order_of(big) + "I", kind) + length + body + length


def option(code: int, value: bytes, *, big: bool = False) -> bytes:
    return struct.pack(order_of(big) + "HH", code, len(value)) + value + bytes(-len(value) % 4)


def section(*, big: bool = False, version: tuple[int, int] = (1, 0), options: bytes = b"") -> bytes:
    return block(SECTION, struct.pack(order_of(big) + "IHHq", 0x1A2B3C4D, *version, -1) + options, big=big)


def interface(
    *, big: bool = False, link_type: int = 1, snap: int = 0, resolution: int | None = None, offset_s: int | None = None
) -> bytes:
    options = option(2, b"eth0", big=big)
    if resolution is not None:
        options += option(9, bytes([resolution]), big=big)
    if offset_s is not None:
        options += option(14, struct.pack(order_of(big) + "q", offset_s), big=big)
    return block(INTERFACE, struct.pack(order_of(big) + "HHI", link_type, 0, snap) + options + option(0, b"", big=big), big=big)


def enhanced(
    ticks: int, data: bytes, wire_bytes: int | None = None, *, number: int = 0, big: bool = False, options: bytes = b""
) -> bytes:
    head = struct.pack(
        order_of(big) + "IIIII",
        number,
        ticks >> 32,
        ticks & 0xFFFF_FFFF,
        len(data),
        len(data) if wire_bytes is None else wire_bytes,
    )
    return block(ENHANCED, head + data + bytes(-len(data) % 4) + options, big=big)


def old_packet(ticks: int, data: bytes, wire_bytes: int, *, number: int = 0, big: bool = False) -> bytes:
    head = struct.pack(order_of(big) + "HHIIII", number, 0xFFFF, ticks >> 32, ticks & 0xFFFF_FFFF, len(data), wire_bytes)
    return block(OLD_PACKET, head + data, big=big)


def simple(data: bytes, wire_bytes: int | None = None, *, big: bool = False) -> bytes:
    return block(SIMPLE, struct.pack(order_of(big) + "I", len(data) if wire_bytes is None else wire_bytes) + data, big=big)
