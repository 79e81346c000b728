"""`netseq-evaluate`: how good a model is on labelled flows, as tables, JSON and one HTML file.

Each subcommand measures one thing and fills a `report.Report`; reading arguments, refusing what cannot work, and writing the
report is done here for all of them. Heavy imports wait until the arguments are known to be good. Exit status: 0 done, 1 part of
the input was damaged, or a report could not be written, 2 misuse or nothing to measure, 130 interrupted, 141 nobody reads the
table any more (files were written before).
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from sensor import __version__
from sensor.commands.misuse import Misuse, Parser, check_inputs, fail
from sensor.commands.process import DAMAGED, DONE, INTERRUPTED, MISUSE, READER_GONE

if TYPE_CHECKING:  # what these import is slow, and is not needed to tell of a mistake
    from sensor.commands.report import Report

NAME = "netseq-evaluate"

EPILOG = """\
Examples:
  netseq-evaluate words labelled/                        the model that comes along, on a folder of labelled conn.logs
  netseq-evaluate words office conn.log --train benign/  a model of one's own beside n-grams that saw what it was trained on
  netseq-evaluate words conn.log --html report.html      the report with its figures, as one file
  netseq-evaluate words trace.pcap --labels labels.csv   a capture, with labels by time and host (docs/labels.md)
  netseq-evaluate words lab/                             a folder with captures and their labels.csv
  netseq-evaluate multiflow flows/ tuesday.csv           a multi-flow model beside other classifiers, on an honest split
  netseq-evaluate amf-lstm --data MachineLearningCVE/    the paper's Table 1, with the whole of CICIDS2017

Exit status: 0 done; 1 part of the input was damaged (the rest was measured); 2 misuse, or nothing to measure.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    arguments = parser().parse_args(argv)
    arguments.command = shlex.join([NAME, *(sys.argv[1:] if argv is None else argv)])
    try:
        check(arguments)
        return evaluate(arguments)
    except Misuse as error:
        return fail(NAME, str(error), MISUSE)
    except KeyboardInterrupt:
        return fail(NAME, "interrupted: nothing was measured", INTERRUPTED)


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    build = Parser(
        prog=NAME,
        description="Measure the models of netseq on labelled traffic.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    build.add_argument("--version", action="version", version=f"netseq {__version__}")
    kinds = build.add_subparsers(dest="kind", required=True, metavar="KIND")
    words = kinds.add_parser(
        "words",
        help="a word model and frequency baselines, per flow and per conversation-hour",
        description="Measure a word model, beside n-grams, on labelled conn.logs, flow CSVs or captures.",
        allow_abbrev=False,
    )
    words.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="labelled traffic: a log, CSV, capture or folder; the first may be a model's folder, to measure another than the"
        " one that comes along",
    )
    words.add_argument("--train", nargs="+", default=[], metavar="FILE", help="benign traffic to count the n-grams on")
    words.add_argument(
        "--validation", type=float, default=0.2, metavar="SHARE", help="last share of it left out (default: 0.2)"
    )
    words.add_argument("--labels", metavar="CSV", help="label file for traffic without labels (docs/labels.md)")
    _add_common(words)
    _add_multiflow(kinds)
    _add_amf_lstm(kinds)
    _add_radford(kinds)
    return build


