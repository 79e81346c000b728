"""Whether a service answers already: read from the kernel's tables of its host's namespace, so that no packet is sent for it.

A connection would be seen by the server and, from another host, by the capture. Called by run.py, which waits.
"""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path

from ..site import Host
from .service import Service

CLONE_NEWNET = 0x4000_0000
LISTENING = {"tcp": "0A", "udp": "07"}
"""How /proc/net writes the state of a socket that waits: TCP_LISTEN, and for UDP TCP_CLOSE, which means unconnected."""


def ready(host: Host, service: Service) -> bool:
    """Whether all ports of the service are bound in the host's namespace, /run/netns/NAME; OSError without one."""
    return set(service.ports) <= bound(Path("/run/netns", host.name))


def bound(door: Path) -> set[tuple[str, int]]:
    """Where somebody listens in a network namespace, as ("tcp", 80)."""
    found: list[set[tuple[str, int]] | OSError] = []
    thread = threading.Thread(target=lambda: found.append(_enter_and_read(door)))  # a thread's namespace ends with it
    thread.start()
    thread.join()
    if isinstance(found[0], OSError):
        raise found[0]
    return found[0]


def _enter_and_read(door: Path) -> set[tuple[str, int]] | OSError:
    try:
        with door.open("rb") as opened:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(opened.fileno(), CLONE_NEWNET) != 0:
                return OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(door))
        return {entry for protocol in LISTENING for entry in _listening(protocol)}
    except OSError as error:
        return error


def _listening(protocol: str) -> set[tuple[str, int]]:
    rows = []
    for table in (protocol, f"{protocol}6"):
        path = Path("/proc/thread-self/net", table)
        rows += path.read_text(encoding="ascii").splitlines()[1:] if path.exists() else []  # no table without IPv6
    cells = (row.split() for row in rows)
    return {(protocol, int(cell[1].rsplit(":", 1)[1], 16)) for cell in cells if cell[3] == LISTENING[protocol]}
