"""The laboratory's schedules: the same for the same seed, with the rhythm of a working day; labels tell attacks apart."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import median

import msgspec
import pytest
from lab.attacks import KINDS
from lab.behaviour import ACTIVITIES
from lab.description import Description, RunChoice, read
from lab.drawing import Given, Names
from lab.schedule import SILENCE_S, draw, expected_flows, lasts_s
from lab.schedule_attacks import GAP_S, HEAVY_GAP_S, attacks
from lab.site import Attack, Event, LabError, Plan, Site

LAB = Path(__file__).parent / "lab"
STANDARD, SMALL = LAB / "standard.toml", LAB / "small.toml"
SEEDS = {"train": 1, "validate": 2, "test": 3}

ONLY_IN_TEST = {"scan_masscan", "slow_read", "goldeneye", "udp_flood", "icmp_tunnel", "exfiltration", "web_traversal"}
AMF_LSTM = {
    "DDoS": {"syn_flood", "http_ddos"},
    "PortScan": {"scan_syn", "scan_connect", "scan_udp", "scan_version", "scan_slow"},
    "Bot": {"bot"},
    "Infiltration": {"infiltration"},
    "Web Attack": {"login_guess", "web_sqli", "web_xss"},
    "Patator": {"ssh_guess", "ftp_guess"},
    "DoS": {"slowloris", "slow_body", "http_flood"},
}
"""The classes of Zhu et al. 2018 besides Normal, and the kinds that train has of each."""

WITH_VICTIMS_OF_THEIR_OWN = {"ssh_guess", "ftp_guess", "login_guess", "slowloris", "slow_body", "http_flood"} | {
    "syn_flood",
    "http_ddos",
    "bot",
    "scan_version",
    "infiltration",
}

MOST_PACKETS = 15_000


@cache
def described(path: Path = STANDARD) -> Description:
    return read(path)


@cache
def drawn(name: str, path: Path = STANDARD) -> Plan:
    return draw(described(path), SEEDS[name])[1]


def heavy_kinds() -> set[str]:
    return {attack.rule.kind for attack in described().attacks if attack.rule.heavy}


def test_the_same_seed_gives_the_same_schedule_byte_for_byte(tmp_path: Path) -> None:
    for number in (1, 2):
        draw(read(SMALL), 1)[1].write(tmp_path / f"{number}.json")
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()


def test_a_schedule_survives_its_file(tmp_path: Path) -> None:
    plan = drawn("test", SMALL)
    plan.write(tmp_path / "schedule.json")
    assert Plan.read(tmp_path / "schedule.json") == plan


def test_another_seed_gives_another_schedule() -> None:
    first, second = drawn("train", SMALL), draw(described(SMALL), 99)[1]
    assert [event.at_s for event in first.events] != [event.at_s for event in second.events]
    assert {attack.kind for attack in first.attacks} == {attack.kind for attack in second.attacks}


def test_a_habit_that_is_added_leaves_the_others_as_they_were() -> None:
    description = described(SMALL)
    fewer = replace(description, habits=description.habits[:-1], attacks=())
    last = description.habits[-1].rule.what
    left = [event for event in draw(replace(description, attacks=()), 1)[1].events if event.what != last]
    assert left == list(draw(fewer, 1)[1].events)


@pytest.mark.parametrize("run", SEEDS)
def test_a_standard_run_has_enough_ordinary_flows_and_not_too_many(
    run: str, record_property: Callable[[str, object], None]
) -> None:
    flows = expected_flows(described(), SEEDS[run])
    record_property("told", f"expected ordinary flows in {run}: {sum(flows.values()):,.0f}")
    assert 60_000 <= sum(flows.values()) <= 85_000
    assert max(flows.values()) <= 0.65 * sum(flows.values())


@pytest.mark.parametrize("run", SEEDS)
def test_every_activity_happens_and_programs_are_started_seldom(run: str) -> None:
    events = drawn(run).events
    assert {event.what for event in events} == set(ACTIVITIES)
    clients = Counter(event.given.get("client", "own") for event in events)
    # curl and its like cost 10 to 30 ms each: 2,000 of them are at most a minute of one core in twenty.
    assert sum(number for client, number in clients.items() if client != "own") < 2_000


@pytest.mark.parametrize("path", [STANDARD, SMALL], ids=lambda path: path.stem)
@pytest.mark.parametrize("run", SEEDS)
def test_every_event_is_complete_and_within_the_run(path: Path, run: str) -> None:
    plan, time = drawn(run, path), described(path).time
    for event in plan.events:
        assert time.warm_up_s <= event.at_s < time.seconds
        assert ACTIVITIES[event.what].complete(event.given) == event.given
    assert list(plan.events) == sorted(plan.events, key=lambda event: event.at_s)


@pytest.mark.parametrize("path", [STANDARD, SMALL], ids=lambda path: path.stem)
@pytest.mark.parametrize("run", SEEDS)
def test_every_attack_is_complete_and_its_name_is_its_own(path: Path, run: str) -> None:
    plan = drawn(run, path)
    for attack in plan.attacks:
        assert KINDS[attack.kind].complete(attack.given) == attack.given
        assert re.fullmatch(rf"{attack.kind}-[1-9][0-9]*", attack.name)
        assert attack.attacker not in attack.victims
        assert attack.victims
    assert len({attack.name for attack in plan.attacks}) == len(plan.attacks)


@pytest.mark.parametrize("run", SEEDS)
def test_each_kind_of_attack_has_three_instances_with_parameters_of_their_own(run: str) -> None:
    by_kind: dict[str, list[Attack]] = defaultdict(list)
    for attack in drawn(run).attacks:
        by_kind[attack.kind].append(attack)
    assert len(by_kind) >= 10
    for kind, instances in by_kind.items():
        assert len(instances) >= 3, kind
        told = {(attack.attacker, attack.victims, attack.within_s, msgspec.json.encode(attack.given)) for attack in instances}
        assert len(told) == len(instances), kind


def test_train_and_validate_have_all_classes_and_test_has_kinds_that_they_lack() -> None:
    kinds = {run: {attack.kind for attack in drawn(run).attacks} for run in SEEDS}
    assert kinds["train"] == kinds["validate"]
    assert kinds["test"] - kinds["train"] == ONLY_IN_TEST
    assert kinds["train"] <= kinds["test"]
    for name, members in AMF_LSTM.items():
        assert members <= kinds["train"], name


def test_test_has_other_parameters_and_mostly_other_victims_than_train() -> None:
    def of(run: str, what: str) -> dict[str, set[object]]:
        found: dict[str, set[object]] = defaultdict(set)
        for attack in drawn(run).attacks:
            found[attack.kind] |= set(attack.victims) if what == "victims" else {msgspec.json.encode(attack.given)}
        return found

    parameters = of("train", "given"), of("test", "given")
    assert all(parameters[0][kind].isdisjoint(parameters[1][kind]) for kind in parameters[0] if kind != "scan_udp")
    for kind in {attack.kind for attack in drawn("train").attacks} & WITH_VICTIMS_OF_THEIR_OWN:
        assert of("train", "victims")[kind].isdisjoint(of("test", "victims")[kind]), kind


@pytest.mark.parametrize("path", [STANDARD, SMALL], ids=lambda path: path.stem)
@pytest.mark.parametrize("run", SEEDS)
def test_an_attacker_does_one_thing_at_a_time_and_floods_come_one_after_the_other(path: Path, run: str) -> None:
    planned = sorted(drawn(run, path).attacks, key=lambda attack: attack.at_s)
    for attacker in {attack.attacker for attack in planned}:
        for first, second in pairwise(attack for attack in planned if attack.attacker == attacker):
            assert first.at_s + first.within_s + GAP_S <= second.at_s + 1e-3, f"{first.name} and {second.name}"
    for first, second in pairwise(attack for attack in planned if attack.kind in heavy_kinds()):
        assert first.at_s + first.within_s + HEAVY_GAP_S <= second.at_s + 1e-3, f"{first.name} and {second.name}"


@pytest.mark.parametrize("run", SEEDS)
def test_attacks_are_short_and_bounded_and_spread_over_the_day(run: str) -> None:
    planned, seconds = drawn(run).attacks, described().time.seconds
    for attack in planned:
        assert 5 <= attack.within_s <= (330 if attack.kind == "bot" else 120)
        assert 0.08 * seconds <= attack.at_s
        assert attack.at_s + attack.within_s <= 0.97 * seconds + 1e-3
    quarters = Counter(int(4 * attack.at_s / seconds) for attack in planned)
    assert min(quarters[number] for number in range(4)) >= 0.1 * len(planned)


@pytest.mark.parametrize("run", SEEDS)
def test_no_flood_is_longer_than_fifteen_thousand_packets(run: str) -> None:
    for attack in drawn(run).attacks:
        given = attack.given
        if attack.kind in {"syn_flood", "udp_flood"}:
            assert number(given["sources"]) * number(given["packets"]) <= MOST_PACKETS, attack.name
            assert number(given["sources"]) <= len(described().site[attack.attacker].ipv4)
        elif attack.kind == "http_ddos":  # a GET is about fifteen packets
            assert number(given["sources"]) * number(given["requests"]) * 15 <= MOST_PACKETS * 1.2, attack.name
        elif attack.kind == "http_flood":
            assert number(given["requests"]) * 15 <= MOST_PACKETS, attack.name


def number(value: object) -> float:
    assert isinstance(value, int | float)
    return float(value)


@pytest.mark.parametrize("path", [STANDARD, SMALL], ids=lambda path: path.stem)
@pytest.mark.parametrize("run", SEEDS)
def test_a_host_does_nothing_else_during_a_quiet_attack_of_its_own(path: Path, run: str) -> None:
    plan, site = drawn(run, path), described(path).site
    quiet = [attack for attack in plan.attacks if KINDS[attack.kind].quiet and site[attack.attacker].network == "inside"]
    assert quiet
    for attack in quiet:
        for event in plan.of(attack.attacker):
            assert (
                event.at_s + lasts_s(event, site) <= attack.at_s - SILENCE_S
                or event.at_s >= attack.at_s + attack.within_s + SILENCE_S
            ), f"{event} in {attack.name}"


def test_a_host_goes_on_with_its_work_while_a_bot_in_it_calls_home() -> None:
    plan = drawn("train")
    for attack in plan.attacks:
        if attack.kind == "bot":
            during = [event for event in plan.of(attack.attacker) if 0 <= event.at_s - attack.at_s <= attack.within_s]
            assert len({event.what for event in during}) >= 3


def test_an_event_lasts_as_long_as_its_times_of_the_day_say_in_seconds_of_the_run() -> None:
    site = described().site
    chat = Event(1.0, "office1", "chat", 1, ACTIVITIES["chat"].complete({"minutes": 60.0}))
    look = Event(1.0, "office1", "resolve", 1, ACTIVITIES["resolve"].complete({}))
    assert lasts_s(chat, site) >= 3600 / site.compression
    assert lasts_s(look, site) < 10


@pytest.mark.parametrize("run", SEEDS)
def test_people_work_in_two_humps_with_lunch_between(run: str) -> None:
    people = [event for event in drawn(run).events if event.host.startswith("office") and event.what == "web"]
    hours = Counter(int(event.at_s / described().time.seconds * 10) for event in people)
    parts = ((1, 2, 3), (4,), (6, 7), (9,))
    morning, lunch, afternoon, late = (sum(hours[hour] for hour in part) / len(part) for part in parts)
    assert lunch < 0.8 * min(morning, afternoon)
    assert late < 0.6 * afternoon


def test_times_between_events_of_a_person_have_a_heavy_tail_and_those_of_a_machine_have_not() -> None:
    def gaps(host: str, what: str) -> list[float]:
        times = sorted(event.at_s for event in drawn("train").events if event.host == host and event.what == what)
        return [after - before for before, after in pairwise(times)]

    spread = [deviation(gaps(f"office{number}", "web")) for number in range(1, 11)]
    # 1 for a Poisson process; sittings and pauses make it more.
    assert median(spread) > 1.15
    assert deviation(gaps("monitor", "monitor")) < 0.02


def deviation(values: list[float]) -> float:
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / len(values)) / mean


def test_each_host_has_sites_that_it_likes_best_on_every_day_and_hosts_differ() -> None:
    def visits(run: str, host: str) -> Counter[str]:
        inside = {"web.lab.example", "wiki.lab.example"}
        names = (str(event.given["name"]) for event in drawn(run).of(host) if event.what == "web")
        return Counter(name for name in names if name not in inside)

    favourites = {}
    for number in range(1, 11):
        first, second = visits("train", f"office{number}"), visits("test", f"office{number}")
        top = {name for name, _ in first.most_common(10)}
        assert sum(second[name] for name in top) > 0.5 * second.total()
        assert len(first) > 25
        favourites[number] = frozenset(name for name, _ in first.most_common(5))
    assert len(set(favourites.values())) == 10


@pytest.mark.parametrize("run", SEEDS)
def test_hosts_differ_in_how_much_they_do_and_a_part_of_it_is_ipv6_and_fails(run: str) -> None:
    events = drawn(run).events
    each = Counter(event.host for event in events if event.host.startswith("office"))
    assert max(each.values()) > 1.4 * min(each.values())
    web = [event for event in events if event.what == "web"]
    assert 0.15 < sum(event.given["ipv6"] is True for event in web) / len(web) < 0.5
    dead = [event for event in events if event.what == "dead"]
    assert 100 < len(dead) < 0.05 * len(events)


def test_a_lognormal_parameter_is_whole_where_its_default_is_and_stays_within_its_bounds() -> None:
    names = Names.of(Site((), "lab.example", 100.0, 1.0))
    given = Given.read({"pages": {"median": 3, "sigma": 1.5, "most": 20}}, {"pages": 4, "idle_s": 0.0}, names)
    chance = Random(5)
    values = [given.draw(chance, {})["pages"] for _ in range(2_000)]
    assert all(isinstance(value, int) for value in values)
    assert (min(map(number, values)), max(map(number, values)), median(map(number, values))) == (1, 20, 3)


def test_attacks_that_find_no_room_are_refused_with_what_to_change() -> None:
    description = described(SMALL)
    rule = next(attack for attack in description.attacks if attack.rule.kind == "ssh_guess")
    many = replace(rule, rule=msgspec.structs.replace(rule.rule, times=20))
    with pytest.raises(LabError, match=r"there is no room for another ssh_guess .* by mallory: give it more attackers"):
        draw(replace(description, attacks=(many,)), 1)


def test_a_test_run_of_any_seed_finds_room_for_its_attacks() -> None:
    for seed in range(100, 112):
        assert len(attacks(described(), RunChoice("test", seed))) == len(drawn("test").attacks)
