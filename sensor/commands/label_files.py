"""Which label files tell of a FILE's flows, for all commands that train and measure: this is the one place that knows.

A label file that is named (`--labels`) tells of every FILE. A folder that is named may bring its own: `labels.csv` in it tells
of what lies in that folder and below, so that a capture and its labels travel together, and several folders each have theirs.
Named ones go first. A labels.csv further below is refused, since what lies beside it would be learned as if it were benign.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sensor.commands.datasets import is_one
from sensor.commands.misuse import Misuse
from sensor.labels import Labels

if TYPE_CHECKING:
    from sensor.commands.datasets import DataSet

FILE_NAME = "labels.csv"
"""What a folder's own label file is called."""


def beside(path: str) -> Path | None:
    """The label file that a folder brings along, if it does. Raises Misuse where one lies in a folder below."""
    folder = Path(path)
    if not folder.is_dir():
        return None
    found = [file for file in sorted(folder.rglob(FILE_NAME)) if not is_one(str(file), "flow-csv", statistics=True)]
    deeper = next((file for file in found if file.parent != folder), None)
    if deeper is not None:
        raise Misuse(f"{path}: {deeper} tells of the folder that it lies in: name {deeper.parent} itself")
    return found[0] if found else None


class LabelFiles:
    """The label files that are named, and those that folders bring along, each read once."""

    def __init__(self, named: Sequence[Labels], paths: Sequence[str]) -> None:
        """Read what the folders among `paths` bring along. Raises LabelsError, and Misuse as `beside` does."""
        self._named = tuple(named)
        self._own = {path: Labels.read(own) for path in dict.fromkeys(paths) if (own := beside(path)) is not None}

    def of(self, path: str) -> tuple[Labels, ...]:
        """Those that tell of a FILE's flows; the first one that names a flow decides."""
        return (*self._named, *([self._own[path]] if path in self._own else []))

    def every(self) -> tuple[Labels, ...]:
        """All of them."""
        return (*self._named, *self._own.values())

    def report(self) -> list[str]:
        """How many flows each line of each file has matched."""
        return [line for labels in self.every() for line in labels.report().splitlines()]


def labelled(data: DataSet, labels: Sequence[Labels]) -> DataSet:
    """The data set with what label files say of its flows; the first file that names a flow decides.

    They go before its own labels; a flow that no line matches keeps its own, and without any nobody has judged it: see
    docs/labels.md.
    """
    if not labels:
        return data
    texts, unsure = data.labels, data.unsure if data.judged else np.ones(len(data.labels), np.bool_)
    for one in reversed(labels):
        found = one.of(data.flows)
        texts = np.where(found >= 0, np.array(["", *one.names], dtype=np.str_)[found + 1], texts)
        unsure = np.where(found >= 0, np.array([False, *one.unsure])[found + 1], unsure)
    return data._replace(labels=texts, unsure=unsure)
