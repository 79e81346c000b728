from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.radford import PADDING, UNKNOWN, WINDOW, Settings, hourly, surprise, tokens, windows
from sensor.addresses import halves
from sensor.commands import published
from sensor.commands.evaluate import main
from sensor.commands.evaluate_radford2018 import internal
from sensor.spellings import HEADERS

MONDAY = 240
COUNTS = {"BENIGN": MONDAY + 200, "PortScan": 60, "Bot": 20}
FAST = ("--epochs", "6", "--units", "8", "--resamples", "10", "--quiet")


def test_tokens_are_those_of_clean_rows_and_the_rest_is_unknown() -> None:
    found, size = tokens(np.array([7, 3, 9, 7]), np.array([True, True, False, False]))
    assert found.tolist() == [3, 2, UNKNOWN, 3]
    assert size == 4
    assert tokens(np.array([5]), np.array([False]))[0].tolist() == [UNKNOWN]


def test_a_window_is_the_ten_tokens_before_in_the_same_sentence_padded_at_the_left() -> None:
    token = np.arange(2, 32)
    sentence = np.arange(30) % 2
    found = windows(token, sentence)
    for row in range(30):
        said = [one for one in range(row) if one % 2 == row % 2][-WINDOW:]
        assert found.before[row].tolist() == [PADDING] * (WINDOW - len(said)) + token[said].tolist()
    assert (found.token == token).all()


def test_what_follows_the_phrase_is_expected_and_what_breaks_it_is_not() -> None:
    torch.set_num_threads(1)
    token = np.tile([2, 3, 4], 80)
    token[-1] = 3  # after "2 3" comes 4
    clean = np.arange(240) < 210
    nats = surprise(windows(token, np.zeros(240, np.int64)), 5, clean, Settings(epochs=150, units=16, embedding=8))
    assert nats[210:239].max() < 0.3
    assert nats[239] > 2
    again = surprise(windows(token, np.zeros(240, np.int64)), 5, clean, Settings(epochs=2, units=4))
    assert (again == surprise(windows(token, np.zeros(240, np.int64)), 5, clean, Settings(epochs=2, units=4))).all()


def test_an_hour_has_its_greatest_surprise_and_is_an_attack_by_any_flow() -> None:
    hours = hourly(
        np.array([1.0, 5.0, 2.0, 9.0]), np.array([False, False, True, False]), np.array([1, 1, 1, 2]), np.array([0, 0, 1, 0])
    )
    assert hours.score.tolist() == [5, 2, 9]
    assert hours.attack.tolist() == [False, True, False]
    assert hours.key.tolist() == [1, 1, 2]


@pytest.mark.parametrize(
    ("address", "inside"),
    [
        ("10.1.2.3", True),
        ("172.31.0.1", True),
        ("192.168.10.50", True),
        ("fd00::1", True),
        ("172.32.0.1", False),
        ("11.0.0.1", False),
        ("2001:db8::1", False),
        ("205.174.165.73", False),
    ],
)
def test_internal_hosts_are_those_of_private_networks(address: str, *, inside: bool) -> None:
    assert internal(np.array([halves(address)], np.uint64)).tolist() == [inside]


def write(folder: Path) -> Path:
    """Monday, all benign, and a day on which a host scans another; the layout of TrafficLabelling."""
    head = [text for text, _ in HEADERS["cicids2017"]]
    known = {name: place for place, (_, name) in enumerate(HEADERS["cicids2017"])}
    folder.mkdir()

    def row(number: int, day: int, src: str, port: int, label: str) -> str:
        cells = ["1"] * len(head)
        told = {"Flow ID": f"{number}", "Src IP": src, "Dst IP": "205.1.1.1", "Src Port": "50000", "Dst Port": str(port)}
        told |= {"Protocol": "6", "Timestamp": f"{day}/7/2017 {9 + number // 60 % 3}:{number % 60:02d}", "Label": label}
        for name, text in told.items():
            cells[known[name]] = text
        return ",".join(cells)

    monday = [row(number, 3, f"192.168.10.{number % 5}", (53, 443)[number % 2], "BENIGN") for number in range(MONDAY)]
    others = [row(number, 4, f"192.168.10.{number % 5}", (53, 443)[number % 2], "BENIGN") for number in range(200)]
    others += [row(number, 4, "192.168.10.77", 1000 + number, "PortScan") for number in range(60)]
    others += [row(number, 4, "192.168.10.88", 6667, "Bot") for number in range(20)]
    for name, rows in (("Monday", monday), ("Tuesday", others)):
        (folder / f"{name}-WorkingHours.pcap_ISCX.csv").write_text("\n".join([",".join(head), *rows]) + "\n")
    return folder


