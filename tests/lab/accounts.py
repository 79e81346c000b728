"""The laboratory's people and their passwords: known to servers, to clients (they log in) and to guessers (they mostly fail).

They exist in the laboratory alone: servers see them in a passwd file that is laid over the machine's in a mount namespace of
their own. Wrong passwords are never a right one, so that an attack's outcome is known before it starts.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody who may log in at ssh, ftp, smb, mail, sql, and at the web form."""

    name: str
    password: str
    uid: int


PEOPLE = tuple(
    Account(name, password, 20_000 + number)  # far above what Debian gives out to users and to system accounts
    for number, (name, password) in enumerate(
        (
            ("alice", "Winter-2017"),
            ("bruno", "korbball42"),
            ("carla", "s0nnenblume"),
            ("david", "letmein!7"),
            ("elena", "quartett-9"),
            ("frank", "Blaubeere1"),
            ("backup", "n1ghtly-copy"),
            ("admin", "changeme-2017"),
        )
    )
)
"""backup and admin are no persons, but log in all the same."""

_WORDS = (
    "password",
    "admin",
    "welcome",
    "dragon",
    "monkey",
    "summer",
    "football",
    "master",
    "shadow",
    "login",
    "secret",
    "hello",
)
_ENDS = ("", "!", "1", "12", "123", "1234", "2016", "2017", "01", "?")


def account(name: str) -> Account:
    """The account of this name; KeyError when there is none."""
    return {person.name: person for person in PEOPLE}[name]


def wrong_passwords(seed: int) -> Iterator[str]:
    """Passwords that open nothing, without end: as people choose them at first, then random ones."""
    chance = random.Random(seed)
    right = {person.password for person in PEOPLE}
    usual = [begin + end for word in _WORDS for begin in (word, word.capitalize()) for end in _ENDS]
    chance.shuffle(usual)
    yield from (password for password in usual if password not in right)
    while True:
        password = "".join(chance.choices("abcdefghijkmnpqrstuvwxyz23456789", k=chance.randint(6, 11)))
        if password not in right:
            yield password
