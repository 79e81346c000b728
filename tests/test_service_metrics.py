"""Metrics, health and status over real connections on the loopback, and what a slow or hostile client cannot do."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse_text

from sensor import service_http, service_metrics
from sensor.config import ConfigError
from sensor.service_http import CONNECTIONS, HEAD_BYTES, Refused, Request, parse, parse_address
from sensor.service_metrics import PROCESS, Exporter, Histogram, Look, exported

LIMIT_S = 20.0
COUNTERS = {
    "packets_read": 1 << 60,
    "packets_dropped.eth0.100": 7,
    'packets_dropped.a"b\\c\n\x1b': 1,
    "packets_skipped.arp": 3,
    "flows_live": 12,
    "learning": 1,
}


class Sensor:
    """What is looked at; a test may change it."""

    def __init__(self) -> None:
        self.latency = Histogram()
        self.looks = 0
        self.told = Look(COUNTERS, {"doing": "alerting"}, self.latency, True, True, "", "1.2.3", ["words-default 1", "site 7"])

    def __call__(self) -> Look:
        self.looks += 1
        return self.told


@pytest.fixture
def sensor() -> Sensor:
    return Sensor()


@pytest.fixture
def exporter(sensor: Sensor) -> Iterator[Exporter]:
    made = Exporter("127.0.0.1:0", sensor)
    made.start()
    yield made
    made.close()


def get(port: int, path: str, method: str = "GET", host: str = "127.0.0.1", **headers: str) -> http.client.HTTPResponse:
    """A response with its body read, as `response.told`."""
    connection = http.client.HTTPConnection(host, port, timeout=LIMIT_S)
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    response.told = response.read()  # type: ignore[attr-defined]
    connection.close()
    return response


def body(response: http.client.HTTPResponse) -> bytes:
    told: bytes = response.told  # type: ignore[attr-defined]
    return told


def raw(port: int, sent: bytes) -> bytes:
    """All that comes back for some bytes, until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S) as client:
        client.sendall(sent)
        received = b""
        with contextlib.suppress(ConnectionError):
            while data := client.recv(1 << 16):
                received += data
    return received


def families(port: int) -> dict[str, Metric]:
    return {family.name: family for family in parse_text(body(get(port, "/metrics")).decode())}


def until(happens: Callable[[], bool]) -> None:
    limit_s = time.monotonic() + LIMIT_S
    while not happens():
        assert time.monotonic() < limit_s, "it never happened"
        threading.Event().wait(0.01)


# ---- what is told


def test_counters_and_gauges_are_told_with_their_labels(exporter: Exporter) -> None:
    told = families(exporter.port)
    (read,) = told["netseq_packets_read"].samples
    assert (read.name, read.value) == ("netseq_packets_read_total", 2.0**60)
    dropped = {sample.labels["interface"]: sample.value for sample in told["netseq_packets_dropped"].samples}
    assert dropped == {"eth0.100": 7, 'a"b\\c\\u000a\\u001b': 1}
    assert told["netseq_flows_live"].type == "gauge"
    assert told["netseq_flows_live"].samples[0].value == 12
    assert told["netseq_learning"].samples[0].value == 1


def test_a_counter_that_was_never_counted_is_zero_and_a_gauge_that_nobody_gave_is_absent(exporter: Exporter) -> None:
    told = families(exporter.port)
    assert told["netseq_alerts_raised"].samples[0].value == 0
    assert not told["netseq_conversations_live"].samples


def test_help_has_the_meaning_and_the_unit(exporter: Exporter) -> None:
    assert families(exporter.port)["netseq_bytes_read"].documentation == "bytes on the wire of these frames (bytes)"


def test_everything_that_is_told_is_in_the_list_of_exported_names(exporter: Exporter) -> None:
    listed = {one.name: one for one in exported()}
    for family in families(exporter.port).values():
        name = family.name + ("_total" if family.type == "counter" else "")
        assert listed[name].kind == family.type
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(listed[name].labels)
    assert len(listed) == len(exported()) == len(families(exporter.port))


