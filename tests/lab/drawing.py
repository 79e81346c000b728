"""The parameters of activities and attacks, as a description gives them: a value, or a law from which each event draws one.

    pages = 4                                                a value
    client = { one_of = ["own", "curl"], weights = [9, 1] }  one of several
    every_s = { low = 30, high = 90 }                        anything between, evenly
    kilobytes = { median = 40, sigma = 1.2, most = 5000 }    lognormal, as sizes and lengths of human work are
    ipv6 = { share = 0.3 }                                   true so often
    name = { site_of = "internet", zipf = 1.0 }              a name of a kind of hosts: each host likes some best
    server = { host_of = "ssh" }                             a host with a service, in the same way

Favourites are a matter of the host and not of the run: the same people come to work on another day. Used by description.py
and schedule.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from typing import Any

import msgspec

from .nearest import nearest
from .site import LabError, Site, Value


class OneOf(msgspec.Struct, frozen=True):
    """One of several values, by weight."""

    one_of: list[Value]
    weights: list[float] = []


class Between(msgspec.Struct, frozen=True):
    """Evenly distributed, both ends included."""

    low: float
    high: float


class Lognormal(msgspec.Struct, frozen=True):
    """Heavy-tailed around a median, cut off at both ends."""

    median: float
    sigma: float
    least: float = 0.0
    most: float = math.inf


class Share(msgspec.Struct, frozen=True):
    """True with this probability."""

    share: float


class SiteOf(msgspec.Struct, frozen=True):
    """A name in the DNS of the hosts of a kind, or of one host."""

    site_of: str
    zipf: float = 1.0


class HostOf(msgspec.Struct, frozen=True):
    """A host with a service."""

    host_of: str
    zipf: float = 1.0


LAWS: tuple[type[msgspec.Struct], ...] = (OneOf, Between, Lognormal, Share, SiteOf, HostOf)

WIDEST_SIGMA = 10.0
"""Of a lognormal law: five of them make 10^21 times the median, and some hundreds more than a number can be."""

TASTE = 1.5
"""How far hosts differ in what they like: the sigma of the logarithm of their liking, beside which 1/rank^zipf is what is liked
by all. With this, ten of the standard laboratory's 60 sites get about 70 % of a host's visits, and two hosts share two of
these ten."""


@dataclass(frozen=True, slots=True)
class Names:
    """Whom a law can speak of."""

    sites: Mapping[str, tuple[str, ...]]
    """Names in the DNS, by kind of host and by host."""
    hosts: Mapping[str, tuple[str, ...]]
    """Hosts by service."""

    @classmethod
    def of(cls, site: Site) -> Names:
        """All of a site, but for what is down."""
        sites: dict[str, tuple[str, ...]] = {}
        hosts: dict[str, tuple[str, ...]] = {}
        for host in site.hosts:
            if not host.down:
                for key in dict.fromkeys((host.kind, host.name)):
                    sites[key] = (*sites.get(key, ()), *host.names)
                for service in host.services:
                    hosts[service] = (*hosts.get(service, ()), host.name)
        return cls(sites, hosts)


@dataclass(frozen=True, slots=True)
class _Choice:
    values: tuple[Value, ...]
    heights: tuple[float, ...]
    """Weights added up."""

    def draw(self, chance: Random) -> Value:
        at = chance.random() * self.heights[-1]
        return self.values[next(number for number, height in enumerate(self.heights) if at < height)]


@dataclass(frozen=True, slots=True)
class Given:
    """All parameters of a habit or of a rule for attacks: some fixed, some with a law."""

    usual: Mapping[str, Value]
    """Every parameter, as it is when nothing else is said."""
    laws: Mapping[str, msgspec.Struct]
    names: Names

    @classmethod
    def read(cls, given: Mapping[str, Any], takes: Mapping[str, Value], names: Names) -> Given:
        """Check the parameters of `takes` that are given; LabError for one whose sort or law is wrong."""
        fixed: dict[str, Value] = {}
        laws: dict[str, msgspec.Struct] = {}
        for key, told in given.items():
            if isinstance(told, dict):
                laws[key] = _law(key, told, takes[key], names)
            elif _fits(told, takes[key]):
                fixed[key] = float(told) if isinstance(takes[key], float) else told
            else:
                raise LabError(f"{key} is {told!r}: give a value like {takes[key]!r}")
        return cls({**takes, **fixed}, laws, names)

    def values(self, name: str) -> list[Value]:
        """What a parameter may be: all of it, or the ends where it lies between two; nothing where it names hosts or sites."""
        match self.laws.get(name):
            case None:
                return [self.usual[name]]
            case OneOf() as law:
                return list(law.one_of)
            case Between() as law:
                return [law.low, law.high]
            case Lognormal() as law:
                return [law.least, *([law.most] if math.isfinite(law.most) else [])]
            case Share():
                return [False, True]
        return []

    def of(self, host: str) -> Mapping[str, _Choice]:
        """What one host likes: of each law about sites and hosts, its own favourites."""
        return {key: _favourites(law, host, self.names) for key, law in self.laws.items() if isinstance(law, SiteOf | HostOf)}

    def draw(self, chance: Random, likes: Mapping[str, _Choice]) -> dict[str, Value]:
        """All parameters of one event of a host that likes this."""
        drawn = dict(self.usual)
        for key, law in self.laws.items():
            drawn[key] = likes[key].draw(chance) if key in likes else _drawn(law, chance, self.usual[key])
        return drawn


def _law(key: str, told: dict[str, Any], usual: Value, names: Names) -> msgspec.Struct:
    kinds = {field.name: law for law in LAWS for field in msgspec.structs.fields(law)[:1]}
    found = next((kinds[word] for word in told if word in kinds), None)
    if found is None:
        raise LabError(f"{key}: unknown law {', '.join(told) or 'of no word'}, {nearest(next(iter(told), ''), kinds)}")
    fields = [field.name for field in msgspec.structs.fields(found)]
    for word in told:
        if word not in fields:
            raise LabError(f"{key}: unknown key {word!r}, {nearest(word, fields)}")
    try:
        law = msgspec.convert(told, found)
    except msgspec.ValidationError as error:
        raise LabError(f"{key}: {error}".replace("`", "")) from error
    for value in _examples(key, law, names):
        number = isinstance(law, Between | Lognormal) and isinstance(usual, int | float) and not isinstance(usual, bool)
        if not number and not _fits(value, usual):
            raise LabError(f"{key} may become {value!r}: give values like {usual!r}")
    return law


def _examples(key: str, law: msgspec.Struct, names: Names) -> list[Value]:
    """What a law may give, as far as its sort goes; LabError where it can give nothing."""
    match law:
        case OneOf():
            if not law.one_of or len(law.weights) not in {0, len(law.one_of)} or min(law.weights, default=1.0) < 0:
                raise LabError(f"{key}: one_of needs values, and weights of at least 0 for each or none")
            if law.weights and sum(law.weights) == 0:
                raise LabError(f"{key}: not all weights of one_of can be 0")
            return law.one_of
        case Between() if law.low <= law.high:
            return [law.low]
        case Lognormal() if law.median > 0 and 0 <= law.sigma <= WIDEST_SIGMA and law.least <= law.most:
            return [law.median]
        case Share() if 0 <= law.share <= 1:
            return [True]
        case SiteOf():
            if law.site_of not in names.sites:
                raise LabError(f"{key}: no host of kind or name {law.site_of!r}, {nearest(law.site_of, names.sites)}")
            return [names.sites[law.site_of][0]]
        case HostOf():
            if law.host_of not in names.hosts:
                raise LabError(f"{key}: no host offers {law.host_of!r}, {nearest(law.host_of, names.hosts)}")
            return [names.hosts[law.host_of][0]]
    raise LabError(f"{key}: low is at most high, median more than 0, sigma from 0 to {WIDEST_SIGMA:g}, share between 0 and 1")


def _drawn(law: msgspec.Struct, chance: Random, usual: Value) -> Value:
    match law:
        case OneOf():
            return _Choice(tuple(law.one_of), tuple(accumulate(law.weights or [1.0] * len(law.one_of)))).draw(chance)
        case Between():
            return (
                chance.randint(round(law.low), round(law.high))
                if _whole(usual)
                else round(chance.uniform(law.low, law.high), 3)
            )
        case Lognormal():
            value = min(max(law.median * math.exp(chance.gauss(0.0, law.sigma)), law.least), law.most)
            return max(round(value), 1) if _whole(usual) else round(value, 3)
        case Share():
            return chance.random() < law.share
    raise TypeError(f"{law!r} is drawn from favourites")


def _favourites(law: SiteOf | HostOf, host: str, names: Names) -> _Choice:
    """Zipf's law over all hosts together, times this host's own liking."""
    if isinstance(law, SiteOf):
        known, what = names.sites[law.site_of], law.site_of
    else:
        known, what = tuple(name for name in names.hosts[law.host_of] if name != host) or names.hosts[law.host_of], law.host_of
    chance = Random(f"what {host} likes of {what}")
    likes = [math.exp(chance.gauss(0.0, TASTE)) / rank**law.zipf for rank in range(1, len(known) + 1)]
    return _Choice(known, tuple(accumulate(likes)))


def _fits(value: object, usual: Value) -> bool:
    if isinstance(usual, list):
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if isinstance(usual, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is type(usual)


def _whole(usual: Value) -> bool:
    return isinstance(usual, int)
