"""The engine: the path of a packet from a block of frames to an alert, without any I/O.

It has two halves. `assembly.Assembly` makes batches of flows from frames. `Judge` makes alerts: words, conversations, scores,
the decision. `Engine` is both, one after the other; a command with two cores to spend runs each half on one
(`commands.ahead`). Batches are cut by number and not by time, so that a replay gives the same alerts whatever the size of the
blocks it is fed. `tick` is for live use: it ends what is due and scores what has gathered although no packet came. `drain`
ends everything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from models import identity
from models.checkpoint import Bundle, ModelDoesNotFit
from models.multiflow_checkpoint import FlowBundle
from models.resident import Scorer
from sensor.assembly import Assembly
from sensor.config import Settings
from sensor.conversations import Conversations
from sensor.detect import Detector
from sensor.detect_rules import Rules
from sensor.engine_flows import FlowJudge
from sensor.engine_state import Room, give_back, remembered, take_up
from sensor.schema import Alert, FlowBatch, FrameBlock
from sensor.words import Vocabulary

if TYPE_CHECKING:
    import torch


class Judge:
    """From batches of flows to alerts: the models, and the memory of who said what to whom.

    `bundle` is a loaded word model, `flows` a multi-flow model to judge beside it, `device` where they run (None takes CUDA
    when there is one). Two models share the alert budget evenly. Memory is laid out here, once.
    Raises ModelDoesNotFit or VocabularyDoesNotFit, one line each.
    """

    def __init__(
        self, settings: Settings, bundle: Bundle, flows: FlowBundle | None = None, *, device: torch.device | None = None
    ) -> None:
        manifest, prior = bundle.manifest, bundle.calibration.per_day
        if not prior > 0:
            raise ModelDoesNotFit(f"{manifest.name} {manifest.version} is not calibrated: train it on more benign hours")
        slots = settings.conversations.table
        self.vocabulary = Vocabulary.from_json(manifest.vocabulary)
        spoken, read = (self.vocabulary.parts, self.vocabulary.sizes()), (manifest.parts, manifest.sizes)
        if spoken != read:  # every word would be read as something else, or be beyond the end of a table
            raise ModelDoesNotFit(
                f"{manifest.name} {manifest.version}: its vocabulary speaks {_alphabet(*spoken)}, its network reads"
                f" {_alphabet(*read)}: copy or train the model again"
            )
        budget_per_day = settings.detect.budget_per_day / (1 if flows is None else 2)
        self.flows = None if flows is None else FlowJudge(settings, flows, budget_per_day=budget_per_day, device=device)
        self.conversations = Conversations(conversations=slots, restart_s=settings.conversations.restart_s)
        self.scorer = Scorer(bundle, conversations=slots, device=device, rounds=settings.model.rounds)
        self.detector = Detector(
            vocabulary=self.vocabulary,
            model=f"{manifest.name} {manifest.version}",
            capacity=slots,
            expected_conversation_hours_per_day=prior,
            budget_per_day=budget_per_day,
            quiet_s=settings.detect.quiet_s,
            max_p=settings.detect.max_p,
            least_p=bundle.calibration.least_p,
        )
        self.rules = Rules(
            flood_attempts=settings.rules.flood_attempts,
            sweep_targets=settings.rules.sweep_targets,
            quiet_s=settings.detect.quiet_s,
        )
        self.rows: list[int] = []
        """Rows of the batch judged last that alerted, one for each alert."""
        self.rooms: list[Room] = []
        """Memory that waits for a copy of what this remembers."""
        self._words = 0
        self._gone: Counter[str] = Counter()

    def judge(self, batch: FlowBatch) -> list[Alert]:
        """Turn flows into words and windows, score them, and decide; the alerts come in the order of their flows."""
        turns = self.conversations.turn(batch.flows)
        words = self.vocabulary.words(batch.flows, turns)
        scored = self.scorer.score(words, turns.slots, turns.restart, turns.hour, explain_p=self.detector.ceiling)
        self._words += len(words)
        alerts = self.detector.decide(batch.flows, words, turns, scored, batch.uids)
        rows = list(self.detector.rows)
        if self.flows is not None:
            alerts += self.flows.judge(batch, turns)
            rows += self.flows.detector.rows
        alerts += self.rules.judge(batch.flows, batch.uids)
        in_order = sorted(zip([*rows, *self.rules.rows], alerts, strict=True), key=lambda found: found[0])
        self.rows = [row for row, _ in in_order]
        return [alert for _, alert in in_order]

    def counters(self) -> dict[str, int]:
        """What was counted so far, by the names of `sensor.metrics`."""
        counted = Counter(self.detector.counters())
        counted.update(self._gone)
        if self.flows is not None:
            counted.update(self.flows.counters())
        return {
            "conversations_started": self.conversations.started,
            "conversations_live": self.conversations.live,
            "conversations_evicted": self.conversations.evicted,
            "words_scored": self._words,
            "words_shed": self.scorer.shed,
            **counted,
            **self.rules.counters(),
        }

    def adopt(self, old: Judge) -> list[str]:
        """Take over all that another Judge remembers and has counted; returns a line for each thing that could not be kept.

        Settings, models and lists are this one's own. The other one may be thrown away then.
        """
        self.rooms = old.rooms
        memory = remembered(old)
        lines = take_up(self, memory)
        give_back(memory)
        return lines

    @cached_property
    def identity(self) -> str:
        """What the states of the word model belong to."""
        return identity.of_words(self.scorer.bundle)

    def tallies(self) -> dict[str, dict[str, int]]:
        """Counts that outlive this Judge, by part and by names that `count_on` knows."""
        words = {"scored": self._words, "shed": self.scorer.shed}
        words |= {"alerts": self.detector.alerts, "unexplained": self.detector.unexplained}
        flows = {} if self.flows is None else {"flows": self.flows.tallies()}
        return {"words": words, **flows, "gone": dict(self._gone)}

    def count_on(self, tallies: Mapping[str, Mapping[str, int]], gone: Iterable[Mapping[str, int]]) -> None:
        """Go on counting from another Judge's `tallies`; `gone` are the counters of its parts that are not in this one."""
        counted = {part: Counter(named) for part, named in tallies.items()}
        words = counted.get("words", Counter())
        self._words += words["scored"]
        self.scorer.shed += words["shed"]
        self.detector.alerts += words["alerts"]
        self.detector.unexplained += words["unexplained"]
        if self.flows is not None:
            self.flows.count_on(counted.get("flows", Counter()))
        for counters in (counted.get("gone", Counter()), *gone):
            self._gone.update(counters)


