"""Whether a run's labels are true, as far as the capture can tell: it is read as netseq's own flows, and held against the plan.

Labels that are written by construction can still be wrong: an attack that never reached its victim, a flow that began before
its line does, an ordinary host that touched what only attackers touch. So each run is read again the way a user would read
it, and what does not fit is told as a complaint. Called at the end of a run, and by `python -m tests.lab check`.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sensor.commands.datasets import DataSet, read
from sensor.labels import Labels, LabelsError
from sensor.schema import ICMP, ICMPV6, TCP, UDP, V4_MAPPED
from sensor.sources.faults import NotACapture, NotAConnLog
from sensor.sources.flowcsv import NotAFlowTable

from . import output
from .attacks import KINDS
from .campus import beside
from .site import Attack, Host, LabError, Plan, Site

OUTSIDERS = ("attacker", "botnet")
"""Kinds of hosts that do nothing ordinary."""
ACCOMPLICES = {"c2", "drop", "tunneldns"}
"""Services that nothing ordinary asks."""

QUIET_S = 5.0
"""For so long before a quiet attack its host must do nothing ordinary; after it for as long as its lines still match."""

FAILED_SHARE = 0.1
"""More ordinary events than this fail only when something is broken: some fail by intention, at hosts that are down."""

UNREACHABLE = 3
"""The type of an ICMP message (RFC 792)."""

TOLD = 10
"""Examples of one complaint."""

SERVICES: dict[tuple[int, int], str] = {
    (TCP, 80): "HTTP", (TCP, 443): "HTTPS", (UDP, 53): "DNS", (TCP, 53): "DNS", (TCP, 25): "SMTP", (TCP, 587): "SMTP",
    (TCP, 143): "IMAP", (TCP, 993): "IMAP", (TCP, 21): "FTP", (TCP, 22): "SSH", (TCP, 445): "SMB", (TCP, 139): "SMB",
    (TCP, 5432): "SQL", (UDP, 123): "NTP", (UDP, 5353): "noise", (UDP, 1900): "noise", (UDP, 5355): "noise",
    (UDP, 137): "noise", (UDP, 138): "noise",
}  # fmt: skip
"""By protocol and port of the answering side; what is not here is told by protocol."""


@dataclass(slots=True)
class Found:
    """What a check found."""

    complaints: list[str]
    text: str
    """All of it, as check.txt has it."""


@dataclass(slots=True)
class _Flows:
    """The flows of a run, as arrays of (n,), and who their ends are."""

    data: DataSet
    line: NDArray[np.int64]
    """Place of the label file's line that each matches, -1 for none."""
    label: NDArray[np.str_]
    """"" for benign and for what nobody judged."""
    src: NDArray[np.int64]
    """Number of the host in the site, -1 for an address of none: multicast, link-local."""
    dst: NDArray[np.int64]
    conversation: NDArray[np.int64]
    """A number for each pair of addresses, whichever way round."""


def check(folder: Path) -> Found:
    """Check a run's folder; LabError where there is none to check, or its files cannot be read."""
    manifest = output.Manifest.read(folder)
    site, plan = output.decoded(folder / output.HOSTS, Site), output.decoded(folder / output.SCHEDULE, Plan)
    told = output.instances(folder)
    try:
        labels = Labels.read(folder / output.LABELS)
        flows = _flows(folder, site, labels)
    except (LabelsError, NotACapture, NotAConnLog, NotAFlowTable, OSError) as error:
        raise LabError(str(error)) from None
    owners = owners_of(folder / output.LABELS, labels)
    complaints = [
        *_of_the_run(manifest, plan, told),
        *_silent(told, flows, owners),
        *_strangers(flows, site, told, owners),
        *_turned(flows, site, told, owners),
        *_unlabelled(flows, site),
        *disturbed(plan, told, manifest.start_us),
    ]
    text = "\n".join(_report(manifest, site, flows, told, owners, complaints)) + "\n"
    return Found(complaints, text)


def owners_of(path: Path, labels: Labels) -> list[str]:
    """The attack that each line of a run's label file belongs to, "" for none: the comment above it begins with its name."""
    by_number: dict[int, str] = {}
    owner = ""
    for number, line in enumerate(path.read_bytes().decode().split("\n"), 1):  # as sensor.labels counts
        if line.startswith("#"):
            owner = line[1:].split(":", 1)[0].strip() if ":" in line else ""
        by_number[number] = owner
    return [by_number[line.number] for line in labels.lines]


def _flows(folder: Path, site: Site, labels: Labels) -> _Flows:
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
    return _Flows(data, line, label, host[src], host[dst], pairs)


