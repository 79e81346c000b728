"""conn.log followed on disk: every line once and in order, through rotation, packing, restarts, and what can be wrong."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sensor.sources import lines, zeek_follow, zeek_tail
from sensor.sources.faults import NotAConnLog
from sensor.sources.zeek_follow import SINCE, ConnLogFollower

TURNS = 400
"""Waits until a row that should come is missed."""
QUIET = 8
"""Waits in which a row that should not come would have come."""
BEGIN_S = 1_700_000_000


def header(opened: int = 0, fields: str = "ts uid id.orig_h id.orig_p id.resp_h id.resp_p proto conn_state") -> str:
    names = "\t".join(fields.split())
    return f"#separator \\x09\n#unset_field\t-\n#path\tconn\n#open\t2023-11-14-22-13-{opened:02}\n#fields\t{names}\n"


def row(number: int) -> str:
    return f"{BEGIN_S + number}.000000\tC{number}\t10.0.0.1\t4000\t10.0.0.2\t80\ttcp\tSF\n"


def rows(*numbers: int) -> str:
    return "".join(map(row, numbers))


def jsonl(*numbers: int) -> str:
    return "".join(
        json.dumps(
            {"ts": BEGIN_S + number + 0.5, "uid": f"C{number}", "id.orig_h": "10.0.0.1", "id.orig_p": 4000, "proto": "tcp"}
            | {"id.resp_h": "10.0.0.2", "id.resp_p": 80, "conn_state": "SF"}
        )
        + "\n"
        for number in numbers
    )


def add(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


class Following:
    """A follower that is led by hand: what it hands over, and what it tells."""

    def __init__(self, path: Path, marks: dict[str, tuple[int, int]] | None = None, wait_s: float = 0.001) -> None:
        self.told: list[tuple[str, str]] = []
        self.source = ConnLogFollower(
            path, tell=lambda event, line: self.told.append((event, line)), marks=marks, wait_s=wait_s
        )
        self.turns = iter(self.source)
        self.rest: list[int] = []
        """What still came after the end was asked for."""

    def uids(self, count: int) -> list[int]:
        """The next `count` rows, and no more in the turns after them."""
        got: list[int] = []
        quiet = 0
        while len(got) < count or quiet < QUIET:
            batch = next(self.turns)
            got += [int((uid or "C-1")[1:]) for uid in batch.uids or ()]
            quiet = 0 if len(batch.flows) else quiet + 1
            assert quiet < TURNS, f"{got} of {count}, then nothing; told {self.told}"
        return got

    def end(self) -> dict[str, tuple[int, int]]:
        """Stop as the service does; returns the marks as they come out of the state."""
        self.source.stop()
        self.rest = [int((uid or "")[1:]) for batch in self.turns for uid in batch.uids or ()]
        self.source.close()
        return msgspec.convert(json.loads(json.dumps(self.source.marks)), dict[str, tuple[int, int]])

    def skipped(self) -> dict[str, int]:
        return {name: count for name, count in self.source.counters().items() if count}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "current").mkdir()
    return tmp_path / "current" / "conn.log"


@pytest.mark.parametrize("form", [rows, jsonl])
def test_rows_come_as_they_are_written(path: Path, form: Callable[..., str]) -> None:
    path.write_text((header() if form is rows else "") + form(1, 2))
    following = Following(path)
    assert following.uids(2) == [1, 2]
    text = form(3, 4)
    got = []
    for cut in range(0, len(text), 37):
        add(path, text[cut : cut + 37])
        got += [int((uid or "")[1:]) for _ in range(3) for uid in next(following.turns).uids or ()]
    assert got + following.uids(2 - len(got)) == [3, 4]
    assert following.skipped() == {}


def test_a_cut_line_gives_nothing_before_its_end_and_its_row_after_it(path: Path) -> None:
    path.write_text(header() + row(1) + row(2)[:30])
    following = Following(path)
    assert following.uids(1) == [1]
    add(path, row(2)[30:-1])
    assert following.uids(0) == []
    add(path, "\n")
    assert following.uids(1) == [2]
    assert following.skipped() == {}


@pytest.mark.parametrize("form", [rows, jsonl])
def test_a_log_with_a_mark_of_utf_8_before_it_is_followed(path: Path, form: Callable[..., str]) -> None:
    path.write_bytes(b"\xef\xbb\xbf" + ((header() if form is rows else "") + form(1)).encode())
    following = Following(path)
    assert following.uids(1) == [1]
    marks = following.end()
    add(path, form(2))
    following = Following(path, marks)
    assert following.uids(1) == [2]
    assert following.skipped() == {}


def test_a_log_of_another_name_is_followed_where_its_site_writes_connections_to_it(path: Path) -> None:
    path.write_text(header().replace("#path\tconn", "#path\tconn_internal") + rows(1))
    following = Following(path)
    assert following.uids(1) == [1]
    assert following.skipped() == {}


def test_a_log_that_is_renamed_is_read_to_its_end_and_then_the_new_one(path: Path) -> None:
    path.write_text(header(1) + rows(1))
    following = Following(path)
    assert following.uids(1) == [1]
    add(path, rows(2))
    path.rename(path.with_name("conn.2023-11-14-22-13-20.log"))
    path.write_text(header(2) + rows(3))
    assert following.uids(2) == [2, 3]
    add(path, rows(4))
    assert following.uids(1) == [4]
    assert not following.told


def test_what_is_written_to_a_renamed_log_before_the_new_one_begins_is_read(path: Path) -> None:
    path.write_text(header(1) + rows(1))
    following = Following(path)
    assert following.uids(1) == [1]
    old = path.rename(path.with_name("conn.1.log"))
    assert following.uids(0) == []
    add(old, rows(2))
    assert following.uids(1) == [2]
    add(old, rows(3).rstrip("\n"))
    path.write_text(header(2) + rows(4))
    assert following.uids(2) == [3, 4]


def test_another_header_or_form_after_rotation_is_taken_up(path: Path) -> None:
    path.write_text(header(1) + rows(1))
    following = Following(path)
    assert following.uids(1) == [1]
    path.rename(path.with_name("conn.1.log"))
    path.write_text(
        "#separator ;\n#unset_field;NA\n#path;conn\n#fields;proto;uid;id.resp_p;id.resp_h;id.orig_p;id.orig_h;ts;extra\n"
        f"udp;C2;53;10.0.0.9;5;10.0.0.1;{BEGIN_S + 2}.5;x\n"
    )
    assert following.uids(1) == [2]
    path.rename(path.with_name("conn.2.log"))
    path.write_text(jsonl(3))
    assert following.uids(1) == [3]
    assert following.skipped() == {}


@pytest.mark.parametrize("form", [rows, jsonl])
def test_a_restart_goes_on_where_reading_ended(path: Path, form: Callable[..., str]) -> None:
    path.write_text((header() if form is rows else "") + form(1, 2) + form(3)[:20])
    following = Following(path)
    assert following.uids(2) == [1, 2]
    marks = following.end()
    add(path, form(3)[20:] + form(4))
    following = Following(path, marks)
    assert following.uids(2) == [3, 4]
    assert following.skipped() == {}


def test_logs_that_were_finished_and_packed_while_the_sensor_was_off_are_read_once(tmp_path: Path) -> None:
    spool, logs = tmp_path / "spool", tmp_path / "logs"
    spool.mkdir()
    (logs / "2023-11-14").mkdir(parents=True)
    (logs / "current").symlink_to(spool)
    path = logs / "current" / "conn.log"
    day = logs / "2023-11-14"
    (day / "conn.20:00:00-21:00:00.log.gz").write_bytes(gzip.compress((header(9) + rows(-3600)).encode()))
    (day / "conn-summary.22:00:00-23:00:00.log.gz").write_bytes(gzip.compress(b">== Total === text\n"))
    path.write_text(header(1) + rows(1, 2))
    following = Following(path)
    assert following.uids(2) == [1, 2]
    marks = following.end()
    (day / "conn.22:00:00-23:00:00.log.gz").write_bytes(gzip.compress((header(1) + rows(1, 2, 3)).encode()))
    (day / "conn.23:00:00-00:00:00.log.gz").write_bytes(gzip.compress((header(2) + rows(4, 5)).encode()))
    (spool / "conn.2023-11-15-00-00-00.log").write_text(header(3) + rows(6))
    path.write_text(header(4) + rows(7))  # the same inode as the log that was left
    following = Following(path, marks)
    assert following.uids(5) == [3, 4, 5, 6, 7]
    assert following.skipped() == {"files_skipped": 1}
    following = Following(path, following.end())
    assert following.uids(0) == []
    (day / "conn.00:00:00-01:00:00.log.gz").write_bytes(gzip.compress((header(3) + rows(6)).encode()))
    add(path, rows(8))
    assert following.uids(1) == [8]


@pytest.mark.parametrize("names", [("conn.log.1", "conn.log.2.gz"), ("conn.log-20231115", "conn.log-20231114-1700000000.gz")])
def test_logs_that_logrotate_renamed_while_the_sensor_was_off_are_read_once(path: Path, names: tuple[str, str]) -> None:
    path.write_text(header(1) + rows(1))
    following = Following(path)
    assert following.uids(1) == [1]
    marks = following.end()
    path.with_name(names[1]).write_bytes(gzip.compress((header(1) + rows(1, 2)).encode()))
    path.with_name(names[0]).write_text(header(2) + rows(3))
    path.with_name("conn.log.9.xz").write_bytes(b"\xfd7zXZ\x00")
    path.with_name("conn.log.bak").write_text(header(7) + rows(70))  # somebody's copy
    path.write_text(header(3) + rows(4))
    following = Following(path, marks)
    assert following.uids(3) == [2, 3, 4]
    marks = following.end()
    path.with_name(names[0]).rename(path.with_name("conn.log.2"))
    following = Following(path, marks)
    assert following.uids(0) == []
    assert following.skipped() == {"files_skipped": 1}


def test_logs_that_came_and_went_between_two_looks_are_read(path: Path) -> None:
    path.write_text(header(1) + rows(1))
    following = Following(path)
    assert following.uids(1) == [1]
    for number in (2, 3, 4):
        path.rename(path.with_name(f"conn.{number}.log"))
        path.write_text(header(number) + rows(number))
    assert following.uids(3) == [2, 3, 4]


def test_a_packed_log_that_is_still_being_written_is_read_when_it_is_whole(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zeek_follow, "SEARCH_S", 0.003)
    path.write_text(header(1) + rows(1))
    following = Following(path)
    marks = (following.uids(1), following.end())[1]
    numbers = list(range(2, 4000))
    packed = gzip.compress((header(2) + rows(*numbers)).encode())
    archived = path.with_name("conn.2.log.gz")
    archived.write_bytes(packed[: len(packed) // 2])
    path.write_text(header(3) + rows(5000))
    following = Following(path, marks)
    got = [int((uid or "")[1:]) for _ in range(2) for uid in next(following.turns).uids or ()]
    archived.write_bytes(packed)
    got += following.uids(len(numbers) + 1 - len(got))
    assert sorted(got) == [*numbers, 5000]
    assert following.skipped() == {}


def test_a_packed_log_that_stays_broken_is_counted_and_not_read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zeek_follow, "SEARCH_S", 0.003)
    path.write_text(header(1) + rows(1))
    following = Following(path)
    marks = (following.uids(1), following.end())[1]
    packed = gzip.compress((header(2) + rows(*range(2, 4000))).encode())
    path.with_name("conn.2.log.gz").write_bytes(packed[: len(packed) // 2])
    path.write_text(header(3) + rows(5000))
    following = Following(path, marks)
    got = [uid for _ in range(30) for uid in next(following.turns).uids or ()]
    assert len(got) == len(set(got)) > 1000
    assert following.skipped()["rows_skipped.compression"] == 1


def test_a_log_that_is_cut_is_read_from_its_beginning(path: Path) -> None:
    path.write_text(header(1) + rows(1, 2, 3))
    following = Following(path)
    assert following.uids(3) == [1, 2, 3]
    path.write_text(header(2) + rows(4))
    assert following.uids(1) == [4]
    assert [event for event, _ in following.told] == ["log_truncated"]


def test_a_log_that_was_cut_while_the_sensor_was_off_is_another_log(path: Path) -> None:
    path.write_text(header(1) + rows(1))
    following = Following(path)
    marks = (following.uids(1), following.end())[1]
    path.write_text(header(2) + rows(2, 3, 4))
    assert Following(path, marks).uids(3) == [2, 3, 4]


def test_a_log_that_is_not_there_yet_or_gone_is_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zeek_follow, "ABSENT_S", 0.003)
    folder = path.parent
    folder.rmdir()
    following = Following(path)
    assert following.uids(0) == []
    folder.mkdir()
    path.write_text(header(1) + rows(1))
    assert following.uids(1) == [1]
    assert [event for event, _ in following.told] == ["log_lost", "log_back"]
    shutil.rmtree(folder)
    assert following.uids(0) == []
    folder.mkdir()
    path.write_text(header(2) + rows(2))
    assert following.uids(1) == [2]


def test_rows_that_cannot_be_read_are_counted_by_reason_and_the_first_few_told(path: Path) -> None:
    path.write_text(header() + rows(1) + "broken\n" * 20 + row(2).replace("10.0.0.2", "300.0.0.1") + rows(3))
    following = Following(path)
    assert following.uids(2) == [1, 3]
    assert following.skipped() == {"rows_skipped.columns": 20, "rows_skipped.id.resp_h": 1}
    assert len(following.told) == zeek_follow.TOLD
    assert following.told[0] == ("row_refused", f"{path}, line 7: 1 columns where the header names 8")


def test_a_log_that_becomes_something_else_is_counted_line_by_line(path: Path) -> None:
    path.write_text(header(1) + rows(1))
    following = Following(path)
    assert following.uids(1) == [1]
    path.rename(path.with_name("conn.1.log"))
    path.write_text("#separator \\x09\n#path\tdns\n#fields\tts\tquery\n1.0\texample.org\n")
    assert following.uids(0) == []
    assert following.skipped() == {"rows_skipped.header": 1}
    path.unlink()
    path.write_bytes(gzip.compress(b"no log")[:12])
    assert following.uids(0) == []
    path.unlink()
    path.write_text(jsonl(2))
    assert following.uids(1) == [2]


def test_a_line_without_end_takes_no_memory_and_costs_no_other(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LINE_BYTES", 10_000)
    monkeypatch.setattr(zeek_tail, "READ_BYTES", 4_000)
    path.write_text(header() + rows(1) + "x" * 50_000 + "\n" + rows(2) + "y" * 30_000)
    following = Following(path)
    assert following.uids(2) == [1, 2]
    add(path, "\n" + rows(3))
    assert following.uids(1) == [3]
    assert following.skipped() == {"rows_skipped.length": 2}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"Lorem ipsum\n", "begins with neither"),
        (b"#separator \\x09\n#path\tdns\n#fields\tts\tquery\n1.0\texample.org\n", "it is a dns.log"),
        (gzip.compress(b"text\n", mtime=0), "is packed: name the log that Zeek writes to"),
        (b'{"_path":"dns","ts":1.0}\n' * 4000, "a record of dns.log"),
    ],
)
def test_a_file_that_is_no_conn_log_is_refused_in_one_line(path: Path, content: bytes, says: str) -> None:
    path.write_bytes(content)
    with pytest.raises(NotAConnLog, match=says) as refused:
        Following(path)
    assert "\n" not in str(refused.value)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotAConnLog, match=r"name the conn\.log in it"):
        Following(tmp_path)


def test_a_pipe_is_refused_and_not_waited_for(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(NotAConnLog, match="no regular file"):
        Following(path)


def test_a_packed_file_in_the_place_of_the_log_is_told_once_and_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zeek_follow, "ABSENT_S", 0.003)
    path.write_text(header(1) + rows(1))
    following = Following(path)
    assert following.uids(1) == [1]
    path.unlink()
    path.write_bytes(gzip.compress((header(2) + rows(*range(2, 3000))).encode()))
    assert following.uids(0) == []
    assert following.uids(0) == []
    assert following.told == [("log_lost", f"{path}: it is packed; waiting for Zeek to write it")]


def test_only_so_many_finished_logs_are_remembered_and_older_ones_are_not_read_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zeek_follow, "KNOWN", 3)
    path.write_text(header(1) + rows(1))
    following = Following(path)
    assert following.uids(1) == [1]
    for number in range(2, 9):
        path.rename(path.with_name(f"conn.{number}.log"))
        path.write_text(header(number) + rows(number))
        assert following.uids(1) == [number]
    marks = following.end()
    assert len(marks) <= 4
    assert Following(path, marks).uids(0) == []


STEPS = st.lists(
    st.sampled_from(["write", "part", "read", "rotate", "rotate packed", "restart", "rotate while off", "turn"]), max_size=30
)


@given(steps=STEPS, in_json=st.booleans())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whatever_happens_every_row_comes_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str], in_json: bool
) -> None:
    folder = tmp_path_factory.mktemp("zeek")
    path = folder / "conn.log"
    written = opened = 0
    cut = ""

    def begin() -> None:
        nonlocal opened
        opened += 1
        path.write_text("" if in_json else header(opened))

    def write() -> None:
        nonlocal written, cut
        written += 1
        add(path, cut + (jsonl if in_json else rows)(written))
        cut = ""

    def rotate(packed: bool) -> None:
        nonlocal cut
        add(path, cut)
        cut = ""
        old = path.rename(folder / f"conn.{opened}.log")
        begin()
        if packed:
            about = old.stat()
            old.with_name(old.name + ".gz").write_bytes(gzip.compress(old.read_bytes()))
            old.unlink()
            os.utime(old.with_name(old.name + ".gz"), ns=(about.st_atime_ns, about.st_mtime_ns))

    begin()
    write()
    following, got = Following(path), []
    got += following.uids(1)
    for step in steps:
        if step == "write":
            write()
        elif step == "part" and not cut:
            written += 1
            text = (jsonl if in_json else rows)(written)
            add(path, text[:25])
            cut = text[25:]
        elif step == "read":
            got += following.uids(written - len(got) - bool(cut))
        elif step == "turn":
            got += [int((uid or "")[1:]) for uid in next(following.turns).uids or ()]
        elif step.startswith("rotate") and step != "rotate while off":
            rotate(step == "rotate packed")
        elif step in ("restart", "rotate while off"):
            marks = following.end()
            got += following.rest
            if step == "rotate while off":
                write()
                rotate(packed=True)
                write()
            following = Following(path, marks)
    add(path, cut)
    got += following.uids(written - len(got))
    assert got == list(range(1, written + 1))
    assert following.skipped() == {}
    following.end()


def test_a_writer_that_does_not_wait_loses_nothing(path: Path) -> None:
    total, each = 30_000, 1_500
    path.write_text(header(0) + rows(0))
    following = Following(path)
    got = following.uids(1)

    def write() -> None:
        add(path, rows(*range(1, each)))
        for begin in range(each, total, each):
            path.rename(path.with_name(f"conn.{begin}.log"))
            path.write_text(header(begin // each))
            for part in range(begin, begin + each, 50):
                add(path, rows(*range(part, part + 50)))

    writer = threading.Thread(target=write)
    writer.start()
    quiet = 0
    while len(got) < total and quiet < 2000:
        batch = next(following.turns)
        got += [int((uid or "")[1:]) for uid in batch.uids or ()]
        quiet = 0 if len(batch.flows) or writer.is_alive() else quiet + 1
    writer.join()
    assert got == list(range(total))
    assert SINCE in following.source.marks
    following.end()
