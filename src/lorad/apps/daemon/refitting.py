"""Drift is undone by night: what has drifted over many sessions is mended while nobody needs the machine.

What lives here: whether a consolidation or a refit from the base is wanted, when it may run, and that it makes room for anything else.
What never does: the measure of drift and the verdict (``evaluation.judge``), sessions (``sessions``).

A consolidation takes minutes and goes first; only where what it leaves has drifted too far everything is learned anew. One that makes room is queued again and goes on from its last checkpoint, as long as nothing was learned meanwhile; then
it is taken out of the queue, because a version that lacks the new would not be wanted, and a new one has its turn.
"""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lorad.apps.daemon import origins
from lorad.apps.daemon.loop_state import LoopState
from lorad.apps.daemon.preparation import NOTHING_TO_GAIN
from lorad.apps.daemon.sessions import Sessions
from lorad.config import JudgeSettings
from lorad.errors import RegistryError
from lorad.evaluation import judge
from lorad.log import get_logger
from lorad.records import Job
from lorad.states import JobState
from lorad.storage.ledger import Ledger
from lorad.track import Track

log = get_logger()

DOING = {"consolidate": "consolidating", "refit": "refitting"}
"""What is done about drift, the cheapest first, and what events call it."""
NOT_WANTED = "not_wanted"
"""The code of a job that was taken out of the queue here."""
MOST_JOBS = 200
"""That are looked through for what was learned last."""


def minute_of_day(now: float) -> int:
    """Return the minute of the local day, 0 to 1439."""
    local = time.localtime(now)
    return local.tm_hour * 60 + local.tm_min


@dataclass(frozen=True, slots=True)
class Hours:
    """A part of every day, from one minute of it up to another, which may be the next morning's."""

    begin: int
    end: int

    @classmethod
    def read(cls, text: str) -> "Hours":
        """Return the hours that ``01:00-06:00`` says."""
        hours = list(map(int, re.findall(r"\d+", text)))
        return cls(hours[0] * 60 + hours[1], hours[2] * 60 + hours[3])

    def holds(self, minute: int) -> bool:
        """Tell whether a minute of the day lies in them."""
        if self.begin <= self.end:
            return self.begin <= minute < self.end
        return minute >= self.begin or minute < self.end


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What decides what is to be done about the drift of a track's serving version."""

    drift: float
    """Of what perplexity may rise, the share that is used up: 0 to 1."""
    learned_by: int = 0
    """The newest job of the track that has learned something; 0: none."""
    tried: frozenset[str] = frozenset()
    """The kinds of job that were tried since it did, well or badly."""


def is_wanted(kind: str, standing: Standing, at: float | None) -> bool:
    """Tell whether a kind of job would be worth its time: from this drift on, and once since the version learned something."""
    return bool(at) and standing.drift >= (at or 0.0) and kind not in standing.tried


def wanted(standing: Standing, at: Mapping[str, float | None]) -> str | None:
    """Return the cheapest kind that would be worth its time; ``at`` says from which drift on each is."""
    return next((kind for kind in DOING if is_wanted(kind, standing, at[kind])), None)


def yields_to(job: Job, jobs: Sequence[Job], *, is_time: bool) -> str | None:
    """Return why a running job of the night makes room now, if it does."""
    if any(other.id != job.id and not other.is_nightly for other in jobs):
        return "there is something to learn"
    return None if is_time else "the night is over"


def _tried(job: Job) -> set[str]:
    """Return which kinds need not be tried again behind a job that has ended."""
    if job.state is JobState.CANCELLED:  # whoever stops one by night wants none of them
        return set(DOING) if job.is_nightly and job.reason.get("code") != NOT_WANTED else set()
    is_in_vain = job.state is JobState.FAILED and job.reason.get("code") == NOTHING_TO_GAIN
    return set() if is_in_vain else {job.kind}


