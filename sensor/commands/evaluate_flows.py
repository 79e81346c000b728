"""What any attention LSTM made of labelled flows, as tables and figures: classes, ranking, confusion, how sure all of it is.

`netseq-evaluate multiflow` measures a model that stands on disk, `netseq-evaluate amf-lstm` those that it has just trained.
Both hand over the flows with their split and what was made of the test rows; what is told of these is here, once. With two
splits in one report, `where` names the one that a table is of.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.flowset import FlowSet, Split, class_counts
from models.measures import RATES, ranking
from models.measures_classes import Classified, classified
from models.multiflow_baselines import BASELINES, Settings, prepared, thinned
from sensor.commands import flowsets
from sensor.commands.misuse import Misuse
from sensor.commands.report import Bars, Curves, Table, Value, machine, precision, roc

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

LEAST_SEQUENCES = 30
"""Sequences that resampling needs: rows of tables without hosts are all of one, and are then resampled one by one."""
MEANS = ("classifier", "accuracy", "macro recall", "macro precision", "macro F1")


class Judged(NamedTuple):
    """What the model made of the T test rows."""

    probability: Floats
    """(T, C)."""
    verdict: Floats
    """(T,) log-odds of anything but the first class."""


class Work(NamedTuple):
    """What is measured."""

    flows: FlowSet
    split: Split
    data: tuple[flowsets.DataRead, ...]
    """What is tested on, or cut."""
    notes: list[str]
    rule: str
    """How the rows were cut, in words."""
    learned: tuple[flowsets.DataRead, ...] = ()
    """What else the other classifiers learn from; its rows follow those of `data`."""

    @property
    def sequences(self) -> bool:
        """Whether there are enough sequences among the test rows to resample them."""
        return len(np.unique(self.flows.slots[self.split.test])) >= LEAST_SEQUENCES

    @property
    def groups(self) -> NDArray[np.int64]:
        """(T,) what of each test row is resampled together."""
        slots = self.flows.slots[self.split.test].astype(np.int64)
        return slots if self.sequences else np.arange(len(slots))

    @property
    def truth(self) -> Ints:
        """(T,) classes of the test rows."""
        return self.flows.label[self.split.test]

    @property
    def days(self) -> int:
        """Days on which test rows ended; 0 where times are unknown."""
        return int(np.count_nonzero(np.unique(self.flows.day[self.split.test])))


def against(arguments: argparse.Namespace, flows: FlowSet, split: Split, settings: Settings) -> dict[str, Ints]:
    """The classes that each baseline gives to the test rows, and those of the most frequent class."""
    rows = thinned(flows.label, split.training, arguments.rows, arguments.seed)
    label = flows.label[rows]
    told = {"most frequent class": np.full(len(split.test), np.bincount(label).argmax(), np.int64)}
    if len(np.unique(label)) < 2:
        raise Misuse("the rows to learn from are all of one class: the baselines need two: give more files, or --alone")
    training, test = prepared(flows.rows[rows], flows.rows[split.test])
    for name, fit in BASELINES.items():
        if not arguments.quiet and sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[Kfitting {name}")
        told[name] = fit(training, label, test, settings)
    if not arguments.quiet and sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
    return told


def facts(arguments: argparse.Namespace, work: Work) -> Iterator[tuple[str, str]]:
    """What was measured on, and how."""
    for kind, many in (("data", work.data), ("to learn from", work.learned)):
        for one in many:
            yield kind, f"{one.path}: {one.rows:,} rows, SHA-256 {one.sha256}"
    for note in work.notes:
        yield "note", note
    yield "split", f"{work.rule}: {len(work.split.training):,} rows to learn from, {len(work.split.test):,} tested on"
    if work.split.in_time:
        yield "split", "a class that stands in one sequence only is cut in time, within that sequence"
    if work.split.left_out:
        yield "split", f"{work.split.left_out:,} rows are in no part, since their sequences or days are in the other"
    if not arguments.alone and len(work.split.training) > arguments.rows:
        yield "baselines", f"learn from {arguments.rows:,} rows, drawn from each class alike (--rows)"
    if not work.days:
        yield "times", "these flows have none: of alarms a day nothing can be told"
    yield "threshold", "the class with the highest probability"
    what = (
        "sequences" if work.sequences else "single rows, for there are too few sequences: they are narrower than they should be"
    )
    yield "intervals", f"95 %, seed {arguments.seed}, {arguments.resamples} resamples of {what}"
    yield "command", arguments.command
    yield "machine", machine()


def found_by(work: Work, told: dict[str, Ints], names: Sequence[str], arguments: argparse.Namespace) -> dict[str, Classified]:
    """How well each classifier told the classes of the test rows."""
    return {
        name: classified(work.truth, by, len(names), work.groups, resamples=arguments.resamples, seed=arguments.seed)
        for name, by in told.items()
    }


def means(name: str, one: Classified) -> tuple[Value, ...]:
    """The row of a classifier under MEANS."""
    return name, one.accuracy, one.macro_recall, one.macro_precision, one.macro_f1


def by_class(work: Work, found: dict[str, Classified], names: Sequence[str], where: str = "") -> Iterator[Table]:
    """Each class: by the first classifier and beside the others, and the first one's confusion matrix."""
    first, *others = found
    counts = class_counts(work.truth, len(names))
    there = [(place, name) for place, name in enumerate(names) if counts[place]]
    of, one = f", {where}" if where else "", found[first]
    rows: list[tuple[Value, ...]] = [
        (name, int(counts[place]), one.recall[place], one.precision[place], one.f1[place]) for place, name in there
    ]
    yield Table(f"Classes by {first}{of}", ("class", "rows", "recall", "precision", "F1"), rows)
    for measure in ("f1", "recall", "precision") if others else ():
        table: list[tuple[Value, ...]] = [
            (name, *(getattr(by, measure)[place].value for by in found.values())) for place, name in there
        ]
        yield Table(f"{measure.capitalize()} of each class{of}", ("class", *found), table)
    matrix: list[tuple[Value, ...]] = [(name, *(int(cell) for cell in one.confusion[place])) for place, name in there]
    yield Table(f"Confusion of {first}{of}: rows are the truth", ("truth", *(f"as {name}" for name in names)), matrix)


