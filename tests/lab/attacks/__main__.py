"""Run one attack of the schedule and record what was done: `python -m tests.lab.attacks NAME --run DIR`.

It is started by run.py inside the attacker's namespace. The attack runs in a process and a process group of its own. When it
has ended, or its time is over, or the run ends, the whole group is killed, and when the last connection is closed the record is
written: instances/NAME.json, from which the labels are made. It is written whatever happened: what was sent is in the capture.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from multiprocessing import connection
from pathlib import Path
from types import FrameType
from typing import NoReturn

import msgspec

from ..site import Attack, LabError, Line, Plan, Site
from . import KINDS, instance
from .confined import open_connections, refuse_if_open
from .kind import Kind

LINES, ERROR = "lines.json", "error.txt"

CLOSING_S = 10.0
"""How long connections may take to close: as long as the answer to a FIN, sent again some times, takes on a bad link."""
LAST_PACKETS_S = 0.5
"""For packets on their way when the last connection was closed, besides the delay of the links."""
LOOK_S = 0.05
"""Between two looks at the open connections."""


class StoppedError(Exception):
    """The run was ended."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one instance; 0 when it came to its end or to its time limit, 2 with a line that tells what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.lab.attacks", description="Run one attack of a run's schedule.")
    parser.add_argument("name", help="the instance, as ssh_guess-2")
    parser.add_argument("--run", type=Path, required=True, help="the folder of the run, with hosts.json and schedule.json")
    told = parser.parse_args(arguments)
    try:
        site, attack = Site.read(told.run / "hosts.json"), planned(told.run, told.name)
        outcome = conduct(KINDS[attack.kind], attack, site, told.run.resolve())
    except LabError as error:
        sys.stderr.write(f"{told.name}: {error}\n")
        return 2
    sys.stderr.write(f"{told.name}: {outcome}\n")
    return 2 if outcome.startswith("failed") else 0


def planned(run: Path, name: str) -> Attack:
    """The instance of this name in the run's schedule, with all parameters of its kind; LabError when it is not there."""
    for attack in Plan.read(run / "schedule.json").attacks:
        if attack.name == name:
            if attack.kind not in KINDS:
                raise LabError(f"there is no kind of attack {attack.kind!r}: there are {', '.join(KINDS)}")
            return replace(attack, given=KINDS[attack.kind].complete(attack.given))
    raise LabError("the schedule has no attack of this name")


def conduct(kind: Kind, attack: Attack, site: Site, run: Path) -> str:
    """Run the instance, end all that it started, and write its record. How it ended: done, at its limit, stopped, or failed."""
    hosts = [site[name] for name in (attack.attacker, *attack.victims)]
    refuse_if_open(address for host in hosts for address in (*host.ipv4, *host.ipv6))
    own = instance.folder(attack, run)
    for left in (LINES, ERROR, instance.COMMANDS):
        (own / left).unlink(missing_ok=True)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    start_us = time.time_ns() // 1000
    try:
        outcome = _within(kind, attack, site, run)
        delay_s = sum(host.delay_ms for host in hosts) / 1000
        _settle([address for name in attack.victims for address in (*site[name].ipv4, *site[name].ipv6)], delay_s)
    except StoppedError:
        outcome = "stopped with the run"
    end_us = time.time_ns() // 1000
    _write(kind, attack, run, (start_us, end_us), outcome)
    return outcome


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    for again in (signal.SIGTERM, signal.SIGINT):
        signal.signal(again, signal.SIG_IGN)  # the record is still to be written
    raise StoppedError


def _within(kind: Kind, attack: Attack, site: Site, run: Path) -> str:
    """Run the instance in a process group of its own, which does not outlive this call."""
    child = multiprocessing.get_context("fork").Process(target=_perform, args=(kind, attack, site, run))
    child.start()
    assert child.pid is not None
    try:
        ended = connection.wait([child.sentinel], attack.within_s)
    finally:
        # the child is not waited for yet, so that its number cannot have become another's
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        child.kill()
        child.join()
    if not ended:
        return "ended at its time limit"
    error = instance.folder(attack, run) / ERROR
    if error.exists():
        return f"failed: {error.read_text('utf-8')}"
    return "done" if child.exitcode == 0 else f"failed: its process ended with status {child.exitcode}"


def _perform(kind: Kind, attack: Attack, site: Site, run: Path) -> None:
    """In the child: run the instance, and write each of its lines before what it matches is sent."""
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    own = instance.folder(attack, run)
    try:
        with (own / LINES).open("ab", buffering=0) as lines:
            for line in kind.run(attack, site, run):
                lines.write(msgspec.json.encode(line) + b"\n")
    except LabError as error:
        (own / ERROR).write_text(str(error), encoding="utf-8")


def _settle(victims: Sequence[str], delay_s: float) -> None:
    """Wait until what the instance left open is closed, and the last packets have arrived."""
    for _ in range(round(CLOSING_S / LOOK_S)):
        if not open_connections(victims):
            break
        time.sleep(LOOK_S)
    time.sleep(LAST_PACKETS_S + 2 * delay_s)


def _lines(own: Path) -> Iterator[Line]:
    path = own / LINES
    for row in path.read_bytes().splitlines() if path.exists() else ():
        with contextlib.suppress(msgspec.DecodeError):  # the last one, when it was killed while it wrote
            yield msgspec.json.decode(row, type=Line)


def _write(kind: Kind, attack: Attack, run: Path, times_us: tuple[int, int], outcome: str) -> None:
    own = instance.folder(attack, run)
    commands = own / instance.COMMANDS
    tool = str(attack.given.get("tool") or (kind.programs[0] if kind.programs else "netseq"))
    record = {
        "name": attack.name,
        "kind": kind.name,
        "label": kind.label,
        "attacker": attack.attacker,
        "victims": attack.victims,
        "start_us": times_us[0],
        "end_us": times_us[1],
        "tool": tool,
        "version": version(kind, tool),
        "command": commands.read_text("utf-8").splitlines() if commands.exists() else [],
        "given": attack.given,
        "outcome": outcome,
        "lines": tuple(_lines(own)),
    }
    path = run / "instances" / f"{attack.name}.json"
    path.parent.mkdir(exist_ok=True)
    # a reader must never see half of it
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")
    unfinished.replace(path)


def version(kind: Kind, tool: str) -> str:
    """The version of the Debian package that a tool comes from; Python's for what the laboratory sends itself."""
    packages = dict(zip(kind.programs, kind.packages, strict=True))
    if tool not in packages:
        return f"Python {platform.python_version()}"
    asked = ("dpkg-query", "--show", "--showformat", "${Version}", packages[tool])
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
