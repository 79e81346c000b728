"""Alerts with the names of the Elastic Common Schema (8.17), for Elasticsearch, Kibana and what else speaks it.

One table says what stands where; docs/alerts.md has it for readers. What ECS has no field for stands under `netseq`. ECS
expects of event.category and event.type words of fixed lists, and of network.transport "ipv6-icmp".
https://www.elastic.co/docs/reference/ecs
"""

from __future__ import annotations

from sensor.schema import Alert
from sensor.sinks.texts import JUDGED, Table, iso_utc, nested, printable

VERSION = "8.17.0"
SEVERITY = {"low": 21, "medium": 47, "high": 73, "critical": 99}
"""The numbers that Elastic Security has for the same words."""
TRANSPORT = {"icmp6": "ipv6-icmp"}
NUMBERS = {"icmp": "1", "tcp": "6", "udp": "17", "icmp6": "58", "sctp": "132"}
"""IANA's numbers, which ECS takes as text."""
WITH_PORTS = {"tcp", "udp", "sctp"}


def ecs(alert: Alert, sensor: str) -> dict[str, object]:
    """Give an alert the names of ECS; `sensor` is the name of this sensor."""
    return nested(FIELDS, alert, sensor)


def _port(alert: Alert, port: int) -> int | None:
    return port if alert.transport in WITH_PORTS else None


def _icmp(alert: Alert, number: int) -> int | None:
    return number if alert.transport.startswith("icmp") else None


def _family(alert: Alert) -> str | None:
    return ("ipv6" if ":" in alert.src else "ipv4") if alert.src else None


def _transport(alert: Alert) -> str | None:
    return None if alert.transport.isdigit() else TRANSPORT.get(alert.transport, alert.transport) or None


FIELDS: Table = (
    ("@timestamp", lambda alert, _: iso_utc(alert.ts_us)),
    ("ecs.version", lambda *_: VERSION),
    ("message", lambda alert, _: alert.msg),
    ("event.kind", lambda *_: "alert"),
    ("event.category", lambda alert, _: ["intrusion_detection", "network"] if alert.src else ["intrusion_detection"]),
    ("event.type", lambda *_: ["info"]),
    ("event.module", lambda *_: "netseq"),
    ("event.dataset", lambda *_: "netseq.alert"),
    ("event.provider", lambda *_: "netseq"),
    ("event.severity", lambda alert, _: SEVERITY.get(alert.severity, 0)),
    ("event.start", lambda alert, _: iso_utc(alert.first_seen_us)),
    ("event.end", lambda alert, _: iso_utc(alert.last_seen_us)),
    ("rule.name", lambda alert, _: alert.signature),
    ("rule.category", lambda alert, _: alert.category),
    ("rule.ruleset", lambda alert, _: alert.model),
    ("source.address", lambda alert, _: alert.src or None),
    ("source.ip", lambda alert, _: alert.src or None),
    ("source.port", lambda alert, _: _port(alert, alert.src_port)),
    ("destination.address", lambda alert, _: alert.dest or None),
    ("destination.ip", lambda alert, _: alert.dest or None),
    ("destination.port", lambda alert, _: _port(alert, alert.dest_port)),
    ("network.type", lambda alert, _: _family(alert)),
    ("network.transport", lambda alert, _: _transport(alert)),
    ("network.iana_number", lambda alert, _: NUMBERS.get(alert.transport, alert.transport) or None),
    ("network.community_id", lambda alert, _: alert.community_id or None),
    ("related.ip", lambda alert, _: list(dict.fromkeys((alert.src, alert.dest))) if alert.src else None),
    ("observer.name", lambda _, sensor: sensor),
    ("observer.type", lambda *_: "ids"),
    ("observer.vendor", lambda *_: "netseq"),
    ("observer.product", lambda *_: "netseq"),
    ("zeek.session_id", lambda alert, _: None if alert.uid is None else printable(alert.uid)),
    ("netseq.severity", lambda alert, _: alert.severity),
    ("netseq.icmp_type", lambda alert, _: _icmp(alert, alert.src_port)),
    ("netseq.icmp_answer", lambda alert, _: _icmp(alert, alert.dest_port)),
    *JUDGED,
    ("netseq.reasons", lambda alert, _: alert.reasons),
)
"""ECS's names, and what stands there for an alert and the name of this sensor."""
