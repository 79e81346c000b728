"""`netseq-evaluate words`: a word model and the n-grams on labelled flows.

Every FILE is read as a site of its own: conversations and the alert budget start afresh. Flows are scored with nothing shed,
for what is measured is the model; the alerts are those that the sensor itself would raise with its default settings. Scores are
then pooled over all FILEs and ranked in four ways: flow by flow, and by conversation-hour, an hour counting by its highest
score, by the mean, or by the mean of its three highest. Intervals come from resampling whole conversations.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.assemble import NO_LIMIT, Rows
from models.checkpoint import DEFAULT_MODEL, Bundle, load
from models.evaluate import HoursOf, conversation_hours, highest, means
from models.measures import RATES, Ranking, ranking
from models.resident import Scored, Scorer
from models.voices import Baselines, baselines, voices
from sensor.commands import evaluate_seen
from sensor.commands.datasets import DataSet, fingerprint
from sensor.commands.evaluate_examples import examples
from sensor.commands.label_files import FILE_NAME, LabelFiles, labelled
from sensor.commands.misuse import Misuse
from sensor.commands.report import Bars, Curves, Report, Table, Value, machine, precision, roc
from sensor.commands.train import Progress, labelled_rows, rows_of
from sensor.config import Settings
from sensor.engine import Judge
from sensor.labels import Labels
from sensor.schema import Alert, FlowBatch
from sensor.words import Vocabulary

Floats = NDArray[np.floating]
Masks = NDArray[np.bool_]

ANY = "any attack"
TOP = 3
HOURLY: dict[str, Callable[[Floats, HoursOf], Floats]] = {
    "highest": highest,
    "mean": means,
    f"top-{TOP} mean": functools.partial(means, top=TOP),
}
"""How a conversation-hour counts by its flows' scores."""


class Site(NamedTuple):
    """One FILE, scored."""

    data: DataSet
    rows: Rows
    hours: HoursOf
    scored: Scored
    scores: dict[str, Floats]
    """(N,) by voice."""
    alerts: dict[int, list[Alert]]
    """By the row that raised them."""


class Unit(NamedTuple):
    """What is ranked, pooled over all sites: M flows or conversation-hours."""

    name: str
    scores: dict[str, Floats]
    labels: dict[str, Masks]
    """(M,) for each attack label, and ANY."""
    benign: Masks
    groups: NDArray[np.int64]
    """(M,) the conversation of each."""


def measure(arguments: argparse.Namespace) -> tuple[Report, bool]:
    """Measure; the report, and whether all input could be read. Raises Misuse and whatever the readers refuse with."""
    model, files = chosen(arguments.files)
    bundle = load(model)
    vocabulary = Vocabulary.from_json(bundle.manifest.vocabulary)
    named = LabelFiles([Labels.read(arguments.labels)] if arguments.labels else [], files)
    beside = LabelFiles([], arguments.train)
    with Progress(shown=not arguments.quiet and sys.stderr.isatty()) as progress:
        training = [labelled(progress.read(path), beside.of(path)) for path in arguments.train]
        against = against_of(bundle, vocabulary, training, arguments.validation)
        hashes = evaluate_seen.all_hashes(files)
        counted = evaluate_seen.shared(hashes, evaluate_seen.all_hashes(arguments.train))
        sites = [
            site_of(labelled(progress.read(path), named.of(path)), bundle, vocabulary, against, [path] * (path in counted))
            for path in files
        ]
    if not any(site.rows.attack.any() for site in sites):
        raise Misuse(f"{', '.join(files)}: no row has an attack's label: --labels names a file that tells the attacks")
    units = [flows_of(sites), *hours_of(sites)]
    report = Report(f"{bundle.manifest.name} {bundle.manifest.version} on {', '.join(files)}")
    report.warnings += evaluate_seen.warnings(
        hashes, bundle.manifest.data, "this very data set: what is benign in it is known to it"
    )
    report.warnings += _warnings(sites, counted)
    report.facts += _facts(arguments, model, bundle, sites, training)
    report.facts += [("labels", line) for line in named.report()]
    report.tables.append(alerts_table(sites))
    for unit in units:
        report.tables += _tables(unit, arguments.resamples, arguments.seed)
    report.tables += examples(sites, vocabulary)
    report.figures += _figures(units, sites, arguments.resamples, arguments.seed)
    return report, not any(one.damaged for one in [*training, *(site.data for site in sites)])


def chosen(files: Sequence[str]) -> tuple[Path, list[str]]:
    """Tell a model's folder, if it is named first, from the traffic. Raises Misuse where there is no traffic."""
    first = Path(files[0])
    if not (first / "manifest.json").is_file() or (first / FILE_NAME).is_file():  # a data set may have a manifest too
        return DEFAULT_MODEL, list(files)
    if len(files) == 1:
        raise Misuse(f"{files[0]}: it is a model: name labelled traffic to measure it on")
    return first, list(files[1:])


