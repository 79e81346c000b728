"""netseq's own traffic with Zeek, so that it is never scored: an alert about the alerts would go round for ever.

A sensor that captures on the interface over which it talks to Zeek, or a Zeek that watches it, sees those connections. From
the ZeroMQ addresses in the settings come hosts and ports: never a port alone, for then whoever used it would be overlooked.
`capture_filter` keeps them out of a capture, `foreign` out of the flows of any source. Zeek's own nodes use the same ends, so
their traffic is left out with it. The service calls these.
"""

from __future__ import annotations

import array
import fcntl
import re
import socket
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.addresses import halves
from sensor.schema import TCP, FlowBatch

ADDRESS = re.compile(r"tcp://(?P<host>\[[0-9A-Fa-f:.]+\]|[^:/\[\]]+):(?P<port>\d{1,5})")
EVERYWHERE = {"*", "0.0.0.0", "[::]", "::"}  # noqa: S104  # what ZeroMQ calls all of a machine's addresses


SIOCGIFCONF = 0x8912
"""Asks Linux for the IPv4 addresses of all interfaces (netdevice(7))."""
IFREQ_BYTES, MOST_ADDRESSES = 40, 4096
"""Bytes of an answer (16 of a name, then a sockaddr in which the address begins at 4), and how many are asked for."""
IPV6_TABLE = Path("/proc/net/if_inet6")
"""The IPv6 addresses: one a line, in hex, in front."""


class Endpoint(NamedTuple):
    """The end of a connection that keeps its port."""

    host: str
    port: int


def endpoints(addresses: Iterable[str]) -> tuple[Endpoint, ...]:
    """Give the ends that ZeroMQ addresses such as tcp://127.0.0.1:5556 name; a name is looked up and gives all its addresses.

    An address that is not TCP has none. Where a socket listens on all addresses of the machine, they are those that its
    interfaces have now. Raises ValueError for what is no address, or a name that nobody knows.
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
        return _machines_own()
    name = name.strip("[]")
    try:
        told = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ValueError(f"no address is known for {name!r}: {getattr(error, 'strerror', None) or error}") from error
    return [str(entry[4][0]).partition("%")[0] for entry in told]


def _machines_own() -> list[str]:
    """Give the addresses of this machine's interfaces, of both families."""
    room = array.array("B", bytes(MOST_ADDRESSES * IFREQ_BYTES))
    place, length = room.buffer_info()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        told = fcntl.ioctl(asked.fileno(), SIOCGIFCONF, struct.pack("@iP", length, place))
    used = struct.unpack_from("@i", told)[0]
    entries = (room.tobytes()[at : at + IFREQ_BYTES] for at in range(0, used, IFREQ_BYTES))
    found = [socket.inet_ntop(socket.AF_INET, entry[20:24]) for entry in entries]
    if IPV6_TABLE.exists():  # it does not where IPv6 is switched off
        lines = IPV6_TABLE.read_text(encoding="ascii").splitlines()
        found += [socket.inet_ntop(socket.AF_INET6, bytes.fromhex(line.split()[0])) for line in lines]
    return found


def capture_filter(ends: Sequence[Endpoint]) -> str:
    """Give a tcpdump expression that is true of all packets but netseq's own; "" when there are none to leave out."""
    terms = [f"(tcp port {end.port} and host {end.host})" for end in ends]
    return f"not ({' or '.join(terms)})" if terms else ""


def is_own(flows: NDArray[np.void], ends: Sequence[Endpoint]) -> NDArray[np.bool_]:
    """Tell which FLOW rows are netseq's own connections, by either of their sides."""
    own = np.zeros(len(flows), np.bool_)
    for end in ends:
        hi, lo = halves(end.host)
        for side in ("src", "dst"):
            own |= (flows[f"{side}_port"] == end.port) & (flows[f"{side}_hi"] == hi) & (flows[f"{side}_lo"] == lo)
    own &= flows["protocol"] == TCP
    return own


def foreign(batch: FlowBatch, ends: Sequence[Endpoint]) -> tuple[FlowBatch, int]:
    """Give the batch without netseq's own connections, and how many those were."""
    own = is_own(batch.flows, ends)
    number = int(own.sum())
    if not number:
        return batch, 0
    kept = [int(place) for place in np.flatnonzero(~own)]
    uids = [batch.uids[place] for place in kept] if batch.uids else batch.uids
    labels = [batch.labels[place] for place in kept] if batch.labels else batch.labels
    details = [batch.details[place] for place in kept] if batch.details else batch.details
    statistics = None if batch.statistics is None else batch.statistics[kept]
    return FlowBatch(batch.flows[kept], uids, labels, details, statistics), number
