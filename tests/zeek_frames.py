"""Zeek's events, read by a reader of the tests' own, and the frames that a real Zeek sent: the truth for what is sent to it."""

from __future__ import annotations

import ipaddress
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FIXED = {1: "?", 2: "Q", 3: "q", 4: "d", 6: "16s", 7: "16sB", 8: "HB", 9: "q", 10: "q"}
"""struct's letters for the tags of broker-bin-v1 whose values have one length."""
KINDS = ("none", "boolean", "count", "integer", "real", "string", "address", "subnet", "port", "timestamp", "timespan")


def frames(path: Path) -> Iterator[list[bytes]]:
    """Yield the messages of a frames.bin, each as its parts."""
    data = path.read_bytes()
    place = 0
    while place < len(data):
        (parts,) = struct.unpack_from("!I", data, place)
        place += 4
        message = []
        for _ in range(parts):
            (length,) = struct.unpack_from("!I", data, place)
            message.append(data[place + 4 : place + 4 + length])
            place += 4 + length
        yield message


def decode(data: bytes, serialiser: bytes) -> Any:
    """Read a payload as (kind, value) pairs; every byte must be used."""
    if serialiser == b"broker-json-v1":
        return _plain(json.loads(data))
    value, end = _binary(data, 0)
    assert end == len(data)
    return value


def _binary(data: bytes, place: int) -> tuple[Any, int]:
    tag = data[place]
    place += 1
    if tag in FIXED:
        values = struct.unpack_from("!" + FIXED[tag], data, place)
        place += struct.calcsize("!" + FIXED[tag])
        if tag == 6:
            address = ipaddress.IPv6Address(values[0])
            return ("address", str(address.ipv4_mapped or address)), place
        if tag == 8:
            return ("port", f"{values[0]}/{('?', 'tcp', 'udp', 'icmp')[values[1]]}"), place
        return (KINDS[tag], values[0]), place
    if tag == 0:
        return ("none", None), place
    length, place = _length(data, place)
    if tag in {5, 11}:
        assert place + length <= len(data)
        return ("string" if tag == 5 else "enum-value", data[place : place + length].decode()), place + length
    assert tag == 14, f"tag {tag}"
    values_read = []
    for _ in range(length):
        value, place = _binary(data, place)
        values_read.append(value)
    return ("vector", values_read), place


def _length(data: bytes, place: int) -> tuple[int, int]:
    length = shift = 0
    while True:
        byte = data[place]
        place += 1
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return length, place


def _plain(value: dict[str, Any]) -> Any:
    kind: str = value["@data-type"]
    data: Any = value.get("data")
    if kind == "vector":
        return "vector", [_plain(element) for element in data]
    if kind == "real":
        assert isinstance(data, float), "Zeek takes a number without a point for an integer"
    return kind, str(ipaddress.ip_address(data)) if kind == "address" else data


def event(data: bytes, serialiser: bytes) -> tuple[str, list[tuple[str, Any]]]:
    """Read an event's name and arguments, and check what stands around them."""
    kind, outer = decode(data, serialiser)
    assert kind == "vector"
    assert outer[:2] == [("count", 1), ("count", 1)]
    assert outer[2][0] == "vector"
    (_, name), (_, arguments) = outer[2][1][:2]
    return name, arguments
