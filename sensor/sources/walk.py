"""The compiled loop over pcapng files: walk the blocks, write FRAME rows that point into the bytes walked over.

Strategy, which `sensor.sources.stride` shares, the loop over classic pcap files. The kernel gets the bytes at hand, where
to begin and where they end, and stops for one of few reasons: the rows are full, the bytes are used up, a record is cut by
their end (a stream then reads on, for a file it is the break), a block that Python has to look at (sections and interfaces,
rare), or a break in the file. A length is compared with the bytes that are left before anything behind it is read, so
hostile lengths end in a status, never in a read outside. Frames before a break are always returned first: a break is told
with zero rows. `sensor.sources.formats` calls these; the file formats are those of draft-ietf-opsawg-pcap and
draft-ietf-opsawg-pcapng, with libpcap's reading where the drafts leave a choice. `gather` is the loop of
`sensor.sources.merge`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.kernels import load32, loop, njit, part, prefetch_read

FRAME_LIMIT = 262_144
"""Captured bytes of the longest frame: libpcap's MAXIMUM_SNAPLEN. A longer one is a broken length, as for tcpdump."""

BLOCK_LIMIT = 16 << 20
"""Bytes of the longest pcapng block, as in libpcap: what a stream must hold at most to see one whole."""

STAMP_LIMIT_US = 2**62 - 1
"""Stamps are held within this (146,000 years either way), so that the difference of any two fits in 64 bits."""

# Why a walk stopped.
FULL, DONE, CUT, SECTION, INTERFACE = range(5)
# Breaks: from here on the file cannot be followed. `formats.REASONS` has the words.
TOO_LONG_FRAME, SHORT_BLOCK, ODD_BLOCK, LONG_BLOCK, TRAILER, SMALL_BLOCK, FRAME_OVER_BLOCK, NO_INTERFACE = range(5, 13)

# How an interface's ticks become microseconds.
TIMES, DIVIDED, BINARY = range(3)

INTERFACE_ROW = np.dtype(
    [
        ("snap_bytes", "<i8"),  # most bytes captured of a frame; where the file has no limit, FRAME_LIMIT
        ("link_type", "<i8"),
        ("scale", "<i8"),  # TIMES, DIVIDED or BINARY
        ("factor", "<u8"),  # microseconds a tick; ticks a microsecond (0: a tick is too short to measure); power of two
        ("offset_us", "<i8"),  # if_tsoffset
    ]
)
"""What a pcapng interface description says, ready for the kernel."""

AHEAD_BYTES, LINE_BYTES = 4096, 64
"""How far ahead a cache line is asked for: where the next header lies is not known before this one has come, so all are."""

KINDS = 64  # different kinds of skipped blocks that are counted apart; a hostile file could have 2^32

SECTION_BLOCK, INTERFACE_BLOCK, OLD_PACKET, SIMPLE_PACKET, ENHANCED_PACKET = 0x0A0D0D0A, 1, 2, 3, 6


class Section(NamedTuple):
    """What is known of a pcapng section, ready for the kernel, and counters that it keeps in place."""

    big: bool
    """Big-endian."""
    source: int
    last_us: int
    """The stamp seen last, for simple packet blocks, which carry none."""
    interfaces: NDArray[np.void]
    """(n,) INTERFACE_ROWs."""
    kinds: NDArray[np.int64]
    """(KINDS,) block types met that were skipped; -1 is a free place."""
    skipped: NDArray[np.int64]
    """(KINDS + 1,) how many of each; the last for all further kinds."""
    unstamped: NDArray[np.int64]
    """(1,) simple packet blocks."""


@part
def u16(data: NDArray[np.uint8], at: int, big: bool) -> int:
    """Two bytes at `at` as an unsigned number."""
    if big:
        return int(np.int64(data[at]) << 8 | np.int64(data[at + 1]))
    return int(np.int64(data[at]) | np.int64(data[at + 1]) << 8)


@part
def binary_us(ticks: np.uint64, power: np.uint64) -> np.uint64:
    """Ticks of 2^-power seconds in microseconds, rounded down exactly. `power` is 0 to 127."""
    million, half, limit = np.uint64(1_000_000), np.uint64(32), np.uint64(STAMP_LIMIT_US)
    seconds, part = np.uint64(0), ticks
    if power < np.uint64(64):
        seconds = ticks >> power
        part = ticks - (seconds << power)
    if seconds >= limit // million:
        return limit
    # part * 10^6 / 2^power in two halves, since the product can have 84 bits
    high, low = part >> half, (part & np.uint64(0xFFFF_FFFF)) * million
    if power <= half:
        return seconds * million + (low >> power)
    if power < np.uint64(96):
        return seconds * million + (high * million + (low >> half) >> power - half)
    return seconds * million


@part
def stamp(ticks: np.uint64, scale: int, factor: np.uint64, offset_us: int) -> int:
    """Microseconds since the epoch of a pcapng stamp, exact but for rounding down, held within STAMP_LIMIT_US."""
    zero, limit = np.uint64(0), np.uint64(STAMP_LIMIT_US)
    us = zero
    if scale == BINARY:
        us = binary_us(ticks, factor)
    elif factor > zero:
        if scale == DIVIDED:
            us = ticks // factor
        elif ticks <= limit // factor:
            us = ticks * factor
        else:
            us = limit
    total = int(np.int64(us)) + offset_us  # neither is over the limit, so their sum fits
    return max(-STAMP_LIMIT_US, min(STAMP_LIMIT_US, total))


