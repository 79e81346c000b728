"""Rows of older CICFlowMeters: the file that its authors published with their test capture, and CICIDS2017 itself.

Those programs ended a TCP flow at its first FIN and made mistakes of their own; so rows are matched by who, how long and how
many packets, and then compared in the columns whose meaning did not change. Payload is what the IP header says: the test
capture was cut to 160 bytes a packet after its rows were made.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import pytest
from statistics_tables import Row, computed, different, flows_of, header_of, written

from sensor.decode import Decoder
from sensor.flows import FlowTable
from sensor.spellings import HEADERS, IDENTITY
from sensor.statistics import Rules

TWICE = "the first packet's payload is counted twice"
FIRST_ONLY = "only the flow's first packet is looked at"
SHUFFLED = "the eight counts of flags stand in the order of a hash table, under one another's names"
MIXED = "always 0 forward; runs of both directions mixed backward; whole numbers"
UNBRACKETED = "a bracket is missing in the test for a gap: every packet is a subflow, and activity and idleness go wrong"

CHANGED = {
    "Flow ID": "source and destination in either order",
    "Timestamp": "local time, a clock of 12 hours, whole seconds",
    "Label": "the data set's",
    **dict.fromkeys(("Fwd PSH Flags", "Bwd PSH Flags", "Fwd URG Flags", "Bwd URG Flags"), FIRST_ONLY),
    **dict.fromkeys(("Packet Length Mean", "Packet Length Std", "Packet Length Variance", "Average Packet Size"), TWICE),
    **{f"{flag} Flag Count": SHUFFLED for flag in ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "CWR", "ECE")},
    "Down/Up Ratio": "a whole number",
    **{f"{side} {of} Avg": MIXED for side in ("Fwd", "Bwd") for of in ("Bytes/Bulk", "Packet/Bulk", "Bulk Rate")},
    **{f"Subflow {side} {of}": UNBRACKETED for side in ("Fwd", "Bwd") for of in ("Packets", "Bytes")},
    **{f"{what} {of}": UNBRACKETED for what in ("Active", "Idle") for of in ("Mean", "Std", "Max", "Min")},
    "Bwd Init Win Bytes": "the window of the last backward packet",
    "Fwd Act Data Pkts": "without the flow's first packet",
}
"""Columns that meant something else then, and what."""

UNCHANGED = (
    "Src IP", "Src Port", "Dst IP", "Dst Port", "Protocol", "Flow Duration", "Total Fwd Packet", "Total Bwd packets",
    "Total Length of Fwd Packet", "Total Length of Bwd Packet",
    "Fwd Packet Length Max", "Fwd Packet Length Min", "Fwd Packet Length Mean", "Fwd Packet Length Std",
    "Bwd Packet Length Max", "Bwd Packet Length Min", "Bwd Packet Length Mean", "Bwd Packet Length Std",
    "Flow Bytes/s", "Flow Packets/s", "Flow IAT Mean", "Flow IAT Std", "Flow IAT Max", "Flow IAT Min",
    "Fwd IAT Total", "Fwd IAT Mean", "Fwd IAT Std", "Fwd IAT Max", "Fwd IAT Min",
    "Bwd IAT Total", "Bwd IAT Mean", "Bwd IAT Std", "Bwd IAT Max", "Bwd IAT Min",
    "Fwd Header Length", "Bwd Header Length", "Fwd Packets/s", "Bwd Packets/s", "Packet Length Min", "Packet Length Max",
    "Fwd Segment Size Avg", "Bwd Segment Size Avg", "FWD Init Win Bytes", "Fwd Seg Size Min",
)  # fmt: skip
"""Columns that always meant what they mean (rates: of flows that take time)."""

NUMBERS = tuple(name for name in UNCHANGED if name not in IDENTITY)
MEASURE = ("Flow Duration", "Total Fwd Packet", "Total Bwd packets")
ENDS = ("Src IP", "Src Port", "Dst IP", "Dst Port", "Protocol")

Key = tuple[float | str, ...]


def keys(rows: Iterable[Row], names: tuple[str, ...]) -> list[Key]:
    return [tuple(row[name] for name in names) for row in rows]


def common(ours: Iterable[Row], theirs: Iterable[Row], names: tuple[str, ...]) -> int:
    """How many rows the two have in common, as multisets."""
    return (Counter(keys(ours, names)) & Counter(keys(theirs, names))).total()


@cache
def made_of(capture: Path, rules: Rules, *, first_fin: bool) -> list[Row]:
    """What netseq makes of a capture when no time alone ends a flow."""
    table = FlowTable(expiry=False, first_fin=first_fin, seed=1)
    return computed(flows_of(capture, Decoder(), table), (*UNCHANGED, "Flow ID", "Timestamp"), rules)


def began(row: Row) -> datetime:
    whole = str(row["Timestamp"]).partition(".")[0]
    return datetime.strptime(whole, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)


def test_every_column_of_the_older_layout_is_said_to_have_changed_or_not() -> None:
    layout = [name for _, name in HEADERS["cse-cic-ids2018"]]
    assert sorted((*CHANGED, *UNCHANGED)) == sorted(layout)


@pytest.fixture(scope="session")
def own_capture(shared_data: Path) -> Path:
    return shared_data / "golden" / "cicflowmeter-2018" / "capture.pcap.gz"


@pytest.mark.parametrize("rules", ["netseq", "cicflowmeter"])
def test_rows_of_the_authors_test_are_made_and_agree_where_the_meaning_is_the_same(
    rules: Rules, own_capture: Path, record_property: Callable[[str, object], None]
) -> None:
    theirs = written(own_capture.with_name("test.csv"))
    ours = dict(zip(keys(made := made_of(own_capture, rules, first_fin=True), (*ENDS, *MEASURE)), made, strict=True))
    assert len(ours) == len(made)
    for row, key in zip(theirs, keys(theirs, (*ENDS, *MEASURE)), strict=True):
        mine = ours.pop(key)
        assert not different(mine, row, UNCHANGED, 1e-9)
        assert Counter(str(mine["Flow ID"]).split("-")) == Counter(str(row["Flow ID"]).split("-"))
        local = began(mine) - timedelta(hours=3)
        assert str(row["Timestamp"]) == local.strftime("%d/%m/%Y %I:%M:%S")
    assert {row["Total Fwd Packet"] for row in ours.values()} == {1}
    assert {row["Total Bwd packets"] for row in ours.values()} == {0}
    otherwise = common(made_of(own_capture, rules, first_fin=False), theirs, (*ENDS, *MEASURE))
    assert (len(theirs), otherwise) == (96, 2)
    record_property(
        "told",
        f'CICFlowMeter 2018, test.csv, rules "{rules}": {len(theirs)} of {len(theirs)} rows made at the first FIN, equal in '
        f"{len(UNCHANGED)} columns ({otherwise} with closes by both sides); in addition {len(ours)} flows of one packet",
    )


def test_the_authors_two_files_differ_in_their_headers_alone(own_capture: Path) -> None:
    one, other = (written(own_capture.with_name(name)) for name in ("test.csv", "test.cicids2017-header.csv"))
    assert header_of(own_capture.with_name("test.csv")) != header_of(own_capture.with_name("test.cicids2017-header.csv"))
    assert [{**row, "Label": ""} for row in one] == [{**row, "Label": ""} for row in other]


ROUNDED = ("Fwd IAT Total", "Bwd IAT Total")
"""Published with three digits where they are long."""

XSS_ROWS, XSS_MADE, TAILS = 436, 420, 20
"""The rows of the attack in the file; how many of them netseq makes; and the ends of connections that are called benign."""
ATTACKED, ATTACKER = "1265", "1088"
"""The file's codes for the server as source and the attacker as destination."""
MINUTES = range(15, 36)
"""The file's code for a time is here the minute after 13:00 UTC, and the capture begins at 13:15:35."""
CAPTURE_END = datetime(2017, 7, 6, 13, 34, 59, 366088, UTC)


