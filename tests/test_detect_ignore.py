"""The list of what never alerts: which alerts match which lines, what is counted, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from conftest import DATA, said
from test_engine import engine as word_engine
from test_engine import in_blocks, replayed

from sensor.commands import replay
from sensor.detect_ignore import Ignored, IgnoreRefused
from sensor.labels import Labels
from sensor.schema import Alert

DEMO = DATA / "demo.pcap.gz"


def an_alert(**changes: object) -> Alert:
    """An alert of the replayed traffic, changed."""
    known = {"ts_us": 1_700_000_000_000_000, "src": "10.0.0.5", "src_port": 4000, "dest": "192.0.2.9", "dest_port": 443}
    return msgspec.structs.replace(replayed()[0][0], **(known | {"transport": "tcp"} | changes))


def listed(text: str) -> Ignored:
    return Ignored(Labels.parse(text.encode(), "ours.csv"))


def is_kept(text: str, **changes: object) -> bool:
    one, ignored = an_alert(**changes), listed(text)
    kept = ignored.keep([one])
    assert kept in ([one], [])
    assert ignored.count == 1 - len(kept)
    return bool(kept)


@pytest.mark.parametrize(
    "line",
    [
        "src,label\n10.0.0.5,our scanner",
        "src,label\n10.0.0.0/24,",
        "dst,label\n10.0.0.5,both ways",
        "src,dst_port,protocol,label\n10.0.0.5,443,tcp,backup",
        "dst_port,label\n400-500,benign",
        "from,to,label\n2023-11-14,2023-11-14,that day",
        "label\neverything",
    ],
)
def test_an_alert_that_matches_a_line_is_ignored_whatever_the_label_says(line: str) -> None:
    assert not is_kept(line)


@pytest.mark.parametrize(
    "line",
    [
        "src,label\n10.0.0.6,our scanner",
        "dst,both,label\n10.0.0.5,no,not as the other host",
        "src,dst_port,label\n10.0.0.5,444,backup",
        "protocol,label\nudp,backup",
        "from,to,label\n2023-11-15,2023-11-16,another day",
    ],
)
def test_an_alert_that_matches_no_line_is_kept(line: str) -> None:
    assert is_kept(line)


def test_an_exception_goes_before_the_lines_behind_it() -> None:
    lines = "src,dst_port,label\n10.0.0.5,443,alert\n10.0.0.5,,our scanner"
    assert is_kept(lines)
    assert not is_kept(lines, dest_port=80)
    assert not is_kept("src,dst_port,label\n10.0.0.5,,our scanner\n10.0.0.5,443,alert")


@pytest.mark.parametrize(
    ("transport", "line", "kept"),
    [
        ("icmp", "protocol,label\nicmp,pings", False),
        ("icmp6", "protocol,label\nicmp6,pings", False),
        ("icmp", "dst_port,label\n443,not a port but a type", True),
        ("sctp", "protocol,dst_port,label\nsctp,443,x", False),
        ("47", "protocol,label\ngre,tunnel", False),
        ("253", "protocol,label\n253,x", False),
        ("254", "protocol,label\n253,x", True),
    ],
)
def test_protocols_are_those_of_label_files(transport: str, line: str, kept: bool) -> None:
    assert is_kept(line, transport=transport) == kept


def test_addresses_of_both_versions_match_their_own_networks() -> None:
    assert not is_kept("src,label\n2001:db8::/32,x", src="2001:db8::5")
    assert is_kept("src,label\n0.0.0.0/0,x", src="2001:db8::5", dest="2001:db8::6")
    assert is_kept("src,label\n2001:db8::/32,x")


def test_of_many_alerts_those_that_match_go_and_the_order_stays() -> None:
    alerts = [an_alert(dest_port=port) for port in (443, 80, 443, 22, 80)]
    ignored = listed("dst_port,both,label\n80,no,web")
    assert [alert.dest_port for alert in ignored.keep(alerts)] == [443, 443, 22]
    assert ignored.counters() == {"alerts_ignored": 2}


def test_alerts_of_the_engine_are_ignored_by_the_hosts_that_they_name() -> None:
    alerts = in_blocks(word_engine(), [])
    host = alerts[0].src
    kept = listed(f"src,label\n{host},ours").keep(alerts)
    assert 0 < len(kept) == sum(host not in (alert.src, alert.dest) for alert in alerts) < len(alerts)


def test_no_list_keeps_everything_and_counts_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("# none yet\nsrc,label\n")
    for ignored in (Ignored(), Ignored.read(""), Ignored.read(tmp_path / "empty.csv")):
        assert ignored.keep([an_alert()]) == [an_alert()]
        assert not any(ignored.counters().values())


@pytest.mark.parametrize(
    ("content", "said_of_it"),
    [
        ("src,label\n10.0.0.300,x\n", "ours.csv:2: src is '10.0.0.300': give an address"),
        ("src,label\n10.0.0.300,x\n1,2,3\n", r"ours.csv:2: .* \(and 1 more\)$"),
        ("", "ours.csv:1: the header names no column 'label'"),
        ("host,label\n", "ours.csv:1: the header names a column 'host'"),
    ],
)
def test_a_bad_list_is_one_line_that_names_setting_file_and_place(tmp_path: Path, content: str, said_of_it: str) -> None:
    (tmp_path / "ours.csv").write_text(content)
    with pytest.raises(IgnoreRefused, match=said_of_it) as refusal:
        Ignored.read(tmp_path / "ours.csv")
    assert str(refusal.value).startswith(f"detect.ignore: {tmp_path}/ours.csv")
    assert "\n" not in str(refusal.value)


def test_a_list_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.csv", tmp_path):
        with pytest.raises(IgnoreRefused, match=rf"^detect.ignore: {path}: (No such file|Is a directory)"):
            Ignored.read(path)


def replayed_json(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[list[dict[str, object]], str]:
    assert (
        replay.main([*arguments, "--json", "--set", "detect.max_p=1", "--set", "detect.budget_per_day=1000000", str(DEMO)]) == 0
    )
    out, err = said(capfd)
    return [json.loads(line) for line in out.splitlines()], err


def test_netseq_replay_writes_no_ignored_alert_and_says_how_many_there_were(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    everything, _ = replayed_json(capfd)
    host = str(everything[0]["src"])
    (tmp_path / "ours.csv").write_text(f"src,label\n{host},our scanner\n")
    some, err = replayed_json(capfd, "--set", f"detect.ignore={tmp_path}/ours.csv")
    ignored = [alert for alert in everything if host in (alert["src"], alert["dest"])]
    assert some == [alert for alert in everything if alert not in ignored]
    assert ignored
    assert f"{'ignored':<14}{len(ignored):>14,}  alerts that detect.ignore names\n" in err


def test_netseq_replay_refuses_a_bad_list_before_it_reads_anything(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "ours.csv").write_text("src,label\nx,y\n")
    assert replay.main(["--set", f"detect.ignore={tmp_path}/ours.csv", str(DEMO)]) == 2
    out, err = said(capfd)
    assert out == ""
    assert err.startswith(f"netseq-replay: detect.ignore: {tmp_path}/ours.csv:2: src is 'x'")
    assert err.count("\n") == 1
