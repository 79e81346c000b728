"""What every model makes of a run, as scores of its flows and as alerts: the voices that the report compares.

The words' own measures are those of `netseq-evaluate words`, whose Site this fills; beside them stand the multi-flow model, all
that a sensor has together, and, where runs to learn from are named, what simpler things do that learned from these: n-grams,
verdicts of one voice alone, and trees on single flows. Everything is scored in the order in which flows ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.assemble import Evidence, fit, gather
from models.assemble import Rows as WordRows
from models.checkpoint import Bundle
from models.multiflow_baselines import RANKING, Settings, prepared, rank, thinned
from models.multiflow_checkpoint import FlowBundle
from models.resident_flows import FlowScorer
from sensor.commands.datasets import DataSet
from sensor.commands.evaluate_words import Site, against_of, raised, site_of
from sensor.commands.train import labelled_rows
from sensor.config import Settings as SensorSettings
from sensor.conversations import Conversations, as_one_host
from sensor.detect_rules import MODEL as RULES_MODEL
from sensor.engine import Judge
from sensor.engine_flows import FlowJudge
from sensor.schema import Alert, FlowBatch
from sensor.statistics import statistics
from sensor.words import Vocabulary

from .report_fresh import Judged, Rows, earliest, lifted, over, over_rule
from .report_read import Run
from .site import LabError

Floats = NDArray[np.floating]

WORDS, FLOWS, RULES, TOGETHER = "words", "multi-flow", "fixed rules", "all together"
LEARNED_SHARE = 0.8
"""Of a run that is learned from, the first part: netseq-train holds the rest back, and no voice may know more than that."""
TREE_ROWS = 200_000
"""Most rows that trees learn from, as in netseq-evaluate multiflow."""
WIDEST = ("5-gram",)
"""Baselines of evaluate_words that the report leaves out: its tables are wide enough."""
LEAST_P = 1e-300


class Models(NamedTuple):
    """What is measured."""

    words: Bundle
    flows: FlowBundle


class Told(NamedTuple):
    """What all voices made of a run."""

    site: Site
    """Its scores are those of all voices."""
    alerts: dict[str, dict[int, list[Alert]]]
    """By the voices that alert by themselves, and the row."""
    fresh: dict[str, Rows]
    """By the same voices and the instance, the row at which it would first have alerted, had nothing been told before."""
    judged: dict[str, Judged]
    """What WORDS and FLOWS made of every row."""


def score(run: Run, models: Models, learned: Sequence[Run], seed: int) -> Told:
    """Run everything over a run; `learned` are runs that simpler voices learn from. Raises what Judge does, and LabError."""
    settings = SensorSettings()
    vocabulary = Vocabulary.from_json(models.words.manifest.vocabulary)
    against = against_of(models.words, vocabulary, [one.data for one in learned], 1 - LEARNED_SHARE)
    site = site_of(run.data, models.words, vocabulary, against, [])
    scores = {"words, verdict": site.scores["verdict"]}
    scores |= {name: column for name, column in site.scores.items() if name != "verdict" and not name.startswith(WIDEST)}
    scores |= _single_voices(models.words, vocabulary, site, learned)
    scores[FLOWS], flows = _multiflow(models.flows, run.data)
    alerts = {
        WORDS: _only(site.alerts, rules=False),
        FLOWS: _alone(models.flows, run.data, settings),
        RULES: _only(site.alerts, rules=True),
        TOGETHER: raised(run.data, Judge(settings, models.words, models.flows)),
    }
    together = -np.log10(np.maximum(np.minimum(site.scored.p_value, flows.p_value), LEAST_P))
    together[list(alerts[RULES])] = np.inf
    scores[TOGETHER] = together
    scores |= _trees(models.flows, run.data, learned, seed)
    judged = {WORDS: _judged_words(models.words, site), FLOWS: flows}
    return Told(site._replace(scores=scores), alerts, _fresh(judged, run, settings), judged)


def _fresh(judged: dict[str, Judged], run: Run, settings: SensorSettings) -> dict[str, Rows]:
    """By voice and instance, the first row that would alert; two models together share the budget."""
    budget = settings.detect.budget_per_day
    rules = over_rule(run.data.flows, run.of, settings)
    words, half = (lifted(judged[WORDS], run.of, settings, share) for share in (budget, budget / 2))
    flows, other_half = (over(judged[FLOWS], run.of, settings, share) for share in (budget, budget / 2))
    return {WORDS: words, FLOWS: flows, RULES: rules, TOGETHER: earliest(half, other_half, rules)}


def _judged_words(bundle: Bundle, site: Site) -> Judged:
    rows, calibration = site.rows, bundle.calibration
    verdict, p_value = site.scored.verdict, site.scored.p_value
    return Judged(
        site.data.flows, rows.slots, rows.restart, rows.hour, verdict, p_value, calibration.per_day, calibration.least_p
    )


def _only(alerts: dict[int, list[Alert]], *, rules: bool) -> dict[int, list[Alert]]:
    """The alerts of the fixed rules, or those of models."""
    kept = {row: [alert for alert in many if (alert.model == RULES_MODEL) == rules] for row, many in alerts.items()}
    return {row: many for row, many in kept.items() if many}


def _single_voices(bundle: Bundle, vocabulary: Vocabulary, site: Site, learned: Sequence[Run]) -> dict[str, Floats]:
    """Verdicts of one voice alone, fitted on the attacks of `learned`; without any, the plain nats of the frequencies."""
    plain = site.scored.frequency_nats
    if not learned:
        return {"frequencies, nats of the word": plain.sum(axis=1), "frequencies, nats of the service": plain[:, 0]}
    known = [gather(bundle, _unseen(labelled_rows(one.data, vocabulary, [])), 1.0) for one in learned]
    evidence = gather(bundle, site.rows, 1.0)
    return {
        "LSTM alone, fitted": _verdict(bundle, known, evidence, ("lstm",)),
        "frequencies alone, fitted": _verdict(bundle, known, evidence, ("rare", "given")),
    }


def _verdict(bundle: Bundle, known: Sequence[Evidence], evidence: Evidence, voices: Sequence[str]) -> Floats:
    try:
        weights = fit([], known, bundle.manifest.parts, voices=voices)
    except ValueError:
        raise LabError(
            "the runs of --train have no attacks, or nothing else: there is nothing to fit single voices on"
        ) from None
    return weights.verdict(evidence.largest, evidence.mean)


def _unseen(rows: WordRows) -> WordRows:
    """A run without the benign rows that the model may have been trained on."""
    benign = np.flatnonzero(rows.benign)
    kept = np.zeros(len(rows.benign), np.bool_)
    kept[benign[len(benign) - int(len(benign) * (1 - LEARNED_SHARE)) :]] = True
    return rows._replace(benign=kept)


def _multiflow(bundle: FlowBundle, data: DataSet) -> tuple[Floats, Judged]:
    """(N,) verdicts of a multi-flow model, and all that its watch asks."""
    flows = as_one_host(data.flows) if bundle.manifest.sequence == "host" else data.flows
    turns = Conversations(conversations=max(1, len(flows))).turn(flows)
    scorer = FlowScorer(bundle, slots=int(turns.slots.max(initial=0)) + 1)
    scored = scorer.score(statistics(data.flows, bundle.manifest.columns), turns.slots, turns.restart, explain_p=0.0)
    least_p, per_day = bundle.calibration.least_p, bundle.calibration.per_day
    return scored.verdict, Judged(
        flows, turns.slots, turns.restart, turns.hour, scored.verdict, scored.p_value, per_day, least_p
    )


def _alone(bundle: FlowBundle, data: DataSet, settings: SensorSettings) -> dict[int, list[Alert]]:
    """What a multi-flow model raises that has the whole alert budget to itself."""
    judge = FlowJudge(settings, bundle, budget_per_day=settings.detect.budget_per_day)
    pairs = Conversations(conversations=settings.conversations.table, restart_s=settings.conversations.restart_s)
    step, found = settings.model.batch_flows, dict[int, list[Alert]]()
    for start in range(0, len(data.flows), step):
        flows = data.flows[start : start + step]
        alerts = judge.judge(FlowBatch(flows), pairs.turn(flows))
        for row, alert in zip(judge.detector.rows, alerts, strict=True):
            found.setdefault(start + int(row), []).append(alert)
    return found


def _trees(bundle: FlowBundle, data: DataSet, learned: Sequence[Run], seed: int) -> Iterator[tuple[str, Floats]]:
    """How certain trees on single flows are of any attack, with the columns of the multi-flow model."""
    if not learned:
        return
    columns = bundle.manifest.columns
    judged = [one.data.attack | (one.data.labels == "") & ~one.data.unsure for one in learned]
    texts = np.concatenate([one.data.labels[rows] for one, rows in zip(learned, judged, strict=True)])
    names, label = np.unique(texts, return_inverse=True)  # "" sorts first: class 0 is benign
    if len(names) < 2 or names[0]:
        raise LabError("the runs of --train have no attacks, or nothing else: there is nothing for trees to learn")
    rows = np.concatenate([statistics(one.data.flows[some], columns) for one, some in zip(learned, judged, strict=True)])
    label = label.astype(np.int64)
    chosen = thinned(label, np.arange(len(label)), TREE_ROWS, seed)
    training, test = prepared(rows[chosen], statistics(data.flows, columns))
    for name in RANKING:
        yield name, rank(name, training, label[chosen], test, Settings(seed))
