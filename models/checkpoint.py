"""Models on disk: a folder with the numbers as safetensors and all the rest as a JSON manifest.

No pickle: a model file must not be able to run code in a security tool. The manifest says what a model reads (parts,
their sizes, the vocabulary, which kind of source), where it came from (data with hashes, seed, command), how its evidence
is weighed and how its verdicts are calibrated. It carries the SHA-256 of the weights, so that a folder whose halves do
not belong together is refused. Whatever is wrong with a model is one line in ModelDoesNotFit that says what to do.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from models import calibrate, verdict
from models.calibrate import Calibration
from models.frequency import Counts
from models.verdict import Weights
from models.words import Shape, WordLSTM

FORMAT = "netseq-words-1"
"""Of folder and manifest. Another number after the last dash is another layout."""
MOST_VALUES = 1 << 15
"""Values of a part: words are 16-bit integers."""
MOST_UNITS = 4096
"""Width of the LSTM and of a part's prediction. Beyond it no batch would be scored in time, and a damaged manifest would ask
for more memory than there is."""
DEFAULT_MODEL = Path(__file__).parent / "weights" / "default"
"""The model that comes along."""
MANIFEST, TENSORS = "manifest.json", "weights.safetensors"


class ModelDoesNotFit(Exception):  # noqa: N818  # reads as the sentence it is, beside VocabularyDoesNotFit
    """A model that cannot be used here; str() is the one line for the user and says what to do."""


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """One file of training data."""

    name: str
    sha256: str
    rows: int
    licence: str = ""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of a model but its numbers."""

    format: str = FORMAT
    kind: str = "words"
    name: str
    version: str
    parts: tuple[str, ...]
    sizes: tuple[int, ...]
    units: int
    head: int
    vocabulary: dict[str, Any]
    """What the parts' values mean: the vocabulary's own affair, so nothing is said of its types here."""
    spread: tuple[float, ...]
    """ln of how many different things each value of the first part stands for: zeros but for ranges and the unknown."""
    unlearned: tuple[int, ...]
    """What each value of the first part would be had it not been learned: further training needs it."""
    source_kind: str
    """What it was trained on: "conn.log", "captures", "flow-csv", or several joined by "+"."""
    data: tuple[Source, ...] = ()
    trained_from: str = ""
    """Name and version of the model that further training began with."""
    seed: int = 0
    command: str = ""
    validation_nats: float = 0.0
    """Nats per word on held-back words."""
    verdict: dict[str, Any] = {}
    calibration: dict[str, Any] = {}
    weights_sha256: str = ""


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A model, ready for `resident.Scorer`."""

    manifest: Manifest
    model: WordLSTM
    counts: Counts
    weights: Weights
    calibration: Calibration


def save(folder: str | os.PathLike[str], bundle: Bundle) -> Manifest:
    """Write a model into `folder` (made if need be). Returns the manifest as written, hash and tables filled in.

    Both files are written beside their places and then renamed, the manifest last: a crash leaves no half model behind.
    """
    tensors = {f"lstm.{name}": tensor.detach().cpu().contiguous() for name, tensor in bundle.model.state_dict().items()}
    counts = (torch.from_numpy(joint.astype(np.float32)) for joint in bundle.counts.joint)
    tensors |= {f"counts.{place}": joint for place, joint in enumerate(counts)}
    written = save_tensors(tensors)
    manifest = msgspec.structs.replace(
        bundle.manifest,
        verdict=bundle.weights.to_json(bundle.manifest.parts),
        calibration=bundle.calibration.to_json(),
        weights_sha256=hashlib.sha256(written).hexdigest(),
    )
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    _write(place / TENSORS, written)
    _write(place / MANIFEST, _readable(manifest))
    return manifest


def _readable(manifest: Manifest) -> bytes:
    """A manifest as JSON with one field a line: people compare models with diff."""
    fields = ((name, msgspec.json.encode(getattr(manifest, name))) for name in manifest.__struct_fields__)
    return b"{\n" + b",\n".join(b' "%s": %s' % (name.encode(), text) for name, text in fields) + b"\n}\n"


def _write(path: Path, content: bytes) -> None:
    beside = path.with_name(path.name + ".new")
    beside.write_bytes(content)
    beside.replace(path)


def load(folder: str | os.PathLike[str], *, parts: Sequence[str] | None = None) -> Bundle:
    """Read a model. With `parts`, it must read exactly these. Raises ModelDoesNotFit, one line, for whatever is wrong."""
    place = Path(folder)
    manifest = _manifest(place)
    if parts is not None and tuple(parts) != manifest.parts:
        raise ModelDoesNotFit(
            f"{place}: this model reads the parts {', '.join(manifest.parts)}; wanted are {', '.join(parts)}: "
            "choose another model or train one with --parts"
        )
    tensors = _tensors(place, manifest)
    lstm = {name.removeprefix("lstm."): tensor for name, tensor in tensors.items() if name.startswith("lstm.")}
    try:
        model = WordLSTM(Shape(manifest.sizes, manifest.units, manifest.head))
        model.load_state_dict(lstm)
        counts = Counts(manifest.sizes, tuple(_counts(tensors, manifest.sizes, part) for part in range(len(manifest.sizes))))
        weights = verdict.from_json(manifest.verdict, manifest.parts)
        calibration = calibrate.from_json(manifest.calibration)
    except (RuntimeError, KeyError, ValueError) as wrong:
        reason = " ".join(str(wrong).split())[:200]
        raise ModelDoesNotFit(f"{place}: weights and manifest do not fit each other ({reason}): train it again") from None
    return Bundle(manifest, model.eval(), counts, weights, calibration)


def _manifest(place: Path) -> Manifest:
    """Read and check the manifest by itself."""
    try:
        text = (place / MANIFEST).read_bytes()
    except OSError as wrong:
        raise ModelDoesNotFit(
            f"{place}: no model there ({wrong.strerror}: {MANIFEST}): give the folder that netseq-train wrote"
        ) from None
    try:
        form = msgspec.json.decode(text, type=dict[str, Any]).get("format")
        if form != FORMAT:
            raise ModelDoesNotFit(f"{place}: a model in the format {form!r}, this netseq reads {FORMAT!r}: train it again")
        manifest = msgspec.json.decode(text, type=Manifest)
    except msgspec.DecodeError as wrong:
        raise ModelDoesNotFit(f"{place}: {MANIFEST} is damaged ({wrong}): copy or train the model again") from None
    if (
        manifest.kind != "words"
        or len(manifest.parts) != len(manifest.sizes)
        or not manifest.sizes
        or not all(1 <= size <= MOST_VALUES for size in manifest.sizes)
        or {len(manifest.spread), len(manifest.unlearned)} != {manifest.sizes[0]}
    ):
        raise ModelDoesNotFit(f"{place}: not a word model with a size for each of its parts: train it again")
    if not all(1 <= width <= MOST_UNITS for width in (manifest.units, manifest.head)):
        raise ModelDoesNotFit(
            f"{place}: units and head are {manifest.units} and {manifest.head}, where 1 to {MOST_UNITS} can be meant:"
            " copy or train the model again"
        )
    return manifest


def _tensors(place: Path, manifest: Manifest) -> dict[str, Tensor]:
    """Read the weights, whose hash the manifest knows."""
    try:
        content = (place / TENSORS).read_bytes()
    except OSError as wrong:
        raise ModelDoesNotFit(f"{place}: no weights there ({wrong.strerror}: {TENSORS}): copy the whole folder") from None
    if hashlib.sha256(content).hexdigest() != manifest.weights_sha256:
        raise ModelDoesNotFit(
            f"{place}: {TENSORS} is damaged or another model's (its SHA-256 is not the manifest's): copy it again"
        )
    try:
        return load_tensors(content)
    except SafetensorError as wrong:
        raise ModelDoesNotFit(f"{place}: {TENSORS} cannot be read ({wrong}): copy or train the model again") from None


def _counts(tensors: dict[str, Tensor], sizes: tuple[int, ...], part: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    found = tensors[f"counts.{part}"].numpy().astype(np.float64)
    if found.shape != (sizes[0], sizes[part]):
        raise ValueError(f"counts of part {part} are {found.shape}")
    return found