def _add_multiflow(kinds: argparse._SubParsersAction[Parser]) -> None:
    """The subcommand for multi-flow models."""
    flows = kinds.add_parser(
        "multiflow",
        help="a multi-flow model beside classifiers that learn from the same rows",
        description="Measure a multi-flow model, beside scikit-learn's classifiers, on labelled flows.",
        allow_abbrev=False,
    )
    flows.add_argument("model", metavar="MODEL", help="a model's folder")
    flows.add_argument("files", nargs="+", metavar="FILE", help="labelled flows: a CSV, log, capture or folder")
    flows.add_argument("--train", nargs="+", default=[], metavar="FILE", help="flows that the other classifiers learn from")
    flows.add_argument(
        "--split", choices=("honest", "stratified"), default="honest", help="how FILE is cut without --train (default: honest)"
    )
    flows.add_argument("--test", type=float, default=0.2, metavar="SHARE", help="share of it to test on (default: 0.2)")
    flows.add_argument("--alone", action="store_true", help="no other classifiers: the model on all rows")
    flows.add_argument("--rows", type=int, default=200_000, help="most rows that they learn from (default: 200,000)")
    flows.add_argument("--rest", metavar="CLASS", help="class of attacks whose label no class knows, as in training")
    flows.add_argument("--as-published", action="store_true", help="take columns that follow other rules than netseq's")
    flows.add_argument("--labels", metavar="CSV", help="label file for traffic without labels (docs/labels.md)")
    _add_common(flows)


def _add_amf_lstm(kinds: argparse._SubParsersAction[Parser]) -> None:
    """The subcommand for the paper of the multi-flow model."""
    paper = kinds.add_parser(
        "amf-lstm",
        help="Table 1 of Zhu et al. 2018 on CICIDS2017, beside the published figures",
        description="Train and measure the attention LSTM as Zhu et al. 2018 did, and on an honest split.",
        allow_abbrev=False,
    )
    _add_data(paper, "MachineLearningCVE or TrafficLabelling of CICIDS2017")
    paper.add_argument("--epochs", type=int, default=30, help="at most so many passes (default: 30)")
    paper.add_argument("--units", type=int, default=256, help="size of the LSTM's state (default: 256)")
    paper.add_argument("--alone", action="store_true", help="without the other classifiers")
    paper.add_argument("--rows", type=int, default=200_000, help="most rows that these learn from (default: 200,000)")
    _add_common(paper)


def _add_radford(kinds: argparse._SubParsersAction[Parser]) -> None:
    """The subcommand for the paper of the word model."""
    paper = kinds.add_parser(
        "radford2018",
        help="the experiment of Radford et al. 2018 on ISCX IDS 2012 or CICIDS2017",
        description="Train and measure the token LSTM of Radford et al. 2018, per host pair and clock hour.",
        allow_abbrev=False,
    )
    _add_data(paper, "ISCX IDS 2012 (XML), or TrafficLabelling of CICIDS2017")
    paper.add_argument("--epochs", type=int, default=5, help="passes (default: 5)")
    paper.add_argument("--units", type=int, default=50, help="size of embedding and state (default: 50)")
    _add_common(paper)


def _add_data(paper: argparse.ArgumentParser, what: str) -> None:
    """Where a published data set lies."""
    paper.add_argument("--data", type=Path, required=True, metavar="DIR", help=f"folder with {what}")
    paper.add_argument("--partial", action="store_true", help="go on although label counts are not the official ones")


def _add_common(kind: argparse.ArgumentParser) -> None:
    """Options that all subcommands have."""
    kind.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON")
    kind.add_argument("--html", type=Path, metavar="FILE", help="write the report with its figures as one HTML file")
    kind.add_argument("--seed", type=int, default=1, help="seed of all that is drawn at random (default: 1)")
    kind.add_argument("--resamples", type=int, default=300, help="bootstrap resamples for the intervals (default: 300)")
    kind.add_argument("--threads", type=int, default=1, help="threads (default: 1)")
    kind.add_argument("--quiet", action="store_true", help="no progress and no table")


