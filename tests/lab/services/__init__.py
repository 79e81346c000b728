"""The servers of the laboratory: real ones, each with a configuration of its own that is written into the run's folder."""

from __future__ import annotations

from ..site import Site
from . import c2, dns, drop, files, lasting, mail, sql, tunneldns, web
from .listening import ready
from .service import Launch, Service, found

__all__ = ["SERVICES", "Launch", "Service", "ready", "wanting"]

_ORDINARY = (*dns.SERVICES, *web.SERVICES, *mail.SERVICES, *files.SERVICES, *sql.SERVICES, *lasting.SERVICES)
_FOR_ATTACKS: tuple[Service, ...] = (c2.SERVICE, drop.SERVICE, tunneldns.SERVICE)
"""What attacks need at their other end: c2, drop, tunneldns."""

SERVICES: dict[str, Service] = {service.name: service for service in (*_ORDINARY, *_FOR_ATTACKS)}


def wanting(site: Site) -> list[tuple[str, str]]:
    """Which programs the site's services need and this machine lacks, each with its Debian package."""
    used = {name for host in site.hosts if not host.down for name in host.services}
    asked = [pair for name in sorted(used) for pair in zip(SERVICES[name].programs, SERVICES[name].packages, strict=True)]
    return [pair for pair in dict.fromkeys(asked) if found(pair[0]) is None]
