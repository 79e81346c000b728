"""netseq's own traffic with Zeek, so that it is never scored: an alert about the alerts would go round for ever.

A sensor that captures on the interface over which it talks to Zeek, or a Zeek that watches it, sees those connections. From
the ZeroMQ addresses in the settings come the hosts and ports; `capture_filter` keeps them out of a capture, `is_own` finds
them among flows of any source. Zeek's own nodes use the same ports, so their traffic is left out with it. The service calls
both.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.addresses import halves
from sensor.schema import TCP

ADDRESS = re.compile(r"tcp://(?P<host>\[[0-9A-Fa-f:.]+\]|[^:/\[\]]+):(?P<port>\d{1,5})")
EVERYWHERE = {"*", "0.0.0.0", "[::]", "::"}  # noqa: S104  # what ZeroMQ calls all of a machine's addresses


class Endpoint(NamedTuple):
    """One end of a ZeroMQ connection that stays: `host` is an address, or "" for any."""

    host: str
    port: int


def endpoints(addresses: Iterable[str]) -> tuple[Endpoint, ...]:
    """Give the ends that ZeroMQ addresses such as tcp://127.0.0.1:5556 name; a name is looked up and gives all its addresses.

    An address that is not TCP has none. Where a socket listens on all addresses of the machine, the port alone counts. Raises
    ValueError for what is no address, or a name that nobody knows.
    """
    found: dict[Endpoint, None] = {}
    for address in addresses:
        if not address.startswith("tcp://"):
            continue
        match = ADDRESS.fullmatch(address)
        if match is None or not 0 < int(match["port"]) < 1 << 16:
            raise ValueError(f"not a ZeroMQ address: {address!r}; expected one such as tcp://127.0.0.1:5556")
        for host in _hosts(match["host"]):
            found[Endpoint(host, int(match["port"]))] = None
    return tuple(found)


def _hosts(name: str) -> list[str]:
    if name in EVERYWHERE:
        return [""]
    name = name.strip("[]")
    try:
        told = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ValueError(f"no address is known for {name!r}: {getattr(error, 'strerror', None) or error}") from error
    return [str(entry[4][0]).partition("%")[0] for entry in told]


def capture_filter(ends: Sequence[Endpoint]) -> str:
    """Give a tcpdump expression that is true of all packets but netseq's own; "" when there are none to leave out."""
    terms = [f"(tcp port {end.port}{f' and host {end.host}' if end.host else ''})" for end in ends]
    return f"not ({' or '.join(terms)})" if terms else ""


def is_own(flows: NDArray[np.void], ends: Sequence[Endpoint]) -> NDArray[np.bool_]:
    """Tell which FLOW rows are netseq's own connections, by either of their sides."""
    own = np.zeros(len(flows), np.bool_)
    for end in ends:
        for side in ("src", "dst"):
            here = flows[f"{side}_port"] == end.port
            if end.host:
                hi, lo = halves(end.host)
                here &= (flows[f"{side}_hi"] == hi) & (flows[f"{side}_lo"] == lo)
            own |= here
    own &= flows["protocol"] == TCP
    return own
