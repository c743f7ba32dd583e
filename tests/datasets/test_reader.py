"""Dataset formats: what is learned from a row, and what is told of one that cannot be learned from."""

import gzip
import json
from pathlib import Path

import pytest

from lorad.config import InboxSettings
from lorad.datasets import reader
from lorad.errors import SampleError
from lorad.records import Example

DATA = Path(__file__).parents[1] / "data"
EXAMPLES = Path(__file__).parents[2] / "examples"
Q, A = "Where is the mill?", "By the river."
USER, ASSISTANT = {"role": "user", "content": Q}, {"role": "assistant", "content": A}
ROW = {"instruction": Q, "output": A}


def only(reading):
    assert len(reading.examples) == 1
    return reading.examples[0]


# formats


def test_every_format_says_the_same():
    # Given a file with one question and answer in every format
    reading = reader.read(DATA / "every_format.jsonl", InboxSettings())

    names = [*(name for name, _, _ in reader.PAIRS), "openai", "sharegpt"]
    assert reading.formats == dict.fromkeys(names, 1)
    assert only(reading) == Example(
        task="chat", input=[USER], target=A, dataset="every_format", line=len(names)
    )
    assert (reading.rows, reading.repeated) == (len(names), len(names) - 1)


@pytest.mark.parametrize("name", ["campus_cs", "campus_dining", "campus_housing"])
def test_the_shipped_examples_are_good(name):
    reading = reader.read(EXAMPLES / f"{name}.json", InboxSettings())

    assert len(reading.examples) == reading.rows > 100
    assert (reading.problems, reading.repeated, reading.contradicted) == ((), 0, ())


@pytest.mark.parametrize(
    ("name", "formats", "rows"),
    [
        ("alpaca.json", {"alpaca": 2}, [([Q], A), (["Name the place.\nIt grinds corn."], "The mill.")]),
        ("llama_factory.json", {"alpaca": 1}, [(["Answer briefly.", Q, A, "And the ford?"], "Below it.")]),
        (
            "openorca.jsonl",
            {"question-response": 2},
            [(["Answer briefly.", Q], A), (["Where is the ford?"], "Below the mill.")],
        ),
        (
            "openai.jsonl",
            {"openai": 3},
            [
                (["Answer briefly.", Q], A),
                ([Q, "No idea.", "Look again."], A),
                (["Answer briefly.", "Where is the ford?"], "Below the mill."),
            ],
        ),
        (
            "prompt_completion.jsonl",
            {"prompt-completion": 1, "prompt-completion messages": 2},
            [
                (["The mill stands"], " by the river."),
                ([Q], A),
                (["Answer briefly.", Q, A, "And the ford?"], "Below it."),
            ],
        ),
        ("memory_export.jsonl", {"openai": 1}, [([Q], A)]),
    ],
)
def test_a_file_is_read_as_its_program_means_it(name, formats, rows):
    reading = reader.read(DATA / name, InboxSettings())

    assert reading.formats == formats
    assert [([turn["content"] for turn in e.input], e.target) for e in reading.examples] == rows
    assert reading.problems == ()


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        (
            "openai_tools_wrong.jsonl",
            [
                "messages[1]",
                "messages[1].tool_calls[0].arguments",
                "messages[1].tool_calls[0].arguments",
                "messages[1].tool_calls[0]",
                "messages[0].tool_calls",
                "tools[0]",
                "tools",
                "messages[1].function_call",
                "conversations[1].value",
                "messages[0].content[1].type",
            ],
            [
                "must follow its call",
                "not JSON",
                "an object",
                "with a name",
                "only the assistant",
                "with a name",
                "a list of functions",
                "the old form",
                "not JSON",
                "pictures, sound and files are not learned",
            ],
        ),
        (
            "preferences.jsonl",
            ["chosen", "label", "preferred_output", "text", "input_ids", "segments"],
            ["preferences"] * 3 + ["a question and its answer", "token ids", "segments are not learned"],
        ),
    ],
)
def test_a_format_that_teaches_no_answer_is_refused_with_its_reason(name, fields, words):
    # Given rows that other programs train, and that lorad would learn wrongly
    with pytest.raises(SampleError) as caught:
        reader.read(DATA / name, InboxSettings())

    told = caught.value.data["rows"]
    assert [problem["field"] for problem in told] == fields
    for problem, word in zip(told, words, strict=True):
        assert word in problem["message"]


