"""Labelled flows as arrays, and the ways to cut them into what is trained on, what is held back, and what is tested on.

Training and evaluation of the multi-flow model read a `FlowSet`, wherever its flows came from. `stratified` is the paper's
split: single flows at random, so that a flow to test lies in windows whose other flows were trained on, which flatters every
model. `honest` keeps what belongs together on one side: the flows of a sequence on one day; and of a class that was
seen on several days, whole days. A class that stands nearly whole in one sequence (one scanner, one victim) would not be in
both parts, or hardly: it is cut in time instead, and the split says so. Wherever a sequence changes sides its windows begin
afresh, so that none reaches across.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

UNJUDGED = -1
"""Class number of a flow that nobody judged: it is context in windows, and never trained or tested on."""

NAMED = 10
"""Columns that a remark names; the rest is counted."""

FAR = 4
"""Times that whole sequences may hold fewer rows than wanted before a class is cut in time instead: a measure on a few rows
of a class that one great sequence holds nearly all of would be chance."""

_NOWHERE, _TRAINING, _VALIDATION, _TEST = -1, 0, 1, 2


class FlowSet(NamedTuple):
    """N flows in the order in which they ended, each with its class and the sequence it belongs to."""

    rows: NDArray[np.float32]
    """(N, F) statistics, NaN where unknown."""
    label: NDArray[np.int64]
    """(N,) class number, or UNJUDGED."""
    slots: NDArray[np.int32]
    """(N,) the sequence of each row: a conversation, or a source host."""
    restart: NDArray[np.bool_]
    """(N,) where a sequence begins afresh."""
    day: NDArray[np.int64]
    """(N,) days from the epoch to the flow's end; 0 where times are unknown."""
    hour: NDArray[np.int64] | None = None
    """(N,) hours, alike; None where they were not kept, and days must do."""


class NoneHeldBack(ValueError):  # noqa: N818  # reads as the sentence it is, beside ModelDoesNotFit
    """The files that were to be held back have no flow with a class."""


class Split(NamedTuple):
    """Row numbers of what is trained on, held back from training, and tested on; only rows with a class, ascending."""

    training: Ints
    validation: Ints
    test: Ints
    restart: Bools
    """(N,) where windows begin afresh: the set's own restarts, and the borders that no window may cross."""
    in_time: tuple[int, ...] = ()
    """Classes that stand nearly whole in one sequence, whose earlier flows are trained on and later ones tested on."""
    left_out: int = 0
    """Rows with a class in no part: their class is tested on other days, but their sequence is trained on, or the reverse."""


def join(sets: Sequence[FlowSet]) -> FlowSet:
    """One set of several with the same columns, in their order; sequences of different sets stay apart."""
    shifts = np.cumsum([0, *(int(one.slots.max(initial=-1)) + 1 for one in sets[:-1])])
    return FlowSet(
        np.concatenate([one.rows for one in sets]),
        np.concatenate([one.label for one in sets]),
        np.concatenate([one.slots + np.int32(shift) for one, shift in zip(sets, shifts, strict=True)]),
        np.concatenate([one.restart for one in sets]),
        np.concatenate([one.day for one in sets]),
        None if any(one.hour is None for one in sets) else np.concatenate([one.hour for one in sets if one.hour is not None]),
    )


def class_counts(label: Ints, classes: int) -> Ints:
    """(classes,) how many rows of each class there are; rows that nobody judged count nowhere."""
    return np.bincount(label[label != UNJUDGED], minlength=classes).astype(np.int64)


def stratified(flows: FlowSet, share: float = 0.2, seed: int = 1, validation: float = 0.1) -> Split:
    """Test on `share` of each class's rows at random, hold `validation` of the others back. Raises ValueError.

    The paper's split: windows reach across the border.
    """
    random, part = np.random.default_rng(seed), _nowhere(flows)
    for number in np.unique(flows.label[flows.label != UNJUDGED]):
        shuffled = random.permutation(np.flatnonzero(flows.label == number))
        tested = _portion(len(shuffled), share)
        held = _portion(len(shuffled) - tested, validation)
        part[shuffled] = _TRAINING
        part[shuffled[:tested]] = _TEST
        part[shuffled[tested : tested + held]] = _VALIDATION
    return _split(part, flows.restart, share, validation)


def honest(flows: FlowSet, share: float = 0.2, seed: int = 1, validation: float = 0.1) -> Split:
    """Test on some `share` of each class in whole sequences of a day, on other days where there are several. Raises ValueError.

    What is held back are whole sequences of the training days.
    """
    random = np.random.default_rng(seed)
    judged = flows.label != UNJUDGED
    tested = _apart(flows, judged, share, random, days=True)
    part = _nowhere(flows)
    part[judged & ~tested.left] = _TRAINING
    part[tested.held] = _TEST
    return _held_back(flows, part, random, share, validation, tested)


