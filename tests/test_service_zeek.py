"""The sensor beside Zeek: connections come over its bus or from its log, and alerts go back as events."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from conftest import DATA
from sensor_process import Sensor, running, until
from zeek_standin import Zeek
from zeek_values import Count, Enum, Port, event, event_of

pytestmark = pytest.mark.slow

ATTEMPTS = 91
"""Hosts that one source must try for nothing within a minute to break the rule of sweeps."""


def attempt(src: int, dst: int, at_s: float) -> list[Any]:
    """A connection that nobody answered, as our Zeek package tells it."""
    hosts = IPv4Address(0x0A00_0000 + src), IPv4Address(0xC000_0200 + dst)
    uid = f"C{src:05d}x{dst:05d}"
    ends = [hosts[0], Port(40_000), hosts[1], Port(445)]
    sizes = [Count(number) for number in (0, 0, 1, 60, 0, 0)]
    return [at_s, uid, *ends, Enum("tcp"), Count(6), "S0", 0.0, *sizes]


@contextmanager
def beside(zeek: Zeek, folder: Path, *changes: str) -> Iterator[Sensor]:
    """A sensor that is subscribed to Zeek, and that Zeek is subscribed to."""
    own = ("zeek.road=zeromq", f"zeek.address={zeek.xpub}", "zeek.alerts=true", f"zeek.alerts_connect={zeek.xsub}")
    with running(folder, *own, *changes) as sensor:
        zeek.await_subscription("netseq.conn.")
        yield sensor


def tell(zeek: Zeek, connection: list[Any]) -> None:
    zeek.publish("netseq.conn.", event("NetSeq::conn", [connection], zeek.serialiser))


@pytest.mark.parametrize("serialiser", ["broker-bin-v1", "broker-json-v1"])
def test_connections_that_zeek_tells_of_come_back_as_an_alert(
    tmp_path: Path, serialiser: str, record_property: Callable[[str, object], None]
) -> None:
    with Zeek(serialiser=serialiser) as zeek, beside(zeek, tmp_path, f"zeek.serialiser={serialiser}") as sensor:
        took_s = []
        for src in range(1, 16):
            begun_s = 1_700_000_000.0 + 100 * src
            for dst in range(ATTEMPTS - 1):
                tell(zeek, attempt(src, dst, begun_s + dst / 10))
            until(lambda told=src: sensor.metric("netseq_words_scored_total") >= told * ATTEMPTS - 1)  # type: ignore[misc]
            sent_s = time.perf_counter()
            tell(zeek, attempt(src, ATTEMPTS - 1, begun_s + 9.5))
            [parts] = zeek.received(1)
            took_s.append(time.perf_counter() - sent_s)
            name, arguments, _ = event_of(parts[-1], serialiser)
            assert (name, parts[0]) == ("NetSeq::alert", b"netseq.alert.")
            assert arguments[0] == f"C{src:05d}x{ATTEMPTS - 1:05d}"
            assert "NetSeq::Sweep" in arguments
        told = f"{statistics.median(took_s) * 1e3:.1f} ms (median of {len(took_s)}), {serialiser}"
        record_property("told", f"from a connection's event to the alert that it causes: {told}")
        assert sensor.metric("netseq_flows_ended_total") == 15 * ATTEMPTS
        assert sensor.end() == 0
        found = sensor.alerts()
        assert [alert["uid"] for alert in found] == [f"C{src:05d}x{ATTEMPTS - 1:05d}" for src in range(1, 16)]


def test_what_zeek_sends_after_an_outage_is_heard_and_alerts_wait_for_it(tmp_path: Path) -> None:
    with Zeek() as zeek, beside(zeek, tmp_path) as sensor:
        for dst in range(50):
            tell(zeek, attempt(1, dst, 1_700_000_000.0 + dst / 10))
        until(lambda: sensor.metric("netseq_flows_ended_total") == 50)
        zeek.leave()
        zeek.come_back()
        zeek.await_subscription("netseq.conn.")
        for dst in range(50, ATTEMPTS):
            tell(zeek, attempt(1, dst, 1_700_000_000.0 + dst / 10))
        until(lambda: sensor.metric("netseq_flows_ended_total") == ATTEMPTS)
        [parts] = zeek.received(1, timeout_s=30)
        assert "NetSeq::Sweep" in event_of(parts[-1], zeek.serialiser)[1]
        assert zeek.refused == 0
        assert sensor.end() == 0


def test_netseqs_own_connections_with_zeek_are_never_scored(tmp_path: Path) -> None:
    with Zeek() as zeek, beside(zeek, tmp_path) as sensor:
        own = attempt(1, 1, 1_700_000_000.0)
        port = int(zeek.xsub.rpartition(":")[2])
        own[2:6] = [IPv4Address("127.0.0.1"), Port(50_000), IPv4Address("127.0.0.1"), Port(port)]
        tell(zeek, own)
        tell(zeek, attempt(1, 2, 1_700_000_001.0))
        until(lambda: sensor.metric("netseq_flows_ended_total") == 1)
        assert 'netseq_rows_skipped_total{reason="own"} 1.0' in sensor.get("/metrics")
        assert sensor.end() == 0


def test_a_conn_log_that_zeek_writes_is_followed_and_not_read_twice(tmp_path: Path) -> None:
    log, folder = tmp_path / "logs" / "conn.log", tmp_path / "sensor"
    log.parent.mkdir()
    whole = (DATA / "zeek" / "wikipedia.trace" / "tsv" / "conn.log").read_bytes().splitlines(keepends=True)
    rows = [line for line in whole if not line.startswith(b"#")]
    head = [line for line in whole if line.startswith(b"#") and not line.startswith(b"#close")]
    log.write_bytes(b"".join(head + rows[:10]) + rows[10][:20])  # in the middle of a line
    changes = ("zeek.road=files", f"zeek.path={log}")
    with running(folder, *changes) as sensor:
        until(lambda: sensor.metric("netseq_flows_ended_total") == 10)
        with log.open("ab") as more:
            more.write(rows[10][20:] + b"".join(rows[11:20]))
        until(lambda: sensor.metric("netseq_flows_ended_total") == 20)
        assert sensor.end() == 0
    with log.open("ab") as more:
        more.write(b"".join(rows[20:]))
    with running(folder, *changes) as sensor:
        until(lambda: sensor.metric("netseq_flows_ended_total") == len(rows))
        assert sensor.end() == 0
