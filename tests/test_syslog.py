"""Alerts as syslog, to real sockets on the loopback, read by a reader of RFC 5424 and RFC 6587 of the tests' own."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_service_outlets import Told, alerts, scores, until
from test_sinks import ALERT

from sensor import config
from sensor.service_outlets import Outlets, from_settings
from sensor.sinks import syslog_roads
from sensor.sinks.lines import NeverTaken, SinkFailed
from sensor.sinks.syslog import FACILITIES, Syslog

HEADER = re.compile(
    r"<(?P<priority>\d{1,3})>1 (?P<time>-|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{1,6}Z) (?P<host>[!-~]{1,255}) (?P<app>[!-~]{1,48})"
    r" (?P<process>[!-~]{1,128}) (?P<message>[!-~]{1,32}) (?P<data>-|\[.+?\]) (?P<text>.*)",
    re.DOTALL,
)
"""RFC 5424, section 6."""


def read(message: bytes) -> tuple[dict[str, str], dict[str, Any]]:
    """A message's header and the alert in it."""
    found = HEADER.fullmatch(message.decode())
    assert found, message
    return found.groupdict(), json.loads(found["text"])


def unframed(stream: bytes) -> list[bytes]:
    """The whole messages of a stream with octet counting."""
    messages = []
    while found := re.match(rb"([1-9]\d*) ", stream):
        end = found.end() + int(found[1])
        if end > len(stream):
            break
        messages.append(stream[found.end() : end])
        stream = stream[end:]
    assert not stream or re.match(rb"[1-9]\d*( |$)", stream)
    return messages


def numbered(messages: list[bytes]) -> list[float]:
    return [read(message)[1]["score"] for message in messages]


class Receiver:
    """A receiver over TCP, on a port that it keeps; `stop` closes it and all its connections."""

    def __init__(self, port: int = 0, *, reads: bool = True) -> None:
        self.streams: list[bytearray] = []
        self.connections: list[socket.socket] = []
        self._reads = threading.Event()
        if reads:
            self._reads.set()
        self._listening = socket.create_server(("127.0.0.1", port), reuse_port=False)
        self.port = self._listening.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def messages(self) -> list[bytes]:
        return [message for stream in self.streams for message in unframed(bytes(stream))]

    def read_on(self) -> None:
        self._reads.set()

    def stop(self) -> None:
        self._reads.set()
        for one in (self._listening, *self.connections):
            with contextlib.suppress(OSError):  # it was closed from the other side
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.connections.append(connection)
            self.streams.append(bytearray())
            self._threads.append(threading.Thread(target=self._take, args=(connection, self.streams[-1]), daemon=True))
            self._threads[-1].start()

    def _take(self, connection: socket.socket, stream: bytearray) -> None:
        self._reads.wait(30)
        try:
            while data := connection.recv(65536):
                stream += data
            connection.close()
        except OSError:
            return


@pytest.fixture
def datagrams() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(15)
        yield receiver


def outlets_of(port: int, told: Told, *changes: str) -> Outlets:
    fixed = [f"syslog.address=127.0.0.1:{port}", "output.alerts="]
    made = from_settings(config.load(None, [*fixed, *changes]), sensor="wall 3", tell=told)
    made.start()
    return made


def sink(address: str = "127.0.0.1:514", transport: str = "tcp", **changes: str) -> Syslog:
    fixed: dict[str, Any] = {"facility": "local0", "form": "netseq", "sensor": "wall 3"}
    return Syslog(address, transport, **(fixed | changes))  # type: ignore[arg-type]


def test_a_message_is_what_rfc_5424_says() -> None:
    header, alert = read(sink().message(ALERT))
    assert header["priority"] == str(16 * 8 + 4)  # local0, warning
    assert header["time"] == "2011-03-18T19:06:07.096535Z"
    assert (header["host"], header["app"], header["message"], header["data"]) == ("wall_3", "netseq", "alert", "-")
    assert (alert["dvc"], alert["signature"]) == ("wall 3", ALERT.signature)


@pytest.mark.parametrize(("severity", "number"), [("critical", 2), ("high", 3), ("medium", 4), ("low", 5)])
@pytest.mark.parametrize("facility", FACILITIES)
def test_facility_and_severity_make_the_priority(facility: str, severity: str, number: int) -> None:
    message = sink(facility=facility).message(msgspec.structs.replace(ALERT, severity=severity))
    assert divmod(int(read(message)[0]["priority"]), 8) == (FACILITIES[facility], number)


