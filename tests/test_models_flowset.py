from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from models.flowset import UNJUDGED, FlowSet, NoneHeldBack, Split, apart, class_counts, given, honest, join, remarks, stratified
from models.windows import sequences


def flows_of(label: list[int], slots: list[int], day: list[int] | None = None) -> FlowSet:
    rows = np.arange(len(label), dtype=np.float32)[:, None]
    restart = np.zeros(len(label), np.bool_)
    days = np.array(day or [0] * len(label), np.int64)
    return FlowSet(rows, np.array(label, np.int64), np.array(slots, np.int32), restart, days)


def part_of(split: Split, rows: int) -> list[str]:
    part = ["-"] * rows
    for name, numbers in (("t", split.training), ("v", split.validation), ("x", split.test)):
        for row in numbers.tolist():
            assert part[row] == "-"
            part[row] = name
    return part


some = st.lists(st.tuples(st.integers(-1, 2), st.integers(0, 5), st.integers(0, 2)), min_size=30, max_size=80)


@settings(deadline=None)
@drawn(some, st.integers(0, 3))
def test_no_window_of_the_honest_split_holds_rows_of_two_parts(turns: list[tuple[int, int, int]], seed: int) -> None:
    flows = flows_of(*(list(column) for column in zip(*turns, strict=True)))
    try:
        split = honest(flows, 0.3, seed, 0.2)
    except ValueError:
        return  # too few rows with a class
    part = np.array(part_of(split, len(turns)))
    assert sum(part != "-") + split.left_out == sum(flows.label != UNJUDGED)
    for window in sequences(flows.slots, split.restart, 4):
        assert len({*part[window[window >= 0]]} - {"-"}) <= 1
    for number in range(3):  # a class of several days is not tested on a day that it is trained on
        days = {name: {*flows.day[(part == name) & (flows.label == number)].tolist()} for name in "tvx"}
        if len({*flows.day[flows.label == number].tolist()}) > 1:
            assert not days["x"] & (days["t"] | days["v"])


@settings(deadline=None)
@drawn(some)
def test_the_stratified_split_takes_the_share_of_every_class(turns: list[tuple[int, int, int]]) -> None:
    flows = flows_of([max(label, 0) for label, _, _ in turns], [slot for _, slot, _ in turns])
    split = stratified(flows, 0.2, 1, 0.1)
    part = np.array(part_of(split, len(turns)))
    assert "-" not in part
    for number in range(3):
        mine = part[flows.label == number]
        assert abs(sum(mine == "x") - 0.2 * len(mine)) <= 1
    assert (split.restart == flows.restart).all()


