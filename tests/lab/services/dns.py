"""The laboratory's DNS: dnsmasq, which knows all hosts and sites and says of other names that they do not exist.

Names of a tunnel's server are asked of that server, as a delegation would have it. Called through the registry.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..site import Host, Site
from . import tunneldns
from .private import HOUSE, privately
from .service import Launch, Service, names, needed, own_folder

TTL_S = 20
"""Ten minutes of the working day at the usual compression: clients ask again about as often as they do for popular sites."""


def start(host: Host, site: Site, run: Path, launch: Launch) -> None:
    """Write the names of the site and answer for them at port 53."""
    folder = own_folder(run, host, "dns")
    (folder / "hosts").write_text("\n".join(addresses(site)) + "\n", encoding="utf-8")
    zones = (tunneldns.zone(site), tunneldns.label_zone(site))
    tunnels = [(zone, one.ipv4[0]) for one in site.offering("tunneldns") for zone in zones]
    mail = site.offering("mail")
    lines = [
        "port=53",
        "user=root",
        "group=root",
        "no-resolv",
        "no-hosts",
        "no-daemon",
        f"addn-hosts={HOUSE}/hosts",
        f"domain={site.domain}",
        "local=/#/",
        f"local-ttl={TTL_S}",
        f"neg-ttl={TTL_S}",
        "cache-size=1000",
        "dns-forward-max=1000",
        *(f"server=/{zone}/{address}" for zone, address in tunnels),
        *(f"mx-host={site.domain},{one.name}.{site.domain},10" for one in mail),
        f'txt-record={site.domain},"v=spf1 mx -all"',
    ]
    (folder / "dnsmasq.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")
    launch(
        privately(folder, [needed("dnsmasq"), "--keep-in-foreground", "--log-facility=-", f"--conf-file={HOUSE}/dnsmasq.conf"])
    )


def addresses(site: Site) -> Iterator[str]:
    """The lines of a hosts file: the first name has the first address; one address is all names', one name has all of them."""
    for host in site.hosts:
        for family in (host.ipv4, host.ipv6):
            own, *others = names(host, site)
            if not family:
                continue
            yield f"{family[0]} {own}"
            if len(others) == 1 or len(family) == 1:
                yield from (f"{address} {name}" for address in family for name in others)
            else:
                yield from (f"{address} {name}" for address, name in zip(family, others, strict=False))


SERVICES = (Service("dns", ("dnsmasq",), ("dnsmasq-base",), (("udp", 53), ("tcp", 53)), start, "names: dnsmasq"),)
