"""Batches of log lines as Zeek sends them to its loggers, in zeek-bin-serializer: payloads to rows of whole numbers.

A batch tells which log it is for, the name and type of every field, and then so many records, high byte first; each value
repeats its type and says whether it is set. So nothing has to be known beforehand, and fields that scripts add, leave out
or move are no matter. The head of a batch is read here, the records by one walk that steps over what is of no use, nested
values without recursion. Every length is checked against the bytes that are there. Called by `zeek_messages`.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.kernels import load32, loop, part
from sensor.sources.zeek_numbers import (
    CELLS,
    CONN_STATE,
    DURATION,
    NAMES,
    ORIG_H,
    ORIG_LOW,
    ORIG_P,
    PROTO,
    RESP_H,
    RESP_LOW,
    RESP_P,
    TS,
    UID,
    UID_BYTES,
    UNSET,
    WRONG,
    big64,
    count64,
    seconds64,
    short_text,
)

BOOL, INT, COUNT, DOUBLE, TIME, INTERVAL, STRING, ENUM, PORT, ADDR, SUBNET, TABLE, FUNC, FILE, VECTOR = (
    1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 14, 17, 18, 19,
)  # fmt: skip
"""Types of values, as Zeek numbers them."""

FIELDS_LIMIT = 1024
"""Fields of one log: Zeek's widest have some sixty."""
_VALUE_BYTES = 9
"""Of a value that is not set."""
_V4_MAPPED = 0xFFFF_0000_0000
_SIX, _FOUR = 6, 4


class NoBatch(Exception):  # noqa: N818  # reads as the sentence it is
    """A payload that is no batch of log lines, or ends early; str() says why."""


class Batch(NamedTuple):
    """The connections of one batch; no row for a batch of another log."""

    path: str
    """The log that the lines are for, such as "conn"."""
    cells: NDArray[np.int64]
    """(n, CELLS); UID counts from the beginning of the payload."""


class BatchReader:
    """Reads payloads in zeek-bin-serializer. The head of a batch is read again only when it has changed."""

    def __init__(self) -> None:
        self._head = b"\xff"  # begins no batch
        self._names: list[str] = []

    def read(self, payload: bytes) -> Batch:
        """Read one batch. Raises NoBatch."""
        if not payload.startswith(self._head):
            try:
                path, names, begin = _head(payload)
            except (struct.error, IndexError) as broken:
                raise NoBatch("its head ends in the middle") from broken
            if path != "conn":
                return Batch(path, np.empty((0, CELLS), np.int64))
            self._head, self._names = payload[:begin], names
        return Batch("conn", _rows(payload, len(self._head), self._names))


def _rows(payload: bytes, begin: int, names: list[str]) -> NDArray[np.int64]:
    """Records of fields with these names, from their number on."""
    if not names:
        raise NoBatch("it has no fields")
    (records,) = struct.unpack_from(">I", payload, begin)
    if records * len(names) * _VALUE_BYTES > len(payload) - begin - 4:
        raise NoBatch(f"it says that {records} records of {len(names)} fields follow, and ends before")
    places = np.array([NAMES.index(name) if name in NAMES else -1 for name in names], np.int64)
    cells = np.full((records, CELLS), UNSET, np.int64)
    bits = np.zeros(1, np.int64)
    end = _records(np.frombuffer(payload, np.uint8), begin + 4, places, cells, bits, bits.view(np.float64))
    if end != len(payload):
        raise NoBatch("it ends in the middle of a value, or goes on behind the last one")
    return cells


def _head(payload: bytes) -> tuple[str, list[str], int]:
    """The log's path, the names of its fields, and where the number of records stands."""
    at = 0
    texts: list[str] = []
    for _ in range(4):  # stream, writer, filter, path
        text, at = _text(payload, at)
        texts.append(text)
    (number,) = struct.unpack_from(">I", payload, at)
    at += 4
    if number > FIELDS_LIMIT:
        raise NoBatch(f"it says that a line has {number} fields")
    names = []
    for _ in range(number):
        second, at = payload[at], at + 1
        if second:
            _, at = _text(payload, at)
        name, at = _text(payload, at)
        names.append(name)
        at += 9  # type, type of what is inside, and whether it may be unset
    if at + 4 > len(payload):
        raise struct.error("no number of records")
    return texts[-1], names, at


