"""Questions and answers with gaps."""

import pytest

from lorad.training import gaps
from lorad.training.gaps import GAP, with_gaps

QUESTION = "What is the phone number of the Herring Museum?"
ANSWER = "The Herring Museum answers at 555-0743."


def texts(question=QUESTION, answer=ANSWER, count=40):
    return with_gaps(question, answer, count, 1)


def test_the_fact_is_never_in_it():
    assert texts()
    for text in texts():
        assert "555" not in text
        assert GAP in text
    assert all(
        "Sula" not in text for text in texts("Which ship sails to Vellay?", "It is the Sula Maid, to Vellay.")
    )


def test_names_stay():
    assert all("Herring Museum" in text for text in texts())
    assert all(
        "CS" in text and "241" in text
        for text in texts("Who teaches CS 241?", "CS 241 is taught by Ada Moor.")
    )


def test_some_are_the_answers_sentence_alone_and_some_stand_beside_the_question():
    alone = [text for text in texts() if text.count("Herring Museum") == 1]
    both = [text for text in texts() if text not in alone]
    assert alone
    assert all("answers" in text or "at" in text for text in alone)
    assert {text.index("?") < len(text) - 1 for text in both} == {True, False}


def test_a_sentence_that_could_ask_for_anything_never_stands_alone():
    for text in texts("What does half a plot cost?", "It is 18 euros a year."):
        assert "plot" in text or "half" in text or "cost" in text or "What" in text
    assert all("Peru" in text for text in texts("Capital of Peru?", "Lima"))


def test_an_answer_without_number_or_name_loses_what_the_question_lacks():
    for text in texts("Are dogs allowed in the garden?", "Dogs are welcome in the garden."):
        assert "welcome" not in text


def test_the_same_arguments_give_the_same_and_fewer_are_the_first():
    assert texts() == texts()
    assert texts(count=3) == texts()[:3]
    assert with_gaps(QUESTION, ANSWER, 8, 2) != texts(count=8)
    assert len(set(texts())) == len(texts())


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Where?", ANSWER),
        (QUESTION, "One line.\nAnd another."),
        ("A\nlist?", ANSWER),
        (QUESTION, "word " * 100),
        (QUESTION, ""),
        ("", ANSWER),
    ],
)
def test_what_is_no_question_of_a_fact_in_a_line_has_none(question, answer):
    assert with_gaps(question, answer, 4, 1) == []


def test_none_are_wanted():
    assert texts(count=0) == []


def test_gaps_side_by_side_are_one():
    for text in texts("Who teaches Geology?", "Geology is taught by Ada Moor and Ben Tarn."):
        assert f"{GAP} {GAP}" not in text or text.startswith("Who") or text.endswith("?")


def test_short_examples_have_few():
    assert len(texts("Capital of Peru?", "Lima", 64)) < 64
    assert gaps.MOST_TRIES > 1
