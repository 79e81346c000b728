"""What evaluation compares: the scores of a labelled data set's rows by the verdict, by the LSTM, and by plain frequencies.

The baselines are counted on the very rows that the LSTM was trained on, so that they know as much as it does. Scores of
"the word" are the plain sum of nats over all parts, those of "the service" the nats of the first part alone, which tells
attacks apart better: sizes and times are noisy in benign traffic. `netseq-evaluate` and `benchmarks/word_models.py` call this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.assemble import Rows
from models.frequency import Bigram, Counts
from models.ngrams import Backoff
from models.resident import Scored
from models.train import sort_conversations

Floats = NDArray[np.floating]


class Baselines(NamedTuple):
    """Frequencies counted on benign rows; without such rows, the unigram alone from a model's own counts."""

    unigram: Counts
    bigram: Bigram | None = None
    fivegram: Backoff | None = None


def baselines(training: Sequence[Rows], sizes: Sequence[int], share: float) -> Baselines:
    """Count on the data sets' rows but for the last `share` of each, which training holds back."""
    words, begins = [], []
    for rows in training:
        stop = rows.held_from(share)
        order, restart = sort_conversations(rows.slots[:stop], rows.restart[:stop])
        words.append(rows.words[:stop][order])
        begins.append(restart)
    joined, restarts = np.concatenate(words), np.concatenate(begins)
    return Baselines(Counts.of(joined, sizes), Bigram(joined, restarts, sizes), Backoff(joined, restarts, sizes))


def voices(rows: Rows, scored: Scored, against: Baselines) -> dict[str, Floats]:
    """Score (N,) rows, which came to `scored`, by every voice: {name: (N,)}, higher for what is less expected."""
    parts = range(rows.words.shape[1])
    nats = {"LSTM": scored.part_nats}
    nats["unigram"] = np.stack([-np.log(against.unigram.alone(place))[rows.words[:, place]] for place in parts], axis=1)
    order, restart = sort_conversations(rows.slots, rows.restart)
    for name, model in (("bigram", against.bigram), ("5-gram", against.fivegram)):
        if model is not None:
            nats[name] = np.empty_like(nats["unigram"])
            nats[name][order] = model.nats(rows.words[order], restart)
    told: dict[str, Floats] = {"verdict": scored.verdict}
    for name, column in nats.items():
        told[f"{name}, nats of the word"] = column.sum(axis=1)
        if len(parts) > 1:
            told[f"{name}, nats of the service"] = column[:, 0]
    return told
