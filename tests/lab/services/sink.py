"""The other end of what a stand-in sends: takes whatever comes, and answers as many random bytes as were asked for.

Over HTTP (`GET /any?n=400`, `POST /any?n=0`), with TLS or without, and over plain connections in frames. It runs nothing,
stores nothing, and everything is bounded: the length of requests and answers, the waits, the life of a connection and the
number of them. A file that is started by its path, so it imports nothing of the laboratory: c2.py, drop.py and tunneldns.py
start it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import ssl
import struct
import sys
from collections.abc import Awaitable, Callable

FRAME = struct.Struct("!IIH")
"""Bytes that follow, bytes wanted back, milliseconds to wait before these."""
LONGEST_ANSWER_BYTES = 8_000_000
LONGEST_REQUEST_BYTES = 64_000_000
LONGEST_DELAY_MS = 60_000
LONGEST_HEAD_BYTES = 16_384
LIFE_S = 1800.0
"""Of one connection: longer than a run takes."""
MOST_CONNECTIONS = 500
PIECE_BYTES = 65_536

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer requests on one connection until it is closed or no more is kept."""
    while True:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return
        length = re.search(rb"\r\nContent-Length: *(\d{1,9})\r\n", head, re.IGNORECASE)
        if length is not None and not await _thrown_away(reader, int(length[1])):
            return
        wanted = re.search(rb"[?&]n=(\d{1,8})(?:\D|$)", head.split(b"\r\n", 1)[0])
        size = min(int(wanted[1]), LONGEST_ANSWER_BYTES) if wanted else 0
        kept = b"\r\nconnection: keep-alive\r\n" in head.lower()
        status = b"200 OK" if size else b"204 No Content"
        told = b"Content-Type: application/octet-stream\r\nContent-Length: %d\r\n" % size if size else b""
        ends = b"keep-alive" if kept else b"close"
        writer.write(b"HTTP/1.1 %b\r\nServer: nginx\r\n%bConnection: %b\r\n\r\n" % (status, told, ends))
        await _answered(writer, size)
        if not kept:
            return


async def frames(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take frames, and send what each asks for."""
    while True:
        try:
            length, wanted, delay_ms = FRAME.unpack(await reader.readexactly(FRAME.size))
        except asyncio.IncompleteReadError:
            return
        if not await _thrown_away(reader, length):
            return
        await asyncio.sleep(min(delay_ms, LONGEST_DELAY_MS) / 1000)
        await _answered(writer, min(wanted, LONGEST_ANSWER_BYTES))


async def _thrown_away(reader: asyncio.StreamReader, length: int) -> bool:
    """Read so many bytes; False when they are too many, or do not come."""
    if length > LONGEST_REQUEST_BYTES:
        return False
    while length > 0:
        piece = await reader.read(min(length, PIECE_BYTES))
        if not piece:
            return False
        length -= len(piece)
    return True


async def _answered(writer: asyncio.StreamWriter, size: int) -> None:
    while size > 0:
        now = min(size, PIECE_BYTES)
        writer.write(os.urandom(now))
        await writer.drain()
        size -= now
    await writer.drain()


class Sink:
    """Servers of one talk each, with their connections counted together."""

    def __init__(self) -> None:
        self._open = 0

    async def listen(self, talk: Talk, address: str, port: int, tls: ssl.SSLContext | None = None) -> asyncio.Server:
        """Listen at one address and port."""

        async def bounded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if self._open >= MOST_CONNECTIONS:
                writer.close()
                return
            self._open += 1
            try:
                async with asyncio.timeout(LIFE_S):
                    await talk(reader, writer)
            except (OSError, TimeoutError):  # the other end went away, or stayed too long
                pass
            finally:
                self._open -= 1
                writer.close()

        return await asyncio.start_server(bounded, address, port, ssl=tls, limit=LONGEST_HEAD_BYTES)


async def serve(given: argparse.Namespace) -> None:
    """Listen at everything that was asked for, until ended."""
    sink, tls = Sink(), None
    if given.certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(given.certificate, given.key)
    for address in given.address:
        for port in given.http:
            await sink.listen(http, address, port)
        for port in given.https:
            await sink.listen(http, address, port, tls)
        for port in given.frames:
            await sink.listen(frames, address, port)
    sys.stdout.write("listening\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


def main() -> None:
    """Read the addresses and ports from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", action="append", required=True)
    for talk in ("http", "https", "frames"):
        parser.add_argument(f"--{talk}", type=int, action="append", default=[], metavar="PORT")
    parser.add_argument("--certificate")
    parser.add_argument("--key")
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
