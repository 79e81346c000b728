"""A folder in which another program leaves its captures: each is read once, when it is finished.

A capture is finished when nobody has written to it for some seconds. Captures are read in the order in which they were last
written. What was read is remembered by name, size and time of writing for as long as it lies there, over restarts too. Files
can wait, so nothing is shed on their account. Nothing is deleted here: that is the rotation's affair.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np

from sensor.schema import FRAME, FrameBlock
from sensor.sources.pcap import CaptureSource, NotACapture

SETTLED_S = 5.0
"""Seconds without a write after which a capture is finished: capturing programs write their buffers more often."""
LOOK_S = 1.0
"""Seconds between two looks at the folder."""
STEP_S = 0.1
"""Seconds between two signs of life while there is nothing to read."""

Mark: TypeAlias = tuple[int, int]
"""Size and time of the last write in ns: a file of the same name with another mark is another capture."""

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
        self._read: dict[str, Mark] = {name: (mark[0], mark[1]) for name, mark in (read or {}).items()}
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
            for path, mark in self._finished():
                yield from self._frames_of(path)
                if self._stopping.is_set():  # in the middle of it, perhaps: it is read again after the restart
                    return
                self._read[_named(path)] = mark
            looked_s = time.monotonic()

    def stop(self) -> None:
        """End after the block that is being read."""
        self._stopping.set()

    def close(self) -> None:
        """Nothing is held between two captures."""

    def counters(self) -> dict[str, int]:
        """What was counted so far, by the names of `sensor.metrics`."""
        return {"captures_read": self._done, "captures_damaged": self._damaged, "files_skipped": self._skipped}

    def _finished(self) -> list[tuple[Path, Mark]]:
        """Captures that can be read now, in the order of their last writing."""
        found: dict[str, tuple[Path, Mark]] = {}
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
                    state = path.stat()
                    found[_named(path)] = path, (state.st_size, state.st_mtime_ns)
        if self._gone:
            self._gone = False
            self._tell("folder_back", f"{self._folder}: it is back")
        self._read = {name: mark for name, mark in self._read.items() if name in found}
        settled_ns = time.time_ns() - round(SETTLED_S * 1e9)
        new = [(path, mark) for name, (path, mark) in found.items() if self._read.get(name) != mark]
        return sorted(((path, mark) for path, mark in new if mark[1] <= settled_ns), key=lambda one: (one[1][1], one[0].name))

    def _frames_of(self, path: Path) -> Iterator[FrameBlock]:
        """Yield one capture's frames, and tell how it ended."""
        try:
            source = CaptureSource([str(path)], block_frames=self._block_frames)
        except (NotACapture, OSError) as refused:
            self._skipped += 1
            self._tell("capture_refused", f"{refused}")
            return
        for block in source:
            self.frames += len(block.frames)
            self.wire_bytes += int(block.frames["wire_bytes"].sum(dtype=np.int64))
            yield block
            if self._stopping.is_set():
                return
        self._done += 1
        if source.damages:
            self._damaged += 1
            _, place, reason = source.damages[0]
            self._tell("capture_damaged", f"{path}: damaged at byte {place}: {reason}")


def _named(path: Path) -> str:
    r"""A capture's name for the state, which is text; bytes of it that are none are written as \xHH."""
    return os.fsencode(path.name).decode("utf-8", "backslashreplace")
