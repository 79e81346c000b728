"""Files of flows as other programs read them: Zeek's conn.log to the byte, CSV quoting, Parquet's nulls."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sensor import addresses
from sensor.address_text import stamps_text
from sensor.conversations import Conversations
from sensor.decode import Decoder
from sensor.flows import FlowTable
from sensor.row_text import MISSING, Values
from sensor.schema import CONN_STATES, FLOW, ICMP, ICMPV6, NO_PROTOCOL, SCTP, TCP, UDP, FlowBatch
from sensor.sinks.conn_log import FIELDS, ConnLog, ports, uids
from sensor.sinks.flow_csv import FlowCsv
from sensor.sinks.flow_field import Field
from sensor.sinks.flow_jsonl import FlowJsonLines
from sensor.sinks.flow_parquet import FlowParquet
from sensor.sources.pcap import CaptureSource
from sensor.sources.zeek import ConnLogSource
from sensor.words import Vocabulary

DEMO = Path(__file__).parent / "data" / "demo.pcap.gz"
OPENED = datetime(2026, 11, 21, 20, 17, 9)
FORMS: tuple[Literal["tsv", "json"], ...] = ("tsv", "json")


@pytest.fixture(scope="module")
def demo() -> NDArray[np.void]:
    table, decoder = FlowTable(), Decoder()
    ended = [table.feed(decoder.decode(block)).copy() for block in CaptureSource([DEMO])]
    return np.concatenate([*ended, table.drain()])


def written(flows: NDArray[np.void], form: Literal["tsv", "json"], uids: Sequence[str | None] | None = None) -> bytes:
    stream = io.BytesIO()
    log = ConnLog(stream, form, clock=lambda: OPENED)
    log.write(FlowBatch(flows, uids))
    log.close()
    return stream.getvalue()


def flow(**values: object) -> NDArray[np.void]:
    row = np.zeros(1, FLOW)
    row["src_lo"], row["dst_lo"] = (addresses.halves(host)[1] for host in ("192.0.2.1", "198.51.100.2"))
    row["protocol"], row["first_us"], row["last_us"] = TCP, 1_300_475_167_096_535, 1_300_475_168_096_535
    for name, value in values.items():
        row[name] = value
    return row


def test_the_header_and_end_are_those_of_a_real_zeek(shared_data: Path) -> None:
    golden = (shared_data / "golden/zeek/wikipedia.trace/tsv/conn.log").read_text().splitlines()
    ours = written(flow(), "tsv").decode().splitlines()
    told = [line for line in golden if line.startswith("#")]
    assert [line for line in ours if line.startswith("#") and not line.startswith(("#open", "#close"))] == [
        line for line in told if not line.startswith(("#open", "#close"))
    ]
    assert ours[-1] == "#close\t2026-11-21-20-17-09"
    assert "#open\t2026-11-21-20-17-09" in ours


@pytest.mark.parametrize("capture", ["wikipedia.trace", "icmp_5-pings.pcap", "icmp_icmp6-ping.pcap", "ftp_ipv6.trace"])
def test_a_line_read_from_a_real_conn_log_is_written_as_it_was(shared_data: Path, capture: str) -> None:
    folder = shared_data / "golden/zeek" / capture
    unknown = {"service", "history", "missed_bytes", "local_orig", "local_resp", "tunnel_parents"}
    for form in FORMS:
        path = folder / form / "conn.log"
        (batch,) = ConnLogSource([path])
        ours = [line for line in written(batch.flows, form, batch.uids).decode().splitlines() if not line.startswith("#")]
        real = [line for line in path.read_text().splitlines() if not line.startswith("#")]
        names = [name for name, _ in FIELDS]
        compared = 0
        by_uid = {row["uid"]: row for row in map(json.loads, real)} if form == "json" else {}
        for line in ours:
            if form == "json":
                row = json.loads(line)
                zeek = by_uid[row["uid"]]
                assert [name for name in zeek if name in row] == [name for name in row if name in zeek]
                zeek["duration"] = round(zeek.get("duration", 0), 6)
                row.setdefault("duration", 0)
            else:
                row = dict(zip(names, line.split("\t"), strict=True))
                (zeek,) = (dict(zip(names, one.split("\t"), strict=True)) for one in real if f"\t{row['uid']}\t" in one)
            for name in names:
                if name not in unknown and name in row and zeek.get(name, "-") != "-":
                    assert row[name] == zeek[name], (name, line)
                    compared += 1
        assert compared > 10 * len(real)


@pytest.mark.parametrize("form", FORMS)
def test_a_conn_log_gives_the_same_words_as_the_flows_it_was_written_from(
    demo: NDArray[np.void], tmp_path: Path, form: Literal["tsv", "json"]
) -> None:
    (tmp_path / "conn.log").write_bytes(written(demo, form))
    source = ConnLogSource([tmp_path / "conn.log"])
    read = np.concatenate([batch.flows for batch in source])
    assert source.damage_counts == {}
    by_end = demo[np.argsort(demo["last_us"], kind="stable")]  # the order of a log's reader
    vocabulary = Vocabulary.learn([by_end], min_count=2)
    assert len(read) == len(demo)
    assert np.array_equal(
        vocabulary.words(read, Conversations().turn(read)), vocabulary.words(by_end, Conversations().turn(by_end))
    )


def test_both_forms_say_the_same(demo: NDArray[np.void]) -> None:
    tsv = [line.split("\t") for line in written(demo, "tsv").decode().splitlines() if not line.startswith("#")]
    for cells, line in zip(tsv, written(demo, "json").decode().splitlines(), strict=True):
        told = json.loads(line)
        for (name, kind), cell in zip(FIELDS, cells, strict=True):
            if cell == "-":
                assert name not in told
            else:
                number = kind in ("time", "interval", "count", "port")
                assert told[name] == (float(cell) if number else cell)
        assert msgspec.json.encode(told).decode() == line


def test_what_netseq_cannot_know_is_unset() -> None:
    told = json.loads(written(flow(), "json"))
    assert set(told) == {name for name, _ in FIELDS} - {
        *("service", "local_orig", "local_resp", "missed_bytes", "history", "tunnel_parents")
    }


def test_a_lone_packet_has_no_duration_as_in_zeek() -> None:
    assert "duration" not in json.loads(written(flow(last_us=1_300_475_167_096_535), "json"))
    assert json.loads(written(flow(), "json"))["duration"] == 1.0


@pytest.mark.parametrize(
    ("protocol", "name"), [(TCP, "tcp"), (UDP, "udp"), (ICMP, "icmp"), (ICMPV6, "icmp"), (SCTP, "unknown_transport")]
)
def test_protocols_have_the_names_that_zeek_knows_and_their_number(protocol: int, name: str) -> None:
    told = json.loads(written(flow(protocol=protocol), "json"))
    assert (told["proto"], told["ip_proto"]) == (name, protocol)


def test_a_protocol_that_the_log_did_not_tell_is_unset() -> None:
    assert "ip_proto" not in json.loads(written(flow(protocol=NO_PROTOCOL), "json"))


@settings(deadline=None)
@given(st.sampled_from([ICMP, ICMPV6]), st.integers(0, 255), st.integers(0, 255))
def test_icmp_s_type_and_code_stand_where_ports_do(protocol: int, icmp_type: int, icmp_code: int) -> None:
    src, dst = ports(flow(protocol=protocol, icmp_type=icmp_type, icmp_code=icmp_code))
    assert (int(src[0]), int(dst[0])) == addresses.icmp_ports(protocol, icmp_type, icmp_code)


def test_every_state_is_written_under_its_name() -> None:
    rows = np.concatenate([flow(conn_state=state) for state in range(len(CONN_STATES))])
    assert [json.loads(line)["conn_state"] for line in written(rows, "json").splitlines()] == list(CONN_STATES)


def test_a_uid_is_zeek_s_or_made_of_the_flow_itself() -> None:
    made = uids(np.concatenate([flow(), flow(), flow(src_port=1), flow(first_us=1), flow(protocol=UDP)]))
    assert made[0] == made[1]
    assert len(set(made.tolist())) == 4
    assert all(re.fullmatch(rb"C[0-9A-Za-z]{17}", uid) for uid in made.tolist())
    rows = [
        json.loads(line)["uid"]
        for line in written(np.concatenate([flow(), flow()]), "json", ["CHhAvVGS1DHFjwGM9", None]).splitlines()
    ]
    assert rows == ["CHhAvVGS1DHFjwGM9", made[0].decode()]


def test_many_flows_have_as_many_uids() -> None:
    rows = np.repeat(flow(), 100_000)
    rows["first_us"] += np.arange(len(rows))
    assert len(set(uids(rows).tolist())) == len(rows)


FIELDS_OF_ALL_KINDS = (
    Field("who", "text"),
    Field(" n", "integer"),
    Field("x", "real"),
    Field("t", "time"),
    Field("n", "integer"),
)
TIME_US = 1_499_443_190_315_195


def columns(n: Values) -> list[Values]:
    return [
        np.array([b'a,"b"', "é".encode(), b""]),
        n,
        np.array([0.5, np.nan, np.inf]),
        np.array([TIME_US, MISSING, 0]),
        n,
    ]


def test_csv_quotes_what_it_must_and_leaves_missing_cells_empty() -> None:
    stream = io.BytesIO()
    sink = FlowCsv(stream, FIELDS_OF_ALL_KINDS, stamps=stamps_text, name="x")
    sink.write(columns(np.array([1.0, np.nan, 2.5])))
    sink.close()
    rows = list(csv.reader(io.StringIO(stream.getvalue().decode())))
    assert rows == [
        ["who", " n", "x", "t", "n"],
        ['a,"b"', "1", "0.5", "2017-07-07 15:59:50.315195", "1"],
        ["é", "", "", "", ""],
        ["", "2.5", "Infinity", "1970-01-01 00:00:00", "2.5"],
    ]


def test_json_lines_have_null_for_what_no_number_can_be_and_each_key_once() -> None:
    stream = io.BytesIO()
    sink = FlowJsonLines(stream, FIELDS_OF_ALL_KINDS, stamps=stamps_text, name="x")
    sink.write(columns(np.array([1, 2, 3])))
    sink.close()
    assert [json.loads(line) for line in stream.getvalue().splitlines()] == [
        {"who": 'a,"b"', "n": 1, "x": 0.5, "t": "2017-07-07 15:59:50.315195"},
        {"who": "é", "n": 2, "x": None, "t": None},
        {"who": None, "n": 3, "x": None, "t": "1970-01-01 00:00:00"},
    ]


def test_parquet_has_null_for_what_is_missing(tmp_path: Path) -> None:
    with (tmp_path / "x.parquet").open("wb") as stream:
        sink = FlowParquet(stream, FIELDS_OF_ALL_KINDS, name="x")
        sink.write(columns(np.array([1.0, np.nan, 3.0])))
        sink.close()
    table = pq.read_table(tmp_path / "x.parquet")
    assert table.column_names == ["who", "n", "x", "t"]
    assert table["n"].to_pylist() == [1, None, 3]
    assert table["x"].to_pylist() == [0.5, None, float("inf")]
    assert table["who"].to_pylist() == ['a,"b"', "é", None]
    assert table["t"].cast("int64").to_pylist() == [TIME_US, None, 0]


def test_parquet_gathers_rows_into_groups_and_loses_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sensor.sinks.flow_parquet.GROUP_ROWS", 100)
    with (tmp_path / "x.parquet").open("wb") as stream:
        sink = FlowParquet(stream, (Field("n", "integer"),), name="x")
        for first in range(0, 1050, 30):
            sink.write([np.arange(first, first + 30)])
        sink.close()
    assert pq.read_metadata(tmp_path / "x.parquet").num_row_groups == 9
    assert pq.read_table(tmp_path / "x.parquet")["n"].to_pylist() == list(range(1050))


def test_a_parquet_file_without_rows_is_one_all_the_same(tmp_path: Path) -> None:
    with (tmp_path / "x.parquet").open("wb") as stream:
        FlowParquet(stream, FIELDS_OF_ALL_KINDS, name="x").close()
    assert pq.read_table(tmp_path / "x.parquet").num_rows == 0
