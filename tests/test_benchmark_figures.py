"""What the benchmark tells is what it measured: process accounting, medians, ratios, verdicts, tables."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import comparison, measure, peers, promises, table
from benchmarks.comparison import NETSEQ, Input
from benchmarks.machine import Machine
from benchmarks.measure import CommandError, Spread, Usage
from benchmarks.peers import Peer
from benchmarks.run_flows import FlowRun
from benchmarks.table import Comparison, Figure, Results, Tool

BURN = "import time\nwhile time.process_time() < 0.3: pass\n"
CORES = measure.available_cores()
C_LOOP = Peer("libpcap loop", ("count",), "1")
ABSENT = Peer("NFStream", (), "", "not installed: pip install nfstream")


def usage(cpu_s: float, told: FlowRun | None = None) -> Usage:
    return Usage(cpu_s, cpu_s, 1 << 20, msgspec.json.encode(told).decode() if told else "")


def test_cpu_seconds_of_children_are_counted() -> None:
    parent = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BURN!r}], check=True)\n"
    used = measure.run([sys.executable, "-c", parent], CORES[:1])
    assert 0.3 <= used.cpu_s < 3
    assert used.wall_s >= 0.3


def test_peak_memory_is_the_commands_own_and_not_its_starters() -> None:
    ballast = np.ones(25_000_000)  # 200 MB in this process
    small = measure.run([sys.executable, "-c", "pass"], CORES)
    large = measure.run([sys.executable, "-c", "bytearray(80 << 20)"], CORES)
    assert len(ballast) == 25_000_000
    assert small.peak_bytes < 60 << 20
    assert large.peak_bytes > 80 << 20


def test_command_that_fails_or_is_missing_raises_with_its_last_words() -> None:
    with pytest.raises(CommandError, match=r"status 3: no luck"):
        measure.run([sys.executable, "-c", "import sys; sys.stderr.write('no luck\\n'); sys.exit(3)"], CORES)
    with pytest.raises(CommandError, match="could not be started"):
        measure.run(["/nowhere/at/all"], CORES)


def test_commands_take_turns_after_one_unmeasured_run_each() -> None:
    order: list[str] = []

    def one(name: str) -> Usage:
        order.append(name)
        return usage(len(order))

    usages = measure.alternate({"a": lambda: one("a"), "b": lambda: one("b")}, 2)
    assert "".join(order) == "ababab"
    assert [used.cpu_s for used in usages["a"]] == [3, 5]
    assert Spread.of([used.cpu_s for used in usages["b"]]) == Spread(5, 4, 6)


def test_rates_leave_start_up_out_and_ratios_are_taken_within_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    few, capture = Path("few"), Path("many")
    told = FlowRun(packets=1000, source_s=1, decode_s=3, flows_s=4)
    spent = {
        (NETSEQ.name, few): [1.0] * 4,
        (C_LOOP.name, few): [0.5] * 4,
        (NETSEQ.name, capture): [9.0, 2.0, 3.0, 5.0],  # the first is the warm-up
        (C_LOOP.name, capture): [9.0, 1.5, 4.5, 8.5],
    }
    monkeypatch.setattr(comparison, "once", lambda tool, path: usage(spent[tool.name, path].pop(0), told))
    compared, usages = comparison.compare(Input("title", capture, 1000), few, [NETSEQ, C_LOOP, ABSENT], 3)
    ours, loop, absent = compared.tools
    assert ours.rate == Spread(500, 250, 1000)  # 1,000 packets in 1, 2 and 4 s
    assert ours.rate_with_start == Spread.of([500, 1000 / 3, 200])
    assert ours.note == "source 12%, decode 38%, flows 50%"
    assert loop.ratio == Spread(2, 1, 2)  # 1, 4 and 8 s over 1, 2 and 4 s
    assert absent == Tool(ABSENT.name, "", note=ABSENT.absent)
    assert set(usages) == {NETSEQ.name, C_LOOP.name}


def test_start_up_that_cost_more_than_the_capture_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "once", lambda tool, path: usage(2.0 if path == Path("few") else 1.0))
    with pytest.raises(CommandError, match=r"libpcap loop took 2\.00 s to start and 1\.00 s in all"):
        comparison.compare(Input("title", Path("many"), 1000), Path("few"), [C_LOOP], 1)


def test_a_promise_is_kept_by_the_median_and_a_missing_peer_is_no_verdict() -> None:
    tools = (
        Tool(NETSEQ.name, "1", rate=Spread(4.6e6, 4.4e6, 5e6)),
        Tool("libpcap loop", "1", ratio=Spread(0.9, 0.8, 1.1)),
        Tool("argus (C)", "3", ratio=Spread(4.0, 3.9, 4.1)),
        Tool("NFStream", "", note="not installed"),
    )
    kept = comparison.figures(Comparison("", tools))
    assert [figure.verdict for figure in kept] == ["ok", "missed", "ok", ""]
    assert kept[3].measured == "not installed"
    assert comparison.figures(Comparison("", tools[1:])) == []


@pytest.mark.parametrize(
    ("counters", "wrong"),
    [
        ({"packets_read": 10, "packets_in_flows": 7, "packets_skipped.arp": 2, "packets_skipped.bad_ip_header": 1}, ""),
        ({"packets_read": 9, "packets_in_flows": 9}, "9 packets read of 10"),
        (
            {"packets_read": 10, "packets_in_flows": 8, "packets_skipped.arp": 1},
            "10 packets read, but 8 in flows and 1 skipped",
        ),
    ],
)
def test_counters_that_do_not_add_up_are_told(counters: dict[str, int], wrong: str) -> None:
    assert promises.discrepancy(counters, 10) == wrong


def test_peer_that_is_not_there_is_a_row_that_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(peers, "_try", lambda _: None)
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    for peer in peers.find_peers(tmp_path):
        assert peer.command == ()
        assert "install" in peer.absent


def test_only_what_stands_between_the_markers_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text("# before\n<!-- figures -->\nold\n<!-- /figures -->\nafter <!-- figures -->\n")
    assert table.put_between_markers(page, "new\n")
    assert page.read_text() == "# before\n<!-- figures -->\nnew\n<!-- /figures -->\nafter <!-- figures -->\n"
    page.write_text("<!-- /figures --> the wrong way round <!-- figures -->")
    assert not table.put_between_markers(page, "new\n")
    assert not table.put_between_markers(tmp_path / "absent.md", "new\n")
    assert page.read_text() == "<!-- /figures --> the wrong way round <!-- figures -->"


def test_tables_carry_every_figure_with_its_target_and_verdict() -> None:
    figures = (Figure("speed", "5 | 6", "4", met=True), Figure("memory", "2 GB", "1 GB", met=False), Figure("other", "absent"))
    tools = (
        Tool("loop", "1.2", Spread(8e6, 7e6, 9e6), Spread(7e6, 7e6, 7e6), Spread(1.5, 1, 2), 10_000_000),
        Tool("x", "", note="gone"),
    )
    results = Results(figures, (Comparison("capture", tools),))
    page = table.report(results, Machine.here(3), "how")
    assert "| speed | 5 \\| 6 | 4 | ok |" in page
    assert "| memory | 2 GB | 1 GB | missed |" in page
    assert "| loop | 1.2 | 8.000 (7.000-9.000) | 7.000 (7.000-7.000) | 1.50 (1.00-2.00) | 10 MB |  |" in page
    short = table.summary(results, Machine.here(3))
    assert "| loop | 8.00 (7.00-9.00) | 1.5 (1.0-2.0) |" in short
    assert "| x | gone |  |" in short
    assert "memory  2 GB      1 GB    missed" in table.terminal(results)


def test_unknown_part_is_misuse(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["--only", "flows,peer"])
    assert ended.value.code == 2
    assert "unknown part 'peer': choose from flows" in capsys.readouterr().err


def test_a_whole_run_writes_both_pages_and_a_part_of_it_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page, results = tmp_path / "README.md", tmp_path / "benchmarks" / "RESULTS.md"
    results.parent.mkdir()
    page.write_text("<!-- figures -->\n<!-- /figures -->\n")
    monkeypatch.setattr(command, "HERE", results.parent)
    monkeypatch.setattr(command, "measure", lambda *_, **__: Results((Figure("speed", "5", "4", met=True),), ()))
    assert command.main(["--only", "flows"]) == command.main(["--quick"]) == command.main(["--no-write"]) == 0
    assert not results.exists()
    assert command.main(["--runs", "3"]) == 0
    assert "| speed | 5 | 4 | ok |" in page.read_text()
    assert "| speed | 5 | 4 | ok |" in results.read_text()
    assert "medians of 3 runs" in results.read_text()
    assert capsys.readouterr().out.count("speed   5         4       ok") == 4
