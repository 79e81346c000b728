"""Which of the data to test on were learned from: a measure on these says what was remembered, and not what was understood.

Data are compared by SHA-256, because a copy has another name. A folder is compared file by file, so that one file of it is
known again alone or in another folder; files that are no data (a licence, a label file) may well be in both. What was packed
anew, or cut, is not recognised. The subcommands that measure a model on a user's files call this.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from models.folder import Source
from sensor.commands.datasets import fingerprint, is_one, kind_of

Hashed: TypeAlias = list[tuple[str, frozenset[str]]]
"""FILEs with their hashes."""


def hashes(path: str) -> frozenset[str]:
    """SHA-256 of a file, or of a folder as manifests have it and of each file of data in it."""
    found = {fingerprint(path)[1]}
    for inside in filter(Path.is_file, Path(path).rglob("*")):
        if is_one(str(inside), kind_of(str(inside)), statistics=True):
            found.add(fingerprint(str(inside))[1])
    return frozenset(found)


def all_hashes(paths: Sequence[str]) -> Hashed:
    """The hashes of each FILE, in the order given."""
    return [(path, hashes(path)) for path in paths]


def shared(tested: Hashed, learned: Hashed) -> dict[str, str]:
    """The FILEs to test on that have data in common with what is learned from, each with the first such FILE of that."""
    pairs = ((path, next((other for other, known in learned if known & has), None)) for path, has in tested)
    return {path: other for path, other in pairs if other is not None}


def warnings(tested: Hashed, model: Sequence[Source], learned: str) -> Iterator[str]:
    """FILEs that the model was trained on, of which `learned` says what that means, and those that are given twice."""
    seen = {source.sha256 for source in model}
    yield from (f"{path}: the model was trained on {learned}" for path, has in tested if has & seen)
    for place, (path, has) in enumerate(tested):
        for other in [other for other, had in tested[:place] if had & has]:
            yield f"{path}: has the same data as {other}: their rows count twice, and may be learned from and tested on"
