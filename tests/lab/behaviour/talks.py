"""What lasts: a chat (IRC, RFC 2812), which is one connection through hours of few words, and a stream over UDP."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from random import Random

from ..services.lasting import CHANNELS, STREAM_PORT
from ..site import Host, Site, Value
from .activity import number, whole
from .tools import ANSWER_S, FailedError, Tools, leave

CHAT_PORT = 6667
WELCOME, TAKEN = b"001", b"433"
WORDS = (
    "yes",
    "no",
    "see you at lunch",
    "the build is green",
    "who has the printer's key?",
    "thanks",
    "which one?",
    "look at this",
)
RECEIVED_BYTES = 2048
LONGEST_S = 120.0
"""The server of streams sends no longer (services/stream_server.py), so no more is asked for."""


async def chat(host: Host, site: Site, chance: Random, given: Mapping[str, Value], tools: Tools) -> None:
    """Join a channel, say something now and then, answer the server's pings, and leave."""
    server = tools.offering("chat", chance)
    reader, writer = await tools.connect(await tools.reach(server), CHAT_PORT)
    in_order = False
    try:
        channel = chance.choice(CHANNELS)
        await _join(reader, writer, f"{tools.person.name[:4]}{chance.getrandbits(16):04x}", channel)
        until_s = tools.real_s(60.0 * number(given["minutes"]))
        listening = asyncio.ensure_future(_listen(reader, writer))
        try:
            async with asyncio.timeout(until_s):
                await asyncio.gather(listening, _speak(writer, channel, chance, number(given["every_s"]), tools))
        except TimeoutError:
            in_order = True
        writer.write(b"QUIT :see you\r\n")
    finally:
        await leave(writer, reset=not in_order)


async def _join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str, channel: str) -> None:
    writer.write(f"NICK {name}\r\nUSER {name} 0 * :{name}\r\n".encode())
    async with asyncio.timeout(ANSWER_S):
        while True:
            line = await reader.readuntil(b"\r\n")
            words = line.split()
            if line.startswith(b"PING"):
                writer.write(line.replace(b"PING", b"PONG", 1))
            elif words[1:2] == [TAKEN] or line.startswith(b"ERROR"):
                raise FailedError("the chat did not let us in")
            elif words[1:2] == [WELCOME]:
                break
    writer.write(f"JOIN {channel}\r\n".encode())


async def _listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        line = await reader.readuntil(b"\r\n")
        if line.startswith(b"PING"):
            writer.write(line.replace(b"PING", b"PONG", 1))


async def _speak(writer: asyncio.StreamWriter, channel: str, chance: Random, every_s: float, tools: Tools) -> None:
    while True:
        await tools.think(chance, every_s)
        writer.write(f"PRIVMSG {channel} :{chance.choice(WORDS)}\r\n".encode())


async def stream(host: Host, site: Site, chance: Random, given: Mapping[str, Value], tools: Tools) -> None:
    """Ask for a stream and take it to its end; FailedError when nothing came."""
    address = await tools.reach(tools.offering("stream", chance))
    seconds, rate = min(LONGEST_S, tools.real_s(60.0 * number(given["minutes"]))), number(given["packets_s"])
    loop = asyncio.get_running_loop()
    came = 0
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as plug:
        plug.setblocking(False)
        plug.connect((address, STREAM_PORT))
        plug.send(b"PLAY %.1f %.1f %d" % (seconds, rate, whole(given["packet_bytes"])))
        until = loop.time() + seconds + 2.0
        while came < int(seconds * rate):
            try:
                async with asyncio.timeout_at(until):
                    await loop.sock_recv(plug, RECEIVED_BYTES)
            except TimeoutError:
                break
            came += 1
    if not came:
        raise FailedError("no stream came")
