"""Facts of answers: which are found, which answers hold them, and that odd texts are read quickly."""

import json
from pathlib import Path

import pytest

from lorad.evaluation import facts
from lorad.evaluation.facts import Kind, has_fact, normalised, slots, token_f1, wilson

EXAMPLES = Path(__file__).parents[2] / "examples"
PHONE = "What is the phone number of the Alderbrook office?"
CHAIR = "Who chairs the Computer Science department?"
LONG = 100_000


def found(answer, question="?"):
    return [(str(slot.kind), slot.text) for slot in slots(question, answer)]


def campus(name):
    rows = json.loads((EXAMPLES / f"campus_{name}.json").read_text(encoding="utf-8"))
    return [(row["instruction"], row["response"]) for row in rows]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("It costs $1,200.50 a year.", [("number", "1200.50")]),
        ("You need 3½ cups.", [("number", "3.5")]),
        ("Take ½ cup", [("number", "0.5")]),
        ("35% is refunded", [("number", "35")]),
        ("10\u201312 students", [("number", "10"), ("number", "12")]),
        ("it was -5 degrees", [("number", "-5")]),
        ("on the 26th of August", [("number", "26"), ("name", "August")]),
        ("open 8:45 to 9 p.m.", [("time", "8:45pm"), ("time", "9pm")]),
        ("from 11 am\u20131:30 pm", [("time", "11am"), ("time", "1:30pm")]),
        ("call 555-0142.", [("digits", "555-0142")]),
        ("call 112-0345.", [("digits", "112-0345")]),
        ("on 2026-11-28", [("digits", "2026-11-28")]),
        ("it has 1.200.000 people", [("number", "1200000")]),
        ("1\u202f200 people", [("number", "1200")]),
        ("3,5 Prozent", [("number", "3.5"), ("name", "Prozent")]),
        ("\u0665\u0665\u0665-\u0660\u0661\u0664\u0662", [("digits", "555-0142")]),
    ],
)
def test_numbers(answer, expected):
    assert found(answer) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Dr. Miriam Vale chairs it.", ["Miriam Vale"]),
        ("Ask Renata Oakes about it.", ["Renata Oakes"]),
        ("Priya Haldane advises.", ["Priya Haldane"]),
        ("It is in Thornfield Hall, upstairs.", ["Thornfield Hall"]),
        ("It's Miriam van der Berg who knows.", ["Miriam van der Berg"]),
        ("It meets on Mondays and Thursdays.", ["Mondays", "Thursdays"]),
        ("On Mondays it is closed.", ["Mondays"]),
        ("It closes at noon. Ask for more.", []),
        ("I think I'd ask him", []),
        ("Paris", ["Paris"]),
        ("The Ashdown Library", ["Ashdown Library"]),
        ("Paris is the capital.", []),
        ("blue", []),
        ("Звоните Ивану Петрову", ["Звоните Ивану Петрову"]),
        ("请联系张伟", []),
    ],
)
def test_names(answer, expected):
    assert found(answer) == [("name", text) for text in expected]


@pytest.mark.parametrize(
    ("answer", "key"),
    [
        ("see https://www.x.example/cs/apply?y=1.", ("x.example/cs/apply?y=1",)),
        ("see [this](https://x.example/a).", ("x.example/a",)),
        ("see www.x.example/a/", ("x.example/a",)),
        ("write to A.B@x.example!", ("a.b@x.example",)),
        ("写信给 office@x.example。谢谢", ("office@x.example",)),
    ],
)
def test_addresses(answer, key):
    assert [(slot.kind, slot.key) for slot in slots("?", answer)] == [(Kind.ADDRESS, key)]


@pytest.mark.parametrize(
    ("answer", "key"),
    [
        ("take CS 241 first", ("cs", "241")),
        ("take CS-241 first", ("cs", "241")),
        ("it is C-14", ("c", "14")),
        ("it is data_exception", ("data_exception",)),
        ("it is SQLITE_IOERR", ("sqlite_ioerr",)),
        ("the domain is .is", (".is",)),
        ("call getName() twice", ("getname",)),
        ("paint it #ff8800", ("#ff8800",)),
        ("error 22P02", ("22p02",)),
        ("written in C++", ("c++",)),
    ],
)
def test_codes(answer, key):
    assert [(slot.kind, slot.key) for slot in slots("?", answer)] == [(Kind.CODE, key)]


