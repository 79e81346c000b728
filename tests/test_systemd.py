"""The files of systemd/: units that systemd accepts and finds well confined, an example that tells the settings as they are."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sensor import config
from sensor.commands import manual, train_site

SYSTEMD = Path(__file__).parents[1] / "systemd"
UNITS = sorted(SYSTEMD.glob("*.service")) + sorted(SYSTEMD.glob("*.timer"))
SERVICES = [unit for unit in UNITS if unit.suffix == ".service"]
MOST = 20
"""Tenths of exposure by the reckoning of systemd-analyze security, which goes to 100: "OK" begins at 49, "safe" ends at 9."""

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def said(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, text=True, capture_output=True, check=False, timeout=60)


def directives(unit: Path) -> dict[str, list[str]]:
    """Every `Name=value` of a unit; a name may come more than once."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text(encoding="utf-8").splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith(("#", ";")):
            found.setdefault(name, []).append(value)
    return found


@needs_systemd
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    """With the commands of this environment in place of those of an installation, which need not be there."""
    for unit in UNITS:
        here = unit.read_text(encoding="utf-8").replace("/opt/netseq/bin", str(Path(sys.executable).parent))
        (tmp_path / unit.name).write_text(here, encoding="utf-8")
    verified = said("systemd-analyze", "verify", "--man=no", *(str(tmp_path / unit.name) for unit in UNITS))
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_the_services_are_confined(unit: Path) -> None:
    judged = said("systemd-analyze", "security", "--offline=true", f"--threshold={MOST}", "--no-pager", str(unit))
    assert judged.returncode == 0, judged.stdout
    assert re.search(r"Overall exposure level", judged.stdout)


@needs_systemd
def test_a_gpu_costs_little_of_that(tmp_path: Path) -> None:
    """The drop-in, as it is put beside the unit; its exposure is told apart, for it opens the devices."""
    unit = tmp_path / "netseq-sensor.service"
    unit.write_text((SYSTEMD / unit.name).read_text() + (SYSTEMD / "gpu.conf").read_text())
    judged = said("systemd-analyze", "security", "--offline=true", f"--threshold={MOST}", "--no-pager", str(unit))
    assert judged.returncode == 0, judged.stdout


@needs_systemd
def test_receivers_on_other_machines_are_a_drop_in_that_systemd_accepts(tmp_path: Path) -> None:
    """As it is put beside the unit, with a token; what may be reached then is what it names."""
    unit, receivers = tmp_path / "netseq-sensor.service", tmp_path / "netseq-sensor.service.d" / "receivers.conf"
    unit.write_text((SYSTEMD / unit.name).read_text().replace("/opt/netseq/bin", str(Path(sys.executable).parent)))
    receivers.parent.mkdir()
    shutil.copy(SYSTEMD / receivers.name, receivers)
    verified = said("systemd-analyze", "verify", "--man=no", str(unit))
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")
    assert directives(receivers)["LoadCredential"] == [f"{config.Hec().token_file}:/etc/netseq/hec-token"]
    assert directives(receivers)["IPAddressAllow"]


def test_the_sensor_has_one_capability() -> None:
    unit = directives(SYSTEMD / "netseq-sensor.service")
    assert unit["AmbientCapabilities"] == unit["CapabilityBoundingSet"] == ["CAP_NET_RAW"]


def test_code_may_be_compiled_where_it_runs() -> None:
    """numba's kernels and torch's: MemoryDenyWriteExecute would end the sensor at its first call."""
    for unit in SERVICES:
        assert "MemoryDenyWriteExecute" not in directives(unit)


def test_the_manual_has_the_pages_that_units_name() -> None:
    for unit in UNITS:
        for page in directives(unit)["Documentation"][0].split():
            assert page.removeprefix("man:") in manual.names_of_pages()


def test_folders_of_the_unit_are_those_of_the_defaults() -> None:
    settings = config.Settings()
    (state,) = directives(SYSTEMD / "netseq-sensor.service")["StateDirectory"]
    assert settings.service.state_dir == f"/var/lib/{state}"
    assert settings.output.alerts.startswith("/var/log/netseq/")
    assert settings.output.alerts.endswith(".jsonl")  # what logrotate/netseq looks for


def test_training_finds_its_record_wherever_the_settings_put_it() -> None:
    """A condition on one folder would skip it without a word for another service.state_dir."""
    unit = directives(SYSTEMD / "netseq-train.service")
    assert not [name for name in unit if name.startswith(("Condition", "Assert"))]
    assert unit["SuccessExitStatus"] == [str(train_site.KEPT)]


def test_a_trial_of_every_command_of_a_unit_is_a_command_of_netseq() -> None:
    setup = configparser.ConfigParser()
    setup.read(SYSTEMD.parent / "setup.cfg")
    scripts = setup["options.entry_points"]["console_scripts"]
    for unit in SERVICES:
        command = directives(unit)["ExecStart"][0].split()[0]
        assert re.search(rf"^{Path(command).name} = ", scripts, re.MULTILINE), command


def test_the_example_tells_the_settings_as_they_are() -> None:
    shipped = (SYSTEMD / "sensor.toml").read_text(encoding="utf-8")
    assert shipped == manual.example(), "write it anew: python -m sensor.commands.manual --example > systemd/sensor.toml"


def test_the_example_changes_nothing_and_says_all_when_its_settings_are_uncommented(tmp_path: Path) -> None:
    example = manual.example()
    file = tmp_path / "sensor.toml"
    file.write_text(example, encoding="utf-8")
    assert config.load(file) == config.Settings()
    uncommented = re.sub(r"(?m)^#(?=\w+ = )", "", example)
    file.write_text(uncommented, encoding="utf-8")
    assert config.load(file) == config.Settings()
    for setting in config.settings():
        assert re.search(rf"^{setting.key} = ", uncommented, re.MULTILINE), setting
