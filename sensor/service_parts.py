"""What a running sensor is put together from, and what a reload may exchange.

Everything that can be refused is made here, before anything runs: each refusal is one line. `Parts` belongs to the main
thread; what other threads own it reaches by the means that they offer (a call between two batches, a change for a worker).
"""

from __future__ import annotations

import functools
import socket
from collections.abc import Mapping
from pathlib import Path

import msgspec
from structlog.typing import FilteringBoundLogger

from sensor.assembly import Assembly
from sensor.config import Settings
from sensor.config_sensor import differing, kept
from sensor.detect_ignore import Ignored
from sensor.engine import Judge
from sensor.metrics import known, split
from sensor.schema import Alert
from sensor.service_capture import Worker
from sensor.service_learn import Learner
from sensor.service_log import Repeats, open_log
from sensor.service_models import load_models
from sensor.service_outlets import from_settings
from sensor.service_queue import FlowQueue
from sensor.service_record import Recorder
from sensor.service_scoring import Scoring
from sensor.service_sources import Sources, listening, open_sources
from sensor.service_state import StateRefused, set_aside, take_up
from sensor.service_trial import REFUSALS, Refused, locked, state_folder, trial
from sensor.service_unscored import Unscored
from sensor.service_warm import warm

STATE_FILE = "state.netseq"
"""Name of the state in the state folder."""
RECORD = "record"
"""Folder of the site's record in the state folder."""
LATER = (
    *("source", "decode", "flows.table", "flows.close", "statistics", "conversations.table", "capture.workers"),
    *("model.batch_flows", "learn", "output", "hec", "syslog", "zeek", "service"),
)
"""Sections and keys that take effect at the next start: memory that is laid out once, files and ports that are open."""

NEWS = {
    *("learning", "fitting", "fit_says", "alerting", "model_taken", "relearning"),
    *("interface_back", "folder_back", "alerts_written_again", "zeek_up", "flows_taken_up"),
}
"""Events that are no trouble."""


