"""A run from beginning to end: network, servers, capture, agents and attacks at their times, and what is written at its end.

Whatever ends it (its time, Ctrl-C, a full disk, a fault), the order of the end is the same: attacks and agents are ended
first, so that they can write their records; then the capture, so that it has all their packets; then labels and manifest are
written. So what there is stays usable. Called by the laboratory's command, inside a world (world.py), where kill -9 leaves
nothing behind.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType

from sensor import __version__

from . import output, world
from .capture import Capture
from .network import LINE, SWITCH, Network
from .processes import Process
from .programs import wanted
from .services import SERVICES, Service, ready
from .site import Host, LabError, Plan, Site

HIDDEN = ("/run", "/dev", "/proc", "/sys", "/etc")
"""A run sees folders of its own there."""

READY_S = 60.0
"""For all servers to answer: PostgreSQL's first start took several seconds on a busy machine."""

LEAD_S, LEAD_HOST_S = 2.0, 0.4
"""Before the clock of the schedule starts, and more for each agent: so long they take to load."""

GRACE_S = 10.0
"""After the schedule's end: for what is being done, and for what was lost and is sent again."""

LOOK_S = 0.1
"""Between two looks at the clock: attacks begin at most that much late."""

TOLD_S = 60.0
"""Between two lines of progress."""


class Interrupted(KeyboardInterrupt):
    """Somebody asked the run to end: Ctrl-C, or SIGTERM."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be run."""

    run: str
    """Name of the run that the seed stands for: train, validate, test, or another."""
    path: Path
    seed: int
    site: Site
    plan: Plan
    folder: Path
    replace: bool = False


@dataclass(slots=True)
class _Record:
    """What a run has done so far."""

    start_us: int = 0
    begun: dict[str, tuple[Process, int]] = field(default_factory=dict)
    """Attacks by name, and when they were started."""
    over: list[output.Begun] = field(default_factory=list)
    agents: dict[str, Process] = field(default_factory=dict)
    died: list[str] = field(default_factory=list)
    told: set[str] = field(default_factory=set)
    """Hosts whose agent's failure is among these."""
    ended: str = "whole"
    link: str = ""
    capture: dict[str, int] = field(default_factory=dict)


def shortened(site: Site, plan: Plan, seconds: float) -> tuple[Site, Plan]:
    """The first seconds of a run: without the attacks that would not be over by then."""
    events = tuple(event for event in plan.events if event.at_s < seconds)
    attacks = tuple(attack for attack in plan.attacks if attack.at_s + attack.within_s <= seconds)
    return replace(site, seconds=min(site.seconds, seconds)), Plan(events, attacks)


def refuse_hidden(place: Path) -> None:
    """LabError for a file or folder that a run, in its world, would not see."""
    for hidden in HIDDEN:
        if place.is_relative_to(hidden):
            raise LabError(f"{place}: a run sees a {hidden} of its own: name a place elsewhere")


def perform(order: Order) -> output.Manifest:
    """Run it, inside a world; what came of it. LabError when it could not begin, or when nothing was captured."""
    with output.held(order.folder):
        return _performed(order)


def _performed(order: Order) -> output.Manifest:
    """Run it, in a folder that is held."""
    folder = order.folder
    output.prepare(folder, replace=order.replace)
    output.write_plan(folder, order.path, order.site, order.plan)
    record = _Record()
    with _interruptible():
        try:
            _run(order, record)
        except (Interrupted, LabError) as error:
            record.ended = str(error)
            if not record.start_us:
                raise
        except (OSError, subprocess.SubprocessError) as error:  # a disk that fills between two looks at it, most likely
            record.ended = str(error)
            if not record.start_us:
                raise LabError(f"the run could not begin: {error}") from error
        finally:
            _deaf()
            output.give_back_reserve(folder)
            output.clear_services(folder)
        return _written(order, record)


def _run(order: Order, record: _Record) -> None:
    """All that happens in the network."""
    with Network(order.site, logs=order.folder / output.LOGS) as network:
        record.link = network.link_kind
        say(f"network: {len(order.site.hosts)} hosts, delay and loss by {record.link}")
        _serve(order, network)
        capture = Capture(network, order.folder / output.CAPTURE)
        try:
            with capture:
                _schedule(order, network, capture, record)
        finally:
            if capture.ended:
                record.capture = asdict(capture.report())


def _serve(order: Order, network: Network) -> None:
    """Start all servers, and wait until they answer. LabError when one does not."""
    waiting: list[tuple[Host, Service]] = []
    for host in order.site.hosts:
        for name in () if host.down else host.services:

            def launch(argv: Sequence[str], host: Host = host, name: str = name) -> None:
                log = order.folder / output.LOGS / host.name / f"{name}.log"
                network.popen(host.name, argv, log=log, name=f"{name} of {host.name}")

            SERVICES[name].start(host, order.site, order.folder, launch)
            waiting.append((host, SERVICES[name]))
    started, count = time.monotonic(), len(waiting)
    while waiting := [(host, service) for host, service in waiting if not ready(host, service)]:
        network.processes.check()
        if time.monotonic() - started > READY_S:
            host, service = waiting[0]
            raise LabError(f"{service.name} of {host.name} does not answer: see {order.folder / output.LOGS / host.name}")
        time.sleep(LOOK_S)
    say(f"servers: {count} answer, {time.monotonic() - started:.1f} s after the last was started")


