"""Alerts as JSON lines, one object each, with the names of Splunk's Common Information Model (Intrusion Detection).

`ts` stands first, so that a shipper finds it without reading on. The names outside that model are netseq's own;
docs/alerts.md explains all of them. The commands open the stream and choose the sensor's name.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypedDict

import msgspec
import numpy as np

from sensor.schema import Alert, AnyReason
from sensor.sinks.lines import ByteStream, Lines, raw

NOT_A_TIME = np.iinfo(np.int64).min
"""The one 64-bit number that numpy's datetime64 does not take for a time."""


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


class JsonLines:
    """Writes alerts to an unbuffered binary stream, one line and one write call each.

    `sensor` is the name of this sensor (`dvc`), `name` what messages call the stream.
    """

    def __init__(self, stream: ByteStream, *, sensor: str, name: str = "the JSON lines") -> None:
        self._lines = Lines(stream, name)
        self._sensor = sensor
        self._encoder = msgspec.json.Encoder()

    def write(self, alerts: Iterable[Alert]) -> None:
        """Write the alerts in order. Raises SinkFailed, after which the lines written before stay whole."""
        for alert in alerts:
            self._lines.write(self._encoder.encode(self._line(alert)) + b"\n")

    def close(self) -> None:
        """Finish the file: nothing to do, for JSON lines have no end."""

    def _line(self, alert: Alert) -> Line:
        """Give an alert its outward names."""
        return Line(
            ts=iso_utc(alert.ts_us),
            signature=alert.signature,
            severity=alert.severity,
            category=alert.category,
            **hosts_of(alert),
            dvc=self._sensor,
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


def iso_utc(ts_us: int) -> str:
    """Write microseconds since the epoch in ISO 8601, UTC: 2011-03-18T19:06:07.096535Z. Any 64-bit time has a text."""
    return f"{np.datetime64(max(ts_us, NOT_A_TIME + 1), 'us')}Z"


def printable(foreign: str) -> str:
    r"""Write bytes of a log that were no UTF-8 (surrogates in Python's str) as \xHH, as Zeek's own JSON does."""
    return raw(foreign).decode("utf-8", "backslashreplace")
