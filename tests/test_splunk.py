"""The Splunk add-on: what Splunk's own inspector says of it, and that it reads what the sensor writes."""

from __future__ import annotations

import configparser
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ET
from datetime import datetime
from pathlib import Path

import msgspec
import pytest
from test_sinks import ALERT

from sensor import __version__
from sensor.service_degraded import degraded
from sensor.sinks.hec import SOURCETYPE
from sensor.sinks.jsonl import Line, line_of

ROOT = Path(__file__).parents[1]
APP = ROOT / "plugins" / "splunk" / "TA-netseq"
VIEW = APP / "default" / "data" / "ui" / "views" / "netseq_alerts.xml"
CIM = {"action", "category", "dest", "dest_port", "dvc", "ids_type", "severity", "signature", "src", "src_port", "transport"}
"""Fields of the data model Intrusion Detection that a network sensor can fill, beside vendor_product."""
SEVERITIES = {"critical", "high", "medium", "low", "informational"}


def conf(name: str) -> configparser.ConfigParser:
    read = configparser.ConfigParser(interpolation=None, delimiters=("=",), strict=True)
    read.optionxform = str  # type: ignore[assignment,method-assign]  # the names of settings have capitals
    read.read(APP / "default" / f"{name}.conf", encoding="utf-8")
    return read


def pack(folder: Path, app: Path = APP) -> Path:
    """Pack an add-on by the script beside it."""
    told = subprocess.run(
        [sys.executable, str(app.parent / "pack.py"), str(folder)], capture_output=True, text=True, check=True, timeout=60
    )
    return Path(told.stdout.strip())


def inspector() -> str:
    made = ROOT / ".venv-splunk"
    path = str(made / "bin" / "splunk-appinspect") if (made / "installed").exists() else shutil.which("splunk-appinspect")
    if path is None:
        pytest.skip("splunk-appinspect is not installed (make splunk-appinspect)")
    return path


