"""Descriptions of the laboratory: its own hold together, and a mistake is told in a line that names the place."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from lab.attacks import KINDS
from lab.behaviour import ACTIVITIES
from lab.description import Description, read
from lab.drawing import Given, Names
from lab.services import SERVICES
from lab.site import LabError, Site

LAB = Path(__file__).parent / "lab"
STANDARD, SMALL = LAB / "standard.toml", LAB / "small.toml"

TINY = """
domain = "lab.example"
[time]
seconds = 120
compression = 30
[runs]
train = { seed = 1 }
test = { seed = 3 }
[hosts]
dns = { kind = "server", ipv4 = ["192.0.2.2"], services = ["dns"] }
web = { kind = "server", ipv4 = ["192.0.2.3"], services = ["http", "ssh"] }
printer = { kind = "server", ipv4 = ["192.0.2.9"], down = true }
office = { kind = "office", ipv4 = ["192.0.2.10"], ipv6 = ["2001:db8:1::10"], count = 2 }
mallory = { kind = "attacker", ipv4 = ["203.0.113.7"] }
[hosts.site]
kind = "internet"
ipv4 = ["198.51.100.5-198.51.100.7"]
names = ["a.example", "b.example", "c.example"]
services = ["http"]
[rhythms]
people = { weights = [0.5, 1, 0.5] }
[[habits]]
who = ["office"]
what = "web"
per_day = 20
rhythm = "people"
given = { name = { site_of = "internet" }, pages = 3 }
[[attacks]]
kind = "scan_syn"
attackers = ["mallory"]
victims = ["server"]
lasts_s = [10, 20]
"""


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "mine.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def changed(old: str, new: str) -> str:
    assert TINY.count(old) == 1, f"the tiny description has {old!r} {TINY.count(old)} times"
    return TINY.replace(old, new)


def refused(path: Path) -> str:
    with pytest.raises(LabError) as error:
        read(path)
    line = str(error.value)
    assert "\n" not in line
    assert line.startswith(f"{path}: ")
    return line.removeprefix(f"{path}: ")


@pytest.mark.parametrize("path", [STANDARD, SMALL], ids=lambda path: path.stem)
def test_every_name_of_the_descriptions_is_in_the_registries(path: Path) -> None:
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    for host in table["hosts"].values():
        assert set(host.get("services", ())) <= set(SERVICES)
    for habit in table["habits"]:
        assert set(habit.get("given", {})) <= set(ACTIVITIES[habit["what"]].takes)
    for attack in table["attacks"]:
        assert set(attack.get("given", {})) <= set(KINDS[attack["kind"]].takes)
    assert read(path).habits


@pytest.mark.parametrize("path", [STANDARD, SMALL], ids=lambda path: path.stem)
def test_every_service_is_offered_and_every_activity_done(path: Path) -> None:
    description = read(path)
    assert {service for host in description.site.hosts for service in host.services} == set(SERVICES)
    assert {habit.rule.what for habit in description.habits} == set(ACTIVITIES)


def test_the_standard_description_has_every_kind_of_attack() -> None:
    assert {attack.rule.kind for attack in read(STANDARD).attacks} == set(KINDS)


def test_the_standard_site_is_as_large_as_was_asked_for() -> None:
    description = read(STANDARD)
    hosts = description.site.hosts
    clients = {host.name for habit in description.habits for host in habit.who}
    sites = [host for host in hosts if host.kind == "internet" and not host.down]
    assert sum(host.kind == "office" for host in hosts) == 10
    assert sum(host.kind == "developer" for host in hosts) == 6
    assert len(clients) == 21 + sum(host.kind == "visitor" for host in hosts) == 33
    assert sum(len(host.names) for host in sites) == 60
    assert {host.delay_ms for host in sites} == {5, 12, 25, 45, 80}
    assert max(host.loss for host in hosts) <= 0.005
    assert sum(len(host.ipv4) for host in hosts if host.kind == "botnet") > 350
    assert any(host.down for host in hosts if host.network == "inside")


@pytest.mark.parametrize("path", [STANDARD, SMALL], ids=lambda path: path.stem)
def test_no_address_is_of_the_world(path: Path) -> None:
    ranges = [ip_network(text) for text in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")]
    for host in read(path).site.hosts:
        for address in (*host.ipv4, *host.ipv6):
            assert any(ip_address(address) in network for network in ranges), f"{host.name} has {address}"


def test_one_line_may_stand_for_several_hosts_and_a_range_for_several_addresses(written: Callable[[str], Path]) -> None:
    site = read(written(TINY)).site
    assert [host.name for host in site.hosts if host.kind == "office"] == ["office1", "office2"]
    assert (site["office2"].ipv4, site["office2"].ipv6) == (("192.0.2.11",), ("2001:db8:1::11",))
    assert site["office2"].names == ("office2.lab.example",)
    assert site["site"].ipv4 == ("198.51.100.5", "198.51.100.6", "198.51.100.7")


def test_a_site_survives_its_file(written: Callable[[str], Path], tmp_path: Path) -> None:
    site = read(written(TINY)).site
    site.write(tmp_path / "hosts.json")
    assert Site.read(tmp_path / "hosts.json") == site


def test_a_seed_that_is_not_listed_makes_a_run_like_the_first(written: Callable[[str], Path]) -> None:
    description = read(written(TINY))
    assert (description.run(3).name, description.run(77).name, description.run(77).seed) == ("test", "train", 77)


MISTAKES = {
    "unknown section": ('domain = "lab.example"', 'domian = "lab.example"', "unknown key 'domian', did you mean 'domain'?"),
    "unknown time": ("compression = 30", "compresion = 30", "time: unknown key 'compresion', did you mean 'compression'?"),
    "unknown host key": ("down = true", "donw = true", "hosts.printer: unknown key 'donw', did you mean 'down'?"),
    "unknown kind of host": ('kind = "office"', 'kind = "offic"', "hosts.office: unknown kind 'offic', did you mean 'office'?"),
    "unknown service": ('["dns"]', '["dsn"]', "hosts.dns: unknown service 'dsn', did you mean 'dns'?"),
    "port given twice": ('["http", "ssh"]', '["http", "login"]', "hosts.web: http and login both answer at tcp 80"),
    "address twice": ("192.0.2.9", "192.0.2.3", "hosts: 192.0.2.3 is the address of two hosts"),
    "address by counting": ("192.0.2.9", "192.0.2.11", "hosts: 192.0.2.11 is the address of two hosts"),
    "address of the world": ("203.0.113.7", "8.8.8.8", "hosts.mallory: 8.8.8.8 is not of 198.51.100.0/24 or 203.0.113.0/24"),
    "wrong side": ("203.0.113.7", "192.0.2.77", "hosts.mallory: 192.0.2.77 is not of 198.51.100.0/24"),
    "broadcast": ("203.0.113.7", "203.0.113.255", "hosts.mallory: 203.0.113.255 is the address of a network"),
    "no address": ("203.0.113.7", "203.0.113", "hosts.mallory: '203.0.113': give an address as 203.0.113.7"),
    "backward range": ("5-198.51.100.7", "5-198.51.100.3", "a range goes up"),
    "names": (', "c.example"]', "]", "hosts.site: has 2 names for 3 IPv4 addresses"),
    "name twice": ('"c.example"', '"a.example"', "hosts: a.example is given twice"),
    "long name": ("mallory = {", "mallory-of-the-mountains = {", "a name has at most 11 small letters"),
    "unknown activity": ('what = "web"', 'what = "wed"', "habits, number 1 (wed): unknown activity, did you mean 'web'?"),
    "missing service": ('what = "web"', 'what = "ntp"', "habits, number 1 (ntp): no host offers 'ntp', which this needs"),
    "unknown who": (
        'who = ["office"]',
        'who = ["ofice"]',
        "unknown host 'ofice', did you mean 'office'?",
    ),
    "outsider's habit": ('who = ["office"]', 'who = ["mallory"]', "mallory is of kind attacker"),
    "unknown rhythm": ('rhythm = "people"', 'rhythm = "poeple"', "unknown rhythm 'poeple', did you mean 'people'?"),
    "how often": ("per_day = 20", "per_day = 20\nevery_s = 60", "give either per_day or every_s"),
    "unknown parameter": ("pages = 3", "page = 3", "habits, number 1 (web): takes no 'page', did you mean 'pages'?"),
    "parameter's sort": ("pages = 3", 'pages = "three"', "habits, number 1 (web): pages is 'three': give a value like"),
    "law's sort": ("pages = 3", "pages = { share = 0.5 }", "pages may become True: give values like"),
    "unknown law": ("pages = 3", "pages = { meadian = 3 }", "pages: unknown law meadian, did you mean 'median'?"),
    "law's key": ("pages = 3", "pages = { low = 1, hihg = 3 }", "pages: unknown key 'hihg', did you mean 'high'?"),
    "law's range": ("pages = 3", "pages = { low = 4, high = 3 }", "pages: low is at most high"),
    "unknown sites": (
        'site_of = "internet"',
        'site_of = "intrenet"',
        "no host of kind or name 'intrenet', did you mean",
    ),
    "unknown attack": (
        'kind = "scan_syn"',
        'kind = "scan_sin"',
        "number 1 (scan_sin): unknown kind, did you mean 'scan_syn'?",
    ),
    "unknown victim": ('victims = ["server"]', 'victims = ["severs"]', "unknown host 'severs', did you mean 'server'?"),
    "attacked site": (
        'victims = ["server"]',
        'victims = ["site"]',
        "site is of kind internet: it neither attacks",
    ),
    "unknown run": ("lasts_s = [10, 20]", 'lasts_s = [10, 20]\nruns = ["tset"]', "unknown run 'tset', did you mean 'test'?"),
    "too long": ("lasts_s = [10, 20]", "lasts_s = [10, 90]", "less than half of the run of 120 s"),
    "too many victims": ("lasts_s = [10, 20]", "lasts_s = [10, 20]\neach = 9", "each between 1 and the 2 victims"),
    "a number's sort": ("seconds = 120", 'seconds = "120"', "Expected float, got str - at time.seconds"),
    "weights": ("[0.5, 1, 0.5]", "[0, 0]", "rhythms.people: give weights of at least 0, not all of them 0"),
    "all weights 0": (
        "pages = 3",
        "pages = { one_of = [1, 2], weights = [0, 0] }",
        "habits, number 1 (web): pages: not all weights of one_of can be 0",
    ),
    "endless time": ("seconds = 120", "seconds = inf", "time.seconds is inf: give a number that has an end"),
    "no number": ("per_day = 20", "per_day = nan", "habits, number 1.per_day is nan: give a number that has an end"),
    "widest law": ("pages = 3", "pages = { median = 3, sigma = 400 }", "sigma from 0 to 10"),
    "router's address": (
        "203.0.113.7",
        "203.0.113.1",
        "hosts.mallory: 203.0.113.1 is the router's: give another, or a host of kind router one there",
    ),
    "letters of another script": ("mallory = {", '"büro" = {', "hosts.büro: a name has at most 11 small letters"),
    "hyphen first": ("mallory = {", '"-mallory" = {', "hosts.-mallory: a name has at most 11 small letters"),
    "no name of a site": ('"c.example"', '"c example"', "hosts.site: 'c example' is no name: give one as www.meadow.example"),
    "no domain": ('"lab.example"', '"lab..example"', "domain: 'lab..example' is no name"),
    "seed twice": ("test = { seed = 3 }", "test = { seed = 1 }", "runs: two of them have the same seed"),
    "habit of the dead": ('who = ["office"]', 'who = ["printer"]', "habits, number 1 (web): printer is down, and does nothing"),
    "attack by the dead": ('attackers = ["mallory"]', 'attackers = ["printer"]', "printer is down, and attacks nobody"),
    "own victim": ('victims = ["server"]', 'victims = ["mallory"]', "number 1 (scan_syn): mallory would attack itself"),
    "no TOML": ("[time]", "[time", "not TOML"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_a_line_that_names_the_place(mistake: str, written: Callable[[str], Path]) -> None:
    old, new, told = MISTAKES[mistake]
    assert told in refused(written(changed(old, new)))


def test_the_tiny_description_of_these_tests_is_right(written: Callable[[str], Path]) -> None:
    assert isinstance(read(written(TINY)), Description)


def test_a_file_that_is_not_there_is_told_with_its_reason(tmp_path: Path) -> None:
    assert re.search("No such file", refused(tmp_path / "absent.toml"))


def test_hosts_that_are_down_are_no_favourites_and_take_part_only_if_named(written: Callable[[str], Path]) -> None:
    description = read(written(TINY))
    named = read(written(changed('victims = ["server"]', 'victims = ["printer"]')))
    assert "printer" not in {host.name for host in description.attacks[0].victims}
    assert "printer" in {host.name for host in named.attacks[0].victims}
    assert "printer" not in Names.of(description.site).sites


def test_a_parameter_that_is_fixed_keeps_the_sort_of_its_default(written: Callable[[str], Path]) -> None:
    names = Names.of(read(written(TINY)).site)
    given = Given.read({"share": 1}, {"share": 0.5, "count": 3}, names)
    assert given.usual == {"share": 1.0, "count": 3}
    assert isinstance(given.usual["share"], float)


IMPOSSIBLE = {
    "tool": ("ssh_guess", "web", '{ tool = "hydro" }', "there is no tool 'hydro', did you mean 'hydra'?"),
    "one of the tools": ("ssh_guess", "web", '{ tool = { one_of = ["hydra", "thc"] } }', "there is no tool 'thc', known are"),
    "tool of a tunnel": ("dns_tunnel", "web", '{ tool = "iodin" }', "there is no tool 'iodin', did you mean 'iodine'?"),
    "words": ("ssh_guess", "web", "{ words = -4 }", "words may be -4: give 0 or more"),
    "lowest": ("ssh_guess", "web", "{ words = { low = -1, high = 3 } }", "words may be -1: give 0 or more"),
    "port": ("ssh_guess", "web", "{ port = 99999 }", "port may be 99999: ports end at 65535"),
    "session's port": ("infiltration", "web", "{ session_port = 70000 }", "session_port may be 70000: ports end at 65535"),
    "dead victim": ("syn_flood", "printer", "{ sources = 1 }", "printer is down: only a scan may have such a victim"),
    "service": ("ftp_guess", "web", "{}", "nothing listens at port 21 of web: give it a service, or other victims"),
    "service at a port": ("slowloris", "web", "{ port = 8081 }", "nothing listens at port 8081 of web"),
    "secure service": ("web_sqli", "web", "{ tls = { share = 0.5 } }", "nothing listens at port 443 of web"),
    "form": ("login_guess", "web", "{}", "web has no service 'login', which this attacks"),
    "far end": ("bot", "web", "{}", "no host offers 'c2', which this needs"),
    "sources": ("syn_flood", "web", "{ sources = { low = 1, high = 9 } }", "sources may be 9, and mallory has 1 addresses"),
    "victims at a time": ("syn_flood", "server", "{ sources = 1 }\neach = 2", "this kind takes one victim at a time"),
    "times": ("scan_syn", "web", "{}\ntimes = 1000000", "times is 1,000,000: at most 1,000 can be placed"),
}
RULE = 'kind = "{}"\nattackers = ["mallory"]\nvictims = ["{}"]'


@pytest.mark.parametrize("what", IMPOSSIBLE)
def test_an_attack_that_cannot_be_done_is_refused_before_a_run(what: str, written: Callable[[str], Path]) -> None:
    kind, victim, given, told = IMPOSSIBLE[what]
    rule = f"{RULE.format(kind, victim)}\ngiven = {given}"
    assert f"attacks, number 1 ({kind}): {told}" in refused(written(changed(RULE.format("scan_syn", "server"), rule)))


def test_an_attack_that_can_be_done_is_not_refused(written: Callable[[str], Path]) -> None:
    for kind, victim, given in (
        ("ssh_guess", "web", '{ tool = { one_of = ["hydra", "patator"] }, words = { median = 9, sigma = 1 } }'),
        ("web_sqli", "web", "{}"),
        ("syn_flood", "web", "{ sources = 1, port = 9 }"),
        ("scan_slow", "printer", "{}"),
    ):
        assert read(written(changed(RULE.format("scan_syn", "server"), f"{RULE.format(kind, victim)}\ngiven = {given}")))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("seconds = 120", "seconds = 1e9", "time: a run, and the day that it stands for, take at most 86,400 seconds"),
        ("compression = 30", "compression = 1e9", "time: a run, and the day that it stands for, take at most 86,400 seconds"),
        ("per_day = 20", "every_s = 1e-9", "habits, number 1 (web): each host would do it 3,600,000,000,000 times"),
        ("per_day = 20", "per_day = 1e12", "habits, number 1 (web): each host would do it 1,000,000,000,000 times"),
    ],
)
def test_what_would_be_drawn_for_hours_is_refused(old: str, new: str, told: str, written: Callable[[str], Path]) -> None:
    assert told in refused(written(changed(old, new)))
