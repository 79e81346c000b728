"""What flow tables call their columns: one feature, four spellings, and which columns stand in which order in each layout.

CICFlowMeter renamed its columns from version to version, and the published data sets keep the names of their day. A column's
name inside netseq is that of the repaired CICFlowMeter (GintsEngelen/CICFlowMeter, 2024); `named` finds it for any spelling,
so that every reader understands every layout, and HEADERS gives a layout's own texts to whoever writes one. What the columns
mean stands in `statistics`; here are only names.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Spelling(NamedTuple):
    """One column's names; "" where a layout does not have it."""

    name: str
    """The repaired CICFlowMeter's header, and the name inside netseq."""
    netseq: str
    cicids2017: str
    """As published with CICIDS2017, leading blank included."""
    cse_cic_ids2018: str
    """As published with CSE-CIC-IDS2018; the Python port of CICFlowMeter uses the same words in lower case."""
    others: tuple[str, ...] = ()
    """Further spellings that are read."""
    of_netseq: bool = False
    """The column is netseq's own and in no CICFlowMeter's table."""


def _side(side: str) -> tuple[Spelling, ...]:
    """Names of one side's packet lengths; the published header has its blanks where it has them."""
    low, blank = side.lower(), " " if side == "Fwd" else ""
    return (
        Spelling(
            f"{side} Packet Length Max", f"{low}_payload_max_bytes", f"{blank}{side} Packet Length Max", f"{side} Pkt Len Max"
        ),
        Spelling(f"{side} Packet Length Min", f"{low}_payload_min_bytes", f" {side} Packet Length Min", f"{side} Pkt Len Min"),
        Spelling(
            f"{side} Packet Length Mean", f"{low}_payload_mean_bytes", f" {side} Packet Length Mean", f"{side} Pkt Len Mean"
        ),
        Spelling(f"{side} Packet Length Std", f"{low}_payload_std_bytes", f" {side} Packet Length Std", f"{side} Pkt Len Std"),
    )


def _gaps(side: str) -> tuple[Spelling, ...]:
    low = side.lower()
    return (
        Spelling(f"{side} IAT Total", f"{low}_iat_total_us", f"{side} IAT Total", f"{side} IAT Tot"),
        *(Spelling(f"{side} IAT {of}", f"{low}_iat_{of.lower()}_us", f" {side} IAT {of}", f"{side} IAT {of}") for of in _FOUR),
    )


def _bulks(side: str) -> tuple[Spelling, ...]:
    low, first, last = side.lower(), "" if side == "Fwd" else " ", " " if side == "Fwd" else ""
    return (
        Spelling(f"{side} Bytes/Bulk Avg", f"{low}_bulk_mean_bytes", f"{first}{side} Avg Bytes/Bulk", f"{side} Byts/b Avg"),
        Spelling(f"{side} Packet/Bulk Avg", f"{low}_bulk_mean_packets", f" {side} Avg Packets/Bulk", f"{side} Pkts/b Avg"),
        Spelling(f"{side} Bulk Rate Avg", f"{low}_bulk_bytes_per_s", f"{last}{side} Avg Bulk Rate", f"{side} Blk Rate Avg"),
    )


def _subflow(side: str) -> tuple[Spelling, ...]:
    low, blank = side.lower(), "" if side == "Fwd" else " "
    return (
        Spelling(f"Subflow {side} Packets", f"subflow_{low}_packets", f"{blank}Subflow {side} Packets", f"Subflow {side} Pkts"),
        Spelling(f"Subflow {side} Bytes", f"subflow_{low}_bytes", f" Subflow {side} Bytes", f"Subflow {side} Byts"),
    )


def _flag(flag: str, published: str = "") -> Spelling:
    """A flag's count, under a name that two of the layouts misspell for CWR."""
    name = f"{published or flag} Flag Count"
    short = name if published else f"{flag} Flag Cnt"
    return Spelling(f"{flag} Flag Count", f"{flag.lower()}_packets", name if flag == "FIN" else f" {name}", short)


_FOUR = ("Mean", "Std", "Max", "Min")

