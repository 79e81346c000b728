"""Whole captures: every row and every column that the repaired CICFlowMeter wrote, made by netseq under that tool's rules.

Expiry by time alone is off, as the tool has none. What it leaves out (IPv6) is looked at too: nothing else may be there in
addition. Compared are the columns of `sensor.statistics`, and the table that `netseq-flows` writes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from statistics_tables import Row, computed, different, flows_of, header_of, written

from sensor import config
from sensor.commands import flows
from sensor.decode import Decoder
from sensor.flows import FlowTable
from sensor.spellings import HEADERS
from sensor.statistics import BY_NAME

RELATIVE = 1e-9
"""That tool's running means round at every packet; netseq's sums do not."""

ROWS = {
    "1kxun": 104, "4in4tunnel": 5, "WebattackXSS-cicids2017": 661, "ajp": 2, "anyconnect-vpn": 66, "anydesk": 2,
    "bittorrent": 24, "dns_fragmented": 9, "dnscrypt-v1-and-resolver-pings": 290, "ftp": 3, "http-manipulated": 2,
    "http_ipv6": 0, "ip-frag": 8, "jre-dos": 10, "many-protocols": 256, "nintendo": 21, "ps_vue": 8, "tor": 15,
    "ustc-Facetime": 6000, "viber": 25, "webex": 57, "whatsappfiles": 2,
}  # fmt: skip
"""The captures, and how many rows the tool wrote of each."""

NAMES = tuple(name for _, name in HEADERS["cicflowmeter"])
COMPUTED = NAMES[:-1]
"""All but the label, which no program computes."""
KEY = ("Src IP", "Dst IP", "Src Port", "Dst Port", "Protocol", "Timestamp")
"""What tells a row of a capture from all others, but for twins that begin in the same microsecond."""

Key = tuple[float | str, ...]

OUTER, INNER = ("69.67.35.146", "41.202.46.110", 62367, 17000, 17), ("10.10.100.25", "10.10.101.2", 62367, 17000, 17)
TUNNELLED = (
    "2018-09-15 20:44:31.794779", "2018-09-16 00:42:31.803081", "2018-09-16 07:28:49.816392", "2018-09-16 22:50:37.839574",
    "2018-09-17 06:30:43.864842",
)  # fmt: skip
MIXED = ("Flow ID", "Src IP", "Dst IP")

OTHERWISE: dict[str, tuple[tuple[Key, Key | None, str], ...]] = {
    "4in4tunnel": tuple(
        ((*OUTER, began), (*INNER, began), "IP in IP: that tool mixes the outer addresses with the inner ports")
        for began in TUNNELLED
    ),
    "many-protocols": (
        (
            ("8.6.0.1", "8.0.6.4", 0, 0, 0, "2015-01-03 13:04:46.940402"),
            None,
            "ARP, which that tool reads as IPv4 from the frame's first byte",
        ),
    ),
}
"""Rows of that tool which netseq does not make: the row, the one it makes instead (equal in all columns but MIXED), and why."""


def flows_by_its_rules(capture: Path) -> NDArray[np.void]:
    settings = config.load(None, ["statistics.rules=cicflowmeter"]).applied()
    decoder = Decoder(payload=settings.decode.payload, tunnels=settings.decode.tunnels)
    return flows_of(capture, decoder, FlowTable(expiry=False, self_forward=True, seed=1))


def by_key(rows: Iterable[Row]) -> dict[Key, list[Row]]:
    """Rows under their key; twins in the order of their length."""
    found: dict[Key, list[Row]] = defaultdict(list)
    for row in rows:
        found[tuple(row[name] for name in KEY)].append(row)
    for twins in found.values():
        twins.sort(key=lambda row: (row["Flow Duration"], row["Total Fwd Packet"]))
    return found


def taken_out(capture: str, ours: dict[Key, list[Row]], theirs: dict[Key, list[Row]]) -> int:
    """Take the rows of OTHERWISE out of both, after a look at them; returns how many."""
    for key, instead, _ in OTHERWISE.get(capture, ()):
        (row,) = theirs.pop(key)
        assert key not in ours
        if instead is not None:
            (made,) = ours.pop(instead)
            assert not different(made, row, set(COMPUTED) - set(MIXED), RELATIVE)
    return len(OTHERWISE.get(capture, ()))


class Outcome(NamedTuple):
    """How the rows of a capture compare."""

    matched: int
    excepted: int
    of_ipv6: int


def compared(capture: str, ours: dict[Key, list[Row]], theirs: dict[Key, list[Row]], names: Iterable[str]) -> Outcome:
    """Hold all rows of both together; whatever is not listed in OTHERWISE must be there, once, and equal in all columns."""
    excepted = taken_out(capture, ours, theirs)
    of_ipv6 = {key for key in ours if ":" in str(key[0])}
    assert {key: len(twins) for key, twins in ours.items() if key not in of_ipv6} == {
        key: len(twins) for key, twins in theirs.items()
    }
    wrong = [
        f"{key} {text}"
        for key, twins in theirs.items()
        for mine, other in zip(ours[key], twins, strict=True)
        for text in different(mine, other, names, RELATIVE)
    ]
    assert not wrong, wrong[:5]
    matched = sum(map(len, theirs.values()))
    assert matched + excepted == ROWS[capture]
    return Outcome(matched, excepted, sum(len(ours[key]) for key in of_ipv6))


@pytest.mark.parametrize("capture", ROWS)
def test_every_row_and_column_is_that_of_the_repaired_cicflowmeter(
    capture: str, shared_data: Path, record_property: Callable[[str, object], None]
) -> None:
    folder = shared_data / "golden" / "cicflowmeter" / capture
    ours = computed(flows_by_its_rules(folder / "capture.pcap.gz"), COMPUTED, "cicflowmeter")
    found = compared(capture, by_key(ours), by_key(written(folder / "fixed.csv")), COMPUTED)
    record_property(
        "told",
        f"{capture}: {found.matched} of {ROWS[capture]} rows as CICFlowMeter's in all {len(COMPUTED)} columns, "
        f"{found.excepted} excepted, {found.of_ipv6} of IPv6 in addition",
    )


@pytest.mark.parametrize("capture", ROWS)
def test_netseq_flows_writes_the_table_of_the_repaired_cicflowmeter(capture: str, shared_data: Path, tmp_path: Path) -> None:
    folder, table = shared_data / "golden" / "cicflowmeter" / capture, tmp_path / "flows.csv"
    arguments = ["--rules", "cicflowmeter", "--no-idle-expiry", "--quiet", "--output", str(table)]
    assert flows.main([str(folder / "capture.pcap.gz"), *arguments]) == 0
    assert header_of(table) == header_of(folder / "fixed.csv") == list(NAMES)
    compared(capture, by_key(written(table)), by_key(written(folder / "fixed.csv")), NAMES)


def test_every_golden_capture_is_compared(shared_data: Path) -> None:
    folders = {folder.name for folder in (shared_data / "golden" / "cicflowmeter").iterdir() if folder.is_dir()}
    assert folders == set(ROWS)


@pytest.mark.parametrize("capture", ["1kxun", "dnscrypt-v1-and-resolver-pings", "many-protocols", "webex"])
def test_the_rules_differ_in_no_column_that_is_not_said_to_differ(capture: str, shared_data: Path) -> None:
    rows = flows_by_its_rules(shared_data / "golden" / "cicflowmeter" / capture / "capture.pcap.gz")
    alike = [name for name in COMPUTED if not BY_NAME[name].difference]
    assert computed(rows, alike, "netseq") == computed(rows, alike, "cicflowmeter")
    assert computed(rows, COMPUTED, "netseq") != computed(rows, COMPUTED, "cicflowmeter")
