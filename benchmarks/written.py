"""What `netseq-flows` writes a second: the whole command on two cores, from captures to tables with all columns.

Measured on many flows with few packets, where writing is the work, and on the capture of the comparison, where making the
flows is. How many rows a table has is counted in the table, and both kinds must have the same number.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.comparison import net
from benchmarks.measure import CommandError, Spread, Usage, alternate, available_cores, run
from benchmarks.table import Figure, spread

COMMAND = Path(sys.executable).with_name("netseq-flows")
CORES = 2
TARGETS = {"csv": 100_000, "parquet": 300_000}
"""Flows per second of wall time by kind of table."""
FEW_PACKETS = 8
"""From so many packets a flow on, a second's flows are bounded by its packets: nothing is promised then."""
PIECE_BYTES = 1 << 20


class Written(NamedTuple):
    """One table, written once."""

    rows: int
    table_bytes: int
    usage: Usage


class Capture(NamedTuple):
    """What flows are read from."""

    path: Path
    packets: int
    flows: int


def figures(captures: Sequence[Capture], few: Path, runs: int) -> list[Figure]:
    """Return flows per second for each capture and kind of table, start-up (the capture `few`) taken off.

    Raises CommandError when two tables of one capture differ in the number of rows.
    """
    kinds = writable()
    paths = [few, *(capture.path for capture in captures)]
    kept: dict[tuple[Path, str], list[Written]] = {(path, kind): [] for path in paths for kind in kinds}
    usages = alternate(
        {f"{path} {kind}": functools.partial(write, path, kind, mine) for (path, kind), mine in kept.items()}, runs
    )
    found = []
    for capture in captures:
        if len({one.rows for kind in kinds for one in kept[capture.path, kind]}) > 1:
            raise CommandError(f"netseq-flows wrote tables of different lengths from {capture.path}")
        for kind, target in TARGETS.items():
            what = f"netseq-flows to {kind}, two cores, {capture.packets // capture.flows} packets a flow"
            if kind in kinds:
                start_s = Spread.of([usage.wall_s for usage in usages[f"{few} {kind}"]]).median
                found.append(_figure(what, capture, kind, kept[capture.path, kind][-runs:], start_s))
            else:
                found.append(Figure(what, "pyarrow is not installed: pip install 'netseq[parquet]'", f"{target:,}"))
    return found


def writable() -> list[str]:
    """Return the kinds of tables that this installation can write."""
    return [kind for kind in TARGETS if kind != "parquet" or importlib.util.find_spec("pyarrow")]


def _figure(what: str, capture: Capture, kind: str, mine: list[Written], start_s: float) -> Figure:
    """Hold the flows per second to the promise, if this capture has one."""
    spent = [net(one.usage.wall_s, start_s, COMMAND.name) for one in mine]
    rate = Spread.of([one.rows / wall_s for one, wall_s in zip(mine, spent, strict=True)])
    packets = Spread.of([capture.packets / wall_s for wall_s in spent]).median
    measured = (
        f"{spread(rate, 1, 0)} flows/s; {packets / 1e6:.2f} million packets/s,"
        f" {mine[-1].table_bytes / mine[-1].rows:,.0f} bytes a flow, {start_s:.2f} s start-up"
    )
    if capture.packets >= FEW_PACKETS * capture.flows:
        return Figure(what, measured)
    return Figure(what, measured, f"{TARGETS[kind]:,}", rate.median >= TARGETS[kind])


def write(capture: Path, kind: str, kept: list[Written]) -> Usage:
    """Write the flows of `capture` into a table that is then thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / f"flows.{kind}"
        usage = run([COMMAND, "--quiet", "--output", table, capture], available_cores()[:CORES])
        kept.append(Written(count_rows(table), table.stat().st_size, usage))
    return usage


def count_rows(table: Path) -> int:
    """Return the rows of a Parquet file, or the lines of a CSV behind its header: none of its values has a line break."""
    if table.suffix == ".parquet":
        parquet = importlib.import_module("pyarrow.parquet")  # an extra that may be absent
        return int(parquet.read_metadata(table).num_rows)
    with table.open("rb") as file:
        return sum(piece.count(b"\n") for piece in iter(functools.partial(file.read, PIECE_BYTES), b"")) - 1
