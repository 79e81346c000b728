"""The scorer of the multi-flow model: the last flows of every sequence on the device, a batch of statistics in, classes out.

`windows` keeps the last n - 1 flows of each slot; a batch is one gather, one pass and one scatter, however its flows are
spread over the slots, so a flood of one pair costs no more than other traffic. The verdict of a flow is the log-odds of
"anything but ordinary" after temperature calibration, and its p-value the share of ordinary conversation-hours whose highest
verdict is at least as high. What an alert needs beyond that (the attention, and how far each statistic stands from the
middle) is fetched for the few rows that can alert.

As for words, there are two roads: on a processor the host lays the windows out, in arrays as long as the batch needs; on CUDA
the device does, in one captured step of fixed shapes (`lanes`). Neither the road nor how the flows are cut into batches changes
what comes out, save for float noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.calibrate import Tail
from models.groups import group
from models.lanes import Batch, Laid, Lanes, Results, cuts, fitting, pack
from models.multiflow import Laid as LaidModel
from models.multiflow import lay
from models.multiflow_checkpoint import FlowBundle
from models.scale import scaled
from models.windows import SortedWindows, Windows

PIECE = 2048
"""Rows judged at once on the host's road: on a processor, the states of all steps of a piece are 21 MB at 256 units."""
ROWS, CUDA_ROWS = (256, 2048), (2048, 16_384)
"""Sizes that a batch is padded to on the device's road, and the most rows judged at once. At 16,384 rows of 92 columns a CUDA
device is busy, and what it reads of them, with all that their sequences held before, takes 0.7 GB."""


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


class Arrived(NamedTuple):
    """A batch of B flows as `FlowScorer.score` takes them."""

    rows: NDArray[np.float32]
    """(B, F)."""
    slots: NDArray[np.int32]
    restart: NDArray[np.bool_]

    def cut(self, part: slice) -> Arrived:
        """Some of the flows."""
        return Arrived._make(column[part] for column in self)


class Kept(NamedTuple):
    """What stays on the device of a batch of B flows, for the few that are asked about."""

    buffer: Tensor
    """(R, F) statistics."""
    windows: Tensor
    """(B, n) places in the buffer."""
    attention: Tensor
    """(B, n)."""


class FlowScorer:
    """Scores batches for `slots` sequences with a loaded model.

    `device` None takes CUDA when there is one. `dtype` is that of the matrices: bfloat16 is faster where the processor has it.
    `planned_there` chooses the road; None takes the device's own on CUDA.
    """

    def __init__(
        self,
        bundle: FlowBundle,
        *,
        slots: int,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
        planned_there: bool | None = None,
    ) -> None:
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.bundle = bundle
        if planned_there is None:
            planned_there = self.device.type == "cuda"
        laid = lay(bundle.model, self.device, dtype)
        self._road = (DeviceRoad if planned_there else HostRoad)(bundle, laid, slots, self.device)

    def score(
        self, rows: NDArray[np.float32], slots: NDArray[np.int32], restart: NDArray[np.bool_], *, explain_p: float
    ) -> FlowScored:
        """Score (B, F) statistics in the manifest's order of columns, in the order in which the flows ended.

        `slots` (B,) and `restart` (B,) are of the sequences that the manifest names (pairs or source hosts).
        """
        return self._road.score(Arrived(rows, slots, restart), explain_p)

    def state(self) -> dict[str, Tensor]:
        """All that must be kept to go on later. Both roads take it up."""
        return self._road.state()

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from the `state()` of a scorer with the same model and as many slots; RuntimeError when sizes differ."""
        self._road.restore(state)


class HostRoad:
    """The windows of `slots` sequences on `device`, laid out by the host."""

    def __init__(self, bundle: FlowBundle, laid: LaidModel, slots: int, device: torch.device) -> None:
        self._bundle, self._laid, self._device = bundle, laid, device
        self._complete = True  # no flow so far had an unknown statistic: half of the reading is saved
        self._windows = Windows(slots, bundle.manifest.flows, len(bundle.manifest.columns), device)

    def score(self, arrived: Arrived, explain_p: float) -> FlowScored:
        """Score a batch."""
        return _join([self._piece(arrived.cut(cut), explain_p) for cut in cuts(len(arrived.rows), PIECE)])

    @torch.inference_mode()
    def _piece(self, arrived: Arrived, explain_p: float) -> FlowScored:
        """Score the rows of one piece."""
        there = torch.from_numpy(np.ascontiguousarray(arrived.rows)).to(self._device)
        buffer, windows = self._windows.push(there, arrived.slots, arrived.restart)
        self._complete = self._complete and not np.isnan(arrived.rows).any()
        judged = self._laid.judge(self._laid.read(buffer, complete=self._complete), windows)
        probability, odds = _weighed(judged.logits, self._bundle.manifest.temperature)
        verdict = odds.cpu().numpy()
        p_value = self._bundle.calibration.p_value(verdict)
        explained = np.flatnonzero(p_value <= explain_p)
        which = torch.from_numpy(explained).to(self._device)
        told = _told(self._laid, Kept(buffer, windows, judged.attention), which)
        return FlowScored(probability.cpu().numpy(), verdict, p_value, explained, *told)

    def state(self) -> dict[str, Tensor]:
        """The windows, and whether all of them are known."""
        return {"complete": torch.tensor(self._complete), **self._windows.state()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from the `state()` of either road; RuntimeError when sizes differ."""
        self._windows.restore(state)
        self._complete = bool(state["complete"])


