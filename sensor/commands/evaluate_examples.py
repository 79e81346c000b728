"""The flows to look at: the benign conversation-hours most like attacks, and the attacks most like benign ones, with reasons.

A table of areas says how often a model is wrong; these say about what. Each example is the flow at which the hour's verdict
stood highest, told by its least expected parts under the LSTM and under the plain frequencies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from models.evaluate import highest
from sensor.addresses import text
from sensor.commands.report import Table, Value
from sensor.commands.terminal import end_point, stamp
from sensor.message import share, transport
from sensor.words import Vocabulary

if TYPE_CHECKING:
    from sensor.commands.evaluate_words import Site

SHOWN = 10
LOOKED_AT = 200
"""Conversation-hours among which unlike ones are sought: a scan has thousands that are alike."""
PARTS = 3
"""Parts that are told of a flow: more are not read."""
FALSE_ALARMS = "Benign conversation-hours with the highest verdicts"
MISSES = "Missed: attacks with the lowest verdicts"
HEAD = ("end (UTC)", "flow", "label", "verdict", "p-value", "alert", "least expected")


def examples(sites: Sequence[Site], vocabulary: Vocabulary) -> Iterator[Table]:
    """The benign hours that stood highest, and of the attacks without an alert the lowest, over all sites."""
    benign: list[tuple[float, int, int]] = []
    hostile: list[tuple[float, int, int]] = []
    for number, site in enumerate(sites):
        attack = np.zeros(len(site.hours.last), np.bool_)
        attack[site.hours.number[site.rows.attack]] = True
        known = np.zeros(len(site.hours.last), np.bool_)
        known[site.hours.number[site.rows.benign]] = True
        height = highest(site.scored.verdict, site.hours)
        alarmed = np.zeros(len(site.hours.last), np.bool_)
        alarmed[site.hours.number[list(site.alerts)]] = True
        for hours, into in ((known & ~attack, benign), (attack & ~alarmed, hostile)):
            into.extend((float(height[hour]), number, int(hour)) for hour in np.flatnonzero(hours))
    benign.sort(key=lambda one: (-one[0], *one[1:]))
    hostile.sort()
    for title, found in ((FALSE_ALARMS, benign), (MISSES, hostile)):
        rows = _unlike(sites, found, vocabulary)
        if rows:
            yield Table(f"{title}, {len(rows)} unlike ones of {len(found):,}", HEAD, rows, prose=True)


def _unlike(sites: Sequence[Site], found: Sequence[tuple[float, int, int]], vocabulary: Vocabulary) -> list[tuple[Value, ...]]:
    """The first conversation-hours, but of those with the very same reasons only the first."""
    rows: dict[Value, tuple[Value, ...]] = {}
    for _, number, hour in found[:LOOKED_AT]:
        row = _row(sites[number], hour, vocabulary)
        rows.setdefault(row[-1], row)
        if len(rows) == SHOWN:
            break
    return list(rows.values())


def _row(site: Site, hour: int, vocabulary: Vocabulary) -> tuple[Value, ...]:
    """The flow at which an hour stood highest."""
    inside = np.flatnonzero(site.hours.number == hour)
    row = int(inside[np.argmax(site.scored.verdict[inside])])
    flow = site.data.flows[row]
    ends = [end_point(text(int(flow[f"{end}_hi"]), int(flow[f"{end}_lo"])), int(flow[f"{end}_port"])) for end in ("src", "dst")]
    alarmed = "yes" if any(int(one) in site.alerts for one in inside) else "no"
    label = str(site.data.labels[row]) or "benign"
    told = f"{ends[0]} -> {ends[1]}/{transport(int(flow['protocol']))}"
    scores = float(site.scored.verdict[row]), float(site.scored.p_value[row])
    return stamp(int(flow["last_us"])), told, label, *scores, alarmed, reasons(site, row, vocabulary)


def reasons(site: Site, row: int, vocabulary: Vocabulary) -> str:
    """The least expected parts of a flow, with how likely the LSTM and the frequencies held them."""
    lstm, plain = site.scored.part_nats[row], site.scored.frequency_nats[row]
    told = []
    for place in np.argsort(-np.maximum(lstm, plain), kind="stable")[:PARTS]:
        part = vocabulary.parts[place]
        seen = vocabulary.describe(part, int(site.rows.words[row, place]), site.data.flows[row])
        likely = share(float(np.exp(-lstm[place]))), share(float(np.exp(-plain[place])))
        told.append(f"{part}: {seen} (LSTM {likely[0]}, frequency {likely[1]})")
    return "; ".join(told)
