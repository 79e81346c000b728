"""Whole lines or none: how every sink writes.

A reader must never meet half a line, also when the disk fills up. So each line, or block of whole lines, is one write to an
unbuffered binary stream, and what a failing write has left of a line is cut off again where the stream is a file. The
stream belongs to the caller, who opens and closes it; errors of the caller's own stream class pass through.
"""

from __future__ import annotations

import errno
import io
import os
from typing import Protocol

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
"""What a full disk, or a quota that is used up, answers."""


class ByteStream(Protocol):
    """What a sink asks of its stream: io.FileIO, or anything else that does not buffer."""

    def write(self, data: bytes, /) -> int | None:
        """Write some bytes and give their number."""
        ...


class SinkFailed(Exception):  # noqa: N818  # it names what happened, as the other exceptions of the rim do
    """What came out cannot be written; `str(error)` is the one line for the user.

    `lost` says of how many alerts that were taken before it is now known that they may not have arrived.
    """

    def __init__(self, line: str, *, lost: int = 0) -> None:
        super().__init__(line)
        self.lost = lost


class NoRoom(SinkFailed):
    """The disk is full: what could not be written now may be when somebody has made room."""


class NeverTaken(SinkFailed):
    """This one alert can never be written, however often it is tried; the next one may be."""


class Lines:
    """Writes whole lines to `stream`; `name` is what messages call it, and `what` what is written."""

    def __init__(self, stream: ByteStream, name: str, what: str = "alerts") -> None:
        self._stream = stream
        self._name = name
        self._what = what

    def write(self, lines: bytes) -> None:
        """Write lines that each end in a newline. Raises SinkFailed, and leaves whole lines only.

        An interrupt in the middle leaves whole lines, too, where the stream is a file.
        """
        stream = self._stream if isinstance(self._stream, io.IOBase) and self._stream.seekable() else None
        start = stream.tell() if stream is not None else 0
        done = 0
        try:
            while done < len(lines):
                written = self._stream.write(lines[done:] if done else lines)
                if not written:
                    raise BlockingIOError("it takes no more bytes at the moment")
                done += written
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            kept = lines.rfind(b"\n", 0, done) + 1
            whole = done == kept or (stream is not None and _cut(stream, start + kept))
            left = "every line in it is whole" if whole else "its last line is cut short"
            raise refusal(f"cannot write {self._what} to {self._name}: {reason}; {left}", error) from error
        except KeyboardInterrupt:
            if stream is not None and done < len(lines):
                _cut(stream, start + lines.rfind(b"\n", 0, done) + 1)
            raise


def refusal(line: str, error: OSError) -> SinkFailed:
    """What to raise for an error of a disk; `line` is for the user."""
    return NoRoom(line) if error.errno in NO_ROOM else SinkFailed(line)


def _cut(stream: io.IOBase, end: int) -> bool:
    """Let the file end there; tell whether that could be done."""
    try:
        stream.seek(end)
        stream.truncate()
    except OSError:
        return False
    return True


def raw(text: str) -> bytes:
    """Give the bytes that a text from a log was read from: UTF-8, where bytes that are none became surrogates."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        return text.encode("utf-8", "surrogatepass")
