"""Tables of the fixed rules: counts of a minute for many hosts, in memory of fixed size, as parts of a compiled loop.

A row counts the attempts of a minute that begins with the first of them, and how many different targets (or, for a victim,
sources) there were: exactly, in a set, as far as a threshold can lie; beyond what the set holds, by keeping only hashes
under a bound that halves (Wegman's adaptive sampling, Flajolet 1990).

Rows stand in two lists by use. A row with more than FEW different targets is *kept*: it gets a seat, which is a set, and
leaves the list of newcomers. A full table takes the row of the newcomer that was silent the longest, so that a flood of
addresses that come once pushes out nothing but its own kind. Keys are hashes under a secret seed: nobody can send hosts that
meet in one row. Nothing that is decided depends on the seed. `detect_rules_kernel` walks over flows with these parts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.kernels import loop, part

MINUTE_US = 60_000_000
"""The time within which a rule counts."""
BACK_US = 3_600_000_000
"""A flow that much older than the latest of its row begins a minute anew: the clock was set back. Younger ones came late,
as flows do that wait for an answer longer, and are not counted: they would begin minutes without end."""
FAR_US = (1 << 62) - 1
"""Packet times are held within it, so that the difference of two broken ones still fits 64 bits."""
FEW = 8
"""Targets that a row remembers without a seat: benign hosts hardly ever try more in a minute for nothing."""
ROW = np.dtype(
    [
        ("key", "<u8"),
        ("begun_us", "<i8"),  # of the minute
        ("latest_us", "<i8"),  # end of the latest attempt of the minute
        ("first_us", "<i8"),  # start of the first attempt of the minute
        ("attempts", "<i8"),
        ("alerted_us", "<i8"),
        ("pending", "<i8"),  # attempts over the rule since the last alert
        ("since_us", "<i8"),  # start of the first of these
        ("targets", "<i4"),  # entries of the set
        ("halvings", "<i4"),  # of the bound on hashes in the set
        ("older", "<i4"),  # neighbours in the row's list by use, -1 at its ends
        ("newer", "<i4"),
        ("bucket", "<i4"),  # where the index points here
        ("home", "<i4"),  # where its hash would have it
        ("seat", "<i4"),  # number of its set, -1: it has none
        ("over", "u1"),  # the minute is over the rule
        ("alerted", "u1"),
        ("reserved", "u1", (2,)),
        ("few", "<u4", (FEW,)),  # targets, while there is no seat
    ]
)
"""One count of a minute, 128 bytes."""

OLDEST, NEWEST, OLDEST_KEPT, NEWEST_KEPT, LIVE, SEATS, SHED, OVER = range(8)
"""Places in a table's array of counts: both ends of the newcomers and of the kept, rows and seats given out, rows lost sight
of, attempts of minutes over the rule."""

_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
"""Multipliers of splitmix64's finaliser (Steele, Lea and Flood 2014)."""
_SLOT = np.int64(0xFFFFFFFF)
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_S30, _S27, _S31, _S32 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(32)


class Table(NamedTuple):
    """One table's memory."""

    rows: NDArray[np.void]
    places: NDArray[np.int64]
    """Slots of rows, each behind the upper half of its key: this alone tells a key that has no row; -1 is empty."""
    counts: NDArray[np.int64]
    sets: NDArray[np.uint32]
    """(seats, slots), 0 is empty; at most half of the slots are taken."""
    spare: NDArray[np.uint32]
    """(slots,) for a set that is sifted."""


@part
def _mix(mixed: np.uint64) -> np.uint64:
    """Scatter 64 bits (splitmix64's finaliser)."""
    mixed = (mixed ^ (mixed >> _S30)) * _MIX_1
    mixed = (mixed ^ (mixed >> _S27)) * _MIX_2
    return mixed ^ (mixed >> _S31)


@part
def host_hash(seed: np.uint64, hi: np.uint64, lo: np.uint64) -> np.uint64:
    """Hash an address."""
    return _mix(_mix(seed ^ hi) ^ lo)


@part
def key_of(host: np.uint64, more: np.uint64, kind: int) -> np.uint64:
    """Key of a row: a host's hash, a port or another host's hash, and a small number for what the row counts of them."""
    return _mix((host * _SPREAD) ^ (more + (np.uint64(kind) << _S32)))


