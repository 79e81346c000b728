"""The fixed rules: against a slow truth in plain Python, whatever the cut into batches, and with tables that are too small."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks import synthetic
from sensor import config
from sensor.addresses import halves
from sensor.assembly import Assembly
from sensor.detect_rules import ALERTS_AN_HOUR, MODEL, Rules
from sensor.metrics import split
from sensor.schema import CONN_STATES, END_FULL, FLOW, GRE, ICMP, ICMPV6, TCP, UDP, Alert, RuleReason
from sensor.sources.pcap import CaptureSource

MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US
START_US = 1_700_000_000_000_000
ATTEMPTS, TARGETS = 30, 12
"""Small thresholds, yet more targets than a row without a set remembers."""


class Event(NamedTuple):
    """A flow as the tests make it; times are us after START_US."""

    src: int
    dst: int
    at_us: int
    port: int = 80
    src_port: int = 40_000
    protocol: int = TCP
    state: str = "S0"
    lasted_us: int = 0
    icmp_type: int = 0
    sent: tuple[int, int] = (1, 0)
    """Packets and payload bytes of the source."""
    received: int = 0
    """Packets of the other side."""
    continued: int = 0


def flows_of(events: Iterable[Event]) -> NDArray[np.void]:
    events = list(events)
    flows = np.zeros(len(events), FLOW)
    for name in ("src_port", "protocol", "icmp_type", "continued"):
        flows[name] = [getattr(event, name) for event in events]
    flows["src_lo"] = [0xFFFF_0A00_0000 + event.src for event in events]
    flows["dst_lo"] = [0xFFFF_C000_0200 + event.dst for event in events]
    flows["dst_port"] = [event.port for event in events]
    flows["conn_state"] = [CONN_STATES.index(event.state) for event in events]
    flows["last_us"] = START_US + np.array([event.at_us for event in events], np.int64)
    flows["first_us"] = flows["last_us"] - np.array([event.lasted_us for event in events], np.int64)
    flows["fwd"]["packets"] = [event.sent[0] for event in events]
    flows["fwd"]["payload"]["sum"] = [event.sent[1] for event in events]
    flows["bwd"]["packets"] = [event.received for event in events]
    return flows


def rules(quiet_s: float = 3600.0, **sizes: int) -> Rules:
    return Rules(flood_attempts=ATTEMPTS, sweep_targets=TARGETS, quiet_s=quiet_s, **sizes)


def judged(which: Rules, events: Iterable[Event], cuts: Sequence[int] = ()) -> list[Alert]:
    flows = flows_of(events)
    bounds = sorted({0, len(flows), *(cut % (len(flows) + 1) for cut in cuts)})
    return [alert for a, b in itertools.pairwise(bounds) for alert in which.judge(flows[a:b])]


def told(alerts: Sequence[Alert]) -> list[tuple[object, ...]]:
    """What the slow truth tells as well."""
    found: list[tuple[object, ...]] = []
    for alert in alerts:
        (reason,) = alert.reasons
        assert isinstance(reason, RuleReason)
        found.append(
            (alert.ts_us - START_US, reason.part, reason.seen, reason.sources, alert.count, alert.first_seen_us - START_US)
        )
    return found


class Minute:
    """The attempts of one key in one minute."""

    def __init__(self) -> None:
        self.times: list[int] = []
        self.began: list[int] = []
        self.targets: set[object] = set()
        self.over = False


class Truth:
    """The rules in plain Python: dictionaries that forget nothing."""

    def __init__(self, quiet_us: int) -> None:
        self.minutes: dict[object, Minute] = {}
        self.pending: dict[object, list[int]] = {}
        self.alerted: dict[object, int] = {}
        self.quiet_us = quiet_us

    def take(self, event: Event) -> list[tuple[object, ...]]:
        found: list[tuple[object, ...]] = []
        for part, key, target, owner in self.keys(event):
            minute = self.minutes.setdefault(key, Minute())
            now, began = event.at_us, event.at_us - event.lasted_us
            if minute.times and (now - min(minute.times) >= MINUTE_US or max(minute.times) - now >= HOUR_US):
                minute = self.minutes[key] = Minute()
            elif minute.times and max(minute.times) - now >= MINUTE_US:
                continue
            minute.times.append(now)
            minute.began.append(began)
            minute.targets.add(target)
            seen = len(minute.times) if part == "attempts" else len(minute.targets)
            if seen <= (ATTEMPTS if part == "attempts" else TARGETS):
                continue
            self.pending.setdefault(owner, []).extend([began] if minute.over else minute.began)
            minute.over = True
            if owner in self.alerted and abs(now - self.alerted[owner]) < self.quiet_us:
                continue
            self.alerted[owner] = now
            pending = self.pending.pop(owner)
            sources = len(minute.targets) if part == "attempts" else 1
            found.append((now, part, seen, sources, len(pending), min(pending)))
        return found

    def keys(self, event: Event) -> list[tuple[str, object, object, object]]:
        """Part, what counts, what is counted, and whose quiet time it is; in the order of the alerts of one flow."""
        by = event.protocol
        found: list[tuple[str, object, object, object]] = []
        source = ("source", event.src)
        if by == TCP and event.state in ("S0", "REJ", "RSTOS0"):
            found = [("hosts", ("hosts", by, event.src, event.port), event.dst, source)]
            found += [("ports", ("ports", by, event.src, event.dst), event.port, source)]
        elif by == UDP and event.state == "S0":
            late = event.src_port < 1024 <= event.port
            found = [] if late else [("ports", ("ports", by, event.src, event.dst), event.port, source)]
        elif not (by == ICMP and event.icmp_type == 8 and not event.received):
            return []
        else:
            found = [("hosts", ("hosts", by, event.src), event.dst, source)]
        victim = ("victim", by, event.dst)
        return [*found, ("attempts", victim, event.src, victim)]


@st.composite
def histories(draw: st.DrawFn) -> list[Event]:
    """Some hundred flows of few hosts, in bursts, late ones and a clock set back among them."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    at_us, events = 2 * HOUR_US, []
    sources, hosts, ports = draw(st.sampled_from([(1, 40, 2), (40, 1, 2), (1, 2, 60), (3, 20, 20), (60, 2, 1)]))
    pause_us = draw(st.sampled_from([10_000, 1_000_000, 3_000_000]))
    for _ in range(draw(st.integers(50, 400))):
        at_us += int(random.exponential(pause_us)) + (random.random() < 0.02) * int(
            random.choice([MINUTE_US, HOUR_US, -2 * HOUR_US])
        )
        late_us = int(random.choice([0, 0, 0, 5_000_000, 70_000_000]))
        by = int(random.choice([TCP, TCP, TCP, UDP, ICMP]))
        events.append(
            Event(
                src=int(random.integers(sources)),
                dst=int(random.integers(hosts)),
                at_us=at_us - late_us,
                port=int(1000 + random.integers(ports)),
                src_port=int(random.choice([53, 40_000])),
                protocol=by,
                state=str(random.choice(["S0", "S0", "REJ", "RSTOS0", "SF", "SH"]))
                if by == TCP
                else "S0"
                if by == UDP
                else "OTH",
                lasted_us=int(random.choice([0, 3_000_000])),
                icmp_type=8 if by == ICMP else 0,
            )
        )
    return events


