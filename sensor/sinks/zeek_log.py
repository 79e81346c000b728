r"""How Zeek writes a log, in both its forms: what its notice.log and its conn.log have in common.

The conventions are those of Zeek's ASCII and JSON writers (8.1), byte for byte: in the tab-separated form a header that
names separators, fields and types, `-` for what is not set, `(empty)`, times with six decimals, \xHH for what cannot stand
for itself, and a last line #close; in JSON, flat names, times as doubles, and no field for what is not set. The sinks `notice`
and `conn_log` say which fields there are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime

from sensor.sinks.lines import raw

UNSET, EMPTY = "-", "(empty)"

ESCAPED = re.compile(rb"[\x00-\x1f\x7f\\]")
JSON_ESCAPED = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\x7f]")
"""Control characters that JSON has a letter for (b, t, n, f, r) keep it; Zeek writes the others as the text \\xHH."""

Value = str | int | float | tuple[str, ...]
"""A field's value; Zeek's addr, port, enum and count are plain text and numbers, its sets are tuples."""


def header(path: str, fields: Iterable[tuple[str, str]], opened: datetime) -> bytes:
    """Give the lines that stand before the first row of the tab-separated form; `fields` are names with their types."""
    names, kinds = zip(*fields, strict=True)
    lines = (
        "#separator \\x09",
        "#set_separator\t,",
        f"#empty_field\t{EMPTY}",
        f"#unset_field\t{UNSET}",
        f"#path\t{path}",
        f"#open\t{opened:%Y-%m-%d-%H-%M-%S}",
        "\t".join(("#fields", *names)),
        "\t".join(("#types", *kinds)),
    )
    return "".join(f"{line}\n" for line in lines).encode()


def closing(closed: datetime) -> bytes:
    """Give the line that stands behind the last row of the tab-separated form."""
    return f"#close\t{closed:%Y-%m-%d-%H-%M-%S}\n".encode()


def seconds(time_us: int) -> str:
    """Write microseconds as seconds with six decimals, in whole numbers all the way: a double would round."""
    whole, rest = divmod(abs(time_us), 1_000_000)
    return f"{'-' if time_us < 0 else ''}{whole}.{rest:06d}"


def tsv(value: Value | None, kind: str) -> bytes:
    """Write one field of the tab-separated form."""
    if value is None:
        return UNSET.encode()
    if isinstance(value, tuple):
        return b",".join(escape(element, in_set=True) for element in value) or EMPTY.encode()
    if isinstance(value, str):
        return escape(value)
    return (seconds(int(value)) if kind in {"time", "interval"} else str(value)).encode()


def escape(text: str, *, in_set: bool = False) -> bytes:
    r"""Write a string as Zeek does: valid UTF-8 as it is, other bytes and control characters as \xHH, a backslash doubled.

    A string that looks like the mark for unset or empty has its first byte written as \xHH; inside a set the comma, too.
    """
    if text == "":
        return EMPTY.encode()
    if text in {UNSET, EMPTY}:
        return f"\\x{ord(text[0]):02x}{text[1:]}".encode()
    escaped = ESCAPED.sub(lambda found: b"\\\\" if found[0] == b"\\" else b"\\x%02x" % found[0][0], raw(text))
    escaped = escaped.decode("utf-8", "backslashreplace").encode()
    return escaped.replace(b",", b"\\x2c") if in_set else escaped


def json(value: Value, kind: str) -> Value:
    """Give one field as the JSON form has it: times in seconds, strings without what JSON has no short escape for."""
    if isinstance(value, str):
        text = raw(value).decode("utf-8", "backslashreplace")
        return JSON_ESCAPED.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
    if kind in {"time", "interval"} and isinstance(value, int):
        return value / 1e6
    return value
