"""From a block of frames to batches of flows: the first half of the engine, and all of it that `netseq-flows` needs.

Frames are decoded, folded into flows, and gathered into batches of one size, because what comes after is fast only on
batches. They are cut by number and not by time, so that nothing depends on the size of the blocks that are fed. No model is
known here: a command that only writes flows starts without torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from sensor.config import Settings
from sensor.decode import SKIPS, Decoder
from sensor.flows import FlowTable, copy_rows
from sensor.schema import END_FULL, ENDS, FLOW, FlowBatch, FrameBlock

LATER = {
    "decode": ("tunnels", "fragments", "payload"),
    "flows": ("table", "close"),
    "statistics": ("rules",),
    "model": ("batch_flows",),
}
"""Sections and keys that an Assembly is made with for good."""


class Assembly:
    """From frames, or the flows of a log, to batches of `model.batch_flows` ended flows, in the order in which they ended.

    `expiry=False` lets flows end by their packets alone, as CICFlowMeter does (see FlowTable).
    """

    def __init__(self, settings: Settings, *, expiry: bool = True) -> None:
        self._settings = settings = settings.applied()
        flows = settings.flows
        self.decoder = Decoder(
            tunnels=settings.decode.tunnels, fragments=settings.decode.fragments, payload=settings.decode.payload
        )
        self.table = FlowTable(
            flows=flows.table,
            idle_s=flows.idle_s,
            closed_s=flows.closed_s,
            attempt_s=flows.attempt_s,
            active_s=flows.active_s,
            expiry=expiry,
            first_fin=flows.close == "first-fin",
            self_forward=settings.statistics.rules == "cicflowmeter",
        )
        self._batch_flows = settings.model.batch_flows
        self._rows = np.empty(0, FLOW)
        self._uids: list[str | None] = []
        self._waiting = 0
        self._frames = 0
        self._from_logs = 0

    def feed(self, block: FrameBlock | FlowBatch) -> Iterator[FlowBatch]:
        """Take raw frames, or finished flows; yields the batches that became whole. Run it to its end."""
        if isinstance(block, FlowBatch):
            self._from_logs += len(block.flows)
            return self._gather(block.flows, block.uids)
        self._frames += len(block.frames)
        return self._gather(self.table.feed(self.decoder.decode(block)))

    def expire(self, now_us: int) -> Iterator[FlowBatch]:
        """End what is due at `now_us`; yields all batches, the last one of what was waiting."""
        yield from self._gather(self.table.expire(now_us))
        yield from self._rest()

    def drain(self) -> Iterator[FlowBatch]:
        """End all flows, because the input ended; yields all batches."""
        while len(flows := self.table.drain()):
            yield from self._gather(flows)
        yield from self._rest()

    def adjust(self, settings: Settings) -> list[str]:
        """Take over what can change while flows live, their time-outs; returns the other settings here that have changed.

        Called between two blocks, by the thread that feeds. What is returned is memory that was laid out, or rules that a
        flow must keep from its first packet to its last: it takes effect at the next start.
        """
        settings, old = settings.applied(), self._settings
        flows = settings.flows
        self.table.limit(idle_s=flows.idle_s, closed_s=flows.closed_s, attempt_s=flows.attempt_s, active_s=flows.active_s)
        later = []
        for section, keys in LATER.items():
            before, after = getattr(old, section), getattr(settings, section)
            later += [f"{section}.{key}" for key in keys if getattr(before, key) != getattr(after, key)]
        return later

    def counters(self) -> dict[str, int]:
        """What was counted so far, by the names of `sensor.metrics`."""
        ended = {f"flows_ended.{name}": int(n) for name, n in zip(ENDS, self.table.ended, strict=True) if n}
        if self._from_logs:
            ended["flows_ended.log"] = self._from_logs
        return {
            "packets_read": self._frames,
            "packets_in_flows": self.table.packets,
            **{f"packets_skipped.{name}": int(n) for name, n in zip(SKIPS, self.decoder.skipped, strict=True) if n},
            **{f"link_types_unknown.{number}": n for number, n in self.decoder.link_types_unknown.items()},
            **ended,
            "flows_live": self.table.live,
            "flows_evicted": int(self.table.ended[END_FULL]),
            "clock_steps_back": self.table.steps_back,
        }

    def _gather(self, flows: NDArray[np.void], uids: Sequence[str | None] | None = None) -> Iterator[FlowBatch]:
        """Copy flows behind those that wait, and yield what becomes a whole batch."""
        taken = 0
        while taken < len(flows):
            if not self._waiting:
                self._rows = np.empty(self._batch_flows, FLOW)
            end = min(len(flows), taken + self._batch_flows - self._waiting)
            copy_rows(flows[taken:end], self._rows[self._waiting : self._waiting + end - taken])
            self._uids += uids[taken:end] if uids else [None] * (end - taken)
            self._waiting += end - taken
            taken = end
            if self._waiting == self._batch_flows:
                yield from self._rest()

    def _rest(self) -> Iterator[FlowBatch]:
        """Yield what waits, whole batch or not."""
        if self._waiting:
            batch = FlowBatch(self._rows[: self._waiting], self._uids)
            self._uids, self._waiting = [], 0
            yield batch


class Passage(Assembly):
    """The same, but flows that come finished go through as they are, with what else their source tells of them."""

    def feed(self, block: FrameBlock | FlowBatch) -> Iterator[FlowBatch]:
        """Take raw frames, or finished flows; yields the batches that became whole. Run it to its end."""
        if isinstance(block, FlowBatch):
            self._from_logs += len(block.flows)
            return iter((block,))
        return super().feed(block)
