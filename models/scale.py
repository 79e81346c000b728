"""Statistics made comparable: a signed logarithm, then the distance from the median in units of the usual spread.

Columns run from -1 to 10^14 (bytes, microseconds, squares of bytes), most are heavy-tailed and some are nearly always 0. The
logarithm tames the tails, median and quartiles do not move because of the few attacks, and what is still far out is cut at
`LIMIT`, so that no hostile flow can drive the network with one number. A value that is not known (NaN: the source cannot
give the column) becomes 0, the median, and is marked as unknown. Fitted on training data, kept in the model's manifest.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LIMIT = 8.0
"""Spreads from the median beyond which all values are alike."""
QUARTILES = 1.349
"""Distance between the quartiles of a normal distribution in standard deviations."""
LEAST_SPREAD = 1e-3
"""In units of the logarithm: a column that hardly ever moves must not blow up a rounding."""


class Scale(NamedTuple):
    """The scale of F columns."""

    centre: NDArray[np.float32]
    """(F,) median of the signed logarithm; 0 for a column that was never known."""
    spread: NDArray[np.float32]
    """(F,) what counts as one; never 0."""

    def to(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Centre and spread as tensors."""
        return torch.from_numpy(self.centre).to(device), torch.from_numpy(self.spread).to(device)


def fit(rows: NDArray[np.float32]) -> Scale:
    """Scale of (N, F) rows, NaN where unknown. A column of one value gets a spread of 1, as does one that is never known."""
    columns = rows.shape[1]
    centre, spread = np.zeros(columns, np.float32), np.ones(columns, np.float32)
    for place in range(columns):
        known = rows[:, place][np.isfinite(rows[:, place])].astype(np.float64)
        if not len(known):
            continue
        logs = np.sign(known) * np.log1p(np.abs(known))
        low, middle, high = np.quantile(logs, (0.25, 0.5, 0.75))
        usual = (high - low) / QUARTILES
        if usual < LEAST_SPREAD:  # more than half of the values are alike: the others must not count as infinitely far
            usual = float(logs.std())
        centre[place] = middle
        spread[place] = usual if usual >= LEAST_SPREAD else 1.0
    return Scale(centre, spread)


def scaled(rows: Tensor, centre: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """(..., F) statistics to scaled values, 0 where unknown, and to 1 where known, 0 where not."""
    known = torch.isfinite(rows)
    logs = torch.sign(rows) * torch.log1p(torch.abs(rows))
    values = ((logs - centre) / spread).clamp(-LIMIT, LIMIT)
    return torch.where(known, values, 0.0), known.to(values.dtype)
