"""Runs a test in a private world of the laboratory (lab.world): the test's process is the machine's, its body is not.

A test marked with `in_world` is started again, alone, by a pytest of its own in a new world, and what that says is told when it
fails there. Where no world can be made the test skips with the reason.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec

import pytest
from lab import world
from lab.network import PROGRAMS

P = ParamSpec("P")

ROOT = Path(__file__).parents[1]
MOST_S = 300.0
"""For one test in its world: long, because the machine is shared."""


TUN = Path("/dev/net/tun")
NETEM = ("tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms")


def skip_without_worlds() -> None:
    """Skip the running test where no world can be made, or no network of the laboratory in it."""
    if reason := why_not():
        pytest.skip(reason)


@functools.cache
def why_not() -> str:
    """Why no world can be made here with a network in it, or ""."""
    if os.geteuid() != 0:
        return "needs root to make namespaces"
    missing = {package: program for program, package in PROGRAMS if not shutil.which(program)}
    if missing:
        return f"needs {', '.join(missing.values())} (Debian: {', '.join(missing)})"
    tried = _tried("true")
    if tried.returncode != 0:
        return f"no private world can be made here: {tried.stderr.strip()}"
    if not _opens(TUN) and _tried(*NETEM).returncode != 0:
        return f"nothing can delay packets here: needs {TUN}, or a kernel with netem"
    return ""


def _tried(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*argv), cwd=ROOT, capture_output=True, text=True, timeout=MOST_S, check=False)


def _opens(device: Path) -> bool:
    try:
        os.close(os.open(device, os.O_RDWR))
    except OSError:  # it is not there, or this container may not use it
        return False
    return True


def command(*argv: str) -> list[str]:
    """The command that runs another one in a world; its folder must be ROOT."""
    return [sys.executable, "-m", "tests.lab.world", *argv]


def in_world(test: Callable[P, None]) -> Callable[P, None]:
    """Run this test in a world of its own; it keeps its fixtures, which are made there again."""

    @functools.wraps(test)
    def outside(*args: P.args, **kwargs: P.kwargs) -> None:
        if world.inside():
            test(*args, **kwargs)
            return
        skip_without_worlds()
        node = os.environ["PYTEST_CURRENT_TEST"].rpartition(" (")[0]
        argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rs", str(ROOT / node)]
        alone = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # half of the second that it takes to begin
        done = subprocess.run(command(*argv), cwd=ROOT, env=alone, capture_output=True, text=True, timeout=MOST_S, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        if "1 skipped" in done.stdout:
            pytest.skip(done.stdout.partition("SKIPPED")[2].strip())

    return pytest.mark.root(outside)
