"""Guessing passwords at SSH, FTP and a login form, with the tools of CICIDS2017 (patator) and of many others since (hydra).

The words are drawn from the instance's seed: wrong ones, and for some accounts the right one at a random place among them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

from ..accounts import PEOPLE, wrong_passwords
from ..site import Attack, LabError, Line, Site, Value
from . import instance
from .kind import Kind

TAKES: Mapping[str, Value] = {"tool": "patator", "accounts": 3, "words": 40, "right": 1, "threads": 4, "pause_s": 0.0}
"""accounts: how many are tried; words: how many passwords for each; right: for how many of them the right one is among these;
pause_s: between two attempts of a thread, whole seconds for hydra, which then tries one at a time."""

PATATOR_IGNORES = {
    "ssh_login": "ignore:mesg=Authentication failed.",
    "ftp_login": "ignore:code=530",
    "http_fuzz": "ignore:code=200",  # the form is shown again after a wrong password; a right one leads elsewhere with 302
}


def words(attack: Attack, run: Path) -> Path:
    """Write what is tried, `account:password` on each line, in the order of the accounts."""
    chance = random.Random(attack.seed)
    accounts, each = instance.whole(attack, "accounts"), instance.whole(attack, "words")
    right = int(instance.number(attack, "right"))
    if accounts > len(PEOPLE) or right > accounts:
        raise LabError(f"{attack.name}: accounts is {accounts} and right {right}: there are {len(PEOPLE)} accounts")
    tried = chance.sample(PEOPLE, accounts)
    wrong = wrong_passwords(attack.seed)
    path = instance.folder(attack, run) / "words.txt"
    with path.open("w", encoding="utf-8") as written:
        for number, account in enumerate(tried):
            passwords = list(islice(wrong, each))
            if number < right:
                passwords[chance.randrange(each)] = account.password
            written.writelines(f"{account.name}:{password}\n" for password in passwords)
    return path


def _guess(attack: Attack, site: Site, run: Path, module: str, argument: str) -> Iterator[Line]:
    port = instance.whole(attack, "port")
    yield from instance.between(attack, site, dst_port=str(port), protocol="tcp")
    victim, listed = instance.target(attack, site), words(attack, run)
    threads, pause_s = instance.whole(attack, "threads"), instance.number(attack, "pause_s")
    if instance.text(attack, "tool", "patator", "hydra") == "patator":
        # without a name to resolve, patator 0.9 gives today's curl an empty one, which curl refuses
        where = (f"url=http://{victim}:{port}{argument}", f"resolve={victim}:{victim}")
        whom = (
            ("method=POST", f"body={_form(attack, 'COMBO00', 'COMBO01')}", *where)
            if module == "http_fuzz"
            else (f"host={victim}", f"port={port}", "user=COMBO00", "password=COMBO01")
        )
        options = ("-x", PATATOR_IGNORES[module], "-t", str(threads), "--max-retries=1", f"--rate-limit={pause_s:g}")
        patator = instance.program("patator", "patator")
        instance.call(attack, run, (patator, module, *whom, f"0={listed}", *options), accepted=range(256))
        return
    pause = ("-c", str(round(pause_s))) if pause_s >= 1 else ("-t", str(threads))
    hydra = (instance.program("hydra", "hydra"), "-I", "-V", "-C", str(listed), *pause, "-s", str(port), victim)
    service = {"ssh_login": ("ssh",), "ftp_login": ("ftp",), "http_fuzz": ("http-post-form", argument)}[module]
    if module == "http_fuzz":
        # S=302 says which answer is a right password; without g hydra asks for the form before every attempt, as a browser does
        service = ("http-post-form", f"{argument}:{_form(attack, '^USER^', '^PASS^')}:S=302")
    instance.call(attack, run, (*hydra, *service))


def _form(attack: Attack, user: str, password: str) -> str:
    return f"{instance.text(attack, 'user_field')}={user}&{instance.text(attack, 'password_field')}={password}"


def ssh_guess(attack: Attack, site: Site, run: Path) -> Iterator[Line]:
    """Try passwords at an SSH server."""
    return _guess(attack, site, run, "ssh_login", "")


def ftp_guess(attack: Attack, site: Site, run: Path) -> Iterator[Line]:
    """Try passwords at an FTP server."""
    return _guess(attack, site, run, "ftp_login", "")


def login_guess(attack: Attack, site: Site, run: Path) -> Iterator[Line]:
    """Try passwords at a login form."""
    return _guess(attack, site, run, "http_fuzz", instance.text(attack, "path"))


TOOLS = ("patator", "hydra")
FORM: Mapping[str, Value] = {"port": 80, "path": "/login", "user_field": "username", "password_field": "password"}

KINDS = (
    Kind("ssh_guess", "SSH-Patator", TOOLS, TOOLS, {**TAKES, "port": 22}, ssh_guess, "passwords tried at SSH", quiet=True),
    Kind("ftp_guess", "FTP-Patator", TOOLS, TOOLS, {**TAKES, "port": 21}, ftp_guess, "passwords tried at FTP", quiet=True),
    Kind(
        "login_guess",
        "Web Attack - Brute Force",
        TOOLS,
        TOOLS,
        {**TAKES, **FORM},
        login_guess,
        "passwords tried at a login form",
        quiet=True,
    ),
)
