"""Frames for the decoder's tests: scapy stacks, blocks of them, rows read back, and captures read by dpkt."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import dpkt
import numpy as np
from numpy.typing import NDArray
from scapy.contrib.erspan import ERSPAN_II, ERSPAN_III, ERSPAN_PlatformSpecific
from scapy.contrib.geneve import GENEVE
from scapy.contrib.gtp import GTP_U_Header, GTPPDUSessionContainer
from scapy.contrib.mpls import MPLS
from scapy.layers.inet import IP, TCP, UDP, fragment
from scapy.layers.inet6 import IPv6, fragment6
from scapy.layers.l2 import GRE, GRE_PPTP, LLC, SNAP, CookedLinux, CookedLinuxV2, Dot1AD, Dot1Q, Dot3, Ether
from scapy.layers.ppp import HDLC, PPP, PPPoE
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from sensor.decode import SKIPS, Decoder
from sensor.schema import FRAME, PACKET, FrameBlock

MAC_1, MAC_2 = "02:00:00:00:00:01", "02:00:00:00:00:02"
FIELDS = tuple(name for name in PACKET.names or () if name not in {"ts_us", "src_hi", "src_lo", "dst_hi", "dst_lo", "reserved"})

Row = dict[str, int | bytes]


class Frame(NamedTuple):
    """A frame as a source would hand it over; `wire` 0 means as long as captured."""

    data: bytes
    link_type: int = 1
    wire: int = 0
    ts_us: int = 0


def block_of(frames: Sequence[Frame]) -> FrameBlock:
    """A block whose buffer holds the frames' bytes and nothing else."""
    rows = np.zeros(len(frames), FRAME)
    offset = 0
    for row, frame in zip(rows, frames, strict=True):
        size = len(frame.data)
        row["ts_us"], row["offset"], row["link_type"] = frame.ts_us, offset, frame.link_type
        row["captured_bytes"], row["wire_bytes"] = size, frame.wire or size
        offset += size
    return FrameBlock(np.frombuffer(b"".join(frame.data for frame in frames), np.uint8), rows)


def as_dict(row: np.void) -> Row:
    """All fields of a PACKET row but its time, the addresses as 16 bytes."""
    told: Row = {name: int(row[name]) for name in FIELDS}
    for side in ("src", "dst"):
        told[side] = int(row[f"{side}_hi"]).to_bytes(8, "big") + int(row[f"{side}_lo"]).to_bytes(8, "big")
    return told


def decode_one(decoder: Decoder, frame: Frame) -> Row | str:
    """The row of one frame in a buffer of its own, or the reason why there is none."""
    before = decoder.skipped.copy()
    rows = decoder.decode(block_of([frame]))
    counted = decoder.skipped - before
    assert len(rows) + counted.sum() == 1
    if len(rows) == 0:
        return SKIPS[int(np.flatnonzero(counted)[0])]
    assert rows[0]["ts_us"] == frame.ts_us
    assert not rows[0]["reserved"].any()
    return as_dict(rows[0])


def skipped(decoder: Decoder) -> dict[str, int]:
    """The counters that are not zero."""
    return {name: int(count) for name, count in zip(SKIPS, decoder.skipped, strict=True) if count}


def ether(kind: int | None = None) -> Packet:
    """An Ethernet header; its ethertype follows from what is put behind unless it is told."""
    return Ether(src=MAC_1, dst=MAC_2) if kind is None else Ether(src=MAC_1, dst=MAC_2, type=kind)


def dot3() -> Packet:
    return Dot3(src=MAC_1, dst=MAC_2)


def outer(protocol: int | None = None) -> Packet:
    """The IP header of a tunnel."""
    return IP(src="192.0.2.1", dst="192.0.2.2") if protocol is None else IP(src="192.0.2.1", dst="192.0.2.2", proto=protocol)


def outer6() -> Packet:
    return IPv6(src="2001:db8::1", dst="2001:db8::2")


def links() -> dict[str, tuple[int, Packet | None]]:
    """What can lie before the first IP header: link type of the file, headers."""
    return {
        "ethernet": (1, ether()),
        "vlan": (1, ether() / Dot1Q(vlan=7)),
        "qinq": (1, ether() / Dot1AD(vlan=7) / Dot1Q(vlan=8)),
        "old qinq": (1, ether(0x9100) / Dot1Q(vlan=7) / Dot1Q(vlan=8)),
        "mpls": (1, ether() / MPLS(label=17, s=0) / MPLS(label=18, s=1)),
        "mpls multicast": (1, ether(0x8848) / MPLS(label=17, s=1)),
        "pseudowire": (1, ether() / MPLS(label=17, s=1) / Raw(bytes(4)) / ether()),
        "pseudowire without control word": (1, ether() / MPLS(label=17, s=1) / ether() / Dot1Q(vlan=5)),
        "pppoe": (1, ether() / PPPoE(sessionid=3) / PPP()),
        "vlan pppoe mpls": (1, ether() / Dot1Q(vlan=7) / PPPoE(sessionid=3) / PPP(proto=0x281) / MPLS(label=3, s=1)),
        "snap": (1, dot3() / LLC(dsap=0xAA, ssap=0xAA, ctrl=3) / SNAP()),
        "vlan snap": (1, ether() / Dot1Q(vlan=3, type=100) / LLC(dsap=0xAA, ssap=0xAA, ctrl=3) / SNAP()),
        "raw": (101, None),
        "raw 12": (12, None),
        "raw 14": (14, None),
        "cooked": (113, CookedLinux(pkttype=0, lladdrlen=6, src=b"\x02\0\0\0\0\1")),
        "cooked vlan": (113, CookedLinux(pkttype=0, lladdrlen=6, src=b"\x02\0\0\0\0\1") / Dot1Q(vlan=7)),
        "cooked 2": (276, CookedLinuxV2(ifindex=2, lladdrlen=6, src=b"\x02\0\0\0\0\1")),
        "ppp": (9, PPP()),
        "ppp with hdlc": (9, HDLC() / PPP()),
        "ppp in hdlc": (50, HDLC() / PPP()),
    }


