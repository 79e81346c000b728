"""The voices of a word model laid out on a device, and what they say of a batch: evidence, verdict, explanation.

Both roads that a batch can take (`resident_host`, `resident_device`) call these on rows in whatever order they keep them.
Evidence that weighs nothing is left out from the start.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.checkpoint import Bundle
from models.explain import EXPECTED, expectations, shares
from models.frequency import build
from models.hours import SoFar
from models.verdict import CEILING, LSTM_VOICES, columns
from models.words import fold

LEAST = 1e-37
"""Probabilities are cut here before their logarithm: about the smallest that float32 holds at full precision."""


class Reasons(NamedTuple):
    """The fields of Scored from `expected` to `voice`."""

    expected: NDArray[np.int16]
    expected_probability: NDArray[np.float32]
    seen_probability: NDArray[np.float32]
    contribution: NDArray[np.float32]
    voice: NDArray[np.uint8]


class Weighing:
    """A loaded model on `device`. With `every_column`, evidence that weighs nothing is laid out too."""

    def __init__(self, bundle: Bundle, device: torch.device, *, every_column: bool) -> None:
        spread = torch.tensor(bundle.manifest.spread, dtype=torch.float64)
        self.lstm = fold(bundle.model, spread, device)
        self.frequency = build(bundle.counts, spread, device)
        weights, self.parts = bundle.weights, len(bundle.manifest.sizes)
        shown = columns(self.parts)
        used = np.flatnonzero((weights.largest > 0) | (weights.mean > 0) | every_column)
        voices = [shown[place].voice for place in used]
        self.partial = np.array([voice in LSTM_VOICES for voice in voices], np.bool_)
        """(E,) which columns of evidence a shed row lacks."""
        self._columns = torch.from_numpy(used).to(device)
        self._place = torch.tensor([shown[place].place for place in used], dtype=torch.int64, device=device)
        lstm_share = [{"lstm": 1.0, "mixture": 0.5}.get(voice, 0.0) for voice in voices]
        self._lstm_share = torch.tensor(lstm_share, dtype=torch.float64, device=device)
        self._largest_weight = torch.from_numpy(weights.largest[used]).to(device)
        self._mean_weight = torch.from_numpy(weights.mean[used]).to(device)
        self._bias = weights.bias

    def nats(self, seen: Tensor) -> Tensor:
        """-ln of (B, P) probabilities by the LSTM."""
        return -torch.log(seen.clamp(min=LEAST))

    def given(self, frequent: Tensor) -> Tensor:
        """What alerts tell of (B, 2P - 1) nats by frequencies: (B, P), the first part's alone, the others given the first."""
        return torch.cat([frequent[:, :1], frequent[:, self.parts :]], dim=1)

    def evidence(self, seen: Tensor, tail: Tensor, frequent: Tensor) -> Tensor:
        """(B, E) evidence, as `verdict.columns` has it, of what the LSTM and the frequencies say of B words."""
        mixture = -torch.log((seen[:, :1] + torch.exp(-frequent[:, :1])) / 2)
        every = torch.cat([-torch.log(tail.clamp(min=LEAST)), frequent, mixture], dim=1)
        return every.index_select(1, self._columns).clamp(0.0, CEILING)

    def verdict(self, so_far: SoFar) -> Tensor:
        """(B,) float64 log-odds."""
        return so_far.largest @ self._largest_weight + so_far.mean @ self._mean_weight + self._bias

    def explain(self, words: Tensor, so_far: SoFar, reached: Tensor, places: Tensor) -> Reasons:
        """Explain K rows: (K, P) words, their evidence, and where in `reached` their prediction layers lie; -1 where shed."""
        if not len(words):
            return self._nothing()
        weighed = so_far.largest * self._largest_weight + so_far.mean * self._mean_weight
        contribution, voice = shares(weighed, self._place, self._lstm_share, self.parts)
        voice[places < 0] = 1
        expected = expectations(self.lstm, self.frequency, words, reached, places, voice)
        return Reasons(
            expected.values.cpu().numpy(),
            expected.probability.cpu().numpy(),
            expected.seen.cpu().numpy(),
            contribution.to(torch.float32).cpu().numpy(),
            voice.cpu().numpy(),
        )

    def _nothing(self) -> Reasons:
        """Reasons of no row: most batches hold nothing that can alert, and the device need not be asked."""
        shape = (0, self.parts)
        expected = np.empty((*shape, EXPECTED), np.int16), np.empty((*shape, EXPECTED), np.float32)
        return Reasons(*expected, np.empty(shape, np.float32), np.empty(shape, np.float32), np.empty(shape, np.uint8))
