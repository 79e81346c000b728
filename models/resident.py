"""The scorer: every conversation's state on the device, a batch of words in, surprises, verdicts and p-values out.

The LSTM's state and the evidence of the hour so far of all conversations are laid out once, at start, one row per slot;
`sensor.conversations` gives out the slots. A batch is stepped in rounds (`rounds`), the predictions of all its words are
made in one go from the states before them, and the hour's evidence is accumulated (`hours`) and weighed (`verdict`).
Nothing is a loop over flows; there are as many steps as the busiest conversation has flows in the batch, at most
`rounds`. What a flood brings beyond that is shed for the LSTM and counted; the frequency voice still judges all of it.

How the flows are cut into batches does not change what comes out, save for float noise and for what is shed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.checkpoint import Bundle
from models.explain import expectations, shares
from models.frequency import build
from models.hours import Hours, Runs, SoFar
from models.rounds import Plan, plan
from models.verdict import CEILING, LSTM_VOICES, columns
from models.words import fold

LEAST = 1e-37
"""Probabilities are cut here before their logarithm: about the smallest that float32 holds at full precision."""
PIECE, CUDA_PIECE = 2048, 1 << 16
"""Rows judged at once, on a processor and on a CUDA device, which is busy with many more. Longer batches (a table drained at
the end) are cut: the layers between would take gigabytes."""


class Scored(NamedTuple):
    """What a batch of B words of P parts came to; K of them are explained."""

    nats: NDArray[np.float32]
    """(B,) surprise of the word under the LSTM: the sum of `part_nats`. NaN where the flow was shed."""
    part_nats: NDArray[np.float32]
    """(B, P) -ln of each part's probability under the LSTM, given the conversation and the parts before. NaN where shed."""
    part_tail: NDArray[np.float32]
    """(B, P) probability of all values no likelier than the seen one. NaN where shed."""
    frequency_nats: NDArray[np.float32]
    """(B, P) -ln of the first part's frequency, and of the others' given the first. Never NaN."""
    verdict: NDArray[np.float32]
    """(B,) verdict of the conversation's hour so far, log-odds."""
    p_value: NDArray[np.float64]
    """(B,) share of benign conversation-hours with a verdict at least as high."""
    explained: NDArray[np.int64]
    """(K,) rows with p_value <= explain_p."""
    expected: NDArray[np.int16]
    """(K, P, 3) likeliest other values of each part, by `voice`; -1 where a part has fewer values."""
    expected_probability: NDArray[np.float32]
    """(K, P, 3) by `voice`. The LSTM knows the conversation and the parts before (as seen), the frequencies the service."""
    seen_probability: NDArray[np.float32]
    """(K, P) by `voice`; of one port, where the first part's value is a range, as in `expected_probability`."""
    contribution: NDArray[np.float32]
    """(K, P) share of each part in the verdict, summing to 1 (all 0 where nothing weighed anything)."""
    voice: NDArray[np.uint8]
    """(K, P) which voice weighed most for the part: 0 the LSTM, 1 the frequencies. Those of a shed flow are all 1."""
    shed: int
    """Flows of this batch that the LSTM did not read."""


