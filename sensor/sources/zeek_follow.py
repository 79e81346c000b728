"""conn.log followed on disk: what Zeek writes, as it writes it, through rotation and over restarts.

Zeek renames conn.log when its time is up and begins a new one; zeekctl packs the old one into a folder of that day. Nothing
tells a reader of it but the file's number, so the open log is read to its end after another took its name, and then every
finished log is read that is not known yet: those that came and went between two looks, or while the sensor was off. How far
each log was read is kept in `marks`, under a name made of its beginning (see `zeek_tail`).

No clock is read: time passes by waiting. Logs can wait, so nothing is shed on their account.
"""

from __future__ import annotations

import contextlib
import re
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np

from sensor.schema import FLOW, FlowBatch
from sensor.sources.columns import AddressBook
from sensor.sources.faults import Broken, NotAConnLog
from sensor.sources.finished import Finished, Labels, batches
from sensor.sources.zeek_tail import Look, Tail, is_packed, look_into, warm

SEARCH_S = 10.0
"""Waited between two searches for finished logs, besides the one at each rotation."""
ABSENT_S = 10.0
"""Waited for a conn.log that is gone before it is told: at rotation there is none for a moment."""
KNOWN = 1000
"""Finished logs that are remembered: hourly ones of six weeks. What began before them is not looked for any more."""
TOLD = 5
"""Refused lines of a log that are told; all are counted."""
BLOCK_FLOWS = 8192
WHOLE = -1
"""In the place of the bytes read: all of them, and there will be no more."""
SINCE = "since"
"""In the marks, when the first log that was ever followed began."""

Mark: TypeAlias = tuple[int, int]
"""Bytes read of a log, unpacked, or WHOLE; and when its first connection ended, in us."""

_PACKED = (".gz", ".zst", ".bz2", ".xz")
"""The last two are not read, but counted."""
_FINISHED = re.compile(r"[-._].+\.log(?:\.gz|\.zst|\.bz2|\.xz)?", re.ASCII)
"""Behind "conn" in the name of a log that was rotated: conn.2024-05-01-10-00-00.log, conn.10:00:00-11:00:00.log.gz."""
_NUMBERED = re.compile(r"[-.]\d[-\d]*(?:\.gz|\.zst|\.bz2|\.xz)?", re.ASCII)
"""Behind "conn.log" where logrotate did it: conn.log.1, conn.log-20240501.gz."""
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
"""A folder of zeekctl's archive."""
NOTHING = FlowBatch(np.empty(0, FLOW), [])


class Candidate(NamedTuple):
    """A finished log that is not known to have been read whole."""

    path: Path
    state: tuple[int, int]
    """Time of its last write in ns, and its size."""
    look: Look


