"""conn.log from disk: every form says the same, every convention is read, and what cannot be read is named and counted."""

from __future__ import annotations

import gzip
import ipaddress
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sensor.schema import CONN_STATES, END_LOG, FlowBatch
from sensor.sources import lines
from sensor.sources.finished import CONN, Finished, in_order, merged
from sensor.sources.lines import Damages
from sensor.sources.zeek import ConnLogSource, NotAConnLog
from sensor.sources.zeek_text import Header, text_of

ZEEK = Path(__file__).parent / "data" / "zeek"
TRACES = sorted(path.name for path in ZEEK.iterdir() if not path.name.startswith("_"))

HEADER = (
    "#separator \\x09\n#set_separator\t,\n#empty_field\t(empty)\n#unset_field\t-\n#path\tconn\n"
    "#fields\tts\tuid\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tproto\tduration\torig_bytes\tresp_bytes\tconn_state"
    "\torig_pkts\torig_ip_bytes\tresp_pkts\tresp_ip_bytes\n"
)
ROW = "1300475167.096535\tCabc\t10.0.0.1\t4000\t10.0.0.2\t80\ttcp\t1.5\t100\t2000\tSF\t5\t360\t6\t2312\n"
OBJECT: dict[str, object] = {
    "ts": 1300475167.096535, "uid": "Cabc", "id.orig_h": "10.0.0.1", "id.orig_p": 4000, "id.resp_h": "10.0.0.2",
    "id.resp_p": 80, "proto": "tcp", "duration": 1.5, "orig_bytes": 100, "resp_bytes": 2000, "conn_state": "SF", "orig_pkts": 5,
    "orig_ip_bytes": 360, "resp_pkts": 6, "resp_ip_bytes": 2312,
}  # fmt: skip


def read(*paths: Path, block_flows: int = 8192) -> tuple[ConnLogSource, list[FlowBatch]]:
    source = ConnLogSource(paths, block_flows=block_flows)
    return source, list(source)


def flows_in(*paths: Path) -> NDArray[np.void]:
    return np.concatenate([batch.flows for batch in read(*paths)[1]])


def log(folder: Path, text: str | bytes, name: str = "conn.log") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def jsonl(*objects: dict[str, object]) -> str:
    return "".join(json.dumps(one) + "\n" for one in objects)


def sorted_rows(rows: NDArray[np.void]) -> list[bytes]:
    return sorted(row.tobytes() for row in rows)


def state(row: np.void) -> str:
    return CONN_STATES[row["conn_state"]]


@pytest.mark.parametrize("trace", TRACES)
def test_tsv_and_json_of_one_trace_give_the_same_flows(trace: str) -> None:
    tsv, objects = (flows_in(ZEEK / trace / form / "conn.log") for form in ("tsv", "json"))
    assert len(tsv) > 0
    assert sorted_rows(tsv) == sorted_rows(objects)


def test_tsv_and_json_of_every_golden_trace_give_the_same_flows(shared_data: Path) -> None:
    traces = [path for path in sorted((shared_data / "golden/zeek").iterdir()) if (path / "tsv/conn.log").is_file()]
    for trace in traces:
        assert sorted_rows(flows_in(trace / "tsv")) == sorted_rows(flows_in(trace / "json")), trace.name
    assert len(traces) > 30


def test_every_field_of_a_line_lands_in_its_place(tmp_path: Path) -> None:
    source, [batch] = read(log(tmp_path, HEADER + ROW))
    [row] = batch.flows
    assert (row["first_us"], row["last_us"]) == (1_300_475_167_096_535, 1_300_475_168_596_535)
    assert (row["src_lo"], row["dst_lo"]) == (0xFFFF_0A00_0001, 0xFFFF_0A00_0002)
    assert (row["src_port"], row["dst_port"], row["protocol"], state(row), row["end"]) == (4000, 80, 6, "SF", END_LOG)
    assert [row[side]["payload"]["sum"] for side in ("fwd", "bwd")] == [100, 2000]
    assert [row[side]["packets"] for side in ("fwd", "bwd")] == [5, 6]
    assert [row[side]["ip_bytes"] for side in ("fwd", "bwd")] == [360, 2312]
    assert (batch.uids, batch.labels, batch.details) == (["Cabc"], None, None)
    assert (source.connections, source.damages, source.bytes_done) == (1, [], source.bytes_total)


