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

from .report_fresh import told_us
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


class Heard(NamedTuple):
    """When a voice tells of an instance."""

    after_s: float | None
    """From its first packet until a sensor would tell; None for never."""
    before: bool = False
    """It told nothing, for it had told of its conversation before: the time is that of a sensor that had not."""


class Noticed(NamedTuple):
    """What became of an instance."""

    flows: int
    heard: dict[str, Heard]
    """By voice."""

    def cell(self, voice: str) -> str:
        """It in a word."""
        one = self.heard[voice]
        if one.after_s is None:
            return MISSED if self.flows else NO_FLOWS
        return f"{TOLD_BEFORE} ({one.after_s:.1f})" if one.before else f"{one.after_s:.1f}"


def noticed(told: Told, run: Run) -> list[Noticed]:
    """When each voice first alerted on a flow of each of `run.told`, or would have."""
    first_us, has_us = run.data.flows["first_us"], told_us(run.data.flows, Settings())
    found = []
    for place in range(len(run.told)):
        rows = np.flatnonzero((run.of == place) & run.data.attack)
        begun_us = int(first_us[rows].min()) if len(rows) else 0
        heard = {}
        for voice in VOICES:
            alerted = [row for row in rows.tolist() if row in told.alerts[voice]]
            row = alerted[0] if alerted else told.fresh[voice].get(place)
            heard[voice] = Heard(None if row is None else (int(has_us[row]) - begun_us) / 1e6, not alerted and row is not None)
        found.append(Noticed(len(rows), heard))
    return found


def instances_tables(told: Told, run: Run) -> Iterator[Table]:
    """Each kind of attack with how many of its instances were noticed, and each instance."""
    all_of = noticed(told, run)
    kinds: list[tuple[Value, ...]] = []
    for kind in sorted({one.kind for one in run.told}):
        mine = [one for one, instance in zip(all_of, run.told, strict=True) if instance.kind == kind and one.flows]
        kinds.append((kind, len(mine), *(_of_kind(mine, voice) for voice in VOICES)))
    limits, quiet_s = Settings().flows, Settings().detect.quiet_s
    clock = (
        "A sensor tells of a flow once that has ended, and the time-outs are in these seconds of packet time:"
        f" {limits.closed_s:g} s after its close, {limits.attempt_s:g} s after the first packet of an attempt,"
        f" {limits.idle_s:g} s after its last packet, {limits.active_s:g} s after its first where it goes on."
    )
    before = (
        f"Told before: no alert, for its conversation (of the rules, the source of the sweep or the victim of the flood) had"
        f" alerted within the {quiet_s:g} s in which it alerts once, for an attack before it or falsely; the seconds are those"
        " after which it would have been told of had nothing been told before. The models remember the flows before it all the"
        " same. Missed: nothing would have been told of it then either."
    )
    note = (
        f"Instances noticed, and the median of the seconds from an attack's first packet until a sensor tells. {clock} {before}"
    )
    yield Table("Attacks noticed, by kind", ("kind", "instances with flows", *VOICES), kinds, note)
    rows: list[tuple[Value, ...]] = [
        (one.name, one.label, one.attacker, ", ".join(one.victims), one.tool, seen.flows, *map(seen.cell, VOICES))
        for one, seen in zip(run.told, all_of, strict=True)
    ]
    note = "Seconds from the attack's first packet until a sensor tells, as above."
    yield Table("Instances", ("instance", "label", "attacker", "victims", "tool", "flows", *VOICES), rows, note)


def _of_kind(mine: Sequence[Noticed], voice: str) -> str:
    """How many were noticed, and after how long; the same of those that were told of before."""
    heard = [one.heard[voice] for one in mine]
    at_once, before = (
        [one.after_s for one in heard if one.after_s is not None and one.before == told] for told in (False, True)
    )
    told = [f"{len(at_once)} of {len(mine)}", *([f"{statistics.median(at_once):.1f} s"] if at_once else [])]
    return ", ".join([*told, *([f"{len(before)} {TOLD_BEFORE} ({statistics.median(before):.1f} s)"] if before else [])])
