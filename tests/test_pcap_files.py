"""Which files are read, in which packing, and the one line that says why something is not."""

from __future__ import annotations

import gzip
import importlib.util
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import capture_writer as write
import numpy as np
import pytest
from capture_writer import Frame
from captures_read import frames_of, through_pipe

from sensor.sources.pcap import CaptureSource, NotACapture

FRAMES = [Frame(n * 1000, bytes([n]) * 60, 60) for n in range(20)]
PCAP = write.simple_pcap(FRAMES)
needs_zstandard = pytest.mark.skipif(importlib.util.find_spec("zstandard") is None, reason="zstandard is optional")


def refusal(*paths: Path | str) -> str:
    with pytest.raises(NotACapture) as refused:
        frames_of(CaptureSource(paths))
    text = str(refused.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "nothing is in it"),
        (b"hello, world, this is text", "no pcap or pcapng capture"),
        (b"\n\r\r\nfour lines of nothing", "no pcap or pcapng capture"),
        (b"BZh91AY&SY", "bunzip2"),
        (b"PK\3\4zip", "unzip"),
        (b"snoop\0\0\0\0\0\0\2", "editcap"),
        (gzip.compress(b"text", mtime=0), "inside the gzip packing"),
        (gzip.compress(b"", mtime=0), "nothing is in it inside the gzip packing"),
        (gzip.compress(PCAP, mtime=0)[:12], "cut off"),
        (b"\x1f\x8bno gzip at all", "gzip data are damaged"),
        pytest.param(b"\x28\xb5\x2f\xfd\x00\xa0\x01\x00\x00", "too much memory", marks=needs_zstandard),  # a window of 1 GiB
    ],
)
def test_file_that_is_no_capture_is_refused_in_one_line_that_helps(tmp_path, content, words):
    path = tmp_path / "thing"
    path.write_bytes(content)
    text = refusal(path)
    assert text.startswith(f"{path}: ")
    assert words in text


def test_missing_file_is_refused(tmp_path):
    assert refusal(tmp_path / "nowhere.pcap").endswith("it cannot be read: No such file or directory")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_unreadable_file_is_refused(tmp_path):
    path = tmp_path / "secret.pcap"
    path.write_bytes(PCAP)
    path.chmod(0)
    assert refusal(path).endswith("it cannot be read: Permission denied")


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="needs a file whose reading fails, as Linux has")
def test_file_whose_reading_fails_is_refused():
    assert refusal("/proc/self/mem") == "/proc/self/mem: reading failed: Input/output error"


def test_folder_without_captures_is_refused(tmp_path):
    assert refusal(tmp_path).endswith("a folder without captures: it is empty")
    (tmp_path / "notes.txt").write_text("notes")
    assert refusal(tmp_path).endswith("none of its 1 files is a pcap or pcapng file")


def test_no_names_at_all_are_refused():
    assert "no capture was named" in refusal()


def test_folder_is_read_with_the_folders_in_it_and_lists_what_it_skips(tmp_path):
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "late").write_bytes(PCAP)
    (tmp_path / "early.pcap.gz").write_bytes(gzip.compress(PCAP))
    (tmp_path / "report.pdf").write_bytes(b"%PDF-1.4 nothing to see")
    (tmp_path / "empty.pcap").touch()
    os.mkfifo(tmp_path / "a pipe that nobody writes to")
    (tmp_path / "latest").symlink_to(tmp_path / "early.pcap.gz")
    source = CaptureSource([tmp_path])
    assert len(frames_of(source)) == 2 * len(FRAMES)
    assert [os.path.basename(name) for name in source.files] == ["late", "early.pcap.gz"]
    skipped = {os.path.basename(path): reason for path, reason in source.skipped_files}
    assert skipped.keys() == {"report.pdf", "empty.pcap", "a pipe that nobody writes to", "latest"}
    assert skipped["a pipe that nobody writes to"] == "no regular file"
    assert skipped["latest"].startswith("the same file as ")


def test_file_named_twice_is_read_once(tmp_path):
    path = tmp_path / "capture"
    path.write_bytes(PCAP)
    source = CaptureSource([path, str(path), tmp_path])
    assert frames_of(source) == FRAMES
    assert len(source.skipped_files) == 2