class Refitting:
    """Queues consolidations and refits, and lets them make room; ``step`` can be repeated."""

    def __init__(
        self,
        *,
        hours: Hours,
        minute_of: Callable[[float], int],
        consolidate_at: float | None,
        refit_at: float | None,
        limits: JudgeSettings,
        tracks: Mapping[str, Track],
        ledger: Ledger,
        sessions: Sessions,
        state: LoopState,
    ) -> None:
        """``limits`` say how far a version may drift, the other two at which share of that it is consolidated or refitted."""
        self._hours = hours
        self._minute_of = minute_of
        self._at: dict[str, float | None] = {"consolidate": consolidate_at, "refit": refit_at}
        self._least = min(filter(None, self._at.values()), default=None)
        self._limits = limits
        self._tracks = tracks
        self._ledger = ledger
        self._sessions = sessions
        self._state = state
        self._drifts: dict[tuple[str, str], float] = {}
        """By track and version: papers do not change, and this is asked every second."""

    def is_time(self, now: float) -> bool:
        """Tell whether it is the time of day for it."""
        return self._hours.holds(self._minute_of(now))

    def step(self, now: float, ticks: float) -> None:
        """Let what runs make room, drop what is not wanted any more, queue something where all is idle."""
        # those of a track that is gone from the settings wait until it is back, and keep nobody waiting
        jobs = [job for job in self._ledger.open_jobs() if job.track in self._tracks]
        if self._state.running is not None:
            running = self._state.running[0]
            why = yields_to(running, jobs, is_time=self.is_time(now)) if running.is_nightly else None
            if why:
                self._sessions.interrupt(why, now, ticks)
            return
        is_night = self.is_time(now) and not self._ledger.flag("paused")
        for job in jobs:
            if job.is_nightly and job.state is JobState.QUEUED:
                self._withdraw_surplus(job, now)
        if is_night and not jobs:
            self._queue_one(now)

    def _withdraw_surplus(self, job: Job, now: float) -> None:
        """Take a job out of the queue that would not be queued now; one kind is not given up for the other."""
        standing = self._standing(self._tracks[job.track])
        is_newest = standing is None or job.id > standing.learned_by
        if standing and is_newest and is_wanted(job.kind, standing, self._at[job.kind]):
            return
        unwanted = "it is not wanted any more: what serves has not drifted so far, or it was tried meanwhile"
        why = unwanted if is_newest else "something was learned since it was queued"
        with self._ledger.transaction():
            self._ledger.move_job(job, "cancel", now, reason={"code": NOT_WANTED, "message": why})
            self._ledger.record_event("cancelled", now, job=job.id, why=why)
        self._state.request_clean_up()

    def _queue_one(self, now: float) -> None:
        """Queue what is wanted of the track that has drifted most, if any has drifted so far."""
        found = [(self._standing(track), track) for track in self._tracks.values()]
        asked = [
            (kind == "consolidate", each.drift, track.name, kind)
            for each, track in found
            if each and (kind := wanted(each, self._at))
        ]
        if not asked:
            return
        _, drift, name, kind = max(asked)  # of any track, what is soon done goes first
        doing = DOING[kind]
        with self._ledger.transaction():
            job = self._ledger.queue(
                name, "memory", now, kind=kind, settings={Job.NIGHTLY: True, Job.FOR_DRIFT: True}
            )
            version = self._tracks[name].registry.latest
            facts = {"track": name, "version": version, "job": job.id, "drift": round(drift, 3)}
            self._ledger.record_event(doing, now, **facts)
        log.info(doing, **facts)

    def _standing(self, track: Track) -> Standing | None:
        """Return how a track's version stands; ``None`` where the base serves, or it has not drifted so far."""
        version = track.registry.latest
        if version is None:
            return None
        key = (track.name, version)
        if key not in self._drifts:
            # unasked, nothing is done that could lose what somebody brought from outside
            is_known = origins.imported(track, self._ledger, version) is None
            self._drifts[key] = self._measured(track, version) if is_known else 0.0
        if not self._least or self._drifts[key] < self._least:
            return None  # before the ledger is asked: this is looked at every second
        tried: set[str] = set()
        for job in self._ledger.ended_jobs(track=track.name, limit=MOST_JOBS):
            if job.kind == "learn" and job.state is JobState.PROMOTED:
                return Standing(drift=self._drifts[key], learned_by=job.id, tried=frozenset(tried))
            tried |= _tried(job)
        return Standing(drift=self._drifts[key], tried=frozenset(tried))

    def _measured(self, track: Track, version: str) -> float:
        try:
            return judge.drift(track.registry.result(version).evaluation, self._limits)
        except RegistryError:  # nothing is known of it: nothing is to be undone
            return 0.0
