"""Whether a run's labels are true, as far as the capture can tell: it is read as netseq's own flows, and held against the plan.

Labels that are written by construction can still be wrong: an attack that never reached its victim, a flow that began before
its line does, an ordinary host that touched what only attackers touch. So each run is read again the way a user would read
it, and what does not fit is told as a complaint. Called at the end of a run, and by `python -m tests.lab check`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sensor.labels import Labels, LabelsError
from sensor.sources.faults import NotACapture, NotAConnLog
from sensor.sources.flowcsv import NotAFlowTable

from . import check_labels, output
from .attacks import KINDS
from .campus import beside
from .check_flows import Flows, flows_of, service
from .site import Attack, LabError, Plan, Site

QUIET_S = 5.0
"""For so long before a quiet attack its host must do nothing ordinary; after it for as long as its lines still match."""

FAILED_SHARE = 0.1
"""More ordinary events than this fail only when something is broken: some fail by intention, at hosts that are down."""

FAILED = "failed"
"""How the outcome of an attack begins that did not come to its end."""

TOLD = 10
"""Examples of one complaint."""


@dataclass(slots=True)
class Found:
    """What a check found."""

    complaints: list[str]
    remarks: list[str]
    """What a user of the run should know and what makes it no worse."""
    text: str
    """All of it, as check.txt has it."""


def check(folder: Path) -> Found:
    """Check a run's folder; LabError where there is none to check, or its files cannot be read."""
    manifest = output.Manifest.read(folder)
    site, plan = output.decoded(folder / output.HOSTS, Site), output.decoded(folder / output.SCHEDULE, Plan)
    told = output.instances(folder)
    try:
        labels = Labels.read(folder / output.LABELS)
        flows = flows_of(folder, site, labels)
    except (LabelsError, NotACapture, NotAConnLog, NotAFlowTable, OSError) as error:
        raise LabError(str(error)) from None
    counts = check_labels.counts(told, flows)
    complaints = [
        *_of_the_run(manifest, plan, told),
        *_changed(folder, manifest),
        *check_labels.edited(folder, site, plan, manifest),
        *check_labels.complaints(labels, flows, site, told, manifest.attacks),
        *disturbed(plan, told, manifest.start_us),
    ]
    remarks = [
        f"{one.name} ended badly; what it sent until then is labelled, {counts[one.name]:,} flows: {one.outcome}"
        for one in told
        if one.outcome.startswith(FAILED) and counts[one.name]
    ]
    found = Found(complaints, remarks, "")
    found.text = "\n".join(_report(manifest, site, flows, told, counts, found)) + "\n"
    return found


def _changed(folder: Path, manifest: output.Manifest) -> Iterator[str]:
    """Files that are not what the run left."""
    found = output.digests(folder)
    for name, told in manifest.sha256.items():
        if found.get(name) != told:
            yield f"{name} is not the file that the run left: its SHA-256 is {found.get(name, 'of nothing')}, and was {told}"


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


def disturbed(plan: Plan, told: Sequence[output.Instance], start_us: int) -> Iterator[str]:
    """Attacks that allow nothing ordinary beside them, and whose host had something planned then."""
    planned: dict[str, Attack] = {one.name: one for one in plan.attacks}
    for one in told:
        if one.name in planned and KINDS[one.kind].quiet:
            begin, end = planned[one.name].at_s - QUIET_S, (one.end_us + output.LINGER_US - start_us) / 1e6
            events = [event for event in plan.events if event.host == one.attacker and begin < event.at_s < end]
            if events:
                yield f"{one.name}: {one.attacker} was to {events[0].what} at {events[0].at_s:.1f} s, while its lines match"


def _report(
    manifest: output.Manifest,
    site: Site,
    flows: Flows,
    told: Sequence[output.Instance],
    counts: Mapping[str, int],
    found: Found,
) -> Iterator[str]:
    """What check.txt says."""
    captured = {str(name): value for name, value in manifest.capture.items()}
    yield f"{manifest.description}, {manifest.run}, seed {manifest.seed}: {manifest.ended}"
    yield f"{len(site.hosts)} hosts, {manifest.seconds:.0f} s, link {manifest.link}, capture {captured}"
    yield f"{len(flows.line):,} flows; lost: {flows.data.lost or 'nothing'}; damaged places: {flows.data.damaged}"
    yield from ("", "complaints" if found.complaints else "no complaints")
    for start, several in _alike(found.complaints).items():
        yield from (f"  {line}" for line in several[:TOLD])
        if len(several) > TOLD:
            yield f"  and {len(several) - TOLD:,} more of {start}"
    if found.remarks:
        yield from ("", "remarks", *(f"  {line}" for line in found.remarks))
    attack = flows.label != ""
    yield from ("", f"{'label':<28}{'flows':>10}{'conversations':>15}")
    for label in ("", *sorted(set(flows.label[attack].tolist()))):
        rows = flows.label == label
        yield f"{label or 'benign':<28}{int(rows.sum()):>10,}{len(np.unique(flows.conversation[rows])):>15,}"
    yield from ("", f"{'attack':<28}{'flows':>10}{'seconds':>15}  outcome")
    for one in told:
        yield f"{one.name:<28}{counts[one.name]:>10,}{(one.end_us - one.start_us) / 1e6:>15.1f}  {one.outcome[:90]}"
    yield from ("", f"{'service, benign flows':<28}{'flows':>10}{'share':>15}")
    for name, number in _services(flows, ~attack).items():
        yield f"{name:<28}{number:>10,}{number / max(int((~attack).sum()), 1):>15.1%}"
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


def _services(flows: Flows, rows: NDArray[np.bool_]) -> Mapping[str, int]:
    """Flows by service, the most first."""
    counts: Counter[str] = Counter()
    pairs, numbers = np.unique(flows.data.flows[rows][["protocol", "dst_port"]], return_counts=True)
    for pair, number in zip(pairs, numbers.tolist(), strict=True):
        counts[service(pair["protocol"], pair["dst_port"])] += number
    return dict(counts.most_common())
