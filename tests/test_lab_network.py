"""The laboratory's private world, its network and its capture, as the kernel makes them."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import pty
import signal
import socket
import subprocess
import sys
import termios
import threading
from pathlib import Path

import pytest
from capture_writer import Frame
from captures_read import frames_of
from lab import world
from lab.capture import RESERVE_BYTES, Capture
from lab.network import ROUTER, Network
from lab.site import Host, LabError, Site
from namespaces import wait_until
from worlds import ROOT, command, in_world, skip_without_worlds

from sensor.sources.pcap import CaptureSource

PORT = 5000
DATAGRAMS = 60
BULK_BYTES = 1 << 20
STRAY = 40
"""Frames of the kernel's own (neighbours, groups) that may come while counts are read on a busy machine; below DATAGRAMS."""
HEADERS = 14 + 20 + 8
"""Ethernet, IPv4, UDP."""


def site() -> Site:
    web = tuple(f"198.51.100.{number}" for number in range(10, 20))
    botnet = tuple(f"203.0.113.{number}" for number in range(10, 250))
    hosts = (
        Host("dns", "server", "inside", ("192.0.2.10",), ("2001:db8:1::10",), services=("dns",)),
        Host("pc", "office", "inside", ("192.0.2.20",), ("2001:db8:1::20",)),
        Host("old", "office", "inside", ("192.0.2.21",)),
        Host("gone", "server", "inside", ("192.0.2.99",), down=True),
        Host("web", "internet", "outside", web, ("2001:db8:2::10",), delay_ms=20),
        Host("botnet", "botnet", "outside", botnet, delay_ms=5),
        Host("near", "internet", "outside", ("198.51.100.100",)),
    )
    return Site(hosts, "lab.example", 60.0, 30.0)


def connects(source: str, host: str, address: str, given: str = "") -> None:
    """A connection from one host to an address of another, from an address of the former's if given."""
    kind = socket.AF_INET6 if ":" in address else socket.AF_INET
    with (
        world.within(host, lambda: socket.create_server((address, PORT), family=kind)),
        world.within(source, lambda: socket.create_connection((address, PORT), 10.0, (given, 0) if given else None)) as made,
    ):
        assert made.getpeername()[0] == address


@in_world
def test_hosts_reach_one_another_by_all_their_addresses() -> None:
    with Network(site()) as network:
        assert network.link_kind in ("netem", "userspace")
        connects("pc", "dns", "192.0.2.10")
        connects("pc", "dns", "2001:db8:1::10")
        connects("pc", "web", "198.51.100.15")
        connects("pc", "web", "2001:db8:2::10")
        connects("botnet", "old", "192.0.2.21", given="203.0.113.249")
        connects("near", "botnet", "203.0.113.77")


@in_world
def test_a_host_knows_the_names_of_the_laboratory_alone() -> None:
    with Network(site()) as network:
        assert network.run("pc", ["cat", "/etc/resolv.conf"]).stdout.startswith("search lab.example\nnameserver 192.0.2.10\n")
        assert "localhost" in network.run("pc", ["cat", "/etc/hosts"]).stdout
        with pytest.raises(LabError, match="gone is down"):
            network.run("gone", ["true"])
        with pytest.raises(LabError, match="there is no host 'nobody'"):
            network.run("nobody", ["true"])
    assert not list(Path("/run/netns").iterdir())


@in_world
def test_links_without_delay_are_cables_and_nothing_else() -> None:
    whole = site()
    hosts = tuple(dataclasses.replace(host, delay_ms=0.0) for host in whole.hosts)
    with Network(Site(hosts, whole.domain, whole.seconds, whole.compression)) as network:
        assert network.link_kind == "none"
        assert network.processes.started == []
        connects("pc", "web", "198.51.100.15")
        connects("botnet", "pc", "192.0.2.20", given="203.0.113.249")


@in_world
def test_a_host_with_the_name_of_the_router_is_refused() -> None:
    taken = Site((Host("router", "office", "inside", ("192.0.2.5",)),), "lab.example", 60.0, 30.0)
    with pytest.raises(LabError, match="no host may have the name router"), Network(taken):
        pytest.fail("it started")
    stray = Site((Host("pc", "office", "inside", ("203.0.113.5",)),), "lab.example", 60.0, 30.0)
    with pytest.raises(LabError, match=r"pc: 203\.0\.113\.5 is in none of the networks inside"), Network(stray):
        pytest.fail("it started")
    assert not list(Path("/run/netns").iterdir())


@in_world
def test_a_network_with_a_way_out_is_refused() -> None:
    openings = (
        ("-n", ROUTER, "route {} default via 198.51.100.10", "router has a default route by way of 198.51.100.10"),
        ("-n", "near", "route {} default via 198.51.100.10 metric 5", "near has a default route by way of 198.51.100.10"),
        ("-n", ROUTER, "address {} 192.88.99.1/32 dev lo", "found a way to 192.88.99.1 .ECONNREFUSED"),
        ("-n", "pc", "link {} way-out up type bridge", "pc has an interface way-out"),
        ("", "", "link {} way-out up type bridge", "the world has an interface way-out"),
    )
    with Network(site()) as network:
        for option, namespace, way, refusal in openings:
            where = [option, namespace] if option else []
            subprocess.run(["ip", *where, *way.format("add").split()], check=True)
            with pytest.raises(LabError, match=refusal):
                network.refuse_if_open()
            subprocess.run(["ip", *where, *way.format("del").split()], check=True)
        network.refuse_if_open()


