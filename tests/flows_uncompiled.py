"""Feeds packets to a flow table whose kernels are plain Python, with arrays that refuse an index below or beyond them.

Run by `test_flows_truth` as a program of its own, because numba is switched off for a whole process: packets.npy in,
flows.npy out. numpy by itself takes -1 for the last item; the arrays here do not.
"""

from __future__ import annotations

import os
import sys
from typing import Any, cast

os.environ["NUMBA_DISABLE_JIT"] = "1"

import numpy as np
from guarded import Guarded

from sensor.flow_kernel import Table
from sensor.flows import FlowTable


def main(packets: str, flows: str, table_flows: int) -> None:
    np.seterr(over="ignore")  # hashes are meant to wrap
    table = FlowTable(flows=table_flows, seed=1)
    table._table = Table(*(array.view(Guarded) for array in table._table))
    table._out = table._out.view(Guarded)
    parts = [table.feed(np.load(packets).view(Guarded)).copy()]
    while len(part := table.drain()):
        parts.append(part.copy())
    np.save(flows, np.concatenate([cast("np.ndarray[Any, Any]", part.view(np.ndarray)) for part in parts]))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
