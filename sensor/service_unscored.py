"""Flows that were captured and not scored when the sensor ended: they wait on disk for its next start.

A source that can wait, a folder of captures or Zeek's logs, is read faster than its flows are scored, and an end has to come
within ten seconds. What waits then goes into a file of FLOW rows in the state folder, under a name made of its SHA-256. The
state names the file beside how far the source was read, so that neither is ever believed without the other, and the next
start scores these flows before all others: none is lost, and none is scored twice.

A crash leaves no such file. Therefore the states that are saved while the sensor runs do not tell how far the source was
read, but how far it had been when all flows that had ended by then were scored; what came after that is read again. A flow
that was alive then keeps only what is read again of it, as one on a wire would keep nothing.

`service_parts` makes the one `Unscored`, the control loop ends it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np

from sensor.schema import FLOW, FlowBatch
from sensor.service_queue import FlowQueue

KIND = "unscored"
"""Name in the state of what tells of the file."""
PREFIX = "unscored-"
LAYOUT = hashlib.sha256(repr(FLOW.descr).encode()).hexdigest()
"""Of a row: another version's rows would be read as something else."""


class Marked(Protocol):
    """What is asked of the sources."""

    @property
    def patient(self) -> bool:
        """They can wait."""
        ...

    def marks(self) -> dict[str, object]:
        """How far each kind of source was read."""
        ...


class Kept(msgspec.Struct, frozen=True):
    """What the state tells of a file of flows."""

    sha256: str
    layout: str
    sizes: list[int]
    """Flows in each batch."""
    uids: list[list[str | None] | None]
    """Of each batch, or None where no flow has one."""

    @property
    def name(self) -> str:
        """Name of the file."""
        return f"{PREFIX}{self.sha256}"


