"""Zeek's values in broker-bin-v1 and broker-json-v1, written and read in plain Python: a second opinion for tests.

Types that Python has not got are small classes of their own. Reading is strict: what Zeek would refuse raises ValueError.
"""

from __future__ import annotations

import json
import re
import struct
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address
from typing import Any, NamedTuple

PROTOCOLS = ("?", "tcp", "udp", "icmp")
NONE, BOOL, COUNT, INTEGER, REAL, STRING, ADDRESS, SUBNET, PORT, TIMESTAMP, TIMESPAN, ENUM, SET, TABLE, VECTOR = range(15)


class Port(NamedTuple):
    number: int
    protocol: str = "tcp"


class Count(int):
    """A number that is never negative; a plain int is Zeek's int."""


class Enum(str):
    """A name of an enumeration."""

    __slots__ = ()


class Stamp(int):
    """A time, in ns."""


class Span(int):
    """An interval, in ns."""


def varbyte(number: int) -> bytes:
    out = bytearray()
    while number >= 128:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def encode(value: Any) -> bytes:
    """A value in broker-bin-v1."""
    if value is None:
        return b"\x00"
    if isinstance(value, Port):
        return struct.pack(">BHB", PORT, value.number, PROTOCOLS.index(value.protocol))
    for kind, tag, form in (
        (bool, BOOL, ">BB"), (Count, COUNT, ">BQ"), (Stamp, TIMESTAMP, ">Bq"), (Span, TIMESPAN, ">Bq"), (int, INTEGER, ">Bq"),
        (float, REAL, ">Bd"),
    ):  # fmt: skip
        if isinstance(value, kind):
            return struct.pack(form, tag, value)
    if isinstance(value, str | bytes):
        raw = value.encode() if isinstance(value, str) else value
        return bytes([ENUM if isinstance(value, Enum) else STRING]) + varbyte(len(raw)) + raw
    if isinstance(value, IPv4Address):
        return bytes([ADDRESS]) + b"\x00" * 10 + b"\xff\xff" + value.packed
    if isinstance(value, IPv6Address):
        return bytes([ADDRESS]) + value.packed
    if isinstance(value, dict):
        pairs = b"".join(encode(key) + encode(held) for key, held in value.items())
        return bytes([TABLE]) + varbyte(len(value)) + pairs
    tag = SET if isinstance(value, set | frozenset) else VECTOR
    return bytes([tag]) + varbyte(len(value)) + b"".join(map(encode, value))


