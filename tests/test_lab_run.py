"""How a run of the laboratory begins, or does not: the same for whoever runs it, and a clear line where there is no room."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from lab import output, run, world
from lab.site import Host, LabError, Plan, Site
from worlds import in_world

ROOT = Path(__file__).parents[1]
SITE = Site((Host("pc", "office", "inside", ("192.0.2.20",)),), "lab.example", 60.0, 30.0)
PLAN = Plan((), ())

DRAWS = """
import sys
from pathlib import Path
from tests.lab.description import read
from tests.lab.schedule import draw
from tests.lab.services.pages import packages, pages
site, plan = draw(read(Path("tests/lab/small.toml")), 3)
folder = Path(sys.argv[1])
site.write(folder / "hosts.json")
plan.write(folder / "schedule.json")
names = [name for host in site.hosts for name in host.names]
(folder / "files").write_text(repr([(pages(name), packages(name)) for name in names]))
"""
STRANGERS = (
    {"PYTHONHASHSEED": "1", "TZ": "UTC", "LC_ALL": "C"},
    {"PYTHONHASHSEED": "2", "TZ": "Asia/Tokyo", "LC_ALL": "C.UTF-8"},
)


def test_two_people_draw_the_same_hosts_schedule_and_files_byte_for_byte(tmp_path: Path) -> None:
    drawn = []
    for number, settings in enumerate(STRANGERS):
        folder = tmp_path / str(number)
        folder.mkdir()
        command = [sys.executable, "-c", DRAWS, str(folder)]
        subprocess.run(command, cwd=ROOT, env={**os.environ, **settings}, check=True, timeout=60)
        drawn.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert drawn[0] == drawn[1]
    assert all(drawn[0][name] for name in ("hosts.json", "schedule.json", "files"))


def test_ctrl_c_before_a_schedule_is_drawn_is_told_in_a_word(tmp_path: Path) -> None:
    """A pipe that nobody writes to keeps it waiting for its description."""
    pipe = tmp_path / "never.toml"
    os.mkfifo(pipe)
    command = [sys.executable, "-m", "tests.lab", "schedule", str(pipe), "--seed", "1"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as asked, pipe.open("wb"):
        asked.send_signal(signal.SIGINT)
        _, said = asked.communicate(timeout=60)
    assert (asked.returncode, said) == (130, "interrupted\n")


@pytest.mark.parametrize("place", ["/run/lab", "/sys/mine.toml", "/etc/lab"])
def test_what_a_run_could_not_see_in_its_world_is_refused(place: str) -> None:
    with pytest.raises(LabError, match=f"{place}: a run sees a /[a-z]+ of its own: name a place elsewhere"):
        run.refuse_hidden(Path(place))
    run.refuse_hidden(Path("/runs/of/mine"))


@pytest.mark.parametrize("told", ["", "1 2"])
def test_a_variable_that_was_made_up_makes_no_world_of_the_machine(told: str) -> None:
    command = [sys.executable, "-c", "from tests.lab import world; print(world.inside())"]
    env = {**os.environ, world.MACHINE: told}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "False\n"


def small_disk(folder: Path, size_mb: int) -> Path:
    folder.mkdir()
    world.cover(folder, size_mb=size_mb)
    return folder / "run"


@in_world
def test_a_disk_without_room_to_begin_is_told_and_is_left_as_it_was(tmp_path: Path) -> None:
    folder = small_disk(tmp_path / "tiny", 2)
    with pytest.raises(LabError, match="No space left on device: a run needs a folder that it can write to"):
        output.prepare(folder, replace=False)
    assert list(folder.iterdir()) == []
    folder, description = small_disk(tmp_path / "little", 6), tmp_path / "long.toml"
    description.write_bytes(bytes(3 << 20))
    output.prepare(folder, replace=False)
    with pytest.raises(LabError, match="No space left on device"):
        output.write_plan(folder, description, SITE, PLAN)
    assert list(folder.iterdir()) == []


@in_world
def test_a_disk_without_room_for_a_capture_is_told_before_anything_is_sent(tmp_path: Path) -> None:
    folder, description = small_disk(tmp_path / "little", 12), tmp_path / "mine.toml"
    description.touch()
    with pytest.raises(LabError, match=r"the disk of .* is full .*: nothing is started"):
        run.perform(run.Order("train", description, 1, SITE, PLAN, folder))


HOLDS = """
import sys
from pathlib import Path
from tests.lab import output
with output.held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_in_which_a_run_goes_on_is_not_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    output.prepare(folder, replace=False)
    (folder / output.SCHEDULE).touch()
    again = run.Order("train", tmp_path / "mine.toml", 1, SITE, PLAN, folder, replace=True)
    command = [sys.executable, "-c", HOLDS, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(LabError) as refused:
            run.perform(again)
        assert str(refused.value) == f"{folder}: a run is going on there: wait for its end, or name another folder"
        assert {path.name for path in folder.iterdir()} >= {output.SCHEDULE, output.INSTANCES, output.RESERVE}
        other.kill()
    with pytest.raises(LabError, match="No such file or directory"):  # of its description: the folder was free again
        run.perform(again)
    assert list(folder.iterdir()) == []
