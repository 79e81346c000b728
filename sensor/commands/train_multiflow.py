"""`netseq-train multiflow`: labelled flows in, a model that knows attacks by the last flows out.

Reads captures, conn.logs and tables of flows with their classes (`flowsets`), cuts them into what is trained on and what is
held back, trains (`models.multiflow_train`) and writes the model with its temperature and calibration. After every epoch a
checkpoint lies in the output folder, which --resume goes on from; it is removed once the model is written. Under torchrun
several processes train one model, and the first of them speaks. Exit statuses as of `netseq-train words`.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sensor import __version__
from sensor.commands.misuse import Misuse, Parser, check_inputs, check_output, fail
from sensor.commands.process import DAMAGED, DONE, INTERRUPTED, MISUSE

if TYPE_CHECKING:  # what these import is slow, and is not needed to tell of a mistake
    import torch

    from models.flowset import Split
    from models.multiflow_assemble import Assembled
    from models.multiflow_checkpoint import FlowManifest
    from models.multiflow_train import Measured, Trainer
    from models.together import Together
    from models.unfinished import Passed
    from sensor.commands.classes import Classes
    from sensor.commands.flowsets import Read
    from sensor.commands.train import Progress

NAME = "netseq-train"
CHECKPOINT = "training.safetensors"
"""In the output folder, until the model is written."""
MOST_FLOWS, MOST_UNITS = 1024, 4096
"""What a manifest may say (`models.multiflow_checkpoint`)."""

EPILOG = """\
Examples:
  netseq-train multiflow TrafficLabelling/ --output ids2017     CICIDS2017's tables, with their own labels
  netseq-train multiflow monday.pcap --labels labels.csv --output office
                                                                captures, judged by a label file (docs/labels.md)
  netseq-train multiflow zeek/ --columns conn.log --classes Normal,Attack --rest Attack --output zeek
  torchrun --standalone --nproc-per-node 2 --no-python netseq-train multiflow flows.csv --output office

Held back for early stop, temperature and calibration are whole sequences (--split honest), or single flows at random as
the paper has it (--split stratified), which flatters. An interrupted training goes on with --resume.

Exit status: 0 done; 1 part of the input was damaged (the rest was trained on); 2 misuse, or nothing to train on.
"""


class Trained(NamedTuple):
    """What a run came to."""

    read: Read
    split: Split
    trainer: Trainer
    remarks: list[str]


def add_parser(kinds: argparse._SubParsersAction[Parser]) -> None:
    """Add the command's options beside those of the other kinds of model."""
    multiflow = kinds.add_parser(
        "multiflow",
        help="the attention LSTM over the last flows of a conversation or a host",
        description="Train a model that tells classes of attacks apart by the statistics of the last flows.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    multiflow.add_argument(
        "files", nargs="+", metavar="FILE", help="labelled flows: table, conn.log, or capture with --labels, or a folder"
    )
    multiflow.add_argument("--output", "--out", metavar="DIR", type=Path, required=True, help="folder to write the model into")
    multiflow.add_argument("--name", help="name of the model in alerts (default: the last part of DIR)")
    multiflow.add_argument("--quiet", action="store_true", help="no progress and no summary")
    _add_what(multiflow.add_argument_group("what is learned"))
    _add_how(multiflow.add_argument_group("how it is trained"))


def _add_what(what: argparse._ArgumentGroup) -> None:
    """Options that say which flows, columns and classes there are."""
    what.add_argument("--labels", metavar="FILE", help="label file (docs/labels.md); goes before labels in the files")
    what.add_argument("--classes", metavar="A,B", help="classes, the ordinary one first (default: the eight of the paper)")
    what.add_argument("--rest", metavar="CLASS", help="class of attacks whose label no class knows (default: they have none)")
    what.add_argument(
        "--columns", metavar="A,B", default="all", help='statistics by name, "all", or "conn.log": what a log can tell'
    )
    what.add_argument("--without", metavar="A,B", default="", help="statistics left out of those")
    what.add_argument(
        "--sequence", choices=("pair", "host"), default="host", help="whose last flows (default: the source host's)"
    )
    what.add_argument("--flows", type=int, default=10, help="flows of a window, the current one among them (default: 10)")
    what.add_argument(
        "--as-published", action="store_true", help="take columns of other rules than netseq's too (docs/statistics.md)"
    )
    what.add_argument("--licence", default="", help="licence of the data, for the manifest")


