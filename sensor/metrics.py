"""Every counter that netseq keeps, in one table: its name, its unit, what it counts, and whether it tells of a loss.

The parts count in plain integers of their own; `Engine.counters` gathers them under the names of this table, and the
command's summary, a service's log and later Prometheus all read the same dictionary. A name may carry one label behind
a dot, such as `packets_skipped.arp`. Nothing is dropped silently: what is not looked at has a counter here with `loss` set.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple


class Counter(NamedTuple):
    """What one name, or one family of labelled names, counts."""

    name: str
    unit: str
    meaning: str
    label: str = ""
    """What stands behind the dot, "" when the name stands alone."""
    loss: bool = False
    """It counts what was not looked at, or was forgotten to keep memory bounded."""
    gauge: bool = False
    """It tells a present number, which may fall."""


COUNTERS = (
    Counter("packets_read", "packets", "frames that the sources handed over"),
    Counter("bytes_read", "bytes", "bytes on the wire of these frames"),
    Counter("packets_dropped", "packets", "packets that the kernel dropped because the ring was full", "interface", loss=True),
    Counter("ring_freezes", "times", "times that an interface's ring was full", "interface"),
    Counter("ring_blocks_broken", "blocks", "blocks of a ring whose headers contradict themselves", loss=True),
    Counter("interfaces_lost", "times", "times that an interface went down or away", "interface", loss=True),
    Counter("interfaces_up", "interfaces", "interfaces listened on now", gauge=True),
    Counter("interfaces_down", "0 or 1", "1 while an interface to be listened on is down or away", "interface", gauge=True),
    Counter("captures_read", "files", "captures of the watched folder that were read"),
    Counter("captures_damaged", "files", "captures of the watched folder that could not be read to their end", loss=True),
    Counter(
        "captures_unreadable",
        "files",
        "captures of the watched folder that cannot be read now, and are tried again",
        gauge=True,
    ),
    Counter("packets_in_flows", "packets", "packets that were counted into a flow"),
    Counter("packets_skipped", "packets", "frames that gave no packet", label="reason", loss=True),
    Counter("link_types_unknown", "packets", "frames of a link type that is not decoded", label="number", loss=True),
    Counter(
        "packets_unstamped", "packets", "frames without a time of their own, which were given the time of the frame before"
    ),
    Counter("blocks_skipped", "blocks", "pcapng blocks that carry no packet", label="kind", loss=True),
    Counter("files_skipped", "files", "files in folders that are no captures or logs, or were met before", loss=True),
    Counter("zeek_peers", "connections", "connections to a running Zeek that stand now", gauge=True),
    Counter("zeek_messages", "messages", "messages that came from a running Zeek"),
    Counter("zeek_messages_other", "messages", "messages of other logs and events than connections"),
    Counter("zeek_messages_waiting", "messages", "messages that wait to be read", gauge=True),
    Counter("zeek_messages_dropped", "messages", "messages that came while no room was left for more", loss=True),
    Counter("zeek_messages_skipped", "messages", "messages that could not be read", label="reason", loss=True),
    Counter("rows_skipped", "rows", "rows of a log that gave no flow", label="reason", loss=True),
    Counter("flows_ended", "flows", "flows that ended", label="end"),
    Counter("flows_live", "flows", "flows alive now", gauge=True),
    Counter("flows_capacity", "flows", "flows that may be alive at once, in the tables of all capture workers", gauge=True),
    Counter("flows_evicted", "flows", "flows ended early because the table was full", loss=True),
    Counter("flows_shed", "flows", "flows that were not scored, because scoring could not follow", "reason", loss=True),
    Counter("flows_waiting", "flows", "flows that wait to be scored", gauge=True),
    Counter("flows_waiting_capacity", "flows", "flows that may wait to be scored", gauge=True),
    Counter("clock_steps_back", "steps", "times that the packets' clock was set back by more than a minute", loss=True),
    Counter("conversations_started", "conversations", "conversations that began, or began anew after a silence"),
    Counter("conversations_live", "conversations", "conversations remembered now", gauge=True),
    Counter("conversations_capacity", "conversations", "conversations that may be remembered at once", gauge=True),
    Counter("conversations_evicted", "conversations", "conversations forgotten because the table was full", loss=True),
    Counter("words_scored", "words", "flows that the models scored"),
    Counter("words_shed", "words", "flows of a flood that were sampled away before the LSTM", loss=True),
    Counter("windows_scored", "flows", "flows that the multi-flow model scored, each with those before it"),
    Counter("alerts_raised", "alerts", "alerts that a model raised"),
    Counter("alerts_degraded", "alerts", "alerts about what the sensor itself did not see or judge"),
    Counter("alerts_by_rule", "alerts", "alerts that a fixed rule raised", label="rule"),
    Counter("flows_over_rule", "flows", "attempts that came to nothing, in minutes over a fixed rule", label="rule"),
    Counter("alerts_ignored", "alerts", "alerts on what the list of detect.ignore names"),
    Counter("alerts_withheld", "alerts", "alerts of a model that were not written, because the sensor was still learning"),
    Counter("alerts_written", "alerts", "alerts written, or taken by whom they were sent to", label="sink"),
    Counter("alerts_waiting", "alerts", "alerts that wait to be written", label="sink", gauge=True),
    Counter("alerts_lost", "alerts", "alerts that could not be written while too many waited", label="sink", loss=True),
    Counter("alerts_refused", "alerts", "alerts that their receiver will never take, given up", label="sink", loss=True),
    Counter("alerts_unexplained", "alerts", "alerts that no part of the word explains, written without a reason"),
    Counter("alerts_suppressed", "flows", "flows over the threshold that an alert of their conversation stands for"),
    Counter("alerts_untold", "flows", "flows over the threshold that came after their conversation's last alert", loss=True),
    Counter("rules_shed", "hosts", "hosts that the fixed rules lost sight of because there were too many", loss=True),
    Counter("rule_alerts_capped", "alerts", "alerts of fixed rules beyond what an hour may have, not written", loss=True),
    Counter("flows_recorded", "flows", "flows written to the site's record"),
    Counter("flows_unrecorded", "flows", "flows that the site's record does not have", label="reason", loss=True),
    Counter("learning", "0 or 1", "1 while the sensor learns its site and only fixed rules alert", gauge=True),
    Counter("states_saved", "times", "times that the state was saved"),
    Counter("states_refused", "times", "states, old or new, that could not be read or written", label="reason", loss=True),
    Counter("reloads", "times", "times that settings, model and lists were read anew", label="outcome"),
    Counter("log_lines_suppressed", "lines", "log lines that repeated others too often and were left out"),
    Counter("log_lines_lost", "lines", "log lines that could not be written", loss=True),
)
"""All counters, in the order of a packet's path. The order is that of the summary."""

