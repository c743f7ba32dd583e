"""OpenAI's own client over the socket, against a fake daemon: what people's programs do."""

import json
import queue

import httpx2
import openai
import pytest
from fake_app import HELLO
from pydantic import BaseModel

from lorad.errors import ProtocolError
from lorad.retrieval.answering import Reply
from lorad.serving.requests import Chunk, WrittenToken

TEXT = "See https://a.example/x?y=1  and é\n"
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


@pytest.fixture
def client(path, daemon):
    daemon.asked.clear()
    transport = httpx2.HTTPTransport(uds=str(path))
    with openai.OpenAI(
        base_url="http://lorad/v1", api_key="-", max_retries=0, http_client=httpx2.Client(transport=transport)
    ) as made:
        yield made


@pytest.fixture
def says(daemon):
    """Let the daemon say something else."""
    kept = daemon.chunks

    def say(*texts):
        daemon.chunks = [*(Chunk(text) for text in texts), Chunk("", "stop", 7, 3)]

    yield say
    daemon.chunks = kept


def test_it_chats_whole_and_in_pieces(client):
    whole = client.chat.completions.create(model="chat", messages=HELLO, n=2)
    stream = client.chat.completions.create(
        model="chat", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    pieces = list(stream)

    assert [choice.message.content for choice in whole.choices] == [TEXT, TEXT]
    assert whole.usage.completion_tokens == 6
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == TEXT
    assert pieces[-1].usage.total_tokens == 10


def test_it_continues_texts(client, daemon):
    assert client.completions.create(model="chat", prompt="Once").choices[0].text == TEXT
    pieces = client.completions.create(model="chat", prompt=["a", "b"], stream=True)
    texts = {0: "", 1: ""}
    for piece in pieces:
        texts[piece.choices[0].index] += piece.choices[0].text
    assert texts == {0: TEXT, 1: TEXT}
    assert [prompt for _, prompt, _ in daemon.asked] == ["Once", "a", "b"]


def test_it_embeds_in_whatever_encoding_it_likes(client):
    vectors = client.embeddings.create(model="minilm", input=["a", "bc"])  # base64 on the way
    numbers = client.embeddings.create(model="minilm", input="a", encoding_format="float")

    assert [each.embedding for each in vectors.data] == [[1.0, -0.5, 1.0], [1.0, -0.5, 2.0]]
    assert numbers.data[0].embedding == [1.0, -0.5, 1.0]


def test_it_lists_models(client):
    assert [model.id for model in client.models.list()] == ["chat"]


CALLED = (
    "Let me see.",
    "\n<tool_c",
    'all>\n{"name": "weather", "arguments": {"at": ',
    '"Mühle"}}\n</tool_call>',
)


def test_a_called_tool_is_a_call_and_no_text(client, says):
    says(*CALLED)

    [choice] = client.chat.completions.create(model="chat", messages=HELLO, tools=[TOOL]).choices

    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Let me see.")
    [call] = choice.message.tool_calls
    assert (call.type, call.function.name) == ("function", "weather")
    assert json.loads(call.function.arguments) == {"at": "Mühle"}
    says(*CALLED[1:])
    [choice] = client.chat.completions.create(model="chat", messages=HELLO, tools=[TOOL]).choices
    assert choice.message.content is None


def test_a_called_tool_of_a_stream_comes_whole(client, says):
    says(*CALLED)
    with client.chat.completions.stream(model="chat", messages=HELLO, tools=[TOOL]) as stream:
        for _ in stream:
            pass
        [choice] = stream.get_final_completion().choices

    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Let me see.")
    assert json.loads(choice.message.tool_calls[0].function.arguments) == {"at": "Mühle"}


def test_a_conversation_goes_on_behind_a_call(client, says, daemon):
    says(*CALLED[1:])
    [choice] = client.chat.completions.create(model="chat", messages=HELLO, tools=[TOOL]).choices
    [call] = choice.message.tool_calls
    said = {"role": "tool", "tool_call_id": call.id, "content": "fog"}

    client.chat.completions.create(model="chat", messages=[*HELLO, choice.message, said], tools=[TOOL])

    assert daemon.asked[-1][1][2:] == [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"name": "weather", "arguments": {"at": "Mühle"}}],
        },
        {"role": "tool", "content": "fog"},
    ]


class Person(BaseModel):
    name: str
    age: int


def test_it_asks_for_json_by_a_schema(client, says, daemon):
    says('{"name": "Ann", ', '"age": 7}')

    parsed = client.chat.completions.parse(model="chat", messages=HELLO, response_format=Person)

    assert parsed.choices[0].message.parsed == Person(name="Ann", age=7)
    assert daemon.schema["properties"].keys() == {"name", "age"}
    client.chat.completions.create(model="chat", messages=HELLO, response_format={"type": "json_object"})
    assert daemon.schema == {"type": "object"}
    client.chat.completions.create(model="chat", messages=HELLO, response_format={"type": "text"})
    assert daemon.schema is None


