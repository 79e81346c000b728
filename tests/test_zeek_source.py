"""Connections from a stand-in for Zeek over real ZeroMQ sockets: nothing that was sent is lost, and Zeek is never held up."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq
from zeek_standin import BINARY, Count, Curve, Enum, Port, Zeek, event, golden, until

from sensor import metrics
from sensor.schema import FlowBatch
from sensor.sources.zeek import ConnLogSource
from sensor.sources.zeek_source import Curve as Keys
from sensor.sources.zeek_source import Road, ZeekRefused, ZeekSource, read_curve

TOPIC = "netseq.conn."


def conn(number: int, uid: str | None = None) -> bytes:
    """The event of a connection that is told by its number."""
    hosts = [IPv4Address(0x0A000000 + number % 1000), Port(4000), IPv4Address("10.9.9.9"), Port(80)]
    values: list[Any] = [1.5e9 + number, uid or f"C{number}", *hosts, Enum("tcp"), Count(6), "SF"]
    return event("NetSeq::conn", [values])


@contextmanager
def listening(road: Road = "zeromq", **settings: Any) -> Iterator[tuple[ZeekSource, list[tuple[str, str]]]]:
    told: list[tuple[str, str]] = []
    source = ZeekSource(road, tell=lambda name, line: told.append((name, line)), **settings)
    try:
        yield source, told
    finally:
        source.close()


def take(source: ZeekSource, flows: int) -> tuple[list[str | None], list[FlowBatch]]:
    """The uids of so many flows, as they come."""
    uids: list[str | None] = []
    batches = []
    for batch in source:
        batches.append(batch)
        uids += batch.uids or []
        if len(uids) >= flows:
            break
        assert len(batches) < 10_000, f"{len(uids)} of {flows} flows came"
    return uids, batches


def logged(shared_data: Path, folder: str) -> dict[str | None, bytes]:
    rows: dict[str | None, bytes] = {}
    for batch in ConnLogSource([shared_data / "golden/zeek-zeromq" / folder / "conn.log"]):
        rows |= {uid: row.tobytes() for uid, row in zip(batch.uids or [], batch.flows, strict=True)}
    return rows


@contextmanager
def sender(kind: int, address: str) -> Iterator[zmq.Socket[bytes]]:
    """A socket of Zeek's on the roads where it connects to the sensor."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(kind)
    try:
        socket.connect(address)
        yield socket
    finally:
        context.destroy(linger=0)


@pytest.mark.parametrize(
    ("road", "kind", "folder"),
    [("zeromq-log", zmq.PUSH, "logs-zeek-bin-serializer"), ("zeromq-writer", zmq.XPUB, "ncsa-zeromqwriter")],
)
def test_what_zeek_sends_to_a_bound_socket_gives_the_rows_of_its_conn_log(
    shared_data: Path, road: Road, kind: int, folder: str
) -> None:
    messages = golden(folder)
    with listening(road, address="tcp://127.0.0.1:*") as (source, told), sender(kind, source.address) as zeek:
        if kind == zmq.XPUB:
            assert zeek.recv() == b"\x01"  # the subscription has come: nothing is lost
        for parts in messages:
            zeek.send_multipart(parts)
        uids, batches = take(source, 34)
        until(lambda: source.counters()["zeek_messages"] == len(messages))
        rows = {uid: row.tobytes() for uid, row in zip(uids, np.concatenate([one.flows for one in batches]), strict=True)}
        assert rows == logged(shared_data, folder)
        assert [name for name, _ in told] == ["zeek_up"]


def test_events_come_over_the_bus_with_the_rows_of_conn_log(shared_data: Path) -> None:
    with Zeek() as zeek, listening(address=zeek.xpub, topic="netseq.conn") as (source, _):
        zeek.await_subscription("netseq.conn")
        zeek.play(golden("events-bin-cluster"))
        uids, batches = take(source, 23)
        truth = logged(shared_data, "events-bin-cluster")
        for uid, row in zip(uids, np.concatenate([one.flows for one in batches]), strict=True):
            assert row.tobytes() == truth[uid]
        assert source.serialiser == BINARY
        assert source.flows == 23


