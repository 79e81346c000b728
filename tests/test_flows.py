"""When flows begin, end, are cut and go on: each rule of the flow table as a fact, with the packets that show it."""

from __future__ import annotations

import numpy as np
import pytest
from flow_packets import (
    AFTER_US,
    CLOSE,
    HANDSHAKE,
    HOST,
    PEER,
    START_US,
    answered,
    bystander,
    drained,
    ends,
    feed,
    flows_of,
    packets,
    sent,
    spoke,
)
from naive_accumulate import Tree, read
from naive_flows import Packet, packets_of, rows_of
from numpy.typing import NDArray

from sensor.flows import OUT_ROWS, FlowTable
from sensor.schema import ACK, END_FULL, ENDS, FIN, GRE, ICMP, ICMPV6, PSH, RST, SYN, UDP, V4_MAPPED


def test_silent_flow_ends_after_idle_timeout_of_packet_time_without_a_packet_of_its_own() -> None:
    table = FlowTable()
    assert len(feed(table, spoke(0), bystander(120))) == 0
    ended = feed(table, bystander(120, plus_us=AFTER_US))
    assert ends(ended) == ["idle"]
    assert ended["src_port"].tolist() == [5000]
    assert table.ended.tolist() == [int(name == "idle") for name in ENDS]


def test_packet_at_the_very_end_of_the_idle_timeout_still_joins() -> None:
    assert packets(flows_of(spoke(0), spoke(120))) == [(2, 0)]
    assert packets(flows_of(spoke(0), spoke(120, plus_us=AFTER_US))) == [(1, 0), (1, 0)]


def test_idle_time_is_counted_from_the_last_packet() -> None:
    rows = flows_of(spoke(0), spoke(100), bystander(219), spoke(219.5), table=FlowTable(active_s=1e6))
    assert packets(rows) == [(3, 0)]


def test_every_timeout_can_be_set() -> None:
    def ended(*packets: Packet) -> list[str]:
        return ends(feed(FlowTable(idle_s=10, closed_s=1, attempt_s=2, active_s=4), *packets))

    assert ended(spoke(0), bystander(10), bystander(10, plus_us=AFTER_US)) == ["idle"]
    assert ended(sent(0, SYN), bystander(2), bystander(2, plus_us=AFTER_US)) == ["attempt"]
    assert ended(sent(0), sent(0, RST), bystander(1), bystander(1, plus_us=AFTER_US)) == ["closed"]
    assert ended(sent(0), sent(4), sent(4, plus_us=AFTER_US)) == ["active"]


@pytest.mark.parametrize(
    "close", [CLOSE, (sent(1.2, RST),), (answered(1.2, RST | ACK),)], ids=["fins", "rst", "answered by rst"]
)
def test_closed_connection_ends_after_closed_s(close: tuple[Packet, ...]) -> None:
    table = FlowTable()
    assert len(feed(table, *HANDSHAKE, *close, bystander(6.2))) == 0
    assert ends(feed(table, bystander(6.2, plus_us=AFTER_US))) == ["closed"]


def test_connection_with_one_fin_is_not_closed() -> None:
    table = FlowTable()
    assert len(feed(table, *HANDSHAKE, sent(1, FIN | ACK), answered(1.1), bystander(60))) == 0


def test_last_ack_need_not_come_for_a_connection_to_be_closed() -> None:
    assert ends(flows_of(*HANDSHAKE, *CLOSE[:2], bystander(7))) == ["closed"]


def test_straggler_joins_the_closed_connection_and_keeps_it_waiting() -> None:
    table = FlowTable()
    assert len(feed(table, *HANDSHAKE, *CLOSE, answered(6), bystander(11))) == 0
    ended = feed(table, bystander(11, plus_us=AFTER_US))
    assert (ends(ended), packets(ended)) == (["closed"], [(4, 3)])


def test_unanswered_syn_ends_attempt_s_after_its_first_packet() -> None:
    table = FlowTable()
    assert len(feed(table, sent(0, SYN), sent(1, SYN), sent(3, SYN), bystander(5))) == 0
    ended = feed(table, bystander(5, plus_us=AFTER_US))
    assert (ends(ended), packets(ended)) == (["attempt"], [(3, 0)])


def test_answered_syn_is_no_attempt() -> None:
    assert ends(flows_of(*HANDSHAKE[:2], bystander(100))) == ["input"]


