"""Which losses the alert about the sensor itself tells of, for how long, and in which words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from sensor.metrics import COUNTERS
from sensor.schema import Alert
from sensor.service_degraded import MEANT, ORDINARY, WATCHED, degraded, interfaces, since

PAGE = Path(__file__).parents[1] / "docs" / "alerts.md"
LABELS = {one.name: one.label for one in COUNTERS}


def told(grown: Mapping[str, int]) -> Alert | None:
    return degraded(grown, ts_us=120_000_000, since_us=60_000_000, model="m 1")


def words(grown: Mapping[str, int]) -> str:
    alert = told(grown)
    assert alert is not None
    return alert.msg.partition("the last minute: ")[2]


def named(name: str) -> str:
    return f"{name}.here" if LABELS[name] else name


def test_each_loss_is_watched_or_left_out_for_a_reason() -> None:
    assert not set(WATCHED) & set(ORDINARY)
    assert {*WATCHED, *ORDINARY} - {"captures_unreadable"} == {one.name for one in COUNTERS if one.loss}


@pytest.mark.parametrize("name", WATCHED)
def test_a_loss_that_is_watched_is_told(name: str) -> None:
    assert told({named(name): 0}) is None
    alert = told({named(name): 5})
    assert alert is not None
    assert alert.count == 5
    assert alert.msg.endswith(": 5")


@pytest.mark.parametrize("name", [*map(named, ORDINARY), *MEANT])
def test_a_loss_that_is_no_fault_of_the_sensor_is_not_told(name: str) -> None:
    assert told({name: 5}) is None


def test_the_page_on_alerts_names_what_is_watched() -> None:
    section = PAGE.read_text(encoding="utf-8").partition("## The sensor itself")[2].partition("\n## ")[0]
    rows = "\n".join(line for line in section.splitlines() if line.startswith("| ") and " | `" in line)
    assert set(re.findall(r"`(\w+_\w+)`", rows)) == {*WATCHED, "interfaces_down", "zeek_peers"}


def test_an_interface_that_is_down_is_told_at_every_look() -> None:
    counters = {"packets_read": 900, "interfaces_lost.a": 1, "interfaces_down.a": 1, "interfaces_down.b": 0, "interfaces_up": 1}
    for _ in range(2):
        grown = since(counters, counters)
        assert words(grown) == "interfaces that are down (a): 1 of 2"
        alert = told(grown)
        assert alert is not None
        assert (alert.severity, alert.score, alert.count) == ("high", 0.5, 1)
    assert interfaces(counters) == {"a": False, "b": True}
    assert told(since(counters, counters | {"interfaces_down.a": 0})) is None


def test_an_interface_that_went_down_and_came_back_is_told_once() -> None:
    before = {"interfaces_lost.eth0.7": 3, "interfaces_down.eth0.7": 0}
    after = before | {"interfaces_lost.eth0.7": 4}
    assert words(since(before, after)) == "times that an interface went down or away (eth0.7): 1"
    assert told(since(after, after)) is None


def test_a_zeek_that_is_away_is_told_at_every_look() -> None:
    counters = {"zeek_peers": 0, "zeek_messages": 7}
    assert words(since(counters, counters)) == "connections to a running Zeek: none"
    assert told(since(counters, counters | {"zeek_peers": 1})) is None


def test_a_folder_has_no_interfaces() -> None:
    assert interfaces({"captures_read": 1}) == {}
