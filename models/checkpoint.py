"""Word models on disk: what is in the folder that `folder` writes and reads.

The manifest says what a model reads (parts, their sizes, the vocabulary, which kind of source), where it came from (data
with hashes, seed, command), how its evidence is weighed and how its verdicts are calibrated.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from models import calibrate, verdict
from models.calibrate import Calibration
from models.folder import MANIFEST, TENSORS, ModelDoesNotFit, Source, read_manifest, read_tensors, write_model
from models.frequency import Counts
from models.verdict import Weights
from models.words import Shape, WordLSTM

__all__ = ["DEFAULT_MODEL", "MANIFEST", "TENSORS", "Bundle", "Manifest", "ModelDoesNotFit", "Source", "load", "save"]

FORMAT = "netseq-words-1"
"""Of folder and manifest. Another number after the last dash is another layout."""
MOST_VALUES = 1 << 15
"""Values of a part: words are 16-bit integers."""
MOST_UNITS = 4096
"""Width of the LSTM and of a part's prediction. Beyond it no batch would be scored in time, and a damaged manifest would ask
for more memory than there is."""
DEFAULT_MODEL = Path(__file__).parent / "weights" / "default"
"""The model that comes along."""


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
    """Write a model into `folder`. Returns the manifest as written, hash and tables filled in."""
    tensors = {f"lstm.{name}": tensor for name, tensor in bundle.model.state_dict().items()}
    counts = (torch.from_numpy(joint.astype(np.float32)) for joint in bundle.counts.joint)
    tensors |= {f"counts.{place}": joint for place, joint in enumerate(counts)}
    manifest = msgspec.structs.replace(
        bundle.manifest, verdict=bundle.weights.to_json(bundle.manifest.parts), calibration=bundle.calibration.to_json()
    )
    return write_model(folder, manifest, tensors)


def load(folder: str | os.PathLike[str], *, parts: Sequence[str] | None = None) -> Bundle:
    """Read a model. With `parts`, it must read exactly these. Raises ModelDoesNotFit, one line, for whatever is wrong."""
    place = Path(folder)
    manifest = _manifest(place)
    if parts is not None and tuple(parts) != manifest.parts:
        raise ModelDoesNotFit(
            f"{place}: this model reads the parts {', '.join(manifest.parts)}; wanted are {', '.join(parts)}: "
            "choose another model or train one with --parts"
        )
    tensors = read_tensors(place, manifest.weights_sha256)
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
    manifest = read_manifest(place, FORMAT, Manifest)
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


def _counts(tensors: dict[str, Tensor], sizes: tuple[int, ...], part: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    found = tensors[f"counts.{part}"].numpy().astype(np.float64)
    if found.shape != (sizes[0], sizes[part]):
        raise ValueError(f"counts of part {part} are {found.shape}")
    return found
