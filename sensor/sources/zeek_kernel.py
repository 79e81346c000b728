"""Where the cells of a conn.log lie: lines of TSV or JSON to the beginning and end of every column that is read.

Nothing is converted here and nothing copied: a block of bytes comes in, two arrays of places come out, one row for each
column and one column for each line. TSV is cut at its separators. A line of JSON is read by a scanner that knows flat objects
of plain ASCII, the key nested one deep, and arrays of plain values: what Zeek writes. It accepts nothing that is not JSON,
and passes every line that it does not understand on as odd, for msgspec to judge. Called by `zeek_text`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sensor.kernels import loop, part

Bytes = NDArray[np.uint8]
Places = NDArray[np.int32]

NEWLINE, BLANK, TAB, QUOTE, BACKSLASH, COMMA, COLON, OPEN, CLOSE, LIST, UNLIST, DASH, DOT, ZERO, NINE = (
    ord(sign) for sign in '\n \t"\\,:{}[]-.09'
)
WHITE = (9, 10, 11, 12, 13, 32)
"""What bytes.split() and bytes.strip() call white."""
NULL = np.frombuffer(b"null", np.uint8)
TRUE = np.frombuffer(b"true", np.uint8)
FALSE = np.frombuffer(b"false", np.uint8)
CONN = np.frombuffer(b"conn", np.uint8)

# What a JSON value is.
WRONG, STRING, WHOLE, DECIMAL, NOTHING, TRUTH, OBJECT, ARRAY = range(8)

# What stands in `wants` for a column: which values it may hold.
WANTS_TEXT, WANTS_WHOLE, WANTS_NUMBER, WANTS_TIME = 0, 1, 2, 3

# Keys that are no column. What is below IGNORED has a meaning of its own.
IGNORED, UNKNOWN, PATH, KEY_RECORD, PORT_RECORD = -1, -2, -3, -4, -5
FLAT = 4
"""The first names are the flattened parts of the key, which a line with the nested key must not have too."""


@part
def signed(number: int) -> int:
    """An integer of any width as int64, in which the kernels compute: with uint64, numba would give floats."""
    return np.int64(number)  # type: ignore[return-value]  # for the checker the kernels' numbers are int


@part
def white(sign: int) -> bool:
    """Whether a byte is white."""
    return sign == BLANK or 9 <= sign <= 13


@loop
def split_tsv(
    data: Bytes, first: int, stop: int, separator: int, unset: Bytes, slots: NDArray[np.int64], inner: int, begins: Places,
    ends: Places, lines: NDArray[np.int64], faults: NDArray[np.int64],
) -> tuple[int, int]:  # fmt: skip
    """Cut the lines of data[first:stop]; returns how many rows and how many faults (line, columns) were written.

    `slots` has the row of `begins` and `ends` for each column of the header, or -1; `inner` is how many of its names share
    the last cell, with blanks between their values. `lines` gets each row's line, counted from 0. Empty lines are nothing.
    """
    width = len(slots)
    rows = wrong = line = 0
    at = first
    while at < stop:
        start = at
        column = 0
        begin = at
        while True:
            inside = at < stop and signed(data[at]) != NEWLINE
            if inside and signed(data[at]) != separator:
                at += 1
                continue
            if not inside and inner > 1 and column == width - inner:
                column = split_last(data, begin, at, unset, slots, inner, begins[:, rows], ends[:, rows])
                break
            if column < width:
                take(data, begin, at, unset, slots[column], begins[:, rows], ends[:, rows])
            column += 1
            if not inside:
                break
            at += 1
            begin = at
        if at > start:
            if column == width:
                lines[rows] = line
                rows += 1
            else:
                faults[wrong, 0], faults[wrong, 1] = line, column
                wrong += 1
        line += 1
        at += 1
    return rows, wrong


@part
def take(data: Bytes, begin: int, end: int, unset: Bytes, slot: int, begins: Places, ends: Places) -> None:
    """Note the place of a cell, or that it is unset."""
    if slot < 0:
        return
    ends[slot] = end
    begins[slot] = begin
    if end - begin != len(unset):
        return
    for place in range(len(unset)):
        if data[begin + place] != unset[place]:
            return
    begins[slot] = -1


@part
def split_last(
    data: Bytes, begin: int, end: int, unset: Bytes, slots: NDArray[np.int64], inner: int, begins: Places, ends: Places
) -> int:
    """Cut the last cell at its blanks, as bytes.split(None, inner - 1) does; returns how many columns the line has."""
    column = len(slots) - inner
    at = begin
    while True:
        while at < end and white(signed(data[at])):
            at += 1
        if at == end:
            return column
        if column == len(slots) - 1:
            take(data, at, end, unset, slots[column], begins, ends)
            return column + 1
        start = at
        while at < end and not white(signed(data[at])):
            at += 1
        take(data, start, at, unset, slots[column], begins, ends)
        column += 1


@part
def past_white(data: Bytes, at: int, stop: int) -> int:
    """The next place that is neither blank nor tab."""
    while at < stop and (signed(data[at]) == BLANK or signed(data[at]) == TAB):
        at += 1
    return at


@part
def same(data: Bytes, begin: int, end: int, text: Bytes) -> bool:
    """Whether data[begin:end] is `text`."""
    if end - begin != len(text):
        return False
    for place in range(len(text)):  # noqa: SIM110  # no generators in a kernel
        if data[begin + place] != text[place]:
            return False
    return True


@part
def string_end(data: Bytes, at: int, stop: int) -> int:
    """The place of the quote that ends a string whose first letter is at `at`; -1 for escapes and what is not plain ASCII."""
    while at < stop:
        sign = signed(data[at])
        if sign == QUOTE:
            return at
        if sign == BACKSLASH or sign < 32 or sign > 126:
            return -1
        at += 1
    return -1


@part
def past_digits(data: Bytes, at: int, stop: int) -> int:
    """The next place without a digit."""
    while at < stop and ZERO <= signed(data[at]) <= NINE:
        at += 1
    return at


@part
def number_end(data: Bytes, at: int, stop: int) -> tuple[int, int]:
    """Where a JSON number ends, and which kind it is; WRONG for none, and for one with an exponent."""
    begin = at
    if signed(data[at]) == DASH:
        at += 1
    whole = at
    at = past_digits(data, at, stop)
    if at == whole or (at > whole + 1 and signed(data[whole]) == ZERO) or at - begin > 18:
        return at, WRONG
    kind = WHOLE
    if at < stop and signed(data[at]) == DOT:
        below = at + 1
        at = past_digits(data, below, stop)
        kind = DECIMAL
        if at == below:
            return at, WRONG
    if at < stop and (signed(data[at]) | 32) == 101:  # an exponent
        return at, WRONG
    return at, kind


@part
def plain_end(data: Bytes, at: int, stop: int) -> tuple[int, int]:
    """Where a value that holds no others ends, and which kind it is; WRONG for everything else."""
    if at >= stop:
        return at, WRONG
    sign = signed(data[at])
    if sign == QUOTE:
        end = string_end(data, at + 1, stop)
        return (end + 1, STRING) if end >= 0 else (at, WRONG)
    if sign == DASH or ZERO <= sign <= NINE:
        return number_end(data, at, stop)
    if same(data, at, min(at + 4, stop), NULL):
        return at + 4, NOTHING
    if same(data, at, min(at + 4, stop), TRUE):
        return at + 4, TRUTH
    if same(data, at, min(at + 5, stop), FALSE):
        return at + 5, TRUTH
    return at, WRONG


@part
def array_end(data: Bytes, at: int, stop: int) -> int:
    """Where an array of plain values ends whose opening is at `at`; -1 for any other."""
    at = past_white(data, at + 1, stop)
    if at < stop and signed(data[at]) == UNLIST:
        return at + 1
    while True:
        at, kind = plain_end(data, at, stop)
        if kind == WRONG:
            return -1
        at = past_white(data, at, stop)
        if at >= stop:
            return -1
        sign = signed(data[at])
        if sign == UNLIST:
            return at + 1
        if sign != COMMA:
            return -1
        at = past_white(data, at + 1, stop)


@part
def fits(kind: int, want: int) -> bool:
    """Whether a column takes a value of this kind."""
    if kind == NOTHING:
        return True
    if want == WANTS_TEXT:
        return kind == STRING
    if want == WANTS_WHOLE:
        return kind == WHOLE
    return kind == WHOLE or kind == DECIMAL or (want == WANTS_TIME and kind == STRING)  # noqa: PLR1714  # no sets in a kernel


@part
def find(
    data: Bytes, begin: int, end: int, guess: int, names: Bytes, sizes: NDArray[np.int64], depth: int, depths: NDArray[np.int64]
) -> int:
    """The place of a key among the names of its depth, `guess` first; -1 if it is none of them."""
    if guess >= 0 and depths[guess] == depth and same(data, begin, end, names[guess, : sizes[guess]]):
        return guess
    for place in range(len(sizes)):
        if depths[place] == depth and same(data, begin, end, names[place, : sizes[place]]):
            return place
    return -1


@part
def read_key(
    data: Bytes, at: int, stop: int, depth: int, guesses: NDArray[np.int64], ordinal: int, names: Bytes,
    sizes: NDArray[np.int64], depths: NDArray[np.int64],
) -> tuple[int, int]:  # fmt: skip
    """Where the value of the member at `at` begins, and the place of its key among the names; -1, -1 where this is none."""
    if at >= stop or signed(data[at]) != QUOTE:
        return -1, -1
    end = string_end(data, at + 1, stop)
    if end < 0:
        return -1, -1
    place = find(data, at + 1, end, guesses[ordinal], names, sizes, depth, depths)
    guesses[ordinal] = place
    at = past_white(data, end + 1, stop)
    if at >= stop or signed(data[at]) != COLON:
        return -1, -1
    at = past_white(data, at + 1, stop)
    return (at, place) if at < stop else (-1, -1)


@part
def read_plain(
    data: Bytes, at: int, stop: int, meaning: int, port: int, wants: NDArray[np.int64], begins: Places, ends: Places
) -> int:
    """Read a value that holds no others; returns the place behind it, or -1 for one that its column does not take."""
    begin = at
    at, kind = plain_end(data, at, stop)
    if kind == WRONG:
        return -1
    if meaning == PATH:
        return at if kind == NOTHING or same(data, begin + 1, at - 1, CONN) else -1
    if meaning == KEY_RECORD and kind != NOTHING:
        return -1
    slot = port if meaning == PORT_RECORD else meaning
    if slot < 0:
        return at
    if not fits(kind, wants[slot]):
        return -1
    quoted = kind == STRING and wants[slot] == WANTS_TEXT
    begins[slot] = -1 if kind == NOTHING else begin + 1 if quoted else begin
    ends[slot] = at - 1 if quoted else at
    return at


@part
def scan_line(
    data: Bytes, at: int, stop: int, names: Bytes, sizes: NDArray[np.int64], depths: NDArray[np.int64],
    meanings: NDArray[np.int64], wants: NDArray[np.int64], guesses: NDArray[np.int64], begins: Places, ends: Places,
) -> int:  # fmt: skip
    """Note the places of a line's cells; returns the line's end, or -1 for what is left to msgspec.

    Depth 0 is the line's object, 1 the connection's key in it, 2 a port in that, as to_json() writes it. `guesses` are the
    keys of the line before: most lines have the same ones in the same order.
    """
    depth = port = 0
    nested = flat = False
    for ordinal in range(len(guesses)):
        at = past_white(data, at + 1, stop)
        at, place = read_key(data, at, stop, depth, guesses, ordinal, names, sizes, depths)
        if at < 0:
            return -1
        meaning = meanings[place] if place >= 0 else UNKNOWN
        flat = flat or 0 <= place < FLAT
        sign = signed(data[at])
        if sign == OPEN and UNKNOWN <= meaning < 0:
            at = past_white(data, at + 1, stop)
            if at >= stop or signed(data[at]) != CLOSE:
                return -1
            at += 1
        elif sign == OPEN:
            if meaning != KEY_RECORD and (depth != 1 or meaning < 0 or wants[meaning] != WANTS_WHOLE):
                return -1
            if meaning == KEY_RECORD and nested:
                return -1
            nested = True
            if depth == 1:
                port = meaning
                begins[port] = -1
            depth += 1
            continue
        elif sign == LIST:
            at = array_end(data, at, stop) if UNKNOWN <= meaning < 0 else -1
        else:
            at = read_plain(data, at, stop, meaning, port, wants, begins, ends)
        if at < 0:
            return -1
        at = past_white(data, at, stop)
        while at < stop and signed(data[at]) == CLOSE and depth > 0:
            depth -= 1
            at = past_white(data, at + 1, stop)
        if at < stop and signed(data[at]) == CLOSE:
            at = past_white(data, at + 1, stop)
            whole = (at == stop or signed(data[at]) == NEWLINE) and not (nested and flat)
            return at if whole else -1
        if at >= stop or signed(data[at]) != COMMA:
            return -1
    return -1


@loop
def scan_json(
    data: Bytes, names: Bytes, sizes: NDArray[np.int64], depths: NDArray[np.int64], meanings: NDArray[np.int64],
    wants: NDArray[np.int64], needed: int, guesses: NDArray[np.int64], begins: Places, ends: Places, lines: NDArray[np.int64],
    odd: NDArray[np.int64],
) -> tuple[int, int]:  # fmt: skip
    """Note the places of all cells of a block; returns how many rows there are and how many of them are odd.

    Each line that is not blank takes a row, and `lines` tells its number from 0. An odd one has no places yet: `odd` has its
    row and where it begins and ends. The first `needed` columns may not be missing.
    """
    rows = odds = line = at = 0
    stop = len(data)
    while at < stop:
        while at < stop and signed(data[at]) != NEWLINE and white(signed(data[at])):
            at += 1
        if at < stop and signed(data[at]) != NEWLINE:
            begins[:, rows] = -1
            end = -1
            if signed(data[at]) == OPEN:
                mine, behind = begins[:, rows], ends[:, rows]
                end = scan_line(data, at, stop, names, sizes, depths, meanings, wants, guesses, mine, behind)
                for slot in range(needed):
                    if mine[slot] < 0:
                        end = -1
            if end < 0:
                end = at
                while end < stop and signed(data[end]) != NEWLINE:
                    end += 1
                odd[odds, 0], odd[odds, 1], odd[odds, 2] = rows, at, end
                odds += 1
                begins[:, rows] = -1
            lines[rows] = line
            rows += 1
            at = end
        line += 1
        at += 1
    return rows, odds
