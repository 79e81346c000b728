"""The sensor on a wire: what tcpreplay sends between two network namespaces, and a tcpdump beside it as the truth."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import DATA
from namespaces import Namespace, Wire, wire
from sensor_process import Sensor, exact, replayed, running, until

from sensor.service import DEGRADED_S

pytestmark = [pytest.mark.root, pytest.mark.slow]

DEMO_FRAMES = 5_520


@pytest.fixture
def cable(tmp_path: Path) -> Iterator[tuple[Wire, Path]]:
    """Two namespaces with a wire, and the demonstration's capture unpacked."""
    with wire() as laid:
        laid.receiver.run("ip", "link", "set", "lo", "up")
        capture = tmp_path / "demo.pcap"
        with capture.open("wb") as file:
            subprocess.run(["gzip", "-dc", DATA / "demo.pcap.gz"], stdout=file, check=True)
        yield laid, capture


@contextmanager
def listening(cable: Wire, folder: Path, *changes: str) -> Iterator[Sensor]:
    """A sensor in the receiver's namespace, on its end of the wire."""
    space = cable.receiver
    prefix = ("ip", "netns", "exec", space.name)
    own = f"capture.interfaces={cable.far}"
    with running(folder, own, *changes, prefix=prefix, within=space.call) as sensor:
        yield sensor