@pytest.fixture(scope="session")
def attack(shared_data: Path) -> Path:
    return shared_data / "golden" / "cicflowmeter" / "WebattackXSS-cicids2017" / "capture.pcap.gz"


@pytest.fixture(scope="session")
def published(shared_data: Path) -> list[Row]:
    return written(shared_data / "flows" / "cicids2017" / "web_attacks.csv.gz")


@pytest.fixture(scope="session")
def xss(published: list[Row]) -> list[Row]:
    return [row for row in published if str(row["Label"]).endswith("XSS")]


def test_published_rows_of_an_attack_are_made_of_its_capture(
    attack: Path, xss: list[Row], record_property: Callable[[str, object], None]
) -> None:
    first_fin, default = made_of(attack, "netseq", first_fin=True), made_of(attack, "netseq", first_fin=False)
    assert (len(first_fin), len(default)) == (1350, 661)
    at_first_fin, by_default = common(first_fin, xss, MEASURE), common(default, xss, MEASURE)
    assert (len(xss), at_first_fin, by_default) == (XSS_ROWS, XSS_MADE, 0)
    record_property(
        "told",
        f"CICIDS2017, XSS: {at_first_fin} of {len(xss)} published rows made at the first FIN in (duration, packets forward, "
        f"packets backward); {by_default} with closes by both sides",
    )


