"""Where compiled kernels are kept, what goes, and that compiling is told of."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numba.core.config
import pytest

from sensor import kernels
from sensor.commands import reading

COMPILING = """
import sys
from sensor.kernels import njit, prepare_cache, when_compiling
prepare_cache()
when_compiling(lambda: print("compiling"))
sys.path.insert(0, sys.argv[1])
import one
one.more(1)
one.less(1)
"""
KERNELS = """
from sensor.kernels import njit
@njit
def more(number):
    return number + 1
@njit
def less(number):
    return number - 1
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache folder of its own; numba's settings are put back afterwards."""
    before = os.environ.get("NUMBA_CACHE_DIR")
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield tmp_path / "netseq"
    os.environ["NUMBA_CACHE_DIR"] = before or ""
    numba.core.config.reload_config()  # type: ignore[no-untyped-call]  # numba ships no types for it


def test_a_cache_folder_that_cannot_be_written_is_replaced_by_a_temporary_one(home: Path) -> None:
    home.write_text("a file where the folder should be")
    cache = kernels.prepare_cache()
    assert cache.refused is not None
    assert cache.refused.parent == home
    assert cache.folder.is_dir()
    assert home not in cache.folder.parents
    assert os.environ["NUMBA_CACHE_DIR"] == str(cache.folder)
    assert str(cache.refused) in reading.compiling(cache.refused)


def test_a_chosen_cache_folder_that_cannot_be_written_is_replaced_too(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/proc/kernels")
    assert kernels.prepare_cache().refused == Path("/proc/kernels")


def test_folders_of_earlier_sources_go_but_for_those_used_last(home: Path) -> None:
    for age in range(10):
        folder = home / f"kernels-0.0.1-{age}"
        folder.mkdir(parents=True)
        os.utime(folder, (1e9 - age, 1e9 - age))
    cache = kernels.prepare_cache()
    kept = {folder.name for folder in home.iterdir()}
    assert kept == {cache.folder.name} | {f"kernels-0.0.1-{age}" for age in range(kernels.KEPT_CACHES)}


def test_compiling_is_told_once_and_only_when_it_happens(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(KERNELS)
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "NUMBA_CACHE_DIR": "", "NUMBA_DISABLE_JIT": "0"}
    told = [
        subprocess.run(
            [sys.executable, "-c", COMPILING, str(tmp_path)],
            env=environment,
            cwd=Path(__file__).parents[1],
            capture_output=True,
            check=True,
            text=True,
            timeout=60,
        ).stdout
        for _ in range(2)
    ]
    assert told == ["compiling\n", ""]
