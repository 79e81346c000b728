"""`netseq-train`, and its `words`: benign logs or captures in, a model out. `train_multiflow` has the other kind.

Reads conn.logs, captures and CICFlowMeter's CSVs into flows, keeps the benign ones, learns the vocabulary, and hands
arrays of words to `models.assemble`. Each FILE or folder named is a data set of its own: its conversations are not mixed
with another's, and the last part of its flows is held back. Heavy imports wait until the arguments are known to be good.
Exit status: 0 done, 1 part of the input was damaged (the model is written), 2 misuse or nothing to train on, 130 interrupted.
"""

from __future__ import annotations

import argparse
import math
import os
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sensor import __version__
from sensor.commands import train_multiflow, train_site
from sensor.commands.misuse import Misuse, Parser, check_inputs, check_output, fail
from sensor.commands.process import DAMAGED, DONE, INTERRUPTED, MISUSE

if TYPE_CHECKING:  # what these import is slow, and is not needed to tell of a mistake
    from models.assemble import Begin, Rows
    from models.checkpoint import Bundle, Manifest
    from models.train import Epoch
    from sensor.commands.datasets import DataSet
    from sensor.commands.label_files import LabelFiles
    from sensor.words import Vocabulary

NAME = "netseq-train"

CONVERSATIONS = 1 << 18
"""Host pairs that a data set is read with; beyond that the pairs silent the longest start anew, as in a sensor."""

EPILOG = """\
Examples:
  netseq-train words monday/ tuesday/ --output office        folders of conn.log files or captures, two data sets
  netseq-train words conn.log --from DEFAULT --output office further training of the model that comes along
  netseq-train words conn.log --attacks labelled/ --output office
                                                              fit the verdict's weights on labelled attacks
  netseq-train words lab/ monday.pcap --attacks lab/ --output office
                                                              lab/ has captures and their labels.csv: its benign flows
                                                              are learned, its attacks weighed
Rows that a log labels as attacks are never trained on. The last 20 % of each data set are held back to validate and
calibrate (--validation). A model is a folder; give it to netseq-replay with --model.

Exit status: 0 done; 1 part of the input was damaged (the rest was trained on); 2 misuse, or nothing to train on.
"""


class Plan(NamedTuple):
    """What will be trained."""

    vocabulary: Vocabulary
    manifest: Manifest
    begin: Begin | None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    arguments = parser().parse_args(argv)
    command = shlex.join([NAME, *(sys.argv[1:] if argv is None else argv)])
    try:
        if arguments.kind == "multiflow":
            return train_multiflow.run(arguments, command)
        if arguments.kind == "site":
            return train_site.run(arguments, command)
        check(arguments)
        return train(arguments, command)
    except Misuse as error:
        return fail(NAME, str(error), MISUSE)
    except KeyboardInterrupt:
        return fail(NAME, "interrupted: no model was written", INTERRUPTED)


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    build = Parser(prog=NAME, description="Train the models of netseq.", allow_abbrev=False)
    build.add_argument("--version", action="version", version=f"netseq {__version__}")
    kinds = build.add_subparsers(dest="kind", required=True, metavar="KIND")
    words = kinds.add_parser(
        "words",
        help="the word LSTM with its frequencies, verdict and calibration",
        description="Train a model that knows the language of benign traffic, from conn.logs, captures or flow CSVs.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    words.add_argument(
        "files", nargs="+", metavar="FILE", help="benign traffic: conn.log, capture, CICFlowMeter CSV, or a folder"
    )
    words.add_argument("--output", metavar="DIR", type=Path, required=True, help="folder to write the model into")
    words.add_argument("--name", help="name of the model in alerts (default: the last part of DIR)")
    words.add_argument("--quiet", action="store_true", help="no progress and no summary")
    _add_what(words.add_argument_group("what is learned"))
    _add_how(words.add_argument_group("how it is trained"))
    train_multiflow.add_parser(kinds)
    train_site.add_parser(kinds)
    return build


