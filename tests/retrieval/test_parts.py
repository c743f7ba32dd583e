"""Two questions in one."""

import pytest

from lorad.retrieval.parts import parts


@pytest.mark.parametrize(
    ("question", "found"),
    [
        ("Who runs it, and how do I call there?", ["Who runs it", "how do I call there?"]),
        ("Who runs it and where is it?", ["Who runs it", "where is it?"]),
        ("What does it cost? When is it open?", ["What does it cost", "When is it open?"]),
        ("Wer leitet das Haus und wo ist es?", ["Wer leitet das Haus", "wo ist es?"]),
        (
            "Qui dirige la maison et quand est-elle ouverte ?",
            ["Qui dirige la maison", "quand est-elle ouverte ?"],
        ),
    ],
)
def test_two_questions_are_taken_apart(question, found):
    assert parts(question) == found


@pytest.mark.parametrize(
    "question",
    [
        "When is it open on Saturdays and Sundays?",
        "Who wrote Pride and Prejudice?",
        "Where is the Hall of Arts and Sciences",
        "My novel is overdue; what will the library charge me?",
        "I have lost my key. Who has another one?",
        "Where?",
        "",
        "Is it Dr. Who and where?",
        "Who is A and who is B and who is C and who is D?",
    ],
)
def test_one_question_stays_one(question):
    assert parts(question) == [question]


@pytest.mark.parametrize("blanks", [" ", "\n", "\t \r\n"])
def test_a_long_run_of_blanks_takes_no_long_time(blanks):
    hostile = f"Where is it{blanks * 100_000}x"

    assert parts(hostile) == [hostile]
    assert parts(f"Who runs it,{blanks * 100_000}and where is it?") == ["Who runs it", "where is it?"]
