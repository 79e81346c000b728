"""The multi-flow model's alerts: which class the last flows look like, which of them, and by which statistics.

The rules are those of every alert (`detect_watch`); the verdict is the log-odds of "anything but ordinary", the p-value its
rank among ordinary conversation-hours. The signature names the likeliest class but the ordinary one. The reasons are of
the flow that has most of the attention: its statistics that stand farthest from the median of the training data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Unpack

import numpy as np
from numpy.typing import NDArray

from sensor import message
from sensor.detect_alert import build, digits
from sensor.detect_watch import Watch, WatchSettings
from sensor.schema import Alert, StatisticReason
from sensor.statistics import BY_NAME

if TYPE_CHECKING:  # the types only: a decision needs no torch
    from models.resident_flows import FlowScored

REASONS = 3
"""Statistics that an alert explains: more than three are not read."""
FAR = 1.0
"""Usual spreads from the median: what is nearer is no reason."""


class FlowDetector(Watch):
    """Decides over batches of scored flows; `model` is the name and version of the model, the rest are Watch's settings.

    `classes` and `columns` are the model's, `centre` (F,) its medians on the signed logarithm's scale.
    """

    def __init__(
        self,
        *,
        classes: Sequence[str],
        columns: Sequence[str],
        centre: Sequence[float],
        model: str,
        **settings: Unpack[WatchSettings],
    ) -> None:
        super().__init__(**settings)
        self.model = model
        self._classes = tuple(classes)
        self._columns = [BY_NAME[name] for name in columns]
        middle = np.asarray(centre, np.float64)
        self._usual = np.sign(middle) * np.expm1(np.abs(middle))

    def decide(
        self,
        flows: NDArray[np.void],
        slots: NDArray[np.int32],
        restart: NDArray[np.bool_],
        hour: NDArray[np.int64],
        scored: FlowScored,
        uids: Sequence[str | None] | None = None,
        *,
        sequences: NDArray[np.void] | None = None,
    ) -> list[Alert]:
        """Decide over a batch of (B,) FLOW rows with the slots, restarts and hours of their sequences, and their scores.

        `scored` must explain every row up to `ceiling`. `sequences` (B,) are the rows with the ends by which the slots were
        given out, when these are not the flows' own. Gives the batch's alerts in row order.
        """
        owners = flows if sequences is None else sequences
        raised = self.raised(owners, slots, restart, hour, scored.verdict, scored.p_value)
        return [self._alert(told, flows[told["row"]], scored, uids) for told in raised]

    def _alert(self, told: np.void, flow: np.void, scored: FlowScored, uids: Sequence[str | None] | None) -> Alert:
        """Build the alert that row `told["row"]` of the batch raises."""
        row = int(told["row"])
        likeliest = 1 + int(scored.probability[row, 1:].argmax())
        probability, name = float(scored.probability[row, likeliest]), self._classes[likeliest]
        k = int(np.searchsorted(scored.explained, row))
        reasons = self._reasons(k, scored)
        window = int((scored.attention[k] > 0).sum())
        return build(
            told,
            flow,
            signature=f"NetSeq::{name.replace(' ', '_')}",
            model=self.model,
            uid=(uids[row] or None) if uids is not None else None,
            score=probability,
            measure="probability",
            verdict=float(scored.verdict[row]),
            p_value=float(scored.p_value[row]),
            least_p=self.least_p,
            reasons=reasons,
            why=message.resemblance(name, probability, window, reasons),
        )

    def _reasons(self, k: int, scored: FlowScored) -> tuple[StatisticReason, ...]:
        """The statistics of the k-th explained row's heaviest flow that stand farthest from usual, the farthest first.

        Statistics that say the same (equal values at equal distance, as a mean and its alias) are told once.
        """
        distance, values, attention = scored.distance[k], scored.attended[k], scored.attention[k]
        before = int(attention[::-1].argmax())
        reasons: list[StatisticReason] = []
        met: set[float] = set()
        for place in np.argsort(-np.abs(distance), kind="stable").tolist():
            if abs(distance[place]) < FAR or len(reasons) == REASONS:
                break
            if float(values[place]) in met:
                continue
            met.add(float(values[place]))
            reasons.append(
                StatisticReason(
                    part=self._columns[place].name,
                    unit=self._columns[place].unit,
                    seen=digits(float(values[place])),
                    usual=digits(float(self._usual[place])),
                    spreads=digits(float(distance[place])),
                    flow=before,
                    attention=digits(float(attention[len(attention) - 1 - before])),
                )
            )
        return tuple(reasons)
