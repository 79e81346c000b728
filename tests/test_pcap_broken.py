"""Broken and hostile captures: what comes before the break is handed over, the break is told once, nothing is read outside."""

from __future__ import annotations

import gzip
import mmap
import os
import struct
import tracemalloc

import capture_writer as write
import numpy as np
import pytest
from capture_writer import Frame
from captures_read import frames_of, read_bytes, through_pipe, uncompiled
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sensor.schema import FRAME
from sensor.sources import stride, walk
from sensor.sources.pcap import CaptureSource, Damage, NotACapture

files = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)

FRAMES = [Frame(1_700_000_000_000_000 + n, bytes([n]) * size, size) for n, size in enumerate((0, 1, 14, 3, 0, 8))]
PCAP = write.simple_pcap(FRAMES)
PCAP_BORDERS = [24 + sum(16 + len(frame.data) for frame in FRAMES[:n]) for n in range(len(FRAMES) + 1)]
NG_BLOCKS = [
    write.section(),
    write.interface(),
    *(write.enhanced(frame.ts_us, frame.data) for frame in FRAMES),
    write.block(5, b"1234"),
]
PCAPNG = b"".join(NG_BLOCKS)
NG_BORDERS = [sum(map(len, NG_BLOCKS[:n])) for n in range(1, len(NG_BLOCKS) + 1)]


@pytest.mark.parametrize("way", ["plain", "pipe"])
@pytest.mark.parametrize(("raw", "borders"), [(PCAP, PCAP_BORDERS), (PCAPNG, NG_BORDERS)], ids=["pcap", "pcapng"])
def test_file_cut_at_any_byte_gives_the_frames_before_and_one_damage_unless_cut_between_records(tmp_path, raw, borders, way):
    whole, _ = read_bytes(raw, tmp_path)
    assert whole == FRAMES
    for cut in range(4, len(raw) + 1):
        found, source = read_bytes(raw[:cut], tmp_path, way=way)
        records = sum(border <= cut for border in borders)
        frames_before = min(len(FRAMES), max(0, records - (1 if raw is PCAP else 2)))
        assert found == FRAMES[:frames_before], cut
        if cut in borders:
            assert source.damages == [], cut
        else:
            (damage,) = source.damages
            assert damage.byte_offset == max([0, *(border for border in borders if border < cut)]), cut
            assert "ends inside" in damage.reason


@pytest.mark.parametrize("cut", [0, 1, 3])
def test_file_cut_inside_its_magic_number_is_no_capture(tmp_path, cut):
    with pytest.raises(NotACapture):
        read_bytes(PCAP[:cut], tmp_path)


def test_gzip_cut_at_any_byte_gives_a_beginning_of_the_frames_and_one_damage(tmp_path):
    packed = gzip.compress(PCAP)
    path = tmp_path / "cut.gz"
    frames_found = set()
    for cut in range(30, len(packed)):
        path.write_bytes(packed[:cut])
        source = CaptureSource([path])
        found = frames_of(source)
        assert found == FRAMES[: len(found)]
        assert [damage.reason for damage in source.damages] == ["the gzip data are cut off"]
        frames_found.add(len(found))
    assert len(FRAMES) in frames_found


def test_all_frames_before_a_flipped_bit_in_gzip_come_out(tmp_path):
    rng = np.random.default_rng(7)
    frames = [Frame(n, rng.integers(0, 256, 60, np.uint8).tobytes(), 60) for n in range(4000)]
    packed = bytearray(gzip.compress(write.simple_pcap(frames)))
    packed[-6] ^= 1  # in the sum at the very end
    path = tmp_path / "flipped.gz"
    path.write_bytes(packed)
    source = CaptureSource([path])
    assert frames_of(source) == frames
    (damage,) = source.damages
    assert "gzip data are damaged" in damage.reason


def test_gzip_members_are_read_one_after_the_other_with_padding_between(tmp_path):
    path = tmp_path / "members.gz"
    path.write_bytes(b"".join(gzip.compress(PCAP[begin : begin + 11]) + bytes(begin % 3) for begin in range(0, len(PCAP), 11)))
    source = CaptureSource([path])
    assert frames_of(source) == FRAMES
    assert source.damages == []


def test_what_follows_gzip_and_is_no_gzip_is_told(tmp_path):
    path = tmp_path / "trailed.gz"
    path.write_bytes(gzip.compress(PCAP) + b"trailer")
    source = CaptureSource([path])
    assert frames_of(source) == FRAMES
    assert source.damages == [Damage(str(path), len(PCAP), "something that is not gzip follows the gzip data")]


