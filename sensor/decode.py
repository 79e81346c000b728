"""From frame bytes to PACKET rows: the decoder that the engine feeds with blocks of a source, and `flows` reads from.

It owns what the compiled walk (`sensor.decode_kernel`, which calls `decode_layers` and `decode_ip`) needs and keeps between
blocks: the buffer of rows, which is used again for every block so that it stays in the processor's cache, the table of first
fragments, and the counters.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sensor import decode_bytes as names
from sensor import decode_kernel as kernel
from sensor.decode_bytes import SKIPS
from sensor.decode_ip import FRAGMENT, WAYS
from sensor.schema import PACKET, FrameBlock

__all__ = ["DEFAULT_TUNNELS", "SKIPS", "Decoder"]

TUNNELS = {
    "vlan": names.ON_VLAN,
    "mpls": names.ON_MPLS,
    "pppoe": names.ON_PPPOE,
    "gre": names.ON_GRE,
    "ipip": names.ON_IPIP,
    "6in4": names.ON_6IN4,
    "vxlan": names.ON_VXLAN,
    "geneve": names.ON_GENEVE,
    "gtpu": names.ON_GTPU,
}
DEFAULT_TUNNELS = frozenset(TUNNELS)
"""Layers that can be looked through."""

BLOCK = 4096
"""Frames that the buffer has rows for at first: 300 kB, which stay in the second-level cache."""


class Decoder:
    """Turns blocks of frames into PACKET rows and counts what yields none: frames in == rows out + skipped.sum(), always.

    `tunnels` names the layers that are looked through. A closed one that has an IP header around it gives the row of the
    packet around it; the frames of closed "vlan", "mpls" and "pppoe" are counted as "layer_off". `fragments` bounds the
    table of first fragments (rounded up to a power of two, 64 bytes each). `payload` "ip" takes lengths from the IP header.
    "captured" is CICFlowMeter's rule, for comparison with it: payload ends with the captured bytes, cut back to the end of
    the IP packet only where the IP header follows the Ethernet header directly; later fragments have protocol, ports and
    payload 0; what is neither TCP, UDP nor SCTP has no header and no payload.
    Raises ValueError for an unknown tunnel or payload rule.
    """

    def __init__(
        self,
        *,
        tunnels: Collection[str] = DEFAULT_TUNNELS,
        fragments: int = 4096,
        payload: Literal["ip", "captured"] = "ip",
    ) -> None:
        unknown = sorted(set(tunnels) - DEFAULT_TUNNELS)
        if unknown:
            raise ValueError(f"unknown tunnel {unknown[0]!r}: choose from {', '.join(TUNNELS)}")
        if payload not in ("ip", "captured"):
            raise ValueError(f"unknown payload rule {payload!r}: choose 'ip' or 'captured'")
        self._on = sum(TUNNELS[name] for name in set(tunnels)) | (names.CAPTURED if payload == "captured" else 0)
        self._table = np.zeros(1 << (max(fragments, WAYS) - 1).bit_length(), FRAGMENT)
        self._table["seen_us"] = np.iinfo(np.int64).min  # nothing is staler than an empty slot
        self._packets = np.empty(BLOCK, PACKET)
        self._packets["reserved"] = 0
        self._link_types = np.zeros(1 << 16, np.int64)
        self.skipped = np.zeros(len(SKIPS), np.int64)
        """(len(SKIPS),) frames without a row so far, by reason."""

    def decode(self, block: FrameBlock) -> NDArray[np.void]:
        """(rows,) PACKET rows of the block's frames, in order: a view of a buffer that the next call overwrites."""
        data, frames = np.asarray(block.data).view(), np.asarray(block.frames).view()
        data.flags.writeable = frames.flags.writeable = False  # one compiled variant, whatever a source hands over
        if len(frames) > len(self._packets):
            self._packets = np.zeros(len(frames), PACKET)
        rows = kernel.decode_frames(data, frames, self._packets, self._table, self.skipped, self._link_types, self._on)
        return self._packets[:rows]

    @property
    def link_types_unknown(self) -> dict[int, int]:
        """Frames so far of each link type that is not understood: LINKTYPE_* number to count."""
        return {int(number): int(self._link_types[number]) for number in np.flatnonzero(self._link_types)}
