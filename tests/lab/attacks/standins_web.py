"""Stand-ins for attacks on web applications: requests with strings that look like injections, to a page that ignores them.

The strings are the textbook's and harmless: no database, script or file is behind the page. What is learned from is the
traffic: many requests to one page from one host, of unusual length, with the attacker's own browsing in between. Called by
the driver.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote, urlencode

from ..services.pages import pages
from ..services.service import names
from ..site import Attack, LabError, Line, Site, Value
from . import instance
from .kind import Kind
from .standins import AGENT, Ends, Pace, Web, chance, flag, share, whole_from_zero

TAKES: Mapping[str, Value] = {
    "requests": 60,
    "interval_s": 0.4,
    "jitter": 0.6,
    "browse": 0.3,
    "page": "/search",
    "field": "q",
    "method": "get",
    "name": "",
    "port": 0,
    "tls": False,
    "ipv6": False,
    "keep_alive": True,
    "agent": AGENT,
}
"""browse: share of the requests that are ordinary pages. name: the site's, the victim's first one if nothing is given. port: 0
for that of HTTP or HTTPS."""

_SQL = (
    "' OR '1'='1",
    "' OR 1=1 -- ",
    "1' ORDER BY {n} -- ",
    "1' UNION SELECT {columns} -- ",
    "1' AND (SELECT COUNT(*) FROM table{n}) > {n} -- ",
    "1' AND SUBSTRING(name,{n},1)='{letter}' -- ",
)
_SCRIPT = (
    "<script>alert({n})</script>",
    "\"><script>alert('{letter}{n}')</script>",
    "<img src=x onerror=alert({n})>",
    "<svg onload=alert({n})>",
    "<body onload=alert('{letter}')>",
)
_PATHS = ("etc/passwd", "etc/hosts", "var/log/syslog", "windows/win.ini", "boot.ini")


def sql_like(chance: random.Random) -> str:
    """A string as people type it into fields to see whether a database answers."""
    columns = ",".join(["NULL"] * chance.randint(1, 12))
    return chance.choice(_SQL).format(n=chance.randint(1, 40), letter=chance.choice("abcdefgh"), columns=columns)


def script_like(chance: random.Random) -> str:
    """A string with a script that only a careless page would give back."""
    return chance.choice(_SCRIPT).format(n=chance.randint(1, 9999), letter=chance.choice("abcdefgh"))


def path_like(chance: random.Random) -> str:
    """A path that climbs out of its folder."""
    return "../" * chance.randint(2, 10) + chance.choice(_PATHS)


def _sql(attack: Attack, site: Site, run: Path) -> Iterator[Line]:
    return _requests(attack, site, run, [sql_like(draw) for draw in _draws(attack)])


def _script(attack: Attack, site: Site, run: Path) -> Iterator[Line]:
    return _requests(attack, site, run, [script_like(draw) for draw in _draws(attack)])


def _path(attack: Attack, site: Site, run: Path) -> Iterator[Line]:
    return _requests(attack, site, run, [path_like(draw) for draw in _draws(attack)])


def _draws(attack: Attack) -> Iterator[random.Random]:
    draw = random.Random(attack.seed + 1)
    return (draw for _ in range(instance.whole(attack, "requests")))


def _requests(attack: Attack, site: Site, run: Path, strings: list[str]) -> Iterator[Line]:
    """Send every string to the page, with pages in between."""
    if len(attack.victims) != 1:
        raise LabError(f"{attack.name} has {len(attack.victims)} victims: this kind takes one")
    victim = site[attack.victims[0]]
    tls = flag(attack, "tls")
    ends = Ends.of(attack, site, victim, whole_from_zero(attack, "port") or (443 if tls else 80))
    page, field = instance.text(attack, "page"), instance.text(attack, "field")
    posts = instance.text(attack, "method", "get", "post") == "post"
    interval_s, jitter, browse = instance.number(attack, "interval_s"), share(attack, "jitter"), share(attack, "browse")
    name = instance.text(attack, "name") or names(victim, site)[0]
    web = Web(ends, tls=tls, keep_alive=flag(attack, "keep_alive"), agent=instance.text(attack, "agent"), name=name)
    yield ends.line()
    draw = chance(attack)
    pace = Pace(attack, draw)
    for string in strings:
        if draw.random() < browse:
            web.ask(draw.choice(pages(name)).path)
        else:
            sent = urlencode({field: string}, quote_via=quote)
            if posts:
                web.ask(page, sent.encode(), {"Content-Type": "application/x-www-form-urlencoded"})
            else:
                web.ask(f"{page}?{sent}")
        if not pace.wait(interval_s, jitter):
            break
    web.end(attack, run)


KINDS = (
    Kind(
        "web_sqli",
        "Web Attack - Sql Injection",
        (),
        (),
        TAKES,
        _sql,
        "requests with SQL-like strings to a page that ignores them, and browsing in between (stand-in)",
    ),
    Kind(
        "web_xss",
        "Web Attack - XSS",
        (),
        (),
        {**TAKES, "interval_s": 0.6, "browse": 0.4},
        _script,
        "requests with script-like strings to a page that ignores them, and browsing in between (stand-in)",
    ),
    Kind(
        "web_traversal",
        "Web Attack",
        (),
        (),
        {**TAKES, "field": "file", "interval_s": 0.2, "browse": 0.1, "keep_alive": False},
        _path,
        "requests with climbing paths to a page that ignores them, and browsing in between (stand-in)",
    ),
)
