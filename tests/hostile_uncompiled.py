"""Leads captures through source, decoder and flow table as plain Python, in arrays that refuse an index below or beyond them.

Run by `test_hostile` as a program of its own, because numba is switched off for a whole process. Arguments: a folder of
captures, how many frames of each file are wanted, and where the ended flows go; counters are printed as JSON. The functions
are the test's too, which leads the same captures through the compiled kernels.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensor.decode import Decoder
from sensor.flows import FlowTable
from sensor.schema import FrameBlock
from sensor.sources.pcap import CaptureSource, NotACapture

FLOWS = 24
"""Places in the flow table: few, so that it is full for much of the time."""
MERGED = 8
"""Captures that are read as one, by time."""


class Chain:
    """The three compiled parts in a row, with what they counted."""

    def __init__(self) -> None:
        self.decoder = Decoder()
        self.table = FlowTable(flows=FLOWS, seed=1)
        self.counted = dict.fromkeys(("files", "frames", "rows", "payload_bytes", "ip_bytes"), 0)
        self.ended: list[NDArray[np.void]] = []

    def lead_all(self, folder: Path, most: int) -> NDArray[np.void]:
        """Lead every capture of a folder through, each by itself and then in groups that are merged; returns all flows."""
        whole = [path for path in sorted(folder.rglob("*")) if path.is_file() and self.lead([path], most)]
        for begin in range(0, len(whole), MERGED):
            self.lead(whole[begin : begin + MERGED], most)
        return self.finish()

    def lead(self, paths: Sequence[Path], most: int) -> bool:
        """Lead the first frames of captures through; False where there is none. The clock goes on from the ones before."""
        try:
            source = CaptureSource(paths, block_frames=most)
        except NotACapture:
            return False
        self.counted["files"] += 1
        left = most
        for block in source:
            ends = block.frames["offset"] + block.frames["captured_bytes"]
            assert block.frames["offset"].min() >= 0
            assert ends.max() <= block.data.size
            self.fold(block, block.frames[:left])
            left -= len(block.frames)
            if left <= 0:
                break
        assert len(source.damages) <= len(paths)
        return True

    def fold(self, block: FrameBlock, frames: NDArray[np.void]) -> None:
        """Decode frames one by one, each in a buffer that ends with it, and feed the packets."""
        rows = []
        for n in range(len(frames)):
            frame = frames[n : n + 1].copy()
            begin = int(frame["offset"][0])
            alone = block.data[begin : begin + int(frame["captured_bytes"][0])].copy()
            frame["offset"] = 0
            rows.append(self.decoder.decode(FrameBlock(alone, frame)).copy())
        packets = np.concatenate(rows)
        assert (packets["payload_bytes"] < 1 << 18).all()
        self.counted["frames"] += len(frames)
        self.counted["rows"] += len(packets)
        for name in ("payload_bytes", "ip_bytes"):
            self.counted[name] += int(packets[name].sum(dtype=np.int64))
        self.ended.append(self.table.feed(packets).copy())

    def finish(self) -> NDArray[np.void]:
        """End what is left in the table; returns all flows and checks that no frame, packet or byte was lost on the way."""
        while len(rest := self.table.drain()):
            self.ended.append(rest)
        flows = np.concatenate(self.ended)
        sides = [flows[side] for side in ("fwd", "bwd")]
        assert self.counted["rows"] + self.decoder.skipped.sum() == self.counted["frames"]
        assert sum(int(side["packets"].sum()) for side in sides) == self.table.packets == self.counted["rows"]
        assert sum(int(side["payload"]["sum"].sum()) for side in sides) == self.counted["payload_bytes"]
        assert sum(int(side["ip_bytes"].sum()) for side in sides) == self.counted["ip_bytes"]
        assert self.table.ended.sum() == len(flows)
        assert self.table.live == 0
        return flows

    def counters(self) -> dict[str, object]:
        """What is compared between compiled and plain kernels."""
        skipped, ended = self.decoder.skipped.tolist(), self.table.ended.tolist()
        return self.counted | {"skipped": skipped, "ended": ended, "steps_back": self.table.steps_back}


def guard(chain: Chain) -> None:
    """Put every array that a kernel indexes by a signed number into one that refuses what lies outside."""
    import flows_uncompiled  # noqa: F401, PLC0415  # switches numba off
    from guarded import Guarded  # noqa: PLC0415

    from sensor.flow_kernel import Table  # noqa: PLC0415
    from sensor.sources import merge, stride, walk  # noqa: PLC0415

    def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(data: NDArray[np.uint8], *others: Any) -> Any:
            return function(data.view(Guarded), *others)

        return call

    for module, name in ((merge, "gather"), (stride, "walk_pcap"), (walk, "walk_pcapng")):
        kernel = getattr(module, name)
        assert not hasattr(kernel, "signatures"), f"{name} is compiled"
        setattr(module, name, guarded(kernel))
    chain.decoder._table = chain.decoder._table.view(Guarded)
    chain.decoder._packets = chain.decoder._packets.view(Guarded)
    chain.decoder._link_types = chain.decoder._link_types.view(Guarded)
    chain.decoder.skipped = chain.decoder.skipped.view(Guarded)
    chain.table._table = Table(*(array.view(Guarded) for array in chain.table._table))
    chain.table._out = chain.table._out.view(Guarded)


def main(folder: Path, most: int, flows: Path) -> None:
    np.seterr(over="ignore")  # hashes are meant to wrap
    chain = Chain()
    guard(chain)
    np.save(flows, chain.lead_all(folder, most).view(np.ndarray))
    sys.stdout.write(json.dumps(chain.counters()))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
