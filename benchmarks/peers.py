"""The tools that netseq is measured against, found, built or installed where that can be done, and how each one is called.

NFStream gets a virtual environment of its own in the benchmark's folder; the libpcap loop is compiled from count.c; argus
must be installed already. What is missing is a row that says so and how to get it, never a reason to stop.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
NFSTREAM = "nfstream==6.6.*"


class Peer(NamedTuple):
    """One tool: `command` and the capture's path are what is run."""

    name: str
    command: tuple[str, ...]
    version: str
    absent: str = ""
    """Why it cannot be run and what would change that; empty when it can."""


def find_peers(folder: Path) -> list[Peer]:
    """Return the peers in the order of the table; `folder` keeps what is compiled and installed."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_libpcap(folder), _argus(), _nfstream(folder)]


def _libpcap(folder: Path) -> Peer:
    name, program = "libpcap counting loop (C)", folder / "count"
    compiler = shutil.which("cc")
    if compiler is None:
        return Peer(name, (), "", "no C compiler: apt-get install gcc libpcap-dev")
    built = _try([compiler, "-O2", "-o", str(program), str(HERE / "count.c"), "-lpcap"])
    if built is None:
        return Peer(name, (), "", "does not compile: apt-get install libpcap-dev")
    return Peer(name, (str(program),), _debian_version("libpcap0.8"))


def _argus() -> Peer:
    name, program = "argus (C)", shutil.which("argus", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if program is None:
        return Peer(name, (), "", "not installed: apt-get install argus-server")
    return Peer(name, (program, "-X", "-w", "/dev/null", "-r"), _debian_version("argus-server"))


def _nfstream(folder: Path) -> Peer:
    name, environment = "NFStream (Python, C)", folder / "nfstream"
    python = environment / "bin" / "python"
    ask = [str(python), "-c", "import nfstream; print(nfstream.__version__)"]
    version = _try(ask) if python.exists() else None
    if version is None:
        print(f"installing {NFSTREAM} into {environment}", file=sys.stderr)
        made = _try([sys.executable, "-m", "venv", "--clear", str(environment)])
        installed = made is not None and _try([str(python), "-m", "pip", "install", "--quiet", NFSTREAM])
        version = _try(ask) if installed is not None else None
    if version is None:
        return Peer(name, (), "", f"cannot be installed here: pip install '{NFSTREAM}' in {environment}")
    return Peer(name, (str(python), str(HERE / "run_nfstream.py")), version)


def _debian_version(package: str) -> str:
    return _try(["dpkg-query", "--show", "--showformat=${Version}", package]) or "unknown version"


def _try(command: list[str]) -> str | None:
    """Return what `command` prints, or None when it cannot be started or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
