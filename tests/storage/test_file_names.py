"""Names that people see, and names that still fit with something added."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorad.storage.file_names import LONGEST, distinct, fitting, numbered, readable

NAMES = st.text(min_size=1, max_size=300).map(readable)


@given(NAMES, st.integers(10, LONGEST))
def test_a_name_that_was_shortened_fits_and_is_shortened_no_further(name, room):
    short = fitting(name, max(room, 40))

    assert len(os.fsencode(short)) <= max(room, 40)
    assert fitting(short, max(room, 40)) == short


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=300))
def test_a_distinct_name_is_readable_fits_and_stays_as_it_is(name):
    found = distinct(name)

    assert readable(found) == found == distinct(found)
    assert len(os.fsencode(found)) <= LONGEST


def test_two_names_of_another_code_page_stay_two():
    one, other = (os.fsdecode(name) for name in (b"d\xf6rs.json", b"d\xe4rs.json"))

    assert readable(one) == readable(other)
    assert distinct(one) != distinct(other)
    assert distinct(one).endswith(".json")


@given(NAMES, st.integers(2, 99_999))
def test_a_numbered_name_fits_and_is_another_one(name, number):
    found = numbered(name, number)

    assert len(os.fsencode(found)) <= LONGEST
    assert f"-{number}" in found


@pytest.mark.parametrize("ending", [".json", ".csv", ".jsonl.gz", ".parquet"])
def test_a_shortened_name_keeps_what_says_how_the_file_is_read(ending):
    one, other = (fitting("é" * 200 + sign + ending) for sign in "ab")

    assert one.endswith(ending)
    assert one != other
    assert numbered("a" * 250 + ending, 2).endswith(f"-2{ending}")


def test_a_name_that_fits_is_left_alone():
    assert fitting("a" * 250 + ".json") == "a" * 250 + ".json"
    assert numbered("a.json", 2) == "a-2.json"
    assert numbered(".hidden", 2) == ".hidden-2"
    assert numbered("v1.2", 3) == "v1-3.2"
