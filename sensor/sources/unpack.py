"""Raw bytes of a file or pipe, unpacked on the way: plain, gzip of any number of members, zstd of any number of frames.

All three give at most as many bytes as they are asked for and hold a bounded rest, whatever the compressed data claim: a
bomb of a few kilobytes that unpacks to terabytes costs time, not memory. When the compressed data break, everything that
can be unpacked before the break is given first, then `Broken` is raised. Called by `sensor.sources.supply`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from io import FileIO
from typing import TYPE_CHECKING, Protocol, TypeVar

from sensor.sources.faults import Broken

if TYPE_CHECKING:
    import zstandard

GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
CHUNK_BYTES = 64 << 10  # compressed bytes read at a time: what a pipe holds
ZSTD_WINDOW_LIMIT_BYTES = 128 << 20  # what the zstd command grants itself without --long


T = TypeVar("T")


class Inflow(Protocol):
    """A stream of unpacked bytes."""

    def readinto(self, view: memoryview) -> int:
        """Fill some of `view` (not empty). Returns how many bytes, 0 at the end; raises Broken where it cannot go on."""


class Origin:
    """The compressed or plain bytes as they lie in a file or come from a pipe."""

    def __init__(self, file: FileIO, *, head_bytes: int = 4) -> None:
        self._file = file
        self.taken_bytes = 0
        self.head = b""
        """The first bytes, which tell the compression. They are given again by `read`."""
        while len(self.head) < head_bytes and (piece := self._raw(head_bytes - len(self.head))):
            self.head += piece
        self._again = self.head

    def _raw(self, size: int) -> bytes:
        piece: bytes = self._guarded(lambda: self._file.read(size))
        return piece

    def _guarded(self, reading: Callable[[], T | None]) -> T:
        try:
            came = reading()
        except OSError as error:
            raise Broken(f"reading failed: {error.strerror or error}") from error
        if came is None:
            raise Broken("the pipe is in non-blocking mode and has no data")
        return came

    def read(self, size: int) -> bytes:
        """At most `size` bytes, b"" at the end."""
        piece, self._again = self._again[:size], self._again[size:]
        piece = piece or self._raw(size)
        self.taken_bytes += len(piece)
        return piece

    def readinto(self, view: memoryview) -> int:
        """Plain bytes: the simplest Inflow."""
        if self._again:
            piece = self.read(len(view))
            view[: len(piece)] = piece
            return len(piece)
        came: int = self._guarded(lambda: self._file.readinto(view))
        self.taken_bytes += came
        return came

    def exactly(self, size: int) -> bytes:
        """`size` bytes, fewer only at the end."""
        gathered = self.read(size)
        while len(gathered) < size and (piece := self.read(size - len(gathered))):
            gathered += piece
        return gathered

    def close(self) -> None:
        """Close the file, but for standard input, which belongs to the process."""
        if self._file.closefd:
            self._file.close()


class Gunzip:
    """gzip (RFC 1952) through zlib, which checks the sums. Zero bytes after a member are padding, as for the gzip command."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._pending = b""
        self._member = zlib.decompressobj(wbits=31)
        self._careful = False
        """After an error: one byte at a time, since zlib gives nothing of a piece that breaks in its middle."""

    def readinto(self, view: memoryview) -> int:
        """See Inflow."""
        while True:
            self._pending = self._pending or self._origin.read(CHUNK_BYTES)
            at_end = not self._pending
            if self._member.eof and not self._next_member():
                if at_end:
                    return 0
                continue
            if out := self._inflate(len(view)):
                view[: len(out)] = out
                return len(out)
            if at_end and not self._member.eof:
                raise Broken("the gzip data are cut off")

    def _next_member(self) -> bool:
        self._pending = self._pending.lstrip(b"\0")
        if not self._pending:
            return False
        if self._pending[:1] != GZIP_MAGIC[:1]:
            raise Broken("something that is not gzip follows the gzip data")
        self._member = zlib.decompressobj(wbits=31)
        return True

    def _inflate(self, room: int) -> bytes:
        piece = self._pending[:1] if self._careful else self._pending
        before = self._member.copy()
        try:
            out = self._member.decompress(piece, room)
        except zlib.error as error:
            if self._careful:
                raise Broken(f"the gzip data are damaged ({error})") from error
            self._member, self._careful = before, True
            return b""
        left = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
        self._pending = left + self._pending[len(piece) :]
        return out


