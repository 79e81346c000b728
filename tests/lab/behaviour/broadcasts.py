"""What machines call into their network by themselves: mDNS, SSDP, LLMNR, NetBIOS names. Mostly nobody answers.

The messages are those that Windows, macOS, Linux and printers send; packets go to groups and to the broadcast address
of the host's own network, so they end at its switch.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Mapping
from random import Random

from ..site import Host, LabError, Site, Value
from .activity import whole
from .dns import AAAA, A, question
from .tools import Tools

PTR, ANY_CLASS_IN = 12, 1
NETBIOS_NAME_QUERY = 0x0110
"""Flags of a broadcast name query: recursion desired, broadcast (RFC 1002, 4.2.12)."""
REPEATS, REPEAT_S = 3, 0.75
"""NetBIOS asks three times in 750 ms steps (RFC 1002, 4.1.1.1 BCAST_REQ_RETRY)."""


async def noise(host: Host, site: Site, chance: Random, given: Mapping[str, Value], tools: Tools) -> None:
    """Send one of each kind, in rounds."""
    kinds = given["kinds"]
    assert isinstance(kinds, list)
    for kind in kinds:
        if kind not in KINDS:
            raise LabError(f"there is no noise {kind!r}: there are {', '.join(KINDS)}")
    for _ in range(whole(given["rounds"])):
        for kind in kinds:
            await KINDS[kind](host, site, chance)
            await tools.think(chance, 20.0)


async def _mdns(host: Host, site: Site, chance: Random) -> None:
    """A search for services over both families, from port 5353 as RFC 6762 wants it."""
    service = chance.choice(("_ipp._tcp", "_googlecast._tcp", "_airplay._tcp", "_services._dns-sd._udp", "_smb._tcp"))
    message = question(0, f"{service}.local", PTR)
    _send(_plug(host, 5353), message, ("224.0.0.251", 5353))
    if host.ipv6:
        _send(_plug(host, 5353, ipv6=True), message, ("ff02::fb", 5353))


async def _ssdp(host: Host, site: Site, chance: Random) -> None:
    """M-SEARCH, as Windows and Chrome send it: some of the same from one port."""
    target = chance.choice(("urn:dial-multiscreen-org:service:dial:1", "ssdp:all", "upnp:rootdevice"))
    lines = ("M-SEARCH * HTTP/1.1", "HOST: 239.255.255.250:1900", 'MAN: "ssdp:discover"', "MX: 1", f"ST: {target}", "", "")
    with _plug(host, 0) as plug:
        for turn in range(chance.choice((1, 2, 4))):
            if turn:
                await asyncio.sleep(1.0)
            plug.sendto("\r\n".join(lines).encode(), ("239.255.255.250", 1900))


async def _llmnr(host: Host, site: Site, chance: Random) -> None:
    """A name of one label, asked twice in 100 ms (RFC 4795, 2.7), both families."""
    name = chance.choice(("wpad", "printer", "nas", "isatap", host.name + "-old"))
    for kind in (A, AAAA):
        message = question(chance.getrandbits(16), name, kind).replace(b"\x01\x00", b"\x00\x00", 1)  # no recursion in LLMNR
        with _plug(host, 0) as plug:
            plug.sendto(message, ("224.0.0.252", 5355))
            await asyncio.sleep(0.1)
            plug.sendto(message, ("224.0.0.252", 5355))


async def _netbios(host: Host, site: Site, chance: Random) -> None:
    """A name query to everybody, from port 137 to port 137."""
    name = chance.choice(("WPAD", "WORKGROUP", "FILES", "PRINTER"))
    message = netbios_query(chance.getrandbits(16), name)
    network = host.ipv4[0].rpartition(".")[0]  # the laboratory's networks are /24
    with _plug(host, 137) as plug:
        for turn in range(REPEATS):
            if turn:
                await asyncio.sleep(REPEAT_S)
            plug.sendto(message, (f"{network}.255", 137))


def netbios_query(number: int, name: str) -> bytes:
    """A NetBIOS name query (RFC 1002, 4.2.12): the name padded to 16 bytes, each written as two letters."""
    padded = name.upper().ljust(15)[:15].encode() + b"\0"
    letters = bytes(letter for byte in padded for letter in (65 + (byte >> 4), 65 + (byte & 15)))
    head = struct.pack("!HHHHHH", number, NETBIOS_NAME_QUERY, 1, 0, 0, 0)
    return head + bytes([len(letters)]) + letters + b"\0" + struct.pack("!HH", 0x20, ANY_CLASS_IN)  # type NB


def _plug(host: Host, port: int, *, ipv6: bool = False) -> socket.socket:
    """A socket from the host's own address, that may broadcast and share its port."""
    plug = socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
    plug.setblocking(False)
    plug.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    plug.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if ipv6:
        index = next((number for number, name in socket.if_nameindex() if name != "lo"), 0)
        plug.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        plug.bind(("::", port))
    else:
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        plug.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(host.ipv4[0]))
        plug.bind((host.ipv4[0], port))
    return plug


def _send(plug: socket.socket, message: bytes, to: tuple[str, int]) -> None:
    with plug:
        plug.sendto(message, to)


KINDS = {"mdns": _mdns, "ssdp": _ssdp, "llmnr": _llmnr, "netbios": _netbios}
