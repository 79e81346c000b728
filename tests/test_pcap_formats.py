"""What is written in either format, in any byte order, resolution and packing, is read back equal."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import capture_writer as write
from capture_writer import Frame
from captures_read import frames_of, read_bytes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sensor.sources.pcap import CaptureSource
from sensor.sources.walk import STAMP_LIMIT_US

WAYS = ("plain", "gzip", "pipe")
files = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)

packets = st.tuples(
    st.integers(0, 2**32 - 1),  # seconds
    st.integers(0, 999_999_999),  # nanoseconds
    st.binary(max_size=70),
    st.integers(0, 70_000),  # bytes that were on the wire beyond the captured ones
)


@files
@given(
    big=st.booleans(),
    magic=st.sampled_from([0xA1B2C3D4, 0xA1B23C4D, 0xA1B2CD34]),
    minor=st.integers(0, 4),
    link_type=st.sampled_from([0, 1, 9, 101, 113, 276, 65535]),
    written=st.lists(packets, max_size=12),
    way=st.sampled_from(WAYS),
    block_frames=st.sampled_from([1, 3, 4096]),
)
def test_pcap_is_read_back_equal(tmp_path, big, magic, minor, link_type, written, way, block_frames):
    nano = magic == 0xA1B23C4D
    raw = write.pcap_header(big=big, magic=magic, version=(2, minor), network=link_type)
    for seconds, ns, data, more in written:
        extra = b"\7" * 8 if magic == 0xA1B2CD34 else b""
        fraction = ns if nano else ns // 1000
        raw += write.pcap_record(seconds, fraction, data, len(data) + more, big=big, extra=extra, swap=minor < 3)
    found, source = read_bytes(raw, tmp_path, way=way, block_frames=block_frames)
    assert found == [Frame(s * 1_000_000 + ns // 1000, data, len(data) + more, link_type) for s, ns, data, more in written]
    assert source.damages == []


def expected_us(ticks: int, resolution: int | None, offset_s: int | None) -> int:
    """By the draft's words, in exact fractions."""
    power = 6 if resolution is None else resolution & 0x7F
    unit = Fraction(1, 2**power) if resolution is not None and resolution & 0x80 else Fraction(1, 10**power)
    us = min(STAMP_LIMIT_US, int(ticks * unit * 1_000_000)) + max(
        -STAMP_LIMIT_US, min(STAMP_LIMIT_US, (offset_s or 0) * 1_000_000)
    )
    return max(-STAMP_LIMIT_US, min(STAMP_LIMIT_US, us))


interfaces = st.tuples(
    st.sampled_from([1, 113, 276]),
    st.one_of(st.none(), st.integers(0, 255)),
    st.one_of(st.none(), st.integers(-(2**33), 2**33), st.integers(-(2**63), 2**63 - 1)),
)


@st.composite
def sections(draw):
    """One pcapng section: its bytes, the frames in it, and what else is to be counted."""
    big = draw(st.booleans())
    raw, skipped, unstamped = write.section(big=big, options=write.option(1, b"a comment", big=big)), 0, 0
    frames: list[tuple[int | None, bytes, int, int]] = []
    described = draw(st.lists(interfaces, min_size=1, max_size=5))
    for link_type, resolution, offset_s in described:
        raw += write.interface(big=big, link_type=link_type, resolution=resolution, offset_s=offset_s)
    for kind in draw(st.lists(st.sampled_from(["enhanced", "enhanced", "old", "simple", "names", "strange"]), max_size=8)):
        data = draw(st.binary(max_size=40))
        number = draw(st.integers(0, len(described) - 1))
        ticks = draw(st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 2**51)))
        if kind in ("names", "strange"):
            raw += write.block(4 if kind == "names" else 0x8000_0001, data, big=big)
            skipped += 1
            continue
        wire = len(data) + draw(st.integers(0, 2000))
        link_type, resolution, offset_s = described[number]
        us = expected_us(ticks, resolution, offset_s)
        if kind == "simple":
            raw += write.simple(data, big=big)
            frames.append((None, data, len(data), described[0][0]))
            unstamped += 1
        elif kind == "enhanced":
            raw += write.enhanced(ticks, data, wire, number=number, big=big, options=write.option(1, b"hm", big=big))
            frames.append((us, data, wire, link_type))
        else:
            raw += write.old_packet(ticks, data, wire, number=number, big=big)
            frames.append((us, data, wire, link_type))
    return raw, frames, skipped, unstamped


@files
@given(
    parts=st.lists(sections(), min_size=1, max_size=3), way=st.sampled_from(WAYS), block_frames=st.sampled_from([1, 2, 4096])
)
def test_pcapng_is_read_back_equal(tmp_path, parts, way, block_frames):
    expected, last_us = [], 0
    for _, frames, _, _ in parts:
        for us, *rest in frames:
            last_us = last_us if us is None else us
            expected.append(Frame(last_us, *rest))
    found, source = read_bytes(b"".join(raw for raw, *_ in parts), tmp_path, way=way, block_frames=block_frames)
    assert found == expected
    assert source.damages == []
    assert sum(source.skipped_blocks.values()) == sum(skipped for *_, skipped, _ in parts)
    assert source.unstamped == sum(unstamped for *_, unstamped in parts)


