"""Calibration: from a verdict to the share of benign conversation-hours that look at least as bad.

On benign data that training did not see, every conversation and hour gives its highest verdict. The p-value of a new
verdict is then (1 + number of those at least as high) / (n + 1): at a threshold p, a share of about p of benign
conversation-hours alerts, whatever the verdict's scale means. Beyond the last of the sample that can only say "rarer than
all"; there a generalised Pareto distribution is fitted to the excesses over a high threshold (Pickands 1975), so that an
operator can ask for fewer alerts than the sample alone could tell apart. That ranks verdicts; it is no claim. A few excesses
say little of a tail far beyond them, and on other networks than the sample's it is heavier than they say. So what is told of
an alert is never rarer than `least_p`, an order of magnitude beyond the sample. The Pareto's shape is kept between 0 and 0.5:
never a hard end, beyond which everything would have p = 0, and never a tail without a variance.

`train` writes the result into the manifest; the scorers turn verdicts into p-values with it, on a device by its `Tail`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]

LAST = 1 / 1000
"""Share of the sample beyond which the Pareto takes over."""
LEAST = 10
"""Excesses that a fit needs: a smaller sample lends more than its last per mille, up to a tenth of it. With 30, the fit
reached down into ordinary verdicts and drew the tail several times too long."""
BEYOND = 10
"""Times that a p-value may be smaller than the sample's own least and still be told."""
DIGITS = 5
"""Decimals of a verdict in the manifest; the sample is rounded first, so that what is written is what was fitted."""
EXPONENTIAL = 1e-6
"""Shapes up to here count as 0: the exponential, where the Pareto's formula would divide by nothing."""
BEYOND_ALL = 1e9
"""A threshold that no verdict reaches and that JSON can hold, unlike infinity."""
KEPT = 512
"""Quantiles that the manifest keeps: the sample thins out to these, all of its tail included."""


@dataclasses.dataclass(frozen=True)
class Calibration:
    """The tail of benign verdicts."""

    n: int
    """Conversation-hours in the sample."""
    verdicts: Floats
    """(m,) rising verdicts ..."""
    at_least: Floats
    """(m,) ... and how many of the sample are at least as high."""
    threshold: float
    """Verdict beyond which the Pareto speaks."""
    shape: float
    scale: float
    per_day: float
    """Benign conversation-hours a day in the sample, as a prior for the alert budget."""

    @property
    def least_p(self) -> float:
        """The smallest p-value that may be claimed of anything: a tenth of 1 / (n + 1), which is all the sample can say."""
        return 1 / (BEYOND * (self.n + 1))

    def p_value(self, verdicts: NDArray[np.floating]) -> Floats:
        """Share of benign conversation-hours at least as high: (N,) in (0, 1], never rising with the verdict. NaN gives 1.

        Below `least_p` it is a rank by the Pareto and not to be told.
        """
        seen = np.nan_to_num(verdicts.astype(np.float64), nan=-np.inf)
        place = np.searchsorted(self.verdicts, seen, side="left")
        above = np.append(self.at_least, 0.0)[place]
        empirical = (1 + above) / (self.n + 1)
        beyond = np.maximum(seen - self.threshold, 0.0)
        start = self.beyond / (self.n + 1)
        # log1p keeps small shapes exact; a shape of 0 is the exponential
        decay = np.log1p(self.shape * beyond / self.scale) / self.shape if self.shape > EXPONENTIAL else beyond / self.scale
        return np.where(seen > self.threshold, np.minimum(start, start * np.exp(-decay)), np.maximum(empirical, start))

    @property
    def beyond(self) -> float:
        """One more than how many of the sample are beyond the threshold."""
        place = int(np.searchsorted(self.verdicts, self.threshold, side="right"))
        return 1 + float(np.append(self.at_least, 0.0)[place])

    def to_json(self) -> dict[str, object]:
        """What the manifest carries."""
        return {
            "conversation_hours": self.n,
            "verdicts": [round(float(v), DIGITS) for v in self.verdicts],
            "at_least": [int(count) for count in self.at_least],
            "threshold": round(self.threshold, DIGITS),
            "shape": round(self.shape, 6),
            "scale": round(self.scale, 6),
            "conversation_hours_per_day": round(self.per_day, 3),
        }


