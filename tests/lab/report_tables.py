"""The tables of a report: how each voice ranks each attack, what is alerted, and when each instance was first told of.

Measures are those of netseq-evaluate (`models.measures`, and the units of `evaluate_words`); what is new here is only how they
are laid out, since a run has many kinds of attack and the question is which voice finds which. report.py calls this.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.measures import RATES, Ranking, ranking
from sensor.commands.datasets import DataSet
from sensor.commands.evaluate_words import ANY, Unit, alerts_table, flows_of, hours_of
from sensor.commands.report import Table, Value, shown
from sensor.config import Settings

from .report_read import Run
from .report_scores import FLOWS, RULES, TOGETHER, WORDS, Told

MISSED, TOLD_BEFORE, NO_FLOWS = "missed", "told before", "no flows"
VOICES = (WORDS, FLOWS, RULES, TOGETHER)
"""Voices that alert by themselves, in the order of the tables."""


def ranked(told: Told, data: DataSet, by: str, *, resamples: int, seed: int) -> Iterator[Table]:
    """How each voice ranks each kind of attack above benign rows, by flow and by conversation-hour; `data` has the labels."""
    site = told.site._replace(data=data)
    for unit in (flows_of([site]), next(hours_of([site]))):
        benign = int(unit.benign.sum())
        rows: list[tuple[Value, ...]] = [
            (label, int(mask.sum()), *(_cell(unit, voice, mask, resamples, seed) for voice in unit.scores))
            for label, mask in _rows_of(unit)
        ]
        yield Table(
            f"Attacks by {by} against {benign:,} benign, {unit.name}", ("attack", "rows", *unit.scores), rows, _note(benign)
        )


def _rows_of(unit: Unit) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    yield from ((label, mask) for label, mask in unit.labels.items() if label != ANY)
    yield ANY, unit.labels[ANY]


def _cell(unit: Unit, voice: str, mask: NDArray[np.bool_], resamples: int, seed: int) -> str:
    """AUC, and the share found at each of RATES; nothing where there are no benign rows."""
    rows = mask | unit.benign
    found: Ranking = ranking(unit.scores[voice][rows], mask[rows], unit.groups[rows], resamples=resamples, seed=seed)
    return " · ".join(filter(None, (shown(found.area), *(f"{one.value:.2f}" for one in found.found if one.value == one.value))))


def _note(benign: int) -> str:
    told = f"Each cell: AUC, and the share found at false-alarm rates of {', '.join(f'{rate:g}' for rate in RATES)}."
    coarse = [f"{rate:g}" for rate in RATES if rate * benign < 1]
    if coarse:
        told += (
            f" {benign:,} benign rows are too few to tell a rate of {' or '.join(coarse)}: it stands for no false alarm at all."
        )
    return told


def alerted(told: Told, run: Run) -> Iterator[Table]:
    """Alerts of each voice at the shipped threshold: false alarms first, then by kind, and what they come to in a day."""
    extrapolated = (
        f"A day's figure is extrapolated from {run.seconds / 60:.1f} minutes of packet time: times {1 / run.days:.0f}."
    )
    rows: list[tuple[Value, ...]] = []
    for voice in VOICES:
        attack, benign, unjudged = _on(told, run, voice)
        rows.append((voice, attack, benign, unjudged, benign / run.days))
    head = ("voice", "alerts on attacks", "on benign flows", "on flows that nobody judged", "false alarms a day")
    note = f"{extrapolated} The run stands for a working day, in which there were as many as it shows."
    yield Table("False alarms at the shipped threshold", head, rows, note)
    for voice in VOICES:
        site = told.site._replace(data=run.by_kind(), alerts=told.alerts[voice])
        table = alerts_table([site], run.days)
        note = f"{extrapolated} Benign conversation-hours are those without any attack in them."
        yield replace(table, title=f"Alerts at the shipped threshold by {voice}", note=note)


def _on(told: Told, run: Run, voice: str) -> tuple[int, int, int]:
    """A voice's alerts on attacks, on benign flows, and on those that nobody judged."""
    data = run.data
    rows = np.array([row for row, many in told.alerts[voice].items() for _ in many], np.int64)
    attack, unjudged = int(data.attack[rows].sum()), int(data.unsure[rows].sum())
    return attack, len(rows) - attack - unjudged, unjudged


