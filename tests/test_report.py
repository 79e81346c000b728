"""The report itself: no text from data may do anything in a terminal or in a browser, and nothing is fetched."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from models.measures import Interval
from sensor.commands.report import Bars, Curves, Report, Table, Value, draw, shown, to_json
from sensor.commands.report_html import svg, to_html

NAN = float("nan")
HOSTILE = '<script src="http://evil.example/x.js">alert(1)</script>\x1b[31m"\'&$x_{'


def hostile_report() -> Report:
    table = Table(HOSTILE, (HOSTILE, "number"), [(HOSTILE, Interval(0.5, 0.4, 0.6)), ("none", None)], HOSTILE)
    curves = Curves(HOSTILE, HOSTILE, HOSTILE, {HOSTILE: ([1e-4, 1e-2, 1], [0.1, 0.5, 1.0]), "_hidden": ([1e-3, 1], [0.2, 1])})
    bars = Bars(HOSTILE, (HOSTILE, "_b"), {HOSTILE: [Interval(0.5, 0.4, 0.6), Interval(NAN, NAN, NAN)]})
    return Report(HOSTILE, [HOSTILE], [(HOSTILE, HOSTILE)], [table], [curves, bars])


class Seen(HTMLParser):
    """Collects what a browser would make of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_text_from_data_is_text_in_the_page() -> None:
    page = to_html(hostile_report())
    seen = Seen()
    seen.feed(page)
    assert not seen.open
    names = {tag for tag, _ in seen.tags}
    assert not names & {"script", "iframe", "object", "embed", "link", "img", "form", "a", "foreignobject"}
    assert not any(name.startswith("on") for _, attributes in seen.tags for name in attributes)
    assert "&lt;script" in page


def test_the_page_fetches_nothing() -> None:
    page = to_html(hostile_report())
    seen = Seen()
    seen.feed(page)
    targets = [
        value for _, attributes in seen.tags for name, value in attributes.items() if name in {"src", "href", "xlink:href"}
    ]
    assert targets
    assert all(value is not None and value.startswith("#") for value in targets)
    assert not re.search(r"@import|url\((?!['\"]?#)", page)
    policy = next(attributes["content"] for tag, attributes in seen.tags if "http-equiv" in attributes and tag == "meta")
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_the_same_figure_gives_the_same_page() -> None:
    assert to_html(hostile_report()) == to_html(hostile_report())


def test_every_line_of_a_figure_is_in_its_legend() -> None:
    drawing = svg(Curves("ROC", "across", "up", {"_LSTM $5": ([0.001, 1], [0.5, 1]), "n < 3": ([0.01, 1], [0.1, 1])}))
    assert "_LSTM $5" in drawing
    assert "n &lt; 3" in drawing
    assert ">0.01<" in drawing
    assert "mathdefault" not in drawing


@pytest.mark.parametrize("prose", [False, True])
def test_a_terminal_is_told_no_escape_sequence(*, prose: bool) -> None:
    report = hostile_report()
    report.tables[0] = Table(HOSTILE, ("value", "number"), [(3, HOSTILE), (NAN, "[red]x[/red]")], HOSTILE, prose=prose)
    written = io.StringIO()
    draw(report, Console(file=written, force_terminal=True, color_system=None, width=200))
    told = written.getvalue()
    assert "\x1b[31m" not in told
    assert "\\x1b[31m" in told
    assert "[red]x[/red]" in told


def test_json_has_every_table_and_null_for_what_is_not_known() -> None:
    report = Report(
        "title", ["partial"], [("seed", "1")], [Table("t", ("name", "x"), [("a", NAN), ("b", Interval(0.5, NAN, NAN))])]
    )
    told = json.loads(to_json(report))
    assert told["warnings"] == ["partial"]
    assert told["facts"] == [["seed", "1"]]
    assert told["tables"][0]["rows"] == [
        {"name": "a", "x": None},
        {"name": "b", "x": {"value": 0.5, "low": None, "high": None}},
    ]


def test_json_has_the_numbers_of_every_figure() -> None:
    curves = Curves("ROC", "false", "found", {"x": ([1e-4, 1 / 3], [0.5, 1.0])})
    bars = Bars("F1", ("Normal", "Bot"), {"ours": [Interval(0.5, 0.4, 0.6), Interval(NAN, NAN, NAN)]})
    told = json.loads(to_json(Report("title", figures=[curves, bars])))["figures"]
    lines = {"x": {"across": [0.0001, 0.333333], "up": [0.5, 1.0]}}
    assert told[0] == {"title": "ROC", "across": "false", "up": "found", "lines": lines}
    nothing = {"value": None, "low": None, "high": None}
    assert told[1]["series"] == {"ours": {"Normal": {"value": 0.5, "low": 0.4, "high": 0.6}, "Bot": nothing}}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (NAN, ""),
        (12345, "12,345"),
        (0.5, "0.500"),
        (0.0, "0.000"),
        (0.00012, "0.00012"),
        (12345.6, "12,346"),
        ("x", "x"),
        (Interval(0.5, 0.4, 0.6), "0.500 (0.400 to 0.600)"),
        (Interval(0.5, NAN, NAN), "0.500"),
        (Interval(NAN, NAN, NAN), ""),
    ],
)
def test_values_are_shown_as_one_reads_them(value: Value, text: str) -> None:
    assert shown(value) == text
