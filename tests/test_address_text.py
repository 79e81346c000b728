"""Addresses and times written many at once: the same letters as the C library and Python's calendar write one by one."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor import addresses
from sensor.address_text import addresses_text, flow_ids_text, iso_text, stamps_text, twelve_hours_text

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
YEAR_1_US, YEAR_10000_US = -62_135_596_800_000_000, 253_402_300_800_000_000

groups = st.lists(st.sampled_from([0, 0, 0, 1, 0xF, 0xFFFF, 0xABC]) | st.integers(0, 0xFFFF), min_size=8, max_size=8)
times = st.integers(YEAR_1_US, YEAR_10000_US - 1)


def written(hi: int, lo: int) -> str:
    texts = addresses_text(np.array([hi], np.uint64), np.array([lo], np.uint64))
    return bytes(texts[0]).decode()


@settings(deadline=None)  # the first call compiles
@given(st.lists(groups, min_size=1, max_size=20))
def test_every_address_is_written_as_inet_ntop_writes_it(drawn: list[list[int]]) -> None:
    numbers = [sum(group << 16 * (7 - place) for place, group in enumerate(eight)) for eight in drawn]
    halves = [(number >> 64, number & 0xFFFF_FFFF_FFFF_FFFF) for number in numbers]
    hi, lo = (np.array(half, np.uint64) for half in zip(*halves, strict=True))
    assert [text.decode() for text in addresses_text(hi, lo).tolist()] == [addresses.text(*half) for half in halves]


EASILY_WRONG = """
0.0.0.1 255.255.255.255 10.0.0.1 :: ::1 ::2:0:0 1:: ::1.2.3.4 ::0.1.0.0 ::1:2:3 1:0:0:2::3 1:0:2:0:3:0:4:0 fe80::1
ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 2001:db8::1:0:0:1 ::ffff:0:1.2.3.4
"""


@pytest.mark.parametrize("address", EASILY_WRONG.split())
def test_an_address_that_is_easily_written_wrongly_is_written_right(address: str) -> None:
    hi, lo = addresses.halves(address)
    assert written(hi, lo) == addresses.text(hi, lo)
    assert ipaddress.ip_address(written(hi, lo)) == ipaddress.ip_address(address)


@settings(deadline=None)  # the first call compiles
@given(st.lists(times, min_size=1, max_size=20))
def test_times_are_those_of_the_calendar(drawn: list[int]) -> None:
    ts_us = np.array(drawn, np.int64)
    known = [EPOCH + timedelta(microseconds=time) for time in drawn]
    assert [text.decode() for text in iso_text(ts_us).tolist()] == [
        f"{time.year:04}-{time:%m-%dT%H:%M:%S.%f}Z" for time in known
    ]
    assert [text.decode() for text in twelve_hours_text(ts_us).tolist()] == [
        f"{time:%d/%m/}{time.year:04} {time:%I:%M:%S} {'AM' if time.hour < 12 else 'PM'}" for time in known
    ]


@pytest.mark.parametrize(
    ("ts_us", "text"),
    [
        (1_499_443_190_315_195, "2017-07-07 15:59:50.315195"),
        (1_499_443_190_315_000, "2017-07-07 15:59:50.315"),
        (1_499_443_190_000_000, "2017-07-07 15:59:50"),
        (1_499_443_190_000_001, "2017-07-07 15:59:50.000001"),
        (951_782_400_005_000, "2000-02-29 00:00:00.005"),
        (-1, "1969-12-31 23:59:59.999999"),
    ],
)
def test_a_fraction_has_none_three_or_six_digits(ts_us: int, text: str) -> None:
    assert bytes(stamps_text(np.array([ts_us]))[0]).decode() == text


def test_any_64_bit_time_has_a_text() -> None:
    ends = np.array([np.iinfo(np.int64).min + 1, np.iinfo(np.int64).max])
    assert [text.decode() for text in iso_text(ends).tolist()] == [f"{time}Z" for time in ends.astype("datetime64[us]")]
    assert bytes(iso_text(np.array([np.iinfo(np.int64).min]))[0]).endswith(b"Z")


def test_the_twelfth_hours_are_noon_and_midnight() -> None:
    texts = twelve_hours_text(np.array([0, 12 * 3600, 13 * 3600]) * 1_000_000)
    assert texts.tolist() == [b"01/01/1970 12:00:00 AM", b"01/01/1970 12:00:00 PM", b"01/01/1970 01:00:00 PM"]


def test_no_rows_give_no_texts() -> None:
    assert len(addresses_text(np.zeros(0, np.uint64), np.zeros(0, np.uint64))) == len(stamps_text(np.zeros(0, np.int64))) == 0


def test_a_flow_s_key_joins_hosts_ports_and_protocol() -> None:
    src, dst = np.array([b"10.0.0.1", b"2001:db8::1"]), np.array([b"10.0.0.200", b"::"])
    numbers = [np.array(pair) for pair in ([4000, 65535], [53, 0], [17, 255])]
    assert flow_ids_text(src, dst, *numbers).tolist() == [b"10.0.0.1-10.0.0.200-4000-53-17", b"2001:db8::1-::-65535-0-255"]


def test_the_longest_key_has_room() -> None:
    longest = np.array([b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"])
    key = flow_ids_text(longest, longest, np.array([65535]), np.array([65535]), np.array([255]))[0]
    assert key == b"-".join([longest[0], longest[0], b"65535", b"65535", b"255"])