def test_refused_syn_is_closed() -> None:
    assert ends(flows_of(sent(0, SYN), answered(0.1, RST | ACK), bystander(6))) == ["closed"]


def test_segment_met_in_mid_stream_is_no_attempt() -> None:
    assert ends(flows_of(sent(0), sent(1), bystander(100))) == ["input"]


def test_attempts_do_not_wait_behind_one_another() -> None:
    table = FlowTable()
    probes = [sent(at, SYN, dst_port=port) for port, at in enumerate([0.0, 1.0, 2.0], 1)]
    ended = feed(table, *probes, sent(4.9, SYN, dst_port=1), bystander(6.5))
    assert ended["dst_port"].tolist() == [1, 2]


def test_long_connection_is_cut_at_active_s_and_its_rows_are_one_connection() -> None:
    rows = flows_of(*HANDSHAKE, sent(60), sent(120), answered(120, plus_us=AFTER_US), sent(150), answered(241), sent(241))
    assert ends(rows) == ["active", "active", "input"]
    assert packets(rows) == [(4, 1), (1, 1), (1, 1)]
    assert rows["continued"].tolist() == [0, 1, 1]
    assert len(set(rows["connection"].tolist())) == 1
    assert rows["connection_us"].tolist() == [0, 120_000_001, 241_000_000]
    assert rows["first_is_bwd"].tolist() == [0, 1, 1]
    assert set(rows["src_port"].tolist()) == {40_000}


def test_continued_rows_start_their_counts_afresh() -> None:
    first, second = flows_of(sent(0, PSH, payload=7), sent(100, payload=7), sent(121, payload=9, seq=50))
    assert (first["fwd"]["payload"]["sum"], second["fwd"]["payload"]["sum"]) == (14, 9)
    assert (first["fwd"]["psh"], second["fwd"]["psh"]) == (1, 0)
    assert second["first_us"] == second["last_us"] == START_US + 121_000_000
    assert second["gap"]["square_lo"] == second["fwd"]["gap"]["square_lo"] == 0


def test_fins_before_a_cut_do_not_close_the_row_after_it() -> None:
    rows = flows_of(*HANDSHAKE, sent(100, FIN | ACK), sent(121), answered(122, FIN | ACK), sent(123), bystander(140))
    assert ends(rows) == ["active", "input"]


def test_close_before_a_cut_is_forgotten_after_it() -> None:
    rows = flows_of(sent(0), sent(100, RST), sent(121), sent(122, SYN), table=FlowTable(expiry=False))
    assert packets(rows) == [(2, 0), (2, 0)]


def test_syn_on_a_closed_connection_begins_another() -> None:
    again = (sent(3, SYN), answered(3.1, SYN | ACK))
    rows = flows_of(*HANDSHAKE, *CLOSE, *again)
    assert (ends(rows), packets(rows)) == (["reused", "input"], [(4, 2), (1, 1)])
    assert rows["connection"].tolist() == [1, 2]
    assert rows["continued"].tolist() == [0, 0]
    assert ends(flows_of(*HANDSHAKE, sent(1, RST), *again)) == ["reused", "input"]


def test_the_other_side_may_reuse_a_closed_connection() -> None:
    rows = flows_of(*HANDSHAKE, *CLOSE, answered(3, SYN), sent(3.1, SYN | ACK))
    assert rows["src_port"].tolist() == [40_000, 80]
    assert packets(rows)[1] == (1, 1)


def test_syn_on_an_open_connection_joins_it() -> None:
    assert packets(flows_of(*HANDSHAKE, sent(1, SYN), *CLOSE[:1], sent(2, SYN))) == [(5, 1)]


def test_icmp_flow_is_cut_when_type_and_code_both_change() -> None:
    def pings(protocol: int, *kinds: tuple[int, int]) -> NDArray[np.void]:
        return flows_of(
            *(sent(n, 0, protocol=protocol, icmp_type=kind, icmp_code=code) for n, (kind, code) in enumerate(kinds))
        )

    for protocol in (ICMP, ICMPV6):
        assert packets(pings(protocol, (8, 0), (0, 0), (8, 1))) == [(3, 0)]
        rows = pings(protocol, (8, 0), (8, 0), (3, 1), (3, 1))
        assert (ends(rows), packets(rows)) == (["icmp", "input"], [(2, 0), (2, 0)])
        assert rows["icmp_type"].tolist() == [8, 3]
        assert rows["icmp_code"].tolist() == [0, 1]
    assert packets(pings(GRE, (8, 0), (3, 1))) == [(2, 0)]


