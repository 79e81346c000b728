"""Alerts into a running Zeek: each is published as the event NetSeq::alert on its ZeroMQ bus, and Zeek raises a notice.

The publisher filters by subscription, so what is sent before Zeek's has arrived, or after it went, is thrown away without a
word. Therefore an alert is sent only while Zeek's subscription is there; else SinkFailed says why not, and the outlet keeps the
alert and tries again. A socket keeps the subscriptions of a connection that ended for a while (and for ever without
ZMQ_IMMEDIATE), so a monitor tells of the end, and a new socket takes over. The monitor also tells the reasons apart: nobody
listens, the handshake fails, or Zeek is there without the package.
The service's outlet calls `write`, and `attend` every second, from one thread at a time, as ZeroMQ asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import zmq
from zmq.utils.monitor import recv_monitor_message

from sensor.schema import Alert
from sensor.sinks.lines import NeverTaken, SinkFailed
from sensor.sinks.notice import summary
from sensor.sinks.zeek_event import Address, Port, Real, Serialiser, Text, Value, event

TOPIC = b"netseq.alert."
"""Topics match by prefix: the dot keeps netseq.alerts and others of that beginning apart (NetSeq::alert_topic)."""
EVENT = "NetSeq::alert"

SEND_QUEUE = 1000
"""Events that wait in the socket while Zeek's proxy is slow; ZeroMQ's default, and Zeek's."""
SUBSCRIPTION_BYTES = 1 << 16
"""The longest message that a peer may send: Zeek's topics have a hundred bytes or so."""
MOST_AT_ONCE, MOST_SUBSCRIPTIONS = 10_000, 10_000
"""Messages read in one go, and subscriptions held. A cluster of hundreds of nodes has some thousand; each costs memory."""
HEARTBEAT_MS, SILENCE_MS = 5_000, 15_000
"""A host that lost its power says no goodbye: so often it is asked, and after so long it is taken for gone."""
RECONNECT_MS, RECONNECT_MOST_MS = 100, 2_000
"""First and longest pause between two tries to connect."""
LINGER_MS = 1_000
"""How long an end waits for what is still in the socket."""

FAILED = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
WATCHED = zmq.EVENT_CONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | FAILED
"""Few events: nobody reads them while the sensor has nothing to do, and they wait in a queue that holds 1,000."""


class CurveKeys(NamedTuple):
    """Keys of an encrypted bus, in Z85 (40 characters each): Zeek's server key, and the pair that all its clients share."""

    server: bytes
    public: bytes
    secret: bytes


