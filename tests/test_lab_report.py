"""The report on a run of the laboratory: a run made of the bundled capture stands in for a real one."""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import msgspec
import numpy as np
import pytest
from conftest import DATA
from lab import report
from lab.output import COLUMNS, Instance, Manifest, label_lines
from lab.report_fresh import over, over_rule, told_us
from lab.report_read import Run, read_run
from lab.report_scores import FLOWS, RULES, TOGETHER, WORDS, Models, Told, score
from lab.report_tables import alerted, instances_tables, noticed, ranked
from lab.site import Host, LabError, Line, Site

from models.checkpoint import DEFAULT_MODEL, load
from models.measures import RATES
from models.multiflow_checkpoint import DEFAULT_PACKETS
from models.multiflow_checkpoint import load as load_flows
from sensor.commands.datasets import read
from sensor.commands.label_files import labelled
from sensor.commands.replay import main as replay
from sensor.config import Settings
from sensor.labels import Labels
from sensor.schema import END_ACTIVE, END_ATTEMPT, END_CLOSED, END_IDLE, END_REUSED, FLOW

WORKSTATION, SERVER, PRINTER, CONTROLLER = "141.142.220.118", "141.142.220.50", "141.142.220.60", "203.0.113.66"
ATTACKS = {
    "scan_connect-1": ("PortScan", (Line(WORKSTATION, PRINTER, protocol="tcp"), Line(WORKSTATION, SERVER, protocol="tcp"))),
    "ssh_guess-1": ("Patator", (Line(WORKSTATION, SERVER, dst_port="22", protocol="tcp"),)),
    "bot-1": ("Bot", (Line(WORKSTATION, CONTROLLER),)),
    "bot-2": ("Bot", (Line("192.0.2.99", CONTROLLER),)),
}
"""What make_demo.py put into the capture, and a bot that nobody heard of."""


def make_run(folder: Path) -> Path:
    """The bundled capture as a run's folder; every attack lasts as long as its flows."""
    (folder / "instances").mkdir(parents=True)
    (folder / "logs").mkdir()
    (folder / "logs" / "tool.log").write_text("done, all of it\n")
    (folder / "capture.pcap").write_bytes(gzip.decompress((DATA / "demo.pcap.gz").read_bytes()))
    data = read(str(DATA / "demo.pcap.gz"))
    truth = labelled(data, [Labels.read(DATA / "demo-labels.csv")]).labels
    told = []
    for name, (label, lines) in ATTACKS.items():
        begun = data.flows["first_us"][truth == label]
        start_us, end_us = int(begun.min()), int(begun.max())
        told.append(
            Instance(name, name.split("-")[0], label, "workstation", ("server",), start_us, end_us, lines, tool="make_demo")
        )
        (folder / "instances" / f"{name}.json").write_bytes(msgspec.json.encode(told[-1]))
    site = Site((Host("workstation", "office", "inside", (WORKSTATION,)),), "lab.example", 900.0, 30.0)
    site.write(folder / "hosts.json")
    start_us = int(data.flows["first_us"].min())
    (folder / "labels.csv").write_text("\n".join(label_lines(site, told, [], {}, start_us)) + "\n")
    Manifest(
        "0", "demo.toml", "test", 3, 900.0, 30.0, start_us, start_us + 900_000_000, "whole", "netem", {}, [], {}, [], {}, {}
    ).write(folder)
    return folder