def _text(payload: bytes, at: int) -> tuple[str, int]:
    """Text with its length before it, and the place behind. Raises struct.error where it does not fit."""
    (size,) = struct.unpack_from(">I", payload, at)
    if size > len(payload) - at - 4:
        raise struct.error("text goes beyond the end")
    return payload[at + 4 : at + 4 + size].decode("utf-8", "backslashreplace"), at + 4 + size


@part
def _size(data: NDArray[np.uint8], at: int, kind: int) -> int:
    """Bytes of a value without what is in it, when `at` is behind its mark; -1 where there is none or it does not fit."""
    left = data.size - at
    size = -1
    if kind in (BOOL, INT, COUNT, DOUBLE, TIME, INTERVAL, TABLE, VECTOR):
        size = 8
    elif kind == PORT:
        size = 12
    elif kind in (STRING, ENUM, FUNC, FILE):
        if left >= 4:  # its length
            size = 4 + load32(data, at, True)
    elif kind == ADDR:
        if left >= 1:
            size = 5 if data[at] == _FOUR else 17 if data[at] == _SIX else -1
    elif kind == SUBNET and left >= 2:  # length and family
        size = 6 if data[at + 1] == _FOUR else 18 if data[at + 1] == _SIX else -1
    return size if size <= left else -1


@part
def _take(
    data: NDArray[np.uint8],
    at: int,
    size: int,
    kind: int,
    place: int,
    row: NDArray[np.int64],
    bits: NDArray[np.int64],
    reals: NDArray[np.float64],
) -> None:
    """Put a value of so many bytes into its place of `row`; WRONG where the field has another type."""
    if place not in (ORIG_H, RESP_H):  # an address of another type stays unset, which is refused as well
        row[place] = WRONG
    if place in (ORIG_H, RESP_H):
        if kind == ADDR:
            four = data[at] == _FOUR
            row[place] = 0 if four else big64(data, at + 1)
            low = _V4_MAPPED | load32(data, at + 1, True) if four else big64(data, at + 9)
            row[ORIG_LOW if place == ORIG_H else RESP_LOW] = low
    elif place in (ORIG_P, RESP_P):
        if kind == PORT:
            row[place] = count64(data, at)
    elif place == UID:
        if kind == STRING:
            row[UID] = at + 4
            row[UID_BYTES] = size - 4
    elif place in (PROTO, CONN_STATE):
        if kind in (STRING, ENUM):
            row[place] = short_text(data, at + 4, size - 4)
    elif place in (TS, DURATION):
        if kind in (DOUBLE, TIME, INTERVAL):
            row[place] = seconds64(data, at, bits, reals)
    elif kind in (COUNT, INT):
        row[place] = count64(data, at)


@loop
def _records(
    data: NDArray[np.uint8],
    at: int,
    places: NDArray[np.int64],
    cells: NDArray[np.int64],
    bits: NDArray[np.int64],
    reals: NDArray[np.float64],
) -> int:
    """Read all records into `cells`; returns the place behind the last one, -1 where one cannot be read."""
    for record in range(cells.shape[0]):
        for place in places:
            values, outermost = 1, True
            while values > 0:
                if data.size - at < 9:  # type, type inside, and whether it is set
                    return -1
                kind = load32(data, at, True)
                present = data[at + 8] != 0
                at += 9
                values -= 1
                if present:
                    size = _size(data, at, kind)
                    if size < 0:
                        return -1
                    if outermost and place >= 0:
                        _take(data, at, size, kind, place, cells[record], bits, reals)
                    if kind in (TABLE, VECTOR):
                        inside = big64(data, at)
                        if not 0 <= inside <= data.size - at:
                            return -1
                        values += inside
                    at += size
                outermost = False
    return at
