"""The alert about the sensor itself: what it did not see or did not judge in the last minute.

An analyst who sees no alerts must know whether there was nothing, or nobody looked. So while packets are dropped, flows are
shed, an interface is down or alerts are lost, an alert NetSeq::Sensor_Degraded with the numbers goes the way of all alerts,
once a minute. It has no hosts. The control loop calls `degraded`.
"""

from __future__ import annotations

from collections.abc import Mapping

from sensor.metrics import split, total
from sensor.schema import Alert

SIGNATURE = "NetSeq::Sensor_Degraded"
WATCHED = ("packets_dropped", "flows_shed", "words_shed", "interfaces_lost", "alerts_lost", "flows_evicted")
"""Counters of losses that are the sensor's own, and no property of the traffic."""
SEVERE = 0.1
"""Share of packets or flows lost in a minute from which the alert is of high severity."""


def degraded(grown: Mapping[str, int], *, ts_us: int, since_us: int, model: str) -> Alert | None:
    """The alert about the losses among what the counters have `grown` by between two times; None when there are none."""
    lost = {name: number for name, number in grown.items() if number > 0 and name.partition(".")[0] in WATCHED}
    if not lost:
        return None
    share = max(drop_share(grown), shed_share(grown))
    numbers = "; ".join(_told(name, number) for name, number in lost.items())
    return Alert(
        ts_us=ts_us,
        signature=SIGNATURE,
        severity="high" if share >= SEVERE else "medium",
        src="",
        src_port=0,
        dest="",
        dest_port=0,
        transport="",
        community_id="",
        uid=None,
        score=float(f"{share:.6g}"),
        measure="share lost",
        verdict=0.0,
        p_value=1.0,
        per_day=0.0,
        count=sum(lost.values()),
        first_seen_us=since_us,
        last_seen_us=ts_us,
        model=model,
        reasons=(),
        msg=f"The sensor did not see or judge everything in the last minute: {numbers}",
    )


def drop_share(counters: Mapping[str, int]) -> float:
    """Share of the packets on the wire that the kernel dropped."""
    dropped = total(counters, "packets_dropped")
    return dropped / max(dropped + counters.get("packets_read", 0), 1)


def shed_share(counters: Mapping[str, int]) -> float:
    """Share of the ended flows that were not scored."""
    shed = total(counters, "flows_shed")
    return shed / max(shed + counters.get("words_scored", 0), 1)


def _told(name: str, number: int) -> str:
    """Put one loss in words: `1,200 packets (eth0): packets that the kernel dropped ...`."""
    counter, label = split(name)
    return f"{number:,} {counter.unit}{f' ({label})' if label else ''}: {counter.meaning}"
