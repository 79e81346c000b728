"""Lines that wait on disk until a receiver has taken them: what a sender goes on from after an outage or a restart.

A folder of numbered files, each of some hundred kilobytes of whole lines. One thread writes behind the newest, another reads
from the oldest; a small file says how far the receiver has taken it, and a file that was taken whole is removed. So the disk
is given back as the receiver comes after, and a crash costs nothing but that some lines are sent twice. What is on disk is
bounded: a full spool takes no more, and its writer decides what becomes of the rest. The service's outlets call this.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from sensor.sinks.lines import Lines, SinkFailed, refusal

FILE_BYTES = 256 << 10
"""From here on a new file is begun: small against the least spool of 1 MiB, which would else never be given back."""
POSITION = "taken"
SUFFIX = ".lines"


class Spool:
    """Lines in `folder`, made if need be, `most_bytes` of them at most. Raises SinkFailed when the folder cannot be used.

    `append` and `sync` belong to one thread, `head` and `done` to another.
    """

    def __init__(self, folder: Path, *, most_bytes: int) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._lock = threading.Lock()  # of the numbers below, for moments only: no file is touched under it
        self._stream: io.FileIO | None = None
        self._unsynced = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._files = sorted(int(path.stem) for path in folder.glob(f"*{SUFFIX}") if path.stem.isdecimal())
            for number in self._files:
                _mend(self._path(number))
            self._taken_bytes = self._read_position()
            self._bytes = sum(self._path(number).stat().st_size for number in self._files)
            self._count = sum(self._lines_from(number) for number in self._files)
            self._begin((self._files[-1] if self._files else 0) + 1)
        except OSError as error:
            raise refusal(f"cannot keep alerts in {folder}: {error.strerror or error}", error) from error

    @property
    def waiting(self) -> int:
        """Lines that were not taken yet."""
        return self._count

    def append(self, line: bytes) -> None:
        """Write a line, with its newline. Raises SinkFailed when the spool is full, or the disk."""
        if self._bytes - self._taken_bytes + len(line) > self._most_bytes:
            raise SinkFailed(f"{self._folder} is full ({self._most_bytes >> 20} MiB): its receiver takes nothing")
        assert self._stream is not None, "the spool is closed"
        if self._stream.tell() >= FILE_BYTES:
            try:
                self._begin(self._files[-1] + 1)
            except OSError as error:
                raise SinkFailed(f"cannot keep alerts in {self._folder}: {error.strerror}") from error
        Lines(self._stream, str(self._folder)).write(line)
        with self._lock:
            self._bytes += len(line)
            self._count += 1
        self._unsynced = True

    def sync(self) -> None:
        """Bring what was written to the disk itself."""
        if self._stream is not None and self._unsynced:
            with contextlib.suppress(OSError):  # a file system without sync; the writing itself did not fail
                os.fsync(self._stream.fileno())
        self._unsynced = False

    def close(self) -> None:
        """Close the newest file; the lines stay for the next spool in this folder."""
        if self._stream is not None:
            self.sync()
            self._stream.close()
            self._stream = None

    def head(self, most_lines: int, most_bytes: int) -> list[bytes]:
        """The oldest lines that were not taken, at least one if there are any. Raises SinkFailed when they cannot be read."""
        try:
            while True:
                with self._lock:
                    oldest, newest = self._files[0], self._files[-1]
                lines = _whole(self._path(oldest), self._taken_bytes, most_lines, most_bytes)
                if lines or oldest == newest:
                    return lines
                self._forget(oldest)
        except OSError as error:
            raise SinkFailed(f"cannot read the alerts kept in {self._folder}: {error.strerror}") from error

    def done(self, lines: list[bytes]) -> None:
        """Take note that the receiver has these, the first of `head`."""
        taken_bytes = sum(map(len, lines))
        with self._lock:
            self._taken_bytes += taken_bytes
            self._count -= len(lines)
        position = self._folder / POSITION
        with contextlib.suppress(OSError):  # a full disk: they would be sent twice after a restart, and that is all
            fresh = position.with_suffix(".part")
            fresh.write_text(f"{self._files[0]} {self._taken_bytes}\n", encoding="ascii")
            fresh.replace(position)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:012}{SUFFIX}"

    def _begin(self, number: int) -> None:
        """Begin a new file behind the others."""
        self.close()
        self._stream = io.FileIO(os.open(self._path(number), os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640), "r+")
        with self._lock:
            self._files.append(number)

    def _forget(self, number: int) -> None:
        """Remove the oldest file, which was taken whole."""
        size = self._path(number).stat().st_size
        self._path(number).unlink()
        with self._lock:
            self._files.remove(number)
            self._bytes -= size
            self._taken_bytes -= size

    def _read_position(self) -> int:
        """How far the oldest file was taken; 0 where that is not known any more."""
        try:
            number, taken_bytes = map(int, (self._folder / POSITION).read_text(encoding="ascii").split())
        except (OSError, ValueError):
            return 0
        if not self._files or number != self._files[0] or not 0 <= taken_bytes <= self._path(number).stat().st_size:
            return 0
        return taken_bytes

    def _lines_from(self, number: int) -> int:
        """Lines of a file that were not taken."""
        begin = self._taken_bytes if number == self._files[0] else 0
        return self._path(number).read_bytes().count(b"\n", begin)


def _mend(path: Path) -> None:
    """Cut off half a last line, which a crash left."""
    whole = path.read_bytes().rfind(b"\n") + 1
    if whole < path.stat().st_size:
        os.truncate(path, whole)


def _whole(path: Path, begin: int, most_lines: int, most_bytes: int) -> list[bytes]:
    """Whole lines of a file from a place on, some bytes of them at most, but at least one if there is one."""
    with path.open("rb") as stream:
        stream.seek(begin)
        return list(_some(stream, most_lines, most_bytes))


def _some(stream: io.BufferedReader, most_lines: int, most_bytes: int) -> Iterator[bytes]:
    room = most_bytes
    for place, line in enumerate(stream):
        room -= len(line)
        if place >= most_lines or not line.endswith(b"\n") or (place and room < 0):
            return
        yield line
