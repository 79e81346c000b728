"""An alert from a flow and what was decided of it: what the alerts of all models have in common."""

from __future__ import annotations

import numpy as np

from sensor import message
from sensor.addresses import community_id, icmp_ports, text
from sensor.schema import ICMP, ICMPV6, Alert, AnyReason

SEVERITIES = ((0.01, "critical"), (0.1, "high"), (1.0, "medium"))
"""A severity is how rare a false alarm like it is: at most so many a day. Above the last one it is "low"."""


def build(
    told: np.void,
    flow: np.void,
    *,
    signature: str,
    model: str,
    uid: str | None,
    score: float,
    measure: str = "nats",
    verdict: float,
    p_value: float,
    least_p: float,
    reasons: tuple[AnyReason, ...],
    why: str = "",
    msg: str = "",
    category: str = "anomaly",
) -> Alert:
    """Build the alert that `flow` (FLOW) raises, of which `told` (RAISED) says what it stands for.

    `why` is the part of the sentence that says what was found, `msg` the whole sentence where it is another one; a `p_value`
    under `least_p` is told as `least_p`.
    """
    src, dst = (int(flow["src_hi"]), int(flow["src_lo"])), (int(flow["dst_hi"]), int(flow["dst_lo"]))
    protocol = int(flow["protocol"])
    ports = int(flow["src_port"]), int(flow["dst_port"])
    if protocol in (ICMP, ICMPV6):
        ports = icmp_ports(protocol, int(flow["icmp_type"]), int(flow["icmp_code"]))
    claimed = max(p_value, least_p)
    per_day = claimed * float(told["rate"])
    count, first_us, last_us = int(told["count"]), int(told["first_us"]), int(told["last_us"])
    if not msg:
        rarity = message.rarity(per_day, bounded=claimed == least_p)
        msg = message.tell(text(*src), text(*dst), flow, why, rarity=rarity, count=count, span_us=last_us - first_us)
    return Alert(
        ts_us=int(flow["last_us"]),
        signature=signature,
        category=category,
        severity=severity(per_day),
        src=text(*src),
        src_port=ports[0],
        dest=text(*dst),
        dest_port=ports[1],
        transport=message.transport(protocol),
        community_id=community_id(protocol, src, dst, *ports),
        uid=uid,
        score=digits(score),
        measure=measure,
        verdict=digits(verdict),
        p_value=digits(claimed),
        per_day=digits(per_day),
        count=count,
        first_seen_us=first_us,
        last_seen_us=last_us,
        model=model,
        reasons=reasons,
        msg=msg,
    )


def severity(per_day: float) -> str:
    """Name the severity of an alert by how many false alarms like it a day are to be expected."""
    return next((name for most, name in SEVERITIES if per_day <= most), "low")


def digits(x: float) -> float:
    """Keep six significant digits: what float32 knows, and no more than a reader wants. What is not finite becomes 0."""
    return float(f"{x:.6g}") if np.isfinite(x) else 0.0
