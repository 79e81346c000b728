"""Flows as Zeek's conn.log, in both forms that Zeek writes, so that whatever reads Zeek's connections reads netseq's.

The fields and their order are Zeek's (8.1). What a flow row does not tell is left unset: the service, the history, which
hosts are local. A cut flow gives a line for each of its rows. Written in blocks by `row_text`; the commands open the
stream and know the time of day that #open and #close tell. `sources.zeek` reads the same words from the lines as were in the
flows.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from sensor.address_text import addresses_text
from sensor.addresses import icmp_ports
from sensor.row_text import JSON, MISSING, NUMBER, SECONDS, SHORT_SECONDS, TEXT, Cell, Form, RowText, Values
from sensor.schema import CONN_STATES, ICMP, ICMPV6, NO_PROTOCOL, TCP, UDP, FlowBatch
from sensor.sinks.lines import ByteStream, Lines
from sensor.sinks.zeek_log import UNSET, closing, escape, header, json

FIELDS = (
    ("ts", "time"),
    ("uid", "string"),
    ("id.orig_h", "addr"),
    ("id.orig_p", "port"),
    ("id.resp_h", "addr"),
    ("id.resp_p", "port"),
    ("proto", "enum"),
    ("service", "string"),
    ("duration", "interval"),
    ("orig_bytes", "count"),
    ("resp_bytes", "count"),
    ("conn_state", "string"),
    ("local_orig", "bool"),
    ("local_resp", "bool"),
    ("missed_bytes", "count"),
    ("history", "string"),
    ("orig_pkts", "count"),
    ("orig_ip_bytes", "count"),
    ("resp_pkts", "count"),
    ("resp_ip_bytes", "count"),
    ("tunnel_parents", "set[string]"),
    ("ip_proto", "count"),
)
"""Zeek's columns and their types, in its order (base/protocols/conn/main.zeek)."""

UNKNOWN = ("service", "local_orig", "local_resp", "missed_bytes", "history", "tunnel_parents")
"""What flow rows do not tell."""

PROTOCOLS = {TCP: "tcp", UDP: "udp", ICMP: "icmp", ICMPV6: "icmp"}
"""Zeek's transport_proto knows these; all others are unknown_transport."""

PROTOCOL_TEXTS = np.array([PROTOCOLS.get(number, "unknown_transport") for number in range(256)], np.bytes_)
STATE_TEXTS = np.array(CONN_STATES, np.bytes_)

NO_ANSWER = 256
ANSWERS = np.array([[icmp_ports(family, number, NO_ANSWER)[1] for number in range(256)] for family in (ICMP, ICMPV6)])
"""The ICMP type that answers each type, of either family; NO_ANSWER for one that nothing answers."""

