"""Whether an attack could reach anything but the laboratory: asked before each instance, and nothing is sent where it could.

Three things are wanted, each enough by itself against an accident: a network namespace with a name and not the machine's, no
route but into the ranges that RFC 5737 and RFC 3849 keep for documentation, and hosts whose addresses are all of these.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from pathlib import Path

from ..site import LabError

RANGES4 = tuple(IPv4Network(text) for text in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"))
RANGES6 = (IPv6Network("2001:db8::/32"), IPv6Network("fe80::/10"), IPv6Network("ff00::/8"), IPv6Network("::1/128"))
"""The documentation range, and what never leaves a link or a host."""

UNKNOWN = (0, 0)
GATEWAY = 0x2
"""RTF_GATEWAY of linux/route.h."""
REJECT = 0x200
"""RTF_REJECT: the kernel's own entry for "no route"."""


def refuse_if_open(addresses: Iterable[str], proc: Path = Path("/proc"), named: Path = Path("/run/netns")) -> None:
    """LabError when something outside of the laboratory could be reached from here, or an address is not the laboratory's."""
    own = _inode(proc / "self/ns/net")
    known = {_inode(door) for door in named.iterdir()} if named.is_dir() else set()
    if own == UNKNOWN or own not in known or own == _inode(proc / "1/ns/net"):
        raise LabError("attacks run in the namespaces of the laboratory only: start them with `python -m tests.lab run`")
    for way in ways_out(proc):
        raise LabError(f"attacks run where no route leads out, and {way} does: nothing was sent")
    for address in addresses:
        if not documentation(address):
            raise LabError(f"{address} is no address for documentation (RFC 5737, RFC 3849): nothing was sent")


def documentation(address: str) -> bool:
    """Whether an address can only be a laboratory's."""
    asked = ip_address(address)
    return any(asked in known for known in (RANGES4 if isinstance(asked, IPv4Address) else RANGES6[:1]))


def ways_out(proc: Path = Path("/proc")) -> Iterator[str]:
    """Name the routes that lead out of the documentation ranges. A default route is one, unless its gateway is inside."""
    for line in (proc / "self/net/route").read_text("ascii").splitlines()[1:]:
        _, to, gateway, flags, _, _, _, mask = line.split()[:8]
        network = IPv4Network(f"{_address4(to)}/{_address4(mask)}")
        through = _address4(gateway)
        if int(flags, 16) & GATEWAY and not any(through in known for known in RANGES4):
            yield f"the route to {network} by {through}"
        elif not int(flags, 16) & GATEWAY and not any(network.subnet_of(known) for known in RANGES4):
            yield f"the route to {network}"
    table = proc / "self/net/ipv6_route"  # not there where the kernel has no IPv6
    for line in table.read_text("ascii").splitlines() if table.exists() else ():
        to, prefix, _, _, gateway, _, _, _, flags, _ = line.split()[:10]
        whither = IPv6Network((bytes.fromhex(to), int(prefix, 16)))
        by = IPv6Address(bytes.fromhex(gateway))
        if int(flags, 16) & REJECT:
            continue
        if int(flags, 16) & GATEWAY and not any(by in known for known in RANGES6):
            yield f"the route to {whither} by {by}"
        elif not int(flags, 16) & GATEWAY and not any(whither.subnet_of(known) for known in RANGES6):
            yield f"the route to {whither}"


def open_connections(addresses: Iterable[str], proc: Path = Path("/proc")) -> int:
    """How many TCP connections of this namespace with these addresses may still send something."""
    wanted = {_written(address) for address in addresses}
    states: list[str] = []
    for name in ("tcp", "tcp6"):
        table = proc / "self/net" / name
        if table.exists():
            rows = (line.split() for line in table.read_text("ascii").splitlines()[1:])
            states += [row[3] for row in rows if row[2].partition(":")[0] in wanted]
    return sum(state not in OVER for state in states)


OVER = {"06", "07", "0A"}
"""TIME_WAIT, CLOSE and LISTEN of net/tcp_states.h."""


def _written(address: str) -> str:
    """An address as /proc/net/tcp writes it: words of 32 bits in the machine's order."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    packed = socket.inet_pton(family, address)
    return "".join(f"{word:08X}" for (word,) in struct.iter_unpack("=I", packed))


def _address4(hexadecimal: str) -> IPv4Address:
    return IPv4Address(struct.pack("=I", int(hexadecimal, 16)))


def _inode(path: Path) -> tuple[int, int]:
    """Which namespace this is; none, where it may not be asked (process 1 of a container's host)."""
    try:
        found = os.stat(path)
    except OSError:
        return UNKNOWN
    return (found.st_dev, found.st_ino)
