"""Ollama's routes: chat, generate, embed, what there is, and that it is there, whole or as lines of JSON.

What lives here: the forms in which answers go out. What never does: reading requests (``ollama_bodies``), how answers are
waited for (``generation``), generating.
"""

import contextlib
import datetime as dt
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response, StreamingResponse

from lorad import __version__
from lorad.errors import RegistryError, describe
from lorad.serving.answers import ModelDescription
from lorad.serving.called_tools import Call
from lorad.serving.http.bodies import encoded
from lorad.serving.http.daemon import Daemon
from lorad.serving.http.generation import Accepted, Answering, Piece, Submit
from lorad.serving.http.ollama_bodies import (
    OllamaChatBody,
    OllamaEmbedBody,
    OllamaGenerateBody,
    OllamaShowBody,
    model_name,
)
from lorad.serving.http.routing import Orders, given
from lorad.serving.ollama import (
    OllamaChat,
    OllamaDetails,
    OllamaEmbed,
    OllamaError,
    OllamaGenerate,
    OllamaMessage,
    OllamaModel,
    OllamaProgress,
    OllamaShow,
    OllamaTags,
    OllamaVersion,
)
from lorad.serving.requests import GenerationRequest, Sampling

ON_ERROR: dict[int | str, dict[str, Any]] = {
    "default": {"model": OllamaError, "description": "What is wrong, and what to do."}
}
RUNNING: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}
STREAMED: dict[int | str, dict[str, Any]] = {200: {"content": {"application/x-ndjson": {}}}, **ON_ERROR}
BILLION, MILLION = 10**9, 10**6

Form = Callable[..., OllamaProgress]
"""Makes a record of a route: of a text, calls, and what ``OllamaProgress`` says."""


def add(app: FastAPI, daemon: Daemon, answering: Answering, orders: Orders) -> None:
    """Add the routes."""

    @app.get("/", response_class=Response, responses={**RUNNING, **ON_ERROR})
    async def ollama_is_running() -> Response:
        return PlainTextResponse(
            "Ollama is running"
        )  # Ollama's own programs ask for these words before anything else

    _add_answers(app, daemon, answering)
    _add_embed(app, daemon, orders)
    _add_models(app, daemon)


def _add_answers(app: FastAPI, daemon: Daemon, answering: Answering) -> None:
    @app.post("/api/chat", response_model=OllamaChat, responses=STREAMED)
    async def ollama_chat(
        body: Annotated[OllamaChatBody, given(OllamaChatBody)], request: Request
    ) -> OllamaProgress | StreamingResponse:
        form = partial(_chat, model=body.model)
        if not body.messages:
            return await _loaded(answering, daemon, body.model, form)
        asked = partial(_ask, daemon, body.question(), body.answer_schema())
        sampling = body.options.sampling()
        accepted = await answering.accept(model_name(body.model), [asked], sampling, declared=body.declared())
        return _streamed(accepted, form) if body.stream else await _whole(accepted, form, request)

    @app.post("/api/generate", response_model=OllamaGenerate, responses=STREAMED)
    async def ollama_generate(
        body: Annotated[OllamaGenerateBody, given(OllamaGenerateBody)], request: Request
    ) -> OllamaProgress | StreamingResponse:
        form = partial(_generated, model=body.model)
        if not body.prompt:
            return await _loaded(answering, daemon, body.model, form)
        asked: Submit = (
            partial(daemon.complete, body.prompt)
            if body.raw
            else partial(_ask, daemon, body.question(), body.answer_schema())
        )
        accepted = await answering.accept(model_name(body.model), [asked], body.options.sampling())
        return _streamed(accepted, form) if body.stream else await _whole(accepted, form, request)


def _ask(
    daemon: Daemon,
    question: list[dict[str, Any]],
    schema: Mapping[str, Any] | None,
    model: str,
    sampling: Sampling,
) -> tuple[GenerationRequest, str]:
    return daemon.ask(model, question, sampling, retrieve=True, schema=schema)


def _chat(text: str = "", calls: Sequence[Call] = (), **told: Any) -> OllamaProgress:
    called = tuple({"function": {"name": call.name, "arguments": call.arguments}} for call in calls)
    return OllamaChat(message=OllamaMessage(content=text, tool_calls=called or None), **told)


def _generated(text: str = "", calls: Sequence[Call] = (), **told: Any) -> OllamaProgress:
    del calls  # a prompt declares no tools
    return OllamaGenerate(response=text, **told)


async def _loaded(answering: Answering, daemon: Daemon, model: str, form: Form) -> OllamaProgress:
    """Answer who asks nothing: the model is there, and is loaded already."""
    await answering.threads.run(daemon.describe, model_name(model))
    return form(created_at=_now(), done=True, done_reason="load")


async def _whole(accepted: Accepted, form: Form, request: Request) -> OllamaProgress:
    [it] = await accepted.whole(request)
    told = {"created_at": _now(), "done": True, "lorad": accepted.origin, **_end(accepted, it)}
    return form(it.text, it.calls, **told)


