from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from flow_examples import QUICK, SHAPE, learnable, trainer_of

from models.flowset import UNJUDGED, honest
from models.multiflow import CLOSED
from models.multiflow_train import Measured, Settings, Trainer, class_weights, temperature
from models.together import Together
from models.unfinished import Passed

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small matrices gain nothing from threads, and on a busy machine the threads wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def weights_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def same(one: Trainer, other: Trainer) -> bool:
    return all(torch.equal(tensor, weights_of(other)[name]) for name, tensor in weights_of(one).items())


@pytest.mark.parametrize("weights", ["capped", "balanced", "none"])
def test_classes_that_differ_are_learned(weights: str) -> None:
    told: list[Passed] = []
    trainer = trainer_of(dataclasses.replace(QUICK, epochs=12, weights=weights))  # type: ignore[arg-type]  # parametrised
    history = trainer.run(told.append)
    assert history == told
    tested = trainer.measure(trainer.split.test)
    assert tested.accuracy > 0.9
    assert tested.macro_f1 > 0.8
    assert tested.confusion.sum() == len(trainer.split.test)
    best = [epoch.validation_nats for epoch in history if epoch.best][-1]
    assert trainer.measure(trainer.split.validation).nats == pytest.approx(best, abs=1e-6)


def test_the_same_seed_gives_the_same_weights_to_the_bit_and_another_seed_others() -> None:
    settings = dataclasses.replace(QUICK, epochs=1, dropout=0.2)
    one, again, other = (trainer_of(dataclasses.replace(settings, seed=seed)) for seed in (1, 1, 2))
    for trainer in (one, again, other):
        trainer.run()
    assert same(one, again)
    assert not same(one, other)


@pytest.mark.parametrize("weights", ["capped", "balanced"])
def test_going_on_from_a_checkpoint_is_an_uninterrupted_training_to_the_bit(weights: str, tmp_path: Path) -> None:
    settings = dataclasses.replace(QUICK, epochs=4, dropout=0.2, weights=weights)  # type: ignore[arg-type]  # parametrised
    whole, first, second = (trainer_of(settings) for _ in range(3))

    def stop(epoch: Passed) -> None:
        if epoch.number == 2:
            raise KeyboardInterrupt

    history = whole.run()
    with pytest.raises(KeyboardInterrupt):
        first.run(stop, tmp_path / "checkpoint")
    went_on: list[Passed] = []
    assert second.run(went_on.append, tmp_path / "checkpoint", resume=True) == history
    assert [epoch.number for epoch in went_on] == [3, 4]
    assert same(whole, second)
    assert second.temperature() == whole.temperature()
    finished = trainer_of(settings)
    assert finished.run(stop, tmp_path / "checkpoint", resume=True) == history  # nothing is left to do
    assert same(whole, finished)


def test_training_stops_when_held_back_flows_are_judged_no_better() -> None:
    flows = learnable(300)
    noise = flows._replace(label=np.random.default_rng(1).integers(0, 3, 300))
    trainer = trainer_of(dataclasses.replace(QUICK, epochs=40, patience=2), noise)
    history = trainer.run()
    assert len(history) < 40
    assert [epoch.best for epoch in history[-2:]] == [False, False]
    assert history[-3].best


def test_the_learning_rate_rises_and_falls() -> None:
    trainer = trainer_of()
    seen = []
    for step in range(100):
        trainer._set_rate(step, 100)
        seen.append(trainer._optimiser.param_groups[0]["lr"])
    assert np.argmax(seen) in {4, 5}
    assert max(seen) == pytest.approx(QUICK.rate)
    assert seen[0] == pytest.approx(QUICK.rate / 5)
    assert seen[-1] == pytest.approx(QUICK.rate * QUICK.least_rate, rel=0.1)
    assert (np.diff(seen[5:]) < 0).all()


def test_weights_of_rare_classes_stop_at_the_cap() -> None:
    counts = np.array([1000, 500, 10, 0])
    assert class_weights(counts, Settings()).tolist() == [1, 2, 10, 0]
    assert class_weights(counts, Settings(weights="balanced")).tolist() == [1, 2, 10, 0]
    assert class_weights(counts, Settings(weights="none")).tolist() == [1, 1, 1, 0]


