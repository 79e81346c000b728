"""The compiled reading of conn.log against the slow one: cells as Columns reads them, and JSON as msgspec does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sensor.schema import CONN_STATES
from sensor.sources import lines, zeek_text
from sensor.sources.columns import AddressBook, Columns
from sensor.sources.lines import Damages
from sensor.sources.zeek import ConnLogSource, NotAConnLog
from sensor.sources.zeek_cells import Cells
from sensor.sources.zeek_conns import TIME_LIMIT_S, _epoch_s
from sensor.sources.zeek_kernel import WANTS_TEXT, WANTS_TIME

QUICK = settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def both(cells: list[bytes], missing: bytes) -> tuple[Columns, Cells]:
    """The same column "x" as a list of cells, and as places in a block."""
    ends = np.cumsum([len(cell) + 1 for cell in cells], dtype=np.int32) - 1
    begins = np.array([-1 if cell == missing else end - len(cell) for cell, end in zip(cells, ends, strict=True)], np.int32)
    data = b"".join(cell + b"\t" for cell in cells)
    places = Cells(data, begins[None], ends[None].astype(np.int32), ["x"], [WANTS_TEXT], ["x"], missing)
    return Columns({"x": cells}, len(cells), missing), places


NUMBERS = st.one_of(
    st.text("0123456789.-+eE_ naif", max_size=22).map(str.encode),
    st.decimals(0, 9_000_000_000, places=6, allow_nan=False).map(lambda number: str(number).encode()),
    st.floats(0, 2_000_000, allow_subnormal=False).map(lambda number: str(number).encode()),
    st.integers(-5, 1 << 70).map(lambda number: str(number).encode()),
    st.just(b"-"),
)


@QUICK
@given(st.lists(NUMBERS, min_size=1, max_size=20))
@example(
    [b"0.0000005", b"0.0000015", b"2.1025599241256714", b"999999.9999995", b"1000000.1234565", b"3999999999.999999", b"4e9"]
)
def test_times_are_read_as_python_reads_floats(cells: list[bytes]) -> None:
    slow, fast = both(cells, b"-")
    told = [one.microseconds("x", float, default=0.0, limit_s=TIME_LIMIT_S).tolist() for one in (slow, fast)]
    assert told[0] == told[1]
    assert slow.bad == fast.bad


@QUICK
@given(st.lists(NUMBERS, min_size=1, max_size=20))
@example([b"1_0", b" 7", b"+7", b"-0", b"007", b"", b"999999999999999999", b"1000000000000000000", b"1" * 400])
def test_whole_numbers_are_read_as_python_reads_them(cells: list[bytes]) -> None:
    slow, fast = both(cells, b"-")
    told = [one.integers("x", default=-1, low=0, high=70_000).tolist() for one in (slow, fast)]
    assert told[0] == told[1]
    assert slow.bad == fast.bad


@QUICK
@given(
    st.lists(
        st.one_of(
            st.ip_addresses().map(lambda address: str(address).encode()),
            st.text("0123456789.:afx%", max_size=18).map(str.encode),
        ),
        min_size=1,
        max_size=20,
    )
)
@example(
    [b"01.2.3.4", b"1.2.3", b"1.2.3.4.5", b"1.2.3.256", b"1..2.3", b"1.2.3.", b"::ffff:1.2.3.4", b"0.0.0.0", b"1.2.3.0004"]
)
def test_addresses_are_read_as_inet_pton_reads_them(cells: list[bytes]) -> None:
    slow, fast = both(cells, b"-")
    assert slow.addresses("x", AddressBook()).tolist() == fast.addresses("x", AddressBook()).tolist()
    assert slow.bad == fast.bad


@QUICK
@given(st.lists(st.one_of(st.sampled_from(CONN_STATES), st.text("SF0RHO", max_size=9)), min_size=1))
def test_names_are_found_as_in_a_dictionary(names: list[str]) -> None:
    table: dict[str | bytes, int] = {state.encode(): place for place, state in enumerate(CONN_STATES)}
    slow, fast = both([name.encode() for name in names], b"-")
    assert slow.codes("x", table, 99).tolist() == fast.codes("x", table, 99).tolist()


def test_a_text_too_long_for_an_address_is_refused_and_not_remembered() -> None:
    book = AddressBook()
    for columns in both([b"1" * 100_000, b"fe80::1%eth0"], b"-"):
        assert columns.addresses("x", book).tolist()[1] == [0xFE80 << 48, 1]
        assert list(columns.bad) == [0]
    assert list(book) == [b"fe80::1%eth0"]


def test_a_text_too_long_is_refused_and_takes_no_room_in_the_others_rows() -> None:
    slow, fast = both([b"C1", b"C" * 2_000_000, b"-"], b"-")
    assert slow.names("x", 64).tolist()[::2] == fast.names("x", 64).tolist()[::2] == [b"C1", b""]
    assert slow.names("x", 64).dtype == fast.names("x", 64).dtype == np.dtype("S64")
    assert slow.bad == fast.bad
    assert all(len(reason) < 200 for _, reason in fast.bad.values())


@QUICK
@given(
    st.lists(
        st.one_of(
            st.datetimes().map(lambda time: json.dumps(time.isoformat(timespec="microseconds") + "Z")),
            st.text("0123456789-:.TZ+ ", max_size=30).map(json.dumps),
            st.floats(-1e10, 1e10).map(json.dumps),
            st.integers(-(1 << 53), 1 << 53).map(json.dumps),
        ),
        min_size=1,
        max_size=10,
    )
)
@example(['"2011-02-29T00:00:00.000000Z"', '"2012-02-29T23:59:60.000000Z"', '"2100-02-28T00:00:00.000000Z"', "99999999", "1e9"])
def test_json_times_are_read_as_python_reads_them(tokens: list[str]) -> None:
    cells = [token.encode() for token in tokens]
    slow = Columns({"x": [json.loads(token) for token in tokens]}, len(cells), None)
    ends = np.cumsum([len(cell) + 1 for cell in cells], dtype=np.int32) - 1
    begins = (ends - [len(cell) for cell in cells]).astype(np.int32)
    data = b"".join(cell + b"," for cell in cells)
    fast = Cells(data, begins[None], ends[None].astype(np.int32), ["x"], [WANTS_TIME], ["x"], None)
    told = [one.microseconds("x", _epoch_s, default=float("nan"), limit_s=TIME_LIMIT_S).tolist() for one in (slow, fast)]
    assert told[0] == told[1]
    assert slow.bad == fast.bad


CONN: dict[str, object] = {
    "ts": 1300475167.096535, "uid": "Cabc", "id.orig_h": "10.0.0.1", "id.orig_p": 4000, "id.resp_h": "fe80::2", "id.resp_p": 80,
    "proto": "tcp", "service": "http", "duration": 2.1025599241256714, "orig_bytes": 100, "resp_bytes": 2000,
    "conn_state": "SF", "local_orig": True, "missed_bytes": 0, "orig_pkts": 5, "resp_pkts": 6, "tunnel_parents": [],
    "ip_proto": 6,
}  # fmt: skip
NESTED = {name: value for name, value in CONN.items() if not name.startswith("id.")} | {
    "id": {"orig_h": "10.0.0.1", "orig_p": {"port": 4000, "proto": "tcp"}, "resp_h": "10.0.0.2", "resp_p": 80, "ctx": {}}
}
ODD_VALUES = st.sampled_from(
    [None, 1, -1, 1.0, 1e300, 10**19, "", "conn", "dns", "a\"b\\c", "ü", "\x7f", True, [], [1, "a", None], {}, {"a": 1}, [[1]],
     "1", 0.1, -0.0, "2011-03-18T19:06:07.096535Z", {"port": 5}, {"port": None}]
)  # fmt: skip
KEYS = st.sampled_from([*CONN, "id", "_path", "_stream", "_write_ts", "label", "detailedlabel", "x", "port", "orig_h", "id.x"])


def read_both(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What the scanner gives, and what msgspec gives of the same file."""
    told: list[object] = []
    for keys in (64, 0):
        monkeypatch.setattr(zeek_text, "MOST_KEYS", keys)
        try:
            source = ConnLogSource([path])
            batches = list(source)
        except NotAConnLog as refused:
            told.append(str(refused))
            continue
        rows = [(batch.flows.tobytes(), batch.uids, batch.labels, batch.details) for batch in batches]
        told.append((rows, sorted(source.damages), source.damage_counts))
    return told


