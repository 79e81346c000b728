"""What leaves the sensor: JSON lines and Zeek's notice.log, read back by parsers of the tests' own, and full disks."""

from __future__ import annotations

import io
import json
import re
import resource
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.schema import Alert, Reason
from sensor.sinks import notice, zeek_log
from sensor.sinks.jsonl import JsonLines, Line
from sensor.sinks.lines import Lines, SinkFailed
from sensor.sinks.notice import FIELDS, NoticeLog
from sensor.sinks.texts import iso_utc
from sensor.sinks.zeek_log import escape, seconds

SERVICE = Reason(
    part="service",
    seen="445/tcp",
    seen_probability=1e-4,
    expected="443/tcp",
    expected_probability=0.61,
    nats=9.21,
    voice="lstm",
)
ALERT = Alert(
    ts_us=1_300_475_167_096_535,
    signature="NetSeq::Sequence_Anomaly",
    severity="medium",
    src="192.0.2.5",
    src_port=49152,
    dest="198.51.100.7",
    dest_port=445,
    transport="tcp",
    community_id="1:LQU9qZlK+B5F3KDmev6m5PMibrg=",
    uid="CAfebc1kCPpOeYIO3d",
    score=17.5,
    verdict=4.25,
    p_value=1.5e-4,
    per_day=0.3,
    count=12,
    first_seen_us=1_300_475_160_000_000,
    last_seen_us=1_300_475_167_096_535,
    model="words 1",
    reasons=(SERVICE,),
    msg="192.0.2.5 tried 445/tcp on 198.51.100.7 and got no answer (S0).",
)
OPENED = datetime(2026, 11, 21, 20, 17, 9)
CONTROL = "".join(map(chr, [*range(32), 127]))
AWKWARD = st.text(
    st.one_of(st.characters(), st.sampled_from("\t\n\r\\,#-()é€😀\udcff\udc80\x7f\x00")), max_size=12
) | st.sampled_from(["", "-", "(empty)", "--", "(empty", "\\x2d", "#x", ",", "a,b"])


def written(form: str = "tsv", *alerts: Alert, close: bool = True) -> bytes:
    stream = io.BytesIO()
    log = NoticeLog(stream, form, sensor="wall-3", quiet_s=3600.0, clock=lambda: OPENED)  # type: ignore[arg-type]  # a plain str
    log.write(alerts)
    if close:
        log.close()
    return stream.getvalue()


def lines_of(*alerts: Alert) -> list[bytes]:
    stream = io.BytesIO()
    JsonLines(stream, sensor="wall-3").write(alerts)
    return stream.getvalue().splitlines(keepends=True)


