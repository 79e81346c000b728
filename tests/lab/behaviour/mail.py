"""Mail sent over SMTP (RFC 5321) and read over IMAP (RFC 3501), as mail programs do: mostly over TLS, on people's ports."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Mapping, Sequence
from random import Random
from types import TracebackType
from typing import Self

from ..accounts import PEOPLE
from ..services.service import names
from ..site import Host, Site, Value
from .activity import number, whole
from .tools import ANSWER_S, FailedError, Tools, leave

SUBMISSION, SMTP = 587, 25
IMAPS, IMAP = 993, 143
BY_PROGRAMS = 0.25
"""Share of messages that no person sends: printers, scheduled jobs; they speak to port 25 and know no TLS."""
OLD_PROGRAMS = 0.2
"""Share of looks at a mailbox without TLS."""
LINE = b"Y29uZ3J1ZW5jZSBvZiB0aGUgbGFib3JhdG9yeSwgbGluZSBieSBsaW5lLCBhcyBhdHRhY2htZW50cyBh\r\n"
"""A line of an attachment in base64."""
LARGEST_BYTES = 2_000_000


class _Talk:
    """A connection on which lines are exchanged."""

    def __init__(self, tools: Tools, address: str, port: int, tls_name: str = "") -> None:
        self._tools, self._address, self._port, self._tls_name = tools, address, port, tls_name

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await self._tools.connect(self._address, self._port, self._tls_name)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await leave(self.writer, reset=kind is not None)

    async def line(self) -> bytes:
        """The next line."""
        async with asyncio.timeout(ANSWER_S):
            return await self.reader.readuntil(b"\r\n")


class _Smtp(_Talk):
    async def say(self, line: str) -> None:
        """Send a command, and read its reply, which may have several lines; FailedError when it is no success."""
        self.writer.write(f"{line}\r\n".encode())
        await self.reply()

    async def reply(self) -> None:
        line = await self.line()
        while line[3:4] == b"-":
            line = await self.line()
        if line[:1] not in b"23":
            raise FailedError(f"smtp server said {line[:3].decode('latin-1')}")


async def send(host: Host, site: Site, chance: Random, given: Mapping[str, Value], tools: Tools) -> None:
    """Send a message: a person logs in at the submission port, a program goes to port 25."""
    server = tools.offering("mail", chance)
    address, own = await tools.reach(server), names(host, site)[0]
    by_program = chance.random() < BY_PROGRAMS
    to = chance.sample(PEOPLE, min(len(PEOPLE), max(1, whole(given["recipients"]))))
    size_bytes = int(min(LARGEST_BYTES, 1000 * number(given["kilobytes"]) * chance.lognormvariate(-0.5, 1.0)))
    async with _Smtp(tools, address, SMTP if by_program else SUBMISSION) as talk:
        await talk.reply()
        await talk.say(f"EHLO {own}")
        if not by_program:
            await talk.say("STARTTLS")
            await talk.writer.start_tls(tools.trust(), server_hostname=names(server, site)[0])
            await talk.say(f"EHLO {own}")
            secret = f"\0{tools.person.name}\0{tools.person.password}".encode()
            await talk.say(f"AUTH PLAIN {base64.b64encode(secret).decode()}")
        await talk.say(f"MAIL FROM:<{tools.person.name}@{site.domain}>")
        for person in to:
            await talk.say(f"RCPT TO:<{person.name}@{site.domain}>")
        await talk.say("DATA")
        talk.writer.write(_message(tools.person.name, [person.name for person in to], site.domain, size_bytes, chance))
        async with asyncio.timeout(ANSWER_S):
            await talk.writer.drain()
        await talk.reply()
        await talk.say("QUIT")


def _message(sender: str, to: Sequence[str], domain: str, size_bytes: int, chance: Random) -> bytes:
    head = (
        f"From: {sender}@{domain}\r\nTo: {', '.join(f'{name}@{domain}' for name in to)}\r\n"
        f"Subject: About {chance.randrange(1000)}\r\n"
        f"Message-ID: <{chance.getrandbits(64):x}@{domain}>\r\nMIME-Version: 1.0\r\nContent-Type: application/octet-stream\r\n"
        "Content-Transfer-Encoding: base64\r\n\r\n"
    )
    return head.encode() + LINE * (1 + size_bytes // len(LINE)) + b".\r\n"


class _Imap(_Talk):
    turn = 0

    async def say(self, command: str) -> list[bytes]:
        """Send a command; what was told before it was done, without literals. FailedError when it was refused."""
        self.turn += 1
        tag = f"a{self.turn:03}"
        self.writer.write(f"{tag} {command}\r\n".encode())
        return await self.until(tag)

    async def until(self, tag: str) -> list[bytes]:
        """Read up to the reply with this tag, through literals (RFC 3501, 4.3)."""
        told: list[bytes] = []
        while True:
            line = await self.line()
            literal = re.search(rb"\{(\d+)\}\r\n$", line)
            if literal:
                async with asyncio.timeout(ANSWER_S):
                    await self.reader.readexactly(int(literal[1]))
            if line.startswith(tag.encode()):
                if b" OK" not in line[:12]:
                    raise FailedError(f"imap server refused: {line.split()[1].decode('latin-1')}")
                return told
            told.append(line)


async def read(host: Host, site: Site, chance: Random, given: Mapping[str, Value], tools: Tools) -> None:
    """Look at the person's mailbox, fetch some messages, delete some old ones, and perhaps stay to be told of new ones."""
    server = tools.offering("mail", chance)
    address, tls = await tools.reach(server), chance.random() >= OLD_PROGRAMS
    async with _Imap(tools, address, IMAPS if tls else IMAP, names(server, site)[0] if tls else "") as talk:
        await talk.line()
        await talk.say(f'LOGIN "{tools.person.name}" "{tools.person.password}"')
        there = _exists(await talk.say("SELECT INBOX"))
        if there:
            await talk.say(
                f"FETCH {max(1, there - 20)}:* (FLAGS UID INTERNALDATE BODY.PEEK[HEADER.FIELDS (FROM SUBJECT DATE)])"
            )
        for _ in range(min(there, whole(given["messages"]))):
            await talk.say(f"FETCH {max(1, there - int(chance.expovariate(0.3)))} (BODY[])")
            await tools.think(chance, 15.0)
        if there > KEPT_MESSAGES:
            await talk.say(f"STORE 1:{there - KEPT_MESSAGES} +FLAGS.SILENT (\\Deleted)")
            await talk.say("EXPUNGE")
        if number(given["idle_s"]) > 0:
            await _idle(talk, tools.real_s(number(given["idle_s"])))
        await talk.say("LOGOUT")


KEPT_MESSAGES = 30
"""In a mailbox: more are deleted, so that it does not grow through the day."""


def _exists(told: Sequence[bytes]) -> int:
    counts = (re.match(rb"\* (\d+) EXISTS", line) for line in told)
    return next((int(count[1]) for count in counts if count), 0)


async def _idle(talk: _Imap, real_s: float) -> None:
    """Wait to be told of new messages (RFC 2177)."""
    talk.turn += 1
    tag = f"a{talk.turn:03}"
    talk.writer.write(f"{tag} IDLE\r\n".encode())
    try:
        async with asyncio.timeout(real_s):
            while True:
                await talk.reader.readuntil(b"\r\n")
    except TimeoutError:
        talk.writer.write(b"DONE\r\n")
    await talk.until(tag)
