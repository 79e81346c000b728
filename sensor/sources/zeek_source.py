"""Connections from a running Zeek, over ZeroMQ: a live source of flows that have ended, by one of three roads.

`zeromq` subscribes to the proxy of Zeek's cluster backend, where our Zeek package publishes every connection as an event.
`zeromq-log` is itself the logger of a standalone Zeek, which pushes batches of its conn.log. `zeromq-writer` binds and lets
the ZeroMQ writer of NCSA's plugin connect. All three yield FlowBatch in the order in which connections came, and an empty one
now and then while none do. A thread of its own empties the socket (see `zeek_drain`); what a message means is in
`zeek_messages`. Called by the service.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import zmq
from zmq.utils import z85

from sensor.schema import FlowBatch
from sensor.sources.zeek_drain import Drain, watch
from sensor.sources.zeek_messages import (
    BINARY,
    NO_FLOWS,
    SERIALISERS,
    BatchesReader,
    EventReader,
    LinesReader,
    Reader,
    Tell,
    Told,
    warm,
)

Road = Literal["zeromq", "zeromq-log", "zeromq-writer"]
ADDRESSES: dict[Road, str] = {
    "zeromq": "tcp://127.0.0.1:5555",  # the proxy of a standalone Zeek; under zeekctl it is port 27760
    "zeromq-log": "tcp://127.0.0.1:15570",
    "zeromq-writer": "tcp://127.0.0.1:15571",
}
"""Where each road leads when no address is set: the first is connected to, the others are bound."""

STEP_S = 0.1
"""Seconds between two signs of life while nothing comes."""
BLOCK_MESSAGES = 4096
"""Messages read at a time when many wait."""
PART_LIMIT = 64 << 20
"""Bytes of a part of a message: a peer that sends more is cut off before memory is spent on it."""
KEY_LETTERS = 40
"""Letters of a CURVE key in Z85 (32 bytes)."""


class ZeekRefused(Exception):  # noqa: N818  # reads as the sentence it is, like the other refusals
    """The road cannot be opened with these settings; str() is the one line for the user."""


class Curve(NamedTuple):
    """Keys of an encrypted bus, in Z85: the server's public one, and the pair that all clients share (Zeek 8.2)."""

    server: bytes
    public: bytes
    secret: bytes


def read_curve(server: str, public: str, secret: str) -> Curve | None:
    """The keys in three files, each with the 40 letters of one; None where no file is named. Raises ZeekRefused."""
    files = (server, public, secret)
    if not any(files):
        return None
    names = ("zeek.curve_server_key", "zeek.curve_public_key", "zeek.curve_secret_key")
    return Curve(*(_key(name, file) for name, file in zip(names, files, strict=True)))


def _key(name: str, file: str) -> bytes:
    if not file:
        raise ZeekRefused(f"{name} is not set: CURVE needs the server's public key and both keys of the client")
    try:
        with Path(file).open("rb") as opened:
            key = opened.read(4096).strip()
    except OSError as error:
        raise ZeekRefused(f"{name}: {file}: {error.strerror}") from error
    try:
        if len(key) == KEY_LETTERS:
            z85.decode(key)
            return key
    except (KeyError, ValueError):
        pass
    raise ZeekRefused(f"{name}: {file} holds no CURVE key, which has {KEY_LETTERS} letters of Z85")


