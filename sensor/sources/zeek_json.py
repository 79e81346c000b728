"""Zeek's events in broker-json-v1: payloads to cells of a connection, or to the JSON text that an event carries.

The same tree as in `zeek_binary`, every value an object of its type and its data. msgspec checks the outer form; what a
record holds is then read by the same lists of fields as in binary. Zeek prints what it calls a time with milliseconds only,
which is why our package sends seconds as a number. Called by `zeek_messages`.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import msgspec

from sensor.sources.zeek_binary import CONN_FIELDS, FIELDS, FORM, ID_FIELDS, INFO_FIELDS, NAME, NESTED, OTHER, TRUNCATED, UNUSED
from sensor.sources.zeek_numbers import CONN_STATE, DURATION, NAMES, ORIG_H, ORIG_P, PROTO, RESP_H, RESP_P, TS, UID, UID_LIMIT
from sensor.sources.zeek_text import NEEDED

_TEXTS = (UID, ORIG_H, RESP_H, PROTO, CONN_STATE)
_PORT = re.compile(r"([0-9]{1,5})/[a-z?]+")
_SPAN = re.compile(r"(-?[0-9]+(?:\.[0-9]+)?)(ns|us|ms|s|min|h|d)")
_UNIT_S = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
_DATA = 40
"""Letters of a wrong value that a reason shows."""


class _Value(msgspec.Struct):
    """Any value: its type and what it holds."""

    kind: str = msgspec.field(name="@data-type")
    data: msgspec.Raw


class _Vector(msgspec.Struct):
    """A vector, its elements not looked at yet."""

    kind: str = msgspec.field(name="@data-type")
    data: list[_Value]


class NoEvent(Exception):  # noqa: N818  # reads as the sentence it is
    """A payload that gives no connection: `became` as `zeek_binary` numbers it, and str() says why."""

    def __init__(self, became: int, reason: str) -> None:
        super().__init__(reason)
        self.became = became


class Record(NamedTuple):
    """One event: the cells of a connection by their names in conn.log, or the text of an object in JSON."""

    cells: dict[str, Any]  # Any: text or numbers, as a column holds them
    text: bytes | None = None


_whole = msgspec.json.Decoder(_Vector).decode
_values = msgspec.json.Decoder(list[_Value]).decode
_string = msgspec.json.Decoder(str).decode
_any = msgspec.json.Decoder().decode


def read_event(payload: bytes) -> Record:
    """Read a payload in broker-json-v1. Raises NoEvent."""
    try:
        return _event(payload)
    except RecursionError as deep:
        raise NoEvent(FORM, "values are nested too deep") from deep
    except (msgspec.ValidationError, UnicodeError) as broken:
        raise NoEvent(FORM, f"it is no event in broker-json-v1: {broken}") from broken
    except msgspec.DecodeError as broken:
        raise NoEvent(TRUNCATED, f"it is no JSON: {broken}") from broken


def _event(payload: bytes) -> Record:
    outer = _whole(payload)
    kinds = [value.kind for value in outer.data]
    if outer.kind != "vector" or kinds != ["count", "count", "vector"]:
        raise NoEvent(FORM, "it is no event in broker-json-v1")
    if _any(outer.data[0].data) != 1 or _any(outer.data[1].data) != 1:
        raise NoEvent(OTHER, "it is no event")
    inner = _values(outer.data[2].data)
    if not 2 <= len(inner) <= 3 or inner[0].kind != "string" or inner[1].kind != "vector":  # with metadata or without
        raise NoEvent(FORM, "it is no event in broker-json-v1")
    name = _string(inner[0].data).encode()
    arguments = _values(inner[1].data)
    if name not in (NAME, NAME + b"_json", NAME + b"_rec"):
        raise NoEvent(OTHER, "another event")
    wanted = "string" if name == NAME + b"_json" else "vector"
    if not arguments or arguments[0].kind != wanted:
        raise NoEvent(FIELDS, f"its first argument is no {wanted}")
    if wanted == "string":
        return Record({}, _string(arguments[0].data).encode())
    cells: dict[str, Any] = {}
    _fill(cells, _values(arguments[0].data), CONN_FIELDS if name == NAME else INFO_FIELDS)
    lacking = [name for name in NEEDED if name not in cells]
    if lacking:
        raise NoEvent(FIELDS, f"no {', '.join(lacking)}")
    return Record(cells)


def _fill(cells: dict[str, Any], values: list[_Value], fields: tuple[int, ...]) -> None:
    """Put the values of a record under their names."""
    for field, value in zip(fields, values, strict=False):
        if field == NESTED and value.kind == "vector":
            _fill(cells, _values(value.data), ID_FIELDS)
        elif field != UNUSED and value.kind != "none":
            held = None if field == NESTED else _cell(field, _any(value.data))
            if held is None:
                told = NAMES[field] if field >= 0 else "id"
                raise NoEvent(FIELDS, f"{told} is a {value.kind[:_DATA]}, {bytes(value.data)[:_DATA]!r}")
            cells[NAMES[field]] = held


def _cell(field: int, held: Any) -> str | float | None:  # Any: what JSON holds
    """A value as a column holds it; None where it is none of the field's."""
    if field in _TEXTS:
        return held if isinstance(held, str) and len(held) <= UID_LIMIT else None
    if isinstance(held, bool) or (isinstance(held, int) and held.bit_length() > 64):  # no column could hold it
        return None
    if isinstance(held, str):
        if field in (ORIG_P, RESP_P):
            port = _PORT.fullmatch(held)
            return int(port[1]) if port is not None else None
        span = _SPAN.fullmatch(held) if field == DURATION else None
        if span is not None:
            return float(span[1]) * _UNIT_S[span[2]]
        return held if field == TS else None
    if field in (TS, DURATION):
        return float(held) if isinstance(held, int | float) else None
    return held if isinstance(held, int) else None
