"""The laboratory's stand-ins: small instances between two namespaces, and their other ends spoken to on the loopback.

What is held to be true of each: it comes to its end by itself, its flows lie within its times, and its lines label all of
them and nothing that the same two hosts do besides.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from lab.attacks import KINDS
from lab.services import SERVICES, files, tunneldns, web
from lab.site import Attack, Host, LabError, Plan, Site
from namespaces import PATIENCE_S, Wire, wait_until, wire
from numpy.typing import NDArray

from sensor.assembly import Assembly
from sensor.config import Settings
from sensor.labels import Labels
from sensor.sources.pcap import CaptureSource

ROOT = Path(__file__).parents[1]
SERVER = Host("intranet", "server", "inside", ("192.0.2.10",), names=("www.lab.example",), services=("http", "ssh"))
INFECTED = Host("office1", "office", "inside", ("192.0.2.20",))
ATTACKER = Host("attacker", "attacker", "outside", ("198.51.100.66",))
FAR = tuple(
    Host(name, "internet", "outside", (f"203.0.113.{number}",), services=(name,))
    for name, number in (("c2", 5), ("drop", 6), ("tunneldns", 7))
)
SITE = Site((SERVER, INFECTED, ATTACKER, *FAR), "lab.example", 300.0, 30.0)
STARTS = {"http": web.start_http, "ssh": files.start_ssh, **{host.name: SERVICES[host.name].start for host in FAR}}
PORTS = {"http": (("tcp", 80),), "ssh": (("tcp", 22),), **{host.name: SERVICES[host.name].ports for host in FAR}}


def planned(kind: str, attacker: str, *victims: str, within_s: float = 60.0, seed: int = 7, **given: Any) -> Attack:
    return Attack(f"{kind}-1", kind, 0.0, within_s, attacker, victims, seed, KINDS[kind].complete(given))


@contextmanager
def running(argv: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own, which is ended with the block."""
    with log.open("ab") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=output, cwd=ROOT, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


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
            STARTS[service](host, SITE, self.run, launch)
        except LabError as error:
            pytest.skip(str(error))
        wait_until(lambda: set(PORTS[service]) <= self.bound(), f"{service}: {self.run / 'server.txt'}")

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
            assert driver.wait(PATIENCE_S * 2) == 0, (self.run / "driver.txt").read_text("utf-8")
        told: dict[str, Any] = msgspec.json.decode((self.run / "instances" / f"{attack.name}.json").read_bytes())
        return told


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Two namespaces with the addresses of the site and a wire between."""
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


@contextmanager
def captured(stage: Stage) -> Iterator[Path]:
    """Everything on the wire during the block."""
    path, log = stage.run / "capture.pcap", stage.run / "tcpdump.txt"
    inside = ("ip", "netns", "exec", stage.wire.receiver.name)
    tcpdump = ("tcpdump", "-i", stage.wire.far, "-s", "160", "-n", "-U", "-Z", "root", "-w", str(path))
    with running((*inside, *tcpdump), log) as process:
        wait_until(lambda: log.exists() and b"listening" in log.read_bytes(), "tcpdump")
        yield path
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(PATIENCE_S) == 0


def flows_of(path: Path) -> NDArray[np.void]:
    """The flows of a capture, as netseq makes them."""
    assembly = Assembly(Settings())
    batches = [batch.flows for block in CaptureSource([path]) for batch in assembly.feed(block)]
    return np.concatenate([*batches, *(batch.flows for batch in assembly.drain())])


def labelled(flows: NDArray[np.void], record: dict[str, Any]) -> list[str]:
    """The label of each flow by the record's lines, "" for none."""
    times = f"{record['start_us'] / 1e6:.6f},{record['end_us'] / 1e6:.6f}"
    rows = ["from,to,src,dst,src_port,dst_port,protocol,label,both"]
    for line in record["lines"]:
        cells = (line["src"], line["dst"], line["src_port"], line["dst_port"], line["protocol"], record["label"])
        rows.append(f"{times},{','.join(cells)},{'yes' if line['both'] else 'no'}")
    labels = Labels.parse("\n".join(rows).encode(), "labels.csv")
    return [labels.lines[place].label if place >= 0 else "" for place in labels.of(flows)]


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
    (planned("bot", "office1", "c2", beacons=6, interval_s=0.2, commands=0.5), ("c2",), 6),
    (planned("infiltration", "office1", "intranet", logins=2, **INTRUSION), ("c2", "http", "ssh"), 12),
    (planned("dns_tunnel", "office1", queries=10, interval_s=0.05, one_socket=False), ("tunneldns",), 10),
    (planned("dns_tunnel", "office1", tool="iodine", queries=10, interval_s=0.05, record="NULL"), ("tunneldns",), 1),
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
    with captured(stage) as path:
        record = stage.attack(attack)
    flows = flows_of(path)
    assert record["outcome"] == "done"
    assert len(flows) >= least
    assert record["start_us"] < flows["first_us"].min()
    assert flows["last_us"].max() <= record["end_us"]
    missed = [flow for flow, label in zip(flows, labelled(flows, record), strict=True) if not label]
    assert not missed, missed
    assert set(labelled(flows, record)) == {KINDS[attack.kind].label}
    seconds = (record["end_us"] - record["start_us"]) / 1e6
    record_property("told", f"{name_of(attack)}: {len(flows)} flows in {seconds:.1f} s, {record['version']}")