def _alphabet(parts: Sequence[str], sizes: Sequence[int]) -> str:
    """Name a word's parts with how many values each has."""
    return ", ".join(f"{part} ({size})" for part, size in zip(parts, sizes, strict=True))


class Engine:
    """Packets or flows in, alerts out: both halves, one after the other. Arguments and errors are those of Judge."""

    def __init__(
        self, settings: Settings, bundle: Bundle, flows: FlowBundle | None = None, *, device: torch.device | None = None
    ) -> None:
        self.judge = Judge(settings, bundle, flows, device=device)
        self.assembly = Assembly(settings)

    def feed(self, block: FrameBlock | FlowBatch) -> list[Alert]:
        """Take a block of raw frames, or finished flows of a log; returns the alerts that became due."""
        return self._all(self.assembly.feed(block))

    def tick(self, now_us: int) -> list[Alert]:
        """Let packet time pass without a packet: end what is due and score what has gathered."""
        return self._all(self.assembly.expire(now_us))

    def drain(self) -> list[Alert]:
        """End all flows, because the input ended, and score what is left."""
        return self._all(self.assembly.drain())

    def counters(self) -> dict[str, int]:
        """Everything counted so far, by the names of `sensor.metrics`."""
        return self.assembly.counters() | self.judge.counters()

    def _all(self, batches: Iterable[FlowBatch]) -> list[Alert]:
        return [alert for batch in batches for alert in self.judge.judge(batch)]
