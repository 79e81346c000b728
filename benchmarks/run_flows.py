"""Decode one capture and build its flows, as the engine does it before any model: what is compared with the peers.

With `--statistics` before the capture all columns of the ended flows are computed too, as float32, in batches as the engine
gathers them. A process of its own, because CPU seconds are counted per process and the peers are processes too. Prints one
JSON object.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterable

import msgspec

from sensor.kernels import prepare_cache
from sensor.schema import FlowBatch, FrameBlock

STEPS = ("source", "decode", "flows", "statistics")


class FlowRun(msgspec.Struct):
    """What one capture was turned into, and the CPU seconds of each step (start-up is in none of them)."""

    packets: int = 0
    packets_in_flows: int = 0
    packets_skipped: int = 0
    flows: int = 0
    numbers: int = 0
    """Statistics computed: flows times columns."""
    source_s: float = 0.0
    decode_s: float = 0.0
    flows_s: float = 0.0
    statistics_s: float = 0.0
    """Gathering the batches included: without statistics nobody would need them."""


class Columns:
    """All columns of ended flows, batch by batch as the engine gathers them; the numbers are then thrown away."""

    def __init__(self, run: FlowRun) -> None:
        from sensor.assembly import Assembly  # noqa: PLC0415  # kernels are imported after their cache folder is chosen
        from sensor.config import Flows, Settings  # noqa: PLC0415
        from sensor.statistics import statistics  # noqa: PLC0415

        self._gathering = Assembly(Settings(flows=Flows(table=64)))  # is fed with finished flows: its own table stays empty
        self._statistics = statistics
        self._run = run

    def take(self, ended: FlowBatch | None) -> None:
        """Gather flows and compute what became a whole batch, or what still waits when None says that all flows have come."""
        begun_s = time.thread_time()
        for batch in self._gathering.drain() if ended is None else self._gathering.feed(ended):
            self._run.numbers += self._statistics(batch.flows).size
        self._run.statistics_s += time.thread_time() - begun_s


def measured(path: str, *, statistics: bool = False) -> FlowRun:
    """Push all frames of `path` through source, decoder, flow table and, where asked for, statistics.

    Compiled kernels are read from disk when they are first called: a first block that is not timed leaves it out of the steps.
    """
    from sensor.sources.pcap import CaptureSource  # noqa: PLC0415  # as above

    _push(itertools.islice(CaptureSource([path]), 1), statistics=statistics)
    return _push(CaptureSource([path]), statistics=statistics)


def _push(source: Iterable[FrameBlock], *, statistics: bool) -> FlowRun:
    """Push all frames of `source` through tables that are empty; returns what came of it."""
    from sensor.decode import Decoder  # noqa: PLC0415  # as above
    from sensor.flows import FlowTable  # noqa: PLC0415

    decoder, table, run = Decoder(), FlowTable(), FlowRun()
    columns = Columns(run) if statistics else None
    blocks = iter(source)
    while True:
        begun_s = time.thread_time()
        block_or_end = next(blocks, None)
        handed_s = time.thread_time()
        run.source_s += handed_s - begun_s
        if block_or_end is None:
            break
        packets = decoder.decode(block_or_end)
        decoded_s = time.thread_time()
        ended = table.feed(packets)
        run.decode_s += decoded_s - handed_s
        run.flows_s += time.thread_time() - decoded_s
        run.packets += len(block_or_end.frames)
        run.flows += len(ended)
        if columns:
            columns.take(FlowBatch(ended))
    while True:
        begun_s = time.thread_time()
        ended = table.drain()
        run.flows_s += time.thread_time() - begun_s
        run.flows += len(ended)
        if columns:
            columns.take(FlowBatch(ended) if len(ended) else None)
        if not len(ended):
            break
    run.packets_in_flows, run.packets_skipped = table.packets, int(decoder.skipped.sum())
    return run


if __name__ == "__main__":
    prepare_cache()
    parser = argparse.ArgumentParser()
    parser.add_argument("--statistics", action="store_true")
    parser.add_argument("capture")
    asked = parser.parse_args()
    sys.stdout.buffer.write(msgspec.json.encode(measured(asked.capture, statistics=asked.statistics)))
