"""Which programs of the machine a run needs, where they come from, and which of them are missing.

Asked before anything is started: a run that finds out after twenty minutes that a tool is not there is a lost one. Called by
run.py, and by `python -m tests.lab tools`, which tells all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from .attacks import KINDS
from .network import PROGRAMS
from .services import SERVICES
from .services.service import found
from .site import LabError, Plan, Site


class Program(NamedTuple):
    """A program that something in the laboratory needs."""

    name: str
    package: str
    """Of Debian 12."""
    wanted_by: str


CLIENTS: dict[str, tuple[tuple[str, str], ...]] = {
    "web": (("curl", "curl"),),
    "monitor": (("ping", "iputils-ping"),),
    "ping": (("ping", "iputils-ping"),),
    "update": (("curl", "curl"),),
    "ftp": (("lftp", "lftp"),),
    "sftp": (("sftp", "openssh-client"),),
    "ssh": (("ssh", "openssh-client"),),
    "backup": (("sftp", "openssh-client"),),
    "smb": (("smbclient", "smbclient"),),
    "sql": (("psql", "postgresql-client-15"),),
}
"""By activity: what it may be told to use as its client."""


def every() -> list[Program]:
    """All programs that some description may need."""
    programs = [Program(name, package, "every run") for name, package in PROGRAMS]
    for service in SERVICES.values():
        programs += [Program(*pair, f"service {service.name}") for pair in zip(service.programs, service.packages, strict=True)]
    for activity, pairs in CLIENTS.items():
        programs += [Program(*pair, f"activity {activity}") for pair in pairs]
    for kind in KINDS.values():
        programs += [Program(*pair, f"attack {kind.name}") for pair in zip(kind.programs, kind.packages, strict=True)]
    return programs


def wanted(site: Site, plan: Plan) -> list[Program]:
    """Those that this run needs."""
    services = {f"service {name}" for host in site.hosts if not host.down for name in host.services}
    activities = {f"activity {event.what}" for event in plan.events}
    attacks = {f"attack {attack.kind}" for attack in plan.attacks}
    needed = {"every run"} | services | activities | attacks
    return [program for program in every() if program.wanted_by in needed]


def refuse_missing(site: Site, plan: Plan) -> None:
    """LabError where a program that the run needs is not installed: which ones, and how to install them."""
    lacking = [program for program in wanted(site, plan) if found(program.name) is None]
    if lacking:
        by_name = {program.name: program for program in lacking}
        names = ", ".join(f"{program.name} ({program.wanted_by})" for program in by_name.values())
        packages = " ".join(sorted({program.package for program in lacking}))
        are = "is" if len(by_name) == 1 else "are"
        raise LabError(f"{names} {are} not installed: apt-get install {packages}")


def told(versions: dict[str, str]) -> Iterator[str]:
    """A line for each program: where it is, of which version, and who wants it."""
    users: dict[tuple[str, str], list[str]] = {}
    for program in every():
        users.setdefault((program.name, program.package), []).append(program.wanted_by)
    for (name, package), wanted_by in sorted(users.items()):
        place = found(name) or "MISSING"
        yield f"{name:<16}{place:<36}{package:<24}{versions.get(package, ''):<32}{', '.join(dict.fromkeys(wanted_by))}"
