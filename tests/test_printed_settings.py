"""The settings that the pages have an operator write into the example that is installed: they go there, and are taken."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from sensor.config import Settings, load

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "systemd" / "sensor.toml"
BLOCKS = [
    (page.name, block)
    for page in sorted((ROOT / "docs").glob("*.md"))
    for block in re.findall(r"```toml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
]


def set_in(example: str, section: str, key: str, line: str) -> str:
    """The example with this line in place of the one behind a #, in its section."""
    head, begin, rest = example.partition(f"\n[{section}]\n")
    assert begin, f"no section {section}"
    body, following, tail = rest.partition("\n\n")
    changed, count = re.subn(rf"^#{key} = .*$", lambda _: line, body, count=1, flags=re.MULTILINE)
    assert count, f"no #{key} under [{section}]"
    return head + begin + changed + following + tail


def test_there_are_printed_settings() -> None:
    assert {name for name, _ in BLOCKS} >= {"zeek.md", "splunk.md"}


@pytest.mark.parametrize(("name", "block"), BLOCKS)
def test_a_printed_block_can_be_set_in_the_example(name: str, block: str, tmp_path: Path) -> None:
    example = EXAMPLE.read_text(encoding="utf-8")
    section, *lines = filter(None, block.splitlines())
    for line in lines:
        example = set_in(example, section.strip("[]"), line.split(" = ")[0], line)
    (tmp_path / "sensor.toml").write_text(example)
    (tmp_path / "block.toml").write_text(block)
    set_there, alone = load(tmp_path / "sensor.toml"), load(tmp_path / "block.toml")
    assert set_there == alone != Settings(), name
    assert msgspec.to_builtins(alone)[section.strip("[]")] != msgspec.to_builtins(Settings())[section.strip("[]")]


def test_what_sed_takes_out_of_comments_is_there() -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md"))
    asked = re.findall(r"^sed -i 's/\^(#\w+ = )\.\*/", pages, re.MULTILINE)
    assert len(asked) >= 2
    example = EXAMPLE.read_text(encoding="utf-8")
    assert [len(re.findall(f"^{line}", example, re.MULTILINE)) for line in asked] == [1] * len(asked)
