"""Which rows may alert: budget, quiet time and the hour's height for every slot, whichever model the verdicts are of.

A verdict belongs to a conversation and an hour of packet time, and its p-value is the share of benign conversation-hours
that reach it. So the rate of conversation-hours turns a budget of false alarms a day into a threshold on the p-value:

    threshold = min(max_p, budget_per_day / rate),   rate = max(seen a day, the model's prior)

What is seen a day is counted over the last 24 hours of packet time; before there are as many, the hours there are stand for
the whole day, so that a minute of a busy network is not taken for all that happens in a day. The prior keeps a short replay
from alerting on everything, and `max_p` a quiet network from alerting on what is merely unusual. Three rules follow, all of
them taken flow by flow, so that no cut into batches changes an alert:

- A flow raises an alert when it lifts the verdict of its conversation-hour to a new height that is over the threshold, and
  the conversation's quiet time is over. What merely follows in an alarming hour raises nothing: the verdict is not its doing.
- Every flow that ends while its verdict is over the threshold, and raises no alert, is suppressed: counted, and told of by
  the conversation's next alert (`count`, `first_seen`, `last_seen`). An attack that goes on is told of again in the first
  hour that begins after the quiet time, so within an hour of it.
- No alert is made up for what was suppressed after the last one: the hour was told of once, and a second alert about it
  would spend the budget twice. `untold` counts those flows.

A kernel walks the batch and names the few rows that alert; `detect` and `detect_flows` build the alerts of the two models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from sensor.kernels import njit

LIFT = 0.01
"""Log-odds by which a flow must lift its hour's verdict: below it is the float noise of other batch sizes."""
RATE_HOURS = 24
"""Hours over which conversation-hours are counted: a whole day, so that day and night weigh as they occur."""
FAR_US = (1 << 62) - 1
"""Packet times are held within it, so that the difference of two broken ones still fits 64 bits."""

WATCH = np.dtype(
    [
        ("a_hi", "<u8"),  # the pair whose alerts these are
        ("a_lo", "<u8"),
        ("b_hi", "<u8"),
        ("b_lo", "<u8"),
        ("hour", "<i8"),
        ("alerted_us", "<i8"),
        ("pending", "<i8"),  # suppressed since the last alert
        ("first_us", "<i8"),  # of the pending ones
        ("last_us", "<i8"),
        ("peak", "<f4"),  # highest verdict of the hour so far
        ("alerted", "u1"),
        ("reserved", "u1", (3,)),
    ]
)
"""What is kept for one slot of the conversation table, 80 bytes."""

RAISED = np.dtype([("row", "<i8"), ("count", "<i8"), ("first_us", "<i8"), ("last_us", "<i8"), ("rate", "<f8")])
"""One alert as the kernel found it: its row in the batch, what it stands for, and the rate of conversation-hours then."""

HEAD, FIRST, DAY, HOURS, SUPPRESSED, LOST, BEGUN = range(7)
"""Places in the detector's array of counts: latest hour, and first one of the ring; conversation-hours of the last day, and
of all time; flows that were suppressed; those of them that no alert can tell of any more; 1 after the first flow."""


class Flows(NamedTuple):
    """The columns of a batch that the kernel reads, contiguous."""

    src_hi: NDArray[np.uint64]
    src_lo: NDArray[np.uint64]
    dst_hi: NDArray[np.uint64]
    dst_lo: NDArray[np.uint64]
    first_us: NDArray[np.int64]
    last_us: NDArray[np.int64]


@njit
def _count_hour(ring: NDArray[np.int64], counts: NDArray[np.int64], hour: int) -> None:
    """Count one conversation-hour in the ring of the last 24 hours, which follows the latest hour seen.

    A flow that ends a little late counts in the latest hour. A clock that jumps back by a day or more starts the ring
    anew, or one packet with a broken time would keep the ring in the future, where no count ever leaves it.
    """
    head = counts[HEAD]
    if counts[BEGUN] == 0 or hour - head >= RATE_HOURS or head - hour >= RATE_HOURS:
        ring[:] = 0
        counts[DAY] = 0
        counts[BEGUN] = 1
        counts[HEAD] = counts[FIRST] = head = hour
    while head < hour:
        head += 1
        counts[DAY] -= ring[head % RATE_HOURS]
        ring[head % RATE_HOURS] = 0
    counts[HEAD] = head
    ring[head % RATE_HOURS] += 1
    counts[DAY] += 1
    counts[HOURS] += 1


