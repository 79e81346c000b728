from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_train_command import write_log

from models.calibrate import calibrate
from models.flowset import honest
from models.multiflow import Shape
from models.multiflow_checkpoint import FlowBundle, FlowManifest, save
from models.multiflow_train import Settings, Trainer
from sensor.commands.classes import Classes
from sensor.commands.evaluate import main
from sensor.commands.flowsets import read

COLUMNS = ("Dst Port", "Protocol", "Flow Duration", "Total Length of Fwd Packet", "Total Length of Bwd Packet")
NAMES = ("Normal", "Malicious", "Bot")
FAST = ("--resamples", "20", "--rows", "300")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("labelled") / "conn.log", attacks=120)


@pytest.fixture(scope="module")
def model(log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model of the log's flows, as good as certain of its attacks."""
    torch.set_num_threads(1)
    flows = read([str(log)], Classes(NAMES), COLUMNS).flows
    trainer = Trainer(flows, honest(flows), Shape(len(COLUMNS), 3, 4, 8, 4), Settings(epochs=8, batch=32))
    trainer.run()
    manifest = FlowManifest(
        name="trial", version="1", classes=NAMES, columns=COLUMNS, flows=4, units=8, attention=4, source_kind="conn.log",
        centre=(), spread=(),
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("model") / "trial"
    save(folder, FlowBundle(manifest, trainer.model.eval(), calibrate(np.random.default_rng(0).normal(size=100), 1.0)))
    return folder


def told(model: Path, *arguments: object, status: int = 0) -> dict[str, Any]:
    out = model.parent / "report.json"
    assert main(["multiflow", str(model), *map(str, arguments), "--json", str(out), "--quiet", *FAST]) == status
    return json.loads(out.read_text())  # type: ignore[no-any-return]


def table(report: dict[str, Any], begin: str) -> dict[str, Any]:
    return next(one for one in report["tables"] if one["title"].startswith(begin))


def test_the_model_stands_beside_every_baseline_on_the_same_rows(model: Path, log: Path, tmp_path: Path) -> None:
    report = told(model, log, "--html", tmp_path / "report.html")
    rows = {row["classifier"]: row for row in table(report, "All classes, ")["rows"]}
    assert list(rows)[:2] == ["trial", "most frequent class"]
    assert {"Naive Bayes", "linear SVM", "AdaBoost", "MLP", "LSTM, one flow repeated", "random forest"} < set(rows)
    assert rows["trial"]["accuracy"]["value"] > 0.95
    assert rows["random forest"]["macro F1"]["value"] > 0.95
    assert rows["most frequent class"]["macro recall"]["value"] == 0.5
    assert "without: Bot" in table(report, "All classes, ")["note"]
    assert (tmp_path / "report.html").read_text().count("<svg") == 3


def test_the_confusion_matrix_has_every_test_row(model: Path, log: Path) -> None:
    report = told(model, log, "--alone")
    rows = table(report, "Confusion of trial")["rows"]
    assert sum(row[f"as {name}"] for row in rows for name in NAMES) == 520
    assert "520 rows" in table(report, "All classes, ")["title"]
    assert [row["classifier"] for row in table(report, "All classes, ")["rows"]] == ["trial"]


def test_baselines_learn_from_other_files_where_these_are_named(model: Path, log: Path, tmp_path: Path) -> None:
    other = write_log(tmp_path / "other.log", attacks=90, seed=5)
    report = told(model, log, "--train", other)
    assert "520 rows" in table(report, "All classes, ")["title"]
    facts = [fact for name, fact in report["facts"] if name == "split"]
    assert facts[0] == "the files of --train are learned from: 490 rows to learn from, 520 tested on"


def test_the_paper_s_split_keeps_a_fifth_of_each_class_and_the_honest_one_some_of_each(model: Path, log: Path) -> None:
    rows = {
        split: {row["class"]: row["rows"] for row in table(told(model, log, "--split", split), "Classes by trial")["rows"]}
        for split in ("honest", "stratified")
    }
    assert rows["stratified"] == {"Normal": 80, "Malicious": 24}
    assert 0 < rows["honest"]["Malicious"] < 120
    assert 0 < rows["honest"]["Normal"] < 400


def test_attacks_that_no_class_knows_are_context_unless_a_class_takes_the_rest(model: Path, log: Path, tmp_path: Path) -> None:
    (tmp_path / "conn.log").write_text(log.read_text().replace("Malicious", "Odd", 30))
    for arguments, rows in (((), 490), (("--rest", "Malicious"), 520)):
        report = told(model, tmp_path / "conn.log", "--alone", *arguments)
        assert f"{rows} rows" in table(report, "All classes, ")["title"]


def test_examples_tell_the_row_the_attention_and_the_statistics(model: Path, log: Path) -> None:
    rows = table(told(model, log, "--alone"), "Ordinary rows with the highest verdicts")["rows"]
    assert len(rows) == 10
    assert all(row["row"].startswith(str(log)) and row["truth"] == "Normal" for row in rows)
    assert all("of the attention: " in row["attended and farthest"] for row in rows)


def test_data_that_the_model_has_seen_are_told_in_every_output(
    model: Path, log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "seen"
    folder.mkdir()
    for path in model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    manifest = json.loads((folder / "manifest.json").read_text())
    report = told(model, log, "--alone")
    sha256 = next(fact for name, fact in report["facts"] if name == "data").split()[-1]
    manifest["data"] = [{"name": "conn.log", "sha256": sha256, "rows": 520}]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    html, said = tmp_path / "x.html", "the model was trained on this data set"
    assert main(["multiflow", str(folder), str(log), "--alone", "--html", str(html), *FAST]) == 0
    assert said in " ".join(capsys.readouterr().out.split())
    assert said in html.read_text()
    for cut, arguments, new in (
        ({}, (), "what its training left out is new to it, if anything: its manifest does not tell"),
        ({"split": "honest", "test": 0.0}, (), "its training left nothing out to test on: nothing in there is new to it"),
        ({"split": "honest", "test": 0.2, "seed": 1}, (), "the rows tested on are those that its training left out"),
        (
            {"split": "honest", "test": 0.2, "seed": 1},
            ("--alone",),
            "which is tested on with --split honest --test 0.2 --seed 1 and all of its files in their order",
        ),
        ({"split": "stratified", "test": 0.2, "seed": 1}, (), "which is tested on with --split stratified --test 0.2 --seed 1"),
    ):
        (folder / "manifest.json").write_text(json.dumps(manifest | cut))
        (warning,) = told(folder, log, *arguments)["warnings"]
        assert said in warning
        assert new in warning
    again = told(folder, log, "--train", log)["warnings"]
    assert [said in warning for warning in again] == [True, False]
    assert f"{log}: has data of --train {log}: the other classifiers have learned these very rows" in again[1]


def test_a_copy_of_what_is_tested_on_is_known_again_by_its_content(model: Path, log: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    copy = tmp_path / "folder" / "other.log"
    copy.write_bytes(log.read_bytes())
    (tmp_path / "folder" / "LICENCE").write_text("free\n")
    report = told(model, log, "--train", tmp_path / "folder")
    assert [warning.split(": their")[0] for warning in report["warnings"]] == [
        f"{log}: has data of --train {tmp_path / 'folder'}: the other classifiers have learned these very rows"
    ]
    assert [name for name, _ in report["facts"][:3]] == ["model", "data", "to learn from"]
    assert [warning.split(":")[1] for warning in told(model, log, copy)["warnings"]] == [f" has the same data as {log}"]


def test_what_is_no_data_may_be_in_both_folders(model: Path, log: Path, tmp_path: Path) -> None:
    other = write_log(tmp_path / "other.log", attacks=90, seed=5)
    for name, path in (("a", log), ("b", other)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "conn.log").write_bytes(path.read_bytes())
        (tmp_path / name / "LICENCE").write_text("free\n")
    assert told(model, tmp_path / "a", "--train", tmp_path / "b")["warnings"] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["conn.log", "conn.log"], "no model there"),
        (["model", "benign.log", "--train", "benign.log"], "all of one class"),
        (["model", "conn.log", "--test", "0"], "--test 0: give a share above 0"),
        (["model", "strange.log"], "no flow is of a class"),
        (["model", "conn.log", "--rows", "0"], "--rows 0: give a number from 1 on"),
    ],
)
def test_what_cannot_be_measured_is_one_line_and_exit_2(
    arguments: list[str], said: str, model: Path, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").symlink_to(model)
    (tmp_path / "conn.log").write_text(log.read_text())
    write_log(tmp_path / "benign.log", flows=50)
    strange = write_log(tmp_path / "strange.log", flows=0, attacks=9)
    strange.write_text(strange.read_text().replace("Malicious", "Odd"))
    assert main(["multiflow", *FAST, *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("netseq-evaluate: ")
    assert said in error
    assert error.count("\n") == 1
