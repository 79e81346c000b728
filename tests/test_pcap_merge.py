"""Several captures come out in time order, the same for every size of block, whether they follow, overlap or interleave."""

from __future__ import annotations

import gzip
import heapq
import os
from pathlib import Path

import capture_writer as write
import numpy as np
from capture_writer import Frame
from captures_read import frames_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sensor.schema import FrameBlock
from sensor.sources import merge
from sensor.sources.pcap import CaptureSource

files = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)


def written(folder: Path, captures: list[list[Frame]]) -> list[Path]:
    paths = []
    for number, frames in enumerate(captures):
        paths.append(folder / f"capture{number}")
        raw = write.simple_pcap(frames)
        paths[-1].write_bytes(gzip.compress(raw, 1) if number % 3 == 2 else raw)
    return paths


def stamped(captures: list[list[int]]) -> list[list[Frame]]:
    """Frames whose bytes tell where they belong."""
    return [[Frame(us, f"{n}/{m}".encode(), 9) for m, us in enumerate(stamps)] for n, stamps in enumerate(captures)]


def one_by_one(captures: list[list[Frame]]) -> list[Frame]:
    """The slow truth: always the capture with the earliest next frame, of equals the first one named."""
    heads = [(frames[0].ts_us, number, 0) for number, frames in enumerate(captures) if frames]
    heapq.heapify(heads)
    order = []
    while heads:
        _, number, place = heapq.heappop(heads)
        order.append(captures[number][place])
        if place + 1 < len(captures[number]):
            heapq.heappush(heads, (captures[number][place + 1].ts_us, number, place + 1))
    return order


stamps_of_a_capture = st.lists(st.integers(0, 12), max_size=12)
orders = st.one_of(stamps_of_a_capture, stamps_of_a_capture.map(sorted))


@files
@given(
    captures=st.lists(orders, min_size=2, max_size=6),
    block_frames=st.sampled_from([1, 2, 5, 4096]),
    long_run=st.sampled_from([1, 2, 1024]),
    at_hand=st.sampled_from([(1, 1), (8, 3), (merge.ROWS_AT_HAND, merge.LEAST_ROWS)]),
)
def test_merged_captures_come_out_as_if_merged_one_frame_at_a_time(tmp_path, captures, block_frames, long_run, at_hand):
    frames = stamped(captures)
    before = merge.LONG_RUN, merge.ROWS_AT_HAND, merge.LEAST_ROWS
    merge.LONG_RUN, (merge.ROWS_AT_HAND, merge.LEAST_ROWS) = long_run, at_hand
    try:
        source = CaptureSource(written(tmp_path, frames), block_frames=block_frames)
        assert frames_of(source) == one_by_one(frames)
    finally:
        merge.LONG_RUN, merge.ROWS_AT_HAND, merge.LEAST_ROWS = before


def test_captures_that_follow_each_other_are_read_by_their_first_stamps_one_open_at_a_time(tmp_path):
    captures = stamped([list(range(begin, begin + 40)) for begin in range(9_000, -1, -1000)])
    source = CaptureSource(written(tmp_path, captures), block_frames=16)
    files_open, stamps = [], []
    for block in source:
        stamps.extend(block.frames["ts_us"].tolist())
        files_open.append(sum("capture" in os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()))
    assert stamps == sorted(stamps)
    assert len(stamps) == 400
    assert max(files_open) <= 2


def test_long_runs_of_one_capture_are_handed_over_where_they_lie(tmp_path):
    stamps = np.arange(12_000).reshape(6, 2, 1000)  # a thousand here, a thousand there
    captures = [[Frame(int(us), bytes(20), 20) for us in stamps[:, side].ravel()] for side in range(2)]
    before, merge.LONG_RUN = merge.LONG_RUN, 500
    try:
        source = CaptureSource(written(tmp_path, captures))
        sizes = [path.stat().st_size for path in map(Path, source.files)]
        seen = [(block.data.size, block.frames.size) for block in source]
    finally:
        merge.LONG_RUN = before
    assert sum(count for _, count in seen) == 12_000
    assert {size for size, _ in seen} == set(sizes)


def test_interleaved_captures_are_copied_into_full_blocks(tmp_path):
    captures = [[Frame(2 * n + side, bytes([side]) * 1400, 1400) for n in range(9000)] for side in range(2)]
    blocks: list[int] = []
    total = 0
    for block in CaptureSource(written(tmp_path, captures)):
        assert isinstance(block, FrameBlock)
        begin = block.frames["offset"].astype(np.int64)
        sides = block.data[begin]
        assert (sides == block.frames["ts_us"] % 2).all()
        assert (np.diff(block.frames["ts_us"]) > 0).all()
        blocks.append(block.frames.size)
        total += block.frames.size
    assert total == 18_000
    assert np.mean(blocks) > 1000


def test_hundreds_of_interleaved_captures_are_merged(tmp_path):
    captures = [[Frame(300 * n + number, b"%d" % number, 3) for n in range(20)] for number in range(300)]
    found = frames_of(CaptureSource(written(tmp_path, captures)))
    assert [frame.ts_us for frame in found] == list(range(6000))


def test_captures_without_frames_take_no_part(tmp_path):
    frames = stamped([[], [5, 6], []])
    source = CaptureSource(written(tmp_path, frames))
    assert frames_of(source) == frames[1]
    assert source.damages == []


def test_broken_capture_among_several_is_told_once(tmp_path):
    paths = written(tmp_path, stamped([[1, 4], [2, 3], [5]]))
    paths[1].write_bytes(paths[1].read_bytes()[:-1])
    paths[0].write_bytes(paths[0].read_bytes()[:30])
    source = CaptureSource(paths)
    assert [frame.ts_us for frame in frames_of(source)] == [2, 5]
    assert sorted(damage.path for damage in source.damages) == sorted(map(str, paths[:2]))


def test_skipped_blocks_and_unstamped_frames_of_all_captures_add_up(tmp_path):
    raw = write.section() + write.interface() + write.enhanced(7, b"x") + write.simple(b"y") + write.block(5, b"1234")
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.write_bytes(raw)
    source = CaptureSource(paths)
    assert len(frames_of(source)) == 6
    assert (source.unstamped, source.skipped_blocks) == (3, {"interface_statistics": 3})
