"""One block of a log as columns, while they become arrays.

Cells are bytes in TSV and CSV and values in JSON; both convert with the same calls. A whole column is converted at once;
only when that fails is it done cell by cell, to find the rows that are to blame. Those are noted with their reason and
left out at the end, so that one bad line never costs its neighbours.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensor.sources.lines import Damages

ADDRESSES_KEPT = 1_000_000
"""Distinct spellings of addresses remembered; then the memory starts afresh."""
ADDRESS_BYTES = 64
"""The longest address has 45 letters, before its zone; what is longer is none and not remembered: it may be megabytes."""

_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|\\)")
_MAPPED = b"\x00" * 10 + b"\xff\xff"
"""Prefix of IPv4-mapped addresses (RFC 4291, 2.5.5.2)."""
NO_ADDRESS = b"\xff" * 16
"""Stands for a cell that is no address; nobody has this one (it would be a multicast group of a reserved scope)."""

LIMIT = 1 << 62
"""Larger counts are damage, not traffic."""
BACKSLASH = ord("\\")
SHOWN = 80
"""Signs of a refused cell that its reason shows: a cell may be megabytes long."""


class AddressBook(dict[bytes | str, bytes]):
    """Textual addresses to their 16 bytes in network order, each parsed once."""

    def __missing__(self, text: bytes | str) -> bytes:
        """Parse a new spelling; what is no address becomes sixteen 0xff."""
        if len(text) > ADDRESS_BYTES:
            return NO_ADDRESS
        if len(self) >= ADDRESSES_KEPT:
            self.clear()
        name = text.decode("ascii", "replace") if isinstance(text, bytes) else text
        packed = NO_ADDRESS
        try:
            if ":" in name:
                packed = socket.inet_pton(socket.AF_INET6, name.partition("%")[0])  # a zone is the observer's affair
            else:
                packed = _MAPPED + socket.inet_pton(socket.AF_INET, name)
        except (OSError, UnicodeEncodeError, ValueError):
            pass
        self[text] = packed
        return packed


def unescape(cell: bytes) -> bytes:
    r"""Undo Zeek's escapes: \xHH and \\ (separators, non-printable bytes, broken UTF-8; Zeek's LogAscii writer)."""
    if b"\\" not in cell:
        return cell
    return _ESCAPE.sub(lambda escape: bytes([int(escape[1], 16)]) if escape[1] else b"\\", cell)


def good_rows(
    rows: int, bad: Mapping[int, tuple[str, str]], damages: Damages, path: str, lines: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """(rows,) false for the `bad` ones, which are now reported; `lines` holds each row's line number."""
    keep = np.ones(rows, np.bool_)
    for row, (kind, reason) in sorted(bad.items()):
        keep[row] = False
        damages.add(kind, path, int(lines[row]), reason)
    return keep


