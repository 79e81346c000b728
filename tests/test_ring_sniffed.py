"""What stands in where there are no rings hears the same frames, and says that it does."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from captures_read import frames_of
from namespaces import Wire, run, wait_until, wire
from ring_traffic import Heard, dropped, flow_of, frame, mixture, write

from sensor.sources.pcap import CaptureSource
from sensor.sources.ring import InterfaceFailed, RingSource
from sensor.sources.sniffed import LiveSource, SniffedSource, open_live

pytestmark = pytest.mark.root


@pytest.fixture
def line() -> Iterator[Wire]:
    with wire() as laid:
        yield laid


@contextmanager
def listening(line: Wire, *interfaces: str, **settings: Any) -> Iterator[Heard]:
    heard = Heard(line.receiver, line.receiver.call(lambda: SniffedSource(interfaces, **settings)))
    try:
        yield heard
    finally:
        heard.finish()
        heard.source.close()


def test_frames_are_those_of_the_file_with_their_tags(line: Wire, tmp_path: Path) -> None:
    capture = write(tmp_path / "sent.pcap", mixture())
    with listening(line, line.far) as heard:
        sent = line.send(capture)
        heard.wait_for(sent)
    want = frames_of(CaptureSource([capture]))
    assert dropped(heard.source) == 0
    assert [(one.data, one.wire_bytes, one.link_type) for one in heard.frames] == [one[1:] for one in want]


def test_silence_gives_empty_blocks_and_stop_hands_over_the_rest(line: Wire, tmp_path: Path) -> None:
    capture = write(tmp_path / "sent.pcap", [frame(n) for n in range(500)])
    source = line.receiver.call(lambda: SniffedSource([line.far], wait_s=0.01))
    blocks = iter(source)
    assert [len(next(blocks).frames) for _ in range(3)] == [0, 0, 0]
    sent = line.send(capture)
    source.stop()
    assert sum(len(block.frames) for block in blocks) == sent
    source.close()
    source.close()


def test_a_reader_that_is_too_slow_loses_only_what_is_counted(line: Wire, tmp_path: Path) -> None:
    capture = write(tmp_path / "sent.pcap", [frame(n, size=1000) for n in range(10_000)])
    source = line.receiver.call(lambda: SniffedSource([line.far], ring_mib=2))
    sent = line.send(capture)
    source.stop()
    heard = Heard(line.receiver, source)
    heard.finish()
    assert len(heard.frames) + dropped(source) == sent
    assert 500 < len(heard.frames) < 5000
    source.close()


def test_an_interface_that_is_deleted_and_made_again_is_heard_again_with_its_filter(line: Wire, tmp_path: Path) -> None:
    capture = write(tmp_path / "sent.pcap", [frame(n, port=443 + n % 2) for n in range(100)])
    line.lay("near1", "far1")
    news: list[tuple[str, str]] = []
    with listening(line, line.far, "far1", filter="port 443", wait_s=0.02, tell=lambda *what: news.append(what)) as heard:
        line.send(capture)
        heard.wait_for(50)
        line.sender.run("ip", "link", "delete", line.near)
        wait_until(lambda: news == [("interface_lost", line.far)], f"the news that it is lost: {news}")
        assert heard.source.counters()["interfaces_up"] == 1
        line.lay(line.near, line.far)
        wait_until(lambda: news[1:] == [("interface_back", line.far)], "the news that it is back")
        line.send(capture)
        line.send(capture, near="near1")
        heard.wait_for(150)
    assert [flow_of(data) for data in heard.bytes] == list(range(0, 100, 2)) * 3
    assert heard.interfaces == [0] * 100 + [1] * 50
    assert heard.source.counters()[f"interfaces_lost.{line.far}"] == 1


@pytest.mark.parametrize(
    ("interfaces", "settings", "told"),
    [
        (("eht0",), {}, "there is no interface 'eht0': there are lo, far0"),
        (("far0",), {"filter": "tcp prot 80"}, "far0: the filter 'tcp prot 80' does not compile: .*syntax error"),
        (("far0",), {"filter": "tcp\0 or udp"}, r"far0: the filter 'tcp\\x00 or udp' does not compile: there is a NUL"),
        (("far0",), {"filter": "tcp \udcff"}, r"far0: the filter 'tcp \\udcff' does not compile: 'utf-8' codec"),
        ((), {}, "name each interface once"),
    ],
)
def test_what_cannot_be_captured_from_is_told_as_by_the_rings(
    line: Wire, interfaces: tuple[str, ...], settings: dict[str, Any], told: str
) -> None:
    with pytest.raises(InterfaceFailed, match=told):
        line.receiver.call(lambda: SniffedSource(interfaces, **settings))
    with pytest.raises(InterfaceFailed, match=told):
        line.receiver.call(lambda: RingSource(interfaces, **settings))


def test_a_missing_capability_is_named() -> None:
    program = "from sensor.sources.sniffed import *\ntry:\n SniffedSource(['lo'])\nexcept InterfaceFailed as e:\n print(e)"
    said = run("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--", sys.executable, "-c", program)
    assert "capturing needs the capability CAP_NET_RAW" in said
    assert len(said.splitlines()) == 1


def test_without_rings_libpcap_is_taken_and_that_is_said(line: Wire, tmp_path: Path) -> None:
    def no_rings(*_: object, **__: object) -> list[RingSource]:
        raise OSError(errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT))

    def broken(*_: object, **__: object) -> list[RingSource]:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    news: list[tuple[str, str]] = []

    def open_one(rings: Callable[..., list[RingSource]]) -> Sequence[LiveSource]:
        return open_live([line.far], 2, rings=rings, tell=lambda *what: news.append(what), block_ms=5)

    (source,) = line.receiver.call(lambda: open_one(no_rings))
    assert isinstance(source, SniffedSource)
    assert news == [
        ("fallback", "no packet socket with a ring (Protocol not available): capturing through libpcap, which is slower")
    ]
    source.close()
    with pytest.raises(OSError, match="Input/output"):
        open_one(broken)


def test_where_there_are_rings_they_are_taken(line: Wire) -> None:
    news: list[tuple[str, str]] = []
    sources = line.receiver.call(lambda: open_live([line.far], 2, tell=lambda *what: news.append(what), ring_mib=8))
    assert [type(source) for source in sources] == [RingSource, RingSource]
    assert news == []
    for source in sources:
        source.close()
