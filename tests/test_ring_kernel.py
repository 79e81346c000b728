"""The walk over the kernel's rings, in rings made by hand: every frame once, in order, and never a byte outside a block."""

from __future__ import annotations

import functools
import importlib.util
import struct
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import captures_read
import numba
import numpy as np
import pytest
from guarded import Guarded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import sensor.kernels
from sensor.schema import FRAME
from sensor.sources import ring_kernel
from sensor.sources.ring_kernel import BLOCK_HEADER_BYTES, RING, STATUS, USER
from sensor.sources.walk import FRAME_LIMIT

BLOCK_BYTES, MAC = 2048, 86
NOW_S = 1_700_000_000
HOUR_US = 3_600_000_000
FIELDS = (0, 4, 8, 12, 16, 20, 24, 40)

Bytes = NDArray[np.uint8]
Rings = NDArray[np.void]
Row = tuple[Any, ...]


class Sent(NamedTuple):
    us: int
    data: bytes
    tci: int | None = None
    tpid: int | None = None
    wire_bytes: int = 0


def header(frame: Sent, following: int) -> bytes:
    status = 1 | (0 if frame.tci is None else 0x10) | (0 if frame.tpid is None else 0x40)
    seconds, us = divmod(frame.us, 1_000_000)
    size = len(frame.data)
    return struct.pack(
        "<IIIIIIHHIIHH8x",
        *(following, NOW_S + seconds, us * 1000 + 999, size, max(size, frame.wire_bytes), status, MAC, MAC + 14),
        *(0, frame.tci or 0, frame.tpid or 0, 0),
    )