@part
def mark_of(mixed: np.uint64) -> np.uint32:
    """What stands for a host in a set, never 0."""
    return np.uint32(max(mixed >> _S32, np.uint64(1)))


@part
def port_mark(port: int) -> np.uint32:
    """What stands for a port in a set, never 0, and different for each."""
    return np.uint32(((port + 1) * 0x9E3779B1) & 0xFFFFFFFF)


@part
def _unlink(table: Table, slot: int) -> None:
    """Take a row out of its list."""
    rows, counts = table.rows, table.counts
    ends = OLDEST_KEPT if rows[slot]["seat"] >= 0 else OLDEST
    older, newer = rows[slot]["older"], rows[slot]["newer"]
    if older >= 0:
        rows[older]["newer"] = newer
    else:
        counts[ends] = newer
    if newer >= 0:
        rows[newer]["older"] = older
    else:
        counts[ends + 1] = older


@part
def _append(table: Table, slot: int) -> None:
    """Put a row at the newest end of its list."""
    rows, counts = table.rows, table.counts
    ends = OLDEST_KEPT if rows[slot]["seat"] >= 0 else OLDEST
    newest = counts[ends + 1]
    rows[slot]["older"] = newest
    rows[slot]["newer"] = -1
    if newest >= 0:
        rows[newest]["newer"] = slot
    else:
        counts[ends] = slot
    counts[ends + 1] = slot


@part
def _forget(table: Table, slot: int) -> None:
    """Take a row out of the index; entries behind it move back over the hole, so that probing never meets a gap in its run."""
    rows, index = table.rows, table.places
    mask = len(index) - 1
    hole = rows[slot]["bucket"]
    probe = (hole + 1) & mask
    while index[probe] >= 0:
        moved = index[probe] & _SLOT
        # the entry may fill the hole when its home does not lie between the hole and itself, counted round the table
        if ((probe - rows[moved]["home"]) & mask) >= ((probe - hole) & mask):
            index[hole] = index[probe]
            rows[moved]["bucket"] = hole
            hole = probe
        probe = (probe + 1) & mask
    index[hole] = -1


@part
def _entry(key: np.uint64, slot: int) -> np.int64:
    """What the index holds of a row."""
    return (np.int64(key >> np.uint64(33)) << 32) | np.int64(slot)


@part
def find(table: Table, key: np.uint64) -> int:
    """Slot of a key, -1 where it has none."""
    rows, index = table.rows, table.places
    mask = len(index) - 1
    probe = int(np.int64(key & np.uint64(mask)))
    tag = np.int64(key >> np.uint64(33))
    while index[probe] >= 0:
        slot = index[probe] & _SLOT
        if index[probe] >> 32 == tag and rows[slot]["key"] == key:
            return int(slot)
        probe = (probe + 1) & mask
    return -1


@part
def _clear(table: Table, seat: int) -> None:
    """Empty a set."""
    for place in range(table.sets.shape[1]):
        table.sets[seat, place] = 0


@part
def _lose(table: Table, row: np.void, now_us: int) -> None:
    """Count a row that is lost sight of, if it still counted."""
    if row["attempts"] > 0 and abs(now_us - row["latest_us"]) < MINUTE_US:
        table.counts[SHED] += 1


@part
def enter(table: Table, key: np.uint64, now_us: int) -> int:
    """Slot for a key that has none: an unused one, or that of the newcomer that was silent the longest."""
    rows, index, counts = table.rows, table.places, table.counts
    if counts[LIVE] < len(rows):
        slot = int(counts[LIVE])
        counts[LIVE] += 1
    else:
        slot = int(counts[OLDEST])  # there are more rows than seats: always one
        _lose(table, rows[slot], now_us)
        _unlink(table, slot)
        _forget(table, slot)
    mask = len(index) - 1
    row = rows[slot]
    home = int(np.int64(key & np.uint64(mask)))
    bucket = home
    while index[bucket] >= 0:
        bucket = (bucket + 1) & mask
    index[bucket] = _entry(key, slot)
    row["key"], row["home"], row["bucket"], row["seat"] = key, home, bucket, -1
    row["attempts"] = row["pending"] = 0
    row["targets"] = 0
    row["over"] = row["alerted"] = 0
    _append(table, slot)
    return slot


