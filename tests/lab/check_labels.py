"""Whether every flow with an attack's label is that attack's, and every attack has its flows: complaints about a label file.

A label is held against two things: what the attacks' own records say of their lines, and what the capture shows of who was at
the other end. The second is needed as well, for a record is written by the attack that may be wrong: whoever has no part in an
attack must not bear its label, whatever a line says. check.py calls this.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sensor.labels import Labels
from sensor.schema import ICMP, V4_MAPPED

from . import output
from .attacks import KINDS
from .check_flows import Flows, ends, owners
from .site import Host, Plan, Site

OUTSIDERS = ("attacker", "botnet")
"""Kinds of hosts that do nothing ordinary."""
ACCOMPLICES = {"c2", "drop", "tunneldns"}
"""Services that nothing ordinary asks."""

UNREACHABLE = 3
"""The type of an ICMP message (RFC 792)."""

NAMED = 5
"""Attacks that one complaint names."""


def complaints(
    labels: Labels, flows: Flows, site: Site, told: Sequence[output.Instance], begun: Sequence[output.Begun]
) -> Iterator[str]:
    """All that is wrong with the labels of a run's flows."""
    yield from _silent(told, flows)
    yield from _strangers(flows, site, told)
    yield from _turned(flows, site, told)
    yield from _misnamed(labels, flows, told)
    yield from _unowned(labels, flows, site, told, begun)
    yield from _unlabelled(flows, site)


def edited(folder: Path, site: Site, plan: Plan, manifest: output.Manifest) -> Iterator[str]:
    """Lines of the label file that the attacks' records do not give, and those that they give and it lacks."""
    attackers = {one.name: one.attacker for one in plan.attacks}
    told = list(output.label_lines(site, output.instances(folder), manifest.attacks, attackers, manifest.start_us))
    written = (folder / output.LABELS).read_bytes().decode().split("\n")
    there, wanted = _rows(written), _rows(told)
    more, less = Counter(there) - Counter(wanted), Counter(wanted) - Counter(there)
    for number, what in ((more.total(), "that no record gives"), (less.total(), "too few")):
        if number:
            of = dict.fromkeys(owner or "no attack" for owner, _ in (more if what != "too few" else less))
            names = ", ".join(list(of)[:NAMED]) + (f" and {len(of) - NAMED} more" if len(of) > NAMED else "")
            yield f"{output.LABELS} has {number:,} lines {what} ({names}): see {output.INSTANCES}/"
    if there != wanted and not more and not less:
        yield f"{output.LABELS} has its lines in another order than the records give: the first that matches labels a flow"


def _rows(lines: Sequence[str]) -> list[tuple[str, str]]:
    """Attack and text of each line that is no comment."""
    return [(owner, line) for owner, line in zip(owners(lines), lines, strict=True) if line and not line.startswith("#")]


def _of(one: output.Instance, flows: Flows) -> NDArray[np.int64]:
    """The rows that the lines of an attack label."""
    lines = [place for place, owner in enumerate(flows.owners) if owner == one.name]
    return np.flatnonzero(np.isin(flows.line, lines))


def _silent(told: Sequence[output.Instance], flows: Flows) -> Iterator[str]:
    """Attacks without flows."""
    yield from (f"{one.name} has no flows: {one.outcome or 'no outcome told'}" for one in told if not len(_of(one, flows)))


def _strangers(flows: Flows, site: Site, told: Sequence[output.Instance]) -> Iterator[str]:
    """Flows with an attack's label that are not between its attacker and who has a part in it."""
    number = {host.name: place for place, host in enumerate(site.hosts)}
    accomplices = [place for place, host in enumerate(site.hosts) if accomplice(host)]
    routers = [place for place, host in enumerate(site.hosts) if host.kind == "router"]
    refused = unreachable(flows)
    for one in told:
        attacker = number[one.attacker]
        others = [*(number[name] for name in one.victims), *accomplices]
        rows = _of(one, flows)
        src, dst = flows.src[rows], flows.dst[rows]
        fits = (src == attacker) & np.isin(dst, others) | (dst == attacker) & np.isin(src, others)
        fits |= (dst == attacker) & np.isin(src, routers) & refused[rows]  # it says that a victim is down
        foreign = rows[~fits]
        foreign = foreign[~_searched(one, flows, foreign, attacker)]
        if len(foreign):
            yield f"{one.name}: {len(foreign):,} of its flows are between others ({ends(flows, site, foreign)})"


