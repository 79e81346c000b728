"""CICFlowMeter's CSV files (those with hosts and times in them) to FLOW rows, as far as words need them.

Header spellings differ from version to version; ALIASES has them all. What the rows say is then put right by
`cicflowmeter`, which knows the tool's habits. A row that cannot be read is counted with its reason; a file without hosts
and times (the MachineLearningCVE form of CICIDS2017) is refused with one line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sensor.schema import FlowBatch
from sensor.sources.cicflowmeter import DAY_US, FLAGS, SEEN, SHUFFLED, find_afternoons, join_tails, states, turn_answers
from sensor.sources.columns import AddressBook, Columns
from sensor.sources.finished import CONN, Finished, Labels, batches, in_order, merged
from sensor.sources.lines import Damages, LineDamage, LineFile, Paths, head_of, list_files, total_bytes

ALIASES = {
    "src": ("srcip", "sourceip"),
    "src_port": ("srcport", "sourceport"),
    "dst": ("dstip", "destinationip"),
    "dst_port": ("dstport", "destinationport"),
    "protocol": ("protocol",),
    "timestamp": ("timestamp",),
    "duration": ("flowduration",),
    "sent_packets": ("totalfwdpacket", "totalfwdpackets", "totfwdpkts"),
    "received_packets": ("totalbwdpackets", "totalbackwardpackets", "totbwdpkts"),
    "sent_bytes": ("totallengthoffwdpacket", "totallengthoffwdpackets", "totlenfwdpkts"),
    "received_bytes": ("totallengthofbwdpacket", "totallengthofbwdpackets", "totlenbwdpkts"),
    "received_header": ("bwdheaderlength", "bwdheaderlen"),
    "fin": ("finflagcount", "finflagcnt"),
    "syn": ("synflagcount", "synflagcnt"),
    "rst": ("rstflagcount", "rstflagcnt"),
    "psh": ("pshflagcount", "pshflagcnt"),
    "ack": ("ackflagcount", "ackflagcnt"),
    "urg": ("urgflagcount", "urgflagcnt"),
    "cwr": ("cwrflagcount", "cwrflagcnt"),
    "cwe": ("cweflagcount",),
    "sent_rst": ("fwdrstflags",),
    "icmp_type": ("icmptype",),
    "icmp_code": ("icmpcode",),
    "label": ("label",),
}
"""Our name of a column: its spellings, in lower case without blanks and signs."""
NAMES = {spelling: name for name, spellings in ALIASES.items() for spelling in spellings}
OPTIONAL = {"cwr", "cwe", "sent_rst", "icmp_type", "icmp_code", "label"}

NO_PROTOCOL = 255
"""For the tool's protocol 0, which stands for whatever has no ports."""
ARP_HOSTS = (0xFFFF_0806_0001, 0xFFFF_0800_0604)
"""8.6.0.1 and 8.0.6.4: an ARP header that the tool reads as IPv4."""


class NotAFlowTable(Exception):  # noqa: N818  # reads as the sentence it is, like the other refusals
    """A file that is no CICFlowMeter CSV with hosts and times; str() is the one line for the user."""


class FlowCsvSource:
    """Finished flows from CICFlowMeter CSVs, in the order in which they ended; used like `zeek.ConnLogSource`."""

    def __init__(self, paths: Paths, *, block_flows: int = 8192) -> None:
        self._block_flows = block_flows
        self._damages = Damages()
        self._labels = Labels()
        self._addresses = AddressBook()
        self.flows = 0
        self.joined = 0
        """Rows that were the tail of another."""
        self.arp_rows = 0
        """Rows left out because they are ARP, which the tool takes for IPv4."""
        self.files, self.skipped_files = list_files(paths, _first_begin, NotAFlowTable, "CICFlowMeter table")
        """What is read, in this order; and what in the folders is not, with the reason."""
        self.bytes_total = total_bytes(self.files)
        self.bytes_done = 0

    @property
    def damages(self) -> list[LineDamage]:
        """The first rows that could not be read; filled while iterating."""
        return self._damages.first

    @property
    def damage_counts(self) -> dict[str, int]:
        """All rows that could not be read, by kind."""
        return dict(self._damages.counts)

    def __iter__(self) -> Iterator[FlowBatch]:
        for finished in merged(map(self._file, self.files)):
            yield from batches(finished, self._labels, self._block_flows)

    def _file(self, path: Path) -> Finished:
        """One file whole, in order."""
        lines, before, header = LineFile(path, self._damages), self.bytes_done, _header(path, head_of(path))
        first_only = "cwe" in header
        twelve = False
        parts: list[tuple[NDArray[np.void], NDArray[np.void]]] = []
        for columns, numbers in _tables(lines, header, self._damages):
            twelve = twelve or _is_bare(columns.cells["timestamp"][0])
            parts.append(self._rows(columns, numbers, str(path), first_only))
            self.bytes_done = before + lines.bytes_read
        if not parts:
            return Finished(np.empty(0, CONN), None)
        conns, seen = (np.concatenate(pieces) for pieces in zip(*parts, strict=True))
        if twelve:
            find_afternoons(conns)
        if "sent_rst" not in header:
            whole = join_tails(conns, seen, first_only)
            self.joined += len(conns) - len(whole)
            conns, seen = conns[whole], seen[whole]
        conns["conn_state"] = states(conns, seen, first_only)
        self.flows += len(conns)
        return in_order(Finished(conns, None))

    def _rows(
        self, columns: Columns, lines: NDArray[np.int64], path: str, first_only: bool
    ) -> tuple[NDArray[np.void], NDArray[np.void]]:
        """CONN and SEEN rows of a block, in the file's order, without the rows that cannot be read."""
        conns, seen = np.zeros(columns.rows, CONN), np.zeros(columns.rows, SEEN)
        conns["src_hi"], conns["src_lo"] = columns.addresses("src", self._addresses).T
        conns["dst_hi"], conns["dst_lo"] = columns.addresses("dst", self._addresses).T
        arp = np.isin(conns["src_lo"], ARP_HOSTS) & np.isin(conns["dst_lo"], ARP_HOSTS)
        conns["first_us"] = columns.microseconds("timestamp", _clock_s, default=float("nan"), limit_s=9e9)
        lasting_us = columns.integers("duration", default=0, low=-DAY_US, high=DAY_US, read=_whole)
        conns["last_us"] = conns["first_us"] + np.maximum(lasting_us, 0)
        for name in ("sent_packets", "received_packets", "sent_bytes", "received_bytes"):
            conns[name] = columns.integers(name, default=0, low=0, read=_whole)
        protocol = columns.integers("protocol", default=0, low=0, high=255, read=_whole)
        conns["protocol"] = np.where(protocol > 0, protocol, NO_PROTOCOL)
        for name in ("src_port", "dst_port"):
            conns[name] = columns.integers(name, default=0, low=0, high=65_535, read=_whole) & 65_535
        for name in ("icmp_type", "icmp_code"):
            conns[name] = np.maximum(columns.integers(name, default=-1, low=-1, high=255, read=_whole), 0)
        for name in FLAGS:
            seen[name] = columns.integers(SHUFFLED[name] if first_only else name, default=0, low=0, read=_whole)
        seen["sent_rst"] = columns.integers("sent_rst", default=-1, low=-1, read=_whole)
        seen["received_header"] = columns.integers("received_header", default=0, low=-(1 << 40), read=_whole)  # -1 occurs
        conns["label"] = [self._labels.place(text, "") for text in columns.cells.get("label", [""] * columns.rows)]
        if first_only:
            turn_answers(conns, seen)
        good = columns.good(self._damages, path, lines)
        self.arp_rows += int((good & arp).sum())
        keep = good & ~arp
        return conns[keep], seen[keep]


