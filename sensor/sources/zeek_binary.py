"""Zeek's events in broker-bin-v1: payloads to rows of whole numbers, or the reason why one cannot be read.

A payload is a tree of values, each one byte that tells its type and then the value, high byte first: an event is
vector[count 1, count 1, vector[string name, vector arguments]], with metadata as a third element of the inner vector
where Zeek adds some. One walk over each payload writes what conn records hold straight into columns: 100,000 events a
second and more have to go through, which leaves no time for an object per field. What is of no use is stepped over
without recursion, so that no depth of nesting can do harm. Every length is checked against the bytes that are there
before anything is read. Called by `zeek_events`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.kernels import loop, part
from sensor.sources.zeek_numbers import (
    CELLS,
    CONN_STATE,
    DURATION,
    IP_PROTO,
    ORIG_BYTES,
    ORIG_H,
    ORIG_IP_BYTES,
    ORIG_LOW,
    ORIG_P,
    ORIG_PKTS,
    PROTO,
    RESP_BYTES,
    RESP_H,
    RESP_IP_BYTES,
    RESP_LOW,
    RESP_P,
    RESP_PKTS,
    TS,
    UID,
    UID_BYTES,
    UNSET,
    big64,
    count64,
    nanoseconds64,
    seconds64,
    short_text,
)

NONE, BOOL, COUNT, INTEGER, REAL, STRING, ADDRESS, SUBNET, PORT, TIMESTAMP, TIMESPAN, ENUM, SET, TABLE, VECTOR = range(15)
"""Types of values, as the byte before each tells."""

_SIZES = np.array([0, 1, 8, 8, 8, -1, 16, 17, 3, 8, 8, -1, -2, -2, -2], np.int64)
"""Bytes of each type; -1: a length and so many bytes; -2: a number of values that follow."""

NAME = b"NetSeq::conn"
_NAME = np.frombuffer(NAME, np.uint8)
_JSON = np.frombuffer(b"_json", np.uint8)
_RECORD = np.frombuffer(b"_rec", np.uint8)

CONN_FIELDS = (
    TS, UID, ORIG_H, ORIG_P, RESP_H, RESP_P, PROTO, IP_PROTO, CONN_STATE, DURATION, ORIG_BYTES, RESP_BYTES, ORIG_PKTS,
    ORIG_IP_BYTES, RESP_PKTS, RESP_IP_BYTES,
)  # fmt: skip
"""Fields of NetSeq::Conn in the order in which our Zeek package declares them."""

NESTED, UNUSED = -2, -1
INFO_FIELDS = (
    TS, UID, NESTED, PROTO, UNUSED, DURATION, ORIG_BYTES, RESP_BYTES, CONN_STATE, UNUSED, UNUSED, UNUSED, UNUSED, ORIG_PKTS,
    ORIG_IP_BYTES, RESP_PKTS, RESP_IP_BYTES, UNUSED, IP_PROTO,
)  # fmt: skip
"""Fields of Conn::Info in the order in which Zeek 7.1 to 8.1 declare them, its id in a record of its own."""
ID_FIELDS = (ORIG_H, ORIG_P, RESP_H, RESP_P)
"""Fields of conn_id that are read; Zeek 8 has more behind them."""

_CONN = np.array(CONN_FIELDS, np.int64)
_INFO = np.array(INFO_FIELDS, np.int64)
_ID = np.array(ID_FIELDS, np.int64)

READ, READ_JSON, OTHER, TRUNCATED, FORM, FIELDS = range(6)
"""What became of a payload: a row; a row whose UID is the place of a JSON text; another event; and why it cannot be read."""
REASONS = {TRUNCATED: "truncated", FORM: "form", FIELDS: "fields"}
"""The names of what cannot be read, and what they mean for the reader of a log."""
MEANINGS = {
    TRUNCATED: "it ends in the middle of a value, or a length in it is none",
    FORM: "it is no event in broker-bin-v1",
    FIELDS: "the event has other arguments than connections have: is the Zeek package of another version?",
}

_CUT, _FOREIGN = -1, -2
"""In place of the next place in the data: a length that is none, a value of another type than the field's."""


