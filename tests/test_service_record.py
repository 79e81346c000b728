from __future__ import annotations

import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sensor.commands.datasets import read
from sensor.commands.record import read_record
from sensor.conversations import Conversations
from sensor.labels import Labels
from sensor.schema import CONN_STATES, FLOW, TCP, V4_MAPPED, Alert, FlowBatch, RuleReason
from sensor.service_alerted import NAME, RULES_MODEL
from sensor.service_record import WAITING_FLOWS, Recorder
from sensor.service_record_files import kept_files
from sensor.words import PARTS, Vocabulary

DEMO = Path(__file__).parent / "data" / "demo.pcap.gz"
HOUR_US = 3_600_000_000
BEGIN_US = 472_222 * HOUR_US
PATIENCE_S = 20.0


def some_flows(count: int, *, at_us: int = BEGIN_US, seed: int = 0) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    random = np.random.default_rng(seed)
    flows = np.zeros(count, FLOW)
    flows["src_lo"] = V4_MAPPED + 0x0A000000 + random.integers(1, 200, count)
    flows["dst_lo"] = V4_MAPPED + 0x0A010000 + random.integers(1, 5, count)
    flows["src_port"] = random.integers(1024, 65_535, count)
    flows["dst_port"] = 443
    flows["protocol"] = TCP
    flows["conn_state"] = CONN_STATES.index("SF")
    flows["first_us"] = at_us + np.arange(count) * 1000
    flows["last_us"] = flows["first_us"] + random.integers(0, 500, count)
    flows["fwd"]["packets"] = flows["bwd"]["packets"] = 3
    flows["fwd"]["payload"]["sum"] = random.integers(0, 5000, count)
    return flows


def alert(
    src: str, dest: str, *, model: str = "netseq-words 1", at_us: int = BEGIN_US, signature: str = "NetSeq::X", sources: int = 0
) -> Alert:
    return Alert(
        ts_us=at_us, signature=signature, severity="low", src=src, src_port=1, dest=dest, dest_port=2, transport="tcp",
        community_id="", uid=None, score=1.0, verdict=1.0, p_value=0.01, per_day=1.0, count=1, first_seen_us=at_us,
        last_seen_us=at_us, model=model, reasons=(RuleReason("attempts", 7000, 6000, sources, 1.0),) * bool(sources), msg="",
    )  # fmt: skip


class Told(list[str]):
    def __call__(self, event: str, line: str) -> None:
        self.append(f"{event}: {line}")


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def recorder(tmp_path: Path, told: Told) -> Iterator[Recorder]:
    made = Recorder(tmp_path / "record", keep_days=1, disk_mib=64, tell=told)
    yield made
    made.close()


def words_of(flows: np.ndarray[tuple[int], np.dtype[np.void]]) -> np.ndarray[tuple[int, int], np.dtype[np.int16]]:
    vocabulary = Vocabulary.learn([flows])
    return vocabulary.words(flows, Conversations(conversations=4096).turn(flows))


def recorded(folder: Path) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    return read_record(folder).flows


