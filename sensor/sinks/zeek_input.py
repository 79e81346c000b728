r"""Alerts as a table that Zeek's Input framework follows: the road into any Zeek, without a socket.

The script plugins/zeek/scripts/netseq-input.zeek reads it. Zeek's reader is not the mirror of its writer: it knows \xHH and no
doubled backslash, it leaves out a line whose last field is empty, and it takes `-` for unset everywhere. So the score stands
last, and a lone `-` is written \x2d. The service opens the stream, and only it knows when to begin a new file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from sensor.schema import Alert
from sensor.sinks.lines import ByteStream, Lines, raw
from sensor.sinks.notice import summary
from sensor.sinks.zeek_log import UNSET, seconds

FIELDS = (
    "ts",
    "uid",
    "orig_h",
    "orig_p",
    "resp_h",
    "resp_p",
    "transport",
    "signature",
    "measure",
    "sensor",
    "msg",
    "sub",
    "score",
)
"""The columns, by the names of the script's record NetSeq::Line."""

HEADER = ("#fields\t" + "\t".join(FIELDS) + "\n").encode()
ESCAPED = re.compile(r"[\x00-\x1f\x7f\\]")


class InputTable:
    """Writes alerts to an unbuffered binary stream, one line each, under a header when `empty`: nothing is in the file yet.

    `sensor` is the name of this sensor, `name` what messages call the stream. Raises SinkFailed when the header cannot be
    written.
    """

    def __init__(self, stream: ByteStream, *, sensor: str, empty: bool, name: str = "the table for Zeek") -> None:
        self._lines = Lines(stream, name)
        self._sensor = sensor
        if empty:
            self._lines.write(HEADER)

    def write(self, alerts: Iterable[Alert]) -> None:
        """Write the alerts in order. Raises SinkFailed, after which the lines written before stay whole."""
        for alert in alerts:
            self._lines.write(b"\t".join(self._cells(alert)) + b"\n")

    def close(self) -> None:
        """Finish the file: nothing to do, for Zeek goes on following it."""

    def _cells(self, alert: Alert) -> list[bytes]:
        """Give an alert the script's names, in the order of FIELDS."""
        hosts = bool(alert.src)  # an alert about the sensor itself has none
        score = alert.score if math.isfinite(alert.score) else 0.0
        cells = (
            seconds(alert.ts_us),
            UNSET if alert.uid is None else escape(alert.uid),
            alert.src if hosts else UNSET,
            str(alert.src_port),
            alert.dest if hosts else UNSET,
            str(alert.dest_port),
            escape(alert.transport),
            escape(alert.signature),
            escape(alert.measure),
            escape(self._sensor),
            escape(alert.msg),
            escape(summary(alert)),
            f"{score:.9f}",
        )
        return [cell.encode() for cell in cells]


def escape(text: str) -> str:
    r"""Write a string so that Zeek's reader gives it back: control characters, backslashes and what is no UTF-8 as \xHH."""
    if text == UNSET:
        return f"\\x{ord(UNSET):02x}"
    # Bytes that are no UTF-8 are the surrogates that backslashreplace writes; the backslashes before them are escaped first.
    escaped = ESCAPED.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
    return raw(escaped).decode("utf-8", "backslashreplace")
