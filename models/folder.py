"""A model's folder: the numbers as safetensors, all the rest as a JSON manifest, whatever kind of model it is.

No pickle: a model file must not be able to run code in a security tool. The manifest carries the SHA-256 of the weights, so
that a folder whose halves do not belong together is refused. Whatever is wrong with a folder is one line in ModelDoesNotFit
that says what to do. `checkpoint` and `multiflow_checkpoint` say what is inside.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

MANIFEST, TENSORS = "manifest.json", "weights.safetensors"


class ModelDoesNotFit(Exception):  # noqa: N818  # reads as the sentence it is, beside VocabularyDoesNotFit
    """A model that cannot be used here; str() is the one line for the user and says what to do."""


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """One file of training data."""

    name: str
    sha256: str
    rows: int
    licence: str = ""


M = TypeVar("M", bound=msgspec.Struct)


def write_model(folder: str | os.PathLike[str], manifest: M, tensors: Mapping[str, Tensor]) -> M:
    """Write a model into `folder` (made if need be). Returns the manifest as written, its `weights_sha256` filled in.

    Both files are written beside their places and then renamed, the manifest last: a crash leaves no half model behind.
    """
    written = save_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    named = msgspec.structs.replace(manifest, weights_sha256=hashlib.sha256(written).hexdigest())
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    write_beside(place / TENSORS, written)
    write_beside(place / MANIFEST, _readable(named))
    return named


def _readable(manifest: msgspec.Struct) -> bytes:
    """A manifest as JSON with one field a line: people compare models with diff."""
    fields = ((name, msgspec.json.encode(getattr(manifest, name))) for name in manifest.__struct_fields__)
    return b"{\n" + b",\n".join(b' "%s": %s' % (name.encode(), text) for name, text in fields) + b"\n}\n"


def write_beside(path: Path, content: bytes) -> None:
    """Write a file so that its place holds the old content or the new one, never a part of it. Raises OSError."""
    beside = path.with_name(path.name + ".new")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def read_manifest(place: Path, form: str, kind: type[M]) -> M:
    """Read the manifest of a model in the format `form`. Raises ModelDoesNotFit."""
    try:
        text = (place / MANIFEST).read_bytes()
    except OSError as wrong:
        raise ModelDoesNotFit(
            f"{place}: no model there ({wrong.strerror}: {MANIFEST}): give the folder that netseq-train wrote"
        ) from None
    try:
        found = msgspec.json.decode(text, type=dict[str, Any]).get("format")
        if found != form:
            raise ModelDoesNotFit(f"{place}: a model in the format {found!r}, this netseq reads {form!r}: train it again")
        return msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError as wrong:
        raise ModelDoesNotFit(f"{place}: {MANIFEST} is damaged ({wrong}): copy or train the model again") from None


def read_tensors(place: Path, sha256: str) -> dict[str, Tensor]:
    """Read the weights, whose hash the manifest knows. Raises ModelDoesNotFit."""
    try:
        content = (place / TENSORS).read_bytes()
    except OSError as wrong:
        raise ModelDoesNotFit(f"{place}: no weights there ({wrong.strerror}: {TENSORS}): copy the whole folder") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ModelDoesNotFit(
            f"{place}: {TENSORS} is damaged or another model's (its SHA-256 is not the manifest's): copy it again"
        )
    try:
        return load_tensors(content)
    except SafetensorError as wrong:
        raise ModelDoesNotFit(f"{place}: {TENSORS} cannot be read ({wrong}): copy or train the model again") from None
