"""What every subcommand of `netseq-evaluate` tells, and how: one Report, shown at the terminal, as JSON and as one HTML file.

Subcommands only fill a Report: facts (what was measured on, with what), warnings (which no output may leave out), tables of
plain values, and figures as numbers. How a value looks is decided here once. Text may come from data (labels, paths,
addresses): it is made printable for the terminal, and `report_html` escapes it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.padding import Padding
from rich.table import Table as Drawn
from rich.text import Text

from models.measures import Interval, walk
from sensor import __version__
from sensor.commands.terminal import printable

POINTS = 400
"""Points of a curve in a figure: more are not seen."""

Value: TypeAlias = str | int | float | Interval | None
"""What a cell may hold; None and NaN are shown as nothing."""


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of values under a head."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple[Value, ...]]
    note: str = ""
    prose: bool = False
    """The last value is a sentence or two: at the terminal it goes below its row."""


@dataclasses.dataclass(frozen=True)
class Curves:
    """Lines over a logarithmic axis."""

    title: str
    across: str
    up: str
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    """Name: values across (over 0) and up (0 to 1)."""


@dataclasses.dataclass(frozen=True)
class Bars:
    """Groups of bars between 0 and 1, a group for each name."""

    title: str
    names: tuple[str, ...]
    series: Mapping[str, Sequence[Interval]]


Figure: TypeAlias = Curves | Bars


@dataclasses.dataclass
class Report:
    """Everything that one evaluation came to."""

    title: str
    warnings: list[str] = dataclasses.field(default_factory=list)
    """What stands on top of every output: the data are not all there, or the model has seen them."""
    facts: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    tables: list[Table] = dataclasses.field(default_factory=list)
    figures: list[Figure] = dataclasses.field(default_factory=list)


def shown(value: Value) -> str:
    """A cell as text."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, Interval):
        if math.isnan(value.value):
            return ""
        span = "" if math.isnan(value.low) else f" ({value.low:.3f} to {value.high:.3f})"
        return f"{value.value:.3f}{span}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return (
            f"{value:.3f}" if 0.001 <= abs(value) < 1000 or value == 0 else f"{value:,.0f}" if value >= 1000 else f"{value:.2g}"
        )
    return value


def draw(report: Report, console: Console) -> None:
    """Show a report at a terminal, or as plain text where standard output is none."""
    console.print(Text(printable(report.title), style="bold"))
    for warning in report.warnings:
        console.print(Text(printable(warning), style="bold yellow"))
    width = max((len(name) for name, _ in report.facts), default=0)
    for name, fact in report.facts:
        console.print(Text(printable(f"{name:<{width}}  {fact}")), soft_wrap=True)
    for table in report.tables:
        console.print(Text("\n" + printable(table.title), style="bold"))
        _draw(table, console)
        if table.note:
            console.print(Text(printable(table.note), style="dim"))


def _draw(table: Table, console: Console) -> None:
    if table.prose:
        for row in table.rows:
            *values, sentence = (printable(shown(value)) for value in row)
            console.print(Text("  ".join(values)))
            console.print(Padding(Text(sentence, style="dim"), (0, 0, 0, 4)))
        return
    drawn = Drawn(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, name in enumerate(table.head):
        number = any(not isinstance(row[place], str | None) for row in table.rows)
        drawn.add_column(Text(printable(name)), justify="right" if number else "left", overflow="fold")
    for row in table.rows:
        drawn.add_row(*(Text(printable(shown(value))) for value in row))
    console.print(drawn)


def plain(value: object) -> object:
    """A value as JSON has it: what is not finite is null."""
    if isinstance(value, Interval):
        return {name: plain(number) for name, number in value._asdict().items()}
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def to_json(report: Report) -> str:
    """The report as JSON: facts, each table as objects named by its head, and the numbers that each figure draws."""
    tables = [
        {
            "title": table.title,
            "note": table.note,
            "rows": [{name: plain(value) for name, value in zip(table.head, row, strict=True)} for row in table.rows],
        }
        for table in report.tables
    ]
    told: dict[str, object] = {"title": report.title, "warnings": report.warnings, "facts": report.facts, "tables": tables}
    told["figures"] = [_numbers(figure) for figure in report.figures]
    return json.dumps(told, indent=1, allow_nan=False) + "\n"


def _numbers(figure: Figure) -> dict[str, object]:
    """What a figure draws: lines as two lists of numbers, bars as one value by name of the group."""
    if isinstance(figure, Bars):
        series = {
            name: {group: plain(value) for group, value in zip(figure.names, values, strict=True)}
            for name, values in figure.series.items()
        }
        return {"title": figure.title, "series": series}
    lines = {
        name: {"across": [_rounded(value) for value in across], "up": [_rounded(value) for value in up]}
        for name, (across, up) in figure.lines.items()
    }
    return {"title": figure.title, "across": figure.across, "up": figure.up, "lines": lines}


def _rounded(value: float) -> object:
    """Six digits, of which a curve shows three."""
    return plain(float(f"{value:.6g}"))


def machine() -> str:
    """What the measurement ran on."""
    name = platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    except OSError:  # another system: the name of the architecture has to do
        pass
    libraries = ", ".join(f"{library} {version(library)}" for library in ("numpy", "torch"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores; netseq {__version__}, Python {platform.python_version()}, {libraries}"


def roc(scores: NDArray[np.floating], attack: NDArray[np.bool_]) -> tuple[list[float], list[float]]:
    """A ROC curve for Curves; half a false alarm stands for none, which a logarithmic axis cannot show."""
    steps = walk(scores, attack)
    hits, wrong = steps.hits[0], np.maximum(steps.wrong[0], 0.5)
    kept = _thinned(wrong)
    return (wrong[kept] / max(1.0, wrong[-1])).tolist(), (hits[kept] / max(1.0, hits[-1])).tolist()


def precision(scores: NDArray[np.floating], attack: NDArray[np.bool_], days: float) -> tuple[list[float], list[float]]:
    """Precision over alarms a day for Curves, from the highest score down."""
    steps = walk(scores, attack)
    alarms = steps.hits[0] + steps.wrong[0]
    kept = _thinned(alarms)
    return (alarms[kept] / days).tolist(), (steps.hits[0][kept] / alarms[kept]).tolist()


def _thinned(rising: NDArray[np.float64]) -> NDArray[np.int64]:
    """Places of at most POINTS values, evenly apart on a logarithmic axis; of equal values the last."""
    wanted = np.geomspace(rising[0], rising[-1], POINTS)
    wanted[-1] = rising[-1]  # the root of a power may fall short by a rounding
    return np.unique(np.searchsorted(rising, wanted, side="right") - 1)
