"""What was measured, as tables: at the terminal, in benchmarks/RESULTS.md, and the short one in README.md.

A figure is one promise with its target beside it; a comparison is one capture with all tools on it. README keeps only what
stands between its two markers, so that the rest of the page is anyone's to write.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.machine import Machine
from benchmarks.measure import Spread

BEGIN, END = "<!-- figures -->", "<!-- /figures -->"


class Figure(NamedTuple):
    """One measured promise."""

    what: str
    measured: str
    """Median with its range and unit, or why it was not measured."""
    target: str = ""
    met: bool | None = None
    """None: nothing was promised, or nothing measured."""

    @property
    def verdict(self) -> str:
        """Return "ok", "missed" or nothing."""
        return "" if self.met is None else "ok" if self.met else "missed"


class Tool(NamedTuple):
    """One tool on one capture."""

    name: str
    version: str
    rate: Spread | None = None
    """Packets per CPU second, without start-up."""
    rate_with_start: Spread | None = None
    ratios: tuple[Spread | None, ...] = ()
    """netseq's rate over this tool's, turn by turn: with decode and flows alone, and with statistics."""
    peak_bytes: int = 0
    note: str = ""


class Comparison(NamedTuple):
    """All tools on one capture."""

    capture: str
    tools: tuple[Tool, ...]


class Results(NamedTuple):
    """All that one run of the benchmark measured."""

    figures: tuple[Figure, ...]
    comparisons: tuple[Comparison, ...]


def spread(values: Spread | None, scale: float = 1.0, digits: int = 2) -> str:
    """Write a median with its range: "6.31 (6.20-6.40)"; nothing for None."""
    if values is None:
        return ""
    median, low, high = (f"{value / scale:,.{digits}f}" for value in values)
    return f"{median} ({low}-{high})"


def markdown(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Write a Markdown table; a bar inside a cell is escaped."""
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def aligned(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Write a table for a terminal."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, tuple("-" * width for width in widths), *rows]
    return (
        "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)
        + "\n"
    )


FASTER = ("netseq is faster by", "with statistics by")
FIGURE_HEADER = ("figure", "measured", "target", "")
TOOL_HEADER = ("tool", "version", "million packets per CPU second", "with start-up", *FASTER, "peak memory", "")


def figure_rows(figures: tuple[Figure, ...]) -> list[tuple[str, ...]]:
    """Return the cells of all figures."""
    return [(figure.what, figure.measured, figure.target, figure.verdict) for figure in figures]


def tool_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """Return the cells of all tools on one capture."""
    return [
        (
            tool.name,
            tool.version,
            spread(tool.rate, 1e6, 3),
            spread(tool.rate_with_start, 1e6, 3),
            *_ratios(tool, 2),
            f"{tool.peak_bytes / 1e6:,.0f} MB" if tool.peak_bytes else "",
            tool.note,
        )
        for tool in comparison.tools
    ]


def _ratios(tool: Tool, digits: int) -> list[str]:
    """Return one cell for each column of FASTER."""
    return [spread(ratio, 1, digits) for ratio in tool.ratios or (None,) * len(FASTER)]


def terminal(results: Results) -> str:
    """Write everything for a terminal."""
    parts = []
    if results.figures:
        parts.append(aligned(FIGURE_HEADER, figure_rows(results.figures)))
    parts += [f"{each.capture}\n\n{aligned(TOOL_HEADER, tool_rows(each))}" for each in results.comparisons]
    return "\n".join(parts)


def report(results: Results, machine: Machine, how: str) -> str:
    """Write benchmarks/RESULTS.md."""
    facts = "".join(f"- {line}\n" for line in machine.lines())
    parts = [f"# What was measured\n\n{how}\n\n{facts}"]
    if results.figures:
        parts.append("## Figures\n\n" + markdown(FIGURE_HEADER, figure_rows(results.figures)))
    parts += [f"## {each.capture}\n\n" + markdown(TOOL_HEADER, tool_rows(each)) for each in results.comparisons]
    return "\n".join(parts)


def summary(results: Results, machine: Machine) -> str:
    """Write what README carries: all figures, and the tools on each capture."""
    parts = [markdown(FIGURE_HEADER, figure_rows(results.figures))] if results.figures else []
    for each in results.comparisons:
        rows = [(tool.name, spread(tool.rate, 1e6, 3) or tool.note, *_ratios(tool, 1)) for tool in each.tools]
        parts.append(f"{each.capture}:\n\n" + markdown(("tool", "million packets per CPU second", *FASTER), rows))
    parts.append(f"Median of {machine.runs} runs with the range, on {machine.short()}. All of it: benchmarks/RESULTS.md.\n")
    return "\n".join(parts)


def put_between_markers(page: Path, text: str) -> bool:
    """Replace what stands between the markers in `page`; returns whether both were there, one after the other."""
    if not page.is_file():
        return False
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        return False
    page.write_text(f"{before}{BEGIN}\n{text}{END}{after}", encoding="utf-8")
    return True
