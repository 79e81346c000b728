"""Network namespaces for tests: two of them with a wire between (a veth pair), made for one test and deleted after it.

Nothing that is sent there reaches the machine's own network. Tests enter one in a thread of its own: a thread's namespace is
kept by the sockets that it opens, whoever uses them later.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import pytest

T = TypeVar("T")

PREFIX = "netseq-"
CLONE_NEWNET = 0x4000_0000
PATIENCE_S = 60.0
"""For anything that a test waits for: long, because the machine is shared."""

_numbers = itertools.count()


def run(*command: str) -> str:
    """Run a command to its end; its output. AssertionError with what it said when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def delete_left_over() -> None:
    """Delete namespaces whose tests were killed before they could."""
    for door in Path("/run/netns").glob(f"{PREFIX}*"):
        owner = door.name.removeprefix(PREFIX).split("-")[0]
        if owner.isdigit() and not Path("/proc", owner).exists():
            subprocess.run(["ip", "netns", "delete", door.name], capture_output=True, check=False)  # another test may be faster


class Namespace:
    """One network namespace, with nothing in it but a loopback interface."""

    def __init__(self) -> None:
        delete_left_over()
        self.name = f"{PREFIX}{os.getpid()}-{next(_numbers)}"
        run("ip", "netns", "add", self.name)
        self._pools: list[ThreadPoolExecutor] = []
        for scope in ("all", "default"):  # neighbour discovery would be heard among the test's packets
            self.run("sysctl", "-qw", f"net.ipv6.conf.{scope}.disable_ipv6=1")

    def run(self, *command: str) -> str:
        """Run a command inside."""
        return run("ip", "netns", "exec", self.name, *command)

    def begin(self, function: Callable[[], T]) -> Future[T]:
        """Run a function inside, in a thread of its own."""
        pool = ThreadPoolExecutor(1, initializer=self._enter)
        self._pools.append(pool)
        return pool.submit(function)

    def call(self, function: Callable[[], T]) -> T:
        """Run a function inside and wait for it."""
        return self.begin(function).result(PATIENCE_S)

    def _enter(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        with Path("/run/netns", self.name).open() as door:
            if libc.setns(door.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")

    def delete(self) -> None:
        """Take it away, with all interfaces in it."""
        for pool in self._pools:
            pool.shutdown(wait=False, cancel_futures=True)
        run("ip", "netns", "delete", self.name)


@contextmanager
def namespace() -> Iterator[Namespace]:
    """A namespace for the time of the block; skips the test where none can be made."""
    if os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("needs root and iproute2 to make a network namespace")
    try:
        space = Namespace()
    except AssertionError as error:
        pytest.skip(f"no network namespace can be made here: {error}")
    try:
        yield space
    finally:
        space.delete()


class Wire(NamedTuple):
    """Two namespaces: what is sent on `near` of the first one arrives on `far` of the second."""

    sender: Namespace
    receiver: Namespace
    near: str = "near0"
    far: str = "far0"

    def lay(self, near: str, far: str) -> None:
        """Join the two by one more pair of interfaces, up, without offloads, for frames of any length."""
        self.sender.run("ip", "link", "add", near, "mtu", "60000", "type", "veth", "peer", "name", far, "mtu", "60000")
        self.sender.run("ip", "link", "set", far, "netns", self.receiver.name)
        for space, name in ((self.sender, near), (self.receiver, far)):
            space.run("ip", "link", "set", name, "up")
            offloads = ("gro", "gso", "tso", "rx", "tx", "rxvlan", "txvlan")
            space.run("ethtool", "-K", name, *(word for offload in offloads for word in (offload, "off")))

    def send(self, capture: Path, *options: str, near: str = "") -> int:
        """Send a capture with tcpreplay, at top speed unless the options say otherwise; how many frames went out."""
        options = options or ("--topspeed",)
        said = self.sender.run("tcpreplay", "-i", near or self.near, *options, str(capture))
        assert "Failed packets:            0" in said, said
        sent = re.search(r"Successful packets: +(\d+)", said)
        assert sent is not None, said
        return int(sent[1])


@contextmanager
def wire() -> Iterator[Wire]:
    """Two namespaces and a wire, for the time of the block."""
    for tool in ("tcpreplay", "ethtool"):
        if not shutil.which(tool):
            pytest.skip(f"needs {tool}")
    with ExitStack() as stack:
        wire = Wire(stack.enter_context(namespace()), stack.enter_context(namespace()))
        wire.lay(wire.near, wire.far)
        yield wire


def wait_until(true: Callable[[], bool], what: str) -> None:
    """Wait until something holds; AssertionError when it takes too long."""
    pause, waited_s = threading.Event(), 0.0
    while not true():
        pause.wait(0.01)
        waited_s += 0.01
        assert waited_s < PATIENCE_S, f"it never came: {what}"
