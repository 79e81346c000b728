"""What the sensor tells over HTTP: metrics for Prometheus, health for whoever watches, and status for a person.

The names come from `sensor.metrics.COUNTERS`, so that the summary of a replay, the state on disk and Prometheus speak of the
same things; docs/metrics.md lists them, and a test holds it to that. Nothing is counted here but the scoring latency: each
scrape asks the service for its numbers once (`look`) and writes them down. The registry is the exporter's own, so that a
library that counts for itself stays out. The service makes one Exporter.
"""

from __future__ import annotations

import os
import re
import resource
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from sensor.metrics import COUNTERS, Counter
from sensor.service_http import METHODS, Answer, Request, Server, listen
from sensor.service_log import escaped, json_text

PREFIX = "netseq_"
BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the buckets of the scoring latency: from a small batch to a queue that is hopelessly behind."""
KINDS = ("words", "multiflow")
"""The models that there may be, in the order of `Look.models`."""
PAGES = ("/metrics", "/status", "/healthz", "/readyz")
JSON_TYPE = "application/json"

_PLAIN_VERSION = re.compile(r"\d{1,4}(\.\d{1,4}){0,3}", re.ASCII)


class Histogram:
    """How long scoring took. One thread observes, any may read; a reader may miss the observation being made."""

    def __init__(self, bounds_s: Sequence[float] = BOUNDS_S) -> None:
        self.bounds_s = tuple(bounds_s)
        self._counts = [0] * (len(self.bounds_s) + 1)
        self._sum_s = 0.0

    def observe(self, seconds: float) -> None:
        """Count one batch that took so long."""
        self._counts[bisect_left(self.bounds_s, seconds)] += 1  # a bucket holds its upper bound
        self._sum_s += seconds

    def read(self) -> tuple[list[tuple[str, int]], float]:
        """Tell the upper bounds with the number of observations up to each, "+Inf" last, and the sum in seconds."""
        bounds = [*map(str, self.bounds_s), "+Inf"]
        return list(zip(bounds, accumulate(self._counts.copy()), strict=True)), self._sum_s


class Look(NamedTuple):
    """The sensor at one moment."""

    counters: Mapping[str, int]
    status: Mapping[str, object]
    latency: Histogram
    alive: bool
    ready: bool
    why: str
    """Why it is not alive, or not ready, in one line; "" when it is both."""
    version: str
    """Of netseq."""
    models: Sequence[str]
    """Name and version of the word model, and of the multi-flow model if there is one, as alerts name them."""


class Exported(NamedTuple):
    """One name as Prometheus sees it."""

    name: str
    kind: str
    labels: tuple[str, ...]
    unit: str
    meaning: str


ALIVE = Exported(f"{PREFIX}alive", "gauge", (), "0 or 1", "1 while capture and scoring go on: what /healthz says")
READY = Exported(f"{PREFIX}ready", "gauge", (), "0 or 1", "1 from the end of the start to the stop: what /readyz says")
SCORING = Exported(
    f"{PREFIX}scoring_seconds", "histogram", (), "seconds", "time from ended flows coming into the queue until they were judged"
)
BUILD = Exported(f"{PREFIX}build_info", "gauge", ("version",), "1", "the version of netseq")
MODEL = Exported(f"{PREFIX}model_info", "gauge", ("kind", "model"), "1", "the models that judge, by kind (words, multiflow)")
PROCESS = (
    Exported("process_resident_memory_bytes", "gauge", (), "bytes", "memory that the process has in use"),
    Exported("process_virtual_memory_bytes", "gauge", (), "bytes", "memory that the process has reserved"),
    Exported("process_cpu_seconds_total", "counter", (), "seconds", "processor time that the process took, user and system"),
    Exported("process_start_time_seconds", "gauge", (), "seconds", "when the process began, in seconds since 1970"),
    Exported("process_open_fds", "gauge", (), "descriptors", "open file descriptors"),
    Exported("process_max_fds", "gauge", (), "descriptors", "file descriptors that may be open"),
)


def exported() -> list[Exported]:
    """Everything that /metrics can tell, in its order."""
    counted = [
        Exported(_name(one), "gauge" if one.gauge else "counter", (one.label,) if one.label else (), one.unit, one.meaning)
        for one in COUNTERS
    ]
    return [*counted, SCORING, ALIVE, READY, BUILD, MODEL, *PROCESS]


def _name(counter: Counter) -> str:
    return f"{PREFIX}{counter.name}" + ("" if counter.gauge else "_total")


class _Sensor(Collector):
    """Reads a Look into Prometheus' families, anew at each scrape."""

    def __init__(self, look: Callable[[], Look]) -> None:
        self._look = look

    def collect(self) -> Iterator[Metric]:
        """Yield all families; KeyError for a counter that the table does not have."""
        look = self._look()
        yield from _counted(look.counters)
        buckets, sum_s = look.latency.read()
        yield HistogramMetricFamily(SCORING.name, _help(SCORING), buckets=buckets, sum_value=sum_s, unit=SCORING.unit)
        for state, value in ((ALIVE, look.alive), (READY, look.ready)):
            yield GaugeMetricFamily(state.name, _help(state), value=int(value))
        yield InfoMetricFamily(BUILD.name.removesuffix("_info"), BUILD.meaning, value={"version": look.version})
        models = InfoMetricFamily(MODEL.name.removesuffix("_info"), MODEL.meaning, labels=["kind"])
        for kind, model in zip(KINDS, look.models, strict=False):  # the second may be missing
            models.add_metric([kind], {"model": escaped(model)})
        yield models

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry need not look before the first scrape to know the names."""
        return ()


def _help(one: Exported) -> str:
    return f"{one.meaning} ({one.unit})"


def _counted(counters: Mapping[str, int]) -> Iterator[Metric]:
    """Yield a family for every row of the table; a counter that was never counted is 0, a gauge that nobody gave is absent."""
    values: dict[str, dict[str, int]] = {one.name: {} for one in COUNTERS}
    for name, value in counters.items():
        base, _, label = name.partition(".")
        values[base][label] = value
    for one, told in zip(COUNTERS, exported(), strict=False):
        name, text = told.name.removesuffix("_total"), _help(told)
        make = GaugeMetricFamily if one.gauge else CounterMetricFamily
        family = make(name, text, labels=told.labels)
        rows = values[one.name] or ({} if one.label or one.gauge else {"": 0})
        for label, value in rows.items():
            if bool(label) != bool(one.label):
                raise KeyError(f"{one.name}.{label}" if label else one.name)
            family.add_metric([escaped(label)] if one.label else [], value)
        yield family


class _Process(Collector):
    """The standard metrics of a process, by the names and meanings that Prometheus' client libraries share.

    prometheus-client has a collector for them too, but that one reads /proc/stat, which a hardened unit hides
    (ProcSubset=pid): with it memory and processor time would be missing just where the sensor is meant to run.
    """

    def collect(self) -> Iterator[Metric]:
        """Yield all families."""
        fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()  # proc(5): field 3 comes first
        user, system, started, reserved, resident = (int(fields[at]) for at in (11, 12, 19, 20, 21))
        ticks = os.sysconf("SC_CLK_TCK")
        age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - started / ticks
        values = (
            resident * resource.getpagesize(),
            reserved,
            (user + system) / ticks,
            time.time() - age_s,
            len(os.listdir("/proc/self/fd")),
            resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        )
        for one, value in zip(PROCESS, values, strict=True):
            family = CounterMetricFamily if one.kind == "counter" else GaugeMetricFamily
            yield family(one.name.removesuffix("_total"), one.meaning, value=value)

    def describe(self) -> Iterable[Metric]:
        """Nothing, as above."""
        return ()


class Exporter:
    """Answers at `address` ("127.0.0.1:9477", "[::1]:9477", ":0" for a free port of the loopback) with what `look` sees.

    Listens at once, so that a port in use is known before anything else starts; answers from `start` to `close`. Raises
    ConfigError for an address that is none, and OSError with one line in its strerror when it cannot be listened on.
    `look` is called in the exporter's thread; an exception of it ends that thread, and `running` tells.
    """

    def __init__(self, address: str, look: Callable[[], Look]) -> None:
        self._look = look
        self._registry = CollectorRegistry(auto_describe=False)
        for collector in (_Sensor(look), _Process()):
            self._registry.register(collector)
        listener = listen(address)
        self.port: int = listener.getsockname()[1]
        self._server = Server(listener, self._answer)

    @property
    def running(self) -> bool:
        """Requests are being answered."""
        return self._server.running

    def start(self) -> None:
        """Begin to answer."""
        self._server.start()

    def close(self) -> None:
        """Stop answering; the port is free again."""
        self._server.close()

    def _answer(self, request: Request) -> Answer:
        if request.path not in PAGES:
            return Answer(404, f"no such page; there are {', '.join(PAGES)}\n".encode())
        if request.method not in METHODS:
            return Answer(405, f"only {' and '.join(METHODS)}\n".encode())
        if request.path == "/metrics":
            return self._metrics(request.headers.get("accept", ""))
        look = self._look()
        if request.path == "/status":
            return Answer(200, f"{json_text(look.status)}\n".encode(), JSON_TYPE)
        good, other = (look.alive, "not alive") if request.path == "/healthz" else (look.ready, "not ready")
        return Answer(200, b"ok\n") if good else Answer(503, f"{escaped(look.why or other)}\n".encode())

    def _metrics(self, accept: str) -> Answer:
        """Write the metrics in the form that is asked for: Prometheus' text, or OpenMetrics."""
        versions = (part.partition("=")[2] for part in re.split(r"[,;]", accept) if part.strip().startswith("version="))
        sound = all(_PLAIN_VERSION.fullmatch(version.strip()) for version in versions)  # choose_encoder compares anything else
        encode, content_type = choose_encoder(accept if sound else "")
        try:
            return Answer(200, encode(self._registry), content_type)
        except KeyError as error:
            return Answer(500, f"a counter that sensor/metrics.py does not have: {escaped(str(error.args[0]))}\n".encode())
