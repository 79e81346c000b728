"""The description of a laboratory, a TOML file: hosts and services, what hosts do by habit, what is done to them, and the runs.

A mistake is refused here, before anything is started, in one line that names the place in the file: an unknown key, host,
service, activity, attack or parameter (with the nearest one that there is), a parameter of another sort, an address outside
the documentation ranges, an address or a port given twice, an attack that cannot be done (feasible.py).
`schedule.draw` makes a run of it; docs/lab.md is its manual.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from .attacks import KINDS
from .behaviour import ACTIVITIES
from .drawing import Given, Names
from .feasible import refuse_impossible
from .nearest import nearest
from .places import ORDINARY, HostRule, hosts, refuse_no_name
from .site import Host, LabError, Site, Value

LONGEST_S = 86_400
"""A schedule is of one day."""
MOST_EVENTS = 100_000
"""Of one host by one habit: one a second of a day, and a schedule is still drawn in seconds."""
MOST_TIMES = 1_000
"""Each attack is held against all that have their place: more take minutes to place."""


class Time(msgspec.Struct, kw_only=True, frozen=True):
    """How long a run takes, and the working day that fits in it."""

    seconds: float
    compression: float
    warm_up_s: float = 10.0
    """Nothing happens before: servers and agents start."""


class Rhythm(msgspec.Struct, kw_only=True, frozen=True):
    """When in the day something is done."""

    weights: list[float]
    """How much at equal steps of the day, the first at its beginning and the last at its end; straight lines between."""
    shift_h: float = 0.0
    """Each host's day lies earlier or later, by a normal deviate of this many hours."""
    pauses: float = 0.0
    """How often each host does nothing at all for a while: people are in meetings, or at lunch."""
    pause_h: float = 0.5
    """How long about."""


class Habit(msgspec.Struct, kw_only=True, frozen=True):
    """What some hosts do, and how often."""

    who: list[str]
    """Hosts, or kinds of hosts."""
    what: str
    """One of behaviour.ACTIVITIES."""
    per_day: float = 0.0
    """How often a day in the mean, for a host whose level is 1; or else every_s."""
    every_s: float = 0.0
    """So regularly, in seconds of the working day."""
    jitter: float = 0.02
    """The part of every_s by which each time is off."""
    rhythm: str = "even"
    burst: float = 1.0
    """The mean number of times that it is done at one sitting."""
    gap_s: float = 60.0
    """The median time between these, in seconds of the working day."""
    spread: float = 0.4
    """How far hosts differ from one another: the sigma of the logarithm of their level."""
    share: float = 1.0
    """The part of these hosts that have this habit at all."""
    flows: float = 0.0
    """About how many flows it makes each time; the activity's own estimate if 0."""
    given: dict[str, Any] = {}


class AttackRule(msgspec.Struct, kw_only=True, frozen=True):
    """Instances of one kind of attack."""

    kind: str
    """One of attacks.KINDS."""
    attackers: list[str]
    """Hosts or kinds of hosts, one of them for each instance."""
    victims: list[str]
    each: int = 1
    """How many of the victims one instance has."""
    lasts_s: tuple[float, float]
    """It is ended after a time between these, in seconds of the run."""
    times: int = 3
    runs: list[str] = []
    """The runs that have it; all if none is named."""
    heavy: bool = False
    """It asks much of the machine: no two of these at the same time."""
    given: dict[str, Any] = {}


class RunRule(msgspec.Struct, kw_only=True, frozen=True):
    """A run with a name."""

    seed: int


class Rules(msgspec.Struct, kw_only=True, frozen=True):
    """The file as it stands."""

    domain: str
    time: Time
    hosts: dict[str, HostRule]
    runs: dict[str, RunRule]
    rhythms: dict[str, Rhythm] = {}
    habits: list[Habit] = []
    attacks: list[AttackRule] = []


@dataclass(frozen=True, slots=True)
class RunChoice:
    """Which of the runs this is."""

    name: str
    seed: int


@dataclass(frozen=True, slots=True)
class HabitOf:
    """A habit with its hosts and its parameters, found and checked."""

    rule: Habit
    rhythm: Rhythm
    who: tuple[Host, ...]
    given: Given


@dataclass(frozen=True, slots=True)
class AttackOf:
    """A rule for attacks with its hosts and its parameters, found and checked."""

    rule: AttackRule
    attackers: tuple[Host, ...]
    victims: tuple[Host, ...]
    given: Given


