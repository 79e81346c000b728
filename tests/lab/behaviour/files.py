"""Files over FTP and SMB. FTP is spoken here (RFC 959, 2428) or by lftp; SMB is smbclient's, which nobody writes again."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from random import Random
from types import TracebackType
from typing import Self

from ..services.files import file_sizes
from ..site import Host, Site, Value
from .activity import number, whole
from .tools import ANSWER_S, FailedError, Tools, leave

PORT = 21
PIECE_BYTES = 65_536
ZEROS = bytes(PIECE_BYTES)


class FtpSession:
    """One control connection."""

    def __init__(self, tools: Tools, address: str) -> None:
        self._tools, self._address = tools, address

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await self._tools.connect(self._address, PORT)
        await self.expect("2")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await leave(self._writer, reset=kind is not None)

    async def say(self, line: str, *, wanted: str = "23") -> str:
        """Send a command; its reply, whose first digit must be one of `wanted`."""
        self._writer.write(f"{line}\r\n".encode())
        return await self.expect(wanted)

    async def expect(self, wanted: str) -> str:
        """A reply, which may have several lines (RFC 959, 4.2)."""
        async with asyncio.timeout(ANSWER_S):
            line = (await self._reader.readuntil(b"\r\n")).decode("latin-1")
            while line[3:4] == "-" or not line[:3].isdigit():
                line = (await self._reader.readuntil(b"\r\n")).decode("latin-1")
        if line[0] not in wanted:
            raise FailedError(f"ftp server said {line[:3]}")
        return line

    async def login(self, name: str, password: str) -> None:
        """Say who is here, and that files are bytes."""
        await self.say(f"USER {name}")
        await self.say(f"PASS {password}")
        await self.say("TYPE I")

    async def transfer(self, command: str, *, passive: bool, send_bytes: int = 0) -> int:
        """RETR, STOR or LIST over a data connection of its own; how many bytes it moved."""
        if passive:
            reader, writer = await self._tools.connect(self._address, await self._their_port())
            await self.say(command, wanted="1")
        else:
            reader, writer = await self._from_them(command)
        try:
            async with asyncio.timeout(10 * ANSWER_S):
                moved = await (_sent(writer, send_bytes) if send_bytes else _read(reader))
        finally:
            await leave(writer)
        await self.expect("2")
        return moved

    async def _their_port(self) -> int:
        if ":" in self._address:
            found = re.search(r"\(\|\|\|(\d+)\|\)", await self.say("EPSV"))
            if found:
                return int(found[1])
        else:
            numbers = re.search(r"(\d+),(\d+)\)", await self.say("PASV"))
            if numbers:
                return int(numbers[1]) * 256 + int(numbers[2])
        raise FailedError("ftp server told no port")

    async def _from_them(self, command: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Listen, tell the server where, and take its connection."""
        came: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.get_running_loop().create_future()

        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if not came.done():
                came.set_result((reader, writer))

        own = self._writer.get_extra_info("sockname")[0]
        server = await asyncio.start_server(take, own, 0)
        try:
            port = server.sockets[0].getsockname()[1]
            if ":" in own:
                await self.say(f"EPRT |2|{own}|{port}|")
            else:
                await self.say(f"PORT {own.replace('.', ',')},{port // 256},{port % 256}")
            await self.say(command, wanted="1")
            async with asyncio.timeout(ANSWER_S):
                return await came
        finally:
            server.close()


async def _sent(writer: asyncio.StreamWriter, size_bytes: int) -> int:
    left = size_bytes
    while left > 0:
        writer.write(ZEROS[:left])
        await writer.drain()
        left -= PIECE_BYTES
    return size_bytes


async def _read(reader: asyncio.StreamReader) -> int:
    read = 0
    while data := await reader.read(PIECE_BYTES):
        read += len(data)
    return read


def sizes(chance: Random, given: Mapping[str, Value]) -> list[int]:
    """How big the files are that are sent: lognormal around the kilobytes given."""
    median = 1000 * number(given["kilobytes"])
    return [max(1, int(min(50 * median, median * chance.lognormvariate(0.0, 1.0)))) for _ in range(whole(given["files"]))]


def wanted_files(server: Host, tools: Tools, chance: Random, count: int) -> list[str]:
    """Which of the person's files on a server are fetched."""
    return chance.choices(list(file_sizes(server.name, tools.person.name)), k=count)


async def ftp(host: Host, site: Site, chance: Random, given: Mapping[str, Value], tools: Tools) -> None:
    """Log in, look around, fetch or leave files, each over a data connection, and say goodbye."""
    server, person = tools.offering("ftp", chance), tools.person
    wanted = wanted_files(server, tools, chance, whole(given["files"]))
    if given["client"] == "lftp":
        await _lftp(server, wanted, bool(given["passive"]), tools)
        return
    passive = bool(given["passive"])
    async with FtpSession(tools, await tools.reach(server)) as session:
        await session.login(person.name, person.password)
        await session.transfer("LIST", passive=passive)
        if given["upload"]:
            for size_bytes in sizes(chance, given):
                name = f"from-{host.name}-{chance.randrange(4)}.dat"  # some overwrite others: the server's disk stays small
                await session.transfer(f"STOR {name}", passive=passive, send_bytes=size_bytes)
                await tools.think(chance, 10.0)
        else:
            for name in wanted:
                await session.transfer(f"RETR {name}", passive=passive)
                await tools.think(chance, 10.0)
        await session.say("QUIT")


async def _lftp(server: Host, wanted: Sequence[str], passive: bool, tools: Tools) -> None:
    orders = ["set net:timeout 8", "set net:max-retries 1", "set xfer:clobber on", "set ftp:ssl-allow no"]
    orders += [f"set ftp:passive-mode {'on' if passive else 'off'}", "cls -l"]
    orders += [f"get {name} -o /dev/null" for name in wanted]
    person = tools.person
    command = ["lftp", "--norc", "-u", f"{person.name},{person.password}", "-e", "; ".join([*orders, "bye"])]
    await tools.tool([*command, f"ftp://{tools.called(server)}"], within_s=90.0)


async def smb(host: Host, site: Site, chance: Random, given: Mapping[str, Value], tools: Tools) -> None:
    """The person's share, by smbclient: looked at, files fetched or left."""
    server, person = tools.offering("smb", chance), tools.person
    left = [tools.scratch(size_bytes) for size_bytes in sizes(chance, given)] if given["upload"] else []
    try:
        orders = ["ls", *(f"put {path} from-{host.name}-{place}.dat" for place, path in enumerate(left))]
        if not left:
            orders += [f"get {name} /dev/null" for name in wanted_files(server, tools, chance, whole(given["files"]))]
        command = ["smbclient", "--configfile=/dev/null", "-U", f"{person.name}%{person.password}", "-c", "; ".join(orders)]
        await tools.tool([*command, f"//{tools.called(server)}/{person.name}"], within_s=90.0)
    finally:
        for path in left:
            path.unlink(missing_ok=True)
