"""The figures about Zeek's connections: which of them are promises, and when they are kept."""

from __future__ import annotations

import pytest

from benchmarks.measure import Spread
from benchmarks.zeek import PROMISED, Beside, Outcome, beside, rows


def test_what_is_promised_is_held_to_it_by_its_median_and_the_rest_is_told() -> None:
    fast, slow = Spread.of([250_000.0, 900_000.0, 100_000.0]), Spread.of([199_999.0])
    figures = rows("conn.log from disk", {"tsv": fast, "json": slow, "tsv gz": slow})
    assert [figure.verdict for figure in figures] == ["ok", "missed", ""]
    assert figures[0].measured == "250,000 (100,000-900,000) connections per CPU second"
    assert figures[0].target == f"{PROMISED['tsv']:,}"
    assert figures[2].target == ""


@pytest.mark.parametrize(
    ("outage", "slow", "alert_ms", "verdicts"),
    [
        (Outcome(10, 10, 0, 0, 1.0), Outcome(10, 4, 6, 0, 1.0), 50.0, ["ok", "ok", "ok"]),
        (Outcome(10, 9, 0, 0, 1.0), Outcome(10, 4, 5, 0, 1.0), 50.1, ["missed", "missed", "missed"]),
        (Outcome(10, 9, 1, 0, 1.0), Outcome(10, 4, 6, 1, 1.0), 3.0, ["missed", "ok", "missed"]),
    ],
)
def test_beside_zeek_nothing_is_lost_unseen_and_its_queue_stays_empty(
    outage: Outcome, slow: Outcome, alert_ms: float, verdicts: list[str]
) -> None:
    figures = beside(Beside(outage, Spread.of([alert_ms]), slow, None))
    assert [figure.verdict for figure in figures] == [*verdicts, ""]
    assert "not measured" in figures[-1].measured
    with_disk = beside(Beside(outage, Spread.of([alert_ms]), slow, slow))
    assert with_disk[-1].verdict == "missed"  # a disk that stands still is no reason to shed
