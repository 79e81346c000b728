"""The word model's alerts: of the flows that may alert (`detect_watch`), what each says and why.

A p-value far beyond the calibration's sample ranks verdicts, so that a budget can be kept on a busy network, but nobody has
seen as many benign hours: an alert's own p-value, and with it its `per_day`, severity and words, is never under `least_p`.
Only for the few rows that alert is anything built in Python.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, Unpack

import numpy as np
from numpy.typing import NDArray

from sensor import message
from sensor.detect_alert import build, digits
from sensor.detect_watch import Watch, WatchSettings
from sensor.schema import Alert, Reason

if TYPE_CHECKING:  # the types only: a decision needs no torch
    from models.resident import Scored
    from sensor.conversations import Turns

SIGNATURE = "NetSeq::Sequence_Anomaly"
REASONS = 3
"""Parts that an alert explains: more than three are not read."""
VOICES = ("lstm", "frequency")
LEAST = 1e-37
"""Probabilities are cut here before their logarithm, as the scorer does."""


class Describes(Protocol):
    """What the detector asks of a vocabulary."""

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of a word's parts, in order."""
        ...

    def describe(self, part: str, value: int, flow: np.void | None = None) -> str:
        """Say a part's value in words."""
        ...


class Detector(Watch):
    """Decides over batches of scored words; `model` is the name and version of the model, the rest are Watch's settings.

    Raises ValueError when a setting cannot be meant.
    """

    def __init__(self, *, vocabulary: Describes, model: str, **settings: Unpack[WatchSettings]) -> None:
        super().__init__(**settings)
        self.vocabulary = vocabulary
        self.model = model
        self.unexplained = 0

    def counters(self) -> dict[str, int]:
        """Give the counts by the names of `metrics`."""
        return super().counters() | ({"alerts_unexplained": self.unexplained} if self.unexplained else {})

    def decide(
        self,
        flows: NDArray[np.void],
        words: NDArray[np.int16],
        turns: Turns,
        scored: Scored,
        uids: Sequence[str | None] | None = None,
    ) -> list[Alert]:
        """Decide over a batch of (B,) FLOW rows with their (B, P) words, turns and scores; give its alerts in row order.

        `scored` must explain every row up to `ceiling`; an alert that it does not explain has no reasons, and is counted.
        """
        raised = self.raised(flows, turns.slots, turns.restart, turns.hour, scored.verdict, scored.p_value)
        return [self._alert(told, flows[told["row"]], words[told["row"]], scored, uids) for told in raised]

    def _alert(
        self, told: np.void, flow: np.void, word: NDArray[np.int16], scored: Scored, uids: Sequence[str | None] | None
    ) -> Alert:
        """Build the alert that row `told["row"]` of the batch raises."""
        row = int(told["row"])
        nats = float(scored.nats[row])
        reasons = self._reasons(row, word, flow, scored)
        heaviest = "" if reasons else self._heaviest(row, scored)
        return build(
            told,
            flow,
            signature=SIGNATURE,
            model=self.model,
            uid=(uids[row] or None) if uids is not None else None,
            score=nats if np.isfinite(nats) else float(scored.frequency_nats[row].sum()),
            verdict=float(scored.verdict[row]),
            p_value=float(scored.p_value[row]),
            least_p=self.least_p,
            reasons=reasons,
            why=message.surprise(reasons, heaviest),
        )

    def _reasons(self, row: int, word: NDArray[np.int16], flow: np.void, scored: Scored) -> tuple[Reason, ...]:
        """Explain the parts that weigh most in the row's verdict, the heaviest first.

        A verdict is of the hour so far: a part may weigh in it for what earlier flows did, and in this one be just what was
        expected. Only what was less likely in this flow than something else is a reason that can be shown with it.
        """
        places = np.flatnonzero(scored.explained == row)
        if len(places) == 0:
            self.unexplained += 1
            return ()
        k = int(places[0])
        shares = scored.contribution[k]
        unlikely = scored.seen_probability[k] < scored.expected_probability[k, :, 0]
        heaviest = [p for p in np.argsort(-shares, kind="stable") if shares[p] > 0 and unlikely[p]][:REASONS]
        return tuple(self._reason(k, int(p), word, flow, scored) for p in heaviest)

    def _heaviest(self, row: int, scored: Scored) -> str:
        """Name the part that weighs most in the row's verdict; nothing where that is not known."""
        shares = scored.contribution[scored.explained == row]
        return self.vocabulary.parts[int(shares[0].argmax())] if len(shares) and shares[0].max() > 0 else ""

    def _reason(self, k: int, p: int, word: NDArray[np.int16], flow: np.void, scored: Scored) -> Reason:
        """Explain part `p` of the k-th explained row: what was seen, and the likeliest value that it was not."""
        part, probability = self.vocabulary.parts[p], float(scored.seen_probability[k, p])
        return Reason(
            part=part,
            seen=self.vocabulary.describe(part, int(word[p]), flow),
            seen_probability=digits(probability),
            expected=self.vocabulary.describe(part, int(scored.expected[k, p, 0])),
            expected_probability=digits(float(scored.expected_probability[k, p, 0])),
            nats=digits(-math.log(max(probability, LEAST))),
            voice=VOICES[int(scored.voice[k, p])],
        )
