from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from flow_examples import QUICK, SHAPE, learnable, trainer_of

from models.flowset import FlowSet, honest
from models.multiflow_assemble import assemble
from models.multiflow_checkpoint import FlowManifest, load, save
from models.multiflow_train import Trainer


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small matrices gain nothing from threads, and on a busy machine the threads wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


MANIFEST = FlowManifest(
    name="example",
    version="1",
    classes=("Normal", "DoS", "Bot"),
    columns=tuple("abcde"),
    flows=SHAPE.flows,
    units=SHAPE.units,
    attention=SHAPE.attention,
    source_kind="flow-csv",
    centre=(),
    spread=(),
)


def trained(flows: FlowSet, validation: float = 0.4) -> Trainer:
    trainer = trainer_of(dataclasses.replace(QUICK, epochs=8), flows, honest(flows, 0.0, 1, validation))
    trainer.run()
    return trainer


def test_the_tail_is_of_the_highest_verdicts_of_held_back_hours_without_an_attack() -> None:
    flows = learnable(800)
    flows = flows._replace(hour=np.arange(800, dtype=np.int64) // 100)
    trainer = trained(flows)
    made = assemble(trainer, flows, MANIFEST)
    held = trainer.split.validation
    logits = trainer.logits(held).astype(np.float64) / made.bundle.manifest.temperature
    highest: dict[tuple[int, int], float] = {}
    attacked = set()
    for row, (ordinary, *others) in zip(held.tolist(), logits.tolist(), strict=True):
        key = (int(flows.slots[row]), row // 100)
        highest[key] = max(highest.get(key, -np.inf), float(np.logaddexp.reduce(others)) - ordinary)
        if flows.label[row]:
            attacked.add(key)
    wanted = sorted(verdict for key, verdict in highest.items() if key not in attacked)
    calibration = made.bundle.calibration
    assert calibration.n == len(wanted) > 10
    np.testing.assert_allclose(calibration.verdicts, wanted, atol=1e-4)
    share = sum(flows.label[held] == 0) / sum(flows.label == 0)
    assert calibration.per_day == pytest.approx(len(wanted) / (8 / 24 * share))
    assert not made.remarks


def test_the_temperature_makes_held_back_probabilities_truer_and_figures_are_kept(tmp_path: Path) -> None:
    flows = learnable(800)
    trainer = trained(flows)
    made = assemble(trainer, flows, MANIFEST)
    manifest = save(tmp_path / "model", made.bundle)
    assert manifest.temperature == pytest.approx(trainer.temperature(), abs=1e-6)
    assert manifest.validation["macro_f1"] == pytest.approx(made.validation.macro_f1, abs=1e-6)
    loaded = load(tmp_path / "model")
    rows, lengths = trainer._gathered(torch.from_numpy(trainer.split.validation))
    with torch.inference_mode():
        logits = loaded.model(rows, lengths).logits.numpy()
    np.testing.assert_allclose(logits, trainer.logits(trainer.split.validation), atol=1e-4)
    assert loaded.manifest.centre == pytest.approx(trainer.scale.centre.tolist())


def test_too_few_ordinary_flows_leave_a_model_that_never_alerts_and_says_so(tmp_path: Path) -> None:
    flows = learnable(200, pairs=20)
    made = assemble(trained(flows, 0.2), flows, MANIFEST)
    assert len(made.remarks) == 1
    assert "will not alert (only " in made.remarks[0]
    save(tmp_path / "model", made.bundle)
    verdicts = np.array([-50.0, 0.0, 50.0])
    assert load(tmp_path / "model").calibration.p_value(verdicts).min() >= 0.5
