"""An alert in words: one or two sentences that an analyst can read without knowing the model.

First what the hosts did, from the flow's protocol and Zeek's conn_state; then the part of it that weighed most, and
what was expected instead; then how rare a false alarm of this kind is. `detect` calls it once per alert.
"""

from __future__ import annotations

import numpy as np

from sensor.schema import CONN_STATES, ICMP, ICMPV6, SCTP, TCP, UDP, Reason, RuleReason, StatisticReason

TRANSPORTS = {TCP: "tcp", UDP: "udp", ICMP: "icmp", ICMPV6: "icmp6", SCTP: "sctp"}

TCP_DEEDS = {
    "S0": "{src} tried {service} on {dst} and got no answer",
    "S1": "{src} opened {service} on {dst} and has not closed it",
    "SF": "{src} used {service} on {dst}",
    "REJ": "{src} tried {service} on {dst} and was refused",
    "S2": "{src} used {service} on {dst}, which never closed its side",
    "S3": "{src} used {service} on {dst} and never closed its side",
    "RSTO": "{src} used {service} on {dst} and broke it off",
    "RSTR": "{src} used {service} on {dst}, which broke it off",
    "RSTOS0": "{src} tried {service} on {dst}, got no answer and broke it off",
    "RSTRH": "{dst} answered {src} from {service} and broke it off, with no request seen",
    "SH": "{src} opened and closed {service} on {dst} without an answer",
    "SHR": "{dst} answered {src} from {service}, with no request seen",
    "OTH": "{src} was already using {service} on {dst} when first seen",
}
"""What a TCP connection's conn_state means, by Zeek's own list."""

DEEDS = {
    "S0": "{src} sent to {service} on {dst} and got no answer",
    "SF": "{src} used {service} on {dst}",
    "SHR": "{dst} sent to {src} from {service}, with no request seen",
}
"""The same for protocols without connections, of which Zeek uses only some states."""

NOUNS = {"heading": "direction", "sent": "volume sent", "received": "volume received", "lasting": "duration"}
"""How a sentence calls those parts of a word whose name is no noun."""


def transport(protocol: int) -> str:
    """Name an IP protocol as alerts do; one without a name is its number."""
    return TRANSPORTS.get(protocol, str(protocol))


def tell(
    src: str,
    dst: str,
    flow: np.void,
    why: str,
    *,
    rarity: str,
    count: int,
    span_us: int,
) -> str:
    """Put an alert into words: what was done, what was unusual about it, and how often that is a false alarm.

    `why` is what `surprise` or `resemblance` says, `rarity` what `rarity` says; `count` flows within `span_us` stand behind
    the alert.
    """
    told = f"{_deed(src, dst, flow)}: {why}; false alarms like this: {rarity}."
    if count > 1:
        told += f" It stands for {count:,} flows within {_span(span_us)}."
    return told


def break_of_rule(
    src: str, dst: str, flow: np.void, reason: RuleReason, *, days: float, per_day: float, count: int, span_us: int
) -> str:
    """Put an alert of a fixed rule into words: who tried whom how often for nothing, the rule, and what benign traffic did.

    No rule was broken in `days` of benign traffic, so false alarms are at most `per_day`; the rest is as in `tell`.
    """
    protocol = int(flow["protocol"])
    name = "ICMP echo" if protocol in (ICMP, ICMPV6) else transport(protocol).upper()
    seen, within = f"{reason.seen:,}", f"within {_span(round(reason.within_s * 1e6))}"
    if reason.part == "attempts":
        sources = f"about {reason.sources:,} addresses" if reason.sources > 1 else src
        told = f"{seen} {name} attempts from {sources} to {dst} {within} came to nothing"
    elif reason.part == "ports":
        told = f"{src} tried {seen} {name} ports of {dst} {within} for nothing"
    else:
        what = name if protocol in (ICMP, ICMPV6) else f"{int(flow['dst_port'])}/{transport(protocol)}"
        told = f"{src} tried {what} on {seen} hosts {within} for nothing, the last one {dst}"
    told += f"; the rule is {reason.most:,} a minute at most, which {days:.3g} days of benign traffic kept to"
    told += f" (false alarms: {rarity(per_day, bounded=False)} at most)."
    if count > reason.seen:
        told += f" It stands for {count:,} attempts within {_span(span_us)}."
    return told


