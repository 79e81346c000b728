"""Frames of several captures in time order, whatever way the captures overlap.

Strategy. Each capture is a lane. The order is the one that comes out when always the lane with the earliest next frame goes
first (of equals, the lane named first); frames of one lane keep their order even where their stamps step back. That is the
same as merging by the highest stamp so far of each lane's block, which never falls, so it can be done in rounds: up to the
earliest end of all the blocks at hand everything is known, and a stable sort of those rows puts them in order. A lane is
opened only when the time comes to its first stamp, so captures that follow each other cost one open file at a time.

Long runs of one lane are handed over where they lie. Where lanes alternate, frames are copied to a buffer of fixed size:
a copy costs some nanoseconds a frame, a block of few frames costs microseconds in every step that follows.
The order does not depend on the sizes of blocks. Called by `sensor.sources.pcap`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from sensor.schema import FRAME, FrameBlock
from sensor.sources.walk import FRAME_LIMIT, gather

LONG_RUN = 1024  # frames of one lane in a row, on average, from which on blocks are handed over uncopied
STAGING_BYTES = 4 << 20  # bytes of copied frames in one block: it should stay in the cache
ROWS_AT_HAND = 1 << 21  # rows (64 MiB) that all open lanes together hold ready at most
LEAST_ROWS = 1024  # but as many each: a round costs microseconds a lane, and gives as many frames as one lane has ready


class Lane(Protocol):
    """One capture, not necessarily open yet."""

    number: int
    """Its place among the captures named: decides between equal stamps."""
    first_us: int
    """Stamp of its first frame."""

    def next_block(self, rows: int) -> FrameBlock | None:
        """At most `rows` frames and a block's; valid until the next call. None at the end. Opens the capture when it has to."""


class _Open:
    """A lane that takes part, with the block it is at."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self.number = lane.number
        self._block = FrameBlock(np.empty(0, np.uint8), np.empty(0, FRAME))
        self._keys = np.empty(0, np.int64)
        self._at = 0
        self._next_us = 0

    def refill(self, rows: int) -> bool:
        """Have unread frames at hand; False when there are no more."""
        if self._at < self._keys.size:
            return True
        block = self._lane.next_block(rows)
        if block is None:
            return False
        self._block, self._at = block, 0
        self._keys = np.maximum.accumulate(block.frames["ts_us"])
        self._next_us = int(self._keys[0])
        return True

    @property
    def horizon(self) -> tuple[int, int]:
        """Up to here, in the order of all frames, this lane is known."""
        return int(self._keys[-1]), self.number

    @property
    def next_frame(self) -> tuple[int, int]:
        """Where its next frame comes in the order of all frames."""
        return self._next_us, self.number

    def take(self, horizon: tuple[int, int]) -> tuple[FrameBlock, NDArray[np.int64]]:
        """The unread frames up to `horizon`, and their keys."""
        side: Literal["left", "right"] = "right" if self.number <= horizon[1] else "left"
        begin = self._at
        self._at = begin + int(self._keys[begin:].searchsorted(horizon[0], side))
        if self._at < self._keys.size:
            self._next_us = int(self._keys[self._at])
        return FrameBlock(self._block.data, self._block.frames[begin : self._at]), self._keys[begin : self._at]


def merged(lanes: Iterable[Lane], block_frames: int) -> Iterator[FrameBlock]:
    """Frames of all lanes in time order, in blocks of at most `block_frames`; each is valid until the next is asked for."""
    waiting = sorted(lanes, key=lambda lane: (lane.first_us, lane.number), reverse=True)
    taking_part: list[_Open] = []
    staging = FrameBlock(np.empty(STAGING_BYTES + FRAME_LIMIT, np.uint8), np.empty(block_frames, FRAME))
    while waiting or taking_part:
        rows = max(LEAST_ROWS, ROWS_AT_HAND // (len(taking_part) + 1))
        taking_part = [lane for lane in taking_part if lane.refill(rows)]
        horizon = min((lane.horizon for lane in taking_part), default=None)
        while waiting and (horizon is None or (waiting[-1].first_us, waiting[-1].number) < horizon):
            entering = _Open(waiting.pop())
            if entering.refill(rows):
                taking_part.append(entering)
                horizon = min(horizon, entering.horizon) if horizon else entering.horizon
        taking_part.sort(key=lambda lane: lane.number)  # a stable sort then settles equal stamps as `horizon` does
        if horizon is not None:
            parts = [lane.take(horizon) for lane in taking_part if lane.next_frame <= horizon]
            yield from _in_order(parts, staging)


def _in_order(parts: list[tuple[FrameBlock, NDArray[np.int64]]], staging: FrameBlock) -> Iterator[FrameBlock]:
    """One round: the frames of all parts by their keys."""
    if len(parts) == 1:
        yield parts[0][0]
        return
    order = np.concatenate([keys for _, keys in parts]).argsort(kind="stable")
    lane_of = np.repeat(np.arange(len(parts)), [keys.size for _, keys in parts])[order]
    ends = np.concatenate([block.frames["captured_bytes"] for block, _ in parts])[order].cumsum(dtype=np.int64)
    done = np.zeros(len(parts), np.int64)
    begin = 0
    while begin < lane_of.size:
        bytes_before = int(ends[begin - 1]) if begin else 0
        fitting = int(ends.searchsorted(bytes_before + STAGING_BYTES, "right"))
        lanes = lane_of[begin : min(max(fitting, begin + 1), begin + staging.frames.size)]
        starts = np.flatnonzero(np.diff(lanes, prepend=-1))
        blocks = [block for block, _ in parts]
        if lanes.size >= LONG_RUN * starts.size:
            yield from _runs(blocks, done, lanes, starts)
        else:
            yield _copied(blocks, done, lanes, staging)
        begin += lanes.size


def _runs(
    blocks: list[FrameBlock], done: NDArray[np.int64], lanes: NDArray[np.int64], starts: NDArray[np.intp]
) -> Iterator[FrameBlock]:
    """Runs of frames of one lane, where they lie. `done` counts the frames of each lane that are handed over."""
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), lanes.size], strict=True):
        lane = int(lanes[start])
        first = int(done[lane])
        done[lane] += end - start
        yield FrameBlock(blocks[lane].data, blocks[lane].frames[first : first + end - start])


def _copied(blocks: list[FrameBlock], done: NDArray[np.int64], lanes: NDArray[np.int64], staging: FrameBlock) -> FrameBlock:
    """Frames of alternating lanes, copied side by side."""
    by_lane = lanes.argsort(kind="stable")
    counts = np.bincount(lanes, minlength=done.size)
    at = begin = 0
    for lane in np.flatnonzero(counts).tolist():
        block, end = blocks[lane], begin + int(counts[lane])
        at = gather(block.data, block.frames, int(done[lane]), by_lane[begin:end], staging.data, staging.frames, at)
        begin = end
    done += counts
    read_only = staging.data.view()
    read_only.flags.writeable = False
    return FrameBlock(read_only, staging.frames[: lanes.size])
