"""Connections as rows of whole numbers, as the kernels of Zeek's binary forms write them, behind the calls of `columns`.

A kernel fills one row of CELLS numbers for each connection; what it met there no rule judges yet. `NumberCells` answers
`zeek_conns` as `columns.Columns` does, so that a connection means the same whether it came as text or in binary. Text is
kept as eight bytes in a number where it only has to be told from few names, and by its place in the data otherwise.
Called by `zeek_binary`, `zeek_batches` and `zeek_events`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensor.kernels import load32, part
from sensor.sources.columns import AddressBook, good_rows
from sensor.sources.lines import Damages

(
    TS, UID, ORIG_H, ORIG_P, RESP_H, RESP_P, PROTO, IP_PROTO, CONN_STATE, DURATION, ORIG_BYTES, RESP_BYTES, ORIG_PKTS,
    ORIG_IP_BYTES, RESP_PKTS, RESP_IP_BYTES,
) = range(16)  # fmt: skip
"""Places in a row: of an address its high half, of the uid where it begins in the data. Times are microseconds."""
ORIG_LOW, RESP_LOW, UID_BYTES = 16, 17, 18
CELLS = 19

NAMES = (
    "ts", "uid", "id.orig_h", "id.orig_p", "id.resp_h", "id.resp_p", "proto", "ip_proto", "conn_state", "duration",
    "orig_bytes", "resp_bytes", "orig_pkts", "orig_ip_bytes", "resp_pkts", "resp_ip_bytes",
)  # fmt: skip
"""The places' names in conn.log."""

UNSET = -(1 << 63)
"""What Zeek left unset. Nothing else is that low: counts are not negative, and text is at most eight bytes of ASCII."""
WRONG = UNSET + 1
"""What is no number, is none that 62 bits hold, or has another type than the field."""
LONG_TEXT = UNSET + 2
"""Text of more than eight bytes, or not ASCII: it is none of the names that are asked for."""

UID_LIMIT = 64
"""Bytes of a uid, as in files. Zeek's have up to 23; what is longer stands for no connection and would only fill memory."""
_COUNT_LIMIT = 1 << 62
_SECONDS_LIMIT = 9e12
_MOST_NS = (1 << 63) - 1000


@part
def big64(data: NDArray[np.uint8], at: int) -> int:
    """Eight bytes as a signed number, high byte first."""
    high = load32(data, at, True)
    if high >= 1 << 31:
        high -= 1 << 32
    return (high << 32) | load32(data, at + 4, True)


@part
def count64(data: NDArray[np.uint8], at: int) -> int:
    """Eight bytes as a count; WRONG where it is beyond any traffic."""
    number = big64(data, at)
    return number if 0 <= number <= _COUNT_LIMIT else WRONG


@part
def seconds64(data: NDArray[np.uint8], at: int, bits: NDArray[np.int64], reals: NDArray[np.float64]) -> int:
    """Eight bytes of a floating-point number of seconds as microseconds; `bits` and `reals` are one number's memory."""
    bits[0] = big64(data, at)
    seconds = reals[0]
    if not abs(seconds) <= _SECONDS_LIMIT:  # nor NaN
        return WRONG
    return int(np.rint(seconds * 1e6))


@part
def nanoseconds64(data: NDArray[np.uint8], at: int) -> int:
    """Eight bytes of nanoseconds as microseconds, to the nearest."""
    number = big64(data, at)
    return (number + 500) // 1000 if -_MOST_NS < number < _MOST_NS else WRONG


@part
def short_text(data: NDArray[np.uint8], at: int, size: int) -> int:
    """Up to eight bytes of ASCII as a number, low byte first; the same for no other text."""
    if size > 8:  # the bytes of a number
        return LONG_TEXT
    number = 0
    for place in range(size):
        letter = int(data[at + place])
        if letter >= 128 or letter == 0:  # beyond ASCII
            return LONG_TEXT
        number |= letter << (8 * place)
    return number


def key_of(name: bytes) -> int:
    """The number that `short_text` gives for a name of up to eight letters."""
    return int.from_bytes(name, "little") if len(name) <= 8 else LONG_TEXT  # as above


class NumberCells:
    """`cells` (rows, CELLS) of a block and the bytes of their uids; answers `zeek_conns.Cells`."""

    def __init__(self, cells: NDArray[np.int64]) -> None:
        self.rows = len(cells)
        self.missing: bytes | None = None
        self.bad: dict[int, tuple[str, str]] = {}
        self._cells = cells
        self.refuse((cells[:, UID] != UNSET) & (cells[:, UID_BYTES] > UID_LIMIT), "uid", "too long", cells[:, UID_BYTES])
        self.refuse(cells[:, UID] == WRONG, "uid", "no text", cells[:, UID])

    def refuse(self, wrong: NDArray[np.bool_], name: str, what: str, seen: NDArray[np.int64] | None = None) -> None:
        """Note the rows where `wrong` is true; a row's first reason stays."""
        if not wrong.any():
            return
        seen = self._cells[:, NAMES.index(name)] if seen is None else seen
        for row in np.flatnonzero(wrong).tolist():
            number = int(seen[row])
            shown = {UNSET: "not set", WRONG: "no number that can be meant"}.get(number, str(number))
            self.bad.setdefault(row, (name, f"{name} is {shown}: {what}"))

    def integers(self, name: str, *, default: int, low: int, high: int = _COUNT_LIMIT) -> NDArray[np.int64]:
        """(rows,) whole numbers; one that is not set is `default`, and not refused."""
        seen = self._cells[:, NAMES.index(name)]
        numbers = np.where(seen == UNSET, default, seen)
        self.refuse(((numbers < low) | (numbers > high)) & (numbers != default), name, f"not from {low} to {high}")
        return numbers

    def microseconds(self, name: str, read: Callable[[Any], float], *, default: float, limit_s: float) -> NDArray[np.int64]:
        """(rows,) microseconds; `read` is for text and stays unused."""
        del read
        seen = self._cells[:, NAMES.index(name)]
        unset = seen == UNSET
        wrong = ~unset & (np.abs(seen.astype(np.float64)) > limit_s * 1e6)
        if np.isnan(default):
            wrong |= unset
        self.refuse(wrong, name, "not a time")
        return np.where(wrong | unset, 0 if np.isnan(default) else round(default * 1e6), seen)

    def addresses(self, name: str, book: AddressBook) -> NDArray[np.uint64]:
        """(rows, 2) halves; `book` is for text and stays unused."""
        del book
        place = NAMES.index(name)
        halves = self._cells[:, [place, ORIG_LOW if place == ORIG_H else RESP_LOW]]
        nothing = (halves == UNSET).all(axis=1) | (halves == -1).all(axis=1)  # all ones: what stands for no address as text
        self.refuse(nothing, name, "not an address")
        return halves.view(np.uint64)

    def codes(self, name: str, table: Mapping[Any, int], default: int) -> NDArray[np.int64]:
        """(rows,) numbers of names; a name that the table lacks is `default`."""
        seen = self._cells[:, NAMES.index(name)]
        numbers = np.full(self.rows, default, np.int64)
        for text, code in table.items():
            if isinstance(text, bytes):
                numbers[seen == key_of(text)] = code
        return numbers

    def good(self, damages: Damages, path: str, lines: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(rows,) false for bad rows, which are now reported; `lines` holds the number of each row's message."""
        return good_rows(self.rows, self.bad, damages, path, lines)