def tunnels() -> dict[str, Packet]:
    """What can lie before a further IP header; the first word is the name of the setting."""
    return {
        "ipip": outer(),
        "ipip in ipv6": outer6(),
        "gre": outer() / GRE(),
        "gre checksum": outer6() / GRE(chksum_present=1),
        "gre key": outer() / GRE(key_present=1, key=9),
        "gre all": outer() / GRE(chksum_present=1, key_present=1, key=9, seqnum_present=1, sequence_number=4),
        "gre ethernet": outer() / GRE(proto=0x6558) / ether() / Dot1Q(vlan=9),
        "gre mpls": outer() / GRE(proto=0x8847) / MPLS(label=4, s=1),
        "gre erspan": outer() / GRE(proto=0x88BE) / ether(),
        "gre erspan 2": outer() / GRE(seqnum_present=1, sequence_number=4) / ERSPAN_II() / ether(),
        "gre erspan 3": outer() / GRE(seqnum_present=1, sequence_number=4) / ERSPAN_III() / ether(),
        "gre erspan 3 platform": outer() / GRE(proto=0x22EB) / ERSPAN_III(o=1) / ERSPAN_PlatformSpecific() / ether(),
        "gre pptp": outer() / GRE_PPTP(seqnum_present=1, sequence_number=1, acknum_present=1, ack_number=1) / HDLC() / PPP(),
        "vxlan": outer() / UDP(sport=5555, dport=4789) / VXLAN(vni=42) / ether(),
        "vxlan in ipv6": outer6() / UDP(sport=5555, dport=4789) / VXLAN(vni=42) / ether() / Dot1Q(vlan=1),
        "geneve": outer() / UDP(sport=5555, dport=6081) / GENEVE(vni=42) / ether(),
        "geneve options": outer() / UDP(sport=5, dport=6081) / Raw(b"\x02\0\x65\x58\0\0\x2a\0" + bytes(8)) / ether(),
        "gtpu": outer() / UDP(sport=2152, dport=2152) / GTP_U_Header(teid=7),
        "gtpu sequence": outer() / UDP(sport=2152, dport=2152) / GTP_U_Header(teid=7, S=1, seq=1),
        "gtpu extension": outer()
        / UDP(sport=2152, dport=2152)
        / GTP_U_Header(teid=7, E=1)
        / GTPPDUSessionContainer(type=1, QFI=3),
        "mpls": outer(137) / MPLS(label=9, s=1),
    }


def segment(payload: bytes = b"hello") -> Packet:
    """The TCP segment that is looked for."""
    return TCP(sport=1234, dport=80, seq=0x01020304, ack=0xF1F2F3F4, flags="PA", window=4321) / Raw(payload)


def inner4() -> Packet:
    return IP(src="10.0.0.1", dst="10.0.0.2") / segment()


def inner6() -> Packet:
    return IPv6(src="fd00::1", dst="fd00::2") / segment()


def fragments_of(packet: Packet, size: int) -> list[Packet]:
    """An IPv4 packet as scapy fragments it, or an IPv6 packet with a fragment header."""
    cut: Callable[[Packet, int], list[Packet]] = fragment6 if isinstance(packet, IPv6) else fragment
    return cut(packet, size)


def stack(*layers: Packet | None) -> bytes:
    """Put layers on one another (copies: scapy changes what it stacks) and build the bytes."""
    whole: Packet | None = None
    for layer in layers:
        if layer is not None:
            whole = layer.copy() if whole is None else whole / layer.copy()
    return bytes(whole) if whole is not None else b""


def frames_of(path: Path) -> Iterator[Frame]:
    """The frames of a capture as far as dpkt can read it; nothing of a file that it cannot."""
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        raw = gzip.decompress(raw)
    # dpkt raises whatever a broken file makes it stumble over; what came before is what the tests want
    try:
        kind = dpkt.pcapng.Reader if raw[:4] == b"\n\r\r\n" else dpkt.pcap.Reader
        reader = kind(io.BytesIO(raw))
        link_type = reader.datalink() & 0xFFFF
        for ts, data in reader:
            yield Frame(data, link_type, len(data), int(float(ts) * 1e6))
    except Exception:  # noqa: S110  # see above
        pass


def captures(folder: Path) -> list[Path]:
    """All captures below a folder, in one order on every machine."""
    return sorted(path for path in folder.rglob("*.pcap*") if path.is_file())


def packets_of(decoder: Decoder, frames: Sequence[Frame]) -> NDArray[np.void]:
    """Decode frames in one block; the rows are a copy."""
    return decoder.decode(block_of(frames)).copy()
