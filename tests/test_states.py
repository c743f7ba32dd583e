"""The law: what the tables allow, and that nothing else can happen."""

import ast
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lorad
from lorad.errors import RegistryError
from lorad.states import OPEN_JOBS, TRANSITIONS, DropState, JobState, VersionState, advance

KINDS = (DropState, JobState, VersionState)
SOURCES = Path(lorad.__file__).parent
STATES = [state for kind in KINDS for state in kind]
EVENTS = (
    *("accept", "cancel", "crash", "damage", "explode", "fail", "promote", "prune", "reject"),
    *("repeat", "requeue", "retry", "start", "trained"),
)


def name(state):
    return f"{type(state).__name__}.{state.name}"


def can(state):
    return {event for event in EVENTS if is_legal(state, event)}


def is_legal(state, event):
    try:
        advance(state, event)
    except RegistryError:
        return False
    return True


@pytest.mark.parametrize("state", STATES, ids=name)
def test_no_event_makes_one_kind_of_thing_another(state):
    # a drop that failed and a job that failed share a word, and must not share a row
    assert {type(advance(state, event)) for event in can(state)} <= {type(state)}


@pytest.mark.parametrize(
    ("start", "events", "end"),
    [
        (DropState.PROCESSING, "accept", DropState.ACCEPTED),
        (DropState.PROCESSING, "repeat", DropState.DUPLICATE),
        (DropState.PROCESSING, "fail", DropState.FAILED),
        (JobState.QUEUED, "start trained promote", JobState.PROMOTED),
        (JobState.QUEUED, "start trained reject", JobState.REJECTED),
        (JobState.QUEUED, "start trained reject retry", JobState.QUEUED),
        (JobState.QUEUED, "start crash", JobState.FAILED),
        (JobState.QUEUED, "start crash retry", JobState.QUEUED),
        (JobState.QUEUED, "start requeue", JobState.QUEUED),
        (JobState.QUEUED, "start trained requeue", JobState.QUEUED),
        (JobState.QUEUED, "start trained crash", JobState.FAILED),
        (JobState.QUEUED, "start cancel", JobState.CANCELLED),
        (JobState.QUEUED, "cancel retry", JobState.QUEUED),
        (VersionState.INTACT, "damage", VersionState.CORRUPT),
        (VersionState.INTACT, "damage prune", VersionState.PRUNED),
        (VersionState.INTACT, "prune", VersionState.PRUNED),
    ],
)
def test_the_ways_that_things_go(start, events, end):
    state = start
    for event in events.split():
        state = advance(state, event)

    assert state is end


@pytest.mark.parametrize(
    ("state", "allowed"),
    [
        (DropState.ACCEPTED, set()),
        (DropState.DUPLICATE, set()),
        (DropState.FAILED, set()),
        (JobState.QUEUED, {"start", "cancel"}),
        (JobState.JUDGING, {"promote", "reject", "crash", "requeue"}),
        (JobState.PROMOTED, set()),
        (JobState.REJECTED, {"retry"}),
        (JobState.CANCELLED, {"retry"}),
        (VersionState.INTACT, {"damage", "prune"}),
        (VersionState.PRUNED, set()),
    ],
)
def test_what_is_not_listed_cannot_happen(state, allowed):
    assert can(state) == allowed


def test_every_transition_has_a_caller():
    sources = [path for path in SOURCES.rglob("*.py") if path.name != "states.py"]
    said = {
        node.value
        for path in sources
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }

    assert {event for state in STATES for event in TRANSITIONS[type(state)][state]} <= said


def test_an_illegal_event_says_what_is_possible():
    with pytest.raises(RegistryError) as caught:
        advance(JobState.TRAINING, "promote")

    assert caught.value.as_dict() == {
        "code": "illegal_transition",
        "message": "a job that is training cannot promote; it can: cancel, crash, requeue, trained",
        "state": "training",
        "event": "promote",
    }


def test_an_illegal_event_on_a_final_state_says_so():
    with pytest.raises(
        RegistryError, match="a version that is pruned cannot damage; it can: nothing: it is final"
    ):
        advance(VersionState.PRUNED, "damage")


def test_a_job_that_is_not_open_moves_only_when_a_human_says_so():
    closed = [state for state in JobState if state not in OPEN_JOBS]

    assert set().union(*map(can, closed)) == {"retry"}
    assert all(can(state) - {"retry"} for state in OPEN_JOBS)


@given(
    start=st.sampled_from([DropState.PROCESSING, JobState.QUEUED, VersionState.INTACT]),
    choices=st.lists(st.integers(0, 99), max_size=12),
)
@settings(max_examples=60, deadline=None)
def test_no_sequence_of_events_leaves_the_table(start, choices):
    state = start
    for choice in choices:
        possible = sorted(can(state))
        if not possible:
            break
        state = advance(state, possible[choice % len(possible)])

        assert type(state) is type(start)
        assert not is_legal(state, "explode")
