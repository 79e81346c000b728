"""One conn.log that may still be growing: its lines as they come to an end, and by what it is known again under another name.

A log is known by its beginning, up to the first connection: Zeek's header tells when it was opened, and the connection has
a uid. So it is the same log after it was renamed, packed or moved to another disk, and a new one in its place is another,
also where the file system gives it the old one's number. Called by `zeek_follow`.
"""

from __future__ import annotations

import copy
import hashlib
import os
from codecs import BOM_UTF8
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sensor.sources.columns import AddressBook
from sensor.sources.faults import Broken
from sensor.sources.finished import Finished
from sensor.sources.lines import Cutter, Damages
from sensor.sources.unpack import GZIP_MAGIC, Inflow, Origin, is_zstd, unpacked
from sensor.sources.zeek import UID_BYTES
from sensor.sources.zeek_conns import connections
from sensor.sources.zeek_text import Header, read_json, read_tsv

READ_BYTES = 1 << 20
"""Read at a time, as whole logs are."""
HEAD_BYTES = 1 << 16
"""Looked at to know a log: header and first connection have a few thousand."""

SAMPLES = (
    b"#fields\tts\tuid\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tproto\n1.5\tC1\t10.0.0.1\t5\t10.0.0.2\t6\tudp\n",
    b'{"ts":1.5,"uid":"C1","id.orig_h":"10.0.0.1","id.orig_p":5,"id.resp_h":"10.0.0.2","id.resp_p":6,"proto":"udp"}\n',
)
"""A log of each form."""


class Look(NamedTuple):
    """What the beginning of a log tells."""

    name: str
    """By what it is known again."""
    begin_us: int
    """When its first connection ended."""
    header: Header
    """TSV's conventions."""
    refusal: str | None
    """Why this is no conn.log."""


def finished_of(block: bytes, first: int, header: Header, path: str, damages: Damages, book: AddressBook) -> Iterator[Finished]:
    """The connections of whole lines, as they lie; TSV under `header`, which takes up what header lines say."""
    blocks = [(first, block)]
    in_json = block.removeprefix(BOM_UTF8).lstrip()[:1] == b"{"
    tables = read_json(blocks, path, damages) if in_json else read_tsv(blocks, path, damages, header)
    for columns, numbers in tables:
        conns, uids = connections(columns, book), columns.names("uid", UID_BYTES)
        keep = columns.good(damages, path, numbers)
        if keep.any():
            yield Finished(conns[keep], uids[keep])


def look(head: bytes, else_us: int) -> Look | None:
    """What the first HEAD_BYTES of a log tell; None before its first connection. `else_us` is for one without a time."""
    header, at, full = Header(), 0, len(head) >= HEAD_BYTES
    head = head.removeprefix(BOM_UTF8).replace(b"\r\n", b"\n")
    while head.startswith((b"#", b"\n"), at):
        end = head.find(b"\n", at)
        if end < 0:
            return None
        if end > at:
            header.take(head[at:end])
        at = end + 1
    end = head.find(b"\n", at) + 1
    if not end:
        if not full:
            return None
        end = len(head)
    whole = head[at : head.rfind(b"\n") + 1 or end].rstrip(b"\n")
    damages = Damages()
    rows = finished_of(whole, 1, copy.copy(header), "", damages, AddressBook())
    begin_us = next((int(finished.conns["last_us"][0]) for finished in rows), None)
    refusal = None if whole[:1] == b"{" else header.refusal()
    if begin_us is None and refusal is None and full:  # of fewer lines, others may be connections
        refusal = damages.first[0].reason if damages.first else None
    if not head.lstrip().startswith((b"#", b"{")):
        refusal = "it begins with neither Zeek's header (#separator) nor JSON"
    begin_us = else_us if begin_us is None else min(begin_us, else_us)  # no log begins after its last write
    return Look(hashlib.sha256(head[:end]).hexdigest()[:32], begin_us, header, refusal)


def warm() -> None:
    """Compile all that reads a log, which takes seconds the first time; once it is written, nothing should wait for it."""
    for sample in SAMPLES:
        look(sample, 0)


def is_packed(path: Path) -> bool:
    """Whether a file is gzip or zstd. Raises OSError."""
    with path.open("rb", buffering=0) as raw:
        head = raw.read(4) or b""
    return head.startswith(GZIP_MAGIC) or is_zstd(head)


