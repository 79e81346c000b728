"""Rows of a table as text, many at once: columns in, lines out, for every format whose rows are lines.

A line is a run of cells, each a fixed text (a comma, a JSON key) and a value. CSV, JSON lines and Zeek's two forms of log
differ in the fixed texts, in what stands for a missing value, and in how a text is quoted; one loop writes them all. It
writes whole rows into one buffer, which the sinks then write with one call. Called by the sinks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sensor.kernels import loop, part
from sensor.number_text import NUMBER_WIDTH, WHOLE_LIMIT, powers_of_ten, write_real, write_seconds, write_whole

ROWS = 2048
"""Rows written at a time: a buffer of a megabyte or two, which stays in cache."""

MISSING = np.iinfo(np.int64).min
"""The int64 that stands for no value; a real has NaN, a text is empty."""

Values: TypeAlias = NDArray[np.int64] | NDArray[np.float64] | NDArray[np.bytes_]

COMMA, QUOTE, BACKSLASH, LETTER_U, ZERO, DASH = (ord(letter) for letter in ',"\\u0-')
NEWLINE, RETURN, FIRST_PRINTABLE = 10, 13, 32
HEX_LETTER = ord("a") - 10

INFINITY = b"Infinity"
"""As Java writes it, and so CICFlowMeter."""


NUMBER, WHOLE, SECONDS, SHORT_SECONDS, TEXT, QUOTED, JSON = range(7)
"""How a cell's value is written. A number: an int64 as its digits, a float64 with the fewest digits that read back the same;
or a float64 that is whole as an integer too. Seconds: an int64 of microseconds, with six decimals, or without the zeros at
their end. A text: as it is; in quotation marks where a CSV needs them (RFC 4180); as a JSON string."""


class Cell(NamedTuple):
    """One cell of every row."""

    before: bytes
    """The fixed text before the value."""
    kind: int


class Form(NamedTuple):
    """What a format does alike in all cells."""

    end: bytes = b"\n"
    missing: bytes = b""
    """Stands for a value that is missing."""
    leave_out: bool = False
    """A missing value's cell is left out altogether, fixed text and all."""
    infinite: bool = True
    """There is a word for infinity; else it is missing."""


class _Plan(NamedTuple):
    """Cells as arrays, for the loop."""

    kinds: NDArray[np.int64]
    real: NDArray[np.bool_]
    text: NDArray[np.bool_]
    places: NDArray[np.int64]
    """Row of `numbers`, or first byte in a row of `texts`."""
    widths: NDArray[np.int64]
    """Bytes of a text."""
    fixed: NDArray[np.uint8]
    """All fixed texts: `before` of each cell, the row's end, the mark for what is missing, the word for infinity."""
    ends: NDArray[np.int64]
    """Where each of them ends, after a zero."""
    leave_out: bool
    infinite: bool


class RowText:
    """Writes rows of the given cells."""

    def __init__(self, cells: Sequence[Cell], form: Form) -> None:
        self._cells, self._form = cells, form
        texts = [*(cell.before for cell in cells), form.end, form.missing, INFINITY]
        self._fixed = np.frombuffer(b"".join(texts), np.uint8)
        self._ends = np.cumsum([0, *map(len, texts)])
        self._out = np.empty(0, np.uint8)

    def lines(self, columns: Sequence[Values]) -> Iterator[bytes]:
        """Yield the rows of these columns, one array for each cell, as text; whole rows in each piece."""
        rows = len(columns[0]) if columns else 0
        for first in range(0, rows, ROWS):
            yield self._piece([column[first : first + ROWS] for column in columns])

    def _piece(self, columns: Sequence[Values]) -> bytes:
        rows = len(columns[0])
        text = np.array([column.dtype.kind == "S" for column in columns])
        widths = np.where(text, [column.dtype.itemsize for column in columns], 0)
        places = np.where(text, np.cumsum(widths) - widths, np.cumsum(~text) - ~text)
        numbers = np.empty((np.count_nonzero(~text), rows), np.int64)
        texts = np.empty((rows, widths.sum()), np.uint8)
        for column, width, place in zip(columns, widths.tolist(), places.tolist(), strict=True):
            if width:
                texts[:, place : place + width] = np.ascontiguousarray(column).view(np.uint8).reshape(rows, width)
            elif column.dtype.kind == "f":
                numbers[place] = np.ascontiguousarray(column, np.float64).view(np.int64)
            else:
                numbers[place] = column
        plan = _Plan(
            np.array([cell.kind for cell in self._cells], np.int64),
            np.array([column.dtype.kind == "f" for column in columns]),
            text,
            places,
            widths,
            self._fixed,
            self._ends,
            self._form.leave_out,
            self._form.infinite,
        )
        room = rows * (len(self._fixed) + len(columns) * (NUMBER_WIDTH + len(self._form.missing)) + 6 * int(widths.sum()))
        if len(self._out) < room:
            self._out = np.empty(room, np.uint8)
        end = _write_rows(plan, numbers, numbers.view(np.float64), texts, powers_of_ten(), self._out)
        return self._out[:end].tobytes()


