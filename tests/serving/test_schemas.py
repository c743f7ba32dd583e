"""Bodies of requests: read whatever their content type, or a sentence that says what to send."""

import json

import pytest

from lorad.config import InboxSettings
from lorad.datasets import reader
from lorad.errors import ProtocolError
from lorad.serving.http.schemas import (
    DEPTH,
    ChatBody,
    ForgetBody,
    PruneBody,
    ResumeBody,
    RetryBody,
    RollbackBody,
    TagBody,
)

HELLO = [{"role": "user", "content": "hello"}]


def chat(**fields):
    return ChatBody.read(json.dumps({"messages": HELLO, **fields}).encode())


def refusal(act):
    with pytest.raises(ProtocolError) as caught:
        act()
    assert caught.value.status == 400
    return caught.value


# JSON


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"", "the body is empty; send a JSON object such as"),
        (b"  \n", "the body is empty"),
        (b"{'messages': []}", "character 2"),
        (b'{"messages": [}', "character 15"),
        (b"model=chat&messages=hello", "cannot be read as JSON"),
        (b'{"messages": "caf\xe9"}', "the body is not UTF-8 (byte 18)"),
        ('{"messages": "é"}'.encode("utf-16"), "not UTF-8"),
        (b"[1]", "the body is a list"),
        (b'"hello"', "the body is a text"),
        (b"null", "the body is null"),
        (b"3", "the body is a number"),
        (b'{"messages": [], "temperature": NaN}', "NaN is not JSON"),
        (b'{"messages": [], "temperature": -Infinity}', "-Infinity is not JSON"),
        (b'{"n": 1, "n": 2}', "'n' appears twice"),
        (b'{"seed": 1' + b"0" * 5000 + b"}", "cannot be read as JSON"),
    ],
)
def test_case_11_a_body_that_cannot_be_read_says_what_to_send(raw, told):
    error = refusal(lambda: ChatBody.read(raw))

    assert told in error.message
    assert '"messages": [{"role": "user"' in error.message
    assert error.code == "invalid_json"


@pytest.mark.parametrize("depth", [DEPTH + 1, 900, 100_000])
def test_case_11_deep_nesting_is_refused(depth):
    raw = b'{"messages": ' + b"[" * depth + b"]" * depth + b"}"

    assert "nested" in refusal(lambda: ChatBody.read(raw)).message


@pytest.mark.parametrize("where", ["content", "name", "tools"])
def test_case_11_half_of_a_character_is_refused_wherever_it_stands(where):
    message = {"role": "user", "content": "hello", **({} if where == "tools" else {where: "so \ud83d"})}
    tools = [{"function": {"name": "f", "description": "so \ud83d"}}] if where == "tools" else []

    error = refusal(lambda: ChatBody.read(json.dumps({"messages": [message], "tools": tools}).encode()))

    assert error.code == "bad_text"


def test_a_mark_of_byte_order_is_passed():
    assert ChatBody.read(b"\xef\xbb\xbf" + json.dumps({"messages": HELLO}).encode()).messages == HELLO


def test_a_body_without_needed_fields_may_be_left_out():
    assert RetryBody.read(b"") == RetryBody()
    assert "empty" in refusal(lambda: TagBody.read(b"")).message


# fields


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"max_tokens": 0}, "max_tokens: must be greater than or equal to 1 (given: 0)"),
        ({"max_tokens": "5"}, 'max_tokens: must be a valid integer (given: "5")'),
        ({"max_tokens": True}, "max_tokens: must be a valid integer (given: true)"),
        ({"max_tokens": 1.5}, "max_tokens: must be a valid integer"),
        ({"temperature": "0.5"}, "temperature: must be a valid number"),
        ({"temperature": -0.1}, "temperature: must be greater than or equal to 0"),
        ({"top_p": 1.1}, "top_p: must be less than or equal to 1"),
        ({"min_p": 2}, "min_p: must be less than or equal to 1"),
        ({"top_k": -2}, "top_k: must be greater than or equal to -1"),
        ({"seed": 2**63}, "seed: must be less than"),
        ({"seed": -(2**63) - 1}, "seed: must be greater than"),
        ({"stream": "yes"}, "stream: must be a valid boolean"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage: must be a valid boolean"),
        ({"model": 3}, "model: must be a valid string"),
        ({"messages": []}, "messages: list should have at least 1 item"),
        ({"messages": "hello"}, "messages: must be a valid list"),
        ({"messages": None}, "messages: is missing"),
        ({"tools": {"name": "f"}}, "tools: must be a valid list"),
    ],
)
def test_case_9_a_field_of_the_wrong_kind_is_refused_by_name(fields, told):
    error = refusal(lambda: chat(**fields))

    assert error.message.startswith(told)
    assert error.data["param"] == told.partition(":")[0]


