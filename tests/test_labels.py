"""Label files: what a line matches, told against a slow plain-Python truth, and what is refused."""

from __future__ import annotations

import ipaddress
import random
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sensor.addresses import halves, packed
from sensor.labels import TOLD_LINES, Labels, LabelsError
from sensor.schema import (
    FLOW,
    ICMP,
    LACKS_DST,
    LACKS_DST_PORT,
    LACKS_PROTOCOL,
    LACKS_SRC,
    LACKS_SRC_PORT,
    LACKS_TIME,
    TCP,
    UDP,
)

DAY_S = 1_499_385_600
"""2017-07-07T00:00:00Z."""
ATTACKER, VICTIM, OTHER = "172.16.0.1", "192.168.10.50", "2001:db8::7"


def flow(
    src: str, dst: str, *, begins_s: float = DAY_S, src_port: int = 50_000, dst_port: int = 80, protocol: int = TCP
) -> NDArray[np.void]:
    """One FLOW row."""
    row = np.zeros(1, FLOW)
    row["src_hi"], row["src_lo"] = halves(src)
    row["dst_hi"], row["dst_lo"] = halves(dst)
    row["src_port"], row["dst_port"], row["protocol"] = src_port, dst_port, protocol
    row["first_us"] = row["last_us"] = round(begins_s * 1e6)
    return row


def labels(*lines: str, header: str = "from,to,src,dst,src_port,dst_port,protocol,label") -> Labels:
    return Labels.parse("\n".join([header, *lines]).encode(), "labels.csv")


def matches(
    line: str, *flows: NDArray[np.void], header: str = "from,to,src,dst,src_port,dst_port,protocol,label"
) -> list[bool]:
    return [bool(found == 0) for found in labels(line, header=header).of(np.concatenate(flows))]


def test_the_first_line_that_matches_wins() -> None:
    read = labels(f",,{ATTACKER},{VICTIM},,80,tcp,DoS Hulk", f",,{ATTACKER},,,,,PortScan", ",,,,,,,BENIGN")
    flows = [flow(ATTACKER, VICTIM), flow(ATTACKER, VICTIM, dst_port=22), flow(OTHER, VICTIM)]
    assert [read.names[place] for place in read.of(np.concatenate(flows))] == ["DoS Hulk", "PortScan", ""]


def test_a_flow_that_no_line_matches_gets_none() -> None:
    read = labels(f",,{ATTACKER},,,,,PortScan")
    assert read.of(np.concatenate([flow(OTHER, VICTIM)])).tolist() == [-1]
    assert read.of(np.empty(0, FLOW)).tolist() == []


def test_a_flow_headed_the_other_way_belongs_to_the_line_with_its_ports_exchanged() -> None:
    there, back = flow(ATTACKER, VICTIM), flow(VICTIM, ATTACKER, src_port=80, dst_port=50_000)
    elsewhere = flow(VICTIM, ATTACKER, src_port=50_000, dst_port=80)
    assert matches(f",,{ATTACKER},{VICTIM},,80,,x", there, back, elsewhere) == [True, True, False]


def test_both_no_keeps_a_line_to_flows_that_src_began() -> None:
    header = "src,dst,dst_port,both,label"
    there, back = flow(ATTACKER, VICTIM), flow(VICTIM, ATTACKER, src_port=80, dst_port=50_000)
    assert matches(f"{ATTACKER},{VICTIM},80,no,x", there, back, header=header) == [True, False]


@pytest.mark.parametrize("network", ["192.168.10.0/24", "192.168.10.50/32", "192.168.10.50", "0.0.0.0/0", "::ffff:c0a8:a32"])
def test_a_network_holds_its_addresses(network: str) -> None:
    assert matches(f",,,{network},,,,x", flow(OTHER, VICTIM), flow(OTHER, "2001:db8::9")) == [True, False]


def test_an_ipv6_network_holds_its_addresses() -> None:
    assert matches(",,2001:db8::/64,,,,,x", flow(OTHER, VICTIM), flow("2001:db8:0:1::1", VICTIM)) == [True, False]


