"""Learning mode: a new sensor gets to know its site before it alerts on what is unusual there.

    learning  flows are recorded; only fixed rules alert. Until enough was seen: `learn.days` of time with traffic, and
              the conversation-hours that a calibration wants; or, where few hosts speak, three times those days.
    fitting   `netseq-train site` runs as a process of its own, nice, and killed when the sensor ends.
    alerting  the site's model is in use. The record goes on, for netseq-train.timer; a model that it takes into use is
              noticed here, watched for some hours, and taken out of use again if alerts explode.

A fit that fails or is not good enough prolongs learning by a quarter of `learn.days`; after three times those days the sensor
alerts with what there is, and says so: silence would be worse. The control loop calls `tick` each round, which
never waits; the scoring thread calls `chosen`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from models.checkpoint import ModelDoesNotFit, load
from models.site import LEAST_P_HOURS
from sensor.config import Settings
from sensor.schema import Alert
from sensor.service_alerted import by_rule
from sensor.service_learned import (
    ALERTING,
    DAY_US,
    FILE,
    FITTING,
    LEARNING,
    Stored,
    forget,
    iso,
    of_state,
    read,
    without_state,
    write,
)
from sensor.service_record import Recorder
from sensor.service_site import Site, now

HOUR_US = 3_600_000_000

AT_MOST = 3
"""Learning ends after so many times `learn.days`, whatever was seen."""
AGAIN = 0.25
"""Share of `learn.days` after which a fit that failed is tried again."""
LOOK_S = 10.0
"""Seconds between two looks at which model is in use: a netseq-train beside the sensor may have changed it."""
FIT_S = 6 * 3600.0
"""Seconds after which a fit is given up: the largest record that training holds takes a fraction of it."""
NICE = 10
END_S = 1.0
"""Seconds that a fit has to end when it is told to, before it is killed."""
KEPT = 3
"""Exit status of netseq-train site when it took nothing into use."""
TOLD_BYTES = 4096
"""Of what a fit writes, as much is told at a time."""

WATCHED_US = 6 * HOUR_US
"""Packet time for which a new model is watched: it covers the busy part of a day that a night's training begins before."""
EXPLODED = 10
"""Times the alert budget that a new model may give while it is watched: it was expected to give three at most."""
EXPLODED_LEAST = 10
"""Alerts that an explosion has at least: a small budget's share of an hour is none."""
PER_HOST = 5
"""Alerts of one source that count: one attacker shall not be able to take a model out of use."""


