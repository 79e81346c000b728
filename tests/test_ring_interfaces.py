"""Live capture from several interfaces, by several workers, and from interfaces that go away and come back."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from namespaces import PATIENCE_S, Namespace, Wire, wait_until, wire
from ring_traffic import Heard, dropped, flow_of, frame, listening, write
from scapy.layers.inet import IP, UDP, fragment
from scapy.layers.l2 import Ether

from sensor.sources.ring import FanoutGroups, InterfaceFailed, RingSource, fanned_out

pytestmark = pytest.mark.root

SMALL_MIB = 8


@pytest.fixture
def line() -> Iterator[Wire]:
    with wire() as laid:
        yield laid


@pytest.fixture
def tap(line: Wire) -> Wire:
    """Two wires, as from a tap: what goes one way on the first, the answers on the second."""
    line.lay("near1", "far1")
    return line


class News(list[tuple[str, str]]):
    """What a source told of its interfaces."""

    def __call__(self, event: str, interface: str) -> None:
        self.append((event, interface))

    def wait_for(self, count: int) -> None:
        wait_until(lambda: len(self) == count, f"{count} news of {self}")


@contextmanager
def sharing(space: Namespace, workers: int, *interfaces: str, **settings: Any) -> Iterator[list[Heard]]:
    """Several workers that hear the interfaces, for the time of the block."""
    sources = space.call(lambda: fanned_out(interfaces, workers, ring_mib=SMALL_MIB, **settings))
    heard = [Heard(space, source) for source in sources]
    try:
        yield heard
    finally:
        for one in heard:
            one.finish()
            one.source.close()


def wait_for_all(heard: Sequence[Heard], frames: int) -> None:
    wait_until(lambda: sum(len(one.frames) + dropped(one.source) for one in heard) >= frames, f"{frames} frames")


@pytest.mark.slow
def test_an_interface_that_goes_down_and_comes_up_is_told_once_each_and_heard_again(line: Wire, tmp_path: Path) -> None:
    capture = write(tmp_path / "sent.pcap", [frame(n) for n in range(100)])
    news = News()
    with listening(line.receiver, line.far, tell=news, wait_s=0.02) as heard:
        for turn in range(1, 3):
            line.send(capture)
            heard.wait_for(100 * (2 * turn - 1))
            line.receiver.run("ip", "link", "set", line.far, "down")
            news.wait_for(2 * turn - 1)
            assert heard.source.counters()["interfaces_up"] == 0
            line.receiver.run("ip", "link", "set", line.far, "up")
            news.wait_for(2 * turn)
            line.send(capture)
            heard.wait_for(100 * 2 * turn)
    assert news == [("interface_lost", line.far), ("interface_back", line.far)] * 2
    assert [flow_of(data) for data in heard.bytes] == list(range(100)) * 4
    counters = heard.source.counters()
    assert (counters[f"interfaces_lost.{line.far}"], counters["interfaces_up"], dropped(heard.source)) == (2, 1, 0)


def test_an_interface_that_is_deleted_and_made_again_is_heard_again_with_its_filter(line: Wire, tmp_path: Path) -> None:
    capture = write(tmp_path / "sent.pcap", [frame(n, port=443 + n % 2) for n in range(100)])
    news = News()
    with listening(line.receiver, line.far, tell=news, wait_s=0.02, filter="port 443", ring_mib=SMALL_MIB) as heard:
        line.send(capture)
        heard.wait_for(50)
        line.sender.run("ip", "link", "delete", line.near)
        news.wait_for(1)
        line.lay(line.near, line.far)
        news.wait_for(2)
        assert "promiscuity 1" in line.receiver.run("ip", "-d", "link", "show", line.far)
        line.send(capture)
        heard.wait_for(100)
    assert news == [("interface_lost", line.far), ("interface_back", line.far)]
    assert [flow_of(data) for data in heard.bytes] == list(range(0, 100, 2)) * 2
    assert heard.source.counters()[f"interfaces_lost.{line.far}"] == 1


@pytest.mark.slow
def test_a_lost_interface_is_looked_for_while_another_one_is_busy(tap: Wire, tmp_path: Path) -> None:
    busy = write(tmp_path / "busy.pcap", [frame(n) for n in range(1000)])
    capture = write(tmp_path / "sent.pcap", [frame(5000 + n) for n in range(10)])
    news = News()
    with listening(tap.receiver, tap.far, "far1", tell=news) as heard:
        sending = tap.sender.begin(lambda: tap.send(busy, "--pps=4000", "--loop=24", near="near1"))
        heard.wait_for(100)
        tap.sender.run("ip", "link", "delete", tap.near)
        news.wait_for(1)
        tap.lay(tap.near, tap.far)
        news.wait_for(2)
        assert not sending.done()
        tap.send(capture)
        sent = sending.result(PATIENCE_S)
        heard.wait_for(sent + 10)
    assert dropped(heard.source) == 0
    flows = [flow_of(data) for data in heard.bytes]
    assert [flow for flow in flows if flow < 5000] == [*range(1000)] * 24
    assert [flow for flow in flows if flow >= 5000] == [*range(5000, 5010)]


def test_an_interface_that_is_down_at_first_is_waited_for(line: Wire, tmp_path: Path) -> None:
    capture = write(tmp_path / "sent.pcap", [frame(n) for n in range(100)])
    line.receiver.run("ip", "link", "set", line.far, "down")
    with pytest.raises(InterfaceFailed, match="does not compile"):
        line.receiver.call(lambda: RingSource([line.far], filter="tcp and and", ring_mib=SMALL_MIB))
    news = News()
    with listening(line.receiver, line.far, tell=news, wait_s=0.02, filter="tcp", ring_mib=SMALL_MIB) as heard:
        assert news == [("interface_lost", line.far)]
        wait_until(lambda: heard.empty > 2, "an empty block")
        line.receiver.run("ip", "link", "set", line.far, "up")
        news.wait_for(2)
        line.send(capture)
        heard.wait_for(100)
    assert len(heard.frames) == 100


def test_two_halves_of_a_tap_come_in_the_order_of_their_stamps(tap: Wire) -> None:
    """Blocks of the rings are closed at different times: without merging, dozens of frames of one half would come first."""
    pairs = 2000
    with listening(tap.receiver, tap.far, "far1", ring_mib=SMALL_MIB) as heard:

        def send() -> None:
            with (
                socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out,
                socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as back,
            ):
                out.bind((tap.near, 0))
                back.bind(("near1", 0))
                for flow in range(pairs):
                    out.send(frame(flow))
                    back.send(frame(flow, back=True))

        tap.sender.begin(send).result(PATIENCE_S)
        heard.wait_for(2 * pairs)
    assert heard.interfaces == [0, 1] * pairs
    assert [flow_of(data) for data in heard.bytes] == [flow for flow in range(pairs) for _ in range(2)]


def test_one_half_of_a_tap_that_is_silent_does_not_keep_the_other(tap: Wire, tmp_path: Path) -> None:
    capture = write(tmp_path / "sent.pcap", [frame(n) for n in range(100)])
    with listening(tap.receiver, tap.far, "far1", ring_mib=SMALL_MIB) as heard:
        tap.send(capture)
        heard.wait_for(100)
        tap.send(capture, near="near1")
        heard.wait_for(200)
    assert heard.interfaces == [0] * 100 + [1] * 100


def exchanges(count: int) -> tuple[list[bytes], list[bytes]]:
    """Frames of flows, and the answers: both families, some tagged."""
    kinds: list[Callable[[int, bool], bytes]] = [
        lambda flow, back: frame(flow, back=back),
        lambda flow, back: frame(flow, back=back, protocol=17),
        lambda flow, back: frame(flow, back=back, v6=True),
    ]
    asked = [kinds[flow % 3](flow, False) for flow in range(count)]
    return asked, [kinds[flow % 3](flow, True) for flow in range(count)]


def test_two_workers_share_the_flows_and_each_packet_is_heard_once(line: Wire, tmp_path: Path) -> None:
    asked, answered = exchanges(1000)
    frames = [data for pair in zip(asked, answered, strict=True) for data in pair]
    capture = write(tmp_path / "sent.pcap", frames)
    with sharing(line.receiver, 2, line.far) as heard, sharing(line.receiver, 2, line.far) as others:
        sent = line.send(capture)
        wait_for_all(heard, sent)
        wait_for_all(others, sent)
    for both in (heard, others):
        assert sum(dropped(one.source) for one in both) == 0
        assert sorted(data for one in both for data in one.bytes) == sorted(frames)
        flows = [{flow_of(data) for data in one.bytes} for one in both]
        assert not flows[0] & flows[1]
        assert min(map(len, flows)) > 300


@pytest.mark.slow
def test_the_answers_on_a_taps_other_half_are_heard_by_the_same_worker_after_it_was_away_too(tap: Wire, tmp_path: Path) -> None:
    asked, answered = exchanges(300)
    captures = [(tap.near, write(tmp_path / "asked.pcap", asked)), ("near1", write(tmp_path / "answered.pcap", answered))]
    news = News()
    with sharing(tap.receiver, 3, tap.far, "far1", tell=news, wait_s=0.02) as heard:
        for turn in range(1, 4):
            for near, capture in captures:
                tap.send(capture, near=near)
            wait_for_all(heard, 600 * turn)
            halves = [
                [{flow_of(data) for data, half in zip(one.bytes, one.interfaces, strict=True) if half == n} for n in (0, 1)]
                for one in heard
            ]
            assert all(first == second for first, second in halves), turn
            assert all(len(first) > 50 for first, _ in halves)
            if turn == 1:
                tap.receiver.run("ip", "link", "set", tap.far, "down")
                news.wait_for(1)
                tap.receiver.run("ip", "link", "set", tap.far, "up")
            if turn == 2:
                tap.sender.run("ip", "link", "delete", "near1")
                news.wait_for(3)
                tap.lay("near1", "far1")
            wait_until(lambda: all(len(one.source.listening) == 2 for one in heard), "both halves, at all workers")
    assert sum(len(one.frames) for one in heard) == 1800
    assert [event for event, _ in news] == ["interface_lost", "interface_back"] * 2
    assert [one.source.counters().get("interfaces_up") for one in heard] == [2, None, None]


def test_all_fragments_of_a_packet_are_heard_by_one_worker_as_they_were_sent(line: Wire, tmp_path: Path) -> None:
    packets = [IP(src=f"10.0.{n % 250}.1", dst="10.1.0.1", id=n) / UDP(sport=n, dport=53) / bytes(3000) for n in range(200)]
    pieces = [
        bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / piece)
        for packet in packets
        for piece in fragment(packet, 1000)
    ]
    capture = write(tmp_path / "sent.pcap", pieces)
    with sharing(line.receiver, 2, line.far) as heard:
        wait_for_all(heard, line.send(capture))
    numbers = [{data[18:20] for data in one.bytes} for one in heard]
    assert sorted(data for one in heard for data in one.bytes) == sorted(pieces)
    assert not numbers[0] & numbers[1]
    assert min(map(len, numbers)) > 50


def test_workers_without_common_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="workers share their groups"):
        RingSource(["lo"], workers=2, worker=0)
    with pytest.raises(ValueError, match="numbered from 0"):
        RingSource(["lo"], workers=2, worker=2, groups=FanoutGroups())


def test_nothing_stays_open_when_one_of_several_interfaces_cannot_be_used(line: Wire) -> None:
    def packet_sockets() -> int:
        return len(line.receiver.run("cat", "/proc/net/packet").splitlines()) - 1

    for attempt in (
        lambda: fanned_out([line.far, "nothing0"], 2),
        lambda: fanned_out([line.far], 2, filter="no filter"),
    ):
        with pytest.raises(InterfaceFailed):
            line.receiver.call(attempt)
    assert packet_sockets() == 0
    with sharing(line.receiver, 2, line.far):
        assert packet_sockets() == 2
    assert packet_sockets() == 0
