"""Alerts on Zeek's bus: real ZeroMQ sockets stand where Zeek's proxy would, come late, go away, refuse and flood."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
import zmq
from test_sinks import ALERT
from zeek_frames import event as read

from sensor.schema import Alert
from sensor.service_outlet import Opened, Outlet
from sensor.sinks import notice
from sensor.sinks.lines import NeverTaken, SinkFailed
from sensor.sinks.zeek import MOST_AT_ONCE, SEND_QUEUE, TOPIC, CurveKeys, ZeekAlerts
from sensor.sinks.zeek_event import Serialiser

WAIT_S = 10.0
DEGRADED = msgspec.structs.replace(
    ALERT, signature="NetSeq::Sensor_Degraded", src="", dest="", src_port=0, dest_port=0, transport="", uid=None
)


class Proxy:
    """The socket of Zeek's proxy to which publishers connect (XSUB), with a key pair of its own when `secret` is given."""

    def __init__(self, address: str = "tcp://127.0.0.1:*", secret: bytes | None = None) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self._context.socket(zmq.XSUB)
        self.socket.setsockopt(zmq.SNDHWM, 0)  # what a flood cannot send would be thrown away here
        if secret is not None:
            self.socket.setsockopt(zmq.CURVE_SERVER, 1)
            self.socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
        self.socket.bind(address)
        self.address = self.socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def subscribe(self, topic: bytes = TOPIC) -> None:
        self.socket.send(b"\x01" + topic)

    def unsubscribe(self, topic: bytes = TOPIC) -> None:
        self.socket.send(b"\x00" + topic)

    def receive(self) -> list[bytes]:
        """The next message, as its parts."""
        assert self.socket.poll(round(WAIT_S * 1000)), "nothing came"
        return self.socket.recv_multipart()

    def end(self) -> None:
        """Be gone at once, as a process that was killed."""
        self._context.destroy(linger=0)

    def until(self, condition: Callable[[], object]) -> None:
        """Wait until it holds. ZeroMQ's sockets work only while somebody asks them, so this one is asked meanwhile."""
        end_s = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < end_s, "it never came to hold"
            self.socket.poll(5)


def sink_to(address: str, serialiser: Serialiser = "broker-bin-v1", curve: CurveKeys | None = None) -> ZeekAlerts:
    return ZeekAlerts(address, sensor="wall-3", process=77, serialiser=lambda: serialiser, curve=curve)


def attended(sink: ZeekAlerts) -> ZeekAlerts:
    sink.attend()
    return sink


def subscribed(sink: ZeekAlerts) -> bool:
    return attended(sink).subscribed


def why(sink: ZeekAlerts) -> str:
    """What is said of an alert that cannot be sent; "" when it was."""
    try:
        sink.write([ALERT])
    except SinkFailed as failed:
        return str(failed)
    return ""


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    made = Proxy()
    yield made
    made.end()


@pytest.fixture
def sink(proxy: Proxy) -> Iterator[ZeekAlerts]:
    made = sink_to(proxy.address)
    yield made
    made.close()


@pytest.mark.parametrize("serialiser", ["broker-bin-v1", "broker-json-v1"])
@pytest.mark.parametrize("alert", [ALERT, DEGRADED], ids=["hosts", "no hosts"])
def test_an_alert_has_every_argument_in_zeeks_own_types(proxy: Proxy, alert: Alert, serialiser: Serialiser) -> None:
    sink = sink_to(proxy.address, serialiser)
    proxy.subscribe()
    proxy.until(lambda: subscribed(sink))
    sink.write([alert])
    topic, node, told, payload = proxy.receive()
    sink.close()
    assert (topic, node, told) == (b"netseq.alert.", b"netseq_wall-3_77", serialiser.encode())
    name, arguments = read(payload, told)
    assert name == "NetSeq::alert"
    hosts: list[tuple[str, Any]] = [("address", "0.0.0.0"), ("port", "0/?")] * 2  # noqa: S104  # nothing is bound
    if alert.src:
        hosts = [("address", "192.0.2.5"), ("port", "49152/tcp"), ("address", "198.51.100.7"), ("port", "445/tcp")]
    assert arguments == [
        ("string", alert.uid or ""),
        *hosts,
        ("string", alert.msg),
        ("string", notice.summary(alert)),
        ("real", 17.5),
        ("string", alert.signature),
        ("string", "nats"),
        ("string", "wall-3"),
        ("real", pytest.approx(1_300_475_167.096535, abs=1e-6)),
    ]


