"""When flows begin, end, are cut and go on: each rule of the flow table as a fact, with the packets that show it."""

from __future__ import annotations

import numpy as np
import pytest
from naive_accumulate import Tree, read
from naive_flows import Packet, packets_of, rows_of
from numpy.typing import NDArray

from sensor.flows import OUT_ROWS, FlowTable
from sensor.schema import ACK, END_FULL, ENDS, FIN, FLOW, GRE, ICMP, ICMPV6, PSH, RST, SYN, TCP, UDP, V4_MAPPED

START_US = 1_700_000_000_000_000
HOST, PEER = V4_MAPPED | 0x0A00_0001, V4_MAPPED | 0xC633_6401
BYSTANDER = V4_MAPPED | 99
AFTER_US = 1
"""The shortest time beyond a limit."""


def sent(at_s: float, flags: int = ACK, *, plus_us: int = 0, **more: int) -> Packet:
    """A packet of the host to the peer, by default a bare TCP segment to port 80."""
    told = {"protocol": TCP, "src": HOST, "dst": PEER, "src_port": 40_000, "dst_port": 80, **more}
    return Packet(START_US + round(at_s * 1e6) + plus_us, flags=flags, **told)


def answered(at_s: float, flags: int = ACK, *, plus_us: int = 0, **more: int) -> Packet:
    """A packet of the peer to the host, of the same flow."""
    told = {"protocol": TCP, "src": PEER, "dst": HOST, "src_port": 80, "dst_port": 40_000, **more}
    return Packet(START_US + round(at_s * 1e6) + plus_us, flags=flags, **told)


def spoke(at_s: float, *, plus_us: int = 0, **more: int) -> Packet:
    """A datagram of the host to the peer."""
    told = {"protocol": UDP, "src_port": 5000, "dst_port": 53, "header": 8, **more}
    return sent(at_s, 0, plus_us=plus_us, **told)


def bystander(at_s: float, *, plus_us: int = 0) -> Packet:
    """A packet between others: all that it does is to let time pass."""
    return spoke(at_s, plus_us=plus_us, src=BYSTANDER, dst=V4_MAPPED | 98)


HANDSHAKE = (sent(0.0, SYN), answered(0.1, SYN | ACK), sent(0.2))
CLOSE = (sent(1.0, FIN | ACK), answered(1.1, FIN | ACK), sent(1.2))


def feed(table: FlowTable, *packets: Packet) -> NDArray[np.void]:
    """Flows that end while the packets are fed: a copy."""
    ended: NDArray[np.void] = table.feed(rows_of(packets)).copy()
    return ended


def drained(table: FlowTable) -> NDArray[np.void]:
    """All that is left."""
    parts = [np.zeros(0, FLOW)]
    while len(part := table.drain()):
        parts.append(part.copy())
    return np.concatenate(parts)


def flows_of(*packets: Packet, table: FlowTable | None = None) -> NDArray[np.void]:
    """All flows of the packets but the bystander's."""
    table = table or FlowTable()
    rows = np.concatenate([feed(table, *packets), drained(table)])
    others: NDArray[np.void] = rows[rows["src_lo"] != BYSTANDER]
    return others


def ends(rows: NDArray[np.void]) -> list[str]:
    return [ENDS[end] for end in rows["end"]]


def packets(rows: NDArray[np.void]) -> list[tuple[int, int]]:
    """Packets of (source, destination) of each flow."""
    return [(int(row["fwd"]["packets"]), int(row["bwd"]["packets"])) for row in rows]


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


def test_sums_of_squares_stay_exact_beyond_64_bits() -> None:
    hours = [0, 5_000_000_001, 2**33, 86_400_000_000 * 365, 3 * 2**52]  # the second is 83 minutes
    times = [sum(hours[: n + 1]) for n in range(len(hours))]
    table = FlowTable(active_s=2e10, expiry=False)
    (row,) = flows_of(*(spoke(0, plus_us=time) for time in times), table=table)
    square = sum(gap * gap for gap in hours)
    assert square > 1 << 100
    for gap in (row["gap"], row["fwd"]["gap"], row["idle"]):
        assert int(gap["square_lo"]) + (int(gap["square_hi"]) << 64) == square