@part
def _length(data: NDArray[np.uint8], at: int, end: int) -> tuple[int, int]:
    """Read a length of seven bits a byte, low ones first; returns it and the place behind, _CUT where there is none.

    Nothing in a payload is longer than the payload: four bytes of length are 256 MiB, more than a message may have.
    """
    value = 0
    for place in range(4):
        if at + place >= end:
            break
        byte = int(data[at + place])
        value |= (byte & 127) << (7 * place)
        if byte < 128:  # the last byte of a length has no high bit
            return value, at + place + 1
    return 0, _CUT


@part
def _skip(data: NDArray[np.uint8], at: int, end: int, values: int) -> int:
    """Step over so many values and all that is in them; returns the place behind, or _CUT."""
    while values > 0:
        if at >= end or data[at] > VECTOR:
            return _CUT
        kind = int(data[at])
        size = _SIZES[kind]
        at += 1
        values -= 1
        if size < 0:
            number, at = _length(data, at, end)
            if at < 0 or number > end - at:  # a value in a container has at least one byte
                return _CUT
            if size == -1:
                size = number
            else:
                size = 0
                values += 2 * number if kind == TABLE else number
        if size > end - at:
            return _CUT
        at += size
    return at


@part
def _open(data: NDArray[np.uint8], at: int, end: int, kind: int) -> tuple[int, int]:
    """Enter a value of a type that has a length; returns the length and the place behind it, or _CUT or _FOREIGN."""
    if at >= end:
        return 0, _CUT
    if data[at] != kind:
        return 0, _FOREIGN
    number, inside = _length(data, at + 1, end)
    if inside < 0 or number > end - inside:
        return 0, _CUT
    return number, inside


@part
def _field(
    data: NDArray[np.uint8],
    at: int,
    end: int,
    field: int,
    row: NDArray[np.int64],
    bits: NDArray[np.int64],
    reals: NDArray[np.float64],
) -> int:
    """Read one value into its place of `row`; returns the place behind, or _CUT or _FOREIGN."""
    if at >= end or data[at] > VECTOR:
        return _CUT
    kind = int(data[at])
    at += 1
    if kind == NONE:
        return at
    size = int(_SIZES[kind])
    if kind in (STRING, ENUM):
        size, at = _length(data, at, end)
        if at < 0:
            return _CUT
    if size < 0:
        return _FOREIGN
    if size > end - at:
        return _CUT
    if field in (ORIG_H, RESP_H):
        if kind != ADDRESS:
            return _FOREIGN
        row[field] = big64(data, at)
        row[ORIG_LOW if field == ORIG_H else RESP_LOW] = big64(data, at + 8)
    elif field in (ORIG_P, RESP_P):
        if kind != PORT:
            return _FOREIGN
        row[field] = (int(data[at]) << 8) | int(data[at + 1])
    elif field == UID:
        if kind != STRING:
            return _FOREIGN
        row[UID] = at
        row[UID_BYTES] = size
    elif field in (PROTO, CONN_STATE):
        if kind not in (STRING, ENUM):
            return _FOREIGN
        row[field] = short_text(data, at, size)
    elif field in (TS, DURATION):
        if kind == REAL:
            row[field] = seconds64(data, at, bits, reals)
        elif kind == (TIMESTAMP if field == TS else TIMESPAN):
            row[field] = nanoseconds64(data, at)
        else:
            return _FOREIGN
    else:
        if kind not in (COUNT, INTEGER):
            return _FOREIGN
        row[field] = count64(data, at)
    return at + size


@part
def _same(data: NDArray[np.uint8], at: int, size: int, text: NDArray[np.uint8]) -> bool:
    """Whether so many bytes from `at` on are `text`."""
    if size != text.size:
        return False
    for place in range(size):  # noqa: SIM110  # a kernel knows no generators
        if data[at + place] != text[place]:
            return False
    return True


