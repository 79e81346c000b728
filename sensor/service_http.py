"""A small HTTP/1.1 server for the sensor's own pages: one thread, bounded memory, and a time limit on everything.

Python's own server gives each client a thread and a time limit for each byte, so that a client that sends a byte now and then
keeps both for ever. Here one thread serves all clients through a selector: a request must be there whole within some
seconds, an answer must be taken within some seconds, and when too many are connected the longest waiting one is let
go. Every connection carries one request (RFC 9112, 9.6). `sensor.service_metrics` says what is answered.
"""

from __future__ import annotations

import errno
import os
import re
import selectors
import socket
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from sensor.config import ConfigError

HEAD_BYTES = 8192
"""The longest request line with its headers: Prometheus sends some hundred bytes."""
REQUEST_S, ANSWER_S, LINGER_S = 5.0, 10.0, 1.0
"""How long a client may take to send its request, to take the answer, and to close: it should take milliseconds."""
CONNECTIONS = 64
"""Clients at a time; Prometheus, a browser and a health check are three."""
BACKLOG = 1024
"""Clients that may wait to be let in: with a short queue, one that comes during a flood would try again only after a second."""
PAUSE_S = 0.5
"""How long nobody is let in when the process has no file descriptor left."""

STATUS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 431: "Request Header Fields Too Large"}
STATUS |= {500: "Internal Server Error", 503: "Service Unavailable", 505: "HTTP Version Not Supported"}
METHODS = ("GET", "HEAD")

_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # a token (RFC 9110, 5.6.2)
_REQUEST_LINE = re.compile(rf"({_WORD}) ([!-~]+) HTTP/(\d)\.(\d)")
_HEADER = re.compile(rf"({_WORD}):([\t -~\x80-\xff]*)")
_HOST = re.compile(r"[\w.:%-]*", re.ASCII)
_ABSOLUTE = re.compile(r"https?://[^/?#]*", re.IGNORECASE)  # a proxy's form of the target (RFC 9112, 3.2.2)


class Request(NamedTuple):
    """What a client asks for; header names are in small letters, and of repeated ones the values are joined."""

    method: str
    path: str
    headers: dict[str, str]


class Answer(NamedTuple):
    """What it gets."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


class Refused(Exception):  # noqa: N818  # the name says it
    """The request is not one; `status` says why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


