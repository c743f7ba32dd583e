"""HTTP on the Unix socket. OpenAI's routes and lorad's own.

What lives here: routes, JSON or server-sent events out, the socket. What never does: reading bodies (``schemas``),
the form of errors (``http_errors``), knowing how anything is done; every route calls one function of the ``Daemon``
that it is given.
"""

import asyncio
import contextlib
import functools
import inspect
import math
import socket
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Depends, FastAPI, Query, Request
from fastapi.responses import Response, StreamingResponse
from fastapi.routing import APIRoute
from starlette.routing import Route

from lorad import __version__
from lorad.config import ServerSettings
from lorad.errors import ConfigError, ProtocolError
from lorad.home import check_socket_path
from lorad.serving import queries
from lorad.serving.http import http_errors
from lorad.serving.http.bodies import Bodies, Json
from lorad.serving.http.connections import BACKLOG
from lorad.serving.http.schemas import (
    Body,
    ChatBody,
    ConsolidateBody,
    ForgetBody,
    PinBody,
    PruneBody,
    ResumeBody,
    RetryBody,
    RollbackBody,
    TagBody,
)
from lorad.serving.queries import Archive
from lorad.serving.requests import Chunk, GenerationRequest, Sampling
from lorad.storage import strict_json

T = TypeVar("T")

ORDERS_AT_ONCE = 8
"""Orders that wait for the end of a step in threads; answers to questions have their own."""
MOST_ORDERS = 128
"""Orders that wait at all; whoever gives one more is asked to come back."""


class Daemon(Protocol):
    """What the routes ask of the running daemon."""

    archive: Archive

    def snapshot(self) -> dict[str, Any]: ...
    def is_ready(self) -> bool: ...
    def models(self) -> list[dict[str, Any]]: ...
    def ask(
        self, model: str, messages: list[dict[str, Any]], sampling: Sampling
    ) -> tuple[GenerationRequest, str]: ...
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


class _Route(APIRoute):
    """A route whose answer is written by ``Json``: FastAPI's own writing fails on what JSON has no word for."""

    def __init__(self, path: str, endpoint: Callable[..., Any], *, orders: "_Orders", **options: Any) -> None:
        is_order = "POST" in options["methods"] and not inspect.iscoroutinefunction(endpoint)
        act = orders.given_by(endpoint) if is_order else endpoint
        super().__init__(path, _written(act), **{**options, "response_model": None})


