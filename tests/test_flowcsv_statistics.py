"""Tables of flows read for their statistics: every layout, row by row, what is put right and what is told of the rest."""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from flow_packets import CLOSE, HANDSHAKE, answered, flows_of, sent, spoke
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sensor.address_text import addresses_text
from sensor.schema import ACK, CONN_STATES, PSH, SYN
from sensor.sources import editions, mending
from sensor.sources.flowcsv import FlowCsvSource, NotAFlowTable
from sensor.spellings import HEADERS, IDENTITY, STATISTICS, TWICE
from sensor.statistics import COLUMNS, Reading, column

Row = Mapping[str, object]

BASE: dict[str, object] = {
    "Src IP": "10.0.0.1", "Src Port": 40_000, "Dst IP": "10.0.0.2", "Dst Port": 443,
    "Flow ID": "10.0.0.1-10.0.0.2-40000-443-6", "Protocol": 6, "Timestamp": "05/02/2018 08:55:58", "Flow Duration": 1_500_000,
    "Total Fwd Packet": 5, "Total Bwd packets": 10,
    "Total Length of Fwd Packet": "100.0", "Total Length of Bwd Packet": "2.0E3", "Flow Packets/s": 10.0, "Label": "BENIGN",
    "Connection State": "SF", "End": "closed",
}  # fmt: skip
"""A row whose rates and duration agree; what is not named here is 0."""
START_US = 1_517_820_958_000_000
OLD, NEW = "cicids2017", "cicflowmeter"
COUNTS = {"SYN Flag Count": 2, "ACK Flag Count": 9}
"""Flags that no version writes which looks at one packet."""


def written(folder: Path, layout: str, *rows: Row, lacking: Sequence[str] = (), name: str = "flows.csv") -> Path:
    """A table in one of the four layouts, without the columns that it shall lack."""
    columns = [(text, column) for text, column in HEADERS[layout] if column not in lacking]
    lines = [",".join(text for text, _ in columns)]
    lines += [",".join(str((BASE | dict(row)).get(column, 0)) for _, column in columns) for row in rows]
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    return path


def changed(path: Path, change: Callable[[list[str]], list[str]]) -> Path:
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")
    return path


class Read:
    """What a source gave."""

    def __init__(self, path: Path) -> None:
        self.source = FlowCsvSource([path], statistics=True)
        batches = list(self.source)
        self.flows = np.concatenate([batch.flows for batch in batches])
        told = [batch.statistics for batch in batches if batch.statistics is not None]
        self.matrix: NDArray[np.float64] = np.concatenate(told)
        self.labels = [label for batch in batches for label in batch.labels or []]

    def of(self, name: str) -> list[float]:
        values: list[float] = self.matrix[:, STATISTICS.index(name)].tolist()
        return values


NUMBERS = st.floats(0, 1e12, allow_nan=False) | st.integers(0, 1 << 40).map(float)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.sampled_from(sorted(HEADERS)), st.lists(st.lists(NUMBERS, min_size=92, max_size=92), min_size=1, max_size=3))
def test_what_is_written_is_read_to_the_last_digit(tmp_path: Path, layout: str, rows: list[list[float]]) -> None:
    kept = {*BASE, *COUNTS, "ICMP Type", "ICMP Code", "Continued"}
    texts = [
        {name: repr(value) for name, value in zip(STATISTICS, row, strict=True) if name not in kept} | COUNTS for row in rows
    ]
    read = Read(written(tmp_path, layout, *texts))
    names = {name for _, name in HEADERS[layout]} & set(STATISTICS)
    for place, row in enumerate(texts):
        wanted = {name: float(str(row.get(name, BASE.get(name, 0)))) for name in names}
        assert {name: read.of(name)[place] for name in names} == wanted
    assert np.isnan(read.matrix[:, [name not in names for name in STATISTICS]]).all()
    assert read.source.mended == {}


