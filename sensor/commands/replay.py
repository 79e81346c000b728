"""`netseq-replay`: captures or Zeek's conn.log in, alerts with their reasons out.

This file puts arguments, files, a clock and a terminal round the engine, and nothing else: what an alert is, is decided
below. Heavy imports (torch, numba) wait until the arguments are known to be good, so that `--help` and a mistake answer
at once. Exit status: 0 done, 1 the input was damaged or the output could not be written, 2 misuse (arguments, settings,
model, a file that is no capture), 130 interrupted, 141 the reader of the output went away.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sensor import __version__, config
from sensor.commands import process, reading
from sensor.commands.misuse import Misuse, Parser, add_settings, check_inputs, check_output, fail
from sensor.commands.process import DONE, INTERRUPTED, MISUSE
from sensor.commands.reading import Report

if TYPE_CHECKING:  # what these import is slow, and is not needed to tell of a mistake
    from sensor.commands.outlets import Outlet
    from sensor.commands.reading import Source
    from sensor.detect_ignore import Ignored
    from sensor.engine import Engine
    from sensor.schema import Alert, FlowBatch

NAME = "netseq-replay"

EPILOG = """\
Examples:
  netseq-replay office.pcap                    alerts as a table, with a summary
  netseq-replay monday.pcapng.gz tuesday/      several files and folders, merged in time order
  tcpdump -U -w - | netseq-replay -            a capture on standard input
  netseq-replay conn.log                       Zeek's conn.log (TSV or JSON) in place of packets
  netseq-replay --json office.pcap | jq .msg   one JSON object a line
  netseq-replay --output found --notice *.pcap found/alerts.jsonl and found/notice.log
  netseq-replay --set detect.budget_per_day=2 office.pcap
  netseq-replay --show-config > sensor.toml    every setting with its meaning

Exit status: 0 done; 1 the input was damaged (what could be read was replayed) or the output could not be written;
2 misuse: arguments, settings, model, or a file that is no capture.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    arguments = parser().parse_args(argv)
    try:
        changes = list(arguments.set) + ([f"model.path={arguments.model}"] if arguments.model else [])
        changes += [f"output.format={arguments.format}"] if arguments.format else []
        settings = config.load(arguments.config, changes)
        if arguments.show_config:
            sys.stdout.write(config.to_toml(settings))
            return DONE
        check(arguments)
    except (config.ConfigError, Misuse) as error:
        return fail(NAME, str(error), MISUSE)
    try:
        return replay(arguments, settings)
    except KeyboardInterrupt:
        return fail(NAME, "interrupted: what was read is not all scored", INTERRUPTED)


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    build = Parser(
        prog=NAME,
        description="Replay captures or Zeek's conn.log through the sensor, and show what it alerts on and why.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    build.add_argument(
        "files", nargs="*", metavar="FILE", help='capture, folder of captures, conn.log, or "-" for a capture on standard input'
    )
    out = build.add_argument_group("what comes out")
    out.add_argument("--output", metavar="DIR", type=Path, help="write DIR/alerts.jsonl, replacing one from before")
    out.add_argument("--notice", action="store_true", help="write Zeek's notice.log: into DIR, or to standard output")
    out.add_argument("--json", action="store_true", help="write alerts to standard output, one JSON object a line")
    out.add_argument(
        "--format",
        choices=("netseq", "ecs", "eve"),
        help="names in the JSON: netseq's and Splunk's, Elastic's (ecs) or Suricata's (eve); as --set output.format=FORMAT",
    )
    out.add_argument("--quiet", action="store_true", help="no progress and no summary; warnings and errors are still told")
    how = build.add_argument_group("how it decides")
    how.add_argument(
        "--model", metavar="DIR", help="folder of a model made by netseq-train (default: the one that comes along)"
    )
    add_settings(how)
    build.add_argument("--version", action="version", version=f"netseq {__version__}")
    return build


def check(arguments: argparse.Namespace) -> None:
    """Refuse what cannot work before anything slow begins. Raises Misuse."""
    if not arguments.files:
        raise Misuse("no FILE given: name a capture, a folder of captures, a conn.log, or - for a capture on standard input")
    if arguments.format and not (arguments.json or arguments.output):
        raise Misuse("--format says which names JSON has, and no JSON is asked for: add --json or --output DIR")
    if arguments.json and arguments.notice and not arguments.output:
        raise Misuse("--json and --notice would both write to standard output: add --output DIR")
    check_inputs(NAME, arguments.files)
    if arguments.output:
        check_output(arguments.output, ["alerts.jsonl", *["notice.log"] * arguments.notice])


