"""A reader of PromQL that is just good enough to check expressions of ours: names, labels, brackets, counters and gauges.

It does not evaluate and knows no precedence. It finds every metric with its selector, the functions around it and its range,
and the labels of every `by`, and complains of what cannot work: a name nobody exports, a label the metric does not have, a
rate of a gauge, a counter taken as it is. promtool knows better, but knows no names, and is not installed everywhere.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from sensor.service_metrics import Exported

TARGET = {"job", "instance"}
"""Labels that Prometheus adds at the scrape."""
AGGREGATIONS = {"sum", "avg", "min", "max", "count", "topk", "quantile"}
OF_COUNTERS = {"rate", "increase", "irate", "resets"}
OF_GAUGES = {"min_over_time", "max_over_time", "avg_over_time", "delta", "deriv"}
FUNCTIONS = AGGREGATIONS | OF_COUNTERS | OF_GAUGES | {"histogram_quantile", "clamp_min", "clamp_max", "time", "label_values"}
GROUPING = {"by", "without", "on", "ignoring", "group_left", "group_right"}
"""Words with labels in brackets behind them, where these have any."""
WORDS = GROUPING | {"and", "or", "unless", "offset", "bool"}

_TOKEN = re.compile(
    r"""(?P<space>\s+)|(?P<text>"[^"\\]*")|(?P<range>\[[^\[\]]*\])|(?P<number>\d+(\.\d+)?(e-?\d+)?)|(?P<name>[a-zA-Z_:][\w:]*)
    |(?P<operator>==|!=|<=|>=|=~|!~|[-+*/%^<>=(){},])|(?P<wrong>.)""",
    re.VERBOSE,
)
_RANGE = re.compile(r"\[(\d+[smhdw]|\$__rate_interval|\$__range)\]")
_MATCHERS = {"=", "!=", "=~", "!~"}

Token = tuple[str, str]


def promtool(*arguments: str | Path) -> str:
    """What Prometheus' own checker says, which must be content; the test is skipped where it is not installed."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian package prometheus)")
    ran = subprocess.run([program, *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def tokens(expression: str) -> list[Token]:
    """(kind, text) of everything but the space."""
    found = ((str(match.lastgroup), match.group()) for match in _TOKEN.finditer(expression))
    return [one for one in found if one[0] != "space"]


def complaints(expression: str, exported: Sequence[Exported], others: Sequence[str] = ("up",)) -> list[str]:
    """What is wrong with an expression; `others` are names without labels of their own that others export."""
    known = _known(exported) | dict.fromkeys(others, ("gauge", TARGET))
    return list(_complaints(tokens(expression), known))


def _known(exported: Sequence[Exported]) -> dict[str, tuple[str, set[str]]]:
    """Kind and labels of every series: a histogram has three."""
    known: dict[str, tuple[str, set[str]]] = {}
    for one in exported:
        labels = {*one.labels, *TARGET}
        if one.kind == "histogram":
            known |= {f"{one.name}_{end}": ("counter", labels) for end in ("count", "sum")}
            known[f"{one.name}_bucket"] = ("counter", {*labels, "le"})
        else:
            known[one.name] = (one.kind, labels)
    return known


def _complaints(found: list[Token], known: dict[str, tuple[str, set[str]]]) -> Iterator[str]:
    yield from (f"cannot be read: {text}" for kind, text in found if kind == "wrong")
    yield from (f"no range: {text}" for kind, text in found if kind == "range" and not _RANGE.fullmatch(text))
    calls: list[str] = []  # what each open bracket belongs to
    metrics: list[str] = []
    grouped: set[str] = set()
    at = 0
    while at < len(found):
        kind, text = found[at]
        following = found[at + 1][1] if at + 1 < len(found) else ""
        if kind == "name" and text in WORDS:
            if following == "(" and text in GROUPING:
                labels, at = _labels(found, at + 1)
                grouped |= set(labels)
        elif kind == "name" and (following == "(" or text in FUNCTIONS):
            if text not in FUNCTIONS:
                yield f"no such function: {text}"
            calls.append(f"{text}?")  # its bracket comes, perhaps after a `by`
        elif kind == "name":
            metrics.append(text)
            selected, at = _selected(found, at)
            yield from _about(text, selected, found[at + 1 : at + 2], calls, known)
        elif text == "(":
            if calls and calls[-1].endswith("?"):
                calls[-1] = calls[-1][:-1]
            else:
                calls.append("")
        elif text == ")":
            if not calls:
                yield "a bracket is closed that was not opened"
                return
            calls.pop()
        at += 1
    if calls:
        yield "a bracket is not closed"
    if not metrics:
        yield "no metric"
    of_all = set().union(*(known[name][1] for name in metrics if name in known)) if metrics else set()
    yield from (f"no metric here has the label {label}" for label in sorted(grouped - of_all))


def _labels(found: list[Token], at: int) -> tuple[list[str], int]:
    """The names in the brackets that open at `at`, and where they close."""
    names = []
    while at < len(found) and found[at][1] != ")":
        names += [found[at][1]] if found[at][0] == "name" else []
        at += 1
    return names, at


def _selected(found: list[Token], at: int) -> tuple[list[str], int]:
    """The labels of the selector behind the metric at `at`, and where it ends; a matcher that is none is the label "?"."""
    if at + 1 >= len(found) or found[at + 1][1] != "{":
        return [], at
    labels, at = [], at + 2
    while at < len(found) and found[at][1] != "}":
        part = found[at : at + 3]
        sound = [kind for kind, _ in part] == ["name", "operator", "text"] and part[1][1] in _MATCHERS
        labels.append(part[0][1] if sound else "?")
        at += 3
        if at < len(found) and found[at][1] == ",":
            at += 1
    return labels, at


def _about(
    name: str, selected: list[str], after: list[Token], calls: list[str], known: dict[str, tuple[str, set[str]]]
) -> Iterator[str]:
    """Complain of one metric."""
    if name not in known:
        yield f"nobody exports {name}"
        return
    kind, labels = known[name]
    yield from (f"{name} has no label {label}" for label in selected if label not in labels)
    ranged = bool(after) and after[0][0] == "range"
    around = calls[-1] if calls else ""
    if ranged != (around in OF_COUNTERS | OF_GAUGES):
        yield f"{name}: a range and a function over time belong together"
    if kind == "counter" and around not in OF_COUNTERS:
        yield f"{name} is a counter: take its rate or increase"
    if kind == "gauge" and around in OF_COUNTERS:
        yield f"{name} is a gauge: it has no {around}"
