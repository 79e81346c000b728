"""What a flow adds up: squares beyond 64 bits, retransmissions and bulks, each rule as a fact."""

from __future__ import annotations

import numpy as np
from flow_packets import AFTER_US, CLOSE, HANDSHAKE, HOST, PEER, START_US, answered, drained, flows_of, sent, spoke
from naive_flows import Packet

from sensor.flows import FlowTable
from sensor.schema import ACK, PACKET, TCP


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


def test_retransmission_is_noticed_a_hundred_thousand_segments_later() -> None:
    segments = np.concatenate([np.arange(101_000), np.arange(1000)])
    packets = np.zeros(len(segments), PACKET)
    packets["ts_us"] = START_US + 100 * np.arange(len(packets))
    packets["src_lo"], packets["dst_lo"], packets["src_port"], packets["dst_port"] = HOST, PEER, 40_000, 80
    packets["protocol"], packets["tcp_flags"], packets["payload_bytes"], packets["seq"] = TCP, ACK, 100, 100 * segments
    table = FlowTable()
    ended = table.feed(packets)
    assert not len(ended)
    (row,) = drained(table)
    assert row["fwd"]["retransmissions"] == 1000


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
