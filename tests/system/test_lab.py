"""The laboratory end to end, as docs/lab.md tells it: runs that come to their end, and runs that are ended before.

The small run of `make lab` takes five minutes: here it is made once, in half of the time, and goes on while what ends a run
early is tried on a smaller one, written here. So each test also tells that runs do not meet.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import worlds
from lab import programs
from lab.description import read
from lab.schedule import draw
from lab.site import LabError
from machine import ROOT

from sensor.labels import Labels

SMALL = ROOT / "tests/lab/small.toml"
PATIENCE_S = 180.0
RUN_S = 900.0
"""For the small run: its time, its servers' start, the compilation of kernels for its check, and a busy machine."""

SHORTER = {
    "seconds = 300": "seconds = 150",
    "lasts_s = [60, 90]": "lasts_s = [30, 40]",  # of bots
    "interval_s = 3.0": "interval_s = 1.0",
    "lasts_s = [40, 50]": "lasts_s = [40, 40]",
    "lasts_s = [20, 30]": "lasts_s = [20, 20]",
    "lasts_s = [20, 25]": "lasts_s = [20, 20]",
    "lasts_s = [15, 25]": "lasts_s = [15, 15]",
    "lasts_s = [10, 20]": "lasts_s = [10, 10]",
}
"""What makes half a day of the small run's day, in which its attacks find room."""


def shorter() -> str:
    """The small run's description for half of its time: all its hosts, habits and attacks."""
    text = SMALL.read_text()
    for old, new in SHORTER.items():
        assert old in text, f"{SMALL} has no {old!r} any more"
        text = text.replace(old, new)
    return text


@cache
def why_not() -> str:
    """Why the laboratory cannot run here, or ""."""
    if reason := worlds.why_not():
        return reason
    try:
        programs.refuse_missing(*draw(read(SMALL), 1))
    except LabError as error:
        return str(error)
    return ""


pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.skipif(bool(why_not()), reason=why_not() or "none")]

TINY = """\
domain = "lab.example"
[time]
seconds = 40
compression = 120
warm_up_s = 1
[runs]
train = { seed = 1 }
[hosts]
router = { kind = "router", ipv4 = ["192.0.2.1", "198.51.100.1", "203.0.113.1"] }
dns = { kind = "server", ipv4 = ["192.0.2.2"], services = ["dns"] }
web = { kind = "server", ipv4 = ["192.0.2.10"], services = ["http"] }
office = { kind = "office", ipv4 = ["192.0.2.101"], count = 2 }
mallory = { kind = "attacker", ipv4 = ["198.51.100.110"], delay_ms = 10 }
[[habits]]
who = ["office"]
what = "web"
every_s = 60
given = { name = { site_of = "web" }, tls = false }
[[attacks]]
kind = "scan_connect"
attackers = ["mallory"]
victims = ["web"]
lasts_s = [5, 6]
times = 2
"""
"""A network small enough to be made and taken down in seconds, with traffic all the time."""

BEGUN = "agents:"
"""The run's line when its clock is about to start."""


class Run:
    """A run of the tiny description in a process of its own."""

    def __init__(self, folder: Path, output: Path, *options: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        description = folder / "tiny.toml"
        description.write_text(TINY)
        command = [sys.executable, "-m", "tests.lab", "run", str(description), "--seed", "1", "--output", str(output), *options]
        self.output = output
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, process_group=0)
        self.said = ""

    def until(self, words: str) -> None:
        """Wait until it has said this."""
        assert self.process.stdout is not None
        until = time.monotonic() + PATIENCE_S
        while words not in self.said:
            assert select.select([self.process.stdout], [], [], max(until - time.monotonic(), 0.0))[0], self.said
            more = os.read(self.process.stdout.fileno(), 65_536).decode()
            assert more, f"it ended: {self.said}"
            self.said += more

    def end(self) -> int:
        """Wait for its end; its exit status."""
        said, _ = self.process.communicate(timeout=PATIENCE_S)
        self.said += said.decode()
        return self.process.returncode

    def packets(self) -> int:
        """Bytes of packets that the capture has on disk."""
        path = self.output / "capture.pcap"
        return path.stat().st_size if path.exists() else 0


def until(true: Callable[[], object], what: str) -> None:
    limit = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < limit, f"waited for {what}"
        time.sleep(0.05)


def family(pid: int) -> set[int]:
    """A process and all that it started, and what these started."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # ended while we looked
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found, waiting = set[int](), [pid]
    while waiting:
        found.add(one := waiting.pop())
        waiting += children.get(one, [])
    return found


def networks(pids: set[int]) -> set[int]:
    """Their network namespaces, by inode."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            found.add(Path(f"/proc/{pid}/ns/net").stat().st_ino)
    return found


def every_process() -> set[int]:
    return {int(path.name) for path in Path("/proc").glob("[0-9]*")}


