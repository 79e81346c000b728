"""Capture files as a source of frames: pcap and pcapng, plain or packed, one or many, files, folders and pipes.

`CaptureSource` is the only name that the rest of netseq needs. Behind it: `listing` finds the files, `supply` and `unpack`
lay their bytes before the readers, `formats` and the kernels of `walk` turn bytes into FRAME rows, `merge` puts the frames
of several files in time order. Plain files are mapped and their frames point into the map; nothing is copied but what
`merge` interleaves. Broken files are data: what comes before the break is handed over, the break is recorded as a
`Damage`, and the next file follows. Used by `sensor.commands` and by training on captures.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing

import numpy as np

from sensor.schema import FRAME, FrameBlock
from sensor.sources.faults import Break, Broken, Damage, NotACapture
from sensor.sources.formats import PcapngReader, PcapReader, head_of, open_reader
from sensor.sources.listing import LOOK_BYTES, Found, list_captures, no_capture
from sensor.sources.merge import merged
from sensor.sources.supply import Supply, open_supply
from sensor.sources.walk import STAMP_LIMIT_US

__all__ = ["CaptureSource", "Damage", "NotACapture"]

BUFFER_BYTES = 1 << 20  # of a stream: some thousand frames, still in the cache
LEAST_BUFFER_BYTES = 128 << 10
BUFFERS_BYTES = 32 << 20  # of all streams together, which may all be open at once
LAST_SOURCE = 0xFFFF  # FRAME.source has 16 bits; further files share the last number


class CaptureSource:
    """Frames of capture files, in time order.

    paths: files; folders (with all folders in them; captures are known by their first bytes); "-" for standard input.
    block_frames: frames in a block at most. Small blocks stay in the cache between the steps that follow.

    Raises NotACapture for what was named and cannot be replayed; for a pipe only when it is iterated, since what comes out
    of it is not known earlier. Iterating again reads the files again and counts from zero; a pipe is then empty.
    """

    def __init__(self, paths: Sequence[str | os.PathLike[str]], *, block_frames: int = 4096, mapped: bool = True) -> None:
        listing = list_captures(paths)
        self.files = [found.name for found in listing.captures]
        """Names of the captures, in the order given; FRAME.source is a place in this list (65,535 at most)."""
        self.skipped_files = listing.skipped
        """(path, reason) of files found in folders that are no captures, or that were met before."""
        sizes = [found.size_bytes for found in listing.captures]
        self.bytes_total = None if None in sizes else sum(size or 0 for size in sizes)
        """Bytes to read, packed where files are packed; None when a pipe is among them."""
        self._captures = listing.captures
        self._block_frames = block_frames
        self.mapped = mapped
        """Plain files are mapped; False where another program may cut them, which would end this one (see supply)."""
        self._lanes: list[_CaptureLane] = []
        self._reset()

    def _reset(self) -> None:
        self.frames = 0
        """Frames handed over so far."""
        self.unstamped = 0
        """Of these, frames whose file tells no time (simple packet blocks); they have the stamp of the frame before."""
        self.damages: list[Damage] = []
        """Breaks met so far."""
        self.skipped_blocks: Counter[str] = Counter()
        """pcapng blocks without frames, by kind, of the files that are done."""

    def __iter__(self) -> Iterator[FrameBlock]:
        """Blocks of frames; each is valid until the next one is asked for."""
        self._reset()
        buffer_bytes = max(LEAST_BUFFER_BYTES, min(BUFFER_BYTES, BUFFERS_BYTES // len(self._captures)))
        self._lanes = [_CaptureLane(self, found, number, buffer_bytes) for number, found in enumerate(self._captures)]
        try:
            for block in self._blocks():
                self.frames += block.frames.size
                yield block
        finally:
            for lane in self._lanes:
                lane.close()

    def _blocks(self) -> Iterator[FrameBlock]:
        if len(self._lanes) > 1:
            for lane in self._lanes:
                lane.look_ahead()
            yield from merged(self._lanes, self._block_frames)
            return
        while block := self._lanes[0].next_block(self._block_frames):
            yield block

    @property
    def bytes_done(self) -> int:
        """Bytes read so far, packed where files are packed."""
        return sum(lane.taken_bytes for lane in self._lanes)

    @property
    def block_frames(self) -> int:
        """Frames in a block at most."""
        return self._block_frames

    def account(self, reader: PcapReader | PcapngReader) -> None:
        """Add up what a reader counted that is done."""
        if isinstance(reader, PcapngReader):
            self.skipped_blocks.update(reader.skipped_blocks())
            self.unstamped += int(reader.unstamped[0])


class _CaptureLane:
    """One capture on its way: waiting, open, or done."""

    first_us = -STAMP_LIMIT_US
    """Stamp of the first frame; before all others while unknown, so that a capture without frames has its turn at once."""

    def __init__(self, source: CaptureSource, found: Found, number: int, buffer_bytes: int) -> None:
        self.number = number
        self._source = source
        self._found = found
        self._buffer_bytes = buffer_bytes
        self._supply: Supply | None = None
        self._reader: PcapReader | PcapngReader | None = None
        self._ready: FrameBlock | None = None
        self._rows = np.empty(0, FRAME)
        self._done_bytes: int | None = None

    def look_ahead(self) -> None:
        """Learn `first_us`. A file is closed again until its turn; a pipe stays open with its first frames at hand."""
        if self._found.size_bytes is None:
            self._ready = self.next_block(self._source.block_frames)
            if self._ready is not None:
                self.first_us = int(self._ready.frames["ts_us"][0])
            return
        row = np.empty(1, FRAME)
        try:
            supply, reader = self._open(LOOK_BYTES)
            with closing(supply):
                if reader.read(row):
                    self.first_us = int(row["ts_us"][0])
        except (Break, Broken, OSError, NotACapture):
            pass  # met again, and recorded, when its turn comes: at once

    def next_block(self, rows: int) -> FrameBlock | None:
        """See merge.Lane. A break is recorded and is the end."""
        if self._ready is not None:
            block, self._ready = self._ready, None
            return block
        count = 0 if self._done_bytes is not None else self._read(rows)
        if count == 0 or self._reader is None:
            self.close()
            return None
        return FrameBlock(self._reader.data, self._rows[:count])

    def _read(self, rows: int) -> int:
        try:
            if self._reader is None:
                self._supply, self._reader = self._open(self._buffer_bytes)
                self._rows = np.empty(self._source.block_frames, FRAME)
            return self._reader.read(self._rows[:rows])
        except Break as broken:
            damage = Damage(self._found.name, broken.byte_offset, broken.reason)
        except (Broken, OSError, NotACapture) as error:
            if self._found.size_bytes is None and self._reader is None:
                raise error if isinstance(error, NotACapture) else NotACapture(f"{self._found.name}: {error}") from error
            damage = Damage(self._found.name, 0, f"it cannot be read any more: {error}")
        self._source.damages.append(damage)
        return 0

    def _open(self, buffer_bytes: int) -> tuple[Supply, PcapReader | PcapngReader]:
        supply = open_supply(self._found.path, buffer_bytes, mapped=self._source.mapped)
        try:
            reader = open_reader(supply, min(self.number, LAST_SOURCE))
            if reader is None:
                piped = self._found.size_bytes is None
                raise NotACapture(f"{self._found.name}: {no_capture(head_of(supply), supply.packing, piped=piped)}")
        except BaseException:
            supply.close()
            raise
        return supply, reader

    @property
    def taken_bytes(self) -> int:
        """Bytes of the file that are read."""
        if self._done_bytes is not None:
            return self._done_bytes
        return self._reader.taken_bytes if self._reader is not None else 0

    def close(self) -> None:
        """Be done, and let go of the file. Frames handed over stay valid as long as someone holds them."""
        if self._done_bytes is not None:
            return
        taken = self.taken_bytes
        self._done_bytes = taken if self._found.size_bytes is None else self._found.size_bytes
        if self._reader is not None:
            self._source.account(self._reader)
        if self._supply is not None:
            self._supply.close()
        self._supply = self._reader = None
        self._rows = np.empty(0, FRAME)