def _searched(one: output.Instance, flows: Flows, rows: NDArray[np.int64], attacker: int) -> NDArray[np.bool_]:
    """Which of some rows go from the attacker into a network that its lines name: it tries addresses, whoever has them.

    Only of a kind that leaves its host in quiet: else such a line takes what the host does besides.
    """
    networks = [ip_network(line.dst) for line in one.lines if "/" in line.dst]
    if not networks or not KINDS[one.kind].quiet:
        return np.zeros(len(rows), np.bool_)
    bounds = [(int(network[0]) + base, int(network[-1]) + base) for network, base in map(_based, networks)]
    flow = flows.data.flows[rows]
    dst = [(int(hi) << 64) + int(lo) for hi, lo in zip(flow["dst_hi"], flow["dst_lo"], strict=True)]
    inside = np.array([any(low <= address <= high for low, high in bounds) for address in dst], np.bool_)
    return np.asarray(inside & (flows.src[rows] == attacker))


def _based(network: IPv4Network | IPv6Network) -> tuple[IPv4Network | IPv6Network, int]:
    """A network with what its addresses are counted from as flows have them."""
    return network, V4_MAPPED if network.version == 4 else 0


def unreachable(flows: Flows) -> NDArray[np.bool_]:
    """Which flows are an answer that says "unreachable", the only answer that is a flow of its own."""
    flow = flows.data.flows
    return np.asarray((flow["protocol"] == ICMP) & (flow["icmp_type"] == UNREACHABLE))


def _turned(flows: Flows, site: Site, told: Sequence[output.Instance]) -> Iterator[str]:
    """Flows with the label of an attack from within that somebody else began: ordinary ones that its lines match as well.

    Nobody has ordinary business with attackers of the outside.
    """
    refused = unreachable(flows)
    for one in told:
        if site[one.attacker].network == "inside":
            attacker = next(place for place, host in enumerate(site.hosts) if host.name == one.attacker)
            rows = _of(one, flows)
            rows = rows[(flows.src[rows] != attacker) & ~refused[rows]]
            if len(rows):
                yield f"{one.name}: {len(rows):,} of its flows were begun by others ({ends(flows, site, rows)})"


def _misnamed(labels: Labels, flows: Flows, told: Sequence[output.Instance]) -> Iterator[str]:
    """Attacks whose lines have another label than their record."""
    for one in told:
        own = {one.label, *(line.label for line in one.lines if line.label)}
        lines = [line for line, owner in zip(labels.lines, flows.owners, strict=True) if owner == one.name]
        wrong = Counter(line.label for line in lines if line.label not in own)
        for label, number in wrong.items():
            yield f"{one.name}: {number:,} of its {len(lines):,} lines say {label}, and its record {', '.join(sorted(own))}"
        if one.kind in KINDS and one.label != KINDS[one.kind].label:
            yield f"{one.name}: its record says {one.label}, and a {one.kind} is {KINDS[one.kind].label}"


def _unowned(
    labels: Labels, flows: Flows, site: Site, told: Sequence[output.Instance], begun: Sequence[output.Begun]
) -> Iterator[str]:
    """Lines that call flows something else than benign, and stand below no attack that was begun."""
    recorded = {one.name for one in told}
    known = recorded | {one.name for one in begun}
    for place, (line, name, owner) in enumerate(zip(labels.lines, labels.names, flows.owners, strict=True)):
        if owner not in (recorded if name else known) and (name or labels.unsure[place]):
            rows = np.flatnonzero(flows.line == place)
            which = f": {len(rows):,} flows ({ends(flows, site, rows)})" if len(rows) else ""
            yield f"line {line.number} of {output.LABELS} says {line.label} and belongs to no recorded attack{which}"


def _unlabelled(flows: Flows, site: Site) -> Iterator[str]:
    """Flows of hosts that only attack, or only meet attacks, without a label."""
    for place, host in enumerate(site.hosts):
        if host.kind in OUTSIDERS or accomplice(host):
            rows = np.flatnonzero(((flows.src == place) | (flows.dst == place)) & (flows.label == ""))
            if len(rows):
                yield f"{host.name}: {len(rows):,} flows of it have no attack's label ({ends(flows, site, rows)})"


def accomplice(host: Host) -> bool:
    """Whether a host is there for attacks alone: nothing ordinary asks its services."""
    return bool(host.services and set(host.services) <= ACCOMPLICES)


def counts(told: Sequence[output.Instance], flows: Flows) -> Mapping[str, int]:
    """How many flows each attack has."""
    return {one.name: len(_of(one, flows)) for one in told}
