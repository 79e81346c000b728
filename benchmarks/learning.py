"""What learning a site is worth: alerts a day before and after, on the part of a data set that was not learned from.

The first flows of each FILE are recorded as netseq-sensor records them, `netseq-train site` makes a model of them, and the
rest is judged by the shipped model and by the site's, each after it has read the first part, as a sensor would have.

    python -m benchmarks.learning FILE... [--learn 0.5] [--calibrate] [--benign] [--base DIR]

Of labelled logs, alerts on attacks are told apart; with --benign, no attack is among what is learned.

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
from sensor.service_alerted import by_rule
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
    parser.add_argument("--benign", action="store_true", help="learn from no flow that is labelled as an attack")
    parser.add_argument(
        "--base", type=Path, default=DEFAULT_MODEL, metavar="DIR", help="the model before (default: the shipped one)"
    )
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    print("| data | flows learned from | the rest, attacks | hours | alerts, on attacks: before | after | expected a day |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for path in arguments.files:
        print(row(path, arguments), flush=True)
    return 0


def row(path: str, arguments: argparse.Namespace) -> str:
    """Learn the first share of a file, and judge the rest."""
    data = read(path)
    flows, attack = data.flows, data.attack
    first = int(len(flows) * arguments.learn)
    learned = flows[:first][~attack[:first]] if arguments.benign else flows[:first]
    hours = len(np.unique(flows["last_us"][first:] // 3_600_000_000))
    before = alerts(load(arguments.base), flows, attack, first)
    head = f"| {path} | {len(learned)} | {len(flows) - first}, {int(attack[first:].sum())} | {hours} | {before}"
    with tempfile.TemporaryDirectory() as state:
        recorder = Recorder(Path(state) / "record", keep_days=365, disk_mib=1024, tell=lambda *_: None)
        for start in range(0, len(learned), BATCH):
            recorder.record(FlowBatch(learned[start : start + BATCH]), [])
            recorder.flush(PATIENCE_S)
        recorder.close()
        more = ["--config", "/dev/null", "--set", f"model.path={arguments.base}", *["--calibrate"] * arguments.calibrate]
        status = netseq_train(["site", "--state", state, *more])
        site = Site(Path(state))
        using = site.current()
        if using is None:
            return f"{head} | not learned: status {status} | |"
        told = site.report_of(using)
        return f"{head} | {alerts(load(using), flows, attack, first)} ({told['how']}) | {told['expected_alerts_a_day']} |"


def alerts(bundle: Bundle, flows: NDArray[np.void], attack: NDArray[np.bool_], first: int) -> str:
    """Alerts of the model on the flows from `first` on, and those of them on attacks."""
    judge = Judge(Settings(), bundle, device=torch.device("cpu"))
    found: list[int] = []
    for start in range(0, len(flows), BATCH):
        rows = range(start, min(start + BATCH, len(flows)))
        raised = judge.judge(FlowBatch(flows[start : rows.stop], [str(row) for row in rows]))
        found += [int(alert.uid or 0) for alert in raised if not by_rule(alert)]
    late = [row for row in found if row >= first]
    return f"{len(late)}, {int(attack[late].sum())}"


if __name__ == "__main__":
    sys.exit(main())
