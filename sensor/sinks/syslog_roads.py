"""How messages of syslog get to their receiver: a stream or datagrams, and what is sent again because it may be lost.

Syslog has no answers. Over TCP the other side's kernel is asked instead: what it has not acknowledged is kept here, and sent
again over the next connection when one breaks. So a message may come twice; lost without a word is only what the other kernel
took and its program never read. Over UDP, datagrams that the other host is known to have refused (nobody listens) are sent
again, and nobody knows of the others. No call waits much longer than `TIMEOUT_S`. `syslog` calls this.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import termios
from collections import deque

from sensor.sinks.lines import NeverTaken, SinkFailed

TIMEOUT_S = 5.0
"""For a receiver that takes nothing, or a network that swallows everything."""
UNACKNOWLEDGED_MS = 30_000
"""After so long without an acknowledgement the kernel gives a connection up (it would take a quarter of an hour by itself)."""
CLOSE_S = 0.5
"""What the end of a sensor spares for a receiver to acknowledge the last messages."""
READ_BYTES = 4096
"""What is read, and thrown away, of a receiver that talks back."""
LONGEST_DATAGRAM = 65_507
"""Bytes in an IPv4 datagram besides its headers."""
REMEMBERED = 1000
"""Datagrams of a second that are sent again when one of them was refused; more than a sensor alerts."""

Place = tuple[str, int]


class Stream:
    """Messages, each with its own framing, over a TCP connection to `place` that is opened when there is something to send."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._socket: socket.socket | None = None
        self._kept: deque[bytes] = deque()  # as much as the kernels' buffers hold: more is not taken
        self._sent = 0  # bytes of what is kept that this connection has

    def send(self, message: bytes) -> None:
        """Take a message: send it, or the beginning of it. Raises SinkFailed when not even that could be done."""
        self._push()
        self._kept.append(message)
        try:
            self._push()
        except SinkFailed:
            before = sum(map(len, self._kept)) - len(message)
            if self._sent > before:  # the rest follows, on this connection or all of it on another
                return
            self._kept.pop()
            raise

    def settle(self) -> None:
        """Forget what was acknowledged, and send the rest again if the connection is gone. Raises SinkFailed."""
        if self._kept:
            self._push()

    def close(self) -> None:
        """Hang up when all is acknowledged. Raises SinkFailed with the number of messages of which that is not known."""
        sock = self._socket
        try:
            if sock is not None:
                sock.shutdown(socket.SHUT_WR)
                sock.settimeout(CLOSE_S)
                while sock.recv(READ_BYTES):
                    pass
        except OSError:
            pass  # what is acknowledged is asked below
        if sock is not None:
            self._forget_acknowledged(sock)
            self._hang_up()
        if self._kept:
            raise SinkFailed(f"{self._name}: {len(self._kept)} of the last alerts may not have arrived", lost=len(self._kept))

    @property
    def _name(self) -> str:
        return f"syslog at {self._place[0]}:{self._place[1]}"

    def _push(self) -> None:
        """Send what is kept and was not sent. Raises SinkFailed."""
        try:
            sock = self._connected()
            self._forget_acknowledged(sock)
            rest = memoryview(b"".join(self._kept))[self._sent :]
            while rest:
                written = sock.send(rest)
                self._sent += written
                rest = rest[written:]
        except TimeoutError as error:
            raise SinkFailed(f"{self._name}: it takes nothing") from error
        except (OSError, UnicodeError) as error:
            self._hang_up()
            raise SinkFailed(f"{self._name}: {told(error)}") from error

    def _connected(self) -> socket.socket:
        """The connection; a new one where there is none, or the receiver has closed it."""
        if self._socket is not None and self._was_closed(self._socket):
            self._forget_acknowledged(self._socket)
            self._hang_up()
        if self._socket is None:
            self._socket = socket.create_connection(self._place, TIMEOUT_S)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS)
        return self._socket

    @staticmethod
    def _was_closed(sock: socket.socket) -> bool:
        try:
            sock.settimeout(0)  # a flag for the one call would not do: Python waits before it asks the kernel
            while sock.recv(READ_BYTES):
                pass
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            sock.settimeout(TIMEOUT_S)
        return True

    def _forget_acknowledged(self, sock: socket.socket) -> None:
        """Let go of the messages that the other kernel has whole."""
        unacknowledged = struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0]
        while self._kept and len(self._kept[0]) <= self._sent - unacknowledged:
            self._sent -= len(self._kept.popleft())

    def _hang_up(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket, self._sent = None, 0


class Datagrams:
    """Messages as UDP datagrams to `place`."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._socket: socket.socket | None = None
        self._recent: deque[bytes] = deque(maxlen=REMEMBERED)
        self._older: deque[bytes] = deque()
        self._again: list[bytes] = []
        self._tried = False  # the first of these is on its way

    def send(self, message: bytes) -> None:
        """Send a message. Raises SinkFailed while datagrams are refused, NeverTaken for one that is too long."""
        if len(message) > LONGEST_DATAGRAM:
            raise NeverTaken(f"{self._name}: {len(message):,} bytes are more than a datagram holds")
        self._repeat()
        self._out(message)
        self._recent.append(message)

    def settle(self) -> None:
        """Send again what may have been refused; what was not by now arrived or nobody will tell. Raises SinkFailed."""
        self._repeat()
        self._older, self._recent = self._recent, deque(maxlen=REMEMBERED)

    def close(self) -> None:
        """End. Raises SinkFailed with the number of messages that are known to be refused."""
        refused = len(self._again)
        if self._socket is not None:
            refused += self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
            self._socket.close()
            self._socket = None
        if refused:
            raise SinkFailed(f"{self._name}: nobody listens", lost=refused)

    @property
    def _name(self) -> str:
        return f"syslog at {self._place[0]}:{self._place[1]}"

    def _repeat(self) -> None:
        """Send again what was refused: the first alone, and the others when a second later that one was not refused too."""
        try:
            error = self._opened().getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        except (OSError, UnicodeError) as failed:
            raise SinkFailed(f"{self._name}: {told(failed)}") from failed
        if error:
            self._were_refused()
        if self._again and not self._tried:
            self._out(self._again[0])
            self._tried = True
            raise SinkFailed(f"{self._name}: {os.strerror(errno.ECONNREFUSED)}")
        rest, self._again = self._again[1:], []
        for number, message in enumerate(rest):
            try:
                self._out(message)
            except SinkFailed:
                self._again += rest[number:]
                raise
            self._recent.append(message)

    def _were_refused(self) -> None:
        """One of the last ones was, and nobody says which."""
        self._again += [*self._older, *self._recent]
        self._older.clear()
        self._recent.clear()
        self._tried = False

    def _out(self, message: bytes) -> None:
        try:
            self._opened().send(message)
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                raise NeverTaken(f"{self._name}: {len(message):,} bytes are more than a datagram holds") from error
            if error.errno == errno.ECONNREFUSED:  # of one that was sent before
                self._were_refused()
            raise SinkFailed(f"{self._name}: {told(error)}") from error

    def _opened(self) -> socket.socket:
        if self._socket is None:
            family, kind, number, _, address = socket.getaddrinfo(*self._place, type=socket.SOCK_DGRAM)[0]
            made = socket.socket(family, kind, number)
            made.settimeout(TIMEOUT_S)
            try:
                made.connect(address)
            except OSError:
                made.close()
                raise
            self._socket = made
        return self._socket


def told(error: Exception) -> str:
    """Say in words what went wrong."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
