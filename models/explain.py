"""Why a verdict: for the few rows that matter, what each part was expected to be and how much it weighed.

Top values are looked up only for rows whose p-value is low, because a full sort for every flow would cost more than
scoring it. Each part is told by the voice that weighed most for it, LSTM or frequencies, with that voice's own numbers for
what was seen and for what was expected instead: numbers of two voices could not be compared. `resident` calls this.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from models.frequency import Frequency
from models.words import Folded

EXPECTED = 3
"""Other values named for each part: the alert shows the first, a table may show all."""
ABSENT = -1
"""Stands for a value where a part has fewer than EXPECTED of them."""


class Expectations(NamedTuple):
    """What K words of P parts were expected to be."""

    values: Tensor
    """(K, P, 3) int16 values that were not seen, the likeliest first."""
    probability: Tensor
    """(K, P, 3). Here and in `seen`, the first part's are of a single port where a value stands for a range of them."""
    seen: Tensor
    """(K, P) probability of what was seen."""


def expectations(
    lstm: Folded, frequency: Frequency, words: Tensor, reached: Tensor, place_of: Tensor, voice: Tensor
) -> Expectations:
    """Look up what (K, P) words were expected to be, by the voice (K, P) that each part is told by: see `shares`.

    `reached` (N, ...) are the prediction layers of the batch's stepped words and `place_of` (K,) says which of them
    belongs to each word. It is -1 for shed ones, of which the LSTM (voice 0) has nothing to tell.
    """
    parts = words.shape[1]
    values = torch.full((len(words), parts, EXPECTED), ABSENT, dtype=torch.int16, device=words.device)
    probability = torch.zeros(len(words), parts, EXPECTED, device=words.device)
    seen = torch.zeros(len(words), parts, device=words.device)
    for place in range(parts):
        mass = frequency.distribution(place, words[:, 0]).clone()
        heard = voice[:, place] == 0
        mass[heard] = lstm.distribution(reached[place_of[heard]], place)
        if place == 0:
            mass *= torch.exp(-lstm.spread)  # one port of a range is as likely as its share of the range
        here = words[:, place, None].long()
        seen[:, place] = mass.gather(1, here)[:, 0]
        top = mass.scatter(1, here, -1.0).topk(min(EXPECTED, mass.shape[1] - 1), dim=1)
        found = top.values.shape[1]
        values[:, place, :found] = top.indices.to(torch.int16)
        probability[:, place, :found] = top.values
    return Expectations(values, probability, seen)


def shares(weighed: Tensor, place: Tensor, lstm_share: Tensor, parts: int) -> tuple[Tensor, Tensor]:
    """Divide verdicts among parts and voices.

    `weighed` (K, E) what each column added; `place` (E,) its part; `lstm_share` (E,) how much of it is the LSTM's: 1, 0,
    or a half for the mixture. Returns each part's share (K, P), summing to 1, and the voice that weighed most (K, P):
    0 the LSTM, 1 the frequencies.
    """
    lstm = weighed.new_zeros(len(weighed), parts).index_add_(1, place, weighed * lstm_share)
    frequency = weighed.new_zeros(len(weighed), parts).index_add_(1, place, weighed * (1 - lstm_share))
    both = lstm + frequency
    return both / both.sum(dim=1, keepdim=True).clamp(min=1e-12), (frequency > lstm).to(torch.uint8)
