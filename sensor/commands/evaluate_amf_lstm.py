"""`netseq-evaluate amf-lstm`: Table 1 of Zhu et al. 2018 on CICIDS2017, beside ours, and the honest split beside both.

"Attention-based Multi-Flow Model for Network Anomaly Detection" took the flows of Tuesday to Friday, 80 % of each class
at random to train on and 20 % to test on. A flow to test then lies in windows of flows that were trained on, and so does the
rest of its attack; whole sequences and days apart say what is left on traffic that is new. Columns are taken as published.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys

import numpy as np
from numpy.typing import NDArray

from models.flowset import FlowSet, Split, honest, stratified
from models.multiflow import Shape
from models.multiflow_baselines import Settings as Baseline
from models.multiflow_train import Settings, Trainer
from models.unfinished import Passed
from sensor.commands import flowsets, published
from sensor.commands.classes import PAPER, Classes
from sensor.commands.evaluate_flow_examples import Network, examples
from sensor.commands.evaluate_flows import MEANS, Judged, Work, against, by_class, facts, figures, found_by, means, ranked
from sensor.commands.misuse import Misuse
from sensor.commands.report import Report, Table, Value
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
    rows: list[tuple[Value, ...]] = [PUBLISHED]
    details: list[Table] = []
    for name, cut in SPLITS.items():
        try:
            split = cut(flows, SHARE, arguments.seed, VALIDATION)
            network, judged = train(flows, split, arguments)
        except ValueError as error:  # a part without rows, or one class only
            raise Misuse(f"{arguments.data}: {name}: {error}") from error
        told = {"AMF-LSTM": judged.probability.argmax(axis=1)}
        if not arguments.alone:
            told |= against(arguments, flows, split, Baseline(arguments.seed, units=arguments.units))
        work = Work(flows, split, read.data, read.notes() if not report.facts else [], name)
        report.facts += [fact for fact in facts(arguments, work) if not report.facts or fact[0] in ("split", "intervals")]
        found = found_by(work, told, PAPER, arguments)
        rows += [means(f"{one}, {name}", measured) for one, measured in found.items()]
        details += [*by_class(work, found, PAPER, name), *ranked(judged, work, arguments, name)]
        details += examples(network, judged.verdict, flows, split, read.data, name)
        report.figures += figures(judged, work, found, PAPER, name)
    report.facts.append(
        ("training", ", ".join(f"{key} {value}" for key, value in dataclasses.asdict(_settings(arguments)).items()))
    )
    report.tables += [Table("Table 1", MEANS, rows, "Means are over the classes that were tested."), *details]
    return report, not read.damaged


def grouped(label: Ints) -> Ints:
    """Classes of the paper from the numbers of published labels."""
    paper = Classes(PAPER)
    return np.array([*(paper.number("" if name == "BENIGN" else name) for name in published.CICIDS2017), -1])[label]


def _settings(arguments: argparse.Namespace) -> Settings:
    return Settings(seed=arguments.seed, epochs=arguments.epochs)


def train(flows: FlowSet, split: Split, arguments: argparse.Namespace) -> tuple[Network, Judged]:
    """Train on a split; the model, and what it makes of the test rows. Raises ValueError where there is nothing to learn."""
    shape = Shape(flows.rows.shape[1], len(PAPER), units=arguments.units)
    trainer = Trainer(flows, split, shape, _settings(arguments))
    trainer.run(None if arguments.quiet or not sys.stderr.isatty() else _progress)
    temperature = trainer.temperature()
    odds = trainer.logits(split.test) / np.float32(temperature)
    likely = np.exp(odds - odds.max(axis=1, keepdims=True))
    verdict = np.logaddexp.reduce(odds[:, 1:], axis=1) - odds[:, 0]
    judged = Judged(likely / likely.sum(axis=1, keepdims=True), verdict)
    return Network(trainer.model.cpu().eval(), PAPER, STATISTICS, shape.flows, temperature), judged


def _progress(passed: Passed) -> None:
    sys.stderr.write(f"\r\x1b[Kepoch {passed.number} of {passed.of}: {passed.train_nats:.4f} nats")
