"""What `--check` tries, and a reload for the next start: it says no where a start would, and makes nothing."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sensor_process import SMALL, command, running, until

from sensor import config
from sensor.config_sensor import check_together
from sensor.service_trial import Finding, Refused, locked, service_notes, state_folder, trial

OTHER = "192.0.2.1:9477"
"""An address for documentation (RFC 5737), so none of this machine."""


def settings_of(folder: Path, *changes: str) -> config.Settings:
    """Settings of a sensor that reads captures in a folder, and keeps all in it."""
    (folder / "captures").mkdir(exist_ok=True)
    own = (f"capture.folder={folder}/captures", f"service.state_dir={folder}/state", f"output.alerts={folder}/alerts.jsonl")
    return config.load(None, [*SMALL, *own, "service.metrics=", *changes])


def tried(folder: Path, *changes: str) -> list[Finding]:
    """What a reload of other settings finds, where a sensor with the usual ones runs."""
    return list(trial(settings_of(folder, *changes), running=settings_of(folder)))


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        (("service.metrics=nonsense",), "expected address:port"),
        ((f"service.metrics={OTHER}",), "Cannot assign requested address"),
        (("capture.interfaces=lo",), "capture.interfaces and capture.folder are both set"),
        (("capture.folder=",), "nothing to listen to"),
        (("capture.folder=/nowhere",), "No such file"),
        (("zeek.road=files", "capture.folder="), "set zeek.path"),
        (("zeek.alerts=true", "zeek.alerts_connect=nonsense"), "cannot send alerts to Zeek"),
        (("service.state_dir=/dev/null/state",), "service.state_dir: /dev/null/state: Not a directory"),
        (("output.notice=/dev/null/notice.log",), "output.notice: /dev/null/notice.log"),
        (("zeek.input_file=/dev",), "zeek.input_file: /dev"),
        (("syslog.address=nonsense",), "expected HOST:PORT"),
        (("hec.url=nonsense",), "hec.url"),
        (("service.queue_flows=2000",), "service.queue_flows (2,000) is less than model.batch_flows (2,048)"),
        (("model.batch_flows=100000",), "service.queue_flows (65,536) is less than model.batch_flows (100,000)"),
    ],
)
def test_a_reload_is_refused_for_what_the_next_start_would_be(tmp_path: Path, changes: tuple[str, ...], part: str) -> None:
    with pytest.raises((Refused, config.ConfigError)) as refused:
        tried(tmp_path, *changes)
    assert part in str(refused.value)
    assert "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["captures"]


def test_what_a_reload_leaves_as_it_is_is_not_tried_again(tmp_path: Path) -> None:
    (tmp_path / "captures").mkdir()
    settings = settings_of(tmp_path)
    shutil.rmtree(tmp_path / "captures")  # which the sensor waits for, whatever else is changed
    assert list(trial(settings, running=settings)) == [Finding("ok", "settings")]


def test_a_log_that_is_not_there_yet_is_told_for_its_name_may_be_mistyped(tmp_path: Path) -> None:
    road = ("capture.folder=", "zeek.road=files", f"zeek.path={tmp_path}/conn.log")
    waits = Finding("note", f"zeek.path: {tmp_path}/conn.log is not there yet: the sensor waits for it")
    assert waits in tried(tmp_path, *road)
    (tmp_path / "conn.log").touch()
    assert waits not in tried(tmp_path, *road)


def test_a_port_in_use_is_told_for_a_sensor_at_work_may_hold_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = tried(tmp_path, f"service.metrics=127.0.0.1:{port}")
        assert found[-1].word == "note"
        assert f"127.0.0.1:{port} is in use" in found[-1].line
    assert tried(tmp_path, f"service.metrics=127.0.0.1:{port}")[-1] == Finding("ok", f"metrics on 127.0.0.1:{port}")


def test_a_zeek_address_in_use_is_told_too(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        found = tried(tmp_path, "capture.folder=", "zeek.road=zeromq-log", f"zeek.address={address}")
    assert [one.word for one in found] == ["ok", "note"]
    assert address in found[1].line


def test_a_state_folder_at_work_is_told_and_one_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert tried(tmp_path, f"service.state_dir={other}")[-1] == Finding("ok", f"state in {other}")
    assert not other.exists()
    other.mkdir()
    with locked(other):
        found = tried(tmp_path, f"service.state_dir={other}")
        assert [one.word for one in found[-2:]] == ["ok", "note"]
        assert "at work" in found[-1].line
        with pytest.raises(Refused, match="another netseq-sensor is at work"):
            locked(other)
    assert [one.word for one in tried(tmp_path, f"service.state_dir={other}")] == ["ok", "ok"]


def test_a_queue_holds_a_batch(tmp_path: Path) -> None:
    check_together(settings_of(tmp_path, "service.queue_flows=2048"))
    with pytest.raises(config.ConfigError, match="raise the one or lower the other"):
        check_together(settings_of(tmp_path, "service.queue_flows=2047"))


@pytest.fixture
def few_files(tmp_path: Path) -> Iterator[Path]:
    """A file system that has no file to give."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "few"
    folder.mkdir()
    options = "size=64k,nr_inodes=1"  # its own folder is one
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.root
def test_a_full_disk_under_the_state_is_no_refusal_for_good(tmp_path: Path, few_files: Path) -> None:
    settings = settings_of(tmp_path, f"service.state_dir={few_files}")
    with pytest.raises(Refused, match="No space left on device: make room there") as refused:
        state_folder(settings)
    assert refused.value.passing
    with pytest.raises(Refused, match="No space left on device: make room there") as refused:
        locked(few_files)
    assert refused.value.passing