def parse_address(text: str) -> tuple[str, int]:
    """Split "127.0.0.1:9477", "[::1]:9477" or "localhost:9477"; without a host it is the loopback. Raises ConfigError."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if bracketed else host
    numbered = port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 1 << 16
    if not (colon and numbered and _HOST.fullmatch(bare)) or (":" in bare) != bracketed:
        shown = text if text.isprintable() else ascii(text)
        raise ConfigError(f"service.metrics: {shown}: expected address:port, such as 127.0.0.1:9477 or [::1]:9477")
    return bare or "127.0.0.1", int(port)


def listen(text: str) -> socket.socket:
    """Listen on an address as `parse_address` takes it; port 0 is a free one. Raises OSError, whose strerror is one line."""
    host, port = parse_address(text)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:  # UnicodeError: longer than a name may be
        why = error.strerror if isinstance(error, OSError) else error
        raise OSError(errno.EADDRNOTAVAIL, f"service.metrics: no such address: {text}: {why}") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # at a restart, old connections may still linger
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        why = f"service.metrics: cannot listen on {text}: {os.strerror(error.errno or 0)}"
        raise OSError(error.errno, f"{why}; set another address and port, or none") from error
    return listener


class _Client:
    """One connection: first it is read, then written, then drained until the other side closes."""

    def __init__(self, connected: socket.socket, now_s: float) -> None:
        self.socket = connected
        self.until_s = now_s + REQUEST_S
        self.received = b""
        self.answer = memoryview(b"")
        self.draining = False


class Server:
    """Answers requests on `listener` by `answer`, in a thread of its own from `start` to `close`.

    `answer` is called for GET and HEAD. An exception of it ends the thread, and `running` tells.
    """

    def __init__(self, listener: socket.socket, answer: Callable[[Request], Answer]) -> None:
        self._listener = listener
        self._answer = answer
        self._clients: dict[int, _Client] = {}  # in the order in which they came
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._paused_until_s: float | None = None
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)

    @property
    def running(self) -> bool:
        """Requests are being answered."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Stop listening and let all clients go; at once."""
        self._wake.close()
        if self._thread.is_alive():
            self._thread.join()
        self._release()

    def _run(self) -> None:
        try:
            while self._step():
                pass
        finally:
            self._release()

    def _release(self) -> None:
        """Give back all sockets; a second time nothing happens."""
        for client in self._clients.values():
            client.socket.close()
        self._clients.clear()
        for one in (self._listener, self._wake, self._woken):
            one.close()
        self._selector.close()

    def _step(self) -> bool:
        """Wait for something to happen and see to it; false when the server is to end."""
        ends_s = [client.until_s for client in self._clients.values()]
        if self._paused_until_s is not None:
            ends_s.append(self._paused_until_s)
        timeout_s = max(0.0, min(ends_s) - time.monotonic()) if ends_s else None
        for key, _ in self._selector.select(timeout_s):
            if key.fileobj is self._woken:
                return False
            if key.fileobj is self._listener:
                self._accept()
            elif key.fd in self._clients:  # else it was let go for a newer one
                client = self._clients[key.fd]
                try:
                    self._serve(client)
                except BlockingIOError:  # it was ready, and is not any more
                    continue
                except OSError:  # it is gone, or broke off: no matter of ours
                    self._drop(client)
        now_s = time.monotonic()
        for client in [client for client in self._clients.values() if client.until_s <= now_s]:
            self._drop(client)
        if self._paused_until_s is not None and self._paused_until_s <= now_s:
            self._paused_until_s = None
            self._selector.register(self._listener, selectors.EVENT_READ)
        return True

    def _accept(self) -> None:
        try:
            connected, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError:  # no file descriptor is left: the listener would be ready for ever
            self._selector.unregister(self._listener)
            self._paused_until_s = time.monotonic() + PAUSE_S
            return
        connected.setblocking(False)
        if len(self._clients) >= CONNECTIONS:
            self._drop(next(iter(self._clients.values())))
        self._clients[connected.fileno()] = _Client(connected, time.monotonic())
        self._selector.register(connected, selectors.EVENT_READ)

    def _drop(self, client: _Client) -> None:
        del self._clients[client.socket.fileno()]
        self._selector.unregister(client.socket)
        client.socket.close()

    def _serve(self, client: _Client) -> None:
        """Do what a client is ready for."""
        if client.answer:
            client.answer = client.answer[client.socket.send(client.answer) :]
        else:
            data = client.socket.recv(HEAD_BYTES)
            if not data:
                self._drop(client)
                return
            if client.draining:
                return
            client.received += data
            if b"\r\n\r\n" in client.received or len(client.received) > HEAD_BYTES:
                client.answer = memoryview(self._respond(client.received))
                client.until_s = time.monotonic() + ANSWER_S
                self._selector.modify(client.socket, selectors.EVENT_WRITE)
            return
        if not client.answer:
            # Closed with something unread, TCP would reset the connection, and the answer with it (RFC 9112, 9.6).
            client.draining = True
            client.until_s = time.monotonic() + LINGER_S
            client.socket.shutdown(socket.SHUT_WR)
            self._selector.modify(client.socket, selectors.EVENT_READ)

    def _respond(self, received: bytes) -> bytes:
        """Make the whole answer to what was received."""
        try:
            request = parse(received)
        except Refused as refused:
            return written(Answer(refused.status, f"{refused}\n".encode()))
        answer = self._answer(request)
        return written(answer, head_only=request.method == "HEAD")


def parse(received: bytes) -> Request:
    """Read a request up to its empty line; raises Refused. A body is not looked at."""
    head, end, _ = received.partition(b"\r\n\r\n")
    if not end or len(head) > HEAD_BYTES:
        raise Refused(431, f"a request may have {HEAD_BYTES} bytes")
    first, *lines = head.decode("latin-1").split("\r\n")
    line = _REQUEST_LINE.fullmatch(first)
    if line is None:
        raise Refused(400, "not an HTTP request")
    method, target, major, minor = line.groups()
    if major != "1":
        raise Refused(505, "only HTTP/1.0 and HTTP/1.1 are spoken")
    headers: dict[str, str] = {}
    for text in lines:
        header = _HEADER.fullmatch(text)
        if header is None:
            raise Refused(400, "not an HTTP header")
        name, value = header[1].lower(), header[2].strip(" \t")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    if minor != "0" and "host" not in headers:
        raise Refused(400, "no Host")  # RFC 9112, 3.2
    return Request(method, _ABSOLUTE.sub("", target, count=1).partition("?")[0] or "/", headers)


def written(answer: Answer, *, head_only: bool = False) -> bytes:
    """Write an answer as the bytes that are sent."""
    head = [
        f"HTTP/1.1 {answer.status} {STATUS[answer.status]}",
        f"Content-Type: {answer.content_type}",
        f"Content-Length: {len(answer.body)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        *([f"Allow: {', '.join(METHODS)}"] if answer.status == 405 else []),
        "Connection: close",
    ]
    return "\r\n".join([*head, "", ""]).encode("latin-1") + (b"" if head_only else answer.body)
