"""The queue between capture and scoring: what goes first when scoring cannot follow, and that every flow is counted."""

from __future__ import annotations

import threading
import time
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sensor.schema import FLOW, TCP, V4_MAPPED, FlowBatch
from sensor.service_queue import FLOOD_KEPT, FlowQueue


def flows(pairs: list[tuple[int, int]], port: int = 443) -> NDArray[np.void]:
    """FLOW rows between hosts told by small numbers."""
    rows = np.zeros(len(pairs), FLOW)
    for row, (src, dst) in zip(rows, pairs, strict=True):
        row["src_lo"], row["dst_lo"] = V4_MAPPED + src, V4_MAPPED + dst
        row["dst_port"], row["protocol"] = port, TCP
    return rows


def many(count: int, first: int = 1) -> FlowBatch:
    """Flows of as many different pairs."""
    return FlowBatch(flows([(first + n, 10_000_000 + first + n) for n in range(count)]))


def taken(queue: FlowQueue) -> list[FlowBatch]:
    found = []
    while (waiting := queue.take(0)) is not None:
        found.append(waiting.batch)
    return found


def test_batches_come_out_in_the_order_in_which_they_came() -> None:
    queue = FlowQueue(1000)
    for first in (1, 101, 201):
        queue.offer(many(100, first))
    assert [int(batch.flows["src_lo"][0]) - V4_MAPPED for batch in taken(queue)] == [1, 101, 201]
    assert not any(queue.shed.values())


def test_a_full_queue_sheds_the_newest_batch_and_counts_it() -> None:
    queue = FlowQueue(100)
    queue.offer(many(100))
    queue.offer(many(7, 5000))
    assert queue.shed["full"] == 7
    assert sum(len(batch.flows) for batch in taken(queue)) == 100


def test_flows_of_alerted_conversations_go_first_and_only_when_half_the_queue_is_taken() -> None:
    queue = FlowQueue(100)
    queue.know_alerted(flows([(5, 6)]))
    both_ways = FlowBatch(flows([(5, 6), (6, 5), (5, 7), (8, 6)]), ["a", "b", "c", "d"])
    queue.offer(both_ways)
    assert queue.shed["alerted"] == 0
    queue.offer(many(50))
    queue.offer(both_ways)
    assert queue.shed["alerted"] == 2  # the pair in both directions, and no other pair of either host
    last = taken(queue)[-1]
    assert last.uids == ["c", "d"]
    assert last.flows["dst_lo"].tolist() == [V4_MAPPED + 7, V4_MAPPED + 6]


def test_of_a_flood_some_flows_are_kept_when_three_quarters_are_taken() -> None:
    queue = FlowQueue(2000)
    queue.offer(many(1500))
    flood = [(1000 + n, 1) for n in range(300)]
    ordinary = [(50_000 + n, 60_000 + n) for n in range(100)]
    queue.offer(FlowBatch(flows(flood + ordinary)))
    last = taken(queue)[-1].flows
    assert queue.shed["flood"] == 300 - FLOOD_KEPT
    assert int((last["dst_lo"] == V4_MAPPED + 1).sum()) == FLOOD_KEPT
    assert int((last["dst_lo"] != V4_MAPPED + 1).sum()) == 100


def test_a_sweep_from_one_host_is_a_flood_too() -> None:
    queue = FlowQueue(2000)
    queue.offer(many(1500))
    queue.offer(FlowBatch(flows([(1, 1000 + n) for n in range(300)])))
    assert queue.shed["flood"] == 300 - FLOOD_KEPT


def test_ordinary_traffic_is_not_taken_for_a_flood() -> None:
    queue = FlowQueue(4000)
    queue.offer(many(3000))
    queue.offer(FlowBatch(flows([(n % 20, 500 + n % 37) for n in range(500)])))
    assert queue.shed["flood"] == 0


@given(st.lists(st.integers(1, 300), max_size=30), st.integers(0, 3))
def test_every_flow_comes_out_or_is_counted(sizes: list[int], hosts: int) -> None:
    queue = FlowQueue(512)
    queue.know_alerted(flows([(1, 2)]))
    for size in sizes:
        queue.offer(FlowBatch(flows([(n % (hosts + 1), 2) for n in range(size)])))
    assert sum(len(batch.flows) for batch in taken(queue)) + sum(queue.shed.values()) == sum(sizes)


def test_a_source_that_can_wait_waits_for_room_and_loses_nothing() -> None:
    queue = FlowQueue(100)
    batches = [many(60, 1), many(60, 100), many(300, 200)]  # the last one is larger than the queue

    def put_all() -> None:
        for batch in batches:
            queue.put(batch)

    thread = threading.Thread(target=put_all, daemon=True)
    thread.start()
    found, until = 0, time.monotonic() + 10
    while found < 420 and time.monotonic() < until:
        waiting = queue.take(0.1)
        found += len(waiting.batch.flows) if waiting else 0
    thread.join(10)
    assert found == 420
    assert not any(queue.shed.values())


def test_giving_up_counts_what_waits_and_lets_go_of_whoever_waits_for_room() -> None:
    queue = FlowQueue(100)
    queue.put(many(80))
    thread = threading.Thread(target=queue.put, args=(many(40),), daemon=True)
    thread.start()
    queue.give_up()
    thread.join(10)
    assert not thread.is_alive()
    assert queue.shed["ending"] == 120
    assert queue.take(0) is None


def test_when_the_end_is_near_nobody_waits_for_room_any_more() -> None:
    queue = FlowQueue(100)
    queue.put(many(80))
    thread = threading.Thread(target=queue.put, args=(many(40),), daemon=True)
    thread.start()
    queue.make_room()
    thread.join(10)
    assert not thread.is_alive()
    queue.put(many(1000))
    assert [len(batch.flows) for batch in queue.leave()] == [80, 40, 1000]
    assert (queue.waiting, queue.came, queue.gone) == (0, 1120, 0)
    assert not any(queue.shed.values())


def test_a_batch_tells_when_it_came() -> None:
    queue = FlowQueue(100)
    times = []
    for first in (1, 20):
        queue.offer(many(10, first))
    while (waiting := queue.take(0)) is not None:
        times.append(waiting.since_s)
    assert all(earlier <= later for earlier, later in pairwise(times))
    assert times[-1] <= time.monotonic()