def test_a_flow_belongs_to_the_time_in_which_it_began_ends_included() -> None:
    times = [DAY_S + 3600, DAY_S + 3600.000001, DAY_S + 7200, DAY_S + 7200.000001, DAY_S + 3599.999999]
    flows = [flow(ATTACKER, VICTIM, begins_s=time) for time in times]
    expected = [True, True, True, False, False]
    assert matches("2017-07-07T01:00:00,2017-07-07 02:00,,,,,,x", *flows) == expected
    assert matches("2017-07-07T03:00:00+02:00,2017-07-07T02:00:00Z,,,,,,x", *flows) == expected
    assert matches(f"{DAY_S + 3600},{DAY_S + 7200}.0,,,,,,x", *flows) == expected


def test_a_mere_day_is_the_whole_day() -> None:
    flows = [flow(ATTACKER, VICTIM, begins_s=DAY_S + second) for second in (-1, 0, 86_399.999999, 86_400)]
    assert matches("2017-07-07,2017-07-07,,,,,,x", *flows) == [False, True, True, False]


def test_ports_are_ranges_and_flows_without_ports_have_none() -> None:
    flows = [flow(ATTACKER, VICTIM, dst_port=port) for port in (0, 1, 1023, 1024)]
    ping = flow(ATTACKER, VICTIM, src_port=0, dst_port=0, protocol=ICMP)
    assert matches(",,,,,0-1023,,x", *flows, ping) == [True, True, True, False, False]
    assert matches(",,,,,1024,,x", *flows, ping) == [False, False, False, True, False]


@pytest.mark.parametrize(
    ("bit", "line"),
    [
        (LACKS_TIME, ",2017-07-08,,,,,,x,"),
        (LACKS_TIME, "1969-01-01,,,,,,,x,"),
        (LACKS_SRC, ",,::/96,,,,,x,no"),
        (LACKS_DST, ",,,::,,,,x,no"),
        (LACKS_SRC | LACKS_DST, ",,::/96,,,,,x,"),
        (LACKS_SRC_PORT, ",,,,0-1023,,,x,no"),
        (LACKS_DST_PORT, ",,,,,0-1023,,x,no"),
        (LACKS_SRC_PORT | LACKS_DST_PORT, ",,,,,0-1023,,x,"),
        (LACKS_PROTOCOL, ",,,,,,0,x,"),
    ],
)
def test_what_a_source_does_not_tell_matches_no_line_that_asks_for_it(bit: int, line: str) -> None:
    read = labels(line, ",,,,,,,rest,", header="from,to,src,dst,src_port,dst_port,protocol,label,both")
    protocol = 0 if bit == LACKS_PROTOCOL else TCP
    flows = np.concatenate([flow("::", "::", begins_s=0, src_port=0, dst_port=0, protocol=protocol)] * 2)
    assert read.of(flows, np.array([bit, 0], np.uint8)).tolist() == [1, 0]
    assert read.of(flows).tolist() == [0, 0]
    assert read.report().splitlines()[1].startswith("             1  flows of unknown ")


def test_a_line_that_goes_both_ways_asks_the_other_end_of_a_flow_turned_round() -> None:
    known_port, unknown_port = (
        flow(ATTACKER, VICTIM, src_port=0, dst_port=22),
        flow(ATTACKER, VICTIM, src_port=0, dst_port=6000),
    )
    lacks = np.full(2, LACKS_SRC_PORT, np.uint8)
    assert labels(",,,,,0-1023,,x").of(np.concatenate([known_port, unknown_port]), lacks).tolist() == [0, -1]


def test_lines_that_ask_for_nothing_unknown_match_as_ever_and_tell_of_nothing() -> None:
    read = labels(",,,,,80,,x")
    assert read.of(flow(ATTACKER, VICTIM), np.array([LACKS_TIME | LACKS_SRC], np.uint8)).tolist() == [0]
    assert "unknown" not in read.report()


@pytest.mark.parametrize("name", ["udp", "UDP", "17"])
def test_a_protocol_is_a_name_or_a_number(name: str) -> None:
    assert matches(f",,,,,,{name},x", flow(ATTACKER, VICTIM), flow(ATTACKER, VICTIM, protocol=UDP)) == [False, True]


def test_columns_stand_in_any_order_and_comments_blank_lines_quotes_and_crlf_are_let_pass() -> None:
    text = f'\ufeff# who\r\n\r\nLabel, dst \r\n# a day\r\n"Web Attack, XSS", {VICTIM}\r\n\r\n'
    read = Labels.parse(text.encode(), "labels.csv")
    assert (read.names, read.lines[0].number) == (("Web Attack, XSS",), 5)
    assert read.of(flow(ATTACKER, VICTIM)).tolist() == [0]