class ConnLogFollower:
    """Yields the connections of `path` as Zeek writes them, in that order; satisfies service_capture.LiveSource.

    The first start begins at the log's beginning, a later one, with the `marks` of before, where that ended. `tell` takes an
    event's name and a line. There may be no such file yet. Raises NotAConnLog for a file that is none. The first one compiles
    the loops that read a log, so that no connection waits for that.
    """

    frames = 0
    wire_bytes = 0

    def __init__(
        self, path: Path, *, tell: Callable[[str, str], None], marks: Mapping[str, Mark] | None = None, wait_s: float = 0.1
    ) -> None:
        self._path = Path(path)
        self._tell = tell
        self._wait_s = wait_s
        self._marks: dict[str, Mark] = {name: (mark[0], mark[1]) for name, mark in (marks or {}).items()}
        self._tail: Tail | None = None
        self._skipped: Counter[str] = Counter()
        self._book = AddressBook()
        self._labels = Labels()
        self._looked: dict[Path, tuple[tuple[int, int], Look | None]] = {}
        self._breaks: dict[Path, tuple[int, int]] = {}
        self._refused_files = 0
        self._stopping = threading.Event()
        self._absent = 0
        self._trouble = ""
        self._refuse_others()
        warm()

    @property
    def marks(self) -> dict[str, Mark]:
        """How far each log was read, by the name under which it is known again."""
        return dict(self._marks)

    def stop(self) -> None:
        """End after the block that is being read."""
        self._stopping.set()

    def close(self) -> None:
        """Close the log."""
        if self._tail:
            self._tail.close()
            self._tail = None

    def counters(self) -> dict[str, int]:
        """What was counted so far, by the names of `sensor.metrics`."""
        counted = Counter(self._skipped)
        if tail := self._tail:
            counted.update(dict(tail.damages.counts))  # a copy: another thread counts
        return {f"rows_skipped.{reason}": rows for reason, rows in counted.items()} | {"files_skipped": self._refused_files}

    def __iter__(self) -> Iterator[FlowBatch]:
        """Yield connections as they are written; an empty batch whenever `wait_s` passed without any."""
        yield from self._finished_logs()
        waited = leaving = 0
        while not self._stopping.is_set():
            if self._tail is None:
                self._tail = self._opened()
                if self._tail:  # from here on no log can pass by: those that did are older than this one
                    yield from self._finished_logs()
            came = self._came()
            if self._tail and came is not None:
                yield from self._handed(self._tail, came)
                leaving = 0
                continue
            if self._tail and self._left():
                leaving += 1
                if leaving > 1:  # read to its end after it had lost its name
                    tail, self._tail = self._tail, None
                    yield from self._ended(tail)
                continue
            leaving = 0
            self._stopping.wait(self._wait_s)
            yield NOTHING
            waited += 1
            if waited >= self._turns(SEARCH_S):
                waited = 0
                yield from self._finished_logs(settled=True)

    def _refuse_others(self) -> None:
        """Raise NotAConnLog for a file that is there and no conn.log."""
        if self._path.is_dir():
            raise NotAConnLog(f"{self._path} is a folder: name the conn.log in it")
        try:
            if self._path.exists() and not self._path.is_file():
                raise NotAConnLog(f"{self._path} is no regular file: name the conn.log that Zeek writes to")
            if is_packed(self._path):
                raise NotAConnLog(f"{self._path} is packed: name the log that Zeek writes to (netseq-replay reads packed ones)")
            looked = look_into(self._path, finished=False)
        except FileNotFoundError:
            return
        except (OSError, Broken) as error:
            raise NotAConnLog(f"{self._path} cannot be read: {_said(error)}") from None
        if looked and looked.refusal:
            raise NotAConnLog(f"{self._path} is no conn.log: {looked.refusal}")

    def _opened(self) -> Tail | None:
        """Open conn.log where it was left; None while there is none."""
        try:
            if not stat.S_ISREG(self._path.stat().st_mode):
                raise Broken("it is no regular file")
            if is_packed(self._path):
                raise Broken("it is packed")
            looked = look_into(self._path, finished=False)
            offset = self._marks.get(looked.name, (0, 0))[0] if looked else 0
            offset = self._path.stat().st_size if offset == WHOLE else offset
            tail = Tail(self._path, offset, looked if offset else None)
        except (OSError, Broken) as error:
            self._absent += 1
            if self._absent == self._turns(ABSENT_S):
                self._tell("log_lost", f"{self._path}: {_said(error)}; waiting for Zeek to write it")
            return None
        if self._absent >= self._turns(ABSENT_S):
            self._tell("log_back", f"{self._path}: it is back")
        self._absent = 0
        return tail

    def _left(self) -> bool:
        """Whether the open log is no longer the one of that name; one that was cut is left at once."""
        if self._tail is None:
            return False
        if self._tail.is_cut():
            self._tell("log_truncated", f"{self._path}: it became shorter while it was read; reading it from its beginning")
            if self._tail.known:
                self._marks.pop(self._tail.known.name, None)
            self._leave(self._tail)
            self._tail = None
            return True
        try:
            about = self._path.stat()
        except OSError:
            return False  # until there is another one, this one may go on
        return (about.st_dev, about.st_ino) != self._tail.number

    def _came(self) -> Iterator[Finished] | None:
        """What is new in the open log; None for nothing, and where it cannot be read just now."""
        if self._tail is None:
            return None
        try:
            came, trouble = self._tail.read(self._book), ""
        except (OSError, Broken) as error:
            came, trouble = None, _said(error)
            self._leave(self._tail)
            self._tail = None
            if trouble != self._trouble:
                self._tell("log_refused", f"{self._path}: {trouble}; trying again")
        self._trouble = trouble
        return came

    def _handed(self, tail: Tail, came: Iterator[Finished]) -> Iterator[FlowBatch]:
        """Yield connections as batches, then remember that they were read and tell what could not be."""
        for finished in came:
            yield from batches(finished, self._labels, BLOCK_FLOWS)
        if tail.known:
            self._marks[tail.known.name] = (tail.offset, tail.known.begin_us)
            self._marks.setdefault(SINCE, (0, tail.known.begin_us))
        for damage in tail.damages.first[tail.told : TOLD]:
            self._tell("row_refused", f"{damage.path}, line {damage.line}: {damage.reason}")
            tail.told += 1

    def _ended(self, tail: Tail) -> Iterator[FlowBatch]:
        """Yield the last line, and remember a log as read to its end."""
        yield from self._handed(tail, tail.last(self._book))
        self._leave(tail)
        if tail.known is None:
            return
        self._marks.pop(tail.known.name, None)
        self._marks[tail.known.name] = (WHOLE, tail.known.begin_us)
        if len(self._marks) > KNOWN:
            oldest = next(name for name in self._marks if name != SINCE)
            self._marks[SINCE] = (0, max(self._marks[SINCE][1], self._marks.pop(oldest)[1] + 1))

    def _leave(self, tail: Tail) -> None:
        """Close a log and keep what was counted in it."""
        self._skipped.update(tail.damages.counts)
        tail.close()

    def _finished_logs(self, *, settled: bool = False) -> Iterator[FlowBatch]:
        """Yield the connections of all finished logs that are not known, the oldest log first.

        One whose packed data break off may still be written: it is given up when two `settled` searches, which are some time
        apart, find it the same.
        """
        for path, state, looked in [] if self._stopping.is_set() else self._search():
            offset = self._marks.get(looked.name, (0, 0))[0]
            if offset == WHOLE:
                continue  # its packed form came just before
            try:
                tail = Tail(path, offset, looked)
            except (OSError, Broken):
                continue  # it was moved on: the next search finds it elsewhere
            try:
                while (came := tail.read(self._book)) is not None:
                    yield from self._handed(tail, came)
                    if self._stopping.is_set():
                        self._leave(tail)
                        return
            except (OSError, Broken) as broken:
                if not settled or self._breaks.get(path) != state:
                    if settled:
                        self._breaks[path] = state
                    self._leave(tail)
                    continue
                self._skipped["compression"] += 1
                self._tell("log_refused", f"{path}: {_said(broken)}")
                tail.drop()
            yield from self._ended(tail)

    def _search(self) -> list[Candidate]:
        """The finished logs that began since the first one that was followed, and that are not known as read whole."""
        if SINCE not in self._marks:
            return []
        since_us = self._marks[SINCE][1]
        found: dict[Path, tuple[tuple[int, int], Look | None]] = {}
        for folder in self._folders(since_us):
            for path in _in(folder, self._path):
                with contextlib.suppress(OSError):  # it was moved on since it was listed
                    about = path.stat()
                    state = about.st_mtime_ns, about.st_size
                    if stat.S_ISREG(about.st_mode) and about.st_mtime_ns >= since_us * 1000:
                        known = self._looked.get(path)
                        found[path] = known if known and known[0] == state else (state, self._look(path))
        self._looked = found
        now = self._tail.seen() if self._tail else ""
        new = [
            Candidate(path, state, looked)
            for path, (state, looked) in found.items()
            if looked and looked.begin_us >= since_us and looked.name != now and self._marks.get(looked.name, (0,))[0] != WHOLE
        ]
        return sorted(new, key=lambda one: (one.look.begin_us, one.path.suffix in _PACKED, one.path))

    def _look(self, path: Path) -> Look | None:
        """Look into a finished log; None for what is no conn.log or cannot be read."""
        try:
            looked = look_into(path, finished=True)
        except (OSError, Broken):
            self._refused_files += path not in self._looked
            return None
        if looked and looked.refusal:
            self._refused_files += path not in self._looked
            return None
        return looked  # None, too, for one without a connection

    def _folders(self, since_us: int) -> Iterator[Path]:
        """Where finished logs may lie: beside conn.log, also behind a link to its folder, and in zeekctl's folders of days."""
        beside = self._path.parent
        yield beside
        if (real := beside.resolve()) != beside.absolute():
            yield real
        for path in _in(beside.absolute().parent, None):
            with contextlib.suppress(OSError):  # as above
                if _DAY.fullmatch(path.name) and path.stat().st_mtime_ns >= since_us * 1000:
                    yield path

    def _turns(self, seconds: float) -> int:
        """How many times to wait for so long."""
        return max(round(seconds / self._wait_s), 1)


def _in(folder: Path, log: Path | None) -> list[Path]:
    """What lies in a folder, with `log` only the logs that it was renamed to; nothing where it cannot be read."""
    try:
        inside = list(folder.iterdir())
    except OSError:
        return []
    return [one for one in inside if log is None or _is_rotated(one.name, log.name)]


def _is_rotated(name: str, log: str) -> bool:
    """Whether a file's name is one that a log gets when it is rotated, by Zeek or by logrotate."""
    for before, pattern in ((log.removesuffix(".log"), _FINISHED), (log, _NUMBERED)):
        if name.startswith(before) and pattern.fullmatch(name, len(before)):
            return True
    return False


def _said(error: OSError | Broken) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
