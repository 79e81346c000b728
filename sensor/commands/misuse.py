"""What the commands refuse before anything slow begins, each with one line that says what to do.

Nothing in here imports more than the standard library: a mistake is told at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn


class Misuse(Exception):  # noqa: N818  # not an error of the program: what was asked for cannot be done
    """The command cannot begin; `str(error)` is the one line for the user."""


class Parser(argparse.ArgumentParser):
    """A parser that tells a mistake in one line, under the command's name alone, and not after three lines of usage."""

    def error(self, message: str) -> NoReturn:
        """End the process with status 2."""
        print(f"{self.prog.split()[0]}: {message}: see {self.prog} --help", file=sys.stderr)
        sys.exit(2)


def fail(command: str, line: str, status: int) -> int:
    """Tell of what ended the command, or of what it could not do, as one line on standard error; returns the status."""
    print(f"{command}: {line}", file=sys.stderr)
    return status


def add_settings(group: argparse._ArgumentGroup) -> None:
    """The options by which every command that has settings takes them."""
    group.add_argument("--config", metavar="FILE", help="settings, as --show-config prints them")
    group.add_argument(
        "--set", metavar="SECTION.KEY=VALUE", action="append", default=[], help="change one setting; may be repeated"
    )
    group.add_argument("--show-config", action="store_true", help="print the settings in force, each with its meaning, and end")


def check_inputs(command: str, paths: Sequence[str]) -> None:
    """Refuse what is not there or cannot be read; standard input only as a terminal. Raises Misuse."""
    for path in paths:
        if path == "-":
            if sys.stdin is None:
                raise Misuse("-: standard input is closed: pipe a capture into it")
            if os.isatty(0):
                raise Misuse(f"-: standard input is a terminal: pipe a capture into it (tcpdump -U -w - | {command} -)")
        elif not os.access(path, os.R_OK):
            raise Misuse(f"{path}: {'permission denied' if os.path.exists(path) else 'no such file or folder'}")


def check_output(folder: Path, names: Sequence[str]) -> None:
    """Refuse a folder that cannot be made or written, or one of its files. Leaves nothing behind. Raises Misuse."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    made = []
    try:
        for place in reversed(missing):
            place.mkdir()
            made.append(place)
        if not folder.is_dir():
            raise NotADirectoryError(0, "it is no folder")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(0, "permission denied")
    except OSError as error:
        raise Misuse(f"{folder}: cannot be written ({error.strerror}): give --output another folder") from error
    finally:
        for place in reversed(made):
            place.rmdir()
    for name in names:
        path = folder / name
        if path.is_dir() or (path.exists() and not os.access(path, os.W_OK)):
            raise Misuse(f"{path}: cannot be written: remove it, or give --output another folder")
