"""OpenAI's routes: which models there are, chat and text completions, whole or as server-sent events.

What lives here: the forms in which answers go out. What never does: reading requests (``schemas``, ``openai_bodies``), how
answers are waited for (``generation``), generating.
"""

import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
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
    TextChoice,
    TextCompletion,
    ToolCall,
    Usage,
)
from lorad.serving.http import http_errors, logprobs
from lorad.serving.http.bodies import encoded
from lorad.serving.http.daemon import Daemon
from lorad.serving.http.generation import Accepted, Answering, Piece
from lorad.serving.http.openai_bodies import CompletionBody
from lorad.serving.http.routing import given
from lorad.serving.http.schemas import AnswerBody, ChatBody
from lorad.serving.record_json import as_json
from lorad.serving.requests import GenerationRequest, Sampling

STREAMED: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}


def add(app: FastAPI, daemon: Daemon, answering: Answering) -> None:
    """Add the routes."""
    _add_models(app, daemon)
    _add_chat(app, daemon, answering)
    _add_completions(app, daemon, answering)


def _add_chat(app: FastAPI, daemon: Daemon, answering: Answering) -> None:
    @app.post("/v1/chat/completions", response_model=Completion, responses=STREAMED)
    async def chat(
        body: Annotated[ChatBody, given(ChatBody)], request: Request
    ) -> Completion | StreamingResponse:
        question, retrieve = body.question(), body.lorad.retrieve
        form: dict[str, Any] = {"schema": body.answer_schema(), "must_call": body.must_call()}

        def ask(model: str, sampling: Sampling) -> tuple[GenerationRequest, str]:
            return daemon.ask(model, question, sampling, retrieve=retrieve, **form)

        accepted = await answering.accept(body.model, [ask], body.sampling(), body.n, body.declared())
        head = _head("chatcmpl", accepted)
        if body.stream:
            return _streamed(_chat_events(accepted, body, head))
        written = await accepted.whole(request)
        choices = tuple(
            Choice(
                index=each.place,
                message=_message(each),
                logprobs=logprobs.of_chat(each.tokens),
                finish_reason=_finish(each),
            )
            for each in written
        )
        return Completion(**head, choices=choices, usage=_usage(written, body.n), lorad=accepted.origin)


def _add_completions(app: FastAPI, daemon: Daemon, answering: Answering) -> None:
    @app.post("/v1/completions", response_model=TextCompletion, responses=STREAMED)
    async def completions(
        body: Annotated[CompletionBody, given(CompletionBody)], request: Request
    ) -> TextCompletion | StreamingResponse:
        asks = [partial(daemon.complete, prompt) for prompt in body.prompts()]
        accepted = await answering.accept(body.model, asks, body.sampling(), body.n)
        head = _head("cmpl", accepted)
        if body.stream:
            return _streamed(_text_events(accepted, body, head))
        written = await accepted.whole(request)
        choices = tuple(map(_text_choice, written))
        return TextCompletion(**head, choices=choices, usage=_usage(written, body.n))


def _add_models(app: FastAPI, daemon: Daemon) -> None:
    @app.get("/v1/models")
    def models() -> Models:
        return Models(data=daemon.models())

    @app.get("/v1/models/{name}")
    def model(name: str) -> Model:
        known = {each.id: each for each in daemon.models()}
        if name not in known:
            raise ProtocolError(
                f"there is no model {name!r}; known: {', '.join(known)}", status=404, code="model_not_found"
            )
        return known[name]


def _text_choice(piece: Piece) -> TextChoice:
    return TextChoice(
        index=piece.place,
        text=piece.text,
        logprobs=logprobs.of_text(piece.tokens),
        finish_reason=piece.finish,
    )


def _message(piece: Piece) -> Message:
    """Return what the model says; where it only calls tools the text is ``null``, as OpenAI has it."""
    calls = tuple(ToolCall(**each) for each in _calls(piece))
    return Message(content=piece.text if piece.text or not calls else None, tool_calls=calls or None)


