"""The columns of a flow in plain Python, slow and obvious: what `sensor.statistics` is compared with.

Written from docs/statistics.md, column by column, on the list of a flow's packets: no sums are kept, means and variances are
exact fractions until the last step. Bulks are `naive_accumulate`'s, as the page tells them by the packets too.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from naive_accumulate import FLAGS, Bulk, bulks_of
from naive_flows import Flow, Packet

from sensor.schema import ICMP, ICMPV6, IGMP, SCTP, TCP, UDP
from sensor.statistics import Rules

Columns = dict[str, float]


def over(part: int, whole: Fraction | int) -> float:
    """A quotient, and 0 where there is nothing to divide by."""
    return float(part / Fraction(whole)) if whole else 0.0


def gaps_between(times: Sequence[int]) -> list[int]:
    return [later - earlier for earlier, later in itertools.pairwise(times)]


class Four(NamedTuple):
    """Mean, sample deviation, extremes: all 0 of nothing."""

    mean: float
    deviation: float
    high: int
    low: int
    variance: float


def four(samples: Sequence[int]) -> Four:
    variance = statistics.variance(map(Fraction, samples)) if len(samples) > 1 else Fraction(0)
    mean = over(sum(samples), len(samples))
    return Four(mean, math.sqrt(variance), max(samples, default=0), min(samples, default=0), float(variance))


def named(name: str, samples: Sequence[int]) -> Columns:
    found = four(samples)
    return {f"{name} Mean": found.mean, f"{name} Std": found.deviation, f"{name} Max": found.high, f"{name} Min": found.low}


def periods(times: Sequence[int], *, last: bool) -> tuple[list[int], list[int]]:
    """Activity and silence: silence is a gap over 5 s; activity lies between, and lasts longer than no time."""
    parts = [[times[0]]]
    for earlier, later in itertools.pairwise(times):
        if later - earlier > 5_000_000:
            parts.append([])
        parts[-1].append(later)
    told = parts if last else parts[:-1]
    return [part[-1] - part[0] for part in told if part[-1] > part[0]], [gap for gap in gaps_between(times) if gap > 5_000_000]


def side_of(name: str, sent: Sequence[Packet], bulk: Bulk, parts: int, lasting: Fraction, *, faithful: bool) -> Columns:
    """The columns of one direction: `parts` is what subflows are counted by, `lasting` the flow's seconds."""
    payloads, times = [packet.payload for packet in sent], [packet.ts_us for packet in sent]
    gaps, members = gaps_between(times), [member for run in bulk.bulks for member in run]
    bulk_us, bulk_bytes = sum(gap for gap, _ in members), sum(payload for _, payload in members)
    if not faithful:
        bulk_us = max(bulk_us, 0)
    return {
        f"Total Length of {name} Packet": sum(payloads),
        **named(f"{name} Packet Length", payloads),
        f"{name} Segment Size Avg": four(payloads).mean,
        f"{name} IAT Total": sum(gaps),
        **named(f"{name} IAT", gaps),
        **{f"{name} {flag.upper()} Flags": sum(p.flags & FLAGS[flag] != 0 for p in sent) for flag in ("psh", "urg", "rst")},
        f"{name} Header Length": sum(packet.header for packet in sent),
        f"{name} IP Bytes": sum(packet.ip_bytes for packet in sent),
        f"{name} Packets/s": over(len(sent), max(lasting, Fraction(0))),
        f"{name} Act Data Pkts": sum(payload > 0 for payload in payloads),
        f"{name} Bytes/Bulk Avg": over(bulk_bytes, len(bulk.bulks)),
        f"{name} Packet/Bulk Avg": over(len(members), len(bulk.bulks)),
        f"{name} Bulk Rate Avg": over(bulk_bytes, Fraction(bulk_us, 1_000_000)),
        f"Subflow {name} Packets": over(len(sent), parts),
        f"Subflow {name} Bytes": over(sum(payloads), parts),
    }


