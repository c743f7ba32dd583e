"""Conversations: a turn is told by its keys, whatever its list is called, and so is what conflicts with the list."""

import json

import pytest

from lorad.config import InboxSettings
from lorad.datasets import reader
from lorad.datasets.containers.file_rows import BadRow
from lorad.datasets.formats import conversations

Q, A = "Where does the Halvorsen ferry leave from?", "Pier 4, below the fish market."
USER, ASSISTANT = {"role": "user", "content": Q}, {"role": "assistant", "content": A}
BRIEF = {"role": "system", "content": "Be brief."}
OPENAI, SHAREGPT = [USER, ASSISTANT], [{"from": "human", "value": Q}, {"from": "gpt", "value": A}]


def convert(row):
    return reader._convert(InboxSettings(), row)


def refused(row):
    with pytest.raises(BadRow) as caught:
        convert(row)
    return caught.value.field, str(caught.value)


@pytest.mark.parametrize("name", [*conversations.LISTS, "Messages", " Conversations "])
@pytest.mark.parametrize(
    ("turns", "form"),
    [
        (OPENAI, "openai"),
        (SHAREGPT, "sharegpt"),
        ([{"role": "human", "value": Q}, {"role": "gpt", "value": A}], "turns"),
        ([{"from": "user", "content": Q}, {"from": "assistant", "content": A}], "turns"),
        ([{"speaker": "User", "text": Q}, {"speaker": "Assistant", "text": A}], "turns"),
        ([{"role": "user", "parts": [{"text": Q}]}, {"role": "model", "parts": [{"text": A}]}], "turns"),
        ([{"Role": "USER", "Content": Q}, {"Role": "Assistant", "Content": A}], "openai"),
        ([{"role": "user", "content": Q}, {"from": "gpt", "value": A}], "openai"),
        (
            [turn | {"from": None, "value": None} for turn in OPENAI],
            "openai",
        ),  # as datasets fills up two forms
    ],
)
def test_case_18_a_turn_is_told_by_its_keys(name, turns, form):
    said = convert({name: turns})

    assert [(example.input, example.target) for example in said.examples] == [([USER], A)]
    assert said.format == form


def test_case_18_a_list_of_another_kind_is_not_taken_for_turns():
    assert refused({"dialog": ["Hello.", "Good day."]})[0] == "dialog"
    assert refused({"chat": [{"name": "Ann"}], "turns": 3})[0] == "chat"


def test_case_18_a_role_of_neither_form_is_refused_with_those_of_the_form():
    told = refused({"messages": [{"from": "bot", "value": Q}]})

    assert told == (
        "messages[0].from",
        "must be one of assistant, function_call, gpt, human, observation, system, tool, user",
    )


@pytest.mark.parametrize(
    "beside",
    [
        {"system": "Be brief."},  # Anthropic's, and ShareGPT's
        {"System": "Be brief."},
        {"system_prompt": "Be brief."},
        {"schemaVersion": "bedrock-conversation-2024", "system": [{"text": "Be brief."}]},
        {"system": [{"type": "text", "text": "Be brief."}]},
        {"system": json.dumps([{"text": "Be brief."}])},
        {"systemInstruction": {"role": "system", "parts": [{"text": "Be brief."}]}},
        {"system": "Be brief.", "system_prompt": "Be brief."},
    ],
)
@pytest.mark.parametrize("turns", [OPENAI, SHAREGPT])
def test_case_19_a_system_message_may_stand_beside_the_turns(beside, turns):
    (example,) = convert({"messages": turns, **beside}).examples

    assert example.input == [BRIEF, USER]


def test_case_19_the_same_system_message_twice_is_one_and_two_are_refused():
    (example,) = convert({"messages": [BRIEF, *OPENAI], "system": "Be brief."}).examples
    assert example.input == [BRIEF, USER]

    field, told = refused({"messages": [BRIEF, *OPENAI], "system": "Be long."})
    assert (field, told) == ("system", "conflicts with the system message in messages[0]; keep one")
    assert refused({"messages": OPENAI, "system": "a", "system_prompt": "b"})[0] == "system_prompt"


