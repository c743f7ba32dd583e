"""From a queued job to a session that runs, and to its end.

What lives here: starting one session at a time, watching it, ending it. What never does: what it is asked
(``preparation``), what becomes of what it leaves (``settlement``), the process itself (``training.executors``).
"""

from collections.abc import Callable, Mapping
from typing import Any

from lorad.apps.daemon.backoff import Attempts
from lorad.apps.daemon.loop_state import LoopState
from lorad.apps.daemon.ports import ModelPort
from lorad.apps.daemon.preparation import Preparation
from lorad.apps.daemon.settlement import Settlement
from lorad.errors import LoradError, TransientError
from lorad.log import get_logger
from lorad.records import Job
from lorad.states import OPEN_JOBS, JobState
from lorad.storage import files
from lorad.storage.ledger import Ledger
from lorad.track import Track
from lorad.training import run_folder
from lorad.training.executors.interface import Executor
from lorad.training.run_folder import RunFolder

log = get_logger()

PASSING = {"disk", "memory", "locked"}
"""What a session may have failed of that has nothing to do with what it learns."""


class Sessions:
    """Runs the jobs of the queue, one after the other."""

    def __init__(
        self,
        *,
        tracks: Mapping[str, Track],
        ledger: Ledger,
        models: ModelPort,
        executor: Executor,
        preparation: Preparation,
        settlement: Settlement,
        attempts: Attempts,
        state: LoopState,
        is_night: Callable[[float], bool],
    ) -> None:
        """``is_night`` tells whether jobs that wait for it may start."""
        self._tracks = tracks
        self._ledger = ledger
        self._models = models
        self._executor = executor
        self._preparation = preparation
        self._settlement = settlement
        self._attempts = attempts
        self._state = state
        self._is_night = is_night

    def start_next(self, now: float, ticks: float) -> None:
        """Start the oldest queued job, unless learning is paused; what waits for the night has its turn behind all others."""
        jobs = [job for job in self._ledger.open_jobs() if job.track in self._tracks]
        for job in jobs:
            if job.state is not JobState.QUEUED:  # nothing runs: see `watch`
                self._settlement.recover_job(job, now)
        if self._state.running is not None:  # it has ended, and is settled next
            return
        if self._ledger.flag("paused") or not self._attempts.backoff.is_over("session", ticks):
            return
        queued = [job for job in jobs if job.state is JobState.QUEUED]
        ready = [job for job in queued if not job.is_nightly] or (queued if self._is_night(now) else [])
        if ready:
            self._start(ready[0], now)

    def _start(self, job: Job, now: float) -> None:
        track = self._tracks[job.track]
        if job.force and self._promote_kept(track, job, now):
            return
        try:
            with files.passing_errors(f"preparing job {job.id}"):
                checkpoints = run_folder.of_job(track, job.id).checkpoint_names()
                folder = self._preparation.prepare(track, job)
        except (TransientError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the jobs behind this one must have their turn
            self._settlement.fail(self._ledger.move_job(job, "start", now), error, now)
        else:
            if checkpoints and not folder.checkpoint_names():
                self._tell_begun_anew(job, now)
            self._start_prepared(job, folder, now)

    def _tell_begun_anew(self, job: Job, now: float) -> None:
        why = "its checkpoints are of another request, or of an older lorad"
        self._ledger.record_event("session_begins_again", now, job=job.id, why=why)
        log.warning("session_begins_again", job=job.id, why=why)

    def _start_prepared(self, job: Job, folder: RunFolder, now: float) -> None:
        with self._ledger.transaction():
            started = self._ledger.move_job(job, "start", now)
            self._ledger.record_event("training", now, job=job.id, dataset=job.dataset)
        try:
            with files.passing_errors(f"starting job {job.id}"):
                self._state.running = (started, self._executor.start(folder))
        except TransientError:
            self._ledger.move_job(started, "requeue", now, attempts=job.attempts)
            raise
        except (LoradError, OSError) as error:
            self._settlement.fail(started, error, now)
        else:
            log.info("training", job=job.id, dataset=job.dataset)

    def _promote_kept(self, track: Track, job: Job, now: float) -> bool:
        """By force, promote the candidate that was refused, if what it was trained on serves still; tell whether it was."""
        kept, folder = run_folder.refused(track, job.id), run_folder.of_job(track, job.id)
        try:
            result = kept.result()
        except (OSError, ValueError):
            return False
        if result.parent != track.registry.newest_intact(self._models.fingerprint(track)):
            return False
        if kept.has_only_numbers() or self._settlement.was_forgotten(track, kept):
            return False
        files.remove(folder.path)
        files.rename(kept.path, folder.path)
        self._settlement.settle(self._ledger.move_job(job, "start", now), now)
        self._state.request_clean_up()
        return True

    def watch(self, now: float, ticks: float) -> None:
        """Look at the running session; when it has ended, settle what it left.

        Until that is done the session counts as running, so that what a full disk prevents is done later.
        """
        assert self._state.running is not None  # noqa: S101 - step asks only when one runs
        started, session = self._state.running
        status = session.poll(ticks)
        if status is None:
            return
        job = self._ledger.job(started.id)
        is_queued_again = job.state is JobState.QUEUED  # it was cancelled and retried: this is not its end
        if job.state in OPEN_JOBS and not is_queued_again:
            self._end(job, status, now, ticks)
        self._state.running = None
        self._state.request_clean_up()

    def _end(self, job: Job, status: int, now: float, ticks: float) -> None:
        error = run_folder.of_job(self._tracks[job.track], job.id).failure(status) if status else None
        if error is not None and error.code in PASSING:
            tries = self._attempts.backoff.lengthen("session", ticks)
            self._settlement.requeue(job, error.message, now)
            log.warning("session_tried_again_later", job=job.id, tries=tries, **error.as_dict())
            return
        self._attempts.backoff.end("session")
        if error is not None:
            self._settlement.fail(job, error, now)
        else:
            self._settlement.settle(job, now)

    def interrupt(self, why: str, now: float, ticks: float) -> None:
        """Stop the running session for now: its job is queued again, and goes on from its last checkpoint."""
        if self._state.running is None or self._state.running[1].poll(ticks) is not None:
            return  # it has ended by itself: ``watch`` settles it
        started, session = self._state.running
        session.stop()
        self._state.running = None
        job = self._ledger.job(started.id)
        if job.state is JobState.TRAINING:
            self._settlement.requeue(job, why, now)
        self._state.request_clean_up()

    def halt(self, now: float) -> None:
        """Stop the running session before the daemon ends; its job is queued again, unless it only waits to be judged."""
        if self._state.running is None:
            return
        job, session = self._state.running
        has_ended = session.poll(0.0) == 0
        session.stop()
        self._state.running = None
        current = self._ledger.job(job.id)
        if current.state is JobState.TRAINING and not has_ended:
            self._ledger.move_job(current, "requeue", now, attempts=job.attempts - 1)

    @property
    def running(self) -> tuple[Job, dict[str, Any]] | None:
        """Return the running job and its newest progress, or ``None``."""
        running = self._state.running
        if running is None:
            return None
        progress = running[1].progress
        if why := self._attempts.why("watch"):
            progress = progress | {"phase": f"ended, and waits to be judged: {why}"}
        return running[0], progress
