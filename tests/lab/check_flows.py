"""The flows of a run as netseq reads them, and whose they are: the host at each end, the label, the line that gave it.

check.py and check_labels.py ask this; report_read.py asks only whose each line of a label file is.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sensor.commands.datasets import DataSet, read
from sensor.labels import Labels
from sensor.schema import ICMP, ICMPV6, TCP, UDP, V4_MAPPED

from . import output
from .site import Site

SERVICES: dict[tuple[int, int], str] = {
    (TCP, 80): "HTTP", (TCP, 443): "HTTPS", (UDP, 53): "DNS", (TCP, 53): "DNS", (TCP, 25): "SMTP", (TCP, 587): "SMTP",
    (TCP, 143): "IMAP", (TCP, 993): "IMAP", (TCP, 21): "FTP", (TCP, 22): "SSH", (TCP, 445): "SMB", (TCP, 139): "SMB",
    (TCP, 5432): "SQL", (UDP, 123): "NTP", (UDP, 5353): "noise", (UDP, 1900): "noise", (UDP, 5355): "noise",
    (UDP, 137): "noise", (UDP, 138): "noise",
}  # fmt: skip
"""By protocol and port of the answering side; what is not here is told by protocol."""


@dataclass(slots=True)
class Flows:
    """The flows of a run, as arrays of (n,), and who their ends are."""

    data: DataSet
    line: NDArray[np.int64]
    """Place of the label file's line that each matches, -1 for none."""
    owners: list[str]
    """The attack that each line of the label file belongs to."""
    label: NDArray[np.str_]
    """"" for benign and for what nobody judged."""
    src: NDArray[np.int64]
    """Number of the host in the site, -1 for an address of none: multicast, link-local."""
    dst: NDArray[np.int64]
    conversation: NDArray[np.int64]
    """A number for each pair of addresses, whichever way round."""


def owners(lines: Sequence[str]) -> list[str]:
    """The attack that each line of a label file belongs to, "" for none: the last comment above it begins with its name."""
    found, owner = [], ""
    for line in lines:
        if line.startswith("#"):
            owner = line[1:].split(":", 1)[0].strip() if ":" in line else ""
        found.append(owner)
    return found


def owners_of(path: Path, labels: Labels) -> list[str]:
    """The same of the lines that `labels` has of this file."""
    every = owners(path.read_bytes().decode().split("\n"))  # as sensor.labels counts
    return [every[line.number - 1] for line in labels.lines]


def flows_of(folder: Path, site: Site, labels: Labels) -> Flows:
    """Read the capture as netseq does, and label it."""
    data = read(str(folder / output.CAPTURE))
    line = labels.of(data.flows)
    names = np.array([*labels.names, ""], dtype=np.str_)
    label = np.where(np.append(labels.unsure, False)[line], "", names[line])
    ends = [_key(data.flows[f"{end}_hi"], data.flows[f"{end}_lo"]) for end in ("src", "dst")]
    addresses, numbers = np.unique(np.concatenate(ends), return_inverse=True)
    known = {_address(text): place for place, host in enumerate(site.hosts) for text in (*host.ipv4, *host.ipv6)}
    host = np.array([known.get(bytes(address).ljust(16, b"\0"), -1) for address in addresses], np.int64)
    src, dst = numbers[: len(line)].astype(np.int64), numbers[len(line) :].astype(np.int64)
    pairs = np.minimum(src, dst) * len(addresses) + np.maximum(src, dst)
    return Flows(data, line, owners_of(folder / output.LABELS, labels), label, host[src], host[dst], pairs)


def _key(hi: NDArray[np.uint64], lo: NDArray[np.uint64]) -> NDArray[np.bytes_]:
    """Addresses as 16 bytes."""
    joined = np.empty((len(hi), 2), ">u8")
    joined[:, 0], joined[:, 1] = hi, lo
    return joined.view("S16")[:, 0]


def _address(text: str) -> bytes:
    """The same of an address as text."""
    address = ipaddress.ip_address(text)
    return ((V4_MAPPED if address.version == 4 else 0) + int(address)).to_bytes(16)


def ends(flows: Flows, site: Site, rows: NDArray[np.int64]) -> str:
    """The most frequent ends of some flows."""
    counts: Counter[str] = Counter()
    for row in rows.tolist():
        flow = flows.data.flows[row]
        pair = " to ".join(site.hosts[host].name if host >= 0 else "none of ours" for host in (flows.src[row], flows.dst[row]))
        counts[f"{pair} {service(flow['protocol'], flow['dst_port'])} {flow['dst_port']}"] += 1
    return ", ".join(f"{number:,} {pair}" for pair, number in counts.most_common(3))


def service(protocol: int, port: int) -> str:
    """What a flow to this port is, in a word."""
    by_protocol = {TCP: "other TCP", UDP: "other UDP", ICMP: "ICMP", ICMPV6: "ICMPv6"}
    return SERVICES.get((int(protocol), int(port))) or by_protocol.get(int(protocol), f"protocol {protocol}")
