"""Which files training and measuring take, and what is told of those that they do not."""

from __future__ import annotations

import bz2
import os
import threading
from pathlib import Path

import pytest
from conftest import DATA, said

from sensor.commands.classes import Classes
from sensor.commands.datasets import only_kind, read
from sensor.commands.flows import main as flows
from sensor.commands.flowsets import read as read_flows
from sensor.commands.misuse import Misuse
from sensor.commands.train import main as train
from sensor.labels import Labels

DEMO = DATA / "demo.pcap.gz"
STRANGE = "id,srcip,sport,dstip,dsport,proto,state,dur\n1,59.166.0.0,1390,149.171.126.6,53,udp,CON,0.001\n"
"""The beginning of a table of UNSW-NB15."""
WRITE = "write flows with netseq-flows --format csv --header netseq"


def refused(capfd: pytest.CaptureFixture[str], path: Path, kind: str = "multiflow") -> str:
    """The one line that training refuses a FILE with."""
    assert train([kind, str(path), "--output", f"{path}-model", "--quiet"]) == 2
    told = said(capfd)[1]
    assert told.startswith("netseq-train: ")
    assert told.count("\n") == 1
    return told


def test_a_folder_of_tables_that_are_not_read_tells_which_columns_they_would_need(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "table.csv").write_text(STRANGE)
    (tmp_path / "data" / "README").write_text("what it is")
    told = refused(capfd, tmp_path / "data")
    assert f"{tmp_path}/data: a folder without flows: none of its 2 files can be read: {tmp_path}/data/table.csv is no" in told
    assert "its first line names 0 statistics of flows, 10 are the least" in told
    assert "no column for Src IP, Dst IP" not in told
    assert "has no column for Timestamp, Src Port, Dst Port, Protocol" in refused(capfd, tmp_path / "data", "words")


def test_an_empty_folder_is_told_to_be_empty(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    assert f"{tmp_path}/data: a folder without flows: it is empty\n" in refused(capfd, tmp_path / "data")


def test_a_file_of_no_kind_is_told_what_each_kind_needs(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "random.csv"
    path.write_bytes(bytes(range(128, 256)) * 20)
    told = refused(capfd, path)
    assert f"{path}: it is no pcap or pcapng capture" in told
    assert "; a conn.log needs ts, id.orig_h, id.orig_p, id.resp_h, id.resp_p, proto; a table of flows (CSV) needs a" in told
    assert "a first line that names at least 10 columns of docs/statistics.md\n" in told
    assert "a first line that names the columns Src IP, Dst IP, Timestamp, Src Port" in refused(capfd, path, "words")


@pytest.mark.parametrize("content", [b"", bz2.compress(b"a capture"), b"snoop\0\0\0 and more"])
def test_what_is_known_to_be_something_else_is_told_as_that_alone(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "file").write_bytes(content)
    assert "conn.log" not in refused(capfd, tmp_path / "file")


@pytest.mark.parametrize(("suffix", "form"), [("jsonl", "flows in JSON lines"), ("parquet", "Parquet")])
def test_flows_in_a_format_that_is_not_read_are_told_which_one_to_write(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, suffix: str, form: str
) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow", reason="Parquet is an extra")
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / f"flows.{suffix}"
    assert flows([str(DEMO), "--output", str(path), "--quiet"]) == 0
    for kind in ("multiflow", "words"):
        assert refused(capfd, path, kind) == f"netseq-train: {path}: it is {form}, which is not read: {WRITE}\n"
        assert f"none of its 1 files can be read: {path}: it is {form}, which is not read: {WRITE}" in refused(
            capfd, tmp_path / "data", kind
        )
    with pytest.raises(Misuse, match="which is not read"):
        read(str(path))


def test_a_conn_log_in_json_is_one_still(tmp_path: Path) -> None:
    assert flows([str(DEMO), "--format", "zeek-json", "--output", str(tmp_path / "conn.json"), "--quiet"]) == 0
    assert only_kind(str(tmp_path / "conn.json")) == "conn.log"
    assert only_kind(str(tmp_path)) == "conn.log"


def test_all_columns_of_a_table_are_kept_under_netseqs_own_header_alone(tmp_path: Path) -> None:
    lost = {}
    for header in ("netseq", "cicflowmeter"):
        path = tmp_path / f"{header}.csv"
        assert flows([str(DEMO), "--header", header, "--output", str(path), "--quiet"]) == 0
        columns = ("FWD Init Win Bytes", "Active Mean", "Subflow Fwd Bytes", "Flow Duration")
        lost[header] = read_flows([str(path)], Classes(), columns, labels=Labels.parse(b"label\nBENIGN\n", "labels.csv")).empty
    assert lost == {"netseq": (), "cicflowmeter": ("FWD Init Win Bytes", "Active Mean", "Subflow Fwd Bytes")}


def test_a_capture_may_come_out_of_a_pipe_but_not_for_training(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pipe, out = tmp_path / "pipe", (tmp_path / "file.csv", tmp_path / "pipe.csv")
    os.mkfifo(pipe)
    threading.Thread(target=pipe.write_bytes, args=(DEMO.read_bytes(),), daemon=True).start()
    for path, written in zip((DEMO, pipe), out, strict=True):
        assert flows([str(path), "--output", str(written), "--quiet"]) == 0
    assert out[0].read_bytes() == out[1].read_bytes()
    for kind in ("multiflow", "words"):
        assert "a pipe can be read but once, and its fingerprint is wanted too: name a file" in refused(capfd, pipe, kind)
