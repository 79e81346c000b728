"""Classes of flows: from the labels of published data sets, each with its own spelling, to the numbers that a model learns.

Which classes there are is data: a model's manifest holds the list, and a class's number is its place there. PAPER is the list
of Zhu et al. 2018 and the default. SPELLINGS says which published labels fall into which of these; for any other list of
classes the same spellings hold as far as the list has the class, and every class is also found by its own name. A label that
no class knows is no class: it is counted and told, and never guessed. docs/labels.md has the table; `flowsets` calls this.

Which spellings mean "no attack", and which "nobody judged this", is the sources' rule (`sources.finished`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sensor.spellings import BENIGN, UNSURE

PAPER = ("Normal", "DDoS", "PortScan", "Bot", "Infiltration", "Web Attack", "Patator", "DoS")
"""The classes of Zhu et al. 2018, "Attention-based Multi-Flow Model for Network Anomaly Detection", on CICIDS2017."""

SPELLINGS: dict[str, tuple[str, ...]] = {
    "DDoS": (
        "DDoS",
        "DDoS LOIT",
        "DDOS attack-HOIC",
        "DDOS attack-LOIC-UDP",
        "DDoS attacks-LOIC-HTTP",
    ),
    "PortScan": ("PortScan", "Port Scanning", "PartOfAHorizontalPortScan"),
    "Bot": ("Bot", "Bots", "Botnet", "Botnet ARES"),
    "Infiltration": ("Infiltration", "Infilteration"),
    "Web Attack": (
        "Web Attack",
        "Web Attacks",
        "Web Attack - Brute Force",
        "Web Attack - XSS",
        "Web Attack - Sql Injection",
        "Brute Force -Web",
        "Brute Force -XSS",
        "SQL Injection",
    ),
    "Patator": ("Patator", "FTP-Patator", "SSH-Patator", "FTP-BruteForce", "SSH-Bruteforce", "Brute Force"),
    "DoS": (
        "DoS",
        "DoS Hulk",
        "DoS GoldenEye",
        "DoS slowloris",
        "DoS Slowhttptest",
        "DoS attacks-Hulk",
        "DoS attacks-GoldenEye",
        "DoS attacks-Slowloris",
        "DoS attacks-SlowHTTPTest",
        # No denial of service; but its 11 flows came on the day of these, and the list has nothing nearer.
        "Heartbleed",
    ),
}
"""Labels of CICIDS2017, CSE-CIC-IDS2018 (whose brute force on FTP and SSH was Patator too), their merged forms, and IoT-23, by
class of PAPER; letter case, blanks and signs do not matter."""

UNKNOWN = -1


class ClassesError(ValueError):
    """A list of classes that cannot be; str() is the one line for the user."""


def _bare(text: str) -> str:
    return re.sub(r"[^a-z0-9&]", "", text.lower())


class Classes:
    """A list of classes, and the number that each label has in it.

    The benign class is the one whose name means "no attack". `rest` names the class for the attacks that no class knows
    ("Attack", of Normal and Attack); without it they have none.
    """

    def __init__(self, names: Sequence[str] = PAPER, rest: str | None = None) -> None:
        if len({_bare(name) for name in names}) < max(len(names), 2) or not all(map(_bare, names)):
            raise ClassesError(f"classes {', '.join(names) or 'none'}: give two or more, each with a name of its own")
        if rest is not None and rest not in names:
            raise ClassesError(f"the class {rest!r} for all other attacks is none of {', '.join(names)}")
        self.names = tuple(names)
        self.rest = UNKNOWN if rest is None else self.names.index(rest)
        known = {_bare(name): number for number, name in enumerate(names)}
        benign = [number for number, name in enumerate(names) if name.lower() in BENIGN]
        if len(benign) > 1:
            raise ClassesError(f"classes {', '.join(names)}: more than one of them means no attack")
        self.benign = benign[0] if benign else UNKNOWN
        """Number of the class of benign flows, or UNKNOWN."""
        self._known = dict(known)
        for name, spellings in SPELLINGS.items():
            if _bare(name) in known:
                for spelling in spellings:
                    self._known.setdefault(_bare(spelling), known[_bare(name)])

    def number(self, text: str, detail: str = "") -> int:
        """Number of a flow's class by its label and the data set's finer label, as sources tell them; UNKNOWN for none.

        A source gives "" for benign, and as the detail of such a row the reason where nobody judged it.
        """
        if not text:
            return UNKNOWN if detail.lower() in UNSURE else self.benign
        for spelling in (detail, text):
            number = self._known.get(_bare(spelling))
            if number is not None and spelling:
                return number
        return self.rest
