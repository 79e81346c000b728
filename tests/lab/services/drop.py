"""The host that quiet uploads go to: it takes them over HTTPS and throws them away (sink.py).

Its certificate is of the laboratory's own authority, as those of ordinary servers are: nothing in the handshake tells it
apart.
"""

from __future__ import annotations

from pathlib import Path

from ..site import Host, Site
from .c2 import command
from .service import Launch, Service, own_folder
from .tls import certificate

HTTPS_PORTS = (443, 8443)


def _start(host: Host, site: Site, run: Path, launch: Launch) -> None:
    names = host.names or (f"{host.name}.{site.domain}",)
    chain, key = certificate(run, own_folder(run, host, "drop"), names)
    launch([*command(host, https=HTTPS_PORTS), "--certificate", str(chain), "--key", str(key)])


SERVICE = Service(
    "drop",
    ("openssl",),
    ("openssl",),
    tuple(("tcp", port) for port in HTTPS_PORTS),
    _start,
    "the other end of exfiltration: takes uploads over HTTPS and throws them away",
)
