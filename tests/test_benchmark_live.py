"""The benchmark of the sensor on a wire: its arithmetic, what it reads of others' words, and a tiny run of it."""

from __future__ import annotations

import os
import re
import signal
import struct
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import live
from benchmarks.live_page import Page, curve_text, page, rate_rows
from benchmarks.live_runs import Run, check, check_flood, growth
from benchmarks.live_sensor import Metrics, parse, quantile_s, since
from benchmarks.live_wire import DOORS, PREFIX, Sent, missing, sent
from benchmarks.machine import Machine
from benchmarks.measure import CommandError
from benchmarks.run_live_flood import FRAME_BYTES, Told, syns
from benchmarks.table import Figure

SAID = """\
Actual: 5000001 packets (3177500000 bytes) sent in 8.19 seconds
Rated: 387973137.9 Bps, 3103.78 Mbps, 610501.00 pps
Statistics for network device: near0
	Successful packets:        5000001
	Failed packets:            {failed}
"""
METRICS = """\
# HELP netseq_flows_ended_total flows
netseq_flows_ended_total{end="full"} 7.0
netseq_flows_ended_total{end="closed"} 5.0
netseq_flows_ended_total{end="attempt"} 0.0
netseq_packets_read_total 1.5e+06
netseq_scoring_seconds_bucket{le="0.01"} 0.0
netseq_scoring_seconds_bucket{le="0.025"} 60.0
netseq_scoring_seconds_bucket{le="0.05"} 98.0
netseq_scoring_seconds_bucket{le="0.1"} 100.0
netseq_scoring_seconds_bucket{le="+Inf"} 100.0
"""


def run(*, read: int = 90, dropped: int = 10, in_flows: int = 85, skipped: int = 5) -> Run:
    counted = {"read": read, 'dropped{interface="far0"}': dropped, "in_flows": in_flows, 'skipped{reason="arp"}': skipped}
    names = {key if "{" in key else key + "{}": value for key, value in counted.items()}
    metrics = {re.sub(r"^(\w+)(\{.*)$", r"netseq_packets_\1_total\2", key): float(value) for key, value in names.items()}
    return Run(Sent(100, 6_000, 2.0, 1.5), Metrics(metrics), 0.5, 0.25, [100_000_000] * 30)


def told(**changes: int) -> Told:
    counters = {"packets_read": 12, "packets_in_flows": 10, "packets_skipped.arp": 2, "flows_ended.full": 6, "words_scored": 4}
    return Told(1000, counters | changes, {"flood": 2, "full": 0}, 9, 0.5, 0.7, 3.0, 1 << 29, [1 << 28] * 6)


def test_what_tcpreplay_says_is_read_and_a_frame_that_failed_ends_the_run() -> None:
    assert sent(SAID.format(failed=0)) == Sent(5_000_001, 3_177_500_000, 8.19, 0.0)
    assert round(sent(SAID.format(failed=0)).rate) == round(5_000_001 / 8.19)
    with pytest.raises(CommandError, match="could not send 3 frames"):
        sent(SAID.format(failed=3))
    with pytest.raises(CommandError, match="not understood"):
        sent("Successful packets: 12")


def test_metrics_are_read_with_their_labels_and_subtracted() -> None:
    now = parse(METRICS)
    assert now.total("netseq_flows_ended_total") == 12
    assert now.by_label("netseq_flows_ended_total") == {"full": 7, "closed": 5}
    later = parse(METRICS.replace("7.0", "9.0") + 'netseq_flows_ended_total{end="fin"} 4\n')
    assert since(now, later).by_label("netseq_flows_ended_total") == {"full": 2, "fin": 4}


def test_a_quantile_is_the_bound_of_its_bucket() -> None:
    now = parse(METRICS)
    assert [quantile_s(now, share) for share in (0.5, 0.6, 0.98, 0.99)] == [0.025, 0.025, 0.05, 0.1]
    with pytest.raises(CommandError, match="nothing was observed"):
        quantile_s(since(now, now), 0.5)


