"""How much memory the flow table takes at its default limit: counted in its arrays, and resident once it is full.

Prints one JSON object. The table is filled with unanswered TCP attempts, no two alike; every one takes a whole row, its
places in the index and one in the memory for retransmissions, as a longer flow does.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from sensor.kernels import prepare_cache
from sensor.schema import PACKET, SYN, TCP, V4_MAPPED


class TableMemory(msgspec.Struct):
    """What a full flow table takes."""

    flows: int
    bytes: dict[str, int]
    """The arrays: rows, what finds them, what remembers segments, what ended rows are handed over in."""
    before_bytes: int
    """Memory of the process before, with the libraries and compiled kernels in it."""
    full_bytes: int
    """And once the table is full; it grows by less than the arrays where it had memory to use again."""


def attempts(first: int, count: int) -> NDArray[np.void]:
    """(count,) PACKET rows of so many flows, from number `first` on, all at one time: none of them expires."""
    packets = np.zeros(count, PACKET)
    packets["ts_us"] = 1_700_000_000_000_000
    packets["src_lo"] = V4_MAPPED + 0x0A00_0000 + np.arange(first, first + count)
    packets["dst_lo"] = V4_MAPPED + 0xC613_0001  # 198.19.0.1 (RFC 2544)
    packets["src_port"], packets["dst_port"] = 40_000, 80
    packets["protocol"], packets["tcp_flags"] = TCP, SYN
    packets["seq"] = np.arange(first, first + count)
    packets["ip_bytes"], packets["header_bytes"] = 40, 20
    return packets


def measured(block: int = 4096) -> TableMemory:
    """Fill a table of the default size, `block` flows at a time."""
    from sensor.config import Flows  # noqa: PLC0415  # kernels are imported after their cache folder is chosen
    from sensor.flows import FlowTable  # noqa: PLC0415

    FlowTable(flows=64).feed(attempts(0, 64))  # the kernels' own memory is not the table's
    flows, before = Flows().table, resident_bytes()
    table = FlowTable(flows=flows)
    for first in range(0, flows, block):
        table.feed(attempts(first, min(block, flows - first)))
    if table.live != flows:
        raise ValueError(f"the table holds {table.live:,} flows of {flows:,}")
    rows, seen, out = table._table.rows.nbytes, table._table.seen.nbytes, table._out.nbytes
    index = sum(array.nbytes for array in table._table) - rows - seen
    arrays = {"rows": rows, "index and queues": index, "segments": seen, "ended rows": out}
    return TableMemory(flows, arrays, before, resident_bytes())


def resident_bytes() -> int:
    """Memory of this process that is there, by /proc."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    prepare_cache()
    sys.stdout.buffer.write(msgspec.json.encode(measured()))
