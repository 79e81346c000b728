"""The site's folder in the state directory: its record, its models, and which of them is in use.

    record/                      service_record
    models/20261122T0345Z/       a model, with site.json (how it was found good) and, if it failed, `bad` (why)
    models/current               a link to the one in use; without it, the model that comes along is

The link is made beside and renamed over the old one, so at any moment it points to a whole model. `netseq-train site` writes
here, the sensor (`service_learn`) reads, and takes a model out of use that proved bad. Paths are all this knows of a model.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from io import BufferedWriter
from pathlib import Path

import msgspec

KEPT = 3
"""Models that are kept: the one in use, and two to go back to."""
BAD, REPORT, CURRENT = "bad", "site.json", "current"


class Busy(Exception):  # noqa: N818  # it names what happened
    """Another training is at work on the same site."""


class Site:
    """The folders of a site under `state`; made when they are first written to."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.record = state / "record"
        self.models = state / "models"

    def current(self) -> Path | None:
        """The folder of the model in use; None where the one that comes along is."""
        try:
            folder = self.models / os.readlink(self.models / CURRENT)
        except OSError:
            return None
        return folder if (folder / "manifest.json").is_file() and not (folder / BAD).exists() else None

    def known(self) -> list[Path]:
        """All models that may be used, oldest first."""
        if not self.models.is_dir():
            return []
        folders = (path for path in self.models.iterdir() if path.is_dir() and not path.is_symlink())
        return sorted(path for path in folders if (path / "manifest.json").is_file() and not (path / BAD).exists())

    def lock(self) -> BufferedWriter:
        """Keep other trainings out, for as long as the file is open. Raises Busy, or OSError."""
        self.models.mkdir(parents=True, exist_ok=True)
        held = (self.models / "lock").open("wb")
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held.close()
            raise Busy(f"{self.models}: another training is at work there: let it end") from None
        return held

    def begin(self, now: datetime) -> Path:
        """A folder to write a new model into, which nobody takes for one yet. Raises OSError."""
        for left in self.models.glob(".new-*"):
            shutil.rmtree(left)  # of a training that was killed
        folder = self.models / f".new-{now:%Y%m%dT%H%M%SZ}"
        folder.mkdir()
        return folder

    def swap(self, written: Path, report: Mapping[str, object]) -> Path:
        """Take a model that `begin` gave the folder for into use; gives its place. Raises OSError."""
        (written / REPORT).write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
        place = self.models / written.name.removeprefix(".new-")
        written.rename(place)
        self.use(place)
        using = self.current()
        for old in self.known()[:-KEPT]:
            if old != using:
                shutil.rmtree(old)
        for bad in sorted(path.parent for path in self.models.glob(f"*/{BAD}"))[:-KEPT]:
            shutil.rmtree(bad)
        return place

    def use(self, place: Path | None) -> None:
        """Point the link at a model, or take it away. Raises OSError."""
        link = self.models / CURRENT
        if place is None:
            link.unlink(missing_ok=True)
            return
        beside = self.models / f".{CURRENT}.new"
        beside.unlink(missing_ok=True)
        beside.symlink_to(place.name)
        beside.replace(link)

    def condemn(self, place: Path, why: str) -> Path | None:
        """Mark a model as bad and go back to the one before it; gives that one, None for the one that comes along."""
        (place / BAD).write_text(f"{why}\n", encoding="utf-8")
        before = [path for path in self.known() if path.name < place.name]
        back = before[-1] if before else None
        self.use(back)
        return back

    def report_of(self, place: Path) -> dict[str, object]:
        """What the training told of a model; nothing when that cannot be read."""
        try:
            return msgspec.json.decode((place / REPORT).read_bytes(), type=dict[str, object])
        except (OSError, msgspec.DecodeError):
            return {}

    def set_aside(self, now: datetime) -> list[Path]:
        """Rename record and models, to begin anew; one earlier pair that was put aside before is deleted. Raises OSError."""
        for old in [*self.state.glob("record.before-*"), *self.state.glob("models.before-*")]:
            shutil.rmtree(old)
        aside = f"before-{now:%Y%m%dT%H%M%SZ}"
        folders = [folder for folder in (self.record, self.models) if folder.exists()]
        return [folder.rename(folder.with_name(f"{folder.name}.{aside}")) for folder in folders]


def now() -> datetime:
    """The time of day, in UTC."""
    return datetime.now(UTC)
