"""Conversations: the compiled table against a dictionary, whatever the batches; bounds; speed is measured in benchmarks."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sensor.conversations import HOUR_US, Conversations, Turns
from sensor.schema import FLOW

SECOND = 1_000_000
DAY_US = 24 * HOUR_US


class Spoken(NamedTuple):
    """A flow as far as conversations care."""

    src: int
    dst: int
    first_us: int
    lasting_us: int


def rows_of(spoken: list[Spoken]) -> NDArray[np.void]:
    rows = np.zeros(len(spoken), FLOW)
    for row, flow in zip(rows, spoken, strict=True):
        # both halves take part: addresses that differ in one half only are different hosts
        row["src_hi"], row["src_lo"] = flow.src % 3, flow.src // 3
        row["dst_hi"], row["dst_lo"] = flow.dst % 3, flow.dst // 3
        row["first_us"], row["last_us"] = flow.first_us, flow.first_us + flow.lasting_us
    return rows


def naive(spoken: list[Spoken], capacity: int, restart_us: int) -> tuple[list[tuple[int, ...]], int]:
    """The rules in plain Python: an ordered dictionary, least recently used first."""
    table: OrderedDict[frozenset[int], dict[str, int]] = OrderedDict()
    turns: list[tuple[int, ...]] = []
    evicted = 0
    for flow in spoken:
        pair, last_us = frozenset((flow.src, flow.dst)), flow.first_us + flow.lasting_us
        if pair not in table:
            slot = len(table)
            if len(table) == capacity:
                slot = table.popitem(last=False)[1]["slot"]
                evicted += 1
            table[pair] = {"slot": slot}
        state = table[pair]
        table.move_to_end(pair)
        restart = "ended" not in state or flow.first_us - state["ended"] > restart_us or state["ended"] - last_us > DAY_US
        if restart:
            gap = -1
            state |= {"ended": last_us, "hour": last_us // HOUR_US, "beginner": flow.src, "began": flow.first_us}
        else:
            gap = abs(flow.first_us - state["started"])
            state |= {"ended": max(state["ended"], last_us), "hour": max(state["hour"], last_us // HOUR_US)}
        state["started"] = flow.first_us
        heading = int(flow.src != state["beginner"])
        turns.append((state["slot"], int(restart), gap, state["hour"], heading, state["began"]))
    return turns, evicted


def told(turns: Turns) -> list[tuple[int, ...]]:
    return [tuple(int(value) for value in row) for row in zip(*turns, strict=True)]


flows_of_few_hosts = st.lists(
    st.builds(
        Spoken,
        src=st.integers(0, 6),
        dst=st.integers(0, 6),
        first_us=st.integers(-30 * HOUR_US, 30 * HOUR_US),
        lasting_us=st.integers(0, 2 * HOUR_US),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(flows_of_few_hosts, st.integers(1, 8), st.integers(0, 3 * HOUR_US))
def test_turns_are_those_of_a_dictionary_with_the_same_rules(spoken: list[Spoken], capacity: int, restart_us: int) -> None:
    table = Conversations(conversations=capacity, restart_s=restart_us / SECOND)
    expected, evicted = naive(spoken, capacity, restart_us)
    turns = table.turn(rows_of(spoken))
    assert told(turns) == expected
    assert table.evicted == evicted
    assert table.started == sum(turn[1] for turn in expected)
    assert table.live == min(capacity, len({frozenset((flow.src, flow.dst)) for flow in spoken}) if not evicted else capacity)


@settings(max_examples=100, deadline=None)
@given(flows_of_few_hosts, st.lists(st.integers(0, 60), max_size=8))
def test_cutting_the_flows_into_other_batches_changes_nothing(spoken: list[Spoken], cuts: list[int]) -> None:
    rows = rows_of(spoken)
    whole = told(Conversations(conversations=4).turn(rows))
    table, parts = Conversations(conversations=4), []
    for batch in np.split(rows, sorted(min(cut, len(rows)) for cut in cuts)):
        parts += told(table.turn(batch))
    assert parts == whole


def test_many_pairs_on_a_small_table_are_placed_as_by_a_dictionary() -> None:
    rng = np.random.default_rng(7)
    spoken = [
        Spoken(int(a), int(b), int(t) * SECOND, 0)
        for t, (a, b) in enumerate(zip(rng.zipf(1.3, 20_000) % 5000, rng.integers(0, 40, 20_000), strict=True))
    ]
    expected, evicted = naive(spoken, 500, 3600 * SECOND)
    table = Conversations(conversations=500)
    assert told(table.turn(rows_of(spoken))) == expected
    assert table.evicted == evicted > 1000


def test_an_hour_without_a_flow_begins_a_new_conversation_and_a_new_heading() -> None:
    table = Conversations()
    turns = table.turn(
        rows_of([Spoken(1, 2, 0, 5), Spoken(2, 1, 3600 * SECOND + 5, 0), Spoken(2, 1, 2 * 3600 * SECOND + 6, 0)])
    )
    assert turns.restart.tolist() == [True, False, True]
    assert turns.heading.tolist() == [0, 1, 0]
    assert turns.gap_us.tolist() == [-1, 3600 * SECOND + 5, -1]


def test_silence_is_counted_from_the_latest_end_not_from_the_last_row() -> None:
    long_flow = Spoken(1, 2, 0, 2 * 3600 * SECOND)
    turns = Conversations().turn(rows_of([long_flow, Spoken(1, 2, 10 * SECOND, 0), Spoken(1, 2, 3 * 3600 * SECOND, 0)]))
    assert turns.restart.tolist() == [True, False, False]


def test_a_clock_set_back_by_more_than_a_day_begins_a_new_conversation_in_the_hour_that_it_shows() -> None:
    late = 100 * DAY_US
    turns = Conversations().turn(
        rows_of(
            [Spoken(1, 2, late, 0), Spoken(1, 2, late - DAY_US, 0), Spoken(1, 2, 3 * HOUR_US, 0), Spoken(1, 2, 4 * HOUR_US, 0)]
        )
    )
    assert turns.restart.tolist() == [True, False, True, False]
    assert turns.hour.tolist() == [late // HOUR_US, late // HOUR_US, 3, 4]


def test_hour_never_goes_back_within_a_conversation() -> None:
    turns = Conversations().turn(rows_of([Spoken(1, 2, 2 * HOUR_US, 0), Spoken(1, 2, 2 * HOUR_US - 1, 0)]))
    assert turns.hour.tolist() == [2, 2]


def test_a_host_that_speaks_to_itself_is_a_conversation_of_its_own() -> None:
    turns = Conversations().turn(rows_of([Spoken(1, 1, 0, 0), Spoken(1, 2, 0, 0), Spoken(1, 1, 0, 0)]))
    assert turns.slots.tolist() == [0, 1, 0]
    assert turns.heading.tolist() == [0, 0, 0]


def test_a_million_pairs_pass_through_a_table_that_holds_a_thousand() -> None:
    table, batch = Conversations(conversations=1000), np.zeros(10_000, FLOW)
    for start in range(0, 1_000_000, len(batch)):
        batch["src_lo"] = np.arange(start, start + len(batch))
        turns = table.turn(batch)
        assert turns.restart.all()
        assert turns.slots.max() < 1000
    assert (table.live, table.started, table.evicted) == (1000, 1_000_000, 999_000)


def test_read_only_and_strided_rows_are_taken() -> None:
    rows = rows_of([Spoken(1, 2, 0, 0), Spoken(3, 4, 0, 0), Spoken(2, 1, 0, 0), Spoken(5, 6, 0, 0)])
    rows.flags.writeable = False
    assert Conversations().turn(rows[::2]).slots.tolist() == [0, 0]


@pytest.mark.parametrize("wrong", [{"conversations": 0}, {"restart_s": -1.0}, {"restart_s": float("nan")}])
def test_a_table_that_cannot_work_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="give"):
        Conversations(**wrong)  # type: ignore[arg-type]  # the wrong values are the point
