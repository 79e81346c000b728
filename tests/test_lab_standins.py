"""The laboratory's stand-ins: small instances between two namespaces, and their other ends spoken to on the loopback.

What is held to be true of each: it comes to its end by itself, its flows lie within its times, and its lines label all of
them and nothing that the same hosts do besides.
"""

from __future__ import annotations

import random
import shutil
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from attack_captures import captured, flows_of, labelled, running
from hypothesis import given, settings
from hypothesis import strategies as st
from lab.attacks import KINDS, long_labels, standins_inside, standins_quiet, standins_web
from lab.attacks.exchanges import Exchanges
from lab.attacks.standins import ENDING_S, Ends, Pace, Web, peer
from lab.attacks.standins_inside import scan
from lab.attacks.standins_quiet import echo
from lab.description import read
from lab.output import LINGER_US
from lab.schedule import draw
from lab.services import SERVICES, c2, responder, sink, tunneldns
from lab.site import Attack, Host, LabError, Plan, Site
from namespaces import PATIENCE_S, Wire, wait_until, wire
from scapy.layers import inet
from scapy.layers.dns import DNS

from sensor.addresses import halves
from sensor.schema import FLOW, ICMP, TCP, UDP

ROOT = Path(__file__).parents[1]
SERVER = Host("intranet", "server", "inside", ("192.0.2.10",), names=("www.lab.example",), services=("http", "https", "ssh"))
INFECTED = Host("office1", "office", "inside", ("192.0.2.20",))
ATTACKER = Host("attacker", "attacker", "outside", ("198.51.100.66",))
FAR = tuple(
    Host(name, "internet", "outside", (f"203.0.113.{number}",), services=(name,))
    for name, number in (("c2", 5), ("drop", 6), ("tunneldns", 7))
)
SITE = Site((SERVER, INFECTED, ATTACKER, *FAR), "lab.example", 300.0, 30.0)


def planned(kind: str, attacker: str, *victims: str, within_s: float = 240.0, seed: int = 7, **given: Any) -> Attack:
    return Attack(f"{kind}-1", kind, 0.0, within_s, attacker, victims, seed, KINDS[kind].complete(given))