TOOL = {
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
}


def called(place):
    return {"content": "", "tool_calls": [{"name": "get_weather", "arguments": {"place": place}}]}


def test_trls_prompt_and_completion_may_call_tools(read):
    reading = read(
        [{"prompt": [USER], "completion": [{"role": "assistant", **called("mill")}], "tools": [TOOL]}]
    )

    (example,) = reading.examples
    assert example.input == [{"role": "tools", "content": json.dumps([TOOL])}, USER]
    assert example.target == called("mill")


def test_a_call_of_a_tool_and_what_is_made_of_it_are_two_answers():
    reading = reader.read(DATA / "openai_tools.jsonl", InboxSettings())

    assert reading.formats == {"openai": 1, "sharegpt": 1}
    told = [(e.input, e.target) for e in reading.examples]
    for (asked, call), (heard, answer), (place, weather, said) in zip(
        told[::2], told[1::2], [("mill", "rain", "It rains."), ("ford", "fog", "There is fog.")], strict=True
    ):
        assert asked == [
            {"role": "tools", "content": json.dumps([TOOL])},
            {"role": "user", "content": f"What is the weather at the {place}?"},
        ]
        assert call == called(place)
        assert heard == [*asked, {"role": "assistant", **call}, {"role": "tool", "content": weather}]
        assert answer == said


def test_a_conversation_is_one_example_an_answer():
    reading = reader.read(DATA / "conversation.json", InboxSettings())

    first, second = reading.examples
    start = [{"role": "system", "content": "Answer briefly."}, USER]
    assert (first.input, first.target) == (start, A)
    assert second.input == [*start, ASSISTANT, {"role": "user", "content": "And the ford?"}]
    assert second.target == "Below it."
    assert reading.formats == {"sharegpt": 1}


@pytest.mark.parametrize(
    ("row", "question"),
    [
        (ROW | {"system": "Be brief."}, [{"role": "system", "content": "Be brief."}, USER]),
        (ROW | {"system_prompt": "Be brief."}, [{"role": "system", "content": "Be brief."}, USER]),
        (ROW | {"system": ""}, [USER]),
        (
            ROW | {"system": "Be brief.", "system_prompt": "Be brief."},
            [{"role": "system", "content": "Be brief."}, USER],
        ),
        (ROW | {"input": "", "text": f"### Instruction:\n{Q}\n\n### Response:\n{A}"}, [USER]),
        (ROW | {"text": " "}, [USER]),
        (ROW | {"system": None}, [USER]),
        (ROW | {"history": [[Q, A]]}, [USER, ASSISTANT, USER]),
        (ROW | {"history": []}, [USER]),
        (ROW | {"history": None}, [USER]),
        (ROW | {"input": "the old one"}, [{"role": "user", "content": f"{Q}\nthe old one"}]),
        (ROW | {"input": " "}, [USER]),
        (
            ROW | {"id": 7, "source": "x", "category": [], "metadata": {}, "tags": 1, "difficulty": None},
            [USER],
        ),
        (
            ROW | {"system": "Be brief.", "history": [[Q, A]], "input": "x"},
            [
                {"role": "system", "content": "Be brief."},
                USER,
                ASSISTANT,
                {"role": "user", "content": f"{Q}\nx"},
            ],
        ),
        ({"messages": [{"role": "system", "content": "Be brief."}, USER, ASSISTANT]}, None),
        ({"messages": [USER, ASSISTANT, USER]}, [USER]),  # a last question without an answer teaches nothing
    ],
)
def test_what_belongs_to_the_question(read, row, question):
    example = only(read([row]))

    assert example.input == (question or [{"role": "system", "content": "Be brief."}, USER])
    assert example.target == A


