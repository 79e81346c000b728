"""CICFlowMeter's tables: every spelling of the header, the tool's habits undone, damaged rows named."""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sensor.schema import CONN_STATES, FlowBatch
from sensor.sources.flowcsv import FlowCsvSource, NotAFlowTable
from sensor.spellings import HEADERS, SPELLINGS, named

OLD = {
    "src": "Source IP", "src_port": " Source Port", "dst": " Destination IP", "dst_port": " Destination Port",
    "protocol": " Protocol", "timestamp": " Timestamp", "duration": " Flow Duration", "sent_packets": " Total Fwd Packets",
    "received_packets": " Total Backward Packets", "sent_bytes": "Total Length of Fwd Packets",
    "received_bytes": " Total Length of Bwd Packets", "received_header": " Bwd Header Length", "fin": "FIN Flag Count",
    "syn": " SYN Flag Count", "rst": " RST Flag Count", "psh": " PSH Flag Count", "ack": " ACK Flag Count",
    "urg": " URG Flag Count", "cwe": " CWE Flag Count", "ece": " ECE Flag Count", "label": " Label",
}  # fmt: skip
"""The spelling of CICIDS2017, whose flags are those of the first packet and under shuffled names."""
NEW = OLD | {"received_packets": "Total Bwd packets", "cwe": "CWR Flag Count"}
"""The spelling of the tool's last version, whose flags are counts."""
FORK = NEW | {"sent_rst": "Fwd RST Flags"}
SHORT = {
    "src": "Src IP", "src_port": "Src Port", "dst": "Dst IP", "dst_port": "Dst Port", "protocol": "Protocol",
    "timestamp": "Timestamp", "duration": "Flow Duration", "sent_packets": "Tot Fwd Pkts", "received_packets": "Tot Bwd Pkts",
    "sent_bytes": "TotLen Fwd Pkts", "received_bytes": "TotLen Bwd Pkts", "received_header": "Bwd Header Len",
    "fin": "FIN Flag Cnt", "syn": "SYN Flag Cnt", "rst": "RST Flag Cnt", "psh": "PSH Flag Cnt", "ack": "ACK Flag Cnt",
    "urg": "URG Flag Cnt", "cwe": "CWE Flag Count", "ece": "ECE Flag Cnt", "label": "Label",
}  # fmt: skip
"""The spelling of CSE-CIC-IDS2018."""

FLOW: dict[str, object] = {
    "src": "10.0.0.1", "src_port": 40_000, "dst": "10.0.0.2", "dst_port": 443, "protocol": 6,
    "timestamp": "05/07/2017 08:55:58", "duration": 1_500_000, "sent_packets": 5, "received_packets": 6, "sent_bytes": "100.0",
    "received_bytes": "2.0E3", "received_header": 200, "label": "BENIGN",
}  # fmt: skip
START_US = 1_499_244_958_000_000
"""5 July 2017, 8:55:58."""
BEGINS = {"psh": 1}
"""Shuffled: a first packet with SYN only."""
ANSWERS = {"psh": 1, "ack": 1}
CLOSES = {"urg": 1, "ack": 1}


