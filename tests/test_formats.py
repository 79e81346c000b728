"""Alerts with the names of Elastic's common schema and of Suricata's EVE, held against what those schemas ask for."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_sinks import ALERT

from sensor import config
from sensor.commands import outlets, replay
from sensor.schema import Alert
from sensor.service_degraded import degraded
from sensor.sinks import ecs, eve
from sensor.sinks.jsonl import FORMS, FormName, JsonLines

DOCS = Path(__file__).parents[1] / "docs" / "alerts.md"
STAMP = re.compile(r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d+[+\-]\d+$")
"""The pattern of "timestamp" in Suricata's etc/schema.json."""

EVE_TOP = {
    "timestamp": str, "flow_id": int, "event_type": str, "src_ip": str, "src_port": int, "dest_ip": str, "dest_port": int,
    "proto": str, "icmp_type": int, "community_id": str, "alert": dict, "host": str,
}  # fmt: skip
EVE_ALERT = {
    "action": str, "gid": int, "signature_id": int, "rev": int, "signature": str, "category": str, "severity": int,
}  # fmt: skip
"""Names and types of Suricata's etc/schema.json (host is written where the output has it switched on)."""

ECS_TYPES = {
    "@timestamp": str, "message": str, "ecs.version": str, "event.kind": str, "event.category": list, "event.type": list,
    "event.module": str, "event.dataset": str, "event.provider": str, "event.severity": int, "event.start": str,
    "event.end": str, "rule.name": str, "rule.category": str, "rule.ruleset": str, "source.address": str, "source.ip": str,
    "source.port": int, "destination.address": str, "destination.ip": str, "destination.port": int, "network.type": str,
    "network.transport": str, "network.iana_number": str, "network.community_id": str, "related.ip": list,
    "observer.name": str, "observer.type": str, "observer.vendor": str, "observer.product": str,
}  # fmt: skip
"""Fields of ECS 8.17, with its types as JSON has them (keyword, ip and date are text)."""
ECS_REQUIRED = {"@timestamp", "ecs.version"}
"""ECS asks these two of every event; of an alert also that event.kind says so."""
ECS_KINDS = {"alert", "asset", "enrichment", "event", "metric", "state", "pipeline_error", "signal"}
ECS_TYPES_ALLOWED = {"intrusion_detection": {"allowed", "denied", "info"}}
ECS_TYPES_ALLOWED["network"] = {"access", "allowed", "connection", "denied", "end", "info", "protocol", "start"}
OWN = ("netseq.", "zeek.")
"""What ECS has no field for, under names that no field of it has."""

ICMP = msgspec.structs.replace(ALERT, transport="icmp", src_port=8, dest_port=0)
ICMP6 = msgspec.structs.replace(ICMP, transport="icmp6", src="2001:db8::1", dest="2001:db8::2", src_port=128, dest_port=129)
GRE = msgspec.structs.replace(ALERT, transport="47", src_port=0, dest_port=0, uid=None)
LOST = cast(Alert, degraded({"packets_dropped.eth0": 7}, ts_us=60_000_000, since_us=0, model="words 1"))
ALERTS = {"tcp": ALERT, "icmp": ICMP, "icmp6": ICMP6, "gre": GRE, "degraded": LOST}
each = pytest.mark.parametrize("alert", ALERTS.values(), ids=ALERTS)


def line(alert: Alert, form: FormName) -> dict[str, Any]:
    out = io.BytesIO()
    JsonLines(out, sensor="here", form=form).write([alert])
    assert out.getvalue().count(b"\n") == 1
    return dict(json.loads(out.getvalue()))


def flat(value: dict[str, Any], outer: str = "") -> dict[str, Any]:
    """Dotted names and their values."""
    found: dict[str, Any] = {}
    for name, inner in value.items():
        found |= flat(inner, f"{outer}{name}.") if isinstance(inner, dict) else {f"{outer}{name}": inner}
    return found


@each
def test_ecs_has_the_fields_and_types_that_the_schema_asks_for(alert: Alert) -> None:
    told = flat(line(alert, "ecs"))
    assert told.keys() >= ECS_REQUIRED
    assert told["ecs.version"].startswith("8.")
    for name, value in told.items():
        if not name.startswith(OWN):
            assert type(value) is ECS_TYPES[name], name


@each
def test_ecs_says_kind_category_and_type_in_its_own_words(alert: Alert) -> None:
    event = line(alert, "ecs")["event"]
    assert event["kind"] == "alert"
    assert event["kind"] in ECS_KINDS
    for category in event["category"]:
        assert set(event["type"]) <= ECS_TYPES_ALLOWED[category]


def test_ecs_tells_who_spoke_with_whom_and_why() -> None:
    told = flat(line(ALERT, "ecs"))
    assert told["@timestamp"] == "2011-03-18T19:06:07.096535Z"
    assert (told["source.ip"], told["source.port"]) == (ALERT.src, ALERT.src_port)
    assert (told["destination.ip"], told["destination.port"]) == (ALERT.dest, ALERT.dest_port)
    assert (told["network.transport"], told["network.iana_number"], told["network.type"]) == ("tcp", "6", "ipv4")
    assert told["network.community_id"] == ALERT.community_id
    assert (told["rule.name"], told["message"]) == (ALERT.signature, ALERT.msg)
    assert told["event.severity"] == 47
    assert told["zeek.session_id"] == ALERT.uid
    assert told["netseq.reasons"] == [msgspec.to_builtins(reason) for reason in ALERT.reasons]


