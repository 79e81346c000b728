"""Conversations: who speaks with whom, in what order, and how long they were silent.

A conversation is an unordered pair of hosts. Its flows, in the order in which they ended, are the sentence that the word
model reads, so every conversation owns a slot: the row of the model's resident state on the device. A table of fixed
size is laid out at start. It is a hash index with open addressing (linear probing, removal by shifting back, so that no
tombstones pile up) over rows that form a list from the least to the most recently used; a new pair on a full table takes
the row of the pair that was silent the longest, exactly, and is counted. One kernel walks a batch once, in row order:
cutting the same flows into other batches changes nothing.

A conversation starts afresh when a flow begins more than `restart_s` after the latest end among the flows before it, or ends
more than a day before it, for then the clock was set back: waiting for it to come there again would hold the conversation's
hour, and with it its alerts, for as long. All times are the packets' times. The one who began the first flow since then is
the conversation's beginner: headings are told against it and not against an address, so that what a model learns of one
pair holds for any other.

The engine and the training command call `turn`; `words` reads the result.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from sensor.kernels import loop, part
from sensor.words import Turns

__all__ = ["HOUR_US", "Conversations", "Turns", "as_one_host"]  # Turns: what words read, made and handed on here

HOUR_US = 3_600_000_000
"""Verdicts are gathered per conversation and hour of packet time."""

STEP_BACK_US = 24 * HOUR_US
"""Flows come in the order in which they end. Logs are in disorder by minutes; by more than a day only a clock moves."""

ROW = np.dtype(
    [
        ("low_hi", "<u8"),  # the lower of the two addresses
        ("low_lo", "<u8"),
        ("high_hi", "<u8"),
        ("high_lo", "<u8"),
        ("began_us", "<i8"),  # start of the conversation's first flow
        ("started_us", "<i8"),  # start of its latest flow, in row order
        ("ended_us", "<i8"),  # latest end among its flows
        ("hour", "<i8"),
        ("older", "<i4"),  # neighbours in the list by use, -1 at its ends
        ("newer", "<i4"),
        ("bucket", "<i4"),  # where the index points here
        ("home", "<i4"),  # where its hash would have it
        ("beginner", "<i4"),  # 0: the lower address began the first flow, 1: the higher
        ("reserved", "<i4"),
    ]
)
"""One conversation, 88 bytes."""

TURN = np.dtype(
    [("slot", "<i4"), ("restart", "u1"), ("heading", "u1"), ("gap_us", "<i8"), ("hour", "<i8"), ("began_us", "<i8")]
)

OLDEST, NEWEST, LIVE, STARTED, EVICTED = range(5)
"""Places in the table's array of counters: both ends of the list by use, then the counts."""

_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
"""Multipliers of splitmix64's finaliser (Steele, Lea and Flood 2014)."""
_S30, _S27, _S31 = np.uint64(30), np.uint64(27), np.uint64(31)


Pair = tuple[np.uint64, np.uint64, np.uint64, np.uint64]
"""Two addresses in halves, the lower one first."""


@part
def _hash(seed: np.uint64, pair: Pair) -> np.uint64:
    """Mix two addresses with the table's seed (splitmix64's finaliser over each half)."""
    mixed = seed
    for half in pair:
        mixed = mixed ^ half
        mixed = (mixed ^ (mixed >> _S30)) * _MIX_1
        mixed = (mixed ^ (mixed >> _S27)) * _MIX_2
        mixed = mixed ^ (mixed >> _S31)
    return mixed


@part
def _unlink(rows: NDArray[np.void], counters: NDArray[np.int64], slot: int) -> None:
    """Take a row out of the list by use."""
    older = rows[slot]["older"]
    newer = rows[slot]["newer"]
    if older >= 0:
        rows[older]["newer"] = newer
    else:
        counters[OLDEST] = newer
    if newer >= 0:
        rows[newer]["older"] = older
    else:
        counters[NEWEST] = older


@part
def _append(rows: NDArray[np.void], counters: NDArray[np.int64], slot: int) -> None:
    """Put a row at the newest end of the list by use."""
    newest = counters[NEWEST]
    rows[slot]["older"] = newest
    rows[slot]["newer"] = -1
    if newest >= 0:
        rows[newest]["newer"] = slot
    else:
        counters[OLDEST] = slot
    counters[NEWEST] = slot


@part
def _forget(rows: NDArray[np.void], index: NDArray[np.int32], slot: int) -> None:
    """Take a row out of the index; entries behind it move back over the hole, so that probing never meets a gap in its run."""
    mask = len(index) - 1
    hole = rows[slot]["bucket"]
    probe = (hole + 1) & mask
    while index[probe] >= 0:
        moved = index[probe]
        # the entry may fill the hole when its home does not lie between the hole and itself, counted round the table
        if ((probe - rows[moved]["home"]) & mask) >= ((probe - hole) & mask):
            index[hole] = moved
            rows[moved]["bucket"] = hole
            hole = probe
        probe = (probe + 1) & mask
    index[hole] = -1