def test_udp_silent_for_over_120_s_starts_anew_while_talking_continues() -> None:
    silent = flows_of(spoke(0), spoke(1), spoke(122), table=FlowTable(expiry=False))
    assert (ends(silent), silent["continued"].tolist(), silent["connection"].tolist()) == (["active", "input"], [0, 0], [1, 2])
    talking = flows_of(spoke(0), spoke(2), spoke(122), table=FlowTable(expiry=False))
    assert (ends(talking), talking["continued"].tolist(), talking["connection"].tolist()) == (
        ["active", "input"],
        [0, 1],
        [1, 1],
    )


def test_other_protocols_start_anew_after_a_cut() -> None:
    for protocol in (ICMP, GRE):
        rows = flows_of(sent(0, 0, protocol=protocol), sent(100, 0, protocol=protocol), answered(121, 0, protocol=protocol))
        assert rows["continued"].tolist() == [0, 0]
        assert rows["src_port"].tolist() == [40_000, 80]


def test_syn_and_ack_first_turns_the_flow_round() -> None:
    (row,) = flows_of(answered(0, SYN | ACK), sent(0.1))
    assert (int(row["src_lo"]), int(row["src_port"]), int(row["first_is_bwd"])) == (HOST, 40_000, 1)
    assert packets(np.array([row])) == [(1, 1)]


def test_host_that_talks_to_itself_is_told_apart_by_the_port() -> None:
    own = {"src": HOST, "dst": HOST}
    rows = flows_of(sent(0, SYN, **own), answered(0.1, SYN | ACK, **own), sent(0.2, **own))
    assert packets(rows) == [(2, 1)]
    rows = flows_of(spoke(0, **own, src_port=7, dst_port=7), spoke(1, **own, src_port=7, dst_port=7))
    assert packets(rows) == [(2, 0)]


def test_flows_differ_by_protocol_ports_and_every_bit_of_their_addresses() -> None:
    others = [{}, {"protocol": 132}, {"src_port": 1}, {"dst_port": 1}]
    others += [{end: address ^ 1 << bit} for end, address in (("src", HOST), ("dst", PEER)) for bit in (0, 31, 63, 64, 127)]
    rows = flows_of(*(sent(0, **other) for other in others), *(sent(1, **other) for other in others))
    assert packets(rows) == [(2, 0)] * len(others)


def test_full_table_ends_the_idlest_flow_and_counts_it() -> None:
    table = FlowTable(flows=3)
    ended = feed(
        table, spoke(0, dst_port=1), spoke(1, dst_port=2), spoke(2, dst_port=3), spoke(3, dst_port=1), spoke(4, dst_port=4)
    )
    assert (ends(ended), ended["dst_port"].tolist()) == (["full"], [2])
    assert (table.live, int(table.ended[END_FULL])) == (3, 1)
    assert sorted(drained(table)["dst_port"].tolist()) == [1, 3, 4]


def test_full_table_compares_the_idlest_of_all_kinds() -> None:
    closed = (sent(0.1), sent(0.2, RST))
    table = FlowTable(flows=3)
    ended = feed(
        table, *closed, sent(0, SYN, dst_port=1), spoke(0.3), spoke(1, dst_port=2), spoke(1, dst_port=3), spoke(1, dst_port=4)
    )
    assert ended["dst_port"].tolist() == [1, 80, 53]
    assert set(ends(ended)) == {"full"}


def test_expire_ends_what_is_due_and_nothing_else() -> None:
    table = FlowTable()
    feed(table, spoke(0), sent(1, SYN), sent(2, dst_port=8), sent(2, RST, dst_port=8), spoke(3, dst_port=7))
    assert len(table.expire(START_US + 6_000_000 - 1)) == 0
    assert ends(table.expire(START_US + 8_000_000)) == ["attempt", "closed"]
    assert ends(table.expire(START_US + 122_000_000)) == ["idle"]
    assert table.live == 1
    assert ends(table.expire(START_US + 10_000_000_000)) == ["idle"]
    assert table.live == 0