def _written(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """Return a route's function so that what it returns is the answer itself."""

    def answer(made: Any) -> Response:
        return made if isinstance(made, Response) else Json(made)

    @functools.wraps(endpoint)
    async def wait(*given: Any, **named: Any) -> Response:
        return answer(await endpoint(*given, **named))

    @functools.wraps(endpoint)
    def call(*given: Any, **named: Any) -> Response:
        return answer(endpoint(*given, **named))

    return wait if inspect.iscoroutinefunction(endpoint) else call


def build(daemon: Daemon, settings: ServerSettings | None = None) -> FastAPI:
    """Return the HTTP application for a daemon."""
    # no openapi.json: bodies are read by their content, whatever their type, and it would say that there are none
    app = FastAPI(
        title="lorad",
        version=__version__,
        openapi_url=None,
        redirect_slashes=False,
        dependencies=[Depends(http_errors.refuse_unknown_query)],
    )
    app.router.route_class = functools.partial(_Route, orders=_Orders())  # type: ignore[assignment] # it makes one
    app.state.bodies = Bodies((settings or ServerSettings()).max_body_bytes)
    http_errors.add_handlers(app)
    _add_health(app, daemon)
    _add_openai(app, daemon)
    _add_jobs(app, daemon)
    _add_versions(app, daemon)
    _add_memory(app, daemon)
    _answer_head(app)
    return app


def _answer_head(app: FastAPI) -> None:
    """Let whatever can be got be asked for by its head alone, as watchdogs do."""
    for route in app.routes:
        if isinstance(route, Route) and route.methods == {"GET"}:
            route.methods = {"GET", "HEAD"}


def _given(kind: type[Body]) -> Any:
    """Let a route have its body as this kind, read from the bytes: content types are often wrong or missing."""

    async def read(request: Request) -> Body:
        http_errors.refuse_encoding(request)
        bodies: Bodies = request.app.state.bodies
        return await bodies.read(request, kind.read)

    return Depends(read)


def _add_health(app: FastAPI, daemon: Daemon) -> None:
    @app.get("/healthz")  # these two need no thread: they answer however many wait
    async def healthz() -> dict[str, bool]:
        return {"alive": True}

    @app.get("/readyz")
    async def readyz() -> Json:
        ready = daemon.is_ready()
        return Json({"ready": ready}, status_code=200 if ready else 503)

    @app.get("/api/status")
    def status() -> dict[str, Any]:
        return daemon.snapshot()

    @app.get("/api/events")
    def events(after: int | None = None) -> dict[str, Any]:
        return daemon.archive.events(after)


def _add_openai(app: FastAPI, daemon: Daemon) -> None:
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

    @app.post("/v1/chat/completions")
    async def chat(
        body: Annotated[ChatBody, _given(ChatBody)], request: Request
    ) -> dict[str, Any] | StreamingResponse:
        ticket, fingerprint = await threads.run(daemon.ask, body.model, body.question(), body.sampling())
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

    How many wait is bounded by ``engine.max_queued_requests``.
    """

    def __init__(self, most: float = math.inf) -> None:
        self._most = most
        self._limiter: CapacityLimiter | None = None

    async def run(self, act: Callable[..., T], *arguments: Any) -> T:
        """Wait in a thread; whoever is cancelled leaves it behind."""
        self._limiter = self._limiter or CapacityLimiter(self._most)  # belongs to the loop that runs
        return await to_thread.run_sync(act, *arguments, abandon_on_cancel=True, limiter=self._limiter)


class _Orders:
    """Where orders wait for the end of a step: in few threads, so that status finds one however many are given."""

    def __init__(self) -> None:
        self._threads = _Threads(ORDERS_AT_ONCE)
        self._count = 0

    def given_by(self, endpoint: Callable[..., T]) -> Callable[..., Awaitable[T]]:
        """Return a route's function so that it has its turn among the orders."""

        @functools.wraps(endpoint)
        async def give(*given: Any, **named: Any) -> T:
            if self._count >= MOST_ORDERS:
                raise ProtocolError(
                    "too many orders wait for their turn; try again in a second",
                    status=503,
                    code="busy",
                    retry_after=1,
                )
            self._count += 1
            try:
                return await self._threads.run(functools.partial(endpoint, *given, **named))
            finally:
                self._count -= 1

        return give


@contextlib.asynccontextmanager
async def _cancelled_when_left(request: Request, ticket: GenerationRequest) -> AsyncIterator[None]:
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


def _usage(last: Chunk) -> dict[str, int]:
    return {
        "prompt_tokens": last.prompt_tokens,
        "completion_tokens": last.answer_tokens,
        "total_tokens": last.prompt_tokens + last.answer_tokens,
    }


def _whole(pieces: list[Chunk], head: dict[str, Any]) -> dict[str, Any]:
    last = pieces[-1]
    message = {"role": "assistant", "content": "".join(piece.text for piece in pieces)}
    return {
        **head,
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": last.finish}],
        "usage": _usage(last),
    }


async def _events(
    ticket: GenerationRequest, head: dict[str, Any], threads: _Threads, *, has_usage: bool
) -> AsyncIterator[bytes]:
    def event(choices: list[dict[str, Any]], **more: Any) -> bytes:
        return _sent({**head, "object": "chat.completion.chunk", "choices": choices, **more})

    def said(delta: dict[str, str], finish: str | None = None) -> bytes:
        return event([{"index": 0, "delta": delta, "finish_reason": finish}])

    yield said({"role": "assistant", "content": ""})
    pieces = ticket.answer()
    try:
        while (piece := await threads.run(next, pieces, None)) is not None:
            yield said({"content": piece.text} if piece.text else {}, piece.finish)
            if piece.finish and has_usage:
                yield event([], usage=_usage(piece))
    except Exception as error:  # noqa: BLE001 - the status is sent; the client is told in its own form
        yield _sent(http_errors.form(error))
    finally:
        ticket.cancelled.set()  # also when the client has left: nobody needs the rest
    yield b"data: [DONE]\n\n"


def _sent(told: dict[str, Any]) -> bytes:
    """Return a server-sent event."""
    return b"data: " + strict_json.encoded(told) + b"\n\n"


def _add_jobs(app: FastAPI, daemon: Daemon) -> None:
    @app.get("/api/jobs")
    def jobs() -> dict[str, Any]:
        return daemon.archive.jobs()

    @app.get("/api/jobs/{job}")
    def job(job: int) -> dict[str, Any]:
        return daemon.archive.job(job)

    @app.post("/api/jobs/{job}/retry")
    def retry(job: int, body: Annotated[RetryBody, _given(RetryBody)]) -> dict[str, Any]:
        return daemon.retry(job, force=body.force, settings=body.settings)

    @app.post("/api/jobs/{job}/resume")
    def resume_job(job: int, body: Annotated[ResumeBody, _given(ResumeBody)]) -> dict[str, Any]:
        return daemon.resume(job, body.checkpoint)

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
    def pin(version: str, body: Annotated[PinBody, _given(PinBody)]) -> dict[str, Any]:
        return daemon.pin(body.track, version, pinned=body.pinned)

    @app.post("/api/versions/{version}/tags")
    def tag(version: str, body: Annotated[TagBody, _given(TagBody)]) -> dict[str, Any]:
        return daemon.tag(body.track, version, body.tag, remove=body.remove)

    @app.post("/api/versions/prune")
    def prune(body: Annotated[PruneBody, _given(PruneBody)]) -> dict[str, Any]:
        return daemon.prune(body.track, body.limits(), dry_run=body.dry_run)

    @app.get("/api/versions/{version}/explain")
    def explain(version: str, track: str = "chat") -> dict[str, Any]:
        return daemon.archive.explain(track, version)

    @app.post("/api/rollback")
    def rollback(body: Annotated[RollbackBody, _given(RollbackBody)]) -> dict[str, Any]:
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
        limit: Annotated[int, Query(ge=1, le=queries.PAGE)] = queries.PAGE,
    ) -> dict[str, Any]:
        return daemon.archive.page(track, dataset, after, limit)

    @app.post("/api/forget")
    def forget(body: Annotated[ForgetBody, _given(ForgetBody)]) -> dict[str, Any]:
        return daemon.forget(body.track, body.selector, dry_run=body.dry_run)

    @app.post("/api/consolidate")
    def consolidate(body: Annotated[ConsolidateBody, _given(ConsolidateBody)]) -> dict[str, Any]:
        return daemon.consolidate(body.track, refit=body.refit)

    @app.get("/api/retention")
    def retention(track: str = "chat") -> dict[str, Any]:
        return daemon.archive.retention(track)


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
    listener.listen(BACKLOG)
    return listener


def is_alive(path: Path) -> bool:
    """Tell whether somebody answers at a socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _refuse_if_alive(path: Path) -> None:
    if not is_alive(path):
        return
    raise ConfigError(
        f"another lorad answers at {path}; stop it first, or use another home", code="already_running"
    )