@pytest.mark.parametrize("layout", sorted(HEADERS))
def test_every_layout_gives_the_flow_as_well(tmp_path: Path, layout: str) -> None:
    read = Read(written(tmp_path, layout, COUNTS))
    [row] = read.flows
    assert addresses_text(read.flows["src_hi"], read.flows["src_lo"]).tolist() == [b"10.0.0.1"]
    assert (row["src_port"], row["dst_port"], row["protocol"]) == (40_000, 443, 6)
    assert (row["first_us"], row["last_us"]) == (START_US, START_US + 1_500_000)
    assert [(row[side]["packets"], row[side]["payload"]["sum"]) for side in ("fwd", "bwd")] == [(5, 100), (10, 2000)]


def stamp(layout: str, us: int) -> str:
    """A time as netseq writes it in a layout."""
    time = datetime.fromtimestamp(us // 1_000_000, UTC) + timedelta(microseconds=us % 1_000_000)
    forms = {"netseq": "%Y-%m-%dT%H:%M:%S.%fZ", "cicflowmeter": "%Y-%m-%d %H:%M:%S.%f"}
    return time.strftime(forms.get(layout, "%d/%m/%Y %I:%M:%S %p"))


@pytest.mark.parametrize("layout", sorted(HEADERS))
def test_what_netseq_makes_of_packets_comes_back_from_every_layout(tmp_path: Path, layout: str) -> None:
    speech = [sent(0.3 + step / 10, PSH | ACK, payload=100 + step) for step in range(5)]
    flows = flows_of(*HANDSHAKE, *speech, answered(0.9, payload=700), *CLOSE, spoke(2.0, payload=9), spoke(9.0), sent(20, SYN))
    flows = flows[np.argsort(flows["last_us"], kind="stable")]
    reading = Reading(flows, "netseq")
    values = {one.name: column(reading, one.name) for one in COLUMNS if one.name not in ("Timestamp", "Label")}
    rows = [
        {name: value.decode() if isinstance(value, bytes) else value for name, value in zip(values, row, strict=True)}
        | {"Timestamp": stamp(layout, first_us)}
        for row, first_us in zip(
            zip(*(one.tolist() for one in values.values()), strict=True), flows["first_us"].tolist(), strict=True
        )
    ]
    read = Read(written(tmp_path, layout, *rows))
    assert read.source.damage_counts == {}
    for name in {name for _, name in HEADERS[layout]} & set(STATISTICS):
        assert read.of(name) == pytest.approx(values[name].tolist(), rel=1e-12), name
    whole_s = layout in ("cicids2017", "cse-cic-ids2018")
    assert np.abs(read.flows["first_us"] - flows["first_us"]).max() <= (1_000_000 if whole_s else 0)
    if layout == "netseq":
        assert read.flows["conn_state"].tolist() == flows["conn_state"].tolist()
        assert read.source.otherwise == frozenset()


def test_what_only_netseq_tells_is_in_the_flow(tmp_path: Path) -> None:
    row = {"Continued": 1, "Fwd IP Bytes": 340, "Bwd IP Bytes": 2560, "ICMP Type": 3, "ICMP Code": 1}
    [flow] = Read(written(tmp_path, "netseq", row)).flows
    assert (flow["continued"], flow["fwd"]["ip_bytes"], flow["bwd"]["ip_bytes"]) == (1, 340, 2560)
    assert (flow["icmp_type"], flow["icmp_code"]) == (3, 1)


def test_connection_states_of_netseqs_own_table_are_exact(tmp_path: Path) -> None:
    rows = [{"Connection State": state, "Timestamp": "2018-02-05T08:55:58.000001Z"} for state in CONN_STATES]
    assert Read(written(tmp_path, "netseq", *rows)).flows["conn_state"].tolist() == list(range(len(CONN_STATES)))


# Rows stay as they are


def test_rows_are_neither_joined_nor_turned_nor_left_out(tmp_path: Path) -> None:
    tail = {"Src IP": "10.0.0.2", "Src Port": 443, "Dst IP": "10.0.0.1", "Dst Port": 40_000, "Timestamp": "05/02/2018 08:55:59"}
    arp = {"Src IP": "8.6.0.1", "Dst IP": "8.0.6.4", "Timestamp": "05/02/2018 09:55:59"}
    answer = {"PSH Flag Count": 1, "SYN Flag Count": 1, "Fwd PSH Flags": 1, "Timestamp": "05/02/2018 10:55:59"}
    read = Read(written(tmp_path, OLD, {}, tail, arp, answer))
    assert read.flows["src_port"].tolist() == [40_000, 443, 40_000, 40_000]
    assert (read.source.flows, read.source.joined, read.source.arp_rows) == (4, 0, 0)


def test_rows_are_in_the_order_of_their_end_and_their_statistics_with_them(tmp_path: Path) -> None:
    ends = [({"Flow Duration": s * 1_000_000, "Fwd IAT Max": s, "Flow Packets/s": 15 / s} | COUNTS) for s in (9, 3, 6)]
    assert Read(written(tmp_path, NEW, *ends)).of("Fwd IAT Max") == [3, 6, 9]


def test_files_that_overlap_are_merged_with_their_statistics(tmp_path: Path) -> None:
    times = [f"2018-02-05 08:00:{second:02}" for second in range(8)]
    for name, seconds in (("a.csv", (0, 2, 4, 6)), ("b.csv", (1, 3, 5, 7))):
        written(tmp_path, NEW, *({"Timestamp": times[second], "Idle Max": second} for second in seconds), name=name)
    read = Read(tmp_path)
    assert read.of("Idle Max") == list(range(8))
    assert (np.diff(read.flows["last_us"]) > 0).all()


def test_a_table_without_hosts_and_times_keeps_its_order_and_follows_those_with_times(tmp_path: Path) -> None:
    bare = ("Flow ID", "Src IP", "Src Port", "Dst IP", "Protocol", "Timestamp")
    shorter = [{"Flow Duration": us, "Flow Packets/s": 15e6 / us} for us in (3_000_000, 2_000_000, 1_000_000)]
    written(tmp_path, OLD, *shorter, lacking=bare, name="a.csv")
    written(tmp_path, OLD, {"Flow Duration": 9_000_000, "Flow Packets/s": 15 / 9}, name="b.csv")
    read = Read(tmp_path)
    assert read.of("Flow Duration") == [9e6, 3e6, 2e6, 1e6]
    assert np.isnan(read.of("Src Port")).tolist() == [False, True, True, True]
    assert read.flows["dst_port"].tolist() == [443] * 4
    assert (read.flows["last_us"] - read.flows["first_us"]).tolist() == [9e6, 3e6, 2e6, 1e6]
    assert (read.flows["first_us"][1:].tolist(), read.flows["src_lo"][1:].tolist()) == ([0] * 3, [0] * 3)


def test_hosts_and_times_that_are_numbers_are_read_as_such(tmp_path: Path) -> None:
    read = Read(written(tmp_path, OLD, {"Src IP": "1261", "Dst IP": "3232235777.0", "Timestamp": "181", "Src Port": "51885.0"}))
    assert addresses_text(read.flows["src_hi"], read.flows["src_lo"]).tolist() == [b"0.0.4.237"]
    assert addresses_text(read.flows["dst_hi"], read.flows["dst_lo"]).tolist() == [b"192.168.1.1"]
    assert (read.flows["first_us"].tolist(), read.flows["src_port"].tolist()) == ([181_000_000], [51_885])


@pytest.mark.parametrize("host", ["4294967296", "1" * 5000, "12.5", "-1", "1e3"])
def test_a_number_that_is_no_address_costs_its_row(tmp_path: Path, host: str) -> None:
    assert Read(written(tmp_path, OLD, {"Src IP": host}, {})).source.damage_counts == {"Src IP": 1}


def test_a_table_whose_statistics_were_taken_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotAFlowTable, match="no table of flows"):
        FlowCsvSource([written(tmp_path, OLD, lacking=STATISTICS)], statistics=True)


