"""Traffic for the live source's tests, and a source that is read in a network namespace while the test goes on."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from capture_writer import Frame, simple_pcap
from namespaces import PATIENCE_S, Namespace, wait_until

from sensor.schema import FrameBlock
from sensor.sources.ring import RingSource
from sensor.sources.sniffed import LiveSource

NOW_US = 1_700_000_000_000_000
MAC_A, MAC_B = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
TCP, UDP = 6, 17


class Tag(NamedTuple):
    """A VLAN tag: what kind of one, and its number and priority."""

    tpid: int
    tci: int


def frame(
    flow: int,
    *,
    back: bool = False,
    protocol: int = TCP,
    size: int = 100,
    v6: bool = False,
    tags: Sequence[Tag] = (),
    port: int = 443,
) -> bytes:
    """An Ethernet frame of a flow, `size` bytes after the tags, whose last four bytes tell the flow's number."""
    ports = (port, 10_000 + flow % 50_000) if back else (10_000 + flow % 50_000, port)
    head = struct.pack(">HHIIBBHHH", *ports, 1, 1, 5 << 4, 0x10, 1000, 0, 0) if protocol == TCP else b""
    ip_bytes = size - 14
    body_bytes = ip_bytes - (40 if v6 else 20)
    head = head or struct.pack(">HHHH", *ports, body_bytes, 0)
    hosts = [struct.pack(">I", 0x0A00_0001 + flow), struct.pack(">I", 0x0B00_0001 + flow % 7)]
    source, target = hosts[::-1] if back else hosts
    if v6:
        prefix = bytes.fromhex("20010db8").ljust(12, b"\0")
        packet = struct.pack(">IHBB", 6 << 28, body_bytes, protocol, 64) + prefix + source + prefix + target
    else:
        packet = struct.pack(">BBHHHBBH", 0x45, 0, ip_bytes, 0, 0, 64, protocol, 0) + source + target
    told = struct.pack(">I", flow)
    body = head + bytes(body_bytes - len(head) - len(told)) + told
    between = b"".join(struct.pack(">HH", tag.tpid, tag.tci) for tag in tags)
    return MAC_B + MAC_A + between + struct.pack(">H", 0x86DD if v6 else 0x0800) + packet + body


def flow_of(data: bytes) -> int:
    """The flow whose frame this is."""
    return int(struct.unpack(">I", data[-4:])[0])


def mixture(count: int = 600, seed: int = 1) -> list[bytes]:
    """Frames of many kinds: both families, both ways, tagged once and twice, long and short."""
    rng = np.random.default_rng(seed)
    tags: list[list[Tag]] = [[], [], [], [Tag(0x8100, 5)], [Tag(0x8100, 0xE000)], [Tag(0x88A8, 7), Tag(0x8100, 0x2005)]]
    frames = []
    for flow in range(count):
        chosen = tags[rng.integers(len(tags))]
        size = int(rng.choice([78, 100, 576, 1514, 9014, 50_000], p=[0.4, 0.3, 0.1, 0.18, 0.01, 0.01]))
        kind = TCP if rng.integers(2) else UDP
        frames.append(frame(flow, back=bool(rng.integers(2)), protocol=kind, size=size, v6=bool(rng.integers(2)), tags=chosen))
    return frames


def write(path: Path, frames: Sequence[bytes], apart_us: int = 10) -> Path:
    """Write a capture of these frames."""
    path.write_bytes(simple_pcap([Frame(NOW_US + n * apart_us, data, len(data)) for n, data in enumerate(frames)]))
    return path


class Heard:
    """What came out of one source so far. It is read in a thread inside the namespace, until `finish`."""

    def __init__(self, space: Namespace, source: LiveSource) -> None:
        self.source = source
        self.frames: list[Frame] = []
        self.interfaces: list[int] = []
        self.empty = 0
        self._done = space.begin(self._read)

    @property
    def bytes(self) -> list[bytes]:
        """Of each frame, those captured."""
        return [frame.data for frame in self.frames]

    def _read(self) -> None:
        for block in self.source:
            self._keep(block)

    def _keep(self, block: FrameBlock) -> None:
        assert not block.data.flags.writeable
        self.empty += not len(block.frames)
        for row in block.frames.tolist():
            us, begin, size, wire, link, source, _ = row
            assert 0 <= begin <= begin + size <= len(block.data)
            self.frames.append(Frame(us, block.data[begin : begin + size].tobytes(), wire, link))
            self.interfaces.append(source)

    def wait_for(self, frames: int) -> None:
        """Wait until so many were heard or dropped."""
        wait_until(lambda: len(self.frames) + dropped(self.source) >= frames, f"{frames} frames of {len(self.frames)}")

    def finish(self) -> None:
        """Stop, and wait for the end."""
        self.source.stop()
        self._done.result(PATIENCE_S)


def dropped(source: LiveSource) -> int:
    """Packets that the kernel dropped, over all interfaces."""
    return sum(count for name, count in source.counters().items() if name.startswith("packets_dropped."))


@contextmanager
def listening(space: Namespace, *interfaces: str, **settings: Any) -> Iterator[Heard]:
    """A source that hears interfaces of a namespace, for the time of the block."""
    source = space.call(lambda: RingSource(interfaces, **settings))
    heard = Heard(space, source)
    try:
        yield heard
    finally:
        heard.finish()
        source.close()
