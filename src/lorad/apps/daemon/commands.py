"""What people ask of the learning loop, and what it asks of itself at night.

What lives here: orders about jobs, versions and memory, each refused with what would work. What never does: taking
turns with the steps (``api``), HTTP.
"""

from collections.abc import Mapping
from typing import Any

from lorad.apps.daemon import forgetting
from lorad.apps.daemon.housekeeping import Housekeeping
from lorad.apps.daemon.loop_state import LoopState
from lorad.apps.daemon.ports import ModelPort
from lorad.apps.daemon.served_versions import ServedVersions
from lorad.config import RegistrySettings, Settings
from lorad.errors import ProtocolError
from lorad.records import BASE, Job
from lorad.serving.answers import Remains, Roles
from lorad.states import TRANSITIONS, JobState
from lorad.storage import files
from lorad.storage.ledger import Ledger
from lorad.track import Track
from lorad.training import planner, run_folder

WHY_NOT = {
    JobState.QUEUED: "it is queued; remove it from the queue with: lorad cancel {job}",
    JobState.TRAINING: "its session is running; stop it with: lorad cancel {job}",
    JobState.JUDGING: "its session has ended and is being judged; try again in a moment",
    JobState.PROMOTED: "it became {version}; serve another version with: lorad rollback --to VERSION",
    JobState.REJECTED: "it has ended; queue it again with: lorad retry {job}",
    JobState.FAILED: "it has ended; queue it again with: lorad retry {job}",
    JobState.CANCELLED: "it has ended; queue it again with: lorad retry {job}",
}
"""Why a job does not take an order, and which one it would take."""


