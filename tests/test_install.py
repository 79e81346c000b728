"""What `make install` and `make uninstall` refuse, and what uninstall leaves. Whole installations are made in tests/system."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def make(target: str, root: Path, *variables: str) -> tuple[int, str, str]:
    """Run make for a machine whose root is `root`; returns status, output, errors."""
    command = ["make", "--no-print-directory", target, f"DESTDIR={root}", f"PYTHON={sys.executable}", *variables]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False, timeout=60)
    return done.returncode, done.stdout, done.stderr


def installed(root: Path, *files: str) -> Path:
    """Lay out what an installation leaves that matters for its removal; returns its folder."""
    home = root / "opt/netseq"
    (home / "share/netseq").mkdir(parents=True)
    (home / "share/netseq/installed").write_text("".join(f"{file}\n" for file in files))
    for file in files:
        (root / file[1:]).parent.mkdir(parents=True, exist_ok=True)
        (root / file[1:]).write_text("of this version\n")
    (home / "share/netseq/sensor.toml").write_text("as shipped\n")
    (root / "etc/netseq").mkdir(parents=True)
    (root / "etc/netseq/sensor.toml").write_text("as shipped\n")
    return home


@pytest.mark.parametrize("prefix", ["/", "/usr", "opt/netseq"])
def test_a_prefix_that_is_no_folder_of_its_own_is_refused(tmp_path: Path, prefix: str) -> None:
    status, _, told = make("install", tmp_path, f"PREFIX={prefix}")
    assert status
    assert f"netseq: PREFIX={prefix}: give netseq a folder of its own" in told
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "usr/local/bin").mkdir(parents=True)
    status, _, told = make("install", tmp_path, "PREFIX=/usr/local")
    assert status
    assert f"{tmp_path}/usr/local: is there, and holds no netseq" in told


@pytest.mark.parametrize("home", ["/root", "/home/alice"])
def test_a_python_in_a_home_folder_is_refused_for_the_service_cannot_reach_it(tmp_path: Path, home: str) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho {home}/bin/python3.11\n")
    python.chmod(0o755)
    where = {"DESTDIR": str(tmp_path), "PREFIX": "/opt/netseq", "SYSCONFDIR": "/etc", "PYTHON": str(python)}
    command = [str(ROOT / "systemd/install.sh"), "install"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | where, text=True, capture_output=True, check=False, timeout=60)
    assert done.returncode == 1
    assert f"{home}/bin/python3.11: a service cannot reach a Python in a home folder" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_old_python_is_refused_with_its_version(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -c "import sys; sys.version_info = (3, 9); sys.version = \'3.9.1 (old)\'; $2"\n'
    )
    python.chmod(0o755)
    done = subprocess.run(
        ["make", "install", f"DESTDIR={tmp_path}", f"PYTHON={python}"],
        cwd=ROOT, text=True, capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode
    assert f"netseq needs Python 3.11 or later, and {python} is 3.9.1" in done.stderr


def test_uninstall_takes_away_what_install_wrote_down_and_nothing_else(tmp_path: Path) -> None:
    home = installed(tmp_path, "/usr/local/lib/systemd/system/netseq-sensor.service", "/usr/local/bin/netseq-replay")
    (tmp_path / "usr/local/bin/other").write_text("somebody else's\n")
    (tmp_path / "var/cache/netseq").mkdir(parents=True)
    status, told, _ = make("uninstall", tmp_path)
    assert status == 0
    assert told == ""
    assert not home.exists()
    files = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert files == [Path("usr/local/bin/other")]
    assert not (tmp_path / "var/cache/netseq").exists()


def test_uninstall_keeps_an_edited_configuration_and_the_state_and_says_so(tmp_path: Path) -> None:
    installed(tmp_path)
    (tmp_path / "etc/netseq/sensor.toml").write_text("edited\n")
    (tmp_path / "etc/netseq/sensor.toml.new").write_text("as an upgrade put it there\n")
    (tmp_path / "var/lib/netseq").mkdir(parents=True)
    status, told, _ = make("uninstall", tmp_path)
    assert status == 0
    assert told.splitlines() == ["kept: /etc/netseq/sensor.toml, which was edited", "kept: /var/lib/netseq"]
    assert (tmp_path / "etc/netseq/sensor.toml").read_text() == "edited\n"
    assert not (tmp_path / "etc/netseq/sensor.toml.new").exists()


def test_uninstall_of_nothing_says_so(tmp_path: Path) -> None:
    status, _, told = make("uninstall", tmp_path)
    assert status
    assert f"{tmp_path}/opt/netseq: holds no netseq, so nothing was taken away" in told


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_has_no_complaint() -> None:
    done = subprocess.run(
        ["shellcheck", "systemd/install.sh"], cwd=ROOT, text=True, capture_output=True, check=False, timeout=60
    )
    assert done.stdout == ""
