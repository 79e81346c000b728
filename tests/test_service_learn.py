from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from test_train_site import BEGIN_US, HOUR_US, alert, office

from models.checkpoint import DEFAULT_MODEL
from sensor import config, service_learn
from sensor.schema import Alert, FlowBatch
from sensor.service_alerted import RULES_MODEL
from sensor.service_learn import EXPLODED_LEAST, PER_HOST, WATCHED_US, Learner
from sensor.service_learned import ALERTING, FILE, FITTING, LEARNING
from sensor.service_record import Recorder
from sensor.service_site import BAD, Site

PATIENCE_S = 90.0


class Bench:
    """A learner with its recorder, and a clock that the test turns."""

    def __init__(self, state: Path, *changes: str, relearn: bool = False) -> None:
        self.told: list[str] = []
        self.settings = config.load(None, ["learn.days=0.5", *changes])
        self.recorder = Recorder(state / "record", keep_days=7, disk_mib=64, tell=self.tell)
        self.learner = Learner(self.settings, state, self.recorder, self.tell, relearn=relearn)
        self.site = Site(state)
        self.now_s = 0.0

    def tell(self, event: str, line: str) -> None:
        self.told.append(f"{event}: {line}")

    def said(self, event: str) -> list[str]:
        return [line for line in self.told if line.startswith(event + ":")]

    def see(self, flows: np.ndarray[tuple[int], np.dtype[np.void]]) -> None:
        for start in range(0, len(flows), 40):
            self.recorder.record(FlowBatch(flows[start : start + 40]), [])
        assert self.recorder.flush(PATIENCE_S)

    def tick(self, *, seconds: float = 60.0, packet_us: int = 0) -> bool:
        self.now_s += seconds
        return self.learner.tick(packet_us or self.recorder.seen.latest_us, self.now_s)

    def tick_until(self, true: Callable[[], bool]) -> bool:
        """Tick in real time until something holds; tells whether a tick asked for the model to be loaded anew."""
        end_s, changed = time.monotonic() + PATIENCE_S, False
        while not true():
            assert time.monotonic() < end_s, self.told
            changed |= self.tick(seconds=0.05)
            time.sleep(0.05)  # the fit is another process: this is how often it is asked
        return changed

    def close(self) -> None:
        self.learner.close()
        self.recorder.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(*changes: str, relearn: bool = False) -> Bench:
        made.append(Bench(tmp_path, *changes, relearn=relearn))
        return made[-1]

    yield make
    for one in made:
        one.close()


def install(site: Site, name: str) -> Path:
    """A model in use, as netseq-train site leaves it."""
    place = site.models / name
    site.models.mkdir(exist_ok=True)
    shutil.copytree(DEFAULT_MODEL, place)
    site.use(place)
    return place


def many(count: int, *, model: str = "site 1", hosts: int = 1000) -> list[Alert]:
    return [alert(f"10.{number % hosts >> 8}.{number % hosts & 255}.1", "10.9.9.9", model) for number in range(count)]


def test_a_new_sensor_learns_then_fits_then_alerts_with_the_site_s_model(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_learn, "LEAST_P_HOURS", 400)
    one = bench()
    assert one.learner.mode == LEARNING
    assert one.learner.model() is None
    one.see(office(6))
    assert not one.tick()
    assert one.learner.mode == LEARNING
    assert 0.3 < float(str(one.learner.progress()["share"])) < 0.7
    one.see(office(8, first=6, seed=1))
    one.tick()
    assert one.learner.mode == FITTING
    assert one.tick_until(lambda: one.learner.mode == ALERTING)
    using = one.learner.model()
    assert using is not None
    assert using == one.site.current()
    assert one.said("fit_says")
    assert "alerts a day expected" in one.said("alerting")[0]
    assert one.learner.progress()["site_model"] == using.name
    assert one.recorder.heeds_models


def test_models_alert_only_after_learning_and_rules_always(bench: Callable[..., Bench]) -> None:
    one = bench()
    rule = alert("10.0.0.1", "10.0.0.2", f"{RULES_MODEL} 1")
    assert one.learner.chosen([*many(3), rule]) == [rule]
    assert one.learner.counters() == {"alerts_withheld": 3, "learning": 1}
    install(one.site, "20260101T000000Z")
    assert one.tick()
    assert one.learner.chosen([*many(3), rule]) == [*many(3), rule]
    assert one.learner.counters() == {"alerts_withheld": 3, "learning": 0}


def test_too_few_conversation_hours_prolong_learning_to_three_times_the_days(bench: Callable[..., Bench]) -> None:
    one = bench()
    for day in range(2):
        one.see(office(13, hosts=2, first=13 * day))
        one.tick()
        assert one.learner.mode == LEARNING
    assert "52 conversation-hours were seen in 0.5" in one.said("learning_prolonged")[0]
    one.see(office(12, hosts=2, first=26))
    one.tick()
    assert one.learner.mode == FITTING
    one.tick_until(lambda: one.learner.mode == ALERTING)
    assert one.site.current() is not None