@settings(max_examples=60, deadline=None)
@given(histories(), st.sampled_from([60.0, 600.0, 3600.0]), st.lists(st.integers(0, 500), max_size=6))
def test_alerts_are_those_of_a_slow_truth_however_the_flows_are_cut(
    events: list[Event], quiet_s: float, cuts: list[int]
) -> None:
    truth = Truth(round(quiet_s * 1e6))
    expected = [alert for event in events for alert in truth.take(event)]
    found = rules(quiet_s)
    assert told(judged(found, events, cuts)) == expected
    counted = sum(found.counters().get(f"flows_over_rule.{rule}", 0) for rule in ("flood", "sweep"))
    alerts_tell_of = sum(alert[4] for alert in expected)  # type: ignore[misc]  # a number
    assert counted == alerts_tell_of + sum(len(pending) for pending in truth.pending.values())
    assert sum(found.alerts.values()) == len(expected)


def test_each_thing_that_is_counted_alerts() -> None:
    sweep = [Event(1, host, host * 1000) for host in range(TARGETS + 1)]
    scan = [Event(2, 1, port * 1000, port=port) for port in range(TARGETS + 1)]
    flood = [Event(3 + source, 99, source * 1000) for source in range(ATTEMPTS + 1)]
    parts = [alert[1] for events in (sweep, scan, flood) for alert in told(judged(rules(), events))]
    assert parts == ["hosts", "ports", "attempts"]