@pytest.mark.parametrize("roles", [("human", "gpt"), ("user", "assistant")])
def test_a_conversation_may_name_its_roles_in_two_ways(read, roles):
    turns = [
        {"from": "system", "value": "Be brief."},
        {"from": roles[0], "value": Q},
        {"from": roles[1], "value": A},
    ]

    example = only(read([{"conversations": turns}]))

    assert example.input == [{"role": "system", "content": "Be brief."}, USER]


def test_turns_may_be_the_text_of_their_json(read):
    # Given rows as a table holds them
    rows = [
        {"messages": json.dumps([USER, ASSISTANT])},
        {"conversations": json.dumps([{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}])},
        {"prompt": json.dumps([USER | {"content": "a"}]), "completion": json.dumps([ASSISTANT])},
        ROW | {"history": json.dumps([["c", "d"]])},
    ]

    reading = read(rows)

    assert [(example.input[0]["content"], example.target) for example in reading.examples] == [
        (Q, A),
        ("x", "y"),
        ("a", A),
        ("c", A),
    ]


@pytest.mark.parametrize("text", ["[1, 2]", '[{"name": "mill"}]', "[]", "[", "[{'name': 'mill'}]"])
def test_an_answer_in_json_stays_text(read, text):
    example = only(read([{"prompt": text, "completion": text}]))

    assert (example.input, example.target) == ([{"role": "user", "content": text}], text)


def test_of_prompt_and_completion_one_may_be_text(read):
    assert only(read([{"prompt": [USER], "completion": A}])).input == [USER]
    assert only(read([{"prompt": Q, "completion": [ASSISTANT]}])).target == A


def test_fields_that_hold_nothing_are_passed_over(read):
    # Given a row of a table that also has columns for other formats
    row = {"question": Q, "answer": A, "messages": None, "instruction": None, "output": None, "tools": "[]"}

    reading = read([row])

    assert only(reading).target == A
    assert reading.formats == {"question-answer": 1}


def test_white_space_inside_an_answer_is_the_answers_own(read):
    assert only(read([{"question": Q, "answer": " a\n\tb "}])).target == " a\n\tb "


# repetition and contradiction


def test_a_repeated_row_is_counted_and_the_last_one_kept(read):
    reading = read([ROW, {"question": "x", "answer": "y"}, {"prompt": Q, "completion": A}])

    assert [(example.target, example.line) for example in reading.examples] == [("y", 2), (A, 3)]
    assert (reading.rows, reading.repeated, reading.contradicted) == (3, 1, ())


def test_of_two_answers_to_one_question_the_later_counts(read):
    reading = read([ROW, ROW | {"output": "On the hill."}])

    assert only(reading).target == "On the hill."
    assert [(example.target, example.line) for example in reading.contradicted] == [(A, 1)]
    assert reading.repeated == 0


SPELLED = ("What is its name?", "what is its name?", "What is its name? ", "What is  its name?")


def test_case_21_four_spellings_of_a_question_with_four_answers_contradict(read):
    answers = ("Solveig.", "Astrid.", "Ingrid.", "Sigrid.")

    reading = read([{"question": q, "answer": a} for q, a in zip(SPELLED, answers, strict=True)])

    assert (only(reading).input[0]["content"], only(reading).target) == (SPELLED[-1], "Sigrid.")
    assert [example.target for example in reading.contradicted] == list(answers[:3])
    assert (reading.contradictions, reading.repeated) == (3, 0)


def test_case_21_one_answer_to_a_question_in_four_spellings_is_a_repetition(read):
    reading = read([{"question": question, "answer": A} for question in SPELLED])

    assert (len(reading.examples), reading.contradictions, reading.repeated) == (1, 0, 3)


