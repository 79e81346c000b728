"""Man pages and the example of sensor.toml, written from the parsers and the settings themselves.

`make install` runs it (`python -m sensor.commands.manual --output DIR`), so a page cannot tell of another version than the
one that is installed. Pages are written in the language of man(7), which both groff and mandoc read; `completions` beside this
file writes what the shells want. argparse tells its actions by private names alone: they are all read in `read` and `told`.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Literal, NamedTuple, get_args, get_origin, get_type_hints

import msgspec

from sensor import __version__, config
from sensor.commands.misuse import Parser

SECTIONS = {
    "netseq-sensor": 8,
    "netseq-replay": 1,
    "netseq-flows": 1,
    "netseq-train": 1,
    "netseq-evaluate": 1,
}
"""Every command, and the section of its page: 8 is what an administrator runs, 1 what anybody may."""

SETTINGS_PAGE = "sensor.toml"

FILES = {
    "/etc/netseq/sensor.toml": "Settings, see sensor.toml(5).",
    "/var/log/netseq/alerts.jsonl": "Alerts, one JSON object a line (output.alerts).",
    "/var/lib/netseq": "State: conversations, counters, the site's record and model (service.state_dir).",
    "/var/cache/netseq": "Compiled kernels. May be removed while the sensor is stopped.",
}

ENVIRONMENT = {
    "NUMBA_CACHE_DIR": "Folder of compiled kernels.",
    "XDG_CACHE_HOME": "Where that is not set, kernels are kept in netseq/ under this folder; ~/.cache by default.",
}

EXAMPLE_HEAD = """\
# Settings of netseq-sensor, each with its default. Lines that begin with "# " explain; a setting is changed by taking
# the # away before it. What stays behind a # follows the defaults of the version that is installed.
#
# One thing must be set: where flows come from, capture.interfaces, capture.folder or zeek.road. Then:
#   netseq-sensor --check               refuses what cannot work, and says why
#   systemctl reload netseq-sensor      takes changes up; the log names those that wait for a restart
# sensor.toml(5) has the same with the range of each.
"""


class Told(NamedTuple):
    """An option or argument as a page and a shell tell it."""

    flags: tuple[str, ...]
    """Its names, "-i" and "--interface"; none for an argument that is told by its place."""
    value: str
    """What follows it, such as "DIR" or "FILE ..."; "" for a switch."""
    choices: tuple[str, ...]
    help: str
    required: bool


class Command(NamedTuple):
    """A command or one of its subcommands."""

    name: str
    description: str
    epilog: str
    groups: tuple[tuple[str, tuple[Told, ...]], ...]
    """Title and options of each group; arguments come with flags of ()."""
    kinds: tuple[Command, ...]
    help: str = ""
    """What a command says of this subcommand in a line."""

    @property
    def word(self) -> str:
        """What names a subcommand on the line."""
        return self.name.split()[-1]

    def told(self) -> list[Told]:
        """All options and arguments of this command, without those of its subcommands."""
        return [told for _, group in self.groups for told in group]


def commands() -> list[Command]:
    """Every command of netseq, read from its parser."""
    return [read(import_module(f"sensor.commands.{name.removeprefix('netseq-')}").parser()) for name in SECTIONS]


def read(parser: argparse.ArgumentParser, summary: str = "") -> Command:
    """Read a parser, and those of its subcommands."""
    kinds: list[Command] = []
    groups = []
    for group in parser._action_groups:
        group_told = []
        for action in group._group_actions:
            if isinstance(action, argparse._SubParsersAction):
                lines = {choice.dest: choice.help or "" for choice in action._choices_actions}
                kinds += [read(kind, lines.get(name, "")) for name, kind in action.choices.items()]
            elif action.help is not argparse.SUPPRESS:
                group_told.append(told(parser, action))
        if group_told:
            groups.append(((group.title or "").replace("positional ", ""), tuple(group_told)))
    return Command(parser.prog, parser.description or "", parser.epilog or "", tuple(groups), tuple(kinds), summary)


def told(parser: argparse.ArgumentParser, action: argparse.Action) -> Told:
    """One option as its help tells it."""
    formatter = parser._get_formatter()
    name = action.dest.upper() if action.option_strings else action.dest
    value = formatter._format_args(action, name) if action.nargs != 0 else ""
    choices = tuple(map(str, action.choices)) if action.choices else ()
    words = formatter._expand_help(action) if action.help else ""
    return Told(tuple(action.option_strings), value, choices, words, action.required)


def page_of(command: Command, others: Sequence[str]) -> str:
    """The man page of a command."""
    section = SECTIONS[command.name]
    lines = [head(command.name, section), ".SH NAME", f"{roff(command.name)} \\- {roff(without_stop(command.description))}"]
    lines += [".SH SYNOPSIS", *synopsis(command), ".SH DESCRIPTION", *prose(command.description)]
    for kind in command.kinds:
        lines += [".PP", f"{bold(kind.word)}: {roff(kind.help)}."]
    lines += [".SH OPTIONS", *options(command)]
    for kind in command.kinds:
        lines += [f".SH {bold(kind.word).upper()}", *prose(kind.description), *options(kind)]
    lines += epilog(command.epilog)
    for kind in command.kinds:
        lines += epilog(kind.epilog, f" OF {kind.word.upper()}")
    if section == 8:  # the daemon
        lines += [".SH FILES", *terms(FILES)]
    lines += [".SH ENVIRONMENT", *terms(ENVIRONMENT), *see_also([name for name in others if not name.startswith(command.name)])]
    return "\n".join(lines) + "\n"


def settings_page(others: Sequence[str]) -> str:
    """sensor.toml(5): every setting with its meaning, what it may be, and its default."""
    lines = [head(SETTINGS_PAGE, 5), ".SH NAME", f"{roff(SETTINGS_PAGE)} \\- settings of netseq", ".SH SYNOPSIS"]
    lines += [bold("/etc/netseq/sensor.toml"), ".SH DESCRIPTION"]
    lines += [
        *prose("Settings of netseq-sensor, in TOML: tables of keys."),
        *prose("Other commands read such a file when it is named with --config."),
        *prose("A key or table that is not below is refused, naming the nearest one that is."),
        *prose("On a command line, --set SECTION.KEY=VALUE changes one setting, and goes before the file."),
        ".SH SETTINGS",
    ]
    section = ""
    for setting in config.settings():
        if setting.section != section:
            section = setting.section
            lines += [f'.SS "[{roff(section)}]"', *prose(str(type(getattr(config.Settings(), section)).__doc__))]
        default = msgspec.json.encode(setting.default).decode()  # as config.to_toml
        lines += [
            ".TP",
            f"{bold(setting.key)} = {roff(default)}",
            *prose(f"{meaning_of(setting)}."),
            *prose(f"{range_of(setting)}."),
        ]
    lines += [".SH FILES", *terms(FILES), *see_also([name for name in others if not name.startswith(SETTINGS_PAGE)])]
    return "\n".join(lines) + "\n"


def example() -> str:
    """sensor.toml as it is shipped: every setting behind a "#"."""
    shown = re.sub(r"(?m)^(?=[a-z_]+ = )", "#", config.to_toml(config.Settings()))
    return f"{EXAMPLE_HEAD}\n{shown}"


def meaning_of(setting: config.Setting) -> str:
    """The meaning with a capital, as a sentence begins."""
    return setting.meaning[0].upper() + setting.meaning[1:]


def range_of(setting: config.Setting) -> str:
    """What a setting may be, in words."""
    kind = setting.kind
    if get_origin(kind) is Literal:
        return f"One of {', '.join(map(str, get_args(kind)))}"
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        return f"A list of {', '.join(get_args(inner))}" if get_origin(inner) is Literal else "A list of text"
    word = {bool: "True or false", int: "A whole number", float: "A number", str: "Text"}[kind]
    section = type(getattr(config.Settings(), setting.section))
    for meta in get_type_hints(section, include_extras=True)[setting.key].__metadata__:
        if isinstance(meta, msgspec.Meta):
            low = [f"from {meta.ge:,}"] if meta.ge is not None else [f"above {meta.gt:,}"] if meta.gt is not None else []
            word = " ".join([word, *low, *([f"to {meta.le:,}"] if meta.le is not None else [])])
    return word


def head(name: str, section: int) -> str:
    """The line that begins a page. The date is that of the build, or $SOURCE_DATE_EPOCH, for builds that can be repeated."""
    day = time.strftime("%Y-%m-%d", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))))
    return f'.TH "{roff(name.upper())}" "{section}" "{day}" "netseq {__version__}" "netseq"'


def synopsis(command: Command) -> Iterator[str]:
    """How the command is called, without the options that may be left out."""
    for one in command.kinds or (command,):
        required = [f"{bold(long_of(told))} {italic(told.value)}" for told in one.told() if told.flags and told.required]
        places = [italic(told.value) for told in one.told() if not told.flags]
        yield from [".PP"][: one is not (command.kinds or (command,))[0]]
        yield " ".join([bold(one.name), "[" + italic("OPTION") + "]...", *required, *places])


def options(command: Command) -> Iterator[str]:
    """The groups of options, each under its title."""
    for title, group in command.groups:
        yield f'.SS "{roff(title[0].upper() + title[1:])}"'
        for one in group:
            names = ", ".join(bold(flag) for flag in one.flags)
            yield from (".TP", f"{names} {italic(one.value)}".strip(), *prose(f"{one.help[:1].upper()}{one.help[1:]}."))


def epilog(text: str, of: str = "") -> Iterator[str]:
    """Paragraphs such as "Examples:" and "Exit status:" as sections, `of` a subcommand; lines that are indented stay lines."""
    for paragraph in filter(None, text.strip().split("\n\n")):
        title, colon, rest = paragraph.partition(":")
        named = bool(colon) and len(title.split()) <= 2 and "\n" not in title
        yield f".SH {title.upper() if named else 'NOTES'}{of}"
        inside = False
        for line in (rest.removeprefix(" ") if named else paragraph).strip("\n").splitlines():
            if line.startswith("  ") != inside:
                inside = not inside
                yield ".EX" if inside else ".EE"
                if not inside:
                    yield ".PP"
            yield from [roff(line)] if inside else prose(line)
        if inside:
            yield ".EE"


def terms(meanings: dict[str, str]) -> Iterator[str]:
    """A list of terms, each with what it means."""
    for term, meaning in meanings.items():
        yield from (".TP", bold(term), *prose(meaning))


def see_also(names: Sequence[str]) -> list[str]:
    """Where to read on; `names` such as "netseq-replay(1)"."""
    shown = [f"{bold(name.partition('(')[0])}({name.partition('(')[2]}" for name in names]
    return [".SH SEE ALSO", *[f"{one}," for one in shown[:-1]], shown[-1]]


def long_of(told: Told) -> str:
    """The first long name of an option."""
    return next((flag for flag in told.flags if flag.startswith("--")), told.flags[0])


def prose(text: str) -> list[str]:
    """Text that roff fills, in lines that are easy to read as they are."""
    return [roff(line) for line in textwrap.wrap(text, 72, break_on_hyphens=False)]


def bold(text: str) -> str:
    """Text in bold."""
    return f"\\fB{roff(text)}\\fP"


def italic(text: str) -> str:
    """Text in italics; nothing stays nothing."""
    return f"\\fI{roff(text)}\\fP" if text else ""


def roff(text: str) -> str:
    """Text as roff reads it: its own characters escaped, hyphens as those that can be searched and copied."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("~", "\\(ti").replace("^", "\\(ha")
    return "\\&" + escaped if escaped[:1] in {".", "'"} else escaped


def without_stop(sentence: str) -> str:
    """The first sentence, as a line of the list that whatis(1) shows: without its end and its capital."""
    first = sentence.split(". ", maxsplit=1)[0].rstrip(".")
    return first[:1].lower() + first[1:]


def names_of_pages() -> list[str]:
    """Every page, such as "netseq-replay(1)"."""
    return [*[f"{name}({section})" for name, section in SECTIONS.items()], f"{SETTINGS_PAGE}(5)"]


def write(folder: Path) -> None:
    """Write man/NAME.SECTION and the completions of three shells under `folder`."""
    from sensor.commands import completions  # noqa: PLC0415  # it reads Command from here

    every = commands()
    (folder / "man").mkdir(parents=True, exist_ok=True)
    for command in every:
        page = folder / "man" / f"{command.name}.{SECTIONS[command.name]}"
        page.write_text(page_of(command, names_of_pages()), encoding="utf-8")
    (folder / "man" / f"{SETTINGS_PAGE}.5").write_text(settings_page(names_of_pages()), encoding="utf-8")
    for shell, named, form in completions.SHELLS:
        (folder / shell).mkdir(exist_ok=True)
        for command in every:
            (folder / shell / named.format(command.name)).write_text(form(command), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Write all of it under --output, or the example of sensor.toml to standard output."""
    build = Parser(prog="sensor.commands.manual", description="Write man pages, completions and the example of sensor.toml.")
    what = build.add_mutually_exclusive_group(required=True)
    what.add_argument("--output", metavar="DIR", type=Path, help="folder to write man pages and completions into")
    what.add_argument("--example", action="store_true", help="print sensor.toml as it is shipped")
    arguments = build.parse_args(argv)
    if arguments.example:
        sys.stdout.write(example())
    else:
        write(arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
