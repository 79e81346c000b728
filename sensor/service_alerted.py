"""What alerted, as a label file, so that nothing of it is ever learned as ordinary (docs/labels.md, docs/learning.md).

An attacker who is patient teaches a sensor that attacks are ordinary. So every alert adds a line here: a model's alert its
two hosts, until a day after; a fixed rule's alert the host that it caught, and what a flood's victim got meanwhile. The file is
only ever added to, so that a person may delete a line of it ("that was ordinary") and be heard; it is written anew, beside
and renamed, only when it has grown too long. `service_record` calls this in the thread that writes.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from sensor.labels import Labels, LabelsError, Line
from sensor.schema import Alert, RuleReason

NAME = "alerted.csv"
HEADER = ("from", "to", "src", "dst", "both", "label")
BY_RULE = "rule "
"""Labels of alerts that a fixed rule raised begin so; all others are a model's."""
RULES_MODEL = "netseq-rules"
"""What alerts of fixed rules have for a model's name begins so."""

DAY_US = 86_400_000_000
MODEL_DAYS = 1
"""Days after an alert of a model in which its conversation is not learned from."""
RULE_DAYS = 30
"""The same for a host that attacked by a fixed rule: what it does besides is no pattern to learn either."""
BEFORE_US, AFTER_US = 120_000_000, 3_600_000_000
"""How long before and after a flood's alert what came to its victim is no ordinary traffic. A long flood alerts again."""
FEW = 3
"""Sources of a flood, at most, of which the one named counts as its attacker: of more, it may be forged, or a client whose
server was down."""
AGAIN_US = DAY_US // 4
"""An alert that puts off its line's end by less adds none: a scan that goes on would fill the file."""
MOST_LINES = 10_000
"""Beyond it, lines that hold for nothing recorded are dropped, and then the oldest."""
LAST_US = 9_000_000_000_000_000
"""The year 2255, up to where label files know times."""


def by_rule(alert: Alert) -> bool:
    """Tell whether a fixed rule raised the alert, and not a model."""
    return alert.model.startswith(RULES_MODEL)


def sources_of(alert: Alert) -> int:
    """From how many hosts came what a rule alerted on."""
    return max([1, *(reason.sources for reason in alert.reasons if isinstance(reason, RuleReason))])


def attacker_of(alert: Alert) -> str:
    """The host that a fixed rule caught; "" where there were too many for the one that is named to mean anything."""
    return alert.src if by_rule(alert) and sources_of(alert) <= FEW else ""


def victim_of(alert: Alert) -> str:
    """The host that a flood went to; "" for other alerts. Of a sweep, the one named is one of many."""
    flood = any(isinstance(reason, RuleReason) and reason.part == "attempts" for reason in alert.reasons)
    return alert.dest if by_rule(alert) and flood else ""


class Alerted:
    """The label file in `folder`; a damaged one is put aside when it is met. OSError passes from everything in here."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self.lines = 0
        self._ends: dict[tuple[str, str, str], int] = {}
        """End of the lines of each (src, dst, label), as far as this process wrote them."""
        if self.path.exists():
            self.lines = len(self._read())

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self.path.stat().st_size if self.lines else 0

    def add(self, alerts: Sequence[Alert], oldest_us: int) -> None:
        """Add the lines of alerts; `oldest_us` is where the record begins."""
        rows = [row for alert in alerts for row in self._rows(alert)]
        if not rows:
            return
        if self.lines + len(rows) > MOST_LINES:
            self._shorten(oldest_us)
        text = _csv([HEADER, *rows] if not self.lines else rows)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text)
        self.lines += len(rows)

    def _rows(self, alert: Alert) -> Iterator[tuple[str, ...]]:
        if not by_rule(alert):
            yield from self._row("", alert.last_seen_us + MODEL_DAYS * DAY_US, alert.src, alert.dest, alert.signature, "yes")
            return
        label = BY_RULE + alert.signature
        if attacker := attacker_of(alert):
            yield from self._row("", alert.last_seen_us + RULE_DAYS * DAY_US, attacker, "", label, "yes")
        if victim := victim_of(alert):
            begun = _time(alert.first_seen_us - BEFORE_US)
            yield from self._row(begun, alert.last_seen_us + AFTER_US, "", victim, label, "no")

    def _row(self, begun: str, end_us: int, src: str, dst: str, label: str, both: str) -> Iterator[tuple[str, ...]]:
        least_us = AGAIN_US if not begun else 1
        if end_us - self._ends.get((src, dst, label), -DAY_US * 1_000_000) >= least_us:
            if len(self._ends) >= MOST_LINES:
                self._ends.clear()
            self._ends[src, dst, label] = end_us
            yield begun, _time(end_us), src, dst, both, label

    def _shorten(self, oldest_us: int) -> None:
        """Write the file anew with the half of the lines that matter most."""
        kept = [line for line in self._read() if line.begins_us[1] >= oldest_us]
        numbers = {line.number for line in kept[-MOST_LINES // 2 :]}
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True) if kept else []
        text = _csv([HEADER]) + "".join(line for number, line in enumerate(lines, 1) if number in numbers)
        beside = self.path.with_name(NAME + ".new")
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, self.path)
        self.lines = len(numbers) + 1

    def _read(self) -> Sequence[Line]:
        """The lines that are there."""
        try:
            return Labels.parse(self.path.read_bytes(), str(self.path)).lines
        except LabelsError:  # no lines, or a person's slip: training would refuse it, and must not stop for it
            with contextlib.suppress(FileNotFoundError):
                os.replace(self.path, self.path.with_name(NAME + ".refused"))
            self.lines = 0
            return ()


def _csv(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _time(time_us: int) -> str:
    """A time as label files have it; one that no calendar knows is none."""
    if not 0 <= time_us < LAST_US:
        return ""
    return datetime.fromtimestamp(time_us / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%S")