@pytest.mark.root
@pytest.mark.slow
def test_a_sensor_that_has_no_room_for_its_state_is_started_again(tmp_path: Path, few_files: Path) -> None:
    (tmp_path / "captures").mkdir()
    changes = (*SMALL, f"capture.folder={tmp_path}/captures", f"service.state_dir={few_files}", "output.alerts=-")
    sets = [word for change in changes for word in ("--set", change)]
    ended = subprocess.run(command(*sets), capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 1, ended.stderr
    assert "No space left on device" in ended.stderr


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)  # noqa: S103  # which is the point
        yield Path(name)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can ask what another user may do")
def test_root_is_told_what_the_services_user_cannot_do(open_folder: Path) -> None:
    settings = settings_of(open_folder)
    (open_folder / "captures").chmod(0o700)
    told = {one.line.partition(":")[0]: one for one in service_notes(settings, "nobody")}
    assert set(told) == {"service.state_dir", "output.alerts", "capture.folder"}
    assert {one.word for one in told.values()} == {"note"}
    assert f"install -d -o nobody -g nobody -m 0750 {open_folder}/state" in told["service.state_dir"].line
    user = pwd.getpwnam("nobody")
    for path in (open_folder, open_folder / "captures"):
        os.chown(path, user.pw_uid, user.pw_gid)
    assert list(service_notes(settings, "nobody")) == []
    assert list(service_notes(settings_of(open_folder, "service.state_dir=/dev/null/x"), "nobody-at-all")) == []
    assert list(service_notes(settings_of(open_folder, "service.state_dir=/root"), "root")) == []


@pytest.mark.slow
def test_a_running_sensor_refuses_a_reload_that_its_next_start_would_not_survive(tmp_path: Path) -> None:
    (tmp_path / "captures").mkdir()
    file, folder = tmp_path / "sensor.toml", f'[capture]\nfolder = "{tmp_path}/captures"\n'
    file.write_text(folder)
    with running(tmp_path / "sensor", config=file) as sensor:
        bad = (
            "",
            folder + 'interfaces = ["lo"]\n',
            folder + "[service]\nqueue_flows = 2000\n",
            folder + '[output]\nnotice = "/dev/null/notice.log"\n',
        )
        for number, text in enumerate(bad, 1):
            file.write_text(text)
            sensor.send(signal.SIGHUP)
            until(lambda number=number: len(sensor.events("reload_refused")) == number)  # type: ignore[misc]  # mypy knows no default here
        lines = [event["reason"] for event in sensor.events("reload_refused")]
        assert ["nothing to listen to" in lines[0], "both set" in lines[1]] == [True, True]
        assert ["model.batch_flows" in lines[2], "output.notice" in lines[3]] == [True, True]
        assert not sensor.events("reloaded")
        file.write_text(folder + f'[output]\nnotice = "{tmp_path}/notice.log"\n[zeek]\ntopic = "other"\n')
        sensor.send(signal.SIGHUP)
        until(lambda: bool(sensor.events("reloaded")))
        assert sensor.events("reloaded")[0]["at_next_start"] == ["zeek.topic", "output.notice"]
        assert sensor.end() == 0


@pytest.mark.slow
def test_a_check_keeps_its_kernels_where_a_start_finds_them_says_so_and_makes_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "captures").mkdir()
    changes = (*SMALL, f"capture.folder={tmp_path}/captures", f"service.state_dir={tmp_path}/state", "service.metrics=")
    sets = [word for change in (*changes, f"output.alerts={tmp_path}/a.jsonl") for word in ("--set", change)]
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "NUMBA_CACHE_DIR": ""}
    ended = subprocess.run(
        [*command(*sets), "--check"], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("compiling kernels") == 1
    assert {line.split()[0] for line in ended.stdout.splitlines()} == {"ok"}
    assert list((tmp_path / "cache" / "netseq").glob("kernels-*/**/*.nbi"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "captures"]
