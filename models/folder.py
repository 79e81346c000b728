"""A model's folder: the numbers as safetensors, all the rest as a JSON manifest, whatever kind of model it is.

No pickle: a model file must not be able to run code in a security tool. The manifest carries the SHA-256 of the weights, so
that a folder whose halves do not belong together is refused. Whatever is wrong with a folder is one line in ModelDoesNotFit
that says what to do. `checkpoint` and `multiflow_checkpoint` say what is inside.

A model takes the place of another without a moment in which there is none. Both files are on the disk beside their places
before either is renamed; then the manifest is renamed, and then the weights. Between the two the new weights still lie beside
their place, where whoever reads finds them by their hash, and whoever writes next puts them in place first.
"""

from __future__ import annotations

import contextlib
import errno
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
KINDS = {"netseq-words": "word model", "netseq-multiflow": "multi-flow model"}
"""What a format is of, by its name without the number at its end."""
_BESIDE = ".new"
"""Behind the name of a file that is not in its place yet."""


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

    Raises OSError; the model that was there before is there still. What this has returned from, no crash undoes.
    """
    written = save_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    named = msgspec.structs.replace(manifest, weights_sha256=hashlib.sha256(written).hexdigest())
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    _settle(place)
    parts = ((place / MANIFEST, _readable(named)), (place / TENSORS, written))
    try:
        for path, content in parts:
            _write(_beside(path), content)
        _beside(place / MANIFEST).replace(place / MANIFEST)
    except OSError:
        for path, _ in parts:
            with contextlib.suppress(OSError):  # the first failure is the one to tell
                _beside(path).unlink(missing_ok=True)
        raise
    _beside(place / TENSORS).replace(place / TENSORS)
    _force(place)
    return named


def _settle(place: Path) -> None:
    """Put weights in place that a crash left beside it, if the manifest means them."""
    beside = _beside(place / TENSORS)
    try:
        meant = msgspec.json.decode((place / MANIFEST).read_bytes(), type=dict[str, Any]).get("weights_sha256")
        if hashlib.sha256(beside.read_bytes()).hexdigest() == meant:
            beside.replace(place / TENSORS)
    except (FileNotFoundError, msgspec.DecodeError):  # no such crash, or no model
        pass


def _beside(path: Path) -> Path:
    return path.with_name(path.name + _BESIDE)


def _write(path: Path, content: bytes) -> None:
    """Write a file through to the disk."""
    with path.open("wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())


def _force(folder: Path) -> None:
    """Bring the names in a folder to the disk, where its file system knows that: over a network some do not."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    except OSError as wrong:
        if wrong.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(opened)


def _readable(manifest: msgspec.Struct) -> bytes:
    """A manifest as JSON with one field a line: people compare models with diff."""
    fields = ((name, msgspec.json.encode(getattr(manifest, name))) for name in manifest.__struct_fields__)
    return b"{\n" + b",\n".join(b' "%s": %s' % (name.encode(), text) for name, text in fields) + b"\n}\n"


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
            raise ModelDoesNotFit(f"{place}: {_another(str(found)[:60], form)}")
        return msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError as wrong:
        raise ModelDoesNotFit(f"{place}: {MANIFEST} is damaged ({wrong}): copy or train the model again") from None


def _another(found: str, form: str) -> str:
    """What a model in the format `found` is, where one in `form` is wanted."""
    kind, wanted = (name.rpartition("-")[0] for name in (found, form))
    if kind in KINDS and kind != wanted:
        return f"a {KINDS[kind]}, where a {KINDS[wanted]} is wanted: give the folder of one ({found!r}, not {form!r})"
    return f"a model in the format {found!r}, this netseq reads {form!r}: train it again"


def read_tensors(place: Path, sha256: str) -> dict[str, Tensor]:
    """Read the weights, whose hash the manifest knows. Raises ModelDoesNotFit."""
    path, missing = place / TENSORS, ""
    for found in (path, _beside(path), path):  # a crash came between the two renames; or the second one does just now
        try:
            content = found.read_bytes()
        except OSError as wrong:
            missing = str(wrong.strerror) if found == path else missing
        else:
            if hashlib.sha256(content).hexdigest() == sha256:
                break
    else:
        if missing:
            raise ModelDoesNotFit(f"{place}: no weights there ({missing}: {TENSORS}): copy the whole folder")
        raise ModelDoesNotFit(
            f"{place}: {TENSORS} is damaged or another model's (its SHA-256 is not the manifest's): copy it again"
        )
    try:
        return load_tensors(content)
    except SafetensorError as wrong:
        raise ModelDoesNotFit(f"{place}: {TENSORS} cannot be read ({wrong}): copy or train the model again") from None
