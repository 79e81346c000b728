"""Stand-ins for what runs inside after a break-in: a bot that asks for commands, and an intruder who looks around.

Neither does anything to the host it runs on: "commands" are random bytes that are thrown away, the "output" is random bytes
as well, the download is not kept, and the logins use the laboratory's own key and run `printf`. Called by the driver.
"""

from __future__ import annotations

import errno
import random
import selectors
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Network, ip_network
from pathlib import Path

from ..services.files import client_key
from ..site import Attack, Host, LabError, Line, Site, Value
from . import instance
from .exchanges import Exchanges
from .kind import Kind
from .standins import AGENT, SETTLE_S, Ends, Pace, Web, around, chance, flag, peer, share, whole_from_zero

INSIDE_BITS = 24
"""The inner network of the laboratory is a /24."""
MOST_ADDRESSES = 200
MOST_PORTS = 50
"""A scan stays a part of what an instance does: connect attempts are at most the product of the two."""


def _bot(attack: Attack, site: Site, run: Path) -> Iterator[Line]:
    """Ask for commands again and again; now and then there is one, and its output goes back."""
    ends = Ends.of(attack, site, peer(attack, site, "c2"), instance.whole(attack, "port"))
    beacons, commands = instance.whole(attack, "beacons"), share(attack, "commands")
    interval_s, jitter = instance.number(attack, "interval_s"), share(attack, "jitter")
    command_bytes, output_bytes = instance.whole(attack, "command_bytes"), instance.whole(attack, "output_bytes")
    path, draw = instance.text(attack, "path"), chance(attack)
    web = Web(ends, keep_alive=flag(attack, "keep_alive"), agent=instance.text(attack, "agent"))
    yield ends.line()
    own, pace = f"{draw.getrandbits(32):08x}", Pace(attack, draw)
    for _ in range(beacons):
        told = draw.random() < commands
        web.ask(f"{path}?id={own}&n={around(draw, command_bytes) if told else 0}")
        if told:
            if not pace.wait(min(interval_s, 1.0) / 2, jitter):
                break
            web.ask(f"{path}?id={own}", draw.randbytes(around(draw, output_bytes)))
        if not pace.wait(interval_s, jitter):
            break
    web.end(attack, run)


def _infiltration(attack: Attack, site: Site, run: Path) -> Iterator[Line]:
    """A download, a session outward, a scan, and logins, one after the other."""
    outside, draw = peer(attack, site, "c2"), chance(attack)
    download = Ends.of(attack, site, outside, instance.whole(attack, "download_port"))
    session = Ends.of(attack, site, outside, instance.whole(attack, "session_port"))
    source = instance.source(attack, site)
    inner, ports = ip_network(f"{source}/{INSIDE_BITS}", strict=False), _ports(attack)
    logins = _logins(attack, site, run)
    yield from (download.line(), session.line())
    for port in dict.fromkeys((*ports, *((22,) if logins else ()))):
        yield Line(source, str(inner), dst_port=str(port), protocol="tcp", both=False)
    pace = Pace(attack, draw)
    _download(attack, run, draw, download)
    try:
        _session(attack, draw, session, pace)
    except OSError as error:
        raise LabError(f"{attack.name}: the session to {session.dst} port {session.port} broke: {error}") from error
    assert isinstance(inner, IPv4Network)
    scan(source, _scanned(attack, site, inner, draw), ports, draw, instance.number(attack, "scan_wait_s"), pace)
    _log_in(attack, run, logins, pace)
    time.sleep(SETTLE_S)


def _log_in(attack: Attack, run: Path, logins: Sequence[Sequence[str]], pace: Pace) -> None:
    """Log in again and again; LabError when no server lets in."""
    tried = refused = 0
    for command in logins:
        if not pace.wait(instance.number(attack, "login_s"), 0.5):
            break
        tried += 1
        try:
            instance.call(attack, run, command, seconds=max(pace.left_s, 0.1))
        except LabError:  # a server that is being guessed at lets nobody in for a while
            refused += 1
    instance.note(attack, run, f"{tried} logins, {refused} refused")
    if tried and refused == tried:
        raise LabError(f"{attack.name}: no server let in with the laboratory's key: see attacks/{attack.name}/output.txt")


def _download(attack: Attack, run: Path, draw: random.Random, ends: Ends) -> None:
    web = Web(ends)
    web.ask(f"/{draw.getrandbits(40):010x}?n={instance.whole(attack, 'download_bytes')}")
    web.end(attack, run)


def _session(attack: Attack, draw: random.Random, ends: Ends, pace: Pace) -> None:
    """Commands come in at the pace of somebody who reads and types; each has its output, some of it long."""
    commands = instance.whole(attack, "commands")
    command_bytes, output_bytes = instance.whole(attack, "command_bytes"), instance.whole(attack, "output_bytes")
    mean_s = instance.number(attack, "session_s") / commands
    with Exchanges(ends) as exchanges:
        out = b""
        for _ in range(commands):
            delay_s = min(draw.expovariate(1 / mean_s) if mean_s else 0.0, 4 * mean_s)
            if delay_s >= pace.left_s:
                return
            exchanges.exchange(out, around(draw, command_bytes), delay_s)
            out = draw.randbytes(min(round(draw.lognormvariate(0.0, 1.0) * output_bytes) + 1, 20 * output_bytes))
        exchanges.exchange(out, 1)