@njit
def _rate(counts: NDArray[np.int64], prior: float) -> float:
    """Conversation-hours a day: those of the last 24 hours of packet time, or of the hours there are as if all were so."""
    hours = min(counts[HEAD] - counts[FIRST] + 1, RATE_HOURS)
    return max(prior, float(counts[DAY] * RATE_HOURS) / float(hours))


@njit
def _watch(
    slots: NDArray[np.int32],
    restart: NDArray[np.bool_],
    hour: NDArray[np.int64],
    verdict: NDArray[np.float32],
    p_value: NDArray[np.float64],
    flows: Flows,
    watches: NDArray[np.void],
    ring: NDArray[np.int64],
    counts: NDArray[np.int64],
    budget_per_day: float,
    prior: float,
    max_p: float,
    quiet_us: int,
    raised: NDArray[np.void],
) -> int:
    """Walk a batch in row order, keep watches and counts, and write the rows that alert into `raised`; return their number."""
    found = 0
    for i in range(len(slots)):
        watch = watches[slots[i]]
        if restart[i]:
            a, b, c, d = flows.src_hi[i], flows.src_lo[i], flows.dst_hi[i], flows.dst_lo[i]
            held = watch["a_hi"] == a and watch["a_lo"] == b and watch["b_hi"] == c and watch["b_lo"] == d
            turned = watch["a_hi"] == c and watch["a_lo"] == d and watch["b_hi"] == a and watch["b_lo"] == b
            if not (held or turned):  # another pair has the slot now
                counts[LOST] += watch["pending"]
                watch["pending"] = 0
                watch["alerted"] = 0
                watch["a_hi"], watch["a_lo"], watch["b_hi"], watch["b_lo"] = a, b, c, d
        if restart[i] or watch["hour"] != hour[i]:
            watch["hour"] = hour[i]
            watch["peak"] = -np.inf
            _count_hour(ring, counts, hour[i])
        lifted = verdict[i] > watch["peak"] + np.float32(LIFT)
        if lifted:
            watch["peak"] = verdict[i]
        rate = _rate(counts, prior)
        if not p_value[i] <= min(max_p, budget_per_day / rate):
            continue
        if watch["pending"] == 0:
            watch["first_us"] = flows.first_us[i]
            watch["last_us"] = flows.last_us[i]
        watch["pending"] += 1
        watch["first_us"] = min(watch["first_us"], flows.first_us[i])
        watch["last_us"] = max(watch["last_us"], flows.last_us[i])
        # either way round: a clock that was set back does not silence a conversation for as long as it jumped
        quiet = watch["alerted"] != 0 and abs(flows.last_us[i] - watch["alerted_us"]) < quiet_us
        if quiet or not lifted:
            counts[SUPPRESSED] += 1
            continue
        alert = raised[found]
        found += 1
        alert["row"], alert["rate"] = i, rate
        alert["count"], alert["first_us"], alert["last_us"] = watch["pending"], watch["first_us"], watch["last_us"]
        watch["pending"] = 0
        watch["alerted"] = 1
        watch["alerted_us"] = flows.last_us[i]
    return found


class WatchSettings(TypedDict):
    """What a Watch is told, and so every detector: see there."""

    capacity: int
    expected_conversation_hours_per_day: float
    budget_per_day: NotRequired[float]
    quiet_s: NotRequired[float]
    max_p: float
    least_p: float


