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
