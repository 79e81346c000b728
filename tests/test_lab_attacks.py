"""The laboratory's attacks with well-known tools: small instances between two namespaces, against the laboratory's own servers.

What is held to be true of each: it comes to its end by itself, its flows lie within its times, and its lines label all of them.
The capture is taken at the victim, where nothing else is sent.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from attack_captures import captured, flows_of, labelled, running
from lab.accounts import PEOPLE
from lab.attacks import KINDS, floods, guesses, scans, slow
from lab.attacks import instance as instances
from lab.attacks.confined import documentation, ways_out
from lab.attacks.guesses import words
from lab.attacks.kind import Kind
from lab.output import LINGER_US
from lab.services import files, web
from lab.site import Attack, Host, LabError, Plan, Site
from namespaces import PATIENCE_S, Wire, run, wait_until, wire

ROOT = Path(__file__).parents[1]
BOTS = tuple(f"203.0.113.{number}" for number in range(10, 40))
VICTIM = Host("victim", "server", "inside", ("192.0.2.10",), names=("intranet.lab.example",), services=("login",))
ATTACKER = Host("attacker", "attacker", "outside", ("198.51.100.66",))
BOTNET = Host("botnet", "botnet", "outside", BOTS)
SITE = Site((VICTIM, ATTACKER, BOTNET), "lab.example", 300.0, 30.0)
STARTS = {21: files.start_ftp, 22: files.start_ssh, 80: web.start_login}
"""The laboratory's servers by port."""


@dataclass
class Stage:
    """Attacker and victim, what listens there, and what is captured."""

    wire: Wire
    run: Path
    stack: ExitStack

    def serve(self, port: int) -> None:
        """Start the server of this port at the victim, and wait until it listens."""

        def launch(argv: Sequence[str]) -> None:
            self.stack.enter_context(running(("ip", "netns", "exec", self.wire.receiver.name, *argv), self.run / "server.txt"))

        try:
            STARTS[port](VICTIM, SITE, self.run, launch)
        except LabError as error:
            pytest.skip(str(error))
        listening = ("ss", "--no-header", "--listening", "--tcp", "--numeric", f"sport = {port}")
        wait_until(lambda: bool(self.wire.receiver.run(*listening)), f"a server at port {port}: {self.run / 'server.txt'}")

    def attack(self, attack: Attack) -> dict[str, Any]:
        """Run the instance as the laboratory does, and return its record."""
        SITE.write(self.run / "hosts.json")
        Plan((), (attack,)).write(self.run / "schedule.json")
        driver = self.begin(attack.name)
        assert driver.wait(attack.within_s + PATIENCE_S) == 0, (self.run / "driver.txt").read_text("utf-8")
        return self.record(attack.name)

    def begin(self, name: str) -> subprocess.Popen[bytes]:
        inside = ("ip", "netns", "exec", self.wire.sender.name, sys.executable, "-m", "tests.lab.attacks")
        return self.stack.enter_context(running((*inside, name, "--run", str(self.run)), self.run / "driver.txt"))

    def record(self, name: str) -> dict[str, Any]:
        told: dict[str, Any] = msgspec.json.decode((self.run / "instances" / f"{name}.json").read_bytes())
        return told


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Two namespaces with the laboratory's addresses and a wire between."""
    if not shutil.which("tcpdump"):
        pytest.skip("needs tcpdump")
    with ExitStack() as stack:
        laid = stack.enter_context(wire())
        near, far = laid.sender, laid.receiver
        for address in (f"{ATTACKER.ipv4[0]}/24", *(f"{bot}/24" for bot in BOTS)):
            near.run("ip", "address", "add", address, "dev", laid.near)
        far.run("ip", "address", "add", f"{VICTIM.ipv4[0]}/24", "dev", laid.far)
        near.run("ip", "route", "add", "192.0.2.0/24", "dev", laid.near)
        for network in ("198.51.100.0/24", "203.0.113.0/24"):
            far.run("ip", "route", "add", network, "dev", laid.far)
        for space in (near, far):
            space.run("ip", "link", "set", "lo", "up")
        yield Stage(laid, tmp_path, stack)


def planned(kind: str, attacker: str = "attacker", within_s: float = 240.0, **given: Any) -> Attack:
    return Attack(f"{kind}-1", kind, 0.0, within_s, attacker, ("victim",), 7, KINDS[kind].complete(given))


