"""How far learning is, as a restart takes it up: from the state, or from a small file beside it where the state cannot tell.

The state is one large file, and a wrong byte anywhere takes all of it, as it must. But a sensor that alerted and was made to
learn again by that would withhold a day's alerts. So the same few numbers lie in FILE, too, written with each state,
beside its place and renamed; it is believed only where there is no state, or none that can be read. `service_learn` writes
and reads it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from sensor.service_record import Seen

LEARNING, FITTING, ALERTING = "learning", "fitting", "alerting"
DAY_US = 86_400_000_000
FILE = "learned.json"
"""Name of the file in the state folder."""
MOST_BYTES = 1 << 16
"""Of the file: it has some hundred."""


class Stored(msgspec.Struct):
    """What outlives a restart."""

    mode: str = LEARNING
    seen: Seen = msgspec.field(default_factory=Seen)
    again_us: int = 0
    watched: str = ""
    """Name of the model that is watched."""
    watched_since_us: int = 0
    watched_alerts: int = 0
    using: str = ""
    """Name of the model in use."""


def of_state(told: Mapping[str, object]) -> Stored | None:
    """What a state tells; None when it tells nothing, or not this."""
    try:
        return msgspec.convert(told, Stored) if told else None
    except msgspec.ValidationError:
        return None


def read(folder: Path) -> Stored | None:
    """What the file tells; None when there is none, or it cannot be read."""
    try:
        with (folder / FILE).open("rb") as file:
            return msgspec.json.decode(file.read(MOST_BYTES), type=Stored)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def write(folder: Path, stored: Stored) -> None:
    """Write the file, so that it is the one of before or this one, also after a crash. Raises OSError."""
    beside = folder / f"{FILE}.new"
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(stored)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        beside.replace(folder / FILE)
    except OSError:
        with contextlib.suppress(OSError):  # the first failure is the one to tell
            beside.unlink()
        raise


def without_state(days: float | None, *, learned_us: int, file: bool) -> tuple[str, str]:
    """The event and the line that say what a sensor does that no state tells how far learning was.

    days: of learning in all; None where it is over. file: FILE told how far it was.
    """
    how = f"no state can be read, {FILE if file else 'and nothing else'} tells how far learning was"
    if days is None:
        return "alerting", f"{how}: alerts of models are told"
    left = max(days - learned_us / DAY_US, 0.0)
    return (
        "learning_goes_on" if file else "learning_anew",
        f"{how}: learning {'goes on' if file else 'begins anew'}, and alerts of models are withheld for {left:.2f} days with"
        " traffic, or more; /status tells until when, and learn.days = 0 ends it",
    )


def iso(time_us: int) -> str | None:
    """A packet time for people; None where there is none."""
    try:
        return f"{datetime.fromtimestamp(time_us / 1e6, UTC):%Y-%m-%dT%H:%M:%SZ}" if time_us else None
    except (ValueError, OverflowError, OSError):
        return None


def forget(folder: Path) -> None:
    """Remove the file: the site is learned anew. Raises OSError."""
    (folder / FILE).unlink(missing_ok=True)
