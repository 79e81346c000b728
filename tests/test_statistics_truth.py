"""The columns against the naive statistics, on packets that hypothesis makes up, by both rules; and the unusual flows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from flow_packets import START_US, answered, drained, sent, spoke
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_flows import NaiveTable, Packet, rows_of
from naive_statistics import Columns, columns_of
from numpy.typing import NDArray
from test_flows_truth import exchange, in_time

from sensor.flows import FlowTable
from sensor.schema import ACK, FLOW, PACKET, SYN, UDP, V4_MAPPED
from sensor.spellings import STATISTICS
from sensor.statistics import BATCH, Reading, Rules, column, statistics

RELATIVE = 1e-12
"""Sums are exact on both sides, and a column is some divisions and a root away from them."""

RULES: tuple[Rules, ...] = ("netseq", "cicflowmeter")
PAYLOADS = (0, 0, 1, 1448, 8948, 65_495, 65_535, 2**18 - 1)
"""Ordinary, jumbo, and what network cards that cut and join segments hand over, up to the longest frame."""

big_exchange = st.tuples(exchange(), st.sampled_from(PAYLOADS)).map(
    lambda drawn: (drawn[0][0], drawn[0][1]._replace(payload=drawn[1], ip_bytes=drawn[1] + 40))
)
disordered = st.lists(st.tuples(big_exchange, st.sampled_from((1, 1, 1, -1))), min_size=1, max_size=40).map(
    lambda steps: in_time([(step * sign, packet) for (step, packet), sign in steps])
)
crowded = st.lists(
    st.tuples(st.booleans(), st.sampled_from((0, 0, 1, 999_999, 1_000_001, 5_000_001)), st.sampled_from(PAYLOADS)),
    min_size=1,
    max_size=60,
)
"""One flow: who speaks, the time since the packet before, and the payload."""


def of_rows(flows: NDArray[np.void], rules: Rules) -> list[Columns]:
    """What `sensor.statistics` says."""
    reading = Reading(flows, rules)
    columns = {name: column(reading, name).tolist() for name in STATISTICS}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def compare(packets: list[Packet], rules: Rules, **limits: bool) -> list[Columns]:
    """Look at every column of every flow; returns them."""
    table, truth = FlowTable(seed=1, **limits), NaiveTable(**limits)
    flows = np.concatenate([table.feed(rows_of(packets)).copy(), drained(table)])
    truth.feed(packets)
    truth.drain()
    found = of_rows(flows, rules)
    for ours, flow in zip(found, truth.ended, strict=True):
        expected = columns_of(flow, rules)
        assert set(expected) == set(STATISTICS)
        assert all(math.isfinite(value) for value in ours.values())
        wrong = {
            name: (ours[name], value)
            for name, value in expected.items()
            if not math.isclose(ours[name], value, rel_tol=RELATIVE, abs_tol=0.0)
        }
        assert not wrong
    return found


@settings(max_examples=100, deadline=None)
@given(st.lists(big_exchange, min_size=1, max_size=40).map(in_time), st.sampled_from(RULES), st.booleans(), st.booleans())
def test_columns_are_those_of_the_naive_statistics(
    packets: list[Packet], rules: Rules, first_fin: bool, self_forward: bool
) -> None:
    compare(packets, rules, first_fin=first_fin, self_forward=self_forward)


@settings(max_examples=100, deadline=None)
@given(disordered, st.sampled_from(RULES))
def test_columns_are_those_of_the_naive_statistics_when_time_runs_back_and_forth(packets: list[Packet], rules: Rules) -> None:
    compare(packets, rules, expiry=False)


@settings(max_examples=100, deadline=None)
@given(crowded, st.sampled_from((ACK, 0)), st.sampled_from(RULES))
def test_columns_of_one_long_talk_are_those_of_the_naive_statistics(
    said: list[tuple[bool, int, int]], flags: int, rules: Rules
) -> None:
    made = [
        (step, (sent if forward else answered)(0.0, flags, payload=payload, protocol=6 if flags else UDP))
        for forward, step, payload in said
    ]
    compare(in_time(made), rules)


ZEROES = tuple(
    name for name in STATISTICS if " IAT " in name or name.endswith((" Std", "/s")) or name.startswith(("Active", "Idle"))
)


def test_a_flow_of_one_packet_has_no_duration_no_gap_no_rate_and_no_deviation() -> None:
    (flow,) = compare([spoke(0.0, payload=37)], "netseq")
    assert {name: flow[name] for name in ZEROES if flow[name]} == {}
    lengths = [f"{name}Packet Length {of}" for name in ("", "Fwd ") for of in ("Min", "Max", "Mean")]
    assert (flow["Flow Duration"], {flow[name] for name in lengths}) == (0, {37})


def test_two_packets_in_the_same_microsecond_have_no_rate() -> None:
    packets = [spoke(0.0, payload=10), spoke(0.0, payload=30)]
    (flow,) = compare(packets, "netseq")
    assert (flow["Flow Duration"], flow["Flow Bytes/s"], flow["Flow Packets/s"], flow["Fwd Packets/s"]) == (0, 0, 0, 0)
    (flow,) = compare(packets, "cicflowmeter")
    assert (flow["Flow Duration"], flow["Flow Bytes/s"], flow["Flow Packets/s"], flow["Fwd Packets/s"]) == (0, -1, -1, 0)


def test_the_gap_to_a_packet_out_of_order_is_negative_and_the_least() -> None:
    (flow,) = compare([spoke(0.0), spoke(0.3), spoke(0.1), spoke(0.4)], "netseq")
    assert (flow["Flow IAT Min"], flow["Flow IAT Max"], flow["Flow Duration"]) == (-200_000, 300_000, 400_000)


@pytest.mark.parametrize(("rules", "duration_us", "per_s"), [("netseq", 0, 0), ("cicflowmeter", -200_000, -10)])
def test_a_clock_that_runs_backwards_leaves_no_duration(rules: Rules, duration_us: int, per_s: float) -> None:
    (flow,) = compare([spoke(1.0, payload=1), spoke(0.8, payload=1)], rules)
    assert (flow["Flow Duration"], flow["Flow Packets/s"], flow["Flow IAT Mean"]) == (duration_us, per_s, -200_000)


@pytest.mark.parametrize(("rules", "per_s"), [("netseq", 0), ("cicflowmeter", -400 / 0.3)])
def test_a_bulk_in_which_the_clock_runs_backwards_takes_no_time(rules: Rules, per_s: float) -> None:
    (flow,) = compare([spoke(1.0 - step / 10, payload=100) for step in range(4)], rules)
    assert (flow["Fwd Packet/Bulk Avg"], flow["Fwd Bytes/Bulk Avg"]) == (4, 400)
    assert math.isclose(flow["Fwd Bulk Rate Avg"], per_s, rel_tol=RELATIVE)


def test_a_clock_that_is_set_back_by_more_than_a_minute_ends_the_flows_before_it() -> None:
    flows = compare([spoke(500.0), spoke(500.1), spoke(10.0), spoke(10.2), sent(10.3, SYN)], "netseq")
    assert sorted((flow["Flow Duration"], flow["Total Fwd Packet"]) for flow in flows) == [(0, 1), (100_000, 2), (200_000, 2)]


def test_more_than_4_gib_and_more_than_2_to_32_packets_are_counted_exactly() -> None:
    rows = np.zeros(70_000, PACKET)
    rows["ts_us"] = START_US + np.arange(len(rows))
    rows["src_lo"], rows["dst_lo"], rows["protocol"] = V4_MAPPED | 1, V4_MAPPED | 2, UDP
    rows["payload_bytes"], rows["ip_bytes"] = 65_507, 65_535
    rows["payload_bytes"][1::2] = 65_506
    table = FlowTable(seed=1)
    flows = np.concatenate([table.feed(rows).copy(), drained(table)])
    (flow,) = of_rows(flows, "netseq")
    assert flow["Total Length of Fwd Packet"] == 35_000 * (65_507 + 65_506) > 2**32
    assert flow["Fwd IP Bytes"] == 70_000 * 65_535
    assert math.isclose(flow["Packet Length Variance"], 70_000 / 4 / 69_999, rel_tol=RELATIVE)
    flows["fwd"]["packets"] += 2**40
    flows["fwd"]["ip_bytes"] += 2**60
    (flow,) = of_rows(flows, "netseq")
    assert flow["Total Fwd Packet"] == 2**40 + 70_000
    assert flow["Fwd IP Bytes"] == 2**60 + 70_000 * 65_535


def crowd(n: int) -> NDArray[np.void]:
    """Some flows, of which there are more than a batch."""
    flows = np.zeros(n, FLOW)
    rng = np.random.default_rng(1)
    for side in ("fwd", "bwd"):
        flows[side]["packets"] = rng.integers(1, 9, n)
        flows[side]["payload"]["sum"] = sizes = rng.integers(0, 2**31, n)  # as if one packet had all of it
        flows[side]["payload"]["square"] = sizes**2
    flows["last_us"] = rng.integers(0, 10**9, n)
    return flows


@pytest.mark.parametrize("rules", RULES)
def test_what_models_read_is_every_column_rounded_whatever_the_batch(rules: Rules) -> None:
    flows = crowd(2 * BATCH + 7)
    reading = Reading(flows, rules)
    expected = np.stack([column(reading, name).astype(np.float32) for name in STATISTICS], axis=1)
    assert statistics(flows, rules=rules).tobytes() == expected.tobytes()
    assert statistics(flows[:0], rules=rules).shape == (0, len(STATISTICS))
    some = ("Idle Max", "Flow Duration")
    assert (statistics(flows, some, rules) == expected[:, [STATISTICS.index(name) for name in some]]).all()


def test_an_unknown_column_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        statistics(crowd(1), ["Flow Bites/s"])
