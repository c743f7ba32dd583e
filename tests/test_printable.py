"""What a terminal is given of a text that somebody else wrote."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shown import is_safe

from lorad import printable


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b2J", r"\x9b2J"),
        ("a\x7f\x08b", r"a\x7f\x08b"),
        ("txt.\u202eexe", r"txt.\u202eexe"),
        ("a\u2028b\u2029c", r"a\u2028b\u2029c"),
        ("pass\u200bword", r"pass\u200bword"),
        ("\U000e0041hidden", r"\U000e0041hidden"),
        ("over\rwritten", r"over\rwritten"),
        ("\udc80", r"\udc80"),
        ("Größe 図書館 👩‍💻 [/red]", "Größe 図書館 👩‍💻 [/red]"),
    ],
)
def test_a17_what_steers_a_terminal_becomes_a_visible_mark(value, told):
    assert printable.text(value) == printable.line(value) == told


def test_lines_stay_in_a_text_and_not_in_a_line():
    assert printable.text("one\r\ntwo\tthree\n") == "one\ntwo\tthree\n"
    assert printable.line("one\r\ntwo\tthree\nfour") == "one two three four"


@given(st.text())
def test_whatever_a_text_holds_it_is_safe_and_told_once(value):
    assert is_safe(printable.text(value))
    assert is_safe(printable.line(value), also="")
    assert printable.text(printable.text(value)) == printable.text(value)


def test_of_a_record_every_text_is_safe_at_any_depth_and_the_rest_is_as_it_was():
    record = {"a\x1b": ["\x07", {"b\n": "\x9b"}], "n": 1, "none": None, "yes": True}
    assert printable.record(record) == {
        r"a\x1b": [r"\x07", {"b ": r"\x9b"}],
        "n": 1,
        "none": None,
        "yes": True,
    }


@given(st.recursive(st.text(st.characters()) | st.integers(), st.lists))
def test_json_is_exact_and_safe(value):
    told = printable.as_json(value)
    assert json.loads(told) == value
    assert is_safe(told, also="")


def test_json_of_half_a_character_and_of_delete_is_exact_too():
    for value in ("\ud800", "\x7f", "\x85", "\U000e0041"):
        told = printable.as_json(value)
        assert json.loads(told) == value
        assert is_safe(told)