# What is put right


@pytest.mark.parametrize("cell", ["", " ", "NaN", "nan"])
def test_a_cell_without_a_number_is_unknown(tmp_path: Path, cell: str) -> None:
    read = Read(written(tmp_path, OLD, {"Flow IAT Std": cell, "Fwd IAT Std": cell, "Idle Min": 7, "Flow Duration": cell}))
    assert np.isnan([read.of(name)[0] for name in ("Flow IAT Std", "Fwd IAT Std", "Flow Duration")]).all()
    assert (read.of("Idle Min"), read.source.damage_counts) == ([7], {})


@pytest.mark.parametrize("cell", ["Infinity", "-Infinity", "inf"])
def test_an_infinite_cell_is_unknown_and_counted(tmp_path: Path, cell: str) -> None:
    read = Read(written(tmp_path, OLD, {"Flow IAT Std": cell, "Flow Bytes/s": cell}, {}))
    assert np.isnan([read.of(name)[0] for name in ("Flow IAT Std", "Flow Bytes/s")]).all()
    assert read.source.infinities == 2


@pytest.mark.parametrize("cell", ["Infinity", "NaN", "-1", ""])
@pytest.mark.parametrize("duration_us", [0, -1])
def test_rates_of_a_flow_without_duration_are_zero(tmp_path: Path, cell: str, duration_us: int) -> None:
    rates = dict.fromkeys(("Flow Bytes/s", "Flow Packets/s", "Fwd Packets/s", "Bwd Packets/s"), cell)
    read = Read(written(tmp_path, OLD, {"Flow Duration": duration_us, **rates}, {}))
    assert [read.of(name)[0] for name in (*rates, "Flow Duration")] == [0] * 5
    assert read.source.mended[mending.NO_DURATION] == 4
    assert read.source.infinities == 0


