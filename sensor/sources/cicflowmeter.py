"""The habits of CICFlowMeter, undone: its rows would otherwise speak of the tool and not of the traffic.

- A TCP flow ends at a FIN, and what comes after (the other FIN, the last ACKs) becomes a row of its own, often turned
  round. Such a tail joins the row before it. Forks that write "Fwd RST Flags" do not need this.
- Versions before 2019 look at the flags of a flow's first packet only, and write them under shuffled names.

So conn_state is a reading: by exact counts where the version has them; else by SYN or no SYN, answered or not, refused when
the one answer is a bare header, closed when the flow ended before the tool's 120 s. A close by RST cannot be told there.
Called by `flowcsv`. The rules were found in the tool's source and checked on its files; docs/words.md tells more.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.schema import CONN_STATES, TCP, UDP

SHUFFLED = {"rst": "fin", "psh": "syn", "ece": "rst", "syn": "psh", "ack": "ack", "fin": "urg", "urg": "cwe", "cwr": "ece"}
"""Flag: the header under which versions with a "CWE Flag Count" wrote it (the order of Java's HashMap for these keys)."""

CUT_US = 119_000_000
"""A row that lasts longer was cut by the tool's 120 s, not by a FIN."""
TAIL_US = 6_000_000
"""A tail begins at most this long after the row it belongs to: netseq's 5 s after a close, and 1 s of the stamps' rounding."""
WELL_KNOWN = 1024
_SIDES = (
    ("src_hi", "dst_hi"),
    ("src_lo", "dst_lo"),
    ("src_port", "dst_port"),
    ("sent_packets", "received_packets"),
    ("sent_bytes", "received_bytes"),
)

FLAGS = ("syn", "ack", "fin", "rst")
SEEN = np.dtype([*((name, "<i8") for name in FLAGS), ("sent_rst", "<i8"), ("received_header", "<i8")])
"""What a row tells of TCP's flags (sent_rst is -1 where the version does not say) and of the answers' header bytes."""


def turn_answers(conns: NDArray[np.void], seen: NDArray[np.void]) -> None:
    """A row whose first packet is a SYN+ACK was begun by the other side."""
    _turn(conns, np.flatnonzero((conns["protocol"] == TCP) & (seen["syn"] > 0) & (seen["ack"] > 0)))


def _turn(conns: NDArray[np.void], rows: NDArray[np.int64]) -> None:
    """Swap the sides of some rows, in place."""
    for one, other in _SIDES:
        conns[one][rows], conns[other][rows] = conns[other][rows], conns[one][rows]


class _Begun(NamedTuple):
    """The connection that a pair of ends is in."""

    row: int
    src: tuple[int, ...]
    end_us: int
    cut: bool
    """Its latest row ran into the tool's limit, so what follows is a row of its own."""


def join_tails(conns: NDArray[np.void], seen: NDArray[np.void], first_only: bool) -> NDArray[np.int64]:
    """Add rows that only end a connection to the row it began with, in place. Returns the rows that remain.

    Rows that go on after a cut or a silence remain, turned to the direction in which the connection began. Where the
    beginning was not seen, a port below 1024 is taken for the responder's.
    """
    goes_on = (seen["syn"] == 0) | (first_only & (seen["ack"] > 0))
    places = np.flatnonzero(conns["protocol"] == TCP)
    named = ("src_hi", "src_lo", "src_port", "dst_hi", "dst_lo", "dst_port", "first_us", "last_us")
    values = [conns[name][places].tolist() for name in named]
    begun: dict[tuple[tuple[int, ...], ...], _Begun] = {}
    tails = []
    for row, late, *ends, first_us, last_us in zip(places.tolist(), goes_on[places].tolist(), *values, strict=True):
        src, dst = tuple(ends[:3]), tuple(ends[3:])
        key = (min(src, dst), max(src, dst))
        main = begun.get(key)
        cut = last_us - first_us > CUT_US
        if main is not None and late and not main.cut and first_us - main.end_us <= TAIL_US:
            _add(conns, seen, main.row, row, turned=src != main.src)
            begun[key] = _Begun(main.row, main.src, max(main.end_us, last_us), cut)
            tails.append(row)
            continue
        if late and (src != main.src if main else src[2] < WELL_KNOWN <= dst[2]):
            _turn(conns, np.array([row]))
            src = dst
        begun[key] = _Begun(row, src, last_us, cut)
    return np.setdiff1d(np.arange(len(conns)), tails)


def _add(conns: NDArray[np.void], seen: NDArray[np.void], main: int, tail: int, turned: bool) -> None:
    """Add the tail's packets, bytes and flags to the main row."""
    conns["last_us"][main] = max(conns["last_us"][main], conns["last_us"][tail])
    for side, other in (("sent", "received"), ("received", "sent")):
        for unit in ("packets", "bytes"):
            conns[f"{side}_{unit}"][main] += conns[f"{other if turned else side}_{unit}"][tail]
    for name in FLAGS:
        seen[name][main] += seen[name][tail]


def states(conns: NDArray[np.void], seen: NDArray[np.void], first_only: bool) -> NDArray[np.uint8]:
    """Index into CONN_STATES for each row, as far as a version's columns tell."""
    tcp, answered = conns["protocol"] == TCP, conns["received_packets"] > 0
    mute = (conns["sent_bytes"] == 0) & (conns["received_bytes"] == 0)
    bare = seen["received_header"] == 20 * conns["received_packets"]  # a reset carries no options, an acceptance does
    if first_only:
        refused, closed = mute & bare & (conns["received_packets"] == 1), conns["last_us"] - conns["first_us"] <= CUT_US
        reset = np.zeros(len(conns), np.bool_)
    else:
        refused, closed = mute & (seen["rst"] > 0) & (seen["syn"] == 1), seen["fin"] > 1
        reset = seen["rst"] > 0
    rules = [
        (tcp & (seen["syn"] == 0), "OTH"),
        (tcp & ~answered & reset, "RSTOS0"),
        (tcp & ~answered & (seen["fin"] > 0), "SH"),
        (tcp & ~answered, "S0"),
        (tcp & refused, "REJ"),
        (tcp & reset & (seen["sent_rst"] != 0), "RSTO"),
        (tcp & reset, "RSTR"),
        (tcp & (closed | (first_only & (seen["fin"] > 0))), "SF"),
        (tcp & (seen["fin"] == 1), "S2"),
        (tcp, "S1"),
        ((conns["protocol"] == UDP) & answered, "SF"),
        (conns["protocol"] == UDP, "S0"),
    ]
    places = [np.uint8(CONN_STATES.index(state)) for _, state in rules]
    return np.select([rule for rule, _ in rules], places, np.uint8(CONN_STATES.index("OTH")))