def _header(path: Path, head: bytes) -> dict[str, int]:
    """Our column names with their places; NotAFlowTable where a needed one is missing."""
    first = head.decode("utf-8-sig", "replace").partition("\n")[0]
    spelled = [re.sub(r"[^a-z0-9]", "", name.lower()) for name in first.split(",")]
    header = {NAMES[name]: place for place, name in reversed(list(enumerate(spelled))) if name in NAMES}
    lacking = [name for name in ALIASES if name not in header and name not in OPTIONAL]
    if lacking:
        raise NotAFlowTable(f"{path} is no CICFlowMeter table with hosts and times: it has no column for {', '.join(lacking)}")
    return header | {"": len(spelled)}


def _first_begin(path: Path) -> float:
    """When the first readable row of a flow table began, to put files in order; NotAFlowTable for other files."""
    head = head_of(path)
    place = _header(path, head)["timestamp"]
    for line in head.decode("utf-8", "backslashreplace").split("\n")[1:]:
        try:
            return _clock_s(line.split(",")[place])
        except (ValueError, IndexError):
            continue
    return float("inf")


def _tables(lines: LineFile, header: dict[str, int], damages: Damages) -> Iterator[tuple[Columns, NDArray[np.int64]]]:
    """Columns of each block with their line numbers. In one version rows have a value more than names, before the last."""
    width = header[""]
    used = {name: place for name, place in header.items() if name and name != "label"}
    for first, block in lines.blocks():
        rows, numbers = [], []
        for number, line in enumerate(block.decode("utf-8", "backslashreplace").split("\n"), first):
            row = line.split(",")  # the tool never quotes, and a stray quote must not swallow the lines after it
            if number == 1 or not line:
                continue
            if len(row) not in (width, width + 1):
                damages.add("columns", str(lines.path), number, f"{len(row)} columns where the header names {width}")
                continue
            rows.append(row)
            numbers.append(number)
        if rows:
            cells: dict[str, list[str]] = {name: [row[place] for row in rows] for name, place in used.items()}
            if "label" in header:
                cells["label"] = [row[header["label"] - width] for row in rows]
            yield Columns(cells, len(rows), None), np.array(numbers, np.int64)


def _whole(cell: str) -> int:
    """Counts are written as doubles by some versions: "31.0", "1.5E7"."""
    number = float(cell)
    if not number.is_integer():
        raise ValueError(cell)
    return int(number)


_SLASHED = re.compile(r"(\d{1,2})/(\d{1,2})/(\d{4}) (\d{1,2}):(\d{2})(?::(\d{2}))?(?: ([AP])M)?")
"""Day first, as all versions write it that use slashes."""


def _is_bare(cell: str) -> bool:
    """Whether a time is of the form whose clock has twelve hours and no AM or PM."""
    time = _SLASHED.fullmatch(cell.strip())
    return time is not None and time[7] is None


def _clock_s(cell: str) -> float:
    """Seconds since the epoch; the tool's local time zone is not written, so it is taken for UTC."""
    time = _SLASHED.fullmatch(cell.strip())
    if time is None:
        return datetime.fromisoformat(cell.strip()).replace(tzinfo=UTC).timestamp()
    day, month, year, hour, minute, second = (int(part or 0) for part in time.groups()[:6])
    if time[7]:
        hour = hour % 12 + (12 if time[7] == "P" else 0)
    return datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp()