def test_an_outage_of_zeek_loses_none_that_it_sent() -> None:
    with Zeek() as zeek, listening(address=zeek.xpub) as (source, told):
        zeek.await_subscription(TOPIC)
        for number in range(3000):
            zeek.publish(TOPIC, conn(number))
        until(lambda: source.counters()["zeek_messages"] == 3000)
        zeek.leave()
        until(lambda: source.counters()["zeek_peers"] == 0)
        zeek.come_back()
        zeek.await_subscription(TOPIC)
        for number in range(3000, 6000):
            zeek.publish(TOPIC, conn(number))
        uids, _ = take(source, 6000)
        assert uids == [f"C{number}" for number in range(6000)]
        assert [name for name, _ in told] == ["zeek_up", "zeek_away", "zeek_up"]
        lost = list(metrics.losses(source.counters()))
        assert not lost


def test_a_zeek_that_starts_after_the_sensor_is_heard() -> None:
    with Zeek() as zeek:
        zeek.leave()
        with listening(address=zeek.xpub) as (source, _):
            assert len(next(iter(source)).flows) == 0
            zeek.come_back()
            zeek.await_subscription(TOPIC)
            zeek.publish(TOPIC, conn(7))
            assert take(source, 1)[0] == ["C7"]


def test_a_consumer_that_stands_still_fills_its_own_queue_and_never_zeeks() -> None:
    events = 30_000
    with Zeek(subscribe=("netseq.other.",)) as zeek, listening(address=zeek.xpub, queue_bytes=1 << 20) as (source, told):
        zeek.await_subscription(TOPIC)
        for number in range(events):
            zeek.publish(TOPIC, conn(number))
        zeek.publish("netseq.other.", b"the bus goes on")
        assert zeek.received(1)[0][3] == b"the bus goes on"
        until(lambda: source.counters()["zeek_messages"] == events)
        counted = source.counters()
        assert counted["zeek_messages_waiting"] + counted["zeek_messages_dropped"] == events
        assert 0 < counted["zeek_messages_waiting"] < (1 << 20) / 400
        assert [name for name, _ in told] == ["zeek_up", "zeek_dropped"]
        uids, _ = take(source, counted["zeek_messages_waiting"])
        assert uids == [f"C{number}" for number in range(len(uids))]  # the first that came, in order
        zeek.publish(TOPIC, conn(events))
        assert take(source, 1)[0] == [f"C{events}"]


def test_what_has_come_is_yielded_after_a_stop() -> None:
    with Zeek() as zeek, listening(address=zeek.xpub) as (source, _):
        zeek.await_subscription(TOPIC)
        for number in range(100):
            zeek.publish(TOPIC, conn(number))
        until(lambda: source.counters()["zeek_messages"] == 100)
        source.stop()
        assert sum(len(batch.flows) for batch in source) == 100


def test_an_event_is_handed_on_while_nothing_follows_it() -> None:
    with Zeek() as zeek, listening(address=zeek.xpub) as (source, _):
        zeek.await_subscription(TOPIC)
        batches = iter(source)
        assert not len(next(batches).flows)
        timer = threading.Timer(0.05, zeek.publish, (TOPIC, conn(1)))
        timer.start()
        assert any(len(batch.flows) for batch, _ in zip(batches, range(100), strict=False))
        timer.join()


def test_hostile_messages_on_the_bus_cost_no_neighbour_and_are_counted() -> None:
    with Zeek() as zeek, listening(address=zeek.xpub) as (source, told):
        zeek.await_subscription(TOPIC)
        good = [TOPIC.encode(), b"node", BINARY.encode(), conn(1)]
        zeek.publish_parts(good[:3])
        zeek.publish_parts([*good, b"five"])
        zeek.publish(TOPIC, conn(2, "C" * 2_000_000))
        zeek.publish(TOPIC, conn(3)[:-5])
        zeek.publish(TOPIC, conn(4), "broker-json-v1")
        zeek.publish(TOPIC + "more", event("NetSeq::other", []))
        zeek.publish_parts(good)
        assert take(source, 1)[0] == ["C1"]
        counted = source.counters()
        skipped = {name: number for name, number in counted.items() if name.startswith("zeek_messages_skipped")}
        assert skipped == {
            "zeek_messages_skipped.parts": 2, "zeek_messages_skipped.oversized": 1, "zeek_messages_skipped.truncated": 1,
            "zeek_messages_skipped.serialiser": 1,
        }  # fmt: skip
        assert counted["zeek_messages_other"] == 1
        assert all(metrics.split(name) for name in counted)
        assert len([name for name, _ in told if name == "zeek_message_skipped"]) == 5


def test_an_encrypted_bus_lets_in_who_has_the_keys() -> None:
    curve = Curve.make()
    keys = Keys(curve.server_public, curve.public, curve.secret)
    with Zeek(curve=curve) as zeek, listening(address=zeek.xpub, curve=keys) as (source, _):
        zeek.await_subscription(TOPIC)
        zeek.publish(TOPIC, conn(1))
        assert take(source, 1)[0] == ["C1"]