def test_a_fit_that_fails_prolongs_learning_and_in_the_end_the_sensor_alerts_as_it_is(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_learn, "LEAST_P_HOURS", 40)
    one = bench()
    one.see(office(13, hosts=2))
    one.tick()
    assert one.learner.mode == FITTING
    one.tick_until(lambda: one.learner.mode != FITTING)
    assert one.learner.mode == LEARNING  # 52 conversation-hours are too few to calibrate
    assert "nothing good enough was found: learning goes on for 0.1" in one.said("learning_prolonged")[0]
    assert not one.tick()
    assert one.learner.mode == LEARNING
    one.recorder.seen.learned_us = 3 * 12 * HOUR_US
    one.tick()
    assert one.learner.mode == FITTING
    one.tick_until(lambda: one.learner.mode == ALERTING)
    assert one.learner.model() is None
    assert "the model that comes along, as it is" in one.said("alerting")[0]


def test_a_fit_is_ended_with_the_sensor_and_begun_again_after_the_restart(bench: Callable[..., Bench]) -> None:
    one = bench()
    one.see(office(2))
    one.recorder.seen.learned_us = 12 * HOUR_US
    one.recorder.seen.conversation_hours = 5000
    one.tick()
    fit = one.learner._fit
    assert fit is not None
    assert os.getpriority(os.PRIO_PROCESS, fit.pid) == 10
    stored = msgspec.json.decode(msgspec.json.encode(one.learner.stored()))
    one.close()
    assert fit.returncode in (-signal.SIGTERM, -signal.SIGKILL)
    two = bench()
    two.learner.restore(stored)
    assert two.learner.mode == LEARNING
    assert two.recorder.seen.conversation_hours == 5000
    two.tick()
    assert two.learner.mode == FITTING


def test_progress_goes_on_after_a_restart(bench: Callable[..., Bench]) -> None:
    one = bench()
    one.see(office(3))
    stored = msgspec.json.decode(msgspec.json.encode(one.learner.stored()))
    learned = one.learner.progress()
    one.close()
    two = bench()
    two.learner.restore(stored)
    again = two.learner.progress()
    assert {name: again[name] for name in ("since", "learned_days", "flows_seen", "share")} == {
        name: learned[name] for name in ("since", "learned_days", "flows_seen", "share")
    }
    assert learned["since"] == "2023-11-14T22:00:00Z"


def test_without_a_state_a_sensor_that_alerted_alerts_on_and_says_so(bench: Callable[..., Bench]) -> None:
    one = bench("learn.days=0")
    one.learner.keep()
    one.close()
    two = bench()
    assert two.learner.mode == LEARNING
    two.learner.restore({})
    assert two.learner.mode == ALERTING
    assert two.told == ["alerting: no state can be read, learned.json tells how far learning was: alerts of models are told"]


def test_without_a_state_learning_goes_on_where_it_was_and_says_how_long(bench: Callable[..., Bench]) -> None:
    one = bench()
    one.see(office(3))
    one.learner.keep()
    seen = one.recorder.seen
    one.close()
    two = bench()
    two.learner.restore({"mode": 5})  # what is damaged is not heeded
    assert two.recorder.seen == seen
    left = 0.5 - seen.learned_us / (24 * HOUR_US)
    assert f"learning goes on, and alerts of models are withheld for {left:.2f} days" in two.said("learning_goes_on")[0]


@pytest.mark.parametrize("damage", [b"", b"{", b'{"mode": 5}', b"\0" * 300, b'"\xff"'])
def test_where_nothing_tells_how_far_learning_was_it_begins_anew_and_that_is_said(
    bench: Callable[..., Bench], damage: bytes
) -> None:
    one = bench()
    if damage:
        (one.site.state / FILE).write_bytes(damage)
    one.learner.restore({})
    assert one.learner.mode == LEARNING
    assert "learning begins anew, and alerts of models are withheld for 0.50 days" in one.said("learning_anew")[0]


def test_a_first_start_has_nothing_to_say_of_what_was_learned_before(bench: Callable[..., Bench]) -> None:
    one = bench()
    one.learner.restore({}, lost=False)
    assert one.told == []


def test_a_state_goes_before_the_file_and_a_relearning_forgets_the_file(bench: Callable[..., Bench]) -> None:
    one = bench("learn.days=0")
    one.learner.keep()
    stored = one.learner.stored() | {"mode": LEARNING}
    one.close()
    two = bench()
    two.learner.restore(stored)
    assert (two.learner.mode, two.told) == (LEARNING, [])
    two.close()
    anew = bench(relearn=True)
    anew.learner.restore({})
    assert anew.learner.mode == LEARNING
    anew.close()
    after = bench()
    after.learner.restore({}, lost=False)
    assert (after.learner.mode, after.told) == (LEARNING, [])


