from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from flow_examples import QUICK, SHAPE, learnable, trainer_of

from models import unfinished
from models.flowset import honest
from models.multiflow_train import Trainer
from models.unfinished import About, CheckpointDoesNotFit, Passed

ROOT = Path(__file__).parents[1]
ABOUT = About(shape={"columns": 5}, settings={"rate": 0.1}, data_sha256="ab", history=[Passed(1, 3, 0.5, 0.25, None, True)])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """On one thread a training repeats itself to the bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def content_of(path: Path) -> bytes:
    content = unfinished.read(path)
    assert content is not None
    return content


def test_a_checkpoint_comes_back_to_the_bit(tmp_path: Path) -> None:
    tensors = {"model.a": torch.rand(3, 2), "optimiser.a.step": torch.tensor(4.0)}
    about = About(shape={}, settings={}, data_sha256="", history=[Passed(1, 2, 1 / 3, None, 0.1 + 0.2, False)])
    unfinished.write(tmp_path / "checkpoint", about, tensors)
    found, held = unfinished.decode(tmp_path, content_of(tmp_path / "checkpoint"), about)
    assert found == about
    assert {name: tensor.tolist() for name, tensor in held.items()} == {k: v.tolist() for k, v in tensors.items()}
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (About(shape={"columns": 6}, settings={"rate": 0.1}, data_sha256="ab", history=[]), "shape (columns 5, now 6)"),
        (About(shape={"columns": 5}, settings={"rate": 0.2}, data_sha256="ab", history=[]), "settings (rate 0.1, now 0.2)"),
        (About(shape={"columns": 5}, settings={"rate": 0.1}, data_sha256="cd", history=[]), "other data"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused_in_one_line(wanted: About, said: str, tmp_path: Path) -> None:
    unfinished.write(tmp_path / "checkpoint", ABOUT, {"a": torch.zeros(1)})
    with pytest.raises(CheckpointDoesNotFit) as refused:
        unfinished.decode(tmp_path / "checkpoint", content_of(tmp_path / "checkpoint"), wanted)
    assert said in str(refused.value)
    assert str(refused.value).startswith(f"{tmp_path}/checkpoint: ")
    assert "\n" not in str(refused.value)


def test_a_checkpoint_of_another_version_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(unfinished, "FORMAT", "netseq-multiflow-training-0")
        older = About(format=unfinished.FORMAT, shape={}, settings={}, data_sha256="", history=[])
        unfinished.write(tmp_path / "checkpoint", older, {})
    with pytest.raises(CheckpointDoesNotFit, match=r"another version \('netseq-multiflow-training-0'\)"):
        unfinished.decode(tmp_path / "checkpoint", content_of(tmp_path / "checkpoint"), ABOUT)


def test_a_damaged_checkpoint_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    unfinished.write(path, ABOUT, {"a": torch.zeros(100)})
    whole = path.read_bytes()
    for damaged in (b"", b"x", b"{}", whole[:-1], whole[:30], whole.replace(b"history", b"mystery"), bytes(len(whole))):
        with pytest.raises(CheckpointDoesNotFit, match=r"(damaged|another version).*: remove it to train afresh$"):
            unfinished.decode(path, damaged, ABOUT)
    with pytest.raises(CheckpointDoesNotFit, match="cannot be read"):
        unfinished.read(tmp_path)
    assert unfinished.read(tmp_path / "none") is None


def test_a_checkpoint_without_a_tensor_is_refused_in_one_line(tmp_path: Path) -> None:
    trainer = trainer_of(dataclasses.replace(QUICK, epochs=1))
    trainer.run(checkpoint=tmp_path / "checkpoint")
    about, tensors = unfinished.decode(tmp_path, content_of(tmp_path / "checkpoint"), trainer._about())
    for name in ("model.out.bias", "best.out.bias", "optimiser.out.bias.exp_avg"):
        unfinished.write(tmp_path / "checkpoint", about, {one: tensor for one, tensor in tensors.items() if one != name})
        with pytest.raises(CheckpointDoesNotFit, match=r"do not fit .*: remove it to train afresh$"):
            trainer_of(dataclasses.replace(QUICK, epochs=1)).run(checkpoint=tmp_path / "checkpoint", resume=True)


def test_a_checkpoint_of_another_split_or_seed_is_refused(tmp_path: Path) -> None:
    flows = learnable()
    trainer_of(dataclasses.replace(QUICK, epochs=1)).run(checkpoint=tmp_path / "checkpoint")
    with pytest.raises(CheckpointDoesNotFit, match="another split"):
        Trainer(flows, honest(flows, seed=2), SHAPE, dataclasses.replace(QUICK, epochs=1)).run(
            checkpoint=tmp_path / "checkpoint", resume=True
        )
    with pytest.raises(CheckpointDoesNotFit, match="seed 1, now 2"):
        trainer_of(dataclasses.replace(QUICK, epochs=1, seed=2)).run(checkpoint=tmp_path / "checkpoint", resume=True)


def test_an_empty_checkpoint_is_a_damaged_one_and_not_none(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").touch()
    with pytest.raises(CheckpointDoesNotFit, match=r"damaged.*: remove it to train afresh$"):
        trainer_of().run(checkpoint=tmp_path / "checkpoint", resume=True)


def test_a_longer_run_is_refused_with_the_reason(tmp_path: Path) -> None:
    trainer_of(dataclasses.replace(QUICK, epochs=1)).run(checkpoint=tmp_path / "checkpoint")
    told = r"epochs 1, now 2; no run can be lengthened: the learning rate falls over all its epochs\): go on with what it was"
    with pytest.raises(CheckpointDoesNotFit, match=told):
        trainer_of(dataclasses.replace(QUICK, epochs=2)).run(checkpoint=tmp_path / "checkpoint", resume=True)


def test_where_no_checkpoint_can_be_written_is_told_once_and_when_it_is_mended(tmp_path: Path) -> None:
    path, beside = tmp_path / "checkpoint", tmp_path / "checkpoint.new"
    beside.mkdir()  # nothing can be written where this is
    told: list[str] = []
    trainer = trainer_of(dataclasses.replace(QUICK, epochs=5))

    def clear(epoch: Passed) -> None:
        assert trainer.kept == (0, 0, 3, 4, 4)[epoch.number - 1]
        if epoch.number == 2:
            beside.rmdir()
        elif epoch.number == 4:
            beside.mkdir()

    trainer.run(clear, path, warn=told.append)
    why = "(Is a directory)"
    assert told == [
        f"{path}: no checkpoint after epoch 1 {why}: there is none yet, and training goes on",
        f"{path}: a checkpoint again, after epoch 3",
        f"{path}: no checkpoint after epoch 5 {why}: that of epoch 4 still stands, and training goes on",
    ]
    assert trainer.kept == 4


FULL = """
import resource, signal, sys
from pathlib import Path
import torch
from flow_examples import QUICK, trainer_of
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
torch.set_num_threads(1)
trainer = trainer_of()
def fill(epoch):
    if epoch.number == 1:  # from now on no file may grow beyond 1,000 bytes
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
told = []
trainer.run(fill, Path(sys.argv[1]), warn=told.append)
print(len(trainer.history), *told, sep="\\n")
"""


def test_a_disk_that_fills_up_leaves_the_last_good_checkpoint_and_the_training(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    given = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    done = subprocess.run([sys.executable, "-c", FULL, path], env=given, capture_output=True, text=True, check=True)
    told = f"{path}: no checkpoint after epoch 2 (File too large): that of epoch 1 still stands, and training goes on"
    assert done.stdout.splitlines() == ["3", told]
    assert [found.name for found in tmp_path.iterdir()] == ["checkpoint"]
    went_on: list[Passed] = []
    again = trainer_of()
    again.run(went_on.append, path, resume=True)
    assert [epoch.number for epoch in went_on] == [2, 3]
    whole = trainer_of()
    whole.run()
    assert all(torch.equal(tensor, again.model.state_dict()[name]) for name, tensor in whole.model.state_dict().items())
