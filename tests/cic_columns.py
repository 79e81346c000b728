"""The numbers of a CICFlowMeter row from a FLOW row's accumulators, by the headers of its CSV, for comparison with that tool.

Only plain arithmetic on what the flow table keeps, so that a column that differs points to the accumulator behind it. Habits
of the tool that are no facts about the flow (a smallest header of 0 for one side, -1 for no rate) are followed here.
"""

from __future__ import annotations

import math

import numpy as np

from sensor.schema import ICMP, IGMP, SCTP, TCP, UDP

Columns = dict[str, float]

FLAGS = ("fin", "syn", "rst", "psh", "ack", "urg", "cwr", "ece")
NAMED = (ICMP, IGMP, TCP, UDP, SCTP)
"""Protocols that the tool tells; all others are 0."""


def ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def mean_and_deviation(n: int, total: int, square: int) -> tuple[float, float]:
    """Of n samples by their sums, exact up to the last division; the deviation is a sample's."""
    if n < 2:
        return float(total), 0.0
    return total / n, math.sqrt((square * n - total * total) / (n * (n - 1)))


def square_of(moments: np.void) -> int:
    return int(moments["square_lo"]) | int(moments["square_hi"]) << 64


def gaps_of(name: str, n: int, span_us: int, gap: np.void) -> Columns:
    """Four columns of the gaps between n packets that `span_us` lies between."""
    mean, deviation = mean_and_deviation(n - 1, span_us, square_of(gap)) if n > 1 else (0.0, 0.0)
    return {f"{name} Mean": mean, f"{name} Std": deviation, f"{name} Max": int(gap["high"]), f"{name} Min": int(gap["low"])}


def side_of(name: str, side: np.void, long_gaps: int, duration_us: int) -> Columns:
    """The columns of one direction, "Fwd" or "Bwd"."""
    n, sizes, span_us = int(side["packets"]), side["payload"], int(side["last_us"] - side["first_us"])
    total = int(sizes["sum"])
    mean, deviation = mean_and_deviation(n, total, int(sizes["square"]))
    bulks, bulk_bytes = int(side["bulk_count"]), int(side["bulk_bytes"])
    return {
        f"{name} Packet Length Max": int(sizes["high"]),
        f"{name} Packet Length Min": int(sizes["low"]),
        f"{name} Packet Length Mean": mean,
        f"{name} Packet Length Std": deviation,
        f"{name} Segment Size Avg": mean,
        **gaps_of(f"{name} IAT", n, span_us, side["gap"]),
        f"{name} IAT Total": span_us if n > 1 else 0,
        **{f"{name} {flag.upper()} Flags": int(side[flag]) for flag in ("psh", "urg", "rst")},
        f"{name} Header Length": int(side["header_bytes"]),
        f"{name} Packets/s": ratio(n, duration_us / 1e6),
        f"{name} Bytes/Bulk Avg": ratio(bulk_bytes, bulks),
        f"{name} Packet/Bulk Avg": ratio(int(side["bulk_packets"]), bulks),
        f"{name} Bulk Rate Avg": ratio(bulk_bytes, int(side["bulk_us"]) / 1e6),
        f"Subflow {name} Packets": ratio(n, long_gaps),
        f"Subflow {name} Bytes": ratio(total, long_gaps),
        f"{name} Act Data Pkts": int(side["data_packets"]),
        f"{name} TCP Retrans. Count": int(side["retransmissions"]),
    }


def silence_of(name: str, moments: np.void) -> Columns:
    """The four columns of "Active" or "Idle"."""
    mean, deviation = mean_and_deviation(int(moments["n"]), int(moments["sum"]), square_of(moments))
    return {
        f"{name} Mean": mean,
        f"{name} Std": deviation,
        f"{name} Max": int(moments["high"]),
        f"{name} Min": int(moments["low"]),
    }


def whole_of(row: np.void, duration_us: int) -> Columns:
    """The columns of both directions together."""
    sides = [row["fwd"], row["bwd"]]
    forward, backward = (int(side["packets"]) for side in sides)
    sent, received = (int(side["payload"]["sum"]) for side in sides)
    n, total = forward + backward, sent + received
    mean, deviation = mean_and_deviation(n, total, sum(int(side["payload"]["square"]) for side in sides))
    return {
        "Flow Duration": duration_us,
        "Total Fwd Packet": forward,
        "Total Bwd packets": backward,
        "Total Length of Fwd Packet": sent,
        "Total Length of Bwd Packet": received,
        "Flow Bytes/s": total / (duration_us / 1e6) if duration_us else -1,
        "Flow Packets/s": n / (duration_us / 1e6) if duration_us else -1,
        **gaps_of("Flow IAT", n, duration_us, row["gap"]),
        "Packet Length Min": min(int(side["payload"]["low"]) for side in sides if side["packets"]),
        "Packet Length Max": max(int(side["payload"]["high"]) for side in sides),
        "Packet Length Mean": mean,
        "Packet Length Std": deviation,
        "Packet Length Variance": deviation * deviation,
        **{f"{flag.upper()} Flag Count": sum(int(side[flag]) for side in sides) for flag in FLAGS},
        "Down/Up Ratio": ratio(backward, forward),
        "Average Packet Size": mean,
        "Total TCP Retrans. Count": sum(int(side["retransmissions"]) for side in sides),
    }


def columns_of(row: np.void) -> Columns:
    """All columns of a row's CSV line but its addresses, ports, protocol, time and label."""
    duration_us, protocol, turned = int(row["last_us"] - row["first_us"]), int(row["protocol"]), bool(row["first_is_bwd"])
    fwd, bwd, gaps = row["fwd"], row["bwd"], int(row["long_gaps"])
    return {
        **whole_of(row, duration_us),
        **side_of("Fwd", fwd, gaps, duration_us),
        **side_of("Bwd", bwd, gaps, duration_us),
        "FWD Init Win Bytes": 0 if turned else int(fwd["first_window"]),
        "Bwd Init Win Bytes": int(bwd["first_nonzero_window"]),
        "Fwd Seg Size Min": 0 if turned else int(fwd["smallest_header_bytes"]),
        "Bwd Seg Size Min": int(bwd["smallest_header_bytes"]) if turned else 0,
        **silence_of("Active", row["active"]),
        **silence_of("Idle", row["idle"]),
        "ICMP Code": int(row["icmp_code"]) if protocol == ICMP else -1,
        "ICMP Type": int(row["icmp_type"]) if protocol == ICMP else -1,
        "Total Connection Flow Time": duration_us + int(row["connection_us"]) if protocol in (TCP, UDP) else 0,
    }