WORDS: dict[str, Any] = {"accounts": 2, "words": 4, "right": 1}
FEW: dict[str, Any] = {"accounts": 2, "words": 2, "right": 1}
"""For vsftpd, which takes seconds to say no."""
SOME = 4
"""Of the connections of a tool that ends at its time: on a busy machine it has not opened all of them by then."""
BY_BOTS: dict[str, Any] = {"sources": 20, "together": 10}
CASES = (
    (planned("ssh_guess", tool="patator", threads=2, **WORDS), 22, 3),
    (planned("ssh_guess", tool="hydra", threads=2, **WORDS), 22, 3),
    (planned("ftp_guess", tool="patator", threads=4, **FEW), 21, 2),
    (planned("ftp_guess", tool="hydra", threads=4, **FEW), 21, 2),
    (planned("login_guess", tool="patator", threads=2, **WORDS), 80, 2),
    (planned("login_guess", tool="hydra", threads=2, **WORDS), 80, 8),
    (planned("slowloris", connections=12, rate=12, every_s=1, seconds=2.0), 80, SOME),
    (planned("slow_body", connections=12, rate=12, every_s=1, seconds=2.0), 80, SOME),
    (planned("slow_read", connections=12, rate=12, seconds=2.0), 80, SOME),
    (planned("goldeneye", workers=1, sockets=5), 80, 5),
    (planned("http_flood", requests=100, together=10), 80, 100),
    (planned("http_ddos", "botnet", requests=3, **BY_BOTS), 80, 60),
    (planned("syn_flood", "botnet", packets=5, **BY_BOTS), 80, 100),
    (planned("udp_flood", "botnet", packets=5, **BY_BOTS), 0, 100),
    (planned("scan_syn", ports="1-100"), 80, 100),
    (planned("scan_connect", ports="1-100"), 80, 100),
    (planned("scan_udp", ports="53,123,161", retries=0), 0, 3),
    (
        planned("scan_version", ports="21-23"),
        22,
        3,
    ),  # of a server that speaks first: nmap waits six seconds for one that does not
    (planned("scan_slow", ports="80-82", delay_ms=300), 80, 3),
    (planned("scan_masscan", ports="1-100"), 80, 100),
)


def name_of(attack: Attack) -> str:
    tool = attack.given.get("tool")
    return f"{attack.kind}-{tool}" if tool else attack.kind


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.parametrize(("attack", "port", "least"), CASES, ids=[name_of(case[0]) for case in CASES])
def test_the_lines_of_an_attack_label_all_its_flows(
    stage: Stage, attack: Attack, port: int, least: int, record_property: Any
) -> None:
    missing = [program for program in KINDS[attack.kind].programs if not shutil.which(program)]
    if missing:
        pytest.skip(f"needs {' and '.join(missing)}")
    if port:
        stage.serve(port)
    with captured(stage.wire, stage.run) as path:
        record = stage.attack(attack)
    flows = flows_of(path)
    assert record["outcome"] == "done"
    assert len(flows) >= least
    assert record["start_us"] < flows["first_us"].min()
    assert flows["last_us"].max() <= record["end_us"] + LINGER_US
    assert set(labelled(flows, record)) == {KINDS[attack.kind].label}
    seconds = (record["end_us"] - record["start_us"]) / 1e6
    record_property("told", f"{name_of(attack)}: {len(flows)} flows in {seconds:.1f} s, {record['version']}")


def left_in(stage: Stage) -> list[str]:
    """The processes that are still in the attacker's namespace."""
    return run("ip", "netns", "pids", stage.wire.sender.name).split()


@pytest.mark.root
@pytest.mark.slow
def test_an_attack_that_goes_on_is_ended_at_its_limit_with_all_its_processes(stage: Stage) -> None:
    """goldeneye's workers outlive it when it is told to end: it has to be its whole group."""
    if not shutil.which("goldeneye"):
        pytest.skip("needs goldeneye")
    stage.serve(80)
    record = stage.attack(planned("goldeneye", within_s=2.0, workers=1, sockets=5, cpu_s=100))
    assert record["outcome"] == "ended at its time limit"
    assert record["lines"], "it is labelled all the same"
    assert 2.0 <= (record["end_us"] - record["start_us"]) / 1e6 < 2.0 + PATIENCE_S
    wait_until(lambda: not left_in(stage), "the end of all its processes")


@pytest.mark.root
@pytest.mark.slow
def test_a_run_that_is_stopped_leaves_a_record_and_no_process(stage: Stage) -> None:
    if not shutil.which("slowhttptest"):
        pytest.skip("needs slowhttptest")
    stage.serve(80)
    SITE.write(stage.run / "hosts.json")
    Plan((), (planned("slowloris", connections=5, seconds=60.0),)).write(stage.run / "schedule.json")
    driver = stage.begin("slowloris-1")
    commands = stage.run / "attacks" / "slowloris-1" / instances.COMMANDS
    wait_until(commands.exists, "slowhttptest")
    os.killpg(driver.pid, signal.SIGTERM)
    assert driver.wait(PATIENCE_S) == 0
    record = stage.record("slowloris-1")
    assert record["outcome"] == "stopped with the run"
    assert record["lines"]
    wait_until(lambda: not left_in(stage), "the end of all its processes")


@pytest.mark.root
@pytest.mark.slow
def test_a_guesser_finds_the_right_passwords_among_its_words_and_no_others(stage: Stage) -> None:
    """What patator tells in full are the answers that it was not told to ignore: those of right passwords."""
    if not shutil.which("patator"):
        pytest.skip("needs patator")
    stage.serve(80)
    attack = planned("login_guess", accounts=3, words=5, right=2, threads=2)
    stage.attack(attack)
    folder = stage.run / "attacks" / attack.name
    told = (folder / "output.txt").read_text("utf-8")
    tried = (folder / "words.txt").read_text("utf-8").split()
    right = {f"{person.name}:{person.password}" for person in PEOPLE}
    assert {word for word in tried if word in told} == right & set(tried)
    assert len(right & set(tried)) == 2