class Tail:
    """A calibration as tensors on `device`: `p_value` is that of the calibration, without asking the host anything."""

    def __init__(self, calibration: Calibration, device: torch.device) -> None:
        self._tail = calibration
        self._verdicts = torch.from_numpy(calibration.verdicts).to(device)
        self._empirical = torch.from_numpy((1 + np.append(calibration.at_least, 0.0)) / (calibration.n + 1)).to(device)
        self._start = calibration.beyond / (calibration.n + 1)

    def p_value(self, verdicts: Tensor) -> Tensor:
        """Share of benign conversation-hours at least as high: (N,) float64, as `Calibration.p_value`."""
        tail = self._tail
        seen = verdicts.to(torch.float64).nan_to_num(nan=-torch.inf)
        empirical = self._empirical.index_select(0, torch.searchsorted(self._verdicts, seen))
        excess = (seen - tail.threshold).clamp(min=0.0) / tail.scale
        decay = torch.log1p(tail.shape * excess) / tail.shape if tail.shape > EXPONENTIAL else excess
        pareto = (self._start * torch.exp(-decay)).clamp(max=self._start)
        return torch.where(seen > tail.threshold, pareto, empirical.clamp(min=self._start))


def unknown() -> Calibration:
    """Stand in until a model is calibrated: everything is as rare as anything."""
    return Calibration(1, np.zeros(1), np.ones(1), BEYOND_ALL, 0.0, 1.0, 0.0)


def from_json(stored: Mapping[str, object]) -> Calibration:
    """Read `to_json` back; ValueError says what is wrong."""
    try:
        found = Calibration(
            n=int(stored["conversation_hours"]),  # type: ignore[call-overload]  # a wrong type is the ValueError below
            verdicts=np.asarray(stored["verdicts"], np.float64),
            at_least=np.asarray(stored["at_least"], np.float64),
            threshold=float(stored["threshold"]),  # type: ignore[arg-type]
            shape=float(stored["shape"]),  # type: ignore[arg-type]
            scale=float(stored["scale"]),  # type: ignore[arg-type]
            per_day=float(stored["conversation_hours_per_day"]),  # type: ignore[arg-type]
        )
    except (KeyError, TypeError, ValueError) as wrong:
        raise ValueError(f"the calibration is incomplete: {wrong}") from None
    rising = len(found.verdicts) == len(found.at_least) and bool(np.all(np.diff(found.verdicts) > 0))
    if found.n < 1 or not rising or not found.scale > 0 or not 0 <= found.shape <= 1:
        raise ValueError("the calibration's tail is not one: verdicts must rise and its scale be above 0")
    return found


def calibrate(verdicts: NDArray[np.floating], days: float) -> Calibration:
    """Calibrate on the highest verdicts (n,) of benign conversation-hours that cover `days` of traffic.

    ValueError when there are fewer than 10: nothing can be said of one in a thousand then.
    """
    sample: Floats = np.sort(np.round(np.asarray(verdicts, np.float64), DIGITS))
    n = len(sample)
    if n < 10:
        raise ValueError(
            f"only {n} benign conversation-hours were held back: give more data (10 at least, some thousand to be of use)"
        )
    tail = int(np.clip(n * LAST, min(LEAST, n // 10), n // 2))
    threshold = float(sample[n - tail - 1])
    excess = sample[sample > threshold] - threshold
    shape, scale = _pareto(excess)
    values, first = np.unique(sample, return_index=True)
    kept = _thin(len(values), n, first)
    return Calibration(
        n=n,
        verdicts=values[kept],
        at_least=(n - first[kept]).astype(np.float64),
        threshold=threshold,
        shape=shape,
        scale=scale,
        per_day=n / max(days, 1e-9),
    )


def _pareto(excess: Floats) -> tuple[float, float]:
    """Shape and scale of a generalised Pareto by probability-weighted moments (Hosking and Wallis 1987), shape in [0, 0.5]."""
    if len(excess) == 0:
        return 0.0, 1.0
    ranked = np.sort(excess)
    m = len(ranked)
    mean = float(ranked.mean())
    weighted = float(((m - np.arange(1, m + 1) + 0.35) / m * ranked).mean())
    slack = mean - 2 * weighted
    shape = 2 - mean / slack if slack > 1e-12 else 0.0
    shape = float(np.clip(shape, 0.0, 0.5))
    return shape, max(mean * (1 - shape), 1e-3)  # the mean of the excesses is kept, whatever became of the shape


def _thin(values: int, n: int, first: NDArray[np.intp]) -> NDArray[np.intp]:
    """Which of the rising different values to keep: all of the tail, and evenly spread quantiles of the rest."""
    if values <= KEPT:
        return np.arange(values)
    tail = int(np.searchsorted(first, n - n // 10))
    tail = max(tail, values - KEPT // 2)
    rest = np.unique(np.linspace(0, tail, KEPT - (values - tail)).astype(np.intp))
    return np.unique(np.concatenate([rest, np.arange(tail, values)]))
