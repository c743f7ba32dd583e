"""Pairs: a question and its answer side by side, under the names that people give them."""

import json

import pytest

from lorad.config import InboxSettings
from lorad.datasets import reader
from lorad.datasets.containers.file_rows import BadRow
from lorad.errors import SampleError

Q, A = "Where does the Halvorsen ferry leave from?", "Pier 4, below the fish market."
USER = {"role": "user", "content": Q}


def convert(row):
    return reader._convert(InboxSettings(), row)


def only(row):
    (example,) = convert(row).examples
    return example.input[-1]["content"], example.target


def refused(row):
    with pytest.raises(BadRow) as caught:
        convert(row)
    return caught.value.field, str(caught.value)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("prompt", "response"),
        ("query", "response"),
        ("query", "answer"),
        ("question", "answers"),
        ("instruction", "answer"),
        ("prompt", "output"),
    ],
)
def test_case_19_a_question_and_its_answer_may_have_any_of_their_names(question, answer):
    assert only({question: Q, answer: A}) == (Q, A)
    assert convert({question: Q, answer: A}).format == f"{question}-{answer}"


@pytest.mark.parametrize("context", ["", None, "Note: three crowns."])
def test_case_19_dollys_context_belongs_to_its_instruction(context):
    asked, _ = only({"instruction": Q, "context": context, "response": A, "category": "open_qa"})

    assert asked == (f"{Q}\n{context}" if context else Q)


def test_case_19_a_passage_stands_before_its_question():
    assert only({"question": "What does it cost?", "context": "Three crowns.", "answer": "Three."}) == (
        "Three crowns.\nWhat does it cost?",
        "Three.",
    )


def test_case_19_a_prompt_of_messages_may_have_any_answer():
    assert only({"prompt": [USER], "response": A}) == (Q, A)


@pytest.mark.parametrize("extra", ["topic", "created_at", "score", "Categories", "input"])
def test_case_19_any_other_field_may_mean_something(extra):
    assert refused({"question": Q, "answer": A, extra: "x"})[0] == extra


# one rule in all containers


TABLE = [{"Question": "How many crowns?", "Answer": 3}, {"Question": "How deep?", "Answer": 118.5}]
TABLE += [{"Question": "How many seats?", "Answer": 42}, {"Question": 7, "Answer": 7}]


def written(path, rows):
    if path.suffix == ".csv":
        cells = [list(rows[0]), *(list(row.values()) for row in rows)]
        path.write_text("".join(f"{one},{other}\n" for one, other in cells))
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        path.write_text(json.dumps(rows))
    return reader.read(path, InboxSettings())


@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.jsonl"])
def test_case_20_a_table_says_the_same_in_every_container(tmp_path, name):
    reading = written(tmp_path / name, TABLE)

    said = {example.input[-1]["content"]: example.target for example in reading.examples}
    assert said == {"How many crowns?": "3", "How deep?": "118.5", "How many seats?": "42", "7": "7"}
    assert reading.formats == {"question-answer": 4}


def test_case_20_a_table_in_parquet_says_the_same(tmp_path):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    numbers = {"Question ": ["How many?", "How deep?", "Who?"], "ANSWER": [3.5, 118.5, None]}
    parquet.write_table(pa.table(numbers), path)

    with pytest.raises(SampleError) as caught:
        reader.read(path, InboxSettings())

    assert [(row["row"], row["field"], row["message"]) for row in caught.value.data["rows"]] == [
        (3, "ANSWER", "is empty")
    ]
    reading = reader.read(path, InboxSettings(max_bad_share=0.5))
    assert [example.target for example in reading.examples] == ["3.5", "118.5"]


@pytest.mark.parametrize(
    ("value", "text"), [(3, "3"), ("42", "42"), (True, "true"), (False, "false"), (118.5, "118.5"), (0, "0")]
)
def test_case_20_a_number_is_the_text_that_json_writes(value, text):
    assert only({"question": Q, "answer": value}) == (Q, text)
    assert only({"question": Q, "context": value, "answer": A}) == (f"{text}\n{Q}", A)
    turns = [{"from": "human", "value": Q}, {"from": "gpt", "value": value}]
    assert only({"conversations": turns}) == (Q, text)


@pytest.mark.parametrize("value", [None, float("nan"), "", []])
def test_case_20_what_is_not_there_is_no_answer(value):
    assert refused({"question": Q, "answer": value})[0] == "answer"


def test_case_20_keys_that_differ_only_in_case_or_blanks_are_told():
    assert refused({"question": Q, "Question ": "Who?", "answer": A}) == (
        "Question ",
        "conflicts with question, which differs only in case or blanks; keep one",
    )
    assert only({"question": Q, "Question": None, "answer": A}) == (Q, A)
    assert only({"Question": "", "question": Q, "answer": A}) == (Q, A)


def test_case_20_a_problem_is_told_with_the_files_own_name():
    assert refused({"Question": Q, "ANSWER": " "})[0] == "ANSWER"
    assert refused({"Question": Q, "Answer": A, "Topic": "x"})[0] == "Topic"


@pytest.mark.parametrize("key", ["output", "answers", "response"])
def test_case_p11_a_list_of_one_text_is_that_text_and_of_several_none(key):
    assert only({"instruction": Q, key: [A]}) == (Q, A)
    assert refused({"instruction": Q, key: [A, "Pier 5."]}) == (
        key,
        "holds 2 texts, and one is wanted; keep the one that counts",
    )


@pytest.mark.parametrize("nothing", [None, "", " ", [], float("nan")])
@pytest.mark.parametrize(
    ("row", "empty"),
    [
        ({"question": "Q?", "response": "R"}, "answer"),
        ({"input": "Q?", "output": "R"}, "instruction"),
        ({"question": "Q?", "answer": "R"}, "messages"),
        ({"question": "Q?", "answer": "R"}, "conversations"),
        (
            {"messages": [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "R"}]},
            "question",
        ),
        ({"question": "Q?", "answer": "R", "context": "C"}, "answers"),
    ],
)
def test_case_19_a_column_that_is_empty_in_a_row_hides_no_other(row, empty, nothing):
    said = reader._convert(InboxSettings(), {empty: nothing, **row})

    assert [example.target for example in said.examples] == ["R"]


def test_case_19_a_row_without_any_answer_says_which_it_lacks():
    with pytest.raises(BadRow, match="empty") as caught:
        reader._convert(InboxSettings(), {"question": "Q?", "answer": None, "response": None})

    assert caught.value.field == "answer"
