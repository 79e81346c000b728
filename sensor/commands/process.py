"""What a command asks of its process: to be told of Ctrl-C instead of being broken off by it, enough open files, a status."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from types import FrameType

DONE, DAMAGED, MISUSE, INTERRUPTED, READER_GONE = 0, 1, 2, 130, 141
"""Exit statuses; the last two are what a shell reports for SIGINT and SIGPIPE."""


@contextlib.contextmanager
def interrupts(stop: Callable[[], None]) -> Iterator[list[int]]:
    """While inside, the first SIGINT calls `stop` and breaks nothing off; a second one raises KeyboardInterrupt.

    Yields the signals that came so far. A process that was started to ignore SIGINT goes on ignoring it.
    """
    came: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        came.append(number)
        if len(came) > 1:
            raise KeyboardInterrupt
        stop()

    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN or threading.current_thread() is not threading.main_thread():
        yield came
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield came
    finally:
        signal.signal(signal.SIGINT, before)


def allow_open_files() -> None:
    """Raise the limit of open files as far as the process may: captures that overlap in time are open side by side."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # some systems take no "unlimited" here
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def open_files() -> int:
    """The limit of open files."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def is_live(paths: list[str]) -> bool:
    """Tell whether standard input is read, and is a pipe or socket, which may be fed as packets are seen on the wire."""
    if "-" not in paths:
        return False
    mode = os.fstat(0).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
