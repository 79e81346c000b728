"""`netseq-evaluate radford2018`: the experiment of Radford et al. 2018, on ISCX IDS 2012 as they did, or on CICIDS2017.

Two alphabets (protobytes and ports: docs/words.md), two kinds of sentence (the directed and the undirected host pair, cut by
clock hours), windows of ten with stride one and padding at the left, trained on the cleanest days. Scores are gathered
by the greatest surprise per pair and hour, and by the five keys of the follow-up (Radford et al. 2018, "Sequence
Aggregation Rules for Anomaly Detection in Computer Network Traffic"): source, destination, pair, internal and external host.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.measures import Interval, ranking
from models.radford import WINDOW, Hours, Settings, Windows, hourly, surprise, tokens, windows
from sensor.commands import published
from sensor.commands.classes import Classes
from sensor.commands.datasets import fingerprint
from sensor.commands.evaluate_radford_examples import Said, examples
from sensor.commands.misuse import Misuse
from sensor.commands.report import Bars, Curves, Report, Table, Value, machine, precision, roc
from sensor.schema import V4_MAPPED
from sensor.sources.flowcsv import FlowCsvSource
from sensor.sources.iscx import IscxSource
from sensor.vocabulary import Kind, keys_of

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

ALPHABETS: tuple[Kind, ...] = ("protobytes", "ports")
HOUR_US, DAY_US = 3_600_000_000, 86_400_000_000
PRIVATE = ((0x0A000000, 8), (0xAC100000, 12), (0xC0A80000, 16))
"""Networks of RFC 1918, whose hosts are internal."""


class Reading(NamedTuple):
    """How flows are made sentences of."""

    alphabet: Kind
    directed: bool
    """Whether what goes from one host to the other and what comes back are sentences apart."""


READINGS = {
    f"{alphabet}, {kind}": Reading(alphabet, kind == "directed")
    for alphabet in ALPHABETS
    for kind in ("directed", "undirected")
}


class Flows(NamedTuple):
    """All flows in the order of time."""

    src: Ints
    """(N,) number of the source host."""
    dst: Ints
    internal: Bools
    """(hosts,) which hosts are internal."""
    hosts: NDArray[np.uint64]
    """(hosts, 2) the addresses' high and low halves."""
    first_us: Ints
    keys: dict[str, Ints]
    """(N,) by alphabet."""
    label: Ints
    """(N,) place among the published labels, -1 for one that is none of them."""

    @property
    def attack(self) -> Bools:
        """(N,) rows with any label but the benign one."""
        return np.asarray(self.label != 0)


def measure(arguments: argparse.Namespace) -> tuple[Report, bool]:
    """Train and measure; the report, and whether all input could be read. Raises Misuse."""
    files, source, names, official = _opened(arguments.data)
    flows = read(source, Classes(names))
    if not flows.first_us.any() or not len(flows.internal) > 1:
        raise Misuse(f"{arguments.data}: these tables have no hosts or times: TrafficLabelling has, MachineLearningCVE has not")
    counted = np.bincount(flows.label[flows.label >= 0], minlength=len(names)).tolist()
    counts = dict(zip(names, counted, strict=True)) | {"labels of other names": int((flows.label < 0).sum())}
    report = Report(f"Radford et al. 2018 on {'ISCX IDS 2012' if isinstance(source, IscxSource) else 'CICIDS2017'}")
    different = published.differences(counts, official)
    report.warnings += published.check(arguments.data, different, partial=arguments.partial)
    if damaged := sum(source.damage_counts.values()):
        report.warnings.append(f"{arguments.data}: {damaged:,} places could not be read")
    clean, tested = cleanest(flows)
    if not clean.any() or not tested.any():
        lacks = "no day has more attacks than the cleanest: none is left to test on"
        if not clean.any():
            lacks = "the day with the fewest attacks has no benign flow to learn from"
        raise Misuse(f"{arguments.data}: {lacks}: give a clean day and days with attacks")
    if left_out := int((~clean & ~tested).sum()):
        report.warnings.append(f"no day is without an attack: those of the cleanest, {left_out:,} flows, are in no part")
    settings = Settings(seed=arguments.seed, epochs=arguments.epochs, embedding=arguments.units, units=arguments.units)
    scored = dict(_scored(flows, clean, settings))
    report.facts += _facts(arguments, files, flows.first_us, clean, tested, settings)
    keys, of_pairs = by_key(flows, tested, scored, arguments)
    attacks, of_attacks = by_attack(flows, tested, scored, names, arguments)
    report.tables += [keys, attacks]
    best = max(scored, key=lambda name: np.nan_to_num(of_pairs[name].value, nan=-1.0))
    keyed, (read_as, _) = flows.keys[READINGS[best].alphabet], _windows(flows, clean, READINGS[best])
    said = Said(best, keyed, READINGS[best].alphabet, np.unique(keyed[clean]), read_as, scored[best])
    report.tables += examples(flows, tested, _paired(flows, tested), said, names)
    report.figures += [*_curves(flows, tested, scored), of_attacks]
    return report, not damaged


