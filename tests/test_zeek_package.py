"""The package for Zeek: what zkg reads, the scripts' syntax, and that scripts and sensor mean the same by every name.

Zeek itself does not run here; the tests of plugins/zeek/testing are for where it does.
"""

from __future__ import annotations

import configparser
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_sinks import ALERT, raw

from sensor.config_zeek import Zeek
from sensor.schema import Alert
from sensor.service_outlets import open_appending
from sensor.sinks import notice
from sensor.sinks.lines import SinkFailed
from sensor.sinks.zeek import EVENT, TOPIC, arguments
from sensor.sinks.zeek_event import Address, Port, Real, Text, Value
from sensor.sinks.zeek_input import FIELDS, HEADER, InputTable
from sensor.sources.zeek_numbers import NAMES
from sensor.sources.zeek_source import ADDRESSES

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "plugins/zeek"
SCRIPTS = sorted((PACKAGE / "scripts").glob("*.zeek"))
EXAMPLES = sorted((PACKAGE / "testing").glob("*/*.zeek"))
EMBEDDED = re.compile(r"^# @TEST-START-FILE (\S+)\n(.*?)^# @TEST-END-FILE\n", re.MULTILINE | re.DOTALL)
ZEEK_SCRIPT = shutil.which("zeek-script", path=Path(sys.executable).parent)

SWEEP = msgspec.structs.replace(
    ALERT,
    **{"ts_us": 1_700_000_000_000_000, "signature": "NetSeq::Sweep", "p_value": 0.00049, "score": 131.0, "measure": "ports"},
    **{"count": 131, "model": "netseq-rules 1", "reasons": (), "msg": "a tab \t and a backslash \\"},
)
PING = msgspec.structs.replace(
    ALERT,
    **{"ts_us": 1_700_000_001_500_000, "severity": "low", "src": "2001:db8::1", "src_port": 128, "dest": "2001:db8::2"},
    **{"dest_port": 129, "transport": "icmp6", "uid": None, "score": 17.4, "count": 1, "reasons": (), "msg": "-"},
)
DEGRADED = msgspec.structs.replace(
    ALERT,
    **{"ts_us": 1_700_000_060_000_000, "signature": "NetSeq::Sensor_Degraded", "src": "", "src_port": 0, "dest": ""},
    **{"dest_port": 0, "transport": "", "uid": None, "score": 0.05, "measure": "share lost", "p_value": 1.0, "count": 77},
    **{"reasons": (), "msg": ""},
)


def script(name: str) -> str:
    return (PACKAGE / "scripts" / name).read_text(encoding="utf-8")


def embedded(path: Path) -> dict[str, str]:
    """The files that a btest brings along."""
    return dict(EMBEDDED.findall(path.read_text(encoding="utf-8")))


def record(text: str, name: str) -> dict[str, str]:
    """The fields of a script's record: name and type."""
    (body,) = re.findall(rf"type {name}: record \{{(.*?)\n\t\}};", text, re.DOTALL)
    return dict(re.findall(r"^\t\t(\w+): (.+?)(?: &optional)?;$", body, re.MULTILINE))


