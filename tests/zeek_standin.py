"""A stand-in for Zeek: its ZeroMQ bus made of real sockets, on which frames that a real Zeek sent are played.

As in Zeek, a proxy (XSUB and XPUB, which drops nothing and tells of every subscription) stands in the middle, and a node
publishes and subscribes through it. The stand-in can go away, with all that it holds, and come back on the same ports. Used by
the tests of the source and of the sink. What is awaited has a time limit.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import NamedTuple

import pytest
import zmq
from zeek_values import (
    Count,
    Enum,
    Port,
    Span,
    Stamp,
    decode,
    decode_json,
    encode,
    encode_json,
    event,
    event_of,
)  # fmt: skip
from zmq.auth.thread import ThreadAuthenticator

from benchmarks.recorded import data_folder

__all__ = [
    "Count", "Curve", "Enum", "Port", "Span", "Stamp", "Zeek", "decode", "decode_json", "encode", "encode_json", "event",
    "event_of", "golden", "until",
]  # fmt: skip

NODE = b"zeromq_standin_vm_1_NstandIn"
BINARY = "broker-bin-v1"
LIMIT_S = 20.0


def frames_of(data: bytes) -> list[list[bytes]]:
    """Messages of a file of frames: a number of parts, then each with its length."""
    messages, at = [], 0

    def number() -> int:
        nonlocal at
        at += 4
        return int(struct.unpack_from(">I", data, at - 4)[0])

    while at < len(data):
        parts = []
        for _ in range(number()):
            size = number()
            parts.append(data[at : at + size])
            at += size
        messages.append(parts)
    return messages


def golden(folder: str) -> list[list[bytes]]:
    """What a real Zeek sent; a test that wants it skips where it is absent."""
    path = data_folder() / "golden" / "zeek-zeromq" / folder / "frames.bin"
    if not path.is_file():
        pytest.skip(f"the frames of a real Zeek are not at {path} (set NETSEQ_DATA)")
    return frames_of(path.read_bytes())


def until(holds: Callable[[], bool], timeout_s: float = LIMIT_S) -> None:
    """Wait for a condition."""
    end_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end_s, "waited in vain"
        time.sleep(0.002)


class Curve(NamedTuple):
    """Keys of an encrypted bus: the server's pair, and the one that all clients share."""

    server_public: bytes
    server_secret: bytes
    public: bytes
    secret: bytes

    @classmethod
    def make(cls) -> Curve:
        return cls(*zmq.curve_keypair(), *zmq.curve_keypair())


class _OneKey:
    """Lets in who has the clients' key, as Zeek does."""

    def __init__(self, key: bytes) -> None:
        self.key = key

    def callback(self, domain: str, key: bytes) -> bool:
        del domain
        return key == self.key


