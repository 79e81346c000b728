"""The two capture formats: their headers are read here in Python, their records by the kernels of `stride` and
`walk`.

A reader is asked for rows again and again; it lets the kernel run over the bytes at hand, reads on when a record is cut,
and deals with what the kernel leaves to it. Whatever cannot be followed ends in a `Break` with its byte offset, after all
frames before it have been given. Called by `sensor.sources.pcap`.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sensor.sources import stride, walk
from sensor.sources.faults import Break
from sensor.sources.stride import STRETCH_BYTES, PcapLayout
from sensor.sources.supply import Supply
from sensor.sources.walk import INTERFACE_ROW, Section

PCAP_MAGICS = {0xA1B2C3D4: (16, False), 0xA1B23C4D: (16, True), 0xA1B2CD34: (24, False)}
"""Magic number -> (bytes of a record header, nanoseconds). The last is Kuznetsov's format; libpcap reads the same three."""

PCAPNG_MAGIC, ORDER_MAGIC = 0x0A0D0D0A, 0x1A2B3C4D
HEAD_BYTES = 12  # enough to tell what a file is: a pcapng section has its byte order there
LINK_TYPE_MASK, RESERVED_MASK = 0xFFFF, 0x03FF_0000  # bits above both tell the length of a frame check sequence
INTERFACE_LIMIT = 65_536  # interfaces of a section: more are a broken file, not a machine
IF_TSRESOL, IF_TSOFFSET = 9, 14

REASONS = {
    walk.TOO_LONG_FRAME: f"a frame claims more than {walk.FRAME_LIMIT} captured bytes",
    walk.SHORT_BLOCK: "a block claims fewer than 12 bytes",
    walk.ODD_BLOCK: "a block's length is no multiple of 4",
    walk.LONG_BLOCK: f"a block claims more than {walk.BLOCK_LIMIT} bytes",
    walk.TRAILER: "a block's two lengths differ",
    walk.SMALL_BLOCK: "a packet block is too small for its fields",
    walk.FRAME_OVER_BLOCK: "a frame claims more bytes than its block has",
    walk.NO_INTERFACE: "a packet names an interface that its section does not describe",
}

BLOCK_NAMES = {
    4: "name_resolution",
    5: "interface_statistics",
    9: "systemd_journal",
    10: "decryption_secrets",
    0xBAD: "custom",
    0x4000_0BAD: "custom",
}
"""Blocks without frames that the draft names; others are counted as "block_0x...", and past 64 kinds as "other"."""


class Reader(Protocol):
    """One open capture."""

    @property
    def data(self) -> NDArray[np.uint8]:
        """The bytes that the rows of the last `read` point into."""

    @property
    def taken_bytes(self) -> int:
        """Bytes of the file behind the reader."""

    def read(self, frames: NDArray[np.void]) -> int:
        """Write the next FRAME rows; returns how many, 0 only at a clean end. Raises Break."""


def format_of(head: bytes) -> str:
    """ "pcap", "pcapng", or "" for neither, from a file's first HEAD_BYTES bytes (fewer only if the file has no more)."""
    if len(head) < 4:
        return ""
    magic = int.from_bytes(head[:4], "little")
    if magic == PCAPNG_MAGIC:
        known = len(head) < HEAD_BYTES or ORDER_MAGIC in (_number(head[8:12], False), _number(head[8:12], True))
        return "pcapng" if known else ""
    return "pcap" if magic in PCAP_MAGICS or _number(head[:4], True) in PCAP_MAGICS else ""


def _number(piece: bytes, big: bool) -> int:
    return int.from_bytes(piece, "big" if big else "little")


