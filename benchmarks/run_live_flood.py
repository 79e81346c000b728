"""A SYN flood from millions of addresses through the sensor's own capture worker, queue and scoring thread, in one process.

The wire is made up, the rest is what netseq-sensor puts together: a flow table, the bounded queue that sheds, the shipped
models, the site's record. Ordinary traffic comes first; then the flood, one SYN from each address to one port of one host,
handed over as its packet time passes on the monotonic clock, so that scoring has the time that it would have on a wire.
Prints one JSON object of what was counted and what memory it took.
"""

from __future__ import annotations

import itertools
import resource
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.live_sensor import resident_bytes
from sensor.kernels import prepare_cache
from sensor.schema import FRAME, FrameBlock

if TYPE_CHECKING:
    from sensor.schema import Alert

BLOCK_FRAMES = 4096
FRAME_BYTES = 60
"""Of a SYN without options, padded as Ethernet wants it."""
ETHERNET = 1
"""LINKTYPE_ETHERNET."""
SPREAD = 0x9E37_79B1
"""Odd, so that the first 2^32 multiples of it are all different addresses."""
VICTIM, VICTIM_PORT = bytes((192, 0, 2, 1)), 80
"""A host for documentation (RFC 5737)."""
SOURCE_AT, PORT_AT = 26, 34
"""Where the source's address and port stand in the frame."""
SAMPLE_S = 1.0
END_S = 120.0
SIGNATURE = "NetSeq::Flood"


class Told(msgspec.Struct):
    """What one run found."""

    packets_per_s: int
    counters: dict[str, int]
    shed: dict[str, int]
    """Flows that the queue shed, by reason."""
    addresses: int
    alert_s: float | None
    """Packet time from the flood's first packet to the alert's; None: there was none."""
    handed_s: float | None
    """Packet time that had passed at the source when the alert was handed over."""
    seconds: float
    """From the flood's first packet until everything was scored, by the monotonic clock."""
    peak_bytes: int
    resident_bytes: list[int]
    """Each second."""


