"""Fixed rules: what alerts whatever a model says, also while a sensor still learns its site.

An *attempt that came to nothing* is a TCP connection that was not answered or was refused (Zeek's S0, REJ, RSTOS0), UDP that
got no answer, or an ICMP echo request without a reply; groups of hosts (multicast, broadcast) answer to nobody and are not
counted. Of those that ended within a minute of packet time,

- more than `rules.flood_attempts` to one host by one of the three protocols are a **flood**, from however many sources;
- more than `rules.sweep_targets` hosts tried by one source on one port by TCP, or by ICMP echo, are a **sweep**, and so are
  more ports than that of one host, by TCP or UDP. Not hosts by UDP: name servers and programs that share files ask many that
  never answer. Nor ports over 1023 by UDP from one below: those are late answers of a service.

A minute begins with the first attempt that is in none before it. Then a victim, or the source of a sweep, is quiet for
`detect.quiet_s`; what is over the rule meanwhile is counted and told with the next alert. A verdict of a model is
compared with what is usual; a rule is not, so it spends nothing of the budget, and what it claims of false alarms is what was
measured on benign traffic (docs/alerts.md). `engine.Judge` calls it with each batch.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sensor import message
from sensor.addresses import text
from sensor.conversations import HOUR_US
from sensor.detect_alert import build, digits
from sensor.detect_rules_kernel import FLOOD, HOSTS, RAISED, walk
from sensor.detect_rules_table import FEW, LIVE, MINUTE_US, OVER, ROW, SHED, Table, reenter
from sensor.detect_watch import RAISED as TOLD
from sensor.schema import Alert, RuleReason

MODEL = "netseq-rules 1"
"""What alerts name in the place of a model; the number rises with what a rule means."""
SIGNATURES = {"flood": "NetSeq::Flood", "sweep": "NetSeq::Sweep"}
CATEGORIES = {"flood": "denial of service", "sweep": "reconnaissance"}

BENIGN_MINUTES = 6_173
"""Minutes of benign traffic, with a flow in each, in which no rule alerted (docs/alerts.md has the list)."""
MOST_P = 3 / BENIGN_MINUTES
"""The share of minutes with a false alarm that would have shown at least one in that time with a probability of 95 %."""
MINUTES_A_DAY = 1440

VICTIMS, SOURCES = 1 << 14, 1 << 16
"""Rows of the two tables: 19 MB with their indexes."""
SEATS = 1 << 13
"""Sources whose targets are kept one by one, so many or as SETS_BYTES allows; of victims, an eighth of it."""
SETS_BYTES = 1 << 24
LEAST_SEATS = 16
ALERTS_AN_HOUR = 200
"""Alerts of rules in an hour of packet time: more are not read, and whoever forges sources could fill a disk with them."""
FLOOD_SLOTS = 1024
"""Of a victim's set: the number of its sources is told exactly up to 511, and beyond to some 5 %."""


