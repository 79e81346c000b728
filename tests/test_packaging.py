"""What an installation provides: the two packages, nobody else's, and commands that answer."""

from __future__ import annotations

import configparser
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import sensor

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("package", ["sensor", "models"])
def test_only_netseq_provides(package: str) -> None:
    """The names are general, so another distribution may bring them too: then one would shadow the other."""
    assert set(metadata.packages_distributions()[package]) == {"netseq"}


def test_the_installed_version_is_the_one_in_the_source() -> None:
    assert metadata.version("netseq") == sensor.__version__


def test_the_changelog_tells_the_version() -> None:
    assert f"## {sensor.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("asked", ["netseq-replay --help", "netseq-train words --help"])
def test_help_of_a_command_tells_its_usage_and_loads_no_model(asked: str) -> None:
    words = asked.split()
    (script,) = metadata.entry_points(group="console_scripts", name=words[0])
    assert script.dist is not None
    assert script.dist.name == "netseq"
    ask = f"import sys; sys.argv = {words!r}; import atexit; from {script.module} import {script.attr} as main\n"
    ask += "atexit.register(lambda: print('torch' in sys.modules)); sys.exit(main())"
    told = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, timeout=60, check=True)
    assert f"usage: {asked.removesuffix(' --help')}" in told.stdout
    assert "Examples" in told.stdout
    assert told.stdout.endswith("False\n")


@pytest.mark.parametrize("command", ["netseq-replay", "netseq-train"])
def test_the_command_is_installed_beside_python(command: str) -> None:
    assert (Path(sys.executable).parent / command).is_file()


def test_every_requirement_is_pinned_in_constraints_inside_its_range() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    ranges = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    for wanted in "\n".join(ranges).split():
        name, _, lowest = wanted.partition(">=")
        assert numbers(pins[name]) >= numbers(lowest), name


def numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def test_the_files_that_a_command_needs_are_packaged() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    patterns = setup["options.package_data"]["models"].replace(",", " ").split()
    packaged = {path for pattern in patterns for path in (ROOT / "models").glob(pattern)}
    needed = {path for path in (ROOT / "models").rglob("*") if path.is_file() and path.suffix in {".json", ".safetensors"}}
    assert needed <= packaged
