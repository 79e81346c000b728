"""The Grafana dashboard: what Grafana needs is there, and it asks only for what is exported.

The schema is Grafana's "classic" one, which all versions import.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from promql import complaints, promtool, tokens

from sensor.service_metrics import exported

DASHBOARD = Path(__file__).parents[1] / "plugins" / "grafana" / "netseq.json"
COLUMNS = 24
"""The width of Grafana's grid."""
SELECTOR = '{job=~"$job",instance=~"$instance"}'

Panel = dict[str, Any]


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    told: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return told


@pytest.fixture(scope="module")
def panels(dashboard: dict[str, Any]) -> list[Panel]:
    told: list[Panel] = dashboard["panels"]
    return told


def targets(panels: list[Panel]) -> Iterator[tuple[str, dict[str, Any]]]:
    for panel in panels:
        yield from ((panel["title"], target) for target in panel.get("targets", []))


def test_it_is_a_dashboard_that_grafana_imports(dashboard: dict[str, Any]) -> None:
    assert dashboard["id"] is None, "an id belongs to one Grafana"
    assert re.fullmatch(r"[a-z0-9-]{1,40}", dashboard["uid"])
    assert dashboard["title"]
    assert dashboard["schemaVersion"] >= 39
    assert dashboard["time"].keys() == {"from", "to"}


def test_data_source_and_sensor_are_chosen_at_the_top(dashboard: dict[str, Any]) -> None:
    variables = {one["name"]: one for one in dashboard["templating"]["list"]}
    assert list(variables) == ["datasource", "job", "instance"]
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    for name in ("job", "instance"):
        query = variables[name]["query"]["query"]
        assert variables[name]["definition"] == query
        metric = re.fullmatch(rf'label_values\((netseq_\w+)(?:{{job=~"\$job"}})?, {name}\)', query)
        assert metric, query
        assert metric[1] in {one.name for one in exported()}


def test_panels_have_ids_titles_and_places_of_their_own(panels: list[Panel]) -> None:
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["title"] for panel in panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        assert place.keys() == {"x", "y", "w", "h"}
        assert 0 <= place["x"] < place["x"] + place["w"] <= COLUMNS
        assert min(place["y"], place["h"] - 1) >= 0
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"], (one, other)


def test_every_panel_is_of_a_known_kind_with_a_unit_and_a_question(panels: list[Panel]) -> None:
    for panel in panels:
        if panel["type"] == "row":
            assert panel["collapsed"] is False
            assert panel["panels"] == []
            continue
        assert panel["type"] in {"timeseries", "stat", "heatmap", "gauge", "state-timeline"}
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["targets"]
        assert panel["description"], panel["title"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        assert "unit" in panel["fieldConfig"]["defaults"], panel["title"]
        for target in panel["targets"]:
            assert target["datasource"] == panel["datasource"]


def test_every_expression_asks_for_what_is_exported(panels: list[Panel]) -> None:
    told = {(title, target["expr"]): complaints(target["expr"], exported()) for title, target in targets(panels)}
    assert len(told) > 20
    assert not {where: wrong for where, wrong in told.items() if wrong}


def test_every_expression_asks_the_chosen_sensor_only(panels: list[Panel]) -> None:
    names = {one.name for one in exported()} | {f"netseq_scoring_seconds_{end}" for end in ("bucket", "count", "sum")}
    for title, target in targets(panels):
        asked = [text for _, text in tokens(target["expr"]) if text in names]
        assert target["expr"].count(SELECTOR[:-1]) == len(asked), title


def test_every_legend_names_labels_that_its_expression_keeps(panels: list[Panel]) -> None:
    labels_of = {one.name: {*one.labels, "instance", "job"} for one in exported()}
    for title, target in targets(panels):
        for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
            grouped = re.findall(r"by \(([^)]*)\)", target["expr"])
            kept = set(re.split(r",\s*", grouped[0])) if grouped else set()
            if not grouped:
                kept = set().union(*(labels_of.get(text, set()) for _, text in tokens(target["expr"])))
            assert label in kept, (title, target["expr"])


def test_prometheus_reads_every_expression(panels: list[Panel], tmp_path: Path) -> None:
    asked = [target["expr"].replace("$__rate_interval", "5m") for _, target in targets(panels)]
    rules = [{"record": f"expression_{number}", "expr": expression} for number, expression in enumerate(asked)]
    file = tmp_path / "expressions.json"  # JSON is YAML, too
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"SUCCESS: {len(rules)} rules found" in promtool("check", "rules", file)


@pytest.mark.parametrize(
    "metric",
    ["packets_read_total", "bytes_read_total", "packets_dropped_total", "flows_ended_total", "flows_waiting",
     "flows_shed_total", "words_scored_total", "scoring_seconds_bucket", "alerts_raised_total", "alerts_written_total",
     "alerts_suppressed_total",
     "alerts_ignored_total", "alerts_lost_total", "conversations_live", "conversations_capacity", "flows_live",
     "flows_capacity", "learning", "model_info", "build_info"],
)  # fmt: skip
def test_the_dashboard_shows(panels: list[Panel], metric: str) -> None:
    assert any(f"netseq_{metric}{{" in target["expr"] for _, target in targets(panels))


def test_memory_is_shown(panels: list[Panel]) -> None:
    assert any("process_resident_memory_bytes{" in target["expr"] for _, target in targets(panels))


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [
        ("rate(netseq_packets_red_total[5m])", "nobody exports netseq_packets_red_total"),
        ('rate(netseq_packets_dropped_total{card="eth0"}[5m])', "netseq_packets_dropped_total has no label card"),
        ("sum by (card) (rate(netseq_packets_dropped_total[5m]))", "no metric here has the label card"),
        ("netseq_packets_read_total", "netseq_packets_read_total is a counter: take its rate or increase"),
        ("rate(netseq_flows_live[5m])", "netseq_flows_live is a gauge: it has no rate"),
        ("rate(netseq_packets_read_total)", "netseq_packets_read_total: a range and a function over time belong together"),
        ("netseq_flows_live[5m]", "netseq_flows_live: a range and a function over time belong together"),
        ("rate(netseq_packets_read_total[5 minutes])", "no range: [5 minutes]"),
        ("sum(netseq_flows_live", "a bracket is not closed"),
        ("netseq_flows_live)", "a bracket is closed that was not opened"),
        ("speed(netseq_flows_live)", "no such function: speed"),
        ("netseq_flows_live{instance=1}", "netseq_flows_live has no label ?"),
        ("netseq_flows_live # x", "cannot be read: #"),
        ("1 + 1", "no metric"),
        ("netseq_scoring_seconds", "nobody exports netseq_scoring_seconds"),
    ],
)
def test_a_wrong_expression_is_told(expression: str, complaint: str) -> None:
    assert complaint in complaints(expression, exported())


@pytest.mark.parametrize(
    "expression",
    [
        'sum by (job, reason) (rate(netseq_flows_shed_total{reason!="full",job=~"$job"}[$__rate_interval])) > 0.5',
        "histogram_quantile(0.99, sum by (le) (rate(netseq_scoring_seconds_bucket[5m])))",
        "netseq_flows_live / on (instance) group_left netseq_flows_capacity and (netseq_ready == 1)",
        "max_over_time(netseq_interfaces_up[1d]) unless up",
        "sum(increase(netseq_alerts_raised_total[1d])) by (instance)",
    ],
)
def test_a_right_expression_is_not_told(expression: str) -> None:
    assert not complaints(expression, exported())
