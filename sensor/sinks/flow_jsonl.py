"""Flows as JSON lines, one object each: numbers as numbers, null for what a source does not tell.

JSON has no word for infinity, which only a table of another tool brings along: it is null, too.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from sensor.row_text import JSON, NUMBER, WHOLE, Cell, Form, RowText, Values
from sensor.sinks.flow_field import Field, Stamps, once, stamped
from sensor.sinks.lines import ByteStream, Lines

KINDS = {"integer": WHOLE, "real": NUMBER, "text": JSON, "time": JSON}


class FlowJsonLines:
    """Writes one object a row to an unbuffered binary stream; `stamps` writes times, `name` is for messages.

    Keys are the fields' headers without blanks around them; of two equal ones, the first counts.
    """

    def __init__(self, stream: ByteStream, fields: Sequence[Field], *, stamps: Stamps, name: str) -> None:
        self._lines = Lines(stream, name, "flows")
        self._fields = fields
        self._stamps = stamps
        self._places = once(fields)
        cells: list[Cell] = []
        for place in self._places:
            key = msgspec.json.encode(fields[place].header.strip())
            cells.append(Cell((b"," if cells else b"{") + key + b":", KINDS[fields[place].kind]))
        self._rows = RowText(cells, Form(end=b"}\n", missing=b"null", infinite=False))

    def write(self, columns: Sequence[Values]) -> None:
        """Write a batch, one array for each field. Raises SinkFailed, after which only whole lines are in a file."""
        texts = [
            stamped(columns[place], self._stamps) if self._fields[place].kind == "time" else columns[place]
            for place in self._places
        ]
        for piece in self._rows.lines(texts):
            self._lines.write(piece)

    def close(self) -> None:
        """Finish the file: nothing to do, for JSON lines have no end."""
