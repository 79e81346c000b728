"""The hosts of a description: one line of the file may stand for several hosts, and a host may have many addresses.

Addresses come from the ranges that are set aside for documentation (RFC 5737, RFC 3849), so that nothing in a capture can be
taken for a machine of the world. Called by description.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address

import msgspec

from .nearest import nearest
from .services import SERVICES
from .site import INSIDE, OUTSIDE, Host, LabError

Address = IPv4Address | IPv6Address
KINDS = {
    "office": "inside",
    "developer": "inside",
    "server": "inside",
    "internet": "outside",
    "visitor": "outside",
    "attacker": "outside",
    "botnet": "outside",
    "router": "both",
}
"""Every kind of host, and its network."""
ORDINARY = frozenset({"office", "developer", "server", "visitor"})
"""Kinds that do something of themselves."""


LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
"""Of a name in the DNS (RFC 1123, 2.1)."""


class HostRule(msgspec.Struct, kw_only=True, frozen=True):
    """A host, or `count` of them."""

    kind: str
    ipv4: list[str]
    """Addresses, ranges as 203.0.113.2-203.0.113.254; of several hosts that of the first, the others follow."""
    ipv6: list[str] = []
    names: list[str] = []
    """One for each IPv4 address, or one for all; NAME.DOMAIN if none."""
    services: list[str] = []
    delay_ms: float = 0.0
    loss: float = 0.0
    down: bool = False
    count: int = 1
    """Several hosts of this name with numbers, and a single address of each family."""


def hosts(rules: Mapping[str, HostRule], domain: str) -> tuple[Host, ...]:
    """All hosts; LabError for what no host can be."""
    made = tuple(host for name, rule in rules.items() for host in _made(name, rule, domain))
    for found in ((host.name for host in made), (name for host in made for name in host.names)):
        _once(found, "is given twice")
    _once((address for host in made for address in (*host.ipv4, *host.ipv6)), "is the address of two hosts")
    _leave_gateways(made)
    return made


def _leave_gateways(made: tuple[Host, ...]) -> None:
    """LabError where a host has the address that the router takes in a network for which it is given none."""
    owners = {ip_address(text): host for host in made for text in (*host.ipv4, *host.ipv6)}
    for network in (*INSIDE, *OUTSIDE):
        routed = any(host.kind == "router" and address in network for address, host in owners.items())
        if not routed and (taken := owners.get(network[1])):
            raise LabError(
                f"hosts.{taken.name}: {network[1]} is the router's: give another, or a host of kind router one there"
            )


def _made(name: str, rule: HostRule, domain: str) -> Iterator[Host]:
    where = f"hosts.{name}"
    if not LABEL.fullmatch(name) or name.isdigit() or len(name) > 11:
        # Namespaces, folders and labels of the DNS are named after hosts, and tables have a column for them.
        raise LabError(f"{where}: a name has at most 11 small letters, digits and hyphens, and no hyphen at its ends")
    if rule.kind not in KINDS:
        raise LabError(f"{where}: unknown kind {rule.kind!r}, {nearest(rule.kind, KINDS)}")
    if not 0 <= rule.loss <= 0.2 or not 0 <= rule.delay_ms <= 1000:
        raise LabError(f"{where}: loss is at most 0.2, delay_ms at most 1000")
    _check_services(where, rule)
    ipv4, ipv6 = _addresses(where, rule.ipv4, IPv4Address), _addresses(where, rule.ipv6, IPv6Address)
    if not ipv4:
        raise LabError(f"{where}: give at least one IPv4 address")
    for own in rule.names:
        refuse_no_name(where, own)
    if len(rule.names) not in {0, 1, len(ipv4)}:
        raise LabError(
            f"{where}: has {len(rule.names)} names for {len(ipv4)} IPv4 addresses: give one for each, or one for all"
        )
    host = Host(
        name=name,
        kind=rule.kind,
        network=KINDS[rule.kind],
        ipv4=tuple(map(str, ipv4)),
        ipv6=tuple(map(str, ipv6)),
        names=tuple(rule.names) or (f"{name}.{domain}",),
        services=tuple(rule.services),
        delay_ms=rule.delay_ms,
        loss=rule.loss,
        down=rule.down,
    )
    if rule.count == 1:
        yield _placed(where, host)
        return
    if rule.count < 1 or len(ipv4) != 1 or len(ipv6) > 1 or rule.names:
        raise LabError(f"{where}: with a count of at least 1, give the first host's address of each family, and no names")
    for number in range(rule.count):
        yield _placed(
            where,
            replace(
                host,
                name=f"{name}{number + 1}",
                ipv4=(str(ipv4[0] + number),),
                ipv6=tuple(str(address + number) for address in ipv6),
                names=(f"{name}{number + 1}.{domain}",),
            ),
        )


def refuse_no_name(where: str, name: str) -> None:
    """LabError for what is no name of the DNS: servers and clients would each read it in their own way."""
    if len(name) > 253 or not all(map(LABEL.fullmatch, name.split("."))):
        raise LabError(f"{where}: {name!r} is no name: give one as www.meadow.example, in small letters")


def _placed(where: str, host: Host) -> Host:
    allowed = {"inside": INSIDE, "outside": OUTSIDE, "both": (*INSIDE, *OUTSIDE)}[host.network]
    for text in (*host.ipv4, *host.ipv6):
        address = ip_address(text)
        network = next((network for network in allowed if address in network), None)
        if network is None:
            raise LabError(f"{where}: {text} is not of {' or '.join(map(str, allowed))}, where hosts of kind {host.kind} are")
        if address in (network.network_address, network.broadcast_address):
            raise LabError(f"{where}: {text} is the address of a network, not of a host")
    return host


def _check_services(where: str, rule: HostRule) -> None:
    at: dict[tuple[str, int], str] = {}
    for service in rule.services:
        if service not in SERVICES:
            raise LabError(f"{where}: unknown service {service!r}, {nearest(service, SERVICES)}")
        for port in SERVICES[service].ports:
            if other := at.get(port):
                raise LabError(f"{where}: {other} and {service} both answer at {port[0]} {port[1]}: give one to another host")
            at[port] = service


def _addresses(where: str, texts: list[str], family: type[Address]) -> list[Address]:
    found: list[Address] = []
    for text in texts:
        first, hyphen, last = text.partition("-")
        begin: Address | None
        end: Address | None
        try:
            begin, end = ip_address(first.strip()), ip_address((last if hyphen else first).strip())
        except ValueError:
            begin = end = None
        if begin is None or end is None or not isinstance(begin, family) or not isinstance(end, family):
            wanted = "203.0.113.7" if family is IPv4Address else "2001:db8:2::7"
            raise LabError(f"{where}: {text!r}: give an address as {wanted}, or a range as {wanted}-{wanted}0")
        if not 0 <= int(end) - int(begin) < 1024:
            raise LabError(f"{where}: {text!r}: a range goes up, and has less than 1,024 addresses")
        found += [begin + number for number in range(int(end) - int(begin) + 1)]
    return found


def _once(names: Iterator[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise LabError(f"hosts: {name} {what}")
        seen.add(name)