def test_json_gives_what_tsv_gives(tmp_path: Path) -> None:
    assert flows_in(log(tmp_path, jsonl(OBJECT), "j")).tobytes() == flows_in(log(tmp_path, HEADER + ROW, "t")).tobytes()


@pytest.mark.parametrize(
    ("ts", "us"),
    [
        (1300475167.096535, 1_300_475_167_096_535),
        ("2011-03-18T19:06:07.096535Z", 1_300_475_167_096_535),
        ("2011-03-18T20:06:07.096535+01:00", 1_300_475_167_096_535),
        ("2011-03-18T14:06:07.096535-05:00", 1_300_475_167_096_535),
        ("2011-03-18T14:06:07.096535-0500", 1_300_475_167_096_535),
        ("2011-03-18T19:06:07.096535", 1_300_475_167_096_535),
        ("1300475167.096535", 1_300_475_167_096_535),
        ("1300475167096", 1_300_475_167_096_000),
        ("1211111111111", 1_211_111_111_111_000),
        ("1300475167", 1_300_475_167_000_000),
        ("-1.5", -1_500_000),
        ("2011-03-18T19:06:07Z", 1_300_475_167_000_000),
        (1300475167096, 1_300_475_167_096_000),
        (1300475167, 1_300_475_167_000_000),
        (0, 0),
        (-1500, -1_500_000),
        (-1.5, -1_500_000),
        ("1969-12-31T23:59:58.500000Z", -1_500_000),
    ],
)
def test_all_forms_of_json_time_are_read(tmp_path: Path, ts: object, us: int) -> None:
    assert flows_in(log(tmp_path, jsonl(OBJECT | {"ts": ts})))["first_us"].tolist() == [us]


def test_text_that_is_no_time_is_refused_as_that(tmp_path: Path) -> None:
    source, [batch] = read(log(tmp_path, jsonl(OBJECT, OBJECT | {"ts": "noon"}, OBJECT | {"duration": 1e300})))
    assert len(batch.flows) == 1
    assert {damage.reason.rpartition(": ")[2] for damage in source.damages} == {"not a time"}


@pytest.mark.parametrize("text", [HEADER + ROW, jsonl(OBJECT)], ids=["tsv", "json"])
def test_a_mark_of_utf_8_before_a_log_is_no_part_of_it(tmp_path: Path, text: str) -> None:
    source, [batch] = read(log(tmp_path, b"\xef\xbb\xbf" + text.encode()))
    assert (len(batch.flows), batch.uids, source.damages) == (1, ["Cabc"], [])


@given(st.integers(0, 4_000_000_000_000_000))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_microsecond_is_lost_in_tsv_or_json(tmp_path: Path, us: int) -> None:
    text = f"{us // 1_000_000}.{us % 1_000_000:06}"
    tsv = log(tmp_path, HEADER + ROW.replace("1300475167.096535", text), "tsv")
    objects = log(tmp_path, jsonl(OBJECT).replace("1300475167.096535", text), "json")
    assert flows_in(tsv)["first_us"].tolist() == flows_in(objects)["first_us"].tolist() == [us]


def test_nested_and_flattened_names_and_nulls_are_the_same(tmp_path: Path) -> None:
    nested = {name: value for name, value in OBJECT.items() if not name.startswith("id.")}
    nested["id"] = {name[3:]: value for name, value in OBJECT.items() if name.startswith("id.")}
    nested |= {"service": None, "tunnel_parents": None, "label": None, "ip_proto": None}
    assert flows_in(log(tmp_path, jsonl(nested), "n")).tobytes() == flows_in(log(tmp_path, jsonl(OBJECT), "f")).tobytes()


