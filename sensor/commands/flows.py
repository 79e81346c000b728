"""`netseq-flows`: captures, Zeek's conn.log or tables of flows in; flow records with every CICFlowMeter column out.

This file puts arguments, files and a terminal round `assembly` and `statistics`; no model is known here, and torch is not
imported. Exit status: 0 done, 1 the input was damaged or the output could not be written, 2 misuse (arguments, settings, a file
that is no capture), 130 interrupted, 141 the reader of the output went away.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import functools
import io
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sensor import __version__, config
from sensor.commands import process, reading
from sensor.commands.misuse import Misuse, Parser, add_settings, check_inputs, check_output, fail
from sensor.commands.process import DONE, INTERRUPTED, MISUSE
from sensor.commands.reading import Report
from sensor.spellings import SPELLINGS, named

if TYPE_CHECKING:  # what these import is slow, and is not needed to tell of a mistake
    from sensor.commands.flow_columns import FlowColumns
    from sensor.commands.reading import Source
    from sensor.schema import FlowBatch
    from sensor.sinks.conn_log import ConnLog

NAME = "netseq-flows"

FORMATS = ("csv", "jsonl", "parquet", "zeek", "zeek-json")
SUFFIXES = {"": "csv", ".csv": "csv", ".jsonl": "jsonl", ".json": "jsonl", ".parquet": "parquet", ".log": "zeek"}
LAYOUTS = ("cicflowmeter", "cicids2017", "cse-cic-ids2018", "netseq")

EPILOG = """\
Examples:
  netseq-flows office.pcap > flows.csv               every column of CICFlowMeter, under its header
  netseq-flows monday.pcapng.gz tuesday/ --output flows.parquet
  netseq-flows office.pcap --columns fwd_packets,bwd_packets,duration_us,label
  netseq-flows office.pcap --rules cicflowmeter --no-idle-expiry > as-cicflowmeter.csv
  netseq-flows office.pcap --format zeek > conn.log
  tcpdump -U -w - | netseq-flows - --format jsonl    a capture on standard input
  netseq-flows --list-columns                        every column with its unit and meaning

Exit status: 0 done; 1 the input was damaged (what could be read was written) or the output could not be written;
2 misuse: arguments, settings, or a file that is no capture.
"""


class Sink(NamedTuple):
    """Where the flows go."""

    write: Callable[[FlowBatch], None]
    close: Callable[[], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    arguments = parser().parse_args(argv)
    try:
        changes = list(arguments.set) + ([f"statistics.rules={arguments.rules}"] if arguments.rules else [])
        settings = config.load(arguments.config, changes)
        if arguments.show_config:
            sys.stdout.write(config.to_toml(settings))
            return DONE
        if arguments.list_columns:
            return list_columns()
        form = form_of(arguments)
        check(arguments, form)
    except (config.ConfigError, Misuse) as error:
        return fail(NAME, str(error), MISUSE)
    try:
        return write_flows(arguments, settings, form)
    except KeyboardInterrupt:
        return fail(NAME, "interrupted: what was read is not all written", INTERRUPTED)


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    build = Parser(
        prog=NAME,
        description="Write the flows of captures, Zeek's conn.log or tables of flows, with the columns of CICFlowMeter.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    build.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help='capture, folder of captures, conn.log, CSV of flows, or "-" for a capture on standard input',
    )
    out = build.add_argument_group("what comes out")
    out.add_argument("--output", metavar="FILE", type=Path, help="write FILE, replacing one from before (default: stdout)")
    out.add_argument("--format", choices=FORMATS, help="default: by FILE's suffix (.csv .jsonl .parquet .log), or csv")
    out.add_argument(
        "--header", choices=LAYOUTS, help="names and order of columns (default: cicflowmeter for csv, else netseq)"
    )
    out.add_argument("--columns", metavar="A,B", help="only these columns, in this order, by any layout's names")
    out.add_argument("--list-columns", action="store_true", help="print every column with its unit and meaning, and end")
    out.add_argument("--quiet", action="store_true", help="no progress and no summary; warnings and errors are still told")
    how = build.add_argument_group("how flows and columns are made")
    how.add_argument("--rules", choices=("netseq", "cicflowmeter"), help="short for --set statistics.rules=")
    how.add_argument(
        "--no-idle-expiry", action="store_true", help="flows end by their packets alone, never by silence, as in CICFlowMeter"
    )
    add_settings(how)
    build.add_argument("--version", action="version", version=f"netseq {__version__}")
    return build


def form_of(arguments: argparse.Namespace) -> str:
    """The format that is asked for, or that the output's suffix tells. Raises Misuse."""
    suffix = arguments.output.suffix.lower() if arguments.output else ""
    form = arguments.format or SUFFIXES.get(suffix)
    if form is None:
        raise Misuse(f"{arguments.output}: its suffix tells no format: add --format, one of {', '.join(FORMATS)}")
    return str(form)


