"""docs/statistics.md holds the tables that COLUMNS gives; `python tests/test_statistics_page.py` writes them again."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest

from sensor.spellings import SPELLINGS
from sensor.statistics import COLUMNS

PAGE = Path(__file__).parents[1] / "docs" / "statistics.md"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def columns() -> str:
    """What every column is."""
    of_netseq = {spelling.name: spelling.netseq for spelling in SPELLINGS}
    return table(
        ("column", "in netseq's layout", "unit", "meaning", "formula from FLOW", "conn.log"),
        (
            (one.name, f"`{of_netseq[one.name]}`", one.unit, one.meaning, f"`{one.formula}`" if one.formula else "",
             "yes" if "conn.log" in one.roads else "")
            for one in COLUMNS
        ),
    )  # fmt: skip


def differences() -> str:
    """The columns that not all programs agree on."""
    return table(
        ("column", "netseq", 'rules "cicflowmeter", as the repaired one', "the original, version 4"),
        (
            (one.name, one.meaning, one.difference or "as netseq", one.original or "as the repaired one")
            for one in COLUMNS
            if one.difference or one.original
        ),
    )


def spellings() -> str:
    """One column, four spellings."""
    return table(
        ("cicflowmeter", "netseq", "cicids2017", "cse-cic-ids2018"),
        (
            tuple(f"`{text}`" if text else "" for text in (
                "" if one.of_netseq else one.name, one.netseq, one.cicids2017.strip(), one.cse_cic_ids2018
            ))
            for one in SPELLINGS
        ),
    )  # fmt: skip


PARTS: dict[str, Callable[[], str]] = {"columns": columns, "differences": differences, "spellings": spellings}


def written(page: str) -> str:
    """The page with every part between its markers made anew."""
    for name, part in PARTS.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        found = re.compile(f"{begin}.*?{end}", re.DOTALL)
        assert len(found.findall(page)) == 1, f"docs/statistics.md needs one {begin} with its {end}"
        text = f"{begin}\n{part()}\n{end}"
        page = found.sub(lambda _, text=text: text, page)  # type: ignore[misc]  # the default binds the loop's text
    return page


@pytest.mark.parametrize("name", PARTS)
def test_the_page_on_statistics_holds_what_the_columns_say(name: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert PARTS[name]() in page, "stale: run python tests/test_statistics_page.py"
    assert written(page) == page


def test_a_stale_page_is_noticed() -> None:
    page = PAGE.read_text(encoding="utf-8")
    stale = page.replace("First packet to last", "First packet to second")
    assert stale != page == written(stale)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