def _key(hi: NDArray[np.uint64], lo: NDArray[np.uint64]) -> NDArray[np.bytes_]:
    """Addresses as 16 bytes."""
    joined = np.empty((len(hi), 2), ">u8")
    joined[:, 0], joined[:, 1] = hi, lo
    return joined.view("S16")[:, 0]


def _address(text: str) -> bytes:
    """The same of an address as text."""
    address = ipaddress.ip_address(text)
    return ((V4_MAPPED if address.version == 4 else 0) + int(address)).to_bytes(16)


def _of_the_run(manifest: output.Manifest, plan: Plan, told: Sequence[output.Instance]) -> Iterator[str]:
    """What went wrong while it ran."""
    if manifest.ended != "whole":
        yield f"the run was ended before its time: {manifest.ended}"
    yield from (f"ended before its time: {one}" for one in manifest.died)
    if dropped := manifest.capture.get("dropped"):
        yield f"tcpdump missed {dropped:,} packets: the machine is too slow for this description, or busy"
    if (missed := manifest.capture.get("sent", 0) - manifest.capture.get("captured", 0)) > 0:
        yield f"{missed:,} packets were sent and not captured"
    recorded = {one.name for one in told}
    begun = {one.name for one in manifest.attacks}
    for one in plan.attacks:
        if one.name not in begun and manifest.ended == "whole":
            yield f"{one.name} was planned and never begun"
        elif one.name in begun and one.name not in recorded:
            yield f"{one.name} left no record: its flows are labelled {output.NOBODY_KNOWS}; see {output.LOGS}/"
    failed = output.failures(manifest.events)
    if failed > FAILED_SHARE * (failed + manifest.events.get("done", 0)):
        yield f"{failed:,} ordinary events failed, {manifest.events.get('done', 0):,} were done: {output.AGENTS}/ tells why"


def _silent(told: Sequence[output.Instance], flows: _Flows, owners: Sequence[str]) -> Iterator[str]:
    """Attacks without flows."""
    matched = np.bincount(flows.line[flows.line >= 0], minlength=len(owners))
    counts: Counter[str] = Counter()
    for owner, number in zip(owners, matched.tolist(), strict=True):
        counts[owner] += number
    yield from (f"{one.name} has no flows: {one.outcome or 'no outcome told'}" for one in told if not counts[one.name])


def _strangers(flows: _Flows, site: Site, told: Sequence[output.Instance], owners: Sequence[str]) -> Iterator[str]:
    """Flows with an attack's label between hosts that have no part in it."""
    number = {host.name: place for place, host in enumerate(site.hosts)}
    third = [place for place, host in enumerate(site.hosts) if hostile(host)]
    instances = {one.name: one for one in told}
    for name, one in instances.items():
        lines = [place for place, owner in enumerate(owners) if owner == name]
        rows = np.flatnonzero(np.isin(flows.line, lines))
        parties = [number[party] for party in (one.attacker, *one.victims)] + third
        foreign = rows[~(np.isin(flows.src[rows], parties) | np.isin(flows.dst[rows], parties))]
        if len(foreign):
            yield f"{name}: {len(foreign):,} of its flows are between others ({_ends(flows, site, foreign)})"


def _turned(flows: _Flows, site: Site, told: Sequence[output.Instance], owners: Sequence[str]) -> Iterator[str]:
    """Flows with the label of an attack from within that somebody else began: ordinary ones that its lines match as well.

    Only an answer that says "unreachable" is a flow of its own. Nobody has ordinary business with attackers of the outside.
    """
    flow = flows.data.flows
    unreachable = (flow["protocol"] == ICMP) & (flow["icmp_type"] == UNREACHABLE)
    for one in told:
        if site[one.attacker].network == "inside":
            attacker = next(place for place, host in enumerate(site.hosts) if host.name == one.attacker)
            lines = [place for place, owner in enumerate(owners) if owner == one.name]
            rows = np.flatnonzero(np.isin(flows.line, lines) & (flows.src != attacker) & ~unreachable)
            if len(rows):
                yield f"{one.name}: {len(rows):,} of its flows were begun by others ({_ends(flows, site, rows)})"


def _unlabelled(flows: _Flows, site: Site) -> Iterator[str]:
    """Flows of hosts that only attack, or only meet attacks, without a label."""
    for place, host in enumerate(site.hosts):
        if hostile(host):
            rows = np.flatnonzero(((flows.src == place) | (flows.dst == place)) & (flows.label == ""))
            if len(rows):
                yield f"{host.name}: {len(rows):,} flows of it have no attack's label ({_ends(flows, site, rows)})"


def hostile(host: Host) -> bool:
    """Whether all that a host sends or gets is part of some attack."""
    return host.kind in OUTSIDERS or bool(host.services and set(host.services) <= ACCOMPLICES)


