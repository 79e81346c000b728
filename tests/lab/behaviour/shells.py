"""What goes over SSH: sessions at other hosts, files, and the large backup at night (which may take FTP instead).

OpenSSH's own programs do it: nothing else looks like them on the wire. They log in with the laboratory's key; keys of servers
are new in each run, so they are not remembered.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from random import Random

from ..accounts import account
from ..site import Host, LabError, Site, Value
from .activity import number, whole
from .files import FtpSession, sizes, wanted_files
from .tools import FailedError, Tools

KEY = ("services", "keys", "id_ed25519")
"""Below the run's folder; services/files.py makes it."""
TYPED = (
    "ls", "ls -la", "pwd", "df -h", "uptime", "ps aux", "uname -a", "date", "cat /etc/services", "seq 300", "id", "echo done",
    "head -c 3000 file0.dat | od -c", "find . | head -40", "free", "w", "true", "cat /proc/meminfo",
)  # fmt: skip
"""Nothing that changes anything."""
KEYSTROKE_S = 0.12
"""Between keys: 100 words a minute are 0.12 s for each letter."""


def _options(tools: Tools) -> list[str]:
    options = (
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
        "IdentitiesOnly=yes",
        "BatchMode=yes",
        "ConnectTimeout=8",
    )
    return ["-q", "-F", "none", "-i", str(tools.run.joinpath(*KEY)), *(word for option in options for word in ("-o", option))]


async def ssh(host: Host, site: Site, chance: Random, given: Mapping[str, Value], tools: Tools) -> None:
    """A session at a terminal: commands typed letter by letter, answers, pauses to read."""
    server = tools.offering("ssh", chance, str(given["server"]))
    whom = f"{tools.person.name}@{tools.called(server)}"
    with tools.log().open("ab") as log:
        child = await asyncio.create_subprocess_exec(
            "ssh", "-tt", *_options(tools), whom,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, stderr=log, start_new_session=True,
            env=tools.environment(),
        )  # fmt: skip
    assert child.stdin is not None
    try:
        for _ in range(whole(given["commands"])):
            await tools.think(chance, number(given["think_s"]))
            await _type(chance.choice(TYPED), chance, child.stdin)
        await _type("exit", chance, child.stdin)
        async with asyncio.timeout(15.0):
            status = await child.wait()
    finally:
        if child.returncode is None:
            os.killpg(child.pid, signal.SIGKILL)
            await child.wait()
    if status == 255:  # ssh's own; others are the last command's
        raise FailedError("ssh ended with 255")


async def _type(text: str, chance: Random, keyboard: asyncio.StreamWriter) -> None:
    """Type a line, one to three letters at a time; letters that are typed fast go into one packet."""
    left = f"{text}\r"
    while left:
        some = chance.choice((1, 1, 2, 3))
        keyboard.write(left[:some].encode())
        await keyboard.drain()
        left = left[some:]
        await asyncio.sleep(KEYSTROKE_S * chance.uniform(0.3, 2.0))


async def sftp(host: Host, site: Site, chance: Random, given: Mapping[str, Value], tools: Tools) -> None:
    """Files fetched or left over SSH."""
    server = tools.offering("ssh", chance, str(given["server"]))
    if given["upload"]:
        await _upload(server, tools.person.name, sizes(chance, given), tools)
        return
    files = wanted_files(server, tools, chance, whole(given["files"]))
    await _sftp(server, tools.person.name, ["ls -l", *(f"get {name} /dev/null" for name in files)], tools)


async def backup(host: Host, site: Site, chance: Random, given: Mapping[str, Value], tools: Tools) -> None:
    """One large file to the backup server, and away with the one of the day before."""
    size_bytes = max(1, int(number(given["megabytes"]) * 1_000_000 * chance.uniform(0.8, 1.2)))
    wanted = str(given["server"])
    who = account("backup")
    if given["way"] == "sftp":
        await _upload(tools.offering("ssh", chance, wanted), who.name, [size_bytes], tools)
        return
    if given["way"] != "ftp":
        raise LabError(f"way of activity backup is sftp or ftp, not {given['way']!r}")
    async with FtpSession(tools, await tools.reach(tools.offering("ftp", chance, wanted))) as session:
        await session.login(who.name, who.password)
        await session.transfer(f"STOR backup-{host.name}.tar", passive=True, send_bytes=size_bytes)
        await session.say("QUIT")


async def _upload(server: Host, person: str, size_bytes: Sequence[int], tools: Tools) -> None:
    files = [tools.scratch(size) for size in size_bytes]
    try:
        orders = [f"put {path} from-{tools.host.name}-{place}.dat" for place, path in enumerate(files)]
        await _sftp(server, person, orders, tools)
    finally:
        for path in files:
            with suppress(FileNotFoundError):
                path.unlink()


async def _sftp(server: Host, person: str, orders: Sequence[str], tools: Tools) -> None:
    command = ["sftp", *_options(tools), "-b", "-", f"{person}@{tools.called(server)}"]
    await tools.tool(command, within_s=240.0, stdin="\n".join([*orders, "bye", ""]).encode())
