"""Hold threads of a process as they are, from outside: what a watchdog is for. A sensor needs no hook for it (ptrace(2))."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

SEIZE, INTERRUPT, DETACH = 0x4206, 0x4207, 17  # requests of ptrace(2), from <linux/ptrace.h>
WALL = 0x40000000  # __WALL of waitpid(2): threads, too

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def threads_of(pid: int) -> list[int]:
    """All threads of a process but the first one."""
    return sorted(int(task.name) for task in Path(f"/proc/{pid}/task").iterdir() if int(task.name) != pid)


@contextlib.contextmanager
def frozen(threads: Sequence[int]) -> Iterator[None]:
    """The threads stand still while inside; they may also be ended, which is seen to at the end."""
    for thread in threads:
        _ptrace(SEIZE, thread)
    try:
        for thread in threads:
            _ptrace(INTERRUPT, thread)
            os.waitpid(thread, WALL)
        yield
    finally:
        for thread in threads:
            with contextlib.suppress(ProcessLookupError):
                _ptrace(DETACH, thread)


def bury(threads: Sequence[int]) -> bool:
    """Take note of threads that ended: their process is gone only then. Returns whether any did."""
    ended = False
    for thread in threads:
        with contextlib.suppress(ChildProcessError):
            number, status = os.waitpid(thread, os.WNOHANG | WALL)
            ended |= bool(number) and (os.WIFEXITED(status) or os.WIFSIGNALED(status))
    return ended


def _ptrace(request: int, thread: int) -> None:
    if _libc.ptrace(request, thread, None, None) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
