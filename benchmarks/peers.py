"""The tools that netseq is measured against, found, built or installed where that can be done, and how each one is called.

NFStream and the Python port of CICFlowMeter get virtual environments of their own in the benchmark's folder; the libpcap loop
is compiled from count.c; argus must be installed already. The Java CICFlowMeter is in no registry: who has it names its
command. What is missing is a row that says so and how to get it, never a reason to stop.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
NFSTREAM = ("nfstream==6.6.*",)
PORT = ("cicflowmeter==0.2.*", "scapy==2.5.*")
"""The port says that any scapy 2 will do, but from 2.6 on it reads every packet and writes no flow."""
JAVA = "NETSEQ_CICFLOWMETER"
"""Environment variable: the command of the Java CICFlowMeter; a capture and a folder for its table are put behind it."""


class Peer(NamedTuple):
    """One tool: `command`, the capture's path and `after` are what is run."""

    name: str
    command: tuple[str, ...]
    version: str
    absent: str = ""
    """Why it cannot be run and what would change that; empty when it can."""
    after: tuple[str, ...] = ()
    packets: int = 0
    """Packets of the capture it gets, for a tool that would take minutes over the common one; 0: the common one."""


def find_peers(folder: Path, few: Path) -> list[Peer]:
    """Return the peers in the order of the table; `folder` keeps what is compiled and installed, `few` is a capture to try."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_libpcap(folder), _argus(), find_nfstream(folder), _port(folder, few), find_java(folder, few)]


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


def find_nfstream(folder: Path) -> Peer:
    """Return NFStream, installed into an environment in `folder` unless it is there."""
    name, python = "NFStream (Python, C)", folder / "nfstream" / "bin" / "python"
    version = _installed(folder / "nfstream", NFSTREAM)
    if version is None:
        return Peer(name, (), "", _refused(folder / "nfstream", NFSTREAM))
    return Peer(name, (str(python), str(HERE / "run_nfstream.py")), version)


def _port(folder: Path, few: Path) -> Peer:
    environment, tables = folder / "cicflowmeter", folder / "cicflowmeter-tables"
    peer = Peer("Python port of CICFlowMeter", (), "", _refused(environment, PORT), packets=10_000)
    version = _installed(environment, PORT)
    if version is None:
        return peer
    command = (str(environment / "bin" / "cicflowmeter"), "-c", str(tables / "flows.csv"), "-f")
    return _tried(peer._replace(command=command, version=version, absent=""), few, tables)


def find_java(folder: Path, few: Path) -> Peer:
    """Return the Java CICFlowMeter that the user names: it is in no registry, and wants a jnetpcap that fits the machine."""
    tables, command = folder / "cicflowmeter-java-tables", tuple(shlex.split(os.environ.get(JAVA, "")))
    peer = Peer(
        "CICFlowMeter (Java)", (), "", f"in no package registry: install it and name its cfm in {JAVA}", packets=200_000
    )
    if not command:
        return peer
    return _tried(peer._replace(command=command, version="unknown version", absent="", after=(str(tables),)), few, tables)


def _tried(peer: Peer, few: Path, tables: Path) -> Peer:
    """Return `peer`, absent unless it writes the flows of `few` into `tables`: who silently does nothing would be fastest."""
    shutil.rmtree(tables, ignore_errors=True)
    tables.mkdir(parents=True)
    printed = _try([*peer.command, str(few), *peer.after])
    rows = sum(max(0, table.read_bytes().count(b"\n") - 1) for table in tables.glob("*.csv"))
    if printed is None or not rows:
        return peer._replace(command=(), absent=f"installed, but writes no flows: {shlex.join(peer.command)}")
    return peer


def _installed(environment: Path, requirements: tuple[str, ...]) -> str | None:
    """Return the version of the first requirement in `environment`, which is made unless it is there; None where it fails."""
    package = requirements[0].partition("=")[0]
    python = environment / "bin" / "python"
    ask = [str(python), "-c", f"import importlib.metadata; print(importlib.metadata.version({package!r}))"]
    version = _try(ask) if python.exists() else None
    if version is None:
        print(f"installing {' '.join(requirements)} into {environment}", file=sys.stderr)
        made = _try([sys.executable, "-m", "venv", "--clear", str(environment)])
        installed = made is not None and _try([str(python), "-m", "pip", "install", "--quiet", *requirements])
        version = _try(ask) if installed is not None else None
    return version


def _refused(environment: Path, requirements: tuple[str, ...]) -> str:
    return f"cannot be installed here: pip install {shlex.join(requirements)} in {environment}"


def _debian_version(package: str) -> str:
    return _try(["dpkg-query", "--show", "--showformat=${Version}", package]) or "unknown version"


def _try(command: list[str]) -> str | None:
    """Return what `command` prints, or None when it cannot be started or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