def test_every_time_resolution_is_exact_at_the_ends_of_the_stamp(tmp_path):
    stamps = [0, 1, 999, 2**32 - 1, 2**32, 2**44 - 1, 2**63, 2**64 - 1]
    raw = write.section() + b"".join(write.interface(resolution=resolution) for resolution in range(256))
    raw += b"".join(write.enhanced(ticks, b"x", number=number) for number in range(256) for ticks in stamps)
    found, _ = read_bytes(raw, tmp_path)
    assert [frame.ts_us for frame in found] == [expected_us(ticks, number, None) for number in range(256) for ticks in stamps]


def test_simple_packet_is_as_long_as_the_snap_length_of_the_first_interface(tmp_path):
    raw = (
        write.section()
        + write.interface(snap=5)
        + write.interface(snap=9)
        + write.enhanced(77, b"abc")
        + write.simple(b"12345", 900)
    )
    found, source = read_bytes(raw, tmp_path)
    assert found[1] == Frame(77, b"12345", 900)
    assert source.unstamped == 1


def test_skipped_blocks_are_counted_by_kind(tmp_path):
    kinds = [4, 5, 5, 9, 10, 0xBAD, 0x4000_0BAD, 0x8000_0001]
    raw = write.section() + b"".join(write.block(kind, b"whatever") for kind in kinds)
    _, source = read_bytes(raw, tmp_path)
    assert source.skipped_blocks == {
        "name_resolution": 1,
        "interface_statistics": 2,
        "systemd_journal": 1,
        "decryption_secrets": 1,
        "custom": 2,
        "block_0x80000001": 1,
    }


def test_kinds_of_skipped_blocks_past_the_64th_are_counted_together(tmp_path):
    raw = write.section() + b"".join(write.block(0x1000 + kind, b"") for kind in range(100))
    _, source = read_bytes(raw, tmp_path)
    assert len(source.skipped_blocks) == 65
    assert source.skipped_blocks["other"] == 36


def test_interfaces_of_a_section_end_with_it(tmp_path):
    raw = (
        write.section()
        + write.interface()
        + write.enhanced(1, b"a")
        + write.section(big=True)
        + write.enhanced(2, b"b", big=True)
    )
    found, source = read_bytes(raw, tmp_path)
    assert [frame.data for frame in found] == [b"a"]
    assert "does not describe" in source.damages[0].reason


def test_bits_of_the_frame_check_sequence_are_no_part_of_the_link_type(tmp_path):
    raw = write.pcap_header(network=0x5400_0001) + write.pcap_record(1, 2, b"frame")
    found, source = read_bytes(raw, tmp_path)
    assert found == [Frame(1_000_002, b"frame", 5, 1)]
    assert source.damages == []


def test_version_2_3_takes_the_smaller_length_as_the_captured_one(tmp_path):
    raw = (
        write.pcap_header(version=(2, 3))
        + write.pcap_record(1, 0, b"abc", 90)
        + write.pcap_record(2, 0, b"abcd", 80, swap=True)
    )
    found, _ = read_bytes(raw, tmp_path)
    assert [(frame.data, frame.wire_bytes) for frame in found] == [(b"abc", 90), (b"abcd", 80)]


def test_frames_stay_in_the_mapped_file_after_the_source_is_gone(tmp_path):
    path = tmp_path / "capture"
    path.write_bytes(write.simple_pcap([Frame(1, b"the bytes", 9)]))
    (block,) = list(CaptureSource([path]))
    begin = int(block.frames["offset"][0])
    assert block.data[begin : begin + 9].tobytes() == b"the bytes"


def test_plain_file_is_handed_over_as_one_array_of_the_file_itself(tmp_path):
    raw = write.simple_pcap([Frame(n, bytes(20), 20) for n in range(100)])
    path = tmp_path / "capture"
    path.write_bytes(raw)
    buffers = {block.data.ctypes.data for block in CaptureSource([path], block_frames=10)}
    assert len(buffers) == 1
    assert next(iter(CaptureSource([path]))).data.tobytes() == raw


def test_iterating_again_reads_again_and_counts_from_zero(tmp_path):
    path = tmp_path / "capture"
    path.write_bytes(write.simple_pcap([Frame(1, b"x", 1)] * 3) + b"\0")
    source = CaptureSource([path])
    assert frames_of(source) == frames_of(source)
    assert (source.frames, len(source.damages)) == (3, 1)


def test_progress_reaches_the_total_for_plain_and_packed_files(tmp_path):
    raw = write.simple_pcap([Frame(n, bytes(90), 90) for n in range(50)])
    for way in ("plain", "gzip"):
        _, source = read_bytes(raw, tmp_path, way=way)
        assert source.bytes_done == source.bytes_total == (tmp_path / "capture").stat().st_size
    _, source = read_bytes(raw, tmp_path, way="pipe")
    assert (source.bytes_done, source.bytes_total) == (len(raw), None)


def test_frames_name_the_file_they_came_from(tmp_path):
    paths: list[Path] = []
    for n in range(3):
        paths.append(tmp_path / f"{n}")
        paths[-1].write_bytes(write.simple_pcap([Frame(1000 - n, b"x", 1)]))
    source = CaptureSource(paths)
    assert [int(row["source"]) for block in source for row in block.frames] == [2, 1, 0]
    assert source.files == [str(path) for path in paths]
