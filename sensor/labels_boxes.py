"""Which flows lie in the boxes of a label file's lines: six ranges each, of time, hosts, ports and protocol.

Flows are sorted in each dimension that some line bounds; a line then looks only at the flows of its narrowest one. So ten
thousand lines against a million flows cost what they match, and not the product. Called by `labels`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sensor.addresses import WITH_PORTS
from sensor.schema import LACKS_DST, LACKS_DST_PORT, LACKS_PROTOCOL, LACKS_SRC, LACKS_SRC_PORT, LACKS_TIME

if TYPE_CHECKING:
    from sensor.labels import Line

NOWHERE = -(1 << 63)
"""Below every range of every dimension: where a flow lies of which its source does not tell."""
NEVER_US, EVER_US = NOWHERE + 1, (1 << 63) - 1

Range = tuple[int, int]
ANY_ADDRESS: Range = (0, (1 << 128) - 1)
ANY_PORT: Range = (0, 65_535)
ANY_PROTOCOL: Range = (0, 255)
ASKED = {
    LACKS_TIME: "time",
    LACKS_SRC: "src",
    LACKS_DST: "dst",
    LACKS_SRC_PORT: "src_port",
    LACKS_DST_PORT: "dst_port",
    LACKS_PROTOCOL: "protocol",
}
"""What a line may ask for, by what a flow then must not lack; in the order of a Line's ranges."""


class Boxes:
    """The lines as boxes: one for each line, and one more, with the ends exchanged, for a line that goes both ways."""

    def __init__(self, lines: Sequence[Line]) -> None:
        boxes = []
        for place, line in enumerate(lines):
            ends = (line.src, line.dst, line.src_port, line.dst_port)
            turned = (line.dst, line.src, line.dst_port, line.src_port)
            boxes.append((place, line.begins_us, *ends, line.protocol))
            if line.both and turned != ends:
                boxes.append((place, line.begins_us, *turned, line.protocol))
        self._lines, self._begins, *hosts, self._src_port, self._dst_port, self._protocol = zip(*boxes, strict=True)
        self._hosts = [[_keys([box[end] for box in boxes]) for end in (0, 1)] for boxes in hosts]
        self._any_host = [np.array([box == ANY_ADDRESS for box in boxes]) for boxes in hosts]

    def hits(self, flows: NDArray[np.void], lacks: NDArray[np.uint8] | None) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Places of lines, in order, each with the flows that it matches; a line that goes both ways may come twice."""
        axes = list(self._axes(flows, lacks))
        widths = np.full(len(self._lines), len(flows), np.int64)
        narrowest = np.full(len(self._lines), -1, np.int64)
        for number, axis in enumerate(axes):
            narrower = axis.bounded & (axis.until - axis.since < widths)
            widths[narrower] = (axis.until - axis.since)[narrower]
            narrowest[narrower] = number
        everything = np.arange(len(flows), dtype=np.int64)
        for box in np.flatnonzero(widths > 0).tolist():
            first = int(narrowest[box])
            rows = everything if first < 0 else axes[first].order[axes[first].since[box] : axes[first].until[box]]
            for number, axis in enumerate(axes):
                if number != first and axis.bounded[box]:
                    values = axis.values[rows]
                    rows = rows[(values >= axis.low[box]) & (values <= axis.high[box])]
            if len(rows):
                yield self._lines[box], rows

    def _axes(self, flows: NDArray[np.void], lacks: NDArray[np.uint8] | None) -> Iterator[_Axis]:
        """The dimensions that some line bounds; what `lacks` says is not known lies outside of every range."""

        def told(values: NDArray[np.int64], bit: int) -> NDArray[np.int64]:
            return values if lacks is None else np.where(lacks & bit, NOWHERE, values.astype(np.int64))

        yield from _axis(told(flows["first_us"], LACKS_TIME), self._begins, (NEVER_US, EVER_US))
        bits = (LACKS_SRC, LACKS_DST)
        for name, keys, free, bit in zip(("src", "dst"), self._hosts, self._any_host, bits, strict=True):
            if not free.all():
                hosts, ranks = np.unique(_joined(flows[f"{name}_hi"], flows[f"{name}_lo"]), return_inverse=True)
                low, high = np.searchsorted(hosts, keys[0]), np.searchsorted(hosts, keys[1], side="right") - 1
                yield _Axis(told(ranks.astype(np.int64), bit), low, high, ~free)
        portless = ~np.isin(flows["protocol"], list(WITH_PORTS)) & (flows["src_port"] == 0) & (flows["dst_port"] == 0)
        ports = (("src_port", self._src_port, LACKS_SRC_PORT), ("dst_port", self._dst_port, LACKS_DST_PORT))
        for name, ranges, bit in ports:
            yield from _axis(told(np.where(portless, -1, flows[name].astype(np.int64)), bit), ranges, ANY_PORT)
        yield from _axis(told(flows["protocol"], LACKS_PROTOCOL), self._protocol, ANY_PROTOCOL)


class _Axis:
    """One dimension: the flows' values in it, their order, and of each box the least and the greatest value."""

    def __init__(
        self, values: NDArray[np.int64], low: NDArray[np.int64], high: NDArray[np.int64], bounded: NDArray[np.bool_]
    ) -> None:
        self.values, self.low, self.high, self.bounded = values, low, high, bounded
        self.order = np.argsort(values, kind="stable")
        ordered = values[self.order]
        self.since = np.searchsorted(ordered, low)
        self.until = np.maximum(np.searchsorted(ordered, high, side="right"), self.since)


def _axis(values: NDArray[np.generic], ranges: Sequence[Range], free: Range) -> Iterator[_Axis]:
    """The dimension of a field, unless every range is the free one."""
    if any(one != free for one in ranges):
        low, high = np.array(ranges, np.int64).T
        yield _Axis(np.ascontiguousarray(values, np.int64), low, high, np.array([one != free for one in ranges]))


def _joined(hi: NDArray[np.uint64], lo: NDArray[np.uint64]) -> NDArray[np.bytes_]:
    """Addresses as 16 bytes, first byte first: texts that sort as the numbers do."""
    joined = np.empty((len(hi), 2), ">u8")
    joined[:, 0], joined[:, 1] = hi, lo
    return joined.view("S16")[:, 0]


def _keys(addresses: Sequence[int]) -> NDArray[np.bytes_]:
    """The same for 128-bit numbers."""
    return np.frombuffer(b"".join(address.to_bytes(16) for address in addresses), "S16")
