"""lorad's own routes: what it does and has learned, and what people tell it to do.

What lives here: one function a route, each of which calls one function of the daemon or of its archive. What never does:
the records that they return (``answers``), the bodies that they read (``schemas``).
"""

from typing import Annotated

from fastapi import FastAPI, Query

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


def add(app: FastAPI, daemon: Daemon) -> None:
    """Add the routes."""
    _add_status(app, daemon)
    _add_jobs(app, daemon)
    _add_versions(app, daemon)
    _add_memory(app, daemon)


def _add_status(app: FastAPI, daemon: Daemon) -> None:
    @app.get("/api/status")
    def status() -> Status:
        return daemon.snapshot()

    @app.get("/api/events")
    def events(after: int | None = None) -> Events:
        return daemon.archive.events(after)

    @app.post("/api/pause")
    def pause() -> Pause:
        return daemon.pause(paused=True)

    @app.post("/api/resume")
    def resume() -> Pause:
        return daemon.pause(paused=False)


def _add_jobs(app: FastAPI, daemon: Daemon) -> None:
    @app.get("/api/jobs")
    def jobs() -> Jobs:
        return daemon.archive.jobs()

    @app.get("/api/jobs/{job}")
    def job(job: int) -> JobWithFile:
        return daemon.archive.job(job)

    @app.post("/api/jobs/{job}/retry")
    def retry(job: int, body: Annotated[RetryBody, given(RetryBody)]) -> Job:
        return daemon.retry(job, force=body.force, settings=body.settings)

    @app.post("/api/jobs/{job}/resume")
    def resume_job(job: int, body: Annotated[ResumeBody, given(ResumeBody)]) -> ResumedJob:
        return daemon.resume(job, body.checkpoint)

    @app.post("/api/jobs/{job}/cancel")
    def cancel(job: int) -> Job:
        return daemon.cancel(job)


def _add_versions(app: FastAPI, daemon: Daemon) -> None:
    @app.get("/api/versions")
    def versions(track: str = "chat") -> Versions:
        return daemon.versions(track)

    @app.get("/api/versions/{version}")
    def version(version: str, track: str = "chat") -> VersionPapers:
        return daemon.version(track, version)

    @app.post("/api/versions/{version}/pin")
    def pin(version: str, body: Annotated[PinBody, given(PinBody)]) -> Pinned:
        return daemon.pin(body.track, version, pinned=body.pinned)

    @app.post("/api/versions/{version}/tags")
    def tag(version: str, body: Annotated[TagBody, given(TagBody)]) -> Tagged:
        return daemon.tag(body.track, version, body.tag, remove=body.remove)

    @app.post("/api/versions/prune")
    def prune(body: Annotated[PruneBody, given(PruneBody)]) -> Pruned:
        return daemon.prune(body.track, body.limits(), dry_run=body.dry_run)

    @app.get("/api/versions/{version}/explain")
    def explain(version: str, track: str = "chat") -> Explanation:
        return daemon.archive.explain(track, version)

    @app.post("/api/rollback")
    def rollback(body: Annotated[RollbackBody, given(RollbackBody)]) -> Roles:
        return daemon.rollback(body.track, body.to)

    @app.get("/api/diff")
    def diff(a: str, b: str, track: str = "chat") -> Difference:
        return daemon.archive.diff(track, a, b)


def _add_memory(app: FastAPI, daemon: Daemon) -> None:
    @app.get("/api/memory")
    def memory(track: str = "chat") -> Datasets:
        return daemon.archive.memory(track)

    @app.get("/api/memory/examples")
    def examples(
        track: str = "chat",
        dataset: str | None = None,
        after: int = 0,
        limit: Annotated[int, Query(ge=1, le=queries.PAGE)] = queries.PAGE,
    ) -> ExamplesPage:
        return daemon.archive.page(track, dataset, after, limit)

    @app.post("/api/forget")
    def forget(body: Annotated[ForgetBody, given(ForgetBody)]) -> Forgotten:
        return daemon.forget(body.track, body.selector, dry_run=body.dry_run)

    @app.post("/api/consolidate")
    def consolidate(body: Annotated[ConsolidateBody, given(ConsolidateBody)]) -> Job:
        return daemon.consolidate(body.track, refit=body.refit)

    @app.get("/api/retention")
    def retention(track: str = "chat") -> RetentionMatrix:
        return daemon.archive.retention(track)
