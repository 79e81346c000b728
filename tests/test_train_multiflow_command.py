from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import said

from models.multiflow_checkpoint import load
from models.multiflow_train import Trainer
from models.resident_flows import FlowScorer
from models.unfinished import Passed
from sensor.commands.train import main
from sensor.commands.train_multiflow import CHECKPOINT

ROOT = Path(__file__).parents[1]
HEADER = (
    "Src IP,Src Port,Dst IP,Dst Port,Protocol,Timestamp,Flow Duration,Total Fwd Packet,Total Bwd packets,"
    "Total Length of Fwd Packet,Total Length of Bwd Packet,Fwd Packet Length Max,Bwd Packet Length Max,Label"
)
COLUMNS = "Flow Duration,Total Fwd Packet,Total Bwd packets,Total Length of Fwd Packet,Total Length of Bwd Packet"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """What a run sets is this process's."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def write_table(path: Path, *, flows: int = 600, label: bool = True, seed: int = 0) -> Path:
    """A table of flows of an office with a scanner and a flood, each of several pairs."""
    random = np.random.default_rng(seed)
    lines = [HEADER if label else HEADER.removesuffix(",Label")]
    for number in range(flows):
        host = int(random.integers(120))
        name = ("BENIGN", "BENIGN", "PortScan", "DoS Hulk")[host % 4]
        packets, size = {"BENIGN": (9, 700), "PortScan": (1, 0), "DoS Hulk": (40, 90)}[name]
        sent = packets + int(random.integers(3))
        stamp = f"2017-07-{3 + number * 2 // flows:02} {8 + number // 60 % 12:02}:{number % 60:02}:00"
        figures = f"{sent * 1000},{sent},{sent},{sent * size},{sent * 9},{size},9"
        row = f"10.0.0.{host},{40000 + number},10.0.1.1,80,6,{stamp},{figures}"
        lines.append(f"{row},{name}" if label else row)
    path.write_text("\n".join(lines) + "\n")
    return path


QUICK = ("--epochs", "2", "--units", "8", "--flows", "3", "--batch", "128", "--threads", "1", "--columns", COLUMNS)


def train(*arguments: object) -> int:
    try:
        return main(["multiflow", *QUICK, *map(str, arguments)])
    except SystemExit as end:  # argparse ends the process on misuse
        return int(end.code or 0)


def test_a_table_gives_a_model_that_scores_flows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = write_table(tmp_path / "flows.csv")
    classes = ("--classes", "Normal,PortScan,DoS,Bot")
    assert train(table, "--output", tmp_path / "office", *classes, "--epochs", 12, "--rate", "0.02", "--test", "0.2") == 0
    told = capsys.readouterr().out
    for line in (
        "read         600 flows of 1 file: Normal",
        "held back ",
        "tested ",
        "model        office 0.1.0",
        "class Bot has no",
    ):
        assert line in told
    bundle = load(tmp_path / "office")
    assert bundle.manifest.classes == ("Normal", "PortScan", "DoS", "Bot")
    assert bundle.manifest.columns == tuple(COLUMNS.split(","))
    assert bundle.manifest.validation["macro_f1"] > 0.9
    assert bundle.manifest.data[0].rows == 600
    assert bundle.manifest.command.startswith("netseq-train multiflow ")
    assert bundle.calibration.n >= 10
    scorer = FlowScorer(bundle, slots=2, device=torch.device("cpu"))
    rows = np.array([[1000, 1, 1, 0, 9], [9000, 9, 9, 6300, 81]], np.float32)
    scored = scorer.score(rows, np.array([0, 1], np.int32), np.ones(2, np.bool_), explain_p=0.0)
    assert scored.probability.argmax(axis=1).tolist() == [1, 0]
    assert [path.name for path in sorted((tmp_path / "office").iterdir())] == ["manifest.json", "weights.safetensors"]


def test_files_can_be_held_back_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, other = write_table(tmp_path / "flows.csv"), write_table(tmp_path / "other.csv", flows=200, seed=1)
    assert train(table, "--held-back", other, "--output", tmp_path / "office", "--classes", "Normal,PortScan,DoS") == 0
    assert "split        by file, seed 1: 600 trained on, 200 held back, 0 tested on" in capsys.readouterr().out
    assert [source.rows for source in load(tmp_path / "office").manifest.data] == [600, 200]
    assert train(table, "--held-back", other, "--test", "0.1", "--output", tmp_path / "x") == 2
    assert "files to test on are left to netseq-evaluate" in capsys.readouterr().err
    assert train(table, "--held-back", tmp_path / "none.csv", "--output", tmp_path / "x") == 2
    assert "none.csv: no such file" in capsys.readouterr().err


def test_epochs_0_only_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(write_table(tmp_path / "flows.csv"), "--output", tmp_path / "office", "--epochs", "0") == 0
    told = capsys.readouterr().out
    assert "read         600 flows" in told
    assert "none: --epochs 0 only reads" in told
    assert not (tmp_path / "office").exists()


def test_epochs_0_reads_what_cannot_be_trained_on_and_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = write_table(tmp_path / "flows.csv")
    arguments = (table, "--output", tmp_path / "office", "--classes", "Normal,Bot")
    label = "note         label 'PortScan' is of no class"
    assert train(*arguments, "--epochs", "0") == 0
    told = said(capsys)[0]
    for line in ("read         600 flows", label, "are all of one class", "none: --epochs 0 only reads"):
        assert line in told
    assert train(*arguments) == 2
    out, err = said(capsys)
    assert label in out
    assert "are all of one class" in err
    assert err.count("\n") == 1
    assert train(*arguments, "--quiet") == 2
    assert not said(capsys)[0]
    assert train(table, "--output", tmp_path / "office", "--test", "0.99", "--validation", "0.99", "--epochs", "0") == 0
    assert "read         600 flows" in said(capsys)[0]


def test_files_held_back_without_a_class_are_the_ones_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, other = write_table(tmp_path / "flows.csv"), write_table(tmp_path / "other.csv", flows=50, label=False)
    assert train(table, "--held-back", other, "--output", tmp_path / "office") == 2
    told = "none of 50 flows held back has a class: give labels for them, or hold others back"
    assert said(capsys)[1] == f"netseq-train: --held-back {other}: {told}\n"


def test_what_is_trained_on_cannot_be_held_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tables").mkdir()
    table = write_table(tmp_path / "tables" / "flows.csv")
    copy = Path(shutil.copy(table, tmp_path / "copy.csv"))
    pairs = ((table, table), (table.parent, table), (table, table.parent), (table, copy))
    for files, held in pairs:
        assert train(files, "--held-back", held, "--output", tmp_path / "office") == 2
        told = "is the same data" if held == copy else "shares files with it"
        assert said(capsys)[1] == f"netseq-train: --held-back {held}: {files} is trained on, and {told}: hold others back\n"


def test_the_manifest_says_how_the_data_were_cut(tmp_path: Path) -> None:
    table, other = write_table(tmp_path / "flows.csv"), write_table(tmp_path / "other.csv", flows=200, seed=1)
    shares = ("--split", "stratified", "--test", "0.25", "--validation", "0.125")
    assert train(table, "--output", tmp_path / "one", "--quiet", "--epochs", "1", *shares) == 0
    assert train(table, "--output", tmp_path / "two", "--quiet", "--epochs", "1", "--held-back", other) == 0
    one, two = (load(tmp_path / name).manifest for name in ("one", "two"))
    assert (one.split, one.test, one.held_back, one.files_held_back) == ("stratified", 0.25, 0.125, 0)
    assert (two.split, two.test, two.held_back, two.files_held_back) == ("by file", 0.0, 0.0, 1)


def test_an_interrupted_training_goes_on_to_the_same_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_table(tmp_path / "flows.csv")
    arguments = (table, "--epochs", "3", "--quiet", "--name", "one")
    assert train(*arguments, "--output", tmp_path / "whole") == 0
    run = Trainer.run

    def interrupted(trainer: Trainer, _: object, checkpoint: Path, **given: Any) -> list[Passed]:
        def stop(passed: Passed) -> None:
            if passed.number == 2:
                raise KeyboardInterrupt

        return run(trainer, stop, checkpoint, **given)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run", interrupted)
        assert train(*arguments, "--output", tmp_path / "parts") == 130
    checkpoint = tmp_path / "parts" / CHECKPOINT
    assert f"no model was written: --resume goes on from {checkpoint}" in capsys.readouterr().err
    assert train(*arguments, "--output", tmp_path / "parts") == 2
    assert "a training was interrupted here: --resume goes on, or remove it to train afresh" in capsys.readouterr().err
    assert train(*arguments, "--output", tmp_path / "parts", "--rate", "0.5", "--resume") == 2
    assert "another settings (rate 0.002, now 0.5)" in capsys.readouterr().err
    assert train(*arguments, "--output", tmp_path / "parts", "--resume") == 0
    whole, parts = (load(tmp_path / name) for name in ("whole", "parts"))
    assert whole.manifest.weights_sha256 == parts.manifest.weights_sha256
    assert whole.manifest.temperature == parts.manifest.temperature
    assert not checkpoint.exists()


def test_a_full_disk_leaves_the_checkpoint_to_make_the_model_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    office = tmp_path / "office"
    arguments = (write_table(tmp_path / "flows.csv"), "--output", office)
    (office / "manifest.json.new").mkdir(parents=True)  # the model cannot be written where this is
    assert train(*arguments) == 1
    out, err = said(capsys)
    assert "model        none: it was not written" in out
    assert (
        err == f"netseq-train: {office}: the model cannot be written: Is a directory: --resume writes it once there is room\n"
    )
    (office / "manifest.json.new").rmdir()
    assert train(*arguments, "--resume") == 0
    assert load(office).manifest.validation
    assert sorted(path.name for path in office.iterdir()) == ["manifest.json", "weights.safetensors"]


def test_a_model_that_no_checkpoint_holds_is_written_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    office = tmp_path / "office"
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in (CHECKPOINT, "manifest.json"):
        (office / f"{name}.new").mkdir(parents=True)
    assert train(write_table(tmp_path / "flows.csv"), "--output", office) == 1
    out, err = said(capsys)
    first, second = err.splitlines()
    told = "no checkpoint after epoch 1 (Is a directory): there is none yet, and training goes on"
    assert first == f"netseq-train: {office / CHECKPOINT}: {told}"
    assert second.startswith(f"netseq-train: {office}: the model cannot be written: Is a directory: it is in ")
    elsewhere = Path(second.partition("it is in ")[2].removesuffix(" instead: move it from there"))
    assert f"model        office 0.1.0 in {elsewhere}\n" in out
    assert elsewhere.parent == tmp_path
    assert load(elsewhere).manifest.name == "office"


@pytest.mark.parametrize(("epochs", "left"), [(1, "it is lost"), (2, "--resume goes on from epoch 1 of 2 once there is room")])
def test_a_model_that_fits_nowhere_is_told_with_what_is_left(
    epochs: int, left: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table, before = write_table(tmp_path / "flows.csv"), resource.getrlimit(resource.RLIMIT_FSIZE)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    arguments = (table, "--output", tmp_path / "office", "--epochs", epochs, "--quiet")
    assert train(*arguments, "--epochs", 0) == 0  # what is compiled once must be on the disk before it is full
    write = Trainer._keep

    def fill(trainer: Trainer, *given: Any) -> None:
        if len(trainer.history) == epochs:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        write(trainer, *given)

    monkeypatch.setattr(Trainer, "_keep", fill)
    try:
        assert train(*arguments) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    checkpoint, model = said(capsys)[1].splitlines()
    assert f"no checkpoint after epoch {epochs} (File too large)" in checkpoint
    assert model.endswith(f"the model cannot be written: File too large, and neither can it be where TMPDIR says: {left}")
    assert not [*(tmp_path / "temporary").iterdir()]


def test_an_interruption_tells_from_which_epoch_the_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table, office = write_table(tmp_path / "flows.csv"), tmp_path / "office"
    judge = Trainer._judge

    def stop(trainer: Trainer, number: int, nats: float) -> None:
        if number == 2:
            raise KeyboardInterrupt
        judge(trainer, number, nats)

    monkeypatch.setattr(Trainer, "_judge", stop)
    assert train(table, "--output", office, "--quiet") == 130
    told = f"interrupted: no model was written: --resume goes on from {office / CHECKPOINT}, after epoch 1 of 2"
    assert said(capsys)[1] == f"netseq-train: {told}\n"
    (tmp_path / "none" / f"{CHECKPOINT}.new").mkdir(parents=True)
    assert train(table, "--output", tmp_path / "none", "--quiet") == 130
    assert said(capsys)[1].splitlines()[1] == "netseq-train: interrupted: no model was written: no checkpoint was written"


def test_an_empty_checkpoint_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, office = write_table(tmp_path / "flows.csv"), tmp_path / "office"
    office.mkdir()
    (office / CHECKPOINT).touch()
    assert train(table, "--output", office, "--resume") == 2
    assert "damaged one (DecodeError): remove it to train afresh" in said(capsys)[1]
    assert not (office / "manifest.json").exists()


def test_a_label_file_judges_flows_without_labels_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = write_table(tmp_path / "flows.csv", label=False)
    labels = tmp_path / "labels.csv"
    assert train(table, "--output", tmp_path / "office") == 2
    assert "no flow is of a class" in capsys.readouterr().err
    attackers = "".join(f"10.0.0.{host},PortScan\n" for host in range(2, 120, 4))
    labels.write_text(f"src,label\n{attackers},BENIGN\n")
    assert train(table, "--output", tmp_path / "office", "--labels", labels) == 0
    assert "PortScan" in capsys.readouterr().out
    labels.write_text("src,label\n10.0.0.x,PortScan\n10.0.0.1,DoS\n10.0.0.y,DoS\n")
    assert train(table, "--output", tmp_path / "office", "--labels", labels) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert all(line.startswith("netseq-train: ") and "labels.csv" in line for line in told)


def test_a_damaged_table_is_trained_on_and_exit_is_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = write_table(tmp_path / "flows.csv")
    table.write_text(table.read_text() + "this is no flow\n")
    assert train(table, "--output", tmp_path / "office", "--quiet") == 1
    assert "could not be read; the rest was trained on" in capsys.readouterr().err
    assert load(tmp_path / "office").manifest.data[0].rows == 600


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.csv"], "nowhere.csv: no such file or folder"),
        (["flows.csv", "--classes", "DoS,Normal"], "name the ordinary class first"),
        (["flows.csv", "--classes", "Normal"], "give two or more"),
        (["flows.csv", "--columns", "Flow Duration,colour"], "--columns: colour: no such statistic"),
        (["flows.csv", "--columns", "Flow Duration", "--without", "Flow Duration"], "not one is left"),
        (["flows.csv", "--columns", "Idle Mean"], "none of the 1 columns asked for has a value"),
        (["flows.csv", "--classes", "Normal,Patator"], "all of one class"),
        (["flows.csv", "--rate", "nan"], "--rate nan: give a learning rate above 0"),
        (["flows.csv", "--flows", "1"], "--flows 1: give a number from 2 to 1024"),
        (["flows.csv", "--validation", "1"], "--validation 1: give a share"),
        (["flows.csv", "--cap", "0.5"], "--cap 0.5: give a number from 1 on"),
        (["flows.csv", "--labels", "none.csv"], "none.csv: no such file"),
        (["few.csv"], "few.csv: "),
        (["flows.csv", "--rate", "1e300"], "diverged"),
        (["-"], "-: training reads its data more than once"),
    ],
)
def test_what_cannot_be_trained_is_one_line_and_exit_2(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / "flows.csv", flows=120)
    write_table(tmp_path / "few.csv", flows=1)
    assert train("--output", "model", *arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith("netseq-train: ")
    assert said in told
    assert told.count("\n") == 1
    assert not (tmp_path / "model" / "manifest.json").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(write_table(tmp_path / "flows.csv"), "--output", tmp_path / "office", "--device", "cuda") == 2
    assert capsys.readouterr().err.startswith("netseq-train: --device cuda: there is no CUDA device here")


@pytest.mark.slow
def test_torchrun_trains_one_model_with_two_processes(tmp_path: Path) -> None:
    table = write_table(tmp_path / "flows.csv", flows=300)
    program = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--no-python"]
    command = [sys.executable, "-c", "from sensor.commands.train import main; raise SystemExit(main())", "multiflow", *QUICK]
    done = subprocess.run(
        [sys.executable, *program, *command, str(table), "--output", str(tmp_path / "office")],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("model        office 0.1.0") == 1
    assert load(tmp_path / "office").manifest.validation["nats"] > 0