@pytest.mark.parametrize("of", ["the client", "the server"])
def test_an_encrypted_bus_refuses_other_keys_and_that_is_told_once(of: str) -> None:
    curve, other = Curve.make(), Curve.make()
    wrong = Keys(curve.server_public, other.public, other.secret)
    if of == "the server":  # here every further try is made and refused, some times a second
        wrong = Keys(other.server_public, curve.public, curve.secret)
    with Zeek(curve=curve) as zeek, listening(address=zeek.xpub, curve=wrong) as (source, told):
        until(lambda: bool(told))
        for _, batch in zip(range(12), source, strict=False):
            assert not len(batch.flows)
            assert source.counters()["zeek_peers"] == 0
        assert [name for name, _ in told] == ["zeek_refused"]
        assert "CURVE" in told[0][1]


@pytest.mark.parametrize("keyless", ["the sensor", "neither"])
def test_a_zeek_that_comes_back_with_the_sensors_keys_is_heard(keyless: str) -> None:
    curve, other = Curve.make(), Curve.make()
    keys = None if keyless == "the sensor" else Keys(curve.server_public, other.public, other.secret)
    with Zeek(curve=curve) as zeek, listening(address=zeek.xpub, curve=keys) as (source, told):
        until(lambda: bool(told))
        zeek.leave()
        zeek.come_back_with(
            None if keys is None else Curve(curve.server_public, curve.server_secret, other.public, other.secret)
        )
        zeek.await_subscription(TOPIC)
        zeek.publish(TOPIC, conn(1))
        assert take(source, 1)[0] == ["C1"]
        assert [name for name, _ in told] == ["zeek_refused", "zeek_up"]


def test_who_does_not_agree_is_no_peer_and_costs_none_that_does() -> None:
    with listening("zeromq-writer", address="tcp://127.0.0.1:*") as (source, told):
        place = ("127.0.0.1", int(source.address.rpartition(":")[2]))
        with socket.create_connection(place), sender(zmq.PUB, source.address):  # the stranger came first
            until(lambda: source.counters()["zeek_peers"] == 1)
        until(lambda: source.counters()["zeek_peers"] == 0)
        with sender(zmq.PUB, source.address):
            until(lambda: source.counters()["zeek_peers"] == 1)
            with sender(zmq.PULL, source.address), socket.create_connection(place) as stranger:
                stranger.sendall(b"GET / HTTP/1.0\r\n\r\n" * 10)
            until(lambda: [name for name, _ in told].count("zeek_refused") == 2)
            assert source.counters()["zeek_peers"] == 1
        until(lambda: source.counters()["zeek_peers"] == 0)
        assert [name for name, _ in told if name != "zeek_refused"] == ["zeek_up", "zeek_away", "zeek_up", "zeek_away"]


def test_keys_are_read_from_files_and_what_is_none_is_refused(tmp_path: Path) -> None:
    public, secret = zmq.curve_keypair()
    good, bad, cut = (tmp_path / name for name in ("good", "bad", "cut"))
    good.write_bytes(public + b"\n")
    bad.write_bytes(b"\xff" * 40)
    cut.write_bytes(secret[:-1])
    assert read_curve("", "", "") is None
    assert read_curve(str(good), str(good), str(good)) == Keys(public, public, public)
    for file in (bad, cut, tmp_path / "absent", tmp_path):
        with pytest.raises(ZeekRefused, match=r"zeek\.curve_public_key: "):
            read_curve(str(good), str(file), str(good))
    with pytest.raises(ZeekRefused, match="curve_secret_key is not set"):
        read_curve(str(good), str(good), "")


def test_an_address_that_is_none_or_taken_is_refused_in_one_line() -> None:
    with listening("zeromq-log", address="tcp://127.0.0.1:*") as (source, _):
        cases: list[tuple[Road, str]] = [
            ("zeromq", "nowhere"), ("zeromq-writer", source.address), ("zeromq-log", "tcp://:x"),
        ]  # fmt: skip
        for road, address in cases:
            with pytest.raises(ZeekRefused, match=r"zeek\.address") as refused, listening(road, address=address):
                pass
            assert "\n" not in str(refused.value)
    with pytest.raises(ZeekRefused, match="knows no CURVE"), listening("zeromq-log", curve=Keys(b"", b"", b"")):
        pass
    with pytest.raises(ZeekRefused, match="broker-bin-v1 and broker-json-v1"), listening(serialiser="broker-bin-v2"):
        pass