def test_versions_and_models_are_told(exporter: Exporter) -> None:
    told = families(exporter.port)
    assert told["netseq_build_info"].samples[0].labels == {"version": "1.2.3"}
    assert [sample.labels for sample in told["netseq_model_info"].samples] == [
        {"kind": "words", "model": "words-default 1"},
        {"kind": "multiflow", "model": "site 7"},
    ]


def test_alive_and_ready_are_told_as_numbers(exporter: Exporter, sensor: Sensor) -> None:
    sensor.told = sensor.told._replace(ready=False)
    told = families(exporter.port)
    assert (told["netseq_alive"].samples[0].value, told["netseq_ready"].samples[0].value) == (1, 0)


def test_the_process_is_measured_as_the_kernel_and_the_client_library_do(exporter: Exporter) -> None:
    told = {sample.name: sample.value for family in families(exporter.port).values() for sample in family.samples}
    values = [told[one.name] for one in PROCESS]
    with open("/proc/self/status", encoding="ascii") as status:
        kernel = dict(line.split(":", 1) for line in status)
    assert values[0] == pytest.approx(int(kernel["VmRSS"].split()[0]) * 1024, rel=0.1)
    assert values[1] == pytest.approx(int(kernel["VmSize"].split()[0]) * 1024, rel=0.1)
    assert values[2] == pytest.approx(sum(os.times()[:2]), abs=0.5)
    assert values[5] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert 0 < values[4] < values[5]
    from prometheus_client import ProcessCollector  # noqa: PLC0415  # it looks at /proc when it is imported

    library = {sample.name: sample.value for family in ProcessCollector(registry=None).collect() for sample in family.samples}
    assert set(library) == {one.name for one in PROCESS}
    assert values[3] == pytest.approx(library["process_start_time_seconds"], abs=2)  # btime is in whole seconds


def test_latency_is_told_as_a_cumulative_histogram(exporter: Exporter, sensor: Sensor) -> None:
    for seconds in (0.0005, 0.001, 0.002, 0.3, 1e9):
        sensor.latency.observe(seconds)
    samples = families(exporter.port)["netseq_scoring_seconds"].samples
    buckets = {sample.labels["le"]: sample.value for sample in samples if sample.name.endswith("_bucket")}
    assert (buckets["0.001"], buckets["0.0025"], buckets["0.25"], buckets["0.5"], buckets["+Inf"]) == (2, 3, 3, 4, 5)
    rest = {sample.name: sample.value for sample in samples if not sample.labels}
    assert rest["netseq_scoring_seconds_count"] == 5
    assert rest["netseq_scoring_seconds_sum"] == pytest.approx(1e9 + 0.3035)


@given(st.lists(st.floats(0, 100)))
def test_each_observation_is_in_every_bucket_whose_bound_it_does_not_exceed(seconds: list[float]) -> None:
    histogram = Histogram()
    for one in seconds:
        histogram.observe(one)
    told, total = histogram.read()
    assert [count for _, count in told] == [sum(one <= float(bound) for one in seconds) for bound, _ in told]
    assert total == pytest.approx(sum(seconds))


def test_openmetrics_is_told_to_who_asks_for_it(exporter: Exporter) -> None:
    accept = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;q=0.5,*/*"
    response = get(exporter.port, "/metrics", Accept=accept)
    assert response.getheader("Content-Type", "").startswith("application/openmetrics-text; version=1.0.0")
    text = body(response).decode()
    assert text.endswith("# EOF\n")
    assert "# UNIT netseq_scoring_seconds seconds" in text
    assert len(list(parse_open(text))) == len(exported())  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    "accept",
    ["", "*/*", "text/plain;version=0.0.4", "text/html", ",;,=,;;", "application/openmetrics-text;version=x",
     "text/plain;version=1.a", "text/plain;version=²", "text/plain;version=" + "9" * 5000],
)  # fmt: skip
def test_whatever_is_accepted_the_metrics_are_told(exporter: Exporter, accept: str) -> None:
    response = get(exporter.port, "/metrics", Accept=accept)
    assert response.status == 200
    assert response.getheader("Content-Type", "").startswith("text/plain; version=")
    assert "netseq_packets_read_total" in body(response).decode()


