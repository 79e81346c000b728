"""What learning a site is worth: alerts a day before and after, on the part of a data set that was not learned from.

The first flows of each FILE are recorded as netseq-sensor records them, `netseq-train site` makes a model of them, and the
rest is judged by the shipped model and by the site's, each after it has read the first part, as a sensor would have.

    python -m benchmarks.learning FILE... [--learn 0.5] [--calibrate] [--base DIR]

A FILE that the shipped model was trained on is no site to it: --base names a model that takes the shipped one's place.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from models.checkpoint import DEFAULT_MODEL, Bundle, load
from sensor.commands.datasets import read
from sensor.commands.train import main as netseq_train
from sensor.config import Settings
from sensor.engine import Judge
from sensor.schema import FlowBatch
from sensor.service_record import Recorder
from sensor.service_site import Site

BATCH = 2048
PATIENCE_S = 300.0


def main(argv: Sequence[str] | None = None) -> int:
    """Print one row of a Markdown table for each FILE."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--learn", type=float, default=0.5, metavar="SHARE", help="first share of the flows, learned from")
    parser.add_argument("--calibrate", action="store_true", help="calibrate only")
    parser.add_argument(
        "--base", type=Path, default=DEFAULT_MODEL, metavar="DIR", help="the model before (default: the shipped one)"
    )
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    print("| data | learned from: flows | the rest: flows | hours | alerts, before | alerts, after learning | expected a day |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for path in arguments.files:
        print(row(path, arguments.learn, arguments.base, calibrate=arguments.calibrate), flush=True)
    return 0


def row(path: str, share: float, base: Path, *, calibrate: bool) -> str:
    """Learn the first share of a file, and judge the rest."""
    flows = read(path).flows
    first = int(len(flows) * share)
    hours = len(np.unique(flows["last_us"][first:] // 3_600_000_000))
    with tempfile.TemporaryDirectory() as state:
        recorder = Recorder(Path(state) / "record", keep_days=365, disk_mib=1024, tell=lambda *_: None)
        for start in range(0, first, BATCH):
            recorder.record(FlowBatch(flows[start : min(start + BATCH, first)]), [])
            recorder.flush(PATIENCE_S)
        recorder.close()
        more = ["--config", "/dev/null", "--set", f"model.path={base}", *["--calibrate"] * calibrate]
        status = netseq_train(["site", "--state", state, *more])
        site = Site(Path(state))
        using = site.current()
        before = alerts(load(base), flows, first)
        if using is None:
            return f"| {path} | {first:,} | {len(flows) - first:,} | {hours} | {before} | not learned: status {status} | |"
        told = site.report_of(using)
        after = alerts(load(using), flows, first)
    cells = (first, len(flows) - first, hours, before, f"{after} ({told['how']})", told["expected_alerts_a_day"])
    return f"| {path} | " + " | ".join(str(cell) for cell in cells) + " |"


def alerts(bundle: Bundle, flows: NDArray[np.void], first: int) -> int:
    """Alerts on the flows from `first` on."""
    judge = Judge(Settings(), bundle, device=torch.device("cpu"))
    found = 0
    for begin, end in ((0, first), (first, len(flows))):
        found = 0
        for start in range(begin, end, BATCH):
            found += len(judge.judge(FlowBatch(flows[start : min(start + BATCH, end)])))
    return found


if __name__ == "__main__":
    sys.exit(main())
