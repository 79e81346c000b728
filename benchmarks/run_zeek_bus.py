"""The whole sensor beside a running Zeek: an outage, the way from a connection to its alert, and a sensor that cannot follow.

Zeek is the stand-in of the tests: its proxy and one node, real ZeroMQ sockets, in this process. The sensor is a process of its
own with its default word model. Four things are measured. An outage: connections at a steady rate, and in the middle of them
Zeek goes away with all that it holds and comes back; all that it sent must be scored. The way back: from sending the event
of the connection that breaks the rule of sweeps to hearing the alert. A slow model: more connections than the multi-flow
model can judge. A stalled disk: alerts go to a file system that is frozen (root alone can freeze one). In the last two, what
counts is how often Zeek's own send queue was full: never, or Zeek would stand still. Prints one JSON object. Needs the
extra "test".
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import msgspec

from benchmarks.measure import CommandError, Spread
from benchmarks.run_zeek import binary
from benchmarks.run_zeek_files import rows
from benchmarks.zeek import Beside, Outcome

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from sensor_process import Sensor, running, until
from test_service_zeek import ATTEMPTS, attempt, beside, tell
from zeek_standin import Zeek, event

RATE = 5_000
"""Connections a second: what the outage is promised at."""
EVENTS = 100_000
FAST = 20_000
"""Connections a second for a sensor that cannot follow."""
ALERTS = 30
PATIENCE_S = 120.0


def send(zeek: Zeek, payloads: Sequence[bytes], per_second: int) -> float:
    """Send events at a steady rate; the seconds that it took."""
    begun_s = time.perf_counter()
    for number, payload in enumerate(payloads):
        ahead_s = begun_s + number / per_second - time.perf_counter()
        if ahead_s > 0.001:
            time.sleep(ahead_s)
        zeek.publish("netseq.conn.", payload)
    return time.perf_counter() - begun_s


def judged(sensor: Sensor) -> tuple[int, int]:
    """Flows scored and flows shed so far."""
    return int(sensor.metric("netseq_words_scored_total")), int(sensor.metric("netseq_flows_shed_total"))


def outcome(zeek: Zeek, sensor: Sensor, sent: int, seconds: float) -> Outcome:
    """Wait until all that came is scored or shed, and tell."""
    with contextlib.suppress(AssertionError):
        until(lambda: sum(judged(sensor)) >= sent, PATIENCE_S)
    scored, shed = judged(sensor)
    return Outcome(sent, scored, shed, zeek.refused, seconds)


def outage(folder: Path, events: int) -> Outcome:
    """Send half, take Zeek away for two seconds, send the other half."""
    payloads = [binary(row) for row in islice(rows(events), events)]
    with Zeek() as zeek, beside(zeek, folder) as sensor:
        took_s = send(zeek, payloads[: events // 2], RATE)
        # What a killed Zeek had not sent is lost with it: all of this was sent.
        until(lambda: sensor.metric("netseq_zeek_messages_total") >= events // 2, PATIENCE_S)
        zeek.leave()
        time.sleep(2)
        zeek.come_back()
        zeek.await_subscription("netseq.conn.")
        took_s += send(zeek, payloads[events // 2 :], RATE)
        return outcome(zeek, sensor, events, took_s)


def alerts(folder: Path, count: int) -> Iterator[float]:
    """Yield the milliseconds from a connection's event to the alert that it causes."""
    with Zeek() as zeek, beside(zeek, folder) as sensor:
        for src in range(1, count + 1):
            for dst in range(ATTEMPTS - 1):
                tell(zeek, attempt(src, dst, 1_700_000_000.0 + 100 * src + dst / 10))
            until(lambda told=src: sensor.metric("netseq_words_scored_total") >= told * ATTEMPTS - 1, PATIENCE_S)  # type: ignore[misc]
            sent_s = time.perf_counter()
            tell(zeek, attempt(src, ATTEMPTS - 1, 1_700_000_009.5 + 100 * src))
            zeek.received(1)
            yield (time.perf_counter() - sent_s) * 1e3


def overrun(folder: Path, events: int, *changes: str) -> Outcome:
    """Send faster than the sensor can follow."""
    payloads = [binary(row) for row in islice(rows(events), events)]
    own = ("zeek.road=zeromq", *changes)
    with Zeek() as zeek, running(folder, *own, f"zeek.address={zeek.xpub}") as sensor:
        zeek.await_subscription("netseq.conn.")
        return outcome(zeek, sensor, events, send(zeek, payloads, FAST))


def done(*command: str | Path) -> bool:
    """Run a command, and tell whether it could do what it was for."""
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextlib.contextmanager
def disk(folder: Path) -> Iterator[Path | None]:
    """A file system of its own that can be frozen; None where none can be made."""
    image, place = folder / "image", folder / "disk"
    place.mkdir(parents=True)
    with image.open("wb") as file:
        file.truncate(32 << 20)
    able = os.geteuid() == 0 and all(shutil.which(name) for name in ("mkfs.ext4", "fsfreeze"))
    if not (able and done("mkfs.ext4", "-q", image) and done("mount", "-o", "loop", image, place)):
        yield None
        return
    try:
        yield place
    finally:
        done("umount", place)


@contextlib.contextmanager
def frozen(place: Path) -> Iterator[None]:
    """Every write on this file system waits. Raises CommandError."""
    if not done("fsfreeze", "-f", place):
        raise CommandError(f"{place} cannot be frozen")
    try:
        yield
    finally:
        done("fsfreeze", "-u", place)


def stalled(folder: Path, events: int) -> Outcome | None:
    """Send sweeps, whose alerts go to a frozen disk."""
    sweeps = [attempt(number // ATTEMPTS, number % ATTEMPTS, 1_700_000_000.0 + number / RATE) for number in range(events)]
    payloads = [event("NetSeq::conn", [connection]) for connection in sweeps]
    with disk(folder) as place:
        if place is None:
            return None
        changes = ("zeek.road=zeromq", f"output.alerts={place}/alerts.jsonl")
        with Zeek() as zeek, running(folder / "sensor", *changes, f"zeek.address={zeek.xpub}") as sensor:
            zeek.await_subscription("netseq.conn.")
            with frozen(place):
                return outcome(zeek, sensor, events, send(zeek, payloads, RATE))


def measured(*, quick: bool) -> Beside:
    """Measure all four."""
    share = 20 if quick else 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return Beside(
            outage(folder / "outage", EVENTS // share),
            Spread.of(list(alerts(folder / "alerts", ALERTS // (10 if quick else 1)))),
            overrun(folder / "slow", 10 * FAST // share, "model.multiflow=default"),
            stalled(folder, 4 * RATE // share),
        )


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(measured(quick=sys.argv[1:2] == ["--quick"])))