def test_a_content_is_the_same_in_any_order_and_layout(read):
    other = {"question": "x", "answer": "y"}
    one = read([ROW, other]).digest

    assert read([other, ROW]).digest == one
    assert read(f"{json.dumps(other)}\n{json.dumps(ROW)}\n", "b.jsonl").digest == one
    assert read([ROW, other, ROW]).digest == one
    assert read([ROW]).digest != one
    assert read([ROW, other | {"answer": "z"}]).digest != one


@pytest.mark.parametrize("name", ["a.json", "a.jsonl.gz", "a.gz", "a.GZ", "a"])
def test_a_dataset_is_named_after_its_file(read, name):
    content = json.dumps([ROW]).encode()

    assert only(read(gzip.compress(content) if "z" in name.lower() else content, name)).dataset == "a"


def test_the_task_is_the_tracks(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"text": "x", "label": "y"}]))

    assert only(reader.read(path, InboxSettings(), "classify")).task == "classify"


# bad rows


@pytest.mark.parametrize(
    ("row", "field", "message"),
    [
        # no format
        ({}, "instruction", "the field is missing; a row has instruction/output"),
        ({"txt": "x"}, "txt", "the field is unknown here; a row has instruction/output"),
        ({"txt": "x", "text": "x"}, "text", "a document is for a retrieval track"),
        ({"question": Q, "text": "x"}, "text", "text without a question is not learned"),
        ({"messages": None}, "messages", "is empty"),
        ({"instruction": Q, "antwort": A}, "antwort", "the field is unknown here"),
        ({"system": "x", "id": 1}, "instruction", "the field is missing"),
        ({"instruction": Q}, "output", "the field is missing"),
        ({"answer": A}, "question", "the field is missing"),
        ("x", "", "a row must be an object with named fields, not a str"),
        ([ROW], "", "not a list"),
        (None, "", "not a NoneType"),
        # pairs
        (ROW | {"outptu": 1}, "outptu", "unknown here; known: also_asked, context, held_out, history, input"),
        ({"question": Q, "answer": A, "input": "x"}, "input", "unknown here"),
        (ROW | {"output": " \n"}, "output", "is empty"),
        (ROW | {"instruction": ""}, "instruction", "is empty"),
        (ROW | {"output": {"a": 5}}, "output", "must be text, not dict"),
        (ROW | {"output": None}, "output", "is empty"),
        (ROW | {"output": "a\x00b"}, "output", "NUL"),
        (ROW | {"output": "a\ud800b"}, "output", "surrogate"),
        (ROW | {"input": "a\ud800b"}, "input", "surrogate"),
        (ROW | {"input": {"a": 5}}, "input", "must be text, not dict"),
        (ROW | {"system": {"a": 5}}, "system", "must be text, not dict"),
        (ROW | {"system": "\x00"}, "system", "NUL"),
        (ROW | {"system": "x", "system_prompt": "y"}, "system_prompt", "conflicts with system"),
        (ROW | {"text": f"{Q} It grinds corn."}, "text", "conflicts with instruction and output"),
        (ROW | {"input": "the old one", "text": f"{Q} {A}"}, "text", "conflicts with instruction"),
        (ROW | {"text": 5}, "text", "is not learned"),
        (ROW | {"label": "places"}, "label", "leave any other label out with the sidecar's fields"),
        # history
        (ROW | {"history": "x"}, "history", "must be a list of"),
        (ROW | {"history": 5}, "history", "must be a list of"),
        (ROW | {"history": {"a": "b"}}, "history", "must be a list of"),
        (ROW | {"history": [[Q]]}, "history", "must be a list of"),
        (ROW | {"history": [[Q, 5]]}, "history", "must be a list of"),
        (ROW | {"history": [[Q, A, A]]}, "history", "must be a list of"),
        (ROW | {"history": [[Q, "\ud800"]]}, "history", "surrogate"),
        (ROW | {"history": [["\x00", A]]}, "history", "NUL"),
        # turns
        ({"messages": []}, "messages", "must be a list of turns that is not empty"),
        ({"messages": "x"}, "messages", "must be a list of turns"),
        ({"conversations": 5}, "conversations", "must be a list of turns"),
        ({"messages": [USER]}, "messages", "holds no answer of the assistant"),
        ({"messages": [ASSISTANT]}, "messages[0]", "an answer must follow a question"),
        (
            {"messages": [{"role": "system", "content": "x"}, ASSISTANT]},
            "messages[1]",
            "must follow a question",
        ),
        (
            {"messages": [USER, {"role": "bot", "content": A}]},
            "messages[1].role",
            "assistant, developer, system",
        ),
        ({"messages": [USER, {"role": [], "content": A}]}, "messages[1].role", "must be one of"),
        ({"messages": [USER, {"role": {}, "content": A}]}, "messages[1].role", "must be one of"),
        ({"messages": [USER, {"content": A}]}, "messages[1].role", "must be one of"),
        ({"messages": [USER, "x"]}, "messages[1].role", "must be one of"),
        (
            {"messages": [USER, {"role": "assistant"}]},
            "messages[1].content",
            "must be text that is not empty",
        ),
        ({"messages": [USER, {"role": "assistant", "content": " "}]}, "messages[1].content", "not empty"),
        (
            {"messages": [USER, {"role": "assistant", "content": [A, A]}]},
            "messages[1].content[0].type",
            "must be text",
        ),
        (
            {"messages": [USER, {"role": "assistant", "content": [{"type": "text"}]}]},
            "messages[1].content[0].text",
            "must be text",
        ),
        ({"messages": [USER, {"role": "assistant", "content": []}]}, "messages[1].content", "not empty"),
        ({"messages": [USER, ASSISTANT | {"weight": 2}]}, "messages[1].weight", "must be 0"),
        ({"messages": [USER, ASSISTANT | {"weight": 0}]}, "messages", "holds no answer of the assistant"),
        ({"messages": [USER, ASSISTANT | {"thoughts": "x"}]}, "messages[1].thoughts", "unknown here"),
        ({"messages": "[1"}, "messages", "must be a list of turns"),
        ({"prompt": [USER], "completion": [USER]}, "completion", "holds no answer of the assistant"),
        ({"prompt": [USER], "completion": [5]}, "completion[0].role", "must be one of"),
        ({"prompt": [], "completion": A}, "prompt", "must be text, not list"),
        ({"prompt": [USER], "completion": ""}, "completion", "is empty"),
        ({"prompt": [USER], "completion": A, "system": "x"}, "system", "unknown here"),
        ({"prompt": "[{'role': 'user'}]", "completion": A}, "prompt", "as Python prints it"),
        ({"messages": [USER, {"role": "assistant", "content": "\x00"}]}, "messages[1].content", "NUL"),
        (
            {"messages": [USER, ASSISTANT], "output": A},
            "output",
            "the field is unknown here; known: also_asked, held_out, messages",
        ),
        (
            {"conversations": [{"from": "bot", "value": Q}]},
            "conversations[0].from",
            "must be one of assistant, function",
        ),
        ({"conversations": [{"from": "human", "value": Q}], "system": {"a": 5}}, "system", "must be text"),
    ],
)
def test_a_bad_row_is_told_with_its_field(refused, row, field, message):
    error = refused([ROW, row])

    assert error.code == "bad_rows"
    assert (error.data["row"], error.data["field"]) == (2, field)
    assert message in error.data["rows"][0]["message"]
    assert "1 of 2 rows cannot be used; the first is row 2" in error.message


