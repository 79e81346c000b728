"""Whether anything in a network could reach beyond it: looked at before every run, which is refused when it could.

A world starts with an empty network namespace and everything in it is made by network.py, so that nothing leads out by
construction. This says so of the network as it is: interfaces, routes, and a connection that must find no way. Called by
network.py.
"""

from __future__ import annotations

import errno
import json
import socket
import subprocess
import time
from collections.abc import Collection, Mapping
from typing import cast

from . import world
from .site import LabError

ELSEWHERE = ("192.88.99.1", 9)
"""An address that was public once (6to4 relays, withdrawn by RFC 7526), and the discard port."""

PROBE_S = 1.0
PROBES = 10
"""How long a probe may go unanswered, and how many may: links lose their share, and delay the router's answer."""
PAUSE_S = 2.5
"""After an unanswered one. A Linux router gives a host one token a second for such answers, and takes two for each (one
in ip_error, one in icmp_send, of the same bucket): who asks once a second is never answered again."""

NO_WAY = (errno.ENETUNREACH, errno.EHOSTUNREACH)

LOOPBACK = "lo"

NOWHERE = ("unreachable", "blackhole", "prohibit", "throw")
"""Routes that lead to an error."""

Row = Mapping[str, object]


def refuse_if_open(interfaces: Mapping[str, Collection[str]], gateways: Collection[str]) -> None:
    """LabError when one of the namespaces, or the world's own, could reach anything but the others.

    `interfaces` are those that the laboratory made, by namespace. `gateways` are the router's addresses: the only ones that a
    default route of a host may name, and nothing else has one.
    """
    world.refuse_outside()
    for name in ("", *interfaces):
        for link in _told(name, "link", "show"):
            _refuse_link(name, link, interfaces.get(name, ()))
        for family in ("-4", "-6"):
            for route in _told(name, family, "route", "show", "table", "all"):
                _refuse_route(name, route, gateways)
    for name in interfaces:
        world.within(name, lambda name=name: _refuse_way(name))  # type: ignore[misc]  # mypy infers no default's type


def _refuse_link(namespace: str, link: Row, made: Collection[str]) -> None:
    """Refuse any interface that is up, is not the loopback and was not made by the laboratory."""
    name = str(link["ifname"])
    up = "UP" in cast("list[str]", link.get("flags", []))  # the kernel puts idle tunnels into new namespaces where it has them
    if up and name != LOOPBACK and name not in made:
        raise LabError(f"{namespace or 'the world'} has an interface {name} that is not the laboratory's: nothing is started")


def _refuse_route(namespace: str, route: Row, gateways: Collection[str]) -> None:
    if route.get("dst") != "default" or route.get("type") in NOWHERE:
        return
    gateway = str(route.get("gateway", "nothing"))
    if gateway not in gateways or namespace in ("", "router", "switch"):
        raise LabError(f"{namespace or 'the world'} has a default route by way of {gateway}: nothing is started")


def _refuse_way(namespace: str) -> None:
    """Try to connect to somewhere else; LabError unless the answer is that there is no way."""
    for _ in range(PROBES):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.settimeout(PROBE_S)
            number = probe.connect_ex(ELSEWHERE)
        if number in NO_WAY:
            return
        if number != errno.EAGAIN:  # of a probe that timed out
            break
        time.sleep(PAUSE_S)
    else:
        raise LabError(f"{namespace} got no answer whether it has a way to {ELSEWHERE[0]}: nothing is started")
    told = errno.errorcode.get(number, "it is connected")
    raise LabError(f"{namespace} found a way to {ELSEWHERE[0]} ({told}): nothing is started")


def _told(namespace: str, *words: str) -> list[Row]:
    where = ["-n", namespace] if namespace else []
    done = subprocess.run(["ip", *where, "-j", *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"ip {' '.join(words)} in {namespace or 'the world'}: {done.stderr.strip()}")
    return cast("list[Row]", json.loads(done.stdout or "[]"))
