"""What can be set, how mistakes are told, and that the settings' file says everything."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor import config
from sensor.config import ConfigError, Settings
from sensor.decode import DEFAULT_TUNNELS


def complaint(*changes: str) -> str:
    with pytest.raises(ConfigError) as caught:
        config.load(None, changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_no_file_and_no_change_gives_the_defaults() -> None:
    assert config.load() == Settings()


def test_the_defaults_are_those_that_the_documents_promise() -> None:
    settings = Settings()
    assert settings.flows.idle_s == 120
    assert settings.flows.closed_s == 5
    assert settings.flows.attempt_s == 5
    assert settings.flows.close == "both"
    assert settings.statistics.rules == "netseq"
    assert settings.conversations.restart_s == 3600
    assert settings.detect.budget_per_day == 20
    assert settings.detect.quiet_s == 3600


def test_rules_and_close_can_be_set() -> None:
    settings = config.load(None, ["statistics.rules=cicflowmeter", "flows.close=first-fin"])
    assert (settings.statistics.rules, settings.flows.close) == ("cicflowmeter", "first-fin")


def test_cicflowmeters_rules_ask_the_decoder_for_its_payload_and_its_layers_and_for_nothing_else() -> None:
    settings = config.load(None, ["statistics.rules=cicflowmeter", "decode.fragments=128", "flows.idle_s=7"])
    applied = settings.applied()
    assert (applied.decode.payload, applied.decode.tunnels) == ("captured", ("vlan", "ipip"))
    assert applied.applied() == applied
    decode = config.load(None, ["decode.payload=captured", "decode.tunnels=vlan,ipip", "decode.fragments=128"]).decode
    assert applied == msgspec.structs.replace(settings, decode=decode)


def test_netseqs_rules_leave_the_settings_as_they_are() -> None:
    settings = config.load(None, ["decode.payload=captured", "decode.tunnels=gre"])
    assert settings.applied() == settings


def test_every_tunnel_that_decode_knows_is_a_setting_and_looked_through_by_default() -> None:
    assert set(Settings().decode.tunnels) == set(DEFAULT_TUNNELS)


def test_the_printed_settings_read_back_to_themselves(tmp_path: Path) -> None:
    settings = config.load(None, ['model.path="/a \\"b\\" ü"', "decode.tunnels=gre,mpls", "flows.idle_s=7.5"])
    path = tmp_path / "sensor.toml"
    path.write_text(config.to_toml(settings), encoding="utf-8")
    assert config.load(path) == settings


def test_every_setting_has_a_meaning_and_is_printed_under_it() -> None:
    printed = config.to_toml(Settings())
    for setting in config.settings():
        assert f"# {setting.meaning}\n{setting.key} = " in printed


def test_a_change_wins_over_the_file_and_the_last_change_wins(tmp_path: Path) -> None:
    path = tmp_path / "sensor.toml"
    path.write_text("[flows]\nidle_s = 60\nclosed_s = 1\n")
    settings = config.load(path, ["flows.idle_s=30", "flows.idle_s=15"])
    assert (settings.flows.idle_s, settings.flows.closed_s) == (15, 1)


def test_bare_words_are_taken_as_text_and_commas_as_lists() -> None:
    settings = config.load(None, ["model.device=cuda:1", "decode.tunnels=gre, vxlan", "output.dvc=7", "model.path=/a b"])
    assert (settings.model.device, settings.output.dvc, settings.model.path) == ("cuda:1", "7", "/a b")
    assert settings.decode.tunnels == ("gre", "vxlan")
    assert config.load(None, ["decode.tunnels="]).decode.tunnels == ()


def test_an_unknown_key_names_the_nearest_known_one() -> None:
    assert "did you mean flows.idle_s?" in complaint("flows.idel_s=3")


def test_an_unknown_section_names_the_nearest_known_one() -> None:
    assert "did you mean flows?" in complaint("flow.idle_s=3")


def test_a_key_of_another_section_is_found_there() -> None:
    assert "did you mean detect.budget_per_day?" in complaint("flows.budget_per_day=3")


def test_a_key_like_no_other_gets_the_list_of_known_ones() -> None:
    assert "known are: table, idle_s" in complaint("flows.zzz=1")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ("flows.idle_s=-3", "flows.idle_s: expected a number > 0"),
        ("flows.idle_s=nan", "flows.idle_s: expected a number"),
        ("flows.idle_s=soon", "flows.idle_s: expected a number, got text"),
        ("flows.table=2.5", "flows.table: expected a whole number"),
        ("flows.table=true", "flows.table: expected a whole number, got true or false"),
        ("decode.tunnels=gre,teredo", "decode.tunnels: invalid value 'teredo', known are: vlan"),
        ("decode.payload=none", "decode.payload: invalid value 'none', known are: ip, captured"),
        ("statistics.rules=cic", "statistics.rules: invalid value 'cic', known are: netseq, cicflowmeter"),
        ("flows.close=rst", "flows.close: invalid value 'rst', known are: both, first-fin"),
        ("model.device=gpu", 'model.device: not a known value; "auto"'),
        ("idle_s=3", "expected section.key=value"),
        ("flows.idle_s", "expected section.key=value"),
    ],
)
def test_a_value_that_does_not_fit_names_its_key_and_what_was_expected(change: str, part: str) -> None:
    assert complaint(change).startswith(f"--set {change}: ")
    assert part in complaint(change)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("idle_s = 3\n", "unknown section 'idle_s', did you mean flows.idle_s?"),
        ("flows = 3\n", "flows: expected a [section]"),
        ("[flows]\nidle_s = \n", "not TOML"),
        ("[flows]\nidle_s = 0\n", "flows.idle_s: expected a number > 0"),
    ],
)
def test_a_mistake_in_a_file_names_the_file(tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "sensor.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert part in str(caught.value)


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        config.load(tmp_path / "absent.toml")
    (tmp_path / "latin").write_bytes(b"[flows]\n# \xff\n")
    with pytest.raises(ConfigError, match="not UTF-8 text at byte 10"):
        config.load(tmp_path / "latin")


@given(st.text(), st.text(), st.text())
def test_no_change_whatever_its_text_fails_in_more_than_one_line(section: str, key: str, value: str) -> None:
    for change in (f"{section}.{key}={value}", f"flows.{key}={value}", f"flows.idle_s={value}", f"decode.tunnels={value}"):
        line = ""
        try:
            config.load(None, [change])
        except ConfigError as error:
            line = str(error)
        assert line.isprintable()


def test_a_line_break_in_a_change_brings_no_second_key() -> None:
    assert "expected a number, got text" in complaint("flows.idle_s=1\nclosed_s = 2")
