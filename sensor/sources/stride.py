"""The compiled loop over classic pcap files: records are followed in eight chains at once, so that waits for memory overlap.

Strategy. A record tells where the next one begins only when its header has come from memory, about 100 ns away; a walk
from one to the next does little but wait. So the next half megabyte is split in eight, in each part a place is sought where
a record header seems to lie, and the eight chains of records are followed in turn, a step in each: eight waits at a time.
A chain counts only when the chain before it ends exactly where it begins; the first one begins where the walk stands, hence
the places are those of a plain walk, whatever the guesses were. From where chains do not join, the walk goes plainly to the
end of that stretch: a file made to mislead costs both, about twice the plain walk. Rows are then written from the places;
a frame's length is the distance of two places, never read again, so a file that is changed under us cannot lead outside.

Where frames are short, all lines of the file are needed, and a plain walk that asks ahead for each of them is faster; so is
it for a stream, whose bytes are in the cache when they come. At 483 captured bytes a frame: 61 to 41 ns when
the file was read from disk, 97 to 76 when it was just written in small pieces and the system keeps it in single pages, which
cost more to map; and 44 to 31 ns in the decoder, which finds the lines at hand. Asking the system for the pages ahead
(MADV_POPULATE_READ) gains nothing, nor do longer stretches.

`sensor.sources.formats` calls `walk_pcap`, with one `Strides` for a file.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.kernels import load32, loop, part, prefetch_read
from sensor.sources.walk import AHEAD_BYTES, CUT, DONE, FRAME_LIMIT, FULL, LINE_BYTES, TOO_LONG_FRAME

CHAINS = 8
"""More overlap better (12: 2 ns less) but need more guesses and memory."""

STRETCH_BYTES = 512 << 10
"""Followed at a time: long enough to outweigh seven searches, short enough to be in the cache still when it is decoded."""

SEARCH_BYTES = 4096  # looked through for a record; most frames are shorter, and where they are not, waits matter less
SPARSE_BYTES = 256  # a record on average, above which chains pay: at 137 a plain walk is faster by 2 ns a frame
NEAR_S = 86_400  # a guessed record's stamp is at most so far from the first one of the stretch
LEAST_RECORD_BYTES = 16

STATE = np.dtype(
    [
        ("at", "<i8"),  # where the next record begins, and
        ("end", "<i8"),  # where the bytes end: if these are others than the walk left behind, all this is forgotten
        ("chain", "<i8"),  # of the next record whose place is known, and
        ("record", "<i8"),  # its number there
        ("joined", "<i8"),  # chains whose places hold
        ("until", "<i8"),  # end of the stretch: no guesses before it
        ("since", "<i8"),  # where the stretch began, and
        ("frames", "<i8"),  # frames met in it so far: how long they are on average
    ]
)


class PcapLayout(NamedTuple):
    """What a pcap file's header says, ready for the kernel."""

    header_bytes: int
    """16, or 24 in Kuznetsov's format."""
    big: bool
    """Big-endian."""
    nano: bool
    """Stamps have nanoseconds."""
    lengths: int
    """0: captured length first; 1: before version 2.3, wire length first; 2: version 2.3, the smaller one is captured."""
    link_type: int
    source: int


class Strides(NamedTuple):
    """What is known of the records ahead; the kernel keeps it in place."""

    places: NDArray[np.int64]
    """(CHAINS, n): where each chain's records begin, and where the last of them ends. n is 1 where chains do not pay."""
    counts: NDArray[np.int64]
    """(CHAINS,) records of each chain."""
    stops: NDArray[np.int64]
    """(CHAINS,) where each chain has to arrive."""
    state: NDArray[np.void]
    """(1,) STATE."""


def strides(stretch_bytes: int) -> Strides:
    """Room to follow chains through `stretch_bytes` at a time; 0 for a plain walk."""
    most = stretch_bytes // CHAINS // LEAST_RECORD_BYTES
    counts = np.zeros(CHAINS, np.int64)
    return Strides(np.empty((CHAINS, most + 1), np.int64), counts, np.zeros_like(counts), np.zeros(1, STATE))