def test_what_names_no_attack_has_an_empty_name_and_what_nobody_judged_is_marked() -> None:
    read = labels(*(f",,,,,,,{label}" for label in ("BENIGN", "", "Normal Traffic", "Background", "DoS")))
    assert read.names == ("", "", "", "", "DoS")
    assert read.unsure.tolist() == [False, False, False, True, False]


def test_the_report_tells_what_each_line_matched_and_which_matched_nothing() -> None:
    read = labels(f",,{ATTACKER},,,,,PortScan", f",,{ATTACKER},{VICTIM},,,,DoS", ",,10.0.0.1,,,,,Bot", ",,,,,22,,")
    read.of(np.concatenate([flow(ATTACKER, VICTIM)] * 3))
    read.of(np.concatenate([flow(OTHER, VICTIM), flow(OTHER, VICTIM, dst_port=22)]))
    assert read.matched.tolist() == [3, 0, 0, 1]
    assert read.unmatched == 1
    assert read.report().splitlines() == [
        "labels.csv: 4 flows matched, 1 by no line",
        "             3  line 2: PortScan",
        "             1  line 5: benign",
        "       nothing  line 3: DoS: earlier lines match all its flows",
        "       nothing  line 4: Bot",
    ]


def test_the_report_on_many_lines_stays_short() -> None:
    read = labels(*(f",,,,,{port},,scan" for port in range(100)), *(",,,,,,,rest" for _ in range(50)))
    read.of(np.concatenate([flow(ATTACKER, VICTIM, src_port=60_000, dst_port=port) for port in range(100)]))
    told = read.report().splitlines()
    assert len(told) == 1 + 2 * (TOLD_LINES + 1)
    assert told[TOLD_LINES + 1] == f"{100 - TOLD_LINES:>14}  {100 - TOLD_LINES} more lines"
    assert told[-1] == f"       nothing  {50 - TOLD_LINES} more lines"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("2017-13-01,,,,,,,x", "from is '2017-13-01': give a UTC time as 2017-07-07T14:05:00, seconds"),
        ("07/07/2017 15:56,,,,,,,x", "from is '07/07/2017 15:56': give a UTC time"),
        (",2017-W27-5,,,,,,x", "to is '2017-W27-5': weeks are not read: write the day, as 2017-07-07"),
        ("2017W275,,,,,,,x", "from is '2017W275': weeks are not read"),
        (",2017-W27,,,,,,x", "to is '2017-W27': weeks are not read"),
        ("2017-W27-5T10:00,,,,,,,x", "from is '2017-W27-5T10:00': weeks are not read"),
        ("20170707,,,,,,,x", "from is '20170707': a day, or seconds? Write 2017-07-07, or 20170707.0"),
        ("1499385600000,,,,,,,x", "from is '1499385600000': no seconds since the epoch, but perhaps milliseconds"),
        ("2017-07-08,2017-07-07,,,,,,x", "to (2017-07-07) is before from (2017-07-08)"),
        (",,192.168.10.500,,,,,x", "src is '192.168.10.500': give an address, a network"),
        (",,,192.168.10.5/24,,,,x", "dst is '192.168.10.5/24': write 192.168.10.0/24 for the network"),
        (",,fe80::1%eth0,,,,,x", "src is 'fe80::1%eth0': give an address"),
        (",,,,http,,,x", "src_port is 'http': give a port, a range as 8000-8100"),
        (",,,,,90-80,,x", "dst_port is '90-80': ports go from 0 to 65535, the lower one first"),
        (",,,,,65536,,x", "dst_port is '65536': ports go from 0 to 65535"),
        (",,,,,,quic,x", "protocol is 'quic': give a number from 0 to 255, nothing, or one of tcp, udp"),
        (",,,,,,256,x", "protocol is '256'"),
        (",,,,,,x", "7 cells where the header names 8"),
        (',,,,,,,"x', "not CSV"),
        (",,\x1b[31m,,,,,x", r"src is '\x1b[31m'"),
    ],
)
def test_a_bad_line_is_told_with_file_number_and_what_is_wanted(line: str, told: str) -> None:
    with pytest.raises(LabelsError) as error:
        labels(",,,,,,,good", line)
    assert str(error.value).startswith(f"labels.csv:3: {told}")
    assert "\n" not in str(error.value)


