"""The verdict: the evidence of all voices, weighed into one number per conversation and hour of packet time.

A word yields a row of evidence, one column per voice and part, each zero or more and larger for what is less expected:

    lstm      -ln of the probability of all values no likelier than the seen one, by the word LSTM
    rare      -ln of the value's frequency
    given     -ln of the value's frequency among words with the same first part (the service)
    mixture   -ln of the mean of the LSTM's probability and the frequency, of the first part only

Tails suit the LSTM because the sizes and times it predicts are noisy: a size with probability 0.05 is no news if the
others have no more. The hour so far is told by the largest and by the mean of every column; the verdict is a weighted sum
of the two, as log-odds. Weights are zero or more: more surprise never lowers a verdict, and every share of it can be
named in an alert. They are fitted once, as a logistic regression, by `fit`, and travel in the manifest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CEILING = 16.0
"""Evidence is cut here, nats: a probability of one in ten million is as good as none, and sums stay exact."""

VOICES = ("lstm", "rare", "given", "mixture")
LSTM_VOICES = ("lstm", "mixture")
"""Voices that need the LSTM's state: a flow that was shed has no such evidence."""


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of evidence."""

    voice: str
    place: int
    """Which part of the word."""

    def named(self, parts: Sequence[str]) -> str:
        """As manifests and tables call it: "lstm service"."""
        return f"{self.voice} {parts[self.place]}"


def columns(parts: int) -> tuple[Column, ...]:
    """All columns of evidence of words with so many parts, in the order in which `resident` lays them out."""
    return (
        *(Column("lstm", place) for place in range(parts)),
        *(Column("rare", place) for place in range(parts)),
        *(Column("given", place) for place in range(1, parts)),
        Column("mixture", 0),
    )


@dataclasses.dataclass(frozen=True)
class Weights:
    """A fitted verdict. Columns follow `columns(parts)`."""

    largest: Floats
    """(E,) weight of the hour's largest value of each column, >= 0."""
    mean: Floats
    """(E,) weight of the hour's mean, >= 0."""
    bias: float

    def verdict(self, largest: Floats, mean: Floats) -> Floats:
        """Log-odds from (N, E) largest and (N, E) mean evidence: (N,)."""
        return np.asarray(largest @ self.largest + mean @ self.mean + self.bias)

    def to_json(self, parts: Sequence[str]) -> dict[str, object]:
        """What the manifest carries: only what weighs anything."""
        named = [column.named(parts) for column in columns(len(parts))]
        return {
            "bias": round(self.bias, 6),
            "largest": {name: round(float(w), 6) for name, w in zip(named, self.largest, strict=True) if w > 0},
            "mean": {name: round(float(w), 6) for name, w in zip(named, self.mean, strict=True) if w > 0},
        }


def from_json(stored: Mapping[str, object], parts: Sequence[str]) -> Weights:
    """Read `to_json` back. ValueError names what is wrong: an unknown column, a negative weight."""
    named = [column.named(parts) for column in columns(len(parts))]
    both = []
    for which in ("largest", "mean"):
        given = stored.get(which, {})
        if not isinstance(given, Mapping):
            raise ValueError(f"the verdict's {which!r} weights are no table")
        strange = [name for name in given if name not in named]
        if strange:
            raise ValueError(f"the verdict weighs {strange[0]!r}, which this model does not tell")
        weights = np.array([float(given.get(name, 0.0)) for name in named])
        if not np.all(weights >= 0):
            raise ValueError(f"a weight among the verdict's {which!r} is negative")
        both.append(weights)
    bias = stored.get("bias")
    if not isinstance(bias, (int, float)):
        raise ValueError("the verdict lacks its bias")
    return Weights(both[0], both[1], float(bias))


def plain(parts: int) -> Weights:
    """The verdict of a model fitted without any attack: the mixture on the first part and the rarity of the rest, evenly."""
    shown = columns(parts)
    largest = np.array([1.0 if column.voice == "mixture" else 0.0 for column in shown])
    mean = np.array([1.0 if column.voice == "mixture" else 0.2 if column.voice == "given" else 0.0 for column in shown])
    return Weights(largest, mean, -8.0)


def fit(
    largest: Floats,
    mean: Floats,
    attack: NDArray[np.bool_],
    *,
    weight: Floats | None = None,
    allowed: NDArray[np.bool_] | None = None,
    ridge: float = 1e-2,
    steps: int = 2000,
) -> Weights:
    """Fit the weights to conversation-hours: (N, E) largest and mean evidence, (N,) which are attacks.

    A logistic regression with weights >= 0 and an L2 penalty `ridge`, both classes weighing the same in all; `weight`
    (N,) weighs rows within their class, `allowed` (E,) leaves columns out. Accelerated projected gradient (FISTA, Beck
    and Teboulle 2009) from zero with a fixed number of steps: convex, so the result is the optimum, and deterministic.
    """
    features = np.concatenate([largest, mean], axis=1)
    scale = features.std(axis=0)
    usable = scale > 1e-9
    if allowed is not None:
        usable &= np.tile(allowed, 2)
    standard = np.where(usable, features / np.where(usable, scale, 1.0), 0.0)
    share = np.ones(len(attack)) if weight is None else weight.astype(np.float64)
    share = np.where(attack, share / max(share[attack].sum(), 1e-12), share / max(share[~attack].sum(), 1e-12)) / 2
    found = _descend(standard, attack.astype(np.float64), share, ridge, steps)
    unscaled = np.where(usable, found[:-1] / np.where(usable, scale, 1.0), 0.0)
    unscaled[unscaled < 1e-6] = 0.0
    half = largest.shape[1]
    return Weights(unscaled[:half], unscaled[half:], float(found[-1]))


def _descend(features: Floats, attack: Floats, share: Floats, ridge: float, steps: int) -> Floats:
    """Minimise the penalised logistic loss over weights >= 0 and a free bias: (F + 1,), the bias last."""
    with_bias = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    penalty = np.append(np.full(features.shape[1], ridge), 0.0)
    # the logistic loss curves at most a quarter as much as the weighted squares do
    steepest = float(np.linalg.eigvalsh(with_bias.T @ (with_bias * share[:, None]))[-1]) / 4 + ridge
    here = np.zeros(with_bias.shape[1])
    ahead, pace = here, 1.0
    for _ in range(steps):
        odds = with_bias @ ahead
        slope = with_bias.T @ (share * (1 / (1 + np.exp(-odds)) - attack)) + penalty * ahead
        there = ahead - slope / steepest
        there[:-1] = np.maximum(there[:-1], 0.0)
        faster = (1 + np.sqrt(1 + 4 * pace * pace)) / 2
        ahead = there + (pace - 1) / faster * (there - here)
        if np.abs(there - here).max() < 1e-10:
            return there
        here, pace = there, faster
    return here
