"""The runs of the live benchmark: a real sensor, or NFStream, on one end of a wire and tcpreplay at the other.

Every run holds what was sent against what was read and dropped, to the packet. CPU is what the kernel's accounts say of the
sensor, of the sender, and of all else on the machine, so that a reader sees what the rest of it did meanwhile. `live` puts
the runs together.
"""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from benchmarks.live_sensor import DROPPED, IN_FLOWS, READ, SKIPPED, TICKS, Metrics, Sensor, running, since
from benchmarks.live_wire import FAR, Sender, Sent, Wire, wait_until
from benchmarks.measure import CommandError
from benchmarks.peers import Peer
from benchmarks.run_live_flood import Told

HERE = Path(__file__).parent
SAMPLE_S = 1.0
SILENT_S = 3.0
"""NFStream tells what it counted each second; when it tells the same for so long it has counted all that it will."""
END_S = 30.0


class Run(NamedTuple):
    """What one run of the sensor came to."""

    sent: Sent
    metrics: Metrics
    """What was counted while it ran."""
    cpu_s: float
    """Of the sensor while it was sent to."""
    others_s: float
    """CPU of all that is neither sensor nor sender."""
    resident_bytes: list[int]
    """Of the sensor, each second."""

    @property
    def read(self) -> int:
        """Packets that the sensor read."""
        return int(self.metrics.total(READ))

    @property
    def dropped(self) -> int:
        """Packets that the kernel dropped before the sensor."""
        return int(self.metrics.total(DROPPED))

    @property
    def rate(self) -> float:
        """Packets a second that the sensor read."""
        return self.read / self.sent.seconds


class Heard(NamedTuple):
    """What one run of NFStream came to."""

    sent: Sent
    counted: int
    dropped: int
    """As it tells them itself."""

    @property
    def rate(self) -> float:
        """Packets a second that it counted."""
        return self.counted / self.sent.seconds


@contextlib.contextmanager
def sensor(wire: Wire, *changes: str) -> Iterator[Sensor]:
    """A sensor that is ready, its files in a folder that goes with it."""
    with tempfile.TemporaryDirectory(prefix="netseq-live-") as place, running(wire, Path(place), *changes) as listening:
        yield listening
        listening.end()


def send(wire: Wire, listening: Sensor, capture: Path, *options: str) -> Run:
    """Send a capture, and wait until the sensor has it. Raises CommandError when the counters do not add up."""
    before, settled = listening.metrics(), listening.settled()
    cpu_s, busy_s = listening.usage().cpu_s, _busy_s()
    sender = wire.begin(capture, *options)
    curve = []
    try:
        while sender.running:
            curve.append(listening.usage().resident_bytes)
            time.sleep(SAMPLE_S)
        sent = sender.end()
    finally:
        sender.close()
    used_s = listening.usage().cpu_s - cpu_s
    others_s = max(0.0, _busy_s() - busy_s - used_s - sent.cpu_s)
    wait_until(lambda: listening.settled() - settled >= sent.packets, f"{sent.packets:,} packets, read or dropped", END_S)
    run = Run(sent, since(before, listening.metrics()), used_s, others_s, curve)
    wrong = check(run)
    if wrong:
        raise CommandError(f"the sensor's counters do not add up: {wrong}")
    return run


def check(run: Run) -> str:
    """Say what does not add up, "" when all does."""
    in_flows, skipped = (int(run.metrics.total(name)) for name in (IN_FLOWS, SKIPPED))
    if run.read + run.dropped != run.sent.packets:
        return f"{run.read} packets read and {run.dropped} dropped, but {run.sent.packets} sent"
    if in_flows + skipped != run.read:
        return f"{in_flows} packets in flows and {skipped} skipped, but {run.read} read"
    return ""


def nfstream(wire: Wire, peer: Peer, capture: Path, *options: str) -> Heard:
    """Send a capture to NFStream. Raises CommandError when it does not begin to count."""
    python = peer.command[0]
    with tempfile.TemporaryFile("w+") as said:
        command = [*wire.listening, python, "-u", str(HERE / "run_nfstream_live.py"), FAR]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, text=True)

        def told() -> list[str]:
            said.flush()
            text = os.pread(said.fileno(), 1 << 24, 0).decode(errors="replace")
            if process.poll() is not None:
                raise CommandError(f"NFStream ended: {text.strip().rpartition(chr(10))[2]}")
            return [line for line in text.splitlines() if line.startswith("{")]

        sender: Sender | None = None
        try:
            wait_until(lambda: len(told()) > 1, "NFStream counts")
            sender = wire.begin(capture, *options)
            sent = sender.end()
            silent = round(SILENT_S)
            wait_until(lambda: len(set(_counts(told())[-silent:])) == 1 < len(told()), "NFStream is done", END_S)
            counted, dropped = _counts(told())[-1]
        finally:
            if sender is not None:
                sender.close()
            _interrupt(process)
    return Heard(sent, counted, dropped)


def _counts(lines: list[str]) -> list[tuple[int, int]]:
    """Packets counted and dropped, of each line that NFStream printed."""
    reports = [msgspec.json.decode(line) for line in lines]
    counted = ("packets_processed", "packets_ignored")
    return [(sum(report[name] for name in counted), report["packets_dropped_filtered_by_kernel"]) for report in reports]


def _interrupt(process: subprocess.Popen[str]) -> None:
    """End NFStream as a user does; its meters are ended by it."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(END_S)


def flood(ordinary: Path, addresses: int, packets_per_s: int) -> Told:
    """Run the flood in a process of its own. Raises CommandError when it fails, or its counters do not add up."""
    command = [sys.executable, "-m", "benchmarks.run_live_flood", str(ordinary), str(addresses), str(packets_per_s)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, cwd=HERE.parent)
    if done.returncode:
        raise CommandError(f"the flood failed: {done.stderr.decode(errors='replace').strip().rpartition(chr(10))[2]}")
    told = msgspec.json.decode(done.stdout, type=Told)
    wrong = check_flood(told)
    if wrong:
        raise CommandError(f"the flood's counters do not add up: {wrong}")
    return told


def check_flood(told: Told) -> str:
    """Say what does not add up, "" when all does."""
    counters = told.counters
    read, placed = counters["packets_read"], counters["packets_in_flows"] + _total(counters, "packets_skipped")
    if read != placed:
        return f"{read} packets read, but {placed} in flows or skipped"
    ended, settled = _total(counters, "flows_ended"), counters["words_scored"] + sum(told.shed.values())
    if ended != settled:
        return f"{ended} flows ended, but {settled} scored or shed"
    return ""


def _total(counters: dict[str, int], name: str) -> int:
    return sum(count for key, count in counters.items() if key.partition(".")[0] == name)


def growth(curve: list[int]) -> float:
    """By which share memory is larger in the last tenth of a curve than half-way (medians). Raises CommandError."""
    if len(curve) < 2 * 10:
        raise CommandError(f"memory was looked at {len(curve)} times only: send for longer")
    tenth, half = len(curve) // 10, len(curve) // 2
    return statistics.median(curve[-tenth:]) / statistics.median(curve[half : half + tenth]) - 1


def _busy_s() -> float:
    """CPU seconds of all cores so far, but for idle ones (proc(5): the first line of /proc/stat)."""
    user, nice, system, _idle, _wait, *interrupts = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:])
    return (user + nice + system + sum(interrupts[:2])) / TICKS