def _streamed(accepted: Accepted, form: Form) -> StreamingResponse:
    return StreamingResponse(_lines(accepted, form), media_type="application/x-ndjson")


async def _lines(accepted: Accepted, form: Form) -> AsyncIterator[bytes]:
    origin = accepted.origin
    try:
        async with contextlib.aclosing(accepted.pieces()) as pieces:
            async for piece in pieces:
                if piece.calls:  # as Ollama has it, before the last line
                    yield _line(form(piece.text, piece.calls, created_at=_now(), done=False, lorad=origin))
                    piece, origin = replace(piece, text=""), None  # noqa: PLW2901 - its text is told
                end = _end(accepted, piece) if piece.finish else {}
                yield _line(form(piece.text, created_at=_now(), done=bool(end), lorad=origin, **end))
                origin = None
    except Exception as error:  # noqa: BLE001 - the status is sent; the client is told in its own form
        yield _line(OllamaError(error=describe(error)["message"]))


def _line(told: Any) -> bytes:
    return encoded(told) + b"\n"


def _end(accepted: Accepted, last: Piece) -> dict[str, Any]:
    """Return what the last piece says of the whole answer."""
    [answer] = accepted.answers
    ended = answer.ended or answer.began
    first = ended if answer.first is None else answer.first
    return {
        "done_reason": last.finish,
        "total_duration": _nanoseconds(ended - answer.began),
        "load_duration": 0,
        "prompt_eval_count": last.prompt_tokens,
        "prompt_eval_duration": _nanoseconds(first - answer.began),
        "eval_count": last.answer_tokens,
        "eval_duration": _nanoseconds(ended - first),
    }


def _add_embed(app: FastAPI, daemon: Daemon, orders: Orders) -> None:
    @app.post("/api/embed", responses=ON_ERROR)
    async def ollama_embed(body: Annotated[OllamaEmbedBody, given(OllamaEmbedBody)]) -> OllamaEmbed:
        began = time.perf_counter()
        _, rows, tokens = await orders.run(daemon.embed, model_name(body.model), body.texts())
        return OllamaEmbed(
            model=body.model,
            embeddings=tuple(tuple(map(float, row)) for row in rows),
            total_duration=_nanoseconds(time.perf_counter() - began),
            prompt_eval_count=tokens,
        )


def _add_models(app: FastAPI, daemon: Daemon) -> None:
    @app.get("/api/version", responses=ON_ERROR)
    async def ollama_version() -> OllamaVersion:
        return OllamaVersion(version=__version__)

    @app.get("/api/tags", responses=ON_ERROR)
    def ollama_tags() -> OllamaTags:
        found = []
        for each in daemon.models():
            with contextlib.suppress(
                RegistryError
            ):  # one that is damaged, or gone since, must not silence the others
                found.append(_model(each.id, daemon.describe(each.id)))
        return OllamaTags(models=tuple(found))

    @app.post("/api/show", responses=ON_ERROR)
    def ollama_show(body: Annotated[OllamaShowBody, given(OllamaShowBody)]) -> OllamaShow:
        return _shown(daemon.describe(model_name(body.model)))


def _model(name: str, it: ModelDescription) -> OllamaModel:
    named = name.replace("@", ":") if "@" in name else f"{name}:latest"
    return OllamaModel(
        name=named,
        model=named,
        modified_at=_time(it.since),
        size=it.bytes,
        digest=it.digest,
        details=_details(it),
    )


def _shown(it: ModelDescription) -> OllamaShow:
    kind = it.architecture
    info = {
        "general.architecture": kind,
        "general.basename": it.base,
        "general.parameter_count": it.parameters,
        f"{kind}.context_length": it.context,
        f"{kind}.embedding_length": it.width,
        "lorad.version": f"{it.track}@{it.version}",
    }
    return OllamaShow(
        modelfile=f"# {it.track}@{it.version}, a version that lorad serves on the base {it.base}\nFROM {it.base}\n",
        template=it.template,
        details=_details(it),
        model_info={name: value for name, value in info.items() if value is not None},
        capabilities=("completion", *(("tools",) if it.can_call else ())),
        modified_at=_time(it.since),
    )


def _details(it: ModelDescription) -> OllamaDetails:
    count = it.parameters
    size = f"{count / BILLION:.1f}B" if count >= BILLION else f"{count / MILLION:.2f}M"
    return OllamaDetails(
        parent_model=it.base,
        family=it.architecture,
        families=(it.architecture,),
        parameter_size=size,
        quantization_level={"bfloat16": "BF16", "float16": "F16", "float32": "F32"}.get(
            it.precision, it.precision
        ),
    )


def _nanoseconds(seconds: float) -> int:
    return round(seconds * BILLION)


def _now() -> str:
    return _time(time.time())


def _time(at: float) -> str:
    return dt.datetime.fromtimestamp(at, dt.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
