"""Which pages a web site of the laboratory has, and how big all is: a pure function of the site's name.

The web server writes its files from this, and clients read which objects a page has here instead of parsing HTML: they agree
without speaking. Sizes are those of SURGE (Barford and Crovella 1998: a lognormal body and a Pareto tail of exponent 1.1), with
smaller figures, so that a run's capture stays small; numbers of objects have a heavy tail too. Of the package mirror as well.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

PAGES = 12
"""On each site: enough that a visitor who goes on reading sees other flows."""
LARGEST_BYTES = 3_000_000
LARGEST_COUNT = 60
LEAST_BYTES = 3_500
"""Of a page's HTML: the links to its objects, at most 65 of them, must fit."""

_ENDINGS = ("jpg", "png", "css", "js", "webp", "woff2")


@dataclass(frozen=True, slots=True)
class Item:
    """A file of a web site."""

    path: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Page:
    """A page: its HTML, and what a browser fetches after it."""

    path: str
    size_bytes: int
    objects: tuple[Item, ...]


def pages(site: str) -> tuple[Page, ...]:
    """All pages of a site, the first of which is its front page, "/"."""
    chance = random.Random(f"pages of {site}")
    shared = [_item(chance, f"/s/{number}") for number in range(chance.randint(1, 5))]  # style sheets, scripts, logo
    made = []
    for number in range(PAGES):
        count = min(
            LARGEST_COUNT,
            int(chance.lognormvariate(1.5, 0.8)) if chance.random() < 0.93 else int(chance.paretovariate(1.1) * 12),
        )
        objects = tuple(_item(chance, f"/o/{number}-{one}") for one in range(count))
        path = "/" if number == 0 else f"/p/{number}.html"
        made.append(Page(path, 1_500 + int(min(150_000, chance.lognormvariate(9.0, 0.9))), (*shared, *objects)))
    return tuple(made)


def packages(mirror: str) -> tuple[Item, ...]:
    """The files of a package mirror: first the list of packages, which every update fetches, then the packages."""
    chance = random.Random(f"packages of {mirror}")
    lists = (Item("/debian/dists/stable/InRelease", 145_000), Item("/debian/dists/stable/main/Packages.xz", 380_000))
    sizes = [min(LARGEST_BYTES, int(chance.lognormvariate(11.2, 1.4))) for _ in range(80)]  # median 73 kB
    return (*lists, *(Item(f"/debian/pool/p{number}.deb", size) for number, size in enumerate(sizes)))


def _item(chance: random.Random, stem: str) -> Item:
    return Item(f"{stem}.{chance.choice(_ENDINGS)}", _size_bytes(chance))


def _size_bytes(chance: random.Random) -> int:
    """Draw a size: median 6 kB; one of 33 is from the tail, which starts at 100 kB."""
    if chance.random() < 0.97:
        return 120 + int(min(LARGEST_BYTES, chance.lognormvariate(8.7, 1.318)))
    return int(min(LARGEST_BYTES, 100_000 * chance.paretovariate(1.1)))