HOSTILE_BLOCKS = {
    "fewer than 12 bytes": struct.pack("<III", 6, 8, 8),
    "no multiple of 4": struct.pack("<II", 7, 34) + bytes(22) + struct.pack("<I", 34),
    "claims more than": struct.pack("<II", 7, 0xFFFF_FFF0) + bytes(60),
    "two lengths differ": struct.pack("<III", 7, 16, 5) + struct.pack("<I", 20),
    "too small for its fields": write.block(6, bytes(16)),
    "more bytes than its block": write.block(6, struct.pack("<IIIII", 0, 0, 0, 30, 30) + bytes(28)),
    "captured bytes": write.block(6, struct.pack("<IIIII", 0, 0, 0, 2**32 - 1, 1) + bytes(28)),
    "does not describe": write.enhanced(1, b"x", number=1),
    "description is too small": write.block(1, b"1234"),
    "options run over": write.block(1, struct.pack("<HHIHH", 1, 0, 0, 9, 400)),
    "time option 9 has 2 bytes": write.block(1, struct.pack("<HHI", 1, 0, 0) + write.option(9, b"ab")),
    "without a byte order": write.block(0x0A0D0D0A, bytes(16)),
    "section header claims": struct.pack("<III", 0x0A0D0D0A, 24, 0x1A2B3C4D) + bytes(60),
    "version 2 is unknown": write.section(version=(2, 0)),
}


@pytest.mark.parametrize("way", ["plain", "pipe"])
@pytest.mark.parametrize("reason", HOSTILE_BLOCKS)
def test_hostile_block_is_a_damage_at_its_offset(tmp_path, reason, way):
    found, source = read_bytes(PCAPNG + HOSTILE_BLOCKS[reason] + write.enhanced(9, b"behind"), tmp_path, way=way)
    assert found == FRAMES
    (damage,) = source.damages
    assert damage.byte_offset == len(PCAPNG)
    assert reason in damage.reason


@pytest.mark.parametrize("captured", [walk.FRAME_LIMIT + 1, 0x7FFF_FFFF, 0xFFFF_FFFF])
def test_hostile_captured_length_in_pcap_is_a_damage(tmp_path, captured):
    found, source = read_bytes(PCAP + struct.pack("<IIII", 1, 1, captured, 60) + bytes(500), tmp_path)
    assert found == FRAMES
    assert source.damages[0].byte_offset == len(PCAP)
    assert "captured bytes" in source.damages[0].reason


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (write.pcap_header(version=(7, 1)), "pcap version 7.1 is unknown"),
        (write.pcap_header(network=0x0100_0001), "reserved bits"),
    ],
)
def test_header_that_cannot_be_followed_is_a_damage(tmp_path, header, reason):
    found, source = read_bytes(header + PCAP[24:], tmp_path)
    assert found == []
    assert reason in source.damages[0].reason


def test_more_interfaces_than_a_machine_has_are_a_damage(tmp_path):
    _, source = read_bytes(write.section() + write.interface() * 65_537, tmp_path)
    assert "more than 65536 interfaces" in source.damages[0].reason


def test_damaged_file_is_followed_by_the_next_one(tmp_path):
    for name, raw in (("a", PCAP[:-1]), ("b", b"\xd4\xc3\xb2\xa1"), ("c", PCAPNG)):
        (tmp_path / name).write_bytes(raw)
    source = CaptureSource([tmp_path])
    assert len(frames_of(source)) == len(FRAMES) - 1 + len(FRAMES)
    assert sorted(os.path.basename(damage.path) for damage in source.damages) == ["a", "b"]


def test_long_claims_in_a_stream_cost_no_memory():
    raw = write.section() + write.interface() + struct.pack("<II", 7, walk.BLOCK_LIMIT) + bytes(1000)
    tracemalloc.start()
    try:
        found, source = through_pipe(raw)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert found == []
    assert "ends inside a block" in source.damages[0].reason


def test_gzip_bomb_is_read_in_bounded_memory(tmp_path):
    path = tmp_path / "bomb.gz"
    frame = write.pcap_record(0, 0, bytes(200_000))
    with gzip.open(path, "wb", compresslevel=9) as packed:
        packed.write(write.pcap_header())
        for _ in range(500):  # 100 MB
            packed.write(frame)
    source = CaptureSource([path])
    tracemalloc.start()
    try:
        assert sum(block.frames.size for block in source) == 500
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_block_larger_than_the_stream_buffer_is_read(tmp_path):
    raw = write.section() + write.interface() + write.block(0xBAD, bytes(9 << 20)) + write.enhanced(5, bytes(250_000))
    for way in ("gzip", "plain"):
        found, source = read_bytes(raw, tmp_path, way=way)
        assert [len(frame.data) for frame in found] == [250_000]
        assert source.damages == []


def test_file_that_shrinks_while_it_is_read_ends_at_its_new_end(tmp_path):
    path = tmp_path / "shrinking"
    frames = [Frame(n, bytes(1000), 1000) for n in range(300)]
    path.write_bytes(write.simple_pcap(frames))
    source = CaptureSource([path], block_frames=10)
    count = 0
    for number, block in enumerate(source):
        count += block.frames.size
        if number == 3:
            os.truncate(path, mmap.PAGESIZE * 20)
    assert count == (mmap.PAGESIZE * 20 - 24) // 1016
    (damage,) = source.damages
    assert "shrank" in damage.reason


