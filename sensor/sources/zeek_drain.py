"""A thread that does nothing but empty a ZeroMQ socket into a bounded queue, whatever the rest of the sensor does.

Zeek's proxy sends to every subscriber or to none: one that stops reading stops the bus for all of Zeek (its XPUB is set to
drop nothing). So the socket has no high-water mark, this thread reads it at once, and what does not fit the queue is counted
and forgotten here, where it harms nobody else. It also hears from the socket's monitor when Zeek comes and goes: a connection
counts once both sides agree on it, for one with other keys is made and broken off again several times a second.
Called by `zeek_source`.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque

import zmq
from zmq.utils.monitor import recv_monitor_message

from sensor.sources.zeek_messages import Message, Tell

POLL_MS = 100
"""How long a request to end may go unseen."""
RETRY_TURNS = 10
"""Quiet turns of POLL_MS until a connection that was refused is tried again: ZeroMQ itself then tries no more."""
CHUNK = 512
"""Messages taken before they are handed over, while more are there."""
LAST_CHUNKS = 256
"""Chunks taken at most after the end was asked for: Zeek may go on sending for ever."""
OVERHEAD_BYTES = 400
"""What the parts of a message take beside their bytes, about."""

_COME = zmq.EVENT_CONNECTED | zmq.EVENT_ACCEPTED
_GONE = zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED
_REFUSED = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL


def watch(socket: zmq.Socket[bytes]) -> None:
    """Let the socket tell who comes and goes; to be called before it is connected or bound."""
    socket.get_monitor_socket(_COME | _GONE | _REFUSED | zmq.EVENT_HANDSHAKE_SUCCEEDED)


class Drain:
    """Reads a socket that is watched until `stop`, and closes it; holds at most `limit_bytes` of messages that wait.

    `connected_to` is where the socket connects, "" where it is bound.
    """

    def __init__(self, socket: zmq.Socket[bytes], limit_bytes: int, tell: Tell, *, connected_to: str = "") -> None:
        self.messages = 0
        """Messages that came."""
        self.dropped = 0
        """Messages that did not fit."""
        self._socket = socket
        self._limit_bytes = limit_bytes
        self._tell = tell
        self._peers: set[int] = set()
        self._greeting: dict[int, None] = {}
        """Connections that are not agreed on yet, in the order in which they came."""
        self._failed = self._told_refused = False
        self._connected_to = connected_to
        self._retry_in = 0
        self._chunks: deque[tuple[list[Message], int]] = deque()
        self._waiting_bytes = self._waiting = 0
        self._ready = threading.Condition()
        self._stopping = self._ended = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="zeek-drain", daemon=True)
        self._thread.start()

    @property
    def peers(self) -> int:
        """Connections that stand now, agreed on by both sides."""
        return len(self._peers)

    @property
    def waiting(self) -> int:
        """Messages that wait to be taken."""
        return self._waiting

    def take(self, most: int, timeout_s: float) -> list[Message] | None:
        """Messages that wait, `most` or a chunk more of them; none after `timeout_s`; None when no more will come.

        Raises what ended the thread, if it was an error.
        """
        with self._ready:
            if not self._chunks and not self._ended:
                self._ready.wait(timeout_s)
            if not self._chunks and self._ended:
                if self._error is not None:
                    raise self._error
                return None
            messages: list[Message] = []
            while self._chunks and len(messages) < most:
                chunk, size = self._chunks.popleft()
                messages += chunk
                self._waiting_bytes -= size
            self._waiting -= len(messages)
            return messages

    def stop(self) -> None:
        """End soon; what waits can still be taken."""
        self._stopping = True

    def join(self) -> None:
        """Wait for the end."""
        self._thread.join()

    def _run(self) -> None:
        try:
            monitor = self._socket.get_monitor_socket()  # the one that `watch` made
            poller = zmq.Poller()
            poller.register(self._socket, zmq.POLLIN)
            poller.register(monitor, zmq.POLLIN)
            while not self._stopping:
                ready = dict(poller.poll(POLL_MS))
                if monitor in ready:
                    self._hear(monitor)
                if self._socket in ready:
                    self._receive()
                if not ready and self._retry_in:
                    self._retry()
            for _ in range(LAST_CHUNKS):  # what had come when the end was asked for
                if not self._socket.poll(0):
                    break
                self._receive()
        except BaseException as error:  # whoever takes the next messages raises it
            self._error = error
        finally:
            self._socket.disable_monitor()
            self._socket.close(linger=0)
            with self._ready:
                self._ended = True
                self._peers.clear()
                self._ready.notify_all()

    def _receive(self) -> None:
        """Take what is there, up to a chunk."""
        chunk: list[Message] = []
        receive = self._socket.recv_multipart
        with contextlib.suppress(zmq.Again):
            while len(chunk) < CHUNK:
                chunk.append(receive(zmq.NOBLOCK))
        self.messages += len(chunk)
        self._offer(chunk)

    def _offer(self, chunk: list[Message]) -> None:
        """Put a chunk into the queue, or as much of it as fits."""
        sizes = [sum(map(len, parts)) + OVERHEAD_BYTES for parts in chunk]
        size = sum(sizes)
        lost = 0
        with self._ready:
            while chunk and self._waiting_bytes + size > self._limit_bytes:
                chunk.pop()
                size -= sizes.pop()
                lost += 1
            if chunk:
                self._chunks.append((chunk, size))
                self._waiting_bytes += size
                self._waiting += len(chunk)
                self._ready.notify()
        if lost:
            if not self.dropped:
                self._tell(
                    "zeek_dropped", "connections come faster than they are scored: what does not fit zeek.queue_mib is lost"
                )
            self.dropped += lost

    def _hear(self, monitor: zmq.Socket[bytes]) -> None:
        """Follow who is connected."""
        heard = recv_monitor_message(monitor)
        event, before = heard["event"], len(self._peers)
        if event & _COME:
            self._greeting[heard["value"]] = None
        elif event & zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._told_refused = False
            self._agreed()
        elif event & _GONE:
            self._gone(heard["value"], heard["endpoint"])
        else:  # its end comes next
            self._failed = True
        if before == 0 and self._peers:
            self._tell("zeek_up", f"{_shown(heard['endpoint'])}: connected")
        elif before and not self._peers:
            self._tell("zeek_away", f"{_shown(heard['endpoint'])}: Zeek is away, waiting for it to come back")

    def _agreed(self) -> None:
        """Count a connection: which one is not told, so it is the oldest that has not been agreed on."""
        if self._greeting:
            one = next(iter(self._greeting))
            del self._greeting[one]
            self._peers.add(one)

    def _gone(self, number: int, endpoint: bytes) -> None:
        """Forget a connection, and tell once where it ended before both sides agreed."""
        refused, self._failed = self._failed, False
        if number in self._greeting:
            del self._greeting[number]
            refused = True
        elif number in self._peers:
            self._peers.remove(number)
            if refused:  # it was taken for the one that had agreed
                self._agreed()
        self._retry_in = RETRY_TURNS if refused and self._connected_to else 0
        if refused and not self._told_refused:
            self._told_refused = True
            self._tell("zeek_refused", f"{_shown(endpoint)}: no agreement with Zeek, are its port and the CURVE keys right?")

    def _retry(self) -> None:
        """Connect anew when it is time, unless ZeroMQ did so."""
        self._retry_in -= 1
        if self._retry_in or self._peers or self._greeting:
            return
        with contextlib.suppress(zmq.ZMQError):  # that it is not connected
            self._socket.disconnect(self._connected_to)
        self._socket.connect(self._connected_to)


def _shown(endpoint: bytes) -> str:
    return endpoint.decode("ascii", "backslashreplace")
