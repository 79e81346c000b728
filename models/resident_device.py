"""A batch of words scored without a word from the host: `resident`'s road on a CUDA device.

Everything between the copy there and the copy back is one function of tensors of fixed shapes, which `lanes` captures as a
graph: the batch is sorted by slot (`groups`), stepped in rounds of fixed widths (`rounds.Rounds`), its hours are accumulated
(`hours.SortedHours`), and p-values are looked up (`calibrate.Tail`). Rows stay in sorted order until they are packed. Why a row
is odd is asked afterwards, of the few that may alert, from what the step kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.calibrate import Calibration, Tail
from models.groups import Groups, group
from models.hours import SoFar, SortedHours
from models.lanes import Batch, Laid, Lanes, Results, cuts, fitting, pack
from models.rounds import Rounds, Steps
from models.scored import Scored, Turned
from models.weighing import Reasons, Weighing

ROWS, CUDA_ROWS = (256, 2048), (2048, 16_384, 65_536)
"""Sizes that a batch is padded to, and the most rows judged at once. Each is a graph of its own; four or eight times as many
rows as were sent cost a device less than a launch for every row would."""
DEPTHS = (1, 4, 16)
"""Rounds that are laid out beside the most that are allowed: most batches hold few flows of any one conversation, and 64
rounds of steps cost five times as much as one."""


class Kept(NamedTuple):
    """What stays on the device of a batch of B rows, in sorted order."""

    words: Tensor
    """(B, P)."""
    reached: Tensor
    """(B, ...) prediction layers."""
    so_far: SoFar
    kept: Tensor
    """(B,) whether the LSTM read the row."""
    place: Tensor
    """(B,) where each row of the batch lies."""


class DeviceRoad:
    """The states and hours of `conversations` slots on `device`, planned there too. A last slot is spare: that of padding."""

    def __init__(
        self, weighing: Weighing, calibration: Calibration, *, conversations: int, device: torch.device, rounds: int
    ) -> None:
        self._weighing, self._tail = weighing, Tail(calibration, device)
        self._device, self._slots = device, conversations
        self._rows = ROWS if device.type == "cpu" else CUDA_ROWS
        self._depths = (*(depth for depth in DEPTHS if depth < rounds), rounds)
        self._hours = SortedHours(conversations, weighing.partial, device)
        self._units = weighing.lstm.shape.units
        self._state = torch.zeros(conversations + 1, 2 * self._units, device=device)
        most = self._rows[-1]
        idle = (
            torch.zeros(most, weighing.parts, dtype=torch.int16),
            torch.full((most,), conversations, dtype=torch.int32),
            torch.ones(most, dtype=torch.bool),
            torch.zeros(most, dtype=torch.int64),
        )
        self._lanes = Lanes(idle, self.laid, device)

    @torch.inference_mode()
    def score(self, turned: Turned, explain_p: float) -> Scored:
        """Score a batch; the device is at its next piece while the results of one are taken."""
        parts, count, found = self._weighing.parts, len(turned.words), []
        results = Results.of(count, (1, 1, parts, parts, parts))
        for cut, packed, kept in self._run(turned):
            results.take(cut, packed, len(kept.place))
            rows = np.flatnonzero(results.p_value[cut] <= explain_p)
            found.append((rows + cut.start, *self._weighing.explain(*self._asked(kept, rows))))
        verdict, nats, part_nats, tail, given = results.blocks
        explained, *reasons = (np.concatenate(columns) for columns in zip(*found, strict=True))
        return Scored(
            nats[:, 0],
            part_nats,
            tail,
            given,
            verdict[:, 0],
            results.p_value,
            explained,
            *Reasons._make(reasons),
            int(np.isnan(nats).sum()),
        )

    def evidence(self, turned: Turned) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The largest and the mean evidence of each row's hour so far, (B, E) each."""
        found = [self._evidence(cut.stop - cut.start, kept) for cut, _, kept in self._run(turned)]
        largest, mean = zip(*found, strict=True)
        return np.concatenate(largest), np.concatenate(mean)

    def laid(self, laid: Laid) -> Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Kept]]:
        """The step for batches of fixed sizes: (B, P) words, (B,) slots, restarts and hours to packed results."""
        rounds = Rounds(laid.rows, laid.rounds, self._device)

        def step(words: Tensor, slots: Tensor, restart: Tensor, hour: Tensor) -> tuple[Tensor, Kept]:
            groups = group(slots)
            words, restart, hour = (given.index_select(0, groups.order) for given in (words, restart, hour))
            steps = rounds.lay(groups, restart)
            reached, seen, tail = self._read(rounds, groups, steps, words)
            frequent = self._weighing.frequency.nats(words)
            evidence = self._weighing.evidence(seen, tail, frequent)
            so_far = self._hours.add(groups, restart, hour, evidence, steps.kept)
            verdict = self._weighing.verdict(so_far)
            part_nats, tail = (torch.where(steps.kept[:, None], told, torch.nan) for told in (self._weighing.nats(seen), tail))
            packed = pack(
                groups,
                self._tail.p_value(verdict),
                verdict.to(torch.float32)[:, None],
                part_nats.sum(dim=1, keepdim=True),
                part_nats,
                tail,
                self._weighing.given(frequent),
            )
            return packed, Kept(words, reached, so_far, steps.kept, groups.unsorted(groups.place))

        return step

    def _run(self, turned: Turned) -> Iterator[tuple[slice, NDArray[np.float32], Kept]]:
        """Take a batch through the device, piece by piece."""
        pieces = cuts(len(turned.words), self._rows[-1])
        batches = (
            Batch(Laid(fitting(self._rows, cut.stop - cut.start), self._depth(turned.slots[cut])), turned.cut(cut))
            for cut in pieces
        )
        for cut, (packed, kept) in zip(pieces, self._lanes.run(batches), strict=True):
            yield cut, packed, kept

    def _depth(self, slots: NDArray[np.int32]) -> int:
        """Rounds to lay out for a piece. The host can tell, since the slots come from it: the device is not asked."""
        ordered = np.sort(slots)
        deep = (depth for depth in self._depths if not (ordered[depth:] == ordered[:-depth]).any())
        return next(deep, self._depths[-1])

    def _read(self, rounds: Rounds, groups: Groups, steps: Steps, words: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Step the rounds: prediction layers (B, ...), probabilities and tails (B, P) of sorted rows; no sense where shed.

        The states after every step are kept until each row has found its own, so that no step needs to know whether it
        steps a row at all.
        """
        lstm, units = self._weighing.lstm, self._units
        rows = lstm.rows(words)
        read = lstm.read(rows)
        state = self._state.index_select(0, groups.slots.index_select(0, steps.heads))
        hidden, cell = state[:, :units], state[:, units:]
        before, after, cells = (read.new_empty(len(steps.rows), units) for _ in range(3))
        for cut in rounds.cuts:
            width, keep = cut.stop - cut.start, steps.keep[cut]
            torch.mul(cell[:width], keep, out=cells[cut])
            after[cut].copy_(torch.mul(hidden[:width], keep, out=before[cut]))
            hidden, cell = after[cut], cells[cut]
            lstm.step(read.index_select(0, steps.rows[cut]), hidden, cell)
        ended = torch.cat([states.index_select(0, steps.at) for states in (after, cells)], dim=1)
        self._state.index_copy_(0, groups.last_to(self._slots), ended)
        reached = lstm.reach(before.index_select(0, steps.at), rows)
        return reached, *lstm.judge(reached, words)

    def _asked(self, kept: Kept, rows: NDArray[np.int64]) -> tuple[Tensor, SoFar, Tensor, Tensor]:
        """What `Weighing.explain` takes of some rows of the batch; of none, nothing is asked of the device."""
        if not len(rows):
            return kept.words[:0], kept.so_far, kept.reached, kept.place
        places = kept.place.index_select(0, torch.from_numpy(rows).to(self._device))
        so_far = SoFar(*(one.index_select(0, places) for one in kept.so_far))
        read = torch.where(kept.kept.index_select(0, places), places, -1)
        return kept.words.index_select(0, places), so_far, kept.reached, read

    def _evidence(self, count: int, kept: Kept) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The evidence of a piece of `count` rows, in its order."""
        largest, mean = (one.index_select(0, kept.place[:count]).cpu().numpy() for one in kept.so_far)
        return largest, mean

    def state(self) -> dict[str, Tensor]:
        """States and evidence of every slot."""
        return {"state": self._state[: self._slots], **self._hours.state()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from the `state()` of either road; RuntimeError when sizes differ."""
        self._state[: self._slots].copy_(state["state"])
        self._hours.restore(state)
