"""Man pages and completions, as the programs that read them see them: nothing to complain of, and no option left out."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from sensor import config
from sensor.commands import manual

ROOT = Path(__file__).parents[1]
PAGES = manual.names_of_pages()
COMMANDS = manual.commands()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("manual")
    assert manual.main(["--output", str(folder)]) == 0
    return folder


def file_of(written: Path, page: str) -> Path:
    """The file of a page such as "netseq-replay(1)"."""
    name, _, section = page.rstrip(")").partition("(")
    return written / "man" / f"{name}.{section}"


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


def said(*command: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, text=True, capture_output=True, check=False, timeout=60, env=environment)


def shown(written: Path, page: str) -> str:
    """A page as a reader sees it, in lines that are never broken."""
    plain = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MANWIDTH": "1000", "MAN_KEEP_FORMATTING": ""}
    told = said("man", "--warnings", "-l", str(file_of(written, page)), environment=plain)
    assert (told.returncode, told.stderr) == (0, "")
    return told.stdout


@needs("mandoc")
@pytest.mark.parametrize("page", PAGES)
def test_mandoc_has_no_complaint(written: Path, page: str) -> None:
    linted = said("mandoc", "-Tlint", "-Wwarning", str(file_of(written, page)))
    assert (linted.returncode, linted.stdout) == (0, "")


@needs("man")
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_a_page_has_every_option_with_its_meaning(written: Path, command: manual.Command) -> None:
    page = shown(written, f"{command.name}({manual.SECTIONS[command.name]})")
    for told in [told for one in (command, *command.kinds) for told in one.told()]:
        for flag in told.flags:
            assert re.search(rf"^ +.*{re.escape(flag)}\b", page, re.MULTILINE), flag
        assert told.help[1:] in page


@needs("man")
def test_the_page_of_settings_has_every_setting_with_range_and_default(written: Path) -> None:
    page = shown(written, "sensor.toml(5)")
    for setting in config.settings():
        assert f"[{setting.section}]" in page
        assert re.search(rf"^ +{setting.key} = ", page, re.MULTILINE), setting.key
        assert manual.meaning_of(setting) in page
        assert manual.range_of(setting) in page


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("detect.max_p", "A number above 0 to 1"),
        ("flows.table", "A whole number from 64 to 67,108,864"),
        ("output.notice_form", "One of tsv, json"),
        ("capture.promiscuous", "True or false"),
        ("capture.interfaces", "A list of text"),
    ],
)
def test_ranges_are_told_in_words(name: str, said: str) -> None:
    (setting,) = [one for one in config.settings() if f"{one.section}.{one.key}" == name]
    assert manual.range_of(setting) == said


def test_every_command_that_is_installed_has_a_page() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    scripts = dict(line.split(" = ") for line in setup["options.entry_points"]["console_scripts"].strip().splitlines())
    assert set(scripts) == set(manual.SECTIONS)
    for name, target in scripts.items():
        assert target == f"sensor.commands.{name.removeprefix('netseq-')}:main"


def test_words_that_roff_would_take_for_its_own_stay_words() -> None:
    assert manual.roff(".TH is \\fB") == "\\&.TH is \\efB"
    assert manual.roff("'so") == "\\(aqso"


@needs("bash")
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("netseq-replay --no", ["--notice"]),
        ("netseq-replay --set detect.bud", ["detect.budget_per_day="]),
        ("netseq-train wo", ["words"]),
        ("netseq-train words --alphabet p", ["parts", "protobytes", "ports"]),
        ("netseq-train multiflow --sequence p", ["pair"]),
        ("netseq-sensor --interface l", ["lo"]),
    ],
)
def test_bash_completes(written: Path, line: str, offered: list[str]) -> None:
    words = line.split()
    script = f"source {written}/bash/{words[0]}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; "
    script += f"compopt() {{ :; }}; _{words[0].replace('-', '_')}; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    told = said("bash", "--norc", "-c", script)
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.split() == offered


@needs("fish")
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("netseq-replay --noti", "--notice"),
        ("netseq-replay --set detect.bud", "detect.budget_per_day="),
        ("netseq-train wo", "words"),
        ("netseq-train words --alphabet proto", "protobytes"),
    ],
)
def test_fish_completes(written: Path, line: str, offered: str, tmp_path: Path) -> None:
    script = f"source {written}/fish/{line.split(maxsplit=1)[0]}.fish; complete --do-complete '{line}'"
    told = said("fish", "--no-config", "-c", script, environment={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)})
    assert (told.returncode, told.stderr) == (0, "")
    assert offered in [row.split("\t")[0] for row in told.stdout.splitlines()]


@needs("zsh")
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_zsh_reads_its_completion(written: Path, command: manual.Command) -> None:
    file = written / "zsh" / f"_{command.name}"
    assert file.read_text(encoding="utf-8").startswith(f"#compdef {command.name}\n")
    told = said("zsh", "--no-rcs", "-n", str(file))
    assert (told.returncode, told.stderr) == (0, "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_knows_every_option(written: Path, shell: str) -> None:
    for command in COMMANDS:
        (file,) = [
            file
            for file in (written / shell).iterdir()
            if file.name in {command.name, f"_{command.name}", f"{command.name}.fish"}
        ]
        text = file.read_text(encoding="utf-8")
        for told in [told for one in (command, *command.kinds) for told in one.told()]:
            for flag in told.flags:
                spelled = flag if shell != "fish" else f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}"
                assert re.search(rf"{re.escape(spelled)}(?![\w-])", text), (command.name, flag)
