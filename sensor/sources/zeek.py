"""Zeek's conn.log, read from disk: TSV with the conventions its header sets, or JSON, one object a line.

A conn.log enters netseq where packets leave the flow table: as FLOW rows, complete, with Zeek's uid. Lines are turned into
columns a block at a time and columns into arrays, so that no object per connection outlives its block. A line that cannot
be read is counted with its reason and the rest of the file is read on; a file that is no conn.log is refused with one line,
or, met in a folder, put aside in `skipped_files`.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from itertools import takewhile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sensor.sources.columns import Columns
from sensor.sources.faults import NotAConnLog
from sensor.sources.finished import CONN, Finished, FinishedSource, in_order
from sensor.sources.lines import Damages, LineFile, Paths, head_of
from sensor.sources.zeek_conns import connections
from sensor.sources.zeek_text import Header, read_json, read_tsv, text_of

__all__ = ["ConnLogSource", "NotAConnLog"]

UID_BYTES = 64
"""Zeek's uids have 18 letters; every row keeps room for the longest one of a block."""
HEAD_LINES = 200
"""Looked at to tell whether a file is a conn.log and when it begins."""


class ConnLogSource(FinishedSource):
    """Finished connections from conn.log files, in the order in which they ended.

    `paths` are files and folders; every conn.log found is read, the files in the order of their first record's end, each
    sorted and overlapping ones merged (see `finished`). Iterating yields FlowBatch with `uids`, and with `labels` and
    `details` where a log has them. NotAConnLog is raised here for a named file that is none, or when nothing is left.
    `as_written` leaves the lines of a file in their order, and hands over one file after the other: netseq's own record is
    in the order in which its flows were scored.
    """

    def __init__(self, paths: Paths, *, block_flows: int = 8192, as_written: bool = False) -> None:
        self.connections = 0
        """Connections read so far."""
        self._timed = not as_written
        self._named = set(map(Path, paths))
        super().__init__(paths, block_flows, NotAConnLog, "conn.log")

    def _file(self, path: Path) -> Finished:
        """One file whole, in order."""
        lines = LineFile(path, self._damages)
        before = self.bytes_done
        parts: list[Finished] = []
        read = read_json if _head(path)[:1] == b"{" else read_tsv
        for columns, numbers in read(lines.blocks(), str(path), self._damages):
            parts.append(self._connections(columns, numbers, str(path), self._damages))
            self.bytes_done = before + lines.bytes_read
        if not parts:
            return Finished(np.empty(0, CONN))
        conns = np.concatenate([part.conns for part in parts])
        self.connections += len(conns)
        uids = np.concatenate([part.uids for part in parts if part.uids is not None])
        return in_order(Finished(conns, uids, timed=self._timed))

    def _begins(self, path: Path) -> float:
        """When the first connection of a conn.log ended, to put files in order; NotAConnLog for a file that is none."""
        head = b"\n".join(_head(path).split(b"\n")[:HEAD_LINES])
        if not head:
            raise NotAConnLog(f"{path} is empty")
        if head[:1] not in b"#{":
            raise NotAConnLog(f"{path} is no conn.log: it begins with neither Zeek's header (#separator) nor JSON")
        if head[:1] == b"#":
            header = Header()
            for line in takewhile(lambda line: line[:1] == b"#", head.split(b"\n")):
                header.take(line)
            if refusal := header.refusal(named=path in self._named):
                raise NotAConnLog(f"{path} is no conn.log: {refusal}")
        damages = Damages()
        for columns, numbers in (read_json if head[:1] == b"{" else read_tsv)([(1, head)], str(path), damages):
            conns = self._connections(columns, numbers, str(path), damages).conns
            if len(conns):
                return float(conns["last_us"][0])
        if head[:1] == b"{":
            raise NotAConnLog(f"{path} is no conn.log: {damages.first[0].reason}")
        return float("inf")

    def _connections(self, columns: Columns, lines: NDArray[np.int64], path: str, damages: Damages) -> Finished:
        """CONN rows of a block, without the rows that cannot be read."""
        conns = connections(columns, self._addresses)
        conns["label"] = self._label_places(columns)
        named = columns.names("uid", UID_BYTES)
        keep = columns.good(damages, path, lines)
        return Finished(conns[keep], named[keep])

    def _label_places(self, columns: Columns) -> NDArray[np.int64]:
        """Place of each row's label in the table of labels; -1 in a log without labels."""
        texts, details = columns.texts("label"), columns.texts("detailedlabel") or columns.texts("detailed-label")
        if texts is None and (details is None or columns.missing is not None):
            return np.full(columns.rows, -1, np.int64)
        unset = [None] * columns.rows
        pairs = list(zip(texts or unset, details or unset, strict=True))
        places = {pair: self._labels.place(*(text_of(cell) for cell in pair)) for pair in dict.fromkeys(pairs)}
        return np.array([places[pair] for pair in pairs], np.int64)


def _head(path: Path) -> bytes:
    """The first piece of a log, from its first letter on. Raises OSError and Broken."""
    return head_of(path).removeprefix(BOM_UTF8).lstrip()