@pytest.mark.parametrize("name", ["novelty", "packets_skipped", "packets_read.eth0"])
def test_a_counter_out_of_the_table_is_said_and_health_goes_on(exporter: Exporter, sensor: Sensor, name: str) -> None:
    sensor.told = sensor.told._replace(counters={name: 1})
    response = get(exporter.port, "/metrics")
    assert response.status == 500
    assert name.partition(".")[0].encode() in body(response)
    assert get(exporter.port, "/healthz").status == 200


def test_promtool_finds_nothing_to_complain_of(exporter: Exporter) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian package prometheus)")
    told = body(get(exporter.port, "/metrics"))
    checked = subprocess.run([promtool, "check", "metrics"], input=told, capture_output=True, check=False, timeout=LIMIT_S)
    assert (checked.returncode, checked.stderr) == (0, b"")


def test_status_is_json(exporter: Exporter, sensor: Sensor) -> None:
    status = {"doing": "learning", "share": float("nan"), "path": "/a\x1b\udcff", "inner": {"hours": [1, 2.5]}}
    sensor.told = sensor.told._replace(status=status)
    response = get(exporter.port, "/status")
    assert response.getheader("Content-Type") == "application/json"
    assert body(response)[:-1].decode().isprintable()
    assert json.loads(body(response)) == {**status, "share": "nan"}


def test_health_and_readiness_say_why_not(exporter: Exporter, sensor: Sensor) -> None:
    assert [(get(exporter.port, page).status, body(get(exporter.port, page))) for page in ("/healthz", "/readyz")] == [
        (200, b"ok\n"),
        (200, b"ok\n"),
    ]
    sensor.told = sensor.told._replace(ready=False, why="compiling\x1b[2J")
    assert get(exporter.port, "/healthz").status == 200
    response = get(exporter.port, "/readyz")
    assert (response.status, body(response)) == (503, b"compiling\\u001b[2J\n")
    sensor.told = sensor.told._replace(alive=False, why="")
    response = get(exporter.port, "/healthz")
    assert (response.status, body(response)) == (503, b"not alive\n")


def test_each_scrape_looks_once(exporter: Exporter, sensor: Sensor) -> None:
    for page in ("/metrics", "/status", "/healthz", "/readyz"):
        before = sensor.looks
        get(exporter.port, page)
        assert sensor.looks == before + 1


# ---- the server


def test_head_is_get_without_the_body(exporter: Exporter) -> None:
    asked, told = (get(exporter.port, "/healthz", method) for method in ("HEAD", "GET"))
    assert asked.status == told.status == 200
    assert asked.getheader("Content-Length") == told.getheader("Content-Length") == "3"
    assert (body(asked), body(told)) == (b"", b"ok\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "get", "NONSENSE"])
def test_only_get_and_head_are_answered(exporter: Exporter, sensor: Sensor, method: str) -> None:
    response = get(exporter.port, "/metrics", method)
    assert (response.status, response.getheader("Allow")) == (405, "GET, HEAD")
    assert sensor.looks == 0


@pytest.mark.parametrize("path", ["/", "/metrics/", "/METRICS", "/../etc/passwd", "/metrics%00", "//metrics", "*"])
def test_other_pages_are_not_found(exporter: Exporter, path: str) -> None:
    response = get(exporter.port, path)
    assert response.status == 404
    assert b"/metrics, /status, /healthz, /readyz" in body(response)


def test_a_query_and_the_form_for_proxies_are_taken(exporter: Exporter) -> None:
    assert get(exporter.port, "/healthz?verbose=1").status == 200
    assert get(exporter.port, "http://sensor:9477/healthz").status == 200
    assert raw(exporter.port, b"GET /healthz HTTP/1.0\r\n\r\n").endswith(b"\r\n\r\nok\n")


def test_an_answer_survives_a_body_that_nobody_reads(exporter: Exporter) -> None:
    sent = b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n\r\n" + b"x" * 300_000
    assert raw(exporter.port, sent).startswith(b"HTTP/1.1 405 ")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"GET /metrics HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\nSmuggled: y\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA: " + b" " * 8000 + b"\x01\r\n\r\n", 400),
        (b"GET /" + b"a" * HEAD_BYTES + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
        (b"A" * (2 * HEAD_BYTES), 431),
    ],
)
def test_what_is_no_request_is_refused(exporter: Exporter, sensor: Sensor, sent: bytes, status: int) -> None:
    begun_s = time.monotonic()
    assert raw(exporter.port, sent).startswith(b"HTTP/1.1 %d " % status)
    assert time.monotonic() - begun_s < 4  # REQUEST_S is 5
    assert sensor.looks == 0
    assert get(exporter.port, "/healthz").status == 200


