"""Label files: which flows are which attack, told by time, hosts, ports and protocol in a CSV of one format (docs/labels.md).

Captures carry no labels, and of a published data set one often knows only "this host attacked that one from 9:20 to 10:20".
Every line is a box: from the first to the last value in each of six dimensions (`labels_boxes` tells what lies in them). A
file with a bad line is refused, with all its bad lines at once: a label that is silently missing would teach a model that an
attack is benign.

`Labels.read` and `of` are called by the commands that train and measure; which class a label means is theirs to say.
"""

from __future__ import annotations

import contextlib
import csv
import ipaddress
import os
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import reduce
from operator import or_
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.labels_boxes import ANY_ADDRESS, ANY_PORT, ANY_PROTOCOL, ASKED, EVER_US, NEVER_US, Boxes, Range
from sensor.schema import ESP, GRE, ICMP, ICMPV6, IGMP, SCTP, TCP, UDP, V4_MAPPED
from sensor.spellings import BENIGN, UNSURE

COLUMNS = ("from", "to", "src", "dst", "src_port", "dst_port", "protocol", "label", "both")
"""All that a label file may have; only `label` must be there."""

PROTOCOLS = {
    "tcp": TCP, "udp": UDP, "icmp": ICMP, "icmp6": ICMPV6, "icmpv6": ICMPV6, "ipv6-icmp": ICMPV6, "sctp": SCTP, "igmp": IGMP,
    "gre": GRE, "esp": ESP,
}  # fmt: skip
YES, NO = ("", "yes", "true", "1"), ("no", "false", "0")

TOLD_LINES = 20
"""Bad lines, or lines of a report, that a person is shown; the rest is counted."""

LATEST_S = 9_000_000_000
"""The year 2255; greater numbers are milliseconds, and not seconds."""

