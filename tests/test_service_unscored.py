"""Flows that could not be scored before the sensor ended: kept on disk, scored first after it, never lost or scored twice."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from capture_writer import Frame, simple_pcap
from namespaces import wire
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from sensor_process import END_S, Sensor, running, until

from sensor.schema import FLOW, FlowBatch
from sensor.service_queue import FlowQueue
from sensor.service_unscored import KIND, Unscored

SYNS = 30_000


class Source:
    """A source that can wait, and how far it was read."""

    def __init__(self, *, patient: bool = True) -> None:
        self.patient = patient
        self.read = 0

    def marks(self) -> dict[str, object]:
        return {"folder": {"a.pcap": self.read}} if self.patient else {}


class Held:
    """A queue of 100 flows with what is kept of it in `folder`; `state` is what the last state told."""

    def __init__(self, folder: Path, state: object = None, *, patient: bool = True) -> None:
        self.told: list[tuple[str, str]] = []
        self.queue, self.source = FlowQueue(100), Source(patient=patient)
        remembered = json.loads(json.dumps(state or {}))  # as the state on disk does
        self.unscored = Unscored(folder, self.queue, self.source, remembered, tell=lambda *said: self.told.append(said))

    def ended(self, *, whole: bool = True) -> dict[str, object]:
        """What the state tells after an end."""
        self.unscored.put_by()
        self.unscored.end(time.monotonic() + 10, whole=whole)
        return self.unscored.marks()

    def taken(self) -> list[FlowBatch]:
        found = []
        while (waiting := self.queue.take(0)) is not None:
            found.append(waiting.batch)
        return found


def flows(first: int, count: int, uids: Sequence[str | None] | None = None) -> FlowBatch:
    rows = np.zeros(count, FLOW)
    rows["src_port"] = np.arange(first, first + count)
    return FlowBatch(rows, uids)


def ports(batches: Sequence[FlowBatch]) -> list[list[int]]:
    return [batch.flows["src_port"].tolist() for batch in batches]


def files(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_what_waits_at_the_end_comes_first_after_it_and_in_its_order(tmp_path: Path) -> None:
    one = Held(tmp_path)
    one.queue.put(flows(1, 5))
    one.queue.put(flows(10, 2, ["Ca", None]))
    one.source.read = 7
    state = one.ended()
    assert state["folder"] == {"a.pcap": 7}
    assert (tmp_path / files(tmp_path)[0]).stat().st_mode & 0o077 == 0
    other = Held(tmp_path, state)
    other.queue.put(flows(20, 3))
    batches = other.taken()
    assert ports(batches) == [[1, 2, 3, 4, 5], [10, 11], [20, 21, 22]]
    assert [batch.uids for batch in batches] == [None, ["Ca", None], None]
    assert [event for event, _ in other.told] == ["flows_taken_up"]
    assert not any(one.queue.shed.values())
    assert not any(other.queue.shed.values())


def test_more_may_be_taken_up_than_the_queue_holds_and_new_flows_wait_for_room(tmp_path: Path) -> None:
    one = Held(tmp_path)
    one.queue.make_room()
    for first in range(0, 500, 50):
        one.queue.put(flows(first, 50))
    other = Held(tmp_path, one.ended())
    assert other.queue.waiting == 500
    assert [number for batch in ports(other.taken()) for number in batch] == list(range(500))


def test_until_they_are_scored_a_crash_finds_them_again(tmp_path: Path) -> None:
    one = Held(tmp_path)
    one.queue.put(flows(1, 5))
    one.queue.put(flows(6, 5))
    one.source.read = 1
    other = Held(tmp_path, one.ended())
    other.source.read = 2
    assert other.queue.take(0) is not None
    state = other.unscored.marks()
    other.unscored.saved()
    assert state["folder"] == {"a.pcap": 0}  # where the source began, for this one had marks of none
    crashed = Held(tmp_path, state)
    assert ports(crashed.taken()) == [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]


def test_their_file_is_removed_when_a_state_is_saved_that_does_without_it(tmp_path: Path) -> None:
    one = Held(tmp_path)
    one.queue.put(flows(1, 5))
    other = Held(tmp_path, one.ended())
    assert KIND in other.unscored.marks()
    other.unscored.saved()
    assert len(files(tmp_path)) == 1
    other.taken()
    assert KIND not in other.unscored.marks()
    assert len(files(tmp_path)) == 1  # that state is not on disk yet
    other.unscored.saved()
    assert not files(tmp_path)


def test_what_was_taken_up_and_still_waits_at_the_next_end_is_kept_again(tmp_path: Path) -> None:
    one = Held(tmp_path)
    one.queue.put(flows(1, 5))
    other = Held(tmp_path, one.ended())
    state = other.ended()
    other.unscored.saved()
    assert ports(Held(tmp_path, state).taken()) == [[1, 2, 3, 4, 5]]


def test_a_state_that_is_saved_meanwhile_tells_of_nothing_that_is_not_scored_yet(tmp_path: Path) -> None:
    held = Held(tmp_path)
    held.queue.put(flows(1, 5))
    held.source.read = 1
    assert held.unscored.marks()["folder"] == {"a.pcap": 0}
    held.queue.put(flows(6, 5))
    held.source.read = 2
    assert held.queue.take(0) is not None
    assert held.unscored.marks()["folder"] == {"a.pcap": 1}  # the first five have been scored
    held.taken()
    assert held.unscored.marks()["folder"] == {"a.pcap": 2}


def test_an_end_that_was_not_whole_tells_of_nothing_that_is_not_scored(tmp_path: Path) -> None:
    held = Held(tmp_path)
    held.queue.put(flows(1, 5))
    held.source.read = 1
    assert held.ended(whole=False) == {"folder": {"a.pcap": 0}}
    assert held.queue.shed["ending"] == 5
    assert [event for event, _ in held.told] == ["flows_not_kept"]


def test_where_they_cannot_be_written_they_are_shed_and_their_captures_read_again(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    held = Held(folder)
    folder.rmdir()
    held.queue.put(flows(1, 5))
    held.source.read = 1
    assert held.ended() == {"folder": {"a.pcap": 0}}
    assert held.queue.shed["ending"] == 5
    assert "No such file" in held.told[0][1]


def test_a_file_that_was_changed_is_not_believed_and_its_flows_are_counted(tmp_path: Path) -> None:
    one = Held(tmp_path)
    one.queue.put(flows(1, 5))
    state = one.ended()
    path = next(tmp_path.iterdir())
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    other = Held(tmp_path, state)
    assert other.queue.shed["ending"] == 5
    assert "damaged" in other.told[0][1]
    assert not other.taken()
    assert not files(tmp_path)


def test_flows_of_another_versions_layout_are_counted_and_left(tmp_path: Path) -> None:
    one = Held(tmp_path)
    one.queue.put(flows(1, 5))
    state = json.loads(json.dumps(one.ended()))
    state[KIND]["layout"] = "another"
    other = Held(tmp_path, state)
    assert (other.queue.shed["ending"], other.queue.waiting) == (5, 0)
    assert "another version" in other.told[0][1]


@pytest.mark.parametrize("told", [7, {"sha256": "../../etc/passwd", "layout": "", "sizes": [1], "uids": [None]}])
def test_what_no_end_wrote_is_refused(told: object, tmp_path: Path) -> None:
    held = Held(tmp_path, {KIND: told})
    assert not held.taken()
    assert [event for event, _ in held.told] == ["flows_not_kept"]


def test_a_source_that_cannot_wait_sheds_what_is_left(tmp_path: Path) -> None:
    held = Held(tmp_path, patient=False)
    held.queue.offer(flows(1, 5))
    assert held.ended() == {}
    assert held.queue.shed["ending"] == 5
    assert not files(tmp_path)


def syns(path: Path) -> None:
    """A capture of attempts that are flows of their own, each to another host, in a tenth of a second of packet time each."""
    head = bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02", type=0x0800))
    packet = bytearray(head + bytes(IP(src="10.0.0.1", dst="10.9.0.0") / TCP(sport=40_000, dport=80, flags="S")))
    frames = []
    for number in range(SYNS):
        packet[32:34] = number.to_bytes(2, "big")  # the last half of the address; nobody checks the checksum
        frames.append(Frame(1_700_000_000_000_000 + number * 1000, bytes(packet), len(packet)))
    path.write_bytes(simple_pcap(frames))
    os.utime(path, (0, 0))


@pytest.mark.slow
def test_a_stop_in_the_middle_of_a_capture_loses_nothing_and_scores_nothing_twice(tmp_path: Path) -> None:
    captures, folder = tmp_path / "captures", tmp_path / "sensor"
    captures.mkdir()
    syns(captures / "syns.pcap")
    # small batches make scoring slow: it cannot come to an end in the time that an end has
    changes = (f"capture.folder={captures}", "model.multiflow=default", "model.batch_flows=2", "service.queue_flows=4096")
    for _ in range(2):
        with running(folder, *changes) as sensor:
            before = sensor.metric("netseq_words_scored_total")
            until(lambda sensor=sensor, before=before: sensor.metric("netseq_words_scored_total") > before)  # type: ignore[misc]
            assert sensor.end() == 0
            ended = sensor.events("ended")[-1]
            assert ended["flows_shed"] == 0
            assert ended["flows_kept"] > 0
    with running(folder, *changes[:2]) as sensor:
        until(lambda: sensor.metric("netseq_words_scored_total") == SYNS, 120)
        assert sensor.metric("netseq_captures_read_total") == 1
        assert sensor.metric("netseq_packets_read_total") == SYNS
        assert sensor.metric("netseq_flows_shed_total") == 0
        assert sensor.end() == 0
        assert sensor.events("ended")[-1]["flows_kept"] == 0
    assert not list((folder / "state").glob("unscored*"))


@pytest.mark.slow
def test_a_crash_reads_again_what_was_read_and_not_scored(tmp_path: Path) -> None:
    captures, folder = tmp_path / "captures", tmp_path / "sensor"
    captures.mkdir()
    syns(captures / "syns.pcap")
    changes = (f"capture.folder={captures}", "model.multiflow=default", "service.save_s=1")
    with running(folder, *changes, "model.batch_flows=2") as sensor:
        until(lambda: sensor.metric("netseq_captures_read_total") == 1)
        saved = sensor.metric("netseq_states_saved_total")
        until(lambda: sensor.metric("netseq_states_saved_total") > saved + 1)
        assert sensor.metric("netseq_words_scored_total") < SYNS
        sensor.process.send_signal(signal.SIGKILL)
        sensor.process.wait(END_S)
    with running(folder, *changes) as sensor:
        until(lambda: sensor.metric("netseq_words_scored_total") >= SYNS, 120)
        assert sensor.end() == 0


@pytest.mark.root
@pytest.mark.slow
def test_what_a_live_sensor_sheds_while_it_ends_is_alerted_on(tmp_path: Path) -> None:
    capture = tmp_path / "syns.pcap"
    syns(capture)
    with wire() as laid:
        space = laid.receiver
        space.run("ip", "link", "set", "lo", "up")
        enter = ("ip", "netns", "exec", space.name)
        changes = (f"capture.interfaces={laid.far}", "model.multiflow=default", "model.batch_flows=2")
        with running(tmp_path / "sensor", *changes, prefix=enter, within=space.call) as sensor:
            laid.send(capture, "--topspeed")
            until(lambda: sensor.metric("netseq_flows_ended_total") + sensor.metric("netseq_flows_live") > SYNS / 2)
            assert not told_of_losses(sensor)
            assert sensor.end() == 0
            shed = sensor.events("ended")[-1]["flows_shed"]
            assert shed > 0
            alert = told_of_losses(sensor)[-1]
            assert f"(ending): {shed:,}" in alert["msg"]


def told_of_losses(sensor: Sensor) -> list[dict[str, Any]]:
    return [alert for alert in sensor.alerts() if alert["signature"] == "NetSeq::Sensor_Degraded"]