@given(st.integers(-(2**63), 2**63 - 1), st.text(max_size=300), st.text(max_size=20))
def test_any_alert_and_name_make_a_message(ts_us: int, msg: str, sensor: str) -> None:
    text = msg.encode("utf-8", "replace").decode()
    name = sensor.encode("utf-8", "replace").decode()
    header, alert = read(sink(sensor=name).message(msgspec.structs.replace(ALERT, ts_us=ts_us, msg=text)))
    assert alert["msg"] == text
    assert header["time"] in {"-", alert["ts"]}


def test_every_facility_of_the_settings_is_known() -> None:
    (kind,) = [one.kind for one in config.settings() if (one.section, one.key) == ("syslog", "facility")]
    assert set(kind.__args__) == set(FACILITIES)


@pytest.mark.parametrize(
    "address", ["", "host", "host:", "host:0", "host:65536", ":514", "2001:db8::1:514", "[::1]", "a b:514"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(SinkFailed, match="expected HOST:PORT"):
        sink(address)


@pytest.mark.parametrize("address", ["host:514", "192.0.2.1:1", "[2001:db8::1]:65535"])
def test_an_address_is_taken(address: str) -> None:
    sink(address)


def test_datagrams_hold_a_message_each(datagrams: socket.socket) -> None:
    outlets = outlets_of(datagrams.getsockname()[1], Told(), "syslog.transport=udp", "output.format=ecs")
    outlets.hand(alerts(20))
    messages = [datagrams.recv(65536) for _ in range(20)]
    assert [read(message)[1]["netseq"]["score"] for message in messages] == [float(n) for n in range(20)]
    assert outlets.close(5)
    assert outlets.counters() == {
        "alerts_written.syslog": 20,
        "alerts_waiting.syslog": 0,
        "alerts_lost.syslog": 0,
        "alerts_refused.syslog": 0,
    }


def test_datagrams_that_nobody_took_are_sent_again(datagrams: socket.socket) -> None:
    address = datagrams.getsockname()
    datagrams.close()
    told = Told()
    outlets = outlets_of(address[1], told, "syslog.transport=udp")
    outlets.hand(alerts(5))
    until(lambda: "alerts_wait" in told.events)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as back:
        back.bind(address)
        back.settimeout(15)
        got: set[float] = set()
        while got != {float(n) for n in range(5)}:
            got.add(read(back.recv(65536))[1]["score"])
        assert outlets.close(5)
    assert outlets.counters()["alerts_lost.syslog"] == 0


def test_datagrams_known_to_be_refused_are_counted_at_the_end(datagrams: socket.socket) -> None:
    address = datagrams.getsockname()
    datagrams.close()
    told = Told()
    outlets = outlets_of(address[1], told, "syslog.transport=udp")
    outlets.hand(alerts(5))
    until(lambda: "alerts_wait" in told.events)
    assert outlets.close(5)
    assert outlets.counters()["alerts_lost.syslog"] >= 5
    assert outlets.counters()["alerts_waiting.syslog"] == 0


def test_an_alert_that_no_datagram_holds_is_counted_and_the_next_one_sent(datagrams: socket.socket) -> None:
    told = Told()
    outlets = outlets_of(datagrams.getsockname()[1], told, "syslog.transport=udp")
    outlets.hand([msgspec.structs.replace(ALERT, msg="x" * 70_000), ALERT])
    assert read(datagrams.recv(65536))[1]["msg"] == ALERT.msg
    assert outlets.close(5)
    assert told.events == ["alert_refused"]
    assert outlets.counters()["alerts_refused.syslog"] == 1
    with pytest.raises(NeverTaken):
        sink(transport="udp").write([msgspec.structs.replace(ALERT, msg="x" * 70_000)])


def test_a_signal_for_renamed_files_leaves_the_connection_as_it_is() -> None:
    receiver = Receiver()
    outlets = outlets_of(receiver.port, Told())
    outlets.hand(alerts(1))
    until(lambda: len(receiver.messages()) == 1)
    outlets.reopen()
    outlets.hand(alerts(2)[1:])
    until(lambda: len(receiver.messages()) == 2)
    assert len(receiver.streams) == 1
    assert outlets.close(5)
    receiver.stop()


def test_a_stream_counts_its_octets() -> None:
    receiver = Receiver()
    outlets = outlets_of(receiver.port, Told())
    outlets.hand([*alerts(100), msgspec.structs.replace(ALERT, msg="größer\n12 x", score=100.0)])
    until(lambda: len(receiver.messages()) == 101)
    assert numbered(receiver.messages()) == [float(n) for n in range(101)]
    assert len(receiver.streams) == 1
    assert outlets.close(5)
    receiver.stop()


def test_a_receiver_that_comes_later_gets_everything() -> None:
    receiver = Receiver()
    receiver.stop()
    told = Told()
    outlets = outlets_of(receiver.port, told)
    outlets.hand(alerts(30))
    until(lambda: "alerts_wait" in told.events)
    assert outlets.counters()["alerts_waiting.syslog"] == 30
    again = Receiver(receiver.port)
    until(lambda: len(again.messages()) == 30)
    assert numbered(again.messages()) == [float(n) for n in range(30)]
    assert outlets.close(5)
    assert outlets.counters() == {
        "alerts_written.syslog": 30,
        "alerts_waiting.syslog": 0,
        "alerts_lost.syslog": 0,
        "alerts_refused.syslog": 0,
    }
    again.stop()


def test_a_receiver_that_was_restarted_is_found_again() -> None:
    receiver = Receiver()
    told = Told()
    outlets = outlets_of(receiver.port, told)
    outlets.hand(alerts(10))
    until(lambda: len(receiver.messages()) == 10)
    receiver.stop()
    again = Receiver(receiver.port)
    outlets.hand(alerts(20)[10:])
    until(lambda: len(again.messages()) >= 10)
    assert set(numbered(receiver.messages()) + numbered(again.messages())) == {float(n) for n in range(20)}
    assert outlets.close(5)
    again.stop()


def test_a_stalled_receiver_gets_everything_once_it_reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(syslog_roads, "TIMEOUT_S", 0.2)
    receiver = Receiver(reads=False)
    told, path = Told(), tmp_path / "alerts.jsonl"
    outlets = outlets_of(receiver.port, told, f"output.alerts={path}")
    many = [msgspec.structs.replace(ALERT, msg="x" * 50_000, score=float(n)) for n in range(400)]  # more than kernels buffer
    outlets.hand(many)
    until(lambda: "alerts_wait" in told.events)
    until(lambda: outlets.counters()["alerts_written.jsonl"] == 400)  # the file does not wait for it
    assert scores(path) == [float(n) for n in range(400)]
    assert 0 < outlets.counters()["alerts_waiting.syslog"] < 400
    receiver.read_on()
    until(lambda: len(receiver.messages()) >= 400)
    assert numbered(receiver.messages()) == [float(n) for n in range(400)]  # over one connection, each once
    assert len(receiver.streams) == 1
    assert outlets.close(5)
    assert outlets.counters()["alerts_lost.syslog"] == 0
    receiver.stop()


def test_what_a_receiver_had_not_acknowledged_when_it_broke_off_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syslog_roads, "TIMEOUT_S", 0.2)
    receiver = Receiver(reads=False)
    told = Told()
    outlets = outlets_of(receiver.port, told)
    many = [msgspec.structs.replace(ALERT, msg="x" * 50_000, score=float(n)) for n in range(400)]
    outlets.hand(many)
    until(lambda: "alerts_wait" in told.events)
    receiver.stop()  # with the beginning unread in its kernel: that much nobody can know
    unread = len(receiver.messages())
    again = Receiver(receiver.port)
    until(lambda: outlets.counters()["alerts_written.syslog"] == 400 and 399.0 in numbered(again.messages()))
    got = numbered(again.messages())
    assert got == [float(n) for n in range(int(got[0]), 400)]  # all from some alert on, none left out
    acknowledged = (6 << 20) // 50_000  # what a kernel buffers for a program at the very most
    assert int(got[0]) <= max(unread, acknowledged)
    assert outlets.close(5)
    again.stop()


def test_alerts_that_may_not_have_arrived_are_counted_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syslog_roads, "TIMEOUT_S", 0.2)
    receiver = Receiver(reads=False)
    told = Told()
    outlets = outlets_of(receiver.port, told)
    many = [msgspec.structs.replace(ALERT, msg="x" * 50_000, score=float(n)) for n in range(400)]
    outlets.hand(many)
    until(lambda: outlets.counters()["alerts_waiting.syslog"] < 400)
    assert outlets.close(30)
    counters = outlets.counters()
    receiver.read_on()
    until(lambda: len(receiver.messages()) >= 400 - counters["alerts_lost.syslog"])
    assert counters["alerts_lost.syslog"] > 0
    receiver.stop()