class Scorer:
    """Scores batches for `conversations` slots with a loaded model.

    `device` None takes CUDA when there is one. `rounds` is the most flows of one conversation that the LSTM reads per batch.
    Evidence that weighs nothing is not even accumulated, unless `every_column` asks for it, as fitting a verdict does.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        conversations: int,
        device: torch.device | None = None,
        rounds: int = 64,
        every_column: bool = False,
    ) -> None:
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.bundle = bundle
        self.rounds = rounds
        self._rows = PIECE if self.device.type == "cpu" else CUDA_PIECE
        self.shed = 0
        spread = torch.tensor(bundle.manifest.spread, dtype=torch.float64)
        self._lstm = fold(bundle.model, spread, self.device)
        self._frequency = build(bundle.counts, spread, self.device)
        weights, shown = bundle.weights, columns(len(bundle.manifest.sizes))
        used = np.flatnonzero((weights.largest > 0) | (weights.mean > 0) | every_column)
        voices = [shown[place].voice for place in used]
        partial = np.array([voice in LSTM_VOICES for voice in voices], np.bool_)
        self._columns = torch.from_numpy(used).to(self.device)
        self._place = torch.tensor([shown[place].place for place in used], dtype=torch.int64, device=self.device)
        lstm_share = [{"lstm": 1.0, "mixture": 0.5}.get(voice, 0.0) for voice in voices]
        self._lstm_share = torch.tensor(lstm_share, dtype=torch.float64, device=self.device)
        self._largest_weight = torch.from_numpy(weights.largest[used]).to(self.device)
        self._mean_weight = torch.from_numpy(weights.mean[used]).to(self.device)
        self._hours = Hours(conversations, partial, self.device)
        units = bundle.model.shape.units
        self._units = units
        self._state = torch.zeros(conversations, 2 * units, device=self.device)  # h and c side by side: one gather for both

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
        pieces = [
            self._piece(words[cut], slots[cut], restart[cut], hour[cut], explain_p)
            for cut in (slice(start, start + self._rows) for start in range(0, max(len(words), 1), self._rows))
        ]
        if len(pieces) == 1:
            return pieces[0]
        moved = [piece._replace(explained=piece.explained + number * self._rows) for number, piece in enumerate(pieces)]
        joined = {name: np.concatenate([getattr(piece, name) for piece in moved]) for name in Scored._fields if name != "shed"}
        return Scored(**joined, shed=sum(piece.shed for piece in pieces))

    @torch.inference_mode()
    def evidence(
        self, words: NDArray[np.int16], slots: NDArray[np.int32], restart: NDArray[np.bool_], hour: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The largest and the mean evidence of each row's hour so far, (B, E) each: what the verdict is fitted on.

        Advances the states as `score` does: use one or the other.
        """
        largest, mean = [], []
        for cut in (slice(start, start + self._rows) for start in range(0, len(words), self._rows)):
            order = plan(slots[cut], restart[cut], self.rounds)
            there = torch.from_numpy(np.ascontiguousarray(words[cut])).to(self.device)
            _, seen, tail = self._read(order, there)
            runs = self._hours.runs(slots[cut], restart[cut], hour[cut])
            so_far = self._weigh(runs, order, seen, tail, self._frequency.nats(there))
            largest.append(so_far.largest.cpu().numpy())
            mean.append(so_far.mean.cpu().numpy())
        return np.concatenate(largest), np.concatenate(mean)

    @torch.inference_mode()
    def _piece(
        self,
        words: NDArray[np.int16],
        slots: NDArray[np.int32],
        restart: NDArray[np.bool_],
        hour: NDArray[np.int64],
        explain_p: float,
    ) -> Scored:
        """Score the rows of one piece."""
        order = plan(slots, restart, self.rounds)
        self.shed += len(order.shed)
        there = torch.from_numpy(np.ascontiguousarray(words)).to(self.device)
        reached, seen, tail = self._read(order, there)
        frequent = self._frequency.nats(there)
        so_far = self._weigh(self._hours.runs(slots, restart, hour), order, seen, tail, frequent)
        weights = self._largest_weight, self._mean_weight
        verdict = (so_far.largest @ weights[0] + so_far.mean @ weights[1] + self.bundle.weights.bias).cpu().numpy()
        p_value = self.bundle.calibration.p_value(verdict)
        explained = np.flatnonzero(p_value <= explain_p)
        part_nats = -torch.log(seen.clamp(min=LEAST))
        parts = words.shape[1]
        given = torch.cat([frequent[:, :1], frequent[:, parts:]], dim=1)
        return Scored(
            part_nats.sum(dim=1).cpu().numpy(),
            part_nats.cpu().numpy(),
            tail.cpu().numpy(),
            given.cpu().numpy(),
            verdict.astype(np.float32),
            p_value,
            explained,
            *self._explain(explained, order, there, reached, so_far),
            len(order.shed),
        )

    def _read(self, order: Plan, words: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Step the batch's rounds: the prediction layers of the K stepped words (K, ...), and for all rows of the batch
        the seen values' probabilities and tails, (B, P) each, NaN where shed.
        """
        slots = torch.from_numpy(order.slots).to(self.device)
        stepped = torch.from_numpy(order.rows).to(self.device)
        keep = torch.from_numpy(~order.restart).to(self.device, torch.float32)[:, None]
        given = words.index_select(0, stepped)
        ordered = self._lstm.rows(given)
        read = self._lstm.read(ordered)
        state = self._state.index_select(0, slots)
        hidden, cell = state[:, : self._units], state[:, self._units :]
        known = torch.empty(len(ordered), self._units, device=self.device)
        start = 0
        for width, again in zip(order.widths, order.restarts, strict=True):
            stop = start + width
            if again:
                hidden[:width].mul_(keep[start:stop])
                cell[:width].mul_(keep[start:stop])
            known[start:stop] = hidden[:width]
            self._lstm.step(read[start:stop], hidden[:width], cell[:width])
            start = stop
        self._state.index_copy_(0, slots, state)
        reached = self._lstm.reach(known, ordered)
        seen, tail = (torch.full(words.shape, torch.nan, device=self.device) for _ in range(2))
        for all_rows, judged in zip((seen, tail), self._lstm.judge(reached, given), strict=True):
            all_rows.index_copy_(0, stepped, judged)
        return reached, seen, tail

    def _weigh(self, runs: Runs, order: Plan, seen: Tensor, tail: Tensor, frequent: Tensor) -> SoFar:
        """Lay the evidence out as `verdict.columns` has it and accumulate it; only the columns that weigh something."""
        mixture = -torch.log((seen[:, :1] + torch.exp(-frequent[:, :1])) / 2)
        evidence = torch.cat([-torch.log(tail.clamp(min=LEAST)), frequent, mixture], dim=1)[:, self._columns]
        heard = torch.ones(len(seen), dtype=torch.bool, device=self.device)
        if len(order.shed):
            heard[torch.from_numpy(order.shed).to(self.device)] = False
            evidence = evidence.nan_to_num(0.0)
        return self._hours.add(runs, evidence.clamp(0.0, CEILING), heard)

    def _explain(
        self, explained: NDArray[np.int64], order: Plan, words: Tensor, reached: Tensor, so_far: SoFar
    ) -> tuple[NDArray[np.int16], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8]]:
        """The fields of Scored from `expected` to `voice`, for the rows `explained` (K,) of the batch."""
        place_of = np.full(len(words), -1, np.int64)
        place_of[order.rows] = np.arange(len(order.rows))
        which = torch.from_numpy(explained).to(self.device)
        places = torch.from_numpy(place_of[explained]).to(self.device)
        weighed = so_far.largest[which] * self._largest_weight + so_far.mean[which] * self._mean_weight
        contribution, voice = shares(weighed, self._place, self._lstm_share, words.shape[1])
        voice[places < 0] = 1
        expected = expectations(self._lstm, self._frequency, words[which], reached, places, voice)
        return (
            expected.values.cpu().numpy(),
            expected.probability.cpu().numpy(),
            expected.seen.cpu().numpy(),
            contribution.to(torch.float32).cpu().numpy(),
            voice.cpu().numpy(),
        )

    def state(self) -> dict[str, Tensor]:
        """All that must be kept to go on later: states and evidence of every slot."""
        return {"state": self._state, **self._hours.state()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from the `state()` of a scorer with the same model and as many slots; RuntimeError when sizes differ."""
        self._state.copy_(state["state"])
        self._hours.restore(state)