class Parts:
    """All parts of a sensor, made from the settings. Raises Refused."""

    def __init__(self, settings: Settings, log: FilteringBoundLogger, repeats: Repeats, *, relearn: bool = False) -> None:
        self.settings = settings
        self.log = log
        self.repeats = repeats
        self.states = dict.fromkeys(
            ("states_saved", "states_refused.read", "states_refused.write", "reloads.good", "reloads.bad", "alerts_degraded"), 0
        )
        """Counts of the control loop's own."""
        self.carried: dict[str, int] = {}
        state_dir = state_folder(settings)
        self.lock = locked(state_dir)
        self.state_file = state_dir / STATE_FILE
        try:
            self.ignored = Ignored.read(settings.detect.ignore)
            self.recorder = Recorder(
                state_dir / RECORD,
                keep_days=max(settings.learn.keep_days, settings.learn.days),
                disk_mib=settings.learn.disk_mib,
                tell=self.tell,
            )
            self.learner = self._learner(state_dir, relearn=relearn)
            self.models = load_models(settings, site=self.learner.model())
            warm(settings, self.models.words, self.models.flows, self.models.device)
            judge = self.models.judge(settings)
            remembered = self._take_up(judge)
            self.queue = FlowQueue(settings.service.queue_flows)
            self.sources = self._sources(settings, remembered)
            self.unscored = Unscored(state_dir, self.queue, self.sources, remembered, tell=self.tell)
            self.outlets = from_settings(settings, sensor=sensor_name(settings), tell=self.tell)
            self.outlets.start()
        except REFUSALS as refused:
            raise Refused(str(refused)) from refused
        self.workers = tuple(
            Worker(number, source, Assembly(settings), self.queue, patient=self.sources.patient)
            for number, source in enumerate(self.sources.each)
        )
        self.scoring = Scoring(
            judge,
            self.queue,
            self.recorder,
            chosen=self._chosen,
            hand=self.outlets.hand,
            quiet_s=settings.detect.quiet_s,
        )

    @property
    def listening(self) -> str:
        """What the sensor listens to, in words."""
        return listening(self.settings)

    def tell(self, event: str, line: str) -> None:
        """Log what a part has to say."""
        tell = self.log.info if event in NEWS else self.log.warning
        tell(event, about=line)

    def counters(self) -> dict[str, int]:
        """Everything counted so far, what was counted before the last restart included, by the names of `sensor.metrics`."""
        groups: list[Mapping[str, int]] = [self.carried, *(worker.counters() for worker in self.workers)]
        groups += [self.scoring.counters(), self.outlets.counters(), self.recorder.counters(), self.ignored.counters()]
        groups += [self.learner.counters(), self.repeats.counters(), self.states]
        groups.append({f"flows_shed.{reason}": number for reason, number in self.queue.shed.items()})
        counted: dict[str, int] = {
            "flows_waiting": self.queue.waiting,
            "flows_waiting_capacity": self.queue.capacity,
            "flows_capacity": self.settings.flows.table * len(self.workers),
            "conversations_capacity": self.settings.conversations.table,
        }
        for group in groups:
            for name, number in group.items():
                counted[name] = counted.get(name, 0) + number
        return counted

    def remembered(self) -> dict[str, object]:
        """What the next start shall know besides the judge's state."""
        judged = self.scoring.judge.counters()  # these the judge's own state keeps
        counters = {name: number for name, number in self.counters().items() if name not in judged and not split(name)[0].gauge}
        return {"counters": counters, **self.unscored.marks(), "learner": self.learner.stored()}

    def reload(self, settings: Settings) -> list[str]:
        """Take over new settings, model and lists; gives the settings that wait for the next start.

        Raises Refused or ConfigError, and keeps everything as it was, also where only the next start would be refused.
        """
        for finding in trial(settings, running=self.settings):
            if finding.word == "note":
                self.tell("at_next_start", finding.line)
        # A folder is not exchanged while it is read: it would begin anew, and a worker waits or sheds all its life.
        patient = any(one.capture.folder or one.zeek.road for one in (self.settings, settings))
        among = (*LATER, "capture") if patient else LATER
        later = differing(self.settings, settings, among)
        settings = kept(self.settings, settings, among)
        try:
            ignored = Ignored.read(settings.detect.ignore)
            models = load_models(settings, site=self.learner.model())
            judge = models.judge(settings)
            fresh = self._sources(settings, {}).each if settings.capture != self.settings.capture else ()
        except REFUSALS as refused:
            raise Refused(str(refused)) from refused
        self.log = open_log(settings.service.log, repeats=self.repeats)
        self.scoring.between_batches(functools.partial(self._exchange, judge, settings.detect.quiet_s))
        for worker in self.workers:
            worker.adjust(settings)
        for worker, source in zip(self.workers, fresh, strict=False):
            worker.change_source(source)
        ignored.count = self.ignored.count
        self.learner.heed(settings)
        self.settings, self.models, self.ignored = settings, models, ignored
        return later

    def _exchange(self, judge: Judge, quiet_s: float) -> None:
        """Put another judge in the place of the one that judges now: in the scoring thread, between two batches."""
        for line in judge.adopt(self.scoring.judge):
            self.tell("not_kept", line)
        self.scoring.judge, self.scoring.quiet_s = judge, quiet_s

    def _chosen(self, alerts: list[Alert]) -> list[Alert]:
        """Of a batch's alerts those that are told: in the scoring thread."""
        return self.learner.chosen(self.ignored.keep(alerts))

    def _learner(self, state_dir: Path, *, relearn: bool) -> Learner:
        """What decides whether models may alert. Raises Refused where nothing can be put aside."""
        try:
            return Learner(self.settings, state_dir, self.recorder, self.tell, relearn=relearn)
        except OSError as error:
            what = f"{error.filename or state_dir}: {error.strerror or error}"
            raise Refused(f"the site cannot be learned anew: {what}: remove what was put aside before by hand") from error

    def _take_up(self, judge: Judge) -> Mapping[str, object]:
        """Go on from the state of the last run, when there is one that fits."""
        try:
            remembered: Mapping[str, object] = take_up(
                self.state_file, judge, tell=lambda line: self.tell("not_kept", line), live=not self.settings.capture.folder
            )
            self.log.info("state_taken_up", conversations=judge.conversations.live)
        except FileNotFoundError:
            self.learner.restore({}, lost=False)
            return {}
        except StateRefused as refused:
            self.states["states_refused.read"] += 1
            try:
                aside = str(set_aside(self.state_file))
            except OSError as error:
                aside = f"no: {error.strerror}"
            self.log.error("state_refused", reason=str(refused), set_aside=aside)
            remembered = refused.more or {}
        self.carried = carried_on(remembered.get("counters", {}))
        self.learner.restore(msgspec.convert(remembered.get("learner", {}), dict[str, object]))
        return remembered

    def _sources(self, settings: Settings, remembered: Mapping[str, object]) -> Sources:
        """Open what the settings name to listen to. Raises REFUSALS or Refused."""
        try:
            return open_sources(settings, self.tell, remembered)
        except OSError as error:
            raise Refused(f"{listening(settings)}: {error.strerror}") from error


def carried_on(counters: object) -> dict[str, int]:
    """What an earlier run counted, as far as this version has such counters."""
    try:
        found = msgspec.convert(counters, dict[str, int])
    except msgspec.ValidationError:
        return {}
    return {name: number for name, number in found.items() if known(name)}


def sensor_name(settings: Settings) -> str:
    """Name of this sensor in its alerts."""
    return settings.output.dvc or socket.gethostname()
