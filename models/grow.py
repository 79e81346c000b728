"""Further training: a model takes in the services of a site that it has no value for, and forgets a little of its home.

A grown vocabulary has the shipped one's values in their places and the site's own services behind them. What the network
knew of the range that a new service was part of is where it starts with that service; the counts start from nothing.
`assemble` calls this before it trains on the site's rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from models.frequency import Counts
from models.words import Shape, WordLSTM

FADE = 0.1
"""Weight of the shipped model's sightings beside the site's own. Trials with 1.0 were worse at every measure."""
RARER = 3.0
"""Nats by which a new service starts out less likely than the range it came from."""


def grow_model(model: WordLSTM, came_from: NDArray[np.integer]) -> WordLSTM:
    """Give the first part one value more for each of `came_from` (n,), the old value that stood for it so far."""
    sizes = model.shape.sizes
    grown = WordLSTM(Shape((sizes[0] + len(came_from), *sizes[1:]), model.shape.units, model.shape.head))
    tensors = dict(model.state_dict())
    old = torch.from_numpy(came_from.astype(np.int64))
    for name in ("embed.0.weight", "before.0.weight", "out.0.weight"):
        if name in tensors:  # a word of one part has no `before`
            tensors[name] = torch.cat([tensors[name], tensors[name][old]])
    tensors["out.0.bias"] = torch.cat([tensors["out.0.bias"], tensors["out.0.bias"][old] - RARER])
    grown.load_state_dict(tensors)
    return grown


def grow_counts(counts: Counts, sizes: Sequence[int], fade: float = FADE) -> Counts:
    """Shipped counts in the grown sizes, weakened so that the site's own weigh more."""
    joint = []
    for place, table in enumerate(counts.joint):
        wide = np.zeros((sizes[0], sizes[place]))
        wide[: table.shape[0], : table.shape[1]] = table * fade
        joint.append(wide)
    return Counts(tuple(sizes), tuple(joint))