def raw(text: str) -> bytes:
    """The bytes that a str of any kind stands for, as the sinks promise to write them."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def read_tsv(log: bytes) -> list[dict[str, bytes | None]]:
    """Read a Zeek log by what its header says alone: None is unset; sets stay as they are."""
    rows: list[dict[str, bytes | None]] = []
    head: dict[bytes, list[bytes]] = {}
    separator = b"\t"
    assert log.endswith(b"\n")
    for line in log[:-1].split(b"\n"):
        if line.startswith(b"#separator "):
            separator = unescaped(line.split(b" ", 1)[1])
        elif line.startswith(b"#"):
            key, *values = line[1:].split(separator)
            head[key] = values
        else:
            values = line.split(separator)
            assert len(values) == len(head[b"fields"]) == len(head[b"types"])
            named = zip(head[b"fields"], values, strict=True)
            rows.append({name.decode(): read_value(value, head) for name, value in named})
    return rows


def read_value(value: bytes, head: dict[bytes, list[bytes]]) -> bytes | None:
    if value == head[b"unset_field"][0]:
        return None
    return b"" if value == head[b"empty_field"][0] else unescaped(value)


def unescaped(value: bytes) -> bytes:
    return re.sub(
        rb"\\(\\|x[0-9a-f]{2})", lambda found: b"\\" if found[1] == b"\\" else bytes.fromhex(found[1][1:].decode()), value
    )


def test_json_line_has_the_fields_of_the_schema_in_order() -> None:
    (line,) = lines_of(ALERT)
    assert json.loads(line) == {
        "ts": "2011-03-18T19:06:07.096535Z",
        "signature": "NetSeq::Sequence_Anomaly",
        "severity": "medium",
        "src": "192.0.2.5",
        "src_port": 49152,
        "dest": "198.51.100.7",
        "dest_port": 445,
        "transport": "tcp",
        "action": "allowed",
        "category": "anomaly",
        "dvc": "wall-3",
        "ids_type": "network",
        "vendor_product": "netseq",
        "community_id": "1:LQU9qZlK+B5F3KDmev6m5PMibrg=",
        "uid": "CAfebc1kCPpOeYIO3d",
        "score": 17.5,
        "verdict": 4.25,
        "p_value": 1.5e-4,
        "per_day": 0.3,
        "count": 12,
        "first_seen": "2011-03-18T19:06:00.000000Z",
        "last_seen": "2011-03-18T19:06:07.096535Z",
        "model": "words 1",
        "msg": "192.0.2.5 tried 445/tcp on 198.51.100.7 and got no answer (S0).",
        "reasons": [
            {
                "part": "service",
                "seen": "445/tcp",
                "seen_probability": 1e-4,
                "expected": "443/tcp",
                "expected_probability": 0.61,
                "nats": 9.21,
                "voice": "lstm",
            }
        ],
    }
    assert line.startswith(b'{"ts":"2011-')


def test_the_schema_in_the_docs_names_every_field_of_both_forms() -> None:
    page = (Path(__file__).parents[1] / "docs/alerts.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z_.*]+)`", page))
    assert {*Line.__struct_fields__, *Reason.__struct_fields__} <= named
    unset = ("file_", "remote_location.", "email_dest")
    assert {name for name, _ in FIELDS if not name.startswith(unset)} <= named


def test_json_line_without_a_uid_has_no_such_field() -> None:
    (line,) = lines_of(msgspec.structs.replace(ALERT, uid=None))
    assert "uid" not in json.loads(line)


@given(uid=AWKWARD, msg=st.text())
def test_json_line_is_one_line_whatever_stands_in_it(uid: str, msg: str) -> None:
    first, second = lines_of(msgspec.structs.replace(ALERT, uid=uid, msg=msg), ALERT)
    read = json.loads(first)
    assert read["msg"] == msg
    assert read["uid"] == raw(uid).decode("utf-8", "backslashreplace")
    assert json.loads(second)["count"] == 12


@given(st.integers(-(1 << 63), (1 << 63) - 1))
def test_every_time_has_a_text(ts_us: int) -> None:
    assert re.fullmatch(r"(?:\d{4,6}|-\d{3,6})-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", iso_utc(ts_us))


@given(st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1)))
def test_time_text_is_that_of_the_standard_library(moment: datetime) -> None:
    delta = moment - datetime(1970, 1, 1)
    ts_us = (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
    assert iso_utc(ts_us) == moment.isoformat(timespec="microseconds") + "Z"


NOTICE_LOGS = [
    "zeek-zeromq/events-bin-cluster/notice.log",
    "zeek-zeromq/events-broker-bin-v1/notice.log",
    "zeek/_variants/local_tsv/notice.log",
]


@pytest.mark.parametrize("path", NOTICE_LOGS)
def test_notice_header_and_end_are_those_of_a_real_zeek(shared_data: Path, path: str) -> None:
    golden = (shared_data / "golden" / path).read_bytes().splitlines()
    moments = {line.split(b"\t")[0]: line for line in golden if line.startswith((b"#open", b"#close"))}
    opened = datetime.strptime(moments[b"#open"].split(b"\t")[1].decode(), "%Y-%m-%d-%H-%M-%S")
    stream = io.BytesIO()
    NoticeLog(stream, "tsv", sensor="x", quiet_s=0.0, clock=lambda: opened)
    assert stream.getvalue().splitlines() == [
        line for line in golden if line.startswith(b"#") and not line.startswith(b"#close")
    ]
    assert re.fullmatch(rb"#close\t\d{4}(-\d\d){5}", moments[b"#close"])
    assert re.fullmatch(rb"#close\t\d{4}(-\d\d){5}", written().splitlines()[-1])


def test_notice_line_is_what_a_real_zeek_writes_of_the_same_values(shared_data: Path) -> None:
    golden = (shared_data / "golden/zeek-zeromq/events-bin-cluster/notice.log").read_bytes()
    row = next(line for line in golden.splitlines() if not line.startswith(b"#"))
    values: dict[str, zeek_log.Value] = {
        "ts": 1_795_292_228_941_881,
        "uid": "COXMT73cKhAPKTVrzb",
        "id.orig_h": "141.142.220.202",
        "id.orig_p": 5353,
        "id.resp_h": "224.0.0.251",
        "id.resp_p": 5353,
        "proto": "udp",
        "note": "NetSeq::Anomaly",
        "msg": "anomalous connection #1",
        "sub": "score=0.987 model=test",
        "src": "141.142.220.202",
        "dst": "224.0.0.251",
        "p": 5353,
        "n": 987,
        "peer_descr": "manager",
        "actions": ("Notice::ACTION_LOG",),
        "email_dest": (),
        "suppress_for": 0,
    }
    assert b"\t".join(zeek_log.tsv(values.get(name), kind) for name, kind in FIELDS) == row


def test_notice_strings_are_escaped_as_a_real_zeek_does(shared_data: Path) -> None:
    folder = shared_data / "golden/zeek/_escaping"
    rows = [line for line in (folder / "tsv/esc.log").read_bytes().splitlines() if not line.startswith(b"#")]
    objects = [json.loads(line) for line in (folder / "json/esc.log").read_bytes().splitlines()]
    originals = {"bad utf8": "\udcff\udcfe caf\udcc3", "nul and control": "a\0b\x01\x1f\x7f"}  # JSON no longer tells them
    compared = 0
    for row, values in zip(rows, objects, strict=True):
        columns = row.split(b"\t")
        if "s" in values:
            assert escape(originals.get(values["what"], values["s"])) == columns[2]
            compared += 1
        if values.get("ss"):
            assert zeek_log.tsv(tuple(values["ss"]), "set[string]") == columns[3]
            compared += 1
        if "ts" in values:
            assert seconds(round(values["ts"] * 1e6)).encode() == columns[0]
    assert compared == 14


def test_notice_json_strings_are_escaped_as_a_real_zeek_does(shared_data: Path) -> None:
    golden = (shared_data / "golden/zeek/_escaping/json/esc.log").read_bytes().splitlines()
    by_name = {json.loads(line)["what"]: line for line in golden}
    originals = {
        "bad utf8": "\udcff\udcfe caf\udcc3",
        "nul and control": "a\0b\x01\x1f\x7f",
        "tab newline cr": "a\tb\nc\rd",
        "backslash and quote": 'C:\\x09\\dir "q"',
        "utf8": "café € 😀",
    }
    for what, original in originals.items():
        line = msgspec.json.encode({"ts": 1300475167.096535, "what": what, "s": zeek_log.json(original, "string")})
        assert line == by_name[what]


def test_notice_says_what_the_alert_says() -> None:
    (row,) = read_tsv(written("tsv", ALERT))
    assert row["ts"] == b"1300475167.096535"
    assert (row["uid"], row["proto"], row["note"]) == (b"CAfebc1kCPpOeYIO3d", b"tcp", b"NetSeq::Sequence_Anomaly")
    assert (row["id.orig_h"], row["id.orig_p"], row["id.resp_h"], row["id.resp_p"]) == (
        *(b"192.0.2.5", b"49152"),
        *(b"198.51.100.7", b"445"),
    )
    assert (row["src"], row["dst"], row["p"], row["n"]) == (b"192.0.2.5", b"198.51.100.7", b"445", b"18")
    assert (row["peer_descr"], row["actions"], row["email_dest"]) == (b"wall-3", b"Notice::ACTION_LOG", b"")
    assert row["suppress_for"] == b"3600.000000"
    assert row["sub"] == (
        b"severity medium, p-value 0.00015, 17.5 nats, 12 flows, words 1; service 445/tcp (9.2 nats by lstm), expected 443/tcp"
    )
    assert row["fuid"] is None
    assert row["remote_location.city"] is None


@pytest.mark.parametrize(
    ("signature", "noted"),
    [
        ("NetSeq::Sequence_Anomaly", "NetSeq::Sequence_Anomaly"),
        ("NetSeq::Sensor_Degraded", "NetSeq::Sensor_Degraded"),
        ("NetSeq::Flood", "NetSeq::Attack"),
        ("NetSeq::Sweep", "NetSeq::Attack"),
        ("NetSeq::Web_Attack", "NetSeq::Attack"),
    ],
)
def test_notice_has_a_type_that_zeeks_package_declares_and_keeps_the_signature(signature: str, noted: str) -> None:
    row = json.loads(written("json", msgspec.structs.replace(ALERT, signature=signature)))
    assert row["note"] == noted
    assert row["sub"].startswith(f"{signature}, severity") == (signature != noted)


@pytest.mark.parametrize(
    ("score", "measure", "told"),
    [
        *((17.4, "nats", 17), (-3.0, "nats", 0), (float("nan"), "nats", 0), (float("inf"), "nats", 10**15)),
        *((0.987, "probability", 99), (0.05, "share lost", 5), (6001.0, "attempts", 6001)),
    ],
)
def test_notice_tells_the_score_as_a_whole_number(score: float, measure: str, told: int) -> None:
    assert notice.number(msgspec.structs.replace(ALERT, score=score, measure=measure)) == told


def test_notice_json_leaves_out_what_is_not_set_and_keeps_zeeks_order() -> None:
    line = written("json", msgspec.structs.replace(ALERT, uid=None))
    row = json.loads(line)
    assert line.startswith(b'{"ts":1300475167.096535,"id.orig_h":"192.0.2.5","id.orig_p":49152,')
    assert line.endswith(b'"actions":["Notice::ACTION_LOG"],"email_dest":[],"suppress_for":3600.0}\n')
    assert list(row) == [name for name, _ in FIELDS if name in row]
    assert "uid" not in row
    assert "fuid" not in row


def test_notice_json_has_no_header_and_no_end() -> None:
    assert written("json") == b""


@pytest.mark.parametrize(
    ("transport", "proto"), [("icmp6", "icmp"), ("sctp", "unknown_transport"), ("47", "unknown_transport")]
)
def test_notice_names_only_transports_that_zeek_knows(transport: str, proto: str) -> None:
    assert json.loads(written("json", msgspec.structs.replace(ALERT, transport=transport)))["proto"] == proto


@given(uid=AWKWARD, msg=AWKWARD, model=AWKWARD)
def test_notice_reads_back_whatever_stands_in_it(uid: str, msg: str, model: str) -> None:
    alert = msgspec.structs.replace(ALERT, uid=uid, msg=msg, model=model)
    first, second = read_tsv(written("tsv", alert, ALERT))
    assert first["uid"] == raw(uid)
    assert first["msg"] == raw(msg)
    assert first["sub"] == raw(notice.summary(alert))
    assert second["uid"] == b"CAfebc1kCPpOeYIO3d"


@given(uid=AWKWARD, msg=AWKWARD)
def test_notice_json_is_one_object_a_line_whatever_stands_in_it(uid: str, msg: str) -> None:
    lines = written("json", msgspec.structs.replace(ALERT, uid=uid, msg=msg), ALERT).splitlines()
    expected = re.sub(
        "[\0-\x07\x0b\x0e-\x1f\x7f]", lambda found: f"\\x{ord(found[0]):02x}", raw(msg).decode("utf-8", "backslashreplace")
    )
    assert json.loads(lines[0])["msg"] == expected
    assert json.loads(lines[1])["n"] == 18
    assert len(lines) == 2


@given(st.lists(AWKWARD, min_size=1, max_size=4))
def test_notice_set_elements_keep_their_bounds(elements: list[str]) -> None:
    field = zeek_log.tsv(tuple(elements), "set[string]")
    read = [b"" if element == b"(empty)" else unescaped(element) for element in field.split(b",")]
    assert read == [raw(element) for element in elements]


@given(st.integers(-(1 << 63), (1 << 63) - 1))
def test_notice_time_keeps_every_microsecond(ts_us: int) -> None:
    text = seconds(ts_us)
    assert re.fullmatch(r"-?\d+\.\d{6}", text)
    assert int(text.replace(".", "")) == ts_us


class Slow(io.RawIOBase):
    """A pipe that takes three bytes at a time, and nothing at all after `room` bytes."""

    def __init__(self, room: int) -> None:
        self.taken = b""
        self.room = room

    def writable(self) -> bool:
        return True

    def write(self, data: bytes, /) -> int | None:  # type: ignore[override]  # bytes is all that sinks write
        part = bytes(data[: min(3, self.room - len(self.taken))])
        self.taken += part
        return len(part) or None


def test_line_that_is_taken_in_pieces_is_written_whole() -> None:
    stream = Slow(room=100)
    Lines(stream, "pipe").write(b"eleven bytes\n")
    assert stream.taken == b"eleven bytes\n"


def test_pipe_that_takes_no_more_is_told_with_its_torn_line() -> None:
    with pytest.raises(
        SinkFailed, match="cannot write alerts to pipe: it takes no more bytes at the moment; its last line is cut"
    ):
        Lines(Slow(room=5), "pipe").write(b"eleven bytes\n")


def test_full_device_is_one_clear_line() -> None:
    with Path("/dev/full").open("wb", buffering=0) as full, pytest.raises(SinkFailed) as told:
        JsonLines(full, sensor="x", name="alerts.jsonl").write([ALERT])
    assert str(told.value) == "cannot write alerts to alerts.jsonl: No space left on device; every line in it is whole"


def test_notice_header_that_cannot_be_written_is_told() -> None:
    with Path("/dev/full").open("wb", buffering=0) as full, pytest.raises(SinkFailed, match="No space left on device"):
        NoticeLog(full, "tsv", sensor="x", quiet_s=0.0, clock=lambda: OPENED)


def test_a_block_of_lines_is_cut_back_to_the_last_whole_one(tmp_path: Path) -> None:
    class Full(io.FileIO):
        """A file whose disk has room for 14 bytes."""

        def write(self, data: bytes, /) -> int:  # type: ignore[override]  # bytes is all that sinks write
            if self.tell():
                raise OSError(28, "No space left on device")
            return super().write(data[:14])

    path = tmp_path / "flows.csv"
    with (
        Full(path, "w") as stream,
        pytest.raises(SinkFailed, match=r"cannot write flows to flows\.csv: No space.*every line in it is whole"),
    ):
        Lines(stream, "flows.csv", "flows").write(b"one,1\ntwo,2\nthree,3\n")
    assert path.read_bytes() == b"one,1\ntwo,2\n"


def test_an_interrupt_in_the_middle_of_a_block_leaves_whole_lines(tmp_path: Path) -> None:
    class Interrupted(io.FileIO):
        """A file that is written in pieces, and Ctrl-C comes before the second."""

        def write(self, data: bytes, /) -> int:  # type: ignore[override]  # bytes is all that sinks write
            if self.tell():
                raise KeyboardInterrupt
            return super().write(data[:14])

    path = tmp_path / "flows.csv"
    with Interrupted(path, "w") as stream, pytest.raises(KeyboardInterrupt):
        Lines(stream, "flows.csv", "flows").write(b"one,1\ntwo,2\nthree,3\n")
    assert path.read_bytes() == b"one,1\ntwo,2\n"


FILL = """
import sys
from datetime import datetime
from pathlib import Path
import msgspec
from sensor.schema import Alert, Reason
from sensor.sinks.jsonl import JsonLines
from sensor.sinks.lines import SinkFailed
from sensor.sinks.notice import NoticeLog
told = msgspec.json.decode(sys.argv[3])
alert = Alert(**told | {"reasons": msgspec.convert(told["reasons"], tuple[Reason, ...])})
with Path(sys.argv[1]).open("wb", buffering=0) as stream:
    if sys.argv[2] == "jsonl":
        sink = JsonLines(stream, sensor="x")
    else:
        sink = NoticeLog(stream, sys.argv[2], sensor="x", quiet_s=0.0, clock=lambda: datetime(2026, 11, 21))
    try:
        sink.write([alert] * 100)
    except SinkFailed as error:
        print(error)
        sys.exit(7)
