"""lorad's own routes: what it does and has learned, and what people tell it to do.

What lives here: one function a route, each of which calls one function of the daemon or of its archive, and the old names of
the routes. What never does: the records that they return (``answers``), the bodies that they read (``schemas``).
"""

from collections.abc import Sequence
from typing import Annotated

from fastapi import FastAPI, Query
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from lorad.records import Job
from lorad.serving import queries
from lorad.serving.answers import (
    Datasets,
    Difference,
    Events,
    ExamplesPage,
    Explanation,
    Forgotten,
    Jobs,
    JobWithFile,
    Pause,
    Pinned,
    Pruned,
    ResumedJob,
    RetentionMatrix,
    Roles,
    Status,
    Tagged,
    VersionPapers,
    Versions,
)
from lorad.serving.http.daemon import Daemon
from lorad.serving.http.routing import given
from lorad.serving.http.schemas import (
    ConsolidateBody,
    ForgetBody,
    PinBody,
    PruneBody,
    ResumeBody,
    RetryBody,
    RollbackBody,
    TagBody,
)

OLD, NEW = "/api/", "/lorad/"


class OldNames:
    """Takes ``/api/…`` for ``/lorad/…``, which these routes were called before ``/api/`` was Ollama's alone.

    Only where there is such a route of lorad's and none of Ollama's: whatever else is asked for there, an Ollama client asks.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        path = scope.get("path", "")
        if scope["type"] == "http" and path.startswith(OLD) and not self._has(scope):
            renamed = {**scope, "path": NEW + path.removeprefix(OLD)}
            scope = renamed if self._has(renamed) else scope
        await self._app(scope, receive, send)

    def _has(self, scope: Scope) -> bool:
        """Tell whether there is a route of this path, whatever its method."""
        return any(route.matches(scope)[0] != Match.NONE for route in self._routes)


def add(app: FastAPI, daemon: Daemon) -> None:
    """Add the routes."""
    _add_status(app, daemon)
    _add_jobs(app, daemon)
    _add_versions(app, daemon)
    _add_memory(app, daemon)


def _add_status(app: FastAPI, daemon: Daemon) -> None:
    @app.get("/lorad/status")
    def status() -> Status:
        return daemon.snapshot()

    @app.get("/lorad/events")
    def events(after: int | None = None) -> Events:
        return daemon.archive.events(after)

    @app.post("/lorad/pause")
    def pause() -> Pause:
        return daemon.pause(paused=True)

    @app.post("/lorad/resume")
    def resume() -> Pause:
        return daemon.pause(paused=False)


def _add_jobs(app: FastAPI, daemon: Daemon) -> None:
    @app.get("/lorad/jobs")
    def jobs() -> Jobs:
        return daemon.archive.jobs()

    @app.get("/lorad/jobs/{job}")
    def job(job: int) -> JobWithFile:
        return daemon.archive.job(job)

    @app.post("/lorad/jobs/{job}/retry")
    def retry(job: int, body: Annotated[RetryBody, given(RetryBody)]) -> Job:
        return daemon.retry(job, force=body.force, settings=body.settings)

    @app.post("/lorad/jobs/{job}/resume")
    def resume_job(job: int, body: Annotated[ResumeBody, given(ResumeBody)]) -> ResumedJob:
        return daemon.resume(job, body.checkpoint)

    @app.post("/lorad/jobs/{job}/cancel")
    def cancel(job: int) -> Job:
        return daemon.cancel(job)


def _add_versions(app: FastAPI, daemon: Daemon) -> None:
    @app.get("/lorad/versions")
    def versions(track: str = "chat") -> Versions:
        return daemon.versions(track)

    @app.get("/lorad/versions/{version}")
    def version(version: str, track: str = "chat") -> VersionPapers:
        return daemon.version(track, version)

    @app.post("/lorad/versions/{version}/pin")
    def pin(version: str, body: Annotated[PinBody, given(PinBody)]) -> Pinned:
        return daemon.pin(body.track, version, pinned=body.pinned)

    @app.post("/lorad/versions/{version}/tags")
    def tag(version: str, body: Annotated[TagBody, given(TagBody)]) -> Tagged:
        return daemon.tag(body.track, version, body.tag, remove=body.remove)

    @app.post("/lorad/versions/prune")
    def prune(body: Annotated[PruneBody, given(PruneBody)]) -> Pruned:
        return daemon.prune(body.track, body.limits(), dry_run=body.dry_run)

    @app.get("/lorad/versions/{version}/explain")
    def explain(version: str, track: str = "chat") -> Explanation:
        return daemon.archive.explain(track, version)

    @app.post("/lorad/rollback")
    def rollback(body: Annotated[RollbackBody, given(RollbackBody)]) -> Roles:
        return daemon.rollback(body.track, body.to)

    @app.get("/lorad/diff")
    def diff(a: str, b: str, track: str = "chat") -> Difference:
        return daemon.archive.diff(track, a, b)


def _add_memory(app: FastAPI, daemon: Daemon) -> None:
    @app.get("/lorad/memory")
    def memory(track: str = "chat") -> Datasets:
        return daemon.archive.memory(track)

    @app.get("/lorad/memory/examples")
    def examples(
        track: str = "chat",
        dataset: str | None = None,
        after: int = 0,
        limit: Annotated[int, Query(ge=1, le=queries.PAGE)] = queries.PAGE,
    ) -> ExamplesPage:
        return daemon.archive.page(track, dataset, after, limit)

    @app.post("/lorad/forget")
    def forget(body: Annotated[ForgetBody, given(ForgetBody)]) -> Forgotten:
        return daemon.forget(body.track, body.selector, dry_run=body.dry_run)

    @app.post("/lorad/consolidate")
    def consolidate(body: Annotated[ConsolidateBody, given(ConsolidateBody)]) -> Job:
        return daemon.consolidate(body.track, refit=body.refit)

    @app.get("/lorad/retention")
    def retention(track: str = "chat") -> RetentionMatrix:
        return daemon.archive.retention(track)
