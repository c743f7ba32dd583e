"""The client for programs with an event loop, against a fake daemon on a real Unix socket."""

import asyncio
import tempfile
from pathlib import Path

import pytest
from fake_daemon import ORIGIN, FakeDaemon, Problem, Raw, Stream, began, completion, delta, ended, snapshot

from lorad.errors import ConfigError, ProtocolError, TransientError
from lorad.serving.answers import Predictions, TextSpans
from lorad.serving.async_client import AsyncClient, _lines
from lorad.serving.record_json import as_json

CHAT, HELLO = "POST /v1/chat/completions", [{"role": "user", "content": "hello"}]
DONE = "data: [DONE]"


@pytest.fixture
def path():
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder) / "run" / "lorad.sock"


@pytest.fixture
def daemon(path):
    fake = FakeDaemon(path)
    yield fake
    fake.close()


def test_a_question_gets_its_answer_as_text_or_as_a_record(daemon, path):
    daemon.answers(CHAT, completion("a mill", "stop", ORIGIN))
    client = AsyncClient(path)

    assert asyncio.run(client.ask("Where?", max_tokens=3, seed=None)) == "a mill"
    whole = asyncio.run(client.chat(HELLO, "chat@v0.1"))

    assert as_json(whole.lorad) == ORIGIN
    assert daemon.asked == [
        (CHAT, {}, {"model": "chat", "messages": [{"role": "user", "content": "Where?"}], "max_tokens": 3}),
        (CHAT, {}, {"model": "chat@v0.1", "messages": HELLO}),
    ]


def test_a_streamed_answer_comes_in_pieces_and_tells_why_it_ended(daemon, path):
    daemon.answers(
        CHAT, Stream(began(ORIGIN), ": alive", delta("a "), delta("Mühle"), *ended("stop", 2), DONE)
    )

    async def read():
        answer = AsyncClient(path).stream_chat(HELLO)
        return [piece async for piece in answer], answer

    pieces, answer = asyncio.run(read())
    assert pieces == ["a ", "Mühle"]
    assert (answer.finish_reason, answer.tokens, as_json(answer.origin)) == ("stop", 2, ORIGIN)


def test_a_stream_that_is_closed_hangs_up(daemon, path):
    daemon.answers(CHAT, Stream(delta("a"), delta("b"), *ended("stop", 2), DONE))

    async def read():
        answer = AsyncClient(path).stream_chat(HELLO)
        first = await anext(answer)
        await answer.aclose()
        return first, [piece async for piece in answer]

    assert asyncio.run(read()) == ("a", [])


def test_many_wait_together(daemon, path):
    daemon.answers(CHAT, completion("fine"))

    async def ask():
        client = AsyncClient(path)
        return await asyncio.gather(*(client.ask(f"Question {number}?") for number in range(20)))

    assert asyncio.run(ask()) == ["fine"] * 20