@pytest.mark.parametrize("content", [b"", b"this is no capture"])
def test_pipe_without_a_capture_is_refused_when_it_is_read(content):
    with pytest.raises(NotACapture, match=r"^/dev/fd/\d+: [^\n]+$"):
        through_pipe(content)


def test_standard_input_is_read_in_any_packing():
    program = (
        "from sensor.sources.pcap import CaptureSource\n"
        "source = CaptureSource(['-'])\n"
        "print(sum(int(block.frames['captured_bytes'].sum()) for block in source), source.files, source.bytes_total)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], input=gzip.compress(PCAP), capture_output=True, check=True)
    assert done.stdout.decode().strip() == "1200 ['standard input'] None"


@pytest.mark.parametrize("head", [b"#separator \\x09\n", b"\xef\xbb\xbf#fields\tts\tuid\n", b'{"ts":1.5}\n'])
def test_a_log_in_a_pipe_is_told_where_logs_are_read_from(head):
    with pytest.raises(NotACapture, match=r"begins as Zeek's logs do, and those are read from files: write it to one"):
        through_pipe(head)
    with pytest.raises(NotACapture, match=r"begins as Zeek's logs do inside the gzip packing, and those"):
        through_pipe(gzip.compress(head))


def test_first_frames_of_a_pipe_come_out_before_its_writer_is_done():
    reading, writing = os.pipe()
    blocks = iter(CaptureSource([f"/dev/fd/{reading}"]))
    os.write(writing, PCAP[:-1])
    assert next(blocks).frames.size == len(FRAMES) - 1
    os.write(writing, PCAP[-1:])
    assert next(blocks).frames.size == 1
    os.close(writing)
    assert list(blocks) == []
    os.close(reading)


def test_pipe_is_merged_with_files(tmp_path):
    path = tmp_path / "even"
    path.write_bytes(write.simple_pcap(FRAMES[::2]))
    reading, writing = os.pipe()
    os.write(writing, write.simple_pcap(FRAMES[1::2]))
    os.close(writing)
    assert frames_of(CaptureSource([path, f"/dev/fd/{reading}"])) == FRAMES
    os.close(reading)


def test_zstd_is_read_frame_after_frame_and_told_when_cut(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    rng = np.random.default_rng(3)
    frames = [Frame(n, rng.integers(0, 4, 900, np.uint8).tobytes(), 900) for n in range(600)]
    raw = write.simple_pcap(frames)
    half = len(raw) // 2
    skippable = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"hello"
    path = tmp_path / "capture.zst"
    for level, checksum, size_told in ((1, True, True), (19, False, False), (3, True, False)):
        packer = zstandard.ZstdCompressor(level=level, write_checksum=checksum, write_content_size=size_told)
        packed = skippable + b"".join(packer.compress(part) for part in (raw[:24], raw[24:700], raw[700:half], raw[half:]))
        path.write_bytes(packed)
        source = CaptureSource([path])
        assert frames_of(source) == frames
        assert source.damages == []
    for cut in (len(packed) - 1, len(packed) // 2, len(packed) // 3):
        path.write_bytes(packed[:cut])
        source = CaptureSource([path])
        found = frames_of(source)
        assert found == frames[: len(found)]
        assert [damage.reason for damage in source.damages] == ["the zstd data are cut off"]
    assert len(found) > 0


def test_damaged_zstd_is_told(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    packed = bytearray(zstandard.ZstdCompressor(write_checksum=True).compress(PCAP))
    packed[-1] ^= 1
    path = tmp_path / "capture.zst"
    path.write_bytes(packed)
    source = CaptureSource([path])
    assert frames_of(source) == FRAMES
    assert "zstd data are damaged" in source.damages[0].reason


def test_zstd_bomb_is_read_in_bounded_memory(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    path = tmp_path / "bomb.zst"
    packer = zstandard.ZstdCompressor(level=1).compressobj()
    packed = packer.compress(write.pcap_header())
    for _ in range(500):  # 100 MB
        packed += packer.compress(write.pcap_record(0, 0, bytes(200_000)))
    path.write_bytes(packed + packer.flush())
    assert path.stat().st_size < 1 << 16
    source = CaptureSource([path])
    tracemalloc.start()
    try:
        assert sum(block.frames.size for block in source) == 500
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_zstd_without_zstandard_is_refused_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    path = tmp_path / "capture.zst"
    path.write_bytes(b"\x28\xb5\x2f\xfd and more")
    assert "pip install zstandard" in refusal(path)