SPELLINGS: tuple[Spelling, ...] = (
    Spelling("Flow ID", "flow_id", "Flow ID", "Flow ID"),
    Spelling("Src IP", "src_ip", " Source IP", "Src IP"),
    Spelling("Src Port", "src_port", " Source Port", "Src Port"),
    Spelling("Dst IP", "dst_ip", " Destination IP", "Dst IP"),
    Spelling("Dst Port", "dst_port", " Destination Port", "Dst Port"),
    Spelling("Protocol", "protocol", " Protocol", "Protocol"),
    Spelling("Timestamp", "timestamp", " Timestamp", "Timestamp"),
    Spelling("Flow Duration", "duration_us", " Flow Duration", "Flow Duration"),
    Spelling("Total Fwd Packet", "fwd_packets", " Total Fwd Packets", "Tot Fwd Pkts"),
    Spelling("Total Bwd packets", "bwd_packets", " Total Backward Packets", "Tot Bwd Pkts"),
    Spelling("Total Length of Fwd Packet", "fwd_payload_bytes", "Total Length of Fwd Packets", "TotLen Fwd Pkts"),
    Spelling("Total Length of Bwd Packet", "bwd_payload_bytes", " Total Length of Bwd Packets", "TotLen Bwd Pkts"),
    *_side("Fwd"),
    *_side("Bwd"),
    Spelling("Flow Bytes/s", "payload_bytes_per_s", "Flow Bytes/s", "Flow Byts/s"),
    Spelling("Flow Packets/s", "packets_per_s", " Flow Packets/s", "Flow Pkts/s"),
    *(Spelling(f"Flow IAT {of}", f"iat_{of.lower()}_us", f" Flow IAT {of}", f"Flow IAT {of}") for of in _FOUR),
    *_gaps("Fwd"),
    *_gaps("Bwd"),
    Spelling("Fwd PSH Flags", "fwd_psh_packets", "Fwd PSH Flags", "Fwd PSH Flags"),
    Spelling("Bwd PSH Flags", "bwd_psh_packets", " Bwd PSH Flags", "Bwd PSH Flags"),
    Spelling("Fwd URG Flags", "fwd_urg_packets", " Fwd URG Flags", "Fwd URG Flags"),
    Spelling("Bwd URG Flags", "bwd_urg_packets", " Bwd URG Flags", "Bwd URG Flags"),
    Spelling("Fwd RST Flags", "fwd_rst_packets", "", ""),
    Spelling("Bwd RST Flags", "bwd_rst_packets", "", ""),
    Spelling("Fwd Header Length", "fwd_header_bytes", " Fwd Header Length", "Fwd Header Len"),
    Spelling("Bwd Header Length", "bwd_header_bytes", " Bwd Header Length", "Bwd Header Len"),
    Spelling("Fwd Packets/s", "fwd_packets_per_s", "Fwd Packets/s", "Fwd Pkts/s"),
    Spelling("Bwd Packets/s", "bwd_packets_per_s", " Bwd Packets/s", "Bwd Pkts/s"),
    Spelling("Packet Length Min", "payload_min_bytes", " Min Packet Length", "Pkt Len Min"),
    Spelling("Packet Length Max", "payload_max_bytes", " Max Packet Length", "Pkt Len Max"),
    Spelling("Packet Length Mean", "payload_mean_bytes", " Packet Length Mean", "Pkt Len Mean"),
    Spelling("Packet Length Std", "payload_std_bytes", " Packet Length Std", "Pkt Len Std"),
    Spelling("Packet Length Variance", "payload_variance_bytes2", " Packet Length Variance", "Pkt Len Var"),
    _flag("FIN"),
    _flag("SYN"),
    _flag("RST"),
    _flag("PSH"),
    _flag("ACK"),
    _flag("URG"),
    _flag("CWR", "CWE"),
    _flag("ECE"),
    Spelling("Down/Up Ratio", "down_up_ratio", " Down/Up Ratio", "Down/Up Ratio"),
    Spelling("Average Packet Size", "payload_per_packet_bytes", " Average Packet Size", "Pkt Size Avg"),
    Spelling("Fwd Segment Size Avg", "fwd_segment_mean_bytes", " Avg Fwd Segment Size", "Fwd Seg Size Avg"),
    Spelling("Bwd Segment Size Avg", "bwd_segment_mean_bytes", " Avg Bwd Segment Size", "Bwd Seg Size Avg"),
    *_bulks("Fwd"),
    *_bulks("Bwd"),
    *_subflow("Fwd"),
    *_subflow("Bwd"),
    Spelling(
        "FWD Init Win Bytes", "fwd_init_window_bytes", "Init_Win_bytes_forward", "Init Fwd Win Byts", ("Init Win Bytes Fwd",)
    ),
    Spelling(
        "Bwd Init Win Bytes", "bwd_init_window_bytes", " Init_Win_bytes_backward", "Init Bwd Win Byts", ("Init Win Bytes Bwd",)
    ),
    Spelling("Fwd Act Data Pkts", "fwd_data_packets", " act_data_pkt_fwd", "Fwd Act Data Pkts", ("Act Data Pkt Fwd",)),
    Spelling("Bwd Act Data Pkts", "bwd_data_packets", "", ""),
    Spelling("Fwd Seg Size Min", "fwd_header_min_bytes", " min_seg_size_forward", "Fwd Seg Size Min", ("Min Seg Size Fwd",)),
    Spelling("Bwd Seg Size Min", "bwd_header_min_bytes", "", ""),
    *(
        Spelling(f"Active {of}", f"active_{of.lower()}_us", f"{' ' * (of != 'Mean')}Active {of}", f"Active {of}")
        for of in _FOUR
    ),
    *(Spelling(f"Idle {of}", f"idle_{of.lower()}_us", f"{' ' * (of != 'Mean')}Idle {of}", f"Idle {of}") for of in _FOUR),
    Spelling("ICMP Code", "icmp_code", "", ""),
    Spelling("ICMP Type", "icmp_type", "", ""),
    Spelling("Fwd TCP Retrans. Count", "fwd_retransmitted_packets", "", ""),
    Spelling("Bwd TCP Retrans. Count", "bwd_retransmitted_packets", "", ""),
    Spelling("Total TCP Retrans. Count", "retransmitted_packets", "", ""),
    Spelling("Total Connection Flow Time", "connection_duration_us", "", ""),
    Spelling("Fwd IP Bytes", "fwd_ip_bytes", "", "", of_netseq=True),
    Spelling("Bwd IP Bytes", "bwd_ip_bytes", "", "", of_netseq=True),
    Spelling("Continued", "continued", "", "", of_netseq=True),
    Spelling("Connection State", "conn_state", "", "", of_netseq=True),
    Spelling("End", "end", "", "", of_netseq=True),
    Spelling("Label", "label", " Label", "Label", ("Attack Type", "Class")),
)
"""All columns, in the order of the repaired CICFlowMeter's table; netseq's own stand before the label."""

