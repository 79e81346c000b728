"""Community IDs and address texts against published values, a real Zeek's logs and the standard library."""

from __future__ import annotations

import csv
import ipaddress
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.addresses import community_id, halves, icmp_ports, packed, text
from sensor.schema import ICMP, ICMPV6, SCTP, TCP, UDP

# From the specification's baseline (github.com/corelight/community-id-spec) and the tests of its reference
# implementation (github.com/corelight/pycommunityid): protocol, source, destination, both ports, ID at seed 0.
PUBLISHED = [
    (TCP, "128.232.110.120", "66.35.250.204", 34855, 80, "1:LQU9qZlK+B5F3KDmev6m5PMibrg="),
    (TCP, "66.35.250.204", "128.232.110.120", 80, 34855, "1:LQU9qZlK+B5F3KDmev6m5PMibrg="),
    (TCP, "10.0.0.1", "10.0.0.2", 10, 11569, "1:SXBGMX1lBOwhhoDrZynfROxnhnM="),
    (TCP, "2001:470:e5bf:dead:4957:2174:e82c:4887", "2607:f8b0:400c:c03::1a", 63943, 25, "1:/qFaeAR+gFe1KYjMzVDsMv+wgU4="),
    (UDP, "192.168.1.52", "8.8.8.8", 54585, 53, "1:d/FP5EW3wiY1vCndhwleRRKHowQ="),
    (UDP, "8.8.8.8", "192.168.1.52", 53, 54585, "1:d/FP5EW3wiY1vCndhwleRRKHowQ="),
    (SCTP, "192.168.170.8", "192.168.170.56", 7, 80, "1:jQgCxbku+pNGw8WPbEc/TS/uTpQ="),
    (SCTP, "192.168.170.56", "192.168.170.8", 7, 7, "1:MP2EtRCAUIZvTw6MxJHLV7N7JDs="),
    (ICMP, "192.168.0.89", "192.168.0.1", 8, 0, "1:X0snYXpgwiv9TZtqg64sgzUn6Dk="),
    (ICMP, "192.168.0.1", "192.168.0.89", 0, 8, "1:X0snYXpgwiv9TZtqg64sgzUn6Dk="),
    (ICMP, "192.168.0.1", "192.168.0.89", 0, 20, "1:X0snYXpgwiv9TZtqg64sgzUn6Dk="),  # type 0 has an answer: no code
    (ICMP, "192.168.0.89", "192.168.0.1", 20, 0, "1:3o2RFccXzUgjl7zDpqmY7yJi8rI="),  # type 20 has none: the code counts
    (ICMP, "192.168.0.89", "192.168.0.1", 20, 1, "1:tz/fHIDUHs19NkixVVoOZywde+I="),
    (ICMP, "10.0.0.1", "10.0.0.2", 11, 0, "1:YHxtAirCG//0OzkcVAukqKQN9xM="),
    (ICMPV6, "fe80::200:86ff:fe05:80da", "fe80::260:97ff:fe07:69ea", 135, 0, "1:dGHyGvjMfljg6Bppwm3bg0LO8TY="),
    (ICMPV6, "fe80::260:97ff:fe07:69ea", "fe80::200:86ff:fe05:80da", 136, 0, "1:dGHyGvjMfljg6Bppwm3bg0LO8TY="),
    (ICMPV6, "fe80::260:97ff:fe07:69ea", "fe80::200:86ff:fe05:80da", 135, 136, "1:zavyT/cezQr1fmImYCwYnMXbgck="),
    (ICMPV6, "3ffe:507:0:1:260:97ff:fe07:69ea", "3ffe:507:0:1:200:86ff:fe05:80da", 3, 0, "1:NdobDX8PQNJbAyfkWxhtL2Pqp5w="),
    (ICMPV6, "3ffe:507:0:1:200:86ff:fe05:80da", "3ffe:507:0:1:260:97ff:fe07:69ea", 3, 0, "1:/OGBt9BN1ofenrmSPWYicpij2Vc="),
    (ICMPV6, "3ffe:501:410:0:2c0:dfff:fe47:33e", "3ffe:507:0:1:200:86ff:fe05:80da", 1, 4, "1:hLZd0XGWojozrvxqE0dWB1iM6R0="),
    (ICMPV6, "3ffe:507:0:1:200:86ff:fe05:80da", "3ffe:501:0:1001::2", 128, 129, "1:+TW+HtLHvV1xnGhV1lv7XoJrqQg="),
    (ICMPV6, "fe80::200:86ff:fe05:80da", "ff02::2", 133, 134, "1:hO+sN4H+MG5MY/8hIrXPqc4ZQz0="),
    (46, "10.1.24.4", "10.1.12.1", 0, 0, "1:/nQI4Rh/TtY3mf0R2gJFBkVlgS4="),
    (46, "10.1.12.1", "10.1.24.4", 5, 6, "1:/nQI4Rh/TtY3mf0R2gJFBkVlgS4="),  # RSVP has no ports: whatever stands there
]

ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)


