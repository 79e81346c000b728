"""How well a word model tells attacks from benign traffic that it never saw: the tables of docs/models.md, as Markdown.

    python -m benchmarks.word_models --model models/weights/default --labelled "$NETSEQ_DATA"/zeek/labelled \
        --training "$NETSEQ_DATA"/zeek/benign/m57-office ...

`$NETSEQ_DATA` stands for the folder of the public data sets. `--training` names what the model was trained on, as it was named
to netseq-train: the baselines (unigram, bigram, 5-gram) are counted on the same rows, and each voice gets a verdict of its
own, fitted on the same conversation-hours as the shipped one. Tests are strato-002, 003, 005 and 011; 008, 010 and remcos
only fit the verdict. 002, 003 and 005 carry no labels of their own: see `label`. Nothing here is needed to run netseq.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.assemble import NO_LIMIT, Evidence, Rows, fit, gather
from models.checkpoint import Bundle, load
from models.evaluate import auc, average_precision, conversation_hours, highest, recall_at
from models.resident import Scorer
from models.voices import Baselines, baselines, voices
from sensor.commands.datasets import DataSet, read
from sensor.commands.train import labelled_rows, rows_of
from sensor.words import Vocabulary

Floats = NDArray[np.floating]
Masks = NDArray[np.bool_]

FITTED = ("strato-008", "strato-010", "remcos-ctu-sme-11")
TESTS = ("strato-002", "strato-003", "strato-005", "strato-011")
BENIGN = ("strato-011", "ubuntu-2023-02-20")
"""Logs whose benign rows are pooled: a log by itself has too few to tell one false alarm in a thousand."""

MAPPED = 0xFFFF_0000_0000
RESOLVER, INFECTED = MAPPED | 0x08080808, MAPPED | 0xC0A80174  # 8.8.8.8 and 192.168.1.116
RAT_PORT, DNS, HTTP = 1337, 53, 80


class Test(NamedTuple):
    """A labelled log, run through a model."""

    rows: Rows
    evidence: Evidence
    flows: Mapping[str, Floats]
    """Scores of each row by each voice."""


def label(data: DataSet) -> DataSet:
    """Label the logs that come without labels, by what their publisher says was done in them.

    002: the only host scans with nmap; its name look-ups are left out. 003: the remote access tool speaks to port 1337.
    005: the infected host's web requests; all name look-ups are left out, since Simda's are among them.
    """
    flows, name = data.flows, Path(data.path).name
    labels, unsure = data.labels.astype("U64"), data.unsure.copy()
    if name == "strato-002":
        labels[:] = "nmap"
        unsure |= flows["dst_lo"] == RESOLVER
    elif name == "strato-003":
        labels[flows["dst_port"] == RAT_PORT] = "remote access tool"
    elif name == "strato-005":
        labels[(flows["src_lo"] == INFECTED) & (flows["dst_port"] == HTTP)] = "Simda"
        unsure |= flows["dst_port"] == DNS
    labels[unsure] = ""
    return data._replace(labels=labels, unsure=unsure)


def run(bundle: Bundle, rows: Rows, against: Baselines) -> Test:
    """All scores of a labelled log's rows."""
    scorer = Scorer(bundle, conversations=int(rows.slots.max()) + 1, rounds=NO_LIMIT)
    scored = scorer.score(rows.words, rows.slots, rows.restart, rows.hour, explain_p=0.0)
    return Test(rows, gather(bundle, rows, 1.0), voices(rows, scored, against))


def hourly(bundle: Bundle, trained: Sequence[Evidence], tests: Mapping[str, Test]) -> dict[str, dict[str, Floats]]:
    """Scores of conversation-hours: {log: {voice: (H,)}}. The single voices get verdicts of their own."""
    fitted = [tests[name].evidence for name in FITTED]
    alone = {
        "LSTM alone, fitted": fit(trained, fitted, bundle.manifest.parts, voices=("lstm",)),
        "unigram alone, fitted": fit(trained, fitted, bundle.manifest.parts, voices=("rare",)),
        "frequencies alone, fitted": fit(trained, fitted, bundle.manifest.parts, voices=("rare", "given")),
    }
    found: dict[str, dict[str, Floats]] = {}
    for name, test in tests.items():
        hours = conversation_hours(test.rows.slots, test.rows.restart, test.rows.hour)
        evidence = test.evidence
        found[name] = {voice: highest(scores, hours) for voice, scores in test.flows.items() if voice == "verdict"}
        for voice, weights in alone.items():
            found[name][voice] = highest(weights.verdict(evidence.largest, evidence.mean), hours)
        found[name] |= {voice: highest(scores, hours) for voice, scores in test.flows.items() if voice != "verdict"}
    return found


def table(
    title: str, scores: Mapping[str, Mapping[str, Floats]], attack: Mapping[str, Masks], benign: Mapping[str, Masks]
) -> str:
    """One Markdown table: voices down, logs across; AUC, average precision, recall at 0.1 % and at 1 % false alarms."""
    pool = {voice: np.concatenate([scores[log][voice][benign[log]] for log in BENIGN]) for voice in scores[TESTS[0]]}
    lines = [f"**{title}**", "", "| | " + " | ".join(TESTS) + " |", "| --- |" + " --- |" * len(TESTS)]
    counts = [f"{int(attack[log].sum())} / {int(benign[log].sum())}" for log in TESTS]
    lines.append("| attacks / benign | " + " | ".join(counts) + " |")
    for voice, pooled in pool.items():
        cells = []
        for log in TESTS:
            hits, own = scores[log][voice][attack[log]], scores[log][voice][benign[log]]
            against = own if len(own) else pooled
            cells.append(
                f"{auc(hits, against):.3f} · {auc(hits, pooled):.3f} · {average_precision(hits, pooled):.2f}"
                f" · {recall_at(hits, pooled, 0.001):.2f} · {recall_at(hits, pooled, 0.01):.2f}"
            )
        lines.append(f"| {voice} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the tables of one model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--labelled", type=Path, required=True)
    parser.add_argument("--training", nargs="+", required=True)
    parser.add_argument("--validation", type=float, default=0.2)
    arguments = parser.parse_args()
    bundle = load(arguments.model)
    vocabulary = Vocabulary.from_json(bundle.manifest.vocabulary)
    training = [rows_of(read(path), vocabulary, benign_only=True) for path in arguments.training]
    training = [rows for rows in training if len(rows.words)]
    against = baselines(training, bundle.manifest.sizes, arguments.validation)
    logs = {name: label(read(str(arguments.labelled / name))) for name in {*TESTS, *FITTED, *BENIGN}}
    tests = {name: run(bundle, labelled_rows(data, vocabulary, arguments.training), against) for name, data in logs.items()}
    trained = [gather(bundle, rows, arguments.validation) for rows in training]
    flows = {name: test.flows for name, test in tests.items()}
    print(f"{bundle.manifest.name} {bundle.manifest.version}, {bundle.manifest.weights_sha256[:12]}\n")
    print("Cells: AUC against the log's own benign · AUC, average precision, recall at 0.1 % and at 1 % false alarms")
    print("against the pooled benign (strato-011 and ubuntu); 002 has no benign of its own.\n")
    print(
        table(
            "Conversation-hours",
            hourly(bundle, trained, tests),
            {name: test.evidence.attack for name, test in tests.items()},
            {name: test.evidence.benign for name, test in tests.items()},
        )
    )
    print(
        table(
            "Flows",
            flows,
            {name: test.rows.attack for name, test in tests.items()},
            {name: test.rows.benign for name, test in tests.items()},
        )
    )


if __name__ == "__main__":
    main()
