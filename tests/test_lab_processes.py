"""The processes of a run, with real ones."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from lab.processes import Processes
from lab.site import LabError
from namespaces import wait_until


def test_a_process_adds_to_its_log_in_its_folder_with_its_environment(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "one.log"
    with Processes() as processes:
        for word in ("first", "second"):
            process = processes.start(["sh", "-c", 'echo "$WORD $PWD"; echo bad >&2'], log, env={"WORD": word}, expected=True)
            assert process.wait(30.0) == 0
        assert process.last_lines(2) == [f"second {log.parent}", "bad"]
        processes.check()
    assert log.read_text().count("bad") == 2


def test_a_process_that_ends_too_early_is_told_with_its_last_words(tmp_path: Path) -> None:
    with Processes() as processes:
        process = processes.start(["sh", "-c", "echo no port; exit 3"], tmp_path / "log", name="server of web")
        process.wait(30.0)
        with pytest.raises(LabError, match=r"server of web ended too early \(status 3\): no port; its log is"):
            processes.check()


def test_a_program_that_is_not_installed_is_refused(tmp_path: Path) -> None:
    with Processes() as processes, pytest.raises(LabError, match="no-such-program is not installed"):
        processes.start(["no-such-program"], tmp_path / "log")


def test_what_a_process_started_ends_with_it_even_when_it_hears_nothing(tmp_path: Path) -> None:
    deaf = "trap '' TERM; sh -c \"trap '' TERM; echo \\$\\$; while true; do sleep 0.1; done\" & while true; do sleep 0.1; done"
    with Processes() as processes:
        process = processes.start(["sh", "-c", deaf], tmp_path / "log")
        wait_until(lambda: bool(process.last_lines()), "the child's number")
        child = int(process.last_lines()[0])
        begin = time.monotonic()
        processes.end(0.2)
        assert time.monotonic() - begin < 10.0
    assert process.poll() == -signal.SIGKILL
    wait_until(lambda: not running(child), "the end of the child")


FINISHES = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(print("done")))
print("up", flush=True)
time.sleep(1000)
"""


def test_processes_have_time_to_finish(tmp_path: Path) -> None:
    with Processes() as processes:
        both = [processes.start([sys.executable, "-c", FINISHES], tmp_path / name) for name in ("first", "last")]
        wait_until(lambda: all(process.last_lines() for process in both), "both to be up")
    assert [process.poll() for process in both] == [0, 0]
    assert all(process.last_lines() == ["up", "done"] for process in both)


def running(process: int) -> bool:
    """Whether a process runs; one that is dead and not yet buried does not."""
    try:
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
