"""Where alerts go: files that fill their disk, that are renamed, that a crash cut, and how many alerts wait meanwhile."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec
import pytest
from sensor_process import running
from test_sinks import ALERT

from sensor import config
from sensor.schema import Alert
from sensor.service_degraded import degraded
from sensor.service_outlet import Opened, Outlet
from sensor.service_outlets import Outlets, from_settings, open_appending
from sensor.sinks.lines import SinkFailed


@dataclasses.dataclass
class Told:
    """What an outlet said."""

    events: list[str] = dataclasses.field(default_factory=list)

    def __call__(self, event: str, _: str) -> None:
        self.events.append(event)


class Shut:
    """A sink that takes alerts only while it is open."""

    def __init__(self) -> None:
        self.open = False
        self.taken: list[Alert] = []

    def write(self, alerts: Iterable[Alert]) -> None:
        for alert in alerts:
            if not self.open:
                raise SinkFailed("shut")
            self.taken.append(alert)

    def close(self) -> None:
        """Nothing to do."""


def alerts(count: int) -> list[Alert]:
    return [msgspec.structs.replace(ALERT, score=float(n)) for n in range(count)]


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 15
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def scores(path: Path) -> list[float]:
    return [json.loads(line)["score"] for line in path.read_text().splitlines()]


def outlets_of(path: Path, told: Told, *changes: str) -> Outlets:
    settings = config.load(None, [f"output.alerts={path}", *changes])
    return from_settings(settings, sensor="here", tell=told)


def test_alerts_wait_in_order_while_they_cannot_be_written() -> None:
    sink, told = Shut(), Told()
    outlet = Outlet("jsonl", lambda: Opened(sink), waiting=5, tell=told)
    outlet.take(alerts(3))
    outlet.work(10.0)
    outlet.work(10.5)
    assert (outlet.waiting, outlet.written) == (3, 0)
    sink.open = True
    outlet.work(10.6)  # too early for another try
    assert outlet.waiting == 3
    outlet.work(11.1)
    assert [alert.score for alert in sink.taken] == [0.0, 1.0, 2.0]
    assert told.events == ["alerts_wait", "alerts_written_again"]


def test_more_alerts_than_may_wait_are_counted_as_lost() -> None:
    outlet = Outlet("jsonl", lambda: Opened(Shut()), waiting=5, tell=Told())
    outlet.take(alerts(8))
    assert outlet.counters() == {
        "alerts_written.jsonl": 0,
        "alerts_waiting.jsonl": 5,
        "alerts_lost.jsonl": 3,
        "alerts_refused.jsonl": 0,
    }
    outlet.close()
    assert outlet.lost == 8


class Hangs(Shut):
    """A sink that takes as long as it likes, as a disk of a network or a pipe that nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.goes_on = threading.Event(), threading.Event()

    def write(self, alerts: Iterable[Alert]) -> None:
        self.begun.set()
        self.goes_on.wait(15)
        self.taken += alerts


def test_alerts_that_come_while_a_write_hangs_are_bounded_and_counted() -> None:
    sink = Hangs()
    outlets = Outlets([Outlet("jsonl", lambda: Opened(sink), waiting=5, tell=Told())])
    outlets.start()
    outlets.hand(alerts(1))
    assert sink.begun.wait(15)
    for _ in range(100):
        outlets.hand(alerts(10))
    assert outlets.counters() == {
        "alerts_written.jsonl": 0,
        "alerts_waiting.jsonl": 5,
        "alerts_lost.jsonl": 996,
        "alerts_refused.jsonl": 0,
    }
    sink.goes_on.set()
    assert outlets.close(15)
    outlets.hand(alerts(2))  # too late for the file, and not for the count
    assert outlets.counters() == {
        "alerts_written.jsonl": 5,
        "alerts_waiting.jsonl": 0,
        "alerts_lost.jsonl": 998,
        "alerts_refused.jsonl": 0,
    }