def table(folder: Path, *rows: Mapping[str, object], header: dict[str, str] = OLD, name: str = "flows.csv") -> Path:
    path = folder / name
    lines = [",".join(header.values())]
    lines += [",".join(str((FLOW | dict(row)).get(column, 0)) for column in header) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def read(path: Path) -> tuple[FlowCsvSource, NDArray[np.void]]:
    source = FlowCsvSource([path])
    batches: list[FlowBatch] = list(source)
    return source, np.concatenate([batch.flows for batch in batches])


def states(rows: NDArray[np.void]) -> list[str]:
    return [CONN_STATES[state] for state in rows["conn_state"]]


@pytest.mark.parametrize("header", [OLD, NEW, FORK, SHORT], ids=["cicids2017", "last", "fork", "cse-cic-ids2018"])
def test_every_spelling_of_the_header_gives_the_same_figures(tmp_path: Path, header: dict[str, str]) -> None:
    _, [row] = read(table(tmp_path, {}, header=header))
    assert (row["src_lo"], row["dst_lo"]) == (0xFFFF_0A00_0001, 0xFFFF_0A00_0002)
    assert (row["src_port"], row["dst_port"], row["protocol"]) == (40_000, 443, 6)
    assert (row["first_us"], row["last_us"]) == (START_US, START_US + 1_500_000)
    assert [(row[side]["packets"], row[side]["payload"]["sum"]) for side in ("fwd", "bwd")] == [(5, 100), (6, 2000)]


@pytest.mark.parametrize("layout", sorted(HEADERS))
def test_every_text_of_a_layout_is_known_by_its_column(layout: str) -> None:
    assert [(text, named(text)) for text, _ in HEADERS[layout]] == [*HEADERS[layout]]


def test_no_other_spelling_stands_for_two_columns() -> None:
    others = [(text, spelling.name) for spelling in SPELLINGS for text in spelling.others]
    assert [(text, named(text)) for text, _ in others] == others


@pytest.mark.parametrize(
    ("text", "us"),
    [
        ("5/7/2017 8:55:58", START_US),
        ("5/7/2017 8:55", START_US - 58_000_000),
        ("05/07/2017 08:55:58 AM", START_US),
        ("05/07/2017 08:55:58 PM", START_US + 12 * 3_600_000_000),
        ("05/07/2017 12:00:00 AM", START_US - (8 * 3600 + 55 * 60 + 58) * 1_000_000),
        ("2017-07-05 08:55:58", START_US),
        ("2017-07-05 08:55:58.021140", START_US + 21_140),
        ("2017-07-05 08:55:58.021", START_US + 21_000),
        ("05/07/2017 20:55:58", START_US + 12 * 3_600_000_000),
        ("2017-07-05T08:55:58.021140Z", START_US + 21_140),
        ("2017-07-05T10:55:58+02:00", START_US),
    ],
)
def test_every_form_of_time_is_read(tmp_path: Path, text: str, us: int) -> None:
    assert read(table(tmp_path, {"timestamp": text}))[1]["first_us"].tolist() == [us]


def hours(tmp_path: Path, *texts: str) -> list[int]:
    rows = [{"timestamp": text, "src_port": 1000 + place, "duration": 0} for place, text in enumerate(texts)]
    flows = read(table(tmp_path, *rows))[1]
    return [int(us // 3_600_000_000) % 24 for us in flows[np.argsort(flows["src_port"])]["first_us"]]


def test_afternoons_are_found_by_the_order_of_rows(tmp_path: Path) -> None:
    morning_to_evening = ("05/02/2018 09:00:00", "05/02/2018 11:59:00", "05/02/2018 12:00:00", "05/02/2018 01:00:00")
    assert hours(tmp_path, *morning_to_evening) == [9, 11, 12, 13]


def test_a_new_day_begins_in_the_morning_again(tmp_path: Path) -> None:
    assert hours(tmp_path, "05/02/2018 10:00:00", "05/02/2018 02:00:00", "06/02/2018 09:00:00") == [10, 14, 9]


def test_on_the_days_of_the_published_data_sets_an_hour_before_eight_is_of_the_afternoon(tmp_path: Path) -> None:
    assert hours(tmp_path, "7/7/2017 3:30", "7/7/2017 12:05", "7/7/2017 8:59") == [15, 12, 8]
    assert hours(tmp_path, "14/02/2018 10:44:50", "14/02/2018 02:01:50", "14/02/2018 09:00:00") == [10, 14, 9]
    table(tmp_path, {"timestamp": "7/7/2017 3:30"}, name="afternoon.csv")
    table(tmp_path, {"timestamp": "7/7/2017 9:02"}, name="morning.csv")
    source = FlowCsvSource([tmp_path / "afternoon.csv", tmp_path / "morning.csv"])
    assert [path.name for path in source.files] == ["morning.csv", "afternoon.csv"]


def test_a_time_astray_does_not_decide_for_a_file(tmp_path: Path) -> None:
    rows = [{"timestamp": "14/02/2018 02:01:50", "src_port": port, "duration": 0} for port in range(200)]
    flows = read(table(tmp_path, *rows, {"timestamp": "01/01/1970 12:00:00", "src_port": 999}))[1]
    assert [int(us // 3_600_000_000) % 24 for us in flows[flows["src_port"] < 999]["first_us"]] == [14] * 200


def test_small_steps_back_are_no_afternoon(tmp_path: Path) -> None:
    assert hours(tmp_path, "05/02/2018 10:02:00", "05/02/2018 09:58:00", "05/02/2018 10:03:00") == [10, 9, 10]


def test_a_clock_of_twenty_four_hours_is_left_alone(tmp_path: Path) -> None:
    assert hours(tmp_path, "05/02/2018 15:00:00", "05/02/2018 03:00:00", "05/02/2018 12:30:00") == [15, 3, 12]


def test_a_tail_joins_the_flow_that_it_ends(tmp_path: Path) -> None:
    tail = {
        "src": "10.0.0.2", "src_port": 443, "dst": "10.0.0.1", "dst_port": 40_000, "timestamp": "05/07/2017 08:55:59",
        "duration": 33, "sent_packets": 2, "received_packets": 1, "sent_bytes": 31, "received_bytes": 0,
    }  # fmt: skip
    source, [row] = read(table(tmp_path, BEGINS, tail | CLOSES))
    assert source.joined == 1
    assert [(row[side]["packets"], row[side]["payload"]["sum"]) for side in ("fwd", "bwd")] == [
        (5 + 1, 100),
        (6 + 2, 2000 + 31),
    ]
    assert (row["dst_port"], states(np.array([row])), row["last_us"]) == (443, ["SF"], START_US + 1_500_000)


def test_a_row_with_a_syn_begins_a_flow_of_its_own(tmp_path: Path) -> None:
    source, rows = read(table(tmp_path, BEGINS, BEGINS | {"timestamp": "05/07/2017 08:56:00"}))
    assert (len(rows), source.joined) == (2, 0)


def test_what_goes_on_after_the_tools_cut_remains_and_keeps_its_direction(tmp_path: Path) -> None:
    back = {"src": "10.0.0.2", "src_port": 443, "dst": "10.0.0.1", "dst_port": 40_000, "timestamp": "05/07/2017 08:57:59"}
    source, rows = read(table(tmp_path, BEGINS | {"duration": 119_999_000}, back | {"ack": 1}))
    assert (source.joined, rows["dst_port"].tolist(), states(rows)) == (0, [443, 443], ["S1", "OTH"])
    assert rows["fwd"]["packets"].tolist() == [5, 6]


def test_where_the_beginning_was_not_seen_a_well_known_port_is_the_responders(tmp_path: Path) -> None:
    answer = {"src": "10.0.0.2", "src_port": 443, "dst": "10.0.0.1", "dst_port": 40_000, "ack": 1}
    assert read(table(tmp_path, answer))[1]["dst_port"].tolist() == [443]
    assert read(table(tmp_path, answer | {"src_port": 8080}))[1]["dst_port"].tolist() == [40_000]


def test_a_row_that_begins_with_an_answer_is_turned_round(tmp_path: Path) -> None:
    answer = {"src": "10.0.0.2", "src_port": 443, "dst": "10.0.0.1", "dst_port": 40_000}
    _, [row] = read(table(tmp_path, answer | ANSWERS))
    assert (row["src_port"], row["dst_port"], row["fwd"]["packets"], state := states(np.array([row]))) == (
        40_000,
        443,
        6,
        state,
    )
    assert state == ["SF"]


def test_forks_that_count_resets_by_side_have_no_tails(tmp_path: Path) -> None:
    source, rows = read(table(tmp_path, {"syn": 2, "fin": 2}, {"syn": 0, "fin": 0}, header=FORK))
    assert (source.joined, len(rows)) == (0, 2)


MUTE = {"sent_bytes": 0, "received_bytes": 0}


@pytest.mark.parametrize(
    ("row", "state"),
    [
        ({"psh": 1}, "SF"),
        ({"psh": 1, "duration": 119_500_000}, "S1"),
        ({"psh": 1, "received_packets": 0} | MUTE, "S0"),
        ({"psh": 1, "received_packets": 1, "received_header": 20} | MUTE, "REJ"),
        ({"psh": 1, "received_packets": 1, "received_header": 40} | MUTE, "SF"),
        ({"ack": 1}, "OTH"),
        ({"protocol": 17}, "SF"),
        ({"protocol": 17, "received_packets": 0, "received_bytes": 0}, "S0"),
        ({"protocol": 0, "src_port": 0, "dst_port": 0}, "OTH"),
    ],
)
def test_conn_state_is_read_from_what_old_versions_tell(tmp_path: Path, row: dict[str, object], state: str) -> None:
    assert states(read(table(tmp_path, row))[1]) == [state]


@pytest.mark.parametrize(
    ("row", "state"),
    [
        ({"syn": 2, "fin": 2}, "SF"),
        ({"syn": 2, "fin": 1}, "S2"),
        ({"syn": 2}, "S1"),
        ({"syn": 2, "rst": 1, "sent_rst": 1}, "RSTO"),
        ({"syn": 2, "rst": 1, "sent_rst": 0}, "RSTR"),
        ({"syn": 1, "rst": 1} | MUTE, "REJ"),
        ({"syn": 1, "received_packets": 0} | MUTE, "S0"),
        ({"syn": 1, "rst": 1, "received_packets": 0} | MUTE, "RSTOS0"),
        ({"syn": 1, "fin": 1, "received_packets": 0} | MUTE, "SH"),
        ({"syn": 0, "fin": 2}, "OTH"),
    ],
)
def test_conn_state_is_read_from_exact_counts(tmp_path: Path, row: dict[str, object], state: str) -> None:
    assert states(read(table(tmp_path, row, header=FORK))[1]) == [state]


def test_a_broken_row_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    broken: list[dict[str, object]] = [
        {"src": "1261"}, {"timestamp": "181"}, {"duration": "long"}, {"sent_packets": "1.5"}, {"dst_port": 70_000},
        {"timestamp": "31/02/2018 10:00:00"}, {"sent_bytes": "inf"},
    ]  # fmt: skip
    path = table(tmp_path, {}, *broken)
    path.write_text(path.read_text() + "1,2,3\n\n")
    source, rows = read(path)
    assert len(rows) == 1
    assert sorted(damage.line for damage in source.damages) == list(range(3, 11))
    reasons = {damage.line: damage.reason for damage in source.damages}
    assert reasons[3] == "Src IP is '1261': not an address"
    assert reasons[10] == "3 columns where the header names 21"
    assert sum(source.damage_counts.values()) == len(broken) + 1


def test_a_duration_with_the_noise_of_floating_point_is_rounded(tmp_path: Path) -> None:
    _, rows = read(table(tmp_path, {"duration": "1011580.9999999999"}, {"duration": "1011581.0000000001", "src_port": 4}))
    assert (rows["last_us"] - rows["first_us"]).tolist() == [1_011_581] * 2


def test_arp_that_the_tool_took_for_ipv4_is_left_out_and_counted(tmp_path: Path) -> None:
    source, rows = read(table(tmp_path, {}, {"src": "8.6.0.1", "dst": "8.0.6.4", "protocol": 0}))
    assert (len(rows), source.arp_rows, source.damages) == (1, 1, [])


def test_a_value_without_a_name_before_the_label_is_allowed(tmp_path: Path) -> None:
    path = table(tmp_path, {})
    path.write_text(path.read_text().replace(",BENIGN", ",0,BENIGN"))
    [batch] = FlowCsvSource([path])
    assert (len(batch.flows), batch.labels) == (1, [""])


@pytest.mark.parametrize(
    ("spelled", "label", "detail"),
    [
        ("BENIGN", "", ""),
        ("CIC", "", "CIC"),
        ("No Label", "", "No Label"),
        ("DDoS", "DDoS", ""),
        ("Normal Traffic", "", ""),
        ("Web Attack – XSS", "Web Attack – XSS", ""),
    ],
)
def test_labels_are_read_and_benign_ones_are_empty(tmp_path: Path, spelled: str, label: str, detail: str) -> None:
    [batch] = FlowCsvSource([table(tmp_path, {"label": spelled})])
    assert (batch.labels, batch.details) == ([label], [detail])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "no column for Src IP, "),
        ("Destination Port,Flow Duration\n80,3\n", "no column for Src IP, Dst IP, Timestamp, Src Port, Protocol, Bwd Header"),
        ("\x00\x01", "no column for Src IP, "),
    ],
)
def test_a_table_without_hosts_and_times_is_refused_in_one_line(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "flows.csv"
    path.write_text(content)
    with pytest.raises(NotAFlowTable) as refused:
        FlowCsvSource([path])
    assert says in str(refused.value)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_files_are_read_in_the_order_of_their_first_row_and_flows_in_that_of_their_end(tmp_path: Path) -> None:
    table(tmp_path, {"timestamp": "06/07/2017 08:00:00"}, name="a.csv")
    table(
        tmp_path,
        {"timestamp": "05/07/2017 08:00:00", "duration": 9_000_000, "protocol": 17},
        {"timestamp": "05/07/2017 08:00:05"},
        name="b.csv",
    )
    (tmp_path / "notes.txt").write_text("nothing")
    source = FlowCsvSource([tmp_path])
    ends = np.concatenate([batch.flows["last_us"] for batch in source])
    assert [path.name for path in source.files] == ["b.csv", "a.csv"]
    assert (np.diff(ends) > 0).all()
    assert [Path(path).name for path, _ in source.skipped_files] == ["notes.txt"]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=5))
def test_damaged_bytes_never_crash_the_reader_and_no_row_vanishes(tmp_path: Path, damage: list[tuple[int, int]]) -> None:
    path = table(tmp_path, *({"src_port": port} for port in range(8)))
    data = bytearray(path.read_bytes())
    header = data.index(b"\n") + 1
    for place, value in damage:
        data[header + place % (len(data) - header)] = value
    path.write_bytes(bytes(data))
    source = FlowCsvSource([path])
    flows = sum(len(batch.flows) for batch in source)
    rows = [line for line in data.replace(b"\r\n", b"\n").split(b"\n")[1:] if line]
    assert flows + source.joined + sum(source.damage_counts.values()) == len(rows)


def test_the_daily_tables_of_a_workstation_load_with_few_odd_services(shared_data: Path) -> None:
    source = FlowCsvSource([shared_data / "flows/cic-daily"])
    batches = list(source)
    flows = np.concatenate([batch.flows for batch in batches])
    written = sum(gzip.decompress(path.read_bytes()).count(b"\n") - 1 for path in source.files)
    assert len(flows) + source.joined + source.arp_rows == written
    assert (len(flows), source.joined, source.arp_rows, source.damage_counts) == (15_090, 3034, 111, {})
    assert not any(label for batch in batches for label in batch.labels or [])
    tcp = flows[flows["protocol"] == 6]
    print(Counter(states(tcp)))  # noqa: T201  # the figures are wanted in the log
    assert np.isin(tcp["dst_port"], (443, 80, 5228, 139)).mean() > 0.85


def test_the_tools_own_test_file_has_one_row_a_flow_once_tails_are_joined(shared_data: Path) -> None:
    for name in ("test.csv", "test.cicids2017-header.csv"):
        source, flows = read(shared_data / "golden/cicflowmeter-2018" / name)
        assert (len(flows), source.joined) == (48, 48)
        assert set(states(flows)) == {"SF"}