def test_what_stands_for_nothing_is_told_as_netseq_tells_it(tmp_path: Path) -> None:
    odd = {
        "Bwd Init Win Bytes": -1,
        "Fwd Header Length": -5,
        "Fwd Seg Size Min": -83_885_313,
        "Protocol": 0,
        "Idle Max": 1.5e15,
    }
    read = Read(written(tmp_path, OLD, odd))
    assert read.of("Bwd Init Win Bytes") == [0]
    assert all(np.isnan(read.of(name)[0]) for name in ("Fwd Header Length", "Fwd Seg Size Min", "Protocol", "Idle Max"))
    assert read.source.mended == {
        mending.NO_WINDOW: 1, mending.NO_SIZE: 2, mending.NO_PROTOCOL: 1, mending.TOO_LONG: 1
    }  # fmt: skip
    assert read.flows["protocol"].tolist() == [255]


@pytest.mark.parametrize("unit_us", [1_000, 1_000_000])
def test_times_in_other_units_are_put_in_microseconds(tmp_path: Path, unit_us: int) -> None:
    times = {"Flow Duration": 1_500_000 / unit_us, "Fwd IAT Max": 40_000 / unit_us, "Idle Mean": 0}
    read = Read(written(tmp_path, "cse-cic-ids2018", times, times, {"Flow Duration": 0}))
    assert read.of("Flow Duration") == [0, 1_500_000, 1_500_000]
    assert read.of("Fwd IAT Max") == [0, 40_000, 40_000]
    assert read.source.mended[mending.NOT_US] == 4


