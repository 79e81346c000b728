"""Folders that bring their label file along: the same for training and measuring, of words and of flows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import DATA, said
from test_flowcsv_statistics import written
from test_train_command import write_log

from models.checkpoint import load
from models.multiflow_checkpoint import DEFAULT_PACKETS
from sensor.commands.classes import Classes
from sensor.commands.datasets import read
from sensor.commands.evaluate import main as evaluate
from sensor.commands.flowsets import read as read_flows
from sensor.commands.label_files import LabelFiles, beside, labelled
from sensor.commands.misuse import Misuse
from sensor.commands.train import main as train
from sensor.labels import Labels

PORTS = "dst_port,label\n5888,Sweep\n,BENIGN\n"
FAST = ("--units", "8", "--epochs", "2", "--quiet")
SCANNER = "141.142.220.118"


@pytest.fixture
def laboratory(tmp_path: Path) -> Path:
    """The bundled capture as a run of the laboratory lies about: labels beside it, and files of all kinds."""
    folder = tmp_path / "lab"
    for inside in ("instances", "logs/web", "agents"):
        (folder / inside).mkdir(parents=True)
    shutil.copy(DATA / "demo.pcap.gz", folder / "capture.pcap.gz")
    shutil.copy(DATA / "demo-labels.csv", folder / "labels.csv")
    (folder / "hosts.json").write_text('{\n "hosts": []\n}\n')
    (folder / "schedule.json").write_text('{"events": [], "attacks": []}\n')
    (folder / "manifest.json").write_text('{"tools": {"nmap": "7.93"}}\n')
    (folder / "instances" / "scan_syn-1.json").write_text('{"name": "scan_syn-1", "start_us": 1}\n')
    (folder / "logs" / "web" / "access.log").write_text("192.0.2.4, - GET / 200, 512\n")
    (folder / "logs" / "tool.log").write_text("#fields of a table that is none\n")
    (folder / "logs" / "empty.log").write_text("")
    return folder


def bare(path: Path, **options: int) -> Path:
    """A conn.log without labels."""
    rows = [line.split("\t") for line in write_log(path, **options).read_text().splitlines()]
    wide = {len(row) for row in rows if row[0] and row[0][0] != "#"}.pop()
    kept = [row[:-2] if row[0] in {"#fields", "#types"} or len(row) == wide else row for row in rows]
    path.write_text("\n".join("\t".join(row) for row in kept) + "\n")
    return path


def test_a_folder_with_its_labels_is_measured_without_another_step(laboratory: Path, tmp_path: Path) -> None:
    told = []
    for given in ([laboratory], [DATA / "demo.pcap.gz", "--labels", DATA / "demo-labels.csv"]):
        out = tmp_path / "told.json"
        assert evaluate(["words", *map(str, given), "--json", str(out), "--resamples", "5", "--quiet"]) == 0
        told.append(json.loads(out.read_text()))
    assert told[0]["tables"] == told[1]["tables"]
    assert any("labels.csv" in fact and "flows matched" in fact for name, fact in told[0]["facts"] if name == "labels")


def test_flows_of_a_folder_have_the_classes_of_its_labels(laboratory: Path) -> None:
    columns = ("Dst Port", "Flow Duration")
    beside_it = read_flows([str(laboratory)], Classes(), columns)
    named = read_flows([str(DATA / "demo.pcap.gz")], Classes(), columns, labels=Labels.read(DATA / "demo-labels.csv"))
    np.testing.assert_array_equal(beside_it.flows.label, named.flows.label)
    assert beside_it.counts == named.counts
    assert beside_it.counts["PortScan"] > 0
    assert any("labels.csv" in note and "flows matched" in note for note in beside_it.notes())


def test_a_folders_labels_tell_of_nothing_beyond_it(tmp_path: Path) -> None:
    for name, label in (("one", "PortScan"), ("two", "Bot")):
        (tmp_path / name).mkdir()
        bare(tmp_path / name / "conn.log", flows=20)
        (tmp_path / name / "labels.csv").write_text(f"dst_port,label\n443,{label}\n,BENIGN\n")
    third = bare(tmp_path / "conn.log", flows=20)
    got = read_flows([str(tmp_path / "one"), str(tmp_path / "two"), str(third)], Classes(), ("Dst Port", "Flow Duration"))
    assert {name: rows for name, rows in got.counts.items() if rows} == {"Normal": 20, "PortScan": 10, "Bot": 10}
    assert got.unjudged == {"flows without a label": 20}


def test_what_is_named_goes_before_what_a_folder_brings(laboratory: Path) -> None:
    named = Labels.parse(f"src,label\n{SCANNER},BENIGN\n".encode(), "named.csv")
    data = read(str(laboratory))
    files = LabelFiles([named], [str(laboratory)])
    assert not labelled(data, files.of(str(laboratory))).attack.any()
    assert labelled(data, LabelFiles([], [str(laboratory)]).of(str(laboratory))).attack.any()
    assert files.of("elsewhere") == (named,)


def test_attacks_of_a_folder_are_weighed_and_its_benign_flows_learned_at_once(tmp_path: Path) -> None:
    for name, seed in (("train", 1), ("validate", 2)):
        (tmp_path / name).mkdir()
        bare(tmp_path / name / "conn.log", attacks=50, seed=seed)
        (tmp_path / name / "labels.csv").write_text(PORTS)
    benign = bare(tmp_path / "conn.log", flows=300, seed=3)
    learned = [str(tmp_path / "train"), str(benign)]
    attacks = [str(tmp_path / "train"), str(tmp_path / "validate")]
    assert train(["words", *learned, "--attacks", *attacks, "--output", str(tmp_path / "office"), *FAST]) == 0
    bundle = load(tmp_path / "office")
    assert [source.rows for source in bundle.manifest.data] == [400, 300]
    assert bundle.manifest.vocabulary["learned"] == ["443/tcp", "53/udp"]
    assert bundle.weights.largest.sum() + bundle.weights.mean.sum() > 0


def test_named_labels_tell_of_attacks_too(tmp_path: Path) -> None:
    log = bare(tmp_path / "conn.log", attacks=50)
    (tmp_path / "ports.csv").write_text(PORTS)
    given = ["words", str(log), "--attacks", str(log), "--labels", str(tmp_path / "ports.csv")]
    assert train([*given, "--output", str(tmp_path / "office"), *FAST]) == 0
    assert load(tmp_path / "office").manifest.data[0].rows == 400


def test_flows_of_a_log_without_labels_that_no_line_matches_are_not_learned(tmp_path: Path) -> None:
    log = bare(tmp_path / "conn.log")
    (tmp_path / "ports.csv").write_text("dst_port,label\n443,BENIGN\n")
    given = ["words", str(log), "--labels", str(tmp_path / "ports.csv"), "--output", str(tmp_path / "office")]
    assert train([*given, *FAST]) == 0
    assert load(tmp_path / "office").manifest.vocabulary["learned"] == ["443/tcp"]


def test_labels_further_below_are_refused_with_the_folder_to_name(laboratory: Path, capfd: pytest.CaptureFixture[str]) -> None:
    above = str(laboratory.parent)
    assert evaluate(["words", above, "--quiet"]) == 2
    assert said(capfd)[1] == (
        f"netseq-evaluate: {above}: {laboratory / 'labels.csv'} tells of the folder that it lies in: name {laboratory} itself\n"
    )
    assert train(["words", above, "--output", f"{above}/office", *FAST]) == 2
    assert f"name {laboratory} itself" in said(capfd)[1]
    with pytest.raises(Misuse, match="itself"):
        read_flows([above], Classes(), ("Dst Port",))


def test_a_bad_line_in_a_folders_labels_is_told(laboratory: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (laboratory / "labels.csv").write_text("dst_port,label\n65536,Bot\n")
    assert evaluate(["words", str(laboratory), "--quiet"]) == 2
    assert f"{laboratory / 'labels.csv'}:2: dst_port is '65536'" in said(capfd)[1]


def test_a_folder_in_place_of_a_label_file_is_told_in_one_line(laboratory: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder, capture = str(laboratory / "logs"), str(laboratory / "capture.pcap.gz")
    out = ["--output", str(laboratory / "office"), *FAST]
    for command, given in (
        (train, ["words", capture, "--labels", folder, *out]),
        (train, ["multiflow", capture, "--labels", folder, *out]),
        (evaluate, ["words", capture, "--labels", folder, "--quiet"]),
        (evaluate, ["multiflow", str(DEFAULT_PACKETS), capture, "--labels", folder, "--quiet"]),
    ):
        assert command(given) == 2
        assert said(capfd)[1].endswith(f": {folder}: Is a directory: give a label file\n")
    (laboratory / "manifest.json").unlink()
    (laboratory / "labels.csv").unlink()
    (laboratory / "labels.csv").mkdir()
    assert evaluate(["words", str(laboratory), "--quiet"]) == 2
    assert said(capfd)[1] == f"netseq-evaluate: {laboratory / 'labels.csv'}: Is a directory: give a label file\n"


@pytest.mark.parametrize(
    ("lacking", "lines", "labelled"),
    [
        (("Src Port",), "dst_port,label\n0-1023,Bot\n", 1),
        (("Src Port",), "src_port,both,label\n0-1023,no,Bot\n", 0),
        (("Timestamp",), "to,label\n2030-07-08,Bot\n", 0),
        (("Src IP", "Dst IP"), "src,label\n::/96,Bot\n", 0),
        (("Protocol",), "protocol,label\n255,Bot\n", 0),
        ((), "to,dst_port,src,protocol,label\n2030-07-08,0-1023,10.0.0.0/8,tcp,Bot\n", 1),
    ],
)
def test_columns_that_a_table_lacks_match_no_line_that_asks_for_them(
    tmp_path: Path, lacking: Sequence[str], lines: str, labelled: int
) -> None:
    table = written(tmp_path, "netseq", {}, {"Dst Port": 8080}, lacking=lacking)
    named = Labels.parse(lines.encode(), "labels.csv")
    got = read_flows([str(table)], Classes(), ("Dst Port", "Flow Duration"), labels=named)
    assert (got.counts["Bot"], got.counts["Normal"]) == (labelled, 2 - labelled)
    assert any("of unknown" in note for note in got.notes()) == bool(lacking and "dst_port" not in lines)


def test_ports_without_a_number_and_tables_of_a_folder_that_lack_them_are_told_row_by_row(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    written(tmp_path / "data", "netseq", {"Src Port": ""}, {"Src Port": 5}, name="a.csv")
    written(tmp_path / "data", "netseq", {}, lacking=["Src Port"], name="b.csv")
    written(tmp_path / "data", "netseq", {"Src Port": 6}, name="c.csv")
    named = Labels.parse(b"src_port,both,label\n0-1023,no,Bot\n", "labels.csv")
    got = read_flows([str(tmp_path / "data")], Classes(), ("Dst Port", "Flow Duration"), labels=named)
    assert (got.counts["Bot"], got.counts["Normal"]) == (2, 2)
    assert "             2  flows of unknown src_port, which match nothing that asks for it" in got.notes()


def test_a_table_of_flows_called_labels_is_none_and_a_file_brings_nothing(laboratory: Path) -> None:
    head = "Flow ID,Src IP,Src Port,Dst IP,Dst Port,Protocol,Timestamp,Flow Duration,Total Fwd Packet,Total Bwd packets,"
    head += "Fwd IAT Std,Fwd IAT Mean,Fwd IAT Max,Fwd IAT Min,Active Mean,Idle Mean,Label\n"
    assert beside(str(laboratory)) == laboratory / "labels.csv"
    assert beside(str(laboratory / "capture.pcap.gz")) is None
    (laboratory / "labels.csv").write_text(head)
    assert beside(str(laboratory)) is None