def test_other_questions_are_records_too(daemon, path):
    text = {"choices": [{"index": 0, "text": " upon a time", "finish_reason": "length"}]}
    vectors = {"model": "minilm", "data": [{"index": 0, "embedding": [1, 0.5]}]}
    told = {"model": "mail@v0.1", "predictions": [{"label": "spam"}]}
    daemon.answers("POST /v1/completions", text)
    daemon.answers("POST /v1/embeddings", vectors)
    daemon.answers("POST /lorad/predict", told)
    daemon.answers("POST /lorad/spectra", {"model": "spectra@v0.1", "spectra": [{"matches": []}]})
    daemon.answers("POST /lorad/tag", {"model": "ner@v0.1", "texts": [{"spans": []}]})
    daemon.answers("POST /lorad/classify", {"model": "mail@v0.1", "classifications": []})
    filled = {"text": "of Spain", "gaps": [[{"word": " Spain", "probability": 0.5}]]}
    daemon.answers("POST /lorad/fill-mask", {"model": "words@v0.1", "texts": [filled]})
    daemon.answers("POST /lorad/systems/lcr", {"system": "lcr", "members": [], "results": []})
    daemon.answers("GET /v1/models", {"data": [{"id": "chat", "created": 1}]})
    daemon.answers("GET /lorad/status", snapshot())
    client = AsyncClient(path)

    assert asyncio.run(client.complete("Once", n=1)).choices[0].text == " upon a time"
    assert asyncio.run(client.embed(["a"], "minilm")) == [(1.0, 0.5)]
    assert asyncio.run(client.match_spectra([{"smiles": "C"}])).spectra[0].matches == ()
    assert asyncio.run(client.predict("mail", ["a"])) == Predictions(
        model="mail@v0.1", predictions=({"label": "spam"},)
    )
    assert asyncio.run(client.tag_texts(["a"])).texts == (TextSpans(spans=()),)
    assert asyncio.run(client.classify("mail", ["a"])).model == "mail@v0.1"
    assert asyncio.run(client.fill("words", ["of [MASK]"])).texts[0].gaps[0][0].word == " Spain"
    assert asyncio.run(client.ask_system("lcr", ["a"], "small")).system == "lcr"
    assert daemon.asked[-1][2] == {"texts": ["a"], "variant": "small"}
    assert [model.id for model in asyncio.run(client.models()).data] == ["chat"]
    assert asyncio.run(client.status()).pid == 4242
    assert asyncio.run(client.call("GET", "/lorad/status", track="a b"))["pid"] == 4242
    assert daemon.asked[-1] == ("GET /lorad/status", {"track": "a b"}, None)


def test_what_the_daemon_says_is_wrong_is_raised(daemon, path):
    daemon.answers(CHAT, Problem(503, "busy", "too many questions are waiting", retry_after=1))
    with pytest.raises(ProtocolError, match="too many questions") as full:
        asyncio.run(AsyncClient(path).ask("Where?"))
    assert (full.value.status, full.value.code, full.value.data["retry_after"]) == (503, "busy", 1)


@pytest.mark.parametrize(
    ("events", "error", "told"),
    [
        ((delta("half"),), TransientError, "broke off"),
        ((delta("half"), None), TransientError, "broke in the middle"),
        (('data: {"error": {"message": "answering failed"}}',), ProtocolError, "answering failed"),
        (("data: {",), ProtocolError, "not JSON"),
    ],
)
def test_a_stream_that_breaks_is_told(daemon, path, events, error, told):
    daemon.answers(CHAT, Stream(*events))

    async def read():
        return [piece async for piece in AsyncClient(path).stream_chat(HELLO)]

    with pytest.raises(error, match=told):
        asyncio.run(read())


def test_an_answer_that_is_no_json_is_told(daemon, path):
    daemon.answers("GET /v1/models", Raw(200, b"<html>"))
    with pytest.raises(ProtocolError, match="not JSON"):
        asyncio.run(AsyncClient(path).models())


def test_where_no_daemon_runs_it_is_told_how_to_start_one(path):
    with pytest.raises(ConfigError, match=r"start it with: lorad --home .* run") as caught:
        asyncio.run(AsyncClient(path).models())
    assert caught.value.code == "not_running"


def test_a_daemon_that_says_nothing_is_told_in_time(path):
    async def silent(reader, writer):
        await reader.read()  # until the client hangs up
        writer.close()

    async def ask():
        path.parent.mkdir()
        server = await asyncio.start_unix_server(silent, path)
        try:
            await AsyncClient(path).call("GET", "/v1/models", seconds=0.1)
        finally:
            server.close()

    with pytest.raises(TransientError, match="did not answer in time"):
        asyncio.run(ask())


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_lines_are_whole_however_they_are_cut(size):
    raw = "data: é\n\ndata: b\n".encode()

    async def cut():
        for at in range(0, len(raw), size):
            yield raw[at : at + size]

    async def read():
        return [line async for line in _lines(cut())]

    assert asyncio.run(read()) == ["data: é".encode(), b"", b"data: b"]
