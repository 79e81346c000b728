"""Labels of flows as classes, for `flowsets`: the files' own, and those that label files give, with their counts.

Of millions of flows a few dozen labels differ. So each distinct one gets a number when it is first met, flows keep the number,
and what class it is, or whether any, is asked once at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.flowset import UNJUDGED
from sensor.commands.classes import Classes
from sensor.labels import Labels
from sensor.schema import FlowBatch
from sensor.sources.finished import Labels as Texts

Pair: TypeAlias = tuple[str, str]
"""Text and detail of a label, as sources tell them."""


class Judge:
    """The distinct labels met so far, as numbers; which class each is, and how many flows have it."""

    def __init__(self, classes: Classes) -> None:
        self._classes = classes
        self._files: list[tuple[Labels, NDArray[np.int64]]] = []
        self._numbers: dict[Pair | None, int] = {None: 0}
        self._rows = np.zeros(1, np.int64)

    def begin(self, files: Sequence[Labels]) -> None:
        """Begin a data set, of whose flows these label files tell; the first one that names a flow decides."""
        texts = Texts()
        self._files = [
            (labels, np.array([self._number(texts.known[texts.place(line.label, "")]) for line in labels.lines], np.int64))
            for labels in reversed(files)
        ]

    def _number(self, pair: Pair | None) -> int:
        return self._numbers.setdefault(pair, len(self._numbers))

    def labels_of(self, batch: FlowBatch, *, labelled: bool) -> NDArray[np.int32]:
        """(n,) number of each flow's label; 0 for none."""
        if batch.labels is not None and (labelled or batch.statistics is None):
            pairs = zip(batch.labels, batch.details or repeat(""), strict=False)
            numbers = np.array([self._number(pair) for pair in pairs], np.int32)
        else:
            numbers = np.zeros(len(batch.flows), np.int32)
        for labels, of_line in self._files:
            lines = labels.of(batch.flows, batch.lacks)
            numbers = np.where(lines >= 0, of_line[lines], numbers).astype(np.int32)
        counted = np.bincount(numbers, minlength=len(self._numbers))
        counted[: len(self._rows)] += self._rows
        self._rows = counted
        return numbers

    def classes_of(self, numbers: NDArray[np.int32]) -> NDArray[np.int64]:
        """(n,) class of each flow by the number of its label."""
        return np.array([UNJUDGED if pair is None else self._class(pair) for pair in self._numbers], np.int64)[numbers]

    def unknown(self) -> dict[str, int]:
        """Labels of attacks, or of benign flows, that no class knows, with their rows."""
        return {
            repr(text or "benign") + (f" ({detail})" if text and detail else ""): rows
            for (text, detail), rows in self._without_class()
            if text or self._classes.number("") == UNJUDGED
        }

    def unjudged(self) -> dict[str, int]:
        """Rows that nobody judged, by what they are."""
        told = {"flows without a label": int(self._rows[0])} if self._rows[0] else {}
        if self._classes.benign == UNJUDGED:
            return told
        return told | {f"flows labelled {detail!r}": rows for (text, detail), rows in self._without_class() if not text}

    def _without_class(self) -> Iterator[tuple[Pair, int]]:
        for pair, rows in zip(self._numbers, self._rows.tolist(), strict=False):
            if pair is not None and rows and self._class(pair) == UNJUDGED:
                yield pair, rows

    def _class(self, pair: Pair) -> int:
        return self._classes.number(*pair)
