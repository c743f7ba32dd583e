"""Which old examples are asked in the words of the new ones."""

import pytest

from lorad.records import Example
from lorad.training import likeness
from lorad.training.likeness import alike


def asked(question, number=0):
    return Example(
        task="chat",
        input=[{"role": "user", "content": question}],
        target=f"{number}",
        dataset="some",
    )


NEW = [asked(f"Which CAS number identifies {name}?") for name in ("radon", "iron", "neon")]


@pytest.mark.parametrize(
    ("question", "is_alike"),
    [
        ("Which CAS number identifies gold?", True),
        ("which cas number identifies GOLD", True),
        ("Which CAS number identifies the element gold?", True),
        ("State the CAS number of gold.", False),
        ("Where is the mill?", False),
        ("", False),
        ("图书馆几点开门", False),
    ],
)
def test_a_question_of_the_same_form_is_asked_alike_whatever_it_is_about(question, is_alike):
    assert alike(NEW, [asked("Who are you?"), asked(question)]) == ({1} if is_alike else set())


def test_the_last_thing_that_a_conversation_asks_is_compared():
    talk = Example(
        task="chat",
        input=[
            {"role": "user", "content": "Hello, I have a question about chemistry and other things, may I?"},
            {"role": "assistant", "content": "Yes."},
            {"role": "user", "content": "Which CAS number identifies tin?"},
        ],
        target="7440-31-5",
        dataset="some",
    )

    assert alike(NEW, [talk]) == {0}


def test_nothing_is_alike_where_there_is_nothing_new_or_nothing_old():
    assert alike([], NEW) == alike(NEW, []) == alike([asked("?!")], NEW) == set()


def test_many_are_compared_in_parts(monkeypatch):
    monkeypatch.setattr(likeness, "_TOGETHER", 2)
    old = [asked(f"Which CAS number identifies {number}?") for number in range(5)]

    assert alike(NEW, [*old, asked("Where?")]) == {0, 1, 2, 3, 4}