def zeek_texts() -> Iterator[tuple[str, str]]:
    """Every Zeek script there is, those inside the btests too."""
    for path in SCRIPTS:
        yield path.name, path.read_text(encoding="utf-8")
    for path in EXAMPLES:
        yield path.name, EMBEDDED.sub("", path.read_text(encoding="utf-8"))
        yield from ((f"{path.name}/{name}", text) for name, text in embedded(path).items() if name.endswith(".zeek"))
    for path in (PACKAGE / "README.md", ROOT / "docs/zeek.md"):
        for place, text in enumerate(re.findall(r"```zeek\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)):
            yield f"{path.name}/{place}", text


@pytest.mark.skipif(ZEEK_SCRIPT is None, reason="zeek-script is not installed: pip install zeekscript")
@pytest.mark.parametrize(("name", "text"), list(zeek_texts()), ids=lambda value: value if "\n" not in value else "")
def test_every_script_is_zeek(name: str, text: str) -> None:
    assert ZEEK_SCRIPT is not None
    parsed = subprocess.run([ZEEK_SCRIPT, "parse", "-"], input=text, capture_output=True, text=True, check=False, timeout=60)
    assert (parsed.returncode, parsed.stderr) == (0, ""), name


@pytest.mark.skipif(ZEEK_SCRIPT is None, reason="zeek-script is not installed: pip install zeekscript")
def test_what_is_not_zeek_is_noticed() -> None:
    assert ZEEK_SCRIPT is not None
    broken = script("alerts.zeek").replace("raise_notice(a);", "raise_notice(a;")
    parsed = subprocess.run([ZEEK_SCRIPT, "parse", "-"], input=broken, capture_output=True, text=True, check=False, timeout=60)
    assert parsed.returncode != 0


@pytest.mark.skipif(ZEEK_SCRIPT is None, reason="zeek-script is not installed: pip install zeekscript")
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_have_zeeks_own_layout(path: Path) -> None:
    assert ZEEK_SCRIPT is not None
    done = subprocess.run([ZEEK_SCRIPT, "format", str(path)], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == path.read_text(encoding="utf-8")


def test_zkg_finds_the_scripts_and_the_tests() -> None:
    meta = configparser.ConfigParser(interpolation=None)
    meta.read(ROOT / "zkg.meta")
    package = meta["package"]
    assert (ROOT / package["script_dir"] / "__load__.zeek").is_file()
    assert package["depends"].split() == ["zeek", ">=7.1.0"]
    folder = re.fullmatch(r"cd (\S+) && btest -c btest\.cfg", package["test_command"])
    assert folder is not None
    assert (ROOT / folder[1] / "btest.cfg").is_file()
    assert {"zeromq", "notice"} <= {tag.strip() for tag in package["tags"].split(",")}


def test_zeromqs_own_script_is_loaded_where_the_directory_does_not_connect() -> None:
    loaded = re.compile(r'^@if \( ! Version::at_least\("([\d.]+)"\) \)\n@load (\S+/connect)\n@endif$', re.MULTILINE)
    texts = [script("zeromq-standalone.zeek"), embedded(PACKAGE / "testing/bus/exchange.zeek")["ports.zeek"]]
    for text in texts:  # Zeek 8.1.0 connects from the directory, and zeekctl asks for the same version
        assert loaded.findall(text) == [("8.1.0", "frameworks/cluster/backend/zeromq/connect")]


def test_each_script_that_is_loaded_by_itself_exists() -> None:
    for path in SCRIPTS:
        for loaded in re.findall(r"^@load \./(\S+)", path.read_text(encoding="utf-8"), re.MULTILINE):
            assert (PACKAGE / "scripts" / f"{loaded}.zeek").is_file(), (path.name, loaded)


def test_everything_that_a_script_exports_is_explained() -> None:
    for path in SCRIPTS:
        text = path.read_text(encoding="utf-8")
        assert text.startswith("##!"), path.name
        for exported in re.findall(r"export \{\n(.*?)\n\}", text, re.DOTALL):
            lines = exported.splitlines()
            for before, line in zip(["", *lines], lines, strict=False):
                if re.match(r"\t(const|option|global|type) ", line):
                    assert before.startswith("\t##"), (path.name, line)


def test_the_event_has_the_arguments_that_are_sent_in_their_order() -> None:
    text = script("alerts.zeek")
    (declared,) = re.findall(r"global alert: event\((.*?)\);", text, re.DOTALL)
    named = [tuple(part.split(": ")) for part in re.sub(r"\s+", " ", declared).split(", ")]
    kinds = {Text: "string", Address: "addr", Port: "port", Real: "double"}
    sent: tuple[Value, ...] = arguments(ALERT, "wall-3")
    assert [kind for _, kind in named] == [kinds[type(value)] for value in sent]
    by_name = {name: value for (name, _), value in zip(named, sent, strict=True)}
    assert by_name == {
        "uid": Text("CAfebc1kCPpOeYIO3d"),
        "orig_h": Address("192.0.2.5"),
        "orig_p": Port(49152, "tcp"),
        "resp_h": Address("198.51.100.7"),
        "resp_p": Port(445, "tcp"),
        "msg": Text(ALERT.msg),
        "sub": Text(notice.summary(ALERT)),
        "score": Real(17.5),
        "signature": Text("NetSeq::Sequence_Anomaly"),
        "measure": Text("nats"),
        "sensor": Text("wall-3"),
        "ts": Real(1_300_475_167.096535),
    }
    (handled,) = re.findall(r"event NetSeq::alert\((.*?)\)\n", text, re.DOTALL)
    assert re.sub(r"\s+", " ", handled) == re.sub(r"\s+", " ", declared)
    assert f'alert_topic = "{TOPIC.decode()}"' in text
    assert EVENT == "NetSeq::alert"


def test_connections_have_the_fields_that_are_read_in_their_order() -> None:
    text = script("conns.zeek")
    fields = record(text, "Conn")
    assert list(fields) == [name.removeprefix("id.") for name in NAMES]
    for name in fields:
        assert f"${name}=" in text or f"c${name} = " in text, name


def test_notice_types_and_measures_are_the_same_in_script_and_sensor() -> None:
    text = script("notices.zeek")
    (declared,) = re.findall(r"redef enum Notice::Type \+= \{(.*?)\};", text, re.DOTALL)
    names = re.findall(r"^\t\t(\w+),$", declared, re.MULTILINE)
    assert {f"NetSeq::{name}" for name in names} == {*notice.NOTES, notice.ATTACK}
    assert set(re.findall(r'signature == "([^"]+)"', text)) == set(notice.NOTES)
    assert set(re.findall(r'measure == "([^"]+)"', text)) == set(notice.SHARES)
    (most,) = re.findall(r"const most = (\S+);", text)
    assert float(most) == notice.MOST


def test_the_table_has_the_columns_that_the_script_reads() -> None:
    assert set(record(script("netseq-input.zeek"), "Line")) == set(FIELDS)
    assert HEADER.decode() == "#fields\t" + "\t".join(FIELDS) + "\n"


BEGAN_US = 1_700_000_100_000_000
"""When the tests' tables get their first line; each further one comes a second later."""


def opened(stream: io.FileIO, path: Path, began_us: int = BEGAN_US) -> InputTable:
    clock = iter(range(began_us, began_us + 1000 * 1_000_000, 1_000_000))
    return InputTable(stream, sensor="wall-3", clock_us=lambda: next(clock), path=path, open_anew=open_appending)


def put(path: Path, *alerts: Alert, began_us: int = BEGAN_US) -> None:
    """Write alerts as a sensor does that is started for them."""
    with open_appending(path) as stream:
        opened(stream, path, began_us).write(alerts)


def lines_of(path: Path) -> list[dict[str, str]]:
    """The lines of a table, which has a header and so can be read, by their columns."""
    head, *lines = path.read_text(encoding="utf-8").splitlines()
    assert head == HEADER.decode().rstrip("\n")
    return [dict(zip(FIELDS, line.split("\t"), strict=True)) for line in lines]


def test_the_btest_of_the_input_framework_reads_what_netseq_writes(tmp_path: Path) -> None:
    files = embedded(PACKAGE / "testing/tests/input.zeek")
    put(tmp_path / "alerts.tsv", SWEEP, PING, DEGRADED)
    assert files["alerts.tsv"] == (tmp_path / "alerts.tsv").read_text(encoding="utf-8")
    told = [line.split("\t") for line in files["expected"].splitlines()]
    for cells, alert in zip(told, (SWEEP, PING, DEGRADED), strict=True):
        assert cells[0] == f"{alert.ts_us / 1e6:.6f}"
        assert cells[1:3] == [notice.note(alert), str(notice.number(alert))]
        assert cells[-1] == notice.summary(alert)


def test_the_btest_of_a_new_table_has_one_that_is_no_shorter_and_was_written_later(tmp_path: Path) -> None:
    files = embedded(PACKAGE / "testing/tests/input-anew.zeek")
    put(tmp_path / "alerts.tsv", SWEEP)
    put(tmp_path / "next.tsv", PING, DEGRADED, began_us=BEGAN_US + 60_000_000)
    for name in ("alerts.tsv", "next.tsv"):
        assert files[name] == (tmp_path / name).read_text(encoding="utf-8")
    assert len(files["next.tsv"]) >= len(files["alerts.tsv"])
    told = [line.split("\t")[0] for line in files["expected"].splitlines()]
    assert told == [notice.note(alert) for alert in (SWEEP, PING, DEGRADED)]


def test_the_table_has_one_header_however_often_it_is_opened(tmp_path: Path) -> None:
    path, whole = tmp_path / "alerts.tsv", tmp_path / "whole.tsv"
    put(path, SWEEP)
    put(path, PING, began_us=BEGAN_US + 1_000_000)
    path.write_bytes(path.read_bytes() + b"1700000002.000000\thalf a li")  # the sensor crashed in the middle of a write
    put(path, DEGRADED, began_us=BEGAN_US + 2_000_000)
    put(whole, SWEEP, PING, DEGRADED)
    assert path.read_text() == whole.read_text()


def test_a_table_that_was_emptied_gets_its_header_again(tmp_path: Path) -> None:
    path = tmp_path / "alerts.tsv"
    with open_appending(path) as stream:
        sink = opened(stream, path)
        sink.write([SWEEP, PING])
        os.truncate(path, 0)
        sink.write([DEGRADED, SWEEP])
    assert [line["signature"] for line in lines_of(path)] == ["NetSeq::Sensor_Degraded", "NetSeq::Sweep"]


@pytest.mark.parametrize("way", ["renamed", "removed", "replaced", "its folder removed"])
def test_a_table_that_is_another_file_or_gone_is_begun_anew(tmp_path: Path, way: str) -> None:
    path, old = tmp_path / "into" / "alerts.tsv", tmp_path / "old.tsv"
    with open_appending(path) as stream:
        sink = opened(stream, path)
        sink.write([SWEEP])
        if way == "renamed":
            path.rename(old)
        elif way == "its folder removed":
            shutil.rmtree(path.parent)
        else:
            path.unlink()
        if way == "replaced":
            path.touch()
        sink.write([PING, DEGRADED])
        assert not os.get_inheritable(stream.fileno())
    assert [line["transport"] for line in lines_of(path)] == ["icmp6", ""]
    if way == "renamed":
        assert [line["signature"] for line in lines_of(old)] == ["NetSeq::Sweep"]


def test_what_is_no_table_of_this_form_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "alerts.jsonl"
    path.write_text('{"signature":"NetSeq::Sweep"}\n')
    with pytest.raises(SinkFailed, match=r"does not begin as tables for Zeek do; rename it"):
        put(path, SWEEP)
    assert path.read_text() == '{"signature":"NetSeq::Sweep"}\n'


def test_each_line_tells_where_it_ends_and_was_written_after_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "alerts.tsv"
    put(path, SWEEP, PING)
    put(path, DEGRADED, SWEEP, began_us=BEGAN_US - 3_600_000_000)  # the clock was set back
    ends = [at + 1 for at, byte in enumerate(path.read_bytes()) if byte == ord("\n")][1:]
    assert [int(line["end"]) for line in lines_of(path)] == ends
    written_us = [round(float(line["written"]) * 1e6) for line in lines_of(path)]
    assert written_us == [BEGAN_US, BEGAN_US + 1_000_000, BEGAN_US + 1_000_001, BEGAN_US + 1_000_002]


TEXTS = st.text(st.one_of(st.characters(), st.sampled_from("\t\n\r\\x-#\udcff\x00\x7f")), max_size=12) | st.just("-")


@given(uid=TEXTS, msg=TEXTS, model=TEXTS)
def test_zeeks_reader_gives_back_whatever_stands_in_the_table(uid: str, msg: str, model: str) -> None:
    alert = msgspec.structs.replace(ALERT, uid=uid, msg=msg, model=model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "alerts.tsv"
        put(path, alert, ALERT)
        head, line, last = path.read_bytes().removesuffix(b"\n").split(b"\n")
    cells = dict(zip(head.split(b"\t")[1:], line.split(b"\t"), strict=True))
    assert all(cells[name] != b"-" for name in (b"uid", b"msg", b"sub"))
    assert last.startswith(b"1300475167.096535\tCAfebc1kCPpOeYIO3d\t")
    # Zeek's reader takes \xHH for a byte, and everything else as it stands.
    read = {name: re.sub(rb"\\x([0-9a-f]{2})", lambda hit: bytes.fromhex(hit[1].decode()), cells[name]) for name in cells}
    for name, told in ((b"uid", uid), (b"msg", msg), (b"sub", notice.summary(alert))):
        assert read[name] == raw(told)


def test_the_table_and_the_bus_are_where_script_and_sensor_say() -> None:
    page = (ROOT / "docs/zeek.md").read_text(encoding="utf-8")
    (file,) = set(re.findall(r'input_file = "([^"]+)"', script("netseq-input.zeek")))
    assert f'input_file = "{file}"' in page
    (topic,) = re.findall(r'const conn_topic = "([^"]+)"', script("conns.zeek"))
    assert Zeek().topic == topic
    assert (ADDRESSES["zeromq"], Zeek().alerts_connect) == ("tcp://127.0.0.1:5555", "tcp://127.0.0.1:5556")
