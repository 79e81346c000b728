"""What netseq-flows does when it cannot go on: misuse, damage, full disks, readers that go away, interrupts."""

from __future__ import annotations

import errno
import gzip
import os
import pty
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import said

from sensor.commands import flows
from sensor.commands.flow_columns import FlowColumns
from sensor.row_text import Values
from sensor.schema import FlowBatch, FrameBlock
from sensor.sources.pcap import CaptureSource

DEMO = Path(__file__).parent / "data" / "demo.pcap.gz"
FLOWS = str(Path(sys.executable).with_name("netseq-flows"))


def ended(capfd: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    try:
        status = flows.main([str(argument) for argument in arguments])
    except SystemExit as end:  # argparse ends the process on misuse
        status = int(end.code or 0)
    return (status, *said(capfd))


def refused(capfd: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    status, out, err = ended(capfd, *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("netseq-flows: ")
    return err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "no FILE given"),
        (("absent.pcap",), "absent.pcap: no such file"),
        (("--output", "flows.txt", DEMO), "flows.txt: its suffix tells no format: add --format"),
        (("--format", "zeek", "--columns", "src_ip", DEMO), "conn.log has columns of its own"),
        (("--format", "zeek-json", "--header", "netseq", DEMO), "conn.log has columns of its own"),
        (("--columns", "fwd_pakets", DEMO), "unknown column 'fwd_pakets', did you mean 'fwd_packets'?"),
        (("--columns", "src_ip,,dst_ip", DEMO), "--columns: a name is empty"),
        (("--output", "/proc/x/flows.csv", DEMO), "/proc/x: cannot be written"),
        (("--output", DEMO.parent, "--format", "csv", DEMO), f"{DEMO.parent}: cannot be written (it is a folder)"),
        (("--rules", "zeek", DEMO), "argument --rules: invalid choice"),
        (("--set", "statistics.rule=netseq", DEMO), "did you mean statistics.rules?"),
    ],
)
def test_misuse_is_one_line(capfd: pytest.CaptureFixture[str], arguments: tuple[str | Path, ...], told: str) -> None:
    assert told in refused(capfd, *arguments)


