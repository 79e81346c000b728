from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.rounds import plan

batches = st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=60)


def arrays(batch: list[tuple[int, bool]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([slot for slot, _ in batch], np.int32), np.array([again for _, again in batch], np.bool_)


@given(batches, st.integers(1, 8))
def test_every_row_is_stepped_or_shed_exactly_once(batch: list[tuple[int, bool]], rounds: int) -> None:
    made = plan(*arrays(batch), rounds)
    assert sorted([*made.rows.tolist(), *made.shed.tolist()]) == list(range(len(batch)))
    assert sum(made.widths) == len(made.rows)


@given(batches, st.integers(1, 8))
def test_rounds_step_the_same_slots_from_the_top_and_keep_each_conversation_s_order(
    batch: list[tuple[int, bool]], rounds: int
) -> None:
    slots, restart = arrays(batch)
    made = plan(slots, restart, rounds)
    assert len(made.widths) <= rounds
    assert made.widths == sorted(made.widths, reverse=True)
    start, stepped = 0, dict[int, list[int]]()
    for width in made.widths:
        rows = made.rows[start : start + width]
        assert (slots[rows] == made.slots[:width]).all()
        for row in rows.tolist():
            stepped.setdefault(int(slots[row]), []).append(row)
        start += width
    for slot, order in stepped.items():
        assert order == sorted(order)
        assert len(order) == min(rounds, int((slots == slot).sum()))


@given(batches, st.integers(1, 8))
def test_a_restart_among_shed_rows_moves_to_the_next_stepped_one(batch: list[tuple[int, bool]], rounds: int) -> None:
    slots, restart = arrays(batch)
    made = plan(slots, restart, rounds)
    again = dict(zip(made.rows.tolist(), made.restart.tolist(), strict=True))
    for slot in np.unique(slots):
        due = False
        for row in np.flatnonzero(slots == slot).tolist():
            due |= bool(restart[row])
            if row in again:
                assert again[row] == due
                due = False
        assert not due  # the last row of a conversation is always stepped


def test_a_flood_is_sampled_evenly() -> None:
    made = plan(np.zeros(1000, np.int32), np.zeros(1000, np.bool_), 10)
    assert np.diff(made.rows).tolist() == [100] * 9
    assert len(made.shed) == 990