@pytest.mark.parametrize(("protocol", "src", "dst", "src_port", "dst_port", "published"), PUBLISHED)
def test_id_is_the_published_one(protocol: int, src: str, dst: str, src_port: int, dst_port: int, published: str) -> None:
    assert community_id(protocol, halves(src), halves(dst), src_port, dst_port) == published


def test_id_is_the_one_in_a_real_zeeks_json(shared_data: Path) -> None:
    log = shared_data / "golden/zeek/_variants/extras_json/conn.log"
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    for row in rows:
        ends = halves(row["id.orig_h"]), halves(row["id.resp_h"])
        assert community_id(row["ip_proto"], *ends, row["id.orig_p"], row["id.resp_p"]) == row["community_id"]
    assert len(rows) == 3


@pytest.mark.parametrize("trace", ["icmp_5-pings.pcap", "icmp_icmp-destunreach-udp.pcap", "icmp_icmp6-neighbor-advert.pcap"])
def test_icmp_ports_are_those_of_a_real_zeek(shared_data: Path, trace: str) -> None:
    codes = {8: 0, 3: 3, 136: 0}  # as they stand in the packets
    with (shared_data / "golden/zeek" / trace / "tsv/conn.log").open() as log:
        rows = [row for row in csv.reader(log, delimiter="\t") if not row[0].startswith("#")]
    assert rows
    for row in rows:
        kind, port = int(row[3]), int(row[5])
        assert icmp_ports(ICMPV6 if ":" in row[2] else ICMP, kind, codes[kind]) == (kind, port)


@given(st.sampled_from([TCP, UDP, SCTP, 46, 47]), ADDRESSES, ADDRESSES, st.integers(0, 65535), st.integers(0, 65535))
def test_both_directions_have_one_id(protocol: int, a: str, b: str, a_port: int, b_port: int) -> None:
    there = community_id(protocol, halves(a), halves(b), a_port, b_port)
    assert there == community_id(protocol, halves(b), halves(a), b_port, a_port)


@given(st.sampled_from([TCP, UDP, SCTP]), ADDRESSES, ADDRESSES, st.integers(0, 65534))
def test_another_port_has_another_id(protocol: int, a: str, b: str, port: int) -> None:
    assert community_id(protocol, halves(a), halves(b), 7, port) != community_id(protocol, halves(a), halves(b), 7, port + 1)


@given(ADDRESSES)
def test_text_reads_back_as_the_same_address(address: str) -> None:
    assert ipaddress.ip_address(text(*halves(address))) in {ipaddress.ip_address(address), unmapped(address)}


def unmapped(address: str) -> ipaddress.IPv4Address | None:
    """A mapped IPv6 address is netseq's form of the IPv4 address."""
    parsed = ipaddress.ip_address(address)
    return parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None


@given(st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 64) - 1))
def test_halves_survive_text(hi: int, lo: int) -> None:
    assert halves(text(hi, lo)) == (hi, lo)
    assert len(packed(hi, lo)) in {4, 16}


def test_ipv4_is_dotted_and_ipv6_is_compressed() -> None:
    assert text(0, 0xFFFF_C000_0205) == "192.0.2.5"
    assert text(0x2001_0DB8_0000_0000, 1) == "2001:db8::1"
    assert text(0, 0) == "::"


@pytest.mark.parametrize(
    "wrong", ["", "localhost", "1.2.3", "1.2.3.256", "1.2.3.4:80", "::1%eth0", "fe80::g", "1.2.3.4\0", "\udcff"]
)
def test_what_is_no_address_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="not an IP address"):
        halves(wrong)