@QUICK
@given(
    st.sampled_from([CONN, NESTED]),
    st.lists(st.dictionaries(KEYS, ODD_VALUES, max_size=3), min_size=1, max_size=4),
    st.randoms(use_true_random=False),
    st.sampled_from([(",", ":"), (", ", ": "), (" ,\t", "\t:  ")]),
    st.booleans(),
)
def test_the_scanner_reads_json_as_msgspec_does(  # what differs between lines
    tmp_path_factory: pytest.TempPathFactory,
    base: dict[str, object],
    changes: list[dict[str, object]],
    random: Random,
    signs: tuple[str, str],
    ascii_: bool,
) -> None:
    path = tmp_path_factory.mktemp("json") / "conn.log"
    texts = []
    for change in changes:
        members = list((base | change).items())
        if random.random() < 0.3:
            random.shuffle(members)
        texts.append(json.dumps(dict(members), separators=signs, ensure_ascii=ascii_))
    path.write_text("\n".join([json.dumps(CONN), *texts]) + "\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        fast, slow = read_both(path, patch)
    assert fast == slow


@QUICK
@given(st.sampled_from([CONN, NESTED]), st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=3))
def test_damaged_json_is_judged_by_the_scanner_as_by_msgspec(
    tmp_path_factory: pytest.TempPathFactory, base: dict[str, object], damage: list[tuple[int, int]]
) -> None:
    path = tmp_path_factory.mktemp("json") / "conn.log"
    good = json.dumps(CONN).encode() + b"\n"
    line = bytearray(json.dumps(base, separators=(",", ":")).encode())
    for place, value in damage:
        line[place % len(line)] = value
    path.write_bytes(good + bytes(line) + b"\n" + good)
    with pytest.MonkeyPatch.context() as patch:
        fast, slow = read_both(path, patch)
    assert fast == slow


