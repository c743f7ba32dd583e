"""Exports of other products: what is learned of each, and what is left out and counted."""

import contextlib
import json

import pytest

from lorad.config import InboxSettings
from lorad.datasets import reader
from lorad.datasets.containers.file_rows import BadRow
from lorad.datasets.formats import product_exports
from lorad.errors import SampleError

Q, A = "Where does the Halvorsen ferry leave from?", "Pier 4, below the fish market."
Q2, A2 = "What does it cost?", "Three crowns."
USER = {"role": "user", "content": Q}


def convert(row):
    return reader._convert(InboxSettings(), row)


def said(row):
    found = convert(row)
    told = [([turn["content"] for turn in e.input], e.target) for e in found.examples]
    return told, dict(found.left_out)


# ChatGPT


def message(role, *parts, kind="text", **more):
    return {"author": {"role": role}, "content": {"content_type": kind, "parts": list(parts)}, **more}


def chatgpt(*messages, current=None):
    """Return a conversation as ChatGPT exports it: a root without a message, and each turn behind the one before."""
    nodes = {"root": {"id": "root", "parent": None, "children": [], "message": None}}
    before = "root"
    for at, each in enumerate(messages):
        nodes[before]["children"].append(f"n{at}")
        nodes[f"n{at}"] = {"id": f"n{at}", "parent": before, "children": [], "message": each}
        before = f"n{at}"
    return {"title": "Ferry", "create_time": 1.5, "mapping": nodes, "current_node": current or before}


def test_case_28_a_conversation_of_chatgpt_is_read():
    row = chatgpt(message("user", Q), message("assistant", A), message("user", Q2), message("assistant", A2))

    assert said(row) == ([([Q], A), ([Q, A, Q2], A2)], {})
    assert convert(row).format == "chatgpt"


def test_case_28_only_the_branch_that_was_open_last_counts():
    # Given an answer that was asked for again
    row = chatgpt(message("user", Q), message("assistant", "Pier 9."))
    row["mapping"]["again"] = {"parent": "n0", "children": [], "message": message("assistant", A)}

    assert said(row | {"current_node": "again"}) == ([([Q], A)], {})
    assert said(row | {"current_node": "n1"}) == ([([Q], "Pier 9.")], {})
    assert said(row | {"current_node": None}) == ([([Q], A)], {})  # the last leaf


def test_case_28_what_is_not_spoken_text_is_left_out_by_reason():
    hidden = {"metadata": {"is_visually_hidden_from_conversation": True}}
    row = chatgpt(
        message("system", ""),
        message("user", "About me", kind="user_editable_context", **hidden),
        message("user", Q),
        message("assistant", kind="thoughts"),
        message("assistant", "search(ferry)", recipient="web"),
        message("tool", "08:10"),
        message("assistant", A),
        message("assistant", ""),
    )

    told, left_out = said(row)

    assert told == [([Q], A)]
    assert left_out == {
        product_exports.NOT_SPOKEN: 3,
        product_exports.HIDDEN: 1,
        product_exports.NOT_TEXT: 1,
        product_exports.EMPTY: 1,
    }


def test_case_28_a_question_with_a_picture_goes_with_its_answer():
    row = chatgpt(
        message("user", {"asset_pointer": "file-service://x"}, "What is this?", kind="multimodal_text"),
        message("assistant", "A ferry."),
        message("user", Q),
        message("assistant", A),
        message("user", "And this?", metadata={"attachments": [{"id": "f"}]}),
        message("assistant", "A pier."),
    )

    told, left_out = said(row)
    assert told == []  # the question between the two may be about the first picture
    assert left_out == {
        product_exports.WITH_FILES: 2,
        product_exports.UNASKED: 2,
        product_exports.FOLLOWING: 1,
        product_exports.SILENT: 1,
    }


def test_case_28_what_was_said_before_a_picture_is_learned():
    row = chatgpt(
        message("user", Q),
        message("assistant", A),
        message("user", {"asset_pointer": "x"}, kind="multimodal_text"),
        message("assistant", "A ferry."),
        message("user", "What colour is it?"),
        message("assistant", "Red."),
    )

    assert said(row) == (
        [([Q], A)],
        {product_exports.WITH_FILES: 1, product_exports.UNASKED: 1, product_exports.FOLLOWING: 1},
    )


