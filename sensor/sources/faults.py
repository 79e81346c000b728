"""What can be wrong with a capture file, and how it is told: to the user, to the summary, and between the parts that read.

A break inside a file is data (a `Damage`, counted, the run goes on); a file that is no capture is a mistake of whoever
named it (`NotACapture` or `NotAConnLog`, one line, the command ends). `Broken` and `Break` travel inside `sensor.sources` only.
"""

from __future__ import annotations

from typing import NamedTuple


class Damage(NamedTuple):
    """Where a capture file broke off. All frames before the break were handed over, none after it."""

    path: str
    byte_offset: int
    """Of the record that is broken; in compressed files counted in the unpacked capture."""
    reason: str


class NotACapture(Exception):  # noqa: N818  # it states a fact, as StopIteration does
    """A file or folder that the user named cannot be replayed. Its text is one line that says what to do."""


class NotAConnLog(Exception):  # noqa: N818  # as above
    """A file that is no conn.log; str() is the one line for the user."""


class Broken(Exception):  # noqa: N818  # as above
    """Compressed or raw bytes cannot be read further. The text is the reason."""


class Break(Exception):  # noqa: N818  # as above
    """A capture cannot be followed further, from this byte on."""

    def __init__(self, byte_offset: int, reason: str) -> None:
        super().__init__(reason)
        self.byte_offset = byte_offset
        self.reason = reason
