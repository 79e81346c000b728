"""Rows written by the compiled loop: values have the text that Python gives them, and each format's reader gets texts back."""

from __future__ import annotations

import csv
import io
import json
import math
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.row_text import (
    JSON,
    MISSING,
    NUMBER,
    QUOTED,
    ROWS,
    SECONDS,
    SHORT_SECONDS,
    TEXT,
    WHOLE,
    Cell,
    Form,
    RowText,
    Values,
)

compiling = settings(deadline=None)  # the first call compiles
bits = st.integers(0, 2**64 - 1).map(lambda drawn: float(np.uint64(drawn).view(np.float64)))
decimals = st.builds(lambda digits, power: float(f"{digits}e{power}"), st.integers(0, 10**17), st.integers(-25, 25))
reals = (st.floats() | bits | decimals).filter(math.isfinite)
wholes = st.integers(MISSING + 1, 2**63 - 1)


def written(kind: int, values: Values, form: Form = Form()) -> list[str]:  # noqa: B008  # frozen
    return b"".join(RowText([Cell(b"", kind)], form).lines([values])).decode().split("\n")[:-1]


@compiling
@given(st.lists(reals, min_size=1, max_size=50))
def test_a_real_has_the_text_of_python_s_repr(drawn: list[float]) -> None:
    assert written(NUMBER, np.array(drawn)) == [repr(value) for value in drawn]


def test_reals_at_the_edges_have_the_text_of_python_s_repr() -> None:
    powers = [2.0**exponent for exponent in range(-1074, 1024)] + [float(f"1e{exponent}") for exponent in range(-323, 309)]
    edges = [5e-324, 2.2250738585072014e-308, 2.225073858507201e-308, 1.7976931348623157e308, 9007199254740993.0, 0.0, -0.0]
    near = [math.nextafter(value, math.inf) for value in powers] + [math.nextafter(value, 0.0) for value in powers]
    values = powers + edges + near
    values += [-value for value in values]
    assert written(NUMBER, np.array(values)) == [repr(value) for value in values]


@compiling
@given(st.lists(wholes, min_size=1, max_size=50))
def test_a_whole_number_has_its_digits(drawn: list[int]) -> None:
    assert written(NUMBER, np.array(drawn, np.int64)) == [str(value) for value in drawn]


def test_a_real_that_is_whole_is_written_as_an_integer_where_that_is_asked_for() -> None:
    assert written(WHOLE, np.array([31.0, -2.0, 0.5, 1e300, 0.0])) == ["31", "-2", "0.5", "1e+300", "0"]


@compiling
@given(st.lists(wholes, min_size=1, max_size=20))
def test_microseconds_are_seconds_with_six_decimals_or_fewer(drawn: list[int]) -> None:
    whole = [f"{'-' * (us < 0)}{abs(us) // 1_000_000}.{abs(us) % 1_000_000:06}" for us in drawn]
    assert written(SECONDS, np.array(drawn, np.int64)) == whole
    short = [text.rstrip("0") + "0" * text.rstrip("0").endswith(".") for text in whole]
    assert written(SHORT_SECONDS, np.array(drawn, np.int64)) == short


@compiling
@given(st.lists(st.integers(0, 10**15), min_size=1, max_size=20))
def test_short_seconds_are_the_text_of_the_double(drawn: list[int]) -> None:
    texts = written(SHORT_SECONDS, np.array(drawn, np.int64))
    assert [float(text) for text in texts] == [timedelta(microseconds=us) / timedelta(seconds=1) for us in drawn]


texts = st.lists(
    st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=12), min_size=1, max_size=20
)


@compiling
@given(texts)
def test_a_csv_s_reader_gets_every_text_back(drawn: list[str]) -> None:
    column = np.array([text.encode() for text in drawn])
    lines = b"".join(RowText([Cell(b"", QUOTED), Cell(b",", QUOTED)], Form()).lines([column, column])).decode()
    assert list(csv.reader(io.StringIO(lines, newline=""))) == [[text, text] for text in drawn]


@compiling
@given(texts)
def test_json_s_reader_gets_every_text_back(drawn: list[str]) -> None:
    assert [json.loads(line) for line in written(JSON, np.array([text.encode() for text in drawn]))] == drawn


def test_texts_that_need_no_quotes_have_none() -> None:
    assert written(QUOTED, np.array([b"Web Attack - XSS", b"a,b", b'a"b'])) == ["Web Attack - XSS", '"a,b"', '"a""b"']
    assert written(TEXT, np.array([b"a,b"])) == ["a,b"]


@pytest.mark.parametrize(
    "values", [np.array([np.nan, 1.0]), np.array([MISSING, 1]), np.array([b"", b"1"])], ids=["real", "whole", "text"]
)
def test_what_is_missing_has_the_form_s_mark_or_no_cell_at_all(values: Values) -> None:
    cells = [Cell(b"[", NUMBER), Cell(b";a=", TEXT if values.dtype.kind == "S" else WHOLE)]
    first = np.array([7, 8])
    assert b"".join(RowText(cells, Form(b"]\n", b"-")).lines([first, values])) == b"[7;a=-]\n[8;a=1]\n"
    assert b"".join(RowText(cells, Form(b"]\n", leave_out=True)).lines([first, values])) == b"[7]\n[8;a=1]\n"


def test_infinity_has_a_word_or_is_missing() -> None:
    values = np.array([np.inf, -np.inf])
    assert written(NUMBER, values) == written(WHOLE, values) == ["Infinity", "-Infinity"]
    assert written(NUMBER, values, Form(missing=b"null", infinite=False)) == ["null", "null"]


def test_each_piece_holds_whole_rows_and_all_of_them_come() -> None:
    rows = 2 * ROWS + 5
    pieces = list(RowText([Cell(b"", NUMBER)], Form()).lines([np.arange(rows)]))
    assert all(piece.endswith(b"\n") for piece in pieces)
    assert b"".join(pieces).split() == [str(row).encode() for row in range(rows)]
    assert len(pieces) == 3


def test_no_rows_give_no_text() -> None:
    assert list(RowText([Cell(b"", NUMBER)], Form()).lines([np.empty(0, np.int64)])) == []
