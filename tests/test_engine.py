"""The engine whole, with a tiny model made here: alerts do not depend on how the input is cut, and no packet is lost.

The traffic is the capture that the demonstration replays. The model learned its vocabulary and counts from the first half of
its flows; its LSTM is untrained, which takes nothing from what is tested: that the parts are joined rightly.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from functools import cache

import msgspec
import numpy as np
import pytest
import torch
from conftest import DATA
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_flows import Packet, rows_of
from numpy.typing import NDArray

from models import verdict
from models.calibrate import calibrate, unknown
from models.checkpoint import Bundle, Manifest, ModelDoesNotFit
from models.frequency import Counts
from models.resident import Scorer
from models.words import Folded, Shape, WordLSTM
from sensor import config, metrics
from sensor.addresses import text
from sensor.conversations import Conversations
from sensor.detect_rules import MODEL
from sensor.engine import Engine
from sensor.flows import FlowTable
from sensor.schema import FLOW, FRAME, UDP, Alert, FlowBatch, FrameBlock
from sensor.sources.pcap import CaptureSource
from sensor.vocabulary import VocabularyDoesNotFit
from sensor.words import Vocabulary

SLOTS = 512
SMALL = (f"conversations.table={SLOTS}", "flows.table=4096", "model.device=cpu", "model.batch_flows=32")


@cache
def traffic() -> FrameBlock:
    """All frames of the demonstration's capture in one block."""
    data, frames, size = [], [], 0
    for block in CaptureSource([DATA / "demo.pcap.gz"]):
        data.append(block.data.copy())
        frames.append(block.frames.copy())
        frames[-1]["offset"] += size
        size += len(block.data)
    return FrameBlock(np.concatenate(data), np.concatenate(frames))


def engine(*changes: str, bundle: Bundle | None = None) -> Engine:
    return Engine(config.load(None, [*SMALL, *changes]), bundle or model(), device=torch.device("cpu"))


@cache
def flows() -> NDArray[np.void]:
    """All flows of the traffic, in the order in which they end."""
    assembly = engine(bundle=calibrated(untrained(np.zeros(1, FLOW)), np.arange(100.0))).assembly
    batches = [*assembly.feed(traffic()), *assembly.drain()]
    return np.concatenate([batch.flows for batch in batches])


def untrained(learned_from: NDArray[np.void]) -> Bundle:
    """A model that knows the services and sizes of these flows, with an LSTM that knows nothing."""
    vocabulary = Vocabulary.learn([learned_from], min_count=2)
    sizes = vocabulary.sizes()
    words = vocabulary.words(learned_from, Conversations(conversations=SLOTS).turn(learned_from))
    first = vocabulary.parts[0]
    manifest = Manifest(
        name="example",
        version="1",
        parts=vocabulary.parts,
        sizes=sizes,
        units=8,
        head=8,
        vocabulary=vocabulary.to_json(),
        spread=tuple(math.log(members) for members in vocabulary.members(first)),
        unlearned=tuple(vocabulary.unlearned(first).tolist()),
        source_kind="captures",
    )
    torch.manual_seed(1)
    lstm = WordLSTM(Shape(sizes, manifest.units, manifest.head)).eval()
    return Bundle(manifest, lstm, Counts.of(words, sizes), verdict.plain(len(sizes)), unknown())


def calibrated(bundle: Bundle, benign: NDArray[np.float64]) -> Bundle:
    return dataclasses.replace(bundle, calibration=calibrate(benign, days=10.0))


