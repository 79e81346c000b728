"""Tables of flows as text: the header's columns by name, and rows as blocks of cells and numbers.

A table is CSV as CICFlowMeter writes it, or with quoted cells, as other programs write it again. A row is one line in any
case, so that a stray quote cannot swallow the lines after it. Numbers of a block are converted at once by numpy's reader of
text; only where that fails, column by column, to find the cells to blame.

What is wrong with published tables is met here: rows of commas alone (288,602 of them in CICIDS2017's file of Thursday
morning), the header once more in the middle of a file (CSE-CIC-IDS2018), and rows with one value more than names (a daily
table of the tool: "Fwd Header Length" stands there twice, as in CICIDS2017's tables, but is named once).
Called by `flowcsv`.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.sources.columns import Columns
from sensor.sources.lines import Damages, LineFile
from sensor.spellings import STATISTICS, TWICE, named

BEFORE_TWIN = "Fwd Bytes/Bulk Avg"
"""The column that the second "Fwd Header Length" stands before."""

_DASH = re.compile("\\x96|\ufffd|\u00e2(?:\\x80\\x93|\u20ac\u201c)|\u00ef\u00bf\u00bd")
"""What has become of the dash of "Web Attack \u2013 XSS": cp1252 read as latin-1, not read at all, UTF-8 read as latin-1 or
cp1252, and the sign for "not read" read once more."""


class Header(NamedTuple):
    """The first line of a table."""

    texts: tuple[str, ...]
    places: dict[str, int]
    """Name of a column: its place in a row; the first one of two with one name."""
    line: str

    @property
    def known(self) -> list[str]:
        """The statistics that the table has, by name."""
        return [name for name in self.places if name in STATISTICS]


def cells_of(line: str) -> list[str]:
    """The cells of a line; a quoted one may hold commas (RFC 4180), and a quote that is not closed ends with its line."""
    return line.split(",") if '"' not in line else next(csv.reader([line]), [])


def header_of(head: bytes) -> Header:
    """The header in the first bytes of a file."""
    line = head.partition(b"\n")[0].decode("utf-8-sig", "replace")
    texts = tuple(cells_of(line))
    places: dict[str, int] = {}
    for place, text in enumerate(texts):
        name = named(text)
        if name is not None:
            places.setdefault(name, place)
    return Header(texts, places, line.strip())


class Rows(NamedTuple):
    """A block of rows."""

    columns: Columns
    """Cells by the names of `spellings`."""
    lines: list[str]
    """Each row as text."""
    numbers: NDArray[np.int64]
    """(rows,) line numbers."""


class _Cells(Mapping[str, Sequence[str]]):
    """Columns of cells, taken out of the rows when asked for."""

    def __init__(self, rows: list[list[str]], places: dict[str, int]) -> None:
        self._rows = rows
        self._places = places

    def __getitem__(self, name: str) -> Sequence[str]:
        place = self._places[name]
        return [row[place] for row in self._rows]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class Table:
    """The rows of one file, block by block; what is no row is counted in `damages`.

    `lenient`: where a row has one value too many and none can be told for the one, take it for a value before the last, which
    leaves all that words need in its place.
    """

    def __init__(self, lines: LineFile, header: Header, damages: Damages, *, lenient: bool) -> None:
        self._lines = lines
        self._header = header
        self._damages = damages
        self._lenient = lenient
        self._twice = False
        """Whether the value too many is known to be the second "Fwd Header Length"; rows with 0 for both do not tell."""

    def blocks(self) -> Iterator[Rows]:
        """Blocks of one row or more. Undecodable bytes stay as lone surrogates (see `label_text`)."""
        for first, block in self._lines.blocks():
            rows: list[list[str]] = []
            lines: list[str] = []
            numbers: list[int] = []
            wide = False
            for number, line in enumerate(block.decode("utf-8", "surrogateescape").split("\n"), first):
                if number == 1 or not line:
                    continue
                row = cells_of(line)
                excess = len(row) - len(self._header.texts)
                if (excess not in (0, 1)) or line[0] == "," or row[:1] == [self._header.texts[0]]:
                    reason = self._no_row(line, len(row))
                    if reason is not None:
                        self._damage(number, *reason)
                        continue
                wide = wide or excess == 1
                rows.append(row)
                lines.append(line if '"' not in line else ",".join(cell.replace(",", ";") for cell in row))
                numbers.append(number)
            if wide:
                rows, lines, numbers = self._narrowed(rows, lines, numbers)
            if rows:
                yield Rows(Columns(_Cells(rows, self._header.places), len(rows), None), lines, np.array(numbers, np.int64))

    def _damage(self, number: int, kind: str, reason: str) -> None:
        self._damages.add(kind, str(self._lines.path), number, reason, once=kind == "empty")

    def _no_row(self, line: str, width: int) -> tuple[str, str] | None:
        """Kind and reason of a line that holds no flow; None for a row."""
        if not line.strip(", "):
            return "empty", "no value in any column (more of such rows are counted only)"
        if line.strip() == self._header.line:
            return "header", "the header once more"
        named_width = len(self._header.texts)
        if width not in (named_width, named_width + 1):
            return "columns", f"{width} columns where the header names {named_width}"
        return None

    def _narrowed(
        self, rows: list[list[str]], lines: list[str], numbers: list[int]
    ) -> tuple[list[list[str]], list[str], list[int]]:
        """The same rows, each as wide as the header: without the second "Fwd Header Length", if it is that."""
        width = len(self._header.texts)
        wide = [place for place, row in enumerate(rows) if len(row) > width]
        twin, one = self._header.places.get(BEFORE_TWIN), self._header.places.get(TWICE)
        if twin is not None and one is not None and all(rows[place][twin] == rows[place][one] for place in wide):
            self._twice = self._twice or any(rows[place][one] not in ("0", "0.0") for place in wide)
        else:
            self._twice = False
        if twin is not None and self._twice:
            excess = twin
        elif self._lenient:
            excess = width - 1
        else:
            for place in wide:
                self._damage(
                    numbers[place], "columns", f"{width + 1} columns where the header names {width}: which one is too many?"
                )
            kept = sorted(set(range(len(rows))) - set(wide))
            return [rows[place] for place in kept], [lines[place] for place in kept], [numbers[place] for place in kept]
        for place in wide:
            del rows[place][excess]
            lines[place] = ",".join(rows[place])
        return rows, lines, numbers


def matrix_of(block: Rows, places: Mapping[str, int], names: Sequence[str]) -> NDArray[np.float64]:
    """(rows, len(names)) numbers; NaN for an empty cell and a column that the table lacks. Rows with other text are refused."""
    matrix = np.full((block.columns.rows, len(names)), np.nan)
    known = [place for place, name in enumerate(names) if name in places]
    used = [places[names[place]] for place in known]
    lines = block.lines
    try:
        if any(",," in line for line in lines):
            lines = [line.replace(",,", ",nan,").replace(",,", ",nan,") for line in lines]
        matrix[:, known] = np.loadtxt(lines, delimiter=",", usecols=used, comments=None, ndmin=2)
    except ValueError:
        for place in known:
            matrix[:, place] = block.columns.floats(names[place], _number)
    return matrix


def _number(cell: str) -> float:
    """Read a cell as numpy's reader does, which knows no digits with underscores; a blank one is unknown."""
    if "_" in cell:
        raise ValueError(cell)
    return float(cell) if cell and not cell.isspace() else float("nan")


def label_text(cell: str) -> str:
    """A label with its dash, whatever became of it; bytes that are no UTF-8 are read as cp1252."""
    if not cell.isascii():
        if any("\udc80" <= sign <= "\udcff" for sign in cell):
            cell = cell.encode("utf-8", "surrogateescape").decode("cp1252", "backslashreplace")
        cell = _DASH.sub("\u2013", cell)
    return cell