@pytest.mark.parametrize(
    "cut",
    [
        {"status": "finished_partial_completion"},
        {"status": "in_progress"},
        {"metadata": {"finish_details": {"type": "interrupted"}}},
        {"metadata": {"finish_details": {"type": "max_tokens"}}},
    ],
)
def test_case_28_an_answer_that_was_cut_off_is_context_alone(cut):
    row = chatgpt(
        message("user", Q),
        message("assistant", "Pier", **cut),
        message("user", Q2),
        message(
            "assistant",
            A2,
            status="finished_successfully",
            metadata={"finish_details": {"type": "stop"}},
        ),
    )

    assert said(row) == ([([Q, "Pier", Q2], A2)], {product_exports.CUT: 1})


@pytest.mark.parametrize("mark", ["\ue200cite\ue202turn0search0\ue201", "【4†source】", "【12:3†ferry.pdf】"])
def test_case_28_an_answer_with_marks_of_sources_is_left_out(mark):
    row = chatgpt(message("user", Q), message("assistant", A + mark))

    assert said(row) == ([], {product_exports.CITING: 1, product_exports.SILENT: 1})
    assert said(chatgpt(message("user", Q), message("assistant", "【Note】 " + A)))[0]


def test_case_28_what_is_said_before_a_tool_is_used_is_not_the_answer():
    row = chatgpt(
        message("user", Q),
        message("assistant", "Let me look."),
        message("assistant", "search(ferry)", recipient="web"),
        message("tool", "Pier 4"),
        message("assistant", A),
        message("user", Q2),
        message("assistant", "I will look."),
        message("tool", "3"),
    )

    assert said(row) == ([([Q], A)], {product_exports.BEFORE_TOOLS: 2, product_exports.NOT_SPOKEN: 3})


@pytest.mark.parametrize("about", [{"a": "b"}, {"a": {"b": 1}}, {}, {"a": {"parent": "b"}}])
def test_case_28_a_field_called_mapping_is_no_conversation(about):
    with pytest.raises(BadRow) if about else contextlib.nullcontext() as caught:
        assert said({"question": Q, "answer": A, "mapping": about}) == ([([Q], A)], {})

    assert not about or caught.value.field == "mapping"


@pytest.mark.parametrize(
    "row",
    [
        chatgpt(),
        chatgpt(message("user", Q)),
        chatgpt(message("assistant", A)),
        {"mapping": {}, "current_node": "gone"},
        {"mapping": {"a": {"parent": "b"}, "b": {"parent": "a"}}, "current_node": "a"},
        {"mapping": {"a": 5, "b": {"message": 5, "parent": ["a"]}}, "current_node": "b"},
    ],
)
def test_case_28_a_conversation_without_an_answer_is_no_mistake(row):
    told, left_out = said(row)

    assert (told, left_out[product_exports.SILENT]) == ([], 1)


# Claude


def spoken(sender, text, **more):
    return {"sender": sender, "text": text, "content": [{"type": "text", "text": text}], **more}


def claude(*messages):
    return {"uuid": "1", "name": "Ferry", "account": {"uuid": "2"}, "chat_messages": list(messages)}


def test_case_28_a_conversation_of_claude_is_read():
    row = claude(spoken("human", Q, attachments=[], files=[]), spoken("assistant", A))

    assert said(row) == ([([Q], A)], {})
    assert convert(row).format == "claude"


def test_case_28_of_claude_parts_that_are_not_text_are_left_out():
    thought = {"type": "thinking", "thinking": "Think of the pier."}
    answer = spoken("assistant", A)
    row = claude(
        {"sender": "human", "text": Q},
        {"sender": "assistant", "text": "", "content": [thought]},
        answer | {"text": f"Not this {A}", "content": [thought, *answer["content"]]},
        spoken("human", "Read this.", attachments=[{"file_name": "a.txt", "extracted_content": "x"}]),
        spoken("assistant", "It says x."),
        spoken("human", " "),
        spoken("assistant", "Pardon?"),
    )

    assert said(row) == (
        [([Q], A)],
        {
            product_exports.NOT_TEXT: 1,
            product_exports.WITH_FILES: 1,
            product_exports.UNASKED: 2,
            product_exports.EMPTY: 1,
        },
    )


