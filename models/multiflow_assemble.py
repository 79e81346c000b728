"""From a trained network to a model that can alert: temperature, figures on held-back flows, and the tail of the ordinary.

`multiflow_train` leaves weights. What a sensor needs beside them comes of flows that training did not see: the temperature
that makes probabilities true, and the calibration that turns a verdict (the log-odds of anything but ordinary) into the share
of ordinary conversation-hours that look as bad. A conversation-hour counts when no attack was seen in it, and gives its
highest verdict, as when a sensor watches it.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.calibrate import Calibration, calibrate, unknown
from models.flowset import FlowSet
from models.multiflow_checkpoint import FlowBundle, FlowManifest
from models.multiflow_train import Measured, Trainer

HOURS = 24
"""Of a day."""


class Assembled(NamedTuple):
    """A model, and how it came out."""

    bundle: FlowBundle
    validation: Measured
    remarks: list[str]
    """What a person must know before the model is used, a line each."""


def assemble(trainer: Trainer, flows: FlowSet, manifest: FlowManifest) -> Assembled:
    """Make a model of what `trainer` has fitted to `flows`. `manifest` says all that is known beforehand.

    The first class of the manifest is the ordinary one. Where held-back ordinary flows are too few, the model is left without a
    calibration and a remark says so.
    """
    held = trainer.split.validation
    temperature, measured = trainer.temperature(), trainer.measure(held)
    logits = trainer.logits(held).astype(np.float64) / temperature
    told = list[str]()
    try:
        calibration = _tail(flows, held, logits)
    except ValueError as few:
        calibration = unknown()
        told.append(f"the model cannot tell how rare a verdict is, and will not alert ({few})")
    figures = {"nats": measured.nats, "accuracy": measured.accuracy, "macro_f1": measured.macro_f1} if len(held) else {}
    named = msgspec.structs.replace(
        manifest,
        temperature=round(temperature, 6),
        validation={name: round(figure, 6) for name, figure in figures.items()},
    )
    trainer.model.eval()
    return Assembled(FlowBundle(named, trainer.model, calibration), measured, told)


def _tail(flows: FlowSet, held: NDArray[np.int64], logits: NDArray[np.float64]) -> Calibration:
    """Calibrate on the conversation-hours of held-back rows without an attack. Raises ValueError when they are too few."""
    hour = flows.day * HOURS if flows.hour is None else flows.hour
    verdict = np.logaddexp.reduce(logits[:, 1:], axis=1) - logits[:, 0] if len(held) else np.empty(0)
    keys = np.stack([flows.slots[held].astype(np.int64), hour[held]], axis=1)
    hours, of_row = np.unique(keys, axis=0, return_inverse=True)
    highest, ordinary = np.full(len(hours), -np.inf), np.ones(len(hours), np.bool_)
    np.maximum.at(highest, of_row.ravel(), verdict)
    np.logical_and.at(ordinary, of_row.ravel(), flows.label[held] == 0)
    share = int(np.count_nonzero(flows.label[held] == 0)) / (int(np.count_nonzero(flows.label == 0)) or 1)
    clock = len(np.unique(flows.day)) if flows.hour is None else len(np.unique(flows.hour)) / HOURS
    return calibrate(highest[ordinary], max(clock * share, 1e-9))
