"""Decode one capture and build its flows, as the engine does it before any model: what is compared with the peers.

A process of its own, because CPU seconds are counted per process and the peers are processes too. Prints one JSON object.
"""

from __future__ import annotations

import itertools
import sys
import time

import msgspec

from sensor.kernels import prepare_cache


class FlowRun(msgspec.Struct):
    """What one capture was turned into, and the CPU seconds of each step (start-up is in none of them)."""

    packets: int = 0
    packets_in_flows: int = 0
    packets_skipped: int = 0
    flows: int = 0
    source_s: float = 0.0
    decode_s: float = 0.0
    flows_s: float = 0.0


def measured(path: str) -> FlowRun:
    """Push all frames of `path` through source, decoder and flow table, after a first block that is not timed.

    Compiled kernels are read from disk when they are first called: that block leaves it out of the steps.
    """
    from sensor.decode import Decoder  # noqa: PLC0415  # kernels are imported after their cache folder is chosen
    from sensor.flows import FlowTable  # noqa: PLC0415
    from sensor.sources.pcap import CaptureSource  # noqa: PLC0415

    for block in itertools.islice(CaptureSource([path]), 1):
        warm = FlowTable()
        warm.feed(Decoder().decode(block))
        warm.drain()
    decoder, table, run = Decoder(), FlowTable(), FlowRun()
    blocks = iter(CaptureSource([path]))
    while True:
        begun_s = time.thread_time()
        block_or_end = next(blocks, None)
        handed_s = time.thread_time()
        run.source_s += handed_s - begun_s
        if block_or_end is None:
            break
        packets = decoder.decode(block_or_end)
        decoded_s = time.thread_time()
        run.flows += len(table.feed(packets))
        run.decode_s += decoded_s - handed_s
        run.flows_s += time.thread_time() - decoded_s
        run.packets += len(block_or_end.frames)
    begun_s = time.thread_time()
    while len(ended := table.drain()):
        run.flows += len(ended)
    run.flows_s += time.thread_time() - begun_s
    run.packets_in_flows, run.packets_skipped = table.packets, int(decoder.skipped.sum())
    return run


if __name__ == "__main__":
    prepare_cache()
    sys.stdout.buffer.write(msgspec.json.encode(measured(sys.argv[1])))