@pytest.mark.parametrize("stop", [5, ["a", 5], {"a": "b"}, [None]])
def test_case_9_stop_is_text(stop):
    assert refusal(lambda: chat(stop=stop).sampling()).data["param"] == "stop"


def test_how_to_choose_tokens_is_passed_on():
    sampling = chat(temperature=1, top_p=0.5, top_k=-1, min_p=0.1, seed=-1, stop=["a", "", "b"]).sampling()

    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (1.0, 0.5, 0, 0.1)
    assert (sampling.seed, sampling.stop) == (-1, ("a", "b"))
    assert chat(top_k=7).sampling().top_k == 7


def test_two_limits_must_agree():
    assert chat(max_tokens=5, max_completion_tokens=5).sampling().max_tokens == 5
    assert chat(max_completion_tokens=7).sampling().max_tokens == 7
    assert chat().sampling().max_tokens is None
    error = refusal(lambda: chat(max_tokens=5, max_completion_tokens=6).sampling())
    assert "send one" in error.message


def test_a_misspelt_field_of_lorads_own_routes_is_not_ignored():
    error = refusal(lambda: ForgetBody.read(b'{"selector": "doors", "dry-run": true}'))
    assert error.message == "dry-run: there is no such field; did you mean dry_run?"
    error = refusal(lambda: PruneBody.read(b'{"days": 3}'))
    assert (
        error.message
        == "days: there is no such field; known here: track, keep, max_age_days, max_bytes, dry_run"
    )


# conversations


@pytest.mark.parametrize(
    ("message", "where"),
    [
        ("hello", "messages[0]"),
        ({"content": "hello"}, "messages[0].role"),
        ({"role": "robot", "content": "hello"}, "messages[0].role"),
        ({"role": ["user"], "content": "hello"}, "messages[0].role"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": 5}, "messages[0].content"),
        ({"role": "user", "content": ["hello"]}, "messages[0].content[0].type"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text"),
        ({"role": "user", "content": [{"type": "input_audio"}]}, "messages[0].content[0].type"),
        (
            {"role": "user", "content": "a", "tool_calls": [{"function": {"name": "f"}}]},
            "messages[0].tool_calls",
        ),
        ({"role": "assistant", "content": "a", "refusal": "I cannot."}, "messages[0].refusal"),
        ({"role": "assistant", "function_call": {"name": "f"}}, "messages[0].function_call"),
        ({"role": "assistant", "content": "The", "prefix": True}, "messages[0].prefix"),
        ({"role": "assistant", "tool_calls": [{"function": {}}]}, "messages[0].tool_calls[0]"),
    ],
)
def test_case_9_a_message_that_would_not_be_heard_is_refused_where_it_stands(message, where):
    error = refusal(chat(messages=[message]).question)

    assert error.data["param"] == where
    assert error.message.startswith(where)


def test_case_9_a_started_answer_is_refused():
    error = refusal(chat(messages=[*HELLO, {"role": "assistant", "content": "It is"}]).question)

    assert (error.code, error.data["param"]) == ("unsupported_parameter", "messages")
    assert "does not continue an answer" in error.message


CALLS = [
    ("", {}),
    ("{}", {}),
    ('{"at": "mill"}', {"at": "mill"}),
    ({"at": "mill"}, {"at": "mill"}),
]


@pytest.mark.parametrize(("arguments", "meant"), CALLS)
def test_case_12_a_call_is_read_as_in_a_file(arguments, meant, tmp_path):
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    said = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "fog"},
    ]
    file = tmp_path / "calls.json"
    file.write_text(json.dumps([{"messages": [*said, {"role": "assistant", "content": "Fog."}]}]))
    (in_file,) = reader.read(file, InboxSettings()).examples[1:]

    asked = chat(messages=said).question()

    assert asked == in_file.input
    assert asked[1]["tool_calls"] == [{"name": "weather", "arguments": meant}]


