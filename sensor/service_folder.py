"""A folder in which another program leaves its captures: each is read once, when it is finished.

A capture is finished when nobody has written to it for some seconds, by the time it bears or, where the clock of whoever
wrote it is ahead, by what is seen of it here. One that grows after all, because its writer was slow, is read on from where it
ended; so is one that a restart interrupted. Nothing is mapped: a program that cuts its files must not end the sensor. Captures
are read in the order in which they were last written. What was read, or is no capture, is remembered by name, size, time of
writing and first bytes for as long as it lies there, over restarts too; what cannot be read, for want of a right or of a disk,
is tried again and again. Files can wait, so nothing is shed on their account. Nothing is deleted here: that is the
rotation's affair.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sensor.schema import FRAME, FrameBlock
from sensor.sources.pcap import CaptureSource, NotACapture

SETTLED_S = 5.0
"""Seconds without a write after which a capture is taken for finished."""
HEAD_BYTES = 64
"""By so many first bytes, the first packet's time among them, a capture that has grown is told from one written over it."""
LOOK_S = 1.0
"""Seconds between two looks at the folder."""
RETRY_S = 10.0
"""Seconds after which a capture that could not be read is tried again: soon for a person, and no load for ten thousand."""
STEP_S = 0.1
"""Seconds between two signs of life while there is nothing to read."""


class Mark(NamedTuple):
    """What is remembered of a capture that was read."""

    size_bytes: int
    """-1 of one that was not read to its end."""
    written_ns: int
    head: int
    """Digest of its first bytes."""
    frames: int
    """Frames of it that were handed on."""


class Look(NamedTuple):
    """How a capture was found that is not read yet."""

    size_bytes: int
    written_ns: int
    since_s: float
    """Monotonic time from which on it was found so."""


NOTHING = FrameBlock(np.empty(0, np.uint8), np.empty(0, FRAME))


