"""What a Judge remembers, apart from the Judge: copied out of one, and taken up by another.

A restart and a reload are the same thing to a Judge: a new one, laid out by the present settings and models, takes up what
another remembered. `remembered` copies that: of every table the rows that are in use (slots are given out in order, so they
come first), of every model the states and evidence of these slots, of every watch the quiet times and the rate, and what the
fixed rules raised. `take_up`
puts it into another Judge, whose tables may have another size: the conversations used last are kept. What was set
(budget, quiet time) is no memory: the new Judge's own counts at once.

States mean something to one model only (`models.identity`). With another one the conversations and their quiet times stay,
and the rest begins anew. All is checked before anything is changed. `service_state` writes a Memory to disk, `Judge.adopt`
hands it from one Judge to the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sensor.conversations import ROW, Conversations
from sensor.detect_rules_table import ROW as RULE_ROW
from sensor.detect_watch import RATE_HOURS, WATCH, Watch

if TYPE_CHECKING:
    from models.resident import Scorer
    from models.resident_flows import FlowScorer
    from sensor.engine import Judge

LAYOUT = 1
"""Of the arrays and their names. It rises when one of them means something else than before; `layout` sees other fields."""

Tallies = dict[str, dict[str, int]]
"""What was counted, by part and by that part's own name for it."""
Numbers = dict[str, NDArray[np.generic]]


class PartTold(msgspec.Struct, frozen=True, kw_only=True):
    """Of one model's part of a memory, what is no array."""

    model: str
    """Name and version."""
    identity: str
    table: str
    """Whose slots its states have: "pairs", or "hosts" for a model of source hosts."""
    counters: dict[str, int]
    """By the names of `metrics`, for when nobody goes on with them."""


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """Of a memory, what is no array."""

    layout: str
    vocabulary: dict[str, object]
    parts: dict[str, PartTold]
    tallies: Tallies


class Shape(NamedTuple):
    """Of one array of a memory, what can be told without having it."""

    dtype: torch.dtype
    sizes: tuple[int, ...]


Room = dict[str, NDArray[np.uint8]]
"""Memory for copies of a Judge's arrays, by their names, for as many slots as there can be."""


class Memory(NamedTuple):
    """All that a Judge remembers, in memory that nobody else changes until it is given back."""

    told: Told
    arrays: dict[str, Tensor]
    room: Room
    """What the arrays lie in."""
    rooms: list[Room]
    """Where it goes back to."""


class DoesNotFit(Exception):  # noqa: N818  # reads as the sentence it is, like the other refusals
    """A memory that this Judge cannot take up; str() is one line."""


class _Part(NamedTuple):
    """One model with all that has a place for each slot of its table."""

    told: PartTold
    table: Conversations
    scorer: Scorer | FlowScorer
    watch: Watch


def remembered(judge: Judge) -> Memory:
    """Copy what a Judge remembers. Called between batches by whoever calls `judge`; it takes as long as copying memory does."""
    room = judge.rooms.pop() if judge.rooms else Room()
    tables = _tables(judge)
    arrays = {
        name: _copied(array if table is None else array[: tables[table].live], room, name, array.nbytes)
        for name, (array, table) in _arrays(judge).items()
    }
    arrays |= {f"rules.{name}": torch.from_numpy(value) for name, value in _rules(judge).items()}
    told = Told(
        layout=layout(),
        vocabulary=judge.vocabulary.to_json(),
        parts={name: part.told for name, part in _parts(judge).items()},
        tallies=judge.tallies(),
    )
    return Memory(told, arrays, room, judge.rooms)


def make_room(judge: Judge) -> None:
    """Lay out memory for copies, and touch it: the first touch of 100 MB may take most of a second, which scoring has not."""
    room = {name: np.empty(array.nbytes, np.uint8) for name, (array, _) in _arrays(judge).items()}
    for content in room.values():
        content.fill(0)
    judge.rooms.append(room)


def give_back(memory: Memory) -> None:
    """Let the next copy have the memory of this one, whose arrays are gone then."""
    memory.arrays.clear()
    if not memory.rooms:  # one is enough: copies are made one after the other
        memory.rooms.append(memory.room)