def test_a_broken_line_is_told_with_its_number_and_the_others_are_read():
    # Given six lines: an empty one, one that is cut off and one with an unknown field
    with pytest.raises(SampleError) as caught:
        reader.read(DATA / "mostly_good.jsonl", InboxSettings())

    assert [row["row"] for row in caught.value.data["rows"]] == [4, 5]
    assert "not JSON" in caught.value.data["rows"][0]["message"]


@pytest.mark.parametrize(("bad", "is_accepted"), [(0, True), (4, True), (5, False), (6, False)])
def test_good_rows_are_accepted_while_less_than_one_in_twenty_is_bad(read, refused, bad, is_accepted):
    rows = [{"question": str(number), "answer": A} for number in range(100 - bad)]
    rows += [{"question": Q}] * bad

    if is_accepted:
        reading = read(rows)
        assert (len(reading.examples), len(reading.problems), reading.rows) == (100 - bad, bad, 100)
    else:
        assert refused(rows).code == "bad_rows"


@pytest.mark.parametrize(("share", "is_accepted"), [(0.41, True), (0.4, False)])
def test_a_share_of_bad_rows_may_be_left_out(share, is_accepted):
    # Given two bad rows of five
    limits = InboxSettings(max_bad_share=share)

    if is_accepted:
        reading = reader.read(DATA / "mostly_good.jsonl", limits)
        assert [example.line for example in reading.examples] == [1, 3, 6]
        assert [(problem.line, problem.field) for problem in reading.problems] == [(4, ""), (5, "respons")]
        assert reading.rows == 5
    else:
        with pytest.raises(SampleError, match="2 of 5 rows"):
            reader.read(DATA / "mostly_good.jsonl", limits)


