"""`netseq-replay`: captures or Zeek's conn.log in, alerts with their reasons out.

This file puts arguments, files, a clock and a terminal round the engine, and nothing else: what an alert is, is decided
below. Heavy imports (torch, numba) wait until the arguments are known to be good, so that `--help` and a mistake answer
at once. Exit status: 0 done, 1 the input was damaged or the output could not be written, 2 misuse (arguments, settings,
model, a file that is no capture), 130 interrupted, 141 the reader of the output went away.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from sensor import __version__, config
from sensor.commands import process
from sensor.commands.misuse import Misuse, Parser, check_inputs, check_output

if TYPE_CHECKING:  # what these import is slow, and is not needed to tell of a mistake
    from sensor.commands.outlets import Outlet
    from sensor.engine import Engine
    from sensor.schema import Alert
    from sensor.sources.pcap import CaptureSource
    from sensor.sources.zeek import ConnLogSource

    Source: TypeAlias = CaptureSource | ConnLogSource

DONE, DAMAGED, MISUSE, INTERRUPTED, READER_GONE = 0, 1, 2, 130, 141
"""Exit statuses; the last two are what a shell reports for SIGINT and SIGPIPE."""

COMPILING_S = 20
"""Seconds that the first compilation takes on one core of a common machine, for the announcement."""

DRAW_EVERY_S = 0.1
"""Seconds between two drawings of the progress bar: faster is not seen."""

TOLD = 20
"""Places of damage, and files left out, that are told one by one; of the rest, the number is."""

TOO_MANY = "more captures overlap in time than the limit of {} open files allows: raise it (ulimit -n), or replay fewer"

EPILOG = """\
Examples:
  netseq-replay office.pcap                    alerts as a table, with a summary
  netseq-replay monday.pcapng.gz tuesday/      several files and folders, merged in time order
  tcpdump -U -w - | netseq-replay -            standard input
  netseq-replay conn.log                       Zeek's conn.log (TSV or JSON) in place of packets
  netseq-replay --json office.pcap | jq .msg   one JSON object a line
  netseq-replay --output found --notice *.pcap found/alerts.jsonl and found/notice.log
  netseq-replay --set detect.budget_per_day=2 office.pcap
  netseq-replay --show-config > sensor.toml    every setting with its meaning

