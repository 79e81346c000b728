"""The compiled flow table against the naive one, on packets that hypothesis makes up so that flows meet, end and collide."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import TypedDict

import numpy as np
import pytest
from flow_packets import drained
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_accumulate import INNER, Tree, read, told
from naive_flows import NaiveTable, Packet, packets_of, rows_of
from numpy.typing import NDArray

from sensor.flows import FlowTable
from sensor.schema import (
    ACK,
    END_FULL,
    END_INPUT,
    FIN,
    FLOW,
    GRE,
    ICMP,
    ICMPV6,
    PACKET,
    PSH,
    RST,
    SIDE,
    SYN,
    TCP,
    UDP,
    V4_MAPPED,
)

START_US = 1_700_000_000_000_000
HOSTS = (V4_MAPPED | 1, V4_MAPPED | 2, 1 << 127 | V4_MAPPED | 1, 1 << 127 | 1)
"""Two of them share their lower half, two their upper."""
SECOND_US = 1_000_000
STEPS_US = tuple(round(seconds * SECOND_US) + more for seconds in (0, 1, 3, 5, 60, 120, 5000) for more in (0, 1))
"""Times between packets: at a limit, and just over it. The longest is beyond what 64 bits hold when squared."""
FLAGS = (SYN, SYN | ACK, ACK, PSH | ACK, FIN | ACK, RST, RST | ACK)


@st.composite
def exchange(draw: st.DrawFn) -> tuple[int, Packet]:
    """A packet with the time since the one before. Few hosts and ports, so that packets meet in flows."""
    step = draw(st.sampled_from(STEPS_US) | st.integers(0, 200))
    src, dst = draw(st.permutations(HOSTS[: draw(st.integers(2, 4))]))[:2]
    if draw(st.integers(0, 9)) == 0:
        dst = src
    protocol = draw(st.sampled_from((TCP, TCP, TCP, UDP, UDP, ICMP, ICMPV6, GRE)))
    packet = Packet(0, src, dst, protocol=protocol, header=draw(st.sampled_from((8, 20, 32))))
    payload, ip_bytes = draw(st.sampled_from((0, 0, 1, 1460, 65_495))), draw(st.integers(0, 70_000))
    packet = packet._replace(payload=payload, ip_bytes=ip_bytes)
    if protocol in (ICMP, ICMPV6):
        return step, packet._replace(icmp_type=draw(st.integers(0, 1)), icmp_code=draw(st.integers(0, 1)))
    if protocol == GRE:
        return step, packet
    ports = draw(st.permutations((1, 2, 3)))
    packet = packet._replace(src_port=ports[0], dst_port=ports[1])  # never the same: see CICFlowMeter on a host's own ports
    if protocol == UDP:
        return step, packet
    near_wrap = st.integers(2**32 - 2, 2**32 + 2)
    return step, packet._replace(
        flags=draw(st.sampled_from(FLAGS) | st.integers(0, 255)),
        seq=draw(near_wrap) % 2**32,
        ack=draw(near_wrap) % 2**32,
        window=draw(st.sampled_from((0, 1, 65_535))),
    )


def in_time(exchanges: list[tuple[int, Packet]]) -> list[Packet]:
    """Packets whose time never goes back."""
    times = np.cumsum([step for step, _ in exchanges]).tolist()
    return [packet._replace(ts_us=START_US + time) for time, (_, packet) in zip(times, exchanges, strict=True)]


forward_in_time = st.lists(exchange(), min_size=1, max_size=60).map(in_time)


class Limits(TypedDict, total=False):
    """Settings of a flow table."""

    flows: int
    idle_s: float
    closed_s: float
    attempt_s: float
    active_s: float
    first_fin: bool
    self_forward: bool


limits = st.fixed_dictionaries(
    {"flows": st.sampled_from((1, 2, 3, 5, 64))},
    optional={
        "idle_s": st.sampled_from((0.5, 5.0, 1000.0)),
        "closed_s": st.sampled_from((0.0, 1.0, 300.0)),
        "attempt_s": st.sampled_from((0.001, 3.0, 300.0)),
        "active_s": st.sampled_from((0.5, 60.0, 10_000.0)),
        "first_fin": st.booleans(),
        "self_forward": st.booleans(),
    },
).map(lambda chosen: Limits(**chosen))  # type: ignore[typeddict-item]  # the keys are those above


def compiled(table: FlowTable, rows: NDArray[np.void]) -> list[Tree]:
    ended = table.feed(rows).copy()
    return [read(row) for row in np.concatenate([ended, drained(table)])]


def naive(table: NaiveTable, packets: list[Packet]) -> list[Tree]:
    table.feed(packets)
    table.drain()
    return [told(flow) for flow in table.ended]


def test_the_naive_table_tells_every_result_that_a_flow_has() -> None:
    told_of_one = naive(NaiveTable(), [Packet(START_US, 1, 2)])[0]
    assert set(told_of_one) == set(FLOW.names or ()) - INNER
    assert set(told_of_one["fwd"] if isinstance(told_of_one["fwd"], dict) else ()) == set(SIDE.names or ()) - INNER


@settings(max_examples=200, deadline=None)
@given(forward_in_time, limits)
def test_flows_and_all_their_sums_are_those_of_the_naive_table(packets: list[Packet], chosen: Limits) -> None:
    assert compiled(FlowTable(seed=1, **chosen), rows_of(packets)) == naive(NaiveTable(**chosen), packets)


talk = st.lists(
    st.tuples(
        st.booleans(), st.sampled_from((0, 10, SECOND_US, SECOND_US + 1, 5 * SECOND_US + 1)), st.sampled_from((0, 9, 800, 1460))
    ),
    min_size=1,
    max_size=80,
)
"""One side or the other, the time since the packet before, and the payload."""


@settings(max_examples=100, deadline=None)
@given(talk, st.sampled_from((TCP, UDP)))
def test_sums_of_one_long_talk_are_those_of_the_naive_table(said: list[tuple[bool, int, int]], protocol: int) -> None:
    flags = ACK if protocol == TCP else 0
    packets = in_time(
        [
            (step, Packet(0, *((1, 2, 3, 4) if forward else (2, 1, 4, 3)), protocol, flags, payload))
            for forward, step, payload in said
        ]
    )
    assert compiled(FlowTable(seed=1), rows_of(packets)) == naive(NaiveTable(), packets)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(exchange(), st.sampled_from((1, 1, 1, -1))), min_size=1, max_size=60),
    st.integers(2, 64),
)
def test_without_expiry_the_same_holds_when_time_runs_back_and_forth(
    steps: list[tuple[tuple[int, Packet], int]], flows: int
) -> None:
    packets = in_time([(step * sign, packet) for (step, packet), sign in steps])
    assert compiled(FlowTable(flows=flows, expiry=False, seed=1), rows_of(packets)) == naive(
        NaiveTable(flows=flows, expiry=False), packets
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(exchange(), st.sampled_from((1, 1, 1, -1))), min_size=1, max_size=60), st.integers(1, 64))
def test_no_packet_is_lost_when_time_runs_back_and_forth(steps: list[tuple[tuple[int, Packet], int]], flows: int) -> None:
    packets = in_time([(step * sign, packet) for (step, packet), sign in steps])
    table, truth = FlowTable(flows=flows, seed=1), NaiveTable(flows=flows)
    ended = np.concatenate([table.feed(rows_of(packets)).copy(), drained(table)])
    truth.feed(packets)
    assert (table.clock_us, table.steps_back) == (truth.clock_us, truth.steps_back)
    assert (ended["fwd"]["packets"] + ended["bwd"]["packets"]).sum() == len(packets) == table.packets
    for name in ("payload_bytes", "ip_bytes", "header_bytes"):
        of_side = ended["fwd"]["payload"]["sum"] + ended["bwd"]["payload"]["sum"]
        total = of_side if name == "payload_bytes" else ended["fwd"][name] + ended["bwd"][name]
        assert total.sum() == rows_of(packets)[name].sum()


@settings(max_examples=60, deadline=None)
@given(forward_in_time, limits, st.lists(st.integers(0, 60), max_size=8), st.integers(0, 2**62))
def test_where_the_packets_are_cut_into_blocks_changes_no_byte(
    packets: list[Packet], chosen: Limits, cuts: list[int], seed: int
) -> None:
    rows = rows_of(packets)
    whole, pieces = FlowTable(seed=1, **chosen), FlowTable(seed=seed, **chosen)
    at_once = np.concatenate([whole.feed(rows).copy(), drained(whole)])
    bounds = sorted({0, len(rows), *(cut for cut in cuts if cut < len(rows))})
    parts = [pieces.feed(rows[a:b]).copy() for a, b in itertools.pairwise(bounds)]
    assert np.concatenate([*parts, drained(pieces)]).tobytes() == at_once.tobytes()
    assert pieces.ended.tolist() == whole.ended.tolist()


def crowd(packets: int, hosts: int, seed: int, *, spread_us: int) -> NDArray[np.void]:
    """Random packets between many hosts: more flows than a small table holds."""
    rng = np.random.default_rng(seed)
    rows = np.zeros(packets, PACKET)
    rows["ts_us"] = START_US + np.cumsum(rng.integers(0, spread_us, packets))
    rows["src_lo"], rows["dst_lo"] = rng.integers(0, hosts, packets), rng.integers(0, hosts, packets)
    rows["dst_port"], rows["src_port"] = rng.integers(0, 2, packets), rng.integers(0, 2, packets)
    rows["protocol"] = rng.choice((TCP, UDP), packets)
    tcp = rows["protocol"] == TCP
    rows["tcp_flags"] = np.where(tcp, rng.choice(FLAGS, packets), 0)
    rows["payload_bytes"] = rng.integers(0, 1461, packets)
    return rows


@pytest.mark.parametrize("hosts", [6, 9, 40, 4000])
def test_index_loses_no_flow_under_many_beginnings_and_ends(hosts: int) -> None:
    rows = crowd(300_000, hosts, seed=hosts, spread_us=100_000)
    table = FlowTable(flows=64)
    parts = []
    for at in range(0, len(rows), 1000):
        parts.append(table.feed(rows[at : at + 1000]).copy())
        assert table.live == np.count_nonzero(table._table.places >= 0) <= 64
    ended = np.concatenate([*parts, drained(table)])
    assert table.live == np.count_nonzero(table._table.places >= 0) == 0
    assert (ended["fwd"]["packets"] + ended["bwd"]["packets"]).sum() == len(rows) == table.packets
    assert (ended["fwd"]["payload"]["sum"] + ended["bwd"]["payload"]["sum"]).sum() == rows["payload_bytes"].sum()
    assert table.ended.sum() == len(ended)
    assert table.ended.tolist() == np.bincount(ended["end"], minlength=len(table.ended)).tolist()
    assert table.ended[END_FULL] > 0 or hosts < 9
    assert table.ended[END_INPUT] > 0


def test_full_table_gives_the_flows_of_the_naive_one() -> None:
    rows = crowd(4000, 9, seed=5, spread_us=100_000)
    assert compiled(FlowTable(flows=20, seed=1), rows) == naive(NaiveTable(flows=20), list(packets_of(rows)))


@pytest.mark.parametrize("flows", [1, 20, 4096])
def test_kernels_in_plain_python_stay_inside_their_arrays_and_give_the_same_bytes(tmp_path: Path, flows: int) -> None:
    rows = crowd(2500, 30, seed=flows, spread_us=200_000)
    np.save(tmp_path / "packets.npy", rows)
    program = Path(__file__).with_name("flows_uncompiled.py")
    command = [sys.executable, str(program), str(tmp_path / "packets.npy"), str(tmp_path / "flows.npy"), str(flows)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=program.parents[1])
    assert run.returncode == 0, run.stderr
    table = FlowTable(flows=flows, seed=1)
    expected = np.concatenate([table.feed(rows).copy(), drained(table)])
    assert np.load(tmp_path / "flows.npy").tobytes() == expected.tobytes()