def arguments(*given: object) -> argparse.Namespace:
    """The command line, read as the laboratory's own command does."""
    parser = argparse.ArgumentParser()
    report.add_parser(parser.add_subparsers())
    return parser.parse_args(["report", *map(str, given)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("lab") / "test")


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return read_run(folder)


@pytest.fixture(scope="module")
def told(run: Run) -> Told:
    return score(run, Models(load(DEFAULT_MODEL), load_flows(DEFAULT_PACKETS)), [], 1)


def place_of(run: Run, name: str) -> int:
    return next(place for place, one in enumerate(run.told) if one.name == name)


def test_every_flow_of_an_attack_has_its_instance_and_no_other_has_one(run: Run) -> None:
    counts = {one.name: int((run.of == place).sum()) for place, one in enumerate(run.told)}
    assert counts == {"scan_connect-1": 75, "ssh_guess-1": 26, "bot-1": 3, "bot-2": 0}
    assert not (run.data.attack ^ (run.of >= 0)).any()
    assert set(run.by_kind().labels.tolist()) == {"", "scan_connect", "ssh_guess", "bot"}


def test_labels_are_gathered_into_classes_where_these_know_them(run: Run) -> None:
    fine = np.where(
        run.data.labels == "Patator", "SSH-Patator", np.where(run.data.labels == "Bot", "DNS-Tunnel", run.data.labels)
    )
    gathered = run._replace(data=run.data._replace(labels=fine)).by_class().labels
    assert set(gathered.tolist()) == {"", "PortScan", "Patator", "DNS-Tunnel"}
    np.testing.assert_array_equal(gathered == "", run.data.labels == "")


def test_alerts_together_are_those_of_a_replay_with_both_models(
    run: Run, told: Told, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = ["--set", f"model.multiflow={DEFAULT_PACKETS}", "--output", str(tmp_path), "--quiet"]
    assert replay([str(run.folder / "capture.pcap"), *given]) == 0
    lines = (tmp_path / "alerts.jsonl").read_text().splitlines()
    assert sum(map(len, told.alerts[TOGETHER].values())) == len(lines) > 0
    capfd.readouterr()


def test_words_and_rules_alert_apart(told: Told) -> None:
    both = {row: len(many) for row, many in told.site.alerts.items()}
    apart = {row: len(told.alerts[WORDS].get(row, ())) + len(told.alerts[RULES].get(row, ())) for row in both}
    assert apart == both
    assert told.alerts[WORDS]


def test_an_instance_is_noticed_when_the_flow_of_its_first_alert_has_ended(run: Run, told: Told) -> None:
    seen = dict(zip((one.name for one in run.told), noticed(told, run), strict=True))
    assert seen["bot-2"].flows == 0
    assert {seen["bot-2"].cell(voice) for voice in told.alerts} == {"no flows"}
    rows = np.flatnonzero(run.of == place_of(run, "scan_connect-1"))
    hit = next(row for row in rows.tolist() if row in told.alerts[TOGETHER])
    begun_us, flow = run.data.flows["first_us"][rows].min(), run.data.flows[hit]
    assert flow["end"] == END_CLOSED
    after_s = (flow["last_us"] + 5_000_000 - begun_us) / 1e6  # refused: five seconds until a sensor is sure of its end
    heard = seen["scan_connect-1"].heard[TOGETHER]
    assert heard.after_s == pytest.approx(after_s)
    assert not heard.before
    kinds, each = instances_tables(told, run)
    assert [row[0] for row in kinds.rows] == ["bot", "scan_connect", "ssh_guess"]
    assert kinds.rows[0][1] == 1  # the one that has no flows is not counted as missed
    assert len(each.rows) == 4


def test_the_alerts_of_a_watch_over_what_was_judged_are_the_voices_own(told: Told) -> None:
    settings = Settings()
    for voice in (WORDS, FLOWS):
        watch = told.judged[voice].watch(settings, settings.detect.budget_per_day, settings.detect.quiet_s)
        rows = slice(0, len(told.judged[voice].flows))
        assert told.judged[voice].show(watch, rows) == list(told.alerts[voice])


def test_an_attack_is_timed_whose_conversation_had_alerted_before_it(run: Run, told: Told) -> None:
    """A second attack by the same host: no alert of its own within the quiet time, and a time all the same."""
    scan = np.flatnonzero(run.of == place_of(run, "scan_connect-1"))
    first = told.fresh[FLOWS][place_of(run, "scan_connect-1")]
    assert first in told.alerts[FLOWS]
    of = run.of.copy()
    later = scan[scan > first]
    of[later] = place_of(run, "bot-2")
    again = run._replace(of=of)
    judged, settings = told.judged[FLOWS], Settings()
    budget = settings.detect.budget_per_day
    fresh = {**told.fresh, FLOWS: over(judged, of, settings, budget)}
    second = fresh[FLOWS][place_of(run, "bot-2")]
    assert second == later[judged.p_value[later] <= min(settings.detect.max_p, budget / judged.per_day)][0]
    heard = noticed(told._replace(fresh=fresh, alerts={**told.alerts, FLOWS: {first: told.alerts[FLOWS][first]}}), again)
    found = heard[place_of(run, "bot-2")]
    waited_s = (told_us(run.data.flows, settings)[second] - run.data.flows["first_us"][later].min()) / 1e6
    assert found.heard[FLOWS].after_s == pytest.approx(waited_s)
    assert found.heard[FLOWS].before
    assert found.cell(FLOWS) == f"told before ({waited_s:.1f})"


def test_what_no_flow_of_an_attack_would_have_told_is_missed_also_in_a_quiet_time(run: Run, told: Told) -> None:
    guess = place_of(run, "ssh_guess-1")
    before = int(np.flatnonzero(told.judged[FLOWS].slots == told.judged[FLOWS].slots[run.of == guess][0])[0])
    some = next(iter(told.alerts[TOGETHER].values()))
    heard = told._replace(alerts=told.alerts | {FLOWS: {before: some}}, fresh=told.fresh | {FLOWS: {}})
    assert noticed(heard, run._replace(of=np.where(run.of == guess, guess, -1)))[guess].cell(FLOWS) == "missed"


def test_a_sweep_is_timed_whose_source_has_swept_before(run: Run, told: Told) -> None:
    scan = place_of(run, "scan_connect-1")
    rows = np.flatnonzero(run.of == scan)
    once = np.tile(run.data.flows[rows], 2)[:100]
    once["dst_hi"], once["dst_lo"] = once["dst_hi"][0], once["dst_lo"][0]
    once["dst_port"] = np.arange(100)
    once["first_us"] = once["last_us"] = run.data.flows["first_us"][0] + np.arange(100)
    every = np.concatenate([once, once])
    assert [over_rule(once, np.where(np.arange(100) < count, 0, -1), Settings()) for count in (90, 91)] == [{}, {0: 90}]
    assert over_rule(every, np.repeat([0, 1], 100), Settings()) == {0: 90, 1: 190}  # its own flows alone
    quiet = told._replace(alerts={voice: {} for voice in told.alerts}, fresh={voice: {} for voice in told.fresh})
    quiet.fresh[RULES] = {scan: int(rows[-1])}
    found = noticed(quiet, run)
    assert [found[scan].cell(voice) for voice in (WORDS, FLOWS)] == ["missed"] * 2
    assert found[scan].heard[RULES].before
    others = {one.cell(RULES) for place, one in enumerate(found) if place != scan}
    assert others == {"missed", "no flows"}


def test_a_sensor_has_a_flow_when_its_time_out_is_over() -> None:
    flows = np.zeros(6, FLOW)
    flows["first_us"], flows["last_us"] = 0, 2_000_000
    flows["end"] = [END_REUSED, END_ATTEMPT, END_CLOSED, END_ACTIVE, END_IDLE, END_REUSED]
    assert (told_us(flows, Settings()) / 1e6).tolist() == [2, 5, 7, 120, 122, 122]  # never before what ended before it


def test_each_voice_is_ranked_by_flow_and_by_hour(run: Run, told: Told) -> None:
    flows, hours = ranked(told, run.by_kind(), "kind", resamples=0, seed=1)
    assert flows.head[:2] == ("attack", "rows")
    assert {"words, verdict", FLOWS, TOGETHER, "frequencies, nats of the word"} <= set(flows.head)
    assert [row[:2] for row in flows.rows] == [("bot", 3), ("scan_connect", 75), ("ssh_guess", 26), ("any attack", 104)]
    cell = flows.rows[1][flows.head.index("words, verdict")]
    assert isinstance(cell, str)
    assert len(cell.split(" · ")) == 1 + len(RATES)
    assert "136 benign rows are too few to tell a rate of 0.001 or 0.0001" in flows.note
    assert hours.rows[-1][1] < flows.rows[-1][1]  # type: ignore[operator]


def test_a_days_alerts_are_extrapolated_from_packet_time(run: Run, told: Told) -> None:
    false, *by_kind = alerted(told, run)
    a_day = 86_400 / run.seconds
    assert [table.title.split(" by ")[1] for table in by_kind] == [WORDS, FLOWS, RULES, TOGETHER]
    for table, (voice, *counts, false_a_day) in zip(by_kind, false.rows, strict=True):
        numbers = [count for count in counts if isinstance(count, int)]
        assert sum(numbers) == sum(map(len, told.alerts[str(voice)].values()))
        assert false_a_day == pytest.approx(numbers[1] * a_day)
        for row in table.rows:
            alerts, daily = (row[table.head.index(name)] for name in ("alerts", "alerts a day"))
            assert isinstance(alerts, int)
            assert daily == pytest.approx(alerts * a_day)
        assert "extrapolated" in table.note


def test_a_report_with_runs_to_learn_from_has_the_simpler_things_beside_the_models(folder: Path, tmp_path: Path) -> None:
    learned = make_run(tmp_path / "train")
    out = tmp_path / "report.md"
    assert report.run(arguments(folder, "--train", learned, "--output", out)) == 0
    text = out.read_text()
    assert text.startswith("# test: run test, seed 3\n")
    for voice in ("LSTM alone, fitted", "frequencies alone, fitted", "bigram, nats of the service", "gradient boosting"):
        assert voice in text
    for instance in ATTACKS:
        assert f"| {instance} |" in text
    assert "working day" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in rows)


def test_what_was_learned_from_is_found_by_trees_and_what_was_not_is_no_better(run: Run, told: Told, tmp_path: Path) -> None:
    learned = score(run, Models(load(DEFAULT_MODEL), load_flows(DEFAULT_PACKETS)), [read_run(make_run(tmp_path / "x"))], 1)
    certain = learned.site.scores["gradient boosting"]
    assert certain[run.data.attack].min() > certain[~run.data.attack].max()  # it saw these very flows
    assert "gradient boosting" not in told.site.scores


@pytest.mark.parametrize(
    ("given", "told_"),
    [
        (("nowhere",), "nowhere: no such folder: name the folder of a run"),
        ((".",), ".: no labels.csv there: it holds no run of the laboratory"),
        (("RUN", "--word-model", "nowhere"), "nowhere: no model there"),
        (("RUN", "--train", "RUN"), "what is measured must not be learned from"),
        (("RUN", "--seed", "-1"), "--seed -1: give a number from 0 on"),
        (("RUN", "--output", "no/such/report.md"), "no/such/report.md: cannot be written"),
    ],
)
def test_what_cannot_work_is_told_in_one_line(
    given: tuple[str, ...], told_: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    named = [str(folder) if one == "RUN" else one for one in given]
    with pytest.raises(LabError) as refused:
        report.run(arguments("--output", "report.md", *named))
    assert told_ in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_run_whose_attacks_left_no_flows_is_refused(folder: Path, tmp_path: Path) -> None:
    empty = make_run(tmp_path / "run")
    (empty / "labels.csv").write_text(f"{COLUMNS}\n,,,,,,,BENIGN,\n")
    with pytest.raises(LabError, match="no flow has an attack's label"):
        report.run(arguments(empty, "--output", tmp_path / "report.md"))
