"""From messages of Zeek's bus to flows: one reader for each road, all of them ending in the rules of `zeek_conns`.

A message is the list of its parts, as ZeroMQ hands it over. Readers take some hundreds at a time, so that columns are worth
converting, and give the flows in the order in which their messages came. Nothing that a message may hold is an error: what
cannot be read is counted by its reason in `Told`, the first ones with a line, and the rest is read on. Called by
`zeek_source`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.schema import FLOW, FlowBatch
from sensor.sources.columns import AddressBook, Columns
from sensor.sources.finished import flows_of
from sensor.sources.lines import Damages
from sensor.sources.zeek_batches import BatchReader, NoBatch
from sensor.sources.zeek_binary import MEANINGS, OTHER, READ, READ_JSON, REASONS, read_payloads
from sensor.sources.zeek_conns import connections
from sensor.sources.zeek_json import NoEvent, read_event
from sensor.sources.zeek_numbers import NAMES, UID, UID_BYTES, UID_LIMIT, NumberCells
from sensor.sources.zeek_text import read_json

Tell = Callable[[str, str], None]
Message = list[bytes]

BINARY, JSON = "broker-bin-v1", "broker-json-v1"
SERIALISERS = (BINARY, JSON)

EVENT_LIMIT = 1 << 20
"""Bytes of an event: a connection has some hundred, with all that scripts may add some thousand."""
TOLD = 3
"""Of each reason so many are told in full."""
LINE_LIMIT = 300
"""Signs of a line that tells one; what came over the network may be megabytes long."""

NO_FLOWS = FlowBatch(np.empty(0, FLOW), [])


class Told(Damages):
    """What could not be read: messages as wholes in `skipped`, rows in `counts`, the first of each reason told."""

    def __init__(self, tell: Tell) -> None:
        super().__init__()
        self.skipped: Counter[str] = Counter()
        self.other = 0
        """Messages of other logs and events."""
        self._tell = tell

    def add(self, kind: str, path: str, line: int, reason: str, *, once: bool = False) -> None:
        """Count a row; nothing is kept of it, as this goes on for months."""
        del path, line, once
        self.counts[kind] += 1
        if self.counts[kind] <= TOLD:
            self._tell("zeek_row_skipped", f"{kind}: {reason}"[:LINE_LIMIT])

    def skip(self, kind: str, reason: str) -> None:
        """Count a message."""
        self.skipped[kind] += 1
        if self.skipped[kind] <= TOLD:
            self._tell("zeek_message_skipped", f"{kind}: {reason}"[:LINE_LIMIT])


class _Piece(NamedTuple):
    """Connections that were read in one go, each with the number of its message."""

    conns: NDArray[np.void]
    uids: NDArray[np.bytes_]
    numbers: NDArray[np.int64]


class Reader(ABC):
    """Reads the messages of one road."""

    def __init__(self, told: Told) -> None:
        self.serialiser: str | None = None
        """What the latest message that could be read was in."""
        self._told = told
        self._book = AddressBook()

    def read(self, messages: Sequence[Message]) -> FlowBatch:
        """Flows of these messages, in their order."""
        pieces = [piece for piece in self._pieces(messages) if len(piece.conns)]
        if not pieces:
            return NO_FLOWS
        conns, uids = pieces[0].conns, pieces[0].uids
        if len(pieces) > 1:
            order = np.argsort(np.concatenate([piece.numbers for piece in pieces]), kind="stable")
            conns = np.concatenate([piece.conns for piece in pieces])[order]
            uids = np.concatenate([piece.uids for piece in pieces])[order]
        return FlowBatch(flows_of(conns), [uid.decode("utf-8", "backslashreplace") for uid in uids.tolist()])

    @abstractmethod
    def _pieces(self, messages: Sequence[Message]) -> list[_Piece]:
        """Connections of these messages, in no order."""

    def _piece(self, columns: NumberCells | Columns, uids: NDArray[np.bytes_], numbers: NDArray[np.int64]) -> _Piece:
        """Connections of columns, without the rows that cannot be read."""
        conns = connections(columns, self._book)
        keep = columns.good(self._told, "", numbers)
        return _Piece(conns[keep], uids[keep], numbers[keep])

    def _numbers_piece(self, data: bytes, cells: NDArray[np.int64], numbers: NDArray[np.int64]) -> _Piece:
        """Connections of a kernel's rows."""
        return self._piece(NumberCells(cells), _uids(np.frombuffer(data, np.uint8), cells), numbers)

    def _lines_pieces(self, texts: Sequence[bytes], numbers: Sequence[int]) -> list[_Piece]:
        """Connections of objects in JSON, one in each text."""
        lines = [text.replace(b"\n", b" ") if b"\n" in text else text for text in texts]
        for text in lines:
            if not text.strip():
                self._told.add("json", "", 0, "not a connection in JSON: no text")
        places = np.array(numbers, np.int64)
        pieces = []
        for columns, rows in read_json([(0, b"\n".join(lines))], "", self._told):
            pieces.append(self._piece(columns, columns.names("uid", UID_LIMIT), places[rows]))
        return pieces