def check(judge: Judge, told: Told, shapes: Mapping[str, Shape], *, same_model: bool) -> list[str]:
    """See that `take_up` would take a memory of arrays of these shapes; returns those that it reads. Raises DoesNotFit.

    With `same_model`, the memory of another word model does not fit either.
    """
    if told.layout != layout():
        raise DoesNotFit("another netseq wrote it, whose memory is laid out in another way")
    words = told.parts.get("words")
    if words is None:
        raise DoesNotFit("it is of no word model")
    own = _parts(judge)["words"].told
    if same_model and words.identity != own.identity:
        raise DoesNotFit(f"it is of the model {words.model}, and means nothing to this one, {own.model}")
    wanted = _wanted(judge, told, shapes)
    for name, shape in wanted.items():
        found = shapes.get(name)
        floats = found is not None and found.dtype.is_floating_point and shape.dtype.is_floating_point
        if found is None or found.sizes != shape.sizes or not (floats or found.dtype == shape.dtype):
            raise DoesNotFit(f"{name} is {_spelled(found)}, wanted is {_spelled(shape)}")
    return list(wanted)


def take_up(judge: Judge, memory: Memory, *, same_model: bool = False, now_us: int | None = None) -> list[str]:
    """Let a Judge go on from what another remembered; returns a line for each thing that could not be kept.

    `now_us` is what no time of a conversation may lie after, where packets carry the present time. Raises DoesNotFit,
    and then nothing has changed.
    """
    shapes = {name: Shape(array.dtype, tuple(array.shape)) for name, array in memory.arrays.items()}
    check(judge, memory.told, shapes, same_model=same_model)
    parts, going = _parts(judge), _going(judge, memory.told)
    tables = {name: _tables(judge)[name] for name in dict.fromkeys(going.values())}
    try:
        slots = {name: table.kept(_numbers(memory, name)) for name, table in tables.items()}
    except ValueError as wrong:
        raise DoesNotFit(str(wrong)) from None
    same = [name for name in going if parts[name].told.identity == memory.told.parts[name].identity]
    states = {name: _state(name, parts[name], memory, slots[going[name]]) for name in same}
    lines: list[str] = []
    for name, table in tables.items():
        lines += _take_table(name, table, _numbers(memory, name), now_us)
    for name, part in parts.items():
        if name in going:
            numbers = _numbers(memory, f"{name}.watch")
            part.watch.restore(numbers, slots[going[name]], same_verdicts=name in states)
        if name in states:
            part.scorer.restore(states[name])
        lines += _unkept(part.told, memory.told.parts.get(name), going=name in going)
    rules = _numbers(memory, "rules")
    judge.rules.restore({name: value.view(np.uint64) if name == "seeds" else value for name, value in rules.items()})
    gone = {name: part.counters for name, part in memory.told.parts.items() if name not in going}
    lines += [
        f"{memory.told.parts[name].model} is not used any more: what it remembered is gone"
        for name in gone
        if name not in parts
    ]
    judge.count_on({name: counted for name, counted in memory.told.tallies.items() if name not in gone}, gone.values())
    return lines


def layout() -> str:
    """What arrays of rows look like: netseqs that agree on it read each other's memory."""
    return f"{LAYOUT} {ROW.descr} {WATCH.descr} {RATE_HOURS} {RULE_ROW.descr}"


def _tables(judge: Judge) -> dict[str, Conversations]:
    """The tables whose slots states have, by the names of PartTold.table."""
    hosts = judge.flows.hosts if judge.flows is not None else None
    return {"pairs": judge.conversations} | ({} if hosts is None else {"hosts": hosts})


def _parts(judge: Judge) -> dict[str, _Part]:
    """The models, by name: "words", and "flows" where there is a multi-flow model."""
    counters = judge.detector.counters()
    told = PartTold(model=judge.detector.model, identity=judge.identity, table="pairs", counters=counters)
    parts = {"words": _Part(told, judge.conversations, judge.scorer, judge.detector)}
    if (flows := judge.flows) is not None:
        name, table = ("pairs", judge.conversations) if flows.hosts is None else ("hosts", flows.hosts)
        told = PartTold(model=flows.detector.model, identity=flows.identity, table=name, counters=flows.counters())
        parts["flows"] = _Part(told, table, flows.scorer, flows.detector)
    return parts


def _going(judge: Judge, told: Told) -> dict[str, str]:
    """The parts that go on with their conversations, because they are in both and of the same sequences; and their tables."""
    both = {name: (part.told, told.parts[name]) for name, part in _parts(judge).items() if name in told.parts}
    return {name: own.table for name, (own, theirs) in both.items() if own.table == theirs.table}


def _arrays(judge: Judge) -> dict[str, tuple[Tensor, str | None]]:
    """All arrays as they lie in the Judge; where they have a row for each slot, with the table whose slots these are."""
    arrays: dict[str, tuple[Tensor, str | None]] = {}
    for name, table in _tables(judge).items():
        for array, numbers in table.state().items():
            arrays[f"{name}.{array}"] = torch.from_numpy(numbers), name if array == "rows" else None
    for name, part in _parts(judge).items():
        for array, numbers in part.watch.state().items():
            arrays[f"{name}.watch.{array}"] = torch.from_numpy(numbers), part.told.table if array == "watches" else None
        for array, tensor in part.scorer.state().items():
            arrays[f"{name}.{array}"] = tensor, part.told.table if _has_slots(tensor, part.table) else None
    return arrays


