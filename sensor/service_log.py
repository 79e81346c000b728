"""The sensor's log: one JSON object a line for the journal, coloured lines for a person at a terminal.

An event that repeats is told some times a minute and then counted, so that a disk that is full for a night does not fill
the journal as well; what it would have said is told in one line, "repeated", when the minute is over. Fields may hold text
from the network (a path, a name in a log): whatever is not printable is escaped in both forms, because `journalctl`
ends up at a terminal too. A reader that stalls cannot stall the sensor: a line that is not taken in time is counted as lost.
structlog is the front; nothing is configured globally. The service opens one log and hands it to its parts.
"""

from __future__ import annotations

import datetime
import json
import math
import numbers
import os
import select
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, NoReturn, cast

import structlog
from structlog.typing import FilteringBoundLogger

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
"""The numbers of Python's logging, which structlog compares."""
PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
"""The same levels for syslog and the journal (syslog(3))."""

TOLD, WINDOW_S = 5, 60.0
"""How often one event is told in how many seconds: enough to see that it goes on, few enough to read."""
KEYS = ("about", "interface", "sink", "path", "file", "reason")
"""Fields that say what an event is about, and so make it another one; all others say how much, or when."""
DISTINCT, WINDOWS = 32, 1024
"""How many of one event, and how many events, are told apart at a time: a folder of a million broken files is one event."""

TEXT_CHARACTERS = 4000
"""The longest text in a line, cut in its middle: journald splits lines of more than 48 KiB, and an escape takes six bytes."""
CHUNK_BYTES = 4096
"""What a pipe that polls as writable takes without waiting (PIPE_BUF)."""
PATIENCE_S = 0.2
"""How long a line waits for a reader that was quick so far; after a line was lost the next one does not wait."""

Fields = dict[str, Any]
Clock = Callable[[], float]


class _Window(NamedTuple):
    """One event in its minute."""

    since_s: float
    told: int
    left_out: int
    level: str
    key: Fields


class Repeats:
    """Decides which events are told, and counts the others. Threads and signal handlers may share it.

    `tick` is to be called every second or so, since nothing else tells of an event that stopped; `finish` at the end.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self.suppressed = self.lost = 0
        self._clock = clock
        self._write: Callable[[str, Fields], bool] | None = None
        self._windows: dict[tuple[str, ...], _Window] = {}  # in the order of their beginning
        self._distinct: dict[tuple[str, ...], int] = {}
        self._lock = threading.RLock()  # a signal handler may log while its own thread does

    def counters(self) -> dict[str, int]:
        """Lines that were left out, by the names of `sensor.metrics`."""
        return {"log_lines_suppressed": self.suppressed, "log_lines_lost": self.lost}

    def tell(self, level: str, fields: Fields) -> None:
        """Write an event, unless it was told often enough; before it, what was left out of minutes that are over."""
        with self._lock:
            lines = self._ended(self._clock() - WINDOW_S)
            if self._admit(level, fields):
                lines.append((level, fields))
            else:
                self.suppressed += 1
        self._tell(lines)

    def tick(self) -> None:
        """Tell what was left out of minutes that are over."""
        with self._lock:
            lines = self._ended(self._clock() - WINDOW_S)
        self._tell(lines)

    def finish(self) -> None:
        """Tell what was left out so far."""
        with self._lock:
            lines = self._ended(math.inf)
        self._tell(lines)

    def _tell(self, lines: Iterable[tuple[str, Fields]]) -> None:
        for level, fields in lines:
            if self._write is not None and not self._write(level, fields):
                self.lost += 1

    def _admit(self, level: str, fields: Fields) -> bool:
        key = {name: fields[name] for name in KEYS if name in fields}
        name = (level, str(fields.get("event", "")), *(f"{field}={value}" for field, value in key.items()))
        if name not in self._windows and self._distinct.get(name[:2], 0) >= DISTINCT:
            name, key = name[:2], {}
        if name not in self._windows and len(self._windows) >= WINDOWS:
            name, key = (level, "others"), {}
        window = self._windows.get(name)
        if window is None:
            window = _Window(self._clock(), 0, 0, level, key)
            self._distinct[name[:2]] = self._distinct.get(name[:2], 0) + 1
        told = window.told < TOLD
        self._windows[name] = window._replace(told=window.told + told, left_out=window.left_out + (not told))
        return told

    def _ended(self, before_s: float) -> list[tuple[str, Fields]]:
        """Forget the windows that began at `before_s` or earlier; a line about each that left something out."""
        lines: list[tuple[str, Fields]] = []
        for name, window in list(self._windows.items()):
            if window.since_s > before_s:
                break
            del self._windows[name]
            self._distinct[name[:2]] -= 1
            if not self._distinct[name[:2]]:
                del self._distinct[name[:2]]
            if window.left_out:
                seconds = round(self._clock() - window.since_s)
                said = {"event": "repeated", "of": name[1], **window.key, "times": window.left_out, "seconds": seconds}
                lines.append((window.level, said))
        return lines

    def open(self, write: Callable[[str, Fields], bool]) -> None:
        """Write through `write(level, fields)` from now on, which tells whether the line was taken."""
        self._write = write


def open_log(level: str, *, json: bool | None = None, repeats: Repeats | None = None, fd: int = 2) -> FilteringBoundLogger:
    """Open the log on the file descriptor `fd`, standard error by default; `level` is the least that is told.

    `json` is for programs; None asks for it when `fd` is no terminal. Lines for the journal carry syslog's `<N>`, which
    journald takes off again. A log that is opened anew, with another level, goes on with the same `repeats`.
    """
    if level not in LEVELS:
        raise ValueError(f"log level {level!r}: known are {', '.join(LEVELS)}")
    as_json = not os.isatty(fd) if json is None else json
    form = json_line if as_json else _person(colours=os.isatty(fd) and not _plain_wanted())
    prefixed = to_journal(fd)
    output = _Output(fd)

    def write(level: str, fields: Fields) -> bool:
        line = form(level, fields)
        return output.write(f"<{PRIORITIES.get(level, 6)}>{line}\n" if prefixed else f"{line}\n")

    told = repeats or Repeats()
    told.open(write)

    def last(_: object, level: str, fields: Mapping[str, Any]) -> NoReturn:
        told.tell(level, _without_exception(dict(fields)))
        raise structlog.DropEvent  # it is written; structlog has nothing left to do

    wrapper = structlog.make_filtering_bound_logger(LEVELS[level])
    # structlog says Any: what the wrapper makes.
    return cast(FilteringBoundLogger, structlog.wrap_logger(None, processors=[last], wrapper_class=wrapper))


def to_journal(fd: int) -> bool:
    """Say whether `fd` is the stream that systemd connected to the journal (systemd.exec(5), JOURNAL_STREAM)."""
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM", "") == f"{status.st_dev}:{status.st_ino}"


def escaped(text: str) -> str:
    r"""Write every character that is not printable as \uXXXX, as JSON does (RFC 8259, 7)."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def json_text(value: object) -> str:
    """Write anything as JSON on one line, without a character that is not printable; what JSON has no word for, as text."""
    return escaped(json.dumps(plain(value), ensure_ascii=False, separators=(",", ":")))