def calling(*ids):
    calls = [{"id": each, "function": {"name": f"of_{each}", "arguments": "{}"}} for each in ids]
    return [*HELLO, {"role": "assistant", "content": None, "tool_calls": calls}]


def told(text, call=None):
    return {"role": "tool", "content": text} | ({"tool_call_id": call} if call else {})


def test_case_12_what_tools_said_stands_in_the_order_of_their_calls():
    first = [*calling("a", "b"), told("B", "b"), told("A", "a"), {"role": "user", "content": "And?"}]
    second = [*calling("a", "c")[1:], told("C", "c"), told("A2", "a")]

    asked = chat(messages=[*first, *second]).question()

    assert [message["content"] for message in asked] == ["hello", "", "A", "B", "And?", "", "A2", "C"]


def test_case_12_without_ids_what_tools_said_stays_as_it_stands():
    for called, said in (
        (("a", "b"), (told("B"), told("A"))),
        ((None, None), (told("B", "b"), told("A", "a"))),
        (("a", "b"), (told("B", "b"), told("A"))),
        (("a", "a"), (told("B", "a"), told("A", "a"))),
    ):
        asked = chat(messages=[*calling(*called), *said]).question()

        assert [message["content"] for message in asked[2:]] == ["B", "A"]


@pytest.mark.parametrize(
    ("messages", "where"),
    [
        ([told("fog", "a")], "messages[0]"),
        ([*HELLO, told("fog", "a")], "messages[1]"),
        ([*calling("a"), told("fog", "a"), *HELLO, told("rain", "a")], "messages[4]"),
        ([*calling("a"), told("fog", "b")], "messages[2].tool_call_id"),
        ([*calling("a", "b"), told("fog", "b"), told("rain", "b")], "messages[3].tool_call_id"),
    ],
)
def test_case_12_what_a_tool_said_without_a_call_is_refused(messages, where):
    assert refusal(chat(messages=messages).question).data["param"] == where


@pytest.mark.parametrize("kind", ["text", "input_text", "output_text"])
def test_case_11_text_is_text_whatever_its_part_is_called(kind):
    said = [{"role": "user", "content": [{"type": kind, "text": "hello"}]}]

    assert chat(messages=said).question() == HELLO


@pytest.mark.parametrize("arguments", ["{", "[1]", "3", '{"a": NaN}', "[" * 900 + "]" * 900, 5])
def test_case_12_arguments_that_cannot_be_read_are_refused(arguments):
    call = {"function": {"name": "weather", "arguments": arguments}}

    error = refusal(chat(messages=[*HELLO, {"role": "assistant", "tool_calls": [call]}]).question)

    assert error.data["param"] == "messages[1].tool_calls[0].arguments"


def test_case_12_arguments_that_are_nested_too_deeply_are_refused():
    deep = '{"a": ' * 200 + "1" + "}" * 200
    call = {"function": {"name": "weather", "arguments": deep}}

    error = refusal(chat(messages=[*HELLO, {"role": "assistant", "tool_calls": [call]}]).question)

    assert error.code == "too_deep"


TOOL = {"type": "function", "function": {"description": "of a place", "name": "weather"}}


def test_tools_are_read_as_in_a_file_and_left_out_when_none_may_be_called():
    told = {"role": "tools", "content": '[{"description": "of a place", "name": "weather"}]'}

    assert chat(tools=[TOOL]).question() == [told, *HELLO]
    assert chat(tools=[TOOL], tool_choice="auto").question() == [told, *HELLO]
    assert chat(tools=[TOOL], tool_choice="none").question() == HELLO


TIME = {"type": "function", "function": {"name": "time"}}


def named(name):
    return {"type": "function", "function": {"name": name}}


@pytest.mark.parametrize(
    ("choice", "called"),
    [
        ("auto", []),
        ("none", []),
        ("required", ["weather", "time"]),
        (named("time"), ["time"]),
    ],
)
def test_a_tool_is_forced_where_the_request_says_so(choice, called):
    body = chat(tools=[TOOL, TIME], tool_choice=choice)

    assert [function["name"] for function in body.must_call()] == called
    assert (body.question()[0]["role"] == "tools") == (choice != "none")