def _wanted(judge: Judge, told: Told, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """The arrays that `take_up` reads, as they must be."""
    going, parts = _going(judge, told), _parts(judge)
    prefixes = [f"{table}." for table in going.values()] + [f"{name}.watch." for name in going]
    prefixes += [f"{name}." for name in going if parts[name].told.identity == told.parts[name].identity]
    wanted: dict[str, Shape] = {}
    for name, (array, table) in _arrays(judge).items():
        if name.startswith(tuple(prefixes)):
            rows = shapes.get(f"{table}.rows")
            live = (rows.sizes[0] if rows is not None and rows.sizes else 0,)
            wanted[name] = Shape(array.dtype, tuple(array.shape) if table is None else (*live, *array.shape[1:]))
    for rule, numbers in _rules(judge).items():
        name, sizes = f"rules.{rule}", tuple(numbers.shape)
        there = shapes.get(name)
        begins = there.sizes[:1] if there is not None and numbers.ndim > 1 else sizes[:1]  # rows of rules, of any number
        wanted[name] = Shape(torch.from_numpy(numbers).dtype, (*begins, *sizes[1:]))
    return wanted


def _rules(judge: Judge) -> Numbers:
    """What the fixed rules remember; torch has no use for unsigned numbers of 64 bits."""
    return {name: value.view(np.int64) if name == "seeds" else value for name, value in judge.rules.state().items()}


def _take_table(name: str, table: Conversations, numbers: Numbers, now_us: int | None) -> list[str]:
    """Let a table go on; returns the lines about it."""
    lines, before = [], len(numbers["rows"])
    table.restore(numbers)
    if table.live < before:
        lines.append(f"{before - table.live} of {before} {name} are forgotten: conversations.table is {table.capacity} now")
    if now_us is not None and (ahead := table.not_after(now_us)):
        lines.append(f"{ahead} {name} were last heard of in what is the future now: the clock was set back")
    return lines


def _state(name: str, part: _Part, memory: Memory, slots: NDArray[np.int64]) -> dict[str, Tensor]:
    """What the scorer's `restore` takes: arrays for all its slots, the first of which are those kept."""
    whole: dict[str, Tensor] = {}
    for array, tensor in part.scorer.state().items():
        found = memory.arrays[f"{name}.{array}"]
        if _has_slots(tensor, part.table):
            full = tensor.detach().to("cpu", copy=True)
            full[: len(slots)] = found if len(slots) == len(found) else found[torch.from_numpy(slots)]
            found = full
        whole[array] = found
    return whole


def _unkept(own: PartTold, theirs: PartTold | None, *, going: bool) -> list[str]:
    """Lines about what a model could not take up."""
    if theirs is None:
        return [f"{own.model} begins without memory: no such model ran before"]
    if not going:
        return [f"{own.model} begins without memory: {theirs.model} remembered {theirs.table}, it reads {own.table}"]
    if own.identity != theirs.identity:
        return [
            f"{own.model} goes on with the {own.table} and quiet times of {theirs.model}; what it reads of them begins anew"
        ]
    return []


def _has_slots(tensor: Tensor, table: Conversations) -> bool:
    """Whether an array has a row for each slot; the others are of the model as a whole."""
    return tensor.ndim > 0 and len(tensor) == table.capacity


def _copied(array: Tensor, room: Room, name: str, most_bytes: int) -> Tensor:
    """A copy in main memory: in what `room` has for an array of this name, or in new memory for the most bytes it may have."""
    if name not in room or len(room[name]) < most_bytes:
        room[name] = np.empty(most_bytes, np.uint8)
    return as_tensor(room[name][: array.nbytes], array.dtype, array.shape).copy_(array.detach())


def as_tensor(content: NDArray[np.uint8], dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
    """Take bytes for an array of this type and shape; numpy has no word for all of torch's types, and torch no view of none."""
    return torch.from_numpy(content).view(dtype).view(tuple(shape)) if len(content) else torch.empty(tuple(shape), dtype=dtype)


def _numbers(memory: Memory, prefix: str) -> Numbers:
    """The arrays whose names begin so, without it."""
    found = {name: array for name, array in memory.arrays.items() if name.startswith(f"{prefix}.")}
    return {name.removeprefix(f"{prefix}."): array.numpy() for name, array in found.items()}


def _spelled(shape: Shape | None) -> str:
    return "missing" if shape is None else f"{shape.dtype} {list(shape.sizes)}".removeprefix("torch.")
