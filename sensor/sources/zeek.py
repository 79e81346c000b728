"""Zeek's conn.log, read from disk: TSV with the conventions its header sets, or JSON, one object a line.

A conn.log enters netseq where packets leave the flow table: as FLOW rows, complete, with Zeek's uid. Lines are turned into
columns a block at a time and columns into arrays, so that no object per connection outlives its block. A line that cannot
be read is counted with its reason and the rest of the file is read on; a file that is no conn.log is refused with one line,
or, met in a folder, put aside in `skipped_files`.

Three things that Zeek leaves open are decided here. A missing payload count (Zeek writes none for a lone packet) is taken
from the IP bytes where headers have one size, and is 0 for TCP: what the packets would have given. An
ICMP "port" is the type, and the other one the code only if the type has no counterpart (Zeek writes the type of the answer
there). A JSON timestamp without a fraction is milliseconds, as LogAscii::json_timestamps=TS_MILLIS writes them.
"""

from __future__ import annotations

from datetime import datetime
from itertools import takewhile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sensor.schema import CONN_STATES, ICMP, ICMPV6, NO_PROTOCOL, SCTP, TCP, UDP, V4_MAPPED
from sensor.sources.columns import Columns
from sensor.sources.finished import CONN, Finished, FinishedSource, in_order
from sensor.sources.lines import Damages, LineFile, Paths, head_of
from sensor.sources.zeek_text import Header, read_json, read_tsv, text_of

TIME_LIMIT_S = 9e9
"""Up to here (the year 2255) a float of seconds holds microseconds exactly."""
HEAD_LINES = 200
"""Looked at to tell whether a file is a conn.log and when it begins."""
_PROTOCOLS = {"tcp": TCP, "udp": UDP, "icmp": ICMP, "icmp6": ICMPV6, "sctp": SCTP}
_HEADER_BYTES = {UDP: 8, ICMP: 8, ICMPV6: 8, SCTP: 12}
"""Transport headers of one size; of any other protocol but TCP all bytes after the IP header count, as for packets."""
_COUNTERPARTS = {
    ICMP: (0, 8, 9, 10, 13, 14, 15, 16, 17, 18),
    ICMPV6: (128, 129, 130, 131, 133, 134, 135, 136, 139, 140, 144, 145),
}
"""ICMP types that Zeek pairs: for them resp_p is the other type (Zeek's ICMP4_counterpart and ICMP6_counterpart)."""


class NotAConnLog(Exception):  # noqa: N818  # reads as the sentence it is, like the other refusals
    """A file that is no conn.log; str() is the one line for the user."""


def _both(table: dict[str, int]) -> dict[str | bytes, int]:
    """The same table for the text of JSON and the bytes of TSV."""
    both: dict[str | bytes, int] = {}
    for name, value in table.items():
        both[name] = both[name.encode()] = value
    return both


_PROTOCOL_CODES = _both(_PROTOCOLS)
_STATE_CODES = _both({name: place for place, name in enumerate(CONN_STATES)})


class ConnLogSource(FinishedSource):
    """Finished connections from conn.log files, in the order in which they ended.

    `paths` are files and folders; every conn.log found is read, the files in the order of their first record's end, each
    sorted and overlapping ones merged (see `finished`). Iterating yields FlowBatch with `uids`, and with `labels` and
    `details` where a log has them. NotAConnLog is raised here for a named file that is none, or when nothing is left.
    `as_written` leaves the lines of a file in their order, and hands over one file after the other: netseq's own record is
    in the order in which its flows were scored.
    """

    def __init__(self, paths: Paths, *, block_flows: int = 8192, as_written: bool = False) -> None:
        self.connections = 0
        """Connections read so far."""
        self._timed = not as_written
        super().__init__(paths, block_flows, NotAConnLog, "conn.log")

    def _file(self, path: Path) -> Finished:
        """One file whole, in order."""
        lines = LineFile(path, self._damages)
        before = self.bytes_done
        parts: list[Finished] = []
        read = read_json if head_of(path).lstrip()[:1] == b"{" else read_tsv
        for columns, numbers in read(lines.blocks(), str(path), self._damages):
            parts.append(self._connections(columns, numbers, str(path), self._damages))
            self.bytes_done = before + lines.bytes_read
        if not parts:
            return Finished(np.empty(0, CONN))
        conns = np.concatenate([part.conns for part in parts])
        self.connections += len(conns)
        uids = np.concatenate([part.uids for part in parts if part.uids is not None])
        return in_order(Finished(conns, uids, timed=self._timed))

    def _begins(self, path: Path) -> float:
        """When the first connection of a conn.log ended, to put files in order; NotAConnLog for a file that is none."""
        head = b"\n".join(head_of(path).split(b"\n")[:HEAD_LINES]).lstrip()
        if not head:
            raise NotAConnLog(f"{path} is empty")
        if head[:1] not in b"#{":
            raise NotAConnLog(f"{path} is no conn.log: it begins with neither Zeek's header (#separator) nor JSON")
        if head[:1] == b"#":
            header = Header()
            for line in takewhile(lambda line: line[:1] == b"#", head.split(b"\n")):
                header.take(line)
            if refusal := header.refusal():
                raise NotAConnLog(f"{path} is no conn.log: {refusal}")
        damages = Damages()
        for columns, numbers in (read_json if head[:1] == b"{" else read_tsv)([(1, head)], str(path), damages):
            conns = self._connections(columns, numbers, str(path), damages).conns
            if len(conns):
                return float(conns["last_us"][0])
        if head[:1] == b"{":
            raise NotAConnLog(f"{path} is no conn.log: {damages.first[0].reason}")
        return float("inf")

    def _connections(self, columns: Columns, lines: NDArray[np.int64], path: str, damages: Damages) -> Finished:
        """CONN rows of a block, without the rows that cannot be read."""
        conns = np.zeros(columns.rows, CONN)
        conns["src_hi"], conns["src_lo"] = columns.addresses("id.orig_h", self._addresses).T
        conns["dst_hi"], conns["dst_lo"] = columns.addresses("id.resp_h", self._addresses).T
        conns["first_us"] = columns.microseconds(
            "ts", _epoch_s if columns.missing is None else float, default=float("nan"), limit_s=TIME_LIMIT_S
        )
        lasting_us = columns.microseconds("duration", float, default=0.0, limit_s=TIME_LIMIT_S)
        conns["last_us"] = conns["first_us"] + np.maximum(lasting_us, 0)
        conns["conn_state"] = columns.codes("conn_state", _STATE_CODES, CONN_STATES.index("OTH"))
        _fill_protocol(columns, conns)
        _fill_counts(columns, conns)
        conns["label"] = self._label_places(columns)
        keep = columns.good(damages, path, lines)
        uids = [b"" if uid in (None, columns.missing) else uid for uid in columns.cells.get("uid", [None] * columns.rows)]
        named = np.array([uid if isinstance(uid, bytes) else uid.encode() for uid in uids], np.bytes_)
        return Finished(conns[keep], named[keep])

    def _label_places(self, columns: Columns) -> NDArray[np.int64]:
        """Place of each row's label in the table of labels; -1 in a log without labels."""
        texts = columns.cells.get("label")
        if texts is None:
            return np.full(columns.rows, -1, np.int64)
        details = columns.cells.get("detailedlabel", columns.cells.get("detailed-label", [columns.missing] * columns.rows))
        pairs = list(zip(texts, details, strict=True))
        if columns.missing is None and not any(text is not None or detail is not None for text, detail in pairs):
            return np.full(columns.rows, -1, np.int64)
        places = {pair: self._labels.place(*(text_of(cell) for cell in pair)) for pair in dict.fromkeys(pairs)}
        return np.array([places[pair] for pair in pairs], np.int64)


