"""From what a session left to a version, a rejected candidate or a failed job.

What lives here: promoting and swapping what the session found good enough, keeping aside what it did not, and the
records of both. What never does: the verdict. The session decided it, and it stands in its result.

Everything here can be repeated: the disk is the truth, and the ledger follows it.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lorad.apps.daemon import forgetting
from lorad.apps.daemon.loop_state import LoopState
from lorad.apps.daemon.ports import ModelPort
from lorad.apps.daemon.served_versions import ServedVersions
from lorad.errors import LoradError, TransientError, describe
from lorad.log import get_logger
from lorad.records import Evaluation, Job, Score, SessionResult
from lorad.states import JobState
from lorad.storage import files
from lorad.storage.ledger import Ledger
from lorad.track import Track
from lorad.training import run_folder
from lorad.training.run_folder import RunFolder
from lorad.versions.promotion import PromotionRecord

log = get_logger()

MAX_ATTEMPTS = 3
"""A job whose daemon died under it is started again this often; then it waits for a human."""
DESCRIPTIONS = {
    "learn": "learned {dataset}",
    "refit": "refitted from all of memory",
    "consolidate": "consolidated",
}


class EndedSession:
    """A session that ended well under an earlier daemon."""

    @property
    def progress(self) -> dict[str, Any]:
        """Return nothing: all was said."""
        return {}

    def poll(self, ticks: float) -> int:
        """Return the exit status."""
        del ticks
        return 0

    def stop(self) -> None:
        """Nothing runs."""


class Settlement:
    """Settles jobs whose sessions have ended."""

    def __init__(
        self,
        *,
        tracks: Mapping[str, Track],
        ledger: Ledger,
        models: ModelPort,
        served: ServedVersions,
        state: LoopState,
    ) -> None:
        self._tracks = tracks
        self._ledger = ledger
        self._models = models
        self._served = served
        self._state = state

    def settle(self, job: Job, now: float) -> None:
        """Settle a job; what cannot be settled is a failed job, what may pass is raised."""
        try:
            with files.passing_errors(f"judging job {job.id}"):
                self.settle_candidate(job, now)
        except TransientError:
            raise
        except (LoradError, OSError, ValueError) as failure:
            self.fail(self._ledger.job(job.id), failure, now)

    def settle_candidate(self, job: Job, now: float) -> None:
        """Promote a candidate and swap, or keep it aside with its numbers."""
        track = self._tracks[job.track]
        folder = run_folder.of_job(track, job.id)
        if job.state is JobState.TRAINING:
            job = self._ledger.move_job(job, "trained", now)
        if not folder.candidate.exists():
            track.registry.recover()  # it had become a version when the disk was full
        version = track.registry.of_job(job.id) or self._promote(track, job, folder, now)
        if version is None:
            return
        # before it is told: whoever hears of the promotion asks the version at once
        refusal = self._served.swap(track, version)
        self._enter(track, job, version, now)
        if refusal:
            self._served.retreat(track, version, refusal, now)

    def _promote(self, track: Track, job: Job, folder: RunFolder, now: float) -> str | None:
        """Return the version that a candidate has become; ``None`` where it may not, and its job was told so."""
        result = folder.result()
        if why := self._why_stale(track, folder, result):
            self._begin_again(job, folder, why, now)
            return None
        if not result.verdict.promote and not job.force:
            self._report(job, "reject", result, now)
            return None
        return track.registry.promote(folder.candidate, _promotion(job, result), now)

    def _why_stale(self, track: Track, folder: RunFolder, result: SessionResult) -> str | None:
        """Return why nobody wants a candidate: it carries what does not serve any more, or was forgotten."""
        parent = track.registry.newest_intact(self._models.fingerprint(track))
        if result.parent != parent:
            then, serves = result.parent or "the base", parent or "the base"
            return f"it was trained on {then}, and {serves} serves now"
        return forgetting.LEARNED_FORGOTTEN if self.was_forgotten(track, folder) else None

    def was_forgotten(self, track: Track, folder: RunFolder) -> bool:
        """Tell whether any of what a session's folder was made with was forgotten since."""
        return bool(track.memory.forgotten(folder.trained_on() or ()))

    def _begin_again(self, job: Job, folder: RunFolder, why: str, now: float) -> None:
        files.remove(folder.path)
        self.requeue(job, why, now)
        log.warning("session_begins_again", job=job.id, why=why)

    def requeue(self, job: Job, why: str, now: float) -> None:
        """Queue a job again through no fault of its own."""
        with self._ledger.transaction():
            self._ledger.move_job(job, "requeue", now, attempts=job.attempts - 1)
            self._ledger.record_event("requeued", now, job=job.id, why=why)

    def fail(self, job: Job, error: BaseException, now: float) -> None:
        """End a job whose session failed."""
        reason = describe(error)
        self._state.request_clean_up()
        with self._ledger.transaction():
            self._ledger.move_job(job, "crash", now, reason=reason)
            self._ledger.record_event(
                "session_failed", now, job=job.id, dataset=job.dataset, why=reason["message"]
            )
        log.error("session_failed", job=job.id, **reason)

    def recover_job(self, job: Job, now: float) -> None:
        """Settle a job whose session nobody watches any more: the daemon ended under it.

        One that had ended by itself, and waited to be judged, counts as running: it is settled with the next step.
        """
        track = self._tracks[job.track]
        version = track.registry.of_job(job.id)
        if version is not None:  # promoted on disk, not yet in the ledger
            self._enter(track, job, version, now)
        elif self._state.running is None and run_folder.of_job(track, job.id).is_complete:
            self._state.running = (job, EndedSession())
        elif job.attempts >= MAX_ATTEMPTS:
            reason = {
                "code": "interrupted",
                "message": f"the daemon stopped {job.attempts} times during this session; continue it with: lorad resume "
                f"{job.id}, or from an earlier round with --from",
            }
            self._ledger.move_job(job, "crash", now, reason=reason)
        else:
            with self._ledger.transaction():
                self._ledger.move_job(job, "requeue", now)
                self._ledger.record_event(
                    "requeued", now, job=job.id, why="the daemon stopped during the session"
                )

    def _enter(self, track: Track, job: Job, version: str, now: float) -> None:
        """Make ledger and memory agree with a version that is already on disk."""
        result = track.registry.result(version)
        with self._ledger.transaction():
            if job.state is JobState.TRAINING:
                job = self._ledger.move_job(job, "trained", now)
            track.memory.mark_learned(result.learned, version)
            track.memory.record_recall(version, result.right)
            self._report(replace(job, version=version), "promote", result, now)

    def _report(self, job: Job, event: str, result: SessionResult, now: float) -> None:
        verdict, evaluation = result.verdict, result.evaluation
        reason = {
            "reasons": list(verdict.reasons),
            "failed": list(verdict.failed),
            "ended_by": evaluation.ended_by,
        }
        facts = {
            "job": job.id,
            "dataset": job.dataset,
            "version": job.version,
            "recall": round(evaluation.headline_score.recall, 4),
        }
        with self._ledger.transaction():
            moved = self._ledger.move_job(job, event, now, version=job.version, reason=reason)
            self._ledger.record_event(str(moved.state), now, **facts, failed=list(verdict.failed))
        log.info(str(moved.state), **facts, failed=list(verdict.failed), ended_by=evaluation.ended_by)


def _promotion(job: Job, result: SessionResult) -> PromotionRecord:
    return PromotionRecord(
        job=job.id,
        parent=result.parent,
        base=result.base,
        description=DESCRIPTIONS[job.kind].format(dataset=job.dataset),
        performance=_performance(result.evaluation),
    )


def _performance(evaluation: Evaluation) -> dict[str, float]:
    """Return what the list of versions tells: the new, the old, the facts as served, the general, the task's own numbers.

    What was not there or not measured is left out.
    """
    new = {evaluation.dataset: evaluation.new}
    old = [score - new.get(name, Score(right=0, total=0)) for name, score in evaluation.scores.items()]
    total = sum(score.total for score in old)
    retention = {"retention": round(sum(score.right for score in old) / total, 4)} if total else {}
    served = [found.other_served for found in evaluation.facts.values() if found.other_served]
    asked = sum(score.total for score in served)
    facts = {"facts": round(sum(score.right for score in served) / asked, 4)} if asked else {}
    general = {} if evaluation.perplexity is None else {"perplexity": round(evaluation.perplexity, 3)}
    own = {name: round(value, 4) for name, value in evaluation.metrics.items()}
    return {"recall": round(evaluation.headline_score.recall, 4), **retention, **facts, **general, **own}
