"""The multi-flow model's alerts: their class, their reasons, and the rules that they share with all alerts."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from models.resident_flows import FlowScored
from sensor.addresses import halves
from sensor.commands.terminal import told
from sensor.detect_flows import FlowDetector
from sensor.schema import CONN_STATES, FLOW, TCP, Alert, StatisticReason
from sensor.sinks.notice import told as noticed

CLASSES = ("Normal", "DoS", "Web Attack")
COLUMNS = ("Flow Duration", "Total Fwd Packet", "Flow IAT Mean", "Fwd Header Length")
CENTRE = (np.log1p(1_000_000), np.log1p(4), np.log1p(250), 0.0)
START_US = 1_700_000_000_000_000


def flows_of(n: int) -> NDArray[np.void]:
    flows = np.zeros(n, FLOW)
    flows["src_hi"], flows["src_lo"] = halves("192.0.2.5")
    flows["dst_hi"], flows["dst_lo"] = halves("198.51.100.7")
    flows["src_port"], flows["dst_port"], flows["protocol"] = 49152, 80, TCP
    flows["conn_state"] = CONN_STATES.index("SF")
    flows["first_us"] = flows["last_us"] = START_US + np.arange(n) * 1_000_000
    return flows


def scored_of(n: int, **changes: object) -> FlowScored:
    """What a scorer might say: DoS, by the flow two before, whose duration is far below and header far above the median."""
    scored = FlowScored(
        probability=np.tile(np.array([0.02, 0.93, 0.05], np.float32), (n, 1)),
        verdict=np.arange(n, dtype=np.float32) + 4,
        p_value=np.full(n, 1e-5),
        explained=np.arange(n),
        attention=np.tile(np.array([0.0, 0.7, 0.1, 0.2], np.float32), (n, 1)),
        attended=np.tile(np.array([12, 4, 250, 60_000], np.float32), (n, 1)),
        distance=np.tile(np.array([-6.5, 0.0, 0.2, 7.25], np.float32), (n, 1)),
    )
    return scored._replace(**changes)  # type: ignore[arg-type]  # arrays by the names of the fields


def detector(**settings: float) -> FlowDetector:
    chosen = {
        "capacity": 8, "expected_conversation_hours_per_day": 1000.0, "budget_per_day": 20.0, "quiet_s": 3600.0, "max_p": 0.01,
        "least_p": 1e-4, **settings,
    }  # fmt: skip
    return FlowDetector(classes=CLASSES, columns=COLUMNS, centre=CENTRE, model="flows 1", **chosen)  # type: ignore[arg-type]


def decide(watcher: FlowDetector, scored: FlowScored) -> list[Alert]:
    n = len(scored.verdict)
    hour = np.full(n, START_US // 3_600_000_000)
    return watcher.decide(flows_of(n), np.zeros(n, np.int32), np.arange(n) == 0, hour, scored, [f"C{row}" for row in range(n)])


def test_alert_is_named_after_the_likeliest_attack_and_scored_by_its_probability() -> None:
    (alert,) = decide(detector(), scored_of(1))
    assert (alert.signature, alert.score, alert.measure, alert.verdict) == ("NetSeq::DoS", 0.93, "probability", 4.0)
    assert (alert.src, alert.dest, alert.dest_port, alert.uid, alert.model) == (
        "192.0.2.5",
        "198.51.100.7",
        80,
        "C0",
        "flows 1",
    )
    probability = np.array([[0.02, 0.05, 0.93]], np.float32)
    assert decide(detector(), scored_of(1, probability=probability))[0].signature == "NetSeq::Web_Attack"


def test_the_ordinary_class_never_names_an_alert() -> None:
    probability = np.array([[0.9, 0.04, 0.06]], np.float32)
    assert decide(detector(), scored_of(1, probability=probability))[0].signature == "NetSeq::Web_Attack"


def test_reasons_are_the_statistics_farthest_from_usual_of_the_flow_with_most_attention() -> None:
    (alert,) = decide(detector(), scored_of(1))
    assert alert.reasons == (
        StatisticReason("Fwd Header Length", "bytes", 60_000.0, 0.0, 7.25, 2, 0.7),
        StatisticReason("Flow Duration", "us", 12.0, 1_000_000.0, -6.5, 2, 0.7),
    )


def test_of_statistics_with_the_same_value_one_is_told() -> None:
    attended = np.array([[12, 12, 250, 60_000]], np.float32)
    distance = np.array([[-6.5, 5.0, 0.2, 7.25]], np.float32)
    (alert,) = decide(detector(), scored_of(1, attended=attended, distance=distance))
    assert [reason.part for reason in alert.reasons] == ["Fwd Header Length", "Flow Duration"]


def test_the_sentence_tells_class_flow_statistic_and_rarity() -> None:
    (alert,) = decide(detector(), scored_of(1))
    assert alert.msg == (
        "192.0.2.5 used 80/tcp on 198.51.100.7 (SF): the last 3 flows look like DoS (93 %), most of all the flow 2 before: Fwd"
        " Header Length is 60,000 bytes, usual is 0; false alarms like this: at most one in 10 days (the calibration cannot"
        " tell rarer)."
    )


def test_a_first_flow_without_anything_far_off_is_told_plainly() -> None:
    attention = np.array([[0, 0, 0, 1]], np.float32)
    (alert,) = decide(detector(), scored_of(1, attention=attention, distance=np.zeros((1, 4), np.float32)))
    assert alert.reasons == ()
    assert "(SF): it looks like DoS (93 %); false alarms" in alert.msg


def test_terminal_and_notice_tell_the_reason() -> None:
    reason = decide(detector(), scored_of(1))[0].reasons[1]
    assert told(reason) == "Flow Duration is 12 us, usual is 1,000,000; the flow 2 before has 70 % of the attention"
    assert noticed(reason) == "Flow Duration 12 us (2 flows before), usual 1e+06"


def test_a_reason_is_written_with_its_fields() -> None:
    (alert,) = decide(detector(), scored_of(1))
    assert msgspec.to_builtins(alert.reasons[1]) == {
        "part": "Flow Duration", "unit": "us", "seen": 12.0, "usual": 1e6, "spreads": -6.5, "flow": 2, "attention": 0.7,
        "voice": "multiflow",
    }  # fmt: skip


def test_a_conversation_alerts_once_in_its_quiet_time_and_the_rest_is_counted() -> None:
    watcher = detector()
    assert len(decide(watcher, scored_of(5))) == 1
    assert (watcher.alerts, watcher.untold) == (1, 4)


@pytest.mark.parametrize(("p_value", "alerts"), [(0.019, 1), (0.021, 0)])
def test_budget_over_the_rate_of_conversation_hours_is_the_threshold(p_value: float, alerts: int) -> None:
    watcher = detector(max_p=1.0)
    assert len(decide(watcher, scored_of(1, p_value=np.array([p_value])))) == alerts