def test_a_packet_that_is_in_no_counter_is_found() -> None:
    assert check(run()) == ""
    assert check(run(read=89, in_flows=84)) == "89 packets read and 10 dropped, but 100 sent"
    assert check(run(in_flows=84)) == "84 packets in flows and 5 skipped, but 90 read"


def test_a_flow_of_the_flood_that_is_in_no_counter_is_found() -> None:
    assert check_flood(told()) == ""
    assert check_flood(told(packets_read=13)) == "13 packets read, but 12 in flows or skipped"
    assert check_flood(told(words_scored=3)) == "6 flows ended, but 5 scored or shed"


def test_growth_is_that_of_the_second_half() -> None:
    assert growth([100] * 50 + [200] * 50) == 0
    assert growth([100] * 60 + [110] * 40) == pytest.approx(0.1)
    with pytest.raises(CommandError, match="19 times only"):
        growth([100] * 19)


def test_each_attempt_of_the_flood_comes_from_an_address_of_its_own() -> None:
    frames = syns(np.arange(70_000, dtype=np.uint64)).reshape(-1, FRAME_BYTES)
    assert len(np.unique(np.ascontiguousarray(frames[:, 26:30]).view(">u4"))) == 70_000
    one = frames[69_999].tobytes()
    assert one[12:15] == b"\x08\x00\x45"
    assert struct.unpack("!IHH", one[26:30] + one[34:38]) == (69_999 * 0x9E37_79B1 % (1 << 32), 1024 + 9_999, 80)
    assert (one[30:34], one[23], one[47]) == (bytes((192, 0, 2, 1)), 6, 0x02)


def test_the_page_has_every_figure_and_every_run() -> None:
    results = Page([Figure("a figure", "12 s", "<= 10 s", met=False)], rate_rows([run()], []), "some traffic")
    results.curve, results.flood = curve_text(run()), told()
    text = page(results, Machine.here(3))
    assert "| a figure | 12 s | <= 10 s | missed |" in text
    assert "| netseq | 100 | 50 | 90 | 10 | 0 | 0 | 0.5, 1.5, 0.2 |" in text
    assert "| flows shed: flood | 2 |" in text
    assert "some traffic" in text


def test_who_is_not_root_is_told_and_so_is_the_package_of_a_missing_tool(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("shutil.which", lambda tool, path=None: None if tool == "tcpreplay" else f"/usr/bin/{tool}")
    assert live.main([]) == 2
    error = capfd.readouterr().err
    assert "not root" in error
    assert "apt-get install tcpreplay\n" in error


@pytest.mark.root
@pytest.mark.slow
def test_a_tiny_run_measures_and_leaves_nothing_behind(capfd: pytest.CaptureFixture[str]) -> None:
    if lacking := missing():
        pytest.skip("; ".join(lacking))
    before = live.PAGE.read_bytes()
    tiny = live.Extent(runs=1, starts=1, seconds=2, packets=1_000_000, addresses=20_000)
    original, live.QUICK = live.QUICK, tiny
    try:
        assert live.main(["--quick", "--only", "start,flood"]) == 0
    finally:
        live.QUICK = original
    said = capfd.readouterr().out
    assert "start to READY" in said
    assert "SYN flood" in said
    assert live.PAGE.read_bytes() == before
    assert not list(DOORS.glob(f"{PREFIX}{os.getpid()}-*"))


@pytest.mark.root
@pytest.mark.slow
def test_ctrl_c_takes_the_namespaces_away() -> None:
    if lacking := missing():
        pytest.skip("; ".join(lacking))
    command = [sys.executable, "-m", "benchmarks.live", "--quick", "--only", "rate"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stderr is not None
        while "measuring rate" not in (line := process.stderr.readline()):
            assert line, "it ended"
        assert len(list(DOORS.glob(f"{PREFIX}{process.pid}-*"))) == 2
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)
    assert not list(DOORS.glob(f"{PREFIX}{process.pid}-*"))