@pytest.mark.parametrize(
    ("choice", "tools", "told"),
    [
        ("any", [TOOL], "must be"),
        (7, [TOOL], "must be"),
        ({"type": "allowed_tools"}, [TOOL], "must be"),
        ({"type": "function", "function": {"name": 7}}, [TOOL], "must be"),
        ({"type": "function", "function": "weather"}, [TOOL], "must be"),
        ("required", [], "needs tools"),
        (named("launch"), [TOOL], "names no tool"),
        (named("weather"), [], "names no tool"),
    ],
)
def test_case_9_a_choice_of_tools_that_cannot_be_made_is_refused(choice, tools, told):
    error = refusal(chat(tools=tools, tool_choice=choice).must_call)

    assert error.data["param"] == "tool_choice"
    assert told in error.message


def test_probabilities_are_told_where_they_are_asked_for():
    assert chat().sampling().logprobs is None
    assert chat(logprobs=True).sampling().logprobs == 0
    assert chat(logprobs=True, top_logprobs=20).sampling().logprobs == 20
    assert chat(logprobs=False, top_logprobs=0).sampling().logprobs is None


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
        ({"logprobs": 5}, "logprobs"),
    ],
)
def test_case_9_probabilities_that_cannot_be_told_are_refused(fields, field):
    assert refusal(lambda: chat(**fields).sampling()).data["param"] == field


@pytest.mark.parametrize("tool", [{"type": "web_search"}, {"type": "custom", "custom": {"name": "f"}}])
def test_case_9_tools_that_lorad_would_have_to_bring_are_refused(tool):
    assert refusal(chat(tools=[tool]).question).data["param"] == "tools[0].type"


def test_case_11_a_number_of_very_many_digits_is_told_in_a_sentence():
    error = refusal(lambda: ChatBody.read(b'{"messages": [], "seed": ' + b"9" * 5000 + b"}"))

    assert "more than 4300 digits" in error.message
    assert "sys." not in error.message


@pytest.mark.parametrize(
    ("kind", "field"), [(ChatBody, "max_tokens"), (PruneBody, "keep"), (PruneBody, "max_bytes")]
)
def test_case_11_a_number_beyond_all_bounds_is_told(kind, field):
    body = {"messages": HELLO} if kind is ChatBody else {}

    assert refusal(lambda: kind.read(json.dumps({**body, field: 10**400}).encode())).data["param"] == field


@pytest.mark.parametrize("stop", [["x"] * 5000, ["x"] * 17, "x" * 257, ["a", "x" * 100_000]])
def test_a19_many_or_long_stop_texts_are_refused(stop):
    with pytest.raises(ProtocolError, match="stop: must be at most 16 texts of at most 256 characters"):
        ChatBody.read(json.dumps({"messages": HELLO, "stop": stop}).encode()).sampling()


def test_as_many_stop_texts_as_are_allowed_are_passed_on():
    stops = [f"{'x' * 250}{number}" for number in range(16)]

    assert ChatBody.read(json.dumps({"messages": HELLO, "stop": stops}).encode()).sampling().stop == tuple(
        stops
    )


def test_a19_a_body_of_very_many_fields_is_not_compared_with_what_is_known():
    with pytest.raises(ProtocolError, match="the body has 50001 fields; send at most 100"):
        ChatBody.read(json.dumps({"messages": HELLO, **{f"max_tokns{i}": 1 for i in range(50_000)}}).encode())


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        (TagBody, "tag"),
        (TagBody, "track"),
        (ResumeBody, "checkpoint"),
        (RollbackBody, "to"),
        (ChatBody, "model"),
    ],
)
def test_a12_a_name_has_a_length_and_is_told_cut(kind, field):
    body = {"messages": HELLO} if kind is ChatBody else {"tag": "t"} if kind is TagBody else {}

    with pytest.raises(ProtocolError, match=f"^{field}: ") as refused:
        kind.read(json.dumps(body | {field: "x" * 100_000}).encode())

    assert len(refused.value.message) < 200


def test_a_field_of_a_very_long_name_is_told_cut():
    with pytest.raises(ProtocolError, match="there is no such field") as refused:
        RollbackBody.read(json.dumps({"x" * 100_000: 1}).encode())

    assert len(refused.value.message) < 200


@pytest.mark.parametrize(("kind", "field"), [(RollbackBody, "to"), (ResumeBody, "checkpoint")])
def test_a12_an_empty_name_is_not_taken_for_none_given(kind, field):
    with pytest.raises(ProtocolError) as caught:
        kind.read(json.dumps({field: ""}).encode())
    assert (caught.value.status, caught.value.data["param"]) == (400, field)