def test_shuffled_flags_come_under_their_own_names(tmp_path: Path) -> None:
    first_psh = {"SYN Flag Count": 1, "Fwd PSH Flags": 1, "ACK Flag Count": 1}
    first_syn = {"PSH Flag Count": 1}
    read = Read(written(tmp_path, OLD, first_psh, first_syn, {"URG Flag Count": 1}, {"FIN Flag Count": 1}))
    flags = {flag: read.of(f"{flag} Flag Count") for flag in ("SYN", "PSH", "FIN", "RST", "ACK", "URG", "CWR", "ECE")}
    assert {flag: counts for flag, counts in flags.items() if any(counts)} == {
        "SYN": [0, 1, 0, 0], "PSH": [1, 0, 0, 0], "FIN": [0, 0, 1, 0], "RST": [0, 0, 0, 1], "ACK": [1, 0, 0, 0],
    }  # fmt: skip
    assert {"SYN Flag Count", "Fwd PSH Flags", "Packet Length Mean", "Subflow Fwd Bytes"} <= read.source.otherwise


def test_flags_that_are_counts_under_an_old_header_stay_where_they_are(tmp_path: Path) -> None:
    read = Read(written(tmp_path, OLD, COUNTS, {"SYN Flag Count": 1}))
    assert (read.of("SYN Flag Count"), read.of("PSH Flag Count")) == ([2, 1], [0, 0])
    assert "SYN Flag Count" not in read.source.otherwise


def test_a_second_header_length_without_a_name_is_taken_out(tmp_path: Path) -> None:
    texts = [text for text, _ in HEADERS[OLD]]
    twin = max(place for place, (_, name) in enumerate(HEADERS[OLD]) if name == TWICE)
    row = {TWICE: 640, "Fwd Bytes/Bulk Avg": 7, "Subflow Fwd Packets": 5, "Idle Min": 3}
    path = written(tmp_path, OLD, row, row | {TWICE: 320})
    changed(path, lambda lines: [",".join(texts[:twin] + texts[twin + 1 :]), *lines[1:]])
    read = Read(path)
    assert read.source.damage_counts == {}
    assert [read.of(name) for name in (TWICE, *list(row)[1:])] == [[640, 320], [7, 7], [5, 5], [3, 3]]


def test_a_table_of_quoted_cells_is_read_and_a_stray_quote_costs_one_row(tmp_path: Path) -> None:
    def quoted(lines: list[str]) -> list[str]:
        again = [",".join(f'"{cell}"' for cell in line.split(",")) for line in lines]
        again[1] = again[1].replace('"BENIGN"', '"Attack, ""big"""')
        again[2] = again[2].replace('"', "", 1).replace(",", ',"', 1)
        return again

    read = Read(changed(written(tmp_path, NEW, {TWICE: 20}, {TWICE: 40}, {TWICE: 60}), quoted))
    assert read.of(TWICE) == [20, 60]
    assert read.labels[0] == 'Attack, "big"'
    assert sum(read.source.damage_counts.values()) == 1


# What cannot be read


def test_a_value_too_many_that_nobody_can_tell_costs_its_row(tmp_path: Path) -> None:
    path = changed(
        written(tmp_path, NEW, {TWICE: 20}, {}), lambda lines: [*lines[:2], lines[2].replace(",BENIGN", ",3,BENIGN")]
    )
    read = Read(path)
    assert (len(read.flows), read.source.damage_counts) == (1, {"columns": 1})
    assert "which one is too many?" in read.source.damages[0].reason


def test_rows_of_commas_are_counted_and_told_once(tmp_path: Path) -> None:
    commas = "," * (len(HEADERS[OLD]) - 1)
    read = Read(changed(written(tmp_path, OLD, {}), lambda lines: [*lines, *[commas] * 500]))
    assert (len(read.flows), read.source.damage_counts) == (1, {"empty": 500})
    assert [damage.line for damage in read.source.damages] == [3]


