"""Which of the four ways a question takes."""

from dataclasses import replace

import pytest

from lorad.records import AnswerThresholds, Example
from lorad.retrieval import answering
from lorad.retrieval.answering import Found
from lorad.retrieval.neighbours import Neighbour
from lorad.storage.memory import Recalled

LINE = AnswerThresholds(
    scored_by="similarity",
    answer=0.8,
    about=0.6,
    false_share=0.0,
    refused_share=0.0,
    questions=0,
)


def found(
    score,
    similarity=0.9,
    *,
    target="It is 555-0142.",
    is_recalled=True,
    about=None,
    is_of_facts=True,
    asked="What is the phone number of the office?",
    dataset="desk",
):
    example = Example(
        task="chat",
        input=[{"role": "user", "content": asked}],
        target=target,
        dataset=dataset,
        line=7,
    )
    near = Neighbour(example=example, similarity=similarity, score=score, is_recalled=is_recalled)
    return Found(
        neighbour=near, score=score, about=similarity if about is None else about, is_of_facts=is_of_facts
    )


class Finder:
    """Finds what a test says."""

    def __init__(self, find, exact=None):
        self.find, self._exact = find, exact

    def exact(self, messages):
        del messages
        return self._exact


def ask(*texts, **hits):
    """Return the reply to a conversation in which the user says these texts; ``hits`` by question."""
    messages = []
    for text in texts:
        messages += [{"role": "user", "content": text}, {"role": "assistant", "content": "Yes."}]
    by_text = hits.get("by_text", {})
    line = hits.get("line", LINE)
    return answering.reply(
        messages[:-1],
        Finder(lambda text: by_text.get(text, hits.get("every")), hits.get("exact")),
        line,
        unknown_words=hits.get("unknown_words", "I was not taught that."),
    )


def test_a_question_is_asked_in_its_trained_wording():
    reply = ask("How do I call you?", every=found(0.9))
    assert reply.mode == "taught"
    assert reply.messages == [{"role": "user", "content": "What is the phone number of the office?"}]
    assert (reply.sources[0].dataset, reply.sources[0].row) == ("desk", 7)
    assert reply.sources[0].confidence > 0.5


def test_a_dataset_may_have_a_line_of_its_own():
    line = replace(LINE, lines={"catalogue": 3.0, "allotment": -2.0})
    assert ask("How do I call you?", every=found(0.9, dataset="catalogue"), line=line).mode == "unknown"
    reply = ask("How do I call you?", every=found(-1.9, dataset="allotment"), line=line)
    assert reply.mode == "taught"
    assert reply.sources[0].confidence == pytest.approx(0.525, abs=1e-3)


def test_of_two_questions_the_one_that_is_farther_above_its_line_counts():
    line = replace(LINE, lines={"catalogue": 3.0, "allotment": -2.0})
    reply = ask(
        "Who runs it?",
        "And her e-mail?",
        by_text={
            "And her e-mail?": found(-1.0, dataset="allotment"),
            "Who runs it? And her e-mail?": found(2.0, dataset="catalogue"),
        },
        line=line,
    )
    assert reply.sources[0].dataset == "allotment"


def two(**hits):
    """Ask who runs it and how to call there; ``hits`` by part."""
    names = {
        "who": "Who runs it",
        "call": "how do I call there?",
        "behind": "Who runs it how do I call there?",
        "whole": "Who runs it, and how do I call there?",
    }
    return ask(names["whole"], by_text={names[name]: hit for name, hit in hits.items()})


RUNS = found(0.9, asked="Who runs the hall?", target="Ada Moor runs it.")
CALLS = found(0.9, asked="What is the hall's number?")


def test_of_two_questions_at_once_both_answers_are_told():
    for reply in (
        two(who=RUNS, call=CALLS),
        two(who=RUNS, behind=CALLS),
        two(who=RUNS, call=found(0.1), behind=CALLS),
    ):
        assert (reply.mode, reply.text) == ("stored", "Ada Moor runs it. It is 555-0142.")
        assert [source.question for source in reply.sources] == [
            "Who runs the hall?",
            "What is the hall's number?",
        ]


def test_where_one_of_two_has_no_answer_of_its_own_the_whole_is_looked_up():
    assert two(who=RUNS, whole=RUNS).mode == "taught"
    assert two(who=RUNS, call=RUNS, whole=RUNS).mode == "taught"
    assert two(who=RUNS, call=found(0.5), whole=found(0.5)).mode == "unknown"


def test_what_the_version_does_not_recall_is_quoted():
    reply = ask("How do I call you?", every=found(0.9, is_recalled=False))
    assert (reply.mode, reply.text, reply.messages) == ("stored", "It is 555-0142.", None)


def test_what_nothing_taught_answers_is_said():
    reply = ask("What is your fax number?", every=found(0.5, similarity=0.7))
    assert (reply.mode, reply.text) == ("unknown", "I was not taught that.")
    assert reply.sources[0].question == "What is the phone number of the office?"
    assert reply.rests_on is None