def first_told(flow: Flow, *, faithful: bool) -> Columns:
    """Windows and smallest headers: of the side that spoke first alone by CICFlowMeter's rules, but for the backward window."""
    fwd, bwd = ([packet for way, packet in flow.packets if way == forward] for forward in (True, False))
    windows = [next((p.window for p in sent if p.window and p.protocol == TCP), 0) for sent in (fwd, bwd)]
    headers = [min((packet.header for packet in sent), default=0) for sent in (fwd, bwd)]
    if faithful:
        forward, first = flow.packets[0]
        windows[0] = first.window if forward else 0
        headers[forward] = 0
    return {
        "FWD Init Win Bytes": windows[0],
        "Bwd Init Win Bytes": windows[1],
        "Fwd Seg Size Min": headers[0],
        "Bwd Seg Size Min": headers[1],
    }


def repeated(flow: Flow) -> Columns:
    ways = [way for (way, _), again in zip(flow.packets, flow.repeated, strict=True) if again]
    counts = {"Fwd": ways.count(True), "Bwd": ways.count(False), "Total": len(ways)}
    return {f"{name} TCP Retrans. Count": count for name, count in counts.items()}


def who(flow: Flow, *, faithful: bool) -> Columns:
    protocol, first = flow.protocol, flow.first
    of_icmp = protocol in (ICMP, ICMPV6)
    return {
        "Src Port": flow.source[1],
        "Dst Port": flow.destination[1],
        "Protocol": 0 if faithful and protocol not in (ICMP, IGMP, TCP, UDP, SCTP) else protocol,
        "ICMP Code": first.icmp_code if of_icmp else -1,
        "ICMP Type": first.icmp_type if of_icmp else -1,
        "Continued": flow.continued,
    }


def columns_of(flow: Flow, rules: Rules) -> Columns:
    """All columns that are numbers."""
    faithful = rules == "cicflowmeter"
    packets = [packet for _, packet in flow.packets]
    fwd, bwd = ([packet for way, packet in flow.packets if way == forward] for forward in (True, False))
    times, payloads = [packet.ts_us for packet in packets], [packet.payload for packet in packets]
    duration_us = times[-1] - times[0] if faithful else max(times[-1] - times[0], 0)
    lasting, gaps = Fraction(duration_us, 1_000_000), gaps_between(times)
    long_gaps = sum(gap > 1_000_000 for gap in gaps)
    parts = long_gaps if faithful else long_gaps + 1
    active, idle = periods(times, last=not faithful)
    bulks, of_all = bulks_of(flow.packets), four(payloads)
    no_rate = faithful and not duration_us
    whole_us = duration_us + times[0] - flow.began_us
    return {
        **who(flow, faithful=faithful),
        "Flow Duration": duration_us,
        "Total Fwd Packet": len(fwd),
        "Total Bwd packets": len(bwd),
        "Flow Bytes/s": -1 if no_rate else over(sum(payloads), lasting),
        "Flow Packets/s": -1 if no_rate else over(len(packets), lasting),
        **named("Flow IAT", gaps),
        **side_of("Fwd", fwd, bulks[True], parts, lasting, faithful=faithful),
        **side_of("Bwd", bwd, bulks[False], parts, lasting, faithful=faithful),
        **named("Packet Length", payloads),
        "Packet Length Variance": of_all.variance,
        "Average Packet Size": of_all.mean,
        **{f"{flag.upper()} Flag Count": sum(packet.flags & bit != 0 for packet in packets) for flag, bit in FLAGS.items()},
        "Down/Up Ratio": over(len(bwd), len(fwd)),
        **first_told(flow, faithful=faithful),
        **named("Active", active),
        **named("Idle", idle),
        **repeated(flow),
        "Total Connection Flow Time": 0 if faithful and flow.protocol not in (TCP, UDP) else whole_us,
    }
