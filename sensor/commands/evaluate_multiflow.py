"""`netseq-evaluate multiflow`: a multi-flow model on labelled flows, beside classifiers that learn from the same rows.

The baselines need rows to learn from. With `--train` these are other files, and all of FILE is tested on; else FILE is cut in
two as `netseq-train multiflow` cuts it (same split, share and seed, same rows), and all are measured on the part that is kept
for testing. The model's windows never reach across the border. Intervals come from resampling whole sequences.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.flowset import FlowSet, Split, class_counts, given, honest, join, stratified
from models.measures import RATES, ranking
from models.measures_classes import Classified, classified
from models.multiflow_baselines import BASELINES, Settings, prepared, thinned
from models.multiflow_checkpoint import FlowBundle, load
from models.resident_flows import FlowScorer
from sensor.commands import evaluate_seen, flowsets
from sensor.commands.classes import Classes, ClassesError
from sensor.commands.evaluate_flow_examples import examples
from sensor.commands.misuse import Misuse
from sensor.commands.report import Bars, Curves, Report, Table, Value, machine, precision, roc
from sensor.labels import Labels

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

LEAST_SEQUENCES = 30
"""Sequences that resampling needs: rows of tables without hosts are all of one, and are then resampled one by one."""
SEEN = "this data set: new to it is at most what its own training left out to test on (--test), and by default that is nothing"


class Judged(NamedTuple):
    """What the model made of all N rows."""

    probability: Floats
    """(N, C)."""
    verdict: Floats
    """(N,) log-odds of anything but the first class."""


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


def measure(arguments: argparse.Namespace) -> tuple[Report, bool]:
    """Measure; the report, and whether all input could be read. Raises Misuse and whatever the readers refuse with."""
    bundle = load(arguments.model)
    names = bundle.manifest.classes
    work = _work(arguments, bundle)
    judged = judge(bundle, work.flows, work.split)
    test = work.split.test
    told = {bundle.manifest.name: judged.probability[test].argmax(axis=1)}
    if not arguments.alone:
        told |= against(
            arguments, work.flows, work.split, Settings(arguments.seed, bundle.manifest.flows, bundle.manifest.units)
        )
    report = Report(f"{bundle.manifest.name} {bundle.manifest.version} on {', '.join(arguments.files)}")
    report.warnings += list(warnings(bundle, work))
    report.facts += [
        (
            "model",
            f"{arguments.model}, {bundle.manifest.name} {bundle.manifest.version}, {bundle.manifest.weights_sha256[:16]}",
        ),
        *facts(arguments, work),
    ]
    report.tables += list(compared(work.flows.label[test], told, names, work.groups, arguments))
    report.tables += list(ranked(judged, work, arguments))
    report.tables += list(examples(bundle, judged.verdict, work.flows, work.split, work.data))
    report.figures += list(_figures(judged, work, told, arguments, names))
    return report, not any(one.damaged for one in (*work.data, *work.learned))


def _work(arguments: argparse.Namespace, bundle: FlowBundle) -> Work:
    """Read the rows, and cut them. Raises Misuse."""
    manifest = bundle.manifest
    try:
        classes = Classes(manifest.classes, arguments.rest)
    except ClassesError as error:
        raise Misuse(f"{arguments.model}: {error}") from error
    labels = Labels.read(arguments.labels) if arguments.labels else None

    def read(paths: Sequence[str]) -> flowsets.Read:
        return flowsets.read(
            paths,
            classes,
            manifest.columns,
            labels=labels,
            sequence=manifest.sequence,
            as_published=arguments.as_published,
            tell=None if arguments.quiet else _tell,
        )

    tested = read(arguments.files)
    judged = tested.flows.label >= 0
    try:
        if arguments.alone:
            rows = np.flatnonzero(judged)
            split = Split(np.empty(0, np.int64), np.empty(0, np.int64), rows, tested.flows.restart)
            return Work(tested.flows, split, tested.data, tested.notes(), "all rows are tested on")
        if arguments.train:
            trained = read(arguments.train)
            flows = join([tested.flows, trained.flows])
            split = given(flows, np.arange(len(flows.label)) < len(judged), arguments.seed, validation=0.0)
            notes = [*tested.notes(), *trained.notes()]
            return Work(flows, split, tested.data, notes, "the files of --train are learned from", trained.data)
        cut = honest if arguments.split == "honest" else stratified
        split = cut(tested.flows, arguments.test, arguments.seed, 0.0)
    except ValueError as error:  # a part without rows
        raise Misuse(f"{', '.join(arguments.files)}: {error}") from error
    rule = f"{arguments.split}, {arguments.test:g} of each class to test on, seed {arguments.seed}"
    return Work(tested.flows, split, tested.data, tested.notes(), rule)


def _tell(share: float) -> None:
    """Show at a terminal how much is read."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\rreading {share:4.0%}" if share < 1 else "\r\x1b[K")


def judge(bundle: FlowBundle, flows: FlowSet, split: Split) -> Judged:
    """Run all rows through the model as the sensor would, windows beginning afresh at the split's borders."""
    scorer = FlowScorer(bundle, slots=int(flows.slots.max(initial=0)) + 1)
    scored = scorer.score(flows.rows, flows.slots, split.restart, explain_p=0.0)
    return Judged(scored.probability, scored.verdict)


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


