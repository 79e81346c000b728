"""Alerts to Splunk's HTTP Event Collector: how an event is written, sent, and what the collector's answer means.

An event carries the alert as the JSON lines have it, with its packet time, so that plugins/splunk reads both alike. Only an
answer of 200 with Splunk's own code 0 counts as taken: a proxy's page is none. An answer can condemn the data (malformed: it
will never be taken) or not (a wrong token, a busy indexer: the same will be taken later), and the two must not be confused, for
one loses alerts and the other holds them up. Here is neither clock nor queue; the service's sender has both.
https://docs.splunk.com/Documentation/Splunk/latest/Data/TroubleshootHTTPEventCollector
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import ssl
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

import msgspec

from sensor.schema import Alert
from sensor.sinks.jsonl import Line, line_of
from sensor.sinks.lines import SinkFailed

PATH = "/services/collector/event"
PORTS = {"https": 443, "http": 80}
"""Where no port is named; always told to http.client, which would look for one in an IPv6 address."""
SOURCETYPE = "netseq:alert:json"
"""What plugins/splunk/TA-netseq knows."""
BAD_DATA = {5, 6, 12, 13, 15}
"""Codes that Splunk gives with 400 where an event itself is the trouble; others are about token, index or channel."""
CREDENTIALS = "CREDENTIALS_DIRECTORY"
"""Where systemd tells a service the folder of its credentials."""
ANSWER_BYTES = 64 << 10
"""What is read of an answer: Splunk's have some hundred bytes."""

Meaning = Literal["taken", "bad", "large", "later"]


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event as the collector takes it."""

    time: float
    host: str
    source: str
    sourcetype: str
    index: str = ""
    event: Line


class Answer(NamedTuple):
    """What became of a batch, and the collector's words."""

    meaning: Meaning
    said: str
    wait_s: float = 0.0
    """How long it asks to be left alone."""


class Reply(msgspec.Struct):
    """What Splunk answers."""

    text: str = ""
    code: int = -1


def event(alert: Alert, sensor: str, index: str = "") -> bytes:
    """Write an alert as an event, on a line of its own."""
    made = Event(
        time=max(alert.ts_us, 0) / 1e6,  # Splunk knows no time before 1970
        host=sensor,
        source="netseq",
        sourcetype=SOURCETYPE,
        index=index,
        event=line_of(alert, sensor),
    )
    return msgspec.json.encode(made) + b"\n"


class Collector:
    """The collector at `url`, asked over a connection that lasts from `connect` to `hang_up`.

    `token_file` is read at each `connect`, so that a new token needs no restart. `ca_file` holds the certificates to check
    with, "" asks the system's. Raises SinkFailed for an address or certificates that cannot be used.
    """

    def __init__(self, url: str, *, token_file: str, ca_file: str, timeout_s: float) -> None:
        self._token_file = credential(token_file)
        self._timeout_s = timeout_s
        self._connection: http.client.HTTPConnection | None = None
        self._socket: socket.socket | None = None  # its own lets go of it before an answer without a length is read
        self._token = ""
        self._channel = str(uuid.uuid4())  # a token with indexer acknowledgement takes nothing without one
        self.url = url
        try:
            parts = urlsplit(url)
            self._host, self._port = parts.hostname or "", parts.port or PORTS.get(parts.scheme, 0)
        except ValueError as error:
            raise SinkFailed(f"hec.url: {url}: {error}") from None
        spelled = url.isascii() and url.isprintable() and " " not in url
        if not spelled or parts.scheme not in PORTS or not self._host or parts.username or parts.query:
            raise SinkFailed(f"hec.url: {url}: expected https://HOST:PORT, such as https://splunk.example:8088")
        self._path = parts.path if parts.path.strip("/") else PATH
        self._tls = _trusting(ca_file) if parts.scheme == "https" else None

    def connect(self) -> None:
        """Open the connection, unless it is open. Raises SinkFailed."""
        if self._connection is not None:
            return
        self.read_token()
        connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)
        if self._tls:
            connection = http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout_s, context=self._tls)
        try:
            connection.connect()
        except (OSError, UnicodeError, http.client.HTTPException) as error:
            connection.close()
            raise SinkFailed(f"{self.url}: {reason(error)}") from error
        self._connection, self._socket = connection, connection.sock

    def post(self, lines: Sequence[bytes]) -> Answer:
        """Send events as one batch. Raises SinkFailed when no answer came: then nobody knows whether they were taken."""
        assert self._connection is not None, "connect first"
        headers = {
            "Authorization": f"Splunk {self._token}",
            "Content-Type": "application/json",
            "X-Splunk-Request-Channel": self._channel,
        }
        try:
            self._connection.request("POST", self._path, b"".join(lines), headers)
            response = self._connection.getresponse()
            body = response.read(ANSWER_BYTES)
        except (OSError, http.client.HTTPException) as error:
            self.hang_up()
            raise SinkFailed(f"{self.url}: {reason(error)}") from error
        if response.will_close or len(body) == ANSWER_BYTES:
            self.hang_up()
        return meaning(response.status, body, response.getheader("Retry-After", ""))

    def hang_up(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = self._socket = None

    def give_up(self) -> None:
        """From another thread: end what `post` waits for, which then fails."""
        waited_for = self._socket
        if waited_for is not None:
            with contextlib.suppress(OSError):  # it has just ended by itself
                socket.socket.shutdown(waited_for, socket.SHUT_RDWR)  # TLS's own would pull the layer from under `post`

    def read_token(self) -> None:
        """Read the token. Raises SinkFailed."""
        try:
            token = self._token_file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            what = error.strerror if isinstance(error, OSError) else "not a token"
            raise SinkFailed(f"hec.token_file: {self._token_file}: {what}") from error
        if not token or not token.isprintable() or " " in token:
            raise SinkFailed(f"hec.token_file: {self._token_file}: expected the token and nothing else")
        self._token = token


def credential(name: str) -> Path:
    """Find the file of a token: a name without a folder is what systemd handed over (LoadCredential)."""
    folder = os.environ.get(CREDENTIALS, "")
    return Path(folder) / name if folder and "/" not in name else Path(name)


def is_handed_over_later(name: str) -> bool:
    """Tell whether a token comes from systemd, and this process was not started by it: there is nothing to read yet."""
    return "/" not in name and CREDENTIALS not in os.environ and not Path(name).exists()


def meaning(status: int, body: bytes, retry_after: str = "") -> Answer:
    """Tell what an answer means for the batch."""
    try:
        reply = msgspec.json.decode(body, type=Reply)
    except (msgspec.DecodeError, UnicodeDecodeError):
        reply = Reply()
    said = f"{status} {reply.text}".strip() if reply.code >= 0 else f"{status}, and not in Splunk's words"
    if status == 200 and reply.code == 0:
        return Answer("taken", said)
    if status == 413:
        return Answer("large", said)
    if status == 400 and reply.code in BAD_DATA:
        return Answer("bad", said)
    return Answer("later", said, float(retry_after) if retry_after.isdecimal() else 0.0)


def reason(error: Exception) -> str:
    """Say in words why there was no answer."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message} (hec.ca_file names whom to trust)"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _trusting(ca_file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ssl.SSLError) as error:
        what = "no certificate in it" if isinstance(error, ssl.SSLError) else error.strerror
        raise SinkFailed(f"hec.ca_file: {ca_file}: {what}") from error
