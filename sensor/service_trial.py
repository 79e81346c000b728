"""What a start needs, tried without beginning: for `netseq-sensor --check`, and for what a reload puts off to the next start.

A sensor whose settings cannot work ends with a status that systemd does not try again, so what a reload says yes to must be
what a start would take. Nothing is made here. What a sensor that is at work may hold itself, a port or the state folder, is
told and not refused; so is what root may do here, and the user that the service runs as may not.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import pwd
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import zmq
from torch import OutOfMemoryError

from models.checkpoint import ModelDoesNotFit
from sensor.config import Settings
from sensor.config_sensor import check_together, differing
from sensor.detect_ignore import Ignored, IgnoreRefused
from sensor.service_http import listen
from sensor.service_models import load_models
from sensor.service_outlets import receivers, zeek_of
from sensor.service_site import Site
from sensor.service_sources import REFUSALS as SOURCE_REFUSALS
from sensor.service_sources import listening
from sensor.service_sources import trial as try_sources
from sensor.service_warm import warm
from sensor.sinks.lines import NO_ROOM, SinkFailed
from sensor.sources.zeek_source import ZeekRefused
from sensor.vocabulary import VocabularyDoesNotFit

LOCK = "lock"
"""File in the state folder that a running sensor holds."""
LOCK_S = 1.0
"""Seconds for which the lock is asked for: a trial looks at it for a moment, and must not keep a start out."""
STATE_MODE = 0o750
"""Of a state folder that is made: what lies there tells who spoke with whom."""
SERVICE_USER = "netseq"
"""Whom systemd/netseq-sensor.service runs as (systemd/sysusers.d)."""
OF_THE_UNIT = (Path("/var/lib/netseq"), Path("/var/log/netseq"))
"""Folders that systemd makes for the service when they are not there (StateDirectory, LogsDirectory)."""

REFUSALS = (ModelDoesNotFit, VocabularyDoesNotFit, IgnoreRefused, SinkFailed, OutOfMemoryError, *SOURCE_REFUSALS)


class Refused(Exception):  # noqa: N818  # reads as the sentence it is, like the other refusals
    """The sensor cannot begin, or cannot take over new settings; `str(error)` is the one line for the operator.

    `passing` tells of what another try may find mended, a full disk.
    """

    def __init__(self, line: str, *, passing: bool = False) -> None:
        super().__init__(line)
        self.passing = passing


class Finding(NamedTuple):
    """What a trial found: that something is well, or what to know about it."""

    word: Literal["ok", "note"]
    line: str


def trial(settings: Settings, *, running: Settings | None = None) -> Iterator[Finding]:
    """Try what a start needs, and yield what was found; where a sensor is `running`, only what differs from its settings.

    Raises Refused or ConfigError at the first thing that a start would be refused for.
    """

    def asked(*names: str) -> bool:
        return running is None or bool(differing(running, settings, names))

    check_together(settings)
    yield Finding("ok", "settings")
    state_dir = Path(settings.service.state_dir)
    try:
        if asked("capture", "zeek"):
            yield from _sources(settings)
        if asked("service.state_dir"):
            yield from _state(state_dir)
        if running is None:  # a reload loads models and lists itself
            models = load_models(settings, site=None if settings.model.path else Site(state_dir).current())
            warm(settings, models.words, models.flows, models.device)
            yield Finding("ok", f"model {models.name}")
            Ignored.read(settings.detect.ignore)
            if settings.detect.ignore:
                yield Finding("ok", f"list of what never alerts, {settings.detect.ignore}")
        if asked("hec", "syslog"):
            yield from (Finding("ok", line) for line in receivers(settings))
        if settings.zeek.alerts and asked("zeek"):
            zeek_of(settings, "").close()
            yield Finding("ok", f"alerts to Zeek at {settings.zeek.alerts_connect}")
    except REFUSALS as refused:
        raise Refused(str(refused)) from refused
    except OSError as error:
        raise Refused(f"{listening(settings)}: {error.strerror}") from error
    if settings.service.metrics and asked("service.metrics"):
        yield _metrics(settings.service.metrics)
    for name, path in _files(settings).items():
        if asked(name):
            if path.is_dir() or _unwritable(path):
                raise Refused(f"{name}: {path}: it cannot be written by this user")
            yield Finding("ok", f"alerts to {path}")
    if running is None:
        yield from service_notes(settings, SERVICE_USER)


def _sources(settings: Settings) -> Iterator[Finding]:
    """Try the sources; an address that is bound already may be by a sensor at work."""
    try:
        yield from (Finding("ok", line) for line in try_sources(settings))
    except ZeekRefused as refused:
        if not isinstance(refused.__cause__, zmq.ZMQError) or refused.__cause__.errno != errno.EADDRINUSE:
            raise
        yield Finding("note", f"{refused}: if not by the sensor that these settings are for, its start will be refused")
    if settings.zeek.road == "files" and not os.path.exists(settings.zeek.path):
        yield Finding("note", f"zeek.path: {settings.zeek.path} is not there yet: the sensor waits for it")


def _state(folder: Path) -> Iterator[Finding]:
    """Look whether the state folder can be written, or made, and whether a sensor is at work there."""
    if why := _unwritable(folder, inside=True):
        raise _no_state(folder, why)
    yield Finding("ok", f"state in {folder}")
    try:
        held = os.open(folder / LOCK, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:  # not there yet, or another user's
        return
    try:
        fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        yield Finding("note", f"a netseq-sensor is at work in {folder}: another one needs another service.state_dir")
    finally:
        os.close(held)


def _metrics(address: str) -> Finding:
    """Listen on the address for a moment. Raises Refused, or ConfigError for what is no address."""
    try:
        listen(address).close()
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise Refused(str(error.strerror)) from error
        line = (
            f"service.metrics: {address} is in use: if not by the sensor that these settings are for, its start will be refused"
        )
        return Finding("note", line)
    return Finding("ok", f"metrics on {address}")


def _files(settings: Settings) -> dict[str, Path]:
    """The files of alerts, by the names of their settings."""
    named = {
        "output.alerts": settings.output.alerts if settings.output.alerts != "-" else "",
        "output.notice": settings.output.notice,
        "zeek.input_file": settings.zeek.input_file,
    }
    return {name: Path(path) for name, path in named.items() if path}


def _there(path: Path) -> Path:
    """The path itself, or the nearest folder above it that is there."""
    return next(place for place in (path.absolute(), *path.absolute().parents) if os.path.exists(place))


def _unwritable(path: Path, *, inside: bool = False) -> str:
    """Why a file, or with `inside` a folder, cannot be written or made by this user; "" if it can. Makes nothing."""
    there = _there(path)
    folder = inside or there != path.absolute()
    if folder and not there.is_dir():
        return os.strerror(errno.ENOTDIR)
    return "" if os.access(there, os.W_OK | (os.X_OK if folder else 0)) else os.strerror(errno.EACCES)


def service_notes(settings: Settings, user: str) -> Iterator[Finding]:
    """Tell root what `user`, as whom the service runs, could not do. Nothing where there is no such user."""
    try:
        known = pwd.getpwnam(user)
    except KeyError:
        return
    if os.geteuid() != 0 or known.pw_uid == 0:
        return
    written: Mapping[str, Path] = {"service.state_dir": Path(settings.service.state_dir), **_files(settings)}
    for name, path in written.items():
        there = _there(path)
        made_by_unit = any(folder in (path, *path.parents) and there in folder.parents for folder in OF_THE_UNIT)
        if not made_by_unit and not _may(known, "-w", there):
            todo = f"install -d -o {user} -g {user} -m 0750 {path if name == 'service.state_dir' else path.parent}"
            yield Finding("note", f"{name}: {path}: the service runs as {user}, who cannot write there: {todo}")
    read = {
        "capture.folder": settings.capture.folder,
        "model.path": settings.model.path,
        "detect.ignore": settings.detect.ignore,
    }
    for name, text in read.items():
        if text and not _may(known, "-r", Path(text)):
            yield Finding("note", f"{name}: {text}: the service runs as {user}, who cannot read it: chown or chmod it")


def _may(user: pwd.struct_passwd, what: str, path: Path) -> bool:
    """Ask test(1) as the user: the kernel then looks at every folder on the way, groups and access lists."""
    groups = os.getgrouplist(user.pw_name, user.pw_gid)
    try:
        asked = subprocess.run(
            ["test", what, path],
            user=user.pw_uid,
            group=user.pw_gid,
            extra_groups=groups,
            cwd="/",
            check=False,
        )
    except (OSError, subprocess.SubprocessError):  # in a container that lets nobody become another user: nothing is known
        return True
    return asked.returncode == 0


def state_folder(settings: Settings) -> Path:
    """The state folder, made if need be. Raises Refused when it cannot be written."""
    folder = Path(settings.service.state_dir)
    try:
        folder.mkdir(STATE_MODE, parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise _no_state(folder, error.strerror or str(error), passing=error.errno in NO_ROOM) from error
    return folder


def _no_state(folder: Path, why: str, *, passing: bool = False) -> Refused:
    todo = "make room there" if passing else "make it writable for this user, or set another folder"
    return Refused(f"service.state_dir: {folder}: {why}: {todo}", passing=passing)


def locked(folder: Path) -> io.FileIO:
    """Keep other sensors out of a state folder for as long as the file is open. Raises Refused."""
    until_s = time.monotonic() + LOCK_S
    try:
        held = io.FileIO(os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600), "r+")
        while not _taken(held):
            if time.monotonic() > until_s:
                raise Refused(
                    f"service.state_dir: {folder}: another netseq-sensor is at work there: end it, or set another folder"
                )
            time.sleep(LOCK_S / 20)
    except OSError as error:
        raise _no_state(folder / LOCK, error.strerror or str(error), passing=error.errno in NO_ROOM) from error
    return held


def _taken(held: io.FileIO) -> bool:
    """Take the lock, unless another has it."""
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