@part
def _find(rows: NDArray[np.void], index: NDArray[np.int32], home: int, pair: Pair) -> int:
    """Bucket of the pair, or the empty bucket that ends its run."""
    mask = len(index) - 1
    probe = home
    while index[probe] >= 0:
        row = rows[index[probe]]
        if (row["low_hi"], row["low_lo"], row["high_hi"], row["high_lo"]) == pair:
            break
        probe = (probe + 1) & mask
    return probe


@part
def _seat(rows: NDArray[np.void], index: NDArray[np.int32], counters: NDArray[np.int64], home: int, pair: Pair) -> int:
    """Slot for a pair that has none: an unused one, or that of the pair that was silent the longest."""
    if counters[LIVE] < len(rows):
        slot = int(counters[LIVE])
        counters[LIVE] += 1
    else:
        slot = int(counters[OLDEST])
        counters[EVICTED] += 1
        _unlink(rows, counters, slot)
        _forget(rows, index, slot)
    bucket = home
    while index[bucket] >= 0:
        bucket = (bucket + 1) & (len(index) - 1)
    index[bucket] = slot
    row = rows[slot]
    row["low_hi"], row["low_lo"], row["high_hi"], row["high_lo"] = pair
    row["home"] = home
    row["bucket"] = bucket
    _append(rows, counters, slot)
    return slot


@part
def _take_turn(row: np.void, flow: np.void, turn: np.void, sender: int, fresh: bool) -> None:
    """Fill `turn` from the conversation's row and bring the row up to date. `sender`: 0 if the lower address began the flow."""
    hour = flow["last_us"] // HOUR_US
    if fresh:
        turn["gap_us"] = -1
        row["began_us"] = flow["first_us"]
        row["ended_us"] = flow["last_us"]
        row["hour"] = hour
        row["beginner"] = sender
    else:
        turn["gap_us"] = abs(flow["first_us"] - row["started_us"])
        row["ended_us"] = max(row["ended_us"], flow["last_us"])
        row["hour"] = max(row["hour"], hour)
    row["started_us"] = flow["first_us"]
    turn["restart"] = fresh
    turn["heading"] = sender != row["beginner"]
    turn["hour"] = row["hour"]
    turn["began_us"] = row["began_us"]


@loop
def _walk(
    flows: NDArray[np.void],
    rows: NDArray[np.void],
    index: NDArray[np.int32],
    counters: NDArray[np.int64],
    seed: np.uint64,
    restart_us: int,
    turns: NDArray[np.void],
) -> None:
    """Give every flow its turn, in row order, and keep the table. `turns` has a row for each of `flows`."""
    for i in range(len(flows)):
        flow = flows[i]
        src_hi, src_lo, dst_hi, dst_lo = flow["src_hi"], flow["src_lo"], flow["dst_hi"], flow["dst_lo"]
        sender = int(src_hi > dst_hi or (src_hi == dst_hi and src_lo > dst_lo))
        pair = (dst_hi, dst_lo, src_hi, src_lo) if sender else (src_hi, src_lo, dst_hi, dst_lo)
        home = int(np.int64(_hash(seed, pair) & np.uint64(len(index) - 1)))
        slot = int(index[_find(rows, index, home, pair)])
        if slot < 0:
            slot = _seat(rows, index, counters, home, pair)
            fresh = True
        else:
            ended_us = rows[slot]["ended_us"]
            fresh = flow["first_us"] - ended_us > restart_us or ended_us - flow["last_us"] > STEP_BACK_US
            if counters[NEWEST] != slot:
                _unlink(rows, counters, slot)
                _append(rows, counters, slot)
        counters[STARTED] += fresh
        turns[i]["slot"] = slot
        _take_turn(rows[slot], flow, turns[i], sender, fresh)


@loop
def _index_rows(rows: NDArray[np.void], index: NDArray[np.int32], live: int, seed: np.uint64) -> None:
    """Point an empty index at the first `live` rows, which were filled without it."""
    mask = len(index) - 1
    for slot in range(live):
        row = rows[slot]
        pair = (row["low_hi"], row["low_lo"], row["high_hi"], row["high_lo"])
        home = int(np.int64(_hash(seed, pair) & np.uint64(mask)))
        bucket = home
        while index[bucket] >= 0:
            bucket = (bucket + 1) & mask
        index[bucket] = slot
        row["home"] = home
        row["bucket"] = bucket


def _by_use(state: Mapping[str, NDArray[np.generic]]) -> NDArray[np.int64]:
    """(live,) slots of a `state()` from the least to the most recently used. Raises ValueError when they form no such list."""
    live, slot = int(state["counters"][LIVE]), int(state["counters"][OLDEST])
    newer = np.ascontiguousarray(state["rows"][: max(live, 0)]).view(ROW)[:, 0]["newer"].tolist()
    order: list[int] = []
    while 0 <= slot < len(newer) and len(order) < len(newer):
        order.append(slot)
        slot = newer[slot]
    if slot != -1 or len(set(order)) != len(newer) or live != len(newer):
        raise ValueError("the conversations do not form one list")
    return np.array(order, np.int64)