@pytest.mark.parametrize(
    ("variant", "rows"),
    [("ext_json", 3), ("extras_json", 3), ("extras_tsv", 3), ("local_tsv", 3), ("semicolon_tsv", 34), ("unset_null_json", 3)],
)
def test_variants_of_zeeks_settings_are_read(variant: str, rows: int) -> None:
    source, batches = read(ZEEK / "_variants" / variant / "conn.log")
    assert source.damage_counts == {}
    flows = np.concatenate([batch.flows for batch in batches])
    assert len(flows) == rows
    if rows == 3:
        assert flows.tobytes() == flows_in(ZEEK / "_variants" / "local_tsv" / "conn.log").tobytes()


def test_separator_and_unset_mark_are_read_from_the_header() -> None:
    flows = flows_in(ZEEK / "_variants" / "semicolon_tsv" / "conn.log")
    assert sorted_rows(flows) == sorted_rows(flows_in(ZEEK / "wikipedia.trace" / "tsv" / "conn.log"))


def test_awkward_strings_come_out_of_tsv_as_zeeks_json_has_them() -> None:
    header, cells = Header(), []
    for line in (ZEEK / "_escaping/tsv/esc.log").read_bytes().splitlines():
        if line.startswith(b"#"):
            header.take(line)
        else:
            cells.append(dict(zip(header.fields, line.split(header.separator), strict=True)))
    objects = [json.loads(line) for line in (ZEEK / "_escaping/json/esc.log").read_text().splitlines()]
    compared = 0
    for row, told in zip(cells, objects, strict=True):
        if "s" not in told or told["what"] in ("empty string, empty set, empty vector", "nul and control"):
            continue  # Zeek's JSON shows control bytes as text; conn.log has no field that may be empty
        assert text_of(row["s"]) == told["s"]
        compared += 1
    assert compared >= 6
    assert text_of(b"a\\x00b\\x01\\x1f\\x7f") == "a\x00b\x01\x1f\x7f"


def test_a_uid_comes_out_of_tsv_as_json_has_it(tmp_path: Path) -> None:
    awkward = "C\t\\x\u00fc"
    cells = ROW + ROW.replace("Cabc", "C\\x09\\\\x\u00fc") + ROW.replace("Cabc", "-")
    _, [tsv] = read(log(tmp_path, HEADER + cells, "tsv"))
    assert tsv.uids == ["Cabc", awkward, ""]
    _, [objects] = read(log(tmp_path, jsonl(OBJECT, OBJECT | {"uid": awkward}, OBJECT | {"uid": "C\\x09"}), "json"))
    assert objects.uids == ["Cabc", awkward, "C\\x09"]


def test_payload_zeek_left_out_is_taken_from_the_ip_bytes_except_for_tcp(tmp_path: Path) -> None:
    lone = OBJECT | {
        "orig_bytes": None,
        "resp_bytes": None,
        "orig_pkts": 2,
        "orig_ip_bytes": 156,
        "resp_pkts": 0,
        "resp_ip_bytes": 0,
    }
    v6 = {"id.orig_h": "fe80::1", "id.resp_h": "ff02::fb"}
    protocols = ["udp", "icmp", "tcp", "unknown_transport", "sctp"]
    cases = [lone | {"proto": protocol} for protocol in protocols] + [lone | {"proto": "udp"} | v6]
    payload = flows_in(log(tmp_path, jsonl(*cases)))["fwd"]["payload"]["sum"]
    assert payload.tolist() == [156 - 2 * 28, 156 - 2 * 28, 0, 156 - 2 * 20, 156 - 2 * 32, 156 - 2 * 48]


def test_derived_udp_payload_equals_what_zeek_counts_where_it_counts(shared_data: Path) -> None:
    """The rule that fills Zeek's gaps, tried on the rows without a gap."""
    checked, header = 0, Header()
    for line in gzip.decompress((shared_data / "zeek/benign/m57-office/conn.log.gz").read_bytes()).splitlines():
        if line.startswith(b"#"):
            header.take(line)
            continue
        row = dict(zip(header.fields, line.split(b"\t"), strict=True))
        if row["proto"] == b"udp" and row["orig_bytes"] != b"-":
            header_bytes = 48 if b":" in row["id.orig_h"] else 28
            assert int(row["orig_bytes"]) == int(row["orig_ip_bytes"]) - header_bytes * int(row["orig_pkts"])
            checked += 1
    assert checked > 1000