Exit status: 0 done; 1 the input was damaged (what could be read was replayed) or the output could not be written;
2 misuse: arguments, settings, model, or a file that is no capture.
"""


class Report(NamedTuple):
    """What a run came to."""

    counters: dict[str, int]
    seconds: float
    interrupted: bool = False
    cold: bool = False
    """The kernels were compiled on the way."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    arguments = parser().parse_args(argv)
    try:
        changes = list(arguments.set) + ([f"model.path={arguments.model}"] if arguments.model else [])
        settings = config.load(arguments.config, changes)
        if arguments.show_config:
            sys.stdout.write(config.to_toml(settings))
            return DONE
        check(arguments)
    except (config.ConfigError, Misuse) as error:
        return fail(str(error), MISUSE)
    try:
        return replay(arguments, settings)
    except KeyboardInterrupt:
        return fail("interrupted: what was read is not all scored", INTERRUPTED)


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    build = Parser(
        prog="netseq-replay",
        description="Replay captures or Zeek's conn.log through the sensor, and show what it alerts on and why.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    build.add_argument("files", nargs="*", metavar="FILE", help='capture, folder of captures, conn.log, or "-"')
    out = build.add_argument_group("what comes out")
    out.add_argument("--output", metavar="DIR", type=Path, help="write DIR/alerts.jsonl, replacing one from before")
    out.add_argument("--notice", action="store_true", help="write Zeek's notice.log: into DIR, or to standard output")
    out.add_argument("--json", action="store_true", help="write alerts to standard output, one JSON object a line")
    out.add_argument("--quiet", action="store_true", help="no progress and no summary; warnings and errors are still told")
    how = build.add_argument_group("how it decides")
    how.add_argument(
        "--model", metavar="DIR", help="folder of a model made by netseq-train (default: the one that comes along)"
    )
    how.add_argument("--config", metavar="FILE", help="settings, as --show-config prints them")
    how.add_argument(
        "--set", metavar="SECTION.KEY=VALUE", action="append", default=[], help="change one setting; may be repeated"
    )
    how.add_argument("--show-config", action="store_true", help="print the settings in force, each with its meaning, and end")
    build.add_argument("--version", action="version", version=f"netseq {__version__}")
    return build


def check(arguments: argparse.Namespace) -> None:
    """Refuse what cannot work before anything slow begins. Raises Misuse."""
    if not arguments.files:
        raise Misuse("no FILE given: name a capture, a folder of captures, a conn.log, or - for standard input")
    if arguments.json and arguments.notice and not arguments.output:
        raise Misuse("--json and --notice would both write to standard output: add --output DIR")
    check_inputs(arguments.files)
    if arguments.output:
        check_output(arguments.output, ["alerts.jsonl", *["notice.log"] * arguments.notice])


def fail(line: str, status: int) -> int:
    """Tell of what ended the command, as one line on standard error."""
    print(f"netseq-replay: {line}", file=sys.stderr)
    return status


def replay(arguments: argparse.Namespace, settings: config.Settings) -> int:
    """Replay the files into every outlet, and sum up."""
    process.allow_open_files()
    from sensor.kernels import prepare_cache, when_compiling  # noqa: PLC0415  # slow to import, as all that follows

    cache = prepare_cache()  # before anything below imports a kernel
    compiled: list[bool] = []

    def announce() -> None:
        compiled.append(True)
        if not arguments.quiet:
            print(compiling(cache.refused), file=sys.stderr)

    when_compiling(announce)
    from models.checkpoint import ModelDoesNotFit  # noqa: PLC0415
    from sensor.commands.outlets import open_outlets  # noqa: PLC0415
    from sensor.sinks.lines import SinkFailed  # noqa: PLC0415
    from sensor.sources.pcap import NotACapture  # noqa: PLC0415
    from sensor.sources.zeek import NotAConnLog  # noqa: PLC0415
    from sensor.vocabulary import VocabularyDoesNotFit  # noqa: PLC0415

    try:
        source = open_source(arguments.files, settings)
        engine = open_engine(settings)
        with contextlib.ExitStack() as stack:
            outlets = open_outlets(arguments, settings, stack)
            report = run(source, engine, outlets, quiet=arguments.quiet, live=process.is_live(arguments.files))
            report = report._replace(cold=bool(compiled))
            for outlet in outlets:
                outlet.close()
            return tell(arguments, source, report, outlets)
    except (Misuse, NotACapture, NotAConnLog, ModelDoesNotFit, VocabularyDoesNotFit) as error:
        return fail(str(error), MISUSE)
    except SinkFailed as error:
        if isinstance(error.__cause__, BrokenPipeError):
            return READER_GONE
        return fail(str(error), DAMAGED)
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        return fail(f"{arguments.files[0]}: {TOO_MANY.format(process.open_files())}", DAMAGED)


def compiling(refused: Path | None) -> str:
    """Announce a wait, which comes back on each run when the cache folder was `refused`."""
    if refused:
        return f"netseq-replay: {refused}: cannot be written: kernels are compiled on each run: set NUMBA_CACHE_DIR"
    return f"netseq-replay: compiling kernels, once: up to {COMPILING_S} s"


def run(source: Source, engine: Engine, outlets: Sequence[Outlet], *, quiet: bool, live: bool = False) -> Report:
    """Feed the engine everything that the source has.

    An interrupt ends the input early, and what was read is still scored; a second one ends the run. `live` as for Ahead.
    """
    from sensor.commands import terminal  # noqa: PLC0415
    from sensor.commands.ahead import Ahead  # noqa: PLC0415

    begun = drawn = time.monotonic()
    alerts = 0
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(terminal.Bar(shown=not quiet, unit="connections" if is_log(source) else "packets"))

        def draw() -> None:
            nonlocal drawn
            if time.monotonic() - drawn >= DRAW_EVERY_S:
                drawn = time.monotonic()
                bar.update(source.bytes_done, source.bytes_total, units_of(source), alerts)

        bar.update(0, source.bytes_total, 0, 0)
        batches = stack.enter_context(contextlib.closing(Ahead(source, engine.assembly, draw, live=live)))
        interrupted = stack.enter_context(process.interrupts(batches.stop))
        for batch in batches:
            alerts += hand_out(engine.judge.judge(batch), outlets)
            draw()
        return Report(engine.counters() | losses_of(source), time.monotonic() - begun, bool(interrupted))


def is_log(source: Source) -> bool:
    """Tell whether the source has flows that are finished, and no packets."""
    return not hasattr(source, "frames")


def units_of(source: Source) -> int:
    """Packets read so far, or connections of a log."""
    return int(getattr(source, "connections" if is_log(source) else "frames"))


def hand_out(alerts: Sequence[Alert], outlets: Sequence[Outlet]) -> int:
    """Write alerts everywhere; returns their number."""
    if alerts:
        for outlet in outlets:
            outlet.write(alerts)
    return len(alerts)


def losses_of(source: Source) -> dict[str, int]:
    """Give what the source itself could not read, by the names of `metrics`."""
    counters = {"files_skipped": len(source.skipped_files), "packets_unstamped": getattr(source, "unstamped", 0)}
    blocks: dict[str, int] = getattr(source, "skipped_blocks", {})
    rows: dict[str, int] = getattr(source, "damage_counts", {})
    counters |= {f"blocks_skipped.{kind}": number for kind, number in blocks.items()}
    return counters | {f"rows_skipped.{kind}": number for kind, number in rows.items()}


def open_source(paths: Sequence[str], settings: config.Settings) -> Source:
    """Open captures, or logs when the files are logs. Raises NotACapture, NotAConnLog or Misuse."""
    from sensor.commands.datasets import only_kind  # noqa: PLC0415
    from sensor.sources.pcap import CaptureSource  # noqa: PLC0415
    from sensor.sources.zeek import ConnLogSource  # noqa: PLC0415

    logs = [path for path in paths if path != "-" and only_kind(path, ("captures", "conn.log")) == "conn.log"]
    if not logs:
        return CaptureSource(paths, block_frames=settings.source.block_frames)
    if len(logs) < len(paths):
        other = next(path for path in paths if path not in logs)
        raise Misuse(f"{logs[0]}: it is a conn.log and {other} is not: replay them one after the other")
    return ConnLogSource(logs)


def open_engine(settings: config.Settings) -> Engine:
    """Load the model and lay out the engine. Raises ModelDoesNotFit, VocabularyDoesNotFit or Misuse."""
    import torch  # noqa: PLC0415

    from models.checkpoint import DEFAULT_MODEL, load  # noqa: PLC0415
    from sensor.engine import Engine  # noqa: PLC0415

    name = settings.model.device
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise Misuse(f"model.device is {name}, but torch finds no CUDA device here: set it to auto or cpu")
    torch.set_num_threads(settings.model.threads)
    bundle = load(settings.model.path or DEFAULT_MODEL)
    return Engine(settings, bundle, device=None if name == "auto" else torch.device(name))


def tell(arguments: argparse.Namespace, source: Source, report: Report, outlets: Sequence[Outlet]) -> int:
    """Warn of damage, sum up, and choose the exit status."""
    from sensor.commands import terminal  # noqa: PLC0415
    from sensor.commands.outlets import speaks_to_people, standard_output  # noqa: PLC0415
    from sensor.sinks.lines import Lines  # noqa: PLC0415

    for line in [*damages_of(source), *["interrupted: the rest of the input was not read"] * report.interrupted]:
        fail(terminal.printable(line), DAMAGED)
    if not arguments.quiet:
        notes = left_out(source) + [f"written       {outlet.file}" for outlet in outlets if outlet.file]
        text = terminal.summary(report.counters, notes, report.seconds, rated=not report.cold, log=is_log(source))
        if speaks_to_people(arguments):
            Lines(standard_output(), "standard output").write(text.encode())
        else:
            sys.stderr.write(text)
    if report.interrupted:
        return INTERRUPTED
    return DAMAGED if source.damages else DONE


def damages_of(source: Source) -> list[str]:
    """Name the places where the input could not be read, and the number of those that are too many to name."""
    unit = "line" if is_log(source) else "byte"
    lines = [f"{path}: damaged at {unit} {place}: {reason}" for path, place, reason in source.damages[:TOLD]]
    counts: dict[str, int] = getattr(source, "damage_counts", {})
    more = max(len(source.damages), sum(counts.values())) - len(lines)
    if more:
        lines.append(f"{source.damages[0].path}: and {more:,} more places that could not be read: the summary counts them all")
    return lines


def left_out(source: Source) -> list[str]:
    """Name the files that were not read, each with the reason."""
    from sensor.commands import terminal  # noqa: PLC0415

    lines = []
    for path, reason in source.skipped_files[:TOLD]:
        told = reason if reason.startswith(path) else f"{path}: {reason}"
        lines.append(f"not read      {terminal.printable(told)}")
    more = len(source.skipped_files) - TOLD
    return [*lines, f"not read      and {more:,} more files"] if more > 0 else lines


if __name__ == "__main__":
    sys.exit(main())
