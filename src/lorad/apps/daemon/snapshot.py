"""What ``lorad status`` and ``lorad monitor`` show, taken at one moment."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from lorad import __version__
from lorad.apps.daemon.loop import LearningLoop
from lorad.config import EngineSettings
from lorad.datasets.inbox.inbox import Inbox
from lorad.home import Home
from lorad.records import Job
from lorad.serving.answers import (
    DocumentCounts,
    EngineStatus,
    InboxStatus,
    RejectedFile,
    SessionProgress,
    Status,
    TrackStatus,
    Versions,
    WaitingFile,
)
from lorad.serving.engine import Engine
from lorad.serving.queries import Archive
from lorad.serving.record_json import RecordError, fields_of, read
from lorad.storage.file_names import readable
from lorad.storage.ledger import Ledger
from lorad.track import Track

JOBS_TOLD = 20
"""Ended jobs that a snapshot lists."""
FILES_TOLD = 100
"""Waiting files that a snapshot lists; ten thousand would only fill a screen."""
EVENTS_TOLD = 20


class Snapshot:
    """Tells the state of a running daemon."""

    def __init__(
        self,
        *,
        home: Home,
        started_at: float,
        tracks: Mapping[str, Track],
        ledger: Ledger,
        inbox: Inbox,
        loop: LearningLoop,
        engine: Engine,
        limits: EngineSettings,
        archive: Archive,
        not_looked_up: Callable[[str], str],
        documents: Callable[[], Mapping[str, DocumentCounts]] = dict,
    ) -> None:
        self._home = home
        self._started_at = started_at
        self._tracks = tracks
        self._ledger = ledger
        self._inbox = inbox
        self._loop = loop
        self._engine = engine
        self._limits = limits
        self._archive = archive
        self._not_looked_up = not_looked_up
        self._documents = documents
        self.polls_because = ""
        """Why the inbox is looked at every second, where no events tell."""

    def take(self, now: float, *, is_ready: bool) -> Status:
        """Return everything."""
        running = self._loop.sessions.running
        return Status(
            lorad=__version__,
            home=str(self._home.root),
            now=now,
            started_at=self._started_at,
            pid=os.getpid(),
            paused=bool(self._ledger.flag("paused")),
            ready=is_ready,
            tracks={name: self._track(track) for name, track in self._tracks.items()},
            jobs=self._jobs(),
            waiting_files=self._waiting_files(now),
            inbox=self._told_inbox(),
            session=session_progress(*running, now) if running else None,
            troubles=tuple(self._loop.attempts.troubles),
            engine=self._told_engine(),
            events=self._archive.newest_events(EVENTS_TOLD),
            documents=self._documents(),
        )

    def versions(self, track: str) -> Versions:
        """Return a track's versions and what serves."""
        return replace(self._archive.versions(track), serving=self._engine.serving(track))

    def _told_engine(self) -> EngineStatus:
        engine = self._engine
        return EngineStatus(
            requests=engine.requests,
            waiting=engine.waiting,
            active=engine.active,
            tokens_per_second=engine.tokens_per_second,
            first_token_seconds=engine.first_token_seconds,
            backend=engine.choice.name,
            backend_because=engine.choice.because,
            max_batch=self._limits.max_batch,
            cache_bytes=engine.cache_bytes,
            max_cache_bytes=self._limits.max_cache_bytes,
            modes={str(mode): count for mode, count in engine.modes.items()},
        )

    def _track(self, track: Track) -> TrackStatus:
        form, able = self._engine.form(track.name), self._engine.capabilities(track.name)
        base = self._engine.base(track.name)
        return TrackStatus(
            **fields_of(self.versions(track.name)),
            task=track.settings.task,
            base=track.settings.base,
            datasets=self._archive.datasets(track.name),
            held_as="packed" if form.is_packed else form.kind,
            held_bytes=form.added_bytes,
            not_merged_because=form.why_not_merged,
            quantization=base.quantization,
            quantized_because=base.why_quantized if base.is_quantized else "",
            batches=able.batches,
            batches_because=able.because,
            not_indexed=self._loop.indexing.left(track.name),
            not_looked_up=self._not_looked_up(track.name),
        )

    def _jobs(self) -> tuple[Job, ...]:
        """Return every job that is not done and those that ended last, so that nobody misses an end."""
        told = [*self._ledger.open_jobs(), *self._ledger.ended_jobs(limit=JOBS_TOLD)]
        return tuple(sorted({job.id: job for job in told}.values(), key=lambda job: -job.id))

    def _waiting_files(self, now: float) -> tuple[WaitingFile, ...]:
        waiting = [*self._inbox.processing(), *self._inbox.waiting()]
        return tuple(
            WaitingFile(
                name=file.name,
                track=file.track,
                bytes=file.size,
                age_seconds=max(0.0, now - file.changed_at),
                why=self._loop.intake.why_waiting(file),
            )
            for file in waiting[:FILES_TOLD]
        )

    def _told_inbox(self) -> InboxStatus:
        left = [*dict(self._inbox.not_taken).items()][:FILES_TOLD]
        return InboxStatus(
            watching="polling" if self.polls_because else "events",
            why=self.polls_because,
            files=self._inbox.count,
            not_taken=tuple(
                RejectedFile(
                    name=readable(path.name), code=error.code, message=error.message, data=error.data
                )
                for path, error in left
            ),
        )


def session_progress(job: Job, progress: Mapping[str, Any], now: float) -> SessionProgress:
    """Return where a session is by what it has reported; what it reports in no known form is left out."""
    elapsed = max(0.0, now - (job.started_at or now))  # the clock may have been set back
    known: dict[str, Any] = {"job": job.id, "dataset": job.dataset, "elapsed": elapsed}
    if isinstance(ends_at := progress.get("ends_at"), float | int):  # told once, it goes on counting down
        known["eta_seconds"] = max(0.0, ends_at - now) or None
    try:
        return read(SessionProgress, {**progress, **known})
    except RecordError:  # a task of somebody else's may report anything, and the rest must be shown
        return SessionProgress(**known)
