"""The multi-flow model's part of the engine: batches of flows to statistics, windows, classes and alerts.

`engine.Judge` calls it beside the word model. Whose last flows make a window is the model's own affair: those of the host pair,
whose turns the word model's conversations have already found, or those of the source host, kept in a table of the same kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from models import identity
from models.folder import ModelDoesNotFit
from models.multiflow_checkpoint import FlowBundle
from models.resident_flows import FlowScorer
from sensor.config import Settings
from sensor.conversations import Conversations, Turns, as_one_host
from sensor.detect_flows import FlowDetector
from sensor.schema import Alert, FlowBatch
from sensor.spellings import STATISTICS
from sensor.statistics import statistics

if TYPE_CHECKING:
    import torch


class FlowJudge:
    """From batches of flows to the multi-flow model's alerts; `bundle` is a loaded model, memory is laid out here, once.

    `budget_per_day` is this model's share of the false alarms a day. Raises ModelDoesNotFit, one line.
    """

    def __init__(
        self, settings: Settings, bundle: FlowBundle, *, budget_per_day: float, device: torch.device | None = None
    ) -> None:
        manifest, prior = bundle.manifest, bundle.calibration.per_day
        name = f"{manifest.name} {manifest.version}"
        unknown = [column for column in manifest.columns if column not in STATISTICS]
        if unknown:
            raise ModelDoesNotFit(f"{name}: it reads {unknown[0]!r}, which no statistic here is called: train it again")
        if not prior > 0:
            raise ModelDoesNotFit(f"{name} is not calibrated: train it on more ordinary hours")
        if manifest.rules != settings.statistics.rules:
            raise ModelDoesNotFit(
                f"{name} was trained on statistics by the rules {manifest.rules!r}: set statistics.rules to it, or train again"
            )
        slots = settings.conversations.table
        self.manifest = manifest
        self._rules = settings.statistics.rules
        self.hosts: Conversations | None = None
        if manifest.sequence == "host":
            self.hosts = Conversations(conversations=slots, restart_s=settings.conversations.restart_s)
        self.scorer = FlowScorer(bundle, slots=slots, device=device)
        self.detector = FlowDetector(
            classes=manifest.classes,
            columns=manifest.columns,
            centre=manifest.centre,
            model=name,
            capacity=slots,
            expected_conversation_hours_per_day=prior,
            budget_per_day=budget_per_day,
            quiet_s=settings.detect.quiet_s,
            max_p=settings.detect.max_p,
            least_p=bundle.calibration.least_p,
        )
        self._judged = 0

    def judge(self, batch: FlowBatch, turns: Turns) -> list[Alert]:
        """Compute statistics, score the windows, and decide; `turns` are those of the flows' host pairs."""
        flows = batch.flows
        if self.hosts is not None:
            flows = as_one_host(flows)
            turns = self.hosts.turn(flows)
        rows = statistics(batch.flows, self.manifest.columns, self._rules)
        scored = self.scorer.score(rows, turns.slots, turns.restart, explain_p=self.detector.ceiling)
        self._judged += len(rows)
        return self.detector.decide(batch.flows, turns.slots, turns.restart, turns.hour, scored, batch.uids, sequences=flows)

    def counters(self) -> dict[str, int]:
        """What was counted so far, by the names of `sensor.metrics`."""
        return {"windows_scored": self._judged, **self.detector.counters()}

    @cached_property
    def identity(self) -> str:
        """What the windows belong to."""
        return identity.of_flows(self.scorer.bundle)

    def tallies(self) -> dict[str, int]:
        """Counts that outlive this part, by names that `count_on` knows."""
        return {"scored": self._judged, "alerts": self.detector.alerts}

    def count_on(self, tallies: Mapping[str, int]) -> None:
        """Go on counting from the `tallies` of another."""
        self._judged += tallies.get("scored", 0)
        self.detector.alerts += tallies.get("alerts", 0)
