"""The state on disk: what a sensor remembers, written every minute and at its end, and taken up at its next start.

The scoring thread copies (`take`), which costs as much as copying memory; another thread writes the copy (`write`) beside
the old file and renames it, so that a crash leaves the old state or the new one and never half of one.

The file is one line and a safetensors body. The line says that this is a state, its format, the SHA-256 of the body and its
bytes; it is padded so that the body begins at HEAD_BYTES. All of the body is hashed, in small pieces, before anything in it is
believed; then every size is compared with what this sensor has room for, before memory is taken. No pickle, and nothing
in the file is code. A file that cannot be used is one line in StateRefused, with the Judge as it was; `set_aside` keeps it
for whoever wants to know.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec
import numpy as np
import torch
from torch import Tensor

from sensor import __version__
from sensor.engine import Judge
from sensor.engine_state import DoesNotFit, Memory, Shape, Told, as_tensor, check, give_back, make_room, remembered
from sensor.engine_state import take_up as go_on

MAGIC, FORMAT = "netseq-state", 1
HEAD_BYTES = 128
"""The first line, newline included; a multiple of what numbers in the body are aligned to."""
MOST_HEADER_BYTES = 64 << 20
"""Of the JSON in the body. The sensor's other parts keep some kilobytes there, and a list of the captures it has read."""
PIECE_BYTES = 1 << 20
KEPT_REFUSED = 3
"""Files set aside that are kept: one to look at, and two in case that it happens again."""
AHEAD_US = 60_000_000
"""How far packets' times may be ahead of this machine's clock without it having been set back, as for `flows`."""

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
"""Types by the names that safetensors has for them."""
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class StateRefused(Exception):  # noqa: N818  # reads as the sentence it is, like the other refusals
    """A state that this sensor cannot go on from; str() is the one line for the log.

    `more` is what else was kept, where the file is whole and merely another model's: it is no less true for that.
    """

    def __init__(self, line: str, more: dict[str, object] | None = None) -> None:
        super().__init__(line)
        self.more = more


class Snapshot(NamedTuple):
    """A copy of all that is to be written, in memory that nobody changes any more."""

    memory: Memory
    more: bytes
    """JSON."""


class _Tensor(msgspec.Struct, frozen=True):
    """An array in the body, as safetensors tells it."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


class _Body(NamedTuple):
    """A body whose hash was right: what its header says, and where its data begins."""

    told: Told
    more: dict[str, object]
    version: str
    tensors: dict[str, _Tensor]
    data: int


def take(judge: Judge, more: Mapping[str, object]) -> Snapshot:
    """Copy what a Judge remembers, and `more`, which must go into JSON. Called between batches by the thread that judges."""
    return Snapshot(remembered(judge), msgspec.json.encode(more))


def write(path: Path, snapshot: Snapshot) -> None:
    """Write a snapshot, once, so that `path` holds the state of before or this one, also after a crash. Raises OSError.

    The next snapshot takes its memory then.
    """
    if not snapshot.memory.arrays:
        raise ValueError("this snapshot was written before: take another one")
    try:
        _write(path, snapshot)
    finally:
        give_back(snapshot.memory)


def _write(path: Path, snapshot: Snapshot) -> None:
    """Write the snapshot beside its place, then move it there."""
    arrays = {name: _bytes_of(array) for name, array in snapshot.memory.arrays.items()}
    header = _header(snapshot, {name: len(data) for name, data in arrays.items()})
    beside = path.with_name(path.name + ".new")
    try:
        beside.unlink(missing_ok=True)
        with open(beside, "xb", buffering=0, opener=_for_the_owner) as file:
            _fill(file, header, list(arrays.values()))
            os.fsync(file.fileno())
        beside.replace(path)
        _sync_folder(path.parent)
    except OSError:
        with contextlib.suppress(OSError):  # the first failure is the one to tell
            beside.unlink()
        raise


def take_up(path: Path, judge: Judge, *, tell: Callable[[str], None] = lambda _: None, live: bool = True) -> dict[str, object]:
    """Let a new Judge go on from the state at `path`; returns the `more` that was kept with it.

    To be called whether there is a state or not: it makes room for the snapshots to come, too.
    `tell` gets a line for each thing that could not be kept. Where packets do not carry the present time, as in a folder
    of old captures, `live` is False. Raises FileNotFoundError when there is no state, and StateRefused, with nothing changed.
    """
    make_room(judge)
    now_us = time.time_ns() // 1000 + AHEAD_US if live else None
    try:
        with open(path, "rb", buffering=0, opener=_without_waiting) as file:
            body = _checked(file)
            shapes = {name: Shape(DTYPES[tensor.dtype], tensor.shape) for name, tensor in body.tensors.items()}
            try:
                wanted = check(judge, body.told, shapes, same_model=True)
                arrays = {name: _read(file, body.tensors[name], body.data) for name in wanted}
                lines = go_on(judge, Memory(body.told, arrays, {}, []), same_model=True, now_us=now_us)
            except DoesNotFit as wrong:
                raise StateRefused(f"{wrong} (netseq {body.version})", body.more) from None
    except StateRefused as refused:
        raise StateRefused(f"{path}: {refused}", refused.more) from None
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StateRefused(f"{path}: it cannot be read ({error.strerror})") from error
    for line in lines:
        tell(line)
    return body.more


def set_aside(path: Path) -> Path:
    """Rename a refused state to `<name>.refused-<UTC time>`, and remove the oldest ones of those. Raises OSError."""
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")  # of one length, so that names sort as times do
    place = path.with_name(f"{path.name}.refused-{now}")
    path.replace(place)
    earlier = sorted(other for other in path.parent.iterdir() if other.name.startswith(f"{path.name}.refused-"))
    for old in earlier[:-KEPT_REFUSED]:
        with contextlib.suppress(OSError):  # it was only to save room
            old.unlink()
    return place


def _for_the_owner(path: str, flags: int) -> int:
    """Open a file that nobody else may read: it tells who spoke with whom."""
    return os.open(path, flags, 0o600)


def _without_waiting(path: str, flags: int) -> int:
    """Open what may turn out to be a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def _header(snapshot: Snapshot, sizes: Mapping[str, int]) -> bytes:
    """The head of a safetensors body: its length, then JSON, padded to where numbers are aligned."""
    places: dict[str, object] = {}
    at = 0
    for name, array in snapshot.memory.arrays.items():
        places[name] = _Tensor(_NAMES[array.dtype], tuple(array.shape), (at, at + sizes[name]))
        at += sizes[name]
    told = {"netseq": __version__, "told": msgspec.json.encode(snapshot.memory.told).decode(), "more": snapshot.more.decode()}
    text = msgspec.json.encode({"__metadata__": told, **places})
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _fill(file: BinaryIO, header: bytes, arrays: list[memoryview]) -> None:
    """Write body and then the line before it, which needs the body's hash. Hashing and writing let other threads run."""
    digest, size = hashlib.sha256(), 0
    file.seek(HEAD_BYTES)
    for part in (memoryview(header), *arrays):
        digest.update(part)
        size += len(part)
        written = 0
        while written < len(part):  # a raw file may take less than it is given
            written += file.write(part[written:])
    line = f"{MAGIC} {FORMAT} {digest.hexdigest()} {size}"
    file.seek(0)
    file.write(f"{line:<{HEAD_BYTES - 1}}\n".encode())


