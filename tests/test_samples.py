"""Dataset formats: what is read, what is told of what cannot be, and that nothing else ever happens."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorad import samples
from lorad.config import InboxSettings
from lorad.domain import Example
from lorad.errors import SampleError

DATA = Path(__file__).parent / "data"
EXAMPLES = Path(__file__).parent.parent / "examples"
Q, A = "Where is the mill?", "By the river."
USER, ASSISTANT = {"role": "user", "content": Q}, {"role": "assistant", "content": A}
ROW = {"instruction": Q, "output": A}


@pytest.fixture
def read(tmp_path):
    """Return a way to read rows, text or bytes as a dropped file of this name."""

    def read(content, name="a.json", **limits):
        if not isinstance(content, str | bytes):
            content = json.dumps(content)
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return samples.read(path, InboxSettings(**limits))

    return read


@pytest.fixture
def refused(read):
    def refused(content, name="a.json", **limits):
        with pytest.raises(SampleError) as caught:
            read(content, name, **limits)
        assert name in caught.value.message
        return caught.value

    return refused


def only(reading):
    assert len(reading.examples) == 1
    return reading.examples[0]


# formats


def test_every_format_says_the_same():
    # Given a file with one question and answer in every format
    reading = samples.read(DATA / "every_format.jsonl", InboxSettings())

    names = [*(name for name, _, _ in samples.PAIRS), "openai", "sharegpt"]
    assert reading.formats == dict.fromkeys(names, 1)
    assert only(reading) == Example(
        task="chat", question=[USER], answer=A, dataset="every_format", line=len(names)
    )
    assert (reading.rows, reading.repeated) == (10, 9)


@pytest.mark.parametrize("name", ["campus_cs", "campus_dining", "campus_housing"])
def test_the_shipped_examples_are_good(name):
    reading = samples.read(EXAMPLES / f"{name}.json", InboxSettings())

    assert len(reading.examples) == reading.rows > 100
    assert (reading.problems, reading.repeated, reading.contradicted) == ((), 0, ())


def test_a_conversation_is_one_example_an_answer():
    reading = samples.read(DATA / "conversation.json", InboxSettings())

    first, second = reading.examples
    start = [{"role": "system", "content": "Answer briefly."}, USER]
    assert (first.question, first.answer) == (start, A)
    assert second.question == [*start, ASSISTANT, {"role": "user", "content": "And the ford?"}]
    assert second.answer == "Below it."
    assert reading.formats == {"sharegpt": 1}


@pytest.mark.parametrize(
    ("row", "question"),
    [
        (ROW | {"system": "Be brief."}, [{"role": "system", "content": "Be brief."}, USER]),
        (ROW | {"system_prompt": "Be brief."}, [{"role": "system", "content": "Be brief."}, USER]),
        (ROW | {"system": ""}, [USER]),
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

    assert example.question == (question or [{"role": "system", "content": "Be brief."}, USER])
    assert example.answer == A


@pytest.mark.parametrize("roles", [("human", "gpt"), ("user", "assistant")])
def test_a_conversation_may_name_its_roles_in_two_ways(read, roles):
    turns = [
        {"from": "system", "value": "Be brief."},
        {"from": roles[0], "value": Q},
        {"from": roles[1], "value": A},
    ]

    example = only(read([{"conversations": turns}]))

    assert example.question == [{"role": "system", "content": "Be brief."}, USER]


def test_white_space_inside_an_answer_is_the_answers_own(read):
    assert only(read([{"question": Q, "answer": " a\n\tb "}])).answer == " a\n\tb "


# containers


@pytest.mark.parametrize(
    ("content", "name", "lines"),
    [
        (json.dumps([ROW, {"question": "x", "answer": "y"}]), "a.json", [1, 2]),
        (json.dumps([ROW, {"question": "x", "answer": "y"}], indent=2), "a.json", [1, 2]),
        (json.dumps(ROW), "a.json", [1]),
        (json.dumps(ROW, indent=2), "a.json", [1]),
        (json.dumps({"data": [ROW]}), "a.json", [1]),
        (json.dumps({"examples": [ROW], "version": 1}), "a.json", [1]),
        (json.dumps({"rows": [ROW]}, indent=2), "a.json", [1]),
        (json.dumps({"train": [ROW]}), "a.json", [1]),
        (json.dumps(ROW), "a.jsonl", [1]),
        (json.dumps(ROW) + '\n\n{"question": "x", "answer": "y"}\n', "a.jsonl", [1, 3]),
        (json.dumps(ROW) + '\r\n{"question": "x", "answer": "y"}\r\n', "a.ndjson", [1, 2]),
        (json.dumps(ROW) + '\n{"question": "x", "answer": "y"}\n', "a.JSONL", [1, 2]),
        (json.dumps(ROW) + '\n{"question": "x", "answer": "y"}', "a.json", [1, 2]),
        ("\n" + json.dumps(ROW) + '\n{"question": "x", "answer": "y"}', "a.txt", [2, 3]),
        ("\ufeff" + json.dumps([ROW]), "a.json", [1]),
        ("\ufeff" + json.dumps(ROW), "a.jsonl", [1]),
    ],
)
def test_rows_come_in_a_list_or_one_a_line(read, content, name, lines):
    reading = read(content, name)

    assert [example.line for example in reading.examples] == lines
    assert reading.examples[0].question == [USER]


def test_a_line_separator_inside_a_text_does_not_end_its_line(read):
    row = json.dumps({"question": Q, "answer": "one\u2028two\x85three"}, ensure_ascii=False)

    assert only(read(row + "\n", "a.jsonl")).answer == "one\u2028two\x85three"


# repetition and contradiction


def test_a_repeated_row_is_counted_and_the_last_one_kept(read):
    reading = read([ROW, {"question": "x", "answer": "y"}, {"prompt": Q, "completion": A}])

    assert [(example.answer, example.line) for example in reading.examples] == [("y", 2), (A, 3)]
    assert (reading.rows, reading.repeated, reading.contradicted) == (3, 1, ())


def test_of_two_answers_to_one_question_the_later_counts(read):
    reading = read([ROW, ROW | {"output": "On the hill."}])

    assert only(reading).answer == "On the hill."
    assert [(example.answer, example.line) for example in reading.contradicted] == [(A, 1)]
    assert reading.repeated == 0


def test_a_content_is_the_same_in_any_order_and_layout(read):
    other = {"question": "x", "answer": "y"}
    one = read([ROW, other]).digest

    assert read([other, ROW]).digest == one
    assert read(f"{json.dumps(other)}\n{json.dumps(ROW)}\n", "b.jsonl").digest == one
    assert read([ROW, other, ROW]).digest == one
    assert read([ROW]).digest != one
    assert read([ROW, other | {"answer": "z"}]).digest != one


def test_the_task_is_the_tracks(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([ROW]))

    assert only(samples.read(path, InboxSettings(), "tagging")).task == "tagging"


# bad rows


@pytest.mark.parametrize(
    ("row", "field", "message"),
    [
        # no format
        ({}, "instruction", "the field is missing; a row has instruction/output"),
        ({"text": "x"}, "text", "the field is unknown here; a row has instruction/output"),
        ({"instruction": Q, "antwort": A}, "antwort", "the field is unknown here"),
        ({"system": "x", "id": 1}, "instruction", "the field is missing"),
        ({"instruction": Q}, "output", "the field is missing"),
        ({"answer": A}, "question", "the field is missing"),
        ("x", "", "a row must be an object with named fields, not a str"),
        ([ROW], "", "not a list"),
        (None, "", "not a NoneType"),
        # pairs
        (ROW | {"outptu": 1}, "outptu", "unknown here; known: history, input, instruction, output"),
        ({"question": Q, "answer": A, "input": "x"}, "input", "unknown here"),
        (ROW | {"output": " \n"}, "output", "is empty"),
        (ROW | {"instruction": ""}, "instruction", "is empty"),
        (ROW | {"output": 5}, "output", "must be text, not int"),
        (ROW | {"output": None}, "output", "must be text, not NoneType"),
        (ROW | {"output": "a\x00b"}, "output", "NUL"),
        (ROW | {"output": "a\ud800b"}, "output", "surrogate"),
        (ROW | {"input": "a\ud800b"}, "input", "surrogate"),
        (ROW | {"input": 5}, "input", "must be text, not int"),
        (ROW | {"system": 5}, "system", "must be text, not int"),
        (ROW | {"system": "\x00"}, "system", "NUL"),
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
        ({"conversations": None}, "conversations", "must be a list of turns"),
        ({"messages": [USER]}, "messages", "holds no answer of the assistant"),
        ({"messages": [ASSISTANT]}, "messages[0]", "an answer must follow a question"),
        (
            {"messages": [{"role": "system", "content": "x"}, ASSISTANT]},
            "messages[1]",
            "must follow a question",
        ),
        ({"messages": [USER, {"role": "bot", "content": A}]}, "messages[1].role", "assistant, system, user"),
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
        ({"messages": [USER, {"role": "assistant", "content": [A]}]}, "messages[1].content", "must be text"),
        ({"messages": [USER, {"role": "assistant", "content": "\x00"}]}, "messages[1].content", "NUL"),
        (
            {"messages": [USER, ASSISTANT], "output": A},
            "output",
            "the field is unknown here; known: messages",
        ),
        ({"conversations": [{"role": "user", "content": Q}]}, "conversations[0].from", "must be one of"),
        ({"conversations": [{"from": "human", "value": Q}], "system": 5}, "system", "must be text"),
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
        samples.read(DATA / "mostly_good.jsonl", InboxSettings())

    assert [row["row"] for row in caught.value.data["rows"]] == [4, 5]
    assert "not JSON" in caught.value.data["rows"][0]["message"]


@pytest.mark.parametrize(("share", "is_accepted"), [(0.4, True), (0.39, False)])
def test_a_share_of_bad_rows_may_be_left_out(share, is_accepted):
    # Given two bad rows of five
    limits = InboxSettings(max_bad_share=share)

    if is_accepted:
        reading = samples.read(DATA / "mostly_good.jsonl", limits)
        assert [example.line for example in reading.examples] == [1, 3, 6]
        assert [(problem.line, problem.field) for problem in reading.problems] == [(4, ""), (5, "respons")]
        assert reading.rows == 5
    else:
        with pytest.raises(SampleError, match="2 of 5 rows"):
            samples.read(DATA / "mostly_good.jsonl", limits)


def test_a_file_without_one_good_row_is_refused_whatever_the_share(refused):
    assert refused([{"text": "x"}], max_bad_share=1.0).code == "bad_rows"


def test_a_list_of_problems_stays_short(refused):
    error = refused([{"text": "x"}] * 50)

    assert len(error.data["rows"]) == 20
    assert "50 of 50 rows" in error.message


# bad files


@pytest.mark.parametrize(
    ("content", "name", "code"),
    [
        ("", "a.json", "not_json"),
        ("[", "a.json", "not_json"),
        ("not json", "a.json", "not_json"),
        ("[" * 100_000, "a.json", "not_json"),
        ("[NaN]", "a.json", "not_json"),
        ('[{"question": "a", "answer": -Infinity}]', "a.json", "not_json"),
        ('[{"question": "a", "question": "b", "answer": "c"}]', "a.json", "not_json"),
        ('[{"question": "a", "answer": ' + "9" * 5000 + "}]", "a.json", "not_json"),
        ("5", "a.json", "not_rows"),
        ('"text"', "a.json", "not_rows"),
        ("null", "a.json", "not_rows"),
        ("[]", "a.json", "no_rows"),
        ('{"data": []}', "a.json", "no_rows"),
        ("", "a.jsonl", "no_rows"),
        (" \n\n", "a.jsonl", "no_rows"),
        ("[" * 100_000, "a.jsonl", "bad_rows"),
        ('{"question": "a", "question": "b", "answer": "c"}', "a.jsonl", "bad_rows"),
        (json.dumps({"data": [ROW], "train": [ROW]}), "a.json", "bad_rows"),
    ],
)
def test_a_file_without_rows_is_refused(refused, content, name, code):
    assert refused(content, name).code == code


@pytest.mark.parametrize(
    ("name", "code", "sentence"),
    [
        ("half_written.json", "not_json", "is not JSON"),
        ("latin1.json", "encoding", "is not UTF-8 (byte 19)"),
        ("utf16.json", "encoding", "is UTF-16; save it as UTF-8"),
    ],
)
def test_a_file_that_another_program_broke_is_refused(name, code, sentence):
    with pytest.raises(SampleError) as caught:
        samples.read(DATA / name, InboxSettings())

    assert caught.value.code == code
    assert sentence in caught.value.message


def test_a_row_that_can_only_just_be_read_is_a_row_like_any_other(read):
    # Given nesting around the depth where Python's reader, or only its writer, gives up
    for depth in range(940, 1000, 2):
        row = json.dumps(ROW)[:-1] + ', "metadata": ' + "[" * depth + "]" * depth + "}\n"

        reading = read(row + '{"question": "x", "answer": "y"}', "a.jsonl", max_bad_share=0.5)

        assert len(reading.examples) + len(reading.problems) == 2


# limits


def test_a_file_may_be_as_large_as_the_limit(read, refused):
    text = json.dumps([ROW])

    assert read(text, max_bytes=len(text)).rows == 1
    assert refused(text, max_bytes=len(text) - 1).code == "too_large"


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_a_file_may_have_as_many_rows_as_the_limit(read, refused, name):
    rows = [{"question": str(number), "answer": A} for number in range(3)]
    text = json.dumps(rows) if name == "a.json" else "".join(json.dumps(row) + "\n" for row in rows)

    assert read(text, name, max_rows=3).rows == 3
    assert refused(text, name, max_rows=2).code == "too_many_rows"


def test_a_row_may_be_as_long_as_the_limit(read, refused):
    row = {"question": "a", "answer": "é" * 50}
    size = len(json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode())

    assert read([row], max_row_bytes=size).rows == 1
    error = refused([row], max_row_bytes=size - 1)
    assert error.data["rows"][0]["message"] == f"the row is longer than inbox.max_row_bytes ({size - 1})"


# whatever it is


def is_read_or_refused(folder, content, name):
    path = folder.getbasetemp() / name
    path.write_bytes(content)
    try:
        reading = samples.read(path, InboxSettings(max_bad_share=0.5))
    except SampleError as error:
        json.dumps(error.as_dict())
        return
    assert reading.examples
    assert len(reading.digest) == 64
    questions = [example.question_id for example in reading.examples]
    assert len(set(questions)) == len(questions)
    for example in reading.examples:
        assert example.answer.strip()
        assert example.question[-1]["role"] == "user" or len(example.question) > 1


@given(content=st.binary(max_size=200), name=st.sampled_from(["a.json", "a.jsonl"]))
@settings(max_examples=50, deadline=None)
def test_any_bytes_are_read_or_refused(tmp_path_factory, content, name):
    is_read_or_refused(tmp_path_factory, content, name)


WORDS = st.sampled_from([Q, A, "", " ", "user", "assistant", "human", "gpt", "\ud800", "\x00", "x"])
VALUES = st.recursive(
    WORDS | st.none() | st.integers() | st.floats(allow_nan=False) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=5,
)
EXTRAS = ("input", "system", "system_prompt", "history", "metadata", "\ud800")
HISTORY = st.lists(st.lists(WORDS | VALUES, min_size=2, max_size=2) | VALUES, max_size=2)
TURNS = st.lists(
    st.fixed_dictionaries({"role": WORDS | VALUES, "content": WORDS | VALUES})
    | st.fixed_dictionaries({"from": WORDS | VALUES, "value": WORDS | VALUES})
    | VALUES,
    max_size=3,
)
ROWS = st.one_of(
    VALUES,
    st.fixed_dictionaries({"instruction": WORDS, "output": WORDS}),
    st.fixed_dictionaries(
        {name: st.just(text) for name, text in ROW.items()}, optional=dict.fromkeys(EXTRAS, VALUES)
    ),
    st.fixed_dictionaries({name: st.just(text) for name, text in ROW.items()} | {"history": HISTORY}),
    st.fixed_dictionaries({"messages": TURNS | VALUES}),
    st.fixed_dictionaries({"conversations": TURNS | VALUES}, optional={"system": VALUES}),
)


@given(rows=st.lists(ROWS, min_size=1, max_size=4), is_list=st.booleans())
@settings(max_examples=70, deadline=None)
def test_any_json_is_read_or_refused(tmp_path_factory, rows, is_list):
    content = json.dumps(rows) if is_list else "\n".join(map(json.dumps, rows))

    is_read_or_refused(tmp_path_factory, content.encode(), "a.json" if is_list else "a.jsonl")


@given(answers=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz")), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_no_row_is_lost(tmp_path_factory, answers):
    path = tmp_path_factory.getbasetemp() / "a.json"
    path.write_text(json.dumps([{"question": q, "answer": a} for q, a in answers]))

    reading = samples.read(path, InboxSettings())

    assert {(e.question[-1]["content"], e.answer) for e in reading.examples} == set(dict(answers).items())
    assert len(reading.examples) + reading.repeated + len(reading.contradicted) == len(answers)