def test_a_file_without_one_good_row_is_refused_whatever_the_share(refused):
    assert refused([{"text": "x"}], max_bad_share=1.0).code == "bad_rows"


@pytest.mark.parametrize("max_rows", [50, 1000])
def test_a_list_of_problems_stays_short(refused, max_rows):
    error = refused([{"text": "x"}] * 50, max_rows=max_rows)

    assert len(error.data["rows"]) == 20
    assert "50 of 50 rows" in error.message


# fields that a sidecar names


@pytest.fixture
def mapped(tmp_path):
    def read(content, fields, name="a.json"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return reader.read(path, InboxSettings(), fields=fields)

    return read


FIELDS = {"question": "Frage", "answer": "Antwort"}


def test_fields_are_found_under_the_files_own_names_and_others_left_out(mapped):
    rows = [{"Frage": "A?", "Antwort": "a", "Autor": "me", "question": "not this"}]

    (example,) = mapped(rows, FIELDS).examples

    assert (example.input[-1]["content"], example.target) == ("A?", "a")


@pytest.mark.parametrize("name", ["a.csv", "a.txt"])
def test_a_table_may_have_names_of_its_own(mapped, name):
    reading = mapped("Nr;Frage;Antwort\n1;A?;a\n2;B?;b\n", FIELDS, name)

    assert [example.target for example in reading.examples] == ["a", "b"]


def test_a_mapping_may_choose_among_two_formats(mapped):
    rows = [
        {"text": "x", "messages": [{"role": "user", "content": "A?"}, {"role": "assistant", "content": "a"}]}
    ]

    assert mapped(rows, {"messages": "messages"}).formats == {"openai": 1}


def test_a_problem_is_told_with_the_files_own_name(mapped):
    with pytest.raises(SampleError) as caught:
        mapped([{"Frage": "A?", "Antwort": ""}, {"Frage": "B?"}, {"x": 1}], FIELDS)

    assert [row["field"] for row in caught.value.data["rows"]] == ["Antwort", "Antwort", "Frage"]


def test_a_mapping_of_fields_that_lorad_does_not_know_is_refused(mapped):
    with pytest.raises(SampleError, match="an unknown field Frage") as caught:
        mapped([{"question": "A?", "answer": "a"}], {"Frage": "question"})

    assert caught.value.code == "sidecar"