def test_all_bad_lines_are_told_at_once_up_to_twenty() -> None:
    with pytest.raises(LabelsError) as error:
        labels(*(f",,,,,{port},,x" for port in range(65_530, 65_560)))
    told = str(error.value).splitlines()
    assert len(told) == TOLD_LINES + 1
    assert told[0].startswith("labels.csv:8: dst_port is '65536'")
    assert told[-1] == "labels.csv: 4 more bad lines"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "labels.csv:1: the header names no column 'label'"),
        (b"from,until,label\n,,x", "labels.csv:1: the header names a column 'until': the columns are from, to, src"),
        (b"label,Label\nx,y", "labels.csv:1: the header names 'label' twice"),
        (b"# nothing\nlabel\n", "labels.csv: there is no line after the header"),
        ("label\nx".encode("utf-16"), "labels.csv:1: not UTF-8"),
        (b"label\nx\n\xe9\n", "labels.csv:3: not UTF-8"),
        (b"both,label\nperhaps,x", "labels.csv:2: both is 'perhaps': give yes, no or nothing"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(content: bytes, told: str) -> None:
    with pytest.raises(LabelsError) as error:
        Labels.parse(content, "labels.csv")
    assert str(error.value).startswith(told)


def test_a_file_is_read_from_disk(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("label\nBot\n", encoding="utf-8")
    assert Labels.read(tmp_path / "labels.csv").names == ("Bot",)


@pytest.mark.parametrize(("name", "why"), [("labels.csv", "Is a directory"), ("gone.csv", "No such file or directory")])
def test_a_file_that_cannot_be_opened_is_refused_in_one_line(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "labels.csv").mkdir()
    with pytest.raises(LabelsError) as error:
        Labels.read(tmp_path / name)
    assert str(error.value) == f"{tmp_path / name}: {why}: give a label file"


def naive(line: dict[str, str], row: np.void) -> bool:
    """The rule of a line for one flow, spelled out."""
    ends = [
        (ipaddress.ip_address(packed(int(row[f"{end}_hi"]), int(row[f"{end}_lo"]))), int(row[f"{end}_port"]))
        for end in ("src", "dst")
    ]

    def fits(first: int) -> bool:
        for name, (address, port) in (("src", ends[first]), ("dst", ends[1 - first])):
            if line[name] and address not in ipaddress.ip_network(line[name]):
                return False
            low, _, high = line[f"{name}_port"].partition("-")
            if low and not int(low) <= port <= int(high or low):
                return False
        return True

    begins_s = int(row["first_us"]) / 1e6
    in_time = float(line["from"] or 0) <= begins_s <= float(line["to"] or 1e12)
    of_protocol = not line["protocol"] or int(line["protocol"]) == int(row["protocol"])
    return in_time and of_protocol and (fits(0) or (line["both"] != "no" and fits(1)))


def test_a_thousand_lines_and_flows_match_as_one_by_one() -> None:
    dice = random.Random(7)
    hosts = ["10.0.0.1", "10.0.0.2", "10.0.1.1", "2001:db8::1", "2001:db8::100"]
    networks = ["", "", *hosts, "10.0.0.0/24", "10.0.0.0/8", "2001:db8::/120"]
    flows = np.concatenate(
        [
            flow(
                dice.choice(hosts),
                dice.choice(hosts),
                begins_s=dice.randrange(100),
                src_port=dice.randrange(1, 9),
                dst_port=dice.randrange(1, 9),
                protocol=dice.choice([TCP, UDP]),
            )
            for _ in range(1000)
        ]
    )
    lines = [
        {
            "from": str(begins),
            "to": dice.choice(["", str(begins + 5)]),
            "src": dice.choice(networks),
            "dst": dice.choice(networks),
            "src_port": dice.choice(["", "3", "2-5"]),
            "dst_port": dice.choice(["1", "7", "4-6"]),
            "protocol": dice.choice(["", "6", "17"]),
            "both": dice.choice(["", "no"]),
            "label": "x",
        }
        for begins in (dice.randrange(100) for _ in range(60))
    ]
    read = labels(*(",".join(line.values()) for line in lines), header=",".join(lines[0]))
    expected = [next((place for place, line in enumerate(lines) if naive(line, row)), -1) for row in flows]
    assert read.of(flows).tolist() == expected
    assert len(set(expected)) > 30
    in_parts = [read.of(flows[first : first + 64]) for first in range(0, len(flows), 64)]
    assert np.concatenate(in_parts).tolist() == expected