@pytest.mark.parametrize("layout", ["cse-cic-ids2018", OLD])
def test_a_header_in_the_middle_of_a_file_is_counted_as_such(tmp_path: Path, layout: str) -> None:
    hostless = written(tmp_path, layout, COUNTS, COUNTS, lacking=("Flow ID", "Src IP", "Src Port", "Dst IP"))
    read = Read(changed(hostless, lambda lines: [*lines, lines[0], lines[1]]))
    assert (len(read.flows), read.source.damage_counts) == (3, {"header": 1})
    assert read.source.damages[0].line == 4


def test_a_damaged_cell_costs_its_row_alone(tmp_path: Path) -> None:
    broken: list[Row] = [
        {"Idle Max": "long"},
        {"Dst Port": 70_000},
        {"Timestamp": "soon"},
        {"Src IP": "nobody"},
        {"URG Flag Count": "1_0"},
    ]
    read = Read(written(tmp_path, OLD, {}, *broken, {}))
    assert len(read.flows) == 2
    assert [damage.line for damage in read.source.damages] == [3, 4, 5, 6, 7]
    assert read.source.damage_counts == {"Idle Max": 1, "Dst Port": 1, "Timestamp": 1, "Src IP": 1, "URG Flag Count": 1}


@pytest.mark.parametrize(
    "dash", [b"\x96", b"\xc2\x96", b"\xef\xbf\xbd", b"\xe2\x80\x93", b"\xc3\xa2\xc2\x80\xc2\x93", "ï¿½".encode()]
)
def test_the_dash_of_a_web_attack_is_known_whatever_became_of_it(tmp_path: Path, dash: bytes) -> None:
    path = written(tmp_path, OLD, {"Label": "Web Attack ? XSS"}, {"Label": "Infiltration"})
    path.write_bytes(path.read_bytes().replace(b"?", dash))
    assert Read(path).labels == ["Web Attack \u2013 XSS", "Infiltration"]


@pytest.mark.parametrize(
    "content", ["", "X1,X2,X3\n1,2,3\n", "srcip,sport,dstip,dsport,proto,state,dur\n", "\x00\x01\n", "59.166.0.0,1390\n"]
)
def test_a_file_that_names_no_statistics_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "flows.csv"
    path.write_text(content)
    with pytest.raises(NotAFlowTable) as refused:
        FlowCsvSource([path], statistics=True)
    assert "are the least" in str(refused.value)
    assert "CSE-CIC-IDS2018" in str(refused.value)
    assert "\n" not in str(refused.value)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8000), st.integers(0, 255)), max_size=5))
def test_damaged_bytes_never_crash_the_reader_and_no_row_vanishes(tmp_path: Path, damage: list[tuple[int, int]]) -> None:
    path = written(tmp_path, OLD, *({"Src Port": port} for port in range(8)))
    data = bytearray(path.read_bytes())
    header = data.index(b"\n") + 1
    for place, value in damage:
        data[header + place % (len(data) - header)] = value
    path.write_bytes(bytes(data))
    source = FlowCsvSource([path], statistics=True)
    batches = list(source)
    rows = [line for line in data.replace(b"\r\n", b"\n").split(b"\n")[1:] if line]
    assert sum(len(batch.flows) for batch in batches) + sum(source.damage_counts.values()) == len(rows)
    assert not any(np.isinf(batch.statistics).any() for batch in batches if batch.statistics is not None)


# Which program wrote it


@pytest.mark.parametrize(
    ("texts", "edition"),
    [
        ([text for text, _ in HEADERS["cicids2017"]], editions.PUBLISHED),
        ([text for text, _ in HEADERS["cse-cic-ids2018"]], editions.LATER),
        ([text for text, _ in HEADERS["cicflowmeter"]], editions.REPAIRED),
        ([text for text, _ in HEADERS["cicflowmeter"] if "RST Flags" not in text and text[:3] != "Bwd"], editions.ORIGINAL),
        ([text for text, _ in HEADERS["netseq"]], editions.NETSEQ),
        (["src_ip", "flow_duration", "tot_fwd_pkts", "flow_byts_s", "fwd_blk_rate_avg"], editions.PORT),
        (["Destination Port", "Flow Duration", "Total Fwd Packets", "Attack Type"], editions.PUBLISHED),
    ],
    ids=["published", "later", "repaired", "original", "netseq", "port", "subset"],
)
def test_the_header_tells_the_program(texts: list[str], edition: editions.Edition) -> None:
    assert editions.edition_of(texts) is edition


