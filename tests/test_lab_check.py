"""The laboratory's labels, written and checked: what a run's folder must hold so that the check has nothing to complain of."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from capture_writer import Frame, simple_pcap
from lab import output, programs
from lab.__main__ import main
from lab.check import check, disturbed
from lab.check_flows import owners_of
from lab.output import Begun, Instance, label_lines
from lab.site import Attack, Event, Host, LabError, Line, Plan, Site
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from sensor.labels import Labels

START_US = 1_700_000_000_000_000
ALICE, WEB, EVE, FAR = "192.0.2.101", "192.0.2.10", "198.51.100.110", "198.51.100.10"
SITE = Site(
    (
        Host("alice", "office", "inside", (ALICE,)),
        Host("web", "server", "inside", (WEB,), services=("http",)),
        Host("eve", "attacker", "outside", (EVE,)),
        Host("far", "internet", "outside", (FAR,), services=("http",)),
    ),
    "lab.example",
    60.0,
    120.0,
)
PLAN = Plan(
    (Event(5.0, "alice", "web", 1), Event(31.0, "alice", "web", 2)),
    (
        Attack("scan_syn-1", "scan_syn", 10.0, 5.0, "eve", ("web",), 1),
        Attack("ssh_guess-1", "ssh_guess", 16.0, 5.0, "eve", ("web",), 2),
    ),
)


def instance(name: str, begin_s: float, end_s: float, *lines: Line, label: str = "PortScan", attacker: str = "eve") -> Instance:
    times = START_US + round(begin_s * 1e6), START_US + round(end_s * 1e6)
    return Instance(
        name, name.rpartition("-")[0], label, attacker, ("web",), *times, lines or (Line(EVE, WEB),), outcome="done"
    )


SCAN = instance("scan_syn-1", 10.0, 15.0)
GUESS = instance("ssh_guess-1", 16.0, 21.0, Line(EVE, WEB, dst_port="22", protocol="tcp"), label="SSH-Patator")


def syn(at_s: float, src: str, dst: str, port: int = 80, src_port: int = 40_000) -> Frame:
    return frame(at_s, IP(src=src, dst=dst) / TCP(sport=src_port, dport=port, flags="S"))


def frame(at_s: float, packet: Packet) -> Frame:
    data = bytes(Ether() / packet)
    return Frame(START_US + round(at_s * 1e6), data, len(data))


ORDINARY = (syn(5.0, ALICE, FAR), syn(31.0, ALICE, WEB))
ATTACKS = (syn(11.0, EVE, WEB, 1), syn(12.0, EVE, WEB, 2), syn(18.0, EVE, WEB, 22))


def a_run(
    folder: Path,
    *frames: Frame,
    told: tuple[Instance, ...] = (SCAN, GUESS),
    plan: Plan = PLAN,
    ended: str = "whole",
    site: Site = SITE,
) -> Path:
    """The folder of a run in which these frames were captured."""
    output.prepare(folder, replace=False)
    output.give_back_reserve(folder)
    site.write(folder / output.HOSTS)
    plan.write(folder / output.SCHEDULE)
    ordered = sorted(frames, key=lambda frame: frame.ts_us)
    (folder / output.CAPTURE).write_bytes(simple_pcap(ordered))
    for one in told:
        (folder / output.INSTANCES / f"{one.name}.json").write_bytes(msgspec.json.encode(one))
    begun = [
        Begun(one.name, START_US + round(one.at_s * 1e6), START_US + round((one.at_s + 1) * 1e6), 0) for one in plan.attacks
    ]
    output.write_labels(folder, site, plan, begun, START_US)
    output.Manifest(
        "1", "made.toml", "train", 1, 60.0, 120.0, START_US, START_US + 60_000_000, ended, "netem",
        {"captured": len(frames), "dropped": 0}, begun, {"done": 2}, [], {}, {},
    ).write(folder)  # fmt: skip
    return folder


def test_a_run_that_is_as_it_should_be_gives_no_complaint(tmp_path: Path) -> None:
    found = check(a_run(tmp_path / "run", *ORDINARY, *ATTACKS))
    assert found.complaints == []
    rows = [line.split() for line in found.text.splitlines()]
    assert ["benign", "2", "2"] in rows
    assert ["PortScan", "2", "1"] in rows
    assert ["SSH-Patator", "1", "1"] in rows


@pytest.mark.parametrize(
    ("frames", "complaint"),
    [
        ((*ORDINARY, *ATTACKS[:2]), "ssh_guess-1 has no flows"),
        ((*ORDINARY, *ATTACKS, syn(50.0, EVE, WEB, 80)), "eve: 1 flows of it have no attack's label (1 eve to web HTTP 80)"),
    ],
)
def test_a_capture_that_does_not_fit_its_labels_is_told(tmp_path: Path, frames: tuple[Frame, ...], complaint: str) -> None:
    assert [line for line in check(a_run(tmp_path / "run", *frames)).complaints if line.startswith(complaint)]


def test_an_ordinary_host_under_an_attacks_line_is_told(tmp_path: Path) -> None:
    wide = replace(SCAN, lines=(Line("", "192.0.2.0/24"),))
    run = a_run(tmp_path / "run", *ORDINARY, *ATTACKS, syn(13.0, ALICE, FAR, src_port=41_000), told=(wide, GUESS))
    assert check(run).complaints == ["scan_syn-1: 1 of its flows are between others (1 alice to far HTTP 80)"]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        (output.CAPTURE, None, "capture.pcap: it cannot be read: No such file or directory"),
        (output.CAPTURE, b"", "capture.pcap: nothing is in it"),
        (output.CAPTURE, b"nothing that anybody captured\n", "capture.pcap: it is no pcap"),
        (output.HOSTS, None, "hosts.json: not there"),
        (output.SCHEDULE, b"{", "schedule.json: Input data was truncated"),
        (output.LABELS, b"label\n", "labels.csv: there is no line after the header"),
    ],
)
def test_a_run_that_cannot_be_read_is_told_in_a_line(tmp_path: Path, name: str, content: bytes | None, told: str) -> None:
    run = a_run(tmp_path / "run", *ORDINARY, *ATTACKS)
    (run / name).unlink()
    if content is not None:
        (run / name).write_bytes(content)
    with pytest.raises(LabError, match=re.escape(told)) as refused:
        check(run)
    assert "\n" not in str(refused.value)


def test_an_ordinary_flow_to_an_attacker_of_the_inside_is_told(tmp_path: Path) -> None:
    """Whoever scans a server from within is asked by that server as well, as by one that monitors."""
    plan = Plan((), (Attack("scan_syn-1", "scan_syn", 10.0, 5.0, "alice", ("web",), 1),))
    scan = instance("scan_syn-1", 10.0, 15.0, Line(ALICE, WEB), attacker="alice")
    refused = IP(src=WEB, dst=ALICE) / ICMP(type=3, code=3) / IP(src=ALICE, dst=WEB) / UDP(sport=40_000, dport=7)
    scanned = (syn(11.0, ALICE, WEB, 1), frame(12.0, refused))
    assert check(a_run(tmp_path / "run", *scanned, told=(scan,), plan=plan)).complaints == []
    asked = syn(13.0, WEB, ALICE, 9100)
    complaints = check(a_run(tmp_path / "again", *scanned, asked, told=(scan,), plan=plan)).complaints
    assert complaints == ["scan_syn-1: 1 of its flows were begun by others (1 web to alice other TCP 9100)"]


C2 = "198.51.100.116"
BOT = Instance(
    "bot-1", "bot", "Bot", "alice", ("c2",), START_US + 10_000_000, START_US + 15_000_000,
    (Line(ALICE, C2, dst_port="8080", protocol="tcp"),),
)  # fmt: skip
BOTS = Plan((), (Attack("bot-1", "bot", 10.0, 5.0, "alice", ("c2",), 1),))
BOT_SITE = replace(SITE, hosts=(*SITE.hosts, Host("c2", "server", "outside", (C2,), services=("c2",))))


def a_bot(folder: Path, told: Instance = BOT) -> Path:
    """A bot that asks for commands, and what its host does besides."""
    return a_run(
        folder, *ORDINARY, syn(11.0, ALICE, C2, 8080), syn(12.0, ALICE, FAR, 443), told=(told,), plan=BOTS, site=BOT_SITE
    )


def test_an_attackers_own_ordinary_flows_under_its_attacks_line_are_told(tmp_path: Path) -> None:
    assert check(a_bot(tmp_path / "run")).complaints == []
    wide = replace(BOT, lines=(Line(ALICE),))
    complaint = "bot-1: 1 of its flows are between others (1 alice to far HTTPS 443)"
    assert check(a_bot(tmp_path / "wide", wide)).complaints == [complaint]
    everywhere = replace(BOT, lines=(Line(ALICE, "0.0.0.0/0"),))
    assert check(a_bot(tmp_path / "everywhere", everywhere)).complaints == [complaint]  # a bot is not quiet: its host does more


def test_an_attack_that_tries_addresses_may_try_those_of_nobody(tmp_path: Path) -> None:
    plan = Plan((), (Attack("infiltration-1", "infiltration", 10.0, 5.0, "alice", ("web",), 1),))
    tried = (syn(11.0, ALICE, "192.0.2.77", 22), syn(12.0, ALICE, WEB, 22))
    for name, network, count in (("whole", "192.0.2.0/24", 0), ("half", "192.0.2.0/26", 1)):
        lines = (Line(ALICE, network, dst_port="22", both=False), Line(ALICE, "192.0.2.64/26", dst_port="22"))
        told = instance("infiltration-1", 10.0, 15.0, *lines, label="Infiltration", attacker="alice")
        run = a_run(tmp_path / name, *tried, told=(told,), plan=plan)
        if count:
            path = run / output.INSTANCES / "infiltration-1.json"
            path.write_bytes(msgspec.json.encode(replace(told, lines=lines[:1])))
        between = [line for line in check(run).complaints if "between others" in line]
        assert between == ["infiltration-1: 1 of its flows are between others (1 alice to none of ours SSH 22)"] * count


def test_a_router_may_say_that_a_victim_is_down_and_nothing_else(tmp_path: Path) -> None:
    gateway = "198.51.100.1"
    routed = replace(SITE, hosts=(*SITE.hosts, Host("router", "router", "inside", ("192.0.2.1", gateway))))
    scan = replace(SCAN, lines=(Line(EVE, WEB), Line(gateway, EVE, protocol="icmp")))
    down = frame(13.0, IP(src=gateway, dst=EVE) / ICMP(type=3, code=1) / IP(src=EVE, dst=WEB) / TCP(sport=40_000, dport=1))
    pinged = frame(14.0, IP(src=gateway, dst=EVE) / ICMP(type=8, id=7))
    for name, more, told in (
        ("down", (down,), []),
        ("pinged", (down, pinged), ["scan_syn-1: 1 of its flows are between others (1 router to eve ICMP 0)"]),
    ):
        run = a_run(tmp_path / name, *ORDINARY, *ATTACKS, *more, told=(scan, GUESS), site=routed)
        assert check(run).complaints == told


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (
            "# all the rest\n",
            f"# all the rest\n,,{ALICE},,,,tcp,Bot,\n",
            [
                "labels.csv has 1 lines that no record gives (no attack): see instances/",
                "line 9 of labels.csv says Bot and belongs to no recorded attack: 2 flows (1 alice to far HTTP 80,"
                " 1 alice to web HTTP 80)",
            ],
        ),
        (
            "# all the rest\n",
            f"# all the rest\n,,{ALICE},,,,tcp,Unknown,\n",
            [
                "labels.csv has 1 lines that no record gives (no attack): see instances/",
                "line 9 of labels.csv says Unknown and belongs to no recorded attack: 2 flows (1 alice to far HTTP 80,"
                " 1 alice to web HTTP 80)",
            ],
        ),
        (
            ",PortScan,",
            ",Bot,",
            [
                "labels.csv has 1 lines that no record gives (scan_syn-1): see instances/",
                "labels.csv has 1 lines too few (scan_syn-1): see instances/",
                "scan_syn-1: 1 of its 1 lines say Bot, and its record PortScan",
            ],
        ),
    ],
)
def test_a_label_that_no_record_gives_is_told(tmp_path: Path, before: str, after: str, told: list[str]) -> None:
    run = a_run(tmp_path / "run", *ORDINARY, *ATTACKS)
    path = run / output.LABELS
    path.write_text(path.read_text().replace(before, after, 1))
    assert check(run).complaints == told


def test_lines_in_another_order_are_told(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", *ORDINARY, *ATTACKS)
    path = run / output.LABELS
    head, guess, scan, rest = re.split(r"(?=^# (?:ssh|scan|all))", path.read_text(), flags=re.MULTILINE)
    path.write_text(head + scan + guess + rest)
    assert [line for line in check(run).complaints if "another order" in line]


def test_a_record_with_the_label_of_another_kind_is_told(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", *ORDINARY, *ATTACKS, told=(replace(SCAN, label="Bot"), GUESS))
    assert check(run).complaints == ["scan_syn-1: its record says Bot, and a scan_syn is PortScan"]


def test_a_file_that_is_not_what_the_run_left_is_told(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", *ORDINARY, *ATTACKS)
    (run / output.DESCRIPTION).write_text("# made\n")
    manifest = output.Manifest.read(run)
    manifest.sha256 = output.digests(run)
    manifest.write(run)
    assert check(run).complaints == []
    (run / output.CAPTURE).write_bytes(
        simple_pcap(sorted((*ORDINARY, *ATTACKS, syn(50.0, ALICE, FAR)), key=lambda one: one.ts_us))
    )
    (run / output.DESCRIPTION).unlink()
    told = [line.split(":")[0] for line in check(run).complaints]
    assert told == [f"{name} is not the file that the run left" for name in (output.CAPTURE, output.DESCRIPTION)]


def test_an_attack_that_ended_badly_is_remarked_and_spoils_nothing(tmp_path: Path) -> None:
    broken = replace(GUESS, outcome="failed: ssh_guess-1: hydra ended with status 255")
    found = check(a_run(tmp_path / "run", *ORDINARY, *ATTACKS, told=(SCAN, broken)))
    assert found.complaints == []
    (remark,) = found.remarks
    assert remark == f"ssh_guess-1 ended badly; what it sent until then is labelled, 1 flows: {broken.outcome}"
    assert f"\nremarks\n  {remark}\n" in found.text


def test_an_attack_without_a_record_is_told_and_its_flows_are_nobodys(tmp_path: Path) -> None:
    found = check(a_run(tmp_path / "run", *ORDINARY, *ATTACKS, told=(SCAN,)))
    assert [line for line in found.complaints if line.startswith("ssh_guess-1 left no record")]
    labels = Labels.read(tmp_path / "run" / output.LABELS)
    assert [bool(unsure) for unsure in labels.unsure] == [False, True, False]


def test_a_run_that_was_interrupted_is_told_so_and_its_missing_attacks_are_not(tmp_path: Path) -> None:
    plan = Plan(PLAN.events, (*PLAN.attacks, Attack("slowloris-1", "slowloris", 40.0, 5.0, "eve", ("web",), 3)))
    run = a_run(tmp_path / "run", *ORDINARY, *ATTACKS, ended="interrupted by SIGINT")
    plan.write(run / output.SCHEDULE)
    assert check(run).complaints == ["the run was ended before its time: interrupted by SIGINT"]


def test_ordinary_events_in_the_time_of_a_quiet_attack_are_told() -> None:
    quiet = Attack("infiltration-1", "infiltration", 30.0, 10.0, "alice", ("web",), 4)
    told = [instance("infiltration-1", 30.0, 38.0, attacker="alice")]
    assert [line.split(":")[0] for line in disturbed(Plan(PLAN.events, (quiet,)), told, START_US)] == ["infiltration-1"]
    assert list(disturbed(Plan(PLAN.events[:1], (quiet,)), told, START_US)) == []
    for at_s, count in ((41.9, 1), (42.1, 0)):  # what begins within four seconds after its end has its label
        events = (Event(at_s, "alice", "web", 3),)
        assert len(list(disturbed(Plan(events, (quiet,)), told, START_US))) == count


def test_of_two_attacks_by_one_host_each_keeps_its_own_flows() -> None:
    """The second begins while the first still lingers."""
    lines = list(label_lines(SITE, [SCAN, replace(GUESS, lines=(Line(EVE, WEB),))], [], {}, START_US))
    labels = Labels.parse("\n".join(lines).encode(), "labels.csv")
    assert [line.label for line in labels.lines] == ["SSH-Patator", "PortScan", "BENIGN"]
    assert labels.lines[1].begins_us == (SCAN.start_us, SCAN.end_us + output.LINGER_US)


def test_every_line_of_a_label_file_knows_its_attack(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", *ORDINARY)
    path = run / output.LABELS
    assert owners_of(path, Labels.read(path)) == ["ssh_guess-1", "scan_syn-1", ""]


def test_what_a_tool_said_does_not_move_the_lines_of_a_label_file(tmp_path: Path) -> None:
    told = replace(SCAN, outcome="failed: half\ra line\u2028and another\x85"), GUESS
    path = a_run(tmp_path / "run", *ORDINARY, told=told) / output.LABELS
    assert owners_of(path, Labels.read(path)) == ["ssh_guess-1", "scan_syn-1", ""]


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(LabError, match=r"is not empty \(thesis\.txt\)"):
        output.prepare(tmp_path, replace=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_replacing_takes_away_what_a_run_left_and_nothing_else(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", *ORDINARY)
    output.prepare(run, replace=True)
    assert {path.name for path in run.iterdir()} == {output.INSTANCES, output.AGENTS, output.LOGS, output.RESERVE}
    (run / output.SCHEDULE).touch()
    (run / "notes.txt").write_text("mine")
    with pytest.raises(LabError, match=r"notes\.txt"):
        output.prepare(run, replace=True)
    assert (run / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("cut", [1, 40])
@pytest.mark.parametrize("big", [False, True])
def test_a_capture_that_ends_in_the_middle_of_a_packet_is_mended(tmp_path: Path, *, cut: int, big: bool) -> None:
    path, whole = tmp_path / "cut.pcap", simple_pcap(list(ORDINARY), big=big)
    one = simple_pcap(list(ORDINARY[:1]), big=big)
    path.write_bytes(whole[:-cut])
    assert output.mend(path) == len(whole) - cut - len(one)
    assert path.read_bytes() == one
    assert output.mend(path) == 0


def test_the_packages_that_are_installed_are_those_that_are_wanted() -> None:
    lines = (Path(programs.__file__).parent / "packages.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == sorted({program.package for program in programs.every()})


def test_a_missing_program_is_told_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "found", lambda name: None if name in {"nmap", "ethtool"} else name)
    with pytest.raises(LabError) as refused:
        programs.refuse_missing(SITE, PLAN)
    said = "ethtool (every run), nmap (attack scan_syn) are not installed: apt-get install ethtool nmap"
    assert str(refused.value) == said


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["check", "nowhere"], "nowhere/manifest.json: not there"),
        (["schedule", "nowhere.toml", "--seed", "1"], "nowhere.toml: No such file or directory"),
        (["schedule", "tests/lab/small.toml", "--seed", "1", "--seconds", "0"], "--seconds 0: give more than 0"),
    ],
)
def test_what_a_user_can_put_right_is_one_line(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(line)


def test_the_same_seed_gives_the_same_schedule_and_another_one_another(capsys: pytest.CaptureFixture[str]) -> None:
    told = []
    for seed in ("1", "1", "2"):
        assert main(["schedule", "tests/lab/small.toml", "--seed", seed, "--json"]) == 0
        told.append(capsys.readouterr().out)
    assert told[0] == told[1] != told[2]
