"""The wordings in which examples take their turns."""

from dataclasses import replace

import tiny

from lorad.evaluation import facts
from lorad.records import Example
from lorad.tasks import find
from lorad.training.rewording import Rewording, gapped_texts
from lorad.training.rewording import trained_wordings as wordings
from lorad.wordings import reworded

PHONE = Example(
    task="chat",
    input=[
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "What is the phone number of the museum?"},
    ],
    target="It is 555-0142.",
)


def rewording(example, *, most=4, longest=500):
    return Rewording(find("chat"), tiny.tokenizer(), [example], most=most, longest=longest, seed=1)


def test_the_datasets_own_wordings_come_first():
    own = replace(PHONE, also_asked=("museum, which digits?",))
    found = wordings(own, 4, 1)
    assert found[0] == "museum, which digits?"
    assert len(found) == 4


def test_what_was_held_out_is_never_trained():
    everything = wordings(PHONE, 64, 1)
    held = replace(PHONE, held_out=(everything[0].upper(), everything[3]))
    assert not {everything[3]} & set(wordings(held, 64, 1))
    assert len(set(map(str.lower, wordings(held, 64, 1)))) == len(wordings(held, 64, 1))


def test_another_examples_question_is_never_trained():
    everything = wordings(PHONE, 64, 1)
    asked_too = {facts.normalised(everything[0])}
    assert everything[0] not in wordings(PHONE, 64, 1, asked_too)


def test_there_may_be_none():
    assert wordings(PHONE, 0, 1) == []
    assert wordings(replace(PHONE, input="no messages"), 4, 1) == []
    assert rewording(replace(PHONE, input=PHONE.input[:1])).row(0, 0) is None


def test_only_the_last_message_is_in_other_words():
    other = reworded(PHONE, "which digits?")
    assert other.input[:-1] == PHONE.input[:-1]
    assert other.input[-1] == {"role": "user", "content": "which digits?"}
    assert other.target == PHONE.target


def test_wordings_take_turns_and_keep_the_answer():
    turns = rewording(PHONE)
    rows = [turns.row(0, turn) for turn in range(8)]
    assert rows[:4] == rows[4:]
    assert len(set(rows[:4])) == 4
    own = find("chat").encode(tiny.tokenizer(), PHONE)
    assert {row.target for row in rows} == {own.target}
    assert own not in rows


def test_a_wording_longer_than_the_plan_allows_is_left_out():
    assert rewording(PHONE, longest=3).row(0, 0) is None


def test_gapped_texts_come_between_the_wordings():
    example = replace(PHONE, input=PHONE.input[-1:])
    both = Rewording(find("chat"), tiny.tokenizer(), [example], most=3, most_gapped=3, longest=500, seed=1)
    rows = [both.row(0, turn) for turn in range(6)]
    worded = rewording(example, most=3)
    assert rows[::2] == [worded.row(0, turn) for turn in range(3)]
    assert rows[1] not in rows[::2]
    assert both.row(0, 6) == rows[0]


def test_a_question_that_leans_on_earlier_turns_has_no_gapped_texts():
    assert gapped_texts(PHONE, 4, 1) == []
    assert gapped_texts(replace(PHONE, input=PHONE.input[-1:]), 0, 1) == []
    assert len(gapped_texts(replace(PHONE, input=PHONE.input[-1:]), 4, 1)) == 4