def test_icmp_ports_are_type_and_code_and_paired_types_have_no_code() -> None:
    def icmp(trace: str) -> tuple[int, ...]:
        [row] = flows_in(ZEEK / trace / "tsv" / "conn.log")
        return tuple(int(row[name]) for name in ("protocol", "icmp_type", "icmp_code", "src_port", "dst_port"))

    assert icmp("icmp_5-pings.pcap") == (1, 8, 0, 0, 0)
    assert icmp("icmp_icmp-destunreach-udp.pcap") == (1, 3, 3, 0, 0)
    assert icmp("icmp_icmp6-ping.pcap") == (58, 128, 0, 0, 0)
    assert icmp("icmp_icmp6-neighbor-advert.pcap") == (58, 136, 0, 0, 0)


@pytest.mark.parametrize(
    ("change", "protocol"),
    [
        ({"proto": "udp"}, 17),
        ({"proto": "sctp"}, 132),
        ({"proto": "unknown_transport"}, 255),
        ({"proto": "unknown_transport", "ip_proto": 47}, 47),
        ({"proto": "icmp"}, 1),
        ({"proto": "icmp", "id.orig_h": "fe80::1", "id.resp_h": "fe80::2"}, 58),
        ({"proto": "icmp", "id.orig_h": "::1", "id.resp_h": "::1"}, 58),
    ],
)
def test_protocol_numbers_come_from_ip_proto_or_the_name(tmp_path: Path, change: dict[str, object], protocol: int) -> None:
    assert flows_in(log(tmp_path, jsonl(OBJECT | change)))["protocol"].tolist() == [protocol]


@given(st.ip_addresses())
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_addresses_are_read_as_the_standard_library_reads_them(
    tmp_path: Path, address: ipaddress.IPv4Address | ipaddress.IPv6Address
) -> None:
    [row] = flows_in(log(tmp_path, jsonl(OBJECT | {"id.orig_h": str(address)})))
    number = int(address) + (0xFFFF_0000_0000 if address.version == 4 else 0)
    assert (int(row["src_hi"]) << 64) + int(row["src_lo"]) == number


def test_flows_come_in_the_order_of_their_end_whatever_the_files_order(tmp_path: Path) -> None:
    rows = [
        OBJECT | {"ts": 1000.0 + start, "duration": lasting, "uid": f"C{start}"}
        for start, lasting in ((0, 90.0), (1, 5.0), (2, 4.0))
    ]
    _, [batch] = read(log(tmp_path, jsonl(*rows)))
    assert batch.uids == ["C1", "C2", "C0"]  # those that end together stay as they were


