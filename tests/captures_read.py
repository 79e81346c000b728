"""Reading a capture for the tests, in every way in which the same bytes can reach the source."""

from __future__ import annotations

import functools
import gzip
import importlib.util
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from capture_writer import Frame

import sensor.kernels
from sensor.sources import stride, walk
from sensor.sources.pcap import CaptureSource


def frames_of(source: CaptureSource) -> list[Frame]:
    """All frames with copies of their bytes; checks on the way that each lies inside its buffer."""
    found = []
    for block in source:
        assert block.frames.size > 0
        assert not block.data.flags.writeable
        for row in block.frames:
            begin, size = int(row["offset"]), int(row["captured_bytes"])
            assert 0 <= begin <= begin + size <= block.data.size
            found.append(
                Frame(
                    int(row["ts_us"]), block.data[begin : begin + size].tobytes(), int(row["wire_bytes"]), int(row["link_type"])
                )
            )
    assert source.frames == len(found)
    return found


def read_bytes(raw: bytes, folder: Path, *, way: str = "plain", block_frames: int = 4096) -> tuple[list[Frame], CaptureSource]:
    """Write `raw` and read it back plainly mapped, packed ("gzip"), or through a pipe ("pipe")."""
    if way == "pipe":
        return through_pipe(raw, block_frames)
    path = folder / "capture"
    path.write_bytes(gzip.compress(raw, 1) if way == "gzip" else raw)
    source = CaptureSource([path], block_frames=block_frames)
    return frames_of(source), source


def through_pipe(raw: bytes, block_frames: int = 4096) -> tuple[list[Frame], CaptureSource]:
    reading, writing = os.pipe()

    def feed() -> None:
        with suppress(BrokenPipeError), os.fdopen(writing, "wb", buffering=0) as pipe:  # a reader stops at a break
            for begin in range(0, len(raw), 7):  # odd pieces, so that every header is cut somewhere
                pipe.write(raw[begin : begin + 7])

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        source = CaptureSource([f"/dev/fd/{reading}"], block_frames=block_frames)
        return frames_of(source), source
    finally:
        os.close(reading)
        feeder.join()


@functools.cache
def uncompiled() -> tuple[ModuleType, ModuleType]:
    """The kernels of `stride` and `walk` as plain Python, where numpy raises on an index outside."""
    with pytest.MonkeyPatch.context() as patched:
        for name in ("njit", "loop", "part"):
            patched.setattr(sensor.kernels, name, lambda function: function)
        patched.setattr(sensor.kernels, "prefetch_read", lambda *_: None)
        patched.setattr(sensor.kernels, "load32", load32)
        plain_walk = _executed("plain_walk", walk)
        patched.setitem(sys.modules, "sensor.sources.walk", plain_walk)
        return _executed("plain_stride", stride), plain_walk


def load32(data: np.ndarray, at: int, big: bool) -> int:
    assert at >= 0
    return int.from_bytes(bytes([data[at], data[at + 1], data[at + 2], data[at + 3]]), "big" if big else "little")


def _executed(name: str, module: ModuleType) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, module.__file__)
    assert spec is not None
    assert spec.loader is not None
    again = importlib.util.module_from_spec(spec)
    sys.modules[name] = again
    spec.loader.exec_module(again)
    return again