def _add_how(how: argparse._ArgumentGroup) -> None:
    """Options of the training itself."""
    how.add_argument("--split", choices=("honest", "stratified"), default="honest", help="how flows are held back")
    how.add_argument("--validation", type=float, default=0.2, metavar="SHARE", help="share held back (default: 0.2)")
    how.add_argument(
        "--held-back",
        nargs="+",
        default=[],
        metavar="FILE",
        help="hold these files back whole, in place of a share of the others",
    )
    how.add_argument("--test", type=float, default=0.0, metavar="SHARE", help="share kept to test on (default: 0)")
    how.add_argument(
        "--weights",
        choices=("capped", "balanced", "none"),
        default="capped",
        help="rare classes weigh more, up to a limit; are drawn as often as the others; or neither (default: capped)",
    )
    how.add_argument("--cap", type=float, default=10.0, help="most that a flow of a rare class weighs (default: 10)")
    how.add_argument("--seed", type=int, default=1, help="same data, same seed, one thread: same model (default: 1)")
    how.add_argument("--epochs", type=int, default=30, help="at most so many passes; 0 only reads (default: 30)")
    how.add_argument("--patience", type=int, default=5, help="passes without a better one before it ends (default: 5)")
    how.add_argument("--batch", type=int, default=256, help="windows of a step, of all processes together (default: 256)")
    how.add_argument("--units", type=int, default=256, help="size of the LSTM's state (default: 256)")
    how.add_argument("--rate", type=float, default=2e-3, help="highest learning rate (default: 0.002)")
    how.add_argument(
        "--mixed", choices=("cuda", "always", "never"), default="cuda", help="where to compute in bfloat16 (default: on CUDA)"
    )
    how.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: CUDA where there is one")
    how.add_argument("--threads", type=int, help="threads (default: one a core, under torchrun one)")
    how.add_argument("--resume", action="store_true", help="go on from the checkpoint in DIR, if there is one")


def run(arguments: argparse.Namespace, command: str) -> int:
    """Check, read, train, write; the exit status. Raises Misuse, of several processes in the first one only."""
    try:
        check(arguments)
        return train(arguments, command)
    except Misuse:
        if _first():
            raise
        return MISUSE


def _first() -> bool:
    """Whether this is the process that writes and speaks, by what torchrun says before they have met."""
    return os.environ.get("RANK", "0") == "0"


def check(arguments: argparse.Namespace) -> None:
    """Refuse what cannot work before anything slow begins. Raises Misuse."""
    low = {"epochs": 0, "patience": 1, "batch": 1, "units": 1, "flows": 2, "seed": 0}
    high = {"seed": (1 << 63) - 1, "units": MOST_UNITS, "flows": MOST_FLOWS}
    for name, least in low.items():
        number = getattr(arguments, name)
        if not least <= number <= high.get(name, 1 << 31):
            raise Misuse(f"--{name} {number}: give a number from {least} to {high.get(name, 1 << 31)}")
    if arguments.threads is not None and arguments.threads < 1:
        raise Misuse(f"--threads {arguments.threads}: give a number from 1 on")
    for name in ("validation", "test"):
        if not 0 <= getattr(arguments, name) < 1:
            raise Misuse(f"--{name} {getattr(arguments, name):g}: give a share from 0 on, below 1")
    if not 0 < arguments.rate < math.inf:
        raise Misuse(f"--rate {arguments.rate:g}: give a learning rate above 0")
    if not 1 <= arguments.cap < math.inf:
        raise Misuse(f"--cap {arguments.cap:g}: give a number from 1 on")
    if arguments.held_back and arguments.test:
        raise Misuse("--test: with --held-back, files to test on are left to netseq-evaluate multiflow")
    if "-" in [*arguments.files, *arguments.held_back]:
        raise Misuse("-: training reads its data more than once: give files or folders")
    check_inputs(NAME, [*arguments.files, *arguments.held_back, *([arguments.labels] if arguments.labels else [])])
    if _first():  # it tries the folder out, which two must not do at once
        check_output(arguments.output, ["manifest.json", "weights.safetensors", CHECKPOINT])
    if (arguments.output / CHECKPOINT).exists() and not arguments.resume and arguments.epochs:
        raise Misuse(f"{arguments.output / CHECKPOINT}: a training was interrupted here: --resume goes on, or remove it")


def train(arguments: argparse.Namespace, command: str) -> int:
    """Meet the other processes, if there are any, and train. Raises Misuse with the line of whatever was refused."""
    import torch  # noqa: PLC0415  # slow to import: only once the arguments are known to be good

    from models.together import gather  # noqa: PLC0415
    from sensor.kernels import prepare_cache  # noqa: PLC0415

    prepare_cache()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    together = gather(_device(arguments.device))
    try:
        return _train(arguments, command, together)
    finally:
        together.leave()


def _device(asked: str) -> torch.device:
    """The device asked for. Raises Misuse when there is none."""
    import torch  # noqa: PLC0415

    if asked == "cuda" and not torch.cuda.is_available():
        raise Misuse("--device cuda: there is no CUDA device here, or torch was built without CUDA")
    return torch.device("cpu" if asked == "cpu" or not torch.cuda.is_available() else "cuda")


