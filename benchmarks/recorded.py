"""Recorded traffic as one capture: the larger files of the public ndpi_4.2 collection, one after the other.

They are cut to 160 bytes a packet (the wire length is kept), so they load a decoder with more packets and fewer bytes than
`synthetic` does, and with hundreds of real protocols. All together they are too few packets to time, so they are written
several times over, each round later than every time-out after the one before. Where the collection is absent the
comparison is left out and says so.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.frames import PCAP_HEADER, RECORD
from benchmarks.store import forget_other_editions, place
from benchmarks.synthetic import START_US

ETHERNET = 1
LEAST_PACKETS = 1_000
"""Files with fewer packets are not the large ones."""
ENOUGH_PACKETS = 2_000_000
BETWEEN_FILES_US = 1_000_000
BETWEEN_ROUNDS_US = 200_000_000


class Absent(Exception):  # noqa: N818  # not an error: the comparison is left out
    """The collection is not there; the text says where it was looked for."""


class Collection(msgspec.Struct):
    """What was written."""

    files: int
    packets: int
    bytes: int
    rounds: int


class Recording(NamedTuple):
    """All chosen files as pcap records."""

    records: NDArray[np.uint8]
    places: NDArray[np.int64]
    """Where each record begins in `records`."""
    elapsed_us: NDArray[np.int64]
    """Time since the first packet of the recording."""
    files: int


def data_folder() -> Path:
    """Return the folder of the large public data sets: $NETSEQ_DATA or, failing that, shared/data beside the checkout."""
    return Path(os.environ.get("NETSEQ_DATA") or Path(__file__).parents[2] / "shared" / "data")


def find_collection() -> Path:
    """Return the folder of the captures: captures/ndpi_4.2 among the data sets. Raises Absent where there is none."""
    data = data_folder()
    folder = data / "captures" / "ndpi_4.2"
    if not folder.is_dir():
        raise Absent(f"no captures/ndpi_4.2 in {data}: set NETSEQ_DATA to the folder that has it")
    return folder


def write_recorded(collection: Path, where: Path, enough_packets: int = ENOUGH_PACKETS) -> tuple[Path, Collection]:
    """Write the collection's large Ethernet captures into one pcap, unless it is there. Returns its path and what it holds."""
    files = sorted(collection.iterdir())
    path = place(where, "recorded", ([(file.name, file.stat().st_size) for file in files], enough_packets), ("recorded.py",))
    told = path.with_suffix(".json")
    if path.exists() and told.exists():
        return path, msgspec.json.decode(told.read_bytes(), type=Collection)
    recording = _gather(files)
    if not recording.files:
        raise Absent(f"no capture of {LEAST_PACKETS} packets or more in {collection}")
    rounds = -(-enough_packets // len(recording.places))
    forget_other_editions(path)
    unfinished = path.with_suffix(".part")
    with unfinished.open("wb") as file:
        file.write(PCAP_HEADER)
        for number in range(rounds):
            begin_us = START_US + number * (int(recording.elapsed_us.max()) + BETWEEN_ROUNDS_US)
            _stamp(recording, begin_us)
            file.write(recording.records.data)
    unfinished.rename(path)
    written = Collection(recording.files, rounds * len(recording.places), path.stat().st_size, rounds)
    told.write_bytes(msgspec.json.encode(written))
    return path, written


def _gather(paths: list[Path]) -> Recording:
    """Read the chosen files into memory: each begins a second after the latest packet of the one before."""
    pieces, sizes, stamps, files, begin_us = [], [], [], 0, 0
    for path in paths:
        read = _read(path)
        if read is None:
            continue
        records, lengths, elapsed_us = read
        pieces.append(records)
        sizes.append(lengths)
        stamps.append(elapsed_us + begin_us)
        begin_us += int(elapsed_us.max()) + BETWEEN_FILES_US
        files += 1
    if not files:
        return Recording(np.empty(0, np.uint8), np.empty(0, np.int64), np.empty(0, np.int64), 0)
    lengths = np.concatenate(sizes)
    return Recording(np.concatenate(pieces), np.cumsum(lengths) - lengths, np.concatenate(stamps), files)


def _read(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]] | None:
    """Return one file's records, their lengths and their times since its first packet; None for a small or other file."""
    from sensor.sources.pcap import CaptureSource, NotACapture  # noqa: PLC0415  # compiles nothing until it is needed

    pieces, frames = [], []
    try:
        for block in CaptureSource([path]):
            frames.append(block.frames.copy())
            for offset, captured in zip(block.frames["offset"].tolist(), block.frames["captured_bytes"].tolist(), strict=True):
                pieces.append(bytes(16))
                pieces.append(block.data[offset : offset + captured].tobytes())
    except NotACapture:
        return None
    if sum(map(len, frames)) < LEAST_PACKETS:
        return None
    every = np.concatenate(frames)
    if (every["link_type"] != ETHERNET).any():
        return None
    records = np.frombuffer(b"".join(pieces), np.uint8).copy()
    lengths = every["captured_bytes"].astype(np.int64) + 16
    heads = np.zeros(len(every), RECORD)
    heads["captured"], heads["wire"] = every["captured_bytes"], every["wire_bytes"]
    _put(records, np.cumsum(lengths) - lengths, heads)
    return records, lengths, every["ts_us"] - every["ts_us"].min()


def _stamp(recording: Recording, begin_us: int) -> None:
    """Write the times of one round into the records, in place."""
    stamps = np.empty((len(recording.places), 2), "<u4")
    stamps[:, 0], stamps[:, 1] = np.divmod(recording.elapsed_us + begin_us, 1_000_000)
    _put(recording.records, recording.places, stamps)


def _put(records: NDArray[np.uint8], places: NDArray[np.int64], rows: NDArray[np.generic]) -> None:
    """Copy the bytes of each row to its place."""
    columns = np.ascontiguousarray(rows).view(np.uint8).reshape(len(places), -1)
    for column in range(columns.shape[1]):
        records[places + column] = columns[:, column]
