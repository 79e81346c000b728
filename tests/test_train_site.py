from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from conftest import said

from benchmarks import learning
from models.calibrate import calibrate
from models.checkpoint import DEFAULT_MODEL, load
from models.site import Budget, Hours, calibration_of, expected
from sensor.commands.record import read_record
from sensor.commands.train import main
from sensor.commands.train_site import held_back
from sensor.labels import Labels
from sensor.schema import CONN_STATES, FLOW, TCP, UDP, V4_MAPPED, Alert, FlowBatch
from sensor.service_alerted import RULES_MODEL
from sensor.service_record import Recorder
from sensor.service_site import BAD, KEPT, Site, now

HOUR_US = 3_600_000_000
BEGIN_US = 472_222 * HOUR_US
PATIENCE_S = 20.0


def office(hours: int, *, hosts: int = 20, seed: int = 0, first: int = 0) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    """Every host asks for names and for web pages in every hour, in the order of ending."""
    random = np.random.default_rng(seed)
    count = hours * hosts * 4
    flows = np.zeros(count, FLOW)
    place = np.arange(count)
    dns = place % 2 == 0
    flows["src_lo"] = V4_MAPPED + 0x0A000001 + place // 2 % hosts
    flows["dst_lo"] = V4_MAPPED + np.where(dns, 0x0A010001, 0x0A010002)
    flows["src_port"] = random.integers(1024, 65_535, count)
    flows["dst_port"] = np.where(dns, 53, 443)
    flows["protocol"] = np.where(dns, UDP, TCP)
    flows["conn_state"] = CONN_STATES.index("SF")
    flows["first_us"] = BEGIN_US + first * HOUR_US + place * (HOUR_US // (hosts * 4))
    flows["last_us"] = flows["first_us"] + random.integers(1, 9, count) * 10_000
    flows["fwd"]["packets"] = flows["bwd"]["packets"] = 3
    flows["fwd"]["payload"]["sum"] = random.integers(30, 60, count)
    flows["bwd"]["payload"]["sum"] = np.where(dns, 100, random.integers(1000, 50_000, count))
    return flows


def alert(src: str, dest: str, model: str) -> Alert:
    at_us = BEGIN_US + 2 * HOUR_US
    return Alert(
        ts_us=at_us, signature="NetSeq::X", severity="low", src=src, src_port=1, dest=dest, dest_port=2, transport="tcp",
        community_id="", uid=None, score=1.0, verdict=1.0, p_value=0.01, per_day=1.0, count=1, first_seen_us=at_us,
        last_seen_us=at_us, model=model, reasons=(), msg="",
    )  # fmt: skip


def recorded(state: Path, flows: np.ndarray[tuple[int], np.dtype[np.void]], alerts: tuple[Alert, ...] = ()) -> Site:
    recorder = Recorder(state / "record", keep_days=7, disk_mib=64, tell=lambda *_: None)
    for start in range(0, len(flows), 500):
        recorder.record(FlowBatch(flows[start : start + 500]), alerts if start == 0 else ())
        assert recorder.flush(PATIENCE_S)
    recorder.close()
    return Site(state)


def train(state: Path, *more: object) -> int:
    return main(["site", "--state", str(state), "--config", os.devnull, "--epochs", "1", *map(str, more)])


def test_a_few_hours_calibrate_the_model_that_comes_along(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    site = recorded(tmp_path, office(4))
    assert train(tmp_path) == 0
    using = site.current()
    assert using is not None
    made, shipped = load(using), load(DEFAULT_MODEL)
    assert made.manifest.name == "site"
    assert made.manifest.version == using.name
    assert made.manifest.trained_from == f"{shipped.manifest.name} {shipped.manifest.version}"
    assert made.calibration.n == 4 * 20 * 2
    assert all((made.counts.joint[0] == shipped.counts.joint[0]).tolist())
    told = site.report_of(using)
    assert told["how"] == "calibrated"
    assert f"{told['expected_alerts_a_day']:,.1f} alerts a day expected" in said(capfd)[0]


def test_more_hours_train_it_further(tmp_path: Path) -> None:
    flows = office(10)
    flows["dst_port"][flows["dst_port"] == 443] = 9443
    site = recorded(tmp_path, flows)
    assert train(tmp_path) == 0
    using = site.current()
    assert using is not None
    told = site.report_of(using)
    assert told["how"] == "trained further"
    assert "9443/tcp" in load(using).manifest.vocabulary["learned"]
    nats, before = told["nats"], told["nats_of_the_model_before"]
    assert isinstance(nats, float)
    assert isinstance(before, float)
    assert nats < before


def test_half_of_a_short_record_is_held_back_and_a_fifth_of_a_long_one() -> None:
    assert [held_back(count) for count in (200, 2500, 5000, 100_000)] == [0.5, 0.4, 0.2, 0.2]


def test_what_alerted_is_not_trained_on(tmp_path: Path) -> None:
    flows = office(10)
    flows["dst_port"][flows["src_lo"] == V4_MAPPED + 0x0A000001] = 9443
    flows["dst_port"][flows["src_lo"] == V4_MAPPED + 0x0A000002] = 9444
    flows["dst_port"][flows["src_lo"] == V4_MAPPED + 0x0A000003] = 9445
    by_model = [alert("10.0.0.1", f"10.1.0.{server}", "words 1") for server in (1, 2)]
    site = recorded(tmp_path, flows[:-1], (*by_model, alert("10.0.0.2", "", f"{RULES_MODEL} 1")))
    record = read_record(site.record)
    assert set(np.unique(record.flows["dst_port"][record.by_model]).tolist()) == {9443}
    assert set(np.unique(record.flows["dst_port"][record.by_rule]).tolist()) <= {9444}
    assert train(tmp_path) == 0
    using = site.current()
    assert using is not None
    learned = load(using).manifest.vocabulary["learned"]
    assert "9445/tcp" in learned
    assert not {"9443/tcp", "9444/tcp", "9443/udp", "9444/udp"} & set(learned)


def test_a_label_file_that_calls_it_ordinary_goes_before_what_alerted(tmp_path: Path) -> None:
    site = recorded(tmp_path, office(3), (alert("10.0.0.1", "10.1.0.1", "words 1"),))
    (tmp_path / "ordinary.csv").write_text("src,label\n10.0.0.1,BENIGN\n")
    assert read_record(site.record).by_model.any()
    assert not read_record(site.record, [Labels.read(tmp_path / "ordinary.csv")]).by_model.any()


def test_lines_that_a_person_deleted_leave_a_header_that_is_no_mistake(tmp_path: Path) -> None:
    site = recorded(tmp_path, office(3), (alert("10.0.0.1", "10.1.0.1", "words 1"),))
    path = site.record / "alerted.csv"
    path.write_text(path.read_text().splitlines()[0] + "\n")
    record = read_record(site.record)
    assert len(record.flows) == 240
    assert not record.by_model.any()


def test_a_check_takes_nothing_into_use(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    site = recorded(tmp_path, office(8))
    assert train(tmp_path, "--check") == 0
    assert "would be taken into use" in said(capfd)[0]
    assert site.current() is None


def test_too_little_keeps_the_present_model_and_the_status_tells(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    site = recorded(tmp_path, office(2))
    assert train(tmp_path) == 3
    assert site.current() is None
    assert "only 80 conversation-hours" in said(capfd)[1]


def test_a_model_that_would_flood_is_not_taken(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    flows = office(24)
    late = flows["first_us"] >= BEGIN_US + 14 * HOUR_US
    flows["dst_port"][late] = 6000 + np.arange(int(late.sum())) % 4000
    flows["conn_state"][late] = CONN_STATES.index("S0")
    flows["bwd"]["packets"][late] = 0
    site = recorded(tmp_path, flows)
    assert train(tmp_path, "--calibrate") == 3
    assert site.current() is None
    assert "not taken into use" in said(capfd)[1]


def test_two_trainings_of_one_site_do_not_meet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    site = recorded(tmp_path, office(1))
    with site.lock():
        assert train(tmp_path) == 1
    assert "another training is at work" in said(capfd)[1]


def test_a_sensor_that_recorded_nothing_yet_is_told_of_and_no_failure(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path) == 3
    assert "no record there yet" in said(capfd)[1]
    assert list(tmp_path.iterdir()) == []


def test_a_state_folder_that_is_none_is_misuse(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path / "nowhere") == 2
    assert "no such folder" in said(capfd)[1]


def test_the_last_models_are_kept_and_a_bad_one_is_never_taken_again(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.lock().close()
    places = []
    for second in range(KEPT + 2):
        written = site.begin(now().replace(second=second, microsecond=0))
        (written / "manifest.json").write_text("{}")
        places.append(site.swap(written, {"how": "calibrated"}))
        assert site.current() == places[-1]
    assert site.known() == places[-KEPT:]
    assert site.condemn(places[-1], "it floods") == places[-2]
    assert site.current() == places[-2]
    assert (places[-1] / BAD).read_text() == "it floods\n"
    site.use(places[-1])
    assert site.current() is None


def test_pairs_are_kept_whole_where_a_record_has_more_flows_than_are_held(tmp_path: Path) -> None:
    flows = office(6, hosts=100)
    site = recorded(tmp_path, flows)
    record = read_record(site.record, most_flows=800)
    assert len(record.flows) <= 800
    assert record.share == 0.25
    pairs, counts = np.unique(np.stack([record.flows["src_lo"], record.flows["dst_lo"]]), axis=1, return_counts=True)
    assert set(counts.tolist()) == {12}
    assert pairs.shape[1] > 20


def hours(verdicts: list[float], *, alerted: float = 1e9, per_hour: int = 100) -> Hours:
    verdict = np.array(verdicts)
    return Hours(verdict, np.arange(len(verdict)) // per_hour, verdict >= alerted)


def test_false_alarms_stay_in_the_calibration_as_far_as_the_budget_goes() -> None:
    random = np.random.default_rng(1)
    verdicts = random.normal(0, 1, 2400).tolist()
    told = hours(verdicts, alerted=2.6)
    alerted = int(told.alerted.sum())
    assert 5 < alerted <= 20
    budget = Budget(20.0, 0.01)
    assert calibration_of(told, budget, 1.0).n == 2400
    poisoned = hours([*verdicts, *[9.0] * 400], alerted=2.6)
    assert calibration_of(poisoned, budget, 1.0).n == 2400 - alerted + int(20 * 28 / 24)
    assert calibration_of(poisoned, budget, 1.0).p_value(np.array([9.0]))[0] < 0.01


def test_alerts_expected_a_day_are_those_of_the_last_part_by_the_part_before() -> None:
    random = np.random.default_rng(2)
    told = hours(random.normal(0, 1, 4800).tolist())
    found = expected(told, Budget(20.0, 0.01), 1.0)
    assert found.days == 1.0
    assert 8 <= found.per_day <= 40
    assert expected(told, Budget(20.0, 0.01), 0.5).per_day == pytest.approx(2 * expected(told, Budget(20.0, 0.01), 0.5).alerts)
    strict = calibrate(np.full(1000, -9.0) + random.normal(0, 0.01, 1000), 1.0)
    assert expected(told, Budget(20.0, 0.01), 1.0, strict).alerts == 2400


def test_the_benchmark_of_learning_tells_alerts_before_and_after(capfd: pytest.CaptureFixture[str]) -> None:
    capture = Path(__file__).parent / "data" / "demo.pcap.gz"
    assert learning.main([str(capture), "--learn", "0.9"]) == 0
    row = said(capfd)[0].splitlines()[-1].split(" | ")
    assert row[0].endswith("demo.pcap.gz")
    assert row[1:3] == ["216", "24, 0"]
    assert row[4].endswith(", 0")
