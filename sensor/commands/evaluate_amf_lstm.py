"""`netseq-evaluate amf-lstm`: Table 1 of Zhu et al. 2018 on CICIDS2017, beside ours, and the honest split beside both.

"Attention-based Multi-Flow Model for Network Anomaly Detection" took the flows of Tuesday to Friday, 80 % of each class
at random to train on and 20 % to test on. A flow to test then lies in windows of flows that were trained on, and so does the
rest of its attack; whole sequences and days apart say what is left on traffic that is new. Columns are taken as published.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from models.flowset import FlowSet, Split, honest, stratified
from models.measures_classes import Classified, classified
from models.multiflow import Shape
from models.multiflow_baselines import Settings as Baseline
from models.multiflow_train import Settings, Trainer
from models.unfinished import Passed
from sensor.commands import flowsets, published
from sensor.commands.classes import PAPER, Classes
from sensor.commands.evaluate_multiflow import Work, against, class_rows, facts
from sensor.commands.misuse import Misuse
from sensor.commands.report import Bars, Report, Table, Value
from sensor.spellings import STATISTICS

Ints = NDArray[np.int64]

PUBLISHED = ("Zhu et al. 2018, as published", 0.914, 0.825, 0.496, 0.529)
"""Accuracy, macro recall, macro precision and macro F1 of the paper's Table 1."""
SHARE, VALIDATION = 0.2, 0.1
SPLITS = {"the paper's split": stratified, "the honest split": honest}


def measure(arguments: argparse.Namespace) -> tuple[Report, bool]:
    """Train and measure on both splits; the report, and whether all input could be read. Raises Misuse."""
    _, files = published.tables(arguments.data)
    read = flowsets.read(files, Classes(tuple(published.CICIDS2017)), STATISTICS, as_published=True)
    official = published.CICIDS2017 | {"BENIGN": published.CICIDS2017["BENIGN"] - published.MONDAY}
    different = published.differences(read.counts | read.unknown, official)
    report = Report("AMF-LSTM (Zhu et al. 2018) on CICIDS2017, Tuesday to Friday")
    report.warnings += published.check(arguments.data, different, partial=arguments.partial)
    flows = read.flows._replace(label=grouped(read.flows.label))
    head = ("classifier", "accuracy", "macro recall", "macro precision", "macro F1")
    rows: list[tuple[Value, ...]] = [PUBLISHED]
    details: list[Table] = []
    for name, cut in SPLITS.items():
        try:
            split = cut(flows, SHARE, arguments.seed, VALIDATION)
            told = {"AMF-LSTM": train(flows, split, arguments)}
        except ValueError as error:  # a part without rows, or one class only
            raise Misuse(f"{arguments.data}: {name}: {error}") from error
        if not arguments.alone:
            told |= against(arguments, flows, split, Baseline(arguments.seed, units=arguments.units))
        work = Work(flows, split, read.data, read.notes() if not report.facts else [], name)
        report.facts += [fact for fact in facts(arguments, work) if not report.facts or fact[0] in ("split", "intervals")]
        found = dict(_classified(work, told, arguments))
        rows += [(f"{one}, {name}", *_means(measured)) for one, measured in found.items()]
        details.append(_classes(found["AMF-LSTM"], flows.label[split.test], name))
        report.figures.append(_bars(found["AMF-LSTM"], flows.label[split.test], name))
    report.facts.append(
        ("training", ", ".join(f"{key} {value}" for key, value in dataclasses.asdict(_settings(arguments)).items()))
    )
    report.tables += [Table("Table 1", head, rows, "Means are over the classes that were tested."), *details]
    return report, not read.damaged


def grouped(label: Ints) -> Ints:
    """Classes of the paper from the numbers of published labels."""
    paper = Classes(PAPER)
    return np.array([*(paper.number("" if name == "BENIGN" else name) for name in published.CICIDS2017), -1])[label]


def _settings(arguments: argparse.Namespace) -> Settings:
    return Settings(seed=arguments.seed, epochs=arguments.epochs)


def train(flows: FlowSet, split: Split, arguments: argparse.Namespace) -> Ints:
    """Train on a split; the classes that the model gives to the test rows."""
    trainer = Trainer(flows, split, Shape(flows.rows.shape[1], len(PAPER), units=arguments.units), _settings(arguments))
    trainer.run(None if arguments.quiet or not sys.stderr.isatty() else _progress)
    return np.asarray(trainer.logits(split.test).argmax(axis=1), np.int64)


def _progress(passed: Passed) -> None:
    sys.stderr.write(f"\r\x1b[Kepoch {passed.number} of {passed.of}: {passed.train_nats:.4f} nats")


def _classified(work: Work, told: dict[str, Ints], arguments: argparse.Namespace) -> Iterator[tuple[str, Classified]]:
    truth = work.flows.label[work.split.test]
    for name, by in told.items():
        yield name, classified(truth, by, len(PAPER), work.groups, resamples=arguments.resamples, seed=arguments.seed)


def _means(one: Classified) -> tuple[Value, ...]:
    return one.accuracy, one.macro_recall, one.macro_precision, one.macro_f1


def _classes(one: Classified, truth: Ints, name: str) -> Table:
    counts = np.bincount(truth, minlength=len(PAPER))
    return Table(
        f"AMF-LSTM, {name}, {len(truth):,} rows", ("class", "rows", "recall", "precision", "F1"), class_rows(PAPER, counts, one)
    )


def _bars(one: Classified, truth: Ints, name: str) -> Bars:
    there = np.unique(truth).tolist()
    series = {"recall": one.recall, "precision": one.precision, "F1": one.f1}
    shown = {measured: [values[place] for place in there] for measured, values in series.items()}
    return Bars(f"AMF-LSTM, {name}", tuple(PAPER[place] for place in there), shown)