def _opened(folder: Path) -> tuple[list[str], FlowCsvSource | IscxSource, tuple[str, ...], dict[str, int]]:
    """The files of a folder, their source, and the labels with their official counts; the benign one is first."""
    if xml := sorted(str(path) for path in folder.rglob("*.xml")):
        return xml, IscxSource(xml), tuple(published.ISCX2012), published.ISCX2012
    mondays, others = published.tables(folder)
    files = [*mondays, *others]
    return files, FlowCsvSource(files, statistics=True), tuple(published.CICIDS2017), published.CICIDS2017


def cleanest(flows: Flows) -> tuple[Bools, Bools]:
    """Rows to learn from, the benign ones of the days with the fewest attacks, and to test on, all of the other days."""
    _, day = np.unique(flows.first_us // DAY_US, return_inverse=True)
    attacks = np.bincount(day, flows.attack)
    there = (attacks == attacks.min())[day]
    return there & ~flows.attack, ~there


def read(source: FlowCsvSource | IscxSource, classes: Classes) -> Flows:
    """Read all rows; of a flow only what is needed is kept. Raises Misuse where there are none."""
    ends: list[NDArray[np.uint64]] = []
    keys: dict[str, list[Ints]] = {alphabet: [] for alphabet in ALPHABETS}
    first_us, label = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for batch in source:
        ends.append(np.stack([batch.flows[name] for name in ("src_hi", "src_lo", "dst_hi", "dst_lo")], axis=1))
        first_us.append(batch.flows["first_us"].astype(np.int64))
        texts = batch.labels or [""] * len(batch.flows)
        details = batch.details or [""] * len(batch.flows)
        numbers = {pair: classes.number(*pair) for pair in {*zip(texts, details, strict=True)}}
        label.append(np.array([numbers[pair] for pair in zip(texts, details, strict=True)], np.int64))
        for alphabet in ALPHABETS:
            keys[alphabet].append(keys_of(alphabet, batch.flows))
    if not ends:
        raise Misuse("no flows in these tables")
    both = np.concatenate(ends)
    hosts, place = np.unique(np.concatenate([both[:, :2], both[:, 2:]]), axis=0, return_inverse=True)
    place = place.reshape(-1).astype(np.int64)
    time = np.concatenate(first_us)
    order = np.argsort(time, kind="stable")
    return Flows(
        place[: len(both)][order],
        place[len(both) :][order],
        internal(hosts),
        hosts,
        time[order],
        {alphabet: np.concatenate(pieces)[order] for alphabet, pieces in keys.items()},
        np.concatenate(label)[order],
    )


def internal(hosts: NDArray[np.uint64]) -> Bools:
    """Which of (H, 2) addresses are of private networks (RFC 1918), or local ones of IPv6 (RFC 4193)."""
    v4 = (hosts[:, 0] == 0) & (hosts[:, 1] >> np.uint64(32) == np.uint64(V4_MAPPED >> 32))
    low = hosts[:, 1] & np.uint64(0xFFFFFFFF)
    found = (hosts[:, 0] >> np.uint64(57)) == np.uint64(0x7E)  # fc00::/7
    for base, bits in PRIVATE:
        found |= v4 & (low >> np.uint64(32 - bits) == np.uint64(base >> (32 - bits)))
    return np.asarray(found)


def _pairs(flows: Flows, *, directed: bool) -> Ints:
    """(N,) number of each flow's host pair."""
    hosts = len(flows.internal)
    if directed:
        return flows.src * hosts + flows.dst
    return np.minimum(flows.src, flows.dst) * hosts + np.maximum(flows.src, flows.dst)


def _paired(flows: Flows, rows: Bools) -> tuple[Ints, Ints]:
    return _pairs(flows, directed=False)[rows], (flows.first_us // HOUR_US)[rows]


def _windows(flows: Flows, clean: Bools, reading: Reading) -> tuple[Windows, int]:
    """The windows of all flows, and how many tokens there are."""
    token, size = tokens(flows.keys[reading.alphabet], clean)
    pair, hour = _pairs(flows, directed=reading.directed), flows.first_us // HOUR_US
    sentence = np.unique(np.stack([pair, hour], axis=1), axis=0, return_inverse=True)[1].reshape(-1)
    return windows(token, sentence.astype(np.int64)), size


def _scored(flows: Flows, clean: Bools, settings: Settings) -> Iterator[tuple[str, Floats]]:
    """Nats of every flow, by alphabet and kind of sentence."""
    for name, reading in READINGS.items():
        yield name, surprise(*_windows(flows, clean, reading), clean, settings)


def gathered(flows: Flows, rows: Bools, score: Floats) -> Iterator[tuple[str, Hours]]:
    """The scores of some rows by each of the five keys and hour; a flow counts for each of its internal, or external, hosts."""
    src, dst, attack, hour = flows.src[rows], flows.dst[rows], flows.attack[rows], (flows.first_us // HOUR_US)[rows]
    yield "source", hourly(score[rows], attack, src, hour)
    yield "destination", hourly(score[rows], attack, dst, hour)
    yield "pair", hourly(score[rows], attack, *_paired(flows, rows))
    host, twice = np.concatenate([src, dst]), [np.concatenate([one, one]) for one in (score[rows], attack, hour)]
    for name, side in (("internal", flows.internal[host]), ("external", ~flows.internal[host])):
        yield name, hourly(twice[0][side], twice[1][side].astype(np.bool_), host[side], twice[2][side].astype(np.int64))


def by_key(
    flows: Flows, tested: Bools, scored: dict[str, Floats], arguments: argparse.Namespace
) -> tuple[Table, dict[str, Interval]]:
    """AUC by key, and those of the pair by score."""
    asked = {"resamples": arguments.resamples, "seed": arguments.seed}
    rows: list[tuple[Value, ...]] = []
    counts: dict[str, tuple[int, int]] = {}
    of_pairs = {}
    for name, score in scored.items():
        found = {}
        for key, hours in gathered(flows, tested, score):
            counts[key] = int(hours.attack.sum()), int((~hours.attack).sum())
            found[key] = ranking(hours.score, hours.attack, hours.key, **asked).area
        rows.append((name, *found.values()))
        of_pairs[name] = found["pair"]
    told = ", ".join(f"{key} {attack:,} against {rest:,}" for key, (attack, rest) in counts.items())
    note = f"Hours with an attack against the others: {told}. The paper tells 0.84 on ISCX IDS 2012."
    return Table("AUC of the greatest surprise per key and hour", ("alphabet, sentence", *counts), rows, note), of_pairs


def by_attack(
    flows: Flows, tested: Bools, scored: dict[str, Floats], names: tuple[str, ...], arguments: argparse.Namespace
) -> tuple[Table, Bars]:
    """AUC of each attack by the pair."""
    asked = {"resamples": arguments.resamples, "seed": arguments.seed}
    table: list[tuple[Value, ...]] = []
    found: dict[str, list[Interval]] = {name: [] for name in scored}
    numbers = np.unique(flows.label[tested & (flows.label > 0)]).tolist()
    for number in numbers:
        chosen = tested & ((flows.label == number) | ~flows.attack)
        hours_by = [hourly(score[chosen], flows.attack[chosen], *_paired(flows, chosen)) for score in scored.values()]
        areas = [ranking(hours.score, hours.attack, hours.key, **asked).area for hours in hours_by]
        table.append((names[number], int(hours_by[0].attack.sum()), *areas))
        for name, area in zip(scored, areas, strict=True):
            found[name].append(area)
    title = "AUC of each attack against benign rows, per pair and hour"
    return Table(title, ("attack", "hours", *scored), table), Bars(title, tuple(names[number] for number in numbers), found)


def _curves(flows: Flows, tested: Bools, scored: dict[str, Floats]) -> Iterator[Curves]:
    """ROC of the pair-hours, and precision over alarms a day of packet time."""
    pairs = {name: hourly(score[tested], flows.attack[tested], *_paired(flows, tested)) for name, score in scored.items()}
    rocs = {name: roc(hours.score, hours.attack) for name, hours in pairs.items()}
    yield Curves("Pair-hours", "false alarms (share of benign)", "attacks found (share)", rocs)
    days = len(np.unique(flows.first_us[tested] // HOUR_US)) / 24
    lines = {name: precision(hours.score, hours.attack, days) for name, hours in pairs.items()}
    yield Curves("Precision of pair-hours", "alarms a day", "attacks among the alarms (share)", lines)


def _facts(
    arguments: argparse.Namespace, files: list[str], first_us: Ints, clean: Bools, tested: Bools, settings: Settings
) -> Iterator[tuple[str, str]]:
    for path in files:
        yield "data", f"{path}: SHA-256 {fingerprint(path)[1]}"
    yield (
        "training",
        f"{int(clean.sum()):,} benign flows of the cleanest days; tested on the {int(tested.sum()):,} of the others",
    )
    yield "network", ", ".join(f"{name} {value}" for name, value in dataclasses.asdict(settings).items())
    yield "windows", f"{WINDOW} tokens, stride 1, padded at the left; sentences by clock hour"
    yield "threshold", "none: areas under the curve"
    hours = len(np.unique(first_us[tested] // HOUR_US))
    yield "days", f"{hours / 24:.2f}: the {hours:,} clock hours with flows to test on, of which alarms a day are told"
    yield "intervals", f"95 %, seed {arguments.seed}, {arguments.resamples} resamples of keys"
    yield "command", arguments.command
    yield "machine", machine()
