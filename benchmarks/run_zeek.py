"""Connections a second from a running Zeek over ZeroMQ to FLOW rows, on one core, by each road and form.

A process on another core is Zeek: it sends generated connections (those of `run_zeek_files`) over real sockets, as our Zeek
package publishes them (binary and JSON), as to_json() writes them, as batches to a logger, and as the writer's lines. The
reading process's CPU seconds count whole, with ZeroMQ's own thread, the one that empties the socket
and the one that makes flows. Nothing may be dropped or skipped. Prints one JSON object.
"""

from __future__ import annotations

import itertools
import os
import socket as sockets
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import msgspec
import zmq

from benchmarks.measure import Spread
from benchmarks.run_zeek_files import Row, nested, rows
from sensor.kernels import prepare_cache

EVENTS = 100_000
RUNS = 5
BATCH = 200
"""Lines of a batch: Zeek sends what a second brings, and at most 1,000."""
MADE = 10_000
"""Different connections; they are sent in turn."""

Road = Literal["zeromq", "zeromq-log", "zeromq-writer"]
COUNTS = ("orig_bytes", "resp_bytes", "orig_pkts", "orig_ip_bytes", "resp_pkts", "resp_ip_bytes")
TYPES = {
    "ts": 5,
    "duration": 6,
    "uid": 7,
    "conn_state": 7,
    "history": 7,
    "service": 7,
    "proto": 9,
    "ip_proto": 3,
} | dict.fromkeys(COUNTS, 3)


class Told(msgspec.Struct):
    """What this program prints."""

    connections: int
    load: float
    """One minute's load average of the machine before the first measurement."""
    per_second: dict[str, Spread]


def packed_address(row: Row, name: str) -> bytes:
    """Sixteen bytes of an address."""
    text = str(row[name])
    if ":" in text:
        return sockets.inet_pton(sockets.AF_INET6, text)
    return b"\0" * 10 + b"\xff\xff" + sockets.inet_pton(sockets.AF_INET, text)


def string(text: object) -> bytes:
    """A short string in broker-bin-v1."""
    raw = str(text).encode()
    return bytes([5, len(raw)]) + raw


def count(value: object) -> bytes:
    """A count in broker-bin-v1, none where there is no value."""
    return b"\0" if value is None else struct.pack(">BQ", 2, int(str(value)))


def real(value: object) -> bytes:
    """A real in broker-bin-v1, none where there is no value."""
    return b"\0" if value is None else struct.pack(">Bd", 4, float(str(value)))


def event(name: str, argument: bytes) -> bytes:
    """An event with one argument in broker-bin-v1."""
    head = b"\x0e\x03" + count(1) + count(1)
    return head + b"\x0e\x02" + string(name) + b"\x0e\x01" + argument


def binary(row: Row) -> bytes:
    """NetSeq::conn in broker-bin-v1."""
    protocol = 2 if row["proto"] == "udp" else 1
    key = b"".join(
        b"\x06" + packed_address(row, f"id.{side}_h") + struct.pack(">BHB", 8, int(str(row[f"id.{side}_p"])), protocol)
        for side in ("orig", "resp")
    )
    raw = str(row["proto"]).encode()
    head = real(row["ts"]) + string(row["uid"]) + key + bytes([0x0B, len(raw)]) + raw + count(row["ip_proto"])
    values = [real(row.get("duration")), *(count(row.get(name)) for name in COUNTS)]
    return event("NetSeq::conn", b"\x0e\x10" + head + string(row["conn_state"]) + b"".join(values))


def as_text(row: Row) -> bytes:
    """NetSeq::conn_json in broker-bin-v1."""
    raw = msgspec.json.encode(nested(row))
    return event("NetSeq::conn_json", b"\x05" + bytes([len(raw) & 127 | 128, len(raw) >> 7]) + raw)


def as_json(row: Row) -> bytes:
    """NetSeq::conn in broker-json-v1."""
    protocol = row["proto"]

    def told(kind: str, value: object) -> str:
        if value is None:
            return '{"@data-type":"none","data":{}}'
        data = f"{float(str(value)):f}" if kind == "real" else str(value) if kind == "count" else f'"{value}"'
        return f'{{"@data-type":"{kind}","data":{data}}}'

    fields = [told("real", row["ts"]), told("string", row["uid"])]
    for side in ("orig", "resp"):
        fields += [told("address", row[f"id.{side}_h"]), told("port", f"{row[f'id.{side}_p']}/{protocol}")]
    fields += [told("enum-value", protocol), told("count", row["ip_proto"]), told("string", row["conn_state"])]
    fields += [told("real", row.get("duration")), *(told("count", row.get(name)) for name in COUNTS)]
    vector = '{"@data-type":"vector","data":['
    inner = f"{vector}{told('string', 'NetSeq::conn')},{vector}{vector}{','.join(fields)}]}}]}}]}}"
    return f"{vector}{told('count', 1)},{told('count', 1)},{inner}]}}".encode()


