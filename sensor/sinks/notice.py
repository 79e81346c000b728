r"""Alerts as Zeek's notice.log, in both forms that Zeek writes, so that whatever reads Zeek's notices reads netseq's.

The conventions are those of Zeek's ASCII and JSON writers (8.1), byte for byte: in the tab-separated form a header that
names separators, fields and types, `-` for what is not set, `(empty)`, times with six decimals, \xHH for what cannot stand
for itself, and a last line #close; in JSON, flat names, times as doubles, and no field for what is not set. The commands
open the stream and know the time of day that #open and #close tell.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Literal

import msgspec

from sensor.schema import Alert, Reason
from sensor.sinks.lines import ByteStream, Lines, raw

UNSET, EMPTY = "-", "(empty)"

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

PROTO = {"tcp": "tcp", "udp": "udp", "icmp": "icmp", "icmp6": "icmp"}
"""Zeek's transport_proto knows these; all others are unknown_transport."""

ESCAPED = re.compile(rb"[\x00-\x1f\x7f\\]")
JSON_ESCAPED = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\x7f]")
"""Control characters that JSON has a letter for (b, t, n, f, r) keep it; Zeek writes the others as the text \\xHH."""

Value = str | int | float | tuple[str, ...]
"""A field's value; Zeek's addr, port, enum and count are plain text and numbers, its sets are tuples."""


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
            self._lines.write(header(clock()))

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
            self._lines.write(f"#close\t{self._clock():%Y-%m-%d-%H-%M-%S}\n".encode())

    def _values(self, alert: Alert) -> dict[str, Value]:
        """Give an alert Zeek's names; a time or interval stays in whole microseconds. What is not set is left out."""
        values: dict[str, Value] = {
            "ts": alert.ts_us,
            "id.orig_h": alert.src,
            "id.orig_p": alert.src_port,
            "id.resp_h": alert.dest,
            "id.resp_p": alert.dest_port,
            "proto": PROTO.get(alert.transport, "unknown_transport"),
            "note": alert.signature,
            "msg": alert.msg,
            "sub": summary(alert),
            "src": alert.src,
            "dst": alert.dest,
            "p": alert.dest_port,
            "n": alert.count,
            "peer_descr": self._sensor,
            "actions": (ACTION,),
            "email_dest": (),
            "suppress_for": self._quiet_us,
        }
        if alert.uid is not None:
            values["uid"] = alert.uid
        return values


def header(opened: datetime) -> bytes:
    """Give the lines that stand before the first notice in the tab-separated form."""
    lines = (
        "#separator \\x09",
        "#set_separator\t,",
        f"#empty_field\t{EMPTY}",
        f"#unset_field\t{UNSET}",
        "#path\tnotice",
        f"#open\t{opened:%Y-%m-%d-%H-%M-%S}",
        "\t".join(("#fields", *(name for name, _ in FIELDS))),
        "\t".join(("#types", *(kind for _, kind in FIELDS))),
    )
    return "".join(f"{line}\n" for line in lines).encode()


def summary(alert: Alert) -> str:
    """Put what notice.log has no column for into its sub-message: severity, p-value, model, reasons in short."""
    reasons = "".join(f"; {told(reason)}" for reason in alert.reasons)
    return f"severity {alert.severity}, p-value {alert.p_value:.3g}, {alert.score:.1f} nats, {alert.model}{reasons}"


def told(reason: Reason) -> str:
    """Put one reason in short."""
    return f"{reason.part} {reason.seen} ({reason.nats:.1f} nats by {reason.voice}), expected {reason.expected}"


def seconds(time_us: int) -> str:
    """Write microseconds as seconds with six decimals, in whole numbers all the way: a double would round."""
    whole, rest = divmod(abs(time_us), 1_000_000)
    return f"{'-' if time_us < 0 else ''}{whole}.{rest:06d}"


def tsv(value: Value | None, kind: str) -> bytes:
    """Write one field of the tab-separated form."""
    if value is None:
        return UNSET.encode()
    if isinstance(value, tuple):
        return b",".join(escape(element, in_set=True) for element in value) or EMPTY.encode()
    if isinstance(value, str):
        return escape(value)
    return (seconds(int(value)) if kind in {"time", "interval"} else str(value)).encode()


def escape(text: str, *, in_set: bool = False) -> bytes:
    r"""Write a string as Zeek does: valid UTF-8 as it is, other bytes and control characters as \xHH, a backslash doubled.

    A string that looks like the mark for unset or empty has its first byte written as \xHH; inside a set the comma, too.
    """
    if text == "":
        return EMPTY.encode()
    if text in {UNSET, EMPTY}:
        return f"\\x{ord(text[0]):02x}{text[1:]}".encode()
    escaped = ESCAPED.sub(lambda found: b"\\\\" if found[0] == b"\\" else b"\\x%02x" % found[0][0], raw(text))
    escaped = escaped.decode("utf-8", "backslashreplace").encode()
    return escaped.replace(b",", b"\\x2c") if in_set else escaped


def json(value: Value, kind: str) -> Value:
    """Give one field as the JSON form has it: times in seconds, strings without what JSON has no short escape for."""
    if isinstance(value, str):
        text = raw(value).decode("utf-8", "backslashreplace")
        return JSON_ESCAPED.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
    if kind in {"time", "interval"} and isinstance(value, int):
        return value / 1e6
    return value
