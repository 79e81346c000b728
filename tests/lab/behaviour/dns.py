"""A resolver as machines have it: asks the laboratory's DNS server over UDP, tries again, goes to TCP, keeps answers.

Written here, and not left to the C library, because twenty agents with a thread for each lookup would cost more than the
lookups. Messages are those of RFC 1035; only what an address lookup needs is read.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Sequence
from random import SystemRandom
from typing import NamedTuple

A, AAAA = 1, 28
NO_ERROR, NO_SUCH_NAME = 0, 3
PORT = 53
HEADER = struct.Struct("!HHHHHH")
RECORD = struct.Struct("!HHIH")
TRIES_S = (2.0, 4.0)
"""How long each try waits; the C library's are 5 seconds, too long for a day of 20 minutes."""
KEPT_S = (3.0, 60.0)
"""Answers are kept as long as they say, and between these: the day is compressed, and the times in answers are not."""


class UnresolvedError(Exception):
    """A name has no address; the text is the reason."""


class Answer(NamedTuple):
    """What a server said to one question."""

    number: int
    code: int
    cut: bool
    """It did not fit: ask again over TCP."""
    addresses: tuple[str, ...]
    kept_s: float


def question(number: int, name: str, kind: int) -> bytes:
    """A query for one name; UnresolvedError when it is no name (RFC 1035, 2.3.4)."""
    labels = name.rstrip(".").split(".")
    try:
        encoded = [label.encode("ascii") for label in labels]
    except UnicodeEncodeError:
        raise UnresolvedError("not a name") from None
    if not all(0 < len(label) < 64 for label in encoded) or len(name) > 253:
        raise UnresolvedError("not a name")
    body = b"".join(bytes([len(label)]) + label for label in encoded)
    return HEADER.pack(number, 0x0100, 1, 0, 0, 0) + body + b"\0" + struct.pack("!HH", kind, 1)  # recursion desired, class IN


def answer(message: bytes) -> Answer:
    """Read a response; UnresolvedError when it is none."""
    try:
        number, flags, questions, records, _, _ = HEADER.unpack_from(message)
        if not flags & 0x8000:
            raise UnresolvedError("a broken answer")
        at = HEADER.size
        for _ in range(questions):
            at = _after_name(message, at) + 4
        addresses, kept_s = [], KEPT_S[1]
        for _ in range(records):
            at = _after_name(message, at)
            kind, _, ttl, length = RECORD.unpack_from(message, at)
            at += RECORD.size
            data = message[at : at + length]
            if len(data) != length:
                raise UnresolvedError("a broken answer")
            if kind in (A, AAAA):
                addresses.append(socket.inet_ntop(socket.AF_INET if kind == A else socket.AF_INET6, data))
            kept_s = min(kept_s, float(ttl))
            at += length
    except (struct.error, IndexError, ValueError):
        raise UnresolvedError("a broken answer") from None
    return Answer(number, flags & 15, bool(flags & 0x0200), tuple(addresses), max(kept_s, KEPT_S[0]))


def _after_name(message: bytes, at: int) -> int:
    """Where a name ends that begins here: what a pointer points at lies elsewhere and is of no interest."""
    while length := message[at]:
        if length >= 0xC0:
            return at + 2
        at += 1 + length
    return at + 1


class Resolver:
    """The lookups of one host, and what it remembers of them."""

    def __init__(self, servers: Sequence[str], *, together: bool, port: int = PORT) -> None:
        """Servers in the order they are tried. `together`: both families through one socket, as glibc does, instead of two."""
        self.servers, self.together, self.port = tuple(servers), together, port
        self.asked = 0
        self._kept: dict[tuple[str, int], tuple[float, tuple[str, ...]]] = {}
        self._chance = SystemRandom()

    async def both(self, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The IPv4 and the IPv6 addresses of a name, from memory where it is fresh; UnresolvedError when it has none at all."""
        kinds = (A, AAAA)
        kept = [self._remembered(name, kind) for kind in kinds]
        if kept[0] is not None and kept[1] is not None:
            return kept[0], kept[1]
        if self.together:
            four, six = await self.ask(name, kinds)
        else:
            (four,), (six,) = await asyncio.gather(self.ask(name, (A,)), self.ask(name, (AAAA,)))
        return four, six

    async def ask(self, name: str, kinds: Sequence[int], *, must: bool = True) -> list[tuple[str, ...]]:
        """Ask for a name whatever is remembered, all kinds through one socket; addresses of each kind.

        `must`: a name that does not exist is a failure.
        """
        error = UnresolvedError("no server for names")
        for wait_s in TRIES_S:
            for server in self.servers:
                try:
                    async with asyncio.timeout(wait_s):
                        answers = await self._over_udp(server, name, kinds)
                except TimeoutError:
                    error = UnresolvedError("no answer for a name")
                    continue
                except OSError:
                    error = UnresolvedError("no way to a server for names")
                    continue
                for kind, got in zip(kinds, answers, strict=True):
                    if got.code not in (NO_ERROR, NO_SUCH_NAME):
                        raise UnresolvedError(f"server for names said {got.code}")
                    self._kept[name, kind] = (asyncio.get_running_loop().time() + got.kept_s, got.addresses)
                if must and all(got.code == NO_SUCH_NAME for got in answers):
                    raise UnresolvedError("no such name")
                return [got.addresses for got in answers]
        raise error

    async def over_tcp(self, server: str, name: str, kind: int) -> Answer:
        """Ask one server over TCP (RFC 7766: two bytes of length before each message)."""
        self.asked += 1
        reader, writer = await asyncio.open_connection(server, self.port)
        try:
            query = question(self._chance.getrandbits(16), name, kind)
            writer.write(struct.pack("!H", len(query)) + query)
            (length,) = struct.unpack("!H", await reader.readexactly(2))
            return answer(await reader.readexactly(length))
        except asyncio.IncompleteReadError:
            raise UnresolvedError("a broken answer") from None
        finally:
            writer.close()

    async def _over_udp(self, server: str, name: str, kinds: Sequence[int]) -> list[Answer]:
        loop = asyncio.get_running_loop()
        queries = {self._chance.getrandbits(16): kind for kind in kinds}
        while len(queries) < len(kinds):  # twice the same number
            queries = {self._chance.getrandbits(16): kind for kind in kinds}
        got: dict[int, Answer] = {}
        with socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM) as plug:
            plug.setblocking(False)
            plug.connect((server, self.port))
            for number, kind in queries.items():
                plug.send(question(number, name, kind))
                self.asked += 1
            while len(got) < len(queries):
                said = answer(await loop.sock_recv(plug, 4096))
                if said.number in queries:
                    got[queries[said.number]] = said
        for kind, said in got.items():
            if said.cut:
                got[kind] = await self.over_tcp(server, name, kind)
        return [got[kind] for kind in kinds]

    def _remembered(self, name: str, kind: int) -> tuple[str, ...] | None:
        until, addresses = self._kept.get((name, kind), (0.0, ()))
        return addresses if until > asyncio.get_running_loop().time() else None
