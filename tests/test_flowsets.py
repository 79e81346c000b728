"""Labelled flows of any format as one set: classes, sequences, what is unknown, and what is told of it."""

from __future__ import annotations

import gzip
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from test_flowcsv_statistics import written

from models.windows import sequences
from sensor.commands import flowsets
from sensor.commands.classes import PAPER, SPELLINGS, Classes, ClassesError
from sensor.commands.flows import main as flows_main
from sensor.commands.flowsets import DAY_US, Read, read
from sensor.commands.misuse import Misuse
from sensor.labels import Labels
from sensor.sources.flow_rows import label_text
from sensor.spellings import STATISTICS
from sensor.statistics import BY_NAME

DOCS = Path(__file__).parents[1] / "docs"
DEMO = Path(__file__).parent / "data" / "demo.pcap.gz"
COLUMNS = ("Dst Port", "Flow Duration", "Total Fwd Packet", "Fwd IAT Std", "Active Mean")
NORMAL, WEB, PATATOR, DOS = (PAPER.index(name) for name in ("Normal", "Web Attack", "Patator", "DoS"))
FIELDS = (
    *("ts", "uid", "id.orig_h", "id.orig_p", "id.resp_h", "id.resp_p", "proto"),
    *("duration", "orig_bytes", "resp_bytes", "conn_state"),
)


def log(path: Path, *rows: tuple[float, str, str, str, str], labelled: bool = True) -> Path:
    """A conn.log of (ts, source, destination, label, detail)."""
    fields = [*FIELDS, "label", "detailedlabel"] if labelled else FIELDS
    lines = ["#separator \\x09", "#set_separator\t,", "#empty_field\t(empty)", "#unset_field\t-", "#path\tconn"]
    lines.append("\t".join(["#fields", *fields]))
    for number, (ts, src, dst, *label) in enumerate(rows):
        cells = [str(ts), f"C{number}", src, "4000", dst, "80", "tcp", "0.5", "10", "20", "SF", *label]
        lines.append("\t".join(cells[: len(fields)]))
    path.write_text("\n".join(lines) + "\n")
    return path


def lines_of(path: Path) -> list[bytes]:
    """The lines of a packed text."""
    return gzip.decompress(path.read_bytes()).splitlines()


def labels(*lines: str) -> Labels:
    return Labels.parse("\n".join(["from,to,src,dst,label", *lines]).encode(), "labels.csv")


def of(*paths: Path, classes: Classes | None = None, by_file: Labels | None = None, published: bool = False) -> Read:
    """What is read of the files with COLUMNS."""
    return read([str(path) for path in paths], classes or Classes(), COLUMNS, labels=by_file, as_published=published)