def netseq(command: str, *arguments: str) -> str:
    """What one of netseq's commands says."""
    done = subprocess.run(
        [str(Path(sys.executable).parent / f"netseq-{command}"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=RUN_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Small:
    """The small run, made by `make lab`; it goes on until somebody waits for its end."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder / "small", folder / "said.txt"
        description = folder / "shorter.toml"
        description.write_text(shorter())
        given = [f"LAB={self.folder}", f"LAB_DESCRIPTION={description}", f"VENV={Path(sys.executable).parents[1]}"]
        with self.log.open("wb") as said:
            command = ["make", "--no-print-directory", "lab", *given]
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said, process_group=0)

    def end(self) -> None:
        """End it if it still goes on."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait(PATIENCE_S)


@pytest.fixture(scope="module", autouse=True)
def begun(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Small | None]:
    """The small run, begun before the first test, if any of those that were asked for reads it."""
    if not any("small" in getattr(item, "fixturenames", ()) for item in request.session.items):
        yield None
        return
    run = Small(tmp_path_factory.mktemp("lab"))
    yield run
    run.end()


@pytest.fixture(scope="module")
def small(begun: Small) -> Path:
    """The folder of the small run, when it is over. Its check has no complaint, or make would fail."""
    assert begun.process.wait(RUN_S) == 0, begun.log.read_text()
    return begun.folder


def test_ctrl_c_leaves_what_was_captured_and_labelled_so_far(tmp_path: Path) -> None:
    run = Run(tmp_path, tmp_path / "run")
    run.until(BEGUN)
    instances = tmp_path / "run/instances"
    until(lambda: list(instances.glob("*.json")), "the first attack to end")
    before = family(run.process.pid)
    run.process.send_signal(signal.SIGINT)
    assert run.end() == 130, run.said
    assert "ended before its time: interrupted by SIGINT" in run.said
    assert not before & every_process()
    attacks = {path.stem for path in instances.glob("*.json")}
    told = (tmp_path / "run/labels.csv").read_text()
    assert attacks
    assert all(f"# {attack}: " in told for attack in attacks)
    labels = Labels.read(tmp_path / "run/labels.csv")
    assert "PortScan" in labels.names
    assert "PortScan" in (tmp_path / "run/check.txt").read_text()


def test_ctrl_c_before_anything_was_captured_ends_at_once(tmp_path: Path) -> None:
    run = Run(tmp_path, tmp_path / "run")
    run.until("network:")
    before = family(run.process.pid)
    run.process.send_signal(signal.SIGINT)
    assert run.end() == 130, run.said
    assert run.said.endswith("interrupted by SIGINT\n")
    assert not before & every_process()


def test_kill_9_leaves_no_process_and_no_network(tmp_path: Path) -> None:
    run = Run(tmp_path, tmp_path / "run")
    run.until(BEGUN)
    until(lambda: run.packets() > 100_000, "packets")
    members = family(run.process.pid)
    spaces = networks(members) - networks({os.getpid(), run.process.pid})
    assert len(members) > 8
    assert len(spaces) > 3
    run.process.kill()
    assert run.end() == -signal.SIGKILL
    until(lambda: not members & every_process(), "all of its processes to be gone")
    assert not spaces & networks(every_process())


MS_NOSUID, MS_NODEV = 2, 4


@pytest.fixture
def little_room(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MB."""
    libc, place = ctypes.CDLL(None, use_errno=True), tmp_path / "little"
    place.mkdir()
    if libc.mount(b"tmpfs", str(place).encode(), b"tmpfs", MS_NOSUID | MS_NODEV, b"size=64m") != 0:
        pytest.skip(f"no file system can be mounted here: {os.strerror(ctypes.get_errno())}")
    yield place
    libc.umount2(str(place).encode(), 0)


def test_a_full_disk_ends_a_run_with_what_was_captured_and_labelled_so_far(tmp_path: Path, little_room: Path) -> None:
    run = Run(tmp_path, little_room / "run")
    run.until(BEGUN)
    until(lambda: run.packets() > 100_000, "packets")
    with (little_room / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while filler.write(bytes(1 << 16)):
            pass
    assert run.end() == 1, run.said
    manifest = json.loads((little_room / "run/manifest.json").read_text())
    assert "is full" in manifest["ended"]
    assert manifest["ended"] in run.said
    assert Labels.read(little_room / "run/labels.csv").lines
    assert "flows" in netseq("replay", str(little_room / "run/capture.pcap"))


def test_two_runs_at_the_same_time_do_not_meet_and_one_seed_has_one_schedule(tmp_path: Path) -> None:
    runs = [Run(tmp_path / name, tmp_path / name / "run", "--seconds", "20") for name in ("one", "other")]
    for run in runs:
        assert run.end() == 0, run.said
    first, second = (json.loads((run.output / "manifest.json").read_text()) for run in runs)
    for name in ("hosts.json", "schedule.json", "description.toml"):
        assert first["sha256"][name] == second["sha256"][name]
    assert first["sha256"]["capture.pcap"] != second["sha256"]["capture.pcap"]


def test_the_small_run_has_flows_of_every_attack_it_planned(small: Path) -> None:
    planned = {attack["name"] for attack in json.loads((small / "schedule.json").read_text())["attacks"]}
    assert {path.stem for path in (small / "instances").glob("*.json")} == planned
    assert len({name.rpartition("-")[0] for name in planned}) >= 10
    assert "no complaints" in (small / "check.txt").read_text()


def test_a_second_check_of_the_small_run_says_the_same(small: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-m", "tests.lab", "check", str(small)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert said.stdout == (small / "check.txt").read_text()


def test_the_manifest_names_what_the_small_run_was_made_with_and_what_came_out(small: Path) -> None:
    manifest = json.loads((small / "manifest.json").read_text())
    assert manifest["ended"] == "whole"
    assert manifest["versions"]["nmap"] not in {"", "unknown"}
    assert set(manifest["sha256"]) == {"capture.pcap", "labels.csv", "hosts.json", "schedule.json", "description.toml"}
    assert manifest["capture"]["captured"] == pytest.approx(manifest["capture"]["sent"], rel=1e-3)


def test_netseq_measures_itself_on_the_small_run_without_another_step(small: Path) -> None:
    assert "any attack against benign only" in netseq("evaluate", "words", str(small), "--resamples", "0")
    assert "flows" in netseq("replay", str(small / "capture.pcap"))
