"""Every state that a drop, a job or a version can be in, and every way out of it.

Rule 1: whatever changes a state goes through ``advance``; nobody assigns a state that it did not return.
Rule 2: an event that the table does not list is refused and changes nothing.
Rule 3: the tables are literal. What they do not show cannot happen.

A *drop* is a file in the inbox. It ends as ``accepted`` (its examples are in memory and a job is queued
for them) or ``failed`` (it lies in ``inbox/failed`` beside its reason), or as ``duplicate`` (every row was
already known). A *job* turns one drop into one session, its candidate and a verdict. A *version* is what
a promoted candidate becomes.
"""

from enum import StrEnum
from typing import TypeVar

from lorad.errors import RegistryError


class DropState(StrEnum):
    """Where a dropped file is on its way in."""

    PROCESSING = "processing"
    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    FAILED = "failed"


class JobState(StrEnum):
    """Where a job is on its way to a version."""

    QUEUED = "queued"
    TRAINING = "training"
    JUDGING = "judging"
    PROMOTED = "promoted"
    REJECTED = "rejected"
    FAILED = "failed"
    CANCELLED = "cancelled"


class VersionState(StrEnum):
    """What a version is good for."""

    INTACT = "intact"
    CORRUPT = "corrupt"
    PRUNED = "pruned"


State = DropState | JobState | VersionState

S = TypeVar("S", DropState, JobState, VersionState)

TRANSITIONS: dict[type[StrEnum], dict[State, dict[str, State]]] = {
    DropState: {
        DropState.PROCESSING: {
            "accept": DropState.ACCEPTED,
            "repeat": DropState.DUPLICATE,
            "fail": DropState.FAILED,
        },
        DropState.FAILED: {},
        DropState.ACCEPTED: {},
        DropState.DUPLICATE: {},
    },
    JobState: {
        JobState.QUEUED: {"start": JobState.TRAINING, "cancel": JobState.CANCELLED},
        JobState.TRAINING: {
            "trained": JobState.JUDGING,
            "crash": JobState.FAILED,
            "cancel": JobState.CANCELLED,
            "requeue": JobState.QUEUED,
        },
        JobState.JUDGING: {
            "promote": JobState.PROMOTED,
            "reject": JobState.REJECTED,
            "crash": JobState.FAILED,
            "requeue": JobState.QUEUED,
        },
        JobState.REJECTED: {"retry": JobState.QUEUED},
        JobState.FAILED: {"retry": JobState.QUEUED},
        JobState.CANCELLED: {"retry": JobState.QUEUED},
        JobState.PROMOTED: {},
    },
    VersionState: {
        VersionState.INTACT: {"damage": VersionState.CORRUPT, "prune": VersionState.PRUNED},
        VersionState.CORRUPT: {"prune": VersionState.PRUNED},
        VersionState.PRUNED: {},
    },
}
"""Every legal transition: ``TRANSITIONS[kind][state][event]`` is the next state.

By kind first: a failed drop and a failed job are the same word, so one flat table would mix them up.
"""

OPEN_JOBS = (JobState.QUEUED, JobState.TRAINING, JobState.JUDGING)
"""A job in one of these is still on its way; every other state waits for a human or is final."""


def advance(state: S, event: str) -> S:
    """Return the state that ``event`` leads to, or raise ``RegistryError`` and change nothing."""
    ways = TRANSITIONS[type(state)][state]
    following = ways.get(event)
    if following is None:
        allowed = ", ".join(sorted(ways)) or "nothing: it is final"
        raise RegistryError(
            f"a {type(state).__name__.removesuffix('State').lower()} that is {state} cannot {event}; it can: {allowed}",
            code="illegal_transition",
            state=str(state),
            event=event,
        )
    return following  # type: ignore[return-value]  # a table row never leaves its own enum; a test holds that
