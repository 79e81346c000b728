"""The site's record read back for training: in the order of recording, a bounded number of flows, what alerted marked.

Order is why `datasets.read` will not do: a log is read there in the order of its connections' last packets, but the sensor
scores flows in the order in which they end, time-outs included, and so they were recorded. Read as they lie, the words are
those that were scored, every one; sorted, 1 to 10 % of the gaps differ, for they tell the time since the flow before.

A week of a busy site has more flows than memory. What is kept then are all flows of some pairs of hosts, chosen by a hash:
a conversation is kept whole or not at all, so its words stay what they are, and rates are told by the share of pairs.
`sensor.commands.train_site` calls this.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sensor.labels import Labels
from sensor.schema import FLOW
from sensor.service_alerted import BY_RULE, NAME
from sensor.service_record_files import kept_files
from sensor.sources.zeek import ConnLogSource, NotAConnLog

MOST_FLOWS = 400_000
"""Flows that training holds: 640 bytes each as they are read, and as much again while it scores them."""


class Record(NamedTuple):
    """What a sensor recorded, in the order in which it scored it."""

    flows: NDArray[np.void]
    """(N,) FLOW rows."""
    by_rule: NDArray[np.bool_]
    """(N,) flows of, or to, what a fixed rule caught."""
    by_model: NDArray[np.bool_]
    """(N,) flows of conversations that a model alerted on, and no rule."""
    share: float
    """Share of the pairs of hosts that were kept."""
    files: tuple[Path, ...]
    damaged: int
    """Lines that could not be read; the end that an open or cut file lacks is none."""


def read_record(folder: Path, labels: Sequence[Labels] = (), *, most_flows: int = MOST_FLOWS) -> Record:
    """Read the record in `folder`. The first of `labels` that names a flow decides; then its alerted.csv. OSError passes.

    Raises LabelsError for an alerted.csv that cannot be used.
    """
    files = [kept.path for kept in kept_files(folder)]
    kept: list[NDArray[np.void]] = []
    total, every, damaged = 0, 1, 0
    for path in files:
        try:
            source = ConnLogSource([path], as_written=True)
            for flows, *_ in source:
                kept.append(flows[_chosen(flows, every)])
                total += len(kept[-1])
                while total > most_flows:
                    every *= 2
                    kept = [piece[_chosen(piece, every)] for piece in kept]
                    total = sum(map(len, kept))
        except (NotAConnLog, FileNotFoundError):  # the sensor was killed before its first line, or just deleted the oldest hour
            continue
        damaged += sum(number for kind, number in source.damage_counts.items() if kind != "compression")
    flows = np.concatenate(kept) if kept else np.empty(0, FLOW)
    alerted = folder / NAME
    some = alerted.exists() and len(alerted.read_bytes().split()) > 1  # a person may have deleted every line but the header
    known = [*labels, *([Labels.read(alerted)] if some else [])]
    by_rule, by_model = _alerted(flows, known)
    return Record(flows, by_rule, by_model, 1 / every, tuple(files), damaged)


def _chosen(flows: NDArray[np.void], every: int) -> NDArray[np.bool_]:
    """(n,) flows of one in `every` (a power of two) pairs of hosts."""
    if every == 1:
        return np.ones(len(flows), np.bool_)
    mixed = np.zeros(len(flows), np.uint64)
    for end in ("src", "dst"):
        host = (flows[f"{end}_hi"] ^ flows[f"{end}_lo"]) * np.uint64(0x9E37_79B9_7F4A_7C15)
        mixed += (host ^ host >> np.uint64(29)) * np.uint64(0xBF58_476D_1CE4_E5B9)
    return np.asarray((mixed >> np.uint64(40)) & np.uint64(every - 1) == 0)


def _alerted(flows: NDArray[np.void], known: Sequence[Labels]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(N,) and (N,): flows that a rule, or else a model or a person, called an attack. A rule's word goes before a model's."""
    attack, rule, open_ = (np.zeros(len(flows), np.bool_) for _ in range(3))
    open_[:] = True
    for labels in known:
        found = labels.of(flows)
        names = np.array(["", *labels.names], dtype=np.str_)[found + 1]
        hit = open_ & (found >= 0)
        attack |= hit & (names != "")
        rule |= hit & np.char.startswith(names, BY_RULE)
        open_ &= ~hit
    return rule, attack & ~rule