@pytest.mark.parametrize(
    "form",
    [
        {"type": "yaml"},
        {},
        "json",
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {"name": "a"}},
    ],
)
def test_a_form_that_lorad_does_not_know_is_refused(client, form):
    with pytest.raises(openai.BadRequestError, match="response_format: must be") as caught:
        client.chat.completions.create(model="chat", messages=HELLO, response_format=form)
    assert caught.value.param == "response_format"
    with pytest.raises(openai.BadRequestError, match="send one of the two"):
        client.chat.completions.create(
            model="chat", messages=HELLO, tools=[TOOL], response_format={"type": "json_object"}
        )


@pytest.mark.parametrize("more", [{}, {"tools": [TOOL], "tool_choice": "none"}])
def test_without_tools_what_looks_like_a_call_is_text(client, says, more):
    says(*CALLED)

    [choice] = client.chat.completions.create(model="chat", messages=HELLO, **more).choices

    assert (choice.finish_reason, choice.message.content) == ("stop", "".join(CALLED))
    assert choice.message.tool_calls is None


def test_a_stream_that_is_closed_ends_its_answer(client, daemon, says):
    says("first")
    del daemon.chunks[-1]
    accepted, ask = queue.Queue(), daemon.ask
    daemon.ask = lambda *given, **how: accepted.put(made := ask(*given, **how)) or made
    stream = client.chat.completions.create(model="chat", messages=HELLO, stream=True)
    assert next(iter(stream)).choices[0].delta.role == "assistant"

    stream.close()

    request, _ = accepted.get(timeout=10)
    request.chunks.put(Chunk("nobody hears this"))
    assert request.cancelled.wait(10)
    request.chunks.put(Chunk("", "cancelled"))
    daemon.ask = ask


def test_errors_are_its_own(client, daemon):
    with pytest.raises(openai.BadRequestError, match="does not support num_beams") as bad:
        client.chat.completions.create(model="chat", messages=HELLO, extra_body={"num_beams": 2})
    assert (bad.value.code, bad.value.param) == ("unsupported_parameter", "num_beams")
    with pytest.raises(openai.NotFoundError, match="no model 'poems'"):
        client.models.retrieve("poems")
    daemon.error = ProtocolError("too many questions are waiting", status=503, code="busy", retry_after=1)
    with pytest.raises(openai.InternalServerError) as full:
        client.chat.completions.create(model="chat", messages=HELLO)
    daemon.error = None
    assert full.value.response.headers["retry-after"] == "1"


# tools that must be called


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", ["weather", "time"]),
        ({"type": "function", "function": {"name": "time"}}, ["time"]),
        ("auto", []),
    ],
)
def test_it_makes_the_model_call_a_tool(client, says, daemon, choice, names):
    says(*CALLED[1:])
    tools = [TOOL, {"type": "function", "function": {"name": "time"}}]

    whole = client.chat.completions.create(model="chat", messages=HELLO, tools=tools, tool_choice=choice)
    forced = [function["name"] for function in daemon.must_call]
    stream = client.chat.completions.create(
        model="chat", messages=HELLO, tools=tools, tool_choice=choice, stream=True
    )
    deltas = [piece.choices[0].delta for piece in stream]

    assert forced == names
    assert whole.choices[0].finish_reason == "tool_calls"
    assert [call.function.name for delta in deltas for call in delta.tool_calls or []] == ["weather"]


def test_it_is_told_which_tool_cannot_be_forced(client):
    with pytest.raises(openai.BadRequestError, match="names no tool") as caught:
        client.chat.completions.create(
            model="chat",
            messages=HELLO,
            tools=[TOOL],
            tool_choice={"type": "function", "function": {"name": "launch"}},
        )
    assert caught.value.param == "tool_choice"


# how likely tokens were

FOG = [
    WrittenToken(b"It is ", 0, -0.25, ((b"It is ", -0.25), (b"No", -1.5))),
    WrittenToken(b"\xf0\x9f", 6, -0.5, ((b"\xf0\x9f", -0.5), (b"fog", -1.0))),
    WrittenToken(b"\x8c\xab", 6, -0.75, ((b"\x8c\xab", -0.75),)),
    WrittenToken(b".", 7, -2.0, ((b"!", -1.0), (b"?", -1.25))),
]


@pytest.fixture
def scored(daemon):
    """Let the daemon say how likely each token was."""
    kept = daemon.chunks
    daemon.chunks = [
        Chunk("It is ", tokens=tuple(FOG[:1])),
        Chunk("\N{FOG}", tokens=tuple(FOG[1:3])),
        Chunk(".", tokens=tuple(FOG[3:])),
        Chunk("", "stop", 7, 5),
    ]
    yield
    daemon.chunks = kept
    daemon.reply = None


