"""Flows as CSV, with the header of any CICFlowMeter or netseq's own; blocks of whole rows, each written by one call.

Numbers have the fewest digits that read back the same; what a source does not tell is an empty cell; infinity, which only
a table of another tool brings along, is "Infinity" as there.
"""

from __future__ import annotations

from collections.abc import Sequence

from sensor.row_text import NUMBER, QUOTED, WHOLE, Cell, Form, RowText, Values
from sensor.sinks.flow_field import Field, Stamps, stamped
from sensor.sinks.lines import ByteStream, Lines

KINDS = {"integer": WHOLE, "real": NUMBER, "text": QUOTED, "time": QUOTED}


class FlowCsv:
    """Writes rows under a header line to an unbuffered binary stream; `stamps` writes times, `name` is for messages.

    Raises SinkFailed when the header cannot be written.
    """

    def __init__(self, stream: ByteStream, fields: Sequence[Field], *, stamps: Stamps, name: str) -> None:
        self._lines = Lines(stream, name, "flows")
        self._fields = fields
        self._stamps = stamps
        self._rows = RowText([Cell(b"," * (place > 0), KINDS[field.kind]) for place, field in enumerate(fields)], Form())
        self._lines.write(",".join(field.header for field in fields).encode() + b"\n")

    def write(self, columns: Sequence[Values]) -> None:
        """Write a batch, one array for each field. Raises SinkFailed, after which only whole rows are in a file."""
        texts = [
            stamped(column, self._stamps) if field.kind == "time" else column
            for field, column in zip(self._fields, columns, strict=True)
        ]
        for piece in self._rows.lines(texts):
            self._lines.write(piece)

    def close(self) -> None:
        """Finish the file: nothing to do, for a CSV has no end."""
