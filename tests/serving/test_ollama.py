"""Ollama's routes over a real socket, from a fake daemon; asked by hand, and by Ollama's own client."""

import json
import queue

import httpx
import ollama
import pytest
from fake_app import HELLO

from lorad import __version__
from lorad.errors import ProtocolError, RegistryError
from lorad.retrieval.answering import Reply
from lorad.serving.client import Client, UnixConnection
from lorad.serving.completions import Model
from lorad.serving.http.ollama_bodies import OllamaChatBody, OllamaEmbedBody, OllamaGenerateBody
from lorad.serving.requests import Chunk

TEXT = "See https://a.example/x?y=1  and é\n"


@pytest.fixture(autouse=True)
def forget(daemon):
    daemon.asked.clear()
    daemon.error = daemon.reply = None


@pytest.fixture
def client(path):
    """Ollama's own."""
    transport = httpx.HTTPTransport(uds=str(path))
    made = ollama.Client("http://lorad", transport=transport)
    yield made
    made._client.close()


def post(path, route, body):
    connection = UnixConnection(path, 10)
    connection.request("POST", route, json.dumps(body))
    response = connection.getresponse()
    answer = response.status, response.headers["content-type"], response.read().decode()
    connection.close()
    return answer


# by hand


def test_an_answer_is_lines_of_json_unless_the_request_says_no(path):
    status, kind, body = post(path, "/api/chat", {"model": "chat:latest", "messages": HELLO})

    *pieces, last = [json.loads(line) for line in body.splitlines()]
    assert (status, kind) == (200, "application/x-ndjson")
    assert "".join(piece["message"]["content"] for piece in pieces) == TEXT
    assert pieces[0].keys() == {"model", "created_at", "done", "message"}
    assert not any(piece["done"] for piece in pieces)
    assert (last["model"], last["done"], last["done_reason"]) == ("chat:latest", True, "stop")
    assert (last["prompt_eval_count"], last["eval_count"]) == (7, 3)
    assert last["total_duration"] == pytest.approx(
        last["prompt_eval_duration"] + last["eval_duration"], abs=2
    )
    assert 0 < last["total_duration"] < 60 * 10**9
    assert last["created_at"].endswith("Z")


def test_what_the_socket_says_of_an_answers_origin_stands_in_its_first_line(path, daemon):
    daemon.reply = Reply(mode="weights")

    _, _, body = post(path, "/api/generate", {"model": "chat", "prompt": "hello"})

    told = [json.loads(line) for line in body.splitlines()]
    assert told[0]["lorad"] == {"mode": "weights", "sources": []}
    assert not any("lorad" in line for line in told[1:])


def test_an_error_is_a_sentence_as_ollamas_clients_read_it(path, daemon):
    status, _, body = post(path, "/api/chat", {"model": "chat", "messages": [{"role": "robot"}]})
    assert status == 400
    assert json.loads(body).keys() == {"error"}
    assert "must be one of" in json.loads(body)["error"]

    chunks, daemon.chunks = daemon.chunks, [Chunk("half"), ProtocolError("answering failed", status=500)]
    _, _, body = post(path, "/api/chat", {"model": "chat", "messages": HELLO})
    daemon.chunks = chunks
    assert json.loads(body.splitlines()[-1]) == {"error": "answering failed"}


