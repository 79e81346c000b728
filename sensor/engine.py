"""The engine: the path of a packet from a block of frames to an alert, without any I/O.

`feed` takes raw frames, `feed_flows` finished flows of a log; both end in the same flows, gathered into batches of one
size, because the models are fast only on batches. The batches are cut by number and not by time, so that a replay gives
the same alerts whatever the size of the blocks it is fed. `tick` is for live use: it ends what is due and scores what has
gathered although no packet came. `drain` ends everything. Commands own the files, the clock and the device's choice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.checkpoint import Bundle, ModelDoesNotFit
from models.resident import Scorer
from sensor.config import Settings
from sensor.conversations import Conversations
from sensor.decode import SKIPS, Decoder
from sensor.detect import Detector
from sensor.flows import FlowTable
from sensor.schema import END_FULL, ENDS, FLOW, Alert, FlowBatch, FrameBlock
from sensor.words import Vocabulary

if TYPE_CHECKING:
    import torch


class Gathering:
    """Flows in the order in which they ended, gathered into batches of `batch_flows`."""

    def __init__(self, batch_flows: int) -> None:
        self._rows = np.zeros(batch_flows, FLOW)
        self._uids: list[str | None] = [None] * batch_flows
        self.waiting = 0

    def add(self, flows: NDArray[np.void], uids: list[str] | None, start: int) -> int:
        """Take flows[start:] while there is room; returns the first one that was not taken."""
        end = min(len(flows), start + len(self._rows) - self.waiting)
        here = slice(self.waiting, self.waiting + end - start)
        self._rows[here] = flows[start:end]
        self._uids[here] = uids[start:end] if uids else [None] * (end - start)
        self.waiting = here.stop
        return end

    @property
    def full(self) -> bool:
        """Is there a whole batch?"""
        return self.waiting == len(self._rows)

    def take(self) -> tuple[NDArray[np.void], list[str | None]]:
        """Hand over what has gathered: rows that stay valid until the next `add`."""
        n, self.waiting = self.waiting, 0
        return self._rows[:n], self._uids[:n]


class Engine:
    """Packets or flows in, alerts out.

    `bundle` is a loaded model, `device` where it runs (None takes CUDA when there is one). Memory is laid out here, once.
    Raises ModelDoesNotFit or VocabularyDoesNotFit, one line each.
    """

    def __init__(self, settings: Settings, bundle: Bundle, *, device: torch.device | None = None) -> None:
        flows, conversations, detect = settings.flows, settings.conversations, settings.detect
        manifest, prior = bundle.manifest, bundle.calibration.per_day
        if not prior > 0:
            raise ModelDoesNotFit(f"{manifest.name} {manifest.version} is not calibrated: train it on more benign hours")
        self.vocabulary = Vocabulary.from_json(manifest.vocabulary)
        self.decoder = Decoder(
            tunnels=settings.decode.tunnels, fragments=settings.decode.fragments, payload=settings.decode.payload
        )
        self.table = FlowTable(
            flows=flows.table,
            idle_s=flows.idle_s,
            closed_s=flows.closed_s,
            attempt_s=flows.attempt_s,
            active_s=flows.active_s,
        )
        self.conversations = Conversations(conversations=conversations.table, restart_s=conversations.restart_s)
        self.scorer = Scorer(bundle, conversations=conversations.table, device=device, rounds=settings.model.rounds)
        self.detector = Detector(
            vocabulary=self.vocabulary,
            model=f"{manifest.name} {manifest.version}",
            capacity=conversations.table,
            expected_conversation_hours_per_day=prior,
            budget_per_day=detect.budget_per_day,
            max_p=detect.max_p,
            quiet_s=detect.quiet_s,
        )
        self._gathering = Gathering(settings.model.batch_flows)
        self._frames = 0
        self._words = 0
        self._flows_from_logs = 0

    def feed(self, block: FrameBlock) -> list[Alert]:
        """Take a block of raw frames; returns the alerts that became due."""
        self._frames += len(block.frames)
        return self._judge(self.table.feed(self.decoder.decode(block)))

    def feed_flows(self, batch: FlowBatch) -> list[Alert]:
        """Take finished flows of a log; returns the alerts that became due."""
        self._flows_from_logs += len(batch.flows)
        return self._judge(batch.flows, batch.uids)

    def tick(self, now_us: int) -> list[Alert]:
        """Let packet time pass without a packet: end what is due and score what has gathered."""
        return self._judge(self.table.expire(now_us)) + self._score()

    def drain(self) -> list[Alert]:
        """End all flows, because the input ended, and score what is left."""
        alerts: list[Alert] = []
        while len(flows := self.table.drain()):
            alerts += self._judge(flows)
        return alerts + self._score()

    def counters(self) -> dict[str, int]:
        """Everything counted so far, by the names of `sensor.metrics`."""
        ended = {f"flows_ended.{name}": int(n) for name, n in zip(ENDS, self.table.ended, strict=True) if n}
        if self._flows_from_logs:
            ended["flows_ended.log"] = self._flows_from_logs
        return {
            "packets_read": self._frames,
            "packets_in_flows": self.table.packets,
            **{f"packets_skipped.{name}": int(n) for name, n in zip(SKIPS, self.decoder.skipped, strict=True) if n},
            **{f"link_types_unknown.{number}": n for number, n in self.decoder.link_types_unknown.items()},
            **ended,
            "flows_live": self.table.live,
            "flows_evicted": int(self.table.ended[END_FULL]),
            "clock_steps_back": self.table.steps_back,
            "conversations_started": self.conversations.started,
            "conversations_live": self.conversations.live,
            "conversations_evicted": self.conversations.evicted,
            "words_scored": self._words,
            "words_shed": self.scorer.shed,
            **self.detector.counters(),
        }

    def _judge(self, flows: NDArray[np.void], uids: list[str] | None = None) -> list[Alert]:
        """Gather flows, and score each batch that becomes whole."""
        alerts: list[Alert] = []
        done = 0
        while done < len(flows):
            done = self._gathering.add(flows, uids, done)
            if self._gathering.full:
                alerts += self._score()
        return alerts

    def _score(self) -> list[Alert]:
        """Turn what has gathered into words, score them, and decide."""
        flows, uids = self._gathering.take()
        if not len(flows):
            return []
        turns = self.conversations.turn(flows)
        words = self.vocabulary.words(flows, turns)
        scored = self.scorer.score(words, turns.slots, turns.restart, turns.hour, explain_p=self.detector.ceiling)
        self._words += len(flows)
        return self.detector.decide(flows, words, turns, scored, uids)