class _Followed:
    """What both readers share: a place in a supply, and how to get at more of it."""

    def __init__(self, supply: Supply) -> None:
        self._supply = supply
        self._at = 0

    @property
    def data(self) -> NDArray[np.uint8]:
        return self._supply.data

    @property
    def taken_bytes(self) -> int:
        return self._supply.taken_bytes(self._at)

    def _more(self) -> bool:
        self._at, came = self._supply.more(self._at)
        return came

    def held(self, size: int) -> bytes:
        """The next `size` bytes, fewer only at the end of the capture."""
        self._supply.settle(self._at)
        while self._supply.end - self._at < size and self._more():
            pass
        return self._supply.data[self._at : min(self._at + size, self._supply.end)].tobytes()

    def _break(self, reason: str) -> Break:
        where = f" (counted in the unpacked {self._supply.packing} data)" if self._supply.packing else ""
        return Break(self._supply.base + self._at, reason + where)

    def _cut(self, what: str) -> Break:
        left = max(0, self._supply.end - self._at)
        return self._break(f"the file ends inside {what}: {left} bytes of it are left")


class PcapReader(_Followed):
    """The classic format (draft-ietf-opsawg-pcap), versions 2.0 to 2.4, micro- or nanoseconds, and Kuznetsov's variant."""

    def __init__(self, supply: Supply, source: int) -> None:
        super().__init__(supply)
        self._layout = self._read_header(source)
        # Chains are for bytes that have to come from memory; the two old orders of the lengths are not worth a guess.
        self._strides = stride.strides(STRETCH_BYTES if supply.mapped and self._layout.lengths == 0 else 0)

    def _read_header(self, source: int) -> PcapLayout:
        header = self.held(24)
        if len(header) < 24:
            raise self._cut("its header")
        big = _number(header[:4], True) in PCAP_MAGICS
        record_bytes, nano = PCAP_MAGICS[_number(header[:4], big)]
        major, minor, network = struct.unpack(">4xHH12xI" if big else "<4xHH12xI", header)
        if not ((major == 2 and minor <= 4) or (major, minor) == (543, 0)):  # 543.0 is DG/UX's
            raise self._break(f"pcap version {major}.{minor} is unknown")
        if network & RESERVED_MASK:
            raise self._break(f"the link type 0x{network:08x} has reserved bits set")
        # Before 2.3 the two lengths were the other way round, in 2.3 some programs did it and some did not (libpcap's reading).
        lengths = 1 if minor < 3 else 2 if minor == 3 else 0
        self._at += 24
        return PcapLayout(record_bytes, big, nano, lengths, network & LINK_TYPE_MASK, source)

    def read(self, frames: NDArray[np.void]) -> int:
        """See Reader."""
        while True:
            self._supply.settle(self._at)
            supply = self._supply
            rows, self._at, status = stride.walk_pcap(supply.data, self._at, supply.end, self._layout, self._strides, frames)
            if rows:
                return rows
            if status not in (walk.DONE, walk.CUT):
                raise self._break(REASONS[status])
            if not self._more():
                if status == walk.DONE:
                    return 0
                raise self._cut("a record")