LETTERS = np.frombuffer(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", np.uint8)
UID_DIGITS = 17
"""Base-62 digits behind the C of a uid, as Zeek has at most; 10 of them fit 64 bits."""

MIXERS = (0x9E37_79B9_7F4A_7C15, 0xBF58_476D_1CE4_E5B9, 0x94D0_49BB_1331_11EB)
"""Constants of SplitMix64 (Steele, Lea, Flood 2014)."""


class ConnLog:
    """Writes flows to an unbuffered binary stream as Zeek's conn.log; in the form "tsv" its header comes first.

    `clock` gives the time of day for #open and #close, `name` is what messages call the stream. Raises SinkFailed when the
    header cannot be written.
    """

    def __init__(
        self,
        stream: ByteStream,
        form: Literal["tsv", "json"] = "tsv",
        *,
        clock: Callable[[], datetime],
        name: str = "conn.log",
    ) -> None:
        self._lines = Lines(stream, name, "flows")
        self._form = form
        self._clock = clock
        self._rows = _tsv_rows() if form == "tsv" else _json_rows()
        if form == "tsv":
            self._lines.write(header("conn", FIELDS, clock()))

    def write(self, batch: FlowBatch) -> None:
        """Write the flows in order. Raises SinkFailed, after which the lines written before stay whole."""
        told = self._values(batch)
        missing = np.full(len(batch.flows), MISSING)
        for piece in self._rows.lines([told.get(name, missing) for name, _ in FIELDS]):
            self._lines.write(piece)

    def close(self) -> None:
        """Finish the file: the tab-separated form says when it was closed. The stream stays the caller's to close."""
        if self._form == "tsv":
            self._lines.write(closing(self._clock()))

    def _values(self, batch: FlowBatch) -> dict[str, Values]:
        """Give flows Zeek's names; a time or interval stays in whole microseconds."""
        flows = batch.flows
        values: dict[str, Values] = {
            "ts": flows["first_us"],
            "uid": self._uids(batch),
            "id.orig_h": addresses_text(flows["src_hi"], flows["src_lo"]),
            "id.resp_h": addresses_text(flows["dst_hi"], flows["dst_lo"]),
            "proto": PROTOCOL_TEXTS[flows["protocol"]],
            "conn_state": STATE_TEXTS[flows["conn_state"]],
            "ip_proto": np.where(flows["protocol"] == NO_PROTOCOL, MISSING, flows["protocol"].astype(np.int64)),
        }
        values["id.orig_p"], values["id.resp_p"] = ports(flows)
        lasting_us = flows["last_us"] - flows["first_us"]
        values["duration"] = np.where(lasting_us > 0, lasting_us, MISSING)  # Zeek has none for a lone packet either
        for side, name in (("fwd", "orig"), ("bwd", "resp")):
            told = flows[side]
            values[f"{name}_bytes"] = told["payload"]["sum"]
            values[f"{name}_pkts"] = told["packets"]
            values[f"{name}_ip_bytes"] = np.where((told["packets"] > 0) & (told["ip_bytes"] == 0), MISSING, told["ip_bytes"])
        return values

    def _uids(self, batch: FlowBatch) -> NDArray[np.bytes_]:
        """Zeek's own uids where the flows have them."""
        made = uids(batch.flows)
        if not batch.uids or not any(batch.uids):
            return made
        texts = [
            (escape(uid) if self._form == "tsv" else str(json(uid, "string")).encode()) if uid else b"" for uid in batch.uids
        ]
        known = np.array(texts, np.bytes_)
        return np.where(known == b"", made, known)


def _tsv_rows() -> RowText:
    kinds = {"time": SECONDS, "interval": SECONDS, "count": NUMBER, "port": NUMBER}
    cells = [Cell(b"\t" if place else b"", kinds.get(kind, TEXT)) for place, (_, kind) in enumerate(FIELDS)]
    return RowText(cells, Form(missing=UNSET.encode()))


def _json_rows() -> RowText:
    kinds = {"time": SHORT_SECONDS, "interval": SHORT_SECONDS, "count": NUMBER, "port": NUMBER}
    cells = []
    for place, (name, kind) in enumerate(FIELDS):
        cells.append(Cell((b"," if place else b"{") + msgspec.json.encode(name) + b":", kinds.get(kind, JSON)))
    return RowText(cells, Form(end=b"}\n", leave_out=True))


def ports(flows: NDArray[np.void]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What stands in the two port fields; of ICMP the type, then the answering type or the code (`addresses.icmp_ports`)."""
    protocol, icmp_type, icmp_code = (flows[name].astype(np.int64) for name in ("protocol", "icmp_type", "icmp_code"))
    icmp = (protocol == ICMP) | (protocol == ICMPV6)
    answer = ANSWERS[(protocol == ICMPV6).astype(np.int64), icmp_type]
    src = np.where(icmp, icmp_type, flows["src_port"])
    return src, np.where(icmp, np.where(answer == NO_ANSWER, icmp_code, answer), flows["dst_port"])


def uids(flows: NDArray[np.void]) -> NDArray[np.bytes_]:
    """Make a uid of each flow's hosts, ports, protocol and beginning: the same for the same flow in every run."""
    mixed = np.zeros(len(flows), np.uint64)
    for name in (
        "src_hi",
        "src_lo",
        "dst_hi",
        "dst_lo",
        "src_port",
        "dst_port",
        "protocol",
        "icmp_type",
        "icmp_code",
        "first_us",
    ):
        mixed = _mix(mixed ^ flows[name].astype(np.uint64))
    letters = np.empty((len(flows), 1 + UID_DIGITS), np.uint8)
    letters[:, 0] = ord("C")
    for place in range(UID_DIGITS):
        if place == UID_DIGITS // 2:
            mixed = _mix(mixed)
        mixed, digit = np.divmod(mixed, np.uint64(len(LETTERS)))
        letters[:, 1 + place] = LETTERS[digit]
    return letters.view(f"S{1 + UID_DIGITS}")[:, 0]


def _mix(number: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread every bit over all others."""
    step, first, second = (np.uint64(mixer) for mixer in MIXERS)
    number = number + step
    number = (number ^ (number >> np.uint64(30))) * first
    number = (number ^ (number >> np.uint64(27))) * second
    return number ^ (number >> np.uint64(31))
