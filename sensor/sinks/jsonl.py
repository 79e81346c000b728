"""Alerts as JSON lines, one object each, with the names of Splunk's Common Information Model (Intrusion Detection).

`ts` stands first, so that a shipper finds it without reading on. The names outside that model are netseq's own;
docs/alerts.md explains all of them. On demand the same lines have the names of Elastic or Suricata (`ecs`, `eve`). The commands
open the stream and choose the sensor's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal, TypedDict

import msgspec

from sensor.schema import Alert, AnyReason
from sensor.sinks.ecs import ecs
from sensor.sinks.eve import eve
from sensor.sinks.lines import ByteStream, Lines
from sensor.sinks.texts import iso_utc, printable


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One alert as it is written; the order of the fields is that of the line."""

    ts: str
    signature: str
    severity: str
    src: str | msgspec.UnsetType = msgspec.UNSET  # an alert about the sensor itself has no hosts
    src_port: int | msgspec.UnsetType = msgspec.UNSET
    dest: str | msgspec.UnsetType = msgspec.UNSET
    dest_port: int | msgspec.UnsetType = msgspec.UNSET
    transport: str | msgspec.UnsetType = msgspec.UNSET
    action: str = "allowed"  # a sensor beside the wire blocks nothing
    category: str
    dvc: str
    ids_type: str = "network"
    vendor_product: str = "netseq"
    community_id: str | msgspec.UnsetType = msgspec.UNSET
    uid: str | msgspec.UnsetType = msgspec.UNSET
    score: float
    verdict: float
    p_value: float
    per_day: float
    count: int
    first_seen: str
    last_seen: str
    model: str
    msg: str
    reasons: tuple[AnyReason, ...]


class Hosts(TypedDict, total=False):
    """The fields of a line that only an alert about hosts has."""

    src: str
    src_port: int
    dest: str
    dest_port: int
    transport: str
    community_id: str


def line_of(alert: Alert, sensor: str) -> Line:
    """Give an alert its outward names; `sensor` is the name of this sensor."""
    return Line(
        ts=iso_utc(alert.ts_us),
        signature=alert.signature,
        severity=alert.severity,
        category=alert.category,
        **hosts_of(alert),
        dvc=sensor,
        uid=msgspec.UNSET if alert.uid is None else printable(alert.uid),
        score=alert.score,
        verdict=alert.verdict,
        p_value=alert.p_value,
        per_day=alert.per_day,
        count=alert.count,
        first_seen=iso_utc(alert.first_seen_us),
        last_seen=iso_utc(alert.last_seen_us),
        model=alert.model,
        msg=alert.msg,
        reasons=alert.reasons,
    )


def hosts_of(alert: Alert) -> Hosts:
    """Give who spoke with whom, for an alert that has hosts."""
    if not alert.src:
        return {}
    return {
        "src": alert.src,
        "src_port": alert.src_port,
        "dest": alert.dest,
        "dest_port": alert.dest_port,
        "transport": alert.transport,
        "community_id": alert.community_id,
    }


FormName = Literal["netseq", "ecs", "eve"]
FORMS: Mapping[str, Callable[[Alert, str], object]] = {"netseq": line_of, "ecs": ecs, "eve": eve}
"""What a line holds, of an alert and the name of this sensor, for each set of names."""


class JsonLines:
    """Writes alerts to an unbuffered binary stream, one line and one write call each.

    `sensor` is the name of this sensor (`dvc`), `form` whose names the fields have, `name` what messages call the stream.
    """

    def __init__(self, stream: ByteStream, *, sensor: str, form: FormName = "netseq", name: str = "the JSON lines") -> None:
        self._lines = Lines(stream, name)
        self._sensor = sensor
        self._form = FORMS[form]
        self._encoder = msgspec.json.Encoder()

    def write(self, alerts: Iterable[Alert]) -> None:
        """Write the alerts in order. Raises SinkFailed, after which the lines written before stay whole."""
        for alert in alerts:
            self._lines.write(self._encoder.encode(self._form(alert, self._sensor)) + b"\n")

    def close(self) -> None:
        """Finish the file: nothing to do, for JSON lines have no end."""
