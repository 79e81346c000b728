from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sensor.commands import published
from sensor.commands.classes import PAPER
from sensor.commands.evaluate import main
from sensor.commands.evaluate_amf_lstm import grouped
from sensor.spellings import HEADERS, IDENTITY

COUNTS = {"BENIGN": 300, "DoS Hulk": 60, "Heartbleed": 20, "PortScan": 80, "Web Attack - XSS": 40}
MONDAY = 50
FAST = ("--epochs", "2", "--units", "8", "--rows", "300", "--resamples", "10", "--quiet")


def write(folder: Path, *, missing: int = 0, times: bool = False) -> Path:
    """Two files of a week in the layout of MachineLearningCVE: Monday, all benign, and a day with the rest.

    With `times` in that of TrafficLabelling, the rest being of two days.
    """
    random = np.random.default_rng(0)
    head = [text for text, name in HEADERS["cicids2017"] if times or name not in IDENTITY or name == "Label"]
    known = {name: place for place, (_, name) in enumerate(HEADERS["cicids2017"])}
    folder.mkdir()
    counts = COUNTS | {"BENIGN": COUNTS["BENIGN"] - MONDAY, "PortScan": COUNTS["PortScan"] - missing}
    rows = [
        ",".join([*(str(value) for value in random.integers(1, 9, len(head) - 1) + 20 * place), label])
        for place, (label, count) in enumerate(counts.items())
        for _ in range(count)
    ]
    random.shuffle(rows)
    if times:
        rows = [identified(row.split(","), number, known) for number, row in enumerate(rows)]
    text = "\n".join([",".join(head), *rows]).replace("Web Attack - XSS", "Web Attack \x96 XSS")
    (folder / "Tuesday-WorkingHours.pcap_ISCX.csv").write_bytes(text.encode("latin-1") + b"\n")
    monday = [",".join(head)] + [",".join(["1"] * (len(head) - 1) + ["BENIGN"])] * MONDAY
    (folder / "Monday-WorkingHours.pcap_ISCX.csv").write_text("\n".join(monday) + "\n")
    return folder