class FolderSource:
    """Yields the frames of every finished capture in `folder`; satisfies service_capture.LiveSource.

    `read` are the marks of captures that were read before, as `marks` gave them. `tell` takes an event's name and a line.
    Raises NotADirectoryError or PermissionError when there is no such folder, or it cannot be read.
    """

    def __init__(
        self, folder: Path, *, block_frames: int, tell: Callable[[str, str], None], read: Mapping[str, Mark] | None = None
    ) -> None:
        next(folder.iterdir(), None)  # refuses what is no folder
        self.frames = self.wire_bytes = 0
        self._folder = folder
        self._block_frames = block_frames
        self._tell = tell
        self._read = {name: mark for name, mark in (read or {}).items() if not _is_of_unread(mark)}
        self._looks: dict[str, Look] = {}
        self._due_s: dict[str, float] = {}
        """When captures that could not be read are tried again."""
        self._done = self._damaged = self._skipped = 0
        self._stopping = threading.Event()
        self._gone = False

    @property
    def marks(self) -> dict[str, Mark]:
        """What was read and still lies in the folder."""
        return dict(self._read)

    def __iter__(self) -> Iterator[FrameBlock]:
        """Yield blocks of frames as captures are finished; an empty block now and then."""
        looked_s = -LOOK_S
        while not self._stopping.is_set():
            if time.monotonic() - looked_s < LOOK_S:
                self._stopping.wait(STEP_S)
                yield NOTHING
                continue
            for path, state in self._finished():
                yield from self._frames_of(path, state)
                if self._stopping.is_set():
                    return
            looked_s = time.monotonic()

    def stop(self) -> None:
        """End after the block that is being read."""
        self._stopping.set()

    def close(self) -> None:
        """Nothing is held between two captures."""

    def counters(self) -> dict[str, int]:
        """What was counted so far, by the names of `sensor.metrics`."""
        return {
            "captures_read": self._done,
            "captures_damaged": self._damaged,
            "captures_unreadable": len(self._due_s),
            "files_skipped": self._skipped,
        }

    def _finished(self) -> list[tuple[Path, os.stat_result]]:
        """Captures that can be read now, in the order of their last writing."""
        found: dict[str, tuple[Path, os.stat_result]] = {}
        try:
            paths = list(self._folder.iterdir())
        except OSError as error:
            if not self._gone:
                self._gone = True
                self._tell("folder_lost", f"{self._folder}: {error.strerror}; waiting for it to come back")
            return []
        for path in paths:
            with contextlib.suppress(OSError):  # gone meanwhile, or a link that leads nowhere: no matter of the others
                if path.is_file() and not path.name.startswith("."):
                    found[_named(path)] = path, path.stat()
        if self._gone:
            self._gone = False
            self._tell("folder_back", f"{self._folder}: it is back")
        self._read = {name: mark for name, mark in self._read.items() if name in found}
        self._due_s = {name: due_s for name, due_s in self._due_s.items() if name in found}
        new = {name: one for name, one in found.items() if not self._is_read(name, one[1])}
        self._looks = {name: self._look(name, state) for name, (_, state) in new.items()}
        due = [one for name, one in new.items() if self._is_due(name)]
        return sorted(due, key=lambda one: (one[1].st_mtime_ns, one[0].name))

    def _look(self, name: str, state: os.stat_result) -> Look:
        """Note how a capture is found now, or since when it has been found so."""
        before = self._looks.get(name)
        if before is not None and before[:2] == (state.st_size, state.st_mtime_ns):
            return before
        return Look(state.st_size, state.st_mtime_ns, time.monotonic())

    def _is_due(self, name: str) -> bool:
        """Whether a capture is finished, and has not just been tried in vain. Its own time may be of a clock that is ahead."""
        look, now_s = self._looks[name], time.monotonic()
        settled = time.time_ns() - look.written_ns >= SETTLED_S * 1e9 or now_s - look.since_s >= SETTLED_S
        return settled and now_s >= self._due_s.get(name, now_s)

    def _is_read(self, name: str, state: os.stat_result) -> bool:
        mark = self._read.get(name)
        return mark is not None and (mark.size_bytes, mark.written_ns) == (state.st_size, state.st_mtime_ns)

    def _frames_of(self, path: Path, state: os.stat_result) -> Iterator[FrameBlock]:
        """Yield one capture's frames that were not handed on before, and tell how it ended."""
        name = _named(path)
        try:
            with open(path, "rb", buffering=0) as file:
                head = zlib.crc32(file.read(HEAD_BYTES))
            source = CaptureSource([str(path)], block_frames=self._block_frames, mapped=False)
        except OSError as error:
            self._put_off(path, error)
            return
        except NotACapture as refused:
            self._skipped += 1
            self._tell("capture_refused", f"{refused}")
            self._due_s.pop(name, None)
            self._read[name] = Mark(state.st_size, state.st_mtime_ns, head, 0)
            return
        self._due_s.pop(name, None)
        before = self._read.get(name)
        done = before.frames if before is not None and before.head == head else 0
        passed = 0
        for block in source:
            fresh = block.frames[max(done - passed, 0) :]
            passed += len(block.frames)
            if len(fresh):
                self.frames += len(fresh)
                self.wire_bytes += int(fresh["wire_bytes"].sum(dtype=np.int64))
                yield FrameBlock(block.data, fresh)
            if self._stopping.is_set():
                self._read[name] = Mark(-1, state.st_mtime_ns, head, max(done, passed))
                return
        self._read[name] = Mark(state.st_size, state.st_mtime_ns, head, max(done, passed))
        self._done += 1
        if source.damages:
            self._damaged += 1
            _, place, reason = source.damages[0]
            self._tell("capture_damaged", f"{path}: damaged at byte {place}: {reason}")

    def _put_off(self, path: Path, error: OSError) -> None:
        """Try a capture that cannot be read again later, and tell of it the first time."""
        name = _named(path)
        if name not in self._due_s:
            todo = (
                f"make it readable for user {_user()}" if error.errno in (errno.EACCES, errno.EPERM) else "is its disk there?"
            )
            self._tell("capture_unreadable", f"{path}: {error.strerror or error}: {todo}; it is tried again")
        self._due_s[name] = time.monotonic() + RETRY_S


def _is_of_unread(mark: Mark) -> bool:
    """Whether a mark is what earlier states have of a capture that could not be read: as if it were no capture."""
    return mark.head == 0 and mark.frames == 0 and mark.size_bytes > 0


def _user() -> str:
    """Name of the user that the sensor runs as."""
    with contextlib.suppress(KeyError):  # a user without an entry
        return pwd.getpwuid(os.geteuid()).pw_name
    return str(os.geteuid())


def _named(path: Path) -> str:
    r"""A capture's name for the state, which is text; bytes of it that are none are written as \xHH."""
    return os.fsencode(path.name).decode("utf-8", "backslashreplace")