class PcapngReader(_Followed):
    """The block format (draft-ietf-opsawg-pcapng): sections in either byte order, each with interfaces of its own."""

    def __init__(self, supply: Supply, source: int) -> None:
        super().__init__(supply)
        self._big = False
        self._source = source
        self._last_us = 0
        self._interfaces = np.zeros(4, INTERFACE_ROW)
        self._described = 0
        self.kinds = np.full(walk.KINDS, -1, np.int64)
        self.skipped = np.zeros(walk.KINDS + 1, np.int64)
        self.unstamped = np.zeros(1, np.int64)
        self._begin_section()

    def read(self, frames: NDArray[np.void]) -> int:
        """See Reader."""
        while True:
            self._supply.settle(self._at)
            section = Section(
                self._big,
                self._source,
                self._last_us,
                self._interfaces[: self._described],
                self.kinds,
                self.skipped,
                self.unstamped,
            )
            rows, self._at, status = walk.walk_pcapng(self._supply.data, self._at, self._supply.end, section, frames)
            if rows:
                self._last_us = int(frames["ts_us"][rows - 1])
                return rows
            if status == walk.SECTION:
                self._begin_section()
            elif status == walk.INTERFACE:
                self._describe_interface()
            elif status not in (walk.DONE, walk.CUT):
                raise self._break(REASONS[status])
            elif not self._more():
                if status == walk.DONE:
                    return 0
                raise self._cut("a block")

    def skipped_blocks(self) -> Counter[str]:
        """How many blocks without frames there were, by name."""
        counted: Counter[str] = Counter()
        for kind, count in zip((*self.kinds.tolist(), -1), self.skipped.tolist(), strict=True):
            if count:
                counted[BLOCK_NAMES.get(kind, "other" if kind < 0 else f"block_0x{kind:08x}")] += count
        return counted

    def _begin_section(self) -> None:
        """Read a section header block, whose byte order holds up to the next one. Its section length is not relied on."""
        head = self.held(HEAD_BYTES)
        if len(head) < HEAD_BYTES:
            raise self._cut("a section header")
        big = _number(head[8:], True) == ORDER_MAGIC
        if not big and _number(head[8:], False) != ORDER_MAGIC:
            raise self._break("a section header without a byte order")
        length = _number(head[4:8], big)
        if length < 28 or length % 4 or length > walk.BLOCK_LIMIT:
            raise self._break(f"a section header claims {length} bytes")
        block = self.held(length)
        if len(block) < length:
            raise self._cut("a section header")
        if _number(block[-4:], big) != length:
            raise self._break(REASONS[walk.TRAILER])
        major = _number(block[12:14], big)
        if major != 1:
            raise self._break(f"pcapng version {major} is unknown")
        self._big, self._described = big, 0
        self._at += length

    def _describe_interface(self) -> None:
        """Take in an interface description; the kernel has seen that the block is whole."""
        length = _number(self.held(8)[4:], self._big)
        block = self.held(length)
        if length < 20:
            raise self._break("an interface description is too small for its fields")
        if self._described == INTERFACE_LIMIT:
            raise self._break(f"a section describes more than {INTERFACE_LIMIT} interfaces")
        if self._described == self._interfaces.size:
            self._interfaces = np.concatenate([self._interfaces, np.zeros_like(self._interfaces)])
        link_type, snap_bytes = _number(block[8:10], self._big), _number(block[12:16], self._big)
        scale, factor, offset_us = self._clock(block[16:-4])
        self._interfaces[self._described] = (snap_bytes or walk.FRAME_LIMIT, link_type, scale, factor, offset_us)
        self._described += 1
        self._at += length

    def _clock(self, options: bytes) -> tuple[int, int, int]:
        """(scale, factor, offset_us) from if_tsresol and if_tsoffset, or their defaults: microseconds, no offset."""
        resolution, offset_us = 6, 0
        for code, value in self._options(options):
            if code == IF_TSRESOL and len(value) == 1:
                resolution = value[0]
            elif code == IF_TSOFFSET and len(value) == 8:
                seconds = int.from_bytes(value, "big" if self._big else "little", signed=True)
                offset_us = max(-walk.STAMP_LIMIT_US, min(walk.STAMP_LIMIT_US, seconds * 1_000_000))
            elif code in (IF_TSRESOL, IF_TSOFFSET):
                raise self._break(f"an interface's time option {code} has {len(value)} bytes")
        if resolution & 0x80:
            return walk.BINARY, resolution & 0x7F, offset_us
        if resolution <= 6:
            return walk.TIMES, 10 ** (6 - resolution), offset_us
        divisor = 10 ** (resolution - 6)
        return walk.DIVIDED, divisor if divisor < 2**64 else 0, offset_us

    def _options(self, options: bytes) -> Iterator[tuple[int, bytes]]:
        at = 0
        while at + 4 <= len(options):
            code, size = _number(options[at : at + 2], self._big), _number(options[at + 2 : at + 4], self._big)
            if code == 0:
                return
            if at + 4 + size > len(options):
                raise self._break("an interface's options run over the end of its block")
            yield code, options[at + 4 : at + 4 + size]
            at += 4 + size + -size % 4


def head_of(supply: Supply) -> bytes:
    """The first HEAD_BYTES bytes, for `format_of`; fewer only if the supply has no more. Raises Break."""
    return _Followed(supply).held(HEAD_BYTES)


def open_reader(supply: Supply, source: int) -> PcapReader | PcapngReader | None:
    """The reader for what the supply begins with, None for no capture. Raises Break."""
    kind = format_of(head_of(supply))
    if not kind:
        return None
    return PcapReader(supply, source) if kind == "pcap" else PcapngReader(supply, source)