def _train(arguments: argparse.Namespace, command: str, together: Together) -> int:
    """Train as one of the processes that do."""
    from sensor.commands.train import Progress  # noqa: PLC0415

    speaks = together.first and not arguments.quiet
    checkpoint = arguments.output / CHECKPOINT
    with Progress(shown=speaks and sys.stderr.isatty()) as progress:
        classes, columns = classes_of(arguments), columns_of(arguments)
        read = read_flows(arguments, classes, columns, progress)
        try:
            made = fit(arguments, read, classes, together, progress)
        except KeyboardInterrupt:
            kept = f": --resume goes on from {checkpoint}" if checkpoint.exists() else ""
            return fail(NAME, f"interrupted: no model was written{kept}", INTERRUPTED)
        assembled = tested = None
        if made.trainer.history:
            from models.multiflow_assemble import assemble  # noqa: PLC0415

            assembled = assemble(made.trainer, read.flows, describe(arguments, command, read, classes))
            tested = made.trainer.measure(made.split.test) if len(made.split.test) else None
    return finish(arguments, made, assembled, tested) if together.first else DONE


def fit(arguments: argparse.Namespace, read: Read, classes: Classes, together: Together, progress: Progress) -> Trained:
    """Split and train; with --epochs 0, only lay the training out. Raises Misuse."""
    from models import flowset  # noqa: PLC0415
    from models.multiflow import Shape  # noqa: PLC0415
    from models.multiflow_train import Settings, Trainer  # noqa: PLC0415
    from models.unfinished import CheckpointDoesNotFit  # noqa: PLC0415

    cut = flowset.honest if arguments.split == "honest" else flowset.stratified
    shape = Shape(len(read.columns), len(classes.names), arguments.flows, arguments.units)
    names = ("seed", "epochs", "patience", "batch", "rate", "weights", "cap", "mixed")
    settings = Settings(**{name: getattr(arguments, name) for name in names})
    try:
        if arguments.held_back:
            split = flowset.apart(read.flows, sum(one.rows for one in read.data[: len(arguments.files)]))
        else:
            split = cut(read.flows, arguments.test, arguments.seed, arguments.validation)
        trainer = Trainer(read.flows, split, shape, settings, together=together)
        if arguments.epochs:
            arguments.output.mkdir(parents=True, exist_ok=True)
            trainer.run(lambda passed: _show(progress, passed), arguments.output / CHECKPOINT, resume=arguments.resume)
    except ValueError as error:  # too little to learn from
        raise Misuse(f"{', '.join(arguments.files)}: {error}") from error
    except CheckpointDoesNotFit as error:
        raise Misuse(str(error)) from error
    return Trained(read, split, trainer, flowset.remarks(read.flows, split, classes.names, read.columns, arguments.flows))


def finish(arguments: argparse.Namespace, made: Trained, assembled: Assembled | None, tested: Measured | None) -> int:
    """Write the model and tell of it; the exit status."""
    from models.multiflow_checkpoint import save  # noqa: PLC0415

    checkpoint = arguments.output / CHECKPOINT
    if assembled is not None:
        try:
            save(arguments.output, assembled.bundle)
        except OSError as error:  # a full disk, most likely
            kept = ": --resume writes it once there is room" if checkpoint.exists() else ""
            return fail(NAME, f"{arguments.output}: the model cannot be written: {error.strerror}{kept}", DAMAGED)
        checkpoint.unlink(missing_ok=True)
    if not arguments.quiet:
        print(summary(arguments, made, assembled, tested))
    for line in made.trainer.remarks:
        fail(NAME, line, DONE)
    for one in made.read.data:
        if one.damaged:
            fail(NAME, f"{one.path}: parts of it could not be read; the rest was trained on", DAMAGED)
    return DAMAGED if made.read.damaged else DONE


def read_flows(arguments: argparse.Namespace, classes: Classes, columns: Sequence[str], progress: Progress) -> Read:
    """Read all files under the bar. Raises Misuse."""
    from sensor.commands.flowsets import read  # noqa: PLC0415
    from sensor.labels import Labels, LabelsError  # noqa: PLC0415
    from sensor.sources.faults import NotAConnLog  # noqa: PLC0415
    from sensor.sources.flowcsv import NotAFlowTable  # noqa: PLC0415
    from sensor.sources.pcap import NotACapture  # noqa: PLC0415

    try:
        return read(
            [*arguments.files, *arguments.held_back],
            classes,
            columns,
            labels=Labels.read(arguments.labels) if arguments.labels else None,
            sequence=arguments.sequence,
            as_published=arguments.as_published,
            tell=lambda share: progress.show("reading", share, 1.0),
        )
    except LabelsError as error:
        raise Misuse(str(error).replace("\n", f"\n{NAME}: ")) from error
    except (NotACapture, NotAConnLog, NotAFlowTable) as error:
        raise Misuse(str(error)) from error