@cache
def model() -> Bundle:
    """Made from the first half of the flows, and calibrated so that the few most surprising of them all alert."""
    bundle = untrained(flows()[: len(flows()) // 2])
    vocabulary = Vocabulary.from_json(bundle.manifest.vocabulary)
    turns = Conversations(conversations=SLOTS).turn(flows())
    scorer = Scorer(bundle, conversations=SLOTS, device=torch.device("cpu"))
    scored = scorer.score(vocabulary.words(flows(), turns), turns.slots, turns.restart, turns.hour, explain_p=0.0)
    middle = float(np.median(scored.verdict))
    return calibrated(bundle, np.random.default_rng(1).normal(middle, 1.0, 5000))


def in_blocks(engine: Engine, cuts: list[int]) -> list[Alert]:
    """Feed the traffic cut at these frames, and drain."""
    data, frames = traffic()
    bounds = sorted({0, len(frames), *(cut % len(frames) for cut in cuts)})
    alerts = [alert for a, b in itertools.pairwise(bounds) for alert in engine.feed(FrameBlock(data, frames[a:b]))]
    return alerts + engine.drain()


@cache
def replayed() -> tuple[tuple[Alert, ...], dict[str, int]]:
    """Alerts and counters of the traffic in one block."""
    whole = engine()
    return tuple(in_blocks(whole, [])), whole.counters()


def test_the_traffic_has_something_to_alert_on() -> None:
    alerts, counters = replayed()
    assert 3 <= len(alerts) == counters["alerts_raised"] < len(flows()) / 4
    assert all(alert.reasons and alert.p_value < 0.002 for alert in alerts)


@settings(max_examples=5, deadline=None)
@given(st.lists(st.integers(0, 2**20), max_size=40))
def test_alerts_do_not_depend_on_the_size_of_the_blocks(cuts: list[int]) -> None:
    pieces = engine()
    assert (tuple(in_blocks(pieces, cuts)), pieces.counters()) == replayed()


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_alerts_are_the_same_frame_by_frame(size: int) -> None:
    pieces = engine()
    assert (tuple(in_blocks(pieces, list(range(0, len(traffic().frames), size)))), pieces.counters()) == replayed()


def test_alerts_do_not_depend_on_how_many_flows_are_scored_at_once() -> None:
    """But for the last digits, since floats are added in another order."""

    def told(alerts: list[Alert] | tuple[Alert, ...]) -> list[tuple[object, ...]]:
        return [(a.ts_us, a.src, a.src_port, a.dest, a.dest_port, a.count, [r.part for r in a.reasons]) for a in alerts]

    alerts, counters = replayed()
    for batch_flows in (1, 5, 4096):
        other = engine(f"model.batch_flows={batch_flows}", "model.rounds=100000")
        again = in_blocks(other, [])
        assert told(again) == told(alerts)
        assert [a.verdict for a in again] == pytest.approx([a.verdict for a in alerts], rel=1e-3)
        assert other.counters() == counters


def test_every_packet_is_in_a_flow_or_counted_as_skipped() -> None:
    other = engine()
    data, frames = traffic()
    odd = frames.copy()
    odd["captured_bytes"][::11] = 9  # cut short
    odd["link_type"][::13] = 147  # nobody's
    other.feed(FrameBlock(data, odd))
    other.drain()
    for counters in (replayed()[1], other.counters()):
        assert counters["packets_read"] == len(frames)
        assert counters["packets_read"] == counters["packets_in_flows"] + metrics.total(counters, "packets_skipped")
        assert metrics.total(counters, "flows_ended") == counters["words_scored"]
    assert other.counters()["link_types_unknown.147"] == len(frames[::13])
    assert metrics.total(other.counters(), "packets_skipped") >= len(frames[::11])


def test_packets_in_flows_are_those_of_the_flows() -> None:
    packets = flows()["fwd"]["packets"] + flows()["bwd"]["packets"]
    assert packets.sum() == replayed()[1]["packets_in_flows"]


def test_every_flow_over_the_threshold_is_raised_suppressed_or_untold() -> None:
    whole = engine("detect.budget_per_day=1000000", "model.batch_flows=4096")  # so that max_p is the threshold all along
    alerts, bundle = in_blocks(whole, []), model()
    vocabulary = Vocabulary.from_json(bundle.manifest.vocabulary)
    turns = Conversations(conversations=SLOTS).turn(flows())
    scorer = Scorer(bundle, conversations=SLOTS, device=torch.device("cpu"))
    scored = scorer.score(vocabulary.words(flows(), turns), turns.slots, turns.restart, turns.hour, explain_p=0.0)
    over = int((scored.p_value <= whole.judge.detector.max_p).sum())
    counters = whole.counters()
    raised, suppressed, untold = (counters[f"alerts_{fate}"] for fate in ("raised", "suppressed", "untold"))
    assert min(raised, untold) > 0
    assert raised + suppressed + untold == over
    assert raised + suppressed == sum(alert.count for alert in alerts)


def test_every_counter_has_a_meaning() -> None:
    for name in replayed()[1]:
        assert metrics.split(name)[0].meaning


def test_drain_leaves_nothing() -> None:
    drained = engine("model.batch_flows=4096")
    drained.feed(traffic())
    assert drained.counters()["words_scored"] == 0
    assert drained.counters()["flows_live"] > 0
    drained.drain()
    assert drained.counters()["flows_live"] == 0
    assert drained.counters()["words_scored"] == len(flows())
    before = drained.counters()
    assert drained.drain() == []
    assert drained.counters() == before


def test_tick_ends_what_is_due_and_scores_what_has_gathered() -> None:
    live = engine("model.batch_flows=4096")
    assert live.feed(traffic()) == []
    last_us = int(traffic().frames["ts_us"].max())
    ended = metrics.total(live.counters(), "flows_ended")
    first = live.tick(last_us)
    assert live.counters()["words_scored"] == ended > 0
    assert live.counters()["flows_live"] > 0
    alerts = first + live.tick(last_us + 121_000_000)
    assert live.counters()["flows_live"] == 0
    assert live.counters()["words_scored"] == len(flows())
    assert {(a.src, a.dest, a.dest_port) for a in alerts} == {(a.src, a.dest, a.dest_port) for a in replayed()[0]}
    assert live.tick(last_us + 200_000_000) == live.drain() == []


def test_tick_of_an_idle_engine_does_nothing() -> None:
    idle = engine()
    assert idle.tick(1) == idle.drain() == []
    assert not any(idle.counters().values())


def test_flows_of_a_log_give_the_alerts_of_the_packets() -> None:
    from_log = engine()
    alerts = [alert for at in range(0, len(flows()), 50) for alert in from_log.feed(FlowBatch(flows()[at : at + 50]))]
    assert tuple(alerts + from_log.drain()) == replayed()[0]
    counters = from_log.counters()
    assert counters["flows_ended.log"] == counters["words_scored"] == len(flows())
    assert counters["packets_read"] == counters["packets_in_flows"] == 0


def test_uids_reach_the_alerts_of_their_flows() -> None:
    uids = [f"C{number}" for number in range(len(flows()))]
    from_log = engine()
    alerts = [
        alert
        for at in range(0, len(uids), 45)  # beside the batches' 32
        for alert in from_log.feed(FlowBatch(flows()[at : at + 45], uids[at : at + 45]))
    ]
    alerts += from_log.drain()
    assert [told_of(alert) for alert in alerts] == [told_of(alert) for alert in replayed()[0]]
    for alert in alerts:
        assert alert.uid is not None
        row = flows()[int(alert.uid[1:])]
        ends = [text(int(row[f"{end}_hi"]), int(row[f"{end}_lo"])) for end in ("src", "dst")]
        assert [alert.ts_us, alert.src, alert.dest] == [int(row["last_us"]), *ends]
    assert all(alert.uid is None for alert in replayed()[0])


def told_of(alert: Alert) -> tuple[int, str, str, float]:
    """What tells an alert, without its uid."""
    return alert.ts_us, alert.src, alert.dest, alert.verdict


def test_model_without_calibration_is_refused_in_one_line() -> None:
    bundle = dataclasses.replace(model(), calibration=unknown())
    with pytest.raises(ModelDoesNotFit, match=r"^example 1 is not calibrated: [^\n]+$"):
        engine(bundle=bundle)


def test_no_alert_claims_to_be_rarer_than_the_models_sample_can_tell() -> None:
    bundle = calibrated(model(), model().calibration.verdicts[:200])
    small = engine(bundle=bundle)
    alerts = in_blocks(small, [])
    assert min(alert.p_value for alert in alerts) == pytest.approx(1 / (10 * 201), rel=1e-5)
    assert all(alert.severity != "critical" for alert in alerts)


def test_model_with_a_vocabulary_of_another_netseq_is_refused_in_one_line() -> None:
    manifest = msgspec.structs.replace(model().manifest, vocabulary={"version": 99})
    with pytest.raises(VocabularyDoesNotFit, match=r"^[^\n]+$"):
        engine(bundle=dataclasses.replace(model(), manifest=manifest))


def with_parts(parts: tuple[str, ...], sizes: tuple[int, ...]) -> Bundle:
    return dataclasses.replace(model(), manifest=msgspec.structs.replace(model().manifest, parts=parts, sizes=sizes))


def refused_for_its_vocabulary(bundle: Bundle) -> None:
    with pytest.raises(ModelDoesNotFit, match=r"^example 1: its vocabulary speaks service [^\n]+ again$"):
        engine(bundle=bundle)


def test_model_whose_parts_stand_in_another_order_than_its_vocabularys_is_refused_in_one_line() -> None:
    manifest = model().manifest
    sent, received = manifest.parts.index("sent"), manifest.parts.index("received")
    swapped = list(manifest.parts)
    swapped[sent], swapped[received] = "received", "sent"
    assert manifest.sizes[sent] == manifest.sizes[received]  # so that only the names tell
    refused_for_its_vocabulary(with_parts(tuple(swapped), manifest.sizes))


@pytest.mark.parametrize("more", [-1, 1, 2])
def test_model_with_more_or_fewer_services_than_its_vocabulary_is_refused_in_one_line(more: int) -> None:
    parts, sizes = model().manifest.parts, model().manifest.sizes
    refused_for_its_vocabulary(with_parts(parts, (sizes[0] + more, *sizes[1:])))


def test_model_with_fewer_parts_than_its_vocabulary_is_refused_in_one_line() -> None:
    refused_for_its_vocabulary(with_parts(model().manifest.parts[:-1], model().manifest.sizes[:-1]))


def flood(count: int) -> NDArray[np.void]:
    """One-packet flows between two hosts, each from a port of its own."""
    table = FlowTable()
    table.feed(rows_of([Packet(1_700_000_000_000_000 + n, 1, 2, n, 9, UDP) for n in range(count)]))
    parts = [np.zeros(0, FLOW)]
    while len(part := table.drain()):
        parts.append(part.copy())
    return np.concatenate(parts)


def test_flood_of_one_pair_is_shed_and_counted() -> None:
    flooded = engine("model.rounds=4", "model.batch_flows=32")
    flooded.feed(FlowBatch(flood(640)))
    flooded.drain()
    counters = flooded.counters()
    assert counters["words_scored"] == 640
    assert counters["words_shed"] == 640 - 640 // 32 * 4
    assert counters["conversations_started"] == counters["conversations_live"] == 1
    assert replayed()[1]["words_shed"] == 0


def steps_of(flows: NDArray[np.void], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many conversations each step of the LSTM advances, when these flows are judged in one batch by default settings."""
    widths: list[int] = []
    step = Folded.step

    def counted(self: Folded, read: torch.Tensor, hidden: torch.Tensor, cell: torch.Tensor) -> None:
        widths.append(len(read))
        step(self, read, hidden, cell)

    judge = Engine(config.load(None, ["model.device=cpu"]), model(), device=torch.device("cpu")).judge
    with monkeypatch.context() as patched:
        patched.setattr(Folded, "step", counted)
        judge.judge(FlowBatch(flows))
    return widths


def test_flood_of_one_pair_costs_a_batch_at_most_ten_times_the_steps_of_ordinary_traffic(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Steps follow one another, so their number and their widths are what a batch costs the LSTM."""
    ordinary = flood(2048)
    random = np.random.default_rng(1)
    ordinary["src_lo"] = random.integers(1, 683, len(ordinary))  # three flows to a pair, as in docs/models.md
    usual, flooded = steps_of(ordinary, monkeypatch), steps_of(flood(2048), monkeypatch)
    assert sum(usual) == 2048
    assert len(flooded) <= 10 * len(usual)
    assert sum(flooded) <= sum(usual)


def test_full_tables_are_counted() -> None:
    small = engine("conversations.table=64", "flows.table=64")
    crowd = FlowTable(flows=1024)
    crowd.feed(rows_of([Packet(1_700_000_000_000_000 + n, n, 1 << 40, 1, 9, UDP) for n in range(200)]))
    small.feed(FlowBatch(crowd.drain()))
    small.drain()
    counters = small.counters()
    assert counters["conversations_live"] == 64
    assert counters["conversations_evicted"] == 200 - 64
    data, frames = traffic()
    at_once = frames.copy()
    at_once["ts_us"] = frames["ts_us"][0]
    small.feed(FrameBlock(data, at_once))
    small.drain()
    counters = small.counters()
    assert counters["flows_evicted"] == counters["flows_ended.full"] > 0
    assert counters["packets_read"] == counters["packets_in_flows"] + metrics.total(counters, "packets_skipped")


def test_empty_input_gives_nothing() -> None:
    idle = engine()
    assert idle.feed(FrameBlock(np.zeros(0, np.uint8), np.zeros(0, FRAME))) == []
    assert idle.feed(FlowBatch(np.zeros(0, FLOW))) == idle.drain() == []
    assert not any(idle.counters().values())


def test_fixed_rules_alert_beside_the_models_and_change_none_of_their_alerts() -> None:
    alerts, _ = replayed()
    strict = engine("rules.sweep_targets=1", "rules.flood_attempts=5")
    both = in_blocks(strict, [])
    by_rule = [alert for alert in both if alert.model == MODEL]
    assert [alert.msg for alert in both if alert.model != MODEL] == [alert.msg for alert in alerts]
    assert "NetSeq::Sweep" in {alert.signature for alert in by_rule}
    assert metrics.total(strict.counters(), "alerts_by_rule") == len(by_rule)
