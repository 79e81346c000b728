r"""Alerts as Zeek's notice.log, in both forms that Zeek writes, so that whatever reads Zeek's notices reads netseq's.

The conventions of Zeek's writers stand in `zeek_log`; here are the fields of this log, and what an alert puts into them: the
same as a Zeek with the package plugins/zeek writes of it. In Zeek a note is a word that some script has declared, so classes of
attacks, which differ from model to model, are one note, and the signature stands in the sub-message. The commands open the
stream and know the time of day that #open and #close tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Literal

import msgspec

from sensor.schema import Alert, AnyReason, Reason, RuleReason
from sensor.sinks.lines import ByteStream, Lines
from sensor.sinks.zeek_log import Value, closing, header, json, tsv

FIELDS = (
    ("ts", "time"),
    ("uid", "string"),
    ("id.orig_h", "addr"),
    ("id.orig_p", "port"),
    ("id.resp_h", "addr"),
    ("id.resp_p", "port"),
    ("fuid", "string"),
    ("file_mime_type", "string"),
    ("file_desc", "string"),
    ("proto", "enum"),
    ("note", "enum"),
    ("msg", "string"),
    ("sub", "string"),
    ("src", "addr"),
    ("dst", "addr"),
    ("p", "port"),
    ("n", "count"),
    ("peer_descr", "string"),
    ("actions", "set[enum]"),
    ("email_dest", "set[string]"),
    ("suppress_for", "interval"),
    ("remote_location.country_code", "string"),
    ("remote_location.region", "string"),
    ("remote_location.city", "string"),
    ("remote_location.latitude", "double"),
    ("remote_location.longitude", "double"),
)
"""Zeek's columns and their types, in its order (base/frameworks/notice/main.zeek)."""

ACTION = "Notice::ACTION_LOG"
"""What Zeek did with the notice: wrote it down."""

NOTES = ("NetSeq::Sequence_Anomaly", "NetSeq::Sensor_Degraded")
"""Signatures that are notes themselves (plugins/zeek/scripts/notices.zeek)."""
ATTACK = "NetSeq::Attack"
"""The note of all others: a class that a model was trained on, or what a fixed rule found."""

SHARES = ("probability", "share lost")
"""Measures that are told in per cent where only a whole number can stand."""
MOST = 10**15
"""The largest number told: beyond it a double has no whole numbers of its own."""

PROTO = {"tcp": "tcp", "udp": "udp", "icmp": "icmp", "icmp6": "icmp"}
"""Zeek's transport_proto knows these; all others are unknown_transport."""


class NoticeLog:
    """Writes alerts to an unbuffered binary stream as Zeek's notice.log; in the form "tsv" its header comes first.

    `sensor` is the name of this sensor (`peer_descr`), `quiet_s` the time in which a conversation alerts once
    (`suppress_for`), `clock` gives the time of day for #open and #close, `name` is what messages call the stream.
    Raises SinkFailed when the header cannot be written.
    """

    def __init__(
        self,
        stream: ByteStream,
        form: Literal["tsv", "json"] = "tsv",
        *,
        sensor: str,
        quiet_s: float,
        clock: Callable[[], datetime],
        name: str = "notice.log",
    ) -> None:
        self._lines = Lines(stream, name)
        self._form = form
        self._sensor = sensor
        self._quiet_us = round(quiet_s * 1e6)
        self._clock = clock
        self._encoder = msgspec.json.Encoder()
        if form == "tsv":
            self._lines.write(header("notice", FIELDS, clock()))

    def write(self, alerts: Iterable[Alert]) -> None:
        """Write the alerts in order. Raises SinkFailed, after which the lines written before stay whole."""
        for alert in alerts:
            values = self._values(alert)
            if self._form == "tsv":
                line = b"\t".join(tsv(values.get(name), kind) for name, kind in FIELDS)
            else:
                line = self._encoder.encode({name: json(values[name], kind) for name, kind in FIELDS if name in values})
            self._lines.write(line + b"\n")

    def close(self) -> None:
        """Finish the file: the tab-separated form says when it was closed. The stream stays the caller's to close."""
        if self._form == "tsv":
            self._lines.write(closing(self._clock()))

    def _values(self, alert: Alert) -> dict[str, Value]:
        """Give an alert Zeek's names; a time or interval stays in whole microseconds. What is not set is left out."""
        values: dict[str, Value] = {
            "ts": alert.ts_us,
            "note": note(alert),
            "msg": alert.msg,
            "sub": summary(alert),
            "n": number(alert),
            "peer_descr": self._sensor,
            "actions": (ACTION,),
            "email_dest": (),
            "suppress_for": self._quiet_us,
        }
        if alert.src:  # an alert about the sensor itself has no hosts
            values |= {
                "id.orig_h": alert.src,
                "id.orig_p": alert.src_port,
                "id.resp_h": alert.dest,
                "id.resp_p": alert.dest_port,
                "proto": PROTO.get(alert.transport, "unknown_transport"),
                "src": alert.src,
                "dst": alert.dest,
                "p": alert.dest_port,
            }
        if alert.uid is not None:
            values["uid"] = alert.uid
        return values


def note(alert: Alert) -> str:
    """Give the type of notice that Zeek's rules know for an alert."""
    return alert.signature if alert.signature in NOTES else ATTACK


def number(alert: Alert) -> int:
    """Round the score to the whole number that stands in `n`: a probability or share in per cent."""
    score = alert.score * 100 if alert.measure in SHARES else alert.score
    return round(min(max(score, 0.0), MOST)) if score == score else 0  # noqa: PLR0124  # NaN alone differs from itself


def summary(alert: Alert) -> str:
    """Put what notice.log has no column for into its sub-message: signature, severity, p-value, model, reasons in short."""
    reasons = "".join(f"; {told(reason)}" for reason in alert.reasons)
    score = f"{alert.score:.1f} nats" if alert.measure == "nats" else f"{alert.measure} {float(f'{alert.score:.3g}'):.10g}"
    signature = "" if note(alert) == alert.signature else f"{alert.signature}, "
    flows = f", {alert.count} flows" if alert.count > 1 and note(alert) != NOTES[1] else ""
    return f"{signature}severity {alert.severity}, p-value {alert.p_value:.3g}, {score}{flows}, {alert.model}{reasons}"


def told(reason: AnyReason) -> str:
    """Put one reason in short."""
    if isinstance(reason, RuleReason):
        return f"{reason.part} {reason.seen} within {reason.within_s:.3g} s, most {reason.most}"
    if not isinstance(reason, Reason):
        return f"{reason.part} {reason.seen:.6g} {reason.unit} ({reason.flow} flows before), usual {reason.usual:.6g}"
    return f"{reason.part} {reason.seen} ({reason.nats:.1f} nats by {reason.voice}), expected {reason.expected}"
