"""A model's folder when the disk is full or the machine goes down, whatever kind of model it is."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
import torch
from torch import Tensor

from models import checkpoint, multiflow_checkpoint
from models.folder import MANIFEST, TENSORS, ModelDoesNotFit, read_manifest, read_tensors, write_model

FORMAT = "netseq-words-1"


class Small(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest."""

    format: str = FORMAT
    told: str = ""
    weights_sha256: str = ""


def write(folder: Path, number: float, told: str = "") -> None:
    write_model(folder, Small(told=told), {"numbers": torch.full((64,), number)})


def number_in(folder: Path) -> float:
    tensors: dict[str, Tensor] = read_tensors(folder, read_manifest(folder, FORMAT, Small).weights_sha256)
    return float(tensors["numbers"][0])


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def room_for(count: int) -> Iterator[None]:
    """No file may grow beyond so many bytes: writing more fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(("told", "count"), [("", 200), ("x" * 100_000, 50_000)])
def test_a_disk_full_of_either_file_leaves_the_model_that_was_there(told: str, count: int, tmp_path: Path) -> None:
    write(tmp_path, 1.0)
    with room_for(count), pytest.raises(OSError, match="File too large"):
        write(tmp_path, 2.0, told)
    assert number_in(tmp_path) == 1.0
    assert names_in(tmp_path) == [MANIFEST, TENSORS]
    write(tmp_path, 2.0, told)
    assert number_in(tmp_path) == 2.0


def between_the_renames(tmp_path: Path) -> Path:
    """A folder whose model 1 was being followed by model 2 when the machine went down."""
    write(tmp_path / "one", 1.0)
    write(tmp_path / "two", 2.0)
    shutil.copy(tmp_path / "two" / MANIFEST, tmp_path / "one" / MANIFEST)
    shutil.copy(tmp_path / "two" / TENSORS, tmp_path / "one" / f"{TENSORS}.new")
    return tmp_path / "one"


def test_a_crash_between_the_two_renames_leaves_the_new_model(tmp_path: Path) -> None:
    folder = between_the_renames(tmp_path)
    assert number_in(folder) == 2.0
    (folder / TENSORS).unlink()
    assert number_in(folder) == 2.0


def test_a_failed_save_after_such_a_crash_leaves_that_model_too(tmp_path: Path) -> None:
    folder = between_the_renames(tmp_path)
    with room_for(200), pytest.raises(OSError, match="File too large"):
        write(folder, 3.0)
    assert number_in(folder) == 2.0
    assert names_in(folder) == [MANIFEST, TENSORS]


def test_what_a_crash_before_the_renames_left_is_not_read_and_makes_way(tmp_path: Path) -> None:
    write(tmp_path / "one", 1.0)
    write(tmp_path / "two", 2.0)
    for name in (MANIFEST, TENSORS):
        shutil.copy(tmp_path / "two" / name, tmp_path / "one" / f"{name}.new")
    assert number_in(tmp_path / "one") == 1.0
    write(tmp_path / "one", 3.0)
    assert number_in(tmp_path / "one") == 3.0
    assert names_in(tmp_path / "one") == [MANIFEST, TENSORS]


def test_a_model_of_the_other_kind_is_told_by_its_kind() -> None:
    with pytest.raises(ModelDoesNotFit, match="a word model, where a multi-flow model is wanted: give the folder of one"):
        multiflow_checkpoint.load(checkpoint.DEFAULT_MODEL)
    with pytest.raises(ModelDoesNotFit, match="a multi-flow model, where a word model is wanted: give the folder of one"):
        checkpoint.load(multiflow_checkpoint.DEFAULT_LOGS)
