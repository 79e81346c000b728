"""The alert about the sensor itself: what it did not see or did not judge in the last minute.

An analyst who sees no alerts must know whether there was nothing, or nobody looked. So while packets are dropped, flows are
shed, an interface is down or alerts are lost, an alert NetSeq::Sensor_Degraded with the numbers goes the way of all alerts,
once a minute. It has no hosts. Every counter of losses is either watched here, or named with the reason why it is not. The
control loop calls `since` and `degraded`.
"""

from __future__ import annotations

from collections.abc import Mapping

from sensor.metrics import split, total
from sensor.schema import Alert

SIGNATURE = "NetSeq::Sensor_Degraded"
WATCHED = (
    *("packets_dropped", "ring_blocks_broken", "interfaces_lost", "captures_damaged", "captures_unreadable"),
    *("zeek_messages_dropped", "zeek_messages_skipped", "rows_skipped"),
    *("flows_evicted", "flows_shed", "words_shed", "rules_shed"),
    *("rule_alerts_capped", "alerts_lost", "alerts_refused"),
)
"""What was not seen, not judged, or judged and not told: losses that are no property of the traffic, and a gauge of what
nobody looks at now."""
ORDINARY = (
    *("packets_skipped", "link_types_unknown", "blocks_skipped"),  # what the wire carries: arp is on every network
    "files_skipped",  # what is no capture, or was read before
    "clock_steps_back",  # flows are cut in two, and both halves judged
    "conversations_evicted",  # of a full table the least recent: what they say next is judged, by less
    "alerts_untold",  # flows of what was told of
    *("flows_unrecorded", "states_refused", "log_lines_lost"),  # training, memory and the log: every flow was judged
)
"""The other counters of losses."""
MEANT = ("rows_skipped.own",)
"""What is left out on purpose: netseq's own connections with Zeek."""
DOWN, PEERS = "interfaces_down", "zeek_peers"
"""Gauges of whether anything can be heard: 1 for an interface that is down, 0 connections to Zeek."""
SEVERE = 0.1
"""Share of packets or flows lost in a minute from which the alert is of high severity."""


def since(before: Mapping[str, int], counters: Mapping[str, int]) -> dict[str, int]:
    """What counters have grown by since `before`, and what gauges tell now."""
    return {name: number - (0 if split(name)[0].gauge else before.get(name, 0)) for name, number in counters.items()}


def interfaces(counters: Mapping[str, int]) -> dict[str, bool]:
    """The interfaces that are to be listened on, by name, and whether each is up; empty where flows come from elsewhere."""
    return {name.partition(".")[2]: not number for name, number in counters.items() if name.partition(".")[0] == DOWN}


def degraded(grown: Mapping[str, int], *, ts_us: int, since_us: int, model: str) -> Alert | None:
    """The alert about the losses in what `since` tells of the time from `since_us` to `ts_us`; None when there are none.

    An interface that is down counts as one, and its share of the interfaces as lost; so does a Zeek that is away.
    """
    wanted = interfaces(grown)
    down = [name for name, up in wanted.items() if not up]
    away = grown.get(PEERS) == 0
    meant = (*MEANT, *(f"interfaces_lost.{name}" for name in down))  # those are told of as down
    lost = {
        name: count for name, count in grown.items() if count > 0 and name.partition(".")[0] in WATCHED and name not in meant
    }
    told = [f"interfaces that are down ({', '.join(down)}): {len(down)} of {len(wanted)}"] if down else []
    told += ["connections to a running Zeek: none"] if away else []
    told += [_told(name, count) for name, count in lost.items()]
    if not told:
        return None
    share = max(drop_share(grown), shed_share(grown), len(down) / max(len(wanted), 1), float(away))
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
        count=len(down) + away + sum(lost.values()),
        first_seen_us=since_us,
        last_seen_us=ts_us,
        model=model,
        reasons=(),
        msg=f"The sensor did not see or judge everything in the last minute: {'; '.join(told)}",
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
    """Put one loss in words: `packets that the kernel dropped because the ring was full (eth0): 1,200`."""
    counter, label = split(name)
    return f"{counter.meaning}{f' ({label})' if label else ''}: {number:,}"
