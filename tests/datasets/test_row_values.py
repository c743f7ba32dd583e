"""The values of a row, whatever its format."""

import datetime as dt
from decimal import Decimal

import pytest

from lorad.datasets.containers.file_rows import BadRow
from lorad.datasets.formats import row_values


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("[1, 2]", [1, 2]),
        (" [1]", [1]),
        ([1], [1]),
        ("[1", "[1"),
        ("[NaN]", "[NaN]"),
        ("x", "x"),
        (None, None),
    ],
)
def test_a_list_may_be_the_text_of_its_json(value, expected):
    assert row_values.unpacked({"a": value}, "a") == expected


def test_of_unknown_fields_the_one_with_a_reason_is_told():
    with pytest.raises(BadRow) as caught:
        row_values.refuse_unknown(
            {"a": 1, "b": 2, "c": 3, "id": 4, "d": ""}, {"a"}, "x.", reasons={"c": "because"}
        )

    assert (caught.value.field, str(caught.value)) == ("x.c", "because")
    row_values.refuse_unknown({"a": 1, "id": 4, "d": "[]"}, {"a"}, reasons={})


NAMES = frozenset({"question", "answer"})


def test_case_20_names_are_found_in_any_case_and_told_as_they_are_written():
    row = {"Question ": "a", "ANSWER": "b", "Topic": "c"}

    found, own = row_values.matched(row, NAMES)

    assert found == {"question": "a", "answer": "b", "Topic": "c"}
    assert (own["question"], own["Topic"]) == ("Question ", "Topic")


def test_case_20_a_row_in_our_spelling_is_left_as_it_is():
    row = {"question": "a", "Topic": "c"}

    assert row_values.matched(row, NAMES) == (row, {})


@pytest.mark.parametrize(
    ("value", "text"),
    [("x", "x"), (3, "3"), (True, "true"), (1e22, "1e+22"), (Decimal("118.50"), "118.50"), (["x"], "x")],
)
def test_case_20_a_value_is_what_a_table_without_types_would_hold(value, text):
    assert row_values.as_text(value, "a") == text


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, "is empty"),
        (float("nan"), "is empty"),
        (Decimal("NaN"), "is empty"),
        (float("inf"), "not float"),
        (dt.date(2026, 1, 2), "not date"),
        ({"a": 1}, "not dict"),
        (["x", "y"], "holds 2 texts"),
        ([3], "not list"),
    ],
)
def test_case_20_what_is_no_text_is_told(value, told):
    with pytest.raises(BadRow, match=told):
        row_values.as_text(value, "a")
