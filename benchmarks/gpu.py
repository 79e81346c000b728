"""`python -m benchmarks.gpu`: both models on a CUDA device, state resident, from batches in host memory to results there.

Batches are of made-up rows: what is measured does not depend on what they say. Every conversation has one flow in a batch, as
on a network with more conversations than the batch has flows; the word model, which reads the flows of one conversation after
another, is measured with sixteen flows of each too. Both copies, the gather of the states and the scatter are in the time: it
is the wall time of a call that returns with its results in host memory. Capturing the graphs is not, and no row is explained.
Writes RESULTS-gpu.md. `--device cpu` runs the same code, planned on the device, to try it; what that measures is no figure.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import Spread

if TYPE_CHECKING:  # slow to import
    import torch

PAGE = Path(__file__).parent / "RESULTS-gpu.md"
SLOTS = 1 << 18
BATCHES = (2_048, 16_384, 65_536, 262_144)
"""The last is of several pieces of either model: while the device is at one, the host takes the results of another."""
RUNS, WARM = 20, 3
FLOWS_EACH = 16
"""Of one conversation in a batch, where there are several."""
NOT_MEASURED = "not measured yet"
WORDS_RATE, FLOWS_RATE = 10e6, 2e6
"""What is promised of one H100."""


class Rate(NamedTuple):
    """Words or flows a second of one model at one batch size."""

    model: str
    batch: int
    rate: Spread


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write the page; 2 without a device."""
    arguments = parser().parse_args(argv)
    if min(arguments.batches) < 1 or max(arguments.batches) > arguments.slots or arguments.runs < 1:
        print(
            "benchmarks.gpu: a batch has 1 row at least and no more than there are --slots; measure once at least",
            file=sys.stderr,
        )
        return 2
    import torch  # noqa: PLC0415

    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("benchmarks.gpu: torch finds no CUDA device here: run it where there is one", file=sys.stderr)
        return 2
    slots, runs = arguments.slots, arguments.runs
    rates = [
        rate for batch in arguments.batches for rate in (*words(batch, device, slots, runs), *flows(batch, device, slots, runs))
    ]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "the processor, to try the benchmark"
    text = page(rates, f"{name}, torch {torch.__version__}; {slots:,} slots, {runs} batches each after {WARM} untimed ones")
    print(text)
    if device.type == "cuda" and not arguments.no_write:
        PAGE.write_text(text, encoding="utf-8")
    return 0


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    build = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="Measure both models on a CUDA device.")
    build.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu tries the benchmark and writes nothing")
    build.add_argument("--batches", type=numbers, default=BATCHES, metavar="N[,N]", help="rows of a batch")
    build.add_argument("--slots", type=int, default=SLOTS, help="conversations that state is kept of (default: %(default)s)")
    build.add_argument("--runs", type=int, default=RUNS, help="measured batches of each size (default: %(default)s)")
    build.add_argument("--no-write", action="store_true", help="print only; RESULTS-gpu.md stays as it is")
    return build


def numbers(text: str) -> tuple[int, ...]:
    """Split a list of numbers. Raises ValueError, which argparse tells, for what is none."""
    return tuple(int(number) for number in text.split(","))


def timed(what: Callable[[], object], batch: int, runs: int) -> Spread:
    """Flows a second over several batches, after some that are not timed. `what` ends with its results in host memory."""
    for _ in range(WARM):
        what()
    rates = []
    for _ in range(runs):
        begun_s = time.perf_counter()
        what()
        rates.append(batch / (time.perf_counter() - begun_s))
    return Spread.of(rates)


def words(batch: int, device: torch.device, slots: int = SLOTS, runs: int = RUNS) -> list[Rate]:
    """The shipped word model, from words to verdicts and p-values: one flow of each conversation, and several."""
    from models.checkpoint import DEFAULT_MODEL, load  # noqa: PLC0415
    from models.resident import Scorer  # noqa: PLC0415

    bundle, random = load(DEFAULT_MODEL), np.random.default_rng(1)
    scorer = Scorer(bundle, conversations=slots, device=device, planned_there=True)
    given = np.stack([random.integers(0, size, batch) for size in bundle.manifest.sizes], axis=1).astype(np.int16)
    restart, hour = np.zeros(batch, np.bool_), np.zeros(batch, np.int64)
    all_different = random.permutation(slots)[:batch].astype(np.int32)
    few = random.permutation(np.repeat(all_different[: -(-batch // FLOWS_EACH)], FLOWS_EACH)[:batch])
    found = []
    for name, chosen in (("word LSTM", all_different), (f"word LSTM, {FLOWS_EACH} flows a conversation", few)):

        def once(chosen: NDArray[np.int32] = chosen) -> object:
            return scorer.score(given, chosen, restart, hour, explain_p=0.0)

        found.append(Rate(name, batch, timed(once, batch, runs)))
    return found


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
        scorer = FlowScorer(bundle, slots=slots, device=device, dtype=dtype, planned_there=True)

        def once(scorer: FlowScorer = scorer) -> object:
            return scorer.score(rows, chosen, restart, explain_p=0.0)

        found.append(Rate(f"multi-flow, {str(dtype).removeprefix('torch.')}", batch, timed(once, batch, runs)))
    return found


def page(rates: Sequence[Rate], device: str) -> str:
    """The page: a row for each model and batch size, or that nothing was measured."""
    head = (
        "# Both models on a CUDA device\n\n`python -m benchmarks.gpu` writes this page on a machine that has one. It is wall"
        + " time from rows in host memory to\nresults there: state resident, gather, scatter and both copies included;"
        + f" median, least and most of several batches. Promised of\none H100: {WORDS_RATE / 1e6:.0f} million words/s and"
        + f" {FLOWS_RATE / 1e6:.0f} million flows/s.\n\nDevice: {device}\n\n"
    )
    if not rates:
        return head
    lines = ["| model | rows a batch | million words or flows/s |", "| --- | --- | --- |"]
    for rate in rates:
        least, median, most = (f"{value / 1e6:.2f}" for value in (rate.rate.low, rate.rate.median, rate.rate.high))
        lines.append(f"| {rate.model} | {rate.batch:,} | {median} ({least} to {most}) |")
    return head + "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