def batch(lines: list[Row]) -> bytes:
    """A batch of lines in zeek-bin-serializer."""
    keys = ("id.orig_h", "id.orig_p", "id.resp_h", "id.resp_p")
    names = ("ts", "uid", *keys, "proto", "service", "duration", "conn_state", "history", "ip_proto", *COUNTS)
    types = TYPES | {"id.orig_h": 11, "id.resp_h": 11, "id.orig_p": 10, "id.resp_p": 10}
    out = bytearray()
    for text in ("Conn::LOG", "Log::WRITER_ASCII", "default", "conn"):
        out += struct.pack(">I", len(text)) + text.encode()
    out += struct.pack(">I", len(names))
    for name in names:
        out += b"\0" + struct.pack(">I", len(name)) + name.encode() + struct.pack(">iib", types[name], 0, 1)
    out += struct.pack(">I", len(lines))
    for row in lines:
        for name in names:
            value, kind = row.get(name), types[name]
            out += struct.pack(">iib", kind, kind, value is not None)
            if value is None:
                continue
            if kind in (5, 6):
                out += struct.pack(">d", value)
            elif kind in (7, 9):
                out += struct.pack(">I", len(str(value))) + str(value).encode()
            elif kind == 3:
                out += struct.pack(">Q", value)
            elif kind == 10:
                out += struct.pack(">QI", value, 2 if row["proto"] == "udp" else 1)
            else:
                six = packed_address(row, name)
                out += b"\x06" + six if ":" in str(value) else b"\x04" + six[12:]
    return bytes(out)


class Form(NamedTuple):
    """One way in which connections come."""

    road: Road
    serialiser: str
    payload: Callable[[Row], bytes] | None
    """None: in batches."""

    def messages(self) -> list[list[bytes]]:
        """Every different message once."""
        made = list(rows(MADE))
        if self.payload is None:
            head = [b"log-write", b"zeromq_node", self.serialiser.encode()]
            return [[*head, batch(made[begin : begin + BATCH])] for begin in range(0, MADE, BATCH)]
        if self.road == "zeromq-writer":
            return [[b"conn", self.payload(row)] for row in made]
        return [[b"netseq.conn.", b"zeromq_node", self.serialiser.encode(), self.payload(row)] for row in made]


FORMS = {
    "events, binary": Form("zeromq", "broker-bin-v1", binary),
    "events, to_json() in binary": Form("zeromq", "broker-bin-v1", as_text),
    "events, JSON": Form("zeromq", "broker-json-v1", as_json),
    "log batches": Form("zeromq-log", "zeek-bin-serializer", None),
    "writer's lines": Form("zeromq-writer", "", msgspec.json.encode),
}


def send(form: Form, address: str, events: int) -> None:
    """Be Zeek: make messages, wait for a line on standard input, send."""
    messages = form.messages()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.PUSH if form.road == "zeromq-log" else zmq.XPUB)
    if form.road == "zeromq":
        socket.setsockopt(zmq.XPUB_NODROP, 1)
        socket.bind("tcp://127.0.0.1:*")
        print(socket.get_string(zmq.LAST_ENDPOINT), flush=True)
        socket.recv()
    else:
        if form.road == "zeromq-writer":
            socket.setsockopt(zmq.XPUB_NODROP, 1)
        socket.connect(address)
        if form.road == "zeromq-writer":
            socket.recv()
        print("ready", flush=True)
    each = BATCH if form.payload is None else 1
    for _ in sys.stdin:
        for parts in itertools.islice(itertools.cycle(messages), events // each):
            socket.send_multipart(parts)
    context.destroy(linger=0)


def read(name: str, events: int, runs: int) -> Iterator[float]:
    """Yield connections per CPU second of this process in each of `runs`, after one that is not told. Raises ValueError."""
    from sensor.sources.zeek_source import ZeekSource  # noqa: PLC0415  # kernels are imported after their cache folder is chosen

    form = FORMS[name]
    settings = {"tell": lambda event, line: None, "queue_bytes": 1 << 32}
    if form.road == "zeromq":
        settings |= {"serialiser": form.serialiser}
    source = None if form.road == "zeromq" else ZeekSource(form.road, address="tcp://127.0.0.1:*", **settings)  # type: ignore[arg-type]
    command = [sys.executable, "-m", "benchmarks.run_zeek", "--send", name, source.address if source else "", str(events)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as zeek:
        if zeek.stdin is None or zeek.stdout is None:
            raise ValueError("no pipes")
        address = zeek.stdout.readline().strip()
        source = source or ZeekSource("zeromq", address=address, **settings)  # type: ignore[arg-type]
        for turn in range(runs + 1):
            begun_s = time.process_time()
            zeek.stdin.write("\n")
            zeek.stdin.flush()
            got = 0
            for ended in source:
                got += len(ended.flows)
                if got >= events:
                    break
            spent_s = time.process_time() - begun_s
            if turn:
                yield events / spent_s
        zeek.stdin.close()
        lost = {name: number for name, number in source.counters().items() if "skipped" in name or "dropped" in name}
        if any(lost.values()):
            raise ValueError(f"{name}: {lost}")
    source.close()


def measured(events: int = EVENTS, runs: int = RUNS) -> Told:
    """Read every form in its turn."""
    load = os.getloadavg()[0]
    return Told(events, load, {name: Spread.of(list(read(name, events, runs))) for name in FORMS})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--send"]:
        send(FORMS[sys.argv[2]], sys.argv[3], int(sys.argv[4]))
    else:
        prepare_cache()
        few = sys.argv[1:2] == ["--quick"]
        told = measured(10_000, 1) if few else measured()
        sys.stdout.buffer.write(msgspec.json.encode(told))
