"""What the laboratory's servers and clients must agree on without speaking: sites, files, people, and who offers what."""

from __future__ import annotations

from itertools import islice
from statistics import median

import pytest
from lab.accounts import PEOPLE, wrong_passwords
from lab.services import SERVICES, service, wanting
from lab.services.dns import addresses
from lab.services.pages import LARGEST_BYTES, PAGES, packages, pages
from lab.services.service import Service, names
from lab.services.stream_server import MOST_BYTES, MOST_RATE, MOST_S, request
from lab.site import Host, Site

SITES = [f"www{number}.meadow.example" for number in range(60)]


def test_a_site_is_the_same_for_whoever_asks_and_unlike_others() -> None:
    assert pages("www.meadow.example") == pages("www.meadow.example")
    assert len({pages(name) for name in SITES}) == len(SITES)


def test_no_two_files_of_a_site_share_a_path() -> None:
    for name in SITES:
        made = pages(name)
        items = {item for page in made for item in page.objects}
        assert len({item.path for item in items}) == len(items)
        assert len({page.path for page in made}) == PAGES
        assert len({item.path for item in packages(name)}) == len(packages(name))


def test_sizes_and_numbers_of_objects_have_heavy_tails() -> None:
    sizes = [item.size_bytes for name in SITES for page in pages(name) for item in page.objects]
    counts = [len(page.objects) for name in SITES for page in pages(name)]
    assert 4_000 < median(sizes) < 9_000
    assert 1_000_000 < max(sizes) <= LARGEST_BYTES + 120
    largest = sorted(sizes)[-len(sizes) // 20 :]
    assert sum(largest) > 0.4 * sum(sizes)  # a twentieth of the objects has nearly half of the bytes
    assert max(counts) > 5 * median(counts)


def test_a_wrong_password_is_never_right_and_comes_from_its_seed() -> None:
    tried = list(islice(wrong_passwords(1), 2_000))
    assert not set(tried) & {person.password for person in PEOPLE}
    assert tried == list(islice(wrong_passwords(1), 2_000))
    assert tried != list(islice(wrong_passwords(2), 2_000))


def test_people_have_names_and_numbers_of_their_own() -> None:
    assert len({person.name for person in PEOPLE}) == len({person.uid for person in PEOPLE}) == len(PEOPLE)


def test_a_service_has_a_port_and_a_package_for_each_program() -> None:
    for name, offered in SERVICES.items():
        assert offered.name == name
        assert offered.ports
        assert len(offered.programs) == len(offered.packages)
    with pytest.raises(ValueError, match="a package for each program"):
        Service("odd", ("program",), (), (), SERVICES["dns"].start, "")


def test_a_program_that_a_host_lacks_is_wanted_with_its_package_unless_the_host_is_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = Site((host("a", services=("dns", "sql")), host("b", services=("mail",), down=True)), "lab.example", 60.0, 30.0)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(service, "PLACES", ())
    assert wanting(site)[0] == ("dnsmasq", "dnsmasq-base")
    assert "dovecot-imapd" not in {package for _, package in wanting(site)}


def test_each_name_has_the_address_of_its_place_and_what_is_single_goes_with_all() -> None:
    many = host("many", ("198.51.100.1", "198.51.100.2"), ("2001:db8:2::1",), ("one.example", "two.example"))
    single = host("single", ("198.51.100.3", "198.51.100.4"), (), ("both.example",))
    assert names(many, site := Site((many, single), "lab.example", 60.0, 30.0))[0] == "many.lab.example"
    assert list(addresses(site)) == [
        "198.51.100.1 many.lab.example",
        "198.51.100.1 one.example",
        "198.51.100.2 two.example",
        "2001:db8:2::1 many.lab.example",
        "2001:db8:2::1 one.example",
        "2001:db8:2::1 two.example",
        "198.51.100.3 single.lab.example",
        "198.51.100.3 both.example",
        "198.51.100.4 both.example",
    ]


@pytest.mark.parametrize(
    "datagram", [b"", b"PLAY", b"PLAY 1 2", b"PLAY a 2 3", b"PLAY 0 1 1", b"PLAY 1 nan 1", b"PLAY 1 1 -1", b"\xff" * 50]
)
def test_what_is_no_request_gets_no_stream(datagram: bytes) -> None:
    assert request(datagram) is None


def test_a_stream_is_bounded_whatever_is_asked() -> None:
    assert request(b"PLAY 1e9 inf 99999") == (MOST_S, MOST_RATE, MOST_BYTES)
    assert request(b"PLAY 2 10 300") == (2.0, 10.0, 300)


def host(
    name: str,
    ipv4: tuple[str, ...] = ("192.0.2.1",),
    ipv6: tuple[str, ...] = (),
    names: tuple[str, ...] = (),
    services: tuple[str, ...] = (),
    down: bool = False,
) -> Host:
    return Host(name, "server", "inside", ipv4, ipv6, names, services, down=down)