def test_a_minute_may_have_what_the_settings_say_and_no_more() -> None:
    within = [Event(1, host % TARGETS, host * 1000) for host in range(ATTEMPTS)]
    assert judged(rules(), within) == []
    later = [Event(1, host, host * MINUTE_US // TARGETS) for host in range(100)]
    assert judged(rules(), later) == []
    assert len(judged(rules(), [event._replace(at_us=event.at_us * 9 // 10) for event in later])) == 1


def test_an_alert_of_a_flood_says_who_from_how_many_and_what_the_rule_is() -> None:
    flood = [Event(source, 7, source * 100_000, state="REJ") for source in range(ATTEMPTS + 1)]
    (alert,) = judged(rules(), flood)
    assert (alert.signature, alert.category, alert.model) == ("NetSeq::Flood", "denial of service", MODEL)
    assert (alert.dest, alert.dest_port, alert.count, alert.score) == ("192.0.2.7", 80, 31, 31.0)
    assert alert.msg.startswith(
        "31 TCP attempts from about 31 addresses to 192.0.2.7 within 3 seconds came to nothing; the rule is 30 "
    )
    assert 0 < alert.per_day < 1
    assert alert.p_value == pytest.approx(alert.per_day / 1440, rel=1e-4)
    assert alert.reasons == (RuleReason(part="attempts", seen=31, most=30, sources=31, within_s=3.0),)


def test_an_alert_of_a_sweep_says_who_tried_what_and_where_last() -> None:
    (hosts,) = judged(rules(), [Event(1, host, 0, port=445) for host in range(TARGETS + 1)])
    assert (hosts.signature, hosts.category, hosts.src, hosts.dest) == (
        "NetSeq::Sweep",
        "reconnaissance",
        "10.0.0.1",
        "192.0.2.12",
    )
    assert hosts.msg.startswith("10.0.0.1 tried 445/tcp on 13 hosts within a second for nothing, the last one 192.0.2.12; ")
    (ports,) = judged(rules(), [Event(1, 9, 0, port=port, protocol=UDP) for port in range(TARGETS + 1)])
    assert ports.msg.startswith("10.0.0.1 tried 13 UDP ports of 192.0.2.9 within a second for nothing; ")
    pings = [Event(1, host, 0, protocol=ICMP, state="OTH", icmp_type=8) for host in range(TARGETS + 1)]
    assert judged(rules(), pings)[0].msg.startswith("10.0.0.1 tried ICMP echo on 13 hosts ")


@pytest.mark.parametrize(
    "harmless",
    [
        {"state": "SF"},
        {"state": "RSTO"},
        {"state": "SH"},
        {"state": "OTH"},
        {"sent": (9, 500)},  # of a connection of which only one direction is seen
        {"continued": 1},
        {"protocol": UDP, "state": "SF"},
        {"protocol": UDP, "state": "SHR"},
        {"protocol": ICMP, "state": "OTH", "icmp_type": 8, "received": 1},
        {"protocol": ICMP, "state": "OTH", "icmp_type": 3},
        {"protocol": GRE, "state": "OTH"},
    ],
)
def test_what_came_to_something_is_not_counted(harmless: dict[str, object]) -> None:
    sweep = [Event(1, host, 0, port=host)._replace(**harmless) for host in range(300)]  # type: ignore[arg-type]  # of any field
    flood = [event._replace(src=event.dst, dst=1) for event in sweep]
    assert judged(rules(), [*sweep, *flood]) == []


@pytest.mark.parametrize("group", ["239.255.255.250", "255.255.255.255", "ff02::fb"])
def test_groups_of_hosts_are_not_tried(group: str) -> None:
    flows = flows_of(Event(source, 0, 0, protocol=UDP, port=source) for source in range(300))
    flows["dst_hi"], flows["dst_lo"] = halves(group)
    assert rules().judge(flows) == []


def test_echo_requests_over_ipv6_count_too() -> None:
    flows = flows_of(Event(1, host, 0, protocol=ICMPV6, state="OTH", icmp_type=128) for host in range(TARGETS + 1))
    flows["src_hi"] = flows["dst_hi"] = 0x2001_0DB8 << 32
    (alert,) = rules().judge(flows)
    assert (alert.signature, alert.transport) == ("NetSeq::Sweep", "icmp6")


def test_many_hosts_asked_by_udp_and_late_answers_of_a_service_are_no_sweep() -> None:
    asked = [Event(1, host, 0, protocol=UDP, port=53) for host in range(300)]
    answers = [Event(1, 1, 0, protocol=UDP, src_port=53, port=1024 + port) for port in range(ATTEMPTS - 1)]
    assert judged(rules(), [*asked, *answers]) == []


def test_what_is_over_the_rule_in_the_quiet_time_is_told_with_the_next_alert() -> None:
    flood = [Event(source % 50, 7, source * 1_000_000) for source in range(4000)]  # one a second, for over an hour
    first, second = judged(rules(), flood)
    assert (first.count, second.ts_us - first.ts_us) == (31, HOUR_US)
    assert second.count > 0.9 * 3600 * (60 - ATTEMPTS) / 60
    assert second.first_seen_us >= first.ts_us
    assert "It stands for " in second.msg


def test_a_source_that_sweeps_hosts_and_ports_alerts_once() -> None:
    both = [Event(1, host, host * 1000, port=port) for host in range(20) for port in range(20)]
    assert [alert.signature for alert in judged(rules(), both)].count("NetSeq::Sweep") == 1


def test_a_flood_of_other_addresses_does_not_push_a_sweeping_host_out() -> None:
    small = rules(victims=64, sources=256)
    flood = [Event(1000 + number, 7, number * 1000) for number in range(50_000)]  # 50 s, no source twice
    sweep = [Event(1, host, 100 + host * 3_000_000, port=22) for host in range(TARGETS + 6)]  # one host in 3 s
    alerts = judged(small, sorted([*flood, *sweep], key=lambda event: event.at_us))
    assert [(alert.signature, alert.src) for alert in alerts if alert.signature == "NetSeq::Sweep"] == [
        ("NetSeq::Sweep", "10.0.0.1")
    ]
    assert [alert.dest for alert in alerts if alert.signature == "NetSeq::Flood"] == ["192.0.2.7"]


def test_sources_that_come_once_push_out_only_their_own_kind_and_are_counted() -> None:
    small = rules(victims=64, sources=256)
    known = [Event(1, host, host, port=22) for host in range(TARGETS - 1)]  # enough to be kept
    spray = [Event(1000 + number, 1000 + number, 1000 + number) for number in range(20_000)]
    alerts = judged(small, [*known, *spray, Event(1, 100, 30_000, port=22), Event(1, 101, 30_001, port=22)])
    assert [(alert.signature, alert.src) for alert in alerts] == [("NetSeq::Sweep", "10.0.0.1")]
    shed = small.counters()["rules_shed"]
    assert 2 * 20_000 < shed < 3 * 20_000  # two rows of a source and one of a victim each, but for those still there


def test_every_source_is_found_again_while_the_table_has_room() -> None:
    many = rules(victims=4096, sources=4096)
    rounds = [Event(source, host, host, port=22) for host in range(TARGETS + 1) for source in range(150)]
    alerts = judged(many, rounds)
    assert len({alert.src for alert in alerts if alert.signature == "NetSeq::Sweep"}) == 150
    assert "rules_shed" not in many.counters()


def test_the_number_of_sources_is_about_right_beyond_what_is_kept() -> None:
    which = Rules(flood_attempts=20_000, sweep_targets=90)
    (alert,) = judged(which, [Event(number % 15_000, 7, number) for number in range(20_001)])
    (reason,) = alert.reasons
    assert isinstance(reason, RuleReason)
    assert reason.sources == pytest.approx(15_000, rel=0.15)


def test_restored_rules_keep_quiet_times_and_what_is_pending() -> None:
    flood = [Event(source, 7, source) for source in range(100)]
    before, after = rules(), Rules(flood_attempts=ATTEMPTS, sweep_targets=200)  # of another size, and another secret
    assert len(judged(before, flood)) == 1
    after.restore(before.state())
    assert after.counters() == before.counters()
    again = [event._replace(at_us=event.at_us + 10 * MINUTE_US) for event in flood]
    assert judged(after, again) == []
    (alert,) = judged(after, [event._replace(at_us=event.at_us + HOUR_US + 1) for event in flood])
    assert alert.count == (100 - ATTEMPTS - 1) + 100 + (ATTEMPTS + 1)


def test_counters_have_names_of_the_table() -> None:
    small = rules(victims=64, sources=64)
    judged(small, [Event(source, 7 + source % 90, source) for source in range(5000)])
    judged(small, [Event(1, host, 6000 + host) for host in range(100)])
    assert {split(name)[0].name for name in small.counters()} == {"alerts_by_rule", "flows_over_rule", "rules_shed"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"flood_attempts": 0},
        {"sweep_targets": 0},
        {"sweep_targets": 65_536},
        {"quiet_s": -1.0},
        {"victims": 10},
        {"sources": 10},
    ],
)
def test_settings_that_cannot_be_meant_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must"):
        Rules(**{"flood_attempts": 10, "sweep_targets": 10, **wrong})


def test_the_largest_settings_fit_and_count() -> None:
    which = Rules(flood_attempts=10**9, sweep_targets=65_535, sources=1 << 17)
    assert judged(which, [Event(1, 1, port, port=port) for port in range(65_536)])[0].score == 65_536


@pytest.mark.parametrize("far_us", [-(1 << 63), (1 << 63) - 1])
def test_broken_times_are_no_end_of_a_rule(far_us: int) -> None:
    which = rules()
    flows = flows_of(Event(source, 7, source) for source in range(200))
    flows["last_us"][:100:3] = far_us
    flows["first_us"][1:100:3] = far_us
    which.judge(flows)
    assert which.counters()["alerts_by_rule.flood"] >= 1


@pytest.mark.parametrize("room", [1 << 20, 4096])
def test_a_flood_of_packets_alerts_within_ten_seconds_of_packet_time(tmp_path: Path, room: int) -> None:
    """Flows of an unanswered SYN end after 5 s, or at once where the flow table is full."""
    path, contents = synthetic.write(synthetic.Flood(flows=60_000, flows_per_s=5_000), tmp_path)
    assembly = Assembly(config.load(None, [f"flows.table={room}"]))
    which = Rules(flood_attempts=6_000, sweep_targets=90)
    clock_us = 0
    for block in CaptureSource([path], block_frames=512):
        clock_us = int(block.frames["ts_us"][-1])
        alerts = [alert for batch in assembly.feed(block) for alert in which.judge(batch.flows)]
        if alerts:
            break
    assert [(alert.signature, alert.dest) for alert in alerts] == [("NetSeq::Flood", "198.19.0.1")]
    assert clock_us - contents.first_us < 10_000_000
    assert bool(assembly.table.ended[END_FULL]) == (room == 4096)


@pytest.mark.parametrize("most", [1, 2, 3, 8])
def test_the_smallest_settings_count_as_well(most: int) -> None:
    which = Rules(flood_attempts=10**9, sweep_targets=most, quiet_s=3600.0)
    alerts = judged(which, [Event(1, 100 + host, host) for host in range(40)])
    assert [alert.signature for alert in alerts] == ["NetSeq::Sweep"]
    assert alerts[0].score == most + 1


def test_an_hour_has_so_many_alerts_at_most_and_the_rest_is_counted() -> None:
    which = Rules(flood_attempts=10**9, sweep_targets=3, quiet_s=3600.0, sources=1 << 14)
    forged = [Event(source, 100 + host, source * 1000 + host) for source in range(ALERTS_AN_HOUR + 50) for host in range(4)]
    assert len(judged(which, forged)) == ALERTS_AN_HOUR
    assert which.counters()["rule_alerts_capped"] == 50
    later = [Event(9999, 100 + host, 2 * HOUR_US + host) for host in range(4)]
    assert len(judged(which, later)) == 1