"""


@pytest.mark.parametrize("form", ["jsonl", "tsv", "json"])
def test_full_disk_leaves_whole_lines_only(tmp_path: Path, form: str) -> None:
    limit = 5000
    path = tmp_path / "alerts"

    def fill_up() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    arguments = [sys.executable, "-c", FILL, str(path), form, msgspec.json.encode(ALERT).decode()]
    root = Path(__file__).parents[1]
    done = subprocess.run(arguments, preexec_fn=fill_up, capture_output=True, text=True, cwd=root, check=False)
    assert (done.returncode, done.stderr) == (7, "")
    assert done.stdout.splitlines() == [done.stdout.strip()]
    assert "File too large; every line in it is whole" in done.stdout
    log = path.read_bytes()
    assert limit - 1000 < len(log) <= limit
    assert log.endswith(b"\n")
    rows = read_tsv(log) if form == "tsv" else [json.loads(line) for line in log.splitlines()]
    assert len(rows) > 4
    assert len({str(row) for row in rows}) == 1


def test_file_that_had_lines_before_keeps_them_when_the_disk_is_full(tmp_path: Path) -> None:
    class Full(io.FileIO):
        """A file whose disk has room for five bytes more."""

        def write(self, data: bytes, /) -> int:  # type: ignore[override]  # bytes is all that sinks write
            if len(data) > 5:
                return super().write(data[:5])
            raise OSError(28, "No space left on device")

    path = tmp_path / "alerts.jsonl"
    path.write_bytes(b"before\n")
    with Full(path, "ab") as stream, pytest.raises(SinkFailed, match="every line in it is whole"):
        Lines(stream, "alerts.jsonl").write(b"123456789\n")
    assert path.read_bytes() == b"before\n"
