"""The decision: budget, quiet time, counting, reasons and words, against a slow truth and whatever the cut into batches."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.resident import Scored
from sensor.addresses import halves
from sensor.conversations import Conversations
from sensor.detect import SIGNATURE, Detector
from sensor.detect_alert import severity
from sensor.detect_watch import LIFT
from sensor.message import share
from sensor.schema import CONN_STATES, FLOW, GRE, ICMP, ICMPV6, SCTP, TCP, UDP, Alert, Reason

HOUR_US = 3_600_000_000
START_US = 400_000 * HOUR_US  # 2015, at the full hour
PARTS = ("service", "outcome", "sent", "gap")
HOSTS = ("192.0.2.5", "198.51.100.7", "2001:db8::1", "203.0.113.9")


class Plain:
    """A vocabulary that says values as they are."""

    parts = PARTS

    def describe(self, part: str, value: int, flow: np.void | None = None) -> str:
        return f"{part}-{value}" + ("" if flow is None else f" at {int(flow['dst_port'])}")


class Event(NamedTuple):
    """A flow as the tests make it: who, when (us after START_US), and what the scorer said of it."""

    pair: tuple[int, int]
    first_us: int
    last_us: int
    verdict: float = 9.0
    p_value: float = 1e-6


def flows_of(events: list[Event]) -> NDArray[np.void]:
    flows = np.zeros(len(events), FLOW)
    for row, event in zip(flows, events, strict=True):
        row["src_hi"], row["src_lo"] = halves(HOSTS[event.pair[0]])
        row["dst_hi"], row["dst_lo"] = halves(HOSTS[event.pair[1]])
        row["src_port"], row["dst_port"], row["protocol"] = 49152, 445, TCP
        row["first_us"], row["last_us"] = START_US + event.first_us, START_US + event.last_us
    return flows


def words_of(n: int) -> NDArray[np.int16]:
    return np.tile(np.arange(len(PARTS), dtype=np.int16), (n, 1))


def scored_of(events: list[Event], explain_p: float) -> Scored:
    """What a scorer might say: part p saw value p at e^-(p+1), expected 7 + p, and weighs by its place."""
    n, parts = len(events), len(PARTS)
    p_value = np.array([event.p_value for event in events], np.float64)
    explained = np.flatnonzero(p_value <= explain_p)
    k = len(explained)
    nats = np.tile(np.arange(1, parts + 1, dtype=np.float32), (n, 1))
    expected = np.tile(np.arange(parts, dtype=np.int16)[:, None] + np.array([7, 8, 9], np.int16), (k, 1, 1))
    return Scored(
        nats=nats.sum(1),
        part_nats=nats,
        part_tail=np.exp(-nats),
        frequency_nats=nats * 2,
        verdict=np.array([event.verdict for event in events], np.float32),
        p_value=p_value,
        explained=explained,
        expected=expected,
        expected_probability=np.tile(np.array([0.6, 0.2, 0.1], np.float32), (k, parts, 1)),
        seen_probability=np.exp(-nats[explained]),
        contribution=np.tile(np.array([0.1, 0.4, 0.0, 0.5], np.float32), (k, 1)),
        voice=np.tile(np.array([0, 1, 0, 0], np.uint8), (k, 1)),
        shed=0,
    )


def why(alert: Alert) -> list[Reason]:
    """The reasons of an alert of the word model."""
    reasons = [reason for reason in alert.reasons if isinstance(reason, Reason)]
    assert len(reasons) == len(alert.reasons)
    return reasons


def detector(**settings: float) -> Detector:
    chosen = {"expected_conversation_hours_per_day": 1000.0, "capacity": 64, "max_p": 0.002, "least_p": 1e-12, **settings}
    return Detector(vocabulary=Plain(), model="plain 1", **chosen)  # type: ignore[arg-type]  # numbers of both kinds


def decide(
    watcher: Detector, events: list[Event], table: Conversations | None = None, cuts: tuple[int, ...] = ()
) -> list[Alert]:
    """Let the detector see the events in batches that end at `cuts`."""
    table = table or Conversations(conversations=64)
    alerts = []
    edges = [0, *sorted(cuts), len(events)]
    for start, stop in itertools.pairwise(edges):
        part = events[start:stop]
        flows = flows_of(part)
        alerts += watcher.decide(flows, words_of(len(part)), table.turn(flows), scored_of(part, watcher.ceiling))
    return alerts


def at(seconds: float, verdict: float = 9.0, p_value: float = 1e-6, pair: tuple[int, int] = (0, 1)) -> Event:
    end = int(seconds * 1e6)
    return Event(pair, end - 100_000, end, verdict, p_value)


def told(alerts: list[Alert]) -> list[tuple[float, int]]:
    """When each alert was raised, in seconds, and how many flows it stands for."""
    return [((alert.ts_us - START_US) / 1e6, alert.count) for alert in alerts]


# --- budget and rate


def test_threshold_is_the_budget_over_the_models_prior_at_first() -> None:
    assert detector(budget_per_day=1.0).threshold() == 1.0 / 1000


def test_threshold_is_never_above_max_p() -> None:
    watcher = detector(budget_per_day=1e6, max_p=0.002)
    assert watcher.threshold() == watcher.ceiling == 0.002
    assert decide(watcher, [at(1, p_value=0.0021)]) == []
    assert len(decide(watcher, [at(2, p_value=0.0019)], Conversations(conversations=4))) == 1


def test_threshold_falls_with_the_conversation_hours_of_the_last_day_and_recovers() -> None:
    watcher = detector(expected_conversation_hours_per_day=3.0, budget_per_day=0.003, quiet_s=0.0)
    table = Conversations(conversations=8)
    decide(watcher, [at(60, -5, 1.0, (0, n)) for n in (1, 2, 3)] * 2, table)
    assert watcher.rate() == 3.0 * 24  # twice the flows are not twice the verdicts, and one hour stands for all of the day
    decide(watcher, [at(3600 + 60, -5, 1.0, (0, 1))], table)
    assert watcher.rate() == 4.0 * 24 / 2
    assert watcher.threshold() == 0.003 / 48
    decide(watcher, [at(12 * 3600 + 60, -5, 1.0)], table)
    assert watcher.rate() == 5.0 * 24 / 13
    decide(watcher, [at(24 * 3600 + 60, -5, 1.0, (0, n)) for n in (1, 2)], table)
    assert watcher.rate() == 4.0  # the first hour has left the day
    decide(watcher, [at(25 * 3600 + 60, -5, 1.0)] * 2, table)
    assert watcher.rate() == 4.0  # one has left, one came
    decide(watcher, [at(47 * 3600 + 60, -5, 1.0)], table)
    assert watcher.rate() == 4.0
    decide(watcher, [at(49 * 3600 + 60, -5, 1.0)], table)
    assert watcher.rate() == 3.0  # the prior again
    assert watcher.conversation_hours == 10


def test_one_packet_from_the_future_does_not_stop_the_count_from_forgetting() -> None:
    watcher = detector(expected_conversation_hours_per_day=1.0)
    table = Conversations(conversations=64)
    decide(watcher, [at(1e9, -5, 1.0, (2, 3))], table)
    for hour in range(100):
        decide(watcher, [at(hour * 3600 + 60, -5, 1.0)], table)
    assert watcher.rate() == 24.0


def test_benign_traffic_raises_as_many_alerts_a_day_as_the_budget_says() -> None:
    """Uniform p-values are what benign conversation-hours have; 5,000 of them a day, over 40 days."""
    rng = np.random.default_rng(7)
    rate, days, budget = 5000, 40, 8.0
    watcher = detector(expected_conversation_hours_per_day=float(rate), budget_per_day=budget, capacity=rate * days)
    ends = np.sort(rng.integers(0, days * 24 * HOUR_US, rate * days)) + START_US
    flows = np.zeros(rate * days, FLOW)
    flows["src_lo"], flows["first_us"], flows["last_us"] = np.arange(rate * days) + 1, ends, ends
    table = Conversations(conversations=rate * days)
    p_value = rng.random(rate * days)
    alerts = 0
    for start in range(0, rate * days, 4096):
        part = flows[start : start + 4096]
        scored = scored_of([Event((0, 1), 0, 0, -math.log(p), p) for p in p_value[start : start + 4096]], watcher.ceiling)
        alerts += len(watcher.decide(part, words_of(len(part)), table.turn(part), scored))
    assert abs(alerts - budget * days) < 4 * math.sqrt(budget * days)


@pytest.mark.parametrize(
    "wrong",
    [
        {"budget_per_day": 0.0},
        {"expected_conversation_hours_per_day": 0.0},
        {"expected_conversation_hours_per_day": math.nan},
        {"max_p": 0.0},
        {"max_p": 1.5},
        {"least_p": 0.0},
        {"least_p": math.nan},
        {"quiet_s": -1.0},
        {"capacity": 0},
    ],
)
def test_settings_that_cannot_be_meant_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        detector(**wrong)


# --- quiet time and counting


def test_conversation_alerts_once_in_its_quiet_time_and_then_tells_what_it_stands_for() -> None:
    watcher = detector(quiet_s=3600.0)
    alerts = decide(watcher, [at(600), at(610), at(620), at(3700), at(7300)])
    assert told(alerts) == [(600.0, 1), (7300.0, 4)]
    assert (alerts[1].first_seen_us, alerts[1].last_seen_us) == (START_US + 609_900_000, START_US + 7_300_000_000)
    assert watcher.counters() == {"alerts_raised": 2, "alerts_suppressed": 3, "alerts_untold": 0}


def test_first_seen_is_the_earliest_start_though_it_ended_last() -> None:
    long = Event((0, 1), 30_000_000, 3_550_000_000)
    (_, alert) = decide(detector(), [at(20), at(40), long, at(7300)])
    assert (alert.first_seen_us, alert.last_seen_us) == (START_US + 30_000_000, START_US + 7_300_000_000)


def test_quiet_time_is_the_conversations_own() -> None:
    alerts = decide(detector(), [at(600), at(601, pair=(0, 2)), at(602, pair=(1, 0)), at(603, pair=(2, 0))])
    assert [(alert.src, alert.dest) for alert in alerts] == [(HOSTS[0], HOSTS[1]), (HOSTS[0], HOSTS[2])]


def test_quiet_time_outlives_a_restart_of_the_conversation() -> None:
    watcher = detector(quiet_s=5 * 3600.0)
    table = Conversations(conversations=4, restart_s=60.0)
    assert told(decide(watcher, [at(600), at(7300), at(14500), at(21700)], table)) == [(600.0, 1), (21700.0, 3)]


def test_flow_that_only_follows_in_an_alarming_hour_raises_nothing() -> None:
    watcher = detector(quiet_s=60.0)
    events = [at(600, 9.0), at(700, 9.0), at(800, 8.0), at(900, 9.0 + LIFT / 2), at(1000, 9.5), at(1100, 9.5)]
    assert told(decide(watcher, events)) == [(600.0, 1), (1000.0, 4)]
    assert watcher.counters() == {"alerts_raised": 2, "alerts_suppressed": 3, "alerts_untold": 1}


def test_flow_under_the_threshold_neither_alerts_nor_counts() -> None:
    watcher = detector()
    assert told(decide(watcher, [at(600, 1.0, 0.5), at(601, 2.0, 1e-6), at(602, 1.0, 0.5), at(7300)])) == [
        (601.0, 1),
        (7300.0, 1),
    ]


def test_new_hour_is_told_of_again_though_its_verdict_is_lower() -> None:
    assert told(decide(detector(quiet_s=60.0), [at(600, 9.0), at(3700, 5.0)])) == [(600.0, 1), (3700.0, 1)]


def test_no_quiet_time_lets_every_lift_alert() -> None:
    assert len(decide(detector(quiet_s=0.0), [at(600 + n, 5.0 + n) for n in range(5)])) == 5


def test_what_no_alert_tells_of_is_counted() -> None:
    watcher = detector()
    decide(watcher, [at(600), at(610), at(620)])
    assert watcher.counters() == {"alerts_raised": 1, "alerts_suppressed": 0, "alerts_untold": 2}


def test_evicted_conversation_leaves_its_untold_flows_in_the_count_and_its_slot_clean() -> None:
    watcher = detector()
    table = Conversations(conversations=1)
    assert told(decide(watcher, [at(600), at(610), at(620, pair=(2, 3)), at(630, pair=(2, 3))], table)) == [
        (600.0, 1),
        (620.0, 1),
    ]
    assert watcher.counters() == {"alerts_raised": 2, "alerts_suppressed": 0, "alerts_untold": 2}


def test_clock_that_is_set_back_does_not_silence_a_conversation() -> None:
    watcher = detector(quiet_s=3600.0)
    assert told(decide(watcher, [at(50 * 3600, 5.0), at(600, 9.0)])) == [(50 * 3600.0, 1), (600.0, 1)]


def test_broken_times_at_both_ends_of_64_bits_are_survived() -> None:
    flows = flows_of([at(1), at(2)])
    flows["last_us"] = [-(1 << 63), (1 << 63) - 1]
    flows["first_us"] = flows["last_us"]
    watcher = detector()
    turns = Conversations(conversations=4).turn(flows)
    assert len(watcher.decide(flows, words_of(2), turns, scored_of([at(1), at(2, 99.0)], 1.0))) == 2


def test_flow_without_a_verdict_raises_nothing() -> None:
    watcher = detector()
    assert decide(watcher, [at(1, math.nan, math.nan), at(2, math.nan, 1.0)]) == []


def test_empty_batch_raises_nothing() -> None:
    assert decide(detector(), []) == []


# --- laws


def events_of() -> st.SearchStrategy[list[Event]]:
    pair = st.sampled_from([(0, 1), (1, 0), (0, 2), (2, 3)])
    minutes = st.integers(0, 40 * 60)
    score = st.sampled_from([(-3.0, 0.9), (1.0, 0.01), (3.0, 4e-4), (3.005, 4e-4), (5.0, 1e-4), (8.0, 1e-7), (math.nan, 1.0)])
    rows = st.lists(st.tuples(minutes, pair, st.integers(0, 90), score), max_size=40)
    return rows.map(
        lambda many: [
            Event(pair, (minute - lasting) * 60_000_000, minute * 60_000_000, *score)
            for minute, pair, lasting, score in sorted(many, key=lambda row: row[0])
        ]
    )


QUIET = st.sampled_from([0.0, 600.0, 3600.0, 20_000.0])


@settings(deadline=None, max_examples=60)
@given(events=events_of(), quiet_s=QUIET, slots=st.integers(1, 4), data=st.data())
def test_alerts_do_not_depend_on_the_cut_into_batches(
    events: list[Event], quiet_s: float, slots: int, data: st.DataObject
) -> None:
    cuts = tuple(data.draw(st.lists(st.integers(0, len(events)), max_size=6)))
    whole, cut = detector(quiet_s=quiet_s), detector(quiet_s=quiet_s)
    together = decide(whole, events, Conversations(conversations=slots))
    assert decide(cut, events, Conversations(conversations=slots), cuts) == together
    assert whole.counters() == cut.counters()
    assert whole.threshold() == cut.threshold()


def truth(events: list[Event], *, prior: float, budget: float, quiet_us: int) -> Iterator[tuple[int, int]]:
    """Say slowly which rows alert and what they count, for conversations that are never evicted."""
    hours: list[tuple[int, frozenset[int]]] = []
    began = 0
    peak: dict[tuple[frozenset[int], int], float] = {}
    last_end: dict[frozenset[int], int] = {}
    last_alert: dict[frozenset[int], int] = {}
    pending: dict[frozenset[int], int] = {}
    for row, event in enumerate(events):
        pair = frozenset(event.pair)
        hour = event.last_us // HOUR_US
        restart = pair not in last_end or event.first_us - last_end[pair] > HOUR_US
        last_end[pair] = event.last_us if restart else max(last_end[pair], event.last_us)
        if restart or (pair, hour) not in peak:
            peak[pair, hour] = -math.inf
            if not hours or abs(hour - max(hour for hour, _ in hours)) >= 24:
                hours, began = [], hour
            hours.append((max(hour, *(hour for hour, _ in hours)) if hours else hour, pair))
        newest = max(hour for hour, _ in hours)
        seen = sum(1 for hour, _ in hours if hour > newest - 24)
        rate = max(prior, seen * 24 / min(newest - began + 1, 24))
        lifted = event.verdict > peak[pair, hour] + LIFT
        if lifted:
            peak[pair, hour] = event.verdict
        if event.p_value <= min(0.002, budget / rate):
            pending[pair] = pending.get(pair, 0) + 1
            quiet = pair in last_alert and event.last_us - last_alert[pair] < quiet_us
            if lifted and not quiet:
                yield row, pending.pop(pair)
                last_alert[pair] = event.last_us


@settings(deadline=None, max_examples=60)
@given(events=events_of(), quiet_s=QUIET, prior=st.sampled_from([2.0, 10.0]))
def test_detector_agrees_with_a_slow_truth(events: list[Event], quiet_s: float, prior: float) -> None:
    budget = 0.0045
    watcher = detector(quiet_s=quiet_s, expected_conversation_hours_per_day=prior, budget_per_day=budget)
    expected = list(truth(events, prior=prior, budget=budget, quiet_us=int(quiet_s * 1e6)))
    alerts = decide(watcher, events)
    assert [(alert.ts_us - START_US, alert.count) for alert in alerts] == [(events[row].last_us, n) for row, n in expected]


@settings(deadline=None, max_examples=30)
@given(events=events_of(), quiet_s=QUIET, slots=st.integers(1, 4))
def test_every_flow_over_the_threshold_is_an_alert_or_suppressed_or_untold(
    events: list[Event], quiet_s: float, slots: int
) -> None:
    watcher = detector(quiet_s=quiet_s, expected_conversation_hours_per_day=1000.0, budget_per_day=1.0)  # rate stays the prior
    alerts = decide(watcher, events, Conversations(conversations=slots))
    over = sum(event.p_value <= 0.001 for event in events)
    counts = watcher.counters()
    assert sum(counts.values()) == over
    assert counts["alerts_raised"] == len(alerts)
    assert counts["alerts_suppressed"] == sum(alert.count - 1 for alert in alerts)


# --- what an alert says


def test_alert_says_who_what_and_how_sure() -> None:
    (alert,) = decide(detector(budget_per_day=1.0), [at(600, verdict=4.25, p_value=3e-4)])
    assert (alert.src, alert.src_port, alert.dest, alert.dest_port) == ("192.0.2.5", 49152, "198.51.100.7", 445)
    assert (alert.signature, alert.transport, alert.model, alert.uid) == (SIGNATURE, "tcp", "plain 1", None)
    assert (alert.score, alert.verdict, alert.p_value, alert.per_day, alert.severity) == (10.0, 4.25, 3e-4, 0.3, "medium")
    assert alert.community_id == "1:UXy98NdEEA4CWqnyRa6y+rSy1kc="


def test_reasons_are_the_heaviest_parts_with_what_was_expected_instead() -> None:
    (alert,) = decide(detector(), [at(600)])
    assert [(reason.part, reason.voice) for reason in alert.reasons] == [
        ("gap", "lstm"),
        ("outcome", "frequency"),
        ("service", "lstm"),
    ]
    gap = why(alert)[0]
    assert (gap.seen, gap.expected, gap.expected_probability, gap.nats) == ("gap-3 at 445", "gap-10", 0.6, 4.0)
    assert gap.seen_probability == pytest.approx(math.exp(-4), rel=1e-5)


def decided(scored: Scored) -> Alert:
    """The alert of one flow with these scores."""
    flows = flows_of([at(600)])
    (alert,) = detector().decide(flows, words_of(1), Conversations(conversations=4).turn(flows), scored)
    return alert


def test_part_that_was_no_less_likely_than_another_value_is_no_reason() -> None:
    scored = scored_of([at(600)], 1.0)
    scored.seen_probability[0, 3] = 0.7  # the heaviest part of the hour, and in this flow the likeliest value
    scored.seen_probability[0, 1] = 0.6
    alert = decided(scored)
    assert [reason.part for reason in alert.reasons] == ["service"]
    assert "most unusual is the service" in alert.msg


def test_part_with_one_value_only_is_no_reason() -> None:
    scored = scored_of([at(600)], 1.0)
    scored.expected[0, 3], scored.expected_probability[0, 3] = -1, 0.0
    assert [reason.part for reason in decided(scored).reasons] == ["outcome", "service"]


def test_alert_whose_flow_was_all_expected_tells_of_its_hour_and_the_heaviest_part() -> None:
    scored = scored_of([at(600)], 1.0)
    scored.seen_probability[:] = 0.9
    alert = decided(scored)
    assert alert.reasons == ()
    assert "not this flow alone but the conversation's hour as a whole is unusual, most of all by the gap;" in alert.msg


@given(st.lists(st.tuples(*(st.floats(0, 1, width=32) for _ in range(3))), min_size=4, max_size=4))
def test_every_reason_shows_less_than_was_expected_and_what_that_cost(rows: list[tuple[float, float, float]]) -> None:
    scored = scored_of([at(600)], 1.0)
    for part, (seen, expected, share_) in enumerate(rows):
        scored.seen_probability[0, part], scored.expected_probability[0, part, 0] = seen, expected
        scored.contribution[0, part] = share_
    reasons = why(decided(scored))
    assert all(reason.seen_probability <= reason.expected_probability for reason in reasons)  # six digits may hide the rest
    assert all(reason.nats == pytest.approx(-math.log(max(reason.seen_probability, 1e-37)), abs=1e-4) for reason in reasons)
    fit = [part for part, (seen, expected, share_) in enumerate(rows) if seen < expected and share_ > 0]
    fit.sort(key=lambda part: -rows[part][2])
    assert [reason.part for reason in reasons] == [PARTS[part] for part in fit[:3]]


def test_score_of_a_shed_flow_is_the_frequencies() -> None:
    scored = scored_of([at(600)], 1.0)
    scored.nats[:], scored.part_nats[:] = np.nan, np.nan
    alert = decided(scored)
    assert (alert.score, why(alert)[0].nats) == (20.0, 4.0)


def test_alert_without_an_explanation_is_raised_and_counted() -> None:
    flows, watcher = flows_of([at(600)]), detector()
    (alert,) = watcher.decide(flows, words_of(1), Conversations(conversations=4).turn(flows), scored_of([at(600)], 0.0))
    assert alert.reasons == ()
    assert "the conversation as a whole was not expected" in alert.msg
    assert watcher.unexplained == 1


def test_uid_is_zeeks_when_it_gave_one() -> None:
    events = [at(600), at(601, pair=(0, 2))]
    flows = flows_of(events)
    turns = Conversations(conversations=4).turn(flows)
    alerts = detector().decide(flows, words_of(2), turns, scored_of(events, 1.0), ["CAfebc1kCPpOeYIO3d", ""])
    assert [alert.uid for alert in alerts] == ["CAfebc1kCPpOeYIO3d", None]


@pytest.mark.parametrize(
    ("protocol", "kind", "code", "ports", "transport"),
    [
        (ICMP, 8, 0, (8, 0), "icmp"),
        (ICMP, 3, 3, (3, 3), "icmp"),
        (ICMPV6, 136, 0, (136, 135), "icmp6"),
        (SCTP, 0, 0, (49152, 445), "sctp"),
        (GRE, 0, 0, (49152, 445), "47"),
    ],
)
def test_ports_of_icmp_are_those_of_conn_log(
    protocol: int, kind: int, code: int, ports: tuple[int, int], transport: str
) -> None:
    flows = flows_of([at(600)])
    flows["protocol"], flows["icmp_type"], flows["icmp_code"] = protocol, kind, code
    (alert,) = detector().decide(flows, words_of(1), Conversations(conversations=4).turn(flows), scored_of([at(600)], 1.0))
    assert ((alert.src_port, alert.dest_port), alert.transport) == (ports, transport)


@pytest.mark.parametrize(
    ("per_day", "name"), [(0.0, "critical"), (0.01, "critical"), (0.011, "high"), (0.1, "high"), (1.0, "medium"), (1.1, "low")]
)
def test_severity_is_how_rare_a_false_alarm_like_it_is(per_day: float, name: str) -> None:
    assert severity(per_day) == name


def message_of(state: str, protocol: int = TCP, p_value: float = 3e-4, sent: int = 0) -> str:
    flows, events = flows_of([at(600)]), [at(600, p_value=p_value)]
    flows["conn_state"], flows["protocol"] = CONN_STATES.index(state), protocol
    flows["fwd"]["payload"]["sum"] = sent
    flows["icmp_type"] = 8
    turns = Conversations(conversations=4).turn(flows)
    return detector(budget_per_day=1.0).decide(flows, words_of(1), turns, scored_of(events, 1.0))[0].msg


def test_message_of_an_unanswered_attempt_reads_as_a_sentence() -> None:
    assert message_of("S0") == (
        "192.0.2.5 tried 445/tcp on 198.51.100.7 and got no answer (S0): most unusual is the gap, gap-3 at 445, with"
        " 1.8 % here against 60 % for gap-10; false alarms like this: one in 3 days."
    )


@pytest.mark.parametrize("state", CONN_STATES)
@pytest.mark.parametrize("protocol", [TCP, UDP, SCTP, GRE])
def test_every_outcome_has_its_words(state: str, protocol: int) -> None:
    message = message_of(state, protocol, sent=1234)
    assert f"({state}, 1,234 bytes sent and 0 received): " in message
    assert {"192.0.2.5", "198.51.100.7"} <= set(message.replace(",", "").split())
    assert ("IP protocol 47" if protocol == GRE else "445/") in message


def test_message_of_icmp_names_type_and_code() -> None:
    assert message_of("OTH", ICMP).startswith("192.0.2.5 sent ICMP type 8 code 0 to 198.51.100.7: ")


@pytest.mark.parametrize(
    ("p_value", "words"),
    [
        (9.6e-4, "one a day"),
        (3e-4, "one in 3 days"),
        (2e-6, "one in 500 days"),
        (1e-9, "less than one in 1,000 days"),
        (0.0, "less than one in 1,000 days"),
    ],
)
def test_message_says_how_often_it_is_a_false_alarm(p_value: float, words: str) -> None:
    assert f"false alarms like this: {words}" in message_of("S0", p_value=p_value)


@pytest.mark.parametrize("p_value", [1e-4, 1e-6, 0.0])
def test_alert_claims_no_more_than_the_calibration_can_tell(p_value: float) -> None:
    watcher = detector(least_p=1e-4, expected_conversation_hours_per_day=1000.0)
    (alert,) = decide(watcher, [at(600, p_value=p_value)])
    assert (alert.p_value, alert.per_day, alert.severity) == (1e-4, 0.1, "high")
    assert alert.msg.endswith("false alarms like this: at most one in 10 days (the calibration cannot tell rarer).")


def test_alert_that_the_calibration_can_tell_is_not_bounded() -> None:
    (alert,) = decide(detector(least_p=1e-4), [at(600, p_value=2e-4)])
    assert (alert.p_value, alert.per_day, alert.severity) == (2e-4, 0.2, "medium")
    assert alert.msg.endswith("false alarms like this: one in 5 days.")


def test_critical_takes_a_calibration_of_ten_days_traffic() -> None:
    for days, name in ((9, "high"), (11, "critical")):
        watcher = detector(least_p=1 / (10 * 1000 * days), expected_conversation_hours_per_day=1000.0)
        assert decide(watcher, [at(600, p_value=0.0)])[0].severity == name


def test_budget_is_kept_on_a_network_busier_than_the_calibration_can_tell() -> None:
    busy = detector(least_p=1e-4, expected_conversation_hours_per_day=1e6, budget_per_day=20.0)
    alerts = decide(busy, [at(600, 5.0, 5e-5), at(601, 9.0, 1e-5, (0, 2))])
    assert [(alert.dest, alert.per_day, alert.severity) for alert in alerts] == [(HOSTS[2], 100.0, "low")]
    assert alerts[0].msg.endswith("at most 100 a day (the calibration cannot tell rarer).")


def test_message_of_an_alert_that_stands_for_several_says_for_how_many() -> None:
    alerts = decide(detector(), [at(600), *(at(610 + n) for n in range(1500)), at(7300)])
    assert alerts[1].msg.endswith(" It stands for 1,501 flows within 112 minutes.")


@pytest.mark.parametrize(
    ("probability", "text"),
    [
        *((1.0, "over 99 %"), (0.612, "61 %"), (0.0953, "9.5 %"), (0.01, "1 %"), (0.001, "0.1 %")),
        *((1e-4, "0.01 %"), (1.04e-5, "0.001 %"), (1e-9, "under 0.001 %"), (0.0, "under 0.001 %")),
    ],
)
def test_shares_are_written_with_the_digits_that_matter(probability: float, text: str) -> None:
    assert share(probability) == text