def test_overlapping_files_are_merged_by_time_and_read_in_the_order_of_their_beginning(tmp_path: Path) -> None:
    def lines_at(*seconds: float) -> str:
        return jsonl(*(OBJECT | {"ts": at, "duration": 0.0} for at in seconds))

    log(tmp_path, lines_at(3000.0, 3100.0), "a.log")
    log(tmp_path, lines_at(1000.0, 2000.0), "b.log")
    log(tmp_path, lines_at(1500.0, 3050.0), "c.log")
    source, batches = read(tmp_path)
    assert [path.name for path in source.files] == ["b.log", "c.log", "a.log"]
    assert [us // 10**6 for batch in batches for us in batch.flows["first_us"]] == [1000, 1500, 2000, 3000, 3050, 3100]


@given(st.lists(st.lists(st.integers(0, 50), max_size=8), max_size=6))
def test_merging_keeps_every_row_and_sorts_files_that_follow_one_another(ends: list[list[int]]) -> None:
    files = []
    for number, times in enumerate(ends):
        conns = np.zeros(len(times), CONN)
        conns["last_us"], conns["src_port"] = times, number
        files.append(in_order(Finished(conns, np.array([b"C%d" % time for time in times], "S8"))))
    files.sort(key=lambda finished: finished.conns["last_us"][0] if len(finished.conns) else 99)
    out = list(merged(files))
    together = [(int(row["last_us"]), int(row["src_port"])) for part in out for row in part.conns]
    assert sorted(together) == sorted(
        (time, int(one.conns["src_port"][0])) for one in files for time in one.conns["last_us"].tolist()
    )
    assert [time for time, _ in together] == sorted(time for time, _ in together)
    assert all(
        uid == b"C%d" % row["last_us"]
        for part in out
        if part.uids is not None
        for row, uid in zip(part.conns, part.uids, strict=True)
    )


@pytest.mark.parametrize("block_flows", [1, 7, 8192])
def test_batches_hold_at_most_block_flows_and_together_the_same(block_flows: int) -> None:
    path = ZEEK / "wikipedia.trace" / "tsv" / "conn.log"
    source, batches = read(path, block_flows=block_flows)
    assert all(len(batch.flows) <= block_flows for batch in batches)
    assert np.concatenate([batch.flows for batch in batches]).tobytes() == flows_in(path).tobytes()
    assert source.connections == 34


@pytest.mark.parametrize("form", ["tsv", "json"])
def test_where_a_read_ends_inside_a_line_changes_nothing(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = ZEEK / "wikipedia.trace" / form / "conn.log"
    whole = flows_in(path).tobytes()
    for size in (1000, 1001, 1024, 1403):
        monkeypatch.setattr(lines, "READ_BYTES", size)
        assert flows_in(path).tobytes() == whole


def test_a_broken_line_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    broken = [
        ROW.replace("10.0.0.2", "10.0.0.256"),
        ROW.replace("\t80\t", "\t80000\t"),
        ROW.replace("1300475167.096535", "yesterday"),
        ROW.replace("1300475167.096535", "-"),
        ROW.replace("1300475167.096535", "nan"),
        ROW.replace("\t100\t", "\t-100\t"),
        ROW.replace("\t100\t", "\t18446744073709551616\t"),
        ROW.replace("\tSF", ""),
        "\xff\n",
    ]
    source, [batch] = read(log(tmp_path, HEADER + "".join(line + ROW for line in broken) + "\n"))
    assert len(batch.flows) == len(broken)
    assert [(damage.line, damage.reason) for damage in sorted(source.damages, key=lambda damage: damage.line)] == [
        (7, "id.resp_h is '10.0.0.256': not an address"),
        (9, "id.resp_p is '80000': not from 0 to 65535"),
        (11, "ts is 'yesterday': not a time"),
        (13, "ts is '-': not a time"),
        (15, "ts is 'nan': not a time"),
        (17, "orig_bytes is '-100': not from 0 to 4611686018427387904"),
        (19, "orig_bytes is '18446744073709551616': not from 0 to 4611686018427387904"),
        (21, "14 columns where the header names 15"),
        (23, "1 columns where the header names 15"),
    ]
    assert source.damage_counts == {"id.resp_h": 1, "id.resp_p": 1, "ts": 3, "orig_bytes": 2, "columns": 2}


def test_a_broken_json_line_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    good = jsonl(OBJECT)
    broken = [
        '{"ts": 1\n',
        jsonl(OBJECT | {"orig_bytes": "many"}),
        jsonl({name: value for name, value in OBJECT.items() if name != "id.resp_h"}),
        jsonl(OBJECT | {"_path": "dns"}),
        jsonl(OBJECT | {"ts": "noon"}),
        "[]\n",
        '{"ts": "\\ud800"}\n',
        "\x00\n",
    ]
    source, [batch] = read(log(tmp_path, good + "".join(line + good for line in broken)))
    assert len(batch.flows) == 1 + len(broken)
    assert [damage.line for damage in sorted(source.damages, key=lambda damage: damage.line)] == list(range(2, 18, 2))
    assert all("\n" not in damage.reason for damage in source.damages)
    assert sum(source.damage_counts.values()) == len(broken)


def test_all_damages_are_counted_and_the_first_hundred_kept(tmp_path: Path) -> None:
    source, _ = read(log(tmp_path, HEADER + ROW + "broken\n" * 1000))
    assert source.damage_counts == {"columns": 1000}
    assert len(source.damages) == 100


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(HEADER + ROW * 3) - 1), st.integers(0, 255)), max_size=6), st.booleans())
def test_damaged_bytes_never_crash_the_reader_and_no_row_vanishes(
    tmp_path: Path, damage: list[tuple[int, int]], as_json: bool
) -> None:
    data = bytearray((jsonl(OBJECT) * 8 if as_json else HEADER + ROW * 3).encode())
    for place, value in damage:
        data[place % len(data)] = value
    path = log(tmp_path, bytes(data))
    try:
        source, batches = read(path)
    except NotAConnLog:
        return
    flows = sum(len(batch.flows) for batch in batches)
    content = data.replace(b"\r\n", b"\n").split(b"\n")
    rows = [line for line in content if line.strip() and not (line.startswith(b"#") and not as_json)]
    assert flows + sum(source.damage_counts.values()) == len([line for line in rows if line])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"Lorem ipsum dolor\n", "begins with neither"),
        (ROW.encode(), "begins with neither"),
        (b"\x00\x01\x02", "begins with neither"),
        (HEADER.replace("#path\tconn", "#path\tdns").replace("conn_state", "query").encode(), "it is a dns.log"),
        (HEADER.replace("\tproto", "").encode(), "it has no column proto"),
        (b"#separator \\x09\n#path\tconn\n", "no #fields"),
        (b'{"ts": 1.0}\n', "no id.orig_h"),
        (b'{"broken\n', "not a connection in JSON"),
        (jsonl(OBJECT | {"_path": "http"}).encode(), "a record of http.log"),
    ],
)
def test_a_file_that_is_no_conn_log_is_refused_in_one_line(tmp_path: Path, content: bytes, says: str) -> None:
    path = log(tmp_path, content)
    with pytest.raises(NotAConnLog) as refused:
        ConnLogSource([path])
    assert says in str(refused.value)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_conn_log_of_another_name_is_read_where_it_was_named_and_put_aside_in_a_folder(tmp_path: Path) -> None:
    named = log(tmp_path, HEADER.replace("#path\tconn", "#path\tconn_internal") + ROW, "conn_internal.log")
    assert len(flows_in(named)) == 1
    log(tmp_path, HEADER + ROW)
    source, [batch] = read(tmp_path)
    assert len(batch.flows) == 1
    [(path, reason)] = source.skipped_files
    assert path == str(named)
    assert "it is a conn_internal.log, which may repeat what a conn.log has: name the file" in reason