def _sync_folder(folder: Path) -> None:
    """See that a rename in a folder outlives a crash."""
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(place)
    finally:
        os.close(place)


def _checked(file: BinaryIO) -> _Body:
    """Read what a state says of itself. Raises StateRefused, without the file's name, and OSError."""
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise StateRefused("it is no file")
    size, digest = _line(file.read(HEAD_BYTES), status.st_size)
    found, header = hashlib.sha256(), b""
    while piece := file.read(PIECE_BYTES):
        found.update(piece)
    if found.hexdigest() != digest:
        raise StateRefused("it is damaged: its SHA-256 is not that of what was written")
    file.seek(HEAD_BYTES)
    length = int.from_bytes(file.read(8), "little")
    if length > min(MOST_HEADER_BYTES, size - 8):
        raise StateRefused(f"its header would have {length:,} bytes")
    header = _exactly(file, length)
    try:
        entries = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        told = msgspec.json.decode(entries.pop("__metadata__"), type=dict[str, str])
        tensors = {name: msgspec.json.decode(entry, type=_Tensor) for name, entry in entries.items()}
        more = msgspec.json.decode(told["more"], type=dict[str, Any])
        body = _Body(msgspec.json.decode(told["told"], type=Told), more, told["netseq"], tensors, HEAD_BYTES + 8 + length)
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError) as wrong:
        raise StateRefused(f"its header is none of this netseq ({wrong})") from None
    for name, tensor in tensors.items():
        _check_place(name, tensor, size - 8 - length)
    return body


def _line(head: bytes, file_bytes: int) -> tuple[int, str]:
    """What the first line says: bytes of the body, and their SHA-256. Raises StateRefused."""
    if not head:
        raise StateRefused("it is empty")
    words = head.decode("ascii", "replace").split()
    if len(head) < HEAD_BYTES or words[:1] != [MAGIC] or not head.endswith(b"\n"):
        raise StateRefused("it is no state of netseq, or cut short")
    if words[1:2] != [str(FORMAT)]:
        raise StateRefused(f"it has the format {' '.join(words[1:2])[:20]!r}, this netseq {__version__} reads {FORMAT}")
    if len(words) != 4 or not (words[3].isdigit() and len(words[3]) <= 20):
        raise StateRefused("its first line is damaged")
    size = int(words[3])
    if size < 8 or file_bytes != HEAD_BYTES + size:
        raise StateRefused(f"it has {file_bytes:,} bytes where it says {HEAD_BYTES + size:,}")
    return size, words[2]


def _check_place(name: str, tensor: _Tensor, data_bytes: int) -> None:
    """See that an array lies in the body, with as many bytes as its shape says. Raises StateRefused."""
    begins, ends = tensor.data_offsets
    count = 1
    for length in tensor.shape:  # in Python's integers, which do not wrap
        count *= max(length, 0)
    if (
        tensor.dtype not in DTYPES
        or count * DTYPES[tensor.dtype].itemsize != ends - begins
        or not 0 <= begins <= ends <= data_bytes
    ):
        raise StateRefused(f"its header tells of {ascii(name)[:40]} what cannot be")


def _read(file: BinaryIO, tensor: _Tensor, data: int) -> Tensor:
    """Read an array whose place was checked."""
    begins, ends = tensor.data_offsets
    file.seek(data + begins)
    content = np.empty(ends - begins, np.uint8)
    read = 0
    while read < len(content):
        got = file.readinto(content[read:].data)  # type: ignore[attr-defined]  # a raw file has it
        if not got:
            raise StateRefused("it was cut short while it was read")
        read += got
    return as_tensor(content, DTYPES[tensor.dtype], tensor.shape)


def _exactly(file: BinaryIO, length: int) -> bytes:
    """Read so many bytes."""
    parts, missing = [], length
    while missing and (piece := file.read(missing)):
        parts.append(piece)
        missing -= len(piece)
    return b"".join(parts)


def _bytes_of(array: Tensor) -> memoryview:
    """An array's bytes, without a copy."""
    return array.reshape(-1).view(torch.uint8).numpy().data if array.numel() else memoryview(b"")
