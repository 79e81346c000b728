"""The promises about connections from Zeek: how many a second are read, by each road and form, and the sensor beside Zeek."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from benchmarks.measure import Spread, available_cores, run
from benchmarks.run_zeek import Told
from benchmarks.table import Figure, spread

ROOT = Path(__file__).parents[1]
FROM_DISK, EVENTS = 200_000, 100_000
"""Connections a second that are promised of conn.log, TSV and JSON, and of binary events."""
ALERT_MS = 50.0
"""An alert reaches Zeek within this, in the median, after the connection's event that causes it."""
PROMISED = {"tsv": FROM_DISK, "json": FROM_DISK, "events, binary": EVENTS}


class Outcome(msgspec.Struct):
    """What became of connections that were sent."""

    sent: int
    scored: int
    shed: int
    """Told by the sensor's counters."""
    refused: int
    """Times that Zeek's send queue was full."""
    seconds: float
    """That sending took."""


class Beside(msgspec.Struct):
    """What `run_zeek_bus` prints: the whole sensor beside Zeek."""

    outage: Outcome
    alert_ms: Spread
    """From a connection's event to hearing the alert that it causes."""
    slow_model: Outcome
    stalled_disk: Outcome | None
    """None where no file system can be frozen."""


def figures(*, quick: bool) -> list[Figure]:
    """Measure reading from disk and over ZeroMQ, each in a process of its own."""
    found = []
    for module, what in (("run_zeek_files", "conn.log from disk"), ("run_zeek", "connections over ZeroMQ")):
        command: list[str | Path] = [sys.executable, "-m", f"benchmarks.{module}", *(["--quick"] if quick else [])]
        told = msgspec.json.decode(run(command, available_cores(), ROOT).output, type=Told)
        found += rows(what, told.per_second)
    command = [sys.executable, "-m", "benchmarks.run_zeek_bus", *(["--quick"] if quick else [])]
    return found + beside(msgspec.json.decode(run(command, available_cores(), ROOT).output, type=Beside))


def beside(told: Beside) -> list[Figure]:
    """The whole sensor beside Zeek: what it promises of outages, alerts and its own slowness."""
    found = [
        outcome("an outage of Zeek in the middle", told.outage, "none lost", lossless=True),
        Figure(
            "from a connection's event to the alert that it causes",
            f"{spread(told.alert_ms, 1, 1)} ms",
            f"at most {ALERT_MS:.0f} ms",
            told.alert_ms.median <= ALERT_MS,
        ),
        outcome("more connections than the multi-flow model can judge", told.slow_model, "Zeek never waits"),
    ]
    if told.stalled_disk is None:
        return [*found, Figure("alerts to a disk that stands still", "not measured: no file system could be frozen here")]
    return [*found, outcome("alerts to a disk that stands still", told.stalled_disk, "Zeek never waits", lossless=True)]


def outcome(what: str, found: Outcome, target: str, *, lossless: bool = False) -> Figure:
    """Connections that were sent, and what became of them; without loss, or at least without holding Zeek up."""
    kept = found.refused == 0 and found.scored + found.shed == found.sent and not (lossless and found.shed)
    rate = found.sent / found.seconds
    measured = f"{found.sent:,} events at {rate:,.0f}/s: {found.scored:,} scored, {found.shed:,} shed"
    return Figure(what, f"{measured}; Zeek's send queue full {found.refused} times", target, kept)


def rows(what: str, per_second: Mapping[str, Spread]) -> list[Figure]:
    """One figure for each form, those that are promised held to it."""
    made = []
    for form, rate in per_second.items():
        target = PROMISED.get(form)
        measured = f"{spread(rate, 1, 0)} connections per CPU second"
        kept = None if target is None else rate.median >= target
        made.append(Figure(f"{what}, {form}", measured, f"{target:,}" if target else "", kept))
    return made
