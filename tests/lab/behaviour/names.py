"""Names looked up for their own sake: by programs in the background, mistyped ones, names of services that are not there."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from ..services.service import names
from ..site import Host, Site, Value
from .activity import number, whole
from .dns import AAAA, A
from .tools import FailedError, Tools, favourite

LETTERS = "abcdefghijklmnopqrstuvwxyz"


async def resolve(host: Host, site: Site, chance: Random, given: Mapping[str, Value], tools: Tools) -> None:
    """Ask for some names, a share of which do not exist; that is no failure."""
    known = [name for one in site.hosts for name in names(one, site)]
    if not known or not tools.resolver.servers:
        raise FailedError("no host offers dns")
    liked = tools.liked(known)
    for _ in range(whole(given["names"])):
        missing = chance.random() < number(given["missing"])
        name = mistyped(chance, favourite(chance, liked), site.domain) if missing else favourite(chance, liked)
        if given["tcp"]:
            await tools.resolver.over_tcp(tools.resolver.servers[0], name, A)
            continue
        kinds = (A, AAAA) if given["ipv6"] else (A,)
        groups = [kinds] if tools.resolver.together else [(kind,) for kind in kinds]
        for group in groups:
            await tools.resolver.ask(name, group, must=False)
        await tools.think(chance, 5.0)


def mistyped(chance: Random, name: str, domain: str) -> str:
    """A name that does not exist: two letters wrong, the search domain put behind it, or a service that nobody offers."""
    drawn = chance.random()
    if drawn < 0.4:
        return f"{name}.{domain}"
    if drawn < 0.6:
        return f"{chance.choice(('wpad', 'isatap', '_ldap._tcp', 'autodiscover', 'lb._dns-sd._udp'))}.{domain}"
    first, dot, rest = name.partition(".")
    at = chance.randrange(len(first))
    return first[:at] + chance.choice(LETTERS) + chance.choice(LETTERS) + first[at + 1 :] + dot + rest
