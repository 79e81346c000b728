"""Two network namespaces with a wire between (a veth pair), and what sends on it: made for one benchmark, gone after it.

Nothing that is sent there reaches the machine's own network. The namespaces are deleted when the block ends, after an error
and after Ctrl-C too; those of a benchmark that was killed go when the next one begins. `live` and its figures use this.
"""

from __future__ import annotations

import ctypes
import os
import re
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

from benchmarks.measure import CommandError

T = TypeVar("T")

PREFIX = "netseq-bench-"
DOORS = Path("/run/netns")
CLONE_NEWNET = 0x4000_0000
TOOLS = {"ip": "iproute2", "ethtool": "ethtool", "sysctl": "procps", "tcpreplay": "tcpreplay"}
"""What is needed, and the Debian package that has it."""
NEAR, FAR = "near0", "far0"
OFFLOADS = ("gro", "gso", "tso", "rx", "tx", "rxvlan", "txvlan")
"""What would join frames, or leave checksums out: turned off, so that what is counted is what was sent."""
PATIENCE_S = 120.0


class Sent(NamedTuple):
    """What a sender did."""

    packets: int
    bytes: int
    seconds: float
    cpu_s: float

    @property
    def rate(self) -> float:
        """Packets a second."""
        return self.packets / self.seconds


def missing() -> list[str]:
    """Return a line for each thing that is not here and what to do about it; nothing is installed."""
    lines = [] if os.geteuid() == 0 else ["not root: network namespaces need it; run: sudo make bench-live"]
    packages = sorted({package for tool, package in TOOLS.items() if shutil.which(tool, path=_path()) is None})
    return lines + ([f"missing: apt-get install {' '.join(packages)}"] if packages else [])


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def run(*command: str) -> str:
    """Run a command to its end; returns what it said. Raises CommandError when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    if done.returncode:
        raise CommandError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout + done.stderr


class Wire:
    """What is sent on NEAR in the first namespace arrives on FAR in the second. Made by `wire`."""

    def __init__(self) -> None:
        self.sender, self.receiver = (f"{PREFIX}{os.getpid()}-{end}" for end in ("near", "far"))
        self._inside = ThreadPoolExecutor(1, initializer=self._enter)

    def lay(self) -> None:
        """Make the namespaces and the pair between them. Raises CommandError."""
        for name in (self.sender, self.receiver):
            run("ip", "netns", "add", name)
            for scope in ("all", "default"):  # neighbour discovery would be heard among the packets
                run(*_entering(name), "sysctl", "-qw", f"net.ipv6.conf.{scope}.disable_ipv6=1")
        far = ("peer", "name", FAR, "netns", self.receiver)
        run(*_entering(self.sender), "ip", "link", "add", NEAR, "type", "veth", *far)
        run(*_entering(self.receiver), "ip", "link", "set", "lo", "up")
        for name, end in ((self.sender, NEAR), (self.receiver, FAR)):
            run(*_entering(name), "ip", "link", "set", end, "up")
            run(*_entering(name), "ethtool", "-K", end, *(word for offload in OFFLOADS for word in (offload, "off")))

    def delete(self) -> None:
        """Take both away, with all that is in them."""
        self._inside.shutdown(wait=False, cancel_futures=True)
        for name in (self.sender, self.receiver):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)

    @property
    def listening(self) -> tuple[str, ...]:
        """The command that enters the receiver's namespace; what is to be run there comes behind it."""
        return _entering(self.receiver)

    def inside(self, function: Callable[[], T]) -> T:
        """Call `function` in the receiver's namespace, in a thread of its own."""
        return self._inside.submit(function).result(PATIENCE_S)

    def begin(self, capture: Path, *options: str) -> Sender:
        """Begin to send a capture, read into memory first, with more of tcpreplay's options."""
        command = ("tcpreplay", "-i", NEAR, "--preload-pcap", "--no-flow-stats", *options, str(capture))
        return Sender([*_entering(self.sender), *command])

    def _enter(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        with (DOORS / self.receiver).open() as door:
            if libc.setns(door.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")


class Sender:
    """A tcpreplay that runs."""

    def __init__(self, command: list[str]) -> None:
        self._before = resource.getrusage(resource.RUSAGE_CHILDREN)
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    @property
    def running(self) -> bool:
        """Whether it still sends."""
        return self._process.poll() is None

    def end(self, patience_s: float = PATIENCE_S) -> Sent:
        """Wait for its end; returns what it sent. Raises CommandError when it failed, or could not send a frame."""
        before = self._before
        try:
            said = self._process.communicate(timeout=patience_s)[0]
        except subprocess.TimeoutExpired as late:
            raise CommandError(f"tcpreplay did not end within {patience_s:.0f} s") from late
        finally:
            self.close()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if self._process.returncode:
            raise CommandError(f"tcpreplay: {said.strip().rpartition(chr(10))[2]}")
        return sent(said)._replace(cpu_s=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)

    def close(self) -> None:
        """End it now, if it still runs."""
        if self.running:
            self._process.kill()
        self._process.wait(PATIENCE_S)


def sent(said: str) -> Sent:
    """Read what tcpreplay says at its end. Raises CommandError when frames failed, or it says something else."""
    numbers = re.search(r"Actual: (\d+) packets \((\d+) bytes\) sent in ([\d.]+) seconds", said)
    success, failed = (re.search(rf"{kind} packets: +(\d+)", said) for kind in ("Successful", "Failed"))
    if numbers is None or success is None or failed is None:
        raise CommandError(f"tcpreplay says what is not understood: {said.strip()[-200:]!r}")
    if int(failed[1]):
        raise CommandError(f"tcpreplay could not send {failed[1]} frames")
    return Sent(int(success[1]), int(numbers[2]), float(numbers[3]), 0.0)


@contextmanager
def wire() -> Iterator[Wire]:
    """A wire for the time of the block. Raises CommandError where none can be laid."""
    delete_left_over()
    laid = Wire()
    try:
        laid.lay()
        yield laid
    finally:
        laid.delete()


def delete_left_over() -> None:
    """Delete the namespaces of benchmarks that were killed."""
    for door in DOORS.glob(f"{PREFIX}*"):
        owner = door.name.removeprefix(PREFIX).partition("-")[0]
        if owner.isdigit() and not Path("/proc", owner).exists():
            subprocess.run(["ip", "netns", "delete", door.name], capture_output=True, check=False)


def wait_until(true: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
    """Wait until something holds. Raises CommandError when it takes too long."""
    end_s = time.monotonic() + patience_s
    while not true():
        if time.monotonic() > end_s:
            raise CommandError(f"it did not come within {patience_s:.0f} s: {what}")
        time.sleep(0.02)


def _entering(name: str) -> tuple[str, ...]:
    return ("ip", "netns", "exec", name)