def replay(arguments: argparse.Namespace, settings: config.Settings) -> int:
    """Replay the files into every outlet, and sum up."""
    process.allow_open_files()
    compiled = reading.prepare_kernels(NAME, quiet=arguments.quiet)  # before anything below imports a kernel
    from models.checkpoint import ModelDoesNotFit  # noqa: PLC0415  # slow to import, as all that follows
    from sensor.commands.outlets import open_outlets  # noqa: PLC0415
    from sensor.detect_ignore import Ignored, IgnoreRefused  # noqa: PLC0415
    from sensor.vocabulary import VocabularyDoesNotFit  # noqa: PLC0415

    def work() -> int:
        ignored = Ignored.read(settings.detect.ignore)
        source = reading.open_source(arguments.files, settings)
        engine = open_engine(settings, log=reading.is_log(source))
        with contextlib.ExitStack() as stack:
            outlets = open_outlets(arguments, settings, stack)
            report = run(source, engine, outlets, ignored, quiet=arguments.quiet, live=process.is_live(arguments.files))
            report = report._replace(cold=bool(compiled))
            for outlet in outlets:
                outlet.close()
            return tell(arguments, source, report, outlets)

    return reading.guarded(NAME, arguments.files, work, (ModelDoesNotFit, VocabularyDoesNotFit, IgnoreRefused))


def run(
    source: Source, engine: Engine, outlets: Sequence[Outlet], ignored: Ignored, *, quiet: bool, live: bool = False
) -> Report:
    """Feed the engine everything that the source has, and write what is not `ignored`. `live` as for Ahead."""
    from sensor.commands import terminal  # noqa: PLC0415

    def take(batch: FlowBatch) -> int:
        return hand_out(ignored.keep(engine.judge.judge(batch)), outlets)

    bar = terminal.Bar(shown=not quiet, unit=reading.unit_of(source))
    seconds, interrupted = reading.read_all(source, engine.assembly, take, bar, live=live)
    return Report(engine.counters() | ignored.counters() | reading.losses_of(source), seconds, interrupted)


def hand_out(alerts: Sequence[Alert], outlets: Sequence[Outlet]) -> int:
    """Write alerts everywhere; returns their number."""
    if alerts:
        for outlet in outlets:
            outlet.write(alerts)
    return len(alerts)


def open_engine(settings: config.Settings, *, log: bool = False) -> Engine:
    """Lay out the engine with its models, for packets or a `log`. Raises ModelDoesNotFit or VocabularyDoesNotFit."""
    from sensor.engine import Engine  # noqa: PLC0415
    from sensor.service_models import load_models  # noqa: PLC0415

    models = load_models(settings, log=log)
    return Engine(settings, models.words, models.flows, device=models.device)


def not_written(counters: Mapping[str, int]) -> list[str]:
    """A line about the alerts that the list of detect.ignore kept back."""
    ignored = counters.get("alerts_ignored", 0)
    return [f"{'ignored':<14}{ignored:>14,}  alerts that detect.ignore names"] if ignored else []


def tell(arguments: argparse.Namespace, source: Source, report: Report, outlets: Sequence[Outlet]) -> int:
    """Warn of damage, sum up, and choose the exit status."""
    from sensor.commands import terminal  # noqa: PLC0415
    from sensor.commands.outlets import speaks_to_people, standard_output  # noqa: PLC0415
    from sensor.sinks.lines import Lines  # noqa: PLC0415

    status = reading.warn(NAME, source, report)
    if not arguments.quiet:
        notes = (
            not_written(report.counters)
            + reading.left_out(source)
            + [f"written       {outlet.file}" for outlet in outlets if outlet.file]
        )
        log = reading.is_log(source)
        text = terminal.summary(report.counters, notes, report.seconds, rated=not report.cold, log=log)
        if speaks_to_people(arguments):
            Lines(standard_output(), "standard output").write(text.encode())
        else:
            sys.stderr.write(text)
    return status


if __name__ == "__main__":
    sys.exit(main())