def inspected(archive: Path, tag: str) -> tuple[dict[str, int], list[str]]:
    """What the inspector counts, and what it says; its exit status is 0 whatever it found."""
    report = archive.with_suffix(f".{tag}.json")
    command = [inspector(), "inspect", str(archive), "--mode", "test", "--included-tags", tag]
    done = subprocess.run(
        [*command, "--data-format", "json", "--output-file", str(report)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert report.exists(), done.stdout + done.stderr
    found = json.loads(report.read_text(encoding="utf-8"))
    checks = [check for one in found["reports"] for group in one["groups"] for check in group["checks"]]
    said = [f"{check['name']}: {message['message']}" for check in checks for message in check["messages"]]
    return dict(found["summary"]), said


@pytest.mark.slow
@pytest.mark.parametrize("tag", ["splunk_appinspect", "cloud"])
def test_the_inspector_finds_no_failure_and_no_error(tmp_path: Path, tag: str) -> None:
    summary, said = inspected(pack(tmp_path), tag)
    assert summary["success"] > 50
    assert [summary[kind] for kind in ("failure", "error", "future_failure")] == [0, 0, 0], "\n".join(said)


@pytest.mark.slow
def test_the_inspector_would_tell_of_a_failure(tmp_path: Path) -> None:
    broken = tmp_path / "a" / "splunk" / APP.name
    shutil.copytree(APP.parent, broken.parent)
    shutil.copy(ROOT / "LICENSE", tmp_path / "LICENSE")
    (broken / "default" / "data" / "ui" / "views" / VIEW.name).write_text('<form version="1.1"><label>half')
    summary, said = inspected(pack(tmp_path, broken), "splunk_appinspect")
    assert summary["failure"] > 0
    assert any(VIEW.name in line for line in said)


def test_the_archive_is_the_same_whenever_it_is_packed(tmp_path: Path) -> None:
    first = pack(tmp_path / "one")
    os.utime(APP / "default" / "app.conf")
    second = pack(tmp_path / "two")
    assert hashlib.sha256(first.read_bytes()).digest() == hashlib.sha256(second.read_bytes()).digest()
    assert first.name == f"TA-netseq-{__version__}.tar.gz"


def test_the_archive_has_one_folder_with_the_modes_that_splunk_asks_for(tmp_path: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(pack(tmp_path).read_bytes())) as tar:
        members = tar.getmembers()
    assert {member.name.split("/")[0] for member in members} == {"TA-netseq"}
    assert {oct(member.mode) for member in members if member.isfile()} == {"0o644"}
    assert {oct(member.mode) for member in members if member.isdir()} == {"0o755"}
    assert "TA-netseq/LICENSE" in {member.name for member in members}


def test_the_version_is_that_of_netseq() -> None:
    manifest = json.loads((APP / "app.manifest").read_text(encoding="utf-8"))
    assert {manifest["info"]["id"]["version"], conf("app")["launcher"]["version"], conf("app")["id"]["version"]} == {
        __version__
    }


def test_an_alert_has_the_fields_of_the_data_model_under_their_own_names() -> None:
    line = msgspec.to_builtins(line_of(ALERT, "here"))
    assert {*CIM, "vendor_product"} <= line.keys()
    assert line["severity"] in SEVERITIES
    props = conf("props")[SOURCETYPE]
    assert props["KV_MODE"] == "json"
    assert not [key for key in props if key.startswith(("FIELDALIAS", "EVAL"))]  # nothing is renamed


def test_the_time_is_found_in_a_line_whatever_stands_before_it() -> None:
    props = conf("props")[SOURCETYPE]
    for header in ("", "<132>1 2011-03-18T19:06:07.096535Z here netseq - alert - "):
        text = header + msgspec.json.encode(line_of(ALERT, "here")).decode()
        behind = text[re.search(props["TIME_PREFIX"], text).end() :]  # type: ignore[union-attr]
        form = props["TIME_FORMAT"].replace("%6N", "%f")
        stamp = behind[: behind.index("Z") + 1]
        assert len(stamp) <= int(props["MAX_TIMESTAMP_LOOKAHEAD"])
        assert datetime.strptime(stamp, form).isoformat() == "2011-03-18T19:06:07.096535"
        sed = re.fullmatch(r"s/(.+)//", props["SEDCMD-netseq_header"])
        assert sed
        assert json.loads(re.sub(sed[1], "", text, count=1))["signature"] == ALERT.signature
    assert (props["TRUNCATE"], props["SHOULD_LINEMERGE"], props["TZ"]) == ("0", "false", "UTC")


def test_alerts_are_tagged_for_the_data_model_and_what_the_sensor_lost_is_not() -> None:
    types, tags = conf("eventtypes"), conf("tags")
    assert dict(tags["eventtype=netseq_alert"]) == {"ids": "enabled", "attack": "enabled"}
    assert tags.sections() == ["eventtype=netseq_alert"]
    lost = degraded({"packets_dropped.eth0": 1}, ts_us=1, since_us=0, model="m")
    assert lost is not None
    assert types["netseq_alert"]["search"] == f'sourcetype="{SOURCETYPE}" NOT signature="{lost.signature}"'
    assert types["netseq_sensor_degraded"]["search"] == f'sourcetype="{SOURCETYPE}" signature="{lost.signature}"'


def test_the_input_reads_where_the_sensor_writes() -> None:
    (stanza,) = conf("inputs").sections()
    assert stanza == "monitor:///var/log/netseq/alerts.jsonl*"
    assert conf("inputs")[stanza]["sourcetype"] == SOURCETYPE
    assert conf("inputs")[stanza]["disabled"] == "1"  # for whoever installs it to decide


def test_every_field_that_the_dashboard_asks_for_is_in_an_alert() -> None:
    root = ET.parse(VIEW).getroot()  # a file of this repository
    base = next(search.findtext("query", "") for search in root.iter("search") if search.get("id") == "alerts")
    asked = {name.strip() for name in base.rpartition("| fields ")[2].split(",")}
    reasons = {"reasons{}.part"}
    assert asked - {"_time", "_indextime", "_raw"} - reasons <= set(Line.__struct_fields__)
    titles = [title.text for title in root.iter("title")]
    assert len(titles) == 8
    for word in ("over time", "Top pairs", "Reasons", "Sensor health"):
        assert any(word in str(title) for title in titles), word
    searches = [query.text or "" for query in root.iter("query")]
    searches += [conf("savedsearches")[name]["search"] for name in conf("savedsearches").sections()]
    for macro in re.findall(r"`(\w+)`", " ".join(searches)):
        assert macro in conf("macros").sections()
    for kind in re.findall(r"eventtype=(\w+)", " ".join(searches)):
        assert kind in conf("eventtypes").sections()
