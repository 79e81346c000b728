"""The site's record: every flow that was scored goes into conn.logs on disk, to learn the site from, now and later.

The scoring thread only hands a batch over; a thread of its own makes lines of it, compresses and writes them. What it cannot
follow with is left out and counted, and so is what the disk does not take: a record with holes is still a record, but a
sensor that waits for its disk is none. Besides, it keeps account of how much of the site was seen (`Seen`), for that decides
when a new sensor has learned enough, and of what alerted (`service_alerted`), which must not be learned from.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from sensor.schema import V4_MAPPED, Alert, FlowBatch
from sensor.service_alerted import AFTER_US, NAME, Alerted, attacker_of, by_rule, victim_of
from sensor.service_record_files import PIECE_ROWS, NoRoom, RecordFiles, warm
from sensor.sinks.lines import SinkFailed

HOUR_US = 3_600_000_000
WAITING_FLOWS = 32_768
"""Flows that may wait to be written: 20 MB of them, and a quarter of a second of the fastest scoring."""
WAITING_ALERTS = 4096
RETRY_S = 30.0
"""Seconds after a failed write until the next is tried; flows that come meanwhile are counted as unrecorded."""
CLOSE_S = 2.0
"""Seconds that the end waits for what is still to be written: the whole sensor has ten."""
SILENCE_US = 900_000_000
"""A time without flows counts as time spent learning up to here: a sensor that was off has learned nothing in the night."""
HOUR_PAIRS = 1 << 17
"""Pairs of one hour that are counted; a flood of addresses has more, and is no reason to end learning sooner."""
BACK_HOURS = 2
"""A batch belongs to the hour before when flows end late; further back, the clock was set back."""
LOW = (1 << 64) - 1
"""The lower half of an address: IPv4, in the mapped form, has no other."""
ATTACKERS = 4096
"""Hosts caught by a fixed rule, or flooded, whose flows are not recorded; of more, the latest."""

Tell = Callable[[str, str], None]
"""Takes the name of an event and a line about it."""


class Seen(msgspec.Struct):
    """How much of the site was seen since learning began; what outlives a restart of the sensor."""

    flows: int = 0
    conversation_hours: int = 0
    learned_us: int = 0
    """Packet time with flows in it; each silence counts SILENCE_US at most."""
    since_us: int = 0
    """Packet time of the first batch."""
    latest_us: int = 0
    model_alerts: int = 0
    """Alerts of models."""


class Recorder:
    """Records into `folder`: `keep_days` days' worth of hours with flows, on at most `disk_mib` MiB, all files in it together.

    `record` takes the batches in the order of scoring; they must not be changed afterwards. Raises nothing: a folder that
    cannot be written is told once, and tried again every RETRY_S.
    """

    def __init__(self, folder: Path, *, keep_days: float, disk_mib: int, tell: Tell) -> None:
        self.seen = Seen()
        self.heeds_models = True
        """Whether a model's alerts keep their conversations out of training: not while a sensor learns, for the model that
        comes along may find a whole site unusual, and nothing would be left to learn from."""
        self._folder = folder
        self._keep_hours = max(1, round(keep_days * 24))
        self._limit_bytes = disk_mib << 20
        self._tell = tell
        self._counts: Counter[str] = Counter()
        self._waiting: deque[FlowBatch] = deque()
        self._waiting_flows = 0
        self._alerts: deque[Alert] = deque(maxlen=WAITING_ALERTS)
        self._wake = threading.Condition()
        self._closed = False
        self._files: RecordFiles | None = None
        self._alerted: Alerted | None = None
        self._failed_s = -RETRY_S
        self._failing = False
        self._hour_us = 0
        self._pairs: set[int] = set()
        self._pairs_before: set[int] = set()
        self._attackers: dict[int, int] = {}
        self._victims: dict[int, int] = {}
        warm()
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="record", daemon=True)
        self._thread.start()

    def record(self, batch: FlowBatch, alerts: Sequence[Alert]) -> None:
        """Take scored flows, and the alerts that they raised. Never waits for the disk."""
        rows = len(batch.flows)
        with self._wake:
            self._alerts.extend(alerts)
            if self._closed or (self._waiting and self._waiting_flows + rows > WAITING_FLOWS):
                self._counts["queue"] += rows
                return
            self._waiting.append(batch)
            self._waiting_flows += rows
            self._wake.notify()

    def close(self) -> None:
        """Write what waits, for CLOSE_S at most, and end the file properly; what is left is counted."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join(CLOSE_S)
        with self._wake:
            self._counts["queue"] += self._waiting_flows
            self._waiting.clear()
            self._waiting_flows = 0

    def flush(self, timeout_s: float) -> bool:
        """Wait until nothing waits to be written; tells whether that came in time."""
        with self._wake:
            return self._wake.wait_for(lambda: not self._waiting_flows and not self._alerts, timeout_s)

    def counters(self) -> dict[str, int]:
        """What was counted so far, by the names of `sensor.metrics`."""
        unrecorded = {
            f"flows_unrecorded.{why}": number for why, number in self._counts.copy().items() if why != "recorded" and number
        }
        return {"flows_recorded": self._counts["recorded"], **unrecorded}

    @property
    def total_bytes(self) -> int:
        """Bytes that the record takes on disk."""
        return self._files.total_bytes if self._files is not None else 0

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # the control loop tells of it, and ends the sensor
            self.error = error

    def _work(self) -> None:
        """Write until the end; the record's own trouble is told and counted, and never the scoring's."""
        while True:
            with self._wake:
                self._wake.wait_for(lambda: bool(self._waiting or self._alerts or self._closed))
                batch = self._waiting[0] if self._waiting else None
                alerts = list(self._alerts)
                if batch is None and not alerts:  # closed
                    break
            self._account(alerts)
            if batch is not None:
                self._write(batch)
            with self._wake:
                for _ in alerts:
                    self._alerts.popleft()
                if batch is not None and self._waiting:
                    self._waiting.popleft()
                    self._waiting_flows -= len(batch.flows)
                self._wake.notify_all()
        if self._files is not None:
            self._files.close()

    def _account(self, alerts: Sequence[Alert]) -> None:
        """Remember what alerted."""
        for alert in alerts:
            if attacker := attacker_of(alert):
                _newest(self._attackers, _number(attacker), 0)
            if victim := victim_of(alert):
                _newest(self._victims, _number(victim), alert.last_seen_us + AFTER_US)
        models = [alert for alert in alerts if not by_rule(alert)]
        self.seen.model_alerts += len(models)
        heeded = [alert for alert in alerts if by_rule(alert) or self.heeds_models]
        if heeded and self._opened():
            assert self._files is not None
            assert self._alerted is not None
            try:
                self._alerted.add(heeded, _hour_us(self._files.oldest_hour))
                self._files.other_bytes = self._alerted.size
            except OSError as error:
                self._fail(f"{self._alerted.path}: {error.strerror}: what alerted now may be learned as ordinary later")

    def _write(self, batch: FlowBatch) -> None:
        """Write one batch, as far as the disk takes it."""
        batch = self._without_attacks(batch)
        if not len(batch.flows):
            return
        self._look(batch.flows)
        for start in range(0, len(batch.flows), PIECE_ROWS):
            rows = slice(start, start + PIECE_ROWS)
            piece = FlowBatch(batch.flows[rows], None if batch.uids is None else batch.uids[rows])
            self._counts[self._put(piece)] += len(piece.flows)

    def _put(self, piece: FlowBatch) -> str:
        """Write one piece; returns what became of it."""
        if not self._opened():
            return "disk"
        assert self._files is not None
        try:
            self._files.write(piece, self._hour_us)
        except NoRoom:
            return "room"
        except (OSError, SinkFailed) as error:
            said = error.strerror if isinstance(error, OSError) else str(error)
            self._fail(f"{self._folder}: {said}: flows are not recorded; tried again every {RETRY_S:.0f} s")
            return "disk"
        if self._failing:
            self._failing = False
            self._tell("record_goes_on", f"{self._folder}: flows are recorded again")
        return "recorded"

    def _opened(self) -> bool:
        """Open the folder if need be; not again at once after a failure."""
        if time.monotonic() - self._failed_s < RETRY_S:
            return False
        if self._files is None:
            try:
                files = RecordFiles(self._folder, keep_hours=self._keep_hours, limit_bytes=self._limit_bytes)
                self._alerted = Alerted(self._folder)
                files.other_bytes = self._alerted.size
                self._files = files
            except OSError as error:
                self._fail(f"{error.filename or self._folder}: {error.strerror or os.strerror(errno.EIO)}: nothing is recorded")
        return self._files is not None

    def _fail(self, line: str) -> None:
        self._failed_s = time.monotonic()
        if not self._failing:
            self._tell("record_stopped", line)
        self._failing = True

    def _without_attacks(self, batch: FlowBatch) -> FlowBatch:
        """Leave out flows of hosts that a fixed rule caught, and what a flood's victim did not answer.

        Training would leave them out, and a flood would push everything else out of the record.
        """
        if not self._attackers and not self._victims:
            return batch
        flows = batch.flows
        attack = _among(flows, "src", self._attackers) | _among(flows, "dst", self._attackers)
        flood = _among(flows, "dst", self._victims) & (flows["bwd"]["packets"] == 0)
        for row in np.flatnonzero(flood).tolist():
            attack[row] |= flows["last_us"][row] <= self._victims[_host(flows, "dst", row)]
        self._counts["attack"] += int(attack.sum())
        kept = np.flatnonzero(~attack)
        uids = None if batch.uids is None else [batch.uids[row] for row in kept.tolist()]
        return FlowBatch(flows[kept], uids) if attack.any() else batch

    def _look(self, flows: NDArray[np.void]) -> None:
        """Take account of time and conversation-hours."""
        seen, times = self.seen, np.sort(flows["last_us"])
        if seen.flows == 0:
            seen.since_us = seen.latest_us = int(times[0])
        seen.flows += len(flows)
        later = times[times > seen.latest_us]
        seen.learned_us += int(np.minimum(np.diff(later, prepend=seen.latest_us), SILENCE_US).sum())
        middle_us = int(times[len(times) // 2])  # single broken stamps neither open a file nor stop the account for long
        seen.latest_us = max(seen.latest_us, int(times[-1]))
        if seen.latest_us - middle_us > BACK_HOURS * HOUR_US:
            seen.latest_us = middle_us
        hour_us = middle_us // HOUR_US * HOUR_US
        if hour_us > self._hour_us or self._hour_us - hour_us > BACK_HOURS * HOUR_US:
            self._hour_us = hour_us
            self._pairs_before, self._pairs = self._pairs, set()
        if len(self._pairs) < HOUR_PAIRS:
            new = set(_pair_hours(flows).tolist()) - self._pairs_before - self._pairs
            seen.conversation_hours += len(new)
            self._pairs |= new


def _pair_hours(flows: NDArray[np.void]) -> NDArray[np.uint64]:
    """(m,) different numbers for the pairs of hosts in (n,) FLOW rows, whichever end began, and the hours they ended in."""
    mixed = np.zeros(len(flows), np.uint64)
    for end in ("src", "dst"):
        host = flows[f"{end}_hi"] * np.uint64(0x9E37_79B9_7F4A_7C15) ^ flows[f"{end}_lo"]
        host = (host ^ host >> np.uint64(30)) * np.uint64(0xBF58_476D_1CE4_E5B9)
        mixed += host ^ host >> np.uint64(27)
    return np.unique(mixed + (flows["last_us"] // HOUR_US).astype(np.uint64) * np.uint64(0x94D0_49BB_1331_11EB))


def _host(flows: NDArray[np.void], end: str, row: int) -> int:
    """The address of one end of a flow as 128 bits."""
    return int(flows[f"{end}_hi"][row]) << 64 | int(flows[f"{end}_lo"][row])


def _among(flows: NDArray[np.void], end: str, hosts: Mapping[int, int]) -> NDArray[np.bool_]:
    """(n,) FLOW rows whose `end` is one of `hosts`."""
    high, low = flows[f"{end}_hi"], flows[f"{end}_lo"]
    found = (high == 0) & np.isin(low, np.array([number for number in hosts if number <= LOW], np.uint64))
    # An address of IPv6 may end as one of IPv4 does.
    maybe = (high != 0) & np.isin(low, np.array([number & LOW for number in hosts if number > LOW], np.uint64))
    for row in np.flatnonzero(maybe).tolist():
        found[row] = _host(flows, end, row) in hosts
    return np.asarray(found)


def _newest(hosts: dict[int, int], number: int, value: int) -> None:
    """Put a host last; the first goes when there are too many."""
    hosts.pop(number, None)
    hosts[number] = value
    if len(hosts) > ATTACKERS:
        del hosts[next(iter(hosts))]


def _number(address: str) -> int:
    """An alert's address as 128 bits; 0 for what is none."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return 0
    return int(parsed) + (V4_MAPPED if parsed.version == 4 else 0)


def _hour_us(hour: str) -> int:
    """The packet time at which the hour of a file's name begins; 0 for none."""
    return int(np.datetime64(hour, "us").astype(np.int64)) if hour else 0


__all__ = ["NAME", "Recorder", "Seen"]