def given(flows: FlowSet, test: Bools, seed: int = 1, validation: float = 0.1) -> Split:
    """Test on the rows marked in `test` (N,), of other files most likely; hold whole sequences of the others back."""
    part = np.where(flows.label == UNJUDGED, _NOWHERE, np.where(test, _TEST, _TRAINING)).astype(np.int8)
    return _held_back(flows, part, np.random.default_rng(seed), float(test.any()), validation, None)


def apart(flows: FlowSet, first: int) -> Split:
    """Hold back all rows from `first` on, which are of other files, and so of other sequences.

    Raises NoneHeldBack when none of them has a class, and ValueError when no row before them has.
    """
    held = np.arange(len(flows.label)) >= first
    judged = flows.label != UNJUDGED
    if not (held & judged).any():
        raise NoneHeldBack(
            f"none of {int(held.sum()):,} flows held back has a class: give labels for them, or hold others back"
        )
    part = np.where(judged, np.where(held, _VALIDATION, _TRAINING), _NOWHERE).astype(np.int8)
    return _split(part, flows.restart, share=0.0, validation=1.0)


def remarks(flows: FlowSet, split: Split, classes: Sequence[str], columns: Sequence[str], length: int) -> list[str]:
    """What a person must know of a split before a model or a measure is believed; a line each.

    `length` is the number of flows in a window; the first class is the ordinary one.
    """
    trained, held, tested = (
        class_counts(flows.label[rows], len(classes)).tolist() for rows in (split.training, split.validation, split.test)
    )
    told = []
    for place, (name, *counts) in enumerate(zip(classes, trained, held, tested, strict=True)):
        learned, elsewhere = counts[0], sum(counts[1:])
        if not learned and not place:
            told.append(f"class {name}, the ordinary one, has no flow to train on: the model will call all it sees an attack")
        elif not learned and not elsewhere:
            told.append(f"class {name} has no flow: the model will not know it")
        elif not learned:
            told.append(f"class {name} has no flow to train on, and {elsewhere:,} to validate or test on: all will be wrong")
        elif learned < length:
            told.append(f"class {name} has {learned:,} flows to train on, fewer than the {length} of a window")
        if learned and not counts[2] and len(split.test):
            told.append(f"class {name} has no flow to test on")
    if split.in_time:
        named = ", ".join(classes[number] for number in split.in_time)
        told.append(
            f"{named}: each nearly whole in one sequence, so that earlier flows are trained on and later ones tested on"
        )
    if split.left_out:
        told.append(f"{split.left_out:,} flows are context only: their class and their sequence are on different sides")
    parts = [np.concatenate([split.validation, split.test]), split.training]
    there, learned_from = ([np.isfinite(flows.rows[part, place]).any() for place in range(len(columns))] for part in parts)
    unlearned = [name for place, name in enumerate(columns) if there[place] and not learned_from[place]]
    if unlearned:
        more = f" and {len(unlearned) - NAMED} more" if len(unlearned) > NAMED else ""
        told.append(
            f"without a value in every flow to train on, but not in those held back: {', '.join(unlearned[:NAMED])}{more}"
        )
    return told


class _Apart(NamedTuple):
    held: Bools
    """(N,) rows of the part cut off."""
    left: Bools
    """(N,) rows that belong to neither side."""
    in_time: tuple[int, ...]


def _held_back(
    flows: FlowSet, part: NDArray[np.int8], random: np.random.Generator, share: float, validation: float, tested: _Apart | None
) -> Split:
    """Cut the validation from the training part, and put a border wherever a sequence changes sides."""
    back = _apart(flows, part == _TRAINING, validation, random, days=False)
    part[back.held] = _VALIDATION
    split = _split(part, flows.restart | _borders(flows.slots, part), share, validation)
    if tested is None:
        return split
    return split._replace(in_time=tested.in_time, left_out=int(tested.left.sum()))


