"""A server in a mount namespace of its own: the laboratory's people in its /etc/passwd, the server's folder at /mnt.

Servers look their users up in /etc, drop their rights to users that only their package makes, keep sockets where the path
is short and every user may go, and write logins down in /var/log. None of that is the run's folder. So each is started by a
short script that unshares its mounts, lays private files over the machine's, for itself alone, and then becomes the server.
The machine's own files are not written to, whoever calls this and wherever: the kernel drops the mounts with the process.
Called by the services.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from ..accounts import PEOPLE, Account
from .service import needed

HOUSE = "/mnt"
"""Where a server finds its own folder: exists on every Debian, empty, and everybody may pass."""

LOGINS = "/var/log"
"""Where sshd writes every login and every wrong password down (wtmp, lastlog, btmp), which are no matter of the machine."""

SYSTEM_USERS = {"nobody": 65534, "sshd": 19_001, "ftp": 19_002, "postgres": 19_003, "dovecot": 19_004, "dovenull": 19_005}
SYSTEM_USERS |= {"Debian-exim": 19_006, "www-data": 19_007}
"""Whom servers drop their rights to. Numbers of our own, so that none is a user of the machine."""

_NSSWITCH = ("passwd: files", "shadow: files", "group: files", "hosts: files dns")


def privately(folder: Path, command: Sequence[str], before: Sequence[Sequence[str]] = ()) -> list[str]:
    """Write a script into `folder` that runs `before` and becomes `command`, with `folder` at HOUSE; return how to run it."""
    if not (folder / "etc").exists():  # the second server of a service reads the first one's
        _write_etc(folder / "etc")
    laid = [(f"etc/{name}", f"/etc/{name}") for name in ("passwd", "shadow", "group", "nsswitch.conf", "pam.d")]
    steps = [
        ("mount", "--bind", str(folder.resolve()), HOUSE),
        ("mount", "-t", "tmpfs", "-o", "mode=755,size=64m", "tmpfs", "/run"),
        ("mount", "-t", "tmpfs", "-o", "mode=755,size=64m", "tmpfs", LOGINS),
        *(("mount", "--bind", f"{HOUSE}/{inside}", place) for inside, place in laid),
        ("cd", HOUSE),
        *before,
    ]
    lines = ["#!/bin/sh", "set -e", *(shlex.join(step) for step in steps), "exec " + shlex.join(command)]
    script = folder.resolve() / f"start-{Path(command[0]).name}.sh"
    script.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [needed("unshare"), "--mount", "--propagation", "private", "/bin/sh", str(script)]


def homes() -> list[tuple[str, ...]]:
    """Steps that make a home for everybody in the server's folder."""
    made = [("mkdir", "-p", *(_home(person) for person in PEOPLE))]
    return made + [("chown", "-R", str(person.uid), _home(person)) for person in PEOPLE]


def _home(person: Account) -> str:
    return f"{HOUSE}/home/{person.name}"


def _write_etc(etc: Path) -> None:
    """Write passwd, shadow and group with root, the servers' users and the laboratory's people; PAM asks shadow alone."""
    (etc / "pam.d").mkdir(parents=True, exist_ok=True)
    users = [("root", 0, "/root"), *((name, uid, "/nonexistent") for name, uid in SYSTEM_USERS.items())]
    passwd = [f"{name}:x:{uid}:{uid}::{home}:/usr/sbin/nologin" for name, uid, home in users]
    passwd += [f"{person.name}:x:{person.uid}:{person.uid}::{_home(person)}:/bin/sh" for person in PEOPLE]
    shadow = [f"{name}:*:17000::::::" for name, _, _ in users]
    shadow += [f"{person.name}:{secret}:17000::::::" for person, secret in zip(PEOPLE, hashed(), strict=True)]
    group = [f"{name}:x:{number}:" for name, number in SYSTEM_USERS.items()]
    group += ["root:x:0:", *(f"{person.name}:x:{person.uid}:" for person in PEOPLE)]
    pam = ["auth required pam_unix.so", "account required pam_unix.so", "session required pam_permit.so"]
    for name, lines in (("passwd", passwd), ("shadow", shadow), ("group", group), ("nsswitch.conf", _NSSWITCH)):
        (etc / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    for server in ("vsftpd", "sshd", "samba", "other"):
        (etc / "pam.d" / server).write_text("\n".join(pam) + "\n", encoding="utf-8")
    (etc / "shadow").chmod(0o600)


@cache
def hashed() -> tuple[str, ...]:
    """Everybody's password as crypt(3) writes it (SHA-256), in the order of PEOPLE."""
    words = "".join(f"{person.password}\n" for person in PEOPLE)
    asked = [needed("openssl"), "passwd", "-5", "-stdin"]
    done = subprocess.run(asked, input=words, capture_output=True, text=True, check=True, timeout=60)
    return tuple(done.stdout.split())