class Unscored:
    """Takes up the flows that `remembered` names into `flows`, and keeps those that wait there at the end, in `folder`.

    `tell` takes an event's name and a line. Files of before that nothing names are removed.
    """

    def __init__(
        self,
        folder: Path,
        flows: FlowQueue,
        sources: Marked,
        remembered: Mapping[str, object],
        *,
        tell: Callable[[str, str], None],
    ) -> None:
        self._folder = folder
        self._flows = flows
        self._sources = sources
        self._tell = tell
        self._ended = False
        self._kept: Kept | None = None
        self._left: list[FlowBatch] = []
        self._trouble = "its disk is too slow"
        self._writer: threading.Thread | None = None
        self._old = self._take_up(remembered.get(KIND))
        self._named = "" if self._old is None else self._old.name
        """The file that the last marks name."""
        self._settled: dict[str, object] = sources.marks() | ({} if self._old is None else {KIND: remembered[KIND]})
        self._pending: tuple[int, dict[str, object]] | None = None
        """Marks of some time ago, and how many flows had come by then."""

    def marks(self) -> dict[str, object]:
        """How far the source was read, as far as the next start may believe it.

        Called between two batches by the thread that scores, or after that has ended.
        """
        if self._ended:
            marks = self._sources.marks() | ({} if self._kept is None else {KIND: msgspec.to_builtins(self._kept)})
        else:
            if self._pending is None:
                marks = self._sources.marks()  # before the count: flows that they tell of have come
                self._pending = self._flows.came, marks
            if self._flows.gone >= self._pending[0]:
                self._settled, self._pending = self._pending[1], None
            marks = self._settled
        if KIND not in marks:
            self._named = ""
        elif self._kept is not None:
            self._named = self._kept.name
        return marks

    def saved(self) -> None:
        """Remove the file that was taken up, once a state is on disk that does not name it."""
        if self._old is not None and self._old.name != self._named:
            with contextlib.suppress(OSError):  # the next start removes it
                self._old.unlink()
            self._old = None

    def put_by(self) -> None:
        """Take what waits out of the queue, and begin to write it. Of a source that cannot wait it is shed."""
        if not self._sources.patient:
            self._flows.give_up()
            return
        self._left = self._flows.leave()
        if not self._left:
            return
        self._writer = threading.Thread(target=self._write, name="unscored", daemon=True)
        self._writer.start()

    def end(self, until_s: float, *, whole: bool) -> int:
        """Wait for the file until the monotonic time `until_s`; gives the flows in it.

        `whole` says that the sources came to their end and what was taken was scored: only then may the marks be believed.
        What is not in a file is shed, and read again as far as the last marks that may be believed are older.
        """
        if self._writer is not None:
            self._writer.join(max(until_s - time.monotonic(), 0))
        waited, kept = sum(len(batch.flows) for batch in self._left), self._kept
        if whole and (not waited or kept is not None):
            self._ended = True
            return waited
        self._kept = None
        if waited:
            self._flows.shed["ending"] += waited
            why = self._trouble if kept is None else "the sensor did not come to its end"
            self._tell("flows_not_kept", f"{self._folder}: {waited:,} flows were not scored, and could not be kept: {why}; the"
                       " next start reads again what came since the last saved state")  # fmt: skip
        return 0

    def _write(self) -> None:
        """Write what is left, with its file's name last. Its folder is synced with the state that names it."""
        beside = self._folder / f"{PREFIX}new"
        digest = hashlib.sha256()
        try:
            with open(beside, "wb", buffering=0, opener=_for_the_owner) as file:
                for batch in self._left:
                    data = np.ascontiguousarray(batch.flows).view(np.uint8).data
                    digest.update(data)
                    written = 0
                    while written < len(data):  # a raw file may take less than it is given
                        written += file.write(data[written:])
                os.fsync(file.fileno())
            kept = Kept(digest.hexdigest(), LAYOUT, [len(batch.flows) for batch in self._left], _uids(self._left))
            beside.replace(self._folder / kept.name)
            self._kept = kept
        except OSError as error:
            self._trouble = error.strerror or str(error)
            with contextlib.suppress(OSError):  # the first failure is the one to tell
                beside.unlink()

    def _take_up(self, told: object) -> Path | None:
        """Put the flows that wait on disk before all others, and remove other files; gives the file, None without one."""
        kept = None if told is None else _converted(told)
        path = None if kept is None else self._folder / kept.name
        if kept is not None and path is not None:
            flows = sum(kept.sizes)
            try:
                self._flows.resume(_read(path, kept))
                self._tell("flows_taken_up", f"{flows:,} flows that waited for their verdict when the sensor ended")
            except (OSError, ValueError) as wrong:
                reason = wrong.strerror if isinstance(wrong, OSError) else str(wrong)
                self._flows.shed["ending"] += flows
                self._tell("flows_not_kept", f"{path}: {flows:,} flows that waited are not scored: {reason}")
                path = None
        elif told is not None:
            self._tell("flows_not_kept", f"{self._folder}: the state tells of flows that waited what this version cannot read")
        for other in self._folder.glob(f"{PREFIX}*"):
            if other != path:
                with contextlib.suppress(OSError):  # it costs room only
                    other.unlink()
        return path


def _converted(told: object) -> Kept | None:
    """What a state tells of a file; None for what another version wrote."""
    try:
        kept = msgspec.convert(told, Kept)
    except msgspec.ValidationError:
        return None
    return kept if kept.sha256.isalnum() and len(kept.uids) == len(kept.sizes) else None  # it becomes a file's name


def _read(path: Path, kept: Kept) -> list[FlowBatch]:
    """The batches of a file. Raises OSError, and ValueError with the reason why they are not to be believed."""
    if kept.layout != LAYOUT:
        raise ValueError("another version of netseq wrote them")
    content = np.fromfile(path, np.uint8)
    if hashlib.sha256(content.data).hexdigest() != kept.sha256 or len(content) != sum(kept.sizes) * FLOW.itemsize:
        raise ValueError("the file is damaged")
    ends = np.cumsum(kept.sizes).tolist()
    rows = content.view(FLOW)
    return [FlowBatch(rows[end - size : end], uids) for size, end, uids in zip(kept.sizes, ends, kept.uids, strict=True)]


def _uids(batches: Sequence[FlowBatch]) -> list[list[str | None] | None]:
    """The uids of each batch; None where no flow has one, as flows of packets have none."""
    return [list(batch.uids) if batch.uids is not None and any(batch.uids) else None for batch in batches]


def _for_the_owner(path: str, flags: int) -> int:
    """Open a file that nobody else may read: it tells who spoke with whom."""
    return os.open(path, flags, 0o600)