def test_nothing_is_sent_until_zeek_has_subscribed_and_the_reason_is_told(proxy: Proxy, sink: ZeekAlerts) -> None:
    proxy.until(lambda: "does not subscribe to netseq.alert.; is the package netseq loaded" in why(sink))
    proxy.subscribe()
    proxy.until(lambda: not why(sink))
    assert len(proxy.receive()) == 4
    assert not proxy.socket.poll(50), "an alert that was told to be unsent was sent all the same"


def test_where_nobody_listens_the_reason_is_that() -> None:
    proxy = Proxy()
    proxy.end()
    sink = sink_to(proxy.address)
    assert f"to Zeek at {proxy.address}: nobody listens there; is Zeek running" in why(sink)
    sink.close()


@pytest.mark.parametrize(
    ("topic", "listens"),
    [
        *((b"netseq.alert.", True), (b"netseq.alert", True)),
        *((b"", False), (b"n", False), (b"netseq.", False), (b"netseq.alerts", False), (b"netseq.alert.x", False)),
        *((b"netseq.conn.", False), (b"zeek.cluster.manager", False), (b"\xff\x00", False)),
    ],
)
def test_only_a_subscription_to_the_topic_itself_is_zeeks(
    proxy: Proxy, sink: ZeekAlerts, topic: bytes, *, listens: bool
) -> None:
    proxy.subscribe(topic)
    proxy.subscribe(b"last")  # subscriptions keep their order, so what came before it was read with it
    proxy.until(lambda: attended(sink).subscriptions == 2)
    assert sink.subscribed == listens


def test_alerts_wait_again_when_zeek_takes_its_subscription_back(proxy: Proxy, sink: ZeekAlerts) -> None:
    proxy.subscribe()
    proxy.until(lambda: subscribed(sink))
    proxy.unsubscribe()
    proxy.until(lambda: not subscribed(sink))
    assert "does not subscribe" in why(sink)


def test_an_outage_loses_nothing_and_the_queues_end_is_counted() -> None:
    said: list[tuple[str, str]] = []
    proxy = Proxy()
    address = proxy.address
    outlet = Outlet(
        "zeek",
        lambda: Opened(sink_to(address)),
        waiting=5,
        tell=lambda event, line: said.append((event, line)),
    )
    clock_s = itertools.count(1, 2).__next__  # each look is two seconds after the one before: every one tries

    def waiting() -> int:
        outlet.work(clock_s())
        return outlet.waiting

    numbers = [msgspec.structs.replace(ALERT, count=number) for number in range(12)]
    outlet.open()
    proxy.subscribe()
    outlet.take(numbers[:2])
    proxy.until(lambda: not waiting())
    assert [proxy.receive()[0] for _ in range(2)] == [TOPIC] * 2
    said.clear()
    proxy.end()
    end_s = time.monotonic() + WAIT_S
    outlet.take(numbers[2:3])
    while not said:  # the end of a connection shows when the kernel has told of it
        assert time.monotonic() < end_s
        if not waiting():
            outlet.take(numbers[2:3])
    outlet.take(numbers[3:])
    assert (waiting(), outlet.lost) == (5, 5)
    assert said[0][0] == "alerts_wait"
    assert "nobody listens there" in said[0][1]
    proxy = Proxy(address)
    proxy.subscribe()
    proxy.until(lambda: not waiting())
    flows = [read(proxy.receive()[3], b"broker-bin-v1")[1][6][1] for _ in range(5)]
    assert flows == [notice.summary(alert) for alert in numbers[2:7]]
    assert said[-1] == ("alerts_written_again", "zeek: alerts are written again")
    outlet.close()
    proxy.end()


def test_a_zeek_that_does_not_read_makes_alerts_wait_and_gets_all_that_was_taken(sink: ZeekAlerts, proxy: Proxy) -> None:
    proxy.subscribe()
    proxy.until(lambda: subscribed(sink))
    long = msgspec.structs.replace(ALERT, msg="x" * 20_000)
    taken = 0

    def write_on() -> None:
        nonlocal taken
        while taken < 10 * SEND_QUEUE:
            sink.write([long])
            taken += 1

    with pytest.raises(SinkFailed, match="it does not take what it has subscribed to"):
        write_on()
    assert taken >= SEND_QUEUE
    for _ in range(taken):
        assert len(proxy.receive()) == 4
    assert not proxy.socket.poll(50)
    proxy.until(lambda: not why(sink))


def test_messages_that_are_no_subscriptions_are_counted_and_do_no_harm(proxy: Proxy, sink: ZeekAlerts) -> None:
    proxy.subscribe()
    proxy.until(lambda: subscribed(sink))
    for rubbish in (b"\x02", b"\xff" * 1000, b"netseq.alert.", b"x"):
        proxy.socket.send(rubbish)
    proxy.until(lambda: attended(sink).frames_skipped == 4)
    assert why(sink) == ""