class Broken(Shut):
    def write(self, alerts: Iterable[Alert]) -> None:
        raise RuntimeError("a mistake")


def test_a_writer_that_fails_is_known_to_have() -> None:
    outlets = Outlets([Outlet("jsonl", lambda: Opened(Broken()), waiting=5, tell=Told())])
    outlets.start()
    outlets.hand(alerts(1))
    until(lambda: isinstance(outlets.error, RuntimeError))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)  # also when a test failed with a file open there


@pytest.mark.root
def test_a_full_disk_keeps_alerts_waiting_and_they_are_written_when_there_is_room(small_disk: Path) -> None:
    told, path = Told(), small_disk / "alerts.jsonl"
    filler = small_disk / "filler"
    outlets = outlets_of(path, told)
    outlets.start()
    filler.write_bytes(bytes(48 << 10))
    outlets.hand(alerts(200))
    until(lambda: "alerts_wait" in told.events)
    assert outlets.counters()["alerts_waiting.jsonl"] > 0
    before = scores(path)  # whole lines only, though the disk is full
    assert before == [float(n) for n in range(len(before))]
    filler.unlink()
    until(lambda: outlets.counters()["alerts_waiting.jsonl"] > 0 and outlets.counters()["alerts_written.jsonl"] > len(before))
    assert outlets.close(5)
    assert scores(path) == [float(n) for n in range(outlets.counters()["alerts_written.jsonl"])]


