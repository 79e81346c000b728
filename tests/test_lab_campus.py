"""Ordinary flows beside a campus's: each direction counts, and shares are shares."""

from __future__ import annotations

import numpy as np
import pytest
from lab.campus import beside

from sensor.schema import FLOW, ICMP, TCP, UDP


def test_each_direction_that_sent_something_is_a_flow_of_its_own() -> None:
    flows = np.zeros(3, FLOW)
    flows["protocol"] = TCP, UDP, ICMP
    flows["fwd"]["packets"], flows["fwd"]["ip_bytes"] = (10, 1, 2), (5_000, 60, 200)
    flows["bwd"]["packets"], flows["bwd"]["ip_bytes"] = (200, 0, 2), (2_000_000, 0, 200)
    told = {name: share for name, share, _ in beside(flows)}
    assert told["TCP"] == pytest.approx(2 / 5)
    assert told["UDP"] == pytest.approx(1 / 5)
    assert told["other protocols"] == pytest.approx(2 / 5)
    assert told["1 packets at most"] == pytest.approx(1 / 5)
    assert told["100 packets at most"] == pytest.approx(4 / 5)
    assert told["512 bytes at most"] == pytest.approx(3 / 5)
    assert told["1,000,000 bytes at most"] == pytest.approx(4 / 5)


def test_no_flows_are_compared_with_nothing() -> None:
    assert list(beside(np.zeros(0, FLOW))) == []