def against_of(bundle: Bundle, vocabulary: Vocabulary, training: Sequence[DataSet], share: float) -> Baselines:
    """The n-grams: of the training data, or, without any, the unigram that the model itself carries."""
    rows = [rows_of(one, vocabulary, benign_only=True) for one in training]
    rows = [one for one in rows if len(one.words)]
    if training and not rows:
        raise Misuse(f"{', '.join(one.path for one in training)}: no benign flows in there to count")
    return baselines(rows, bundle.manifest.sizes, share) if rows else Baselines(bundle.counts)


def site_of(data: DataSet, bundle: Bundle, vocabulary: Vocabulary, against: Baselines, trained: Sequence[str]) -> Site:
    """Score a FILE, and let the sensor judge it."""
    if not len(data.flows):
        raise Misuse(f"{data.path}: no flows in there to measure")
    rows = labelled_rows(data, vocabulary, trained)
    scorer = Scorer(bundle, conversations=int(rows.slots.max(initial=0)) + 1, rounds=NO_LIMIT)
    scored = scorer.score(rows.words, rows.slots, rows.restart, rows.hour, explain_p=0.0)
    hours = conversation_hours(rows.slots, rows.restart, rows.hour)
    return Site(data, rows, hours, scored, voices(rows, scored, against), raised(data, Judge(Settings(), bundle)))


def raised(data: DataSet, judge: Judge) -> dict[int, list[Alert]]:
    """What a sensor with its default settings raises of a FILE, by the rows that raised it; the `judge` is a new one."""
    step, found = Settings().model.batch_flows, dict[int, list[Alert]]()
    for start in range(0, len(data.flows), step):
        alerts = judge.judge(FlowBatch(data.flows[start : start + step]))
        for row, alert in zip(judge.rows, alerts, strict=True):
            found.setdefault(start + row, []).append(alert)
    return found


def attack_labels(sites: Sequence[Site]) -> list[str]:
    """All attack labels that occur, in order."""
    return sorted({str(label) for site in sites for label in np.unique(site.data.labels[site.rows.attack])})


def flows_of(sites: Sequence[Site]) -> Unit:
    """All flows that somebody judged."""
    known = [site.rows.attack | site.rows.benign for site in sites]
    masks = {
        label: np.concatenate([(site.data.labels == label)[kept] for site, kept in zip(sites, known, strict=True)])
        for label in attack_labels(sites)
    }
    attack = np.concatenate([site.rows.attack[kept] for site, kept in zip(sites, known, strict=True)])
    scores = {
        voice: np.concatenate([site.scores[voice][kept] for site, kept in zip(sites, known, strict=True)])
        for voice in sites[0].scores
    }
    groups = [
        _conversations(number, site.rows.slots[kept]) for number, (site, kept) in enumerate(zip(sites, known, strict=True))
    ]
    return Unit("flows", scores, {**masks, ANY: attack}, ~attack, np.concatenate(groups))


def hours_of(sites: Sequence[Site]) -> Iterator[Unit]:
    """All conversation-hours with a row that somebody judged; an hour with an attack in it is none of the benign ones."""
    names = attack_labels(sites)
    known, groups, attack = [], [], []
    masks: dict[str, list[Masks]] = {name: [] for name in names}
    for number, site in enumerate(sites):
        hostile = _within(site.hours, site.rows.attack)
        kept = hostile | _within(site.hours, site.rows.benign)
        known.append(kept)
        attack.append(hostile[kept])
        groups.append(_conversations(number, site.rows.slots[site.hours.last][kept]))
        for name in names:
            masks[name].append(_within(site.hours, site.rows.attack & (site.data.labels == name))[kept])
    joined = {name: np.concatenate(pieces) for name, pieces in masks.items()}
    hostile = np.concatenate(attack)
    for way, of in HOURLY.items():
        scores = {
            voice: np.concatenate([of(site.scores[voice], site.hours)[kept] for site, kept in zip(sites, known, strict=True)])
            for voice in sites[0].scores
            if voice != "verdict" or way == "highest"  # it is of the hour so far: its height is the hour's verdict
        }
        yield Unit(f"conversation-hours by {way}", scores, {**joined, ANY: hostile}, ~hostile, np.concatenate(groups))


def _conversations(number: int, slots: NDArray[np.int32]) -> NDArray[np.int64]:
    """Conversations told apart over all sites."""
    return slots.astype(np.int64) + (number << 32)


def _within(hours: HoursOf, rows: Masks) -> Masks:
    """(H,) conversation-hours that have one of the rows."""
    found = np.zeros(len(hours.last), np.bool_)
    found[hours.number[rows]] = True
    return found


def _tables(unit: Unit, resamples: int, seed: int) -> Iterator[Table]:
    """How well each voice ranks each attack above the benign rest, and above all that is not this attack."""
    single = len(unit.labels) == 2
    for label, mask in unit.labels.items():
        if single and label == ANY:
            continue
        others = unit.labels[ANY] & ~mask
        contests = {"benign only": mask | unit.benign} | ({} if not others.any() else {"the rest": np.ones_like(mask)})
        for rest, rows in contests.items():
            table: list[tuple[Value, ...]] = []
            found: Ranking | None = None
            for voice, scores in unit.scores.items():
                found = ranking(scores[rows], mask[rows], unit.groups[rows], resamples=resamples, seed=seed)
                table.append((voice, found.area, found.precision, *found.found))
            assert found is not None, "there is always the LSTM"
            title = f"{label or 'attack'} against {rest}, {unit.name}: {found.attacks:,} against {found.rest:,}"
            coarse = [f"{rate:g}" for rate in RATES if rate * found.rest < 1]
            note = f"Chance gives an AUC-PR of {found.prevalence:.3f}."
            if coarse:
                note += (
                    f" {found.rest:,} are too few to tell a rate of {' or '.join(coarse)}: it stands for no false alarm at all."
                )
            yield Table(title, ("score", "AUC", "AUC-PR", *(f"found at {rate:g}" for rate in RATES)), table, note)


