"""The site's record on disk: conn.logs, gzipped, an hour of packet time in each, the oldest deleted first.

Any reader of Zeek's logs reads them, netseq's own before all. Every write ends in a sync flush of the compressor, so what
was handed over can be read at any time, after a kill -9 too: the file then lacks its end, and nothing else. A file has a
number before its hour, `conn.00000012.2026-03-05T09Z.log.gz`, because the order of recording is what training wants (see
`sensor.commands.record`), and packet time may go back; a restart begins a new file. Nothing is renamed and nothing is
written again, so there is no moment at which a reader finds half a change.

`service_record` calls this in the thread that writes. The bounds are strict: bytes are counted before they are written.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import zlib
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sensor.schema import FLOW, FlowBatch
from sensor.sinks.conn_log import ConnLog

LEVEL = 1
"""Of gzip: an hour of a home network takes 49 bytes and 1.1 us of one core a flow."""
GZIP = 31
"""zlib's wbits for a gzip header and the largest window."""
PARTS = 8
"""A file is closed at this part of all the room there is, so that "the oldest goes first" takes little at a time."""
MOST_FILES = 4096
"""Files at most: a packet clock that jumps to and fro would begin one with every batch."""
PIECE_ROWS = 2048
"""Flows handed to the disk at a time: what fails, fails whole."""

NAMED = re.compile(r"conn\.(\d{8,})\.(\d{4,}-\d\d-\d\dT\d\d)Z\.log\.gz")


def warm() -> None:
    """Compile what writes lines, or load it, before there is anything to hold up: a compilation stops every other thread."""
    ConnLog(io.BytesIO(), clock=lambda: datetime.now(UTC)).write(FlowBatch(np.zeros(1, FLOW)))


class NoRoom(Exception):  # noqa: N818  # it names what happened
    """A piece is larger than all the room that the record may take."""


class Kept(NamedTuple):
    """A file of the record."""

    number: int
    path: Path
    hour: str


def kept_files(folder: Path) -> list[Kept]:
    """The files of a record in the order of recording. Raises OSError."""
    found = [(NAMED.fullmatch(path.name), path) for path in folder.iterdir()]
    return sorted(Kept(int(name[1]), path, name[2]) for name, path in found if name)


class RecordFiles:
    """The files in `folder`: at most `keep_hours` different hours of them, and at most `limit_bytes` in all.

    `other_bytes` says what else in the folder counts. Raises OSError where the folder cannot be made or listed.
    """

    def __init__(self, folder: Path, *, keep_hours: int, limit_bytes: int) -> None:
        self.deleted = 0
        self._folder = folder
        self._keep_hours = max(keep_hours, 1)
        self._limit_bytes = limit_bytes
        folder.mkdir(parents=True, exist_ok=True)
        self._kept = kept_files(folder)
        self._sizes = {kept.path: kept.path.stat().st_size for kept in self._kept}
        self._open: _Open | None = None
        self.other_bytes = 0

    @property
    def oldest_hour(self) -> str:
        """The hour of the oldest file, "" when there is none."""
        return self._kept[0].hour if self._kept else ""

    @property
    def total_bytes(self) -> int:
        """Bytes of all files, and of what else counts."""
        return sum(self._sizes.values()) + self.other_bytes

    def write(self, batch: FlowBatch, hour_us: int) -> None:
        """Write at most PIECE_ROWS flows into the file of the hour that begins at `hour_us`. Raises OSError or NoRoom."""
        hour = _named(hour_us)
        if self._open is not None and (self._open.hour != hour or self._open.size > self._limit_bytes // PARTS):
            self.close()
        try:
            if self._open is None:
                self._begin(hour)
            assert self._open is not None
            self._put(self._open.lines(batch))
        except (OSError, NoRoom):
            self._abandon()
            raise

    def close(self) -> None:
        """End the open file properly, where the disk lets it: its lines are whole either way."""
        if self._open is not None:
            with contextlib.suppress(OSError, NoRoom):
                self._put(self._open.end())
            self._abandon()

    def _begin(self, hour: str) -> None:
        number = self._kept[-1].number + 1 if self._kept else 1
        path = self._folder / f"conn.{number:08d}.{hour}Z.log.gz"
        self._open = _Open(path, hour)
        self._kept.append(Kept(number, path, hour))
        self._sizes[path] = 0
        while len(self._kept) > MOST_FILES or len({kept.hour for kept in self._kept}) > self._keep_hours:
            self._delete_oldest()

    def _put(self, data: bytes) -> None:
        """Write bytes to the open file, after the room for them was made."""
        assert self._open is not None
        while self.total_bytes + len(data) > self._limit_bytes:
            if self._kept[0].path == self._open.path:
                raise NoRoom
            self._delete_oldest()
        self._open.put(data)
        self._sizes[self._open.path] = self._open.size

    def _delete_oldest(self) -> None:
        """Delete the oldest file; OSError passes, and the file still counts then."""
        self._kept[0].path.unlink(missing_ok=True)
        del self._sizes[self._kept.pop(0).path]
        self.deleted += 1

    def _abandon(self) -> None:
        if self._open is not None:
            self._open.stream.close()
            self._open = None


class _Open:
    """The file that is written at the moment."""

    def __init__(self, path: Path, hour: str) -> None:
        self.path = path
        self.hour = hour
        self.size = 0
        self.stream = open(path, "xb", buffering=0)  # noqa: SIM115  # open for as long as this object
        self._text = bytearray()
        self._packer = zlib.compressobj(LEVEL, zlib.DEFLATED, GZIP)
        self._log = ConnLog(self, clock=lambda: datetime.now(UTC), name=path.name)

    def write(self, data: bytes, /) -> int:
        """Take text from the sink (it is a ByteStream to it)."""
        self._text += data
        return len(data)

    def lines(self, batch: FlowBatch) -> bytes:
        """Flows as compressed bytes that can be unpacked as they are."""
        self._log.write(batch)
        return self._packed(zlib.Z_SYNC_FLUSH)

    def end(self) -> bytes:
        """The end of the file."""
        self._log.close()
        return self._packed(zlib.Z_FINISH)

    def put(self, data: bytes) -> None:
        """Write all of it or nothing. Raises OSError."""
        done = 0
        try:
            while done < len(data):
                done += self.stream.write(data[done:])
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self.stream.fileno(), self.size)
            raise
        self.size += done

    def _packed(self, how: int) -> bytes:
        packed = self._packer.compress(self._text) + self._packer.flush(how)
        self._text.clear()
        return packed


def _named(hour_us: int) -> str:
    """The hour of a packet time as file names have it; a time that no calendar knows counts as its beginning."""
    try:
        return f"{datetime.fromtimestamp(hour_us / 1e6, UTC):%Y-%m-%dT%H}"
    except (ValueError, OverflowError, OSError):
        return "1970-01-01T00"
