"""The scorer of the multi-flow model: the last flows of every sequence on the device, a batch of statistics in, classes out.

`windows` keeps the last n - 1 flows of each slot; a batch is one gather, one pass and one scatter, however its flows are
spread over the slots, so a flood of one pair costs no more than other traffic. The verdict of a flow is the log-odds of
"anything but ordinary" after temperature calibration, and its p-value the share of ordinary conversation-hours whose highest
verdict is at least as high. What an alert needs beyond that (the attention, and how far each statistic stands from the
middle) is fetched for the few rows that can alert.

How the flows are cut into batches does not change what comes out, save for float noise.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.multiflow import lay
from models.multiflow_checkpoint import FlowBundle
from models.scale import scaled
from models.windows import Windows

PIECE, CUDA_PIECE = 2048, 1 << 16
"""Rows judged at once. On a processor, the states of all steps of a piece are 21 MB at 256 units; a CUDA device is busy with
many more, and memory for them it has."""


class FlowScored(NamedTuple):
    """What a batch of B flows came to, by C classes and F statistics; K of the flows are explained."""

    probability: NDArray[np.float32]
    """(B, C) of each class, calibrated."""
    verdict: NDArray[np.float32]
    """(B,) log-odds of all classes but the first, which is the ordinary one."""
    p_value: NDArray[np.float64]
    """(B,) share of ordinary conversation-hours with a verdict at least as high."""
    explained: NDArray[np.int64]
    """(K,) rows with p_value <= explain_p."""
    attention: NDArray[np.float32]
    """(K, n) weight of each flow of the window, the current one last; 0 where there is none."""
    attended: NDArray[np.float32]
    """(K, F) statistics of the flow with the greatest weight, NaN where unknown."""
    distance: NDArray[np.float32]
    """(K, F) the same on the model's scale: usual spreads from the median, 0 where unknown."""


class FlowScorer:
    """Scores batches for `slots` sequences with a loaded model.

    `device` None takes CUDA when there is one. `dtype` is that of the matrices: bfloat16 is faster where the processor has it.
    """

    def __init__(
        self,
        bundle: FlowBundle,
        *,
        slots: int,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.bundle = bundle
        self._rows = PIECE if self.device.type == "cpu" else CUDA_PIECE
        manifest = bundle.manifest
        self._laid = lay(bundle.model, self.device, dtype)
        self._complete = True  # no flow so far had an unknown statistic: half of the reading is saved
        self._windows = Windows(slots, manifest.flows, len(manifest.columns), self.device)

    def score(
        self, rows: NDArray[np.float32], slots: NDArray[np.int32], restart: NDArray[np.bool_], *, explain_p: float
    ) -> FlowScored:
        """Score (B, F) statistics in the manifest's order of columns, in the order in which the flows ended.

        `slots` (B,) and `restart` (B,) are of the sequences that the manifest names (pairs or source hosts).
        """
        pieces = [
            self._piece(rows[cut], slots[cut], restart[cut], explain_p)
            for cut in (slice(start, start + self._rows) for start in range(0, max(len(rows), 1), self._rows))
        ]
        if len(pieces) == 1:
            return pieces[0]
        moved = [piece._replace(explained=piece.explained + number * self._rows) for number, piece in enumerate(pieces)]
        return FlowScored(*(np.concatenate(arrays) for arrays in zip(*moved, strict=True)))

    @torch.inference_mode()
    def _piece(
        self, rows: NDArray[np.float32], slots: NDArray[np.int32], restart: NDArray[np.bool_], explain_p: float
    ) -> FlowScored:
        """Score the rows of one piece."""
        there = torch.from_numpy(np.ascontiguousarray(rows)).to(self.device, non_blocking=True)
        buffer, windows = self._windows.push(there, slots, restart)
        self._complete = self._complete and not np.isnan(rows).any()
        judged = self._laid.judge(self._laid.read(buffer, complete=self._complete), windows)
        logits = judged.logits / self.bundle.manifest.temperature
        verdict = (torch.logsumexp(logits[:, 1:], dim=1) - logits[:, 0]).cpu().numpy()
        p_value = self.bundle.calibration.p_value(verdict)
        explained = np.flatnonzero(p_value <= explain_p)
        which = torch.from_numpy(explained).to(self.device)
        attention = judged.attention.index_select(0, which)
        attended = buffer.index_select(0, windows.index_select(0, which).gather(1, _heaviest(attention))[:, 0])
        distance, _ = scaled(attended, self._laid.centre, self._laid.spread)
        told = (attention, attended, distance)
        return FlowScored(
            torch.softmax(logits, dim=1).cpu().numpy(), verdict, p_value, explained, *(one.cpu().numpy() for one in told)
        )

    def state(self) -> dict[str, Tensor]:
        """All that must be kept to go on later."""
        return {"complete": torch.tensor(self._complete), **self._windows.state()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from the `state()` of a scorer with the same model and as many slots; RuntimeError when sizes differ."""
        self._windows.restore(state)
        self._complete = bool(state["complete"])


def _heaviest(attention: Tensor) -> Tensor:
    """(K, 1) place of the greatest weight in each window, the later one of two that are equal."""
    places = attention.shape[1]
    return places - 1 - attention.flip(1).argmax(dim=1, keepdim=True)
