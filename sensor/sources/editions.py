"""Which program wrote a table of flows, and where its columns mean something else than netseq's of the same name.

CICFlowMeter changed from version to version, and tables do not say by which they were made. The header tells the version;
where the data contradict the header, the data are right. Each edition lists in `otherwise` the columns whose values follow
other rules than netseq's, so that training can leave them out. The lists follow from the programs' sources, and were
checked on the tables that they wrote:

- PUBLISHED, LATER: the tool of 2017 and 2018. Flags are those of the first packet alone, under shuffled names (see
  `cicflowmeter`). The first packet's length counts twice in four columns. Bulks are 0, subflows are the totals, Active and
  Idle miss some of the gaps. In the tables published as CICIDS2017 the header of a UDP packet has the length of the last TCP
  header before it, in daily tables of October 2017 it is -1; from January 2018 on it is 8. LATER has the short names of
  CSE-CIC-IDS2018, and headers are right there.
- ORIGINAL: the last version of the original tool, "CWR Flag Count" and "Total Fwd Packet". Flags are counted, but by side
  only for the first packet; bulks are of both directions together.
- REPAIRED: the fork with "Fwd RST Flags"; what it does otherwise is listed in docs/statistics.md. Tables that netseq writes
  under another header than its own cannot be told from these, so their columns are listed too.
- PORT: the Python port of CICFlowMeter. Lengths are of whole frames, deviations of the population, a single gap counts as
  none, header bytes are those of IP, a silence is 5 ms.
- NETSEQ: netseq's own header. Nothing is otherwise, provided that the default rules wrote it.

Called by `flowcsv`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.sources.cicflowmeter import SHUFFLED
from sensor.spellings import HEADERS

Numbers = NDArray[np.float64]


class Edition(NamedTuple):
    """A program that writes tables of flows."""

    name: str
    otherwise: frozenset[str]
    """Columns whose values follow other rules than netseq's."""
    first_only: bool = False
    """Flags are those of a flow's first packet, and under shuffled names."""


_FOUR = ("Mean", "Std", "Max", "Min")
_SIDES = ("Fwd", "Bwd")
_ACTIVE = {f"Active {of}" for of in _FOUR}
_IDLE = {f"Idle {of}" for of in _FOUR}
_SUBFLOWS = {f"Subflow {side} {unit}" for side in _SIDES for unit in ("Packets", "Bytes")}
_BULKS = {f"{side} {what} Avg" for side in _SIDES for what in ("Bytes/Bulk", "Packet/Bulk", "Bulk Rate")}
_FIRST_TWICE = {"Packet Length Mean", "Packet Length Std", "Packet Length Variance", "Average Packet Size"}
_FLAGS_BY_SIDE = {f"{side} {flag} Flags" for side in _SIDES for flag in ("PSH", "URG")}
_FLAGS = {f"{flag.upper()} Flag Count" for flag in SHUFFLED}
_HEADERS = {"Fwd Header Length", "Bwd Header Length", "Fwd Seg Size Min"}
_WINDOWS = {"FWD Init Win Bytes", "Bwd Init Win Bytes"}
_GAPS = {f"{whose} IAT {of}" for whose in ("Flow", *_SIDES) for of in (*_FOUR, "Total")} - {"Flow IAT Total"}
_LENGTHS = {f"{side} {what}" for side in _SIDES for what in (*(f"Packet Length {of}" for of in _FOUR), "Segment Size Avg")}
_LENGTHS |= {
    "Total Length of Fwd Packet",
    "Total Length of Bwd Packet",
    "Packet Length Max",
    "Packet Length Min",
    "Flow Bytes/s",
}

_ORIGINAL = _FIRST_TWICE | _FLAGS_BY_SIDE | _BULKS | _SUBFLOWS | _ACTIVE | _WINDOWS | {"Down/Up Ratio", "Fwd Act Data Pkts"}
_OLD = _ORIGINAL | _FLAGS | _IDLE

