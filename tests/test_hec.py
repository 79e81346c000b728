"""Alerts on their way to Splunk, to a real server on the loopback that is slow, busy, breaks off, is away or trusts nobody."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hec_server import BUSY, MALFORMED, OK, TOKEN, TOO_LARGE, Answer, Collector, Event, Handler, certificate
from hypothesis import given, settings
from hypothesis import strategies as st
from test_service_outlets import Told, alerts, scores, until
from test_sinks import ALERT

from sensor import config, service_hec
from sensor.service_outlets import Outlets, from_settings, receivers
from sensor.sinks import hec, spool
from sensor.sinks.jsonl import line_of
from sensor.sinks.lines import SinkFailed
from sensor.sinks.spool import Spool


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second between two tries is right for a service, and long for a test."""
    monkeypatch.setattr(service_hec, "FIRST_WAIT_S", 0.02)
    monkeypatch.setattr(service_hec, "LAST_WAIT_S", 0.1)


@pytest.fixture
def collector() -> Iterator[Collector]:
    server = Collector()
    yield server
    server.stop()


class Words(Told):
    """What an outlet said, with its words."""

    def __call__(self, event: str, line: str) -> None:
        self.events.append(f"{event}: {line}")

    def of(self, text: str) -> bool:
        return any(text in line for line in self.events)


def outlets_of(folder: Path, url: str, told: Told, *changes: str) -> Outlets:
    folder.mkdir(exist_ok=True)
    token = folder / "token"
    if not token.exists():
        token.write_text(f"{TOKEN}\n")
    fixed = [f"hec.url={url}", f"hec.token_file={token}", f"service.state_dir={folder}", "output.alerts=", "hec.timeout_s=5"]
    made = from_settings(config.load(None, [*fixed, *changes]), sensor="here", tell=told)
    made.start()
    return made


def kept_lines(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in (folder / "hec").glob("*.lines"))


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def numbers(count: int, begin: int = 0) -> list[float]:
    return [float(n) for n in range(begin, begin + count)]


def test_an_alert_arrives_with_its_packet_time_and_the_names_of_the_add_on(tmp_path: Path, collector: Collector) -> None:
    outlets = outlets_of(tmp_path, collector.url, Told(), "hec.index=lab")
    outlets.hand([ALERT])
    until(lambda: len(collector.taken) == 1)
    (event,) = collector.taken
    assert event["event"] == json.loads(msgspec.json.encode(line_of(ALERT, "here")))
    assert {key: event[key] for key in ("time", "host", "sourcetype", "index")} == {
        "time": 1_300_475_167.096535,
        "host": "here",
        "sourcetype": "netseq:alert:json",
        "index": "lab",
    }
    until(lambda: outlets.counters()["alerts_written.hec"] == 1)
    assert collector.headers[0]["X-Splunk-Request-Channel"]  # asked for where indexers acknowledge
    assert outlets.close(5)


def test_many_alerts_go_in_few_requests_and_in_order(tmp_path: Path, collector: Collector) -> None:
    outlets = outlets_of(tmp_path, collector.url, Told())
    outlets.hand(alerts(3000))
    until(lambda: len(collector.taken) == 3000)
    assert collector.scores() == numbers(3000)
    assert collector.requests < 300
    assert outlets.close(5)


def test_an_outage_loses_nothing(tmp_path: Path) -> None:
    told, port = Words(), unused_port()
    outlets = outlets_of(tmp_path, f"http://127.0.0.1:{port}", told)
    outlets.hand(alerts(50))
    until(lambda: told.of("Connection refused; alerts wait on disk"))
    assert outlets.counters() == {
        "alerts_written.hec": 0,
        "alerts_waiting.hec": 50,
        "alerts_lost.hec": 0,
        "alerts_refused.hec": 0,
    }
    server = Collector(port=port)
    until(lambda: len(server.taken) == 50)
    server.stop()
    outlets.hand(alerts(100)[50:])
    until(lambda: told.events.count(told.events[0]) > 1)
    again = Collector(port=port)
    until(lambda: len(again.taken) == 50)
    assert server.scores() + again.scores() == numbers(100)
    until(
        lambda: (
            outlets.counters()
            == {"alerts_written.hec": 100, "alerts_waiting.hec": 0, "alerts_lost.hec": 0, "alerts_refused.hec": 0}
        )
    )
    assert outlets.close(5)
    again.stop()


