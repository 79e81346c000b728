"""Queries of the laboratory's database: PostgreSQL's protocol spoken here (version 3.0), or psql.

The manual's chapter "Frontend/Backend Protocol" is the source; logging in is SCRAM-SHA-256 (RFC 5802, 7677).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import struct
from collections.abc import Mapping
from random import Random
from secrets import token_urlsafe
from types import TracebackType
from typing import Self

from ..accounts import Account
from ..services.sql import DATABASE, ROWS
from ..site import Host, Site, Value
from .activity import number, whole
from .tools import ANSWER_S, FailedError, Tools, leave

PORT = 5432
SSL_REQUEST = struct.pack("!II", 8, 80877103)
PROTOCOL = 196608
SCRAM, SCRAM_MORE, SCRAM_LAST, LET_IN = 10, 11, 12, 0
"""What a message R asks for."""


class Session:
    """A connection to PostgreSQL."""

    def __init__(self, tools: Tools, address: str, person: Account, port: int = PORT) -> None:
        self._tools, self._address, self._person, self._port = tools, address, person, port

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await self._tools.connect(self._address, self._port)
        self._writer.write(SSL_REQUEST)  # libpq asks for TLS first; this server has none
        async with asyncio.timeout(ANSWER_S):
            if await self._reader.readexactly(1) != b"N":
                raise FailedError("the database wants TLS")
            words = ("user", self._person.name, "database", DATABASE, "application_name", "stock", "")
            body = struct.pack("!I", PROTOCOL) + b"".join(word.encode() + b"\0" for word in words)
            self._writer.write(struct.pack("!I", len(body) + 4) + body)
            await self._log_in()
            await self._until_ready()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._send(b"X", b"")
        await leave(self._writer, reset=kind is not None)

    async def query(self, text: str) -> int:
        """Run a statement; how many rows it gave."""
        self._send(b"Q", text.encode() + b"\0")
        async with asyncio.timeout(ANSWER_S):
            return await self._until_ready()

    async def _until_ready(self) -> int:
        rows = 0
        while True:
            kind, body = await self._message()
            rows += kind == b"D"
            if kind == b"Z":
                return rows
            if kind == b"E":
                raise FailedError(f"the database said {_code(body)}")

    async def _log_in(self) -> None:
        """SCRAM-SHA-256 without channel binding."""
        nonce = token_urlsafe(18)
        first = f"n=,r={nonce}"
        proof = b""
        while True:
            kind, body = await self._message()
            if kind == b"E":
                raise FailedError(f"the database said {_code(body)}")
            (asked,) = struct.unpack_from("!I", body)
            if asked == LET_IN:
                return
            if asked == SCRAM:
                said = f"n,,{first}".encode()
                self._send(b"p", b"SCRAM-SHA-256\0" + struct.pack("!I", len(said)) + said)
            elif asked == SCRAM_MORE:
                proof = scram_answer(self._person.password, first, body[4:].decode())
                self._send(b"p", proof)
            elif asked != SCRAM_LAST:
                raise FailedError("the database asks for a password in another way")

    async def _message(self) -> tuple[bytes, bytes]:
        head = await self._reader.readexactly(5)
        return head[:1], await self._reader.readexactly(struct.unpack("!I", head[1:])[0] - 4)

    def _send(self, kind: bytes, body: bytes) -> None:
        self._writer.write(kind + struct.pack("!I", len(body) + 4) + body)


def scram_answer(password: str, first: str, challenge: str) -> bytes:
    """The client's final message to a server's first one (RFC 5802, 3; the example of RFC 7677 is tested)."""
    parts = dict(part.split("=", 1) for part in challenge.split(","))
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(parts["s"]), int(parts["i"]))
    key = hmac.digest(salted, b"Client Key", "sha256")
    last = f"c=biws,r={parts['r']}"
    signature = hmac.digest(hashlib.sha256(key).digest(), f"{first},{challenge},{last}".encode(), "sha256")
    proof = bytes(left ^ right for left, right in zip(key, signature, strict=True))
    return f"{last},p={base64.b64encode(proof).decode()}".encode()


def _code(body: bytes) -> str:
    """SQLSTATE of an error: its fields are a letter and a text each."""
    fields = {field[:1]: field[1:] for field in body.split(b"\0") if field}
    return fields.get(b"C", b"an error").decode("latin-1")


def statement(chance: Random, rows: int, author: str) -> str:
    """One of those that an application has: single rows mostly, lists of about `rows`, sums, now and then a note."""
    drawn = chance.random()
    first = chance.randint(1, ROWS)
    if drawn < 0.45:
        return f"SELECT name, stock FROM items WHERE number = {first}"
    if drawn < 0.8:
        count = max(1, int(rows * chance.lognormvariate(-0.5, 1.0)))
        return f"SELECT * FROM items WHERE number >= {first} ORDER BY number LIMIT {min(count, 20 * max(1, rows))}"
    if drawn < 0.9:
        return f"SELECT count(*), sum(stock) FROM items WHERE number BETWEEN {first} AND {first + 500}"
    text = "x" * int(min(4000, chance.lognormvariate(5.0, 1.0)))
    return f"INSERT INTO notes (author, text) VALUES ('{author}', '{text}')"


async def sql(host: Host, site: Site, chance: Random, given: Mapping[str, Value], tools: Tools) -> None:
    """Statements, with time between them, over one connection; psql runs all of them at once."""
    server, person = tools.offering("sql", chance), tools.person
    texts = [statement(chance, whole(given["rows"]), person.name) for _ in range(whole(given["queries"]))]
    if given["client"] == "psql":
        command = ["psql", "-X", "-q", "-A", "-t", "-h", tools.called(server), "-U", person.name, "-d", DATABASE]
        await tools.tool([*command, "-f", "-"], stdin=";\n".join([*texts, ""]).encode(), env={"PGPASSWORD": person.password})
        return
    async with Session(tools, await tools.reach(server), person) as session:
        for text in texts:
            await session.query(text)
            await tools.think(chance, number(given["think_s"]))
