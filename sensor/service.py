"""netseq as a service: what runs, what it is told by signals, and what it leaves behind when it ends.

Capture workers put flows into a queue, the scoring thread takes them out, a writer's thread carries alerts away. The main
thread runs the control loop here: it feeds the watchdog, saves the state, reloads, and tells of losses. None of the threads
waits for one further down the path. A thread that fails ends the sensor, with status 1 and the reason in the log, for the
service manager starts it anew, and half a sensor is worse than none.

`service_parts` puts together what runs; `commands/sensor.py` calls `run`.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Mapping

from sensor import __version__
from sensor.config import ConfigError, Settings
from sensor.metrics import total
from sensor.service_capture import Worker
from sensor.service_degraded import degraded, drop_share, interfaces, since
from sensor.service_metrics import Exporter, Look
from sensor.service_notify import Notifier
from sensor.service_outlets import Outlets
from sensor.service_parts import Parts
from sensor.service_record import Recorder
from sensor.service_scoring import Scoring
from sensor.service_signals import ENDING, Signals
from sensor.service_state import Snapshot, take, write
from sensor.service_trial import Refused

ROUND_S = 0.5
"""Seconds between two rounds of the control loop."""
DEGRADED_S = 60.0
"""Seconds between two looks at what was lost."""
DRAIN_S = 7.0
"""Seconds for scoring what was captured, after a request to end: the end is due within ten."""
PATIENT_S = 3.0
"""The same where what is not scored can be kept on disk instead."""
KEPT_S = 6.0
"""Seconds after a request to end within which that is on disk: 210 MB with tables of the usual sizes, all full."""
LAST_S = 1.0
"""Seconds at least for each of the last steps, writing alerts and state."""
END_S = 9.0
"""Seconds after which the end does not wait for a disk any more."""
ENDED_WITH = ("alerts_written", "flows_shed", "alerts_waiting", "alerts_lost")
"""Counters that the last line of the log tells, since the state was first begun."""
STUCK_S = 30.0
"""Seconds without a round of the scoring thread, or of a capture worker, after which it counts as stuck."""
DONE, FAILED = 0, 1


class Service:
    """A sensor that runs until it is told to end. `read` reads the settings anew for a reload, and raises ConfigError.

    `begun_s` is the monotonic time at which the process began its work. Raises Refused when the port for metrics cannot be
    listened on.
    """

    def __init__(
        self, parts: Parts, read: Callable[[], Settings], notifier: Notifier, signals: Signals, *, begun_s: float
    ) -> None:
        self._parts = parts
        self._read = read
        self._notifier = notifier
        self._signals = signals
        self._begun_s = begun_s
        self._ready = self._stopping = self._untold = False
        self._saved_s = self._looked_s = time.monotonic()
        self._saver: threading.Thread | None = None
        self._before = self._parts.counters()
        self._drop_share = 0.0
        self._told = ""
        address = parts.settings.service.metrics
        try:
            self._exporter = Exporter(address, self.look) if address else None
        except (OSError, ConfigError) as error:
            raise Refused(str(error.strerror) if isinstance(error, OSError) else str(error)) from error

    def run(self) -> int:
        """Start everything, work until a signal ends it, and end everything in order; returns the exit status."""
        parts = self._parts
        self._signals.handle(ENDING)
        if self._exporter is not None:
            self._exporter.start()
        parts.scoring.start()
        for worker in parts.workers:
            worker.start()
        self._ready = True
        self._notifier.ready(self._status_line())
        self._parts.log.info("ready", version=__version__, model=parts.models.name, seconds=round(self._age_s(), 2))
        status = self._control()
        self._end(status)
        if self._exporter is not None:
            self._exporter.close()
        return status

    def look(self) -> Look:
        """What the exporter shows; called by its threads."""
        parts = self._parts
        counters = self._parts.counters()
        why = self._unwell()
        return Look(
            counters=counters,
            status=self._status(counters),
            latency=parts.scoring.latency,
            alive=not why,
            ready=self._ready and not self._stopping and not why,
            why=why or ("ending" if self._stopping else "" if self._ready else "starting"),
            version=__version__,
            models=[name for name in (parts.models.name, parts.models.flows_name) if name],
        )

    def _control(self) -> int:
        """Come round until the end is asked for, or something failed; returns the exit status."""
        while True:
            for came in self._signals.wait(ROUND_S):
                if came in (signal.SIGTERM, signal.SIGINT):
                    return DONE
                if came == signal.SIGHUP:
                    self._reload()
                if came == signal.SIGUSR1:
                    self._parts.outlets.reopen()
                    self._parts.log.info("files_reopened")
            if failed := self._failed():
                self._parts.log.error("failed", exc_info=failed)
                return FAILED
            self._round()

    def _round(self) -> None:
        """What is due now."""
        parts, now_s = self._parts, time.monotonic()
        if not self._unwell():
            self._notifier.alive()
        if self._exporter is not None and not self._exporter.running and not self._untold:
            self._untold = True
            parts.log.error("metrics_stopped", todo="restart the sensor: it goes on without metrics, health and status")
        if now_s - self._saved_s >= parts.settings.service.save_s:
            self._saved_s = now_s
            parts.scoring.between_batches(self._save)
        if now_s - self._looked_s >= DEGRADED_S:
            self._tell_of_losses(now_s - self._looked_s)
            self._looked_s = now_s
        if parts.learner.tick(self._packet_us(), now_s):
            self._reload(parts.settings)  # the site's model has changed, and nobody asked for new settings
        parts.repeats.tick()
        if self._status_line() != self._told:
            self._told = self._status_line()
            self._notifier.status(self._told)

    def _tell_of_losses(self, seconds: float) -> None:
        """Raise the alert about the sensor itself, if there is reason to."""
        counters, now_us = self._parts.counters(), time.time_ns() // 1000
        grown = since(self._before, counters)
        self._before, self._drop_share = counters, drop_share(grown)
        alert = degraded(grown, ts_us=now_us, since_us=now_us - round(seconds * 1e6), model=self._parts.models.name)
        if alert is not None:
            self._parts.states["alerts_degraded"] += 1
            self._parts.log.warning("degraded", msg=alert.msg)
            self._parts.outlets.hand([alert])

    def _save(self) -> None:
        """Copy the state in the scoring thread, and let another thread write the copy."""
        if self._saver is not None and self._saver.is_alive():
            return  # a slow disk: the next minute will do
        snapshot = self._snapshot()
        self._saver = threading.Thread(target=self._write, args=(snapshot,), name="state", daemon=True)
        self._saver.start()

    def _snapshot(self) -> Snapshot:
        return take(self._parts.scoring.judge, self._parts.remembered())

    def _write(self, snapshot: Snapshot) -> None:
        self._parts.learner.keep()
        try:
            write(self._parts.state_file, snapshot)
            self._parts.states["states_saved"] += 1
            self._parts.unscored.saved()
        except OSError as error:
            self._parts.states["states_refused.write"] += 1
            self._parts.log.error("state_not_saved", file=str(self._parts.state_file), reason=error.strerror)

    def _reload(self, settings: Settings | None = None) -> None:
        """Take over settings, those on disk if not given, models and lists; or keep everything when one of them is bad."""
        self._notifier.reloading()
        try:
            later = self._parts.reload(self._read() if settings is None else settings)
        except (ConfigError, Refused) as error:
            self._parts.states["reloads.bad"] += 1
            self._parts.log.error("reload_refused", reason=str(error), kept="what was in force before")
        else:
            self._parts.states["reloads.good"] += 1
            self._parts.log.info("reloaded", model=self._parts.models.name, at_next_start=later)
        self._notifier.ready(self._status_line())

    def _end(self, status: int) -> None:
        """End the capture, score what was captured, write what is left: in the order of a packet's path."""
        parts = self._parts
        self._stopping = True
        self._notifier.stopping()
        begun_s = time.monotonic()
        until_s = begun_s + (PATIENT_S if parts.sources.patient else DRAIN_S)
        captured = self._end_capture(until_s)
        scored = parts.scoring.join(max(until_s - time.monotonic(), 0))
        if not scored or parts.queue.waiting:
            parts.unscored.put_by()
            scored = parts.scoring.join(LAST_S)
        whole = captured and scored and status == DONE and parts.scoring.error is None
        kept = parts.unscored.end(begun_s + KEPT_S, whole=whole)
        self._tell_of_losses(time.monotonic() - self._looked_s)
        lost_before = total(parts.counters(), "alerts_lost")
        closed = parts.outlets.close(LAST_S)  # before the state, which counts them
        parts.recorder.close()
        if status == DONE:
            self._save_last(begun_s + END_S, scored=scored)
        counted = {name: total(parts.counters(), name) for name in ENDED_WITH}
        written = closed and not counted["alerts_waiting"] and counted["alerts_lost"] == lost_before
        parts.log.info("ended", **counted, flows_kept=kept, everything_written=written)

    def _end_capture(self, until_s: float) -> bool:
        """End capture and learning, and let no more come; tells whether all that was captured is in the queue."""
        parts = self._parts
        if parts.sources.patient:
            parts.queue.make_room()
        for worker in parts.workers:
            worker.stop()
        parts.learner.close()
        ended = [worker.join(max(until_s - time.monotonic(), 0)) and worker.error is None for worker in parts.workers]
        parts.queue.close()
        return all(ended)

    def _save_last(self, until_s: float, *, scored: bool) -> None:
        """Write the state once more, where nobody changes it any more and the disk is there."""
        if self._saver is not None:
            self._saver.join(max(until_s - time.monotonic(), LAST_S))
        if not scored or (self._saver is not None and self._saver.is_alive()):
            self._parts.states["states_refused.write"] += 1
            why = "the last one is still being written" if scored else "scoring did not end"
            self._parts.log.error("state_not_saved", file=str(self._parts.state_file), reason=why)
            return
        self._save()
        if self._saver is not None:
            self._saver.join(max(until_s - time.monotonic(), LAST_S))

    def _failed(self) -> BaseException | None:
        """What ended a thread that should run."""
        parts = self._parts
        threads: list[Worker | Scoring | Outlets | Recorder] = [*parts.workers, parts.scoring, parts.outlets, parts.recorder]
        return next((thread.error for thread in threads if thread.error is not None), None)

    def _unwell(self) -> str:
        """Why the sensor does not work, "" when it does."""
        if self._failed() is not None:
            return "a thread failed"
        if self._stopping:
            return ""
        threads = {"scoring": self._parts.scoring.beat_s, "capture": min(worker.beat_s for worker in self._parts.workers)}
        for name, beat_s in threads.items():
            silent_s = time.monotonic() - beat_s
            if silent_s > STUCK_S:
                return f"{name} has been stuck for {silent_s:.0f} s"
        return ""

    def _packet_us(self) -> int:
        """The latest packet time of all workers, 0 before the first packet."""
        return max(worker.packet_us for worker in self._parts.workers)

    def _age_s(self) -> float:
        return time.monotonic() - self._begun_s

    def _status_line(self) -> str:
        """What the sensor does now, for the service manager."""
        parts = self._parts
        return f"{parts.learner.mode}, on {parts.listening}, model {parts.models.name}"

    def _status(self, counters: Mapping[str, int]) -> dict[str, object]:
        """What /status shows."""
        parts, wanted = self._parts, interfaces(counters)
        down = [name for name, up in wanted.items() if not up]
        return {
            "version": __version__,
            "doing": parts.learner.mode,
            "learning": parts.learner.progress(),
            "uptime_s": round(self._age_s(), 1),
            "listening": parts.listening,
            "interfaces": {"wanted": len(wanted), "up": len(wanted) - len(down), "down": down} if wanted else None,
            "packet_time_us": self._packet_us(),
            "drop_share": self._drop_share,
            "flows_waiting": parts.queue.waiting,
            "flows_capacity": parts.queue.capacity,
            "model": parts.models.name,
            "multiflow": parts.models.flows_name,
            "alerts": {"raised": counters.get("alerts_raised", 0), "written": total(counters, "alerts_written")},
            "state_file": str(parts.state_file),
        }