def look_into(path: Path, *, finished: bool) -> Look | None:
    """The same for a file, packed or not; the last line of a finished one needs no end. Raises OSError and Broken."""
    with path.open("rb", buffering=0) as raw:
        inflow, _ = unpacked(Origin(raw))
        head = _filled(inflow, HEAD_BYTES)
        if finished and head and len(head) < HEAD_BYTES and not head.endswith(b"\n"):
            head += b"\n"  # its last line will get no other end
        return look(head, os.fstat(raw.fileno()).st_mtime_ns // 1000)


def _filled(inflow: Inflow, most: int) -> bytes:
    """Up to `most` bytes; fewer only at the end, or before a break."""
    piece, size = bytearray(most), 0
    try:
        while size < most and (got := inflow.readinto(memoryview(piece)[size:])):
            size += got
    except Broken:
        if not size:
            raise
    return bytes(piece[:size])


class Tail:
    """The lines of an open log from byte `offset` (unpacked) on; `look` is what is known of it, and needed where it goes on.

    Raises OSError and Broken, here and when it reads.
    """

    def __init__(self, path: Path, offset: int = 0, known: Look | None = None) -> None:
        self.path = path
        self.known = known
        """Set as soon as there is a connection to know it by."""
        self.damages = Damages()
        self.told = 0
        """Damages that were told."""
        self._name = str(path) if not offset else f"{path} from byte {offset} on"
        self._header = copy.copy(known.header) if known else Header()
        self._cutter = Cutter(self._name, self.damages)
        self._begin, self._read = offset, 0
        self._raw = path.open("rb", buffering=0)
        try:
            self._inflow = self._opened()
            if known and self._inflow is None and self._look() != known.name:
                raise Broken("another log took its place")
        except BaseException:
            self._raw.close()
            raise

    @property
    def offset(self) -> int:
        """Up to where the log was read: the end of the last whole line."""
        return self._begin + self._read - len(self._cutter.rest)

    def _opened(self) -> Inflow | None:
        """Go to where reading begins; None for a plain log, which is read as it grows, with nothing between."""
        inflow, packing = unpacked(Origin(self._raw))
        if not packing:
            self._raw.seek(self._begin)
            return None
        left = self._begin
        while left and (came := len(_filled(inflow, min(left, READ_BYTES)))):
            left -= came
        return inflow

    def seen(self) -> str:
        """The name by which this log is known, "" before its first connection."""
        if self.known is None and self._inflow is None:
            self._look()
        return self.known.name if self.known else ""

    def _look(self) -> str:
        """Look at the beginning of a plain log; returns its name, "" before its first connection."""
        about = os.fstat(self._raw.fileno())
        self.known = look(os.pread(self._raw.fileno(), HEAD_BYTES, 0), about.st_mtime_ns // 1000)
        return self.known.name if self.known else ""

    @property
    def number(self) -> tuple[int, int]:
        """Device and inode: the file's number for as long as it is open."""
        about = os.fstat(self._raw.fileno())
        return about.st_dev, about.st_ino

    def is_cut(self) -> bool:
        """Whether the file is shorter than what was read of it."""
        return self._inflow is None and os.fstat(self._raw.fileno()).st_size < self._raw.tell()

    def close(self) -> None:
        """Close the file."""
        self._raw.close()

    def read(self, book: AddressBook) -> Iterator[Finished] | None:
        """The connections of the next whole lines, or None when there is nothing new. A line that has no end yet waits."""
        piece = self._raw.read(READ_BYTES) if self._inflow is None else _filled(self._inflow, READ_BYTES)
        if not piece:
            return None
        self.seen()
        self._read += len(piece)
        first, whole = self._cutter.feed(piece)
        return self._finished(first, whole, book)

    def drop(self) -> None:
        """Forget a line that was cut: half of it may look whole."""
        self._cutter.rest = b""

    def last(self, book: AddressBook) -> Iterator[Finished]:
        """The connections of the last line of a log that will grow no more, if it has no end."""
        whole, self._cutter.rest = self._cutter.rest, b""
        return self._finished(self._cutter.line, whole, book)

    def _finished(self, first: int, whole: bytes, book: AddressBook) -> Iterator[Finished]:
        """The connections of whole lines."""
        if whole:
            yield from finished_of(whole, first, self._header, self._name, self.damages, book)
