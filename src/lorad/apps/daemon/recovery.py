"""What a start finds and finishes, and what the nightly scrub finds.

What lives here: bringing ledger, folders and trackers to one story after any kind of stop. What never does: mending a
track's folder (``versions``).
"""

from collections.abc import Mapping

from lorad.apps.daemon.intake import Intake
from lorad.apps.daemon.loop_state import LoopState
from lorad.apps.daemon.ports import ModelPort
from lorad.apps.daemon.served_versions import ServedVersions
from lorad.apps.daemon.settlement import Settlement
from lorad.errors import LoradError
from lorad.log import get_logger
from lorad.states import JobState
from lorad.storage.ledger import Ledger
from lorad.track import Track

log = get_logger()


class Recovery:
    """Finds what a kill, a power cut or bit rot has left."""

    def __init__(
        self,
        *,
        tracks: Mapping[str, Track],
        ledger: Ledger,
        models: ModelPort,
        intake: Intake,
        settlement: Settlement,
        served: ServedVersions,
        state: LoopState,
    ) -> None:
        self._tracks = tracks
        self._ledger = ledger
        self._models = models
        self._intake = intake
        self._settlement = settlement
        self._served = served
        self._state = state

    def recover(self, now: float) -> None:
        """Finish or undo what was cut short; comes before the first step."""
        self._intake.recover(now)
        for track in self._tracks.values():
            self._recover_versions(track, now)
        newest = max((track.registry.newest_job() for track in self._tracks.values()), default=0)
        self._ledger.jobs_begin_at = newest + 1
        for job in self._ledger.open_jobs():
            if job.track not in self._tracks:
                log.warning(
                    "no_such_track", job=job.id, track=job.track, why="it waits until the track is back"
                )
            elif job.state is not JobState.QUEUED:
                self._settlement.recover_job(job, now)
        self._state.request_clean_up()

    def _recover_versions(self, track: Track, now: float) -> None:
        for sentence in track.registry.recover():
            log.warning("registry_recovered", track=track.name, what=sentence)
            self._ledger.record_event("recovered", now, track=track.name, what=sentence)

    def scrub(self, now: float) -> list[LoradError]:
        """Hash every version and base anew, to find bit rot before it is needed; return what was found.

        A version that serves from memory and is damaged on disk is replaced by the newest intact one: it could
        not be loaded again.
        """
        found: list[LoradError] = [*self._models.damaged_bases()]
        for track in self._tracks.values():
            self._recover_versions(track, now)
            found += self._scrub(track, now)
        for error in found:
            self._ledger.record_event("damaged", now, why=error.message)
            log.error("damaged", **error.as_dict())
        self._ledger.record_event("scrubbed", now, damaged=len(found))
        self._state.request_clean_up()  # days have passed, whether or not a session has ended
        return found

    def _scrub(self, track: Track, now: float) -> list[LoradError]:
        damaged = track.registry.scrub()
        latest = track.registry.latest
        if latest in damaged:
            self._served.retreat(track, str(latest), damaged[latest], now)
        return [*damaged.values()]