@pytest.mark.parametrize("name", ["demo", "skype", "malformed"])
def test_words_made_from_the_record_are_those_that_were_scored(
    name: str, recorder: Recorder, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = DEMO
    if name != "demo":
        captures = request.getfixturevalue("shared_data") / "captures"
        path = captures / ("ndpi_4.2/skype.pcap.gz" if name == "skype" else "malformed")
    flows = read(str(path)).flows
    for start in range(0, len(flows), 100):
        recorder.record(FlowBatch(flows[start : start + 100]), [])
    assert recorder.flush(PATIENCE_S)
    again = recorded(tmp_path / "record")
    assert len(again) == len(flows) == recorder.counters()["flows_recorded"]
    before, after = words_of(flows), words_of(again)
    assert dict(zip(PARTS, (before == after).mean(axis=0).tolist(), strict=True)) == dict.fromkeys(PARTS, 1.0)


def test_every_hour_of_packet_time_has_a_file_and_a_restart_begins_another(tmp_path: Path, told: Told) -> None:
    for seed in range(2):
        recorder = Recorder(tmp_path, keep_days=1, disk_mib=64, tell=told)
        for hour in (0, 0, 1):
            recorder.record(FlowBatch(some_flows(10, at_us=BEGIN_US + hour * HOUR_US, seed=seed)), [])
        recorder.close()
    names = [kept.path.name for kept in kept_files(tmp_path)]
    assert [name.split(".")[1] for name in names] == ["00000001", "00000002", "00000003", "00000004"]
    assert len({name.split(".")[2] for name in names}) == 2
    assert len(recorded(tmp_path)) == 60


def test_the_oldest_hours_go_first_and_the_limit_is_never_passed(tmp_path: Path, told: Told) -> None:
    recorder = Recorder(tmp_path, keep_days=1, disk_mib=1, tell=told)
    for hour in range(8):
        for piece in range(3):
            recorder.record(FlowBatch(some_flows(2048, at_us=BEGIN_US + hour * HOUR_US, seed=3 * hour + piece)), [])
            assert recorder.flush(PATIENCE_S)
            assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 1 << 20
    recorder.close()
    assert recorder.counters() == {"flows_recorded": 8 * 3 * 2048}
    kept = recorded(tmp_path)
    assert 2048 * 3 < len(kept) < 8 * 3 * 2048
    assert kept["first_us"].max() >= BEGIN_US + 7 * HOUR_US
    assert kept["first_us"].min() > BEGIN_US + HOUR_US


def test_no_more_hours_are_kept_than_asked_for(tmp_path: Path, told: Told) -> None:
    recorder = Recorder(tmp_path, keep_days=3 / 24, disk_mib=64, tell=told)
    for hour in range(6):
        recorder.record(FlowBatch(some_flows(5, at_us=BEGIN_US + hour * HOUR_US)), [])
    recorder.close()
    assert len(kept_files(tmp_path)) == 3
    assert recorded(tmp_path)["first_us"].min() >= BEGIN_US + 3 * HOUR_US


def test_a_record_is_read_up_to_the_cut_after_kill_9(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom test_service_record import *\n"
        f"recorder = Recorder(Path({str(tmp_path)!r}), keep_days=1, disk_mib=8, tell=print)\n"
        "recorder.record(FlowBatch(some_flows(3000)), [])\nrecorder.flush(60)\nprint('written', flush=True)\nsys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parent
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"written\n"
        child.send_signal(signal.SIGKILL)
    assert len(recorded(tmp_path)) == 3000
    (path,) = [kept.path for kept in kept_files(tmp_path)]
    path.write_bytes(path.read_bytes()[:-2000])  # as a machine that lost its power leaves it
    assert 2000 < len(recorded(tmp_path)) < 3000
    assert 2000 < len(read(str(tmp_path)).flows) < 3000  # as any reader of conn.logs has it


def test_a_disk_that_takes_no_more_costs_flows_and_not_the_sensor(tmp_path: Path, told: Told) -> None:
    recorder = Recorder(tmp_path, keep_days=1, disk_mib=64, tell=told)
    recorder.record(FlowBatch(some_flows(100)), [])
    assert recorder.flush(PATIENCE_S)
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (recorder.total_bytes + 100, before[1]))
        recorder.record(FlowBatch(some_flows(1000, seed=1)), [])
        recorder.record(FlowBatch(some_flows(10, seed=2)), [])
        assert recorder.flush(PATIENCE_S)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    recorder.close()
    assert recorder.counters() == {"flows_recorded": 100, "flows_unrecorded.disk": 1010}
    assert len(recorded(tmp_path)) == 100
    assert len(told) == 1
    assert "File too large" in told[0]


def test_a_folder_that_cannot_be_made_is_told_once(tmp_path: Path, told: Told) -> None:
    (tmp_path / "file").write_text("")
    recorder = Recorder(tmp_path / "file" / "record", keep_days=1, disk_mib=1, tell=told)
    recorder.record(FlowBatch(some_flows(10)), [alert("10.0.0.1", "10.0.0.2")])
    recorder.record(FlowBatch(some_flows(10)), [])
    recorder.close()
    assert recorder.counters() == {"flows_recorded": 0, "flows_unrecorded.disk": 20}
    assert len(told) == 1


def test_what_the_writer_cannot_follow_with_is_counted(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    held, reached = threading.Event(), threading.Event()
    write = recorder._write

    def slow(batch: FlowBatch) -> None:
        reached.set()
        assert held.wait(PATIENCE_S)
        write(batch)

    monkeypatch.setattr(recorder, "_write", slow)
    batch = FlowBatch(some_flows(2048))
    recorder.record(batch, [])
    assert reached.wait(PATIENCE_S)
    for _ in range(WAITING_FLOWS // 2048 + 3):
        recorder.record(batch, [])
    held.set()
    assert recorder.flush(PATIENCE_S)
    counters = recorder.counters()
    assert counters["flows_unrecorded.queue"] == 4 * 2048
    assert counters["flows_recorded"] == WAITING_FLOWS


def test_a_night_without_traffic_is_not_counted_as_learned(recorder: Recorder) -> None:
    for at_us in (0, 60_000_000, 10 * HOUR_US, 10 * HOUR_US + 60_000_000, 0):
        recorder.record(FlowBatch(some_flows(2, at_us=BEGIN_US + at_us)), [])
    assert recorder.flush(PATIENCE_S)
    assert recorder.seen.learned_us == pytest.approx(120e6 + 900e6, abs=1e4)


def test_a_batch_that_spans_hours_counts_each_of_them(recorder: Recorder) -> None:
    flows = some_flows(300)
    flows["src_lo"], flows["dst_lo"] = V4_MAPPED + 1, V4_MAPPED + 2
    flows["last_us"] = BEGIN_US + np.arange(300) * 60_000_000
    recorder.record(FlowBatch(flows), [])
    assert recorder.flush(PATIENCE_S)
    assert recorder.seen.learned_us == 299 * 60_000_000
    assert recorder.seen.conversation_hours == 5


def test_a_broken_stamp_neither_ends_learning_nor_stops_it(recorder: Recorder) -> None:
    for minute in range(10):
        flows = some_flows(5, at_us=BEGIN_US + minute * 60_000_000)
        flows["last_us"][0] += (minute == 3) * 10_000 * HOUR_US
        recorder.record(FlowBatch(flows), [])
    assert recorder.flush(PATIENCE_S)
    assert 500e6 < recorder.seen.learned_us < 540e6 + 900e6 + 1e6
    assert recorder.seen.latest_us < BEGIN_US + HOUR_US


def test_conversation_hours_are_pairs_in_each_hour(recorder: Recorder) -> None:
    flows = some_flows(400)
    turned = flows.copy()
    turned["src_lo"], turned["dst_lo"] = flows["dst_lo"], flows["src_lo"]
    for batch in (flows, turned, some_flows(400, at_us=BEGIN_US + HOUR_US)):
        recorder.record(FlowBatch(batch), [])
    assert recorder.flush(PATIENCE_S)
    pairs = len(np.unique(np.stack([flows["src_lo"], flows["dst_lo"]]), axis=1).T)
    assert recorder.seen.conversation_hours == 2 * pairs


def test_what_alerted_is_a_label_file_that_matches_its_flows(recorder: Recorder, tmp_path: Path) -> None:
    flows = some_flows(300)
    first = flows[0]
    src, dst = (f"10.{'0' if end == 'src' else '1'}.0.{int(first[f'{end}_lo']) & 255}" for end in ("src", "dst"))
    recorder.record(FlowBatch(flows), [alert(src, dst)])
    assert recorder.flush(PATIENCE_S)
    labels = Labels.read(tmp_path / "record" / NAME)
    found = labels.of(flows) >= 0
    assert (found == ((flows["src_lo"] == first["src_lo"]) & (flows["dst_lo"] == first["dst_lo"]))).all()
    assert labels.lines[0].label == "NetSeq::X"


def test_a_host_caught_by_a_rule_is_marked_whole_and_recorded_no_more(recorder: Recorder, tmp_path: Path) -> None:
    flows = some_flows(300)
    host = int(flows["src_lo"][0]) & 255
    recorder.record(FlowBatch(flows), [])
    assert recorder.flush(PATIENCE_S)
    recorder.record(FlowBatch(some_flows(1)[:0]), [alert(f"10.0.0.{host}", "10.1.0.1", model=f"{RULES_MODEL} 1")])
    assert recorder.flush(PATIENCE_S)
    recorder.record(FlowBatch(flows), [])
    assert recorder.flush(PATIENCE_S)
    own = int((flows["src_lo"] == flows["src_lo"][0]).sum())
    assert recorder.counters() == {"flows_recorded": 600 - own, "flows_unrecorded.attack": own}
    assert ((Labels.read(tmp_path / "record" / NAME).of(flows) >= 0) >= (flows["src_lo"] == flows["src_lo"][0])).all()


def test_an_address_of_ipv6_that_ends_as_one_of_ipv4_is_another_host(recorder: Recorder) -> None:
    flows = some_flows(100)
    recorder.record(FlowBatch(flows[:1]), [
        alert("10.9.9.9", "2001:db8::ffff:10.1.0.1", model=RULES_MODEL, sources=4000),
        alert("2001:db8::ffff:10.1.0.2", "10.9.9.8", model=RULES_MODEL, sources=1),
    ])  # fmt: skip
    assert recorder.flush(PATIENCE_S)
    unanswered = flows[1:].copy()
    unanswered["bwd"]["packets"] = 0
    recorder.record(FlowBatch(unanswered), [])
    assert recorder.flush(PATIENCE_S)
    assert recorder.error is None
    assert recorder.counters() == {"flows_recorded": 100}


def test_of_a_flood_from_many_hosts_only_what_the_victim_did_not_answer_is_left_out(recorder: Recorder, tmp_path: Path) -> None:
    flows = some_flows(300)
    flows["bwd"]["packets"][:100] = 0
    victim = flows["dst_lo"] == V4_MAPPED + 0x0A010001
    flood = alert("10.0.0.1", "10.1.0.1", model=f"{RULES_MODEL} 1", sources=4000)
    recorder.record(FlowBatch(flows[:0]), [flood])
    assert recorder.flush(PATIENCE_S)
    recorder.record(FlowBatch(flows), [])
    later = some_flows(300, at_us=BEGIN_US + 2 * HOUR_US)
    later["bwd"]["packets"] = 0
    recorder.record(FlowBatch(later), [])
    assert recorder.flush(PATIENCE_S)
    assert recorder.counters()["flows_unrecorded.attack"] == int(victim[:100].sum())
    labels = Labels.read(tmp_path / "record" / NAME)
    assert ((labels.of(flows) >= 0) == victim).all()
    assert not (labels.of(later) >= 0).any()


def test_a_model_s_alerts_are_not_heeded_while_the_site_is_learned(recorder: Recorder, tmp_path: Path) -> None:
    recorder.heeds_models = False
    recorder.record(FlowBatch(some_flows(3)), [alert("10.0.0.1", "10.1.0.1")])
    assert recorder.flush(PATIENCE_S)
    assert not (tmp_path / "record" / NAME).exists()
    assert recorder.seen.model_alerts == 1


def test_a_person_s_deletion_of_a_line_stands(recorder: Recorder, tmp_path: Path) -> None:
    recorder.record(FlowBatch(some_flows(3)), [alert("10.0.0.1", "10.1.0.1"), alert("10.0.0.2", "10.1.0.1")])
    assert recorder.flush(PATIENCE_S)
    path = tmp_path / "record" / NAME
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if "10.0.0.1," not in line))
    recorder.record(FlowBatch(some_flows(3)), [alert("10.0.0.3", "10.1.0.1")])
    assert recorder.flush(PATIENCE_S)
    assert [line.src[0] & 255 for line in Labels.read(path).lines] == [2, 3]