def check(arguments: argparse.Namespace, form: str) -> None:
    """Refuse what cannot work before anything slow begins. Raises Misuse."""
    if not arguments.files:
        raise Misuse("no FILE given: name a capture, a folder of captures, a conn.log, a CSV of flows, or - for a capture")
    if form.startswith("zeek") and (arguments.header or arguments.columns):
        raise Misuse("conn.log has columns of its own: leave --header and --columns out, or choose another --format")
    chosen_columns(arguments)
    if form == "parquet":
        if not arguments.output and sys.stdout.isatty():
            raise Misuse("Parquet is no text for a terminal: give --output FILE, or send it into a file or pipe")
        try:
            import pyarrow  # noqa: F401, PLC0415  # an extra
        except ImportError:
            raise Misuse("Parquet needs pyarrow: pip install 'netseq[parquet]'") from None
    check_inputs(NAME, arguments.files)
    if arguments.output:
        check_target(arguments.output, arguments.files)


def chosen_columns(arguments: argparse.Namespace) -> list[str]:
    """The names of the columns that are asked for by any spelling, each once, in that order; none for all. Raises Misuse."""
    names: dict[str, None] = {}
    for text in arguments.columns.split(",") if arguments.columns is not None else ():
        if not text.strip():
            raise Misuse("--columns: a name is empty: give names with commas between them")
        name = named(text)
        if name is None:
            spelt = {word.strip().lower(): word.strip() for spelling in SPELLINGS for word in spelling[:4]}
            close = difflib.get_close_matches(text.strip().lower(), spelt, n=1, cutoff=0.5)
            hint = f", did you mean {spelt[close[0]]!r}?" if close else ""
            raise Misuse(f"--columns: unknown column {text!r}{hint}: --list-columns shows all")
        names[name] = None
    return list(names)


def check_target(path: Path, inputs: Sequence[str]) -> None:
    """Refuse an output that cannot be written, or that is one of the inputs. Raises Misuse."""
    if not path.exists():
        check_output(path.parent, [path.name])
    elif path.is_dir() or not os.access(path, os.W_OK):
        raise Misuse(f"{path}: cannot be written ({'it is a folder' if path.is_dir() else 'permission denied'})")
    elif any(name != "-" and os.path.samefile(name, path) for name in inputs):
        raise Misuse(f"{path}: it is an input, too: give --output another file")


def list_columns() -> int:
    """Print every column."""
    from sensor.commands.flow_columns import listing  # noqa: PLC0415
    from sensor.commands.outlets import standard_output  # noqa: PLC0415
    from sensor.sinks.lines import Lines  # noqa: PLC0415

    def work() -> int:
        Lines(standard_output(), "standard output", "columns").write(listing().encode())
        return DONE

    return reading.guarded(NAME, [], work)


def write_flows(arguments: argparse.Namespace, settings: config.Settings, form: str) -> int:
    """Read the files, write their flows, and sum up."""
    process.allow_open_files()
    compiled = reading.prepare_kernels(NAME, quiet=arguments.quiet)  # before anything below imports a kernel
    from sensor.assembly import Passage  # noqa: PLC0415  # slow to import, as all that follows
    from sensor.commands import terminal  # noqa: PLC0415

    def work() -> int:
        source = reading.open_source(arguments.files, settings, tables=True)
        assembly = Passage(settings, expiry=not arguments.no_idle_expiry)
        with open_sink(arguments, settings, form, source) as sink:

            def take(batch: FlowBatch) -> int:
                sink.write(batch)
                return len(batch.flows)

            shown = not arguments.quiet and bool(arguments.output or not sys.stdout.isatty())  # a bar among rows is in the way
            bar = terminal.Bar(shown=shown, unit=reading.unit_of(source), doing="writing", found="flow")
            live = process.is_live(arguments.files)
            seconds, interrupted = reading.read_all(source, assembly, take, bar, live=live)
            sink.close()
        counters = assembly.counters() | reading.losses_of(source)
        return tell(arguments, source, Report(counters, seconds, interrupted, bool(compiled)))

    return reading.guarded(NAME, arguments.files, work)


@contextlib.contextmanager
def open_sink(arguments: argparse.Namespace, settings: config.Settings, form: str, source: Source) -> Iterator[Sink]:
    """Open the output and what writes into it. Raises SinkFailed."""
    from sensor.commands.flow_columns import FlowColumns  # noqa: PLC0415
    from sensor.commands.outlets import open_file, standard_output  # noqa: PLC0415
    from sensor.sinks.conn_log import ConnLog  # noqa: PLC0415

    path = arguments.output
    name = str(path or "standard output")
    layout = arguments.header or ("cicflowmeter" if form == "csv" else "netseq")
    known = form == "parquet" and reading.is_table(source)
    table = FlowColumns(layout, chosen_columns(arguments), settings.statistics.rules, known=known)
    if form == "parquet":
        with parquet(path, table) if path else piped_parquet(table) as sink:
            yield sink
        return
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(open_file(path, "flows")) if path else standard_output()
        if form in ("zeek", "zeek-json"):
            log = ConnLog(stream, "tsv" if form == "zeek" else "json", clock=datetime.now, name=name)
            yield Sink(functools.partial(write_connections, log, arguments.files[0]), log.close)
        else:
            yield text_sink(form, layout, table, stream, name)


