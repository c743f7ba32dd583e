"""A loop: HTTP on the Unix socket. OpenAI's routes and lorad's own.

What lives here: requests in, JSON or server-sent events out, errors as OpenAI clients expect them. What
never does: knowing how anything is done; every route calls one function of the ``Daemon`` that it is given.
"""

import asyncio
import contextlib
import json
import math
import socket
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, Json, model_validator

from lorad import __version__, archive, cells, samples
from lorad.archive import Archive
from lorad.engine import Piece, Sampling, Ticket
from lorad.errors import ConfigError, LoradError, ProtocolError, RegistryError, RetryLater, describe
from lorad.home import check_socket_path

T = TypeVar("T")


class Daemon(Protocol):
    """What the routes ask of the running daemon."""

    archive: Archive

    def snapshot(self) -> dict[str, Any]: ...
    def is_ready(self) -> bool: ...
    def models(self) -> list[dict[str, Any]]: ...
    def ask(self, model: str, messages: list[dict[str, Any]], sampling: Sampling) -> tuple[Ticket, str]: ...
    def retry(self, job: int, *, force: bool, settings: dict[str, Any]) -> dict[str, Any]: ...
    def resume(self, job: int, checkpoint: str | None) -> dict[str, Any]: ...
    def cancel(self, job: int) -> dict[str, Any]: ...
    def pause(self, *, paused: bool) -> dict[str, Any]: ...
    def versions(self, track: str) -> dict[str, Any]: ...
    def version(self, track: str, version: str) -> dict[str, Any]: ...
    def pin(self, track: str, version: str, *, pinned: bool) -> dict[str, Any]: ...
    def tag(self, track: str, version: str, tag: str, *, remove: bool) -> dict[str, Any]: ...
    def prune(self, track: str, limits: dict[str, int], *, dry_run: bool) -> dict[str, Any]: ...
    def rollback(self, track: str, to: str | None) -> dict[str, Any]: ...
    def forget(self, track: str, selector: str, *, dry_run: bool) -> dict[str, Any]: ...
    def consolidate(self, track: str, *, refit: bool) -> dict[str, Any]: ...


class Body(BaseModel):
    """A request body; fields that lorad does not know are other clients' business and are let through."""

    model_config = ConfigDict(extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _leave_out_nulls(cls, given: Any) -> Any:
        """Take ``null`` for not given: OpenAI's clients send it for what nobody set."""
        if not isinstance(given, dict):
            return given
        return {name: value for name, value in given.items() if value is not None}


class Part(Body):
    """A part of a message's content."""

    type: str
    text: str = ""


class Function(Body):
    """A function's name and, as JSON, what it was called with."""

    name: str
    arguments: Json[dict[str, Any]] = Field(default_factory=dict)


class Call(Body):
    """A call of a tool."""

    function: Function


class Message(Body):
    """One turn of a conversation."""

    role: str
    content: str | list[Part] | None = None
    tool_calls: list[Call] = []

    def plain(self) -> dict[str, Any]:
        """Return role and text, and the calls if there are any, as examples hold them."""
        if self.content is None and not self.tool_calls:
            raise ProtocolError("a message needs its content", code="no_content")
        if self.role == "tools":  # what examples call their first message
            raise ProtocolError("tools stand beside the messages, under tools", code="unknown_role")
        parts = (
            [Part(type="text", text=self.content)] if isinstance(self.content, str) else self.content or []
        )
        if any(part.type != "text" for part in parts):
            raise ProtocolError("this model reads text only", code="unsupported_content")
        calls = [call.function.model_dump() for call in self.tool_calls]
        text = "".join(part.text for part in parts)
        if not cells.is_whole(text):
            raise ProtocolError(
                "a message holds half of a character (a lone surrogate); whoever cut the text cut an emoji in two",
                code="bad_text",
            )
        role = samples.OPENAI.roles.get(self.role, self.role)  # as files are read: developer is system
        return {"role": role, "content": text} | ({"tool_calls": calls} if calls else {})


class Definition(BaseModel):
    """A function that may be called: its name and whatever describes it."""

    model_config = ConfigDict(extra="allow")

    name: str


class Tool(Body):
    """What the model may call."""

    function: Definition


class StreamOptions(Body):
    """What a stream tells besides the answer."""

    include_usage: bool = False


class ChatBody(Body):
    """OpenAI's chat completion request, as far as a local model can follow it."""

    model: str = "chat"
    messages: list[Message] = Field(min_length=1)
    tools: list[Tool] = []
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=0.0, ge=0, le=5)
    top_p: float = Field(default=1.0, gt=0, le=1)
    stop: str | list[str] | None = None
    seed: int | None = None

    def question(self) -> list[dict[str, Any]]:
        """Return the conversation as examples hold it: what may be called comes first."""
        functions = json.dumps([tool.function.model_dump() for tool in self.tools], ensure_ascii=False)
        tools = [{"role": "tools", "content": functions}] if self.tools else []
        return [*tools, *(message.plain() for message in self.messages)]

    def sampling(self, default_tokens: int) -> Sampling:
        """Return how to generate."""
        stops = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return Sampling(
            max_tokens=self.max_completion_tokens or self.max_tokens or default_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            stop=tuple(filter(None, stops)),
            seed=self.seed,
        )