def test_a_scan_stands_out_by_its_ports_under_every_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(published, "CICIDS2017", COUNTS)
    folder, out = write(tmp_path / "week"), tmp_path / "x.json"
    assert main(["radford2018", "--data", str(folder), "--json", str(out), "--html", str(tmp_path / "x.html"), *FAST]) == 0
    report: dict[str, Any] = json.loads(out.read_text())
    assert report["warnings"] == []
    assert dict(report["facts"])["training"].startswith(
        f"{MONDAY} benign flows of the cleanest days; tested on the 280 of the others"
    )
    rows = {row["alphabet, sentence"]: row for row in report["tables"][0]["rows"]}
    assert list(rows) == ["protobytes, directed", "protobytes, undirected", "ports, directed", "ports, undirected"]
    assert {"source", "destination", "pair", "internal", "external"} < set(rows["ports, directed"])
    assert rows["ports, undirected"]["pair"]["value"] > 0.9
    assert rows["ports, directed"]["source"]["value"] > 0.9
    assert [row["attack"] for row in report["tables"][1]["rows"]] == ["PortScan", "Bot"]
    page = (tmp_path / "x.html").read_text()
    assert page.count("<svg") == 3
    assert all(said in page for said in ("alarms a day", "AUC of each attack against benign rows", "attacks found (share)"))
    facts = [name for name, _ in report["facts"]]
    assert {"data", "training", "network", "windows", "threshold", "days", "intervals", "command", "machine"} == set(facts)
    assert all(len(fact.split("SHA-256 ")[1]) == 64 for name, fact in report["facts"] if name == "data")
    monkeypatch.setattr(published, "CICIDS2017", COUNTS | {"Bot": 21})
    assert main(["radford2018", "--data", str(folder), *FAST]) == 2
    assert "Bot 20 instead of 21" in capsys.readouterr().err
    assert main(["radford2018", "--data", str(folder), "--partial", "--json", str(out), *FAST]) == 0
    assert json.loads(out.read_text())["warnings"][0].startswith("PARTIAL DATA, no reproduction: ")


def test_false_alarms_and_misses_are_told_with_the_flow_that_surprised_and_what_went_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published, "CICIDS2017", COUNTS)
    folder, out = write(tmp_path / "week"), tmp_path / "x.json"
    assert main(["radford2018", "--data", str(folder), "--json", str(out), *FAST]) == 0
    tables: list[dict[str, Any]] = json.loads(out.read_text())["tables"][2:]
    alarms, misses = (table["rows"] for table in tables)
    assert "Benign pair-hours with the greatest surprise, ports, " in tables[0]["title"]
    assert all(row["label"] == "BENIGN" and "192.168.10." in row["flow"] for row in alarms)
    assert {row["label"] for row in misses} == {"PortScan", "Bot"}
    bot = next(row for row in misses if row["label"] == "Bot")
    assert bot["flow"] == "192.168.10.88 -> 205.1.1.1"
    assert re.fullmatch(
        r"port 6667, never seen on the clean days, held [\w .]+ % likely (after unknown(, unknown)*|as the first of its hour)",
        bot["most surprising"],
    )
    for rows, falling in ((alarms, True), (misses, False)):
        nats = [row["nats"] for row in rows]
        assert nats == sorted(nats, reverse=falling)
        assert len({row["most surprising"] for row in rows}) == len(rows)


