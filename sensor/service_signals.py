"""Signals, as the control loop meets them: noted when they come, handled when the loop comes round.

However often one comes meanwhile, it is handled once, and a request to end before all others: a storm of reloads would put
it off beyond its time. While the sensor starts, only those that it has no answer to yet are noted (`WAITING`), for by
themselves they would end it; `handle` adds the others.
"""

from __future__ import annotations

import contextlib
import select
import signal
import socket
from collections import deque
from collections.abc import Sequence
from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGINT)
WAITING = (signal.SIGHUP, signal.SIGUSR1)
HANDLED = (*ENDING, *WAITING)


class Signals:
    """Notes signals, `numbers` at first, while it is entered as a context; one wakes `wait` up. Only for the main thread."""

    def __init__(self, numbers: Sequence[signal.Signals] = HANDLED) -> None:
        self._numbers = numbers
        self._came: deque[int] = deque()
        self._reading, self._writing = socket.socketpair()
        self._before: dict[int, signal.Handlers | object] = {}
        self._fd_before = -1

    def __enter__(self) -> Signals:
        self._reading.setblocking(False)
        self._writing.setblocking(False)
        self._fd_before = signal.set_wakeup_fd(self._writing.fileno(), warn_on_full_buffer=False)
        self.handle(self._numbers)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)  # type: ignore[arg-type]  # what signal.signal gave is what it takes
        signal.set_wakeup_fd(self._fd_before)
        self._reading.close()
        self._writing.close()

    def handle(self, numbers: Sequence[signal.Signals]) -> None:
        """Note these signals, too, from now on."""
        for number in numbers:
            self._before.setdefault(number, signal.signal(number, self._note))

    def wait(self, timeout_s: float) -> list[signal.Signals]:
        """The signals that came since the last call, each once, in order but for those that end; waits `timeout_s` at most."""
        if not self._came:
            select.select([self._reading], [], [], timeout_s)
        with contextlib.suppress(BlockingIOError):
            self._reading.recv(4096)
        came: dict[signal.Signals, None] = {}
        while self._came:
            came[signal.Signals(self._came.popleft())] = None
        return sorted(came, key=lambda number: number not in ENDING)

    def _note(self, number: int, _: FrameType | None) -> None:
        self._came.append(number)