def warnings(bundle: FlowBundle, work: Work) -> Iterator[str]:
    """What makes the measure worth less than it seems."""
    tested, learned = (evaluate_seen.all_hashes([one.path for one in data]) for data in (work.data, work.learned))
    yield from evaluate_seen.warnings(tested, bundle.manifest.data, SEEN)
    for path, other in evaluate_seen.shared(tested, learned).items():
        yield (
            f"{path}: has data of --train {other}: the other classifiers have learned these very rows:"
            " their figures are worth nothing"
        )
    for one in (*work.data, *work.learned):
        if one.damaged:
            yield f"{one.path}: {one.damaged:,} places could not be read"


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
    yield "threshold", "the class with the highest probability"
    what = (
        "sequences" if work.sequences else "single rows, for there are too few sequences: they are narrower than they should be"
    )
    yield "intervals", f"95 %, seed {arguments.seed}, {arguments.resamples} resamples of {what}"
    yield "command", arguments.command
    yield "machine", machine()


def compared(
    truth: Ints, told: dict[str, Ints], names: Sequence[str], groups: Ints, arguments: argparse.Namespace
) -> Iterator[Table]:
    """All classifiers on the same rows: the means, the classes, and the first one's confusion matrix."""
    found = {
        name: classified(truth, told_by, len(names), groups, resamples=arguments.resamples, seed=arguments.seed)
        for name, told_by in told.items()
    }
    head = ("classifier", "accuracy", "macro recall", "macro precision", "macro F1")
    rows: list[tuple[Value, ...]] = [
        (name, one.accuracy, one.macro_recall, one.macro_precision, one.macro_f1) for name, one in found.items()
    ]
    counts = class_counts(truth, len(names))
    absent = [name for name, count in zip(names, counts, strict=True) if not count]
    note = f"Means are over the classes that were tested; without: {', '.join(absent)}." if absent else ""
    yield Table(f"All classes, {len(truth):,} rows", head, rows, note)
    first = next(iter(found))
    yield Table(f"Classes by {first}", ("class", "rows", "recall", "precision", "F1"), class_rows(names, counts, found[first]))
    for measure_ in ("f1", "recall", "precision") if len(found) > 1 else ():
        table: list[tuple[Value, ...]] = [
            (name, *(getattr(one, measure_)[place].value for one in found.values()))
            for place, name in enumerate(names)
            if counts[place]
        ]
        yield Table(f"{measure_.capitalize()} of each class", ("class", *found), table)
    matrix: list[tuple[Value, ...]] = [
        (name, *(int(cell) for cell in found[first].confusion[place])) for place, name in enumerate(names) if counts[place]
    ]
    yield Table(f"Confusion of {first}: rows are the truth", ("truth", *(f"as {name}" for name in names)), matrix)


def class_rows(names: Sequence[str], counts: Ints, one: Classified) -> list[tuple[Value, ...]]:
    """Rows of a table of the classes that were tested."""
    return [
        (name, int(counts[place]), one.recall[place], one.precision[place], one.f1[place])
        for place, name in enumerate(names)
        if counts[place]
    ]


def ranked(judged: Judged, work: Work, arguments: argparse.Namespace) -> Iterator[Table]:
    """How the verdict ranks attacks above ordinary rows, whatever their class."""
    test = work.split.test
    attack = work.flows.label[test] > 0
    if not attack.any() or attack.all():
        return
    found = ranking(judged.verdict[test], attack, work.groups, resamples=arguments.resamples, seed=arguments.seed)
    head = ("score", "AUC", "AUC-PR", *(f"found at {rate:g}" for rate in RATES))
    row: tuple[Value, ...] = ("verdict", found.area, found.precision, *found.found)
    title = f"Attacks of any class against ordinary rows: {found.attacks:,} against {found.rest:,}"
    yield Table(title, head, [row], f"Chance gives an AUC-PR of {found.prevalence:.3f}.")


def _figures(
    judged: Judged, work: Work, told: dict[str, Ints], arguments: argparse.Namespace, names: Sequence[str]
) -> Iterator[Curves | Bars]:
    """ROC of the verdict and of each class, precision over alarms a day, and the first classifier's bars."""
    test, label = work.split.test, work.flows.label[work.split.test]
    attack = label > 0
    if attack.any() and not attack.all():
        lines = {"any attack": roc(judged.verdict[test], attack)}
        for number in np.unique(label[attack]).tolist():
            rows = ~attack | (label == number)
            lines[names[number]] = roc(judged.probability[test, number][rows], (label == number)[rows])
        yield Curves("Attacks against ordinary rows", "false alarms (share of ordinary rows)", "attacks found (share)", lines)
        days = len(np.unique(work.flows.day[test]))
        if work.flows.day[test].any():
            line = {"verdict": precision(judged.verdict[test], attack, days)}
            yield Curves("Precision of single flows", "alarms a day", "attacks among the alarms (share)", line)
    name, given_ = next(iter(told.items()))
    found = classified(label, given_, len(names), work.groups, resamples=arguments.resamples, seed=arguments.seed)
    there = [place for place in range(len(names)) if (label == place).any()]
    series = {
        "precision": [found.precision[place] for place in there],
        "recall": [found.recall[place] for place in there],
        "F1": [found.f1[place] for place in there],
    }
    yield Bars(f"Classes by {name}", tuple(names[place] for place in there), series)