@part
def _write_fixed(plan: _Plan, which: int, out: NDArray[np.uint8], at: int) -> int:
    """Write one of the fixed texts."""
    for place in range(plan.ends[which], plan.ends[which + 1]):
        out[at] = plan.fixed[place]
        at += 1
    return at


@part
def _text_size(row: NDArray[np.uint8], first: int, width: int) -> int:
    """Bytes of a text without the zeros that fill its place."""
    while width and row[first + width - 1] == 0:
        width -= 1
    return width


@part
def _write_quoted(row: NDArray[np.uint8], first: int, size: int, out: NDArray[np.uint8], at: int) -> int:
    """Write a text for a CSV: in quotation marks, its own ones doubled, where it holds what would end the cell."""
    quoted = False
    for place in range(first, first + size):
        quoted |= row[place] == COMMA or row[place] == QUOTE or row[place] == NEWLINE or row[place] == RETURN
    if quoted:
        out[at] = QUOTE
        at += 1
    for place in range(first, first + size):
        if row[place] == QUOTE:
            out[at] = QUOTE
            at += 1
        out[at] = row[place]
        at += 1
    if quoted:
        out[at] = QUOTE
        at += 1
    return at


@part
def _write_json(row: NDArray[np.uint8], first: int, size: int, out: NDArray[np.uint8], at: int) -> int:
    """Write a text as a JSON string (RFC 8259, 7)."""
    out[at] = QUOTE
    at += 1
    for place in range(first, first + size):
        byte = row[place]
        if byte < FIRST_PRINTABLE:
            out[at] = BACKSLASH
            out[at + 1] = LETTER_U
            out[at + 2] = ZERO
            out[at + 3] = ZERO
            out[at + 4] = ZERO + (byte >> 4)
            out[at + 5] = (ZERO if byte & 15 < 10 else HEX_LETTER) + (byte & 15)
            at += 6
            continue
        if byte in (QUOTE, BACKSLASH):
            out[at] = BACKSLASH
            at += 1
        out[at] = byte
        at += 1
    out[at] = QUOTE
    return at + 1


@part
def _write_text(kind: int, row: NDArray[np.uint8], first: int, size: int, out: NDArray[np.uint8], at: int) -> int:
    if kind == JSON:
        return _write_json(row, first, size, out, at)
    if kind == QUOTED:
        return _write_quoted(row, first, size, out, at)
    for place in range(first, first + size):
        out[at] = row[place]
        at += 1
    return at


@part
def _write_number(
    plan: _Plan, kind: int, real: bool, bits: int, value: float, powers: NDArray[np.uint64], out: NDArray[np.uint8], at: int
) -> int:
    if not real:
        if kind in (SECONDS, SHORT_SECONDS):
            return write_seconds(bits, kind == SHORT_SECONDS, out, at)
        return write_whole(bits, out, at)
    if np.isinf(value):
        if value < 0:
            out[at] = DASH
            at += 1
        return _write_fixed(plan, len(plan.kinds) + 2, out, at)
    if kind == WHOLE and abs(value) < WHOLE_LIMIT and value == np.floor(value):
        whole: int = np.int64(value)  # type: ignore[assignment]  # one kind to the compiler
        return write_whole(whole, out, at)
    return write_real(value, np.uint64(bits), powers, out, at)


@loop
def _write_rows(
    plan: _Plan,
    numbers: NDArray[np.int64],
    reals: NDArray[np.float64],
    texts: NDArray[np.uint8],
    powers: NDArray[np.uint64],
    out: NDArray[np.uint8],
) -> int:
    """Write all rows into `out`, which has room for them; `reals` is the memory of `numbers`. Returns the bytes written."""
    at = 0
    cells = len(plan.kinds)
    for row in range(len(texts)):
        for cell in range(cells):
            kind, place, real = plan.kinds[cell], plan.places[cell], plan.real[cell]
            size = bits = 0
            value = 0.0
            if plan.text[cell]:
                size = _text_size(texts[row], place, plan.widths[cell])
                missing = size == 0
            else:
                bits = numbers[place, row]
                value = reals[place, row]
                missing = (np.isnan(value) or (np.isinf(value) and not plan.infinite)) if real else bits == MISSING
            if missing and plan.leave_out:
                continue
            at = _write_fixed(plan, cell, out, at)
            if missing:
                at = _write_fixed(plan, cells + 1, out, at)
            elif plan.text[cell]:
                at = _write_text(kind, texts[row], place, size, out, at)
            else:
                at = _write_number(plan, kind, real, bits, value, powers, out, at)
        at = _write_fixed(plan, cells, out, at)
    return at
