"""netseq-replay while it runs: interrupts, pipes that fall silent, live pipes, and the limit of open files."""

from __future__ import annotations

import fcntl
import gzip
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sensor import config
from sensor.assembly import Assembly
from sensor.commands import process, replay
from sensor.commands.ahead import Ahead
from sensor.engine import Judge
from sensor.schema import Alert, FlowBatch, FrameBlock
from sensor.sources.pcap import CaptureSource

DEMO = Path(__file__).parent / "data" / "demo.pcap.gz"
COMMAND = [sys.executable, "-m", "sensor.commands.replay"]


@pytest.fixture(scope="module")
def demo() -> bytes:
    return gzip.decompress(DEMO.read_bytes())


def test_an_interrupt_while_a_batch_is_scored_loses_no_flow(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    scored: list[int] = []
    really = Judge.judge

    def judge(self: Judge, batch: FlowBatch) -> list[Alert]:
        if not scored:
            os.kill(os.getpid(), signal.SIGINT)
        scored.append(len(batch.flows))
        return really(self, batch)

    monkeypatch.setattr(Judge, "judge", judge)
    assert replay.main(["--set", "model.batch_flows=20", str(DEMO)]) == 130
    out, err = capfd.readouterr()
    assert err.endswith("netseq-replay: interrupted: the rest of the input was not read\n")
    (flows,) = (line.split()[1] for line in out.splitlines() if line.startswith("flows "))
    assert sum(scored) == int(flows.replace(",", "")) > 20


def test_a_second_interrupt_ends_the_run_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def judge(_: Judge, __: FlowBatch) -> list[Alert]:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        return []

    monkeypatch.setattr(Judge, "judge", judge)
    assert replay.main([str(DEMO)]) == 130
    assert capfd.readouterr().err.endswith("netseq-replay: interrupted: what was read is not all scored\n")


def test_an_interrupt_while_the_command_starts_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr("sensor.kernels.prepare_cache", interrupted)
    assert replay.main([str(DEMO)]) == 130
    assert capfd.readouterr().err.count("\n") == 1


def test_after_a_run_an_interrupt_is_python_s_again() -> None:
    before = signal.getsignal(signal.SIGINT)
    with process.interrupts(lambda: None):
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_on_a_pipe_that_stays_open_and_silent_scores_what_was_read(demo: bytes) -> None:
    with subprocess.Popen([*COMMAND, "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        assert running.stderr is not None
        fcntl.fcntl(running.stdin.fileno(), fcntl.F_SETPIPE_SZ, 4096)
        running.stdin.write(demo)  # returns when all but the last page was read
        running.stdin.flush()
        running.send_signal(signal.SIGINT)
        guard = threading.Timer(60, running.kill)  # what does not end by itself must not hold up all other tests
        guard.start()
        out, err = running.stdout.read().decode(), running.stderr.read().decode()  # and the pipe is still open
        assert running.wait(timeout=60) == 130
        guard.cancel()
    assert "interrupted: the rest of the input was not read" in err
    (packets,) = (line.split()[1] for line in out.splitlines() if line.startswith("packets "))
    assert int(packets.replace(",", "")) > 0


class SilentPipe:
    """Blocks of a capture, and then nothing, and no end until it is let go."""

    def __init__(self) -> None:
        self.silent, self.let_go = threading.Event(), threading.Event()

    def __iter__(self) -> Iterator[FrameBlock]:
        yield from CaptureSource([DEMO], block_frames=64)
        self.silent.set()
        self.let_go.wait(60)


def test_a_silent_source_that_is_stopped_gives_every_flow_that_was_read() -> None:
    pipe, assembly = SilentPipe(), Assembly(config.Settings())
    ahead = Ahead(pipe, assembly)
    batches = iter(ahead)
    while not pipe.silent.is_set():
        pipe.silent.wait(0.1)
    ahead.stop()
    flows = sum(len(batch.flows) for batch in batches)
    counters = assembly.counters()
    assert flows == sum(number for name, number in counters.items() if name.startswith("flows_ended")) > 0
    assert counters["flows_live"] == 0
    pipe.let_go.set()
    ahead.close()


def test_flows_of_a_live_pipe_do_not_wait_for_a_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sensor.commands.ahead.LIVE_S", -1.0)  # as if each block came a while after the last
    for live, whole in ((True, False), (False, True)):
        pipe = SilentPipe()
        ahead = Ahead(pipe, Assembly(config.Settings()), live=live)
        pipe.silent.wait(60)
        assert ahead._ready.empty() is whole  # the demo has fewer flows than a batch
        pipe.let_go.set()
        ahead.close()


def test_only_a_pipe_or_socket_is_read_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    really = os.fstat
    monkeypatch.setattr(os, "fstat", lambda _: really(read))
    assert process.is_live(["-"])
    assert not process.is_live([str(DEMO)])
    (tmp_path / "file").touch()
    monkeypatch.setattr(os, "fstat", lambda _: (tmp_path / "file").stat())
    assert not process.is_live(["-"])
    os.close(read)
    os.close(write)


def captures(folder: Path, demo: bytes, number: int) -> Path:
    """Captures that overlap in time."""
    for place in range(number):
        (folder / f"{place}.pcap").write_bytes(demo)
    return folder


def limited(soft: int, hard: int, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", f'ulimit -Sn {soft}; ulimit -Hn {hard}; exec "$@"', "sh", *COMMAND, "--json", str(folder)],
        capture_output=True,
        check=False,
        text=True,
        timeout=120,
    )


def test_the_limit_of_open_files_is_raised_for_captures_that_overlap(tmp_path: Path, demo: bytes) -> None:
    ended = limited(64, 1024, captures(tmp_path, demo, 70))
    assert ended.returncode == 0, ended.stderr


def test_a_limit_of_open_files_that_cannot_be_raised_is_told_in_one_line(tmp_path: Path, demo: bytes) -> None:
    ended = limited(64, 64, captures(tmp_path, demo, 91))
    assert ended.returncode == 1
    assert "than the limit of 64 open files allows: raise it (ulimit -n)" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stderr.count("\n") == 1