def ranked(judged: Judged, work: Work, arguments: argparse.Namespace, where: str = "") -> Iterator[Table]:
    """How the verdict ranks attacks above ordinary rows, whatever their class."""
    attack = work.truth > 0
    if not attack.any() or attack.all():
        return
    found = ranking(judged.verdict, attack, work.groups, resamples=arguments.resamples, seed=arguments.seed)
    head = ("score", "AUC", "AUC-PR", *(f"found at {rate:g}" for rate in RATES))
    row: tuple[Value, ...] = ("verdict", found.area, found.precision, *found.found)
    of = f", {where}" if where else ""
    title = f"Attacks of any class against ordinary rows{of}: {found.attacks:,} against {found.rest:,}"
    yield Table(title, head, [row], f"Chance gives an AUC-PR of {found.prevalence:.3f}.")


def figures(
    judged: Judged, work: Work, found: dict[str, Classified], names: Sequence[str], where: str = ""
) -> Iterator[Curves | Bars]:
    """ROC of the verdict and of each class, precision over alarms a day where there are times, and the first one's bars."""
    label = work.truth
    attack, of = label > 0, f", {where}" if where else ""
    if attack.any() and not attack.all():
        lines = {"any attack": roc(judged.verdict, attack)}
        for number in np.unique(label[attack]).tolist():
            rows = ~attack | (label == number)
            lines[names[number]] = roc(judged.probability[rows, number], (label == number)[rows])
        title = f"Attacks against ordinary rows{of}"
        yield Curves(title, "false alarms (share of ordinary rows)", "attacks found (share)", lines)
        if work.days:
            line = {"verdict": precision(judged.verdict, attack, work.days)}
            across = "alarms a day among the rows tested on"
            yield Curves(f"Precision of single flows{of}", across, "attacks among the alarms (share)", line)
    name, one = next(iter(found.items()))
    there = np.unique(label).tolist()
    series = {
        measured: [values[place] for place in there]
        for measured, values in (("precision", one.precision), ("recall", one.recall), ("F1", one.f1))
    }
    yield Bars(f"Classes by {name}{of}", tuple(names[place] for place in there), series)
