"""Alerts as syslog (RFC 5424), over TCP with octet counting (RFC 6587, 3.4.1) or UDP (RFC 5426).

The message is the JSON line, in the names that `output.format` says; the header's fields carry severity, time and sensor. How
messages get there, and what is sent again, `syslog_roads` knows. The service's outlets keep alerts and try again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

import msgspec

from sensor.schema import Alert
from sensor.sinks.jsonl import FORMS, FormName
from sensor.sinks.lines import SinkFailed
from sensor.sinks.syslog_roads import Datagrams, Stream
from sensor.sinks.texts import iso_utc

FACILITIES = {"user": 1, "daemon": 3, "auth": 4, "authpriv": 10} | {f"local{n}": 16 + n for n in range(8)}
SEVERITIES = {"critical": 2, "high": 3, "medium": 4, "low": 5}
"""Critical, error, warning and notice (RFC 5424, 6.2.1)."""
APP_NAME, MSGID = "netseq", "alert"
HOST_LETTERS = 255
NOT_IN_A_NAME = re.compile(r"[^!-~]")
"""What a field of the header may not hold."""
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
"""RFC 5424's times end with the year 9999; another is left out of the header, and stands in the message."""
ADDRESS = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[^\s:\[\]]+)):(?P<port>\d{1,5})")


class Syslog:
    """Sends alerts to a receiver at `address`, "host:port" or "[host]:port". Raises SinkFailed when that is no address.

    `sensor` is the name of this sensor, `form` whose names the JSON has, `facility` one of FACILITIES.
    """

    def __init__(self, address: str, transport: Literal["tcp", "udp"], *, facility: str, form: FormName, sensor: str) -> None:
        found = ADDRESS.fullmatch(address)
        if found is None or not 0 < int(found["port"]) < 1 << 16:
            raise SinkFailed(f"syslog.address: {address}: expected HOST:PORT, such as 192.0.2.1:514 or [2001:db8::1]:514")
        place = found["six"] or found["host"], int(found["port"])
        self._road = Stream(place) if transport == "tcp" else Datagrams(place)
        self._counted = transport == "tcp"
        self._priority = FACILITIES[facility] * 8
        self._host = NOT_IN_A_NAME.sub("_", sensor)[:HOST_LETTERS] or "-"
        self._sensor = sensor
        self._form = FORMS[form]
        self._encoder = msgspec.json.Encoder()

    def write(self, alerts: Iterable[Alert]) -> None:
        """Send alerts in order. Raises SinkFailed while they cannot be sent, NeverTaken for one that no datagram holds."""
        for alert in alerts:
            text = self.message(alert)
            self._road.send(b"%d %s" % (len(text), text) if self._counted else text)

    def settle(self) -> None:
        """Send again what may be lost. Raises SinkFailed when that cannot be done now."""
        self._road.settle()

    def close(self) -> None:
        """Hang up when what was sent has arrived. Raises SinkFailed, with the number of alerts of which that is not known."""
        self._road.close()

    def message(self, alert: Alert) -> bytes:
        """Write an alert as a message of RFC 5424. Its text is plain bytes: a byte order mark would stand in JSON's way."""
        time = iso_utc(alert.ts_us)
        priority = self._priority + SEVERITIES.get(alert.severity, SEVERITIES["low"])
        header = f"<{priority}>1 {time if TIME.fullmatch(time) else '-'} {self._host} {APP_NAME} - {MSGID} - "
        return header.encode() + self._encoder.encode(self._form(alert, self._sensor))