def test_a_folders_other_files_are_put_aside_with_the_reason(tmp_path: Path) -> None:
    log(tmp_path, HEADER + ROW)
    log(tmp_path, HEADER.replace("#path\tconn", "#path\tdns"), "dns.log")
    (tmp_path / "empty").mkdir()
    source, [batch] = read(tmp_path)
    assert len(batch.flows) == 1
    [(path, reason)] = source.skipped_files
    assert (Path(path).name, "dns.log" in reason) == ("dns.log", True)


def test_a_folder_without_a_conn_log_is_refused(tmp_path: Path) -> None:
    log(tmp_path, "notes\n", "notes.txt")
    with pytest.raises(NotAConnLog, match=r"no conn\.log in here"):
        ConnLogSource([tmp_path])


def test_a_file_that_cannot_be_opened_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(NotAConnLog, match="cannot be read: No such file or directory"):
        ConnLogSource([tmp_path / "absent.log"])
    with pytest.raises(NotAConnLog, match="cannot be read: the gzip data"):
        ConnLogSource([log(tmp_path, gzip.compress(HEADER.encode())[:12], "cut.gz")])
    with pytest.raises(NotAConnLog, match="no file was named"):
        ConnLogSource([])


def test_a_file_met_twice_is_read_once(tmp_path: Path) -> None:
    path = log(tmp_path, HEADER + ROW)
    source, batches = read(path, tmp_path)
    assert sum(len(batch.flows) for batch in batches) == 1
    assert source.skipped_files == [(str(path), f"the same file as {path}")]


