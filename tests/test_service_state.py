"""The state on disk: a sensor that was stopped and started goes on as if it never had been, and no file can do it harm."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from test_engine import SLOTS, SMALL, calibrated, flows, model
from test_engine_flows import multiflow

from models.checkpoint import Bundle
from models.multiflow_checkpoint import FlowBundle
from sensor import config
from sensor.conversations import HOUR_US
from sensor.engine import Judge
from sensor.flows import copied
from sensor.schema import CONN_STATES, FLOW, TCP, V4_MAPPED, Alert, FlowBatch
from sensor.service_state import HEAD_BYTES, StateRefused, set_aside, take, take_up, write

BATCH = 32
MODELS = pytest.mark.parametrize("last_flows", [None, "pair", "host"])


def judge(table: int = SLOTS, *, words: Bundle | None = None, last_flows: str | None = None) -> Judge:
    """A judge with a table that may be smaller than a sensor's: the traffic has 52 pairs of hosts."""
    settings = config.load(None, SMALL)
    settings = msgspec.structs.replace(settings, conversations=config.Conversations(table=table))
    flow_bundle: FlowBundle | None = multiflow(last_flows) if last_flows else None
    return Judge(settings, words or model(), flow_bundle, device=torch.device("cpu"))


@cache
def uninterrupted(last_flows: str | None = None) -> list[Alert]:
    """The alerts of a sensor that never stops."""
    return judged(judge(last_flows=last_flows), batches())


def batches() -> list[FlowBatch]:
    return [FlowBatch(flows()[at : at + BATCH]) for at in range(0, len(flows()), BATCH)]


def half() -> int:
    return len(batches()) // 2


def judged(one: Judge, some: list[FlowBatch]) -> list[Alert]:
    return [alert for batch in some for alert in one.judge(batch)]


def saved(path: Path, some: list[FlowBatch] | None = None, table: int = SLOTS, *, last_flows: str | None = None) -> Path:
    """The state of a sensor after these batches, the first half unless told."""
    one = judge(table, last_flows=last_flows)
    judged(one, batches()[: half()] if some is None else some)
    write(path / "state", take(one, {"learner": {"hours": 3}}))
    return path / "state"


@MODELS
def test_a_restart_changes_no_alert_and_no_counter(tmp_path: Path, last_flows: str | None) -> None:
    whole = judge(last_flows=last_flows)
    expected = judged(whole, batches())
    before, after = judge(last_flows=last_flows), judge(last_flows=last_flows)
    alerts = judged(before, batches()[: half()])
    assert 0 < len(alerts) < len(expected)
    write(tmp_path / "state", take(before, {}))
    take_up(tmp_path / "state", after)
    assert after.counters() == before.counters()
    assert alerts + judged(after, batches()[half() :]) == expected
    assert after.counters() == whole.counters()


def test_any_number_of_restarts_changes_no_alert(tmp_path: Path) -> None:
    one, alerts = judge(last_flows="pair"), list[Alert]()
    for batch in batches():
        alerts += one.judge(batch)
        write(tmp_path / "state", take(one, {}))
        one = judge(last_flows="pair")
        take_up(tmp_path / "state", one)
    assert alerts == uninterrupted("pair")


def test_the_state_of_a_sensor_that_saw_nothing_is_taken_up(tmp_path: Path) -> None:
    path, after = saved(tmp_path, [], last_flows="host"), judge(last_flows="host")
    take_up(path, after)
    assert judged(after, batches()) == uninterrupted("host")


def test_what_was_kept_beside_comes_back(tmp_path: Path) -> None:
    assert take_up(saved(tmp_path), judge()) == {"learner": {"hours": 3}}


def test_a_snapshot_is_of_its_moment_whatever_is_judged_while_it_is_written(tmp_path: Path) -> None:
    one = judge(last_flows="pair")
    alerts = judged(one, batches()[: half()])
    counters, snapshot = one.counters(), take(one, {})
    writer = threading.Thread(target=write, args=(tmp_path / "state", snapshot))
    writer.start()
    judged(one, batches()[half() :])
    writer.join(60)
    after = judge(last_flows="pair")
    take_up(tmp_path / "state", after)
    assert after.counters() == counters
    assert alerts + judged(after, batches()[half() :]) == uninterrupted("pair")


