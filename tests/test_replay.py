"""netseq-replay as a user meets it: what it prints, writes and returns, on good input and on bad."""

from __future__ import annotations

import gzip
import json
import os
import pty
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import said

from sensor import config
from sensor.commands import replay, terminal
from sensor.metrics import losses, split
from sensor.schema import Alert, Reason

DATA = Path(__file__).parent / "data"
DEMO = DATA / "demo.pcap.gz"
RESULT = re.compile(r"^(\w+) +([\d,]+)", re.MULTILINE)


class Run(NamedTuple):
    status: int
    out: str
    err: str


Replay = Callable[..., Run]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Replay:
    """Run the command in this process, which has the slow imports behind it."""

    def call(*arguments: str | Path) -> Run:
        try:
            status = replay.main([str(argument) for argument in arguments])
        except SystemExit as end:  # argparse ends the process on misuse
            status = int(end.code or 0)
        return Run(status, *said(capfd))

    return call


def totals(text: str) -> dict[str, int]:
    return {name: int(number.replace(",", "")) for name, number in RESULT.findall(text)}


@pytest.fixture
def plain_demo(tmp_path: Path) -> Path:
    path = tmp_path / "demo.pcap"
    path.write_bytes(gzip.decompress(DEMO.read_bytes()))
    return path