def alerts_table(sites: Sequence[Site], days: float | None = None) -> Table:
    """What the sensor would have raised at its default threshold, a day of packet time, by label.

    `days` of packet time that the sites are told as; None: the hours of the clock with traffic.
    """
    days = sum(_days(site) for site in sites) if days is None else days
    table: list[tuple[Value, ...]] = []
    for label in ["", *attack_labels(sites)]:
        flows = hours = told = raised = 0
        for site in sites:
            rows = (site.data.labels == label) & (site.rows.attack if label else ~site.data.unsure)
            if not label:  # a benign hour has no attack in it
                rows &= ~_within(site.hours, site.rows.attack)[site.hours.number]
            alerting = np.zeros(len(rows), np.bool_)
            alerting[list(site.alerts)] = True
            flows += int(rows.sum())
            hours += int(_within(site.hours, rows).sum())
            told += int((_within(site.hours, rows) & _within(site.hours, alerting)).sum())
            raised += int((rows & alerting).sum())
        table.append((label or "benign", flows, hours, told, told / hours if hours else None, raised, raised / days))
    head = ("label", "flows", "conversation-hours", "of them alarmed", "share", "alerts", "alerts a day")
    return Table(f"Alerts at the default threshold in {days:.2f} days with traffic", head, table)


def _days(site: Site) -> float:
    """Days of packet time: hours of the clock in which anything happened, as the calibration counts them."""
    return len(np.unique(site.rows.hour)) / 24


def _warnings(sites: Sequence[Site], counted: Mapping[str, str]) -> Iterator[str]:
    """What makes the measure worth less than it seems; `counted` FILEs have data that the n-grams were counted on."""
    for site in sites:
        if other := counted.get(site.data.path):
            known = len(site.data.benign())
            yield f"{site.data.path}: has data of --train {other}: its {known:,} benign rows are known, and not tested on"
    if not any(site.rows.benign.any() for site in sites):
        yield "no benign rows to test on: nothing can be said of false alarms"
    for site in sites:
        if site.data.damaged:
            yield f"{site.data.path}: {site.data.damaged:,} places could not be read"


def _facts(
    arguments: argparse.Namespace, model: Path, bundle: Bundle, sites: Sequence[Site], training: Sequence[DataSet]
) -> list[tuple[str, str]]:
    detect, manifest = Settings().detect, bundle.manifest
    data = [(kind, one) for kind, many in (("data", [site.data for site in sites]), ("n-grams of", training)) for one in many]
    rule = f"a p-value of at most min({detect.max_p:g}, {detect.budget_per_day:g} / conversation-hours a day)"
    return [
        ("model", f"{model}, {manifest.name} {manifest.version}, weights {manifest.weights_sha256[:16]}"),
        *((kind, f"{one.path}: {len(one.flows):,} flows, SHA-256 {fingerprint(one.path)[1]}") for kind, one in data),
        ("threshold", f"{rule}, at least {bundle.calibration.per_day:,.0f} of them"),
        ("intervals", f"95 %, {arguments.resamples} resamples of conversations, seed {arguments.seed}"),
        ("command", arguments.command),
        ("machine", machine()),
    ]


def _figures(units: Sequence[Unit], sites: Sequence[Site], resamples: int, seed: int) -> Iterator[Curves | Bars]:
    """ROC of flows and of conversation-hours, precision over alerts a day, and what the verdict finds of each label."""
    flows, hours = units[:2]
    for unit in (flows, hours):
        curves = {voice: roc(scores, unit.labels[ANY]) for voice, scores in unit.scores.items()}
        yield Curves(f"{ANY}, {unit.name}", "false alarms (share of benign)", "attacks found (share)", curves)
    days = sum(_days(site) for site in sites)
    lines = {voice: precision(scores, hours.labels[ANY], days) for voice, scores in hours.scores.items()}
    yield Curves("Precision of conversation-hours", "alarms a day", "attacks among the alarms (share)", lines)
    names = [label for label in hours.labels if label != ANY or len(hours.labels) > 2]
    found = [
        ranking(
            hours.scores["verdict"][rows := hours.labels[label] | hours.benign],
            hours.labels[label][rows],
            hours.groups[rows],
            resamples=resamples,
            seed=seed,
        )
        for label in names
    ]
    series = {f"at {rate:g} false alarms": [one.found[place] for one in found] for place, rate in enumerate(RATES[:2])}
    yield Bars("Found by the verdict, conversation-hours", tuple(name or "attack" for name in names), series)