@settings(max_examples=300)
@given(st.binary(max_size=200) | st.from_regex(rb"GET /[!-~]* HTTP/1\.[01]\r\n([A-Za-z-]+:[ -~]*\r\n)*\r\n", fullmatch=True))
def test_any_bytes_are_a_request_or_refused(received: bytes) -> None:
    try:
        request = parse(received)
    except Refused as refused:
        status = refused.status
    else:
        status = 200
        assert isinstance(request, Request)
        assert received.startswith(request.method.encode())
    assert status in (200, 400, 431, 505)


def test_slow_clients_hold_up_nobody(exporter: Exporter) -> None:
    with contextlib.ExitStack() as open_clients:
        for _ in range(3 * CONNECTIONS):
            client = open_clients.enter_context(socket.create_connection(("127.0.0.1", exporter.port), timeout=LIMIT_S))
            client.sendall(b"GET /metrics HTTP/1.1\r\n")
        begun_s = time.monotonic()
        assert get(exporter.port, "/healthz").status == 200
        assert time.monotonic() - begun_s < 4  # REQUEST_S is 5


def test_a_client_that_sends_a_byte_now_and_then_is_let_go(exporter: Exporter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_http, "REQUEST_S", 0.3)
    with socket.create_connection(("127.0.0.1", exporter.port), timeout=0.05) as client:
        begun_s = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - begun_s < LIMIT_S:
                client.sendall(b"G")
                with contextlib.suppress(TimeoutError):
                    if client.recv(1) == b"":
                        break
    assert time.monotonic() - begun_s < 5


def test_a_client_that_never_reads_is_let_go(exporter: Exporter, sensor: Sensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_http, "ANSWER_S", 0.3)
    sensor.told = sensor.told._replace(status={str(number): "x" * 4000 for number in range(3000)})  # more than sockets hold
    with socket.create_connection(("127.0.0.1", exporter.port), timeout=LIMIT_S) as client:
        client.sendall(b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n")
        until(lambda: sensor.looks == 1)
        assert get(exporter.port, "/healthz").status == 200
        until(lambda: peers(exporter.port) == 0)
    assert len(json.loads(body(get(exporter.port, "/status")))) == 3000  # one that reads gets it all


def peers(port: int) -> int:
    """Connections that the server end of a port still holds, by the kernel's list."""
    with open("/proc/net/tcp", encoding="ascii") as table:
        rows = [line.split() for line in list(table)[1:]]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == "01" for row in rows)


def test_many_scrapes_leave_no_connection_thread_or_descriptor_behind(exporter: Exporter) -> None:
    get(exporter.port, "/metrics")
    until(lambda: peers(exporter.port) == 0)
    before, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(3 * CONNECTIONS):
        assert get(exporter.port, "/metrics").status == 200
    until(lambda: len(os.listdir("/proc/self/fd")) <= before)
    assert threading.active_count() == threads


def test_without_a_file_descriptor_left_the_server_waits_and_goes_on() -> None:
    """In a process of its own, since the whole process has none left."""
    text = """
import os, resource, socket, time, urllib.request
from tests_sensor import Sensor
from sensor.service_metrics import Exporter
exporter = Exporter(":0", Sensor())
exporter.start()
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
taken = []
client = socket.socket()
try:
    while True:
        taken.append(os.dup(0))
except OSError:
    client.connect(("127.0.0.1", exporter.port))
client.sendall(b"GET /healthz HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
client.settimeout(0.2)
before = time.process_time()
try:
    client.recv(1)
    print("answered without a descriptor")
except TimeoutError:
    pass
print("busy" if time.process_time() - before > 0.15 else "idle")
for one in taken:
    os.close(one)
client.settimeout(20)
print(client.recv(15).decode())
exporter.close()
""".replace("from tests_sensor import", "from test_service_metrics import")
    ran = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False, timeout=60,
                         env={**os.environ, "PYTHONPATH": os.path.dirname(__file__)})  # fmt: skip
    assert (ran.stdout.splitlines(), ran.stderr) == (["idle", "HTTP/1.1 200 OK"], "")


