"""The commands of docs/operations.md, run as they are written there, in their order, on a fresh Debian 12.

The machine has no network, so pip finds what it downloads in a folder, told by its own environment variables; nothing else is
different from what an operator does. A veth pair is the interface that the page calls eth0.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine import ROOT, Machine, machine, until, wheels

pytestmark = [pytest.mark.root, pytest.mark.slow]

UNIT = "netseq-sensor.service"
SOURCE = ("Makefile", "setup.cfg", "pyproject.toml", "constraints.txt", "README.md", "LICENSE")
FOLDERS = ("sensor", "models", "systemd", "plugins")


def blocks() -> dict[str, list[str]]:
    """The commands of the section about the service, under the first word of the text before them."""
    page = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    section = page.split("\n## As a service\n")[1].split("\n## ")[0]
    found = re.findall(r"\n\n(\w+)[^\n]*(?:\n[^\n]+)*\n\n```sh\n(.*?)```", section, re.DOTALL)
    assert section.count("```sh") == len(found)
    return {word.lower(): commands.strip().splitlines() for word, commands in found}


@pytest.fixture(scope="module")
def fresh() -> Iterator[Machine]:
    with machine() as made:
        source = made.root / "root/netseq"
        source.mkdir()
        for name in SOURCE:
            shutil.copy(ROOT / name, source)
        for name in FOLDERS:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(wheels(), made.root / "wheels")
        made.boot()
        made.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "wire0")
        for name in ("eth0", "wire0"):
            made.run("ip", "link", "set", name, "up")
        yield made


def operate(fresh: Machine, word: str) -> str:
    """Run a block of the page; returns all that it said."""
    script = "\n".join(["set -e", "cd /root/netseq", *blocks()[word]])
    return fresh.run("env", "PIP_NO_INDEX=1", "PIP_FIND_LINKS=/wheels", "bash", "-c", f"exec 2>&1; {script}")


def test_the_page_has_each_step_in_order() -> None:
    assert list(blocks()) == ["install", "say", "start", "watch", "reload", "upgrade", "remove"]


def test_an_operator_installs_starts_watches_reloads_upgrades_and_removes_it(fresh: Machine) -> None:
    assert "installed: settings are in /etc/netseq/sensor.toml" in operate(fresh, "install")
    assert "eth0" in operate(fresh, "say")
    operate(fresh, "start")
    assert fresh.show(UNIT, "ActiveState") == "active"
    watched = operate(fresh, "watch")
    assert "active (running)" in watched
    assert '"doing"' in watched
    assert "netseq_packets" in watched
    operate(fresh, "reload")
    until(lambda: '"reloaded"' in fresh.journal(UNIT), 30, lambda: fresh.journal(UNIT))
    pid = fresh.show(UNIT, "MainPID")
    upgraded = operate(fresh, "upgrade")
    assert "/etc/netseq/sensor.toml was edited, and stays as it is" in upgraded
    assert fresh.ok("test", "-e", "/etc/netseq/sensor.toml.new")
    assert 'interfaces = ["eth0"]' in fresh.run("cat", "/etc/netseq/sensor.toml")
    assert fresh.show(UNIT, "ActiveState") == "active"
    assert fresh.show(UNIT, "MainPID") != pid
    assert '"state_taken_up"' in fresh.journal(UNIT)
    removed = operate(fresh, "remove")
    assert "kept: /etc/netseq/sensor.toml, which was edited" in removed
    assert left(fresh.root) == []
    assert not fresh.ok("systemctl", "cat", UNIT)


def left(root: Path) -> list[str]:
    """What still speaks of netseq outside the source."""
    places = [root / name for name in ("etc", "opt", "usr/local", "var/lib", "var/log", "var/cache")]
    return [str(path) for place in places for path in place.rglob("*netseq*") if not path.name.startswith(".")]