class ZeekAlerts:
    """Publishes alerts to the Zeek whose proxy takes publishers (its XSUB) at `address`.

    `sensor` is the name of this sensor, `process` a number that tells it from another of that name; `serialiser` gives the
    format that Zeek uses, each time anew. Raises SinkFailed for an address or keys that ZeroMQ refuses.
    """

    def __init__(
        self, address: str, *, sensor: str, process: int, serialiser: Callable[[], Serialiser], curve: CurveKeys | None = None
    ) -> None:
        self._address = address
        self._sensor = sensor
        self._node = f"netseq_{sensor}_{process}".encode("utf-8", "replace")  # Zeek drops what bears its own id
        self._serialiser = serialiser
        self._curve = curve
        self._topics: set[bytes] = set()
        self._state = "away"
        self._over = False
        """The connection was refused: ZeroMQ itself may try no more."""
        self.subscriptions = 0
        """Topics that anybody on the bus has subscribed to now."""
        self.frames_skipped = 0
        """Messages from the bus that were no subscription to anything."""
        self.floods = 0
        """Times that the connection was given up because more subscriptions came than any Zeek has."""
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._open()

    @property
    def subscribed(self) -> bool:
        """Whether Zeek listens, as far as was read from the socket."""
        return bool(self._topics)

    def write(self, alerts: Iterable[Alert]) -> None:
        """Send the alerts in order. Raises SinkFailed when Zeek does not listen; that alert and the rest are not sent.

        Raises NeverTaken for an alert with hosts that are no addresses. An alert whose sending met the end of Zeek's
        subscription counts as not sent. It may then come twice, and Zeek suppresses the second.
        """
        for alert in alerts:
            self.attend()
            self._check()
            serialiser = self._serialiser()
            try:
                payload = event(EVENT, arguments(alert, self._sensor), serialiser)
            except ValueError as error:
                raise NeverTaken(f"cannot send an alert to Zeek: {error}") from error
            try:
                self._socket.send_multipart((TOPIC, self._node, serialiser.encode(), payload), zmq.NOBLOCK)
            except zmq.Again as error:
                raise SinkFailed(
                    f"cannot send alerts to Zeek at {self._address}: it does not take what it has subscribed to"
                ) from error
            self.attend()
            self._check()

    def attend(self) -> None:
        """Read what subscriptions came and went. Raises SinkFailed when there are more than any Zeek has."""
        if self._context is None:
            self._open()
        self._watch()
        if self._over:
            self._end(linger_ms=0)
            self._open()
            self._state = "refused"  # until another answer comes
        for _ in range(MOST_AT_ONCE):
            try:
                frame = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                break
            self._take(frame)
        else:
            self._give_up()
        if self.subscriptions > MOST_SUBSCRIPTIONS:
            self._give_up()

    def close(self) -> None:
        """End the connection; what Zeek has not taken within a second is left out."""
        self._end(linger_ms=LINGER_MS)

    def _end(self, *, linger_ms: int) -> None:
        """Close the socket, and forget what was known of its connection."""
        if self._context is not None:
            self._socket.disable_monitor()
            self._monitor.close(linger=0)
            self._socket.close(linger=linger_ms)
            self._context.term()
            self._context = None
        self._topics.clear()
        self.subscriptions = 0
        self._state = "away"
        self._over = False

    def _open(self) -> None:
        """Begin to connect, which goes on in the background."""
        self._context = zmq.Context()
        self._socket = socket = self._context.socket(zmq.XPUB)
        self._monitor = socket.get_monitor_socket(WATCHED)
        try:
            socket.setsockopt(zmq.IMMEDIATE, 1)
            socket.setsockopt(zmq.XPUB_NODROP, 1)
            socket.setsockopt(zmq.SNDHWM, SEND_QUEUE)
            socket.setsockopt(zmq.MAXMSGSIZE, SUBSCRIPTION_BYTES)
            socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
            socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, SILENCE_MS)
            socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
            socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MOST_MS)
            socket.setsockopt(zmq.IPV6, 1)
            if self._curve is not None:
                socket.setsockopt(zmq.CURVE_SERVERKEY, self._curve.server)
                socket.setsockopt(zmq.CURVE_PUBLICKEY, self._curve.public)
                socket.setsockopt(zmq.CURVE_SECRETKEY, self._curve.secret)
            socket.connect(self._address)
        except zmq.ZMQError as error:
            self._end(linger_ms=0)
            raise SinkFailed(
                f"cannot send alerts to Zeek at {self._address!r}: {zmq.strerror(error.errno or 0)}; expected an address such "
                "as tcp://127.0.0.1:5556, and CURVE keys of 40 characters (Z85)"
            ) from error

    def _take(self, frame: bytes) -> None:
        """Keep a subscription to our topic, forget one that ended, count anything else.

        Zeek subscribes to the topic as it is named, or without its last dot. A shorter prefix, such as everything, is somebody
        who listens to the bus, and no reason to take an alert for delivered.
        """
        if frame[:1] not in {b"\x00", b"\x01"}:
            self.frames_skipped += 1
            return
        begins, topic = frame[0] == 1, frame[1:]
        self.subscriptions = max(self.subscriptions + (1 if begins else -1), 0)
        if topic not in {TOPIC, TOPIC.removesuffix(b".")}:
            return
        if begins:
            self._topics.add(topic)
        else:
            self._topics.discard(topic)

    def _watch(self) -> None:
        """Follow the connection's fate, for the message when Zeek does not listen."""
        while True:
            try:
                what = recv_monitor_message(self._monitor, zmq.NOBLOCK)["event"]
            except zmq.Again:
                return
            if what == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._state = "there"
            elif what == zmq.EVENT_CONNECTED and self._state == "away":
                self._state = "greeting"
            elif what & FAILED or self._state == "greeting":  # of a wrong kind of socket no more is told than its end
                self._state = "refused"
            elif what == zmq.EVENT_DISCONNECTED and self._state == "there":
                self._end(linger_ms=0)
                self._open()
            elif what == zmq.EVENT_DISCONNECTED:
                self._over = True

    def _check(self) -> None:
        """Raise SinkFailed, with the reason, unless Zeek listens."""
        if self._topics:
            return
        reasons = {
            "away": "nobody listens there; is Zeek running, with its ZeroMQ backend?",
            "greeting": "it has not answered yet",
            "there": f"it does not subscribe to {TOPIC.decode()}; is the package netseq loaded there?",
            "refused": "it refuses the connection; is this the port for publishers (5556, under zeekctl 27761), and are the "
            "CURVE keys Zeek's?",
        }
        raise SinkFailed(f"cannot send alerts to Zeek at {self._address}: {reasons[self._state]}")

    def _give_up(self) -> None:
        """End a connection that would cost ever more memory; the next call begins a new one."""
        self.floods += 1
        self._end(linger_ms=0)
        raise SinkFailed(
            f"cannot send alerts to Zeek at {self._address}: it sends more subscriptions than any Zeek has; the connection was "
            "ended"
        )


def arguments(alert: Alert, sensor: str) -> tuple[Value, ...]:
    """Give an alert the order of NetSeq::alert's arguments (plugins/zeek/scripts/alerts.zeek)."""
    transport = alert.transport if alert.src else ""
    return (
        Text(alert.uid or ""),
        Address(alert.src or "0.0.0.0"),  # noqa: S104  # an alert about the sensor itself has no hosts; nothing is bound
        Port(alert.src_port, transport),
        Address(alert.dest or "0.0.0.0"),  # noqa: S104
        Port(alert.dest_port, transport),
        Text(alert.msg),
        Text(summary(alert)),
        Real(alert.score),
        Text(alert.signature),
        Text(alert.measure),
        Text(sensor),
        Real(alert.ts_us / 1e6),
    )