@MODELS
def test_a_larger_table_changes_no_alert(tmp_path: Path, last_flows: str | None) -> None:
    told: list[str] = []
    after = judge(4 * SLOTS, last_flows=last_flows)
    take_up(saved(tmp_path, last_flows=last_flows), after, tell=told.append)
    assert told == []
    alerts = judged(after, batches()[half() :])
    assert [alert.ts_us for alert in alerts] == [alert.ts_us for alert in uninterrupted(last_flows)][-len(alerts) :]


def test_a_smaller_table_keeps_the_conversations_used_last(tmp_path: Path) -> None:
    told: list[str] = []
    before, after = judge(), judge(16)
    judged(before, batches())
    live = before.conversations.live
    assert live > 16
    write(tmp_path / "state", take(before, {}))
    take_up(tmp_path / "state", after, tell=told.append)
    assert told == [f"{live - 16} of {live} pairs are forgotten: conversations.table is 16 now"]
    assert after.counters()["conversations_evicted"] == live - 16
    assert after.detector.untold == before.detector.untold
    assert after.detector.suppressed == before.detector.suppressed
    ends = np.sort(
        np.stack([flows()[f"{end}_{part}"] for part in ("hi", "lo") for end in ("src", "dst")], axis=1)
        .view(np.uint64)
        .reshape(-1, 2, 2),
        axis=2,
    )
    seen: dict[bytes, int] = {}
    for row, pair in enumerate(ends):
        seen.pop(pair.tobytes(), None)
        seen[pair.tobytes()] = row
    latest = sorted(list(seen.values())[-16:])
    again = after.conversations.turn(flows()[latest])
    assert not again.restart.any()
    forgotten = judge(16)
    take_up(tmp_path / "state", forgotten)
    assert forgotten.conversations.turn(flows()[sorted(seen.values())[:1]]).restart.all()


def test_a_table_that_shrank_evicts_in_the_old_order_of_use(tmp_path: Path) -> None:
    small = 16
    path = saved(tmp_path, None, small)  # so full that every new pair takes a slot
    after, whole = judge(small), judge(small)
    take_up(path, after)
    expected = judged(whole, batches())
    alerts = judged(after, batches()[half() :])
    assert alerts == expected[-len(alerts) :]
    assert after.counters() == whole.counters()
    assert whole.counters()["conversations_evicted"] > 0


def test_quiet_times_and_the_rate_outlive_a_restart(tmp_path: Path) -> None:
    before, after = judge(), judge()
    assert judged(before, batches())
    write(tmp_path / "state", take(before, {}))
    take_up(tmp_path / "state", after)
    assert after.detector.rate() == before.detector.rate()
    assert after.detector.conversation_hours == before.detector.conversation_hours
    assert judged(after, batches()) == judged(before, batches())
    assert after.counters() == before.counters()


def sweep(at_us: int) -> FlowBatch:
    """One host that tries 150 others within a second, and gets no answer."""
    rows = np.zeros(150, FLOW)
    rows["src_lo"], rows["dst_lo"] = V4_MAPPED + 7, V4_MAPPED + (10 << 24) + np.arange(150)
    rows["protocol"], rows["dst_port"], rows["conn_state"] = TCP, 445, CONN_STATES.index("S0")
    rows["first_us"] = rows["last_us"] = at_us + np.arange(150) * 1000
    return FlowBatch(rows)


def test_quiet_times_of_fixed_rules_outlive_a_restart(tmp_path: Path) -> None:
    start_us = int(flows()["last_us"].max())
    before, after, fresh = judge(), judge(), judge()

    def swept(one: Judge, at_us: int) -> int:
        return len([alert for alert in one.judge(sweep(at_us)) if alert.signature == "NetSeq::Sweep"])

    assert swept(before, start_us) == 1
    write(tmp_path / "state", take(before, {}))
    take_up(tmp_path / "state", after)
    assert after.counters() == before.counters()
    assert (swept(after, start_us + 600_000_000), swept(fresh, start_us + 600_000_000)) == (0, 1)
    assert swept(after, start_us + 3_700_000_000) == 1