@dataclass
class Stage:
    """All attackers at one end of a wire, all that they speak to at the other, and what is captured there."""

    wire: Wire
    run: Path
    stack: ExitStack

    def serve(self, service: str) -> None:
        """Start a service at the host that has it, and wait until it listens."""
        (host,) = SITE.offering(service)

        def launch(argv: Sequence[str]) -> None:
            self.stack.enter_context(running(("ip", "netns", "exec", self.wire.receiver.name, *argv), self.run / "server.txt"))

        try:
            SERVICES[service].start(host, SITE, self.run, launch)
        except LabError as error:
            pytest.skip(str(error))
        wait_until(lambda: set(SERVICES[service].ports) <= self.bound(), f"{service}: {self.run / 'server.txt'}")

    def bound(self) -> set[tuple[str, int]]:
        """Where somebody listens, as ("tcp", 80)."""
        rows = (line.split() for line in self.wire.receiver.run("ss", "-Hlntu").splitlines())
        return {(row[0], int(row[4].rpartition(":")[2])) for row in rows}

    def attack(self, attack: Attack) -> dict[str, Any]:
        """Run the instance as the laboratory does, with all else that its hosts do; its record."""
        SITE.write(self.run / "hosts.json")
        Plan((), (attack,)).write(self.run / "schedule.json")
        inside = ("ip", "netns", "exec", self.wire.sender.name, sys.executable, "-m", "tests.lab.attacks")
        with running((*inside, attack.name, "--run", str(self.run)), self.run / "driver.txt") as driver:
            assert driver.wait(attack.within_s + PATIENCE_S) == 0, (self.run / "driver.txt").read_text("utf-8")
        told: dict[str, Any] = msgspec.json.decode((self.run / "instances" / f"{attack.name}.json").read_bytes())
        return told


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Two namespaces with the addresses of the site and a wire between."""
    if not shutil.which("tcpdump"):
        pytest.skip("needs tcpdump")
    with ExitStack() as stack:
        laid = stack.enter_context(wire())
        ends = ((laid.sender, laid.near, (INFECTED, ATTACKER)), (laid.receiver, laid.far, (SERVER, *FAR)))
        for space, device, hosts in ends:
            for host in hosts:
                space.run("ip", "address", "add", f"{host.ipv4[0]}/32", "dev", device)
            for network in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"):
                space.run("ip", "route", "add", network, "dev", device)
            space.run("ip", "link", "set", "lo", "up")
        yield Stage(laid, tmp_path, stack)


WEB: dict[str, Any] = {"requests": 8, "interval_s": 0.05}
INTRUSION: dict[str, Any] = {
    "download_bytes": 50_000,
    "commands": 4,
    "session_s": 1.0,
    "scan_addresses": 4,
    "scan_wait_s": 0.2,
    "login_s": 0.2,
}
CASES = (
    (planned("web_sqli", "attacker", "intranet", **WEB, keep_alive=False), ("http",), 8),
    (planned("web_xss", "attacker", "intranet", **WEB, method="post"), ("http",), 1),
    (planned("web_traversal", "attacker", "intranet", **WEB), ("http",), 8),
    (planned("web_traversal", "attacker", "intranet", **WEB, tls=True, keep_alive=True), ("https",), 1),
    (planned("bot", "office1", "c2", beacons=6, interval_s=0.2, commands=0.5), ("c2",), 6),
    (planned("infiltration", "office1", "intranet", logins=2, **INTRUSION), ("c2", "http", "ssh"), 12),
    (planned("dns_tunnel", "office1", queries=10, interval_s=0.05, one_socket=False), ("tunneldns",), 10),
    (planned("dns_tunnel", "office1", tool="iodine", queries=10, interval_s=0.05, record="NULL"), ("tunneldns",), 1),
    (planned("dns_tunnel", "office1", queries=3, interval_s=0.05), (), 2),  # nobody there: every query is refused
    (planned("icmp_tunnel", "office1", "drop", packets=10, interval_s=0.05), (), 1),
    (planned("exfiltration", "office1", "drop", uploads=3, upload_bytes=40_000, interval_s=0.1), ("drop",), 3),
)


def name_of(case: object) -> str:
    return f"{case.kind}-{case.given.get('tool', 'one')}" if isinstance(case, Attack) else ""


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.parametrize(("attack", "services", "least"), CASES, ids=name_of)
def test_the_lines_of_a_stand_in_label_all_its_flows(
    stage: Stage, attack: Attack, services: tuple[str, ...], least: int, record_property: Any
) -> None:
    if attack.given.get("tool") == "iodine" and not (shutil.which("iodined") and tunneldns.TUN.exists()):
        pytest.skip("needs iodine and /dev/net/tun")
    for service in services:
        stage.serve(service)
    with captured(stage.wire, stage.run) as path:
        record = stage.attack(attack)
    flows = flows_of(path)
    assert record["outcome"] == "done"
    if attack.kind == "infiltration":  # let in with the laboratory's key
        assert "2 logins, 0 refused" in record["command"]
    assert len(flows) >= least
    assert record["start_us"] < flows["first_us"].min()
    assert flows["last_us"].max() <= record["end_us"] + LINGER_US
    missed = [flow for flow, label in zip(flows, labelled(flows, record), strict=True) if not label]
    assert not missed, missed
    assert set(labelled(flows, record)) == {KINDS[attack.kind].label}
    seconds = (record["end_us"] - record["start_us"]) / 1e6
    record_property("told", f"{name_of(attack)}: {len(flows)} flows in {seconds:.1f} s, {record['version']}")


ORDINARY = (
    ("192.0.2.20", "192.0.2.10", 50_001, 80, TCP),
    ("192.0.2.20", "192.0.2.53", 50_002, 53, UDP),
    ("192.0.2.20", "192.0.2.10", 0, 0, ICMP),
    ("192.0.2.20", "203.0.113.50", 50_003, 443, TCP),
    ("192.0.2.21", "203.0.113.5", 50_004, 8080, TCP),
)
"""What the hosts of the inside do besides: the intranet, names, a ping, a web site; and another host that speaks to c2."""


@pytest.mark.parametrize("kind", ["bot", "dns_tunnel", "icmp_tunnel", "exfiltration"])
def test_the_lines_of_a_kind_that_is_not_quiet_match_no_ordinary_flow(kind: str, tmp_path: Path) -> None:
    lines = KINDS[kind].run(planned(kind, "office1"), SITE, tmp_path)
    first = msgspec.to_builtins(next(iter(lines)))
    record = {"start_us": 0, "end_us": 10**12, "lines": [first], "label": KINDS[kind].label}
    rows = np.zeros(len(ORDINARY), FLOW)
    for row, (src, dst, src_port, dst_port, protocol) in zip(rows, ORDINARY, strict=True):
        row["src_hi"], row["src_lo"] = halves(src)
        row["dst_hi"], row["dst_lo"] = halves(dst)
        row["src_port"], row["dst_port"], row["protocol"] = src_port, dst_port, protocol
    assert not KINDS[kind].quiet
    assert labelled(rows, record) == [""] * len(rows)


@given(st.integers(0, 999), st.integers(1, 400), st.integers(1, 3000), st.sampled_from(list(responder.TYPES)))
@settings(max_examples=60, deadline=None)
def test_long_labels_are_names_that_others_read_and_answers_have_the_size_asked_for(
    seed: int, out: int, back: int, record: str
) -> None:
    query = long_labels.question(random.Random(seed), "l.lab.example", record, out, back)
    asked = DNS(query)
    name = asked.qd[0].qname.decode()
    assert name.endswith(".l.lab.example.")
    assert len(name) <= long_labels.LONGEST_NAME + 1
    assert max(map(len, name.split("."))) <= responder.LARGEST_LABEL
    said = responder.answer(query)
    assert said is not None
    read = DNS(said)
    assert (read.id, read.qd[0].qname, read.ancount) == (asked.id, asked.qd[0].qname, 1)
    data = read.an[0].rdata
    wanted = min(back, responder.LARGEST_ANSWER_BYTES)
    if record != "CNAME":
        assert len(data if record == "NULL" else b"".join(data)) == wanted
    else:
        assert len(data.decode()) <= long_labels.LONGEST_NAME + 1


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_a_query_of_random_bytes_is_answered_or_let_pass(query: bytes) -> None:
    said = responder.answer(query)
    assert said is None or said[:2] == query[:2]


@given(st.binary(max_size=200), st.integers(0, 0xFFFF), st.integers(0, 0xFFFF))
@settings(max_examples=60, deadline=None)
def test_an_echo_request_has_the_checksum_that_others_compute(payload: bytes, identity: int, sequence: int) -> None:
    assert echo(identity, sequence, payload) == bytes(inet.ICMP(type=8, id=identity, seq=sequence) / payload)


def test_the_inside_of_a_dns_tunnel_is_where_no_host_is() -> None:
    free = ip_network(f"{tunneldns.near(SITE)}/{tunneldns.BITS}", strict=False)
    assert not any(ip_address(address) in free for host in SITE.hosts for address in host.ipv4)
    crowded = Host("botnet", "botnet", "outside", (str(free[3]),))
    assert tunneldns.near(replace(SITE, hosts=(*SITE.hosts, crowded))) not in map(str, free)


@pytest.mark.parametrize(
    ("draw", "mark"),
    [(standins_web.sql_like, "'"), (standins_web.script_like, "<"), (standins_web.path_like, "../")],
)
def test_strings_are_drawn_from_the_seed_and_look_as_they_should(draw: Any, mark: str) -> None:
    first, again, other = ([draw(chance) for _ in range(20)] for chance in map(random.Random, (1, 1, 2)))
    assert first == again != other
    assert all(mark in string or string.startswith("1") for string in first)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def sink_at(tmp_path: Path) -> Iterator[dict[str, int]]:
    """A sink on the loopback, with a port for each of its talks."""
    ports = {"http": free_port(), "frames": free_port()}
    host = Host("c2", "internet", "outside", ("127.0.0.1",))
    log = tmp_path / "sink.txt"
    with running(c2.command(host, **{talk: (port,) for talk, port in ports.items()}), log):
        wait_until(lambda: b"listening" in log.read_bytes(), "sink")
        yield ports


def test_a_sink_answers_as_many_bytes_as_are_asked_for_and_no_more_than_it_may(sink_at: dict[str, int]) -> None:
    site = Web(Ends("127.0.0.1", "127.0.0.1", sink_at["http"]), keep_alive=True)
    assert [len(site.ask(f"/a?id=1&n={size}")) for size in (0, 1, 70_000)] == [0, 1, 70_000]
    assert len(site.ask("/b?n=3", b"x" * 200_000)) == 3
    assert len(site.ask("/c?n=99999999")) == sink.LONGEST_ANSWER_BYTES
    with Exchanges(Ends("127.0.0.1", "127.0.0.1", sink_at["frames"])) as exchanges:
        assert [exchanges.exchange(b"y" * size, size, 0.01) for size in (0, 5, 50_000)] == [0, 5, 50_000]


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    attack = planned("bot", "office1", beacons=1)
    site = Web(Ends("127.0.0.1", "127.0.0.1", port := free_port()))
    assert site.ask("/") == b""
    with pytest.raises(LabError, match=f"bot-1: 127.0.0.1 port {port} answered no request: is its service running?"):
        site.end(attack, tmp_path)


def test_a_scan_counts_what_accepts() -> None:
    attack = planned("infiltration", "office1", "intranet")
    with socket.create_server(("127.0.0.1", 0)) as server:
        ports = [server.getsockname()[1], free_port()]
        assert scan("127.0.0.1", ["127.0.0.1"], ports, random.Random(1), 1.0, Pace(attack, random.Random(1))) == 1


def test_nothing_is_sent_when_the_time_is_over() -> None:
    pace = Pace(planned("bot", "office1", within_s=1.0), random.Random(1))
    assert pace.left_s == 0
    assert not pace.wait(0.0, 0.0)


@pytest.mark.parametrize(
    ("attack", "told"),
    [
        (planned("bot", "office1", port=0), "bot-1: port is 0: give a whole number of at least 1"),
        (planned("bot", "office1", port=99_999), "bot-1: the port is 99999: give one from 1 to 65535"),
        (planned("bot", "office1", ipv6=True), "bot-1: office1 has no IPv6 address: give it one, or ipv6 = false"),
        (planned("bot", "office1", jitter=2.0), "bot-1: jitter is 2.0: give a number from 0 to 1"),
        (planned("web_xss", "attacker"), "web_xss-1 has 0 victims: this kind takes one"),
        (planned("web_xss", "attacker", "intranet", method="put"), "web_xss-1: method is 'put': give get or post"),
        (planned("dns_tunnel", "office1", tool="dns"), "dns_tunnel-1: tool is 'dns': give labels or iodine"),
        (planned("dns_tunnel", "office1", record="A"), "dns_tunnel-1: record is 'A': give CNAME or NULL or TXT"),
        (planned("infiltration", "office1", scan_ports=["ssh"]), "infiltration-1: scan_ports is ['ssh']: give up to 50 ports"),
        (planned("icmp_tunnel", "office1", "c2", "drop"), "icmp_tunnel-1 has 2 victims: this kind takes one"),
    ],
)
def test_a_parameter_that_cannot_be_is_told_before_anything_is_sent(attack: Attack, told: str, tmp_path: Path) -> None:
    with pytest.raises(LabError) as refused:
        next(iter(KINDS[attack.kind].run(attack, SITE, tmp_path)))
    assert str(refused.value).startswith(told)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("description", ["standard.toml", "small.toml"])
def test_every_stand_in_that_a_shipped_description_asks_for_can_begin(description: str, seed: int, tmp_path: Path) -> None:
    """What is wrong with its parameters or its hosts is found before its first line."""
    site, plan = draw(read(ROOT / "tests" / "lab" / description), seed)
    own = {kind.name for module in (standins_web, standins_inside, standins_quiet) for kind in module.KINDS}
    begun = set()
    for attack in plan.attacks:
        if attack.kind in own:
            complete = replace(attack, given=KINDS[attack.kind].complete(attack.given))
            line = next(iter(KINDS[attack.kind].run(complete, site, tmp_path)))
            assert line.src in site[attack.attacker].ipv4
            assert complete.within_s > ENDING_S
            begun.add(attack.kind)
    assert {"web_sqli", "bot", "infiltration", "dns_tunnel"} <= begun


def test_the_other_end_is_the_victim_that_offers_it_or_the_first_that_does() -> None:
    second = Host("c2b", "internet", "outside", ("203.0.113.9",), services=("c2",))
    site = replace(SITE, hosts=(*SITE.hosts, second))
    assert peer(planned("bot", "office1"), site, "c2").name == "c2"
    assert peer(planned("bot", "office1", "c2b"), site, "c2") is second
    with pytest.raises(LabError, match="bot-1 needs a host with the service c3"):
        peer(planned("bot", "office1"), site, "c3")
