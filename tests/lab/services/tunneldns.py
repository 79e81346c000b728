"""The name server that a DNS tunnel of the laboratory goes to: iodined where it runs, and long random labels in any case.

iodined has port 53 and hands questions of other zones to a responder of our own on the loopback; without iodined or without a
TUN device the responder has port 53. Behind the tunnel a sink (sink.py) takes and gives random bytes. The tunnel's addresses
are some that no host has: on the wire they are never seen.
"""

from __future__ import annotations

import sys
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from ..site import INSIDE, OUTSIDE, Host, LabError, Site
from .c2 import PROGRAM
from .service import Launch, Service, found

PASSWORD = "laboratory"  # noqa: S105 - known to all
BITS = 28
"""The network inside the tunnel: one server and 13 clients."""
SINK_PORT = 5301
HANDED_ON_PORT = 5300
RANGES = tuple(network for network in (*INSIDE, *OUTSIDE) if isinstance(network, IPv4Network))
TUN = Path("/dev/net/tun")
DEVICE = "dnsd0"


def zone(site: Site) -> str:
    """What is asked for with iodine."""
    return f"t.{site.domain}"


def label_zone(site: Site) -> str:
    """What is asked for with long random labels: iodined hands it on."""
    return f"l.{site.domain}"


def near(site: Site) -> str:
    """The server's end of the tunnel: in the last network of the documentation ranges without any host of the site."""
    taken = [IPv4Address(address) for host in site.hosts for address in host.ipv4]
    for whole in reversed(RANGES):
        for network in reversed(list(whole.subnets(new_prefix=BITS))[1:-1]):  # not with the broadcast address of a host's link
            if not any(address in network for address in taken):
                return str(network[1])
    raise LabError(f"no {2 ** (32 - BITS)} addresses are free for the inside of a DNS tunnel: give a host fewer of them")


def _start(host: Host, site: Site, run: Path, launch: Launch) -> None:
    responder = [sys.executable, "-P", str(Path(__file__).with_name("responder.py"))]
    iodined = found("iodined")
    if iodined is None or not TUN.exists():
        launch([*responder, "--address", host.ipv4[0], "--port", "53"])
        return
    launch([*responder, "--address", "127.0.0.1", "--port", str(HANDED_ON_PORT)])
    launch([sys.executable, "-P", str(PROGRAM), "--address", "0.0.0.0", "--frames", str(SINK_PORT)])  # noqa: S104 - the tunnel's address comes later
    listen = ["-l", host.ipv4[0], "-b", str(HANDED_ON_PORT), "-d", DEVICE]
    launch([iodined, "-f", "-c", "-P", PASSWORD, *listen, f"{near(site)}/{BITS}", zone(site)])


SERVICE = Service(
    "tunneldns",
    (),
    (),
    (("udp", 53),),
    _start,
    "the other end of dns_tunnel: iodined where it is installed (package iodine) and runs, and random answers to long labels",
)
