"""Alerts as Suricata's EVE writes them (event_type "alert"), for whatever reads eve.json: EveBox, Arkime, Wazuh, SELKS.

One table says what stands where; docs/alerts.md has it for readers. Suricata numbers its rules: the numbers here are netseq's
own, under a generator (gid) that Suricata does not use, so that nothing takes them for a rule of a ruleset. What EVE has no
field for stands under `netseq`. https://docs.suricata.io/en/latest/output/eve/eve-json-format.html
"""

from __future__ import annotations

import base64
import zlib

from sensor.schema import Alert
from sensor.sinks.texts import JUDGED, Table, iso_utc, nested, printable

GENERATOR = 9477
"""gid of netseq's alerts: its port, too. Suricata itself has 1 to 3."""
SIGNATURE_IDS = {
    "NetSeq::Sequence_Anomaly": 1,
    "NetSeq::Flood": 2,
    "NetSeq::Sweep": 3,
    "NetSeq::Sensor_Degraded": 4,
}
CLASS_IDS, CLASSES = 1_000_000, 9_000_000
"""A class of a model has a number made from its name, from the first of these on, so that every sensor gives it the same."""
SEVERITY = {"critical": 1, "high": 1, "medium": 2, "low": 3}
"""Suricata's priorities: 1 is the most severe, and its own rules know three."""
PROTOCOLS = {"tcp": "TCP", "udp": "UDP", "icmp": "ICMP", "icmp6": "IPv6-ICMP", "sctp": "SCTP"}
WITH_PORTS = {"tcp", "udp", "sctp"}
FLOW_ID_BITS = 51
"""Suricata's flow_id has as many, so that JavaScript's numbers hold it."""


def eve(alert: Alert, sensor: str) -> dict[str, object]:
    """Give an alert the names of EVE; `sensor` is the name of this sensor."""
    return nested(FIELDS, alert, sensor)


def signature_id(signature: str) -> int:
    """Number a signature: one of the fixed ones, or one that follows from the name of a class."""
    return SIGNATURE_IDS.get(signature, CLASS_IDS + zlib.crc32(signature.encode()) % CLASSES)


def flow_id(community_id: str) -> int | None:
    """Number a flow: the same for all alerts about it, made from its Community ID."""
    try:
        digest = base64.b64decode(community_id.partition(":")[2])
    except ValueError:
        return None
    return int.from_bytes(digest[:8], "big") >> (64 - FLOW_ID_BITS) if len(digest) >= 8 else None


def offset_utc(ts_us: int) -> str:
    """Write microseconds since the epoch as EVE does: 2011-03-18T19:06:07.096535+0000."""
    return iso_utc(ts_us).replace("Z", "+0000")


def _port(alert: Alert, port: int) -> int | None:
    return port if alert.transport in WITH_PORTS else None


def _icmp(alert: Alert, number: int) -> int | None:
    return number if alert.transport.startswith("icmp") else None


FIELDS: Table = (
    ("timestamp", lambda alert, _: offset_utc(alert.ts_us)),
    ("flow_id", lambda alert, _: flow_id(alert.community_id)),
    ("event_type", lambda *_: "alert"),
    ("host", lambda _, sensor: sensor),
    ("src_ip", lambda alert, _: alert.src or None),
    ("src_port", lambda alert, _: _port(alert, alert.src_port)),
    ("dest_ip", lambda alert, _: alert.dest or None),
    ("dest_port", lambda alert, _: _port(alert, alert.dest_port)),
    ("proto", lambda alert, _: PROTOCOLS.get(alert.transport, alert.transport) or None),
    ("icmp_type", lambda alert, _: _icmp(alert, alert.src_port)),
    ("community_id", lambda alert, _: alert.community_id or None),
    ("alert.action", lambda *_: "allowed"),
    ("alert.gid", lambda *_: GENERATOR),
    ("alert.signature_id", lambda alert, _: signature_id(alert.signature)),
    ("alert.rev", lambda *_: 1),
    ("alert.signature", lambda alert, _: alert.signature),
    ("alert.category", lambda alert, _: alert.category),
    ("alert.severity", lambda alert, _: SEVERITY.get(alert.severity, 3)),
    ("netseq.msg", lambda alert, _: alert.msg),
    ("netseq.severity", lambda alert, _: alert.severity),
    ("netseq.uid", lambda alert, _: None if alert.uid is None else printable(alert.uid)),
    *JUDGED,
    ("netseq.first_seen", lambda alert, _: iso_utc(alert.first_seen_us)),
    ("netseq.last_seen", lambda alert, _: iso_utc(alert.last_seen_us)),
    ("netseq.model", lambda alert, _: alert.model),
    ("netseq.reasons", lambda alert, _: alert.reasons),
)
"""EVE's names, and what stands there for an alert and the name of this sensor."""
