"""Completions for bash, zsh and fish, written from the parsers.

`manual` writes them at `make install`. After an option they offer what it takes: files, folders, one of its choices, an
interface of this machine, or the settings after --set; and otherwise the options of the subcommand that the line names.
"""

from __future__ import annotations

from collections.abc import Callable

from sensor import config
from sensor.commands.manual import Command, Told

INTERFACES = "$(command ls /sys/class/net)"


def wanted(told: Told) -> str:
    """What an option takes: "choices", "setting", "interface", "folder", "file", "text", or "" for a switch."""
    first = told.value.strip("[]").split()[0] if told.value else ""
    kinds = {"SECTION.KEY=VALUE": "setting", "DIR": "folder", "FILE": "file", "CSV": "file", "[MODEL": "file", "MODEL": "file"}
    if told.choices:
        return "choices"
    if "--interface" in told.flags:
        return "interface"
    return kinds.get(first, "text") if first else ""


def settings() -> list[str]:
    """What --set can begin with."""
    return [f"{setting.section}.{setting.key}=" for setting in config.settings()]


def bash(command: Command) -> str:
    """A completion for bash; file names are its own default, taken wherever nothing else is offered."""
    function = "_" + command.name.replace("-", "_")
    lines = [f"# Completion of {command.name} for bash. Written by make install.", f"{function}() {{"]
    lines += ['    local current="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" kind="" word']
    if command.kinds:
        names = [kind.word for kind in command.kinds]
        lines += ['    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do']
        lines += [f'        case "$word" in {"|".join(names)}) kind="$word"; break ;; esac', "    done"]
    lines += ['    case "$kind $before" in']
    for one in (command, *command.kinds):
        lines += [line for told in one.told() for line in _bash_value(_kind(command, one), told)]
    lines += ["    esac", '    case "$kind $current" in']
    for one in (command, *command.kinds):
        flags = " ".join(flag for told in one.told() for flag in told.flags)
        lines += [f'        "{_kind(command, one)} -"*) mapfile -t COMPREPLY < <(compgen -W "{flags}" -- "$current") ;;']
    if command.kinds:
        lines += [f'        " "*) mapfile -t COMPREPLY < <(compgen -W "{" ".join(names)}" -- "$current") ;;']
    return "\n".join([*lines, "    esac", "}", f"complete -o bashdefault -o default -F {function} {command.name}"]) + "\n"


def _kind(command: Command, one: Command) -> str:
    return "" if one is command else one.word


def _bash_value(kind: str, told: Told) -> list[str]:
    """The lines of bash that offer what an option takes."""
    offered = {"choices": " ".join(told.choices), "setting": " ".join(settings()), "interface": INTERFACES}
    what = wanted(told)
    if not (told.flags and what):
        return []
    words = [f'mapfile -t COMPREPLY < <(compgen -W "{offered[what]}" -- "$current"); '] if what in offered else []
    if what == "folder":
        words = ['mapfile -t COMPREPLY < <(compgen -d -- "$current"); ']
    more = "compopt -o nospace; " if what == "setting" else ""
    names = "|".join(f'"{kind} {flag}"' for flag in told.flags)
    return [f"        {names}) {''.join(words)}{more}return ;;"]


def zsh(command: Command) -> str:
    """A completion for zsh, by its _arguments."""
    function = "_" + command.name.replace("-", "_")
    lines = [
        f"#compdef {command.name}",
        f"# Completion of {command.name} for zsh. Written by make install.",
        f"{function}() {{",
    ]
    if not command.kinds:
        return "\n".join([*lines, *_zsh_arguments(command, []), "}", f'{function} "$@"']) + "\n"
    lines += ['    case "${words[2]}" in']
    for kind in command.kinds:
        lines += [f"    {kind.word})", "    shift words", "    (( CURRENT-- ))", *_zsh_arguments(kind, []), "    ;;"]
    every = " ".join(f'{kind.word}\\:"{_zsh(kind.help)}"' for kind in command.kinds)
    lines += ["    *)", *_zsh_arguments(command, [f"'1:kind:(({every}))'"]), "    ;;", "    esac", "}", f'{function} "$@"']
    return "\n".join(lines) + "\n"


def _zsh_arguments(command: Command, more: list[str]) -> list[str]:
    """The call of _arguments for all options of a command."""
    actions: dict[str, Callable[[Told], str]] = {
        "choices": lambda told: f"({' '.join(told.choices)})",
        "setting": lambda _: f'compadd -S "" - {" ".join(settings())}',
        "interface": lambda _: "_net_interfaces",
        "folder": lambda _: "_files -/",
        "file": lambda _: "_files",
        "text": lambda _: "",
    }
    rows = ["    _arguments -s \\"]
    for told in command.told():
        what = wanted(told)
        value = f":{told.value.split()[0].strip('[]').replace(':', ' ')}:{actions[what](told)}" if what else ""
        rows += [f"        '*{flag}[{_zsh(told.help)}]{value}' \\" for flag in told.flags]
        if not told.flags:
            rows += [f"        '*{value}' \\"]
    return [*rows, *(f"        {row} \\" for row in more), "        && return 0"]


def _zsh(text: str) -> str:
    """Text inside single quotes and brackets of _arguments."""
    for character in "[]:":
        text = text.replace(character, f"\\{character}")
    return text.replace("'", "'\\''").replace('"', "").replace("`", "")


def fish(command: Command) -> str:
    """A completion for fish."""
    lines = [f"# Completion of {command.name} for fish. Written by make install."]
    names = " ".join(kind.word for kind in command.kinds)
    for kind in command.kinds:
        first = f"-n 'not __fish_seen_subcommand_from {names}' -a {kind.word} -d {_fish(kind.help)}"
        lines += [f"complete -c {command.name} -f {first}"]
    for one in (command, *command.kinds):
        only = f" -n '__fish_seen_subcommand_from {_kind(command, one)}'" if one is not command else ""
        for told in (told for told in one.told() if told.flags):
            lines += [f"complete -c {command.name}{only}{_fish_flags(told)} -d {_fish(told.help)}{_fish_value(told)}"]
    return "\n".join(lines) + "\n"


def _fish_flags(told: Told) -> str:
    return "".join(f" -l {flag[2:]}" if flag.startswith("--") else f" -s {flag[1:]}" for flag in told.flags)


def _fish_value(told: Told) -> str:
    values = {
        "": "",
        "choices": f" -x -a {_fish(' '.join(told.choices))}",
        "setting": f" -x -a {_fish(' '.join(settings()))}",
        "interface": " -x -a '(__fish_print_interfaces)'",
        "folder": " -x -a '(__fish_complete_directories)'",
        "file": " -r -F",
        "text": " -x",
    }
    return values[wanted(told)]


def _fish(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


SHELLS: tuple[tuple[str, str, Callable[[Command], str]], ...] = (
    ("bash", "{}", bash),
    ("zsh", "_{}", zsh),
    ("fish", "{}.fish", fish),
)
"""Each shell with the name that it wants for the file of a command."""
