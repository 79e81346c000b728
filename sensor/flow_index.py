"""Finding a flow: the hash of its key, the open-addressed index over the rows, and the linked queues that rows wait in.

An entry of the index is 31 bits of hash above 32 bits of row number, -1 where empty, so that most probes are settled
without touching a row. Deletion moves later entries back instead of leaving tombstones: the index never wears out.
`flow_kernel` calls all of it, with arrays that `sensor.flows` laid out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sensor.flow_accumulate import M3, U32, mix
from sensor.kernels import part, prefetch
from sensor.schema import FLOW

_NAMES = FLOW.names or ()
HOT_BYTES = np.int64(sum(FLOW[name].itemsize for name in _NAMES[: _NAMES.index("active")]))
"""The part of a row that every packet touches."""
LINE_BYTES = np.int64(64)
LOW31 = np.uint64(0x7FFF_FFFF)


@part
def key_tag(row: np.void, seed: np.uint64) -> np.int64:
    """31 bits of hash of a packet's or flow's key, the same both ways. The seed keeps senders from aiming at one bucket."""
    a = (row["src_hi"] * M3 ^ row["src_lo"]) + (np.uint64(row["src_port"]) << U32)
    b = (row["dst_hi"] * M3 ^ row["dst_lo"]) + (np.uint64(row["dst_port"]) << U32)
    return np.int64(mix(mix(a ^ seed) + mix(b ^ seed) + np.uint64(row["protocol"])) & LOW31)


@part
def same_key(row: np.void, p: np.void) -> bool:
    """Does packet `p` belong to the flow `row`, in either direction?"""
    if row["protocol"] != p["protocol"]:
        return False
    if (
        row["src_lo"] == p["src_lo"]
        and row["dst_lo"] == p["dst_lo"]
        and row["src_port"] == p["src_port"]
        and row["dst_port"] == p["dst_port"]
        and row["src_hi"] == p["src_hi"]
        and row["dst_hi"] == p["dst_hi"]
    ):
        return True
    return bool(
        row["src_lo"] == p["dst_lo"]
        and row["dst_lo"] == p["src_lo"]
        and row["src_port"] == p["dst_port"]
        and row["dst_port"] == p["src_port"]
        and row["src_hi"] == p["dst_hi"]
        and row["dst_hi"] == p["src_hi"]
    )


@part
def find(index: NDArray[np.int64], rows: NDArray[np.void], p: np.void, tag: np.int64) -> np.int64:
    """Place in the index of the packet's flow, or -1 - (the empty place where it would go)."""
    mask = np.int64(len(index) - 1)
    place = tag & mask
    while True:
        entry = index[place]
        if entry < 0:
            return np.int64(-1 - place)
        if entry >> 32 == tag and same_key(rows[entry & 0xFFFF_FFFF], p):
            return np.int64(place)
        place = (place + 1) & mask


@part
def forget(index: NDArray[np.int64], place: np.int64) -> None:
    """Empty a place of the index and move later entries of the same run back, so that no look-up meets a hole."""
    mask = np.int64(len(index) - 1)
    hole = place
    here = (place + 1) & mask
    while index[here] >= 0:
        home = (index[here] >> 32) & mask
        if (here - home) & mask >= (here - hole) & mask:
            index[hole] = index[here]
            hole = here
        here = (here + 1) & mask
    index[hole] = -1


@part
def unlink(before: NDArray[np.int32], after: NDArray[np.int32], r: np.int64) -> None:
    """Take row `r` out of its queue."""
    b, a = before[r], after[r]
    after[b] = a
    before[a] = b


@part
def append(before: NDArray[np.int32], after: NDArray[np.int32], r: np.int64, end: np.int64) -> None:
    """Put row `r` at the end of the queue whose own link is `end`."""
    last = before[end]
    after[last] = r
    before[r] = last
    after[r] = end
    before[end] = r


@part
def look_ahead(
    index: NDArray[np.int64], rows: NDArray[np.void], seen: NDArray[np.uint32], tag: np.int64, segment: np.uint64
) -> None:
    """Ask memory for what a packet some places ahead will probably touch: its row's lines and its segment's place."""
    entry = index[tag & np.int64(len(index) - 1)]
    if entry >= 0:
        for offset in range(0, HOT_BYTES, LINE_BYTES):
            prefetch(rows, np.int64(entry & 0xFFFF_FFFF), np.int64(offset))
    prefetch(seen, np.int64(segment >> U32) & np.int64(len(seen) - 1), np.int64(0))
