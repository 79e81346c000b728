"""From arrays of words to a model that can be shipped: train, count, weigh, calibrate.

The last part of every data set, in the order of time, is held back: the LSTM stops where it predicts those words best, the
verdict's weights are fitted on their conversation-hours (and the benign ones of labelled logs) against those of known
attacks, and the held-back conversation-hours calibrate the verdict. Attacks play no part in what the voices learn, only
in how much each is worth.

`sensor.commands.train` reads the files and calls `assemble`; experiments and tests call it with arrays of their own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from models import verdict
from models.calibrate import calibrate, unknown
from models.checkpoint import Bundle, Manifest
from models.evaluate import HoursOf, conversation_hours, highest
from models.frequency import Counts
from models.grow import grow_counts, grow_model
from models.resident import Scorer
from models.train import Batch, Epoch, Settings, Trainer, batches, sort_conversations
from models.verdict import Weights, columns
from models.words import Shape

Floats = NDArray[np.float64]

UNWEIGHED = ("heading", "gap")
"""Parts that the fit leaves out: they tell the few hosts of the fitting data apart, and led the verdict astray elsewhere."""
SMALL = 0.05
"""Data sets with fewer flows than this share of the largest one teach words and no more: a capture of one protocol's oddities
is not an hour of anybody's traffic, so verdicts are not calibrated on it."""
NO_LIMIT = 1 << 40
"""Flows of one conversation per batch when nothing may be shed."""


class Rows(NamedTuple):
    """One data set: N words in the order in which their flows ended."""

    words: NDArray[np.int16]
    slots: NDArray[np.int32]
    restart: NDArray[np.bool_]
    hour: NDArray[np.int64]
    attack: NDArray[np.bool_]
    """(N,) rows labelled as attacks; all False in training data."""
    benign: NDArray[np.bool_]
    """(N,) rows that are known to be benign; all True in training data."""

    def held_from(self, share: float) -> int:
        """First row of the held-back part."""
        return len(self.words) - int(len(self.words) * share)


class Begin(NamedTuple):
    """A model to train further."""

    bundle: Bundle
    came_from: NDArray[np.int64]
    """(n,) for each value that the grown vocabulary has more, the value that stood for it so far."""


class Evidence(NamedTuple):
    """Evidence so far of all N rows of a data set, and its H conversation-hours."""

    largest: Floats
    """(N, E)."""
    mean: Floats
    """(N, E)."""
    hours: HoursOf
    held: NDArray[np.bool_]
    """(H,) conversation-hours that end in the held-back part."""
    attack: NDArray[np.bool_]
    """(H,) conversation-hours with an attack row in them."""
    benign: NDArray[np.bool_]
    """(H,) conversation-hours with benign rows and no attack."""
    clock_hours: int
    """Hours of the held-back part in which anything happened."""


def assemble(
    training: Sequence[Rows],
    attacks: Sequence[Rows],
    manifest: Manifest,
    settings: Settings,
    *,
    validation: float = 0.2,
    begin: Begin | None = None,
    device: torch.device | None = None,
    progress: Callable[[Epoch], None] | None = None,
) -> Bundle:
    """Make a model. `manifest` says all that is known beforehand; nats, verdict and calibration are filled in.

    Without `attacks`, the verdict's weights are those of the model that training began with, or `verdict.plain`.
    ValueError, one line, when there is too little to train, to validate or to calibrate on.
    """
    learned, held = _stretches(training, validation, settings)
    if not learned or not held:
        raise ValueError("too few benign flows: both the part to train on and the part held back must have some")
    start = grow_model(begin.bundle.model, begin.came_from) if begin else None
    shape = Shape(manifest.sizes, manifest.units, manifest.head)
    trainer = Trainer(shape, settings, unlearned=np.array(manifest.unlearned), begin=start, device=device)
    trainer.run(learned, held, progress)
    counts = Counts.of(np.concatenate([rows.words[: rows.held_from(validation)] for rows in training]), manifest.sizes)
    bundle = Bundle(
        manifest=msgspec.structs.replace(manifest, validation_nats=round(trainer.measure(held), 4)),
        model=trainer.model.cpu().eval(),
        counts=counts.plus(grow_counts(begin.bundle.counts, manifest.sizes)) if begin else counts,
        weights=begin.bundle.weights if begin else verdict.plain(len(manifest.sizes)),
        calibration=unknown(),
    )
    return weigh(bundle, training, attacks, validation)