def test_a_message_longer_than_any_topic_ends_the_connection_and_it_comes_back(proxy: Proxy, sink: ZeekAlerts) -> None:
    proxy.subscribe()
    proxy.until(lambda: subscribed(sink))
    proxy.socket.send(b"\x02" * (1 << 20))
    proxy.until(lambda: not subscribed(sink))
    proxy.until(lambda: subscribed(sink))
    assert sink.frames_skipped == 0


def test_a_flood_of_subscriptions_ends_the_connection_and_costs_no_memory(proxy: Proxy, sink: ZeekAlerts) -> None:
    proxy.until(lambda: "does not subscribe" in why(sink))
    for number in range(2 * MOST_AT_ONCE + 10):
        proxy.subscribe(b"%d" % number)
    proxy.until(lambda: "it sends more subscriptions than any Zeek has; the connection was ended" in why(sink))
    assert sink.floods == 1
    for number in range(2 * MOST_AT_ONCE + 10):
        proxy.unsubscribe(b"%d" % number)
    proxy.subscribe()
    proxy.until(lambda: not why(sink))


def test_the_port_for_subscribers_is_told_from_the_one_for_publishers() -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    wrong = context.socket(zmq.XPUB)
    wrong.bind("tcp://127.0.0.1:*")
    sink = sink_to(wrong.getsockopt_string(zmq.LAST_ENDPOINT))
    end_s = time.monotonic() + WAIT_S
    while "is this the port for publishers (5556, under zeekctl 27761)" not in why(sink):
        assert time.monotonic() < end_s
        wrong.poll(5)
    sink.close()
    context.destroy(linger=0)


def test_an_encrypted_bus_takes_alerts_with_its_keys_and_refuses_others() -> None:
    server, secret = zmq.curve_keypair()
    public, own = zmq.curve_keypair()
    proxy = Proxy(secret=secret)
    proxy.subscribe()
    with_keys = sink_to(proxy.address, curve=CurveKeys(server, public, own))
    proxy.until(lambda: not why(with_keys))
    assert proxy.receive()[0] == TOPIC
    for curve in (None, CurveKeys(public, public, own)):
        without = sink_to(proxy.address, curve=curve)
        proxy.until(lambda sink=without: "CURVE keys Zeek's?" in why(sink))  # type: ignore[misc]  # a default that binds it now
        without.close()
    with_keys.close()
    proxy.end()


@pytest.mark.parametrize("address", ["", "127.0.0.1:5556", "tcp://127.0.0.1", "udp://127.0.0.1:1", "tcp://127.0.0.1:x"])
def test_an_address_that_is_none_is_one_clear_line(address: str) -> None:
    with pytest.raises(
        SinkFailed, match=r"cannot send alerts to Zeek at .*expected an address such as tcp://127\.0\.0\.1:5556"
    ):
        sink_to(address)


def test_keys_of_a_wrong_length_are_one_clear_line_without_the_secret() -> None:
    with pytest.raises(SinkFailed, match=r"CURVE keys of 40 characters") as told:
        sink_to("tcp://127.0.0.1:5556", curve=CurveKeys(b"short", b"short", b"confidential"))
    assert "confidential" not in str(told.value)


def test_an_alert_without_an_address_is_refused_for_good_and_the_next_is_sent(proxy: Proxy, sink: ZeekAlerts) -> None:
    proxy.subscribe()
    proxy.until(lambda: subscribed(sink))
    with pytest.raises(NeverTaken, match="not an IP address: 'printer'"):
        sink.write([msgspec.structs.replace(ALERT, dest="printer")])
    sink.write([ALERT])
    assert proxy.receive()[0] == TOPIC


def test_the_format_is_asked_for_with_each_alert(proxy: Proxy) -> None:
    formats: Iterator[Serialiser] = iter(("broker-bin-v1", "broker-json-v1"))
    sink = ZeekAlerts(proxy.address, sensor="x", process=1, serialiser=formats.__next__)
    proxy.subscribe()
    proxy.until(lambda: subscribed(sink))
    sink.write([ALERT, ALERT])
    assert [proxy.receive()[2] for _ in range(2)] == [b"broker-bin-v1", b"broker-json-v1"]
    sink.close()


def test_closing_sends_what_is_still_in_the_socket(proxy: Proxy, sink: ZeekAlerts) -> None:
    proxy.subscribe()
    proxy.until(lambda: subscribed(sink))
    sink.write([ALERT] * 100)
    sink.close()
    assert sum(1 for _ in range(100) if proxy.receive()) == 100
