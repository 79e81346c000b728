"""`netseq-train multiflow`: labelled flows in, a model that knows attacks by the last flows out.

Reads captures, conn.logs and tables of flows with their classes and cuts them into what is trained on and what is held back
(`train_multiflow_data`), trains (`models.multiflow_train`), writes the model with its temperature and calibration, and tells
of it (`train_multiflow_report`). After every epoch a checkpoint lies in the output folder, which --resume goes on from; it is
removed once the model is written. A full disk ends no training: it is told at once, so that room can be made, and a model
that fits nowhere in its folder is written elsewhere. Under torchrun several processes train one model, and the first of them
speaks. Exit statuses as of `netseq-train words`.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from sensor import __version__
from sensor.commands.misuse import Misuse, Parser, check_inputs, check_output, fail
from sensor.commands.process import DAMAGED, DONE, INTERRUPTED, MISUSE
from sensor.commands.train_multiflow_data import NAME, check_apart, check_others, classes_of, columns_of, cut, read_flows
from sensor.commands.train_multiflow_report import Made, Model, of_reading, summary

if TYPE_CHECKING:  # what these import is slow, and is not needed to tell of a mistake
    import torch

    from models.multiflow_checkpoint import FlowManifest
    from models.multiflow_train import Trainer
    from models.together import Together
    from models.unfinished import Passed
    from sensor.commands.classes import Classes
    from sensor.commands.flowsets import Read
    from sensor.commands.train import Progress

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

Of what netseq-flows writes, CSV with --header netseq keeps all columns; other headers lose a dozen, Parquet and JSON lines are
not read.

Held back for early stop, temperature and calibration are whole sequences (--split honest), or single flows at random as
the paper has it (--split stratified), which flatters. An interrupted training goes on with --resume; it cannot be made
longer, since the learning rate falls over all of --epochs. What several processes train is what one does but for dropout,
which each draws for itself: figures differ a little.

Exit status: 0 done; 1 part of the input was damaged (the rest was trained on), or the model could not be written where it
should be; 2 misuse, or nothing to train on.
"""


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
    how.add_argument(
        "--resume", action="store_true", help="go on from the checkpoint in DIR, if any, with the same data and options"
    )


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
    check_apart(arguments.files, arguments.held_back)
    check_inputs(NAME, [*arguments.files, *arguments.held_back, *([arguments.labels] if arguments.labels else [])])
    if _first():  # it tries the folder out, which two must not do at once
        check_output(arguments.output, ["manifest.json", "weights.safetensors", CHECKPOINT])
    if (arguments.output / CHECKPOINT).exists() and not arguments.resume and arguments.epochs:
        told = "a training was interrupted here: --resume goes on, or remove it to train afresh"
        raise Misuse(f"{arguments.output / CHECKPOINT}: {told}")


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
    shown = speaks and sys.stderr.isatty()
    classes, columns = classes_of(arguments), columns_of(arguments)
    with Progress(shown=shown) as progress:
        read = read_flows(arguments, classes, columns, progress)
    check_others(read, len(arguments.files))
    try:
        made, trainer = lay_out(arguments, read, classes, together)
    except Misuse:
        if speaks:  # what was read may say why, such as labels that no class knows
            print(of_reading(arguments, read))
        raise
    model = None
    if trainer is not None and arguments.epochs:
        try:
            with Progress(shown=shown) as progress:
                model = fit(arguments, made, trainer, describe(arguments, command, read, classes), progress)
        except KeyboardInterrupt:
            return interrupted(arguments, trainer) if together.first else INTERRUPTED
    return finish(arguments, made, model) if together.first else DONE


def lay_out(arguments: argparse.Namespace, read: Read, classes: Classes, together: Together) -> tuple[Made, Trainer | None]:
    """Cut what was read, and lay a training out. What stands in its way is a remark with --epochs 0, and else Misuse."""
    from models import flowset  # noqa: PLC0415
    from models.multiflow import Shape  # noqa: PLC0415
    from models.multiflow_train import Settings, Trainer  # noqa: PLC0415

    names = ("seed", "epochs", "patience", "batch", "rate", "weights", "cap", "mixed")
    settings = Settings(**{name: getattr(arguments, name) for name in names})
    shape = Shape(len(read.columns), len(classes.names), arguments.flows, arguments.units)
    split, told = None, list[str]()
    try:
        split = cut(arguments, read)
        told = flowset.remarks(read.flows, split, classes.names, read.columns, arguments.flows)
        try:
            return Made(read, split, told), Trainer(read.flows, split, shape, settings, together=together)
        except ValueError as error:  # too little to learn from
            raise Misuse(f"{', '.join(arguments.files)}: {error}") from error
    except Misuse as error:
        if arguments.epochs:
            raise
        return Made(read, split, [*told, f"no model can be trained on this: {error}"]), None


