"""What a flood of one pair costs the sensor beside ordinary traffic, flow by flow, from words to alerts on one core.

The flood is the same flows of the capture, all of them made unanswered attempts of one host at one port of another: one long
conversation, whose flows cannot be stepped together, and which alarms, so that all of it is explained. Both are judged in
turns, batch by batch. Prints one JSON object: CPU seconds by kind of traffic.
"""

from __future__ import annotations

import sys
import time

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.run_words import ended_flows
from sensor.kernels import prepare_cache

ROUNDS = 5
"""Times that all flows are judged; the first, when what is lazy comes alive, is not counted."""


def flooded(flows: NDArray[np.void]) -> NDArray[np.void]:
    """Return the flows as unanswered attempts of one pair, each from a port of its own."""
    from sensor.schema import CONN_STATES, TCP  # noqa: PLC0415  # kernels are imported after their cache folder is chosen

    same = flows.copy()
    for name in ("src_hi", "src_lo", "dst_hi", "dst_lo"):
        same[name] = flows[name][0]
    same["protocol"], same["dst_port"], same["conn_state"] = TCP, 4444, CONN_STATES.index("S0")
    same["src_port"] = np.arange(len(same)) % 60_000 + 1024
    for way in ("fwd", "bwd"):
        same[way]["payload"] = 0
    return same


def measured(path: str) -> dict[str, float]:
    """Judge the flows of `path` and their flood in turns, in batches as the sensor makes them."""
    import torch  # noqa: PLC0415  # slow to import

    from sensor import config  # noqa: PLC0415
    from sensor.commands import replay  # noqa: PLC0415
    from sensor.schema import FlowBatch  # noqa: PLC0415

    torch.set_num_threads(1)
    settings = config.load(None, ["model.device=cpu"])
    ordinary = ended_flows(path)
    kinds = {"ordinary": ordinary, "flood": flooded(ordinary)}
    judges = {kind: replay.open_engine(settings).judge for kind in kinds}
    spent_s = dict.fromkeys(kinds, 0.0)
    for again in range(ROUNDS):
        for first in range(0, len(ordinary), settings.model.batch_flows):
            for kind, flows in kinds.items():
                batch = FlowBatch(flows[first : first + settings.model.batch_flows])
                begun_s = time.thread_time()
                judges[kind].judge(batch)
                spent_s[kind] += (time.thread_time() - begun_s) * (again > 0)
    return spent_s


if __name__ == "__main__":
    prepare_cache()
    sys.stdout.buffer.write(msgspec.json.encode(measured(sys.argv[1])))
