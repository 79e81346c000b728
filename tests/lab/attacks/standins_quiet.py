"""Stand-ins for what leaves quietly: through names, through echo requests, and slowly over HTTPS.

All of it is random bytes. dns_tunnel runs the real iodine where that works inside the world (it wants a TUN device); its
other tool sends long random labels itself and needs nothing. Queries go to the tunnel's own server and not through the
laboratory's, so that the flows are told from ordinary look-ups. Called by the driver.
"""

from __future__ import annotations

import os
import random
import shlex
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ..services.responder import TYPES
from ..services.service import names
from ..services.tunneldns import PASSWORD, SINK_PORT, label_zone, near, zone
from ..site import Attack, Host, LabError, Line, Site, Value
from . import instance
from .exchanges import Exchanges
from .kind import Kind
from .long_labels import question
from .standins import AGENT, PIECE_BYTES, SETTLE_S, Ends, Pace, Web, around, chance, flag, peer, share

DNS_PORT = 53
ECHO_REQUEST = 8
MOST_PAYLOAD_BYTES = 1400
"""An echo request and its headers then fit a frame, and one packet stays one."""
TRIES_S = 0.5
"""Between two looks whether the tunnel is up."""
UP_S = 30.0
"""iodine shakes hands several times, with a second of patience each."""


def _dns_tunnel(attack: Attack, site: Site, run: Path) -> Iterator[Line]:
    """Bytes through names, by iodine or by labels of our own."""
    ends = Ends.of(attack, site, peer(attack, site, "tunneldns"), DNS_PORT)
    tool, record = instance.text(attack, "tool", "labels", "iodine"), instance.text(attack, "record", *TYPES)
    yield ends.line("udp")
    yield Line(ends.src, ends.dst, protocol="icmp")  # an answer that comes when its socket is closed is refused
    if tool == "iodine":
        _iodine(attack, site, run, ends, record)
    else:
        _labels(attack, site, ends, record)
    time.sleep(SETTLE_S)


def _labels(attack: Attack, site: Site, ends: Ends, record: str) -> None:
    """Queries of long random labels, each with an answer of random bytes."""
    draw = chance(attack)
    queries, out = instance.whole(attack, "queries"), instance.whole(attack, "out_bytes")
    back, one_socket = instance.whole(attack, "back_bytes"), flag(attack, "one_socket")
    interval_s, jitter = instance.number(attack, "interval_s"), share(attack, "jitter")
    pace, asking = Pace(attack, draw), _asking(ends)
    try:
        for _ in range(queries):
            asked = question(draw, label_zone(site), record, around(draw, out), around(draw, back))
            with suppress(OSError):  # lost on the way, or nobody there: a tunnel goes on as well
                asking.send(asked)
                asking.recv(PIECE_BYTES)
            if not pace.wait(interval_s, jitter):
                return
            if not one_socket:
                asking.close()
                asking = _asking(ends)
    finally:
        asking.close()


def _asking(ends: Ends) -> socket.socket:
    asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asking.bind((ends.src, 0))
    asking.connect((ends.dst, ends.port))
    asking.settimeout(2.0)
    return asking


def _iodine(attack: Attack, site: Site, run: Path, ends: Ends, record: str) -> None:
    """A tunnel by iodine, and exchanges of random bytes through it."""
    program, draw, pace = instance.program("iodine", "iodine"), chance(attack), Pace(attack, random.Random(attack.seed))
    device = f"dns{os.getpid() % 1_000_000}"
    argv = [program, "-f", "-r", "-P", PASSWORD, "-T", record, "-d", device, "-m", "700", "-I", "1", ends.dst, zone(site)]
    instance.note(attack, run, shlex.join(argv))
    own = instance.folder(attack, run)
    with (
        (own / "iodine.txt").open("ab") as said,
        subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=said, stderr=said) as tool,
    ):
        try:
            with _through(tool, Ends("", near(site), SINK_PORT), device, pace, attack) as exchanges:
                for _ in range(instance.whole(attack, "queries")):
                    exchanges.exchange(
                        draw.randbytes(around(draw, instance.whole(attack, "out_bytes"))),
                        around(draw, instance.whole(attack, "back_bytes")),
                    )
                    if not pace.wait(instance.number(attack, "interval_s"), share(attack, "jitter")):
                        break
        finally:
            tool.terminate()


def _through(tool: subprocess.Popen[bytes], far: Ends, device: str, pace: Pace, attack: Attack) -> Exchanges:
    """A connection through the tunnel, as soon as it is up; LabError when it does not come up."""
    end_s = time.monotonic() + min(UP_S, pace.left_s)
    while time.monotonic() < end_s:
        if tool.poll() is not None:
            raise LabError(
                f"{attack.name}: iodine ended with status {tool.returncode}: give tool = 'labels', or see its iodine.txt"
            )
        try:
            # bound to the device: before the tunnel is up, the same addresses would be asked for on the wire
            return Exchanges(far, device)
        except OSError:
            time.sleep(TRIES_S)
    raise LabError(f"{attack.name}: iodine's tunnel did not come up within {UP_S:.0f} s: give tool = 'labels'")


