"""The command itself, whatever it measures: what it asks for, and that its files do not hang on who reads its table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import DATA

from sensor.commands.evaluate import main, parser

SAMPLE = ("words", str(DATA / "demo.pcap.gz"), "--labels", str(DATA / "demo-labels.csv"), "--resamples", "0")


def test_a_reader_who_goes_away_leaves_the_files_whole(tmp_path: Path) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    paths = ["--json", str(tmp_path / "x.json"), "--html", str(tmp_path / "x.html")]
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "sensor.commands.evaluate", *SAMPLE, *paths],
            stdout=writes, stderr=subprocess.PIPE, text=True, timeout=300, check=False,
        )  # fmt: skip
    finally:
        os.close(writes)
    assert (ended.returncode, ended.stderr) == (141, "")
    assert json.loads((tmp_path / "x.json").read_text())["tables"]
    assert (tmp_path / "x.html").read_text().endswith("</html>\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_table_that_cannot_be_written_is_one_line_and_exit_1(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "sensor.commands.evaluate", *SAMPLE, "--json", str(tmp_path / "x.json")],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=300, check=False,
        )  # fmt: skip
    assert ended.returncode == 1
    assert ended.stderr == "netseq-evaluate: standard output: the table cannot be written: No space left on device\n"
    assert (tmp_path / "x.json").exists()


@pytest.mark.parametrize(
    ("kind", "said"), [("words", " FILE [FILE ...]\n"), ("multiflow", " MODEL FILE [FILE ...]\n"), ("amf-lstm", " --data DIR ")]
)
def test_usage_tells_what_may_be_given_more_than_once(kind: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args([kind, "--help"])
    usage = capsys.readouterr().out.split("\n\n")[0] + "\n"
    assert said in f"{' '.join(usage.split())}\n"
    assert "[MODEL FILE ...]" not in usage


def test_a_model_without_traffic_is_told_what_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["multiflow", "model"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "netseq-evaluate: the following arguments are required: FILE: see netseq-evaluate multiflow --help\n"
    )


@pytest.mark.parametrize("kind", ["amf-lstm", "radford2018"])
def test_a_file_in_place_of_the_folder_of_a_data_set_is_called_a_file(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "week.csv").write_text("x\n")
    assert main([kind, "--data", str(tmp_path / "week.csv")]) == 2
    assert "week.csv: it is a file: --data names the folder" in capsys.readouterr().err
