"""What netseq-replay refuses: one line that names the place and says what to do, status 2, and no traceback."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sensor.commands import replay

DEMO = Path(__file__).parent / "data" / "demo.pcap.gz"
CONN = '{"ts":1.7e9,"uid":"C1","id.orig_h":"10.0.0.1","id.orig_p":4000,"id.resp_h":"10.0.0.2","id.resp_p":53,"proto":"udp"}\n'


def refused(capfd: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    try:
        status = replay.main([str(argument) for argument in arguments])
    except SystemExit as end:  # argparse ends the process on misuse
        status = int(end.code or 0)
    out, err = capfd.readouterr()
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("netseq-replay: ")
    return err


def test_a_folder_with_captures_and_a_log_loses_neither_without_a_word(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shutil.copy(DEMO, tmp_path)
    (tmp_path / "conn.log").write_text(CONN)
    said = refused(capfd, tmp_path)
    assert f"{tmp_path}/conn.log" in said
    assert f"{tmp_path}/demo.pcap.gz" in said


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