class Zeek:
    """The bus and one node; `subscribe` are the topics that the node listens to. Use it in a with statement."""

    def __init__(
        self, subscribe: Sequence[str] = ("netseq.alert.",), serialiser: str = BINARY, curve: Curve | None = None
    ) -> None:
        self.serialiser = serialiser
        self.refused = 0
        """Times that the node's own send queue was full."""
        self.xpub = self.xsub = "tcp://127.0.0.1:*"
        """Where the proxy sends to subscribers (the source connects there), and where it hears publishers (the sink)."""
        self.subscriptions: set[bytes] = set()
        """What is subscribed to now, by everybody together."""
        self._topics = subscribe
        self._curve = curve

    def __enter__(self) -> Zeek:
        self.come_back()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.leave()

    def come_back_with(self, curve: Curve | None) -> None:
        """Start with other keys, or without."""
        self._curve = curve
        self.come_back()

    def come_back(self) -> None:
        """Start, on the ports of the last time."""
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._guard: ThreadAuthenticator | None = None
        if self._curve is not None:
            self._guard = ThreadAuthenticator(self._context)
            self._guard.start()
            self._guard.configure_curve_callback("*", credentials_provider=_OneKey(self._curve.public))
        bound = threading.Event()
        self._proxy = threading.Thread(target=self._run_proxy, args=(bound,), name="zeek-proxy", daemon=True)
        self._proxy.start()
        assert bound.wait(LIMIT_S), "the proxy did not start"
        self._out = self._client(zmq.XPUB)
        self._out.setsockopt(zmq.XPUB_VERBOSE, 1)
        self._out.setsockopt(zmq.XPUB_NODROP, 1)
        self._out.setsockopt(zmq.SNDHWM, 1000)
        self._out.setsockopt(zmq.SNDTIMEO, int(LIMIT_S * 1000))
        self._out.connect(self.xsub)
        self._in = self._client(zmq.SUB)
        for topic in self._topics:
            self._in.setsockopt(zmq.SUBSCRIBE, topic.encode())
        self._in.connect(self.xpub)
        self.subscriptions.clear()
        for topic in self._topics:  # the node's own come back to it through the proxy
            self.await_subscription(topic)

    def leave(self) -> None:
        """End as a process that is killed: nothing that was not sent lingers."""
        for socket in (self._in, self._out):
            socket.close(linger=0)
        if self._guard is not None:
            self._guard.stop()
        self._context.term()
        self._proxy.join(LIMIT_S)
        assert not self._proxy.is_alive()

    def await_subscription(self, topic: str, timeout_s: float = LIMIT_S) -> None:
        """Wait until somebody subscribes to `topic`, or to all that begins like it."""
        wanted = topic.encode()
        until(lambda: any(wanted.startswith(one) for one in self._heard()), timeout_s)

    def await_unsubscription(self, topic: str, timeout_s: float = LIMIT_S) -> None:
        """Wait until nobody subscribes to exactly `topic`."""
        until(lambda: topic.encode() not in self._heard(), timeout_s)

    def publish(self, topic: str, payload: bytes, serialiser: str | None = None) -> None:
        """Publish an event as a node does."""
        self.publish_parts([topic.encode(), NODE, (serialiser or self.serialiser).encode(), payload])

    def publish_parts(self, parts: Sequence[bytes]) -> None:
        """Publish any message; waits while the node's queue is full, and counts that."""
        try:
            self._out.send_multipart(parts, zmq.NOBLOCK)
        except zmq.Again:
            self.refused += 1
            self._out.send_multipart(parts)  # raises Again when the bus stands still for LIMIT_S

    def play(self, messages: Iterable[Sequence[bytes]]) -> None:
        """Publish messages one after the other."""
        for parts in messages:
            self.publish_parts(parts)

    def received(self, count: int, timeout_s: float = LIMIT_S) -> list[list[bytes]]:
        """The next messages that the node hears on its topics."""
        messages: list[list[bytes]] = []
        while len(messages) < count:
            assert self._in.poll(int(timeout_s * 1000)), f"{len(messages)} messages came, {count} were awaited"
            messages.append(self._in.recv_multipart())
        return messages

    def _heard(self) -> set[bytes]:
        """What is subscribed to, after all that the proxy has told until now."""
        while self._out.poll(0):
            told = self._out.recv()
            if told[:1] == b"\x01":
                self.subscriptions.add(told[1:])
            else:
                self.subscriptions.discard(told[1:])
        return self.subscriptions

    def _client(self, kind: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RECONNECT_IVL, 20)
        if self._curve is not None:
            socket.curve_serverkey = self._curve.server_public
            socket.curve_publickey, socket.curve_secretkey = self._curve.public, self._curve.secret
        return socket

    def _run_proxy(self, bound: threading.Event) -> None:
        xsub, xpub = self._context.socket(zmq.XSUB), self._context.socket(zmq.XPUB)
        try:
            xpub.setsockopt(zmq.XPUB_VERBOSER, 1)
            xpub.setsockopt(zmq.XPUB_NODROP, 1)
            for socket in (xsub, xpub):
                socket.setsockopt(zmq.LINGER, 0)
                if self._curve is not None:
                    socket.curve_server = True
                    socket.curve_secretkey, socket.curve_publickey = self._curve.server_secret, self._curve.server_public
            xsub.bind(self.xsub)
            xpub.bind(self.xpub)
            self.xsub, self.xpub = (str(socket.get_string(zmq.LAST_ENDPOINT)) for socket in (xsub, xpub))
            bound.set()
            zmq.proxy(xsub, xpub)
        except zmq.ContextTerminated:
            pass
        finally:
            xsub.close(linger=0)
            xpub.close(linger=0)