@pytest.mark.parametrize(
    ("method", "route", "status"),
    [
        ("GET", "/api/ps", 404),
        ("POST", "/api/embeddings", 404),
        ("POST", "/api/pull", 404),
        ("DELETE", "/api/delete", 404),
        ("GET", "/api/", 404),
        ("GET", "/api/chat", 405),
    ],
)
def test_what_is_not_there_is_a_sentence_too(path, method, route, status):
    connection = UnixConnection(path, 10)
    connection.request(method, route)
    response = connection.getresponse()
    told = json.loads(response.read())
    connection.close()

    assert response.status == status
    assert told.keys() == {"error"}
    assert route in told["error"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_it_says_that_it_runs_as_ollamas_programs_want_to_hear(path, method):
    connection = UnixConnection(path, 10)
    connection.request(method, "/")
    response = connection.getresponse()

    assert (response.status, response.read()) == (200, b"Ollama is running" if method == "GET" else b"")
    assert response.headers["content-type"].startswith("text/plain")
    connection.close()


def test_a_model_that_is_damaged_does_not_silence_the_others(path, daemon, monkeypatch):
    models, describe = daemon.models(), daemon.describe

    def described(model):
        if model == "chat@v0.1":
            raise RegistryError("its manifest cannot be read", code="manifest_damaged")
        return describe(model)

    monkeypatch.setattr(daemon, "describe", described)
    monkeypatch.setattr(daemon, "models", lambda: (Model(id="chat@v0.1", created=1), *models))

    assert [each["name"] for each in Client(path).call("GET", "/api/tags")["models"]] == ["chat:latest"]


def test_a_raw_prompt_gets_no_template_and_another_one_does(path, daemon):
    for body in ({"raw": True}, {"system": "Be brief."}, {}):
        post(path, "/api/generate", {"model": "chat:previous", "prompt": "hello", **body})

    asked = [(model, messages) for model, messages, _ in daemon.asked]
    assert asked == [
        ("chat@previous", "hello"),
        ("chat@previous", [{"role": "system", "content": "Be brief."}, *HELLO]),
        ("chat@previous", HELLO),
    ]


def test_options_say_how_to_generate(path, daemon):
    options = {"temperature": 0.5, "top_k": 3, "num_predict": 9, "stop": ["\n"], "seed": 4, "num_ctx": 512}
    post(path, "/api/chat", {"model": "chat", "messages": HELLO, "options": options})
    post(path, "/api/chat", {"model": "chat", "messages": HELLO, "options": {"num_predict": -1}})

    [given, none] = [sampling for _, _, sampling in daemon.asked]
    assert (given.temperature, given.top_k, given.max_tokens) == (0.5, 3, 9)
    assert (given.stop, given.seed) == (("\n",), 4)
    assert (none.temperature, none.max_tokens) == (0.0, None)


def understood(read, raw):
    """Read all of a body, as its route does."""
    body = read(raw)
    return (
        body.texts()
        if isinstance(body, OllamaEmbedBody)
        else (body.question(), body.answer_schema(), body.options.sampling())
    )


@pytest.mark.parametrize(
    ("kind", "body", "field"),
    [
        (OllamaChatBody, {"messages": HELLO}, "model"),
        (OllamaChatBody, {"model": "chat", "messages": [{"role": "user", "content": "a", "images": ["x"]}]}, "messages[0].images"),
        (OllamaChatBody, {"model": "chat", "messages": HELLO, "format": "yaml"}, "format"),
        (OllamaChatBody, {"model": "chat", "messages": HELLO, "think": True}, "think"),
        (OllamaChatBody, {"model": "chat", "messages": HELLO, "logprobs": True}, "logprobs"),
        (OllamaGenerateBody, {"model": "chat", "prompt": "a", "top_logprobs": 3}, "top_logprobs"),
        (OllamaChatBody, {"model": "chat", "messages": HELLO, "temperature": 1}, "temperature"),
        (OllamaChatBody, {"model": "chat", "messages": HELLO, "max_tokens": 1}, "max_tokens"),
        (OllamaChatBody, {"model": "chat", "messages": HELLO, "options": {"repeat_penalty": 1.1}}, "repeat_penalty"),
        (OllamaChatBody, {"model": "chat", "messages": HELLO, "options": {"temperature": -1}}, "options.temperature"),
        (OllamaChatBody, {"model": "chat", "messages": HELLO, "options": {"num_predict": 0}}, "options.num_predict"),
        (OllamaChatBody, {"model": "chat", "messages": HELLO, "format": "json", "tools": [{"function": {"name": "f"}}]}, "format"),
        (OllamaGenerateBody, {"model": "chat", "prompt": "a", "raw": True, "format": "json"}, "format"),
        (OllamaGenerateBody, {"model": "chat", "prompt": "a", "suffix": "b"}, "suffix"),
        (OllamaGenerateBody, {"model": "chat", "prompt": "a", "context": [1]}, "context"),
        (OllamaGenerateBody, {"model": "chat", "prompt": "a", "raw": True, "system": "b"}, "system"),
        (OllamaGenerateBody, {"model": "chat", "prompt": "a", "tools": [{}]}, "tools"),
        (OllamaEmbedBody, {"model": "chat"}, "input"),
        (OllamaEmbedBody, {"model": "chat", "input": "a", "dimensions": 8}, "dimensions"),
        (OllamaEmbedBody, {"model": "chat", "input": "a", "truncate": False}, "truncate"),
    ],
)  # fmt: skip
def test_what_is_not_done_is_refused_by_name(kind, body, field):
    with pytest.raises(ProtocolError) as caught:
        understood(kind.read, json.dumps(body).encode())

    assert (caught.value.status, caught.value.data["param"]) == (400, field)


@pytest.mark.parametrize(
    "more",
    [
        {"keep_alive": "5m", "format": "", "think": False, "options": {"repeat_penalty": 1, "num_thread": 4}},
        {"options": {"num_gpu": 1, "use_mmap": True, "low_vram": False, "repeat_last_n": 64, "num_keep": 4}},
        {"options": None, "tools": None, "format": None, "stream": None, "logprobs": False},
    ],
)
def test_what_changes_no_answer_is_let_through(more):
    assert OllamaChatBody.read(json.dumps({"model": "chat", "messages": HELLO, **more}).encode()).stream


# by Ollama's own client


def test_its_client_chats_whole_and_in_pieces(client):
    whole = client.chat("chat", messages=HELLO)
    pieces = list(client.chat("chat", messages=HELLO, stream=True))

    assert (whole.message.role, whole.message.content) == ("assistant", TEXT)
    assert (whole.done_reason, whole.eval_count) == ("stop", 3)
    assert "".join(piece.message.content for piece in pieces) == TEXT
    assert [piece.done for piece in pieces] == [False, False, True]


def test_its_client_generates_and_is_told_that_a_model_is_there(client, daemon):
    assert client.generate("chat", prompt="hello", options={"num_predict": 4}).response == TEXT
    assert "".join(piece.response for piece in client.generate("chat", prompt="hello", stream=True)) == TEXT
    assert [messages for _, messages, _ in daemon.asked] == [HELLO, HELLO]

    assert client.generate("chat").done_reason == "load"
    assert client.chat("chat").done_reason == "load"
    assert len(daemon.asked) == 2


def test_its_client_embeds(client, daemon):
    told = client.embed("minilm", input=["a", "bc"])

    assert told.embeddings == [[1.0, -0.5, 1.0], [1.0, -0.5, 2.0]]
    assert told.prompt_eval_count == 3
    assert daemon.asked[-1] == ("minilm", ["a", "bc"])


def test_its_client_lists_and_shows_models(client, path):
    [listed] = client.list().models
    shown = client.show("chat")

    assert (listed.model, listed.size, listed.digest) == ("chat:latest", 269_060_552, "ab" * 32)
    assert listed.details.parameter_size == "134.52M"
    assert listed.modified_at.year == 2025
    assert shown.details.quantization_level == "BF16"
    assert shown.modelinfo["llama.context_length"] == 8192
    assert shown.capabilities == ["completion", "tools"]
    assert Client(path).call("GET", "/api/version") == {"version": __version__}


def test_older_clients_name_the_model_otherwise(path):
    assert post(path, "/api/show", {"name": "chat"})[0] == 200


def test_its_client_passes_tools_on_and_what_they_said(client, daemon):
    call = {"function": {"name": "weather", "arguments": {"at": "mill"}}}
    messages = [
        *HELLO,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "fog", "tool_name": "weather"},
    ]
    client.chat(
        "chat",
        messages=messages,
        tools=[{"type": "function", "function": {"name": "weather", "description": "of a place"}}],
    )

    [(_, asked, _)] = daemon.asked
    assert [message["role"] for message in asked] == ["tools", "user", "assistant", "tool"]
    assert asked[2]["tool_calls"] == [{"name": "weather", "arguments": {"at": "mill"}}]