def _add_what(what: argparse._ArgumentGroup) -> None:
    """Options that say what a word is and what is learned of it."""
    what.add_argument("--parts", metavar="A,B", help="parts of a word (default: all; see docs/words.md)")
    what.add_argument(
        "--alphabet", choices=("parts", "protobytes", "ports"), default="parts", help="parts, or the paper's one-part words"
    )
    what.add_argument(
        "--from", dest="begin", metavar="DIR", help='train this model further ("DEFAULT": the one that comes along)'
    )
    what.add_argument("--attacks", nargs="+", default=[], metavar="FILE", help="labelled traffic to fit the verdict on")
    what.add_argument(
        "--labels",
        nargs="+",
        default=[],
        metavar="CSV",
        help="label files that tell attacks in all these (a folder's labels.csv tells of itself)",
    )
    what.add_argument("--licence", default="", help="licence of the data, for the manifest")


def _add_how(how: argparse._ArgumentGroup) -> None:
    """Options of the training itself."""
    how.add_argument("--seed", type=int, default=1, help="same data, same seed, same model (default: 1)")
    how.add_argument("--epochs", type=_positive, default=30, help="at most so many passes (default: 30)")
    how.add_argument("--units", type=_positive, help="size of the LSTM's state (default: 128)")
    how.add_argument("--min-count", type=_positive, default=5, help="flows a service needs to get a value (default: 5)")
    how.add_argument("--rate", type=float, default=3e-3, help="learning rate at the start (default: 0.003)")
    how.add_argument("--validation", type=float, default=0.2, metavar="SHARE", help="last share held back (default: 0.2)")
    how.add_argument(
        "--threads",
        type=_positive,
        default=1,
        help="threads (default: 1: the model is small, and one thread repeats itself exactly)",
    )


