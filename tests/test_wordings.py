"""Other wordings of a question: which are trained, which are only tested, and how those of two rows come together."""

from dataclasses import replace

import pytest

from lorad import wordings
from lorad.records import Example, normal_form

ASKED = "Where is the mill?"
MILL = Example(task="chat", input=[{"role": "user", "content": ASKED}], target="By the river.")


def worded(also=(), held=()):
    return replace(MILL, also_asked=tuple(also), held_out=tuple(held))


@pytest.mark.parametrize(
    ("texts", "trained", "tested"),
    [([], (), ()), (["a"], ("a",), ()), (["a", "b"], ("a",), ("b",)), (["a", "b", "c"], ("a", "b"), ("c",))],
)
def test_of_two_or_more_the_last_one_is_held_out(texts, trained, tested):
    assert wordings.parted(texts) == (trained, tested)


def test_wordings_that_differ_only_in_spelling_are_one():
    assert wordings.distinct(["Mill  where?", "mill where?", "Where is it?"], [ASKED]) == (
        "Mill  where?",
        "Where is it?",
    )
    assert wordings.distinct([" where is the MILL?"], [ASKED]) == ()


@pytest.mark.parametrize(
    ("text", "other"),
    [(ASKED, " where is  the MILL?"), ("Wo ist die Mühle?", "WO ist die Mu\u0308hle?"), ("5 K", "5 \u212a")],
)
def test_texts_of_one_normal_form_have_one_rough_form(text, other):
    assert normal_form(text) == normal_form(other)
    assert wordings.rough_form(text) == wordings.rough_form(other)


def test_a_wording_is_no_part_of_what_identifies_an_example():
    assert worded(["Mill where?"], ["The mill?"]).ids == MILL.ids


def test_an_example_is_asked_in_other_words_behind_the_same_messages():
    system = {"role": "system", "content": "Be brief."}
    example = replace(worded(["Mill where?"]), input=[system, *MILL.input])

    assert wordings.reworded(example, "Mill where?") == replace(
        MILL, input=[system, {"role": "user", "content": "Mill where?"}]
    )


def test_a_wording_stays_what_it_was_first():
    older = worded(["a"], ["b"])
    newer = worded(["b", "c"], ["a", "d"])

    assert wordings.together(older, newer) == worded(["a", "c"], ["b", "d"])
    assert wordings.together(worded(), newer) == newer
    assert wordings.together(older, replace(MILL, target="Gone.")) == replace(older, target="Gone.")


def test_no_more_are_kept_than_a_question_may_have():
    many = [f"wording {n}" for n in range(100)]

    found = wordings.with_wordings(MILL, many, [f"test {n}" for n in range(100)])

    assert (len(found.also_asked), len(found.held_out)) == (wordings.MOST, wordings.MOST)
    assert found.also_asked[0] == many[0]


def test_only_what_the_user_says_has_other_wordings():
    assert wordings.question(MILL) == ASKED
    assert wordings.question(replace(MILL, input=[{"role": "tool", "content": "x"}])) is None
    assert wordings.question(replace(MILL, input=[])) is None
    assert wordings.question(replace(MILL, task="classify", input="text")) is None


def test_wordings_are_taken_away():
    assert wordings.without(worded(["a", "b"], ["c"]), {"a", "c"}) == worded(["b"])
