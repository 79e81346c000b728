"""A training that is not done yet, as one file: weights, the best weights so far, the optimiser's moments, the history.

safetensors for the numbers, JSON in its header for the rest: no pickle, and one file, so that no two halves can part. It
is written beside its place, forced to the disk and renamed: a full disk or a crash leaves the last good one. What a
checkpoint was made with (shape, settings, data) must be what it goes on with, or the result would be neither training's.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

FORMAT = "netseq-multiflow-training-1"
"""Another number at the end is another layout, or another meaning of the same numbers."""
AFRESH = "remove it to train afresh"
AS_BEFORE = f"go on with what it was made with, or {AFRESH}"
_KEY = "training"
_LENGTH_BYTES = 8
"""safetensors begins with the length of its header, little-endian."""


class CheckpointDoesNotFit(Exception):  # noqa: N818  # reads as the sentence it is, beside ModelDoesNotFit
    """A checkpoint that training cannot go on from; str() is the one line for the user."""


class Passed(msgspec.Struct, frozen=True, array_like=True):
    """What one epoch gave, for a progress display and for early stopping."""

    number: int
    of: int
    train_nats: float
    """Mean loss of a window, with class weights and dropout."""
    validation_nats: float | None
    """The same on what is held back, without dropout; None when nothing is."""
    macro_f1: float | None
    best: bool


class About(msgspec.Struct, frozen=True, kw_only=True):
    """All of a checkpoint that is not a tensor."""

    format: str = FORMAT
    shape: dict[str, int]
    settings: dict[str, int | float | str]
    data_sha256: str
    history: list[Passed]


def write(path: Path, about: About, tensors: dict[str, Tensor]) -> None:
    """Write a checkpoint in place of the last one. Raises OSError, and the last one still stands then."""
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = save_tensors(held, {_KEY: msgspec.json.encode(about).decode()})
    beside = path.with_name(path.name + ".new")
    try:
        with beside.open("wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        beside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):  # the first failure is the one to tell
            beside.unlink(missing_ok=True)
        raise


def read(path: Path) -> bytes | None:
    """The bytes of a checkpoint; None where there is no file. Raises CheckpointDoesNotFit when it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as wrong:
        raise CheckpointDoesNotFit(f"{path}: the checkpoint cannot be read ({wrong.strerror})") from None


def decode(path: Path, content: bytes, wanted: About) -> tuple[About, dict[str, Tensor]]:
    """Take a checkpoint apart. Raises CheckpointDoesNotFit unless it was made with the shape, settings and data of `wanted`."""
    try:
        head = int.from_bytes(content[:_LENGTH_BYTES], "little")
        kept = msgspec.json.decode(content[_LENGTH_BYTES : _LENGTH_BYTES + head])["__metadata__"][_KEY]
        form = msgspec.json.decode(kept)["format"]
        if form != FORMAT:
            raise CheckpointDoesNotFit(f"{path}: a checkpoint of another version ({str(form)[:60]!r}): {AFRESH}")
        about = msgspec.json.decode(kept, type=About)
        tensors = load_tensors(content)
    except (SafetensorError, msgspec.MsgspecError, UnicodeDecodeError, KeyError, TypeError) as wrong:
        raise CheckpointDoesNotFit(f"{path}: no checkpoint, or a damaged one ({type(wrong).__name__}): {AFRESH}") from None
    for what, had, has in (("shape", about.shape, wanted.shape), ("settings", about.settings, wanted.settings)):
        other = sorted(name for name in had.keys() | has.keys() if had.get(name) != has.get(name))
        if other:
            told = ", ".join(f"{name} {had.get(name)}, now {has.get(name)}" for name in other)
            longer = "; no run can be lengthened: the learning rate falls over all its epochs" if "epochs" in other else ""
            raise CheckpointDoesNotFit(f"{path}: the checkpoint was made with another {what} ({told}{longer}): {AS_BEFORE}")
    if about.data_sha256 != wanted.data_sha256:
        raise CheckpointDoesNotFit(f"{path}: the checkpoint was made with other data, labels or another split: {AS_BEFORE}")
    return about, tensors