class Unzstd:
    """zstd (RFC 8878). Blocks are told apart here, since a block unpacks to 128 KiB at most and anything else to any size."""

    def __init__(self, origin: Origin, unpacker: zstandard.ZstdDecompressor, error: type[Exception]) -> None:
        self._origin = origin
        self._unpacker = unpacker
        self._error = error
        self._pieces = self._unpack()
        self._left = memoryview(b"")

    def readinto(self, view: memoryview) -> int:
        """See Inflow."""
        while not self._left:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._left = memoryview(piece)
        size = min(len(view), len(self._left))
        view[:size], self._left = self._left[:size], self._left[size:]
        return size

    def _unpack(self) -> Iterator[bytes]:
        while magic := self._origin.exactly(4):
            if len(magic) == 4 and magic[1:] == b"\x2a\x4d\x18" and magic[0] >> 4 == 5:  # skippable frame
                size = int.from_bytes(self._need(4), "little")
                while size > 0:
                    size -= len(self._need(min(size, CHUNK_BYTES)))
                continue
            if magic != ZSTD_MAGIC:
                raise Broken("something that is not zstd follows the zstd data")
            try:
                yield from self._frame(magic)
            except self._error as error:
                raise Broken(f"the zstd data are damaged ({error})") from error

    def _frame(self, magic: bytes) -> Iterator[bytes]:
        """One frame, block by block (RFC 8878, 3.1.1)."""
        frame = self._unpacker.decompressobj()
        descriptor = self._need(1)[0]
        single, size_flag = descriptor >> 5 & 1, descriptor >> 6
        fields_bytes = (0 if single else 1) + (0, 1, 2, 4)[descriptor & 3] + (single, 2, 4, 8)[size_flag]
        yield frame.decompress(magic + bytes([descriptor]) + self._need(fields_bytes))
        last = False
        while not last:
            block = self._need(3)
            header = int.from_bytes(block, "little")
            last = bool(header & 1)
            repeated = header >> 1 & 3 == 1  # a run of one byte
            yield frame.decompress(block + self._need(1 if repeated else header >> 3))
        if descriptor & 4:
            yield frame.decompress(self._need(4))  # its checksum

    def _need(self, size: int) -> bytes:
        piece = self._origin.exactly(size)
        if len(piece) < size:
            raise Broken("the zstd data are cut off")
        return piece


def unpacked(origin: Origin) -> tuple[Inflow, str]:
    """The Inflow for what `origin` begins with, and its name: "", "gzip" or "zstd". Raises Broken without zstandard."""
    if origin.head.startswith(GZIP_MAGIC):
        return Gunzip(origin), "gzip"
    if not is_zstd(origin.head):
        return origin, ""
    try:
        import zstandard  # noqa: PLC0415  # optional, and only for files that need it
    except ImportError as error:
        raise Broken("it is packed with zstd: pip install zstandard, or unpack it first (zstd -d)") from error
    unpacker = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_LIMIT_BYTES)
    return Unzstd(origin, unpacker, zstandard.ZstdError), "zstd"


def is_zstd(head: bytes) -> bool:
    """Whether a file that begins so is zstd; a skippable frame may come first (pzstd writes one)."""
    return head == ZSTD_MAGIC or (len(head) == 4 and head[1:] == b"\x2a\x4d\x18" and head[0] >> 4 == 5)