def test_ecs_gives_ports_to_what_has_ports() -> None:
    told = flat(line(ICMP6, "ecs"))
    assert (told["network.transport"], told["network.iana_number"], told["network.type"]) == ("ipv6-icmp", "58", "ipv6")
    assert (told["netseq.icmp_type"], told["netseq.icmp_answer"]) == (128, 129)
    assert "source.port" not in told
    told = flat(line(GRE, "ecs"))
    assert told["network.iana_number"] == "47"
    assert not {"network.transport", "source.port", "zeek.session_id"} & told.keys()


def test_an_alert_about_the_sensor_has_no_hosts_in_any_form() -> None:
    assert not {"source", "destination", "network", "related"} & line(LOST, "ecs").keys()
    assert not {"src_ip", "dest_ip", "src_port", "proto", "flow_id", "community_id"} & line(LOST, "eve").keys()


@each
def test_eve_has_the_fields_and_types_that_suricatas_schema_asks_for(alert: Alert) -> None:
    told = line(alert, "eve")
    assert {"timestamp", "event_type", "alert"} <= told.keys()
    for name, value in told.items():
        if name != "netseq":  # the one object that Suricata has not
            assert type(value) is EVE_TOP[name], name
    assert told["alert"].keys() == EVE_ALERT.keys()
    for name, value in told["alert"].items():
        assert type(value) is EVE_ALERT[name], name
    assert STAMP.match(told["timestamp"])
    assert told["event_type"] == "alert"
    assert told["alert"]["severity"] in {1, 2, 3}


def test_eve_tells_who_spoke_with_whom_and_why() -> None:
    told = line(ALERT, "eve")
    assert told["timestamp"] == "2011-03-18T19:06:07.096535+0000"
    assert (told["src_ip"], told["src_port"], told["dest_ip"], told["dest_port"]) == (
        *(ALERT.src, ALERT.src_port),
        *(ALERT.dest, ALERT.dest_port),
    )
    assert (told["proto"], told["community_id"], told["host"]) == ("TCP", ALERT.community_id, "here")
    assert (told["alert"]["signature"], told["alert"]["gid"], told["alert"]["signature_id"]) == (ALERT.signature, 9477, 1)
    assert told["netseq"]["msg"] == ALERT.msg


def test_eve_gives_ports_to_what_has_ports() -> None:
    told = line(ICMP, "eve")
    assert (told["proto"], told["icmp_type"]) == ("ICMP", 8)
    assert "src_port" not in told
    assert line(ICMP6, "eve")["proto"] == "IPv6-ICMP"
    assert line(GRE, "eve")["proto"] == "47"


def test_a_flow_has_one_number_in_eve_that_every_reader_of_json_holds() -> None:
    first, again = line(ALERT, "eve"), line(msgspec.structs.replace(ALERT, ts_us=5, signature="NetSeq::Flood"), "eve")
    assert first["flow_id"] == again["flow_id"]
    assert 0 <= first["flow_id"] < 1 << 51
    assert line(ICMP6, "eve")["flow_id"] == first["flow_id"]  # it follows from the Community ID alone


def test_every_signature_has_a_number_of_its_own() -> None:
    classes = ["DoS", "DDoS", "Brute_Force", "Web_Attack", "Botnet", "Port_Scan", "Infiltration", "Heartbleed"]
    numbers = [eve.signature_id(name) for name in (*eve.SIGNATURE_IDS, *(f"NetSeq::{name}" for name in classes))]
    assert len(set(numbers)) == len(numbers)
    assert eve.signature_id("NetSeq::Web_Attack") == eve.signature_id("NetSeq::Web_Attack") >= eve.CLASS_IDS


@given(st.text(max_size=20))
def test_no_community_id_breaks_the_number_of_a_flow(community_id: str) -> None:
    number = eve.flow_id(community_id)
    assert number is None or 0 <= number < 1 << eve.FLOW_ID_BITS


@pytest.mark.parametrize("form", ["ecs", "eve"])
def test_bytes_of_a_log_that_are_no_text_can_be_written(form: FormName) -> None:
    assert "\\xff" in json.dumps(line(msgspec.structs.replace(ALERT, uid="a\udcff"), form)).replace("\\\\", "\\")


@pytest.mark.parametrize(("name", "table"), [("ecs", ecs.FIELDS), ("eve", eve.FIELDS)])
def test_the_documents_have_every_field(name: str, table: Any) -> None:
    text = DOCS.read_text(encoding="utf-8")
    section = text[text.index(f"### {name.upper()}") :]
    section = section[: section.find("\n## ") if "\n## " in section else None]
    for field, _ in table:
        assert f"`{field}`" in section, field


def test_the_settings_and_the_command_know_every_form() -> None:
    (kind,) = [one.kind for one in config.settings() if (one.section, one.key) == ("output", "format")]
    assert set(kind.__args__) == set(FORMS)
    (option,) = [one for one in replay.parser()._actions if "--format" in one.option_strings]
    assert set(option.choices or ()) == set(FORMS)


@pytest.mark.parametrize(("form", "key"), [("netseq", "ts"), ("ecs", "@timestamp"), ("eve", "timestamp")])
def test_the_file_of_a_replay_has_the_names_that_were_asked_for(tmp_path: Path, form: str, key: str) -> None:
    arguments = argparse.Namespace(output=tmp_path, json=False, notice=False)
    with contextlib.ExitStack() as stack:
        for outlet in outlets.open_outlets(arguments, config.load(None, [f"output.format={form}"]), stack)[:1]:
            outlet.write([ALERT])
    assert next(iter(json.loads((tmp_path / "alerts.jsonl").read_text()))) == key


def test_a_format_for_no_json_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    assert replay.main(["--format", "ecs", "nowhere.pcap"]) == 2
    assert "add --json or --output DIR" in capfd.readouterr().err
