"""The watched folder where its captures are not as they should be: unreadable, of a clock that is ahead, no captures."""

from __future__ import annotations

import ctypes
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from conftest import DATA
from sensor_process import until

from sensor import service_folder
from sensor.service_folder import SETTLED_S, FolderSource, Mark
from sensor.sources.pcap import CaptureSource

FRAMES = sum(len(block.frames) for block in CaptureSource([DATA / "demo.pcap.gz"]))
DAC_OVERRIDE, DAC_READ_SEARCH = 1 << 1, 1 << 2
"""What lets root read a file that its mode forbids (linux/capability.h)."""
CAPABILITY_VERSION_3 = 0x20080522


def bound_by_modes() -> None:
    """Give up, in this thread alone, the right to read what a file's mode forbids."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    sets[0] &= ~(DAC_OVERRIDE | DAC_READ_SEARCH)  # of those in effect
    assert libc.capset(header, sets) == 0


class Read:
    """What a source of `folder` yields in a thread that is bound by modes, and what it tells."""

    def __init__(self, folder: Path, marks: Mapping[str, Mark] | None = None) -> None:
        self.told: list[tuple[str, str]] = []
        self.source = FolderSource(folder, block_frames=512, tell=lambda *said: self.told.append(said), read=marks)
        self.frames = 0
        self.looks = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        bound_by_modes()
        for block in self.source:
            self.frames += len(block.frames)
            self.looks += not len(block.frames)

    def unreadable(self) -> int:
        return self.source.counters()["captures_unreadable"]

    def stop(self) -> Mapping[str, Mark]:
        self.source.stop()
        self._thread.join(10)
        assert not self._thread.is_alive()
        return self.source.marks


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Read]:
    """A source that is faster than in earnest."""
    monkeypatch.setattr(service_folder, "LOOK_S", 0.1)
    monkeypatch.setattr(service_folder, "STEP_S", 0.02)
    monkeypatch.setattr(service_folder, "RETRY_S", 0.2)
    return Read


def put(folder: Path, name: str, age_s: float = SETTLED_S + 1) -> Path:
    path = folder / name
    shutil.copy(DATA / "demo.pcap.gz", path)
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def test_a_capture_that_may_not_be_read_is_told_once_and_read_when_it_may(tmp_path: Path, reading: Callable[..., Read]) -> None:
    path = put(tmp_path, "locked.pcap.gz")
    path.chmod(0)
    read = reading(tmp_path)
    until(lambda: read.unreadable() == 1)
    looks = read.looks
    until(lambda: read.looks > looks + 30)  # it was tried again meanwhile
    assert [event for event, _ in read.told] == ["capture_unreadable"]
    assert "make it readable for user " in read.told[0][1]
    assert (read.frames, read.source.counters()["files_skipped"]) == (0, 0)
    path.chmod(0o644)  # neither its size nor its time of writing changes
    until(lambda: read.frames == FRAMES)
    until(lambda: read.unreadable() == 0)
    read.stop()


def test_a_capture_that_could_not_be_read_is_tried_again_after_a_restart(tmp_path: Path, reading: Callable[..., Read]) -> None:
    path = put(tmp_path, "locked.pcap.gz")
    path.chmod(0)
    read = reading(tmp_path)
    until(lambda: read.unreadable() == 1)
    marks = read.stop()
    assert not marks
    path.chmod(0o644)
    again = reading(tmp_path, marks)
    until(lambda: again.frames == FRAMES)
    again.stop()


def test_what_an_earlier_state_has_as_refused_is_looked_at_once_more(tmp_path: Path, reading: Callable[..., Read]) -> None:
    state = put(tmp_path, "once_locked.pcap.gz").stat()
    read = reading(tmp_path, {"once_locked.pcap.gz": Mark(state.st_size, state.st_mtime_ns, 0, 0)})
    until(lambda: read.frames == FRAMES)
    read.stop()


def test_an_unreadable_capture_that_is_taken_away_is_not_counted_any_more(tmp_path: Path, reading: Callable[..., Read]) -> None:
    path = put(tmp_path, "locked.pcap.gz")
    path.chmod(0)
    read = reading(tmp_path)
    until(lambda: read.unreadable() == 1)
    path.unlink()
    until(lambda: read.unreadable() == 0)
    read.stop()


@pytest.mark.parametrize("content", [b"no capture", b""])
def test_what_is_no_capture_is_told_once_also_over_a_restart(
    content: bytes, tmp_path: Path, reading: Callable[..., Read]
) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    os.utime(path, (0, 0))
    read = reading(tmp_path)
    until(lambda: read.source.counters()["files_skipped"] == 1)
    assert [event for event, _ in read.told] == ["capture_refused"]
    again = reading(tmp_path, read.stop())
    put(tmp_path, "a.pcap.gz")
    until(lambda: again.frames == FRAMES)
    again.stop()
    assert not again.told


def test_a_capture_of_a_clock_that_is_ahead_is_read_when_it_has_not_changed_for_some_seconds(
    tmp_path: Path, reading: Callable[..., Read], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_folder, "SETTLED_S", 1.0)
    path = put(tmp_path, "ahead.pcap.gz", age_s=-3600)
    read = reading(tmp_path)
    changing_s = time.monotonic() + 3
    while time.monotonic() < changing_s:  # its writer is at work, by a clock that is an hour ahead
        os.utime(path, (time.time() + 3600,) * 2)
        time.sleep(0.05)
    assert read.frames == 0
    until(lambda: read.frames == FRAMES)
    read.stop()