@in_world
def test_a_network_that_is_asked_again_and_again_stays_closed() -> None:
    """The router's kernel answers so few questions a second that who is impatient gets no answer at all."""
    with Network(site()) as network:
        for _ in range(4):
            network.refuse_if_open()


@in_world
def test_every_frame_inside_is_captured_once(tmp_path: Path) -> None:
    ways = (
        ("pc", "dns", "192.0.2.10"),
        ("pc", "dns", "2001:db8:1::10"),
        ("pc", "near", "198.51.100.100"),
        ("web", "pc", "192.0.2.20"),
        ("old", "pc", "192.0.2.255"),
    )
    with Network(site()) as network, Capture(network, tmp_path / "capture.pcap", snaplen=160) as capture:
        for number, (source, host, address) in enumerate(ways):
            send_datagrams(source, host, address, number)
        send_bulk("pc", "dns", "192.0.2.10")
        capture.check()
    report = capture.report()
    assert (-STRAY <= report.missed <= 0, report.dropped) == (True, 0)
    frames = frames_of(CaptureSource([tmp_path / "capture.pcap"]))
    assert len(frames) == report.captured
    assert max(frame.wire_bytes for frame in frames) == 1514
    assert max(len(frame.data) for frame in frames) == 160
    for number in range(len(ways)):
        seen = sorted(found.data[-8:] for found in frames if found.data[-8:].startswith(b"way%d" % number))
        assert seen == sorted(marked(number, count) for count in range(DATAGRAMS))
    assert all(checksum(frame.data[14:34]) == 0 for frame in frames if frame.data[12:14] == b"\x08\x00")
    assert all(udp_checksum(frame) == 0 for frame in frames if frame.wire_bytes == HEADERS + 8)


def marked(way: int, count: int) -> bytes:
    return b"way%d%04d" % (way, count)


def send_datagrams(source: str, host: str, address: str, way: int) -> None:
    """Send numbered datagrams, each one when the last has arrived."""
    kind = socket.AF_INET6 if ":" in address else socket.AF_INET
    with (
        world.within(host, lambda: socket.socket(kind, socket.SOCK_DGRAM)) as receiver,
        world.within(source, lambda: socket.socket(kind, socket.SOCK_DGRAM)) as sender,
    ):
        receiver.bind((address, PORT))
        receiver.settimeout(10.0)
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        for count in range(DATAGRAMS):
            sender.sendto(marked(way, count), (address, PORT))
            assert receiver.recv(100) == marked(way, count)


def send_bulk(source: str, host: str, address: str) -> None:
    """Send a megabyte at once, which the kernel would make superframes of if it were let."""
    with (
        world.within(host, lambda: socket.create_server((address, PORT))) as server,
        world.within(source, lambda: socket.create_connection((address, PORT), 10.0)) as sender,
    ):
        sending = threading.Thread(target=sender.sendall, args=(bytes(BULK_BYTES),))
        sending.start()
        receiver, _ = server.accept()
        with receiver:
            left = BULK_BYTES
            while left:
                left -= len(receiver.recv(left))
        sending.join()


