"""The stream of the laboratory: sends datagrams that look like RTP (RFC 3550) to whoever asks, at the rate that is asked for.

A request is a datagram `PLAY seconds packets_per_second payload_bytes`, as `PLAY 10 50 1000`; it is cut down to what the
laboratory can carry. `STOP` ends it. Everything else is taken for somebody's own stream, and forgotten. A program of its own
that imports nothing of the laboratory, so that it starts at once.
"""

from __future__ import annotations

import asyncio
import random
import struct
import sys
from typing import cast

MOST_S, MOST_RATE, MOST_BYTES, MOST_LISTENERS = 120.0, 200.0, 1_200, 32
"""240 kB/s to each of them at most."""

Address = tuple[str, int]


class Stream(asyncio.DatagramProtocol):
    """All listeners, each with a task that sends to it."""

    def __init__(self) -> None:
        self._transport: asyncio.DatagramTransport | None = None
        self._listeners: dict[Address, asyncio.Task[None]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what datagrams are sent with."""
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: Address) -> None:
        """Begin or end a stream."""
        if data == b"STOP":
            if task := self._listeners.get(addr):
                task.cancel()
        elif (asked := request(data)) and addr not in self._listeners and len(self._listeners) < MOST_LISTENERS:
            task = asyncio.get_running_loop().create_task(self._play(addr, *asked))
            self._listeners[addr] = task
            task.add_done_callback(lambda _: self._listeners.pop(addr, None))

    async def _play(self, address: Address, seconds: float, rate: float, payload_bytes: int) -> None:
        loop = asyncio.get_running_loop()
        began, source = loop.time(), random.getrandbits(32)
        for number in range(int(seconds * rate)):
            await asyncio.sleep(max(0.0, began + number / rate - loop.time()))
            assert self._transport is not None
            head = struct.pack("!BBHII", 0x80, 96, number & 0xFFFF, int(number * 90_000 / rate) & 0xFFFF_FFFF, source)
            self._transport.sendto(head + random.randbytes(payload_bytes), address)


def request(data: bytes) -> tuple[float, float, int] | None:
    """Seconds, packets a second and bytes of payload that a datagram asks for, within bounds; None when it is no request."""
    words = data.split()
    if len(words) != 4 or words[0] != b"PLAY":
        return None
    try:
        seconds, rate, payload_bytes = float(words[1]), float(words[2]), int(words[3])
    except ValueError:
        return None
    if not (seconds > 0 and rate > 0 and payload_bytes >= 0):
        return None
    return min(seconds, MOST_S), min(rate, MOST_RATE), min(payload_bytes, MOST_BYTES)


async def _serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(Stream, local_addr=("::", port))
    await loop.create_future()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
