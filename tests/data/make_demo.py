"""Writes demo.pcap.gz: some minutes of ordinary traffic from Zeek's test traces, and an intrusion in the middle of it.

    python tests/data/make_demo.py FOLDER

FOLDER holds Zeek's traces (testing/btest/Traces of its repository, BSD; gzip or plain). They are placed on one clock and cut
to the first 160 bytes of each packet, otherwise untouched. The intrusion is made here: the workstation that reads Wikipedia at
the beginning is taken over, looks for open ports on two neighbours, guesses passwords on one of them, and keeps a line open to
a host outside, whose address is one for documentation (RFC 5737). The same traces give the same bytes.
"""

from __future__ import annotations

import gzip
import io
import random
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import dpkt

KEPT_BYTES = 160
START = 1_300_475_167  # of wikipedia.pcap
LIMIT_S = 300.0  # of a trace: some have an afterthought of another year

BENIGN = (
    (0, "wikipedia.pcap"),
    (45, "ntp/ntp.pcap"),
    (110, "workshop_2011_browse.pcap"),
    (190, "ssh/single-conn.pcap"),
    (240, "http/bro.org.pcap"),
    (310, "tls/tls-1.2-stream-keylog.pcap"),
    (400, "var-services-std-ports.pcap"),
    (520, "http/206_example_c.pcap"),
    (640, "quic/curl-8.1.2-dev-http3-www-google-de.pcap"),
    (700, "ntp/ntp2.pcap"),
    (760, "smtp.pcap"),
    (880, "http/206_example_a.pcap"),
)
"""Seconds after the start, and the trace that begins then."""

WORKSTATION, SERVER, PRINTER = "141.142.220.118", "141.142.220.50", "141.142.220.60"
CONTROLLER = "203.0.113.66"
PORTS: tuple[int, ...] = (21, 22, 23, 25, 80, 110, 111, 135, 139, 143, 443, 445, 515, 631, 993, 1433, 1521, 2049, 3306, 3389)
PORTS += (4786, 5060, 5432, 5900, 5985, 6379, 7001, 8000, 8009, 8080, 8443, 8888, 9000, 9100, 9200, 10250, 11211, 27017)

SYN, ACK, RST, PSH, FIN = dpkt.tcp.TH_SYN, dpkt.tcp.TH_ACK, dpkt.tcp.TH_RST, dpkt.tcp.TH_PUSH, dpkt.tcp.TH_FIN
Packet = tuple[float, bytes, int]


def trace(folder: Path, name: str, at: float) -> Iterator[Packet]:
    """Packets of a trace, moved so that the first one is `at` seconds after the start."""
    path = next(path for path in (folder / f"{name}.gz", folder / name) if path.is_file())
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    first = None
    for ts, data, wire_bytes in records(raw):
        first = ts if first is None else first
        if ts - first <= LIMIT_S:
            yield START + at + (ts - first), data[:KEPT_BYTES], wire_bytes


def records(raw: bytes) -> Iterator[Packet]:
    """Stamp, bytes and wire length of each record of a classic pcap file."""
    order = "<" if raw[:4] in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1") else ">"
    header = dpkt.pcap.LEPktHdr if order == "<" else dpkt.pcap.PktHdr
    at = 24
    while at + 16 <= len(raw):
        record = header(raw[at : at + 16])
        yield record.tv_sec + record.tv_usec / 1e6, raw[at + 16 : at + 16 + record.caplen], record.len
        at += 16 + record.caplen