def classes_of(arguments: argparse.Namespace) -> Classes:
    """The classes asked for. Raises Misuse unless the first one is the ordinary."""
    from sensor.commands.classes import PAPER, Classes, ClassesError  # noqa: PLC0415

    names = [name.strip() for name in arguments.classes.split(",")] if arguments.classes else list(PAPER)
    try:
        classes = Classes(names, rest=arguments.rest)
    except ClassesError as error:
        raise Misuse(f"--classes: {error}") from error
    if classes.benign != 0:
        raise Misuse(f"--classes {', '.join(names)}: name the ordinary class first (Normal, or Benign)")
    return classes


def columns_of(arguments: argparse.Namespace) -> tuple[str, ...]:
    """The columns asked for, in the order of STATISTICS. Raises Misuse for a name that none has."""
    from sensor.spellings import STATISTICS, named  # noqa: PLC0415
    from sensor.statistics import BY_NAME  # noqa: PLC0415

    def told(option: str, text: str) -> set[str]:
        found = {name.strip(): named(name) for name in text.split(",") if name.strip()}
        strange = [name for name, known in found.items() if known not in STATISTICS]
        if strange:
            raise Misuse(f"--{option}: {', '.join(strange)}: no such statistic: see docs/statistics.md")
        return {known for known in found.values() if known}

    if arguments.columns == "all":
        chosen = {*STATISTICS}
    elif arguments.columns == "conn.log":
        chosen = {name for name in STATISTICS if "conn.log" in BY_NAME[name].roads}
    else:
        chosen = told("columns", arguments.columns)
    chosen -= told("without", arguments.without)
    if not chosen:
        raise Misuse("--columns: not one is left to learn from")
    return tuple(name for name in STATISTICS if name in chosen)


def describe(arguments: argparse.Namespace, command: str, read: Read, classes: Classes) -> FlowManifest:
    """All that is known of a model before it is trained."""
    from models.folder import Source  # noqa: PLC0415
    from models.multiflow_checkpoint import FlowManifest  # noqa: PLC0415

    return FlowManifest(
        name=arguments.name or arguments.output.resolve().name,
        version=__version__,
        classes=classes.names,
        columns=read.columns,
        rules="cicflowmeter" if arguments.as_published else "netseq",
        flows=arguments.flows,
        units=arguments.units,
        sequence=arguments.sequence,
        source_kind="+".join(sorted({one.kind for one in read.data})),
        centre=(),
        spread=(),
        data=tuple(Source(name=one.name, sha256=one.sha256, rows=one.rows, licence=arguments.licence) for one in read.data),
        seed=arguments.seed,
        command=command,
    )


def _show(progress: Progress, passed: Passed) -> None:
    """Show how far training is and how well held-back flows are judged."""
    nats = passed.train_nats if passed.validation_nats is None else passed.validation_nats
    told = f"training: {nats:.4f} nats a flow{' (best)' if passed.best else ''}"
    progress.show(told, passed.number, passed.of)


def summary(arguments: argparse.Namespace, made: Trained, assembled: Assembled | None, tested: Measured | None) -> str:
    """What was read and made, in a few lines."""
    from sensor.commands.terminal import printable  # noqa: PLC0415

    read, split, history = made.read, made.split, made.trainer.history
    counts = ", ".join(f"{name} {rows:,}" for name, rows in read.counts.items() if rows)
    parts = f"{len(split.training):,} trained on, {len(split.validation):,} held back, {len(split.test):,} tested on"
    lines = [
        f"read         {len(read.flows.rows):,} flows of {len(read.data)} file{'s' * (len(read.data) != 1)}: {counts}",
        f"columns      {len(read.columns)}, windows of {arguments.flows} flows of a {arguments.sequence}",
        f"split        {'by file' if arguments.held_back else arguments.split}, seed {arguments.seed}: {parts}",
    ]
    if assembled is not None:
        manifest = assembled.bundle.manifest
        best = max(passed.number for passed in history if passed.best)
        lines.append(f"trained      {len(history)} of {arguments.epochs} epochs at most, the best was {best}")
        if len(split.validation):
            lines.append(f"held back    {_figures(assembled.validation)}, temperature {manifest.temperature:.2f}")
        if tested is not None:
            lines.append(f"tested       {_figures(tested)}")
        lines.append(f"model        {manifest.name} {manifest.version} in {arguments.output}")
    else:
        lines.append("model        none: --epochs 0 only reads")
    notes = [*read.notes(), *made.remarks, *(assembled.remarks if assembled else [])]
    return "\n".join(printable(line) for line in [*lines, *(f"note         {note}" for note in notes)])


def _figures(measured: Measured) -> str:
    return f"{measured.nats:.4f} nats, accuracy {measured.accuracy:.4f}, macro F1 {measured.macro_f1:.4f}"
