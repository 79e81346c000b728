"""Words to the service manager: ready, alive, reloading, stopping (sd_notify(3)).

The protocol is one datagram of `NAME=value` lines to the socket that systemd names in NOTIFY_SOCKET. Where nobody asked to
be told, nothing is sent; where the manager has gone, that is no matter of the sensor's. The control loop calls this.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time


class Notifier:
    """Sends words to the manager that `environment` names, and to nobody when it names none."""

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        given = dict(os.environ) if environment is None else environment
        address = given.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address  # an abstract socket begins with a zero byte
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) if address else None
        watched = given.get("WATCHDOG_USEC", "0")
        meant = given.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_s = int(watched) / 1e6 if watched.isdigit() and meant else 0.0
        """Seconds after which the manager takes a silent sensor for stuck; 0 when it does not watch."""

    def ready(self, status: str) -> None:
        """Tell that the sensor works, after the start or after a reload."""
        self._send("READY=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        """Tell what the sensor does now, in one line."""
        self._send(f"STATUS={status}")

    def alive(self) -> None:
        """Tell that scoring goes on."""
        self._send("WATCHDOG=1")

    def reloading(self) -> None:
        """Tell that a reload begins; `ready` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Tell that the sensor ends."""
        self._send("STOPPING=1", "STATUS=draining")

    def _send(self, *lines: str) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):  # a manager that is gone or busy must not stop the sensor
                self._socket.sendto("\n".join(lines).encode(), socket.MSG_DONTWAIT, self._address)
