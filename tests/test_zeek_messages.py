"""Messages of Zeek's bus to flows: what a real Zeek sent gives the rows of its own conn.log, and nothing else gives any."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zeek_standin import BINARY, Count, Enum, Port, decode, event, event_of, golden
from zeek_uncompiled import mutants, outcome
from zeek_values import Span, Stamp, encode, varbyte

from benchmarks.run_zeek import FORMS
from sensor.schema import CONN_STATES, FlowBatch
from sensor.sources.zeek import ConnLogSource
from sensor.sources.zeek_messages import BatchesReader, EventReader, LinesReader, Message, Reader, Told

JSON = "broker-json-v1"
HEAD = [b"netseq.conn.", b"zeromq_node"]
CONN: list[Any] = [
    1300475167.096535, "Cabc", IPv4Address("10.0.0.1"), Port(4000), IPv4Address("10.0.0.2"), Port(80), Enum("tcp"), Count(6),
    "SF", 1.5, Count(100), Count(2000), Count(5), Count(360), Count(6), Count(2312),
]  # fmt: skip
"""NetSeq::Conn, as our Zeek package fills it."""
OBJECT = {
    "ts": 1300475167.096535, "uid": "Cabc", "id.orig_h": "10.0.0.1", "id.orig_p": 4000, "id.resp_h": "10.0.0.2",
    "id.resp_p": 80, "proto": "tcp", "duration": 1.5, "orig_bytes": 100, "resp_bytes": 2000, "conn_state": "SF", "orig_pkts": 5,
    "orig_ip_bytes": 360, "resp_pkts": 6, "resp_ip_bytes": 2312, "ip_proto": 6,
}  # fmt: skip

DEEP = json.dumps(OBJECT)[:-1] + ',"x":' + "[" * 100_000 + "]" * 100_000 + "}"


class Read:
    """A reader of one road, what it gave, and what it told."""

    def __init__(self, road: str = "zeromq", serialiser: str = BINARY) -> None:
        self.said: list[tuple[str, str]] = []
        self.told = Told(lambda name, line: self.said.append((name, line)))
        roads: dict[str, Reader] = {
            "zeromq": EventReader(self.told, serialiser), "zeromq-log": BatchesReader(self.told),
            "zeromq-writer": LinesReader(self.told),
        }  # fmt: skip
        self.reader = roads[road]

    def read(self, messages: Sequence[Message]) -> FlowBatch:
        return self.reader.read(messages)

    def counted(self) -> dict[str, int]:
        return {**self.told.skipped, **{f"row.{kind}": number for kind, number in self.told.counts.items()}}


def message(payload: bytes, serialiser: str = BINARY) -> Message:
    return [*HEAD, serialiser.encode(), payload]


def conn(values: Sequence[Any] = CONN, serialiser: str = BINARY, name: str = "NetSeq::conn") -> Message:
    return message(event(name, [list(values)], serialiser), serialiser)


def logged(shared_data: Path, folder: str) -> dict[str | None, bytes]:
    """FLOW rows of the conn.log beside golden frames, by uid."""
    rows: dict[str | None, bytes] = {}
    for batch in ConnLogSource([shared_data / "golden/zeek-zeromq" / folder / "conn.log"]):
        assert batch.uids is not None
        rows |= {uid: row.tobytes() for uid, row in zip(batch.uids, batch.flows, strict=True)}
    return rows


def check_rows(batch: FlowBatch, truth: dict[str | None, bytes]) -> None:
    assert batch.uids is not None
    assert len(batch.flows) == len(batch.uids) > 0
    for uid, row in zip(batch.uids, batch.flows, strict=True):
        assert row.tobytes() == truth[uid], uid


@pytest.mark.parametrize("folder", ["events-broker-bin-v1", "events-bin-cluster", "events-bin-live-lo"])
def test_events_of_a_real_zeek_in_binary_give_the_rows_of_its_conn_log(shared_data: Path, folder: str) -> None:
    messages, read = golden(folder), Read()
    batch = read.read(messages)
    check_rows(batch, logged(shared_data, folder))
    assert len(batch.flows) == len(messages)
    assert batch.uids == [uid_in(parts[3]) for parts in messages]  # in the order in which they came
    assert not read.counted()
    assert read.reader.serialiser == BINARY


def uid_in(payload: bytes) -> str:
    name, args, _ = event_of(payload, BINARY)
    return str(json.loads(args[0])["uid"] if name.endswith("json") else args[0][1])


def test_events_of_a_real_zeek_in_json_give_the_rows_of_its_conn_log(shared_data: Path) -> None:
    messages, read = golden("events-broker-json-v1"), Read(serialiser=JSON)
    truth = logged(shared_data, "events-broker-json-v1")
    check_rows(read.read([parts for parts in messages if b"conn_json" in parts[3]]), truth)
    whole = read.read([parts for parts in messages if b"conn_rec" in parts[3]])
    assert whole.uids is not None
    for uid, row in zip(whole.uids, whole.flows.copy(), strict=True):
        told = np.frombuffer(truth[uid], whole.flows.dtype)[0].copy()
        assert row["first_us"] == told["first_us"] // 1000 * 1000  # this form has times in milliseconds only
        assert row["last_us"] - row["first_us"] == told["last_us"] - told["first_us"]
        for name in ("first_us", "last_us"):
            row[name] = told[name]
        assert row.tobytes() == told.tobytes()
    assert len(whole.flows) == 23
    assert not read.counted()


@pytest.mark.parametrize("serialiser", [BINARY, JSON])
def test_the_record_of_our_package_gives_the_rows_of_conn_log_in_either_form(shared_data: Path, serialiser: str) -> None:
    messages = []
    for parts in golden("events-broker-bin-v1"):
        name, args, _ = event_of(parts[3], BINARY)
        if name == "NetSeq::conn_rec":
            ts, uid, key, proto, _, lasting, sent, received, state, *_, packets, out, back, home, _, number = args[0]
            seconds = None if lasting is None else lasting / 1e9
            own = [ts / 1e9, uid, *key[:4], proto, number, state, seconds, sent, received, packets, out, back, home]
            messages.append(conn(own, serialiser))
    read = Read(serialiser=serialiser)
    batch = read.read(messages)
    check_rows(batch, logged(shared_data, "events-broker-bin-v1"))
    assert len(batch.flows) == 23
    assert not read.counted()


@pytest.mark.parametrize(
    ("road", "folder", "others"),
    [("zeromq-log", "logs-zeek-bin-serializer", 24), ("zeromq-writer", "ncsa-zeromqwriter", 49)],
)
def test_log_lines_of_a_real_zeek_give_the_rows_of_its_conn_log(shared_data: Path, road: str, folder: str, others: int) -> None:
    read = Read(road)
    batch = read.read(golden(folder))
    truth = logged(shared_data, folder)
    check_rows(batch, truth)
    assert len(batch.flows) == len(truth) == 34
    assert read.told.other == others
    assert not read.counted()


def one(batch: FlowBatch) -> np.void:
    assert len(batch.flows) == 1
    return batch.flows[0]  # type: ignore[no-any-return]  # a row of a structured array


@pytest.mark.parametrize("serialiser", [BINARY, JSON])
def test_fields_may_be_unset_left_out_at_the_end_or_added(serialiser: str) -> None:
    read = Read(serialiser=serialiser)
    whole = one(read.read([conn(serialiser=serialiser)]))
    assert CONN_STATES[whole["conn_state"]] == "SF"
    assert (whole["last_us"] - whole["first_us"], whole["fwd"]["payload"]["sum"], whole["bwd"]["packets"]) == (
        1_500_000,
        100,
        6,
    )
    short = one(read.read([conn(CONN[:7], serialiser)]))
    assert (short["protocol"], short["last_us"] - short["first_us"], short["fwd"]["packets"]) == (6, 0, 0)
    unset = one(read.read([conn([*CONN[:7], *[None] * 9], serialiser)]))
    assert unset.tobytes() == short.tobytes()
    more = conn([*CONN, "more", None, [Count(1), {"a": Count(2)}, {Count(3)}], Span(5), Stamp(6)], serialiser)
    assert one(read.read([more])).tobytes() == whole.tobytes()
    dated = message(event("NetSeq::conn", [CONN], serialiser, [[Count(1), Stamp(7)]]), serialiser)
    assert one(read.read([dated])).tobytes() == whole.tobytes()
    assert not read.counted()


def test_all_forms_of_one_connection_give_one_row() -> None:
    lines = Read("zeromq-writer")
    truth = one(lines.read([[b"conn", json.dumps(OBJECT).encode()]]))
    reordered = dict(reversed(list(OBJECT.items())))
    nested = {key: held for key, held in OBJECT.items() if "." not in key}
    nested["id"] = {
        "orig_h": "10.0.0.1",
        "orig_p": {"port": 4000, "proto": "tcp"},
        "resp_h": "10.0.0.2",
        "resp_p": 80,
        "ctx": {},
    }
    assert one(lines.read([[b"conn", json.dumps(reordered).encode()]])).tobytes() == truth.tobytes()
    assert one(lines.read([[b"conn", json.dumps(nested).encode()]])).tobytes() == truth.tobytes()
    for serialiser in (BINARY, JSON):
        events = Read(serialiser=serialiser)
        as_text = message(event("NetSeq::conn_json", [json.dumps(nested)], serialiser), serialiser)
        assert one(events.read([conn(serialiser=serialiser)])).tobytes() == truth.tobytes()
        assert one(events.read([as_text])).tobytes() == truth.tobytes()
    batches = Read("zeromq-log")
    for fields in (list(FIELDS), list(reversed(FIELDS))):
        assert one(batches.read([batch_of(fields)])).tobytes() == truth.tobytes()


FIELDS = (
    ("ts", 5, struct.pack(">d", 1300475167.096535)), ("uid", 7, b"\0\0\0\4Cabc"), ("id.orig_h", 11, b"\4\x0a\0\0\1"),
    ("id.orig_p", 10, struct.pack(">QI", 4000, 1)), ("id.resp_h", 11, b"\4\x0a\0\0\2"),
    ("id.resp_p", 10, struct.pack(">QI", 80, 1)),
    ("proto", 9, b"\0\0\0\3tcp"), ("duration", 6, struct.pack(">d", 1.5)), ("orig_bytes", 3, struct.pack(">Q", 100)),
    ("resp_bytes", 3, struct.pack(">Q", 2000)), ("conn_state", 7, b"\0\0\0\2SF"), ("orig_pkts", 3, struct.pack(">Q", 5)),
    ("orig_ip_bytes", 3, struct.pack(">Q", 360)), ("resp_pkts", 3, struct.pack(">Q", 6)),
    ("resp_ip_bytes", 3, struct.pack(">Q", 2312)), ("ip_proto", 3, struct.pack(">Q", 6)),
    ("tunnel_parents", 14, struct.pack(">q", 1) + struct.pack(">iib", 7, 7, 1) + b"\0\0\0\1x"),
    ("extra", 12, b"\x08\4\x0a\0\0\0"),
)  # fmt: skip


def batch_of(fields: Sequence[tuple[str, int, bytes]], path: bytes = b"conn") -> Message:
    """One record in zeek-bin-serializer."""
    texts = [b"Conn::LOG", b"Log::WRITER_ASCII", b"default", path]
    head = b"".join(struct.pack(">I", len(text)) + text for text in texts) + struct.pack(">I", len(fields))
    for name, kind, _ in fields:
        head += b"\0" + struct.pack(">I", len(name)) + name.encode() + struct.pack(">iib", kind, 0, 1)
    values = b"".join(struct.pack(">iib", kind, kind, 1) + held for _, kind, held in fields)
    return [b"log-write", b"zeromq_node", b"zeek-bin-serializer", head + struct.pack(">I", 1) + values]


def changed(place: int, value: Any) -> list[Any]:
    return [*CONN[:place], value, *CONN[place + 1 :]]


BROKEN: list[tuple[str, Message]] = [
    ("parts", [*HEAD, BINARY.encode()]),
    ("parts", [*conn(), b""]),
    ("serialiser", conn(serialiser=JSON)),
    ("truncated", message(b"")),
    ("form", message(b"\xff\x00garbage")),
    ("form", message(encode([Count(1), Count(1), "no vector"]))),
    ("truncated", message(conn()[3] + b"\x00")),
    ("truncated", message(b"\x0e" + b"\xff" * 12)),
    ("fields", message(event("NetSeq::conn", []))),
    ("fields", message(event("NetSeq::conn", ["no record"]))),
    ("fields", message(event("NetSeq::conn_json", [CONN]))),
    ("fields", conn([*reversed(CONN)])),
    ("fields", conn(changed(2, "10.0.0.1"))),
    ("fields", conn(changed(5, Count(80)))),
    ("oversized", conn(changed(1, "C" * 2_000_000))),
    ("row.uid", conn(changed(1, "C" * 1000))),
    ("row.ts", conn(changed(0, None))),
    ("row.ts", conn(changed(0, float("nan")))),
    ("row.ts", conn(changed(0, float("inf")))),
    ("row.ts", conn(changed(0, -1e300))),
    ("row.duration", conn(changed(9, float("inf")))),
    ("row.id.orig_h", conn(changed(2, None))),
    ("row.id.resp_p", conn(changed(5, None))),
    ("row.orig_bytes", conn(changed(10, Count(2**64 - 1)))),
    ("row.ip_proto", conn(changed(7, Count(256)))),
    ("row.json", message(event("NetSeq::conn_json", ["[1, 2]"]))),
    ("row.json", message(event("NetSeq::conn_json", [""]))),
    ("row.json", message(event("NetSeq::conn_json", ["[" * 200_000]))),
    (
        "row.json",
        message(event("NetSeq::conn_json", [DEEP])),
    ),
    ("row.json", message(event("NetSeq::conn_json", [json.dumps(OBJECT)[:-20]]))),
    ("row.json", message(event("NetSeq::conn_json", [json.dumps({**OBJECT, "ts": float("nan")})]))),
    ("row.id.orig_h", message(event("NetSeq::conn_json", [json.dumps({**OBJECT, "id.orig_h": "nobody"})]))),
]


@pytest.mark.parametrize(("reason", "broken"), BROKEN, ids=[f"{place}-{reason}" for place, (reason, _) in enumerate(BROKEN)])
def test_what_cannot_be_read_is_counted_by_its_reason_and_costs_no_neighbour(reason: str, broken: Message) -> None:
    read = Read()
    batch = read.read([conn(), broken, conn()])
    assert len(batch.flows) == 2
    assert read.counted() == {reason: 1}
    assert len(read.said) == 1
    assert len(read.said[0][1]) <= 300


@pytest.mark.parametrize(
    ("reason", "payload"),
    [
        ("truncated", event("NetSeq::conn", [CONN], JSON)[:-3]),
        ("form", b"[]"),
        ("form", b'{"@data-type":"vector","data":[]}'),
        ("form", b'{"@data-type":"vector","data":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        ("fields", event("NetSeq::conn", ["no record"], JSON)),
        ("fields", event("NetSeq::conn", [CONN[:5]], JSON)),
        ("fields", event("NetSeq::conn", [changed(3, "80/tcp/80")], JSON)),
        ("row.id.orig_h", event("NetSeq::conn", [changed(2, "nobody")], JSON)),
        ("row.ts", event("NetSeq::conn", [changed(0, "yesterday")], JSON)),
        ("row.orig_bytes", event("NetSeq::conn", [changed(10, Count(2**63))], JSON)),
        ("fields", event("NetSeq::conn", [changed(10, Count(10**400))], JSON)),
        ("fields", event("NetSeq::conn", [changed(0, 10**400)], JSON)),
    ],
)
def test_broken_events_in_json_are_counted_by_their_reason(reason: str, payload: bytes) -> None:
    read = Read(serialiser=JSON)
    assert len(read.read([conn(serialiser=JSON), message(payload, JSON)]).flows) == 1
    assert read.counted() == {reason: 1}


def test_a_wrong_serialiser_is_told_with_both_names() -> None:
    read = Read()
    read.read([conn(serialiser=JSON)] * 100)
    assert read.counted() == {"serialiser": 100}
    assert len(read.said) == 3
    assert "'broker-json-v1'" in read.said[0][1]
    assert "'broker-bin-v1'" in read.said[0][1]


def test_other_events_and_logs_are_counted_apart_and_not_read() -> None:
    read, batches, lines = Read(), Read("zeromq-log"), Read("zeromq-writer")
    read.read([message(event("NetSeq::connection", [CONN])), message(encode([Count(1), Count(2), []])), conn(name="Conn::log")])
    batches.read([batch_of(FIELDS, b"dns"), batch_of(FIELDS, b"conn_long")])
    lines.read([[b"dns", b"{}"], [b"conn_long", json.dumps(OBJECT).encode()]])
    assert [one.told.other for one in (read, batches, lines)] == [3, 2, 2]
    assert not read.counted() | batches.counted() | lines.counted()


@pytest.mark.parametrize("road", ["zeromq", "zeromq-log"])
def test_a_message_that_ends_anywhere_before_its_end_gives_no_flow(road: str) -> None:
    whole = conn() if road == "zeromq" else batch_of(FIELDS)
    read = Read(road)
    cut = [[*whole[:3], whole[3][:size]] for size in range(len(whole[3]))]
    assert not len(read.read(cut).flows)
    assert sum(read.counted().values()) + read.told.other == len(cut)
    assert len(read.read([whole]).flows) == 1


def test_a_batch_of_hostile_lengths_is_refused() -> None:
    huge = [struct.pack(">I", 2**32 - 1), struct.pack(">I", 4) + b"conn" + struct.pack(">I", 2**31)]
    payloads = [huge[0], struct.pack(">I", 0) * 3 + huge[1], batch_of(FIELDS)[3] + b"\0", batch_of([])[3]]
    bomb = [(name, kind, held if kind != 14 else struct.pack(">q", 2**60)) for name, kind, held in FIELDS]
    wrong = [("ts", 7, b"\0\0\0\1x"), *FIELDS[1:]]
    read = Read("zeromq-log")
    assert not len(read.read([*([*batch_of(FIELDS)[:3], payload] for payload in payloads), batch_of(bomb)]).flows)
    assert read.counted() == {"truncated": 5}
    assert not len(read.read([batch_of(wrong)]).flows)
    assert read.counted() == {"truncated": 5, "row.ts": 1}


def test_nesting_of_any_depth_is_stepped_over() -> None:
    deep = b"\x0e\x01" * 200_000 + b"\x00"
    payload = encode([Count(1), Count(1), ["NetSeq::conn", [[*CONN]]]])
    payload = payload.replace(b"\x0e\x01\x0e\x10", b"\x0e\x02\x0e\x10") + deep  # a second argument
    read = Read()
    assert len(read.read([message(payload)]).flows) == 1
    assert not read.counted()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=300) | st.lists(st.integers(0, 255), max_size=60).map(lambda n: b"\x0e\x03" + bytes(n)))
def test_any_bytes_are_read_or_counted(payload: bytes) -> None:
    for serialiser in (BINARY, JSON):
        read = Read(serialiser=serialiser)
        flows = len(read.read([message(payload, serialiser)]).flows)
        assert flows + sum(read.counted().values()) + read.told.other == 1
    for road, parts in (("zeromq-log", [*batch_of(FIELDS)[:3], payload]), ("zeromq-writer", [b"conn", payload])):
        read = Read(road)
        flows = len(read.read([parts]).flows)
        assert flows + sum(read.counted().values()) + read.told.other == 1


values = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2**64 - 1).map(Count) | st.integers(-(2**63), 2**63 - 1) | st.floats()
    | st.text(max_size=9).filter(lambda text: text.isprintable()) | st.ip_addresses(v=4)
    | st.integers(1 << 64, (1 << 128) - 1).map(IPv6Address)
    | st.builds(Port, st.integers(0, 65_535), st.just("udp")),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=10,
)  # fmt: skip


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(values, max_size=20))
def test_any_values_in_the_record_are_read_or_counted(fields: list[Any]) -> None:
    payload = event("NetSeq::conn", [fields])
    assert repr(decode(payload)[2][1][0]) == repr([*fields])  # the second opinion reads it as it was meant
    read = Read()
    assert len(read.read([message(payload), conn()]).flows) + sum(read.counted().values()) == 2


@pytest.mark.parametrize("size", [0, 1, 127, 128, 300, 20_000])
def test_lengths_of_several_bytes_are_read(size: int) -> None:
    payload = event("NetSeq::conn", [[*CONN, "x" * size]])
    assert varbyte(size) in payload
    assert len(Read().read([message(payload)]).flows) == 1


def test_compiled_kernels_and_plain_python_read_mutated_frames_alike() -> None:
    """Plain Python refuses every index beyond an array, which compiled code would follow."""
    seeds = [conn()[3], event("NetSeq::conn_json", [json.dumps(OBJECT)]), batch_of(FIELDS)[3]]
    payloads = mutants(seeds, 150)
    compiled = [outcome(payload) for payload in payloads]
    assert sum(one != "refused" for one in compiled) > 50
    told = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("zeek_uncompiled.py"))],
        input=json.dumps([payload.hex() for payload in payloads]), capture_output=True, text=True, check=True,
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert json.loads(told.stdout) == compiled


def test_megabytes_that_are_no_connection_leave_no_memory_behind() -> None:
    read = Read()

    def messages(begin: int) -> list[Message]:
        addresses = (f"{number}" * 10_000 for number in range(begin, begin + 20))
        return [message(event("NetSeq::conn_json", [json.dumps({**OBJECT, "id.orig_h": text})])) for text in addresses]

    read.read(messages(1_000_000))
    tracemalloc.start()
    try:
        for begin in range(2_000_000, 2_000_800, 20):
            assert not len(read.read(messages(begin)).flows)
        left_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert left_bytes < 2_000_000  # of 56 MB


def test_what_the_benchmark_sends_is_the_same_connections_in_every_form() -> None:
    read = {name: Read(form.road, form.serialiser or BINARY) for name, form in FORMS.items()}
    batches = {name: read[name].read(form.messages()) for name, form in FORMS.items()}
    first = batches["writer's lines"]
    assert len(first.flows) > 1000
    for name, batch in batches.items():
        assert batch.uids == first.uids
        assert batch.flows.tobytes() == first.flows.tobytes(), name
        assert not read[name].counted()


LATE = """
import sys
from sensor.kernels import prepare_cache, when_compiling
prepare_cache()
sys.path.insert(0, "tests")
from sensor.sources.zeek_messages import warm
import test_zeek_messages as messages
warm(sys.argv[1])
late = []
when_compiling(lambda: late.append(1))
line = messages.json.dumps(messages.OBJECT)
text = messages.message(messages.event("NetSeq::conn_json", [line]))
sent = {
    "zeromq": [messages.conn(), text], "zeromq-log": [messages.batch_of(messages.FIELDS)],
    "zeromq-writer": [[b"conn", line.encode()]],
}[sys.argv[1]]
assert len(messages.Read(sys.argv[1]).read(sent).flows) == len(sent)
assert not late, "compiled while messages waited"
"""


@pytest.mark.slow
@pytest.mark.parametrize("road", ["zeromq", "zeromq-log", "zeromq-writer"])
def test_nothing_is_compiled_any_more_when_messages_come(road: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    told = subprocess.run(
        [sys.executable, "-c", LATE, road], env={**environment, "XDG_CACHE_HOME": str(tmp_path)},
        cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