def test_whole_conversations_go_to_the_test_and_the_seed_says_which() -> None:
    flows = flows_of([0, 1] * 100, [number // 4 for number in range(200)])
    chosen = set()
    for seed in range(4):
        split = honest(flows, 0.2, seed)
        slots = {*flows.slots[split.test].tolist()}
        assert len(split.test) == 40
        assert not slots & {*flows.slots[np.concatenate([split.training, split.validation])].tolist()}
        chosen.add(tuple(split.test.tolist()))
        assert (honest(flows, 0.2, seed).test == split.test).all()
    assert len(chosen) == 4


def test_a_class_of_one_sequence_is_cut_in_time() -> None:
    flows = flows_of([0] * 40 + [1] * 10 + [2] * 10, [number // 4 for number in range(40)] + [99] * 20)
    split = honest(flows, 0.2, 1, 0.1)
    assert split.in_time == (1, 2)
    assert [row for row in split.test.tolist() if row >= 40] == [48, 49, 58, 59]
    assert np.flatnonzero(split.restart).tolist().count(48) == 1
    assert split.restart[50]


def test_a_class_that_one_sequence_holds_nearly_all_of_is_cut_in_time_too() -> None:
    flows = flows_of([0] * 200 + [1] * 50, [7] * 196 + [1, 2, 3, 4] + [number // 2 for number in range(20, 70)])
    for seed in range(4):
        split = honest(flows, 0.2, seed, 0.1)
        assert split.in_time == (0,)
        assert sum(flows.label[split.test] == 0) == 40
        assert 4 <= sum(flows.label[split.test] == 1) <= 12


def test_rows_that_go_with_a_sequence_of_the_wrong_day_are_left_out() -> None:
    label = [0] * 20 + [0] * 20 + [1] * 5 + [1] * 5
    slots = [number // 2 for number in range(40)] + [19] * 5 + [50] * 5
    flows = flows_of(label, slots, [0] * 20 + [1] * 20 + [1] * 10)
    for seed in range(6):
        split = honest(flows, 0.3, seed)
        part = np.array(part_of(split, len(label)))
        assert len({*part[:20]} & {"x"}) + len({*part[20:40]} & {"x"}) == 1
        assert split.left_out == sum(part == "-") <= 2


def test_unjudged_rows_are_context_only() -> None:
    flows = flows_of([UNJUDGED, 0, UNJUDGED, 1] * 20, [number // 4 for number in range(80)])
    for split in (honest(flows), stratified(flows)):
        assert (np.array(part_of(split, 80))[0::2] == "-").all()
    assert class_counts(flows.label, 3).tolist() == [20, 20, 0]


def test_joined_sets_keep_their_sequences_apart() -> None:
    one, other = flows_of([0, 1], [3, 0]), flows_of([1, 0, 1], [0, 3, 3])
    both = join([one, other, one])
    assert both.slots.tolist() == [3, 0, 4, 7, 7, 11, 8]
    assert both.label.tolist() == [0, 1, 1, 0, 1, 0, 1]
    assert len(both.rows) == len(both.restart) == len(both.day) == 7


def test_rows_of_other_files_can_be_given_to_test_on() -> None:
    flows = flows_of([0, 1] * 50, [number // 5 for number in range(100)])
    split = given(flows, np.arange(100) >= 60, validation=0.2)
    assert split.test.tolist() == list(range(60, 100))
    assert len(split.training) + len(split.validation) == 60
    assert not {*flows.slots[split.training].tolist()} & {*flows.slots[split.validation].tolist()}


def test_an_empty_part_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match="left to train on"):
        honest(flows_of([UNJUDGED] * 5, [0] * 5))
    with pytest.raises(ValueError, match="kept to test on"):
        stratified(flows_of([0, 1], [0, 1]), validation=0.0)
    with pytest.raises(ValueError, match="held back to validate on"):
        stratified(flows_of([0, 1], [0, 1]), share=0.0)
    with pytest.raises(ValueError, match="left to train on"):
        given(flows_of([0, 1], [0, 1]), np.ones(2, np.bool_))
    assert len(stratified(flows_of([0, 1], [0, 1]), share=0.0, validation=0.0).training) == 2


def test_what_a_split_leaves_doubtful_is_told_a_line_each() -> None:
    flows = flows_of([0] * 60 + [1] * 8 + [2] * 30, [number // 3 for number in range(60)] + [50] * 8 + [60] * 30)
    rows = np.column_stack([flows.rows, np.where(np.arange(98) < 90, np.nan, 1).astype(np.float32)])
    test = np.arange(98) >= 68
    split = given(flows, test)._replace(in_time=(1,), left_out=2)
    told = remarks(flows._replace(rows=rows), split, ["Normal", "Bot", "DoS", "DDoS"], ["Flow Duration", "Src Port"], 10)
    assert told == [
        "class Normal has no flow to test on",
        "class Bot has 7 flows to train on, fewer than the 10 of a window",
        "class Bot has no flow to test on",
        "class DoS has no flow to train on, and 30 to validate or test on: all will be wrong",
        "class DDoS has no flow: the model will not know it",
        "Bot: each nearly whole in one sequence, so that earlier flows are trained on and later ones tested on",
        "2 flows are context only: their class and their sequence are on different sides",
        "without a value in every flow to train on, but not in those held back: Src Port",
    ]


def test_without_an_ordinary_flow_to_train_on_all_is_an_attack_and_that_is_told() -> None:
    flows = flows_of([1] * 20 + [2] * 20 + [0] * 10, [number // 5 for number in range(50)])
    told = remarks(flows, apart(flows, 40), ["Normal", "Bot", "DoS"], ["Flow Duration"], 10)
    assert told == ["class Normal, the ordinary one, has no flow to train on: the model will call all it sees an attack"]


def test_hours_are_joined_only_where_all_sets_have_them() -> None:
    one = flows_of([0, 1], [0, 0])
    timed = one._replace(hour=np.array([4, 5]))
    assert join([one, timed]).hour is None
    hours = join([timed, timed]).hour
    assert hours is not None
    assert hours.tolist() == [4, 5, 4, 5]


def test_files_held_back_are_held_back_whole_but_for_what_nobody_judged() -> None:
    flows = flows_of([0, 1, UNJUDGED, 0, UNJUDGED, 1], [0, 1, 1, 2, 2, 3])
    split = apart(flows, 3)
    assert part_of(split, 6) == ["t", "t", "-", "v", "-", "v"]
    np.testing.assert_array_equal(split.restart, flows.restart)
    with pytest.raises(NoneHeldBack, match="none of 2 flows held back has a class: give labels for them, or hold others back"):
        apart(flows_of([0, 1, 0, UNJUDGED, UNJUDGED], [0, 1, 1, 2, 2]), 3)
    with pytest.raises(ValueError, match="left to train on"):
        apart(flows, 0)