def _schedule(order: Order, network: Network, capture: Capture, record: _Record) -> None:
    """Let the schedule happen; at its end, or when something ends it, end agents and attacks."""
    hosts = [host.name for host in order.site.hosts if any(True for _ in order.plan.of(host.name))]
    start = time.time() + LEAD_S + LEAD_HOST_S * len(hosts)
    record.start_us = round(start * 1e6)
    try:
        for host in hosts:
            argv = world.module("behaviour", host, "--run", str(order.folder), "--start", f"{start:.6f}")
            log = order.folder / output.LOGS / host / "agent.log"
            record.agents[host] = network.popen(host, argv, log=log, env=world.MODULE_ENV, expected=True)
        say(f"agents: {len(hosts)} hosts with {len(order.plan.events):,} events, {len(order.plan.attacks)} attacks planned")
        _attack(order, network, capture, record, start)
    finally:
        output.give_back_reserve(order.folder)
        _end(order, record)


def _attack(order: Order, network: Network, capture: Capture, record: _Record, start: float) -> None:
    """Start attacks at their times, until the schedule is over and all have ended. LabError when the capture ends early."""
    planned = sorted(order.plan.attacks, key=lambda attack: attack.at_s)
    last_s = max([order.site.seconds, *(attack.at_s + attack.within_s for attack in planned)]) + GRACE_S
    told_s = 0.0
    while True:
        now_s = time.time() - start
        while planned and planned[0].at_s <= now_s:
            attack = planned.pop(0)
            argv = world.module("attacks", attack.name, "--run", str(order.folder))
            log = order.folder / output.LOGS / "attacks" / f"{attack.name}.log"
            began_us = time.time_ns() // 1000
            process = network.popen(attack.attacker, argv, log=log, env=world.MODULE_ENV, expected=True)
            record.begun[attack.name] = process, began_us
        _bury(record)
        _watch(network, record)
        capture.check()
        if now_s - told_s >= TOLD_S:
            told_s += TOLD_S
            say(progress(order, network, record, now_s))
        working = [*record.agents.values(), *(process for process, _ in record.begun.values())]
        if now_s > last_s or (now_s > order.site.seconds and not any(one.poll() is None for one in working)):
            if now_s - told_s > 1.0:
                say(progress(order, network, record, now_s))
            return
        time.sleep(LOOK_S)


def progress(order: Order, network: Network, record: _Record, now_s: float) -> str:
    """One line: how far it is."""
    done = output.events(order.folder)
    attacks = f"attacks: {len(record.over)} of {len(order.plan.attacks)} done, {len(record.begun)} running"
    events = f"events: {done['done']:,} done, {output.failures(done):,} failed"
    return f"{now_s:5.0f} s: {events}; {attacks}; {_packets(network):,} packets"


def _packets(network: Network) -> int:
    """How many packets have been sent inside."""
    counts = [f"/sys/class/net/{port}/statistics/rx_packets" for port in network.inside_ports]
    return sum(map(int, network.run(SWITCH, ["cat", *counts]).stdout.split()))


def _bury(record: _Record) -> None:
    """Note the attacks that have ended."""
    for name, (process, began_us) in list(record.begun.items()):
        if (status := process.poll()) is not None:
            record.over.append(output.Begun(name, began_us, time.time_ns() // 1000, status))
            del record.begun[name]
            if status:
                say(f"{name} ended with status {status}: {' | '.join(process.last_lines(2)) or 'it said nothing'}")


def _watch(network: Network, record: _Record) -> None:
    """Note, once, what should not have ended. LabError when nothing goes on without it."""
    for process in network.processes.early():
        process.expected = True
        if process.name == LINE:
            raise LabError(f"the delay line ended, and nothing reaches the outside: {' | '.join(process.last_lines(2))}")
        _died(f"{process.name}", process, record)
    for host, process in record.agents.items():
        if process.poll() and host not in record.told:
            record.told.add(host)
            _died(f"agent of {host}", process, record)


def _died(name: str, process: Process, record: _Record) -> None:
    record.died.append(f"{name} (status {process.poll()}): {' | '.join(process.last_lines(2)) or 'it said nothing'}")
    say(f"ended before its time: {record.died[-1]}")


def _end(order: Order, record: _Record) -> None:
    """End agents and attacks, so that each can write what it did."""
    running = [process for process, _ in record.begun.values()] + list(record.agents.values())
    for process in running:
        if process.poll() is None:
            process.send(signal.SIGTERM)
    until = time.monotonic() + GRACE_S
    for process in running:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, until - time.monotonic()))
        if process.poll() is None:
            process.end(0.0)
    _bury(record)


def _written(order: Order, record: _Record) -> output.Manifest:
    """Write labels and manifest; the manifest."""
    folder = order.folder
    cut = output.mend(folder / output.CAPTURE)
    if cut:
        say(f"the capture ended in the middle of a packet: {cut} bytes were cut off")
    output.write_labels(folder, order.site, order.plan, record.over, record.start_us)
    packages = {program.package for program in wanted(order.site, order.plan)}
    manifest = output.Manifest(
        netseq=__version__,
        description=order.path.name,
        run=order.run,
        seed=order.seed,
        seconds=order.site.seconds,
        compression=order.site.compression,
        start_us=record.start_us,
        end_us=time.time_ns() // 1000,
        ended=record.ended,
        link=record.link,
        capture=record.capture,
        attacks=record.over,
        events=output.events(folder),
        died=record.died,
        versions=output.versions(packages),
        sha256=output.digests(folder),
    )
    manifest.write(folder)
    return manifest


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the run, and not the program."""

    def stop(number: int, frame: FrameType | None) -> None:
        _deaf()
        raise Interrupted(f"interrupted by {signal.Signals(number).name}")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _deaf() -> None:
    """Finish what was begun: who asks a second time is told so."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: say("it is ending already"))


def say(line: str) -> None:
    """Tell the user how far it is."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