class ZeekSource:
    """Yields the connections that a running Zeek tells of; satisfies service_capture.LiveSource, but for what it yields.

    `address` is "" for the road's own. `topic` and `serialiser` matter for `zeromq` only. `queue_bytes` bounds what waits to be
    read. `tell` takes an event's name and a line. Connecting never fails: Zeek may come later, and may go and come back.
    Raises ZeekRefused where an address is none or in use, or keys do not fit. Making one compiles what it needs, and starts to
    read, whether anybody iterates or not. Iterate once.
    """

    def __init__(  # one argument for each setting
        self,
        road: Road,
        *,
        tell: Tell,
        address: str = "",
        topic: str = "netseq.conn.",
        serialiser: str = BINARY,
        curve: Curve | None = None,
        queue_bytes: int = 64 << 20,
        block_messages: int = BLOCK_MESSAGES,
    ) -> None:
        self.frames = self.wire_bytes = 0  # connections come without frames
        self.flows = 0
        """Flows handed over."""
        self._told = Told(tell)
        self._reader = _reader(road, self._told, serialiser)
        warm(road)  # before anything comes
        self._block_messages = block_messages
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            socket = _open(self._context, road, address or ADDRESSES[road], topic, curve)
        except BaseException:
            self._context.destroy(linger=0)
            raise
        self.address = str(socket.get_string(zmq.LAST_ENDPOINT))
        """What is connected to, or bound: with the port that was found where 0 or * was asked for."""
        self._drain = Drain(socket, queue_bytes, tell, connected_to=self.address if road == "zeromq" else "")

    @property
    def serialiser(self) -> str | None:
        """What the latest message that could be read was in; None before."""
        return self._reader.serialiser

    def __iter__(self) -> Iterator[FlowBatch]:
        """Yield flows as they come, an empty batch now and then."""
        while True:
            messages = self._drain.take(self._block_messages, STEP_S)
            if messages is None:
                return
            batch = self._reader.read(messages) if messages else NO_FLOWS
            self.flows += len(batch.flows)
            yield batch

    def stop(self) -> None:
        """End the iteration soon; what has come is still yielded."""
        self._drain.stop()

    def close(self) -> None:
        """Leave the bus."""
        self._drain.stop()
        self._drain.join()
        self._context.destroy(linger=0)

    def counters(self) -> dict[str, int]:
        """What was counted so far, by the names of `sensor.metrics`."""
        drain, told = self._drain, self._told
        counted = {
            "zeek_peers": drain.peers,
            "zeek_messages": drain.messages,
            "zeek_messages_other": told.other,
            "zeek_messages_waiting": drain.waiting,
            "zeek_messages_dropped": drain.dropped,
        }
        counted |= {f"zeek_messages_skipped.{kind}": number for kind, number in told.skipped.copy().items()}
        return counted | {f"rows_skipped.{kind}": number for kind, number in told.counts.copy().items()}


def _reader(road: Road, told: Told, serialiser: str) -> Reader:
    if road == "zeromq-log":
        return BatchesReader(told)
    if road == "zeromq-writer":
        return LinesReader(told)
    if serialiser not in SERIALISERS:
        raise ZeekRefused(f"zeek.serialiser is {serialiser!r}: Zeek knows {' and '.join(SERIALISERS)}")
    return EventReader(told, serialiser)


def _open(
    context: zmq.Context[zmq.Socket[bytes]], road: Road, address: str, topic: str, curve: Curve | None
) -> zmq.Socket[bytes]:
    """The road's socket, connected or bound."""
    socket = context.socket(zmq.PULL if road == "zeromq-log" else zmq.SUB)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RCVHWM, 0)  # with a mark, a sensor that hangs would stop Zeek's bus
    socket.setsockopt(zmq.MAXMSGSIZE, PART_LIMIT)
    socket.setsockopt(zmq.IPV6, 1)  # as Zeek's own sockets; IPv4 addresses go on working
    socket.setsockopt(zmq.HEARTBEAT_IVL, 10_000)  # a host that vanished is noticed, and connected to anew
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 30_000)
    if curve is not None:
        if road != "zeromq":
            raise ZeekRefused(f"zeek.road = {road!r} knows no CURVE: leave its keys out, or use the road 'zeromq'")
        socket.setsockopt(zmq.CURVE_SERVERKEY, curve.server)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, curve.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, curve.secret)
    watch(socket)
    try:
        if road == "zeromq":
            socket.setsockopt(zmq.SUBSCRIBE, topic.encode())
            socket.connect(address)
        else:
            if road == "zeromq-writer":
                socket.setsockopt(zmq.SUBSCRIBE, b"")
            socket.bind(address)
    except zmq.ZMQError as error:
        raise ZeekRefused(f"zeek.address = {address!r} cannot be used: {error.strerror}") from error
    return socket