# ---- addresses, beginning and end


def test_ipv6_is_listened_on(sensor: Sensor) -> None:
    try:
        made = Exporter("[::1]:0", sensor)
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error.strerror}")
    made.start()
    try:
        assert get(made.port, "/healthz", host="::1").status == 200
    finally:
        made.close()


def test_without_a_host_only_the_loopback_is_listened_on(sensor: Sensor) -> None:
    made = Exporter(":0", sensor)
    made.start()
    try:
        assert urllib.request.urlopen(f"http://127.0.0.1:{made.port}/healthz", timeout=LIMIT_S).status == 200
        with open("/proc/net/tcp", encoding="ascii") as table:
            listening = [line.split()[1] for line in table if line.split()[3] == "0A"]
        assert [address for address in listening if address.endswith(f":{made.port:04X}")] == [f"0100007F:{made.port:04X}"]
    finally:
        made.close()


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:9477", "127.0.0.1", 9477),
        ("[::1]:0", "::1", 0),
        (":9477", "127.0.0.1", 9477),
        ("localhost:65535", "localhost", 65535),
        ("[fe80::1%eth0]:1", "fe80::1%eth0", 1),
    ],
)
def test_addresses_are_read(text: str, host: str, port: int) -> None:
    assert parse_address(text) == (host, port)


@pytest.mark.parametrize(
    "text",
    ["", "9477", "127.0.0.1", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:65536", "::1:9477", "[::1]", "[::1:9477", "a b:1",
     "x:-1", "x:٣", "x\x1b:1", "x:0000099999", "[127.0.0.1]:1"],
)  # fmt: skip
def test_what_is_no_address_is_refused_in_one_line(text: str, sensor: Sensor) -> None:
    with pytest.raises(ConfigError, match="expected address:port, such as") as refused:
        Exporter(text, sensor)
    assert str(refused.value).isprintable()


def test_a_port_in_use_is_said_in_one_line(exporter: Exporter, sensor: Sensor) -> None:
    with pytest.raises(OSError, match="cannot listen") as refused:
        Exporter(f"127.0.0.1:{exporter.port}", sensor)
    expected = f"service.metrics: cannot listen on 127.0.0.1:{exporter.port}: Address already in use"
    assert refused.value.strerror == f"{expected}; set another address and port, or none"


@pytest.mark.parametrize("host", ["192.0.2.1", "x" * 300])
def test_an_address_that_is_not_this_machines_is_said_in_one_line(host: str, sensor: Sensor) -> None:
    with pytest.raises(OSError, match=r"service\.metrics") as refused:
        Exporter(f"{host}:0", sensor)
    assert "\n" not in str(refused.value.strerror)


def test_after_the_end_the_port_is_free_at_once(sensor: Sensor) -> None:
    first = Exporter(":0", sensor)
    first.start()
    with socket.create_connection(("127.0.0.1", first.port), timeout=LIMIT_S) as idle:
        assert get(first.port, "/healthz").status == 200
        first.close()
        assert idle.recv(1) == b""
    assert not first.running
    second = Exporter(f"127.0.0.1:{first.port}", sensor)
    second.start()
    assert get(second.port, "/healthz").status == 200
    second.close()
    second.close()
    Exporter(f"127.0.0.1:{first.port}", sensor).close()  # never started


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_look_that_fails_is_not_hidden(sensor: Sensor) -> None:
    def fail() -> Look:
        raise ZeroDivisionError

    made = Exporter(":0", fail)
    made.start()
    assert made.running
    assert raw(made.port, b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n") == b""
    until(lambda: not made.running)
    made.close()


def test_the_pages_are_those_that_are_answered(exporter: Exporter) -> None:
    assert all(get(exporter.port, page).status == 200 for page in service_metrics.PAGES)
