"""When attacks take place in a run, by whom and on whom.

The instances of one rule are spread over the day, each in a part of its own. An attacker does one thing at a time, with a gap
between, because labels tell attacks apart by address and time; heavy ones (floods) come one after the other, because they
share the machine's two cores with everything else. So heavy ones are placed first, then the longest, and what does not fit
where it was drawn is moved later, round the end of the day. Called by schedule.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random

from .description import AttackOf, Description, RunChoice
from .site import Attack, Host, LabError

FIRST, LAST = 0.08, 0.97
"""The part of a run in which attacks take place: before, every model sees ordinary traffic alone."""

GAP_S = 10.0
"""Between two attacks of one attacker: what the first has opened is closed, or has timed out in the victim."""

HEAVY_GAP_S = 4.0
"""Between two heavy attacks, of any attackers."""

STEP_S = 1.0
"""How far an attack is moved at a time until it fits."""


@dataclass(frozen=True, slots=True)
class _Wish:
    """An attack before it has its place."""

    attack: Attack
    heavy: bool


def attacks(description: Description, run: RunChoice) -> tuple[Attack, ...]:
    """All attacks of a run, in order; LabError when the day is too short for them."""
    begin_s = max(FIRST * description.time.seconds, description.time.warm_up_s)
    end_s = LAST * description.time.seconds
    wishes = [wish for number, rule in enumerate(description.attacks) for wish in _wishes(rule, number, run, begin_s, end_s)]
    wishes.sort(key=lambda wish: (not wish.heavy, -wish.attack.within_s, wish.attack.kind, wish.attack.at_s))
    placed: list[_Wish] = []
    for wish in wishes:
        placed.append(_place(wish, placed, begin_s, end_s))
    counts: Counter[str] = Counter()
    named = []
    for wish in sorted(placed, key=lambda wish: (wish.attack.at_s, wish.attack.kind)):
        counts[wish.attack.kind] += 1
        named.append(replace(wish.attack, name=f"{wish.attack.kind}-{counts[wish.attack.kind]}"))
    return tuple(named)


def _wishes(rule: AttackOf, number: int, run: RunChoice, begin_s: float, end_s: float) -> Iterator[_Wish]:
    if rule.rule.runs and run.name not in rule.rule.runs:
        return
    chance = Random(f"{rule.rule.kind} {number} {run.name} {run.seed}")
    attackers = _in_turn(rule.attackers, chance)
    for instance in range(rule.rule.times):
        within_s = round(chance.uniform(*rule.rule.lasts_s), 1)
        at_s = begin_s + (instance + chance.random()) / rule.rule.times * (end_s - begin_s - within_s)
        attacker = attackers[instance % len(attackers)]
        possible = [host for host in rule.victims if host is not attacker] or list(rule.victims)
        victims = chance.sample(possible, min(rule.rule.each, len(possible)))
        given = rule.given.draw(chance, rule.given.of(attacker.name))
        yield _Wish(
            Attack(
                name="",
                kind=rule.rule.kind,
                at_s=round(at_s, 3),
                within_s=within_s,
                attacker=attacker.name,
                victims=tuple(victim.name for victim in victims),
                seed=chance.getrandbits(32),
                given=given,
            ),
            rule.rule.heavy,
        )


def _in_turn(hosts: tuple[Host, ...], chance: Random) -> list[Host]:
    return chance.sample(hosts, len(hosts))


def _place(wish: _Wish, placed: list[_Wish], begin_s: float, end_s: float) -> _Wish:
    room_s = end_s - wish.attack.within_s - begin_s
    for step in range(int(room_s / STEP_S) + 1):
        at_s = begin_s + (wish.attack.at_s - begin_s + step * STEP_S) % room_s if room_s > 0 else begin_s
        moved = replace(wish, attack=replace(wish.attack, at_s=round(at_s, 3)))
        if not any(_clash(moved, other) for other in placed):
            return moved
    raise LabError(
        f"there is no room for another {wish.attack.kind} of {wish.attack.within_s:g} s by {wish.attack.attacker}: "
        "give it more attackers, fewer times, or the run more seconds"
    )


def _clash(one: _Wish, other: _Wish) -> bool:
    if one.attack.attacker == other.attack.attacker:
        gap_s = GAP_S
    elif one.heavy and other.heavy:
        gap_s = HEAVY_GAP_S
    else:
        return False
    first, second = sorted((one.attack, other.attack), key=lambda attack: attack.at_s)
    return second.at_s < first.at_s + first.within_s + gap_s