def test_a_table_gives_its_rows_with_classes_and_its_own_figures(tmp_path: Path) -> None:
    table = written(
        tmp_path,
        "netseq",
        {"Label": "BENIGN"},
        {"Label": "DoS Hulk", "Dst Port": 80},
        {"Label": "SSH-Patator", "Fwd IAT Std": 7},
    )
    got = of(table)
    assert got.flows.label.tolist() == [NORMAL, DOS, PATATOR]
    assert got.flows.rows[:, 0].tolist() == [443, 80, 443]
    assert got.flows.rows[:, 3].tolist() == [0, 0, 7]
    assert {name: rows for name, rows in got.counts.items() if rows} == {"Normal": 1, "DoS": 1, "Patator": 1}
    assert (got.unknown, got.unjudged, got.empty, got.damaged) == ({}, {}, (), 0)
    assert np.unique(got.flows.day).tolist() == [1_517_820_958 // 86_400]


def test_columns_with_other_rules_are_unknown_unless_read_as_published(tmp_path: Path) -> None:
    table = written(tmp_path, "cicids2017", {"Label": "DDoS", "Active Mean": 5})
    assert np.isnan(of(table).flows.rows).tolist() == [[False, False, False, False, True]]
    assert any("Active Mean" in line and "left unknown" in line for line in of(table).notes())
    assert of(table).empty == ("Active Mean",)
    published = of(table, published=True)
    assert published.flows.rows[0, 4] == 5
    assert any("Active Mean" in line and "taken as published" in line for line in published.notes())
    assert published.empty == ()


def test_what_a_log_cannot_tell_is_unknown_and_told_by_name(tmp_path: Path) -> None:
    got = of(log(tmp_path / "conn.log", (1.7e9, "10.0.0.1", "10.0.0.2", "Benign", "-")))
    assert got.empty == tuple(name for name in COLUMNS if "conn.log" not in BY_NAME[name].roads)
    assert "2 columns have no value in any flow: Fwd IAT Std, Active Mean" in got.notes()


def test_labels_of_no_class_are_told_with_their_counts_and_are_context_only(tmp_path: Path) -> None:
    rows = [
        (1.7e9 + n, "10.0.0.1", "10.0.0.2", *label)
        for n, label in enumerate([("Malicious", "\x1bRat")] * 3 + [("Benign", "-")])
    ]
    got = of(log(tmp_path / "conn.log", *rows))
    assert got.flows.label.tolist() == [-1, -1, -1, NORMAL]
    assert got.unknown == {"'Malicious' (\x1bRat)": 3}
    assert got.notes()[0] == r"label 'Malicious' (\x1bRat) is of no class: 3 flows are context only"


def test_the_finer_label_is_asked_first_and_rows_that_nobody_judged_have_no_class(tmp_path: Path) -> None:
    pairs = [("Malicious", "PartOfAHorizontalPortScan"), ("Malicious", "DDoS"), ("Background", "-"), ("Benign", "Microsoft")]
    got = of(log(tmp_path / "conn.log", *((1.7e9 + n, "10.0.0.1", "10.0.0.2", *pair) for n, pair in enumerate(pairs))))
    assert got.flows.label.tolist() == [PAPER.index("PortScan"), PAPER.index("DDoS"), -1, NORMAL]
    assert got.unjudged == {"flows labelled 'Background'": 1}
    assert "1 flows labelled 'Background' are context only" in got.notes()


def test_a_list_of_two_takes_every_attack(tmp_path: Path) -> None:
    pairs = [("Malicious", "DDoS"), ("Malicious", "-"), ("Background", "-"), ("Benign", "-")]
    path = log(tmp_path / "conn.log", *((1.7e9 + n, "10.0.0.1", "10.0.0.2", *pair) for n, pair in enumerate(pairs)))
    assert of(path, classes=Classes(("Normal", "Attack"), rest="Attack")).flows.label.tolist() == [1, 1, -1, 0]


@pytest.mark.parametrize("layout", ["netseq", "cicids2017"])
def test_a_table_without_labels_is_not_taken_for_benign(tmp_path: Path, layout: str) -> None:
    table = written(tmp_path, layout, {}, {}, lacking=["Label"])
    with pytest.raises(Misuse, match=r"no flow is of a class \(2 flows without a label\): give a label file"):
        of(table)
    got = of(table, by_file=labels(",,,,BENIGN"))
    assert got.flows.label.tolist() == [NORMAL, NORMAL]


def test_files_without_labels_beside_labelled_ones_are_context_and_told(tmp_path: Path) -> None:
    log(tmp_path / "a.log", (1.7e9, "10.0.0.1", "10.0.0.2", "Benign", "-"))
    log(tmp_path / "b.log", (1.7e9 + 0.1, "10.0.0.1", "10.0.0.2", "", ""), labelled=False)
    got = of(tmp_path)
    assert sorted(got.flows.label.tolist()) == [-1, NORMAL]
    assert "1 flows without a label are context only" in got.notes()


def test_a_label_file_goes_before_the_files_own_labels_and_reports_its_lines(tmp_path: Path) -> None:
    rows = [(1.7e9 + n, src, "10.0.0.9", "Benign", "-") for n, src in enumerate(["10.0.0.1", "10.0.0.2", "10.0.0.3"])]
    got = of(
        log(tmp_path / "conn.log", *rows),
        by_file=labels(",,10.0.0.2,,FTP-Patator", ",,10.0.0.3,,Unknown", ",,10.1.0.0/16,,Bot"),
    )
    assert got.flows.label.tolist() == [NORMAL, PATATOR, -1]
    assert got.unjudged == {"flows labelled 'Unknown'": 1}
    assert got.notes()[-4:] == [
        "labels.csv: 2 flows matched, 1 by no line",
        "             1  line 2: FTP-Patator",
        "             1  line 3: Unknown",
        "       nothing  line 4: Bot",
    ]


def test_a_capture_gets_its_labels_of_a_file() -> None:
    with pytest.raises(Misuse, match=r"no flow is of a class \(\d+ flows without a label\)"):
        of(DEMO)
    got = of(DEMO, by_file=labels(",,,,BENIGN"))
    assert got.counts["Normal"] == len(got.flows.rows) > 100
    assert not np.isnan(got.flows.rows).any()
    assert got.data[0].kind == "captures"


def test_a_table_that_netseq_wrote_of_a_capture_gives_the_same_rows(tmp_path: Path) -> None:
    table = tmp_path / "flows.csv"
    assert flows_main([str(DEMO), "--output", str(table), "--header", "netseq", "--quiet"]) == 0
    told = [read([str(path)], Classes(), STATISTICS, labels=labels(",,,,BENIGN")).flows.rows for path in (DEMO, table)]
    # a capture's flows come in the order in which they end, a table's in that of their last packet
    packets, rows = (np.nan_to_num(one[np.lexsort(one.T)], nan=-9) for one in told)
    np.testing.assert_allclose(rows, packets, rtol=1e-6)


def test_a_sequence_is_a_pair_of_hosts_or_a_source(tmp_path: Path) -> None:
    ends = [("10.0.0.1", "10.0.0.9"), ("10.0.0.1", "10.0.0.8"), ("10.0.0.9", "10.0.0.1")]
    path = log(tmp_path / "conn.log", *((1.7e9 + n, *pair, "Benign", "-") for n, pair in enumerate(ends)))
    assert of(path).flows.slots.tolist() == [0, 1, 0]
    assert read([str(path)], Classes(), COLUMNS, sequence="host").flows.slots.tolist() == [0, 0, 1]


def test_sequences_of_two_data_sets_stay_apart(tmp_path: Path) -> None:
    row = (1.7e9, "10.0.0.1", "10.0.0.9", "Benign", "-")
    got = of(log(tmp_path / "a.log", row, row), log(tmp_path / "b.log", row))
    assert got.flows.slots.tolist() == [0, 0, 1]
    assert got.flows.restart.tolist() == [True, False, True]
    assert [one.rows for one in got.data] == [2, 1]


def test_tables_without_hosts_are_one_sequence_each_in_the_order_of_the_file(tmp_path: Path) -> None:
    lacking = ("Flow ID", "Src IP", "Dst IP", "Src Port", "Protocol", "Timestamp")
    for name, ports in (("a.csv", (1, 2, 3)), ("b.csv", (4, 5))):
        rows = [{"Dst Port": port, "Flow Duration": 2 * DAY_US} for port in ports]
        written(tmp_path, "cicids2017", *rows, lacking=lacking, name=name)
    got = of(tmp_path)
    assert got.flows.rows[:, 0].tolist() == [1, 2, 3, 4, 5]
    windows = sequences(got.flows.slots, got.flows.restart, 3)
    assert windows.tolist() == [[-1, -1, 0], [-1, 0, 1], [0, 1, 2], [-1, -1, 3], [-1, 3, 4]]
    assert got.flows.day.tolist() == [0] * 5


def test_lines_that_cannot_be_read_are_told_with_their_places(tmp_path: Path) -> None:
    table = written(tmp_path, "netseq", {}, {"Dst Port": "http"}, {})
    got = of(table)
    assert (len(got.flows.rows), got.damaged) == (2, 1)
    assert any(line.startswith(f"{table}: damaged at 3: Dst Port is 'http'") for line in got.notes())


def test_data_without_flows_columns_or_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="no flows in there"):
        of(log(tmp_path / "empty.log"))
    path = log(tmp_path / "conn.log", (1.7e9, "10.0.0.1", "10.0.0.2", "Rat", "-"))
    with pytest.raises(Misuse, match=r"no flow is of a class \(1 flows labelled 'Rat'\)"):
        of(path)
    with pytest.raises(Misuse, match="none of the 1 columns asked for has a value"):
        read([str(path)], Classes(("Normal", "Rat")), ["Active Mean"])


