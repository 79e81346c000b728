"""Where a command's alerts go: files in a folder, standard output for a program, or a person.

The sinks decide what a line looks like; here the streams are opened that they write to, always unbuffered, so that a full
disk is met at the line that does not fit. A folder's files are written anew: a replay can be repeated.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import socket
import stat
import sys
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from sensor import config
from sensor.commands import terminal
from sensor.schema import Alert
from sensor.sinks.jsonl import JsonLines
from sensor.sinks.lines import Lines, SinkFailed
from sensor.sinks.notice import NoticeLog


class Outlet(NamedTuple):
    """One place where alerts go."""

    write: Callable[[Iterable[Alert]], None]
    close: Callable[[], None] = lambda: None
    file: str = ""
    """The file written, "" for standard output."""


def open_outlets(arguments: argparse.Namespace, settings: config.Settings, stack: contextlib.ExitStack) -> list[Outlet]:
    """Open every place that alerts shall go to; `stack` closes the files. Raises SinkFailed."""
    name, form = settings.output.dvc or socket.gethostname(), settings.output.format
    outlets = []
    jsonl = arguments.output / "alerts.jsonl" if arguments.output else None
    if jsonl:
        sink = JsonLines(stack.enter_context(open_file(jsonl)), sensor=name, form=form, name=str(jsonl))
        outlets.append(Outlet(sink.write, sink.close, str(jsonl)))
    if arguments.json:
        sink = JsonLines(standard_output(), sensor=name, form=form, name="standard output")
        outlets.append(Outlet(sink.write, sink.close))
    if arguments.notice:
        path = arguments.output / "notice.log" if arguments.output else None
        notice = NoticeLog(
            stack.enter_context(open_file(path)) if path else standard_output(),
            settings.output.notice_form,
            sensor=name,
            quiet_s=settings.detect.quiet_s,
            clock=datetime.now,
            name=str(path or "standard output"),
        )
        outlets.append(Outlet(notice.write, notice.close, str(path or "")))
    if speaks_to_people(arguments):
        outlets.append(reading())
    return outlets


def speaks_to_people(arguments: argparse.Namespace) -> bool:
    """Tell whether standard output is for reading; else it is for a program, and carries nothing but alerts."""
    return not (arguments.json or (arguments.notice and not arguments.output))


def reading() -> Outlet:
    """Show alerts to people: a table at the end on a terminal, a line each as they come in a pipe or file."""
    if sys.stdout.isatty():
        shown = terminal.AlertTable()
        return Outlet(shown.write, shown.close)
    lines = Lines(standard_output(), "standard output")

    def write(alerts: Iterable[Alert]) -> None:
        for alert in alerts:
            lines.write(terminal.plain(alert).encode())

    return Outlet(write)


def open_file(path: Path, what: str = "alerts") -> io.FileIO:
    """Open a file anew for `what`, unbuffered, in a folder that is made if need be. Raises SinkFailed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return io.FileIO(path, "w")
    except OSError as error:
        raise SinkFailed(f"cannot write {what} to {path}: {error.strerror}") from error


def standard_output() -> io.FileIO:
    """Take standard output as an unbuffered stream, standing at the end of a file that the shell's `>>` handed over."""
    sys.stdout.flush()
    stream = io.FileIO(sys.stdout.fileno(), "w", closefd=False)
    if stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.seek(0, os.SEEK_END)
    return stream
