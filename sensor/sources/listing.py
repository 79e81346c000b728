"""Which files the user means: names, folders and "-" become a list of captures, each looked at once before the run.

A file counts as a capture by its first bytes, never by its name. A file that was named must be one, or the run does not
start (`NotACapture`); what else lies in a named folder is listed as skipped. Pipes are not looked into before their turn.
Called by `sensor.sources.pcap`.
"""

from __future__ import annotations

import os
import stat
from codecs import BOM_UTF8
from collections.abc import Sequence
from typing import NamedTuple

from sensor.sources.faults import Break, Broken, NotACapture
from sensor.sources.formats import format_of, head_of
from sensor.sources.supply import open_supply

LOOK_BYTES = 4096  # unpacked, to see what a file is
STDIN = "-"

PACKED = {
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ\x00": ("xz", "unxz"),
    b"PK\x03\x04": ("zip", "unzip"),
    b"7z\xbc\xaf": ("7z", "7z x"),
    b"\x04\x22\x4d\x18": ("lz4", "unlz4"),
}
FOREIGN = {
    b"snoop\0\0\0": "Solaris snoop",
    b"btsnoop\0": "Bluetooth snoop",
    b"GMBU": "Microsoft Network Monitor",
    b"RTSS": "Network Monitor 1",
}
"""Captures of other kinds that editcap (it comes with Wireshark) converts."""
LOGS = (b"#separator ", b"#fields\t", b'{"')
"""How a log of Zeek's begins, after a mark of UTF-8 at most."""


class Found(NamedTuple):
    """A capture to read."""

    path: str
    size_bytes: int | None
    """None for a pipe, which can be read once and whose size nobody knows."""

    @property
    def name(self) -> str:
        """As it is told to the user."""
        return "standard input" if self.path == STDIN else self.path


class Listing(NamedTuple):
    """What the names given by the user come to."""

    captures: list[Found]
    skipped: list[tuple[str, str]]
    """(path, reason) of files in folders that are no captures, and of files met twice."""


def list_captures(paths: Sequence[str | os.PathLike[str]]) -> Listing:
    """Look at every file named, and at every file in folders named. Raises NotACapture."""
    listing = Listing([], [])
    seen: dict[tuple[int, int], str] = {}
    for name in paths:
        path = os.fspath(name)
        if path == STDIN:
            _add(listing, seen, path, (-1, 0), None)
        elif os.path.isdir(path):
            _add_folder(listing, seen, path)
        elif reason := _add_file(listing, seen, path):
            raise NotACapture(f"{path}: {reason}")
    if not listing.captures:
        raise NotACapture("no capture was named: give files, folders, or - for standard input")
    return listing


def _add(
    listing: Listing, seen: dict[tuple[int, int], str], path: str, identity: tuple[int, int], size_bytes: int | None
) -> None:
    if identity in seen:
        listing.skipped.append((path, f"the same file as {seen[identity]}"))
    else:
        seen[identity] = path
        listing.captures.append(Found(path, size_bytes))


def _add_file(listing: Listing, seen: dict[tuple[int, int], str], path: str, *, pipes: bool = True) -> str:
    """Add a file, or return why it cannot be read as a capture."""
    try:
        about = os.stat(path)
    except OSError as error:
        return _unreadable(error)
    if not stat.S_ISREG(about.st_mode):
        if not pipes:
            return "no regular file"
        _add(listing, seen, path, (about.st_dev, about.st_ino), None)
        return ""
    if reason := _why_no_capture(path):
        return reason
    _add(listing, seen, path, (about.st_dev, about.st_ino), about.st_size)
    return ""


def _add_folder(listing: Listing, seen: dict[tuple[int, int], str], folder: str) -> None:
    """Add the captures in a folder and the folders in it, in the order of their paths. Links to folders are not followed."""
    inside: list[str] = []
    unreadable: list[tuple[str, str]] = []

    def note(error: OSError) -> None:
        unreadable.append((str(error.filename), _unreadable(error)))

    for where, _, names in os.walk(folder, onerror=note):
        inside.extend(os.path.join(where, name) for name in names)
    captures = 0
    for path in sorted(inside):
        reason = _add_file(listing, seen, path, pipes=False)
        captures += not reason
        if reason:
            listing.skipped.append((path, reason))
    listing.skipped.extend(unreadable)
    if not captures:
        tried = f"none of its {len(inside)} files is a pcap or pcapng file" if inside else "it is empty"
        raise NotACapture(f"{folder}: a folder without captures: {tried}")


def _why_no_capture(path: str) -> str:
    """Why a regular file cannot be read as a capture, or "" when it can."""
    try:
        supply = open_supply(path, LOOK_BYTES, mapped=False)
    except OSError as error:
        return _unreadable(error)
    except Broken as broken:
        return str(broken)
    try:
        head = head_of(supply)
    except Break as broken:
        return broken.reason
    finally:
        supply.close()
    return "" if format_of(head) else no_capture(head, supply.packing)


def no_capture(head: bytes, packing: str, *, piped: bool = False) -> str:
    """Words for a file that begins with `head` and is no capture: what it is, where that is known, and what to do.

    A pipe that is `piped` in is read once, and a conn.log is looked at before it is read.
    """
    inside = f" inside the {packing} packing" if packing else ""
    if not head:
        return f"nothing is in it{inside}: not even a capture's header was written"
    for magic, (kind, command) in PACKED.items():
        if head.startswith(magic):
            return f"it is packed with {kind}{inside}, which is not read: unpack it first ({command})"
    for magic, kind in FOREIGN.items():
        if head.startswith(magic):
            return f"it is a {kind} capture{inside}: convert it first (editcap -F pcapng IN OUT)"
    if piped and head.removeprefix(BOM_UTF8).startswith(LOGS):
        return f"it begins as Zeek's logs do{inside}, and those are read from files: write it to one, and name that"
    return f"it is no pcap or pcapng capture{inside}: editcap converts other captures, `file` tells what it is"


def _unreadable(error: OSError) -> str:
    return f"it cannot be read: {error.strerror or error}"