class DeviceRoad:
    """The windows of `slots` sequences on `device`, laid out there too. A last slot is spare: that of padding."""

    def __init__(self, bundle: FlowBundle, laid: LaidModel, slots: int, device: torch.device) -> None:
        self._laid, self._device = laid, device
        self._temperature, self._classes = bundle.manifest.temperature, len(bundle.manifest.classes)
        self._tail = Tail(bundle.calibration, device)
        self._complete = True
        self._rows = ROWS if device.type == "cpu" else CUDA_ROWS
        columns, most = len(bundle.manifest.columns), self._rows[-1]
        self._windows = SortedWindows(slots, bundle.manifest.flows, columns, device)
        idle = (
            torch.zeros(most, columns),
            torch.full((most,), slots, dtype=torch.int32),
            torch.ones(most, dtype=torch.bool),
        )
        self._lanes = Lanes(idle, self.laid, device)

    @torch.inference_mode()
    def score(self, arrived: Arrived, explain_p: float) -> FlowScored:
        """Score a batch; the device is at its next piece while the results of one are taken."""
        pieces, found = cuts(len(arrived.rows), self._rows[-1]), []
        results = Results.of(len(arrived.rows), (1, self._classes))
        batches = (self._batch(arrived.cut(cut)) for cut in pieces)
        for cut, (packed, (kept, place)) in zip(pieces, self._lanes.run(batches), strict=True):
            results.take(cut, packed, len(place))
            rows = np.flatnonzero(results.p_value[cut] <= explain_p)
            which = place.index_select(0, torch.from_numpy(rows).to(self._device)) if len(rows) else place[:0]
            found.append((rows + cut.start, *_told(self._laid, kept, which)))
        verdict, probability = results.blocks
        explained = (np.concatenate(columns) for columns in zip(*found, strict=True))
        return FlowScored(probability, verdict[:, 0], results.p_value, *explained)

    def _batch(self, arrived: Arrived) -> Batch:
        """A piece as it is sent off. That something is unknown is seen here, where the rows still lie in host memory."""
        self._complete = self._complete and not np.isnan(arrived.rows).any()
        return Batch(Laid(fitting(self._rows, len(arrived.rows)), complete=self._complete), arrived)

    def laid(self, laid: Laid) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, tuple[Kept, Tensor]]]:
        """The step for batches of a fixed size: (B, F) statistics, (B,) slots and restarts to packed results.

        What it keeps is in sorted order; beside it lies where each row of the batch is.
        """

        def step(rows: Tensor, slots: Tensor, restart: Tensor) -> tuple[Tensor, tuple[Kept, Tensor]]:
            groups = group(slots)
            rows, restart = (given.index_select(0, groups.order) for given in (rows, restart))
            buffer, windows = self._windows.push(groups, rows, restart)
            judged = self._laid.judge(self._laid.read(buffer, complete=laid.complete), windows)
            probability, verdict = _weighed(judged.logits, self._temperature)
            packed = pack(groups, self._tail.p_value(verdict), verdict[:, None], probability)
            return packed, (Kept(buffer, windows, judged.attention), groups.unsorted(groups.place))

        return step

    def state(self) -> dict[str, Tensor]:
        """What `HostRoad.state` gives."""
        return {"complete": torch.tensor(self._complete), **self._windows.state()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from the `state()` of either road; RuntimeError when sizes differ."""
        self._windows.restore(state)
        self._complete = bool(state["complete"])


def _weighed(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Calibrated probabilities (B, C) and verdicts (B,) of logits (B, C)."""
    cooled = logits / temperature
    return torch.softmax(cooled, dim=1), torch.logsumexp(cooled[:, 1:], dim=1) - cooled[:, 0]


def _told(laid: LaidModel, kept: Kept, which: Tensor) -> tuple[NDArray[np.float32], ...]:
    """The fields of FlowScored from `attention` on, of some rows; of none, nothing is asked of the device."""
    if not len(which):
        return tuple(np.empty((0, wide.shape[1]), np.float32) for wide in (kept.attention, kept.buffer, kept.buffer))
    attention = kept.attention.index_select(0, which)
    heaviest = kept.windows.index_select(0, which).gather(1, _heaviest(attention))[:, 0]
    attended = kept.buffer.index_select(0, heaviest)
    distance, _ = scaled(attended, laid.centre, laid.spread)
    return tuple(one.cpu().numpy() for one in (attention, attended, distance))


def _join(pieces: Sequence[FlowScored]) -> FlowScored:
    """The pieces that a batch was cut into as one; there is at least one."""
    if len(pieces) == 1:
        return pieces[0]
    starts = np.cumsum([0, *(len(piece.verdict) for piece in pieces[:-1])])
    moved = [piece._replace(explained=piece.explained + start) for piece, start in zip(pieces, starts, strict=True)]
    return FlowScored(*(np.concatenate(arrays) for arrays in zip(*moved, strict=True)))


def _heaviest(attention: Tensor) -> Tensor:
    """(K, 1) place of the greatest weight in each window, the later one of two that are equal."""
    places = attention.shape[1]
    return places - 1 - attention.flip(1).argmax(dim=1, keepdim=True)