def _calls(piece: Piece) -> list[dict[str, Any]]:
    return [
        {
            "id": f"call_{uuid.uuid4().hex[:24]}",
            "function": {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)},
        }
        for call in piece.calls
    ]


def _finish(piece: Piece) -> str | None:
    return "tool_calls" if piece.calls else piece.finish


def _usage(written: Sequence[Piece], n: int) -> Usage:
    """Return what answers cost, ``n`` to each prompt: a prompt counts once."""
    prompt = sum(each.prompt_tokens for each in written[::n])
    answer = sum(each.answer_tokens for each in written)
    return Usage(prompt_tokens=prompt, completion_tokens=answer, total_tokens=prompt + answer)


def _head(kind: str, accepted: Accepted) -> dict[str, Any]:
    return {
        "id": f"{kind}-{uuid.uuid4().hex}",
        "created": int(time.time()),
        "model": accepted.model,
        "system_fingerprint": accepted.fingerprint,
    }


# -- events


def _streamed(events: AsyncIterator[bytes]) -> StreamingResponse:
    return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


def _chat_events(accepted: Accepted, body: ChatBody, head: dict[str, Any]) -> AsyncIterator[bytes]:
    event = partial(CompletionChunk, **head)

    def begun(place: int) -> CompletionChunk:
        choice = ChunkChoice(index=place, delta={"role": "assistant", "content": ""})
        return event(choices=(choice,), lorad=None if place else accepted.origin)

    def told(piece: Piece) -> Iterator[CompletionChunk]:
        calls = [{"index": place, "type": "function", **call} for place, call in enumerate(_calls(piece))]
        likely = logprobs.of_chat(piece.tokens or None)
        if piece.text:
            delta = {"content": piece.text}
            yield event(choices=(ChunkChoice(index=piece.place, delta=delta, logprobs=likely),))
            likely = None
        if calls:
            yield event(choices=(ChunkChoice(index=piece.place, delta={"tool_calls": calls}),))
        if piece.finish:
            end = ChunkChoice(index=piece.place, logprobs=likely, finish_reason=_finish(piece))
            yield event(choices=(end,))

    opening = [begun(place) for place in range(body.n)]
    return _events(accepted, body, opening, told, lambda usage: event(usage=usage))


def _text_events(accepted: Accepted, body: CompletionBody, head: dict[str, Any]) -> AsyncIterator[bytes]:
    event = partial(TextCompletion, **head)

    def told(piece: Piece) -> Iterator[TextCompletion]:
        yield event(choices=(_text_choice(piece),))

    return _events(accepted, body, [], told, lambda usage: event(usage=usage))


async def _events(
    accepted: Accepted,
    body: AnswerBody,
    opening: Sequence[Any],
    told: Callable[[Piece], Iterator[Any]],
    closing: Callable[[Usage], Any],
) -> AsyncIterator[bytes]:
    has_usage, ends = body.stream_options.include_usage, {}

    def said(record: Any) -> bytes:
        event = as_json(record)
        if not has_usage:  # as OpenAI has it: a client that asks for none is not even sent a null
            del event["usage"]
        return _sent(event)

    for record in opening:
        yield said(record)
    try:
        async with contextlib.aclosing(accepted.pieces()) as pieces:
            async for piece in pieces:
                for record in told(piece):
                    yield said(record)
                if piece.finish:
                    ends[piece.place] = piece
        if has_usage:
            yield said(closing(_usage([ends[place] for place in sorted(ends)], body.n)))
    except Exception as error:  # noqa: BLE001 - the status is sent; the client is told in its own form
        yield _sent(http_errors.form(error))
    yield b"data: [DONE]\n\n"


def _sent(told: Any) -> bytes:
    """Return a server-sent event."""
    return b"data: " + encoded(told) + b"\n\n"
