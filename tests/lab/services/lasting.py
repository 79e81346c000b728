"""Services whose clients stay: time (chronyd), chat (ngIRCd), and a stream over UDP (stream_server.py).

chronyd only ever tells the time: it runs with -x, which leaves the clock alone, and without the right to set it besides.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ..site import Host, Site
from .private import HOUSE, privately
from .service import Launch, Service, names, needed, own_folder

CHANNELS = ("#lab", "#office", "#build")
STREAM_PORT = 5004


def start_ntp(host: Host, site: Site, run: Path, launch: Launch) -> None:
    """Tell the machine's time at port 123."""
    folder = own_folder(run, host, "ntp")
    lines = [
        "local stratum 3",
        "allow all",
        "port 123",
        "cmdport 0",
        "bindcmdaddress /",
        "pidfile /run/chronyd.pid",
        "user root",
    ]
    (folder / "chrony.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")
    unable = (needed("setpriv"), "--bounding-set=-sys_time", "--inh-caps=-sys_time", "--")
    launch(privately(folder, [*unable, needed("chronyd"), "-x", "-d", "-f", f"{HOUSE}/chrony.conf"]))


def start_chat(host: Host, site: Site, run: Path, launch: Launch) -> None:
    """Run an IRC server with CHANNELS at port 6667; it pings those who are silent."""
    folder = own_folder(run, host, "chat")
    lines = [
        "[Global]",
        f"Name = {names(host, site)[0]}",
        "Info = chat of the laboratory",
        "MotdPhrase = Welcome",
        "Listen = 0.0.0.0,::",
        "Ports = 6667",
        "ServerUID = nobody",
        "ServerGID = nobody",
        "[Limits]",
        "MaxConnections = 0",
        "MaxConnectionsIP = 0",
        "PingTimeout = 15",  # a few minutes of the working day
        "PongTimeout = 20",
        "[Options]",
        "DNS = no",
        "Ident = no",
        "PAM = no",
        *(line for channel in CHANNELS for line in ("[Channel]", f"Name = {channel}")),
    ]
    (folder / "ngircd.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")
    launch(privately(folder, [needed("ngircd"), "-n", "-f", f"{HOUSE}/ngircd.conf"]))


def start_stream(host: Host, site: Site, run: Path, launch: Launch) -> None:
    """Answer requests for a stream, and take those of others, at UDP port 5004."""
    server = Path(__file__).with_name("stream_server.py")
    launch([sys.executable, "-I", "-S", str(server), str(STREAM_PORT)])


SERVICES = (
    Service("ntp", ("chronyd", "setpriv"), ("chrony", "util-linux"), (("udp", 123),), start_ntp, "time: chronyd"),
    Service("chat", ("ngircd",), ("ngircd",), (("tcp", 6667),), start_chat, "chat: ngIRCd"),
    Service("stream", (), (), (("udp", STREAM_PORT),), start_stream, "a stream over UDP: the laboratory's own"),
)