@pytest.mark.parametrize(
    "line",
    [
        '{"ts":1.0,"ts":2.0,"id.orig_h":"10.0.0.1","id.orig_p":1,"id.resp_h":"10.0.0.2","id.resp_p":2,"proto":"udp"}',
        '{"ts":1.0,"id.orig_h":"10.0.0.9","id":{"orig_h":"10.0.0.1","orig_p":1,"resp_h":"10.0.0.2","resp_p":2},"proto":"udp"}',
        '{"ts":1.0,"id":{"orig_h":"10.0.0.1","orig_p":1},"id":{"resp_h":"10.0.0.2","resp_p":2},"proto":"udp"}',
        '{"ts":1.0,"id":{"orig_h":"10.0.0.1","orig_p":{"port":1},"resp_h":"10.0.0.2","resp_p":{"port":2,"proto":"udp"}},"proto":"udp"}',
        '{"ts":01.0,"id.orig_h":"10.0.0.1","id.orig_p":1,"id.resp_h":"10.0.0.2","id.resp_p":2,"proto":"udp"}',
        '{"ts":1.0,"id.orig_h":"10.0.0.1","id.orig_p":1,"id.resp_h":"10.0.0.2","id.resp_p":2,"proto":"udp",}',
        '{"ts":1.0,"id.orig_h":"10.0.0.1","id.orig_p":1,"id.resp_h":"10.0.0.2","id.resp_p":2,"proto":"udp"} x',
        '{"ts":1.0,"id.orig_h":"10.0.0.1","id.orig_p":1,"id.resp_h":"10.0.0.2","id.resp_p":2,"proto":"udp"}}',
        '  {"ts":1.0,"id.orig_h":"10.0.0.1","id.orig_p":1,"id.resp_h":"10.0.0.2","id.resp_p":2,"proto":"udp"}  ',
        '{"id.orig_h":"10.0.0.1","ts":1.0,"id.orig_p":1,"id.resp_h":"10.0.0.2","id.resp_p":2,"proto":"udp","a":[1,[2]]}',
        '{"id.orig_h":"10.0.0.1","ts":1.0,"id.orig_p":1,"id.resp_h":"10.0.0.2","id.resp_p":2,"proto":"udp","a":[1,]}',
        '{"id.orig_h":"10.0.0.1","ts":1.0,"id.orig_p":1,"id.resp_h":"10.0.0.2","id.resp_p":2,"proto":"udp","a":-}',
        '{"ts":1.0,"id.orig_h":"10.0.0.1","id.orig_p":1,"id.resp_h":"10.0.0.2","id.resp_p":2,"proto":"udp","duration":5}',
        '{"a":' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"ts":1e400}',
        '{"ts":' + "1" * 5000 + "}",
    ],
)
def test_what_json_leaves_open_is_read_as_msgspec_reads_it(tmp_path: Path, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "conn.log"
    path.write_text(json.dumps(CONN) + "\n" + line + "\n")
    fast, slow = read_both(path, monkeypatch)
    assert fast == slow


@pytest.mark.parametrize(
    "name", ["wikipedia.trace/json", "_variants/ext_json", "_variants/extras_json", "_variants/unset_null_json"]
)
def test_what_zeek_writes_is_read_by_the_scanner_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(line: bytes) -> None:
        raise AssertionError(line)

    monkeypatch.setattr(zeek_text, "_decode", none)
    assert sum(len(batch.flows) for batch in ConnLogSource([Path(__file__).parent / "data" / "zeek" / name / "conn.log"])) >= 3


def test_a_line_without_end_in_a_whole_log_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LINE_BYTES", 20_000)
    monkeypatch.setattr(lines, "READ_BYTES", 8_000)
    good = json.dumps(CONN) + "\n"
    path = tmp_path / "conn.log"
    path.write_text(good + '{"uid":"' + "C" * 100_000 + '"}\n' + good + "broken\n" + "x" * 50_000)
    source = ConnLogSource([path])
    assert sum(len(batch.flows) for batch in source) == 2
    assert source.damage_counts == {"length": 2, "json": 1}
    assert sorted(damage.line for damage in source.damages) == [2, 4, 5]


def test_a_separator_of_several_signs_is_read_from_the_header(tmp_path: Path) -> None:
    path = tmp_path / "conn.log"
    fields = ["ts", "id.orig_h", "id.orig_p", "id.resp_h", "id.resp_p", "proto"]
    path.write_text(
        "#separator ||\n#fields||" + "||".join(fields) + "\n" + "||".join(["1.5", "1.2.3.4", "5", "1.2.3.5", "6", "udp"]) + "\n"
    )
    source = ConnLogSource([path])
    [batch] = source
    assert (batch.flows["src_port"].tolist(), batch.flows["dst_port"].tolist(), source.damage_counts) == ([5], [6], {})


def test_damages_of_a_block_are_told_with_their_lines() -> None:
    damages = Damages()
    fields = "#fields\tts\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tproto\n"
    block = (fields + "short\n\n1.0\t1.2.3.4\t5\t1.2.3.5\t6\tudp\n#close\nshort\tshort").encode()
    [(columns, numbers)] = zeek_text.read_tsv([(1, block)], "conn.log", damages)
    assert (columns.rows, numbers.tolist()) == (1, [4])
    assert [damage.line for damage in damages.first] == [2, 6]


def test_an_empty_mark_of_unset_fields_and_lines_of_nothing_are_read() -> None:
    fields = "#unset_field\t\n#fields\tts\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tproto\tduration\n"
    rows = "\n" * 5000 + "1.0\t1.2.3.4\t5\t1.2.3.5\t6\tudp\t\n" + "x\n" * 50 + "2.0\t1.2.3.4\t5\t1.2.3.5\t6\tudp\t1.5\n\n#close"
    damages = Damages()
    [(columns, numbers)] = zeek_text.read_tsv([(1, (fields + rows).encode())], "conn.log", damages)
    assert numbers.tolist() == [5003, 5054]
    assert columns.microseconds("duration", float, default=0.0, limit_s=TIME_LIMIT_S).tolist() == [0, 1_500_000]
    assert damages.counts == {"columns": 50}


UNCOMPILED = """
import sys
from pathlib import Path
from sensor.sources.zeek import ConnLogSource
for path in sys.argv[1:]:
    source = ConnLogSource([Path(path)])
    for batch in source:
        print(batch.flows.tobytes().hex(), batch.uids)
    print(source.damage_counts)
"""


def test_the_loops_do_the_same_as_plain_python_which_refuses_an_index_outside(tmp_path: Path) -> None:
    rows = "1.0\t1.2.3.4\t5\t1.2.3.5\t6\tudp\n"
    rows += "short\tline\n" + "1.0\t1.2.3.4\t5\t1.2.3.5\t6\tudp\tlong\n" + "\n\n" + "\t" * 40 + "\n"
    odd = tmp_path / "odd.log"
    odd.write_text("#fields\tts\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tproto\n" + rows + "2.0\t1.2.3.4\t5\t1.2.3.5\t6")
    cut = tmp_path / "cut.log"
    line = json.dumps(NESTED)
    cut.write_text(json.dumps(CONN) + "\n" + "".join(line[:end] + "\n" for end in range(0, len(line), 3)) + line[:-1])
    zeek = Path(__file__).parent / "data" / "zeek"
    paths = [odd, cut, *sorted(zeek.glob("_variants/*/conn.log")), *sorted(zeek.glob("wikipedia.trace/*/conn.log"))]
    told = []
    for switch in ({"NUMBA_DISABLE_JIT": "1"}, {}):
        environment = {**os.environ, **switch, "PYTHONPATH": str(zeek.parents[2])}
        command = [sys.executable, "-W", "error", "-c", UNCOMPILED, *map(str, paths)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert not done.returncode, done.stderr
        told.append(done.stdout)
    assert told[0] == told[1]
    assert told[0].count("C") > 40
