"""What every activity is given to work with: names looked up, connections made, programs started.

One Tools lives in each agent, for all that its host does. Everything has a time limit, so that a host that is down or a program
that hangs costs an activity and never the agent. An activity that fails raises one of TROUBLE; the agent counts it by `reason`.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import ssl
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import TypeVar
from zlib import crc32

from ..accounts import PEOPLE, Account
from ..services.service import names
from ..site import Host, LabError, Site
from .dns import Resolver, UnresolvedError

CONNECT_S = 8.0
"""A client gives up on a host that does not answer; three SYNs of Linux (0, 1, 3 seconds) are seen before."""

ANSWER_S = 30.0
"""And on a server that goes silent."""

CLOSE_S = 5.0
"""Servers that do not close are left."""

T = TypeVar("T")

PERSONS = 6
"""The first of accounts.PEOPLE are persons, those after them serve programs."""


class FailedError(Exception):
    """An activity did not get what it wanted; the text is the reason that is counted, so it holds no names or numbers."""


TROUBLE = (OSError, EOFError, asyncio.TimeoutError, asyncio.LimitOverrunError, FailedError, UnresolvedError, LabError)
"""What an activity may fail with. Anything else is a mistake in the laboratory itself, which the agent tells as one."""


def reason(error: BaseException) -> str:
    """A short text for an error, the same for all of a kind."""
    if isinstance(error, ssl.SSLError):
        return f"tls: {error.reason or 'broken'}"
    if isinstance(error, FailedError | UnresolvedError | LabError):
        return str(error)
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, TimeoutError):
        return os.strerror(error.errno)
    return type(error).__name__


class Tools:
    """The means of one host."""

    def __init__(self, host: Host, site: Site, run: Path) -> None:
        self.host, self.site, self.run = host, site, run
        self.habit = crc32(host.name.encode())
        """What differs from host to host and stays the same in all runs: which resolver library, which browser."""
        self.person: Account = PEOPLE[self.habit % PERSONS]
        self.resolver = Resolver([server.ipv4[0] for server in site.offering("dns")], together=bool(self.habit & 64))
        self._made = 0
        self._trust: ssl.SSLContext | None = None

    def real_s(self, day_s: float) -> float:
        """Seconds of the run for seconds of the working day."""
        return day_s / self.site.compression

    async def think(self, chance: Random, mean_day_s: float) -> None:
        """Wait as people do: mostly shortly, sometimes long (lognormal with the given mean)."""
        if mean_day_s > 0:  # sigma 1: the mean is exp(1/2) times the median
            await asyncio.sleep(min(self.real_s(mean_day_s) * chance.lognormvariate(-0.5, 1.0), self.site.seconds))

    def offering(self, service: str, chance: Random, name: str = "") -> Host:
        """A host with a service that is up: the named one, or any, the first ones more often; FailedError where none is."""
        hosts = [host for host in self.site.offering(service) if not host.down and host.name != self.host.name]
        if name:
            hosts = [host for host in hosts if name == host.name or name in names(host, self.site)]
        if not hosts:
            raise FailedError(f"no host offers {service}")
        return favourite(chance, self.liked(hosts))

    def liked(self, things: Sequence[T]) -> list[T]:
        """In an order that is this host's own, for `favourite`."""
        return Random(self.habit).sample(things, len(things))

    async def address(self, name: str, *, ipv6: bool = False) -> str:
        """The address of a name, as a client asks for it: both families, and the wanted one where there is one."""
        if self.resolver.servers:
            four, six = await self.resolver.both(name)
        else:
            four, six = self._written(name)
        found = (six or four) if ipv6 else (four or six)
        if not found:
            raise UnresolvedError("no such name")
        return found[0]

    async def reach(self, host: Host, *, ipv6: bool = False) -> str:
        """The address of a host, asked for by its own name."""
        return await self.address(names(host, self.site)[0], ipv6=ipv6)

    def called(self, host: Host) -> str:
        """What a program that looks names up by itself is told: the name, or the address where there is no server for names."""
        return names(host, self.site)[0] if self.resolver.servers else host.ipv4[0]

    def _written(self, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The addresses of a name as the description has them, for a site without a server for names."""
        for host in self.site.hosts:
            known = names(host, self.site)
            if name in known:
                place = max(0, known.index(name) - 1)
                return host.ipv4[place : place + 1] or host.ipv4[:1], host.ipv6[place : place + 1] or host.ipv6[:1]
        raise UnresolvedError("no such name")

    def environment(self) -> dict[str, str]:
        """For programs: the user's own, without a proxy and without a home whose settings would change what they do."""
        strange = ("_proxy", "_PROXY")
        kept = {key: value for key, value in os.environ.items() if not key.endswith(strange) and not key.startswith("XDG_")}
        return {**kept, "HOME": str(self._files()), "LC_ALL": "C"}

    def clean(self) -> None:
        """Delete what programs left in their home."""
        shutil.rmtree(self._files(), ignore_errors=True)

    def _files(self) -> Path:
        folder = self.run / "agents" / f"{self.host.name}.files"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def log(self) -> Path:
        """Where programs complain to."""
        folder = self.run / "agents"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{self.host.name}.log"

    def scratch(self, size_bytes: int) -> Path:
        """A file of zeros to send, made anew (sparse, so it takes no room); whoever asks for it deletes it."""
        self._made += 1
        path = self._files() / f"new{self._made}.dat"
        path.touch()
        os.truncate(path, size_bytes)
        return path

    def trust(self) -> ssl.SSLContext:
        """A client's TLS: the laboratory's own authority and no other."""
        if self._trust is None:
            self._trust = ssl.create_default_context(cafile=str(self.run / AUTHORITY))
        return self._trust

    async def connect(self, address: str, port: int, tls_name: str = "") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection, over TLS where a name is given that the certificate must have."""
        tls = self.trust() if tls_name else None
        async with asyncio.timeout(CONNECT_S):
            return await asyncio.open_connection(address, port, ssl=tls, server_hostname=tls_name or None)

    async def tool(
        self, command: Sequence[str], *, within_s: float = 60.0, stdin: bytes = b"", env: Mapping[str, str] | None = None
    ) -> bytes:
        """Run a program to its end; what it printed. FailedError when it fails; it never outlives this call or its time."""
        with self.log().open("ab") as log:
            child = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                env={**self.environment(), **(env or {})},
            )
        try:
            async with asyncio.timeout(within_s):
                out, _ = await child.communicate(stdin or None)
        finally:
            if child.returncode is None:
                os.killpg(child.pid, signal.SIGKILL)  # also what it started: ssh below sftp
                await child.wait()
        if child.returncode:
            raise FailedError(f"{Path(command[0]).name} ended with {child.returncode}")
        return out


AUTHORITY = Path("services", "authority", "ca.pem")
"""Below the run's folder; services/tls.py makes it."""


def favourite(chance: Random, things: Sequence[T]) -> T:
    """One of several, the n-th in proportion to 1/n (Zipf's law, which visits to web sites follow)."""
    return chance.choices(things, [1 / (place + 1) for place in range(len(things))])[0]


async def leave(writer: asyncio.StreamWriter, *, reset: bool = False) -> None:
    """End a connection: in order, or by a reset, as browsers do that close a tab."""
    if reset:
        plug: socket.socket | None = writer.get_extra_info("socket")
        if plug is not None:
            plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        return
    writer.close()
    with suppress(OSError, TimeoutError):  # all was said; how the other end goes is no failure
        async with asyncio.timeout(CLOSE_S):
            await writer.wait_closed()
