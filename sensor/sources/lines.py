"""Text files of flow records: which files, in which compression, and what could not be read of them.

conn.log and CICFlowMeter's CSVs share this: files and folders in, blocks of whole lines out, with the number of their first
line, so that a damaged line can be named. gzip and (where zstandard is installed) zstd are recognised by their first bytes,
not by the file's name. A broken compressed file gives all that lies before the break.
"""

from __future__ import annotations

import os
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

READ_BYTES = 1 << 20
"""Read at a time: large enough that a block's columns are worth converting at once, small enough to stay in cache."""
KEPT = 100
"""Damages that are kept with line and reason; all are counted."""

Paths = Sequence[str | os.PathLike[str]]


class LineDamage(NamedTuple):
    """A line that could not be read, or the place where a file broke off."""

    path: str
    line: int
    """Counted from 1."""
    reason: str


class Damages:
    """The first damages in full, and the count of all by kind."""

    def __init__(self) -> None:
        self.first: list[LineDamage] = []
        self.counts: Counter[str] = Counter()

    def add(self, kind: str, path: str, line: int, reason: str) -> None:
        """Count one damage of a kind (a field's name, "columns", "json", "compression")."""
        self.counts[kind] += 1
        if len(self.first) < KEPT:
            self.first.append(LineDamage(path, line, reason))


def files_of(paths: Paths) -> list[tuple[Path, bool]]:
    """Every file named by `paths`, and whether it was named itself; folders are walked, in the order of their files' names."""
    found: list[tuple[Path, bool]] = []
    for path in map(Path, paths):
        if path.is_dir():
            found += [(inside, False) for inside in sorted(path.rglob("*")) if inside.is_file()]
        else:
            found.append((path, True))
    return found


def head_of(path: Path) -> bytes:
    """The first block of a file, decompressed: enough to tell what it is. Broken compression gives what there is."""
    with path.open("rb") as raw:
        try:
            return next(_plain(raw), b"")
        except (zlib.error, EOFError):
            return b""


class LineFile:
    """Blocks of whole lines of one file. `bytes_read` counts the file's own bytes, compressed ones where it is compressed."""

    def __init__(self, path: Path, damages: Damages) -> None:
        self.path = path
        self.bytes_read = 0
        self._damages = damages

    def blocks(self) -> Iterator[tuple[int, bytes]]:
        """(number of the first line, bytes of whole lines); the last line may lack its end. CRLF is read as LF."""
        line, rest = 1, b""
        with self.path.open("rb") as raw:
            pieces = _plain(raw)
            while True:
                try:
                    piece = next(pieces, None)
                except (zlib.error, EOFError) as broken:
                    self._damages.add("compression", str(self.path), line, f"the compressed data is broken: {broken}")
                    piece = None
                self.bytes_read = raw.tell()
                if piece is None:
                    break
                whole, end, rest = (rest + piece).rpartition(b"\n")
                if end:
                    yield line, whole.replace(b"\r\n", b"\n").removesuffix(b"\r")
                    line += whole.count(b"\n") + 1
        if rest:
            yield line, rest.removesuffix(b"\r")


def _plain(raw: IO[bytes]) -> Iterator[bytes]:
    """Decompressed pieces of a file. Raises zlib.error or EOFError after the last good piece when the data is broken."""
    magic = raw.read(4)
    raw.seek(0)
    if magic[:2] == b"\x1f\x8b":
        yield from _gunzip(raw)
    elif magic == b"\x28\xb5\x2f\xfd":
        yield from _unzstd(raw)
    else:
        while piece := raw.read(READ_BYTES):
            yield piece


def _gunzip(raw: IO[bytes]) -> Iterator[bytes]:
    """zlib itself and not the gzip module: that one throws away what it had decompressed when the end is missing."""
    member = zlib.decompressobj(wbits=31)
    gathered: list[bytes] = []
    size = 0
    while compressed := raw.read(READ_BYTES // 16):
        while compressed:
            if member.eof:
                member = zlib.decompressobj(wbits=31)
            try:
                piece = member.decompress(compressed)
            except zlib.error:
                yield b"".join(gathered)
                raise
            gathered.append(piece)
            size += len(piece)
            compressed = member.unused_data
        if size >= READ_BYTES:
            yield b"".join(gathered)
            gathered, size = [], 0
    yield b"".join(gathered)
    if not member.eof:
        raise EOFError("the file ends before its last block does")


def _unzstd(raw: IO[bytes]) -> Iterator[bytes]:
    """zstd needs a package that is not always there; its absence is told like any other reason not to read a file."""
    try:
        import zstandard  # noqa: PLC0415  # optional, and only for files that need it
    except ImportError:
        raise EOFError("zstd compression needs the package zstandard: pip install zstandard") from None
    with zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True, closefd=False) as plain:
        while True:
            try:
                piece = plain.read(READ_BYTES)
            except zstandard.ZstdError as broken:
                raise EOFError(str(broken)) from None
            if not piece:
                return
            yield piece


def total_bytes(files: Iterable[Path]) -> int:
    """Bytes of all files on disk, for progress."""
    return sum(path.stat().st_size for path in files)
