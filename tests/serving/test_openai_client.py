"""OpenAI's own client over the socket, against a fake daemon: what people's programs do."""

import json
import queue

import httpx2
import openai
import pytest
from fake_app import HELLO
from pydantic import BaseModel

from lorad.errors import ProtocolError
from lorad.serving.requests import Chunk

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