class Watch:
    """Watches `capacity` slots, with memory laid out at start: one WATCH row for each.

    `budget_per_day` is the number of false alarms a day that are accepted; `quiet_s` the seconds of packet time in which
    a conversation alerts once; `expected_conversation_hours_per_day` the model's prior for the rate; `max_p` a p-value
    above which nothing alerts, however large the budget; `least_p` the smallest one that an alert may claim.
    Raises ValueError when one of them cannot be meant.
    """

    def __init__(
        self,
        *,
        capacity: int,
        expected_conversation_hours_per_day: float,
        budget_per_day: float = 20.0,
        quiet_s: float = 3600.0,
        max_p: float,
        least_p: float,
    ) -> None:
        if not budget_per_day > 0 or not expected_conversation_hours_per_day > 0:
            raise ValueError("the alert budget and the expected conversation-hours a day must be over 0")
        if not 0 < max_p <= 1 or not 0 < least_p <= 1 or not quiet_s >= 0 or capacity < 1:
            raise ValueError("max_p and least_p must lie in (0, 1], quiet_s must not be negative, and there must be a slot")
        self.budget_per_day = float(budget_per_day)
        self.prior = float(expected_conversation_hours_per_day)
        self.max_p = float(max_p)
        self.least_p = float(least_p)
        self.alerts = 0
        self.rows: list[int] = []
        """Rows of the batch decided last that alerted, in order."""
        self._quiet_us = round(quiet_s * 1e6)
        self._watches = np.zeros(capacity, WATCH)
        self._watches["hour"] = np.iinfo(np.int64).min
        self._ring = np.zeros(RATE_HOURS, np.int64)
        self._counts = np.zeros(BEGUN + 1, np.int64)

    @property
    def ceiling(self) -> float:
        """The highest p-value that can ever alert: what the scorer must explain. The threshold never rises above it."""
        return min(self.max_p, self.budget_per_day / self.prior)

    def rate(self) -> float:
        """Conversation-hours a day: those seen, or the model's prior if that is more."""
        return float(_rate(self._counts, self.prior))

    def threshold(self) -> float:
        """The p-value under which a verdict alerts at this moment."""
        return min(self.max_p, self.budget_per_day / self.rate())

    @property
    def conversation_hours(self) -> int:
        """Verdicts begun so far: one for each conversation and hour in which it had a flow."""
        return int(self._counts[HOURS])

    @property
    def untold(self) -> int:
        """Flows suppressed that no alert has told of yet; those of a conversation that lost its slot stay so."""
        return int(self._counts[LOST] + self._watches["pending"].sum())

    @property
    def suppressed(self) -> int:
        """Flows suppressed that a later alert of their conversation told of."""
        return int(self._counts[SUPPRESSED]) - self.untold

    def raised(
        self,
        flows: NDArray[np.void],
        slots: NDArray[np.int32],
        restart: NDArray[np.bool_],
        hour: NDArray[np.int64],
        verdict: NDArray[np.float32],
        p_value: NDArray[np.float64],
    ) -> NDArray[np.void]:
        """(A,) RAISED rows of a batch of (B,) FLOW rows with slots, restarts, hours, verdicts and p-values, in row order."""
        raised = np.zeros(len(flows), RAISED)
        columns = Flows(
            *(np.ascontiguousarray(flows[name]) for name in Flows._fields[:4]),
            *(np.clip(flows[name], -FAR_US, FAR_US) for name in Flows._fields[4:]),
        )
        found = _watch(
            np.ascontiguousarray(slots, np.int32),
            np.ascontiguousarray(restart, np.bool_),
            np.ascontiguousarray(hour, np.int64),
            np.ascontiguousarray(verdict, np.float32),
            np.ascontiguousarray(p_value, np.float64),
            columns,
            self._watches,
            self._ring,
            self._counts,
            self.budget_per_day,
            self.prior,
            self.max_p,
            self._quiet_us,
            raised,
        )
        self.alerts += found
        self.rows = raised["row"][:found].tolist()
        return raised[:found]

    def state(self) -> dict[str, NDArray[np.generic]]:
        """All that must be kept to go on later but the number of alerts, to be copied before the next decision.

        "watches" (capacity, WATCH's bytes) uint8, "ring" (24,) and "counts" (7,) int64. What was set is not among it.
        """
        watches = self._watches.view(np.uint8).reshape(len(self._watches), WATCH.itemsize)
        return {"watches": watches, "ring": self._ring, "counts": self._counts}

    def restore(
        self, state: Mapping[str, NDArray[np.generic]], slots: NDArray[np.int64], *, same_verdicts: bool = True
    ) -> None:
        """Go on from a `state()`, cut to the slots in use: its (k,) `slots`, which `Conversations.kept` names, come first now.

        Without `same_verdicts` another model judges from now on: quiet times stay, every hour's height is reached anew.
        """
        rows = np.ascontiguousarray(state["watches"]).view(WATCH)[:, 0]
        kept = rows[slots]
        if not same_verdicts:
            kept["peak"] = -np.inf
        self._watches[: len(slots)] = kept
        self._ring[:] = state["ring"]
        self._counts[:] = state["counts"]
        self._counts[LOST] += rows["pending"].sum() - kept["pending"].sum()

    def counters(self) -> dict[str, int]:
        """Give the counts by the names of `metrics`: raised, suppressed and untold add up to the flows over the threshold."""
        return {"alerts_raised": self.alerts, "alerts_suppressed": self.suppressed, "alerts_untold": self.untold}
