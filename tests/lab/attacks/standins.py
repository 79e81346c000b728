"""What the harmless stand-ins share: who is at the other end, when to send, and HTTP by hand of the standard library.

A stand-in sends the traffic pattern of an attack and nothing of its substance: what goes out is random bytes, or strings that
only look bad to a page that ignores them, and what comes back is read and thrown away. Each bounds its own count and time,
ends a little before the driver would end it, and closes its connections, so that no packet of them comes after the end of the
instance.
"""

from __future__ import annotations

import random
import ssl
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from ..site import Attack, Host, LabError, Line, Site
from . import instance

ENDING_S = 2.0
"""Kept of the instance's time for closing what is open."""
SETTLE_S = 0.5
"""The last answers of closed connections arrive within it: it is over ten round trips of the slowest link."""
PATIENCE_S = 10.0
"""For an answer that does not come."""
PIECE_BYTES = 65_536
"""Read at once, and written at once where nothing is slow on purpose."""

AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:115.0) Gecko/20100101 Firefox/115.0"


class Pace:
    """When the next thing is sent: about every so often, with jitter, until the instance's time is over."""

    def __init__(self, attack: Attack, chance: random.Random) -> None:
        self._chance = chance
        self._end_s = time.monotonic() + max(attack.within_s - ENDING_S, 0.0)

    @property
    def left_s(self) -> float:
        """Seconds until everything must be closed; 0 when they are over."""
        return max(self._end_s - time.monotonic(), 0.0)

    def wait(self, mean_s: float, jitter: float) -> bool:
        """Wait for the mean, more or less by up to that share of it; False when the time would be over by then."""
        wait_s = mean_s * self._chance.uniform(1.0 - jitter, 1.0 + jitter)
        if wait_s >= self.left_s:
            return False
        time.sleep(wait_s)
        return True


def chance(attack: Attack) -> random.Random:
    """The random numbers of an instance: the same seed sends the same things."""
    return random.Random(attack.seed)


def share(attack: Attack, name: str) -> float:
    """A parameter between 0 and 1."""
    value = attack.given[name]
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise LabError(f"{attack.name}: {name} is {value!r}: give a number from 0 to 1")
    return float(value)


def flag(attack: Attack, name: str) -> bool:
    """A parameter that is true or false."""
    value = attack.given[name]
    if not isinstance(value, bool):
        raise LabError(f"{attack.name}: {name} is {value!r}: give true or false")
    return value


def around(chance: random.Random, mean: int, spread: float = 0.5) -> int:
    """A size near the mean, at least 1: a fixed one would be a mark that no real attack has."""
    return max(round(mean * chance.uniform(1.0 - spread, 1.0 + spread)), 1)


def peer(attack: Attack, site: Site, service: str) -> Host:
    """Who is at the other end: the victim that offers the service, else the first of all hosts that do."""
    victims = [site[name] for name in attack.victims]
    for host in (*victims, *site.offering(service)):
        if service in host.services and not host.down:
            return host
    raise LabError(f"{attack.name} needs a host with the service {service}: give one of the hosts services = ['{service}']")


@dataclass(frozen=True, slots=True)
class Ends:
    """From which address to which, and to which port."""

    src: str
    dst: str
    port: int

    @classmethod
    def of(cls, attack: Attack, site: Site, host: Host, port: int) -> Ends:
        """The first addresses of attacker and host, of the family that the instance asks for with `ipv6`."""
        if not 0 < port < 65_536:
            raise LabError(f"{attack.name}: the port is {port}: give one from 1 to 65535")
        attacker = site[attack.attacker]
        if not attack.given.get("ipv6", False):
            return cls(attacker.ipv4[0], host.ipv4[0], port)
        for end in (attacker, host):
            if not end.ipv6:
                raise LabError(f"{attack.name}: {end.name} has no IPv6 address: give it one, or ipv6 = false")
        return cls(attacker.ipv6[0], host.ipv6[0], port)

    def line(self, protocol: str = "tcp") -> Line:
        """What the flows between the two look like."""
        return Line(self.src, self.dst, dst_port=str(self.port), protocol=protocol)


class Web:
    """Requests to one server, over one connection as long as it is kept, or over one each."""

    def __init__(self, ends: Ends, *, tls: bool = False, keep_alive: bool = False, agent: str = AGENT, name: str = "") -> None:
        self._ends, self._tls, self._keep_alive = ends, tls, keep_alive
        self._headers = {"User-Agent": agent, "Connection": "keep-alive" if keep_alive else "close"}
        if name:
            self._headers["Host"] = name
        self._open: HTTPConnection | None = None
        self._asked = self._failed = 0

    def ask(self, target: str, body: bytes | Iterable[bytes] | None = None, headers: Mapping[str, str] | None = None) -> bytes:
        """GET, or POST where there is a body; what came back, nothing when the server did not answer."""
        self._asked += 1
        try:
            connection = self._open or self._connection()
        except OSError:
            self._failed += 1
            return b""
        try:
            connection.request("GET" if body is None else "POST", target, body, {**self._headers, **(headers or {})})
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, HTTPException):
            self._failed += 1
            connection.close()
            self._open = None
            return b""
        if self._keep_alive and not answer.will_close:
            self._open = connection
        else:
            connection.close()
            self._open = None
        return content

    def end(self, attack: Attack, run: Path) -> None:
        """Close what is open, let the last packets come, and write down what had no answer; LabError when nothing had one."""
        if self._open is not None:
            self._open.close()
            self._open = None
        time.sleep(SETTLE_S)
        ends = self._ends
        instance.note(attack, run, f"{self._asked} requests to {ends.dst} port {ends.port}, {self._failed} without answer")
        if self._failed == self._asked:
            raise LabError(f"{attack.name}: {ends.dst} port {ends.port} answered no request: is its service running?")

    def _connection(self) -> HTTPConnection:
        ends = self._ends
        connection = HTTPConnection(ends.dst, ends.port, PATIENCE_S, (ends.src, 0))
        if self._tls:
            connection.connect()
            try:
                # HTTPSConnection would name the address in its greeting, where real clients name the site
                connection.sock = trusting().wrap_socket(connection.sock, server_hostname=self._headers.get("Host"))
            except OSError:
                connection.close()
                raise
        return connection


def trusting() -> ssl.SSLContext:
    """TLS with whoever answers: the other end is the laboratory's, and an attacker would not ask either."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def whole_from_zero(attack: Attack, name: str) -> int:
    """A parameter that counts something and may be 0."""
    value = attack.given[name]
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise LabError(f"{attack.name}: {name} is {value!r}: give a whole number of at least 0")
    return value
