"""The scorer: every conversation's state on the device, a batch of words in, surprises, verdicts and p-values out.

The LSTM's state and the evidence of the hour so far of all conversations are laid out once, at start, one row per slot;
`sensor.conversations` gives out the slots. A batch is stepped in rounds (`rounds`), the predictions of all its words are
made in one go from the states before them, and the hour's evidence is accumulated (`hours`) and weighed (`weighing`).
Nothing is a loop over flows; there are as many steps as the busiest conversation has flows in the batch, at most
`rounds`. What a flood brings beyond that is shed for the LSTM and counted; the frequency voice still judges all of it.

There are two roads to the same results: `resident_host` plans a batch on the host, `resident_device` on the device, where
everything is one launch. How the flows are cut into batches does not change what comes out, save for float noise and for what
is shed; nor does the road.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.checkpoint import Bundle
from models.resident_device import DeviceRoad
from models.resident_host import PIECE, HostRoad
from models.scored import Scored, Turned
from models.weighing import Weighing

__all__ = ["PIECE", "Scored", "Scorer"]

MOST_ROUNDS = 256
"""More are not laid out on a device: evaluation, which sheds nothing, has batches as deep as they happen to be."""


class Scorer:
    """Scores batches for `conversations` slots with a loaded model.

    `device` None takes CUDA when there is one. `rounds` is the most flows of one conversation that the LSTM reads per batch.
    Evidence that weighs nothing is not even accumulated, unless `every_column` asks for it, as fitting a verdict does.
    `planned_there` chooses the road; None takes the device's own on CUDA.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        conversations: int,
        device: torch.device | None = None,
        rounds: int = 64,
        every_column: bool = False,
        planned_there: bool | None = None,
    ) -> None:
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.bundle = bundle
        self.shed = 0
        if planned_there is None:
            planned_there = self.device.type == "cuda" and rounds <= MOST_ROUNDS
        road = DeviceRoad if planned_there else HostRoad
        weighing = Weighing(bundle, self.device, every_column=every_column)
        self._road = road(weighing, bundle.calibration, conversations=conversations, device=self.device, rounds=rounds)

    def score(
        self,
        words: NDArray[np.int16],
        slots: NDArray[np.int32],
        restart: NDArray[np.bool_],
        hour: NDArray[np.int64],
        *,
        explain_p: float,
    ) -> Scored:
        """Score (B, P) words in the order of their flows, with their (B,) slots, restarts and hours, as Turns has them."""
        scored = self._road.score(Turned(words, slots, restart, hour), explain_p)
        self.shed += scored.shed
        return scored

    def evidence(
        self, words: NDArray[np.int16], slots: NDArray[np.int32], restart: NDArray[np.bool_], hour: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The largest and the mean evidence of each row's hour so far, (B, E) each: what the verdict is fitted on.

        Advances the states as `score` does: use one or the other.
        """
        return self._road.evidence(Turned(words, slots, restart, hour))

    def state(self) -> dict[str, Tensor]:
        """All that must be kept to go on later: states and evidence of every slot. Both roads take it up."""
        return self._road.state()

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from the `state()` of a scorer with the same model and as many slots; RuntimeError when sizes differ."""
        self._road.restore(state)
