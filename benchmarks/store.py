"""Where the benchmark keeps its captures between runs, each under the name of what it was made of.

A name carries two hashes: the edition is that of the code that writes, so that a changed writer writes anew, and the other
that of its parameters. Captures of another edition would never be read again, and each may be a gigabyte: they are deleted.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

HERE = Path(__file__).parent


def folder() -> Path:
    """Return $TMPDIR/netseq-bench, or /tmp/netseq-bench: captures, compiled peers and their environments."""
    return Path(os.environ.get("TMPDIR") or "/tmp") / "netseq-bench"  # noqa: S108  # a cache that anyone may delete


PIECE_BYTES = 4 << 20


def place(where: Path, kind: str, parameters: object, code: tuple[str, ...]) -> Path:
    """Return the path in `where` of the capture that `code` (files of this package) writes for `parameters`."""
    edition = _digest(*(HERE.joinpath(name).read_bytes() for name in code))
    return where / f"{kind}-{edition}-{_digest(repr(parameters).encode())}.pcap"


def forget_other_editions(path: Path) -> None:
    """Make the folder of `path`, and delete in it what an earlier edition of the same kind's writer left there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind, edition, _ = path.name.split("-")
    for other in path.parent.glob(f"{kind}-*-*.*"):
        if other.name.split("-")[1] != edition:
            other.unlink()


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()[:8]


def read_from_disk(path: Path) -> Path:
    """Drop a capture from the page cache and read it back, to lie there as a capture does that was on disk.

    What a program has just written in small pieces lies in single pages, which cost twice as much to map as those that the
    kernel read ahead. All tools then start from the same, warm cache.
    """
    with path.open("rb") as file:
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while file.read(PIECE_BYTES):
            pass
    return path