class FloodSource:
    """Hands over the frames of a capture, then those of the flood; satisfies service_capture.LiveSource."""

    def __init__(self, ordinary: Path, addresses: int, packets_per_s: int) -> None:
        self.frames = self.wire_bytes = 0
        self.begin_us = self.now_us = 0
        self.begin_s = 0.0
        self._ordinary, self._addresses, self._packets_per_s = ordinary, addresses, packets_per_s

    def __iter__(self) -> Iterator[FrameBlock]:
        """Yield the blocks, each when its time has come."""
        from sensor.sources.pcap import CaptureSource  # noqa: PLC0415  # kernels are imported after their cache folder is chosen

        for block in itertools.chain(CaptureSource([str(self._ordinary)], block_frames=BLOCK_FRAMES), self._flood()):
            self.frames += len(block.frames)
            self.wire_bytes += int(block.frames["wire_bytes"].sum(dtype=np.int64))
            self.now_us = int(block.frames["ts_us"][-1])
            yield block

    def stop(self) -> None:
        """It ends by itself."""

    def close(self) -> None:
        """Nothing is held."""

    def counters(self) -> dict[str, int]:
        """Nothing is lost on a made-up wire."""
        return {}

    def _flood(self) -> Iterator[FrameBlock]:
        self.begin_us, self.begin_s = self.now_us + 1, time.monotonic()
        rows = _rows()
        for first in range(0, self._addresses, BLOCK_FRAMES):
            index = np.arange(first, min(first + BLOCK_FRAMES, self._addresses), dtype=np.uint64)
            part = rows[: len(index)]
            part["ts_us"] = self.begin_us + (index * 1_000_000 // self._packets_per_s).astype(np.int64)
            ahead_s = int(index[-1]) / self._packets_per_s - (time.monotonic() - self.begin_s)
            if ahead_s > 0:
                time.sleep(ahead_s)
            yield FrameBlock(syns(index), part)


def syns(index: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Return the frames of the attempts numbered `index`, one behind the other."""
    packet = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40, 0, 0, 64, 6, 0, bytes(4), VICTIM)
    segment = struct.pack("!HHIIBBHHH", 0, VICTIM_PORT, 1, 0, 0x50, 0x02, 64_240, 0, 0)
    frame = (bytes(12) + b"\x08\x00" + packet + segment).ljust(FRAME_BYTES, b"\0")
    frames = np.tile(np.frombuffer(frame, np.uint8), (len(index), 1))
    frames[:, SOURCE_AT : SOURCE_AT + 4] = (index * SPREAD).astype(">u4").view(np.uint8).reshape(-1, 4)
    frames[:, PORT_AT : PORT_AT + 2] = (1024 + index % 60_000).astype(">u2").view(np.uint8).reshape(-1, 2)
    return frames.reshape(-1)


def _rows() -> NDArray[np.void]:
    rows = np.zeros(BLOCK_FRAMES, FRAME)
    rows["offset"] = np.arange(BLOCK_FRAMES) * FRAME_BYTES
    rows["captured_bytes"] = rows["wire_bytes"] = FRAME_BYTES
    rows["link_type"] = ETHERNET
    return rows


def flood(ordinary: Path, addresses: int, packets_per_s: int, folder: Path) -> Told:
    """Run it; `folder` is for the record. Raises what the threads raise."""
    from sensor import config  # noqa: PLC0415  # kernels are imported after their cache folder is chosen, here and below
    from sensor.assembly import Assembly  # noqa: PLC0415
    from sensor.service_capture import Worker  # noqa: PLC0415
    from sensor.service_models import load_models  # noqa: PLC0415
    from sensor.service_queue import FlowQueue  # noqa: PLC0415
    from sensor.service_record import Recorder  # noqa: PLC0415
    from sensor.service_scoring import Scoring  # noqa: PLC0415
    from sensor.service_warm import warm  # noqa: PLC0415

    settings = config.load(None, ["model.device=cpu", "learn.days=0"])
    models = load_models(settings)
    warm(settings, models.words, models.flows, models.device)
    source, queue = FloodSource(ordinary, addresses, packets_per_s), FlowQueue(settings.service.queue_flows)
    found: list[tuple[int, int]] = []

    def hand(alerts: list[Alert]) -> None:
        found.extend((alert.ts_us, source.now_us) for alert in alerts if alert.signature == SIGNATURE)

    recorder = Recorder(
        folder, keep_days=settings.learn.keep_days, disk_mib=settings.learn.disk_mib, tell=lambda event, line: None
    )
    quiet_s = settings.detect.quiet_s
    scoring = Scoring(models.judge(settings), queue, recorder, chosen=lambda alerts: alerts, hand=hand, quiet_s=quiet_s)
    worker = Worker(0, source, Assembly(settings), queue, patient=False)
    scoring.start()
    worker.start()
    curve = [resident_bytes()]
    while not worker.join(SAMPLE_S):
        curve.append(resident_bytes())
    queue.close()
    scored = scoring.join(END_S)
    seconds = time.monotonic() - source.begin_s
    recorder.close()
    for failed in (worker.error, scoring.error):
        if failed is not None:
            raise failed
    if not scored:
        raise RuntimeError(f"scoring did not end within {END_S:.0f} s")
    alert_us, handed_us = found[0] if found else (None, None)
    return Told(
        packets_per_s=packets_per_s,
        counters={**worker.counters(), **scoring.counters()},
        shed=queue.shed,
        addresses=addresses,
        alert_s=None if alert_us is None else (alert_us - source.begin_us) / 1e6,
        handed_s=None if handed_us is None else (handed_us - source.begin_us) / 1e6,
        seconds=seconds,
        peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        resident_bytes=curve,
    )


if __name__ == "__main__":
    prepare_cache()
    with tempfile.TemporaryDirectory() as place:
        told = flood(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(place))
    sys.stdout.buffer.write(msgspec.json.encode(told))
