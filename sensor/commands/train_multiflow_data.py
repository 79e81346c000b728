"""What `netseq-train multiflow` learns from: the flows it reads, the classes and columns asked for, and how the flows are cut.

`train_multiflow` calls these in the order in which they stand here; nothing is trained yet. Whatever is wrong with the data
is told here, in a line that names the files it is about.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sensor.commands.misuse import Misuse

if TYPE_CHECKING:  # what these import is slow, and is not needed to tell of a mistake
    from models.flowset import Split
    from sensor.commands.classes import Classes
    from sensor.commands.flowsets import Read
    from sensor.commands.train import Progress

NAME = "netseq-train"


def check_apart(files: Sequence[str], held_back: Sequence[str]) -> None:
    """Refuse to hold back what is trained on, by where it lies. Raises Misuse."""
    for held in held_back:
        for path in files:
            one, other = Path(held).resolve(), Path(path).resolve()
            if one == other or one in other.parents or other in one.parents:
                raise Misuse(f"--held-back {held}: {path} is trained on, and shares files with it: hold others back")


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


def check_others(read: Read, first: int) -> None:
    """Refuse data sets from `first` on that are copies of one before them, by their hashes. Raises Misuse."""
    trained = {one.sha256: one.path for one in read.data[:first]}
    for one in read.data[first:]:
        if one.sha256 in trained:
            raise Misuse(f"--held-back {one.path}: {trained[one.sha256]} is trained on, and is the same data: hold others back")


def cut(arguments: argparse.Namespace, read: Read) -> Split:
    """Cut what was read. Raises Misuse where that gives nothing to train on, or nothing to hold back."""
    from models import flowset  # noqa: PLC0415

    trained, held = arguments.files, arguments.held_back
    try:
        if held:
            return flowset.apart(read.flows, sum(one.rows for one in read.data[: len(trained)]))
        way = flowset.honest if arguments.split == "honest" else flowset.stratified
        return way(read.flows, arguments.test, arguments.seed, arguments.validation)
    except flowset.NoneHeldBack as error:
        raise Misuse(f"--held-back {', '.join(held)}: {error}") from error
    except ValueError as error:
        raise Misuse(f"{', '.join(trained)}: {error}") from error
