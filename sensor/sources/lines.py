"""Text files of flow records: which files, in which compression, and what could not be read of them.

conn.log and CICFlowMeter's CSVs share this: files and folders in, blocks of whole lines out, with the number of their first
line, so that a damaged line can be named. gzip and zstd are unpacked on the way (see `unpack`); a broken packed file gives
all that lies before the break.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from sensor.sources.faults import Broken
from sensor.sources.unpack import Origin, unpacked

READ_BYTES = 1 << 20
"""Read at a time: large enough that a block's columns are worth converting at once, small enough to stay in cache."""
LINE_BYTES = 4 << 20
"""Longer lines are passed over: Zeek cuts its fields at 4 KiB from 8.1 on, and a file without any line would fill memory."""
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

    def add(self, kind: str, path: str, line: int, reason: str, *, once: bool = False) -> None:
        """Count one damage of a kind (a field's name, "columns", "json", "compression"); `once` keeps the kind's first only."""
        self.counts[kind] += 1
        if len(self.first) < KEPT and not (once and self.counts[kind] > 1):
            self.first.append(LineDamage(path, line, reason))


def list_files(
    paths: Paths, begins: Callable[[Path], float], refusal: type[Exception], what: str
) -> tuple[list[Path], list[tuple[str, str]]]:
    """The files to read, in the order that `begins` gives them, and those put aside with the reason.

    `begins` looks into a file and raises `refusal` for one of another kind. Folders are walked; what was found there and
    cannot be used is put aside, a named file is refused. So is a choice of files with nothing to read in it.
    """
    kept: list[tuple[float, Path]] = []
    aside: list[tuple[str, str]] = []
    seen: dict[tuple[int, int], Path] = {}
    for path, named in _files_of(paths):
        try:
            about = path.stat()
            first = seen.setdefault((about.st_dev, about.st_ino), path)
            if first is not path:
                aside.append((str(path), f"the same file as {first}"))
                continue
            if not path.is_file():
                raise refusal(f"{path} cannot be read: no regular file")
            kept.append((begins(path), path))
        except (refusal, OSError, Broken) as error:
            reason = str(error) if isinstance(error, refusal) else f"{path} cannot be read: {_said(error)}"
            if named:
                raise refusal(reason) from None
            aside.append((str(path), reason))
    if not kept:
        raise refusal(f"{', '.join(map(str, paths)) or 'no file was named'}: no {what} in here")
    return [path for _, path in sorted(kept)], aside


def _said(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def _files_of(paths: Paths) -> Iterator[tuple[Path, bool]]:
    """Every file, and whether it was named itself."""
    for path in map(Path, paths):
        if path.is_dir():
            yield from ((inside, False) for inside in sorted(path.rglob("*")) if not inside.is_dir())
        else:
            yield path, True


def head_of(path: Path) -> bytes:
    """The first piece of a file, unpacked: enough to tell what it is. Raises OSError and Broken."""
    with path.open("rb", buffering=0) as raw:
        return next(_pieces(Origin(raw)), b"").replace(b"\r\n", b"\n")


class Cutter:
    """Whole lines out of pieces of a file, with the number of the first one. Lines that are too long are counted as damage."""

    def __init__(self, name: str, damages: Damages) -> None:
        self.rest = b""
        """The beginning of a line whose end has not come."""
        self.line = 1
        """The number of that line."""
        self._name = name
        self._damages = damages
        self._passing = False
        """In the middle of a line that is too long."""

    def feed(self, piece: bytes) -> tuple[int, bytes]:
        """(number of the first line, the lines that ended with this piece). CRLF is read as LF."""
        whole, end, rest = (self.rest + piece).rpartition(b"\n")
        first = self.line
        self.line += whole.count(b"\n") + len(end)
        if self._passing and end:
            first, whole, self._passing = first + 1, whole.partition(b"\n")[2], False
        if len(rest) > LINE_BYTES and not self._passing:
            self._damages.add("length", self._name, self.line, f"a line longer than {LINE_BYTES} bytes")
            self._passing = True
        self.rest = b"" if self._passing else rest
        return first, whole if b"\r" not in whole else whole.replace(b"\r\n", b"\n").removesuffix(b"\r")


class LineFile:
    """Blocks of whole lines of one file. `bytes_read` counts the file's own bytes, compressed ones where it is compressed."""

    def __init__(self, path: Path, damages: Damages) -> None:
        self.path = path
        self.bytes_read = 0
        self._damages = damages

    def blocks(self) -> Iterator[tuple[int, bytes]]:
        """(number of the first line, bytes of whole lines); the last line may lack its end. CRLF is read as LF."""
        cutter = Cutter(str(self.path), self._damages)
        with self.path.open("rb", buffering=0) as raw:
            origin = Origin(raw)
            pieces = _pieces(origin)
            while True:
                try:
                    piece = next(pieces, None)
                except Broken as broken:
                    self._damages.add("compression", str(self.path), cutter.line, str(broken))
                    piece = None
                self.bytes_read = origin.taken_bytes
                if piece is None:
                    break
                first, whole = cutter.feed(piece)
                if whole:
                    yield first, whole
        if cutter.rest:
            yield cutter.line, cutter.rest.removesuffix(b"\r")


def _pieces(origin: Origin) -> Iterator[bytes]:
    """Unpacked pieces of a file, each full but the last. Raises Broken after the last good one where the data break."""
    inflow, _ = unpacked(origin)
    piece = bytearray(READ_BYTES)
    size = READ_BYTES
    while size == READ_BYTES:
        size = 0
        try:
            while size < READ_BYTES and (got := inflow.readinto(memoryview(piece)[size:])):
                size += got
        except Broken:
            if size:
                yield bytes(piece[:size])
            raise
        if size:
            yield bytes(piece[:size])


def total_bytes(files: Iterable[Path]) -> int:
    """Bytes of all files on disk, for progress."""
    return sum(path.stat().st_size for path in files)