def share(probability: float) -> str:
    """Write a probability as a percentage with two digits; what is too small to matter is only bounded."""
    percent = 100 * probability
    if percent >= 99.5:
        return "over 99 %"
    if percent < 0.001:
        return "under 0.001 %"
    return f"{percent:.0f} %" if percent >= 10 else f"{float(f'{percent:.1g}' if percent < 1 else f'{percent:.2g}'):.10g} %"


def _deed(src: str, dst: str, flow: np.void) -> str:
    """Say what the two hosts did, with the conn_state and the payload that went each way."""
    protocol = int(flow["protocol"])
    state = CONN_STATES[int(flow["conn_state"])]
    if protocol in (ICMP, ICMPV6):
        name = "ICMP" if protocol == ICMP else "ICMPv6"
        return f"{src} sent {name} type {int(flow['icmp_type'])} code {int(flow['icmp_code'])} to {dst}"
    ports = protocol in (TCP, UDP, SCTP)
    service = f"{int(flow['dst_port'])}/{transport(protocol)}" if ports else f"IP protocol {protocol}"
    deeds = TCP_DEEDS if protocol == TCP else DEEDS
    told = deeds.get(state, DEEDS["SF"]).format(src=src, dst=dst, service=service)
    sent, received = int(flow["fwd"]["payload"]["sum"]), int(flow["bwd"]["payload"]["sum"])
    volume = f", {sent:,} bytes sent and {received:,} received" if sent > 0 or received > 0 else ""
    return f"{told} ({state}{volume})"


def surprise(reasons: tuple[Reason, ...], heaviest: str) -> str:
    """Say what weighed most, how likely the model held it, and what it held likeliest instead.

    `heaviest` is the part that weighed most in the conversation's hour, for an alert whose flow gives no reason of its own.
    """
    if not reasons:
        if not heaviest:
            return "the conversation as a whole was not expected"
        part = NOUNS.get(heaviest, heaviest)
        return f"not this flow alone but the conversation's hour as a whole is unusual, most of all by the {part}"
    first = reasons[0]
    part = NOUNS.get(first.part, first.part)
    here, rather = share(first.seen_probability), share(first.expected_probability)
    return f"most unusual is the {part}, {first.seen}, with {here} here against {rather} for {first.expected}"


def resemblance(name: str, probability: float, flows: int, reasons: tuple[StatisticReason, ...]) -> str:
    """Say which class the last `flows` flows look like, which of them weighed most, and what about it is far from usual."""
    told = f"the last {flows} flows look" if flows > 1 else "it looks"
    told += f" like {name} ({share(probability)})"
    if not reasons:
        return told
    return f"{told}, most of all {flow_of(reasons[0])}: {statistic(reasons[0])}"


def flow_of(reason: StatisticReason) -> str:
    """Name the flow that a statistic is of."""
    return {0: "this flow", 1: "the flow before"}.get(reason.flow, f"the flow {reason.flow} before")


def statistic(reason: StatisticReason) -> str:
    """Put a statistic beside what is usual."""
    unit = f" {reason.unit}" if reason.unit else ""
    return f"{reason.part} is {_number(reason.seen)}{unit}, usual is {_number(reason.usual)}"


def _number(value: float) -> str:
    """Write a statistic with four digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.4g}"


def rarity(per_day: float, *, bounded: bool) -> str:
    """Say how often a false alarm like this is to be expected; `bounded`: or less often, which the calibration cannot tell."""
    if per_day < 1 / 1000:
        return "less than one in 1,000 days"
    days = 1 / per_day
    often = f"{per_day:,.0f} a day" if per_day >= 1.5 else "one a day" if days < 1.5 else f"one in {days:,.0f} days"
    return f"at most {often} (the calibration cannot tell rarer)" if bounded else often


def _span(span_us: int) -> str:
    """Write a time in the largest unit that leaves it over one."""
    seconds = span_us / 1e6
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return "a second" if seconds < 1.5 else f"{seconds:.0f} seconds"