class Rules:
    """Both rules over batches of flows, with memory laid out at start, 30 MB at most of settings that can be meant.

    `flood_attempts` and `sweep_targets` are what a minute may have at most; `quiet_s` the seconds of packet time in which a
    victim or a sweeping source alerts once, and never under a minute. Raises ValueError when one cannot be meant.
    """

    def __init__(
        self,
        *,
        flood_attempts: int,
        sweep_targets: int,
        quiet_s: float = 3600.0,
        victims: int = VICTIMS,
        sources: int = SOURCES,
    ) -> None:
        if flood_attempts < 1 or not 1 <= sweep_targets <= 65_535 or not quiet_s >= 0:
            raise ValueError("flood_attempts and sweep_targets (of 65,535 ports) must be 1 or more, quiet_s not negative")
        if min(victims, sources) < 4 * LEAST_SEATS:
            raise ValueError(f"a table of the rules must have {4 * LEAST_SEATS} rows or more")
        self.rows: list[int] = []
        """Rows of the batch judged last that alerted, in order, one for each alert."""
        self.alerts = {"flood": 0, "sweep": 0}
        self.capped = 0
        self._hour, self._in_hour = 0, 0
        self._most = {"flood": flood_attempts, "sweep": sweep_targets}
        self._quiet_us = max(round(quiet_s * 1e6), MINUTE_US)
        self._victims = _table(victims, FLOOD_SLOTS)
        # Twice the targets that alert, so that these are counted exactly.
        self._sources = _table(sources, 1 << (2 * max(sweep_targets, FEW) + 3).bit_length())
        # Secret, so that nobody can send hosts that all fall into one run, or pass for one.
        self._seeds = np.array([secrets.randbits(64), secrets.randbits(64)], np.uint64)
        self._raised = np.zeros(0, RAISED)

    def judge(self, flows: NDArray[np.void], uids: Sequence[str | None] | None = None) -> list[Alert]:
        """Count a batch of (B,) FLOW rows; gives its alerts in row order."""
        flows = np.ascontiguousarray(flows).view()
        flows.flags.writeable = False  # one compiled signature for every source
        if len(self._raised) < 3 * len(flows):
            self._raised = np.zeros(3 * len(flows), RAISED)
        with np.errstate(over="ignore"):  # the hash wraps by design; numpy would say so where numba is off
            found = walk(
                flows,
                self._victims,
                self._sources,
                self._seeds,
                self._most["flood"],
                self._most["sweep"],
                self._quiet_us,
                self._raised,
            )
        told = [one for one in self._raised[:found] if self._may_alert(int(flows[one["row"]]["last_us"]) // HOUR_US)]
        self.rows = [int(one["row"]) for one in told]
        return [self._alert(one, flows[one["row"]], uids) for one in told]

    def _may_alert(self, hour: int) -> bool:
        """Count an alert in its hour of packet time; False where there were too many."""
        if hour != self._hour:
            self._hour, self._in_hour = hour, 0
        self._in_hour += 1
        self.capped += self._in_hour > ALERTS_AN_HOUR
        return self._in_hour <= ALERTS_AN_HOUR

    def _alert(self, told: np.void, flow: np.void, uids: Sequence[str | None] | None) -> Alert:
        """Build one alert, of the flow that went over the rule."""
        row = int(told["row"])
        rule = "flood" if told["rule"] == FLOOD else "sweep"
        self.alerts[rule] += 1
        seen = int(told["seen"])
        part = "attempts" if told["rule"] == FLOOD else "hosts" if told["rule"] == HOSTS else "ports"
        reason = RuleReason(
            part=part,
            seen=seen,
            most=self._most[rule],
            sources=min(seen, _about(int(told["others"]))) if rule == "flood" else 1,
            within_s=digits(float(told["within_us"]) / 1e6),
        )
        stands_for = np.zeros(1, TOLD)[0]
        stands_for["count"], stands_for["first_us"] = told["count"], told["first_us"]
        stands_for["last_us"] = flow["last_us"]
        stands_for["rate"] = MINUTES_A_DAY
        msg = message.break_of_rule(
            text(int(flow["src_hi"]), int(flow["src_lo"])),
            text(int(flow["dst_hi"]), int(flow["dst_lo"])),
            flow,
            reason,
            days=BENIGN_MINUTES / MINUTES_A_DAY,
            per_day=MOST_P * MINUTES_A_DAY,
            count=int(told["count"]),
            span_us=int(flow["last_us"]) - int(told["first_us"]),
        )
        return build(
            stands_for,
            flow,
            signature=SIGNATURES[rule],
            category=CATEGORIES[rule],
            model=MODEL,
            uid=(uids[row] or None) if uids is not None else None,
            score=seen,
            measure=part,
            verdict=0.0,
            p_value=MOST_P,
            least_p=MOST_P,
            reasons=(reason,),
            msg=msg,
        )

    def counters(self) -> dict[str, int]:
        """What was counted, by the names of `metrics`; nothing of what never happened."""
        shed = int(self._victims.counts[SHED] + self._sources.counts[SHED])
        over = {"flood": self._victims.counts[OVER], "sweep": self._sources.counts[OVER]}
        return {
            **{f"alerts_by_rule.{rule}": number for rule, number in self.alerts.items() if number},
            **{f"flows_over_rule.{rule}": int(number) for rule, number in over.items() if number},
            **({"rules_shed": shed} if shed else {}),
            **({"rule_alerts_capped": self.capped} if self.capped else {}),
        }

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Copies of what must be kept to go on later: quiet times and what is pending, and the counts. A minute begins anew.

        "victims" and "sources" (k, ROW's bytes) uint8: rows that have alerted; "seeds" (2,) uint64; "counts" (6,) int64. Of any
        size and thresholds: another Rules may have others.
        """
        named = {"victims": self._victims, "sources": self._sources}
        rows = {name: table.rows[: table.counts[LIVE]] for name, table in named.items()}
        alerted = {name: found[(found["alerted"] != 0) | (found["pending"] != 0)] for name, found in rows.items()}
        counts = [number for table in named.values() for number in (table.counts[SHED], table.counts[OVER])]
        return {
            **{name: found.view(np.uint8).reshape(len(found), ROW.itemsize).copy() for name, found in alerted.items()},
            "seeds": self._seeds.copy(),
            "counts": np.array([*counts, *self.alerts.values()], np.int64),
        }

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Go on from a `state()`; all that was counted here before is forgotten. Of too many rows, the last ones stay."""
        self._seeds[:] = state["seeds"]
        counts = [int(number) for number in state["counts"]]
        for place, (name, table) in enumerate((("victims", self._victims), ("sources", self._sources))):
            _empty(table)
            found = np.ascontiguousarray(state[name]).view(ROW)[:, 0]
            with np.errstate(over="ignore"):
                reenter(table, found[-(len(table.sets)) :])
            table.counts[SHED], table.counts[OVER] = counts[2 * place : 2 * place + 2]
        self.alerts = {"flood": counts[4], "sweep": counts[5]}


def _about(number: int) -> int:
    """Cut a number that is an estimate to two digits."""
    return number if 2 * number < FLOOD_SLOTS else int(float(f"{number:.1e}"))


def _table(rows: int, slots: int) -> Table:
    """Lay out a table; its index is at most half full, so that runs stay short."""
    seats = max(LEAST_SEATS, min(SEATS * rows // SOURCES, SETS_BYTES // (4 * slots)))
    table = Table(
        rows=np.zeros(rows, ROW),
        places=np.zeros(1 << (2 * rows - 1).bit_length(), np.int64),
        counts=np.zeros(OVER + 1, np.int64),
        sets=np.zeros((seats, slots), np.uint32),
        spare=np.zeros(slots, np.uint32),
    )
    _empty(table)
    return table


def _empty(table: Table) -> None:
    """Take all rows out of a table."""
    table.places[:] = -1
    table.counts[:] = 0
    table.counts[:LIVE] = -1