def test_a_conn_log_without_connections_is_read_as_none(tmp_path: Path) -> None:
    source, batches = read(log(tmp_path, HEADER + "#close\t2024-01-01-00-00-00\n"))
    assert (batches, source.damages) == ([], [])


def test_logs_joined_into_one_file_keep_their_own_headers(tmp_path: Path) -> None:
    other = "#separator ;\n#unset_field;NA\n#path;conn\n#fields;proto;id.resp_p;id.resp_h;id.orig_p;id.orig_h;ts\n"
    flows = flows_in(log(tmp_path, HEADER + ROW + "#close\tnow\n" + other + "udp;53;10.0.0.9;5;10.0.0.1;1400000000.5\n"))
    assert flows["dst_port"].tolist() == [80, 53]
    assert flows["protocol"].tolist() == [6, 17]


def test_lines_under_a_foreign_header_in_the_middle_are_damage(tmp_path: Path) -> None:
    other = "#path\tdns\n#fields\tts\tquery\n1400000000.5\texample.org\n"
    source, [batch] = read(log(tmp_path, HEADER + ROW + other))
    assert (len(batch.flows), source.damage_counts) == (1, {"header": 1})


def test_carriage_returns_at_line_ends_are_ignored(tmp_path: Path) -> None:
    crlf = log(tmp_path, (HEADER + ROW).replace("\n", "\r\n"), "crlf")
    assert flows_in(crlf).tobytes() == flows_in(log(tmp_path, HEADER + ROW, "lf")).tobytes()


def test_gzip_of_one_or_several_members_is_read(tmp_path: Path) -> None:
    packed = log(
        tmp_path, gzip.compress(HEADER.encode()) + gzip.compress(ROW.encode()) + gzip.compress(ROW.encode()), "conn.log.gz"
    )
    source, [batch] = read(packed)
    assert (len(batch.flows), source.damages, source.bytes_done) == (2, [], packed.stat().st_size)