def identified(cells: list[str], number: int, known: dict[str, int]) -> str:
    """A row of two hosts on one of two days."""
    told = {"Flow ID": str(number), "Src IP": f"192.168.10.{number % 40}", "Dst IP": "205.1.1.1", "Src Port": "50000"}
    told |= {"Protocol": "6", "Timestamp": f"{4 + number % 2}/7/2017 {9 + number // 60 % 3}:{number % 60:02d}"}
    for name, text in told.items():
        cells[known[name]] = text
    return ",".join(cells)


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Official counts that a test can write."""
    monkeypatch.setattr(published, "CICIDS2017", COUNTS)
    monkeypatch.setattr(published, "MONDAY", MONDAY)


def told(folder: Path, tmp_path: Path, *arguments: str) -> dict[str, Any]:
    out = tmp_path / "report.json"
    assert main(["amf-lstm", "--data", str(folder), "--json", str(out), *arguments, *FAST]) == 0
    return json.loads(out.read_text())  # type: ignore[no-any-return]


@pytest.mark.usefixtures("_small")
def test_table_1_has_the_published_figures_and_ours_on_both_splits(tmp_path: Path) -> None:
    report = told(write(tmp_path / "week"), tmp_path)
    assert report["warnings"] == []
    rows = {row["classifier"]: row for row in report["tables"][0]["rows"]}
    assert rows["Zhu et al. 2018, as published"]["macro F1"] == 0.529
    for split in ("the paper's split", "the honest split"):
        assert 0 <= rows[f"AMF-LSTM, {split}"]["macro F1"]["value"] <= 1
        assert rows[f"random forest, {split}"]["accuracy"]["value"] > 0.9
    classes = report["tables"][1]["rows"]
    assert [row["class"] for row in classes] == ["Normal", "PortScan", "Web Attack", "DoS"]
    assert [row["rows"] for row in classes] == [50, 16, 8, 16]  # a fifth of each, Monday left out, Heartbleed with DoS


@pytest.mark.usefixtures("_small")
def test_both_splits_have_their_figures_confusion_false_alarms_and_misses(tmp_path: Path) -> None:
    folder, html = write(tmp_path / "week"), tmp_path / "x.html"
    report = told(folder, tmp_path, "--alone", "--html", str(html))
    titles = [table["title"] for table in report["tables"]]
    facts = dict(report["facts"])
    assert "of alarms a day nothing can be told" in facts["times"]
    assert "seed 1" in facts["training"]
    for split in ("the paper's split", "the honest split"):
        matrix = next(table for table in report["tables"] if table["title"].startswith(f"Confusion of AMF-LSTM, {split}"))
        tested = next(table for table in report["tables"] if table["title"] == f"Classes by AMF-LSTM, {split}")
        assert [sum(row[f"as {name}"] for name in PAPER) for row in matrix["rows"]] == [row["rows"] for row in tested["rows"]]
        for begin in (f"Ordinary rows with the highest verdicts, {split}, ", f"Attacks with the lowest verdicts, {split}, "):
            rows = report["tables"][next(place for place, title in enumerate(titles) if title.startswith(begin))]["rows"]
            assert len(rows) == 10
            assert all(
                "Tuesday-WorkingHours" in row["row"] and "of the attention: " in row["attended and farthest"] for row in rows
            )
        figures = [figure for figure in report["figures"] if figure["title"].endswith(split)]
        assert [figure["title"].split(",")[0] for figure in figures] == ["Attacks against ordinary rows", "Classes by AMF-LSTM"]
        area = next(
            table
            for table in report["tables"]
            if table["title"].startswith(f"Attacks of any class against ordinary rows, {split}")
        )
        across, up = (figures[0]["lines"]["any attack"][axis] for axis in ("across", "up"))
        steps = np.trapezoid([0.0, *up], [0.0, *across])
        assert steps == pytest.approx(area["rows"][0]["AUC"]["value"], abs=0.05)
    assert html.read_text().count("<svg") == 4


@pytest.mark.usefixtures("_small")
def test_precision_over_alarms_a_day_is_drawn_where_the_tables_have_times(tmp_path: Path) -> None:
    report = told(write(tmp_path / "week", times=True), tmp_path, "--alone")
    assert "times" not in dict(report["facts"])
    precise = [figure for figure in report["figures"] if figure["title"].startswith("Precision of single flows, ")]
    assert len(precise) == 2
    drawn = precise[0]["lines"]["verdict"]
    assert drawn["across"][-1] == 90 / 2  # all that were tested on, in two days
    assert drawn["up"][-1] == pytest.approx(40 / 90, abs=1e-5)


@pytest.mark.usefixtures("_small")
def test_a_part_of_the_data_is_refused_or_says_so_in_every_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, html = write(tmp_path / "week", missing=7), tmp_path / "x.html"
    assert main(["amf-lstm", "--data", str(folder), *FAST]) == 2
    error = capsys.readouterr().err
    assert "PortScan 73 instead of 80: give the whole data set, or --partial" in error
    report = told(folder, tmp_path, "--partial", "--alone", "--html", str(html))
    assert report["warnings"] == [
        "PARTIAL DATA, no reproduction: label counts are not the official ones: PortScan 73 instead of 80"
    ]
    assert "PARTIAL DATA, no reproduction" in html.read_text()
    loud = [argument for argument in FAST if argument != "--quiet"]
    assert main(["amf-lstm", "--data", str(folder), "--partial", "--alone", *loud]) == 0
    assert "PARTIAL DATA, no reproduction" in capsys.readouterr().out


def test_the_official_counts_are_those_of_the_publication() -> None:
    assert sum(published.CICIDS2017.values()) == 2_830_743
    classes = grouped(np.arange(len(published.CICIDS2017)))
    counts = np.bincount(classes, list(published.CICIDS2017.values()))
    by_name = dict(zip(PAPER, counts.astype(int).tolist(), strict=True))
    assert by_name["Patator"] == 7_938 + 5_897
    assert by_name["Web Attack"] == 1_507 + 652 + 21
    assert grouped(np.array([-1])).tolist() == [-1]


@pytest.mark.parametrize(("folder", "said"), [("nowhere", "no such folder"), ("empty", "no CSV in there")])
def test_a_folder_without_tables_is_refused(folder: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["amf-lstm", "--data", str(tmp_path / folder), *FAST]) == 2
    assert said in capsys.readouterr().err


def test_real_rows_are_read_with_their_labels(shared_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "week"
    folder.mkdir()
    (folder / "web.csv.gz").symlink_to(shared_data / "flows" / "cicids2017" / "web_attacks.csv.gz")
    report = told(folder, tmp_path, "--partial", "--alone")
    assert "BENIGN 3,530 instead of 1,743,179" in report["warnings"][0]
    assert {row["class"]: row["rows"] for row in report["tables"][1]["rows"]} == {"Normal": 706, "Web Attack": 295}