def check(arguments: argparse.Namespace) -> None:
    """Refuse what cannot work before anything slow begins. Raises Misuse."""
    named = [
        *filter(None, [getattr(arguments, "model", "")]),
        *getattr(arguments, "files", []),
        *getattr(arguments, "train", []),
        *filter(None, [getattr(arguments, "labels", "")]),
    ]
    if "-" in named:
        raise Misuse("-: evaluation reads its data more than once: give files or folders")
    check_inputs(NAME, named)
    for name in ("validation", "test"):
        share = getattr(arguments, name, 0.5)
        if not 0 <= share < 1 or (name == "test" and not share):
            raise Misuse(f"--{name} {share:g}: give a share above 0 and below 1")
    for name, least in (("resamples", 0), ("seed", 0), ("threads", 1), ("rows", 1), ("epochs", 1), ("units", 1)):
        if getattr(arguments, name, least) < least:
            raise Misuse(f"--{name} {getattr(arguments, name)}: give a number from {least} on")
    for path in filter(None, [arguments.json, arguments.html]):
        folder = path.parent
        if path.is_dir() or not os.access(folder, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
            raise Misuse(f"{path}: cannot be written: name a file in a folder that is there and may be written")
    if not getattr(arguments, "alone", True) and find_spec("sklearn") is None:
        raise Misuse(
            "the other classifiers are scikit-learn's, which is not installed: pip install 'netseq[evaluate]', or --alone"
        )
    if arguments.html and find_spec("matplotlib") is None:
        raise Misuse("--html draws with matplotlib, which is not installed: pip install 'netseq[evaluate]'")


def evaluate(arguments: argparse.Namespace) -> int:
    """Measure and tell; the exit status. Raises Misuse with the line of whatever was refused."""
    import torch  # noqa: PLC0415  # slow to import: only once the arguments are known to be good

    from models.checkpoint import ModelDoesNotFit  # noqa: PLC0415
    from sensor.commands import evaluate_amf_lstm, evaluate_multiflow, evaluate_radford2018, evaluate_words  # noqa: PLC0415
    from sensor.kernels import prepare_cache  # noqa: PLC0415
    from sensor.labels import LabelsError  # noqa: PLC0415
    from sensor.sources.faults import NotACapture, NotAConnLog  # noqa: PLC0415
    from sensor.sources.flowcsv import NotAFlowTable  # noqa: PLC0415
    from sensor.vocabulary import VocabularyDoesNotFit  # noqa: PLC0415

    prepare_cache()
    torch.set_num_threads(arguments.threads)
    measures: dict[str, Callable[[argparse.Namespace], tuple[Report, bool]]] = {
        "words": evaluate_words.measure,
        "multiflow": evaluate_multiflow.measure,
        "amf-lstm": evaluate_amf_lstm.measure,
        "radford2018": evaluate_radford2018.measure,
    }
    try:
        report, whole = measures[arguments.kind](arguments)
    except (NotACapture, NotAConnLog, NotAFlowTable, ModelDoesNotFit, VocabularyDoesNotFit, LabelsError) as error:
        raise Misuse(str(error)) from error
    written = write(arguments, report)
    shown = DONE if arguments.quiet else show(report)  # after the files: whoever reads the table may go away
    return shown if whole and written else DAMAGED


def write(arguments: argparse.Namespace, report: Report) -> bool:
    """Write the report where it was asked for; False where a file could not be written."""
    from sensor.commands.report import to_json  # noqa: PLC0415
    from sensor.commands.report_html import to_html  # noqa: PLC0415

    written = True
    for path, form in ((arguments.json, to_json), (arguments.html, to_html)):
        if path is None:
            continue
        try:
            path.write_text(form(report), encoding="utf-8")
        except OSError as error:  # a full disk, most likely
            fail(NAME, f"{path}: the report cannot be written: {error.strerror}", DAMAGED)
            written = False
    return written


def show(report: Report) -> int:
    """Show the report on standard output; the exit status that follows from whether all of it could be."""
    from rich.console import Console  # noqa: PLC0415

    from sensor.commands.report import draw  # noqa: PLC0415

    console = Console()
    try:
        with console.capture() as captured:  # rich itself would end the process with status 1 where a pipe is closed
            draw(report, console)
        console.file.write(captured.get())
        console.file.flush()
    except OSError as error:
        with open(os.devnull, "wb") as nowhere:  # what is left in the buffer would fail once more as the interpreter ends
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return READER_GONE
        return fail(NAME, f"standard output: the table cannot be written: {error.strerror}", DAMAGED)
    return DONE


if __name__ == "__main__":
    sys.exit(main())