def test_an_input_is_not_overwritten(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    capture = tmp_path / "demo.csv"
    capture.write_bytes(DEMO.read_bytes())
    assert f"{capture}: it is an input, too" in refused(capfd, "--output", capture, capture)
    assert capture.read_bytes() == DEMO.read_bytes()


def test_parquet_without_pyarrow_says_what_to_install(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install 'netseq[parquet]'" in refused(capfd, "--output", tmp_path / "x.parquet", DEMO)
    assert list(tmp_path.iterdir()) == []


def test_a_terminal_s_hint_names_this_command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "isatty", lambda _: True)
    assert "tcpdump -U -w - | netseq-flows -" in refused(capfd, "-")


def test_a_log_and_a_capture_in_one_run_are_refused(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "conn.log").write_text('{"ts":1,"id.orig_h":"1.1.1.1"}\n')
    assert "name them one after the other" in refused(capfd, tmp_path / "conn.log", DEMO)


def test_a_text_is_no_capture(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("Dear Sir or Madam\n")
    assert str(tmp_path / "letter.txt") in refused(capfd, tmp_path / "letter.txt")


def test_a_cut_capture_is_written_up_to_the_break_and_told(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "demo.pcap"
    path.write_bytes(gzip.decompress(DEMO.read_bytes())[:-20])
    status, out, err = ended(capfd, "--quiet", path)
    assert status == 1
    assert err.startswith(f"netseq-flows: {path}: damaged at byte ")
    assert err.count("\n") == 1
    assert len(out.splitlines()) > 200


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full is Linux's")
@pytest.mark.parametrize("form", ["csv", "jsonl", "zeek", "zeek-json", "parquet"])
def test_a_device_that_is_full_is_one_line_and_status_1(capfd: pytest.CaptureFixture[str], form: str) -> None:
    status, out, err = ended(capfd, "--format", form, "--output", "/dev/full", DEMO)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("netseq-flows: cannot write flows to /dev/full: No space left on device")
    assert Path("/dev/full").is_char_device()


def with_room(size: int, capfd: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """Run the command where no file may grow beyond `size`, which fails as a full disk does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        return ended(capfd, *arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("form", ["csv", "jsonl", "zeek", "zeek-json"])
def test_on_a_full_disk_whole_rows_stay(capfd: pytest.CaptureFixture[str], tmp_path: Path, form: str) -> None:
    path, size = tmp_path / "flows", 20_000
    whole = ended(capfd, "--quiet", "--format", form, DEMO)[1]
    status, out, err = with_room(size, capfd, "--format", form, "--output", path, DEMO)
    assert (status, out, err.count("\n")) == (1, "", 1), err
    assert err == f"netseq-flows: cannot write flows to {path}: File too large; every line in it is whole\n"
    kept = path.read_text()
    assert size - 2500 < len(kept) <= size
    assert kept.endswith("\n")
    rows = [line for line in kept.splitlines() if not line.startswith("#open")]
    assert rows == [line for line in whole.splitlines() if not line.startswith("#open")][: len(rows)]


def test_on_a_full_disk_nothing_is_left_of_parquet_and_the_file_of_before_stays(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "flows.parquet"
    ended(capfd, "--quiet", "--columns", "src_ip", "--output", path, DEMO)
    before = path.read_bytes()
    status, out, err = with_room(20_000, capfd, "--output", path, DEMO)
    assert (status, out, err.count("\n")) == (1, "", 1), err
    assert err.startswith(f"netseq-flows: cannot write flows to {path}: File too large")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_to_a_parquet_file_stays_a_link(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link.parquet").symlink_to(tmp_path / "there" / "flows.parquet")
    assert ended(capfd, "--quiet", "--output", tmp_path / "link.parquet", DEMO) == (0, "", "")
    assert (tmp_path / "link.parquet").is_symlink()
    assert pq.read_metadata(tmp_path / "there" / "flows.parquet").num_rows == 240


def test_a_reader_that_goes_away_ends_the_run_without_a_word(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, write = os.pipe()
    os.close(read)
    with open(write, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert ended(capfd, DEMO) == (141, "", "")


def interrupting(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Let Ctrl-C come while the first batch is on its way."""
    really = FlowColumns.values
    came: list[int] = []

    def values(self: FlowColumns, batch: FlowBatch) -> list[Values]:
        for _ in range(0 if came else times):
            came.append(1)
            os.kill(os.getpid(), signal.SIGINT)
        return really(self, batch)

    monkeypatch.setattr(FlowColumns, "values", values)


@pytest.mark.parametrize("name", ["flows.csv", "flows.parquet"])
def test_an_interrupt_ends_the_input_and_writes_what_lives(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    interrupting(monkeypatch, 1)
    path = tmp_path / name
    status, out, err = ended(capfd, "--set", "model.batch_flows=20", "--output", path, DEMO)
    assert (status, err) == (130, "netseq-flows: interrupted: the rest of the input was not read\n")
    (told,) = (line.split()[1] for line in out.splitlines() if line.startswith("flows "))
    rows = len(path.read_text().splitlines()) - 1 if name == "flows.csv" else pq.read_metadata(path).num_rows
    assert rows == int(told.replace(",", "")) > 20


def test_a_second_interrupt_ends_the_run_in_one_line_and_leaves_no_half_parquet(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupting(monkeypatch, 2)
    status, _, err = ended(capfd, "--output", tmp_path / "flows.parquet", DEMO)
    assert (status, err) == (130, "netseq-flows: interrupted: what was read is not all written\n")
    assert list(tmp_path.iterdir()) == []


def test_an_input_that_fails_is_not_told_as_the_output_s_fault(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(_: CaptureSource) -> Iterator[FrameBlock]:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(CaptureSource, "__iter__", exhausted)
    status, out, err = ended(capfd, "--output", tmp_path / "flows.parquet", DEMO)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "open files allows: raise it (ulimit -n)" in err
    assert list(tmp_path.iterdir()) == []


def test_parquet_goes_into_a_pipe_or_file_and_not_to_a_terminal(tmp_path: Path) -> None:
    command = [FLOWS, "--format", "parquet", "--quiet", str(DEMO)]
    with (tmp_path / "flows.parquet").open("wb") as stream:
        assert subprocess.run(command, stdout=stream, check=False).returncode == 0
    piped = subprocess.run(command, stdout=subprocess.PIPE, check=False).stdout
    assert piped == (tmp_path / "flows.parquet").read_bytes()
    assert pq.read_metadata(tmp_path / "flows.parquet").num_rows == 240
    ours, theirs = pty.openpty()
    told = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, text=True, check=False)
    os.close(theirs)
    os.close(ours)
    assert (told.returncode, told.stderr.count("\n")) == (2, 1)
    assert "Parquet is no text for a terminal" in told.stderr


def test_parquet_that_fails_on_standard_output_leaves_what_the_file_had(tmp_path: Path) -> None:
    path = tmp_path / "flows.parquet"
    path.write_bytes(b"before")

    def fill_up() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    with path.open("ab") as stream:
        command = [FLOWS, "--format", "parquet", "--quiet", str(DEMO)]
        told = subprocess.run(command, stdout=stream, stderr=subprocess.PIPE, text=True, preexec_fn=fill_up, check=False)
    assert (told.returncode, told.stderr.count("\n")) == (1, 1)
    assert "cannot write flows to standard output: File too large" in told.stderr
    assert path.read_bytes() == b"before"