def _uids(data: NDArray[np.uint8], cells: NDArray[np.int64]) -> NDArray[np.bytes_]:
    """(rows,) uids out of the data; empty where none is set, or one too long."""
    sizes = np.where((cells[:, UID] >= 0) & (cells[:, UID_BYTES] <= UID_LIMIT), cells[:, UID_BYTES], 0)
    widest = max(int(sizes.max(initial=0)), 1)
    steps = np.arange(widest)
    inside = steps < sizes[:, None]
    letters = np.zeros((len(cells), widest), np.uint8)
    letters[inside] = data[(cells[:, UID, None] + steps)[inside]]
    return letters.view(f"S{widest}")[:, 0]


class EventReader(Reader):
    """Reads events: four parts, which are topic, sender, serialiser and payload."""

    def __init__(self, told: Told, serialiser: str) -> None:
        super().__init__(told)
        self._wanted = serialiser.encode()

    def _pieces(self, messages: Sequence[Message]) -> list[_Piece]:
        payloads, numbers = [], []
        wanted = self._wanted
        for number, parts in enumerate(messages):
            if len(parts) == 4 and parts[2] == wanted and len(parts[3]) <= EVENT_LIMIT:  # see above
                payloads.append(parts[3])
                numbers.append(number)
            else:
                self._refuse(parts)
        if not payloads:
            return []
        self.serialiser = wanted.decode()
        if wanted == JSON.encode():
            return self._json(payloads, numbers)
        return self._binary(payloads, np.array(numbers, np.int64))

    def _refuse(self, parts: Message) -> None:
        if len(parts) != 4:  # as above
            self._told.skip("parts", f"{len(parts)} parts where Zeek's events have 4")
        elif parts[2] != self._wanted:
            wanted, seen = self._wanted.decode(), parts[2][:40].decode("utf-8", "backslashreplace")
            known = f"set zeek.serialiser to {seen!r}" if seen in SERIALISERS else "set Cluster::event_serializer in Zeek"
            self._told.skip("serialiser", f"Zeek sends {seen!r} and zeek.serialiser is {wanted!r}: {known}")
        else:
            self._told.skip("oversized", f"an event of {len(parts[3])} bytes, where {EVENT_LIMIT} are allowed")

    def _binary(self, payloads: list[bytes], numbers: NDArray[np.int64]) -> list[_Piece]:
        data, cells, became = read_payloads(payloads)
        rows = np.flatnonzero(became == READ)
        if len(rows) == len(became):
            return [self._numbers_piece(data, cells, numbers)]
        pieces = [self._numbers_piece(data, cells[rows], numbers[rows])]
        lines = np.flatnonzero(became == READ_JSON)
        if len(lines):
            texts = [data[at : at + size] for at, size in cells[lines][:, [UID, UID_BYTES]].tolist()]
            pieces += self._lines_pieces(texts, numbers[lines].tolist())
        self._told.other += int((became == OTHER).sum())
        for kind in became[became > OTHER].tolist():
            self._told.skip(REASONS[kind], MEANINGS[kind])
        return pieces

    def _json(self, payloads: list[bytes], numbers: list[int]) -> list[_Piece]:
        records: list[dict[str, Any]] = []  # Any: see Columns
        rows, lines, places = [], [], []
        for number, payload in zip(numbers, payloads, strict=True):
            try:
                record = read_event(payload)
            except NoEvent as refused:
                if refused.became == OTHER:
                    self._told.other += 1
                else:
                    self._told.skip(REASONS[refused.became], str(refused))
                continue
            if record.text is None:
                records.append(record.cells)
                rows.append(number)
            else:
                lines.append(record.text)
                places.append(number)
        pieces = self._lines_pieces(lines, places) if lines else []
        if records:
            columns = Columns({name: [cells.get(name) for cells in records] for name in NAMES}, len(records), None)
            pieces.append(self._piece(columns, columns.names("uid", UID_LIMIT), np.array(rows, np.int64)))
        return pieces