def test_data_without_another_day_to_test_on_are_refused_in_one_line(
    tmp_path: Path, shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "friday").mkdir()
    sample = shared_data / "flows" / "cicids2017" / "Friday-DDos_first299_TrafficLabelling.csv.gz"
    (tmp_path / "friday" / sample.name).symlink_to(sample)
    assert main(["radford2018", "--data", str(tmp_path / "friday"), "--partial", *FAST]) == 2
    error = capsys.readouterr().err
    assert "no day has more attacks than the cleanest: none is left to test on: give a clean day and days with attacks" in error
    assert error.count("\n") == 1


def test_data_without_a_benign_flow_to_learn_from_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path / "week")
    monday = folder / "Monday-WorkingHours.pcap_ISCX.csv"
    monday.write_text("\n".join(monday.read_text().splitlines()[:3]).replace("BENIGN", "Bot") + "\n")
    assert main(["radford2018", "--data", str(folder), "--partial", *FAST]) == 2
    error = capsys.readouterr().err
    assert "the day with the fewest attacks has no benign flow to learn from: " in error
    assert error.count("\n") == 1


def test_tables_without_hosts_are_refused(shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shared_data / "flows" / "cicids2017" / "machinelearningcve-first-rows"
    assert main(["radford2018", "--data", str(folder), "--partial", *FAST]) == 2
    assert "these tables have no hosts or times: TrafficLabelling has" in capsys.readouterr().err


def write_iscx(folder: Path) -> Path:
    """Two days as ISCX IDS 2012 has them, the first nearly clean; one flow without a time, and a file that breaks off."""
    folder.mkdir()

    def flow(number: int, day: int, src: str, port: int, tag: str) -> str:
        fields = {
            "appName": "HTTPWeb",
            "totalSourceBytes": "400",
            "totalDestinationBytes": "900",
            "source": src,
            "protocolName": "tcp_ip",
        }
        fields |= {"sourcePort": "4000", "destination": "205.1.1.1", "destinationPort": str(port), "Tag": tag}
        fields |= {f"{end}DateTime": f"2010-06-{day}T0{number // 60}:{number % 60:02d}:00" for end in ("start", "stop")}
        inside = "".join(f"<{name}>{text}</{name}>" for name, text in fields.items())
        return f"<TestbedFlows>{inside}</TestbedFlows>\n"

    clean = [flow(number, 12, "192.168.1.1", (53, 80)[number % 2], "Normal") for number in range(200)]
    clean.append(flow(5, 12, "192.168.1.9", 99, "Attack"))
    rest = [flow(number, 13, "192.168.1.1", (53, 80)[number % 2], "Normal") for number in range(150)]
    rest += [flow(number, 13, "192.168.1.9", 700 + number, "Attack") for number in range(40)]
    rest.append(flow(1, 13, "192.168.1.9", 5, "Attack").replace("2010-06-13T", "never "))
    (folder / "TestbedSatJun12Flows.xml").write_text(f"<dataroot>{''.join(clean)}</dataroot>")
    (folder / "TestbedSunJun13Flows.xml").write_text(f"<dataroot>{''.join(rest)}<TestbedFlows><source>")
    return folder


def test_iscx_ids_2012_is_read_as_published_and_its_damage_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "ISCX2012", {"Normal": 350, "Attack": 41})
    folder, out = write_iscx(tmp_path / "iscx"), tmp_path / "x.json"
    assert main(["radford2018", "--data", str(folder), "--json", str(out), *FAST]) == 1
    report = json.loads(out.read_text())
    assert report["title"] == "Radford et al. 2018 on ISCX IDS 2012"
    assert report["warnings"] == [
        f"{folder}: 2 places could not be read",
        "no day is without an attack: those of the cleanest, 1 flows, are in no part",
    ]
    assert dict(report["facts"])["training"] == "200 benign flows of the cleanest days; tested on the 190 of the others"
    rows = {row["alphabet, sentence"]: row for row in report["tables"][0]["rows"]}
    assert rows["ports, undirected"]["pair"]["value"] > 0.9
    assert [row["attack"] for row in report["tables"][1]["rows"]] == ["Attack"]