def test_file_that_grows_while_it_is_read_is_told(tmp_path):
    path = tmp_path / "growing"
    path.write_bytes(PCAP)
    source = CaptureSource([path], block_frames=2)
    blocks = iter(source)
    next(blocks)
    with path.open("ab") as file:
        file.write(write.pcap_record(1, 1, b"late"))
    assert sum(block.frames.size for block in blocks) == len(FRAMES) - 2
    assert source.damages == [Damage(str(path), len(PCAP), "the file grew by 20 bytes while it was read; these were not read")]


def test_file_that_vanishes_before_its_turn_is_told(tmp_path):
    for name in "ab":
        (tmp_path / name).write_bytes(PCAP)
    source = CaptureSource([tmp_path])
    (tmp_path / "b").unlink()
    assert frames_of(source) == FRAMES
    (damage,) = source.damages
    assert "cannot be read any more" in damage.reason


@files
@given(
    raw=st.binary(max_size=200),
    header=st.sampled_from([PCAP[:24], write.pcap_header(big=True), NG_BLOCKS[0] + NG_BLOCKS[1], PCAPNG]),
)
@example(raw=bytes(64), header=NG_BLOCKS[0] + NG_BLOCKS[1])
def test_any_bytes_behind_a_header_are_read_the_same_mapped_packed_and_piped(tmp_path, raw, header):
    outcomes = []
    for way in ("plain", "gzip", "pipe"):
        found, source = read_bytes(header + raw, tmp_path, way=way, block_frames=3)
        outcomes.append((found, [damage.byte_offset for damage in source.damages], source.skipped_blocks))
    assert outcomes[0] == outcomes[1] == outcomes[2]


words = st.one_of(
    st.sampled_from(
        [0, 1, 2, 3, 5, 6, 8, 12, 16, 20, 28, 32, 33, 36, 60, 0x0A0D0D0A, walk.BLOCK_LIMIT, 2**31, 2**32 - 4, 2**32 - 1]
    ),
    st.integers(0, 2**32 - 1),
)


@files
@given(numbers=st.lists(words, max_size=40), tail=st.binary(max_size=9), big=st.booleans(), begin=st.integers(0, 9))
def test_kernels_read_nothing_outside_hostile_bytes(numbers, tail, big, begin):
    raw = struct.pack(f"{'>' if big else '<'}{len(numbers)}I", *numbers) + tail
    data = np.frombuffer(raw, np.uint8)
    begin = min(begin, data.size)
    interfaces = np.zeros(2, walk.INTERFACE_ROW)
    interfaces[0] = (20, 1, walk.BINARY, 127, -(2**61))
    interfaces[1] = (walk.FRAME_LIMIT, 1, walk.DIVIDED, 0, 2**61)
    outcomes = []
    for pcap, pcapng in (uncompiled(), (stride, walk)):
        seen = []
        for lengths in range(3):
            layout = pcap.PcapLayout(24 if lengths else 16, big, bool(lengths), lengths, 1, 0)
            rows = np.zeros(4, FRAME)
            seen.append((pcap.walk_pcap(data, begin, data.size, layout, pcap.strides(0), rows), rows.tobytes()))
        kinds, skipped, unstamped = np.full(walk.KINDS, -1), np.zeros(walk.KINDS + 1, np.int64), np.zeros(1, np.int64)
        rows = np.zeros(4, FRAME)
        section = pcapng.Section(big, 0, -1, interfaces, kinds, skipped, unstamped)
        found = pcapng.walk_pcapng(data, begin, data.size, section, rows)
        seen.append((found, rows.tobytes() + skipped.tobytes() + unstamped.tobytes()))
        assert (rows["offset"][: found[0]] + rows["captured_bytes"][: found[0]] <= data.size).all()
        outcomes.append(seen)
    assert outcomes[0] == outcomes[1]


def test_malformed_captures_are_read_to_their_end(shared_data, monkeypatch):
    pcap, pcapng = uncompiled()
    monkeypatch.setattr(stride, "walk_pcap", pcap.walk_pcap)
    monkeypatch.setattr(walk, "walk_pcapng", pcapng.walk_pcapng)
    paths = sorted((shared_data / "captures" / "malformed").glob("*.pcap"))
    assert len(paths) > 600
    frames = 0
    for path in paths:
        source = CaptureSource([path])
        for block in source:
            ends = block.frames["offset"] + block.frames["captured_bytes"]
            assert block.frames["offset"].min() >= 0
            assert ends.max() <= block.data.size
        frames += source.frames
        assert len(source.damages) <= 1
    assert frames > 9_000
