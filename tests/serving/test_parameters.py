"""Every parameter of a request is done, harmless or refused by its name."""

import contextlib

import pytest

from lorad.errors import ProtocolError
from lorad.serving.http import parameters
from lorad.serving.http.schemas import ChatBody

OPENAI = [
    "audio",
    "frequency_penalty",
    "function_call",
    "functions",
    "logit_bias",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "metadata",
    "modalities",
    "model",
    "n",
    "parallel_tool_calls",
    "prediction",
    "presence_penalty",
    "prompt_cache_key",
    "prompt_cache_retention",
    "reasoning_effort",
    "response_format",
    "safety_identifier",
    "seed",
    "service_tier",
    "stop",
    "store",
    "stream",
    "stream_options",
    "temperature",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
    "user",
    "verbosity",
    "web_search_options",
]
"""The fields of OpenAI's chat completion request, as its reference lists them."""


def test_case_9_every_parameter_of_openais_is_in_the_table_once():
    told = [
        *parameters.DONE,
        *parameters.HARMLESS,
        *parameters.REFUSED,
        *parameters.ELSEWHERE,
    ]

    assert set(OPENAI) <= set(told)
    assert len(told) == len(set(told))


def test_case_9_what_is_said_to_be_done_is_what_a_request_is_read_into():
    assert ChatBody.model_fields.keys() == parameters.DONE


@pytest.mark.parametrize("name", [*parameters.REFUSED, *parameters.ELSEWHERE])
def test_case_9_what_is_not_done_is_refused_by_name(name):
    with pytest.raises(ProtocolError) as caught:
        parameters.CHAT.check({name: "something else"})

    error = caught.value
    assert (error.status, error.code, error.data["param"]) == (400, "unsupported_parameter", name)
    assert f" {name}" in error.message


@pytest.mark.parametrize(("name", "refused"), parameters.REFUSED.items())
def test_case_9_a_neutral_value_asks_for_nothing_and_is_let_through(name, refused):
    for value in (None, *refused.neutral):
        parameters.CHAT.check({name: value})


@pytest.mark.parametrize(
    "beside",
    [
        {},
        {"tools": []},
        {"tools": [{"type": "function"}], "tool_choice": "required"},
        {
            "tools": [{"type": "function"}],
            "tool_choice": {"type": "function", "function": {"name": "weather"}},
        },
    ],
)
def test_no_calls_beside_each_other_is_all_right_where_there_is_one_anyway(beside):
    parameters.CHAT.check({"parallel_tool_calls": False, **beside})

    with pytest.raises(ProtocolError, match="parallel_tool_calls"):
        parameters.CHAT.check({"parallel_tool_calls": False, "tools": [{"type": "function"}]})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_completions", 2),
        ("prompt_logprobs", 1),
        ("n_probs", 5),
        ("functions", [{"name": "weather"}]),
        ("function_call", {"name": "weather"}),
        ("presence_penalty", 0.1),
        ("frequency_penalty", -2),
        ("logit_bias", {"50256": -100}),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "alloy", "format": "wav"}),
        ("reasoning_effort", "low"),
        ("web_search_options", {}),
        ("best_of", 3),
        ("repetition_penalty", 1.1),
        ("guided_json", {"type": "object"}),
        ("chat_template_kwargs", {"enable_thinking": True}),
        ("ignore_eos", True),
        ("add_generation_prompt", False),
        ("system", "Be brief."),
        ("max_new_tokens", 5),
    ],
)
def test_case_9_a_value_that_would_change_the_answer_is_refused(name, value):
    with pytest.raises(ProtocolError, match=name):
        parameters.CHAT.check({name: value})


@pytest.mark.parametrize(
    "given",
    [
        {"user": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "flex"},
        {"prediction": {"type": "content", "content": "x"}},
        {"trace_id": "7", "x": [1]},
    ],
)
def test_what_changes_no_answer_is_let_through(given):
    parameters.CHAT.check(given)


@pytest.mark.parametrize(
    ("name", "meant"), [("maxTokens", "max_tokens"), ("temprature", "temperature"), ("top-p", "top_p")]
)
def test_a_misspelt_parameter_is_not_ignored(name, meant):
    with pytest.raises(ProtocolError, match=f"did you mean {meant}") as caught:
        parameters.CHAT.check({name: 1})

    assert caught.value.data["param"] == name


@pytest.mark.parametrize("name", parameters.REFUSED_IN_MESSAGES)
def test_case_9_what_a_message_says_beside_its_content_is_refused_by_name(name):
    parameters.check_message({"role": "assistant", name: None}, "messages[1]")
    with pytest.raises(ProtocolError) as caught:
        parameters.check_message({"role": "assistant", name: {"a": 1}}, "messages[1]")

    assert (caught.value.code, caught.value.data["param"]) == ("unsupported_parameter", f"messages[1].{name}")


@pytest.mark.parametrize(
    "name",
    [
        *(
            "responseFormat",
            "presencePenalty",
            "topLogprobs",
            "logitBias",
            "maxOutputTokens",
            "stopSequences",
        ),
        *("generationConfig", "systemPrompt", "System", "Prompt", "N", "RESPONSE_FORMAT", "response-format"),
        *("presence_penality", "response_formt", "top_logprob", "num_return_sequence", "frequencyPenalti"),
        *("json_mode", "schema", "history", "config", "file_ids", "return_logprobs", "safetySettings"),
        *("Max Tokens", "toolChoice", "TEMPERATURE"),
    ],
)
def test_case_9_a_parameter_written_otherwise_is_refused_too(name):
    with pytest.raises(ProtocolError) as caught:
        parameters.CHAT.check({name: 7})

    assert (caught.value.code, caught.value.data["param"]) == ("unsupported_parameter", name)
    assert name in caught.value.message


@pytest.mark.parametrize(
    "given",
    [
        {"presencePenalty": 0, "bestOf": 1, "jsonMode": False},
        {"serviceTier": "flex", "requestId": "7"},
        {"prompt_id": "7", "session_id": "8", "tags": ["a"], "debug": True, "timeout": 3},
    ],
)
def test_case_9_what_asks_for_nothing_is_let_through_however_it_is_written(given):
    parameters.CHAT.check(given)


@pytest.mark.parametrize(
    ("given", "is_refused"),
    [
        ({"do_sample": False, "temperature": 2.0}, True),
        ({"doSample": False, "temperature": 0.1}, True),
        ({"do_sample": True}, True),
        ({"do_sample": True, "temperature": 0}, True),
        ({"do_sample": False}, False),
        ({"do_sample": False, "temperature": 0.0}, False),
        ({"do_sample": True, "temperature": 0.7}, False),
    ],
)
def test_case_9_do_sample_is_let_through_where_it_says_what_the_temperature_does(given, is_refused):
    with (
        pytest.raises(ProtocolError, match="temperature decides") if is_refused else contextlib.nullcontext()
    ):
        parameters.CHAT.check(given)


@pytest.mark.parametrize("name", ["toolCalls", "Content", "toolCallId", "functionCall", "reasoningContent"])
def test_case_9_what_a_message_says_under_a_name_written_otherwise_is_refused(name):
    parameters.check_message({"role": "assistant", "content": "", "name": "Ann", "id": "7"}, "messages[1]")
    with pytest.raises(ProtocolError, match=f"{name} is not read") as caught:
        parameters.check_message({"role": "assistant", name: "x"}, "messages[1]")

    assert caught.value.data["param"] == f"messages[1].{name}"
