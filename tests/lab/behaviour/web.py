"""Web sites visited, small requests of programs, packages fetched: everything over HTTP and HTTPS.

Most of it is spoken here (http.py), some by curl, whose TLS, headers and ends of connections are another program's. Which
objects a page has is known from services.pages, as a browser knows it after it has read the page.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from functools import lru_cache
from random import Random

from ..services.pages import Item, Page, packages, pages
from ..services.service import names
from ..site import Host, Site, Value
from .activity import number, whole
from .http import BROWSERS, Browser, Connection, Response
from .tools import AUTHORITY, FailedError, Tools, favourite

MOST_PARALLEL = 6
"""Connections of a browser to one server (Firefox and Chrome over HTTP/1.1)."""
RESET, HALF_CLOSE = 0.12, 0.05
"""Shares of kept connections that end by a reset (a tab closed in the middle of TLS) and by a half-closed end."""
TOLD_SHARE = 0.2
"""Of an api's calls: those that bring something."""
CURL_S = 60.0

_pages = lru_cache(maxsize=64)(pages)


def sites(site: Site, service: str) -> list[str]:
    """All names of web sites, those of the outside first."""
    hosts = [host for host in site.offering(service) if not host.down]
    hosts.sort(key=lambda host: host.network != "outside")
    return [name for host in hosts for name in (host.names or names(host, site))]


async def browse(host: Host, site: Site, chance: Random, given: Mapping[str, Value], tools: Tools) -> None:
    """Visit a site: some pages, each with its objects over several connections, and time to read between them."""
    tls = bool(given["tls"])
    name = str(given["name"]) or _any(site, tls, chance, tools)
    visit = _Visit(name, chance, given, tools)
    wanted = [favourite(chance, _pages(name)) for _ in range(max(1, whole(given["pages"])))]
    if given["client"] == "curl":
        for turn, page in enumerate(wanted):
            if turn:
                await tools.think(chance, visit.think_s)
            await _curl(name, ["/" if not turn else page.path, *(one.path for one in page.objects)], tools, tls, visit)
        return
    address = await tools.address(name, ipv6=bool(given["ipv6"]))
    browser = Browser(BROWSERS[tools.habit % len(BROWSERS)], kept=bool(given["keep_alive"]))
    browser.cookie = f"visit={chance.getrandbits(64):016x}" if chance.random() < 0.5 else ""
    async with AsyncExitStack() as stack:
        lines = [
            await stack.enter_async_context(Connection(tools, address, name, browser, tls=tls)) for _ in range(visit.parallel)
        ]
        for turn, page in enumerate(wanted):
            if turn:
                await tools.think(chance, visit.think_s)
            await visit.page(page, lines)
        await visit.end(lines)


class _Visit:
    """One visit of a site."""

    def __init__(self, name: str, chance: Random, given: Mapping[str, Value], tools: Tools) -> None:
        self.name, self.chance, self.tools = name, chance, tools
        self.parallel = min(MOST_PARALLEL, max(1, whole(given["parallel"])))
        self.abort, self.think_s = number(given["abort"]), number(given["think_s"])
        self.seen: set[str] = set()

    async def page(self, page: Page, lines: Sequence[Connection]) -> None:
        """A page and those of its objects that are not in the browser's cache."""
        _must(await lines[0].get(page.path))
        new = [one for one in page.objects if one.path not in self.seen]
        self.seen.update(one.path for one in new)
        new.reverse()
        aborted = self.chance.random() < self.abort
        fetchers = [self._fetch(line, new, page, aborted) for line in lines[: max(1, min(len(lines), len(new)))]]
        for outcome in await asyncio.gather(*fetchers, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    async def _fetch(self, line: Connection, left: list[Item], page: Page, aborted: bool) -> None:
        while left:
            one = left.pop()
            at_most = max(1, one.size_bytes // 3) if aborted and not left else None
            got = await line.get(one.path, referer=f"https://{self.name}{page.path}", at_most=at_most)
            _must(got)

    async def end(self, lines: Sequence[Connection]) -> None:
        """Leave: in order, or as browsers do it."""
        for line in lines:
            drawn = self.chance.random()
            if drawn < HALF_CLOSE:
                await line.half_close()
            else:
                await line.end(reset=drawn < HALF_CLOSE + RESET)


async def _curl(name: str, paths: Sequence[str], tools: Tools, tls: bool, visit: _Visit) -> None:
    new = [path for place, path in enumerate(paths) if not place or path not in visit.seen]  # the page itself each time
    visit.seen.update(new)
    scheme = "https" if tls else "http"
    command = [
        "curl",
        "--no-progress-meter",
        "--show-error",
        "--fail",
        "--cacert",
        str(tools.run / AUTHORITY),
        "--max-time",
        str(int(CURL_S)),
    ]
    command += ["--parallel", "--parallel-max", str(visit.parallel)] if visit.parallel > 1 else []
    for path in new:
        command += ["--output", "/dev/null", f"{scheme}://{name}{path}"]
    await tools.tool(command, within_s=CURL_S + 5)


async def update(host: Host, site: Site, chance: Random, given: Mapping[str, Value], tools: Tools) -> None:
    """The lists of packages, and some packages, from the mirror: over one connection, as apt does it, or by curl."""
    mirror = tools.offering("repo", chance)
    name = names(mirror, site)[-1]
    files = packages(name)
    wanted = [*files[:2], *chance.sample(files[2:], min(len(files) - 2, whole(given["packages"])))]
    if given["client"] == "curl":
        command = ["curl", "--no-progress-meter", "--show-error", "--fail", "--max-time", str(int(CURL_S))]
        for one in wanted:
            command += ["--output", "/dev/null", f"http://{name}{one.path}"]
        await tools.tool(command, within_s=CURL_S + 5)
        return
    address = await tools.address(name)
    async with Connection(tools, address, name, Browser("Debian APT-HTTP/1.3 (2.6.1)"), tls=False) as line:
        for one in wanted:
            _must(await line.get(one.path))


async def api(host: Host, site: Site, chance: Random, given: Mapping[str, Value], tools: Tools) -> None:
    """A program that asks every now and then over a connection it keeps, with a little JSON."""
    tls = bool(given["tls"])
    name = str(given["name"]) or _any(site, tls, chance, tools)
    address = await tools.address(name, ipv6=bool(given["ipv6"]))
    async with Connection(tools, address, name, Browser("python-requests/2.31.0"), tls=tls) as line:
        for turn in range(whole(given["calls"])):
            if turn:
                await asyncio.sleep(tools.real_s(number(given["every_s"])) * chance.uniform(0.9, 1.1))
            if chance.random() < TOLD_SHARE:
                body = b'{"id": "%x"}' % chance.getrandbits(8 * int(min(4000, chance.lognormvariate(5.0, 1.0))))
                _must(await line.get("/api/events", method="POST", body=body))
            else:
                _must(await line.get(f"/api/items?after={chance.getrandbits(31)}"))


def _must(got: Response) -> None:
    if got.status != 200:
        raise FailedError(f"server said {got.status}")


def _any(site: Site, tls: bool, chance: Random, tools: Tools) -> str:
    names = sites(site, "https" if tls else "http")
    if not names:
        raise FailedError("no host offers a web site")
    return favourite(chance, tools.liked(names))
