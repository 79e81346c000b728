"""The decoder's truth for tests: plain Python on sliced bytes, written for reading, not for speed.

It shares no code with the compiled walk and is built the other way round: headers are peeled off by recursion, each on the
bytes that lie before it; running out of bytes is an exception; and tunnels try their inside first and fall back to
themselves when it raises. Only the rules are the same.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace

LAYERS = frozenset({"vlan", "mpls", "pppoe", "gre", "ipip", "6in4", "vxlan", "geneve", "gtpu"})
HEADERS, EXTENSIONS, FRAGMENT_US, FRAME_BYTES = 32, 12, 30_000_000, 262_144
FRAGMENT, TUNNEL, LATER = 1, 2, 4

AGAIN = {
    "cut_link", "arp", "not_ip", "layer_off", "cut_ip", "ip_version", "ip_header", "cut_transport", "bad_transport",
}  # fmt: skip
"""Reasons for which the inside of a tunnel is no packet, so that the one around it is taken."""


class Skip(Exception):  # noqa: N818  # no error: most frames of some captures are skipped
    """The frame, or what is inside a tunnel, yields no packet."""


@dataclass(frozen=True)
class Packet:
    """The fields of a PACKET row."""

    src: bytes
    dst: bytes
    ip_bytes: int
    protocol: int = 0
    payload_bytes: int = 0
    header_bytes: int = 0
    src_port: int = 0
    dst_port: int = 0
    seq: int = 0
    ack: int = 0
    window: int = 0
    tcp_flags: int = 0
    icmp_type: int = 0
    icmp_code: int = 0
    notes: int = 0


@dataclass
class First:
    """A first fragment: when it came, and the packet that was found in it ("tunnel": it was looked through)."""

    ts_us: int
    packet: Packet | str | None = None


@dataclass
class Rest:
    """What is left of a frame: captured bytes, how many there were on the wire, headers seen so far."""

    data: bytes
    wire: int
    headers: int = 0
    tunnels: int = 0
    after_ethernet: bool = False
    padding: int = 0
    """Captured bytes that were cut off as lying behind the IP packet; CICFlowMeter may count them."""

    def take(self, size: int, reason: str) -> bytes:
        """Look at the next bytes; raises Skip(reason) when they were not captured."""
        if len(self.data) < size:
            raise Skip(reason)
        return self.data[:size]

    def after(self, size: int) -> Rest:
        """Step over a header."""
        return replace(self, data=self.data[size:], wire=self.wire - size, headers=self.headers + 1, after_ethernet=False)


def number(data: bytes) -> int:
    return int.from_bytes(data, "big")


def mapped(address: bytes) -> bytes:
    return bytes(10) + b"\xff\xff" + address if len(address) == 4 else address


@dataclass
class NaiveDecoder:
    """One decoder with its memory of first fragments (unbounded: tests use few)."""

    layers: frozenset[str] = LAYERS
    captured: bool = False
    firsts: dict[tuple[bytes, bytes, int, int], First] = field(default_factory=dict)
    ts_us: int = 0

    def decode(self, frame: bytes, wire: int, link_type: int, ts_us: int = 0) -> Packet | str:
        """The packet of a frame, or the reason why there is none."""
        self.ts_us = ts_us
        try:
            return self.link(Rest(frame[:FRAME_BYTES], min(max(wire, len(frame)), FRAME_BYTES)), link_type)
        except Skip as skip:
            return str(skip)

    # Link layers.

    def link(self, rest: Rest, link_type: int) -> Packet:
        if link_type == 1:
            return self.ethernet(rest, first=True)
        if link_type in (12, 14, 101):
            return self.ip(rest)
        if link_type in (228, 229):
            return self.ipv4(rest) if link_type == 228 else self.ipv6(rest)
        if link_type == 113:
            return self.ethertype(self.uncounted(rest, 16), number(rest.take(16, "cut_link")[14:]))
        if link_type == 276:
            return self.ethertype(self.uncounted(rest, 20), number(rest.take(20, "cut_link")[:2]))
        if link_type in (0, 108):
            family = rest.take(4, "cut_link")
            values = {struct.unpack("<I", family)[0], struct.unpack(">I", family)[0]}
            if 2 in values:
                return self.ipv4(self.uncounted(rest, 4))
            if values & {10, 23, 24, 28, 30}:
                return self.ipv6(self.uncounted(rest, 4))
            raise Skip("not_ip")
        if link_type in (9, 50, 104):
            if len(rest.data) >= 4 and rest.data[:2] in (b"\x0f\0", b"\x8f\0"):
                return self.ethertype(self.uncounted(rest, 4), number(rest.data[2:4]))
            return self.ppp(rest)
        raise Skip("link_type")

    @staticmethod
    def uncounted(rest: Rest, size: int) -> Rest:
        """Step over a header that the file's link type puts first: the limit is on what the frame itself can pile up."""
        return replace(rest.after(size), headers=rest.headers)

    def ethernet(self, rest: Rest, first: bool = False) -> Packet:
        self.not_too_deep(rest)
        kind = number(rest.take(14, "cut_link")[12:])
        return self.ethertype(replace(rest.after(14), after_ethernet=first), kind)

    @staticmethod
    def not_too_deep(rest: Rest) -> None:
        if rest.headers >= HEADERS:
            raise Skip("too_deep")

    def ethertype(self, rest: Rest, kind: int) -> Packet:
        self.not_too_deep(rest)
        if kind == 0x0800:
            return self.ipv4(rest)
        if kind == 0x86DD:
            return self.ipv6(rest)
        if kind in (0x8100, 0x88A8, 0x9100):
            self.need("vlan")
            return self.ethertype(rest.after(4), number(rest.take(4, "cut_link")[2:]))
        if kind in (0x8847, 0x8848):
            self.need("mpls")
            return self.mpls(rest)
        if kind == 0x8864:
            self.need("pppoe")
            if rest.take(6, "cut_link")[:2] != b"\x11\0":
                raise Skip("not_ip")
            return self.ppp(rest.after(6))
        if kind == 0x6558:
            return self.ethernet(rest)
        if kind == 0x880B:
            return self.ppp(rest)
        if kind < 0x600:
            return self.llc(rest)
        raise Skip("arp" if kind in (0x0806, 0x8035) else "not_ip")

    def need(self, layer: str) -> None:
        if layer not in self.layers:
            raise Skip("layer_off")

    def llc(self, rest: Rest) -> Packet:
        points = rest.take(3, "cut_link")[:2]
        if points == b"\x06\x06":
            return self.ipv4(rest.after(3))
        if points != b"\xaa\xaa":
            raise Skip("not_ip")
        snap = rest.take(8, "cut_link")
        if snap[3:6] not in (b"\0\0\0", b"\0\0\xf8") or number(snap[6:]) < 0x600:
            raise Skip("not_ip")
        return self.ethertype(rest.after(8), number(snap[6:]))

    def mpls(self, rest: Rest) -> Packet:
        self.not_too_deep(rest)
        bottom = rest.take(4, "cut_link")[2] & 1
        rest = rest.after(4)
        if not bottom:
            return self.mpls(rest)
        nibble = rest.take(1, "cut_link")[0] >> 4
        if nibble in (4, 6):
            return self.ip(rest)
        for word in (4, 0) if nibble == 0 else (0,):
            types = (0x0800, 0x86DD, 0x0806, 0x8100, 0x88A8, 0x9100, 0x8847, 0x8864)
            if len(rest.data) >= word + 14 and number(rest.data[word + 12 : word + 14]) in types:
                return self.ethernet(self.uncounted(rest, word))
        raise Skip("not_ip")

    def ppp(self, rest: Rest) -> Packet:
        self.not_too_deep(rest)
        skip = 2 if rest.data[:2] == b"\xff\x03" else 0
        size = 1 if len(rest.data) > skip and rest.data[skip] & 1 else 2
        protocol = number(rest.take(skip + size, "cut_link")[skip:])
        rest = rest.after(skip + size)
        if protocol in (0x21, 0x57):
            return self.ipv4(rest) if protocol == 0x21 else self.ipv6(rest)
        if protocol in (0x281, 0x283):
            return self.ethertype(rest, 0x8847)
        raise Skip("not_ip")

    # The network layer.

    def ip(self, rest: Rest) -> Packet:
        self.not_too_deep(rest)
        version = rest.take(1, "cut_ip")[0] >> 4
        if version not in (4, 6):
            raise Skip("ip_version")
        rest = replace(rest, headers=rest.headers + 1)
        return self.ipv4(rest) if version == 4 else self.ipv6(rest)

    def ipv4(self, rest: Rest) -> Packet:
        self.not_too_deep(rest)
        fixed = rest.take(20, "cut_ip")
        first, _, total, identification, fragment, _, protocol, _, src, dst = struct.unpack("!BBHHHBBH4s4s", fixed)
        size = first % 16 * 4
        total = total or rest.wire
        if first >> 4 != 4:
            raise Skip("ip_version")
        if size < 20 or total < size:
            raise Skip("ip_header")
        packet = Packet(mapped(src), mapped(dst), total, protocol)
        key = (packet.src, packet.dst, identification, protocol)
        body = self.inside(rest, size, total)
        if fragment & 0x1FFF:
            return self.later(packet, key, body)
        return self.upper(packet, body, key if fragment & 0x2000 else None)

    def ipv6(self, rest: Rest) -> Packet:
        self.not_too_deep(rest)
        fixed = rest.take(40, "cut_ip")
        _, length, protocol, _, src, dst = struct.unpack("!IHBB16s16s", fixed)
        if fixed[0] >> 4 != 6:
            raise Skip("ip_version")
        if length == 0 and protocol != 59:
            length = rest.wire - 40
        packet = Packet(src, dst, 40 + length, protocol)
        return self.extensions(packet, self.inside(rest, 40, 40 + length))

    @staticmethod
    def inside(rest: Rest, size: int, total: int) -> Rest:
        """What an IP header of `size` bytes carries, by its own total length; nothing behind that is looked at."""
        body = rest.data[size:total]
        padding = rest.padding + max(len(rest.data) - total, 0)
        return replace(rest.after(size), data=body, wire=total - size, padding=padding, after_ethernet=rest.after_ethernet)

    def extensions(self, packet: Packet, rest: Rest) -> Packet:
        key = None
        protocol = packet.protocol
        for _ in range(EXTENSIONS):
            if protocol not in (0, 43, 44, 51, 60, 135, 139, 140):
                return self.upper(replace(packet, protocol=protocol), rest, key)
            if rest.wire < 8:
                raise Skip("ip_header")
            header = rest.take(8, "cut_ip")
            size = 8 if protocol == 44 else (header[1] + 2) * 4 if protocol == 51 else (header[1] + 1) * 8
            if protocol == 44:
                fragment_key = (packet.src, packet.dst, number(header[4:]), 44)
                if number(header[2:4]) >> 3:
                    return self.later(packet, fragment_key, self.extension_body(rest, 8))
                key = fragment_key if header[3] & 1 else key
                if header[3] & 1:
                    self.firsts[fragment_key] = First(self.ts_us)
            elif protocol >= 135 and header[0] == 59:
                return self.upper(replace(packet, protocol=protocol), rest, key)
            if size > rest.wire:
                raise Skip("ip_header")
            rest = self.extension_body(rest, size)
            protocol = header[0]
        raise Skip("too_deep")

    @staticmethod
    def extension_body(rest: Rest, size: int) -> Rest:
        return replace(rest, data=rest.data[size:], wire=rest.wire - size)

    def later(self, packet: Packet, key: tuple[bytes, bytes, int, int], rest: Rest) -> Packet:
        notes = FRAGMENT | LATER | (TUNNEL if rest.tunnels else 0)
        if self.captured:
            return replace(packet, protocol=0, notes=notes)
        first = self.firsts.get(key)
        if first is None or first.packet is None or abs(self.ts_us - first.ts_us) > FRAGMENT_US:
            raise Skip("fragment_without_first")
        if isinstance(first.packet, str):
            raise Skip("fragment_of_tunnel")
        whole = replace(first.packet, src=packet.src, dst=packet.dst, ip_bytes=packet.ip_bytes, notes=notes)
        return replace(whole, payload_bytes=rest.wire, header_bytes=0, seq=0, ack=0, window=0, tcp_flags=0)

    # Tunnels and the transport layer.

    def upper(self, packet: Packet, rest: Rest, key: tuple[bytes, bytes, int, int] | None) -> Packet:
        """What lies behind the last IP header: a tunnel with something in it, or a transport header."""
        if key is not None:
            self.firsts[key] = First(self.ts_us)
        enter = self.tunnel(packet.protocol, rest)
        if enter is not None:
            if key is not None:
                self.firsts[key] = First(self.ts_us, "tunnel")
            try:
                return enter()
            except Skip as skip:
                if str(skip) not in AGAIN:
                    raise
        if key is not None:
            self.firsts[key] = First(self.ts_us)
        packet = self.transport(packet, rest)
        packet = replace(packet, notes=(FRAGMENT if key else 0) | (TUNNEL if rest.tunnels else 0))
        if key is not None:
            self.firsts[key] = First(self.ts_us, packet)
        return packet

    def tunnel(self, protocol: int, rest: Rest) -> Callable[[], Packet] | None:
        """A function that decodes what the tunnel carries; None where there is none that is looked through."""
        inner = replace(rest, tunnels=rest.tunnels + 1, after_ethernet=False)
        if protocol == 4 and "ipip" in self.layers:
            return lambda: self.ipv4(inner)
        if protocol == 41 and "6in4" in self.layers:
            return lambda: self.ipv6(inner)
        if protocol == 137 and "mpls" in self.layers:
            return lambda: self.mpls(inner)
        if protocol == 47 and "gre" in self.layers:
            return self.gre(inner)
        if protocol == 17 and len(rest.data) >= 16:
            port, header = number(rest.data[2:4]), rest.data[8:16]
            if port == 4789 and "vxlan" in self.layers and header[0] & 8 and header[7] == 0:
                return lambda: self.ethernet(self.uncounted(inner, 16))
            if port == 6081 and "geneve" in self.layers and header[0] < 0x40:
                behind = self.uncounted(inner, 16 + header[0] * 4)
                return lambda: self.ethertype(behind, number(header[2:4]))
            if port == 2152 and "gtpu" in self.layers and header[0] >> 4 == 3 and header[1] == 255:
                return self.gtpu(inner)
        return None

    def gre(self, inner: Rest) -> Callable[[], Packet] | None:
        if len(inner.data) < 4:
            return None
        flags, kind = struct.unpack("!HH", inner.data[:4])
        checksum, routing, key, sequence = (bool(flags & bit) for bit in (0x8000, 0x4000, 0x2000, 0x1000))
        size = 4 + 4 * (checksum + key + sequence)
        if routing or flags & 7 > 1:
            return None
        if flags & 7 == 1:
            if kind != 0x880B or not sequence:
                return None
            size += 4 if flags & 0x80 else 0
            return lambda: self.ppp(self.uncounted(inner, size))
        if kind == 0x88BE:
            return lambda: self.ethernet(self.uncounted(inner, size + (8 if sequence else 0)))
        if kind == 0x22EB:
            if len(inner.data) < size + 12:
                return None
            more = inner.data[size + 11] & 1
            return lambda: self.ethernet(self.uncounted(inner, size + (20 if more else 12)))
        return lambda: self.ethertype(self.uncounted(inner, size), kind)

    def gtpu(self, inner: Rest) -> Callable[[], Packet] | None:
        data = inner.data[8:]
        size = 8
        if data[0] & 7:
            size = 12
            if len(data) < 12:
                return None
            more = data[11] if data[0] & 4 else 0
            for _ in range(EXTENSIONS):
                if not more:
                    break
                if len(data) <= size or data[size] == 0 or len(data) < size + data[size] * 4:
                    return None
                size += data[size] * 4
                more = data[size - 1]
            else:
                return None
        return lambda: self.ip(self.uncounted(inner, 8 + size))

    def transport(self, packet: Packet, rest: Rest) -> Packet:
        size, needed = {6: (20, 16), 17: (8, 4), 132: (12, 4), 1: (8, 2), 58: (8, 2)}.get(packet.protocol, (0, 0))
        if rest.wire < size:
            raise Skip("bad_transport")
        data = rest.data[: max(size, 20)]
        if len(data) < needed:
            raise Skip("cut_transport")
        found: dict[str, int] = {}
        if packet.protocol in (6, 17, 132):
            found = {"src_port": number(data[:2]), "dst_port": number(data[2:4])}
        if packet.protocol == 6:
            size = (data[12] >> 4) * 4
            if size < 20 or size > rest.wire:
                raise Skip("bad_transport")
            found |= {"seq": number(data[4:8]), "ack": number(data[8:12]), "tcp_flags": data[13], "window": number(data[14:16])}
        elif packet.protocol in (1, 58):
            found = {"icmp_type": data[0], "icmp_code": data[1]}
        payload = rest.wire - size
        if self.captured:
            size = min(size, len(rest.data)) if packet.protocol in (6, 17, 132) else 0
            seen = len(rest.data) + (0 if rest.after_ethernet else rest.padding)
            payload = max(seen - size, 0) if packet.protocol in (6, 17, 132) else 0
        return Packet(**vars(packet) | found | {"header_bytes": size, "payload_bytes": payload})