@part
def captured_at(data: NDArray[np.uint8], at: int, layout: PcapLayout) -> tuple[int, int]:
    """(captured bytes, wire bytes) that the record at `at` claims."""
    captured, wire = load32(data, at + 8, layout.big), load32(data, at + 12, layout.big)
    if layout.lengths == 1 or (layout.lengths == 2 and captured > wire):
        return wire, captured
    return captured, wire


@part
def write_row(data: NDArray[np.uint8], at: int, captured: int, wire: int, layout: PcapLayout, row: np.void) -> None:
    """One FRAME row, of the record at `at`."""
    fraction = load32(data, at + 4, layout.big)
    if layout.nano:
        fraction //= 1000
    row["ts_us"] = load32(data, at, layout.big) * 1_000_000 + fraction
    row["offset"] = at + layout.header_bytes
    row["captured_bytes"] = captured
    row["wire_bytes"] = wire
    row["link_type"] = layout.link_type
    row["source"] = layout.source
    row["reserved"] = 0


@part
def walk_plainly(
    data: NDArray[np.uint8], at: int, until: int, end: int, layout: PcapLayout, frames: NDArray[np.void], rows: int
) -> tuple[int, int, int]:
    """Write rows of the records that begin before `until`, one after the other. Returns as `walk_pcap`; FULL: goes on."""
    while rows < frames.size:
        if end - at < layout.header_bytes:
            return rows, at, DONE if at == end else CUT
        if at >= until:
            break
        captured, wire = captured_at(data, at, layout)
        if captured > FRAME_LIMIT:
            return rows, at, TOO_LONG_FRAME
        if end - at - layout.header_bytes < captured:
            return rows, at, CUT
        write_row(data, at, captured, wire, layout, frames[rows])
        rows += 1
        following = at + layout.header_bytes + captured
        for line in range(at + AHEAD_BYTES, min(following + AHEAD_BYTES, end), LINE_BYTES):
            prefetch_read(data, np.int64(line), np.int64(0))
        at = following
    return rows, at, FULL


@part
def seems_record(data: NDArray[np.uint8], at: int, end: int, layout: PcapLayout, seconds: int) -> int:
    """Where the record at `at` would end if there were one, -1 if that is implausible."""
    if end - at < layout.header_bytes or abs(load32(data, at, layout.big) - seconds) > NEAR_S:
        return -1
    captured = load32(data, at + 8, layout.big)
    if captured == 0 or captured > FRAME_LIMIT:  # empty ones are rare, stretches of zeros are not
        return -1
    if load32(data, at + 4, layout.big) >= (1_000_000_000 if layout.nano else 1_000_000):
        return -1
    return at + layout.header_bytes + captured


@part
def find_record(data: NDArray[np.uint8], near: int, end: int, layout: PcapLayout, seconds: int) -> int:
    """The first place from `near` on where three records in a row seem to lie, -1 for none in SEARCH_BYTES."""
    age, age_at = seconds >> 24, 0 if layout.big else 3  # the half-year it is, in one byte, rules out most places
    for at in range(near, min(near + SEARCH_BYTES, end - layout.header_bytes)):
        if data[np.uint64(at + age_at)] != age:
            continue
        second = seems_record(data, at, end, layout, seconds)
        if second >= 0:
            third = seems_record(data, second, end, layout, seconds)
            if third >= 0 and seems_record(data, third, end, layout, seconds) >= 0:
                return at
    return -1


@part
def begin_chains(data: NDArray[np.uint8], at: int, until: int, layout: PcapLayout, strides: Strides) -> int:
    """Choose where chains begin in data[at:until], the first one at `at`. Returns how many there are."""
    places, counts, stops = strides.places, strides.counts, strides.stops
    seconds, apart = load32(data, at, layout.big), (until - at) // CHAINS
    places[0, 0], counts[0], chains = at, 0, 1
    for number in range(1, CHAINS):
        begin = find_record(data, at + number * apart, until, layout, seconds)
        if begin > places[chains - 1, 0]:
            stops[chains - 1] = begin
            places[chains, 0], counts[chains] = begin, 0
            chains += 1
    stops[chains - 1] = until
    return chains


