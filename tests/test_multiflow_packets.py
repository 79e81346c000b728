"""The multi-flow models for packets that come along: their label file, and what their page says they find."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from models.multiflow_checkpoint import DEFAULT_PACKETS, LAB, FlowBundle, folder_of, load
from models.resident_flows import FlowScorer
from sensor.commands import flowsets
from sensor.commands.classes import Classes
from sensor.labels import Labels

LABELS = Path(__file__).parents[1] / "models" / "labels" / "captures.csv"
TESTED = ("esnet/attacks/scanners/masscan", "zeek_traces/ftp", "elcabezzonn/windows_miscellany.pcap.pcapng.gz")


@pytest.fixture(scope="module")
def shipped() -> FlowBundle:
    return load(DEFAULT_PACKETS)


def confusion(bundle: FlowBundle, paths: list[Path]) -> dict[tuple[str, str], int]:
    """Flows by their class and the class that they were given, over whole captures."""
    names = bundle.manifest.classes
    labels, told = Labels.read(LABELS), [str(path) for path in paths]
    flows = flowsets.read(told, Classes(names), bundle.manifest.columns, labels=labels, sequence=bundle.manifest.sequence).flows
    scorer = FlowScorer(bundle, slots=int(flows.slots.max()) + 1, device=torch.device("cpu"))
    given = scorer.score(flows.rows, flows.slots, flows.restart, explain_p=0.0).probability.argmax(axis=1)
    pairs, counts = np.unique(np.stack([flows.label, given])[:, flows.label >= 0], axis=1, return_counts=True)
    return {
        (names[int(label)], names[int(told_as)]): int(count) for (label, told_as), count in zip(pairs.T, counts, strict=True)
    }


def test_every_attack_in_the_label_file_is_a_class_of_the_model(shipped: FlowBundle) -> None:
    classes = Classes(shipped.manifest.classes)
    told = {line.label for line in Labels.read(LABELS).lines} - {"Unknown"}
    assert {classes.names[classes.number(label if label != "BENIGN" else "")] for label in told} == set(classes.names)


def test_no_capture_that_it_is_tested_on_was_learned_from(shipped: FlowBundle) -> None:
    learned = {source.name for source in shipped.manifest.data}
    assert "stopddos/pkt.TCP.DOMINATE.syn.ecn.cwr.pcap.gz" in learned
    assert not learned & {"/".join(path.split("/")[-2:]) for path in TESTED}


def test_it_learned_from_every_statistic_but_two(shipped: FlowBundle) -> None:
    assert len(shipped.manifest.columns) == 90
    assert not {"Src Port", "Continued"} & set(shipped.manifest.columns)


@pytest.mark.slow
def test_it_finds_what_its_page_says(shared_data: Path, shipped: FlowBundle) -> None:
    scan, guesses, office = (confusion(shipped, [shared_data / "captures" / path]) for path in TESTED)
    assert scan["PortScan", "PortScan"] >= 1990
    assert guesses["Patator", "Patator"] >= 24
    assert guesses["Normal", "Normal"] >= 35
    assert office["Normal", "Normal"] >= 130
    assert office["Normal", "Bot"] >= 15, "if this office is no longer taken for a bot's, docs/models.md must say so"


def test_the_laboratory_s_model_has_the_paper_s_classes_and_no_flow_of_the_run_that_it_is_tested_on() -> None:
    manifest = load(LAB).manifest
    assert folder_of("lab", log=False) == folder_of("lab", log=True) == LAB
    assert set(manifest.classes) == {"Normal", "DDoS", "PortScan", "Bot", "Infiltration", "Web Attack", "Patator", "DoS"}
    assert {source.name for source in manifest.data if source.name.startswith("lab/")} == {"lab/train", "lab/validate"}


@pytest.mark.slow
def test_the_laboratory_s_model_finds_what_its_page_says(shared_data: Path) -> None:
    scan, guesses, office = (confusion(load(LAB), [shared_data / "captures" / path]) for path in TESTED)
    assert scan["PortScan", "PortScan"] >= 1880
    assert guesses["Patator", "DoS"] >= 25, "if guessed passwords are no longer taken for DoS, docs/models.md must say so"
    assert office["Normal", "Normal"] >= 130