class Noticed(NamedTuple):
    """What became of an instance."""

    flows: int
    after_s: dict[str, float | str]
    """By voice: seconds from its first packet to its first alert, or in words why there was none."""


def noticed(told: Told, run: Run) -> list[Noticed]:
    """When each voice first alerted on a flow of each of `run.told`."""
    first_us, quiet_us = run.data.flows["first_us"], int(Settings().detect.quiet_s * 1e6)
    found = []
    for place in range(len(run.told)):
        rows = np.flatnonzero((run.of == place) & run.data.attack)
        if not len(rows):
            found.append(Noticed(0, dict.fromkeys(VOICES, NO_FLOWS)))
            continue
        begun_us = int(first_us[rows].min())
        after: dict[str, float | str] = {}
        for voice in VOICES:
            alerts = told.alerts[voice]
            hits = [alert.ts_us for row in rows.tolist() for alert in alerts.get(row, ())]
            if hits:
                after[voice] = (min(hits) - begun_us) / 1e6
            elif voice in (RULES, TOGETHER) and told.over_rule[place]:
                after[voice] = TOLD_BEFORE
            else:
                after[voice] = _unheard(told, voice, rows, begun_us - quiet_us)
        found.append(Noticed(len(rows), after))
    return found


def _unheard(told: Told, voice: str, rows: NDArray[np.int64], since_us: int) -> str:
    """Whether an instance went without an alert because its conversations were in their quiet time, or was missed."""
    sequences = told.sequences[voice]
    mine = set(sequences[rows].tolist())
    before = [
        alert.ts_us
        for row, many in told.alerts[voice].items()
        for alert in many
        if row < rows[-1] and alert.ts_us >= since_us and int(sequences[row]) in mine
    ]
    return TOLD_BEFORE if before else MISSED


def instances_tables(told: Told, run: Run) -> Iterator[Table]:
    """Each kind of attack with how many of its instances were noticed, and each instance."""
    all_of = noticed(told, run)
    kinds: list[tuple[Value, ...]] = []
    for kind in sorted({one.kind for one in run.told}):
        mine = [one for one, instance in zip(all_of, run.told, strict=True) if instance.kind == kind and one.flows]
        kinds.append((kind, len(mine), *(_of_kind(mine, voice) for voice in VOICES)))
    note = "Instances noticed, and the median of the seconds from the first packet of an attack to its first alert."
    yield Table("Attacks noticed, by kind", ("kind", "instances with flows", *VOICES), kinds, note)
    rows: list[tuple[Value, ...]] = [
        (one.name, one.label, one.attacker, ", ".join(one.victims), one.tool, seen.flows, *seen.after_s.values())
        for one, seen in zip(run.told, all_of, strict=True)
    ]
    limits = Settings().flows
    quiet_s = Settings().detect.quiet_s
    note = (
        "Seconds of packet time from the attack's first packet to the end of the flow that raised its first alert. A sensor"
        f" tells of a flow once that has ended: {limits.closed_s:g} s after its close, {limits.attempt_s:g} s after an attempt,"
        f" {limits.idle_s:g} s after its last packet. Told before: its conversation had alerted within the {quiet_s:g} s in"
        " which it alerts once, or for the fixed rules the source of the sweep or the victim of the flood had; what was told"
        " then was an attack before, or a false alarm."
    )
    yield Table("Instances", ("instance", "label", "attacker", "victims", "tool", "flows", *VOICES), rows, note)


def _of_kind(mine: Sequence[Noticed], voice: str) -> str:
    times = [after for one in mine if isinstance(after := one.after_s[voice], float)]
    before = sum(one.after_s[voice] == TOLD_BEFORE for one in mine)
    told = [f"{len(times)} of {len(mine)}", *([f"{statistics.median(times):.1f} s"] if times else [])]
    return ", ".join([*told, *([f"{before} {TOLD_BEFORE}"] if before else [])])