class BatchesReader(Reader):
    """Reads what Zeek sends to its loggers: four parts, which are "log-write", sender, serialiser and a batch."""

    def __init__(self, told: Told) -> None:
        super().__init__(told)
        self._reader = BatchReader()

    def _pieces(self, messages: Sequence[Message]) -> list[_Piece]:
        payloads, found, numbers = [], [], []
        begin = 0
        for number, parts in enumerate(messages):
            if len(parts) != 4:  # see above
                self._told.skip("parts", f"{len(parts)} parts where Zeek's log lines have 4")
                continue
            if parts[2] != b"zeek-bin-serializer" or parts[0] != b"log-write":
                seen = parts[2][:40].decode("utf-8", "backslashreplace")
                self._told.skip("serialiser", f"Zeek sends {seen!r} where log lines are in 'zeek-bin-serializer'")
                continue
            try:
                path, cells = self._reader.read(parts[3])
            except NoBatch as refused:
                self._told.skip("truncated", str(refused))
                continue
            if path != "conn":
                self._told.other += 1
            elif len(cells):
                cells[:, UID] += np.where(cells[:, UID] >= 0, begin, 0)
                begin += len(parts[3])
                payloads.append(parts[3])
                found.append(cells)
                numbers.append(np.full(len(cells), number, np.int64))
        return [self._numbers_piece(b"".join(payloads), np.concatenate(found), np.concatenate(numbers))] if found else []


_LINE = b'{"ts":1.5,"uid":"C","id.orig_h":"10.0.0.1","id.orig_p":1,"id.resp_h":"::1","id.resp_p":2,"proto":"tcp"}'
_BATCH = bytes(12) + b"\0\0\0\4conn" + b"\0\0\0\1" + b"\0\0\0\0\1x" + bytes(9) + bytes(4)
"""A batch for conn.log with one field and no record."""


def warm(road: str) -> None:
    """Compile what the road needs, so that the first connections do not wait for it."""
    if road == "zeromq-log":
        BatchReader().read(_BATCH)
        return
    LinesReader(Told(lambda name, line: None)).read([[b"conn", _LINE]])
    if road == "zeromq":
        read_payloads([b""])


class LinesReader(Reader):
    """Reads what the ZeroMQ writer of NCSA sends: two parts, the name of the log and a line of JSON."""

    def _pieces(self, messages: Sequence[Message]) -> list[_Piece]:
        texts, numbers = [], []
        for number, parts in enumerate(messages):
            if len(parts) != 2:  # see above
                self._told.skip("parts", f"{len(parts)} parts where the ZeroMQ writer sends 2")
            elif parts[0] != b"conn":
                self._told.other += 1
            elif len(parts[1]) > EVENT_LIMIT:
                self._told.skip("oversized", f"a line of {len(parts[1])} bytes, where {EVENT_LIMIT} are allowed")
            else:
                texts.append(parts[1])
                numbers.append(number)
        return self._lines_pieces(texts, numbers) if texts else []
