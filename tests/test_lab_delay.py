"""Delay and loss of the laboratory's links: the delay line by itself, netem's command, and either as the hosts feel it."""

from __future__ import annotations

import contextlib
import random
import socket
import subprocess
import time

import pytest
from lab import world
from lab.delay import WAITING_FRAMES, DelayLine, links, netem_command
from lab.network import ROUTER, Network
from lab.site import Host, Site
from namespaces import PATIENCE_S
from worlds import in_world

ROUTER_SIDE, OUTSIDE_SIDE = 0, 1
MS = 1_000_000
FAR, LOSSY, NEAR = "198.51.100.10", "198.51.100.20", "198.51.100.30"
FAR6 = "2001:db8:2::10"
PC = "192.0.2.20"
FRAMES_A_SECOND = 20_000
SECONDS = 2
ATTEMPTS, ARRIVE_S = 4, 15.0
BURST = 200
"""Datagrams that a socket's buffer holds before anyone reads."""
TRIES = 50
END = b"end"


def site() -> Site:
    hosts = (
        Host("pc", "office", "inside", (PC,), ("2001:db8:1::20",), delay_ms=1),
        Host("far", "internet", "outside", (FAR,), (FAR6,), delay_ms=20),
        Host("lossy", "internet", "outside", (LOSSY,), delay_ms=2, loss=0.2),
        Host("near", "internet", "outside", (NEAR,)),
    )
    return Site(hosts, "lab.example", 60.0, 30.0)


def frame(source: str, destination: str, number: int = 0) -> bytes:
    """As much of a frame as a delay line looks at, and a number."""
    if ":" in source:
        pair = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, destination)
        return bytes(12) + b"\x86\xdd" + bytes(8) + pair + number.to_bytes(4, "big")
    return (
        bytes(12)
        + b"\x08\x00"
        + bytes(12)
        + socket.inet_aton(source)
        + socket.inet_aton(destination)
        + number.to_bytes(4, "big")
    )


def test_only_hosts_outside_with_delay_or_loss_are_in_the_table() -> None:
    assert links(site()) == {FAR: (20 * MS, 0.0), FAR6: (20 * MS, 0.0), LOSSY: (2 * MS, 0.2)}


def test_netem_has_delay_and_loss_of_the_host_and_room_for_a_flood() -> None:
    command = netem_command("p3", Host("x", "internet", "outside", (FAR,), delay_ms=12.5, loss=0.005))
    assert " ".join(command) == "tc qdisc add dev p3 root netem limit 20000 delay 12.5ms loss 0.5%"
    assert netem_command("p3", Host("x", "internet", "outside", (FAR,), loss=0.01))[-2:] == ["loss", "1%"]
    assert netem_command("p3", Host("x", "internet", "outside", (FAR,))) == []


