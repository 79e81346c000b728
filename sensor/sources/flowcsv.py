"""Tables of flows in CSV to FLOW rows, and, where wanted, to statistics: CICFlowMeter's and those that follow its columns.

Read for words, rows become what the traffic was: the tool's habits are undone by `cicflowmeter`. That needs hosts and times.
Read for statistics, a row stays a row as it is in the file, and any table with LEAST statistics will do; columns are found by
their names in any spelling (`spellings`), and `mending` puts right what is certainly wrong. What the columns of a file mean
otherwise than netseq's is told by `editions`.

A row that cannot be read is counted with its reason; a file that is no such table is refused with one line.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sensor.schema import (
    CONN_STATES,
    LACKS_DST,
    LACKS_DST_PORT,
    LACKS_PROTOCOL,
    LACKS_SRC,
    LACKS_SRC_PORT,
    LACKS_TIME,
    NO_PROTOCOL,
    V4_MAPPED,
)
from sensor.sources.cicflowmeter import FLAGS, SEEN, SHUFFLED, join_tails, states, turn_answers
from sensor.sources.clock import DAY_US, Clock, afternoons, is_bare, of_working_days
from sensor.sources.columns import AddressBook, Columns
from sensor.sources.editions import Edition, confirmed, edition_of
from sensor.sources.finished import CONN, Finished, FinishedSource, in_order
from sensor.sources.flow_rows import Header, Rows, Table, cells_of, header_of, label_text, matrix_of
from sensor.sources.lines import LineFile, Paths, head_of
from sensor.sources.mending import INFINITE, mend
from sensor.spellings import STATISTICS, UNLABELLED

HOSTS = ("Src IP", "Dst IP")
TOTALS = {
    "sent_packets": "Total Fwd Packet",
    "received_packets": "Total Bwd packets",
    "sent_bytes": "Total Length of Fwd Packet",
    "received_bytes": "Total Length of Bwd Packet",
    "sent_ip_bytes": "Fwd IP Bytes",
    "received_ip_bytes": "Bwd IP Bytes",
}
COUNTED = {name: f"{name.upper()} Flag Count" for name in SHUFFLED}
LACKING = {
    "Timestamp": LACKS_TIME,
    "Src IP": LACKS_SRC,
    "Dst IP": LACKS_DST,
    "Src Port": LACKS_SRC_PORT,
    "Dst Port": LACKS_DST_PORT,
    "Protocol": LACKS_PROTOCOL,
}
BY_SIDE = ("Fwd RST Flags", "Fwd PSH Flags", "Fwd URG Flags")
FOR_WORDS = (
    *("Src Port", "Dst Port", "Protocol", "Flow Duration", "Bwd Header Length", "ICMP Type", "ICMP Code", "Continued"),
    *TOTALS.values(),
    *COUNTED.values(),
    *BY_SIDE,
)
"""The numbers that words need, or that tell what the others mean."""
OPTIONAL = {"Fwd IP Bytes", "Bwd IP Bytes", "CWR Flag Count", "ECE Flag Count", *BY_SIDE, "ICMP Type", "ICMP Code", "Continued"}
NEEDED = tuple(name for name in (*HOSTS, "Timestamp", *FOR_WORDS) if name not in OPTIONAL)
LEAST = 10
"""Statistics that make a file a table of flows."""

ARP_HOSTS = (0xFFFF_0806_0001, 0xFFFF_0800_0604)
"""8.6.0.1 and 8.0.6.4: an ARP header that the tool reads as IPv4."""
LONGEST = 1 << 53
"""Larger numbers of a column are no whole numbers any more."""
NOISE = 1e-3
"""A duration computed from seconds in floating point may miss a whole number by this."""
_WHOLE = re.compile(r"([0-9]{1,10})(?:\.0)?")
_STATE_CODES = {name: place for place, name in enumerate(CONN_STATES)}
_LAYOUTS = "CICFlowMeter, its Python port, CICIDS2017, CSE-CIC-IDS2018, netseq-flows"


class NotAFlowTable(Exception):  # noqa: N818  # reads as the sentence it is, like the other refusals
    """A file that is no table of flows, or lacks what is wanted of it; str() is the one line for the user."""


class _Codes(AddressBook):
    """Addresses, and whole numbers in their place: IPv4 written as one number, as tables have it whose hosts are codes."""

    def __missing__(self, text: bytes | str) -> bytes:
        packed = super().__missing__(text)
        if number := _WHOLE.fullmatch(str(text)):
            address = int(number[1])
            if address < 1 << 32:
                self[text] = packed = (V4_MAPPED + address).to_bytes(16)
        return packed


class FlowCsvSource(FinishedSource):
    """Finished flows from tables of flows, in the order in which they ended; used like `zeek.ConnLogSource`.

    With `statistics` no row is joined, turned or left out, FlowBatch.statistics is (n, len(spellings.STATISTICS)), NaN where
    the table does not tell, and hosts, ports and times may be lacking: hosts are then "::", flows begin at 0, rows keep the
    file's order, and FlowBatch.lacks says so.
    """

    def __init__(self, paths: Paths, *, block_flows: int = 8192, statistics: bool = False) -> None:
        self.flows = 0
        """Rows handed over so far."""
        self.joined = 0
        """Rows that were the tail of another."""
        self.arp_rows = 0
        """Rows left out because they are ARP, which the tool takes for IPv4."""
        self.editions: dict[Path, Edition] = {}
        """By which program each file was made, as far as it can be told; filled while iterating."""
        self._statistics = statistics
        self._names = STATISTICS if statistics else FOR_WORDS
        self._mended: Counter[str] = Counter()
        super().__init__(paths, block_flows, NotAFlowTable, "table of flows" if statistics else "CICFlowMeter table")
        if statistics:
            self._addresses = _Codes()

    @property
    def mended(self) -> dict[str, int]:
        """Cells put right, by reason (see `mending`); with `statistics` only. Filled while iterating."""
        return dict(self._mended)

    @property
    def infinities(self) -> int:
        """Infinite cells that are now unknown."""
        return self._mended[INFINITE]

    @property
    def otherwise(self) -> frozenset[str]:
        """Columns whose values in some file read so far follow other rules than netseq's."""
        return frozenset().union(*(edition.otherwise for edition in self.editions.values()))

    def _header(self, path: Path, head: bytes) -> Header:
        """The columns of a file; NotAFlowTable where a needed one is missing."""
        header = header_of(head)
        if self._statistics:
            if len(header.known) < LEAST:
                few = f"its first line names {len(header.known)} statistics of flows, {LEAST} are the least"
                raise NotAFlowTable(f"{path} is no table of flows: {few} (read are the columns of {_LAYOUTS})")
            return header
        lacking = ", ".join(name for name in NEEDED if name not in header.places)
        if lacking:
            raise NotAFlowTable(f"{path} is no CICFlowMeter table with hosts and times: it has no column for {lacking}")
        return header

    def _begins(self, path: Path) -> float:
        """When the first readable row of a table began; inf for one without times."""
        head = head_of(path)
        place = self._header(path, head).places.get("Timestamp")
        clock = Clock(numbers=self._statistics)
        if place is None:
            return float("inf")
        for line in head.decode("utf-8", "backslashreplace").split("\n")[1:]:
            try:
                cell = cells_of(line)[place]
                begins_s = clock[cell]
            except (ValueError, IndexError):
                continue
            stamp = np.array([round(begins_s * 1e6)])
            return begins_s + (int(afternoons(stamp)[0]) / 1e6 if is_bare(cell) and of_working_days(stamp).all() else 0)
        return float("inf")

    def _file(self, path: Path) -> Finished:
        """One file whole, in order."""
        lines, before, header = LineFile(path, self._damages), self.bytes_done, self._header(path, head_of(path))
        clock, bare = Clock(numbers=self._statistics), False
        parts: list[tuple[NDArray[np.void], NDArray[np.float64], NDArray[np.uint8]]] = []
        for block in Table(lines, header, self._damages, lenient=not self._statistics).blocks():
            bare = bare or is_bare(block.columns.cells.get("Timestamp", [""])[0])
            parts.append(self._rows(block, header, clock, str(path)))
            self.bytes_done = before + lines.bytes_read
        if not parts:
            parts.append((np.empty(0, CONN), np.empty((0, len(self._names))), np.empty(0, np.uint8)))
        conns, numbers, lacks = (np.concatenate(pieces) for pieces in zip(*parts, strict=True))
        parts.clear()
        edition = confirmed(edition_of(header.texts), lambda name: self._column(numbers, name))
        self.editions[path] = edition
        if self._statistics:
            return self._statistics_of(conns, numbers, lacks, header, edition, bare)
        return self._flows_of(conns, numbers, header, edition, bare)

    def _flows_of(
        self, conns: NDArray[np.void], numbers: NDArray[np.float64], header: Header, edition: Edition, bare: bool
    ) -> Finished:
        """The rows of a file as flows: turned, joined and with a conn_state."""
        seen = self._seen(numbers, edition)
        if edition.first_only:
            turn_answers(conns, seen)
        _set_times(conns, self._column(numbers, "Flow Duration"), bare)
        if "Fwd RST Flags" not in header.places:
            whole = join_tails(conns, seen, edition.first_only)
            self.joined += len(conns) - len(whole)
            conns, seen = conns[whole], seen[whole]
        if "Connection State" not in header.places:
            conns["conn_state"] = states(conns, seen, edition.first_only)
        self.flows += len(conns)
        return in_order(Finished(conns))

    def _statistics_of(
        self,
        conns: NDArray[np.void],
        numbers: NDArray[np.float64],
        lacks: NDArray[np.uint8],
        header: Header,
        edition: Edition,
        bare: bool,
    ) -> Finished:
        """The rows of a file as they are, with the statistics put right."""
        seen = self._seen(numbers, edition)
        self._mended += mend(numbers, edition, header.places)
        _set_times(conns, self._column(numbers, "Flow Duration"), bare)
        if "Connection State" not in header.places:
            conns["conn_state"] = states(conns, seen, edition.first_only)
        self.flows += len(conns)
        told = lacks if lacks.any() else None
        return in_order(Finished(conns, statistics=numbers, timed="Timestamp" in header.places, lacks=told))

    def _column(self, numbers: NDArray[np.float64], name: str) -> NDArray[np.float64]:
        """(rows,) numbers of one column, NaN where it was not asked for."""
        if name not in self._names:
            return np.full(len(numbers), np.nan)
        return np.asarray(numbers[:, self._names.index(name)])

    def _seen(self, numbers: NDArray[np.float64], edition: Edition) -> NDArray[np.void]:
        """(rows,) SEEN: the flags under their right names."""
        seen = np.zeros(len(numbers), SEEN)
        for name in FLAGS:
            place = COUNTED["cwr" if SHUFFLED[name] == "cwe" else SHUFFLED[name]] if edition.first_only else COUNTED[name]
            seen[name] = _told(self._column(numbers, place), 0)
        seen["sent_rst"] = _told(self._column(numbers, "Fwd RST Flags"), -1)
        seen["received_header"] = _told(self._column(numbers, "Bwd Header Length"), 0)
        return seen

    def _rows(
        self, block: Rows, header: Header, clock: Clock, path: str
    ) -> tuple[NDArray[np.void], NDArray[np.float64], NDArray[np.uint8]]:
        """CONN rows of a block, their numbers and what they lack, in the file's order, without the rows that cannot be read.

        `last_us` waits for the whole file (`_set_times`), and so do flags and conn_state.
        """
        columns, conns = block.columns, np.zeros(block.columns.rows, CONN)
        numbers = matrix_of(block, header.places, self._names)
        for end, name in (("src", "Src IP"), ("dst", "Dst IP")):
            if name in header.places:
                conns[f"{end}_hi"], conns[f"{end}_lo"] = columns.addresses(name, self._addresses).T
        if "Timestamp" in header.places:
            conns["first_us"] = columns.microseconds("Timestamp", clock.__getitem__, default=float("nan"), limit_s=9e9)
        whole = _Whole(columns, numbers, self._names, header, strict=not self._statistics)
        for field, name in TOTALS.items():
            conns[field] = whole.of(name)
        protocol = whole.of("Protocol", high=255)
        conns["protocol"] = np.where(protocol > 0, protocol, NO_PROTOCOL)
        conns["src_port"], conns["dst_port"] = whole.of("Src Port", high=65_535), whole.of("Dst Port", high=65_535)
        for field, name in (("icmp_type", "ICMP Type"), ("icmp_code", "ICMP Code")):
            conns[field] = np.maximum(whole.of(name, low=-1, high=255), 0)
        conns["continued"] = whole.of("Continued", high=1)
        conns["conn_state"] = columns.codes("Connection State", _STATE_CODES, CONN_STATES.index("OTH"))
        self._place_labels(columns, conns)
        if not self._statistics:
            whole.of("Flow Duration", low=-DAY_US, high=DAY_US)
            whole.of("Bwd Header Length", low=-(1 << 40))  # -1 a packet occurs
            for name in (*COUNTED.values(), *BY_SIDE):
                whole.of(name)
        good = columns.good(self._damages, path, block.numbers)
        if not self._statistics:
            arp = np.isin(conns["src_lo"], ARP_HOSTS) & np.isin(conns["dst_lo"], ARP_HOSTS)
            self.arp_rows += int((good & arp).sum())
            good &= ~arp
        return conns[good], numbers[good], self._lacks(conns, numbers, header)[good]

    def _lacks(self, conns: NDArray[np.void], numbers: NDArray[np.float64], header: Header) -> NDArray[np.uint8]:
        """(rows,) LACKS_* bits: by the columns that are not there, and by cells without a number."""
        lacks = np.full(len(conns), sum(bit for name, bit in LACKING.items() if name not in header.places), np.uint8)
        for name in ("Src Port", "Dst Port"):
            lacks[~np.isfinite(self._column(numbers, name))] |= LACKING[name]
        lacks[conns["protocol"] == NO_PROTOCOL] |= LACKS_PROTOCOL
        return lacks

    def _place_labels(self, columns: Columns, conns: NDArray[np.void]) -> None:
        texts = columns.cells.get("Label")
        if texts is None:
            conns["label"] = -1
            return
        places = {text: self._labels.place(label_text(text) or UNLABELLED, "") for text in dict.fromkeys(texts)}
        conns["label"] = [places[text] for text in texts]


