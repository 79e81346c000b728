"""The multi-flow scorer and its models on disk."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.calibrate import calibrate
from models.folder import MANIFEST, TENSORS, ModelDoesNotFit
from models.multiflow import MultiFlow, Shape
from models.multiflow_checkpoint import FlowBundle, FlowManifest, load, save
from models.resident_flows import FlowScored, FlowScorer
from models.scale import fit
from models.windows import sequences

COLUMNS = ("Flow Duration", "Total Fwd Packet", "Flow IAT Mean")
SHAPE = Shape(columns=3, classes=3, flows=4, units=8, attention=4)
SLOTS = 5


def rows_of(n: int, seed: int = 1) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    rows = np.exp(rng.normal(3, 2, (n, 3))).astype(np.float32)
    rows[rng.random(rows.shape) < 0.1] = np.nan
    return rows


def bundle(temperature: float = 2.0) -> FlowBundle:
    torch.manual_seed(1)
    manifest = FlowManifest(
        name="flows-test",
        version="1",
        classes=("Normal", "DoS", "Bot"),
        columns=COLUMNS,
        flows=SHAPE.flows,
        units=SHAPE.units,
        attention=SHAPE.attention,
        source_kind="captures",
        centre=(),
        spread=(),
        temperature=temperature,
    )
    calibration = calibrate(np.random.default_rng(2).normal(0, 1, 400), days=2.0)
    return FlowBundle(manifest, MultiFlow(SHAPE, fit(rows_of(100))).eval(), calibration)


def turns(n: int, seed: int = 3) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    return rows_of(n, seed), rng.integers(0, SLOTS, n).astype(np.int32), rng.random(n) < 0.1


def scorer(one: FlowBundle) -> FlowScorer:
    return FlowScorer(one, slots=SLOTS, device=torch.device("cpu"))


def test_scores_are_those_of_the_trained_network_on_each_flows_window() -> None:
    rows, slots, restart = turns(60)
    scored = scorer(bundle()).score(rows, slots, restart, explain_p=1.0)
    windows = torch.from_numpy(sequences(slots, restart, SHAPE.flows))
    there = windows >= 0
    padded = torch.where(there[..., None], torch.from_numpy(rows)[windows.clamp(min=0)], torch.nan)
    with torch.inference_mode():
        judged = bundle().model(padded, there.sum(dim=1))
    probability = torch.softmax(judged.logits / 2.0, dim=1).numpy()
    np.testing.assert_allclose(scored.probability, probability, atol=1e-5)
    np.testing.assert_allclose(scored.verdict, np.log((1 - probability[:, 0]) / probability[:, 0]), atol=1e-4)
    np.testing.assert_allclose(scored.attention, judged.attention.numpy(), atol=1e-5)


def test_scores_are_the_same_while_everything_was_known_and_after() -> None:
    rows, slots, restart = turns(60)
    rows[:40] = np.nan_to_num(rows[:40], nan=7.0)
    cut, whole = scorer(bundle()), scorer(bundle())
    parts = [cut.score(rows[a:b], slots[a:b], restart[a:b], explain_p=0.0) for a, b in ((0, 40), (40, 60))]
    assert np.isnan(rows[40:]).any()
    at_once = whole.score(rows, slots, restart, explain_p=0.0)
    np.testing.assert_allclose(np.concatenate([part.probability for part in parts]), at_once.probability, atol=1e-6)


def test_an_explanation_is_of_the_flow_with_the_greatest_weight() -> None:
    rows, slots, restart = turns(60)
    scored = scorer(bundle()).score(rows, slots, restart, explain_p=1.0)
    windows = sequences(slots, restart, SHAPE.flows)
    heaviest = windows[np.arange(60), scored.attention.argmax(axis=1)]
    np.testing.assert_array_equal(scored.attended, rows[heaviest])
    assert scored.explained.tolist() == list(range(60))
    assert (scored.distance[np.isnan(rows[heaviest])] == 0).all()


def test_only_rows_that_may_alert_are_explained() -> None:
    rows, slots, restart = turns(60)
    ceiling = float(np.median(scorer(bundle()).score(rows, slots, restart, explain_p=0.0).p_value))
    scored = scorer(bundle()).score(rows, slots, restart, explain_p=ceiling)
    assert scored.explained.tolist() == np.flatnonzero(scored.p_value <= ceiling).tolist()
    assert 0 < len(scored.explained) < 60
    assert len(scored.attention) == len(scored.attended) == len(scored.distance) == len(scored.explained)


@pytest.mark.parametrize("size", [1, 7, 60, 5000])
def test_cutting_into_batches_changes_nothing(size: int) -> None:
    rows, slots, restart = turns(5000)
    whole = scorer(bundle()).score(rows, slots, restart, explain_p=0.2)
    pieces: list[FlowScored] = []
    cut = scorer(bundle())
    for start in range(0, 5000 if size > 1 else 40, size):
        part = slice(start, start + size)
        pieces.append(cut.score(rows[part], slots[part], restart[part], explain_p=0.2))
    found = np.concatenate([piece.probability for piece in pieces])
    np.testing.assert_allclose(found, whole.probability[: len(found)], atol=1e-5)
    explained = np.concatenate([piece.explained + at * size for at, piece in enumerate(pieces)])
    np.testing.assert_array_equal(explained, whole.explained[whole.explained < len(found)])


def test_a_scorer_goes_on_from_a_saved_state() -> None:
    rows, slots, restart = turns(40)
    first, second = scorer(bundle()), scorer(bundle())
    first.score(rows[:20], slots[:20], restart[:20], explain_p=0.0)
    second.restore(first.state())
    for one, other in itertools.pairwise(
        [each.score(rows[20:], slots[20:], restart[20:], explain_p=1.0) for each in (first, second)]
    ):
        np.testing.assert_array_equal(one.verdict, other.verdict)


def test_an_empty_batch_is_no_error() -> None:
    rows, slots, restart = turns(1)
    scored = scorer(bundle()).score(rows[:0], slots[:0], restart[:0], explain_p=1.0)
    assert scored.probability.shape == (0, 3)
    assert len(scored.explained) == 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "model", bundle())
    return tmp_path / "model"


def change(folder: Path, **fields: object) -> None:
    place = folder / MANIFEST
    place.write_text(json.dumps(json.loads(place.read_text()) | fields))


def test_a_model_read_back_scores_as_the_one_that_was_saved(folder: Path) -> None:
    one, other = (scorer(each).score(*turns(60), explain_p=1.0) for each in (bundle(), load(folder)))
    np.testing.assert_allclose(one.probability, other.probability, atol=1e-6)
    np.testing.assert_allclose(one.distance, other.distance, atol=1e-6)
    np.testing.assert_allclose(one.p_value, other.p_value, rtol=1e-3)
    assert sorted(path.name for path in folder.iterdir()) == [MANIFEST, TENSORS]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"format": "netseq-words-1"}, "a word model, where a multi-flow model is wanted"),
        ({"columns": ["Flow Duration"]}, "a scale for each of its columns"),
        ({"columns": ["Flow Duration", "Flow Duration", "Flow IAT Mean"]}, "named twice"),
        ({"classes": ["Normal"]}, "1 classes"),
        ({"classes": ["Normal", "DoS"]}, "weights and manifest do not fit"),
        ({"flows": 1}, "windows have 1 flows"),
        ({"units": 1 << 20}, "units and attention"),
        ({"temperature": 0.0}, "no number above 0"),
        ({"calibration": {}}, "calibration is incomplete"),
        ({"weights_sha256": "0"}, "its SHA-256 is not the manifest's"),
    ],
)
def test_what_is_wrong_with_a_model_is_one_line(folder: Path, fields: dict[str, object], said: str) -> None:
    change(folder, **fields)
    with pytest.raises(ModelDoesNotFit) as refusal:
        load(folder)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert str(folder) in str(refusal.value)


def test_a_hotter_temperature_brings_verdicts_together() -> None:
    cold, hot = (scorer(bundle(each)).score(*turns(60), explain_p=0.0) for each in (1.0, 4.0))
    assert hot.verdict.std() < cold.verdict.std() / 2


def test_the_manifest_is_written_with_what_the_network_was_scaled_by(tmp_path: Path) -> None:
    one = bundle()
    written = save(tmp_path, dataclasses.replace(one, manifest=msgspec.structs.replace(one.manifest, centre=(9.0,))))
    assert written.centre == pytest.approx(tuple(one.model.get_buffer("centre").tolist()))
