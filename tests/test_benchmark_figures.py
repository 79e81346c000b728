"""What the benchmark tells is what it measured: process accounting, medians, ratios, verdicts, tables."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import comparison, measure, peers, promises, run_flows, run_table, synthetic, table, written
from benchmarks.comparison import FLOWS, STATISTICS, Input
from benchmarks.machine import Machine
from benchmarks.measure import CommandError, Spread, Usage
from benchmarks.peers import Peer
from benchmarks.run_flows import FlowRun
from benchmarks.synthetic import Shape
from benchmarks.table import Comparison, Figure, Results, Tool
from benchmarks.written import Capture
from sensor.schema import FLOW
from sensor.spellings import STATISTICS as COLUMNS

BURN = "import time\nwhile time.process_time() < 0.3: pass\n"
CORES = measure.available_cores()
C_LOOP = Peer("libpcap loop", ("count",), "1")
ABSENT = Peer("NFStream", (), "", "not installed: pip install nfstream")
SLOW = Peer("slow", ("crawl",), "1", packets=10)


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
    few, capture, short = Path("few"), Path("many"), Path("short")
    told = FlowRun(packets=1000, source_s=1, decode_s=3, flows_s=4)
    spent = {
        (FLOWS.name, few): [1.0] * 4,
        (C_LOOP.name, few): [0.5] * 4,
        (FLOWS.name, capture): [9.0, 2.0, 3.0, 5.0],  # the first is the warm-up
        (STATISTICS.name, few): [1.0] * 4,
        (STATISTICS.name, capture): [9.0, 3.0, 5.0, 9.0],
        (SLOW.name, few): [1.0] * 4,
        (SLOW.name, short): [9.0, 2.0, 2.0, 2.0],
        (C_LOOP.name, capture): [9.0, 1.5, 4.5, 8.5],
    }
    monkeypatch.setattr(comparison, "once", lambda tool, path: usage(spent[tool.name, path].pop(0), told))
    tools = [FLOWS, STATISTICS, C_LOOP, ABSENT, SLOW]
    shorter = {SLOW.name: Input("", short, 10)}
    compared, usages = comparison.compare(Input("title", capture, 1000), few, tools, 3, shorter)
    ours, statistics, loop, absent, slow = compared.tools
    assert ours.rate == Spread(500, 250, 1000)  # 1,000 packets in 1, 2 and 4 s
    assert ours.rate_with_start == Spread.of([500, 1000 / 3, 200])
    assert ours.note == "source 12%, decode 38%, flows 50%"
    assert ours.ratios == statistics.ratios == ()
    assert loop.ratios == (Spread(2, 1, 2), Spread(1, 0.5, 1))  # 1, 4 and 8 s over 1, 2 and 4 s, and over 2, 4 and 8 s
    assert absent == Tool(ABSENT.name, "", note=ABSENT.absent)
    assert slow.rate == Spread(10, 10, 10)
    assert slow.ratios == (Spread(50, 25, 100), Spread(25, 12.5, 50))  # its ten packets a second beside ours of the turn
    assert slow.note == "on 10 packets"
    assert set(usages) == {tool.name for tool in tools} - {ABSENT.name}


def test_start_up_that_cost_more_than_the_capture_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "once", lambda tool, path: usage(2.0 if path == Path("few") else 1.0))
    with pytest.raises(CommandError, match=r"libpcap loop took 2\.00 s to start and 1\.00 s in all"):
        comparison.compare(Input("title", Path("many"), 1000), Path("few"), [C_LOOP], 1)


def test_a_promise_is_kept_by_the_median_and_a_missing_peer_is_no_verdict() -> None:
    tools = (
        Tool(FLOWS.name, "1", rate=Spread(4.6e6, 4.4e6, 5e6)),
        Tool("libpcap loop", "1", ratios=(Spread(0.9, 0.8, 1.1), None)),
        Tool("argus (C)", "3", ratios=(Spread(4.0, 3.9, 4.1), None)),
        Tool("NFStream", "", note="not installed"),
    )
    kept = comparison.figures(Comparison("", tools))
    assert [figure.verdict for figure in kept] == ["ok", "missed", "ok", ""]
    assert kept[3].measured == "not installed"
    assert comparison.figures(Comparison("", tools[1:])) == []


def test_statistics_are_held_to_their_own_promises() -> None:
    tools = (
        Tool(STATISTICS.name, "1", rate=Spread(3.6e6, 3.4e6, 4e6), note="source 60%, statistics 40%"),
        Tool("NFStream", "6", ratios=(None, Spread(34.9, 34, 36))),
        Tool("CICFlowMeter (Java)", "", note="not there"),
    )
    rate, over_nfstream, over_java = comparison.figures(Comparison("", tools))
    assert (rate.verdict, rate.target) == ("ok", "3.5 million")
    assert rate.measured == "3.60 (3.40-4.00) million packets/s; source 60%, statistics 40%"
    assert (over_nfstream.verdict, over_nfstream.target) == ("missed", "35 times")
    assert (over_java.verdict, over_java.target) == ("", "90 times")
    assert over_java.measured.startswith("not measured in this run (not there); beside the 0.03 to 0.04 million packets")
    assert over_java.measured.endswith("90 to 120 times")


def test_every_ended_flow_gets_all_statistics_in_batches_of_the_engine(tmp_path: Path) -> None:
    path, contents = synthetic.write(Shape(packets=18_000, packets_per_flow=8), tmp_path)
    without, run = run_flows.measured(str(path)), run_flows.measured(str(path), statistics=True)
    assert run.flows == without.flows >= contents.flows > 2048
    assert comparison.check_counters(without, contents.packets) == ""
    assert comparison.check_counters(run, contents.packets, len(COLUMNS)) == ""
    assert run.numbers > 0 < run.statistics_s
    assert without.statistics_s == 0
    run.numbers -= 1
    assert "statistics of" in comparison.check_counters(run, contents.packets, len(COLUMNS))


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
    monkeypatch.delenv(peers.JAVA, raising=False)
    for peer in peers.find_peers(tmp_path, tmp_path / "few.pcap"):
        assert peer.command == ()
        assert "install" in peer.absent


def test_java_command_that_the_user_names_is_measured_once_it_has_written_flows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    few, program = tmp_path / "few.pcap", tmp_path / "cfm"
    program.write_text('#!/bin/sh\nprintf "Flow ID\\na-b\\n" > "$2/$(basename "$1")_Flow.csv"\n')
    program.chmod(0o755)
    monkeypatch.setenv(peers.JAVA, f"'{program}'")
    peer = peers.find_java(tmp_path, few)
    assert (peer.command, peer.absent) == ((str(program),), "")
    assert (Path(peer.after[0]) / "few.pcap_Flow.csv").read_text() == "Flow ID\na-b\n"
    program.write_text('#!/bin/sh\necho "Flow ID" > "$2/empty.csv"\n')
    silent = peers.find_java(tmp_path, few)
    assert silent.command == ()
    assert silent.absent == f"installed, but writes no flows: {program}"


def test_a_tool_gets_its_other_arguments_behind_the_capture() -> None:
    tool = Peer("echo", (sys.executable, "-c", "import sys; print(sys.argv[1:])"), "", after=("folder",))
    assert comparison.once(tool, Path("capture")).output == "['capture', 'folder']\n"


def test_flood_of_one_pair_is_held_to_the_median_of_how_much_longer_it_takes() -> None:
    told = [{"flood": 12.0, "ordinary": 1.0}, {"flood": 20.0, "ordinary": 2.0}, {"flood": 3.0, "ordinary": 1.0}]
    kept = promises.slower(told)
    assert (kept.measured, kept.target, kept.verdict) == ("10.00 (3.00-12.00) times the CPU time", "at most 10", "ok")
    assert promises.slower([{"flood": 1.01, "ordinary": 0.1}]).verdict == "missed"


def test_parts_of_a_flow_row_add_up_to_its_bytes() -> None:
    whole, *shares = map(int, re.findall(r"\d+", promises.row_parts()))
    side, periods, rest, spare = shares
    assert whole == FLOW.itemsize == 2 * side + periods + rest + spare


def test_full_flow_table_takes_the_memory_of_its_arrays() -> None:
    told = run_table.measured()
    assert told.flows == 262_144
    assert told.bytes["rows"] == told.flows * FLOW.itemsize
    grown, arrays = told.full_bytes - told.before_bytes, sum(told.bytes.values())
    assert 0.8 * told.bytes["rows"] < grown < 1.3 * arrays  # a test's process has memory to use again, and other threads


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
        Tool("loop", "1.2", Spread(8e6, 7e6, 9e6), Spread(7e6, 7e6, 7e6), (Spread(1.5, 1, 2), None), 10_000_000),
        Tool("x", "", note="gone"),
    )
    results = Results(figures, (Comparison("capture", tools),))
    page = table.report(results, Machine.here(3), "how")
    assert "| speed | 5 \\| 6 | 4 | ok |" in page
    assert "| memory | 2 GB | 1 GB | missed |" in page
    assert "| loop | 1.2 | 8.000 (7.000-9.000) | 7.000 (7.000-7.000) | 1.50 (1.00-2.00) |  | 10 MB |  |" in page
    short = table.summary(results, Machine.here(3))
    assert "| loop | 8.000 (7.000-9.000) | 1.5 (1.0-2.0) |  |" in short
    assert "| x | gone |  |  |" in short
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


def write_rows(monkeypatch: pytest.MonkeyPatch, told: dict[tuple[str, str], tuple[float, int]]) -> None:
    """Let writing a kind of table from a capture take so many seconds and give so many rows."""

    def one(capture: Path, kind: str, kept: list[written.Written]) -> Usage:
        wall_s, rows = told[capture.name, kind]
        kept.append(written.Written(rows, 10 * rows, usage(wall_s)))
        return kept[-1].usage

    monkeypatch.setattr(written, "write", one)


def test_flows_a_second_are_promised_where_a_flow_has_few_packets(monkeypatch: pytest.MonkeyPatch) -> None:
    few, many, long = Path("few"), Capture(Path("many"), 4_000, 1_000), Capture(Path("long"), 16_000, 1_000)
    times = {("few", "csv"): 1.0, ("few", "parquet"): 1.5, ("many", "csv"): 1.01, ("long", "csv"): 2.0}
    told = {place: (wall_s, 1_200) for place, wall_s in (times | {("many", "parquet"): 2.5, ("long", "parquet"): 2.5}).items()}
    write_rows(monkeypatch, told)
    monkeypatch.setattr(written, "writable", lambda: ["csv", "parquet"])
    found = written.figures([many, long], few, 2)
    assert [(figure.target, figure.verdict) for figure in found] == [
        ("100,000", "ok"),
        ("300,000", "missed"),
        ("", ""),
        ("", ""),
    ]
    assert found[1].measured.startswith("1,200 (1,200-1,200) flows/s; 0.00 million packets/s, 10 bytes a flow, 1.50 s start-up")
    told["many", "parquet"] = (2.5, 1_199)
    with pytest.raises(CommandError, match="tables of different lengths from many"):
        written.figures([many], few, 1)


def test_parquet_without_pyarrow_is_a_figure_that_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows(monkeypatch, {("few", "csv"): (1.0, 10), ("many", "csv"): (2.0, 1_000)})
    monkeypatch.setattr(written, "writable", lambda: ["csv"])
    _, parquet = written.figures([Capture(Path("many"), 4_000, 1_000)], Path("few"), 1)
    assert parquet.measured == "pyarrow is not installed: pip install 'netseq[parquet]'"
    assert parquet.verdict == ""


def test_rows_are_counted_in_the_table(tmp_path: Path) -> None:
    table = tmp_path / "flows.csv"
    table.write_bytes(b"Flow ID,Label\n" + b"a-b,x\n" * 3)
    assert written.count_rows(table) == 3
