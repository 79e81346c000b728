"""The service's rim: words to systemd, signals, and a folder of captures that is watched."""

from __future__ import annotations

import gzip
import os
import shutil
import signal
import socket
import threading
import time
from pathlib import Path

import msgspec
import pytest
from conftest import DATA
from sensor_process import until

from sensor.service_folder import SETTLED_S, FolderSource, Mark
from sensor.service_notify import Notifier
from sensor.service_signals import Signals
from sensor.sources.pcap import CaptureSource


def test_systemd_is_told_in_datagrams_of_names_and_values(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(5)
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "3000000"})
        assert notifier.watchdog_s == 3.0
        notifier.ready("listening on eth0")
        assert manager.recv(999) == b"READY=1\nSTATUS=listening on eth0"
        notifier.alive()
        assert manager.recv(999) == b"WATCHDOG=1"
        notifier.reloading()
        assert manager.recv(999).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        notifier.stopping()
        assert manager.recv(999).startswith(b"STOPPING=1")


def test_a_manager_that_is_gone_or_was_never_there_stops_nothing(tmp_path: Path) -> None:
    Notifier({}).ready("nobody listens")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "nowhere")}).ready("nobody listens")


def test_an_abstract_socket_is_spoken_to() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        name = f"netseq-test-{os.getpid()}"
        manager.bind(f"\0{name}")
        manager.settimeout(5)
        Notifier({"NOTIFY_SOCKET": f"@{name}"}).alive()
        assert manager.recv(99) == b"WATCHDOG=1"


def test_a_watchdog_that_is_meant_for_another_process_is_not_fed() -> None:
    assert Notifier({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}).watchdog_s == 0


def test_a_signal_wakes_the_loop_and_comes_in_order() -> None:
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGUSR1)
        begun = time.monotonic()
        assert signals.wait(30) == [signal.SIGHUP, signal.SIGUSR1]
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        assert signals.wait(30) == [signal.SIGTERM]
        assert time.monotonic() - begun < 20
        assert signals.wait(0) == []


def test_a_storm_of_signals_is_handled_once_and_the_end_comes_first() -> None:
    with Signals() as signals:
        for _ in range(500):
            os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGHUP)
        assert signals.wait(30) == [signal.SIGTERM, signal.SIGHUP]
        assert signals.wait(0) == []


class Read:
    """Everything that a source yields in a thread, until it is stopped."""

    def __init__(self, source: FolderSource) -> None:
        self.source = source
        self.frames = 0
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        for block in self.source:
            self.frames += len(block.frames)

    def wait_for(self, frames: int) -> None:
        end = time.monotonic() + 20
        while self.frames < frames:
            assert time.monotonic() < end
            time.sleep(0.02)

    def stop(self) -> None:
        self.source.stop()
        self.thread.join(10)
        assert not self.thread.is_alive()


def put(folder: Path, name: str, age_s: float = SETTLED_S + 1) -> Path:
    """A capture that was last written some seconds ago."""
    path = folder / name
    shutil.copy(DATA / "demo.pcap.gz", path)
    then = time.time() - age_s
    os.utime(path, (then, then))
    return path


def frames_of_demo() -> int:
    return sum(len(block.frames) for block in CaptureSource([DATA / "demo.pcap.gz"]))


def test_captures_are_read_once_when_they_are_finished_and_after_a_restart_not_again(tmp_path: Path) -> None:
    one, told = frames_of_demo(), list[str]()

    def tell(event: str, _: str) -> None:
        told.append(event)

    put(tmp_path, "a.pcap.gz")
    (tmp_path / "notes.txt").write_text("no capture")
    os.utime(tmp_path / "notes.txt", (0, 0))
    read = Read(FolderSource(tmp_path, block_frames=512, tell=tell))
    read.wait_for(one)
    put(tmp_path, "b.pcap.gz")
    read.wait_for(2 * one)
    read.stop()
    counted = read.source.counters()
    assert (read.frames, counted["captures_read"], counted["files_skipped"]) == (2 * one, 2, 1)
    assert told == ["capture_refused"]
    put(tmp_path, "c.pcap.gz")
    again = Read(FolderSource(tmp_path, block_frames=512, tell=tell, read=read.source.marks))
    again.wait_for(one)
    again.stop()
    assert again.frames == one