class Learner:
    """Decides whether models may alert and which one does. `state` is the state folder, `relearn` begins anew there.

    A site's model is in use only where the settings name no other; then nothing is learned either. OSError of a folder that
    cannot be put aside for `relearn` passes.
    """

    def __init__(self, settings: Settings, state: Path, recorder: Recorder, tell: Callable[[str, str], None], *,
                 relearn: bool = False) -> None:  # fmt: skip
        self.mode = LEARNING
        self._settings = settings
        self._site = Site(state)
        self._recorder = recorder
        self._tell = tell
        self._relearn = relearn
        self._withheld = 0
        self._again_us = 0
        self._fit: subprocess.Popen[bytes] | None = None
        self._fit_since_s = 0.0
        self._said = b""
        self._looked_s = -LOOK_S
        self._told_tenth = 0
        self._watched = ""
        self._watched_since_us = self._watched_alerts = 0
        self._by_host: Counter[str] = Counter()
        if relearn:
            forget(state)
            for folder in self._site.set_aside(now()):
                tell("relearning", f"{folder}: what was learned before lies here until the next time")
        self._using = self._met = self._site.current()  # the second: the last that `tick` met, and watched if need be
        if settings.model.path or settings.learn.days == 0 or self._using is not None:
            self.mode = ALERTING
        self._heed()

    @property
    def learning(self) -> bool:
        """Whether alerts of models are withheld."""
        return self.mode != ALERTING

    def model(self) -> Path | None:
        """Folder of the site's own model; None where there is none, or the settings name another. A bad one is marked."""
        if self._settings.model.path:
            return None
        while (using := self._site.current()) is not None:
            try:
                load(using)
            except ModelDoesNotFit as error:
                if not self._condemn(using, str(error)):
                    using = None
                    break
            else:
                break
        self._using = using
        return using

    def heed(self, settings: Settings) -> None:
        """Go by other settings from now on; where they name a model, there is nothing left to learn."""
        self._settings = settings
        if settings.model.path and self.mode == LEARNING:
            self._alert("the settings name a model")

    def chosen(self, alerts: Sequence[Alert]) -> list[Alert]:
        """Those of a batch's alerts that may be told now; in the scoring thread."""
        if self.learning:
            told = [alert for alert in alerts if by_rule(alert)]
            self._withheld += len(alerts) - len(told)
            return told
        if self._watched:
            for alert in alerts:
                if not by_rule(alert):
                    self._by_host[alert.src] += 1
                    self._watched_alerts += self._by_host[alert.src] <= PER_HOST
        return list(alerts)

    def counters(self) -> dict[str, int]:
        """What was counted so far, by the names of `sensor.metrics`."""
        return {"alerts_withheld": self._withheld, "learning": int(self.learning)}

    def tick(self, packet_us: int, now_s: float) -> bool:
        """Do what is due, at packet time `packet_us` and `now_s` of a clock that never goes back; True: load `model()` anew."""
        if self.mode == LEARNING:
            self._tell_progress()
            if self._enough():
                self._begin_fit(now_s)
        elif self.mode == FITTING:
            self._watch_fit(now_s)
        if now_s - self._looked_s < LOOK_S and self.mode != ALERTING:
            return False
        return self._look(packet_us, now_s)

    def progress(self) -> dict[str, object]:
        """For /status: how far learning is, and what is in use."""
        seen, days = self._recorder.seen, self._settings.learn.days
        told: dict[str, object] = {
            "mode": self.mode,
            "since": iso(seen.since_us),
            "until": iso(seen.latest_us + max(round(days * DAY_US) - seen.learned_us, 0)) if self.learning else None,
            "learned_days": round(seen.learned_us / DAY_US, 4),
            "of_days": days,
            "flows_seen": seen.flows,
            "conversation_hours": seen.conversation_hours,
            "of_conversation_hours": LEAST_P_HOURS,
            "share": round(self._share(), 4) if self.learning else 1.0,
            "record_bytes": self._recorder.total_bytes,
            "alerts_withheld": self._withheld,
            "site_model": self._using.name if self._using else None,
        }
        if self._using is not None:
            told["expected_alerts_a_day"] = self._site.report_of(self._using).get("expected_alerts_a_day")
        return told

    def stored(self) -> dict[str, object]:
        """What a restart shall know; `restore` takes it."""
        return dict(msgspec.to_builtins(self._stored()))

    def keep(self) -> None:
        """Write that into its own file, too; from the thread that writes the state."""
        try:
            write(self._site.state, self._stored())
        except OSError as error:
            self._tell("learning_not_kept", f"{self._site.state / FILE}: {error.strerror}")

    def _stored(self) -> Stored:
        mode = LEARNING if self.mode == FITTING else self.mode
        watch = (self._watched, self._watched_since_us, self._watched_alerts)
        using = self._using.name if self._using else ""
        return Stored(mode, self._recorder.seen, self._again_us, *watch, using)

    def restore(self, stored: Mapping[str, object], *, lost: bool = True) -> None:
        """Go on from `stored()`, before flows come, or from its own file; what was before a relearning is not heeded.

        What is done where `stored` tells nothing is told. Without a file it is told only if a state was `lost`.
        """
        if self._relearn:
            return
        told = of_state(stored)
        before = told or read(self._site.state)
        if before is not None:
            self._go_on(before)
        if told is None and (before is not None or lost):
            days = self._settings.learn.days if self.learning else None
            self._tell(*without_state(days, learned_us=self._recorder.seen.learned_us, file=before is not None))

    def _go_on(self, before: Stored) -> None:
        self._recorder.seen = before.seen
        self._again_us = before.again_us
        if before.mode == ALERTING:
            self.mode = ALERTING
        if self._using is not None and before.watched == self._using.name:
            self._watched, self._watched_since_us = before.watched, before.watched_since_us
            self._watched_alerts = before.watched_alerts
        elif self._using is not None and before.mode == ALERTING and before.using != self._using.name:
            self._watched = self._using.name  # it was taken into use while the sensor was off
        self._heed()

    def close(self) -> None:
        """End a fit that runs; it is begun again after the restart."""
        fit, self._fit = self._fit, None
        if fit is not None:
            fit.terminate()
            try:
                fit.wait(END_S)
            except subprocess.TimeoutExpired:
                fit.kill()
                fit.wait()
            if fit.stdout is not None:
                fit.stdout.close()

    def _enough(self) -> bool:
        seen, days_us = self._recorder.seen, self._settings.learn.days * DAY_US
        if seen.learned_us < max(days_us, self._again_us):
            return False
        if seen.conversation_hours >= LEAST_P_HOURS or seen.learned_us >= AT_MOST * days_us:
            return True
        self._again_us = round(min(seen.learned_us + AGAIN * days_us, AT_MOST * days_us))
        self._tell(
            "learning_prolonged",
            f"{seen.conversation_hours:,} conversation-hours were seen in {seen.learned_us / DAY_US:.2f} days, and"
            f" {LEAST_P_HOURS:,} are wanted: learning goes on, for {AT_MOST * self._settings.learn.days:g} days at most",
        )
        return False

    def _share(self) -> float:
        seen, days_us = self._recorder.seen, self._settings.learn.days * DAY_US
        by_time = seen.learned_us / days_us if days_us else 1.0
        return min(1.0, max(min(by_time, seen.conversation_hours / LEAST_P_HOURS), by_time / AT_MOST))

    def _tell_progress(self) -> None:
        """Tell of every tenth."""
        tenth = int(self._share() * 10)
        if tenth > self._told_tenth:
            self._told_tenth = tenth
            seen = self._recorder.seen
            self._tell(
                "learning",
                f"{tenth * 10} %: {seen.flows:,} flows and {seen.conversation_hours:,} conversation-hours in"
                f" {seen.learned_us / DAY_US:.2f} days with traffic",
            )

    def _begin_fit(self, now_s: float) -> None:
        settings = self._settings
        changes = (f"detect.budget_per_day={settings.detect.budget_per_day!r}", f"detect.max_p={settings.detect.max_p!r}")
        command = [sys.executable, "-m", "sensor.commands.train", "site", "--state", str(self._site.state)]
        command += ["--config", os.devnull, *(word for change in changes for word in ("--set", change))]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
        try:
            self._fit = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
            )
        except OSError as error:
            self._failed(f"netseq-train cannot be started: {error.strerror}")
            return
        with contextlib.suppress(OSError):  # it may have ended already
            os.setpriority(os.PRIO_PROCESS, self._fit.pid, NICE)
        assert self._fit.stdout is not None
        os.set_blocking(self._fit.stdout.fileno(), False)
        self._fit_since_s, self._said = now_s, b""
        self.mode = FITTING
        self._tell("fitting", "enough was seen: the site's model is being made")

    def _watch_fit(self, now_s: float) -> None:
        assert self._fit is not None
        self._hear()
        status = self._fit.poll()
        if status is None and now_s - self._fit_since_s > FIT_S:
            self._fit.kill()
            status = self._fit.wait()
        if status is None:
            return
        self._hear(last=True)
        assert self._fit.stdout is not None
        self._fit.stdout.close()
        self._fit, self.mode = None, LEARNING
        if status == 0:
            self._alert("the site is learned")
        else:
            why = "nothing good enough was found" if status == KEPT else f"netseq-train ended with status {status}"
            self._failed(f"no model of the site: {why}")

    def _hear(self, *, last: bool = False) -> None:
        """Tell what the fit says, line by line."""
        assert self._fit is not None
        assert self._fit.stdout is not None
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(self._fit.stdout.fileno(), TOLD_BYTES):
                self._said += piece
        *lines, self._said = (self._said + b"\n" * last).split(b"\n")
        for line in lines:
            if line:
                self._tell("fit_says", line[:TOLD_BYTES].decode("utf-8", "replace"))

    def _failed(self, why: str) -> None:
        """Learn on for a while; after AT_MOST times the days, alert with what there is."""
        seen, days_us = self._recorder.seen, self._settings.learn.days * DAY_US
        if seen.learned_us >= AT_MOST * days_us:
            self._alert(f"{why}: alerting begins with the model that comes along, as it is")
            return
        self._again_us = round(min(seen.learned_us + AGAIN * days_us, AT_MOST * days_us))
        self._tell("learning_prolonged", f"{why}: learning goes on for {(self._again_us - seen.learned_us) / DAY_US:.2f} days")

    def _alert(self, why: str) -> None:
        self.mode = ALERTING
        self._looked_s = -LOOK_S
        self._heed()
        using = self._site.current()
        told = "" if using is None else f"; {self._site.report_of(using).get('expected_alerts_a_day')} alerts a day expected"
        self._tell("alerting", f"{why}{told}")

    def _look(self, packet_us: int, now_s: float) -> bool:
        """See whether another model is in use now, or should be."""
        if self._settings.model.path or now_s - self._looked_s < LOOK_S:
            return self._exploded(packet_us)
        self._looked_s = now_s
        using = self.model()
        if using == self._met:
            return self._exploded(packet_us)
        self._met = using
        if using is not None:
            self._tell("model_taken", f"{using}: in use from now on, and watched for {WATCHED_US // HOUR_US} hours")
        self._watched = using.name if using else ""
        self._watched_since_us, self._watched_alerts = packet_us, 0
        self._by_host.clear()
        if using is not None and self.mode == LEARNING:  # netseq-train site was run by hand
            self._alert("the site was learned by netseq-train")
        return True

    def _exploded(self, packet_us: int) -> bool:
        """Take a watched model out of use if it alerts too much; True if so."""
        if not self._watched or self._using is None:
            return False
        self._watched_since_us = self._watched_since_us or packet_us  # there was no packet yet
        past_us = packet_us - self._watched_since_us
        if not -HOUR_US < past_us < WATCHED_US:
            self._watched = ""
            self._by_host.clear()
            return False
        allowed = EXPLODED * self._settings.detect.budget_per_day * max(past_us, HOUR_US) / DAY_US
        if self._watched_alerts <= max(allowed, EXPLODED_LEAST):
            return False
        why = (
            f"{self._watched_alerts:,} alerts in its first {max(past_us, 0) / HOUR_US:.1f} hours, where {allowed:,.0f} are"
            f" {EXPLODED} times the budget"
        )
        if not self._condemn(self._using, why):
            return False
        self._using = self._met = self._site.current()
        return True

    def _condemn(self, place: Path, why: str) -> bool:
        """Mark a model as bad, and go back to the one before it; tells whether the folder let that be done."""
        self._watched = ""
        self._by_host.clear()
        try:
            back = self._site.condemn(place, why)
        except OSError as error:
            self._tell("model_taken_back", f"{place}: {why}; it cannot be marked as bad: {error.strerror}")
            return False
        name = "the one that comes along" if back is None else back.name
        self._tell("model_taken_back", f"{place.name}: {why}; in use again: {name}")
        return True

    def _heed(self) -> None:
        """While learning, the model that comes along says nothing of what may be learned."""
        self._recorder.heeds_models = not self.learning
