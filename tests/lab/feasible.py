"""Whether an attack of a description can be done at all, as far as the description itself tells: asked before a run is started.

A tool that does not exist, a number under nothing, a victim that is down or does not have what is attacked would else be found
when the attack's time has come, minutes into a run. What only its own process can find stays there. description.py calls this.
"""

from __future__ import annotations

from collections.abc import Sequence

from .attacks import KINDS
from .drawing import Given
from .nearest import nearest
from .services import SERVICES
from .site import Host, LabError, Site, Value

ASKING = (
    *("ssh_guess", "ftp_guess", "login_guess", "slowloris", "slow_body", "slow_read", "goldeneye", "http_flood", "http_ddos"),
    *("web_sqli", "web_xss", "web_traversal"),
)
"""Kinds that ask something of a server, one at a time: there must be one at their port."""
ALONE = (*ASKING, "syn_flood", "udp_flood", "icmp_tunnel")
"""Kinds that take one victim."""
SEARCHING = "scan_", "infiltration"
"""How kinds begin that look for hosts, so that one may be down."""
FAR_END = {"bot": "c2", "infiltration": "c2", "dns_tunnel": "tunneldns", "exfiltration": "drop"}
"""The service that some host must have for a kind to talk to."""
FORM = {"login_guess": "login"}
"""The service that every victim of a kind must have, whatever else listens there."""
HIGHEST_PORT = 65_535


def refuse_impossible(
    kind: str, attackers: Sequence[Host], victims: Sequence[Host], each: int, given: Given, site: Site, where: str
) -> None:
    """LabError, in a line, for what can be known now not to work."""
    for name in given.usual:
        for value in given.values(name):
            _refuse_value(kind, name, value, where)
    if kind in ALONE and each > 1:
        raise LabError(f"{where}: this kind takes one victim at a time: leave out each")
    if not kind.startswith(SEARCHING):
        for host in victims:
            if host.down:
                raise LabError(f"{where}: {host.name} is down: only a scan may have such a victim")
    service = FAR_END.get(kind)
    if service and not any(service in host.services and not host.down for host in (*victims, *site.hosts)):
        raise LabError(f"{where}: no host offers {service!r}, which this needs")
    if kind in ASKING:
        _refuse_silent(kind, victims, given, where)
    for wanted in given.values("sources") if "sources" in given.usual else ():
        for host in attackers:
            if isinstance(wanted, int | float) and wanted > len(host.ipv4):
                raise LabError(f"{where}: sources may be {wanted:g}, and {host.name} has {len(host.ipv4)} addresses")


def _refuse_value(kind: str, name: str, value: Value, where: str) -> None:
    if name == "tool" and isinstance(value, str):
        tools = list(dict.fromkeys((*KINDS[kind].programs, str(KINDS[kind].takes["tool"]))))
        if value not in tools:
            raise LabError(f"{where}: there is no tool {value!r}, {nearest(value, tools)}")
    if isinstance(value, int | float) and value < 0:
        raise LabError(f"{where}: {name} may be {value:g}: give 0 or more")
    if name.rsplit("_", maxsplit=1)[-1] == "port" and isinstance(value, int) and value > HIGHEST_PORT:
        raise LabError(f"{where}: {name} may be {value}: ports end at {HIGHEST_PORT}")


def _refuse_silent(kind: str, victims: Sequence[Host], given: Given, where: str) -> None:
    """Refuse a victim at whose port nothing answers."""
    secure = given.values("tls") if "tls" in given.usual else [False]
    ports = {port or (443 if tls else 80) for port in given.values("port") for tls in secure}
    for host in victims:
        if kind in FORM and FORM[kind] not in host.services:
            raise LabError(f"{where}: {host.name} has no service {FORM[kind]!r}, which this attacks")
        open_ports = {port for name in host.services for protocol, port in SERVICES[name].ports if protocol == "tcp"}
        for port in ports:
            if port not in open_ports:
                raise LabError(f"{where}: nothing listens at port {port} of {host.name}: give it a service, or other victims")
