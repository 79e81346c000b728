"""An installation made, made anew and taken away again, in a folder that is the root of no machine yet."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine import PYTHON, ROOT, folder, said, why_not

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.skipif(bool(why_not()), reason=why_not() or "none")]

CONFIG = "etc/netseq/sensor.toml"


def make(target: str, root: Path) -> str:
    strict = ["sh", "-c", 'umask 077; exec "$@"', "sh"]  # as some administrators have it
    return said([*strict, "make", "--no-print-directory", target, f"DESTDIR={root}", f"PYTHON={PYTHON}", "EXTRAS="])


def files_of(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir() or path.is_symlink()}


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    with folder() as made:
        make("install", made)
        yield made


def test_no_file_tells_where_it_was_made(root: Path) -> None:
    """But for compiled Python, whose paths the interpreter puts right, and pip's own note of where netseq's source lay."""
    told = subprocess.run(["grep", "-rlIF", str(root), str(root)], check=False, capture_output=True, text=True, timeout=60)
    assert told.stdout.splitlines() == []


def test_the_users_of_the_service_can_read_all_of_it(root: Path) -> None:
    modes = {path: path.stat().st_mode for path in root.rglob("*") if not path.is_symlink()}
    assert len(modes) > 1000
    assert [path for path, mode in modes.items() if not mode & 0o004 or (path.is_dir() and not mode & 0o001)] == []


def test_nothing_was_written_but_into_the_folders_of_the_installation(root: Path) -> None:
    homes = ("opt/netseq/", "usr/local/", "etc/netseq/", "etc/logrotate.d/")
    assert [file for file in files_of(root) if not file.startswith(homes)] == []


def test_what_install_wrote_down_is_what_lies_outside_its_folder(root: Path) -> None:
    listed = (root / "opt/netseq/share/netseq/installed").read_text().split()
    kept = {CONFIG, "etc/logrotate.d/netseq"}
    assert {file[1:] for file in listed} | kept == {file for file in files_of(root) if not file.startswith("opt/netseq/")}


def test_an_upgrade_replaces_what_nobody_edited_and_a_removal_leaves_nothing(root: Path) -> None:
    share = root / "opt/netseq/share/netseq"
    for older in (root / CONFIG, share / "sensor.toml"):  # as if an older version had shipped another
        older.write_text("# an older example\n")
    gone = "/usr/local/lib/systemd/system/netseq-of-old.service"  # as if that had one unit more
    (root / gone[1:]).write_text("")
    (share / "installed").open("a").write(f"{gone}\n")
    told = make("install", root)
    assert "edited" not in told
    assert (root / CONFIG).read_text() == (ROOT / "systemd/sensor.toml").read_text()
    assert not (root / gone[1:]).exists()
    make("uninstall", root)
    assert files_of(root) == set()
