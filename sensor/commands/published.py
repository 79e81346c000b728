"""The published data sets that a table can be reproduced on: their labels with the official counts, and what is missing.

A figure on a part of a data set looks like the paper's and is not. So the commands that reproduce a paper compare every label's
count with the official one before they measure anything, and refuse what differs unless they are told that it is a part.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sensor.commands.misuse import Misuse
from sensor.commands.terminal import printable

CICIDS2017 = {
    "BENIGN": 2_273_097,
    "DoS Hulk": 231_073,
    "PortScan": 158_930,
    "DDoS": 128_027,
    "DoS GoldenEye": 10_293,
    "FTP-Patator": 7_938,
    "SSH-Patator": 5_897,
    "DoS slowloris": 5_796,
    "DoS Slowhttptest": 5_499,
    "Bot": 1_966,
    "Web Attack - Brute Force": 1_507,
    "Web Attack - XSS": 652,
    "Infiltration": 36,
    "Web Attack - Sql Injection": 21,
    "Heartbleed": 11,
}
"""Rows of each label in all files of CICIDS2017 (Sharafaldin et al. 2018), in both forms that were published."""
ISCX2012 = {"Normal": 2_002_747, "Attack": 68_910}
"""Flows of each tag in the six files of ISCX IDS 2012 (Shiravi et al. 2012), 12 to 17 June, as Goldschmidt counted them in 2024
for "Network Intrusion Datasets: A Survey, Limitations, and Recommendations"."""
MONDAY = 529_918
"""Of CICIDS2017's benign rows, those of Monday, all of which are."""
TOLD = 3


def tables(folder: Path) -> tuple[list[str], list[str]]:
    """Tables of flows in a folder: those of Mondays, and the others. Raises Misuse where there are none."""
    if not folder.is_dir():
        what = "it is a file" if folder.exists() else "no such folder"
        raise Misuse(f"{folder}: {what}: --data names the folder with the data set's tables")
    found = sorted(path for path in folder.rglob("*") if path.is_file() and ".csv" in path.name.lower())
    if not found:
        raise Misuse(f"{folder}: no CSV in there: --data names the folder with the data set's tables")
    mondays = [str(path) for path in found if "monday" in path.name.lower()]
    return mondays, [str(path) for path in found if str(path) not in mondays]


def differences(found: Mapping[str, int], official: Mapping[str, int]) -> list[str]:
    """What is not as it was published, a phrase each."""
    names = [*official, *(name for name in found if name not in official)]
    return [
        printable(f"{name} {found.get(name, 0):,} instead of {official.get(name, 0):,}")
        for name in names
        if found.get(name, 0) != official.get(name, 0)
    ]


def check(folder: Path, different: list[str], *, partial: bool) -> list[str]:
    """The warning that stands on top of every output, if anything differs. Raises Misuse unless `partial`."""
    if not different:
        return []
    more = f" and {len(different) - TOLD} more" if len(different) > TOLD else ""
    told = f"label counts are not the official ones: {', '.join(different[:TOLD])}{more}"
    if not partial:
        raise Misuse(f"{folder}: {told}: give the whole data set, or --partial")
    return [f"PARTIAL DATA, no reproduction: {told}"]