def block_of(frames: Sequence[Sent], status: int = USER) -> bytes:
    body = b""
    for number, frame in enumerate(frames):
        room = -(-(MAC + len(frame.data)) // 8) * 8
        last = number == len(frames) - 1
        body += (header(frame, 0 if last else room).ljust(MAC, b"\xee") + frame.data).ljust(room, b"\xee")
    newest = frames[-1].us if frames else 0
    stamp = (NOW_S + newest // 1_000_000, newest % 1_000_000 * 1000)
    head = struct.pack("<IIIIIIQIIII", 1, 0, status, len(frames), BLOCK_HEADER_BYTES, len(body), 1, 0, 0, *stamp)
    assert len(head) == BLOCK_HEADER_BYTES
    return (head + body).ljust(BLOCK_BYTES, b"\xee")


def lay(*rings: Sequence[Sequence[Sent]], blocks: int = 8) -> tuple[Bytes, Rings]:
    """Rings of some full blocks; the others are the kernel's."""
    raw = b""
    rows = np.zeros(len(rings), RING)
    for number, full in enumerate(rings):
        rows[number] = (len(raw), BLOCK_BYTES, blocks, 1, number, 1, *[0] * 8)
        raw += b"".join(map(block_of, full)) + bytes((blocks - len(full)) * BLOCK_BYTES)
    return np.frombuffer(bytearray(raw), np.uint8), rows


def walk(
    data: Bytes, rings: Rings, *, most: int = 50, hold_us: int = 0, module: ModuleType = ring_kernel
) -> list[tuple[Any, ...]]:
    """All rows that can be had, with the frames' bytes; blocks are given back in between."""
    found: list[Row] = []
    frames = np.zeros(most, FRAME)
    while count := module.walk_rings(data, rings, frames, hold_us):
        for row in frames[:count].tolist():
            assert 0 <= row[1] <= row[1] + row[2] <= len(data)
            found.append((row[0] - NOW_S * 1_000_000, row[5], bytes(data[row[1] : row[1] + row[2]]), *row[3:5], row[6]))
        module.give_back(data, rings)
        assert len(found) < 10_000
    module.give_back(data, rings)
    return found


@functools.cache
def uncompiled() -> ModuleType:
    """The kernel as plain Python."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(numba.config, "DISABLE_JIT", 1)
        for name in ("loop", "part"):
            patched.setattr(sensor.kernels, name, lambda function: function)
        patched.setattr(sensor.kernels, "prefetch_read", lambda data, at, _: data[int(at)])
        patched.setattr(sensor.kernels, "load32", captures_read.load32)
        spec = importlib.util.spec_from_file_location("plain_ring_kernel", ring_kernel.__file__)
        assert spec is not None
        assert spec.loader is not None
        plain = importlib.util.module_from_spec(spec)
        sys.modules["plain_ring_kernel"] = plain
        spec.loader.exec_module(plain)
        return plain


def payload(seed: int, size: int) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8).tobytes()


@st.composite
def full_blocks(draw: st.DrawFn) -> list[list[Sent]]:
    """Blocks of one interface, whose stamps rise."""
    clock = draw(st.integers(0, 1000))
    blocks = []
    for _ in range(draw(st.integers(0, 7))):
        block = []
        for _ in range(draw(st.integers(1, 8))):
            clock += draw(st.integers(0, 50))
            tci = draw(st.sampled_from([None, None, 0, 5, 0xEFFF]))
            tpid = None if tci is None else draw(st.sampled_from([None, 0x88A8]))
            size = draw(st.sampled_from([0, 11, 12, 60, 140]))
            block.append(Sent(clock, payload(draw(st.integers(0, 99)), size), tci, tpid, draw(st.sampled_from([0, 3000]))))
        blocks.append(block)
    return blocks


def expected(frame: Sent, number: int) -> Row:
    data, wire = frame.data, max(len(frame.data), frame.wire_bytes)
    if frame.tci is not None and len(data) >= 12:
        data, wire = data[:12] + struct.pack(">HH", frame.tpid or 0x8100, frame.tci) + data[12:], wire + 4
    return frame.us, number, data, wire, 1, 0


@settings(deadline=None, max_examples=60)
@given(rings=st.lists(full_blocks(), min_size=1, max_size=3), most=st.sampled_from([1, 3, 50]))
def test_every_frame_comes_once_with_its_bytes_and_its_tag_in_order(rings: list[list[list[Sent]]], most: int) -> None:
    data, state = lay(*rings, blocks=16)
    got = walk(data, state, most=most)
    want = [[expected(frame, number) for block in ring for frame in block] for number, ring in enumerate(rings)]
    for number, frames in enumerate(want):
        assert [row for row in got if row[1] == number] == frames
    assert [row[0] for row in got] == sorted(row[0] for row in got)
    assert (state["broken"] == 0).all()
    for number, ring in enumerate(rings):
        begins = [(number * 16 + place) * BLOCK_BYTES + STATUS for place in range(len(ring))]
        assert [data[begin] for begin in begins] == [0] * len(ring)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    rings=st.lists(full_blocks(), min_size=1, max_size=2),
    most=st.sampled_from([1, 50]),
    hold_us=st.sampled_from([0, 30]),
    flips=st.lists(
        st.tuples(st.integers(0), st.sampled_from([0, 4, 8, 12, 16, 20, 24, 40]), st.integers(0, 2**32 - 1)), max_size=12
    ),
)
def test_broken_headers_lead_nowhere_outside_and_nothing_depends_on_the_compiler(
    rings: list[list[list[Sent]]], most: int, hold_us: int, flips: list[tuple[int, int, int]]
) -> None:
    data, state = lay(*rings)
    words = data.view("<u4")
    for place, field, value in flips:  # in the headers of blocks and of their first frames
        begin = place % (len(data) // BLOCK_BYTES) * BLOCK_BYTES + place // 64 % 2 * BLOCK_HEADER_BYTES
        words[(begin + field) // 4] = value >> place % 32
    plain_data, plain_state = data.copy(), state.copy()
    got = walk(data, state, most=most, hold_us=hold_us)
    guarded = walk(plain_data.view(Guarded), plain_state.view(Guarded), most=most, hold_us=hold_us, module=uncompiled())
    assert got == guarded
    assert (data == plain_data).all()
    assert state.tolist() == plain_state.tolist()


def three(begin: int) -> list[Sent]:
    return [Sent(begin + n, payload(n, 60)) for n in range(3)]


@pytest.mark.parametrize(
    ("field", "value", "frames"),
    [
        (BLOCK_HEADER_BYTES + ring_kernel.NEXT, BLOCK_BYTES, 1),
        (BLOCK_HEADER_BYTES + ring_kernel.NEXT, 0, 1),
        (BLOCK_HEADER_BYTES + ring_kernel.NEXT, 0xFFFF_FFF0, 1),
        (BLOCK_HEADER_BYTES + ring_kernel.CAPTURED, BLOCK_BYTES, 0),
        (BLOCK_HEADER_BYTES + ring_kernel.MAC, 10, 0),
        (BLOCK_HEADER_BYTES + ring_kernel.MAC, 0xFFFF, 0),
        (ring_kernel.FIRST, 0, 0),
        (ring_kernel.FIRST, BLOCK_BYTES - 47, 0),
        (ring_kernel.FRAMES, 99, 3),
    ],
)
def test_a_header_that_leads_outside_its_block_ends_it_and_is_counted(field: int, value: int, frames: int) -> None:
    data, state = lay([three(0), three(10)])
    data[field : field + 4] = np.frombuffer(struct.pack("<I", value), np.uint8)
    assert [row[0] for row in walk(data, state)] == [*[0, 1, 2][:frames], 10, 11, 12]
    assert state["broken"].tolist() == [1]


def test_a_block_without_frames_is_given_back() -> None:
    data, state = lay([[], three(5)])
    assert [row[0] for row in walk(data, state)] == [5, 6, 7]
    assert data[STATUS] == 0


def test_blocks_stay_the_readers_until_they_are_given_back() -> None:
    data, state = lay([three(0), three(10), three(20)])
    frames = np.zeros(4, FRAME)
    assert ring_kernel.walk_rings(data, state, frames, 0) == 4
    assert (data[STATUS], data[BLOCK_BYTES + STATUS]) == (USER, USER)
    ring_kernel.give_back(data, state)
    assert (data[STATUS], data[BLOCK_BYTES + STATUS]) == (0, USER)


def test_a_ring_of_which_every_block_is_read_and_none_given_back_is_not_read_again() -> None:
    data, state = lay([three(10 * n) for n in range(4)], blocks=4)
    frames = np.zeros(50, FRAME)
    assert ring_kernel.walk_rings(data, state, frames, 0) == 12
    assert ring_kernel.walk_rings(data, state, frames, 0) == 0
    ring_kernel.give_back(data, state)
    assert not data[STATUS::BLOCK_BYTES].any()


def test_the_walk_goes_round_the_ring() -> None:
    data, state = lay([three(0)], blocks=4)
    stamps: list[int] = []
    for turn in range(1, 11):
        stamps += [row[0] for row in walk(data, state)]
        begin = turn % 4 * BLOCK_BYTES
        data[begin : begin + BLOCK_BYTES] = np.frombuffer(block_of(three(10 * turn)), np.uint8)
    assert stamps == [10 * turn + n for turn in range(10) for n in range(3)]


def test_frames_wait_for_older_ones_of_an_interface_that_has_handed_over_nothing() -> None:
    data, state = lay([three(0), three(1000)], [])
    assert [row[0] for row in walk(data, state, hold_us=500)] == [0, 1, 2]
    begin = 8 * BLOCK_BYTES
    data[begin : begin + BLOCK_BYTES] = np.frombuffer(block_of([Sent(900, b"older"), Sent(1001, b"later")]), np.uint8)
    assert [row[0] for row in walk(data, state, hold_us=500)] == [900, 1000, 1001, 1001]
    assert [row[0] for row in walk(data, state)] == [1002]


def test_one_interface_alone_waits_for_nobody() -> None:
    data, state = lay([three(0)])
    assert len(walk(data, state, hold_us=500)) == 3


def test_a_ring_more_than_half_full_is_read_whatever_its_stamps() -> None:
    late = [three(HOUR_US + 10 * n) for n in range(5)]
    data, state = lay(late, [three(10 * n) for n in range(3)])
    frames = np.zeros(2, FRAME)
    assert ring_kernel.walk_rings(data, state, frames, 500) == 2
    assert frames["source"].tolist() == [0, 0]


def test_a_tag_is_put_back_on_ethernet_only() -> None:
    data, state = lay([[Sent(0, payload(1, 40), 5)]])
    state["tagged"], state["link_type"] = 0, 101
    assert walk(data, state)[0][2] == payload(1, 40)


def test_the_kernels_headers_are_as_long_as_the_fields_say() -> None:
    assert len(header(Sent(0, b""), 0)) == ring_kernel.HEADER_BYTES
    assert FRAME_LIMIT == ring_kernel.FRAME_LIMIT
