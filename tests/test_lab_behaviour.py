"""The laboratory's agents: what they put on the wire, when they do it, and how they count what fails.

Messages are compared with scapy's and with the RFCs' examples; the rest is done against dnsmasq and http.server on loopback.
test_lab_behaviour_world.py has all activities, against all servers of the laboratory.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab.behaviour import ACTIVITIES
from lab.behaviour.__main__ import main
from lab.behaviour.broadcasts import netbios_query
from lab.behaviour.databases import scram_answer
from lab.behaviour.dns import AAAA, A, Resolver, UnresolvedError, answer, question
from lab.behaviour.http import Browser, Connection
from lab.behaviour.tools import FailedError, Tools
from lab.site import Event, Host, LabError, Plan, Site, Value
from scapy.layers.dns import DNS, DNSQR, DNSRR
from scapy.layers.netbios import NBNSHeader, NBNSQueryRequest

OFFICE = Host("office", "office", "inside", ("127.0.0.1",))
NEAR = Host("near", "server", "inside", ("127.0.0.1",))


def site(seconds: float = 2.0, compression: float = 30.0, *hosts: Host) -> Site:
    return Site((OFFICE, NEAR, *hosts), "lab.example", seconds, compression)


# messages


def test_a_question_is_what_scapy_reads() -> None:
    for kind in (A, AAAA):
        read = DNS(question(4711, "news.example", kind))
        assert (read.id, read.qr, read.rd, read.qdcount) == (4711, 0, 1, 1)
        assert (read.qd[0].qname, read.qd[0].qtype, read.qd[0].qclass) == (b"news.example.", kind, 1)


def test_an_answer_of_scapy_is_read_past_other_records() -> None:
    records = [
        DNSRR(rrname="www.example", type="CNAME", rdata="news.example", ttl=300),
        DNSRR(rrname="news.example", type="A", rdata="192.0.2.9", ttl=20),
        DNSRR(rrname="news.example", type="AAAA", rdata="2001:db8::9", ttl=40),
    ]
    read = answer(bytes(DNS(id=7, qr=1, qd=DNSQR(qname="www.example"), an=records)))
    assert (read.number, read.code, read.cut, read.kept_s) == (7, 0, False, 20.0)
    assert read.addresses == ("192.0.2.9", "2001:db8::9")


@given(st.binary(max_size=80))
def test_any_bytes_are_an_answer_or_refused(message: bytes) -> None:
    for tried in (message, b"\0\x07\x80\0\0\x01\0\x02\0\0\0\0" + message):
        with contextlib.suppress(UnresolvedError):
            answer(tried)


@pytest.mark.parametrize("name", ["", "a..b", "x" * 64 + ".example", "ü.example"])
def test_what_is_no_name_is_not_asked_for(name: str) -> None:
    with pytest.raises(UnresolvedError):
        question(1, name, A)


def test_a_netbios_query_is_what_scapy_reads() -> None:
    read = NBNSHeader(netbios_query(99, "files"))
    assert (read.NAME_TRN_ID, read.QDCOUNT) == (99, 1)
    assert read[NBNSQueryRequest].QUESTION_NAME.rstrip() == b"FILES"


def test_the_database_is_answered_as_in_the_example_of_rfc_7677() -> None:
    nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    said = scram_answer("pencil", "n=user,r=rOprNGfwEbeRWgbNEkqO", f"r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096")
    assert said == f"c=biws,r={nonce},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=".encode()


# activities


def test_every_activity_has_its_code() -> None:
    for name, activity in ACTIVITIES.items():
        assert activity.name == name
        assert inspect.iscoroutinefunction(activity.run())
        assert activity.flows > 0
        assert not activity.grows_with or activity.grows_with in activity.takes


def test_every_parameter_is_read_by_the_code() -> None:
    for activity in ACTIVITIES.values():
        text = inspect.getsource(inspect.getmodule(activity.run()) or activity.run())
        for key in activity.takes:
            shared = activity.name == "sftp" and key == "kilobytes"  # files.sizes reads it, which shells.sftp calls
            assert shared or f'given["{key}"]' in text, f"{activity.name} never reads {key}"


def test_unknown_and_mistyped_parameters_are_refused() -> None:
    web = ACTIVITIES["web"]
    assert web.complete({"pages": 2, "think_s": 3})["tls"] is True
    wrongs: list[dict[str, Value]] = [{"page": 2}, {"pages": "2"}, {"pages": True}, {"tls": 1}, {"name": ["a"]}]
    for wrong in wrongs:
        with pytest.raises(LabError, match="web"):
            web.complete(wrong)


def test_an_estimate_grows_with_what_is_asked_for() -> None:
    resolve, noise, ntp = ACTIVITIES["resolve"], ACTIVITIES["noise"], ACTIVITIES["ntp"]
    assert resolve.estimate({"names": 6}) == 2 * resolve.flows == 2 * resolve.estimate({})
    assert noise.estimate({"kinds": ["mdns"]}) == noise.flows / 4
    assert ntp.estimate({"samples": 5}) == ntp.flows


# names


@pytest.fixture
def name_server(tmp_path: Path) -> Iterator[int]:
    """Port of a dnsmasq on loopback that knows news.example, and many.example with 80 addresses."""
    if shutil.which("dnsmasq") is None:
        pytest.skip("needs dnsmasq")
    known = ["192.0.2.9 news.example", "2001:db8::9 news.example", *(f"192.0.2.{number} many.example" for number in range(80))]
    (tmp_path / "names").write_text("\n".join(known) + "\n", encoding="ascii")
    with socket.socket() as plug:
        plug.bind(("127.0.0.1", 0))
        port: int = plug.getsockname()[1]
    options = ("--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--bind-interfaces", "--local=/#/")
    private = (
        f"--port={port}",
        "--listen-address=127.0.0.1",
        f"--addn-hosts={tmp_path / 'names'}",
        "--pid-file=",
        "--user=root",
    )
    with subprocess.Popen(["dnsmasq", *options, *private], stderr=subprocess.DEVNULL) as server:
        try:
            _wait_for_port(port, server)
            yield port
        finally:
            server.terminate()


def _wait_for_port(port: int, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 20.0
    while time.monotonic() < until:
        if server.poll() is not None:
            pytest.skip("dnsmasq does not run here")
        with socket.socket() as plug:
            if plug.connect_ex(("127.0.0.1", port)) == 0:
                return
        threading.Event().wait(0.02)
    raise AssertionError("dnsmasq never answered")


@pytest.mark.parametrize("together", [True, False])
def test_names_are_looked_up_once_and_remembered(name_server: int, together: bool) -> None:
    async def look() -> None:
        resolver = Resolver(["127.0.0.1"], together=together, port=name_server)
        for _ in range(2):
            assert await resolver.both("news.example") == (("192.0.2.9",), ("2001:db8::9",))
        assert resolver.asked == 2  # a question for each family
        with pytest.raises(UnresolvedError, match="no such name"):
            await resolver.both("news.exmaple")

    asyncio.run(look())


def test_an_answer_that_does_not_fit_comes_over_tcp(name_server: int) -> None:
    async def look() -> None:
        resolver = Resolver(["127.0.0.1"], together=True, port=name_server)
        (addresses,) = await resolver.ask("many.example", (A,))
        assert len(addresses) == 80

    asyncio.run(look())


def test_the_second_server_is_asked_when_the_first_is_silent(name_server: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.behaviour.dns.TRIES_S", (0.2, 20.0))

    async def look() -> None:
        resolver = Resolver(["127.0.0.2", "127.0.0.1"], together=True, port=name_server)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
            silent.bind(("127.0.0.2", name_server))
            assert (await resolver.both("news.example"))[0] == ("192.0.2.9",)

    asyncio.run(look())


# the web


class _Pages(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen: list[tuple[tuple[str, int], str]] = []  # noqa: RUF012 - emptied by each test

    def do_GET(self) -> None:
        type(self).seen.append((self.client_address, self.path))
        self.send_response(200)
        if self.path == "/chunks":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nTrailer: 1\r\n\r\n")
            return
        self.send_header("Content-Length", "300000")
        self.end_headers()
        self.wfile.write(bytes(300_000))
        if self.path == "/last":
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def web_server() -> Iterator[int]:
    _Pages.seen.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Pages)
    server.handle_error = lambda *_: None  # type: ignore[method-assign] # clients that reset are part of the test
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _fetch(port: int, paths: Sequence[str], *, kept: bool = True, at_most: int | None = None) -> tuple[list[int], int]:
    """Sizes of the bodies, and how many connections were opened."""

    async def fetch() -> tuple[list[int], int]:
        tools = Tools(OFFICE, site(), Path())
        async with Connection(tools, "127.0.0.1", "near", Browser("test", kept=kept), tls=False, port=port) as line:
            sizes = [(await line.get(path, at_most=at_most)).size_bytes for path in paths]
            return sizes, line.opened

    return asyncio.run(fetch())


def test_a_kept_connection_serves_many_requests() -> None:
    with web_server() as port:
        assert _fetch(port, ["/a", "/chunks", "/b"]) == ([300_000, 11, 300_000], 1)
        assert len({client for client, _ in _Pages.seen}) == 1


def test_a_connection_not_kept_serves_one() -> None:
    with web_server() as port:
        assert _fetch(port, ["/a", "/b", "/c"], kept=False) == ([300_000] * 3, 3)


def test_a_connection_that_the_server_closed_is_opened_again() -> None:
    with web_server() as port:
        assert _fetch(port, ["/last", "/b"]) == ([300_000] * 2, 2)


def test_an_aborted_download_stops_where_it_should_and_begins_anew() -> None:
    with web_server() as port:
        assert _fetch(port, ["/a", "/b"], at_most=1000) == ([1000, 1000], 2)


# the agent


Asked = tuple[float, str, Mapping[str, Value]]


def _live(folder: Path, events: Sequence[Asked], around: Site, start: float) -> tuple[int, dict[str, Any]]:
    around.write(folder / "hosts.json")
    Plan(tuple(Event(at_s, "office", what, 1, asked) for at_s, what, asked in events), ()).write(folder / "schedule.json")
    status = main(["office", "--run", str(folder), "--start", str(start)])
    return status, json.loads((folder / "agents" / "office.json").read_bytes())


def test_failures_are_counted_by_reason_and_do_not_end_the_agent(tmp_path: Path) -> None:
    events: list[Asked] = [
        (0.0, "resolve", {}),
        (0.0, "mail_send", {}),
        (0.1, "mail_send", {}),
        (0.2, "monitor", {"hosts": ["nobody"]}),
        (0.3, "dead", {"host": "near", "port": 1, "tries": 1}),
    ]
    status, outcome = _live(tmp_path, events, site(5.0), time.time())
    assert status == 0
    assert outcome["done"] == {"dead": 1}  # that it is refused is what was wanted
    assert outcome["failed"]["resolve"] == {"no host offers dns": 1}
    assert outcome["failed"]["mail_send"] == {"no host offers mail": 2}
    assert list(outcome["failed"]["monitor"]) == ["there is no host 'nobody': the description has office, near"]
    assert outcome["mistakes"] == []


def test_events_begin_at_their_times_and_the_agent_ends_with_the_run(tmp_path: Path) -> None:
    long: dict[str, Value] = {"host": "near", "port": 1, "tries": 9}  # it waits long between two tries
    events: list[Asked] = [(0.4, "dead", long), (0.2, "dead", {**long, "tries": 1}), (60.0, "dead", long)]
    begun = time.time()
    _, outcome = _live(tmp_path, events, site(3.0, 1.0), begun + 0.3)
    assert 3.3 <= time.time() - begun < 60.0
    assert (outcome["done"], outcome["cut"], outcome["never"]) == ({"dead": 1}, {"dead": 1}, {"dead": 1})
    assert 0.0 <= outcome["latest_s"] < 3.0


def test_an_agent_that_is_told_to_end_still_writes_what_it_did(tmp_path: Path) -> None:
    site(600.0, 1.0).write(tmp_path / "hosts.json")
    events = (Event(0.0, "office", "mail_send", 1), Event(0.0, "dead", "dead", 1), Event(500.0, "office", "ntp", 1))
    Plan(events, ()).write(tmp_path / "schedule.json")
    command = [sys.executable, "-m", "tests.lab.behaviour", "office", "--run", str(tmp_path), "--start", str(time.time())]
    with subprocess.Popen(command, cwd=Path(__file__).parents[1]) as agent:
        _wait_until_it_catches(agent.pid)
        for _ in range(2):
            agent.terminate()
        assert agent.wait(30.0) == 0
    outcome = json.loads((tmp_path / "agents" / "office.json").read_bytes())
    assert outcome["events"] == 2  # those of other hosts are not its own
    assert outcome["never"]["ntp"] == 1


def _wait_until_it_catches(pid: int) -> None:
    """Wait until a process has a handler of its own for SIGTERM."""
    until = time.monotonic() + 30.0
    while time.monotonic() < until:
        caught = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt"))
        if int(caught.split()[1], 16) >> 14 & 1:
            return
        threading.Event().wait(0.01)
    raise AssertionError("the agent never caught SIGTERM")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["who"], "there is no host 'who'"),
        (["office"], "there is no activity 'dance'"),
        (["near"], "activity ntp takes no 'when'"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    site().write(tmp_path / "hosts.json")
    Plan((Event(0.0, "office", "dance", 1), Event(0.0, "near", "ntp", 1, {"when": 1})), ()).write(tmp_path / "schedule.json")
    assert main([*arguments, "--run", str(tmp_path), "--start", "0"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_programs_see_no_proxy_and_none_of_the_users_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.example")
    tools = Tools(OFFICE, site(), tmp_path)
    said = asyncio.run(tools.tool(["env"])).decode()
    assert "https_proxy=" not in said
    assert f"HOME={tmp_path}/agents/office.files" in said.splitlines()
    tools.clean()
    assert not (tmp_path / "agents" / "office.files").exists()


def test_a_program_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    pid = tmp_path / "pid"

    async def hang() -> None:
        for within_s in (0.3, 3.0, 30.0):  # a busy machine may not even begin it in time
            with pytest.raises(TimeoutError):
                await Tools(OFFICE, site(), tmp_path).tool(["sh", "-c", f"echo $$ > {pid}; sleep 60 & wait"], within_s=within_s)
            if pid.exists() and pid.read_text():
                break
        with pytest.raises(FailedError, match="sh ended with 3"):
            await Tools(OFFICE, site(), tmp_path).tool(["sh", "-c", "exit 3"])

    asyncio.run(hang())
    group = int(pid.read_text())
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state, _, its_group = status.read_text().rpartition(")")[2].split()[:3]
            assert int(its_group) != group or state == "Z"  # dead, and perhaps not yet buried