ALL_THE_SAME = {"Flow ID", "Src IP", "Dst IP", "Timestamp", "Total Length of Fwd Packet", "Total Length of Bwd Packet"}
"""Texts; and payloads, which differ in captures with cut packets only."""


def test_columns_that_follow_other_rules_are_those_that_the_table_of_columns_names() -> None:
    put_right = {"Flow Duration", "Protocol", *mending.RATES}
    repaired = {one.name for one in COLUMNS if one.difference} - ALL_THE_SAME - put_right
    assert editions.REPAIRED.otherwise == repaired
    same = ("no such column", "as netseq")
    original = {one.name for one in COLUMNS if one.original and one.original not in same} - ALL_THE_SAME - put_right
    assert original <= editions.ORIGINAL.otherwise
    assert editions.ORIGINAL.otherwise < editions.LATER.otherwise < editions.PUBLISHED.otherwise


def test_every_name_in_the_lists_is_a_statistic() -> None:
    for edition in editions.EDITIONS:
        assert edition.otherwise <= set(STATISTICS) - set(IDENTITY)


# The public tables

EXPECTED = {
    "flows/cicids2017/web_attacks.csv.gz": {"": 3530, "Web Attack – Brute Force": 1038, "Web Attack – XSS": 436},
    "flows/cicids2017/cicids2017_sample.csv.gz": {
        "": 9973, "DoS": 945, "DDoS": 623, "Port Scanning": 401, "Brute Force": 38, "Web Attacks": 12, "Bots": 8,
    },
    "flows/cicids2017/machinelearningcve-first-rows": {
        "": 7992, "Web Attack – XSS": 3, "Web Attack – Sql Injection": 2, "Web Attack – Brute Force": 2,
    },
    "flows/cicids2017/Friday-DDos_first299_TrafficLabelling.csv.gz": {"": 299},
    "flows/cse-cic-ids2018/2018-02-14-sample.csv.gz": {"": 3101, "SSH-Bruteforce": 1359, "FTP-BruteForce": 1134},
    "flows/cic-daily": {"": 18_235},
    "golden/cicflowmeter-2018": {"": 192},
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED)
def test_public_tables_are_read_whole_with_their_labels(shared_data: Path, name: str) -> None:
    read = Read(shared_data / name)
    written_rows = 0
    for path in read.source.files:
        content = path.read_bytes()
        written_rows += (gzip.decompress(content) if path.suffix == ".gz" else content).rstrip().count(b"\n")
    assert (len(read.flows), read.source.damage_counts) == (written_rows, {})
    assert Counter(read.labels) == EXPECTED[name]
    assert not np.isinf(read.matrix).any()


def test_attacks_of_cse_cic_ids2018_come_at_their_published_hours(shared_data: Path) -> None:
    read = Read(shared_data / "flows/cse-cic-ids2018/2018-02-14-sample.csv.gz")
    hours = read.flows["first_us"] // 3_600_000_000 % 24
    assert {(label, int(hour)) for label, hour in zip(read.labels, hours, strict=True)} == {
        ("FTP-BruteForce", 10), ("SSH-Bruteforce", 14), ("", 8), ("", 9), ("", 10), ("", 14),
    }  # fmt: skip