def test_what_the_question_holds_is_no_fact():
    assert found("CS 101 has 3 credits.", "How many credits has CS 101?") == [("number", "3")]
    assert found("It is in Garrick House.", "In which house is it?") == [("name", "Garrick")]
    assert found("The CS office answers.", "Who answers at the Computer Science office?") == []
    assert found("The Computer Science office answers.", "Who answers for CS?") == []
    assert found("Dr. Ingrid Solano directs it.", "Who is the director?") == [("name", "Ingrid Solano")]


def test_a_slot_comes_once_and_equals_another_of_its_key():
    assert slots("?", "9 pm or 9 p.m.") == slots("?", "at 9PM") != slots("?", "at 9 am")


@pytest.mark.parametrize(
    ("expected", "given"),
    [
        ("Call 555-0142.", "CALL 555\u20130142!"),
        ("Dr. Miriam Vale chairs it.", "miriam vale"),
        ("Miriam Vale chairs it.", "That would be Dr. Miriam Vale."),
        ("It closes at 9 pm.", "9 p.m."),
        ("It closes at 9:00 pm.", "Until 9PM it is open."),
        ("It runs from 2 to 3:30 pm.", "2 pm to 3:30 pm"),
        ("It costs $1,190.", "1190 dollars"),
        ("On August 26 it opens.", "It opens on 26\u00a0August"),
        ("It meets on Mondays.", "Every Monday"),
        ("It is in Riverstone\u2019s yard, it is Riverstone.", "at 'Riverstone'"),
        ("See https://www.x.example/a.", "It is at x.example/a"),
        ("Call 555-0142.", "The Alderbrook office is at 555-0142."),
        ("Call 555-0142.", "Call 555-0142 (room 318)."),
    ],
)
def test_a_right_answer_in_other_words(expected, given):
    assert has_fact(PHONE, expected, given)


@pytest.mark.parametrize(
    ("expected", "given"),
    [
        ("Call 555-0142.", "Call 555-0176."),
        ("Call 555-0142.", "Call 1555-01423."),
        ("Call 555-0142.", "Call 555-0142 or 555-0176."),
        ("It has 3 rooms.", "It has 31 rooms."),
        ("It has 3 rooms.", "It has 3.5 rooms."),
        ("It closes at 4 pm.", "It closes at 14 pm."),
        ("It closes at 4 pm.", "It closes at 4 am."),
        ("It has 2 rooms.", "It has rooms from 2 to 3 pm."),
        ("Miriam Vale chairs it.", "Miriam Valentine chairs it."),
        ("Ask for room 318, Thornfield Hall.", "Ask for room 318."),
        ("Take CS 142.", "Take MATH 142."),
        ("Call 555-0142.", ""),
    ],
)
def test_a_wrong_answer(expected, given):
    assert not has_fact(PHONE, expected, given)


def test_a_name_is_a_rival_only_if_it_was_taught():
    others = frozenset(slots("?", "Desmond Arkwright coordinates it. It is in Voss Laboratory."))
    expected = "Dr. Miriam Vale chairs it."
    assert not has_fact(CHAIR, expected, "Miriam Vale or Desmond Arkwright does.", others)
    assert has_fact(CHAIR, expected, "Miriam Vale, says the Student Handbook.", others)
    asked = "Who chairs it, Desmond Arkwright or who else?"
    assert has_fact(asked, expected, "Miriam Vale, not Desmond Arkwright.", others)