class _Whole:
    """Counts of a block's rows as whole numbers. `strict`: a cell that is none makes its row a damaged one."""

    def __init__(
        self, columns: Columns, numbers: NDArray[np.float64], names: tuple[str, ...], header: Header, *, strict: bool
    ) -> None:
        self._columns = columns
        self._numbers = numbers
        self._names = names
        self._header = header
        self._strict = strict

    def of(self, name: str, low: int = 0, high: int = 1 << 62) -> NDArray[np.int64]:
        """(rows,) of one column; 0 where the table does not tell. What lies outside low to high is refused."""
        if name not in self._header.places:
            return np.zeros(self._columns.rows, np.int64)
        values = self._numbers[:, self._names.index(name)]
        unknown = ~np.isfinite(values)
        values = np.where(unknown, 0, values)
        if self._strict:
            self._columns.refuse(unknown | (np.abs(values - np.rint(values)) > NOISE), name, "not a whole number")
        self._columns.refuse(~unknown & ((values < low) | (values > high)), name, f"not from {low} to {high}")
        whole = np.rint(np.clip(values, low, min(high, LONGEST)))
        return np.asarray(whole, dtype=np.int64)


def _set_times(conns: NDArray[np.void], lasting_us: NDArray[np.float64], bare: bool) -> None:
    """Put times in the afternoon where they are, and say when flows ended, in place."""
    if bare:
        conns["first_us"] += afternoons(conns["first_us"])
    conns["last_us"] = conns["first_us"] + np.maximum(_told(lasting_us, 0), 0)


def _told(values: NDArray[np.float64], unknown: int) -> NDArray[np.int64]:
    """Numbers as whole ones; `unknown` for what is none."""
    finite = np.clip(np.where(np.isfinite(values), values, unknown), -LONGEST, LONGEST)
    return np.asarray(np.rint(finite), dtype=np.int64)
