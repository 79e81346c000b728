"""A batch of FLOW rows as the arrays that the columns of `statistics` are made of, each made once and only if asked for.

A column often shares its parts with others (four columns of one kind of gap, one duration under ten rates), so they are kept.
Everything is vectorised: no object per flow. Rows are turned into columns once, as 64-bit words, whatever fields are asked
for: a row is ten cache lines, and fetching it again for every field took longer than all arithmetic. What "netseq" and
"cicflowmeter" rules disagree on is decided here and in the table's own functions, by `Reading.faithful`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import cache, cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sensor.address_text import addresses_text
from sensor.schema import END_LOG, FLOW, ICMP, IGMP, NO_PROTOCOL, SCTP, TCP, UDP
from sensor.statistics_kernel import SPREADS, divide, unfold

Rules: TypeAlias = Literal["netseq", "cicflowmeter"]
Ints: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]
Numbers: TypeAlias = NDArray[np.int64] | NDArray[np.float64]

NAMED = (ICMP, IGMP, TCP, UDP, SCTP)
"""Protocols that CICFlowMeter tells; it writes 0 for all others."""


ODD = 24
"""Elements that a column is longer than its rows: 2,048 rows would put all columns into the same few places of the cache."""
WORD = 8
"""Bytes of the words that rows are turned into columns by; no field of FLOW crosses a word's border."""


def columns_of(columns: int, rows: int, kind: np.dtype[Any]) -> NDArray[Any]:  # Any: the type is the caller's to say
    """(columns, rows) empty, each column in one piece."""
    return np.empty((columns, rows + ODD), kind)[:, :rows]


def ratio(part: Numbers, whole: Numbers) -> Floats:
    """part / whole, and 0 where whole is 0."""
    out = np.empty(len(part), np.float64)
    divide(part, whole, out)
    return out


@cache
def _place(names: tuple[str, ...]) -> tuple[int, int]:
    """Byte offset of a field in a FLOW row, and its bytes. Raises KeyError for no field."""
    kind, offset = FLOW, 0
    for name in names:
        if kind.fields is None or name not in kind.fields:
            raise KeyError(name)
        offset += kind.fields[name][1]
        kind = kind[name]
    return offset, kind.itemsize


class Samples:
    """Count, extremes and moments of some samples, arrays of one number for each flow; all are 0 where there is no sample."""

    def __init__(self, n: Ints, total: Ints, low: Ints, high: Ints, variance: Floats) -> None:
        self.n = n
        self.total = total
        self.low = low
        self.high = high
        self.variance = variance

    @cached_property
    def mean(self) -> Floats:
        """Sum over count."""
        return ratio(self.total, self.n)

    @cached_property
    def deviation(self) -> Floats:
        """Root of the sample variance."""
        return np.sqrt(self.variance)


class Side:
    """One direction of a batch: `name` is "fwd" or "bwd"."""

    def __init__(self, reading: Reading, name: str) -> None:
        self._reading: Reading = weakref.proxy(reading)  # in a ring, a batch's arrays would wait for the garbage collector
        self._name = name

    def field(self, *names: str) -> Ints:
        """A field of SIDE, by its name, or its group's and its own."""
        return self._reading.field(self._name, *names)

    @cached_property
    def packets(self) -> Ints:
        """Packets of this side."""
        return self.field("packets")

    @cached_property
    def payload(self) -> Samples:
        """Payload bytes of this side's packets."""
        low, high, total = (self.field("payload", name) for name in ("low", "high", "sum"))
        return Samples(self.packets, total, low, high, self._reading.spread(f"{self._name}_payload"))

    @cached_property
    def gaps(self) -> Samples:
        """Times between this side's consecutive packets, in us."""
        return self._reading.gaps_of(self.field, self.packets, f"{self._name}_gap")


