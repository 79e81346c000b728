"""docs/metrics.md holds every exported name and alerting rule; `python tests/test_metrics_page.py` writes its tables again.

The rules are read by a reader for just the form that plugins/prometheus/netseq.rules.yml has; promtool, where it is
installed, reads the file as Prometheus would, and runs the rules on series that are made to set them off.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest
from promql import complaints, promtool

from sensor.metrics import COUNTERS
from sensor.service_http import ANSWER_S, CONNECTIONS, REQUEST_S
from sensor.service_log import TOLD
from sensor.service_metrics import BOUNDS_S, PAGES, PREFIX, exported

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "metrics.md"
RULES = ROOT / "plugins" / "prometheus" / "netseq.rules.yml"
RULES_TEST = Path(__file__).parent / "data" / "netseq.rules.test.yml"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def metrics() -> str:
    """What every metric is."""
    losses = {f"{PREFIX}{one.name}_total" for one in COUNTERS if one.loss}
    rows = (
        (f"`{one.name}`", one.kind, ", ".join(one.labels), one.unit, "yes" if one.name in losses else "", one.meaning)
        for one in exported()
    )
    return table(("name", "type", "label", "unit", "loss", "meaning"), rows)


def read_rules() -> list[dict[str, str]]:
    """The rules, each with alert, expr, for, severity, summary and action."""
    rules: list[dict[str, str]] = []
    for line in RULES.read_text(encoding="utf-8").splitlines():
        found = re.fullmatch(r"\s+(- )?(alert|expr|for|labels|summary|action): (.+)", line)
        if found is None:
            assert re.fullmatch(r"#.*|groups:|  - name: netseq|    rules:|        annotations:", line), line
            continue
        if found[1]:
            rules.append({})
        if found[2] == "labels":
            severity = re.fullmatch(r"\{severity: (warning|critical)\}", found[3])
            assert severity, line
            rules[-1]["severity"] = severity[1]
        else:
            rules[-1][found[2]] = found[3]
    return rules


def rules() -> str:
    """What every rule watches."""
    rows = ((rule["alert"], rule["severity"], f"`{rule['expr']}`", rule["action"]) for rule in read_rules())
    return table(("rule", "severity", "when", "what to do"), rows)


PARTS: dict[str, Callable[[], str]] = {"metrics": metrics, "rules": rules}


def written(page: str) -> str:
    """The page with every part between its markers made anew."""
    for name, part in PARTS.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        found = re.compile(f"{begin}.*?{end}", re.DOTALL)
        assert len(found.findall(page)) == 1, f"docs/metrics.md needs one {begin} with its {end}"
        text = f"{begin}\n{part()}\n{end}"
        page = found.sub(lambda _, text=text: text, page)  # type: ignore[misc]  # the default binds the loop's text
    return page


@pytest.fixture
def page() -> str:
    return PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PARTS)
def test_the_page_on_metrics_holds_what_is_exported_and_watched(name: str, page: str) -> None:
    assert PARTS[name]() in page, "stale: run python tests/test_metrics_page.py"
    assert written(page) == page


def test_every_counter_of_the_table_is_exported_and_every_name_is_a_valid_one() -> None:
    names = [one.name for one in exported()]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z][a-z_]*[a-z]", name) for name in names)
    for one in COUNTERS:
        assert f"{PREFIX}{one.name}{'' if one.gauge else '_total'}" in names
    kept = ("_total", "_count", "_sum", "_bucket")  # endings that Prometheus' naming conventions give to other kinds
    assert not [one.name for one in exported() if one.kind == "gauge" and one.name.endswith(kept)]


def test_every_loss_has_its_advice(page: str) -> None:
    advice = page.partition("## What to do when it rises")[2].partition("\n## ")[0]
    told = set(re.findall(r"^\| `(\w+)` \|", advice, re.MULTILINE))
    assert {f"{PREFIX}{one.name}_total" for one in COUNTERS if one.loss} <= told
    assert told <= {one.name for one in exported()}


def test_every_name_on_the_page_is_exported(page: str) -> None:
    known = {one.name for one in exported()}
    told = set(re.findall(r"\b(?:netseq|process)_[a-z_]+\b", written(page)))
    assert told - {f"netseq_scoring_seconds_{end}" for end in ("count", "bucket")} <= known


def test_every_pages_and_limit_on_the_page_is_the_servers(page: str) -> None:
    assert all(f"| `{path}` |" in page for path in PAGES)
    assert f"A request has {REQUEST_S:.0f} s to arrive, an answer {ANSWER_S:.0f} s to be taken" in page
    assert f"more than {CONNECTIONS} clients" in page
    assert TOLD == 5
    in_ms = ", ".join(f"{bound * 1000:g}" for bound in BOUNDS_S if bound < 1)
    assert f"{in_ms} ms and {', '.join(f'{bound:g}' for bound in BOUNDS_S if bound >= 1)} s" in page


def test_a_stale_page_is_noticed(page: str) -> None:
    stale = page.replace("flows alive now", "flows alive yesterday")
    assert stale != page == written(stale)


def test_the_rules_are_whole_and_watch_what_is_exported() -> None:
    found = read_rules()
    assert len({rule["alert"] for rule in found}) == len(found)
    for rule in found:
        assert rule.keys() - {"for"} == {"alert", "expr", "severity", "summary", "action"}
        assert not complaints(rule["expr"], exported()), rule["alert"]
    told = " ".join(rule["expr"] for rule in found)
    for name in ("packets_dropped", "flows_shed", "interfaces_up", "alerts_lost", "flows_waiting"):
        assert f"netseq_{name}" in told


def test_prometheus_reads_the_rules() -> None:
    assert f"SUCCESS: {len(read_rules())} rules found" in promtool("check", "rules", RULES)


def test_every_rule_fires_when_it_should_and_stays_silent_on_a_sensor_that_is_well() -> None:
    cases = RULES_TEST.read_text(encoding="utf-8")
    assert set(re.findall(r'alertname="(\w+)"', cases)) == {rule["alert"] for rule in read_rules()}
    assert "SUCCESS" in promtool("test", "rules", RULES_TEST)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
