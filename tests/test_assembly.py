"""What a reload changes in an assembly whose flows live on: time-outs at once, the rest at the next start, which is said."""

from __future__ import annotations

import pytest
from frames import MAC_1, MAC_2, Frame, block_of
from naive_flows import Packet, rows_of
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from sensor import config
from sensor.assembly import Assembly
from sensor.flows import FlowTable
from sensor.schema import FrameBlock

SECOND = 1_000_000


def settings(*changes: str) -> config.Settings:
    return config.load(None, ["flows.table=4096", *changes])


def datagram(at_s: int, port: int) -> FrameBlock:
    """One UDP datagram to a port."""
    frame = Ether(src=MAC_1, dst=MAC_2) / IP(src="192.0.2.1", dst="192.0.2.2") / UDP(sport=4000, dport=port) / b"x"
    return block_of([Frame(bytes(frame), ts_us=at_s * SECOND)])


def ended(assembly: Assembly) -> int:
    return sum(number for name, number in assembly.counters().items() if name.startswith("flows_ended"))


@pytest.mark.parametrize("how", ["packet", "clock"])
def test_a_shorter_time_out_ends_flows_that_live_already(how: str) -> None:
    changed, left = Assembly(settings()), Assembly(settings())
    for assembly in (changed, left):
        list(assembly.feed(datagram(1000, 53)))
    assert changed.adjust(settings("flows.idle_s=10")) == []
    for assembly in (changed, left):
        if how == "packet":
            list(assembly.feed(datagram(1020, 123)))
        else:
            list(assembly.expire(1020 * SECOND))
    assert (ended(changed), ended(left)) == (1, 0)


def test_a_longer_time_out_keeps_flows_that_live_already() -> None:
    changed, left = Assembly(settings()), Assembly(settings())
    for assembly in (changed, left):
        list(assembly.feed(datagram(1000, 53)))
    changed.adjust(settings("flows.idle_s=1000"))
    for assembly in (changed, left):
        list(assembly.feed(datagram(1500, 123)))
    assert (ended(changed), ended(left)) == (0, 1)
    list(changed.feed(datagram(2501, 124)))
    assert ended(changed) == 2


def test_every_time_out_is_taken_over() -> None:
    """As many flows, of the same bounds, as of a table that had these from the start."""
    packets = [Packet(n * SECOND, 1, 2, 4000, 80, 6, flags=0x10 | 2 * (n == 0) | (n == 30)) for n in range(0, 90, 5)]
    packets += [Packet(n * SECOND + 7, 3, 4 + n, 4000, 80, 6, flags=2) for n in range(0, 90, 9)]
    packets.sort()
    born = FlowTable(flows=64, seed=1, idle_s=40, closed_s=11, attempt_s=17, active_s=25)
    turned = FlowTable(flows=64, seed=1)
    turned.limit(idle_s=40, closed_s=11, attempt_s=17, active_s=25)
    rows = rows_of(packets)
    assert born.feed(rows).tobytes() == turned.feed(rows).tobytes()
    assert born.ended.tolist() == turned.ended.tolist()
    assert born.ended.sum() > 3


def test_what_waits_for_the_next_start_is_named() -> None:
    assembly = Assembly(settings())
    assert assembly.adjust(settings()) == []
    changed = settings(
        "flows.table=100", "flows.close=first-fin", "flows.active_s=60", "model.batch_flows=9", "decode.fragments=64"
    )
    assert assembly.adjust(changed) == ["decode.fragments", "flows.table", "flows.close", "model.batch_flows"]
    as_that_tool = settings("statistics.rules=cicflowmeter")
    assert assembly.adjust(as_that_tool) == ["decode.tunnels", "decode.payload", "statistics.rules"]