@dataclass(frozen=True, slots=True)
class Description:
    """A description that holds together."""

    site: Site
    time: Time
    runs: Mapping[str, int]
    """The seed of each run."""
    habits: tuple[HabitOf, ...]
    attacks: tuple[AttackOf, ...]

    def run(self, seed: int) -> RunChoice:
        """The run of this seed; another one of the first run's sort when none has it."""
        for name, its in self.runs.items():
            if its == seed:
                return RunChoice(name, seed)
        return RunChoice(next(iter(self.runs)), seed)


def read(path: Path) -> Description:
    """Read and check a description; LabError with the place in the file and what to write there."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LabError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise LabError(f"{path}: not UTF-8 text at byte {error.start}") from error
    except tomllib.TOMLDecodeError as error:
        raise LabError(f"{path}: not TOML: {error}") from error
    try:
        _refuse_endless(table, "")
        return _checked(_rules(table))
    except LabError as error:
        raise LabError(f"{path}: {error}") from error


_TABLES: dict[str, type[msgspec.Struct]] = {"hosts": HostRule, "runs": RunRule, "rhythms": Rhythm}
_LISTS: dict[str, type[msgspec.Struct]] = {"habits": Habit, "attacks": AttackRule}


def _refuse_endless(entry: object, where: str) -> None:
    """LabError for nan and inf, which TOML has and no key here can be."""
    if isinstance(entry, float) and not math.isfinite(entry):
        raise LabError(f"{where} is {entry}: give a number that has an end")
    if isinstance(entry, Mapping):
        for key, value in entry.items():
            _refuse_endless(value, f"{where}.{key}" if where else str(key))
    if isinstance(entry, list):
        for number, value in enumerate(entry, start=1):
            _refuse_endless(value, f"{where}, number {number}")


def _rules(table: Mapping[str, Any]) -> Rules:
    _known_keys(table, Rules, "")
    _known_keys(table.get("time"), Time, "time")
    for key, entry_of in _TABLES.items():
        if isinstance(section := table.get(key), Mapping):
            for name, entry in section.items():
                _known_keys(entry, entry_of, f"{key}.{name}")
    for key, entry_of in _LISTS.items():
        if isinstance(section := table.get(key), list):
            for number, entry in enumerate(section, start=1):
                _known_keys(entry, entry_of, f"{key}, number {number}")
    try:
        return msgspec.convert(table, Rules)
    except msgspec.ValidationError as error:
        raise LabError(str(error).replace("$.", "").replace("`", "")) from error


def _known_keys(entry: object, rules: type[msgspec.Struct], where: str) -> None:
    if isinstance(entry, Mapping):
        known = [field.name for field in msgspec.structs.fields(rules)]
        for key in entry:
            if key not in known:
                raise LabError(f"{where + ': ' if where else ''}unknown key {key!r}, {nearest(key, known)}")


def _checked(rules: Rules) -> Description:
    _checked_time(rules.time)
    refuse_no_name("domain", rules.domain)
    if not rules.runs:
        raise LabError("there are no runs: give [runs] with train = { seed = 1 }")
    if len({run.seed for run in rules.runs.values()}) < len(rules.runs):
        raise LabError("runs: two of them have the same seed, which tells them apart")
    rhythms = {"even": Rhythm(weights=[1.0]), **rules.rhythms}
    for name, rhythm in rhythms.items():
        if not rhythm.weights or min(rhythm.weights) < 0 or max(rhythm.weights) == 0:
            raise LabError(f"rhythms.{name}: give weights of at least 0, not all of them 0")
    site = Site(hosts(rules.hosts, rules.domain), rules.domain, rules.time.seconds, rules.time.compression)
    return Description(
        site,
        rules.time,
        {name: run.seed for name, run in rules.runs.items()},
        tuple(_habit(habit, number, site, rhythms) for number, habit in enumerate(rules.habits, start=1)),
        tuple(_attack(attack, number, site, rules) for number, attack in enumerate(rules.attacks, start=1)),
    )


def _checked_time(time: Time) -> None:
    if time.seconds < 30 or time.compression < 1:
        raise LabError("time: a run takes at least 30 seconds, and its day is compressed at least by 1")
    if time.seconds > LONGEST_S or time.seconds * time.compression > LONGEST_S:
        raise LabError(f"time: a run, and the day that it stands for, take at most {LONGEST_S:,} seconds: a day has no more")
    if not 0 <= time.warm_up_s < time.seconds / 2:
        raise LabError("time.warm_up_s: give less than half of the run")


def _habit(habit: Habit, number: int, site: Site, rhythms: Mapping[str, Rhythm]) -> HabitOf:
    where = f"habits, number {number} ({habit.what})"
    if habit.what not in ACTIVITIES:
        raise LabError(f"{where}: unknown activity, {nearest(habit.what, ACTIVITIES)}")
    if habit.rhythm not in rhythms:
        raise LabError(f"{where}: unknown rhythm {habit.rhythm!r}, {nearest(habit.rhythm, rhythms)}")
    if (habit.per_day > 0) == (habit.every_s > 0):
        raise LabError(f"{where}: give either per_day or every_s, more than 0")
    often = max(habit.per_day, site.seconds * site.compression / habit.every_s if habit.every_s else 0.0)
    if often > MOST_EVENTS:
        raise LabError(f"{where}: each host would do it {often:,.0f} times: at most {MOST_EVENTS:,} can be planned")
    if habit.burst < 1 or habit.gap_s < 0 or habit.spread < 0 or not 0 <= habit.jitter <= 1 or not 0 < habit.share <= 1:
        raise LabError(f"{where}: burst is at least 1, gap_s and spread at least 0, jitter and share at most 1")
    activity = ACTIVITIES[habit.what]
    for service in activity.services:
        if not site.offering(service):
            raise LabError(f"{where}: no host offers {service!r}, which this needs")
    who = found(habit.who, site, where)
    for host in who:
        if host.kind not in ORDINARY:
            raise LabError(f"{where}: {host.name} is of kind {host.kind}, which does nothing ordinary")
        if host.down:
            raise LabError(f"{where}: {host.name} is down, and does nothing")
    return HabitOf(habit, rhythms[habit.rhythm], who, _given(habit.given, activity.takes, site, where))


def _attack(attack: AttackRule, number: int, site: Site, rules: Rules) -> AttackOf:
    where = f"attacks, number {number} ({attack.kind})"
    if attack.kind not in KINDS:
        raise LabError(f"{where}: unknown kind, {nearest(attack.kind, KINDS)}")
    for run in attack.runs:
        if run not in rules.runs:
            raise LabError(f"{where}: unknown run {run!r}, {nearest(run, rules.runs)}")
    shortest, longest = attack.lasts_s
    if not 0 < shortest <= longest < rules.time.seconds / 2:
        raise LabError(
            f"{where}: lasts_s is a shortest and a longest time, less than half of the run of {rules.time.seconds:g} s"
        )
    attackers, victims = found(attack.attackers, site, where), found(attack.victims, site, where)
    for host in (*attackers, *victims):
        if host.kind in {"router", "internet"}:
            raise LabError(f"{where}: {host.name} is of kind {host.kind}: it neither attacks nor is attacked")
    for host in attackers:
        if host.down:
            raise LabError(f"{where}: {host.name} is down, and attacks nobody")
        if victims == (host,):
            raise LabError(f"{where}: {host.name} would attack itself: give another victim")
    if attack.times > MOST_TIMES:
        raise LabError(f"{where}: times is {attack.times:,}: at most {MOST_TIMES:,} can be placed")
    if attack.times < 1 or not 1 <= attack.each <= len(victims):
        raise LabError(f"{where}: times is at least 1, each between 1 and the {len(victims)} victims")
    given = _given(attack.given, KINDS[attack.kind].takes, site, where)
    refuse_impossible(attack.kind, attackers, victims, attack.each, given, site, where)
    return AttackOf(attack, attackers, victims, given)


def found(who: list[str], site: Site, where: str) -> tuple[Host, ...]:
    """The hosts of these names and kinds, in the site's order; those that are down only if named."""
    known = {host.name for host in site.hosts} | {host.kind for host in site.hosts}
    for name in who:
        if name not in known:
            raise LabError(f"{where}: unknown host {name!r}, {nearest(name, sorted(known))}")
    hosts = tuple(host for host in site.hosts if host.name in who or (host.kind in who and not host.down))
    if not hosts:
        raise LabError(f"{where}: names no host")
    return hosts


def _given(given: Mapping[str, Any], takes: Mapping[str, Value], site: Site, where: str) -> Given:
    for key in given:
        if key not in takes:
            raise LabError(f"{where}: takes no {key!r}, {nearest(key, takes)}")
    try:
        return Given.read(given, takes, Names.of(site))
    except LabError as error:
        raise LabError(f"{where}: {error}") from error
