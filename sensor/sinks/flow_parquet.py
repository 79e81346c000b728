"""Flows as Parquet: typed columns, so that a table of millions of flows is read in a moment and nothing has to be guessed.

Integers are int64, reals double, times timestamps in UTC; what a source does not tell is null. Rows gather until they are
worth a row group, which is encoded in a thread while the next one gathers: that is a third of all the work, and pyarrow
releases the GIL for it. The command opens the stream and gives the file its name when it is whole, for a Parquet file
without its end cannot be read. pyarrow comes with the extra `parquet`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sensor.kernels import loop
from sensor.row_text import MISSING, Values
from sensor.sinks.flow_field import Field, once
from sensor.sinks.lines import SinkFailed

GROUP_ROWS = 32_768
"""Rows of a group: 30 MB of a hundred columns, of which two are held, and few enough groups that their heads cost nothing."""

TYPES = {"integer": pa.int64(), "real": pa.float64(), "text": pa.string(), "time": pa.timestamp("us", tz="UTC")}


class FlowParquet:
    """Writes rows to a binary stream; `name` is for messages. Of two fields with equal headers, the first counts.

    The stream must take all bytes of a write, as a buffered one does. Raises SinkFailed.
    """

    def __init__(self, stream: BinaryIO, fields: Sequence[Field], *, name: str) -> None:
        self._fields, self._stream, self._name = fields, stream, name
        self._places = once(fields)
        self._schema = pa.schema([(fields[place].header.strip(), TYPES[fields[place].kind]) for place in self._places])
        texts = [field.name for field in self._schema if pa.types.is_string(field.type)]
        self._waiting: list[pa.RecordBatch] = []
        self._rows = 0
        self._encoder = ThreadPoolExecutor(1, "parquet")
        self._encoding: Future[None] | None = None
        with self._told():
            self._writer = pq.ParquetWriter(stream, self._schema, compression="lz4", use_dictionary=texts)

    def write(self, columns: Sequence[Values]) -> None:
        """Take a batch, one array for each field. Raises SinkFailed."""
        arrays = [_array(columns[place], self._fields[place]) for place in self._places]
        self._waiting.append(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
        self._rows += len(columns[0])
        if self._rows >= GROUP_ROWS:
            self._flush()

    def close(self) -> None:
        """Write what waits, and the file's end. Raises SinkFailed."""
        if self._rows:
            self._flush()
        self._settle()
        with self._told():
            self._writer.close()
            self._stream.flush()

    def abandon(self) -> None:
        """Let go of the stream without writing the file's end, which the writer else does as late as it is forgotten."""
        self._encoder.shutdown()
        self._writer.is_open = False

    def _flush(self) -> None:
        """Have what waits encoded, once the group before is."""
        self._settle()
        group = pa.Table.from_batches(self._waiting, self._schema)
        self._encoding = self._encoder.submit(self._writer.write_table, group, row_group_size=self._rows)
        self._waiting, self._rows = [], 0

    def _settle(self) -> None:
        """Wait until the group before is written. Raises SinkFailed."""
        if self._encoding is not None:
            with self._told():
                self._encoding.result()
        self._encoding = None

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what the stream raises into SinkFailed."""
        try:
            yield
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise SinkFailed(f"cannot write flows to {self._name}: {reason}; nothing was kept of it") from error


def _array(values: Values, field: Field) -> pa.Array:
    """A column as Arrow has it, null for what is missing."""
    if field.kind == "text":
        return _texts(values)
    if field.kind == "time":
        return pa.array(np.ascontiguousarray(values, np.int64).view("datetime64[us]"), TYPES["time"], mask=values == MISSING)
    if values.dtype.kind == "f":
        missing = np.isnan(values)
        mask = missing if missing.any() else None
        if field.kind == "integer":
            values = np.where(missing, 0, values).astype(np.int64)
        return pa.array(values, TYPES[field.kind], mask=mask)
    return pa.array(values.astype(np.float64) if field.kind == "real" else values, TYPES[field.kind])


def _texts(values: Values) -> pa.Array:
    """Texts of one width each as Arrow has them, one behind the other; an empty one is null."""
    width = values.dtype.itemsize
    rows = np.ascontiguousarray(values).view(np.uint8).reshape(len(values), width)
    ends = np.zeros(len(rows) + 1, np.int32)
    data = np.empty(rows.size, np.uint8)
    used = _pack(rows, ends, data)
    empty = np.diff(ends) == 0
    told = pa.py_buffer(np.packbits(~empty, bitorder="little")) if empty.any() else None
    return pa.StringArray.from_buffers(len(rows), pa.py_buffer(ends), pa.py_buffer(data[:used]), told)


@loop
def _pack(rows: NDArray[np.uint8], ends: NDArray[np.int32], data: NDArray[np.uint8]) -> int:
    """Copy each row without the zeros behind it into `data`, and write down where it ends; returns the bytes copied."""
    at = 0
    for number in range(len(rows)):
        size = rows.shape[1]
        while size and rows[number, size - 1] == 0:
            size -= 1
        for place in range(size):
            data[at + place] = rows[number, place]
        at += size
        ends[number + 1] = at
    return at