class Commands:
    """Orders that are obeyed between two steps."""

    def __init__(
        self,
        *,
        settings: Settings,
        tracks: Mapping[str, Track],
        ledger: Ledger,
        models: ModelPort,
        served: ServedVersions,
        housekeeping: Housekeeping,
        state: LoopState,
    ) -> None:
        self._settings = settings
        self._tracks = tracks
        self._ledger = ledger
        self._models = models
        self._served = served
        self._housekeeping = housekeeping
        self._state = state

    # -- jobs

    def cancel(self, job_id: int, now: float) -> Job:
        """Take a job out of the queue, or end its session; nothing but its time is lost."""
        with self._ledger.transaction():
            job = self._ledger.move_job(self._job_for(job_id, "cancel"), "cancel", now)
            self._ledger.record_event("cancelled", now, job=job_id)
        if self._state.running and self._state.running_job == job_id:
            self._state.running[1].stop()
        self._state.request_clean_up()
        return job

    def retry(
        self, job_id: int, now: float, *, force: bool = False, settings: dict[str, Any] | None = None
    ) -> Job:
        """Queue a rejected, failed or cancelled job again, perhaps with other settings or by force.

        By force alone, the candidate that was refused is promoted as it is; with other settings it is made anew.
        """
        job = self._job_for(job_id, "retry")
        planner.check_changes(settings or {})
        kept = {
            key: value for key, value in job.settings.items() if key != Job.NIGHTLY
        }  # somebody wants it now
        with self._ledger.transaction():
            changed = self._ledger.move_job(
                job, "retry", now, force=int(force), settings=kept | (settings or {}), attempts=0
            )
            self._ledger.record_event("retry", now, job=job_id, force=force)
            if settings:  # the last thing that can fail but the commit
                files.remove(run_folder.refused(self._tracks[job.track], job.id).path)
        return changed

    def resume(self, job_id: int, checkpoint: str | None, now: float) -> tuple[Job, str | None]:
        """Queue a job again, to continue after its newest complete checkpoint or the one named; later ones go.

        Return the job and that checkpoint, ``None`` if there is none and it starts over.
        """
        job = self._job_for(job_id, "retry")
        folder = run_folder.of_job(self._tracks[job.track], job_id)
        known = folder.checkpoint_names()
        if checkpoint is not None and checkpoint not in known:
            raise ProtocolError(
                f"job {job_id} has no checkpoint {checkpoint}; it has: {', '.join(known) or 'none'}",
                status=404,
                code="no_such_checkpoint",
            )
        changed = self.retry(job_id, now, force=bool(job.force))
        if checkpoint is not None:
            folder.remove_checkpoints(known[known.index(checkpoint) + 1 :])
        return changed, checkpoint or (known[-1] if known else None)

    def _job_for(self, job_id: int, order: str) -> Job:
        """Return a job that can be given this order, or raise ``ProtocolError`` (409) that says why it cannot."""
        job = self._ledger.job(job_id)
        if order not in TRANSITIONS[JobState][job.state]:
            why = WHY_NOT[job.state].format(job=job.id, version=job.version)
            raise ProtocolError(
                f"job {job.id} is {job.state}: {why}", status=409, code="illegal_transition", job=job.id
            )
        return job

    def pause(self, now: float, *, paused: bool) -> None:
        """Start no more sessions, or start them again; survives a restart."""
        self._ledger.set_flag("paused", "yes" if paused else "")
        self._ledger.record_event("paused" if paused else "resumed", now)

    # -- consolidating

    def consolidate(self, track: Track, now: float, *, refit: bool) -> Job:
        """Queue a session that makes one adapter of all, or refits one; return the one that waits already, if so."""
        kind = "refit" if refit else "consolidate"
        waiting = (job for job in self._ledger.open_jobs() if job.state is JobState.QUEUED)
        own = (
            job for job in waiting if not job.is_nightly
        )  # what waits for the night is not what was asked for
        same = next((job for job in own if (job.track, job.kind) == (track.name, kind)), None)
        return same or self._ledger.queue(track.name, "memory", now, kind=kind)

    def consolidate_idle(self, now: float) -> list[Job]:
        """Queue the consolidation of every track that is idle and whose adapter has grown over half its limit.

        One that came to nothing for what serves now would come to nothing again, and is not repeated.
        """
        busy = {job.track for job in self._ledger.open_jobs()}
        queued = []
        for track in self._tracks.values():
            version = track.registry.newest_intact(self._models.fingerprint(track))
            if version and track.name not in busy and self._is_worth_consolidating(track, version):
                with self._ledger.transaction():
                    job = self._ledger.queue(track.name, "memory", now, kind="consolidate")
                    facts = {"track": track.name, "version": version, "job": job.id}
                    self._ledger.record_event("consolidating", now, **facts)
                queued.append(job)
        return queued

    def _is_worth_consolidating(self, track: Track, version: str) -> bool:
        is_large = track.registry.rank(version) > self._settings.training.max_rank // 2
        made_by = track.registry.manifest(version)["job"] or 0  # by number: the clock may be set back
        is_mended = self._ledger.is_kind(made_by, "consolidate")
        return is_large and not is_mended and not self._was_in_vain(track, made_by)

    def _was_in_vain(self, track: Track, made_by: int) -> bool:
        return any(
            job.state in {JobState.REJECTED, JobState.FAILED} and job.id > made_by
            for job in self._ledger.ended_jobs(track=track.name, kind="consolidate", limit=1)
        )

    # -- versions

    def rollback(self, track: Track, to: str | None, now: float) -> Roles:
        """Serve ``previous`` (or the version named, or the base) again; nothing changes when it cannot be loaded."""
        registry = track.registry
        before = registry.latest, registry.previous
        self._ledger.prove_writable()
        try:
            latest, previous = registry.rollback(to)
            self._served.serve(track, latest)
            with self._ledger.transaction():
                if latest is not None:
                    track.memory.record_recall(latest, registry.result(latest).right)
                self._ledger.record_event(
                    "rolled_back", now, track=track.name, to=latest or BASE, why="asked for"
                )
        except Exception:
            self._served.put_back(track, *before)
            raise
        return Roles(track=track.name, latest=latest, previous=previous, serving=latest)

    def pin(self, track: Track, version: str, now: float, *, pinned: bool) -> str:
        """Keep a version whatever the limits say, or no longer; return which."""
        self._ledger.prove_writable()
        found = track.registry.tracker.pin(version, pinned=pinned)
        self._ledger.record_event("pinned" if pinned else "unpinned", now, track=track.name, version=found)
        return found

    def tag(self, track: Track, version: str, tag: str, now: float, *, remove: bool) -> str:
        """Give a version a name of its own, or take it away; return which."""
        self._ledger.prove_writable()
        change = track.registry.tracker.untag if remove else track.registry.tracker.tag
        found = change(version, tag)
        event = "untagged" if remove else "tagged"
        self._ledger.record_event(event, now, track=track.name, version=found, tag=tag)
        return found

    def prune(
        self, track: Track, limits: Mapping[str, int], now: float, *, dry_run: bool = False
    ) -> dict[str, str]:
        """Remove the versions beyond the settings' limits, or beyond these where given, or only tell which."""
        if not dry_run:
            self._ledger.prove_writable()
        wanted: RegistrySettings = self._settings.registry.model_copy(update=dict(limits))
        return self._housekeeping.prune(track, wanted, now, dry_run=dry_run)

    # -- memory

    def remains(self, track: Track, selector: str) -> Remains:
        """Return what holds the words that forgetting this would remove from memory."""
        ids = {example.id for example in track.memory.meant(selector)}
        return forgetting.find(track, self._ledger, ids, self._state.running_job)

    def forget(self, track: Track, selector: str, now: float) -> int:
        """Remove on purpose a dataset, or what holds a text, and its words; return how many examples that were.

        A running session that learns or rehearses them begins anew without them, and what others left of them goes.
        """
        ids = {example.id for example in track.memory.meant(selector)}
        with forgetting.begun_anew(track, self._ledger, self._state, ids, now):
            is_dataset = track.memory.has_dataset(selector)
            gone = track.memory.forget(selector, now)
            what = {"dataset": selector} if is_dataset else {}  # a text may be the very words to be forgotten
            self._ledger.record_event("forgotten", now, track=track.name, **what, examples=gone)
        self._state.request_purge()  # also where nothing is left to forget: something may not have let go before
        return gone