class _Reader:
    """Takes bytes from the front; ValueError where there are too few."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise ValueError("ends in the middle of a value")
        self.at += size
        return self.data[self.at - size : self.at]

    def length(self) -> int:
        value = shift = 0
        while True:
            (byte,) = self.take(1)
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def value(self) -> Any:
        (tag,) = self.take(1)
        if tag in (VECTOR, SET, TABLE):
            held = [self.value() for _ in range(self.length() * (2 if tag == TABLE else 1))]
            if tag == TABLE:
                return dict(zip(held[::2], held[1::2], strict=True))
            return held if tag == VECTOR else frozenset(held)
        if tag in (STRING, ENUM):
            text = self.take(self.length())
            return Enum(text.decode()) if tag == ENUM else text.decode("utf-8", "surrogateescape")
        if tag == NONE:
            return None
        if tag == ADDRESS:
            packed = self.take(16)
            return IPv4Address(packed[12:]) if packed[:12] == b"\x00" * 10 + b"\xff\xff" else IPv6Address(packed)
        if tag == PORT:
            number, protocol = struct.unpack(">HB", self.take(3))
            return Port(number, PROTOCOLS[protocol])
        forms = {BOOL: ("B", bool), COUNT: ("Q", Count), INTEGER: ("q", int), REAL: ("d", float)}
        forms |= {TIMESTAMP: ("q", Stamp), TIMESPAN: ("q", Span)}
        if tag not in forms:
            raise ValueError(f"no type has the number {tag}")
        form, kind = forms[tag]
        return kind(struct.unpack(f">{form}", self.take(struct.calcsize(f">{form}")))[0])


def decode(data: bytes) -> Any:
    """The value of which `data` is all in broker-bin-v1."""
    reader = _Reader(data)
    value = reader.value()
    if reader.at != len(data):
        raise ValueError(f"{len(data) - reader.at} bytes too many")
    return value


_ESCAPES = {"\\": "\\\\", '"': '\\"', "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}


def _quoted(text: str) -> str:
    return f'"{"".join(_ESCAPES.get(sign, sign) for sign in text)}"'


def encode_json(value: Any) -> bytes:
    """A value in broker-json-v1, as Zeek prints it: reals with six digits, times with milliseconds, what is not escaped raw."""
    return _json(value).encode("utf-8", "surrogateescape")


def _json(value: Any) -> str:
    def told(kind: str, data: str) -> str:
        return f'{{"@data-type":"{kind}","data":{data}}}'

    if value is None:
        return told("none", "{}")
    if isinstance(value, Port):
        return told("port", f'"{value.number}/{value.protocol}"')
    if isinstance(value, bool):
        return told("boolean", "true" if value else "false")
    if isinstance(value, Stamp):
        ms = value // 1_000_000
        return told("timestamp", f'"{datetime.fromtimestamp(ms // 1000, UTC):%Y-%m-%dT%H:%M:%S}.{ms % 1000:03}"')
    if isinstance(value, Span):
        return told("timespan", f'"{int(value)}ns"')
    if isinstance(value, int):
        return told("count" if isinstance(value, Count) else "integer", str(int(value)))
    if isinstance(value, float):
        return told("real", f"{value:f}")
    if isinstance(value, str):
        return told("enum-value" if isinstance(value, Enum) else "string", _quoted(value))
    if isinstance(value, IPv4Address | IPv6Address):
        return told("address", f'"{value}"')
    if isinstance(value, dict):
        pairs = (f'{{"key":{_json(key)},"value":{_json(held)}}}' for key, held in value.items())
        return told("table", f"[{','.join(pairs)}]")
    return told("set" if isinstance(value, set | frozenset) else "vector", f"[{','.join(map(_json, value))}]")


_UNITS_NS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "min": 60 * 10**9, "h": 3600 * 10**9, "d": 86_400 * 10**9}


def decode_json(data: bytes) -> Any:
    """The value that `data` is in broker-json-v1; ValueError where Zeek would refuse it."""
    return _read_json(json.loads(data))


def _read_json(held: Any) -> Any:
    if not isinstance(held, dict) or held.keys() != {"@data-type", "data"}:
        raise ValueError(f"no value: {held!r}")
    kind, data = held["@data-type"], held["data"]
    if kind in ("vector", "set"):
        values = [_read_json(one) for one in data]
        return values if kind == "vector" else frozenset(values)
    if kind == "table":
        return {_read_json(pair["key"]): _read_json(pair["value"]) for pair in data}
    if kind == "none":
        return None
    native: dict[str, tuple[type, ...]] = {"boolean": (bool,), "count": (int,), "integer": (int,), "real": (int, float)}
    sound = isinstance(data, native.get(kind, (str,))) and (not isinstance(data, bool) or kind == "boolean")
    if not sound or (kind == "count" and data < 0):
        raise ValueError(f"no {kind}: {data!r}")
    if kind == "port":
        number, _, protocol = data.partition("/")
        return Port(int(number), protocol)
    if kind == "address":
        return IPv6Address(data) if ":" in data else IPv4Address(data)
    if kind == "timestamp":
        if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}", data):
            raise ValueError(f"no timestamp: {data!r}")
        moment = datetime.fromisoformat(f"{data}+00:00")
        return Stamp(round(moment.timestamp() * 1000) * 1_000_000)
    if kind == "timespan":
        found = re.fullmatch(r"(-?\d+)(ns|us|ms|s|min|h|d)", data)
        if not found:
            raise ValueError(f"no timespan: {data!r}")
        return Span(int(found[1]) * _UNITS_NS[found[2]])
    kinds = {"boolean": bool, "count": Count, "integer": int, "real": float, "string": str, "enum-value": Enum}
    if kind not in kinds:
        raise ValueError(f"no type is called {kind!r}")
    return kinds[kind](data)


def event(name: str, args: list[Any], serialiser: str = "broker-bin-v1", metadata: list[Any] | None = None) -> bytes:
    """A payload that is an event."""
    inner = [name, args] if metadata is None else [name, args, metadata]
    return (encode if serialiser == "broker-bin-v1" else encode_json)([Count(1), Count(1), inner])


def event_of(payload: bytes, serialiser: str) -> tuple[str, list[Any], list[Any]]:
    """Name, arguments and metadata of an event; ValueError for what Zeek would refuse."""
    if serialiser not in ("broker-bin-v1", "broker-json-v1"):
        raise ValueError(f"no serialiser is called {serialiser!r}")
    value = decode(payload) if serialiser == "broker-bin-v1" else decode_json(payload)
    try:
        protocol, kind, inner = value
        name, args, *metadata = inner
    except (TypeError, ValueError) as wrong:
        raise ValueError(f"no event: {value!r}") from wrong
    if (protocol, kind) != (1, 1) or not (isinstance(protocol, Count) and isinstance(kind, Count)):
        raise ValueError(f"no event: {value!r}")
    if type(name) is not str or not isinstance(args, list) or len(metadata) > 1:
        raise ValueError(f"no event: {value!r}")
    return name, args, metadata[0] if metadata else []