def fill(folder: Path) -> Path:
    """Leave no room; gives the file to remove for some."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        file.write(bytes(1 << 20))  # as much of it as there is room for
    assert os.statvfs(folder).f_bavail == 0
    return filler


@pytest.mark.root
@pytest.mark.parametrize("name", ["output.notice", "zeek.input_file"])
@pytest.mark.parametrize("there", [False, True])
def test_a_disk_that_is_full_at_the_start_is_waited_for_and_the_header_comes_before_the_alerts(
    small_disk: Path, name: str, there: bool
) -> None:
    told, path = Told(), small_disk / "file"
    if there:
        path.touch()
    filler = fill(small_disk)
    outlets = outlets_of(Path("/dev/null"), told, f"{name}={path}")
    outlets.start()
    outlets.hand(alerts(2))
    assert told.events == ["alerts_wait"]
    assert path.read_bytes() == b""
    filler.unlink()
    until(lambda: "alerts_written_again" in told.events)
    assert outlets.close(5)
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    assert len(lines) == 2
    assert path.read_text().count("#fields") == 1
    assert path.read_text().startswith("#")


@pytest.mark.root
def test_a_spool_on_a_full_disk_waits_for_room(small_disk: Path, tmp_path: Path) -> None:
    told, token = Told(), tmp_path / "token"
    token.write_text("abc")
    (small_disk / "hec").mkdir()
    (small_disk / "hec" / "000000000001.lines").touch()
    filler = fill(small_disk)
    settings = ("hec.url=http://127.0.0.1:9", f"hec.token_file={token}", f"service.state_dir={small_disk}")
    outlets = outlets_of(Path("/dev/null"), told, *settings)
    outlets.start()
    outlets.hand(alerts(2))
    until(lambda: "alerts_wait" in told.events)
    filler.unlink()
    until(lambda: b"score" in b"".join(file.read_bytes() for file in (small_disk / "hec").glob("*.lines")))
    outlets.close(5)


def test_a_header_is_tried_again_without_an_alert_to_write(tmp_path: Path) -> None:
    told, place = Told(), tmp_path / "notice.log"
    place.symlink_to("/dev/full")
    outlets = outlets_of(Path("/dev/null"), told, f"output.notice={place}")
    outlets.start()
    assert told.events == ["alerts_wait"]
    place.unlink()
    until(lambda: place.exists() and "#types" in place.read_text())
    assert told.events == ["alerts_wait", "alerts_written_again"]
    assert outlets.close(5)


@pytest.mark.root
@pytest.mark.slow
def test_a_sensor_begins_while_its_disk_is_full_and_needs_no_restart(small_disk: Path, tmp_path: Path) -> None:
    captures, notice = tmp_path / "captures", small_disk / "notice.log"
    captures.mkdir()
    filler = fill(small_disk)
    with running(tmp_path / "sensor", f"capture.folder={captures}", f"output.notice={notice}") as sensor:
        assert "No space left on device" in sensor.events("alerts_wait")[0]["about"]
        filler.unlink()
        until(lambda: bool(sensor.events("alerts_written_again")))
        assert "#fields" in notice.read_text()
        assert sensor.end() == 0


def test_a_renamed_file_is_left_and_a_new_one_begun(tmp_path: Path) -> None:
    path = tmp_path / "alerts.jsonl"
    outlets = outlets_of(path, Told(), f"output.notice={tmp_path}/notice.log")
    outlets.start()
    outlets.hand(alerts(1))
    until(lambda: outlets.counters()["alerts_written.jsonl"] == 1)
    path.rename(tmp_path / "alerts.jsonl.1")
    outlets.reopen()
    until(path.exists)
    outlets.hand(alerts(2))
    until(lambda: outlets.counters()["alerts_written.notice"] == 3)
    assert outlets.close(5)
    assert (scores(tmp_path / "alerts.jsonl.1"), scores(path)) == ([0.0], [0.0, 1.0])
    assert (tmp_path / "notice.log").read_text().count("#open") == 2


def test_half_a_line_that_a_crash_left_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "alerts.jsonl"
    path.write_bytes(b'{"whole": 1}\n{"half')
    open_appending(path).close()
    assert path.read_bytes() == b'{"whole": 1}\n'


def test_a_device_is_written_to_as_it_is() -> None:
    open_appending(Path("/dev/null")).close()
    with open_appending(Path("/dev/full")) as full, pytest.raises(OSError, match="No space left"):
        full.write(b"x")  # and it reads as zeros without end


def test_what_was_written_before_stays(tmp_path: Path) -> None:
    for _ in range(2):
        outlets = outlets_of(tmp_path / "deep" / "alerts.jsonl", Told())
        outlets.start()
        outlets.hand(alerts(2))
        assert outlets.close(5)
    assert scores(tmp_path / "deep" / "alerts.jsonl") == [0.0, 1.0, 0.0, 1.0]


def test_a_place_that_cannot_be_written_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SinkFailed, match="cannot write alerts to"):
        outlets_of(tmp_path / "file" / "alerts.jsonl", Told()).start()


def test_what_the_sensor_lost_is_told_with_the_numbers_and_without_hosts(tmp_path: Path) -> None:
    assert degraded({"packets_read": 900, "packets_dropped.eth0": 0}, ts_us=9, since_us=1, model="m 1") is None
    grown = {"packets_read": 900, "packets_dropped.eth0": 100, "flows_shed.flood": 2, "words_scored": 0}
    alert = degraded(grown, ts_us=120_000_000, since_us=60_000_000, model="m 1")
    assert alert is not None
    assert (alert.severity, alert.count, alert.score) == ("high", 102, 1.0)  # both flows that ended were shed
    assert "because the ring was full (eth0): 100" in alert.msg
    assert "because scoring could not follow (flood): 2" in alert.msg
    outlets = outlets_of(tmp_path / "alerts.jsonl", Told(), f"output.notice={tmp_path}/notice.log")
    outlets.start()
    outlets.hand([alert])
    assert outlets.close(5)
    line = json.loads((tmp_path / "alerts.jsonl").read_text())
    assert line["signature"] == "NetSeq::Sensor_Degraded"
    assert not {"src", "dest", "src_port", "transport", "community_id"} & line.keys()
    row = next(line for line in (tmp_path / "notice.log").read_text().splitlines() if not line.startswith("#"))
    assert row.split("\t")[2:6] == ["-"] * 4
