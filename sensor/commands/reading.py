"""What netseq-replay and netseq-flows do alike: open the sources, read them to the end, and tell what could not be read.

Each command says what becomes of a batch of flows; everything round it stands here, so that interrupts, damage, the limit of
open files and the exit statuses mean the same in both. Heavy imports wait inside the functions, for a mistake in the
arguments is told before anything slow begins.
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from sensor import config
from sensor.commands import process
from sensor.commands.misuse import Misuse, fail
from sensor.commands.process import DAMAGED, DONE, INTERRUPTED, MISUSE, READER_GONE

if TYPE_CHECKING:  # what these import is slow, and is not needed to tell of a mistake
    from sensor.assembly import Assembly
    from sensor.commands.terminal import Bar
    from sensor.schema import FlowBatch
    from sensor.sources.flowcsv import FlowCsvSource
    from sensor.sources.pcap import CaptureSource
    from sensor.sources.zeek import ConnLogSource

    Source: TypeAlias = CaptureSource | ConnLogSource | FlowCsvSource

COMPILING_S = 20
"""Seconds that the first compilation takes on one core of a common machine, for the announcement."""

DRAW_EVERY_S = 0.1
"""Seconds between two drawings of the progress bar: faster is not seen."""

TOLD = 20
"""Places of damage, and files left out, that are told one by one; of the rest, the number is."""

TOO_MANY = "more captures overlap in time than the limit of {} open files allows: raise it (ulimit -n), or name fewer"


class Report(NamedTuple):
    """What a run came to."""

    counters: dict[str, int]
    seconds: float
    interrupted: bool = False
    cold: bool = False
    """The kernels were compiled on the way."""


def prepare_kernels(command: str, *, quiet: bool) -> list[bool]:
    """Choose the kernels' folder, before any is imported; the list is not empty once one had to be compiled, which is told."""
    from sensor.kernels import prepare_cache, when_compiling  # noqa: PLC0415  # slow to import, as all that follows

    cache = prepare_cache()
    compiled: list[bool] = []

    def announce() -> None:
        compiled.append(True)
        if not quiet:
            fail(command, compiling(cache.refused), DONE)

    when_compiling(announce)
    return compiled


def compiling(refused: Path | None) -> str:
    """Announce a wait, which comes back on each run when the cache folder was `refused`."""
    if refused:
        return f"{refused}: cannot be written: kernels are compiled on each run: set NUMBA_CACHE_DIR"
    return f"compiling kernels, once: up to {COMPILING_S} s"


def guarded(command: str, paths: Sequence[str], work: Callable[[], int], refusals: tuple[type[Exception], ...] = ()) -> int:
    """Do the work, and turn what may end it early into one line and an exit status. `refusals` are the command's own."""
    from sensor.sinks.lines import SinkFailed  # noqa: PLC0415
    from sensor.sources.faults import NotAConnLog  # noqa: PLC0415
    from sensor.sources.flowcsv import NotAFlowTable  # noqa: PLC0415
    from sensor.sources.pcap import NotACapture  # noqa: PLC0415

    refused: tuple[type[Exception], ...] = (Misuse, NotACapture, NotAConnLog, NotAFlowTable, *refusals)
    try:
        return work()
    except refused as error:
        return fail(command, str(error), MISUSE)
    except SinkFailed as error:
        if isinstance(error.__cause__, BrokenPipeError):
            return READER_GONE
        return fail(command, str(error), DAMAGED)
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        return fail(command, f"{paths[0]}: {TOO_MANY.format(process.open_files())}", DAMAGED)


