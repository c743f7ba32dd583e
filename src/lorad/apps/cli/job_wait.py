"""Decides from snapshots when all jobs are done, and what ended meanwhile, for ``lorad wait``.

What lives here: reading from snapshots what is unfinished and what ended. What never does: requests, sleeping,
clocks; ``wait_for`` gets functions for them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lorad.apps.screens.state_text import ended_in
from lorad.errors import TransientError
from lorad.records import Job
from lorad.serving.answers import Event, Status
from lorad.states import OPEN_JOBS, JobState

GOOD = frozenset({"duplicate", "stored"})
"""Events about files that ended well without a job: nothing in them was new, or they hold documents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """Something that ended: a job, or a file that never became one."""

    is_good: bool
    """Promoted, or a file that is a duplicate or was stored."""
    record: Job | Event
    """The job, or the event about the file."""

    @property
    def is_job(self) -> bool:
        """Tell whether it became a job."""
        return isinstance(self.record, Job)

    @property
    def key(self) -> tuple[bool, int]:
        """Identify what ended."""
        return self.is_job, self.record.id


class Completion:
    """Collects what ends, from one snapshot after the other, and tells when nothing is left to do.

    Between the inbox and the queue a snapshot may show a file in neither, so all is done only when two snapshots in a
    row have nothing to do. What is new since the first snapshot is decided by numbers, never by the clock, which may
    be set back meanwhile.
    """

    def __init__(self) -> None:
        self._before: dict[tuple[bool, int], Job | Event] | None = None
        """What had ended at the first snapshot."""
        self._newest_job = 0
        self._unfinished: set[int] = set()
        self._ends: dict[tuple[bool, int], End] = {}
        self._last: End | None = None
        self._idle_snapshots = 0

    def update(self, snapshot: Status) -> bool:
        """Read a snapshot; return whether nothing is left to wait for."""
        still_open = [job for job in snapshot.jobs if job.state in OPEN_JOBS]
        ends = ends_in(snapshot)
        if self._before is None:
            self._begin(snapshot, still_open, ends)
        self._unfinished |= {job.id for job in still_open}
        self._ends |= {end.key: end for end in ends if self._is_ours(end)}
        self._last = ends[-1] if ends else self._last
        self._idle_snapshots = 0 if still_open or snapshot.waiting_files else self._idle_snapshots + 1
        return self._idle_snapshots > 1

    def _begin(self, snapshot: Status, still_open: list[Job], ends: list[End]) -> None:
        """Remember what had ended before, except files that were dropped together with the newest open job."""
        self._newest_job = max((job.id for job in snapshot.jobs), default=0)
        newest = max(still_open, key=lambda job: job.id, default=None)
        together = _events_with(newest, snapshot.events)
        self._before = {
            end.key: end.record for end in ends if end.is_job or together is None or end.record.id < together
        }

    def _is_ours(self, end: End) -> bool:
        before = (self._before or {}).get(end.key)
        if not isinstance(end.record, Job):
            return before is None
        is_new = end.record.id > self._newest_job or end.record.id in self._unfinished
        return is_new or (isinstance(before, Job) and _end_of(before) != _end_of(end.record))

    def results(self) -> list[End]:
        """Return what ended meanwhile; if nothing did, the last end before."""
        return list(self._ends.values()) or ([self._last] if self._last else [])


def _events_with(job: Job | None, events: Sequence[Event]) -> int | None:
    """Return the id of the first event of the step that queued a job: all events of a step have the same time."""
    if job is None:
        return None
    named = [event.id for event in events if event.data.get("job") == job.id or event.at == job.created_at]
    return min(named, default=None)


def _end_of(job: Job) -> tuple[object, ...]:
    """Return what changes when a job ends again."""
    return job.attempts, job.ended_at, job.state


def ends_in(snapshot: Status) -> list[End]:
    """Return all ends in a snapshot, the last one last."""
    order = ended_in(snapshot.events)
    files = [event for event in snapshot.events if event.name in {"failed", *GOOD} and "file" in event.data]
    ends = [(order(job), job_end(job)) for job in snapshot.jobs if job.state not in OPEN_JOBS]
    ends += [((event.id, 0), End(is_good=event.name in GOOD, record=event)) for event in files]
    return [end for _, end in sorted(ends, key=lambda pair: pair[0])]


def job_end(job: Job) -> End:
    """Return the end of a job; only a promoted one is good."""
    return End(is_good=job.state == JobState.PROMOTED, record=job)


def wait_for(
    fetch: Callable[[], Status],
    *,
    job: Callable[[], Job] | None,
    is_late: Callable[[], bool],
    rest: Callable[[Status], None],
) -> list[End]:
    """Fetch snapshots until all is done, or only the one ``job``; return what ended."""
    seen = Completion()
    while True:
        snapshot = fetch()
        one = job() if job else None
        if one and one.state not in OPEN_JOBS:
            return [job_end(one)]
        if seen.update(snapshot) and not one:
            return seen.results()
        if is_late():
            raise TransientError("timed out before everything was learned; see: lorad status", code="timeout")
        rest(snapshot)
