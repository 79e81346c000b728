"""The laboratory's command: `python -m tests.lab run DESCRIPTION --seed N --output DIR`, and what belongs to it (docs/lab.md).

A run starts this command again in a world of its own (world.py), with the same arguments: all that can be refused is refused
before that, and nothing is written. Exit statuses: 0, 1 when the check of a run has complaints, 2 for something that the user
can put right, 130 when a run was interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import msgspec

from sensor.commands.terminal import printable
from sensor.kernels import prepare_cache

from . import output, programs, world
from .description import read
from .report import add_parser
from .schedule import draw
from .site import LabError, Plan, Site

COMPLAINTS, REFUSED, INTERRUPTED = 1, 2, 130
SHOWN_EVENTS = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    prepare_cache()
    told = _parser().parse_args(arguments)
    try:
        return int(told.do(told))
    except LabError as error:
        sys.stderr.write(f"{printable(str(error))}\n")
        return REFUSED
    except KeyboardInterrupt as error:
        sys.stderr.write(f"{str(error) or 'interrupted'}\n")
        return INTERRUPTED
    except BrokenPipeError:  # whoever read it has seen enough
        sys.stderr.close()
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.lab", description="A laboratory of network namespaces that makes labelled traffic: docs/lab.md."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run a description, as root: capture, labels and a check of them")
    run.add_argument("--output", type=Path, required=True, metavar="DIR", help="the folder to write to; a new or an empty one")
    run.add_argument("--replace", action="store_true", help="take away first what an earlier run left in DIR")
    run.set_defaults(do=_run)
    schedule = commands.add_parser("schedule", help="draw the schedule of a run and print it; nothing is started")
    schedule.add_argument("--json", action="store_true", help="print it as schedule.json has it")
    schedule.set_defaults(do=_schedule)
    for command in (run, schedule):
        command.add_argument("description", type=Path, metavar="DESCRIPTION", help="a TOML file, as tests/lab/small.toml")
        command.add_argument("--seed", type=int, required=True, help="the same seed gives the same schedule")
        command.add_argument("--seconds", type=float, metavar="S", help="only the first S seconds of it")
    check = commands.add_parser("check", help="hold a run's labels against its capture again")
    check.add_argument("folder", type=Path, metavar="DIR")
    check.set_defaults(do=_check)
    add_parser(commands)
    tools = commands.add_parser("tools", help="tell which programs the laboratory uses, their versions, and which are missing")
    tools.set_defaults(do=_tools)
    return parser


def _drawn(told: argparse.Namespace) -> tuple[Site, Plan]:
    """Site and plan of the description, the seed and the seconds asked for."""
    from .run import shortened  # noqa: PLC0415  # it needs more of the machine than a schedule does

    if told.seconds is not None and not told.seconds > 0:  # nan too
        raise LabError(f"--seconds {told.seconds:g}: give more than 0")
    site, plan = draw(read(told.description), told.seed)
    return (site, plan) if told.seconds is None else shortened(site, plan, told.seconds)


def _run(told: argparse.Namespace) -> int:
    from . import run  # noqa: PLC0415

    site, plan = _drawn(told)
    programs.refuse_missing(site, plan)
    folder = told.output.resolve()
    for place in (folder, told.description.resolve()):
        run.refuse_hidden(place)
    world.enter()
    name = read(told.description).run(told.seed).name
    manifest = run.perform(run.Order(name, told.description, told.seed, site, plan, folder, told.replace))
    run.say(f"written to {told.output}: {manifest.ended}")
    status = _check(argparse.Namespace(folder=folder))
    return INTERRUPTED if manifest.ended.startswith("interrupted") else status


def _schedule(told: argparse.Namespace) -> int:
    site, plan = _drawn(told)
    if told.json:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(plan), indent=1) + b"\n")
        return 0
    lines = [f"{len(site.hosts)} hosts, {site.seconds:.0f} s, time compressed {site.compression:g} times"]
    lines += [f"{len(plan.events):,} ordinary events"]
    lines += [f"  {number:>8,}  {what}" for what, number in Counter(event.what for event in plan.events).most_common()]
    lines += [f"{len(plan.attacks)} attacks"]
    for one in plan.attacks:
        ends = f"{one.at_s:>8.1f} s  {one.within_s:>6.1f} s  {one.name:<22}{one.attacker} against {', '.join(one.victims)}"
        lines.append(f"{ends}  {' '.join(f'{key}={value}' for key, value in one.given.items())}".rstrip())
    sys.stdout.writelines(f"{printable(line)}\n" for line in lines)
    return 0


def _check(told: argparse.Namespace) -> int:
    check = import_module(".check", __package__)  # it compiles netseq's kernels, which no other command needs
    found = check.check(told.folder)
    (told.folder / output.CHECK).write_text(found.text, encoding="utf-8")
    sys.stdout.write(found.text)
    return COMPLAINTS if found.complaints else 0


def _tools(_: argparse.Namespace) -> int:
    every = programs.every()
    for line in programs.told(output.versions(program.package for program in every)):
        sys.stdout.write(f"{line}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