def _positive(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 on")
    return number


def check(arguments: argparse.Namespace) -> None:
    """Refuse what cannot work before anything slow begins. Raises Misuse."""
    if not 0 < arguments.validation < 1:
        raise Misuse(f"--validation {arguments.validation:g}: give a share above 0 and below 1")
    if arguments.begin and (arguments.parts or arguments.alphabet != "parts"):
        raise Misuse("--from trains a model with the parts it has: leave --parts and --alphabet out")
    if arguments.begin and arguments.units:
        raise Misuse("--from trains a model with the units it has: leave --units out")
    if not 0 < arguments.rate < math.inf:
        raise Misuse(f"--rate {arguments.rate:g}: give a learning rate above 0")
    if not 0 <= arguments.seed < 1 << 63:
        raise Misuse(f"--seed {arguments.seed}: give a number from 0 on, below 2^63")
    if "-" in [*arguments.files, *arguments.attacks]:
        raise Misuse("-: training reads its data more than once: give files or folders")
    check_inputs(NAME, [*arguments.files, *arguments.attacks, *arguments.labels])
    check_output(arguments.output, ["manifest.json", "weights.safetensors"])


def train(arguments: argparse.Namespace, command: str) -> int:
    """Read, learn, train, write; the exit status. Raises Misuse with the line of whatever was refused."""
    import torch  # noqa: PLC0415  # slow to import: only once the arguments are known to be good

    from models.checkpoint import ModelDoesNotFit, save  # noqa: PLC0415
    from sensor.kernels import prepare_cache  # noqa: PLC0415

    prepare_cache()  # before anything below imports a kernel
    from sensor.commands.label_files import LabelFiles, labelled  # noqa: PLC0415
    from sensor.labels import Labels, LabelsError  # noqa: PLC0415
    from sensor.sources.faults import NotACapture, NotAConnLog  # noqa: PLC0415
    from sensor.sources.flowcsv import NotAFlowTable  # noqa: PLC0415
    from sensor.vocabulary import VocabularyDoesNotFit  # noqa: PLC0415

    torch.set_num_threads(arguments.threads)
    try:
        labels = LabelFiles([Labels.read(path) for path in arguments.labels], [*arguments.files, *arguments.attacks])
        with Progress(shown=not arguments.quiet and sys.stderr.isatty()) as progress:
            data = [labelled(progress.read(path), labels.of(path)) for path in arguments.files]
            bundle = learn(arguments, command, data, labels, progress)
    except (NotACapture, NotAConnLog, NotAFlowTable, LabelsError, ModelDoesNotFit, VocabularyDoesNotFit) as error:
        raise Misuse(str(error)) from error
    try:
        manifest = save(arguments.output, bundle)
    except OSError as error:  # a full disk, most likely
        return fail(NAME, f"{arguments.output}: the model cannot be written: {error.strerror}", DAMAGED)
    if not arguments.quiet:
        print(summary(arguments, manifest, bundle, data, labels))
    damaged = [one for one in data if one.damaged]
    for one in damaged:
        fail(NAME, f"{one.path}: parts of it could not be read; the rest was trained on", DAMAGED)
    return DAMAGED if damaged else DONE


def learn(
    arguments: argparse.Namespace, command: str, data: Sequence[DataSet], labels: LabelFiles, progress: Progress
) -> Bundle:
    """From data sets to a model that is trained, weighed and calibrated. Raises Misuse when they are too little."""
    from models.assemble import assemble  # noqa: PLC0415
    from models.train import Settings  # noqa: PLC0415
    from sensor.commands.label_files import labelled  # noqa: PLC0415

    read = {one.path: one for one in data}  # what is in both is read once
    plan = lay_out(arguments, command, data)
    training = [rows_of(one, plan.vocabulary, benign_only=True) for one in data]
    attacks = [
        labelled_rows(read.get(path) or labelled(progress.read(path), labels.of(path)), plan.vocabulary, arguments.files)
        for path in arguments.attacks
    ]
    if attacks and not any(rows.attack.any() for rows in attacks):
        raise Misuse(f"{', '.join(arguments.attacks)}: no row has an attack's label, and --attacks wants some")
    try:
        return assemble(
            [rows for rows in training if len(rows.words)],
            [rows for rows in attacks if rows.attack.any()],
            plan.manifest,
            Settings(seed=arguments.seed, epochs=arguments.epochs, rate=arguments.rate),
            validation=arguments.validation,
            begin=plan.begin,
            progress=progress.epoch,
        )
    except ValueError as error:  # too little to train, to validate or to calibrate on
        raise Misuse(f"{', '.join(arguments.files)}: {error}") from error


def lay_out(arguments: argparse.Namespace, command: str, data: Sequence[DataSet]) -> Plan:
    """Learn or grow the vocabulary, and say in a manifest what will be trained. Raises Misuse when there is nothing."""
    from models.assemble import Begin  # noqa: PLC0415
    from models.checkpoint import DEFAULT_MODEL, load  # noqa: PLC0415
    from sensor.words import Vocabulary  # noqa: PLC0415

    flows = [one.benign() for one in data]
    if not any(len(benign) for benign in flows):
        raise Misuse(f"{', '.join(arguments.files)}: no benign flows in there to learn from")
    learned = [benign[: len(benign) - int(len(benign) * arguments.validation)] for benign in flows]
    if not arguments.begin:
        vocabulary = Vocabulary.learn(
            learned, alphabet=arguments.alphabet, parts=parts_of(arguments), min_count=arguments.min_count
        )
        return Plan(vocabulary, describe(arguments, command, data, vocabulary, None), None)
    before = load(DEFAULT_MODEL if arguments.begin == "DEFAULT" else arguments.begin)
    vocabulary, stood = Vocabulary.from_json(before.manifest.vocabulary).grown(learned, min_count=arguments.min_count)
    return Plan(vocabulary, describe(arguments, command, data, vocabulary, before.manifest), Begin(before, stood))


def parts_of(arguments: argparse.Namespace) -> tuple[str, ...]:
    """The parts asked for, in the order that words have: the service first. Unknown ones are the vocabulary's to refuse."""
    from sensor.words import PARTS  # noqa: PLC0415

    if not arguments.parts:
        return PARTS
    asked = [part.strip() for part in arguments.parts.split(",")]
    return tuple(sorted(asked, key=lambda part: PARTS.index(part) if part in PARTS else len(PARTS)))


def describe(
    arguments: argparse.Namespace, command: str, data: Sequence[DataSet], vocabulary: Vocabulary, before: Manifest | None
) -> Manifest:
    """All that is known of a model before it is trained."""
    from models.checkpoint import Manifest, Source  # noqa: PLC0415
    from models.words import Shape  # noqa: PLC0415
    from sensor.commands.datasets import fingerprint  # noqa: PLC0415

    return Manifest(
        name=arguments.name or arguments.output.resolve().name,
        version=__version__,
        parts=vocabulary.parts,
        sizes=vocabulary.sizes(),
        units=before.units if before else arguments.units or Shape.units,
        head=before.head if before else Shape.head,
        vocabulary=vocabulary.to_json(),
        spread=tuple(round(math.log(members), 6) for members in vocabulary.members(vocabulary.parts[0])),
        unlearned=tuple(vocabulary.unlearned(vocabulary.parts[0]).tolist()),
        source_kind="+".join(sorted({one.kind for one in data})),
        data=tuple(
            Source(name=name, sha256=digest, rows=len(one.benign()), licence=arguments.licence)
            for one in data
            for name, digest in [fingerprint(one.path)]
        ),
        trained_from=f"{before.name} {before.version}" if before else "",
        seed=arguments.seed,
        command=command,
    )


def rows_of(data: DataSet, vocabulary: Vocabulary, *, benign_only: bool) -> Rows:
    """A data set's flows as the rows that `models` reads."""
    import numpy as np  # noqa: PLC0415

    from models.assemble import Rows  # noqa: PLC0415
    from sensor.conversations import Conversations  # noqa: PLC0415

    flows = data.benign() if benign_only else data.flows
    turns = Conversations(conversations=min(CONVERSATIONS, max(len(flows), 1))).turn(flows)
    attack = np.zeros(len(flows), np.bool_) if benign_only else data.attack
    benign = np.ones(len(flows), np.bool_) if benign_only else (data.labels == "") & ~data.unsure
    return Rows(vocabulary.words(flows, turns), turns.slots, turns.restart, turns.hour, attack, benign)


def labelled_rows(data: DataSet, vocabulary: Vocabulary, trained: Sequence[str]) -> Rows:
    """Rows of a labelled log for the verdict; if it was trained on as well, its benign rows are left out."""
    rows = rows_of(data, vocabulary, benign_only=False)
    seen = any(os.path.samefile(data.path, path) for path in trained)
    return rows._replace(benign=rows.benign & (not seen))


class Progress:
    """A progress bar on standard error while files are read and epochs pass; silent where `shown` is False."""

    def __init__(self, *, shown: bool) -> None:
        from rich.console import Console  # noqa: PLC0415
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn  # noqa: PLC0415
        from rich.progress import Progress as Bars  # noqa: PLC0415

        told = TextColumn("{task.description}")
        self._bars = Bars(
            told, BarColumn(), TimeRemainingColumn(), console=Console(stderr=True), disable=not shown, transient=True
        )
        self._task = self._bars.add_task("", total=1.0)

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def read(self, path: str) -> DataSet:
        """Read one data set under the bar."""
        from sensor.commands.datasets import read  # noqa: PLC0415

        self._bars.update(self._task, description=f"reading {path}", completed=0.0, total=1.0)
        return read(path, lambda share: self._bars.update(self._task, completed=share))

    def epoch(self, epoch: Epoch) -> None:
        """Show how far training is and how well the held-back words are predicted."""
        told = f"training: {epoch.validation_nats:.3f} nats a word{' (best)' if epoch.best else ''}"
        self.show(told, epoch.number, epoch.of)

    def show(self, doing: str, done: float, total: float) -> None:
        """Show what is being done, and how far it is."""
        self._bars.update(self._task, description=doing, completed=done, total=total)


def summary(
    arguments: argparse.Namespace, manifest: Manifest, bundle: Bundle, data: Sequence[DataSet], labels: LabelFiles
) -> str:
    """What was made, in a few lines."""
    from sensor.commands.terminal import printable  # noqa: PLC0415

    left_out = sum(len(one.flows) - len(one.benign()) for one in data)
    lost = Counter[str]()
    for one in data:
        lost.update(one.lost)
    lines = [
        f"model        {manifest.name} {manifest.version} in {arguments.output}",
        f"trained on   {sum(source.rows for source in manifest.data):,} flows (without {left_out:,} attacks and unjudged ones)",
        f"words        {', '.join(f'{part} {size}' for part, size in zip(manifest.parts, manifest.sizes, strict=True))}",
        f"held back    {manifest.validation_nats:.3f} nats a word",
        f"calibrated   on {bundle.calibration.n:,} conversation-hours, {bundle.calibration.per_day:,.0f} a day",
        *(f"left out     {number:,} {what}" for what, number in lost.most_common()),
        *(f"labels       {printable(line)}" for line in labels.report()),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
