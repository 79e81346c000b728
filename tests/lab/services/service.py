"""What a service is to the laboratory: the programs it needs, the ports it answers at, and how it is started.

A service writes a configuration of its own below the run's folder (`DIR/services/HOST/NAME`) and hands the command to `launch`,
which runs it in the host's namespace and ends it with the run: in the foreground, never as a daemon. What clients need of a
service besides its address (the authority's certificate, keys) lies below `DIR/services` too. Called by run.py.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..site import Host, LabError, Site

Launch = Callable[[Sequence[str]], None]
"""Run a command in the foreground in the host's namespace, its output in a log; it is ended by the run."""

PLACES = ("/usr/sbin", "/sbin", "/usr/lib/postgresql/*/bin")
"""Where Debian keeps servers, besides the PATH."""


@dataclass(frozen=True, slots=True)
class Service:
    """Something that a host offers."""

    name: str
    programs: tuple[str, ...]
    """Executables that it cannot do without."""
    packages: tuple[str, ...]
    """The Debian package of each of them, in the same order."""
    ports: tuple[tuple[str, int], ...]
    """Where it answers, as ("tcp", 80)."""
    start: Callable[[Host, Site, Path, Launch], None]
    """Given the host, the site, the run's folder: write the configuration and launch."""
    text: str
    """What it is, for the manual and `tools`."""

    def __post_init__(self) -> None:
        if len(self.programs) != len(self.packages):
            raise ValueError(f"{self.name}: a package for each program")


def found(program: str) -> str | None:
    """Where an executable is, or None: the PATH of a user who became root lacks the servers' folders."""
    places = [str(place) for pattern in PLACES for place in sorted(Path("/").glob(pattern[1:]), reverse=True)]
    return shutil.which(program, path=os.pathsep.join((os.environ.get("PATH", os.defpath), *places)))


def needed(program: str) -> str:
    """Where an executable is; LabError when it is nowhere."""
    path = found(program)
    if path is None:
        raise LabError(f"{program} is not installed: `python -m tests.lab tools` tells its package")
    return path


def own_folder(run: Path, host: Host, service: str) -> Path:
    """Make the folder of one service on one host, `DIR/services/HOST/NAME`."""
    folder = run / "services" / host.name / service
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)  # the server's user must pass, whatever the umask
    return folder


def names(host: Host, site: Site) -> tuple[str, ...]:
    """All names of a host in the laboratory's DNS: its own in the site's domain, and those of its sites."""
    return (f"{host.name}.{site.domain}", *(name for name in host.names if name != f"{host.name}.{site.domain}"))
