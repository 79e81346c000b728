"""The host that a bot and an intruder of the laboratory talk to: it answers random bytes (sink.py) and commands nothing.

Several HTTP ports and two for plain sessions, so that runs can differ in them.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ..site import Host, Site
from .service import Launch, Service

HTTP_PORTS = (80, 8080, 8000, 8888)
SESSION_PORTS = (4444, 5555)

PROGRAM = Path(__file__).with_name("sink.py")


def _start(host: Host, site: Site, run: Path, launch: Launch) -> None:
    launch(command(host, http=HTTP_PORTS, frames=SESSION_PORTS))


def command(host: Host, **ports: tuple[int, ...]) -> list[str]:
    """The command that serves at all addresses of the host, with the ports of each talk of sink.py."""
    # -P: the folder of the program holds files named as modules of the standard library are
    argv = [sys.executable, "-P", str(PROGRAM)]
    for address in (*host.ipv4, *host.ipv6):
        argv += ["--address", address]
    for talk, numbers in ports.items():
        for port in numbers:
            argv += [f"--{talk}", str(port)]
    return argv


SERVICE = Service(
    "c2",
    (),
    (),
    tuple(("tcp", port) for port in (*HTTP_PORTS, *SESSION_PORTS)),
    _start,
    "the other end of bot and infiltration: random bytes over HTTP and over plain connections",
)
