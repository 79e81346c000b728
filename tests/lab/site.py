"""What a run is made of: hosts, what they do and when, and what is done to them. Everything else in the laboratory reads these.

A description and a seed give a Site and a Plan (schedule.py), which are written to the run's folder before anything is started;
agents and attacks run in processes of their own, inside the namespaces of their hosts, and read them there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Self

import msgspec

Value = str | int | float | bool | list[str]
"""What a parameter of an activity or of an attack may be."""


INSIDE: tuple[IPv4Network | IPv6Network, ...] = (IPv4Network("192.0.2.0/24"), IPv6Network("2001:db8:1::/64"))
OUTSIDE: tuple[IPv4Network | IPv6Network, ...] = (
    IPv4Network("198.51.100.0/24"),
    IPv4Network("203.0.113.0/24"),
    IPv6Network("2001:db8:2::/64"),
)
"""Documentation ranges (RFC 5737, RFC 3849): nothing on the internet answers to them."""


class LabError(Exception):
    """Something that the user can put right: one line that says what to do."""


@dataclass(frozen=True, slots=True)
class Host:
    """A network namespace and its addresses: the first of each family is its own, the others are more of the same machine."""

    name: str
    kind: str
    """office, developer, server (inside); internet, visitor, attacker, botnet (outside); router."""
    network: str
    """inside or outside; the router is in both."""
    ipv4: tuple[str, ...]
    ipv6: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    """Names in the laboratory's DNS, one for each IPv4 address, or one for all of them."""
    services: tuple[str, ...] = ()
    delay_ms: float = 0.0
    """One way, on the link of this host."""
    loss: float = 0.0
    """Share of packets lost on the link of this host."""
    down: bool = False
    """It has addresses and names and answers nothing: no namespace is made for it."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something ordinary that a host does."""

    at_s: float
    """Seconds after the start of the run."""
    host: str
    what: str
    """An activity of behaviour.ACTIVITIES."""
    seed: int
    """Of its own random numbers."""
    given: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Attack:
    """One instance of an attack."""

    name: str
    """Kind and number, as ssh_guess-2: the name of its files."""
    kind: str
    """One of attacks.KINDS."""
    at_s: float
    within_s: float
    """It is ended after this time, whatever it does."""
    attacker: str
    """The host that it runs in."""
    victims: tuple[str, ...]
    seed: int
    given: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Site:
    """All hosts, and how time is compressed."""

    hosts: tuple[Host, ...]
    domain: str
    seconds: float
    """How long the run takes."""
    compression: float
    """Seconds of the working day in a second of the run: think times are divided by it."""

    def __getitem__(self, name: str) -> Host:
        """The host of this name; LabError when there is none."""
        for host in self.hosts:
            if host.name == name:
                return host
        raise LabError(f"there is no host {name!r}: the description has {', '.join(host.name for host in self.hosts)}")

    def offering(self, service: str) -> tuple[Host, ...]:
        """All hosts with this service."""
        return tuple(host for host in self.hosts if service in host.services)

    def write(self, path: Path) -> None:
        """Write hosts.json."""
        path.write_bytes(_written(self))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read hosts.json as `write` wrote it."""
        return msgspec.json.decode(path.read_bytes(), type=cls)


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens in a run."""

    events: tuple[Event, ...]
    attacks: tuple[Attack, ...]

    def of(self, host: str) -> Iterator[Event]:
        """What one host does, in order."""
        return (event for event in self.events if event.host == host)

    def write(self, path: Path) -> None:
        """Write schedule.json."""
        path.write_bytes(_written(self))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read schedule.json as `write` wrote it."""
        return msgspec.json.decode(path.read_bytes(), type=cls)


@dataclass(frozen=True, slots=True)
class Line:
    """What an attack's flows look like: a line of labels.csv, whose times are those of the instance unless told."""

    src: str
    """An address or a network; nothing for any. So with dst."""
    dst: str = ""
    src_port: str = ""
    dst_port: str = ""
    protocol: str = ""
    both: bool = True
    label: str = ""
    """The kind's own, unless told."""


def _written(told: Site | Plan) -> bytes:
    return msgspec.json.format(msgspec.json.encode(told), indent=1) + b"\n"
