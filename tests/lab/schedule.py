"""What ordinary hosts do in a run, and when: a Plan, drawn from a description and a seed, always the same for the same two.

People come in sittings: these begin as a Poisson process whose rate follows the rhythm of the day, each host's day shifted a
little and with pauses of its own; within a sitting, lognormal times lie between one thing and the next. Machines do things at
regular times, off by a little. How much a host does, and what it likes, belongs to the host (the same in every run);
how its day went belongs to the run. Every host's every habit has random numbers of its own, so that a line added to
a description leaves the rest of the schedule as it was. Attacks are placed by schedule_attacks.py; hosts that run a quiet
one do nothing else in that time. Called by run.py.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from random import Random

from .attacks import KINDS
from .behaviour import ACTIVITIES
from .description import Description, HabitOf, Rhythm
from .schedule_attacks import attacks
from .site import Attack, Event, Host, Plan, Site

SILENCE_S = 5.0
"""Before and after a quiet attack: what began earlier has ended, and what it has opened is closed."""

LAST_S = 3.0
"""Nothing begins so shortly before the end: it would be cut off at once."""

STEPS = 600
"""Of a day's rhythm: a minute of a working day of ten hours, two seconds of a run of twenty minutes."""

DAY_SIGMA = 0.15
"""How far one day of a host differs from another: the sigma of the logarithm of its level on top of the host's own."""

GAP_SIGMA = 1.0
"""The sigma of the logarithm of the times within a sitting: of pages of the web, published figures lie about 1 to 1.5."""


def draw(description: Description, seed: int) -> tuple[Site, Plan]:
    """Draw the run of this seed; LabError when its attacks do not find room in it."""
    against = attacks(description, description.run(seed))
    events = [event for _, event in _ordinary(description, seed, against)]
    events.sort(key=lambda event: (event.at_s, event.host, event.what, event.seed))
    return description.site, Plan(tuple(events), against)


def expected_flows(description: Description, seed: int) -> dict[str, float]:
    """About how many ordinary flows a run of this seed makes, by activity."""
    flows: dict[str, float] = {}
    for habit, event in _ordinary(description, seed, attacks(description, description.run(seed))):
        its = habit.rule.flows or ACTIVITIES[event.what].estimate(event.given)
        flows[event.what] = flows.get(event.what, 0.0) + its
    return flows


def _ordinary(description: Description, seed: int, against: tuple[Attack, ...]) -> Iterator[tuple[HabitOf, Event]]:
    """Draw what each host does by each of its habits, but for what an attack forbids."""
    for number, habit in enumerate(description.habits):
        for host in habit.who:
            for event in _events(description, habit, f"{habit.rule.what} {number}", host, seed):
                if not _disturbs(event, against, description.site):
                    yield habit, event


def lasts_s(event: Event, site: Site) -> float:
    """About how long an event takes at most, in seconds of the run, from the parameters that hold times of the day."""
    given = event.given
    day_s = _number(given, "minutes") * 60 + _number(given, "idle_s")
    for pause, count in (("think_s", ("pages", "commands", "queries")), ("every_s", ("calls", "rounds"))):
        # Think times are drawn around their parameter: three times their sum is rarely reached.
        day_s += 3 * _number(given, pause) * max((_number(given, name) for name in count), default=0.0)
    return day_s / site.compression + 2.0


def _number(given: object, name: str) -> float:
    value = given.get(name, 0.0) if isinstance(given, dict) else 0.0
    return float(value) if isinstance(value, int | float) else 0.0


def _disturbs(event: Event, against: Iterable[Attack], site: Site) -> bool:
    """Whether an event is in the time of a quiet attack by its host, so that its flows would bear the attack's label."""
    return any(
        attack.attacker == event.host
        and KINDS[attack.kind].quiet
        and event.at_s < attack.at_s + attack.within_s + SILENCE_S
        and event.at_s + lasts_s(event, site) > attack.at_s - SILENCE_S
        for attack in against
    )


