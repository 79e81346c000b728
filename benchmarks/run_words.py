"""Words a second through the shipped model on one core: the flows of a capture, scored again in batches of several sizes.

The words are those of real flow rows, with the slots that the conversation table gives them, so that a batch holds several
flows of one conversation as it does in the sensor. Prints one JSON object: words per second by batch size.
"""

from __future__ import annotations

import sys
import time

import msgspec
import numpy as np
from numpy.typing import NDArray

from sensor.kernels import prepare_cache

BATCHES = (1_000, 2_000, 4_000)
LEAST_S = 1.0
"""Every batch size is repeated for at least this long."""


def ended_flows(path: str) -> NDArray[np.void]:
    """Return all FLOW rows of a capture in the order in which they end."""
    from sensor.decode import Decoder  # noqa: PLC0415  # kernels are imported after their cache folder is chosen
    from sensor.flows import FlowTable  # noqa: PLC0415
    from sensor.sources.pcap import CaptureSource  # noqa: PLC0415

    decoder, table = Decoder(), FlowTable()
    parts = [table.feed(decoder.decode(block)).copy() for block in CaptureSource([path])]
    while len(rest := table.drain()):
        parts.append(rest)
    return np.concatenate(parts)


def measured(path: str) -> dict[int, float]:
    """Score the words of `path` batch by batch, for each batch size with an empty table and after one untimed batch."""
    import torch  # noqa: PLC0415  # slow to import

    from models.resident import Scorer  # noqa: PLC0415
    from sensor import config  # noqa: PLC0415
    from sensor.commands import replay  # noqa: PLC0415
    from sensor.conversations import Conversations  # noqa: PLC0415

    torch.set_num_threads(1)
    settings = config.load(None, ["model.device=cpu"])
    engine, flows, rates = replay.open_engine(settings), ended_flows(path), {}
    if len(flows) < 2 * max(BATCHES):
        raise ValueError(f"{path} has {len(flows)} flows: too few for batches of {max(BATCHES)}")
    for batch in BATCHES:
        table = Conversations(conversations=settings.conversations.table)
        scorer = Scorer(
            engine.judge.scorer.bundle,
            conversations=settings.conversations.table,
            device=torch.device("cpu"),
            rounds=settings.model.rounds,
        )
        spent_s, scored = -1.0, 0
        while spent_s < LEAST_S:
            for first in range(0, len(flows) - batch + 1, batch):
                turns = table.turn(flows[first : first + batch])
                words = engine.judge.vocabulary.words(flows[first : first + batch], turns)
                begun_s = time.thread_time()
                scorer.score(words, turns.slots, turns.restart, turns.hour, explain_p=engine.judge.detector.ceiling)
                if spent_s < 0:
                    spent_s = 0.0
                    continue
                spent_s += time.thread_time() - begun_s
                scored += batch
        rates[batch] = scored / spent_s
    return rates


if __name__ == "__main__":
    prepare_cache()
    sys.stdout.buffer.write(msgspec.json.encode(measured(sys.argv[1])))
