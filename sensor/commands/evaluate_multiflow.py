"""`netseq-evaluate multiflow`: a multi-flow model on labelled flows, beside classifiers that learn from the same rows.

The baselines need rows to learn from. With `--train` these are other files, and all of FILE is tested on; else FILE is cut in
two as `netseq-train multiflow` cuts it (same split, share and seed, same rows), and all are measured on the part that is kept
for testing. The model's windows never reach across the border. Intervals come from resampling whole sequences.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

import numpy as np

from models.flowset import Split, class_counts, given, honest, join, stratified
from models.measures_classes import Classified
from models.multiflow_baselines import Settings
from models.multiflow_checkpoint import FlowBundle, FlowManifest, load
from models.resident_flows import FlowScorer
from sensor.commands import evaluate_seen, flowsets
from sensor.commands.classes import Classes, ClassesError
from sensor.commands.evaluate_flow_examples import Network, examples
from sensor.commands.evaluate_flows import MEANS, Judged, Work, against, by_class, facts, figures, found_by, means, ranked
from sensor.commands.misuse import Misuse
from sensor.commands.report import Report, Table
from sensor.labels import Labels


def measure(arguments: argparse.Namespace) -> tuple[Report, bool]:
    """Measure; the report, and whether all input could be read. Raises Misuse and whatever the readers refuse with."""
    bundle = load(arguments.model)
    names = bundle.manifest.classes
    work = _work(arguments, bundle)
    judged = judge(bundle, work)
    told = {bundle.manifest.name: judged.probability.argmax(axis=1)}
    if not arguments.alone:
        told |= against(
            arguments, work.flows, work.split, Settings(arguments.seed, bundle.manifest.flows, bundle.manifest.units)
        )
    report = Report(f"{bundle.manifest.name} {bundle.manifest.version} on {', '.join(arguments.files)}")
    report.warnings += list(warnings(arguments, bundle.manifest, work))
    report.facts += [
        (
            "model",
            f"{arguments.model}, {bundle.manifest.name} {bundle.manifest.version}, {bundle.manifest.weights_sha256[:16]}",
        ),
        *facts(arguments, work),
    ]
    found = found_by(work, told, names, arguments)
    report.tables += [overall(work, found, names), *by_class(work, found, names), *ranked(judged, work, arguments)]
    report.tables += examples(network_of(bundle), judged.verdict, work.flows, work.split, work.data)
    report.figures += figures(judged, work, found, names)
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


def judge(bundle: FlowBundle, work: Work) -> Judged:
    """Run all rows through the model as the sensor would, windows beginning afresh at the split's borders."""
    flows = work.flows
    scorer = FlowScorer(bundle, slots=int(flows.slots.max(initial=0)) + 1)
    scored = scorer.score(flows.rows, flows.slots, work.split.restart, explain_p=0.0)
    return Judged(scored.probability[work.split.test], scored.verdict[work.split.test])


def network_of(bundle: FlowBundle) -> Network:
    """What of a model on disk its examples are told by."""
    manifest = bundle.manifest
    return Network(bundle.model, manifest.classes, manifest.columns, manifest.flows, manifest.temperature)


def overall(work: Work, found: dict[str, Classified], names: Sequence[str]) -> Table:
    """All classifiers on the same rows."""
    absent = [name for name, count in zip(names, class_counts(work.truth, len(names)), strict=True) if not count]
    note = f"Means are over the classes that were tested; without: {', '.join(absent)}." if absent else ""
    return Table(f"All classes, {len(work.truth):,} rows", MEANS, [means(name, one) for name, one in found.items()], note)


def warnings(arguments: argparse.Namespace, manifest: FlowManifest, work: Work) -> Iterator[str]:
    """What makes the measure worth less than it seems."""
    tested, learned = (evaluate_seen.all_hashes([one.path for one in data]) for data in (work.data, work.learned))
    yield from evaluate_seen.warnings(tested, manifest.data, f"this data set: {new_of(arguments, manifest, work)}")
    for path, other in evaluate_seen.shared(tested, learned).items():
        yield (
            f"{path}: has data of --train {other}: the other classifiers have learned these very rows:"
            " their figures are worth nothing"
        )
    for one in (*work.data, *work.learned):
        if one.damaged:
            yield f"{one.path}: {one.damaged:,} places could not be read"


def new_of(arguments: argparse.Namespace, manifest: FlowManifest, work: Work) -> str:
    """What of the data that a model was trained on is new to it, by what its manifest keeps of how these were cut."""
    if not manifest.split:
        return "what its training left out is new to it, if anything: its manifest does not tell"
    if not manifest.test:
        return "its training left nothing out to test on: nothing in there is new to it"
    how = f"--split {manifest.split} --test {manifest.test:g} --seed {manifest.seed}"
    alike = (arguments.split, arguments.test, arguments.seed) == (manifest.split, manifest.test, manifest.seed)
    same = [one.sha256 for one in work.data] == [one.sha256 for one in manifest.data]
    if alike and same and not arguments.alone and not arguments.train:
        return "with the same labels, the rows tested on are those that its training left out"
    return f"only what its training left out is new to it, which is tested on with {how} and all of its files in their order"
