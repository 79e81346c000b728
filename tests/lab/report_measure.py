"""All that a report says of a run: facts, then what was noticed, what was alerted, and how every voice ranks every attack.

Apart from report.py because what this imports is slow, and a mistake in the arguments is told before.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from models.checkpoint import DEFAULT_MODEL, load
from models.folder import Source
from models.multiflow_checkpoint import DEFAULT_PACKETS
from models.multiflow_checkpoint import load as load_flows
from sensor.commands.datasets import fingerprint
from sensor.commands.evaluate_examples import examples
from sensor.commands.report import Report, machine
from sensor.config import Settings
from sensor.words import Vocabulary

from .output import CAPTURE
from .report_read import Run, read_run
from .report_scores import LEARNED_SHARE, Models, score
from .report_tables import alerted, instances_tables, ranked
from .site import LabError


def measure(arguments: argparse.Namespace) -> tuple[Report, bool]:
    """Measure; the report, and whether all captures were read whole. Raises LabError, and what readers and models raise."""
    models = Models(load(arguments.word_model or DEFAULT_MODEL), load_flows(arguments.multiflow or DEFAULT_PACKETS))
    run, learned = read_run(arguments.run), [read_run(folder) for folder in arguments.train]
    if not run.data.attack.any():
        raise LabError(f"{run.folder}: no flow has an attack's label: there is nothing to find in it")
    told = score(run, models, learned, arguments.seed)
    report = Report(f"{run.folder.resolve().name}: run {run.manifest.run}, seed {run.manifest.seed}")
    report.warnings += list(_warnings(run, models))
    report.facts += list(_facts(arguments, run, learned, models))
    report.tables += list(instances_tables(told, run))
    report.tables += list(alerted(told, run))
    for data, by in ((run.by_kind(), "kind"), (run.by_class(), "class")):
        report.tables += list(ranked(told, data, by, resamples=arguments.resamples, seed=arguments.seed))
    report.tables += list(examples([told.site], Vocabulary.from_json(models.words.manifest.vocabulary)))
    return report, not any(one.data.damaged for one in (run, *learned))


def _warnings(run: Run, models: Models) -> Iterator[str]:
    """What makes the report worth less than it seems."""
    digests = {fingerprint(str(path))[1] for path in (run.folder, run.folder / CAPTURE) if path.exists()}
    trained: dict[str, Sequence[Source]] = {
        "word model": models.words.manifest.data,
        "multi-flow model": models.flows.manifest.data,
    }
    for name, data in trained.items():
        if any(source.sha256 in digests for source in data):
            yield f"The {name} was trained on this very run: what is told of it is flattery."
    if run.manifest.ended != "whole":
        yield f"The run was ended before its time: {run.manifest.ended}"
    if run.data.damaged:
        yield f"{run.data.damaged:,} places of the capture could not be read."
    if dropped := run.manifest.capture.get("dropped"):
        yield f"tcpdump missed {dropped:,} packets."
    if strange := int((run.data.attack & (run.of < 0)).sum()):
        yield f"{strange:,} flows with an attack's label belong to no instance."


def _facts(arguments: argparse.Namespace, run: Run, learned: Sequence[Run], models: Models) -> Iterator[tuple[str, str]]:
    detect, words, flows = Settings().detect, models.words.manifest, models.flows.manifest
    yield "word model", f"{words.name} {words.version}, weights {words.weights_sha256[:16]}"
    yield "multi-flow model", f"{flows.name} {flows.version}, weights {flows.weights_sha256[:16]}"
    yield "run", _run_told(run)
    for one in learned:
        yield "learned from, by all but the two models", _run_told(one)
    if learned:
        yield (
            "how they learned",
            f"n-grams from the first {LEARNED_SHARE:.0%} of each run's benign flows; verdicts of single voices from its attacks"
            " and the benign rest; trees from all of it",
        )
    yield (
        "time",
        f"{run.seconds / 60:.1f} minutes of packet time stand for {run.seconds * run.manifest.compression / 3600:.1f} hours of"
        " a working day (think times are compressed). A day's figures are extrapolated to 24 hours of this packet time, and"
        " conversation-hours are hours of it",
    )
    yield (
        "threshold",
        f"a p-value of at most {detect.max_p:g}, and {detect.budget_per_day:g} false alarms a day, as shipped; the two models"
        " share them when they work together",
    )
    yield "all together", "ranked by the smaller p-value of both models; a flow on which a fixed rule alerts goes before all"
    yield "fixed rules", "alert once for many flows: what they find is not to be read by flow"
    yield "command", arguments.command
    yield "machine", machine()


def _run_told(run: Run) -> str:
    attacks, benign = int(run.data.attack.sum()), len(run.data.benign())
    digest = run.manifest.sha256.get(CAPTURE) or fingerprint(str(run.folder))[1]
    return (
        f"{run.folder.name}, seed {run.manifest.seed}: {len(run.data.flows):,} flows, {benign:,} benign and {attacks:,} of"
        f" {len(run.told)} attacks; capture SHA-256 {digest[:16]}"
    )
