"""The promises about connections from Zeek: how many a second are read, by each road and form, on one core."""

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
PROMISED = {"tsv": FROM_DISK, "json": FROM_DISK, "events, binary": EVENTS}


def figures(*, quick: bool) -> list[Figure]:
    """Measure reading from disk and over ZeroMQ, each in a process of its own."""
    found = []
    for module, what in (("run_zeek_files", "conn.log from disk"), ("run_zeek", "connections over ZeroMQ")):
        command: list[str | Path] = [sys.executable, "-m", f"benchmarks.{module}", *(["--quick"] if quick else [])]
        told = msgspec.json.decode(run(command, available_cores(), ROOT).output, type=Told)
        found += rows(what, told.per_second)
    return found


def rows(what: str, per_second: Mapping[str, Spread]) -> list[Figure]:
    """One figure for each form, those that are promised held to it."""
    made = []
    for form, rate in per_second.items():
        target = PROMISED.get(form)
        measured = f"{spread(rate, 1, 0)} connections per CPU second"
        kept = None if target is None else rate.median >= target
        made.append(Figure(f"{what}, {form}", measured, f"{target:,}" if target else "", kept))
    return made