_NUMBER = re.compile(r"\d+(?:\.\d*)?")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_BARE_DAY = re.compile(r"(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])")
"""20170707 is a day in ISO 8601 and a number of seconds as well: nobody can tell which was meant."""
_WEEK = re.compile(r"\d{4}-?W\d{2}")
"""2017-W27-5 is a day in ISO 8601 too, which nobody writes: rather refused than read as its first microsecond."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class LabelsError(Exception):
    """A label file that cannot be used; str() has one line for each thing that is wrong, with file and line number."""


class Unreadable(LabelsError):  # noqa: N818  # as below
    """A label file that cannot be opened."""


class NoLines(LabelsError):  # noqa: N818  # told apart from other errors, and not always one
    """A label file without any line after its header."""


class Line(NamedTuple):
    """One line of a label file. Ranges include both ends."""

    number: int
    """In the file, counted from 1."""
    label: str
    """As it is written."""
    begins_us: Range
    src: Range
    dst: Range
    src_port: Range
    dst_port: Range
    protocol: Range
    both: bool
    """Whether flows headed the other way belong to it."""

    @property
    def asks(self) -> int:
        """LACKS_* bits of what a flow must be known by to match."""
        free = (NEVER_US, EVER_US), ANY_ADDRESS, ANY_ADDRESS, ANY_PORT, ANY_PORT, ANY_PROTOCOL
        return sum(bit for bit, one, any_ in zip(ASKED, self[2:8], free, strict=True) if one != any_)


class Labels:
    """The lines of a label file, and how many flows each has matched so far."""

    def __init__(self, lines: Sequence[Line], name: str) -> None:
        self.lines = tuple(lines)
        self.name = name
        """The file, for messages."""
        self.names = tuple("" if line.label.lower() in BENIGN + UNSURE else line.label for line in self.lines)
        """The label of each line; "" for what names no attack."""
        self.unsure = np.array([line.label.lower() in UNSURE for line in self.lines])
        """(lines,) which of the lines that name no attack do not call their flows benign either."""
        self.matched = np.zeros(len(self.lines), np.int64)
        """Flows that each line gave its label so far."""
        self.forestalled = np.zeros(len(self.lines), np.bool_)
        """Lines that would have matched some flow, had an earlier line not matched it."""
        self.unmatched = 0
        """Flows that no line matched."""
        self.lacking = dict.fromkeys(ASKED, 0)
        """Flows of which something is not known that some line asks for, by LACKS_* bit."""
        asked = reduce(or_, (line.asks for line in self.lines), 0)
        self._asks = [bit for bit in ASKED if asked & bit]
        self._boxes = Boxes(self.lines)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Labels:
        """Read a label file. Raises LabelsError, and of its kinds Unreadable where it cannot be opened."""
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise Unreadable(f"{os.fspath(path)}: {error.strerror or error}: give a label file") from error
        return cls.parse(content, os.fspath(path))

    @classmethod
    def parse(cls, content: bytes, name: str) -> Labels:
        """Make the labels of a file's content. Raises LabelsError, which tells all bad lines up to TOLD_LINES."""
        wrong: list[str] = []
        lines: list[Line] = []
        rows = _rows(content, name, wrong)
        number, header = next(rows, (1, []))
        if wrong:
            raise LabelsError(_told(wrong, name))
        places = _places(header, f"{name}:{number}")
        for number, cells in rows:
            if len(cells) != len(header):
                wrong.append(f"{name}:{number}: {len(cells)} cells where the header names {len(header)}")
                continue
            try:
                lines.append(_line(number, {column: cells[place].strip() for column, place in places.items()}))
            except ValueError as error:
                wrong.append(f"{name}:{number}: {error}")
        if wrong:
            raise LabelsError(_told(wrong, name))
        if not lines:
            raise NoLines(f"{name}: there is no line after the header, so that nothing would get a label")
        return cls(lines, name)

    def of(self, flows: NDArray[np.void], lacks: NDArray[np.uint8] | None = None) -> NDArray[np.int64]:
        """(n,) place in `lines` of the first line that matches each of (n,) FLOW rows, -1 where none does; counts them.

        `lacks` as in FlowBatch: what a flow's source does not tell matches no line that asks for it.
        """
        found = np.full(len(flows), -1, np.int64)
        if lacks is not None:
            for bit in self._asks:
                self.lacking[bit] += int(np.count_nonzero(lacks & bit))
        for line, hits in self._boxes.hits(flows, lacks):
            before = found[hits]
            self.forestalled[line] |= bool(((before >= 0) & (before != line)).any())
            found[hits[before < 0]] = line
        self.matched += np.bincount(found[found >= 0], minlength=len(self.lines))
        self.unmatched += int((found < 0).sum())
        return found

    def report(self) -> str:
        """How many flows each line has matched, and which lines matched nothing; some lines of text."""
        told = [f"{self.name}: {int(self.matched.sum()):,} flows matched, {self.unmatched:,} by no line"]
        lacking = ((ASKED[bit], flows) for bit, flows in self.lacking.items() if flows)
        told += [f"{flows:>14,}  flows of unknown {what}, which match nothing that asks for it" for what, flows in lacking]
        some = [place for place in range(len(self.lines)) if self.matched[place]]
        told += [f"{self.matched[place]:>14,}  {self._named(place)}" for place in some[:TOLD_LINES]]
        if len(some) > TOLD_LINES:
            rest = some[TOLD_LINES:]
            told.append(f"{int(self.matched[rest].sum()):>14,}  {len(rest):,} more lines")
        idle = [place for place in range(len(self.lines)) if not self.matched[place]]
        for place in idle[:TOLD_LINES]:
            why = ": earlier lines match all its flows" if self.forestalled[place] else ""
            told.append(f"{'nothing':>14}  {self._named(place)}{why}")
        if len(idle) > TOLD_LINES:
            told.append(f"{'nothing':>14}  {len(idle) - TOLD_LINES:,} more lines")
        return "\n".join(told)

    def _named(self, place: int) -> str:
        return f"line {self.lines[place].number}: {self.lines[place].label or 'benign'}"


def _told(wrong: Sequence[str], name: str) -> str:
    """The first of what is wrong, and the count of the rest."""
    more = [f"{name}: {len(wrong) - TOLD_LINES:,} more bad lines"] if len(wrong) > TOLD_LINES else []
    return "\n".join([*wrong[:TOLD_LINES], *more])


