"""Whether a service answers already: read from the kernel's tables of its host's namespace, so that no packet is sent for it.

A connection would be seen by the server and, from another host, by the capture. Called by run.py, which waits.
"""

from __future__ import annotations

from pathlib import Path

from ..site import Host
from ..world import within
from .service import Service

LISTENING = {"tcp": "0A", "udp": "07"}
"""How /proc/net writes the state of a socket that waits: TCP_LISTEN, and for UDP TCP_CLOSE, which means unconnected."""


def ready(host: Host, service: Service) -> bool:
    """Whether all ports of the service are bound in the host's namespace; OSError without one of its name."""
    return set(service.ports) <= bound(host.name)


def bound(namespace: str) -> set[tuple[str, int]]:
    """Where somebody listens in a named network namespace, as ("tcp", 80); OSError without one."""
    return within(namespace, lambda: {entry for protocol in LISTENING for entry in _listening(protocol)})


def _listening(protocol: str) -> set[tuple[str, int]]:
    rows = []
    for table in (protocol, f"{protocol}6"):
        path = Path("/proc/thread-self/net", table)
        rows += path.read_text(encoding="ascii").splitlines()[1:] if path.exists() else []  # no table without IPv6
    cells = (row.split() for row in rows)
    return {(protocol, int(cell[1].rsplit(":", 1)[1], 16)) for cell in cells if cell[3] == LISTENING[protocol]}