def _events(description: Description, habit: HabitOf, name: str, host: Host, seed: int) -> Iterator[Event]:
    rule = habit.rule
    own = Random(f"{host.name} {name}")
    if own.random() >= rule.share:
        return
    chance = Random(f"{host.name} {name} {seed}")
    likes = habit.given.of(host.name)
    site, begin_s, end_s = description.site, description.time.warm_up_s, description.time.seconds - LAST_S
    if rule.every_s:
        times = _regular(rule.every_s / site.compression, rule.jitter, own, chance, begin_s, end_s)
    else:
        level = rule.per_day * _lognormal(own, rule.spread) * _lognormal(chance, DAY_SIGMA)
        rhythm = _Day.of(habit.rhythm, host, seed, site)
        times = _sittings(level / rule.burst, rule.burst, rule.gap_s / site.compression, rhythm, chance, site.seconds)
    for at_s in times:
        if begin_s <= at_s < end_s:
            yield Event(round(at_s, 3), host.name, rule.what, chance.getrandbits(32), habit.given.draw(chance, likes))


def _lognormal(chance: Random, sigma: float) -> float:
    """A factor around 1, with mean 1."""
    return math.exp(chance.gauss(0.0, sigma) - sigma * sigma / 2)


def _regular(every_s: float, jitter: float, own: Random, chance: Random, begin_s: float, end_s: float) -> Iterator[float]:
    phase = own.random()
    for number in range(int((end_s - begin_s) / every_s) + 1):
        yield begin_s + (number + phase + jitter * chance.uniform(-1.0, 1.0)) * every_s


def _sittings(number: float, burst: float, gap_s: float, rhythm: _Day, chance: Random, seconds: float) -> Iterator[float]:
    reached = chance.expovariate(1.0)
    while reached < number:
        at_s = rhythm.time(reached / number) * seconds
        yield at_s
        while chance.random() >= 1.0 / burst:
            at_s += gap_s * math.exp(chance.gauss(0.0, GAP_SIGMA))
            yield at_s
        reached += chance.expovariate(1.0)


@dataclass(frozen=True, slots=True)
class _Day:
    """One host's day: how much of it is done when."""

    heights: tuple[float, ...]
    """The part of the day's work that is done after each of STEPS steps, up to 1."""

    @classmethod
    def of(cls, rhythm: Rhythm, host: Host, seed: int, site: Site) -> _Day:
        """Draw the day of one host: all its habits of one rhythm have the same pauses."""
        chance = Random(f"the day of {host.name} {rhythm.weights} {seed}")
        day_h = site.seconds * site.compression / 3600
        shift = chance.gauss(0.0, rhythm.shift_h) / day_h
        weights = [_weight(rhythm.weights, (step + 0.5) / STEPS - shift) for step in range(STEPS)]
        for _ in range(_poisson(rhythm.pauses, chance)):
            begin, length = chance.random(), rhythm.pause_h * chance.uniform(0.5, 1.5) / day_h
            weights = [0.0 if begin <= (step + 0.5) / STEPS < begin + length else it for step, it in enumerate(weights)]
        total = sum(weights) or 1.0
        done, heights = 0.0, []
        for weight in weights:
            done += weight / total
            heights.append(done)
        return cls(tuple(heights))

    def time(self, done: float) -> float:
        """When this part of the work is done, as a part of the day."""
        step = min(bisect_right(self.heights, done), STEPS - 1)
        before = self.heights[step - 1] if step else 0.0
        width = self.heights[step] - before
        return (step + (min((done - before) / width, 1.0) if width > 0 else 0.5)) / STEPS


def _weight(weights: list[float], part: float) -> float:
    """The height of a line through the weights, the first at 0 and the last at 1."""
    place = min(max(part, 0.0), 1.0) * (len(weights) - 1)
    low = min(int(place), max(len(weights) - 2, 0))
    high = min(low + 1, len(weights) - 1)
    return weights[low] + (weights[high] - weights[low]) * (place - low)


def _poisson(mean: float, chance: Random) -> int:
    number, reached = 0, chance.expovariate(1.0)
    while reached < mean:
        number, reached = number + 1, reached + chance.expovariate(1.0)
    return number
