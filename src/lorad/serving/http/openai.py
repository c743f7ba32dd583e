"""OpenAI's routes: which models there are, and chat completions, whole or as server-sent events.

What lives here: a question's way through a thread to the engine, and its answer's way out piece by piece. What never
does: reading the request (``schemas``), generating.
"""

import time
import uuid
from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, Any

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from lorad.errors import ProtocolError
from lorad.serving.completions import (
    Choice,
    ChunkChoice,
    Completion,
    CompletionChunk,
    Message,
    Model,
    Models,
    Origin,
    SourceExample,
    Usage,
)
from lorad.serving.http import http_errors
from lorad.serving.http.bodies import encoded
from lorad.serving.http.daemon import Daemon
from lorad.serving.http.routing import Threads, cancelled_when_left, given
from lorad.serving.http.schemas import ChatBody
from lorad.serving.record_json import as_json, fields_of
from lorad.serving.requests import Chunk, GenerationRequest

STREAMED: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}


def add(app: FastAPI, daemon: Daemon) -> None:
    """Add the routes."""
    _add_models(app, daemon)
    threads = Threads()

    @app.post("/v1/chat/completions", response_model=Completion, responses=STREAMED)
    async def chat(
        body: Annotated[ChatBody, given(ChatBody)], request: Request
    ) -> Completion | StreamingResponse:
        ask = partial(daemon.ask, retrieve=body.lorad.retrieve)
        asked, fingerprint = await threads.run(ask, body.model, body.question(), body.sampling())
        head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": f"{asked.track}@{asked.version}",
            "system_fingerprint": fingerprint,
        }
        if body.stream:
            events = _events(asked, head, threads, has_usage=body.stream_options.include_usage)
            return StreamingResponse(
                events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
            )
        async with cancelled_when_left(request, asked):
            return _whole(await threads.run(lambda: list(asked.answer())), head, _origin(asked))


def _add_models(app: FastAPI, daemon: Daemon) -> None:
    @app.get("/v1/models")
    def models() -> Models:
        return Models(data=daemon.models())

    @app.get("/v1/models/{name}")
    def model(name: str) -> Model:
        for known in daemon.models():
            if known.id == name:
                return known
        raise ProtocolError(
            f"there is no model {name!r}; list them with: GET /v1/models", status=404, code="model_not_found"
        )


def _origin(asked: GenerationRequest) -> Origin | None:
    reply = asked.reply
    if reply is None:
        return None
    sources = tuple(SourceExample(**fields_of(source)) for source in reply.sources)
    return Origin(mode=reply.mode, sources=sources)


def _usage(last: Chunk) -> Usage:
    return Usage(
        prompt_tokens=last.prompt_tokens,
        completion_tokens=last.answer_tokens,
        total_tokens=last.prompt_tokens + last.answer_tokens,
    )


def _whole(chunks: list[Chunk], head: dict[str, Any], origin: Origin | None) -> Completion:
    last = chunks[-1]
    message = Message(content="".join(chunk.text for chunk in chunks))
    choice = Choice(message=message, finish_reason=last.finish)
    return Completion(**head, choices=(choice,), usage=_usage(last), lorad=origin)


async def _events(
    asked: GenerationRequest, head: dict[str, Any], threads: Threads, *, has_usage: bool
) -> AsyncIterator[bytes]:
    def said(delta: dict[str, str], finish: str | None = None, origin: Origin | None = None) -> bytes:
        choice = ChunkChoice(delta=delta, finish_reason=finish)
        event = as_json(CompletionChunk(**head, choices=(choice,), lorad=origin))
        if not has_usage:  # as OpenAI has it: a client that asks for none is not even sent a null
            del event["usage"]
        return _sent(event)

    yield said({"role": "assistant", "content": ""}, origin=_origin(asked))
    chunks = asked.answer()
    try:
        while (chunk := await threads.run(next, chunks, None)) is not None:
            yield said({"content": chunk.text} if chunk.text else {}, chunk.finish)
            if chunk.finish and has_usage:
                yield _sent(CompletionChunk(**head, usage=_usage(chunk)))
    except Exception as error:  # noqa: BLE001 - the status is sent; the client is told in its own form
        yield _sent(http_errors.form(error))
    finally:
        asked.cancelled.set()  # also when the client has left: nobody needs the rest
    yield b"data: [DONE]\n\n"


def _sent(told: Any) -> bytes:
    """Return a server-sent event."""
    return b"data: " + encoded(told) + b"\n\n"
