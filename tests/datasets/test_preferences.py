"""Preferences: refused by name, and when asked for the good answer as any other."""

import json
from pathlib import Path

import pytest

from lorad.config import InboxSettings
from lorad.datasets import reader
from lorad.datasets.containers.file_rows import BadRow
from lorad.errors import SampleError

DATA = Path(__file__).parents[1] / "data"
LEARN = InboxSettings(preferences="learn_chosen")
Q, A, BAD = "Where is the mill?", "By the river.", "On the hill."
ASKED, TOLD, WRONG = (
    {"role": role, "content": text} for role, text in (("user", Q), ("assistant", A), ("assistant", BAD))
)


def read(row):
    return reader._convert(LEARN, row).examples


def said(reading):
    return [([turn["content"] for turn in e.input], e.target) for e in reading.examples]


@pytest.mark.parametrize(
    ("name", "formats", "expected"),
    [
        (
            "dpo.jsonl",
            {"preference": 6},
            [
                ([Q], A),
                (["Where is the ford?"], "Below the mill."),
                (["Hello.", "Good day.", "Who owns the mill?"], "Arlo."),
                (["Who bakes?"], "Anna."),
                (["Name the river."], "The Alder."),
                (["Hello.", "Good day.", "When is market?"], "On Fridays."),
            ],
        ),
        (
            "kto.jsonl",
            {"kto": 5},
            [
                ([Q], A),
                (["Where is the ford?"], "Below the mill."),
                (["Name the river."], "The Alder."),
                (["Hello.", "Good day.", "Who bakes?"], "Anna."),
            ],
        ),
        ("openai_preferences.jsonl", {"openai preference": 1}, [(["Answer briefly.", Q], A)]),
    ],
)
def test_the_good_answer_is_learned_when_that_is_asked_for(name, formats, expected):
    reading = reader.read(DATA / name, LEARN)

    assert said(reading) == expected
    assert (reading.formats, reading.problems) == (formats, ())


@pytest.mark.parametrize("name", ["dpo.jsonl", "kto.jsonl", "openai_preferences.jsonl"])
def test_else_they_are_refused_with_the_settings_name(name):
    with pytest.raises(SampleError) as caught:
        reader.read(DATA / name, InboxSettings())

    assert "inbox.preferences is refuse; set it to learn_chosen" in caught.value.message
    assert len(caught.value.data["rows"]) == len((DATA / name).read_text().splitlines())


def test_bad_answers_alone_teach_nothing(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(f"prompt,completion,label\n{Q},{BAD},False\n")

    with pytest.raises(SampleError, match=r"only rows with nothing to learn \(1\)") as caught:
        reader.read(path, LEARN)
    assert caught.value.code == "no_rows"


@pytest.mark.parametrize(
    ("row", "field", "message"),
    [
        ({"prompt": Q, "chosen": "", "rejected": BAD}, "chosen", "is empty"),
        ({"prompt": Q, "rejected": BAD}, "chosen", "is empty"),
        ({"prompt": Q, "chosen": {"a": 5}, "rejected": BAD}, "chosen[0].role", "must be one of"),
        ({"chosen": A, "rejected": BAD}, "prompt", "the field is missing"),
        ({"prompt": Q, "chosen": A, "rejected": BAD, "tools": [1]}, "tools", "unknown"),
        (
            {"prompt": "Other?", "chosen": [ASKED, TOLD], "rejected": [ASKED, WRONG]},
            "prompt",
            "beginning of chosen and rejected",
        ),
        ({"prompt": 5, "chosen": [TOLD], "rejected": [WRONG]}, "prompt", "must be text or a list"),
        (
            {"prompt": [ASKED], "chosen": [{"role": "assistant", "content": ""}]},
            "chosen[0].content",
            "not empty",
        ),
        (
            {"messages": [ASKED], "chosen": {"role": "bot"}, "rejected": WRONG},
            "chosen.role",
            "must be one of",
        ),
        ({"prompt": Q, "completion": A, "label": "maybe"}, "label", "must be true or false"),
        ({"prompt": Q, "completion": A, "label": 0}, "label", "must be true or false"),  # a category, perhaps
        ({"prompt": Q, "completion": A, "kto_tag": "maybe"}, "kto_tag", "must be true or false"),
        ({"input": Q, "preferred_output": [TOLD]}, "input.messages", "must be a list"),
        ({"input": {"messages": [ASKED]}, "preferred_output": A}, "preferred_output", "must be a list"),
        (
            {"input": {"messages": [ASKED]}, "non_preferred_output": [WRONG]},
            "preferred_output",
            "must be a list",
        ),
        (
            {"input": {"messages": [ASKED]}, "preferred_output": [ASKED]},
            "preferred_output",
            "holds no answer",
        ),
    ],
)
def test_a_bad_preference_is_told_with_the_files_own_field(row, field, message):
    with pytest.raises(BadRow) as caught:
        reader._convert(LEARN, row)

    assert caught.value.field == field
    assert message in str(caught.value)


def test_a_preference_may_stand_among_plain_rows():
    assert (
        reader._convert(LEARN, {"question": Q, "answer": A, "chosen": None, "label": ""}).format
        == "question-answer"
    )


@pytest.mark.parametrize("text", ["[2, 3, 5]", '["a", {"b": 1}]', "[[]]"])
def test_a_good_answer_in_json_stays_text(text):
    (example,) = read({"prompt": Q, "chosen": text, "rejected": "2 3 5"})

    assert (example.input, example.target) == ([ASKED], text)


def test_a_question_in_json_stays_text():
    (example,) = read({"prompt": "[1, 2]", "chosen": [TOLD], "rejected": [WRONG]})

    assert example.input == [{"role": "user", "content": "[1, 2]"}]


def test_what_both_conversations_begin_with_is_the_question():
    begun = [ASKED, TOLD, {"role": "user", "content": "And now?"}]
    for rejected in ([*begun, WRONG], None, [*begun, TOLD]):
        (example,) = read({"chosen": [*begun, TOLD], "rejected": rejected})

        assert (example.input, example.target) == (begun, A)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("keys", [("chosen", "rejected"), ("Chosen", "REJECTED "), ("rejected", "other")])
def test_the_only_row_of_a_file_is_no_list_of_conversations(tmp_path, name, keys):
    # Given one row, whose two conversations could be two rows
    asked = {"role": "user", "content": "Where is the mill?"}
    good, bad = ([asked, {"role": "assistant", "content": said}] for said in ("By the river.", "Nowhere."))
    (tmp_path / name).write_text(json.dumps(dict(zip(keys, (good, bad), strict=True))))

    with pytest.raises(SampleError, match="preferences are not learned"):
        reader.read(tmp_path / name, InboxSettings())
