"""Signals, as the control loop meets them: noted when they come, handled when the loop comes round."""

from __future__ import annotations

import contextlib
import select
import signal
import socket
from collections import deque
from types import FrameType

HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


class Signals:
    """Notes signals while it is entered as a context; a signal wakes `wait` up. Only for the main thread."""

    def __init__(self) -> None:
        self._came: deque[int] = deque()
        self._reading, self._writing = socket.socketpair()
        self._before: dict[int, signal.Handlers | object] = {}
        self._fd_before = -1

    def __enter__(self) -> Signals:
        self._reading.setblocking(False)
        self._writing.setblocking(False)
        self._fd_before = signal.set_wakeup_fd(self._writing.fileno(), warn_on_full_buffer=False)
        for number in HANDLED:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)  # type: ignore[arg-type]  # what signal.signal gave is what it takes
        signal.set_wakeup_fd(self._fd_before)
        self._reading.close()
        self._writing.close()

    def wait(self, timeout_s: float) -> list[signal.Signals]:
        """The signals that came since the last call, in order; waits for one at most `timeout_s`."""
        if not self._came:
            select.select([self._reading], [], [], timeout_s)
        with contextlib.suppress(BlockingIOError):
            self._reading.recv(4096)
        came = []
        while self._came:
            came.append(signal.Signals(self._came.popleft()))
        return came

    def _note(self, number: int, _: FrameType | None) -> None:
        self._came.append(number)