class Talk:
    """One TCP connection, written packet by packet as its two ends send."""

    def __init__(self, client: str, server: str, client_port: int, server_port: int, at: float) -> None:
        self.packets: list[Packet] = []
        self.at = START + at
        self._ends = ((client, client_port), (server, server_port))
        self._seq = [random.getrandbits(31), random.getrandbits(31)]

    def say(self, who: int, flags: int, payload: bytes = b"", wait: float = 0.001) -> None:
        """Send one packet, `wait` seconds after the last."""
        self.at += wait * random.uniform(0.8, 1.2)
        (src, sport), (dst, dport) = self._ends[who], self._ends[1 - who]
        ack = self._seq[1 - who] if flags & ACK else 0
        tcp = dpkt.tcp.TCP(sport=sport, dport=dport, seq=self._seq[who], ack=ack, flags=flags, win=64240, data=payload)
        ip = dpkt.ip.IP(src=socket.inet_aton(src), dst=socket.inet_aton(dst), p=6, ttl=64, id=random.getrandbits(16), data=tcp)
        ip.len = len(ip)
        frame = bytes(dpkt.ethernet.Ethernet(src=mac(src), dst=mac(dst), data=ip))
        self.packets.append((self.at, frame[:KEPT_BYTES], max(len(frame), 60)))
        self._seq[who] = (self._seq[who] + len(payload) + bool(flags & (SYN | FIN))) & 0xFFFFFFFF

    def open(self) -> None:
        """Shake hands."""
        self.say(0, SYN)
        self.say(1, SYN | ACK)
        self.say(0, ACK)

    def data(self, who: int, size: int, wait: float) -> None:
        """Send `size` bytes in segments, and have each acknowledged."""
        while size > 0:
            self.say(who, ACK | PSH, bytes(min(size, 1448)), wait)
            self.say(1 - who, ACK, wait=0.02)
            size -= 1448
            wait = 0.001

    def close(self) -> None:
        """Part in peace."""
        self.say(0, FIN | ACK)
        self.say(1, FIN | ACK)
        self.say(0, ACK)


def mac(address: str) -> bytes:
    """A locally administered hardware address for a host."""
    return b"\x02\x00" + socket.inet_aton(address)


def probe(host: str, at: float) -> Iterator[Packet]:
    """Ask a host for every port in PORTS: closed ones answer with RST, three are silent behind a filter."""
    for port in random.sample(PORTS, len(PORTS)):
        talk = Talk(WORKSTATION, host, random.randrange(32768, 61000), port, at)
        talk.say(0, SYN)
        if port not in (135, 139, 445):
            talk.say(1, RST | ACK)
        at = talk.at - START + random.uniform(0.05, 0.4)
        yield from talk.packets


def guess(at: float) -> Iterator[Packet]:
    """Try passwords over SSH, one connection after the other, until one fits."""
    for attempt in range(25):
        talk = Talk(WORKSTATION, SERVER, random.randrange(32768, 61000), 22, at)
        talk.open()
        for who, size in (
            (1, 41),
            (0, 33),
            (0, 1432),
            (1, 1080),
            (0, 48),
            (1, 452),
            (0, 16),
            (0, 44),
            (1, 44),
            (0, 60),
            (1, 52),
        ):
            talk.data(who, size, 0.01)
        talk.data(0, 148, 0.3)
        talk.data(1, 52, 1.8 if attempt < 24 else 0.1)
        talk.close()
        at = talk.at - START + random.uniform(0.2, 0.9)
        yield from talk.packets


def shell(at: float) -> Iterator[Packet]:
    """Hold a line to the controller: a beat every 20 s, a command now and then, and in the end a theft."""
    talk = Talk(WORKSTATION, CONTROLLER, 49731, 4444, at)
    talk.open()
    for beat in range(18):
        talk.data(1, 21, 20.0)
        talk.data(0, 37 if beat % 5 else random.randrange(900, 4000), 0.05)
    talk.data(0, 700_000, 3.0)
    talk.close()
    yield from talk.packets


def main() -> None:
    """Write the capture beside this script."""
    random.seed(20110318)
    folder = Path(sys.argv[1])
    packets = [packet for at, name in BENIGN for packet in trace(folder, name, at)]
    packets += [*probe(SERVER, 460.0), *probe(PRINTER, 500.0), *guess(540.0), *shell(440.0)]
    packets.sort(key=lambda packet: packet[0])
    plain = io.BytesIO()
    plain.write(bytes(dpkt.pcap.LEFileHdr(snaplen=KEPT_BYTES, linktype=1)))
    for ts, data, wire_bytes in packets:
        seconds, microseconds = divmod(round(ts * 1e6), 1_000_000)
        header = dpkt.pcap.LEPktHdr(tv_sec=seconds, tv_usec=microseconds, caplen=len(data), len=wire_bytes)
        plain.write(bytes(header) + data)
    target = Path(__file__).with_name("demo.pcap.gz")
    target.write_bytes(gzip.compress(plain.getvalue(), 9, mtime=0))
    sys.stdout.write(f"{target}: {len(packets)} packets, {target.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
