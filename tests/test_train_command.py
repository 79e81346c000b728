from __future__ import annotations

import errno
import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from models.checkpoint import DEFAULT_MODEL, load
from models.evaluate import auc
from models.resident import Scorer
from sensor.commands.datasets import only_kind, read
from sensor.commands.train import main, rows_of
from sensor.words import Vocabulary

DEMO = Path(__file__).parent / "data" / "demo.pcap.gz"
FIELDS = (
    "ts uid id.orig_h id.orig_p id.resp_h id.resp_p proto service duration orig_bytes resp_bytes conn_state label detailedlabel"
)
TYPES = "time string addr port addr port enum string interval count count string string string"


def write_log(path: Path, *, hosts: int = 20, flows: int = 400, attacks: int = 0, seed: int = 0) -> Path:
    """A conn.log of an office that speaks DNS and HTTPS, with an attacker at port 5888 if asked for."""
    random = np.random.default_rng(seed)
    lines = ["#separator \\x09", "#set_separator\t,", "#empty_field\t(empty)", "#unset_field\t-", "#path\tconn"]
    lines += ["#fields\t" + FIELDS.replace(" ", "\t"), "#types\t" + TYPES.replace(" ", "\t")]
    for number in range(flows):
        host, dns = random.integers(hosts), number % 2 == 0
        port, proto, server = (53, "udp", "10.0.1.1") if dns else (443, "tcp", "10.0.1.2")
        lines.append(
            f"{1.7e9 + number * 90:.6f}\tC{number}\t10.0.0.{host}\t{40000 + number}\t{server}\t{port}\t{proto}\t-\t0.05"
            f"\t{40 + random.integers(20)}\t{200 + random.integers(900)}\tSF\tBenign\t-"
        )
    for number in range(attacks):
        lines.append(
            f"{1.7e9 + number * 90 + 1:.6f}\tA{number}\t66.6.6.{number % 200}\t6666\t10.0.0.{number % hosts}\t5888\ttcp"
            "\t-\t-\t0\t0\tS0\tMalicious\tScan"
        )
    path.write_text("\n".join(lines) + "\n")
    return path


def train(*arguments: object) -> int:
    units = [] if "--from" in arguments else ["--units", "8"]
    return main(["words", *map(str, arguments), "--epochs", "2", *units])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    log = write_log(folder / "conn.log", attacks=50)
    assert train(log, "--attacks", log, "--output", folder / "office", "--licence", "MIT", "--quiet") == 0
    return folder / "office"


def test_the_manifest_tells_what_the_model_was_trained_on(trained: Path) -> None:
    manifest = load(trained).manifest
    assert manifest.name == "office"
    assert manifest.source_kind == "conn.log"
    assert manifest.data[0].rows == 400  # the 50 attacks are none of them
    assert manifest.data[0].licence == "MIT"
    assert manifest.command.startswith("netseq-train words ")
    assert manifest.validation_nats > 0


def test_services_of_attacks_are_not_learned(trained: Path) -> None:
    assert load(trained).manifest.vocabulary["learned"] == ["443/tcp", "53/udp"]


def test_a_verdict_fitted_on_attacks_weighs_something(trained: Path) -> None:
    weights = load(trained).weights
    assert weights.largest.sum() + weights.mean.sum() > 0


def test_further_training_keeps_the_vocabulary_and_adds_the_site_s_services(trained: Path, tmp_path: Path) -> None:
    text = write_log(tmp_path / "conn.log", seed=1).read_text().replace("\t443\t", "\t8443\t")
    (tmp_path / "conn.log").write_text(text)
    assert train(tmp_path / "conn.log", "--from", trained, "--output", tmp_path / "site", "--quiet") == 0
    site = load(tmp_path / "site")
    assert site.manifest.vocabulary["learned"] == ["443/tcp", "53/udp", "8443/tcp"]
    assert site.manifest.trained_from == "office 0.1.0"
    assert (site.weights.mean == load(trained).weights.mean).all()


def test_chosen_parts_and_the_paper_s_alphabets_make_models(tmp_path: Path) -> None:
    log = write_log(tmp_path / "conn.log")
    assert train(log, "--parts", "sent,service", "--output", tmp_path / "two", "--quiet") == 0
    assert load(tmp_path / "two").manifest.parts == ("service", "sent")
    for alphabet in ("protobytes", "ports"):
        assert train(log, "--alphabet", alphabet, "--output", tmp_path / alphabet, "--quiet") == 0
        assert load(tmp_path / alphabet).manifest.parts == (alphabet,)


def test_the_summary_is_told_unless_quiet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(write_log(tmp_path / "conn.log"), "--output", tmp_path / "office") == 0
    told = capsys.readouterr().out
    assert "trained on   400 flows" in told
    assert "conversation-hours" in told


def status_of(arguments: list[str]) -> int:
    try:
        return main(arguments)
    except SystemExit as end:  # argparse ends the process on misuse
        return int(end.code or 0)


@pytest.mark.parametrize("readme", ["# Captures of one office\n", "Captures, all of one office\n", "{}\n"])
def test_a_readme_does_not_make_a_folder_of_captures_another_kind(tmp_path: Path, readme: str) -> None:
    shutil.copy(DEMO, tmp_path)
    (tmp_path / "README").write_text(readme)
    assert only_kind(str(tmp_path)) == "captures"
    data = read(str(tmp_path))
    assert len(data.flows)
    assert data.lost["files that are of another kind, or were met before"] == 1
    assert any(what.startswith("frames that gave no packet: ") for what in data.lost)


