"""Following eight chains of records at once finds exactly what the plain walk finds, in ordinary and in misleading files."""

from __future__ import annotations

import struct
from types import ModuleType

import capture_writer as write
import numpy as np
from captures_read import uncompiled
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sensor.schema import FRAME
from sensor.sources import stride, walk

files = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)

NOW_S = 1_700_000_000


Layout = tuple[int, bool, bool, int, int, int]
Walked = tuple[list[tuple[int, ...]], int, int, int]


def walked(raw: bytes, layout: Layout, stretch_bytes: int, block_frames: int, module: ModuleType = stride) -> Walked:
    """All rows and why the walk ended, and how many chains joined in the best stretch."""
    data = np.frombuffer(raw, np.uint8)
    known = module.strides(stretch_bytes)
    rows: list[tuple[int, ...]] = []
    at = joined = 0
    while True:
        block = np.zeros(block_frames, FRAME)
        count, at, status = module.walk_pcap(data, at, data.size, module.PcapLayout(*layout), known, block)
        joined = max(joined, int(known.state[0]["joined"]))
        if count == 0:
            return rows, at, status, joined
        rows += block[:count].tolist()


def record(size: int, *, seconds: int = NOW_S, body: bytes | None = None, big: bool = False, header_bytes: int = 16) -> bytes:
    head = struct.pack(f"{'>' if big else '<'}IIII", seconds, 5, size, size)
    return head.ljust(header_bytes, b"\0") + (bytes(size) if body is None else body)


@st.composite
def captures(draw: st.DrawFn) -> tuple[bytes, Layout]:
    """Records, some of whose payloads are records themselves, some broken, some far away in time; and their layout."""
    big, nano = draw(st.booleans()), draw(st.booleans())
    layout = (draw(st.sampled_from([16, 24])), big, nano, 0, 1, 0)
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    kinds = draw(st.lists(st.sampled_from(["plain", "plain", "nested", "zeros", "far", "noise"]), min_size=1, max_size=6))
    raw = b""
    for _ in range(draw(st.integers(1, 120))):
        kind = kinds[rng.integers(len(kinds))]
        size = int(rng.choice([0, 14, 60, 300, 500, 1514]))
        seconds = NOW_S + int(rng.integers(-3, 4)) + (10**8 if kind == "far" else 0)
        body = bytes(size) if kind in ("zeros", "far") else rng.integers(0, 256, size, np.uint8).tobytes()
        if kind == "nested":
            fakes = [record(int(rng.integers(1, 90)), big=big, header_bytes=layout[0]) for _ in range(9)]
            body = (bytes(int(rng.integers(0, 40))) + b"".join(fakes))[: int(rng.integers(1, 900))]
        raw += record(len(body), seconds=seconds, body=body, big=big, header_bytes=layout[0])
    ending = draw(st.sampled_from(["", "cut", "long", "noise"]))
    if ending == "cut":
        raw = raw[: -draw(st.integers(1, 30))]
    elif ending == "long":
        raw += record(walk.FRAME_LIMIT + 1, body=bytes(3000), big=big, header_bytes=layout[0])
    elif ending == "noise":
        raw += rng.integers(0, 256, 5000, np.uint8).tobytes()
    return raw, layout


@files
@given(
    capture=captures(),
    stretch_bytes=st.sampled_from([128, 1024, 4096, 16_384, stride.STRETCH_BYTES]),
    block_frames=st.sampled_from([1, 3, 50, 4096]),
)
def test_chains_give_the_rows_and_the_end_of_the_plain_walk(
    capture: tuple[bytes, Layout], stretch_bytes: int, block_frames: int
) -> None:
    raw, layout = capture
    assert walked(raw, layout, stretch_bytes, block_frames)[:3] == walked(raw, layout, 0, 4096)[:3]


@settings(files, max_examples=25)
@given(
    capture=captures(),
    stretch_bytes=st.sampled_from([1024, 4096]),
    flips=st.lists(st.tuples(st.integers(0), st.binary(min_size=1, max_size=4)), max_size=4),
)
def test_nothing_is_read_outside_and_nothing_depends_on_the_compiler(
    capture: tuple[bytes, Layout], stretch_bytes: int, flips: list[tuple[int, bytes]]
) -> None:
    raw, layout = capture
    spoilt = bytearray(raw[:9000])
    for place, new in flips:
        begin = place % len(spoilt)
        spoilt[begin : begin + len(new)] = new[: len(spoilt) - begin]
    plain_stride, _ = uncompiled()
    assert walked(bytes(spoilt), layout, stretch_bytes, 50, plain_stride) == walked(bytes(spoilt), layout, stretch_bytes, 50)


def test_all_chains_join_in_an_ordinary_file_in_every_layout() -> None:
    for header_bytes, big in ((16, False), (24, False), (16, True)):
        layout = (header_bytes, big, False, 0, 1, 0)
        sizes = np.random.default_rng(1).integers(200, 700, 200).tolist()
        raw = b"".join(record(size, header_bytes=header_bytes, big=big) for size in sizes)
        rows, _, status, joined = walked(raw, layout, 32_768, 5)
        assert (len(rows), status, joined) == (200, walk.DONE, stride.CHAINS)


def test_chain_that_begins_at_a_record_inside_a_frame_does_not_join() -> None:
    fakes = b"".join(record(90) for _ in range(80))
    raw = b"".join(record(len(fakes) + 7, body=fakes + bytes(7)) for _ in range(8))
    layout = (16, False, False, 0, 1, 0)
    rows, _, status, joined = walked(raw, layout, 32_768, 3)
    assert (len(rows), status, joined) == (8, walk.DONE, 1)


def test_places_are_forgotten_when_the_file_has_shrunk() -> None:
    raw = b"".join(record(400) for _ in range(60))
    data, known = np.frombuffer(raw, np.uint8), stride.strides(16_384)
    layout = stride.PcapLayout(16, False, False, 0, 1, 0)
    block = np.zeros(5, FRAME)
    _, at, _ = stride.walk_pcap(data, 0, data.size, layout, known, block)
    assert known.state[0]["joined"] > 1
    count, at, status = stride.walk_pcap(data, at, 416 * 7 + 100, layout, known, block)
    assert (count, at, status) == (2, 416 * 7, walk.CUT)


def test_frames_stay_inside_the_file_when_their_lengths_change_after_they_were_met() -> None:
    raw = bytearray(b"".join(record(400) for _ in range(60)))
    data, known = np.frombuffer(raw, np.uint8).view(), stride.strides(16_384)
    data.flags.writeable = False
    layout = stride.PcapLayout(16, False, False, 0, 1, 0)
    block = np.zeros(5, FRAME)
    _, at, _ = stride.walk_pcap(data, 0, data.size, layout, known, block)
    for begin in range(0, len(raw), 416):
        raw[begin + 8 : begin + 12] = struct.pack("<I", walk.FRAME_LIMIT)
    count, _, _ = stride.walk_pcap(data, at, data.size, layout, known, block)
    assert count == 5
    assert (block["captured_bytes"] == 400).all()


def test_stamps_near_zero_and_empty_frames_are_walked_all_the_same() -> None:
    raw = b"".join(record(size, seconds=n // 50) for n, size in enumerate([0, 300, 0, 0, 1000] * 40))
    layout = (16, False, False, 0, 1, 0)
    assert walked(raw, layout, 8192, 7)[:3] == walked(raw, layout, 0, 4096)[:3]
    assert write.pcap_record(0, 5, bytes(9)) == record(9, seconds=0)
