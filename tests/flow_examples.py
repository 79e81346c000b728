"""Made-up labelled flows whose classes can be learned, and a training in several processes for a test to start.

Run by torchrun with a folder: trains on these, and the first process writes what it came to.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import numpy as np
import torch

from models.flowset import FlowSet, Split, honest
from models.multiflow import Shape
from models.multiflow_train import Settings, Trainer
from models.together import gather

SHAPE = Shape(columns=5, classes=3, flows=4, units=16, attention=8)
QUICK = Settings(epochs=3, batch=64, rate=1e-2, dropout=0.0)


def learnable(count: int = 600, seed: int = 1, pairs: int = 60) -> FlowSet:
    """Flows of three classes, one of them rare, in conversations of one class each; some values unknown."""
    random = np.random.default_rng(seed)
    slots = random.integers(0, pairs, count).astype(np.int32)
    label = np.array([0] * 6 + [1] * 3 + [2])[slots % 10].astype(np.int64)
    rows = np.exp(random.normal(3, 1, (count, SHAPE.columns)) + label[:, None] * np.linspace(-2, 2, SHAPE.columns))
    rows[random.random(rows.shape) < 0.05] = np.nan
    return FlowSet(rows.astype(np.float32), label, slots, np.zeros(count, np.bool_), np.zeros(count, np.int64))


def trainer_of(settings: Settings = QUICK, flows: FlowSet | None = None, split: Split | None = None) -> Trainer:
    """A trainer on flows of this kind."""
    data = learnable() if flows is None else flows
    return Trainer(data, split or honest(data), SHAPE, settings)


if __name__ == "__main__":
    torch.set_num_threads(1)
    together = gather(torch.device("cpu"))
    data = learnable()
    trainer = Trainer(data, honest(data), SHAPE, QUICK, together=together)
    folder = Path(sys.argv[1])
    history = trainer.run(checkpoint=folder / "checkpoint")
    again = Trainer(data, honest(data), SHAPE, QUICK, together=together)
    if again.run(checkpoint=folder / "checkpoint", resume=True) != history:
        sys.exit("the checkpoint that all processes read gives another history")
    if together.first:
        (folder / f"of-{together.size}").write_bytes(msgspec.json.encode(history))
    together.leave()
    threads = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    if any("gloo" in name for name in threads):  # they would run on into the interpreter's end, and might abort it
        sys.exit(f"threads of the group outlive it: {threads}")