def as_one_host(flows: NDArray[np.void]) -> NDArray[np.void]:
    """(n,) FLOW rows as if every source spoke to itself: conversations of these are the sources' sequences."""
    turned = flows.copy()
    turned["dst_hi"], turned["dst_lo"] = flows["src_hi"], flows["src_lo"]
    return turned


class Conversations:
    """The bounded table of host pairs.

    `conversations` is its size in pairs (some 100 bytes each, plus the model's state for each slot elsewhere);
    `restart_s` the silence in seconds of packet time after which a pair starts a new conversation.
    """

    def __init__(self, *, conversations: int = 65_536, restart_s: float = 3600.0) -> None:
        if conversations < 1:
            raise ValueError(f"a table of {conversations} conversations holds none: give at least 1")
        if not restart_s >= 0:
            raise ValueError(f"restart_s is {restart_s}: give the silence in seconds, 0 or more")
        self.capacity = conversations
        self._restart_us = int(min(restart_s, 1e12) * 1e6)
        self._rows = np.zeros(conversations, ROW)
        buckets = 1 << (2 * conversations - 1).bit_length()  # at most half full: runs stay short
        self._index = np.full(buckets, -1, np.int32)
        self._counters = np.array([-1, -1, 0, 0, 0], np.int64)
        # Secret, so that nobody can send pairs that all fall into one run; which slot a pair gets does not depend on it.
        self._seed = np.uint64(secrets.randbits(64))

    def turn(self, flows: NDArray[np.void]) -> Turns:
        """Place a batch of (n,) FLOW rows, in row order, and say what each is to its conversation."""
        # One compiled signature for every source: contiguous and read-only.
        flows = np.ascontiguousarray(flows).view()
        flows.flags.writeable = False
        turns = np.zeros(len(flows), TURN)
        with np.errstate(over="ignore"):  # the hash wraps by design; numpy would say so where numba is off
            _walk(flows, self._rows, self._index, self._counters, self._seed, self._restart_us, turns)
        return Turns(
            slots=np.ascontiguousarray(turns["slot"]),
            restart=turns["restart"] != 0,
            gap_us=np.ascontiguousarray(turns["gap_us"]),
            hour=np.ascontiguousarray(turns["hour"]),
            heading=np.ascontiguousarray(turns["heading"]),
            began_us=np.ascontiguousarray(turns["began_us"]),
        )

    def state(self) -> dict[str, NDArray[np.generic]]:
        """All that must be kept to go on later: "rows" (capacity, ROW's bytes) uint8, of which `live` count, and "counters".

        To be copied before the next `turn`. The index is not among them: it is made anew, under another secret.
        """
        return {"rows": self._rows.view(np.uint8).reshape(self.capacity, ROW.itemsize), "counters": self._counters}

    def kept(self, state: Mapping[str, NDArray[np.generic]]) -> NDArray[np.int64]:
        """(k,) slots of a `state()`, which may be cut to its live rows, that this table has room for, rising: those used last.

        The i-th of them will be slot i. Raises ValueError when the list by use does not lead through every row once.
        """
        return np.sort(_by_use(state)[-self.capacity :])

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Go on from a `state()`, whose table may have had another size: `kept` tells which slots stay. ValueError as there."""
        order = _by_use(state)
        slots = np.sort(order[-self.capacity :])
        live = len(slots)
        order = np.searchsorted(slots, order[-self.capacity :]).astype(np.int32)
        self._rows[:live] = np.ascontiguousarray(state["rows"]).view(ROW)[:, 0][slots]
        self._rows["older"][order] = np.append(-1, order[:-1])[:live]
        self._rows["newer"][order] = np.append(order[1:], -1)[:live]
        self._counters[:] = state["counters"]
        self._counters[EVICTED] += self._counters[LIVE] - live
        self._counters[LIVE] = live
        self._counters[OLDEST], self._counters[NEWEST] = (order[0], order[-1]) if live else (-1, -1)
        self._index[:] = -1
        with np.errstate(over="ignore"):
            _index_rows(self._rows, self._index, live, self._seed)

    def not_after(self, now_us: int) -> int:
        """Bring times after `now_us` back to it: the clock was ahead when they were told. Returns how many pairs had such.

        Their conversations would wait for the clock to come there again: no silence would end, and no hour begin.
        """
        rows = self._rows[: self.live]
        ahead = rows["ended_us"] > now_us
        for name, limit in (("began_us", now_us), ("started_us", now_us), ("ended_us", now_us), ("hour", now_us // HOUR_US)):
            rows[name] = np.where(ahead, np.minimum(rows[name], limit), rows[name])
        return int(ahead.sum())

    @property
    def live(self) -> int:
        """Pairs in the table."""
        return int(self._counters[LIVE])

    @property
    def started(self) -> int:
        """Conversations begun so far, restarts included."""
        return int(self._counters[STARTED])

    @property
    def evicted(self) -> int:
        """Pairs that lost their slot because the table was full."""
        return int(self._counters[EVICTED])
