"""Words and codes of a text, and what of an example is embedded."""

import pytest

from lorad.records import Example
from lorad.retrieval.words import (
    abbreviations,
    codes,
    embedded_text,
    has_several,
    names,
    spelled_out,
    words,
    written_out,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Where is CS 241?", ("cs", "241")),
        ("What does SQLITE_IOERR_READ mean?", ("sqlite_ioerr_read",)),
        ("SQLSTATE 42P01, please", ("sqlstate", "42p01")),
        ("What is the ILO, and what the ILO's seat?", ("ilo",)),
        ("call 555-0176", ("555", "0176")),
        ("Is I or A a code?", ()),
        ("WHERE IS THE CS OFFICE", ()),
        ("WHERE IS ROOM 12", ("12",)),
        ("ILO", ("ilo",)),
        ("_very_ **much** __so__", ()),
        ("snake_case and getName", ("snake_case",)),
        ("", ()),
        ("____ -- \0 \ud800", ()),
    ],
)
def test_codes_name_one_thing_alone(text, expected):
    assert codes(text) == expected


def test_words_are_whole_and_folded():
    assert words("Die Straße zu SQLITE_IOERR (42P01)!") == ("die", "strasse", "zu", "sqlite_ioerr", "42p01")


def test_every_code_is_among_the_words():
    text = "CS 241, ILO: sqlite_ioerr at 42P01 and ÉTÉ"

    assert set(codes(text)) <= set(words(text))


@pytest.mark.parametrize(
    ("asked", "target", "expected"),
    [
        ("the text", "label", "the text label"),
        ([{"role": "user", "content": "Where?"}], "Here.", "Where? Here."),
        (
            [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Hello"},
                {"role": "assistant", "content": "Hi"},
                {"role": "user", "content": "Where?"},
            ],
            "Here.",
            "Where? Here.",
        ),
        (
            [{"role": "user", "content": "Call"}, {"role": "tool", "content": "7"}],
            {"content": "It is", "tool_calls": [{"name": "f", "arguments": {"x": 1}}]},
            'Call It is f({"x": 1})',
        ),
    ],
)
def test_of_an_example_the_last_question_and_the_answer_are_embedded(asked, target, expected):
    assert embedded_text(Example(task="chat", input=asked, target=target)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the CS main office", ("CS",)),
        ("CS 241 of the CS-2 group at 5 PM", ()),
        ("Does the CS chair sit in CS 101?", ("CS",)),
        ("WHERE IS THE CS OFFICE", ()),
        ("I am A. B.", ()),
        ("", ()),
    ],
)
def test_abbreviations_stand_alone(text, expected):
    assert abbreviations(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Who chairs Computer Science?", {"CS": "Computer Science"}),
        ("the Alderbrook Computer Science office", {"ACS": "Alderbrook Computer Science"}),
        ("Computer Science is where?", {}),
        ("the Jean-Luc Étoile prize. Ask Ida Dunn", {"JLÉ": "Jean-Luc Étoile", "AID": "Ask Ida Dunn"}),
        ("WHO CHAIRS COMPUTER SCIENCE", {}),
        ("computer science", {}),
    ],
)
def test_what_would_be_abbreviated(text, expected):
    assert spelled_out(text) == expected


def test_only_what_stands_alone_is_written_out():
    meanings = {"CS": "Computer Science"}
    assert written_out("the CS chair of CS 241", meanings) == "the Computer Science chair of CS 241"


def test_a_letter_and_its_mark_are_one_however_they_are_written():
    decomposed = "Wo wohnt Frau Bo\u0308hm?"

    assert words(decomposed) == ("wo", "wohnt", "frau", "böhm")
    assert names(decomposed) == ("frau", "böhm")


@pytest.mark.parametrize(
    ("text", "several"),
    [
        ("Hello", False),
        ("Why?", False),
        ("Who asks?", True),
        ("图书馆几点开门", True),
        ("你好", False),
        ("図書館はどこですか", True),
        ("ห้องสมุดอยู่ที่ไหน", True),
    ],
)
def test_a_script_without_blanks_has_several_words_too(text, several):
    assert has_several(text) == several
