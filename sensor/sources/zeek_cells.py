"""One block of a conn.log as columns of places in its bytes: what Columns is to lists of cells, without the cells.

The loops of `cell_kernel` read every cell that is spelt as Zeek spells it. What they leave over, a negative number, an
exponent, an IPv6 address, is taken out and read as Columns would read it, with the same reasons for what cannot be read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from sensor.sources import cell_kernel as kernel
from sensor.sources.columns import LIMIT, NO_ADDRESS, AddressBook, Columns
from sensor.sources.zeek_kernel import WANTS_TEXT, WANTS_TIME

Places = NDArray[np.int32]


class Cells(Columns):
    """Cells at `begins` to `ends` in `data`, (columns, rows) each, one column for each of `names`; below 0 nothing is there.

    `missing` is the mark of an unset cell in TSV, None in JSON, where a cell that `wants` no text keeps its quotes.
    `present` names the columns that the log has.
    """

    def __init__(
        self, data: bytes, begins: Places, ends: Places, names: Sequence[str], wants: Sequence[int], present: Collection[str],
        missing: bytes | None,
    ) -> None:  # fmt: skip
        super().__init__({}, begins.shape[1], missing)
        self._data = data
        self._bytes = np.frombuffer(data, np.uint8)
        self._begins, self._ends = np.ascontiguousarray(begins), np.ascontiguousarray(ends)
        self._slots = {name: slot for slot, name in enumerate(names) if name in present}
        self._wants = wants

    def cell(self, name: str, row: int) -> Any:  # bytes of TSV, what JSON holds otherwise
        """What a cell holds, or the mark of a missing one."""
        slot = self._slots.get(name)
        if slot is None or self._begins[slot, row] < 0:
            return self.missing
        held = self._data[self._begins[slot, row] : self._ends[slot, row]]
        if self.missing is not None:
            return held
        return held.decode() if self._wants[slot] == WANTS_TEXT else msgspec.json.decode(held)

    def texts(self, name: str) -> list[Any] | None:  # see `cell`
        """All cells of a column, None for a missing one; None where the log lacks it, and where no line of JSON has it."""
        slot = self._slots.get(name)
        if slot is None or (self.missing is None and (self._begins[slot] < 0).all()):
            return None
        here = (self._begins[slot] >= 0).tolist()
        return [self.cell(name, row) if held else None for row, held in enumerate(here)]

    def names(self, name: str, most_bytes: int) -> NDArray[np.bytes_]:
        """(rows,) short texts as bytes, without Zeek's escapes, b"" where there is none; longer ones are refused."""
        slot = self._slots.get(name)
        if slot is None or not self.rows:
            return np.zeros(self.rows, "S1")
        begins, ends = self._begins[slot], self._ends[slot]
        longest = int(np.where(begins < 0, 0, ends - begins).max())
        out = np.zeros((self.rows, max(min(longest, most_bytes), 1)), np.uint8)
        told = self._told()
        kernel.copies(self._bytes, begins, ends, out, told)
        self.refuse(told == kernel.ODD, name, f"longer than {most_bytes} bytes")
        return self._unescaped(out.view(f"S{out.shape[1]}")[:, 0])

    def integers(
        self, name: str, *, default: int, low: int, high: int = LIMIT, read: Callable[[Any], int] = int
    ) -> NDArray[np.int64]:
        """(rows,) whole numbers; a missing one is `default`. What lies outside low to high is refused, but `default` never."""
        slot = self._slots.get(name)
        if slot is None:
            return np.full(self.rows, default, np.int64)
        numbers, told = np.empty(self.rows, np.int64), self._told()
        kernel.integers(self._bytes, self._begins[slot], self._ends[slot], default, numbers, told)
        for row, value in self._read(name, told, read):
            numbers[row] = min(max(value, -LIMIT - 1), LIMIT + 1)
        self.refuse(((numbers < low) | (numbers > high)) & (numbers != default), name, f"not from {low} to {high}")
        return numbers

    def microseconds(self, name: str, read: Callable[[Any], float], *, default: float, limit_s: float) -> NDArray[np.int64]:
        """(rows,) seconds as whole microseconds, to the nearest. What is no time up to `limit_s` either way is refused."""
        stamps, told = np.zeros(self.rows, np.int64), self._told()
        slot = self._slots.get(name)
        if slot is None:
            told[:] = kernel.MISSING
        else:
            in_json = self.missing is None and self._wants[slot] == WANTS_TIME
            kernel.times(self._bytes, self._begins[slot], self._ends[slot], in_json, stamps, told)
        good = (told != kernel.MISSING) | (abs(default) <= limit_s)
        stamps[told == kernel.MISSING] = round(default * 1e6) if abs(default) <= limit_s else 0
        for row, seconds in self._read(name, told, read, "not a time"):
            good[row] = abs(seconds) <= limit_s  # false for NaN
            stamps[row] = round(seconds * 1e6) if good[row] else 0
        self.refuse(~good, name, "not a time")
        return stamps

    def addresses(self, name: str, book: AddressBook) -> NDArray[np.uint64]:
        """(rows, 2) halves of addresses. No cell may be absent."""
        slot = self._slots[name]
        halves, told = np.empty((self.rows, 2), np.uint64), self._told()
        kernel.addresses(self._bytes, self._begins[slot], self._ends[slot], halves, told)
        odd = np.flatnonzero(told == kernel.ODD)
        if len(odd):
            data, begins, ends = self._data, self._begins[slot, odd].tolist(), self._ends[slot, odd].tolist()
            packed = [book[data[begin:end]] if begin >= 0 else NO_ADDRESS for begin, end in zip(begins, ends, strict=True)]
            halves[odd] = np.frombuffer(b"".join(packed), ">u8").astype(np.uint64).reshape(-1, 2)
            self.refuse((halves == np.uint64(0xFFFF_FFFF_FFFF_FFFF)).all(axis=1), name, "not an address")
        return halves

    def codes(self, name: str, table: Mapping[Any, int], default: int) -> NDArray[np.int64]:
        """(rows,) numbers of names; a name that the table lacks is `default`."""
        out = np.full(self.rows, default, np.int64)
        slot = self._slots.get(name)
        if slot is not None:
            known = [key for key in table if isinstance(key, bytes)]
            letters = np.array(known).view(np.uint8).reshape(len(known), -1)
            sizes, values = np.array([len(key) for key in known]), np.array([table[key] for key in known])
            kernel.codes(self._bytes, self._begins[slot], self._ends[slot], letters, sizes, values, out)
        return out

    def _told(self) -> NDArray[np.uint8]:
        return np.empty(self.rows, np.uint8)

    def _read(
        self, name: str, told: NDArray[np.uint8], read: Callable[[Any], Any], what: str = "not a number"
    ) -> list[tuple[int, Any]]:
        """Row and number of each odd cell, by Python; what it cannot read is refused."""
        values, wrong = [], np.zeros(self.rows, np.bool_)
        for row in np.flatnonzero(told == kernel.ODD).tolist():
            try:
                values.append((row, read(self.cell(name, row))))
            except (ValueError, TypeError, OverflowError):
                wrong[row] = True
        self.refuse(wrong, name, what)
        return values