@contextmanager
def recorded(space: Namespace, interface: str, path: Path) -> Iterator[Callable[[], None]]:
    """What tcpdump writes of an interface meanwhile; the call ends it."""
    if not shutil.which("tcpdump"):
        pytest.skip("needs tcpdump")
    command = [
        "ip",
        "netns",
        "exec",
        space.name,
        "tcpdump",
        "-i",
        interface,
        "-B",
        "65536",
        "-U",
        "--time-stamp-precision=nano",
        "-w",
        str(path),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        while "listening on" not in (line := process.stderr.readline()):
            assert line, "tcpdump ended"

        def end() -> None:
            process.send_signal(signal.SIGINT)
            assert "\n0 packets dropped by kernel" in process.communicate(timeout=30)[1]

        yield end
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(30)


def seen(sensor: Sensor) -> float:
    return sensor.metric("netseq_packets_read_total") + sensor.metric("netseq_packets_dropped_total")


def between(alerts: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
    return {(alert["signature"], alert["src"], alert["dest"]) for alert in alerts}


@pytest.mark.parametrize("workers", [1, 2])
def test_live_alerts_are_those_of_a_replay_of_what_tcpdump_saw(cable: tuple[Wire, Path], tmp_path: Path, workers: int) -> None:
    laid, capture = cable
    with (
        listening(laid, tmp_path / "sensor", f"capture.workers={workers}") as sensor,
        recorded(laid.receiver, laid.far, tmp_path / "seen.pcap") as end,
    ):
        sent = laid.send(capture, "--multiplier=40")
        until(lambda: seen(sensor) == sent and (tmp_path / "seen.pcap").stat().st_size == capture.stat().st_size)
        end()
        assert sensor.metric("netseq_packets_dropped_total") == 0
        assert sensor.end() == 0
        found = sensor.alerts()
    wanted = replayed(tmp_path / "seen.pcap", tmp_path / "replayed")
    assert len(wanted) > 0
    if workers == 1:
        assert exact(found) == exact(wanted)
    assert between(found) == between(wanted)  # flows of two tables end in an order of their own: another one may tip the scale


def test_at_top_speed_what_was_read_and_what_the_kernel_dropped_is_what_was_sent(
    cable: tuple[Wire, Path], tmp_path: Path
) -> None:
    laid, capture = cable
    with listening(laid, tmp_path / "sensor") as sensor:
        sent = laid.send(capture, "--topspeed", "--preload-pcap", "--loop=40")
        assert sent == 40 * DEMO_FRAMES
        until(lambda: seen(sensor) == sent)
        read = sensor.metric("netseq_packets_read_total")
        assert sensor.metric("netseq_packets_in_flows_total") + sensor.metric("netseq_packets_skipped_total") == read
        assert sensor.end() == 0


def test_a_filter_is_obeyed_and_another_one_taken_over_by_a_reload(cable: tuple[Wire, Path], tmp_path: Path) -> None:
    laid, capture = cable
    settings = tmp_path / "sensor.toml"
    settings.write_text(f'[capture]\ninterfaces = ["{laid.far}"]\nfilter = "udp port 53"\n')
    prefix = ("ip", "netns", "exec", laid.receiver.name)
    by_hand = subprocess.run(
        ["tcpdump", "-r", capture, "--count", "udp port 53"], capture_output=True, text=True, check=True
    ).stdout.split()
    with running(tmp_path / "sensor", prefix=prefix, within=laid.receiver.call, config=settings) as sensor:
        laid.send(capture)
        until(lambda: seen(sensor) == float(by_hand[0]))
        settings.write_text(f'[capture]\ninterfaces = ["{laid.far}"]\nfilter = "udp port"\n')
        sensor.send(signal.SIGHUP)
        sensor.wait_ready(2)
        assert "udp port" in sensor.events("reload_refused")[0]["reason"]
        settings.write_text(f'[capture]\ninterfaces = ["{laid.far}"]\n')
        sensor.send(signal.SIGHUP)
        sensor.wait_ready(3)
        before = seen(sensor)
        sent = laid.send(capture)
        until(lambda: seen(sensor) == before + sent)
        assert sensor.end() == 0


def test_no_packet_is_lost_or_counted_twice_while_the_filter_changes(cable: tuple[Wire, Path], tmp_path: Path) -> None:
    laid, capture = cable
    settings = tmp_path / "sensor.toml"

    def write(expression: str) -> None:
        settings.write_text(f'[capture]\ninterfaces = ["{laid.far}"]\nfilter = "{expression}"\n')

    write("")
    prefix = ("ip", "netns", "exec", laid.receiver.name)
    with running(tmp_path / "sensor", prefix=prefix, within=laid.receiver.call, config=settings) as sensor:
        sending = laid.sender.begin(lambda: laid.send(capture, "--pps=2000", "--loop=2"))
        for number in range(4):  # filters that let everything pass
            write("less 70000" if number % 2 == 0 else "")
            sensor.send(signal.SIGHUP)
            sensor.wait_ready(2 + number)
        assert not sending.done()
        sent = sending.result(60)
        until(lambda: seen(sensor) >= sent)
        assert seen(sensor) == sent
        assert sensor.metric("netseq_reloads_total") == 4
        assert sensor.end() == 0


def test_an_interface_that_goes_down_is_waited_for_and_told_once(cable: tuple[Wire, Path], tmp_path: Path) -> None:
    laid, capture = cable
    with listening(laid, tmp_path / "sensor") as sensor:
        laid.receiver.run("ip", "link", "set", laid.far, "down")
        until(lambda: len(sensor.events("interface_lost")) == 1)
        assert sensor.metric("netseq_interfaces_lost_total") == 1
        laid.receiver.run("ip", "link", "set", laid.far, "up")
        until(lambda: len(sensor.events("interface_back")) == 1)
        sent = laid.send(capture)
        until(lambda: seen(sensor) == sent)
        assert sensor.end() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_interfaces_are_counted_once_however_often_the_capture_was_exchanged(
    cable: tuple[Wire, Path], tmp_path: Path, workers: int
) -> None:
    laid, _ = cable
    laid.lay("near1", "far1")
    settings = tmp_path / "sensor.toml"

    def write(*interfaces: str, expression: str) -> None:
        settings.write_text(f'[capture]\ninterfaces = {json.dumps(interfaces)}\nfilter = "{expression}"\nworkers = {workers}\n')

    def told(wanted: int, up: int, *down: str) -> bool:
        return (
            sensor.metric("netseq_interfaces_up") == up
            and sensor.metric("netseq_interfaces_down") == len(down)
            and sensor.status()["interfaces"] == {"wanted": wanted, "up": up, "down": list(down)}
        )

    write(laid.far, "far1", expression="")
    prefix = ("ip", "netns", "exec", laid.receiver.name)
    with running(tmp_path / "sensor", prefix=prefix, within=laid.receiver.call, config=settings) as sensor:
        assert told(2, 2)
        for number in range(2):
            write(laid.far, "far1", expression="udp" if number else "tcp")
            sensor.send(signal.SIGHUP)
            sensor.wait_ready(2 + number)
            until(lambda: told(2, 2))
        laid.receiver.run("ip", "link", "set", "far1", "down")
        until(lambda: told(2, 1, "far1"))
        write("far1", expression="")
        sensor.send(signal.SIGHUP)
        sensor.wait_ready(4)
        until(lambda: told(1, 0, "far1"))
        assert sensor.end() == 0


def test_an_interface_that_is_down_from_the_start_is_an_alert_about_the_sensor(
    cable: tuple[Wire, Path], tmp_path: Path
) -> None:
    laid, _ = cable
    laid.receiver.run("ip", "link", "set", laid.far, "down")
    with listening(laid, tmp_path / "sensor") as sensor:
        until(lambda: len(sensor.alerts()) > 0, 2 * DEGRADED_S)
        alert = sensor.alerts()[0]
        assert alert["signature"] == "NetSeq::Sensor_Degraded"
        assert alert["msg"].endswith(f"interfaces that are down ({laid.far}): 1 of 1")
        assert sensor.end() == 0


def test_flows_end_and_are_scored_although_no_more_packets_come(cable: tuple[Wire, Path], tmp_path: Path) -> None:
    laid, capture = cable
    with listening(laid, tmp_path / "sensor", "flows.idle_s=3") as sensor:
        laid.send(capture)
        begun = time.monotonic()
        until(lambda: sensor.metric("netseq_flows_live") == 0 and sensor.metric("netseq_words_scored_total") > 0)
        assert time.monotonic() - begun < 20
        assert json.loads(sensor.get("/status"))["flows_waiting"] == 0
        assert sensor.end() == 0


def test_without_the_right_to_capture_one_line_says_how_to_give_it(tmp_path: Path) -> None:
    if not shutil.which("setpriv"):
        pytest.skip("needs setpriv to be somebody else")
    state = tmp_path / "state"
    state.mkdir(mode=0o777)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    dropped = ("setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw")
    sensor = Sensor(tmp_path / "sensor", ["capture.interfaces=lo", f"service.state_dir={state}"], prefix=dropped)
    try:
        assert sensor.process.wait(120) == 2
    finally:
        sensor.close()
    lines = [line for line in sensor.log_text().splitlines() if '"error"' in line]
    assert len(lines) == 1
    assert "CAP_NET_RAW" in lines[0]