@part
def keep(table: Table, slot: int, now_us: int) -> None:
    """Give a row a seat: an unused one, or that of the kept row silent the longest, which becomes a newcomer."""
    rows, counts = table.rows, table.counts
    _unlink(table, slot)
    if counts[SEATS] < len(table.sets):
        seat = int(counts[SEATS])
        counts[SEATS] += 1
    else:
        other = int(counts[OLDEST_KEPT])
        _lose(table, rows[other], now_us)
        _unlink(table, other)
        seat = int(rows[other]["seat"])
        rows[other]["seat"] = -1
        rows[other]["attempts"] = 0  # what its set knew is gone: its minute begins anew
        _append(table, other)
    rows[slot]["seat"] = seat
    rows[slot]["halvings"] = 0
    _clear(table, seat)
    _append(table, slot)


@part
def _put(table: Table, seat: int, mark: np.uint32) -> bool:
    """Add to a set; tells whether it is new there."""
    sets = table.sets
    mask = sets.shape[1] - 1
    place = int(np.int64(mark)) & mask
    while sets[seat, place] != 0:
        if sets[seat, place] == mark:
            return False
        place = (place + 1) & mask
    sets[seat, place] = mark
    return True


@part
def _halve(table: Table, row: np.void) -> None:
    """Halve the bound on a full set's hashes until some leave it."""
    seat, before = row["seat"], row["targets"]
    for place in range(len(table.spare)):
        table.spare[place] = table.sets[seat, place]
    while row["targets"] == before and row["halvings"] < 32:
        row["halvings"] += 1
        row["targets"] = 0
        _clear(table, seat)
        for place in range(len(table.spare)):
            mark = table.spare[place]
            if mark != 0 and np.int64(mark) >> (32 - row["halvings"]) == 0 and _put(table, seat, mark):
                row["targets"] += 1


@part
def _see(table: Table, slot: int, mark: np.uint32, now_us: int) -> None:
    """Count a target of the row's minute."""
    row = table.rows[slot]
    if row["seat"] < 0:
        for place in range(row["targets"]):
            if row["few"][place] == mark:
                return
        if row["targets"] < FEW:
            row["few"][row["targets"]] = mark
            row["targets"] += 1
            return
        keep(table, slot, now_us)
        for place in range(FEW):
            _put(table, row["seat"], row["few"][place])
    if np.int64(mark) >> (32 - row["halvings"]) == 0 and _put(table, row["seat"], mark):
        row["targets"] += 1
        if 2 * row["targets"] >= table.sets.shape[1]:
            _halve(table, row)


@part
def touch(table: Table, slot: int) -> None:
    """Put a row at the newest end of its list, where it is not there."""
    if table.rows[slot]["newer"] >= 0:
        _unlink(table, slot)
        _append(table, slot)


@part
def count(table: Table, key: np.uint64, mark: np.uint32, now_us: int, first_us: int, admit: bool) -> int:
    """Count an attempt in the row of `key`; its slot, or -1 where it counts nowhere.

    A key that has no row gets one where there is room, and where there is none if `admit` says so.
    """
    slot = find(table, key)
    if slot < 0:
        if not admit and table.counts[LIVE] == len(table.rows):
            return -1
        slot = enter(table, key, now_us)
    else:
        touch(table, slot)
    row = table.rows[slot]
    if row["attempts"] == 0 or now_us - row["begun_us"] >= MINUTE_US or row["latest_us"] - now_us >= BACK_US:
        row["begun_us"] = row["latest_us"] = now_us
        row["first_us"] = first_us
        row["attempts"] = 0
        row["targets"] = row["halvings"] = 0
        row["over"] = 0
        if row["seat"] >= 0:
            _clear(table, row["seat"])
    elif row["latest_us"] - now_us >= MINUTE_US:
        return -1
    row["begun_us"] = min(row["begun_us"], now_us)
    row["latest_us"] = max(row["latest_us"], now_us)
    row["first_us"] = min(row["first_us"], first_us)
    row["attempts"] += 1
    _see(table, slot, mark, now_us)
    return slot


@loop
def reenter(table: Table, found: NDArray[np.void]) -> None:
    """Give rows of another table of the same seed their place here, with their quiet times and what is pending."""
    for i in range(len(found)):
        slot = enter(table, found[i]["key"], 0)
        keep(table, slot, 0)
        row = table.rows[slot]
        for_later = found[i]
        row["alerted"], row["alerted_us"] = for_later["alerted"], for_later["alerted_us"]
        row["pending"], row["since_us"] = for_later["pending"], for_later["since_us"]