def shares(read: Read) -> dict[str, float]:
    """Of the rows that tell, how many have rates and gaps that agree with their duration in microseconds."""
    duration, packets = np.array(read.of("Flow Duration")), np.array(read.of("Total Fwd Packet")) + read.of("Total Bwd packets")
    told = duration > 0
    payload = np.array(read.of("Total Length of Fwd Packet")) + read.of("Total Length of Bwd Packet")
    laws = {
        "packets": np.array(read.of("Flow Packets/s")) * duration / 1e6 - packets,
        "payload": (np.array(read.of("Flow Bytes/s")) * duration / 1e6 - payload) / np.maximum(payload, 1),
        "gaps": (np.array(read.of("Flow IAT Mean")) * (packets - 1) - duration) / np.maximum(duration, 1),
        "variance": np.array(read.of("Packet Length Std")) ** 2 / np.maximum(read.of("Packet Length Variance"), 1e-9) - 1,
    }
    laws["variance"] = np.where(np.array(read.of("Packet Length Variance")) > 0, laws["variance"], 0)
    return {law: float((np.abs(error[told]) < 1e-3).mean()) for law, error in laws.items()}


def test_all_daily_tables_are_in_microseconds_and_in_their_columns(shared_data: Path) -> None:
    for path in sorted((shared_data / "flows/cic-daily").glob("*.gz")):
        read = Read(path)
        assert set(shares(read).values()) == {1.0}, path.name
        assert mending.NOT_US not in read.source.mended
        assert read.of("Fwd Bytes/Bulk Avg") == [0] * len(read.flows)
        assert read.of("Subflow Fwd Packets") == read.of("Total Fwd Packet"), path.name


@pytest.mark.parametrize("kind", ["original", "fixed"])
def test_tables_of_both_java_programs_are_read_whole(shared_data: Path, kind: str) -> None:
    tables = sorted((shared_data / "golden/cicflowmeter").glob(f"*/{kind}.csv"))
    assert len(tables) == 22
    for path in tables:
        read_rows = len(path.read_bytes().splitlines()) - 1
        source = FlowCsvSource([path], statistics=True)
        flows = sum(len(batch.flows) for batch in source)
        assert (flows, source.damage_counts) == (read_rows, {}), path
        assert [*source.editions.values()] == [editions.ORIGINAL if kind == "original" else editions.REPAIRED]


def test_what_both_java_programs_tell_of_one_flow_differs_in_the_listed_columns_alone(shared_data: Path) -> None:
    kept = ("Src Port", "Dst Port", "Flow Duration", "Total Fwd Packet", "Total Bwd packets", "Total Length of Fwd Packet")
    listed = [name in editions.ORIGINAL.otherwise | editions.REPAIRED.otherwise for name in STATISTICS]
    compared = 0
    for fixed in sorted((shared_data / "golden/cicflowmeter").glob("*/fixed.csv")):
        original = fixed.with_name("original.csv")
        if any(path.read_bytes().count(b"\n") < 2 for path in (fixed, original)):
            continue
        one, other = Read(original), Read(fixed)
        flows = {row: place for place, row in enumerate(zip(*(other.of(name) for name in kept), strict=True))}
        for place, row in enumerate(zip(*(one.of(name) for name in kept), strict=True)):
            if row not in flows or one.flows["protocol"][place] not in (6, 17):
                continue  # other protocols share one key in the original
            compared += 1
            here, there = one.matrix[place], other.matrix[flows[row]]
            differs = ~np.isclose(here, there, rtol=1e-6) & ~np.isnan(here)
            assert not (differs & ~np.array(listed)).any(), (fixed.parent.name, place)
    assert compared > 500


@pytest.mark.parametrize(
    "name", ["flows/cicids2017/heartbleed-cicids2017.csv.gz", "flows/unsw-nb15", "flows/unsw-nb15/Book1.csv.gz"]
)
def test_tables_of_other_kinds_are_refused(shared_data: Path, name: str) -> None:
    with pytest.raises(NotAFlowTable, match="no table of flows"):
        FlowCsvSource([shared_data / name], statistics=True)
