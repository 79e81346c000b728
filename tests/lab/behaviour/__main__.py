"""The agent: does what the schedule has for one host, inside the host's namespace, and ends by itself with the run.

`python -m tests.lab.behaviour HOST --run DIR --start EPOCH`, started by run.py for every host that does something. It writes
what became of its events to DIR/agents/HOST.json, also when it is told to end early (SIGTERM).
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random

import msgspec

from ..site import Event, LabError, Plan, Site
from . import ACTIVITIES
from .tools import TROUBLE, Tools, reason

AT_ONCE = 48
"""Activities of one host at the same time: more wait, so that a stuck server cannot fill the memory."""
TOLD_S = 20.0
"""So often the outcome so far is written: run.py tells how far a run is."""
LAST_S = 5.0
"""What still runs at the end may take this long to stop."""


class Outcome(msgspec.Struct):
    """What became of a host's events: DIR/agents/HOST.json."""

    host: str
    events: int
    done: dict[str, int] = {}
    failed: dict[str, dict[str, int]] = {}
    """By activity and reason."""
    cut: dict[str, int] = {}
    """Still under way at the end of the run, and ended."""
    never: dict[str, int] = {}
    """Their time had not come, or no place was free, when the run ended."""
    mistakes: list[str] = []
    """Errors of the laboratory's own code, which none of TROUBLE is."""
    latest_s: float = 0.0
    """How late the latest event began."""
    cpu_s: float = 0.0
    """Of the agent."""
    tools_cpu_s: float = 0.0
    """Of the programs that it started."""
    names_asked: int = 0


class Agent:
    """One host's events, and their outcome."""

    def __init__(self, events: Sequence[Event], tools: Tools, start: float) -> None:
        """`start`: when the run begins, in seconds since 1970."""
        self.events, self.tools, self.start = sorted(events, key=lambda event: event.at_s), tools, start
        self.outcome = Outcome(tools.host.name, len(events))
        self.ending = False
        self._running: dict[asyncio.Task[None], Event] = {}
        self._gate = asyncio.Semaphore(AT_ONCE)

    async def live(self) -> Outcome:
        """Do all events at their times; returns at the end of the run, or soon after it is cancelled."""
        loop = asyncio.get_running_loop()
        zero = loop.time() + self.start - time.time()
        begun = 0
        try:
            async with asyncio.timeout_at(zero + self.tools.site.seconds):
                for event in self.events:
                    await asyncio.sleep(max(0.0, zero + event.at_s - loop.time()))
                    await self._gate.acquire()
                    self.outcome.latest_s = max(self.outcome.latest_s, loop.time() - zero - event.at_s)
                    begun += 1
                    self._begin(event)
                while self._running:
                    await asyncio.wait(self._running)
        except (TimeoutError, asyncio.CancelledError):
            await self._stop()
        _count(self.outcome.never, self.events[begun:])
        return self._with_costs()

    def _begin(self, event: Event) -> None:
        activity = ACTIVITIES[event.what]
        chance = Random(event.seed)
        doing = activity.run()(self.tools.host, self.tools.site, chance, activity.complete(event.given), self.tools)
        task = asyncio.ensure_future(doing)
        self._running[task] = event
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        event = self._running.pop(task)
        self._gate.release()
        if task.cancelled():
            _count(self.outcome.cut, [event])
            return
        error = task.exception()
        if error is None:
            _count(self.outcome.done, [event])
            return
        reasons = self.outcome.failed.setdefault(event.what, {})
        reasons[reason(error)] = reasons.get(reason(error), 0) + 1
        if not isinstance(error, TROUBLE):
            self.outcome.mistakes.append(f"{event.what}: {type(error).__name__}: {error}")
            traceback.print_exception(error)

    async def _stop(self) -> None:
        self.ending = True
        for task in list(self._running):
            task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=LAST_S)

    def _with_costs(self) -> Outcome:
        for who, name in ((resource.RUSAGE_SELF, "cpu_s"), (resource.RUSAGE_CHILDREN, "tools_cpu_s")):
            used = resource.getrusage(who)
            setattr(self.outcome, name, round(used.ru_utime + used.ru_stime, 3))
        self.outcome.names_asked = self.tools.resolver.asked
        return self.outcome


def _count(where: dict[str, int], events: Sequence[Event]) -> None:
    for what, more in Counter(event.what for event in events).items():
        where[what] = where.get(what, 0) + more


async def _until_told(agent: Agent, path: Path) -> Outcome:
    living = asyncio.ensure_future(agent.live())

    def told() -> None:
        if not agent.ending:  # it is told twice when somebody is impatient, and must write its outcome all the same
            agent.ending = True
            living.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told)
    while not (await asyncio.wait([living], timeout=TOLD_S))[0]:
        write(agent.outcome, path)
    return living.result()


def write(outcome: Outcome, path: Path) -> None:
    """Write an outcome; a reader never sees half of it."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(outcome), indent=1) + b"\n")
    unfinished.replace(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the agent; 1 when its own code made a mistake, 2 when it could not begin."""
    parser = argparse.ArgumentParser(prog="python -m tests.lab.behaviour", description="Do what the schedule has for one host.")
    parser.add_argument("host")
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="the run's folder")
    parser.add_argument("--start", type=float, required=True, metavar="EPOCH", help="when the run begins, seconds since 1970")
    given = parser.parse_args(arguments)
    try:
        site = Site.read(given.run / "hosts.json")
        host = site[given.host]
        events = list(Plan.read(given.run / "schedule.json").of(host.name))
        for event in events:
            if event.what not in ACTIVITIES:
                raise LabError(f"there is no activity {event.what!r}: there are {', '.join(ACTIVITIES)}")
            ACTIVITIES[event.what].complete(event.given)
    except (LabError, OSError, msgspec.ValidationError, msgspec.DecodeError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    agent = Agent(events, Tools(host, site, given.run), given.start)
    path = given.run / "agents" / f"{host.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    outcome = asyncio.run(_until_told(agent, path))
    agent.tools.clean()
    write(outcome, path)
    return 1 if outcome.mistakes else 0


if __name__ == "__main__":
    sys.exit(main())
