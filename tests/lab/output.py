"""What a run leaves in its folder besides the capture: records of its attacks, the label file made of them, the manifest.

The label file is written from what the attacks' own processes told, never from what was planned: an attack that was ended
in the middle is labelled as far as it went, and one that never began is not labelled at all. run.py calls this at the end
of a run, whatever ended it; check.py reads it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import mmap
import os
import platform
import shutil
import struct
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from sensor import __version__

from .site import LabError, Line, Plan, Site, Value

CAPTURE, LABELS, MANIFEST, CHECK = "capture.pcap", "labels.csv", "manifest.json", "check.txt"
HOSTS, SCHEDULE, DESCRIPTION = "hosts.json", "schedule.json", "description.toml"
INSTANCES, AGENTS, LOGS = "instances", "agents", "logs"
RESERVE = "reserve"

SERVICES, ATTACKS, CAPTURE_LOG = "services", "attacks", "capture.log"
"""What servers and attacks keep for themselves, and what tcpdump said."""

OURS = (
    *(CAPTURE, CAPTURE_LOG, LABELS, MANIFEST, CHECK, HOSTS, SCHEDULE, DESCRIPTION),
    *(RESERVE, INSTANCES, AGENTS, LOGS, SERVICES, ATTACKS),
)
"""All that a run makes in its folder."""

RESERVE_BYTES = 4 << 20
"""Kept free from the start, and given back at the end: on a full disk the labels must still be written. They have less than
a megabyte."""

LINGER_US = 4_000_000
"""How long after an attack's end a flow may begin that is still its own: the answer that was on its way, the segment that
is sent again. Less than the five seconds for which the schedule keeps a host quiet before and after."""

T = TypeVar("T")

COLUMNS = "from,to,src,dst,src_port,dst_port,protocol,label,both"
NOBODY_KNOWS = "Unknown"
"""The label of what an attack sent that left no record: neither learned from nor measured on (docs/labels.md)."""

FAILED = "failed: "

PCAP_HEADER, PCAP_RECORD, CAPTURED_AT = 24, 16, 8
"""Bytes before the first packet and before each packet, and where among these the number of bytes captured stands."""
LITTLE_ENDIAN = (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1")
"""How such a file begins, with times in microseconds or nanoseconds (draft-ietf-opsawg-pcap, 4)."""


@dataclass(frozen=True, slots=True)
class Instance:
    """What the process of an attack told of it: instances/NAME.json."""

    name: str
    kind: str
    label: str
    attacker: str
    victims: tuple[str, ...]
    start_us: int
    """Before its tool began, and after it had ended."""
    end_us: int
    lines: tuple[Line, ...]
    tool: str = ""
    version: str = ""
    command: str | list[str] = ""
    given: Mapping[str, Value] = field(default_factory=dict)
    outcome: str = ""


@dataclass(frozen=True, slots=True)
class Begun:
    """An attack that the run started, whether or not it left a record."""

    name: str
    start_us: int
    end_us: int
    status: int | None
    """Of its process; None if it had to be ended."""


@dataclass(slots=True)
class Manifest:
    """What manifest.json tells of a run: what it was made of, with what, how it ended, and what came out."""

    netseq: str
    description: str
    run: str
    seed: int
    seconds: float
    compression: float
    start_us: int
    """Zero of the schedule's clock."""
    end_us: int
    ended: str
    """whole, or what ended it before its time."""
    link: str
    """What delays and loses packets: netem or userspace."""
    capture: dict[str, int]
    """Packets sent inside, copied to the capture, captured, and dropped by tcpdump."""
    attacks: list[Begun]
    events: dict[str, int]
    """Ordinary events done, and failed by reason."""
    died: list[str]
    """What ended before its time, with the last that it said."""
    versions: dict[str, str]
    sha256: dict[str, str]
    """Of every file that the data set is made of."""

    def write(self, folder: Path) -> None:
        """Write manifest.json."""
        (folder / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read manifest.json; LabError where a run has left none."""
        return decoded(folder / MANIFEST, cls)


def decoded(path: Path, kind: type[T]) -> T:
    """The content of a file of a run; LabError where it is not there, or not what it should be."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        raise LabError(f"{path}: not there: {path.parent} holds no run of the laboratory that came to its end") from None
    except msgspec.DecodeError as error:
        raise LabError(f"{path}: {error}") from None


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep a run's folder for one run, which --replace by another would delete under it; LabError where one goes on already.

    The kernel lets go of it with the process, however that ends.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise _unwritable(folder, error) from None
    try:
        fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(place)
        raise LabError(f"{folder}: a run is going on there: wait for its end, or name another folder") from None
    except OSError as error:
        os.close(place)
        raise _unwritable(folder, error) from None
    try:
        yield
    finally:
        os.close(place)


def prepare(folder: Path, *, replace: bool) -> None:
    """Make the folder of a run, empty but for the reserve. LabError where there is something in it, or no room.

    `replace` takes away what an earlier run left there, and nothing else.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if replace and (folder / SCHEDULE).is_file():
            _clear(folder)
        left = sorted(found.name for found in folder.iterdir())
    except OSError as error:
        raise _unwritable(folder, error) from None
    if left:
        raise LabError(f"{folder}: is not empty ({left[0]}): name another folder, or --replace an earlier run")
    with _all_or_nothing(folder):
        for name in (INSTANCES, AGENTS, LOGS):
            (folder / name).mkdir()
        (folder / RESERVE).write_bytes(bytes(RESERVE_BYTES))


def write_plan(folder: Path, description: Path, site: Site, plan: Plan) -> None:
    """Write what a run is made of into its prepared folder. LabError, and nothing is left in it, where there is no room."""
    with _all_or_nothing(folder):
        shutil.copyfile(description, folder / DESCRIPTION)
        site.write(folder / HOSTS)
        plan.write(folder / SCHEDULE)


@contextlib.contextmanager
def _all_or_nothing(folder: Path) -> Iterator[None]:
    """Leave nothing of ours behind a failure: what is left would be in the way of the next run."""
    try:
        yield
    except BaseException as error:  # Ctrl-C too; it goes on
        _clear(folder)
        if isinstance(error, OSError):
            raise _unwritable(folder, error) from None
        raise


def _unwritable(folder: Path, error: OSError) -> LabError:
    return LabError(f"{folder}: {error.strerror}: a run needs a folder that it can write to")


def _clear(folder: Path) -> None:
    for name in OURS:
        found = folder / name
        if found.is_dir() and not found.is_symlink():
            shutil.rmtree(found)
        else:
            found.unlink(missing_ok=True)


def give_back_reserve(folder: Path) -> None:
    """Make room for what is written at the end."""
    (folder / RESERVE).unlink(missing_ok=True)


def clear_services(folder: Path) -> None:
    """Take away what only the servers needed: a database, pages, keys. Their logs stay."""
    shutil.rmtree(folder / SERVICES, ignore_errors=True)


def instances(folder: Path) -> list[Instance]:
    """The records of all attacks that left one, in the order in which they began. LabError for a broken one."""
    found = [decoded(path, Instance) for path in sorted((folder / INSTANCES).glob("*.json"))]
    return sorted(found, key=lambda one: (one.start_us, one.name))


def write_labels(folder: Path, site: Site, plan: Plan, begun: Sequence[Begun], start_us: int) -> None:
    """Write labels.csv from the records; the attacks of `begun` without one are labelled as what nobody judged."""
    lines = list(label_lines(site, instances(folder), begun, {one.name: one.attacker for one in plan.attacks}, start_us))
    (folder / LABELS).write_text("\n".join(lines) + "\n", encoding="utf-8")


def label_lines(
    site: Site, told: Sequence[Instance], begun: Iterable[Begun], attackers: Mapping[str, str], start_us: int
) -> Iterator[str]:
    """The lines of labels.csv. Later attacks come first: an earlier one lingers, and must not take their flows."""
    yield "# A run of the laboratory (docs/lab.md): each attack has a comment, below it the lines of its flows. Times are UTC."
    yield f"# What begins within {LINGER_US // 1_000_000} s after an attack's end is still its own. Later attacks come first."
    yield COLUMNS
    recorded = {one.name for one in told}
    for one in sorted(told, key=lambda one: (-one.start_us, one.name)):
        yield _comment(one, site, start_us)
        for line in one.lines:
            ends = (_time(one.start_us), _time(one.end_us + LINGER_US))
            fields = (line.src, line.dst, line.src_port, line.dst_port, line.protocol, line.label or one.label)
            yield ",".join((*ends, *fields, "" if line.both else "no"))
    for lost in begun:
        if lost.name not in recorded:
            yield f"# {lost.name}: left no record, so nobody knows which flows are its own"
            attacker = site[attackers[lost.name]]
            for address in (*attacker.ipv4, *attacker.ipv6):
                yield ",".join((_time(lost.start_us), _time(lost.end_us + LINGER_US), address, *[""] * 4, NOBODY_KNOWS, ""))
    yield "# all the rest"
    yield ",,,,,,,BENIGN,"


def _comment(one: Instance, site: Site, start_us: int) -> str:
    """What a person, or check.py, reads of an attack above its lines."""
    minute = int((one.start_us - start_us) / 1e6 * site.compression) // 60
    given = msgspec.json.encode(dict(one.given)).decode()
    told = (
        f"# {one.name}: {one.attacker} against {' '.join(one.victims) or 'nobody in particular'}",
        f"{_time(one.start_us)} to {_time(one.end_us)}, {minute // 60} h {minute % 60:02} min into the working day",
        f"{one.tool} {one.version}".strip() or "no tool",
        given,
        one.outcome or "no outcome told",
    )
    return "; ".join(told).replace("\n", " ")


def _time(ts_us: int) -> str:
    """A time as label files have it."""
    return datetime.fromtimestamp(ts_us // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{ts_us % 1_000_000:06}"


def mend(capture: Path) -> int:
    """Cut what was half written off a capture's end (classic pcap, as tcpdump writes it); bytes that were cut off.

    A capture that was ended by a full disk ends in the middle of a packet, and every reader complains of it.
    """
    size = capture.stat().st_size
    if size < PCAP_HEADER:
        return 0
    with capture.open("r+b") as opened:
        with mmap.mmap(opened.fileno(), size, access=mmap.ACCESS_READ) as data:
            length = struct.Struct("<I" if data[:4] in LITTLE_ENDIAN else ">I")
            at = PCAP_HEADER
            while at + PCAP_RECORD <= size:
                behind = at + PCAP_RECORD + length.unpack_from(data, at + CAPTURED_AT)[0]
                if behind > size:
                    break
                at = behind
        opened.truncate(at)
    return int(size - at)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of the files that the data set is made of, those that are there."""
    found = {}
    for name in (CAPTURE, LABELS, HOSTS, SCHEDULE, DESCRIPTION):
        path = folder / name
        if path.is_file():
            with path.open("rb") as content:
                found[name] = hashlib.file_digest(content, "sha256").hexdigest()
    return found


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of netseq, Python, the kernel, and of Debian packages as dpkg tells them; "unknown" without dpkg."""
    found = {"netseq": __version__, "python": platform.python_version(), "linux": platform.release()}
    wanted = sorted(set(packages))
    if not wanted:
        return found
    query = ["dpkg-query", "--show", "--showformat=${Package} ${Version}\n", *wanted]
    try:
        said = subprocess.run(query, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        said = ""
    known = dict(line.split(" ", 1) for line in said.splitlines() if " " in line)
    return found | {package: known.get(package) or "unknown" for package in wanted}


class _Agent(msgspec.Struct):
    """What is read of agents/HOST.json, by activity."""

    done: dict[str, int] = {}
    failed: dict[str, dict[str, int]] = {}
    cut: dict[str, int] = {}
    never: dict[str, int] = {}


def events(folder: Path) -> dict[str, int]:
    """Ordinary events of all hosts: done, cut (under way at the end), never begun, and by activity and reason "failed: ..."."""
    total = {"done": 0, "cut": 0, "never begun": 0}
    for path in sorted((folder / AGENTS).glob("*.json")):
        told = decoded(path, _Agent)
        total["done"] += sum(told.done.values())
        total["cut"] += sum(told.cut.values())
        total["never begun"] += sum(told.never.values())
        for activity, reasons in told.failed.items():
            for reason, number in reasons.items():
                name = f"{FAILED}{activity}: {reason}"
                total[name] = total.get(name, 0) + number
    return total


def failures(told: Mapping[str, int]) -> int:
    """How many of these events failed."""
    return sum(number for name, number in told.items() if name.startswith(FAILED))
