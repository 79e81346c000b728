"""Names of columns: each layout has the header of the tables published in it, and every spelling finds its column."""

from __future__ import annotations

import gzip
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statistics_tables import header_of

from sensor.schema import FLOW
from sensor.spellings import HEADERS, IDENTITY, SPELLINGS, STATISTICS, TWICE, named
from sensor.statistics import BY_NAME, COLUMNS, Reading, column

NAMES = tuple(spelling.name for spelling in SPELLINGS)


def published(path: Path) -> tuple[str, ...]:
    """The header of a published table, letter by letter."""
    with gzip.open(path, "rt", encoding="latin-1", newline="") as lines:
        return tuple(next(lines).rstrip("\r\n").split(","))


def texts(layout: str) -> tuple[str, ...]:
    return tuple(text for text, _ in HEADERS[layout])


@pytest.mark.parametrize("capture", ["1kxun", "ajp", "http_ipv6"])
def test_the_layout_cicflowmeter_is_that_of_the_repaired_tool(capture: str, shared_data: Path) -> None:
    assert texts("cicflowmeter") == tuple(header_of(shared_data / "golden" / "cicflowmeter" / capture / "fixed.csv"))
    assert len(texts("cicflowmeter")) == 94


def test_the_layout_cicids2017_is_that_of_the_data_set(shared_data: Path) -> None:
    layout = texts("cicids2017")
    assert len(layout) == 85
    assert [text for text, count in Counter(layout).items() if count == 2] == [f" {TWICE}"]
    assert layout == tuple(header_of(shared_data / "golden" / "cicflowmeter-2018" / "test.cicids2017-header.csv"))
    folder = shared_data / "flows" / "cicids2017"
    assert layout == published(folder / "Friday-DDos_first299_TrafficLabelling.csv.gz")
    whom = {"Flow ID", "Src IP", "Src Port", "Dst IP", "Protocol", "Timestamp"}
    without_hosts = tuple(text for text, name in HEADERS["cicids2017"] if name not in whom)
    for path in sorted((folder / "machinelearningcve-first-rows").iterdir()):
        assert published(path) == without_hosts


def test_the_layout_cse_cic_ids2018_is_that_of_the_authors_test_and_of_the_data_set(shared_data: Path) -> None:
    layout = texts("cse-cic-ids2018")
    assert layout == tuple(header_of(shared_data / "golden" / "cicflowmeter-2018" / "test.csv"))
    whom = {"Flow ID", "Src IP", "Src Port", "Dst IP"}
    [path] = (shared_data / "flows" / "cse-cic-ids2018").iterdir()
    assert published(path) == tuple(text for text, name in HEADERS["cse-cic-ids2018"] if name not in whom)


@pytest.mark.parametrize("folder", ["cic-daily", "cicids2017", "cse-cic-ids2018"])
def test_every_header_of_the_published_tables_is_known(folder: str, shared_data: Path) -> None:
    unknown = {
        text
        for path in (shared_data / "flows" / folder).rglob("*.csv.gz")
        if not path.name.startswith("heartbleed")  # its columns have numbers for names
        for text in published(path)
        if named(text) is None
    }
    assert unknown == set()


def test_every_column_is_found_by_every_spelling_of_it() -> None:
    for one in SPELLINGS:
        for text in (one.name, one.netseq, one.cicids2017, one.cse_cic_ids2018, *one.others):
            assert not text or named(text) == one.name
    for layout in HEADERS.values():
        assert all(named(text) == name for text, name in layout)


@given(st.sampled_from([text for layout in HEADERS.values() for text, _ in layout]), st.sampled_from(("", " ", "\t")))
def test_case_blanks_and_signs_of_a_spelling_do_not_matter(text: str, blank: str) -> None:
    name = named(text)
    variants = (text.upper(), text.lower(), f"{blank}{text}{blank}", text.replace(" ", "_"), text.replace("_", " "))
    assert {named(variant) for variant in variants} == {name}


def test_the_second_of_two_equal_columns_is_found_as_pandas_calls_it() -> None:
    assert named(" Fwd Header Length.1") == "Fwd Header Length"


@pytest.mark.parametrize("text", ["", " ", "Flow", "Fwd", "X17", "Fwd Header Length.2", "payload", "Flow Bites/s", "\0", "ü"])
def test_a_text_of_no_layout_is_no_column(text: str) -> None:
    assert named(text) is None


def test_no_two_columns_share_a_spelling() -> None:
    """But for case, blanks and signs, in which two columns must differ as well."""
    found = defaultdict(set)
    for one in SPELLINGS:
        for text in (one.name, one.netseq, one.cicids2017, one.cse_cic_ids2018, *one.others):
            bare = "".join(letter for letter in text.lower() if letter.isalnum())
            found[bare].add(one.name)
    found.pop("")
    assert {bare: names for bare, names in found.items() if len(names) > 1} == {}


def test_statistics_and_columns_stand_in_one_order() -> None:
    assert tuple(one.name for one in COLUMNS) == NAMES
    assert tuple(one.name for one in COLUMNS if one.name not in IDENTITY) == STATISTICS
    assert set(IDENTITY) <= set(NAMES)
    assert len(set(NAMES)) == len(NAMES) == len(BY_NAME)


def test_every_column_says_its_unit_its_meaning_and_its_formula() -> None:
    dimensionless = {"Down/Up Ratio", "ICMP Code", "ICMP Type", "Continued", "Src Port", "Dst Port", "Protocol"}
    for one in COLUMNS:
        assert one.meaning
        assert one.formula or one.name == "Label"
        assert one.unit or one.name in dimensionless | set(IDENTITY)
        assert one.roads in {("packets",), ("packets", "conn.log")}


def test_texts_are_texts_and_numbers_are_numbers() -> None:
    reading = Reading(np.zeros(1, FLOW))
    assert {name for name in NAMES if column(reading, name).dtype.kind == "S"} == set(IDENTITY)
