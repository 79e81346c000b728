"""How far a TCP connection has come: Zeek's endpoint states, its conn_state, and the progress towards a close.

The endpoint states follow Zeek's TCP analyzer (TCP.cc, UpdateInactiveState and its siblings) as far as flags tell; what
each pair of flag combinations leads to was taken from Zeek's own log of a capture of all of them. `flow_accumulate` moves
the states, `flow_kernel` asks for the conn_state of a flow that ends.
"""

from __future__ import annotations

import numpy as np

from sensor.kernels import part
from sensor.schema import ACK, FIN, RST, RULE_FIRST_FIN, SYN, TCP, UDP

INACTIVE, SYN_SENT, SYN_ACK_SENT, PARTIAL, ESTABLISHED, SHUT, RESET, SHUT_RESET = range(8)
"""Zeek's TCP endpoint states. PARTIAL: met in mid-stream. SHUT_RESET: reset after its FIN; SHUT again if the peer shuts too."""

NONE, FIRST_FIN, BOTH_FINS, READY = range(4)
"""Progress towards the close of a connection (CICFlowMeter's states): once READY, a SYN begins another connection."""

S0, S1, SF, REJ, S2, S3, RSTO, RSTR, RSTOS0, RSTRH, SH, SHR, OTH = range(13)
"""Places in schema.CONN_STATES."""


@part
def greet(own: np.int64, peer: np.int64, flags: np.int64) -> tuple[np.int64, np.int64]:
    """States of (sender, peer) after a segment without regard to its FIN or RST: who has said hello, and was it answered?"""
    if own == INACTIVE:
        if flags & SYN:
            if peer == SYN_SENT or (peer == SYN_ACK_SENT and flags & ACK == 0):
                return np.int64(ESTABLISHED), np.int64(ESTABLISHED)
            return np.int64(SYN_ACK_SENT) if flags & ACK else np.int64(SYN_SENT), peer
        if flags & (FIN | RST) == 0 and peer != SYN_SENT:  # data cannot answer a SYN, but may be met in mid-stream
            return np.int64(PARTIAL), peer
    elif peer == SYN_ACK_SENT and flags & ACK and own in (SYN_SENT, PARTIAL):
        return np.int64(ESTABLISHED), np.int64(ESTABLISHED)
    return own, peer


@part
def advance_endpoints(row: np.void, flags: np.int64, forward: bool) -> None:
    """Move both endpoints' states for one TCP segment, as Zeek's TCP analyzer does (TCP.cc, UpdateInactiveState and so on)."""
    own, peer = np.int64(row["src_state"]), np.int64(row["dst_state"])
    if not forward:
        own, peer = peer, own
    if own not in (SHUT, RESET, SHUT_RESET):
        own, peer = greet(own, peer, flags)
        if flags & RST:
            own = np.int64(RESET)
        elif flags & FIN:
            own = np.int64(SHUT)
            if peer == SHUT_RESET:
                peer = np.int64(SHUT)
    elif own == SHUT and flags & RST and peer != SHUT:
        own = np.int64(SHUT_RESET)
    if forward:
        row["src_state"], row["dst_state"] = own, peer
    else:
        row["src_state"], row["dst_state"] = peer, own


@part
def tcp_conn_state(row: np.void) -> np.int64:
    """Zeek's conn_state of a TCP flow (base/protocols/conn/main.zeek, conn_state)."""
    src, dst = min(row["src_state"], RESET), min(row["dst_state"], RESET)
    src_quiet = src in (INACTIVE, PARTIAL)
    dst_quiet = dst in (INACTIVE, PARTIAL)
    if dst == RESET:
        no_data = row["fwd"]["payload"]["sum"] == 0 and row["bwd"]["payload"]["sum"] == 0
        if src in (SYN_SENT, SYN_ACK_SENT) or (src == RESET and no_data):
            return np.int64(REJ)
        return np.int64(RSTRH) if src_quiet else np.int64(RSTR)
    if src == RESET:
        if not dst_quiet:
            return np.int64(RSTO)
        fwd = row["fwd"]
        syn_before = fwd["syn"] > 0 and fwd["packets"] > 1 and fwd["fin"] == 0
        return np.int64(RSTOS0) if syn_before else np.int64(OTH)
    if src == SHUT:
        if dst == SHUT:
            return np.int64(SF)
        return np.int64(SH) if dst_quiet else np.int64(S2)
    if dst == SHUT:
        return np.int64(SHR) if src_quiet else np.int64(S3)
    if src == SYN_SENT and dst == INACTIVE:
        return np.int64(S0)
    return np.int64(S1) if src == ESTABLISHED and dst == ESTABLISHED else np.int64(OTH)


@part
def conn_state(row: np.void) -> np.int64:
    """Zeek's conn_state of a flow of any protocol."""
    if row["protocol"] == TCP:
        return tcp_conn_state(row)
    if row["protocol"] != UDP:
        return np.int64(OTH)
    if row["fwd"]["packets"] == 0:
        return np.int64(SHR)
    return np.int64(SF) if row["bwd"]["packets"] > 0 else np.int64(S0)


@part
def close_progress(row: np.void, flags: np.int64) -> None:
    """Follow FIN, FIN, ACK or RST to READY: then the next SYN is a new connection. With RULE_FIRST_FIN, one FIN is enough."""
    if row["rules"] & RULE_FIRST_FIN:
        if flags & FIN:
            row["closing"] = READY
    elif flags & FIN:
        if row["closing"] == NONE:
            row["closing"] = FIRST_FIN
        if row["closing"] == FIRST_FIN and row["fwd"]["fin"] > 0 and row["bwd"]["fin"] > 0:
            row["closing"] = BOTH_FINS
    elif flags & RST or (flags & ACK and row["closing"] == BOTH_FINS):
        row["closing"] = READY
