"""The laboratory's servers, run for real: each answers its kind of client, and none of them shows on the machine itself."""

from __future__ import annotations

import ftplib
import http.client
import imaplib
import os
import shutil
import smtplib
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import pytest
from lab.accounts import PEOPLE, account
from lab.processes import Processes
from lab.services import SERVICES, ready, wanting
from lab.services.files import client_key, file_sizes
from lab.services.lasting import STREAM_PORT
from lab.services.listening import bound
from lab.services.pages import packages, pages
from lab.services.private import privately
from lab.services.service import Launch
from lab.services.sql import DATABASE, ROWS
from lab.site import Host, Site
from namespaces import PATIENCE_S, Namespace, namespace, wait_until

T = TypeVar("T")

pytestmark = [pytest.mark.root, pytest.mark.slow]

SERVED = (
    ("http", "https", "dns", "ntp", "mail", "ftp", "ssh"),
    ("login", "sql", "smb", "chat", "stream", "health"),
    ("repo",),
)
"""Which services share a host: those that want the same port do not."""

WWW, SHOP = "www.meadow.example", "shop.meadow.example"
ALICE = account("alice")
STATUS_SYS_TIME = 1 << 25
"""CAP_SYS_TIME in /proc/PID/status (linux/capability.h)."""


@dataclass
class Lab:
    """Three hosts with all services, running."""

    run: Path
    site: Site
    spaces: tuple[Namespace, ...]
    processes: Processes
    ready_s: float

    def host(self, service: str) -> Host:
        return self.site.offering(service)[0]

    def address(self, service: str) -> str:
        return self.host(service).ipv4[0]

    def call(self, service: str, function: Callable[[], T]) -> T:
        """Run a function in the namespace of the host with this service."""
        return self.spaces[self.site.hosts.index(self.host(service))].call(function)

    def command(self, service: str, *argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command there."""
        inside = ["ip", "netns", "exec", self.host(service).name, *argv]
        given = {**os.environ, **environment}
        return subprocess.run(inside, capture_output=True, text=True, timeout=PATIENCE_S, check=False, env=given)

    def ask(self, service: str, port: int, method: str, path: str, body: str = "", host: str = "") -> tuple[int, bytes]:
        """One request over HTTP: status and body."""

        def asked() -> tuple[int, bytes]:
            client = http.client.HTTPConnection(self.address(service), port, timeout=PATIENCE_S)
            client.request(method, path, body or None, {"Host": host} if host else {})
            answer = client.getresponse()
            told = answer.status, answer.read()
            client.close()
            return told

        return self.call(service, asked)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with ExitStack() as stack:
        spaces = tuple(stack.enter_context(namespace()) for _ in SERVED)
        hosts = tuple(
            Host(
                space.name,
                "server",
                "inside",
                (f"192.0.2.{number}0", f"192.0.2.{number}1"),
                (f"2001:db8:1::{number}0",),
                (WWW, SHOP) if number == 1 else (),
                services,
            )
            for number, (space, services) in enumerate(zip(spaces, SERVED, strict=True), 1)
        )
        site = Site(hosts, "lab.example", 60.0, 30.0)
        if lacking := wanting(site):
            pytest.skip(f"not installed: {', '.join(package for _, package in lacking)}")
        for space, host in zip(spaces, hosts, strict=True):
            space.run("sysctl", "-qw", "net.ipv6.conf.lo.disable_ipv6=0")
            space.run("ip", "link", "set", "lo", "up")
            for address in (*host.ipv4, *host.ipv6):
                space.run("ip", "addr", "add", address, "dev", "lo")
        run = tmp_path_factory.mktemp("run")
        processes = stack.enter_context(Processes())
        yield Lab(run, site, spaces, processes, started(site, run, processes))


def started(site: Site, run: Path, processes: Processes) -> float:
    """Start all services and wait until they answer; how long that took."""
    began = time.monotonic()
    waiting = [(host, SERVICES[name]) for host in site.hosts for name in host.services]
    for host, service in waiting:
        service.start(host, site, run, launch_in(host, run / "logs" / f"{host.name}-{service.name}", processes))
    while waiting := [(host, service) for host, service in waiting if not ready(host, service)]:
        processes.check()
        assert time.monotonic() - began < PATIENCE_S, waiting[0][1].name
        time.sleep(0.02)
    return time.monotonic() - began


def launch_in(host: Host, log: Path, processes: Processes) -> Launch:
    def launch(argv: Sequence[str]) -> None:
        processes.start(["ip", "netns", "exec", host.name, *argv], log)

    return launch


def test_all_services_of_a_site_answer_and_go_on(lab: Lab, record_property: Callable[[str, object], None]) -> None:
    record_property("told", f"all {sum(map(len, SERVED))} services answered after {lab.ready_s:.1f} s")
    lab.processes.check()
    assert all(ready(host, SERVICES[name]) for host in lab.site.hosts for name in host.services)


def test_a_service_is_not_ready_where_nobody_listens(lab: Lab) -> None:
    repo = lab.host("repo")
    assert ready(repo, SERVICES["repo"])
    assert not ready(repo, SERVICES["mail"])
    assert bound(repo.name) == {("tcp", 80)}


def test_the_machine_sees_nothing_of_the_servers_files(lab: Lab) -> None:
    assert not any(line.startswith("alice:") for line in Path("/etc/passwd").read_text(encoding="utf-8").splitlines())
    mounted = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    assert str(lab.run) not in mounted


def test_the_machine_keeps_no_record_of_logins_at_a_server(tmp_path: Path) -> None:
    """sshd adds to /var/log/btmp, wtmp and lastlog, where they are."""
    if os.geteuid() != 0 or shutil.which("openssl") is None:
        pytest.skip("needs root and openssl")
    writes = 'test -z "$(ls -A /var/log)" && touch /var/log/netseq-was-here'
    subprocess.run(privately(tmp_path, ["sh", "-c", writes]), check=True, timeout=PATIENCE_S)
    assert not Path("/var/log/netseq-was-here").exists()


def test_a_site_has_the_pages_and_objects_that_clients_expect(lab: Lab) -> None:
    for page in pages(WWW):
        status, html = lab.ask("http", 80, "GET", page.path, host=WWW)
        assert (status, len(html)) == (200, page.size_bytes)
        assert html.count(b"<img") == len(page.objects)
    for item in pages(SHOP)[1].objects:
        status, content = lab.ask("http", 80, "GET", item.path, host=SHOP)
        assert (status, len(content)) == (200, item.size_bytes)


def test_each_site_shows_a_certificate_of_the_laboratory(lab: Lab) -> None:
    trusting = ssl.create_default_context(cafile=str(lab.run / "services" / "authority" / "ca.pem"))

    def shaken(name: str, address: str) -> str:
        with (
            socket.create_connection((address, 443), PATIENCE_S) as raw,
            trusting.wrap_socket(raw, server_hostname=name) as tls,
        ):
            return str(tls.version())

    host = lab.host("https")
    assert lab.call("https", lambda: shaken(WWW, host.ipv4[0])) == "TLSv1.3"
    assert lab.call("https", lambda: shaken(SHOP, host.ipv6[0])) == "TLSv1.3"
    with pytest.raises(ssl.SSLCertVerificationError):
        lab.call("https", lambda: shaken("www.elsewhere.example", host.ipv4[0]))


def test_the_form_lets_in_whoever_has_the_password(lab: Lab) -> None:
    for person in PEOPLE:
        for spelt in (person.password, quote(person.password, safe="")):
            assert lab.ask("login", 80, "POST", "/login", f"username={person.name}&password={spelt}")[0] == 302
    for wrong in ("alice&password=Winter-2018", "alice&password=Winter-2017x", "alice&password=", "bruno&password=Winter-2017"):
        status, answer = lab.ask("login", 80, "POST", "/login", f"username={wrong}")
        assert status == 200
        assert b"Login failed" in answer
    assert b"<form" in lab.ask("login", 80, "GET", "/login")[1]


def test_the_search_page_ignores_what_it_is_asked(lab: Lab) -> None:
    plain = lab.ask("http", 80, "GET", "/search?q=shoes", host=WWW)
    assert plain == lab.ask("http", 80, "GET", "/search?q=%27+OR+1%3D1--+%3Cscript%3E", host=WWW)
    assert plain[0] == 200


def test_uploads_are_taken_and_forgotten(lab: Lab) -> None:
    assert lab.ask("http", 80, "POST", "/upload", "x" * 300_000, host=WWW) == (201, b"taken\n")
    assert not any(path.is_file() for path in (lab.run / "services" / lab.host("http").name / "http" / "temporary").rglob("*"))


def test_the_mirror_has_its_packages(lab: Lab) -> None:
    name = f"{lab.host('repo').name}.{lab.site.domain}"
    for item in packages(name)[:6]:
        status, content = lab.ask("repo", 80, "GET", item.path)
        assert (status, len(content)) == (200, item.size_bytes)


def test_monitoring_gets_its_pages(lab: Lab) -> None:
    assert lab.ask("health", 9100, "GET", "/health") == (200, b"ok\n")
    assert lab.ask("health", 9100, "GET", "/metrics")[0] == 200


def test_names_have_their_addresses_and_others_do_not_exist(lab: Lab) -> None:
    first, second = lab.host("dns").ipv4
    assert resolved(lab, WWW, 1) == (0, [socket.inet_aton(first)])
    assert resolved(lab, SHOP, 1) == (0, [socket.inet_aton(second)])
    assert resolved(lab, WWW, 28) == (0, [socket.inet_pton(socket.AF_INET6, lab.host("dns").ipv6[0])])
    assert resolved(lab, f"{lab.host('repo').name}.lab.example", 1) == (0, [socket.inet_aton(lab.address("repo"))])
    assert resolved(lab, "nobody.meadow.example", 1) == (3, [])  # NXDOMAIN
    assert resolved(lab, lab.site.domain, 15)[0] == 0


def resolved(lab: Lab, name: str, kind: int) -> tuple[int, list[bytes]]:
    """Ask the DNS: its response code, and the data of all answers (RFC 1035)."""
    question = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0" + struct.pack("!HH", kind, 1)

    def asked() -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(PATIENCE_S)
            client.sendto(struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + question, (lab.address("dns"), 53))
            return client.recv(4096)

    answer = lab.call("dns", asked)
    _, flags, _, count, _, _ = struct.unpack_from("!6H", answer)
    at, found = 12 + len(question), []
    for _ in range(count):
        length = struct.unpack_from("!H", answer, at + 10)[0]  # names of answers are pointers: two bytes
        found.append(answer[at + 12 : at + 12 + length])
        at += 12 + length
    return flags & 15, found


def test_mail_that_is_sent_can_be_read(lab: Lab) -> None:
    trusting = ssl.create_default_context(cafile=str(lab.run / "services" / "authority" / "ca.pem"))
    name = f"{lab.host('mail').name}.lab.example"

    def sent() -> None:
        with smtplib.SMTP(lab.address("mail"), 587, "client.lab.example", PATIENCE_S) as client:
            client._host = name  # type: ignore[attr-defined]  # smtplib verifies the name that it connected to, an address here
            client.starttls(context=trusting)
            client.login("bruno", account("bruno").password)
            client.sendmail("bruno@lab.example", ["alice@lab.example"], "Subject: a test\r\n\r\nof the mail\r\n")

    def read() -> bool:
        with imaplib.IMAP4(lab.address("mail"), timeout=PATIENCE_S) as client:
            client.login(ALICE.name, ALICE.password)
            client.select()
            return client.search(None, "SUBJECT", '"a test"')[1] != [b""]

    lab.call("mail", sent)
    wait_until(lambda: lab.call("mail", read), "the message to arrive")


def test_mail_is_refused_for_strangers_and_without_login(lab: Lab) -> None:
    def refused(port: int, recipient: str) -> int:
        with smtplib.SMTP(lab.address("mail"), port, "client.lab.example", PATIENCE_S) as client:
            client.ehlo()
            client.mail("someone@meadow.example")
            return client.rcpt(recipient)[0]

    assert lab.call("mail", lambda: refused(25, "alice@lab.example")) == 250
    assert lab.call("mail", lambda: refused(25, "stranger@lab.example")) == 550
    assert lab.call("mail", lambda: refused(25, "root@lab.example")) == 550
    assert lab.call("mail", lambda: refused(587, "alice@lab.example")) == 550

    def read() -> None:
        imaplib.IMAP4(lab.address("mail"), timeout=PATIENCE_S).login(ALICE.name, "Winter-2018")

    with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
        lab.call("mail", read)


def test_files_come_and_go_over_ftp(lab: Lab) -> None:
    name, size_bytes = next(iter(file_sizes(lab.host("ftp").name, ALICE.name).items()))

    def fetched(address: str) -> int:
        with ftplib.FTP(address, ALICE.name, ALICE.password, timeout=PATIENCE_S) as client:
            parts: list[int] = []
            client.retrbinary(f"RETR {name}", lambda part: parts.append(len(part)))
            with Path("/dev/null").open("rb") as nothing:
                client.storbinary("STOR left", nothing)
            assert "left" in client.nlst()
            return sum(parts)

    host = lab.host("ftp")
    assert lab.call("ftp", lambda: fetched(host.ipv4[0])) == size_bytes
    assert lab.call("ftp", lambda: fetched(host.ipv6[0])) == size_bytes
    with pytest.raises(ftplib.error_perm, match="530"):
        lab.call("ftp", lambda: ftplib.FTP(host.ipv4[0], ALICE.name, "Winter-2018", timeout=PATIENCE_S))


def test_ssh_lets_in_by_key_and_by_password(lab: Lab, tmp_path: Path) -> None:
    asked = ("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", f"alice@{lab.address('ssh')}")
    by_key = lab.command("ssh", "ssh", "-o", "BatchMode=yes", "-i", str(client_key(lab.run)), *asked, "id -un; ls")
    assert by_key.stdout.split() == ["alice", *file_sizes(lab.host("ssh").name, "alice")]
    answer = tmp_path / "answer.sh"
    answer.write_text('#!/bin/sh\necho "$LAB_PASSWORD"\n', encoding="utf-8")
    answer.chmod(0o700)
    for password, status in ((ALICE.password, 0), ("Winter-2018", 255)):
        environment = {"SSH_ASKPASS": str(answer), "SSH_ASKPASS_REQUIRE": "force", "LAB_PASSWORD": password}
        options = ("-o", "PubkeyAuthentication=no", "-o", "NumberOfPasswordPrompts=1")
        assert lab.command("ssh", "ssh", *options, *asked, "true", **environment).returncode == status


def test_shares_are_read_and_written(lab: Lab) -> None:
    sizes = file_sizes(lab.host("smb").name, "alice")
    share = f"//{lab.address('smb')}/alice"
    done = lab.command("smb", "smbclient", share, "-U", f"alice%{ALICE.password}", "-c", "put /etc/hostname left; ls")
    assert done.returncode == 0, done.stdout
    assert {"left", *sizes} <= set(done.stdout.split())
    assert "LOGON_FAILURE" in lab.command("smb", "smbclient", share, "-U", "alice%Winter-2018", "-c", "ls").stdout


def test_the_database_answers_people_alone(lab: Lab) -> None:
    asked = ("psql", "-h", lab.address("sql"), "-U", "alice", "-At", DATABASE, "-c", "SELECT count(*) FROM items")
    assert lab.command("sql", *asked, PGPASSWORD=ALICE.password).stdout == f"{ROWS}\n"
    assert "password authentication failed" in lab.command("sql", *asked, PGPASSWORD="Winter-2018").stderr


def test_the_time_is_told_by_a_server_that_cannot_set_it(lab: Lab) -> None:
    def asked() -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(PATIENCE_S)
            client.sendto(bytes([0x23]) + bytes(47), (lab.address("ntp"), 123))  # version 4, a client (RFC 5905)
            return client.recv(100)

    answer = lab.call("ntp", asked)
    assert (answer[0] & 7, answer[1]) == (4, 3)  # a server, of stratum 3
    server = next(process for process in lab.processes.started if process.log.name.endswith("-ntp"))
    command = Path("/proc", str(server.pid), "cmdline").read_bytes().split(b"\0")
    assert Path(os.fsdecode(command[0])).name == "chronyd"
    assert b"-x" in command
    status = dict(
        line.split(":\t") for line in Path("/proc", str(server.pid), "status").read_text().splitlines() if "Cap" in line
    )
    assert not any(int(rights, 16) & STATUS_SYS_TIME for rights in status.values())


def hear(client: socket.socket, words: bytes) -> None:
    """Wait until somebody has said this."""
    told = b""
    while words not in told:
        more = client.recv(4096)
        assert more, told
        told += more


def test_what_one_says_in_the_chat_the_other_hears(lab: Lab) -> None:
    def heard() -> bool:
        with ExitStack() as stack:
            said, listened = (
                stack.enter_context(socket.create_connection((lab.address("chat"), 6667), PATIENCE_S)) for _ in range(2)
            )
            for client, name in ((listened, "ear"), (said, "mouth")):
                client.sendall(f"NICK {name}\r\nUSER {name} 0 * :{name}\r\nJOIN #lab\r\n".encode())
                hear(client, b" 366 ")  # the end of the channel's names
            said.sendall(b"PRIVMSG #lab :good morning\r\n")
            hear(listened, b"good morning")
            return True

    assert lab.call("chat", heard)


def test_a_stream_has_the_rate_that_was_asked_for_and_stops(lab: Lab) -> None:
    def played(asked: bytes, count: int) -> tuple[int, float]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(PATIENCE_S)
            began = time.monotonic()
            client.sendto(asked, (lab.address("stream"), STREAM_PORT))
            received = [len(client.recv(2000)) for _ in range(count)]
            took_s = time.monotonic() - began
            client.sendto(b"STOP", (lab.address("stream"), STREAM_PORT))
            return max(received), took_s

    size_bytes, took_s = lab.call("stream", lambda: played(b"PLAY 30 50 1000", 26))
    assert size_bytes == 12 + 1000
    assert 0.4 < took_s < PATIENCE_S
    assert lab.call("stream", lambda: played(b"PLAY 1 50 9000", 1))[0] == 12 + 1200
