"""The bytes of a capture, laid before the readers as one array: a whole mapped file, or a window that slides over a stream.

A reader walks over `data` up to `end` and asks for `more` when a record is cut by that end. A mapped file has no more; a
stream keeps the cut record, moves it to the front and reads on behind it, in a buffer that grows only with bytes that have
truly come, to twice the longest record. Called by `sensor.sources.formats`.

A file that another program changes while it is mapped: what is added after opening is left unread and told as a break;
when it shrinks, everything up to its new end is read and the rest is told as a break. The size is looked at before each
block; if the file shrinks between that look and the reading of the bytes, the kernel ends the process (SIGBUS), as it does
with every program that maps files.
"""

from __future__ import annotations

import mmap
import os
from io import FileIO
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sensor.sources.faults import Break, Broken
from sensor.sources.unpack import Inflow, Origin, unpacked

RELEASE_BUFFERS = 4
"""Mapped pages are given back to the system each time as many buffers of bytes lie behind the reader: reading a long file, or
hundreds side by side, must not fill the memory with what is done."""


class Supply(Protocol):
    """Bytes of one capture."""

    data: NDArray[np.uint8]
    """Read-only. May be another array after `more`."""
    end: int
    """Bytes of `data` that are there."""
    base: int
    """Place in the (unpacked) capture of data[0]."""
    packing: str
    """"", "gzip" or "zstd"."""
    mapped: bool
    """The bytes lie in a file and come when they are looked at."""

    def settle(self, at: int) -> None:
        """Make sure, before data[at:end] is read, that it can be."""

    def more(self, at: int) -> tuple[int, bool]:
        """Read on, keeping data[at:end]. Returns where data[at] lies now and whether bytes came; Break where none can."""

    def taken_bytes(self, at: int) -> int:
        """Bytes of the file that lie behind a reader at `at`, for progress."""

    def close(self) -> None:
        """Give back what can be given back while frames may still be looked at."""


class Mapped:
    """A plain file, mapped and never copied. Raises OSError or ValueError where a file cannot be mapped."""

    def __init__(self, file: FileIO, buffer_bytes: int) -> None:
        size = os.fstat(file.fileno()).st_size
        # The map is never closed by hand: numpy views of it may outlive the reader, and the last of them frees it.
        self._map = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        if hasattr(mmap, "MADV_SEQUENTIAL"):
            self._map.madvise(mmap.MADV_SEQUENTIAL)
        self.data = np.frombuffer(self._map, np.uint8)
        self.end = self._size = size
        self.base = 0
        self.packing = ""
        self.mapped = True
        self._release_bytes = RELEASE_BUFFERS * buffer_bytes
        self._released = 0
        file.close()  # the map holds a descriptor of its own

    def settle(self, at: int) -> None:
        """See Supply. A file that has shrunk ends where it ends now."""
        self.end = min(self.end, self._map.size())
        if at - self._released >= self._release_bytes and hasattr(mmap, "MADV_DONTNEED"):
            size = (at - self._released) // mmap.PAGESIZE * mmap.PAGESIZE
            self._map.madvise(mmap.MADV_DONTNEED, self._released, size)  # a page that is looked at again comes back
            self._released += size

    def more(self, at: int) -> tuple[int, bool]:
        """See Supply. There is never more, but a file that has changed must not look as if it had ended well."""
        size = self._map.size()
        if size < self._size:
            raise Break(at, f"the file shrank from {self._size} to {size} bytes while it was read")
        if size > self._size:
            raise Break(self._size, f"the file grew by {size - self._size} bytes while it was read; these were not read")
        return at, False

    def taken_bytes(self, at: int) -> int:
        """See Supply."""
        return at

    def close(self) -> None:
        """See Supply. The pages go when the last view of them goes."""


class Streamed:
    """A pipe or a compressed file, seen through a window that slides."""

    def __init__(self, origin: Origin, inflow: Inflow, packing: str, buffer_bytes: int) -> None:
        self._origin = origin
        self._inflow = inflow
        self._buffer = np.empty(buffer_bytes, np.uint8)
        self.data = _read_only(self._buffer)
        self.end = 0
        self.base = 0
        self.packing = packing
        self.mapped = False

    def settle(self, at: int) -> None:
        """See Supply. What has been read stays."""

    def more(self, at: int) -> tuple[int, bool]:
        """See Supply."""
        left = self.end - at
        source = self._buffer
        if 2 * left > self._buffer.size:
            self._buffer = np.empty(2 * self._buffer.size, np.uint8)
            self.data = _read_only(self._buffer)
        self._buffer[:left] = source[at : self.end]
        self.base, self.end = self.base + at, left
        try:
            came = self._inflow.readinto(self._buffer[left:].data)
        except Broken as broken:
            raise Break(self.base + self.end, str(broken)) from broken
        self.end += came
        return 0, came > 0

    def taken_bytes(self, at: int) -> int:
        """See Supply. Compressed bytes, a little ahead of the reader."""
        return self._origin.taken_bytes

    def close(self) -> None:
        """See Supply."""
        self._origin.close()


def open_supply(path: str, buffer_bytes: int, *, mapped: bool = True) -> Supply:
    """Open a file, or standard input for "-". Raises OSError; Broken when it is packed and cannot be unpacked here.

    A plain regular file is mapped, unless `mapped` is False because another program may cut it; what is packed, no regular
    file, or on a file system without maps, is streamed.
    """
    file = FileIO(0, closefd=False) if path == "-" else FileIO(path)
    try:
        return _plain_or_streamed(path, file, buffer_bytes, mapped=mapped)
    except BaseException:
        if file.closefd:
            file.close()
        raise


def _plain_or_streamed(path: str, file: FileIO, buffer_bytes: int, *, mapped: bool) -> Supply:
    origin = Origin(file)
    inflow, packing = unpacked(origin)
    if mapped and not packing and path != "-" and Path(path).is_file():
        try:
            return Mapped(file, buffer_bytes)
        except (OSError, ValueError):  # no maps here, or the file is empty
            pass
    return Streamed(origin, inflow, packing, buffer_bytes)


def _read_only(buffer: NDArray[np.uint8]) -> NDArray[np.uint8]:
    view = buffer.view()
    view.flags.writeable = False
    return view