def _apart(flows: FlowSet, among: Bools, share: float, random: np.random.Generator, *, days: bool) -> _Apart:
    """Cut some `share` of each class off the rows `among`, as whole sequences of a day; with `days`, as whole days if it can.

    The rarest class goes first, and takes the other rows of its sequences along.
    """
    held, left, in_time = np.zeros(len(among), np.bool_), np.zeros(len(among), np.bool_), []
    chosen = np.flatnonzero(among)
    if share <= 0 or not len(chosen):
        return _Apart(held, left, ())
    label, day = flows.label[chosen], flows.day[chosen]
    dates = np.unique(day, return_inverse=True)[1]
    unit = np.unique(flows.slots[chosen].astype(np.int64) * (dates.max() + 1) + dates, return_inverse=True)[1]
    rarest = np.argsort(np.bincount(label), kind="stable")
    rank = np.argsort(rarest)
    owner = np.full(unit.max() + 1, len(rank))
    np.minimum.at(owner, unit, rank[label])
    unit_day = np.zeros(len(owner), np.int64)
    unit_day[unit] = day
    taken = np.zeros(len(owner), np.bool_)
    across = dict[int, Ints]()
    for number in rarest[np.bincount(label)[rarest] > 0].tolist():
        mine, rows = np.flatnonzero(owner == rank[number]), label == number
        wanted = _portion(int(rows.sum()), share)
        if days and len(np.unique(day[rows])) > 1:
            across[number] = _whole(*np.unique(day[rows], return_counts=True), wanted, 0, random)
            taken[mine] = np.isin(unit_day[mine], across[number])
            continue
        size = np.bincount(unit[rows], minlength=len(owner))
        already = int(size[taken].sum())
        taken[_whole(mine, size[mine], wanted, already, random)] = True
        found = int(size[taken].sum())
        if found < wanted / FAR or found == int(rows.sum()) > 1:
            in_time.append(number)
    cut = taken[unit]
    _cut_in_time(cut, label, in_time, unit, share)
    lost = np.zeros(len(chosen), np.bool_)
    for number, tested in across.items():
        lost |= (label == number) & (cut != np.isin(day, tested))
    held[chosen], left[chosen] = cut & ~lost, lost
    return _Apart(held, left, tuple(sorted(in_time)))


def _whole(names: Ints, sizes: Ints, wanted: int, already: int, random: np.random.Generator) -> Ints:
    """Choose among `names` at random as long as the sum of their sizes comes closer to `wanted`; never all, one if it can."""
    chosen, total = list[int](), already
    for place in random.permutation(len(names)).tolist():
        if len(chosen) < len(names) - 1 and abs(total + sizes[place] - wanted) < abs(total - wanted):
            chosen.append(int(names[place]))
            total += int(sizes[place])
    if not total and len(names) > 1 and wanted:
        chosen.append(int(names[np.argmin(sizes)]))
    return np.array(chosen, np.int64)


def _cut_in_time(cut: Bools, label: Ints, classes: Sequence[int], unit: Ints, share: float) -> None:
    """Cut the later `share` of each of `classes` off; the other rows of their sequences go where the row before them goes."""
    for number in classes:
        places = np.flatnonzero(label == number)
        cut[places] = np.arange(len(places)) >= len(places) - _portion(len(places), share)
    leads = np.isin(label, classes)
    for one in np.unique(unit[leads]):
        within = np.flatnonzero(unit == one)
        before = np.maximum.accumulate(np.where(leads[within], np.arange(len(within)), -1))
        cut[within] = cut[within[np.where(before >= 0, before, np.argmax(leads[within]))]]


def _borders(slots: NDArray[np.int32], part: NDArray[np.int8]) -> Bools:
    """(N,) rows with a part that the last row with a part in the same sequence does not have."""
    borders, known = np.zeros(len(part), np.bool_), np.flatnonzero(part != _NOWHERE)
    order = known[np.argsort(slots[known], kind="stable")]
    changed = (slots[order][1:] == slots[order][:-1]) & (part[order][1:] != part[order][:-1])
    borders[order[1:][changed]] = True
    return borders


def _nowhere(flows: FlowSet) -> NDArray[np.int8]:
    return np.full(len(flows.label), _NOWHERE, np.int8)


def _portion(count: int, share: float) -> int:
    """`share` of `count`, but something is taken if there are two, and something is left."""
    return min(max(round(count * share), 1), count - 1) if share > 0 and count > 1 else 0


def _split(part: NDArray[np.int8], restart: Bools, share: float, validation: float) -> Split:
    """Row numbers of the parts. Raises ValueError when one that was asked for is empty."""
    training, held, test = (np.flatnonzero(part == number) for number in (_TRAINING, _VALIDATION, _TEST))
    if not len(training):
        raise ValueError("no flow with a class is left to train on: give more files, or labels that match their flows")
    if validation > 0 and not len(held):
        raise ValueError(f"none of {len(training):,} flows can be held back to validate on: give more files, or --validation 0")
    if share > 0 and not len(test):
        raise ValueError(f"none of {len(training) + len(held):,} flows can be kept to test on: give more files, or --test 0")
    return Split(training, held, test, restart)
