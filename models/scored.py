"""What a batch of words came to: what `resident.Scorer` gives and `sensor.detect` decides on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Turned(NamedTuple):
    """A batch of B words of P parts with the turns that they are of, as `Scorer.score` takes them."""

    words: NDArray[np.int16]
    """(B, P)."""
    slots: NDArray[np.int32]
    restart: NDArray[np.bool_]
    hour: NDArray[np.int64]

    def cut(self, rows: slice) -> Turned:
        """Some of the rows."""
        return Turned._make(column[rows] for column in self)


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


def join(pieces: Sequence[Scored]) -> Scored:
    """The pieces that a batch was cut into as one; there is at least one."""
    if len(pieces) == 1:
        return pieces[0]
    starts = np.cumsum([0, *(len(piece.nats) for piece in pieces[:-1])])
    moved = [piece._replace(explained=piece.explained + start) for piece, start in zip(pieces, starts, strict=True)]
    joined = {name: np.concatenate([getattr(piece, name) for piece in moved]) for name in Scored._fields if name != "shed"}
    return Scored(**joined, shed=sum(piece.shed for piece in pieces))