def test_zstd_is_read(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard", reason="zstd is an optional extra")
    assert len(flows_in(log(tmp_path, zstandard.compress((HEADER + ROW).encode()), "conn.log.zst"))) == 1


def test_all_before_the_break_of_a_compressed_file_is_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rows = [ROW.replace("Cabc", f"C{rng.integers(1 << 60)}") for _ in range(20_000)]
    packed = gzip.compress((HEADER + "".join(rows)).encode())
    cut = log(tmp_path, packed[: len(packed) // 2], "cut.gz")
    source, batches = read(cut)
    assert 8_000 < sum(len(batch.flows) for batch in batches) < 12_000
    assert source.damage_counts["compression"] == 1
    spoilt = bytearray(packed)
    spoilt[len(packed) // 2] ^= 0xFF
    source, batches = read(log(tmp_path, bytes(spoilt), "spoilt.gz"))
    assert sum(len(batch.flows) for batch in batches) > 8_000
    assert source.damage_counts["compression"] == 1


LABELS = HEADER.replace("resp_ip_bytes\n", "resp_ip_bytes\tlabel\tdetailedlabel\n")


@pytest.mark.parametrize(
    ("cells", "label", "detail"),
    [
        ("Malicious\tExternal-Attack-to-Device", "Malicious", "External-Attack-to-Device"),
        ("Benign\tMicrosoft", "", "Microsoft"),
        ("Benign\t(empty)", "", ""),
        ("benign\t-", "", ""),
        ("Background\t(empty)", "", "Background"),
        ("Unknown\t-", "", "Unknown"),
        ("-\t-", "", ""),
    ],
)
def test_labels_are_read_and_benign_ones_are_empty(tmp_path: Path, cells: str, label: str, detail: str) -> None:
    _, [batch] = read(log(tmp_path, LABELS + ROW.replace("2312\n", f"2312\t{cells}\n")))
    assert (batch.labels, batch.details) == ([label], [detail])


def test_labels_in_iot23s_blanks_are_read(tmp_path: Path) -> None:
    header = HEADER.replace("resp_ip_bytes\n", "resp_ip_bytes\ttunnel_parents   label   detailed-label\n")
    rows = [
        ROW.replace("2312\n", f"2312\t{cell}\n")
        for cell in ("-   Malicious   PartOfAHorizontalPortScan", "(empty)   Benign   -")
    ]
    _, [batch] = read(log(tmp_path, header + "".join(rows)))
    assert (batch.labels, batch.details) == (["Malicious", ""], ["PartOfAHorizontalPortScan", ""])


LABELLED = {
    "remcos-ctu-sme-11": (766, {"Malicious": 719}, {"Unknown": 3}),
    "strato-002": (4504, {}, {}),
    "strato-003": (361, {}, {}),
    "strato-005": (992, {}, {}),
    "strato-008": (5663, {"Malicious": 4201}, {"Background": 60}),
    "strato-010": (5347, {"Malicious": 3373}, {"Background": 37}),
    "strato-011": (9048, {"Malicious": 3951}, {"Background": 326}),
    "ubuntu-2023-02-20": (7124, {}, {"Unknown": 328}),
}


@pytest.mark.parametrize("name", LABELLED)
def test_labelled_logs_load_whole_with_their_labels(shared_data: Path, name: str) -> None:
    source, batches = read(shared_data / "zeek/labelled" / name)
    labels = Counter(label for batch in batches for label in batch.labels or [])
    details = Counter(detail for batch in batches for detail in batch.details or [])
    rows, attacks, unsure = LABELLED[name]
    print(name, sum(len(batch.flows) for batch in batches), dict(labels))  # noqa: T201  # the figures are wanted in the log
    assert (sum(len(batch.flows) for batch in batches), source.damage_counts) == (rows, {})
    assert {label: count for label, count in labels.items() if label} == attacks
    assert {detail: count for detail, count in details.items() if detail in ("Background", "Unknown")} == unsure


@pytest.mark.parametrize(
    ("name", "rows"), [("benign/m57-office", 8462), ("benign/home-lan", 7550), ("vps-beacon/2024-04-19", 31_367)]
)
def test_benign_and_noisy_logs_load_whole_and_in_order(shared_data: Path, name: str, rows: int) -> None:
    source, batches = read(shared_data / "zeek" / name)
    ends = np.concatenate([batch.flows["last_us"] for batch in batches])
    assert source.damage_counts == {}
    assert len(ends) == rows
    assert (np.diff(ends) >= 0).all()


@pytest.mark.parametrize(
    ("name", "rows", "damages"),
    [
        ("json_with_all_fields/conn.log", 29, {}),
        ("open_conns-closed/conn.log", 59, {}),
        ("open_conns-open/conn.log", 29, {}),
        ("truncated/conn.log", 58, {"columns": 1}),
        ("truncated/conn_json.log", 2, {"id.orig_p": 1, "json": 1}),
    ],
)
def test_odd_logs_are_read_as_far_as_they_go(shared_data: Path, name: str, rows: int, damages: dict[str, int]) -> None:
    source, batches = read(shared_data / "zeek/format" / name)
    assert sum(len(batch.flows) for batch in batches) == rows
    assert source.damage_counts == damages


@pytest.mark.parametrize("name", ["text_file/conn.log", "truncated/conn_top.log"])
def test_odd_files_that_are_no_conn_log_are_refused(shared_data: Path, name: str) -> None:
    with pytest.raises(NotAConnLog):
        ConnLogSource([shared_data / "zeek/format" / name])


def test_damages_keep_the_order_in_which_they_were_met() -> None:
    damages = Damages()
    for line in range(3):
        damages.add("columns", "conn.log", line, "short")
    assert [damage.line for damage in damages.first] == [0, 1, 2]