def test_flows_that_are_due_together_end_in_the_order_in_which_they_were_due() -> None:
    ended = feed(FlowTable(), spoke(0), sent(118, SYN), sent(116, RST, dst_port=8), sent(116, RST, dst_port=8), bystander(1000))
    assert ends(ended) == ["idle", "closed", "attempt"]


def test_more_flows_than_one_block_holds_can_end_at_once() -> None:
    many = [spoke(0, src=V4_MAPPED + n) for n in range(2 * OUT_ROWS + 5)]
    table = FlowTable()
    feed(table, *many)
    ended = feed(table, bystander(121))
    assert len(ended) == len(many)
    assert len(set(ended["src_lo"].tolist())) == len(many)
    table = FlowTable()
    feed(table, *many)
    assert len(table.expire(START_US + 10**9)) == len(many)
    feed(table, *many)
    assert len(drained(table)) == len(many)


def test_drain_ends_the_idlest_first() -> None:
    table = FlowTable()
    feed(table, sent(0), sent(0.1, RST), spoke(0.2), sent(0.3, SYN, dst_port=1), spoke(0.4, dst_port=2), spoke(0.5))
    rows = drained(table)
    assert set(ends(rows)) == {"input"}
    assert rows["dst_port"].tolist() == [80, 1, 2, 53]
    assert len(table.drain()) == table.live == 0


def test_disorder_of_less_than_a_minute_does_not_move_the_clock() -> None:
    table = FlowTable()
    feed(table, spoke(100), spoke(41), spoke(99))
    assert (table.clock_us, table.steps_back) == (START_US + 100_000_000, 0)


def test_clock_that_is_set_back_is_followed_and_counted() -> None:
    table = FlowTable()
    feed(table, spoke(4000), spoke(0, dst_port=1), spoke(1, dst_port=1))
    assert (table.clock_us, table.steps_back) == (START_US + 1_000_000, 1)
    assert ends(feed(table, bystander(122))) == ["idle"]


@pytest.mark.parametrize("ahead_s", [61.0, 86_400.0, 4e9])
def test_flows_from_before_the_clock_was_set_back_do_not_hold_up_the_others(ahead_s: float) -> None:
    table = FlowTable()
    feed(table, spoke(ahead_s), sent(ahead_s, SYN), sent(ahead_s, RST, dst_port=8), sent(ahead_s, RST, dst_port=8))
    ended = feed(table, spoke(0, dst_port=1), sent(0, SYN, dst_port=2))
    assert sorted(ends(ended)) == ["attempt", "closed", "idle"]
    assert ends(feed(table, bystander(121))) == ["attempt", "idle"]


def test_connection_that_goes_on_while_the_clock_is_set_back_stays_one_flow() -> None:
    busy = (sent(3600), sent(3601), sent(0), sent(1), sent(2))
    assert packets(flows_of(*busy, table=FlowTable(expiry=False))) == [(5, 0)]


def test_stamps_at_both_ends_of_what_captures_can_say_are_taken() -> None:
    ends_of_time = [Packet((2**62 - 1) * sign, HOST, PEER, 1, 2, UDP) for sign in (1, -1, 1, -1)]
    table = FlowTable()
    feed(table, *ends_of_time, sent(0), sent(1))
    drained(table)
    assert table.live == 0
    assert table.packets == 6


def test_rows_of_packets_and_packets_of_rows_are_each_others_inverse() -> None:
    told = [*HANDSHAKE, spoke(3), sent(4, PSH | ACK, payload=3, seq=9, ack=8, window=7, icmp_type=6, icmp_code=5, header=24)]
    assert list(packets_of(rows_of(told))) == told


def test_no_packets_give_no_flows() -> None:
    table = FlowTable()
    assert len(table.feed(rows_of([]))) == 0
    assert len(table.expire(START_US)) == len(table.drain()) == table.live == table.packets == 0


def test_row_that_is_used_again_holds_nothing_of_the_flow_before() -> None:
    def told(table: FlowTable) -> Tree:
        row = read(drained(table)[0])
        return {name: value for name, value in row.items() if name != "connection"}

    used, fresh = FlowTable(flows=1), FlowTable(flows=1)
    feed(
        used,
        *HANDSHAKE,
        sent(0.3, FIN | PSH, payload=5, seq=4, window=9),
        sent(0.4, FIN | PSH, payload=5, seq=4),
        sent(9),
        sent(20),
    )
    feed(used, spoke(100))
    feed(fresh, spoke(100))
    assert told(used) == told(fresh)