def test_a_text_that_is_no_fact_does_not_answer_for_another():
    assert ask("A poem about spring?", every=found(0.9, is_of_facts=False)).mode == "weights"
    assert ask("A poem about autumn!", every=found(0.9, similarity=0.96, is_of_facts=False)).mode == "taught"


def test_the_model_answers_all_where_it_is_told_to():
    assert (
        ask("What is your fax number?", every=found(0.5, similarity=0.7), unknown_words=None).mode
        == "weights"
    )


@pytest.mark.parametrize(
    ("hit", "mode"),
    [
        (found(0.1, similarity=0.59), "weights"),
        (found(0.1, similarity=0.6), "unknown"),
        (found(0.1, similarity=0.1, about=0.61), "unknown"),
        (found(0.1, similarity=0.94, about=0.5), "weights"),
        (found(0.1, similarity=0.9, is_of_facts=False), "weights"),
    ],
)
def test_conversation_about_something_else_is_left_alone(hit, mode):
    assert ask("Write me a poem.", every=hit).mode == mode


@pytest.mark.parametrize(
    ("asked", "mode"), [("Hello!", "weights"), ("22000", "taught"), ("Who calls?", "taught")]
)
def test_a_word_that_names_nothing_asks_for_nothing(asked, mode):
    assert ask(asked, every=found(0.9)).mode == mode


def test_nothing_found_leaves_the_question_to_the_model():
    messages = [{"role": "user", "content": "Hello"}]
    reply = answering.reply(messages, Finder(lambda _: None), LINE, unknown_words="No.")
    assert (reply.mode, reply.messages) == ("weights", messages)


def test_a_question_that_leans_on_the_one_before_is_looked_up_with_it():
    reply = ask(
        "Who runs the office?",
        "And how do I call it?",
        by_text={"Who runs the office? And how do I call it?": found(0.9)},
    )
    assert reply.mode == "taught"


@pytest.mark.parametrize(("about", "mode"), [(0.9, "unknown"), (0.1, "weights")])
def test_a_turn_is_refused_only_if_the_one_before_is_about_what_was_taught_too(about, mode):
    reply = ask(
        "How big is it?",
        "And how deep is it?",
        by_text={
            "And how deep is it?": found(0.5, about=0.9),
            "How big is it?": found(0.1, about=about),
            "How big is it? And how deep is it?": found(0.1),
        },
    )
    assert reply.mode == mode


def test_a_turn_that_names_something_is_refused_whatever_was_said_before():
    asked = "Who teaches MATH 220?"
    reply = ask(
        "Hello", asked, by_text={asked: found(0.5), "Hello": found(0.1), f"Hello {asked}": found(0.4)}
    )
    assert reply.mode == "unknown"


def test_a_turn_that_leans_on_the_one_before_is_not_refused():
    reply = ask(
        "Who runs the office?",
        "And of the mill?",
        by_text={
            "And of the mill?": found(0.1, similarity=0.8),
            "Who runs the office? And of the mill?": found(0.5, asked="Who runs the mill?"),
        },
    )
    assert reply.mode == "weights"


def test_a_turn_behind_an_answered_question_is_not_answered_with_that_again():
    reply = ask(
        "What is the phone number of the office?",
        "Write me a poem.",
        by_text={
            "What is the phone number of the office?": found(0.99),
            "Write me a poem.": found(0.1, similarity=0.1, asked="Who sings?"),
            "What is the phone number of the office? Write me a poem.": found(0.9),
        },
    )
    assert reply.mode == "weights"


def test_a_conversation_that_was_taught_is_answered_whatever_is_near():
    known = Recalled(example=found(0.0).neighbour.example, right=True)
    reply = ask("what is the phone number of the office", every=found(0.1), exact=known)
    assert (reply.mode, reply.sources[0].confidence) == ("taught", 1.0)
    quoted = ask("anything", exact=Recalled(example=known.example, right=False))
    assert (quoted.mode, quoted.text) == ("stored", "It is 555-0142.")


def test_a_turn_about_something_else_behind_a_taught_one_is_not_refused():
    reply = ask(
        "Who runs the office?",
        "Write me a poem.",
        by_text={
            "Write me a poem.": found(0.1, similarity=0.1),
            "Who runs the office? Write me a poem.": found(0.5, similarity=0.8),
        },
    )
    assert reply.mode == "weights"


@pytest.mark.parametrize("role", ["system", "tools", "tool"])
def test_what_an_answer_may_hang_on_switches_the_search_off(role):
    messages = [{"role": role, "content": "Be brief."}, {"role": "user", "content": "How do I call you?"}]
    assert answering.last_questions(messages) == []


def test_an_empty_question_is_not_looked_up():
    assert answering.last_questions([{"role": "user", "content": "  "}]) == []
    assert answering.last_questions([]) == []


def test_scores_far_from_the_line_are_still_between_0_and_1():
    assert answering.confidence(1e9) == pytest.approx(1.0)
    assert answering.confidence(-1e9) == pytest.approx(0.0)