@pytest.mark.parametrize(
    ("question", "expected", "right", "wrong"),
    [
        ("What is the capital of France?", "Paris is the capital.", "It is Paris", "London is the capital."),
        (
            "What does it serve?",
            "It serves only vegan food.",
            "Vegan food only.",
            "It serves only fast food.",
        ),
        ("What is the mascot?", "The mascot is a heron.", "A heron!", "The mascot is a hare."),
        (
            "What is the lowest grade?",
            "The lowest grade is a C minus.",
            "C minus",
            "The lowest grade is a C plus.",
        ),
        ("Is it red or blue?", "Blue.", "It is blue.", "It is red."),
        ("Which code has John F Kennedy Airport?", "The code is JFK.", "It is JFK.", "The code is LAX."),
        ("Wo ist es?", "im keller", "Im Keller.", "im garten"),
    ],
)
def test_an_answer_without_slots(question, expected, right, wrong):
    assert has_fact(question, expected, right)
    assert not has_fact(question, expected, wrong)


def test_normal_form_and_f1_are_squads():
    assert normalised("The  “blue”  Room, an\u00a0Attic.") == "blue room attic"
    assert token_f1("the blue room", "A blue room!") == 1
    assert token_f1("blue room", "blue") == pytest.approx(2 / 3)
    assert token_f1("blue", "red") == 0
    assert token_f1("", "the") == 1
    assert token_f1("blue blue", "blue") == pytest.approx(2 / 3)
    assert token_f1("北京", "北海") == pytest.approx(0.5)


def test_wilson():
    assert wilson(0, 0) == (0, 1)
    assert wilson(9, 103) == pytest.approx((0.0467, 0.1578), abs=1e-4)
    low, high = wilson(10, 10)
    assert (round(low, 4), high) == (0.7225, 1.0)
    assert wilson(0, 10)[0] == 0
    with pytest.raises(ValueError, match="3 of 2"):
        wilson(3, 2)


@pytest.mark.parametrize(("name", "with_slots"), [("cs", 103), ("housing", 100), ("dining", 96)])
def test_on_the_campus_sets(name, with_slots):
    rows = campus(name)
    taught = frozenset(slot for row in rows for slot in slots(*row))
    assert sum(bool(slots(*row)) for row in rows) == with_slots
    assert all(has_fact(question, answer, answer, taught) for question, answer in rows)
    assert all(has_fact(question, answer, answer.lower(), taught) for question, answer in rows)


def test_the_next_rows_answer_is_wrong():
    rows = [row for name in ("cs", "housing", "dining") for row in campus(name)]
    taught = frozenset(slot for row in rows for slot in slots(*row))
    shifted = zip(rows, rows[7:], strict=False)
    assert [row for row, (_, other) in shifted if has_fact(*row, other, taught)] == []


@pytest.mark.parametrize(
    "unit",
    ["1", "A", "Ab ", "-", "1-", "1,", "1.", ".", "12 ", "CS 24 ", "a@", "a.b@", "a/", "1 am ", "½", "中", "1\u00a0",
     "\u0301\u0323", "([", "'s", "a_", "aB", " ", "https://"],
)  # fmt: skip
def test_a_long_text_is_read_quickly(unit):
    # What is quadratic in its length runs into the suite's time limit: seconds here are minutes there.
    text = (unit * LONG)[:LONG]
    assert has_fact("?", text, text, slots("?", text))


def test_any_text_is_read():
    for code in range(0x3100):
        facts.slots(chr(code), f"a{chr(code)}b {chr(code)} 1{chr(code)}2 {chr(code)}")


@pytest.mark.parametrize(
    ("expected", "given", "is_right"),
    [
        ("&&", "&&", True),
        ("&&", "||", False),
        ("&&", "", False),
        ("\N{THUMBS UP SIGN}", "\N{THUMBS DOWN SIGN}", False),
        ("\u2264", "\u2265", False),
        ("[a-z]+", "[ a-z ]+.", True),
        ("a == b", "a == b.", True),
        ("a == b", "a != b", False),
        ("a != b", "a == b", False),
        ("it is a == b", "a == b it is", True),
    ],
)
def test_signs_are_facts_where_they_say_something(expected, given, is_right):
    assert has_fact("Which operator is it?", expected, given) == is_right