def test_carry_of_the_lower_half_is_not_lost() -> None:
    gaps = [2**32 - 1] * 5  # each square is just below 2^64
    times = [sum(gaps[:n]) for n in range(len(gaps) + 1)]
    (row,) = flows_of(*(spoke(0, plus_us=time) for time in times), table=FlowTable(active_s=1e9, expiry=False))
    assert int(row["gap"]["square_lo"]) + (int(row["gap"]["square_hi"]) << 64) == 5 * (2**32 - 1) ** 2


def repeats(*segments: Packet, table: FlowTable | None = None) -> list[tuple[int, int]]:
    rows = flows_of(*segments, table=table)
    return [(int(row["fwd"]["retransmissions"]), int(row["bwd"]["retransmissions"])) for row in rows]


def test_segment_seen_before_is_a_retransmission() -> None:
    data = [sent(n, seq=100 * n, ack=1, payload=100) for n in range(4)]
    assert repeats(*data) == [(0, 0)]
    assert repeats(*data, data[1]._replace(ts_us=START_US + 5_000_000)) == [(1, 0)]
    assert repeats(*data, *data[1:]) == [(3, 0)]


def test_segment_that_differs_in_anything_is_none() -> None:
    one = sent(0, seq=5, ack=5, payload=5, window=5)
    others = [one._replace(**{name: value}) for name in ("seq", "ack", "payload", "window") for value in (4, 6)]
    assert repeats(one, *others) == [(0, 0)]


def test_equal_segments_of_both_sides_are_no_retransmission() -> None:
    assert repeats(sent(0, seq=1), answered(0, seq=1), sent(1, seq=2), answered(1, seq=2)) == [(0, 0)]


def test_sequence_numbers_may_wrap() -> None:
    data = [sent(n, seq=(2**32 - 200 + 100 * n) % 2**32, payload=100) for n in range(4)]
    assert repeats(*data) == [(0, 0)]
    assert repeats(*data, data[1], data[3]) == [(2, 0)]


def test_retransmission_over_a_cut_is_counted_in_the_later_row() -> None:
    data = [sent(n, seq=100 * n, payload=100) for n in range(4)]
    late = [packet._replace(ts_us=packet.ts_us + 121_000_000) for packet in data]
    assert repeats(*data, sent(60), *late) == [(0, 0), (4, 0)]


def bulks(*packets: Packet) -> list[tuple[int, ...]]:
    """Of each side: bulks, their packets, payload bytes and microseconds."""
    (row,) = flows_of(*packets)
    names = ("bulk_count", "bulk_packets", "bulk_bytes", "bulk_us")
    return [tuple(int(side[name]) for name in names) for side in (row["fwd"], row["bwd"])]


def test_four_payload_packets_without_a_second_between_them_are_a_bulk() -> None:
    run = [sent(n / 10, payload=100) for n in range(6)]
    assert bulks(*run[:3]) == [(0, 0, 0, 0)] * 2
    assert bulks(*run[:4])[0] == (1, 4, 400, 300_000)
    assert bulks(*run)[0] == (1, 6, 600, 500_000)


def test_gap_of_over_a_second_or_an_answer_with_payload_ends_a_bulk() -> None:
    run = [sent(n, payload=100) for n in range(4)]
    assert bulks(*run)[0] == (1, 4, 400, 3_000_000)
    late = [packet._replace(ts_us=packet.ts_us + AFTER_US) for packet in run[2:]]
    assert bulks(*run[:2], *late)[0] == (0, 0, 0, 0)
    assert bulks(*run[:2], answered(1.5, payload=1), *run[2:])[0] == (0, 0, 0, 0)
    assert bulks(*run[:2], answered(1.5), *run[2:])[0] == (1, 4, 400, 3_000_000)
    assert bulks(run[0], answered(0, payload=1), *run[1:])[0] == (1, 4, 400, 3_000_000)


def test_both_sides_have_bulks_of_their_own() -> None:
    both = [*(sent(n / 10, payload=5) for n in range(4)), *(answered(5 + n / 10, payload=7) for n in range(5))]
    assert bulks(*both) == [(1, 4, 20, 300_000), (1, 5, 35, 400_000)]
    assert bulks(*both, *(packet._replace(ts_us=packet.ts_us + 20_000_000) for packet in both))[1] == (2, 10, 70, 800_000)


def test_another_connection_on_the_same_ports_repeats_nothing() -> None:
    once = [*HANDSHAKE, *CLOSE]
    again = [packet._replace(ts_us=packet.ts_us + 3_000_000) for packet in once]
    assert repeats(*once) == repeats(*again)
    assert repeats(*once, *again) == repeats(*once) * 2


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
