"""Multi-flow models on disk: what is in the folder that `folder` writes and reads.

The manifest holds the list of classes and of columns (the code knows neither), the scale, whose flows make a window, the
temperature and the calibration; the numbers are the network's.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from models import calibrate
from models.calibrate import Calibration
from models.folder import ModelDoesNotFit, Source, read_manifest, read_tensors, write_model
from models.multiflow import MultiFlow, Shape
from models.scale import Scale

FORMAT = "netseq-multiflow-1"
DEFAULT_PACKETS = Path(__file__).parent / "weights" / "multiflow-packets"
"""The model that comes along for packets, which tell every statistic."""
DEFAULT_LOGS = Path(__file__).parent / "weights" / "multiflow-conn"
"""The one for flows that another program has put together: it reads what conn.log can tell."""
LAB = Path(__file__).parent / "weights" / "multiflow-lab"
"""The one that learned eight classes from the laboratory as well as from captures, for packets."""
MOST_UNITS, MOST_FLOWS, MOST_CLASSES = 4096, 1024, 1024
"""Beyond these no batch would be scored in time, and a damaged manifest would ask for more memory than there is."""


class FlowManifest(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of a multi-flow model but its numbers."""

    format: str = FORMAT
    kind: str = "multiflow"
    name: str
    version: str
    classes: tuple[str, ...]
    """What it tells apart; the first one is the ordinary."""
    columns: tuple[str, ...]
    """Statistics that it reads, by their names in `spellings`."""
    rules: str = "netseq"
    """Rules of the statistics it was trained on."""
    flows: int = 10
    units: int = 256
    attention: int = 64
    sequence: Literal["pair", "host"] = "pair"
    """Whose last flows make a window: the host pair's, or the source host's."""
    source_kind: str
    """What it was trained on: "conn.log", "captures", "flow-csv", or several joined by "+"."""
    centre: tuple[float, ...]
    spread: tuple[float, ...]
    temperature: float = 1.0
    """Logits are divided by it before they become probabilities (Guo et al. 2017)."""
    calibration: dict[str, Any] = {}
    """The tail of ordinary conversation-hours; as `calibrate` writes it, whose affair the types are."""
    data: tuple[Source, ...] = ()
    split: Literal["", "honest", "stratified", "by file"] = ""
    """How `data` was cut, by the ways of `flowset` and with `seed`; "" is not known."""
    test: float = 0.0
    """Share that was kept to test on."""
    held_back: float = 0.0
    """Share of the rest that was held back; of a split by file, none of it."""
    files_held_back: int = 0
    """So many of `data`, its last, were held back whole."""
    seed: int = 0
    command: str = ""
    validation: dict[str, float] = {}
    """Figures on held-back windows: "nats", "accuracy", "macro_f1"."""
    weights_sha256: str = ""


@dataclasses.dataclass(frozen=True)
class FlowBundle:
    """A multi-flow model, ready for `resident_flows.FlowScorer`."""

    manifest: FlowManifest
    model: MultiFlow
    calibration: Calibration


def folder_of(name: str, *, log: bool) -> Path | None:
    """The folder that the setting `model.multiflow` means: "default" and "lab" come along, "" is none.

    `log` says that flows come from another program's log or table, and not from packets.
    """
    if name == "default":
        return DEFAULT_LOGS if log else DEFAULT_PACKETS
    if name == "lab":
        return LAB
    return Path(name) if name else None


def save(folder: str | os.PathLike[str], bundle: FlowBundle) -> FlowManifest:
    """Write a model into `folder`. Returns the manifest as written, with scale, calibration and hash filled in."""
    centre, spread = (bundle.model.get_buffer(name).cpu().tolist() for name in ("centre", "spread"))
    manifest = msgspec.structs.replace(
        bundle.manifest, centre=tuple(centre), spread=tuple(spread), calibration=bundle.calibration.to_json()
    )
    return write_model(folder, manifest, bundle.model.state_dict())


def load(folder: str | os.PathLike[str]) -> FlowBundle:
    """Read a model. Raises ModelDoesNotFit, one line, for whatever is wrong."""
    place = Path(folder)
    manifest = read_manifest(place, FORMAT, FlowManifest)
    if wrong := _complaint(manifest):
        raise ModelDoesNotFit(f"{place}: {wrong}: copy or train the model again")
    tensors = read_tensors(place, manifest.weights_sha256)
    shape = Shape(len(manifest.columns), len(manifest.classes), manifest.flows, manifest.units, manifest.attention)
    model = MultiFlow(shape, Scale(np.array(manifest.centre, np.float32), np.array(manifest.spread, np.float32)))
    try:
        model.load_state_dict(tensors)
        calibration = calibrate.from_json(manifest.calibration)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelDoesNotFit(f"{place}: weights and manifest do not fit each other ({reason}): train it again") from None
    return FlowBundle(manifest, model.eval(), calibration)


def _complaint(manifest: FlowManifest) -> str:
    """What no model can be, or ""."""
    columns, classes = len(manifest.columns), len(manifest.classes)
    if manifest.kind != "multiflow" or not columns or {len(manifest.centre), len(manifest.spread)} != {columns}:
        return "not a multi-flow model with a scale for each of its columns"
    if len({*manifest.columns}) != columns or len({*manifest.classes}) != classes:
        return "a column or class is named twice"
    if not 2 <= classes <= MOST_CLASSES:
        return f"it has {classes} classes, where 2 to {MOST_CLASSES} can be meant"
    if not 2 <= manifest.flows <= MOST_FLOWS:
        return f"its windows have {manifest.flows} flows, where 2 to {MOST_FLOWS} can be meant"
    if not all(1 <= width <= MOST_UNITS for width in (manifest.units, manifest.attention)):
        return f"units and attention are {manifest.units} and {manifest.attention}, where 1 to {MOST_UNITS} can be meant"
    numbers = np.array([*manifest.centre, *manifest.spread, manifest.temperature])
    if not np.isfinite(numbers).all() or not min((*manifest.spread, manifest.temperature)) > 0:
        return "its scale or temperature is no number above 0"
    return ""
