"""When a sensor would have told of each attack, had it told of nothing before: the time that its quiet hours hide.

A conversation alerts once in its quiet time, which is longer than a run, and attackers come back within it. So most attacks go
without an alert of their own although their flows are over the threshold, and when that would have been seen no alert says.
Here the same verdicts are asked again for each attack, as if its conversations were new to the watch: the first flow of
its own over the threshold of that moment, and for the fixed rules the flow at which its flows alone go over one. What the
models remember of the flows before it stays: a window has ten. report_scores.py calls this.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.config import Settings
from sensor.detect_rules import Rules
from sensor.detect_watch import Watch
from sensor.schema import END_ACTIVE, END_ATTEMPT, END_CLOSED, END_FULL, END_ICMP, END_REUSED

AT_ONCE = (END_REUSED, END_ICMP, END_FULL)
"""Ends of flows that another packet brings."""


Rows = dict[int, int]
"""By attack, its number in the run, a row."""


class Judged(NamedTuple):
    """N verdicts of a model, in the order in which flows ended, with what its watch asks beside them."""

    flows: NDArray[np.void]
    """With the ends by which the sequences were given out."""
    slots: NDArray[np.int32]
    restart: NDArray[np.bool_]
    hour: NDArray[np.int64]
    verdict: NDArray[np.float32]
    p_value: NDArray[np.float64]
    per_day: float
    """The model's prior for the rate of conversation-hours."""
    least_p: float

    def watch(self, settings: Settings, budget_per_day: float, quiet_s: float) -> Watch:
        """A new watch over these, as the sensor's but for the quiet time."""
        return Watch(
            capacity=int(self.slots.max(initial=0)) + 1,
            expected_conversation_hours_per_day=self.per_day,
            budget_per_day=budget_per_day,
            quiet_s=quiet_s,
            max_p=settings.detect.max_p,
            least_p=self.least_p,
        )

    def show(self, watch: Watch, rows: slice) -> list[int]:
        """Show these rows to a watch, after all before them; those that alert."""
        raised = watch.raised(
            self.flows[rows], self.slots[rows], self.restart[rows], self.hour[rows], self.verdict[rows], self.p_value[rows]
        )
        return [rows.start + int(row) for row in raised["row"]]


def lifted(judged: Judged, of: NDArray[np.int64], settings: Settings, budget_per_day: float) -> Rows:
    """By attack (`of`, -1 for none), its first row that lifts the verdict of a conversation-hour to a height that alerts.

    For the words, whose verdict is of the hour so far: what it owes to others before is not an attack's doing.
    """
    first: Rows = {}
    for row in judged.show(judged.watch(settings, budget_per_day, 0.0), slice(0, len(of))):
        if of[row] >= 0:
            first.setdefault(int(of[row]), row)
    return first


def over(judged: Judged, of: NDArray[np.int64], settings: Settings, budget_per_day: float) -> Rows:
    """By attack, its first row over the threshold of that moment, whatever its conversation did before: verdicts of flows."""
    watch = judged.watch(settings, budget_per_day, 0.0)
    first: Rows = {}
    shown = 0
    for row in np.flatnonzero((of >= 0) & (judged.p_value <= watch.ceiling)).tolist():
        if int(of[row]) not in first:
            judged.show(watch, slice(shown, row + 1))
            shown = row + 1
            if judged.p_value[row] <= watch.threshold():
                first[int(of[row])] = row
    return first


def over_rule(flows: NDArray[np.void], of: NDArray[np.int64], settings: Settings) -> Rows:
    """By attack, the row at which its flows alone go over a fixed rule."""
    first: Rows = {}
    for attack in np.unique(of[of >= 0]).tolist():
        mine = np.flatnonzero(of == attack)
        rules = Rules(flood_attempts=settings.rules.flood_attempts, sweep_targets=settings.rules.sweep_targets)
        rules.judge(flows[mine])
        if rules.rows:
            first[attack] = int(mine[rules.rows[0]])
    return first


def earliest(*found: Rows) -> Rows:
    """By attack, the first of the rows that any voice found."""
    keys = {attack for one in found for attack in one}
    return {attack: min(one[attack] for one in found if attack in one) for attack in keys}


def told_us(flows: NDArray[np.void], settings: Settings) -> NDArray[np.int64]:
    """(N,) when a sensor has each of (N,) FLOW rows, in the order in which they ended: after a time-out, but for few.

    What only the next packet ends has ended with what stands before it, at the earliest. Where the capture ended first, the
    longest time-out is added.
    """
    limits, end = settings.flows, flows["end"]
    wait_us = np.full(len(flows), limits.idle_s * 1e6)
    wait_us[end == END_CLOSED] = limits.closed_s * 1e6
    wait_us[np.isin(end, AT_ONCE)] = 0.0
    for ends, seconds in ((END_ATTEMPT, limits.attempt_s), (END_ACTIVE, limits.active_s)):  # counted from their first packet
        lasted_us = (flows["last_us"] - flows["first_us"])[end == ends]
        wait_us[end == ends] = np.maximum(seconds * 1e6 - lasted_us, 0.0)
    return np.asarray(np.maximum.accumulate(flows["last_us"] + wait_us.astype(np.int64)))