class Reading:
    """(n,) FLOW rows read by `rules`; the arrays that columns share. The rows must stay as they are meanwhile."""

    def __init__(self, flows: NDArray[np.void], rules: Rules = "netseq") -> None:
        self.flows = flows
        self.faithful = rules == "cicflowmeter"
        """CICFlowMeter's rules, to the letter."""
        self.fwd = Side(self, "fwd")
        self.bwd = Side(self, "bwd")

    @cached_property
    def from_log(self) -> NDArray[np.bool_]:
        """(n,) rows that a log told, of which most fields are not known."""
        return np.asarray(self.flows["end"] == END_LOG)

    @cached_property
    def any_from_log(self) -> bool:
        """Whether there is such a row."""
        return bool(self.from_log.any())

    @cached_property
    def _unfolded(self) -> tuple[Ints, Floats]:
        """(words of a row, n) all rows turned into columns, and (len(SPREADS), n) variances."""
        flows = np.ascontiguousarray(self.flows)
        words = flows.view(np.int64).reshape(len(flows), -1)
        columns: Ints = columns_of(words.shape[1], len(flows), np.dtype(np.int64))
        variances = np.empty((len(SPREADS), len(flows)), np.float64)
        unfold(flows, words, not self.faithful, columns, variances)
        return columns, variances

    def field(self, *names: str) -> Ints:
        """A field of FLOW as signed 64-bit integers, by its name, or its groups' and its own."""
        place, width = _place(names)
        word: Ints = self._unfolded[0][place // WORD]
        before, after = place % WORD, WORD - width - place % WORD
        if before and not after:
            return np.asarray((word.view(np.uint64) >> np.uint64(before * 8)).view(np.int64))
        if before:
            word = word >> (before * 8)
        if after:
            word = word & ((1 << width * 8) - 1)
        return word  # all narrow fields of FLOW are unsigned

    def spread(self, name: str) -> Floats:
        """(n,) variances of one of SPREADS."""
        return np.asarray(self._unfolded[1][SPREADS.index(name)])

    def gaps_of(self, field: Callable[..., Ints], packets: Ints, name: str) -> Samples:
        """Gaps between `packets` packets: one fewer than packets, and they sum to last - first, which are told by `field`."""
        n = np.maximum(packets - 1, 0)
        total = np.where(n > 0, field("last_us") - field("first_us"), 0)
        return Samples(n, total, field("gap", "low"), field("gap", "high"), self.spread(name))

    @cached_property
    def packets(self) -> Ints:
        """Packets of both sides."""
        return self.fwd.packets + self.bwd.packets

    @cached_property
    def duration_us(self) -> Ints:
        """Last packet minus first, in the order in which they came; netseq has no time that runs backwards."""
        lasting_us = self.field("last_us") - self.field("first_us")
        return lasting_us if self.faithful else np.maximum(lasting_us, 0)

    @cached_property
    def gaps(self) -> Samples:
        """Times between consecutive packets of either side, in us."""
        return self.gaps_of(self.field, self.packets, "gap")

    @cached_property
    def payload(self) -> Samples:
        """Payload bytes of all packets."""
        fwd, bwd = self.fwd.payload, self.bwd.payload
        low = np.where(self.bwd.packets == 0, fwd.low, np.where(self.fwd.packets == 0, bwd.low, np.minimum(fwd.low, bwd.low)))
        return Samples(self.packets, fwd.total + bwd.total, low, np.maximum(fwd.high, bwd.high), self.spread("payload"))

    @cached_property
    def active(self) -> Samples:
        """Lengths of the periods without a gap over 5 s, in us; netseq counts the last one too. One packet has no length."""
        n, total, low, high = (self.field("active", name) for name in ("n", "sum", "low", "high"))
        if not self.faithful:
            last_us = self.field("last_us") - self.field("active_start_us")
            more = last_us > 0
            low = np.where(more & ((n == 0) | (last_us < low)), last_us, low)
            high = np.where(more & ((n == 0) | (last_us > high)), last_us, high)
            n, total = n + more, total + np.where(more, last_us, 0)
        return Samples(n, total, low, high, self.spread("active"))

    @cached_property
    def idle(self) -> Samples:
        """Lengths of the gaps over 5 s, in us."""
        n, total, low, high = (self.field("idle", name) for name in ("n", "sum", "low", "high"))
        return Samples(n, total, low, high, self.spread("idle"))

    @cached_property
    def seconds(self) -> Floats:
        """Duration in s; 0 where no rate can be told."""
        return np.asarray(np.maximum(self.duration_us, 0) / 1e6)

    def rate(self, amount: Ints) -> Floats:
        """Amount a second over both sides: of a flow without duration 0, which CICFlowMeter writes as -1."""
        if not self.faithful:
            return ratio(amount, self.seconds)
        return np.asarray(np.where(self.duration_us == 0, -1.0, ratio(amount, self.duration_us / 1e6)), np.float64)

    @cached_property
    def subflows(self) -> Ints:
        """Parts that gaps over 1 s make of the flow: one more than gaps; CICFlowMeter divides by the gaps."""
        gaps = self.field("long_gaps")
        return gaps if self.faithful else gaps + 1

    @cached_property
    def turned(self) -> NDArray[np.bool_]:
        """(n,) flows whose first packet was sent by the destination."""
        return np.asarray(self.flows["first_is_bwd"] != 0)

    @cached_property
    def src_text(self) -> NDArray[np.bytes_]:
        """The source's address."""
        return addresses_text(self.flows["src_hi"], self.flows["src_lo"])

    @cached_property
    def dst_text(self) -> NDArray[np.bytes_]:
        """The destination's address."""
        return addresses_text(self.flows["dst_hi"], self.flows["dst_lo"])

    @cached_property
    def protocol(self) -> Ints:
        """IP protocol number, 0 where a log does not tell it; CICFlowMeter knows five."""
        number = self.field("protocol")
        if self.any_from_log:
            number = np.where(self.from_log & (number == NO_PROTOCOL), 0, number)
        return np.where(np.isin(number, NAMED), number, 0) if self.faithful else number
