"""netseq-flows as a user meets it: what it writes in each format, under each header, and from each kind of input."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import said

from sensor import config
from sensor.assembly import Passage
from sensor.commands import flows
from sensor.commands.datasets import HEAD_BYTES
from sensor.sources.pcap import CaptureSource
from sensor.spellings import HEADERS, IDENTITY, SPELLINGS, STATISTICS
from sensor.statistics import statistics

DEMO = Path(__file__).parent / "data" / "demo.pcap.gz"
ISCX = HEADERS["cicflowmeter"]


class Run(NamedTuple):
    status: int
    out: str
    err: str


Flows = Callable[..., Run]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Flows:
    """Run the command in this process, which has the slow imports behind it."""

    def call(*arguments: str | Path) -> Run:
        try:
            status = flows.main([str(argument) for argument in arguments])
        except SystemExit as end:  # argparse ends the process on misuse
            status = int(end.code or 0)
        return Run(status, *said(capfd))

    return call


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def made(settings: config.Settings, *, expiry: bool = True) -> np.ndarray:
    """The demo's flows, by the parts themselves."""
    assembly = Passage(settings, expiry=expiry)
    batches = [batch for block in CaptureSource([DEMO]) for batch in assembly.feed(block)]
    return np.concatenate([batch.flows for batch in [*batches, *assembly.drain()]])


def test_the_default_is_cicflowmeter_s_table_on_standard_output_and_the_summary_on_the_other(run: Flows) -> None:
    ended = run(DEMO)
    assert ended.status == 0
    assert ended.out.splitlines()[0] == ",".join(header for header, _ in ISCX)
    rows = table(ended.out)
    assert int(re.findall(r"^flows +([\d,]+)", ended.err, re.MULTILINE)[0].replace(",", "")) == len(rows) == 240
    assert "alerts" not in ended.err
    assert {row["Label"] for row in rows} == {"NeedManualLabel"}


@pytest.mark.parametrize("rules", ["netseq", "cicflowmeter"])
def test_every_number_of_the_table_is_that_of_the_statistics(run: Flows, rules: str) -> None:
    rows = table(run("--quiet", "--rules", rules, "--header", "netseq", DEMO).out)
    settings = config.load(None, [f"statistics.rules={rules}"])
    known = statistics(made(settings), STATISTICS, settings.statistics.rules)
    netseq = {spelling.name: spelling.netseq for spelling in SPELLINGS}
    written = np.array([[float(row[netseq[name]]) for name in STATISTICS] for row in rows])
    assert np.array_equal(written.astype(np.float32), known)


def test_all_formats_say_the_same(run: Flows, tmp_path: Path) -> None:
    rows = table(run("--quiet", "--header", "netseq", DEMO).out)
    lines = [json.loads(line) for line in run("--quiet", "--format", "jsonl", DEMO).out.splitlines()]
    assert run("--quiet", "--output", tmp_path / "flows.parquet", DEMO) == Run(0, "", "")
    stored = pq.read_table(tmp_path / "flows.parquet")
    texts = {spelling.netseq for spelling in SPELLINGS if spelling.name in IDENTITY}
    assert [list(line) for line in lines] == [list(row) for row in rows] == [stored.column_names] * len(rows)
    for row, line, kept in zip(rows, lines, stored.to_pylist(), strict=True):
        for name, cell in row.items():
            if name == "timestamp":
                assert datetime.fromisoformat(cell) == kept[name]
            assert line[name] == ((cell or None) if name in texts else float(cell))
            assert name == "timestamp" or kept[name] == line[name]


def test_parquet_s_columns_have_types(run: Flows, tmp_path: Path) -> None:
    run("--quiet", "--output", tmp_path / "flows.parquet", DEMO)
    types = {field.name: str(field.type) for field in pq.read_schema(tmp_path / "flows.parquet")}
    assert (types["timestamp"], types["src_ip"]) == ("timestamp[us, tz=UTC]", "string")
    assert (types["src_port"], types["duration_us"], types["iat_mean_us"]) == ("int64", "int64", "double")


@pytest.mark.parametrize("layout", list(HEADERS))
def test_each_header_is_that_layout_s_own(run: Flows, layout: str) -> None:
    first, *rows = run("--quiet", "--header", layout, DEMO).out.splitlines()
    assert first == ",".join(header for header, _ in HEADERS[layout])
    assert all(row.count(",") == first.count(",") for row in rows)


def test_objects_and_parquet_hold_a_column_once_that_cicids2017_holds_twice(run: Flows, tmp_path: Path) -> None:
    assert run("--quiet", "--header", "cicids2017", DEMO).out.splitlines()[0].count("Fwd Header Length") == 2
    line = run("--quiet", "--header", "cicids2017", "--format", "jsonl", DEMO).out.splitlines()[0]
    assert line.count('"Fwd Header Length"') == 1
    assert '"Source IP"' in line  # without the blank of the CSV
    run("--quiet", "--header", "cicids2017", "--output", tmp_path / "x.parquet", DEMO)
    assert pq.read_schema(tmp_path / "x.parquet").names.count("Fwd Header Length") == 1