def test_case_28_of_claude_the_texts_before_a_tool_are_not_the_answer():
    def text(said):
        return {"type": "text", "text": said}

    tool = [{"type": "tool_use", "name": "search"}, {"type": "tool_result", "content": []}]
    row = claude(
        spoken("human", Q),
        {
            "sender": "assistant",
            "text": f"Let me look. {A}",
            "content": [text("Let me look."), *tool, text(A)],
        },
        spoken("human", Q2),
        {"sender": "assistant", "text": "Let me look.", "content": [text("Let me look."), *tool]},
    )

    assert said(row) == ([([Q], A)], {product_exports.BEFORE_TOOLS: 1})


def test_case_28_of_claude_an_answer_that_was_cut_off_is_left_out():
    row = claude(spoken("human", Q), spoken("assistant", "Pier", stop_reason="max_tokens"))

    assert said(row) == ([], {product_exports.CUT: 1, product_exports.SILENT: 1})


def test_case_28_of_claude_only_the_newest_branch_counts():
    def at(uuid, parent, sender, text):
        return spoken(sender, text, uuid=uuid, parent_message_uuid=parent)

    row = claude(
        at("a", "00000000-0000-4000-8000-000000000000", "human", Q),
        at("b", "a", "assistant", "Pier 9."),
        at("c", "a", "assistant", A),
        at("d", "c", "human", Q2),
        at("e", "d", "assistant", A2),
    )

    assert said(row) == ([([Q], A), ([Q, A, Q2], A2)], {})
    assert said(row | {"current_leaf_message_uuid": "b"}) == ([([Q], "Pier 9.")], {})


def test_case_28_messages_of_claude_without_an_order_teach_nothing_twice():
    row = claude(
        spoken("human", Q, uuid="a", parent_message_uuid="b"),
        spoken("assistant", A, uuid="b", parent_message_uuid="a"),
    )

    assert said(row) == ([([Q], A)], {})


@pytest.mark.parametrize("name", ["chat_messages", "paragraphs", "qas"])
def test_case_28_an_empty_list_beside_a_question_says_nothing(name):
    assert said({"question": Q, "answer": A, name: []}) == ([([Q], A)], {})


def test_case_28_paragraphs_that_are_not_of_squad_do_not_take_the_row_away():
    with pytest.raises(BadRow) as caught:
        convert({"question": Q, "answer": A, "paragraphs": [{"text": "x"}]})

    assert caught.value.field == "paragraphs"


def test_case_28_an_export_under_the_name_of_conversations_is_read():
    both = [
        chatgpt(message("user", Q), message("assistant", A)),
        claude(spoken("human", Q2), spoken("assistant", A2), spoken("human", " ")),
    ]

    assert said({"conversations": both}) == ([([Q], A), ([Q2], A2)], {product_exports.EMPTY: 1})
    with pytest.raises(BadRow):
        convert({"conversations": both, "topic": "x"})


def test_case_28_a_turn_of_nobody_is_a_bad_row():
    with pytest.raises(BadRow, match="human or assistant") as caught:
        convert(claude(spoken("human", Q), spoken("bot", A)))

    assert caught.value.field == "chat_messages[1].sender"


# a whole file


def test_case_28_a_file_of_conversations_streams_and_its_report_counts(tmp_path):
    # Given more conversations than a row may be long
    path = tmp_path / "conversations.json"
    rows = [
        chatgpt(
            message("user", f"{Q} ({at})"), message("assistant", kind="thoughts"), message("assistant", A)
        )
        for at in range(500)
    ]
    path.write_text(json.dumps(rows))
    longest = max(len(json.dumps(row)) for row in rows)

    reading = reader.read(path, InboxSettings(max_row_bytes=longest + 10))

    assert (reading.rows, len(reading.examples)) == (500, 500)
    assert reading.left_out == {product_exports.NOT_TEXT: 500}