def test_balanced_batches_hold_all_classes_alike_and_the_others_every_row_once() -> None:
    flows = learnable()
    for weights, expected in (("balanced", [1 / 3, 1 / 3, 1 / 3]), ("capped", None)):
        trainer = trainer_of(dataclasses.replace(QUICK, weights=weights), flows)  # type: ignore[arg-type]  # a plain loop
        rows = torch.cat(list(trainer._batches(1))).numpy()
        if expected:
            assert np.bincount(flows.label[rows]) / len(rows) == pytest.approx(expected, abs=0.08)
        else:
            assert sorted(rows.tolist()) == trainer.split.training.tolist()
        assert set(rows.tolist()) <= set(trainer.split.training.tolist())


def test_scale_and_weights_come_of_the_training_rows_alone() -> None:
    flows = learnable()
    split = honest(flows)
    one = trainer_of(flows=flows, split=split)
    rows = flows.rows.copy()
    rows[split.test] = 1e9
    rows[split.validation] = np.nan
    other = trainer_of(flows=flows._replace(rows=rows), split=split)
    assert (one.scale.centre == other.scale.centre).all()
    assert (one.scale.spread == other.scale.spread).all()
    assert one.run()[0].train_nats == other.run()[0].train_nats


def test_rows_that_nobody_judged_are_context_in_the_windows() -> None:
    flows = learnable()
    label = flows.label.copy()
    label[::3] = UNJUDGED
    trainer = trainer_of(flows=flows._replace(label=label))
    rows, lengths = trainer._gathered(torch.from_numpy(trainer.split.training))
    assert not {*trainer.split.training.tolist()} & {*range(0, len(label), 3)}
    last = torch.from_numpy(flows.rows[trainer.split.training])
    assert torch.equal(rows[:, -1].nan_to_num(), last.nan_to_num())
    assert (lengths == SHAPE.flows).float().mean() > 0.4
    trainer.run()


@pytest.mark.parametrize("mixed", ["never", "always"])
def test_a_class_without_a_flow_to_train_on_is_never_told(mixed: str) -> None:
    flows = learnable()
    split = honest(flows)
    of_two = split.training[flows.label[split.training] != 2]
    settings = dataclasses.replace(QUICK, mixed=mixed)  # type: ignore[arg-type]  # parametrised
    without = split._replace(training=of_two, validation=np.concatenate([split.validation, split.test]))
    trainer = Trainer(flows, without, SHAPE, settings)
    history = trainer.run()
    assert (flows.label[without.validation] == 2).any()
    assert trainer.measure(without.validation).confusion[:, 2].sum() == 0
    assert all(math.isfinite(passed.validation_nats or math.nan) for passed in history)
    known = without.validation[flows.label[without.validation] != 2]
    assert trainer.temperature() == temperature(trainer.logits(known), flows.label[known])
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        bias = trainer.model.out.bias.to(dtype)
        assert bias.isfinite().all()
        probability = torch.softmax(torch.from_numpy(trainer.logits(without.validation)).to(dtype) / 4, dim=1)
        assert (probability[:, 2] == 0).all()


def test_a_class_without_a_flow_does_not_keep_the_others_from_being_learned() -> None:
    flows = learnable()
    settings = dataclasses.replace(QUICK, epochs=12)
    of_four = Trainer(flows, honest(flows), dataclasses.replace(SHAPE, classes=4), settings)
    of_four.run()
    logits = of_four.logits(of_four.split.test)
    assert (logits[:, 3] == CLOSED).all()
    assert of_four.measure(of_four.split.test).accuracy > 0.9