@part
def _record(
    data: NDArray[np.uint8],
    at: int,
    end: int,
    whole: bool,
    row: NDArray[np.int64],
    bits: NDArray[np.int64],
    reals: NDArray[np.float64],
) -> int:
    """Read the record of a connection, Conn::Info where `whole`; returns the place behind, or _CUT or _FOREIGN."""
    fields, at = _open(data, at, end, VECTOR)
    layout = _INFO if whole else _CONN
    for place in range(fields):
        if at < 0:
            break
        field = layout[place] if place < layout.size else UNUSED
        if field == NESTED:
            inner, at = _open(data, at, end, VECTOR)
            for one in range(inner):
                if at < 0:
                    break
                at = _field(data, at, end, _ID[one], row, bits, reals) if one < _ID.size else _skip(data, at, end, 1)
        elif field == UNUSED:
            at = _skip(data, at, end, 1)
        else:
            at = _field(data, at, end, field, row, bits, reals)
    return at


@part
def _payload(
    data: NDArray[np.uint8],
    at: int,
    end: int,
    row: NDArray[np.int64],
    bits: NDArray[np.int64],
    reals: NDArray[np.float64],
) -> int:
    """Read one payload into `row`; returns what became of it."""
    elements, at = _open(data, at, end, VECTOR)
    if at < 0:
        return TRUNCATED if at == _CUT else FORM
    if end - at < 18:  # two counts
        return TRUNCATED
    if elements != 3 or data[at] != COUNT or data[at + 9] != COUNT:  # protocol, type, and what it is
        return FORM
    if big64(data, at + 1) != 1 or big64(data, at + 10) != 1:
        return OTHER  # another version of the protocol, or no event
    inner, at = _open(data, at + 18, end, VECTOR)
    if at < 0 or not 2 <= inner <= 3:  # with metadata or without
        return TRUNCATED if at == _CUT else FORM
    size, name = _open(data, at, end, STRING)
    if name < 0:
        return TRUNCATED if name == _CUT else FORM
    at = name + size
    own = size >= _NAME.size and _same(data, name, _NAME.size, _NAME)
    rest = size - _NAME.size
    json = own and _same(data, name + _NAME.size, rest, _JSON)
    whole = own and _same(data, name + _NAME.size, rest, _RECORD)
    if not (json or whole or (own and rest == 0)):
        return OTHER
    arguments, at = _open(data, at, end, VECTOR)
    if at < 0:
        return TRUNCATED if at == _CUT else FORM
    if arguments < 1:
        return FIELDS
    if json:
        size, place = _open(data, at, end, STRING)
        row[UID] = place
        row[UID_BYTES] = size
        at = place + size if place >= 0 else place
    else:
        at = _record(data, at, end, whole, row, bits, reals)
    if at < 0:
        return TRUNCATED if at == _CUT else FIELDS
    if _skip(data, at, end, arguments - 1 + inner - 2) != end:
        return TRUNCATED
    return READ_JSON if json else READ


@loop
def _payloads(
    data: NDArray[np.uint8],
    begins: NDArray[np.int64],
    cells: NDArray[np.int64],
    became: NDArray[np.uint8],
    bits: NDArray[np.int64],
    reals: NDArray[np.float64],
) -> None:
    """Read all payloads, each into its row."""
    for place in range(became.size):
        became[place] = _payload(data, begins[place], begins[place + 1], cells[place], bits, reals)


class Payloads(NamedTuple):
    """What became of some payloads."""

    data: bytes
    """All of them in a row."""
    cells: NDArray[np.int64]
    """(n, CELLS), the fields of each as far as it could be read; UID counts from the beginning of `data`."""
    became: NDArray[np.uint8]
    """(n,) READ, READ_JSON, OTHER, or why it could not be read."""


def read_payloads(payloads: Sequence[bytes]) -> Payloads:
    """Read payloads in broker-bin-v1."""
    data = b"".join(payloads)
    begins = np.zeros(len(payloads) + 1, np.int64)
    np.cumsum([len(payload) for payload in payloads], out=begins[1:])
    cells = np.full((len(payloads), CELLS), UNSET, np.int64)
    became = np.zeros(len(payloads), np.uint8)
    bits = np.zeros(1, np.int64)
    _payloads(np.frombuffer(data, np.uint8), begins, cells, became, bits, bits.view(np.float64))
    return Payloads(data, cells, became)
