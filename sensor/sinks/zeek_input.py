r"""Alerts as a table that Zeek's Input framework follows: the road into any Zeek, without a socket.

The script plugins/zeek/scripts/netseq-input.zeek reads it. Zeek's reader is not the mirror of its writer: it knows \xHH and no
doubled backslash, it leaves out a line whose last field is empty, and it takes `-` for unset everywhere. So numbers stand
last, and a lone `-` is written \x2d.

The reader keeps the file that it opened, and refuses one without its header for ever. So whoever empties, renames or removes
the table gets a new one with a header, and every line tells the script two things that no file does: `written` is later than
in any line before, so that a line is known again when the table is read anew; `end` is where the line ends in its file, so
that a table that is longer than its last line's end is not the one being read. The service opens the streams.
"""

from __future__ import annotations

import io
import math
import os
import re
import stat
from collections.abc import Callable, Iterable
from pathlib import Path

from sensor.schema import Alert
from sensor.sinks.lines import Lines, SinkFailed, raw
from sensor.sinks.notice import summary
from sensor.sinks.zeek_log import UNSET, seconds

FIELDS = (
    "ts",
    "uid",
    "orig_h",
    "orig_p",
    "resp_h",
    "resp_p",
    "transport",
    "signature",
    "measure",
    "sensor",
    "msg",
    "sub",
    "score",
    "written",
    "end",
)
"""The columns, by the names of the script's record NetSeq::Line."""

HEADER = ("#fields\t" + "\t".join(FIELDS) + "\n").encode()
ESCAPED = re.compile(r"[\x00-\x1f\x7f\\]")
END_DIGITS = 15
"""Of `end`, with zeros before it: a line's own length must not depend on where it ends."""
LAST_BYTES = 1 << 16
"""Searched for the last line of a table that is taken up: many times what a line has."""


class InputTable:
    """Writes alerts to `stream`, an unbuffered file that is open for appending, one line each, behind a header.

    `sensor` is the name of this sensor, `clock_us` gives the time of day, `path` is where the table lies. When another file
    or none has that name, `open_anew` opens what is there, and `stream` becomes that file. Raises SinkFailed when the header
    cannot be written, and for a file that is no such table.
    """

    def __init__(
        self,
        stream: io.FileIO,
        *,
        sensor: str,
        clock_us: Callable[[], int],
        path: Path,
        open_anew: Callable[[Path], io.FileIO],
    ) -> None:
        self._stream = stream
        self._lines = Lines(stream, str(path))
        self._sensor = sensor
        self._clock_us = clock_us
        self._path = path
        self._open_anew = open_anew
        self._written_us = 0
        self._begin()

    def write(self, alerts: Iterable[Alert]) -> None:
        """Write the alerts in order. Raises SinkFailed, after which the lines written before stay whole."""
        for alert in alerts:
            self._follow()
            self._written_us = max(self._clock_us(), self._written_us + 1)
            line = b"\t".join((*self._cells(alert), seconds(self._written_us).encode(), b""))
            end = self._size() + len(line) + END_DIGITS + 1
            self._lines.write(line + f"{end:0{END_DIGITS}d}\n".encode())

    def close(self) -> None:
        """Finish the file: nothing to do, for Zeek goes on following it."""

    def _follow(self) -> None:
        """Go over to the file that has the table's name now, and begin it where nothing is in it."""
        try:
            there = self._path.stat()
            moved = not os.path.samestat(there, os.fstat(self._stream.fileno()))
        except FileNotFoundError:
            moved = True
        except OSError as error:
            raise SinkFailed(f"cannot write alerts to {self._path}: {error.strerror}") from error
        if moved:
            with self._open_anew(self._path) as anew:  # the stream stays the caller's, and only its file is another
                os.dup2(anew.fileno(), self._stream.fileno(), inheritable=False)
            self._begin()
        elif self._is_file() and not self._size():
            self._begin()

    def _begin(self) -> None:
        """Write the header of a new table, or see that what is there is a table of this form."""
        size = self._size()
        if not size:
            self._lines.write(HEADER)
        elif os.pread(self._stream.fileno(), len(HEADER), 0) != HEADER:
            raise SinkFailed(
                f"cannot write alerts to {self._path}: it does not begin as tables for Zeek do; rename it, or name "
                "another file as zeek.input_file"
            )
        else:
            self._written_us = max(self._written_us, self._last_us(size))

    def _last_us(self, size: int) -> int:
        """When the last line of a table was written: a clock that was set back must not make the next one older."""
        last = os.pread(self._stream.fileno(), LAST_BYTES, max(size - LAST_BYTES, 0)).rstrip(b"\n").rpartition(b"\n")[2]
        cells = last.split(b"\t")
        told = re.fullmatch(rb"(\d{1,12})\.(\d{6})", cells[-2]) if len(cells) == len(FIELDS) else None
        return int(told[1] + told[2]) if told else 0

    def _is_file(self) -> bool:
        return stat.S_ISREG(os.fstat(self._stream.fileno()).st_mode)

    def _size(self) -> int:
        """Bytes in the table; 0 for a device."""
        return os.fstat(self._stream.fileno()).st_size

    def _cells(self, alert: Alert) -> list[bytes]:
        """What stands in a line about the alert itself, in the order of FIELDS."""
        hosts = bool(alert.src)  # an alert about the sensor itself has none
        score = alert.score if math.isfinite(alert.score) else 0.0
        cells = (
            seconds(alert.ts_us),
            UNSET if alert.uid is None else escape(alert.uid),
            alert.src if hosts else UNSET,
            str(alert.src_port),
            alert.dest if hosts else UNSET,
            str(alert.dest_port),
            escape(alert.transport),
            escape(alert.signature),
            escape(alert.measure),
            escape(self._sensor),
            escape(alert.msg),
            escape(summary(alert)),
            f"{score:.9f}",
        )
        return [cell.encode() for cell in cells]


def escape(text: str) -> str:
    r"""Write a string so that Zeek's reader gives it back: control characters, backslashes and what is no UTF-8 as \xHH."""
    if text == UNSET:
        return f"\\x{ord(UNSET):02x}"
    # Bytes that are no UTF-8 are the surrogates that backslashreplace writes; the backslashes before them are escaped first.
    escaped = ESCAPED.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
    return raw(escaped).decode("utf-8", "backslashreplace")
