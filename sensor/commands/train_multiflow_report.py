"""What `netseq-train multiflow` tells of a run: what was read, how it was cut, and what came of it.

Everything that a person must know before the model is believed is a note, one line each. `train_multiflow` prints these.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # what these import is slow, and is not needed to tell of a mistake
    from models.flowset import Split
    from models.multiflow_assemble import Assembled
    from models.multiflow_train import Measured
    from models.unfinished import Passed
    from sensor.commands.flowsets import Read


class Made(NamedTuple):
    """What was made of the files."""

    read: Read
    split: Split | None
    """None where they cannot be cut, which only --epochs 0 goes on after."""
    remarks: list[str]


class Model(NamedTuple):
    """What a training came to."""

    assembled: Assembled
    tested: Measured | None
    history: list[Passed]
    kept: int
    """The epoch of the checkpoint that is there, or 0."""


def of_reading(arguments: argparse.Namespace, read: Read) -> str:
    """What was read, where nothing can be trained on it: lines that may say why."""
    return _lines([*_reading(arguments, read)], read.notes())


def summary(arguments: argparse.Namespace, made: Made, model: Model | None, place: Path | None) -> str:
    """What was read and made, in a few lines; `place` is where the model lies, None where it could not be written."""
    read, split = made.read, made.split
    lines = [*_reading(arguments, read)]
    if split is not None:
        parts = f"{len(split.training):,} trained on, {len(split.validation):,} held back, {len(split.test):,} tested on"
        lines.append(f"split        {'by file' if arguments.held_back else arguments.split}, seed {arguments.seed}: {parts}")
    if model is None:
        lines.append("model        none: --epochs 0 only reads")
        return _lines(lines, [*read.notes(), *made.remarks])
    manifest = model.assembled.bundle.manifest
    best = max(passed.number for passed in model.history if passed.best)
    lines.append(f"trained      {len(model.history)} of {arguments.epochs} epochs at most, the best was {best}")
    if split is not None and len(split.validation):
        lines.append(f"held back    {_figures(model.assembled.validation)}, temperature {manifest.temperature:.2f}")
    if model.tested is not None:
        lines.append(f"tested       {_figures(model.tested)}")
    lines.append(
        f"model        {manifest.name} {manifest.version} in {place}" if place else "model        none: it was not written"
    )
    return _lines(lines, [*read.notes(), *made.remarks, *model.assembled.remarks])


def _reading(arguments: argparse.Namespace, read: Read) -> Iterator[str]:
    counts = ", ".join(f"{name} {rows:,}" for name, rows in read.counts.items() if rows)
    yield f"read         {len(read.flows.rows):,} flows of {len(read.data)} file{'s' * (len(read.data) != 1)}: {counts}"
    yield f"columns      {len(read.columns)}, windows of {arguments.flows} flows of a {arguments.sequence}"


def _lines(lines: Sequence[str], notes: Sequence[str]) -> str:
    from sensor.commands.terminal import printable  # noqa: PLC0415  # slow to import, as above

    return "\n".join(printable(line) for line in [*lines, *(f"note         {note}" for note in notes)])


def _figures(measured: Measured) -> str:
    return f"{measured.nats:.4f} nats, accuracy {measured.accuracy:.4f}, macro F1 {measured.macro_f1:.4f}"
