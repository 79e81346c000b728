"""An HTTP Event Collector for tests: a real server on the loopback that answers as Splunk does, or as it is told to."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

TOKEN = "5e7c0a92-9d0c-4a57-8e1c-3b2f0a6d1c11"  # noqa: S105  # of this collector alone
Event = dict[str, Any]
Answer = tuple[int, bytes]
OK: Answer = (200, b'{"text":"Success","code":0}')
BUSY: Answer = (503, b'{"text":"Server is busy","code":9}')
MALFORMED: Answer = (400, b'{"text":"Invalid data format","code":6,"invalid-event-number":0}')
TOO_LARGE: Answer = (413, b"<html>Request Entity Too Large</html>")
"""A proxy's words: Splunk's own are no JSON either."""


class Handler(BaseHTTPRequestHandler):
    """One connection to the collector."""

    protocol_version = "HTTP/1.1"
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests += 1
        self.server.headers.append(dict(self.headers))
        if self.path != "/services/collector/event":
            self.answer((404, b'{"text":"The requested URL was not found on this server.","code":404}'))
            return
        if self.headers["Authorization"] != f"Splunk {self.server.token}":
            self.answer((403, b'{"text":"Invalid token","code":4}'))
            return
        events = [json.loads(line) for line in body.decode().splitlines()]
        answer = self.server.behave(self, events)
        if answer is None:
            return
        if answer == OK:
            with self.server.lock:
                self.server.taken += events
        self.answer(answer)

    def answer(self, answer: Answer) -> None:
        status, body = answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def reset(self) -> None:
        """Break the connection off, as a crash would."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


Behaviour = Callable[[Handler, list[Event]], Answer | None]


class Collector(ThreadingHTTPServer):
    """Takes every event that comes with the token, unless `behave` says otherwise; `taken` are those that it said 200 to."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(
        self, behave: Behaviour = lambda *_: OK, *, port: int = 0, certificate: tuple[Path, Path] | None = None
    ) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.behave: Behaviour = lambda *_: OK
        self.token = TOKEN
        self.taken: list[Event] = []
        self.headers: list[dict[str, str]] = []
        self.requests = 0
        self.lock = threading.Lock()
        self.scheme = "http"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
            self.scheme = "https"
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_port}"

    def scores(self) -> list[float]:
        """The scores of the alerts taken, which number them."""
        with self.lock:
            return [event["event"]["score"] for event in self.taken]

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join(10)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is what some tests are about."""


def certificate(folder: Path, name: str = "IP:127.0.0.1") -> tuple[Path, Path]:
    """Make a certificate that signs itself, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed, and makes the certificates")
    folder.mkdir(parents=True, exist_ok=True)
    made, key = folder / "certificate.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=collector", "-addext", f"subjectAltName={name}", "-keyout", str(key), "-out", str(made)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return made, key