@pytest.mark.parametrize(
    ("layout", "form"),
    [
        ("cicflowmeter", r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{3}(\d{3})?)?"),
        ("cicids2017", r"\d\d/\d\d/\d{4} \d\d:\d\d:\d\d [AP]M"),
        ("cse-cic-ids2018", r"\d\d/\d\d/\d{4} \d\d:\d\d:\d\d [AP]M"),
        ("netseq", r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"),
    ],
)
def test_times_are_written_as_the_layout_has_them_in_utc(run: Flows, layout: str, form: str) -> None:
    texts = run("--quiet", "--header", layout, "--columns", "timestamp", DEMO).out.splitlines()[1:]
    assert all(re.fullmatch(form, text) for text in texts)
    slashed = "/" in texts[0]
    times = [datetime.strptime(text, "%d/%m/%Y %I:%M:%S %p") if slashed else datetime.fromisoformat(text) for text in texts]
    known = made(config.Settings())["first_us"] / 1e6
    assert np.allclose([time.replace(tzinfo=UTC).timestamp() for time in times], known, rtol=0, atol=1.0 if slashed else 1e-6)


def test_columns_are_chosen_by_any_spelling_in_the_order_given_each_once(run: Flows) -> None:
    ended = run("--quiet", "--columns", "Tot Bwd Pkts, Source IP,fwd_packets,conn_state,src_ip", DEMO)
    assert ended.out.splitlines()[0] == "Total Bwd packets,Src IP,Total Fwd Packet,Connection State"
    whole = table(run("--quiet", DEMO).out)
    assert [row["Src IP"] for row in table(ended.out)] == [row["Src IP"] for row in whole]


def test_rules_is_short_for_the_setting(run: Flows) -> None:
    short = run("--quiet", "--rules", "cicflowmeter", DEMO)
    assert short == run("--quiet", "--set", "statistics.rules=cicflowmeter", DEMO)
    assert {row["Flow Packets/s"] for row in table(short.out) if row["Flow Duration"] == "0"} == {"-1.0"}
    assert short.out != run("--quiet", DEMO).out


def test_without_idle_expiry_no_flow_ends_by_silence(run: Flows) -> None:
    ends = [row["end"] for row in table(run("--quiet", "--header", "netseq", DEMO).out)]
    kept = [row["end"] for row in table(run("--quiet", "--header", "netseq", "--no-idle-expiry", DEMO).out)]
    assert {"idle", "closed", "attempt"} & set(ends)
    assert not {"idle", "closed", "attempt"} & set(kept)
    assert len(kept) == len(made(config.Settings(), expiry=False))


def test_output_tells_its_format_by_its_suffix_and_the_summary_is_on_standard_output(run: Flows, tmp_path: Path) -> None:
    for name, begin in (
        ("a.csv", "Flow ID,"),
        ("a.jsonl", '{"flow_id":'),
        ("a.json", "{"),
        ("a.log", "#separator"),
        ("a", "F"),
    ):
        ended = run("--output", tmp_path / "new" / name, DEMO)
        assert (ended.status, ended.err) == (0, "")
        assert f"written       {tmp_path}/new/{name}" in ended.out
        assert (tmp_path / "new" / name).read_text().startswith(begin)


def test_standard_input_gives_the_same_flows_as_the_file(run: Flows) -> None:
    command = [sys.executable, "-m", "sensor.commands.flows", "--quiet", "-"]
    piped = subprocess.run(command, input=gzip.decompress(DEMO.read_bytes()), capture_output=True, check=True, timeout=120)
    assert sorted(piped.stdout.decode().splitlines()) == sorted(run("--quiet", DEMO).out.splitlines())


def test_the_command_starts_without_torch() -> None:
    program = (
        "import sys; from sensor.commands import flows; status = flows.main(sys.argv[1:]);"
        " assert not {'torch', 'models', 'scapy'} & set(sys.modules); sys.exit(status)"
    )
    ended = subprocess.run([sys.executable, "-c", program, "--quiet", str(DEMO)], capture_output=True, check=False, timeout=120)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_a_table_that_netseq_wrote_is_read_back_to_the_same_table(run: Flows, tmp_path: Path) -> None:
    run("--quiet", "--output", tmp_path / "flows.csv", DEMO)
    again = run("--quiet", tmp_path / "flows.csv")
    assert sorted(again.out.splitlines()) == sorted((tmp_path / "flows.csv").read_text().splitlines())


def test_a_table_is_known_by_its_first_line_alone(run: Flows, tmp_path: Path) -> None:
    (tmp_path / "cicids.csv").write_text(CICIDS.replace("DoS Hulk", "Web Attack \u2013 XSS"))
    columns = "Dst Port,Flow Duration,Total Fwd Packet,Total Bwd packets,Protocol,Flow IAT Mean,Flow IAT Std,Flow IAT Max"
    lengths = "Total Length of Fwd Packet,Total Length of Bwd Packet,Label"
    run("--quiet", "--columns", f"{columns},{lengths}", "--output", tmp_path / "few.csv", tmp_path / "cicids.csv")
    text = (tmp_path / "few.csv").read_text()
    assert len(text) < HEAD_BYTES
    assert "Web Attack \u2013 XSS" in text
    (tmp_path / "marked.csv").write_text("\ufeff" + text)
    for name in ("few.csv", "marked.csv"):
        again = run("--quiet", "--columns", f"{columns},{lengths}", tmp_path / name)
        assert again.out == text


CICIDS = """\
Flow ID, Source IP, Source Port, Destination IP, Destination Port, Protocol, Timestamp, Flow Duration, Total Fwd Packets,\
 Total Backward Packets,Total Length of Fwd Packets, Total Length of Bwd Packets, Fwd Packet Length Max, Fwd Packet Length Min,\
 Fwd Packet Length Mean, Fwd Packet Length Std,Flow Bytes/s, Flow Packets/s, Flow IAT Mean, Flow IAT Std, Flow IAT Max, Label
a,192.168.10.5,54865,104.16.207.165,443,6,07/07/2017 03:30:00,3,2,0,12,0,6,6,6.0,0.0,4000000.0,666666.6667,3.0,0.0,3,BENIGN
b,192.168.10.5,55054,104.16.28.216,80,6,07/07/2017 03:31:00,109,1,1,6,6,6,6,6.0,0.0,110091.7431,18348.62385,109.0,0.0,\
109,DoS Hulk
"""


def test_a_labelled_table_keeps_its_values_and_its_labels(run: Flows, tmp_path: Path) -> None:
    path = tmp_path / "friday.csv"
    path.write_text(CICIDS)
    rows = table(run("--quiet", path).out)
    assert [row["Label"] for row in rows] == ["BENIGN", "DoS Hulk"]
    assert [row["Flow Packets/s"] for row in rows] == ["666666.6667", "18348.62385"]
    assert [row["Src Port"] for row in rows] == ["54865", "55054"]
    assert {row["Bwd IAT Mean"] for row in rows} == {""}  # the table has no such column
    run("--quiet", "--output", tmp_path / "x.parquet", path)
    assert pq.read_table(tmp_path / "x.parquet").to_pylist()[0]["bwd_iat_mean_us"] is None


@pytest.fixture
def without_hosts(tmp_path: Path) -> Path:
    """The form of CICIDS2017 that is meant for machine learning."""
    path = tmp_path / "learning.csv"
    rows = [line.split(",") for line in CICIDS.splitlines()]
    gone = {
        place for place, name in enumerate(rows[0]) if name.strip() in ("Flow ID", "Source IP", "Destination IP", "Timestamp")
    }
    path.write_text("".join(",".join(c for place, c in enumerate(row) if place not in gone) + "\n" for row in rows))
    return path


def test_a_table_without_hosts_and_times_leaves_them_empty(run: Flows, without_hosts: Path) -> None:
    rows = table(run("--quiet", without_hosts).out)
    assert [row["Dst Port"] for row in rows] == ["443", "80"]
    for row in rows:
        assert (row["Flow ID"], row["Src IP"], row["Dst IP"], row["Timestamp"]) == ("", "", "", "")


def test_no_conn_log_is_made_of_a_table_without_hosts(run: Flows, without_hosts: Path) -> None:
    ended = run("--format", "zeek-json", without_hosts)
    assert (ended.status, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert f"{without_hosts}: the table has no hosts or no times" in ended.err


CONN = '{"ts":1.7e9,"uid":"C1","id.orig_h":"10.0.0.1","id.orig_p":4000,"id.resp_h":"10.0.0.2","id.resp_p":53,"proto":"udp"}\n'


def test_what_a_log_cannot_tell_is_an_empty_cell_and_null(run: Flows, tmp_path: Path) -> None:
    (tmp_path / "conn.log").write_text(CONN)
    (row,) = table(run("--quiet", tmp_path / "conn.log").out)
    assert (row["Src IP"], row["Dst Port"], row["Flow IAT Std"], row["SYN Flag Count"]) == ("10.0.0.1", "53", "", "")
    line = json.loads(run("--quiet", "--format", "jsonl", tmp_path / "conn.log").out)
    assert (line["src_port"], line["iat_std_us"], line["end"]) == (4000, None, "log")


def test_list_columns_tells_every_column_in_a_line(run: Flows) -> None:
    lines = run("--list-columns").out.splitlines()
    assert [line.split("  ")[0] for line in lines] == [spelling.name for spelling in SPELLINGS]
    assert any(re.search(r"Flow Duration +duration_us +us +\w+", line) for line in lines)


def test_show_config_prints_what_config_reads(run: Flows, tmp_path: Path) -> None:
    path = tmp_path / "sensor.toml"
    path.write_text(run("--rules", "cicflowmeter", "--show-config").out)
    assert config.load(path) == config.load(None, ["statistics.rules=cicflowmeter"])