_BY_NAME = {counter.name: counter for counter in COUNTERS}


def split(name: str) -> tuple[Counter, str]:
    """Find what `name` counts, and its label: `packets_skipped.arp` gives that counter and "arp".

    Raises KeyError for a name that is not in the table, or that lacks its label or has one too many.
    """
    base, dot, label = name.partition(".")
    counter = _BY_NAME[base]
    if bool(dot) != bool(counter.label):
        raise KeyError(name)
    return counter, label


def known(name: str) -> bool:
    """Tell whether `split` takes a name: a state that another version wrote may have others."""
    try:
        split(name)
    except KeyError:
        return False
    return True


def total(counters: Mapping[str, int], name: str) -> int:
    """Add up a family over its labels; a name that was never counted is 0."""
    return sum(value for key, value in counters.items() if key.partition(".")[0] == name)


def losses(counters: Mapping[str, int]) -> Iterator[tuple[Counter, str, int]]:
    """Yield what was lost and is not zero, in the table's order and then by size: counter, label, number."""
    found = [(split(name), value) for name, value in counters.items() if value]
    for counter in COUNTERS:
        rows = [(label, value) for (which, label), value in found if which is counter and counter.loss]
        for label, value in sorted(rows, key=lambda row: (-row[1], row[0])):
            yield counter, label, value
