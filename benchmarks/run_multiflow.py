"""Flows a second through a multi-flow model on one core, and windows a second in training on two: 256 units, 10 flows.

The flows are those of a capture with their real statistics and conversations, so that a batch holds several flows of one
conversation as it does in the sensor. The classes are made of three statistics, so that there is something to learn, and
bfloat16 is asked whether it names the same class after two epochs of it. Prints one JSON object.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.run_words import ended_flows
from sensor.kernels import prepare_cache

if TYPE_CHECKING:  # what these import is slow
    import torch

    from models.flowset import FlowSet
    from models.multiflow_checkpoint import FlowBundle

BATCH = 2_048
LEAST_S = 2.0
"""Every type of numbers is measured for at least this long."""
CORES = 2
EPOCHS = 3
"""Of training; the first is not timed."""
SLOTS = 1 << 16
CLASS_BY = ("Total Fwd Packet", "Total Length of Bwd Packet", "Flow Duration")
"""Over its median or not, each: eight classes."""


class FlowsRun(msgspec.Struct):
    """What was measured."""

    float32: float
    """Flows per CPU second, statistics already there."""
    bfloat16: float | None
    """The same; None where the processor has no such arithmetic."""
    same_class: float | None
    """Share of flows that both name alike."""
    training: float
    """Windows per second of wall time on two cores: gather, forward, backward and step."""
    columns: int


def measured(path: str) -> FlowsRun:
    """Train and score on the flows of `path`."""
    import torch  # noqa: PLC0415  # slow to import

    from models.flowset import stratified  # noqa: PLC0415
    from models.multiflow import Shape  # noqa: PLC0415
    from models.multiflow_assemble import assemble  # noqa: PLC0415
    from models.multiflow_checkpoint import FlowManifest  # noqa: PLC0415
    from models.multiflow_train import Settings, Trainer  # noqa: PLC0415
    from models.unfinished import Passed  # noqa: PLC0415
    from sensor.spellings import STATISTICS  # noqa: PLC0415

    flows = flow_set(path)
    split = stratified(flows)
    shape = Shape(len(STATISTICS), 1 << len(CLASS_BY))
    torch.set_num_threads(CORES)
    trainer = Trainer(flows, split, shape, Settings(epochs=EPOCHS))
    ended_s: list[float] = []

    def note(_: Passed) -> None:
        ended_s.append(time.monotonic())

    trainer.run(note)
    windows = (EPOCHS - 1) * (len(split.training) + len(split.validation) / 3)  # judging is about a third of learning
    training = windows / (ended_s[-1] - ended_s[0])
    manifest = FlowManifest(
        name="benchmark",
        version="1",
        classes=tuple(f"class {number}" for number in range(shape.classes)),
        columns=STATISTICS,
        source_kind="captures",
        centre=(),
        spread=(),
    )
    bundle = assemble(trainer, flows, manifest).bundle
    torch.set_num_threads(1)
    float32, named = scored(bundle, flows, torch.float32)
    if not torch.cpu._is_avx512_bf16_supported():
        return FlowsRun(float32, None, None, training, len(STATISTICS))
    bfloat16, named_too = scored(bundle, flows, torch.bfloat16)
    return FlowsRun(float32, bfloat16, float((named == named_too).mean()), training, len(STATISTICS))


def flow_set(path: str) -> FlowSet:
    """The capture's flows with their statistics, conversations and made-up classes."""
    from models.flowset import FlowSet  # noqa: PLC0415
    from sensor.conversations import Conversations  # noqa: PLC0415
    from sensor.spellings import STATISTICS  # noqa: PLC0415
    from sensor.statistics import statistics  # noqa: PLC0415

    flows = ended_flows(path)
    rows, turns = statistics(flows), Conversations(conversations=SLOTS).turn(flows)
    label = np.zeros(len(flows), np.int64)
    for bit, name in enumerate(CLASS_BY):
        values = rows[:, STATISTICS.index(name)]
        label |= (values > np.median(values)).astype(np.int64) << bit
    return FlowSet(rows, label, turns.slots, turns.restart, np.zeros(len(flows), np.int64))


def scored(bundle: FlowBundle, flows: FlowSet, dtype: torch.dtype) -> tuple[float, NDArray[np.int64]]:
    """Flows per CPU second in batches, from statistics to classes, and the class of each; the first batch is not timed."""
    import torch  # noqa: PLC0415

    from models.resident_flows import FlowScorer  # noqa: PLC0415

    scorer = FlowScorer(bundle, slots=SLOTS, device=torch.device("cpu"), dtype=dtype)
    spent_s, done = 0.0, -BATCH
    named: list[NDArray[np.int64]] = []
    while spent_s < LEAST_S:
        for first in range(0, len(flows.rows) - BATCH + 1, BATCH):
            part = slice(first, first + BATCH)
            begun_s = time.thread_time()
            found = scorer.score(flows.rows[part], flows.slots[part], flows.restart[part], explain_p=0.001)
            spent_s += (time.thread_time() - begun_s) * (done >= 0)
            done += BATCH
            named.append(found.probability.argmax(axis=1))
    once = (len(flows.rows) // BATCH) * BATCH
    return done / spent_s, np.concatenate(named)[:once]


if __name__ == "__main__":
    prepare_cache()
    sys.stdout.buffer.write(msgspec.json.encode(measured(sys.argv[1])))
