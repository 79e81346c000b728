"""Looking for open ports: nmap in the ways that CICIDS2017 used it, and masscan.

nmap is run as root with -n (no names asked for) and -Pn (no ping first, so that every packet belongs to the scan proper), and
without a guess at the operating system. The lines of a scan name no port: what answers an UDP probe is ICMP.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..site import Attack, LabError, Line, Site, Value
from . import instance
from .kind import Kind

PORTS: Mapping[str, Value] = {"ports": "1-1000", "rate": 300}
"""rate: packets a second at most."""

UDP_PORTS = "53,67-69,111,123,135,137-139,161-162,177,427,443,445,500,514,520,623,631,1434,1645,1701,1812,1900,2049,4500,5060"
PORT_LIST = re.compile(r"[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*")


def _lines(attack: Attack, site: Site) -> Iterator[Line]:
    yield from instance.between(attack, site)
    if any(site[victim].down for victim in attack.victims):
        for router in instance.routers(site):  # it says that a host is down
            for address in router.ipv4:
                yield Line(address, instance.source(attack, site), protocol="icmp")


def _ports(attack: Attack) -> str:
    ports = instance.text(attack, "ports")
    if not PORT_LIST.fullmatch(ports):
        raise LabError(f"{attack.name}: ports is {ports!r}: give ports and ranges, as 22,80,8000-8100")
    return ports


def _nmap(attack: Attack, site: Site, run: Path, *how: str) -> Iterator[Line]:
    yield from _lines(attack, site)
    nmap = (instance.program("nmap", "nmap"), "-n", "-Pn", *how, "-p", _ports(attack))
    instance.call(attack, run, (*nmap, *instance.targets(attack, site)))


def scan_syn(attack: Attack, site: Site, run: Path) -> Iterator[Line]:
    """Half open: SYN, and a reset for every answer."""
    return _nmap(attack, site, run, "-sS", "-T4", "--max-rate", str(instance.whole(attack, "rate")))


def scan_connect(attack: Attack, site: Site, run: Path) -> Iterator[Line]:
    """Whole connections."""
    return _nmap(attack, site, run, "-sT", "-T4", "--max-rate", str(instance.whole(attack, "rate")))


def scan_udp(attack: Attack, site: Site, run: Path) -> Iterator[Line]:
    """Datagrams: no answer, an answer, or ICMP. A kernel sends one ICMP a second, so that this scan takes its time."""
    retries = str(int(instance.number(attack, "retries")))
    return _nmap(attack, site, run, "-sU", "-T4", "--max-retries", retries, "--max-rate", str(instance.whole(attack, "rate")))


def scan_version(attack: Attack, site: Site, run: Path) -> Iterator[Line]:
    """Ask every open port what it is."""
    intensity = str(int(instance.number(attack, "intensity")))
    return _nmap(attack, site, run, "-sV", "-T4", "--version-intensity", intensity)


def scan_slow(attack: Attack, site: Site, run: Path) -> Iterator[Line]:
    """A port now and then, in random order, to stay below a counter's threshold."""
    delay = f"{instance.whole(attack, 'delay_ms')}ms"
    return _nmap(attack, site, run, "-sS", "-T2", "--scan-delay", delay, "--max-scan-delay", delay, "--max-retries", "0")


def scan_masscan(attack: Attack, site: Site, run: Path) -> Iterator[Line]:
    """SYNs from a stack of the tool's own, in random order over all victims and ports."""
    yield from _lines(attack, site)
    source = instance.source(attack, site)
    first, *others = instance.targets(attack, site)
    interface, gateway = route(first)
    if any(route(other) != (interface, gateway) for other in others) or (others and not gateway):
        raise LabError(f"{attack.name}: masscan sends all to one neighbour: give victims behind the router, or one alone")
    if not gateway:
        gateway = first
    low, high = SOURCE_PORTS
    own = ("--adapter", interface, "--adapter-ip", source, "--adapter-port", f"{low}-{high}", "--router-mac", hardware(gateway))
    rate = ("--rate", str(instance.whole(attack, "rate")), "--wait", "2", "--seed", str(attack.seed % 2**31))
    masscan = instance.program("masscan", "masscan")
    argv = (masscan, *own, *rate, "-p", _ports(attack), *instance.targets(attack, site))
    # it waits for a last packet before it looks at its own clock, on a quiet wire for ever
    probes = count(_ports(attack)) * len(attack.victims)
    instance.call(attack, run, argv, seconds=probes / instance.whole(attack, "rate") + MASSCAN_S)


def count(ports: str) -> int:
    """How many ports a list of ports and ranges names."""
    ranges = (part.partition("-") for part in ports.split(","))
    return sum(int(last or first) - int(first) + 1 for first, _, last in ranges)


MASSCAN_S = 5.0
"""For beginning, and for the answers to its last probes."""

SOURCE_PORTS = (61000, 61255)
"""Above what Linux gives to connections (32768 to 60999), as masscan's manual advises; a power of two, as it demands."""


def route(address: str) -> tuple[str, str]:
    """The interface and the gateway (nothing, if none is needed) towards an address; LabError where there is no way."""
    told = _ip("route", "get", address)
    interface, gateway = re.search(r" dev (\S+)", told), re.search(r" via (\S+)", told)
    if interface is None:
        raise LabError(f"there is no route to {address}")
    return interface[1], gateway[1] if gateway else ""


def hardware(neighbour: str) -> str:
    """The hardware address of a neighbour, asked for with a ping if it is not known yet."""
    for _ in range(2):
        found = re.search(r" lladdr (\S+)", _ip("neighbour", "show", neighbour))
        if found:
            return found[1].replace(":", "-")
        subprocess.run(("ping", "-c", "1", "-W", "1", neighbour), capture_output=True, check=False)
    raise LabError(f"{neighbour} has no hardware address: is it up?")


def _ip(*words: str) -> str:
    return subprocess.run(("ip", *words), capture_output=True, text=True, check=False).stdout


NMAP = (("nmap",), ("nmap",))
KINDS = (
    Kind("scan_syn", "PortScan", *NMAP, PORTS, scan_syn, "half-open connections to many ports", quiet=True),
    Kind("scan_connect", "PortScan", *NMAP, PORTS, scan_connect, "connections to many ports", quiet=True),
    Kind(
        "scan_udp",
        "PortScan",
        *NMAP,
        {"ports": UDP_PORTS, "rate": 50, "retries": 1},
        scan_udp,
        "datagrams to many ports",
        quiet=True,
    ),
    Kind(
        "scan_version",
        "PortScan",
        *NMAP,
        {"ports": "1-1024", "intensity": 5},
        scan_version,
        "what runs behind the ports",
        quiet=True,
    ),
    Kind(
        "scan_slow",
        "PortScan",
        *NMAP,
        {"ports": "20-25,53,80,110,135,139,143,443,445,993,995,1433,3306,3389,5432,5900,8080", "delay_ms": 1500},
        scan_slow,
        "a port now and then",
        quiet=True,
    ),
    Kind(
        "scan_masscan",
        "PortScan",
        ("masscan",),
        ("masscan",),
        PORTS,
        scan_masscan,
        "SYNs to many ports of many hosts",
        quiet=True,
    ),
)
