"""The events that netseq writes for Zeek, against frames that a real Zeek sent and messages that a real Zeek told of."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zeek_frames import decode, frames
from zeek_frames import event as read

from sensor.sinks.zeek_event import Address, Count, Port, Real, Serialiser, Text, Value, Vector, event, varbyte

SERIALISERS = get_args(Serialiser)
RUNS = {"broker-bin-v1": "events-broker-bin-v1", "broker-json-v1": "events-broker-json-v1"}
IPS = st.ip_addresses().map(str)


def golden(shared_data: Path, serialiser: str) -> Path:
    return shared_data / "golden/zeek-zeromq" / RUNS[serialiser]


@pytest.mark.parametrize("serialiser", SERIALISERS)
def test_an_event_of_one_string_is_byte_for_byte_what_a_real_zeek_sent(shared_data: Path, serialiser: Serialiser) -> None:
    compared = 0
    for _, _, told, payload in frames(golden(shared_data, serialiser) / "frames.bin"):
        assert told == serialiser.encode()
        name, arguments = read(payload, told)
        if name == "NetSeq::conn_json":
            assert event(name, [Text(arguments[0][1])], serialiser) == payload
            compared += 1
    assert compared == 23


@pytest.mark.parametrize("serialiser", SERIALISERS)
def test_addresses_ports_counts_and_strings_are_those_of_a_real_zeeks_records(
    shared_data: Path, serialiser: Serialiser
) -> None:
    folder = golden(shared_data, serialiser)
    rows = {}
    for line in (folder / "conn.log").read_text().splitlines():
        if not line.startswith("#"):
            cells = line.split("\t")
            rows[cells[1]] = cells
    compared = 0
    for _, _, told, payload in frames(folder / "frames.bin"):
        name, arguments = read(payload, told)
        if name != "NetSeq::conn_rec":
            continue
        record = [value for _, value in arguments[0][1]]
        row = rows[record[1]]
        ends: list[Value] = [Address(row[2]), Port(int(row[3]), row[6]), Address(row[4]), Port(int(row[5]), row[6])]
        written = event("x", [Text(row[1]), *ends, Count(int(row[16]))], serialiser)
        values = read(written, told)[1]
        assert [value for _, value in values] == [record[1], *(value for _, value in record[2][:4]), record[13]]
        for value in values[1:5]:
            assert value in arguments[0][1][2][1]
        if serialiser == "broker-bin-v1":  # the four lie side by side in Zeek's frame, too
            assert event("x", ends, serialiser).partition(b"\x05\x01x\x0e\x04")[2] in payload
        compared += 1
    assert compared == 23


def test_an_alert_that_a_real_zeek_understood_is_written_to_the_same_bytes(shared_data: Path) -> None:
    log = (shared_data / "golden/zeek-zeromq/malformed-input-errors/reporter.log").read_text()
    (told,) = (line for line in log.splitlines() if "trunc" in line)  # the same alert as the good one, its end cut off
    escaped = told.partition("netseq.alert: ")[2].split("\t")[0].encode()
    seen = re.sub(rb"\\\\x([0-9a-f]{2})", lambda found: bytes.fromhex(found[1].decode()), escaped)
    ends: list[Value] = [Address("10.0.0.1"), Port(1, "tcp"), Address("2001:db8::1"), Port(2, "tcp")]
    ours = event("NetSeq::alert", [Text("C1"), *ends, Text("trunc"), Text("s"), Real(0.5)], "broker-bin-v1")
    assert len(seen) > 90
    assert ours.startswith(seen)


VALUES: st.SearchStrategy[Value] = st.one_of(
    st.builds(Count, st.integers(0, (1 << 64) - 1)),
    st.builds(Real, st.floats(-1e15, 1e15)),
    st.builds(Text, st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=200)),
    st.builds(Address, IPS),
    st.builds(Port, st.integers(0, 65_535), st.sampled_from(["tcp", "udp", "icmp", "icmp6", "sctp", "47", ""])),
)


@pytest.mark.parametrize("serialiser", SERIALISERS)
@given(values=st.lists(VALUES, max_size=5))
def test_whatever_is_written_reads_back(serialiser: Serialiser, values: list[Value]) -> None:
    name, told = read(event("NetSeq::x", values, serialiser), serialiser.encode())
    assert name == "NetSeq::x"
    assert len(told) == len(values)
    for value, (kind, seen) in zip(values, told, strict=True):
        match value:
            case Count(number):
                assert (kind, seen) == ("count", number)
            case Real(number):
                assert kind == "real"
                assert math.isclose(seen, number, rel_tol=1e-12, abs_tol=1e-9)
            case Text(text):
                assert (kind, seen) == ("string", text)
            case Address(text):
                assert (kind, seen.removeprefix("::ffff:")) == ("address", text.removeprefix("::ffff:"))
            case Port(number, transport):
                known = {"tcp": "tcp", "udp": "udp", "icmp": "icmp", "icmp6": "icmp"}.get(transport, "?")
                assert (kind, seen) == ("port", f"{number}/{known}")
            case Vector():
                pytest.fail("no vector was written")


@given(st.text(st.one_of(st.characters(), st.sampled_from('\x00\x01\x0b\x1f\x7f"\\\udcff\u2028')), max_size=20))
def test_json_has_only_the_escapes_that_zeeks_reader_knows(text: str) -> None:
    payload = event("x", [Text(text)], "broker-json-v1")
    assert b"\\u" not in payload.replace(b"\\\\", b"")
    assert not re.search(rb"[\x00-\x1f]", payload)
    payload.decode()
    json.loads(payload)


@given(st.text(max_size=20) | st.binary(max_size=20).map(lambda data: data.decode("utf-8", "surrogateescape")))
def test_a_string_of_a_log_keeps_its_bytes_in_the_binary_form(text: str) -> None:
    data = text.encode("utf-8", "surrogateescape")
    assert event("x", [Text(text)], "broker-bin-v1").endswith(b"\x05" + varbyte(len(data)) + data)


@given(st.integers(0, 1 << 40))
def test_a_length_has_seven_bits_a_byte(number: int) -> None:
    data = varbyte(number)
    assert sum((byte & 0x7F) << 7 * place for place, byte in enumerate(data)) == number
    assert [byte >= 0x80 for byte in data] == [True] * (len(data) - 1) + [False]


@pytest.mark.parametrize("serialiser", SERIALISERS)
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_zeek_has_no_word_for_becomes_nothing(serialiser: Serialiser, number: float) -> None:
    assert read(event("x", [Real(number)], serialiser), serialiser.encode())[1] == [("real", 0.0)]


@pytest.mark.parametrize("serialiser", SERIALISERS)
@pytest.mark.parametrize("text", ["", "localhost", "10.0.0", "10.0.0.1/8", "fe80::1%lo", "1.2.3.4\0"])
def test_an_address_that_is_none_is_refused(serialiser: Serialiser, text: str) -> None:
    with pytest.raises(ValueError, match="not an IP address"):
        event("x", [Address(text)], serialiser)


def test_a_reader_that_is_fooled_by_rubbish_would_prove_nothing() -> None:
    with pytest.raises((AssertionError, IndexError)):
        decode(event("x", [Text("y")], "broker-bin-v1")[:-1], b"broker-bin-v1")