def checksum(data: bytes) -> int:
    """RFC 1071: 0 when the checksum among the data is right."""
    total = sum(int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big") for at in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def udp_checksum(frame: Frame) -> int:
    ip = frame.data[14:]
    return checksum(ip[12:20] + b"\x00\x11" + ip[24:26] + ip[20:])


@in_world
def test_a_full_disk_ends_the_capture_with_what_it_has(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    world.cover(folder, size_mb=(RESERVE_BYTES >> 20) + 4)
    with Network(site()) as network:
        with Capture(network, folder / "capture.pcap") as capture:
            send_datagrams("pc", "dns", "192.0.2.10", 0)
            capture.check()
            (folder / "filler").write_bytes(bytes(5 << 20))
            with pytest.raises(LabError, match=f"the disk of {folder} is full .* until now can be used"):
                capture.check()
        assert -STRAY <= capture.report().missed <= 0
        assert len(frames_of(CaptureSource([folder / "capture.pcap"]))) == capture.report().captured
        with pytest.raises(LabError, match="nothing is started"), Capture(network, folder / "again.pcap"):
            pytest.fail("it started")


@in_world
def test_a_world_has_settings_and_run_folder_of_its_own(tmp_path: Path) -> None:
    users = tmp_path / "passwd"
    users.write_text("nobody-else:x:4242:4242::/:/bin/false\n")
    world.bind(users, Path("/etc/passwd"))
    said = subprocess.run(["getent", "passwd", "4242"], capture_output=True, text=True, check=True).stdout
    assert said.startswith("nobody-else:")
    with Network(site()) as network:
        assert network.run("pc", ["getent", "passwd", "4242"]).stdout == said
    assert socket.gethostname() == "netseq-lab"
    assert sorted(path.name for path in Path("/sys/class/net").iterdir())[0] == "lo"


@pytest.mark.root
def test_a_world_changes_nothing_of_the_machine() -> None:
    skip_without_worlds()
    before = (Path("/etc/passwd").read_bytes(), socket.gethostname(), os.path.exists("/etc/netns"))
    change = (
        "echo x >> /etc/passwd; touch /etc/netseq-was-here /run/netseq-was-here /dev/shm/netseq-was-here; ip netns add there"
    )
    subprocess.run(command("sh", "-c", change), cwd=ROOT, check=True, timeout=60)
    after = (Path("/etc/passwd").read_bytes(), socket.gethostname(), os.path.exists("/etc/netns"))
    assert after == before
    assert not any(Path(folder, "netseq-was-here").exists() for folder in ("/etc", "/run", "/dev/shm"))  # noqa: S108
    assert not Path("/run/netns/there").exists()


@pytest.mark.root
def test_a_world_passes_on_arguments_exit_status_and_signals() -> None:
    skip_without_worlds()
    echo = [sys.executable, "-c", "import sys; print(sys.argv[1:]); sys.exit(7)", "a b", "--c"]
    done = subprocess.run(command(*echo), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (7, "['a b', '--c']\n")
    killed = subprocess.run(command("sh", "-c", "kill -9 $$"), cwd=ROOT, timeout=60, check=False)
    assert killed.returncode == 128 + signal.SIGKILL
    for number in (signal.SIGINT, signal.SIGTERM):
        waits = f"trap 'exit 5' {number}; echo up; while true; do sleep 0.05; done"
        with subprocess.Popen(command("sh", "-c", waits), cwd=ROOT, stdout=subprocess.PIPE) as started:
            assert started.stdout is not None
            assert started.stdout.readline() == b"up\n"
            started.send_signal(number)
            assert started.wait(30.0) == 5


@pytest.mark.root
def test_control_c_at_a_terminal_is_heard_once() -> None:
    skip_without_worlds()
    keyboard, terminal = pty.openpty()
    argv = command(sys.executable, "-c", INTERRUPTED)
    with (
        subprocess.Popen(
            argv,
            cwd=ROOT,
            stdin=terminal,
            stdout=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509  (no threads here)
        ) as started,
        os.fdopen(keyboard, "wb", buffering=0) as typing,
    ):
        os.close(terminal)
        assert started.stdout is not None
        assert started.stdout.readline() == b"up\n"
        typing.write(b"\x03")
        assert started.stdout.read() == b"heard 1\n"
        assert started.wait(30.0) == 0


INTERRUPTED = """
import signal, time
heard = []
signal.signal(signal.SIGINT, lambda *_: heard.append(1))
print("up", flush=True)
while not heard:
    time.sleep(0.05)
time.sleep(0.5)  # for a second one to come
print("heard", len(heard))
"""


@pytest.mark.root
@pytest.mark.parametrize("victim", ["outer", "inner"])
def test_after_kill_9_nothing_of_a_network_is_left(victim: str, tmp_path: Path) -> None:
    skip_without_worlds()
    script = tmp_path / "network.py"
    script.write_text(KILLED)
    argv = [sys.executable, str(script), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    with subprocess.Popen(argv, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        spaces = set(started.stdout.readline().split())
        assert len(spaces) > len(site().hosts)
        assert len(of_spaces(spaces)) >= 4
        if victim == "outer":
            started.kill()
        else:
            inner = [process for process in of_spaces(spaces) if str(script) in process and "tests.lab.world" not in process]
            os.kill(int(inner[0].split()[0]), signal.SIGKILL)
        started.wait(30.0)
    wait_until(lambda: not of_spaces(spaces), "the end of all that was started")


KILLED = """
import os, sys, time
from pathlib import Path
from lab.site import Host, Site
from tests.lab import world
world.enter()
from tests.lab.network import Network
from tests.lab.capture import Capture
import test_lab_network

site = test_lab_network.site()
folder = Path(sys.argv[1])
with Network(site, folder) as network, Capture(network, folder / "capture.pcap"):
    for host in ("pc", "web"):
        network.popen(host, ["sh", "-c", "trap '' TERM; setsid sleep 1000 & while true; do sleep 0.1; done"], folder / "log")
    spaces = [os.stat(path).st_ino for path in Path("/run/netns").iterdir()]
    print(*spaces, world.network_inode(), flush=True)
    time.sleep(1000)
"""


def of_spaces(spaces: set[str]) -> list[str]:
    """All processes of the machine that are in one of these network namespaces: number and command."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                if str((process / "ns" / "net").stat().st_ino) in spaces:
                    found.append(f"{process.name} {(process / 'cmdline').read_text()}")
            except OSError:  # it has just ended, or is hidden
                continue
    return found
