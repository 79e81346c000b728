"""What netseq-replay refuses: one line that names the place and says what to do, status 2, and no traceback."""

from __future__ import annotations

import errno
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import said

from sensor.commands import datasets, reading, replay

DEMO = Path(__file__).parent / "data" / "demo.pcap.gz"
CONN = '{"ts":1.7e9,"uid":"C1","id.orig_h":"10.0.0.1","id.orig_p":4000,"id.resp_h":"10.0.0.2","id.resp_p":53,"proto":"udp"}\n'


def refused(capfd: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    try:
        status = replay.main([str(argument) for argument in arguments])
    except SystemExit as end:  # argparse ends the process on misuse
        status = int(end.code or 0)
    out, err = said(capfd)
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("netseq-replay: ")
    return err


def test_a_folder_with_captures_and_a_log_loses_neither_without_a_word(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shutil.copy(DEMO, tmp_path)
    (tmp_path / "conn.log").write_text(CONN)
    told = refused(capfd, tmp_path)
    assert f"{tmp_path}/conn.log" in told
    assert f"{tmp_path}/demo.pcap.gz" in told


@pytest.mark.parametrize("name", ["readme.md", "conn.log"])
def test_text_beside_captures_is_left_out_and_counted(capfd: pytest.CaptureFixture[str], tmp_path: Path, name: str) -> None:
    shutil.copy(DEMO, tmp_path)
    (tmp_path / name).write_text("# Captures, all of one office\n")
    assert replay.main([str(tmp_path)]) == 0
    assert f"{tmp_path}/{name}: it is no pcap or pcapng capture" in capfd.readouterr().out


@pytest.mark.parametrize("place", ["/proc/x", "{file}/deep", "{file}"])
def test_an_output_that_cannot_be_made_is_refused_before_the_model_is_loaded(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "file").write_text("")
    folder = place.format(file=tmp_path / "file")
    monkeypatch.setattr(replay, "open_engine", lambda _: pytest.fail("the model was loaded"))
    assert f"{folder}: cannot be written" in refused(capfd, "--output", folder, DEMO)


def test_an_alert_file_that_is_a_folder_is_refused(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "alerts.jsonl").mkdir()
    assert f"{tmp_path}/alerts.jsonl: cannot be written" in refused(capfd, "--output", tmp_path, DEMO)


def test_a_check_of_the_output_leaves_nothing_behind(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    refused(capfd, "--output", tmp_path / "a" / "b", "--set", "model.device=cuda:63", DEMO)
    assert not (tmp_path / "a").exists()


def test_an_unknown_option_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert "unrecognized arguments: --jsno: see netseq-replay --help" in refused(capfd, "--jsno", DEMO)


def test_a_terminal_as_standard_input_is_refused() -> None:
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "sensor.commands.replay", "-"]
    try:
        ended = subprocess.run(command, stdin=follower, capture_output=True, check=False, timeout=60)
    finally:
        os.close(leader)
        os.close(follower)
    assert ended.returncode == 2
    assert ended.stderr.startswith(b"netseq-replay: -: standard input is a terminal: pipe a capture into it")


def test_a_log_that_may_not_be_read_beside_captures_is_no_traceback(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: str, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    shutil.copy(DEMO, tmp_path)
    (tmp_path / "conn.log").write_text(CONN)
    monkeypatch.setattr(datasets, "open", denied, raising=False)
    assert replay.main([str(tmp_path)]) == 0
    assert f"{tmp_path}/conn.log: " in capfd.readouterr().out


def test_the_first_damaged_places_are_named_and_the_rest_are_counted(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    log = tmp_path / "conn.log"
    log.write_text(CONN + '{"ts":"never"}\n' * 150)
    assert replay.main(["--json", str(log)]) == 1
    lines = [line for line in said(capfd)[1].splitlines() if line.startswith("netseq-replay: ")]
    assert len(lines) == reading.TOLD + 1
    assert lines[0].startswith(f"netseq-replay: {log}: damaged at line 2: ")
    assert lines[-1].startswith(f"netseq-replay: {log}: and 130 more places that could not be read")


def test_a_file_named_twice_is_told_as_that(capfd: pytest.CaptureFixture[str]) -> None:
    assert replay.main([str(DEMO), str(DEMO)]) == 0
    assert f"{DEMO}: the same file as {DEMO}" in capfd.readouterr().out


def test_a_closed_standard_input_is_refused(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)  # as Python has it then
    assert "-: standard input is closed" in refused(capfd, "-")