def _rows(content: bytes, name: str, wrong: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of each line that is neither blank nor a comment; the others that are no CSV go into `wrong`."""
    for number, raw in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            text = raw.decode().strip()
            if text and text[0] != "#":
                yield number, next(csv.reader([text], strict=True, skipinitialspace=True))
        except UnicodeDecodeError:
            wrong.append(f"{name}:{number}: not UTF-8: save the file in this encoding")
        except csv.Error as error:
            wrong.append(f"{name}:{number}: not CSV ({error}): a quoted cell ends on its own line")


def _places(header: Sequence[str], where: str) -> dict[str, int]:
    """Place of each column. Raises LabelsError."""
    names = [cell.strip().lower() for cell in header]
    wanted = f"the columns are {', '.join(COLUMNS)}, in any order"
    for name in names:
        if name not in COLUMNS:
            raise LabelsError(f"{where}: the header names a column {name!r}: {wanted}")
        if names.count(name) > 1:
            raise LabelsError(f"{where}: the header names {name!r} twice")
    if "label" not in names:
        raise LabelsError(f"{where}: the header names no column 'label': {wanted}")
    return {name: place for place, name in enumerate(names)}


def _line(number: int, cells: dict[str, str]) -> Line:
    """One line; ValueError says what is wrong with which cell."""

    def cell(column: str) -> str:
        return cells.get(column, "")

    begins_us = (_time_us("from", cell("from")), _time_us("to", cell("to")))
    if begins_us[1] < begins_us[0]:
        raise ValueError(f"to ({cell('to')}) is before from ({cell('from')}): exchange them")
    if cell("both").lower() not in YES + NO:
        raise ValueError(f"both is {cell('both')!r}: give yes, no or nothing")
    return Line(
        number,
        cell("label"),
        begins_us,
        _addresses("src", cell("src")),
        _addresses("dst", cell("dst")),
        _ports("src_port", cell("src_port")),
        _ports("dst_port", cell("dst_port")),
        _protocols(cell("protocol")),
        cell("both").lower() in YES,
    )


def _time_us(column: str, text: str) -> int:
    """A time in us since the epoch. A mere day is its first microsecond as `from`, its last one as `to`."""
    if not text:
        return NEVER_US if column == "from" else EVER_US
    if _BARE_DAY.fullmatch(text):
        raise ValueError(f"{column} is {text!r}: a day, or seconds? Write {text[:4]}-{text[4:6]}-{text[6:]}, or {text}.0")
    if _WEEK.match(text):
        raise ValueError(f"{column} is {text!r}: weeks are not read: write the day, as 2017-07-07")
    if _NUMBER.fullmatch(text):
        if float(text) > LATEST_S:
            raise ValueError(f"{column} is {text!r}: no seconds since the epoch, but perhaps milliseconds")
        return int((Decimal(text) * 1_000_000).to_integral_value())
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        wanted = "give a UTC time as 2017-07-07T14:05:00, seconds since the epoch, or nothing"
        raise ValueError(f"{column} is {text!r}: {wanted}") from None
    since = (time if time.tzinfo else time.replace(tzinfo=UTC)) - _EPOCH
    whole_day = timedelta(days=1, microseconds=-1) if column == "to" and _DAY.fullmatch(text) else timedelta()
    return (since + whole_day) // timedelta(microseconds=1)


def _addresses(column: str, text: str) -> Range:
    """First and last address as 128-bit numbers, IPv4 in the mapped form."""
    if not text:
        return ANY_ADDRESS
    try:
        if "%" in text:  # a zone, which no flow has
            raise ValueError(text)
        network = ipaddress.ip_network(text)
    except ValueError:
        wanted = "give an address, a network as 192.168.10.0/24 or 2001:db8::/32, or nothing"
        with contextlib.suppress(ValueError):
            wanted = f"write {ipaddress.ip_network(text, strict=False)} for the network" if "%" not in text else wanted
        raise ValueError(f"{column} is {text!r}: {wanted}") from None
    base = V4_MAPPED if network.version == 4 else 0
    return base + int(network.network_address), base + int(network.broadcast_address)


def _ports(column: str, text: str) -> Range:
    """First and last port."""
    if not text:
        return ANY_PORT
    ends = [end.strip() for end in text.split("-")]
    if len(ends) > 2 or not all(re.fullmatch(r"[0-9]{1,5}", end) for end in ends):
        raise ValueError(f"{column} is {text!r}: give a port, a range as 8000-8100, or nothing")
    low, high = int(ends[0]), int(ends[-1])
    if not low <= high <= ANY_PORT[1]:
        raise ValueError(f"{column} is {text!r}: ports go from 0 to 65535, the lower one first")
    return low, high


def _protocols(text: str) -> Range:
    """The protocol's number, twice."""
    if not text:
        return ANY_PROTOCOL
    number = PROTOCOLS.get(text.lower(), int(text) if re.fullmatch(r"[0-9]{1,3}", text) else -1)
    if not 0 <= number <= ANY_PROTOCOL[1]:
        named = ", ".join(PROTOCOLS)
        raise ValueError(f"protocol is {text!r}: give a number from 0 to 255, nothing, or one of {named}")
    return number, number
