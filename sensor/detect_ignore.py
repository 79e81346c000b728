"""What never alerts: alerts that match a line of a label file are counted and not written.

An operator's own scanners, backups and health checks are unusual and meant. A label file (docs/labels.md) tells them by
hosts, ports, protocol and time, here as for training, and the first line that matches wins here as there: one with the label
"alert" is an exception that goes on alerting, under any other the alert is ignored. The label is the place to say why.

The decision comes last: what is ignored has been judged, has its quiet time, and was worth its place in the budget, so that
a line more or less changes no other alert. `engine.Judge` asks here; who may open files reads the list.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sensor.addresses import WITH_PORTS
from sensor.labels import PROTOCOLS, Labels, LabelsError, NoLines, Unreadable
from sensor.schema import FLOW, V4_MAPPED, Alert

EXCEPTION = "alert"
"""The label whose lines ignore nothing."""
_LOW = (1 << 64) - 1


class IgnoreRefused(Exception):  # noqa: N818  # reads as the sentence it is, like the other refusals
    """A list that cannot be used; str() is the one line for the user."""


class Ignored:
    """A list of what never alerts. Without labels it is empty."""

    def __init__(self, labels: Labels | None = None) -> None:
        self.count = 0
        """Alerts that were ignored so far."""
        self._labels = labels
        lines = () if labels is None else labels.lines
        self._goes = np.array([line.label.lower() == EXCEPTION for line in lines] + [True])  # the last one: no line matches

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Ignored:
        """Read the label file that `detect.ignore` names; "" is none, and one without lines ignores nothing.

        Raises IgnoreRefused, one line.
        """
        if not os.fspath(path):
            return cls()
        try:
            return cls(Labels.read(path))
        except NoLines:
            return cls()
        except Unreadable as wrong:
            raise IgnoreRefused(f"detect.ignore: {wrong}, or none") from None
        except LabelsError as wrong:
            first, *rest = str(wrong).splitlines()
            raise IgnoreRefused(f"detect.ignore: {first}{f' (and {len(rest)} more)' if rest else ''}") from None

    def keep(self, alerts: Sequence[Alert]) -> list[Alert]:
        """Those of the alerts that are to be written, in their order; counts the others."""
        if self._labels is None or not alerts:
            return list(alerts)
        goes = self._goes[self._labels.of(_rows(alerts))]
        self.count += int((~goes).sum())
        return [alert for alert, written in zip(alerts, goes.tolist(), strict=True) if written]

    def counters(self) -> dict[str, int]:
        """Give the count by its name in `metrics`, once there is something to count."""
        return {"alerts_ignored": self.count} if self._labels is not None or self.count else {}


def _rows(alerts: Sequence[Alert]) -> NDArray[np.void]:
    """(n,) FLOW rows with what lines ask for: hosts, ports, protocol, and the alert's time as the time of the flow."""
    rows = np.zeros(len(alerts), FLOW)
    for row, alert in zip(rows, alerts, strict=True):
        row["first_us"] = alert.ts_us
        row["protocol"] = protocol = _protocol(alert.transport)
        for end, address in (("src", alert.src), ("dst", alert.dest)):
            number = _number(address)
            row[f"{end}_hi"], row[f"{end}_lo"] = number >> 64, number & _LOW
        if protocol in WITH_PORTS:  # of the others, an alert's ports are type and code
            row["src_port"], row["dst_port"] = alert.src_port, alert.dest_port
    return rows


def _number(address: str) -> int:
    """An address as a 128-bit number, IPv4 in the mapped form; 0 where an alert is of no one host."""
    if not address:
        return 0
    found = ipaddress.ip_address(address)
    return (V4_MAPPED if found.version == 4 else 0) + int(found)


def _protocol(transport: str) -> int:
    """The number behind a protocol's name in alerts, which is the number itself where it has none."""
    return PROTOCOLS.get(transport) or int(transport)