class Columns:
    """`rows` rows of a log: cells by column name, what a missing cell holds, and the rows found bad so far."""

    def __init__(self, cells: Mapping[str, Sequence[Any]], rows: int, missing: bytes | None) -> None:
        self.cells = cells  # Any: bytes from TSV, what JSON holds otherwise
        self.rows = rows
        self.missing = missing
        self.bad: dict[int, tuple[str, str]] = {}

    def refuse(self, wrong: NDArray[np.bool_], name: str, what: str) -> None:
        """Note the rows where `wrong` is true; a row's first reason stays."""
        for row in np.flatnonzero(wrong).tolist():
            cell = self.cell(name, row)
            seen = repr(cell.decode("utf-8", "backslashreplace") if isinstance(cell, bytes) else cell)
            shown = seen if len(seen) <= SHOWN else f"{seen[:SHOWN]}... ({len(seen)} signs)"
            self.bad.setdefault(row, (name, f"{name} is {shown}: {what}"))

    def cell(self, name: str, row: int) -> Any:  # see `cells`
        """What a cell holds; None in a column that is not there."""
        cells = self.cells.get(name)
        return cells[row] if cells is not None else None

    def texts(self, name: str) -> Sequence[Any] | None:  # Any: see `cells`
        """All cells of a column; None where it is not there, and where nothing is in a column of values."""
        cells = self.cells.get(name)
        return None if cells is None or (self.missing is None and all(cell is None for cell in cells)) else cells

    def names(self, name: str, most_bytes: int) -> NDArray[np.bytes_]:
        """(rows,) short texts as bytes, without Zeek's escapes, b"" where there is none; longer ones are refused."""
        cells = ["" if cell in (None, self.missing) else cell for cell in self.cells.get(name, [None] * self.rows)]
        packed = [cell if isinstance(cell, bytes) else cell.encode() for cell in cells]
        self.refuse(np.array([len(cell) > most_bytes for cell in packed], np.bool_), name, f"longer than {most_bytes} bytes")
        return self._unescaped(np.array([cell[:most_bytes] for cell in packed], np.bytes_))

    def _unescaped(self, names: NDArray[np.bytes_]) -> NDArray[np.bytes_]:
        """The same without Zeek's escapes, which stand in TSV only, and there in hardly any."""
        if self.missing is None or not (names.view(np.uint8) == BACKSLASH).any():
            return names
        return np.array([unescape(name) for name in names.tolist()], names.dtype)

    def _values(self, name: str, read: Callable[[Any], float], default: float, what: str = "not a number") -> list[float]:
        cells = self.cells.get(name)
        missing = self.missing
        if cells is None:
            return [default] * self.rows
        try:
            return [default if cell == missing else read(cell) for cell in cells]
        except (ValueError, TypeError, OverflowError):
            return self._one_by_one(name, read, default, what)

    def _one_by_one(self, name: str, read: Callable[[Any], float], default: float, what: str) -> list[float]:
        values, wrong = [], np.zeros(self.rows, np.bool_)
        for row, cell in enumerate(self.cells[name]):
            try:
                values.append(default if cell == self.missing else read(cell))
            except (ValueError, TypeError, OverflowError):
                wrong[row] = True
                values.append(default)
        self.refuse(wrong, name, what)
        return values

    def floats(self, name: str, read: Callable[[Any], float]) -> NDArray[np.float64]:
        """(rows,) numbers; NaN where there is none, and where a cell is refused."""
        return np.array(self._values(name, read, float("nan")), np.float64)

    def integers(
        self, name: str, *, default: int, low: int, high: int = LIMIT, read: Callable[[Any], int] = int
    ) -> NDArray[np.int64]:
        """(rows,) whole numbers; a missing one is `default`. What lies outside low to high is refused, but `default` never."""
        values = self._values(name, read, default)
        if max(values, default=0) > LIMIT or min(values, default=0) < -LIMIT:
            values = [min(max(value, -LIMIT - 1), LIMIT + 1) for value in values]
        numbers = np.array(values, np.int64)
        self.refuse(((numbers < low) | (numbers > high)) & (numbers != default), name, f"not from {low} to {high}")
        return numbers

    def microseconds(self, name: str, read: Callable[[Any], float], *, default: float, limit_s: float) -> NDArray[np.int64]:
        """(rows,) seconds as whole microseconds, to the nearest. What is no time up to `limit_s` either way is refused."""
        seconds = np.array(self._values(name, read, default, "not a time"), np.float64)
        good = np.abs(seconds) <= limit_s  # false for NaN
        self.refuse(~good, name, "not a time")
        return np.asarray(np.rint(np.where(good, seconds, 0.0) * 1e6), dtype=np.int64)

    def addresses(self, name: str, book: AddressBook) -> NDArray[np.uint64]:
        """(rows, 2) halves of addresses. No cell may be absent."""
        cells = self.cells[name]
        packed = b"".join([book[cell] for cell in cells])
        halves = np.frombuffer(packed, ">u8").astype(np.uint64).reshape(-1, 2)
        self.refuse((halves == np.uint64(0xFFFF_FFFF_FFFF_FFFF)).all(axis=1), name, "not an address")
        return halves

    def codes(self, name: str, table: Mapping[Any, int], default: int) -> NDArray[np.int64]:
        """(rows,) numbers of names; a name that the table lacks is `default`."""
        cells = self.cells.get(name)
        if cells is None:
            return np.full(self.rows, default, np.int64)
        return np.array([table.get(cell, default) for cell in cells], np.int64)

    def good(self, damages: Damages, path: str, lines: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(rows,) false for bad rows, which are now reported; `lines` holds each row's line number."""
        return good_rows(self.rows, self.bad, damages, path, lines)
