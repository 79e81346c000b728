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
EXPLAIN_P = 1e-4
"""Of benign conversation-hours: about what the default alert budget lets through."""


def ended_flows(path: str) -> NDArray[np.void]:
    """Return all FLOW rows of a capture in the order in which they end."""
    from sensor.decode import Decoder  # noqa: PLC0415  # kernels are imported after their cache folder is chosen
    from sensor.flows import FlowTable  # noqa: PLC0415
    from sensor.sources.pcap import CaptureSource  # noqa: PLC0415

    decoder, table = Decoder(), FlowTable()
    parts = [table.feed(decoder.decode(block)) for block in CaptureSource([path])]
    while len(rest := table.drain()):
        parts.append(rest)
    return np.concatenate(parts)


def measured(path: str) -> dict[int, float]:
    """Score the words of `path` batch by batch, after one batch that is not timed."""
    import torch  # noqa: PLC0415  # slow to import: after a mistake in the arguments would have shown

    from models.checkpoint import load  # noqa: PLC0415
    from models.resident import Scorer  # noqa: PLC0415
    from sensor.config import Settings  # noqa: PLC0415
    from sensor.conversations import Conversations  # noqa: PLC0415
    from sensor.words import Vocabulary  # noqa: PLC0415

    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    conversations = Settings().conversations.table
    bundle = load(Settings().model.path)
    vocabulary = Vocabulary.from_json(bundle.manifest.vocabulary)
    flows = ended_flows(path)
    rates = {}
    for batch in BATCHES:
        scorer, table = Scorer(bundle, conversations=conversations, device=cpu), Conversations(conversations=conversations)
        begun_s, spent_s, scored = time.perf_counter(), 0.0, 0
        while time.perf_counter() - begun_s < LEAST_S:
            for first in range(0, len(flows) - batch + 1, batch):
                some = flows[first : first + batch]
                turns = table.turn(some)
                words = vocabulary.words(some, turns)
                before_s = time.thread_time()
                scorer.score(words, turns.slots, turns.restart, turns.hour, explain_p=EXPLAIN_P)
                if first:
                    spent_s += time.thread_time() - before_s
                    scored += batch
        rates[batch] = scored / spent_s
    return rates


if __name__ == "__main__":
    prepare_cache()
    sys.stdout.buffer.write(msgspec.json.encode(measured(sys.argv[1])))
