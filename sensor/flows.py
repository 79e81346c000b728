"""The flow table: PACKET rows in, ended FLOW rows out, in the order in which flows end.

This file owns the memory and the settings; `flow_kernel` holds the loops. The table has a hard limit: when it is full the
idlest flow is ended to make room. Every way a flow can end has a counter in `ended`. `engine` feeds it, asks it to expire
what is due when no packets come, and drains it at the end. Time is the packets' time throughout.
"""

from __future__ import annotations

import secrets
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensor import flow_kernel as kernel
from sensor.flow_index import LINE_BYTES
from sensor.schema import ENDS, FLOW, RULE_FIRST_FIN, RULE_SELF_FORWARD

SEGMENTS = 1 << 20  # remembered TCP segments (4 MiB): four for each flow of the default table
OUT_ROWS = 4096  # ended flows handed over at a time, of 640 bytes each: 2.6 MB
STEP_BACK_S = 60.0  # disorder inside a capture is milliseconds; a clock that is set back moves by more


def _aligned(n: int, kind: np.dtype[Any]) -> NDArray[Any]:  # Any: the type is the caller's to say
    """(n,) zeros that begin at a cache line."""
    memory = np.zeros(n * kind.itemsize + int(LINE_BYTES), np.uint8)
    skip = -memory.ctypes.data % int(LINE_BYTES)
    return memory[skip : skip + n * kind.itemsize].view(kind)


def copy_rows(rows: NDArray[np.void], into: NDArray[np.void]) -> None:
    """Copy (n,) FLOW rows over as many others, all in one piece, as bytes: by fields, as numpy does it, is 15 times slower."""
    into.view(np.uint8)[:] = rows.view(np.uint8)


def copied(rows: NDArray[np.void]) -> NDArray[np.void]:
    """A copy of (n,) FLOW rows in one piece, made as `copy_rows` does."""
    own = np.empty(len(rows), FLOW)
    copy_rows(rows, own)
    return own


def _limits_us(idle_s: float, closed_s: float, attempt_s: float, active_s: float) -> list[int]:
    """Time-outs in the order of the kernel's table of limits, which is that of its queues."""
    return [round(s * 1e6) for s in (idle_s, closed_s, attempt_s, active_s)]


class FlowTable:
    """Bidirectional flows by the rules of the repaired CICFlowMeter, with the time-outs that a sensor needs.

    `idle_s` ends a silent flow, `closed_s` one whose connection was closed, `attempt_s` an unanswered SYN; `active_s` cuts
    a long flow into rows. `expiry=False` turns the first three off, as CICFlowMeter has none of them. `first_fin` ends a TCP
    flow at its first FIN and at no RST, as the CICFlowMeter did that CICIDS2017 was made with. `self_forward` counts all
    packets of a host to itself as forward, as every CICFlowMeter does. `seed` is for tests.
    """

    def __init__(
        self,
        *,
        flows: int = 262_144,
        idle_s: float = 120.0,
        closed_s: float = 5.0,
        attempt_s: float = 5.0,
        active_s: float = 120.0,
        expiry: bool = True,
        first_fin: bool = False,
        self_forward: bool = False,
        seed: int | None = None,
    ) -> None:
        self.ended: NDArray[np.int64] = np.zeros(len(ENDS), np.int64)
        limits = _limits_us(idle_s, closed_s, attempt_s, active_s)
        places = 1 << (2 * flows - 1).bit_length()
        before = np.zeros(flows + 3, np.int32)
        before[flows:] = np.arange(flows, flows + 3)
        state = np.zeros(kernel.STATES, np.int64)
        state[kernel.SEED] = secrets.randbits(62) if seed is None else seed
        state[kernel.DUE_US] = kernel.NEVER
        state[kernel.CLOCK_US] = np.iinfo(np.int64).min // 2
        blank = np.zeros(1, FLOW)
        blank["rules"] = RULE_FIRST_FIN * first_fin | RULE_SELF_FORWARD * self_forward
        self._table = kernel.Table(
            rows=_aligned(flows, FLOW),
            places=np.full(places, -1, np.int64),
            before=before,
            after=before.copy(),
            free=np.arange(flows - 1, -1, -1, dtype=np.int32),
            seen=_aligned(SEGMENTS, np.dtype(np.uint32)),
            state=state,
            limits=np.array([*limits, int(expiry), round(STEP_BACK_S * 1e6)], np.int64),
            ended=self.ended,
            tags=np.zeros(kernel.BLOCK, np.int64),
            segments=np.zeros(kernel.BLOCK, np.uint64),
            blank=blank,
        )
        self._out = np.zeros(OUT_ROWS, FLOW)

    def limit(self, *, idle_s: float, closed_s: float, attempt_s: float, active_s: float) -> None:
        """Change the time-outs, for flows that live already, too. What is due by a shorter one ends with the next packet."""
        limits = _limits_us(idle_s, closed_s, attempt_s, active_s)
        if self._table.limits[: len(limits)].tolist() != limits:
            self._table.limits[: len(limits)] = limits
            self._table.state[kernel.DUE_US] = -kernel.NEVER  # unknown: look at the queues' heads at once

    @property
    def live(self) -> int:
        """Flows in the table."""
        return int(self._table.state[kernel.LIVE])

    @property
    def packets(self) -> int:
        """Packets folded into flows so far."""
        return int(self._table.state[kernel.PACKETS])

    @property
    def clock_us(self) -> int:
        """The latest packet's time."""
        return int(self._table.state[kernel.CLOCK_US])

    @property
    def steps_back(self) -> int:
        """How often the packets' clock was set back by more than a minute."""
        return int(self._table.state[kernel.STEPS_BACK])

    def feed(self, packets: NDArray[np.void]) -> NDArray[np.void]:
        """Fold (n,) PACKET rows into the table; returns the FLOW rows that ended meanwhile, valid until the next call."""
        parts: list[NDArray[np.void]] = []
        for first in range(0, len(packets), kernel.BLOCK):
            block = packets[first : first + kernel.BLOCK]
            done = np.int64(0)
            while done < len(block):
                if parts:
                    parts[-1] = copied(parts[-1])
                done, n = kernel.feed(self._table, block, done, self._out)
                parts.append(self._out[:n])
        return parts[0] if len(parts) == 1 else np.concatenate(parts or [self._out[:0]])

    def expire(self, now_us: int) -> NDArray[np.void]:
        """End what is due at `now_us` although no packet came; returns the FLOW rows."""
        parts = []
        while True:
            n = kernel.expire(self._table, np.int64(now_us), self._out)
            parts.append(copied(self._out[:n]))
            if n < len(self._out):
                return np.concatenate(parts)

    def drain(self) -> NDArray[np.void]:
        """End all live flows, the idlest first; returns at most a block of FLOW rows: call until none comes."""
        n = kernel.drain(self._table, self._out)
        return copied(self._out[:n])
