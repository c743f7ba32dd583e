"""A loop's rule: when a wait is over, and what ended meanwhile. Snapshots in, an answer out.

What lives here: reading from snapshots what is unfinished and what ended. What never does: asking for a
snapshot, sleeping, clocks; ``wait_for`` is handed whatever does that.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lorad.errors import RetryLater
from lorad.states import OPEN_JOBS

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """Something that ended: a job, or a file that never became one."""

    at: float
    is_good: bool
    """Promoted, or a file of which every row was known already."""
    is_job: bool
    record: Record
    """The job, or the event that tells of the file."""

    @property
    def key(self) -> tuple[bool, int]:
        """Identify what ended."""
        return self.is_job, self.record["id"]


class Wait:
    """What ends while somebody waits: shown one snapshot after the other, it says when all is done.

    Between the inbox and the queue a file may be seen in neither, so all is done only when two snapshots
    in a row have nothing to do.
    """

    def __init__(self) -> None:
        self._since: float | None = None
        self._files_since = 0.0
        self._unfinished: set[int] = set()
        self._ends: dict[tuple[bool, int], End] = {}
        self._newest: End | None = None
        self._idle_looks = 0

    def look(self, snapshot: Record) -> bool:
        """Take in a snapshot; return whether nothing is left to wait for."""
        still_open = [job for job in snapshot["jobs"] if job["state"] in OPEN_JOBS]
        if self._since is None:
            self._since = snapshot["now"]
            # what was dropped together with the newest job may have failed before anybody could look
            self._files_since = max((job["created_at"] for job in still_open), default=self._since)
        unfinished = {job["id"] for job in still_open}
        self._unfinished |= unfinished
        ends = ends_in(snapshot)
        ours = [end for end in ends if self._is_ours(end)]
        self._ends |= {end.key: end for end in ours}
        before = [self._newest] if self._newest else []
        self._newest = max([*before, *ends], key=lambda end: end.at, default=None)
        self._idle_looks = 0 if unfinished or snapshot["waiting_files"] else self._idle_looks + 1
        return self._idle_looks > 1

    def _is_ours(self, end: End) -> bool:
        if end.is_job:
            return end.at >= (self._since or 0.0) or end.record["id"] in self._unfinished
        return end.at >= self._files_since

    def results(self) -> list[End]:
        """Return what ended meanwhile; when nothing did, what had ended last before."""
        return sorted(self._ends.values(), key=lambda end: end.at) or ([self._newest] if self._newest else [])


def ends_in(snapshot: Record) -> list[End]:
    """Return every end that a snapshot still tells of."""
    files = [
        event for event in snapshot["events"] if event["name"] in {"failed", "repeated"} and "file" in event
    ]
    return [job_end(job) for job in snapshot["jobs"] if job["state"] not in OPEN_JOBS] + [
        End(at=event["at"], is_good=event["name"] == "repeated", is_job=False, record=event)
        for event in files
    ]


def job_end(job: Record) -> End:
    """Return how a job ended; only a promoted one ended well."""
    return End(at=job["ended_at"], is_good=job["state"] == "promoted", is_job=True, record=job)


def wait_for(
    fetch: Callable[[], Record],
    *,
    job: Callable[[], Record] | None,
    is_late: Callable[[], bool],
    rest: Callable[[Record], None],
) -> list[End]:
    """Look again and again until all is done, or only the one ``job``; return what ended."""
    seen = Wait()
    while True:
        snapshot = fetch()
        one = job() if job else None
        if one and one["state"] not in OPEN_JOBS:
            return [job_end(one)]
        if seen.look(snapshot) and not one:
            return seen.results()
        if is_late():
            raise RetryLater(
                "the time is up, and lorad is not done; look at it with: lorad status", code="timeout"
            )
        rest(snapshot)