def fit(arguments: argparse.Namespace, made: Made, trainer: Trainer, manifest: FlowManifest, progress: Progress) -> Model:
    """Train, and make a model of it. Raises Misuse."""
    from models.multiflow_assemble import assemble  # noqa: PLC0415
    from models.unfinished import CheckpointDoesNotFit  # noqa: PLC0415

    arguments.output.mkdir(parents=True, exist_ok=True)
    progress.show("training", 0, arguments.epochs)
    try:
        trainer.run(
            lambda passed: _show(progress, passed),
            arguments.output / CHECKPOINT,
            resume=arguments.resume,
            warn=_warn,
        )
    except ValueError as error:  # it diverged
        raise Misuse(f"{', '.join(arguments.files)}: {error}") from error
    except CheckpointDoesNotFit as error:
        raise Misuse(str(error)) from error
    assembled = assemble(trainer, made.read.flows, manifest)
    tested = trainer.measure(made.split.test) if made.split is not None and len(made.split.test) else None
    return Model(assembled, tested, trainer.history, trainer.kept)


def interrupted(arguments: argparse.Namespace, trainer: Trainer) -> int:
    """Tell what is left of a training; the exit status."""
    kept = "no checkpoint was written"
    if trainer.kept:
        kept = f"--resume goes on from {arguments.output / CHECKPOINT}, after epoch {trainer.kept} of {arguments.epochs}"
    return fail(NAME, f"interrupted: no model was written: {kept}", INTERRUPTED)


def finish(arguments: argparse.Namespace, made: Made, model: Model | None) -> int:
    """Write the model and tell of it; the exit status."""
    place, wrong = write(arguments.output, model) if model is not None else (None, "")
    if not arguments.quiet:
        print(summary(arguments, made, model, place))
    if wrong:
        fail(NAME, wrong, DAMAGED)
    for one in made.read.data:
        if one.damaged:
            fail(NAME, f"{one.path}: parts of it could not be read; the rest was trained on", DAMAGED)
    return DAMAGED if wrong or made.read.damaged else DONE


def write(output: Path, model: Model) -> tuple[Path | None, str]:
    """Write the model, and remove the checkpoint: the folder that it is in, and what went wrong.

    A model that the last checkpoint does not hold must not be lost to a full disk: it goes where temporary files go.
    """
    from models.multiflow_checkpoint import save  # noqa: PLC0415

    epochs = len(model.history)
    try:
        save(output, model.assembled.bundle)
    except OSError as error:  # a full disk, most likely
        wrong = f"{output}: the model cannot be written: {error.strerror}"
    else:
        (output / CHECKPOINT).unlink(missing_ok=True)
        return output, ""
    if model.kept == epochs:
        return None, f"{wrong}: --resume writes it once there is room"
    elsewhere = None
    try:
        elsewhere = Path(tempfile.mkdtemp(prefix="netseq-model-"))
        save(elsewhere, model.assembled.bundle)
    except OSError:
        if elsewhere:
            shutil.rmtree(elsewhere, ignore_errors=True)
        lost = f"--resume goes on from epoch {model.kept} of {epochs} once there is room" if model.kept else "it is lost"
        return None, f"{wrong}, and neither can it be where TMPDIR says: {lost}"
    return elsewhere, f"{wrong}: it is in {elsewhere} instead: move it from there"


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
        split="by file" if arguments.held_back else arguments.split,
        test=arguments.test,
        held_back=0.0 if arguments.held_back else arguments.validation,
        files_held_back=len(arguments.held_back),
        seed=arguments.seed,
        command=command,
    )


def _show(progress: Progress, passed: Passed) -> None:
    """Show how far training is and how well held-back flows are judged."""
    nats = passed.train_nats if passed.validation_nats is None else passed.validation_nats
    told = f"training: {nats:.4f} nats a flow{' (best)' if passed.best else ''}"
    progress.show(told, passed.number, passed.of)


def _warn(line: str) -> None:
    """Tell at once of what does not end the training; the bar makes room for it."""
    fail(NAME, line, DONE)