def test_a_capture_whose_name_is_no_text_is_remembered_like_others(tmp_path: Path) -> None:
    os.rename(put(tmp_path, "a.pcap.gz"), os.fsencode(tmp_path) + b"/\xff\xfe.pcap.gz")
    one = frames_of_demo()
    read = Read(FolderSource(tmp_path, block_frames=512, tell=lambda _event, _line: None))
    read.wait_for(one)
    read.stop()
    marks = msgspec.json.decode(msgspec.json.encode(read.source.marks), type=dict[str, Mark])
    put(tmp_path, "b.pcap.gz")
    again = Read(FolderSource(tmp_path, block_frames=512, tell=lambda _event, _line: None, read=marks))
    again.wait_for(one)
    again.stop()
    assert (again.frames, len(again.source.marks)) == (one, 2)


def test_a_file_that_cannot_be_looked_at_does_not_hide_the_others(tmp_path: Path) -> None:
    (tmp_path / "link.pcap").symlink_to("x" * 300)  # longer than a name may be
    put(tmp_path, "a.pcap.gz")
    read = Read(FolderSource(tmp_path, block_frames=512, tell=lambda _event, _line: None))
    read.wait_for(frames_of_demo())
    read.stop()


def test_a_damaged_capture_is_told_and_read_as_far_as_it_goes(tmp_path: Path) -> None:
    told = []
    path = put(tmp_path, "cut.pcap.gz")
    path.write_bytes(path.read_bytes()[:-200])
    os.utime(path, (0, 0))
    source = FolderSource(tmp_path, block_frames=512, tell=lambda event, line: told.append((event, line)))
    read = Read(source)
    end = time.monotonic() + 20
    while not told:
        assert time.monotonic() < end
        time.sleep(0.02)
    read.stop()
    assert told[0][0] == "capture_damaged"
    assert "cut.pcap.gz: damaged at byte" in told[0][1]
    assert 0 < read.frames < frames_of_demo()
    assert source.counters()["captures_damaged"] == 1


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        FolderSource(tmp_path / "nowhere", block_frames=512, tell=lambda _event, _line: None)


def test_a_folder_that_goes_away_is_waited_for(tmp_path: Path) -> None:
    folder, told = tmp_path / "captures", []
    folder.mkdir()
    read = Read(FolderSource(folder, block_frames=512, tell=lambda event, _: told.append(event)))
    folder.rmdir()
    end = time.monotonic() + 20
    while not told:
        assert time.monotonic() < end
        time.sleep(0.02)
    folder.mkdir()
    put(folder, "a.pcap.gz")
    read.wait_for(frames_of_demo())
    read.stop()
    assert told == ["folder_lost", "folder_back"]


def test_a_capture_that_grows_after_all_is_read_on_and_one_written_over_it_anew(tmp_path: Path) -> None:
    with gzip.open(DATA / "demo.pcap.gz") as packed:
        whole = packed.read()
    path = tmp_path / "slow.pcap"
    half = whole[: len(whole) // 2]  # in the middle of a record

    def written(data: bytes, age_s: float) -> None:
        path.write_bytes(data)
        os.utime(path, (time.time() - age_s,) * 2)

    written(half, 100)
    source = FolderSource(tmp_path, block_frames=512, tell=lambda _event, _line: None)
    read = Read(source)
    read.wait_for(1)
    until(lambda: source.counters()["captures_read"] == 1)
    written(whole, 90)
    read.wait_for(frames_of_demo())
    until(lambda: source.counters()["captures_read"] == 2)
    assert read.frames == frames_of_demo()
    written(whole[:24] + bytes(4) + whole[28:], 80)  # another first packet: another capture
    read.wait_for(2 * frames_of_demo())
    read.stop()
    assert read.frames == 2 * frames_of_demo()


def test_a_capture_in_the_middle_of_which_the_sensor_ended_is_read_on(tmp_path: Path) -> None:
    put(tmp_path, "a.pcap.gz")
    first = FolderSource(tmp_path, block_frames=64, tell=lambda _event, _line: None)
    found = 0
    for block in first:
        found += len(block.frames)
        if found > 200:
            first.stop()
    assert found < frames_of_demo()
    read = Read(FolderSource(tmp_path, block_frames=64, tell=lambda _event, _line: None, read=first.marks))
    read.wait_for(frames_of_demo() - found)
    read.stop()
    assert read.frames == frames_of_demo() - found