def open_source(paths: Sequence[str], settings: config.Settings, *, tables: bool = False) -> Source:
    """Open captures, or logs when the files are logs, or tables of flows where `tables` are taken.

    Raises NotACapture, NotAConnLog, NotAFlowTable or Misuse.
    """
    from sensor.commands.datasets import KINDS, only_kind  # noqa: PLC0415
    from sensor.sources.flowcsv import FlowCsvSource  # noqa: PLC0415
    from sensor.sources.pcap import CaptureSource  # noqa: PLC0415
    from sensor.sources.zeek import ConnLogSource  # noqa: PLC0415

    kinds = {
        path: only_kind(path, KINDS if tables else ("captures", "conn.log"), statistics=tables) for path in paths if path != "-"
    }
    finished = {path: kind for path, kind in kinds.items() if kind == "conn.log" or (tables and kind == "flow-csv")}
    if not finished:
        return CaptureSource(paths, block_frames=settings.source.block_frames)
    first, kind = next(iter(finished.items()))
    other = next((path for path in paths if finished.get(path) != kind), None)
    if other is not None:
        raise Misuse(f"{first}: it is a {kind} and {other} is not: name them one after the other")
    return ConnLogSource(paths) if kind == "conn.log" else FlowCsvSource(paths, statistics=True)


def read_all(
    source: Source, assembly: Assembly, take: Callable[[FlowBatch], int], bar: Bar, *, live: bool = False
) -> tuple[float, bool]:
    """Hand every batch of flows that the source gives to `take`, which says how much it found, for the bar.

    An interrupt ends the input early, and what was read is still handed over; a second one ends the run. `live` as for Ahead.
    Returns the seconds that it took, and whether it was interrupted.
    """
    from sensor.commands.ahead import Ahead  # noqa: PLC0415

    begun = drawn = time.monotonic()
    found = 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(bar)

        def draw() -> None:
            nonlocal drawn
            if time.monotonic() - drawn >= DRAW_EVERY_S:
                drawn = time.monotonic()
                bar.update(source.bytes_done, source.bytes_total, units_of(source), found)

        bar.update(0, source.bytes_total, 0, 0)
        batches = stack.enter_context(contextlib.closing(Ahead(source, assembly, draw, live=live)))
        interrupted = stack.enter_context(process.interrupts(batches.stop))
        for batch in batches:
            found += take(batch)
            draw()
        return time.monotonic() - begun, bool(interrupted)


def is_log(source: Source) -> bool:
    """Tell whether the source has flows that are finished, and no packets."""
    return not hasattr(source, "frames")


def is_table(source: Source) -> bool:
    """Tell whether the source is a table of flows, which brings its own statistics along."""
    return hasattr(source, "joined")


def unit_of(source: Source) -> str:
    """What `units_of` counts."""
    return ("flows" if is_table(source) else "connections") if is_log(source) else "packets"


def units_of(source: Source) -> int:
    """Packets read so far, or connections of a log, or flows of a table."""
    return int(getattr(source, unit_of(source) if is_log(source) else "frames"))


def losses_of(source: Source) -> dict[str, int]:
    """Give what the source itself could not read, by the names of `metrics`."""
    counters = {"files_skipped": len(source.skipped_files), "packets_unstamped": getattr(source, "unstamped", 0)}
    blocks: dict[str, int] = getattr(source, "skipped_blocks", {})
    rows: dict[str, int] = getattr(source, "damage_counts", {})
    counters |= {f"blocks_skipped.{kind}": number for kind, number in blocks.items()}
    return counters | {f"rows_skipped.{kind}": number for kind, number in rows.items()}


def warn(command: str, source: Source, report: Report) -> int:
    """Tell of damage and of an interrupt, a line each; returns the exit status that follows."""
    from sensor.commands.terminal import printable  # noqa: PLC0415

    for line in [*damages_of(source), *["interrupted: the rest of the input was not read"] * report.interrupted]:
        fail(command, printable(line), DAMAGED)
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


def mended(source: Source) -> list[str]:
    """Tell what was put right in tables of other tools, for the summary."""
    cells: dict[str, int] = getattr(source, "mended", {})
    return [f"put right     {number:>14,}  {what}" for what, number in cells.items()]


def left_out(source: Source) -> list[str]:
    """Name the files that were not read, each with the reason, for the summary."""
    from sensor.commands.terminal import printable  # noqa: PLC0415

    lines = []
    for path, reason in source.skipped_files[:TOLD]:
        told = reason if reason.startswith(path) else f"{path}: {reason}"
        lines.append(f"not read      {printable(told)}")
    more = len(source.skipped_files) - TOLD
    return [*lines, f"not read      and {more:,} more files"] if more > 0 else lines
