"""Pair-hours of the experiment of Radford et al. 2018 to look at: the benign ones most surprising, the attacks least so.

The reason of a pair-hour is the flow that surprised most in it: its token, how likely that one was held, and the tokens before
it in the sentence, which are all that the network knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.radford import FIRST, PADDING, Hours, Windows, hourly
from sensor.addresses import text
from sensor.commands.report import Table, Value
from sensor.commands.terminal import stamp
from sensor.message import share
from sensor.vocabulary import Kind, Lexicon

if TYPE_CHECKING:
    from sensor.commands.evaluate_radford2018 import Flows

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

SHOWN = 10
LOOKED_AT = 200
"""Pair-hours among which unlike ones are sought: a scan has thousands that are alike."""
HEAD = ("begin", "flow", "label", "nats", "most surprising")


class Said(NamedTuple):
    """The sentences of all N flows in one alphabet, as the network read them."""

    name: str
    """The alphabet and the kind of sentence."""
    keys: Ints
    """(N,)."""
    alphabet: Kind
    learned: Ints
    """The keys that own a token."""
    windows: Windows
    nats: Floats
    """(N,)."""


def examples(flows: Flows, tested: Bools, pairs: tuple[Ints, Ints], said: Said, names: Sequence[str]) -> Iterator[Table]:
    """The top false alarms and the top misses among the pair-hours; `pairs` are pair and hour of the rows `tested`."""
    rows = np.flatnonzero(tested)
    hours = hourly(said.nats[rows], flows.attack[rows], *pairs)
    worded = Lexicon(said.alphabet, np.unique(said.keys).tolist()).to_json()
    words = dict(zip(np.unique(said.keys).tolist(), worded, strict=True))
    top = _tops(hours, said.nats[rows], pairs)
    for title, chosen, falling in (
        ("Benign pair-hours with the greatest surprise", ~hours.attack, True),
        ("Attacked pair-hours with the least surprise", hours.attack, False),
    ):
        found = np.flatnonzero(chosen)
        ordered = found[np.argsort(-hours.score[found] if falling else hours.score[found], kind="stable")]
        told: dict[Value, tuple[Value, ...]] = {}
        for hour in ordered[:LOOKED_AT].tolist():
            inside = rows[top.number == hour]
            one = _row(flows, int(rows[top.row[hour]]), inside, said, words, names)
            told.setdefault(one[-1], one)
            if len(told) == SHOWN:
                break
        if told:
            size = f"{len(told)} unlike ones of {len(found):,}"
            yield Table(f"{title}, {said.name}, {size}", HEAD, list(told.values()), prose=True)


class _Tops(NamedTuple):
    number: Ints
    """(T,) the pair-hour of each row, in the order of `Hours`."""
    row: Ints
    """(H,) the row of each pair-hour that surprised most."""


def _tops(hours: Hours, nats: Floats, pairs: tuple[Ints, Ints]) -> _Tops:
    """Which rows are of which pair-hour, and which of them stand for it."""
    number = np.unique(np.stack(pairs, axis=1), axis=0, return_inverse=True)[1].reshape(-1)
    order = np.lexsort((-np.arange(len(nats)), nats, number))  # of equal ones, the first in time is the last here
    row = np.empty(len(hours.score), np.int64)
    row[number[order]] = order
    return _Tops(number, row)


def _row(flows: Flows, row: int, inside: Ints, said: Said, words: dict[int, str], names: Sequence[str]) -> tuple[Value, ...]:
    """A pair-hour, told by its flow `row`; `inside` are all of its flows."""
    ends = [text(*flows.hosts[end].tolist()) for end in (int(flows.src[row]), int(flows.dst[row]))]
    there = np.unique(flows.label[inside[flows.attack[inside]]]).tolist()
    label = ", ".join(names[number] if number >= 0 else "another label" for number in there) or names[0]
    before = [_word(token, said, words) for token in said.windows.before[row].tolist() if token != PADDING]
    token = "port" if said.alphabet == "ports" else said.alphabet
    unseen = "" if said.windows.token[row] >= FIRST else ", never seen on the clean days"
    after = f"after {', '.join(before)}" if before else "as the first of its hour"
    reason = f"{token} {words[int(said.keys[row])]}{unseen}, held {share(float(np.exp(-said.nats[row])))} likely {after}"
    return stamp(int(flows.first_us[row])), " -> ".join(ends), label, float(said.nats[row]), reason


def _word(token: int, said: Said, words: dict[int, str]) -> str:
    return words[int(said.learned[token - FIRST])] if token >= FIRST else "unknown"
