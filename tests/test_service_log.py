"""The sensor's log: what is written in both forms, what is left out and counted, and what cannot hold it up."""

from __future__ import annotations

import datetime
import json
import os
import pty
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor import metrics
from sensor.service_log import CHUNK_BYTES, DISTINCT, TEXT_CHARACTERS, TOLD, WINDOW_S, WINDOWS, Repeats, open_log, to_journal

FOREIGN = "\x1b[31m\x9b2J\x07\r\n\u202e\udcff\x7f"
"""Text that would colour, clear, ring, overwrite and turn around a terminal, with a byte that is no UTF-8."""


class Pipe:
    """A pipe whose reading end is read when asked."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        os.set_blocking(self.reading, False)

    def text(self) -> str:
        found = b""
        try:
            while more := os.read(self.reading, 1 << 20):
                found += more
        except BlockingIOError:
            pass
        return found.decode()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines()]

    def close(self) -> None:
        os.close(self.reading)
        os.close(self.writing)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_a_line_for_programs_holds_utc_time_level_event_and_fields(pipe: Pipe) -> None:
    before = datetime.datetime.now(datetime.UTC)
    open_log("info", fd=pipe.writing).warning("disk full", path=Path("/var/log"), bytes=np.int64(3), share=np.float32(0.5))
    (line,) = pipe.lines()
    assert list(line) == ["ts", "level", "event", "path", "bytes", "share"]
    assert (line["level"], line["event"], line["path"]) == ("warning", "disk full", "/var/log")
    assert (line["bytes"], line["share"]) == (3, 0.5)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line["ts"])
    assert before <= datetime.datetime.fromisoformat(line["ts"]) <= datetime.datetime.now(datetime.UTC)


def test_what_json_has_no_word_for_is_text(pipe: Pipe) -> None:
    open_log("info", fd=pipe.writing).info("odd", nan=float("nan"), inner={1: [float("inf"), {2}]}, flag=True, none=None)
    (line,) = pipe.lines()
    assert line["nan"] == "nan"
    assert line["inner"] == {"1": ["inf", [2]]}
    assert (line["flag"], line["none"]) == (True, None)


def test_a_field_cannot_pass_for_the_time_or_level(pipe: Pipe) -> None:
    open_log("info", fd=pipe.writing).error("x", **{"ts": "1970", "level": "debug"})
    (line,) = pipe.lines()
    assert (line["level"], line["ts"][:2]) == ("error", "20")


def test_below_the_level_nothing_is_told(pipe: Pipe) -> None:
    log = open_log("warning", fd=pipe.writing)
    log.debug("a")
    log.info("b")
    log.warning("c")
    assert [line["event"] for line in pipe.lines()] == ["c"]
    with pytest.raises(ValueError, match="known are debug, info, warning, error"):
        open_log("loud", fd=pipe.writing)


def test_an_exception_is_told_with_its_traceback(pipe: Pipe) -> None:
    log = open_log("info", fd=pipe.writing)
    try:
        raise OSError(f"no such thing{FOREIGN}")
    except OSError as error:
        log.exception("went wrong")
        log.error("went wrong", exc_info=error)
    for line in pipe.lines():
        assert line["exception"].startswith("Traceback")
        assert f"OSError: no such thing{FOREIGN}" in line["exception"]


def test_the_journal_gets_syslogs_levels(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    status = os.fstat(pipe.writing)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    log = open_log("debug", fd=pipe.writing)
    for level in ("debug", "info", "warning", "error", "critical"):
        getattr(log, level)("event")
    lines = pipe.text().splitlines()
    assert [line[:3] for line in lines] == ["<7>", "<6>", "<4>", "<3>", "<2>"]
    assert all(json.loads(line[3:])["event"] == "event" for line in lines)


def test_a_stream_that_is_not_the_journals_gets_no_prefix(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    open_log("info", fd=pipe.writing).info("event")
    assert pipe.text().startswith("{")
    monkeypatch.delenv("JOURNAL_STREAM")
    assert not to_journal(pipe.writing)
    assert not to_journal(9999)


def test_a_person_gets_colours_at_a_terminal_and_no_control_character_of_foreign_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    master, slave = pty.openpty()
    try:
        open_log("info", fd=slave).warning(f"odd {FOREIGN}", path=FOREIGN, inner=[FOREIGN], exception=f"one\ntwo{FOREIGN}")
        told = os.read(master, 1 << 16).decode()
    finally:
        os.close(master)
        os.close(slave)
    colour = re.compile(r"\x1b\[\d+(?:;\d+)*m")
    assert colour.search(told), "no colours"
    bare = colour.sub("", told).replace("\r\n", "\n")
    assert all(line.isprintable() for line in bare.splitlines())
    assert "\\u001b[31m\\u009b2J\\u0007\\u000d\\u000a\\u202e\\udcff\\u007f" in bare
    assert [line[:4] for line in bare.splitlines()[1:]] == ["    "] * 3  # the exception's, one of them foreign


def test_no_color_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    master, slave = pty.openpty()
    try:
        open_log("info", fd=slave).warning("plain", path="x")
        told = os.read(master, 1 << 16).decode()
    finally:
        os.close(master)
        os.close(slave)
    assert "\x1b" not in told
    assert "plain" in told


@given(st.text(max_size=30), st.dictionaries(st.sampled_from("abc"), st.text(st.characters(), max_size=30)))
def test_any_text_is_one_printable_line_that_reads_back_the_same(event: str, fields: dict[str, str]) -> None:
    pipe = Pipe()
    try:
        open_log("info", fd=pipe.writing).info(event.replace("%", ""), **fields)
        text = pipe.text()
    finally:
        pipe.close()
    assert text.endswith("\n")
    assert text[:-1].isprintable()
    line = json.loads(text)
    assert {name: line[name] for name in fields} == fields


def test_a_long_text_is_cut_in_its_middle(pipe: Pipe) -> None:
    open_log("info", fd=pipe.writing).info("long", text="a" * TEXT_CHARACTERS + "b" * TEXT_CHARACTERS)
    (line,) = pipe.lines()
    assert len(line["text"]) < TEXT_CHARACTERS + 50
    assert re.fullmatch(rf"a+ \[{TEXT_CHARACTERS} characters left out\] b+", line["text"])


def test_what_repeats_is_told_some_times_and_then_counted(pipe: Pipe) -> None:
    clock = Clock()
    repeats = Repeats(clock)
    log = open_log("info", repeats=repeats, fd=pipe.writing)
    for number in range(TOLD + 7):
        log.warning("disk full", sink="alerts", waiting=number)
    assert [line["waiting"] for line in pipe.lines()] == list(range(TOLD))
    assert repeats.counters() == {"log_lines_suppressed": 7, "log_lines_lost": 0}
    clock.now_s += WINDOW_S - 1
    repeats.tick()
    assert pipe.lines() == []
    clock.now_s += 1
    repeats.tick()
    (line,) = pipe.lines()
    assert (line["level"], line["event"], line["of"], line["sink"]) == ("warning", "repeated", "disk full", "alerts")
    assert (line["times"], line["seconds"]) == (7, WINDOW_S)
    log.warning("disk full", sink="alerts")
    assert [line["event"] for line in pipe.lines()] == ["disk full"]


def test_the_next_event_tells_what_was_left_out_before_it(pipe: Pipe) -> None:
    clock = Clock()
    log = open_log("info", repeats=Repeats(clock), fd=pipe.writing)
    for _ in range(TOLD + 1):
        log.error("a")
    clock.now_s += WINDOW_S
    log.info("b")
    assert [line["event"] for line in pipe.lines()] == ["a"] * TOLD + ["repeated", "b"]


def test_events_about_different_things_or_of_different_levels_are_told_apart(pipe: Pipe) -> None:
    repeats = Repeats()
    log = open_log("info", repeats=repeats, fd=pipe.writing)
    for _ in range(TOLD):
        log.warning("down", interface="eth0")
        log.warning("down", interface="eth1")
        log.error("down", interface="eth0")
    assert repeats.suppressed == 0
    assert len(pipe.lines()) == 3 * TOLD


def test_an_event_about_too_many_things_is_bounded_and_so_is_what_is_remembered(pipe: Pipe) -> None:
    repeats = Repeats(Clock())
    log = open_log("info", repeats=repeats, fd=pipe.writing)
    for number in range(1000):
        log.warning("damaged", path=f"/spool/{number}")
    assert len(pipe.lines()) == DISTINCT + TOLD - 1 + 1
    assert repeats.suppressed == 1000 - DISTINCT - TOLD
    for number in range(3 * WINDOWS):
        log.warning(f"event {number}")
        pipe.text()
    assert repeats.suppressed > WINDOWS
    repeats.finish()
    assert sum(line["times"] for line in pipe.lines()) == repeats.suppressed


def test_a_log_opened_anew_goes_on_counting(pipe: Pipe) -> None:
    repeats = Repeats(Clock())
    for level in ("info", "debug"):
        log = open_log(level, repeats=repeats, fd=pipe.writing)
        for _ in range(TOLD):
            log.info("same")
    assert len(pipe.lines()) == TOLD
    assert repeats.suppressed == TOLD


def test_a_reader_that_stalls_costs_lines_and_no_time(pipe: Pipe) -> None:
    repeats = Repeats()
    log = open_log("info", repeats=repeats, fd=pipe.writing)
    begun_s = time.monotonic()
    for number in range(200):
        log.info(f"event {number}", text="x" * 3000)  # a pipe holds 64 KiB of these 600
    assert time.monotonic() - begun_s < 5
    assert repeats.lost > 100
    whole = [line for line in pipe.text().splitlines() if line.endswith("}")]
    assert len(whole) == 200 - repeats.lost
    log.info("after")
    (line,) = [line for line in pipe.text().splitlines() if line]
    assert json.loads(line)["event"] == "after"


def test_a_line_that_was_taken_in_part_does_not_spoil_the_next(pipe: Pipe) -> None:
    repeats = Repeats()
    log = open_log("info", repeats=repeats, fd=pipe.writing)
    os.write(pipe.writing, b"." * ((1 << 16) - CHUNK_BYTES))  # room for one chunk, and no more
    log.info("long", one="x" * 3500, two="y" * 3500)
    assert repeats.lost == 1
    assert pipe.text().strip(".").startswith('{"ts"')
    log.info("next")
    assert [json.loads(line)["event"] for line in pipe.text().split("\n") if line] == ["next"]


def test_a_reader_that_is_gone_is_no_reason_to_stop() -> None:
    reading, writing = os.pipe()
    repeats = Repeats()
    log = open_log("info", repeats=repeats, fd=writing)
    os.close(reading)
    log.info("nobody")
    os.close(writing)
    log.info("nowhere")
    assert repeats.counters() == {"log_lines_suppressed": 0, "log_lines_lost": 2}


def test_a_signal_handler_may_log_while_its_thread_does(pipe: Pipe) -> None:
    class Interrupted(Clock):
        raised = False

        def __call__(self) -> float:
            if not self.raised:
                self.raised = True
                signal.raise_signal(signal.SIGUSR2)
            return super().__call__()

    log = open_log("info", repeats=Repeats(Interrupted()), fd=pipe.writing)
    before = signal.signal(signal.SIGUSR2, lambda *_: log.info("signal"))
    try:
        log.info("interrupted")
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert sorted(line["event"] for line in pipe.lines()) == ["interrupted", "signal"]


def test_lines_of_many_threads_are_whole(pipe: Pipe) -> None:
    repeats = Repeats()
    log = open_log("info", repeats=repeats, fd=pipe.writing)
    threads = [threading.Thread(target=lambda k=k: [log.info(f"{k} {n}", text="x" * 500) for n in range(20)]) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(pipe.lines()) == 80
    assert repeats.counters() == {"log_lines_suppressed": 0, "log_lines_lost": 0}


def test_what_the_log_leaves_out_has_counters() -> None:
    assert all(metrics.split(name)[0].name == name for name in Repeats().counters())
