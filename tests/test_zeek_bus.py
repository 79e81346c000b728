"""Alerts through a whole bus of Zeek's: proxy, node, the keys of all clients, and a Zeek that ends and starts again."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import msgspec
import pytest
from test_sinks import ALERT
from zeek_standin import Curve, Zeek, event_of, until

from sensor.schema import Alert
from sensor.service_outlet import Opened, Outlet
from sensor.sinks.lines import SinkFailed
from sensor.sinks.zeek import CurveKeys, ZeekAlerts
from sensor.sinks.zeek_event import Serialiser

ALERTS = [msgspec.structs.replace(ALERT, msg=f"alert {number}") for number in range(40)]


@pytest.fixture(params=["broker-bin-v1", "broker-json-v1"])
def zeek(request: pytest.FixtureRequest) -> Iterator[Zeek]:
    with Zeek(serialiser=request.param) as standin:
        yield standin


class Sender:
    """An outlet that sends to a Zeek, worked as its thread would, but as often as can be."""

    def __init__(self, zeek: Zeek, curve: CurveKeys | None = None) -> None:
        serialiser: Serialiser = "broker-bin-v1" if zeek.serialiser == "broker-bin-v1" else "broker-json-v1"
        self._now_s = itertools.count(1, 2).__next__

        def opened() -> Opened:
            self.sink = ZeekAlerts(zeek.xsub, sensor="wall-3", process=7, serialiser=lambda: serialiser, curve=curve)
            return Opened(self.sink, settle=self.sink.attend)

        self.said: list[str] = []
        self.outlet = Outlet("zeek", opened, waiting=100, tell=lambda event, line: self.said.append(f"{event}: {line}"))
        self.outlet.open()

    def work(self) -> bool:
        """Write what can be written; tell whether nothing waits."""
        self.outlet.work(self._now_s())
        return not self.outlet.waiting

    def listens(self) -> bool:
        self.work()
        return self.sink.subscribed

    def reason(self) -> str:
        """Why an alert cannot be written, "" if it can."""
        try:
            self.sink.write(ALERTS[:1])
        except SinkFailed as failed:
            return str(failed)
        return ""


def messages(zeek: Zeek, count: int) -> list[str]:
    """The alerts' words that reach the node."""
    told = []
    for topic, node, serialiser, payload in zeek.received(count):
        assert (topic, node, serialiser) == (b"netseq.alert.", b"netseq_wall-3_7", zeek.serialiser.encode())
        name, arguments, _ = event_of(payload, zeek.serialiser)
        assert name == "NetSeq::alert"
        assert len(arguments) == 12
        text = arguments[5]
        told.append(text.decode() if isinstance(text, bytes) else str(text))
    return told


def test_alerts_cross_the_proxy_in_order(zeek: Zeek) -> None:
    sender = Sender(zeek)
    sender.outlet.take(ALERTS)
    until(sender.work)
    assert messages(zeek, len(ALERTS)) == [alert.msg for alert in ALERTS]
    assert (sender.outlet.written, sender.outlet.lost) == (len(ALERTS), 0)
    sender.outlet.close()


def test_what_comes_while_zeek_is_away_is_sent_when_it_is_back(zeek: Zeek) -> None:
    sender = Sender(zeek)
    until(sender.listens)
    sender.outlet.take(ALERTS[:10])
    until(sender.work)
    assert messages(zeek, 10) == [alert.msg for alert in ALERTS[:10]]
    for away in (ALERTS[10:20], ALERTS[20:30]):
        zeek.leave()
        until(lambda: not sender.listens())
        sender.outlet.take(away)
        assert not sender.work()
        zeek.come_back()
        until(sender.work)
        assert messages(zeek, 10) == [alert.msg for alert in away]
    assert sum("nobody listens there" in line for line in sender.said) == 2
    assert sum("alerts are written again" in line for line in sender.said) == 2
    sender.outlet.close()


def test_a_zeek_without_the_package_is_told_from_one_that_is_away() -> None:
    with Zeek(subscribe=("zeek.cluster.worker",)) as zeek:
        sender = Sender(zeek)
        sender.outlet.take(ALERTS[:1])

        until(lambda: "is the package netseq loaded there?" in sender.reason())
        assert not sender.work()
        sender.outlet.close()
        assert sender.outlet.lost == 1


def test_somebody_who_listens_to_everything_is_not_taken_for_zeek() -> None:
    with Zeek(subscribe=("",)) as zeek:
        sender = Sender(zeek)
        until(lambda: sender.work() and sender.sink.subscriptions == 1)
        sender.outlet.take(ALERTS[:1])
        assert not sender.work()
        sender.outlet.close()


def test_of_an_encrypted_bus_the_clients_key_is_asked_for() -> None:
    curve = Curve.make()
    with Zeek(curve=curve) as zeek:
        sender = Sender(zeek, CurveKeys(curve.server_public, curve.public, curve.secret))
        sender.outlet.take(ALERTS[:3])
        until(sender.work)
        assert messages(zeek, 3) == ["alert 0", "alert 1", "alert 2"]
        sender.outlet.close()
        stranger = Curve.make()
        refused = Sender(zeek, CurveKeys(curve.server_public, stranger.public, stranger.secret))
        refused.outlet.take(ALERTS[:1])

        until(lambda: "CURVE keys Zeek's?" in refused.reason())
        refused.outlet.close()


def test_a_zeek_that_comes_back_without_keys_takes_alerts_of_a_sensor_without_keys() -> None:
    with Zeek(curve=Curve.make()) as zeek:
        sender = Sender(zeek)
        sender.outlet.take(ALERTS[:2])

        until(lambda: "CURVE keys Zeek's?" in sender.reason())
        zeek.leave()
        zeek.come_back_with(None)
        until(sender.work)
        assert messages(zeek, 2) == ["alert 0", "alert 1"]
        sender.outlet.close()


def test_an_alert_of_many_bytes_arrives_whole() -> None:
    long: Alert = msgspec.structs.replace(ALERT, msg="é" * 1_000_000, uid="\udcff\udcfe")
    with Zeek() as zeek:
        sender = Sender(zeek)
        sender.outlet.take([long])
        until(sender.work)
        assert messages(zeek, 1) == [long.msg]
        sender.outlet.close()
