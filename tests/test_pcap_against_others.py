"""The same frames as two other readers find, dpkt and scapy, in captures that neither we nor they have written."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import dpkt
import pytest
from scapy.utils import RawPcapNgReader, RawPcapReader

from sensor.sources.pcap import CaptureSource

Stamped = tuple[int, bytes]


def by_netseq(path: Path) -> list[Stamped]:
    source = CaptureSource([path])
    found: list[Stamped] = []
    for block in source:
        ends = block.frames["offset"] + block.frames["captured_bytes"]
        spans = zip(block.frames["ts_us"].tolist(), block.frames["offset"].tolist(), ends.tolist(), strict=True)
        found.extend((ts_us, block.data[begin:end].tobytes()) for ts_us, begin, end in spans)
    assert source.damages == []
    return found


def by_dpkt(raw: bytes) -> list[Stamped]:
    reader = dpkt.pcapng.Reader(io.BytesIO(raw)) if raw[:4] == b"\n\r\r\n" else dpkt.pcap.Reader(io.BytesIO(raw))
    return [(round(float(seconds) * 1_000_000), data) for seconds, data in reader]


def by_scapy(raw: bytes) -> list[Stamped]:
    if raw[:4] == b"\n\r\r\n":
        return [
            ((about.tshigh << 32 | about.tslow) * 1_000_000 // about.tsresol, data)
            for data, about in RawPcapNgReader(io.BytesIO(raw))
        ]
    reader = RawPcapReader(io.BytesIO(raw))
    return [(about.sec * 1_000_000 + about.usec // (1000 if reader.nano else 1), data) for data, about in reader]


@pytest.fixture(scope="module")
def sample(shared_data: Path) -> list[Path]:
    paths = sorted((shared_data / "captures").rglob("*.gz"))
    chosen = [path for path in paths if path.stat().st_size < 200_000][::25]
    assert len(chosen) >= 80
    return chosen


def test_dpkt_finds_the_same_frames(sample):
    for path in sample:
        ours, theirs = by_netseq(path), by_dpkt(gzip.decompress(path.read_bytes()))
        assert [data for _, data in ours] == [data for _, data in theirs], path
        # dpkt's stamps are floats: a microsecond of rounding is theirs
        assert all(abs(us - other_us) <= 1 for (us, _), (other_us, _) in zip(ours, theirs, strict=True)), path


def test_scapy_finds_the_same_frames_and_stamps(sample):
    for path in sample[::2]:
        assert by_netseq(path) == by_scapy(gzip.decompress(path.read_bytes())), path


def test_plain_captures_are_read_as_scapy_reads_them(shared_data):
    for path in sorted((shared_data / "captures" / "malformed").glob("*.pcap"))[::9]:
        assert by_netseq(path) == by_scapy(path.read_bytes()), path