class RetryBody(Body):
    """How to try a job again."""

    force: bool = False
    settings: dict[str, Any] = {}


class ResumeBody(Body):
    """Where a job goes on: behind its newest complete checkpoint, or this one."""

    checkpoint: str | None = None


class TrackBody(Body):
    """A request about one track."""

    track: str = "chat"
    to: str | None = None
    selector: str = ""
    refit: bool = False
    dry_run: bool = False


class PinBody(Body):
    """Whether a version stays whatever the limits say."""

    track: str = "chat"
    pinned: bool = True


class TagBody(Body):
    """A name for a version to get or to lose."""

    track: str = "chat"
    tag: str
    remove: bool = False


class PruneBody(Body):
    """Limits that hold this once instead of the settings'; see ``config.RegistrySettings``."""

    track: str = "chat"
    keep: int | None = Field(default=None, ge=1)
    max_age_days: int | None = Field(default=None, ge=1)
    max_bytes: int | None = Field(default=None, ge=1)
    dry_run: bool = False

    def limits(self) -> dict[str, int]:
        """Return the limits that were given."""
        return self.model_dump(exclude={"track", "dry_run"}, exclude_none=True)


def build(daemon: Daemon, default_tokens: int) -> FastAPI:
    """Return the HTTP application for a daemon."""
    app = FastAPI(title="lorad", version=__version__, docs_url=None, redoc_url=None)
    _add_errors(app)
    _add_health(app, daemon)
    _add_openai(app, daemon, default_tokens)
    _add_jobs(app, daemon)
    _add_versions(app, daemon)
    _add_memory(app, daemon)
    return app


def _add_health(app: FastAPI, daemon: Daemon) -> None:
    @app.get("/healthz")  # these two need no thread: they answer however many wait
    async def healthz() -> dict[str, bool]:
        return {"alive": True}

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        ready = daemon.is_ready()
        return JSONResponse({"ready": ready}, status_code=200 if ready else 503)

    @app.get("/api/status")
    def status() -> dict[str, Any]:
        return daemon.snapshot()

    @app.get("/api/events")
    def events(after: int | None = None) -> dict[str, Any]:
        return daemon.archive.events(after)


def _add_openai(app: FastAPI, daemon: Daemon, default_tokens: int) -> None:
    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": daemon.models()}

    @app.get("/v1/models/{name}")
    def model(name: str) -> dict[str, Any]:
        for known in daemon.models():
            if known["id"] == name:
                return known
        raise ProtocolError(
            f"there is no model {name!r}; list them with: GET /v1/models", status=404, code="model_not_found"
        )

    threads = _Threads()

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(body: ChatBody, request: Request) -> dict[str, Any] | StreamingResponse:
        ticket, fingerprint = await threads.run(
            daemon.ask, body.model, body.question(), body.sampling(default_tokens)
        )
        head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": f"{ticket.track}@{ticket.version}",
            "system_fingerprint": fingerprint,
        }
        if body.stream:
            events = _events(ticket, head, threads, has_usage=body.stream_options.include_usage)
            return StreamingResponse(
                events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"}
            )
        async with _cancelled_when_left(request, ticket):
            return _whole(await threads.run(lambda: list(ticket.answer())), head)