def check_fog(content):
    assert [each.token for each in content] == ["It is ", "\\xf0\\x9f", "\\x8c\\xab", "."]
    assert b"".join(bytes(each.bytes) for each in content).decode() == "It is \N{FOG}."
    assert [each.logprob for each in content] == [-0.25, -0.5, -0.75, -2.0]
    assert [(top.token, top.logprob, top.bytes) for top in content[3].top_logprobs] == [
        ("!", -1.0, [33]),
        ("?", -1.25, [63]),
    ]


@pytest.mark.usefixtures("scored")
def test_it_is_told_how_likely_each_token_of_a_chat_was(client, daemon):
    how = {"model": "chat", "messages": HELLO, "logprobs": True, "top_logprobs": 2}

    whole = client.chat.completions.create(**how, n=2)
    with client.chat.completions.stream(**how) as stream:
        for _ in stream:
            pass
        streamed = stream.get_final_completion()

    for choice in (*whole.choices, *streamed.choices):
        assert choice.message.content == "It is \N{FOG}."
        check_fog(choice.logprobs.content)
    assert {sampling.logprobs for _, _, sampling in daemon.asked} == {2}


@pytest.mark.usefixtures("scored")
def test_it_is_told_how_likely_each_token_of_a_completion_was(client, daemon):
    whole = client.completions.create(model="chat", prompt="Fog?", logprobs=2).choices[0].logprobs
    pieces = client.completions.create(model="chat", prompt="Fog?", logprobs=2, stream=True)
    streamed = [piece.choices[0].logprobs for piece in pieces]

    assert whole.tokens == ["It is ", "bytes:\\xf0\\x9f", "bytes:\\x8c\\xab", "."]
    assert whole.token_logprobs == [-0.25, -0.5, -0.75, -2.0]
    assert whole.text_offset == [0, 6, 6, 7]
    assert whole.top_logprobs[1] == {"bytes:\\xf0\\x9f": -0.5, "fog": -1.0}
    assert whole.top_logprobs[3] == {".": -2.0, "!": -1.0, "?": -1.25}
    for field in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert [each for piece in streamed for each in getattr(piece, field)] == getattr(whole, field)
    assert daemon.asked[-1][2].logprobs == 2


@pytest.mark.usefixtures("scored")
def test_who_does_not_ask_is_told_null(client):
    whole = client.chat.completions.create(model="chat", messages=HELLO)
    pieces = list(client.chat.completions.create(model="chat", messages=HELLO, stream=True))
    text = client.completions.create(model="chat", prompt="Fog?")

    assert [choice.logprobs for choice in (*whole.choices, *text.choices)] == [None, None]
    assert {piece.choices[0].logprobs for piece in pieces} == {None}


@pytest.mark.usefixtures("scored")
def test_an_answer_that_no_model_was_asked_for_has_no_probabilities(client, daemon):
    daemon.reply = Reply(mode="stored", text="It is foggy.")
    for chunk in daemon.chunks[:-1]:
        daemon.chunks[daemon.chunks.index(chunk)] = Chunk(chunk.text)

    whole = client.chat.completions.create(model="chat", messages=HELLO, logprobs=True)
    stream = client.chat.completions.create(model="chat", messages=HELLO, logprobs=True, stream=True)

    assert whole.choices[0].logprobs is None
    assert {piece.choices[0].logprobs for piece in stream} == {None}


@pytest.mark.usefixtures("scored")
def test_an_answer_that_may_call_tools_and_does_not_has_its_tokens(client, daemon):
    daemon.chunks[2] = Chunk(" <tool_c.", tokens=(WrittenToken(b" <tool_c.", 7, -2.0),))
    how = {"model": "chat", "messages": HELLO, "tools": [TOOL], "logprobs": True}

    whole = client.chat.completions.create(**how)
    with client.chat.completions.stream(**how) as stream:
        for _ in stream:
            pass
        streamed = stream.get_final_completion()

    for choice in (*whole.choices, *streamed.choices):
        assert choice.message.content == "It is \N{FOG} <tool_c."
        assert [each.logprob for each in choice.logprobs.content] == [-0.25, -0.5, -0.75, -2.0]


def test_what_is_a_call_has_no_tokens(client, daemon):
    kept = daemon.chunks
    call = '<tool_call>{"name": "weather", "arguments": {}}</tool_call>'
    daemon.chunks = [
        Chunk("Let me see.", tokens=(WrittenToken(b"Let me see.", 0, -0.5),)),
        Chunk(call, tokens=(WrittenToken(call.encode(), 11, -3.0),)),
        Chunk("", "stop", 7, 5),
    ]
    how = {"model": "chat", "messages": HELLO, "tools": [TOOL], "logprobs": True}

    whole = client.chat.completions.create(**how).choices[0]
    pieces = list(client.chat.completions.create(**how, stream=True))
    daemon.chunks = kept

    assert whole.finish_reason == "tool_calls"
    assert [each.token for each in whole.logprobs.content] == ["Let me see."]
    told = [piece.choices[0].logprobs for piece in pieces]
    assert [each.token for one in told if one for each in one.content] == ["Let me see."]