def weigh(bundle: Bundle, training: Sequence[Rows], attacks: Sequence[Rows], validation: float) -> Bundle:
    """Fit the verdict, if there are attacks, and calibrate it: on held-back conversation-hours (see SMALL)."""
    benign = [gather(bundle, rows, validation) for rows in training]
    if attacks:
        found = [gather(bundle, rows, 1.0) for rows in attacks]
        bundle = dataclasses.replace(bundle, weights=fit(benign, found, bundle.manifest.parts))
    least = SMALL * max(len(one.largest) for one in benign)
    large = [one for one in benign if len(one.largest) >= least]
    verdicts = [highest(bundle.weights.verdict(one.largest, one.mean), one.hours)[one.held] for one in large]
    clock_hours = sum(one.clock_hours for one in large)
    return dataclasses.replace(bundle, calibration=calibrate(np.concatenate(verdicts), clock_hours / 24))


def gather(bundle: Bundle, rows: Rows, validation: float) -> Evidence:
    """Run a data set through the scorer, from its beginning, and collect all evidence; nothing is shed."""
    scorer = Scorer(bundle, conversations=int(rows.slots.max(initial=0)) + 1, rounds=NO_LIMIT, every_column=True)
    largest, mean = scorer.evidence(rows.words, rows.slots, rows.restart, rows.hour)
    hours = conversation_hours(rows.slots, rows.restart, rows.hour)
    attack, benign = (np.zeros(len(hours.last), np.bool_) for _ in range(2))
    attack[hours.number[rows.attack]] = True
    benign[hours.number[rows.benign]] = True
    first = rows.held_from(validation)
    return Evidence(largest, mean, hours, hours.last >= first, attack, benign & ~attack, len(np.unique(rows.hour[first:])))


def fit(
    trained: Sequence[Evidence], labelled: Sequence[Evidence], parts: Sequence[str], *, voices: Sequence[str] = verdict.VOICES
) -> Weights:
    """Fit the verdict on whole conversation-hours: attacks against what is benign and was not trained on.

    Benign are the held-back hours of the training data, and the benign rows of labelled logs: they come from networks that
    the voices never saw, and without them the fit takes the customs of the training data's networks for innocence itself.
    Only `voices` may weigh anything: evaluation asks what one voice alone is worth.
    """
    pieces = [(one, one.held & one.benign) for one in trained] + [(one, one.attack | one.benign) for one in labelled]
    last = [one.hours.last[chosen] for one, chosen in pieces]
    largest = np.concatenate([one.largest[rows] for (one, _), rows in zip(pieces, last, strict=True)])
    mean = np.concatenate([one.mean[rows] for (one, _), rows in zip(pieces, last, strict=True)])
    attack = np.concatenate([one.attack[chosen] for one, chosen in pieces])
    if attack.all() or not attack.any():
        raise ValueError("no attacks, or nothing but attacks, to fit the verdict on: --attacks wants logs with labels")
    every = columns(len(parts))
    skipped = {place for place, part in enumerate(parts) if part in UNWEIGHED}
    allowed = np.array([column.voice in voices and column.place not in skipped for column in every])
    return verdict.fit(largest, mean, attack, allowed=allowed)


def _stretches(training: Sequence[Rows], validation: float, settings: Settings) -> tuple[list[Batch], list[Batch]]:
    """Batches to train on and batches held back, of all data sets."""
    learned: list[Batch] = []
    held: list[Batch] = []
    for rows in training:
        first = rows.held_from(validation)
        for cut, into in ((slice(0, first), learned), (slice(first, None), held)):
            if len(rows.words[cut]):
                order, begins = sort_conversations(rows.slots[cut], rows.restart[cut])
                into.extend(batches(rows.words[cut][order], begins, settings))
    return learned, held