class _Threads:
    """Where answers are waited for: threads of their own, so that status and health find one however many wait.

    How many wait is bounded by ``engine.max_waiting``.
    """

    def __init__(self) -> None:
        self._limiter: CapacityLimiter | None = None

    async def run(self, act: Callable[..., T], *arguments: Any) -> T:
        """Wait in a thread; whoever is cancelled leaves it behind."""
        self._limiter = self._limiter or CapacityLimiter(math.inf)  # belongs to the loop that runs
        return await to_thread.run_sync(act, *arguments, abandon_on_cancel=True, limiter=self._limiter)


@contextlib.asynccontextmanager
async def _cancelled_when_left(request: Request, ticket: Ticket) -> AsyncIterator[None]:
    """End an answer when the client closes its connection: nobody needs the rest."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        ticket.cancelled.set()

    watcher = asyncio.create_task(watch())
    try:
        yield
    finally:
        watcher.cancel()


def _usage(last: Piece) -> dict[str, int]:
    return {
        "prompt_tokens": last.prompt_tokens,
        "completion_tokens": last.answer_tokens,
        "total_tokens": last.prompt_tokens + last.answer_tokens,
    }


def _whole(pieces: list[Piece], head: dict[str, Any]) -> dict[str, Any]:
    last = pieces[-1]
    message = {"role": "assistant", "content": "".join(piece.text for piece in pieces)}
    return {
        **head,
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": last.finish}],
        "usage": _usage(last),
    }


async def _events(
    ticket: Ticket, head: dict[str, Any], threads: _Threads, *, has_usage: bool
) -> AsyncIterator[str]:
    def event(choices: list[dict[str, Any]], **more: Any) -> str:
        told = {**head, "object": "chat.completion.chunk", "choices": choices, **more}
        return f"data: {json.dumps(told, ensure_ascii=False)}\n\n"

    def said(delta: dict[str, str], finish: str | None = None) -> str:
        return event([{"index": 0, "delta": delta, "finish_reason": finish}])

    yield said({"role": "assistant", "content": ""})
    pieces = ticket.answer()
    try:
        while (piece := await threads.run(next, pieces, None)) is not None:
            yield said({"content": piece.text} if piece.text else {}, piece.finish)
            if piece.finish and has_usage:
                yield event([], usage=_usage(piece))
    except LoradError as error:
        yield f"data: {json.dumps({'error': error.as_dict()}, ensure_ascii=False)}\n\n"
    finally:
        ticket.cancelled.set()  # also when the client has left: nobody needs the rest
    yield "data: [DONE]\n\n"


def _add_jobs(app: FastAPI, daemon: Daemon) -> None:
    @app.get("/api/jobs")
    def jobs() -> dict[str, Any]:
        return daemon.archive.jobs()

    @app.get("/api/jobs/{job}")
    def job(job: int) -> dict[str, Any]:
        return daemon.archive.job(job)

    @app.post("/api/jobs/{job}/retry")
    def retry(job: int, body: RetryBody | None = None) -> dict[str, Any]:
        body = body or RetryBody()
        return daemon.retry(job, force=body.force, settings=body.settings)

    @app.post("/api/jobs/{job}/resume")
    def resume_job(job: int, body: ResumeBody | None = None) -> dict[str, Any]:
        return daemon.resume(job, (body or ResumeBody()).checkpoint)

    @app.post("/api/jobs/{job}/cancel")
    def cancel(job: int) -> dict[str, Any]:
        return daemon.cancel(job)

    @app.post("/api/pause")
    def pause() -> dict[str, Any]:
        return daemon.pause(paused=True)

    @app.post("/api/resume")
    def resume() -> dict[str, Any]:
        return daemon.pause(paused=False)


def _add_versions(app: FastAPI, daemon: Daemon) -> None:
    @app.get("/api/versions")
    def versions(track: str = "chat") -> dict[str, Any]:
        return daemon.versions(track)

    @app.get("/api/versions/{version}")
    def version(version: str, track: str = "chat") -> dict[str, Any]:
        return daemon.version(track, version)

    @app.post("/api/versions/{version}/pin")
    def pin(version: str, body: PinBody | None = None) -> dict[str, Any]:
        body = body or PinBody()
        return daemon.pin(body.track, version, pinned=body.pinned)

    @app.post("/api/versions/{version}/tags")
    def tag(version: str, body: TagBody) -> dict[str, Any]:
        return daemon.tag(body.track, version, body.tag, remove=body.remove)

    @app.post("/api/versions/prune")
    def prune(body: PruneBody | None = None) -> dict[str, Any]:
        body = body or PruneBody()
        return daemon.prune(body.track, body.limits(), dry_run=body.dry_run)

    @app.get("/api/versions/{version}/explain")
    def explain(version: str, track: str = "chat") -> dict[str, Any]:
        return daemon.archive.explain(track, version)

    @app.post("/api/rollback")
    def rollback(body: TrackBody | None = None) -> dict[str, Any]:
        body = body or TrackBody()
        return daemon.rollback(body.track, body.to)

    @app.get("/api/diff")
    def diff(a: str, b: str, track: str = "chat") -> dict[str, Any]:
        return daemon.archive.diff(track, a, b)


def _add_memory(app: FastAPI, daemon: Daemon) -> None:
    @app.get("/api/memory")
    def memory(track: str = "chat") -> dict[str, Any]:
        return daemon.archive.memory(track)

    @app.get("/api/memory/examples")
    def examples(
        track: str = "chat",
        dataset: str | None = None,
        after: int = 0,
        limit: Annotated[int, Query(ge=1, le=archive.PAGE)] = archive.PAGE,
    ) -> dict[str, Any]:
        return daemon.archive.page(track, dataset, after, limit)

    @app.post("/api/forget")
    def forget(body: TrackBody) -> dict[str, Any]:
        return daemon.forget(body.track, body.selector, dry_run=body.dry_run)

    @app.post("/api/consolidate")
    def consolidate(body: TrackBody | None = None) -> dict[str, Any]:
        body = body or TrackBody()
        return daemon.consolidate(body.track, refit=body.refit)

    @app.get("/api/retention")
    def retention(track: str = "chat") -> dict[str, Any]:
        return daemon.archive.retention(track)


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(LoradError)
    def known(_: Request, error: LoradError) -> JSONResponse:
        headers = {"Retry-After": str(error.data["retry_after"])} if "retry_after" in error.data else None
        return JSONResponse(
            {"error": {**error.as_dict(), "type": _kind(error)}}, status_code=_status(error), headers=headers
        )

    @app.exception_handler(RequestValidationError)
    def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        message = f"{where or 'the body'}: {first['msg']}"
        return JSONResponse(
            {"error": {"message": message, "code": "invalid_request", "type": "invalid_request_error"}},
            status_code=400,
        )

    @app.exception_handler(Exception)
    def unknown(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": {**describe(error), "type": "server_error"}}, status_code=500)


def _status(error: LoradError) -> int:
    if isinstance(error, ProtocolError):
        return error.status
    if isinstance(error, RetryLater):
        return 503
    if isinstance(error, RegistryError):
        return 404 if error.code.startswith("no_") else 409
    return 500


def _kind(error: LoradError) -> str:
    return "invalid_request_error" if _status(error) < 500 else "server_error"  # noqa: PLR2004 - HTTP's own border


def bind(path: Path) -> socket.socket:
    """Bind the Unix socket privately: socket 0660, its folder 0750 if it is made here; only a dead socket is removed."""
    check_socket_path(path)
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        return _bind(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be made: {error.strerror}", code="socket_path") from error


def _bind(path: Path) -> socket.socket:
    if path.is_socket():
        _refuse_if_alive(path)
        path.unlink()
    elif path.exists():
        raise ConfigError(f"{path} exists and is not a socket; move it away", code="socket_path")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(0o660)
    listener.listen(128)
    return listener


def _refuse_if_alive(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except OSError:
            return
    raise ConfigError(
        f"another lorad answers at {path}; stop it first, or use another home", code="already_running"
    )