def test_case_28_a_file_of_which_nothing_is_learned_says_why(tmp_path):
    path = tmp_path / "conversations.json"
    path.write_text(json.dumps([chatgpt(message("user", Q)), chatgpt(message("user", Q2))]))

    with pytest.raises(SampleError, match=f"nothing to learn \\(2\\): 2 {product_exports.SILENT}") as caught:
        reader.read(path, InboxSettings())

    assert caught.value.code == "no_rows"


# OpenAI's batches

OUTPUT = {
    "id": "batch_req_1",
    "custom_id": "r1",
    "response": {"status_code": 200, "body": {"choices": [{"message": {"role": "assistant", "content": A}}]}},
    "error": None,
}
INPUT = {"custom_id": "r1", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [USER]}}


@pytest.mark.parametrize(
    ("row", "field", "other"),
    [
        (OUTPUT, "response", "input"),
        (OUTPUT | {"response": None}, "response", "input"),
        (INPUT, "body", "output"),
    ],
)
def test_case_28_half_a_batch_is_told_where_the_other_half_is(row, field, other):
    with pytest.raises(BadRow, match=f"join it with the batch's {other} by custom_id") as caught:
        convert(row)

    assert caught.value.field == field


def test_case_28_a_batch_that_was_joined_is_read():
    for joined in (INPUT | OUTPUT, OUTPUT | {"request": INPUT}, OUTPUT | {"messages": [USER]}):
        assert said(joined) == ([([Q], A)], {})
    cut = {"finish_reason": "length", "message": {"role": "assistant", "content": "Pier"}}
    long = INPUT | OUTPUT | {"response": {"status_code": 200, "body": {"choices": [cut]}}}
    assert said(long) == ([], {product_exports.CUT: 1})
    failed = INPUT | OUTPUT | {"response": {"status_code": 500, "body": {"error": {}}}}
    assert said(failed) == ([], {product_exports.UNANSWERED: 1})


# SQuAD


PASSAGE = "The ferry costs three crowns."
BEHIND = f"{PASSAGE}\nWhat does it cost?"
ANSWERS = [{"text": "three crowns", "answer_start": 16}, {"text": "three", "answer_start": 16}]


def asked(**more):
    return {"id": "1", "question": "What does it cost?", "answers": ANSWERS, **more}


def test_case_28_a_question_of_squad_stands_behind_its_passage(tmp_path):
    path = tmp_path / "squad.json"
    impossible = asked(question="Who steers it?", answers=[], is_impossible=True, plausible_answers=ANSWERS)
    passage = {"context": PASSAGE, "qas": [asked(is_impossible=False), impossible]}
    path.write_text(json.dumps({"version": "v2.0", "data": [{"title": "Ferry", "paragraphs": [passage]}]}))

    reading = reader.read(path, InboxSettings())

    (example,) = reading.examples
    assert (example.input[-1]["content"], example.target) == (BEHIND, "three crowns")
    assert (reading.formats, reading.left_out) == ({"squad": 1}, {product_exports.UNANSWERED: 1})


@pytest.mark.parametrize("answers", [ANSWERS, {"text": ["three crowns", "three"], "answer_start": [16, 16]}])
def test_case_28_a_row_of_squad_as_the_hub_has_it_is_read(answers):
    row = asked(title="Ferry", context=PASSAGE, answers=answers)

    assert said(row) == ([([BEHIND], "three crowns")], {})
    assert said(row | {"answers": {"text": [], "answer_start": []}}) == ([], {product_exports.UNANSWERED: 1})


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"paragraphs": [5, {"qas": []}]}, "paragraphs[0].qas"),
        ({"paragraphs": [{"qas": [asked()]}]}, "paragraphs[0].qas[0]"),
        ({"context": PASSAGE, "qas": [asked(question=" ")]}, "paragraphs[0].qas[0].question"),
        ({"context": PASSAGE, **asked(topic="x")}, "topic"),
    ],
)
def test_case_28_a_passage_that_is_none_is_told_with_its_place(row, field):
    with pytest.raises(BadRow) as caught:
        convert(row)

    assert caught.value.field == field