def write_connections(log: ConnLog, path: str, batch: FlowBatch) -> None:
    """Write flows as connections. Raises Misuse for a table without hosts or times, of which none can be made."""
    flows = batch.flows
    if batch.statistics is not None and not (flows["src_lo"].any() and flows["first_us"].any()):
        raise Misuse(f"{path}: the table has no hosts or no times, and a conn.log needs both: choose another --format")
    log.write(batch)


def text_sink(form: str, layout: str, table: FlowColumns, stream: io.FileIO, name: str) -> Sink:
    """A sink for CSV or JSON lines, with the times as the layout writes them."""
    from sensor.address_text import iso_text, stamps_text, twelve_hours_text  # noqa: PLC0415
    from sensor.sinks.flow_csv import FlowCsv  # noqa: PLC0415
    from sensor.sinks.flow_jsonl import FlowJsonLines  # noqa: PLC0415

    stamps = {"cicflowmeter": stamps_text, "netseq": iso_text}.get(layout, twelve_hours_text)
    make = FlowCsv if form == "csv" else FlowJsonLines
    sink = make(stream, table.fields, stamps=stamps, name=name)
    return Sink(lambda batch: sink.write(table.values(batch)), sink.close)


@contextlib.contextmanager
def parquet(path: Path, table: FlowColumns) -> Iterator[Sink]:
    """A sink for Parquet: the file gets its name when it is whole, and nothing is left of one that failed."""
    from sensor.sinks.flow_parquet import FlowParquet  # noqa: PLC0415

    target = Path(os.path.realpath(path))
    special = target.exists() and not stat.S_ISREG(target.stat().st_mode)  # /dev/stdout, a pipe: nothing to rename over
    place = target if special else target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with writing(path):
            place.parent.mkdir(parents=True, exist_ok=True)
            stream = place.open("wb")
        try:
            sink = FlowParquet(stream, table.fields, name=str(path))
            with contextlib.ExitStack() as stack:
                stack.callback(sink.abandon)
                yield Sink(lambda batch: sink.write(table.values(batch)), sink.close)
        finally:
            with contextlib.suppress(OSError):  # the sink has written all that counts; what failed is told already
                stream.close()
        if not special:
            with writing(path):
                place.replace(target)
    finally:
        if not special:
            place.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what goes wrong with the output into SinkFailed."""
    from sensor.sinks.lines import SinkFailed  # noqa: PLC0415

    try:
        yield
    except OSError as error:
        raise SinkFailed(f"cannot write flows to {path}: {error.strerror or error}") from error


class WholeWrites(io.FileIO):
    """A stream that takes all bytes of a write and keeps none: what a buffer held would come after all else was taken back."""

    given_up = False
    """Nothing is written any more: Arrow's writer ends its file even when it is thrown away."""

    def write(self, data: bytes, /) -> int:  # type: ignore[override]  # bytes is all that a sink writes
        """Write all of `data`."""
        left = memoryview(data)
        while left and not self.given_up:
            left = left[super().write(left) or 0 :]
        return len(data)


@contextlib.contextmanager
def piped_parquet(table: FlowColumns) -> Iterator[Sink]:
    """A sink for Parquet on standard output; of one that failed, a file there keeps nothing."""
    from sensor.commands.outlets import standard_output  # noqa: PLC0415
    from sensor.sinks.flow_parquet import FlowParquet  # noqa: PLC0415

    raw = standard_output()
    start = raw.tell() if raw.seekable() else None
    stream = WholeWrites(raw.fileno(), "wb", closefd=False)
    sink = FlowParquet(stream, table.fields, name="standard output")
    try:
        yield Sink(lambda batch: sink.write(table.values(batch)), sink.close)
    except BaseException:
        sink.abandon()  # first, for it writes in a thread of its own
        stream.given_up = True
        if start is not None:
            with contextlib.suppress(OSError):
                raw.seek(start)
                raw.truncate()
        raise
    sink.abandon()


def tell(arguments: argparse.Namespace, source: Source, report: Report) -> int:
    """Warn of damage, sum up, and choose the exit status."""
    from sensor.commands import terminal  # noqa: PLC0415
    from sensor.commands.outlets import standard_output  # noqa: PLC0415
    from sensor.sinks.lines import Lines  # noqa: PLC0415

    status = reading.warn(NAME, source, report)
    if not arguments.quiet:
        notes = (
            reading.mended(source)
            + reading.left_out(source)
            + ([f"written       {arguments.output}"] if arguments.output else [])
        )
        log = reading.is_log(source)
        text = terminal.summary(report.counters, notes, report.seconds, rated=not report.cold, log=log, judged=False)
        if arguments.output:
            Lines(standard_output(), "standard output", "the summary").write(text.encode())
        else:
            sys.stderr.write(text)
    return status


if __name__ == "__main__":
    sys.exit(main())