IDENTITY = ("Flow ID", "Src IP", "Dst IP", "Timestamp", "Connection State", "End", "Label")
"""Columns that are text."""

STATISTICS = tuple(spelling.name for spelling in SPELLINGS if spelling.name not in IDENTITY)
"""Columns that are numbers: the order of every matrix of statistics."""

TWICE = "Fwd Header Length"
"""The column that CICIDS2017's tables hold twice, the second time before the bulks."""


def _published() -> tuple[tuple[str, str], ...]:
    layout = [(spelling.cicids2017, spelling.name) for spelling in SPELLINGS if spelling.cicids2017]
    place = [name for _, name in layout].index("Fwd Bytes/Bulk Avg")
    layout.insert(place, (f" {TWICE}", TWICE))
    return tuple(layout)


HEADERS: dict[str, tuple[tuple[str, str], ...]] = {
    "cicflowmeter": tuple((spelling.name, spelling.name) for spelling in SPELLINGS if not spelling.of_netseq),
    "cicids2017": _published(),
    "cse-cic-ids2018": tuple((spelling.cse_cic_ids2018, spelling.name) for spelling in SPELLINGS if spelling.cse_cic_ids2018),
    "netseq": tuple((spelling.netseq, spelling.name) for spelling in SPELLINGS),
}
"""Each layout's columns in its order: (text of the header, name). CICIDS2017's has one name twice."""


BENIGN = ("", "benign", "normal", "normal traffic", "-", "(empty)", "none")
UNSURE = ("background", "unknown", "needmanuallabel", "no label", "cic")
"""Labels that name no attack, in lower case. The second kind does not call a flow benign either: traffic that nobody judged,
and the defaults of flow tools ("CIC", "NeedManualLabel")."""
UNLABELLED = "No Label"
"""What a row without a label has as its detail, among rows that have one."""


def _bare(header: str) -> str:
    """Letters and digits alone, in lower case; pandas marks the second of two equal columns with ".1"."""
    return re.sub(r"[^a-z0-9]", "", header.strip().lower().removesuffix(".1"))


_NAMES = {
    _bare(text): spelling.name
    for spelling in reversed(SPELLINGS)  # so that of two equal texts the first column's stays
    for text in (*spelling.others, spelling.cse_cic_ids2018, spelling.cicids2017, spelling.netseq, spelling.name)
    if text
}


def named(header: str) -> str | None:
    """Find a column's name for any spelling of it; None for a text that no layout has."""
    return _NAMES.get(_bare(header))
