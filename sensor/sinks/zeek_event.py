r"""Events as Zeek's cluster sends them, in both its serialisers, written by hand: Zeek has no library for Python.

An event is a vector of the protocol's version, a type number, and a vector of name and arguments. `broker-bin-v1` writes each
value as a tag byte and big-endian bytes, lengths as LEB128; `broker-json-v1` as an object of "@data-type" and "data". Zeek
converts nothing: where a script says double, a count is refused, so each argument has its type here. Frames that a real Zeek
sent are the truth in the tests. `sinks.zeek` calls `event`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from sensor.addresses import halves
from sensor.sinks import zeek_log
from sensor.sinks.lines import raw

Serialiser: TypeAlias = Literal["broker-bin-v1", "broker-json-v1"]
"""How Zeek calls its two formats in a message's third part (`Cluster::event_serializer`)."""

PROTOCOL_VERSION, EVENT = 1, 1
"""The first two numbers of every message that carries an event."""

TRANSPORTS = {"tcp": 1, "udp": 2, "icmp": 3, "icmp6": 3}
"""Transports of a Zeek port; 0 is unknown."""
TRANSPORT_TEXTS = ("?", "tcp", "udp", "icmp")

DIGITS = 9
"""Decimals of a real in JSON. Zeek itself writes 6, which would make small probabilities nothing."""


class Count(NamedTuple):
    """Zeek's count."""

    number: int


class Real(NamedTuple):
    """Zeek's double. What is not finite becomes 0: Zeek's JSON has no word for it, and its counts no value."""

    number: float


class Text(NamedTuple):
    r"""Zeek's string. In JSON, control characters and bytes that are no UTF-8 become the text \xHH, as in Zeek's own logs."""

    text: str


class Address(NamedTuple):
    """Zeek's addr."""

    text: str


class Port(NamedTuple):
    """Zeek's port: a number and the transport, by netseq's word for it."""

    number: int
    transport: str


class Vector(NamedTuple):
    """Zeek's vector, and its records."""

    values: Sequence[Value]


Value: TypeAlias = Count | Real | Text | Address | Port | Vector


def event(name: str, arguments: Sequence[Value], serialiser: Serialiser) -> bytes:
    """Write the event `name` as the last part of a message. Raises ValueError for an address that is none."""
    whole = Vector((Count(PROTOCOL_VERSION), Count(EVENT), Vector((Text(name), Vector(arguments)))))
    return _binary(whole) if serialiser == "broker-bin-v1" else msgspec.json.encode(_plain(whole))


def varbyte(number: int) -> bytes:
    """Write a length as LEB128: seven bits a byte, the lowest first."""
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


def _binary(value: Value) -> bytes:
    """Write a value in broker-bin-v1: its tag, then itself."""
    match value:
        case Count(number):
            return struct.pack("!BQ", 0x02, number)
        case Real(real):
            return struct.pack("!Bd", 0x04, _finite(real))
        case Text(text):
            data = raw(text)
            return b"\x05" + varbyte(len(data)) + data
        case Address(text):
            return struct.pack("!BQQ", 0x06, *halves(text))
        case Port(number, transport):
            return struct.pack("!BHB", 0x08, number, TRANSPORTS.get(transport, 0))
        case Vector(values):
            return b"\x0e" + varbyte(len(values)) + b"".join(map(_binary, values))


def _plain(value: Value) -> dict[str, object]:
    """Give what a value's JSON is in broker-json-v1."""
    data: object
    match value:
        case Count(number):
            kind, data = "count", number
        case Real(real):
            # Zeek's reader takes a number without a point for an integer, and refuses it.
            kind, data = "real", msgspec.Raw(f"{_finite(real):.{DIGITS}f}".encode())
        case Text(text):
            kind, data = "string", zeek_log.json(text, "string")
        case Address(text):
            halves(text)
            kind, data = "address", text
        case Port(number, transport):
            kind, data = "port", f"{number}/{TRANSPORT_TEXTS[TRANSPORTS.get(transport, 0)]}"
        case Vector(values):
            kind, data = "vector", [_plain(element) for element in values]
    return {"@data-type": kind, "data": data}


def _finite(number: float) -> float:
    return number if math.isfinite(number) else 0.0