def test_words_are_drawn_from_the_seed_with_as_many_right_ones_as_asked_for(tmp_path: Path) -> None:
    attack = planned("ssh_guess", accounts=4, words=10, right=3)
    first = words(attack, tmp_path / "first").read_text("utf-8").splitlines()
    assert first == words(attack, tmp_path / "second").read_text("utf-8").splitlines()
    assert first != words(replace(attack, seed=8), tmp_path / "third").read_text("utf-8").splitlines()
    assert len(first) == 40
    assert len({f"{person.name}:{person.password}" for person in PEOPLE} & set(first)) == 3


def test_an_attack_on_the_machines_own_network_is_refused(tmp_path: Path) -> None:
    SITE.write(tmp_path / "hosts.json")
    Plan((), (planned("scan_syn"),)).write(tmp_path / "schedule.json")
    asked = [sys.executable, "-m", "tests.lab.attacks", "scan_syn-1", "--run", str(tmp_path)]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 2
    assert done.stderr == (
        "scan_syn-1: attacks run in the namespaces of the laboratory only: start them with `python -m tests.lab run`\n"
    )
    assert not (tmp_path / "instances").exists()


HEADER = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT"
INSIDE = "eth0 000200C0 00000000 0001 0 0 0 00FFFFFF 0 0 0"  # 192.0.2.0/24
BY_ROUTER = "eth0 00000000 016433C6 0003 0 0 0 00000000 0 0 0"  # default by 198.51.100.1
BY_OUTSIDE = "eth0 00000000 0100000A 0003 0 0 0 00000000 0 0 0"  # default by 10.0.0.1
PRIVATE = "eth0 0000000A 00000000 0001 0 0 0 000000FF 0 0 0"  # 10.0.0.0/8


@pytest.mark.skipif(sys.byteorder != "little", reason="the kernel writes addresses in the machine's order")
@pytest.mark.parametrize(
    ("routes", "told"),
    [
        ((INSIDE, BY_ROUTER), []),
        ((INSIDE, BY_OUTSIDE), ["the route to 0.0.0.0/0 by 10.0.0.1"]),
        ((PRIVATE,), ["the route to 10.0.0.0/8"]),
    ],
)
def test_a_route_out_of_the_documentation_ranges_is_found(tmp_path: Path, routes: tuple[str, ...], told: list[str]) -> None:
    (tmp_path / "self" / "net").mkdir(parents=True)
    (tmp_path / "self" / "net" / "route").write_text("\n".join((HEADER, *routes)) + "\n", encoding="ascii")
    assert list(ways_out(tmp_path)) == told


@pytest.mark.parametrize(
    ("address", "inside"), [("192.0.2.1", True), ("2001:db8:1::1", True), ("192.0.3.1", False), ("::1", False)]
)
def test_only_addresses_for_documentation_are_the_laboratorys(address: str, inside: bool) -> None:
    assert documentation(address) is inside


@pytest.mark.root
def test_a_victim_with_another_address_is_refused(stage: Stage) -> None:
    Site((replace(VICTIM, ipv4=("10.0.0.1",)), ATTACKER), "lab.example", 300.0, 30.0).write(stage.run / "hosts.json")
    Plan((), (planned("scan_syn"),)).write(stage.run / "schedule.json")
    assert stage.begin("scan_syn-1").wait(PATIENCE_S) == 2
    assert "10.0.0.1 is no address for documentation" in (stage.run / "driver.txt").read_text("utf-8")


def test_a_parameter_that_a_kind_does_not_take_is_named() -> None:
    with pytest.raises(LabError, match="ssh_guess takes no 'speed': it takes tool, accounts"):
        planned("ssh_guess", speed=3)
    with pytest.raises(LabError, match="ssh_guess: words is 'many': give a value like 40"):
        planned("ssh_guess", words="many")


def test_a_tool_that_is_not_installed_is_named_with_its_package() -> None:
    with pytest.raises(LabError, match="nmap2000 is not installed: apt-get install nmap"):
        instances.program("nmap2000", "nmap")


@pytest.mark.parametrize(("ports", "number"), [("80", 1), ("1-1000", 1000), ("22,80-81,8000-8100", 104)])
def test_the_ports_of_a_list_are_counted(ports: str, number: int) -> None:
    assert scans.count(ports) == number


@pytest.mark.parametrize("kind", [*guesses.KINDS, *slow.KINDS, *floods.KINDS, *scans.KINDS], ids=lambda kind: kind.name)
def test_a_kind_of_a_well_known_tool_has_a_label_of_the_published_data_sets(kind: Kind) -> None:
    assert f" {kind.label}" in (ROOT / "docs" / "labels.md").read_text("utf-8")
    assert len(kind.programs) == len(kind.packages)
    assert KINDS[kind.name] is kind