def test_published_rows_that_are_made_agree_in_all_columns_of_unchanged_meaning(attack: Path, xss: list[Row]) -> None:
    found: dict[Key, list[Row]] = defaultdict(list)
    for row in made_of(attack, "netseq", first_fin=True):
        found[tuple(row[name] for name in ("Src Port", "Dst Port", *MEASURE))].append(row)
    exact = [name for name in NUMBERS if name not in ROUNDED]
    compared = 0
    for row, key in zip(xss, keys(xss, ("Src Port", "Dst Port", *MEASURE)), strict=True):
        for mine in found.get(key, ())[:1]:
            assert not different(mine, row, exact, 1e-8)
            assert not different(mine, row, ROUNDED, 5e-3)
            assert began(mine).minute == int(str(row["Timestamp"]))
            compared += 1
    assert compared == XSS_MADE


def test_published_rows_that_are_not_made_end_after_the_capture(attack: Path, xss: list[Row]) -> None:
    made = made_of(attack, "netseq", first_fin=True)
    names = ("Src Port", *MEASURE)
    missing = Counter(keys(xss, names)) - Counter(keys(made, names))
    assert missing.total() == XSS_ROWS - XSS_MADE
    for row in xss:
        if tuple(row[name] for name in names) in missing:
            seen = [other for other in made if other["Src Port"] == row["Src Port"]]
            if not seen:
                assert int(str(row["Timestamp"])) > CAPTURE_END.minute
            for cut in seen:
                assert began(cut) + timedelta(microseconds=float(row["Flow Duration"])) > CAPTURE_END
                assert float(cut["Flow Duration"]) < float(row["Flow Duration"])


def test_published_ends_of_connections_are_rows_of_their_own_and_called_benign(attack: Path, published: list[Row]) -> None:
    tails = [
        row
        for row in published
        if (row["Src IP"], row["Dst IP"]) == (ATTACKED, ATTACKER) and int(str(row["Timestamp"])) in MINUTES
    ]
    assert {row["Label"] for row in tails} == {"BENIGN"}
    assert {row["Src Port"] for row in tails} == {80}
    made = made_of(attack, "netseq", first_fin=True)
    assert common(made, tails, ("Src Port", "Dst Port", *MEASURE)) == len(tails) == TAILS
