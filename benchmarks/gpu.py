"""`python -m benchmarks.gpu`: both models on a CUDA device, state resident, from batches in host memory to results there.

Batches are of made-up rows: what is measured does not depend on what they say. Every conversation has one flow in a batch, as
on a network with more conversations than the batch has flows; the sensor sees several of some, which takes the word model
more rounds. The copies to the device and back, the gather of the states and the scatter are in the time. Writes
RESULTS-gpu.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from benchmarks.measure import Spread

if TYPE_CHECKING:  # slow to import
    import torch

PAGE = Path(__file__).parent / "RESULTS-gpu.md"
SLOTS = 1 << 18
BATCHES = (2_048, 16_384, 65_536)
RUNS, WARM = 20, 3
NOT_MEASURED = "not measured yet"
WORDS_RATE, FLOWS_RATE = 10e6, 2e6
"""What is promised of one H100."""


class Rate(NamedTuple):
    """Flows a second of one model at one batch size."""

    model: str
    batch: int
    rate: Spread


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write the page; 2 without a device."""
    build = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="Measure both models on a CUDA device.")
    build.add_argument("--no-write", action="store_true", help="print only; RESULTS-gpu.md stays as it is")
    arguments = build.parse_args(argv)
    import torch  # noqa: PLC0415

    if not torch.cuda.is_available():
        print("benchmarks.gpu: torch finds no CUDA device here: run it where there is one", file=sys.stderr)
        return 2
    device = torch.device("cuda")
    rates = [rate for batch in BATCHES for rate in (words(batch, device), *flows(batch, device))]
    text = page(rates, f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}")
    print(text)
    if not arguments.no_write:
        PAGE.write_text(text, encoding="utf-8")
    return 0


def timed(what: Callable[[], object], batch: int, runs: int = RUNS) -> Spread:
    """Flows a second over several batches, after some that are not timed. `what` ends with its results in host memory."""
    for _ in range(WARM):
        what()
    rates = []
    for _ in range(runs):
        begun_s = time.perf_counter()
        what()
        rates.append(batch / (time.perf_counter() - begun_s))
    return Spread.of(rates)


def words(batch: int, device: torch.device, slots: int = SLOTS, runs: int = RUNS) -> Rate:
    """The shipped word model, from words to verdicts and p-values."""
    from models.checkpoint import DEFAULT_MODEL, load  # noqa: PLC0415
    from models.resident import Scorer  # noqa: PLC0415

    bundle, random = load(DEFAULT_MODEL), np.random.default_rng(1)
    scorer = Scorer(bundle, conversations=slots, device=device)
    chosen = random.permutation(slots)[:batch].astype(np.int32)
    given = np.stack([random.integers(0, size, batch) for size in bundle.manifest.sizes], axis=1).astype(np.int16)
    restart, hour = np.zeros(batch, np.bool_), np.zeros(batch, np.int64)
    spread = timed(lambda: scorer.score(given, chosen, restart, hour, explain_p=0.0), batch, runs)
    return Rate("word LSTM", batch, spread)


def flows(batch: int, device: torch.device, slots: int = SLOTS, runs: int = RUNS) -> list[Rate]:
    """A multi-flow model of the default size, from statistics to classes, in both types of numbers."""
    import torch  # noqa: PLC0415

    from models.calibrate import calibrate  # noqa: PLC0415
    from models.multiflow import MultiFlow, Shape  # noqa: PLC0415
    from models.multiflow_checkpoint import FlowBundle, FlowManifest  # noqa: PLC0415
    from models.resident_flows import FlowScorer  # noqa: PLC0415
    from models.scale import fit  # noqa: PLC0415
    from sensor.spellings import STATISTICS  # noqa: PLC0415

    random = np.random.default_rng(1)
    rows = np.exp(random.normal(5, 3, (batch, len(STATISTICS)))).astype(np.float32)
    classes = tuple(f"class {number}" for number in range(8))
    manifest = FlowManifest(
        name="benchmark", version="1", classes=classes, columns=STATISTICS, source_kind="captures", centre=(), spread=()
    )
    network = MultiFlow(Shape(len(STATISTICS), len(classes)), fit(rows)).eval()
    bundle = FlowBundle(manifest, network, calibrate(np.arange(100.0), days=1.0))
    chosen, restart = random.permutation(slots)[:batch].astype(np.int32), np.zeros(batch, np.bool_)
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        scorer = FlowScorer(bundle, slots=slots, device=device, dtype=dtype)

        def once(scorer: FlowScorer = scorer) -> object:
            return scorer.score(rows, chosen, restart, explain_p=0.0)

        found.append(Rate(f"multi-flow, {str(dtype).removeprefix('torch.')}", batch, timed(once, batch, runs)))
    return found


def page(rates: Sequence[Rate], device: str) -> str:
    """The page: a row for each model and batch size, or that nothing was measured."""
    head = (
        "# Both models on a CUDA device\n\n`python -m benchmarks.gpu` writes this page on a machine that has one. State"
        " resident, gather, scatter and both copies included;\nmedian, least and most of several batches. Promised of one H100:"
        f" {WORDS_RATE / 1e6:.0f} million words/s and {FLOWS_RATE / 1e6:.0f} million flows/s.\n\nDevice: {device}\n\n"
    )
    if not rates:
        return head
    lines = ["| model | batch | million flows/s |", "| --- | --- | --- |"]
    for rate in rates:
        least, median, most = (f"{value / 1e6:.2f}" for value in (rate.rate.low, rate.rate.median, rate.rate.high))
        lines.append(f"| {rate.model} | {rate.batch:,} | {median} ({least} to {most}) |")
    return head + "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
