"""Calls of tools: one reader of arguments, and the nulls that nobody wrote."""

import json

import pytest

from lorad.config import InboxSettings
from lorad.datasets import reader
from lorad.datasets.containers.file_rows import BadRow
from lorad.datasets.formats import conversations, tool_calls

ASKED = {"role": "user", "content": "When does it leave on Monday?"}
TIMES = {
    "name": "ferry_times",
    "parameters": {"type": "object", "properties": {"day": {"type": "string"}}, "required": ["day"]},
}


def convert(arguments, *tools):
    call = {"id": "a", "type": "function", "function": {"name": "ferry_times", "arguments": arguments}}
    turns = [ASKED, {"role": "assistant", "content": None, "tool_calls": [call]}]
    row = {"messages": turns, "tools": [{"type": "function", "function": tool} for tool in tools]}
    return reader._convert(InboxSettings(), row)


def called(*given):
    (example,) = convert(*given).examples
    return example.target["tool_calls"][0]["arguments"]


@pytest.mark.parametrize("written", ["", " ", "{}", None, {}])
def test_case_12_no_arguments_are_an_empty_object(written):
    assert tool_calls.arguments(written) == {}
    assert called(written) == {}


@pytest.mark.parametrize("written", [{"day": "Monday"}, '{"day": "Monday"}'])
def test_case_12_arguments_are_an_object_or_its_json(written):
    assert tool_calls.arguments(written) == {"day": "Monday"}


@pytest.mark.parametrize(
    ("written", "told"), [("{", "not JSON"), ("[1]", "must be an object"), (5, "must be an object")]
)
def test_case_12_other_arguments_are_refused_in_a_sentence(written, told):
    with pytest.raises(BadRow, match=told) as caught:
        tool_calls.arguments(written)

    assert caught.value.field == "arguments"


def with_line(schema):
    parameters = TIMES["parameters"]
    return TIMES | {
        "parameters": parameters | {"properties": parameters["properties"] | {"line": schema}},
    }


PADDED = {"day": "Monday", "line": None}


@pytest.mark.parametrize("tool", [TIMES, with_line(None), with_line({"type": "string"})])
def test_case_22_a_null_that_the_functions_schema_does_not_name_is_left_out(tool):
    assert called(PADDED, tool) == {"day": "Monday"}
    assert convert(PADDED, tool).left_out == {}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": ["string", "null"]},
        {"type": "string", "nullable": True},
        {"anyOf": [{"type": "string"}, {"type": "null"}]},
        {"enum": ["a", None]},
    ],
)
def test_case_22_a_null_that_the_schema_names_is_an_argument(schema):
    assert called(PADDED, with_line(schema)) == PADDED


def test_case_22_a_null_that_stands_in_written_json_was_written():
    assert called(json.dumps(PADDED), TIMES) == PADDED


def test_case_22_without_a_schema_nulls_are_left_out_and_told():
    said = convert(PADDED)

    assert said.examples[0].target["tool_calls"][0]["arguments"] == {"day": "Monday"}
    assert said.left_out == {conversations.NULLS: 1}


def test_case_22_nulls_inside_arguments_are_padding_too():
    schema = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": ["string", "null"]}}}
    rows = {"type": "array", "items": schema}

    given = {"line": [{"a": None, "b": None, "c": None}]}

    assert called(given, with_line(rows)) == {"line": [{"b": None}]}


def test_case_22_a_functions_description_has_no_nulls_that_others_brought():
    properties = {
        "day": {"type": "string", "enum": ["Monday"], "default": None, "items": None},
        "line": {"type": ["string", "null"], "default": None},
        "default": None,
    }
    tool = TIMES | {"parameters": TIMES["parameters"] | {"properties": properties}, "strict": None}

    (example,) = convert({}, tool).examples

    (told,) = json.loads(example.input[0]["content"])
    assert told == TIMES | {
        "parameters": TIMES["parameters"]
        | {
            "properties": {
                "day": {"type": "string", "enum": ["Monday"]},
                "line": {"type": ["string", "null"], "default": None},
            }
        }
    }


def test_case_q01_a_struct_of_parquet_holds_every_key_of_every_row(tmp_path):
    # Given messages as datasets writes them: each has all keys, and each call the arguments of all functions
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    call = {"id": "1", "type": "function", "function": {"name": "times", "arguments": PADDED}}
    row = [
        ASKED,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "8"},
    ]
    row += [{"role": "assistant", "content": "Ten past eight.", "name": None}]
    parquet.write_table(pa.Table.from_pylist([{"messages": row}]), tmp_path / "a.parquet")

    reading = reader.read(tmp_path / "a.parquet", InboxSettings())

    first, second = reading.examples
    assert first.target["tool_calls"] == [{"name": "times", "arguments": {"day": "Monday"}}]
    assert second.target == "Ten past eight."
    assert reading.left_out == {conversations.NULLS: 1}


# what tools said


def call(name, city):
    return {"id": name, "type": "function", "function": {"name": "at", "arguments": {"city": city}}}


def result(name, text):
    return {"role": "tool", "content": text, **({"tool_call_id": name} if name else {})}


def results(*told, ids=("a", "b")):
    called_both = {"role": "assistant", "tool_calls": [call(ids[0], "Oslo"), call(ids[1], "Bergen")]}
    turns = [ASKED, called_both, *told, {"role": "assistant", "content": "So."}]
    last = reader._convert(InboxSettings(), {"messages": turns}).examples[-1]
    return [turn["content"] for turn in last.input if turn["role"] == "tool"]


def test_case_12_what_tools_said_stands_in_the_order_of_their_calls():
    assert results(result("b", "rain"), result("a", "sun")) == ["sun", "rain"]
    assert results(result("a", "sun"), result("b", "rain")) == ["sun", "rain"]


@pytest.mark.parametrize("ids", [("a", "a"), (None, None), ("a", None)])
def test_case_12_calls_that_cannot_be_told_apart_keep_the_order_of_the_file(ids):
    assert results(result("b", "rain"), result("a", "sun"), ids=ids) == ["rain", "sun"]
    assert results(result(None, "rain"), result(None, "sun")) == ["rain", "sun"]


@pytest.mark.parametrize(
    ("told", "place", "why"),
    [([result("c", "x")], 2, "the id of a call"), ([result("a", "x"), result("a", "y")], 3, "appears twice")],
)
def test_case_12_an_answer_to_no_call_is_refused(told, place, why):
    with pytest.raises(BadRow, match=why) as caught:
        results(*told)

    assert caught.value.field == f"messages[{place}].tool_call_id"


def test_case_12_every_message_keeps_a_place():
    one, other = ({"role": "assistant", "tool_calls": [call(x, "1"), call(y, "2")]} for x, y in ("ab", "cd"))
    listed = [
        ASKED,
        one,
        result("b", "1"),
        result("a", "2"),
        other,
        result("d", "3"),
        result("c", "4"),
        ASKED,
    ]

    assert tool_calls.order(listed) == [0, 1, 3, 2, 4, 6, 5, 7]
    assert tool_calls.order([result("x", "1"), ASKED, "?"]) == [0, 1, 2]
    assert tool_calls.order([]) == []