def test_its_client_asks_for_json(client, daemon):
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}}
    for form, asked in (("", None), ("json", {"type": "object"}), (schema, schema)):
        client.chat("chat", messages=HELLO, format=form)
        assert daemon.schema == asked
    client.generate("chat", prompt="hello", format=schema)
    assert daemon.schema == schema


def test_its_client_is_told_of_calls(client, daemon):
    kept = daemon.chunks
    daemon.chunks = [
        Chunk('{"name": "weather", '),
        Chunk('"parameters": {"at": "mill"}}'),
        Chunk("", "stop", 7, 3),
    ]
    tools = [{"type": "function", "function": {"name": "weather", "description": "of a place"}}]

    whole = client.chat("chat", messages=HELLO, tools=tools)
    *_, called, last = client.chat("chat", messages=HELLO, tools=tools, stream=True)

    for told in (whole, called):
        [call] = told.message.tool_calls
        assert (call.function.name, call.function.arguments) == ("weather", {"at": "mill"})
        assert told.message.content == ""
    assert (called.done, last.done, last.done_reason, last.message.tool_calls) == (False, True, "stop", None)
    daemon.chunks = kept


def test_its_client_raises_what_is_wrong(client, daemon):
    with pytest.raises(ollama.ResponseError, match="there is no model") as missing:
        client.show("poems")
    assert missing.value.status_code == 404
    daemon.error = ProtocolError("too many questions are waiting", status=503, code="busy", retry_after=1)
    with pytest.raises(ollama.ResponseError, match="too many questions") as full:
        client.chat("chat", messages=HELLO)
    assert full.value.status_code == 503
    daemon.error = None
    daemon.chunks, kept = [Chunk("half"), ProtocolError("answering failed", status=500)], daemon.chunks
    with pytest.raises(ollama.ResponseError, match="answering failed"):
        list(client.chat("chat", messages=HELLO, stream=True))
    daemon.chunks = kept


def test_its_clients_stream_that_is_closed_ends_its_answer(client, daemon, monkeypatch):
    accepted, ask = queue.Queue(), daemon.ask
    monkeypatch.setattr(daemon, "chunks", [Chunk("first")])
    monkeypatch.setattr(daemon, "ask", lambda *given, **how: accepted.put(made := ask(*given, **how)) or made)
    stream = client.chat("chat", messages=HELLO, stream=True)
    assert next(stream).message.content == "first"

    stream.close()

    request, _ = accepted.get(timeout=10)
    request.chunks.put(Chunk("nobody hears this"))
    assert request.cancelled.wait(10)
    request.chunks.put(Chunk("", "cancelled"))
