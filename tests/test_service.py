"""The sensor as a service, for real: a process that is told what to do by signals, and a folder of captures to read."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from conftest import DATA
from sensor_process import SMALL, Sensor, command, exact, replayed, running, until

from sensor.service_parts import carried_on

pytestmark = pytest.mark.slow


def put(folder: Path, name: str = "demo.pcap.gz") -> None:
    """Lay a capture into the folder as if it had been finished a while ago."""
    folder.mkdir(exist_ok=True)
    beside = folder / f".{name}"
    shutil.copy(DATA / "demo.pcap.gz", beside)
    os.utime(beside, (0, 0))
    beside.rename(folder / name)


def refused(*changes: str, prefix: tuple[str, ...] = (), more: tuple[str, ...] = (), state: Path) -> str:
    """The one line with which a sensor refuses to begin."""
    sets = [word for change in (*SMALL, f"service.state_dir={state}", *changes) for word in ("--set", change)]
    ended = subprocess.run([*prefix, *command(*sets, *more)], capture_output=True, text=True, timeout=120, check=False)
    lines = [line for line in ended.stderr.splitlines() if '"compiling"' not in line]
    assert ended.returncode == 2, ended.stderr
    assert len(lines) == 1, ended.stderr
    return lines[0]


def test_alerts_of_a_watched_folder_are_those_of_a_replay(tmp_path: Path) -> None:
    captures = tmp_path / "captures"
    captures.mkdir()
    wanted = replayed(DATA / "demo.pcap.gz", tmp_path / "replayed")
    with running(tmp_path / "sensor", f"capture.folder={captures}") as sensor:
        assert json.loads(sensor.get("/status"))["listening"] == str(captures)
        assert sensor.get("/readyz").strip() == "ok"
        put(captures)
        until(lambda: sensor.metric("netseq_captures_read_total") == 1)
        begun = time.monotonic()
        assert sensor.end() == 0
        assert time.monotonic() - begun < 10
        found = sensor.alerts()
    assert len(wanted) > 1
    assert exact(found) == exact(wanted)
    assert {alert["dvc"] for alert in found} == {"here"}
    assert "STOPPING=1" in sensor.told
    assert "WATCHDOG=1" in sensor.told
    assert sensor.told.index("READY=1") < sensor.told.index("WATCHDOG=1")


def test_conversations_quiet_times_and_counters_outlive_a_restart(tmp_path: Path) -> None:
    captures, folder = tmp_path / "captures", tmp_path / "sensor"
    put(captures)
    with running(folder, f"capture.folder={captures}") as sensor:
        until(lambda: sensor.metric("netseq_captures_read_total") == 1)
        packets = sensor.metric("netseq_packets_read_total")
        assert sensor.end() == 0
        assert sensor.events("ended")[0]["everything_written"]
        first = sensor.alerts()
    with running(folder, f"capture.folder={captures}") as sensor:
        taken_up = sensor.events("state_taken_up")
        assert taken_up[0]["conversations"] > 0
        assert sensor.metric("netseq_packets_read_total") == packets
        assert sensor.metric("netseq_alerts_raised_total") >= len([one for one in first if "Sequence" in one["signature"]])
        put(captures, "again.pcap.gz")  # the same hours once more: every conversation that alerted is in its quiet time
        until(lambda: sensor.metric("netseq_captures_read_total") == 2)
        assert sensor.metric("netseq_packets_read_total") == 2 * packets
        assert sensor.end() == 0
        quiet = {(one["src"], one["dest"]) for one in first}
        again = sensor.alerts()[len(first) :]
        assert not quiet & {(one["src"], one["dest"]) for one in again}


def test_alerts_that_are_lost_at_the_end_are_known_after_it(tmp_path: Path) -> None:
    captures, folder = tmp_path / "captures", tmp_path / "sensor"
    put(captures)
    with running(folder, f"capture.folder={captures}", "output.alerts=/dev/full") as sensor:
        until(lambda: sensor.metric("netseq_alerts_waiting") > 0)
        assert sensor.end() == 0
        (ended,) = sensor.events("ended")
        lost = ended["alerts_lost"]
        assert lost > 0
        assert not ended["everything_written"]
    with running(folder, f"capture.folder={captures}", "output.alerts=/dev/full") as sensor:
        assert sensor.metric("netseq_alerts_lost_total") == lost
        assert sensor.end() == 0


def test_a_reload_takes_over_what_is_good_and_refuses_what_is_not(tmp_path: Path) -> None:
    captures, settings = tmp_path / "captures", tmp_path / "sensor.toml"
    put(captures)
    settings.write_text("[detect]\nbudget_per_day = 20\n")
    with running(tmp_path / "sensor", f"capture.folder={captures}", config=settings) as sensor:
        until(lambda: sensor.metric("netseq_captures_read_total") == 1)
        conversations = sensor.metric("netseq_conversations_live")
        settings.write_text("[detect]\nbudget_per_dy = 5\n")
        sensor.send(signal.SIGHUP)
        sensor.wait_ready(2)
        assert "did you mean detect.budget_per_day" in sensor.events("reload_refused")[0]["reason"]
        settings.write_text("[detect]\nbudget_per_day = 5\n[flows]\ntable = 999\n[model]\npath = '/nowhere'\n")
        sensor.send(signal.SIGHUP)
        sensor.wait_ready(3)
        assert "/nowhere" in sensor.events("reload_refused")[1]["reason"]
        settings.write_text("[detect]\nbudget_per_day = 5\n[conversations]\ntable = 999\n")
        sensor.send(signal.SIGHUP)
        sensor.wait_ready(4)
        # --set wins over the file: only the budget is new, and the table's size waits for the next start
        until(lambda: len(sensor.events("reloaded")) == 1)
        assert sensor.metric("netseq_conversations_live") == conversations
        assert sensor.metric("netseq_reloads_total") == 3
        assert [word for word in sensor.heard() if word.startswith("RELOADING=1")] == ["RELOADING=1"] * 3
        assert sensor.end() == 0


def test_a_reload_does_not_read_a_folder_again(tmp_path: Path) -> None:
    captures, settings = tmp_path / "captures", tmp_path / "sensor.toml"
    put(captures)
    settings.write_text("")
    with running(tmp_path / "sensor", f"capture.folder={captures}", config=settings) as sensor:
        until(lambda: sensor.metric("netseq_captures_read_total") == 1)
        packets = sensor.metric("netseq_packets_read_total")
        settings.write_text("[capture]\npromiscuous = false\n")
        sensor.send(signal.SIGHUP)
        sensor.wait_ready(2)
        assert sensor.events("reloaded")[0]["at_next_start"] == ["capture.promiscuous"]
        put(captures, "again.pcap.gz")
        until(lambda: sensor.metric("netseq_captures_read_total") >= 2)
        assert sensor.metric("netseq_packets_read_total") == 2 * packets
        assert sensor.end() == 0


def test_two_sensors_do_not_share_a_state(tmp_path: Path) -> None:
    captures, folder = tmp_path / "captures", tmp_path / "sensor"
    captures.mkdir()
    with running(folder, f"capture.folder={captures}") as sensor:
        assert "another netseq-sensor" in refused(f"capture.folder={captures}", state=folder / "state")
        assert (folder / "state").stat().st_mode & 0o007 == 0  # and others do not even look
        assert sensor.end() == 0


def test_counters_that_this_version_does_not_have_are_not_carried_on() -> None:
    assert carried_on({"packets_read": 7, "packets_skipped.arp": 2, "of_another_version": 5, "packets_skipped": 1}) == {
        "packets_read": 7,
        "packets_skipped.arp": 2,
    }
    assert carried_on({"packets_read": "7"}) == {}


def test_a_reload_that_is_asked_for_during_the_start_comes_after_it(tmp_path: Path) -> None:
    captures = tmp_path / "captures"
    captures.mkdir()
    sensor = Sensor(tmp_path / "sensor", [f"capture.folder={captures}"])
    try:
        until(lambda: answers(sensor.process.pid, signal.SIGHUP))
        assert not answers(sensor.process.pid, signal.SIGTERM)  # which ends a start at once
        sensor.send(signal.SIGHUP)
        sensor.wait_ready(2)  # it was not ended by it
        assert len(sensor.events("reloaded")) == 1
        assert sensor.end() == 0
    finally:
        sensor.close()


def answers(process: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    return bool(int(fields["SigCgt"], 16) & 1 << number - 1)


def test_files_are_reopened_when_they_were_renamed(tmp_path: Path) -> None:
    captures = tmp_path / "captures"
    put(captures)
    with running(tmp_path / "sensor", f"capture.folder={captures}") as sensor:
        until(lambda: len(sensor.alerts()) > 0)
        sensor.alerts_file.rename(tmp_path / "alerts.1")
        sensor.send(signal.SIGUSR1)
        until(sensor.alerts_file.exists)
        assert sensor.end() == 0
    assert (tmp_path / "alerts.1").read_text().endswith("\n")


def test_a_state_that_is_damaged_is_set_aside_and_told(tmp_path: Path) -> None:
    captures, folder = tmp_path / "captures", tmp_path / "sensor"
    put(captures)
    with running(folder, f"capture.folder={captures}") as sensor:
        until(lambda: sensor.metric("netseq_captures_read_total") == 1)
        assert sensor.end() == 0
    state = folder / "state" / "state.netseq"
    state.write_bytes(state.read_bytes()[:-1000])
    with running(folder, f"capture.folder={captures}") as sensor:
        refusal = sensor.events("state_refused")[0]
        assert Path(refusal["set_aside"]).exists()
        assert sensor.metric("netseq_states_refused_total") == 1
        assert sensor.end() == 0


def test_a_damaged_state_does_not_make_a_sensor_that_alerted_learn_again(tmp_path: Path) -> None:
    captures, folder = tmp_path / "captures", tmp_path / "sensor"
    captures.mkdir()
    with running(folder, f"capture.folder={captures}", "learn.days=0") as sensor:
        assert sensor.end() == 0
    state = folder / "state" / "state.netseq"
    content = bytearray(state.read_bytes())
    content[-1000:-997] = bytes(255 - byte for byte in content[-1000:-997])
    state.write_bytes(content)
    with running(folder, f"capture.folder={captures}", "learn.days=1") as sensor:
        assert sensor.events("state_refused")
        assert sensor.status()["doing"] == "alerting"
        assert "learned.json tells how far learning was" in sensor.events("alerting")[0]["about"]
        assert sensor.end() == 0


def test_a_killed_sensor_leaves_whole_lines_and_starts_again(tmp_path: Path) -> None:
    captures, folder = tmp_path / "captures", tmp_path / "sensor"
    put(captures)
    with running(folder, f"capture.folder={captures}", "service.save_s=1") as sensor:
        until(lambda: len(sensor.alerts()) > 0 and sensor.metric("netseq_states_saved_total") > 0)
        written = len(sensor.alerts())
        sensor.end(signal.SIGKILL)
    with running(folder, f"capture.folder={captures}") as sensor:
        assert sensor.events("state_taken_up")
        assert len(sensor.alerts()) >= written
        assert sensor.end() == 0


def test_a_sensor_that_cannot_begin_says_why_in_one_line(tmp_path: Path) -> None:
    state, captures = tmp_path / "state", tmp_path / "captures"
    captures.mkdir()
    folder = f"capture.folder={captures}"
    alerts = f"output.alerts={tmp_path}/alerts.jsonl"
    assert "nothing to listen to" in refused(state=state)
    assert "one kind of source" in refused(folder, "capture.interfaces=eth0", state=state)
    assert "No such file" in refused(f"capture.folder={tmp_path}/nowhere", alerts, state=state)
    assert "no interface" in refused("capture.interfaces=nowhere0", alerts, state=state).lower()
    assert "service.state_dir" in refused(folder, alerts, state=Path("/dev/null/state"))
    state.mkdir(exist_ok=True)
    (state / "record.before-1").symlink_to(tmp_path)  # what a link leads to is not ours to delete
    assert "cannot be learned anew" in refused(folder, alerts, more=("--relearn",), state=state)
    assert captures.exists()
    assert "cannot write alerts to" in refused(folder, "output.alerts=/dev/null/alerts", state=state)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refused(folder, alerts, f"service.metrics=127.0.0.1:{port}", state=state)
        assert line.count("service.metrics: ") == line.count(f"cannot listen on 127.0.0.1:{port}") == 1
    assert refused(folder, alerts, "service.metrics=nowhere", state=state).count("service.metrics: ") == 1


def test_a_check_tells_what_is_well_and_begins_nothing(tmp_path: Path) -> None:
    captures = tmp_path / "captures"
    captures.mkdir()
    changes = (*SMALL, f"capture.folder={captures}", f"service.state_dir={tmp_path}/state", f"output.alerts={tmp_path}/a.jsonl")
    sets = [word for change in changes for word in ("--set", change)]
    ended = subprocess.run([*command(*sets), "--check"], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    assert [line.split()[:2] for line in ended.stdout.splitlines()][:2] == [["ok", "settings"], ["ok", "folder"]]
    assert not (tmp_path / "a.jsonl").exists()


def test_a_second_request_to_end_is_not_needed(tmp_path: Path) -> None:
    captures = tmp_path / "captures"
    captures.mkdir()
    sensor = Sensor(tmp_path / "sensor", [f"capture.folder={captures}"])
    try:
        sensor.wait_ready()
        assert sensor.end(signal.SIGINT) == 0
    finally:
        sensor.close()
