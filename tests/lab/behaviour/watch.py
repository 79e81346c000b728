"""Hosts asked whether they are there: monitoring that calls at every host each minute, a ping, programs that call the dead.

Monitoring is the beacon that every network has, and which a detector must get used to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from random import Random

from ..services.service import names
from ..site import Host, Site, Value
from .activity import number, whole
from .http import Browser, Connection
from .tools import TROUBLE, FailedError, Tools, favourite, leave

AT_ONCE = 6
"""Hosts that a monitor asks at the same time."""
SAYS_FIRST = {"ssh": 22, "ftp": 21, "mail": 25}
"""Services whose server speaks first: its line is the sign of life."""
ONLY_OPENS = {"sql": 5432, "smb": 445}
"""Services that wait for the client: that they accept is enough."""
MONITOR = "check_http/v2.3.3 (monitoring-plugins 2.3.3)"
HEALTH_PORT = 9100
"""Where services/web.py answers it."""
DEAD_S = 3.2
"""Per try: the SYN and two more (after 1 and 3 seconds) are sent."""


async def monitor(host: Host, site: Site, chance: Random, given: Mapping[str, Value], tools: Tools) -> None:
    """Ask every host, in the same order each time; a round begins every_s after the one before it began."""
    named = given["hosts"]
    assert isinstance(named, list)
    asked = [site[name] for name in named] or [one for one in site.hosts if one.network == "inside" and one.kind != "router"]
    asked = [one for one in asked if one.name != host.name]
    loop = asyncio.get_running_loop()
    begun = loop.time()
    for turn in range(whole(given["rounds"])):
        await asyncio.sleep(max(0.0, begun + turn * tools.real_s(number(given["every_s"])) - loop.time()))
        gate = asyncio.Semaphore(AT_ONCE)
        calls = [_call(one, bool(given["ping"]), bool(given["ports"]), tools, gate) for one in asked]
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(outcome, BaseException) and not isinstance(outcome, TROUBLE):
                raise outcome  # a host that is down is what monitoring is for; anything else is not


async def _call(one: Host, echo: bool, ports: bool, tools: Tools, gate: asyncio.Semaphore) -> None:
    """At one host: an echo, and the first of its services that can be asked."""
    async with gate:
        if echo:
            await tools.tool(["ping", "-n", "-q", "-c", "1", "-W", "1", one.ipv4[0]], within_s=5.0)
        if ports and (question := sign_of_life(one)) is not None:
            await question(one, tools)


def sign_of_life(one: Host) -> Callable[[Host, Tools], Awaitable[None]] | None:
    """How to ask a host for one of its services; None when it has none that can be asked."""
    if "health" in one.services:
        return _health
    if "https" in one.services:
        return _front_page
    ports = [(SAYS_FIRST | ONLY_OPENS)[service] for service in one.services if service in SAYS_FIRST or service in ONLY_OPENS]
    if not ports:
        return None

    async def opens(one: Host, tools: Tools) -> None:
        reader, writer = await tools.connect(one.ipv4[0], ports[0])
        try:
            if ports[0] in SAYS_FIRST.values():
                async with asyncio.timeout(5.0):
                    await reader.readline()
        finally:
            await leave(writer)

    return opens


async def _health(one: Host, tools: Tools) -> None:
    address = one.ipv4[0]
    async with Connection(tools, address, address, Browser(MONITOR, kept=False), tls=False, port=HEALTH_PORT) as line:
        await line.get("/metrics")


async def _front_page(one: Host, tools: Tools) -> None:
    name = names(one, tools.site)[-1]
    async with Connection(tools, one.ipv4[0], name, Browser(MONITOR, kept=False), tls=True) as line:
        await line.get("/", method="HEAD")


async def dead(host: Host, site: Site, chance: Random, given: Mapping[str, Value], tools: Tools) -> None:
    """Connect to a host that is down (or to a closed port of one that is up), and again: no answer is what is expected."""
    wanted = str(given["host"])
    down = [site[wanted]] if wanted else [one for one in site.hosts if one.down]
    if not down:
        raise FailedError("no host is down")
    one = favourite(chance, tools.liked(down))
    address = await tools.reach(one)
    for turn in range(whole(given["tries"])):
        if turn:
            await tools.think(chance, 15.0 * 2**turn)
        try:
            async with asyncio.timeout(DEAD_S):
                _, writer = await asyncio.open_connection(address, whole(given["port"]))
        except OSError:  # TimeoutError is one
            continue
        await leave(writer)


async def ping(host: Host, site: Site, chance: Random, given: Mapping[str, Value], tools: Tools) -> None:
    """Echo requests, one a second as ping sends them, to a host or to any that is up."""
    wanted, ipv6 = str(given["host"]), bool(given["ipv6"])
    one = site[wanted] if wanted else favourite(chance, tools.liked(_others(site, host, ipv6)))
    address = await tools.reach(one, ipv6=ipv6)
    count = max(1, whole(given["count"]))
    await tools.tool(["ping", "-n", "-q", "-c", str(count), "-W", "2", address], within_s=count + 5.0)


def _others(site: Site, host: Host, ipv6: bool) -> Sequence[Host]:
    others = [one for one in site.hosts if one.name != host.name and not one.down and (one.ipv6 or not ipv6)]
    others = [one for one in others if one.kind in ("office", "developer", "server", "internet")]
    if not others:
        raise FailedError("nobody to ping")
    return others
