"""Ordinary flows beside those of a real campus: protocols, and how long and large flows are. Called by the check of a run.

The campus is the AGH University of Krakow, 4,032,376,751 flow records of its Internet-facing interface in 30 days of 2015, as
published: P. Jurkiewicz, G. Rzym and P. Boryło, "Flow length and size distributions in campus Internet traffic",
Computer Communications 167 (2021), arXiv:1809.03486, and its tables in github.com/piotrjurkiewicz/flow-models, data/agh_2015.
Its records are NetFlow's, so each direction of a connection counts as one here, too; they end after 15 seconds of silence, and
the Internet's own background of scans is among them. No such figures by service were found that could be named.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sensor.schema import TCP, UDP

PROTOCOLS = {"TCP": 0.5385, "UDP": 0.4309, "other protocols": 0.0306}
UP_TO_PACKETS = {1: 0.478326, 2: 0.653421, 8: 0.841319, 100: 0.973478, 1_000: 0.994544}
UP_TO_BYTES = {128: 0.323376, 512: 0.711101, 4_096: 0.897285, 100_000: 0.984030, 1_000_000: 0.996050}
"""Share of one-way flows of at most so many packets, and bytes of IP."""


def beside(flows: NDArray[np.void]) -> Iterator[tuple[str, float, float]]:
    """Yield what is compared, its share of the one-way flows in these (n,) FLOW rows, and the campus's; nothing of no rows."""
    sides = [flows[side][flows[side]["packets"] > 0] for side in ("fwd", "bwd")]
    protocol = np.concatenate([flows["protocol"][flows[side]["packets"] > 0] for side in ("fwd", "bwd")])
    packets = np.concatenate([side["packets"] for side in sides])
    ip_bytes = np.concatenate([side["ip_bytes"] for side in sides])
    if not len(packets):
        return
    tcp, udp = float((protocol == TCP).mean()), float((protocol == UDP).mean())
    for (name, campus), share in zip(PROTOCOLS.items(), (tcp, udp, 1 - tcp - udp), strict=True):
        yield name, share, campus
    for most, campus in UP_TO_PACKETS.items():
        yield f"{most:,} packets at most", float((packets <= most).mean()), campus
    for most, campus in UP_TO_BYTES.items():
        yield f"{most:,} bytes at most", float((ip_bytes <= most).mean()), campus
