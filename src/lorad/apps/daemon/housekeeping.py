"""What ended sessions left, and versions beyond the limits, go.

What lives here: putting a session's folder where its job's state says, removing what was made with forgotten words,
pruning. What never does: choosing the versions to remove (``versions``).
"""

from collections.abc import Mapping

from lorad.apps.daemon import forgetting
from lorad.apps.daemon.loop_state import LoopState
from lorad.config import RegistrySettings
from lorad.datasets.inbox.inbox import Inbox
from lorad.errors import LoradError, ProtocolError, TransientError, describe
from lorad.log import get_logger
from lorad.records import Job
from lorad.states import JobState
from lorad.storage import files
from lorad.storage.ledger import Ledger
from lorad.track import Track
from lorad.training import run_folder
from lorad.training.run_folder import RunFolder

log = get_logger()


class Housekeeping:
    """Cleans up behind sessions; all of it can be repeated."""

    def __init__(
        self,
        *,
        settings: RegistrySettings,
        tracks: Mapping[str, Track],
        ledger: Ledger,
        inbox: Inbox,
        state: LoopState,
    ) -> None:
        self._settings = settings
        self._tracks = tracks
        self._ledger = ledger
        self._inbox = inbox
        self._state = state

    def empty_log(self) -> None:
        """Empty the database's log, where forgotten words may still stand."""
        self._ledger.empty_log()
        self._state.is_log_empty = True

    def clean_up(self, now: float) -> None:
        """Put away what ended sessions left, and prune.

        A cancelled session writes until it is gone; its folder's turn comes when ``watch`` has seen its end.
        """
        for track in self._tracks.values():
            self._clean_up(track, now)
        if days := self._inbox.prune_done(now):
            self._ledger.record_event("done_pruned", now, days=days)
            log.info("done_pruned", days=days)
        self._state.is_cleaned_up = True

    def _clean_up(self, track: Track, now: float) -> None:
        for number, folder in track.registry.workspace.unfinished_jobs():
            if number != self._state.running_job:
                self._put_away(track, number, RunFolder(folder))
        self._remove_forgotten(track)
        track.registry.workspace.remove_unfinished()
        track.registry.workspace.prune_rejected(self._settings.keep_rejected)
        try:
            self.prune(track, self._settings, now)
        except TransientError:
            raise
        except LoradError as error:  # versions serve; what is too much can go another day
            log.warning("prune_failed", track=track.name, **describe(error))

    def _put_away(self, track: Track, number: int, folder: RunFolder) -> None:
        """Do with a session's folder what its job's state says; of one that may go on, log and checkpoints stay."""
        try:
            job = self._ledger.job(number)
        except ProtocolError:  # of a ledger that was lost
            files.remove(folder.path)
            return
        if job.state is JobState.REJECTED:
            folder.remove_words()
            track.registry.workspace.reject(folder.path, job.id)
        elif job.state is JobState.PROMOTED and job.version:
            self._keep_merged(track, job, folder)
            files.remove(folder.path)
        elif job.state is JobState.CANCELLED:
            files.remove(folder.path)
        elif job.state in {JobState.FAILED, JobState.QUEUED}:
            folder.remove_words()

    def _keep_merged(self, track: Track, job: Job, folder: RunFolder) -> None:
        try:
            track.registry.keep_merged(folder.merged, str(job.version))
        except TransientError:
            raise
        except (LoradError, OSError) as error:  # the version stands without it
            log.warning("no_merged_copy", job=job.id, version=job.version, error=str(error))

    def _remove_forgotten(self, track: Track) -> None:
        """Remove what was made with forgotten words and is there still: the daemon ended while they were forgotten."""
        for job, folder, is_kept in forgetting.made_by_sessions(track):
            if job == self._state.running_job:
                continue  # it writes there; when it has ended, nobody wants what it made
            if gone := track.memory.forgotten(folder.trained_on() or ()):
                log.warning("forgotten_removed", folder=folder.path.name, examples=len(gone))
                folder.remove_results(keep_numbers=is_kept)

    def prune(
        self, track: Track, limits: RegistrySettings, now: float, *, dry_run: bool = False
    ) -> dict[str, str]:
        """Remove the versions beyond the limits, but not the one that the running session builds on."""
        gone = track.registry.prune(limits, now, self._needed(track), dry_run=dry_run)
        if gone and not dry_run:
            self._ledger.record_event("pruned", now, track=track.name, versions=list(gone))
            log.info("pruned", track=track.name, versions=gone)
        return gone

    def _needed(self, track: Track) -> list[str]:
        if self._state.running is None or self._state.running[0].track != track.name:
            return []
        parent = run_folder.of_job(track, self._state.running[0].id).spec().parent_version
        return [parent] if parent else []