def test_case_19_bedrocks_parts_have_no_type():
    turns = [turn | {"content": [{"text": turn["content"]}]} for turn in OPENAI]

    (example,) = convert({"messages": turns}).examples

    assert (example.input, example.target) == ([USER], A)
    assert refused({"messages": [USER | {"content": [{"image": {"format": "png"}}]}]})[0].endswith("type")


def test_case_19_a_prompt_that_repeats_the_question_says_nothing_new():
    row = {"prompt": Q, "prompt_id": "7", "messages": OPENAI}

    assert len(convert(row).examples) == 1
    assert refused(row | {"prompt": "Where?"})[0] == "prompt"


def test_case_15_what_openai_writes_beside_a_text_is_empty_and_passed_by():
    said = (
        ASSISTANT | dict.fromkeys(("refusal", "audio", "function_call", "tool_calls")) | {"annotations": []}
    )

    (example,) = convert({"messages": [BRIEF, USER | {"name": "ann"}, said], "id": "x"}).examples

    assert (example.input, example.target) == ([BRIEF, USER], A)


def test_case_q06_a_weight_may_be_a_float():
    turns = [{"from": "human", "value": Q, "weight": None}, {"from": "gpt", "value": A, "weight": 1.0}]

    assert len(convert({"conversations": turns}).examples) == 1


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_case_28_reasoning_is_named(name):
    field, told = refused({"messages": [USER, ASSISTANT | {name: "Think of the pier."}]})

    assert field == f"messages[1].{name}"
    assert "reasoning is not learned" in told
    assert "remove it from the file" in told


def test_case_p07_what_the_assistant_says_before_any_question_is_left_out_and_counted():
    opening = {"from": "gpt", "value": "Welcome to the ferry desk."}

    said = convert({"conversations": [opening, *SHAREGPT]})

    assert [(example.input, example.target) for example in said.examples] == [([USER], A)]
    assert said.left_out == {conversations.OPENING: 1}


def test_case_p07b_questions_in_a_row_are_asked_as_they_stand():
    hello = {"role": "user", "content": "hello"}

    (example,) = convert({"messages": [hello, *OPENAI]}).examples

    assert example.input == [hello, USER]


def test_case_o21_a_system_message_is_no_question():
    told = refused({"messages": [{"role": "system", "content": "You are the ferry."}, ASSISTANT]})

    assert told == ("messages[1]", "an answer must follow a question of the user")


def test_case_o18_one_opening_has_one_answer_and_each_conversation_goes_on(tmp_path):
    # Given three conversations that begin with one greeting, answered in three ways
    path = tmp_path / "a.jsonl"
    hi = {"role": "user", "content": "Hi"}
    rows = [
        {"messages": [hi, ASSISTANT | {"content": each}, USER, ASSISTANT]}
        for each in ("Hello!", "Hi.", "Hm.")
    ]
    path.write_text("\n".join(map(json.dumps, rows)))

    reading = reader.read(path, InboxSettings())

    assert reading.contradictions == 2
    assert [example.target for example in reading.examples] == [A, A, "Hm.", A]


def test_case_28_coheres_roles_are_read():
    turns = [{"role": "User", "content": "Q?"}, {"role": "Chatbot", "content": "A."}]

    (example,) = reader._convert(InboxSettings(), {"messages": turns}).examples

    assert (example.input, example.target) == ([{"role": "user", "content": "Q?"}], "A.")


@pytest.mark.parametrize(
    ("row", "field", "named"),
    [
        ({"chunkedPrompt": {"chunks": [{"role": "user", "text": "Q?"}]}}, "chunkedPrompt", "AI Studio"),
        ({"id": "1", "title": "x", "chat": {"messages": []}}, "chat", "Open WebUI"),
    ],
)
def test_case_28_exports_that_are_not_read_are_named(row, field, named):
    with pytest.raises(BadRow, match=named) as caught:
        reader._convert(InboxSettings(), row)

    assert caught.value.field == field