def test_a_disk_that_fills_up_is_no_misuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("models.checkpoint.save", full)
    assert train(write_log(tmp_path / "conn.log"), "--output", tmp_path / "office", "--quiet") == 1
    told = f"netseq-train: {tmp_path / 'office'}: the model cannot be written: No space left on device\n"
    assert capsys.readouterr().err == told


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.log"], "nowhere.log: no such file or folder"),
        (["text.log"], "text.log"),
        (["conn.log", "--parts", "colour"], "colour"),
        (["conn.log", "--attacks", "conn.log"], "no row has an attack's label"),
        (["conn.log", "--from", "nowhere"], "no model there"),
        (["conn.log", "--from", "DEFAULT", "--parts", "sent"], "leave --parts"),
        (["conn.log", "--validation", "1.5"], "above 0 and below 1"),
        (["attacks.log"], "no benign flows"),
        (["conn.log", "--from", "DEFAULT", "--units", "16"], "leave --units out"),
        (["conn.log", "--rate", "nan"], "--rate nan: give a learning rate above 0"),
        (["conn.log", "--min-count", "abc"], "abc is not a number from 1 on"),
        (["conn.log", "--output", "/proc/x"], "/proc/x: cannot be written"),
        (["conn.log", "--output", "conn.log/deep"], "conn.log/deep: cannot be written"),
        (["broken.gz"], "broken.gz: the gzip data are cut off"),
        (["-"], "-: training reads its data more than once"),
        (["both"], "both: holds both "),
    ],
)
def test_what_cannot_be_trained_is_one_line_and_exit_2(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_log(tmp_path / "conn.log")
    write_log(tmp_path / "attacks.log", flows=0, attacks=30)
    (tmp_path / "text.log").write_text("#a text\nand another line\n")
    (tmp_path / "broken.gz").write_bytes(b"\x1f\x8b\x08")
    (tmp_path / "both").mkdir()
    write_log(tmp_path / "both" / "conn.log")
    shutil.copy(DEMO, tmp_path / "both")
    assert status_of(["words", "--epochs", "2", "--output", "model", *arguments]) == 2
    told = capsys.readouterr().err
    assert told.startswith("netseq-train: ")
    assert said in told
    assert told.count("\n") == 1
    assert not (tmp_path / "model").exists()


def test_a_damaged_log_is_trained_on_and_exit_is_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = write_log(tmp_path / "conn.log")
    log.write_text(log.read_text() + "this is no connection\n")
    assert train(log, "--output", tmp_path / "office", "--quiet") == 1
    assert "could not be read" in capsys.readouterr().err
    assert load(tmp_path / "office").manifest.data[0].rows == 400


def test_captures_are_trained_on(shared_data: Path, tmp_path: Path) -> None:
    capture = shared_data / "captures" / "zeek_traces" / "http"
    assert train(capture, "--output", tmp_path / "web", "--quiet") in (0, 1)  # some of Zeek's traces are broken on purpose
    manifest = load(tmp_path / "web").manifest
    assert manifest.source_kind == "captures"
    assert "80/tcp" in manifest.vocabulary["learned"]


def test_the_shipped_model_fits_the_words_of_this_version() -> None:
    bundle = load(DEFAULT_MODEL)
    vocabulary = Vocabulary.from_json(bundle.manifest.vocabulary)
    assert vocabulary.sizes() == bundle.manifest.sizes
    assert bundle.calibration.n > 1000
    assert all(source.licence for source in bundle.manifest.data)
    assert sum(path.stat().st_size for path in DEFAULT_MODEL.iterdir()) < 3 << 20


def test_the_shipped_model_ranks_attacks_on_a_network_it_never_saw_above_its_benign_traffic(shared_data: Path) -> None:
    bundle = load(DEFAULT_MODEL)
    data = read(str(shared_data / "zeek" / "labelled" / "strato-011"))
    rows = rows_of(data, Vocabulary.from_json(bundle.manifest.vocabulary), benign_only=False)
    scorer = Scorer(bundle, conversations=4096, device=torch.device("cpu"))
    scored = scorer.score(rows.words, rows.slots, rows.restart, rows.hour, explain_p=0.0)
    assert auc(scored.verdict[rows.attack], scored.verdict[rows.benign]) > 0.97


def test_a_label_file_keeps_attacks_out_of_training_and_leaves_the_rest(tmp_path: Path) -> None:
    log = write_log(tmp_path / "conn.log")
    log.write_text(log.read_text().replace("\tBenign\t", "\t-\t"))
    (tmp_path / "labels.csv").write_text("dst_port,label\n443,Attack\n")
    assert train(log, "--labels", tmp_path / "labels.csv", "--output", tmp_path / "office", "--quiet") == 0
    manifest = load(tmp_path / "office").manifest
    assert manifest.vocabulary["learned"] == ["53/udp"]
    assert manifest.data[0].rows == 200


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["words", "--help"])
    assert end.value.code == 0
    told = capsys.readouterr().out
    for option in ("--output", "--parts", "--alphabet", "--from", "--attacks", "--seed", "--epochs", "--validation"):
        assert option in told


def test_compressed_logs_in_a_folder_are_one_data_set(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    for day in range(2):
        text = write_log(tmp_path / "conn.log", seed=day, flows=300).read_bytes()
        (folder / f"conn.{day}.log.gz").write_bytes(gzip.compress(text))
    assert train(folder, "--output", tmp_path / "office", "--quiet") == 0
    data = json.loads((tmp_path / "office" / "manifest.json").read_text())["data"]
    assert [source["rows"] for source in data] == [600]