def disturbed(plan: Plan, told: Sequence[output.Instance], start_us: int) -> Iterator[str]:
    """Attacks that allow nothing ordinary beside them, and whose host had something planned then."""
    planned: dict[str, Attack] = {one.name: one for one in plan.attacks}
    for one in told:
        if one.name in planned and KINDS[one.kind].quiet:
            begin, end = planned[one.name].at_s - QUIET_S, (one.end_us + output.LINGER_US - start_us) / 1e6
            events = [event for event in plan.events if event.host == one.attacker and begin < event.at_s < end]
            if events:
                yield f"{one.name}: {one.attacker} was to {events[0].what} at {events[0].at_s:.1f} s, while its lines match"


def _ends(flows: _Flows, site: Site, rows: NDArray[np.int64]) -> str:
    """The most frequent ends of some flows."""
    counts: Counter[str] = Counter()
    for row in rows.tolist():
        flow = flows.data.flows[row]
        ends = " to ".join(site.hosts[host].name if host >= 0 else "none of ours" for host in (flows.src[row], flows.dst[row]))
        counts[f"{ends} {_service(flow['protocol'], flow['dst_port'])} {flow['dst_port']}"] += 1
    return ", ".join(f"{number:,} {ends}" for ends, number in counts.most_common(3))


def _service(protocol: int, port: int) -> str:
    by_protocol = {TCP: "other TCP", UDP: "other UDP", ICMP: "ICMP", ICMPV6: "ICMPv6"}
    return SERVICES.get((int(protocol), int(port))) or by_protocol.get(int(protocol), f"protocol {protocol}")


def _report(
    manifest: output.Manifest,
    site: Site,
    flows: _Flows,
    told: Sequence[output.Instance],
    owners: Sequence[str],
    complaints: Sequence[str],
) -> Iterator[str]:
    """What check.txt says."""
    captured = {str(name): value for name, value in manifest.capture.items()}
    yield f"{manifest.description}, {manifest.run}, seed {manifest.seed}: {manifest.ended}"
    yield f"{len(site.hosts)} hosts, {manifest.seconds:.0f} s, link {manifest.link}, capture {captured}"
    yield f"{len(flows.line):,} flows; lost: {flows.data.lost or 'nothing'}; damaged places: {flows.data.damaged}"
    yield from ("", "complaints" if complaints else "no complaints")
    for start, several in _alike(complaints).items():
        yield from (f"  {line}" for line in several[:TOLD])
        if len(several) > TOLD:
            yield f"  and {len(several) - TOLD:,} more of {start}"
    attack = flows.label != ""
    yield from ("", f"{'label':<28}{'flows':>10}{'conversations':>15}")
    for label in ("", *sorted(set(flows.label[attack].tolist()))):
        rows = flows.label == label
        yield f"{label or 'benign':<28}{int(rows.sum()):>10,}{len(np.unique(flows.conversation[rows])):>15,}"
    yield from ("", f"{'attack':<28}{'flows':>10}{'seconds':>15}  outcome")
    matched = np.bincount(flows.line[flows.line >= 0], minlength=len(owners))
    for one in told:
        number = sum(int(matched[place]) for place, owner in enumerate(owners) if owner == one.name)
        yield f"{one.name:<28}{number:>10,}{(one.end_us - one.start_us) / 1e6:>15.1f}  {one.outcome[:90]}"
    yield from ("", f"{'service, benign flows':<28}{'flows':>10}{'share':>15}")
    for service, number in _services(flows, ~attack).items():
        yield f"{service:<28}{number:>10,}{number / max(int((~attack).sum()), 1):>15.1%}"
    yield from ("", f"{'one-way flows, benign':<28}{'share':>10}{'of a campus':>15}  (campus.py names it)")
    for what, share, campus in beside(flows.data.flows[~attack]):
        yield f"{what:<28}{share:>10.1%}{campus:>15.1%}"
    yield from ("", f"{'ordinary events':<48}")
    yield from (f"{reason:<48}{number:>10,}" for reason, number in manifest.events.items())


def _alike(complaints: Sequence[str]) -> Mapping[str, list[str]]:
    """Complaints by what they have in common, their last words."""
    groups: dict[str, list[str]] = {}
    for line in complaints:
        groups.setdefault(" ".join(line.split()[1:4]), []).append(line)
    return groups


def _services(flows: _Flows, rows: NDArray[np.bool_]) -> Mapping[str, int]:
    """Flows by service, the most first."""
    counts: Counter[str] = Counter()
    pairs, numbers = np.unique(flows.data.flows[rows][["protocol", "dst_port"]], return_counts=True)
    for pair, number in zip(pairs, numbers.tolist(), strict=True):
        counts[_service(pair["protocol"], pair["dst_port"])] += number
    return dict(counts.most_common())
