"""A report as one HTML file that opens without a network: style inside, figures as inline SVG, no script, nothing fetched.

Figures are drawn by matplotlib, which is imported when the first is drawn: only who asks for HTML needs it. All text is
escaped here, and a content security policy forbids the page everything but its own style, should that ever fail.
"""

from __future__ import annotations

import html
import io
import math
import re
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from sensor.commands.report import Bars, Curves, Figure, Report, Table, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1d1d1f; background: #fff; margin: 2rem auto; max-width: 75rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin: 2rem 0 .4rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .88rem }
th, td { text-align: left; vertical-align: top; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid #e2e2e6 }
td.number { text-align: right; white-space: nowrap } dt { font-weight: 600 } dd { margin: 0 0 .3rem; overflow-wrap: anywhere }
dl { display: grid; grid-template-columns: max-content auto; column-gap: 1rem }
.warning { background: #fff3cd; border-left: 4px solid #d39e00; padding: .5rem .8rem }
.note { color: #5c5c66; font-size: .88rem }
figure { margin: 1rem 0; display: inline-block } svg { max-width: 100%; height: auto } .wide { overflow-x: auto }
"""

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
SIZE = (7.2, 4.6)
"""Inches of a figure."""
COLOURS = ("#0b6e99", "#d1495b", "#edae49", "#66a182", "#6a4c93", "#8d6e63", "#2e4057", "#9aa5b1", "#00798c", "#bc5090")


def to_html(report: Report) -> str:
    """The whole page."""
    title = html.escape(report.title)
    body = [f"<h1>{title}</h1>"]
    body += [f'<p class="warning">{html.escape(warning)}</p>' for warning in report.warnings]
    facts = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(fact)}</dd>" for name, fact in report.facts)
    body.append(f"<dl>{facts}</dl>")
    body += [f"<figure>{svg(figure)}</figure>" for figure in report.figures]
    body += [_table(table) for table in report.tables]
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n<title>{title}</title>\n<style>{STYLE}</style>\n'
        "</head>\n<body>\n" + "\n".join(body) + "\n</body>\n</html>\n"
    )


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in table.head)
    rows = "".join(f"<tr>{''.join(_cells(row))}</tr>\n" for row in table.rows)
    note = f'<p class="note">{html.escape(table.note)}</p>' if table.note else ""
    inside = f"<table><thead><tr>{head}</tr></thead><tbody>\n{rows}</tbody></table>"
    return f'<h2>{html.escape(table.title)}</h2><div class="wide">{inside}</div>{note}'


def _cells(row: Iterable[Any]) -> Iterable[str]:
    for value in row:
        kind = "" if isinstance(value, str) else ' class="number"'
        yield f"<td{kind}>{html.escape(shown(value))}</td>"


def svg(figure: Figure) -> str:
    """Draw a figure as an SVG element to stand inside HTML; the same numbers give the same text."""
    from matplotlib import rc_context  # noqa: PLC0415  # slow to import, and an extra
    from matplotlib.figure import Figure as Canvas  # noqa: PLC0415

    # labels are data: no dollar sign in them is mathematics. Text stays text, for readers and for search
    settings: dict[Any, Any] = {"svg.hashsalt": "netseq", "svg.fonttype": "none", "text.parse_math": False, "font.size": 9}
    with rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # the browser's fonts have what matplotlib's own lacks
        canvas = Canvas(figsize=SIZE, layout="constrained")
        axes = canvas.add_subplot()
        axes.set_title(figure.title)
        axes.set_ylim(0, 1.02)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(visible=True, alpha=0.25)
        if isinstance(figure, Curves):
            _curves(figure, axes)
        else:
            _bars(figure, axes)
        written = io.StringIO()
        canvas.savefig(written, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    whole = written.getvalue()
    drawing = re.sub(r"<metadata>.*?</metadata>", "", whole[whole.index("<svg") :], flags=re.DOTALL)
    return drawing.replace(' xmlns="http://www.w3.org/2000/svg"', "").replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "")


def _curves(figure: Curves, axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")  # matplotlib's own writes mathematics, which is off
    axes.set_xlabel(figure.across)
    axes.set_ylabel(figure.up)
    for place, (name, (across, up)) in enumerate(figure.lines.items()):
        axes.plot(across, up, label=_named(name), color=COLOURS[place % len(COLOURS)], linewidth=1.4, drawstyle="steps-post")
    if figure.lines:
        axes.legend(fontsize=8, frameon=False)


def _bars(figure: Bars, axes: Axes) -> None:
    wide = 0.8 / max(1, len(figure.series))
    for place, (name, values) in enumerate(figure.series.items()):
        across = [group + (place - (len(figure.series) - 1) / 2) * wide for group in range(len(values))]
        heights = [_or_none(one.value) for one in values]
        below = [max(0.0, _or_none(one.value - one.low)) for one in values]
        above = [max(0.0, _or_none(one.high - one.value)) for one in values]
        errors = [below, above] if any(below + above) else None
        axes.bar(across, heights, wide, yerr=errors, label=_named(name), color=COLOURS[place % len(COLOURS)], ecolor="#444")
    axes.set_xticks(range(len(figure.names)), [_named(name) for name in figure.names], rotation=20, ha="right")
    if figure.series:
        axes.legend(fontsize=8, frameon=False)


def _or_none(value: float) -> float:
    """A height, and none where there is nothing to show."""
    return value if math.isfinite(value) else 0.0


def _named(name: str) -> str:
    """A name for a figure: a leading underscore would hide it from the legend, control characters are no XML."""
    printed = "".join(c if c.isprintable() else "?" for c in name)
    return f" {printed}" if printed.startswith("_") else printed
