"""The time asked for over NTP (RFC 5905, as a simple client: section 14). Nothing here sets a clock."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Mapping
from random import Random

from ..site import Host, Site, Value
from .activity import whole
from .tools import FailedError, Tools

PORT = 123
LENGTH = 48
CLIENT = 0x23
"""No leap second, version 4, mode 3 (client)."""
SERVER_MODE = 4
WAIT_S = 3.0
BETWEEN_S = 2.0
"""Of samples: real seconds, as a client's first burst (iburst)."""


async def ntp(host: Host, site: Site, chance: Random, given: Mapping[str, Value], tools: Tools) -> None:
    """Ask a server for the time, from one port, so many times."""
    address = await tools.reach(tools.offering("ntp", chance))
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as plug:
        plug.setblocking(False)
        plug.connect((address, PORT))
        for turn in range(whole(given["samples"])):
            if turn:
                await asyncio.sleep(BETWEEN_S)
            sent = chance.getrandbits(64)  # random, as RFC 9109's clients do: the server only hands it back
            plug.send(struct.pack("!B39xQ", CLIENT, sent))
            async with asyncio.timeout(WAIT_S):
                said = await loop.sock_recv(plug, 512)
            if len(said) < LENGTH or said[0] & 7 != SERVER_MODE or struct.unpack_from("!Q", said, 24)[0] != sent:
                raise FailedError("no answer of a time server")