@part
def count_skipped(kinds: NDArray[np.int64], skipped: NDArray[np.int64], kind: int) -> None:
    """Count a block that holds no frame, by its type."""
    place = 0
    while place < KINDS and kinds[place] != kind and kinds[place] != -1:
        place += 1
    if place < KINDS:
        kinds[place] = kind
    skipped[place] += 1


@part
def block_status(data: NDArray[np.uint8], at: int, end: int, big: bool) -> tuple[int, int]:
    """Whether a whole, sane block lies at `at`: (its length, FULL), or (0, why not)."""
    length = load32(data, at + 4, big)
    if length < 12:
        return 0, SHORT_BLOCK
    if length % 4 != 0:
        return 0, ODD_BLOCK
    if length > BLOCK_LIMIT:
        return 0, LONG_BLOCK
    if length > end - at:
        return 0, CUT
    if load32(data, at + length - 4, big) != length:
        return 0, TRAILER
    return length, FULL


@part
def packet_fields(data: NDArray[np.uint8], at: int, big: bool, kind: int) -> tuple[int, np.uint64, int, int]:
    """Read the packet block at `at`: (interface, ticks, captured bytes, wire bytes). A simple one tells wire bytes only."""
    if kind == SIMPLE_PACKET:
        wire = load32(data, at + 8, big)
        return 0, np.uint64(0), wire, wire
    number = load32(data, at + 8, big) if kind == ENHANCED_PACKET else u16(data, at + 8, big)
    ticks = np.uint64(load32(data, at + 12, big)) << np.uint64(32) | np.uint64(load32(data, at + 16, big))
    return number, ticks, load32(data, at + 20, big), load32(data, at + 24, big)


@part
def packet_status(number: int, interfaces: int, captured: int, room: int) -> int:
    """Whether a packet block's own numbers fit the section and the block: FULL, or what is broken."""
    if number >= interfaces:
        return NO_INTERFACE
    if captured > FRAME_LIMIT:
        return TOO_LONG_FRAME
    return FULL if captured <= room else FRAME_OVER_BLOCK


@loop
def walk_pcapng(data: NDArray[np.uint8], at: int, end: int, section: Section, frames: NDArray[np.void]) -> tuple[int, int, int]:
    """Write a row for each packet block in data[at:end], count the others.

    Returns (rows, where the next block begins, why it stopped).
    """
    big, last_us, interfaces = section.big, section.last_us, section.interfaces
    rows, status = 0, FULL
    while rows < frames.size:
        if end - at < 8:
            status = DONE if at == end else CUT
            break
        kind = load32(data, at, big)
        if kind == SECTION_BLOCK:  # reads the same in either byte order, which may change here
            status = SECTION
            break
        length, status = block_status(data, at, end, big)
        if status != FULL:
            break
        if kind == INTERFACE_BLOCK:
            status = INTERFACE
            break
        for line in range(at + AHEAD_BYTES, min(at + length + AHEAD_BYTES, end), LINE_BYTES):
            prefetch_read(data, np.int64(line), np.int64(0))
        if kind not in (ENHANCED_PACKET, SIMPLE_PACKET, OLD_PACKET):
            count_skipped(section.kinds, section.skipped, kind)
            at += length
            continue
        header = 12 if kind == SIMPLE_PACKET else 28
        if length < header + 4:
            status = SMALL_BLOCK
            break
        number, ticks, captured, wire = packet_fields(data, at, big, kind)
        if kind == SIMPLE_PACKET and interfaces.size > 0:  # what was captured follows from the snap length
            captured = min(captured, interfaces[0]["snap_bytes"])
        status = packet_status(number, interfaces.size, captured, length - header - 4)
        if status != FULL:
            break
        interface = interfaces[number]
        if kind == SIMPLE_PACKET:  # it has no stamp: the last one seen
            section.unstamped[0] += 1
        else:
            last_us = stamp(ticks, interface["scale"], interface["factor"], interface["offset_us"])
        row = frames[rows]
        row["ts_us"] = last_us
        row["offset"] = at + header
        row["captured_bytes"] = captured
        row["wire_bytes"] = wire
        row["link_type"] = interface["link_type"]
        row["source"] = section.source
        row["reserved"] = 0
        rows += 1
        at += length
    return rows, at, status


@njit
def gather(  # many arguments: taking arrays out of a tuple would cost more than the copying of a few frames
    data: NDArray[np.uint8],
    rows: NDArray[np.void],
    first: int,
    places: NDArray[np.int64],
    staged: NDArray[np.uint8],
    staged_rows: NDArray[np.void],
    at: int,
) -> int:
    """Copy the frames rows[first:] to staged_rows[places], their bytes to staged[at:]. Returns the next free byte."""
    for taken in range(places.size):
        begin, size = int(rows[first + taken]["offset"]), int(rows[first + taken]["captured_bytes"])
        place = places[taken]
        staged_rows[place] = rows[first + taken]
        staged_rows[place]["offset"] = at
        staged[at : at + size] = data[begin : begin + size]
        at += size
    return at