def test_bfloat16_learns_as_well() -> None:
    trainer = trainer_of(dataclasses.replace(QUICK, epochs=8, mixed="always"))
    trainer.run()
    assert trainer.measure(trainer.split.test).accuracy > 0.9


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_it_learns_in_bfloat16_and_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    flows, settings = learnable(), dataclasses.replace(QUICK, epochs=8)
    there = Together(device=torch.device("cuda"))
    trainer = Trainer(flows, honest(flows), SHAPE, settings, together=there)
    history = trainer.run(checkpoint=tmp_path / "checkpoint")
    assert trainer.measure(trainer.split.test).accuracy > 0.9
    again = Trainer(flows, honest(flows), SHAPE, settings, together=there)
    assert again.run(checkpoint=tmp_path / "checkpoint", resume=True) == history
    assert same(trainer, again)


def test_the_temperature_is_the_one_that_a_plain_search_finds() -> None:
    random = np.random.default_rng(3)
    logits = random.normal(0, 4, (400, 3)).astype(np.float32)
    odds = np.exp(logits / 2.5)
    label = (random.random((400, 1)) > np.cumsum(odds / odds.sum(axis=1, keepdims=True), axis=1)).sum(axis=1)

    def nats(log_temperature: float) -> float:
        exact = logits.astype(np.float64) / math.exp(log_temperature)
        return float(np.mean(np.log(np.exp(exact).sum(axis=1)) - exact[np.arange(400), label]))

    found = math.exp(min(np.arange(0.5, 1.5, 1e-3), key=nats))
    assert temperature(logits, label) == pytest.approx(found, rel=2e-3)
    assert 2 < found < 3
    assert temperature(logits[:0], label[:0]) == 1
    assert temperature(logits, logits.argmax(axis=1)) == pytest.approx(0.25, rel=1e-3)


def test_figures_of_a_confusion_are_those_by_hand() -> None:
    measured = Measured(0.0, np.array([[8.0, 2, 0], [1, 1, 0], [0, 0, 0]]))
    assert measured.accuracy == 9 / 12
    assert measured.macro_f1 == pytest.approx((16 / 19 + 2 / 5) / 2)


def test_without_held_back_flows_every_epoch_is_trained_and_the_last_one_stays(tmp_path: Path) -> None:
    flows = learnable(200)
    split = honest(flows, validation=0.0)
    trainer = trainer_of(dataclasses.replace(QUICK, patience=1), flows, split)
    history = trainer.run(checkpoint=tmp_path / "checkpoint")
    assert [epoch.best for epoch in history] == [True] * 3
    assert history[0].validation_nats is None
    assert trainer.temperature() == 1
    again = trainer_of(dataclasses.replace(QUICK, patience=1), flows, split)
    assert again.run(checkpoint=tmp_path / "checkpoint", resume=True) == history


def test_what_cannot_be_learned_is_said_in_one_line() -> None:
    flows = learnable(200)
    with pytest.raises(ValueError, match="all of one class"):
        trainer_of(flows=flows._replace(label=np.zeros_like(flows.label)))
    with pytest.raises(ValueError, match="not one column is known"):
        trainer_of(flows=flows._replace(rows=np.full_like(flows.rows, np.nan)))
    with pytest.raises(ValueError, match="class 3, and the model has 3"):
        trainer_of(flows=flows._replace(label=flows.label + 1))
    with pytest.raises(ValueError, match="4 columns, and the model reads 5"):
        trainer_of(flows=flows._replace(rows=flows.rows[:, :4]))
    for batch in (64, 10_000):  # where one batch is an epoch, its loss was still a number
        with pytest.raises(ValueError, match="diverged in epoch 1"):
            trainer_of(dataclasses.replace(QUICK, rate=math.inf, batch=batch)).run()


@pytest.mark.slow
def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = [str(ROOT / "tests" / "flow_examples.py"), str(tmp_path)]
    subprocess.run([*torchrun, *script], env=environment, check=True, timeout=120)
    together = msgspec.json.decode((tmp_path / "of-2").read_bytes(), type=list[Passed])
    alone = trainer_of().run()
    assert len(together) == len(alone) == 3
    for one, other in zip(alone, together, strict=True):
        assert other.train_nats == pytest.approx(one.train_nats, abs=1e-3)
        assert other.validation_nats == pytest.approx(one.validation_nats, abs=1e-3)
