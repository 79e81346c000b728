"""`python -m tests.lab report`: what the models find in a run, attack by attack, and what their false alarms cost.

One capture with labels answers what `netseq-evaluate` asks as well; a run of the laboratory also knows its attacks one by one,
so that the report can tell which instance was noticed, by which voice, and how long after its first packet. Runs named with
--train give what simpler things can do that learned from those. Everything is measured on the run that is named, and on nothing
else: a run that a model was trained on is told on top.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

from .site import LabError

RESAMPLES = 0
"""Bootstrap resamples by default: intervals of each cell cost as many times the rest, and widen the tables."""


def add_parser(kinds: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command's options beside those of the other subcommands."""
    report = kinds.add_parser(
        "report",
        help="what the models find in a run",
        description="Measure the models on a run of the laboratory, attack by attack.",
    )
    report.add_argument("run", metavar="RUNDIR", type=Path, help="folder of a run")
    report.add_argument(
        "--word-model", metavar="DIR", type=Path, help="folder of a word model (default: the one that comes along)"
    )
    report.add_argument(
        "--multiflow",
        metavar="DIR",
        type=Path,
        help="folder of a multi-flow model (default: the one that comes along for packets)",
    )
    report.add_argument(
        "--train",
        metavar="RUNDIR",
        type=Path,
        nargs="+",
        default=[],
        help="runs that simpler things learn from, to compare with",
    )
    report.add_argument("--output", metavar="FILE", type=Path, required=True, help="Markdown file to write")
    report.add_argument("--seed", type=int, default=1, help="seed of all that is drawn at random (default: 1)")
    report.add_argument(
        "--resamples", type=int, default=RESAMPLES, help="bootstrap resamples for intervals of the AUC (default: none)"
    )
    report.add_argument("--threads", type=int, default=1, help="threads (default: 1)")
    report.set_defaults(do=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure and write; the exit status: 1 where parts of a capture could not be read. Raises LabError."""
    _check(arguments)
    import torch  # noqa: PLC0415  # slow to import: only once the arguments are known to be good

    from models.checkpoint import ModelDoesNotFit  # noqa: PLC0415
    from sensor.commands.misuse import Misuse  # noqa: PLC0415
    from sensor.kernels import prepare_cache  # noqa: PLC0415
    from sensor.labels import LabelsError  # noqa: PLC0415
    from sensor.sources.faults import NotACapture, NotAConnLog  # noqa: PLC0415
    from sensor.vocabulary import VocabularyDoesNotFit  # noqa: PLC0415

    prepare_cache()
    torch.set_num_threads(arguments.threads)
    from .report_markdown import to_markdown  # noqa: PLC0415
    from .report_measure import measure  # noqa: PLC0415

    arguments.command = shlex.join(["python", "-m", "tests.lab", *sys.argv[1:]])
    try:
        report, whole = measure(arguments)
    except (ModelDoesNotFit, VocabularyDoesNotFit, LabelsError, Misuse, NotACapture, NotAConnLog) as error:
        raise LabError(str(error)) from None
    try:
        arguments.output.write_text(to_markdown(report), encoding="utf-8")
    except OSError as error:  # a full disk, most likely
        raise LabError(f"{arguments.output}: the report cannot be written: {error.strerror}") from None
    sys.stdout.write(f"report       {arguments.output}\n")
    return 0 if whole else 1


def _check(arguments: argparse.Namespace) -> None:
    """Refuse what cannot work before anything slow begins. Raises LabError."""
    for folder in (arguments.run, *arguments.train):
        if not folder.is_dir():
            raise LabError(f"{folder}: no such folder: name the folder of a run")
    for model in filter(None, (arguments.word_model, arguments.multiflow)):
        if not (model / "manifest.json").is_file():
            raise LabError(f"{model}: no model there: name a folder that netseq-train has written")
    if arguments.run.resolve() in [folder.resolve() for folder in arguments.train]:
        raise LabError(f"--train {arguments.run}: what is measured must not be learned from: name another run")
    if arguments.output.is_dir() or not os.access(arguments.output.absolute().parent, os.W_OK):
        raise LabError(f"{arguments.output}: cannot be written: name a file in a folder that is there and may be written")
    for name, least in (("seed", 0), ("resamples", 0), ("threads", 1)):
        if getattr(arguments, name) < least:
            raise LabError(f"--{name} {getattr(arguments, name)}: give a number from {least} on")