def _ports(attack: Attack) -> tuple[int, ...]:
    given = attack.given["scan_ports"]
    assert isinstance(given, list)
    if len(given) > MOST_PORTS or not all(port.isascii() and port.isdigit() and 0 < int(port) < 65_536 for port in given):
        raise LabError(f"{attack.name}: scan_ports is {given!r}: give up to {MOST_PORTS} ports as ['22', '80']")
    return tuple(int(port) for port in given)


def _scanned(attack: Attack, site: Site, inner: IPv4Network, draw: random.Random) -> list[str]:
    """The victims and others of the inner network, whether they are there or not, in the order of their addresses."""
    count = whole_from_zero(attack, "scan_addresses")
    if count > MOST_ADDRESSES:
        raise LabError(f"{attack.name}: scan_addresses is {count}: give at most {MOST_ADDRESSES}")
    own = set(site[attack.attacker].ipv4)
    victims = [address for name in attack.victims for address in site[name].ipv4[:1] if address not in own]
    others = [str(address) for address in inner.hosts() if str(address) not in own and str(address) not in victims]
    chosen = (victims + draw.sample(others, min(max(count - len(victims), 0), len(others))))[:count]
    return sorted((address for address in chosen if _inside(address, inner)), key=socket.inet_aton)


def _inside(address: str, inner: IPv4Network) -> bool:
    return ip_network(address).subnet_of(inner)  # type: ignore[arg-type]  # both are IPv4


def scan(source: str, addresses: Sequence[str], ports: Sequence[int], draw: random.Random, wait_s: float, pace: Pace) -> int:
    """Try to connect to every port of every address, one address at a time; how many accepted. All are reset at once."""
    accepted = 0
    for address in addresses:
        if pace.left_s <= wait_s:
            break
        with selectors.DefaultSelector() as selector:
            for port in draw.sample(ports, len(ports)):
                _try(source, address, port, selector)
            accepted += _answers(selector, wait_s)
    return accepted


def _try(source: str, address: str, port: int, selector: selectors.BaseSelector) -> None:
    attempt = socket.socket()
    attempt.setblocking(False)
    # a reset leaves no half-closed connection behind, whose answer would come after the instance
    attempt.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    attempt.bind((source, 0))
    if attempt.connect_ex((address, port)) in (0, errno.EINPROGRESS):
        selector.register(attempt, selectors.EVENT_WRITE)
    else:
        attempt.close()


def _answers(selector: selectors.BaseSelector, wait_s: float) -> int:
    accepted, end_s = 0, time.monotonic() + wait_s
    while selector.get_map() and (left_s := end_s - time.monotonic()) > 0:
        for key, _ in selector.select(left_s):
            assert isinstance(key.fileobj, socket.socket)
            accepted += key.fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
            selector.unregister(key.fileobj)
            key.fileobj.close()
    for key in list(selector.get_map().values()):
        assert isinstance(key.fileobj, socket.socket)
        key.fileobj.close()
    return accepted


def _logins(attack: Attack, site: Site, run: Path) -> list[list[str]]:
    """The commands that log in at victims with SSH, by turns; none where no victim has it."""
    count, user = whole_from_zero(attack, "logins"), instance.text(attack, "user")
    servers: list[Host] = [site[name] for name in attack.victims if "ssh" in site[name].services and not site[name].down]
    if not count or not servers:
        return []
    ssh, source = instance.program("ssh", "openssh-client"), instance.source(attack, site)
    options = (
        "BatchMode=yes",
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
        "ConnectTimeout=10",
        f"BindAddress={source}",
    )
    begin = [ssh, "-F", "none", "-n", "-i", str(client_key(run)), *(word for option in options for word in ("-o", option))]
    said, length = chance(attack), instance.whole(attack, "output_bytes")
    typed = [f"printf %0{around(said, length)}d 0" for _ in range(count)]  # so many zeros
    return [[*begin, f"{user}@{servers[turn % len(servers)].ipv4[0]}", typed[turn]] for turn in range(count)]


_BOT: dict[str, Value] = {
    "beacons": 60,
    "interval_s": 4.0,
    "jitter": 0.2,
    "commands": 0.25,
    "command_bytes": 80,
    "output_bytes": 3000,
    "path": "/updates",
    "port": 8080,
    "ipv6": False,
    "keep_alive": False,
    "agent": AGENT,
}
_INFILTRATION: dict[str, Value] = {
    "download_port": 80,
    "download_bytes": 400_000,
    "session_port": 4444,
    "session_s": 40.0,
    "commands": 25,
    "command_bytes": 40,
    "output_bytes": 900,
    "ipv6": False,
    "scan_addresses": 24,
    "scan_ports": ["21", "22", "80", "139", "443", "445", "3389", "5432"],
    "scan_wait_s": 0.4,
    "logins": 4,
    "login_s": 3.0,
    "user": "admin",
}

KINDS = (
    Kind(
        "bot",
        "Bot",
        (),
        (),
        _BOT,
        _bot,
        "beacons over HTTP to c2; a share of them (commands) gets random bytes and sends some back (stand-in)",
    ),
    Kind(
        "infiltration",
        "Infiltration",
        ("ssh",),
        ("openssh-client",),
        _INFILTRATION,
        _infiltration,
        "a download, a session outward, a connect scan of inner hosts, SSH logins with the laboratory's key (stand-in)",
        quiet=True,
    ),
)