def moved(by_us: int) -> list[FlowBatch]:
    """All flows at another time, whole hours away."""
    rows = copied(flows())
    for name in ("first_us", "last_us"):
        rows[name] += by_us // HOUR_US * HOUR_US
    return [FlowBatch(rows[at : at + BATCH]) for at in range(0, len(rows), BATCH)]


def test_a_clock_that_was_ahead_before_a_restart_silences_no_conversation(tmp_path: Path) -> None:
    now_us = time.time_ns() // 1000 - int(flows()["last_us"].max())
    one = judge()
    assert judged(one, moved(now_us + 12 * HOUR_US))
    write(tmp_path / "state", take(one, {}))
    told: list[str] = []
    live, held = judge(), judge()
    take_up(tmp_path / "state", live, tell=told.append)
    take_up(tmp_path / "state", held, live=False)
    (line,) = told
    assert line == f"{live.conversations.live} pairs were last heard of in what is the future now: the clock was set back"
    alerted = {(alert.src, alert.dest) for alert in uninterrupted()}
    later = {(alert.src, alert.dest) for alert in judged(live, moved(now_us))}
    assert later == alerted
    assert len({(alert.src, alert.dest) for alert in judged(held, moved(now_us))}) < len(alerted)


def test_times_of_the_present_are_left_as_they_are(tmp_path: Path) -> None:
    now = moved(time.time_ns() // 1000 - int(flows()["last_us"].max()))
    one, after, told = judge(), judge(), list[str]()
    alerts = judged(one, now[: half()])
    write(tmp_path / "state", take(one, {}))
    take_up(tmp_path / "state", after, tell=told.append)
    assert told == []
    assert alerts + judged(after, now[half() :]) == judged(judge(), now)


def signed(body: bytes, form: int = 1) -> bytes:
    """A state with this body, and a first line that belongs to it."""
    line = f"netseq-state {form} {hashlib.sha256(body).hexdigest()} {len(body)}"
    return f"{line:<{HEAD_BYTES - 1}}\n".encode() + body


def edited(content: bytes, old: bytes, new: bytes) -> bytes:
    """A state whose header says something else, signed anew."""
    body = content[HEAD_BYTES:]
    end = 8 + int.from_bytes(body[:8], "little")
    header = body[8:end]
    assert old in header
    header = header.replace(old, new, 1)
    return signed(len(header).to_bytes(8, "little") + header + body[end:])


def without_arrays(content: bytes) -> bytes:
    end = HEAD_BYTES + 8 + int.from_bytes(content[HEAD_BYTES : HEAD_BYTES + 8], "little")
    return signed(content[HEAD_BYTES:end])


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


Spoils = Callable[[bytes], bytes]
HUGE = b"9223372036854775807,4611686018427387904"
DAMAGE: dict[str, tuple[Spoils, str]] = {
    "empty": (lambda content: content[:0], "it is empty"),
    "text": (lambda content: b"conversations = 3\n" * len(content), "no state of netseq"),
    "zeros": (lambda content: bytes(len(content)), "no state of netseq"),
    "safetensors": (lambda content: content[HEAD_BYTES:], "no state of netseq"),
    "cut in the first line": (lambda content: content[:100], "cut short"),
    "cut behind it": (lambda content: content[:HEAD_BYTES], "bytes where it says"),
    "cut": (lambda content: content[:-1], "bytes where it says"),
    "longer": (lambda content: content + b"\0", "bytes where it says"),
    "format": (lambda content: signed(content[HEAD_BYTES:], 2), "it has the format '2', this netseq .* reads 1"),
    "flip in the hash": (lambda content: flipped(content, 20), "damaged"),
    "flip in the header": (lambda content: flipped(content, HEAD_BYTES + 30), "damaged"),
    "flip in an array": (lambda content: flipped(content, len(content) - 1000), "damaged"),
    "huge header": (lambda content: signed(b"\xff" * 7 + b"\x7f" + content[HEAD_BYTES + 8 :]), "its header would have"),
    "no header": (lambda content: signed(b"\2" + bytes(7) + content[:0] + b"{}"), "its header is none of this netseq"),
    "header of text": (lambda content: signed(b"\4" + bytes(7) + content[:4]), "its header is none of this netseq"),
    "no arrays": (without_arrays, "what cannot be"),
}
EDITS = {
    "an array too large": (b'"shape":[5]', b'"shape":[' + HUGE + b"]", "what cannot be"),
    "an array of another type": (b'"I64"', b'"C64"', "what cannot be"),
    "an array elsewhere": (b'"data_offsets":[0,', b'"data_offsets":[-8,', "what cannot be"),
    "an array missing": (b'"pairs.counters"', b'"pairs.somewhat"', "pairs.counters is missing"),
    "an array of another shape": (b'"shape":[5]', b'"shape":[1,5]', r"int64 \[1, 5\], wanted is int64 \[5\]"),
    "numbers of another type": (b'"I64"', b'"F64"', "pairs.counters is float64"),
    "another layout": (b'layout\\":\\"1 ', b'layout\\":\\"2 ', "laid out in another way"),
    "no word model": (b'\\"words\\":{\\"model', b'\\"wards\\":{\\"model', "of no word model"),
}
"""What is changed in the header of a state, whose hash is right all the same."""


@pytest.mark.parametrize("damage", [*DAMAGE, *EDITS])
def test_a_file_that_is_no_state_is_refused_in_one_line_and_changes_nothing(tmp_path: Path, damage: str) -> None:
    path = saved(tmp_path)
    if damage in EDITS:
        old, new, said = EDITS[damage]
        path.write_bytes(edited(path.read_bytes(), old, new))
    else:
        spoil, said = DAMAGE[damage]
        path.write_bytes(spoil(path.read_bytes()))
    one = judge()
    with pytest.raises(StateRefused, match=said) as refusal:
        take_up(path, one)
    assert str(refusal.value).startswith(f"{path}: ")
    assert "\n" not in str(refusal.value)
    assert not any(one.counters().values())
    assert judged(one, batches()) == uninterrupted()


def test_every_flipped_bit_of_the_first_line_and_header_is_noticed(tmp_path: Path) -> None:
    path, one = saved(tmp_path), judge()
    content = path.read_bytes()
    random = np.random.default_rng(1)
    places = {*range(90), *random.integers(0, len(content), 60).tolist()}  # up to the padding of the first line
    for at in sorted(places):
        if HEAD_BYTES - 45 < at < HEAD_BYTES - 1:
            continue
        path.write_bytes(flipped(content, at))
        with pytest.raises(StateRefused):
            take_up(path, one)


def test_rows_that_are_no_list_are_refused_though_the_hash_is_right(tmp_path: Path) -> None:
    """Their links are indices that compiled code would follow without a look at the table's end."""
    path = saved(tmp_path)
    content = path.read_bytes()
    data = HEAD_BYTES + 8 + int.from_bytes(content[HEAD_BYTES : HEAD_BYTES + 8], "little")
    for link in (b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\xfe\xff\xff\xff"):
        newer = data + 88 * 3 + 68  # of the fourth row of pairs, which come first
        path.write_bytes(signed(content[HEAD_BYTES:newer] + link + content[newer + 4 :]))
        one = judge()
        with pytest.raises(StateRefused, match="do not form one list"):
            take_up(path, one)
        assert not any(one.counters().values())


def test_another_model_is_refused_and_what_else_was_kept_is_told(tmp_path: Path) -> None:
    weights = dataclasses.replace(model().weights, bias=model().weights.bias + 1)
    manifest = msgspec.structs.replace(model().manifest, name="office", version="7")
    with pytest.raises(StateRefused, match=r"it is of the model example 1, .* this one, office 7") as refusal:
        take_up(saved(tmp_path), judge(words=dataclasses.replace(model(), weights=weights, manifest=manifest)))
    assert refusal.value.more == {"learner": {"hours": 3}}


def test_a_model_calibrated_anew_or_renamed_goes_on(tmp_path: Path) -> None:
    renamed = dataclasses.replace(model(), manifest=msgspec.structs.replace(model().manifest, version="2"))
    after = judge(words=calibrated(renamed, model().calibration.verdicts))
    take_up(saved(tmp_path), after)
    assert after.conversations.live > 0


def test_another_version_of_netseq_with_the_same_layout_is_taken_up(tmp_path: Path) -> None:
    path = saved(tmp_path)
    path.write_bytes(edited(path.read_bytes(), b'"netseq":"', b'"netseq":"7.'))
    after, whole = judge(), judge()
    take_up(path, after)
    alerts = judged(after, batches()[half() :])
    assert alerts == judged(whole, batches())[-len(alerts) :]


def test_a_multi_flow_model_that_came_or_went_leaves_the_word_model_its_state(tmp_path: Path) -> None:
    came: list[str] = []
    with_flows = judge(last_flows="pair")
    take_up(saved(tmp_path), with_flows, tell=came.append)
    assert came == ["last-flows 1 begins without memory: no such model ran before"]
    went: list[str] = []
    without = judge()
    take_up(saved(tmp_path, last_flows="host"), without, tell=went.append)
    assert went == ["last-flows 1 is not used any more: what it remembered is gone"]
    words = uninterrupted()
    for after in (with_flows, without):
        alerts = [alert for alert in judged(after, batches()[half() :]) if alert.model == "example 1"]
        assert [alert.ts_us for alert in alerts] == [alert.ts_us for alert in words][-len(alerts) :]


def test_no_state_is_told_from_a_bad_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        take_up(tmp_path / "state", judge())


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(StateRefused, match=rf"{name}: it (is no file|cannot be read \(Is a directory\))$"):
            take_up(tmp_path / name, judge())


def test_a_refused_state_is_set_aside_and_three_are_kept(tmp_path: Path) -> None:
    places = []
    for number in range(5):
        (tmp_path / "state").write_text(str(number))
        places.append(set_aside(tmp_path / "state"))
    assert all(place.name.startswith("state.refused-20") for place in places)
    assert sorted(tmp_path.iterdir()) == sorted(places[-3:])
    assert [place.read_text() for place in places[-3:]] == ["2", "3", "4"]


@contextlib.contextmanager
def files_at_most(size: int) -> Iterator[None]:
    """Let no file grow beyond this: a full disk's write fails in the same place."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_fails_leaves_the_old_state_and_nothing_else(tmp_path: Path) -> None:
    path, one = saved(tmp_path), judge()
    before = path.read_bytes()
    judged(one, batches())
    with files_at_most(len(before) // 2), pytest.raises(OSError) as failed:  # noqa: PT011  # its number is asked below
        write(path, take(one, {}))
    assert failed.value.errno == errno.EFBIG
    assert [other.name for other in tmp_path.iterdir()] == ["state"]
    assert path.read_bytes() == before


def test_a_folder_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "gone" / "state", take(judge(), {}))


def test_a_state_is_for_its_owner_alone_and_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "state.new").symlink_to(tmp_path / "victim")
    path = saved(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "victim").read_text() == "precious"


def many(count: int) -> FlowBatch:
    """One flow each of so many pairs of hosts."""
    rows = np.zeros(count, FLOW)
    rows["src_lo"], rows["dst_lo"] = np.arange(count) + (1 << 20), 7
    rows["first_us"] = rows["last_us"] = 1_700_000_000_000_000 + np.arange(count)
    return FlowBatch(rows)


@pytest.mark.slow
def test_a_full_table_is_copied_in_less_than_150_ms(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    one = judge(65_536, last_flows="host")
    for at in range(0, 65_536, 2048):
        one.judge(FlowBatch(many(65_536).flows[at : at + 2048]))
    assert one.conversations.live == 65_536
    take(one, {})  # what is done once: the models' digests
    seconds = []
    for _ in range(5):
        since_s = time.perf_counter()
        snapshot = take(one, {})
        seconds.append(time.perf_counter() - since_s)
    write(tmp_path / "state", snapshot)
    size = (tmp_path / "state").stat().st_size
    record_property("told", f"65,536 conversations copied in {min(seconds) * 1e3:.0f} ms, {size / 1e6:.0f} MB")
    assert min(seconds) < 0.15
