"""HTTP/1.1 as a client speaks it: one connection, requests one after another, bodies read and thrown away (RFC 9112).

The standard library's client blocks, and twenty agents on two cores cannot afford a thread for each connection. Read by web.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import NamedTuple, Self

from .tools import ANSWER_S, FailedError, Tools, leave

CHUNK_BYTES = 65_536
KEPT_BYTES = 65_536
"""Of a body; what follows is only counted."""

BROWSERS = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:109.0) Gecko/20100101 Firefox/115.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/124.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.4 Safari/605.1.15",
    "Mozilla/5.0 (X11; Linux x86_64; rv:115.0) Gecko/20100101 Firefox/115.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/124.0.0.0 Edg/124.0.0.0",
)


class Response(NamedTuple):
    """An answer."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case; of several of the same name the last."""
    body: bytes
    """Its first KEPT_BYTES."""
    size_bytes: int
    """Of the whole body as far as it was read."""


class Browser:
    """Headers of one kind of client."""

    def __init__(self, agent: str, *, kept: bool = True, language: str = "en-GB,en;q=0.5") -> None:
        self.kept = kept
        self._lines = f"User-Agent: {agent}\r\nAccept: */*\r\nAccept-Language: {language}\r\n"
        self.cookie = ""

    def request(self, host: str, path: str, *, method: str = "GET", referer: str = "", body: bytes = b"") -> bytes:
        """A request, ready to send."""
        lines = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{self._lines}"
        lines += f"Connection: {'keep-alive' if self.kept else 'close'}\r\n"
        if referer:
            lines += f"Referer: {referer}\r\n"
        if self.cookie:
            lines += f"Cookie: {self.cookie}\r\n"
        if body or method == "POST":
            lines += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        return f"{lines}\r\n".encode() + body


class Connection:
    """A connection to a web server, opened when it is first needed and again when the server has closed it."""

    def __init__(self, tools: Tools, address: str, host: str, browser: Browser, *, tls: bool, port: int = 0) -> None:
        self._tools, self._address, self._host, self._browser = tools, address, host, browser
        self._tls_name, self._port = host if tls else "", port or (443 if tls else 80)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.opened = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.end(reset=kind is not None)

    async def get(
        self, path: str, *, method: str = "GET", referer: str = "", body: bytes = b"", at_most: int | None = None
    ) -> Response:
        """Ask; when a kept connection turns out to be closed, on a new one (RFC 9112, 9.3.1). After `at_most` bytes: reset."""
        request = self._browser.request(self._host, path, method=method, referer=referer, body=body)
        for _ in range(2):
            fresh = self._streams is None
            reader, writer = self._streams or await self._open()
            try:
                async with asyncio.timeout(ANSWER_S):
                    writer.write(request)
                    got = await _response(reader, method, at_most)
            except (ConnectionError, asyncio.IncompleteReadError):
                await self.end(reset=True)
                if fresh:
                    raise
                continue
            if at_most is not None and got.size_bytes >= at_most:
                await self.end(reset=True)
            elif not self._browser.kept or got.headers.get("connection", "").lower() == "close" or _without_end(got):
                await self.end()
            return got
        raise FailedError("closed twice")

    async def end(self, *, reset: bool = False) -> None:
        """Close it, if it is open."""
        if self._streams is not None:
            writer, self._streams = self._streams[1], None
            await leave(writer, reset=reset)

    async def half_close(self) -> None:
        """Say that no more requests come, and read until the server has closed too."""
        if self._streams is not None:
            reader, writer = self._streams
            if writer.can_write_eof():
                writer.write_eof()
                async with asyncio.timeout(ANSWER_S):
                    await reader.read()
            await self.end()

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self._streams = await self._tools.connect(self._address, self._port, self._tls_name)
        self.opened += 1
        return self._streams


async def _response(reader: asyncio.StreamReader, method: str, at_most: int | None) -> Response:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    protocol, _, rest = head[0].partition(" ")
    if not protocol.startswith("HTTP/1.") or not rest[:3].isdigit():
        raise FailedError("no answer in HTTP")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
    status = int(rest[:3])
    if method == "HEAD" or status in (204, 304):
        return Response(status, headers, b"", 0)
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return Response(status, headers, *await _chunks(reader))
    length = headers.get("content-length", "")
    wanted = int(length) if length.isdigit() else None
    if at_most is not None:
        wanted = at_most if wanted is None else min(wanted, at_most)
    return Response(status, headers, *await _body(reader, wanted))


async def _body(reader: asyncio.StreamReader, wanted: int | None) -> tuple[bytes, int]:
    """Read so many bytes, or all until the end."""
    kept, read = bytearray(), 0
    while wanted is None or read < wanted:
        data = await reader.read(CHUNK_BYTES if wanted is None else min(CHUNK_BYTES, wanted - read))
        if not data:
            if wanted is not None:
                raise asyncio.IncompleteReadError(b"", wanted - read)
            break
        read += len(data)
        kept += data[: KEPT_BYTES - len(kept)]
    return bytes(kept), read


async def _chunks(reader: asyncio.StreamReader) -> tuple[bytes, int]:
    """Read a body in chunks (RFC 9112, 7.1)."""
    kept, read = bytearray(), 0
    while True:
        size = (await reader.readuntil(b"\r\n")).split(b";")[0].strip()
        try:
            wanted = int(size, 16)
        except ValueError:
            raise FailedError("a broken chunk") from None
        if wanted == 0:
            while await reader.readuntil(b"\r\n") != b"\r\n":  # trailers
                pass
            return bytes(kept), read
        data, got = await _body(reader, wanted)
        kept += data[: KEPT_BYTES - len(kept)]
        read += got
        await reader.readexactly(2)


def _without_end(got: Response) -> bool:
    return "content-length" not in got.headers and "transfer-encoding" not in got.headers and got.status not in (204, 304)