def echo(identity: int, sequence: int, payload: bytes) -> bytes:
    """An ICMP echo request (RFC 792), with its checksum."""
    packet = struct.pack("!BBHHH", ECHO_REQUEST, 0, 0, identity, sequence) + payload
    padded = packet + bytes(len(packet) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    total = (total & 0xFFFF) + (total >> 16)
    total += total >> 16
    return packet[:2] + struct.pack("!H", ~total & 0xFFFF) + packet[4:]


def _icmp_tunnel(attack: Attack, site: Site, run: Path) -> Iterator[Line]:
    """Echo requests full of random bytes; the other end's kernel sends them back."""
    draw = chance(attack)
    ends = Ends.of(attack, site, _answering(attack, site), DNS_PORT)
    packets, payload = instance.whole(attack, "packets"), min(instance.whole(attack, "payload_bytes"), MOST_PAYLOAD_BYTES)
    interval_s, jitter = instance.number(attack, "interval_s"), share(attack, "jitter")
    spread, identities = share(attack, "spread"), instance.whole(attack, "identities")
    yield Line(ends.src, ends.dst, protocol="icmp")
    own, pace = [draw.getrandbits(16) for _ in range(identities)], Pace(attack, draw)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        raw.bind((ends.src, 0))
        raw.connect((ends.dst, 0))
        raw.setblocking(False)
        for sequence in range(packets):
            size = min(around(draw, payload, spread), MOST_PAYLOAD_BYTES)
            raw.send(echo(own[sequence * identities // packets], sequence & 0xFFFF, draw.randbytes(size)))
            if not pace.wait(interval_s, jitter):
                break
            _drain(raw)
    time.sleep(SETTLE_S)


def _answering(attack: Attack, site: Site) -> Host:
    """The only victim, which may be any host that is up; where none is named, the one with drop."""
    if len(attack.victims) > 1:
        raise LabError(f"{attack.name} has {len(attack.victims)} victims: this kind takes one")
    return site[attack.victims[0]] if attack.victims else peer(attack, site, "drop")


def _drain(raw: socket.socket) -> None:
    """Throw away what came, so that the kernel's queue does not fill."""
    while True:
        try:
            raw.recv(PIECE_BYTES)
        except OSError:
            return


def _exfiltration(attack: Attack, site: Site, run: Path) -> Iterator[Line]:
    """Random bytes to drop, in uploads that take their time."""
    far = peer(attack, site, "drop")
    ends = Ends.of(attack, site, far, instance.whole(attack, "port"))
    uploads, upload_bytes = instance.whole(attack, "uploads"), instance.whole(attack, "upload_bytes")
    interval_s, jitter = instance.number(attack, "interval_s"), share(attack, "jitter")
    bytes_s = instance.whole(attack, "bytes_s")
    piece, draw = instance.whole(attack, "piece_bytes"), chance(attack)
    web = Web(
        ends, tls=True, keep_alive=flag(attack, "keep_alive"), agent=instance.text(attack, "agent"), name=names(far, site)[-1]
    )
    yield ends.line()
    pace = Pace(attack, draw)
    for _ in range(uploads):
        size = around(draw, upload_bytes)
        if size / bytes_s >= pace.left_s:
            break
        web.ask(
            f"/{draw.getrandbits(48):012x}",
            _slowly(draw, size, piece, bytes_s),
            {"Content-Length": str(size), "Content-Type": "application/octet-stream"},
        )
        if not pace.wait(interval_s, jitter):
            break
    web.end(attack, run)


def _slowly(draw: random.Random, size: int, piece: int, bytes_s: int) -> Iterator[bytes]:
    """So many random bytes, a piece at a time, at about so many a second."""
    while size > 0:
        now = min(piece, size)
        yield draw.randbytes(now)
        size -= now
        if size:
            time.sleep(now / bytes_s)


_DNS_TUNNEL: dict[str, Value] = {
    "tool": "labels",
    "record": "TXT",
    "queries": 150,
    "interval_s": 0.2,
    "jitter": 0.5,
    "out_bytes": 150,
    "back_bytes": 220,
    "one_socket": True,
}
_ICMP_TUNNEL: dict[str, Value] = {
    "packets": 200,
    "interval_s": 0.15,
    "jitter": 0.7,
    "payload_bytes": 600,
    "spread": 0.6,
    "identities": 1,
}
_EXFILTRATION: dict[str, Value] = {
    "uploads": 6,
    "upload_bytes": 150_000,
    "bytes_s": 40_000,
    "piece_bytes": 8192,
    "interval_s": 5.0,
    "jitter": 0.5,
    "port": 443,
    "ipv6": False,
    "keep_alive": False,
    "agent": AGENT,
}

KINDS = (
    Kind(
        "dns_tunnel",
        "DNS-Tunnel",
        ("iodine",),
        ("iodine",),
        _DNS_TUNNEL,
        _dns_tunnel,
        "random bytes through names to tunneldns: long random labels (tool: labels, stand-in), or inside a tunnel of iodine",
    ),
    Kind(
        "icmp_tunnel",
        "ICMP-Tunnel",
        (),
        (),
        _ICMP_TUNNEL,
        _icmp_tunnel,
        "echo requests full of random bytes, sent back by the kernel of the victim, or of drop where none is named (stand-in)",
    ),
    Kind(
        "exfiltration",
        "Exfiltration",
        (),
        (),
        _EXFILTRATION,
        _exfiltration,
        "uploads of random bytes over HTTPS to drop, bytes_s a second (stand-in)",
    ),
)
