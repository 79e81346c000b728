"""A batch of words scored from plans that the host makes: `resident`'s road on a processor.

`rounds.plan` and `hours.Hours` say with numpy which row is stepped when and which rows make an hour, in arrays that are as
long as the batch needs. Nothing is padded, which is why a processor is faster this way.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.calibrate import Calibration
from models.hours import Hours, SoFar
from models.lanes import cuts
from models.rounds import Plan, plan
from models.scored import Scored, Turned, join
from models.weighing import Weighing

PIECE, CUDA_PIECE = 2048, 1 << 16
"""Rows judged at once, on a processor and on a CUDA device, which is busy with many more. Longer batches (a table drained at
the end) are cut: the layers between would take gigabytes."""


class HostRoad:
    """The states and hours of `conversations` slots on `device`, planned on the host."""

    def __init__(
        self, weighing: Weighing, calibration: Calibration, *, conversations: int, device: torch.device, rounds: int
    ) -> None:
        self._weighing, self._calibration = weighing, calibration
        self._device, self._rounds = device, rounds
        self._rows = PIECE if device.type == "cpu" else CUDA_PIECE
        self._hours = Hours(conversations, weighing.partial, device)
        self._units = weighing.lstm.shape.units
        self._state = torch.zeros(conversations, 2 * self._units, device=device)  # h and c side by side: one gather for both

    def score(self, turned: Turned, explain_p: float) -> Scored:
        """Score a batch."""
        return join([self._piece(turned.cut(cut), explain_p) for cut in cuts(len(turned.words), self._rows)])

    @torch.inference_mode()
    def evidence(self, turned: Turned) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The largest and the mean evidence of each row's hour so far, (B, E) each."""
        largest, mean = [], []
        for cut in cuts(len(turned.words), self._rows):
            piece = turned.cut(cut)
            order = plan(piece.slots, piece.restart, self._rounds)
            there = torch.from_numpy(np.ascontiguousarray(piece.words)).to(self._device)
            _, seen, tail = self._read(order, there)
            so_far = self._weigh(piece, order, seen, tail, self._weighing.frequency.nats(there))
            largest.append(so_far.largest.cpu().numpy())
            mean.append(so_far.mean.cpu().numpy())
        return np.concatenate(largest), np.concatenate(mean)

    @torch.inference_mode()
    def _piece(self, turned: Turned, explain_p: float) -> Scored:
        """Score the rows of one piece."""
        weighing = self._weighing
        order = plan(turned.slots, turned.restart, self._rounds)
        there = torch.from_numpy(np.ascontiguousarray(turned.words)).to(self._device)
        reached, seen, tail = self._read(order, there)
        frequent = weighing.frequency.nats(there)
        so_far = self._weigh(turned, order, seen, tail, frequent)
        verdict = weighing.verdict(so_far).cpu().numpy()
        p_value = self._calibration.p_value(verdict)
        explained = np.flatnonzero(p_value <= explain_p)
        place_of = np.full(len(there), -1, np.int64)
        place_of[order.rows] = np.arange(len(order.rows))
        which, places = (torch.from_numpy(rows).to(self._device) for rows in (explained, place_of[explained]))
        part_nats = weighing.nats(seen)
        return Scored(
            part_nats.sum(dim=1).cpu().numpy(),
            part_nats.cpu().numpy(),
            tail.cpu().numpy(),
            weighing.given(frequent).cpu().numpy(),
            verdict.astype(np.float32),
            p_value,
            explained,
            *weighing.explain(there[which], SoFar(so_far.largest[which], so_far.mean[which]), reached, places),
            len(order.shed),
        )

    def _read(self, order: Plan, words: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Step the batch's rounds: the prediction layers of the K stepped words (K, ...), and for all rows of the batch
        the seen values' probabilities and tails, (B, P) each, NaN where shed.
        """
        lstm = self._weighing.lstm
        slots = torch.from_numpy(order.slots).to(self._device)
        stepped = torch.from_numpy(order.rows).to(self._device)
        keep = torch.from_numpy(~order.restart).to(self._device, torch.float32)[:, None]
        given = words.index_select(0, stepped)
        ordered = lstm.rows(given)
        read = lstm.read(ordered)
        state = self._state.index_select(0, slots)
        hidden, cell = state[:, : self._units], state[:, self._units :]
        known = torch.empty(len(ordered), self._units, device=self._device)
        start = 0
        for width, again in zip(order.widths, order.restarts, strict=True):
            stop = start + width
            if again:
                hidden[:width].mul_(keep[start:stop])
                cell[:width].mul_(keep[start:stop])
            known[start:stop] = hidden[:width]
            lstm.step(read[start:stop], hidden[:width], cell[:width])
            start = stop
        self._state.index_copy_(0, slots, state)
        reached = lstm.reach(known, ordered)
        seen, tail = (torch.full(words.shape, torch.nan, device=self._device) for _ in range(2))
        for all_rows, judged in zip((seen, tail), lstm.judge(reached, given), strict=True):
            all_rows.index_copy_(0, stepped, judged)
        return reached, seen, tail

    def _weigh(self, turned: Turned, order: Plan, seen: Tensor, tail: Tensor, frequent: Tensor) -> SoFar:
        """Accumulate the evidence of a batch."""
        evidence = self._weighing.evidence(seen, tail, frequent)
        heard = torch.ones(len(seen), dtype=torch.bool, device=self._device)
        if len(order.shed):
            heard[torch.from_numpy(order.shed).to(self._device)] = False
            evidence = evidence.nan_to_num(0.0)
        return self._hours.add(self._hours.runs(turned.slots, turned.restart, turned.hour), evidence, heard)

    def state(self) -> dict[str, Tensor]:
        """States and evidence of every slot."""
        return {"state": self._state, **self._hours.state()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from the `state()` of either road; RuntimeError when sizes differ."""
        self._state.copy_(state["state"])
        self._hours.restore(state)
