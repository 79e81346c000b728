"""What Zeek's fields of a connection mean: CONN rows from columns, the same whichever road the columns came by.

Three things that Zeek leaves open are decided here. A missing payload count (Zeek writes none for a lone packet) is taken
from the IP bytes where headers have one size, and is 0 for TCP: what the packets would have given. An
ICMP "port" is the type, and the other one the code only if the type has no counterpart (Zeek writes the type of the answer
there). A JSON timestamp without a fraction is milliseconds, as LogAscii::json_timestamps=TS_MILLIS writes them; a number
that some other program has put into quotes is read like one without.

Called by `zeek` for files and by `zeek_events` for what Zeek sends.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sensor.schema import CONN_STATES, ICMP, ICMPV6, NO_PROTOCOL, SCTP, TCP, UDP, V4_MAPPED
from sensor.sources.columns import AddressBook
from sensor.sources.finished import CONN

TIME_LIMIT_S = 9e9
"""Up to here (the year 2255) a float of seconds holds microseconds exactly."""
_PROTOCOLS = {"tcp": TCP, "udp": UDP, "icmp": ICMP, "icmp6": ICMPV6, "sctp": SCTP}
_HEADER_BYTES = {UDP: 8, ICMP: 8, ICMPV6: 8, SCTP: 12}
"""Transport headers of one size; of any other protocol but TCP all bytes after the IP header count, as for packets."""
_COUNTERPARTS = {
    ICMP: (0, 8, 9, 10, 13, 14, 15, 16, 17, 18),
    ICMPV6: (128, 129, 130, 131, 133, 134, 135, 136, 139, 140, 144, 145),
}
"""ICMP types that Zeek pairs: for them resp_p is the other type (Zeek's ICMP4_counterpart and ICMP6_counterpart)."""
_WHOLE, _DECIMAL = re.compile(r"-?[0-9]{9,18}"), re.compile(r"-?[0-9]{1,18}\.[0-9]+")
"""Numbers as text; eight digits may be a day."""


class Cells(Protocol):
    """What is asked of a block's columns; `columns.Columns` tells what each does. A value is refused by row, never raised."""

    rows: int
    missing: bytes | None

    def refuse(self, wrong: NDArray[np.bool_], name: str, what: str) -> None:
        """Note the rows where `wrong` is true."""

    def integers(self, name: str, *, default: int, low: int, high: int = ...) -> NDArray[np.int64]:
        """(rows,) whole numbers."""

    def microseconds(self, name: str, read: Callable[[Any], float], *, default: float, limit_s: float) -> NDArray[np.int64]:
        """(rows,) seconds as whole microseconds."""

    def addresses(self, name: str, book: AddressBook) -> NDArray[np.uint64]:
        """(rows, 2) halves of addresses."""

    def codes(self, name: str, table: Mapping[Any, int], default: int) -> NDArray[np.int64]:
        """(rows,) numbers of names."""


def _both(table: dict[str, int]) -> dict[str | bytes, int]:
    """The same table for the text of JSON and the bytes of TSV."""
    both: dict[str | bytes, int] = {}
    for name, value in table.items():
        both[name] = both[name.encode()] = value
    return both


_PROTOCOL_CODES = _both(_PROTOCOLS)
_STATE_CODES = _both({name: place for place, name in enumerate(CONN_STATES)})


def connections(columns: Cells, book: AddressBook) -> NDArray[np.void]:
    """(rows,) CONN rows of a block; rows that cannot be read are noted in `columns`. No row has a label."""
    conns = np.zeros(columns.rows, CONN)
    conns["src_hi"], conns["src_lo"] = columns.addresses("id.orig_h", book).T
    conns["dst_hi"], conns["dst_lo"] = columns.addresses("id.resp_h", book).T
    conns["first_us"] = columns.microseconds(
        "ts", _epoch_s if columns.missing is None else float, default=float("nan"), limit_s=TIME_LIMIT_S
    )
    lasting_us = columns.microseconds("duration", float, default=0.0, limit_s=TIME_LIMIT_S)
    conns["last_us"] = conns["first_us"] + np.maximum(lasting_us, 0)
    conns["conn_state"] = columns.codes("conn_state", _STATE_CODES, CONN_STATES.index("OTH"))
    _fill_protocol(columns, conns)
    _fill_counts(columns, conns)
    conns["label"] = -1
    return conns


def _fill_protocol(columns: Cells, conns: NDArray[np.void]) -> None:
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


def _fill_counts(columns: Cells, conns: NDArray[np.void]) -> None:
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
    """Seconds since the epoch from any of JSON's three forms; a day and time without a zone is UTC. Raises ValueError."""
    if isinstance(cell, str):
        if _DECIMAL.fullmatch(cell):
            return float(cell)
        if not _WHOLE.fullmatch(cell):
            time = datetime.fromisoformat(cell)
            return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
        cell = int(cell)
    if isinstance(cell, int):
        # Zeek writes whole numbers for milliseconds only. As seconds this range is 1973 to 5138, as milliseconds it would
        # be the first three years after 1970: whole seconds there come from a program that has re-written the log.
        return float(cell) if 100_000_000 <= cell < 100_000_000_000 else cell / 1000
    return float(cell)
