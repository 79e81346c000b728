"""The name server that a DNS tunnel of the laboratory goes to: iodined where it runs, and long random labels in any case.

iodined has port 53 and hands questions of other zones to a responder of our own on the loopback; without iodined or without a
TUN device the responder has port 53. Behind the tunnel a sink (sink.py) takes and gives random bytes. The tunnel's addresses
are of the network for benchmarks (RFC 2544) and never seen on the wire.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ..site import Host, Site
from .c2 import PROGRAM
from .service import Launch, Service, found

PASSWORD = "laboratory"  # noqa: S105 - known to all
NEAR = "198.18.53.1"
"""The server's end of the tunnel."""
BITS = 27
SINK_PORT = 5301
HANDED_ON_PORT = 5300
TUN = Path("/dev/net/tun")
DEVICE = "dnsd0"


def zone(site: Site) -> str:
    """What is asked for with iodine."""
    return f"t.{site.domain}"


def label_zone(site: Site) -> str:
    """What is asked for with long random labels: iodined hands it on."""
    return f"l.{site.domain}"


def _start(host: Host, site: Site, run: Path, launch: Launch) -> None:
    responder = [sys.executable, "-P", str(Path(__file__).with_name("responder.py"))]
    iodined = found("iodined")
    if iodined is None or not TUN.exists():
        launch([*responder, "--address", host.ipv4[0], "--port", "53"])
        return
    launch([*responder, "--address", "127.0.0.1", "--port", str(HANDED_ON_PORT)])
    launch([sys.executable, "-P", str(PROGRAM), "--address", "0.0.0.0", "--frames", str(SINK_PORT)])  # noqa: S104 - the tunnel's address comes later
    listen = ["-l", host.ipv4[0], "-b", str(HANDED_ON_PORT), "-d", DEVICE]
    launch([iodined, "-4", "-f", "-c", "-P", PASSWORD, *listen, f"{NEAR}/{BITS}", zone(site)])


SERVICE = Service(
    "tunneldns",
    (),
    (),
    (("udp", 53),),
    _start,
    "the other end of dns_tunnel: iodined where it is installed (package iodine) and runs, and random answers to long labels",
)
