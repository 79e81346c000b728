"""The figures about Zeek's connections: which of them are promises, and when they are kept."""

from __future__ import annotations

from benchmarks.measure import Spread
from benchmarks.zeek import PROMISED, rows


def test_what_is_promised_is_held_to_it_by_its_median_and_the_rest_is_told() -> None:
    fast, slow = Spread.of([250_000.0, 900_000.0, 100_000.0]), Spread.of([199_999.0])
    figures = rows("conn.log from disk", {"tsv": fast, "json": slow, "tsv gz": slow})
    assert [figure.verdict for figure in figures] == ["ok", "missed", ""]
    assert figures[0].measured == "250,000 (100,000-900,000) connections per CPU second"
    assert figures[0].target == f"{PROMISED['tsv']:,}"
    assert figures[2].target == ""
