from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from model_examples import PARTS, example, some_turns

from models.checkpoint import MANIFEST, TENSORS, ModelDoesNotFit, load, save
from models.resident import Scorer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "model", example())
    return tmp_path / "model"


def change(folder: Path, **fields: object) -> None:
    place = folder / MANIFEST
    place.write_text(json.dumps(json.loads(place.read_text()) | fields))


def test_a_model_read_back_scores_as_the_one_that_was_saved(folder: Path) -> None:
    turned = some_turns(200, 10)
    saved, read = (
        Scorer(bundle, conversations=10, device=torch.device("cpu")).score(*turned, explain_p=0.1)
        for bundle in (example(), load(folder))
    )
    assert np.allclose(saved.part_nats, read.part_nats, atol=1e-6)
    assert np.allclose(saved.verdict, read.verdict, atol=1e-3)
    assert np.allclose(saved.p_value, read.p_value, rtol=1e-2)


def test_the_manifest_has_one_field_a_line_and_no_file_is_left_beside(folder: Path) -> None:
    lines = (folder / MANIFEST).read_text().splitlines()
    assert [line.split(":")[0].strip() for line in lines[1:4]] == ['"format"', '"kind"', '"name"']
    assert sorted(path.name for path in folder.iterdir()) == [MANIFEST, TENSORS]


def test_weights_are_plain_numbers_behind_a_json_header(folder: Path) -> None:
    content = (folder / TENSORS).read_bytes()
    header_bytes = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + header_bytes])
    assert {tensor["dtype"] for tensor in header.values()} == {"F32"}
    assert max(tensor["data_offsets"][1] for tensor in header.values()) == len(content) - 8 - header_bytes


def refused(folder: Path, said: str, **wanted: object) -> None:
    with pytest.raises(ModelDoesNotFit) as refusal:
        load(folder, **wanted)  # type: ignore[arg-type]
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert str(folder) in str(refusal.value)


def test_other_parts_than_wanted_are_refused(folder: Path) -> None:
    assert load(folder, parts=PARTS).manifest.parts == PARTS
    refused(folder, "reads the parts service, heading, sent, outcome; wanted are ports", parts=("ports",))


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "no model there")


def test_damaged_weights_are_refused(folder: Path) -> None:
    content = bytearray((folder / TENSORS).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / TENSORS).write_bytes(content)
    refused(folder, "SHA-256")
    (folder / TENSORS).unlink()
    refused(folder, "no weights there")


def test_a_damaged_manifest_is_refused(folder: Path) -> None:
    (folder / MANIFEST).write_text((folder / MANIFEST).read_text()[:300])
    refused(folder, "damaged")
    (folder / MANIFEST).write_text("[]")
    refused(folder, "damaged")


def test_a_model_of_another_format_is_refused(folder: Path) -> None:
    change(folder, format="netseq-words-2")
    refused(folder, "netseq-words-2")


@pytest.mark.parametrize(
    "fields",
    [
        {"sizes": [9, 2, 6, 5]},
        {"sizes": [9, 2, 6]},
        {"sizes": [9, 2, 6, 10**9]},
        {"sizes": [9, 2, 6, -1]},
        {"units": 32},
        {"units": 10**9},
        {"units": 0},
        {"head": 10**9},
        {"head": 4097},
        {"head": -1},
        {"spread": [0.0]},
        {"verdict": {"bias": 0, "mean": {"lstm sent": -1}}},
        {"calibration": {}},
        {"units": "many"},
    ],
)
def test_a_manifest_that_does_not_fit_its_weights_is_refused(folder: Path, fields: dict[str, object]) -> None:
    change(folder, **fields)
    refused(folder, "rain")  # "train it again", or "train the model again"