def test_how_much_is_read_is_told_up_to_the_whole(tmp_path: Path) -> None:
    path = log(tmp_path / "conn.log", (1.7e9, "10.0.0.1", "10.0.0.2", "Benign", "-"))
    (tmp_path / "tables").mkdir()
    for name in ("a.csv", "b.csv", "c.csv"):
        written(tmp_path / "tables", "cicids2017", {}, lacking=["Src IP", "Dst IP"], name=name)
    shares: list[float] = []
    read([str(path), str(tmp_path / "tables")], Classes(), COLUMNS, tell=shares.append)
    assert shares == sorted(set(shares))
    assert (shares[0], len(shares), shares[-1]) == (0.5, 4, 1)


def test_a_number_beyond_float32_is_unknown(tmp_path: Path) -> None:
    got = of(written(tmp_path, "netseq", {"Fwd IAT Std": "1e300"}, {"Fwd IAT Std": "1e30"}))
    assert np.isnan(got.flows.rows[:, 3]).tolist() == [True, False]


def test_more_sequences_than_there_is_room_for_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flowsets, "CONVERSATIONS", 1)
    rows = [(1.7e9 + n, "10.0.0.1", f"10.0.0.{2 + n % 2}", "Benign", "-") for n in range(4)]
    got = of(log(tmp_path / "conn.log", *rows))
    assert got.flows.restart.tolist() == [True] * 4
    assert "3 sequences began anew: there are more than 1 of them" in got.notes()