def test_a_restart_in_an_outage_loses_nothing(tmp_path: Path) -> None:
    port = unused_port()
    for begin in (0, 20):
        outlets = outlets_of(tmp_path, f"http://127.0.0.1:{port}", Told())
        outlets.hand(alerts(begin + 20)[begin:])
        assert outlets.close(5)
        assert outlets.counters() == {
            "alerts_written.hec": 0,
            "alerts_waiting.hec": begin + 20,
            "alerts_lost.hec": 0,
            "alerts_refused.hec": 0,
        }
    server = Collector(port=port)
    outlets = outlets_of(tmp_path, server.url, Told())
    until(lambda: len(server.taken) == 40)
    assert server.scores() == numbers(40)
    assert outlets.close(5)
    outlets = outlets_of(tmp_path, server.url, Told())
    outlets.hand(alerts(41)[40:])
    until(lambda: len(server.taken) == 41)  # and nothing came twice
    assert outlets.close(5)
    server.stop()


ENDLESS = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_hec import outlets_of
from test_service_outlets import Told, alerts
outlets = outlets_of(Path(sys.argv[2]), sys.argv[3], Told())
outlets.hand(alerts(300))
time.sleep(60)
"""


def test_a_sensor_that_is_killed_loses_no_alert_that_is_on_disk(tmp_path: Path) -> None:
    port = unused_port()
    command = [sys.executable, "-c", ENDLESS, str(Path(__file__).parent), str(tmp_path), f"http://127.0.0.1:{port}"]
    with subprocess.Popen(command) as killed:
        until(lambda: kept_lines(tmp_path) == 300)
        killed.kill()
    server = Collector(port=port)
    outlets = outlets_of(tmp_path, server.url, Told())
    until(lambda: len(server.taken) == 300)
    assert server.scores() == numbers(300)
    assert outlets.close(5)
    server.stop()


def test_a_busy_collector_is_asked_again(tmp_path: Path, collector: Collector) -> None:
    left = [BUSY] * 3
    collector.behave = lambda *_: left.pop() if left else OK
    told = Words()
    outlets = outlets_of(tmp_path, collector.url, told)
    outlets.hand(alerts(5))
    until(lambda: len(collector.taken) == 5)
    assert collector.scores() == numbers(5)
    until(lambda: told.of("alerts_written_again"))
    assert sum("503 Server is busy" in line for line in told.events) == 1  # once, and not at every try
    assert outlets.close(5)


def test_a_wrong_token_loses_nothing_and_a_right_one_needs_no_restart(tmp_path: Path, collector: Collector) -> None:
    (tmp_path / "token").write_text("of-last-year")
    told = Words()
    outlets = outlets_of(tmp_path, collector.url, told)
    outlets.hand(alerts(5))
    until(lambda: told.of("403 Invalid token; alerts wait on disk"))
    assert outlets.counters()["alerts_waiting.hec"] == 5
    (tmp_path / "token").write_text(TOKEN)
    until(lambda: len(collector.taken) == 5)
    assert outlets.close(5)
    assert not [path for path in tmp_path.rglob("*.lines") if TOKEN in path.read_text()]
    assert not told.of(TOKEN)
    assert not told.of("of-last-year")


def test_an_alert_that_is_never_taken_holds_up_no_other(tmp_path: Path, collector: Collector) -> None:
    def choosy(_: Handler, events: list[Event]) -> Answer:
        return MALFORMED if any(event["event"]["score"] in {3.0, 17.0} for event in events) else OK

    collector.behave = choosy
    told = Words()
    outlets = outlets_of(tmp_path, collector.url, told)
    outlets.hand(alerts(40))
    until(lambda: outlets.counters().get("alerts_written.hec") == 38)
    assert collector.scores() == [n for n in numbers(40) if n not in {3.0, 17.0}]
    assert outlets.counters()["alerts_refused.hec"] == 2
    assert outlets.counters()["alerts_waiting.hec"] == 0
    assert told.of("alert_refused: ")
    assert told.of("400 Invalid data format")
    assert outlets.close(5)


def test_a_limit_on_the_size_of_a_batch_loses_nothing(tmp_path: Path, collector: Collector) -> None:
    most = [0]
    collector.behave = lambda _, events: TOO_LARGE if len(events) > most[0] else OK
    told = Words()
    outlets = outlets_of(tmp_path, collector.url, told)
    outlets.hand(alerts(20))
    until(lambda: told.of("413, and not in Splunk's words; alerts wait on disk"))  # too small a limit for any alert
    most[0] = 3
    until(lambda: outlets.counters().get("alerts_written.hec") == 20)
    assert collector.scores() == numbers(20)
    assert outlets.counters()["alerts_refused.hec"] == 0
    assert outlets.close(5)


def test_a_connection_that_breaks_off_before_the_answer_costs_no_alert(tmp_path: Path, collector: Collector) -> None:
    broken: list[int] = []

    def breaks(handler: Handler, events: list[Event]) -> Answer | None:
        if len(broken) < 3:
            broken.append(len(events))
            handler.reset()
            return None
        return OK

    collector.behave = breaks
    told = Words()
    outlets = outlets_of(tmp_path, collector.url, told)
    outlets.hand(alerts(30))
    until(lambda: len(collector.taken) == 30)
    assert collector.scores() == numbers(30)
    assert told.of("Connection reset by peer")
    assert outlets.close(5)


def test_a_collector_that_does_not_answer_is_given_up_after_the_time_that_is_set(tmp_path: Path, collector: Collector) -> None:
    over = threading.Event()

    def silent(_: Handler, __: list[Event]) -> Answer | None:
        over.wait(30)
        return None

    collector.behave = silent
    told = Words()
    outlets = outlets_of(tmp_path, collector.url, told, "hec.timeout_s=0.2")
    outlets.hand(alerts(3))
    until(lambda: told.of("alerts_wait"))
    collector.behave = lambda *_: OK
    until(lambda: collector.scores() == numbers(3))
    over.set()
    assert outlets.close(5)


@pytest.mark.parametrize("length", [["Content-Length", "1000"], ["Connection", "close"]])
def test_a_collector_that_answers_drop_by_drop_has_no_more_time(
    tmp_path: Path, collector: Collector, length: list[str]
) -> None:
    over = threading.Event()

    def drips(handler: Handler, _: list[Event]) -> Answer | None:
        handler.send_response(200)
        handler.send_header(*length)
        handler.end_headers()
        while not over.wait(0.05):
            handler.wfile.write(b" ")
        return None

    collector.behave = drips
    told = Words()
    outlets = outlets_of(tmp_path, collector.url, told, "hec.timeout_s=0.3")
    outlets.hand(alerts(1))
    until(lambda: told.of("alerts_wait"))
    collector.behave = lambda *_: OK
    until(lambda: collector.scores() == [0.0])
    over.set()
    assert outlets.close(5)


def test_a_collector_that_hangs_holds_up_no_file(tmp_path: Path, collector: Collector) -> None:
    over = threading.Event()

    def silent(_: Handler, __: list[Event]) -> Answer | None:
        over.wait(30)
        return None

    collector.behave = silent
    path = tmp_path / "alerts.jsonl"
    outlets = outlets_of(tmp_path, collector.url, Told(), f"output.alerts={path}")
    outlets.hand(alerts(5))
    until(lambda: collector.requests == 1)
    outlets.hand(alerts(10)[5:])
    until(lambda: outlets.counters()["alerts_written.jsonl"] == 10)
    assert scores(path) == numbers(10)
    assert outlets.counters()["alerts_written.hec"] == 0
    until((tmp_path / "hec").exists)
    assert outlets.close(5)  # and the end neither: the alerts are on disk
    assert outlets.counters()["alerts_waiting.hec"] == 10
    over.set()


def test_a_certificate_that_nobody_vouches_for_gets_no_alert(tmp_path: Path) -> None:
    made = certificate(tmp_path / "tls")
    server = Collector(certificate=made)
    told = Words()
    outlets = outlets_of(tmp_path / "a", server.url, told)
    outlets.hand(alerts(1))
    until(lambda: told.of("its certificate is not trusted: self-signed certificate"))
    assert server.requests == 0
    assert outlets.close(5)
    outlets = outlets_of(tmp_path / "a", server.url, told, f"hec.ca_file={made[0]}")
    until(lambda: server.scores() == [0.0])
    assert outlets.close(5)
    server.stop()


def test_a_certificate_of_another_host_gets_no_alert(tmp_path: Path) -> None:
    made = certificate(tmp_path / "tls", "DNS:splunk.example")
    server = Collector(certificate=made)
    told = Words()
    outlets = outlets_of(tmp_path / "a", server.url, told, f"hec.ca_file={made[0]}")
    outlets.hand(alerts(1))
    until(lambda: told.of("IP address mismatch"))
    assert server.requests == 0
    assert outlets.close(5)
    server.stop()


def test_a_full_spool_keeps_the_oldest_alerts_and_counts_the_others(tmp_path: Path) -> None:
    long = msgspec.structs.replace(ALERT, msg="x" * 100_000)
    told, port = Words(), unused_port()
    outlets = outlets_of(tmp_path, f"http://127.0.0.1:{port}", told, "hec.spool_mib=1", "output.waiting=3")
    on_disk = (1 << 20) // len(hec.event(long, "here"))
    numbered = [msgspec.structs.replace(long, score=n) for n in numbers(on_disk + 6)]
    for number in range(on_disk):
        outlets.hand([numbered[number]])
        until(lambda: kept_lines(tmp_path) == number + 1)  # noqa: B023  # it is asked here and now
    outlets.hand(numbered[on_disk : on_disk + 2])
    until(lambda: told.of("is full (1 MiB)"))
    outlets.hand(numbered[on_disk + 2 :])
    assert outlets.counters() == {
        "alerts_written.hec": 0,
        "alerts_waiting.hec": on_disk + 3,
        "alerts_lost.hec": 3,
        "alerts_refused.hec": 0,
    }
    server = Collector(port=port)
    until(lambda: len(server.taken) == on_disk + 3)
    assert server.scores() == numbers(on_disk + 3)
    assert outlets.close(5)
    server.stop()


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, b'{"text":"Success","code":0}', "taken"),
        (200, b'{"text":"Success","code":0,"ackId":7}', "taken"),
        (200, b"<html>please log in</html>", "later"),
        (200, b"", "later"),
        (200, b"\xff\xfe", "later"),
        (200, b'{"code":"0"}', "later"),
        (302, b"", "later"),
        (400, b'{"text":"No data","code":5}', "bad"),
        (400, b'{"text":"Invalid data format","code":6,"invalid-event-number":2}', "bad"),
        (400, b'{"text":"Event field is required","code":12}', "bad"),
        (400, b'{"text":"Incorrect index","code":7}', "later"),
        (400, b'{"text":"Data channel is missing","code":10}', "later"),
        (400, b"a proxy's own page", "later"),
        (401, b'{"text":"Token is required","code":2}', "later"),
        (403, b'{"text":"Token disabled","code":1}', "later"),
        (404, b"", "later"),
        (413, b"", "large"),
        (429, b'{"text":"Server is busy","code":26}', "later"),
        (500, b'{"text":"Internal server error","code":8}', "later"),
        (503, b'{"text":"Server is busy","code":9}', "later"),
    ],
)
def test_only_malformed_data_is_given_up(status: int, body: bytes, expected: str) -> None:
    assert hec.meaning(status, body).meaning == expected


@given(st.integers(100, 599), st.binary(max_size=200), st.text(max_size=10))
def test_any_answer_has_a_meaning(status: int, body: bytes, retry_after: str) -> None:
    assert hec.meaning(status, body, retry_after).meaning in {"taken", "bad", "large", "later"}


def test_a_collector_that_asks_for_time_is_given_it() -> None:
    assert hec.meaning(503, b'{"text":"Server is busy","code":9}', "17").wait_s == 17.0
    assert hec.meaning(503, b"", "Wed, 21 Oct 2015 07:28:00 GMT").wait_s == 0.0


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("hec.url=splunk:8088", "expected https://HOST:PORT"),
        ("hec.url=ftp://splunk:8088", "expected https://HOST:PORT"),
        ("hec.url=https://:8088", "expected https://HOST:PORT"),
        ("hec.url=https://spl unk:8088", "expected https://HOST:PORT"),
        ("hec.url=https://splunk:8088/ü", "expected https://HOST:PORT"),
        ("hec.url=https://me:secret@splunk:8088", "expected https://HOST:PORT"),
        ("hec.url=https://splunk:eight", "Port could not be cast"),
        ("hec.token_file=/nowhere/token", "/nowhere/token: No such file"),
        ("hec.token_file=/dev/null", "expected the token and nothing else"),
        ("hec.ca_file=/nowhere/ca.pem", "/nowhere/ca.pem: No such file"),
        ("hec.ca_file=/dev/null", "no certificate in it"),
        ("service.state_dir=/dev/null/x", "Not a directory"),
    ],
)
def test_what_cannot_work_is_refused_at_the_start(tmp_path: Path, change: str, why: str) -> None:
    with pytest.raises(SinkFailed, match=why):
        outlets_of(tmp_path, "https://127.0.0.1:1", Told(), change)


def test_a_name_without_a_folder_is_a_credential_of_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert hec.credential("hec-token") == tmp_path / "hec-token"
    assert hec.credential("/etc/token") == Path("/etc/token")


def test_an_ipv6_address_needs_no_port(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    asked = hec.Collector("http://[::1]", token_file=str(tmp_path / "token"), ca_file="", timeout_s=5)
    with pytest.raises(SinkFailed, match=r"refused|assign|unreachable"):  # the second and third where there is no IPv6
        asked.connect()


def test_a_check_tells_where_alerts_go_and_leaves_a_token_of_systemd_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = ["hec.url=https://splunk.example:8088", "syslog.address=192.0.2.1:514"]
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    monkeypatch.chdir(tmp_path)
    assert list(receivers(config.load(None, changes))) == [
        "alerts to https://splunk.example:8088; its token, hec-token, comes from systemd",
        "alerts to syslog at 192.0.2.1:514 over tcp",
    ]
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    with pytest.raises(SinkFailed, match="hec-token: No such file"):
        list(receivers(config.load(None, changes)))


def test_a_spool_gives_the_disk_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "FILE_BYTES", 1000)
    kept = Spool(tmp_path, most_bytes=1 << 20)
    for n in range(500):
        kept.append(b"%099d\n" % n)
    assert len(list(tmp_path.glob("*.lines"))) == 50
    for _ in range(50):
        kept.done(kept.head(10, 1 << 20))
    assert (kept.waiting, kept.head(10, 1 << 20)) == (0, [])
    assert len(list(tmp_path.glob("*.lines"))) == 1


def test_a_spool_that_a_crash_left_is_taken_up_without_its_half_line(tmp_path: Path) -> None:
    before = Spool(tmp_path, most_bytes=1 << 20)
    for line in (b"a\n", b"b\n", b"c\n"):
        before.append(line)
    before.done(before.head(1, 100))
    (file,) = tmp_path.glob("*.lines")
    with file.open("ab") as stream:
        stream.write(b"half")
    (tmp_path / "taken.part").write_text("9")
    after = Spool(tmp_path, most_bytes=1 << 20)
    assert after.waiting == 2
    after.append(b"d\n")
    got = []
    while lines := after.head(10, 100):
        got += lines
        after.done(lines)
    assert got == [b"b\n", b"c\n", b"d\n"]


@pytest.mark.parametrize("position", ["", "x y", "1", "1 -5", "1 999999", "7 1", "\udcff"])
def test_a_position_that_makes_no_sense_costs_no_line(tmp_path: Path, position: str) -> None:
    before = Spool(tmp_path, most_bytes=1 << 20)
    before.append(b"a\n")
    before.close()
    (tmp_path / "taken").write_bytes(position.encode("utf-8", "surrogateescape"))
    assert Spool(tmp_path, most_bytes=1 << 20).head(10, 100) == [b"a\n"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=40), st.integers(1, 5), st.none()), max_size=60))
def test_a_spool_is_a_queue_whatever_happens_to_it(
    tmp_path_factory: pytest.TempPathFactory, steps: list[bytes | int | None]
) -> None:
    """Lines are bytes to append, a number takes so many, None closes the spool and opens it anew."""
    folder = tmp_path_factory.mktemp("spool")
    queue: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool, "FILE_BYTES", 64)
        kept = Spool(folder, most_bytes=1 << 20)
        for step in steps:
            if isinstance(step, bytes):
                line = step.replace(b"\n", b"") + b"\n"
                kept.append(line)
                queue.append(line)
            elif step is None:
                kept.close()
                kept = Spool(folder, most_bytes=1 << 20)
            else:
                lines = kept.head(step, 1 << 20)
                assert lines == queue[: len(lines)]
                assert bool(lines) == bool(queue)
                kept.done(lines)
                del queue[: len(lines)]
            assert kept.waiting == len(queue)
        kept.close()


def test_an_alert_before_1970_has_a_time_that_splunk_takes() -> None:
    assert json.loads(hec.event(msgspec.structs.replace(ALERT, ts_us=-5), "here"))["time"] == 0.0
