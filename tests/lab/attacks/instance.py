"""What attacks share when they run: the folder of an instance, its parameters by sort, its addresses, and running a tool.

Every command is written down before it runs, so that the instance's record tells what was done. A tool stays in the process
group of the instance: the driver ends that group, and nothing outlives it.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..site import Attack, Host, LabError, Line, Site

COMMANDS = "commands.txt"


def folder(attack: Attack, run: Path) -> Path:
    """The folder for what an instance writes, made if it is not there."""
    own = run / "attacks" / attack.name
    own.mkdir(parents=True, exist_ok=True)
    return own


def whole(attack: Attack, name: str) -> int:
    """A parameter that counts something: at least 1."""
    value = attack.given[name]
    if not isinstance(value, int) or value < 1:
        raise LabError(f"{attack.name}: {name} is {value!r}: give a whole number of at least 1")
    return value


def number(attack: Attack, name: str) -> float:
    """A parameter that measures something: at least 0."""
    value = attack.given[name]
    if not isinstance(value, int | float) or value < 0:
        raise LabError(f"{attack.name}: {name} is {value!r}: give a number of at least 0")
    return float(value)


def text(attack: Attack, name: str, *allowed: str) -> str:
    """A parameter in words; one of those allowed, if any are named."""
    value = attack.given[name]
    if not isinstance(value, str) or (allowed and value not in allowed):
        raise LabError(f"{attack.name}: {name} is {value!r}: give {' or '.join(allowed) or 'a text'}")
    return value


def source(attack: Attack, site: Site) -> str:
    """The address from which the attacker's tools send, if nothing else is told."""
    return site[attack.attacker].ipv4[0]


def targets(attack: Attack, site: Site) -> tuple[str, ...]:
    """The first address of every victim."""
    return tuple(site[victim].ipv4[0] for victim in attack.victims)


def target(attack: Attack, site: Site) -> str:
    """The address of the only victim; LabError when there are several."""
    if len(attack.victims) != 1:
        raise LabError(f"{attack.name} has {len(attack.victims)} victims: this kind takes one")
    return targets(attack, site)[0]


def routers(site: Site) -> Iterable[Host]:
    """The hosts that may answer for one that is down."""
    return (host for host in site.hosts if host.kind == "router")


def between(attack: Attack, site: Site, dst_port: str = "", protocol: str = "") -> Iterable[Line]:
    """The lines of what goes from the attacker's own address to each victim."""
    for victim in targets(attack, site):
        yield Line(source(attack, site), victim, dst_port=dst_port, protocol=protocol)


def program(name: str, package: str) -> str:
    """The full path of an executable; LabError with the name of its package when it is missing."""
    found = shutil.which(name, path="/usr/bin:/usr/sbin:/bin:/sbin")
    if found is None:
        raise LabError(f"{name} is not installed: apt-get install {package}")
    return found


def call(attack: Attack, run: Path, argv: Sequence[str], accepted: Iterable[int] = (0,), seconds: float | None = None) -> None:
    """Run a tool to its end, or end it after some seconds; its output in the instance's folder; LabError when it fails."""
    own = folder(attack, run)
    note(attack, run, shlex.join(argv))
    with (own / "output.txt").open("ab") as output:
        # the venv must not come before /usr/bin: Debian's tools are Python programs that need Debian's Python
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(own), "LANG": "C.UTF-8"}
        with subprocess.Popen(argv, cwd=own, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment) as tool:
            try:
                status = tool.wait(seconds)
            except subprocess.TimeoutExpired:
                tool.terminate()
                return
    if status not in set(accepted):
        raise LabError(f"{attack.name}: {Path(argv[0]).name} ended with status {status}: see attacks/{attack.name}/output.txt")


def note(attack: Attack, run: Path, command: str) -> None:
    """Write down what is about to be run."""
    with (folder(attack, run) / COMMANDS).open("a", encoding="utf-8") as commands:
        commands.write(f"{command}\n")