PUBLISHED = Edition("CICFlowMeter of 2017, as published with CICIDS2017", frozenset(_OLD | _HEADERS), first_only=True)
LATER = Edition("CICFlowMeter of 2018, as published with CSE-CIC-IDS2018", frozenset(_OLD), first_only=True)
ORIGINAL = Edition("CICFlowMeter, version 4", frozenset(_ORIGINAL))
REPAIRED = Edition(
    "the repaired CICFlowMeter",
    frozenset(
        _ACTIVE | _SUBFLOWS | {"Fwd Seg Size Min", "Bwd Seg Size Min", "FWD Init Win Bytes", "Total Connection Flow Time"}
    ),
)
PORT = Edition(
    "the Python port of CICFlowMeter",
    frozenset(
        _LENGTHS | _FIRST_TWICE | _GAPS | _BULKS | _SUBFLOWS | _ACTIVE | _IDLE | _HEADERS
        | {"Bwd Init Win Bytes", "Fwd Act Data Pkts", "CWR Flag Count"}
    ),
)  # fmt: skip
NETSEQ = Edition("netseq", frozenset())

EDITIONS = (PUBLISHED, LATER, ORIGINAL, REPAIRED, PORT, NETSEQ)

AT_ODDS = 0.1
"""More rows with flags than this share, and the data contradict the header; one damaged row shall not turn a file."""


def _bare(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _bares(layout: str) -> set[str]:
    return {_bare(text) for text, _ in HEADERS[layout] if text}


_PORT_TEXTS = {re.sub(r"[ /]", "_", text.lower()) for text, _ in HEADERS["cse-cic-ids2018"]}
_NETSEQ_TEXTS = {text for text, _ in HEADERS["netseq"]}
_LATER_TEXTS = _bares("cse-cic-ids2018") - _bares("cicids2017")
_NEW_TEXTS = _bares("cicflowmeter") - _bares("cicids2017") - _bares("cse-cic-ids2018")
_REPAIRED_TEXTS = {_bare(text) for text in ("Fwd RST Flags", "Bwd RST Flags", "Bwd Act Data Pkts", "Bwd Seg Size Min")}


def edition_of(texts: Sequence[str]) -> Edition:
    """The edition that a header's texts tell. Old ones are confirmed by the data later (`confirmed`)."""
    exact, bare = {text.strip() for text in texts}, {_bare(text) for text in texts}
    if exact & (_NETSEQ_TEXTS - _PORT_TEXTS):
        return NETSEQ
    if exact & (_PORT_TEXTS - _NETSEQ_TEXTS):
        return PORT
    if bare & _REPAIRED_TEXTS:
        return REPAIRED
    if bare & _NEW_TEXTS:
        return ORIGINAL
    return LATER if bare & _LATER_TEXTS else PUBLISHED


def confirmed(edition: Edition, column: Callable[[str], Numbers]) -> Edition:
    """The same edition, or the one that the flags belong to where they are counts under an old header.

    Old versions write PSH twice, under "SYN Flag Count" and as "Fwd PSH Flags", and URG under "CWE Flag Count" and as "Fwd URG
    Flags", never above 1. So netseq's tables under an old header are known. `column` gives (n,) values, NaN where unknown.
    """
    if not edition.first_only:
        return edition
    flags = np.array([column(name) for name in sorted(_FLAGS)])
    at_odds = (np.nan_to_num(flags) > 1).any(axis=0)
    for one, other in (("SYN Flag Count", "Fwd PSH Flags"), ("CWR Flag Count", "Fwd URG Flags")):
        at_odds |= np.abs(column(one) - column(other)) > 0
    flagged = (np.nan_to_num(flags) > 0).any(axis=0)
    if (at_odds & flagged).sum() <= AT_ODDS * flagged.sum():
        return edition
    return ORIGINAL if _first_twice(column) else REPAIRED


def _first_twice(column: Callable[[str], Numbers]) -> bool:
    """Whether the mean length counts the first packet twice."""
    packets = column("Total Fwd Packet") + column("Total Bwd packets")
    total = column("Total Length of Fwd Packet") + column("Total Length of Bwd Packet")
    return bool((np.abs(column("Packet Length Mean") * packets - total) > 1e-3 * (total + 1)).any())
