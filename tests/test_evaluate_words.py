from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import DATA
from test_train_command import write_log

from sensor.commands import datasets
from sensor.commands.evaluate import main
from sensor.commands.label_files import labelled
from sensor.labels import Labels

FAST = ("--resamples", "20")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some hosts that are scanned at a port the shipped model hardly knows."""
    return write_log(tmp_path_factory.mktemp("labelled") / "conn.log", attacks=60)


@pytest.fixture(scope="module")
def told(log: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("report")
    benign = write_log(out / "benign.log", seed=3)
    paths = ["--json", str(out / "report.json"), "--html", str(out / "report.html")]
    assert main(["words", str(log), "--train", str(benign), *paths, "--quiet", *FAST]) == 0
    assert "<svg" in (out / "report.html").read_text()
    return json.loads((out / "report.json").read_text())  # type: ignore[no-any-return]


def tables(told: dict[str, Any], begin: str) -> list[dict[str, Any]]:
    return [table for table in told["tables"] if table["title"].startswith(begin)]


def test_every_voice_is_ranked_by_flow_and_by_hour(told: dict[str, Any]) -> None:
    found = tables(told, "Scan against benign only")
    assert len(found) == 4
    assert "60 against 400" in found[0]["title"]
    voices = {row["score"] for row in found[0]["rows"]}
    assert {"verdict", "LSTM, nats of the word", "unigram, nats of the service", "5-gram, nats of the word"} <= voices
    verdict = next(row for row in found[0]["rows"] if row["score"] == "verdict")
    assert verdict["AUC"]["low"] <= verdict["AUC"]["value"] <= verdict["AUC"]["high"]
    assert verdict["AUC"]["value"] > 0.9


def test_alerts_are_counted_by_label(told: dict[str, Any]) -> None:
    rows = {row["label"]: row for row in tables(told, "Alerts at")[0]["rows"]}
    assert rows["benign"]["flows"] + rows["Scan"]["flows"] <= 460
    assert rows["Scan"]["flows"] == 60
    assert rows["Scan"]["of them alarmed"] <= rows["Scan"]["conversation-hours"]


def test_false_alarms_have_reasons_and_fall(told: dict[str, Any]) -> None:
    rows = tables(told, "Benign conversation-hours with the highest verdicts")[0]["rows"]
    assert all("LSTM" in row["least expected"] for row in rows)
    verdicts = [row["verdict"] for row in rows]
    assert verdicts == sorted(verdicts, reverse=True)
    assert len({row["least expected"] for row in rows}) == len(rows) > 3


def test_a_miss_is_an_attack_without_an_alert(log: Path, tmp_path: Path) -> None:
    lines = log.read_text().splitlines()
    quiet = [line.replace("Benign", "Malicious") if "\t10.0.0.3\t" in line else line for line in lines]
    (tmp_path / "conn.log").write_text("\n".join(quiet) + "\n")
    assert main(["words", str(tmp_path / "conn.log"), "--json", str(tmp_path / "x.json"), "--quiet", *FAST]) == 0
    rows = tables(json.loads((tmp_path / "x.json").read_text()), "Missed: ")[0]["rows"]
    assert all(row["alert"] == "no" and row["label"] == "Malicious" and "10.0.0.3" in row["flow"] for row in rows)
    assert [row["verdict"] for row in rows] == sorted(row["verdict"] for row in rows)


def test_facts_tell_hashes_seed_rule_and_machine(told: dict[str, Any]) -> None:
    facts = dict(told["facts"])
    assert "SHA-256" in facts["data"]
    assert "seed 1" in facts["intervals"]
    assert "p-value" in facts["threshold"]
    assert facts["command"].startswith("netseq-evaluate words ")
    assert "torch" in facts["machine"]


def test_benign_rows_that_the_n_grams_were_counted_on_are_not_tested_on_even_of_a_copy(log: Path, tmp_path: Path) -> None:
    copy, out = tmp_path / "copy.log", tmp_path / "x.json"
    copy.write_bytes(log.read_bytes())
    for train in (log, copy):
        assert main(["words", str(log), "--train", str(train), "--json", str(out), "--quiet", *FAST]) == 0
        told = json.loads(out.read_text())
        assert told["warnings"] == [
            f"{log}: has data of --train {train}: its 400 benign rows are known, and not tested on",
            "no benign rows to test on: nothing can be said of false alarms",
        ]
        assert tables(told, "Scan against benign only, flows: 60 against 0")


def test_several_labels_are_measured_against_benign_and_against_the_rest(log: Path, tmp_path: Path) -> None:
    text = log.read_text().replace("Malicious\tScan", "Flood\t-", 20)
    (tmp_path / "conn.log").write_text(text)
    assert main(["words", str(tmp_path / "conn.log"), "--json", str(tmp_path / "x.json"), "--quiet", *FAST]) == 0
    told = json.loads((tmp_path / "x.json").read_text())
    flows = [table["title"] for table in told["tables"] if ", flows:" in table["title"]]
    assert flows == [
        "Flood against benign only, flows: 20 against 400",
        "Flood against the rest, flows: 20 against 440",
        "Scan against benign only, flows: 40 against 400",
        "Scan against the rest, flows: 40 against 420",
        "any attack against benign only, flows: 60 against 400",
    ]
    assert not any(row["score"].startswith("bigram") for row in told["tables"][1]["rows"])  # nothing to count it on


def test_attacks_of_one_label_are_told_apart_by_the_finer_one(log: Path, tmp_path: Path) -> None:
    text = log.read_text().replace("Malicious\tScan", "Malicious\tC&C", 20).replace("Benign\t-", "Benign\tMulticast", 100)
    (tmp_path / "conn.log").write_text(text)
    assert main(["words", str(tmp_path / "conn.log"), "--json", str(tmp_path / "x.json"), "--quiet", *FAST]) == 0
    told = json.loads((tmp_path / "x.json").read_text())
    assert tables(told, "C&C against benign only, flows: 20 against 400")
    assert tables(told, "Scan against the rest, flows: 40 against 420")
    alerts = {row["label"]: row["flows"] for row in tables(told, "Alerts at the default threshold")[0]["rows"]}
    assert (alerts["C&C"], alerts["Scan"]) == (20, 40)
    assert "Malicious" not in alerts


def test_a_label_file_stands_in_for_labels(log: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("dst_port,label\n5888,Sweep\n1,Never\n")
    paths = ["--labels", str(tmp_path / "labels.csv"), "--json", str(tmp_path / "x.json")]
    assert main(["words", str(log), *paths, "--quiet", *FAST]) == 0
    told = json.loads((tmp_path / "x.json").read_text())
    assert tables(told, "Sweep against benign only, flows: 60 against 400")
    assert any("nothing" in fact for name, fact in told["facts"] if name == "labels")


def test_flows_that_no_line_matches_keep_their_label_and_without_one_nobody_judged_them(log: Path, tmp_path: Path) -> None:
    labels = Labels.parse(b"dst_port,label\n5888,Background\n80,BENIGN\n", "x.csv")
    own = datasets.read(str(log))
    told = labelled(own, [labels])
    swept = own.flows["dst_port"] == 5888
    assert told.unsure[swept].all()
    np.testing.assert_array_equal(told.labels[~swept], own.labels[~swept])
    assert not told.unsure[~swept].any()
    bare = labelled(own._replace(labels=np.zeros(len(own.flows), "U1"), judged=False), [labels])
    np.testing.assert_array_equal(bare.unsure, own.flows["dst_port"] != 80)


def test_the_report_is_shown_unless_quiet(
    log: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["words", str(log), *FAST]) == 0
    assert "found at 0.01" in capsys.readouterr().out


def test_damage_is_told_and_the_rest_is_measured(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "conn.log").write_text(log.read_text() + "this is no connection\n")
    assert main(["words", str(tmp_path / "conn.log"), *FAST]) == 1
    assert "1 places could not be read" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.log"], "nowhere.log: no such file"),
        (["benign.log"], "no row has an attack's label"),
        (["conn.log", "--labels", "bad.csv"], "bad.csv:1: "),
        (["conn.log", "--json", "no/folder/x.json"], "cannot be written"),
        (["conn.log", "--resamples", "-1"], "give a number from 0 on"),
        (["conn.log", "--validation", "1"], "--validation 1: "),
        (["-"], "-: evaluation reads its data more than once"),
        (["model"], "model: it is a model"),
        (["model", "conn.log"], "model"),
    ],
)
def test_what_cannot_be_measured_is_one_line_and_exit_2(
    arguments: list[str],
    said: str,
    log: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conn.log").write_text(log.read_text())
    write_log(tmp_path / "benign.log", flows=50)
    (tmp_path / "bad.csv").write_text("colour\nred\n")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "manifest.json").write_text("{}")
    assert main(["words", *FAST, *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("netseq-evaluate: ")
    assert said in error
    assert error.count("\n") == 1


def test_the_shipped_model_finds_what_its_documentation_says(shared_data: Path, tmp_path: Path) -> None:
    logs = [str(shared_data / "zeek" / "labelled" / name) for name in ("strato-011", "ubuntu-2023-02-20")]
    assert main(["words", *logs, "--json", str(tmp_path / "x.json"), "--quiet", "--resamples", "0"]) == 0
    told = json.loads((tmp_path / "x.json").read_text())
    verdict = tables(told, "External-Attack-to-Device against benign only, flows")[0]["rows"][0]
    assert verdict["AUC"]["value"] == pytest.approx(0.987, abs=0.003)
    assert verdict["found at 0.01"]["value"] == pytest.approx(0.86, abs=0.02)


def test_the_bundled_sample_gives_a_report_with_every_flow_labelled(tmp_path: Path) -> None:
    labels = str(DATA / "demo-labels.csv")
    outputs = ["--json", str(tmp_path / "x.json"), "--html", str(tmp_path / "x.html"), "--quiet", *FAST]
    assert main(["words", str(DATA / "demo.pcap.gz"), "--labels", labels, *outputs]) == 0
    told = json.loads((tmp_path / "x.json").read_text())
    alerts = {row["label"]: row["flows"] for row in tables(told, "Alerts at the default threshold")[0]["rows"]}
    assert alerts == {"benign": 136, "Bot": 3, "Patator": 26, "PortScan": 75}
    assert "<script" not in (tmp_path / "x.html").read_text()
