"""A report as Markdown, as docs/models.md has its tables: what `netseq-evaluate` shows at a terminal or as HTML, to be kept."""

from __future__ import annotations

from collections.abc import Iterator

from sensor.commands.report import Report, Table, Value, shown
from sensor.commands.terminal import printable


def to_markdown(report: Report) -> str:
    """The report: warnings first, then facts, then every table with its note."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield f"# {printable(report.title)}"
    yield ""
    for warning in report.warnings:
        yield f"**{printable(warning)}**"
        yield ""
    yield from (f"- {name}: {printable(fact)}" for name, fact in report.facts)
    for table in report.tables:
        yield ""
        yield f"## {printable(table.title)}"
        yield ""
        yield from _table(table)
        if table.note:
            yield ""
            yield printable(table.note)


def _table(table: Table) -> Iterator[str]:
    yield _row(table.head)
    yield "| " + " | ".join("---" for _ in table.head) + " |"
    for row in table.rows:
        yield _row(row)


def _row(cells: tuple[Value, ...]) -> str:
    return "| " + " | ".join(printable(shown(cell)).replace("|", "\\|") for cell in cells) + " |"