def _fill_protocol(columns: Columns, conns: NDArray[np.void]) -> None:
    """Protocol number, ports, ICMP type and code."""
    protocol = columns.codes("proto", _PROTOCOL_CODES, NO_PROTOCOL)
    number = columns.integers("ip_proto", default=-1, low=0, high=255)
    protocol = np.where(number >= 0, number, protocol)
    ipv6 = (conns["src_hi"] != 0) | (conns["src_lo"] >> np.uint64(32) != V4_MAPPED >> 32)
    protocol = np.where((protocol == ICMP) & ipv6, ICMPV6, protocol)
    src_port = columns.integers("id.orig_p", default=-1, low=0, high=65_535)
    dst_port = columns.integers("id.resp_p", default=-1, low=0, high=65_535)
    columns.refuse(src_port < 0, "id.orig_p", "not a port")
    columns.refuse(dst_port < 0, "id.resp_p", "not a port")
    icmp = (protocol == ICMP) | (protocol == ICMPV6)
    paired = np.zeros(len(conns), np.bool_)
    for family, types in _COUNTERPARTS.items():
        paired |= (protocol == family) & np.isin(src_port, types)
    conns["protocol"] = protocol
    conns["icmp_type"] = np.where(icmp, src_port & 255, 0)
    conns["icmp_code"] = np.where(icmp & ~paired, dst_port & 255, 0)
    conns["src_port"] = np.where(icmp, 0, src_port & 65_535)
    conns["dst_port"] = np.where(icmp, 0, dst_port & 65_535)


def _fill_counts(columns: Columns, conns: NDArray[np.void]) -> None:
    """Packets and bytes each way; payload that Zeek left out is taken from the IP bytes, except for TCP."""
    ipv6 = (conns["src_hi"] != 0) | (conns["src_lo"] >> np.uint64(32) != V4_MAPPED >> 32)
    protocol = conns["protocol"]
    transport_bytes = np.select([protocol == number for number in _HEADER_BYTES], list(_HEADER_BYTES.values()), 0)
    header_bytes = np.where(ipv6, 40, 20) + transport_bytes
    for name, side in (("orig", "sent"), ("resp", "received")):
        packets = columns.integers(f"{name}_pkts", default=0, low=0)
        ip_bytes = columns.integers(f"{name}_ip_bytes", default=0, low=0)
        payload = columns.integers(f"{name}_bytes", default=-1, low=0)
        derived = np.where(protocol == TCP, 0, np.maximum(ip_bytes - header_bytes * packets, 0))
        conns[f"{side}_packets"] = packets
        conns[f"{side}_ip_bytes"] = ip_bytes
        conns[f"{side}_bytes"] = np.where(payload >= 0, payload, derived)


def _epoch_s(cell: str | float) -> float:
    """Seconds since the epoch from any of JSON's three forms."""
    if isinstance(cell, str):
        return datetime.fromisoformat(cell if cell[-1:] in "Zz" or "+" in cell else cell + "Z").timestamp()
    if isinstance(cell, int):
        # Zeek writes whole numbers for milliseconds only. As seconds this range is 1973 to 5138, as milliseconds it would
        # be the first three years after 1970: whole seconds there come from a program that has re-written the log.
        return float(cell) if 100_000_000 <= cell < 100_000_000_000 else cell / 1000
    return float(cell)
