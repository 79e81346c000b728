"""Scans of the laboratory that would not scan what they were told to: refused before anything is sent."""

from __future__ import annotations

from pathlib import Path

import pytest
from lab import world
from lab.attacks import KINDS
from lab.network import Network
from lab.site import Attack, Host, LabError, Site
from worlds import in_world

INSIDE = tuple(Host(f"pc{number}", "office", "inside", (f"192.0.2.{number}",)) for number in (20, 21, 22))
SITE = Site((*INSIDE, Host("far", "internet", "outside", ("198.51.100.10",))), "lab.example", 60.0, 30.0)


def masscan(*victims: str) -> Attack:
    return Attack("scan_masscan-1", "scan_masscan", 0.0, 20.0, "pc20", victims, 7, KINDS["scan_masscan"].complete({}))


@in_world
def test_masscan_is_refused_victims_that_are_not_all_behind_one_neighbour(tmp_path: Path) -> None:
    """It would send what is meant for one of them to the hardware address of another."""
    with Network(SITE):
        for attack in (masscan("pc21", "pc22"), masscan("far", "pc21"), masscan("pc21", "far")):
            with pytest.raises(LabError, match="masscan-1: masscan sends all to one neighbour"):
                world.within("pc20", lambda attack=attack: list(KINDS["scan_masscan"].run(attack, SITE, tmp_path)))  # type: ignore[misc]