def test_every_published_label_has_the_class_that_the_page_gives() -> None:
    page = (DOCS / "labels.md").read_text(encoding="utf-8")
    table = page.partition("<!-- classes -->")[2].partition("<!-- end of classes -->")[0]
    told = dict(re.findall(r"^\| (\S[^|]*?) \| (.*) \|$", table, re.MULTILINE))
    classes = Classes()
    for name, spellings in SPELLINGS.items():
        assert told[name] == ", ".join(spellings)
        assert {classes.number(spelling) for spelling in spellings} == {PAPER.index(name)}
    assert set(SPELLINGS) | {"Normal"} == set(PAPER)


@pytest.mark.parametrize(
    "text", ["Web Attack \x96 XSS", "Web Attack \ufffd XSS", "Web Attack \u2013 Sql Injection", "WEB ATTACK XSS"]
)
def test_what_became_of_a_dash_does_not_matter(text: str) -> None:
    assert Classes().number(label_text(text)) == WEB


def test_a_class_is_found_by_its_own_name_before_the_papers_group() -> None:
    classes = Classes(("BENIGN", "DoS", "DoS Hulk"))
    assert [classes.number(text) for text in ("", "DoS Hulk", "DoS slowloris", "Bot")] == [0, 2, 1, -1]
    assert classes.number("DoS", "DoS Hulk") == 2


@pytest.mark.parametrize(
    ("names", "rest", "told"),
    [
        (("Normal",), None, "give two or more"),
        (("DoS", "dos"), None, "each with a name of its own"),
        (("Normal", "Benign"), None, "more than one of them means no attack"),
        (("Normal", "DoS"), "Bot", "the class 'Bot' for all other attacks is none of Normal, DoS"),
    ],
)
def test_a_list_of_classes_that_cannot_be_is_refused(names: tuple[str, ...], rest: str | None, told: str) -> None:
    with pytest.raises(ClassesError, match=told):
        Classes(names, rest)


def test_web_attacks_have_the_classes_of_their_label_column(shared_data: Path) -> None:
    path = shared_data / "flows" / "cicids2017" / "web_attacks.csv.gz"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    texts = Counter(line.rpartition(b",")[2].strip()[:10] for line in lines_of(path)[1:])
    got = read([str(path)], Classes(), STATISTICS, as_published=True)
    assert got.counts["Normal"] == texts[b"BENIGN"]
    assert got.counts["Web Attack"] == texts[b"Web Attack"]
    assert sum(got.counts.values()) == len(got.flows.rows) == sum(texts.values())
    assert len(np.unique(got.flows.slots)) > 1000


def test_mixed_logs_have_the_classes_of_their_label_column(shared_data: Path) -> None:
    path = shared_data / "zeek" / "labelled" / "strato-011" / "conn.log.gz"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    texts = Counter(line.split(b"\t")[-2] for line in lines_of(path) if not line.startswith(b"#"))
    got = read([str(path)], Classes(("Normal", "Attack"), rest="Attack"), STATISTICS)
    assert got.counts == {"Normal": texts[b"Benign"], "Attack": texts[b"Malicious"]}
    assert sum(got.unjudged.values()) == texts[b"Background"]
    assert set(got.empty).isdisjoint({"Dst Port", "Flow Duration", "Total Fwd Packet"})


def test_the_published_tables_without_hosts_are_read(shared_data: Path) -> None:
    folder = shared_data / "flows" / "cicids2017" / "machinelearningcve-first-rows"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    got = read([str(folder)], Classes(), STATISTICS)
    files = sorted(folder.glob("*.csv.gz"))
    assert len(got.flows.rows) == sum(len(lines_of(path)) - 1 for path in files)
    assert len(np.unique(got.flows.slots)) == int(got.flows.restart.sum()) == len(files)
    assert got.counts["Web Attack"] == 7
    assert got.unknown == {}
