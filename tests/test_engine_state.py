"""A reload: another judge, with other settings or another model, takes over what the one before remembers."""

from __future__ import annotations

import dataclasses
from functools import cache

import msgspec
import numpy as np
import pytest
import torch
from test_engine import SLOTS, SMALL, calibrated, flows, model
from test_engine_flows import multiflow

from models import identity
from models.checkpoint import Bundle
from models.multiflow_checkpoint import FlowBundle
from sensor import config, metrics
from sensor.engine import Judge
from sensor.schema import Alert, FlowBatch

BATCH = 32
OTHERS = {"name": "office", "version": "2"}


def judge(*changes: str, table: int = SLOTS, words: Bundle | None = None, last_flows: FlowBundle | None = None) -> Judge:
    settings = config.load(None, [*SMALL, *changes])
    settings = msgspec.structs.replace(settings, conversations=config.Conversations(table=table))
    return Judge(settings, words or model(), last_flows, device=torch.device("cpu"))


def batches() -> list[FlowBatch]:
    return [FlowBatch(flows()[at : at + BATCH]) for at in range(0, len(flows()), BATCH)]


def judged(one: Judge, some: list[FlowBatch]) -> list[Alert]:
    return [alert for batch in some for alert in one.judge(batch)]


def half() -> int:
    return len(batches()) // 2


@cache
def other() -> Bundle:
    """The same vocabulary and calibration with other weights."""
    changed = dataclasses.replace(model().weights, bias=model().weights.bias + 0.5)
    return dataclasses.replace(model(), weights=changed, manifest=msgspec.structs.replace(model().manifest, **OTHERS))


@pytest.mark.parametrize("last_flows", [None, "pair", "host"])
def test_a_reload_of_the_same_changes_no_alert_and_no_counter(last_flows: str | None) -> None:
    flow_model = multiflow(last_flows) if last_flows else None
    whole, one = judge(last_flows=flow_model), judge(last_flows=flow_model)
    alerts = []
    for batch in batches():
        alerts += one.judge(batch)
        after = judge(last_flows=flow_model)
        assert after.adopt(one) == []
        one = after
    assert alerts == judged(whole, batches())
    assert one.counters() == whole.counters()


def test_a_reload_takes_no_memory_that_the_one_before_had_not() -> None:
    one = judge()
    judged(one, batches())
    for _ in range(3):
        after = judge()
        after.adopt(one)
        assert len(after.rooms) == 1
        one = after


def test_a_changed_budget_and_quiet_time_take_effect_at_once() -> None:
    before = judge()
    judged(before, batches()[: half()])
    strict, loud = judge("detect.max_p=1e-300"), judge("detect.quiet_s=0", "detect.budget_per_day=1000000")
    for after in (strict, loud):
        assert after.adopt(before) == []
        assert after.detector.rate() == before.detector.rate()
    rest = batches()[half() :]
    assert judged(strict, rest) == []
    ordinary = judged(before, rest)
    assert len(judged(loud, rest)) > len(ordinary) > 0


def test_quiet_times_outlive_a_reload_and_a_longer_one_is_heeded() -> None:
    before = judge()
    assert judged(before, batches())
    fresh, after, longer = judge(), judge(), judge("detect.quiet_s=2000000")
    for one in (after, longer):
        one.adopt(before)
    later = flows().copy()
    for name in ("first_us", "last_us"):
        later[name] += 3 * 3600 * 1_000_000  # a second day, as far as quiet times go
    again = [FlowBatch(later[at : at + BATCH]) for at in range(0, len(later), BATCH)]
    assert len(judged(fresh, again)) >= len(judged(after, again)) > 0
    assert judged(longer, again) == []


def test_another_model_keeps_conversations_and_quiet_times_and_says_what_begins_anew() -> None:
    before, after, same = judge(), judge(words=other()), judge()
    judged(before, batches())
    (line,) = after.adopt(before)
    assert line == "office 2 goes on with the pairs and quiet times of example 1; what it reads of them begins anew"
    assert after.counters() == before.counters()
    assert after.detector.rate() == before.detector.rate()
    assert not after.conversations.turn(flows()).restart[: len(flows()) // 2].all()
    same.adopt(before)
    assert not np.array_equal(same.scorer.state()["state"].numpy(), after.scorer.state()["state"].numpy())
    unquiet, quiet = judge(words=other()), judge(words=other())
    quiet.adopt(before)
    assert {(one.src, one.dest) for one in judged(before, batches())} == set()  # in quiet time, or no higher than before
    assert len(judged(quiet, batches())) < len(judged(unquiet, batches()))


def test_a_model_calibrated_anew_keeps_everything() -> None:
    manifest = msgspec.structs.replace(model().manifest, version="2")
    before = judge()
    judged(before, batches()[: half()])
    after = judge(words=calibrated(dataclasses.replace(model(), manifest=manifest), model().calibration.verdicts + 100.0))
    assert after.adopt(before) == []
    assert judged(after, batches()[half() :]) == []


def test_a_smaller_table_is_said() -> None:
    before, after = judge(), judge(table=16)
    judged(before, batches())
    live = before.conversations.live
    assert after.adopt(before) == [f"{live - 16} of {live} pairs are forgotten: conversations.table is 16 now"]
    assert after.conversations.live == 16
    assert judged(after, batches())


def test_multi_flow_models_come_change_and_go_and_no_counter_falls() -> None:
    one, lines, alerts = judge(), list[str](), 0
    steps = [multiflow("pair"), multiflow("host"), None, multiflow("host"), None]
    for number, flow_model in enumerate(steps):
        alerts += len(judged(one, batches()[number::5]))
        after = judge(last_flows=flow_model)
        lines += after.adopt(one)
        for name, value in one.counters().items():
            if not metrics.split(name)[0].gauge:
                assert after.counters()[name] >= value, name
        one = after
    assert one.counters()["alerts_raised"] == alerts > 0
    assert lines == [
        "last-flows 1 begins without memory: no such model ran before",
        "last-flows 1 begins without memory: last-flows 1 remembered pairs, it reads hosts",
        "last-flows 1 is not used any more: what it remembered is gone",
        "last-flows 1 begins without memory: no such model ran before",
        "last-flows 1 is not used any more: what it remembered is gone",
    ]


def test_what_a_model_is_depends_on_what_its_states_depend_on_alone() -> None:
    manifest = model().manifest
    spread = dataclasses.replace(
        model(), manifest=msgspec.structs.replace(manifest, spread=tuple(x + 1 for x in manifest.spread))
    )
    named = dataclasses.replace(model(), manifest=msgspec.structs.replace(manifest, name="x", command="netseq-train"))
    assert identity.of_words(model()) == identity.of_words(named)
    assert len({identity.of_words(one) for one in (model(), spread, other())}) == 3
    assert identity.of_flows(multiflow("pair")) != identity.of_flows(multiflow("host"))
