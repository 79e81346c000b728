"""What is certainly wrong in the statistics of a table, put right; what cannot be told stays as it is.

Every rule follows from the row itself, and each cell changed is counted under its reason:

- Flags under shuffled names (`cicflowmeter`) are put under their own. They are still those of the first packet.
- A duration below 0 comes of a clock that ran backwards: 0, as netseq has it.
- Rates of a flow without duration are 0, as netseq has them: CICFlowMeter writes Infinity, NaN or -1 there.
- Any other infinite value is unknown.
- A window of -1 stands for no window: 0, as netseq has it.
- Bytes of headers below 0 (an overflow, or -1 for each packet of UDP) are unknown.
- Protocol 0 stands for whatever has no ports: unknown.
- A silence or an activity longer than the flow, an absolute time that old versions may write, is unknown there. Published
  tables round large numbers to three digits, so a hundredth more is let pass.
- Where rates tell that durations are in seconds or milliseconds, all times are put in microseconds.

Called by `flowcsv`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container

import numpy as np
from numpy.typing import NDArray

from sensor.sources.cicflowmeter import SHUFFLED
from sensor.sources.editions import NETSEQ, Edition
from sensor.spellings import STATISTICS

BACKWARDS = "durations below 0, now 0"
NO_DURATION = "rates of flows without duration, now 0"
INFINITE = "infinite values, now unknown"
NO_WINDOW = "windows of -1, now 0"
NO_SIZE = "bytes of headers below 0, now unknown"
NO_PROTOCOL = "protocol 0, now unknown"
TOO_LONG = "active or idle times longer than their flow, now unknown"
NOT_US = "times in other units than microseconds, now in these"

RATES = ("Flow Bytes/s", "Flow Packets/s", "Fwd Packets/s", "Bwd Packets/s")
WINDOWS = ("FWD Init Win Bytes", "Bwd Init Win Bytes")
SIZES = ("Fwd Header Length", "Bwd Header Length", "Fwd Seg Size Min", "Bwd Seg Size Min")
PERIODS = tuple(f"{what} {of}" for what in ("Active", "Idle") for of in ("Mean", "Std", "Max", "Min"))
TIMES = tuple(
    name for name in STATISTICS if " IAT " in name or name in ("Flow Duration", "Total Connection Flow Time", *PERIODS)
)
ROUNDED = 1.01
LIKELY = 0.9
"""Share of the rows with a rate that must agree on a unit."""


def mend(matrix: NDArray[np.float64], edition: Edition, present: Container[str]) -> Counter[str]:
    """Put (n, len(STATISTICS)) numbers of one file right, in place; the count of cells changed, by reason.

    `present` are the columns that the file has.
    """
    changed: Counter[str] = Counter()

    def known(name: str) -> NDArray[np.float64]:
        return np.asarray(matrix[:, STATISTICS.index(name)])

    def put(reason: str, name: str, wrong: NDArray[np.bool_], value: float) -> None:
        changed[reason] += int(wrong.sum())
        known(name)[wrong] = value

    if edition.first_only:
        _unshuffle(matrix)
    changed[NOT_US] += _to_microseconds(matrix)
    duration_us = known("Flow Duration")
    put(BACKWARDS, "Flow Duration", duration_us < 0, 0)
    for name in RATES:
        if name in present:
            put(NO_DURATION, name, (duration_us == 0) & (known(name) != 0), 0)
    infinite = np.isinf(matrix)
    changed[INFINITE] += int(infinite.sum())
    matrix[infinite] = np.nan
    for name in WINDOWS:
        put(NO_WINDOW, name, known(name) == -1, 0)
    for name in SIZES:
        put(NO_SIZE, name, known(name) < 0, np.nan)
    if edition is not NETSEQ:
        put(NO_PROTOCOL, "Protocol", known("Protocol") == 0, np.nan)
    if edition.first_only:
        for name in PERIODS:
            put(TOO_LONG, name, known(name) > duration_us * ROUNDED, np.nan)
    return +changed


def _unshuffle(matrix: NDArray[np.float64]) -> None:
    """Put the counts of flags under their right names."""
    stands = {name: "cwr" if other == "cwe" else other for name, other in SHUFFLED.items()}
    to = [STATISTICS.index(f"{name.upper()} Flag Count") for name in stands]
    matrix[:, to] = matrix[:, [STATISTICS.index(f"{other.upper()} Flag Count") for other in stands.values()]]


def _to_microseconds(matrix: NDArray[np.float64]) -> int:
    """Times of a file in seconds or milliseconds to microseconds; how many cells changed.

    Packets a second, times the duration, over the packets is a million in microseconds and one in seconds.
    """
    duration, rate, *packets = (
        matrix[:, STATISTICS.index(name)]
        for name in ("Flow Duration", "Flow Packets/s", "Total Fwd Packet", "Total Bwd packets")
    )
    with np.errstate(all="ignore"):
        ratio = rate * duration / (packets[0] + packets[1])
    ratio = ratio[np.isfinite(ratio) & (ratio > 0)]
    for unit_us in (1_000, 1_000_000):
        agree = np.abs(ratio * unit_us / 1e6 - 1) < 0.01
        if len(ratio) and agree.mean() > LIKELY:
            places = [STATISTICS.index(name) for name in TIMES]
            matrix[:, places] *= unit_us
            return int((np.nan_to_num(matrix[:, places]) != 0).sum())
    return 0
