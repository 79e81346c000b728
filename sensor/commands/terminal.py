"""What a person at a terminal sees: the progress bar, the table of alerts, and the closing summary.

Progress goes to standard error, so that standard output carries alerts and nothing else when it is a pipe or a
file. Text that came from the network or from a log (a uid, a path) is made printable first: an escape sequence in it
would be the terminal's to obey.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from sensor import metrics
from sensor.commands import linktypes
from sensor.message import flow_of, share, statistic
from sensor.schema import Alert, AnyReason, Reason, RuleReason

COLOURS = {"critical": "bold red", "high": "red", "medium": "yellow", "low": "cyan"}

TABLE_ROWS = 200
"""Alerts in the table: more are not read at a terminal, and the table must be held until it is drawn."""


def printable(text: str) -> str:
    """Show control characters as escapes, so that a terminal prints them and does not obey them."""
    return text if text.isprintable() else "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def stamp(ts_us: int) -> str:
    """Write packet time as UTC to the second; a time that no calendar has is written as seconds since 1970."""
    try:
        return f"{datetime.datetime.fromtimestamp(ts_us // 1_000_000, datetime.UTC):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        return f"{ts_us / 1e6:.0f} s"


def end_point(address: str, port: int) -> str:
    """Write one end of a flow; an IPv6 address gets brackets (RFC 5952, 6)."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def plain(alert: Alert) -> str:
    """Write an alert as one line, for a pipe."""
    ends = f"{end_point(alert.src, alert.src_port)} -> {end_point(alert.dest, alert.dest_port)}/{alert.transport}"
    return printable(f"{stamp(alert.ts_us)} {alert.severity:<8} {ends} {alert.msg}") + "\n"


class AlertTable:
    """Keeps the first alerts and draws them as a table on standard output when it is closed."""

    def __init__(self) -> None:
        self._kept: list[Alert] = []
        self._left_out = 0

    def write(self, alerts: Iterable[Alert]) -> None:
        """Take alerts in the order in which they were raised."""
        for alert in alerts:
            if len(self._kept) < TABLE_ROWS:
                self._kept.append(alert)
            else:
                self._left_out += 1

    def close(self) -> None:
        """Draw the table; no alert, no table."""
        if self._kept:
            Console().print(table(self._kept, self._left_out), "")


def table(alerts: Sequence[Alert], left_out: int) -> Table:
    """Draw the alerts, each with its reasons below what happened."""
    caption = f"{left_out:,} more alerts are not shown: --output DIR writes all" if left_out else None
    drawn = Table(caption=caption, caption_justify="left", pad_edge=False, box=None, padding=(0, 2, 1, 0))
    drawn.add_column("time (UTC)", no_wrap=True)
    drawn.add_column("severity", no_wrap=True)
    drawn.add_column("alert", overflow="fold", ratio=1)
    for alert in alerts:
        severity = Text(alert.severity, style=COLOURS.get(alert.severity, ""))
        text = Text(printable(alert.msg))
        for reason in alert.reasons:
            text.append(f"\n  {printable(told(reason))}", style="dim")
        drawn.add_row(stamp(alert.ts_us), severity, text)
    return drawn


def told(reason: AnyReason) -> str:
    """Write a reason as one line: what was seen, how likely or how far off it was held, and what was expected."""
    if isinstance(reason, RuleReason):
        return f"{reason.part}: {reason.seen:,} within {reason.within_s:.3g} s, the rule is {reason.most:,} a minute at most"
    if not isinstance(reason, Reason):
        return f"{statistic(reason)}; {flow_of(reason)} has {share(reason.attention)} of the attention"
    seen = f"{reason.part}: {reason.seen} ({share(reason.seen_probability)}, {reason.nats:.1f} nats)"
    return f"{seen}, expected {reason.expected} ({share(reason.expected_probability)})"


def summary(
    counters: Mapping[str, int],
    notes: Iterable[str],
    seconds: float,
    *,
    rated: bool = True,
    log: bool = False,
    judged: bool = True,
) -> str:
    """Tell what was read, found and lost; losses that are zero are left out.

    `notes` are further lines, such as the files that were written. `seconds` is the time that reading took;
    not `rated` leaves the packets a second out, because most of that time went into compiling. A `log` has no packets, and
    flows that were not `judged` gave no conversations and alerts.
    """
    packets, flows = counters.get("packets_read", 0), metrics.total(counters, "flows_ended")
    read = flows if log else packets
    rate = f", {read / seconds:,.0f} a second" if rated and read and seconds > 0 else ""
    took = f"in {seconds:.1f} s{rate}"
    rows = [
        *([] if log else [("packets", packets, took)]),
        ("flows", flows, took if log else ""),
    ]
    if judged:
        rows += [
            ("conversations", counters.get("conversations_started", 0), ""),
            ("alerts", raised(counters), standing_for(counters)),
        ]
    lines = [f"{name:<14}{value:>14,}  {note}".rstrip() for name, value, note in rows]
    lost = [
        f"{value:>28,}  {_loss(counter, label)}"
        for counter, label, value in metrics.losses(counters)
        if (counter.name, label) != ("packets_skipped", "link_type")  # told number by number instead
    ]
    if lost:
        lines += ["left out", *lost]
    return "\n".join([*lines, *notes]) + "\n"


def standing_for(counters: Mapping[str, int]) -> str:
    """Tell how many flows the alerts stand for, when they stand for more than one each."""
    by_models = counters.get("alerts_suppressed", 0) + counters.get("alerts_raised", 0)
    flows = by_models + metrics.total(counters, "flows_over_rule")
    return f"standing for {flows:,} flows" if flows > raised(counters) else ""


def raised(counters: Mapping[str, int]) -> int:
    """Alerts of models and of fixed rules."""
    return counters.get("alerts_raised", 0) + metrics.total(counters, "alerts_by_rule")


def _loss(counter: metrics.Counter, label: str) -> str:
    if counter.name == "link_types_unknown":
        return f"{counter.meaning}: {linktypes.named(int(label))}"
    return printable(f"{counter.meaning}: {label.replace('_', ' ')}" if label else counter.meaning)


class Rate(ProgressColumn):
    """Packets, or connections of a log, so far and a second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        """Draw the column."""
        read = task.fields["read"]
        rate = read / task.elapsed if task.elapsed else 0.0
        return Text(f"{read:,} {self._unit}, {rate:,.0f} a second")


class Bar:
    """The progress bar: bytes of the input for the share and the time left, packets or connections for the rate."""

    def __init__(self, *, shown: bool, unit: str, doing: str = "replaying", found: str = "alert") -> None:
        """Draw on standard error where it is a terminal and `shown` asks for it; else nothing at all.

        `unit` is what is read, `doing` what the command does, and `found` what comes of it.
        """
        self._doing, self._found = doing, found
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), Rate(unit), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console, transient=True, disable=not (shown and console.is_terminal))
        self._task = self._progress.add_task(doing, total=None, read=0)

    def update(self, done: int, total: int | None, read: int, found: int) -> None:
        """Show how far the input is read: `done` of `total` bytes, None when nobody knows how many there are."""
        named = f"{self._doing}, {found:,} {self._found}{'s' * (found != 1)}" if found else self._doing
        self._progress.update(self._task, completed=done, total=total, read=read, description=named)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()