def test_the_demo_gives_alerts_with_reasons_and_a_summary_that_adds_up(run: Replay) -> None:
    ended = run(DEMO)
    assert ended.status == 0
    told = totals(ended.out)
    assert told["alerts"] >= 1
    assert (
        len(re.findall(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (?:low|medium|high|critical) ", ended.out, re.MULTILINE))
        == told["alerts"]
    )
    assert "most unusual is" in ended.out
    assert told["packets"] > told["flows"] > told["conversations"] > 0


def test_json_is_alone_on_standard_output_and_the_summary_on_the_other(run: Replay) -> None:
    ended = run("--json", DEMO)
    lines = [json.loads(line) for line in ended.out.splitlines()]
    assert len(lines) == totals(ended.err)["alerts"] > 0
    assert all(next(iter(line)) == "ts" and line["reasons"] for line in lines)


def test_output_writes_the_same_alerts_as_json_and_a_notice_log_beside(run: Replay, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "found"
    ended = run("--json", "--notice", "--output", folder, DEMO)
    assert (folder / "alerts.jsonl").read_text() == ended.out
    notice = (folder / "notice.log").read_text().splitlines()
    assert notice[0] == "#separator \\x09"
    assert notice[-1].startswith("#close\t")
    assert len([line for line in notice if not line.startswith("#")]) == len(ended.out.splitlines())
    assert f"written       {folder}/alerts.jsonl" in ended.err


def test_a_second_run_replaces_the_files_of_the_first(run: Replay, tmp_path: Path) -> None:
    run("--quiet", "--output", tmp_path, DEMO)
    first = (tmp_path / "alerts.jsonl").read_bytes()
    run("--quiet", "--output", tmp_path, DEMO)
    assert (tmp_path / "alerts.jsonl").read_bytes() == first


def test_notice_alone_goes_to_standard_output_in_the_form_that_is_set(run: Replay) -> None:
    assert run("--notice", DEMO).out.startswith("#separator")
    lines = run("--notice", "--set", "output.notice_form=json", DEMO).out.splitlines()
    assert all(json.loads(line)["note"] == "NetSeq::Sequence_Anomaly" for line in lines)


def test_quiet_says_nothing_but_alerts(run: Replay) -> None:
    ended = run("--quiet", "--json", DEMO)
    assert ended.err == ""
    assert ended.out.count("\n") == len(ended.out.splitlines()) > 0


def test_alerts_do_not_depend_on_how_the_input_is_cut_into_blocks(run: Replay, plain_demo: Path) -> None:
    assert run("--quiet", "--json", "--set", "source.block_frames=7", plain_demo).out == run("--quiet", "--json", DEMO).out


@pytest.mark.parametrize("size", [1, 50])
def test_alerts_depend_on_the_size_of_a_batch_in_the_last_digits_only(run: Replay, size: int) -> None:
    """A matrix product of another height adds up in another order."""
    whole = [json.loads(line) for line in run("--quiet", "--json", DEMO).out.splitlines()]
    pieces = [
        json.loads(line) for line in run("--quiet", "--json", "--set", f"model.batch_flows={size}", DEMO).out.splitlines()
    ]
    assert len(pieces) == len(whole)
    for one, other in zip(pieces, whole, strict=True):
        for alert in (one, other):
            numbers = [alert.pop(name) for name in ("score", "verdict", "p_value", "per_day")]
            alert["numbers"] = pytest.approx(numbers, rel=1e-3) if alert is other else numbers
            alert.pop("reasons")
        assert one == other


def test_standard_input_gives_the_same_alerts_as_the_file(run: Replay, plain_demo: Path) -> None:
    command = [sys.executable, "-m", "sensor.commands.replay", "--quiet", "--json", "-"]
    with plain_demo.open("rb") as stream:
        piped = subprocess.run(command, stdin=stream, capture_output=True, check=True, timeout=120)
    assert piped.stdout.decode() == run("--quiet", "--json", plain_demo).out


def test_a_lower_budget_gives_fewer_alerts(run: Replay) -> None:
    few = run("--json", "--set", "detect.budget_per_day=0.001", DEMO).out.splitlines()
    assert len(few) < len(run("--json", DEMO).out.splitlines())


def test_a_cut_capture_is_replayed_up_to_the_break_and_told_with_its_place(run: Replay, plain_demo: Path) -> None:
    size = plain_demo.stat().st_size
    os.truncate(plain_demo, size - 20)
    ended = run("--json", plain_demo)
    assert ended.status == 1
    told = re.match(rf"netseq-replay: {plain_demo}: damaged at byte (\d+): \w+", ended.err)
    assert told is not None
    assert size - 2000 < int(told[1]) < size
    assert ended.out


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.pcap", b""),
        ("letter.txt", b"Dear Sir or Madam\n"),
        ("zeros.pcap", bytes(1000)),
        ("picture.png", b"\x89PNG\r\n\x1a\n"),
        ("x.gz", b"\x1f\x8b\x08"),
    ],
)
def test_a_file_that_is_no_capture_is_one_line_and_status_2(run: Replay, tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert_refused(run("--json", path), str(path))


def assert_refused(ended: Run, part: str) -> None:
    assert ended.status == 2
    assert ended.out == ""
    assert ended.err.count("\n") == 1
    assert part in ended.err


def test_a_folder_without_captures_is_refused(run: Replay, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("Dear Sir or Madam\n")
    assert_refused(run(tmp_path), str(tmp_path))


def test_files_in_a_folder_that_are_no_captures_are_counted(run: Replay, tmp_path: Path) -> None:
    shutil.copy(DEMO, tmp_path)
    (tmp_path / "letter.txt").write_text("Dear Sir or Madam\n")
    ended = run(tmp_path)
    assert ended.status == 0
    assert re.search(r" 1  files in folders that are no captures", ended.out)


def test_a_missing_file_is_refused(run: Replay, tmp_path: Path) -> None:
    assert_refused(run(tmp_path / "absent.pcap"), "no such file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_refused(run: Replay, plain_demo: Path) -> None:
    plain_demo.chmod(0)
    assert_refused(run(plain_demo), "permission denied")


def test_no_file_is_misuse(run: Replay) -> None:
    assert_refused(run(), "no FILE given")


def test_json_and_notice_do_not_share_standard_output(run: Replay) -> None:
    assert_refused(run("--json", "--notice", DEMO), "add --output DIR")


def test_a_log_and_a_capture_in_one_run_are_refused(run: Replay, conn_log: Path) -> None:
    assert_refused(run(conn_log, DEMO), "name them one after the other")


def test_an_unknown_option_is_misuse(run: Replay) -> None:
    ended = run("--jsno", DEMO)
    assert ended.status == 2
    assert "unrecognized arguments: --jsno" in ended.err


def test_an_unknown_setting_names_the_nearest_one(run: Replay) -> None:
    assert_refused(run("--set", "detect.buget_per_day=3", DEMO), "did you mean detect.budget_per_day?")


def test_a_device_that_is_not_here_is_refused(run: Replay) -> None:
    assert_refused(run("--set", "model.device=cuda:63", DEMO), "model.device is cuda:63")


@pytest.mark.parametrize("content", [None, "{}", "not JSON"])
def test_a_model_that_cannot_be_used_is_one_line(run: Replay, tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    assert_refused(run("--model", tmp_path, DEMO), str(tmp_path))


def test_show_config_prints_what_config_reads(run: Replay, tmp_path: Path) -> None:
    path = tmp_path / "sensor.toml"
    path.write_text(run("--set", "flows.idle_s=7", "--show-config").out)
    assert config.load(path) == config.load(None, ["flows.idle_s=7"])


def test_on_a_full_disk_whole_lines_stay_and_the_status_is_1(run: Replay, tmp_path: Path) -> None:
    run("--quiet", "--output", tmp_path, DEMO)
    whole = (tmp_path / "alerts.jsonl").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) - 10, limits[1]))  # the write over it fails, as on a full disk
    try:
        ended = run("--quiet", "--output", tmp_path, DEMO)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert ended.status == 1
    assert f"cannot write alerts to {tmp_path}/alerts.jsonl: File too large" in ended.err
    assert (tmp_path / "alerts.jsonl").read_bytes() == b"".join(whole.splitlines(keepends=True)[:-1])


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full is Linux's")
@pytest.mark.parametrize("options", [["--json"], ["--notice"], []])
def test_standard_output_that_takes_nothing_is_an_error(
    run: Replay, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        ended = run(*options, DEMO)
    assert ended.status == 1
    assert "cannot write alerts to standard output: No space left on device" in ended.err


def test_a_reader_that_goes_away_ends_the_run_without_a_word(run: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.close(read)
    with open(write, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert run("--json", DEMO) == Run(141, "", "")


def test_appending_to_a_file_keeps_what_was_in_it(run: Replay, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "all.jsonl"
    path.write_text("before\n")
    with path.open("a") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        run("--json", DEMO)
    lines = path.read_text().splitlines()
    assert lines[0] == "before"
    assert all(json.loads(line)["ts"] for line in lines[1:])
    assert len(lines) > 1


def test_a_terminal_gets_a_table_and_progress_on_standard_error() -> None:
    seen = at_a_terminal([sys.executable, "-m", "sensor.commands.replay", str(DEMO)])
    assert "severity" in seen
    assert "expected" in seen
    assert totals(seen.replace("\r", ""))["alerts"] > 0


def at_a_terminal(command: list[str]) -> str:
    """Run a command with a pseudo-terminal as its standard output and error; returns what it wrote."""
    leader, follower = pty.openpty()
    with subprocess.Popen(
        command, stdout=follower, stderr=follower, env=os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    ) as process:
        os.close(follower)
        seen = b""
        while chunk := read_or_end(leader):
            seen += chunk
        assert process.wait(timeout=120) == 0
    os.close(leader)
    return seen.decode()


def read_or_end(fd: int) -> bytes:
    try:
        return os.read(fd, 65536)
    except OSError:  # Linux reports the end of a terminal's other side as an I/O error
        return b""


@pytest.fixture
def conn_log(shared_data: Path) -> Path:
    return shared_data / "golden" / "zeek" / "wikipedia.trace" / "tsv" / "conn.log"


def test_a_conn_log_is_known_by_its_content_and_replayed(run: Replay, conn_log: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "connections"
    shutil.copy(conn_log, renamed)
    ended = run(renamed)
    assert ended.status == 0
    rows = [line for line in conn_log.read_text().splitlines() if not line.startswith("#")]
    assert totals(ended.out)["flows"] == len(rows)
    assert "packets" not in totals(ended.out)
    assert re.search(r"flows .* a second", run(renamed).out)  # the first run may have compiled: it tells no rate


def test_a_folder_with_logs_is_replayed_as_logs(run: Replay, conn_log: Path) -> None:
    assert totals(run(conn_log.parent).out)["flows"] == totals(run(conn_log).out)["flows"]


def test_a_line_that_cannot_be_read_is_damage(run: Replay, conn_log: Path, tmp_path: Path) -> None:
    broken = tmp_path / "conn.log"
    broken.write_text(conn_log.read_text() + "1300475168.0\tcut\n")
    ended = run(broken)
    assert ended.status == 1
    line = len(broken.read_text().splitlines())
    assert ended.err.startswith(f"netseq-replay: {broken}: damaged at line {line}: ")
    assert ended.err.count("\n") == 1
    assert "rows of a log that gave no flow" in ended.out


ALERT = Alert(
    ts_us=1_700_000_000_000_000, signature="NetSeq::Sequence_Anomaly", severity="high", src="2001:db8::1", src_port=5,
    dest="192.0.2.1", dest_port=22, transport="tcp", community_id="1:x", uid="C\x1b[2J", score=3.0, verdict=2.0,
    p_value=0.001, per_day=0.5, count=1, first_seen_us=0, last_seen_us=0, model="m 1",
    reasons=(Reason("service", "22/tcp", 0.001, "443/tcp", 0.6, 6.9, "lstm"),), msg="a \x1b[31mred\n message",
)  # fmt: skip


def test_text_from_the_network_cannot_command_the_terminal() -> None:
    line = terminal.plain(ALERT)
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    assert "[2001:db8::1]:5 -> 192.0.2.1:22/tcp" in line


def test_a_time_that_no_calendar_has_is_still_told() -> None:
    assert terminal.stamp(1_700_000_000_000_000) == "2023-11-14 22:13:20"
    assert terminal.stamp(2**62) == "4611686018427 s"
    assert terminal.stamp(-(2**62)) == "-4611686018427 s"


def test_the_table_is_bounded_and_says_what_it_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    table = terminal.AlertTable()
    for _ in range(3):
        table.write([ALERT] * 100)
    table.close()
    seen = capsys.readouterr().out
    assert seen.count("high") == terminal.TABLE_ROWS
    assert "100 more alerts are not shown" in seen


def test_the_summary_tells_losses_that_are_not_zero() -> None:
    counters = {"packets_read": 10, "packets_skipped.arp": 3, "packets_skipped.not_ip": 4, "conversations_evicted": 0}
    told = terminal.summary(counters, [], 1.0)
    assert told.index("4  frames that gave no packet: not ip") < told.index("3  frames that gave no packet: arp")
    assert "forgotten because" not in told


def test_a_link_type_that_is_not_decoded_is_named_and_counted_once() -> None:
    told = terminal.summary(
        {"packets_skipped.link_type": 6, "link_types_unknown.127": 5, "link_types_unknown.9999": 1}, [], 1.0
    )
    assert "5  frames of a link type that is not decoded: 127 (IEEE 802.11 with radiotap header)\n" in told
    assert "1  frames of a link type that is not decoded: 9999\n" in told
    assert "gave no packet" not in told


def test_a_counter_that_is_not_in_the_table_is_an_error() -> None:
    with pytest.raises(KeyError):
        split("packets_dropped")
    with pytest.raises(KeyError):
        split("packets_skipped")
    assert list(losses({"alerts_raised": 3})) == []


def test_the_summary_counts_the_alerts_of_models_and_of_rules() -> None:
    told = terminal.summary({"alerts_raised": 2, "alerts_by_rule.flood": 1, "flows_over_rule.flood": 7_000}, [], 1.0)
    assert "alerts                     3  standing for 7,002 flows\n" in told
    assert "standing" not in terminal.summary({"alerts_raised": 2}, [], 1.0)