@part
def follow_chains(data: NDArray[np.uint8], chains: int, end: int, layout: PcapLayout, strides: Strides) -> None:
    """Follow each chain to where it has to arrive, or to a record that cannot be; a step in each, and again.

    The lines with the record's header and its frame's are asked for, so that they are at hand for the decoder.
    """
    places, counts, stops = strides.places, strides.counts, strides.stops
    most = places.shape[1] - 1
    moving = chains
    while moving > 0:
        moving = 0
        for number in range(chains):
            chain = np.uint64(number)
            count = counts[chain]
            at = places[chain, np.uint64(count)]
            if at >= stops[chain]:
                continue
            captured = load32(data, at + 8, layout.big)
            prefetch_read(data, at, np.int64(LINE_BYTES))
            prefetch_read(data, at, np.int64(0))
            following = at + layout.header_bytes + captured
            if captured > FRAME_LIMIT or following > end or count == most:
                stops[chain] = 0
                continue
            places[chain, np.uint64(count + 1)] = following
            counts[chain] = count + 1
            moving += 1


@part
def look_ahead(data: NDArray[np.uint8], at: int, end: int, layout: PcapLayout, strides: Strides) -> None:
    """Begin a new stretch at `at`: with chains if records have been long enough for them to pay, and there is room."""
    state = strides.state[0]
    stretch = (strides.places.shape[1] - 1) * LEAST_RECORD_BYTES * CHAINS
    sparse = state["frames"] * SPARSE_BYTES <= at - state["since"]
    state["since"], state["frames"] = at, 0
    state["chain"], state["record"], state["joined"] = 0, 0, 0
    state["until"] = at + stretch
    if stretch == 0 or end - at < stretch + layout.header_bytes:
        state["until"] = end
    elif sparse:
        chains = begin_chains(data, at, at + stretch, layout, strides)
        follow_chains(data, chains, end, layout, strides)
        joined = 1
        while joined < chains and strides.places[joined - 1, strides.counts[joined - 1]] == strides.places[joined, 0]:
            joined += 1
        state["joined"] = joined


@part
def take_places(
    data: NDArray[np.uint8], at: int, layout: PcapLayout, strides: Strides, frames: NDArray[np.void], rows: int
) -> tuple[int, int]:
    """Write rows of the records of one chain whose places are known. Returns (rows, where the next record begins)."""
    state, header = strides.state[0], layout.header_bytes
    chain, first = np.uint64(state["chain"]), state["record"]
    count = min(strides.counts[chain] - first, frames.size - rows)
    for number in range(first, first + count):
        at, following = strides.places[chain, np.uint64(number)], strides.places[chain, np.uint64(number + 1)]
        wire = load32(data, at + 12, layout.big)
        write_row(data, at, following - at - header, wire, layout, frames[np.uint64(rows)])
        rows += 1
        at = following
    state["record"] = first + count
    if state["record"] == strides.counts[chain]:
        state["chain"] += 1
        state["record"] = 0
    return rows, at


@loop
def walk_pcap(
    data: NDArray[np.uint8], at: int, end: int, layout: PcapLayout, strides: Strides, frames: NDArray[np.void]
) -> tuple[int, int, int]:
    """Write a row for each whole record in data[at:end]. Returns (rows, where the next record begins, why it stopped)."""
    state = strides.state[0]
    if state["at"] != at or state["end"] != end:
        state["chain"], state["joined"], state["until"], state["since"], state["frames"] = 0, 0, at, at, 0
    rows, status = 0, FULL
    while rows < frames.size and status == FULL:
        before = rows
        if state["chain"] < state["joined"]:
            rows, at = take_places(data, at, layout, strides, frames, rows)
        elif at >= state["until"] and at < end:
            look_ahead(data, at, end, layout, strides)
        else:
            rows, at, status = walk_plainly(data, at, state["until"], end, layout, frames, rows)
        state["frames"] += rows - before
    state["at"], state["end"] = at, end
    return rows, at, status