def plain(value: object) -> object:
    """Turn `value` into what JSON has: numpy's numbers into numbers, NaN and infinities into text, others into their text."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _cut(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, Mapping):
        return {_cut(str(key)): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(inner) for inner in value]
    return _cut(str(value))


def _cut(text: str) -> str:
    if len(text) <= TEXT_CHARACTERS:
        return text
    half = TEXT_CHARACTERS // 2
    return f"{text[:half]} [{len(text) - 2 * half} characters left out] {text[-half:]}"


def _without_exception(fields: Fields) -> Fields:
    """Put the traceback that `exc_info` stands for into words, under "exception"."""
    given = fields.pop("exc_info", None)
    error = given if isinstance(given, BaseException) else given[1] if isinstance(given, tuple) else None
    if given is True:
        error = sys.exc_info()[1]
    if error is not None:
        fields["exception"] = "".join(traceback.format_exception(error)).rstrip("\n")
    return fields


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def json_line(level: str, fields: Fields) -> str:
    """Write an event for programs: ts, level, event, then its fields."""
    stamp = _now().isoformat(timespec="microseconds").replace("+00:00", "Z")
    head = {"ts": stamp, "level": level, "event": fields.get("event", "")}
    return json_text({**head, **{name: value for name, value in fields.items() if name not in head}})


def _person(*, colours: bool) -> Callable[[str, Fields], str]:
    """Make the writer of lines for a person: time, level, event, fields, and a traceback on lines of its own."""
    draw = structlog.dev.ConsoleRenderer(
        colors=colours, sort_keys=False, timestamp_key="ts", exception_formatter=structlog.dev.plain_traceback
    )

    def write(level: str, fields: Fields) -> str:
        shown: Fields = {"ts": f"{_now():%Y-%m-%d %H:%M:%S}", "level": level}
        for name, value in fields.items():
            simple = plain(value)
            if name == "exception" and isinstance(simple, str):  # indented, so that no line of it passes for an event
                simple = "\n".join(f"    {escaped(line)}" for line in simple.split("\n"))
            shown[name] = escaped(simple) if isinstance(simple, str) and name != "exception" else simple
        return str(draw(None, level, shown))

    return write


def _plain_wanted() -> bool:
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"  # https://no-color.org


class _Output:
    """Writes whole lines to a file descriptor, and never waits long."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._lock = threading.RLock()
        self._patience_s = PATIENCE_S
        self._broken = False
        """The last line is there in part: a line break must come before the next."""

    def write(self, line: str) -> bool:
        """Write a line; false when the reader is gone, or did not take it in time."""
        with self._lock:
            left = memoryview(("\n" * self._broken + line).encode())
            total, until_s = len(left), time.monotonic() + self._patience_s
            try:
                while left and self._writable(until_s):
                    left = left[os.write(self._fd, left[:CHUNK_BYTES]) :]
            except OSError:  # the reader has gone: the log is no reason to stop the sensor
                pass
            self._broken = bool(left) and (self._broken or len(left) < total)
            self._patience_s = 0.0 if left else PATIENCE_S
            return not left

    def _writable(self, until_s: float) -> bool:
        wait_ms = max(0.0, until_s - time.monotonic()) * 1000
        return any(event & select.POLLOUT for _, event in self._poll.poll(wait_ms))
