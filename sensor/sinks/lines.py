"""Whole lines or none: how every sink writes.

A reader of alerts must never meet half a line, also when the disk fills up. So each line is one write to an unbuffered
binary stream, and what a failing write has left of a line is cut off again where the stream is a file. The stream belongs
to the caller, who opens and closes it; errors of the caller's own stream class pass through.
"""

from __future__ import annotations

import io
import os
from typing import Protocol


class ByteStream(Protocol):
    """What a sink asks of its stream: io.FileIO, or anything else that does not buffer."""

    def write(self, data: bytes, /) -> int | None:
        """Write some bytes and give their number."""
        ...


class SinkFailed(Exception):  # noqa: N818  # it names what happened, as the other exceptions of the rim do
    """Alerts cannot be written; `str(error)` is the one line for the user."""


class Lines:
    """Writes whole lines to `stream`; `name` is what messages call it."""

    def __init__(self, stream: ByteStream, name: str) -> None:
        self._stream = stream
        self._name = name

    def write(self, line: bytes) -> None:
        """Write a line that ends in a newline. Raises SinkFailed, and leaves the lines before it whole."""
        stream = self._stream if isinstance(self._stream, io.IOBase) and self._stream.seekable() else None
        start = stream.tell() if stream is not None else 0
        done = 0
        try:
            while done < len(line):
                written = self._stream.write(line[done:])
                if not written:
                    raise BlockingIOError("it takes no more bytes at the moment")
                done += written
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            whole = done == 0 or (stream is not None and _cut(stream, start))
            left = "every line in it is whole" if whole else "its last line is cut short"
            raise SinkFailed(f"cannot write alerts to {self._name}: {reason}; {left}") from error


def _cut(stream: io.IOBase, start: int) -> bool:
    """Go back to where the line began; tell whether that could be done."""
    try:
        stream.seek(start)
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
