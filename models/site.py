"""A model for one site: calibrated on its conversation-hours, and how many alerts a day it may be expected to give there.

The rows are what a sensor recorded, without hosts that a fixed rule caught. `attack` marks rows of conversations that the
model in use alerted on. They are no pattern to learn, but most of them are false alarms, the budget's own: to leave them out
of the calibration as well would cut its tail off, the next model would alert on what is then the tail, and so on with
every training. So as many of these conversation-hours are counted as the budget allows, those with the lowest verdicts;
an attacker cannot make himself heard there with more than that.

`sensor.commands.train_site` calls this.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.assemble import Rows, gather
from models.calibrate import Calibration, calibrate
from models.checkpoint import Bundle
from models.evaluate import highest
from models.train import Settings, Trainer, batches, sort_conversations

Floats = NDArray[np.float64]

DAY_HOURS = 24
LEAST_P_HOURS = 1000
"""Conversation-hours that a calibration wants: `detect.max_p` is 0.01, and ten excesses are what its tail is fitted to."""


class Hours(NamedTuple):
    """H conversation-hours, in the order in which they ended."""

    verdict: Floats
    """(H,) the highest of each."""
    clock: NDArray[np.int64]
    """(H,) hour of packet time."""
    alerted: NDArray[np.bool_]
    """(H,) a model alerted on a flow of it."""

    def take(self, rows: NDArray[np.bool_]) -> Hours:
        """Some of them."""
        return Hours(self.verdict[rows], self.clock[rows], self.alerted[rows])

    @property
    def days(self) -> float:
        """Hours in which anything happened, in days."""
        return max(len(np.unique(self.clock)), 1) / DAY_HOURS


class Expected(NamedTuple):
    """Alerts counted in the last part of a record."""

    alerts: int
    days: float
    share: float
    """Share of the pairs of hosts that were looked at."""

    @property
    def per_day(self) -> float:
        """Alerts a day of all pairs."""
        return self.alerts / self.days / self.share


class Budget(NamedTuple):
    """What the detector is told: see `sensor.detect_watch`."""

    per_day: float
    max_p: float


def hours_of(bundle: Bundle, rows: Rows, held_back: float) -> Hours:
    """Score a record from its beginning, and give the conversation-hours that end in its last share `held_back`."""
    told = gather(bundle, rows, held_back)
    verdict = highest(bundle.weights.verdict(told.largest, told.mean), told.hours)
    order = np.argsort(told.hours.last, kind="stable")
    order = order[told.held[order]]
    return Hours(verdict[order], rows.hour[told.hours.last[order]], told.attack[order])


def calibration_of(hours: Hours, budget: Budget, share: float) -> Calibration:
    """Calibrate on conversation-hours of `share` of all pairs. ValueError when there are too few."""
    allowed = int(budget.per_day * hours.days * share)
    suspect = np.flatnonzero(hours.alerted)
    kept = ~hours.alerted
    kept[suspect[np.argsort(hours.verdict[suspect], kind="stable")[:allowed]]] = True
    return calibrate(hours.verdict[kept], hours.days * share)


def expected(hours: Hours, budget: Budget, share: float, calibration: Calibration | None = None) -> Expected:
    """Count the alerts of the last day of `hours`, or of their last half, by a calibration on what came before.

    A conversation-hour over the threshold is an alert. With a `calibration` that one counts. ValueError as `calibration_of`.
    """
    clocks = np.unique(hours.clock)
    if len(clocks) > 1:
        late = hours.clock >= clocks[-min(DAY_HOURS, len(clocks) // 2)]
        days = hours.take(late).days
    else:  # all in one hour: what came first calibrates for what came last
        late = np.arange(len(hours.clock)) >= len(hours.clock) // 2
        days = hours.days / 2
    told = hours.take(late)
    by = calibration or calibration_of(hours.take(~late), budget, share)
    rate = max(by.per_day, len(told.clock) / days / share)
    over = by.p_value(told.verdict) <= min(budget.max_p, budget.per_day / rate)
    return Expected(int(over.sum()), days, share)


def calibrated(bundle: Bundle, hours: Hours, budget: Budget, share: float) -> Bundle:
    """The same model with the site's calibration."""
    return dataclasses.replace(bundle, calibration=calibration_of(hours, budget, share))


def nats_of(bundle: Bundle, rows: Rows, held_back: float) -> float:
    """Nats a word of the last share of a record, with what it costs to name the port within a range.

    So models with different vocabularies can be compared: one with a value of its own for a port has to name nothing more.
    """
    first = rows.held_from(held_back)
    order, begins = sort_conversations(rows.slots[first:], rows.restart[first:])
    words = rows.words[first:][order]
    settings = Settings()
    trainer = Trainer(bundle.model.shape, settings, unlearned=np.array(bundle.manifest.unlearned), begin=bundle.model)
    spread = np.array(bundle.manifest.spread)[words[:, 0]]
    return trainer.measure(batches(words, begins, settings)) + float(spread.mean()) if len(words) else 0.0