@in_world
def test_tc_understands_the_command_for_netem() -> None:
    tried = subprocess.run(
        netem_command("lo", Host("x", "internet", "outside", (FAR,), delay_ms=12.5, loss=0.005)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert tried.returncode == 0 or "qdisc" in tried.stderr, "neither done nor refused by a kernel that has no netem"
    assert "What is" not in tried.stderr
    assert "Illegal" not in tried.stderr


@pytest.mark.parametrize(("outside", "inside"), [(FAR, PC), (FAR6, "2001:db8:1::20")])
def test_a_frame_waits_for_the_delay_of_its_outside_address_either_way(outside: str, inside: str) -> None:
    line = DelayLine(links(site()))
    there, back = frame(inside, outside), frame(outside, inside)
    assert not line.take(there, ROUTER_SIDE, 1_000)
    assert not line.take(back, OUTSIDE_SIDE, 2_000)
    assert line.due(1_000 + 20 * MS - 1) is None
    assert line.next_s(1_000) == 0.02
    assert line.due(1_000 + 20 * MS) == (1_000 + 20 * MS, ROUTER_SIDE, there)
    assert line.due(2_000 + 20 * MS) == (2_000 + 20 * MS, OUTSIDE_SIDE, back)
    assert line.next_s(0) is None


def test_frames_without_a_delayed_address_pass_at_once() -> None:
    line = DelayLine(links(site()))
    arp = bytes(12) + b"\x08\x06" + bytes(28)
    assert line.take(arp, ROUTER_SIDE, 0)
    assert line.take(frame(NEAR, PC), OUTSIDE_SIDE, 0)
    assert line.take(frame(FAR, NEAR), ROUTER_SIDE, 0), "the far address is not the one outside"
    assert line.take(b"short", ROUTER_SIDE, 0)
    assert not line.waiting


def test_frames_of_one_delay_stay_in_order() -> None:
    line = DelayLine({FAR: (20 * MS, 0.0), LOSSY: (2 * MS, 0.0)})
    chance = random.Random(1)
    now_ns, sent = 0, []
    for number in range(2_000):
        now_ns += chance.choice((0, 0, 3, 100_000))
        sent.append((chance.choice((FAR, LOSSY)), number))
        line.take(frame(PC, sent[-1][0], number), ROUTER_SIDE, now_ns)
    came, dues = [], []
    while (due := line.due(now_ns + 50 * MS)) is not None:
        dues.append(due[0])
        came.append((socket.inet_ntoa(due[2][30:34]), int.from_bytes(due[2][-4:], "big")))
    assert dues == sorted(dues)
    for address in (FAR, LOSSY):
        assert [pair for pair in came if pair[0] == address] == [pair for pair in sent if pair[0] == address]


def test_the_told_share_is_lost_and_the_same_again_with_the_same_seed() -> None:
    lost = []
    for seed in (1, 1, 2):
        line = DelayLine({LOSSY: (0, 0.2)}, seed)
        passed = [line.take(frame(PC, LOSSY), ROUTER_SIDE, 0) for _ in range(10_000)]
        assert passed.count(False) == line.lost
        assert 0.19 < line.lost / 10_000 < 0.21
        lost.append([number for number, through in enumerate(passed) if not through])
    assert lost[0] == lost[1] != lost[2]


def test_a_full_line_drops_and_counts() -> None:
    line = DelayLine({FAR: (20 * MS, 0.0)}, most=3)
    for number in range(5):
        line.take(frame(PC, FAR, number), ROUTER_SIDE, 0)
    assert (len(line.waiting), line.dropped) == (3, 2)
    assert WAITING_FRAMES > FRAMES_A_SECOND


def arrives(host: str, address: str, count: int) -> int:
    """Send datagrams from the pc to a host; how many arrived. After them ends are sent until one arrives, which is the last."""
    with (
        world.within(host, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as receiver,
        world.within("pc", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender,
    ):
        receiver.bind((address, 5000))
        receiver.settimeout(0.1)
        sender.connect((address, 5000))
        for _ in range(count):
            sender.send(b"x")
        arrived, limit = 0, time.monotonic() + PATIENCE_S
        while time.monotonic() < limit:
            sender.send(END)
            with contextlib.suppress(TimeoutError):
                while receiver.recv(100) != END:
                    arrived += 1
                return arrived
        raise AssertionError("the end never arrived")


@in_world
def test_a_connection_takes_twice_the_delay_of_its_link() -> None:
    with Network(site()) as network:
        own_ms = 2.0 if network.link_kind == "netem" else 0.0  # the delay line knows no hosts inside
        for address, delay_ms in ((FAR, 20.0), (FAR6, 20.0), (NEAR, 0.0)):
            kind = socket.AF_INET6 if ":" in address else socket.AF_INET
            host = "near" if address == NEAR else "far"
            least_ms = 2 * delay_ms + own_ms
            with world.within(host, lambda address=address, kind=kind: socket.create_server((address, 80), family=kind)):  # type: ignore[misc]
                for _ in range(TRIES):  # a busy machine adds to it, now and then
                    begin = time.perf_counter()
                    world.within("pc", lambda address=address: socket.create_connection((address, 80), 10.0)).close()  # type: ignore[misc]
                    took_ms = (time.perf_counter() - begin) * 1e3
                    assert took_ms >= least_ms
                    if took_ms < least_ms + 15.0:
                        break
                else:
                    pytest.fail(f"{TRIES} connections to {address} took {least_ms + 15.0} ms or longer")


@in_world
def test_a_lossy_link_loses_its_share() -> None:
    with Network(site()):
        assert 0.65 < arrives("lossy", LOSSY, BURST) / BURST < 0.95


@in_world
@pytest.mark.slow
def test_links_carry_twenty_thousand_frames_a_second() -> None:
    with Network(site()) as network:
        for _ in range(ATTEMPTS):  # a busy machine may not let it
            if carried(network):
                return
    pytest.fail(f"frames were lost, {ATTEMPTS} times out of {ATTEMPTS}")


def carried(network: Network) -> bool:
    """Send from the pc to the far host at that rate; whether all of it arrived, and no queue was too short."""

    def counted(host: str, which: str) -> int:
        return int(network.run(host, ["cat", f"/sys/class/net/{which}"]).stdout)

    def received() -> int:
        return counted("far", "eth0/statistics/rx_packets")

    total = FRAMES_A_SECOND * SECONDS
    received_before, dropped_before = received(), counted(ROUTER, "outside/statistics/tx_dropped")
    with (
        world.within("far", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as nobody_reads,
        world.within("pc", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender,
    ):
        nobody_reads.bind((FAR, 5000))
        sender.connect((FAR, 5000))
        begin, sent = time.monotonic(), 0
        while sent < total:
            while sent < min(total, (time.monotonic() - begin) * FRAMES_A_SECOND):
                sender.send(bytes(100))
                sent += 1
            time.sleep(0.001)  # the pace of the sender, not a wait
    limit = time.monotonic() + ARRIVE_S
    while received() - received_before < total and time.monotonic() < limit:
        time.sleep(0.05)
    return received() - received_before >= total and counted(ROUTER, "outside/statistics/tx_dropped") == dropped_before
