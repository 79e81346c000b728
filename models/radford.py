"""The experiment of Radford et al. 2018: a sentence per host pair and clock hour, whose every token an LSTM predicts.

"Network Traffic Anomaly Detection Using Recurrent Neural Networks" makes one token of each flow, cuts the tokens of a pair by
clock hours, and predicts each from the ten before it, padded at the left where a sentence is younger. An hour's score is
the greatest surprise in it. netseq's own word model grew out of this; here stands the original, to be measured beside it.

The same few windows make up most of any traffic, so each different one is learned and judged once, weighted by how often it
occurs. Sizes of the network are ours. Arrays in, numbers out; `netseq-evaluate radford2018` reads the data.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

WINDOW = 10
PADDING, UNKNOWN, FIRST = 0, 1, 2
"""Tokens before a sentence begins, tokens that training did not see, and the first of those that it did."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """How the network is fitted."""

    seed: int = 1
    epochs: int = 5
    batch: int = 512
    rate: float = 2e-3
    embedding: int = 50
    units: int = 50
    dropout: float = 0.2


class Windows(NamedTuple):
    """N tokens, each with the ones before it."""

    before: Ints
    """(N, WINDOW), the nearest last."""
    token: Ints
    """(N,)."""


def tokens(keys: Ints, clean: NDArray[np.bool_]) -> tuple[Ints, int]:
    """Number (N,) keys by what occurs in the rows `clean`; the tokens, and how many different ones there are."""
    learned = np.unique(keys[clean])
    place = np.minimum(np.searchsorted(learned, keys), max(len(learned) - 1, 0))
    known = learned[place] == keys if len(learned) else np.zeros(len(keys), np.bool_)
    return np.where(known, place + FIRST, UNKNOWN).astype(np.int64), len(learned) + FIRST


def windows(token: Ints, sentence: Ints) -> Windows:
    """Windows of (N,) tokens in the order of time; `sentence` (N,) says which belong together."""
    order = np.argsort(sentence, kind="stable")
    sorted_token, sorted_sentence = token[order], sentence[order]
    begins = np.ones(len(token), np.bool_)
    begins[1:] = sorted_sentence[1:] != sorted_sentence[:-1]
    begun = np.maximum.accumulate(np.where(begins, np.arange(len(token)), 0))
    earlier = np.arange(len(token))[:, None] - np.arange(WINDOW, 0, -1)[None]
    before = np.empty((len(token), WINDOW), np.int64)
    before[order] = np.where(earlier >= begun[:, None], sorted_token[np.maximum(earlier, 0)], PADDING)
    return Windows(before, token)


class Network(nn.Module):
    """Two bidirectional LSTM layers over a window, and a softmax over the next token."""

    def __init__(self, size: int, settings: Settings) -> None:
        super().__init__()
        self.embed = nn.Embedding(size, settings.embedding)
        self.lstm = nn.LSTM(
            settings.embedding, settings.units, 2, batch_first=True, bidirectional=True, dropout=settings.dropout
        )
        self.out = nn.Linear(2 * settings.units, size)

    def forward(self, before: Tensor) -> Tensor:
        """(B, WINDOW) tokens to (B, size) logits of the next one."""
        _, (last, _) = self.lstm(self.embed(before))
        return self.out(torch.cat([last[-2], last[-1]], dim=1))  # type: ignore[no-any-return]  # torch leaves calls untyped


def surprise(given: Windows, size: int, clean: NDArray[np.bool_], settings: Settings) -> Floats:
    """Fit the network on the windows `clean` (N,); the nats of all N tokens. Raises ValueError without a clean one."""
    if not clean.any():
        raise ValueError("there is no clean day to learn from")
    torch.manual_seed(settings.seed)
    whole = np.concatenate([given.before, given.token[:, None]], axis=1)
    different, which = np.unique(whole, axis=0, return_inverse=True)
    which = which.reshape(-1)
    weight = torch.from_numpy(np.bincount(which[clean], minlength=len(different)).astype(np.float32))
    before, token = torch.from_numpy(different[:, :-1]), torch.from_numpy(different[:, -1])
    model = Network(size, settings)
    _fit(model, before, token, weight, settings)
    model.eval()
    with torch.inference_mode():
        pieces = [
            functional.cross_entropy(model(rows), seen, reduction="none")
            for rows, seen in zip(torch.split(before, 4096), torch.split(token, 4096), strict=True)
        ]
    return torch.cat(pieces).double().numpy()[which]


def _fit(model: Network, before: Tensor, token: Tensor, weight: Tensor, settings: Settings) -> None:
    """Passes over the different windows in shuffled order, each weighing as much as it occurs."""
    optimiser = torch.optim.Adam(model.parameters(), lr=settings.rate)
    learned = torch.nonzero(weight)[:, 0]
    mean = weight[learned].mean()
    for _ in range(settings.epochs):
        for rows in torch.split(learned[torch.randperm(len(learned))], settings.batch):
            nats = functional.cross_entropy(model(before[rows]), token[rows], reduction="none")
            optimiser.zero_grad(set_to_none=True)
            (nats * weight[rows] / mean).mean().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()


class Hours(NamedTuple):
    """H hours of some key (a pair, a host)."""

    score: Floats
    """(H,) the greatest surprise of a flow in it."""
    attack: NDArray[np.bool_]
    """(H,) whether there is an attack in it."""
    key: Ints
    """(H,)."""


def hourly(score: Floats, attack: NDArray[np.bool_], key: Ints, hour: Ints) -> Hours:
    """Gather (N,) flows by key and clock hour."""
    together, place = np.unique(np.stack([key, hour], axis=1), axis=0, return_inverse=True)
    place = place.reshape(-1)
    highest, hostile = np.full(len(together), -np.inf), np.zeros(len(together), np.bool_)
    np.maximum.at(highest, place, score)
    hostile[place[attack]] = True
    return Hours(highest, hostile, together[:, 0])