def test_a_file_of_what_was_learned_that_cannot_be_written_is_told(bench: Callable[..., Bench]) -> None:
    one = bench()
    (one.site.state / FILE).mkdir()
    one.learner.keep()
    assert one.said("learning_not_kept") == [f"learning_not_kept: {one.site.state / FILE}: Is a directory"]
    assert [path.name for path in one.site.state.glob(f"{FILE}*")] == [FILE]


def test_a_model_of_the_settings_or_no_days_leave_learning_out(bench: Callable[..., Bench]) -> None:
    assert bench("learn.days=0").learner.mode == ALERTING
    one = bench(f"model.path={DEFAULT_MODEL}")
    install(one.site, "20260101T000000Z")
    assert one.learner.mode == ALERTING
    assert one.learner.model() is None
    assert not one.tick()


def test_a_model_that_another_process_takes_into_use_is_noticed(bench: Callable[..., Bench]) -> None:
    one = bench()
    first = install(one.site, "20260101T000000Z")
    assert one.tick()
    assert one.learner.model() == first
    assert not one.tick()
    second = install(one.site, "20260102T000000Z")
    assert not one.tick(seconds=1)
    assert one.tick(seconds=10)
    assert one.learner.model() == second


def test_a_model_whose_alerts_explode_is_taken_back_and_marked(bench: Callable[..., Bench]) -> None:
    one = bench()
    before = install(one.site, "20260101T000000Z")
    assert one.tick(packet_us=BEGIN_US)
    after = install(one.site, "20260102T000000Z")
    assert one.tick(packet_us=BEGIN_US)
    one.learner.chosen(many(EXPLODED_LEAST))
    assert not one.tick(packet_us=BEGIN_US + HOUR_US)
    one.learner.chosen(many(EXPLODED_LEAST))
    assert one.tick(packet_us=BEGIN_US + HOUR_US)
    assert one.learner.model() == before
    assert "20 alerts in its first 1.0 hours" in (after / BAD).read_text()
    assert "model_taken_back" in one.told[-1]
    assert not one.tick()


def test_a_model_that_a_reload_met_first_is_watched_too(bench: Callable[..., Bench]) -> None:
    one = bench()
    before = install(one.site, "20260101T000000Z")
    assert one.tick(packet_us=BEGIN_US)
    later_us = BEGIN_US + WATCHED_US + HOUR_US
    assert not one.tick(packet_us=later_us)  # the watch is over
    after = install(one.site, "20260102T000000Z")
    assert one.learner.model() == after  # SIGHUP
    one.tick(packet_us=later_us)
    one.learner.chosen(many(2 * EXPLODED_LEAST))
    assert one.tick(packet_us=later_us + HOUR_US)
    assert one.learner.model() == before


def test_alerts_within_the_budget_or_of_one_host_or_after_the_watch_take_nothing_back(bench: Callable[..., Bench]) -> None:
    one = bench()
    using = install(one.site, "20260101T000000Z")
    assert one.tick(packet_us=BEGIN_US)
    one.learner.chosen(many(500, hosts=1))
    assert PER_HOST < EXPLODED_LEAST
    assert not one.tick(packet_us=BEGIN_US + HOUR_US)
    assert not one.tick(packet_us=BEGIN_US + 7 * HOUR_US)
    one.learner.chosen(many(500))
    assert not one.tick(packet_us=BEGIN_US + 8 * HOUR_US)
    assert one.learner.model() == using


def test_a_damaged_model_is_not_loaded(bench: Callable[..., Bench]) -> None:
    one = bench("learn.days=0")
    before = install(one.site, "20260101T000000Z")
    bad = install(one.site, "20260102T000000Z")
    (bad / "weights.safetensors").write_bytes(b"damaged")
    assert one.learner.model() == before
    assert (bad / BAD).exists()


def test_relearning_puts_record_and_models_aside_and_begins_anew(bench: Callable[..., Bench], tmp_path: Path) -> None:
    one = bench()
    one.see(office(2))
    install(one.site, "20260101T000000Z")
    assert one.tick()
    stored = one.learner.stored()
    one.close()
    two = bench(relearn=True)
    two.learner.restore(stored)
    assert two.learner.mode == LEARNING
    assert two.learner.model() is None
    assert two.recorder.seen.flows == 0
    aside = sorted(path.name.split("-")[0] for path in tmp_path.iterdir() if ".before-" in path.name)
    assert aside == ["models.before", "record.before"]
    two.see(office(1))
    assert two.recorder.counters()["flows_recorded"] == 80


def test_a_model_that_came_while_the_sensor_was_off_is_watched_too(bench: Callable[..., Bench]) -> None:
    one = bench()
    before = install(one.site, "20260101T000000Z")
    assert one.tick(packet_us=BEGIN_US)
    stored = one.learner.stored()
    install(one.site, "20260102T000000Z")
    again = bench()
    again.learner.restore(stored)
    again.tick(packet_us=BEGIN_US)
    again.learner.chosen(many(2 * EXPLODED_LEAST))
    assert again.tick(packet_us=BEGIN_US + HOUR_US)
    assert again.learner.model() == before
